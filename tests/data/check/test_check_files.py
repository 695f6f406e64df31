"""`data check` on the files of synthetic worlds, intact and damaged."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from damaged_worlds import edit, errors

from aqr_bench.data.check.check import check_root, main
from aqr_bench.data.check.files import Recordings, check_presence, cloud_fault, draw
from aqr_bench.data.check.finding import Finding, about_names
from aqr_bench.data.check.tables import read_rows


def test_faults_of_files_are_distinguished_and_counted(copy):
    folder = copy / "samples/CAM_FRONT"
    names = sorted(path.name for path in folder.iterdir())
    (folder / names[0]).unlink()
    (folder / names[1]).unlink()
    (folder / names[2]).unlink()
    (folder / names[2]).symlink_to("gone.jpg")
    (folder / names[3]).unlink()
    (folder / names[3]).mkdir()
    (folder / names[4]).unlink()
    (folder / names[4]).symlink_to(names[4])  # to itself
    (folder / names[5]).write_bytes(b"")
    faults = {finding.what: set(finding.names) for finding in check_root(copy).findings}
    assert faults == {
        "samples/CAM_FRONT, 2 of 6 files missing": {names[0], names[1]},
        "samples/CAM_FRONT, 3 of 6 files not a file, or a link that leads nowhere": {names[2], names[3], names[4]},
        "samples/CAM_FRONT, 1 of 6 files empty": {names[5]},
    }


def test_a_folder_that_is_missing_is_one_line(copy):
    shutil.rmtree(copy / "samples")
    assert [line.split(", ")[0] for line in errors(copy)] == [
        f"error: files: samples/{channel}"
        for channel in (
            "CAM_BACK",
            "CAM_BACK_LEFT",
            "CAM_BACK_RIGHT",
            "CAM_FRONT",
            "CAM_FRONT_LEFT",
            "CAM_FRONT_RIGHT",
            "LIDAR_TOP",
        )
    ]


def test_files_of_radars_are_looked_for_but_not_needed(copy):
    def add_radar(rows: list[dict]) -> None:
        rows.append(rows[0] | {"token": "radar", "calibrated_sensor_token": "r", "filename": "samples/RADAR/1.pcd"})

    (copy / "world.json").unlink()
    edit(copy, "sensor", lambda rows: rows.append({"token": "r", "channel": "RADAR", "modality": "radar"}))
    edit(copy, "calibrated_sensor", lambda rows: rows.append(rows[0] | {"token": "r", "sensor_token": "r"}))
    edit(copy, "sample_data", add_radar)
    (finding,) = check_root(copy, partial=True, samples=0).findings
    assert finding.warning and "samples/RADAR, the folder of 1 file (of sensors that are not used here)" in finding.what
    assert main(["--root", str(copy), "--partial", "--quiet"]) == 0


def test_names_that_no_file_has(copy):
    edit(copy, "sample_data", lambda rows: [r.update(filename=n) for r, n in zip(rows, HOSTILE_NAMES, strict=False)])
    line = next(line for line in errors(copy) if "outside of ROOT" in line)
    assert f"names {len(HOSTILE_NAMES) - 3} paths outside of ROOT: /etc/passwd, ../x, a/../../x and 2 more" in line


HOSTILE_NAMES = ["/etc/passwd", "../x", "a/../../x", "a\0b", "\ud800", "x" * 5000, "samples", "ünïcödé/✓ .jpg"]


def test_all_sweeps_are_looked_for_and_drawn_ones_are_opened(copy):
    sweeps = sorted((copy / "sweeps/LIDAR_TOP").iterdir())
    for path in sweeps:
        path.write_bytes(path.read_bytes()[:-1])
    assert errors(copy, samples=0) == []
    assert "cut short (no multiple of 20 bytes): sweeps/LIDAR_TOP" in errors(copy, samples=10**9)[0]
    sweeps[0].unlink()
    assert f"1 of {len(sweeps)} files missing: {sweeps[0].name}" in errors(copy, samples=0)[0]


def test_drawn_files_follow_the_seed_and_are_complete_samples():
    count = 700
    files = Recordings(
        names=[str(i) for i in range(count)],
        channel=np.arange(count) % 7,
        keyframe=np.arange(count) < 350,
        sample=np.arange(count) // 7,
        size=np.zeros((count, 2), np.int64),
    )
    there = np.ones(count, bool)
    first, again, other = (draw(files, there, 5, seed) for seed in (1, 1, 2))
    assert first == again != other
    keys = [i for i in first if i < 350]
    assert len(keys) == 35 and len(first) == 40 and len({i // 7 for i in keys}) == 5
    assert len(draw(files, there, 10**6, 0)) == count
    there[:] = False
    assert draw(files, there, 5, 0) == []
    folders = check_presence(Path("/nowhere"), files, lambda items, what: items)[0]
    assert [finding.count for finding in folders] == [count]


def test_a_full_revolution_has_a_return_in_every_sector(tmp_path):
    angle = np.radians(np.arange(0, 360, 0.5))
    points = np.zeros((len(angle), 5), np.float32)
    points[:, 0], points[:, 1], points[:, 4] = 9 * np.cos(angle), 9 * np.sin(angle), np.arange(len(angle)) % 32
    path = tmp_path / "turn.bin"
    for missing, odd in ((0, False), (40, False), (75, True), (720, True)):
        for turned in range(0, 360, 40):
            part = np.roll(points, -2 * turned, axis=0)[missing * 2 :]
            # The car itself, which is seen all around, does not count.
            np.concatenate([part, points * np.float32([0.2, 0.2, 0.2, 1, 1])]).tofile(path)
            fault, cause = cloud_fault(path)
            assert (bool(fault), cause) == (odd, "scan" if odd else ""), (missing, turned)


# ---------------------------------------------------------------- lines


def test_a_line_names_the_first_few_and_counts_the_rest():
    some = replace(*about_names("files", "some missing", "file", [f"f{i}" for i in range(10)]), remedy="Do so.")
    assert some.line() == "error: files: some missing: f0, f1, f2 and 7 more. Do so."
    assert Finding("maps", "none", "mask", warning=True).line() == "warning: maps: none."
    assert len(about_names("files", "long", "file", ["x" * 10_000])[0].line()) < 200
    assert about_names("files", "none", "file", []) == []


def test_reading_keeps_the_collector_as_it_was(tmp_path):
    import gc

    path = tmp_path / "log.json"
    path.write_text("[")
    for enabled in (False, True):
        (gc.enable if enabled else gc.disable)()
        assert read_rows(path)[1] and gc.isenabled() is enabled
