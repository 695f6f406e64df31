"""Snakemake that reports its events as JSON: python -m aqr_bench.cli.snakemake_events [OPTIONS OF SNAKEMAKE].

A logger plugin of Snakemake, registered here since it is no package of its own. It replaces Snakemake's output on
stderr by one line an event on stdout: an ASCII record separator, then a JSON object (RFC 7464). What jobs print to the
same stream has no separator. ``--logger-aqr-bench-text`` adds Snakemake's own words for the event as ``text``.
"""

import contextlib
import io
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent, logger_plugin_module_prefix
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

NAME = "aqr-bench"
RECORD_SEPARATOR = "\x1e"


@dataclass  # Snakemake reads the types of its fields, which therefore must be no strings (no future annotations)
class LogHandlerSettings(LogHandlerSettingsBase):
    """Options of the plugin on Snakemake's command line."""

    text: bool = field(default=False, metadata={"help": "add Snakemake's own words to each event"})


def facts_of(record: logging.LogRecord) -> dict[str, Any] | None:
    """What :class:`aqr_bench.cli.progress.Progress` reads of a log record; None for a record that it does not need."""
    event = getattr(record, "event", None)
    if event == LogEvent.RUN_INFO:
        return {"event": "jobs", "count": {rule: n for rule, n in record.stats.items() if rule != "total"}}
    if event == LogEvent.RESOURCES_INFO and getattr(record, "cores", None):
        return {"event": "cores", "count": record.cores}
    if event == LogEvent.JOB_INFO:
        return {"event": "start", "job": record.jobid, "rule": record.rule_name, "message": record.rule_msg}
    if event == LogEvent.JOB_FINISHED:
        return {"event": "finish", "job": record.job_id}
    if event == LogEvent.JOB_ERROR:
        return {"event": "failure", "job": record.jobid, "logs": list(record.log)}
    if event == LogEvent.PROGRESS:
        return {"event": "progress", "done": record.done, "total": record.total}
    exception = getattr(record, "exception", None)
    # A RuleException is what a failed job raised, which is reported as JOB_ERROR.
    if event in (None, LogEvent.ERROR) and record.levelno >= logging.WARNING and exception != "RuleException":
        message = record.getMessage().strip().removeprefix(f"{exception}:\n")
        return {"event": "message", "message": message, "exception": exception}
    return None


class LogHandler(LogHandlerBase):
    """Writes each event to stdout as soon as it happens."""

    writes_to_stream = True  # which makes Snakemake write nothing there itself
    writes_to_file = False
    has_filter = False  # Snakemake's own filter and formatter decide what ``text`` is
    has_formatter = False
    needs_rulegraph = False

    def emit(self, record: logging.LogRecord) -> None:
        facts = facts_of(record)
        text = self.format(record) if self.settings.text else ""
        if facts is None and text in ("", "None"):
            return
        try:
            print(RECORD_SEPARATOR + json.dumps({**(facts or {"event": "text"}), "text": text}), flush=True)
        except BrokenPipeError:  # the reader is gone: stop as on Ctrl-C
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            os.kill(os.getpid(), signal.SIGINT)


def run() -> None:
    """Run Snakemake as its own main does, with this plugin."""
    from aqr_bench.console import write_utf8

    write_utf8()
    from snakemake import cli
    from snakemake.exceptions import print_exception

    LoggerPluginRegistry().register_plugin(logger_plugin_module_prefix + NAME, sys.modules[__name__])
    notes = io.StringIO()  # which profile is used, for which there is no event
    try:
        with contextlib.redirect_stderr(notes):
            parser, args = cli.parse_args(["--logger", NAME, *sys.argv[1:]])
        success = cli.args_to_api(args, parser)
    except SystemExit:  # usage
        print(notes.getvalue(), end="", file=sys.stderr)
        raise
    except Exception as error:
        print_exception(error)
        success = False
    sys.exit(0 if success else 1)


if __name__ == "__main__":
    run()
