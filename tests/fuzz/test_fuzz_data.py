"""Spoiled data sets and info files: used, or refused in one line that names the file or its folder."""

from __future__ import annotations

import functools
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz_cases import as_json, explore, one_clear_line, refuses, refuses_command
from fuzz_mutations import spoiled_bytes, spoiled_tree
from hypothesis import strategies as st
from worlds import linked_copy, replace, smallest_world

from aqr_bench.data.check.check import check_root
from aqr_bench.data.dataset import load_data
from aqr_bench.data.dbinfos import read_dbinfos
from aqr_bench.data.raw_frames import BadFrameError, InfoFile, read_cloud, read_image
from aqr_bench.world.statistics import main as statistics

_SENSORS = ("sample_data", "calibrated_sensor", "ego_pose")
TABLES = ("scene", "sample", "sample_annotation", "instance", "category", *_SENSORS)


def json_or_bytes(content: bytes) -> st.SearchStrategy[bytes]:
    """A JSON file with other values, or with other bytes."""
    return as_json(spoiled_tree(json.loads(content))).map(str.encode) | spoiled_bytes(content, b"PK\x03\x04")


@pytest.fixture
def place(tmp_path) -> Path:
    return linked_copy(smallest_world(), tmp_path / "place")


def test_spoiled_tables_are_found_by_the_check_and_refused_by_what_reads_them(place):
    folder, root = place / "world" / "v1.0-mini", place / "world"
    full = {name: (folder / f"{name}.json").read_bytes() for name in TABLES}
    cases = st.sampled_from(TABLES).flatmap(lambda name: st.tuples(st.just(name), json_or_bytes(full[name])))

    def check(case: tuple[str, bytes]) -> bool:
        name, content = case
        replace(folder / f"{name}.json", content)
        try:
            report = check_root(root, samples=1)
            for line in report.lines():
                line.encode()
                assert line.isprintable() and "Traceback" not in line
            json.dumps(report.as_dict())
            command = ("data", "--version", "v1.0-mini", "--root", root, "--out", place / "new", "--quiet")
            refused = refuses_command(*command)
            assert refused == (not (place / "new" / "data.json").exists()), "info files of a data set that was refused"
            refuses_command(root, main=statistics)
        finally:
            replace(folder / f"{name}.json", full[name])
            for file in (place / "new").glob("*"):
                file.unlink()
        return refused

    explore("nuScenes tables", 8, cases, check)


def test_spoiled_world_descriptions_are_refused(place):
    path = place / "world" / "world.json"
    full = path.read_bytes()

    def check(content: bytes) -> bool:
        replace(path, content)
        report = check_root(place / "world", samples=0)
        assert all(line.isprintable() for line in report.lines())
        tier = place / "tier.yaml"
        tier.write_text("data: {kind: synthetic, version: v1.0-mini}\nworld: {train_scenes: 1, val_scenes: 1}\n")
        # Another world than the one that is there: it may only be replaced if it says that it is one of ours.
        return refuses_command("world", "--tier", tier, "--out", path / "below", "--quiet", paths=(path,))

    explore("world.json", 5, json_or_bytes(full), check)


@pytest.mark.parametrize("kind", ["LIDAR_TOP", "CAM_FRONT"])
def test_spoiled_recordings_are_named_or_used(kind, place):
    path = next((place / "world" / "samples" / kind).iterdir())
    full, read = path.read_bytes(), read_cloud if kind == "LIDAR_TOP" else read_image

    def check(content: bytes) -> bool:
        replace(path, content)
        assert all(line.isprintable() for line in check_root(place / "world", samples=99).lines())
        try:
            read(path)
        except BadFrameError as error:
            one_clear_line(str(error), names=path.name, paths=(path,))
            return True
        return False

    explore(f"recordings of {kind}", 5, spoiled_bytes(full, b"\xff\xd8\xff\xe0"), check)


def test_spoiled_info_summaries_are_refused(place):
    path = place / "infos" / "data.json"

    def check(content: bytes) -> bool:
        replace(path, content)

        def use() -> None:
            data = load_data(path.parent)
            os.fsencode(data.root / data.version / data.sha256)

        return refuses(use, names="data.json", paths=(path,))

    explore("data.json of info files", 15, json_or_bytes(path.read_bytes()), check)


def spoiled_pickle(content: bytes) -> st.SearchStrategy[bytes]:
    return spoiled_tree(pickle.loads(content)).map(pickle.dumps) | spoiled_bytes(content, b"\x80\x04N.")


def test_spoiled_info_files_are_refused_or_drawn(place):
    path, root = place / "infos" / "infos_val.pkl", place / "world"

    def use() -> None:
        info_file = InfoFile(path, root)
        if info_file.infos:
            info_file.frame(0)

    def check(content: bytes) -> bool:
        replace(path, content)
        return refuses(functools.partial(_as_preview, use, path), names=path.name, paths=(path, root))

    explore("info files", 20, spoiled_pickle(path.read_bytes()), check)


def _as_preview(use: Callable[[], None], path: Path) -> None:
    from aqr_bench.corruptions import FrameError
    from aqr_bench.errors import UserError

    try:
        use()
    except (BadFrameError, FrameError) as error:  # `corruptions preview` tells these with the file
        raise UserError(f"{path}: {error}") from None


def test_spoiled_object_databases_are_refused(tmp_path):
    import numpy as np

    path = tmp_path / "dbinfos_train.pkl"
    entry = dict(name="car", path="a.bin", image_path="", box3d_lidar=np.zeros(9), num_points_in_gt=3, difficulty=0)
    full = pickle.dumps({"car": [{**entry, "image_idx": "t", "gt_idx": 0, "image_crop_key": ""}]})

    def check(content: bytes) -> bool:
        path.write_bytes(content)
        return refuses(lambda: read_dbinfos(path), names=path.name, paths=(path,))

    explore("object databases", 10, spoiled_pickle(full), check)
