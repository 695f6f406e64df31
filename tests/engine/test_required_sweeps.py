"""Info files with fewer sweeps than a pipeline merges are refused: it would merge fewer, and no score would say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import ConfigDict

from aqr_bench.data.dataset import DataSet
from aqr_bench.engine.config import require_sweeps
from aqr_bench.errors import UserError


def config(train: int, test: int) -> ConfigDict:
    loaders = {}
    for name, sweeps in (("train_dataloader", train), ("test_dataloader", test)):
        steps = [dict(type="LoadPointsFromFile"), dict(type="LoadPoseCorrectedSweeps", sweeps_num=sweeps)]
        loaders[name] = dict(dataset=dict(type="NuScenesDataset", pipeline=steps))
    return ConfigDict(loaders)


def test_info_files_need_the_sweeps_that_are_merged():
    data = [DataSet(Path("infos"), Path("root"), "v1.0-mini", "", max_sweeps=sweeps) for sweeps in (None, 3)]
    require_sweeps(config(train=10, test=10), data[0])  # info files of before do not say
    require_sweeps(config(train=3, test=0), data[1])
    require_sweeps(config(train=10, test=3), data[1], ["test_dataloader"])
    with pytest.raises(UserError, match=r"test_dataloader merges 4 LiDAR sweeps, .* infos have up to 3\. .*-sweeps 4"):
        require_sweeps(config(train=3, test=4), data[1])
