"""What can be asked for by name, from either Snakefile, and what a study of cost alone runs."""

from __future__ import annotations

import functools
import html
import re
from pathlib import Path

import pytest
import yaml
from checkout import Checkout, copy_repository

STEPS = ("world", "prepare", "pretrain", "train_base", "train_variant", "evaluate", "measure", "pictures", "report")
COSTS = {
    "name": "costs",
    "question": "What does each cost?",
    "baseline": "one",
    "measure_only": True,
    "conditions": "missing_sensors",
    "variants": {name: {"summary": name, "config": {"model.pts_bbox_head.aqr": None}} for name in ("one", "two")},
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Checkout:
    """A fresh checkout with a study of cost alone; the tests only plan in it, but for the one that runs that study."""
    root = copy_repository(tmp_path_factory.mktemp("targets") / "checkout")
    (root / "ablations" / "costs.yaml").write_text(yaml.safe_dump(COSTS, sort_keys=False))
    return Checkout(root)


@functools.cache  # a start of Snakemake takes longer than most tests; the last test, which runs something, clears it
def planned(checkout: Checkout, *arguments: str) -> dict[str, int]:
    """Number of jobs per step in a dry run."""
    done = checkout.snakemake("--dry-run", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    table = dict(re.findall(r"^(\S+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    return {step: int(table[step]) for step in STEPS if step in table}


SMOKE = {"world": 1, "prepare": 1, "train_base": 1, "train_variant": 2, "evaluate": 3, "measure": 2}


@pytest.mark.parametrize(
    ("target", "jobs"),
    [
        ("report", {**SMOKE, "pictures": 1, "report": 1}),
        ("check", SMOKE),
        ("smoke", SMOKE),
        ("smoke/cross", {**SMOKE, "train_variant": 1, "evaluate": 1, "measure": 1}),
        ("suite/missing_sensors", {k: v for k, v in SMOKE.items() if k != "measure"}),
        ("bias_site/self", {**SMOKE, "train_base": 5, "train_variant": 5, "evaluate": 5, "measure": 1}),
    ],
)
def test_targets(checkout, target, jobs):
    assert planned(checkout, target, "--config", "tier=smoke", "studies=smoke") == jobs


def test_an_unknown_target_is_refused(checkout):
    done = checkout.snakemake("--dry-run", "smoke/crss", "--config", "tier=smoke", "studies=smoke")
    assert done.returncode != 0 and "smoke/crss" in done.stdout + done.stderr


def test_the_standard_place_does_the_same(checkout):
    there = ("--snakefile", "workflow/Snakefile")
    assert planned(checkout, *there) == planned(checkout)  # config/config.yaml holds the defaults
    smoke = ("--config", "tier=smoke", "studies=smoke")
    assert planned(checkout, *there, *smoke) == planned(checkout, *smoke) == {**SMOKE, "pictures": 1, "report": 1}
    assert planned(checkout, *there, "smoke/cross", *smoke)["train_variant"] == 1


def test_the_standard_place_reads_its_settings(checkout, tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("tier: smoke\nstudies: [smoke]\n")
    place = ("--snakefile", "workflow/Snakefile", "--directory", str(tmp_path))
    assert planned(checkout, *place) == {**SMOKE, "pictures": 1, "report": 1}
    assert planned(checkout, *place, "--config", "studies=bias_site")["train_variant"] == 20
    (tmp_path / "config" / "config.yaml").write_text("teir: smoke\n")
    done = checkout.snakemake("--dry-run", *place)
    assert done.returncode != 0 and "teir: unknown key; did you mean 'tier'" in done.stdout + done.stderr


def test_lint_in_the_standard_place(checkout):
    done = checkout.snakemake("--lint", "--snakefile", "workflow/Snakefile")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("tier", "studies"),
    [("smoke", ["smoke"]), ("quick", ["bias_site"]), ("quick", ["router", "windows"]), ("smoke", ["costs"])],
)
def test_cost_counts_the_jobs_that_are_planned(checkout, tier, studies):
    plan = planned(checkout, "--config", f"tier={tier}", f"studies={','.join(studies)}")
    done = checkout.run("aqr_bench.cli.main", "studies", "cost", "--tier", tier, *studies)
    assert done.returncode == 0, done.stderr
    assert f"jobs of the workflow: {sum(plan.values())}\n" in done.stdout


def test_a_study_of_cost_alone_is_only_measured(checkout):
    assert planned(checkout, "--config", "tier=smoke", "studies=costs") == {
        "world": 1, "prepare": 1, "measure": 2, "report": 1,
    }  # fmt: skip
    checkout.steps()
    done = checkout.run("aqr_bench.cli.main", "run", "--tier", "smoke", "--study", "costs", "--strict")
    assert done.returncode == 0 and "2 of 2 records ok" in done.stdout, done.stdout + done.stderr
    assert sorted(line.split()[0] for line in checkout.steps()) == ["measure", "measure", "prepare", "world"]
    report = checkout.root / "results" / "smoke" / "report"
    page = html.unescape((report / "index.html").read_text())
    assert "Cost alone was measured" in page and "mAP" not in page
    assert "'two' 1.00" in page and "Latency median, ms" in page
    planned.cache_clear()
    tables = sorted(p.name for p in Path(report / "tables").glob("*.csv"))
    assert tables == ["costs_cost.csv", "costs_problems.csv", "sanity_alarms.csv", "speed.csv"]
    both = planned(checkout, "--config", "tier=smoke", "studies=costs,smoke")
    assert both == {**{k: v for k, v in SMOKE.items() if k not in ("world", "prepare")}, "pictures": 1, "report": 1}
