"""CMT's training on 8 GPUs: AdamW with one cycle over 20 epochs, mixed precision, GT sampling off for the last five."""

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=20, val_interval=20)
optim_wrapper = dict(
    # Half precision with the voxel encoder, the sparse encoder and the head kept in float32 by the detector itself.
    type="AmpOptimWrapper",
    loss_scale="dynamic",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys=dict(img_backbone=dict(lr_mult=0.01, decay_mult=5.0), img_neck=dict(lr_mult=0.1)),
    ),
    clip_grad=dict(max_norm=35, norm_type=2),
)
# One cycle: up for 40 % of the training, then down. As ratios: an absolute eta_min would lift the image backbone, at a
# hundredth of the rate, to the rate of the rest.
param_scheduler = [
    dict(
        type="CosineAnnealingLR", begin=0, end=8, T_max=8, eta_min_ratio=8.0,
        by_epoch=True, convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR", begin=8, end=20, T_max=12, eta_min_ratio=1e-4,
        by_epoch=True, convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingMomentum", begin=0, end=8, T_max=8, eta_min_ratio=0.8947368421052632,
        by_epoch=True, convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingMomentum", begin=8, end=20, T_max=12, eta_min_ratio=1.0,
        by_epoch=True, convert_to_iter_based=True,
    ),
]  # fmt: skip
# The r50 and LiDAR configs rise to 6 times their rate, the two with VoVNet to 8.
gentle_param_scheduler = [dict(param_scheduler[0], eta_min_ratio=6.0), *param_scheduler[1:]]
auto_scale_lr = dict(enable=False, base_batch_size=16)
custom_hooks = [
    dict(type="StopObjectSample", after_epoch=15),
    dict(type="SeedEpochs", seed=0),
    dict(type="LossCurve", every=50),
    dict(type="Progress", every=50),
]
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=True, max_keep_ckpts=2, save_optimizer=True),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
visualizer = dict(type="Visualizer", vis_backends=[])
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
log_level = "WARNING"
# The paper starts from image backbones trained elsewhere: ResNet-50 on nuImages, VoVNet by FCOS3D. Give such a file
# (its names begin with img_backbone.) as load_from; without it the image backbone starts from random weights.
load_from = None
resume = False
