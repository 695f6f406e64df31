"""CMT on cameras alone, VoVNet-99 at 1600x640: 40.6 mAP and 46.0 NDS published for nuScenes val.

No GT sampling, no flips in BEV, and a narrower rotation and scale than with LiDAR.
"""

_base_ = ["./_base_/nuscenes.py", "./_base_/model.py", "./_base_/schedule_20e.py"]

modality = dict(use_lidar=False, use_camera=True)
image_size = dict(_base_.recorded_image, final_dim=(640, 1600), resize_lim=(0.94, 1.25))
train_pipeline = [
    dict(type="CheckFrame", lidar=False),
    _base_.load_images,
    _base_.add_projections,
    _base_.load_boxes,
    dict(
        type="GlobalRotScaleTransImage",
        rot_range=[-0.3925, 0.3925],
        scale_ratio_range=[0.95, 1.05],
        translation_std=[0.0, 0.0, 0.0],
    ),
    dict(type="ObjectRangeFilter", point_cloud_range=_base_.point_cloud_range),
    dict(type="ObjectNameFilter", classes=_base_.class_names),
    dict(type="ResizeCropFlipImage", data_aug_conf=image_size, training=True),
    dict(type="Pack3DDetInputs", keys=["img", "gt_bboxes_3d", "gt_labels_3d"], meta_keys=_base_.meta_keys),
]
test_pipeline = [
    dict(type="CheckFrame", lidar=False),
    _base_.load_images,
    _base_.condition,
    _base_.add_projections,
    dict(type="ResizeCropFlipImage", data_aug_conf=image_size, training=False),
    _base_.fingerprint,
    dict(type="Pack3DDetInputs", keys=["img"], meta_keys=_base_.meta_keys),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline, modality=modality)))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline, modality=modality))

model = dict(
    **_base_.vovnet_branch,
    pts_bbox_head=dict(type="CmtImageHead", transformer=dict(type="CmtImageTransformer")),
)
# No GT sampling, so none to be stopped.
custom_hooks = [hook for hook in _base_.custom_hooks if hook["type"] != "StopObjectSample"]
