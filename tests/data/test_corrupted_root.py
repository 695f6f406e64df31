"""Conditions written as nuScenes roots: read without any condition, they give the input of the condition itself."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import stock_mmdet3d as stock
from worlds import shared_world

from aqr_bench.atomic import exclusive_folder
from aqr_bench.cli.corruptions import main
from aqr_bench.corruptions import Cloud
from aqr_bench.data.check.check import main as check
from aqr_bench.data.complete_scenes import CHANNELS
from aqr_bench.data.conditions import SensorCondition
from aqr_bench.data.corrupted_root import JOURNAL, ConditionWriter, open_source, write_conditions
from aqr_bench.data.corrupted_sample import SampleWriter, not_writable_reason
from aqr_bench.data.infos import EXACT, build_infos, open_nuscenes
from aqr_bench.data.manifest import MANIFEST, read_manifest
from aqr_bench.data.nuscenes_dataset import NuScenesDataset
from aqr_bench.data.raw_frames import SWEEP_CLOUDS
from aqr_bench.data.transforms import LoadViewImages
from aqr_bench.errors import UserError
from aqr_bench.metrics.detection import evaluated_truth
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.load import load_suite

VERSION, SWEEPS = "v1.0-mini", 2
# One of each kind: nothing, LiDAR with and without its sweeps, images, calibration, earlier frames, both sensors.
SUITE = """\
name: written
summary: Conditions to be written.
conditions:
  - {name: clean}
  - {name: no_lidar}
  - {name: fewer_beams, corruption: nuscenes_r.beam_reduction, severity: 2}
  - {name: dark, corruption: multicorrupt.dark, severity: 3}
  - {name: extrinsics, corruption: nuscenes_c.spatial_misalignment, severity: 3}
  - {name: stuck, corruption: nuscenes_r.lidar_stuck, severity: 9}
  - {name: lag, corruption: nuscenes_c.temporal_misalignment, severity: 3}
  - {name: sector, corruption: nuscenes_r.limited_fov, severity: 2}
  - {name: motion, corruption: nuscenes_c.motion_compensation, severity: 5}
  - {name: absent, corruption: no_cameras_absent}
"""
STOCK_STEPS = [stock.POINTS, {**stock.SWEEPS, "sweeps_num": SWEEPS, "remove_close": False}, stock.IMAGES]
NAMES = ["clean", "no_lidar", "fewer_beams", "dark", "extrinsics", "stuck", "lag", "sector", "motion"]


@pytest.fixture(scope="module")
def world() -> Path:
    sizes = dict(half_range_m=20, image_size=[48, 32], beams=16, azimuths=64, lidar_sweeps=2)
    spec = dict(train_scenes=1, val_scenes=1, frames_per_scene=4, objects_per_frame=3, **sizes)
    return shared_world(**spec) / "world"


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "written.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="module")
def written(world, suite, tmp_path_factory) -> Path:
    """All conditions, in a folder below the working directory; the command reports that one is refused."""
    out = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out.parent)
        assert main(["write", str(suite), "--root", str(world), "--out", out.name, "--sweeps", str(SWEEPS)]) == 3
    return out


def fingerprints(root: Path, scratch: Path) -> dict[str, dict]:
    """Of the input of each sample of a root, through the loaders of an evaluation."""
    source = open_source(root, VERSION, "mini_val", SWEEPS, scratch)
    for channel in CHANNELS:
        for kind in ("samples", "sweeps"):
            (scratch / kind / channel).mkdir(parents=True)
    writer = SampleWriter({"name": "clean", "severity": None}, source.infos, root, scratch, SWEEPS, 0)
    return {sample["token"]: sample["fingerprint"] for sample in map(writer, range(len(source.tokens)))}


@pytest.mark.parametrize("name", NAMES)
def test_a_written_root_read_under_clean_gives_the_input_of_the_condition(written, tmp_path, name):
    manifest, clean = (read_manifest(written / folder)[0].samples for folder in (name, "clean"))
    assert len(manifest) == 4 and fingerprints(written / name, tmp_path) == manifest
    assert (manifest == clean) == (name == "clean")


@pytest.mark.parametrize("name", NAMES)
def test_mmdet3d_alone_reads_the_input_of_the_condition(written, world, suite, tmp_path, name):
    """Its converter, data set and loaders. What it does otherwise is done here too: the motion of sweeps, R p + R^T T,
    and the keyframe repeated where there are none (as some stock configs ask for: ``pad_empty_sweeps``).
    """
    theirs = stock.dataset(written / name, stock.convert(written / name, tmp_path), STOCK_STEPS, ())
    source = open_source(world, VERSION, "mini_val", SWEEPS, tmp_path)
    condition = next(c for c in load_suite(suite).conditions if c.name == name)
    paths = {"ann_file": str(source.infos), "data_root": str(source.root), "sweeps_num": SWEEPS}
    steps = [stock.POINTS, LoadViewImages(), SensorCondition(**condition.transform_arguments, **paths)]
    ours = stock.dataset(world, source.infos, steps, (), NuScenesDataset)
    for index in range(len(ours)):
        expected, actual = ours[index], theirs[index]
        key, sweeps = expected["points"].numpy(), expected[SWEEP_CLOUDS].clouds
        key[:, 4] = 0
        moved = [as_mmdet3d_moves(cloud, expected) for cloud in sweeps] or [key] * SWEEPS
        points = actual["points"].numpy()
        np.testing.assert_allclose(points, np.concatenate([key, *moved]), rtol=0, atol=1e-5)  # its infos are float32
        np.testing.assert_array_equal(points[: len(key)], key)
        for view, image in zip(expected["img"], actual["img"], strict=True):
            np.testing.assert_array_equal(view, image)
        for camera, number in zip(actual["images"].values(), range(6), strict=True):
            np.testing.assert_allclose(camera["lidar2cam"], expected["lidar2cam"][number], atol=1e-6)
            np.testing.assert_allclose(camera["cam2img"], np.asarray(expected["cam2img"][number])[:3, :3])


def as_mmdet3d_moves(cloud: Cloud, results: dict) -> np.ndarray:
    points, lidar2sensor = cloud.points.copy(), np.linalg.inv(cloud.to_key)
    points[:, :3] = points[:, :3] @ lidar2sensor[:3, :3] - lidar2sensor[:3, 3]
    points[:, 4] = results["timestamp"] - cloud.time
    return points


def test_the_hashes_are_those_of_the_files(written):
    for name in NAMES:
        manifest, sha256 = read_manifest(written / name)
        assert sha256 == sha256_file(written / name / MANIFEST) and manifest.condition == name
        there = {p.relative_to(written / name).as_posix() for p in written.glob(f"{name}/s*/*/*")}
        assert there == set(manifest.files)
        assert all(sha256_file(written / name / file) == digest for file, digest in manifest.files.items())
    assert {p.is_symlink() for p in written.glob("clean/s*/*/*")} == {True}
    images = set(written.glob("dark/samples/CAM_*/*"))
    assert {p.suffix for p in images} == {".png"} and not any(p.is_symlink() for p in images)
    assert all(p.is_symlink() for p in written.glob("dark/s*/LIDAR_TOP/*"))


def test_what_is_scored_is_the_same(world, written):
    before = evaluated_truth(open_nuscenes(world, VERSION), split="mini_val")
    for name in NAMES:
        after = evaluated_truth(open_nuscenes(written / name, VERSION), split="mini_val")
        assert after.samples.tokens == before.samples.tokens
        for field in fields(before.boxes):
            actual, expected = (np.asarray(getattr(truth.boxes, field.name)) for truth in (after, before))
            np.testing.assert_array_equal(actual, expected)
            assert len(actual), field.name


def test_the_tables_alone_give_the_same_poses_and_times(written):
    """Other readers do not know the exact values that our info files take over."""
    for name in ("extrinsics", "stuck"):
        nusc = open_nuscenes(written / name, VERSION)
        exact = build_infos(nusc, SWEEPS)["val"]
        assert any(row.pop(EXACT, None) for row in nusc.sample_data)
        for info, from_tables in zip(exact, build_infos(nusc, SWEEPS)["val"], strict=True):
            for camera, view in info["images"].items():
                np.testing.assert_allclose(view["lidar2cam"], from_tables["images"][camera]["lidar2cam"], atol=1e-9)
            for a, b in zip(info["lidar_sweeps"], from_tables["lidar_sweeps"], strict=True):
                np.testing.assert_allclose(*(s["lidar_points"]["lidar2sensor"] for s in (a, b)), atol=1e-9)
                assert abs(a["timestamp"] - b["timestamp"]) < 1e-6


def test_a_written_root_passes_the_check_of_data_sets(written, capsys):
    assert check(["--root", str(written / "stuck"), "--version", VERSION, "--partial"]) == 0, capsys.readouterr().out


def test_sensors_that_are_absent_are_refused_by_name(written, world, suite, tmp_path, capsys):
    assert not (written / "absent").exists()
    words = ["write", str(suite), "--root", str(world), "--out", str(tmp_path), "--sweeps", "1"]
    assert main([*words, "--conditions", "absent"]) == 3
    assert "not written: absent: its sensors are absent" in capsys.readouterr().out
    with pytest.raises(UserError, match="suite 'written' has no condition 'darck'"):
        main([*words, "--conditions", "darck"])
    assert [c.name for c in load_suite("missing_sensors_all").conditions if not_writable_reason(c.corruption)] == [
        "no_lidar_absent",
        "no_cameras_absent",
    ]


def test_a_killed_call_resumes_and_its_result_is_the_same(written, world, suite, tmp_path, monkeypatch, capsys):
    condition = next(c for c in load_suite(suite).conditions if c.name == "fewer_beams")
    source = open_source(world, VERSION, "mini_val", SWEEPS, tmp_path)
    write, done = SampleWriter.__call__, []

    def interrupted(self, index):
        done.append(index)
        if done == [0, 1, 2]:
            raise KeyboardInterrupt
        return write(self, index)

    monkeypatch.setattr(SampleWriter, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_conditions("written", [condition], source, tmp_path, SWEEPS, 1)
    with (tmp_path / "fewer_beams" / JOURNAL).open("a") as journal:  # as a kill in the middle of a write leaves it
        journal.write('{"token": "half')
    assert write_conditions("written", [condition], source, tmp_path, SWEEPS, 1) == []
    assert done == [0, 1, 2, 2, 3] and not (tmp_path / "fewer_beams" / JOURNAL).exists()
    # The same bytes, but for tables, which have the same content.
    again, first = (read_manifest(folder / "fewer_beams")[0] for folder in (tmp_path, written))
    assert again == first
    assert write_conditions("written", [condition], source, tmp_path, SWEEPS, 1) == [] and len(done) == 5
    assert "already written" in capsys.readouterr().out
    with pytest.raises(UserError, match="was written with another sweeps"):
        write_conditions("written", [condition], source, tmp_path, SWEEPS - 1, 1)
    foreign = tmp_path / "foreign" / "fewer_beams"
    foreign.mkdir(parents=True)
    (foreign / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds other files; nothing was changed"):
        write_conditions("written", [condition], source, tmp_path / "foreign", SWEEPS, 1)


def test_two_writers_of_one_folder_are_refused_by_name(world, suite, tmp_path):
    words = ["write", str(suite), "--root", str(world), "--out", str(tmp_path), "--sweeps", "1"]
    with exclusive_folder(tmp_path), pytest.raises(UserError, match=f"another process is writing to {tmp_path};"):
        main(words)
    assert not any(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(world, suite, tmp_path, monkeypatch, capsys):
    conditions = [c for c in load_suite(suite).conditions if c.name == "dark"]
    source = open_source(world, VERSION, "mini_val", SWEEPS, tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"but only 0\.0 GB are free"):
        write_conditions("written", conditions, source, tmp_path, SWEEPS, 1)
    assert "1 condition of 4 samples will take about 0.00 GB" in capsys.readouterr().out
    assert not (tmp_path / "dark").exists()


def test_a_damaged_manifest_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no manifest.json in .*not finished"):
        read_manifest(tmp_path)
    for content in ("{", json.dumps({"format": 2}), json.dumps({"format": 1, "samples": {}, "files": {}})):
        (tmp_path / MANIFEST).write_text(content)
        with pytest.raises(UserError, match="manifest of a written condition"):
            read_manifest(tmp_path)


def test_identity_of_a_folder(world, suite, tmp_path):
    """A folder of another condition is not continued."""
    conditions = load_suite(suite).conditions
    source = open_source(world, VERSION, "mini_val", SWEEPS, tmp_path)
    clean, dark = (ConditionWriter(conditions[n], "written", source, tmp_path / "x", SWEEPS) for n in (0, 3))
    clean.write(None)
    assert clean.is_finished()
    with pytest.raises(UserError, match="was written with another condition, settings"):
        dark.is_finished()
