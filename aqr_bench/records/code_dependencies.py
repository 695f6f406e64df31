"""Which source code a result depends on: what is hashed for each step, and what is not, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aqr_bench.errors import UserError
from aqr_bench.study.hashes import source_files_hash

PACKAGE = Path(__file__).parents[1]
_SOURCE_SUFFIXES = {".py", ".j2", ".css", ".yaml", ".json", ".npz"}

_GROUND = ("atomic.py", "compat.py", "sensor_state.py")
_DATA = ("data", "corruptions", "metrics/splits.py", *_GROUND)
_DETECTOR = ("bias", "cmt", *_DATA)
_ENGINE = tuple(
    f"engine/{name}.py" for name in ("adapt_config", "checkpoint", "config", "job", "third_party", "weights")
)
# Folders, or files where a step needs a part of a folder alone: a change to evaluation trains nothing again.
# tests/records/test_code_dependencies.py compares them with what the modules of the steps import.
CODE_DEPENDENCIES: dict[str, tuple[str, ...]] = {
    "world": ("world", "corruptions", *_GROUND),
    "prepare": ("data", "corruptions", "metrics", *_GROUND),
    "train": (
        *_DETECTOR,
        *_ENGINE,
        *(f"engine/{name}.py" for name in ("distributed", "hooks", "initial_weights", "memory_limit", "resume")),
        "engine/seeding.py",
        "engine/train.py",
        "engine/training_plan.py",
        "records/cache.py",
        "records/job.py",
    ),
    "evaluate": (
        *_DETECTOR,
        *_ENGINE,
        "engine/condition_cache.py",
        "engine/evaluate.py",
        "engine/evaluate_checkpoint.py",
        "engine/evaluate_suite.py",
        "engine/evaluate_workers.py",
        "engine/finite_outputs.py",
        "engine/hooks.py",  # named in configs
        "engine/router_log.py",
        "engine/seeding.py",
        "metrics",
        "records/cache.py",
        "records/job.py",
    ),
    "measure": (*_DETECTOR, "cost", "engine", "metrics"),
    "pictures": (*_DETECTOR, "engine", "metrics", "cli/pictures.py", "report/figures/detections.py"),
    "report": ("report", "metrics", "corruptions", "records", "data/digests.py", *_GROUND),
}
# Imported by steps, and not hashed.
NOT_HASHED: dict[str, str] = {
    "errors.py": "messages",
    "foreign_files.py": "messages about files that are not what they should be",
    "console.py": "arguments and progress; what they ask for is in the record",
    "engine/config_facts.py": "refuses a config or passes it, and changes none",
    "study": "what it makes of the files of a study is hashed itself: settings and config",
    "records": "describes results that are there already; only cache and job decide which are reused, and are hashed",
}


def code_hash(parts: Sequence[str], sources: Sequence[Path] = ()) -> str:
    """SHA-256 over the package's source files in ``parts`` (folders or files below ``aqr_bench/``).

    ``sources``: files from elsewhere that belong to them, those of a custom detector. Names and contents count, times
    and line endings do not. Raises UserError for a part that does not exist.
    """
    named: list[tuple[str, Path]] = []
    for part in sorted(set(parts)):
        path = PACKAGE / part
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix in _SOURCE_SUFFIXES and p.is_file())
        else:
            raise UserError(f"code hash: no '{part}' in {PACKAGE}")
        named += [(file.relative_to(PACKAGE).as_posix(), file) for file in files]
    return source_files_hash([*named, *((file.name, file) for file in sorted(sources))])


def code_hash_for(step: str, sources: Sequence[Path] = ()) -> str:
    """Code hash of a step: world, prepare, train, evaluate, measure, pictures or report."""
    return code_hash(CODE_DEPENDENCIES[step], sources)
