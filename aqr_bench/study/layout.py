"""Where the files of a tier's runs lie: the same paths for the workflow, the steps and the report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from aqr_bench.folders import project_folder
from aqr_bench.study.spec import Run

RESULTS = Path("results")
FEATURES = ".features"  # of frozen branches, below the work folder of a tier
NOT_RECORDS = frozenset(["work", "world", "infos", "report", "pictures", ".snakemake"])  # folders below a tier's


def relative_path(path: str | Path, folder: str | Path) -> str:
    """``path`` relative to ``folder``, so that ``folder / relative_path(...)`` is that file.

    Of a folder that is a link, ``..`` is the parent of what it points to: where the written paths alone would lead
    elsewhere, links are resolved first.
    """
    as_written = os.path.relpath(path, folder)
    if os.path.realpath(os.path.join(folder, as_written)) == os.path.realpath(path):
        return as_written
    return os.path.relpath(os.path.realpath(path), os.path.realpath(folder))


def detections_folder(work: Path, suite: str | None, condition: str | None) -> Path:
    """Where an evaluation writes, below the work folder of its run.

    Each suite has its folder: two suites may call different conditions by one name, and run at the same time.
    """
    return work / "detections" / str(suite) / str(condition)


def detections_file(work: Path, suite: str | None, condition: str | None, name: str) -> Path:
    """A file that an evaluation wrote, there or not; in old results all suites share a folder for a condition."""
    file, before = detections_folder(work, suite, condition) / name, work / "detections" / str(condition) / name
    return before if before.is_file() and not file.is_file() else file


def results_folder() -> Path:
    """The project folder's ``results/``, as one would type it in the working directory."""
    return Path(relative_path(project_folder() / RESULTS, Path.cwd()))


@dataclass(frozen=True)
class RunLayout:
    """Paths of one tier below a results folder. Work folders and records of a run have the same place in two trees."""

    tier: str
    results: Path = RESULTS

    @property
    def root(self) -> Path:
        return self.results / self.tier

    @property
    def world(self) -> Path:
        return self.root / "world"

    @property
    def world_marker(self) -> Path:
        """Is there once the synthetic world is complete."""
        return self.world / "world.json"

    @property
    def infos(self) -> Path:
        return self.root / "infos"

    @property
    def info_summary(self) -> Path:
        """Is there once the info files are complete."""
        return self.infos / "data.json"

    @property
    def database(self) -> Path:
        """The objects for GT sampling."""
        return self.infos / "dbinfos_train.pkl"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def pictures(self) -> Path:
        return self.root / "pictures" / "pictures.json"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def page_note(self) -> Path:
        """What the page was made from."""
        return self.report / "made_from.json"

    @property
    def page(self) -> Path:
        return self.report / "index.html"

    def train(self, run: Run) -> Path:
        """The record of a training."""
        return self.root / run.subfolder / "train.jsonl"

    def evaluate(self, run: Run, suite: str) -> Path:
        """The records of a model's evaluation under a suite, one per condition."""
        return self.root / run.subfolder / f"evaluate.{suite}.jsonl"

    def measure(self, study: str, variant: str) -> Path:
        """The record of a variant's measurement."""
        return self.root / study / variant / "measure.jsonl"

    def work_folder(self, run: Run) -> Path:
        """Checkpoints and detections of a run."""
        return self.work / run.subfolder
