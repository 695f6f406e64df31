"""Types of errors and calibration in the report: rows over seeds, figures, and nothing where matches are older."""

from __future__ import annotations

from pathlib import Path

import pytest
from metrics_matches import detected, matches_of
from report_records import made_up_matches

from aqr_bench.metrics.error_types import DUPLICATE
from aqr_bench.report.diagnosis import Diagnosis, diagnose
from aqr_bench.report.figures.diagnosis import errors_figure, reliability_figure
from aqr_bench.report.tables.diagnosis import calibration_table, error_types_table

PALETTE = {"none": "grey", "cross": "blue"}


@pytest.fixture(scope="module")
def diagnoses(tmp_path_factory) -> dict:
    """Two variants, one of two seeds; the other has one duplicate and one detection of the wrong class."""
    folder, by_run = tmp_path_factory.mktemp("matches"), {}
    worse = detected(
        (0, "truck", 0.0), extra=[("car", 20.2, 0.0, 0.9)] + [("bus", 10.0, 50.0 + i, 0.1) for i in range(30)]
    )
    for variant, seed, boxes in (("none", 0, detected()), ("none", 1, detected()), ("cross", 0, worse)):
        path = matches_of(boxes).save(folder / f"{variant}{seed}.npz")
        by_run[variant, seed, "clean"] = diagnose(path)
    return by_run


def test_gains_over_seeds(diagnoses):
    table = error_types_table("errors", diagnoses)
    assert list(table.text["Variant"]) == ["none", "cross"] and list(table.text["Seeds"]) == ["2", "1"]
    rows = table.data.set_index(["variant", "type"])
    duplicates = diagnoses["cross", 0, "clean"].errors[DUPLICATE]
    assert rows.loc[("cross", DUPLICATE), "map_gain"] == duplicates.map_gain > 0
    assert rows.loc[("cross", DUPLICATE), "count"] == 1 and rows.loc[("none", DUPLICATE), "map_gain"] == 0
    assert rows.loc[("none", DUPLICATE), "seeds"] == 2 and "TIDE" in table.note


def test_calibration_pools_classes_and_has_each(diagnoses):
    table = calibration_table("calibration", diagnoses)
    rows = table.data.set_index(["variant", "class"])
    assert rows.loc[("none", "all"), "ece"] == pytest.approx(0.5) == rows.loc[("none", "car"), "ece"]
    assert rows.loc[("none", "all"), "detections"] == 20
    assert rows.loc[("cross", "all"), "precision_confident"] == pytest.approx(19 / 21)
    assert table.text["ECE"].iloc[0] == "0.500"


def test_figures_have_what_there_is(diagnoses):
    assert [axis.get_title() for axis in errors_figure(diagnoses, PALETTE).axes] == ["clean"]
    lines = reliability_figure(diagnoses, PALETTE).axes[0].get_lines()
    assert len(lines) == 3 and lines[1].get_ydata().tolist() == [1.0]
    assert errors_figure({}, PALETTE) is None and reliability_figure({}, PALETTE) is None


def test_older_and_missing_matches(tmp_path):
    older = diagnose(made_up_matches(0.0, 0).save(tmp_path / "older.npz"))
    assert older.errors is None and older.reliability["car"].count.sum() == 120
    diagnoses = {("none", 0, "clean"): older, ("cross", 0, "clean"): Diagnosis(None, None)}
    assert len(error_types_table("e", diagnoses)) == 0 and len(calibration_table("c", diagnoses)) == 1
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 cut off")
    assert diagnose(tmp_path / "damaged.npz") is None and diagnose(None) is None and diagnose(Path("nowhere")) is None
