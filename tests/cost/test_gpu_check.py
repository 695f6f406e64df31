"""The GPU check on a CPU: parts that run, fail, lack packages or time; what its files hold; the wheels it is given."""

from __future__ import annotations

import json
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aqr_bench.cost.attention_kernels import kernels_of
from aqr_bench.cost.gpu_check import __main__ as gpu_check
from aqr_bench.cost.gpu_check import attention_cases, detector, end_to_end, tiled_table, training
from aqr_bench.cost.gpu_check.attention_table import BACKENDS, attention_rows
from aqr_bench.cost.gpu_check.head_cost import TrainingHead
from aqr_bench.cost.gpu_check.parity import HEADS, bias_rows, head_rows, relative_distance, with_tolerance
from aqr_bench.cost.gpu_check.parts import Part, parts_of, work
from aqr_bench.cost.gpu_check.settings import NOTE, attempt, settings_for
from aqr_bench.cost.gpu_check.text import markdown
from aqr_bench.cost.measurement import failed_parts
from aqr_bench.errors import UserError
from aqr_bench.records.provenance import provenance
from aqr_bench.records.record import Record, write_records
from aqr_bench.study.load import load_study, load_tier
from aqr_bench.study.runs import limit_seeds

ROOT = Path(__file__).resolve().parents[2]
TINY = settings_for("cpu", "tiny")


def rows_of(function: Callable, which: str = "") -> list[dict]:
    rows = []
    function(TINY, which, rows.append)
    return rows


# ---------------------------------------------------------------- the command


def test_a_part_runs_in_its_own_process_and_its_rows_are_in_every_file(tmp_path):
    options = ["--device", "cpu", "--size", "tiny", "--parts", "bias_parity float32"]
    assert gpu_check.main(["--out", str(tmp_path), *options]) == 0
    result = json.loads((tmp_path / "gpu_check.json").read_text())
    (parity,) = result["parts"]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == len(parity["rows"]) == 12
    assert all(row["error"]["gradients"] < 1e-5 for row in parity["rows"])
    assert result["packages"]["torch"] == torch.__version__ and result["machine"]["cpu"]
    text = (tmp_path / "table.md").read_text()
    assert "| bias_parity float32 | ok |" in text and "| tiny | hard | float32 | literal |" in text


def test_a_part_that_fails_or_lacks_a_package_has_its_error_and_the_rest_goes_on(tmp_path, monkeypatch):
    parts = [
        Part("broken", "Broken", "devices.no_such_rows", 5),
        Part("lacking", "Lacking", "no_such_module.rows", 5),
        Part("devices", "Devices", "devices.device_rows", 30),
    ]
    started = []

    def worker(name, settings, rows, log, limit_s):
        log.touch()
        started.append(name)
        return work(next(part for part in parts if part.name == name), settings, rows)

    monkeypatch.setattr(gpu_check, "parts_of", lambda settings: parts)
    monkeypatch.setattr(gpu_check, "_worker", worker)
    assert gpu_check.main(["--out", str(tmp_path), "--device", "cpu"]) == 1
    broken, lacking, devices = json.loads((tmp_path / "gpu_check.json").read_text())["parts"]
    assert broken["status"] == "failed" and "no_such_rows" in broken["error"] and "Traceback" in broken["log"]
    assert lacking["status"] == "needs aqr_bench.cost.gpu_check.no_such_module" and "docs/gpu.md" in lacking["error"]
    assert devices["status"] == "ok" and devices["rows"][0]["what"] == "product, 64 x 64, float32"
    assert started == ["broken", "lacking", "devices"]


def test_a_part_beyond_its_time_is_ended_and_keeps_its_rows(tmp_path):
    part = Part("bias_parity float32", "Bias", "parity.bias_rows", 1)
    (tmp_path / "rows.jsonl").write_text('{"_part": "bias_parity float32", "size": "tiny"}\n{"_part": "other"}\n{"_pa')
    ended = gpu_check.run(part, TINY, tmp_path, 0.2)
    assert ended["status"] == "failed" and ended["error"] == "stopped after its limit of 0 s"
    assert ended["rows"] == [{"size": "tiny"}]


def test_a_failed_row_fails_its_part_and_others_go_on():
    rows = []
    attempt(rows.append, {"backend": "x"}, lambda: 1 / 0)
    attempt(rows.append, {"backend": "y"}, dict)
    assert rows == [{"backend": "x", "failed": "ZeroDivisionError: division by zero"}, {"backend": "y"}]


def test_what_is_always_run_fits_into_eight_minutes_on_a_gpu():
    parts = parts_of(settings_for("cuda"))
    assert sum(part.budget_s for part in parts if not part.optional) <= 480
    assert all(part.budget_s < 600 for part in parts)
    assert [part.name for part in parts if part.optional] == ["flex", "tiled note", "tiled vov", "quick"]
    assert sum(part.budget_s for part in parts if part.name.startswith("tiled ")) < 480
    # What may end a CUDA context stands alone.
    assert sum(part.name.startswith("bias_parity ") for part in parts) == 3


def test_parts_are_chosen_by_name_or_kind_and_mistakes_are_named(tmp_path):
    parts = {part.name: part for part in parts_of(TINY)}
    assert [part.name for part in gpu_check._chosen(parts, ["head_parity", "quick"])] == [
        "head_parity float32",
        "head_parity bfloat16",
        "head_parity float16",
        "quick",
    ]
    assert not any(part.optional for part in gpu_check._chosen(parts, []))
    with pytest.raises(UserError, match="no 'bias_parit'; did you mean 'bias_parity'"):
        gpu_check.main(["--out", str(tmp_path), "--device", "cpu", "--parts", "bias_parit"])
    with pytest.raises(UserError, match="--out DIR is needed"):
        gpu_check.main(["--device", "cpu"])


def test_batches_that_shrank_are_in_the_table():
    times = {"median": 2.0, "p95": 2.0, "values": [2.0]}
    row = {"head": "plain", "batch_size": 1, "shrunk": "out of memory with 2 samples", "latency_ms": times}
    part = {"name": "head", "title": "Head", "status": "ok", "seconds": 1.0, "limit_s": 9, "rows": [row]}
    about = {"device": "cpu", "size": "full", "started": "now", "seconds": 1.0, "machine": {"cpu": "C", "gpu": None}}
    text = markdown({**about, "packages": {"torch": "2"}, "parts": [part]})
    assert "| head | batch size | shrunk | median ms |" in text
    assert "| plain | 1 | out of memory with 2 samples | 2 |" in text


# ---------------------------------------------------------------- its rows


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_kind_of_bias_agrees_with_float64_in_half_precision(dtype):
    rows = rows_of(bias_rows, dtype)
    assert {row["bias"] for row in rows} == set(attention_cases.KINDS) and not [r for r in rows if "failed" in r]
    assert {r["backend"] for r in rows if r.get("not possible") == "float32 and float64 only"} == {"window"}


def test_the_reference_knows_a_wrong_mask_and_a_missing_prior():
    masked = attention_cases.ATTENTION["masked"]
    for kind, without in (("self", {"mask": None}), ("prior", {"prior": None})):
        case = attention_cases.make_case("tiny", 5, 5, kind=kind)
        reference = attention_cases.exact(case)
        assert max(attention_cases.errors(case, masked, reference)) < 1e-5
        assert max(attention_cases.errors(replace(case, **without), masked, reference)) > 0.01


def test_denoising_groups_are_hidden_from_all_but_themselves():
    mask = attention_cases.denoising_mask(24, "cpu")
    assert not mask[21:, 21:].any() and mask[21:, :21].all() and not mask[:21, 21:].any()
    assert not mask[:7, :7].any() and mask[:7, 7:21].all()


def test_the_attention_table_has_every_backend_its_kernel_and_what_is_not_possible():
    rows = rows_of(attention_rows, "tiny")
    assert not [row for row in rows if "failed" in row]
    timed = [row for row in rows if "not possible" not in row]
    assert {row["backend"].removesuffix(" (auto)") for row in timed} == set(BACKENDS)
    assert {row["kernel"] for row in timed if row["backend"] == "none"} == {"flash on a CPU"}
    assert {row["queries"] for row in timed} == {9, 12} and all(row["ratio"]["median"] > 0 for row in timed)
    assert [row["not possible"] for row in rows if row not in timed] == ["float32 and float64 only"] * 12


def test_the_rows_of_backend_tiled():
    rows = rows_of(tiled_table.tiled_rows, "tiny")
    assert not [row for row in rows if "failed" in row]
    timed = [row for row in rows if "ratio" in row]
    assert len(timed) == 2 * 2 * 3 * 2  # dtypes, queries, windows, modes
    assert {row["kernel of none"] for row in timed} == {"flash on a CPU"} and {r["two runs"] for r in timed} == {
        "equal"
    }
    assert all(0 < row["flagged"] <= 1 and row["ratio"]["low"] > 0 for row in timed)
    assert len([row for row in rows if "error" in row]) == 2


def test_a_failed_check_of_backend_tiled_leaves_the_facts_of_the_others(monkeypatch):
    def waits(mode):
        if mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", waits)
    on_gpu = replace(TINY, device="cuda")
    checks = [lambda: {"ratio": 1}, tiled_table._waits(on_gpu, dict), lambda: 1 / 0, lambda: {"more peak_mb": 2}]
    facts = tiled_table._facts_of(checks)
    assert facts.pop("failed") == "host waits: RuntimeError: called a synchronizing CUDA operation"
    assert facts == {"ratio": 1, "host waits": "some", "more peak_mb": 2}


def test_the_kernel_of_an_attention_is_named():
    q = torch.zeros(1, 1, 4, 8)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert kernels_of(lambda: attention(q, q, q)) == "flash on a CPU"
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert kernels_of(lambda: attention(q, q, q)) == "math"
    assert kernels_of(lambda: q + 1) == ""


def test_flex_is_measured_forward_on_a_cpu():
    rows = rows_of(training.flex_rows)
    assert not [row for row in rows if "failed" in row]
    assert sum("latency_ms" in row for row in rows if row["backend"] == "flex") == 3


@pytest.mark.slow
def test_heads_agree_with_themselves_in_every_dtype():
    for dtype, count in (("float32", 2 * len(HEADS)), ("bfloat16", len(HEADS) - 1)):
        rows = rows_of(head_rows, dtype)
        assert len(rows) == count and not [row for row in rows if "failed" in row]


def test_fewer_objects_are_fewer_denoising_queries():
    step = TrainingHead(TINY, NOTE, "plain", 1)
    shapes = []
    handle = step.head.transformer.decoder.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape[1]))
    assert all(torch.isfinite(step(objects)) for objects in (3, 5))
    handle.remove()
    assert shapes == [61 + 30, 61 + 50]


def test_host_waits_are_counted_by_place(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step():
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)

    facts = training.count_waits(step)
    assert facts["waits"] == 3 and facts["where"].startswith("test_gpu_check.py:") and facts["where"].endswith(" 3")
    assert modes == ["warn", "default"]


@pytest.mark.slow
def test_the_camera_model_trains_with_its_image_backbone_and_under_ddp():
    rows = rows_of(detector.amp_rows)
    assert [row["head"] for row in rows] == ["plain", "cross"] and not [row for row in rows if "failed" in row]
    assert all(row["images_per_s"] > 0 for row in rows)
    pairs = rows_of(detector.ddp_rows)
    assert len(pairs) == 4 and not [row for row in pairs if "failed" in row]


# ---------------------------------------------------------------- a tier from world to report


@pytest.mark.parametrize("tier", ["smoke", "quick"])
def test_every_command_of_a_tier_reads_what_an_earlier_stage_has_written(tier):
    study = limit_seeds(load_study(end_to_end.STUDIES[tier]), load_tier(tier), 1)
    written = {"results", f"results/{tier}/world", f"results/{tier}/infos", f"results/{tier}/work"}
    steps = []
    for stage in end_to_end.stages(load_tier(tier), study):
        for command in stage:
            read = [word for word in command.arguments if word.startswith("results/")]
            assert {word for word in read if word.endswith(".jsonl")} <= written | {command.output}
            steps.append(command.step)
        written |= {command.output for command in stage}
    assert steps[:2] == ["world", "data"] and steps[-1] == "report"
    assert steps.count("train") == steps.count("evaluate") + len(load_tier(tier).pretrain)
    assert steps.count("measure") == len(study.variants) and "pictures" in steps


def test_a_part_of_a_measurement_that_failed_is_counted_once(tmp_path):
    cost = {"a": 1, "flops": {"training": {"status": "failed", "reason": "why"}}, "b": {"status": "ok", "c": {}}}
    cost["failed_parts"] = failed_parts(cost)
    file = write_records(tmp_path / "measure.jsonl", [Record("measure", "ok", "smoke", cost=cost)])
    assert end_to_end.record_facts(file, "cpu")["failed"] == "1, the first: flops.training: why"


def test_a_record_without_a_gpu_is_a_failure_where_one_was_asked_for(tmp_path):
    file = write_records(tmp_path / "train.jsonl", [Record("train", "ok", "smoke", provenance=provenance())])
    assert end_to_end.record_facts(file, "cpu") == {"records": "1 of 1 ok", "gpu": None}
    assert "a CPU did the work" in end_to_end.record_facts(file, "cuda")["failed"]


# ---------------------------------------------------------------- wheels


def test_wheels_are_those_of_the_lock_and_carry_no_second_torch():
    lines = (line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    pins = {name.lower(): version for name, version in lines}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = (ROOT / "aqr_bench" / "cost" / "gpu_check" / "requirements.txt").read_text().splitlines()
    wheels = dict(line.split("==") for line in text if line and not line.startswith("#"))
    assert extras["lite"] == [f"mmcv-lite=={wheels.pop('mmcv-lite')}"]
    assert {name: pins[name] for name in wheels} == wheels
    assert not {"torch", "numpy", "open3d"} & wheels.keys()


# ---------------------------------------------------------------- verdicts


def test_an_error_over_its_bound_and_one_that_is_no_number_fail():
    assert "failed" not in with_tolerance({"output": 1e-4}, 1e-3)
    assert with_tolerance({"output": 0.5}, 1e-3)["failed"] == "error 0.5 is over 0.001"
    assert "nan" in with_tolerance({"output": 1e-6, "gradients": float("nan")}, 1e-3)["failed"]
    assert relative_distance({"a": torch.tensor([3.0, 0.0])}, {"a": torch.tensor([3.0, 4.0])}) == pytest.approx(0.8)
