"""Reports over records that are not all there: the page says so, shows what there is, and prints no broken number."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from report_records import fill, make_study

from aqr_bench.records.record import Record, read_records, write_records
from aqr_bench.report.page import build_report
from aqr_bench.study.load import load_study, load_tier

pytestmark = pytest.mark.usefixtures("blank_figures")

TIER = load_tier("smoke")


def page_of(tmp_path: Path, *studies) -> str:
    """The page's text without tags, styles and pictures; it never shows a number that is none."""
    (tmp_path / "results").mkdir(exist_ok=True)
    raw = build_report(TIER, studies, tmp_path / "results", tmp_path / "out").read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<(style|script)\b.*?</\1>|<[^>]+>", " ", raw, flags=re.DOTALL))
    text = " ".join(text.split())
    assert not re.search(r"\b(nan|NaN|None|inf)\b", text), re.findall(r".{40}\b(?:nan|NaN|None|inf)\b.{20}", text)
    return text


def table(tmp_path: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(tmp_path / "out" / "tables" / f"made_up_{name}.csv")


def evaluations(tmp_path: Path, variant: str, seed: int) -> Path:
    return tmp_path / "results" / "smoke" / "made_up" / variant / f"seed{seed}" / "evaluate.missing_sensors.jsonl"


def test_everything_failed(tmp_path):
    study = load_study(make_study(tmp_path))
    fill(tmp_path / "results", study.path, fail={(v, s) for v in ("none", "cross", None) for s in (0, 1)})
    text = page_of(tmp_path, study)
    assert "No answer yet: no variant can be compared with the baseline" in text
    assert "12 of 12 evaluations are missing or failed" in text and "loss is <not> finite" in text
    assert "The noise floor is unknown" in text and "0 of 2, fewer than three" in text
    assert len(table(tmp_path, "problems")) == 4 + 12 and set(table(tmp_path, "scores")["ok"]) == {0}


def test_the_baseline_is_missing(tmp_path):
    study = load_study(make_study(tmp_path, seeds=(0, 1, 2)))
    fill(tmp_path / "results", study.path, skip={("none", s) for s in (0, 1, 2)})
    text = page_of(tmp_path, study)
    assert "No answer yet" in text and "not comparable" in text and "9 of 18 evaluations are missing" in text
    scores = table(tmp_path, "scores").set_index(["variant", "condition"])
    assert scores.loc[("cross", "clean"), "mAP_mean"] == pytest.approx(0.456) and scores["difference"].isna().all()


def test_a_seed_is_missing_everywhere(tmp_path):
    study = load_study(make_study(tmp_path, seeds=(0, 1, 2)))
    fill(tmp_path / "results", study.path, skip={("none", 2), ("cross", 2), (None, 2)})
    text = page_of(tmp_path, study)
    assert "2 of 3, fewer than three" in text and "6 of 18 evaluations are missing or failed" in text
    assert "2, fewer than three" in text and "no record: not run yet" in text
    assert set(table(tmp_path, "scores")["pairs"].dropna()) == {2}


def test_seeds_that_do_not_pair(tmp_path):
    study = load_study(make_study(tmp_path))
    fill(tmp_path / "results", study.path, skip={("none", 1), ("cross", 0)})
    text = page_of(tmp_path, study)
    assert "No answer yet" in text and "1 of 2, fewer than three" in text


def test_one_condition_failed_and_one_measurement(tmp_path):
    study = load_study(make_study(tmp_path))
    fill(tmp_path / "results", study.path)
    file = evaluations(tmp_path, "cross", 0)
    rows = read_records(file)
    rows[1] = replace(rows[1], status="timeout", reason="took too long", scores={})
    write_records(file, rows)
    measured = tmp_path / "results" / "smoke" / "made_up" / "none" / "measure.jsonl"
    write_records(measured, [Record("measure", "oom", "smoke", "made_up", "none", reason="no memory left")])
    text = page_of(tmp_path, study)
    assert "2 runs are not ok" in text and "took too long" in text and "no memory left" in text
    assert "1 of 12 evaluations are missing or failed" in text
    cost = table(tmp_path, "cost").set_index("variant")
    assert cost.loc["none", "measured"] == "oom" and cost["latency_ratio"].isna().all()


def test_a_damaged_record(tmp_path):
    study = load_study(make_study(tmp_path))
    fill(tmp_path / "results", study.path)
    evaluations(tmp_path, "cross", 1).write_bytes(b'{"kind": "evaluate"\n\xff\xfe')
    text = page_of(tmp_path, study)
    assert "3 runs are not ok" in text and "damaged record, line 1" in text
    evaluations(tmp_path, "cross", 1).write_bytes(b"")
    assert "the file is empty" in page_of(tmp_path, study)


def test_ok_without_a_score_is_neither_counted_nor_kept_quiet(tmp_path):
    study = load_study(make_study(tmp_path))
    fill(tmp_path / "results", study.path)
    file = evaluations(tmp_path, "cross", 0)
    rows = read_records(file)
    write_records(file, [replace(rows[0], scores={**rows[0].scores, "mAP": None}), *rows[1:]])
    text = page_of(tmp_path, study)
    assert "Sanity: 1 alarm" in text and "has status ok but no mAP" in text
    scores = table(tmp_path, "scores").set_index(["variant", "condition"])
    assert scores.loc[("cross", "clean"), "ok"] == 1 and scores.loc[("cross", "clean"), "pairs"] == 1


def test_a_single_variant_with_a_failed_seed(tmp_path):
    study = load_study(make_study(tmp_path, variants=("none",), seeds=(0, 1)))
    fill(tmp_path / "results", study.path, fail={("none", 1)})
    text = page_of(tmp_path, study)
    assert "Nothing to compare: 'none' is the only variant" in text and "(n = 1)" in text
    assert "3 of 6 evaluations are missing or failed" in text and "comparisons are made" not in text
    fill(tmp_path / "results", study.path, fail={("none", 0), ("none", 1)})
    assert "the study's only variant has no finished evaluation" in page_of(tmp_path, study)


def test_a_study_without_records_beside_a_finished_one(tmp_path):
    study = load_study(make_study(tmp_path, variants=("none", "cross"), seeds=(0, 1, 2)))
    fill(tmp_path / "results", study.path, spread=0.0001)
    other = load_study("smoke")
    text = page_of(tmp_path, study, other)
    assert "'cross' is better than 'none' under 'clean'" in text and "No answer yet" in text
    assert "There are no records yet" not in text
    assert {f"{name}_scores.csv" for name in ("made_up", "smoke")} <= {
        p.name for p in (tmp_path / "out" / "tables").iterdir()
    }


def test_zero_records(tmp_path):
    study = load_study(make_study(tmp_path))
    text = page_of(tmp_path, study)
    assert "There are no records yet: nothing has been run" in text and "0 of 0 records ok" in text
    assert "12 of 12 evaluations are missing or failed" in text and "unknown" in text
    assert table(tmp_path, "scores")["ok"].sum() == 0 and len(table(tmp_path, "problems")) == 18
    assert not list((tmp_path / "out" / "figures").iterdir())


def test_numbers_of_the_page_are_those_of_the_csv(tmp_path):
    study = load_study(make_study(tmp_path, seeds=(0, 1, 2)))
    fill(tmp_path / "results", study.path, fail={("cross", 1)})
    text = page_of(tmp_path, study)
    for row in table(tmp_path, "scores").itertuples():
        sign = "" if pd.isna(row.difference) else f" {row.difference:+.3f}".replace("-", "−")
        assert f"{row.condition} {row.variant} {row.mAP_mean:.3f}{sign}" in text, row
