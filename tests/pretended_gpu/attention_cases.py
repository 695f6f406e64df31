"""The attention backends that run on the pretended GPU, as data; run_attention.py runs them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionCase:
    """Attention with a bias, forward and backward, held against float64.

    Args:
        backend: of ``biased_attention``.
        dtype: of q, k, v and the bias.
        geometry: ``grid``: BEV and camera windows of cross-attention; ``self``: cells of a self-attention.
        rows: queries, and in a self-attention keys: the columns of its mask.
        masked: with a mask as denoising has it: groups of queries that do not see each other.
        hard: nothing but the windows is attended to.
    """

    backend: str
    dtype: str = "float32"
    geometry: str = "grid"
    rows: int = 24
    masked: bool = False
    hard: bool = False

    @property
    def name(self) -> str:
        extras = [word for word, has in (("masked rows", self.masked), ("hard", self.hard)) if has]
        return ", ".join([self.backend, self.dtype, f"{self.geometry} {self.rows}", *extras])


HALF = ("float16", "bfloat16")
ATTENTION = [
    *(AttentionCase(backend) for backend in ("auto", "masked", "window", "literal")),
    *(AttentionCase(backend, hard=True) for backend in ("auto", "masked", "window")),
    *(AttentionCase(backend, dtype) for dtype in HALF for backend in ("auto", "masked", "literal")),
    *(AttentionCase("masked", dtype, hard=True) for dtype in HALF),
    *(
        AttentionCase(backend, "float32", "self", rows, masked=True)
        for rows in (64, 65, 66, 68)
        for backend in ("auto", "masked", "window")
    ),
    *(AttentionCase("masked", dtype, "self", rows, masked=True) for dtype in HALF for rows in (64, 65, 66, 68)),
]
