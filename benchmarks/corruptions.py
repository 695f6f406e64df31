"""CPU time of every corruption at real size: 11 clouds of 35k points, six 900 x 1600 images, one core.

python benchmarks/corruptions.py [--rounds 3] [--suite S] [--out benchmarks/results/corruptions_MACHINE]
writes OUT.json and OUT.md. The first call of each corruption is apart: tables are made and kernels compiled there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np

from aqr_bench.corruptions import CORRUPTIONS, Cloud, Corruption, Frame, FrameError, View, corrupt
from aqr_bench.corruptions.suites.missing_sensors import CAMERAS
from aqr_bench.records.provenance import machine

POINTS, SWEEPS, SIZE, BOXES = 35_000, 10, (900, 1600), 40


class Past:
    """History of 20 keyframes that are all the same frame: no disk in the measurement."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def token(self, steps: int) -> str | None:
        if steps >= 20:
            return None
        return f"{self.frame.token}-{steps}" if steps else self.frame.token

    def clouds(self, steps: int) -> tuple[Cloud, ...]:
        return self.frame.clouds

    def view(self, steps: int, camera: str) -> View:
        return next(view for view in self.frame.views if view.camera == camera)

    def view_sweep(self, steps: int, camera: str) -> View:
        return self.view(steps, camera)


def real_size_frame() -> Frame:
    """Points on the ground and on walls seen by 32 beams, smooth images, boxes around points."""
    rng = np.random.default_rng(0)
    clouds = []
    for number in range(SWEEPS + 1):
        ring = np.arange(POINTS) % 32
        azimuth = np.linspace(-np.pi, np.pi, POINTS)
        elevation = np.deg2rad(-30.7 + 41.3 * ring / 31)
        wall = 15 + 20 * np.sin(3 * azimuth) ** 2 + rng.normal(0, 0.05, POINTS)
        ground = np.where(elevation < 0, 1.84 / np.maximum(-np.tan(elevation), 1e-3), np.inf)
        flat = np.minimum(wall, ground)
        points = np.stack(
            [
                flat * np.cos(azimuth),
                flat * np.sin(azimuth),
                flat * np.tan(elevation),
                rng.integers(0, 120, POINTS),
                ring,
            ],
            1,
        )
        pose = np.eye(4)
        pose[1, 3] = -0.5 * number
        clouds.append(Cloud(points.astype(np.float32), pose, 100 - 0.05 * number, f"sweep{number}"))
    views = []
    for number, camera in enumerate(CAMERAS):
        yaw = np.deg2rad([145, 90, 35, 200, 270, 340][number])
        forward, down = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([0, 0, -1.0])
        lidar2cam = np.eye(4)
        lidar2cam[:3, :3] = [np.cross(down, forward), down, forward]
        small = rng.integers(20, 230, (36, 64, 3), dtype=np.uint8)
        image = cv2.resize(small, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        cam2img = np.array([[1260.0, 0, 800], [0, 1260, 450], [0, 0, 1]])
        views.append(View(camera, image, cam2img, lidar2cam, 100.0))
    centres = clouds[0].points[rng.choice(POINTS, BOXES), :3]
    sizes = rng.uniform([0.6, 0.6, 1.5], [5, 2, 2], (BOXES, 3))
    boxes = np.concatenate([centres, sizes, rng.uniform(-3, 3, (BOXES, 1))], 1)
    frame = Frame("sample", tuple(clouds), tuple(views), boxes)
    return Frame("sample", frame.clouds, frame.views, boxes, Past(frame))


def measure(corruption: Corruption, frame: Frame, rounds: int) -> dict:
    """First call and the others in milliseconds of CPU time; every call has another seed.

    One thread computes all of it, so CPU time is what a free core would take, also where others use the machine.
    """
    times = []
    for seed in range(rounds + 1):
        start = time.process_time()
        corrupt(corruption, frame, seed)
        times.append(1e3 * (time.process_time() - start))
    return {
        "condition": corruption.key,
        "severity": corruption.severity,
        "first_ms": round(times[0], 2),
        "median_ms": round(statistics.median(times[1:]), 2),
        "times_ms": [round(t, 2) for t in times[1:]],
    }


def markdown(rows: list[dict], about: str) -> str:
    """Slowest first, one line per corruption with its slowest severity."""
    worst: dict[str, dict] = {}
    for row in rows:
        if row["median_ms"] >= worst.get(row["condition"], {"median_ms": -1})["median_ms"]:
            worst[row["condition"]] = row
    ordered = sorted(worst.values(), key=lambda row: -row["median_ms"])
    every = [row["median_ms"] for row in rows]
    lines = [about, "", f"{len(rows)} conditions with their severities: median {statistics.median(every):.0f} ms, "]
    lines[-1] += f"slowest {max(every):.0f} ms of CPU time a sample; {sum(t > 1500 for t in every)} above 1500 ms."
    lines += ["", "| condition | slowest severity | ms a sample | first call, ms |", "|---|---|---|---|"]
    for row in ordered:
        lines.append(
            f"| {row['condition']} | {row['severity'] or '-'} | {row['median_ms']:.0f} | {row['first_ms']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="calls after the first one (default: 3)")
    parser.add_argument("--suite", help="only this suite")
    parser.add_argument("--out", type=Path, help="without .json and .md")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    frame, rows = real_size_frame(), []
    for corruption in CORRUPTIONS.every(args.suite):
        try:
            rows.append(measure(corruption, frame, args.rounds))
        except FrameError as error:
            print(f"{corruption}: {error}")
            continue
        print(f"{corruption!s:40} {rows[-1]['median_ms']:8.1f} ms   first {rows[-1]['first_ms']:8.1f} ms", flush=True)
    host = machine()
    about = (
        f"{SWEEPS + 1} clouds of {POINTS} points, {len(frame.views)} images of {SIZE[0]} x {SIZE[1]}, {BOXES} boxes; "
        f"one thread of {host.get('cpu') or platform.processor()}; medians of {args.rounds}."
    )
    print(markdown(rows, about))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix(".json").write_text(
            json.dumps({"about": about, "machine": host, "rows": rows}, indent=1) + "\n"
        )
        args.out.with_suffix(".md").write_text(markdown(rows, about))


if __name__ == "__main__":
    main()
