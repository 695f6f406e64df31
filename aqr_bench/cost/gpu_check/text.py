"""The result of a check as Markdown: one table per part, with a column for every key of its rows."""

from __future__ import annotations

from typing import Any


def markdown(result: dict[str, Any]) -> str:
    """The page: a table of the parts, then the rows of each."""
    device = result["machine"]["gpu" if result["device"] == "cuda" else "cpu"]
    facts = {**result["machine"], **result["packages"]}
    lines = [
        "# GPU check",
        "",
        f"{device}, torch {result['packages'].get('torch')}, size {result['size']}, {result['started']}, "
        f"{result['seconds']:.0f} s. Times are medians. Ratios are to attention without bias, to the plain head, or to "
        "what a row names: measured alternately, median and quartiles. An error is the largest over the largest value; "
        "that of gradients is the norm of the difference over the norm of the gradients.",
        "",
        ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None),
        "",
        "| part | status | seconds | limit |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {p['name']} | {_cell(p['status'])} | {p['seconds']:.1f} | {p['limit_s']:.0f} |" for p in result["parts"]
    ]
    for part in result["parts"]:
        lines += ["", f"## {part['title']}", ""]
        if "error" in part:
            lines += [f"{part['status']}: {_cell(part['error'])}", ""]
        lines += _table([_flat(row) for row in part["rows"]])
    return "\n".join(lines).rstrip()


def _table(rows: list[dict[str, str]]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return []
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return lines + ["| " + " | ".join(row.get(key, "") for key in columns) + " |" for row in rows]


def _flat(row: dict[str, Any]) -> dict[str, str]:
    """The row as texts; medians, ratios, errors and memory have their columns."""
    flat: dict[str, str] = {}
    for key, value in row.items():
        if key.endswith("_ms"):
            flat[key.replace("latency", "median").replace("_", " ")] = _number(value["median"])
        elif key == "ratio":
            flat[key] = f"{value['median']:.2f} ({value['low']:.2f}-{value['high']:.2f})"
        elif key == "error" and isinstance(value, dict):
            flat.update({f"error, {name}": f"{error:.1e}" for name, error in value.items()})
        elif key == "memory":
            flat["peak RSS MB"] = "" if value["rss_peak_mb"] is None else f"{value['rss_peak_mb']:.0f}"
            for name in ("allocated", "reserved"):
                if value[f"torch_{name}_mb"] is not None:
                    flat[f"{name} MB"] = f"{value[f'torch_{name}_mb']:.0f}"
        else:
            flat[key.replace("_", " ")] = _cell(_number(value) if isinstance(value, float) else str(value))
    return flat


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
