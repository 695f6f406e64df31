"""The compiled loops against the plain formulas, one cuboid at a time."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from ray_reference import cast

from aqr_bench.world import rays
from aqr_bench.world.geometry import rotate


def fan(rng, columns=60, rows=40):
    """Return an origin and the directions of a fan all around, from steeply down to slightly up."""
    azimuth = (np.arange(columns) + rng.random()) * 2 * np.pi / columns - np.pi
    return np.array([0.3, -0.2, 1.8]), np.cos(azimuth), np.sin(azimuth), np.linspace(0.3, -1.1, rows)


def boxes(rng, count):
    """Return centres, headings, half sizes and yaws of cuboids; some float, some are below the origin, some around."""
    half = rng.uniform(0.2, 3, (count, 3))
    center = np.column_stack([rng.uniform(-12, 12, (count, 2)), half[:, 2] + rng.uniform(0, 2, count)])
    yaw = rng.uniform(-np.pi, np.pi, count)
    return center, np.stack([np.cos(yaw), np.sin(yaw)], -1), half, yaw


def fire(origin, dx, dy, dz, center, heading, half, owner, actors=0):
    """Cast the fan at all boxes; return distances, part indices and the counts of lone hits."""
    shape, count = (len(dz), len(dx)), len(center)
    depth, part, stamp = np.full(shape, np.inf), np.full(shape, rays.MISS, np.int32), np.zeros(shape, np.int32)
    alone = np.zeros(actors, np.int64)
    first, every = np.full(count, 17, np.int64), np.full(count, len(dx), np.int64)  # passes the end, begins anew
    rays.cast_fan(origin, dx, dy, dz, center, heading, half, owner, first, every, depth, part, stamp, alone)
    return depth, part, alone


@pytest.mark.parametrize("seed", range(4))
def test_cast_fan_agrees_with_cast(seed):
    rng = np.random.default_rng(seed)
    origin, dx, dy, dz = fan(rng)
    center, heading, half, yaw = boxes(rng, 25)
    owner = np.arange(25) // 2
    depth, part, alone = fire(origin, dx, dy, dz, center, heading, half, owner, actors=5)
    directions = np.stack(np.broadcast_arrays(dx, dy, dz[:, None]))
    each = np.stack([cast(origin, directions, c, y, h)[0] for c, y, h in zip(center, yaw, half, strict=True)])
    hit = np.isfinite(each)
    nearest = each.min(0)
    disagree = np.isfinite(nearest) != np.isfinite(depth)
    assert disagree.mean() < 0.002  # grazing rays: the one computes in single precision, the other in double
    both = np.isfinite(nearest) & np.isfinite(depth)
    np.testing.assert_allclose(depth[both], nearest[both], rtol=1e-3, atol=1e-4)
    assert 0.2 < both.mean() < 0.95
    second = np.sort(each, 0)[1]
    clear = both & (second > nearest + 1e-2)
    np.testing.assert_array_equal(part[clear], each.argmin(0)[clear])
    for actor in range(5):
        assert alone[actor] == pytest.approx(hit[owner == actor].any(0).sum(), abs=4)


def test_nothing_is_hit_from_inside():
    rng = np.random.default_rng(0)
    origin, dx, dy, dz = fan(rng)
    around = np.array([[0.0, 0.0, 2.0]]), np.array([[1.0, 0.0]]), np.array([[3.0, 3.0, 3.0]]), np.array([0])
    depth, *_ = fire(origin, dx, dy, dz, *around)
    assert np.isinf(depth).all()


def test_count_inside_agrees_with_sorting_each_point():
    rng = np.random.default_rng(1)
    center, heading, half, yaw = boxes(rng, 12)
    points = rng.uniform([-12, -12, 0], [12, 12, 5], (4000, 3))
    expected = []
    for c, y, h in zip(center, yaw, half, strict=True):
        local = points - c
        local[:, :2] = rotate(local[:, :2], -y)
        expected.append((np.abs(local) <= h).all(1).sum())
    counts = rays.count_inside(points, center, heading, half)
    np.testing.assert_array_equal(counts, expected)
    assert counts.min() > 0
    assert len(rays.count_inside(points, center[:0], heading[:0], half[:0])) == 0


def test_without_a_cache_folder_functions_are_still_compiled(monkeypatch):
    """numba refuses to cache where neither the package's nor the user's folder can be written."""
    real = numba.njit

    def refuses(*args, **kwargs):
        if kwargs.get("cache"):
            raise RuntimeError("cannot cache function 'f': no locator available for file 'f.py'")
        return real(*args, **kwargs)

    monkeypatch.setattr(rays.numba, "njit", refuses)
    assert rays.compiled(lambda x: x + 1)(2) == 3


def test_kernels_are_compiled_once(tiny_root):
    """All of the tiny world, with scenes of different sizes, needs one version of each kernel."""
    for kernel in (rays.cast_fan, rays.shade, rays.returns, rays.count_inside):
        assert len(kernel.signatures) == 1, kernel
