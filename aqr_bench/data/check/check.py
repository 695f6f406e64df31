"""aqr-bench data check --root ROOT: is a nuScenes root complete and consistent? Writes nothing.

Tables (JSON, fields, tokens, links between them, calibration), counts and scenes of the official release, every file
that the tables name, and the contents of a sample of them. One line for each thing that is wrong; exit code 0 if
nothing is.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from aqr_bench.console import add_json_option, add_quiet_option, non_negative_int, print_json, seed
from aqr_bench.data.check.clouds import COLUMNS, POINT_FORMAT
from aqr_bench.data.check.clouds import REMEDIES as CLOUD_REMEDIES
from aqr_bench.data.check.files import check_contents, check_masks, check_presence, draw, recordings
from aqr_bench.data.check.finding import Finding, Progress, about_names, access_cause, number, printable
from aqr_bench.data.check.links import check_links, check_sensors
from aqr_bench.data.check.scored import REMEDIES as SCORED_REMEDIES
from aqr_bench.data.check.scored import check_scored
from aqr_bench.data.check.tables import Table, check_tables
from aqr_bench.data.check.values import REMEDIES as VALUE_REMEDIES
from aqr_bench.data.check.values import check_values, table_values
from aqr_bench.errors import UserError
from aqr_bench.foreign_files import LFS_POINTER, WEB_PAGE, misplaced_tables
from aqr_bench.metrics.scoring_rules import OFFICIAL_RULES, ScoringRules
from aqr_bench.metrics.splits import FILE, TEST, VERSIONS, read_splits
from aqr_bench.study.load import load_tier
from aqr_bench.study.spec import SPLITS
from aqr_bench.study.vocabulary import Vocabulary

# As nuscenes-devkit prints them when it loads the release.
OFFICIAL = {
    "v1.0-trainval": {"scene": 850, "sample": 34149, "sample_data": 2631083, "sample_annotation": 1166187},
    "v1.0-mini": {"scene": 10, "sample": 404, "sample_data": 31206, "sample_annotation": 18538},
    TEST: {"scene": 150, "sample": 6008, "sample_annotation": 0},
}
ARCHIVES = {
    "v1.0-trainval": ("v1.0-trainval_meta.tgz", "v1.0-trainval01_blobs.tgz to v1.0-trainval10_blobs.tgz"),
    "v1.0-mini": ("v1.0-mini.tgz", "v1.0-mini.tgz"),
    TEST: ("v1.0-test_meta.tgz", "v1.0-test_blobs.tgz"),
}
WORLD = "world.json"  # marks a synthetic world
KINDS = {"nuscenes": "", "partial": ", a part of it", "synthetic": ", a synthetic world"}


@dataclass(frozen=True)
class Report:
    """Result of a check; ``kind``: of KINDS. ``files``: named, ``opened``: decoded."""

    root: Path
    version: str
    kind: str
    findings: tuple[Finding, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    files: int = 0
    opened: int = 0

    @property
    def errors(self) -> int:
        return sum(not finding.warning for finding in self.findings)

    def lines(self) -> list[str]:
        """Human-readable: what was checked, then what is wrong with it."""
        counts = [number(self.counts[name], name) for name in ("scene", "sample") if name in self.counts]
        checked = ", ".join([*counts, f"{number(self.files, 'file')} looked for, {self.opened} opened"])
        warnings = len(self.findings) - self.errors
        verdict = f"{number(self.errors, 'error')}, {number(warnings, 'warning')}" if self.findings else "all well"
        head = f"{self.root} ({self.version or 'no version'}{KINDS[self.kind]}): {checked}: {verdict}"
        return [printable(head), *(finding.line() for finding in self.findings)]

    def as_dict(self) -> dict:
        """For JSON."""
        fields = {key: getattr(self, key) for key in ("version", "kind", "files", "opened")}
        findings = [finding.as_dict() for finding in self.findings]
        root, counts = printable(str(self.root)), dict(self.counts)
        return {"root": root, "ok": not self.errors, **fields, "counts": counts, "findings": findings}


def check_root(
    root: str | Path,
    version: str | None = None,
    samples: int = 20,
    seed: int = 0,
    partial: bool = False,
    progress: Progress = lambda items, title: items,
    vocabulary: Vocabulary | None = None,
    scoring: ScoringRules = OFFICIAL_RULES,
) -> Report:
    """Check a nuScenes root.

    Args:
        root: the folder that holds tables, ``samples/``, ``sweeps/`` and ``maps/``.
        version: folder of the tables; None: the only one.
        samples: of so many samples all keyframes are opened, and so many sweeps; drawn with ``seed``.
        partial: a part of a release on purpose; counts and scenes of the release are not asked for.
        vocabulary: of a data set with custom names. ``scoring``: ranges in which objects count.
    Raises:
        UserError: ``version`` is None and there are tables of several versions.
    """
    root, kind = Path(root), "partial" if partial else "nuscenes"
    findings, version = _find_version(root, version)
    if findings:
        return Report(root, version, kind, _with_remedies(findings, version, kind))
    findings, tables, digest = check_tables(root / version, progress)
    findings += check_links(tables) + check_sensors(tables)
    if os.path.lexists(root / WORLD):
        kind = "synthetic"
        findings += check_world(root / WORLD, digest)
    else:
        findings += check_values(table_values(tables), vocabulary or Vocabulary())
        if kind == "nuscenes":
            findings += check_release(version, tables)
    if "scene" in tables:
        findings += check_splits(root, version, tables, kind, vocabulary or Vocabulary(), scoring)
    if "map" in tables:
        findings += check_masks(root, tables["map"])
    files, opened = 0, 0
    if "sample_data" in tables:
        named = recordings(tables)
        problems, usable = check_presence(root, named, progress)
        chosen = draw(named, usable, samples, seed)
        # A synthetic street may be empty on one side: an incomplete scan is no fault there.
        findings += problems + check_contents(root, named, chosen, progress, full_scans=kind != "synthetic")
        files, opened = sum(map(bool, named.names)), len(chosen)
    counts = {name: table.count for name, table in tables.items()}
    return Report(root, version, kind, _with_remedies(findings, version, kind), counts, files, opened)


def _find_version(root: Path, version: str | None) -> tuple[list[Finding], str]:
    """No findings and the version of the tables, or why there are none."""
    try:
        present = sorted(entry.name for entry in root.iterdir() if entry.name.startswith("v1.0-") and entry.is_dir())
    except OSError as error:
        return [
            Finding("root", f"{root} cannot be read ({error.strerror})", access_cause(error, "root"))
        ], version or ""
    # That of the test split lies beside the other one in most roots, and is checked if it is asked for.
    usable = [name for name in present if name in SPLITS] or [name for name in present if name == TEST]
    if version is None and len(usable) > 1:
        raise UserError(f"{root} has tables of {' and '.join(usable)}; choose one with --version")
    misplaced = misplaced_tables(root, usable if version is None and usable else [version] if version else SPLITS)
    if version in present or (version is None and usable):
        version = version or usable[0]
        if misplaced is None:
            return [], version
        what = f"{root / version} has no tables: {misplaced.name}"
        return [Finding("root", what, "root", remedy=misplaced.remedy)], version
    lacks = f"no folder {version}" if version else f"neither {' nor '.join(sorted(SPLITS, reverse=True))}"
    what = f"{root} has {lacks} with tables (it has: {', '.join(present) or 'none'})"
    if misplaced is None:
        return [Finding("root", what, "root")], version or ""
    return [Finding("root", f"{what}; {misplaced.name}", "root", remedy=misplaced.remedy)], version or ""


def check_release(version: str, tables: Mapping[str, Table]) -> list[Finding]:
    """The tables have as many rows as those of the release."""
    wrong = [
        f"{number(tables[name].count, 'row')} of {name}.json, not {count}"
        for name, count in OFFICIAL[version].items()
        if name in tables and tables[name].count != count
    ]
    what = f"not as many rows as {version} has"
    return [Finding("counts", what, "release", tuple(wrong), len(wrong))] if wrong else []


def check_world(path: Path, digest: str | None) -> list[Finding]:
    """The tables are those that were written with the world.json."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would block
            raise ValueError
        written = json.loads(path.read_text(encoding="utf-8"))["tables_sha256"]
    except OSError as error:
        return [Finding("root", f"{WORLD} cannot be read ({error.strerror})", access_cause(error, "table"))]
    except (ValueError, TypeError, KeyError, RecursionError):
        return [Finding("root", f"{WORLD} does not describe a synthetic world", "table")]
    what = f"the tables were changed since {WORLD} was written (tables_sha256 differs)"
    return [Finding("counts", what, "table")] if digest not in (None, written) else []


def check_splits(
    root: Path,
    version: str,
    tables: Mapping[str, Table],
    kind: str,
    vocabulary: Vocabulary,
    scoring: ScoringRules,
) -> list[Finding]:
    """The scenes are those of the splits: all of a release and of splits.json, some of both in any other root.

    And the one that is evaluated has something to be scored with.
    """
    scene = tables["scene"]
    try:
        splits = read_splits(root, version)
    except UserError as error:
        return [Finding("splits", error.message, "splits", remedy=error.remedy)]
    names = {name for name in scene.columns["name"] if name is not None}
    unknown = sorted(names.difference(*(split.scenes for split in splits.values())))
    what = f"{number(len(unknown), 'scene')} of neither split of {version}, which no run will see"
    findings = about_names("splits", what, "scene names", unknown, warning=kind == "partial")
    for role, split in splits.items() if scene.complete("name") else ():
        missing = [name for name in split.scenes if name not in names]
        if split.scenes and len(missing) == len(split.scenes):
            lost = "nothing can be trained on" if role == "train" else "no info file can be made"
            what = f"no scene of the {split.label} of {version}, and without one {lost}"
            findings.append(Finding("splits", what, "scene names", warning=kind == "partial" or role == "train"))
        elif split.custom or kind == "nuscenes":
            what = f"{len(missing)} of {len(split.scenes)} scenes of the {split.label} missing in scene.json"
            findings += about_names("splits", what, "splits" if split.custom else "release", missing)
    return findings + ([] if version == TEST else check_scored(tables, splits["val"], vocabulary, scoring))


def remedies(version: str, kind: str) -> dict[str, str]:
    """What to do about each cause of a finding."""
    tables, blobs = ARCHIVES.get(version, ("the archive of the tables", "the archives of the files"))
    again = f"Unpack {tables} into the root again"
    texts = {
        "table": f"{again}; tables of your own: write them again.",
        "row": f"{again}; tables of your own: correct what writes them.",
        "link": f"{again}; a part of a release, or tables of your own: add what these rows need, or leave them out.",
        "sensors": f"{again}; sensors of your own: name them as nuScenes does (docs/extend.md).",
        "release": f"Unpack {tables} again, or use --partial if only a part of {version} is meant to be here.",
        "scene names": f"Runs see scenes of the official splits of {version}, or of your own splits in "
        f"{version}/{FILE} (docs/extend.md); for the release, unpack {tables} again.",
        "splits": f"Correct {version}/{FILE} (docs/extend.md), or add these scenes.",
        "file": f"Unpack {blobs} into the root again; files of your own: write them again.",
        "scan": f"Nothing to do where the surroundings are open; else unpack {blobs} into the root again.",
        "mask": f"Unpack {tables} into the root: they are in its maps/.",
        **VALUE_REMEDIES,
        **CLOUD_REMEDIES,
        **SCORED_REMEDIES,
        COLUMNS: f"Unpack {blobs} into the root again; files of your own: write them as {POINT_FORMAT}.",
    }
    if kind == "synthetic":
        texts = dict.fromkeys(texts, "Delete the folder and write the world again: aqr-bench world.")
    texts |= {kind.name: kind.remedy for kind in (LFS_POINTER, WEB_PAGE)}
    return texts | {
        "root": "Set --root to the folder that holds v1.0-trainval/ or v1.0-mini/, samples/, sweeps/ and maps/, and "
        "--version to the version that it has.",
        "access": "Check its permissions, and the disk or network share that it is on.",
    }


def _with_remedies(findings: Iterable[Finding], version: str, kind: str) -> tuple[Finding, ...]:
    """Errors first, each with its remedy."""
    texts = remedies(version, kind)
    ordered = sorted(findings, key=lambda finding: finding.warning)
    return tuple(replace(finding, remedy=finding.remedy or texts[finding.cause]) for finding in ordered)


def main(argv: list[str] | None = None) -> int:
    """Print the report; return 0 if the root can be used (warnings may remain), else 1."""
    parser = argparse.ArgumentParser(
        prog="aqr-bench data check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="nuScenes root: v1.0-*/, samples/, sweeps/, maps/")
    parser.add_argument("--version", choices=sorted(VERSIONS), help="version of the tables (default: the only one)")
    samples_help = "open all keyframe files of N samples, and N sweeps (default: 20; 0: none; more than there are: all)"
    parser.add_argument("--tier", help="tier file or name: it maps categories and attributes, and has the ranges")
    parser.add_argument("--samples", type=non_negative_int, default=20, metavar="N", help=samples_help)
    parser.add_argument("--seed", type=seed, default=0, help="draws these samples (default: 0)")
    parser.add_argument("--partial", action="store_true", help="a part of a release: do not ask for all of its scenes")
    add_json_option(parser)
    add_quiet_option(parser)
    args = parser.parse_args(argv)

    def progress(items: Iterable, title: str) -> Iterable:
        return tqdm(items, desc=title, leave=False, disable=True if args.quiet else None)  # None: not into a file

    tier = load_tier(args.tier) if args.tier else None
    vocabulary, scoring = (None, OFFICIAL_RULES) if tier is None else (tier.vocabulary, tier.scoring)
    try:
        report = check_root(
            args.root, args.version, args.samples, args.seed, args.partial, progress, vocabulary, scoring
        )
    except ValueError as error:  # a path that no file system takes
        raise UserError(f"--root {args.root!r}: {error}") from None
    if args.json:
        print_json(report.as_dict())
    else:
        print("\n".join(report.lines()))
    return 1 if report.errors else 0
