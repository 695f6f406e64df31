"""Evaluation of a suite: finished conditions are kept, several processes give the same records, failures are named."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from worlds import as_test_split, shared_world

from aqr_bench.cli.evaluate import main as evaluate
from aqr_bench.console import hide_progress
from aqr_bench.data.__main__ import main as make_infos
from aqr_bench.data.dataset import DataSet, load_data
from aqr_bench.engine import evaluate_suite as suites
from aqr_bench.engine import evaluate_workers, leaderboard
from aqr_bench.engine.condition_cache import ConditionCache, files_of
from aqr_bench.engine.config import base_config
from aqr_bench.engine.evaluate import Evaluator
from aqr_bench.errors import UserError
from aqr_bench.records.diff import results_of
from aqr_bench.records.job import Job
from aqr_bench.records.record import Record, read_records, write_records
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.layout import FEATURES
from aqr_bench.study.load import load_suite, load_tier
from aqr_bench.study.plan import evaluation_settings

SPEC = dict(version="v1.0-mini", seed=4, train_scenes=1, val_scenes=1, frames_per_scene=2)
SUITE = """\
name: short
summary: A suite of missing sensors.
conditions:
  - {name: clean}
  - {name: no_back, corruption: no_back_cameras}
  - {name: absent_cameras, corruption: no_cameras_absent}
"""
NAMES = ["clean", "no_back", "absent_cameras"]


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data(shared_world(**SPEC) / "infos")


@pytest.fixture(scope="module")
def untrained(data, tmp_path_factory) -> Path:
    """Train record of a model that has learnt nothing."""
    from mmdet3d.registry import MODELS

    folder = tmp_path_factory.mktemp("model")
    config = base_config(load_tier("smoke"), data).model
    torch.manual_seed(0)
    torch.save({"state_dict": MODELS.build(config).state_dict()}, folder / "final.pth")
    source = dict(checkpoint="final.pth", checkpoint_sha256=sha256_file(folder / "final.pth"))
    return write_records(folder / "train.jsonl", [Record("train", "ok", "smoke", seed=0, provenance=source)])


@pytest.fixture(scope="module")
def unannotated(data, tmp_path_factory) -> DataSet:
    """The same samples as a test split."""
    folder = tmp_path_factory.mktemp("test_split")
    root = as_test_split(data.root, folder / "root")
    words = ["--version", "v1.0-test", "--root", str(root), "--out", str(folder / "infos"), "--quiet"]
    assert make_infos(words) == 0
    return load_data(folder / "infos")


class Evaluation:
    """The command on a short suite, in a folder."""

    def __init__(self, folder: Path, data: DataSet, train: Path) -> None:
        self.folder, self.out = folder, folder / "evaluate.short.jsonl"
        (folder / "short.yaml").write_text(SUITE)
        self.words = ["--tier", "smoke", "--infos", str(data.infos), "--suite", str(folder / "short.yaml")]
        self.words += ["--train", str(train), "--work", str(folder / "work"), "--out", str(self.out)]

    def run(self, *options: str) -> list[Record]:
        code = evaluate([*self.words, *options])
        records = read_records(self.out)
        assert code == (3 if any(record.failed for record in records) else 0)
        return records

    @property
    def cache(self) -> Path:
        return self.folder / "work/base/seed0/evaluate.short.conditions.jsonl"


@pytest.fixture
def short(tmp_path, data, untrained) -> Evaluation:
    return Evaluation(tmp_path, data, untrained)


@pytest.fixture(scope="module")
def reference(tmp_path_factory, data, untrained) -> list[Record]:
    """Records of an evaluation that nothing disturbs."""
    return Evaluation(tmp_path_factory.mktemp("reference"), data, untrained).run()


def results(records: list[Record]) -> list[dict]:
    """What has to be equal, bit for bit."""
    return [results_of(record) for record in records]


def test_features_of_frozen_branches_are_computed_once(short, reference):
    """For all conditions that leave a sensor as it is; the records are those without a cache."""
    tier = load_tier("smoke").path.read_text().replace("name: smoke", "name: stored\ncache_features: true")
    branches = "img_backbone, img_neck, pts_voxel_encoder, pts_backbone, pts_neck"
    tier = tier.replace("{iterations: 4, config: {}}", f"{{iterations: 4, config: {{model.frozen: [{branches}]}}}}")
    (short.folder / "stored.yaml").write_text(tier)
    short.words[1] = str(short.folder / "stored.yaml")
    records = short.run()
    assert results(records) == results(reference)
    # Two samples: clouds, images, images of fewer cameras.
    assert len(list((short.folder / "work" / FEATURES).iterdir())) == 6


def test_of_a_test_split_leaderboard_files_are_written(tmp_path, unannotated, untrained, capsys):
    """Four samples, each with its (empty or full) list; the record says that there is no score, and is no failure."""
    records = Evaluation(tmp_path, unannotated, untrained).run()
    lines = [line for line in capsys.readouterr().out.splitlines() if "leaderboard" in line]
    for record, line in zip(records, lines, strict=True):
        assert record.status == "not_applicable" and not record.failed and record.scores == {}
        assert record.reason == "no score, since the test split has no annotations; a leaderboard file is written"
        assert record.extra["leaderboard"] == {"file": "results_nusc.json", "samples": 4}
        (file,) = files_of([record])
        path = tmp_path / "work/base/seed0" / file
        assert str(path) in line and record.reason in line
        content = json.loads(path.read_text())
        assert content["meta"]["use_lidar"] is True and len(content["results"]) == 4
        assert record.provenance["predictions_sha256"] == sha256_file(path) and record.provenance["input_sha256"]
    assert any(content["results"].values()), "the model, untrained as it is, detects something"


def test_a_leaderboard_file_that_lacks_samples_is_a_failure(tmp_path, unannotated, untrained, monkeypatch):
    tokens = leaderboard._split_tokens
    monkeypatch.setattr(leaderboard, "_split_tokens", lambda *place: (*tokens(*place), "one more"))
    record, *_ = Evaluation(tmp_path, unannotated, untrained).run()
    assert record.failed and "1 samples of the split are missing" in record.reason


def test_a_killed_suite_resumes_with_the_next_condition(short, reference, monkeypatch, capsys):
    detect, seen = Evaluator.detect, []

    def interrupted(self, condition, path):
        seen.append(condition.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return detect(self, condition, path)

    monkeypatch.setattr(Evaluator, "detect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        short.run()
    assert not short.out.exists() and len(short.cache.read_text().splitlines()) == 1
    with short.cache.open("a") as file:  # as a kill in the middle of a write leaves it
        file.write('{"identity": "half')
    printed = capsys.readouterr().out
    assert "clean: mAP 0." in printed and " s (1 of 3)" in printed and "no_back:" not in printed
    records = short.run()
    assert seen == ["clean", "no_back", "no_back", "absent_cameras"]
    printed = capsys.readouterr().out
    assert "resuming: 1 of 3 conditions are finished, next: no_back" in printed and "(3 of 3)" in printed
    assert [record.condition for record in records] == NAMES and results(records) == results(reference)
    assert not short.cache.exists()


def test_after_a_failure_the_failed_condition_alone_is_evaluated_again(short, reference, monkeypatch):
    detect, seen, broken = Evaluator.detect, [], ["no_back"]

    def sometimes(self, condition, path):
        seen.append(condition.name)
        if condition.name in broken:
            raise RuntimeError("a passing fault")
        return detect(self, condition, path)

    monkeypatch.setattr(Evaluator, "detect", sometimes)
    assert [record.status for record in short.run()] == ["ok", "failed", "ok"]
    broken.clear()
    records = short.run()
    assert seen == [*NAMES, "no_back"] and results(records) == results(reference) and not short.cache.exists()


def test_several_processes_give_the_same_records_and_a_killed_one_is_named(short, reference, monkeypatch, capfd):
    monkeypatch.setattr(evaluate_workers, "_serve", die_at_no_back)
    records = short.run("--workers", "2")
    assert all("spawn_main" not in record.provenance["command"] for record in records)
    printed = capfd.readouterr().out
    assert all(f"{name}: mAP 0." in printed for name in (NAMES[0], NAMES[2])) and "(3 of 3)" in printed
    assert [record.condition for record in records] == NAMES
    assert [record.status for record in records] == ["ok", "failed", "ok"]
    assert "the process that evaluated it was killed (signal 9)" in records[1].reason
    assert results([records[0], records[2]]) == results([reference[0], reference[2]])


def die_at_no_back(channel, model, gpu):
    """A worker process that the system kills at one condition."""
    detect = Evaluator.detect

    def killed(self, condition, path):
        if condition.name == "no_back":
            os.kill(os.getpid(), signal.SIGKILL)
        return detect(self, condition, path)

    Evaluator.detect = killed
    serve(channel, model, gpu)


serve = evaluate_workers._serve


def test_each_process_gets_a_gpu_of_its_own(short, monkeypatch):
    gpus = []

    class Worker:
        process = type("Alive", (), {"is_alive": lambda self: True})()

        def __init__(self, model, gpu):
            gpus.append(gpu)
            self.gpu, self.channel, self.name = gpu, object(), None

        def send(self, name):
            self.name = name

        def receive(self):
            return Record("evaluate", "ok", "smoke", condition=self.name)

        def stop(self):
            pass

    monkeypatch.setattr(evaluate_workers, "_Worker", Worker)
    monkeypatch.setattr(evaluate_workers, "wait", lambda channels, _: channels)
    suite, model = load_suite(short.folder / "short.yaml"), type("Model", (), {"tier": load_tier("smoke")})()
    records = evaluate_workers.evaluate_in_processes(model, suite, suite.conditions, 8, ("0", "GPU-b"))
    assert {record.condition for record in records} == set(NAMES) and gpus == ["0", "GPU-b", "0"]


def test_nothing_is_started_after_a_failed_training(short, tmp_path, monkeypatch):
    failed = Record("train", "diverged", "smoke", seed=0, reason="DivergedError: loss is nan", provenance={})
    monkeypatch.setattr(suites, "build_config", lambda *_: pytest.fail("this imports mmdet3d"))
    short.words[short.words.index("--train") + 1] = str(write_records(tmp_path / "failed.jsonl", [failed]))
    records = short.run()
    assert {record.reason for record in records} == {"not started: training failed: DivergedError: loss is nan"}
    assert [record.condition for record in records] == NAMES and records[0].provenance["config_sha256"] is None


def test_a_checkpoint_of_a_config_resumes_as_well_and_a_failure_is_exit_code_3(short, data, untrained, monkeypatch):
    words = ["--config", load_tier("smoke").model, "--checkpoint", str(untrained.parent / "final.pth")]
    words += [*short.words[2:6], *short.words[8:]]
    detect, seen, broken = Evaluator.detect, [], [KeyboardInterrupt(), RuntimeError("a passing fault")]

    def sometimes(self, condition, path):
        seen.append(condition.name)
        if condition.name == "no_back" and broken:
            raise broken.pop(0)
        return detect(self, condition, path)

    monkeypatch.setattr(Evaluator, "detect", sometimes)
    with pytest.raises(KeyboardInterrupt):
        evaluate(words)
    assert evaluate(words) == 3
    assert [record.status for record in read_records(short.out)] == ["ok", "failed", "ok"]
    assert evaluate(words) == 0 and seen == ["clean", "no_back", "no_back", "absent_cameras", "no_back"]
    assert all(record.ok for record in read_records(short.out))


def test_several_suites_are_written_to_a_folder(short, monkeypatch):
    calls, statuses = [], ["ok", "failed"]

    def stand_in(tier, suite, data, study, train, work, out, workers):
        calls.append((suite.name, out))
        reason = None if statuses[-1] == "ok" else "out of memory"
        return [Record("evaluate", statuses.pop(), tier.name, condition="clean", suite=suite.name, reason=reason)]

    monkeypatch.setattr("aqr_bench.cli.evaluate.evaluate_suite", stand_in)
    (short.folder / "other.yaml").write_text(SUITE.replace("name: short", "name: other", 1))
    words = [*short.words[: short.words.index("--out")], "--out", str(short.folder)]
    words.insert(words.index("--train"), str(short.folder / "other.yaml"))
    assert evaluate(words) == 3  # one failure among all suites is enough, and does not end it
    assert calls == [(name, f"{short.folder}/evaluate.{name}.jsonl") for name in ("short", "other")]
    with pytest.raises(UserError, match=r"--out: .*evaluate.short.jsonl is a file.*Give a folder"):
        evaluate([*words, "--out", str(short.out)])
    words[words.index(str(short.folder / "other.yaml"))] = str(short.folder / "short.yaml")
    with pytest.raises(UserError, match="--suite: 'short' is given twice"):
        evaluate(words)


JOB = Job("evaluate", {"model": {"a": 1}}, "tables", "infos", {"batch_size": 1}, ("checkpoint",))


@pytest.fixture
def finished(tmp_path):
    """A cache with one finished condition, and what it needs to be opened again."""
    (tmp_path / "short.yaml").write_text(SUITE)
    suite = load_suite(tmp_path / "short.yaml")
    job = replace(JOB, settings=evaluation_settings(load_tier("smoke"), suite))
    file = tmp_path / "detections/short/clean/matches.npz"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"matches")
    extra = {"matches": {"file": "matches.npz"}}
    record = Record("evaluate", "ok", "smoke", condition="clean", suite="short", provenance={}, extra=extra)
    ConditionCache(tmp_path, suite, job).add(record, files_of([record]))
    return tmp_path, suite, job, record


def test_a_finished_condition_counts_whatever_else_is_in_the_suite(finished):
    work, suite, job, record = finished
    assert ConditionCache(work, suite, job).load() == {"clean": record}
    shorter = replace(suite, conditions=suite.conditions[:2])
    assert list(ConditionCache(work, shorter, replace(job, settings=evaluation_settings(load_tier("smoke"), shorter))).load()) == ["clean"]  # fmt: skip # noqa: E501


def test_a_condition_that_changed_nothing_is_evaluated_again(finished):
    """Its cause may be in the data, so a second attempt has to look at them."""
    work, suite, job, _ = finished
    cache = ConditionCache(work, suite, job)
    fields = dict(kind="evaluate", status="ok", tier="smoke", suite="short", scores={"mAP": 0.5})
    records = [Record(**fields, condition=name, provenance={"input_sha256": "same"}) for name in NAMES[:2]]
    cache.remove()
    for record in records:
        cache.add(record, [])
    suites.write_suite_records(records, suite, work / "out.jsonl", cache)
    assert [record.status for record in read_records(work / "out.jsonl")] == ["ok", "failed"]
    assert list(ConditionCache(work, suite, job).load()) == ["clean"]


@pytest.mark.parametrize(
    "changes", [{"inputs": ("other",)}, {"config": {"model": {"a": 2}}}, {"infos_sha256": "x"}, {"data_sha256": "x"}]
)
def test_another_job_does_not_take_it(finished, changes):
    work, suite, job, _ = finished
    cache = ConditionCache(work, suite, replace(job, **changes))
    assert cache.load() == {} and cache.path.read_text() == ""


@pytest.mark.parametrize("spoil", [lambda f: f.unlink(), lambda f: f.write_bytes(b"of another model")])
def test_a_condition_whose_files_are_gone_is_evaluated_again(finished, spoil):
    work, suite, job, _ = finished
    spoil(work / "detections/short/clean/matches.npz")
    assert ConditionCache(work, suite, job).load() == {}


def test_without_progress_a_failed_condition_is_still_named(capsys):
    with hide_progress():
        for state in (
            {"status": "ok", "scores": {"mAP": 0.5, "NDS": 0.5}},
            {"status": "oom", "reason": "out of memory"},
        ):
            suites._print_condition(Record("evaluate", tier="smoke", condition="fog", suite="x", **state), 1, 2, Path())
    assert capsys.readouterr().out == "fog: out of memory (1 of 2)\n"
