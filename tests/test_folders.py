"""Where files are looked for: the project folder first, then what ships, in a checkout and of an installed package."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from aqr_bench import folders
from aqr_bench.errors import UserError
from aqr_bench.records import provenance
from aqr_bench.study.layout import RESULTS, results_folder
from aqr_bench.study.load import known_studies, known_tiers, load_study, load_tier
from aqr_bench.study.plan import name_or_path, select

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project folder as the working directory, with a study and a tier."""
    folder = tmp_path / "project"
    (folder / "ablations" / "tiers").mkdir(parents=True)
    (folder / "config").mkdir()
    (folder / "config" / "config.yaml").write_text("tier: mine\n")
    write(folder / "ablations" / "tiers" / "mine.yaml", shipped("tiers/smoke") | {"name": "mine"})
    write(folder / "ablations" / "mine.yaml", shipped("smoke") | {"name": "mine"})
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """What ships, as the package data of an environment that lies in the project folder."""
    share = tmp_path / "project" / ".venv" / "aqr_bench" / "share"
    for name in ("ablations", "workflow/schemas"):
        shutil.copytree(ROOT / name, share / name)
    monkeypatch.setattr(folders, "PACKAGE_DATA", share)
    return share


def shipped(name: str) -> dict:
    return yaml.safe_load((ROOT / "ablations" / f"{name}.yaml").read_text(encoding="utf-8"))


def write(path: Path, data: dict) -> Path:
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def test_a_checkout_ships_its_own_files():
    assert not folders.is_installed()
    assert folders.shipped_folder() == folders.project_folder() == ROOT
    assert folders.ablation_folders("tiers") == [ROOT / "ablations" / "tiers"]


def test_an_installed_package_ships_its_data_in_any_folder(installed, monkeypatch):
    assert folders.is_installed()
    for here in (installed, ROOT):  # a checkout that the command runs in is a project like another one
        monkeypatch.chdir(here)
        assert folders.shipped("ablations") == installed / "ablations"
    assert folders.ablation_folders() == [ROOT / "ablations", installed / "ablations"]


def test_an_incomplete_installation_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "_PACKAGE", tmp_path / "aqr_bench")
    with pytest.raises(UserError, match=r"no ablations/ and workflow/schemas/ in .*Install it again"):
        folders.shipped_folder()


def test_the_project_folder_from_below(project, monkeypatch):
    below = project / "data" / "ablations"  # no project: a folder of that name alone
    below.mkdir(parents=True)
    monkeypatch.chdir(below.parent)
    assert folders.project_folder() == project and results_folder() == Path("..") / RESULTS
    monkeypatch.chdir(project)
    assert results_folder() == RESULTS


def test_without_a_project_the_working_directory_is_taken(tmp_path, monkeypatch):
    (tmp_path / "ablations").mkdir()
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert folders.project_folder() == tmp_path / "below"
    assert known_tiers() == [*sorted(path.stem for path in (ROOT / "ablations" / "tiers").glob("*.yaml"))]


def test_names_of_the_project_and_of_what_ships(project):
    assert {"mine", "smoke"} <= set(known_studies()) & set(known_tiers())
    assert load_study("mine").path == project / "ablations" / "mine.yaml"
    assert load_tier("smoke").path == ROOT / "ablations" / "tiers" / "smoke.yaml"
    with pytest.raises(UserError, match="unknown tier 'minee'; did you mean 'mine'"):
        load_tier("minee")
    assert name_or_path(load_tier("mine").path) == "mine"
    elsewhere = write(project / "mine.yaml", shipped("smoke") | {"name": "mine"})
    assert name_or_path(elsewhere) == elsewhere.as_posix()


def test_a_name_that_hides_a_shipped_one_is_refused(project):
    file = project / "ablations" / "tiers" / "smoke.yaml"
    shutil.copy(ROOT / "ablations" / "tiers" / "smoke.yaml", file)
    assert load_tier("smoke").name == "smoke"  # the same file twice hides nothing
    write(file, shipped("tiers/smoke") | {"threads": 2})
    for given in ("smoke", file, "ablations/tiers/smoke.yaml"):
        with pytest.raises(UserError, match=r"tier 'smoke' is named by two files: .* Rename the project's file"):
            load_tier(given)
    assert load_study("smoke").name == "smoke"


def test_paths_in_records_are_those_of_a_checkout(project, installed):
    assert provenance.portable_path(load_tier("smoke").path) == "ablations/tiers/smoke.yaml"
    assert provenance.portable_path(load_tier("mine").path) == "ablations/tiers/mine.yaml"
    assert provenance.portable_path("/elsewhere/mine.yaml") == "<elsewhere>/mine.yaml"


def test_the_commit_of_a_repository_around_the_environment_is_not_recorded(project, installed):
    def git(*words):
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(["git", *identity, *words], cwd=project, check=True, capture_output=True)

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "x")
    assert provenance.git_state() == {"git_commit": None, "git_dirty": None}


def test_a_results_folder_is_in_every_path(project):
    selection = select("mine", ["mine"], results="../runs")
    assert selection.layout.page == Path("../runs/mine/report/index.html")
    assert all(path.startswith("../runs/mine/") for path in selection.records)
    assert select("mine", ["mine"]).records[0].startswith("results/mine/")
    with pytest.raises(UserError, match=r"--results a\{b\}: Snakemake takes braces"):
        select("mine", ["mine"], results="a{b}")
