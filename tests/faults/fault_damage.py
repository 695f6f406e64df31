"""Files that are cut short or have a bit flipped: checkpoints, images, clouds, tables, info files, records."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

from fault_processes import Done
from fault_stages import RESULTS, TRAINING, TRAINING_WORK, Reference, Trial
from fault_table import Row

from aqr_bench.records.record import read_run

FAILED = "a failed record that names the file; nothing scored"
RESUMED = "the file is named, training goes on from the one before or starts afresh; the same result"
REFUSED = "exit code 2 and one line that names the file; nothing written"
Damage = Callable[[Path], None]
Case = Callable[[Reference], Row]


def cut(path: Path) -> None:
    """Keep the first half of a file, and no whole number of points."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 40 * 20 + 7])


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 64
    path.write_bytes(data)


def garble(path: Path) -> None:
    """Zeros in place of the first half."""
    data = path.read_bytes()
    path.write_bytes(b"\0" * (len(data) // 2) + data[len(data) // 2 :])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_text(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def copy_world(trial: Trial) -> None:
    """A copy of the world in place of the link to the undisturbed run's."""
    trial.remove("world")
    trial.reference.bring("world", trial.folder, copied=True)


def sensor_files(trial: Trial, kind: str) -> list[Path]:
    """Files of the front camera, or of the LiDAR: for evaluation the first keyframe's, for training all of them."""
    split = "val" if trial.stage == "evaluate" else "train"
    infos = trial.reference.folder / RESULTS / f"infos/infos_{split}.pkl"
    entries = pickle.loads(infos.read_bytes())["data_list"][: 1 if split == "val" else None]
    if kind == "image":
        return [trial.path("world/samples/CAM_FRONT") / e["images"]["CAM_FRONT"]["img_path"] for e in entries]
    return [trial.path("world/samples/LIDAR_TOP") / entry["lidar_points"]["lidar_path"] for entry in entries]


def expect_failed(trial: Trial, done: Done, *words: str) -> None:
    """All records of the stage should have failed with a reason that has the words."""
    trial.note(done.not_ended_with(0))
    records = trial.records()
    trial.expect(records, "no record")
    for record in records:
        missing = [word for word in words if word not in (record.reason or "")]
        trial.expect(record.status == "failed", f"{record.condition or 'it'} is {record.status}")
        trial.expect(not missing, f"the reason does not name {missing}: {record.reason}")
        trial.expect(not record.scores, "scored all the same")


def resumed(what: str, damage: Damage, *names: str) -> Case:
    """A training, killed before its end; the newest of the checkpoints that it left are damaged."""

    def case(reference: Reference) -> Row:
        trial = reference.before(TRAINING)
        reference.bring(TRAINING_WORK, trial.folder)
        trial.remove(*(f"{TRAINING_WORK}/{name}" for name in ("final.pth", "train.done.json")))
        for name in names:
            damage(trial.path(TRAINING_WORK) / name)
        done = trial.resumes()
        for name in names:
            trial.expect(f"{name} is damaged" in done.text, f"{name} is not named")
        trial.expect("Traceback" not in done.text, "a traceback")
        message = next((line for line in done.text.splitlines() if "damaged" in line), "")
        message = message.replace(f"{trial.folder}/", "")
        which = "last" if len(names) == 1 else "every"
        return trial.row(f"{what}: {which} checkpoint", RESUMED, f"'{message[:200]}'; the same")

    return case


def broken(what: str, stage: str, piece: str, damage: Damage, *words: str, refused: bool = False) -> Case:
    """A file that a stage starts from is damaged: its records fail and name it, or the command is refused.

    ``piece``: a file below the results, or "image" or "cloud": whichever file is damaged first has to be named.
    """

    def case(reference: Reference) -> Row:
        trial, sensor = reference.before(stage), piece in ("image", "cloud")
        if sensor or piece.startswith("world"):
            copy_world(trial)
        files = sensor_files(trial, piece) if sensor else [trial.path(piece)]
        for file in files:
            damage(file)
        done = trial.run()
        if refused:
            trial.note(done.not_refused(*words))
            trial.expect(not trial.done_file.is_file(), f"{trial.done_file.name} was written")
            return trial.row(what, REFUSED, f"'{done.message.replace(f'{trial.folder}/', '')[:200]}'")
        expect_failed(trial, done, *words)
        if sensor:
            reasons = [record.reason or "" for record in trial.records()]
            named = all(any(file.name in reason for file in files) for reason in reasons)
            trial.expect(named, f"the file is not named: {reasons[:1]}")
        return trial.row(what, FAILED, f"'{trial.reason().replace(f'{trial.folder}/', '')[:200]}'")

    return case


def flipped_cloud(reference: Reference) -> Row:
    """One bit in the middle of a LiDAR cloud: nuScenes has no check sums, so that only the input's hash can tell."""
    trial = reference.before("evaluate")
    copy_world(trial)
    flip(sensor_files(trial, "cloud")[0])
    trial.note(trial.run().not_ended_with(0))
    undisturbed = read_run(reference.folder / RESULTS / trial.done_file.relative_to(trial.path()))
    hashes = {record.condition: record.provenance["input_sha256"] for record in undisturbed}
    for record in trial.records():
        trial.expect(record.ok, f"{record.condition} is {record.status}: {record.reason}")
        changed = record.provenance.get("input_sha256") != hashes[record.condition]
        trial.expect(changed == (record.condition != "no_lidar"), f"{record.condition}: input hash changed: {changed}")
    promise = "not noticed: nuScenes has no check sums; the hash of the input in the record is another one"
    fine = "evaluated; another input hash wherever the LiDAR is used, and there alone"
    return trial.row("one bit flipped: cloud", promise, fine)


_CROSS, _LAST = "smoke/cross/seed0", "iter_5.pth"
_HASH, _LINE = "SHA-256 differs", "damaged record, line 1"
DAMAGE_CASES = {
    "cut_checkpoint": resumed("cut short", cut, _LAST),
    "flipped_checkpoint": resumed("one bit flipped", flip, _LAST),
    "cut_checkpoints": resumed("cut short", cut, _LAST, "iter_4.pth"),
    "flipped_cloud": flipped_cloud,
} | {
    case: broken(what, stage, piece, damage, *words, refused=stage_refuses)
    for case, what, stage, piece, damage, words, stage_refuses in (
        ("flipped_final", "one bit flipped: final checkpoint", "evaluate", f"work/{_CROSS}/final.pth", flip,
         ("final.pth", _HASH), False),
        ("cut_final", "cut short: final checkpoint", "variant", "work/base/seed0/final.pth", cut,
         ("final.pth", _HASH), False),
        ("cut_record", "cut short: record", "evaluate", f"{_CROSS}/train.jsonl", cut_text,
         ("train.jsonl", _LINE), False),
        ("cut_base_record", "cut short: record", "variant", "base/seed0/train.jsonl", cut_text,
         ("train.jsonl", _LINE), False),
        ("cut_table", "cut short: JSON table", "infos", "world/v1.0-mini/sample_data.json", cut_text,
         ("sample_data.json is damaged",), True),
        ("cut_table_evaluate", "cut short: JSON table", "evaluate", "world/v1.0-mini/sample_annotation.json", cut_text,
         ("sample_annotation.json is damaged",), False),
        ("cut_data_json", "cut short: data.json", "base", "infos/data.json", cut_text,
         ("infos/data.json (JSONDecodeError",), True),
        ("cut_info_file", "cut short: info file", "base", "infos/infos_train.pkl", cut_text,
         ("infos_train.pkl is not the file",), True),
        ("cut_info_file_evaluate", "cut short: info file", "evaluate", "infos/infos_val.pkl", cut_text,
         ("infos_val.pkl is not the file",), True),
        *((f"cut_{kind}_{stage}", f"cut short: {kind}", stage, kind, cut, (), False)
          for kind in ("image", "cloud") for stage in (TRAINING, "evaluate")),
        # An empty cloud is a cloud without points, zeros are points at the sensor: both can be what was recorded.
        ("empty_image_evaluate", "empty: image", "evaluate", "image", empty, (), False),
        ("garbled_image_evaluate", "first half zeros: image", "evaluate", "image", garble, (), False),
    )
}  # fmt: skip
