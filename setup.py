"""Puts the workflow, the studies and what else is needed at run time into the wheel, below aqr_bench/share.

All else about the package is in pyproject.toml; the sdist's list of files is MANIFEST.in. In a checkout, and so in an
editable installation, these files are used where they are: see aqr_bench/folders.py.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHARED = ("Snakefile", "environment.yml", "requirements.lock", "requirements-slurm.lock")
SHARED += ("workflow", "ablations", "config", "examples", "results/published")
SHARE = Path("aqr_bench") / "share"


def shared_files() -> dict[str, Path]:
    """Files of the checkout that the wheel holds besides the package, by their path in it."""
    entries = map(Path, SHARED)
    listed = [file for entry in entries for file in ([entry] if entry.is_file() else sorted(entry.rglob("*")))]
    files = [file for file in listed if file.is_file() and "__pycache__" not in file.parts]
    return {(SHARE / file).as_posix(): file for file in files}


class BuildWithSharedFiles(build_py):
    """Copies the shared files beside the modules; for an editable installation there is nothing to copy."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for target, file in shared_files().items():
            path = Path(self.build_lib) / target
            self.mkpath(str(path.parent))
            self.copy_file(str(file), str(path))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        shared = [] if self.editable_mode else [str(Path(self.build_lib) / target) for target in shared_files()]
        return [*super().get_outputs(include_bytecode), *shared]


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildWithSharedFiles})
