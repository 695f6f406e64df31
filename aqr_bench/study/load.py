"""A study file becomes runs: tiers, studies and condition suites, read from YAML and checked against their schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aqr_bench.errors import UserError, is_file, join_names, nearest, short
from aqr_bench.folders import ablation_folders
from aqr_bench.metrics.scoring_rules import ALL, ScoringRules
from aqr_bench.study.grid import grid_variants
from aqr_bench.study.model_files import named_beside
from aqr_bench.study.overrides import merge_overrides
from aqr_bench.study.schedule import tier_schedule
from aqr_bench.study.schema import name_problem, read_yaml, schema_error
from aqr_bench.study.spec import (
    CUSTOM,
    RESERVED,
    Condition,
    Launcher,
    MeasureSettings,
    Pretraining,
    Study,
    Suite,
    Tier,
    Variant,
)
from aqr_bench.study.vocabulary import Vocabulary

T = TypeVar("T")


def known_tiers() -> list[str]:
    """Names of the project's tiers and of those that ship."""
    return _names("tiers")


def known_suites() -> list[str]:
    """Names of the project's condition suites and of those that ship."""
    return _names("conditions")


def known_studies() -> list[str]:
    """Names of the project's studies and of those that ship."""
    return _names("")


def loadable(load: Callable[[str], T], names: Iterable[str]) -> tuple[list[T], list[UserError]]:
    """Those that can be loaded, and what is wrong with the others: a draft stops nobody who did not ask for it."""
    loaded, broken = [], []
    for name in names:
        try:
            loaded.append(load(name))
        except UserError as error:
            broken.append(error)
    return loaded, broken


def _names(kind: str) -> list[str]:
    files = (path for folder in ablation_folders(kind) for path in folder.glob("*.yaml"))
    return sorted({path.stem for path in files if not path.stem.startswith("_")})


def is_path(text: str) -> bool:
    """Whether a tier, study or suite is given by its file, and not by name."""
    return "/" in text or text.endswith((".yaml", ".yml"))


def _resolve(path_or_name: str | Path, kind: str, what: str) -> Path:
    """A path is taken as it is; a bare name is looked up in ``ablations/<kind>`` of the project, then of what ships."""
    text = str(path_or_name)
    if isinstance(path_or_name, Path) or is_path(text):
        path = Path(text)
        if is_file(path):
            _raise_if_hides(path, kind, what)
            return path
        raise UserError(f"{what} file not found: {short(text, 200)}")
    for path in (folder / f"{text}.yaml" for folder in ablation_folders(kind)):
        if is_file(path):
            _raise_if_hides(path, kind, what)
            return path
    known = _names(kind)
    hint = nearest(text, known)
    others = "" if hint.startswith("; known") else f" (known: {join_names(known)})"
    raise UserError(f"unknown {what} '{short(text)}'{hint}{others}")


def _raise_if_hides(path: Path, kind: str, what: str) -> None:
    """UserError for a file of the project whose name is that of another one that ships: results go by names."""
    *project, shipped = ablation_folders(kind)
    other = shipped / path.name
    is_of_project = path.parent.resolve() in [folder.resolve() for folder in project]
    if is_of_project and is_file(other) and path.read_bytes() != other.read_bytes():
        raise UserError(
            f"{what} '{path.stem}' is named by two files: {path} and {other}, which ships with aqr-bench",
            "Rename the project's file and the name in it.",
        )


def _load(path_or_name: str | Path, kind: str, what: str) -> tuple[dict[str, Any], Path]:
    path = _resolve(path_or_name, kind, what)
    data = read_yaml(path)
    problem = schema_error(data, what)
    if problem:
        raise UserError(f"{path}: {problem}")
    if data["name"] != path.stem:
        raise UserError(f"{path}: name: '{data['name']}' differs from the file's name '{path.stem}'")
    if meaning := name_problem(data["name"]):
        raise UserError(
            f"{path}: name: a command line takes '{data['name']}' for {meaning}",
            f"Put a word in front, such as '{what}-{data['name']}', and rename the file.",
        )
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
        measure=MeasureSettings(**{key: tuple(v) if isinstance(v, list) else v for key, v in measure.items()}),
        path=path,
        costs=data.get("costs", {}),
        models=models,
        database=data["data"].get("database", False),
        skip_missing=data["data"].get("skip_missing", False),
        vocabulary=Vocabulary(data["data"].get("categories", {}), data["data"].get("attributes", {})),
        launcher=Launcher(**data.get("launcher", {})),
        scoring=ScoringRules(evaluate.get("ranges", {}), evaluate.get("classes", ALL)),
        tf32=data.get("tf32", False),
        cache_features=data.get("cache_features", False),
        cluster_gpu=data.get("cluster_gpu", True),
        metrics=tuple(evaluate.get("metrics", ())),
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
    conditions = []
    for entry in data["conditions"]:
        try:
            conditions.append(resolve_condition(**entry))
        except UserError as error:
            raise UserError(f"{path}: conditions: {entry['name']}: {error}") from None
    derived = without_each_sensor(conditions) if data.get("without_each_sensor") else []
    names = [condition.name for condition in (*conditions, *derived)]
    repeated = next((n for n in names if names.count(n) > 1), None)
    if repeated is not None:
        raise UserError(f"{path}: conditions: '{repeated}' is given twice; every condition needs its own name")
    return Suite(data["name"], data["summary"], (*conditions, *derived), path, frozenset(c.name for c in derived))


def resolve_condition(
    name: str,
    corruption: str | None = None,
    severity: int | None = None,
    options: Mapping[str, Any] | None = None,
    corruptions: Sequence[Mapping[str, Any]] = (),
) -> Condition:
    """A condition with its corruption (by default of the same name), looked up here once and nowhere else again.

    ``corruptions``: several, each with the three keys before, which are applied one after the other.

    UserError: the registry has no such corruption, severity or option; several cannot be composed.
    """
    # Takes half a second to import, and not every command needs it.
    from aqr_bench.corruptions import get_composition, get_corruption

    if corruptions:
        if (corruption, severity, options) != (None, None, None):
            raise UserError("give either corruptions, or corruption with severity and options")
        parts = [{"severity": None, **part, "options": dict(part.get("options") or {})} for part in corruptions]
        return Condition(name, get_composition(parts), {"name": name, "corruptions": parts})
    key = name if corruption is None else corruption
    settings = {"name": name, "corruption": key, "severity": severity, "options": dict(options or {})}
    return Condition(name, get_corruption(key, severity, options), settings)


def without_each_sensor(conditions: Sequence[Condition]) -> list[Condition]:
    """Each condition once more without the LiDAR, and once more without the cameras, zero-filled.

    Left out is what is there already: without a sensor, all conditions that change nothing else are the same.
    """
    from aqr_bench.corruptions.suites.missing_sensors import WITHOUT_SENSOR, ZERO, sensor_input

    inputs = {sensor_input(condition.corruption) for condition in conditions}
    derived = []
    for condition in (c for c in conditions if not c.corruption.removed_sensors):
        settings = condition.settings
        parts = settings.get("corruptions") or [{key: settings[key] for key in ("corruption", "severity", "options")}]
        for sensor, corruption in WITHOUT_SENSOR.items():
            key = sensor_input(condition.corruption, then_removed={sensor: ZERO})
            if key in inputs:
                continue
            inputs.add(key)
            if key is None or key.rest:
                composed = [*parts, {"corruption": corruption}]
                derived.append(resolve_condition(f"{condition.name}-{corruption}", corruptions=composed))
            else:
                derived.append(resolve_condition(corruption))
    return derived


def read_study(path_or_name: str | Path) -> tuple[dict[str, Any], Path]:
    """What a study file says, with the variants of its matrix spelt out, and which file it is."""
    data, path = _load(path_or_name, "", "study")
    return (_with_grid(data, path) if "matrix" in data else data), path


def suite_beside(data: Mapping[str, Any], path: Path) -> Path | None:
    """The suite that a study names, where it is a file beside that of the study; as its model config."""
    beside = path.parent / data["conditions"]
    return beside if is_file(beside) else None


def _with_grid(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """The study with the variants of its ``matrix`` behind those that it names."""
    variants = grid_variants(data["matrix"], path)
    twice = next((name for name in variants if name in data["variants"]), None)
    if twice is not None:
        raise UserError(f"{path}: matrix.name: gives '{short(twice)}', which is also under variants")
    data = {key: value for key, value in data.items() if key != "matrix"}
    data["variants"] = data["variants"] | variants
    problem = schema_error(data, "study")  # of names that the matrix gives
    if problem:
        raise UserError(f"{path}: matrix: {problem}")
    return data


def load_study(path_or_name: str | Path) -> Study:
    """Load a study by name (``ablations/<name>.yaml``) or by file, with its suite and every variant checked."""
    data, path = read_study(path_or_name)
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
    metric = data.get("metric", "")
    if "lower_is_better" in data and not metric.startswith(CUSTOM):
        raise UserError(f"{path}: lower_is_better: not allowed here: it belongs to a metric {CUSTOM}NAME")
    if data["baseline"] not in variants:
        hint = nearest(data["baseline"], variants)
        raise UserError(f"{path}: baseline: unknown variant '{short(data['baseline'])}'{hint}")
    try:
        suite = load_suite(suite_beside(data, path) or data["conditions"])
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
        metric=metric,
        variants=variants,
        path=path,
        gate=data.get("gate", False),
        measure_only=data.get("measure_only", False),
        published=data.get("published", {}),
        lower_is_better=data.get("lower_is_better", False),
    )
