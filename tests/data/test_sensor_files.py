"""Files are read where the tables say, in nuScenes' folders and in any other layout, by every reader alike."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from worlds import in_layout

from aqr_bench.data import gt_database
from aqr_bench.data.check.check import check_root
from aqr_bench.data.infos import build_infos, open_nuscenes, write_infos
from aqr_bench.data.raw_frames import InfoFile
from aqr_bench.data.sensor_files import PATH_BASE, sensor_file, with_short_names

VERSION = "v1.0-mini"


@pytest.fixture(scope="module")
def drives(world, tmp_path_factory) -> Path:
    """The same world in a layout of its own: a folder per scene, the same base names in each; files are links."""
    return in_layout(world, tmp_path_factory.mktemp("layout") / "drives", "drives")


@pytest.fixture(scope="module")
def layouts(world, infos, drives, tmp_path_factory) -> dict[Path, tuple[Path, dict]]:
    """(folder of info files, infos) by root."""
    folder = tmp_path_factory.mktemp("layout_infos")
    both = {world: infos, drives: build_infos(open_nuscenes(drives, VERSION))}
    for root, entries in both.items():
        write_infos(entries, folder / root.name, VERSION)
    return {root: (folder / root.name, entries) for root, entries in both.items()}


def equal_infos(ours: dict, other: dict) -> bool:
    drop = {PATH_BASE, "lidar_path", "img_path"}

    def bare(value):
        if isinstance(value, dict):
            return {key: bare(inner) for key, inner in value.items() if key not in drop}
        return [bare(inner) for inner in value] if isinstance(value, list) else repr(value)

    return bare(ours) == bare(other)


def test_infos_differ_in_the_names_of_files_alone(layouts, world, drives):
    standard, own = layouts[world][1], layouts[drives][1]
    for split in ("train", "val"):
        assert all(map(equal_infos, standard[split], own[split]))
    assert all(PATH_BASE not in info and "/" not in info["lidar_points"]["lidar_path"] for info in standard["train"])
    assert all(info[PATH_BASE] == "data_root" for info in own["train"] + own["val"])
    assert check_root(drives, partial=True, samples=1).errors == 0, "what is checked is what is read"


def test_info_files_give_the_same_frames(layouts):
    """Equal base names in two folders: taken for each other, a sample would have another scene's points."""
    frames = [InfoFile(folder / "infos_train.pkl", root) for root, (folder, _) in layouts.items()]
    clouds = []
    for index in range(4):
        standard, own = (file.frame(index) for file in frames)
        for a, b in zip(standard.clouds, own.clouds, strict=True):
            assert np.array_equal(a.points, b.points)
        for a, b in zip(standard.views, own.views, strict=True):
            assert np.array_equal(a.image, b.image)
        earlier = [frame.history.view_sweep(1, "CAM_BACK") for frame in (standard, own)]
        assert earlier[0] is None if earlier[1] is None else np.array_equal(earlier[0].image, earlier[1].image)
        clouds.append(own.clouds[0].points)
    assert len(clouds[0]) != len(clouds[2]) or not np.array_equal(clouds[0], clouds[2])


def paths_of(info: dict) -> list[Path]:
    sweeps = [sweep["lidar_points"]["lidar_path"] for sweep in info["lidar_sweeps"]]
    views = [view["img_path"] for view in info["images"].values()]
    return [Path(name).resolve() for name in (info["lidar_points"]["lidar_path"], *sweeps, *views)]


def test_the_data_set_and_the_database_read_the_same_files(layouts):
    from aqr_bench import compat

    compat.prepare()
    from mmdet3d.registry import DATASETS

    import aqr_bench.data.transforms  # noqa: F401

    prefix = {camera: f"samples/{camera}" for camera in next(iter(layouts.values()))[1]["train"][0]["images"]}
    prefix |= {"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP"}
    modality = {"use_lidar": True, "use_camera": True}
    read = []
    for root, (folder, infos) in layouts.items():
        config = dict(type="NuScenesDataset", ann_file=str(folder / "infos_val.pkl"), data_root=str(root))
        config |= dict(data_prefix=prefix, modality=modality, test_mode=True, filter_empty_gt=False, pipeline=[])
        dataset = DATASETS.build(config)
        samples = [dataset.get_data_info(index) for index in range(len(dataset))]
        read.append([paths_of(info) for info in samples])
        assert [[Path(info["lidar_path"]).resolve()] for info in samples] == [paths[:1] for paths in read[-1]]
        assert read[-1] == [paths_of(gt_database._with_paths(info, root)) for info in infos["val"]]
    assert read[0] == read[1] and all(path.is_file() for paths in read[0] for path in paths)


def entry(lidar: str, sweep: str, image: str = "samples/CAM_FRONT/a.jpg", before: str = "sweeps/CAM_FRONT/b.jpg"):
    return {
        "lidar_points": {"lidar_path": lidar},
        "lidar_sweeps": [{"lidar_points": {"lidar_path": sweep}}],
        "images": {"CAM_FRONT": {"img_path": image, "sweeps": [{"img_path": before}]}},
    }


@pytest.mark.parametrize(
    "names",
    [
        ("train_lidar/a.bin", "sweeps/LIDAR_TOP/b.bin"),
        ("samples/LIDAR_TOP/a.bin", "train_lidar/b.bin"),
        ("samples/LIDAR_TOP/a.bin", "sweeps/LIDAR_TOP/samples_b.bin"),  # mmdet3d would take it for a keyframe
        ("drive/samples/LIDAR_TOP/a.bin", "sweeps/LIDAR_TOP/b.bin"),
        ("samples/LIDAR_TOP/sub/a.bin", "sweeps/LIDAR_TOP/b.bin"),
        ("a.bin", "b.bin"),
        ("samples/LIDAR_TOP/a.bin", "sweeps/LIDAR_TOP/b.bin", "images/a.jpg"),
        ("samples/LIDAR_TOP/a.bin", "sweeps/LIDAR_TOP/b.bin", "samples/CAM_FRONT/a.jpg", "images/b.jpg"),
    ],
)
def test_a_file_anywhere_else_is_named_relative_to_the_root(names):
    info = with_short_names(copy.deepcopy(entry(*names)))
    root = Path("/root")
    assert info == entry(*names) | {PATH_BASE: "data_root"}
    assert sensor_file(info, root, "LIDAR_TOP", names[0]) == root / names[0]
    assert sensor_file(info, root, "LIDAR_TOP", names[1], keyframe=False) == root / names[1]


@pytest.mark.parametrize("sweep", ["sweeps/LIDAR_TOP/b.bin", "samples/LIDAR_TOP/b.bin"])
def test_nuscenes_layout_is_mmdet3ds(sweep):
    info = with_short_names(entry("samples/LIDAR_TOP/a.bin", sweep))
    assert info == entry("a.bin", sweep, "a.jpg")
    assert sensor_file(info, Path("/root"), "LIDAR_TOP", "a.bin") == Path("/root/samples/LIDAR_TOP/a.bin")
    assert sensor_file(info, Path("/root"), "LIDAR_TOP", sweep, keyframe=False) == Path("/root", sweep)
    foreign = f"./data/nuscenes/{sweep}"  # mmdet3d's converter writes sweeps so
    assert sensor_file(info, Path("/root"), "LIDAR_TOP", foreign, keyframe=False) == Path("/root", sweep)
