"""A measurement record as a small table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aqr_bench.records.record import Record

FEW = 5  # operators that are named; the record has them all


def table(record: Record) -> str:
    """Lines of ``what   how much``; parts that were not measured are left out, those that failed have the reason."""
    cost, machine = record.cost, record.provenance.get("machine") or {}
    where = machine.get("gpu") or machine.get("cpu") or "unknown machine"
    head = f"{record.study}/{record.variant}, tier {record.tier}"
    failure = [] if record.ok else [f"{head}: {record.status}: {record.reason}"]
    if "parameters" not in cost:  # nothing was measured
        return "\n".join(failure)
    rows = [(head, f"{where}, {cost['threads']} threads, batch {cost['batch_size']}")]
    if "batch_size_reason" in cost:
        rows.append(("  smaller batch", f"{cost['batch_size_reason']}; asked for {cost['batch_size_asked']}"))
    rows.append(("parameters", f"{cost['parameters']:,}".replace(",", " ")))
    rows += _latency(cost) + _throughput(cost) + _memory(cost) + _flops(cost) + _stages(cost) + _training(cost)
    width = max(len(name) for name, _ in rows)
    return "\n".join([*failure, *(f"{name:<{width}}  {text}" for name, text in rows)])


def _times(found: Mapping[str, Any], against: str) -> str:
    median, p95 = (found["latency_ms"][key] for key in ("median", "p95"))
    low, high = found["latency_ratio_quartiles"]
    return (
        f"{median:.1f} ms median, {p95:.1f} p95; {found['latency_ratio']:.3f} of {against} "
        f"({low:.3f} to {high:.3f}), by processor time {found['latency_cpu_ratio']:.3f}"
    )


def _latency(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "latency" in cost:
        return [("latency", _failure(cost["latency"]))]
    if "latency_ms" not in cost:
        return []
    without, against = cost["without_voxelisation"], cost["compared_with"]
    text = _times(without, against) if without["status"] == "ok" else without["reason"]
    return [("latency", _times(cost, against)), ("  without voxelisation", text)]


def _throughput(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    parts = []
    for row in cost.get("throughput", []):
        if row["samples_per_s"] is None:
            reason = "out of memory" if row["status"] == "oom" else _failure(row)
            parts.append(f"batch {row['asked']}: {reason}")
            continue
        text = f"batch {row['asked']}: {row['samples_per_s']:.1f}"
        if "reason" in row:
            text += f" (with {row['batch_size']}: {row['reason']})"
        parts.append(text)
    return [("samples per s", ", ".join(parts))] if parts else []


def _memory(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for what, found in cost.get("memory", {}).items():
        if found is None:
            continue
        if "rss_peak_mb" not in found:
            rows.append((f"memory, {what}", _failure(found)))
            continue
        text = f"{found['rss_peak_mb']:.0f} MB resident ({found['rss_peak_is']})"
        if found["torch_allocated_mb"] is not None:
            text += f", torch {found['torch_allocated_mb']:.0f} allocated, {found['torch_reserved_mb']:.0f} reserved"
        rows.append((f"memory, {what}", f"{text}; NVML: {found['gpu']['nvml']}"))
    return rows


def _flops(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for what, found in cost.get("flops", {}).items():
        if found is None:
            continue
        if "total" not in found:
            rows.append((f"arithmetic, {what}", _failure(found)))
            continue
        most = ", ".join(f"{name} x {calls}" for name, calls in list(found["uncounted"].items())[:FEW])
        text = f"{found['total'] / 1e9:.2f} GFLOP a sample; {len(found['uncounted'])} operators not counted: {most}"
        rows.append((f"arithmetic, {what}", f"{text}, ..." if len(found["uncounted"]) > FEW else text))
    return rows


def _failure(found: Mapping[str, Any]) -> str:
    return f"{found['status']}: {found['reason']}"


def _stages(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = cost.get("stages")
    if not found:
        return []
    if "median_ms" not in found:
        return [("stages", _failure(found))]
    parts = ", ".join(f"{name} {ms:.2f}" for name, ms in found["median_ms"].items())
    return [("stages, ms", f"{parts}; {100 * found['named_share']:.0f} % has a name")]


def _training(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = cost.get("training")
    if not found:
        return []
    if found["status"] != "ok":
        return [("training step", _failure(found))]
    parts = ", ".join(f"{p} {found[f'{p}_ms']['median']:.0f}" for p in ("forward", "backward", "optimiser"))
    text = f"{_times(found, cost['compared_with'])}; {parts}; batch {found['batch_size']}, {found['precision']}"
    if "batch_size_reason" in found:
        text += f"; {found['batch_size_reason']}"
    return [("training step", text)]
