"""`data check` on synthetic worlds, intact and damaged: it never raises, whatever the input."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
from damaged_worlds import VERSION, edit, errors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aqr_bench.cli.main import main as cli
from aqr_bench.data.check.check import check_root
from aqr_bench.data.check.table_schema import SCHEMA, offenders
from aqr_bench.data.check.tables import check_rows
from aqr_bench.world.tables import TABLES


def test_the_schema_has_the_worlds_tables_in_the_order_of_its_digest():
    assert tuple(SCHEMA) == TABLES


def test_a_world_passes_and_every_file_is_looked_for(world, capsys):
    named = json.loads((world / VERSION / "sample_data.json").read_text())
    assert cli(["data", "check", "--root", str(world)]) == 0
    out = capsys.readouterr().out
    assert f"(v1.0-mini, a synthetic world): 3 scenes, 6 samples, {len(named)} files looked for" in out
    assert out.endswith("all well\n") and len(out.splitlines()) == 1


def test_json_holds_the_same_findings(copy, capsys):
    (copy / VERSION / "log.json").unlink()
    assert cli(["data", "check", "--root", str(copy), "--json", "--samples", "1", "--seed", "3"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["kind"], report["version"]) == (False, "synthetic", VERSION)
    assert report["counts"]["sample"] == 6 and report["opened"] == 7 + 1
    (finding,) = report["findings"]
    assert finding["group"] == "tables" and finding["names"] == ["log.json"] and "aqr-bench world" in finding["remedy"]


def test_the_module_may_be_called(tmp_path):
    command = [sys.executable, "-m", "aqr_bench", "data", "check", "--root", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "No such file or directory" in done.stdout and not done.stderr


def test_an_annotation_has_one_attribute_at_most(copy):
    tokens = [row["token"] for row in json.loads((copy / VERSION / "attribute.json").read_text())]
    edit(copy, "sample_annotation", lambda rows: rows[3].update(attribute_tokens=tokens[:2]))
    assert any("1 row with more than one attribute: row 3" in e for e in errors(copy, samples=0))


# ---------------------------------------------------------------- a world and its world.json


def test_a_world_that_differs_from_its_world_json(copy):
    edit(copy, "category", lambda rows: rows[0].update(name="car"))
    (line,) = errors(copy)
    assert "tables were changed since world.json was written" in line and "write the world again" in line
    edit(copy, "scene", lambda rows: rows[0].update(name="scene-0001"))  # of the train split of trainval
    assert any("1 scene of neither split of v1.0-mini, which no run will see: scene-0001" in e for e in errors(copy))


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000])
def test_a_damaged_world_json(copy, content):
    (copy / "world.json").write_text(content)
    (line,) = errors(copy)
    assert "world.json does not describe a synthetic world" in line


def test_a_world_json_that_is_no_file(copy):
    (copy / "world.json").unlink()
    os.mkfifo(copy / "world.json")  # nobody writes to it: reading would never end
    assert "error: root: world.json does not describe a synthetic world" in errors(copy)[0]


def test_a_world_without_world_json_needs_partial(copy):
    (copy / "world.json").unlink()
    assert [finding.group for finding in check_root(copy, samples=0).findings] == ["counts", "splits", "splits"]
    assert check_root(copy, partial=True, samples=0).findings == ()


def test_an_empty_street_is_no_fault_of_a_world(copy):
    """Nothing stands there, so nothing comes back; elsewhere it may be a scan that was cut between two points."""
    for path in (copy / "samples/LIDAR_TOP").iterdir():
        points = np.fromfile(path, np.float32).reshape(-1, 5)
        points[points[:, 0] < 0].tofile(path)
    assert check_root(copy).findings == ()
    (copy / "world.json").unlink()
    (finding,) = check_root(copy, partial=True).findings
    assert finding.warning and "Nothing to do where the surroundings are open" in finding.line()


# ---------------------------------------------------------------- roots that are none


def test_roots_that_are_none(tmp_path, copy):
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "empty").mkdir()
    for root, reason in {
        tmp_path / "file": "cannot be read (Not a directory). Set --root",
        tmp_path / "circle": "cannot be read (Too many levels of symbolic links). Check its permissions",
        tmp_path / "empty": "neither v1.0-trainval nor v1.0-mini with tables (it has: none). Set --root",
        tmp_path / "nothing\nhere\x1b[31m": "cannot be read (No such file or directory). Set --root",
        tmp_path / ("long" * 100): "cannot be read (File name too long)",
        copy / VERSION: "neither v1.0-trainval nor v1.0-mini with tables (it has: none)",
    }.items():
        (line,) = errors(root)
        assert reason in line and "\n" not in line and "\x1b" not in line and line.startswith("error: root: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_folders_that_must_not_be_read(copy):
    for folder in (copy / VERSION, copy / "samples/LIDAR_TOP"):
        folder.chmod(0)
        assert any("cannot be read (Permission denied)" in line for line in errors(copy))
        folder.chmod(0o700)


def test_a_folder_of_files_that_cannot_be_opened(copy):
    folder = copy / "samples/LIDAR_TOP"
    shutil.rmtree(folder)
    folder.symlink_to("LIDAR_TOP")
    (line,) = errors(copy)
    assert "samples/LIDAR_TOP, the folder of 6 files, cannot be read (Too many levels of symbolic links)" in line
    folder.unlink()
    folder.write_text("")
    assert "cannot be read (Not a directory)" in errors(copy)[0]


def test_mistakes_of_the_caller(world, copy, capsys):
    (copy / "v1.0-trainval").mkdir()
    assert cli(["data", "check", "--root", str(copy)]) == 2
    assert "has tables of v1.0-mini and v1.0-trainval; choose one with --version" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli(["data", "check", "--root", str(world), "--samples", "-1"])
    assert stop.value.code == 2 and "--samples: must be at least 0, not -1" in capsys.readouterr().err
    assert cli(["data", "check", "--root", "a\0b"]) == 2
    assert "null byte" in capsys.readouterr().err


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"",
            "sample.json is not valid JSON (Expecting value: line 1 column 1 (char 0); 0 bytes; the file seems",
        ),
        (b"{}", "sample.json holds an object, not a list of rows"),
        (b"7", "sample.json holds a number, not a list of rows"),
        (b"[1, 2.5, 1e999]", "sample.json, 3 rows not an object but a number: row 0, row 1, row 2"),
        (b"[[]]", "sample.json, 1 row not an object but a list: row 0"),
        (b"[{}]", "sample.json, 1 row without 'token': row 0"),
        (b"[]", "sample.json has no rows"),
        (b"[" + b"9" * 5000 + b"]", "sample.json is not valid JSON (Exceeds the limit"),
        (b"[" * 200_000, "sample.json is not valid JSON (maximum recursion depth"),
        (b'[{"token": "\xff"}]', "sample.json is not valid JSON ('utf-8' codec can't decode byte 0xff in position 12"),
        (b'\xef\xbb\xbf[{"token": "a"}]', "sample.json is not valid JSON (Unexpected UTF-8 BOM"),
        (b'[{"token": "a", "tok', "the file seems to be cut short"),
        (b'[{"token": ["a"]}]', "sample.json, 1 row where 'token' is not a non-empty string: row 0 (['a'])"),
        (b'[{"token": "\\ud800"}, {"token": "\\ud800"}]', "sample.json has 1 token more than once: \\ud800"),
    ],
)
def test_tables_that_are_none(copy, content, message):
    (copy / VERSION / "sample.json").write_bytes(content)
    lines = errors(copy)
    assert any(message in line for line in lines), lines
    assert all("\n" not in line and line.encode() for line in lines)


def test_a_table_that_is_no_file(copy):
    path = copy / VERSION / "sample.json"
    path.unlink()
    os.mkfifo(path)  # nobody writes to it: reading would never end
    assert "tables: sample.json is not a regular file" in errors(copy)[0]
    path.unlink()
    path.symlink_to("gone.json")
    assert "tables: sample.json cannot be read (No such file or directory)" in errors(copy)[0]


@pytest.mark.parametrize("table", TABLES)
def test_each_field_is_required_and_typed(world, table):
    rows = json.loads((world / VERSION / f"{table}.json").read_text())
    assert check_rows(table, rows)[1] == []
    for field in SCHEMA[table]:
        for damage, wants in (
            (lambda r, f: r.pop(f), f"without '{field}'"),
            (lambda r, f: r.update({f: {}}), "is not"),
        ):
            damaged = [dict(row) for row in rows]
            damage(damaged[-1], field)
            (finding,) = check_rows(table, damaged)[1]
            assert f"{table}.json, 1 row " in finding.what and wants in finding.what
            assert finding.names == (f"row {len(rows) - 1}" + " ({})" * (wants == "is not"),)


HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(HOSTILE | st.sampled_from(["", "a", 1, True, [], [1.0, 0, 0, 0], [1, 2, 3]]), max_size=6))
def test_a_column_is_judged_as_its_values_are_one_by_one(values):
    for fields in SCHEMA.values():
        for kind in fields.values():
            alone = [i for i, value in enumerate(values) if offenders(kind, [value])]
            assert offenders(kind, values) == alone


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(HOSTILE, max_size=4), data=st.data())
def test_any_rows_give_findings_and_no_exception(rows, data):
    table = data.draw(st.sampled_from(TABLES))
    fields = {field: HOSTILE for field in SCHEMA[table]}
    rows = rows + data.draw(st.lists(st.fixed_dictionaries({}, optional=fields), max_size=4))
    checked, findings = check_rows(table, rows)
    assert checked.count == len(rows) and len(checked.index) == len(checked.hashes["token"])
    assert bool(findings) >= (not checked.complete(*SCHEMA[table]))
    assert all(finding.line().count("\n") == 0 for finding in findings)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_flipped_bytes_and_cut_tables_never_break_it(world, tmp_path, seed):
    chance = random.Random(seed)
    damaged = tmp_path / "damaged"
    shutil.rmtree(damaged, ignore_errors=True)
    damaged.mkdir()
    for name in ("samples", "sweeps", "maps", "world.json"):
        (damaged / name).symlink_to(world / name)
    shutil.copytree(world / VERSION, damaged / VERSION)
    paths = chance.sample(sorted((damaged / VERSION).iterdir()), chance.choice([1, 1, 2, 13]))
    for path in paths:
        content = bytearray(path.read_bytes())
        if chance.random() < 0.3:
            del content[chance.randrange(len(content)) :]
        else:
            for _ in range(chance.choice([1, 3, 30])):
                # Mostly other digits, letters and signs: what is still JSON goes further than what is not.
                content[chance.randrange(len(content))] = chance.choice(b'0123456789abcdefeE-."[]{}:,\xc3\xff\x00')
        path.write_bytes(content)
    before = {path.name: path.read_bytes() for path in paths}
    same = all((world / VERSION / name).read_bytes() == content for name, content in before.items())
    report = check_root(damaged, VERSION, samples=1)
    assert (report.findings == ()) == same, "the digest of the tables sees every change"
    assert json.dumps(report.as_dict()) and all(line.isprintable() for line in report.lines())
