"""What the router does at evaluation: every query's weights, written to a file and summed up in the record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aqr_bench.atomic import atomic_write
from aqr_bench.bias import GuardCount, count_guarded

CONFIDENT = 0.3  # a query with at least this score is looked at by itself: most queries see nothing but background
MODALITIES = ("lidar", "camera")


class RouterLog:
    """Records the weights of every forward pass of a head, as a context manager around them.

    A head without a router leaves it empty, as does a detector without such a head (None). ``guard`` counts the rows of
    attention backend ``window``.
    """

    def __init__(self, head: Any) -> None:
        self.head = head if getattr(head, "has_router", False) else None
        self.tokens: list[str] = []
        self.parts: dict[str, list[np.ndarray]] = {"weight": [], "score": [], "centre": []}
        self.guard = GuardCount()

    def __enter__(self) -> RouterLog:
        self._hook = self.head.register_forward_hook(self._record) if self.head is not None else None
        self._counting = count_guarded()
        self.guard = self._counting.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._counting.__exit__(*error)
        if self._hook is not None:
            self._hook.remove()

    def _record(self, head: Any, inputs: Sequence[Any], outputs: Sequence[Sequence[dict]]) -> None:
        first = outputs[0][0]
        if "aqr" not in first:
            return
        import torch

        logits = torch.cat([task[0]["cls_logits"][-1] for task in outputs], -1)
        self.tokens += [str(meta.get("token", "")) for meta in inputs[2]]
        for name, value in (
            ("weight", torch.stack(first["aqr"][0].weights, -1)),
            ("score", logits.sigmoid().amax(-1)),
            ("centre", first["center"][-1]),
        ):
            self.parts[name].append(value.detach().half().cpu().numpy())

    def arrays(self) -> dict[str, np.ndarray]:
        """token [F]; weight [F, Q, 2] (LiDAR, camera); score [F, Q]; centre [F, Q, 2] (x, y in metres, LiDAR frame)."""
        return {"token": np.array(self.tokens), **{name: np.concatenate(part) for name, part in self.parts.items()}}

    def save(self, path: Path) -> dict[str, Any]:
        """Write the arrays as .npz (float16) and return their summary, or ``{}`` where there was no router."""
        if not self.tokens:
            return {}
        arrays = self.arrays()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        facts: dict[str, Any] = {"file": path.name, **summary(arrays["weight"], arrays["score"])}
        if self.guard.rows:
            facts["guarded_share"] = self.guard.share
        return facts


def summary(weight_FQ2: np.ndarray, score_FQ: np.ndarray) -> dict[str, Any]:
    """Mean, standard deviation and percentiles of either weight, over all queries and over confident ones.

    Returns:
        {"all" | "confident": {"queries": count, "lidar" | "camera": {"mean", "sd", "p5", "p50", "p95"}}}; a group
        without queries has the count alone.
    """
    groups = {"all": weight_FQ2.reshape(-1, 2), "confident": weight_FQ2[score_FQ >= CONFIDENT]}
    return {name: {"queries": len(rows), **_statistics(rows.astype(np.float64))} for name, rows in groups.items()}


def _statistics(rows_N2: np.ndarray) -> dict[str, dict[str, float]]:
    if not len(rows_N2):
        return {}
    low, middle, high = np.percentile(rows_N2, [5, 50, 95], axis=0)
    columns = zip(MODALITIES, rows_N2.mean(0), rows_N2.std(0), low, middle, high, strict=True)
    return {
        name: {key: round(float(v), 4) for key, v in zip(("mean", "sd", "p5", "p50", "p95"), values, strict=True)}
        for name, *values in columns
    }
