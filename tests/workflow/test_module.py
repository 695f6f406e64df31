"""The workflow as a part of another one: as a Snakemake module, and in Snakemake's own report."""

from __future__ import annotations

import re

import pytest
import yaml
from checkout import Checkout, copy_repository, finished_checkout

MODULE = """
module aqr:
    snakefile: "Snakefile"
    config: {"tier": "smoke", "studies": "smoke"}

use rule * from aqr as aqr_*

rule summary:
    input: rules.aqr_report.output.page
    output: "summary.txt"
    shell: "wc -c {input} > {output}"
"""


def planned(checkout: Checkout, *arguments: str) -> dict[str, int]:
    done = checkout.snakemake("--snakefile", "mine.smk", "--quiet", "rules", "--dry-run", "summary.txt", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    return {rule: int(count) for rule, count in rows if rule not in ("total", "job")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Checkout:
    checkout = finished_checkout(tmp_path_factory.mktemp("module") / "checkout")
    (checkout.root / "mine.smk").write_text(MODULE)
    return checkout


def test_another_workflow_takes_its_rules_and_the_results_that_are_there(finished, tmp_path):
    assert planned(finished) == {"summary": 1}
    copy = finished.copy_to(tmp_path / "copy")
    study = copy.root / "ablations" / "smoke.yaml"
    data = yaml.safe_load(study.read_text())
    data["variants"]["cross"]["config"] = {"lr": 1}
    study.write_text(yaml.safe_dump(data, sort_keys=False))
    done = copy.snakemake("--snakefile", "mine.smk", "summary.txt", STAND_IN_REPORT="1")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line.split()[0] for line in copy.steps()]
    assert (copy.root / "summary.txt").is_file() and sorted(steps) == ["evaluate", "measure", "train"]
    store = copy.root / "results" / "smoke" / "store"
    assert list(store.rglob("records.stored")), "records that are made again are stored first, by onstart elsewhere"


def test_what_is_refused_before_the_first_job_is_refused_in_a_module_too(tmp_path):
    checkout = Checkout(copy_repository(tmp_path / "checkout"))
    (checkout.root / "mine.smk").write_text(MODULE)
    tier = checkout.root / "ablations" / "tiers" / "smoke.yaml"
    tier.write_text(tier.read_text() + "launcher: {processes: 4}\n")
    done = checkout.snakemake("--snakefile", "mine.smk", "summary.txt", AQR_BENCH_GPUS="2")
    assert done.returncode != 0 and "4 processes need a GPU each, 2 GPUs are visible" in done.stdout + done.stderr
    assert not (checkout.root / "steps.txt").exists()


def test_snakemakes_own_report_has_the_pages_with_their_captions(finished):
    done = finished.snakemake("--snakefile", "mine.smk", "aqr_report", "--report", "report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (finished.root / "report.html").read_text(encoding="utf-8")
    for caption in ("Tables, figures and the answer per study of tier smoke", "at full precision", "Training loss"):
        assert caption in page
