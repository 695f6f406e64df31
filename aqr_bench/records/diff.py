"""Two records of one run: which values are equal bit for bit, which differ by how much, and what may explain it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aqr_bench.records.record import Record, plain_json

# Of ``provenance``: results of a run, by kind. The other hashes are of what it was computed from.
RESULT_HASHES = {
    "train": ("checkpoint_sha256",),
    "evaluate": ("input_sha256", "predictions_sha256"),
    "measure": (),
}
NOT_RESULTS = frozenset(["same_as", "metric"])  # of ``extra``: whose result was reused, and which engine scored
COUNTS = ("parameters", "iterations", "samples", "flops")  # of ``cost``: all that a clock and a machine do not decide
NO_CAUSES = frozenset(["host", "memory_gb", "release", "cores", "gpu_count"])  # of ``machine``: they compute nothing
# Of ``cost``: what ``cost_ratios`` compares. Higher is more, whichever way is the better one.
TIMES = {"latency_ms": "latency", "training": "training step", "inference_peak_rss_mb": "peak memory"}


@dataclass(frozen=True)
class Difference:
    """A result that differs; ``size`` is the absolute difference of two numbers."""

    name: str
    then: Any
    now: Any

    @property
    def size(self) -> float | None:
        numbers = [v for v in (self.then, self.now) if isinstance(v, int | float) and not isinstance(v, bool)]
        return abs(numbers[0] - numbers[1]) if len(numbers) == 2 else None

    def __str__(self) -> str:
        then, now = ("nothing" if v is None else _short(v) for v in (self.then, self.now))
        if self.size is None:
            return f"{self.name}: {then} then, {now} now"
        relative = self.size / abs(self.then) if self.then else math.inf
        return f"{self.name}: {then} then, {now} now (off by {self.size:.3g}, relative {relative:.2g})"


@dataclass(frozen=True)
class Comparison:
    """Results of a run and of its repetition.

    Args:
        equal: names of the results that are equal bit for bit, e.g. ``scores.mAP``, ``curve.10``.
        different: those that are not.
        unknown: results that only one of the two records has, since records of its time had no such entry.
        causes: what else differs and may be why, human-readable: code, packages, machine, settings.
    """

    equal: tuple[str, ...]
    different: tuple[Difference, ...]
    unknown: tuple[str, ...]
    causes: tuple[str, ...]

    @property
    def same(self) -> bool:
        return not self.different

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON: how many values are equal, and all that differ."""
        different = [{"name": d.name, "then": d.then, "now": d.now} for d in ordered(self.different)]
        facts = {"identical": self.same, "equal": len(self.equal), "different": different}
        return {**facts, "not_compared": self.unknown, "causes": self.causes}


def compare(then: Record, now: Record) -> Comparison:
    """Compare the results of two records of one run, and collect what may explain a difference."""
    old, new = results_of(then), results_of(now)
    # The older record may be older than a hash that newer ones have; a value that it has must be in the newer one.
    hashes = [f"provenance.{name}" for name in RESULT_HASHES[then.kind]]
    unknown = [name for name in hashes if (old.get(name) is None) != (new.get(name) is None) and then.ok and now.ok]
    names = [name for name in dict.fromkeys([*old, *new]) if name not in unknown]
    equal = {name: name in old and name in new and _equal(old[name], new[name]) for name in names}
    different = [Difference(name, old.get(name), new.get(name)) for name in names if not equal[name]]
    return Comparison(
        tuple(name for name in names if equal[name]), tuple(different), tuple(unknown), tuple(causes(then, now))
    )


def results_of(record: Record) -> dict[str, Any]:
    """Everything in a record that a run with the same seed has to give again, by dotted name."""
    data = plain_json(
        {
            "status": record.status,
            "reason": record.reason,
            "scores": record.scores,
            "curve": {str(int(at)): loss for at, loss in record.curve},
            "cost": {key: record.cost[key] for key in COUNTS if key in record.cost},
            "extra": {key: value for key, value in record.extra.items() if key not in NOT_RESULTS},
            "provenance": {key: record.provenance.get(key) for key in RESULT_HASHES[record.kind]},
        }
    )
    return {key: value for key, value in flat(data).items() if value is not None or key.startswith("scores.")}


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping of dotted names."""
    if not isinstance(value, Mapping | list):
        return {name: value}
    flattened: dict[str, Any] = {}
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        flattened |= flat(item, f"{name}.{key}" if name else str(key))
    return flattened


def _equal(a: Any, b: Any) -> bool:
    # JSON writes the shortest text that gives the same float, so equal numbers are equal bit for bit (but for -0.0).
    return a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


def causes(then: Record, now: Record) -> list[str]:
    """What the results were computed from, by what and where, as far as it differs: ``torch 2.13.0 then, 2.14.0 now``.

    A fact that only one of the records has explains nothing, except for packages, machine and environment.
    """
    old, new = then.provenance, now.provenance
    names = {"config": "config", "code": "code", "data": "data", "info files": "infos"}
    names |= {"checkpoint": "checkpoint"} if then.kind == "evaluate" else {}
    facts = {f"{label}:": (old.get(f"{key}_sha256"), new.get(f"{key}_sha256")) for label, key in names.items()}
    if then.ok and now.ok:
        facts["metric:"] = (then.extra.get("metric"), now.extra.get("metric"))
    files = new.get("files") or {}
    for role, file in (old.get("files") or {}).items():
        facts[f"{role}:"] = (file["sha256"], files.get(role, {}).get("sha256") or "nothing")
    for part in ("packages", "machine", "environment"):
        if part in old and part in new:
            for name in dict.fromkeys([*old[part], *new[part]]):
                if name not in NO_CAUSES:
                    values = (old[part].get(name), new[part].get(name))
                    label = name if part == "packages" else f"{part}: {name}"
                    facts[label] = tuple("none" if value is None else value for value in values)
    facts |= {f"{key}:": (old.get(key), new.get(key)) for key in ("loader_workers", "tf32")}
    facts["processes:"] = (then.cost.get("processes"), now.cost.get("processes"))
    return [
        f"{name} {_short(a)}{_commit(name, old)} then, {_short(b)}{_commit(name, new)} now"
        for name, (a, b) in facts.items()
        if None not in (a, b) and a != b
    ]


def _commit(name: str, facts: Mapping[str, Any]) -> str:
    commit = facts.get("git_commit")
    if name != "code:" or not commit:
        return ""
    return f" (commit {commit[:9]}{', with changes' if facts.get('git_dirty') else ''})"


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


# ---------------------------------------------------------------- human-readable


def summary_lines(comparison: Comparison, max_differences: int = 5) -> list[str]:
    """The result in a few lines. The differences come with the first point of the loss curve, then the largest."""
    total = len(comparison.equal) + len(comparison.different)
    if comparison.same:
        lines = [f"identical: {total} values bit for bit ({grouped(comparison.equal)})"]
        lines += [f"  although {cause}" for cause in comparison.causes]
    else:
        lines = [f"different: {len(comparison.different)} of {total} values"]
        lines += [f"  {difference}" for difference in ordered(comparison.different)[:max_differences]]
        if len(comparison.different) > max_differences:
            lines.append(f"  and {len(comparison.different) - max_differences} more")
        lines += [f"  perhaps because of {cause}" for cause in comparison.causes]
        if not comparison.causes:
            lines.append("  nothing in the records explains it: code, data, versions, machine are the same")
    if comparison.unknown:
        lines.append(f"  not compared, one of the records does not have it: {', '.join(comparison.unknown)}")
    return lines


def ordered(differences: Sequence[Difference]) -> list[Difference]:
    """Status and reason, the first point of the loss curve that differs, other numbers by size, then the rest."""
    head = [d for d in differences if d.name in ("status", "reason")]
    curve = [d for d in differences if d.name.startswith("curve.")]
    head += sorted(curve, key=lambda d: int(d.name.partition(".")[2]))[:1]
    rest = [d for d in differences if d not in head]
    return head + sorted(rest, key=lambda d: -(d.size or 0))


def grouped(names: Sequence[str]) -> str:
    """How many values of which kind: ``checkpoint, 30 of the loss curve, 48 scores``."""
    kinds = {"curve.": "of the loss curve", "scores.": "scores", "extra.inputs": "facts of the inputs"}
    kinds |= {"extra.": "other facts", "cost.": "counts"}
    remaining, counts = list(names), []
    for start, what in kinds.items():
        number = len(remaining)
        remaining = [name for name in remaining if not name.startswith(start)]
        counts += [f"{number - len(remaining)} {what}"] if number > len(remaining) else []
    return ", ".join([*(n.removeprefix("provenance.").removesuffix("_sha256") for n in remaining), *counts])


def cost_ratios(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Now over then of latency, training step and peak memory, where both records have them."""
    lines = []
    for key, what in TIMES.items():
        old, new = (_median(cost.get(key)) for cost in (then, now))
        if old and new is not None:
            unit = "MB" if key.endswith("_mb") else "ms"
            lines.append(f"{what}: {old:.1f} {unit} then, {new:.1f} {unit} now, ratio {new / old:.3f}")
    return lines


def _median(value: Any) -> float | None:
    if isinstance(value, Mapping):
        value = value.get("median", _median(value.get("latency_ms")))
    return float(value) if isinstance(value, int | float) else None
