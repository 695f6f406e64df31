"""Which detection is matched to which object, saved so that the scores of any choice of scenes can be computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes.eval.detection.constants import DETECTION_NAMES, TP_METRICS

from aqr_bench.atomic import atomic_write
from aqr_bench.metrics import resampled
from aqr_bench.metrics.boxes import BoxArrays
from aqr_bench.metrics.greedy_matching import nearest_objects
from aqr_bench.metrics.nuscenes import RECALL, UNDEFINED, Evaluation, first_bin, means


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class, in the devkit's order: descending score, of equal scores the later first.

    score      [N] float64
    scene      [N] index of the scene
    tp         [N, D] bool: a true positive at that distance threshold
    positives  [S] ground truth objects in each scene
    errors     [M, 5] of the true positives at the threshold of the errors, as TP_METRICS; None in older files
    sample     [N] index of the sample; None in older files
    objects    [K] ground truth objects in each sample; None in older files

    For slices (see slices.py), of the G ground truth objects; None in older files:

    matched              [N, D] index of the object taken at that distance threshold; -1: none
    properties           [N, 3] of the detections, the first of boxes.PROPERTIES
    object_sample        [G] index of the sample
    object_properties    [G, 5] as boxes.PROPERTIES

    For types of errors (see error_types.py), of the nearest object of the same class and of that of another class,
    matched or not, within greedy_matching.NEAR_M; None in older files:

    near_distance        [N, 2] metres; inf: none
    near_object          [N, 2] its index among the objects of all classes, class after class; -1: none
    """

    score: np.ndarray
    scene: np.ndarray
    tp: np.ndarray
    positives: np.ndarray
    errors: np.ndarray | None = None
    sample: np.ndarray | None = None
    objects: np.ndarray | None = None
    matched: np.ndarray | None = None
    properties: np.ndarray | None = None
    object_sample: np.ndarray | None = None
    object_properties: np.ndarray | None = None
    near_distance: np.ndarray | None = None
    near_object: np.ndarray | None = None

    def entries(self, key: str) -> np.ndarray | None:
        """Where an array of the file has values, as a mask of the array here; None: everywhere."""
        if key == "matched":
            return self.tp
        return self.near_object >= 0 if key == "near_distance" else None


# Arrays of a class that older files lack: their types in the file.
_OPTIONAL = {"errors": np.float64, "sample": np.uint32, "objects": np.uint32, "matched": np.int32}
_OPTIONAL |= {"properties": np.float32, "object_sample": np.uint32, "object_properties": np.float32}
_OPTIONAL |= {"near_object": np.int32, "near_distance": np.float32}


@dataclass(frozen=True)
class SetScores:
    """Scores of R resampled sets: AP [R, C, D], errors by class [R, C, 5], their means [R, 5], mAP and NDS [R].

    Errors are NaN where a class does not have one; None, like NDS, where the matches hold none.
    """

    ap: np.ndarray
    class_errors: np.ndarray | None
    errors: np.ndarray | None
    map: np.ndarray
    nds: np.ndarray | None


@dataclass(frozen=True)
class Matches:
    """Matched detections of one evaluation.

    scenes [S] and samples [K] by name, the scene of each sample [K], distance thresholds [D] in metres, and which of
    them the errors are of; the classes by name; descriptions of the scenes [S], which older files lack.
    """

    scenes: tuple[str, ...]
    distances: tuple[float, ...]
    min_recall: float
    min_precision: float
    classes: Mapping[str, ClassMatches]
    error_distance: float = 2.0
    mean_ap_weight: float = 5.0
    samples: tuple[str, ...] = ()
    scene_of_sample: np.ndarray | None = None
    descriptions: tuple[str, ...] = ()

    @property
    def has_errors(self) -> bool:
        """Whether errors and NDS can be computed."""
        return self.error_distance in self.distances and all(c.errors is not None for c in self.classes.values())

    def scores(self, weights_RS: np.ndarray | None = None) -> SetScores:
        """Everything of resampled sets; see ``map`` for the weights."""
        weights = self._weights(weights_RS)
        by_class = [self._class_scores(name, weights, self.has_errors) for name in self.classes]
        ap_RCD = np.stack([ap for ap, _ in by_class], axis=1)
        if not self.has_errors:
            return SetScores(ap_RCD, None, None, ap_RCD.mean(2).mean(1), None)
        errors_RC5 = np.stack([errors for _, errors in by_class], axis=1)
        mean_ap, errors, nds = means(ap_RCD, errors_RC5, self.mean_ap_weight)
        return SetScores(ap_RCD, errors_RC5, errors, mean_ap, nds)

    def ap(self, name: str, weights_RS: np.ndarray | None = None) -> np.ndarray:
        """AP [R, D] of a class by resampled set and distance threshold; see ``map`` for the weights.

        As nuscenes-devkit's ``accumulate`` and ``calc_ap`` give it for the set in which every scene is repeated as
        often as its weight says; copies of a detection come one after the other.
        """
        return self._class_scores(name, self._weights(weights_RS), False)[0]

    def map(self, weights_RS: np.ndarray | None = None) -> np.ndarray:
        """mAP [R] of resampled sets.

        Args:
            weights_RS: how often each scene is in each set, integers [R, S]; None: every scene once, R = 1.
        """
        return np.mean([self.ap(name, weights_RS).mean(1) for name in self.classes], axis=0)

    def by_sample(self) -> Matches:
        """The same with every sample as a scene, so that weights are by sample; ValueError for older files."""
        if self.scene_of_sample is None or any(c.sample is None or c.objects is None for c in self.classes.values()):
            raise ValueError("these matches have no sample indices")
        classes = {n: replace(c, scene=c.sample, positives=c.objects) for n, c in self.classes.items()}
        return replace(self, scenes=self.samples, classes=classes, scene_of_sample=np.arange(len(self.samples)))

    def _class_scores(
        self, name: str, weights_RS: np.ndarray, with_errors: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """AP [R, D] and errors [R, 5] of a class."""
        matches = self.classes[name]
        npos = weights_RS @ matches.positives
        grid = RECALL[first_bin(self.min_recall) :]
        level, exact = resampled.levels(npos, grid)
        weights_SR = np.ascontiguousarray(weights_RS.T, dtype=np.int32)
        precision = np.zeros((len(self.distances), len(npos), len(grid)))
        confidence = np.zeros((len(npos), len(grid)))
        error_column = self.distances.index(self.error_distance) if with_errors else -1
        score, scene = np.ascontiguousarray(matches.score), np.ascontiguousarray(matches.scene, dtype=np.int64)
        resampled.curves(
            score, scene, matches.tp, weights_SR, npos, level, exact, grid, error_column, precision, confidence
        )
        above = np.maximum(precision - self.min_precision, 0)
        ap_RD = above.mean(2).T / (1 - self.min_precision)
        if not with_errors:
            return ap_RD, None
        errors = np.empty((len(npos), len(TP_METRICS)))
        hit = matches.tp[:, error_column]
        resampled.mean_errors(score[hit], scene[hit], matches.errors, weights_SR, confidence, errors)
        errors[:, list(UNDEFINED.get(name, ()))] = np.nan
        return ap_RD, errors

    def _weights(self, weights_RS: np.ndarray | None) -> np.ndarray:
        if weights_RS is None:
            return np.ones((1, len(self.scenes)))
        weights = np.asarray(weights_RS, dtype=np.float64)
        if weights.ndim != 2 or weights.shape[1] != len(self.scenes) or (weights < 0).any() or (weights % 1).any():
            raise ValueError(f"weights: integers of shape [sets, {len(self.scenes)}] are needed")
        return weights

    # ------------------------------------------------------------ the file

    def save(self, path: str | Path) -> Path:
        """Write a compressed .npz under a temporary name, then rename."""
        path = Path(path)
        arrays: dict[str, np.ndarray] = {
            "scenes": np.array(self.scenes),
            "distances": np.array(self.distances),
            "rule": np.array([self.min_recall, self.min_precision, self.error_distance, self.mean_ap_weight]),
            "classes": np.array(list(self.classes)),
        }
        if self.scene_of_sample is not None:
            arrays |= {"samples": np.array(self.samples), "scene_of_sample": self.scene_of_sample.astype(np.uint16)}
        if self.descriptions:
            arrays["descriptions"] = np.array(self.descriptions)
        for i, matches in enumerate(self.classes.values()):
            arrays[f"score{i}"] = matches.score
            arrays[f"scene{i}"] = matches.scene.astype(np.uint16)
            arrays[f"tp{i}"] = np.packbits(matches.tp, axis=1)
            arrays[f"positives{i}"] = matches.positives.astype(np.uint32)
            for key, kind in _OPTIONAL.items():
                values = getattr(matches, key)
                if values is not None:
                    mask = matches.entries(key)
                    arrays[f"{key}{i}"] = (values if mask is None else values[mask]).astype(kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Matches:
        """Inverse of ``save``; raises OSError, ValueError or KeyError for a file that is missing or invalid."""
        with np.load(path, allow_pickle=False) as file:
            distances = tuple(file["distances"].tolist())

            classes = {}
            for i, name in enumerate(file["classes"]):
                tp = np.unpackbits(file[f"tp{i}"], axis=1, count=len(distances)).astype(bool)
                scene, positives = (file[f"{key}{i}"].astype(np.int64) for key in ("scene", "positives"))
                matches = ClassMatches(file[f"score{i}"], scene, tp, positives)
                for key in _OPTIONAL:
                    if (values := file.get(f"{key}{i}")) is not None:
                        matches = replace(matches, **{key: _loaded(key, values, matches)})
                classes[str(name)] = matches
            sample_fields = {}
            if "samples" in file:
                sample_fields["samples"] = tuple(file["samples"].tolist())
                sample_fields["scene_of_sample"] = file["scene_of_sample"].astype(np.int64)
            if "descriptions" in file:
                sample_fields["descriptions"] = tuple(file["descriptions"].tolist())
            rule = file["rule"].tolist()
            names = ("min_recall", "min_precision", "error_distance", "mean_ap_weight")
            rules = dict(zip(names, rule, strict=False))  # older files have the first two
            return cls(tuple(file["scenes"].tolist()), distances, classes=classes, **rules, **sample_fields)


def _loaded(key: str, values: np.ndarray, matches: ClassMatches) -> np.ndarray:
    """An optional array of a class as it was before it was saved; the arrays before it are in ``matches``."""
    mask = matches.entries(key)
    if mask is None:
        return values if values.dtype.kind == "f" or key == "near_object" else values.astype(np.int64)
    array = np.full(mask.shape, -1 if key == "matched" else np.inf, dtype=values.dtype)
    array[mask] = values
    return array


# ---------------------------------------------------------------- from an evaluation


def collect_matches(
    evaluation: Evaluation,
    truth: BoxArrays,
    detections: BoxArrays,
    samples: tuple[str, ...],
    scenes: tuple[str, ...],
    scene_of_sample: np.ndarray,
    config: Any,
    properties: tuple[np.ndarray, np.ndarray] | None = None,
    descriptions: tuple[str, ...] = (),
) -> Matches:
    """The matches of an evaluation; ``scene_of_sample`` [K] are indices of ``scenes``.

    For slices: ``properties`` of the objects [G, 5] and of the detections [N, 3], see boxes.PROPERTIES, and
    ``descriptions`` of the scenes.
    """
    matching, limits = evaluation.matching, list(config.dist_ths)
    d = limits.index(config.dist_th_tp)
    hit = matching.matched >= 0
    before = np.concatenate([[0], np.cumsum(hit[:, d])])
    sample = detections.sample[matching.order].astype(np.int64)
    near_distance, near_row = nearest_objects(truth, detections, len(samples))
    labels = [DETECTION_NAMES.index(name) for name in config.class_names]
    # Objects of all classes, class after class.
    number = np.full(len(truth) + 1, -1, dtype=np.int32)  # of the row -1 as well
    by_class = np.concatenate([np.flatnonzero(truth.label == label) for label in labels])
    number[by_class] = np.arange(len(by_class))
    near_object = number[near_row[matching.order]]
    near_distance = np.where(near_object < 0, np.float32(np.inf), near_distance[matching.order])
    classes, row_in_class = {}, np.zeros(len(truth), dtype=np.int32)
    for name, label in zip(config.class_names, labels, strict=True):
        part, rows = matching.of(label), np.flatnonzero(truth.label == label)
        row_in_class[rows] = np.arange(len(rows))
        objects = np.bincount(truth.sample[rows], minlength=len(samples))
        sliced = {}
        if properties is not None:
            matched = matching.matched[part]
            sliced["matched"] = np.where(matched < 0, -1, row_in_class[matched]) if len(truth) else matched
            sliced["properties"] = properties[1][matching.order[part]]
            sliced["object_sample"] = truth.sample[rows].astype(np.int64)
            sliced["object_properties"] = properties[0][rows]
        classes[name] = ClassMatches(
            detections.score[matching.order[part]],
            scene_of_sample[sample[part]],
            hit[part],
            np.bincount(scene_of_sample, weights=objects, minlength=len(scenes)).astype(np.int64),
            evaluation.errors[d][before[part.start] : before[part.stop]],
            sample[part],
            objects,
            near_distance=near_distance[part],
            near_object=near_object[part],
            **sliced,
        )
    rule = (config.min_recall, config.min_precision, classes, config.dist_th_tp, config.mean_ap_weight)
    return Matches(scenes, tuple(limits), *rule, samples, scene_of_sample, descriptions)
