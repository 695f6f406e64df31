"""CmtDetector end to end on random data: the quick tier's model as configured."""

from __future__ import annotations

import copy

import pytest
import torch
from cmt_quick import QUICK, batch, cloud, losses_of, predictions_of, quick_model
from cmt_small import assert_finite_gradients, metas, with_truth
from mmdet3d.registry import MODELS
from mmengine.config import Config

from aqr_bench.errors import UserError

HEAD = "model.pts_bbox_head"


@pytest.mark.parametrize(
    "aqr", [None, {}, dict(site="both", bev_window=5, camera_window=3)], ids=["none", "empty", "aqr"]
)
def test_quick_model_trains_and_predicts(aqr):
    model = quick_model(**{f"{HEAD}.aqr": aqr})
    losses = losses_of(model, batch())
    sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values())
    assert_finite_gradients(model)
    assert (model.pts_bbox_head.aqr is None) == (not aqr)
    for detections in predictions_of(model, batch()):
        assert detections.bboxes_3d.tensor.shape == (len(detections.scores_3d), 9) and len(detections.labels_3d) > 0
        assert torch.isfinite(detections.bboxes_3d.tensor).all() and detections.labels_3d.max() < 10


def test_quick_model_is_small_and_its_biases_are_extra_parameters_alone():
    plain, biased = quick_model(), quick_model(**{f"{HEAD}.aqr.site": "cross"})
    assert 0.5e6 < sum(p.numel() for p in plain.parameters()) < 1.0e6
    extra = set(biased.state_dict()) - set(plain.state_dict())
    assert extra and all(name.startswith("pts_bbox_head.aqr.") for name in extra)
    attention = f"{HEAD}.transformer.decoder.transformerlayers.attn_cfgs.1.offset_values"
    cmt = quick_model(
        **{f"{HEAD}.locality": None, f"{HEAD}.refine_reference": False, attention: False, "auxiliary": None}
    )
    added = {name for name in plain.state_dict() if name not in cmt.state_dict()}
    assert added and all("locality" in n or "offset_proj" in n or n.startswith("auxiliary.") for n in added)
    assert set(cmt.state_dict()) <= set(plain.state_dict())


def test_quick_model_learns_one_batch():
    model = quick_model()
    data = batch(objects=(3, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(16):
        torch.manual_seed(0)  # the same denoising noise each time
        loss = sum(losses_of(model, data).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.6 * history[0], history


def test_empty_clouds_and_empty_scenes_train_and_predict():
    model = quick_model()
    data = batch(objects=(0, 0), points=(0, 0))
    losses = losses_of(model, data)
    sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values())
    assert_finite_gradients(model)
    assert all(torch.isfinite(b).all() for b in model.buffers())
    assert len(predictions_of(model, data)) == 2
    # A sample without points must not change its neighbour.
    model = quick_model()
    full, half = batch(), batch(points=(3000, 0))
    a, b = predictions_of(model, full)[0], predictions_of(model, half)[0]
    torch.testing.assert_close(a.bboxes_3d.tensor, b.bboxes_3d.tensor, atol=1e-4, rtol=1e-4)


def test_a_sample_is_seen_alike_in_any_batch():
    model = quick_model()
    data = batch()
    together = predictions_of(model, data)
    for b in range(2):
        alone = dict(
            inputs={k: v[b : b + 1] for k, v in data["inputs"].items()}, data_samples=data["data_samples"][b : b + 1]
        )
        (detections,) = predictions_of(model, alone)
        torch.testing.assert_close(detections.scores_3d, together[b].scores_3d, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(detections.bboxes_3d.tensor, together[b].bboxes_3d.tensor, atol=1e-3, rtol=1e-3)


def test_other_image_sizes_and_camera_counts_need_no_other_config():
    model = quick_model()
    # The second sample is smaller: it is padded, and its own size goes with it. 90 is not a multiple of 16.
    data = batch(sizes=((90, 200), (64, 120)), cameras=4)
    losses = losses_of(model, data)
    assert all(torch.isfinite(v) for v in losses.values())
    prepared = model.data_preprocessor(copy.deepcopy(data), training=False)
    assert prepared["data_samples"][1].pad_shape == (64, 128)
    assert prepared["data_samples"][1].batch_input_shape == (96, 208)
    assert len(predictions_of(model, data)) == 2


def test_channels_last_changes_rounding_only():
    fast, plain = quick_model(), quick_model(model__channels_last=False)
    plain.load_state_dict(fast.state_dict())
    for a, b in zip(predictions_of(fast, batch()), predictions_of(plain, batch()), strict=True):
        torch.testing.assert_close(a.scores_3d, b.scores_3d, atol=1e-5, rtol=1e-3)


def test_raw_outputs_and_copies():
    model = quick_model()
    predictions_of(model, batch())  # voxel generators exist now; copying must not trip over them
    twin = copy.deepcopy(model).eval()
    data = twin.data_preprocessor(batch(), training=False)
    with torch.no_grad():
        outputs = twin(**data, mode="tensor")
    assert outputs[0][0]["cls_logits"].shape == (2, 2, 144, 10)


def test_heat_maps_have_a_loss_where_something_can_learn_from_it():
    branches = ["pts_voxel_encoder", "pts_backbone", "pts_neck", "img_backbone", "img_neck"]
    for frozen, has_loss in ((branches, True), (["auxiliary"], True), ([*branches, "auxiliary"], False)):
        losses = losses_of(quick_model(model__frozen=frozen), batch())
        assert ("loss_bev_heatmap" in losses) == ("loss_image_heatmap" in losses) == has_loss


def test_single_sensor_detectors():
    transformer = Config.fromfile(QUICK).model.pts_bbox_head.transformer
    lidar = Config.fromfile(QUICK)
    for part in ("img_backbone", "img_neck"):
        lidar.model.pop(part)
    lidar.model.pts_bbox_head.update(type="CmtLidarHead", transformer=transformer)
    camera = Config.fromfile(QUICK)
    for part in [k for k in camera.model if k.startswith("pts_") and k != "pts_bbox_head"]:
        camera.model.pop(part)
    camera.model.pts_bbox_head.update(type="CmtImageHead")
    for config, lacking in ((lidar, "img"), (camera, "points")):
        config.model.auxiliary = None  # it has a part for either sensor
        model = MODELS.build(config.model)
        model.init_weights()
        data = batch()
        del data["inputs"][lacking]
        losses = losses_of(model, data)
        sum(losses.values()).backward()
        assert_finite_gradients(model)
        assert len(predictions_of(model, data)) == 2


@pytest.mark.parametrize("aqr", [{}, dict(site="both", bev_window=5, camera_window=3)], ids=["plain", "aqr"])
@pytest.mark.parametrize("lacking", ["points", "img"])
def test_a_fusion_model_goes_without_a_sensor(lacking, aqr):
    """No cloud in the batch, or no images: it trains and predicts on what there is."""
    model = quick_model(**{f"{HEAD}.aqr": aqr})
    data = batch()
    del data["inputs"][lacking]
    losses = losses_of(model, data)
    sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values())
    gone = "pts_backbone" if lacking == "points" else "img_backbone"
    learnt = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert gone not in learnt and "pts_bbox_head" in learnt
    assert all(len(detections.scores_3d) > 0 for detections in predictions_of(model, data))


def test_a_rig_of_zero_cameras_is_no_camera():
    images, bev = quick_model().extract_feat({"points": [cloud(100, seed=0)], "imgs": torch.zeros(1, 0, 3, 96, 176)})
    assert images == [None] and bev[0].shape == (1, 96, 40, 40)


def test_missing_inputs_and_parts_are_reported():
    with pytest.raises(UserError, match="CmtHead needs points or images"):
        quick_model().extract_feat({})
    config = Config.fromfile(QUICK).model
    for part, message in (("pts_voxel_layer", "pts_voxel_layer"), ("img_backbone", "img_backbone")):
        broken = copy.deepcopy(config)
        broken.pop(part)
        with pytest.raises(UserError, match=message):
            MODELS.build(broken)
    broken = copy.deepcopy(config)
    broken.img_backbone.type = "ResNett"
    with pytest.raises(UserError, match="did you mean 'ResNet'"):
        MODELS.build(broken)


def test_mixed_precision_leaves_voxels_and_head_in_float32():
    """CMT: images and the BEV backbone in half precision; voxel encoder, middle encoder and head not."""
    model = quick_model()
    seen = {}

    def note(name):
        def hook(_module, _inputs, output):
            output = output[0] if isinstance(output, (tuple, list)) else output
            seen[name] = output.dtype

        return hook

    parts = {name: getattr(model, name) for name in ("pts_voxel_encoder", "pts_middle_encoder", "pts_backbone")}
    parts |= {"img_backbone": model.img_backbone, "transformer": model.pts_bbox_head.transformer}
    for name, part in parts.items():
        part.register_forward_hook(note(name))
    # mmengine's AmpOptimWrapper opens the same context around train_step, on a GPU only.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model, batch())
    sum(losses.values()).backward()
    assert_finite_gradients(model)
    half, full = torch.bfloat16, torch.float32
    assert seen == dict(
        pts_voxel_encoder=full, pts_middle_encoder=full, pts_backbone=half, img_backbone=half, transformer=full
    )
    assert all(value.dtype == full and torch.isfinite(value) for value in losses.values())


def test_image_points_alone_learn_in_float32_under_autocast():
    """As all of the head: their distances and sums of metres do not fit half precision."""
    head, samples = quick_model().pts_bbox_head, with_truth(metas(2, cameras=6), [5, 3])
    images = torch.randn(12, head.hidden_dim, 6, 10)
    exact = head.image_points.loss_of_features(images, samples)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = head.image_points.loss_of_features(images, samples)
    assert exact > 0 and torch.equal(actual, exact)
