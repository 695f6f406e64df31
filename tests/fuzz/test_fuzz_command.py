"""Every command with every option, given nonsense: usage or one line and exit code 2, and nothing is written."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
from fuzz_cases import explore, one_clear_line
from fuzz_commands import Call, calls, commands

from aqr_bench.cli import main as cli
from aqr_bench.cli.doctor import REMEDIES
from aqr_bench.cli.import_checks import ImportResult


class Started(BaseException):
    """In place of what takes minutes: all arguments were taken for good ones."""


def _start(*_args: object, **_kwargs: object) -> None:
    raise Started


LONG = (
    *("aqr_bench.cli.run.run_snakemake", "aqr_bench.cli.run.only_workflow_in", "aqr_bench.cli.run.require_disk"),
    *("aqr_bench.cost.gpu_check.__main__.run", "aqr_bench.cost.gpu_check.__main__.work"),
    # Becoming another program; a search for a driver, without which set-up reports nothing.
    *("aqr_bench.cli.gpu_slots.run", "aqr_bench.cli.cuda_builds.find_driver"),
    "aqr_bench.cost.gpu_check.__main__.prepare_folder",
    # What writes into the working folder, asked for it.
    *("aqr_bench.cli.new.write_template", "aqr_bench.cli.init.project_files"),
    *("aqr_bench.world.write.write_world", "aqr_bench.report.page.build_report", "aqr_bench.engine.train.run_training"),
)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """An almost empty working folder; what would take long is stopped at its door."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("nothing of use\n")
    (tmp_path / "broken.yaml").write_text("name: [\n")
    (tmp_path / "broken.jsonl").write_bytes(b'{"kind": "train"\n\xff\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "aqr_bench.cli.doctor.check_imports", lambda: {name: ImportResult("not looked for", {}) for name in REMEDIES}
    )
    for place in LONG:
        monkeypatch.setattr(place, _start)
    return tmp_path


def content(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def outcome(call: Call) -> tuple[int | None, str, str]:
    """Exit code (None: it would have started something long), standard output and standard error."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=e) for e in ("strict", "backslashreplace"))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = call.command.run(list(call.argv))
        except SystemExit as stop:
            code = stop.code or 0
        except Started:
            code = None
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return code, *texts


def check_outcome(call: Call, code: int | None, out: str, err: str) -> bool:
    assert "Traceback" not in out + err, err
    if code is None:
        assert not call.never, f"{call.command.words} takes a number that makes no sense"
    elif code == 2 and "usage:" not in err:
        assert err.startswith("error: ") and err.count("\n") == 1, err
        one_clear_line(err.rstrip("\n"), paths=call.argv)
    else:
        # 1 is an answer too: a root that is not whole, records that failed.
        assert code in (0, 1, 2) and (out or err), f"exit code {code} without a word"
    return code == 2


def test_nonsense_is_answered_in_one_line_and_leaves_nothing_behind(elsewhere):
    before = content(elsewhere)

    def check(call: Call) -> bool:
        refused = check_outcome(call, *outcome(call))
        assert content(elsewhere) == before, "something was written"
        return refused

    explore("command lines", 80, calls(commands()), check)


def test_all_commands_and_options_are_known():
    words = {command.words[0] for command in commands()}
    assert set(cli.COMMANDS) <= words and ("data", "check") in {c.words for c in commands()}
    assert sum(len(command.actions) for command in commands()) > 80
    assert len({name for c in commands() for a in c.actions for name in a.option_strings}) > 40


@pytest.mark.parametrize("words", sorted({c.words for c in commands() if not c.words[0].startswith("-m")}))
def test_help_is_help(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--help"])
    output = capsys.readouterr()
    assert stop.value.code == 0 and output.out.startswith("usage: ") and not output.err
