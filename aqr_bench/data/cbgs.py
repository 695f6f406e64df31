"""Class-balanced grouping and sampling (CBGS, Zhu et al. 2019): frames with rare classes come more often."""

from __future__ import annotations

import numpy as np

from aqr_bench import compat

compat.prepare()

from mmdet3d.datasets import CBGSDataset  # noqa: E402
from mmdet3d.registry import DATASETS  # noqa: E402
from mmengine.dataset import BaseDataset  # noqa: E402

from aqr_bench.errors import UserError  # noqa: E402


@DATASETS.register_module()
class BalancedDataset(CBGSDataset):
    """mmdet3d's CBGSDataset for data sets that lack a class, counting as CMT's training counted.

    mmdet3d divides by the share of each class, and so fails where one has none (v1.0-mini, small worlds): it is left
    out here. And a frame counts for every class annotated in it, as in mmdet3d before 1.1, not only for the boxes that
    hold LiDAR points. Draws come from numpy's global generator, which mmengine seeds before it builds data sets.
    """

    def _get_sample_indices(self, dataset: BaseDataset) -> list[int]:
        """Frames of one epoch: as many of each class as the average class has, with repetition.

        Raises:
            UserError: no frame holds an object of any class.
        """
        frames: list[list[int]] = [[] for _ in self.metainfo["classes"]]
        for index in range(len(dataset)):
            for label in annotated_classes(dataset, index):
                frames[label].append(index)
        total = sum(map(len, frames))
        if not total:
            raise UserError(f"{dataset.ann_file}: no frame holds an object of {', '.join(self.metainfo['classes'])}")
        drawn: list[int] = []
        present = [members for members in frames if members]
        for members in present:
            ratio = (1.0 / len(present)) / (len(members) / total)
            drawn += np.random.choice(members, int(len(members) * ratio)).tolist()
        return drawn


def annotated_classes(dataset: BaseDataset, index: int) -> set[int]:
    """Labels of all annotated objects of a frame, in the order of the data set's classes, with points or without."""
    instances = dataset.get_data_info(index)["instances"]
    labels = {dataset.label_mapping[instance["bbox_label_3d"]] for instance in instances}
    return {int(label) for label in labels if label >= 0}
