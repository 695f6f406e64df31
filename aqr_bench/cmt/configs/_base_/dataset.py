"""mmdet3d's nuScenes data set, for every tier: real or synthetic, whatever the model."""

default_scope = "mmdet3d"

# CMT's class order, not mmdet3d's.
class_names = [
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
]  # fmt: skip
data_root = "data/nuscenes/"
dataset = dict(
    type="NuScenesDataset",
    data_root=data_root,
    data_prefix=dict(
        pts="samples/LIDAR_TOP",
        sweeps="sweeps/LIDAR_TOP",
        CAM_FRONT="samples/CAM_FRONT",
        CAM_FRONT_RIGHT="samples/CAM_FRONT_RIGHT",
        CAM_FRONT_LEFT="samples/CAM_FRONT_LEFT",
        CAM_BACK="samples/CAM_BACK",
        CAM_BACK_LEFT="samples/CAM_BACK_LEFT",
        CAM_BACK_RIGHT="samples/CAM_BACK_RIGHT",
    ),
    modality=dict(use_lidar=True, use_camera=True),
    metainfo=dict(classes=class_names, version="v1.0-trainval"),
    box_type_3d="LiDAR",
    filter_empty_gt=False,
)
