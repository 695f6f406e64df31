"""A table of the report: full precision for programs (CSV), rounded text for Markdown, LaTeX and the page."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from aqr_bench.atomic import write_text
from aqr_bench.report.tables.latex import latex_table


@dataclass(frozen=True)
class Row:
    """One row: ``data`` in full precision and ``text`` as displayed, by column; ``marked``: highlighted."""

    data: Mapping[str, Any]
    text: Mapping[str, str]
    marked: bool = False


_HTML_TAG = re.compile(r"<(?=[A-Za-z/!?])")
LONG = 40  # rows; a longer table scrolls in a box of the page


@dataclass(frozen=True)
class CellStyle:
    """How a cell looks on the page beyond its text: ``link`` is an anchor of the page, ``shade`` in 0..1."""

    hint: str = ""  # appears on hover
    link: str = ""
    shade: float | None = None


@dataclass(frozen=True)
class ReportTable:
    """``data`` holds full precision, ``text`` the same rows as text; ``marked`` are row numbers to highlight.

    ``numeric``: columns of ``text`` that are right-aligned. ``bold``, ``styles``: of cells, by row number and column.
    """

    name: str
    title: str
    data: pd.DataFrame
    text: pd.DataFrame
    note: str = ""
    marked: frozenset[int] = frozenset()
    numeric: frozenset[str] = frozenset()
    bold: frozenset[tuple[int, str]] = frozenset()
    styles: Mapping[tuple[int, str], CellStyle] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.text)

    def html(self) -> str:
        """The text as an HTML table; every cell is escaped."""
        columns = list(self.text.columns)

        def cell(tag: str, column: str, value: object, row: int = -1) -> str:
            style = self.styles.get((row, column), CellStyle())
            attributes = ' class="n"' if column in self.numeric else ""
            attributes += f' title="{html.escape(style.hint)}"' if style.hint else ""
            attributes += "" if style.shade is None else f' style="--shade:{100 * style.shade:.0f}%"'
            text = html.escape(str(value))
            text = f"<strong>{text}</strong>" if (row, column) in self.bold else text
            text = f'<a href="#{html.escape(style.link)}">{text}</a>' if style.link else text
            return f"<{tag}{attributes}>{text}</{tag}>"

        head = "".join(cell("th", c, c) for c in columns)
        rows = []
        for i, row in enumerate(self.text.itertuples(index=False)):
            kind = ' class="gap"' if i in self.marked else ""
            rows.append(f"<tr{kind}>{''.join(cell('td', c, v, i) for c, v in zip(columns, row, strict=True))}</tr>")
        body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
        box = "scroll long" if len(self) > LONG else "scroll"
        return f'<div class="{box}"><table data-csv="{html.escape(self.name)}">{body}</table></div>'

    def markdown(self, footer: str = "") -> str:
        """The text as a Markdown table, with title, note and footer."""
        head = [str(c) for c in self.text.columns]
        rule = ["---:" if c in self.numeric else "---" for c in head]
        columns = list(self.text.columns)
        rows = [
            [
                f"**{text}**" if (i, c) in self.bold else text
                for c, text in zip(columns, map(markdown_cell, row), strict=True)
            ]
            for i, row in enumerate(self.text.itertuples(index=False))
        ]
        lines = ["| " + " | ".join(cells) + " |" for cells in [[markdown_cell(c) for c in head], rule, *rows]]
        below = [line for text in (self.note, footer) if text for line in (text, "")]
        return "\n".join([f"### {self.title}", "", *lines, "", *below])

    def write(self, folder: Path, footer: str = "") -> None:
        """Write ``<name>.csv``, ``<name>.md`` and ``<name>.tex``; ``footer``: where the numbers come from."""
        write_text(folder / f"{self.name}.csv", self.csv())
        write_text(folder / f"{self.name}.md", self.markdown(footer))
        write_text(folder / f"{self.name}.tex", self.latex(footer))

    def csv(self) -> str:
        """The data in full precision."""
        return self.data.to_csv(index=False, lineterminator="\n")

    def latex(self, footer: str = "") -> str:
        """The text as a LaTeX table, with title, note and, as a comment, the footer."""
        return latex_table(self.text, self.numeric, self.title, self.note, self.name, footer, self.bold)


def make_table(
    name: str,
    title: str,
    rows: Sequence[Row],
    note: str = "",
    numeric: Collection[str] = (),
    columns: tuple[Sequence[str], Sequence[str]] | None = None,
) -> ReportTable:
    """A table of ``rows``; ``columns``: those of data and of text where there may be no row."""
    data_columns, text_columns = columns or (None, None)
    return ReportTable(
        name,
        title,
        pd.DataFrame([row.data for row in rows], columns=data_columns),
        pd.DataFrame([row.text for row in rows], columns=text_columns),
        note,
        frozenset(i for i, row in enumerate(rows) if row.marked),
        frozenset(numeric),
    )


def markdown_cell(value: object) -> str:
    """The text in one line that Markdown shows as it is: without columns and HTML tags of its own."""
    text = str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
    return _HTML_TAG.sub(r"\\<", text)
