"""Two records of one run: which values are equal bit for bit, what differs by how much, and what may explain it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aqr_bench.records.record import Record, plain_json

# Of ``provenance``: results of a run, by kind. The other hashes are what it was made from.
RESULT_HASHES = {
    "train": ("checkpoint_sha256",),
    "evaluate": ("input_sha256", "predictions_sha256"),
    "measure": (),
}
NOT_RESULTS = frozenset(["same_as", "metric"])  # of ``extra``: whose work it was, and which engine scored
COUNTS = ("parameters", "iterations", "samples", "flops")  # of ``cost``: all that a clock and a machine do not decide
# Of ``cost``: what ``cost_ratios`` compares. Higher is more, whichever way is the better one.
TIMES = {"latency_ms": "latency", "training": "training step", "inference_peak_rss_mb": "peak memory"}


@dataclass(frozen=True)
class Difference:
    """A value that did not come out the same; ``size`` is the absolute difference of two numbers."""

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
    """What came of running something again.

    Args:
        equal: names of the results that are equal bit for bit, e.g. ``scores.mAP``, ``curve.10``.
        different: those that are not.
        unknown: results that only one of the two records has, since records of its time held no such thing.
        causes: what else differs and may be why, in words: code, packages, machine, settings.
    """

    equal: tuple[str, ...]
    different: tuple[Difference, ...]
    unknown: tuple[str, ...]
    causes: tuple[str, ...]

    @property
    def same(self) -> bool:
        return not self.different


def compare(then: Record, now: Record) -> Comparison:
    """Compare the results of two records of one run, and collect what may explain a difference."""
    old, new = results_of(then), results_of(now)
    # The older record may be older than a hash that newer ones have; a value it has may not have gone.
    hashes = [f"provenance.{name}" for name in RESULT_HASHES[then.kind]]
    unknown = [name for name in hashes if (old.get(name) is None) != (new.get(name) is None) and then.ok and now.ok]
    names = [name for name in dict.fromkeys([*old, *new]) if name not in unknown]
    same = [name for name in names if name in old and name in new and _equal(old[name], new[name])]
    equal = set(same)
    different = [Difference(name, old.get(name), new.get(name)) for name in names if name not in equal]
    return Comparison(tuple(same), tuple(different), tuple(unknown), tuple(causes(then, now)))


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
    results = flat(data)
    return {key: value for key, value in results.items() if value is not None or key.startswith("scores.")}


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping of dotted names."""
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {name: value}
    flattened: dict[str, Any] = {}
    for key, item in items:
        flattened |= flat(item, f"{name}.{key}" if name else str(key))
    return flattened


def _equal(a: Any, b: Any) -> bool:
    # JSON writes the shortest text that gives the same float, so equal numbers are equal bit for bit (but for -0.0).
    return a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


# ---------------------------------------------------------------- what may be why


def causes(then: Record, now: Record) -> list[str]:
    """What the results were made from, by what and where, as far as it differs; in words."""
    old, new = then.provenance, now.provenance
    lines = []
    if _differ(old, new, "config_sha256"):
        lines.append(f"config: {_hash(old, 'config_sha256')} then, {_hash(new, 'config_sha256')} now")
    if _differ(old, new, "code_sha256"):
        lines.append(f"code: {_code(old)} then, {_code(new)} now")
    for key, what in (("data_sha256", "data"), ("infos_sha256", "info files")):
        if _differ(old, new, key):
            lines.append(f"{what}: {_hash(old, key)} then, {_hash(new, key)} now")
    if then.kind == "evaluate" and _differ(old, new, "checkpoint_sha256"):
        lines.append(f"checkpoint: {_hash(old, 'checkpoint_sha256')} then, {_hash(new, 'checkpoint_sha256')} now")
    if then.extra.get("metric") != now.extra.get("metric") and then.ok and now.ok:
        lines.append(f"metric: computed by {then.extra.get('metric')} then, by {now.extra.get('metric')} now")
    hashes = [{role: file["sha256"] for role, file in (p.get("files") or {}).items()} for p in (old, new)]
    lines += [
        f"{role}: {_short(hashes[0][role])} then, {_short(hashes[1].get(role) or 'nothing')} now"
        for role in hashes[0]
        if hashes[0][role] != hashes[1].get(role)
    ]
    for part in ("packages", "machine", "environment"):
        if part in old and part in new:
            lines += _changed(part, old[part], new[part])
    lines += [f"{key}: {old[key]} then, {new[key]} now" for key in ("loader_workers", "tf32") if _differ(old, new, key)]
    if _differ(then.cost, now.cost, "processes"):
        lines.append(f"processes: {then.cost['processes']} then, {now.cost['processes']} now")
    return lines


def _differ(old: Mapping[str, Any], new: Mapping[str, Any], key: str) -> bool:
    """Whether both know it and it differs."""
    return None not in (old.get(key), new.get(key)) and old[key] != new[key]


def _changed(part: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    # Memory, host and kernel do not compute.
    names = [n for n in dict.fromkeys([*old, *new]) if n not in ("host", "memory_gb", "release", "cores", "gpu_count")]
    changes = [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]
    prefix = "" if part == "packages" else f"{part}: "
    return [f"{prefix}{n} {'none' if a is None else a} then, {'none' if b is None else b} now" for n, a, b in changes]


def _hash(facts: Mapping[str, Any], key: str) -> str:
    return _short(facts[key])


def _code(facts: Mapping[str, Any]) -> str:
    commit = facts.get("git_commit")
    where = f" (commit {commit[:9]}{', with changes' if facts.get('git_dirty') else ''})" if commit else ""
    return f"{_hash(facts, 'code_sha256')}{where}"


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


# ---------------------------------------------------------------- in words


def in_words(comparison: Comparison, most: int = 5) -> list[str]:
    """What came out, in a few lines. The differences come with the first point of the loss curve, then the largest."""
    total = len(comparison.equal) + len(comparison.different)
    if comparison.same:
        lines = [f"came out the same: {total} values bit for bit ({grouped(comparison.equal)})"]
        lines += [f"  although {cause}" for cause in comparison.causes]
    else:
        lines = [f"came out different: {len(comparison.different)} of {total} values"]
        lines += [f"  {difference}" for difference in ordered(comparison.different)[:most]]
        if len(comparison.different) > most:
            lines.append(f"  and {len(comparison.different) - most} more")
        lines += [f"  perhaps because of {cause}" for cause in comparison.causes]
        if not comparison.causes:
            lines.append("  nothing that the records tell explains it: code, data, versions, machine are the same")
    if comparison.unknown:
        lines.append(f"  not compared, one of the records does not hold it: {', '.join(comparison.unknown)}")
    return lines


def ordered(differences: Sequence[Difference]) -> list[Difference]:
    """Status and reason, the first point of the loss curve that differs, other numbers by size, then the rest."""
    head = [d for d in differences if d.name in ("status", "reason")]
    curve = [d for d in differences if d.name.startswith("curve.")]
    head += sorted(curve, key=lambda d: int(d.name.partition(".")[2]))[:1]
    rest = [d for d in differences if d not in head]
    return head + sorted(rest, key=lambda d: -(d.size or 0))


def grouped(names: Sequence[str]) -> str:
    """``30 of the loss curve, 48 scores, checkpoint``: which sorts of values there are."""
    sorts = {"curve.": "of the loss curve", "scores.": "scores", "extra.inputs": "facts of the inputs"}
    sorts |= {"extra.": "other facts", "cost.": "counts"}
    left, words = list(names), []
    for start, what in sorts.items():
        names_of_sort = [name for name in left if name.startswith(start)]
        left = [name for name in left if name not in names_of_sort]
        words += [f"{len(names_of_sort)} {what}"] if names_of_sort else []
    return ", ".join([*(n.removeprefix("provenance.").removesuffix("_sha256") for n in left), *words])


def cost_ratios(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Now over then of latency, training step and peak memory, where both records have them."""
    lines = []
    for key, what in TIMES.items():
        values = [_median(cost.get(key)) for cost in (then, now)]
        if None not in values and values[0]:
            unit = "MB" if key.endswith("_mb") else "ms"
            lines.append(
                f"{what}: {values[0]:.1f} {unit} then, {values[1]:.1f} {unit} now, ratio {values[1] / values[0]:.3f}"
            )
    return lines


def _median(value: Any) -> float | None:
    if isinstance(value, Mapping):
        value = value.get("median", _median(value.get("latency_ms")))
    return float(value) if isinstance(value, int | float) else None
