"""The model of a train or evaluate record, ready to detect, wherever its folder is now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from aqr_bench.cli.rerun import has_checkpoint, located, parse_command
from aqr_bench.cli.sample_views import submission_of
from aqr_bench.data.dataset import load_data
from aqr_bench.engine.config import base_config
from aqr_bench.engine.evaluate import Evaluator, load_evaluator
from aqr_bench.engine.evaluate_checkpoint import adhoc_tier, checkpoint_evaluator
from aqr_bench.errors import UserError, require_file
from aqr_bench.records.record import Record, read_records
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.load import is_path, load_suite, load_tier
from aqr_bench.study.model_files import is_file_name, is_package_config
from aqr_bench.study.spec import Condition

BY_NAME = ("tier", "study", "suite", "config")  # options that may name what ships; the others are paths


@dataclass(frozen=True)
class ViewedModel:
    """The model of a record, with what is known of its evaluation.

    conditions: of the evaluation's suite, by name; none for a train record.
    evaluated: records of the file; work: where the evaluation left its detections, None where that is gone.
    of_tier: whether a tier trained it; False for ``evaluate --config``.
    """

    name: str
    evaluator: Evaluator
    conditions: dict[str, Condition] = field(default_factory=dict)
    evaluated: tuple[Record, ...] = ()
    work: Path | None = None
    of_tier: bool = True

    def detections_under(self, condition: Condition) -> Path | None:
        """The submission of an evaluation under the condition, or else under the first one; None if it is gone."""
        records = [record for record in self.evaluated if record.ok]
        chosen = [record for record in records if record.condition == condition.name] or records
        return submission_of(self.work, chosen[0], self.of_tier) if chosen and self.work is not None else None


@dataclass(frozen=True)
class RecordCommand:
    """The command that wrote a record, and where what it names is now."""

    path: Path
    options: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, record: Record, path: Path) -> RecordCommand:
        """UserError: the record is damaged, or its command is not that of a training or an evaluation."""
        if record.extra.get("damaged"):
            raise UserError(str(record.reason), "Give another record.")
        try:
            options = parse_command(record, path)
        except UserError as error:
            text = record.provenance.get("command")
            raise UserError(
                f"{path}: provenance.command: '{text}' is not the command of a {record.kind} step, so that its model "
                "is not known",
                "Give a record that aqr-bench train or aqr-bench evaluate wrote.",
            ) from error
        return cls(path, options)

    def locate(self, name: str) -> str | None:
        """The value of an option, a path as it is now; None: the command has no such option. UserError: it is gone."""
        text = next(iter(self.options.get(name, ())), None)
        return None if text is None else self._now(name, text)

    def _now(self, name: str, text: str) -> str:
        if name in BY_NAME and (is_package_config(text) or not (is_path(text) or is_file_name(text))):
            return text
        try:
            return str(located(text, name, self.path, next(iter(self.options.get("out", ())), self.path.name)))
        except UserError as error:
            remedy = "Put it back there" if name != "infos" else "Name the folder with --infos"
            raise UserError(f"{self.path}: --{name} of its command not found: {text}", f"{remedy}.") from error

    def require(self, name: str, other: RecordCommand | None = None) -> str:
        """The same, or where that path is gone or not named, of another command. UserError: neither has it."""
        try:
            if (value := self.locate(name)) is not None:
                return value
        except UserError:
            if other is None:
                raise
        if other is not None:
            return other.require(name)
        remedy = "Name the folder with --infos." if name == "infos" else "Give the record of another run."
        raise UserError(f"{self.path}: its command has no --{name}", remedy)

    def locate_all(self, name: str) -> list[str]:
        """All values of an option."""
        return [self._now(name, text) for text in self.options.get(name, ())]

    def work(self, other: RecordCommand | None = None) -> Path | None:
        """The work folder; None where the record was copied without it."""
        try:
            return Path(self.require("work", other))
        except UserError:
            return None


def load_model(path: Path, infos: str | None, folder: Path) -> ViewedModel:
    """The model that a train or evaluate record is of; ``folder`` takes what its config wants to write.

    Raises:
        UserError: a record of another kind, without a checkpoint, or whose inputs are no longer where they were.
    """
    records = read_records(path)
    record = records[0]
    if record.kind not in ("train", "evaluate"):
        raise UserError(f"{path} is a {record.kind} record, which is of no trained model", "Give train.jsonl.")
    command = RecordCommand.of(record, path)
    if record.kind == "evaluate" and "config" in command.options:
        return _checkpoint_model(command, records, infos, folder)
    train = path
    if record.kind == "evaluate":
        # An evaluation that was reused has the command of another run, and the training of this run beside it.
        beside = path.parent / "train.jsonl"
        train = beside if beside.is_file() and has_checkpoint(beside) else Path(command.require("train"))
    trained = read_records(train)[0]
    if not trained.ok:
        raise UserError(f"{train}: the training failed ({trained.reason}); there is no model to look at")
    of_training = RecordCommand.of(trained, train)
    work = command.work(of_training)
    data = load_data(infos or _infos(command, of_training, work))
    tier = load_tier(command.require("tier", of_training))
    evaluator = load_evaluator(tier, data, trained, train, folder, of_training.locate("study"))
    name = " ".join([trained.variant or "base", f"seed {trained.seed or 0}"])
    if record.kind == "train":
        return ViewedModel(name, evaluator)
    return ViewedModel(name, evaluator, _suite_conditions(command, record), tuple(records), work)


def _checkpoint_model(
    command: RecordCommand, records: Sequence[Record], infos: str | None, folder: Path
) -> ViewedModel:
    """The model of ``evaluate --config``. UserError: its checkpoint is another one than that which was evaluated."""
    work = command.work()
    data = load_data(infos or _infos(command, None, work))
    model = command.require("config")
    checkpoint = require_file(command.require("checkpoint"), f"{command.path}: checkpoint", "Put it back there.")
    expected = records[0].provenance.get("checkpoint_sha256")
    if expected is not None and sha256_file(checkpoint) != expected:
        raise UserError(
            f"{checkpoint} is not the checkpoint that {command.path} is of: it was replaced or damaged",
            "Evaluate it again: aqr-bench evaluate --config.",
        )
    tier = adhoc_tier(model, data)
    evaluator = checkpoint_evaluator(base_config(tier, data), tier, data, checkpoint, folder)
    conditions = _suite_conditions(command, records[0])
    return ViewedModel(tier.name, evaluator, conditions, tuple(records), work, of_tier=False)


def _infos(command: RecordCommand, of_training: RecordCommand | None, work: Path | None) -> str:
    """The folder of info files; of an info file of mmdet3d the folder below ``work`` that it was imported into."""
    infos = command.require("infos", of_training)
    return str(work / "infos") if infos.endswith(".pkl") and work is not None else infos


def _suite_conditions(command: RecordCommand, record: Record) -> dict[str, Condition]:
    """Conditions of the record's suite, by name; its command may have evaluated several."""
    suites = [load_suite(text) for text in command.locate_all("suite")]
    conditions = next((suite.conditions for suite in suites if suite.name == record.suite), ())
    return {condition.name: condition for condition in conditions}


def with_distinct_names(models: Sequence[ViewedModel], paths: Sequence[Path]) -> list[ViewedModel]:
    """The models, with the folders of their records in the names where these are the same and the folders are not."""
    folders = [path.parent for path in paths]
    if len({model.name for model in models}) == len(models) or len(set(folders)) == 1:
        return list(models)
    return [replace(model, name=f"{model.name}, {folder}") for model, folder in zip(models, folders, strict=True)]
