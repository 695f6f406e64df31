"""Records as a tidy table: what is read back from CSV and Parquet equals the records, and no record is left out."""

from __future__ import annotations

import builtins

import pandas as pd
import pytest

from aqr_bench.cli.export import can_write_parquet, main
from aqr_bench.errors import UserError
from aqr_bench.records.record import Record, read_records, write_records

CAR = {"AP": 1 / 3, "AP_dist": {"0.5": 0.1, "4.0": 0.7000000000000001}, "ATE": None}
SCORES = {"mAP": 0.123456789012345, "NDS": None, "classes": {"car": CAR}, "custom": {"near": 0.5}}
COST = {"wall_s": 8.22, "latency_ms": {"median": 10.0, "values": [9.0, 11.0]}, "device": "cpu"}
HASHES = {"config_sha256": "c1", "data_sha256": "d1", "input_sha256": "0012"}
# By metric, class and distance in metres.
NUMBERS = {
    ("mAP", None, None): 0.123456789012345,
    ("NDS", None, None): None,
    ("custom.near", None, None): 0.5,
    ("AP", "car", None): 1 / 3,
    ("AP", "car", 0.5): 0.1,
    ("AP", "car", 4.0): 0.7000000000000001,
    ("ATE", "car", None): None,
    ("cost.wall_s", None, None): 8.22,
    ("cost.latency_ms.median", None, None): 10.0,
}


@pytest.fixture
def results(tmp_path):
    run = {"tier": "t", "study": "s", "variant": "none", "seed": 3}
    state = {"suite": "missing_sensors", "condition": "clean"}
    train = Record("train", "diverged", **run, reason="loss is not finite, at 7")
    evaluated = Record("evaluate", "ok", **run, **state, scores=SCORES, cost=COST, provenance=HASHES)
    write_records(tmp_path / "results/t/s/none/seed3/train.jsonl", [train])
    write_records(tmp_path / "results/t/s/none/seed3/evaluate.missing_sensors.jsonl", [evaluated])
    base = Record("train", "ok", "t", seed=0, cost={"wall_s": 1.0})
    write_records(tmp_path / "results/t/base/seed0/train.jsonl", [base])
    return tmp_path / "results"


def check(frame: pd.DataFrame) -> None:
    """The table is that of the records: exact numbers, hashes as text, None where there is nothing."""
    plain = frame.astype(object).where(frame.notna(), None)
    evaluated = plain[plain["kind"] == "evaluate"]
    keys = zip(evaluated["metric"], evaluated["class"], evaluated["distance_m"], strict=True)
    assert dict(zip(keys, evaluated["value"], strict=True)) == NUMBERS and len(evaluated) == len(NUMBERS)
    assert set(evaluated["seed"]) == {3} and set(evaluated["condition"]) == {"clean"}
    for name, value in HASHES.items():
        assert set(evaluated[name]) == {value}
    assert set(evaluated["code_sha256"]) == {None}
    failed = plain[plain["status"] == "diverged"].to_dict("records")
    assert [(row["metric"], row["value"], row["reason"]) for row in failed] == [
        (None, None, "loss is not finite, at 7")
    ]
    base = plain[plain["study"].isna()].to_dict("records")
    assert [(row["metric"], row["value"], row["seed"]) for row in base] == [("cost.wall_s", 1.0, 0)]


def test_a_csv_reads_back_as_the_records(results, tmp_path, capsys):
    out = tmp_path / "new" / "numbers.csv"
    assert main([str(results), "--out", str(out)]) == 0
    assert "11 rows of 3 record files" in capsys.readouterr().out
    frame = pd.read_csv(out, dtype={"input_sha256": str}, float_precision="round_trip")
    check(frame)
    for file in set(frame["file"]):  # the way back to the record
        assert read_records(file)[0].seed in (0, 3)


def test_a_file_given_twice_counts_once(results, tmp_path):
    (tmp_path / "link").symlink_to(results)
    places = [results, results / "t/base/seed0/train.jsonl", tmp_path / "link", tmp_path / "results/../results"]
    main([*map(str, places), "--out", str(tmp_path / "n.csv")])
    assert len(pd.read_csv(tmp_path / "n.csv")) == 11


def test_what_cannot_be_read_is_named(results, tmp_path, capsys):
    (results / "t/base/seed0/train.jsonl").write_text("{cut")
    assert main([str(results), "--out", str(tmp_path / "n.csv")]) == 0
    assert "warning: <elsewhere>/train.jsonl: damaged record, line 1" in capsys.readouterr().err
    assert pd.read_csv(tmp_path / "n.csv")["reason"].str.contains("damaged record").sum() == 1


def test_parquet_reads_back_as_the_records(results, tmp_path):
    pytest.importorskip("pyarrow", reason="no pyarrow (the extra 'parquet')")
    main([str(results), "--out", str(tmp_path / "n.parquet")])
    check(pd.read_parquet(tmp_path / "n.parquet"))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_duckdb_reads_the_records_as_well(suffix, results, tmp_path):
    duckdb = pytest.importorskip("duckdb", reason="no duckdb (the extra 'test')")
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="no pyarrow (the extra 'parquet')")
    main([str(results), "--out", str(out := tmp_path / f"n{suffix}")])
    # CSV has no types: a hash that is all digits is text.
    source = f"'{out}'" if suffix == ".parquet" else f"read_csv('{out}', types={{'input_sha256': 'VARCHAR'}})"
    check(duckdb.sql(f"SELECT * FROM {source}").df())


def test_without_pyarrow_the_message_has_the_remedy(results, tmp_path, monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert not can_write_parquet()  # also where it is installed, and broken
    with pytest.raises(UserError, match="Parquet needs pyarrow"):
        main([str(results), "--out", str(tmp_path / "n.parquet")])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results"]


@pytest.mark.parametrize(
    ("place", "out", "message"), [("results", "n.xlsx", "no file of"), (".", "n.csv", "no record")]
)
def test_what_cannot_be_exported_is_refused(place, out, message, tmp_path):
    (tmp_path / "results").mkdir()
    with pytest.raises(UserError, match=message):
        main([str(tmp_path / place), "--out", str(tmp_path / out)])
