"""Run the workflow: one at a time per folder, stale locks cleared, progress and failures in a few lines."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from aqr_bench.cli.current import accept_code, current_state
from aqr_bench.cli.folder_lock import SNAKEMAKE, clear_stale_lock, only_workflow_in
from aqr_bench.cli.gpu_devices import limited, visible_gpus
from aqr_bench.cli.progress import Progress, TimeLeft, expected_seconds
from aqr_bench.console import LiveLine, add_quiet_option, hide_progress, is_terminal, positive_int, progress_hidden
from aqr_bench.engine.check_configs import check_configs_once
from aqr_bench.engine.tracking import TRACKERS, VARIABLE, chosen_trackers
from aqr_bench.errors import EXIT_FAILED_RECORDS, join_names, require_disk
from aqr_bench.folders import project_folder, shipped
from aqr_bench.records.summary import print_summary, set_aside_failed
from aqr_bench.study.derived import parse_settings, write_derived_study
from aqr_bench.study.layout import RESULTS, RunLayout, relative_path
from aqr_bench.study.load import is_path, load_tier
from aqr_bench.study.plan import select
from aqr_bench.study.requirements import disk_needed, require_gpus, training_processes
from aqr_bench.study.runs import pretrain_runs
from aqr_bench.world.spec import read_tier


def main(argv: list[str] | None = None) -> int:
    """From world to report. 0: all jobs ran, all records are ok; 1: a job failed; 3: records failed (--strict: 1)."""
    args = _arguments(argv)
    switches = (args.dry_run or args.why, args.strict, args.verbose)
    chosen = (args.seeds, args.suites, args.variants)
    results = Path(relative_path(args.results, project_folder())) if args.results else RESULTS
    options = dict(gpus=args.gpus, retry_failed=args.retry_failed, why=args.why, accept=args.accept, results=results)
    if args.track:
        os.environ[VARIABLE] = ",".join(args.track)
    chosen_trackers()  # raises for one that the trainings could not use
    with ExitStack() as stack:
        stack.enter_context(hide_progress(args.quiet))
        studies = args.study
        if args.settings:
            tier, settings = load_tier(args.tier), parse_settings(args.settings)
            folder = RunLayout(tier.name, project_folder() / results).work / "studies"
            if args.dry_run or args.why:  # which leaves nothing behind
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            studies = [str(write_derived_study(name, settings, folder)) for name in studies or tier.studies]
            print(f"with --set: {', '.join(Path(study).stem for study in studies)}")
        return run_workflow(args.tier, studies, args.cores, *switches, *chosen, **options)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="aqr-bench run", description="Everything, from world to report, resuming what is there."
    )
    parser.add_argument("--tier", default="quick", help="name or file of a tier (default: quick)")
    parser.add_argument(
        "--study", nargs="+", action="extend", default=[], metavar="STUDY", help="names or files (default: the tier's)"
    )
    parser.add_argument("--seeds", type=positive_int, help="so many of every study's seeds (default: as the tier says)")
    parser.add_argument(
        "--suites", nargs="+", action="extend", default=[], metavar="SUITE", help="further condition suites"
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        action="extend",
        default=[],
        metavar="VARIANT",
        help="these, and the studies' baselines",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="config values of every variant",
    )
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="folder of the results (default: results/ of the project folder)"
    )
    parser.add_argument("--cores", type=positive_int, help="cores to use (default: what the profile says)")
    gpus = parser.add_mutually_exclusive_group()
    gpus.add_argument("--gpus", type=positive_int, metavar="N", help="the first N of the visible GPUs (default: all)")
    gpus.add_argument("--cpu", action="store_const", const=0, dest="gpus", help="no GPU: everything on CPUs")
    parser.add_argument("--dry-run", action="store_true", help="report what would be done, and do nothing")
    parser.add_argument("--why", action="store_true", help="as --dry-run, with the reason of every job")
    parser.add_argument(
        "--accept",
        action="store_true",
        help="let records count as those of the code as it is, where code alone has changed; each of them notes it",
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="run again what is recorded as failed; of a suite, those conditions"
    )
    parser.add_argument(
        "--track",
        nargs="+",
        action="extend",
        choices=TRACKERS,
        default=[],
        metavar="TRACKER",
        help=f"log trainings to {', '.join(TRACKERS)} too",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1, not 3, if any run is recorded as failed")
    output = parser.add_mutually_exclusive_group()
    add_quiet_option(output)
    output.add_argument("-v", "--verbose", action="store_true", help="show all of Snakemake's output")
    return parser.parse_args(argv)


def run_workflow(
    tier_name: str,
    study_names: Sequence[str],
    cores: int | None,
    dry_run: bool,
    strict: bool,
    verbose: bool,
    seeds: int | None = None,
    suites: Sequence[str] = (),
    variants: Sequence[str] = (),
    gpus: int | None = None,
    retry_failed: bool = False,
    why: bool = False,
    accept: bool = False,
    results: Path = RESULTS,
) -> int:
    """From world to report. Returns 0 if all jobs ran and all records are ok, 1 if a job failed, 3 if records failed.

    ``strict``: 1 if records failed. ``retry_failed``: records of failures are set aside, and their jobs run again.

    ``gpus``: so many of the visible ones, 0 for none; None: all. ``why``: with ``dry_run``, a reason for every job.
    ``accept``: records of other code count as current from now on (with ``dry_run``: they are only counted).
    ``results``: their folder; a relative one counts from the project folder.

    Raises UserError for what can be known to fail before anything runs: an unknown name, a missing data set, too few
    GPUs, too little disk space, another workflow in the same folder.
    """
    folder = project_folder()
    selection = select(tier_name, study_names or None, suites or None, seeds, variants or None, results)
    tier, studies, layout = selection.tier, selection.studies, RunLayout(selection.tier.name, folder / results)
    usable = limited(visible_gpus(), gpus, "--gpus")
    require_gpus(tier, training_processes(tier, studies), len(usable))
    if tier.kind == "synthetic":
        read_tier(tier.path)  # raises for a mistake in the world's numbers now, not in the first job
    check_configs_once(tier, studies, folder / ".snakemake" / "aqr-bench-checked")
    require_disk(layout.results, disk_needed(tier, studies, layout), f"tier {tier.name}")
    command = [sys.executable, "-m", SNAKEMAKE, "--snakefile", str(shipped("Snakefile")), "--directory", str(folder)]
    command += ["--workflow-profile", str(shipped("workflow/profiles/default"))]
    command += ["--cores", str(cores)] if cores else []
    # As many jobs at once as there are GPUs for: which ones each of them gets, aqr_bench.cli.gpu_slots sees to.
    command += ["--resources", f"gpu={len(usable)}"] if usable else []
    command += ["--dry-run"] if dry_run else []
    command += ["--logger-aqr-bench-text"] if verbose else []
    files = {"studies": [seen_from(folder, name) for name in study_names]}
    files |= {"tier": seen_from(folder, tier_name), "suites": [seen_from(folder, name) for name in suites]}
    settings = {**files, "variants": list(variants), "seeds": seeds, "gpus": gpus}
    settings |= {} if results == RESULTS else {"results": str(results)}
    # As JSON: in plain text, Snakemake would guess types, and names could hold no comma. It strips quotes at both ends,
    # which the spaces keep.
    command += ["--config", *(f"{key}= {json.dumps(v)} " for key, v in settings.items() if v or v == 0)]
    times, live = {}, is_terminal(sys.stdout) and not progress_hidden()
    if live and not dry_run:  # else nobody sees the time left, for which all records are read
        times = expected_seconds(tier, studies, selection.suites, layout.results)
    records = [folder / path for path in (*map(selection.layout.train, pretrain_runs(tier)), *selection.records)]
    announce = not live and not progress_hidden()
    progress = Progress(tier.threads, len(usable), dry_run, announce, verbose, TimeLeft(times))
    if dry_run:
        if retry_failed and (failed := set_aside_failed(records, dry_run=True)):
            print(f"to be run again, and what depends on them: {join_names(f.relative_to(folder) for f in failed)}")
        current = current_state(selection, layout.results, stored=True)
        if accept:
            count = sum(verdict.code_alone for verdict in current.verdicts)
            print(f"--accept: {count} record files or more differ in code alone; nothing is accepted in a dry run")
        with writable_copy(folder) as place:
            command[command.index("--directory") + 1] = str(place)
            code = run_snakemake(command, place, progress)
        if code:
            return 1
        for line in current.reasons_by_job if why else current.reasons:
            print(f"  {line}")
        print(f"{progress.total} jobs to do" if progress.total else "nothing to do")
        return 0
    with only_workflow_in(folder) as lock:
        if clear_stale_lock(folder):
            print("removed the lock that a killed run left behind", file=sys.stderr)
        if retry_failed:
            print(f"{len(set_aside_failed(records))} record files with failures set aside, their jobs are run again")
        if accept:
            print(f"accepted {len(accept_code(selection, layout.results))} record files of other code")
        if live:
            print(f"results: {layout.root}, logs: {folder / 'logs' / tier.name}", flush=True)
        code = run_snakemake(command, folder, progress, inherited=[lock])
    if code:
        print(failure_summary(progress, folder), file=sys.stderr)
        return 1
    print(f"{progress.total} jobs done" if progress.total else "nothing to do, all is up to date")
    folders = ["base", *(study.name for study in studies)]
    all_ok = print_summary(layout.root, folder / ".snakemake" / "aqr-bench-outcome.json", folders)
    print(f"report: {layout.page.resolve()}")
    if all_ok:
        return 0
    print(
        "this command leaves failed records as they are; with --retry-failed it tries them again (without it, only "
        "where a sensor file has changed)"
    )
    return 1 if strict else EXIT_FAILED_RECORDS


@contextmanager
def writable_copy(folder: Path) -> Iterator[Path]:
    """The folder, or where it cannot be written to a temporary one of links to what is in it.

    Snakemake writes to ``.snakemake`` even for a dry run; without that of the folder it judges by the records alone.
    """
    try:
        (folder / ".snakemake").mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=folder / ".snakemake").close()
    except OSError:
        with tempfile.TemporaryDirectory() as temporary:
            for entry in folder.iterdir():
                if entry.name != ".snakemake":
                    (Path(temporary) / entry.name).symlink_to(entry.resolve())
            yield Path(temporary)
    else:
        yield folder


def seen_from(folder: Path, name: str) -> str:
    """A tier, study or suite given by file, as the workflow names it, which runs in ``folder``; names as they are."""
    if folder == Path.cwd() or not is_path(name) or Path(name).is_absolute():
        return name
    return Path(relative_path(name, folder)).as_posix()


def run_snakemake(command: list[str], folder: Path, progress: Progress, inherited: Iterable[int] = ()) -> int:
    """Run Snakemake, show its progress, and return its exit code. Interrupted, it stops Snakemake and its jobs.

    ``inherited``: file descriptors that Snakemake keeps open.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        pass_fds=tuple(inherited),
        # In its own group, Snakemake and all of its jobs can be stopped together, whoever asks for it.
        start_new_session=True,
    )
    before = {s: signal.signal(s, _as_interrupt) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with LiveLine(progress.status) as terminal:
            for line in process.stdout:
                text = progress.feed(line)
                if text is not None:
                    terminal.print_line(text)
                terminal.draw()
            return process.wait()
    finally:
        if process.poll() is None:
            _stop(process)
        for number, handler in before.items():
            signal.signal(number, handler)


def _as_interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _stop(process: subprocess.Popen) -> None:
    """Interrupt Snakemake and its jobs, and kill what is left of them after ten seconds."""
    for how, patience in ((signal.SIGINT, 10), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, how)
            process.wait(patience)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def full_disk(folder: Path, min_bytes: int = 1_000_000) -> str | None:
    """The message that the disk of ``folder`` is full, where it is: there may have been no space for it in a log."""
    free = shutil.disk_usage(folder).free
    if free >= min_bytes:
        return None
    return f"the disk that holds {folder} is full ({free / 1000:.0f} kB are free). Free some space, and run again"


def failure_summary(progress: Progress, folder: Path, max_logs: int = 3) -> str:
    """What failed, where its log is, and the log's last line."""
    logs = list(dict.fromkeys(progress.failed_logs))
    full = full_disk(folder)
    lines = [f"error: {full}"] if full else []
    if not logs:
        return "\n".join([*lines, "error: the workflow did not run, see above (more with --verbose)"])
    for log in logs[:max_logs]:
        file = folder / log
        text = file.read_text(encoding="utf-8", errors="replace").split("\n") if file.is_file() else []
        last = next((line.strip() for line in reversed(text) if line.strip()), "the log is empty")
        lines.append(f"error: {last.removeprefix('error: ')}\n  log: {file}")
    if len(logs) > max_logs:
        lines.append(f"and {len(logs) - max_logs} more")
    jobs = f"{len(logs)} job" + "s" * (len(logs) != 1)
    return "\n".join([*lines, f"{jobs} failed; the same command resumes from here"])
