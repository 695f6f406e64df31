"""Class-balanced sampling: rare classes come as often as common ones, absent ones do no harm."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from mmdet3d.datasets import CBGSDataset

from aqr_bench.data.cbgs import BalancedDataset, annotated_classes
from aqr_bench.errors import UserError


class Frames:
    """Frames that hold the given labels; label k of the file is class 2 - k of the data set, -1 stays."""

    def __init__(self, labels: list[list[int]]) -> None:
        self.labels, self.label_mapping, self.ann_file = labels, {0: 2, 1: 1, 2: 0, -1: -1}, "infos_train.pkl"

    def __len__(self) -> int:
        return len(self.labels)

    def get_data_info(self, index: int) -> dict:
        return {"instances": [{"bbox_label_3d": k} for k in self.labels[index]]}

    def get_cat_ids(self, index: int) -> set[int]:
        return annotated_classes(self, index)


def draw(kind, frames: Frames, seed: int = 0) -> list[int]:
    np.random.seed(seed)
    return kind._get_sample_indices(SimpleNamespace(metainfo={"classes": ("a", "b", "c")}), frames)


def test_labels_are_mapped_and_unknown_ones_left_out():
    assert annotated_classes(Frames([[0, 2, -1, 2]]), 0) == {0, 2}


def test_every_class_comes_equally_often():
    frames = Frames([[0]] * 90 + [[1]] * 9 + [[2]])
    drawn = np.array(draw(BalancedDataset, frames))
    counts = [(drawn < 90).sum(), ((drawn >= 90) & (drawn < 99)).sum(), (drawn == 99).sum()]
    assert len(drawn) == 99 and counts == [33, 33, 33]


def test_it_draws_what_mmdet3d_draws_where_that_works():
    frames = Frames([[0, 1], [1], [2, 0], [0], [1, 2], []])
    assert draw(BalancedDataset, frames) == draw(CBGSDataset, frames)


def test_a_class_that_is_absent_is_left_out():
    frames = Frames([[0, 0], [1], []])
    assert set(draw(BalancedDataset, frames)) == {0, 1}
    with pytest.raises(ZeroDivisionError):
        draw(CBGSDataset, frames)
    with pytest.raises(UserError, match=r"infos_train.pkl: no frame holds an object of a, b, c"):
        draw(BalancedDataset, Frames([[], [-1]]))
