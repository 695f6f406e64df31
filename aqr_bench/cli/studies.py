"""Look at studies, tiers and condition suites before running anything.

aqr-bench studies list [NAME ...]                 what there is, as tables; NAME: details, as with show
aqr-bench studies show NAME ...                   variants of a study, settings of a tier, conditions of a suite
aqr-bench studies check [NAME ...] [--tier T]     load them, build every variant's config, report the first mistake
aqr-bench studies cost [STUDY ...] [--tier T]     jobs of a run, about how long it takes, and how much disk
"""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from aqr_bench.cli.estimate import cost_facts, cost_lines
from aqr_bench.console import add_json_option, counted, positive_int, print_json
from aqr_bench.errors import UserError, is_file, join_names, nearest, run_main, short
from aqr_bench.folders import project_folder, shipped_folder
from aqr_bench.study.layout import results_folder
from aqr_bench.study.load import (
    is_path,
    known_studies,
    known_suites,
    known_tiers,
    load_study,
    load_suite,
    load_tier,
    loadable,
)
from aqr_bench.study.plan import can_run
from aqr_bench.study.runs import limit_seeds
from aqr_bench.study.schema import read_yaml, schema_for
from aqr_bench.study.spec import Study, Suite, Tier

KINDS: dict[str, tuple[Callable, Callable]] = {
    "study": (load_study, known_studies),
    "tier": (load_tier, known_tiers),
    "suite": (load_suite, known_suites),
}
MAX_WIDTH = 100  # columns of a table


def main(argv: list[str] | None = None) -> int:
    """Print what was asked for; UserError for the first mistake in a file."""
    args = _parser().parse_args(argv)
    if args.action == "cost":
        records = results_folder() if args.records is None else Path(args.records)
        tier, studies = planned(args.study, args.tier, args.seeds)
        facts = cost_facts(tier, studies, [load_suite(name) for name in args.suites], args.cores, records)
        from aqr_bench.engine.check_configs import check_configs  # mmengine and torch

        check_configs(tier, studies)
        lines = cost_lines(facts)
    elif args.json:
        facts = check_facts(args.names, args.tier) if args.action == "check" else list_facts(args.names)
    elif args.names:
        entries = [entry for name in args.names for entry in resolve(name)]
        describe = check_line if args.action == "check" else detail_lines
        lines = [line for entry in entries for line in describe(entry)]
        if args.action == "check":
            lines += configs_line(*by_kind(entries)[:2], args.tier, named=True)
    else:
        entries, broken = everything()
        if args.action == "check":
            if broken:
                raise broken[0]
            lines = [*check_lines(*entries), *configs_line(*entries[:2], args.tier)]
        else:
            lines = [*list_lines(*entries), *project_lines(*entries), *(f"broken: {error}" for error in broken)]
    if args.json:
        print_json(facts)
    else:
        print("\n".join(lines))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aqr-bench studies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, number, summary in (
        ("list", "*", "tables of all studies, tiers and suites, or details of those named"),
        ("show", "+", "details of a study, tier or suite"),
        ("check", "*", "load all or those named, build every variant's config; report the first mistake"),
    ):
        part = actions.add_parser(action, help=summary, description=summary)
        if action == "check":
            part.add_argument("--tier", help="build the configs for this tier (default: one that can run the study)")
        add_json_option(part)
        part.add_argument("names", nargs=number, metavar="NAME", help="name or file of a study, tier or suite")
    cost = actions.add_parser("cost", help="jobs of a run, about how long it takes, and how much disk")
    cost.add_argument("study", nargs="*", help="names or files (default: all studies that the tier can run)")
    cost.add_argument("--tier", default="quick", help="name or file of a tier (default: quick)")
    cost.add_argument("--seeds", type=positive_int, help="so many of every study's seeds (default: as the tier says)")
    cost.add_argument(
        "--suites", nargs="+", action="extend", default=[], metavar="SUITE", help="further condition suites"
    )
    cost.add_argument("--cores", type=positive_int, help="cores to use (default: those of this machine)")
    cost.add_argument(
        "--results",
        "--records",
        dest="records",
        metavar="DIR",
        help="results folder whose records tell how long things take",
    )
    add_json_option(cost)
    return parser


# ---------------------------------------------------------------- a study, a tier or a suite


def resolve(name: str) -> list[Study | Tier | Suite]:
    """What a name or a file stands for: a name can be a study's and a tier's at once. UserError: no such thing."""
    if is_path(name):
        path = Path(name)
        if not is_file(path):
            raise UserError(f"study, tier or suite file not found: {short(path, 200)}")
        return [KINDS[kind_of_file(path)][0](path)]
    entries = [load(name) for load, names in KINDS.values() if name in names()]
    if not entries:
        hint = nearest(name, [known for _, names in KINDS.values() for known in names()])
        raise UserError(f"unknown study, tier or suite '{short(name)}'{hint}")
    return entries


def kind_of_file(path: Path) -> str:
    """``study``, ``tier`` or ``suite``: whose keys the file has most of, so that a misspelt one changes nothing."""
    keys = set(read_yaml(path))
    known = {kind: set(schema_for(kind).schema["properties"]) for kind in KINDS}
    return max(KINDS, key=lambda kind: (len(keys & known[kind]), -len(known[kind])))  # a study has a suite's keys too


def kind_of(entry: Study | Tier | Suite) -> str:
    return type(entry).__name__.lower()


def everything() -> tuple[list[list], list[UserError]]:
    """All studies, tiers and suites that can be loaded, by kind, and what is wrong with the others."""
    loaded = [loadable(load, names()) for load, names in KINDS.values()]
    return [entries for entries, _ in loaded], [error for _, errors in loaded for error in errors]


def by_kind(entries: Sequence[Study | Tier | Suite]) -> list[list]:
    """Studies, tiers and suites apart."""
    return [[entry for entry in entries if isinstance(entry, kind)] for kind in (Study, Tier, Suite)]


def check_lines(studies: Sequence[Study], tiers: Sequence[Tier], suites: Sequence[Suite]) -> list[str]:
    """One line on what was loaded; a mistake has raised UserError before."""
    return [f"{len(studies)} studies, {len(tiers)} tiers, {len(suites)} condition suites: all well formed"]


def check_line(entry: Study | Tier | Suite) -> list[str]:
    """One line: which kind of thing it is."""
    return [f"{kind_of(entry)} {entry.name}: well formed ({entry.path})"]


def configs_line(
    studies: Sequence[Study], tiers: Sequence[Tier], tier_name: str | None, named: bool = False
) -> list[str]:
    """One line on the configs that ``build_configs`` has built; none without a tier."""
    number, names = build_configs(studies, tiers, tier_name, named)
    return [f"{counted(number, 'config')} built, of {', '.join(f'tier {name}' for name in names)}"] if names else []


def build_configs(
    studies: Sequence[Study], tiers: Sequence[Tier], tier_name: str | None, named: bool = False
) -> tuple[int, list[str]]:
    """Build the config of every variant for the tier of that name, or the first that can run it; those of tiers too.

    Returns how many, and for which tiers.

    UserError: the first mistake; or a study that is named with a tier that cannot run it.
    """
    if tier_name is None:
        candidates = sorted(loadable(load_tier, known_tiers())[0], key=lambda tier: tier.name != "quick")
    else:
        candidates = [load_tier(tier_name)]
    by_tier: dict[str, tuple[Tier, list[Study]]] = {
        t.name: (t, []) for t in (tiers if named or not tier_name else candidates)
    }
    for study in studies:
        fitting = [tier for tier in candidates if runnable(tier, study)] or (candidates if tier_name and named else [])
        for tier in fitting[:1]:
            by_tier.setdefault(tier.name, (tier, []))[1].append(study)
    if not by_tier:
        return 0, []
    from aqr_bench.engine.check_configs import check_configs  # mmengine and torch

    return sum(check_configs(tier, of_tier) for tier, of_tier in by_tier.values()), list(by_tier)


def list_lines(studies: Sequence[Study], tiers: Sequence[Tier], suites: Sequence[Suite]) -> list[str]:
    """Tables that fit the terminal: studies, tiers, suites."""
    head = ("study", "variants", "seeds", "tiers", "question")
    rows = [(s.name, len(s.variants), len(s.seeds) or "-", tiers_of(s, tiers), s.question) for s in studies]
    lines = table(head, rows) if rows else []
    if tiers:
        rows = [(tier.name, "nuScenes" if tier.kind == "nuscenes" else tier.kind, tier.summary) for tier in tiers]
        lines += ["", *table(("tier", "data", "what it is"), rows)]
    if suites:
        rows = [(suite.name, len(suite.conditions), suite.summary) for suite in suites]
        lines += ["", *table(("suite", "conditions", "what it is"), rows)]
    return [*lines, "", "Details: aqr-bench studies show NAME"]


def project_lines(*entries: Sequence[Study | Tier | Suite]) -> list[str]:
    """Which of them are files of the project folder; nothing where all ship, as in a checkout."""
    if project_folder().resolve() == shipped_folder().resolve():
        return []
    folder = project_folder() / "ablations"
    files = [entry for kind in entries for entry in kind if entry.path.is_relative_to(folder)]
    names = ", ".join(f"{kind_of(entry)} {entry.name}" for entry in files) or "none"
    return [f"Of this project ({folder}): {names}; all others ship with aqr-bench"]


def tiers_of(study: Study, tiers: Sequence[Tier]) -> str:
    """The tiers that can run a study, in brief."""
    names = [tier.name for tier in tiers if runnable(tier, study)]
    if len(names) == len(tiers):
        return "all"
    nuscenes = [tier.name for tier in tiers if tier.kind == "nuscenes"]
    return "all nuScenes" if names == nuscenes else ", ".join(names) or "none"


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    """Columns side by side; the last one is wrapped to two lines at most."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head) - 1)]
    indent = sum(widths) + 2 * len(widths)
    room = max(20, min(MAX_WIDTH, shutil.get_terminal_size((MAX_WIDTH, 24)).columns) - indent)
    lines = []
    for row in cells:
        first, *rest = textwrap.wrap(row[-1], room, max_lines=2, placeholder=" ...") or [""]
        lines.append(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), first]).rstrip()
        )
        lines += [" " * indent + text for text in rest]
    return lines


def detail_lines(entry: Study | Tier | Suite) -> list[str]:
    """Everything that a reader chooses by: variants, schedules, conditions."""
    if isinstance(entry, Suite):
        rows = [(c.name, c.corruption.summary) for c in entry.conditions]
        return [f"suite {entry.name}: {entry.summary}", *_indented(rows)]
    if isinstance(entry, Tier):
        rows = [
            ("data", f"{entry.kind}, {entry.version}"),
            ("model", entry.model),
            ("base", f"{entry.base.length}, from {entry.base.init}"),
            ("variant", f"{_variant_length(entry)}, from {entry.variant.init}"),
            ("seeds", "as the study says" if entry.seeds is None else f"at most {entry.seeds}"),
            ("studies", f"{', '.join(entry.studies)} (where none is named)"),
        ]
        return [f"tier {entry.name}: {entry.summary}", *_indented(rows)]
    rows = [
        ("tiers", tiers_of(entry, loadable(load_tier, known_tiers())[0])),
        ("seeds", join_names(map(str, entry.seeds)) or "none: cost only"),
        ("suite", entry.suite.name),
        ("baseline", entry.baseline),
        *(((f"variant {v.name}"), v.summary) for v in entry.variants.values()),
    ]
    summary = [f"  {entry.summary}"] if entry.summary else []
    return [f"study {entry.name}: {entry.question}", *summary, *_indented(rows)]


def _indented(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0)
    return [f"  {name:{width}}  {text}" for name, text in rows]


# ---------------------------------------------------------------- for programs


def list_facts(names: Sequence[str]) -> dict:
    """Studies, tiers and suites with their details: those named, or all, and then what is wrong with the others."""
    tiers = loadable(load_tier, known_tiers())[0]
    entries, broken = (by_kind([e for name in names for e in resolve(name)]), []) if names else everything()
    kinds = zip(("studies", "tiers", "suites"), entries, strict=True)
    listed = {kind: [entry_facts(entry, tiers) for entry in of_kind] for kind, of_kind in kinds}
    return {**listed, "broken": [str(error) for error in broken]}


def check_facts(names: Sequence[str], tier_name: str | None) -> dict:
    """Names of what is well formed, and how many configs were built. UserError: the first mistake."""
    entries, broken = (by_kind([e for name in names for e in resolve(name)]), []) if names else everything()
    if broken:
        raise broken[0]
    number, tiers = build_configs(*entries[:2], tier_name, named=bool(names))
    kinds = zip(("studies", "tiers", "suites"), entries, strict=True)
    return {"ok": True, **{kind: [e.name for e in of_kind] for kind, of_kind in kinds}, "configs": number, "of": tiers}


def entry_facts(entry: Study | Tier | Suite, tiers: Sequence[Tier]) -> dict:
    """What ``list`` and ``show`` print, by name."""
    facts = {"name": entry.name, "summary": entry.summary, "path": entry.path}
    facts["ships"] = entry.path.resolve().is_relative_to(shipped_folder().resolve())
    if isinstance(entry, Suite):
        return facts | {"conditions": [{"name": c.name, "summary": c.corruption.summary} for c in entry.conditions]}
    if isinstance(entry, Tier):
        facts |= {"data": entry.kind, "version": entry.version, "model": entry.model, "seeds": entry.seeds}
        facts["base"] = {"length": entry.base.length, "init": entry.base.init}
        facts["variant"] = {"length": _variant_length(entry), "init": entry.variant.init}
        return facts | {"studies": entry.studies}
    facts |= {"question": entry.question, "seeds": entry.seeds, "suite": entry.suite.name, "metric": entry.metric}
    facts |= {"baseline": entry.baseline, "tiers": [tier.name for tier in tiers if runnable(tier, entry)]}
    return facts | {"variants": [{"name": v.name, "summary": v.summary} for v in entry.variants.values()]}


# ---------------------------------------------------------------- what a run costs


def planned(names: Sequence[str], tier_name: str, seeds: int | None) -> tuple[Tier, list[Study]]:
    """The tier, and the studies of these names or all that it can run, with so many of their seeds."""
    tier = load_tier(tier_name)
    if names:
        return tier, [limit_seeds(load_study(name), tier, seeds) for name in names]
    every = [study for study in loadable(load_study, known_studies())[0] if runnable(tier, study)]
    # Not every study has as many seeds as --seeds asks for; one that is named here must.
    return tier, [limit_seeds(s, tier, min(seeds, len(s.seeds)) if seeds else None) for s in every]


def _variant_length(tier: Tier) -> str:
    """Of a training that starts where the tier's variants do; one without a base model is as long as that would be."""
    return (tier.variant if tier.variant.init == "base" else tier.base).length


def runnable(tier: Tier, study: Study) -> bool:
    """Whether the tier has all that the study's variants start from; published numbers are of nuScenes alone."""
    return (tier.kind == "nuscenes" or not study.published) and can_run(tier, study)


if __name__ == "__main__":
    run_main(main)
