"""Wheel and sdist, each installed in a fresh virtual environment, used in an empty folder outside of any checkout."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile

import pytest
import yaml
from installation import Installed, build, clean_environment

from aqr_bench.records.code_dependencies import ENTRIES, code_hash_for
from aqr_bench.records.record import read_records

HASHES = """
import json
from aqr_bench.records.code_dependencies import ENTRIES, code_hash_for
print(json.dumps({step: code_hash_for(step) for step in ENTRIES}))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["sdist", "wheel"])
def installed(request, built, tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp(request.param), built[request.param])


def test_the_wheel_of_the_sdist_is_that_of_the_checkout(built, tmp_path):
    with tarfile.open(built["sdist"]) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    (tmp_path / "dist").mkdir()
    again = build("wheel", unpacked, tmp_path / "dist")
    contents = []
    for wheel in (built["wheel"], again):
        with zipfile.ZipFile(wheel) as archive:
            contents.append({name: archive.read(name) for name in archive.namelist() if "dist-info" not in name})
    assert contents[0] == contents[1] and "aqr_bench/share/Snakefile" in contents[0]


def test_an_empty_folder_becomes_a_project(installed):
    assert "written        README.md" in installed.run("init")
    assert "study first_study, tier first_tier; all others ship" in installed.run("studies", "list")
    assert "6 configs built" in installed.run("studies", "check", "first_study", "first_tier")
    assert "13 jobs to do" in installed.run("run", "--tier", "smoke", "--study", "smoke", "--dry-run")


def test_code_is_hashed_as_in_a_checkout(installed):
    done = subprocess.run(
        [str(installed.python), "-c", HASHES], cwd=installed.project, env=clean_environment(), capture_output=True
    )
    assert yaml.safe_load(done.stdout) == {step: code_hash_for(step) for step in ENTRIES}


@pytest.mark.parametrize("installed", ["wheel"], indirect=True)
def test_the_smoke_tier_with_results_elsewhere(installed):
    installed.run("init")
    asked = ("--tier", "smoke", "--study", "smoke")
    results = installed.project.parent / "my runs"
    out = installed.run("run", *asked, "--cores", "2", "--results", "../my runs")
    assert f"report: {results / 'smoke/report/index.html'}" in out and not (installed.project / "results").exists()
    again = installed.run("run", *asked, "--results", str(results))
    assert "nothing to do, all is up to date" in again
    training = read_records(results / "smoke" / "base" / "seed0" / "train.jsonl")[0]
    assert training.ok and training.provenance["git_commit"] is None
    assert training.provenance["files"]["tier"]["path"] == "ablations/tiers/smoke.yaml"

    assert "smoke" in installed.run("doctor", "--tier", "smoke")
    record = str(results / "smoke/smoke/cross/seed0/evaluate.missing_sensors.jsonl")
    assert "3 of 3" in installed.run("records", "check", record)
    assert "identical" in installed.run("rerun", record, "--condition", "clean")
    installed.run("merge", str(results))
    assert "Nothing is outside the noise" in installed.run("compare", "results/smoke", str(results / "smoke"))
    installed.run("report", *asked, "--records", str(results), "--out", "report")
    assert (installed.project / "report" / "index.html").is_file()
    installed.run("gc", "--results", str(results))
    installed.run("data", "check", "--root", str(results / "smoke" / "world"), "--samples", "1", "--quiet")
