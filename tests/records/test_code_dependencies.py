"""What is hashed for a step holds all that its modules import, or there is a reason why not."""

from __future__ import annotations

import functools

import pytest

from aqr_bench.errors import UserError
from aqr_bench.records import code_dependencies
from aqr_bench.records.code_dependencies import CODE_DEPENDENCIES, NOT_HASHED, PACKAGE, code_hash, code_hash_for

grimp = pytest.importorskip("grimp", reason="import-linter is not installed (pip install -e .[dev])")

# The modules that a step runs; configs name the transforms and hooks, which no import statement shows.
CONFIGURED = ("aqr_bench.cmt", "aqr_bench.data.transforms", "aqr_bench.data.conditions", "aqr_bench.engine.hooks")
CONFIGURED += ("aqr_bench.data.gt_sampling", "aqr_bench.data.cbgs", "aqr_bench.data.bev_image_augmentation")
ENTRIES = {
    "world": ("aqr_bench.world.__main__",),
    "prepare": ("aqr_bench.data.__main__",),
    "train": ("aqr_bench.engine.train", *CONFIGURED),
    "evaluate": ("aqr_bench.engine.evaluate_suite", "aqr_bench.engine.evaluate_checkpoint", *CONFIGURED),
    "measure": ("aqr_bench.cost.measure", *CONFIGURED),
    "pictures": ("aqr_bench.cli.pictures", *CONFIGURED),
    "report": ("aqr_bench.report.__main__",),
}


@functools.cache
def graph():
    return grimp.build_graph("aqr_bench", exclude_type_checking_imports=True, cache_dir=None)


def imported_files(step: str) -> set[str]:
    """Files below aqr_bench/ of everything that a step imports, also inside of functions."""
    modules = {*ENTRIES[step]}
    for entry in ENTRIES[step]:
        modules |= graph().find_upstream_modules(entry)
    files = set()
    for module in modules:
        place = PACKAGE.joinpath(*module.split(".")[1:])
        file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        files.add(file.relative_to(PACKAGE).as_posix())
    return files


def covers(parts, file: str) -> bool:
    return any(file == part or file.startswith(part + "/") for part in parts)


@pytest.mark.parametrize("step", CODE_DEPENDENCIES)
def test_every_import_of_a_step_is_hashed_or_has_a_reason(step):
    missing = {
        file
        for file in imported_files(step)
        if not covers(CODE_DEPENDENCIES[step], file)
        and not covers(NOT_HASHED, file)
        and not file.endswith("__init__.py")
    }
    assert not missing, f"a change to {sorted(missing)} would leave results of '{step}' called up to date"


def test_what_is_not_hashed_is_imported_by_some_step():
    files = set().union(*map(imported_files, CODE_DEPENDENCIES))
    assert all(any(covers([part], file) for file in files) for part in NOT_HASHED)


def test_the_weight_loader_counts_for_evaluations():
    assert "engine/weights.py" in imported_files("evaluate") and covers(
        CODE_DEPENDENCIES["evaluate"], "engine/weights.py"
    )


@pytest.mark.parametrize("step", CODE_DEPENDENCIES)
def test_every_step_has_a_hash(step):
    assert len(code_hash_for(step)) == 64 and code_hash_for(step) == code_hash(CODE_DEPENDENCIES[step])


def test_contents_and_names_of_the_parts_count(tmp_path, monkeypatch):
    monkeypatch.setattr(code_dependencies, "PACKAGE", tmp_path)
    for name, text in {"room/a.py": "x = 1\n", "room/b.txt": "note", "other.py": "y = 1\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = code_hash(["room"])
    (tmp_path / "other.py").write_text("y = 2\n")
    (tmp_path / "room" / "b.txt").write_text("another note")
    (tmp_path / "room" / "a.py").write_bytes(b"x = 1\r\n")
    assert code_hash(["room"]) == before
    assert code_hash(["room", "other.py"]) != before
    (tmp_path / "room" / "a.py").rename(tmp_path / "room" / "c.py")
    assert code_hash(["room"]) != before
    with pytest.raises(UserError, match="no 'attic'"):
        code_hash(["attic"])
