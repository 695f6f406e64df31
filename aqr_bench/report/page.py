"""One self-contained page per report: question, answer, tables, figures, failures, and where the numbers come from."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from aqr_bench import __version__
from aqr_bench.atomic import write_text
from aqr_bench.records.provenance import git_state, portable_path
from aqr_bench.records.record import Record
from aqr_bench.report.alarms import alarms_sentence, alarms_table, base_alarms, study_alarms
from aqr_bench.report.answer import answer, cost_answer
from aqr_bench.report.collect import Results, collect_base, collect_study, mixtures
from aqr_bench.report.embed import Budget, collect_pictures, embedded
from aqr_bench.report.figures.study import draw_costs, draw_study
from aqr_bench.report.foot import stamped
from aqr_bench.report.gate import gate, gate_sentence, gate_table
from aqr_bench.report.resolution import resolution_sentence, resolution_table
from aqr_bench.report.routers import sensing_table
from aqr_bench.report.tables.cost import cost_tables
from aqr_bench.report.tables.published import comparison_sentence, published_tables
from aqr_bench.report.tables.robustness import study_parts
from aqr_bench.report.tables.study import (
    Table,
    base_table,
    classes_table,
    metrics_table,
    problems_table,
    router_table,
    runs_table,
    scores_table,
)
from aqr_bench.study.spec import Study, Tier


@dataclass(frozen=True)
class Chapter:
    """A part of the page that belongs to no study: ``name`` is its anchor, ``figures`` are (caption, PNG) pairs."""

    name: str
    title: str
    text: str
    tables: tuple[Table, ...] = ()
    figures: tuple[tuple[str, Path], ...] = ()


# Makes chapters from what the report is about: tier, studies, records folder, and the folder for figures.
Author = Callable[[Tier, Sequence[Study], Path, Path], Sequence[Chapter]]


def build_report(
    tier: Tier, studies: Sequence[Study], records: Path, out: Path, authors: Sequence[Author] = ()
) -> Path:
    """Write tables, figures and ``index.html`` below ``out`` from the records below ``records/<tier>``.

    Failed and missing runs are shown as such; with no record at all the page says so. What ``authors`` write comes
    after the studies. Returns the page's path.
    """
    tables_dir, figures_dir = _fresh(out / "tables", (".csv", ".md", ".tex")), _fresh(out / "figures", (".png", ".pdf"))
    base = collect_base(records, tier, studies)
    found = [(study, collect_study(records, tier, study)) for study in studies]
    known = [*base.records, *(r for _, results in found for r in results.records)]
    budget = Budget()
    with stamped(provenance_rows(tier, studies, known)):
        sections = [_section(study, results, base, tables_dir, figures_dir, budget) for study, results in found]
        for section in sections:
            _add_robustness(section, records, tier, tables_dir, figures_dir, budget)
            _add_published(section, records, tier, tables_dir)
        base_part = _base_section(studies, base, tables_dir)
        chapters = [
            _chapter(chapter, tables_dir, budget)
            for author in authors
            for chapter in author(tier, studies, records, figures_dir)
        ]
        alarms = base_alarms(records, tier, [study.suite for study in studies], base.records)
        for section in sections:
            alarms += study_alarms(records, tier, section["study"], section["records"])
        alarmed = alarms_table("sanity", alarms)
        alarmed.write(tables_dir)
    everything = [*base.records, *(r for section in sections for r in section["records"])]
    pictures, left_out, picture_note = collect_pictures(records / tier.name / "pictures", budget)
    page = _template().render(
        tier=tier,
        sections=sections,
        chapters=chapters,
        base=base_part,
        pictures=pictures,
        pictures_left_out=left_out,
        picture_note=picture_note,
        warnings=mixtures(everything),
        alarms={"said": alarms_sentence(alarms), "table": html_table(alarmed), "note": alarmed.note},
        provenance=provenance_rows(tier, studies, everything),
        counts={"ok": sum(r.ok for r in everything), "all": sum(r.ok or r.failed for r in everything)},
        checked=cross_checked(everything),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    return write_text(out / "index.html", page)


def cross_checked(records: Sequence[Record]) -> str:
    """A sentence on how many evaluations were scored by nuscenes-devkit as well; a difference fails an evaluation."""
    evaluations = [r for r in records if r.kind == "evaluate" and r.ok]
    both = [found for r in evaluations if isinstance(found := r.extra.get("devkit"), dict)]
    if not both:
        return ""
    largest = max(float(found.get("largest", math.nan)) for found in both)
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


def _section(
    study: Study, results: Results, base: Results, tables_dir: Path, figures_dir: Path, budget: Budget
) -> dict[str, Any]:
    """What the template needs to know about one study."""
    if study.measure_only:
        return _cost_section(study, results, tables_dir, figures_dir, budget)
    tables = {
        "scores": scores_table(study, results),
        "resolution": resolution_table(study, results),
        **cost_tables(study, results),
        "router": router_table(study, results),
        "sensing": sensing_table(study, results.router_files),
        "metrics": metrics_table(study, results),
        "classes": classes_table(study, results),
        "runs": runs_table(study, results),
        "problems": problems_table(study.name, results),
    }
    said = {"resolution": resolution_sentence(study, results)}
    # Only a study that asks for the verdict gets it: of trained variants it would say nothing.
    if study.gate:
        rows = gate(results, study)
        tables["gate"], said["gate"] = gate_table(rows, study), gate_sentence(rows, study)
    for key, table in tables.items():
        if key not in ("router", "sensing", "resolution", "gate") or len(table.shown):
            table.write(tables_dir)
    figures = embedded(draw_study(study, results, base, figures_dir), budget)
    return _shown(study, results, tables, figures, answer(study, results), said)


def _cost_section(
    study: Study, results: Results, tables_dir: Path, figures_dir: Path, budget: Budget
) -> dict[str, Any]:
    """The section of a study whose variants were measured and neither trained nor scored."""
    tables = {**cost_tables(study, results), "problems": problems_table(study.name, results)}
    for table in tables.values():
        table.write(tables_dir)
    figures = embedded(draw_costs(study, results, figures_dir), budget)
    return _shown(study, results, tables, figures, cost_answer(study, results), {})


def _shown(
    study: Study,
    results: Results,
    tables: dict[str, Table],
    drawn: tuple[list[dict[str, Any]], Any],
    said: str,
    sentences: dict[str, str],
) -> dict[str, Any]:
    figures, left_out = drawn
    return {
        "study": study,
        "results": results,
        "answer": said,
        "said": sentences,
        "tables": {name: html_table(table) for name, table in tables.items() if len(table.shown)},
        "titles": {name: table.title for name, table in tables.items()},
        "notes": {name: table.note for name, table in tables.items()},
        "figures": figures,
        "left_out": left_out,
        "records": results.records,
        "problems": len(tables["problems"].shown),
    }


def _add_robustness(
    section: dict[str, Any], records: Path, tier: Tier, tables_dir: Path, figures_dir: Path, budget: Budget
) -> None:
    """Robustness under every suite of corruptions that the section's study has records of."""
    parts = study_parts(records, tier, section["study"], tables_dir, figures_dir)
    section["records"] = [*section["records"], *(record for part in parts for record in part.records)]
    section["robustness"] = []
    for part in parts:
        figures, left_out = embedded(part.figures, budget)
        tables = [(t.title, html_table(t), t.note) for t in part.tables]
        section["robustness"].append({"tables": tables, "figures": figures})
        section["left_out"] += left_out


def _chapter(chapter: Chapter, tables_dir: Path, budget: Budget) -> dict[str, Any]:
    for table in chapter.tables:
        table.write(tables_dir)
    figures, left_out = embedded(chapter.figures, budget)
    tables = [(t.title, html_table(t), t.note) for t in chapter.tables]
    head = {"name": chapter.name, "title": chapter.title, "text": chapter.text}
    return {**head, "tables": tables, "figures": figures, "left_out": left_out}


def _add_published(section: dict[str, Any], records: Path, tier: Tier, tables_dir: Path) -> None:
    """Published numbers beside the section's own, where its study names some."""
    tables = published_tables(section["study"], tier, section["results"], records)
    for table in tables:
        table.write(tables_dir)
    section["published"] = {
        "said": comparison_sentence(tables[0]) if tables else "",
        "tables": [(t.title, html_table(t), t.note) for t in tables],
    }


def _base_section(studies: Sequence[Study], base: Results, tables_dir: Path) -> dict[str, Any] | None:
    """Table and failures of the base models; None where variants start from scratch."""
    if base.trainings.empty:
        return None
    conditions = list(dict.fromkeys(c.name for s in studies if not s.measure_only for c in s.suite.conditions))
    table, problems = base_table(conditions, base), problems_table("base", base)
    table.write(tables_dir)
    problems.write(tables_dir)
    return {
        "table": html_table(table),
        "note": table.note,
        "problems": html_table(problems) if len(problems.shown) else None,
    }


def html_table(table: Table) -> Markup:
    """The shown rows as an HTML table; every cell is escaped."""
    columns = list(table.shown.columns)

    def cell(tag: str, column: str, value: object) -> str:
        kind = ' class="n"' if column in table.numeric else ""
        return f"<{tag}{kind}>{html.escape(str(value))}</{tag}>"

    head = "".join(cell("th", c, c) for c in columns)
    rows = []
    for i, row in enumerate(table.shown.itertuples(index=False)):
        kind = ' class="gap"' if i in table.marked else ""
        rows.append(f"<tr{kind}>{''.join(cell('td', c, v) for c, v in zip(columns, row, strict=True))}</tr>")
    table_rows = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return Markup(f'<div class="scroll"><table data-csv="{html.escape(table.name)}">{table_rows}</table></div>')


# ---------------------------------------------------------------- provenance


def provenance_rows(tier: Tier, studies: Sequence[Study], records: Sequence[Record]) -> list[tuple[str, str]]:
    """Label and text of everything needed to say where the numbers come from, and to get them again."""
    facts = [r.provenance for r in records if r.provenance]
    machines = [p.get("machine") or {} for p in facts]
    names = " ".join(_as_typed(study.path, study.name) for study in studies)
    here = git_state()
    commits = sorted(
        {f"{p['git_commit']}{' with changes' if p.get('git_dirty') else ''}" for p in facts if p.get("git_commit")}
    )
    times = sorted(str(p[key]) for p in facts for key in ("started", "finished") if p.get(key))
    seeds = sorted({seed for study in studies for seed in study.seeds})
    rows = [
        ("Reproduce", f"aqr-bench run --tier {_as_typed(tier.path, tier.name)} --study {names}"),
        ("Tier", f"{tier.name}: {tier.summary} Data: {tier.kind} {tier.version}. Model config: {tier.model}."),
        ("Schedule", _schedule(tier)),
        ("Seeds", ", ".join(map(str, seeds)) or "none: nothing is trained"),
        ("Git commit of the runs", _joined(commits)),
        ("Git commit of this page", f"{here['git_commit'] or 'unknown'}{' with changes' if here['git_dirty'] else ''}"),
        ("Package", f"aqr-bench {__version__}"),
        ("Versions", _joined(_versions(facts))),
        ("Machine", _joined(sorted({_machine(m) for m in machines if m}))),
        ("Run between", f"{times[0]} and {times[-1]}" if times else "unknown"),
    ]
    for key, label in (("code_sha256", "Code"), ("data_sha256", "Data"), ("infos_sha256", "Info files")):
        for kind in ("train", "evaluate", "measure"):
            values = sorted({r.provenance[key] for r in records if r.kind == kind and r.provenance.get(key)})
            if values:
                rows.append((f"{label} hash, {kind}", ", ".join(v[:16] for v in values)))
    return rows


def _as_typed(path: Path, name: str) -> str:
    """How `aqr-bench run` is told of a tier or study: what ships by its name, another file by its path."""
    where = Path(portable_path(path.resolve()))
    return name if where.parts[0] in ("ablations", "<elsewhere>") else where.as_posix()


def _schedule(tier: Tier) -> str:
    parts = [f"{p.name} branch {p.iterations} iterations alone" for p in tier.pretrain.values()]
    starts = {"base": "the base model", "features": "the pretrained branches", "scratch": "scratch"}
    starts["published"] = "a published checkpoint"
    parts.append(f"base {tier.base.length} from {starts[tier.base.init]}")
    parts.append(f"variants {tier.variant.length} from {starts[tier.variant.init]}")
    return "; ".join(parts) + " (where a study does not say otherwise)"


def _joined(values: Iterable[str]) -> str:
    return "; ".join(values) or "unknown"


def _versions(facts: Sequence[dict]) -> list[str]:
    found: dict[str, set[str]] = {}
    for fact in facts:
        for name, version in (fact.get("packages") or {}).items():
            found.setdefault(name, set()).add(str(version))
    return [f"{name} {' / '.join(sorted(versions))}" for name, versions in sorted(found.items())]


def _machine(machine: dict) -> str:
    words = [machine.get("cpu"), f"{machine['cores']} cores" if machine.get("cores") else None]
    words += [f"{machine['memory_gb']} GB" if machine.get("memory_gb") else None, machine.get("gpu") or "no GPU"]
    words += [machine.get("system"), f"Python {machine['python']}" if machine.get("python") else None]
    return ", ".join(str(w) for w in words if w)


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("index.html.j2")
