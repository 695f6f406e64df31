"""Rows of the fault campaign and the table that they make: what is promised, what was seen, and whether they agree."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from aqr_bench.atomic import write_text
from aqr_bench.records.provenance import machine

YES, NO, SKIPPED = "yes", "no", "not tried"
HEADER = ("fault", "stage", "tries", "promised", "seen", "as promised")


@dataclass(frozen=True)
class Row:
    """One fault in one stage. ``ended``: tries for which the process had ended before the fault came; not counted."""

    fault: str
    stage: str
    promised: str
    seen: str
    held: str  # yes | no | not tried
    tries: int = 1
    ended: int = 0

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        seen = self.seen + (f"; {self.ended} more had ended before" if self.ended else "")
        return self.fault, self.stage, str(self.tries), self.promised, seen, self.held


def read_rows(file: Path) -> dict[str, Row]:
    """Rows by case, the last of each."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return {line.pop("case"): Row(**line) for line in lines}


def add_row(file: Path, case: str, row: Row, roots: Iterable[Path] = ()) -> None:
    """Append a row to a JSON-lines file, without the names of ``roots``, which only this machine has."""
    for root in roots:
        row = replace(row, seen=row.seen.replace(f"{root}/", ""))
    with file.open("a") as out:
        out.write(json.dumps({"case": case, **asdict(row)}) + "\n")


def summary(rows: Iterable[Row]) -> str:
    """How many cases went as promised, and how many kills there were."""
    rows = list(rows)
    tried = [row for row in rows if row.held != SKIPPED]
    kills = sum(row.tries for row in tried if row.fault.startswith("SIG"))
    text = f"{sum(row.held == YES for row in tried)} of {len(tried)} cases as promised; {kills} kills in all"
    return text + (f"; {len(rows) - len(tried)} not tried" if len(tried) < len(rows) else "")


def write_tables(rows: Iterable[Row], folder: Path, code: str) -> None:
    """Write table.csv and table.md. ``code``: which code was tried."""
    rows = list(rows)
    folder.mkdir(parents=True, exist_ok=True)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([HEADER, *(row.cells() for row in rows)])
    write_text(folder / "table.csv", out.getvalue())
    facts = machine()
    where = f"{facts['cpu']}, {facts['cores_usable']} cores, {facts['memory_gb']:.0f} GB, {facts['system']}"
    lines = [
        "# Faults: what is promised, and what was seen\n",
        "Made by `make faults`; [docs/faults.md](../../docs/faults.md) says how.",
        f"{summary(rows)}. Machine: {where}. Package: {code}.\n",
        f"| {' | '.join(HEADER)} |",
        f"|{'---|' * len(HEADER)}",
        *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row.cells())} |" for row in rows),
    ]
    write_text(folder / "table.md", "\n".join(lines) + "\n")
