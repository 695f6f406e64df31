"""Weather in images: light and contrast of fog, places and share of flakes and streaks."""

from __future__ import annotations

import numpy as np
import pytest
from corruption_frames import real_keyframe

from aqr_bench.corruptions.image import weather as image_weather
from aqr_bench.corruptions.image.weather import plasma
from aqr_bench.errors import UserError


def rng(seed=0):
    return np.random.default_rng(seed)


def flat(level, size=(90, 160)):
    return np.full((*size, 3), level, np.uint8)


def roughness(field):
    return np.abs(np.diff(field, axis=0)).mean() / field.std()


# ---------------------------------------------------------------- plasma


def test_plasma_is_a_random_field_from_0_to_1():
    field = plasma(256, 256, 1.7, rng())
    assert field.shape == (256, 256) and field.dtype == np.float32
    assert field.min() == pytest.approx(0, abs=1e-6) and field.max() == pytest.approx(1, abs=1e-6)
    assert not np.array_equal(field, plasma(256, 256, 1.7, rng(1)))
    means = [plasma(32, 32, 2.0, rng(k)).mean() for k in range(200)]
    assert np.mean(means) == pytest.approx(0.5, abs=0.03)


def test_plasma_gets_smoother_with_decay_and_has_no_seams():
    rough = [np.mean([roughness(plasma(128, 128, d, rng(k))) for k in range(5)]) for d in (1.2, 1.5, 2.0, 3.0)]
    assert rough == sorted(rough, reverse=True) and rough[0] > 3 * rough[-1]
    field = plasma(128, 128, 2.0, rng())
    # Periodic: the last row joins the first, and enlarging the coarse field leaves no steps every four rows.
    steps = np.abs(np.diff(field, axis=0)).mean(1)
    assert np.abs(field[0] - field[-1]).mean() < 4 * steps.mean()
    assert steps[3::4].mean() == pytest.approx(steps.mean(), rel=0.2)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (63, 64), (65, 64), (3, 200)])
def test_plasma_has_any_size(size):
    field = plasma(*size, 1.7, rng())
    assert field.shape == size and field.min() >= 0 and field.max() <= 1


# ---------------------------------------------------------------- fog


def test_plasma_fog_is_the_published_sum():
    image = flat(51)  # 0.2, which is the greatest value as well: (0.2 + 1.5 p) 0.2 / 1.7
    out = image_weather.plasma_fog(image, rng(5), 1.5, 2.0)
    expected = 255 * (0.2 + 1.5 * plasma(90, 160, 2.0, rng(5))) * 0.2 / 1.7
    assert np.abs(out - expected[..., None]).max() < 0.51
    assert np.array_equal(out[..., 0], out[..., 2])


def test_haze_is_thickest_away_from_the_road():
    image = np.zeros((90, 160, 3), np.uint8)
    image[::2] = 250
    outs = [image_weather.haze_fog(image, rng(), 2.0, beta)[..., 1].astype(float) for beta in (0.0, 0.002, 0.02)]
    contrast = [out[::2] - out[1::2] for out in outs]
    # On the road only sqrt(160) = 12.6 pixels of haze; far above it 2 * 58 * U(1, 1.25) more.
    assert contrast[2][36, 80] / contrast[0][36, 80] == pytest.approx(np.exp(-0.02 * 12.65), abs=0.03)
    above = contrast[2][0, 20:130].mean() / contrast[0][0, 20:130].mean()
    assert np.exp(-0.02 * (12.65 + 145)) < above < np.exp(-0.02 * (12.65 + 116))
    assert outs[2][:2].mean() == pytest.approx(127.5, abs=8)  # nothing but air light
    # Each pixel has a factor of its own.
    assert outs[2][0, 20:130:1].std() > 0.2


def test_fog_lifts_shadows_and_lowers_contrast(keyframe):
    view = real_keyframe(keyframe).views[0]
    clear = view.image.astype(float)
    for foggy in (
        image_weather.plasma_fog(view.image, rng(), 1.5, 2.0),
        image_weather.haze_fog(view.image, rng(), 2.0, 1e-3),
    ):
        assert foggy.std() < 0.8 * clear.std() and np.percentile(foggy, 5) > np.percentile(clear, 5) + 10
    thick = image_weather.haze_fog(view.image, rng(), 4.0, 2e-3)
    assert thick[:200].std() < 12 and thick[:200].mean() == pytest.approx(127.5, abs=12)


# ---------------------------------------------------------------- snow


def test_snow_covers_the_share_that_its_threshold_leaves():
    # A normal layer of mean 0.3 and spread 0.3 above 0.6: 15.9 %; without smear and twice, turned.
    out = image_weather.snow(flat(0, (400, 400)), rng(), 0.3, 0.3, 1.0, 0.6, 0, 1.0, 1.0)
    assert (out > 0).mean() == pytest.approx(1 - (1 - 0.1587) ** 2, abs=0.01)
    assert np.array_equal(out, out[::-1, ::-1]) and out[out > 0].min() >= 153


def test_snow_whitens_the_scene():
    # No flakes: 0.9 (0.8 * 100 + 0.2 max(100, 1.5 * 100 + 127.5)) = 121.95.
    out = image_weather.snow(flat(100), rng(), -9.0, 0.1, 3.0, 0.9, 4, 4.0, 0.8, gain=0.9)
    assert np.abs(out.astype(int) - 122).max() <= 1
    # 0.8 * 250 + 0.2 * 502.5 = 300: clipped.
    assert (image_weather.snow(flat(250), rng(), -9.0, 0.1, 3.0, 0.9, 4, 4.0, 0.8) == 255).all()


def test_flakes_grow_with_the_zoom_and_fall_along_their_angle():
    numbers = dict(loc=0.3, scale=0.3, threshold=0.9, sigma=10.0, mix=1.0)
    small, large = (
        image_weather.snow(flat(0, (200, 200)), rng(), zoom=z, radius=0, **numbers)[..., 0] > 0 for z in (2, 6)
    )
    edges = [np.abs(np.diff(f.astype(int), axis=1)).sum() / f.sum() for f in (small, large)]
    assert edges[0] > 1.7 * edges[1]
    down = image_weather.snow(flat(0, (200, 200)), rng(), zoom=2, radius=10, angle_deg=(-90.0, -90.0), **numbers)
    assert roughness(down[..., 0].astype(float)) < 0.5 * roughness(down[..., 0].T.astype(float))


# ---------------------------------------------------------------- rain


def streaks(density, angle=0.0, speed=0.1, size=(300, 300), seed=0, level=0):
    pair = lambda v: (v, v)  # noqa: E731
    out = image_weather.rain(
        flat(level, size), rng(seed), pair(density), pair(0.5), pair(angle), pair(speed), pair(1.0)
    )
    return out[..., 0].astype(float)


def test_rain_is_as_bright_as_its_density():
    # Drops of 255 (1 + 2 / pi) / 2 on average, blended towards 240 with 1.3 / 255 of it: 12.8 and 51.0. Enlarging cells
    # clips the negative lobes, which makes them brighter. imgaug 0.4's layer on black gives 16.1 and 57.9.
    for density, expected in ((0.05, 16.1), (0.2, 57.9)):
        assert streaks(density, size=(450, 800)).mean() == pytest.approx(expected, rel=0.03)
    assert not streaks(0.0).any()
    assert streaks(0.2, level=255).max() == 255 and streaks(0.2, level=255).mean() < 254


@pytest.mark.parametrize("angle", [-15.0, 0.0, 15.0])
def test_streaks_lean_with_the_fall(angle):
    out = streaks(0.05, angle)
    # Correlation of rows 20 apart is greatest where the streaks have moved to.
    moves = np.arange(-10, 11)
    likeness = [np.corrcoef(out[:-20, 20:-20].ravel(), np.roll(out, -m, 1)[20:, 20:-20].ravel())[0, 1] for m in moves]
    assert moves[np.argmax(likeness)] == pytest.approx(20 * np.tan(np.radians(angle)), abs=1) and max(likeness) > 0.1


def test_streaks_have_their_length_and_are_brightest_below():
    drops = np.zeros((60, 1), np.uint8)
    drops[40] = 250
    line = image_weather._smeared(drops, 10)[:, 0]
    assert (
        np.allclose(line[31:41], 250 * 2 / (10 * 11) * np.arange(1, 11)) and not line[41:].any() and not line[:31].any()
    )
    long, short = streaks(0.05, speed=0.2), streaks(0.05, speed=0.02)
    assert roughness(long) < 0.5 * roughness(short)


def test_rain_beyond_its_angles_is_refused():
    with pytest.raises(UserError, match="60 degrees"):
        streaks(0.1, angle=80.0)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1)])
def test_any_size_and_no_writing(size):
    image = rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    image.flags.writeable = False
    strided = np.stack([image] * 2, -1)[..., 1]
    with np.errstate(all="raise", under="ignore"):
        for call in (
            lambda i: image_weather.plasma_fog(i, rng(), 3.0, 1.4),
            lambda i: image_weather.haze_fog(i, rng(), 4.0, 0.002),
            lambda i: image_weather.snow(i, rng(), 0.55, 0.3, 2.5, 0.85, 12, 12.0, 0.55),
            lambda i: image_weather.rain(i, rng(), (0.2, 0.25)),
        ):
            out = call(image)
            assert out.shape == image.shape and out.dtype == np.uint8 and np.array_equal(out, call(strided))
            call(np.zeros_like(image))
