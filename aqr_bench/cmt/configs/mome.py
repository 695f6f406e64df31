"""MoME (CVPR 2025): three experts of one decoder and a router for every query; 73.6 NDS published for nuScenes val.

Second stage of training: start it from weights of ``moad_voxel0075_vov_1600x640_cbgs`` (``load_from``). The router
alone learns, from the sensors that are blanked in half of the samples. It has the 6 epochs of the authors' config; in
their table they are 2.

The router's windows have the defects of the official code, which the published weights were trained with:
``model.pts_bbox_head.official_quirks = False`` is without them.
"""

_base_ = ["./moad_voxel0075_vov_1600x640_cbgs.py"]

train_pipeline = [
    *[step for step in _base_.train_steps if step["type"] != "UnifiedObjectSample"],
    dict(type="ResizeCropFlipImage", data_aug_conf=_base_.image_size, training=True),
    _base_.train_pack,
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))

model = dict(
    frozen=["pts_voxel_encoder", "pts_middle_encoder", "pts_backbone", "pts_neck", "img_backbone", "img_neck"],
    pts_bbox_head=dict(
        type="MultiExpertDecoding",
        stage="router",
        official_quirks=True,
        modalities=dict(test=["fused", "bev", "img"]),
        transformer=dict(
            type="MultiExpert",
            window_sizes=[15, 5],  # camera, BEV
            encoder=dict(
                type="PETRTransformerDecoder",
                return_intermediate=True,
                num_layers=1,
                transformerlayers=dict(
                    type="PETRTransformerDecoderLayer",
                    with_cp=False,
                    attn_cfgs=[dict(type="MultiheadAttention", embed_dims=256, num_heads=4, dropout=0.1)],
                    ffn_cfgs=dict(
                        type="FFN",
                        embed_dims=256,
                        feedforward_channels=1024,
                        num_fcs=2,
                        ffn_drop=0.0,
                        act_cfg=dict(type="ReLU", inplace=True),
                    ),
                    operation_order=("cross_attn", "norm", "ffn", "norm"),
                ),
            ),
        ),
    ),
)

_epochs = 6
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=_epochs, val_interval=_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, begin=0, end=1000, by_epoch=False),
    dict(
        type="CosineAnnealingLR", begin=0, end=_epochs, T_max=_epochs, eta_min_ratio=1e-3,
        by_epoch=True, convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingMomentum", begin=0, end=2.4, T_max=2.4, eta_min_ratio=0.8947368421052632,
        by_epoch=True, convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingMomentum", begin=2.4, end=_epochs, T_max=3.6, eta_min_ratio=1.0,
        by_epoch=True, convert_to_iter_based=True,
    ),
]  # fmt: skip
custom_hooks = [hook for hook in _base_.custom_hooks if hook["type"] != "StopObjectSample"]
