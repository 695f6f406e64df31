"""Measured beside published: made-up records, every state a number can be in, and a section of its own on the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from aqr_bench.errors import UserError
from aqr_bench.records.record import Record, write_records
from aqr_bench.report.collect import collect_study
from aqr_bench.report.page import build_report
from aqr_bench.report.tables.published import comparison_sentence, comparison_table, published_rows, published_tables
from aqr_bench.study.load import load_study, load_suite, load_tier
from aqr_bench.study.runs import matrix
from aqr_bench.study.spec import Study, Tier

pytestmark = pytest.mark.usefixtures("blank_figures")

STUDY, PAPER = load_study("paper_cmt"), load_tier("paper")
BLIND = "the model does not use cameras, and the condition changes only images"
# mAP and NDS, as fractions.
CLEAN = {
    "camera_vov": (0.4062, 0.4630000),  # NDS: at the very edge of the tolerance
    "lidar_voxel0075": (0.6214, 0.6900),  # NDS: 0.4 above
    "voxel0075_vov": (0.7030, 0.7290),
}


def evaluated(variant: str, suite: str, condition: str, scores=None, status="ok", reason=None) -> Record:
    result = {} if scores is None else dict(zip(("mAP", "NDS"), scores, strict=True))
    proof = {"input_sha256": f"{variant} {condition}"} if status == "ok" else {}
    where = dict(study=STUDY.name, variant=variant, seed=0, condition=condition, suite=suite)
    return Record("evaluate", status, PAPER.name, **where, reason=reason, scores=result, provenance=proof)


@pytest.fixture
def records(tmp_path) -> Path:
    """Published weights, but one model that was trained, one that failed, and one condition that cannot concern it."""
    for run in matrix(PAPER, [STUDY]):
        name, ok = run.variant, run.variant != "voxel0100_r50"
        extra = {"trained": False, "start": {"kind": "published", "file": "x.pth", "sha256": "0"}}
        if name == "lidar_voxel0075":
            extra = {}
        reason = None if ok else "RuntimeError: paper.yaml: models.cmt_voxel0100.checkpoint: no file x.pth"
        own = dict(study=STUDY.name, variant=name, seed=0)
        train = Record("train", "ok" if ok else "failed", PAPER.name, **own, reason=reason, extra=extra)
        write_records(tmp_path / run.folder / "train.jsonl", [train])
        rows = []
        for condition in STUDY.suite.conditions:
            scores = CLEAN.get(name, (0, 0)) if condition.name == "clean" else (0.3, 0.445)
            row = evaluated(name, STUDY.suite.name, condition.name, scores)
            if name == "lidar_voxel0075" and condition.name == "no_cameras":
                row = evaluated(name, STUDY.suite.name, condition.name, None, "not_applicable", BLIND)
            if not ok:
                row = evaluated(name, STUDY.suite.name, condition.name, None, "failed", f"training failed: {reason}")
            rows.append(row)
        write_records(tmp_path / run.folder / f"evaluate.{STUDY.suite.name}.jsonl", rows)
        if name in ("voxel0075_vov", "lidar_voxel0075"):
            rows = [evaluated(name, "mome", c.name, (0.5, 0.6)) for c in load_suite("mome").conditions]
            if name == "lidar_voxel0075":
                rows[5] = evaluated(name, "mome", rows[5].condition, None, "not_applicable", BLIND)
            write_records(tmp_path / run.folder / "evaluate.mome.jsonl", rows)
    return tmp_path


def compared(records: Path, tier: Tier = PAPER, study: Study = STUDY) -> pd.DataFrame:
    table = comparison_table(study, tier, collect_study(records, PAPER, study), records)
    return table.data.set_index(["variant", "condition", "metric"])


def test_every_number_has_its_state(records):
    table = compared(records)
    assert len(table) == 10  # mAP and NDS of four models, and two rows without a sensor
    table = table.sort_index()
    camera = table.loc["camera_vov", "clean"].loc[["mAP", "NDS"]]
    assert camera["difference"].tolist() == pytest.approx([0.02, 0.3]) and camera["within"].tolist() == ["yes", "yes"]
    assert camera["weights"].tolist() == ["published"] * 2 and camera["tolerance"].tolist() == [0.3, 0.3]
    # 0.4 above would be too much for published weights, and is not for a training.
    lidar = table.loc["lidar_voxel0075", "clean", "NDS"]
    assert (lidar["within"], lidar["tolerance"], lidar["weights"]) == ("yes", 1.0, "trained here")
    gone = table.loc["voxel0100_r50", "clean", "mAP"]
    assert gone["within"].startswith("failed: training failed") and pd.isna(gone["difference"])
    assert gone["published"] == 67.9 and pd.isna(gone["measured"])
    best = table.loc["voxel0075_vov"]
    assert best.loc[("no_lidar", "NDS"), "difference"] == pytest.approx(-0.2)
    blind = best.loc["no_cameras", "NDS"]
    assert (blind["within"], blind["published"]) == ("no", 68.1) and blind["difference"] == pytest.approx(44.5 - 68.1)


def test_just_outside_the_tolerance_is_outside(records):
    tight = replace(STUDY, published={**STUDY.published, "tolerance": {"published": 0.299, "trained": 0.399}})
    table = compared(records, study=tight)
    assert table.loc["camera_vov", "clean", "NDS"]["within"] == "no"
    assert table.loc["lidar_voxel0075", "clean", "NDS"]["within"] == "no"


def test_numbers_on_other_data_are_not_compared(records):
    table = compared(records, tier=replace(PAPER, version="v1.0-mini"))
    row = table.loc["voxel0075_vov", "clean", "NDS"]
    assert row["within"] == "not comparable: measured on nuscenes v1.0-mini" and pd.isna(row["difference"])
    assert not {"yes", "no"} & set(table["within"])


def test_numbers_on_a_split_of_ones_own_are_not_compared(records, tmp_path):
    (tmp_path / "v1.0-trainval").mkdir()
    (tmp_path / "v1.0-trainval" / "splits.json").write_text('{"my_train": ["a"], "my_val": ["b"]}')
    table = compared(records, tier=replace(PAPER, data_root=tmp_path))
    row = table.loc["voxel0075_vov", "clean", "NDS"]
    assert row["within"] == "not comparable: measured on nuscenes v1.0-trainval, split 'my_val'"
    assert not {"yes", "no"} & set(table["within"])


def test_what_has_not_been_run_is_said(tmp_path):
    table = comparison_table(STUDY, PAPER, collect_study(tmp_path, PAPER, STUDY), tmp_path)
    assert all(within.startswith("missing: no record") for within in table.data["within"])
    assert comparison_sentence(table) == (
        "Of 10 published numbers, 0 are met within the tolerance and 0 missed; 10 have no measured one beside them."
    )


def test_the_protocol_of_another_model_has_no_difference(records):
    table = published_tables(STUDY, PAPER, collect_study(records, PAPER, STUDY), records)[1]
    rows = table.text.set_index("Condition")
    assert rows["MoME (published)"].to_dict() == dict(
        clean="73.6", beams_4="63", lidar_drop="48.2", fov_60="58.3", object_failure="71", view_drop="69.5",
        occlusion_procedural="70.5",
    )  # fmt: skip
    assert set(rows["voxel0075_vov"]) == {"60.0"} and set(rows["voxel0100_r50"]) == {"–"}
    assert rows.loc["view_drop", "lidar_voxel0075"] == "not applicable"
    assert not [c for c in table.text.columns if "ifference" in c or "olerance" in c]


def test_the_protocol_with_severities_says_which_variant_is_the_same_model(records):
    rows = [evaluated("voxel0075_vov", "multicorrupt", "fog_3", (0.5, 0.6))]
    rows += [evaluated("lidar_voxel0075", "multicorrupt", "fog_3", None, "not_applicable", BLIND)]
    for row in rows:
        folder = records / PAPER.name / STUDY.name / row.variant / "seed0"
        write_records(folder / "evaluate.multicorrupt.jsonl", [row])
    table = published_tables(STUDY, PAPER, collect_study(records, PAPER, STUDY), records)[2]
    shown = table.text.set_index("Condition")
    assert len(shown) == 31 and (table.title, table.name) == (
        "MultiCorrupt's numbers for CMT",
        "paper_cmt_published_multicorrupt",
    )
    # evaluations_nds.csv: beamsreducing 1 and 3.
    assert shown.loc[["beamsreducing_1", "beamsreducing_3"], "CMT (published)"].tolist() == ["68.26", "44.97"]
    row = shown.loc["fog_3", ["voxel0075_vov", "lidar_voxel0075", "voxel0100_r50"]]
    assert row.tolist() == ["60.0", "not applicable", "–"]
    assert "CMT is the model of the variant voxel0075_vov" in table.note and "no difference is taken" in table.note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "CMD"}, "no 'CMD' in multicorrupt_nds"),
        ({"variant": "vov"}, "the study has no variant 'vov'"),
        ({"conditions": {"mist_1": "fog/1"}}, "suite 'multicorrupt' has no condition 'mist_1'"),
        ({"conditions": {"fog_1": "fog/4"}}, "no condition 'fog/4' of CMT in multicorrupt_nds"),
    ],
)
def test_a_wrong_name_in_a_protocol_is_named(tmp_path, change, message):
    last = STUDY.published["protocols"][-1]
    study = replace(STUDY, published={**STUDY.published, "protocols": [{**last, **change}]})
    with pytest.raises(UserError, match=f"paper_cmt.yaml: published.protocols: {message}"):
        published_tables(study, PAPER, collect_study(tmp_path, PAPER, study), tmp_path)


def test_the_published_names_of_the_shipped_study_are_known_and_a_wrong_one_is_named():
    result = published_rows(STUDY)
    clean = result[result["condition"] == "clean"].pivot(index="variant", columns="metric", values="value")
    assert clean["mAP"].to_dict() == dict(
        camera_vov=40.6, lidar_voxel0075=62.14, voxel0100_r50=67.9, voxel0075_vov=70.3
    )
    assert clean["NDS"].to_dict() == dict(camera_vov=46.0, lidar_voxel0075=68.6, voxel0100_r50=70.8, voxel0075_vov=72.9)
    variants = {**STUDY.variants, "camera_vov": replace(STUDY.variants["camera_vov"], published="CMT-X")}
    with pytest.raises(UserError, match=r"paper_cmt.yaml: variants.camera_vov.published: no 'CMT-X' in cmt_main"):
        published_rows(replace(STUDY, variants=variants))


def test_the_page_has_a_section_of_its_own(records):
    page = build_report(PAPER, [STUDY], records, records / "report").read_text()
    section = page.partition('<section id="paper_cmt-published">')[2].partition("</section>")[0]
    assert "Of 10 published numbers, 7 are met within the tolerance and 1 missed; 2 have no" in section
    assert page.count("MoME (published)") == 1  # in no other table
    assert "The protocol of MoME" in section and "junjie18/CMT:README.md" in section and "72.9" in section
    tables = records / "report" / "tables"
    written = pd.read_csv(tables / "paper_cmt_published.csv")
    assert len(written) == 10 and (tables / "paper_cmt_published_mome.md").is_file()
    # What cannot be asked is no failure: it is not among the problems, and counts on neither side.
    problems = pd.read_csv(tables / "paper_cmt_problems.csv")
    assert not (problems["status"] == "not_applicable").any() and set(problems["kind"]) == {
        "train",
        "evaluate",
        "measure",
    }
    scores = (tables / "paper_cmt_scores.md").read_text()
    assert "| no_cameras | lidar_voxel0075 | – | – | not applicable" in scores


# ---------------------------------------------------------------- MoME


def test_the_columns_of_mome_that_are_measured_otherwise_have_no_difference(tmp_path):
    study = load_study("paper_mome")
    for run in matrix(PAPER, [study]):
        own = dict(study=study.name, variant=run.variant, seed=0)
        extra = {"trained": False, "start": {"kind": "published", "file": "x.pth", "sha256": "0"}}
        write_records(tmp_path / run.folder / "train.jsonl", [Record("train", "ok", PAPER.name, **own, extra=extra)])
        rows = [
            replace(evaluated(run.variant, "mome", c.name, (0.6, 0.7)), study=study.name)
            for c in study.suite.conditions
        ]
        write_records(tmp_path / run.folder / "evaluate.mome.jsonl", rows)
    table = comparison_table(study, PAPER, collect_study(tmp_path, PAPER, study), tmp_path)
    rows = table.data[table.data["variant"] == "mome"].set_index("condition")
    published = dict(zip(rows.index, rows["published"], strict=True))
    assert published == dict(
        clean=73.6, beams_4=63.0, lidar_drop=48.2, fov_60=58.3, object_failure=71.0, view_drop=69.5,
        occlusion_procedural=70.5,
    )  # fmt: skip
    assert rows["measured"].tolist() == pytest.approx([70.0] * 7)
    assert rows.loc["view_drop", "difference"] == pytest.approx(0.5) and rows.loc["view_drop", "within"] == "no"
    for condition, reason in (("beams_4", "which four beams"), ("occlusion_procedural", "lens masks")):
        assert pd.isna(rows.loc[condition, "difference"])
        assert rows.loc[condition, "within"].startswith("not comparable: ") and reason in rows.loc[condition, "within"]
    assert comparison_sentence(table).endswith("; 2 cannot be compared.")
