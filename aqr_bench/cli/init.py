"""A project folder for custom studies: aqr-bench init [DIR]."""

from __future__ import annotations

import argparse
from pathlib import Path

from aqr_bench.atomic import write_text
from aqr_bench.errors import UserError
from aqr_bench.folders import shipped, shipped_folder

TEMPLATE = "examples/project"
COPIED_EXAMPLE = "examples/centerpoint"  # so that the commands of the documentation work in the project folder
HIDDEN = {"gitignore": ".gitignore"}


def main(argv: list[str] | None = None) -> int:
    """Write the files of a project folder; those that are there already stay as they are."""
    parser = argparse.ArgumentParser(
        prog="aqr-bench init",
        description="Make a project folder: an example study and tier in ablations/, config/, a README, a .gitignore.",
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="DIR", help="default: this folder")
    folder = parser.parse_args(argv).folder
    if folder.resolve().is_relative_to(shipped_folder().resolve()):
        raise UserError(
            f"{folder.resolve()} is in {shipped_folder()}, where what ships lies",
            "Name a folder elsewhere: aqr-bench init DIR.",
        )
    for name, source in project_files().items():
        path = folder / name
        if path.exists():
            print(f"there already  {path}")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, source.read_text(encoding="utf-8"))
            print(f"written        {path}")
    there = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    print(f"next: {there}aqr-bench run --tier first_tier (minutes; README.md names the other commands)")
    return 0


def project_files() -> dict[str, Path]:
    """The files that ship for a project folder, by their path in it."""
    files = {}
    for root, target in ((TEMPLATE, Path()), (COPIED_EXAMPLE, Path(COPIED_EXAMPLE))):
        for file in sorted(shipped(root).rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                place = target / file.relative_to(shipped(root))
                files[place.with_name(HIDDEN.get(place.name, place.name)).as_posix()] = file
    return files
