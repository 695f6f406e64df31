"""What the four models share: detector, head, matching, losses. Their own parts are variables here, used by name."""

_point_cloud_range = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
_class_names = [
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
]  # fmt: skip
_voxel_size = [0.075, 0.075, 0.2]
_code_weights = [2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2]
_grid = dict(
    dataset="nuScenes", grid_size=[1440, 1440, 40], out_size_factor=8, voxel_size=_voxel_size,
)  # fmt: skip
_batch_norm = dict(type="BN", eps=1e-3, momentum=0.01)
_attention = dict(embed_dims=256, num_heads=8, dropout=0.1)

# ---------------------------------------------------------------- LiDAR branch
lidar_branch = dict(
    pts_voxel_layer=dict(
        num_point_features=5,
        max_num_points=10,
        voxel_size=_voxel_size,
        max_voxels=(120000, 160000),
        point_cloud_range=_point_cloud_range,
    ),
    pts_voxel_encoder=dict(type="HardSimpleVFE", num_features=5),
    pts_middle_encoder=dict(
        type="SparseEncoder",
        in_channels=5,
        sparse_shape=[41, 1440, 1440],
        output_channels=128,
        order=("conv", "norm", "act"),
        encoder_channels=((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128)),
        encoder_paddings=((0, 0, 1), (0, 0, 1), (0, 0, [0, 1, 1]), (0, 0)),
        block_type="basicblock",
    ),
    pts_backbone=dict(
        type="SECOND",
        in_channels=256,
        out_channels=[128, 256],
        layer_nums=[5, 5],
        layer_strides=[1, 2],
        norm_cfg=_batch_norm,
        conv_cfg=dict(type="Conv2d", bias=False),
    ),
    pts_neck=dict(
        type="SECONDFPN",
        in_channels=[128, 256],
        out_channels=[256, 256],
        upsample_strides=[1, 2],
        norm_cfg=_batch_norm,
        upsample_cfg=dict(type="deconv", bias=False),
        use_conv_for_no_stride=True,
    ),
)

# ---------------------------------------------------------------- image branches
vovnet_branch = dict(
    img_backbone=dict(
        type="VoVNet",
        spec_name="V-99-eSE",
        norm_eval=True,
        frozen_stages=-1,
        input_ch=3,
        out_features=("stage4", "stage5"),
    ),
    img_neck=dict(type="CPFPN", in_channels=[768, 1024], out_channels=256, num_outs=2),
)
resnet_branch = dict(
    img_backbone=dict(
        type="ResNet",
        depth=50,
        num_stages=4,
        out_indices=(2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=True,
        with_cp=True,
        style="pytorch",
    ),
    img_neck=dict(type="CPFPN", in_channels=[1024, 2048], out_channels=256, num_outs=2),
)

# ---------------------------------------------------------------- detector and head
model = dict(
    type="CmtDetector",
    use_grid_mask=False,
    consistent_grid=False,
    frozen=(),
    data_preprocessor=dict(
        type="Det3DDataPreprocessor",
        voxel=False,
        mean=[103.530, 116.280, 123.675],
        std=[57.375, 57.120, 58.395],
        bgr_to_rgb=False,
        pad_size_divisor=32,
    ),
    pts_bbox_head=dict(
        type="CmtHead",
        in_channels=512,
        hidden_dim=256,
        num_query=900,
        depth_num=64,
        downsample_scale=8,
        scalar=10,
        noise_scale=1.0,
        noise_trans=0.0,
        dn_weight=1.0,
        split=0.75,
        common_heads=dict(center=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2)),
        tasks=[dict(num_class=10, class_names=_class_names)],
        aqr=dict(),  # keyword arguments of the router and its bias; empty: plain CMT
        attention_backend="auto",
        attention_dtype="float32",
        bbox_coder=dict(
            type="MultiTaskBBoxCoder",
            post_center_range=[-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
            pc_range=_point_cloud_range,
            max_num=300,
            voxel_size=_voxel_size,
            num_classes=10,
        ),
        separate_head=dict(type="SeparateTaskHead", init_bias=-2.19, final_kernel=1),
        transformer=dict(
            type="CmtTransformer",
            decoder=dict(
                type="PETRTransformerDecoder",
                return_intermediate=True,
                num_layers=6,
                transformerlayers=dict(
                    type="PETRTransformerDecoderLayer",
                    with_cp=False,
                    attn_cfgs=[
                        dict(type="MultiheadAttention", **_attention),
                        # No attention dropout in this one: see DecoderAttention.
                        dict(type="PETRMultiheadFlashAttention", **_attention),
                    ],
                    ffn_cfgs=dict(
                        type="FFN",
                        embed_dims=256,
                        feedforward_channels=1024,
                        num_fcs=2,
                        ffn_drop=0.0,
                        act_cfg=dict(type="ReLU", inplace=True),
                    ),
                    operation_order=("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
                ),
            ),
        ),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2, alpha=0.25, reduction="mean", loss_weight=2.0),
        loss_bbox=dict(type="L1Loss", reduction="mean", loss_weight=0.25),
        loss_heatmap=dict(type="GaussianFocalLoss", reduction="mean", loss_weight=1.0),
    ),
    train_cfg=dict(
        pts=dict(
            assigner=dict(
                type="HungarianAssigner3D",
                cls_cost=dict(type="FocalLossCost", weight=2.0),
                reg_cost=dict(type="BBox3DL1Cost", weight=0.25),
                iou_cost=dict(type="IoUCost", weight=0.0),
                pc_range=_point_cloud_range,
                code_weights=_code_weights,
            ),
            code_weights=_code_weights,
            point_cloud_range=_point_cloud_range,
            **_grid,
        )
    ),
    test_cfg=dict(pts=dict(pc_range=_point_cloud_range, **_grid)),
)
