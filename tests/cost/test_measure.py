"""A whole measurement on a tiny world, as it is called by hand, and what its record and its table say."""

import errno
import json
from dataclasses import replace

import pytest
from worlds import copy_infos

from aqr_bench.cost import flops, measurement
from aqr_bench.cost import measure as entry
from aqr_bench.cost.benchmark_model import BenchmarkModel, load_benchmark_model
from aqr_bench.cost.measure import main
from aqr_bench.cost.measurement import measure, status_of_measurement
from aqr_bench.cost.table import table
from aqr_bench.data.dataset import load_data
from aqr_bench.engine.config import build_config
from aqr_bench.errors import UserError
from aqr_bench.records.record import Record, read_records
from aqr_bench.study.load import load_study, load_tier

STAGES = ["preprocess", "voxelise", "image_backbone", "lidar_backbone", "router", "decoder", "head", "decode", "other"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a world of a few frames and its infos, where a run would have put them."""
    folder = tmp_path_factory.mktemp("measure")
    copy_infos(folder / "results/smoke/infos", seed=4, train_scenes=1, val_scenes=1, frames_per_scene=2)
    return folder


@pytest.fixture(scope="module")
def data(place):
    return load_data(place / "results/smoke/infos")


@pytest.fixture(scope="module")
def measured(place):
    """Record and printed table of the smoke study's variant, called with no more than tier, study and variant."""
    import contextlib
    import io
    import os

    before, printed = os.getcwd(), io.StringIO()
    os.chdir(place)
    try:
        with contextlib.redirect_stdout(printed):
            out = ["--out", "measure.jsonl"]
            assert main(["--tier", "smoke", "--study", "smoke", "--variant", "cross", *out]) == 0
    finally:
        os.chdir(before)
    return read_records(place / "measure.jsonl")[0], printed.getvalue()


def test_the_record_holds_every_part(measured):
    record = measured[0]
    cost, rounds = record.cost, load_tier("smoke").measure.rounds
    assert record.ok, record.reason
    assert len(cost["latency_ms"]["values"]) == len(cost["latency_cpu_ms"]["values"]) == rounds
    assert len(cost["without_voxelisation"]["latency_ms"]["values"]) == rounds
    assert "voxelisation" in cost["timed_scope"] and "without" in cost["without_voxelisation"]["timed_scope"]
    assert [row["asked"] for row in cost["throughput"]] == [1, 2]
    assert list(cost["stages"]["median_ms"]) == [*STAGES, "whole"] and 0.5 < cost["stages"]["named_share"] < 1
    for what in ("inference", "training"):
        assert cost["memory"][what]["rss_peak_mb"] > 100 and cost["flops"][what]["total"] > 1e8
        assert cost["flops"][what]["uncounted"]["aten.mul"] > 0
        assert "flash on a CPU" in cost["attention_kernels"][what]
    assert cost["flops"]["training"]["total"] > cost["flops"]["inference"]["total"]
    training = cost["training"]
    assert training["status"] == "ok" and training["batch_size"] == 2 and training["precision"] == "float32"
    for part in ("forward", "backward", "optimiser"):
        assert len(training[f"{part}_ms"]["values"]) == load_tier("smoke").measure.train_rounds
    method = cost["method"]
    assert set(method["took_s"]) == set(measurement.PARTS) and method["clocks"]["before"]["gpu"]["nvml"]
    json.dumps(record.to_dict(), allow_nan=False)


def test_the_table_for_people(measured):
    record, printed = measured
    assert printed.startswith("smoke/cross, tier smoke") and f"{record.cost['latency_ms']['median']:.1f} ms" in printed
    for name in (
        "without voxelisation",
        "samples per s",
        "memory, training",
        "FLOPs",
        "attention kernels, inference",
        "stages",
        "training step",
    ):
        assert name in printed


def test_only_some_parts_and_nothing_written(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    assert main(["--tier", "smoke", "--study", "smoke", "--variant", "none", "--parts", "latency"]) == 0
    printed = capsys.readouterr().out
    assert "latency" in printed and "training" not in printed and sorted(place.rglob("*")) == before


def test_a_part_that_cannot_be_measured_says_why_and_the_rest_stays(data, monkeypatch):
    def broken(subject, batch_size):
        raise UserError("the sparse encoder cannot learn on a CPU")

    monkeypatch.setattr(measurement, "TrainingStep", broken)
    result = measure(load_tier("smoke"), load_study("smoke"), "none", data, ["memory", "training"])
    reason = "UserError: the sparse encoder cannot learn on a CPU"
    assert result["training"] == result["memory"]["training"] == {"status": "failed", "reason": reason}
    assert result["memory"]["inference"]["rss_peak_mb"] > 100


def with_learning_rate(study, variant, rate):
    """The study with another learning rate of one variant."""
    config = {**study.variants[variant].config, "optim_wrapper.optimizer.lr": rate}
    variants = {**study.variants, variant: replace(study.variants[variant], config=config)}
    return replace(study, variants=variants)


def test_a_bad_learning_rate_costs_the_training_parts_alone(data):
    study = with_learning_rate(load_study("smoke"), "cross", -0.001)
    result = measure(
        load_tier("smoke"), study, "cross", data, ["memory", "stages", "throughput", "latency", "training"]
    )
    assert set(result["failed_parts"]) == {"memory.training", "training"}
    assert all("Invalid learning rate: -0.001" in part["reason"] for part in result["failed_parts"].values())
    assert status_of_measurement(result) == ("ok", None) and result["throughput"][0]["samples_per_s"] > 0


def test_a_part_that_fails_leaves_no_state_for_the_next(data, monkeypatch):
    def spoil(self, batch_size):
        """What an optimiser with frozen layers may do before it fails."""
        self.model.train()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        raise RuntimeError("in the middle of a training step")

    models = []
    load = measurement.load_benchmark_model
    monkeypatch.setattr(measurement, "load_benchmark_model", lambda *args: models.append(load(*args)) or models[-1])
    monkeypatch.setattr(BenchmarkModel, "training_batches", spoil)
    result = measure(load_tier("smoke"), load_study("smoke"), "cross", data, ["memory", "flops", "latency"])
    failed = {"memory.training", "flops.training", "attention_kernels.training"}
    assert set(result["failed_parts"]) == failed, result["failed_parts"]
    assert len(models) == 2 and not any(module.training for model in models for module in model.model.modules())
    assert all(parameter.requires_grad for parameter in models[0].model.parameters())


PLACES = {
    "memory.inference": ("memory", "inference"),
    "flops.inference": ("flops", "inference"),
    "flops.training": ("flops", "training"),
    "attention_kernels.inference": ("attention_kernels", "inference"),
    "attention_kernels.training": ("attention_kernels", "training"),
    "memory.training": ("memory", "training"),
    "stages": ("stages",),
    "latency": ("latency",),
    "training": ("training",),
}


def test_a_model_that_cannot_run_fails_in_every_part_and_the_record_names_them(data, monkeypatch):
    def broken(*args):
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(BenchmarkModel, "_detect", broken)
    monkeypatch.setattr(measurement, "TrainingStep", broken)
    result = measure(load_tier("smoke"), load_study("smoke"), "none", data)
    why = {"status": "failed", "reason": "RuntimeError: no kernel for this"}
    assert result["failed_parts"] == {part: why for part in (*PLACES, "throughput")}
    for path in PLACES.values():
        place = result
        for key in path:
            place = place[key]
        assert place == why
    assert result["throughput"] == [{"asked": 1, "batch_size": None, "samples_per_s": None, **why}]
    assert result["parameters"] > 1000 and set(result["method"]["took_s"]) == set(measurement.PARTS)
    assert status_of_measurement(result) == ("failed", "memory.inference: RuntimeError: no kernel for this")
    text = table(Record("measure", "failed", "smoke", reason="memory.inference: ...", cost={"wall_s": 1.0, **result}))
    assert text.count("RuntimeError: no kernel for this") == len(PLACES) + 1 and "parameters" in text


def test_what_is_not_essential_leaves_the_record_ok(data, monkeypatch):
    """A counter that does not know an operator, or a stage that fails, says nothing against the latency."""

    def broken(*args):
        raise TypeError("no implementation for this operator")

    monkeypatch.setattr(flops, "count_flops", broken)
    monkeypatch.setattr(measurement, "Stages", broken)
    result = measure(load_tier("smoke"), load_study("smoke"), "none", data, ["flops", "stages", "latency"])
    assert set(result["failed_parts"]) == {"flops.inference", "flops.training", "stages"}
    assert result["latency_ms"]["median"] > 0 and status_of_measurement(result) == ("ok", None)


def test_a_full_disk_is_no_failure_of_a_part(data, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(flops, "count_flops", full)
    with pytest.raises(UserError, match="no space is left"):
        measure(load_tier("smoke"), load_study("smoke"), "none", data, ["flops"])


def test_too_large_a_batch_shrinks_and_the_record_says_so(data, monkeypatch):
    inference = BenchmarkModel.inference

    def limited(self, batch_size):
        if batch_size > 1:
            raise MemoryError
        return inference(self, batch_size)

    monkeypatch.setattr(BenchmarkModel, "inference", limited)
    tier = load_tier("smoke")
    tier = replace(tier, measure=replace(tier.measure, batch_size=4))
    result = measure(tier, load_study("smoke"), "none", data, ["throughput", "latency"])
    assert result["batch_size"] == 1 and result["batch_size_asked"] == 4
    assert result["batch_size_reason"] == "out of memory with 2 samples"
    assert [(r["asked"], r["batch_size"], r["status"]) for r in result["throughput"]] == [(1, 1, "ok"), (2, 1, "oom")]
    assert result["throughput_per_s"] == pytest.approx(1000 / result["latency_ms"]["median"])


def test_voxels_made_beforehand_give_the_same_detections(data):
    import torch

    tier, study = load_tier("smoke"), load_study("smoke")
    subject = load_benchmark_model(build_config(tier, data, 0, "", study, "cross"), study.suite.conditions[0])
    layer, result = subject.model.pts_voxel_layer, []
    subject.model.register_forward_hook(lambda module, inputs, output: result.append(output[0].pred_instances_3d))
    with_voxels, without = subject.inference(1), subject.inference_without_voxelisation(1)
    with_voxels()
    without()
    assert subject.model.pts_voxel_layer is layer
    torch.testing.assert_close(result[0].bboxes_3d.tensor, result[1].bboxes_3d.tensor, rtol=0, atol=0)
    torch.testing.assert_close(result[0].scores_3d, result[1].scores_3d, rtol=0, atol=0)
    # A variant and its baseline see the same samples, which are read once.
    twin = load_benchmark_model(build_config(tier, data, 0, "", study, "none"), study.suite.conditions[0], subject)
    twin.inference(1)
    assert twin.loaded["test"] is subject.loaded["test"]


def test_a_failed_measurement_is_recorded(place, monkeypatch, capsys):
    def out_of_memory(*args):
        raise MemoryError("no memory left")

    monkeypatch.setattr(entry, "measure", out_of_memory)
    monkeypatch.chdir(place)
    assert main(["--tier", "smoke", "--study", "smoke", "--variant", "none", "--out", "failed.jsonl"]) == 0
    record = read_records(place / "failed.jsonl")[0]
    assert (record.status, record.reason) == ("oom", "MemoryError: no memory left")
    assert "smoke/none, tier smoke: oom: MemoryError" in capsys.readouterr().out


def test_mistakes_are_named(place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(UserError, match="no part 'latncy'; did you mean 'latency'"):
        main(["--tier", "smoke", "--study", "smoke", "--variant", "none", "--parts", "latncy"])
    with pytest.raises(UserError, match="unknown variant 'cros'; did you mean 'cross'"):
        main(["--tier", "smoke", "--study", "smoke", "--variant", "cros"])
    with pytest.raises(UserError, match="results/quick/infos"):
        main(["--tier", "quick", "--study", "smoke", "--variant", "none"])
