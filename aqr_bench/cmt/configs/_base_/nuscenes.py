"""nuScenes as CMT sees it: classes, range, data set, and the steps that the pipelines of the configs are made of."""

_base_ = ["./dataset.py"]

custom_imports = dict(
    imports=[
        "aqr_bench.cmt",
        "aqr_bench.data.transforms",
        "aqr_bench.data.bev_image_augmentation",
        "aqr_bench.data.cbgs",
        "aqr_bench.data.gt_sampling",
        "aqr_bench.data.conditions",
        "aqr_bench.engine.hooks",
    ]
)

point_cloud_range = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]

# ---------------------------------------------------------------- steps of the pipelines
load_points = dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=5, use_dim=[0, 1, 2, 3, 4])
train_sweeps = dict(type="LoadPoseCorrectedSweeps", sweeps_num=10, use_dim=[0, 1, 2, 3, 4])
test_sweeps = dict(type="LoadPoseCorrectedSweeps", sweeps_num=10, use_dim=[0, 1, 2, 3, 4], test_mode=True)
load_images = dict(type="LoadViewImages")
add_projections = dict(type="AddProjections")
load_boxes = dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True)
db_sampler = dict(
    type="UnifiedDataBaseSampler",
    data_root=None,
    info_path=_base_.data_root + "dbinfos_train.pkl",
    rate=1.0,
    prepare=dict(filter_by_difficulty=[-1], filter_by_min_points=dict.fromkeys(_base_.class_names, 5)),
    classes=_base_.class_names,
    sample_groups=dict(
        car=2, truck=3, construction_vehicle=7, bus=4, trailer=6,
        barrier=2, motorcycle=6, bicycle=6, pedestrian=2, traffic_cone=2,
    ),
    points_loader=load_points,
)  # fmt: skip
sample_objects = dict(type="UnifiedObjectSample", db_sampler=db_sampler)
paste_objects = dict(type="UnifiedObjectSample", sample_2d=True, mixup_rate=0.5, db_sampler=db_sampler)
modal_mask = dict(type="SensorDropout", lidar=0.25, cameras=0.25)
bev_augmentation = [
    dict(
        type="GlobalRotScaleTransAll",
        rot_range=[-0.785, 0.785],
        scale_ratio_range=[0.9, 1.1],
        translation_std=[0.5, 0.5, 0.5],
    ),
    dict(type="CustomRandomFlip3D", flip_ratio_bev_horizontal=0.5, flip_ratio_bev_vertical=0.5),
]
in_range = dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range)
keep_in_range = [
    in_range,
    dict(type="ObjectRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectNameFilter", classes=_base_.class_names),
    dict(type="PointShuffle"),
]
# What the recorded images are, for ResizeCropFlipImage; each config adds final_dim and resize_lim.
recorded_image = dict(H=900, W=1600, bot_pct_lim=(0.0, 0.0), rot_lim=(0.0, 0.0), rand_flip=True)
# On raw data: behind the loaders of key frame and images, before sweeps are merged and projections computed.
condition = dict(type="SensorCondition", name="clean", seed=0, sweeps_num=10)
fingerprint = dict(type="InputFingerprint")
meta_keys = (
    "sample_idx", "token", "lidar2img", "img_shape", "pad_shape", "pcd_rotation", "pcd_scale_factor", "pcd_trans",
    "pcd_horizontal_flip", "pcd_vertical_flip", "box_type_3d", "box_mode_3d", "sensor_state", "cameras", "input_proof",
)  # fmt: skip

# ---------------------------------------------------------------- data set and loaders
# The pipelines are filled in by each config.
train_dataloader = dict(
    batch_size=2,
    num_workers=6,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="BalancedDataset",
        dataset=dict(_base_.dataset, ann_file="infos_train.pkl", pipeline=[], test_mode=False, use_valid_flag=False),
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=6,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(_base_.dataset, ann_file="infos_val.pkl", pipeline=[], test_mode=True),
)
test_cfg = dict(type="TestLoop")
test_evaluator = dict(
    type="NuScenesMetric", data_root=_base_.data_root, ann_file=_base_.data_root + "infos_val.pkl", metric="bbox"
)
