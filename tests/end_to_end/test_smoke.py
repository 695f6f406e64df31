"""The whole smoke tier through the real command: world, training, evaluation, cost, report; then killed and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout import copy_workflow
from fault_processes import kill_all

from aqr_bench.records.record import read_run

RUN = [sys.executable, "-m", "aqr_bench", "run", "--tier", "smoke", "--study", "smoke", "--cores", "2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """An empty folder with the repository's workflow and studies; the package is the installed one."""
    return copy_workflow(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def finished(place) -> subprocess.CompletedProcess:
    """The first call is killed with SIGKILL, process group and all, while it trains; the second one goes on."""
    first = subprocess.Popen(
        RUN, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    log = place / "logs" / "smoke" / "base" / "seed0" / "train.log"
    deadline = time.monotonic() + 240
    while not (log.is_file() and log.stat().st_size) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert first.poll() is None, "the run ended before it trained"
    kill_all(first.pid, place)
    first.wait()
    return subprocess.run(RUN, cwd=place, capture_output=True, text=True, timeout=900)


def test_ends_with_the_report(finished, place):
    assert finished.returncode == 0, finished.stdout + finished.stderr
    last = finished.stdout.strip().splitlines()[-1]
    page = Path(last.removeprefix("report: "))
    assert page == (place / "results/smoke/report/index.html").resolve() and page.stat().st_size > 50_000


def test_every_run_left_a_good_record(finished, place):
    files = sorted((place / "results" / "smoke").rglob("*.jsonl"))
    records = [r for f in files for r in read_run(f)]
    assert [r.reason for r in records if not r.ok] == []
    # One base and two variants: trainings, three conditions each, and the cost of both variants.
    assert sorted({(r.kind, sum(s.kind == r.kind for s in records)) for r in records}) == [
        ("evaluate", 9),
        ("measure", 2),
        ("train", 3),
    ]
    for record in records:
        source = record.provenance
        assert len(source["code_sha256"]) == 64 and len(source["data_sha256"]) == 64 and source["machine"]["cpu"]
    inputs = {r.condition: r.provenance["input_sha256"] for r in records if r.kind == "evaluate"}
    assert len(set(inputs.values())) == 3
    costs = [r.cost for r in records if r.kind == "measure"]
    assert all(c["latency_ms"]["median"] > 0 and c["inference_peak_rss_mb"] > 100 for c in costs)
    assert all(c["training"]["status"] == "ok" and c["method"]["fresh_process"] for c in costs)


def test_tables_figures_and_pictures(finished, place):
    report = place / "results" / "smoke" / "report"
    assert {".csv", ".md"} <= {f.suffix for f in (report / "tables").iterdir()}
    assert {".png", ".pdf"} <= {f.suffix for f in (report / "figures").iterdir()}
    pictures = json.loads((place / "results/smoke/pictures/pictures.json").read_text())["pictures"]
    assert {p["condition"] for p in pictures} == {"clean", "no_lidar", "no_cameras"}
    page = (report / "index.html").read_text()
    assert page.count("<svg ") >= 3 and page.count("data:image/") >= 3  # figures; pictures


def test_a_second_run_does_nothing_and_says_so(finished, place):
    before = {f: f.stat().st_mtime_ns for f in (place / "results").rglob("*") if f.is_file()}
    again = subprocess.run(RUN, cwd=place, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert {f: f.stat().st_mtime_ns for f in (place / "results").rglob("*") if f.is_file()} == before
