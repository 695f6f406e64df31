"""One self-contained page per report: question, answer, tables, figures, failures, and where the numbers come from."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import jinja2
from markupsafe import Markup

from aqr_bench.atomic import write_text
from aqr_bench.records.record import Record
from aqr_bench.report.alarms import Alarm, alarms_sentence, alarms_table, base_alarms, study_alarms
from aqr_bench.report.answer import answer, cost_answer
from aqr_bench.report.collect import Results, collect_base, collect_study, mixtures
from aqr_bench.report.detectable_difference import detectable_difference_sentence, detectable_difference_table
from aqr_bench.report.embed import Budget, collect_pictures, copy_viewers, embed_figures, link_pictures
from aqr_bench.report.figures.study import draw_costs, draw_study
from aqr_bench.report.folded import folded_sections
from aqr_bench.report.gate import gate, gate_sentence, gate_table
from aqr_bench.report.provenance_rows import joined, provenance_rows, versions
from aqr_bench.report.routers import sensing_table
from aqr_bench.report.section import Output, ReportFigure, ReportSection, SectionBuilder
from aqr_bench.report.stale import StaleRecords, find_stale
from aqr_bench.report.tables.cost import cost_tables
from aqr_bench.report.tables.published import comparison_sentence, published_tables
from aqr_bench.report.tables.robustness import RobustnessPart, robustness_parts
from aqr_bench.report.tables.slices import slices_table
from aqr_bench.report.tables.study import (
    base_table,
    by_condition_table,
    classes_table,
    metrics_table,
    problems_table,
    router_table,
    runs_table,
    score_hints,
    scores_table,
)
from aqr_bench.report.tables.table import ReportTable
from aqr_bench.study.spec import Study, Tier

# The folders of a report, with the kinds of files in them.
KINDS = {"tables": (".csv", ".md", ".tex"), "figures": (".png", ".pdf", ".svg")}
VIEWERS = "viewers"  # folder of a report with pages of samples in 3D: too large to be part of the page


@dataclass(frozen=True)
class StudySection:
    """What the page has of one study; tables without a row are left out of ``tables``.

    ``folded``: parts that a reader has to open; ``notices``: alarms that follow from them.
    """

    study: Study
    answer: str
    tables: Mapping[str, ReportTable]
    problems: int  # runs that are not ok
    figures: tuple[ReportFigure, ...]
    sentences: Mapping[str, str] = field(default_factory=dict)  # above the table of that name
    robustness: tuple[RobustnessPart, ...] = ()
    published: tuple[ReportTable, ...] = ()
    records: tuple[Record, ...] = ()
    folded: tuple[ReportSection, ...] = ()
    notices: tuple[Alarm, ...] = ()

    @property
    def folded_figures(self) -> tuple[ReportFigure, ...]:
        return tuple(figure for part in self.folded for figure in part.figures)

    @property
    def robustness_figures(self) -> tuple[ReportFigure, ...]:
        return tuple(figure for part in self.robustness for figure in part.figures)


def build_report(
    tier: Tier, studies: Sequence[Study], records: Path, out: Path, builders: Sequence[SectionBuilder] = ()
) -> Path:
    """Write tables, figures and ``index.html`` below ``out`` from the records below ``records/<tier>``.

    The same once more for each study alone, in a folder of its name.

    Failed and missing runs are listed as such; a page without any record has a warning. Records that are not of what is
    asked for now are named at the top, and marked in the rows that show them. Sections of the ``builders`` follow the
    studies. Returns the page's path.
    """
    tables_dir, figures_dir = (_fresh(out / kind, suffixes) for kind, suffixes in KINDS.items())
    base = collect_base(records, tier, studies)
    collected = [(study, collect_study(records, tier, study)) for study in studies]
    stale = find_stale(records, tier, studies)
    own_records = [*base.records, *(r for _, results in collected for r in results.records)]
    footer = ". ".join(f"{label}: {text}" for label, text in provenance_rows(tier, studies, own_records))
    footer = ". ".join([footer, *stale.lines()[:1]])
    output = Output(tables_dir, figures_dir, footer, stale)
    sections = [_study_section(study, results, base, records, tier, output) for study, results in collected]
    base_tables = _base_tables(studies, base, stale)
    further = [section for build in builders for section in build(tier, studies, records)]
    of_base = base_alarms(records, tier, [study.suite for study in studies], base.records)
    of_studies = [
        [*study_alarms(records, tier, section.study, section.records), *section.notices] for section in sections
    ]
    alarms = [*of_base, *(alarm for of_study in of_studies for alarm in of_study)]
    for table in (*base_tables, *(table for section in further for table in section.tables)):
        table.write(tables_dir, footer)
    alarms_table("sanity", alarms).write(tables_dir, footer)
    pictures = records / tier.name / "pictures"
    for section, of_study in zip(sections, of_studies, strict=True):
        of_section = stale.of_study(section.study.name).lines()
        page = _page(tier, [section], [], base_tables, base.records, [*of_base, *of_study], of_section, None)
        _write_study(out, section.study.name, [study.name for study in studies], page)
    viewers = copy_viewers(pictures, out / VIEWERS)
    page = _page(tier, sections, further, base_tables, base.records, alarms, stale.lines(), pictures, viewers)
    return write_text(out / "index.html", page)


def _page(
    tier: Tier,
    sections: Sequence[StudySection],
    further: Sequence[ReportSection],
    base_tables: Sequence[ReportTable],
    base_records: Sequence[Record],
    alarms: Sequence[Alarm],
    stale: Sequence[str],
    pictures_folder: Path | None,
    viewers: Sequence[str] = (),
) -> str:
    """The page of some studies, as HTML. ``viewers``: names of pages of samples in its folder VIEWERS."""
    everything = [*base_records, *(r for section in sections for r in section.records)]
    render = partial(
        _template().render,
        tier=tier,
        sections=sections,
        further=further,
        base=base_tables,
        warnings=[*stale, *mixtures(everything)],
        alarms=alarms_table("sanity", alarms),
        alarms_sentence=alarms_sentence(alarms),
        comparison_sentence=comparison_sentence,
        provenance=provenance_rows(tier, [section.study for section in sections], everything),
        counts={"ok": sum(r.ok for r in everything), "all": sum(r.ok or r.failed for r in everything)},
        checked=cross_checked(everything),
        viewers=viewers,
        viewers_folder=VIEWERS,
        built=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    bare = render(embedded={}, pictures=[], pictures_left_out=[], picture_note=None)
    budget = Budget(len(bare.encode()))
    figures = [figure for section in sections for figure in section.figures]
    figures += [figure for section in sections for figure in section.robustness_figures]
    figures += [figure for section in further for figure in section.figures]
    figures += [figure for section in sections for figure in section.folded_figures]
    embedded = embed_figures(figures, budget)
    none = ([], [], None)
    pictures, left_out, note = none if pictures_folder is None else collect_pictures(pictures_folder, budget)
    return render(embedded=embedded, pictures=pictures, pictures_left_out=left_out, picture_note=note)


def _write_study(out: Path, study: str, studies: Sequence[str], page: str) -> None:
    """A folder of the study alone below ``out``: its page and copies of its tables and figures.

    It stays when a later report of the tier is on other studies.
    """
    for kind, suffixes in KINDS.items():
        folder = _fresh(out / study / kind, suffixes)
        for file in sorted((out / kind).iterdir()):
            # ``a_b_scores.csv`` is of the study a_b and not of a.
            owner = max((name for name in studies if file.name.startswith(f"{name}_")), key=len, default=None)
            if owner == study:
                shutil.copyfile(file, folder / file.name)
    write_text(out / study / "index.html", page)


def cross_checked(records: Sequence[Record]) -> str:
    """A sentence on how many evaluations were scored by nuscenes-devkit as well; a difference fails an evaluation."""
    evaluations = [r for r in records if r.kind == "evaluate" and r.ok]
    both = [check for r in evaluations if isinstance(check := r.extra.get("devkit"), dict)]
    if not both:
        return ""
    largest = max(float(check.get("largest", math.nan)) for check in both)
    return (
        f"{len(both)} of {len(evaluations)} evaluations, drawn at random, were scored by nuscenes-devkit as well: no "
        f"number differs by more than {largest:.0e}."
    )


def _fresh(folder: Path, suffixes: Sequence[str]) -> Path:
    """The folder, without the files that an earlier report left there."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.suffix in suffixes:
            file.unlink()
    return folder


def _study_section(
    study: Study, results: Results, base: Results, records: Path, tier: Tier, output: Output
) -> StudySection:
    """Write the tables and figures of one study, also under further suites and beside published numbers."""
    costs = cost_tables(study, results)
    tables = {**costs, "problems": problems_table(study.name, results)}
    sentences = {}
    if study.measure_only:
        figures, text = draw_costs(study, results, output.figures, output.footer), cost_answer(study, results)
    else:
        tables |= {
            "scores": (scores := scores_table(study, results)),
            "by_condition": by_condition_table(study, scores),
            "resolution": detectable_difference_table(study, results),
            "router": router_table(study, results),
            "sensing": sensing_table(study, results.router_files),
            "metrics": metrics_table(study, results),
            "classes": classes_table(study, results),
            "slices": slices_table(study, results),
            "runs": runs_table(study, results),
        }
        sentences["resolution"] = detectable_difference_sentence(study, results)
        # Only for studies that ask for the verdict: of trained variants it would say nothing.
        if study.gate:
            rows = gate(results, study)
            tables["gate"], sentences["gate"] = gate_table(rows, study), gate_sentence(rows, study)
        hints = score_hints(study, scores)
        figures, text = draw_study(study, results, base, output.figures, output.footer, hints), answer(study, results)
    for key, table in tables.items():
        if key != "problems":  # which shows no numbers
            measured = key in costs
            suites = None if measured else {study.suite.name}
            tables[key] = output.stale.mark(table, study, "measure" if measured else "evaluate", suites)
    for key, table in tables.items():
        if key not in ("router", "sensing", "resolution", "gate", "slices") or len(table):
            table.write(output.tables, output.footer)
    robustness = robustness_parts(records, tier, study, output)
    folded, notices = ((), ()) if study.measure_only else folded_sections(records, tier, study, results, output)
    published = published_tables(study, tier, results, records)
    published = [output.stale.mark(table, study, "evaluate") for table in published]
    for table in published:
        table.write(output.tables, output.footer)
    return StudySection(
        study,
        text,
        {key: table for key, table in tables.items() if len(table)},
        len(tables["problems"]),
        tuple(figures),
        sentences,
        tuple(robustness),
        tuple(published),
        (*results.records, *(record for part in robustness for record in part.records)),
        folded,
        notices,
    )


def _base_tables(studies: Sequence[Study], base: Results, stale: StaleRecords) -> list[ReportTable]:
    """Scores of the base models, and their runs that are not ok; none where variants start from scratch."""
    if base.trainings.empty:
        return []
    conditions = list(dict.fromkeys(c.name for s in studies if not s.measure_only for c in s.suite.conditions))
    return [stale.mark(base_table(conditions, base), None, "evaluate"), problems_table("base", base)]


def render_sections(title: str, text: str, sections: Sequence[ReportSection], records: Sequence[Record]) -> str:
    """A page of sections alone, of records that belong to no tier and no study, as HTML."""
    facts = [r.provenance for r in records if r.provenance]
    commands = dict.fromkeys(str(p["command"]) for p in facts if p.get("command"))
    data = {p["data_sha256"][:16] for p in facts if p.get("data_sha256")}
    provenance = [
        ("Commands", joined(commands)),
        ("Data", joined(sorted(data))),
        ("Versions", joined(versions(facts))),
    ]
    return _template().render(
        tier={"name": title, "summary": text},
        sections=[],
        further=sections,
        base=[],
        embedded={},
        pictures=[],
        pictures_left_out=[],
        picture_note=None,
        viewers=[],
        viewers_folder=VIEWERS,
        warnings=mixtures(records),
        alarms=alarms_table("sanity", []),
        alarms_sentence="",
        comparison_sentence=comparison_sentence,
        provenance=provenance,
        counts={"ok": sum(r.ok for r in records), "all": sum(r.ok or r.failed for r in records)},
        checked=cross_checked(records),
        built=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["html"] = lambda table: Markup(table.html())
    environment.filters["linked"] = link_pictures
    return environment.get_template("index.html.j2")
