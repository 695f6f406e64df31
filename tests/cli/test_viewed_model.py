"""The model of a record: of a tier, reused, or of evaluate --config; and its messages where something is gone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_runs import RUN, tiny_checkout

from aqr_bench.cli import viewed_model
from aqr_bench.cli.viewed_model import ViewedModel, load_model, with_distinct_names
from aqr_bench.engine.weights import trained_checkpoint, weights_of
from aqr_bench.errors import UserError
from aqr_bench.records.record import Record, write_records
from aqr_bench.study.hashes import sha256_file


def test_a_reused_evaluation_is_viewed_with_the_training_beside_it(tmp_path, monkeypatch):
    """Its command is that of the run which it was taken from, whose folders are not beside it in the same way."""
    calls = []
    monkeypatch.setattr(viewed_model, "load_evaluator", lambda *args: calls.append(args))
    monkeypatch.setattr(viewed_model, "load_data", Path)
    results = tmp_path / "copy"
    folder = results / "study_b" / "v" / "seed0"
    for path in (folder, results / "infos", results / "work"):
        path.mkdir(parents=True)
    (folder / "final.pth").touch()

    def write(name: str, run: str, **fields) -> Path:
        command = f"aqr-bench {fields['kind']} --tier smoke --infos results/smoke/infos --work results/smoke/work"
        if name.startswith("evaluate"):
            command += f" --suite mome missing_sensors --study a --train results/smoke/{run}/seed0/train.jsonl"
        facts = {"command": f"{command} --out results/smoke/{run}/seed0/{name}", "checkpoint": "final.pth"}
        return write_records(folder / name, [Record(**fields, status="ok", tier="smoke", provenance=facts)])

    fields = dict(study="study_b", variant="v", seed=0)
    train = write("train.jsonl", "study_b/v", kind="train", **fields)
    fields |= dict(suite="missing_sensors", condition="clean")
    record = write("evaluate.missing_sensors.jsonl", "study_a/w", kind="evaluate", **fields)
    model = load_model(record, None, tmp_path)
    tier, data, trained, path, _, study = calls[-1]
    assert (tier.name, data, trained.study, path, study) == ("smoke", results / "infos", "study_b", train, None)
    assert list(model.conditions) == ["clean", "no_lidar", "no_cameras"] and model.name == "v seed 0"
    assert model.work == results / "work"


def config_record(folder: Path, checkpoint: Path, **changes: str) -> Path:
    """As evaluate --config leaves one, in the folder of the tiny run."""
    options = dict(config="cmt_aqr_quick", checkpoint=str(checkpoint), infos="results/tiny/infos", work="work")
    words = [word for name, value in (options | changes).items() for word in (f"--{name}", value)]
    command = " ".join(["aqr-bench evaluate", *words, "--suite two.yaml --out r.jsonl"])
    facts = {"command": command, "checkpoint": "weights.pth", "checkpoint_sha256": sha256_file(checkpoint)}
    record = Record("evaluate", "ok", "cmt_aqr_quick", suite="two", condition="clean", provenance=facts)
    return write_records(folder / "r.jsonl", [record])


def test_the_model_of_evaluate_config_has_the_weights_of_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_checkout())
    checkpoint = trained_checkpoint(Path(RUN) / "train.jsonl")
    model = load_model(config_record(tmp_path, checkpoint), None, tmp_path / "config")
    assert model.name == "cmt_aqr_quick" and list(model.conditions) == ["clean", "no_lidar"]
    expected, loaded = weights_of(checkpoint), model.evaluator.model.state_dict()
    assert expected.keys() == loaded.keys() and all((expected[name] == loaded[name]).all() for name in expected)


def test_another_checkpoint_than_the_evaluated_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_checkout())
    checkpoint = tmp_path / "b.pth"
    checkpoint.write_bytes(b"then")
    record = config_record(tmp_path, checkpoint)
    checkpoint.write_bytes(b"now")
    with pytest.raises(UserError, match=r"b.pth is not the checkpoint that .*r.jsonl is of.*Evaluate it again"):
        load_model(record, None, tmp_path)
    checkpoint.unlink()
    checkpoint.mkdir()
    with pytest.raises(UserError, match="checkpoint not found"):
        load_model(record, None, tmp_path)
    checkpoint.rmdir()
    with pytest.raises(UserError, match=r"r.jsonl: --checkpoint of its command not found: .*Put it back there"):
        load_model(record, None, tmp_path)


def test_info_files_that_are_gone_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_checkout())
    checkpoint = trained_checkpoint(Path(RUN) / "train.jsonl")
    record = config_record(tmp_path, checkpoint, infos="gone")
    with pytest.raises(UserError, match=r"--infos of its command not found: gone. Name the folder with --infos"):
        load_model(record, None, tmp_path)


def test_what_evaluate_config_wrote_is_in_its_work_folder(tmp_path, monkeypatch):
    """The info files that it imported from one of mmdet3d, and the detections."""
    asked = []
    monkeypatch.setattr(viewed_model, "load_data", asked.append)
    (tmp_path / "work").mkdir()
    for name in ("val.pkl", "b.pth"):
        (tmp_path / name).touch()
    (tmp_path / "two.yaml").write_text("name: two\nsummary: x\nconditions:\n  - {name: clean}\n")
    monkeypatch.chdir(tmp_path)
    record = config_record(tmp_path, tmp_path / "b.pth", infos="val.pkl")
    monkeypatch.setattr(viewed_model, "base_config", lambda *_: None)
    monkeypatch.setattr(viewed_model, "adhoc_tier", lambda *_: SimpleNamespace(name="val"))
    monkeypatch.setattr(viewed_model, "checkpoint_evaluator", lambda *_: None)
    model = load_model(record, None, tmp_path)
    submission = tmp_path / "work/detections/two/clean/results_nusc.json"  # the work folder is that of the one run
    assert model.detections_under(model.conditions["clean"]) is None
    submission.parent.mkdir(parents=True)
    submission.touch()
    assert model.detections_under(model.conditions["clean"]) == submission
    assert asked == [str(tmp_path / "work" / "infos")]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (None, r"r.jsonl: provenance.command: 'None' is not the command of a train step.*Give a record that aqr-bench"),
        (5, "is not the command of a train step"),
        ("python other.py --tier x", "is not the command of a train step"),
        ("aqr-bench train --tier smoke", "r.jsonl: its command has no --infos. Name the folder with --infos"),
        ("aqr-bench train --tier gone/x.yaml --infos . --out r.jsonl", "--tier of its command not found: gone/x.yaml"),
    ],
)
def test_a_record_whose_model_is_not_known_is_refused(command, message, tmp_path, monkeypatch):
    monkeypatch.setattr(viewed_model, "load_data", Path)
    record = Record("train", "ok", "t", provenance={"command": command})
    with pytest.raises(UserError, match=message):
        load_model(write_records(tmp_path / "r.jsonl", [record]), None, tmp_path)


def test_a_pretrained_branch_is_no_detector(tmp_path, monkeypatch):
    monkeypatch.setattr(viewed_model, "load_data", Path)
    command = "aqr-bench train --tier smoke --infos infos --pretrain lidar --out r.jsonl"
    (tmp_path / "infos").mkdir()
    record = Record("train", "ok", "smoke", seed=0, extra={"pretrain": "lidar"}, provenance={"command": command})
    with pytest.raises(
        UserError, match=r"r.jsonl is of the pretrained branch 'lidar'.*Give the record of a base model"
    ):
        load_model(write_records(tmp_path / "r.jsonl", [record]), None, tmp_path)


def test_two_models_of_one_name_have_their_folders_in_it():
    """Variants of two studies may have one name, and a recording has an entity for each name."""
    models = [ViewedModel("cross seed 0", None), ViewedModel("cross seed 0", None)]
    one, other = Path("a/train.jsonl"), Path("b/evaluate.jsonl")
    assert [m.name for m in with_distinct_names(models, [one, other])] == ["cross seed 0, a", "cross seed 0, b"]
    same = [one, Path("a/evaluate.jsonl")]
    assert with_distinct_names(models, same) == models
    different = [models[0], ViewedModel("none seed 0", None)]
    assert with_distinct_names(different, [one, other]) == different
