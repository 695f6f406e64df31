"""MoME's first stage: CMT, LiDAR and cameras, VoVNet-99 at 1600x640, whose decoder learns to be each of three experts.

Its inference is that of the fused expert. No sensor dropout in training, as in the authors' config. The second stage is
the config ``mome``.
"""

_base_ = ["./cmt_voxel0075_vov_1600x640_cbgs.py"]

train_pipeline = [
    *[step for step in _base_.train_steps if step["type"] != "SensorDropout"],
    dict(type="ResizeCropFlipImage", data_aug_conf=_base_.image_size, training=True),
    _base_.train_pack,
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))

model = dict(
    pts_bbox_head=dict(
        type="MEFormerHead",
        modalities=dict(train=["fused", "bev", "img"], test=["fused"]),
        transformer=dict(type="MOADTransformer", use_type_embed=True, use_cam_embed=True),
    ),
)
param_scheduler = _base_.gentle_param_scheduler
