"""A folder to publish: report, numbers, records and a data card, for a Pages branch or a Hugging Face data set.

aqr-bench publish results/quick --out published --license cc-by-4.0

Nothing is uploaded: the commands for that are printed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from aqr_bench.atomic import write_text
from aqr_bench.cli.export import can_write_parquet, write_table
from aqr_bench.cli.records import stale_lines
from aqr_bench.console import counted
from aqr_bench.data.digests import read_json
from aqr_bench.errors import UserError, join_names, raise_if_disk_error, run_main
from aqr_bench.records.record import Record, read_run
from aqr_bench.records.tidy import COLUMNS, tidy_rows
from aqr_bench.report.collect import mixtures
from aqr_bench.report.data_card import CardFacts, counts, data_card
from aqr_bench.study.hashes import sha256_file
from aqr_bench.study.layout import RunLayout
from aqr_bench.study.load import load_study, load_tier

SUMS, CARD, NO_JEKYLL = "SHA256SUMS", "README.md", ".nojekyll"
REPORT_PARTS = ("index.html", "tables", "figures", "viewers")
NUMBERS = "data/numbers"
MAX_LINES = 3


@dataclass(frozen=True)
class Published:
    """What a page was made of: names of its studies, and its records by path below the tier's folder."""

    studies: tuple[str, ...]
    records: Mapping[str, list[Record]]


def main(argv: list[str] | None = None) -> int:
    """Write the folder. UserError: no report, one of other records, stale or mixed results, files of others in it."""
    parser = argparse.ArgumentParser(
        prog="aqr-bench publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, metavar="DIR", help="folder of a tier's results, with its report")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new, or of an earlier publish")
    parser.add_argument(
        "--license", required=True, metavar="ID", help="of these results, as Hugging Face names it: cc-by-4.0, ..."
    )
    parser.add_argument("--title", help="of the data card (default: that of the tier)")
    parser.add_argument(
        "--as-is", action="store_true", help="publish stale or mixed results as well; the data card names them"
    )
    args = parser.parse_args(argv)
    layout = RunLayout(args.results.absolute().name, args.results.absolute().parent)
    root, out = args.results.resolve(), args.out.resolve()
    if root.is_relative_to(out) or out.is_relative_to(root):
        raise UserError(f"--out: {args.out} would mix the published files with {args.results}", "Name another folder.")
    published = read_report(layout)
    records = [record for of_file in published.records.values() for record in of_file]
    cautions = _cautions(layout.root, published)
    if cautions and not args.as_is:
        more = f"; and {len(cautions) - MAX_LINES} more" if len(cautions) > MAX_LINES else ""
        raise UserError(
            f"{args.results}: stale or mixed results: {'; '.join(cautions[:MAX_LINES])}{more}",
            "Run the tier again, or publish them with --as-is; the data card then names this.",
        )
    tier, studies = load_tier(layout.tier), [load_study(name) for name in published.studies]
    frame = numbers(published)
    suffixes = (".parquet", ".csv") if can_write_parquet() else (".csv",)
    tables = [f"{NUMBERS}{suffix}" for suffix in suffixes]
    title = " ".join((args.title or f"aqr-bench: {tier.name}").split())
    card = data_card(CardFacts(title, args.license, cautions, tables, len(frame)), tier, studies, records)
    copies = dict(_copies(layout, published))
    try:
        _clear(args.out, [*copies, *tables, CARD, SUMS, NO_JEKYLL])
        for name, source in copies.items():
            (args.out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, args.out / name)
        for name in tables:
            write_table(frame, args.out / name)
        write_text(args.out / CARD, card)
        write_text(args.out / NO_JEKYLL, "")
        names = sorted([*copies, *tables, CARD, NO_JEKYLL])
        write_text(args.out / SUMS, "".join(f"{sha256_file(args.out / name)}  {name}\n" for name in names))
    except OSError as error:
        raise_if_disk_error(error, args.out)
        raise
    files = counted(len(published.records), "record file")
    print(f"{args.out}: report, {counted(len(frame), 'row')} of numbers, {files}: {counts(records)}")
    if ".parquet" not in suffixes:
        print("no Parquet: it needs pyarrow (pip install 'aqr-bench[parquet]')")
    out = shlex.quote(str(args.out))
    print("To upload it, by yourself, as a Hugging Face data set or as a Pages branch:")
    print(f"  hf upload USER/NAME {out} --repo-type dataset")
    print(f"  cd {out} && git init -b gh-pages && git add . && git commit -m Results && git push URL gh-pages")
    return 0


def read_report(layout: RunLayout) -> Published:
    """What the report of a tier's results was made of. UserError: there is none, or its records changed since."""
    again = f"Make the report: aqr-bench report --tier {layout.tier} --records {layout.results}."
    if not layout.page.is_file():
        tiers = [page.parents[1] for page in sorted(layout.root.glob("*/report/index.html"))]
        remedy = f"Name the folder of one tier: {join_names(tiers)}." if tiers else again
        raise UserError(f"no report in {layout.root}: {layout.page} is not there", remedy)
    note = read_json(layout.page_note) or {}
    if not isinstance(note.get("records"), dict) or not isinstance(note.get("studies"), list):
        raise UserError(f"{layout.page_note} does not say which records the report is of", again)
    changed = [
        name
        for name, sha256 in note["records"].items()
        if not (layout.root / name).is_file() or sha256_file(layout.root / name) != sha256
    ]
    if changed:
        raise UserError(f"{layout.page} is not of the records that are there: {', '.join(changed[:MAX_LINES])}", again)
    pretrained = (file.relative_to(layout.root).as_posix() for file in sorted(layout.root.glob("pretrain/**/*.jsonl")))
    names = dict.fromkeys([*pretrained, *note["records"]])
    if not names:
        raise UserError(f"{layout.page}: the report has no records")
    return Published(tuple(note["studies"]), {name: read_run(layout.root / name) for name in names})


def numbers(published: Published) -> pd.DataFrame:
    """The tidy table of all records, by their paths in the published folder."""
    rows = [row for name, records in published.records.items() for row in tidy_rows(records, f"records/{name}")]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _cautions(root: Path, published: Published) -> list[str]:
    """What is stale or mixed, a line each."""
    records = [record for of_file in published.records.values() for record in of_file]
    stale = stale_lines({root / name: of_file for name, of_file in published.records.items()})
    return [*(f"stale: {line}" for line in stale), *(line for line in mixtures(records) if "different" in line)]


def _copies(layout: RunLayout, published: Published) -> Iterator[tuple[str, Path]]:
    """Path in the published folder and source of each file that is copied."""
    for folder in ("", *published.studies):
        for part in REPORT_PARTS:
            source = layout.report / folder / part
            files = [source] if source.is_file() else sorted(file for file in source.rglob("*") if file.is_file())
            # Hidden ones are no part of the report, such as Snakemake's time stamps of folders.
            visible = (file for file in files if not file.name.startswith("."))
            yield from ((file.relative_to(layout.report).as_posix(), file) for file in visible)
    yield from ((f"records/{name}", layout.root / name) for name in published.records)


def _clear(out: Path, names: Sequence[str]) -> None:
    """Remove what an earlier publish wrote. UserError: a file of somebody else in the way; nothing is removed then."""
    sums = out / SUMS
    lines = sums.read_text(encoding="utf-8", errors="replace").splitlines() if sums.is_file() else []
    earlier = {line.partition("  ")[2] for line in lines} | {SUMS}
    # Other data sets have a file of that name as well.
    if not earlier.issuperset([CARD, NO_JEKYLL, f"{NUMBERS}.csv"]):
        earlier = set()
    foreign = [name for name in names if name not in earlier and os.path.lexists(out / name)]
    foreign += [name for name in names if not (out / name).resolve().is_relative_to(out.resolve())]
    if foreign:
        raise UserError(f"--out: {out} has files of another origin: {', '.join(foreign[:3])}", "Name another folder.")
    out.mkdir(parents=True, exist_ok=True)
    # Whose the files are is known also where this call is killed.
    write_text(sums, "".join(f"incomplete  {name}\n" for name in sorted({*earlier, *names} - {SUMS})))
    for name in earlier - {SUMS}:
        file = out / name
        if file.resolve().is_relative_to(out.resolve()):  # the list is a file like any other
            file.unlink(missing_ok=True)


if __name__ == "__main__":
    run_main(main)
