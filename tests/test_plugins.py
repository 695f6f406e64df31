"""Code of the user by name: files, modules, entry points and registered names; mistakes are one line each."""

from __future__ import annotations

import sys

import pytest

from aqr_bench import plugins
from aqr_bench.errors import UserError
from aqr_bench.plugins import (
    CORRUPTIONS,
    ROUTERS,
    find,
    installed,
    is_reference,
    project_folder,
    register,
    source_files,
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder, which is the working directory; modules that are imported from it are forgotten."""
    for folder in ("ablations", "config"):
        (tmp_path / folder).mkdir()
    (tmp_path / "config/config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_REGISTERED", {group: {} for group in plugins.GROUPS})
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_references():
    for text in ("my_file.py:Name", "../a-b/my_file.py:N", "pkg.module:Name", "module:name"):
        assert is_reference(text), text
    for text in ("learned", "cuda:0", "mmdet3d::a.py", "multicorrupt.fog@2", "a.py:", ":x", "http://x.py:80", "a b:c"):
        assert not is_reference(text), text


def test_a_file_and_what_lies_beside_it(project):
    write(project, mine="from helper_of_mine import VALUE\n", helper_of_mine="VALUE = 3\n")
    assert find("mine.py:VALUE", ROUTERS) == 3
    assert find(f"{project}/mine.py:VALUE", ROUTERS) == 3
    (project / "sub").mkdir()
    assert project_folder() == project


def test_paths_count_from_the_project_also_below_it(project, monkeypatch):
    write(project, mine="VALUE = 3\n")
    (project / "sub").mkdir()
    monkeypatch.chdir(project / "sub")
    assert find("mine.py:VALUE", ROUTERS) == 3


def test_files_of_one_name_in_two_folders_are_two_modules(project):
    write(project, a__same="VALUE = 1\n", b__same="VALUE = 2\n")
    assert [find(f"{folder}/same.py:VALUE", ROUTERS) for folder in "ab"] == [1, 2]


def test_a_module_of_a_package(project):
    write(project, tried_pkg____init__="", tried_pkg__mod="from .other import VALUE\n", tried_pkg__other="VALUE = 4\n")
    (project / "tried_pkg" / "__init__.py").write_text("")
    assert find("tried_pkg.mod:VALUE", ROUTERS) == 4
    assert set(source_files("tried_pkg.mod:VALUE", ROUTERS)) == {
        *("./tried_pkg/__init__.py", "./tried_pkg/mod.py", "./tried_pkg/other.py")
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("missing.py:X", "no file .*missing.py.*counts from the project's folder"),
        ("tried_missing.module:X", "no module 'tried_missing'.*Install its package"),
        ("mine.py:MyRoter", "mine.py has no 'MyRoter'; did you mean 'MyRouter'"),
        ("broken.py:X", "broken.py, line 2 cannot be imported: SyntaxError"),
        ("raising.py:X", "raising.py cannot be imported: ZeroDivisionError"),
        ("relative.py:X", "cannot be imported: ImportError.*package.module:NAME"),
        ("lacking.py:X", "cannot be imported: ModuleNotFoundError: No module named 'tried_no_such_module'"),
    ],
)
def test_mistakes_are_one_line(project, text, message):
    write(project, mine="class MyRouter: ...\n", broken="x = 1\nx = = 2\n", raising="1 / 0\n")
    write(project, relative="from . import x\n", lacking="import tried_no_such_module\n")
    with pytest.raises(UserError, match=message) as error:
        find(text, ROUTERS)
    assert text in str(error.value) and "\n" not in str(error.value)


def test_names_of_an_installed_package_work_like_those_that_ship(project, monkeypatch):
    site = project / "site-packages"
    write(site, tried_dust__dust="from tried_dust import physics\nimport numpy\nimport tried_other\nvalue = 5\n")
    write(site, tried_dust__physics="", tried_dust____init__="", tried_other="")
    (site / "tried_dust" / "__init__.py").write_text("")
    info = site / "tried_dust-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tried-dust\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{CORRUPTIONS}]\ntried_near_dust = tried_dust.dust:value\ntried_module = tried_dust.dust\n"
    )
    monkeypatch.syspath_prepend(str(site))
    assert installed(CORRUPTIONS)["tried_near_dust"] == "tried_dust.dust:value" and "tried_near_dust" not in installed(
        ROUTERS
    )
    assert find("tried_near_dust", CORRUPTIONS) == 5 and find("tried_near_dust", ROUTERS) is None
    # Its own package counts as its code, other installed ones do not.
    files = source_files("tried_near_dust", CORRUPTIONS)
    assert set(files) == {"./tried_dust/__init__.py", "./tried_dust/dust.py", "./tried_dust/physics.py"}
    with pytest.raises(UserError, match=r"names no object.*package\.module:NAME"):
        find("tried_module", CORRUPTIONS)


def test_registered_names(project):
    write(project, mine="def one(): ...\n", other="def one(): ...\n")
    one, other = find("mine.py:one", CORRUPTIONS), find("other.py:one", CORRUPTIONS)
    register(CORRUPTIONS, "one", one)
    register(CORRUPTIONS, "one", one)
    assert find("one", CORRUPTIONS) is one and find("one", ROUTERS) is None and find("two", CORRUPTIONS) is None
    with pytest.raises(UserError, match=r"'one' is registered twice, by .*mine\.py:one and by .*other\.py:one"):
        register(CORRUPTIONS, "one", other)


def test_source_files_follow_imports_of_the_project_alone(project):
    write(project, plug__mine="import lib.deep\nfrom beside import x\nimport numpy, json, aqr_bench.errors\n")
    write(project, plug__beside="x = 1\n", lib__deep="import beside_of_deep\n", lib__beside_of_deep="", unused="")
    files = source_files("plug/mine.py:X", ROUTERS)
    assert set(files) == {"./plug/mine.py", "./plug/beside.py", "./lib/deep.py"}
    assert all(path.is_file() for path in files.values())
    assert source_files("none.py:X", ROUTERS) == {} == source_files("learned", ROUTERS)
