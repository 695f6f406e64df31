"""Quick tier: a small CMT that trains on one CPU core in minutes, with the same parts as the full model.

Range +-32.0 m, pillars of 0.4 m (160 x 160), 40 x 40 BEV tokens; six cameras of 96 x 176 pixels, 12 x 22 tokens each.
Variants change ``model.pts_bbox_head.aqr`` (empty here: plain CMT).
"""

point_cloud_range = [-32.0, -32.0, -5.0, 32.0, 32.0, 3.0]
voxel_size = [0.4, 0.4, 8.0]
_class_names = [
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
]
_hidden, _heads, _layers = 64, 4, 2
# Velocities count more than in CMT (0.2), whose schedule is a hundred times as long.
_code_weights = [2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5]
# Group norm: the statistics of a batch would mix samples with and without a sensor.
_norm = dict(type="GN", num_groups=8)

model = dict(
    type="CmtDetector",
    use_grid_mask=False,
    channels_last=True,
    frozen=[],
    features_only=None,
    sync_factors=True,
    data_preprocessor=dict(
        type="Det3DDataPreprocessor",
        voxel=False,
        mean=[103.530, 116.280, 123.675],
        std=[57.375, 57.120, 58.395],
        bgr_to_rgb=False,
        pad_size_divisor=16,
    ),
    pts_voxel_layer=dict(
        num_point_features=5,
        # The sweep comes after the keyframe, so a full pillar holds no point that shows motion: with 10, objects nearer
        # than 16 m lose 84 to 95 % of them.
        max_num_points=32,
        voxel_size=voxel_size,
        max_voxels=(12000, 12000),
        point_cloud_range=point_cloud_range,
    ),
    pts_voxel_encoder=dict(
        type="SparsePillarFeatureNet",
        split_sweeps=True,
        # x, y, z, intensity, time lag; offsets to the pillar's mean; offsets to its centre.
        input_scale=[1 / 40, 1 / 40, 1.0, 1 / 64, 4.0, 5.0, 5.0, 3.0, 5.0, 5.0, 1.0],
        in_channels=5,
        feat_channels=[24],
        voxel_size=voxel_size,
        point_cloud_range=point_cloud_range,
        norm_cfg=dict(type="BN1d", eps=1e-3, momentum=0.1),
    ),
    pts_middle_encoder=dict(type="PointPillarsScatter", in_channels=48, output_shape=[160, 160]),
    pts_backbone=dict(
        type="SECOND",
        in_channels=48,
        out_channels=[32, 64],
        layer_nums=[1, 2],
        layer_strides=[2, 2],
        norm_cfg=_norm,
        conv_cfg=dict(type="Conv2d", bias=False),
    ),
    pts_neck=dict(
        type="SECONDFPN",
        in_channels=[32, 64],
        out_channels=[32, 64],
        upsample_strides=[0.5, 1],
        norm_cfg=_norm,
        upsample_cfg=dict(type="deconv", bias=False),
        use_conv_for_no_stride=True,
    ),
    img_backbone=dict(
        type="ResNet",
        depth=18,
        base_channels=16,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(1, 2),
        norm_cfg=_norm,
        norm_eval=False,
        style="pytorch",
    ),
    # The head reads level 0, stride 8.
    img_neck=dict(type="CPFPN", in_channels=[32, 64], out_channels=_hidden, num_outs=2),
    auxiliary=dict(
        type="AuxiliaryHeatmaps",
        bev_channels=96,
        image_channels=_hidden,
        num_classes=10,
        pc_range=point_cloud_range,
        loss_weight=1.0,
        bev_code_weights=[0.05, 0.05, 0.1, 0.1, 0.1, 0.1, 0.5, 0.5, 0.1, 0.1],
    ),
    pts_bbox_head=dict(
        type="CmtHead",
        in_channels=96,
        hidden_dim=_hidden,
        num_query=144,
        depth_num=16,
        scalar=4,
        downsample_scale=4,
        reference_init="grid",
        centre_offset="metres",
        refine_reference=True,
        split=1.24,
        common_heads=dict(center=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2)),
        tasks=[dict(num_class=10, class_names=_class_names)],
        locality=dict(bev_sigma=[1.2, 1.6, 2.4, 4.0], angle_sigma=[0.06, 0.08, 0.12, 0.2], depth_sigma=0.2),
        image_points=dict(hidden=64, loss_weight=1.0),
        aqr=dict(),
        attention_backend="auto",
        attention_dtype="float32",
        bbox_coder=dict(
            type="MultiTaskBBoxCoder",
            post_center_range=[-40.0, -40.0, -10.0, 40.0, 40.0, 10.0],
            pc_range=point_cloud_range,
            max_num=120,
            voxel_size=voxel_size,
            num_classes=10,
        ),
        separate_head=dict(type="SeparateTaskHead", head_conv=32, init_bias=-2.19, final_kernel=1),
        transformer=dict(
            type="CmtTransformer",
            decoder=dict(
                type="PETRTransformerDecoder",
                return_intermediate=True,
                num_layers=_layers,
                transformerlayers=dict(
                    type="PETRTransformerDecoderLayer",
                    attn_cfgs=[
                        dict(type="MultiheadAttention", embed_dims=_hidden, num_heads=_heads, dropout=0.0),
                        dict(
                            type="PETRMultiheadFlashAttention",
                            embed_dims=_hidden,
                            num_heads=_heads,
                            dropout=0.0,
                            offset_values="points",
                        ),
                    ],
                    ffn_cfgs=dict(
                        type="FFN",
                        embed_dims=_hidden,
                        feedforward_channels=192,
                        num_fcs=2,
                        ffn_drop=0.0,
                        act_cfg=dict(type="ReLU", inplace=True),
                    ),
                    operation_order=("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
                ),
            ),
        ),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, reduction="mean", loss_weight=2.0),
        loss_bbox=dict(type="L1Loss", reduction="mean", loss_weight=0.25),
    ),
    train_cfg=dict(
        pts=dict(
            assigner=dict(
                type="HungarianAssigner3D",
                cls_cost=dict(type="FocalLossCost", weight=2.0),
                reg_cost=dict(type="BBox3DL1Cost", weight=0.25),
                iou_cost=dict(type="IoUCost", weight=0.0),
                pc_range=point_cloud_range,
                code_weights=_code_weights,
            ),
            grid_size=[160, 160, 1],
            code_weights=_code_weights,
        )
    ),
    test_cfg=dict(pts=dict(grid_size=[160, 160, 1])),
)
