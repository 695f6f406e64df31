"""The commands score and compare --slices at the size of nuScenes val: seconds and peak memory of each.

python benchmarks/score_command.py [--samples 6019] [--boxes 300] [--recordings 0] [--out benchmarks/results/NAME.json]

Tables and a submission are generated (those of detection_metric.py), written as files and read by the commands, each a
process of its own. The tables are of the val scenes alone; --recordings adds so many sweeps, images and poses to them
(2625064 for as many rows as v1.0-trainval has), which nobody scores but which are in the same files.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from detection_metric import CATEGORIES, Tables, make_tables, write_submission

from aqr_bench.metrics.ground_truth import VISIBILITY_LEVELS
from aqr_bench.records.provenance import machine

SENSORS = {"LIDAR_TOP": "lidar", "CAM_FRONT": "camera"}
VERSION = "v1.0-trainval"
RACK = "static_object.bicycle_rack"
WEATHER = ("Parked cars", "Night, bus stop", "Rain, big street", "Night, rain")


def write_tables(tables: Tables, folder: Path, recordings: int) -> None:
    """The thirteen tables of a nuScenes root; objects are instances, the LiDAR is the only sensor that is scored by."""
    folder.mkdir(parents=True)
    kinds = [*(category for category, _ in CATEGORIES.values()), RACK]
    scene_of = {sample["token"]: sample["scene_token"] for sample in tables.sample}
    sample_of = {token: sample["token"] for sample in tables.sample for token in sample["anns"]}
    rng = np.random.default_rng(0)
    instances: dict[str, dict] = {}
    annotations = []
    for row in tables.sample_annotation:
        instance = f"{scene_of[sample_of[row['token']]]}-{row['token'][16:]}"
        category = {"token": instance, "category_token": row["category_name"]}
        instances.setdefault(instance, category)
        new = {"sample_token": sample_of[row["token"]], "instance_token": instance}
        new["visibility_token"] = str(rng.integers(1, 5))
        annotations.append({key: v for key, v in row.items() if key != "category_name"} | new)
    rows: dict[str, list[dict]] = {
        "category": [{"token": kind, "name": kind} for kind in kinds],
        "attribute": tables.attribute,
        "visibility": [{"token": str(number), "level": level} for number, level in enumerate(VISIBILITY_LEVELS, 1)],
        "instance": list(instances.values()),
        "sensor": [{"token": name, "channel": name, "modality": modality} for name, modality in SENSORS.items()],
        "calibrated_sensor": [{"token": name, "sensor_token": name} for name in SENSORS],
        "log": [{"token": "log"}],
        "map": [{"token": "map", "log_tokens": ["log"], "filename": "maps/none.png"}],
        "scene": [
            {**scene, "log_token": "log", "description": WEATHER[number % len(WEATHER)]}
            for number, scene in enumerate(tables.scene)
        ],
        "sample": [{key: v for key, v in s.items() if key not in ("anns", "data")} for s in tables.sample],
        "sample_annotation": annotations,
    }
    for name, content in rows.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    _write_recordings(tables, folder, recordings)


def _write_recordings(tables: Tables, folder: Path, more: int) -> None:
    """sample_data.json and ego_pose.json, row by row: they are the large ones."""
    first = tables.sample[0]["token"]
    with (folder / "sample_data.json").open("w") as data, (folder / "ego_pose.json").open("w") as poses:
        for number, sample in enumerate([*tables.sample, *range(more)]):
            key = isinstance(sample, dict)
            token = sample["token"] if key else f"{sample:032x}".replace("0", "a", 8)
            pose = tables.get("ego_pose", token) if key else {"translation": [1e3, 1e3, 0.0], "rotation": [1, 0, 0, 0]}
            row = {"token": token, "sample_token": token if key else first, "ego_pose_token": token}
            row |= {"calibrated_sensor_token": "LIDAR_TOP" if key else "CAM_FRONT", "timestamp": 1_500_000_000_000_000}
            row |= {"filename": f"samples/LIDAR_TOP/n015-2018-07-11-11-54-16+0800__LIDAR_TOP__{number}.pcd.bin"}
            row |= {"fileformat": "pcd", "is_key_frame": key, "height": 0, "width": 0, "prev": token, "next": token}
            separator = "[" if not number else ","
            data.write(separator + json.dumps(row))
            poses.write(separator + json.dumps({**pose, "token": token, "timestamp": 1_500_000_000_000_000}))
        data.write("]")
        poses.write("]")


def measured(name: str, *arguments: str) -> dict[str, Any]:
    """Wall and CPU seconds and peak memory of a command; SystemExit where it fails."""
    start, child = time.perf_counter(), os.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-m", "aqr_bench", *arguments])
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{name} failed")
    seconds = {"wall_s": time.perf_counter() - start, "cpu_s": usage.ru_utime + usage.ru_stime}
    return {key: round(value, 1) for key, value in {**seconds, "peak_gb": usage.ru_maxrss / 2**20}.items()}


def main(argv: list[str] | None = None) -> int:
    """Generate, run, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=6019)
    parser.add_argument("--boxes", type=int, default=300)
    parser.add_argument("--recordings", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help="where to keep the generated data; default: a temporary folder")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        root = folder / "root"
        if not root.exists():
            tables = make_tables(args.samples, np.random.default_rng(0))
            for number in (1, 2):  # the same detections twice: it is time that is compared
                (folder / f"model{number}").mkdir(parents=True)
            write_submission(folder / "model1" / "clean.json", tables, args.boxes, np.random.default_rng(1))
            (folder / "model2" / "clean.json").symlink_to(folder / "model1" / "clean.json")
            write_tables(tables, root / VERSION, args.recordings)
            del tables
        records = [str(folder / f"model{number}.jsonl") for number in (1, 2)]
        runs = {}
        for number, record in enumerate(records, 1):
            words = [str(folder / f"model{number}"), "--root", str(root), "--out", record]
            runs[f"score {number}"] = measured("score", "score", *words)
        runs["compare"] = measured("compare", "compare", *records)
        runs["compare --slices"] = measured("compare", "compare", *records, "--slices")
    result = {"samples": args.samples, "boxes_per_sample": args.boxes, "recordings": args.recordings, "runs": runs}
    text = json.dumps({**result, "machine": machine()}, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
