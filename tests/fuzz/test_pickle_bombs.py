"""Files that would run a command when they are unpickled, at every place that reads one: nothing runs.

Config files (.py) are code by nature and are none of these: docs/robustness-of-input.md.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz_cases import one_clear_line
from worlds import linked_copy, smallest_world

from aqr_bench import compat
from aqr_bench.cli import main as cli
from aqr_bench.cli.rerun import weight_difference
from aqr_bench.cmt.feature_cache import FeatureCache, _checksum
from aqr_bench.compat import load_safe_pickle
from aqr_bench.data.dbinfos import read_dbinfos
from aqr_bench.data.foreign_infos import import_infos
from aqr_bench.data.gt_database import _train_frames
from aqr_bench.data.raw_frames import InfoFile
from aqr_bench.engine.checkpoint import read_checkpoint
from aqr_bench.engine.weights import load_weights, merged_weights
from aqr_bench.errors import UserError
from aqr_bench.metrics.matches import Matches
from aqr_bench.records.record import Record, write_records
from aqr_bench.report.routers import load_weights as router_weights
from aqr_bench.report.routers import queries_of
from aqr_bench.report.scene_bootstrap import resampled_run
from aqr_bench.study.hashes import sha256_file

PACKAGE = Path(__file__).resolve().parents[2] / "aqr_bench"


class Bomb:
    """Unpickling it makes a file: any command could stand there."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture
def marker(tmp_path):
    path = tmp_path / "it-went-off"
    yield path
    assert not path.exists(), "the file was executed"


@pytest.fixture
def bomb(marker, tmp_path) -> Path:
    path = tmp_path / "bomb.pkl"
    path.write_bytes(pickle.dumps({"metainfo": {}, "data_list": [Bomb(marker)]}, protocol=4))
    return path


def test_the_bomb_is_one(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "it-went-off")))
    assert (tmp_path / "it-went-off").exists()


# ---------------------------------------------------------------- info files and databases


@pytest.mark.parametrize(
    "read",
    [
        *(load_safe_pickle, _train_frames, read_dbinfos),
        *(lambda path: InfoFile(path, path.parent), lambda path: import_infos(path, path.parent / "out")),
    ],
    ids=["plain pickle", "info file of a database", "object database", "info file", "info file of mmdet3d"],
)
def test_pickles_of_a_data_set(read, bomb):
    with pytest.raises(UserError, match=r"bomb\.pkl asks for .*\.system', which is no plain data") as caught:
        read(bomb)
    one_clear_line(str(caught.value), names=str(bomb), paths=(bomb,))


def test_whatever_mmengine_and_mmdet3d_load(bomb, marker):
    """mmdet3d's data sets, samplers and metrics read their pickles through mmengine."""
    import mmengine

    compat.prepare()
    for read in (mmengine.load, mmengine.fileio.load):
        with pytest.raises(UserError, match=r"\.system"):
            read(str(bomb))
    with bomb.open("rb") as file, pytest.raises(UserError, match=r"\.system"):
        mmengine.load(file, file_format="pkl")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """Train record and checkpoint of a model that has learnt nothing."""
    from mmdet3d.registry import MODELS
    from mmengine.config import Config

    import aqr_bench.cmt  # noqa: F401
    from aqr_bench.study.model_files import CONFIGS

    folder = tmp_path_factory.mktemp("model")
    model = MODELS.build(Config.fromfile(CONFIGS / "cmt_aqr_quick_model.py").model)
    torch.save({"state_dict": model.state_dict()}, folder / "final.pth")
    return _record(folder)


def _record(folder: Path) -> Path:
    source = dict(checkpoint="final.pth", checkpoint_sha256=sha256_file(folder / "final.pth"))
    return write_records(folder / "train.jsonl", [Record("train", "ok", "quick", seed=0, provenance=source)])


def refused(capsys, *argv: object) -> str:
    """The one line of a command that refuses."""
    capsys.readouterr()
    assert cli.main(list(map(str, argv))) == 2
    output = capsys.readouterr().err.splitlines()[-1]
    assert output.startswith("error: ")
    one_clear_line(output, paths=argv)
    return output


def test_a_keyframe_from_elsewhere(bomb, marker, untrained, tmp_path, capsys):
    folder = tmp_path / "keyframe"
    folder.mkdir()
    shutil.copy(bomb, folder / "infos.pkl")
    out = tmp_path / "out"
    command = ("evaluate", "--tier", "quick", "--train", untrained, "--keyframe", folder, "--pictures", out)
    assert "infos.pkl" in refused(capsys, *command)
    preview = ("corruptions", "preview", "clean", "--keyframe", folder, "--out", tmp_path / "out")
    assert "infos.pkl" in refused(capsys, *preview)


def test_info_files_of_an_evaluation_and_of_a_training(bomb, marker, untrained, tmp_path, capsys):
    place = linked_copy(smallest_world(), tmp_path / "place")
    for split in ("train", "val"):
        (place / "infos" / f"infos_{split}.pkl").unlink()
        shutil.copy(bomb, place / "infos" / f"infos_{split}.pkl")
    summary = place / "infos" / "data.json"  # holds hashes of the files
    output = json.loads(summary.read_text()) | {"sha256": {"infos": {}, "tables": {}}}
    summary.unlink()
    summary.write_text(json.dumps(output))
    out = tmp_path / "r.jsonl"
    command = ("--tier", "smoke", "--infos", place / "infos", "--work", tmp_path / "work", "--out", out)
    assert cli.main([*map(str, ("evaluate", "--suite", "missing_sensors", "--train", untrained, *command))]) == 3
    reasons = {json.loads(line)["reason"] for line in out.read_text().splitlines()}
    assert len(reasons) == 1 and "infos_val.pkl asks for" in next(iter(reasons))
    output = refused(capsys, "train", "--seed", 0, *command)
    assert "infos_train.pkl" in output and "asks for" in output


# ---------------------------------------------------------------- checkpoints


def bomb_checkpoint(path: Path, marker: Path, legacy: bool = False) -> Path:
    content = {"state_dict": {"a": torch.zeros(2)}, "meta": Bomb(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_published_checkpoints(legacy, marker, tmp_path, capsys):
    path = bomb_checkpoint(tmp_path / "bomb.pth", marker, legacy)
    with pytest.raises(UserError, match=r"bomb\.pth asks for posix\.system"):
        read_checkpoint(path)
    for action in ("inspect", "convert"):
        assert "bomb.pth" in refused(capsys, "checkpoint", action, path)
    assert not (tmp_path / "bomb.aqr.pth").exists()


def test_checkpoints_that_a_train_record_names(marker, tmp_path, keyframe, capsys):
    bomb_checkpoint(tmp_path / "final.pth", marker)
    train = _record(tmp_path)
    command = ("evaluate", "--tier", "quick", "--train", train, "--keyframe", keyframe, "--pictures", tmp_path / "out")
    assert "final.pth" in refused(capsys, *command)
    path = tmp_path / "final.pth"
    with pytest.raises(RuntimeError, match=r"final\.pth cannot be read"):
        load_weights(torch.nn.Linear(1, 1), path)
    with pytest.raises(RuntimeError, match=r"final\.pth cannot be read"):
        merged_weights([path, path], tmp_path / "merged.pth")


def test_a_checkpoint_that_a_training_would_go_on_from(marker, tmp_path):
    """mmengine's Runner reads the last one in the work folder, and what is given as load_from."""
    from mmengine.runner.checkpoint import _load_checkpoint

    compat.prepare()
    path = bomb_checkpoint(tmp_path / "iter_1.pth", marker)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        _load_checkpoint(str(path), map_location="cpu")


def test_a_checkpoint_that_a_rerun_is_compared_with(marker, tmp_path):
    path = bomb_checkpoint(tmp_path / "final.pth", marker)
    assert re.search(r"cannot be read.*final\.pth", weight_difference(path, path))


# ---------------------------------------------------------------- arrays


def test_arrays_beside_detections(marker, tmp_path):
    path = tmp_path / "router.npz"
    content = np.array([Bomb(marker)], dtype=object)
    np.savez(path, weight=content, token=content, score=content, centre=content, distances=content, classes=content)
    assert router_weights(path) is None and queries_of(path) is None and resampled_run(path, 0.5) is None
    with pytest.raises(ValueError, match="pickle"):
        Matches.load(path)


def claiming(path: Path, shape: str, name: str) -> Path:
    """An npz whose array says that it is of a shape, and holds a few bytes."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        for part in (name, "distances", "token"):
            archive.writestr(f"{part}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))
    return path


@pytest.mark.parametrize("shape", ["(2500000000000, )", "(1000000, 1000000, 2)", "(-5, )", "(9223372036854775807, 9)"])
def test_an_array_that_claims_ten_terabytes(shape, tmp_path):
    path = claiming(tmp_path / "router.npz", shape, "weight")
    assert router_weights(path) is None and queries_of(path) is None and resampled_run(path, 0.5) is None


def test_pickles_that_claim_terabytes(tmp_path):
    path = tmp_path / "big.pkl"
    claims = [
        b"\x80\x04cbuiltins\nbytearray\n\x8a\x06" + (10**13).to_bytes(6, "little") + b"\x85R.",
        b"\x80\x04\x8e" + struct.pack("<Q", 10**13) + b"x.",
        b"\x80\x04\x8d" + struct.pack("<Q", 10**13) + b"x.",
        b"\x80\x05\x96" + struct.pack("<Q", 10**13) + b"x.",
        b"\x80\x04cnumpy\nndarray\n\x8a\x06" + (10**13).to_bytes(6, "little") + b"\x85\x85R.",
    ]
    for claim in claims:
        path.write_bytes(claim)
        with pytest.raises(UserError, match=r"big\.pkl is truncated or damaged"):
            load_safe_pickle(path)


def test_a_picture_that_claims_gigapixels(tmp_path):
    from aqr_bench.data.raw_frames import BadFrameError, read_image
    from aqr_bench.report.embed import Budget, collect_pictures

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    path = tmp_path / "clean.png"
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    with pytest.raises(BadFrameError, match=r"clean\.png"):
        read_image(path)
    shown, left_out, _ = collect_pictures(tmp_path, Budget())
    assert not shown and left_out[0].startswith("clean.png (")


def test_stored_features_are_computed_again(marker, tmp_path):
    cache, features = FeatureCache(tmp_path / "features", "", 1_000_000), [torch.ones(2)]
    cache.levels(b"branch", torch.zeros(1), lambda: features)
    (entry,) = cache.folder.iterdir()
    content = pickle.dumps(Bomb(marker))
    entry.write_bytes(_checksum(memoryview(content)) + content)
    assert torch.equal(cache.levels(b"branch", torch.zeros(1), lambda: features)[0], features[0])


# ---------------------------------------------------------------- all places are known

KNOWN = {
    "torch.load": {"cmt/feature_cache.py", "engine/checkpoint.py", "engine/weights.py"},
    "np.load": {"metrics/matches.py", "report/routers.py"},
    "pickle.Unpickler": {"compat.py"},
    "yaml.load": {"study/schema.py"},
    # Of configs that ship, but for the engine's.
    "Config.fromfile": {
        *("cli/doctor.py", "cmt/published_weights.py", "cost/full_head.py", "data/corrupted_sample.py"),
        "engine/config.py",
    },
}
LOADS = re.compile(
    r"\b(torch\.load|np\.load|pickle\.(?:loads?|Unpickler)|joblib\.\w+|yaml\.(?:load|unsafe_load|full_load)"
    r"|mmengine\.load|Config\.fromfile|marshal\.\w+|shelve\.\w+|pd\.read_pickle|(?<![.\w])(?:eval|exec))[()]"
)


def code_of(path: Path) -> str:
    """A file without its comments."""
    return "\n".join(line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines())


def test_every_place_that_may_run_a_file_is_in_this_file():
    result: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in LOADS.findall(code_of(path)):
            result.setdefault(name, set()).add(path.relative_to(PACKAGE).as_posix())
    assert result == KNOWN, "a new place that loads files: give it a bomb"


def test_every_torch_load_is_weights_only_and_every_np_load_without_pickles():
    for name, wanted in (("torch.load", "weights_only=True"), ("np.load", "allow_pickle=False")):
        for place in KNOWN[name]:
            calls = re.findall(re.escape(name) + r"\(([^)]*)\)", code_of(PACKAGE / place))
            assert calls and all(wanted in call for call in calls), (place, calls)
