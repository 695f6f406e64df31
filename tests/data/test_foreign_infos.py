"""The val info file of mmdet3d 1.x is taken for an evaluation where it fits; else one line says what to type."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from worlds import as_mmdet3d_writes, linked_copy, smallest_world

from aqr_bench.compat import load_safe_pickle
from aqr_bench.data.dataset import load_data
from aqr_bench.data.foreign_infos import import_infos
from aqr_bench.errors import UserError

NAME = "nuscenes_infos_val.pkl"
COMMAND = "aqr-bench data --version v1.0-mini --root {root} --out results/v1.0-mini/infos"


@pytest.fixture(scope="module")
def ours() -> dict:
    return load_safe_pickle(smallest_world() / "infos" / "infos_val.pkl")


@pytest.fixture
def root(tmp_path, ours) -> Path:
    """A data set's root with mmdet3d's file in it."""
    root = linked_copy(smallest_world() / "world", tmp_path / "root")
    (root / NAME).write_bytes(pickle.dumps(as_mmdet3d_writes(ours)))
    return root


def test_it_becomes_the_info_files_of_an_evaluation(root, ours, tmp_path):
    data = load_data(import_infos(root / NAME, tmp_path / "infos"))
    expected, of_tables = as_mmdet3d_writes(ours)["data_list"], load_data(smallest_world() / "infos")
    for entry, ours_entry in zip(expected, ours["data_list"], strict=True):
        entry |= {key: ours_entry[key] for key in ("scene_token", "prev")}
    assert load_safe_pickle(data.infos / "infos_val.pkl")["data_list"] == expected
    assert (data.root, data.version, data.sha256) == (root, "v1.0-mini", of_tables.sha256)
    assert (data.train_samples, data.max_sweeps) == (0, 3)


def _swapped(content: dict) -> None:
    content["metainfo"]["categories"] |= {"car": 1, "truck": 0}


MISFITS: dict[str, tuple[Callable[[dict], object], str]] = {
    "another version": (lambda c: c["metainfo"].update(version="v1.01-train"), "has version 'v1.01-train', which is"),
    "labels": (_swapped, r"its classes are \['truck', 'car', .*, and not nuScenes' ten in mmdet3d's order"),
    "no camera": (lambda c: c["data_list"][1]["images"].pop("CAM_BACK"), r"sample 1 \(.*\) has no images.CAM_BACK.img"),
    "no sensor": (
        lambda c: c["data_list"][0].pop("lidar_points"),
        r"sample 0 .* has no lidar_points, lidar_points.lid",
    ),
    "sweeps": (
        lambda c: [s["lidar_points"].pop("lidar2sensor") for s in c["data_list"][-1]["lidar_sweeps"]],
        "has no lidar_sweeps with timestamp, .* and lidar_points.lidar2sensor",
    ),
    "too few": (lambda c: c["data_list"].pop(), "it has 1 samples, 0 of them not of the val split, which has 2"),
    "of train": (lambda c: c["data_list"][0].update(token="other"), "it has 2 samples, 1 of them not of the val split"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_a_file_that_does_not_fit_is_refused_with_the_command_in_full(kind, root, ours, tmp_path):
    content, (spoil, message) = as_mmdet3d_writes(ours), MISFITS[kind]
    spoil(content)
    (root / NAME).write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=message) as error:
        import_infos(root / NAME, tmp_path / "infos")
    assert str(error.value).endswith(COMMAND.format(root=root)) and not (tmp_path / "infos").exists()


def test_a_file_that_is_not_beside_its_tables(root, tmp_path):
    file = (root / NAME).rename(tmp_path / NAME)
    with pytest.raises(UserError, match=f"no folder {re.escape(str(tmp_path))}/v1.0-mini. Move or link it to the root"):
        import_infos(file, tmp_path / "infos")


def test_where_a_folder_of_ours_is_needed_the_command_is_named_in_full(root, tmp_path):
    for infos in (root, root / NAME):
        with pytest.raises(UserError, match=f"Type: {re.escape(COMMAND.format(root=root))} .*--infos {root / NAME}"):
            load_data(infos)
    with pytest.raises(UserError, match="info summary not found"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mmdet3d_tests_nus_info_0.x",
            "is an info file of mmdet3d 0.x. Make info files of mmdet3d 1.x: aqr-bench data",
        ),
        ("mmdet3d_tests_nus_info_1.x", "the tables are not beside it: no folder .*v1.0-trainval"),
        (
            "lyft_infos",
            "version 'v1.01-train', which is none of nuScenes'. Make .* aqr-bench data --version v1.0-trainval",
        ),
        ("trainval_10samples_val", "the tables are not beside it: no folder .*v1.0-trainval"),
    ],
)
def test_info_files_of_other_projects(shared, name, message, tmp_path):
    file = shared / "data" / "strangers" / "infos" / f"{name}.pkl"
    if not file.is_file():
        pytest.skip("data of other projects is not here")
    with pytest.raises(UserError, match=message):
        import_infos(file, tmp_path)
