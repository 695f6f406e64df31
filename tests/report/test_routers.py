"""What the router sees: the ROC area against its definition, damaged files, the table and the figure."""

from __future__ import annotations

import numpy as np
import pytest

from aqr_bench.report.routers import distribution_figure, load_weights, roc_area, sensing_table
from aqr_bench.study.load import load_study


def test_roc_area_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    present, missing = rng.integers(0, 5, 40).astype(float), rng.integers(-2, 4, 30).astype(float)
    pairs = np.subtract.outer(present, missing)
    assert roc_area(present, missing) == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
    assert roc_area(np.ones(3), np.zeros(2)) == 1 and roc_area(np.ones(3), np.ones(2)) == 0.5
    assert np.isnan(roc_area(np.zeros(0), np.ones(2)))


def test_tables_and_figure_from_files(tmp_path):
    study = load_study("router")
    rng, files = np.random.default_rng(1), {}
    for condition, means in (("clean", (0.8, 0.8)), ("no_lidar", (-0.8, 0.8)), ("no_cameras", (0.8, 0.7))):
        path = tmp_path / f"{condition}.npz"
        np.savez(path, weight=np.clip(rng.normal(means, 0.1, (6, 50, 2)), -1, 1).astype(np.float16))
        files["supervised", 0, condition] = path
        files["constant", 0, condition] = tmp_path / "constant.npz"
    np.savez(tmp_path / "constant.npz", weight=np.ones((6, 50, 2), np.float16))
    table = sensing_table(study, files)
    areas = table.data.set_index(["variant", "sensor"])["mean"]
    assert areas["supervised", "lidar"] > 0.999 and 0.6 < areas["supervised", "camera"] < 0.9
    assert areas["constant", "lidar"] == areas["constant", "camera"] == 0.5
    assert list(table.text["Variant"]) == ["constant", "supervised"]
    figure = distribution_figure(study, files)
    assert [axis.get_ylabel() for axis in figure.axes] == ["supervised", ""]  # a constant has no distribution
    assert distribution_figure(study, {}) is None and sensing_table(study, {}).text.empty


def test_damaged_files_are_nothing(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 cut off")
    np.savez(tmp_path / "b.npz", weight=np.zeros(4))
    np.savez(tmp_path / "c.npz", weight=np.full((2, 3, 2), np.nan, np.float16))
    assert all(load_weights(tmp_path / name) is None for name in ("a.npz", "b.npz", "c.npz", "none.npz"))
    assert sensing_table(load_study("router"), {("learned", 0, "clean"): tmp_path / "a.npz"}).text.empty
