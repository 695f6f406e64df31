"""Blur of images: where the light of one pixel goes, and how much of it."""

from __future__ import annotations

import numpy as np
import pytest

from aqr_bench.corruptions.image import blur as image_blur


def white_square(height=61, width=61):
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 2, width // 2] = 250
    return image


def test_motion_smears_to_one_side_with_gaussian_weights():
    weights = np.exp(-(np.arange(31.0) ** 2) / (2 * 6**2))
    expected = np.rint(250 * weights / weights.sum())
    out = image_blur.motion(white_square(), 15, 6.0, 0.0)
    # The source is looked up to the right, so the spot leaves its light to the left of it.
    assert np.abs(out[30, 30::-1, 0] - expected).max() <= 1
    assert not out[30, 31:].any() and not out[:30].any() and not out[31:].any()


@pytest.mark.parametrize(
    ("angle", "row", "column"), [(90.0, 27, 30), (-90.0, 33, 30), (45.0, 28, 28), (-45.0, 32, 28), (-135.0, 32, 32)]
)
def test_motion_goes_along_its_angle(angle, row, column):
    out = image_blur.motion(white_square(), 15, 13.0, angle).astype(float)[..., 0]
    assert out[row, column] > 4
    rows, columns = np.nonzero(out)
    # All light lies on the ray, within the rounding to whole pixels.
    away = np.array([-np.sin(np.radians(angle)), -np.cos(np.radians(angle))])
    offsets = np.stack([rows - 30, columns - 30], 1)
    assert np.abs(offsets @ [away[1], -away[0]]).max() < 1 and (offsets @ away).min() > -0.8
    assert (offsets @ away).max() == pytest.approx(30, abs=1.1)


def test_motion_repeats_the_border_and_keeps_the_mean():
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 20:] = 200
    out = image_blur.motion(image, 15, 10.0, 0.0)
    assert (out[:, 39] == 200).all() and (out[:, 20:] == 200).all()
    assert (np.diff(out[5, :21, 0].astype(int)) >= 0).all() and 0 < out[5, 19, 0] < 200
    for size in ((1, 1), (1, 7), (3, 2)):
        flat = np.full((*size, 3), 77, np.uint8)
        assert np.array_equal(image_blur.motion(flat, 15, 13.0, 33.0), flat)


@pytest.mark.parametrize(("angle", "axis"), [(0.0, 1), (90.0, 0), (180.0, 1)])
def test_linear_is_a_centred_box(angle, axis):
    out = image_blur.linear(white_square(), 10, angle)[..., 0]
    line = out[30] if axis == 1 else out[:, 30]
    assert np.flatnonzero(line).tolist() == list(range(25, 36))  # made odd: 11 pixels
    assert set(line[25:36].tolist()) == {23} and int(out.sum()) == 11 * 23  # 250 / 11 = 22.7


def test_linear_at_an_angle():
    rows, columns = np.nonzero(image_blur.linear(white_square(), 21, 45.0)[..., 0])
    assert np.array_equal(rows, columns) and rows.min() == 23 and rows.max() == 37  # 10 steps of cos 45
    assert np.array_equal(image_blur.linear(white_square(), 1, 20.0), white_square())


def test_zoom_is_the_mean_of_its_copies():
    # A stripe of one side: at factor f the edge at 60 moves to 50 + 10 f.
    image = np.zeros((100, 101, 3), np.uint8)
    image[:, 60:] = 240
    out = image_blur.zoom(image, 1.3, 0.1)[50, :, 0].astype(int)
    # Factors 1, 1.1, 1.2, 1.3 and the image itself: 5 pictures; those of 1 show the edge at 60.
    assert out[59] <= 1 and out[60] == pytest.approx(2 / 5 * 240, abs=25) and (out[65:] == 240).all()
    assert (np.diff(out) >= 0).all() and (out[:60] == 0).all()


def test_zoom_counts_its_factors_up_to_the_last(monkeypatch):
    seen = []
    original = image_blur._zoomed
    monkeypatch.setattr(
        image_blur, "_zoomed", lambda i, factor, *size: seen.append(factor) or original(i, factor, *size)
    )
    image_blur.zoom(white_square(), 1.02, 0.005)
    assert np.allclose(seen, [1, 1.005, 1.01, 1.015, 1.02])


def test_zoom_leaves_an_even_image_and_any_size():
    for size in ((1, 1), (1, 7), (5, 2), (30, 40)):
        flat = np.full((*size, 3), 123, np.uint8)
        assert np.array_equal(image_blur.zoom(flat, 1.1, 0.005), flat)


def test_enlarged_keeps_the_outermost_pixels():
    part = np.arange(5, dtype=np.float32)[None] * 10
    out = image_blur.enlarged(np.repeat(part, 2, 0), 3.0, 6, 15)
    assert out.shape == (6, 15) and np.allclose(out[0], np.linspace(0, 40, 15), atol=0.7)
