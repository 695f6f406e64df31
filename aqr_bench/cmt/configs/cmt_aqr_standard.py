"""Standard tier: the quick model with more of everything, for one GPU or a night on a CPU.

Range +-51.2 m (256 x 256 pillars, 64 x 64 BEV tokens), images of 192 x 352 (24 x 44 tokens each), width 128, four
decoder layers, 400 queries. Everything else is the quick tier's.
"""

_base_ = ["./cmt_aqr_quick.py"]

_hidden, _layers = 128, 4
_quick_range, _range = [-32.0, -32.0, -5.0, 32.0, 32.0, 3.0], [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]
_quick_image, _image = (96, 176), (192, 352)


def _wider(node):
    """The same config with the standard tier's range, grid and image size wherever the quick tier's stand."""
    if isinstance(node, dict):
        return {key: _wider(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        for quick, standard in ((_quick_range, _range), (_quick_image, _image), ([160, 160], [256, 256])):
            if list(node) == list(quick):
                return type(node)(standard)
        if list(node) == [160, 160, 1]:
            return [256, 256, 1]
        return type(node)(_wider(value) for value in node)
    return node


point_cloud_range = _range
image_size = _image
train_pipeline = _wider(_base_.train_pipeline)
test_pipeline = _wider(_base_.test_pipeline)
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = _wider(_base_.model)
model["pts_voxel_layer"]["max_voxels"] = (30000, 30000)
model["img_neck"]["out_channels"] = model["auxiliary"]["image_channels"] = _hidden
model["auxiliary"]["bev_code_weights"] = None  # measured at the quick tier alone
model["pts_bbox_head"].update(hidden_dim=_hidden, num_query=400)
model["pts_bbox_head"]["bbox_coder"].update(max_num=300, post_center_range=[-61.2, -61.2, -10.0, 61.2, 61.2, 10.0])
_decoder = model["pts_bbox_head"]["transformer"]["decoder"]
_decoder["num_layers"] = _layers
_layer = _decoder["transformerlayers"]
for _part in (*_layer["attn_cfgs"], _layer["ffn_cfgs"]):
    _part["embed_dims"] = _hidden
_layer["ffn_cfgs"]["feedforward_channels"] = 512
