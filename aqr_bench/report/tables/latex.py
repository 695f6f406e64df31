"""A table as LaTeX with booktabs, every character of its cells safe."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

# Commands of TeX, and characters that pdflatex does not have.
_SAFE = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': r"\textquotedbl{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "°": r"\textdegree{}",
    "µ": r"\textmu{}",
    "–": "--",
    "\N{NO-BREAK SPACE}": "~",
    "\N{NARROW NO-BREAK SPACE}": r"\,",
    "\n": " ",
}
_PREAMBLE = (
    "% \\usepackage{booktabs}, \\usepackage{textcomp}, \\usepackage[T1]{fontenc}; "
    "wider than the line: \\resizebox{\\linewidth}{!}{...}"
)


def escape(text: object) -> str:
    """Text as LaTeX prints it. A character outside Latin-1 that has no name here becomes a question mark."""
    return "".join(_SAFE.get(c, c if ord(c) < 256 else "?") for c in str(text))


def latex_table(
    cells: pd.DataFrame,
    numeric: frozenset[str],
    title: str,
    note: str,
    name: str,
    footer: str = "",
    bold: frozenset[tuple[int, str]] = frozenset(),
) -> str:
    """A ``table`` environment: caption, label ``tab:<name>``, the rows with three rules, and the note below.

    Args:
        cells: as text.
        numeric: columns that are set flush right.
        footer: added as a comment.
        bold: cells, by row number and column.
    """
    align = "".join("r" if c in numeric else "l" for c in cells.columns)
    body = [
        _row(row, frozenset(j for j, column in enumerate(cells.columns) if (i, column) in bold))
        for i, row in enumerate(cells.itertuples(index=False))
    ]
    comments = [_PREAMBLE, *(f"% {line}" for line in footer.splitlines())]
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{escape(title)}}}",
        rf"\label{{tab:{name.replace('_', '-')}}}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        _row(cells.columns),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        *([r"\par\smallskip", rf"{{\footnotesize {escape(note)}}}"] if note else []),
        r"\end{table}",
    ]
    return "\n".join([*comments, *lines, ""])


def _row(cells: Sequence[object], bold: frozenset[int] = frozenset()) -> str:
    texts = [rf"\textbf{{{escape(cell)}}}" if j in bold else escape(cell) for j, cell in enumerate(cells)]
    return " & ".join(texts) + r" \\"
