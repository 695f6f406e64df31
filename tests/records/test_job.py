"""The identity of a job changes with everything that its result depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aqr_bench.records.code_dependencies import code_hash_for
from aqr_bench.records.job import Job
from aqr_bench.records.provenance import provenance

JOB = Job("evaluate", {"model": {"a": 1}}, "tables", "infos", {"batch_size": 1}, ("checkpoint",))


@pytest.mark.parametrize(
    "change",
    [
        {"step": "train"},
        {"config": {"model": {"a": 2}}},
        {"data_sha256": "other tables"},
        {"infos_sha256": "made with other sweeps"},
        {"settings": {"batch_size": 2}},
        {"inputs": ("another checkpoint",)},
        {"inputs": ("checkpoint", "another")},
    ],
    ids=str,
)
def test_another_job_has_another_identity(change):
    assert replace(JOB, **change).identity != JOB.identity == replace(JOB).identity


def test_sources_of_a_custom_detector_count(tmp_path):
    (tmp_path / "detector.py").write_text("x = 1\n")
    assert replace(JOB, sources=(tmp_path / "detector.py",)).code_sha256 != JOB.code_sha256 == code_hash_for("evaluate")


def test_provenance_holds_the_hashes_of_the_job():
    facts = provenance(JOB)
    assert all(facts[name] == getattr(JOB, name) for name in ("config_sha256", "code_sha256"))
    assert (facts["data_sha256"], facts["infos_sha256"]) == ("tables", "infos")
    assert provenance()["config_sha256"] is None
