"""Corruptions of the user: by reference as those that ship, and what breaks the contract is one line."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from corruption_frames import make_frame

from aqr_bench.corruptions import check_corruption, corrupt, get_corruption
from aqr_bench.corruptions.custom import probe_frame
from aqr_bench.corruptions.frame import require
from aqr_bench.errors import UserError
from aqr_bench.study.load import load_suite

HEAD = """
import numpy as np
from dataclasses import replace
from aqr_bench.corruptions import corruption

"""
DUST = """
@corruption("lidar", [{"prob": 0.3, "range_m": 15.0}, {"prob": 0.6, "range_m": 15.0}], source="here")
def near_dust(frame, stream, parameters):
    '''Points near the sensor are gone.'''
    def left(cloud):
        drawn = stream(frame.token, f"LIDAR_TOP/{cloud.token}").random(len(cloud.points)) < parameters["prob"]
        return cloud.points[~(drawn & (np.linalg.norm(cloud.points[:, :3], axis=1) < parameters["range_m"]))]
    return frame.with_points(left)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(HEAD + DUST)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_used_as_one_that_ships(project):
    frame = make_frame()
    mild, severe = (get_corruption("mine.py:near_dust", severity) for severity in (1, 2))
    assert str(severe) == "custom.near_dust@2" and severe.summary == "Points near the sensor are gone."
    assert get_corruption("mine.py:near_dust@2") == severe and severe.modality == "lidar" and severe.source == "here"
    counts = [len(corrupt(c, frame).clouds[0].points) for c in (mild, severe)]
    assert len(frame.clouds[0].points) > counts[0] > counts[1]
    assert len(corrupt(severe.with_options({"prob": 0.0}), frame).clouds[0].points) == len(frame.clouds[0].points)
    again = corrupt(severe, frame, seed=1)
    assert all(array.flags.writeable for array in (again.clouds[0].points, again.views[0].image))
    with pytest.raises(UserError, match="has 2 severities: give one"):
        get_corruption("mine.py:near_dust")
    with pytest.raises(UserError, match="no parameter 'porb'; did you mean 'prob'"):
        severe.with_options({"porb": 1})


def test_a_suite_names_it_by_its_file(project):
    (project / "dusty.yaml").write_text(
        "name: dusty\nsummary: Dust.\nconditions:\n  - {name: clean}\n"
        "  - {name: dust, corruption: mine.py:near_dust, severity: 2, options: {prob: 0.9}}\n"
    )
    condition = load_suite("./dusty.yaml").conditions[1]
    assert condition.corruption.parameters["prob"] == 0.9 and condition.settings["corruption"] == "mine.py:near_dust"
    (project / "dusty.yaml").write_text(
        "name: dusty\nsummary: Dust.\nconditions: [{name: clean}, {name: d, corruption: mine.py:nere_dust}]\n"
    )
    with pytest.raises(UserError, match=r"dusty.yaml: conditions: d: .*mine.py has no 'nere_dust'; did you mean"):
        load_suite("./dusty.yaml")


def test_another_process_imports_it_itself(project):
    severe = get_corruption("mine.py:near_dust", 2)
    apply = pickle.loads(pickle.dumps(severe.apply))
    frame = make_frame()
    assert np.array_equal(
        apply(frame, lambda *_: np.random.default_rng(0), severe.parameters).clouds[0].points,
        severe.apply(frame, lambda *_: np.random.default_rng(0), severe.parameters).clouds[0].points,
    )


def test_a_plain_function_has_one_severity_and_no_parameters(project):
    text = "def gone(frame, stream, parameters):\n    return frame.with_points(lambda c: c.points[:1])\n"
    (project / "plain.py").write_text(text)
    plain = get_corruption("plain.py:gone")
    assert (str(plain), plain.modality, dict(plain.parameters)) == ("custom.gone", "both", {})
    assert len(corrupt(plain, make_frame()).clouds[0].points) == 1


BROKEN = {
    "no function": ("bad = 3", "is a int, expected a function"),
    "signature": ("def bad(frame): return frame", r"signature \(frame\), expected \(frame: Frame, stream"),
    "no frame": ("def bad(frame, stream, parameters): return 3", "returned int, expected a Frame"),
    "writes": ("def bad(f, s, p):\n    f.clouds[0].points[:] = 0\n    return f", "writes to its input.*Change a copy"),
    "unseeded": (
        "def bad(f, s, p): return f.with_points(lambda c: c.points[np.random.rand(len(c.points)) < 0.5])",
        "another result with the same seed.*stream",
    ),
    "another sensor": (
        "@corruption('lidar')\ndef bad(f, s, p): return f.with_images(lambda v: v.image // 2)",
        "changes the camera, and says that it changes 'lidar'",
    ),
    "not finite": ("def bad(f, s, p): return f.with_points(lambda c: c.points * np.float32('nan'))", "not finite"),
    "shape": ("def bad(f, s, p): return f.with_images(lambda v: v.image[..., 0])", r"expected uint8 \[h, w, 3\]"),
    "raises": ("def bad(f, s, p): return f.clouds[99]", "fails on a small frame: IndexError"),
    "no such key": (
        "@corruption('lidar', [{'a': 1}])\ndef bad(f, s, p): return p['b']",
        "small frame: KeyError",
    ),
    "changes": ("@corruption('radar')\ndef bad(f, s, p): return f", "changes 'radar' is not one of lidar, camera"),
    "severities": ("@corruption('lidar', [])\ndef bad(f, s, p): return f", "severities must be a list of mappings"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_the_contract_is_refused_where_it_is_loaded(project, case):
    text, message = BROKEN[case]
    (project / "broken.py").write_text(f"{HEAD}{text}\n")
    with pytest.raises(UserError, match=message) as error:
        get_corruption("broken.py:bad")
    assert "\n" not in str(error.value)


def test_the_probe_frame_is_sound():
    frame = probe_frame()
    require(frame, ["intensity", "ring", "boxes", "history"], "x")
    assert len(frame.views) == 6 and frame.history.token(1) and frame.history.token(9) is None
    for name in ("multicorrupt.fog@2", "nuscenes_r.extrinsic_noise@2", "multicorrupt.dark@3", "no_lidar"):
        check_corruption(get_corruption(name))
