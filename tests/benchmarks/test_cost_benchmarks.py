"""The benchmarks of cost: what counts as the same measurement, how two runs are compared, and the decoder's table."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aqr_bench.errors import UserError
from aqr_bench.study.load import load_study, load_tier

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def variant_cost():
    spec = importlib.util.spec_from_file_location("variant_cost", ROOT / "benchmarks" / "variant_cost.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(variant: str, ratio: float, **more) -> dict:
    times = {"median": 10 * ratio, "p95": 12.0, "quartiles": [9.0, 11.0]}
    return {"study": "s", "variant": variant, "status": "ok", "latency_ms": times, "latency_ratio": ratio, **more}


def run_of(*rows: dict) -> dict:
    return {"tier": "quick", "machine": {"cpu": "Some CPU"}, "packages": {"torch": "2"}, "variants": list(rows)}


def test_equal_models_with_equal_baselines_are_measured_once(variant_cost):
    tier, studies = load_tier("quick"), {name: load_study(name) for name in ("bias_site", "router", "learning_speed")}

    def identity(study, variant):
        return variant_cost.identity_of(tier, studies[study], variant)

    assert identity("bias_site", "cross") == identity("learning_speed", "cross-300")
    assert identity("bias_site", "cross") != identity("router", "constant"), "compared with other baselines"
    assert identity("bias_site", "cross") != identity("bias_site", "self")
    # The same model for longer: nothing that a measurement could tell.
    assert identity("learning_speed", "hard-1000") == identity("learning_speed", "hard-3000")


def test_the_comparison_counts_what_two_runs_do_not_agree_on(variant_cost):
    first = run_of(row("a", 1.0), row("b", 1.2), row("c", 1.0, same_as="s/a"))
    second = run_of(row("a", 1.05), row("b", 1.5), row("c", 2.0, same_as="s/a"))
    text = variant_cost.comparison(first, second)
    assert "| latency_ratio | 2 | 25.0 % | 15.0 % | 1 |" in text and "| s / c | as s/a |" in text


def test_a_failed_variant_is_in_the_comparison_with_its_reason(variant_cost):
    bad = {"study": "s", "variant": "b", "status": "oom", "reason": "no memory left"}
    text = variant_cost.comparison(run_of(row("a", 1.0), bad), run_of(row("a", 1.0), bad))
    assert "| s / b | no memory left |" in text and "| latency_ratio | 1 | 0.0 % |" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| s /")}
    assert widths == {10}


def test_runs_of_different_variants_are_refused(variant_cost):
    with pytest.raises(UserError, match="no variant in common"):
        variant_cost.comparison(run_of(row("a", 1.0)), run_of(row("b", 1.0)))


@pytest.mark.slow
def test_the_decoder_of_a_small_config(tmp_path):
    out = tmp_path / "decoder.json"
    command = [sys.executable, "benchmarks/decoder_cost.py", "--config", "cmt_aqr_quick", "--rounds", "2"]
    command += ["--variants", "local router, masked", "--out", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert (result["keys"], result["layers"]) == (3184, 2)
    for mode in ("inference", "training"):
        results = result["modes"][mode]["local router, masked"]
        assert results["head_ratio"]["median"] > 0 and results["memory"]["peak_over_inputs_mb"] > 0
        assert f"| {mode} | local router, masked |" in done.stdout
    assert result["modes"]["inference"]["local router, masked"]["decoder_ratio"]["median"] > 0
