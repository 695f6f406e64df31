"""The parts of the head, each against a plain reference: geometry, coder, matcher, denoising."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from cmt_official import CODE_WEIGHTS
from cmt_small import boxes, ring

from aqr_bench.cmt import encoding
from aqr_bench.cmt.assigner import HungarianAssigner3D
from aqr_bench.cmt.coder import MultiTaskBBoxCoder, denormalize_bbox, normalize_bbox
from aqr_bench.cmt.denoising import denoising_mask, make_denoising_queries
from aqr_bench.cmt.geometry import gravity_boxes

RANGE = [-20.0, -10.0, -5.0, 20.0, 10.0, 3.0]

# ---------------------------------------------------------------------- geometry


def test_pos2embed_is_the_written_out_formula():
    x, y, n = 0.3, 0.8, 6
    expected = []
    for value in (y, x):
        for i in range(n):
            angle = value * 2 * math.pi / (2 * (i // 2) / n + 1)
            expected.append(math.sin(angle) if i % 2 == 0 else math.cos(angle))
    torch.testing.assert_close(encoding.pos2embed(torch.tensor([[x, y]]), n)[0], torch.tensor(expected))


def test_query_rays_pass_through_the_point_and_name_the_views_that_see_it():
    matrices = ring(4, 60, 100)
    forward = torch.tensor(np.stack([matrices] * 2), dtype=torch.float32)
    inverse = torch.tensor(np.linalg.inv(np.stack([matrices] * 2)), dtype=torch.float32)
    g = torch.Generator().manual_seed(0)
    points = encoding.to_metres(torch.rand(2, 50, 3, generator=g), RANGE)
    sizes = torch.tensor([[60.0, 100.0]]).expand(2, 4, 2)
    depths = torch.tensor([1.0, 2.0, 7.0])
    rays, index = encoding.query_rays(points, forward, inverse, sizes, depths, RANGE)
    expected = []
    for b, n, q in itertools.product(range(2), range(4), range(50)):
        u, v, z, _ = matrices[n] @ np.append(points[b, q].numpy(), 1.0)
        if z > 0 and 0 <= u / z < 100 and 0 <= v / z < 60:
            expected.append((b, n, q))
    assert index.tolist() == [list(e) for e in expected] and len(expected) > 20
    metres = encoding.to_metres(rays.view(-1, 3, 3), RANGE).double().numpy()
    for (b, n, q), ray in zip(expected, metres, strict=True):
        camera = np.linalg.inv(matrices[n])[:3, 3]
        towards = points[b, q].numpy() - camera
        for point in ray:  # all samples lie on the line from the camera to the point, in front of it
            along = point - camera
            assert np.linalg.norm(np.cross(along, towards)) < 1e-3 * np.linalg.norm(along) * np.linalg.norm(towards)
            assert along @ towards > 0


def test_camera_keys_project_back_to_their_pixels_at_their_depths():
    matrices = ring(2, 60, 100)
    inverse = torch.tensor(np.linalg.inv(matrices)[None], dtype=torch.float32)
    depths = encoding.depth_samples(5, 20.0)
    torch.testing.assert_close(depths, torch.tensor([1 + k * 19 / 5 for k in range(5)]))
    rays = encoding.camera_key_rays(inverse, torch.tensor([[[60.0, 100.0]] * 2]), 3, 4, depths, RANGE)
    points = encoding.to_metres(rays.view(1, 2, 3, 4, 5, 3), RANGE).double().numpy()
    for n, row, col, k in itertools.product(range(2), range(3), range(4), range(5)):
        u, v, z, _ = matrices[n] @ np.append(points[0, n, row, col, k], 1.0)
        np.testing.assert_allclose([u / z, v / z, z], [col * 100 / 4, row * 60 / 3, depths[k]], atol=2e-3)


def test_range_conversions_are_inverse_and_axis_wise():
    points = torch.tensor([[-20.0, -10.0, -5.0], [20.0, 10.0, 3.0], [0.0, 5.0, -1.0]])
    normalised = encoding.to_normalised(points, RANGE)
    torch.testing.assert_close(normalised, torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.5, 0.75, 0.5]]))
    torch.testing.assert_close(encoding.to_metres(normalised, RANGE), points)
    torch.testing.assert_close(encoding.inverse_sigmoid(torch.tensor([0.2, 0.7])).sigmoid(), torch.tensor([0.2, 0.7]))
    assert encoding.inverse_sigmoid(torch.tensor([-1.0, 2.0])).abs().max() < 12


# ---------------------------------------------------------------------- boxes and matching


def test_codes_and_boxes_are_inverse():
    box = gravity_boxes(boxes(9, seed=0)[0], torch.device("cpu"))
    torch.testing.assert_close(denormalize_bbox(normalize_bbox(box)), box, atol=1e-5, rtol=1e-5)
    code = normalize_bbox(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.5, 7.0, 8.0]]))[0]
    logs = [math.log(v) for v in (4.0, 5.0, 6.0)]
    expected = [1.0, 2.0, logs[0], logs[1], 3.0, logs[2], math.sin(0.5), math.cos(0.5), 7.0, 8.0]
    torch.testing.assert_close(code, torch.tensor(expected))


def test_threshold_zero_and_range_filter_boxes():
    outputs = dict(
        center=torch.tensor([[0.0, 0.0], [50.0, 0.0]])[None, None],
        height=torch.zeros(1, 1, 2, 1),
        dim=torch.zeros(1, 1, 2, 3),
        rot=torch.ones(1, 1, 2, 2),
        vel=torch.zeros(1, 1, 2, 2),
        cls_logits=torch.tensor([[2.0, -80.0], [1.0, -200.0]])[None, None],
    )
    everything = MultiTaskBBoxCoder(RANGE, num_classes=2, max_num=10)
    assert len(everything.decode([[outputs]])[0]["scores"]) == 4
    inside = MultiTaskBBoxCoder(RANGE, num_classes=2, max_num=10, post_center_range=RANGE)
    assert len(inside.decode([[outputs]])[0]["scores"]) == 2
    positive = MultiTaskBBoxCoder(RANGE, num_classes=2, max_num=10, score_threshold=0.0)
    assert len(positive.decode([[outputs]])[0]["scores"]) == 3  # sigmoid(-200) is 0 in float32


def test_matching_is_the_best_of_all_permutations():
    g = torch.Generator().manual_seed(0)
    assigner = HungarianAssigner3D(
        cls_cost=dict(type="FocalLossCost", weight=2.0),
        reg_cost=dict(type="BBox3DL1Cost", weight=0.25),
        code_weights=CODE_WEIGHTS,
    )
    codes, logits = torch.randn(5, 10, generator=g), torch.randn(5, 4, generator=g)
    truth = gravity_boxes(boxes(3, seed=1)[0], torch.device("cpu"))
    labels = torch.tensor([2, 0, 2])
    query, matched = assigner.match(codes, logits, truth, labels)

    def cost(q: int, k: int) -> float:
        p = float(logits[q, labels[k]].sigmoid())
        focal = -math.log(p) * 0.25 * (1 - p) ** 2 + math.log(1 - p) * 0.75 * p**2
        weights = torch.tensor(CODE_WEIGHTS)
        return 2.0 * focal + 0.25 * float(((codes[q] - normalize_bbox(truth[k])) * weights)[:8].abs().sum())

    best = min(itertools.permutations(range(5), 3), key=lambda p: sum(cost(q, k) for k, q in enumerate(p)))
    assert {int(k): int(q) for q, k in zip(query, matched, strict=True)} == dict(enumerate(best))
    assert [len(indices) for indices in assigner.match(codes, logits, truth[:0], labels[:0])] == [0, 0]


def test_denoising_groups_are_masked_from_each_other_and_from_matching_queries():
    mask = denoising_mask(groups=3, group_size=2, num_query=4)
    allowed = ~mask
    for i, j in itertools.product(range(10), range(10)):
        if i >= 6:
            assert allowed[i, j] == (j >= 6)
        else:
            assert allowed[i, j] == (j >= 6 or i // 2 == j // 2)


def test_denoising_queries_stay_near_their_boxes():
    truth = [gravity_boxes(boxes(n, seed=n)[0], torch.device("cpu")) for n in (3, 0, 5)]
    labels = [torch.arange(n) for n in (3, 0, 5)]
    wide = [-20.0, -20.0, -5.0, 20.0, 20.0, 3.0]
    torch.manual_seed(0)
    queries = make_denoising_queries(
        truth, labels, num_query=12, num_classes=10, pc_range=wide, scalar=10, noise_scale=1.0, split=0.75
    )
    assert queries.pad_size == 2 * 5  # 12 queries // 5 objects
    assert len(queries.sample_K) == 16 and not (queries.sample_K == 1).any()
    points = encoding.to_metres(queries.reference_BP3[queries.sample_K, queries.slot_K], wide)
    moved = (points - queries.boxes_K[:, :3]).abs() / (queries.boxes_K[:, 3:6] / 2)
    assert (moved <= 1 + 1e-4).all() and moved.max() > 0.5
    lost = moved.norm(dim=1) > 0.75
    assert torch.equal(queries.labels_K == 10, lost) and 0 < lost.sum() < 16
    assert torch.equal(queries.raw_labels_K, torch.cat(labels).repeat(2))
    still = make_denoising_queries(truth, labels, num_query=12, num_classes=10, pc_range=wide, noise_scale=0.0)
    centres = still.reference_BP3[still.sample_K, still.slot_K]
    torch.testing.assert_close(encoding.to_metres(centres, wide), still.boxes_K[:, :3], atol=1e-4, rtol=1e-4)
    assert torch.equal(still.labels_K, still.raw_labels_K)
    nothing = [truth[1]] * 2
    assert make_denoising_queries(nothing, [labels[1]] * 2, num_query=5, num_classes=10, pc_range=wide) is None
