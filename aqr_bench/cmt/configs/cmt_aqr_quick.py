"""Quick tier: a small CMT on the synthetic world, trained on two CPU cores; data, schedule and evaluation."""

_base_ = ["./cmt_aqr_quick_model.py", "./_base_/dataset.py"]

custom_imports = dict(
    imports=["aqr_bench.cmt", "aqr_bench.data.transforms", "aqr_bench.data.conditions", "aqr_bench.engine.hooks"]
)

point_cloud_range = [-32.0, -32.0, -5.0, 32.0, 32.0, 3.0]
image_size = (96, 176)  # height, width
sweeps_num = 1

load = [
    dict(type="CheckFrame"),
    dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=5, use_dim=5),
]
sweeps = [dict(type="LoadPoseCorrectedSweeps", sweeps_num=sweeps_num, use_dim=[0, 1, 2, 3, 4], test_mode=True)]
load_images = dict(type="LoadViewImages")
cameras = [
    dict(type="AddProjections"),
    dict(type="ResizeViews", size=image_size),
]
meta_keys = (
    "sample_idx", "token", "lidar2img", "img_shape", "pad_shape",
    "box_type_3d", "box_mode_3d", "sensor_state", "cameras", "input_proof",
)  # fmt: skip

train_pipeline = [
    *load,
    *sweeps,
    load_images,
    *cameras,
    dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
    dict(type="SensorDropout", lidar=0.35, cameras=0.2),
    dict(type="RandomRotate180", prob=0.5),
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectNameFilter", classes=_base_.class_names),
    dict(type="Pack3DDetInputs", keys=["points", "img", "gt_bboxes_3d", "gt_labels_3d"], meta_keys=meta_keys),
]
test_pipeline = [
    *load,
    load_images,
    dict(type="SensorCondition", name="clean", seed=0, sweeps_num=sweeps_num),
    *sweeps,
    *cameras,
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="InputFingerprint"),
    dict(type="Pack3DDetInputs", keys=["points", "img"], meta_keys=meta_keys),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        _base_.dataset, ann_file="infos_train.pkl", pipeline=train_pipeline, test_mode=False, use_valid_flag=False
    ),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(_base_.dataset, ann_file="infos_val.pkl", pipeline=test_pipeline, test_mode=True),
)

train_cfg = dict(type="IterBasedTrainLoop", max_iters=1000, val_interval=10**9)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=3e-3, weight_decay=0.01),
    # No clipping by norm: the first self-attention adds to zeros, so the LayerNorm behind it multiplies the gradient of
    # a few biases by 300, and their norm would decide the step of everything else.
    clip_grad=None,
)
param_scheduler = [
    dict(type="OneCycleLR", eta_max=3e-3, total_steps=1000, pct_start=0.15, by_epoch=False),
]
custom_hooks = [
    # ExpMomentumEMA follows closely at first: a plain average of a short run still holds its random start.
    dict(type="EMAHook", ema_type="mmdet.ExpMomentumEMA", momentum=0.005, gamma=100, update_buffers=True),
    dict(type="SeedIterations", seed=0),
    dict(type="LossCurve", every=10),
    dict(type="Progress", every=50),
]
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=50, by_epoch=False, max_keep_ckpts=2, save_optimizer=True),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=1))
visualizer = dict(type="Visualizer", vis_backends=[])
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=False)
log_level = "WARNING"
load_from = None
resume = False
