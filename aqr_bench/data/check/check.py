"""python -m aqr_bench.data check --root ROOT: is a nuScenes root whole, before anything runs on it? Writes nothing.

Tables (JSON, fields, tokens, links between them, calibration), counts and scenes of the official release, every file
that the tables name, and what is in a sample of them. One line for each thing that is wrong; exit code 0 if nothing is.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from aqr_bench.arguments import natural, seed
from aqr_bench.errors import UserError
from aqr_bench.study import SPLITS

from .files import check_contents, check_masks, check_presence, draw, recordings
from .finding import Finding, Progress, access_remedy, found, number, printable
from .tables import Table, check_links, check_sensors, check_tables

# As nuscenes-devkit prints them when it loads the release.
OFFICIAL = {
    "v1.0-trainval": {"scene": 850, "sample": 34149, "sample_data": 2631083, "sample_annotation": 1166187},
    "v1.0-mini": {"scene": 10, "sample": 404, "sample_data": 31206, "sample_annotation": 18538},
}
ARCHIVES = {
    "v1.0-trainval": ("v1.0-trainval_meta.tgz", "v1.0-trainval01_blobs.tgz to v1.0-trainval10_blobs.tgz"),
    "v1.0-mini": ("v1.0-mini.tgz", "v1.0-mini.tgz"),
}
WORLD = "world.json"  # a synthetic world has one


@dataclass(frozen=True)
class World:
    """What the world.json of a synthetic world says; ``splits``: number of train and val scenes."""

    version: str
    counts: Mapping[str, int]
    splits: Mapping[str, int]
    tables_sha256: str


@dataclass(frozen=True)
class Report:
    """What a check found; ``kind``: nuscenes | partial | synthetic. ``files``: named, ``opened``: decoded."""

    root: Path
    version: str
    kind: str
    counts: Mapping[str, int]
    files: int
    opened: int
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        return sum(not finding.warning for finding in self.findings)

    def lines(self) -> list[str]:
        """For people: what it is, then what is wrong with it."""
        what = {"nuscenes": "", "partial": ", a part of it", "synthetic": ", a synthetic world"}[self.kind]
        counts = ", ".join(number(self.counts[name], name) for name in ("scene", "sample") if name in self.counts)
        done = f"{number(self.files, 'file')} looked for, {self.opened} opened"
        warnings = len(self.findings) - self.errors
        verdict = "all well" if not self.findings else f"{number(self.errors, 'error')}, {number(warnings, 'warning')}"
        head = (
            f"{self.root} ({self.version or 'no version'}{what}): {', '.join(filter(None, [counts, done]))}: {verdict}"
        )
        return [printable(head), *(finding.line() for finding in self.findings)]

    def as_dict(self) -> dict:
        """For JSON."""
        return {
            "root": printable(str(self.root)),
            "version": self.version,
            "kind": self.kind,
            "ok": not self.errors,
            "counts": dict(self.counts),
            "files": self.files,
            "opened": self.opened,
            "findings": [finding.as_dict() for finding in self.findings],
        }


def check_root(
    root: str | Path,
    version: str | None = None,
    samples: int = 20,
    seed: int = 0,
    partial: bool = False,
    progress: Progress = lambda items, what: items,
) -> Report:
    """Check a nuScenes root.

    Args:
        root: the folder that holds tables, ``samples/``, ``sweeps/`` and ``maps/``.
        version: folder of the tables; None: the one that is there.
        samples: so many samples have all their key frames opened, and so many sweeps are. ``seed`` draws them.
        partial: a part of a release on purpose; counts and scenes of the release are not asked for.
    Raises:
        UserError: ``version`` is None and there are tables of several versions.
    """
    root = Path(root)
    findings, version = _find_version(root, version)
    if findings:
        return Report(root, version, "partial" if partial else "nuscenes", {}, 0, 0, _with_remedies(findings, version))
    world, findings = read_world(root)
    kind = "synthetic" if world or findings else "partial" if partial else "nuscenes"
    wrong, tables, digest = check_tables(root / version, progress)
    findings += wrong + check_links(tables) + check_sensors(tables)
    if world is not None:
        findings += check_world(world, version, tables, digest)
    elif kind == "nuscenes":
        findings += check_release(version, tables)
    if "scene" in tables:
        findings += check_splits(version, tables["scene"].columns["name"], kind, world)
    if "map" in tables:
        findings += check_masks(root, tables["map"])
    files, opened = 0, 0
    if "sample_data" in tables:
        named = recordings(tables)
        wrong, there = check_presence(root, named, progress)
        chosen = draw(named, there, samples, seed)
        findings += wrong + check_contents(root, named, chosen, progress)
        files, opened = len(named.names), len(chosen)
    counts = {name: table.count for name, table in tables.items()}
    return Report(root, version, kind, counts, files, opened, _with_remedies(findings, version, kind))


# ---------------------------------------------------------------- which data set is it?


def _find_version(root: Path, version: str | None) -> tuple[list[Finding], str]:
    """Nothing and the version of the tables, or why there are none."""
    try:
        there = sorted(entry.name for entry in root.iterdir() if entry.name.startswith("v1.0-") and entry.is_dir())
    except FileNotFoundError:
        return [Finding("root", f"there is no folder {root}")], version or ""
    except NotADirectoryError:
        return [Finding("root", f"{root} is a file, not a folder")], version or ""
    except OSError as error:
        what = f"{root} cannot be read ({error.strerror})"
        return [Finding("root", what, remedy=access_remedy(error))], version or ""
    known = [name for name in there if name in SPLITS]
    if version is None and len(known) > 1:
        raise UserError(f"{root} has tables of {' and '.join(known)}; say which with --version")
    if version in there or (version is None and known):
        return [], version or known[0]
    wanted = f"no folder {version}" if version else f"neither {' nor '.join(sorted(SPLITS, reverse=True))}"
    return [Finding("root", f"{root} has {wanted} with tables (found: {', '.join(there) or 'none'})")], version or ""


def read_world(root: Path) -> tuple[World | None, list[Finding]]:
    """What the root's world.json says: nothing of both where there is none, for nuScenes itself."""
    path = root / WORLD
    if os.path.lexists(path) and not os.path.isfile(path):
        return None, [Finding("root", f"{WORLD} is no file")]
    try:
        done = json.loads(path.read_text(encoding="utf-8"))
        splits = {"train": done["spec"]["train_scenes"], "val": done["spec"]["val_scenes"]}
        return World(done["spec"]["version"], dict(done["counts"]), splits, done["tables_sha256"]), []
    except FileNotFoundError:
        return None, []
    except OSError as error:
        return None, [Finding("root", f"{WORLD} cannot be read ({error.strerror})", remedy=access_remedy(error))]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return None, [Finding("root", f"{WORLD} does not describe a synthetic world ({type(error).__name__}: {error})")]


# ---------------------------------------------------------------- is it all of it?


def check_release(version: str, tables: Mapping[str, Table]) -> list[Finding]:
    """The tables have as many rows as those of the release."""
    official = OFFICIAL[version]
    wrong = [
        f"{number(tables[name].count, 'row')} of {name}.json, not {count}"
        for name, count in official.items()
        if name in tables and tables[name].count != count
    ]
    if not wrong:
        return []
    what = f"not as many rows as {version} has"
    for other, counts in OFFICIAL.items():
        if other != version and all(name in tables and tables[name].count == n for name, n in counts.items()):
            what += f", but as many as {other}"
    remedy = f"Unpack {ARCHIVES[version][0]} again, or say --partial if only a part of {version} is meant to be here."
    return [Finding("counts", what, tuple(wrong), len(wrong), remedy)]


def check_world(world: World, version: str, tables: Mapping[str, Table], digest: str | None) -> list[Finding]:
    """Tables and world.json agree."""
    findings = []
    if world.version != version:
        findings.append(Finding("counts", f"{WORLD} is about {world.version}, the tables are those of {version}"))
    wrong = [
        f"{number(table.count, 'row')} of {name}.json, not {world.counts.get(name)}"
        for name, table in tables.items()
        if table.count != world.counts.get(name)
    ]
    if wrong:
        findings.append(found("counts", f"not as many rows as {WORLD} says", wrong))
    elif digest is not None and digest != world.tables_sha256:
        findings.append(Finding("counts", f"the tables were changed since {WORLD} was written (tables_sha256 differs)"))
    return findings


def check_splits(version: str, names: Iterable[str], kind: str, world: World | None) -> list[Finding]:
    """The scenes are those of the official splits: all of a release, as many as a world says, some of a part."""
    from nuscenes.utils.splits import create_splits_scenes

    official = create_splits_scenes()
    splits = dict(zip(("train", "val"), (official[name] for name in SPLITS[version]), strict=True))
    times = Counter(names)
    findings = []
    twice = [name for name, count in times.items() if count > 1]
    if twice:
        findings.append(found("splits", f"{number(len(twice), 'scene name')} more than once in scene.json", twice))
    strange = sorted(times.keys() - set(splits["train"]) - set(splits["val"]))
    if strange:
        what = f"{number(len(strange), 'scene')} of neither split of {version}, which no run will see"
        findings.append(found("splits", what, strange, warning=kind == "partial"))
    for split, members in splits.items():
        present = [name for name in members if name in times]
        missing = [name for name in members if name not in times]
        if not present:
            what = (
                f"no scene of the official {split} split of {version}, and without one no information file can be made"
            )
            findings.append(Finding("splits", what, warning=kind == "partial"))
        elif kind == "nuscenes" and missing:
            what = f"{len(missing)} of {len(members)} scenes of the official {split} split missing in scene.json"
            remedy = f"Unpack {ARCHIVES[version][0]} again, or say --partial if they are meant to be missing."
            findings.append(found("splits", what, missing, remedy))
        elif world is not None and len(present) != world.splits[split]:
            what = f"{number(len(present), 'scene')} of the {split} split, {WORLD} says {world.splits[split]}"
            findings.append(Finding("splits", what))
    return findings


def _with_remedies(findings: Iterable[Finding], version: str, kind: str = "nuscenes") -> tuple[Finding, ...]:
    """Errors first, each with the way out of its group where it has none of its own."""
    tables, blobs = ARCHIVES.get(version, ("the archive of the tables", "the archives of the files"))
    usual = {
        "root": "Name the folder that holds v1.0-trainval/ or v1.0-mini/, samples/, sweeps/ and maps/ with --root, and "
        "the version that it has with --version.",
        "files": f"Unpack {blobs} into the root, again where the files are there.",
        "contents": f"Unpack {blobs} into the root again.",
        "maps": f"Unpack {tables} into the root: they lie in its maps/.",
    }
    again = f"Unpack {tables} into the root again; if these tables are your own, mend what writes them."
    if kind == "synthetic":
        usual, again = {}, "Delete the folder, and write the world again: aqr-bench world."
    ordered = sorted(findings, key=lambda finding: finding.warning)
    return tuple(f if f.remedy else replace(f, remedy=usual.get(f.group, again)) for f in ordered)


# ---------------------------------------------------------------- command line


def main(argv: list[str] | None = None) -> int:
    """Print what was found; return 0 if the root is fit for use (warnings may remain), 1 if it is not."""
    parser = argparse.ArgumentParser(
        prog="aqr-bench data check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="nuScenes root: v1.0-*/, samples/, sweeps/, maps/")
    parser.add_argument("--version", choices=sorted(SPLITS), help="version of the tables (default: the one there)")
    parser.add_argument(
        "--samples",
        type=natural,
        default=20,
        metavar="N",
        help="open all key-frame files of N samples, and N sweeps (default: 20; 0: none; more than there are: all)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="draws these samples (default: 0)")
    parser.add_argument("--partial", action="store_true", help="a part of a release: do not ask for all of its scenes")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)

    def progress(items: Iterable, what: str) -> Iterable:
        return tqdm(items, desc=what, leave=False, disable=True if args.quiet else None)  # None: not into a file

    try:
        report = check_root(args.root, args.version, args.samples, args.seed, args.partial, progress)
    except ValueError as error:  # a path that no file system takes
        raise UserError(f"--root {args.root!r}: {error}") from None
    print(json.dumps(report.as_dict(), indent=1) if args.json else "\n".join(report.lines()))
    return 1 if report.errors else 0
