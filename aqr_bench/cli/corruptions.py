"""The sensor corruptions: list them, show one, draw what they do to a sample, write a data set under them.

aqr-bench corruptions list [SUITE]
aqr-bench corruptions show NAME          NAME of these, or of your own as my_file.py:FUNCTION
aqr-bench corruptions preview [NAME ...] --keyframe FOLDER | --infos DIR [--sample N] --out DIR
aqr-bench corruptions write SUITE --root ROOT --out DIR [--conditions NAME ...]
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aqr_bench import plugins
from aqr_bench.atomic import exclusive_folder
from aqr_bench.console import (
    add_json_option,
    add_quiet_option,
    hide_progress,
    non_negative_int,
    positive_float,
    positive_int,
    print_json,
    print_warning,
    seed,
)
from aqr_bench.corruptions import CORRUPTIONS, Corruption, Frame, FrameError, corrupt
from aqr_bench.errors import EXIT_FAILED_RECORDS, UserError, nearest, run_main

SUITES = sorted({condition.suite for condition in CORRUPTIONS.every()})


def main(argv: list[str] | None = None) -> int:
    """0: done, 3: a condition cannot be written. UserError: an unknown condition, suite or sample."""
    args = _arguments(argv)
    if args.action in ("list", "show") and args.json:
        families = listed(args.suite) if args.action == "list" else {args.name: family(args.name)}
        print_json({"corruptions": [facts(conditions) for conditions in families.values()]})
    elif args.action == "list":
        print(table(args.suite, args.markdown))
    elif args.action == "show":
        print(describe(args.name))
    elif args.action == "write":
        return write(args)
    else:
        from aqr_bench.data.raw_frames import BadFrameError

        try:
            frame = load_frame(args.infos, args.keyframe, args.sample, args.sweeps)
        except (BadFrameError, FrameError) as error:
            raise UserError(f"{args.keyframe or args.infos}: {error}") from None
        check_cameras(args.cameras or (), frame)
        for path in preview(args.names, frame, Path(args.out), args.seed, args.range, args.cameras):
            print(path)
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="aqr-bench corruptions", description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|preview|write")
    listing = actions.add_parser("list", help="all conditions, or those of one suite, as a table")
    listing.add_argument("suite", nargs="?", help=", ".join(SUITES))
    listing.add_argument("--markdown", action="store_true", help="as a Markdown table")
    add_json_option(listing)
    show = actions.add_parser("show", help="one condition: its numbers at every severity, source and deviations")
    show.add_argument("name")
    add_json_option(show)
    drawing = actions.add_parser("preview", help="picture sheets: six cameras and the LiDAR, clean and corrupted")
    drawing.add_argument("names", nargs="*", metavar="NAME", help="conditions or suites (default: all)")
    drawing.add_argument("--infos", help="folder that aqr-bench data wrote")
    drawing.add_argument("--keyframe", help="instead: a folder with an info file (.pkl) and the files that it names")
    drawing.add_argument("--sample", default="0", help="number in the val split, or a sample token (default: 0)")
    drawing.add_argument("--sweeps", type=non_negative_int, default=10, help="most LiDAR sweeps (default: 10)")
    drawing.add_argument("--seed", type=seed, default=0, help="benchmark seed")
    drawing.add_argument("--range", type=positive_float, default=40.0, help="half side of the top view, m (40)")
    drawing.add_argument("--cameras", nargs="+", action="extend", metavar="CAMERA", help="to show (default: all six)")
    drawing.add_argument("--out", default="previews", help="folder for the pictures (default: previews)")
    writing = actions.add_parser("write", help="nuScenes roots with damaged files, a folder for each condition")
    writing.add_argument("suite", help="condition suite, file or name")
    writing.add_argument("--root", required=True, type=Path, help="data set, with the tables in ROOT/VERSION")
    writing.add_argument("--out", required=True, type=Path, help="folder for the roots; what is written there stays")
    writing.add_argument("--version", help="v1.0-trainval or v1.0-mini (default: the one in ROOT)")
    writing.add_argument("--split", help="default: val, mini_val, or the split of splits.json whose name ends in val")
    writing.add_argument("--conditions", nargs="+", action="extend", metavar="NAME", help="of the suite (default: all)")
    writing.add_argument(
        "--sweeps", type=non_negative_int, default=10, help="LiDAR sweeps of a keyframe, as of the detector (10)"
    )
    writing.add_argument("--workers", type=positive_int, default=1, help="processes (default: 1)")
    add_quiet_option(writing)
    return parser.parse_args(argv)


def write(args: argparse.Namespace) -> int:
    """Write the conditions of a suite; exit code.

    UserError: the suite lacks a condition, another process is writing to --out, or what cannot be read.
    """
    # Imports of torch, mmdet3d and the devkit take seconds: only once the arguments are known to be good.
    from aqr_bench.study.load import load_suite

    suite = load_suite(args.suite)
    known = {condition.name: condition for condition in suite.conditions}
    for name in args.conditions or ():
        if name not in known:
            raise UserError(f"--conditions: suite '{suite.name}' has no condition '{name}'{nearest(name, known)}")
    conditions = [known[name] for name in dict.fromkeys(args.conditions or known)]
    from aqr_bench.data.corrupted_root import open_source, write_conditions
    from aqr_bench.engine.score_submission import find_target

    target = find_target(args.root, args.version, args.split)
    with hide_progress(args.quiet), exclusive_folder(args.out):
        source = open_source(target.root, target.version, target.split, args.sweeps, args.out)
        refused = write_conditions(suite.name, conditions, source, args.out, args.sweeps, args.workers)
    return EXIT_FAILED_RECORDS if refused else 0


def _check_suite(name: str) -> str:
    if name not in SUITES:
        raise UserError(f"unknown suite '{name}'{nearest(name, SUITES)}")
    return name


def table(suite: str | None = None, markdown: bool = False) -> str:
    """One line per condition: name, severities, what it changes, summary."""
    rows = [("condition", "severities", "changes", "needs", "what it does")]
    for name, conditions in listed(suite).items():
        first = conditions[0]
        levels = ", ".join(str(c.severity) for c in conditions) if first.severity else "-"
        summary = first.summary if len(conditions) == 1 else f"{first.summary} ... {conditions[-1].summary}"
        rows.append((name, levels, first.modality, ", ".join(first.needs) or "-", summary))
    if markdown:
        return "\n".join(
            ["| " + " | ".join(rows[0]) + " |", "|---" * 5 + "|"] + [f"| {' | '.join(r)} |" for r in rows[1:]]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join([*map(str.ljust, row[:4], widths), row[4]]) for row in rows)


def listed(suite: str | None = None) -> dict[str, tuple[Corruption, ...]]:
    """The conditions of one suite, or of all and those of other packages, each with its severities."""
    families = {key: e for key, e in CORRUPTIONS.items() if suite is None or e[0].suite == _check_suite(suite)}
    return families | (_installed() if suite is None else {})


def family(name: str) -> tuple[Corruption, ...]:
    """A condition at every severity; ``name`` may have one (``multicorrupt.fog@2``), which does not matter."""
    return CORRUPTIONS.family(name.partition("@")[0])


def facts(conditions: Sequence[Corruption]) -> dict:
    """What ``list`` and ``show`` print about one condition, by name."""
    first = conditions[0]
    levels = [{"severity": c.severity, "summary": c.summary, "parameters": c.parameters} for c in conditions]
    common = {"name": first.key, "suite": first.suite, "changes": first.modality, "needs": first.needs}
    return common | {"severities": levels, "source": first.source, "deviations": first.deviations}


def _installed() -> dict[str, tuple[Corruption, ...]]:
    """Those that other installed packages register; one that cannot be used is reported, and stops nobody."""
    families = {}
    for name in plugins.installed(plugins.CORRUPTIONS):
        try:
            families[name] = CORRUPTIONS.family(name)
        except UserError as error:
            print_warning(str(error))
    return families


def describe(name: str) -> str:
    """Everything about one condition, its parameters at every severity side by side."""
    conditions = family(name)
    first = conditions[0]
    lines = [f"{first.key}: {first.summary}" if len(conditions) == 1 else first.key, f"  suite      {first.suite}"]
    lines += [f"  changes    {first.modality}", f"  needs      {', '.join(first.needs) or 'nothing more'}"]
    lines += [f"  source     {first.source}"]
    for key in first.parameters:
        values = [str(c.parameters.get(key, "-")) for c in conditions]
        lines.append(f"  {key} = {values[0] if len(set(values)) == 1 else ' | '.join(values)}")
    if len(conditions) > 1:
        lines += [f"  severity {c.severity}: {c.summary}" for c in conditions]
    for text in first.deviations:
        lines.append(textwrap.fill(f"deviates: {text}", 110, initial_indent="  ", subsequent_indent="    "))
    return "\n".join(lines)


def load_frame(infos: str | None, keyframe: str | None, sample: str, sweeps: int) -> Frame:
    """The raw data of one sample: of the val split of an info folder, or of a keyframe folder."""
    from aqr_bench.data.raw_frames import InfoFile

    if (infos is None) == (keyframe is None):
        raise UserError(
            "preview needs a sample: give --infos DIR (see aqr-bench data) or --keyframe FOLDER, one of them"
        )
    if keyframe is not None:
        from aqr_bench.data.dataset import keyframe_data

        data, name = keyframe_data(keyframe)
        file = InfoFile(Path(keyframe) / name, keyframe, flat=True)
    else:
        from aqr_bench.data.dataset import load_data

        data = load_data(infos)
        file = InfoFile(data.infos / "infos_val.pkl", data.root)
    number = int(sample) if sample.isdecimal() else file.index(sample)
    if number >= len(file.infos):
        raise UserError(f"{file.path} has {len(file.infos)} samples, there is no number {number}")
    return file.frame(number, sweeps)


def check_cameras(names: Sequence[str], frame: Frame) -> None:
    """UserError: a camera that the frame does not have."""
    known = [view.camera for view in frame.views]
    for name in names:
        if name not in known:
            raise UserError(f"--cameras: the sample has no '{name}'{nearest(name, known)}")


def preview(
    names: Sequence[str],
    frame: Frame,
    out: Path,
    seed: int = 0,
    range_m: float = 40.0,
    cameras: Sequence[str] | None = None,
) -> list[Path]:
    """One sheet per condition (clean, then its severities) and ``overview.jpg`` with all at their highest severity."""
    from aqr_bench.report.figures.frame_grid import CAMERA_GRID, GridRow, draw_frame_grid

    families = _families(names)
    written, overview = [], [GridRow("clean", frame)]
    for conditions in families:
        moved = conditions[0].modality == "calibration"
        rows = [GridRow("clean", frame, project=moved), *(_row(condition, frame, seed) for condition in conditions)]
        path = out / f"{conditions[0].key}.jpg"
        title = f"{conditions[0].key}, sample {frame.token[:8]}"
        draw_frame_grid(path, rows, title, cameras or CAMERA_GRID, range_m)
        written.append(path)
        overview.append(replace(rows[-1], label=_label(conditions[-1])))
    if len(families) > 1:
        path = out / "overview.jpg"
        front = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_BACK")
        draw_frame_grid(path, overview, f"highest severities, sample {frame.token[:8]}", front, range_m)
        written.append(path)
    return written


def _families(names: Sequence[str]) -> list[tuple[Corruption, ...]]:
    families: dict[str, tuple[Corruption, ...]] = {}
    for name in names or SUITES:
        if name in SUITES:
            of_suite = ((key, entries) for key, entries in CORRUPTIONS.items() if entries[0].suite == name)
            families |= {key: entries for key, entries in of_suite if key != "clean"}
        else:
            conditions = family(name)
            families[conditions[0].key] = conditions
    return list(families.values())


def _row(condition: Corruption, frame: Frame, seed: int):
    from aqr_bench.report.figures.frame_grid import GridRow

    label = f"severity {condition.severity}" if condition.severity else condition.name
    try:
        return GridRow(label, corrupt(condition, frame, seed), project=condition.modality == "calibration")
    except FrameError as error:
        return GridRow(label, None, str(error).rpartition(": ")[2])


def _label(condition: Corruption) -> str:
    return str(condition).replace(".", "\n", 1)


if __name__ == "__main__":
    run_main(main)
