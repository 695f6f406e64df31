"""The attention benchmarks run: the script on a tiny size, with every variant and its errors, and every piece."""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import re
import subprocess
import sys
from pathlib import Path

import calibration
import profile_steps
import pytest
import regression

from aqr_bench.corruptions import CORRUPTIONS
from aqr_bench.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def call(*words: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


SESSIONS = {
    "pieces": ["benchmarks/test_pieces.py", "--size", "tiny", "--windows", "3/3", "--benchmark-disable"],
    "hot paths": ["benchmarks/test_hot_paths.py", "--benchmark-disable", "-k", "not corruption"],
    "names": ["benchmarks/test_hot_paths.py", "--collect-only"],
}


@pytest.fixture(scope="module")
def sessions() -> dict[str, str]:
    """What pytest prints in each session: one process for all, since its imports are most of the time."""
    code = "import json, sys, pytest\n"
    code += "for words in json.loads(sys.argv[1]): print('session ended with', int(pytest.main(words)), flush=True)"
    *texts, rest = re.split(r"session ended with 0\n", call("-c", code, json.dumps([*SESSIONS.values()])))
    assert len(texts) == len(SESSIONS) and not rest
    return dict(zip(SESSIONS, texts, strict=True))


def test_the_table_of_a_tiny_size(tmp_path):
    out = tmp_path / "table.json"
    options = ("--size", "tiny", "--windows", "3/3", "--rounds", "2", "--no-memory", "--out", str(out))
    text = call("benchmarks/attention.py", *options)
    rows = {row["variant"]: row for row in json.loads(out.read_text())["rows"]}
    assert len(rows) == 9 and not any("failed" in row for row in rows.values())
    assert rows["none"]["forward"]["ratio"] == 1 and rows["auto"]["chosen"] in ("window", "masked")
    for name, row in rows.items():
        assert row["forward+backward"]["seconds"] > 0
        # Held against float64: a wrong mask, order of heads or gradient is off by far more.
        assert name == "none" or max(row["error"].values()) < 1e-5
        assert f"| 3/3 | {name}" in text


@pytest.mark.slow
def test_peak_memory_of_a_fresh_process_and_a_variant_that_fails(tmp_path):
    out = tmp_path / "table.json"
    call(
        "benchmarks/attention.py", "--size", "quick", "--windows", "5/5", "--rounds", "1", "--no-errors",
        "--variants", "none", "flex", "nn.MultiheadAttention", "--out", str(out),
    )  # fmt: skip
    rows = {row["variant"]: row for row in json.loads(out.read_text())["rows"]}
    assert "no gradient on a CPU" in rows["flex"]["failed"]
    # [4, 4, 144, 2700] in float32 is 25 MB, and the module holds it more than once.
    assert rows["nn.MultiheadAttention"]["forward"]["peak_mb"] > rows["none"]["forward"]["peak_mb"] + 25


def test_every_piece_runs(sessions):
    assert "11 passed" in sessions["pieces"]


@pytest.mark.slow
def test_the_workflow_is_planned_and_found_to_be_done():
    small = ("--studies", "2", "--seeds", "1", "--suites", "1", "--conditions", "3", "--repeat", "1")
    results = json.loads(call("benchmarks/workflow.py", *small))
    # Two studies (one of cost alone), one seed: 4 trainings and a base, each under its suites, the base under one.
    assert results["jobs"]["train_variant"] == "4" and results["jobs"]["evaluate"] == "9"
    assert results["records"] == 2 + 1 + 4 + 5 * 3 + 4 * 3 + 10


def test_every_hot_path_runs(sessions):
    assert "15 passed" in sessions["hot paths"]


@pytest.mark.slow
def test_every_corruption_is_a_hot_path():
    text = call("-m", "pytest", "benchmarks/test_hot_paths.py", "--benchmark-disable", "-k", "corruption")
    assert f"{len({c.key for c in CORRUPTIONS.every()})} passed" in text and "skipped" not in text


def result(path: Path, cpu: str = "some CPU", **multiples: float) -> str:
    benchmarks = {name: {"multiple": value} for name, value in multiples.items()}
    path.write_text(json.dumps({"machine": {"cpu": cpu}, "benchmarks": benchmarks}))
    return str(path)


def test_a_hot_path_that_became_slower_fails_the_comparison(tmp_path, capsys):
    before = result(tmp_path / "a.json", router=2.0, voxels=8.0, old=1.0)
    assert regression.main(["compare", before, result(tmp_path / "b.json", router=2.4, voxels=4.0, new=1.0)]) == 0
    text = capsys.readouterr().out
    assert "only in one of the two: new" in text and "only in one of the two: old" in text
    assert regression.main(["compare", before, result(tmp_path / "c.json", router=2.6, voxels=8.0, old=1.0)]) == 1
    text = capsys.readouterr().out
    assert "slower" in text.splitlines()[1] and "3 compared, 1 slower by more than 25 %" in text
    assert regression.main(["compare", before, str(tmp_path / "c.json"), "--limit", "0.5"]) == 0


def test_results_of_different_cpus_are_not_compared(tmp_path):
    files = result(tmp_path / "a.json", router=2.0), result(tmp_path / "b.json", cpu="another", router=2.0)
    with pytest.raises(UserError, match=r"a\.json was measured on some CPU, .*b\.json on another"):
        regression.main(["compare", *files])


def test_a_comparison_names_the_file_that_is_no_result(tmp_path):
    good, bad = result(tmp_path / "a.json", router=2.0), tmp_path / "b.json"
    with pytest.raises(UserError, match=r"b\.json"):
        regression.main(["compare", good, str(bad)])
    for text in ("{", "[]", '{"benchmarks": {"router": 3}}'):
        bad.write_text(text)
        with pytest.raises(UserError, match=r"b\.json: not a result"):
            regression.main(["compare", good, str(bad)])


def test_the_calibration_kernel_takes_its_time():
    assert calibration.seconds() > 1e-4


def test_the_baseline_has_every_hot_path_but_corruptions_that_came_later(sessions):
    """A corruption that is added has nothing to be compared with before the next baseline; ``compare`` names it."""
    baseline = set(regression.read(ROOT / "benchmarks" / "baselines" / "xeon2.json"))
    names = {line.split("::")[1] for line in sessions["names"].splitlines() if "::" in line}
    assert baseline <= names and all(name.startswith("test_corruption[") for name in names - baseline)
    assert len(baseline) >= 80


def test_the_parts_of_a_profile_make_up_the_whole():
    with cProfile.Profile() as profile:
        json.loads("[" + "1," * 20000 + "1]")
        sum(range(200000))
    stats = pstats.Stats(profile)
    results = profile_steps.parts(
        stats, {"reading": [("json/decoder.py", "decode")], "never": [("nowhere.py", "decode")]}
    )
    assert sum(results.values()) == pytest.approx(stats.total_tt)
    assert 0 < results["reading"] < stats.total_tt and results["never"] == 0 and results["the rest"] > 0
    text = profile_steps.table("t", {"reading": 3.0, "never": 0.0, "the rest": 1.0})
    assert text.splitlines()[4:] == ["| reading | 3.00 | 75% |", "| the rest | 1.00 | 25% |"]
