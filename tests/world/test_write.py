"""Writing a world: the same bytes whoever writes them, atomically, and other files are not touched."""

from __future__ import annotations

import fcntl
import filecmp
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aqr_bench import errors
from aqr_bench.errors import UserError
from aqr_bench.world import write, write_scene
from aqr_bench.world.__main__ import main
from aqr_bench.world.spec import WorldSpec
from aqr_bench.world.write import estimate_bytes, write_world

SMALL = {"version": "v1.0-mini", "train_scenes": 2, "val_scenes": 1, "frames_per_scene": 2, "azimuths": 180}
SMALL |= {"objects_per_frame": 6, "image_size": [64, 48]}


@pytest.fixture(scope="module")
def spec() -> WorldSpec:
    return WorldSpec.from_dict(SMALL)


@pytest.fixture(scope="module")
def reference(spec, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("reference") / "world"
    write_world(spec, root)
    return root


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def assert_same(root: Path, other: Path) -> None:
    assert tree(root) == tree(other)
    match, mismatch, failed = filecmp.cmpfiles(root, other, tree(root), shallow=False)
    assert not mismatch and not failed and match


def tier_file(folder: Path, **changes) -> Path:
    path = folder / "tier.yaml"
    world = {key: value for key, value in (SMALL | changes).items() if key != "version"}
    path.write_text(json.dumps({"name": "t", "data": {"kind": "synthetic", "version": "v1.0-mini"}, "world": world}))
    return path


def test_the_number_of_workers_changes_no_byte(spec, reference, tmp_path):
    done = write_world(spec, tmp_path / "world", workers=2)
    assert_same(tmp_path / "world", reference)
    assert done == json.loads((reference / "world.json").read_text())
    assert os.listdir(tmp_path) == ["world"]


def test_another_seed_changes_everything(spec, reference, tmp_path):
    other = write_world(WorldSpec.from_dict(SMALL | {"seed": 2}), tmp_path / "world")
    base = json.loads((reference / "world.json").read_text())
    for key in ("sha256", "files_sha256", "tables_sha256"):
        assert other[key] != base[key]
    first, second = ({p.read_bytes() for p in (r / "samples").rglob("*.*g")} for r in (reference, tmp_path / "world"))
    assert len(first) == 36 and not first & second


def test_an_existing_world_is_not_changed(spec, reference, capsys):
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*")}
    write_world(spec, reference, quiet=False)
    assert "nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in reference.rglob("*")}


def test_another_world_is_replaced(spec, reference, tmp_path, capsys):
    root = tmp_path / "world"
    write_world(WorldSpec.from_dict(SMALL | {"seed": 2, "train_scenes": 3}), root)
    write_world(spec, root, quiet=False)
    assert "will be replaced" in capsys.readouterr().out
    assert_same(root, reference)
    assert os.listdir(tmp_path) == ["world"]


def test_a_world_without_its_world_json_is_written_again(spec, reference, tmp_path):
    """Workflow managers delete the declared output before they run a job again, and make its folder."""
    root = tmp_path / "world"
    shutil.copytree(reference, root)
    (root / "world.json").unlink()
    (root / "samples" / "LIDAR_TOP" / "stray.pcd.bin").write_bytes(b"x")
    write_world(spec, root)
    assert_same(root, reference)


def test_an_empty_folder_or_a_link_to_one_is_fine(spec, reference, tmp_path):
    (tmp_path / "disk" / "world").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "world")
    write_world(spec, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert_same(tmp_path / "disk" / "world", reference)


@pytest.mark.parametrize("name", ["world", "world.partial"])
def test_a_foreign_folder_is_refused_and_untouched(spec, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="no synthetic world"):
        write_world(spec, tmp_path / "world")
    assert tree(tmp_path) == [f"{name}/thesis.txt"]


def test_a_file_in_the_way_is_refused(spec, tmp_path):
    (tmp_path / "world").write_text("mine")
    with pytest.raises(UserError, match="is not a folder"):
        write_world(spec, tmp_path / "world")
    assert (tmp_path / "world").read_text() == "mine"


def test_a_damaged_world_json_is_reported(spec, reference, tmp_path):
    root = tmp_path / "world"
    shutil.copytree(reference, root)
    (root / "world.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        write_world(spec, root)


def test_an_error_amid_the_scenes_leaves_no_world_and_loses_no_scene(spec, reference, tmp_path, monkeypatch, capsys):
    root, real, recorded = tmp_path / "world", write_scene.run, []

    def breaks_at_the_second(*call):
        if len(recorded) == 1:
            (Path(call[4]) / "samples/CAM_BACK/half-written.jpg").write_bytes(b"")
            raise KeyboardInterrupt
        recorded.append(call[3])
        return real(*call)

    monkeypatch.setattr(write_scene, "run", breaks_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_world(spec, root)
    assert not root.exists() and (tmp_path / "world.partial").is_dir()

    (tmp_path / "world.partial/samples/CAM_BACK/half-written.jpg").unlink()
    monkeypatch.setattr(write_scene, "run", lambda *call: (recorded.append(call[3]), real(*call))[1])
    write_world(spec, root, quiet=False)
    assert "1 of 3 scenes are there" in capsys.readouterr().out
    assert recorded == ["scene-0061", "scene-0553", "scene-0103"]
    assert_same(root, reference)


@pytest.mark.parametrize("step", ["_map_mask", "write_text", "_move"])
def test_an_error_while_finishing_is_recovered_from(spec, reference, tmp_path, monkeypatch, step):
    root, real = tmp_path / "world", getattr(write, step)

    def breaks(*args):
        if step == "write_text" and args[0].name == write.MARKER:
            return real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(write, step, breaks)
    with pytest.raises(KeyboardInterrupt):
        write_world(spec, root)
    assert not root.exists()
    monkeypatch.setattr(write, step, real)
    write_world(spec, root)
    assert_same(root, reference)
    assert os.listdir(tmp_path) == ["world"]


def test_an_error_between_the_two_renames_is_recovered_from(spec, reference, tmp_path, monkeypatch):
    root, real = tmp_path / "world", os.rename
    write_world(WorldSpec.from_dict(SMALL | {"seed": 2}), root)

    def breaks_at_the_second(source, target):
        if str(source).endswith(".partial"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "rename", breaks_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_world(spec, root)
    monkeypatch.setattr(os, "rename", real)
    assert not root.exists()
    write_world(spec, root)
    assert_same(root, reference)
    assert os.listdir(tmp_path) == ["world"]


def test_what_an_interrupted_run_of_another_spec_left_is_not_used(spec, reference, tmp_path, monkeypatch):
    root, real, count = tmp_path / "world", write_scene.run, []
    monkeypatch.setattr(write_scene, "run", lambda *call: real(*call) if not count else 1 / 0)
    monkeypatch.setattr(write, "_map_mask", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_world(WorldSpec.from_dict(SMALL | {"seed": 2}), root)
    monkeypatch.undo()
    write_world(spec, root)
    assert_same(root, reference)


def test_killed_without_warning_it_resumes(tmp_path):
    """A real SIGKILL amid a run with two workers: no world, no worker left behind, and the next run finishes it."""
    changes = {"train_scenes": 5, "val_scenes": 1, "frames_per_scene": 5}
    tier, root = tier_file(tmp_path, **changes), tmp_path / "world"
    command = [sys.executable, "-m", "aqr_bench", "world", "--tier", str(tier), "--out", str(root), "--workers", "2"]
    process = subprocess.Popen([*command, "--quiet"], start_new_session=True)
    scenes = tmp_path / "world.partial" / "_scenes"
    deadline = time.monotonic() + 60
    while not list(scenes.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(list(scenes.glob("*.json")))
    assert 0 < finished < 6 and not root.exists()
    while time.monotonic() < deadline:  # its workers end by themselves
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("a worker process outlived its parent")
    done = subprocess.run([*command[:-1], "1"], capture_output=True, text=True, check=True)
    assert "interrupted run" in done.stdout and (root / "world.json").is_file()
    fresh = tmp_path / "fresh"
    assert main(["--tier", str(tier), "--out", str(fresh), "--workers", "1", "--quiet"]) == 0
    assert_same(root, fresh)


def test_two_writers_do_not_mix(spec, tmp_path):
    partial = tmp_path / "world.partial"
    partial.mkdir()
    handle = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is writing"):
            write_world(spec, tmp_path / "world")
    finally:
        os.close(handle)


def test_a_full_disk_is_reported_before_the_start(spec, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(errors.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="a world of this size needs"):
        write_world(spec, tmp_path / "world")
    assert not os.listdir(tmp_path)


def test_the_estimate_is_a_bound_and_not_far_off(tiny_spec, tiny_root):
    size = sum(path.stat().st_size for path in tiny_root.rglob("*") if path.is_file())
    assert size < estimate_bytes(tiny_spec) < 3 * size


@pytest.mark.parametrize("extreme", [
    {"beams": 2, "azimuths": 32, "image_size": [16, 16], "objects_per_frame": 1, "distractor_ratio": 0,
     "dropout": [0.95, 0.95], "lidar_sweeps": 0, "train_scenes": 0, "frames_per_scene": 2},
    {"image_size": [101, 57], "lidar_sweeps": 3, "camera_sweeps": 2, "keyframe_interval_s": 0.1, "half_range_m": 60,
     "night_share": 1, "size_jitter": 0.4, "light": [2, 2], "frames_per_scene": 3, "objects_per_frame": 25},
])  # fmt: skip
def test_extreme_worlds_load(tmp_path, extreme):
    from nuscenes import NuScenes

    spec = WorldSpec.from_dict(SMALL | extreme)
    write_world(spec, tmp_path / "world")
    nusc = NuScenes("v1.0-mini", str(tmp_path / "world"), verbose=False)
    assert len(nusc.sample) == spec.keyframes
    for channel, sweeps in (("LIDAR_TOP", spec.lidar_sweeps), ("CAM_BACK", spec.camera_sweeps)):
        rows = [row for row in nusc.sample_data if row["channel"] == channel]
        assert len(rows) == spec.keyframes * (1 + sweeps)
        assert sum(row["is_key_frame"] for row in rows) == spec.keyframes
        times = [row["timestamp"] for row in rows if row["filename"].split("__")[0].endswith("scene-0103")]
        step = spec.keyframe_interval_s / (1 + sweeps) * 1e6
        assert len(times) > 1 and max(abs(b - a - step) for a, b in itertools.pairwise(times)) <= 1


def test_world_json_describes_the_files(spec, reference):
    done = json.loads((reference / "world.json").read_text())
    assert WorldSpec.from_dict(done["spec"]) == spec and done["sha256"] == spec.sha256
    assert done["counts"]["scene"] == 3 and done["counts"]["sample"] == 6
    sensors = [path for kind in ("samples", "sweeps") for path in (reference / kind).rglob("*") if path.is_file()]
    assert done["files"] == len(sensors) == 6 * 8
    assert done["bytes"] == sum(path.stat().st_size for path in sensors)


def test_command_line(reference, tmp_path, capsys):
    assert main(["--tier", str(tier_file(tmp_path)), "--out", str(tmp_path / "world"), "--workers", "1"]) == 0
    assert "3 scenes, 6 keyframes" in capsys.readouterr().out
    assert_same(tmp_path / "world", reference)
    assert main(["--tier", str(tier_file(tmp_path)), "--out", str(tmp_path / "world"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("changes", [{"objects": 3}, {"train_scenes": 99}])
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, changes):
    code = main(["--tier", str(tier_file(tmp_path, **changes)), "--out", str(tmp_path / "world"), "--workers", "1"])
    captured = capsys.readouterr()
    assert code == 2 and captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert not (tmp_path / "world").exists()


def test_a_mistake_in_a_worker_process_is_reported_the_same_way(tmp_path, capsys):
    tier = tier_file(tmp_path, objects_per_frame=50, half_range_m=12, train_scenes=1)
    assert main(["--tier", str(tier), "--out", str(tmp_path / "world"), "--workers", "2", "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("error: the world is too full")


def test_negative_workers_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--tier", str(tier_file(tmp_path)), "--out", str(tmp_path / "world"), "--workers", "-1"])
    assert stop.value.code == 2 and "--workers: must be at least 0, not -1" in capsys.readouterr().err
