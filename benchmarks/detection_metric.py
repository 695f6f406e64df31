"""Our detection metric against nuscenes-devkit at the size of nuScenes val: time on one core, peak memory, numbers.

python benchmarks/detection_metric.py [--samples 6019] [--boxes 300] [--rounds 3] [--out benchmarks/results/NAME.json]

Tables and a submission are generated. Rounds are interleaved; every run is a process of its own, held on one core, and
reads the same submission file. Times are given on the wall and as CPU time of the process, which is the one to go by
where others use the machine. Besides, every number of both sides is compared.

from_file: all of it. from_memory: ours from entries that are at hand, as in an evaluation, instead of the file; the
devkit scores nothing but files. evaluate: matching, curves and summary alone.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.utils import detection_name_to_rel_attributes
from nuscenes.utils.splits import create_splits_scenes

CATEGORIES = {
    "car": ("vehicle.car", 0.44),
    "truck": ("vehicle.truck", 0.08),
    "bus": ("vehicle.bus.rigid", 0.02),
    "trailer": ("vehicle.trailer", 0.02),
    "construction_vehicle": ("vehicle.construction", 0.015),
    "pedestrian": ("human.pedestrian.adult", 0.2),
    "motorcycle": ("vehicle.motorcycle", 0.0125),
    "bicycle": ("vehicle.bicycle", 0.0125),
    "traffic_cone": ("movable_object.trafficcone", 0.09),
    "barrier": ("movable_object.barrier", 0.11),
}  # about the shares of nuScenes' annotations
RESULT = ("wall_s", "cpu_s", "peak_mb", "tables_mb")
OBJECTS, RACKS = 40, 1  # of a sample, before the filter


class Tables:
    """What the devkit's evaluation asks of NuScenes, from generated records."""

    box_velocity = NuScenes.box_velocity
    version = "v1.0-trainval"

    def __init__(self, **tables: list[dict]) -> None:
        for name, records in tables.items():
            setattr(self, name, records)
        self._by_token = {name: {r["token"]: r for r in records} for name, records in tables.items()}

    def get(self, table: str, token: str) -> dict:
        return self._by_token[table][token]


def make_tables(samples: int, rng: np.random.Generator) -> Tables:
    """Scenes of the val split, 2 Hz, with objects that move on straight lines around a slow vehicle."""
    names = sorted(create_splits_scenes()["val"])
    names = names[: max(1, min(len(names), samples // 8))]
    kinds = [*(category for category, _ in CATEGORIES.values()), "static_object.bicycle_rack"]
    shares = np.array([share for _, share in CATEGORIES.values()])
    attributes = sorted({a for name in DETECTION_NAMES for a in detection_name_to_rel_attributes(name)})
    tables: dict[str, list[dict]] = {n: [] for n in ("scene", "sample", "sample_data", "ego_pose", "sample_annotation")}
    tables["attribute"] = [{"token": f"attribute{i}", "name": name} for i, name in enumerate(attributes)]
    for k, frames in enumerate(np.array_split(np.arange(samples), len(names))):
        tables["scene"].append({"token": f"scene{k}", "name": names[k]})
        kind = np.append(rng.choice(len(CATEGORIES), OBJECTS, p=shares / shares.sum()), [len(CATEGORIES)] * RACKS)
        start = np.c_[rng.normal(0, 25, (len(kind), 2)) + 1000, np.ones(len(kind))]
        speed = np.where(rng.uniform(size=(len(kind), 1)) < 0.4, rng.normal(0, 3, (len(kind), 2)), 0)
        size = np.exp(rng.normal(0, 0.2, (len(kind), 3))) * [1.9, 4.5, 1.7]
        angle = rng.uniform(-np.pi, np.pi, len(kind))
        for step, number in enumerate(frames):
            token = f"{number:032x}"
            pose = [1000 + 0.5 * step, 1000.0, 0.0]
            tables["ego_pose"].append({"token": token, "translation": pose, "rotation": [1, 0, 0, 0]})
            tables["sample_data"].append({"token": token, "ego_pose_token": token})
            annotations = [f"{number:016x}{i:016x}" for i in range(len(kind))]
            stamp = 1_500_000_000_000_000 + int(k) * 10**9 + 500_000 * step
            record = {"token": token, "scene_token": f"scene{k}", "timestamp": stamp, "anns": annotations}
            tables["sample"].append({**record, "data": {"LIDAR_TOP": token}})
            for i, token in enumerate(annotations):
                name = DETECTION_NAMES.index(next((n for n, c in CATEGORIES.items() if c[0] == kinds[kind[i]]), "car"))
                fitting = detection_name_to_rel_attributes(DETECTION_NAMES[name])
                chosen = [f"attribute{attributes.index(fitting[i % len(fitting)])}"] if fitting and i % 17 else []
                tables["sample_annotation"].append(
                    {
                        "token": token,
                        "sample_token": token,
                        "category_name": kinds[kind[i]],
                        "translation": [*(start[i, :2] + 0.5 * step * speed[i]).tolist(), 1.0],
                        "size": size[i].tolist(),
                        "rotation": [float(np.cos(angle[i] / 2)), 0.0, 0.0, float(np.sin(angle[i] / 2))],
                        "attribute_tokens": chosen,
                        "num_lidar_pts": int(rng.integers(0, 20)),
                        "num_radar_pts": 0,
                        "prev": f"{frames[step - 1]:016x}{i:016x}" if step else "",
                        "next": f"{frames[step + 1]:016x}{i:016x}" if step + 1 < len(frames) else "",
                    }
                )
    return Tables(**tables)


def write_submission(path: Path, tables: Tables, boxes: int, rng: np.random.Generator) -> None:
    """Three tries at every object, the first the best, and false detections for the rest; some scores are equal."""
    names = {category: name for name, (category, _) in CATEGORIES.items()}
    shares = np.array([share for _, share in CATEGORIES.values()])
    meta = {f"use_{kind}": True for kind in ("camera", "lidar", "radar", "map", "external")}
    with path.open("w") as file:
        file.write(f'{{"meta": {json.dumps(meta)}, "results": {{')
        for number, sample in enumerate(tables.sample):
            objects = [tables.get("sample_annotation", token) for token in sample["anns"]]
            objects = [o for o in objects if o["category_name"] in names]
            near = (objects * 3)[:boxes]
            kinds = [names[o["category_name"]] for o in near]
            kinds += rng.choice(list(CATEGORIES), boxes - len(near), p=shares / shares.sum()).tolist()
            centre = rng.normal([1000, 1000, 1], 25, (boxes, 3))
            size = np.exp(rng.normal(0, 0.2, (boxes, 3))) * [1.9, 4.5, 1.7]
            rotation = rng.normal(size=(boxes, 4)) * [1, 0.01, 0.01, 1]
            if near:
                centre[: len(near)] = np.array([o["translation"] for o in near]) + rng.normal(0, 0.7, (len(near), 3))
                size[: len(near)] = np.array([o["size"] for o in near]) * np.exp(rng.normal(0, 0.1, (len(near), 3)))
            score = rng.beta(1, 6, boxes) + 0.5 * (np.arange(boxes) < len(near) // 3)
            score[::7] = np.round(score[::7], 2)
            velocity = rng.normal(0, 2, (boxes, 2))
            rows = []
            for i in rng.permutation(boxes):
                fitting = detection_name_to_rel_attributes(kinds[i])
                rows.append(
                    {
                        "sample_token": sample["token"],
                        "translation": centre[i].tolist(),
                        "size": size[i].tolist(),
                        "rotation": rotation[i].tolist(),
                        "velocity": velocity[i].tolist(),
                        "detection_name": kinds[i],
                        "detection_score": min(float(score[i]), 1.0),
                        "attribute_name": fitting[int(i) % len(fitting)] if fitting else "",
                    }
                )
            file.write(("" if number == 0 else ", ") + json.dumps(sample["token"]) + ": " + json.dumps(rows))
        file.write("}}")


# ---------------------------------------------------------------- the runs


def run_devkit(tables: Tables, submission: Path, folder: Path) -> tuple[dict[str, list[float]], dict, dict]:
    """Seconds by step (wall, CPU), summary and curves of DetectionEval."""
    from nuscenes.eval.detection.evaluate import DetectionEval

    clock = [_clock()]
    config = config_factory("detection_cvpr_2019")
    evaluation = DetectionEval(tables, config, str(submission), "val", str(folder), verbose=False)
    clock.append(_clock())
    metrics, curves = evaluation.evaluate()
    clock.append(_clock())
    return _steps(("load_and_filter", "evaluate"), clock), metrics.serialize(), curves


def run_fast(tables: Tables, submission: Path, folder: Path) -> tuple[dict[str, list[float]], dict, dict]:
    """The same of ours."""
    from aqr_bench.metrics.ground_truth import filter_boxes, ground_truth
    from aqr_bench.metrics.nuscenes import evaluate
    from aqr_bench.metrics.submission import read_submission

    clock = [_clock()]
    config = config_factory("detection_cvpr_2019")
    truth = ground_truth(tables, "val", config.class_range)
    clock.append(_clock())
    detections = read_submission(submission, truth.samples.index_by_token, config.max_boxes_per_sample)
    clock.append(_clock())
    detections = filter_boxes(detections, truth.samples, config.class_range)
    clock.append(_clock())
    evaluation = evaluate(truth.boxes, detections, len(truth.samples.tokens), config)
    clock.append(_clock())
    steps = _steps(("ground_truth", "read", "filter", "evaluate"), clock)
    return steps, evaluation.summary, evaluation.curves


def time_entries(tables: Tables, submission: Path) -> list[float]:
    """Seconds (wall, CPU) that it takes to make arrays of entries that are in memory."""
    from aqr_bench.metrics.submission import from_results, load_results

    results, sample_index = load_results(submission), {s["token"]: i for i, s in enumerate(tables.sample)}
    start = _clock()
    from_results(results, sample_index)
    return (_clock() - start).tolist()


def _clock() -> np.ndarray:
    """Seconds on the wall and of this process' CPU time."""
    return np.array([time.perf_counter(), time.process_time()])


def _steps(names: tuple[str, ...], clock: list[np.ndarray]) -> dict[str, list[float]]:
    return dict(zip(names, np.diff(clock, axis=0).tolist(), strict=True))


def child(engine: str, data: Path, out: Path) -> None:
    """One run in this process."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    tables = pickle.loads((data / "tables.pkl").read_bytes())
    before = _peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        steps, summary, curves = {"devkit": run_devkit, "fast": run_fast}[engine](
            tables, data / "sub.json", Path(folder)
        )
    peak = _peak_mb()
    if engine == "fast":
        steps["entries"] = time_entries(tables, data / "sub.json")
    metrics = {k: v for k, v in summary.items() if k not in ("eval_time", "cfg", "tp_scores")}
    plain = {f"{name}:{d}": data.serialize() for (name, d), data in getattr(curves, "md", curves).items()}
    times = {f"{key}_s": {step: both[k] for step, both in steps.items()} for k, key in enumerate(("wall", "cpu"))}
    result = {**times, "peak_mb": peak, "tables_mb": before}
    out.write_text(json.dumps({**result, "summary": metrics, "curves": plain}))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(argv: list[str] | None = None) -> int:
    """Generate, run in turn, compare, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=6019)
    parser.add_argument("--boxes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="result, written after every round")
    parser.add_argument("--folder", type=Path, help="where to keep the generated data; default: a temporary folder")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child[0], Path(args.child[1]), Path(args.child[2]))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(args.seed)
        if not (folder / "sub.json").exists():
            tables = make_tables(args.samples, rng)
            (folder / "tables.pkl").write_bytes(pickle.dumps(tables))
            write_submission(folder / "sub.json", tables, args.boxes, rng)
            del tables
        runs: dict[str, list[dict[str, Any]]] = {"devkit": [], "fast": []}
        _run("fast", folder)  # compiles the kernels
        for number in range(args.rounds):
            for engine in ("fast", "devkit") if number % 2 else ("devkit", "fast"):
                runs[engine].append(_run(engine, folder))
                print(engine, {k: runs[engine][-1][k] for k in RESULT}, flush=True)
            result = conclude(runs, args, (folder / "sub.json").stat().st_size)
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "runs"}, indent=1))
    return 0


def _run(engine: str, folder: Path) -> dict[str, Any]:
    out = folder / "run.json"
    command = [sys.executable, __file__, "--child", engine, str(folder), str(out)]
    subprocess.run(command, check=True, env={**os.environ, "TQDM_DISABLE": "1"})
    return json.loads(out.read_text())


def conclude(runs: dict[str, list[dict]], args: argparse.Namespace, submission_bytes: int) -> dict[str, Any]:
    """Medians, ratios, and whether all numbers agree."""
    from aqr_bench.metrics.cross_check import cross_check
    from aqr_bench.records.provenance import machine

    checks = [
        cross_check({k: a[k] for k in ("summary", "curves")}, {k: b[k] for k in ("summary", "curves")})
        for a, b in zip(runs["fast"], runs["devkit"], strict=True)
    ]
    pairs = list(zip(runs["devkit"], runs["fast"], strict=True))

    def faster(clock: str, steps: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> float:
        def spent(run: dict) -> float:
            return sum(s for step, s in run[clock].items() if (not steps or step in steps) and step not in without)

        return round(statistics.median(spent(a) / spent(b) for a, b in pairs), 1)

    def middle(clock: str) -> dict[str, float]:
        """Medians from the file."""
        return {
            engine: statistics.median(
                sum(s for step, s in run[clock].items() if step != "entries") for run in engine_runs
            )
            for engine, engine_runs in runs.items()
        }

    return {
        "samples": args.samples,
        "boxes_per_sample": args.boxes,
        "submission_mb": round(submission_bytes / 1e6, 1),
        "rounds": len(pairs),
        "median_cpu_s": middle("cpu_s"),
        "median_wall_s": middle("wall_s"),
        "peak_mb": {e: max(r["peak_mb"] for r in engine_runs) for e, engine_runs in runs.items()},
        "times_faster": {
            clock: {
                "from_file": faster(clock, without=("entries",)),
                "from_memory": faster(clock, without=("read",)),
                "evaluate": faster(clock, ("evaluate",)),
            }
            for clock in ("cpu_s", "wall_s")
        },
        "numbers_compared": checks[0].compared,
        "largest_difference": max(c.largest for c in checks),
        "differences": [str(d) for c in checks for d in c.mismatches][:20],
        "mAP": runs["fast"][0]["summary"]["mean_ap"],
        "NDS": runs["fast"][0]["summary"]["nd_score"],
        "machine": machine(),
        "runs": {e: [{k: r[k] for k in RESULT} for r in engine_runs] for e, engine_runs in runs.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
