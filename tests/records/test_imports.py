"""Imports as Python makes them, read from a file's text."""

from __future__ import annotations

import pytest

from aqr_bench.records import imports
from aqr_bench.records.imports import closure, imported_files, is_part_of


@pytest.fixture
def package(tmp_path, monkeypatch):
    files = {
        "plain/__init__.py": '"""A"""\nfrom aqr_bench.plain.one import ONE\nfrom aqr_bench.plain.two import TWO as T\n',
        "plain/one.py": "ONE = 1\n",
        "plain/two.py": "from aqr_bench.busy.work import x\nTWO = 2\n",
        "busy/__init__.py": "from aqr_bench import loose\nloose.start()\n",
        "busy/work.py": "x = 1\n",
        "loose.py": "import aqr_bench.busy.work\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    caches = (imports.imported_files, imports._re_exports)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(imports, "PACKAGE", tmp_path)
    yield tmp_path
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("from aqr_bench.plain.one import ONE", {"plain/one.py"}),
        ("from aqr_bench.plain import one", {"plain/one.py"}),
        ("from aqr_bench.plain import ONE", {"plain/one.py"}),
        ("from aqr_bench.plain import T", {"plain/two.py"}),
        ("from aqr_bench.plain import MISSING", {"plain/__init__.py"}),
        ("from aqr_bench.plain import *", {"plain/__init__.py"}),
        ("import aqr_bench.plain", {"plain/__init__.py"}),
        ("import aqr_bench.busy.work as w", {"busy/__init__.py", "busy/work.py"}),
        ("from aqr_bench.busy import work", {"busy/__init__.py", "busy/work.py"}),
        ("from aqr_bench import loose", {"loose.py"}),
        ("def f():\n    from aqr_bench import loose", {"loose.py"}),
        ("NAMES = ['aqr_bench.plain.one', 'aqr_bench.nothing', 'see aqr_bench.loose']", {"plain/one.py"}),
        ("if TYPE_CHECKING:\n    from aqr_bench import loose\nelse:\n    import aqr_bench.plain.one", {"plain/one.py"}),
        ("import torch\nfrom os import path\nimport aqr_bench\nimport aqr_bench_extra.plain", set()),
        ("def (", set()),
    ],
)
def test_files_behind_an_import(package, source, files):
    assert imported_files(source.encode()) == files


def test_the_closure_follows_imports_as_far_as_it_is_let(package):
    (package / "start.py").write_text("from aqr_bench.plain import T\n")
    everything = {"start.py", "plain/two.py", "busy/__init__.py", "busy/work.py", "loose.py"}
    assert closure(["start.py"]) == everything
    assert closure(["start.py"], lambda file: not is_part_of(file, ["busy"])) == {"start.py", "plain/two.py"}
    assert closure(["busy/work.py"], lambda file: False) == {"busy/work.py"}
