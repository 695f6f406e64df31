"""Suite nuscenes_c."""

from __future__ import annotations

from aqr_bench.corruptions.condition import Condition

CONDITIONS: tuple[Condition, ...] = ()
