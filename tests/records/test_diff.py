"""Two records of one run: what counts as equal, what differs first and by how much, and which causes are named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aqr_bench.cli.rerun import weight_difference
from aqr_bench.records.diff import Difference, compare, cost_ratios, summary_lines
from aqr_bench.records.record import Record

MACHINE = {"cpu": "A", "torch_threads": 1, "host": "here", "memory_gb": 8.0, "release": "6.1"}
FACTS = {
    "config_sha256": "a" * 64,
    "code_sha256": "b" * 64,
    "data_sha256": "c" * 64,
    "infos_sha256": "9" * 64,
    "checkpoint_sha256": "d" * 64,
    "git_commit": "0123456789abcdef",
    "git_dirty": False,
    "packages": {"torch": "2.13.0"},
    "machine": MACHINE,
}
TRAINED = Record(
    "train",
    "ok",
    "smoke",
    seed=0,
    cost={"wall_s": 3.0, "parameters": 7, "iterations": 20},
    curve=[[10, 2.5], [20, 1.25]],
    provenance=FACTS,
)
EVALUATED = Record(
    "evaluate",
    "ok",
    "smoke",
    seed=0,
    suite="s",
    condition="clean",
    scores={"mAP": 0.5, "mAOE": None, "classes": {"car": {"AP": 0.25}}},
    extra={"inputs": {"samples": 6}, "metric": "compiled", "same_as": "s/none/seed0"},
    provenance=FACTS | {"input_sha256": "e" * 64, "predictions_sha256": "f" * 64},
)


def differing(record: Record, **provenance) -> Record:
    return replace(record, provenance={**record.provenance, **provenance})


def test_time_memory_and_place_are_no_results():
    again = differing(TRAINED, started="later", machine=MACHINE | {"host": "there", "memory_gb": 16.0, "release": "7"})
    result = compare(TRAINED, replace(again, cost=TRAINED.cost | {"wall_s": 99.0}))
    assert result.same and not result.causes and not result.unknown
    assert set(result.equal) == {
        "status", "curve.10", "curve.20", "cost.parameters", "cost.iterations", "provenance.checkpoint_sha256",
    }  # fmt: skip
    assert summary_lines(result) == [
        "identical: 6 values bit for bit (status, checkpoint, 2 of the loss curve, 2 counts)"
    ]


@pytest.mark.parametrize(
    ("now", "name"),
    [
        (replace(TRAINED, curve=[[10, 2.5], [20, 1.2500000000000002]]), "curve.20"),
        (replace(TRAINED, curve=[[10, 2.5]]), "curve.20"),
        (replace(TRAINED, curve=[[10, 2.5], [20, None]]), "curve.20"),
        (differing(TRAINED, checkpoint_sha256="0" * 64), "provenance.checkpoint_sha256"),
        (replace(TRAINED, cost=TRAINED.cost | {"parameters": 8}), "cost.parameters"),
        (replace(EVALUATED, scores=EVALUATED.scores | {"mAOE": 1.0}), "scores.mAOE"),
        (replace(EVALUATED, scores={**EVALUATED.scores, "classes": {}}), "scores.classes.car.AP"),
        (replace(EVALUATED, extra={"inputs": {"samples": 7}}), "extra.inputs.samples"),
        (differing(EVALUATED, predictions_sha256="0" * 64), "provenance.predictions_sha256"),
        (differing(EVALUATED, input_sha256="0" * 64), "provenance.input_sha256"),
    ],
)
def test_the_last_bit_of_every_result_counts(now, name):
    result = compare(TRAINED if now.kind == "train" else EVALUATED, now)
    assert [difference.name for difference in result.different] == [name]


def test_a_failure_differs_from_a_success():
    failed = replace(TRAINED, status="diverged", reason="loss is nan", curve=[], cost={})
    result = compare(TRAINED, replace(failed, provenance=FACTS | {"checkpoint_sha256": None}))
    assert summary_lines(result)[1:3] == ["  status: ok then, diverged now", "  reason: nothing then, loss is nan now"]
    assert compare(failed, failed).same


def test_what_records_did_not_hold_yet_is_named_and_not_compared():
    result = compare(differing(EVALUATED, predictions_sha256=None), EVALUATED)
    assert result.same and result.unknown == ("provenance.predictions_sha256",)
    assert "not compared" in summary_lines(result)[-1] and "predictions_sha256" in summary_lines(result)[-1]


def test_causes_are_named_with_both_values():
    now = differing(
        EVALUATED,
        code_sha256="9" * 64,
        infos_sha256="7" * 64,
        git_commit="fedcba9876543210",
        git_dirty=True,
        packages={"torch": "2.14.0"},
        machine=MACHINE | {"torch_threads": 2},
        checkpoint_sha256="8" * 64,
    )
    assert compare(EVALUATED, now).causes == (
        "code: bbbbbbbbbbbb (commit 012345678) then, 999999999999 (commit fedcba987, with changes) now",
        "info files: 999999999999 then, 777777777777 now",
        "checkpoint: dddddddddddd then, 888888888888 now",
        "torch 2.13.0 then, 2.14.0 now",
        "machine: torch_threads 1 then, 2 now",
    )
    assert summary_lines(compare(EVALUATED, now))[1].startswith("  although code: ")
    worse = replace(now, scores={"mAP": 0.25})
    assert "  perhaps because of torch 2.13.0 then, 2.14.0 now" in summary_lines(compare(EVALUATED, worse))


def test_a_difference_without_a_cause_is_said_to_be_one():
    (head, first, last) = summary_lines(compare(TRAINED, replace(TRAINED, curve=[[10, 2.5], [20, 1.5]])))
    assert head == "different: 1 of 6 values"
    assert first == "  curve.20: 1.25 then, 1.5 now (off by 0.25, relative 0.2)"
    assert "nothing in the records explains it" in last


def test_the_first_point_of_the_curve_comes_first_then_the_largest():
    now = replace(TRAINED, curve=[[10, 2.6], [20, 9.0]], cost=TRAINED.cost | {"iterations": 21})
    names = [line.split(":")[0].strip() for line in summary_lines(compare(TRAINED, now))[1:4]]
    assert names == ["curve.10", "curve.20", "cost.iterations"]
    assert str(Difference("scores.mAP", 0.0, 0.5)).endswith("relative inf)")


def test_costs_are_told_as_ratios():
    then = {"latency_ms": {"median": 20.0}, "training": {"status": "ok", "latency_ms": {"median": 50.0}}}
    now = {"latency_ms": {"median": 25.0}, "training": {"latency_ms": {"median": 40.0}}, "inference_peak_rss_mb": 1.0}
    assert cost_ratios(then, now) == [
        "latency: 20.0 ms then, 25.0 ms now, ratio 1.250",
        "training step: 50.0 ms then, 40.0 ms now, ratio 0.800",
    ]


def test_checkpoints_are_told_apart_by_their_largest_difference(tmp_path):
    weights = {"a": torch.zeros(3), "b": torch.ones(2)}
    for name, state in {
        "then": weights,
        "now": weights | {"a": torch.tensor([0.0, 0.5, 0.0])},
        "other": {"c": torch.zeros(1)},
        "shape": weights | {"a": torch.zeros(4)},
    }.items():
        torch.save({"state_dict": state}, tmp_path / f"{name}.pth")
    then, now = tmp_path / "then.pth", tmp_path / "now.pth"
    assert weight_difference(then, now) == "1 of 2 parameters differ, the most in a: by 0.5"
    assert "weights in the checkpoints are equal" in weight_difference(then, then)
    assert "other parameters: ['a', 'b', 'c']" in weight_difference(then, tmp_path / "other.pth")
    assert "other shapes" in weight_difference(then, tmp_path / "shape.pth")
