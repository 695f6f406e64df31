"""Plain pickles come back as they were; anything else is refused before it runs."""

from __future__ import annotations

import os
import pickle
import subprocess

import numpy as np
import pytest

from aqr_bench.compat import load_safe_pickle
from aqr_bench.errors import UserError

CONTENT = {
    "none": None,
    "flags": (True, False),
    "numbers": [1, -(2**70), 2.5, 1 + 2j],
    "text": "Spur",
    "bytes": b"\x00\xff",
    "sets": {1, 2},
    "frozen": frozenset({3}),
    "array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "column_major": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "names": np.array(["car", "bus"]),
    "mixed": np.array([1, "a", None], dtype=object),
    "scalars": [np.float32(1.5), np.int64(7), np.bool_(True), np.str_("car")],
    "dtype": np.dtype("<i2"),
}


class Hostile:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write(path, payload):
    path.write_bytes(payload)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_back(tmp_path, protocol):
    loaded = load_safe_pickle(write(tmp_path / "plain.pkl", pickle.dumps(CONTENT, protocol)))
    assert loaded.keys() == CONTENT.keys()
    for key, expected in CONTENT.items():
        if isinstance(expected, np.ndarray):
            assert loaded[key].dtype == expected.dtype and np.array_equal(loaded[key], expected)
        else:
            assert loaded[key] == expected
    assert [type(scalar) for scalar in loaded["scalars"]] == [type(scalar) for scalar in CONTENT["scalars"]]


@pytest.mark.parametrize("protocol", [2, 5])
def test_both_numpy_generations_are_read(tmp_path, protocol):
    here = pickle.dumps({"box": np.arange(3.0), "one": np.float32(1)}, protocol)
    assert b"numpy.core.multiarray" in here or b"numpy._core.multiarray" in here
    for old, new in ((b"numpy.core.", b"numpy._core."), (b"numpy._core.", b"numpy.core.")):
        other = here.replace(old, new)
        if protocol >= 4:
            # Module names carry their length and the frame as well: drop the frame, set the lengths.
            other = other[:2] + other[11:]
            for name in (b"multiarray", b"numeric"):
                renamed = new + name
                position = other.find(renamed)
                if position >= 0:
                    other = other[: position - 1] + bytes([len(renamed)]) + other[position:]
        loaded = load_safe_pickle(write(tmp_path / "other.pkl", other))
        assert np.array_equal(loaded["box"], np.arange(3.0)) and loaded["one"] == 1


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (subprocess.check_call, "check_call"), (eval, "eval"), (getattr, "getattr")],
)
def test_a_hostile_file_executes_nothing(tmp_path, protocol, function, name):
    trace = tmp_path / "executed"
    arguments = {
        "system": (f"touch {trace}",),
        "check_call": (["touch", str(trace)],),
        "eval": (f"open({str(trace)!r}, 'w')",),
        "getattr": (np.ndarray, "tofile"),
    }[name]
    path = write(tmp_path / "hostile.pkl", pickle.dumps({"car": [Hostile(function, *arguments)]}, protocol))
    with pytest.raises(UserError, match=rf"box list .*hostile\.pkl asks for '.*{name}'.*nothing of it was executed"):
        load_safe_pickle(path, "box list")
    assert not trace.exists()


def test_codecs_beyond_latin1_are_refused(tmp_path):
    payload = b"c_codecs\nencode\n(Vabc\nVrot13\ntR."
    with pytest.raises(UserError, match="rot13"):
        load_safe_pickle(write(tmp_path / "codec.pkl", payload))


def test_missing_truncated_and_damaged_files_are_named(tmp_path):
    payload = pickle.dumps(CONTENT, 4)
    for end in (0, 1, 12, len(payload) // 2, len(payload) - 1):
        path = write(tmp_path / "cut.pkl", payload[:end])
        with pytest.raises(UserError, match=r"box list .*cut\.pkl is truncated or damaged.*Make another"):
            load_safe_pickle(path, "box list", "Make another.")
    with pytest.raises(UserError, match=r"damaged"):
        load_safe_pickle(write(tmp_path / "text.pkl", b"no pickle at all"))
    with pytest.raises(UserError, match=r"box list not found: .*gone\.pkl\. Make another"):
        load_safe_pickle(tmp_path / "gone.pkl", "box list", "Make another.")
