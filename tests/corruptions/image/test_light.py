"""Light on images: HSV value, low light, grey veil and sun, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from aqr_bench.corruptions.image import light as image_light


def pixels(*values):
    return np.array([values], np.uint8)


def test_brightness_raises_the_value_and_keeps_hue_and_saturation():
    # V 100 -> 227.5: times 2.275. V 200 is clipped to 255: times 1.275. Black gets grey.
    out = image_light.brightness(pixels((100, 50, 20), (200, 100, 0), (0, 0, 0), (255, 255, 255)), 0.5)
    assert np.abs(out[0].astype(int) - [(227, 114, 46), (255, 128, 0), (128, 128, 128), (255, 255, 255)]).max() <= 1


def test_limit_value_moves_the_brightest_to_the_limit():
    # trunc(V / 240 * 256 * 0.7): 240 -> 179, 120 -> 89.
    out = image_light.limit_value(pixels((240, 120, 0), (120, 60, 30), (0, 0, 0)), 0.7)
    assert np.abs(out[0].astype(int) - [(179, 90, 0), (89, 45, 22), (0, 0, 0)]).max() <= 1
    assert out.max() == 179
    # As in the source a dark image is lifted to the limit as well.
    assert image_light.limit_value(pixels((10, 10, 10)), 0.7).max() == 179
    assert not image_light.limit_value(pixels((0, 0, 0)), 0.7).any()


def test_grey_blend_is_linear_and_truncated():
    out = image_light.grey_blend(pixels((0, 100, 255)), 0.3)
    assert out[0, 0].tolist() == [38, 108, 216]  # 38.4, 108.4, 216.9
    assert image_light.grey_blend(pixels((3, 4, 5)), 1.0, level=7).tolist() == [[[7, 7, 7]]]


def test_dark_stretches_squares_and_scales():
    # 50 .. 150 is stretched to 0 .. 1; 100 is in the middle, squared a quarter.
    image = np.concatenate([np.full((200, 200, 3), v, np.uint8) for v in (50, 100, 150)])
    out = image_light.dark(image, np.random.default_rng(0), 0.4, 2.0, 120.0, 0.018)
    least, middle, most = (out[200 * k : 200 * k + 200].astype(float) for k in range(3))
    assert middle.mean() == pytest.approx(255 * 0.1 - 0.5, abs=0.3) and most.mean() == pytest.approx(101.5, abs=0.3)
    assert middle.std() == pytest.approx(255 * np.sqrt(0.1 / 120 + 0.018**2), rel=0.02)
    assert most.std() == pytest.approx(255 * np.sqrt(0.4 / 120 + 0.018**2), rel=0.02)
    assert least.mean() < 2 and (least == 0).mean() > 0.5  # no light, half of the Gaussian clipped


def test_dark_accepts_an_image_of_one_value():
    with np.errstate(all="raise"):
        out = image_light.dark(np.full((9, 9, 3), 200, np.uint8), np.random.default_rng(0), 0.6, 2.0, 250.0, 0.008)
    assert out.mean() < 3


def test_the_sun_is_white_and_round_and_ends():
    image = np.full((200, 300, 3), 60, np.uint8)
    out, blind = image_light.sun_flare(image, (120.0, 80.0), 30.0)
    assert (out[80, 120] == 255).all() and (out[80, 120 + 26] == 255).all()  # weight 1 up to 0.9 radius
    # At one and at three radii: 60 + 195 * 1.5 exp(-1/2), exp(-9/2).
    assert out[80, 150, 0] == pytest.approx(60 + 195 * 1.5 * np.exp(-0.5), abs=1)
    assert out[170, 120, 0] == pytest.approx(60 + 195 * 1.5 * np.exp(-4.5), abs=1)
    assert out[180, 290, 0] == 60
    assert blind.dtype == bool and np.sqrt(blind.sum() / np.pi) == pytest.approx(30 * 1.121, abs=0.3)
    assert blind[80, 120 + 33] and not blind[80, 120 + 34] and blind[80 - 33, 120]


def test_the_sun_may_stand_outside():
    image = np.full((20, 30, 3), 60, np.uint8)
    out, blind = image_light.sun_flare(image, (-500.0, 9.0), 30.0)
    assert np.array_equal(out, image) and not blind.any()


def test_toward_blends_each_pixel():
    out = image_light.blend(pixels((100, 0, 200), (100, 0, 200)), np.array([[0.25, 1.0]], np.float32), 255.0)
    assert out.tolist() == [[[216, 191, 241], [100, 0, 200]]]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1)])
def test_any_size_and_no_writing(size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    image.flags.writeable = False
    strided = np.stack([image] * 2, -1)[..., 1]
    for call in (
        lambda i: image_light.brightness(i, 0.6),
        lambda i: image_light.limit_value(i, 0.7),
        lambda i: image_light.dark(i, np.random.default_rng(0), 0.6, 2.0, 250.0, 0.008),
        lambda i: image_light.grey_blend(i, 0.3),
        lambda i: image_light.sun_flare(i, (0.0, 0.0), 30.0)[0],
    ):
        out = call(image)
        assert out.shape == image.shape and out.dtype == np.uint8 and np.array_equal(out, call(strided))
