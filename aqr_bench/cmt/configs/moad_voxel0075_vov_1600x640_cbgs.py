"""MoME's first stage: CMT, LiDAR and cameras, VoVNet-99 at 1600x640, whose decoder learns to be each of three experts.

Its inference is that of the fused expert. No sensor dropout in training, as in the authors' config. The second stage is
the config ``mome``.
"""

_base_ = ["./_base_/fusion.py"]

image_size = dict(_base_.recorded_image, final_dim=(640, 1600), resize_lim=(0.94, 1.25))
train_pipeline = [
    *[step for step in _base_.train_steps if step["type"] != "SensorDropout"],
    dict(type="ResizeCropFlipImage", data_aug_conf=image_size, training=True),
    _base_.train_pack,
]
test_pipeline = [
    *_base_.test_steps,
    dict(type="ResizeCropFlipImage", data_aug_conf=image_size, training=False),
    _base_.fingerprint,
    _base_.test_pack,
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

model = dict(
    **_base_.vovnet_branch,
    pts_bbox_head=dict(
        type="MEFormerHead",
        modalities=dict(train=["fused", "bev", "img"], test=["fused"]),
        transformer=dict(type="MOADTransformer", use_type_embed=True, use_cam_embed=True),
    ),
)
param_scheduler = _base_.gentle_param_scheduler
