"""The heads of the official configs against numbers of the official code (CMT at d3b1d78)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cmt_official import fill, generator, golden_head_config, golden_inputs
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes

import aqr_bench.cmt  # noqa: F401  (registers)

OUTPUTS = ("center", "height", "dim", "rot", "vel", "cls_logits")
ATOL, ATOL_METRES = 2e-5, 1e-4  # float32; center and height are in metres
ATOL_HALF = 2e-3  # cross-attention in float16, as the official code runs it on a GPU; metres as above


def tolerance(name: str) -> float:
    return ATOL_METRES if name in ("center", "height") else ATOL


def load(shared, name: str) -> dict[str, np.ndarray]:
    with np.load(shared / "reference" / "golden" / name) as file:
        return dict(file)


def small_head(**changes):
    return fill(MODELS.build(golden_head_config(**changes))).eval()


def golden_metas(golden) -> list[dict]:
    return [dict(lidar2img=m, pad_shape=[(128, 320, 3)] * 6) for m in golden["lidar2img"]]


def test_the_filling_rule_gives_the_stored_checksums():
    state = small_head().state_dict()
    for name, total, absolute in [
        ("shared_conv.conv.weight", -5.203797, 47023.453278),
        ("transformer.decoder.layers.5.attentions.1.attn.in_proj_weight", 25.610416, 7854.077815),
        ("task_heads.0.cls_logits.3.weight", -2.013693, 154.790630),
        ("reference_points.weight", 71.284358, 71.284358),
        ("shared_conv.bn.running_var", 262.363608, 262.363608),
    ]:
        assert state[name].double().sum().item() == pytest.approx(total, abs=1e-3)
        assert state[name].double().abs().sum().item() == pytest.approx(absolute, abs=1e-3)

    lidar = fill(MODELS.build(golden_head_config("CmtLidarHead"))).state_dict()["task_heads.0.cls_logits.3.weight"]
    assert lidar.double().sum().item() == pytest.approx(2.950587, abs=1e-3)
    assert lidar.double().abs().sum().item() == pytest.approx(458.834581, abs=1e-3)


def test_fusion_head_gives_the_official_outputs(shared):
    golden = load(shared, "cmt_head_voxel0100_small.npz")
    head = small_head()
    x, x_img = golden_inputs()
    np.testing.assert_array_equal(x[0, 0, 0, :8], golden["input_x_head"])
    decoded = []
    head.transformer.register_forward_hook(lambda module, args, out: decoded.append(out.states_LBQC))
    with torch.no_grad():
        outputs = head([x], [x_img], golden_metas(golden))
    assert isinstance(outputs, tuple) and isinstance(outputs[0], list) and set(outputs[0][0]) == set(OUTPUTS)
    np.testing.assert_allclose(decoded[0], golden["outs_dec"], atol=ATOL, rtol=0)
    for name in OUTPUTS:
        np.testing.assert_allclose(outputs[0][0][name], golden[f"out.{name}"], atol=tolerance(name), rtol=0)


@pytest.mark.parametrize(("dtype", "times"), [("float16", 1), ("bfloat16", 8)])  # 3 bits of the mantissa fewer
def test_half_precision_attention_is_within_the_tolerance_of_half_precision(shared, dtype, times):
    golden = load(shared, "cmt_head_voxel0100_small.npz")
    head, (x, x_img) = small_head(attention_dtype=dtype), golden_inputs()
    with torch.no_grad():
        outputs = head([x], [x_img], golden_metas(golden))
    for name in OUTPUTS:
        out, atol = outputs[0][0][name], ATOL_HALF * times * tolerance(name) / ATOL
        assert out.dtype == torch.float32
        np.testing.assert_allclose(out, golden[f"out.{name}"], atol=atol, rtol=0, err_msg=name)
    # It is another arithmetic than float32's.
    assert not np.allclose(outputs[0][0]["cls_logits"], golden["out.cls_logits"], atol=ATOL, rtol=0)


def test_position_embeddings_are_the_official_ones(shared):
    from aqr_bench.cmt.geometry import CameraGeometry

    golden = load(shared, "cmt_head_voxel0100_small.npz")
    head = small_head()
    cameras = CameraGeometry.from_metas(golden_metas(golden), torch.device("cpu"))
    with torch.no_grad():
        np.testing.assert_allclose(head.embeddings.bev_coordinates(16, 16), golden["coords_bev"], atol=1e-7)
        np.testing.assert_allclose(head.embeddings.bev_keys(16, 16), golden["bev_pos_embed"], atol=ATOL)
        keys = head.embeddings.image_keys(cameras, 8, 20).flatten(0, 1)
        np.testing.assert_allclose(keys[:, ::2, ::2], golden["rv_pos_embed_every2"], atol=ATOL)
        np.testing.assert_allclose(keys.double().mean((1, 2)), golden["rv_pos_embed_mean_over_hw"], atol=ATOL)
        reference = head.reference_points.weight.expand(2, -1, -1)
        np.testing.assert_allclose(head.embeddings.bev_queries(reference), golden["bev_query_embed"], atol=ATOL)
        np.testing.assert_allclose(head.embeddings.ray_queries(reference, cameras), golden["rv_query_embed"], atol=ATOL)


def test_training_gives_the_official_losses_matches_and_gradients(shared, monkeypatch):
    golden = load(shared, "cmt_head_voxel0100_small_train.npz")
    metas = golden_metas(load(shared, "cmt_head_voxel0100_small.npz"))
    head = small_head()
    head.training = True  # the head alone: dropout stays off, batch norm in eval mode
    boxes = [LiDARInstance3DBoxes(torch.tensor(golden[f"gt{i}.tensor"]), box_dim=9) for i in range(2)]
    labels = [torch.tensor(golden[f"gt{i}.labels"]) for i in range(2)]
    for meta, box, label in zip(metas, boxes, labels, strict=True):
        meta.update(gt_bboxes_3d=box, gt_labels_3d=label)
    noise = torch.rand(77, 3, generator=generator("dn.rand"))
    np.testing.assert_array_equal(noise, golden["dn.rand"])
    monkeypatch.setattr(torch, "rand_like", lambda tensor, **kwargs: noise)
    x, x_img = golden_inputs()
    outputs = head([x], [x_img], metas)

    queries = outputs[0][0]["dn_queries"]
    assert queries.pad_size == golden["dn.pad_size"]
    np.testing.assert_array_equal(queries.attn_mask, golden["dn.attn_mask"])
    np.testing.assert_array_equal(queries.slot_K, golden["dn.mask_dict.map_known_indice"])
    np.testing.assert_array_equal(queries.labels_K, golden["dn.mask_dict.known_labels"])
    np.testing.assert_array_equal(queries.raw_labels_K, golden["dn.mask_dict.known_labels_raw"])
    np.testing.assert_allclose(queries.boxes_K, golden["dn.mask_dict.known_bboxs"], atol=1e-5)
    padded = torch.cat([queries.reference_BP3, head.reference_points.weight.expand(2, -1, -1)], dim=1).detach()
    np.testing.assert_allclose(padded, golden["dn.padded_reference_points"], atol=1e-6)
    for name in OUTPUTS:
        for key in (name, f"dn_{name}"):
            value = outputs[0][0][key].detach()
            np.testing.assert_allclose(value, golden[f"out.{key}"], atol=tolerance(name), rtol=0, err_msg=key)

    matches = []
    match = head.losses.assigner.match

    def record(*args):
        matches.append((len(args[0]), match(*args)))
        return matches[-1][1]

    monkeypatch.setattr(head.losses.assigner, "match", record)
    losses = head.loss(boxes, labels, outputs)
    order = [5, 0, 1, 2, 3, 4]  # the last layer's losses are computed first
    for step, (queries_count, (query, truth)) in enumerate(matches):
        by_class = torch.argsort(labels[step % 2], stable=True)  # the matcher gets the boxes class by class
        inds = np.zeros(queries_count, dtype=np.int64)
        inds[query] = by_class[truth] + 1
        np.testing.assert_array_equal(inds, golden[f"assign.d{order[step // 2]}.s{step % 2}.gt_inds"])
    assert set(losses) == {key.removeprefix("loss.") for key in golden if key.startswith("loss.")}
    for name, value in losses.items():
        assert value.item() == pytest.approx(float(golden[f"loss.{name}"]), abs=5e-5), name
    total = sum(losses.values())
    assert total.item() == pytest.approx(float(golden["loss_total"]), abs=5e-4)

    total.backward()
    parameters = dict(head.named_parameters())
    assert set(parameters) == {str(name) for name in golden["grad_names"]}
    for name, norm, absent in zip(golden["grad_names"], golden["grad_norm"], golden["grad_none"], strict=True):
        grad = parameters[str(name)].grad
        assert (grad is None) == bool(absent), name
        # Layer 0's self-attention sees constant values: its gradient is rounding alone, hence an absolute part.
        if grad is not None:
            assert grad.double().norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-5), name
    np.testing.assert_allclose(
        parameters["reference_points.weight"].grad, golden["grad.reference_points.weight"], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(("case", "threshold"), [("a", None), ("b", 0.93)])
def test_decoding_gives_the_official_boxes(shared, case, threshold):
    golden = load(shared, "multi_task_bbox_coder_decode.npz")
    config = golden_head_config()
    config["bbox_coder"].update(max_num=40, score_threshold=threshold)
    head = MODELS.build(config)
    outputs = [[{name: torch.tensor(golden[f"in.{name}"]) for name in OUTPUTS}]]
    decoded = head.bbox_coder.decode(outputs)
    detections = head.get_bboxes(outputs, [{}, {}])
    for i in range(2):
        for name, value in decoded[i].items():
            np.testing.assert_allclose(value, golden[f"{case}{i}.decode.{name}"], atol=ATOL, rtol=1e-5)
        boxes, scores, labels = detections[i]
        np.testing.assert_allclose(boxes.tensor, golden[f"{case}{i}.get_bboxes.tensor"], atol=1e-4, rtol=1e-5)
        np.testing.assert_allclose(boxes.gravity_center, golden[f"{case}{i}.get_bboxes.gravity_center"], atol=1e-4)
        np.testing.assert_allclose(boxes.corners, golden[f"{case}{i}.get_bboxes.corners"], atol=1e-3, rtol=1e-4)
        np.testing.assert_allclose(scores, golden[f"{case}{i}.get_bboxes.scores"], atol=1e-6)
        np.testing.assert_array_equal(labels, golden[f"{case}{i}.get_bboxes.labels"])
