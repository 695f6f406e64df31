"""mmdet3d's CenterPoint with pillars, made small for the synthetic world: 32 m, pillars of 0.5 m, LiDAR alone.

An ordinary mmdet3d config: it starts from the model that mmdet3d ships and says what differs.
"""

_base_ = ["mmdet3d::_base_/models/centerpoint_pillar02_second_secfpn_nus.py"]

default_scope = "mmdet3d"
# spconv's voxelisation, and conditions while it trains. Of a detector of your own, name the module here as well.
custom_imports = dict(
    imports=["aqr_bench.cmt", "aqr_bench.cmt.preprocessor", "aqr_bench.data.conditions"], allow_failed_imports=False
)

point_cloud_range = [-32.0, -32.0, -5.0, 32.0, 32.0, 3.0]
voxel_size = [0.5, 0.5, 8.0]
grid_size = [128, 128, 1]
stride = 2  # of the map that objects are found on: cells of 1 m
class_names = [
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
]  # fmt: skip

norm = dict(type="BN", eps=1e-3, momentum=0.1)
model = dict(
    data_preprocessor=dict(
        _delete_=True,
        type="SpconvDataPreprocessor",
        voxel_layer=dict(
            max_num_points=10,
            voxel_size=voxel_size,
            max_voxels=(10000, 10000),
            point_cloud_range=point_cloud_range,
        ),
    ),
    # PillarFeatureNet on the points that exist: several times faster on a CPU, where padding costs as much as points.
    pts_voxel_encoder=dict(
        type="SparsePillarFeatureNet",
        input_scale=[1 / 40, 1 / 40, 1.0, 1 / 64, 4.0, 5.0, 5.0, 3.0, 4.0, 4.0, 1.0],
        feat_channels=[32],
        voxel_size=voxel_size,
        point_cloud_range=point_cloud_range,
        norm_cfg=dict(momentum=0.1),
    ),
    pts_middle_encoder=dict(in_channels=32, output_shape=grid_size[:2]),
    pts_backbone=dict(in_channels=32, out_channels=[32, 64], layer_nums=[1, 2], layer_strides=[2, 2], norm_cfg=norm),
    pts_neck=dict(in_channels=[32, 64], out_channels=[32, 32], upsample_strides=[1, 2], norm_cfg=norm),
    pts_bbox_head=dict(
        in_channels=64,
        share_conv_channel=32,
        tasks=[dict(num_class=10, class_names=class_names)],
        bbox_coder=dict(
            post_center_range=[-40.0, -40.0, -10.0, 40.0, 40.0, 10.0],
            max_num=200,
            score_threshold=0.03,
            out_size_factor=stride,
            voxel_size=voxel_size[:2],
            pc_range=point_cloud_range[:2],
        ),
        separate_head=dict(head_conv=16),
    ),
    train_cfg=dict(
        pts=dict(
            grid_size=grid_size,
            voxel_size=voxel_size,
            out_size_factor=stride,
            point_cloud_range=point_cloud_range,
            max_objs=100,
        )
    ),
    test_cfg=dict(
        pts=dict(
            post_center_limit_range=[-40.0, -40.0, -10.0, 40.0, 40.0, 10.0],
            pc_range=point_cloud_range[:2],
            out_size_factor=stride,
            voxel_size=voxel_size[:2],
            nms_type="circle",
            min_radius=[0.8],
        )
    ),
)

dataset = dict(
    type="NuScenesDataset",
    data_root="data/nuscenes/",
    data_prefix=dict(pts="samples/LIDAR_TOP", sweeps="sweeps/LIDAR_TOP"),
    modality=dict(use_lidar=True, use_camera=False),
    metainfo=dict(classes=class_names, version="v1.0-trainval"),
    box_type_3d="LiDAR",
)
load = dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=5, use_dim=5)
sweeps = dict(type="LoadPointsFromMultiSweeps", sweeps_num=1, use_dim=[0, 1, 2, 3, 4], test_mode=True)
train_pipeline = [
    load,
    # Off; a variant switches it on.
    dict(
        type="RandomCondition",
        names=["multicorrupt.beamsreducing@2", "multicorrupt.pointsreducing@2", "nuscenes_c.gaussian_lidar@3"],
        prob=0.0,
        sweeps_num=1,
    ),
    sweeps,
    dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
    # No augmentation: no frame is seen three times. In a mirrored world, besides, traffic keeps to the other side, and
    # nothing would tell the front of a car from its back.
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectNameFilter", classes=class_names),
    dict(type="PointShuffle"),
    dict(type="Pack3DDetInputs", keys=["points", "gt_bboxes_3d", "gt_labels_3d"]),
]
test_pipeline = [
    load,
    sweeps,
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="Pack3DDetInputs", keys=["points"]),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(dataset, ann_file="infos_train.pkl", pipeline=train_pipeline, test_mode=False),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(dataset, ann_file="infos_val.pkl", pipeline=test_pipeline, test_mode=True),
)

train_cfg = dict(type="IterBasedTrainLoop", max_iters=700, val_interval=10**9)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=3e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [dict(type="OneCycleLR", eta_max=3e-3, total_steps=700, pct_start=0.15, by_epoch=False)]
default_hooks = dict(checkpoint=dict(type="CheckpointHook", interval=100, by_epoch=False, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)
log_level = "WARNING"
