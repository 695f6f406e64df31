"""A val split without an object that counts is an error of the check; the metric refuses it after all trainings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from metrics_boxes import CONFIG
from worlds import with_tables_to_edit

from aqr_bench.data.__main__ import main as make_infos
from aqr_bench.data.check.check import check_root
from aqr_bench.data.check.check import main as check
from aqr_bench.data.infos import open_nuscenes
from aqr_bench.errors import UserError
from aqr_bench.metrics.detection import evaluated_truth
from aqr_bench.metrics.scoring_rules import OFFICIAL_RULES, ScoringRules
from aqr_bench.study.load import load_tier
from aqr_bench.study.vocabulary import IGNORE, Vocabulary

VERSION = "v1.0-mini"


@pytest.fixture
def root(world, tmp_path) -> Path:
    """The world with tables of its own, as data of somebody else."""
    return with_tables_to_edit(world, tmp_path / "root")


@pytest.fixture(scope="module")
def val_samples(world, nusc) -> set[str]:
    from aqr_bench.metrics.ground_truth import read_split

    return set(read_split(nusc, "mini_val").samples.tokens)


def read(root: Path, table: str) -> list[dict]:
    return json.loads((root / VERSION / f"{table}.json").read_text())


def write(root: Path, table: str, rows: list[dict]) -> None:
    (root / VERSION / f"{table}.json").write_text(json.dumps(rows))


def scored(root: Path, vocabulary: Vocabulary | None = None, scoring: ScoringRules = OFFICIAL_RULES) -> list[str]:
    findings = check_root(root, partial=True, samples=0, vocabulary=vocabulary, scoring=scoring).findings
    return [finding.line() for finding in findings if finding.group == "scored"]


def refused(root: Path) -> str:
    with pytest.raises(UserError) as error:
        evaluated_truth(open_nuscenes(root, VERSION))
    return str(error.value)


def test_a_val_split_with_objects_passes(world):
    assert scored(world) == []


def without_annotations(rows: list[dict], val: set[str]) -> list[dict]:
    return []


def without_points(rows: list[dict], val: set[str]) -> list[dict]:
    return [{**row, **(dict(num_lidar_pts=0, num_radar_pts=0) if row["sample_token"] in val else {})} for row in rows]


def far_away(rows: list[dict], val: set[str]) -> list[dict]:
    x, y, z = 60, 60, 0
    moved = [[a + b for a, b in zip(row["translation"], (x, y, z), strict=True)] for row in rows]
    return [{**row, "translation": place} for row, place in zip(rows, moved, strict=True)]


@pytest.mark.parametrize(
    ("change", "ours", "metrics"),
    [
        (without_annotations, "has no object of any detection class to be scored", "no object of any detection class"),
        (without_points, "have no LiDAR or radar point, the others are out of the range", "no object that counts"),
        (
            far_away,
            "have no LiDAR or radar point, the others are out of the range of their class",
            "no object that counts",
        ),
    ],
)
def test_nothing_to_score_is_an_error(root, val_samples, change, ours, metrics):
    write(root, "sample_annotation", change(read(root, "sample_annotation"), val_samples))
    if change is without_annotations:
        write(root, "instance", [])
    (line,) = scored(root)
    assert line.startswith("error: scored: split mini_val, the one that is evaluated, ") and ours in line
    assert metrics in refused(root)


def test_objects_count_within_the_configured_ranges(root):
    write(root, "sample_annotation", far_away(read(root, "sample_annotation"), set()))
    assert scored(root) and scored(root, scoring=ScoringRules({"car": 40.0}))
    assert scored(root, scoring=ScoringRules({"car": 140.0})) == []


def test_a_tier_brings_its_ranges_to_the_check_and_to_the_info_files(world, tmp_path, capsys):
    ranges = dict.fromkeys(CONFIG.class_range, 0.1)
    tier = yaml.safe_load(load_tier("smoke").path.read_text()) | {"name": "near"}
    tier["evaluate"] = {**tier.get("evaluate", {}), "ranges": ranges}
    (tmp_path / "near.yaml").write_text(yaml.safe_dump(tier))
    words = ["--tier", str(tmp_path / "near.yaml"), "--root", str(world)]
    assert check([*words, "--samples", "0"]) == 1
    assert "that counts: of" in capsys.readouterr().out
    with pytest.raises(UserError, match="no object that counts"):
        make_infos([*words, "--out", str(tmp_path / "infos"), "--quiet"])


def test_the_least_object_is_enough(root, val_samples):
    """One box of the val split with one radar point, near the car."""
    rows = without_points(read(root, "sample_annotation"), val_samples)
    nusc = open_nuscenes(root, VERSION)
    for row in rows:
        if row["sample_token"] not in val_samples:
            continue
        lidar = nusc.get("sample_data", nusc.get("sample", row["sample_token"])["data"]["LIDAR_TOP"])
        row.update(num_radar_pts=1, translation=nusc.get("ego_pose", lidar["ego_pose_token"])["translation"])
        break
    write(root, "sample_annotation", rows)
    assert scored(root) == [] and len(evaluated_truth(open_nuscenes(root, VERSION)).boxes) == 1


def test_names_of_its_own_count_as_they_are_mapped(root):
    rows = read(root, "category")
    write(root, "category", [{**row, "name": f"my {row['name']}"} for row in rows])
    assert scored(root) == [], "that the names are unknown is reported; what follows from it is not"
    names = {f"my {row['name']}": row["name"] for row in rows}
    assert scored(root, Vocabulary(categories=names)) == []
    (line,) = scored(root, Vocabulary(categories=dict.fromkeys(names, IGNORE)))
    assert "no object of any detection class" in line


def test_nothing_is_said_where_tables_are_incomplete(root):
    rows = read(root, "sample_annotation")
    write(root, "sample_annotation", [{**row, "num_lidar_pts": None} for row in rows])
    assert scored(root) == []
    write(root, "sample_annotation", [{**row, "instance_token": "gone", "num_lidar_pts": 1} for row in rows])
    assert scored(root) == []
