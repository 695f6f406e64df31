"""Which detectors work: the table of docs/mmdet3d.md is that of `aqr-bench config check`, with each kind of result."""

from __future__ import annotations

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from worlds import smallest_world

from aqr_bench import compat
from aqr_bench.cli.config import main as config_command
from aqr_bench.compat import has_compiled_mmcv
from aqr_bench.data.dataset import DataSet, load_data
from aqr_bench.engine.try_config import (
    NEEDS_OPERATOR,
    REFUSED,
    WORKS,
    ConfigTrial,
    markdown_row,
    nuscenes_configs,
    try_config,
)
from aqr_bench.errors import UserError
from aqr_bench.study.model_files import configs_below

PAGE = Path(__file__).resolve().parents[2] / "docs" / "mmdet3d.md"
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "centerpoint" / "centerpoint_pillar.py"
ROTATED_NMS = 'model = dict(test_cfg=dict(pts=dict(nms_type="rotate", nms_thr=0.2)))'
REFUSED_ROWS = [
    "mmdet3d::pgd/pgd_r101-caffe_fpn_head-gn_16xb2-1x_nus-mono3d.py",
    "mmdet3d::fcos3d/fcos3d_r101-caffe-dcn_fpn_head-gn_8xb2-1x_nus-mono3d.py",
]

pytestmark = pytest.mark.skipif(has_compiled_mmcv(), reason="the table is that of mmcv-lite")


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data(smallest_world() / "infos")


def rows_of_page() -> dict[str, str]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return {match[1]: line for line in lines if (match := re.match(r"\| `(mmdet3d::\S+\.py)` \|", line))}


def test_the_operator_that_is_not_there_is_named_by_a_detector_that_is_run(data, tmp_path):
    rotated = tmp_path / "rotated.py"
    rotated.write_text(f"_base_ = ['{EXAMPLE}']\n{ROTATED_NMS}\n")
    assert try_config(str(rotated), data) == ConfigTrial(str(rotated), NEEDS_OPERATOR, "calls nms_rotated")


@pytest.mark.slow
def test_a_detector_without_such_an_operator_works(data):
    assert try_config(str(EXAMPLE), data) == ConfigTrial(str(EXAMPLE), WORKS)


@pytest.mark.parametrize("model", REFUSED_ROWS)
def test_a_row_of_the_page_is_what_the_command_prints(model, data):
    trial = try_config(model, data)
    assert trial.result == REFUSED and rows_of_page()[model] == markdown_row(trial)


def test_the_page_has_all_configs_of_the_package_that_are_called_after_nuscenes():
    assert {name for name in configs_below("mmdet3d") if "nus-3d" in name or "nus-mono3d" in name} == set(
        rows_of_page()
    )


@pytest.mark.slow
def test_every_row_of_the_page_is_what_the_command_prints(data):
    models = nuscenes_configs(["mmdet3d"])
    assert {model: markdown_row(try_config(model, data)) for model in models} == rows_of_page()


def test_the_command_prints_a_table_of_a_folder_and_its_exit_code_says_whether_all_work(tmp_path, capsys, monkeypatch):
    # In this process: a fresh one imports mmdet3d again.
    monkeypatch.setattr(compat, "spawn_pool", lambda workers: ThreadPoolExecutor(workers))
    for name, text in {
        "other_data": "test_dataloader = dict(dataset=dict(type='KittiDataset'))",
        "half": "test_dataloader = dict(dataset=dict(type='NuScenesDataset', ann_file='x'))",
        "broken": "_base_ = ['not_there.py']",
        "no_config": "import sys",
    }.items():
        (tmp_path / f"{name}.py").write_text(text + "\n")
    (tmp_path / "_base_").mkdir()
    (tmp_path / "_base_" / "part.py").write_text("test_dataloader = dict(dataset=dict(type='NuScenesDataset'))\n")
    assert config_command(["check", str(tmp_path)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "| config | result | reason |" and len(printed) == 4
    assert f"| `{tmp_path}/broken.py` | refused |" in printed[2] and "not_there.py" in printed[2]
    assert f"| `{tmp_path}/half.py` | refused | no train_dataloader; a config that" in printed[3]
    assert config_command(["check", str(tmp_path / "broken.py"), "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert not facts["ok"] and [(c["model"], c["result"]) for c in facts["configs"]] == [
        (str(tmp_path / "broken.py"), REFUSED)
    ]


def test_names_that_stand_for_no_config(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # as of a script: find_spec raises
    with pytest.raises(UserError, match=f"no configs in {tmp_path}. Give a folder"):
        config_command(["check", str(tmp_path)])
    with pytest.raises(UserError, match="no '__main__' in aqr_bench/cmt/configs"):
        config_command(["check", "__main__"])
    with pytest.raises(UserError, match="did you mean 'pgd/pgd_"):
        config_command(["check", REFUSED_ROWS[0].replace("caffe", "cafe")])
