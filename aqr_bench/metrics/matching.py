"""Which detection found which object, scene by scene: nuScenes matching kept so that mAP of any scenes can be had."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RECALL = np.linspace(0, 1, 101)  # nuscenes-devkit, DetectionMetricData.nelem
SAMPLES_AT_ONCE = 256  # keeps the distance table of the whole nuScenes val split small


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class, in the order the devkit takes them: descending score, of equal ones the later first.

    score      [N] float64
    scene      [N] index of the scene
    tp         [N, D] bool: a true positive at that distance threshold
    positives  [S] objects to be found in each scene
    """

    score: np.ndarray
    scene: np.ndarray
    tp: np.ndarray
    positives: np.ndarray


@dataclass(frozen=True)
class Matches:
    """Matched detections of one evaluation: scene names [S], thresholds [D] in metres, and the classes by name."""

    scenes: tuple[str, ...]
    distances: tuple[float, ...]
    min_recall: float
    min_precision: float
    classes: Mapping[str, ClassMatches]

    def ap(self, name: str, weights_RS: np.ndarray | None = None) -> np.ndarray:
        """AP [R, D] of a class by resampled set and distance threshold; see ``map`` for the weights.

        As nuscenes-devkit's ``accumulate`` and ``calc_ap`` give it for the set in which every scene is repeated as
        often as its weight says; copies of a detection come one after the other.
        """
        found, weights = self.classes[name], self._weights(weights_RS)
        npos = weights @ found.positives
        grid = RECALL[round(100 * self.min_recall) + 1 :]
        ap_RD = np.zeros((len(weights), len(self.distances)))
        interesting = np.flatnonzero(found.tp.any(1))
        if not len(interesting) or not npos.any():
            return ap_RD
        # Only how many detections lie between the true positives (at any threshold) matters: counted by scene,
        # [P + 1, S]. The last row is what follows the last of them.
        gap = np.searchsorted(interesting, np.arange(len(found.scene)))
        counts_PS = np.zeros((len(interesting) + 1, len(self.scenes)))
        np.add.at(counts_PS, (gap, found.scene), 1)
        seen_RP = np.cumsum(weights @ counts_PS.T, axis=1).astype(np.int32)
        copies_RP = weights.astype(np.int32)[:, found.scene[interesting]]
        level_RG, exact_RG = _levels(npos, grid)
        for d in range(len(self.distances)):
            copies = copies_RP * found.tp[interesting, d]
            precision_RG = _precision(copies, seen_RP, npos, grid, level_RG, exact_RG)
            ap_RD[:, d] = np.maximum(precision_RG - self.min_precision, 0).mean(1) / (1 - self.min_precision)
        return ap_RD

    def map(self, weights_RS: np.ndarray | None = None) -> np.ndarray:
        """mAP [R] of resampled sets.

        Args:
            weights_RS: how often each scene is in each set, whole numbers [R, S]; None: every scene once, R = 1.
        """
        return np.mean([self.ap(name, weights_RS).mean(1) for name in self.classes], axis=0)

    def _weights(self, weights_RS: np.ndarray | None) -> np.ndarray:
        if weights_RS is None:
            return np.ones((1, len(self.scenes)))
        weights = np.asarray(weights_RS, dtype=np.float64)
        if weights.ndim != 2 or weights.shape[1] != len(self.scenes) or (weights < 0).any() or (weights % 1).any():
            raise ValueError(f"weights: whole numbers of shape [sets, {len(self.scenes)}] are needed")
        return weights

    def save(self, path: str | Path) -> Path:
        """Write a compressed .npz under a temporary name, then rename."""
        path = Path(path)
        arrays: dict[str, np.ndarray] = {
            "scenes": np.array(self.scenes),
            "distances": np.array(self.distances),
            "rule": np.array([self.min_recall, self.min_precision]),
            "classes": np.array(list(self.classes)),
        }
        for i, found in enumerate(self.classes.values()):
            arrays[f"score{i}"] = found.score
            arrays[f"scene{i}"] = found.scene.astype(np.uint16)
            arrays[f"tp{i}"] = np.packbits(found.tp, axis=1)
            arrays[f"positives{i}"] = found.positives.astype(np.uint32)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(temporary, path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Matches:
        """Inverse of ``save``; raises OSError, ValueError or KeyError for a file that is missing or no such one."""
        with np.load(path, allow_pickle=False) as file:
            distances = tuple(file["distances"].tolist())
            classes = {
                str(name): ClassMatches(
                    file[f"score{i}"],
                    file[f"scene{i}"].astype(np.int64),
                    np.unpackbits(file[f"tp{i}"], axis=1, count=len(distances)).astype(bool),
                    file[f"positives{i}"].astype(np.int64),
                )
                for i, name in enumerate(file["classes"])
            }
            rule = file["rule"].tolist()
            return cls(tuple(file["scenes"].tolist()), distances, rule[0], rule[1], classes)


def _levels(npos_R: np.ndarray, grid_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True positives that recall ``x`` asks for, rounded down [R, G], and where they meet it exactly.

    Recall is ``t / npos`` in the devkit, so the rounding is checked with that very division.
    """
    safe = np.maximum(npos_R, 1)[:, None]
    level = np.floor(grid_G * safe)
    level += (level + 1) / safe <= grid_G
    level -= level / safe > grid_G
    return level.astype(np.int64), level / safe == grid_G


def _precision(
    copies_RP: np.ndarray,
    seen_RQ: np.ndarray,
    npos_R: np.ndarray,
    grid_G: np.ndarray,
    level_RG: np.ndarray,
    exact_RG: np.ndarray,
) -> np.ndarray:
    """Precision at the recalls of the grid [R, G], as ``np.interp(grid, recall, precision, right=0)`` gives it.

    Between t and t + 1 true positives np.interp draws a line from the last detection before the next true positive,
    t / (t + false), to that one, (t + 1) / (t + 1 + false).

    Args:
        copies_RP: how often each detection is in the set as a true positive.
        seen_RQ: detections up to and with all copies of that one, [R, P + 1]: all of the set at the end.
    """
    sets, count = copies_RP.shape
    hits_RP = np.cumsum(copies_RP, axis=1, dtype=np.int32)
    total_R = hits_RP[:, -1].astype(np.int64)
    if not total_R.any():
        return np.zeros((sets, len(grid_G)))
    # Which detection the t-th true positive of each set is; up to it, whatever is no true positive is a false one.
    # One search for all sets: each counts from where the one before could at most end.
    row_R1 = np.arange(sets)[:, None]
    within = level_RG < total_R[:, None]
    offset_R1 = row_R1 * (total_R.max() + 1)
    sought = np.minimum(level_RG, total_R[:, None]) + offset_R1  # ascending, which is quicker
    place = np.searchsorted((hits_RP + offset_R1).ravel(), sought.ravel(), side="right").reshape(sought.shape)
    column = np.minimum(place - row_R1 * count, count - 1)
    false = seen_RQ[row_R1, column] - hits_RP[row_R1, column]
    t = level_RG.astype(np.float64)
    after = (t + 1) / (t + 1 + false)
    # Before the first detection of all np.interp goes on with its precision.
    before = np.where(t + false > 0, t / np.maximum(t + false, 1), after)
    safe = np.maximum(npos_R, 1)[:, None]
    value = before + (after - before) * ((grid_G - t / safe) * safe)
    last = exact_RG & (level_RG == total_R[:, None]) & (total_R[:, None] > 0)
    final = (total_R / np.maximum(seen_RQ[:, -1], 1))[:, None]
    return np.where(within, value, np.where(last, final, 0.0)) * (npos_R > 0)[:, None]


# ---------------------------------------------------------------- from the devkit's boxes


def match_boxes(truth: Any, found: Any, scene_of: Mapping[str, str], config: Any) -> Matches:
    """Match the devkit's filtered boxes as its ``accumulate`` does.

    Args:
        truth, found: EvalBoxes of DetectionEval, ``gt_boxes`` and ``pred_boxes``.
        scene_of: scene name by sample token.
        config: DetectionConfig (classes, thresholds, distance in the plane).
    """
    tokens = list(dict.fromkeys([*found.sample_tokens, *truth.sample_tokens]))
    number = {token: i for i, token in enumerate(tokens)}
    scenes = tuple(sorted({scene_of[token] for token in tokens}))
    place = {name: i for i, name in enumerate(scenes)}
    scene_of_sample = np.array([place[scene_of[token]] for token in tokens], dtype=np.int64)
    truths, boxes = _by_class(truth, number), _by_class(found, number)
    distances = np.array(config.dist_ths, dtype=np.float64)
    classes = {}
    for name in config.class_names:
        sample_T, centre_T2, _ = truths.get(name, _NOTHING)
        sample_N, centre_N2, score_N = boxes.get(name, _NOTHING)
        # np.lexsort sorts by its last key first; reversed, of equal scores the later box leads, as in the devkit.
        order = np.lexsort((np.arange(len(score_N)), score_N))[::-1]
        tp_ND = np.zeros((len(order), len(distances)), dtype=bool)
        for rows, columns in _blocks(sample_N[order], sample_T, len(tokens)):
            tp_ND[rows] = match(
                sample_N[order][rows], centre_N2[order][rows], sample_T[columns], centre_T2[columns], distances
            )
        positives = np.bincount(scene_of_sample[sample_T], minlength=len(scenes))
        classes[name] = ClassMatches(score_N[order], scene_of_sample[sample_N[order]], tp_ND, positives)
    return Matches(scenes, tuple(config.dist_ths), config.min_recall, config.min_precision, classes)


_NOTHING = (np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros(0))


def _by_class(boxes: Any, number: Mapping[str, int]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Sample index [N], centre [N, 2] in metres and score [N] by class, in the order of the devkit's list."""
    lists: dict[str, list[tuple[int, float, float, float]]] = {}
    for token in boxes.sample_tokens:
        for box in boxes[token]:
            row = (number[token], *box.translation[:2], box.detection_score)
            lists.setdefault(box.detection_name, []).append(row)
    arrays = {name: np.array(rows, dtype=np.float64) for name, rows in lists.items()}
    return {name: (rows[:, 0].astype(np.int64), rows[:, 1:3], rows[:, 3]) for name, rows in arrays.items()}


def _blocks(sample_N: np.ndarray, sample_T: np.ndarray, samples: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of detections and of truths of a few samples at a time: samples do not touch one another."""
    for start in range(0, samples, SAMPLES_AT_ONCE):
        rows, columns = (
            np.flatnonzero((part >= start) & (part < start + SAMPLES_AT_ONCE)) for part in (sample_N, sample_T)
        )
        if len(rows) and len(columns):
            yield rows, columns


def match(
    sample_N: np.ndarray,
    centre_N2: np.ndarray,
    sample_T: np.ndarray,
    centre_T2: np.ndarray,
    distances: Sequence[float] | np.ndarray,
) -> np.ndarray:
    """True positives [N, D] of detections in descending order: each takes the nearest truth that is still free.

    All samples take a step at once: first the leading candidate of each, then the next. A detection too far from every
    truth of its sample is a candidate at no threshold, and takes nothing from anybody.
    """
    distances = np.asarray(distances, dtype=np.float64)
    tp_ND = np.zeros((len(sample_N), len(distances)), dtype=bool)
    used = np.unique(sample_T)
    slot_T = _rank(sample_T)
    centre_SK2 = np.full((len(used), slot_T.max() + 1, 2), np.inf)
    centre_SK2[np.searchsorted(used, sample_T), slot_T] = centre_T2
    rows = np.flatnonzero(np.isin(sample_N, used))
    at = np.searchsorted(used, sample_N[rows])
    away_NK = np.linalg.norm(centre_SK2[at] - centre_N2[rows][:, None], axis=-1)
    near = away_NK.min(1) < distances.max() if len(rows) else np.zeros(0, dtype=bool)
    rows, at, away_NK = rows[near], at[near], away_NK[near]
    taken_SDK = np.zeros((len(used), len(distances), away_NK.shape[1]), dtype=bool)
    turn = _rank(at)
    for step in range(turn.max() + 1 if len(turn) else 0):
        now = np.flatnonzero(turn == step)
        free_BDK = np.where(taken_SDK[at[now]], np.inf, away_NK[now][:, None])
        nearest_BD = free_BDK.argmin(-1)
        hit_BD = np.take_along_axis(free_BDK, nearest_BD[..., None], -1)[..., 0] < distances
        tp_ND[rows[now]] = hit_BD
        b, d = np.nonzero(hit_BD)
        taken_SDK[at[now[b]], d, nearest_BD[b, d]] = True
    return tp_ND


def _rank(group_N: np.ndarray) -> np.ndarray:
    """How many of the same group come before each one."""
    order = np.argsort(group_N, kind="stable")
    ordered = group_N[order]
    rank = np.empty(len(group_N), dtype=np.int64)
    rank[order] = np.arange(len(group_N)) - np.searchsorted(ordered, ordered)
    return rank
