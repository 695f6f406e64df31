"""A measurement record as a text table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aqr_bench.records.record import Record

MAX_OPERATORS = 5  # that are named; the record has them all


def table(record: Record) -> str:
    """Lines of ``name   value``; parts that were not measured are left out, those that failed have the reason."""
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
    rows += (
        _latency(cost)
        + _throughput(cost)
        + _memory(cost)
        + _flops(cost)
        + _kernels(cost)
        + _stages(cost)
        + _training(cost)
    )
    width = max(len(name) for name, _ in rows)
    return "\n".join([*failure, *(f"{name:<{width}}  {text}" for name, text in rows)])


def _times(part: Mapping[str, Any], against: str) -> str:
    median, p95 = (part["latency_ms"][key] for key in ("median", "p95"))
    low, high = part["latency_ratio_quartiles"]
    return (
        f"{median:.1f} ms median, {p95:.1f} p95; {part['latency_ratio']:.3f} of {against} "
        f"({low:.3f} to {high:.3f}), by processor time {part['latency_cpu_ratio']:.3f}"
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
    for what, part in cost.get("memory", {}).items():
        if part is None:
            continue
        if "rss_peak_mb" not in part:
            rows.append((f"memory, {what}", _failure(part)))
            continue
        text = f"{part['rss_peak_mb']:.0f} MB resident ({part['rss_peak_is']})"
        if part["torch_allocated_mb"] is not None:
            text += f", torch {part['torch_allocated_mb']:.0f} allocated, {part['torch_reserved_mb']:.0f} reserved"
        rows.append((f"memory, {what}", f"{text}; NVML: {part['gpu']['nvml']}"))
    return rows


def _flops(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for what, part in cost.get("flops", {}).items():
        if part is None:
            continue
        if "total" not in part:
            rows.append((f"FLOPs, {what}", _failure(part)))
            continue
        names = ", ".join(f"{name} x {calls}" for name, calls in list(part["uncounted"].items())[:MAX_OPERATORS])
        text = f"{part['total'] / 1e9:.2f} GFLOP a sample; {len(part['uncounted'])} operators not counted: {names}"
        rows.append((f"FLOPs, {what}", f"{text}, ..." if len(part["uncounted"]) > MAX_OPERATORS else text))
    return rows


def _kernels(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    parts = {what: part for what, part in cost.get("attention_kernels", {}).items() if part is not None}
    texts = {what: _failure(part) if isinstance(part, Mapping) else part or "none" for what, part in parts.items()}
    return [(f"attention kernels, {what}", text) for what, text in texts.items()]


def _failure(part: Mapping[str, Any]) -> str:
    return f"{part['status']}: {part['reason']}"


def _stages(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    part = cost.get("stages")
    if not part:
        return []
    if "median_ms" not in part:
        return [("stages", _failure(part))]
    parts = ", ".join(f"{name} {ms:.2f}" for name, ms in part["median_ms"].items())
    return [("stages, ms", f"{parts}; {100 * part['named_share']:.0f} % has a name")]


def _training(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    part = cost.get("training")
    if not part:
        return []
    if part["status"] != "ok":
        return [("training step", _failure(part))]
    parts = ", ".join(f"{p} {part[f'{p}_ms']['median']:.0f}" for p in ("forward", "backward", "optimiser"))
    text = f"{_times(part, cost['compared_with'])}; {parts}; batch {part['batch_size']}, {part['precision']}"
    if "batch_size_reason" in part:
        text += f"; {part['batch_size_reason']}"
    return [("training step", text)]
