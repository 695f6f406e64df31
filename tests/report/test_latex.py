"""LaTeX tables: nothing in a cell is a command, and pdflatex, where there is one, takes them."""

from __future__ import annotations

import shutil
import subprocess

import pandas as pd
import pytest

from aqr_bench.report.tables.latex import escape, latex_table

NASTY = 'a_b & 95 % #1 $x$ {y} \\z ~ ^ < > " − – ± 日\nend'


def table() -> str:
    shown = pd.DataFrame({"Con_dition": [NASTY, "no_lidar"], "95 %, seeds": ["−0.003 to +0.027", "–"]})
    return latex_table(shown, frozenset(["95 %, seeds"]), "A & B_c", "Read: 5 %.", "my_table", "Seeds: 0_1")


def test_every_character_is_safe():
    assert escape("50 % of a_b & c") == r"50 \% of a\_b \& c" and escape("−0.1 – 日") == "$-$0.1 -- ?"
    text = table()
    assert r"\begin{tabular}{lr}" in text and r"Con\_dition & 95 \%, seeds \\" in text
    assert r"no\_lidar & -- \\" in text and r"\caption{A \& B\_c}" in text and r"\label{tab:my-table}" in text
    assert [rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [True] * 3
    assert "% Seeds: 0_1\n" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex (Debian: texlive-latex-recommended)")
def test_pdflatex_takes_it(tmp_path):
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{textcomp}\usepackage{booktabs}"
    (tmp_path / "t.tex").write_text(head + "\n\\begin{document}\n" + table() + "\\end{document}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 5000
