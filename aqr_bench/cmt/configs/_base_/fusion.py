"""CMT with both sensors: the LiDAR branch, and the pipelines up to where the image size comes in."""

_base_ = ["./nuscenes.py", "./model.py", "./schedule_20e.py"]

model = dict(use_grid_mask=True, **_base_.lidar_branch)

train_steps = [
    dict(type="CheckFrame"),
    _base_.load_points,
    _base_.train_sweeps,
    _base_.load_images,
    _base_.add_projections,
    _base_.load_boxes,
    _base_.paste_objects,
    _base_.modal_mask,
    *_base_.bev_augmentation,
    *_base_.keep_in_range,
]
train_pack = dict(
    type="Pack3DDetInputs", keys=["points", "img", "gt_bboxes_3d", "gt_labels_3d"], meta_keys=_base_.meta_keys
)
test_steps = [
    dict(type="CheckFrame"),
    _base_.load_points,
    _base_.load_images,
    _base_.condition,
    _base_.test_sweeps,
    _base_.add_projections,
    _base_.in_range,
]
test_pack = dict(type="Pack3DDetInputs", keys=["points", "img"], meta_keys=_base_.meta_keys)
