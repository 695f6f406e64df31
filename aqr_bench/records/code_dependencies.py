"""Which source code a result depends on: what its step imports, and what model, settings and conditions have it use."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aqr_bench import plugins
from aqr_bench.errors import UserError
from aqr_bench.records.config_uses import (
    CONDITION_KEYS,
    EVERYTHING,
    condition_corruptions,
    config_uses,
    source_uses,
)
from aqr_bench.records.imports import PACKAGE, closure, imported_files, is_part_of
from aqr_bench.study.hashes import SHORT, canonical_json, config_hash, source_files_hash, source_hash
from aqr_bench.study.model_files import CONFIGS, config_files, is_file_name, source_hashes

_SOURCE_SUFFIXES = {".py", ".j2", ".css", ".js", ".yaml", ".json", ".npz"}
# What a step runs, and folders of data that it reads. tests/records/test_code_dependencies.py compares what follows
# from this with the imports as another reader of the package sees them.
ENTRIES: dict[str, tuple[str, ...]] = {
    "world": ("world/__main__.py",),
    "prepare": ("data/__main__.py",),
    "train": ("engine/train.py",),
    "evaluate": ("engine/evaluate_suite.py", "engine/evaluate_checkpoint.py"),
    "score": ("engine/score_submission.py",),
    "measure": ("cost/measure.py",),
    "pictures": ("cli/pictures.py", "report/viewer"),
    "report": ("report/__main__.py", "report/templates"),
}
WITH_MODEL = ("train", "evaluate", "measure")  # steps that depend on a model and its settings
BIAS = "bias/generator.py"  # leads to the routers and all else that generates biases
SUITES = "corruptions/suites/__init__.py"  # names the suites, so leads to all corruptions
EXPERTS = "cmt/multi_expert_head.py"  # leads to all of MoME
# Imported by all, used by some: imports do not lead here, ``code_parts`` adds them to the jobs that use them.
OPTIONAL = (BIAS, SUITES, EXPERTS)
# Imported by steps, and not hashed.
NOT_HASHED: dict[str, str] = {
    "errors.py": "messages",
    "foreign_files.py": "messages about files that are not what they should be",
    "plugins.py": "brings in code of the user, which is hashed itself",
    "folders.py": "where files are, which are hashed themselves",
    "console.py": "arguments and progress; what they ask for is in the record",
    "engine/config_facts.py": "refuses a config or passes it, and changes none",
    "data/check": "reports on a data set, and changes nothing",
    "study": "what it makes of the files of a study is compared itself: settings and config",
    "records": "describes results that are there already",
}
# But hashed, though they are in one of these folders.
HASHED_EXCEPTIONS: dict[str, str] = {
    "records/cache.py": "decides which results are reused",
    "records/job.py": "decides which results are reused",
    "study/overrides.py": "merges the keys of a variant into the config of its model",
}


def code_parts(step: str, model: str | None = None, settings: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Hash of each file of the package that a job depends on, by its path below ``aqr_bench/``; and of plug-ins.

    That is what its step imports. What generates attention biases is left out where neither the config of the model nor
    the settings ask for one, MoME's head where they do not name it, and so are the suites of corruptions under whose
    conditions it neither trains nor evaluates. In doubt they count. Of routers and corruptions of the user, their files
    count, ``./my_file.py``, for the jobs that name them.

    Args:
        step: of ``ENTRIES``.
        model: name or file of the model's config. None, or no settings: for a step that has a model all counts.
        settings: overrides of the config, or that itself; conditions as ``Condition.settings``.
    """
    if step not in WITH_MODEL:
        names = condition_corruptions(settings or {})
        return _with_plugins(step, _suites(names), names)
    if model is None or settings is None:
        configs = [f"cmt/configs/{file.relative_to(CONFIGS).as_posix()}" for file in CONFIGS.rglob("*.py")]
        return dict(_hashes(step, frozenset([*configs, *OPTIONAL])))
    overrides = {key: value for key, value in settings.items() if key not in CONDITION_KEYS}
    if is_file_name(model):
        entries, texts = _entries_of_model(model, overrides)
    else:
        entries, texts = _entries_of_shipped_model(model, canonical_json(overrides))
    conditions = condition_corruptions(settings)
    return _with_plugins(step, entries | _suites(conditions), texts | conditions)


def plugin_hashes(texts: Iterable[str]) -> dict[str, str]:
    """Hash of each file of the user behind the names of plug-ins (``plugins.GROUPS``) among some texts, by its name."""
    return {name: source_hash(file)[:SHORT] for name, file in sorted(_plugin_files(texts).items())}


def _plugin_files(texts: Iterable[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    known = {name for group in plugins.GROUPS for name in plugins.installed(group)}
    for text in texts:
        if text in known or plugins.is_reference(text):
            for group in plugins.GROUPS:
                files |= plugins.source_files(text, group)
    return files


def _with_plugins(step: str, entries: frozenset[str], texts: frozenset[str]) -> dict[str, str]:
    """The hashes of a step, with the user's files behind ``texts`` and what those import of the package."""
    sources = [file.read_bytes() for file in _plugin_files(texts).values()]
    imported = {name for source in sources for name in imported_files(source) if name not in OPTIONAL}
    corruptions = [_suites(source_uses(source).corruptions) for source in sources]
    return {**_hashes(step, entries.union(imported, *corruptions)), **plugin_hashes(texts)}


def code_hash_for(step: str, model: str | None = None, settings: Mapping[str, Any] | None = None) -> str:
    """SHA-256 of the code that a job depends on, that of a custom model included; arguments as of ``code_parts``."""
    return hash_of_parts(code_parts(step, model, settings), {} if model is None else source_hashes(model))


def hash_of_parts(package: Mapping[str, str], sources: Mapping[str, str]) -> str:
    """Of hashes of files: of the package, as ``code_parts`` has them, and of a custom model."""
    return config_hash({"package": package, "sources": sources})


def code_hash(parts: Sequence[str]) -> str:
    """SHA-256 over the package's source files in ``parts`` (folders or files below ``aqr_bench/``).

    Names and what the files say count, see ``source_hash``. Raises UserError for a part that does not exist.
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
    return source_files_hash(named)


@functools.cache
def _hashes(step: str, entries: frozenset[str]) -> dict[str, str]:
    used = filter(lambda file: _is_hashed(file, step), entries)
    files = closure([*ENTRIES[step], *used], lambda file: _is_hashed(file, step) and file not in OPTIONAL)
    return {file: code_hash([file])[:SHORT] for file in sorted(files)}


def _is_hashed(file: str, step: str) -> bool:
    unhashed = [part for part in NOT_HASHED if (step, part) != ("report", "records")]  # the page is made by them
    return file in HASHED_EXCEPTIONS or not is_part_of(file, unhashed)


def _entries_of_model(model: str, overrides: Mapping[str, Any]) -> tuple[frozenset[str], frozenset[str]]:
    """What the files of a model and overrides have a job use, besides what its step does anyway; and their texts."""
    files = config_files(model)
    entries: set[str] = set()
    for file in files:
        imported = imported_files(file.read_bytes())
        entries |= imported
        if file.is_relative_to(CONFIGS):
            entries.add(file.relative_to(PACKAGE).as_posix())
        else:  # a class of the user may call what the modules that it names bring in
            further = {name for part in imported for name in imported_files((PACKAGE / part).read_bytes())}
            entries |= further & {BIAS, SUITES}  # MoME's head, which cmt/ registers, only where it is named
    uses = config_uses(files, overrides) if files or model.startswith(("mmdet3d::", "mmdet::")) else EVERYTHING
    optional = {file for file, used in ((BIAS, uses.bias), (EXPERTS, uses.experts)) if used}
    return frozenset(entries | optional | _suites(uses.corruptions)), uses.texts


@functools.lru_cache(maxsize=1024)
def _entries_of_shipped_model(model: str, overrides: str) -> tuple[frozenset[str], frozenset[str]]:
    return _entries_of_model(model, json.loads(overrides))


def _suites(corruptions: frozenset[str] | None) -> frozenset[str]:
    """Modules of the suites that corruptions are in; in doubt all. Other texts may be among the names."""
    if corruptions is None:
        return frozenset([SUITES])
    if not corruptions:
        return frozenset()
    suites = _suite_of_corruption()
    return frozenset(suites[name] for name in corruptions if name in suites)


@functools.cache
def _suite_of_corruption() -> dict[str, str]:
    """File of the suite by the name of a corruption: the full one, and the bare one where only one suite has it."""
    from aqr_bench.corruptions.suites import SUITES as modules  # takes half a second to import

    files = {
        corruption.key: f"{'/'.join(module.__name__.split('.')[1:])}.py"
        for module in modules
        for corruption in module.CORRUPTIONS
    }
    bare = Counter(key.rpartition(".")[2] for key in files)
    unique = {name: file for key, file in files.items() if bare[name := key.rpartition(".")[2]] == 1}
    return {**unique, **files}
