"""aqr-bench init: a project folder whose study, tier and settings are valid; nothing of the user is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from aqr_bench.cli import init, studies
from aqr_bench.errors import UserError
from aqr_bench.folders import project_folder, shipped_folder
from aqr_bench.study.plan import select
from aqr_bench.study.schema import schema_error


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert init.main(["mine"]) == 0
    monkeypatch.chdir(tmp_path / "mine")
    return tmp_path / "mine"


def test_what_it_writes_can_be_run(project):
    assert project_folder() == project and (project / ".gitignore").is_file()
    settings = yaml.safe_load((project / "config" / "config.yaml").read_text())
    assert schema_error(settings, "config") is None
    selection = select(settings["tier"], settings["studies"])
    assert [study.path.is_relative_to(project) for study in (*selection.studies, selection.tier)] == [True, True]
    assert select("first_tier").studies == selection.studies
    assert select("examples/centerpoint/centerpoint.yaml", ["examples/centerpoint/lidar_damage.yaml"]).records


def test_the_list_tells_its_studies_from_those_that_ship(project, capsys, monkeypatch):
    studies.main(["list"])
    line = f"Of this project ({project / 'ablations'}): study first_study, tier first_tier; all others ship"
    assert line in capsys.readouterr().out
    monkeypatch.chdir(shipped_folder())
    assert studies.project_lines([], [], []) == []


def test_files_that_are_there_stay(project, capsys):
    study = project / "ablations" / "first_study.yaml"
    study.write_text("edited")
    (project / "README.md").unlink()
    capsys.readouterr()
    assert init.main([]) == 0
    assert study.read_text() == "edited" and (project / "README.md").is_file()
    out = capsys.readouterr().out
    assert "there already  ablations/first_study.yaml" in out and out.count("written") == 1


def test_not_where_the_shipped_files_lie():
    with pytest.raises(UserError, match=r"where what ships lies. Name a folder elsewhere"):
        init.main([str(shipped_folder() / "docs")])
