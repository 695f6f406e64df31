"""Random nuScenes tables for the tests of the ground truth, with all special cases of the devkit's loader."""

from __future__ import annotations

import numpy as np
from detection_metric import Tables

SCENES = ("scene-0003", "scene-0012", "scene-0001")  # two of the val split, one that is not
CATEGORIES = (
    "vehicle.car",
    "vehicle.bus.bendy",
    "vehicle.bicycle",
    "vehicle.motorcycle",
    "human.pedestrian.adult",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "animal",
    "static_object.bicycle_rack",
)
STEPS = ((0, 1, 2, 3), (0, 2, 4, 9), (0, 1))  # times of a scene's samples, 0.5 s; too far apart for some velocities


def make_tables(objects: int = 40, seed: int = 0) -> Tables:
    """Objects around a vehicle at (500, 900); some come and go, some hold no point, racks hold cycles."""
    rng = np.random.default_rng(seed)
    tables: dict[str, list[dict]] = {n: [] for n in ("scene", "sample", "sample_data", "ego_pose", "sample_annotation")}
    tables["attribute"] = [{"token": f"t{name}", "name": name} for name in ("vehicle.parked", "cycle.with_rider")]
    for s, scene in enumerate(SCENES):
        tables["scene"].append({"token": f"scene{s}", "name": scene})
        kind = rng.integers(0, len(CATEGORIES), objects)
        start = np.c_[rng.uniform([445, 845], [555, 955], (objects, 2)), np.ones(objects)]
        racks, cycles = np.flatnonzero(kind == 8), np.flatnonzero((kind == 2) | (kind == 3))
        for k, cycle in enumerate(cycles[::2]):
            start[cycle, :2] = start[racks[k % len(racks)], :2] + rng.uniform(-2, 2, 2)
        seen = rng.uniform(size=(len(STEPS[s]), objects)) < 0.8
        for i, step in enumerate(STEPS[s]):
            token = f"{scene}.{i}"
            tables["ego_pose"].append({"token": token, "translation": [500 + 0.1 * step, 900.0, 0.0]})
            tables["sample_data"].append({"token": token, "ego_pose_token": token})
            names = [f"{token}.{k}" for k in np.flatnonzero(seen[i])]
            sample = {"token": token, "scene_token": f"scene{s}", "anns": names, "data": {"LIDAR_TOP": token}}
            tables["sample"].append({**sample, "timestamp": 1_533_000_000_123_456 + 500_000 * step})
            for k in np.flatnonzero(seen[i]):
                before, after = ([j for j in range(len(seen)) if seen[j, k] and c(j)] for c in (i.__gt__, i.__lt__))
                angle = rng.uniform(-np.pi, np.pi) if kind[k] != 8 else 0.3
                tables["sample_annotation"].append(
                    {
                        "token": f"{token}.{k}",
                        "sample_token": token,
                        "category_name": CATEGORIES[kind[k]],
                        "translation": (start[k] + [0.3 * step * (k % 3), 0, 0]).tolist(),
                        "size": [2.0, 6.0, 2.5],
                        "rotation": [float(np.cos(angle / 2)), 0, 0, float(np.sin(angle / 2))],
                        "attribute_tokens": [["tvehicle.parked"], ["tcycle.with_rider"], []][k % 3],
                        "num_lidar_pts": int(rng.integers(0, 4)),
                        "num_radar_pts": int(rng.integers(0, 2)),
                        "prev": f"{scene}.{before[-1]}.{k}" if before else "",
                        "next": f"{scene}.{after[0]}.{k}" if after else "",
                    }
                )
    return Tables(**tables)
