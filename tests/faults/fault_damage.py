"""Files that are cut short or have a bit flipped: checkpoints, images, clouds, tables, info files, records."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

from fault_processes import Done, run
from fault_stages import RESULTS, STAGES, TRAINING, TRAINING_WORK, Place, difference, outcome, remove
from fault_table import Row, verdict

from aqr_bench.records.record import read_run

FAILED_PROMISE = "a failed record that names the file; nothing scored"
RESUME_PROMISE = "the file is named, training goes on from the one before or starts afresh; the same result"
REFUSED_PROMISE = "exit code 2 and one line that names the file; nothing written"


def cut(path: Path, share: float = 0.5) -> None:
    """Keep the first part of a file, of no whole number of points."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share) // 20 * 20 + 7])


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 64
    path.write_bytes(data)


def garble(path: Path) -> None:
    """Zeros in place of the first half."""
    data = path.read_bytes()
    path.write_bytes(b"\0" * (len(data) // 2) + data[len(data) // 2 :])


def copy_of_world(place: Place, folder: Path) -> Path:
    """A world of its own in place of the link to the undisturbed run's."""
    world = folder / RESULTS / "world"
    remove(world)
    place.bring("world", folder, copied=True)
    return world


def sensor_files(place: Place, folder: Path, split: str, kind: str) -> list[Path]:
    """The files of the front camera, or of the LiDAR, of a split's key frames."""
    entries = pickle.loads((place.whole / RESULTS / f"infos/infos_{split}.pkl").read_bytes())["data_list"]
    samples = folder / RESULTS / "world/samples"
    if kind == "image":
        return [samples / "CAM_FRONT" / entry["images"]["CAM_FRONT"]["img_path"] for entry in entries]
    return [samples / "LIDAR_TOP" / entry["lidar_points"]["lidar_path"] for entry in entries]


# ---------------------------------------------------------------- verdicts


def failed(folder: Path, name: str, done: Done, *words: str) -> list[str | None]:
    """Problems, where all records of a stage should have failed with a reason that has the words."""
    if done.code:
        return [f"exit code {done.code}: {done.last_line[:160]}"]
    found = read_run(folder / RESULTS / STAGES[name].done)
    problems: list[str | None] = [None if found else "no record"]
    for record in found:
        problems.append(None if record.status == "failed" else f"{record.condition or 'it'} is {record.status}")
        missing = [word for word in words if word not in (record.reason or "")]
        problems.append(f"the reason does not name {missing}: {record.reason}" if missing else None)
        problems.append("scored all the same" if record.scores else None)
    return problems


def told_by(folder: Path, name: str, place: Place) -> str:
    """The reason of the first record, without what only this machine has."""
    reason = read_run(folder / RESULTS / STAGES[name].done)[0].reason or ""
    for root in (folder, place.whole):
        reason = reason.replace(f"{root}/", "")
    return f"'{reason[:200]}'"


# ---------------------------------------------------------------- cases


def resumed(what: str, damage: Callable[[Path], None], names: tuple[str, ...]) -> Callable[[Place], Row]:
    """A training, killed before its end; the newest of the checkpoints that it left are damaged."""

    def case(place: Place) -> Row:
        stage = STAGES[TRAINING]
        folder = place.before(stage, f"{what}_checkpoint{len(names)}".replace(" ", "_"))
        place.bring(TRAINING_WORK, folder)
        work = folder / RESULTS / TRAINING_WORK
        for name in ("final.pth", "train.done.json"):
            remove(work / name)
        for name in names:
            damage(work / name)
        done = run(folder, stage.command)
        problems = [None if done.code == 0 else f"exit code {done.code}: {done.last_line[:160]}"]
        problems += [None if f"{name} is damaged" in done.text else f"{name} is not named" for name in names]
        problems.append("a traceback" if "Traceback" in done.text else None)
        problems.append(difference(outcome(folder, stage), place.expected[TRAINING]))
        told = next((line for line in done.text.splitlines() if "damaged" in line), "")
        seen, kept = verdict(problems, f"'{told.replace(str(folder) + '/', '')[:200]}'; the same")
        which = "last" if len(names) == 1 else "every"
        return Row(f"{what}: {which} checkpoint", TRAINING, RESUME_PROMISE, seen, kept)

    return case


def broken_input(
    what: str, name: str, piece: str, damage: Callable[[Path], None], *words: str, whole: bool = False
) -> Callable[[Place], Row]:
    """A file that a stage starts from is damaged: its records fail and name it.

    ``whole``: as a refusal, exit code 2 and no record.
    """

    def case(place: Place) -> Row:
        stage = STAGES[name]
        folder = place.before(stage, f"{what}_{name}".replace(" ", "_").replace(":", ""))
        if piece.startswith("world"):
            copy_of_world(place, folder)
        damage(folder / RESULTS / piece)
        done = run(folder, stage.command)
        if whole:
            left = (folder / RESULTS / stage.done).is_file()
            problems = [done.refused(*words), f"{stage.done} was written" if left else None]
            fine = f"'{done.told.replace(str(folder) + '/', '')[:200]}'" if not any(problems) else ""
        else:
            problems = failed(folder, name, done, *words)
            fine = told_by(folder, name, place) if not any(problems) else ""
        return Row(what, name, REFUSED_PROMISE if whole else FAILED_PROMISE, *verdict(problems, fine))

    return case


def broken_sensor(kind: str, how: str, damage: Callable[[Path], None], name: str) -> Callable[[Place], Row]:
    """A file of the front camera, or of the LiDAR, is damaged: in evaluation the first, in training every one."""

    def case(place: Place) -> Row:
        stage = STAGES[name]
        folder = place.before(stage, f"{how}_{kind}_{name}".replace(" ", "_"))
        copy_of_world(place, folder)
        files = sensor_files(place, folder, "val" if name == "evaluate" else "train", kind)
        files = files[:1] if name == "evaluate" else files
        for file in files:
            damage(file)
        done = run(folder, stage.command)
        problems = failed(folder, name, done)
        reasons = [] if any(problems) else [r.reason or "" for r in read_run(folder / RESULTS / stage.done)]
        named = all(any(file.name in reason for file in files) for reason in reasons)
        problems.append(None if named else f"the file is not named: {reasons[:1]}")
        fine = told_by(folder, name, place) if not any(problems) else ""
        return Row(f"{how}: {kind}", name, FAILED_PROMISE, *verdict(problems, fine))

    return case


def flipped_cloud(place: Place) -> Row:
    """One bit in the middle of a LiDAR cloud: nuScenes has no check sums, so that only the input's hash can tell."""
    stage = STAGES["evaluate"]
    folder = place.before(stage, "flipped_cloud")
    copy_of_world(place, folder)
    flip(sensor_files(place, folder, "val", "cloud")[0])
    done = run(folder, stage.command)
    problems = [None if done.code == 0 else f"exit code {done.code}: {done.last_line[:160]}"]
    if done.code == 0:
        known = {r.condition: r.provenance["input_sha256"] for r in read_run(place.whole / RESULTS / stage.done)}
        found = read_run(folder / RESULTS / stage.done)
        problems += [None if r.ok else f"{r.condition} is {r.status}: {r.reason}" for r in found]
        changed = {r.condition: r.provenance["input_sha256"] != known[r.condition] for r in found}
        seen_by = changed["clean"] and changed["no_cameras"] and not changed["no_lidar"]
        problems.append(None if seen_by else f"hash of the input changed: {changed}")
    promise = "not noticed: nuScenes has no check sums; the hash of the input in the record is another one"
    fine = "evaluated; another input hash wherever the LiDAR is used, and there alone"
    return Row("one bit flipped: cloud", "evaluate", promise, *verdict(problems, fine))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _without_end(path: Path) -> None:
    """As ``cut``, but for a text."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


_SENSOR_DAMAGE = (("cut", "cut short", cut), ("empty", "empty", _empty), ("garbled", "first half zeros", garble))
_LAST, _EVERY = ("iter_5.pth",), ("iter_5.pth", "iter_4.pth")
DAMAGE = {
    "cut_checkpoint": resumed("cut short", cut, _LAST),
    "flipped_checkpoint": resumed("one bit flipped", flip, _LAST),
    "cut_checkpoints": resumed("cut short", cut, _EVERY),
    "flipped_final": broken_input("one bit flipped: final checkpoint", "evaluate", "work/smoke/cross/seed0/final.pth",
                                  flip, "final.pth", "SHA-256 differs"),
    "cut_final": broken_input("cut short: final checkpoint", "variant", "work/base/seed0/final.pth",
                              cut, "final.pth", "SHA-256 differs"),
    "cut_record": broken_input("cut short: record", "evaluate", "smoke/cross/seed0/train.jsonl",
                               _without_end, "train.jsonl", "damaged record, line 1"),
    "cut_base_record": broken_input("cut short: record", "variant", "base/seed0/train.jsonl",
                                    _without_end, "train.jsonl", "damaged record, line 1"),
    "cut_table": broken_input("cut short: JSON table", "infos", "world/v1.0-mini/sample_data.json",
                              _without_end, "sample_data.json is damaged", whole=True),
    "cut_table_evaluate": broken_input("cut short: JSON table", "evaluate", "world/v1.0-mini/sample_annotation.json",
                                       _without_end, "sample_annotation.json is not what", whole=True),
    "cut_data_json": broken_input("cut short: data.json", "base", "infos/data.json",
                                  _without_end, "infos/data.json (JSONDecodeError", whole=True),
    "cut_info_file": broken_input("cut short: info file", "base", "infos/infos_train.pkl",
                                  _without_end, "infos_train.pkl is not the file", whole=True),
    "cut_info_file_evaluate": broken_input("cut short: info file", "evaluate", "infos/infos_val.pkl",
                                           _without_end, "infos_val.pkl is not the file", whole=True),
    **{
        f"{short}_{kind}_{name}": broken_sensor(kind, how, damage, name)
        for short, how, damage in _SENSOR_DAMAGE
        for kind in ("image", "cloud")
        for name in (TRAINING, "evaluate")
        # An empty cloud is a cloud without points, zeros are points at the sensor: both can be what was recorded.
        if short == "cut" or (kind == "image" and name == "evaluate")
    },
    "flipped_cloud": flipped_cloud,
}  # fmt: skip
