"""Where files are: what ships with the package, and the project folder in which studies are run."""

from __future__ import annotations

from pathlib import Path

from aqr_bench.errors import UserError

_PACKAGE = Path(__file__).resolve().parent
PACKAGE_DATA = _PACKAGE / "share"  # of an installed package, see setup.py; a checkout has no such folder
# What marks a project folder beside its ablations/, so that a folder of that name above another project is none.
SETTINGS = Path("config") / "config.yaml"


def is_installed() -> bool:
    """Whether what ships is package data, and not the files of a checkout."""
    return PACKAGE_DATA.is_dir()


def shipped_folder() -> Path:
    """The folder with the ``Snakefile``, ``workflow/``, ``ablations/``, ``examples/`` and the like that ship.

    That of the package data; in a checkout its top level. There the working directory and its parents come first, so
    that a copy of the repository uses its own files.

    Raises:
        UserError: neither is there.
    """
    if is_installed():
        return PACKAGE_DATA
    for folder in (*_folders_upwards(), _PACKAGE.parent):
        if (folder / "ablations").is_dir() and (folder / "workflow" / "schemas").is_dir():
            return folder
    raise UserError(
        f"the installation is incomplete: no ablations/ and workflow/schemas/ in {PACKAGE_DATA} or {_PACKAGE.parent}",
        "Install it again: python -m pip install --force-reinstall --no-deps aqr-bench.",
    )


def shipped(name: str) -> Path:
    """A file or folder that ships, such as ``results/published``."""
    return shipped_folder() / name


def project_folder() -> Path:
    """Where studies of the user are, where the workflow runs, and below which its results lie.

    The nearest folder with ``ablations/`` and ``config/config.yaml``, as ``aqr-bench init`` makes it and a checkout has
    it, from the working directory upwards; the working directory if there is none.
    """
    projects = (f for f in _folders_upwards() if (f / "ablations").is_dir() and (f / SETTINGS).is_file())
    return next(projects, Path.cwd())


def ablation_folders(kind: str = "") -> list[Path]:
    """Folders of studies (``tiers``, ``conditions``: of those), in the order of search: the project's, what ships."""
    folders = [root / "ablations" / kind for root in (project_folder(), shipped_folder())]
    return folders[1:] if folders[0].resolve() == folders[1].resolve() else folders


def _folders_upwards() -> list[Path]:
    here = Path.cwd()
    return [here, *here.parents]
