"""Paths lead to their file, also from folders that are links to another depth, and in results of another layout."""

from __future__ import annotations

import pytest

from aqr_bench.study.layout import detections_file, detections_folder, relative_path


def test_a_path_without_links_is_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative_path("results/t/world", "results/t/infos") == "../world"
    assert relative_path(tmp_path / "data", "results/t/infos") == "../../../data"


@pytest.mark.parametrize("linked", ["results/t", "results/t/infos"])
def test_dots_from_a_link_leave_what_it_points_to(tmp_path, linked):
    target = tmp_path / "a" / "much" / "deeper" / "disk"
    target.mkdir(parents=True)
    (tmp_path / linked).parent.mkdir(parents=True)
    (tmp_path / linked).symlink_to(target)
    folder = tmp_path / "results/t/infos"
    folder.mkdir(exist_ok=True)
    for name in ("data/nuscenes", "results/t/world", "results/t/infos/x"):
        path = tmp_path / name
        path.mkdir(parents=True)
        assert (folder / relative_path(path, folder)).resolve() == path.resolve()
        assert (folder.resolve() / relative_path(path, folder)).resolve() == path.resolve()


def test_a_link_on_the_way_down_stays_a_link(tmp_path):
    """It may point to another disk tomorrow."""
    (tmp_path / "results").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "nuscenes").symlink_to("disk")
    assert relative_path(tmp_path / "nuscenes", tmp_path / "results") == "../nuscenes"


def test_suites_do_not_share_the_files_of_a_condition_of_the_same_name(tmp_path):
    """``fog_1`` of two suites may be two corruptions. In old results they share a folder, which is still read."""
    before = tmp_path / "detections" / "fog_1" / "matches.npz"
    before.parent.mkdir(parents=True)
    before.touch()
    assert detections_file(tmp_path, "multicorrupt", "fog_1", "matches.npz") == before
    folder = detections_folder(tmp_path, "multicorrupt", "fog_1")
    folder.mkdir(parents=True)
    (folder / "matches.npz").touch()
    assert detections_file(tmp_path, "multicorrupt", "fog_1", "matches.npz") == folder / "matches.npz"
    assert detections_folder(tmp_path, "nuscenes_c", "fog_1") != folder
