"""Which tiers work on this machine, why not the others, and how to fix it. Changes nothing.

aqr-bench doctor                    exit code 0 if the default tier works, 1 if it does not
aqr-bench doctor --tier mini        another tier decides the exit code: a name or a file
aqr-bench doctor --json             the same for programs
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import sys
import sysconfig
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aqr_bench.cli.cuda_builds import Advice, Driver, advise, find_driver, set_up_command, spconv_build
from aqr_bench.cli.import_checks import ImportResult, check_imports
from aqr_bench.console import add_json_option, counted, print_json
from aqr_bench.errors import UserError, require_disk, run_main
from aqr_bench.folders import PACKAGE_DATA, is_installed, project_folder

if TYPE_CHECKING:
    from aqr_bench.study.spec import Schedule, Study, Tier

DEFAULT_TIER = "quick"
MEMORY_GB = 8  # what README.md asks for
INSTALL = f"{sys.executable} -m pip install"
SHARE = PACKAGE_DATA if is_installed() else Path(__file__).resolve().parents[2]  # also where doctor runs elsewhere
LOCKED = f"{INSTALL} --no-deps -r {SHARE / 'requirements.lock'}"
INSTALL_DOC = "see docs/install.md"
REMEDIES = {
    "torch": f"{INSTALL} torch==2.13.0",
    "mmcv": f"{INSTALL} --no-deps --no-build-isolation mmcv-lite==2.1.0",
    "mmdet3d": LOCKED,
    "spconv": LOCKED,
    "nuscenes-devkit": LOCKED,
}


@dataclass(frozen=True)
class Check:
    """One thing of the machine. ``state``: ok | note (some tiers want it) | broken (no tier works)."""

    name: str
    state: str
    seen: str
    remedy: str = ""


@dataclass(frozen=True)
class Reason:
    """Why a tier does not work (or, as a note, what will be missing from its results), and how to fix it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class TierVerdict:
    """Whether a tier works on this machine; ``notes`` do not keep it from working."""

    tier: str
    works: bool
    reasons: tuple[Reason, ...]
    notes: tuple[Reason, ...] = ()


# ---------------------------------------------------------------- the machine


def check_machine(imports: Mapping[str, ImportResult], driver: Driver | None) -> list[Check]:
    """Python, packages, torch and CUDA, mmcv, mmdet3d, spconv, devkit, driver, C compiler, memory, disk."""
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    disk = Check("disk", "ok", f"{free:.0f} GB free in {Path.cwd()}")  # what is enough depends on the tier
    machine = [check_driver(driver, imports), _check_compiler(), _check_memory(), disk]
    return [_check_python(), _check_packages(), *_check_imports(imports, driver), *machine]


def _check_python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == (3, 11):
        return Check("python", "ok", version)
    remedy = "an environment of Python 3.11" if is_installed() else "make clean setup PYTHON=/path/to/python3.11"
    return Check("python", "broken", f"{version}, not 3.11", remedy)


def _check_packages() -> Check:
    """Installed versions against what the project asks for; the heavy ones are imported as well."""
    try:
        from packaging.requirements import Requirement

        asked = importlib.metadata.requires("aqr-bench") or []
    except ImportError as error:  # PackageNotFoundError is one
        what = f"not installed: {error.name or error}"
        return Check("packages", "broken", what, "make setup, or the steps of docs/install.md")
    wrong = []
    for requirement in map(Requirement, asked):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, not {requirement.specifier}")
    if wrong:
        return Check("packages", "broken", "; ".join(wrong), LOCKED)
    return Check("packages", "ok", "all that pyproject.toml asks for")


def _version(name: str) -> str | None:
    """Version of a package, or of one that brings its module under another name, as spconv's CUDA builds do."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        others = importlib.metadata.packages_distributions().get(name.replace("-", "_"), [])
        return importlib.metadata.version(others[0]) if others else None


def cuda_remedy(driver: Driver | None) -> str:
    """How to get the CUDA builds that this machine wants, the same for every row that asks for them."""
    advice = advise(driver) if driver else Advice(set_up_command())
    command = advice.command or "a newer driver"
    if advice.command and is_installed():  # without the Makefile
        cuda = advice.command.rpartition("CUDA=")[2]
        command = (
            f"{INSTALL} torch --index-url https://download.pytorch.org/whl/{cuda}, and spconv-{spconv_build(cuda)}"
        )
        command += " in place of spconv"
    return f"{command}; {INSTALL_DOC}"


def _check_imports(imports: Mapping[str, ImportResult], driver: Driver | None) -> Iterator[Check]:
    for name, result in imports.items():
        if result.error is not None:
            remedy = f"run doctor again, and if it hangs then, too: {REMEDIES[name]}" if result.slow else REMEDIES[name]
            yield Check(name, "broken", result.error, remedy)
            if name == "torch":
                yield Check("CUDA", "note", "not known without torch")
            continue
        facts = result.facts
        seen = facts["version"]
        if name == "mmcv":
            seen += ", compiled operators" if facts["compiled"] else ", without compiled operators: no tier needs them"
        if name == "spconv":
            seen += ", CUDA build" if facts["cuda"] else ", CPU build: no training of a sparse encoder"
        yield Check(name, "ok", seen)
        if name == "torch":
            yield _check_cuda(facts, driver)


def _check_cuda(facts: Mapping, driver: Driver | None) -> Check:
    if facts["gpus"]:
        return Check("CUDA", "ok", f"{facts['cuda']}: {', '.join(facts['gpus'])}")
    if facts["cuda"] is None:
        return Check("CUDA", "note", "torch is a build without CUDA", cuda_remedy(driver))
    if facts["gpu_error"]:
        what = f"a GPU that torch, built for {facts['cuda']}, cannot use: {facts['gpu_error']}"
        return Check("CUDA", "note", what, cuda_remedy(driver))
    return Check("CUDA", "note", f"torch is built for {facts['cuda']} and sees no GPU", "nvidia-smi: driver and GPU")


def check_driver(driver: Driver | None, imports: Mapping[str, ImportResult]) -> Check:
    """NVIDIA's driver, and whether torch and spconv are the builds that it wants, as `make setup` reports it."""
    if driver is None:
        return Check("GPU driver", "note", "no NVIDIA driver: everything runs on CPUs")
    advice = advise(driver)
    seen = ", ".join(
        [f"NVIDIA {driver.version}", *(f"compute capability {c}" for c in sorted(set(driver.capabilities)))]
    )
    if advice.command is None:
        return Check("GPU driver", "note", f"{seen}; {advice.note}", cuda_remedy(driver))
    if imports["spconv"].facts.get("cuda") and imports["torch"].facts.get("gpus"):
        return Check("GPU driver", "ok", seen)
    note = f"; {advice.note}" if advice.note else ""
    return Check("GPU driver", "note", f"{seen}; torch or spconv is no CUDA build for it{note}", cuda_remedy(driver))


def _check_compiler() -> Check:
    """Triton builds a part of its kernels with a C compiler, at run time; two backends of attention alone use it."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    missing = [*([] if compiler else ["gcc or clang"]), *([] if header.is_file() else [str(header)])]
    if not missing:
        return Check("C compiler", "ok", f"{compiler}, for attention_backend: flex or tiled")
    what = (
        f"no {' and no '.join(missing)}: attention_backend: flex and tiled do not run on a GPU; nothing else needs it"
    )
    return Check(
        "C compiler", "note", what, "apt-get install gcc libc6-dev python3-dev, or what your system calls them"
    )


def _check_memory() -> Check:
    try:
        import psutil
    except ImportError as error:
        return Check("memory", "broken", f"not known: {error}", LOCKED)
    total = psutil.virtual_memory().total / 2**30
    if total >= MEMORY_GB:
        return Check("memory", "ok", f"{total:.0f} GiB")
    return Check("memory", "note", f"{total:.1f} GiB; {MEMORY_GB} GB are asked for", "aqr-bench run --cores 1")


# ---------------------------------------------------------------- the tiers


def judge_tier(
    tier: Tier,
    studies: Sequence[Study],
    checks: Sequence[Check],
    imports: Mapping[str, ImportResult],
    results: Path,
    driver: Driver | None = None,
) -> TierVerdict:
    """Whether the tier's studies can be run into the folder ``results``; every reason is given, not the first alone."""
    from aqr_bench.study.requirements import disk_needed, missing_inputs, schedules
    from aqr_bench.study.settings import initial_file

    reasons = [Reason(f"{check.name}: {check.seen}", check.remedy) for check in checks if check.state == "broken"]
    problems = list(missing_inputs(tier, studies))
    try:
        require_disk(results, disk_needed(tier, studies), f"tier {tier.name}")
    except UserError as error:
        problems.append(error)
    reasons += [Reason(problem.message, problem.remedy or "correct that file") for problem in problems]
    plans = schedules(tier, studies)
    if not any(check.state == "broken" for check in checks):
        reasons += _gpu_reasons(tier, plans, imports, driver)
    notes = []
    starts = [initial_file(schedule) for schedule in plans]
    missing = sorted({file for file in starts if file is not None and not file.is_file()})
    if missing and not any("published checkpoints" in reason.what for reason in reasons):
        what = f"not there, so what starts from it is recorded as failed: {', '.join(map(str, missing))}"
        enough = all(file is not None and file in missing for file in starts)
        (reasons if enough else notes).append(Reason(what, "docs/reproduce.md says where these files come from"))
    return TierVerdict(tier.name, not reasons, tuple(reasons), tuple(notes))


def _gpu_reasons(
    tier: Tier, plans: Sequence[Schedule], imports: Mapping[str, ImportResult], driver: Driver | None
) -> Iterator[Reason]:
    """A sparse encoder trains on a GPU alone (spconv has no backward on the CPU), by spconv's CUDA build."""
    trained = [plan for plan in plans if plan.iterations != 0]
    if not any(_trains_sparse_encoder(tier, plan) for plan in trained):
        return
    gpus = len(imports["torch"].facts["gpus"])
    if gpus < tier.launcher.processes:
        wanted = counted(tier.launcher.processes, "GPU")
        what = f"it trains a sparse encoder on {wanted}, and torch can use {gpus or 'none'}"
        yield Reason(what, f"a machine with a GPU, and CUDA builds of torch and spconv: {cuda_remedy(driver)}")
    if not imports["spconv"].facts["cuda"]:
        yield Reason("it trains a sparse encoder, and spconv is its CPU build", cuda_remedy(driver))


def _trains_sparse_encoder(tier: Tier, plan: Schedule) -> bool:
    from mmengine.config import Config

    from aqr_bench.study.model_files import model_file

    try:
        path = model_file(plan.model or tier.model)
    except UserError:  # reported by missing_inputs
        return False
    model = Config.fromfile(path, import_custom_modules=False).model
    frozen = plan.config.get("model.frozen", model.get("frozen", ()))
    return model.get("pts_middle_encoder", {}).get("type") == "SparseEncoder" and "pts_middle_encoder" not in frozen


def judge_tiers(
    names: Sequence[str],
    checks: Sequence[Check],
    imports: Mapping[str, ImportResult],
    driver: Driver | None,
    results: Path | None = None,
) -> list[TierVerdict]:
    """A verdict on every tier that ships and on those named, with the studies that each runs where none is named.

    UserError: there is no such tier, or a mistake in its file.
    """
    try:
        from aqr_bench.study.layout import RESULTS
        from aqr_bench.study.load import known_tiers, load_study, load_tier
        from aqr_bench.study.runs import limit_seeds

        verdicts = []
        for name in dict.fromkeys([*known_tiers(), *names]):
            try:
                tier = load_tier(name)
            except UserError as error:
                if name in names:
                    raise
                verdicts.append(TierVerdict(name, False, (Reason(error.message, error.remedy),)))  # a draft
                continue
            studies = [limit_seeds(load_study(study), tier) for study in tier.studies]
            verdicts.append(judge_tier(tier, studies, checks, imports, results or project_folder() / RESULTS, driver))
        return verdicts
    except ImportError as error:  # of numpy, yaml or the like: no file of ours can be read
        return [
            TierVerdict(name, False, (Reason(f"a package is missing or broken: {error}", LOCKED),)) for name in names
        ]


# ---------------------------------------------------------------- what is printed


def table(checks: Sequence[Check], verdicts: Sequence[TierVerdict], width: int) -> str:
    """Machine, then tiers, one thing a row; how to fix it below, after an arrow."""
    names = max(len(text) for text in [*(c.name for c in checks), *(v.tier for v in verdicts)])
    lines = ["this machine"]
    for check in checks:
        lines += _row(check.name, names, check.state, check.seen, check.remedy, width)
    lines += ["", "tiers"]
    for verdict in verdicts:
        items = [*verdict.reasons, *verdict.notes] or [Reason("", "")]
        for number, item in enumerate(items):
            state = ("works" if verdict.works else "no") if number == 0 else ""
            lines += _row(verdict.tier if number == 0 else "", names, state, item.what, item.remedy, width)
    return "\n".join(lines)


def _row(name: str, names: int, state: str, text: str, remedy: str, width: int) -> list[str]:
    head = f"  {name:{names}}  {state:6}  "
    room = max(30, width - len(head))

    def wrapped(words: str, first: str, rest: str) -> list[str]:
        # A command or a path that is cut at a hyphen can no longer be copied.
        parts = textwrap.wrap(words, room - len(rest), break_long_words=False, break_on_hyphens=False)
        return [(first if i == 0 else rest) + part for i, part in enumerate(parts)]

    body = wrapped(text, "", "") + (wrapped(remedy, "-> ", "   ") if remedy else [])
    return [((head if i == 0 else " " * len(head)) + part).rstrip() for i, part in enumerate(body or [""])]


def main(argv: list[str] | None = None) -> int:
    """Print checks and verdicts; 0 if the default tier (or that of --tier) works, else 1."""
    parser = argparse.ArgumentParser(
        prog="aqr-bench doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tier", default=DEFAULT_TIER, help=f"decides the exit code (default: {DEFAULT_TIER})")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where they are to go: is its disk large enough?")
    add_json_option(parser)
    args = parser.parse_args(argv)
    with suppress(ImportError):  # what cannot be imported is reported below
        from aqr_bench.study.load import load_tier

        load_tier(args.tier)  # raises for a mistake before packages are imported, which takes a while
    imports, driver = check_imports(), find_driver()
    checks = check_machine(imports, driver)
    verdicts = judge_tiers([args.tier], checks, imports, driver, args.results)
    verdict = next(v for v in reversed(verdicts) if v.tier in (args.tier, Path(args.tier).stem))
    if args.json:
        facts = {"machine": [asdict(c) for c in checks], "tiers": [asdict(v) for v in verdicts]}
        print_json({"ok": verdict.works, "tier": verdict.tier, **facts})
    else:
        print(table(checks, verdicts, min(shutil.get_terminal_size((120, 24)).columns, 120)))
        print(f"\ntier {verdict.tier} {'works' if verdict.works else 'does not work'} here")
    return 0 if verdict.works else 1


if __name__ == "__main__":
    run_main(main)
