"""Noise on images: means, spreads and shares as published, clipping at the ends, the exact distribution in the dark."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, poisson

from aqr_bench.corruptions.image import noise as image_noise


def rng(seed=0):
    return np.random.default_rng(seed)


def flat(level, size=(300, 400)):
    return np.full((*size, 3), level, np.uint8)


@pytest.mark.parametrize("sigma", [0.08, 0.12])
def test_gaussian_has_its_sigma_and_is_truncated(sigma):
    out = image_noise.gaussian(flat(128), rng(), sigma).astype(float)
    # Truncation takes away half a level on average; its own variance is 1/12.
    assert out.mean() == pytest.approx(127.5, abs=0.3)
    assert out.std() == pytest.approx(np.hypot(255 * sigma, 12**-0.5), rel=0.01)
    within = (np.abs(out + 0.5 - 128) < 255 * sigma).mean()
    assert within == pytest.approx(0.683, abs=0.015)


def test_gaussian_clips_and_draws_for_every_value():
    black, white = (image_noise.gaussian(flat(v), rng(), 0.2) for v in (0, 255))
    assert (black == 0).mean() == pytest.approx(norm.cdf(1 / 51), abs=0.01)  # truncated: 0 up to one level of 255 * 0.2
    assert (white == 255).mean() == pytest.approx(0.5, abs=0.01)
    out = image_noise.gaussian(flat(128), rng(), 0.1).astype(float).reshape(-1, 3)
    assert np.abs(np.corrcoef(out.T) - np.eye(3)).max() < 0.02


def test_uniform_stays_within_its_amount_and_is_even():
    out = image_noise.uniform(flat(128), rng(), 0.12).astype(int)
    assert out.min() == 97 and out.max() == 158  # 128 -+ 30.6, downwards
    counts = np.bincount(out.ravel(), minlength=256)[98:158]
    assert counts.std() / counts.mean() < 0.03


def test_impulse_hits_a_share_of_the_values_half_of_them_white():
    out = image_noise.impulse(flat(100), rng(), 0.17)
    assert (out == 255).mean() == pytest.approx(0.085, abs=0.002) and (out == 0).mean() == pytest.approx(
        0.085, abs=0.002
    )
    assert (out == 100).mean() == pytest.approx(0.83, abs=0.003)
    # Values, not pixels: whole pixels are hit by chance only.
    assert (out != 100).all(-1).mean() == pytest.approx(0.17**3, abs=0.002)
    assert np.array_equal(image_noise.impulse(flat(100), rng(), 0.0), flat(100))


def test_dark_noise_has_the_exact_distribution():
    signal = np.full(256, 0.2)
    out = image_noise.dark_noise(flat(7, (500, 500)), rng(), signal, 50.0, 0.026)
    counts = np.arange(200)
    for level in (30, 50, 70):
        most = (poisson.pmf(counts, 10.0) * norm.cdf((level + 1) / 255, np.minimum(counts / 50, 1), 0.026)).sum()
        assert (out <= level).mean() == pytest.approx(most, abs=0.003)
    # Poisson of mean 10, as part of 50, and the Gaussian; in levels of 255, truncated.
    assert out.mean() == pytest.approx(0.2 * 255 - 0.5, abs=0.3)
    assert out.astype(float).std() == pytest.approx(255 * np.hypot(10**0.5 / 50, 0.026), rel=0.02)


def test_dark_noise_goes_by_the_value():
    ramp = np.repeat(np.arange(256, dtype=np.uint8), 600).reshape(256, 200, 3)
    out = image_noise.dark_noise(ramp, rng(), np.arange(256) / 255, 250.0, 0.008)
    assert np.abs(out.mean((1, 2))[:240] - np.arange(240) + 0.5).max() < 3
    # Clipped twice, as in the source: half of the photon counts are at full range, half of the Gaussians then above it.
    counts = np.arange(400)
    full = (poisson.pmf(counts, 250.0) * norm.sf(1.0, np.minimum(counts / 250, 1), 0.008)).sum()
    assert 0.25 < full < 0.3 and (out[255] == 255).mean() == pytest.approx(full, abs=0.06)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1)])
def test_any_size_and_no_writing(size):
    image = flat(90, size)
    image.flags.writeable = False
    strided = np.stack([image] * 2, -1)[..., 1]
    for call in (
        lambda i: image_noise.gaussian(i, rng(3), 0.3),
        lambda i: image_noise.uniform(i, rng(3), 0.3),
        lambda i: image_noise.impulse(i, rng(3), 0.5),
        lambda i: image_noise.dark_noise(i, rng(3), np.linspace(0, 1, 256), 50.0, 0.02),
    ):
        out = call(image)
        assert out.shape == image.shape and out.dtype == np.uint8 and np.array_equal(out, call(strided))
