"""The figures from records with known numbers: what is on the front, in the grid, on the curves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from report_records import fill, made_up_matches, make_study

from aqr_bench.metrics.matches import ClassMatches
from aqr_bench.metrics.nuscenes import RECALL
from aqr_bench.report.collect import collect_base, collect_study
from aqr_bench.report.figures.pareto import front, pareto_figure
from aqr_bench.report.figures.precision_recall import curves_by_class, precision_over_recall, recall_figure
from aqr_bench.report.figures.study import draw_study, metrics_figure
from aqr_bench.report.figures.style import GREY, colours, palette_of
from aqr_bench.report.figures.window_grid import grid_figure, grid_of
from aqr_bench.report.routers import bev_figure, queries_of
from aqr_bench.report.score_statistics import interval_half
from aqr_bench.study.load import load_study, load_tier


def results_of(tmp_path, study_path, **how):
    fill(tmp_path / "results", study_path, **how)
    study = load_study(study_path)
    return study, collect_study(tmp_path / "results", load_tier("smoke"), study)


@pytest.mark.parametrize(
    ("points", "wanted"),
    [
        ([(1, 0.3), (2, 0.5), (3, 0.4), (4, 0.6)], [0, 1, 3]),
        ([(2, 0.5), (1, 0.5)], [1]),  # as good and cheaper
        ([(1, 0.4), (1, 0.5)], [1]),
        ([(1, 0.5), (1, 0.5)], [0, 1]),  # equal ones do not beat each other
        ([], []),
    ],
)
def test_pareto_front(points, wanted):
    assert front(points) == wanted


def test_pareto_figure_fills_what_is_on_the_front(tmp_path):
    study, results = results_of(tmp_path, make_study(tmp_path))  # cross: better, slower, and of the same memory
    figure = pareto_figure(study, results)
    diamonds = [[line for line in axis.lines if line.get_marker() == "D"] for axis in figure.axes]
    white = [[line.get_markerfacecolor() == "white" for line in lines] for lines in diamonds]
    assert white == [[False, False], [True, False]]
    assert diamonds[0][1].get_xdata()[0] == 11 and diamonds[1][1].get_xdata()[0] == 5
    results.measures["status"] = "failed"
    assert pareto_figure(study, results) is None


def test_intervals_are_those_of_student(tmp_path):
    # t(2 degrees of freedom) = 4.3027, sd 1, n 3
    assert interval_half([1, 2, 3]) == pytest.approx(4.302652 / np.sqrt(3)) and interval_half([1.0]) is None
    study, results = results_of(tmp_path, make_study(tmp_path, seeds=(0, 1, 2)))
    line = metrics_figure(study, results).axes[0].lines[0].get_xdata()
    scores = results.evaluations.query("variant == 'none' and condition == 'clean'")["mAP"]
    assert (line[1] - line[0]) / 2 == pytest.approx(interval_half(list(scores)))


def grid_variants(cells, **more) -> dict:
    key = "model.pts_bbox_head.aqr"
    block = {f"b{b}-c{c}": {key: {"site": "cross", "bev_window": b, "camera_window": c, **more}} for b, c in cells}
    return {name: {"summary": name, "config": config} for name, config in {"none": {key: None}, **block}.items()}


def grid_study(folder, variants):
    path = make_study(folder)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "variants": variants}, sort_keys=False))
    return path


def test_window_grid(tmp_path):
    cells = [(3, 3), (3, 5), (5, 3), (15, 15)]
    path = grid_study(tmp_path, grid_variants(cells))
    study, results = results_of(tmp_path, path, effects={"b3-c5": 0.1}, spread=0)
    assert grid_of(study)[3, 5] == "b3-c5" and len(grid_of(study)) == 4
    axis = grid_figure(study, results, {}).axes[0]
    shown = [text.get_text() for text in axis.texts]
    assert shown.count("0.400") == 3 and shown.count("0.500") == 1 and shown.count("–") == 5
    assert axis.get_title() == "clean\nnone: 0.400"


def test_a_diagonal_or_a_second_difference_is_no_grid(tmp_path):
    diagonal = load_study(grid_study(tmp_path, grid_variants([(3, 3), (5, 5), (15, 15)])))
    assert grid_of(diagonal) == {} and grid_of(load_study("windows")) == {}
    mixed = grid_variants([(3, 3), (3, 5), (5, 3), (5, 5)])
    mixed["b5-c5"]["config"]["model.pts_bbox_head.aqr"]["site"] = "self"
    assert grid_of(load_study(grid_study(tmp_path, mixed))) == {}


def test_precision_over_recall_by_hand():
    # Detections in order: hit, miss, hit; four objects.
    result = ClassMatches(np.array([0.9, 0.8, 0.7]), np.zeros(3, int), np.array([[1], [0], [1]], bool), np.array([4]))
    curve = precision_over_recall(result, 0)
    assert curve[[25, 50]] == pytest.approx([0.5, 2 / 3]) and curve[10] == 1 and (curve[51:] == 0).all()
    nothing = ClassMatches(np.zeros(0), np.zeros(0, int), np.zeros((0, 1), bool), np.array([4]))
    assert (precision_over_recall(nothing, 0) == np.zeros(101)).all()
    assert precision_over_recall(replace(result, positives=np.array([0])), 0) is None


def test_the_area_under_the_curve_is_the_devkits_ap(tmp_path):
    matches = made_up_matches(0.2, 0)
    curve = precision_over_recall(matches.classes["car"], 2)
    above = np.maximum(curve[11:] - 0.1, 0).mean() / 0.9  # nuscenes-devkit, calc_ap
    assert above == pytest.approx(matches.ap("car")[0, 2], abs=1e-9)
    study, results = results_of(tmp_path, make_study(tmp_path), scenes=12)
    curves = curves_by_class(study, results, "clean")
    both = [precision_over_recall(made_up_matches(0.05, seed).classes["car"], 2) for seed in (0, 1)]
    assert curves["car"]["cross"] == pytest.approx(np.mean(both, axis=0)) and len(RECALL) == 101
    assert recall_figure(study, results) is not None


def test_router_weights_on_the_ground(tmp_path):
    study = load_study(make_study(tmp_path))
    rng, files = np.random.default_rng(0), {}
    score = np.array([[0.1, 0.2, 0.1], [0.9, 0.8, 0.1]])
    for condition in ("clean", "no_lidar"):
        path = tmp_path / f"{condition}.npz"
        np.savez(path, token=["a", "b"], score=score, weight=rng.uniform(-1, 1, (2, 3, 2)), centre=np.ones((2, 3, 2)))
        files["cross", 0, condition] = path
    token, frame = queries_of(files["cross", 0, "clean"])
    assert token == "b" and frame.weights.camera.shape == (3,) and queries_of(files["cross", 0, "clean"], "z") is None
    caption, figure = bev_figure(study, files)
    assert "'cross' (seed 0)" in caption and [a.get_title() for a in figure.axes][:2] == ["clean", "no_lidar"]
    drawn = figure.axes[0].collections[0]
    assert sorted(drawn.get_array()) == pytest.approx(sorted(frame.weights.lidar))
    assert bev_figure(study, {("cross", 0, "clean"): tmp_path / "gone.npz"}) is None


def test_a_variant_has_one_colour(tmp_path):
    study = load_study(make_study(tmp_path, variants=("cross", "none", "self")))
    assert colours(study)["none"] == GREY and colours(study) == palette_of(["cross", "none", "self"], "none")
    many = palette_of([f"v{i}" for i in range(30)], "v3")
    assert len(set(many.values())) == 30


def test_every_figure_is_written_twice(tmp_path):
    path = make_study(tmp_path)
    study, results = results_of(tmp_path, path, scenes=12)
    base = collect_base(tmp_path / "results", load_tier("smoke"), [study])
    drawn = draw_study(study, results, base, tmp_path)
    assert {f.path.stem for f in drawn} >= {
        f"made_up_{n}" for n in ("metrics", "pareto", "recall", "curves", "heatmap")
    }
    captions = (Path(__file__).parents[2] / "workflow" / "report" / "figure.rst").read_text()
    assert all(f'"{f.path.stem.removeprefix("made_up_")}": "' in captions for f in drawn), "for snakemake --report"
    assert all(f.caption and f.path.is_file() and f.path.with_suffix(".pdf").is_file() for f in drawn)
