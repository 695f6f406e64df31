"""A study file becomes runs: tiers, studies and condition suites, read from YAML and checked against their schemas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqr_bench.errors import UserError, is_file, listed, nearest, short
from aqr_bench.models import named_beside
from aqr_bench.overrides import merge_overrides
from aqr_bench.schedule import Launcher, Schedule, tier_schedule, variant_schedule
from aqr_bench.schema import read_yaml, repository_root, schema_error

if TYPE_CHECKING:
    from aqr_bench.corruptions import Corruption

# Rule names and result folders: a study of that name would collide with them.
_FOLDERS = ["base", "infos", "pictures", "pretrain", "report", "work", "world"]
RESERVED = frozenset(["all", "check", "evaluate", "measure", "prepare", "train", *_FOLDERS])
# Versions of nuScenes that have labels, and the names of their splits for training and for evaluation.
SPLITS = {"v1.0-trainval": ("train", "val"), "v1.0-mini": ("mini_train", "mini_val")}
LOWER_IS_BETTER = frozenset(["mATE", "mASE", "mAOE", "mAVE", "mAAE"])


@dataclass(frozen=True)
class Pretraining:
    """Training of one branch alone, once per tier; only the ``parts`` (prefixes of parameter names) are kept."""

    name: str
    iterations: int
    config: Mapping[str, Any]
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Measuring:
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
    measure: Measuring
    path: Path
    costs: Mapping[str, Any] = field(default_factory=dict)  # what ``aqr-bench studies cost`` assumes without records
    # Files by model config, {"checkpoint": published weights, "backbone": a pretrained image backbone}.
    models: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    database: bool = False  # of objects, for GT sampling
    studies: tuple[str, ...] = ("bias_site",)  # what is run where nothing is named
    suites: tuple[str, ...] = ()  # further suites of those
    launcher: Launcher = field(default_factory=Launcher)  # of trainings
    tf32: bool = False  # TensorFloat-32 in float32 products and convolutions on a GPU
    cluster_gpu: bool = True  # whether its jobs ask a cluster for GPUs; on one machine they take those that are there


@dataclass(frozen=True)
class Condition:
    """One state of the sensors: its name in the suite, and the corruption that makes it. See ``resolve_condition``.

    ``corruption``: of the registry, at its severity, with the suite's options. ``settings``: name, corruption, severity
    and options as the suite file has them, for configs and hashes.
    """

    name: str
    corruption: Corruption
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Suite:
    """Conditions every trained model is evaluated under. The first one is the reference."""

    name: str
    summary: str
    conditions: tuple[Condition, ...]
    path: Path


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

    ``gate``: its variants are fixed biases on the trained base, and the report says whether they move anything.
    ``measure_only``: its variants compute the same thing and differ in cost: nothing is trained or evaluated, there are
    no seeds and no metric, and the first condition of the suite is what is measured on.
    ``published``: which published numbers it is set beside, see aqr_bench/report/published.py.
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

    def compared_with(self, variant: str) -> str:
        """Name of the variant that ``variant`` is compared with."""
        return self.variants[variant].against or self.baseline

    @property
    def higher_is_better(self) -> bool:
        return self.metric not in LOWER_IS_BETTER


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
    def folder(self) -> str:
        """Folder of the run below the results folder, with forward slashes."""
        if self.pretrain is not None:
            return f"{self.tier}/pretrain/{self.pretrain}"
        middle = "base" if self.study is None else f"{self.study}/{self.variant}"
        return f"{self.tier}/{middle}/seed{self.seed}"


def known_tiers() -> list[str]:
    """Names of the tiers that ship with the repository."""
    return _names(repository_root() / "ablations" / "tiers")


def known_suites() -> list[str]:
    """Names of the condition suites that ship with the repository."""
    return _names(repository_root() / "ablations" / "conditions")


def known_studies() -> list[str]:
    """Names of the studies that ship with the repository."""
    return _names(repository_root() / "ablations")


def _names(folder: Path, pattern: str = "*.yaml") -> list[str]:
    return sorted(p.stem for p in folder.glob(pattern) if not p.stem.startswith("_"))


def _resolve(path_or_name: str | Path, folder: str, what: str) -> Path:
    """A path is taken as it is; a bare name is looked up in ``ablations/<folder>``."""
    text = str(path_or_name)
    if isinstance(path_or_name, Path) or "/" in text or text.endswith((".yaml", ".yml")):
        path = Path(text)
        if is_file(path):
            return path
        raise UserError(f"{what} file not found: {short(text, 200)}")
    place = repository_root() / "ablations" / folder
    if is_file(place / f"{text}.yaml"):
        return place / f"{text}.yaml"
    known = _names(place)
    hint = nearest(text, known)
    others = "" if hint.startswith("; known") else f" (known: {listed(known)})"
    raise UserError(f"unknown {what} '{short(text)}'{hint}{others}")


def _load(path_or_name: str | Path, folder: str, what: str) -> tuple[dict[str, Any], Path]:
    path = _resolve(path_or_name, folder, what)
    data = read_yaml(path)
    problem = schema_error(data, what)
    if problem:
        raise UserError(f"{path}: {problem}")
    if data["name"] != path.stem:
        raise UserError(f"{path}: name: '{data['name']}' differs from the file's name '{path.stem}'")
    return data, path


# ---------------------------------------------------------------- the three kinds of file


def load_tier(path_or_name: str | Path) -> Tier:
    """Load a tier by name (``ablations/tiers/<name>.yaml``) or by file. UserError on any mistake in it."""
    data, path = _load(path_or_name, "tiers", "tier")
    evaluate, measure = data.get("evaluate", {}), data.get("measure", {})
    root, limit = data["data"].get("root"), data.get("memory_limit_mb")
    pretrain = {
        name: Pretraining(name, entry["iterations"], entry.get("config", {}), tuple(entry["parts"]))
        for name, entry in data.get("pretrain", {}).items()
    }
    model = named_beside(data["model"], path)
    models = {
        named_beside(name, path): {key: _home(file, path) for key, file in files.items()}
        for name, files in data.get("models", {}).items()
    }
    start = "features" if pretrain else "scratch"
    return Tier(
        name=data["name"],
        summary=data["summary"],
        kind=data["data"]["kind"],
        version=data["data"]["version"],
        model=model,
        base=tier_schedule(data["base"], start, path, models.get(model, {}), limit),
        variant=tier_schedule(data["variant"], data["variant"]["init"], path, memory_limit_mb=limit),
        pretrain=pretrain,
        world=data.get("world", {}),
        data_root=None if root is None else _home(root, path),
        seeds=data.get("seeds"),
        threads=data.get("threads", 1),
        evaluate_batch_size=evaluate.get("batch_size", 1),
        measure=Measuring(**{key: tuple(v) if isinstance(v, list) else v for key, v in measure.items()}),
        path=path,
        costs=data.get("costs", {}),
        models=models,
        database=data["data"].get("database", False),
        launcher=Launcher(**data.get("launcher", {})),
        tf32=data.get("tf32", False),
        cluster_gpu=data.get("cluster_gpu", True),
        **{key: tuple(data[key]) for key in ("studies", "suites") if key in data},
    )


def _home(text: str, source: Path) -> Path:
    """A path of a tier file, which may start with ``~``."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # a user that there is not, or no home folder at all
        raise UserError(f"{source}: '{short(text, 200)}': no home folder for it; write the path out") from None


def tier_path(path_or_name: str | Path) -> Path:
    """The file of a tier given by name or by path; UserError if there is none."""
    return _resolve(path_or_name, "tiers", "tier")


def load_suite(path_or_name: str | Path) -> Suite:
    """Load a condition suite by name (``ablations/conditions/<name>.yaml``) or by file."""
    data, path = _load(path_or_name, "conditions", "suite")
    names = [c["name"] for c in data["conditions"]]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: conditions: '{twice}' is given twice; every condition needs its own name")
    conditions = []
    for entry in data["conditions"]:
        try:
            conditions.append(resolve_condition(**entry))
        except UserError as error:
            raise UserError(f"{path}: conditions: {entry['name']}: {error}") from None
    return Suite(data["name"], data["summary"], tuple(conditions), path)


def resolve_condition(
    name: str, corruption: str | None = None, severity: int | None = None, options: Mapping[str, Any] | None = None
) -> Condition:
    """A condition with its corruption (by default of the same name), looked up here once and nowhere else again.

    UserError: the registry has no such corruption, severity or option.
    """
    from aqr_bench.corruptions import get_corruption  # takes half a second to import, and not every command needs it

    key = name if corruption is None else corruption
    settings = {"name": name, "corruption": key, "severity": severity, "options": dict(options or {})}
    return Condition(name, get_corruption(key, severity, options), settings)


def load_study(path_or_name: str | Path) -> Study:
    """Load a study by name (``ablations/<name>.yaml``) or by file, with its suite and every variant checked."""
    data, path = _load(path_or_name, "", "study")
    if data["name"] in RESERVED or "base" in data["variants"]:
        name = data["name"] if data["name"] in RESERVED else "base"
        raise UserError(f"{path}: '{name}' is reserved for a folder or target; choose another name")
    shared = {key: data.get(key) for key in ("iterations", "init")}
    variants = {
        name: Variant(
            name,
            v["summary"],
            v["config"],
            v.get("iterations", shared["iterations"]),
            v.get("init", shared["init"]),
            v.get("against"),
            v.get("memory_limit_mb"),
            named_beside(v.get("model"), path),
            v.get("published"),
        )
        for name, v in data["variants"].items()
    }
    for name, variant in variants.items():
        key = next((k for k in ("iterations", "init", "memory_limit_mb") if getattr(variant, k) is not None), None)
        if data.get("measure_only") and key:
            raise UserError(f"{path}: variants.{name}.{key}: not allowed here: the study has 'measure_only: true'")
        if variant.against is not None and (variant.against not in variants or variant.against == name):
            others = [other for other in variants if other != name]
            hint = nearest(variant.against, others)
            raise UserError(f"{path}: variants.{name}.against: no other variant '{short(variant.against)}'{hint}")
    if data["baseline"] not in variants:
        hint = nearest(data["baseline"], variants)
        raise UserError(f"{path}: baseline: unknown variant '{short(data['baseline'])}'{hint}")
    try:
        beside = path.parent / data["conditions"]  # of a study of one's own, as its model config
        suite = load_suite(beside if is_file(beside) else data["conditions"])
        for variant in variants.values():
            merge_overrides(variant.config)
    except UserError as err:
        raise UserError(f"{path}: {err}") from None
    return Study(
        name=data["name"],
        question=data["question"],
        summary=data.get("summary", ""),
        baseline=data["baseline"],
        seeds=tuple(data.get("seeds", ())),
        suite=suite,
        metric=data.get("metric", ""),
        variants=variants,
        path=path,
        gate=data.get("gate", False),
        measure_only=data.get("measure_only", False),
        published=data.get("published", {}),
    )


# ---------------------------------------------------------------- from files to runs


def limit_seeds(study: Study, tier: Tier, asked: int | None = None) -> Study:
    """The study with the first ``asked`` of its seeds, or as many as the tier has time for."""
    count = asked or tier.seeds or len(study.seeds)
    if asked and asked > len(study.seeds) and not study.measure_only:
        raise UserError(
            f"{study.path}: {asked} seeds are asked for, the study names {len(study.seeds)}; add some there"
        )
    return replace(study, seeds=study.seeds[:count])


def matrix(tier: Tier, studies: Iterable[Study]) -> list[Run]:
    """Every variant run of the studies, in file order: study, variant, seed."""
    return [Run(tier.name, s.name, v, seed) for s in studies for v in s.variants for seed in s.seeds]


def base_runs(tier: Tier, studies: Iterable[Study]) -> list[Run]:
    """The base trainings the variants start from, one per seed; none where all variants start elsewhere."""
    seeds = {
        seed
        for study in studies
        for variant in study.variants
        if variant_schedule(tier, study, variant).init == "base"
        for seed in study.seeds
    }
    return [Run(tier.name, None, None, seed) for seed in sorted(seeds)]


def pretrain_runs(tier: Tier) -> list[Run]:
    """The pretrainings of a tier, one per branch."""
    return [Run(tier.name, None, None, 0, name) for name in tier.pretrain]
