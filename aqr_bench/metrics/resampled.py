"""AP and errors of one class on many resampled sets of scenes at once, compiled.

A set is given by how often each scene is in it; copies of a detection follow one another. Every number is what the
devkit gives for the set written out, with the arithmetic of np.interp (source: nuscenes-devkit 1.2,
eval/detection/algo.py): all sets go through the list of detections together, and a recall of the grid is computed at
the true positive that passes it.
"""

from __future__ import annotations

import numpy as np

from aqr_bench.metrics.greedy_matching import compiled

BLOCK = 128  # sets at a time, so that what is counted for them stays in the cache


def levels(npos_R: np.ndarray, grid_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True positives that recall ``x`` asks for, rounded down [R, G], and where they meet it exactly.

    Recall is ``t / npos`` in the devkit, so the rounding is checked with that very division.
    """
    safe = np.maximum(npos_R, 1)[:, None]
    level = np.floor(grid_G * safe)
    level += (level + 1) / safe <= grid_G
    level -= level / safe > grid_G
    return level.astype(np.int32), level / safe == grid_G


@compiled
def _last_score(score, scene, weights, i, r, otherwise):
    """Score of the last detection before index ``i`` that is in set ``r``."""
    j = i - 1
    while j >= 0:
        if weights[scene[j], r] > 0:
            return score[j]
        j -= 1
    return otherwise


@compiled
def curves(score, scene, tp, weights, npos, level, exact, grid, error_column, precision, confidence):
    """Precision [D, R, G] at the recalls of the grid, and confidence [R, G] at the threshold ``error_column``.

    ``score``, ``scene`` [N] and ``tp`` [N, D] in descending order, ``weights`` [S, R] int32, ``npos`` [R], ``level``
    and ``exact`` [R, G] from :func:`levels`. The results must be filled with 0 before.
    """
    detections, limits = tp.shape
    sets, bins = level.shape
    for first in range(0, sets, BLOCK):
        width = min(BLOCK, sets - first)
        block = weights[:, first : first + width].copy()
        seen = np.zeros(width, dtype=np.int32)
        hits = np.zeros((limits, width), dtype=np.int32)
        need = np.empty((limits, width), dtype=np.int32)
        at = np.zeros((limits, width), dtype=np.int32)
        for r in range(width):
            for d in range(limits):
                need[d, r] = level[first + r, 0] if npos[first + r] > 0 else 2**30
        for i in range(detections):
            copies = block[scene[i]]
            for d in range(limits):
                if not tp[i, d]:
                    continue
                passed = 0
                for r in range(width):
                    hits[d, r] += copies[r]
                    passed += hits[d, r] > need[d, r]
                if passed == 0:
                    continue
                for r in range(width):
                    if hits[d, r] <= need[d, r]:
                        continue
                    before = hits[d, r] - copies[r]
                    false = seen[r] - before
                    row = first + r
                    g = at[d, r]
                    while g < bins and level[row, g] < hits[d, r]:
                        t = level[row, g]
                        upper = (t + 1) / (t + 1 + false)
                        # Before the first detection np.interp extends its value.
                        lower = t / (t + false) if t + false > 0 else upper
                        here, step = t / npos[row], (t + 1) / npos[row] - t / npos[row]
                        along = grid[g] - here
                        precision[d, row, g] = (upper - lower) / step * along + lower
                        if d == error_column:
                            last = score[i]
                            if t == before:
                                last = _last_score(score, scene, block, i, r, score[i])
                            confidence[row, g] = (score[i] - last) / step * along + last
                        g += 1
                    at[d, r] = g
                    need[d, r] = level[row, g] if g < bins else 2**30
            for r in range(width):
                seen[r] += copies[r]
        for d in range(limits):
            for r in range(width):
                row, g = first + r, at[d, r]
                if g < bins and hits[d, r] > 0 and exact[row, g] and level[row, g] == hits[d, r]:
                    precision[d, row, g] = hits[d, r] / seen[r]
                    if d == error_column:
                        confidence[row, g] = _last_score(score, scene, block, detections, r, 0.0)


@compiled
def mean_errors(score, scene, errors, weights, confidence, result):
    """Mean [R, E] over recall of each error's running mean, read off at the confidences [R, G] above 0.

    ``score``, ``scene`` [M] and ``errors`` [M, E] of the true positives in descending order, ``weights`` [S, R] int32.
    1 where a set has no true positive that counts, or an error that is NaN in all of them.
    """
    matches, kinds = errors.shape
    sets, bins = confidence.shape
    for first in range(0, sets, BLOCK):
        width = min(BLOCK, sets - first)
        block = weights[:, first : first + width].copy()
        total = np.zeros((width, kinds))
        count = np.zeros((width, kinds))
        summed = np.zeros((width, kinds))
        previous = np.zeros(width)
        started = np.zeros(width, dtype=np.bool_)
        at = np.zeros(width, dtype=np.int32)
        upto = np.zeros(width, dtype=np.int32)
        for r in range(width):
            for g in range(bins):
                if confidence[first + r, g] != 0:
                    upto[r] = g + 1
        for k in range(matches):
            copies = block[scene[k]]
            for r in range(width):
                if copies[r] == 0:
                    continue
                while at[r] < upto[r] and confidence[first + r, at[r]] >= score[k]:
                    x = confidence[first + r, at[r]]
                    for e in range(kinds):
                        upper = total[r, e] / count[r, e] if count[r, e] > 0 else 0.0
                        lower = upper
                        if not np.isnan(errors[k, e]):
                            lower = (total[r, e] + errors[k, e]) / (count[r, e] + 1)
                        if x == score[k] or not started[r]:
                            summed[r, e] += lower
                        else:
                            summed[r, e] += (upper - lower) / (previous[r] - score[k]) * (x - score[k]) + lower
                    at[r] += 1
                for e in range(kinds):
                    if not np.isnan(errors[k, e]):
                        total[r, e] += copies[r] * errors[k, e]
                        count[r, e] += copies[r]
                previous[r] = score[k]
                started[r] = True
        for r in range(width):
            for e in range(kinds):
                if not started[r] or upto[r] == 0 or count[r, e] == 0:
                    result[first + r, e] = 1.0
                else:
                    remaining = (upto[r] - at[r]) * (total[r, e] / count[r, e])
                    result[first + r, e] = (summed[r, e] + remaining) / upto[r]
