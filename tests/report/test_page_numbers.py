"""Every number on the page is the CSV's, and every table lies beside the page in all formats with its origin below."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from report_records import fill, make_study

from aqr_bench.report.page import build_report
from aqr_bench.report.section import ReportSection
from aqr_bench.report.tables.table import ReportTable
from aqr_bench.study.load import load_study, load_tier

NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:\.\d+)?(?![\w.]*\w)")
# Columns whose heading in the page is not that of the CSV.
SAME = {
    "made_up_scores": {
        "mAP": ["mAP_mean"],
        "Difference": ["difference"],
        "95 %, seeds": ["low95", "high95"],
        "95 %, scenes": ["scenes_low95", "scenes_high95"],
        "p, Holm": ["p_holm"],
        "sd": ["mAP_sd"],
        "Runs": ["ok", "wanted"],
    },
    "made_up_cost": {
        "Parameters": ["parameters"],
        "Training, min": ["training_minutes"],
        "Latency median, ms": ["latency_median_ms"],
        "p95, ms": ["latency_p95_ms"],
        "Ratio": ["latency_ratio"],
        "Samples per s": ["throughput_per_s"],
        "Peak memory, MB": ["peak_rss_mb"],
    },
}
SAME |= {name: {"Runs": ["ok", "wanted"]} for name in ("base", "made_up_metrics")}
MAIN = {"base", *(f"made_up_{n}" for n in ("scores", "by_condition", "cost", "metrics", "classes", "runs"))}


class Tables(HTMLParser):
    """Rows of cells by the CSV that a table names; all other text in ``text``."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.text, self._rows, self._cell = "", None, None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self._rows = self.tables.setdefault(dict(attrs)["data-csv"], [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._rows[-1].append(self._cell)
            self._cell = None

    def handle_data(self, data):
        if self._cell is None:
            self.text += data
        else:
            self._cell += data


def numbers(cell: str) -> list[str]:
    """The numbers of a cell, a thin space between thousands and a true minus taken out."""
    plain = re.sub(r"(?<=\d)[\u00a0\u202f ](?=\d{3})", "", cell.replace("−", "-"))
    return NUMBER.findall(plain)


def shown_as(value: float, text: str) -> bool:
    """Whether the value, rounded as the text is, is the text."""
    digits = len(text.partition(".")[2])
    return math.isfinite(value) and math.isclose(float(f"{value:.{digits}f}"), float(text), abs_tol=1e-12)


def floats(values) -> list[float]:
    return [float(v) for v in pd.to_numeric(pd.Series(list(values)), errors="coerce").dropna()]


def is_key(value: object, cell: str) -> bool:
    """Whether a value of the CSV is what a cell names: text, a seed (floating point beside gaps), or nothing."""
    if isinstance(value, float):
        return cell == ("–" if math.isnan(value) else f"{value:g}")
    return str(value) == cell.removesuffix(" (baseline)")


def check_table(name: str, rows: list[list[str]], csv: pd.DataFrame) -> int:
    """Compare a table with its CSV; returns how many numbers were compared."""
    head, *body = rows
    lower = {c.lower(): c for c in csv.columns}
    keys = [c for c in head if c.lower() in ("condition", "variant", "class", "seed", "corruption", "metric", "model")]
    compared = 0
    for row in body:
        cells = dict(zip(head, row, strict=True))
        matching = csv
        for key in keys:
            if key.lower() in lower:
                matching = matching[[is_key(v, cells[key]) for v in matching[lower[key.lower()]]]]
        assert len(matching), (name, row)
        for column in head:
            if column in keys:
                continue
            result = numbers(cells[column])
            exact = SAME.get(name, {}).get(column) or [c for c in [lower.get(column.lower())] if c]
            if name in MAIN and result:
                assert len(matching) == 1 and len(exact) == len(result), (name, column, cells[column])
                pairs = zip((float(matching.iloc[0][c]) for c in exact), result, strict=True)
                assert all(shown_as(value, text) for value, text in pairs), (name, column, row)
            elif name in MAIN and column not in ("Verdict", "Corrected", "Status", "Measured"):
                assert matching[exact].isna().all(axis=None), (name, column, row)  # nothing shown: nothing there
            else:
                pool = [v for c in matching.columns for v in floats(matching[c])]
                pool += [
                    value for part in matching.select_dtypes("number").columns for value in [matching[part].mean()]
                ]
                assert all(any(shown_as(v, t) for v in pool) for t in result), (name, column, cells[column])
            compared += len(result)
    return compared


def check_page(out: Path) -> dict[str, int]:
    """Check every table of a report, and the decimal numbers of its answers; numbers compared by table."""
    page = Tables((out / "index.html").read_text(encoding="utf-8"))
    compared = {}
    for name, rows in page.tables.items():
        if name == "sanity_alarms":  # sentences and places, no numbers of its own
            continue
        compared[name] = check_table(name, rows, pd.read_csv(out / "tables" / f"{name}.csv"))
    return compared


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    study = load_study(make_study(folder, seeds=(0, 1, 2)))
    fill(folder / "results", study.path, scenes=12, effects={"none": 0.0, "cross": 0.2})
    return build_report(load_tier("smoke"), [study], folder / "results", folder / "out").parent


def test_every_number_of_the_page_is_the_csvs(report):
    compared = check_page(report)
    assert compared.keys() >= MAIN and compared["made_up_scores"] >= 36 and compared["made_up_runs"] >= 36


def test_the_page_needs_nothing_from_elsewhere_and_no_script(report):
    page = (report / "index.html").read_text(encoding="utf-8")
    without = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert page.count("<script") == 1 and len(without) < len(page)
    # Neither script nor style fetches anything; links lead to parts of the page that are there.
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)|@import|url\((?!#)|https?:|fetch\(|XMLHttp|import\(""", page)
    anchors = re.findall(r' id="([^"]+)"', without)
    assert len(anchors) == len(set(anchors)), "figures have ids as well"
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', without)) <= set(anchors)
    # Every table and row is in the text of the page, unfolded or in parts that open without a script.
    assert Tables(without).tables == Tables(page).tables
    assert without.count("<details") == without.count("</details>") == without.count("<summary>") >= 8
    assert re.findall(r'<\w+[^>]* id="([^"]+)"[^>]* hidden', without) == ["tools"]


def test_the_numbers_of_the_answer_are_the_csvs(report):
    page = (report / "index.html").read_text(encoding="utf-8")
    output = re.search(r'class="answer"><b>Answer</b>(.*?)</p>', page)[1].replace("−", "-")
    csv = pd.read_csv(report / "tables" / "made_up_scores.csv")
    decimals = [n for n in NUMBER.findall(output) if "." in n]
    assert len(decimals) >= 5
    assert all(any(shown_as(v, n) for v in floats(csv.select_dtypes("number").to_numpy().ravel())) for n in decimals)
    assert "; 10 % more latency)" in page


def test_a_wrong_number_is_found(report, tmp_path):
    page = (report / "index.html").read_text(encoding="utf-8")
    (tmp_path / "tables").mkdir()
    for file in (report / "tables").glob("*.csv"):
        (tmp_path / "tables" / file.name).write_bytes(file.read_bytes())
    csv = tmp_path / "tables" / "made_up_scores.csv"
    table = pd.read_csv(csv)
    table.loc[1, "high95"] += 0.001
    table.to_csv(csv, index=False)
    (tmp_path / "index.html").write_text(page, encoding="utf-8")
    with pytest.raises(AssertionError, match="95 %, seeds"):
        check_page(tmp_path)


def test_tables_lie_there_in_all_formats_with_their_origin(report):
    names = {p.stem for p in (report / "tables").glob("*.csv")}
    for suffix in (".md", ".tex"):
        files = list((report / "tables").glob(f"*{suffix}"))
        assert {f.stem for f in files} == names
        for file in files:
            text = file.read_text(encoding="utf-8")
            assert "Reproduce: aqr-bench run --tier smoke --study made_up" in text and "Seeds: 0, 1, 2" in text
    from PIL import Image

    for file in (report / "figures").glob("*.png"):
        with Image.open(file) as image:
            assert "Reproduce: aqr-bench run" in image.text["Description"], file


def test_a_section_of_another_builder_follows_the_studies(tmp_path):
    (tmp_path / "results").mkdir()
    frame = pd.DataFrame({"model": ["A & B"], "NDS": [0.123456]})
    table = ReportTable("other", "Other", frame, frame.map(str))
    study = load_study(make_study(tmp_path))

    def builder(tier, studies, records):
        return [ReportSection("context", "Published <elsewhere>", "Not ranked.", (table,))]

    page = build_report(load_tier("smoke"), [study], tmp_path / "results", tmp_path / "out", [builder])
    text = page.read_text(encoding="utf-8")
    assert '<section id="context">' in text and "Published &lt;elsewhere&gt;" in text and "A &amp; B" in text
    assert (tmp_path / "out" / "tables" / "other.tex").is_file()
