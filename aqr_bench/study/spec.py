"""What is asked: tiers, studies, variants, suites, conditions and runs as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqr_bench.metrics.scoring_rules import ScoringRules
from aqr_bench.study.vocabulary import Vocabulary

if TYPE_CHECKING:
    from aqr_bench.corruptions import Corruption


@dataclass(frozen=True)
class Launcher:
    """How trainings are started: by ``processes`` processes on one machine, one GPU each.

    ``batch``: whether the batch size of a config counts the samples of all processes (``total``) or of each
    (``per_process``: official configs, made for that many GPUs).
    """

    processes: int = 1
    batch: str = "total"

    @property
    def command(self) -> str:
        """The start of a training's command line, before ``-m aqr_bench train``."""
        return "python" if self.processes == 1 else f"torchrun --standalone --nproc-per-node={self.processes}"

    def total_batch(self, batch_size: int) -> int:
        """Samples per iteration, over however many processes there are."""
        return batch_size * self.processes if self.batch == "per_process" else batch_size


@dataclass(frozen=True)
class Schedule:
    """Length and config overrides of one training, and where its weights start.

    ``init``: ``base`` (the base model of the same seed), ``features`` (the tier's pretrained branches, everything else
    at random), ``published`` (``checkpoint``, a file) or ``scratch`` (with the image backbone in ``backbone``,
    or all but the head of the published weights in ``branches``, if any).
    0 iterations: those weights as they are. Neither iterations nor epochs: as long as the model's config says.
    ``memory_limit_mb``: a training that asks for more ends as out of memory; None: no limit of ours.
    """

    iterations: int | None
    config: Mapping[str, Any] = field(default_factory=dict)
    init: str = "scratch"
    epochs: int | None = None
    model: str | None = None  # config file; None: the tier's
    checkpoint: Path | None = None
    backbone: Path | None = None
    branches: Path | None = None
    memory_limit_mb: int | None = None

    @property
    def length(self) -> str:
        """How long, for people."""
        if self.iterations == 0:
            return "no training"
        if self.iterations is None and self.epochs is None:
            return "as long as the model's config says"
        return f"{self.epochs} epochs" if self.iterations is None else f"{self.iterations} iterations"


# Rule names and result folders: a study of that name would collide with them.
_FOLDERS = ["base", "figures", "infos", "pictures", "pretrain", "report", "store", "tables", "work", "world"]


RESERVED = frozenset(["all", "check", "evaluate", "measure", "prepare", "train", *_FOLDERS])


# Versions of nuScenes that have labels, and the names of their splits for training and for evaluation.
SPLITS = {"v1.0-trainval": ("train", "val"), "v1.0-mini": ("mini_train", "mini_val")}


LOWER_IS_BETTER = frozenset(["mATE", "mASE", "mAOE", "mAVE", "mAAE"])
CUSTOM = "custom."  # before the name of a number that a custom metric gives, where a metric is named


@dataclass(frozen=True)
class Pretraining:
    """Training of one branch alone, once per tier; only the ``parts`` (prefixes of parameter names) are kept."""

    name: str
    iterations: int
    config: Mapping[str, Any]
    parts: tuple[str, ...]


@dataclass(frozen=True)
class MeasureSettings:
    """How cost is measured: samples at a time, runs that warm up, rounds in turns with the baseline.

    ``batch_sizes``: those that throughput is measured over. ``train_rounds``: training steps in turns with the
    baseline's; 0: no training step is measured.
    """

    batch_size: int = 1
    warmup: int = 5
    rounds: int = 30
    batch_sizes: tuple[int, ...] = (1, 2, 4)
    train_rounds: int = 5


@dataclass(frozen=True)
class Tier:
    """Which data, which model config, which schedule. ``data_root`` is None for a synthetic world."""

    name: str
    summary: str
    kind: str  # synthetic | nuscenes
    version: str  # v1.0-mini | v1.0-trainval
    model: str
    base: Schedule
    variant: Schedule
    pretrain: Mapping[str, Pretraining]
    world: Mapping[str, Any]
    data_root: Path | None
    seeds: int | None  # at most so many of a study's seeds
    threads: int
    evaluate_batch_size: int
    measure: MeasureSettings
    path: Path
    costs: Mapping[str, Any] = field(default_factory=dict)  # what ``aqr-bench studies cost`` assumes without records
    # Files by model config, {"checkpoint": published weights, "backbone": a pretrained image backbone,
    # "branches": published weights of which all but the head is taken}.
    models: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    database: bool = False  # of objects, for GT sampling
    skip_missing: bool = False  # leave out scenes that lack files
    studies: tuple[str, ...] = ("bias_site",)  # what is run where nothing is named
    suites: tuple[str, ...] = ()  # further suites of those
    launcher: Launcher = field(default_factory=Launcher)  # of trainings
    tf32: bool = False  # TensorFloat-32 in float32 products and convolutions on a GPU
    vocabulary: Vocabulary = field(default_factory=Vocabulary)  # of a data set whose names are not nuScenes'
    cache_features: bool = False  # store those of frozen branches on disk: faster on a CPU, and no result differs
    metrics: tuple[str, ...] = ()  # of the user, beside nuScenes', by name
    scoring: ScoringRules = field(default_factory=ScoringRules)  # where not nuScenes'
    cluster_gpu: bool = True  # whether its jobs ask a cluster for GPUs; on one machine they take those that are there


@dataclass(frozen=True)
class Condition:
    """One state of the sensors: its name in the suite, and the corruption that makes it. See ``resolve_condition``.

    ``corruption``: of the registry, at its severity, with the suite's options. ``settings``: name, corruption, severity
    and options as the suite file has them, for configs and hashes; of several corruptions name and ``corruptions``.
    """

    name: str
    corruption: Corruption
    settings: Mapping[str, Any]

    @property
    def transform_arguments(self) -> dict[str, Any]:
        """What ``SensorCondition`` is built with to apply it."""
        if "corruptions" in self.settings:
            return {"corruptions": [dict(part) for part in self.settings["corruptions"]]}
        names = {"name": self.settings["corruption"], "severity": self.settings["severity"]}
        return {**names, "options": dict(self.settings["options"])}


@dataclass(frozen=True)
class Suite:
    """Conditions every trained model is evaluated under. The first one is the reference.

    ``derived``: names of those that the file does not list, but asks for by ``without_each_sensor``.
    """

    name: str
    summary: str
    conditions: tuple[Condition, ...]
    path: Path
    derived: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Variant:
    """One design to compare: overrides of the model config, and of the tier's schedule for variants.

    ``against``: the variant that it is compared with, where that is not the study's baseline. ``model``: a model config
    of its own. ``published``: its name in the study's tables of published results.
    """

    name: str
    summary: str
    config: Mapping[str, Any]
    iterations: int | None = None
    init: str | None = None
    against: str | None = None
    memory_limit_mb: int | None = None
    model: str | None = None
    published: str | None = None


@dataclass(frozen=True)
class Study:
    """A question, the variants that answer it, and what they are compared under.

    ``metric``: of nuScenes, or ``custom.NAME``; ``lower_is_better`` is of the latter.
    ``gate``: its variants are fixed biases, and the report says in one line whether they move the score.
    ``measure_only``: its variants compute the same thing and differ in cost: nothing is trained or evaluated, there are
    no seeds and no metric, and the first condition of the suite is what is measured on.
    ``published``: which published numbers it is set beside, see aqr_bench/report/tables/published.py.
    """

    name: str
    question: str
    summary: str
    baseline: str
    seeds: tuple[int, ...]
    suite: Suite
    metric: str
    variants: Mapping[str, Variant]
    path: Path
    gate: bool = False
    measure_only: bool = False
    published: Mapping[str, Any] = field(default_factory=dict)
    lower_is_better: bool = False

    def compared_with(self, variant: str) -> str:
        """Name of the variant that ``variant`` is compared with."""
        return self.variants[variant].against or self.baseline

    @property
    def higher_is_better(self) -> bool:
        return not self.lower_is_better and self.metric not in LOWER_IS_BETTER


@dataclass(frozen=True)
class Run:
    """One training with its evaluation; ``study`` and ``variant`` are None for a base model.

    ``pretrain``: the branch that it trains, where it is no model but a pretraining; there is one per tier, of seed 0.
    """

    tier: str
    study: str | None
    variant: str | None
    seed: int
    pretrain: str | None = None

    @property
    def subfolder(self) -> str:
        """Folder of the run below that of its tier, or below the tier's work folder; with forward slashes."""
        if self.pretrain is not None:
            return f"pretrain/{self.pretrain}"
        return f"{'base' if self.study is None else f'{self.study}/{self.variant}'}/seed{self.seed}"

    @property
    def folder(self) -> str:
        """Folder of the run below the results folder, with forward slashes."""
        return f"{self.tier}/{self.subfolder}"
