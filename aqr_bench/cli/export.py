"""All numbers of records as one tidy table, for pandas, R or DuckDB: aqr-bench export RECORDS... --out FILE.csv."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from aqr_bench.atomic import atomic_write
from aqr_bench.console import counted, print_warning
from aqr_bench.errors import UserError, join_names
from aqr_bench.records.record import distinct_record_files, read_run
from aqr_bench.records.tidy import COLUMNS, tidy_rows

SUFFIXES = (".csv", ".parquet")


def main(argv: list[str] | None = None) -> int:
    """Write the table, print its size. UserError: no record, another suffix, or Parquet without pyarrow."""
    parser = argparse.ArgumentParser(
        prog="aqr-bench export",
        description="All numbers of records as one tidy table: a row for each record, metric, class and distance, with "
        "the hashes of what it depends on. A record without a number has one row with its reason.",
    )
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORDS", help="results folders or record files")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=f"{' or '.join(SUFFIXES)}")
    args = parser.parse_args(argv)
    if args.out.suffix not in SUFFIXES:
        raise UserError(f"--out: '{args.out}' is no file of {join_names(SUFFIXES)}", "Give it one of these suffixes.")
    files = distinct_record_files(args.records)
    if not files:
        raise UserError(f"no record file in {join_names(args.records)}", "Give a folder such as results.")
    by_file = {file: read_run(file) for file in files}
    rows = [row for file, records in by_file.items() for row in tidy_rows(records, file.as_posix())]
    write_table(pd.DataFrame(rows, columns=list(COLUMNS)), args.out)
    for record in (record for records in by_file.values() for record in records if record.extra.get("damaged")):
        print_warning(str(record.reason))
    print(f"{counted(len(rows), 'row')} of {counted(len(files), 'record file')} -> {args.out}")
    return 0


def can_write_parquet() -> bool:
    """Whether pyarrow is installed and can be imported."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return False
    return True


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write CSV or Parquet, by the suffix; numbers in full precision, seeds as integers also beside missing ones."""
    numbers = {"seed": "Int64", "distance_m": "float64", "value": "float64"}
    frame = frame.astype({name: numbers.get(name, "object") for name in frame.columns})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False, lineterminator="\n")
            return
        try:
            frame.to_parquet(temporary, engine="pyarrow", index=False)
        except ImportError:
            raise UserError(
                f"{path}: Parquet needs pyarrow", "Install it: pip install 'aqr-bench[parquet]'; or write a .csv."
            ) from None
