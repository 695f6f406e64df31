"""The aqr-bench command: one entry for the workflow and for each of its steps.

aqr-bench run --tier quick --study bias_site      from world to report
aqr-bench train --help                            a step by itself, as the workflow calls it
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from aqr_bench import __version__
from aqr_bench.console import write_utf8
from aqr_bench.errors import report_error

# Each command parses its arguments; its module is imported only when it is called, since some cost seconds.
COMMANDS = {
    "init": ("aqr_bench.cli.init", "make a project folder with an example study and tier"),
    "run": ("aqr_bench.cli.run", "everything, from world to report, resuming what is there"),
    "world": ("aqr_bench.world.__main__", "write a synthetic driving world as a nuScenes data set"),
    "data": ("aqr_bench.data.__main__", "make the info files of a data set, or check one (data check)"),
    "train": ("aqr_bench.engine.train", "train a base model or one variant"),
    "evaluate": ("aqr_bench.cli.evaluate", "evaluate a trained model under every condition of a suite"),
    "score": ("aqr_bench.cli.score", "records of detections from elsewhere: nuScenes submissions, without their model"),
    "measure": ("aqr_bench.cost.measure", "measure latency, throughput and memory of a variant"),
    "pictures": ("aqr_bench.cli.pictures", "draw the best and the worst detections of an evaluation"),
    "view": ("aqr_bench.cli.view", "look at a sample in 3D, or at what the attention does"),
    "rerun": ("aqr_bench.cli.rerun", "run a record again and compare the result"),
    "gpu-check": (
        "aqr_bench.cost.gpu_check.__main__",
        "check this machine's GPU: parity, speed, the smoke tier; under eight minutes",
    ),
    "report": ("aqr_bench.report.__main__", "tables, figures and the page from records"),
    "compare": ("aqr_bench.report.compare", "two result folders side by side: what changed, what is outside the noise"),
    "table": ("aqr_bench.cli.table", "the table of a paper from bare records: LaTeX, Markdown, CSV, spreadsheet"),
    "leaderboard": ("aqr_bench.cli.leaderboard", "models ranked by a score, with ranks that the noise allows"),
    "corruptions": ("aqr_bench.cli.corruptions", "list, show or draw the sensor corruptions"),
    "checkpoint": (
        "aqr_bench.cli.checkpoint",
        "look into a published checkpoint of CMT or MoME, or convert it for these configs",
    ),
    "studies": ("aqr_bench.cli.studies", "list, check or cost the studies, tiers and condition suites"),
    "new": (
        "aqr_bench.cli.new",
        "write the template of a router, corruption, metric, study, tier, ... and its test",
    ),
    "config": ("aqr_bench.cli.config", "show the config of a training; check which detectors' configs work"),
    "doctor": ("aqr_bench.cli.doctor", "which tiers work on this machine, and what the others need"),
    "records": ("aqr_bench.cli.records", "list the failed runs among records"),
    "merge": ("aqr_bench.cli.merge", "results of several machines into one folder"),
    "export": ("aqr_bench.cli.export", "all numbers of records as one tidy table: CSV or Parquet"),
    "publish": (
        "aqr_bench.cli.publish",
        "a folder for a Pages branch or a Hugging Face data set: report, numbers, records",
    ),
    "gc": ("aqr_bench.cli.gc", "list or delete stored results that are not asked for now"),
    "completion": ("aqr_bench.cli.completion", "shell completion for bash, zsh or fish"),
    "gpu-slots": ("aqr_bench.cli.gpu_slots", "run a command on GPUs that no other job uses"),
}

RESUMABLE = ("run", "world", "train", "evaluate")  # commands that keep what they had finished when interrupted


def build_parser() -> argparse.ArgumentParser:
    """Parser of ``aqr-bench`` itself: the commands with their summaries, --help and --version."""
    parser = argparse.ArgumentParser(
        prog="aqr-bench",
        description="Train, evaluate and compare CMT + AQR detectors across designs and sensor conditions.",
    )
    parser.add_argument("--version", action="version", version=f"aqr-bench {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command. 0: done, 1: something failed, 2: a mistake of the user, 3: records failed, 130: interrupted."""
    write_utf8()
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if not argv or argv[0] not in COMMANDS:  # --help, --version, a mistake
            parser = build_parser()
            parser.parse_args(argv)
            parser.error("the command comes first")
        return importlib.import_module(COMMANDS[argv[0]][0]).main(argv[1:])
    except BrokenPipeError:
        # The reader of our output is gone, as in `aqr-bench studies list | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        resumes = "; the same command resumes from here" if argv[:1] and argv[0] in RESUMABLE else ""
        print(f"interrupted{resumes}", file=sys.stderr)
        return 130
    except Exception as error:
        return report_error(error)


if __name__ == "__main__":
    sys.exit(main())
