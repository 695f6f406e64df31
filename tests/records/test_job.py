"""The identity of a job changes with everything that its result depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aqr_bench.records.code_dependencies import code_hash_for
from aqr_bench.records.job import Job
from aqr_bench.records.provenance import provenance
from aqr_bench.study.load import load_suite

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
    job = replace(JOB, model=str(tmp_path / "detector.py"))
    before = job.code_sha256
    (tmp_path / "detector.py").write_text("x = 2\n")
    assert replace(job).code_sha256 != before != JOB.code_sha256 == code_hash_for("evaluate")


def test_the_code_of_a_job_is_what_it_uses():
    plain = replace(JOB, model="cmt_aqr_quick", config={"model": {"aqr": {}}})
    biased = replace(plain, config={"model": {"aqr": {"site": "cross"}}})
    fog = replace(plain, settings={"conditions": [{"corruption": "multicorrupt.fog"}]})
    assert len({job.code_sha256 for job in (plain, biased, fog, JOB)}) == 4
    assert plain.code_sha256 == code_hash_for("evaluate", "cmt_aqr_quick", {})


def test_a_condition_counts_whatever_else_is_in_its_suite():
    clean, fog = load_suite("missing_sensors").conditions[0], load_suite("multicorrupt").conditions[-1]
    job = replace(JOB, model="cmt_aqr_quick", settings={"conditions": [clean.settings, fog.settings]})
    alone = replace(job, settings={"conditions": [clean.settings]})
    assert job.under(clean).identity == alone.identity != job.identity != job.under(fog).identity


def test_provenance_holds_the_hashes_of_the_job():
    facts = provenance(JOB)
    assert all(facts[name] == getattr(JOB, name) for name in ("config_sha256", "code_sha256"))
    assert (facts["data_sha256"], facts["infos_sha256"]) == ("tables", "infos")
    assert provenance()["config_sha256"] is None
