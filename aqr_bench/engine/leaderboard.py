"""Evaluations of a split without annotations: their result is a submission for the leaderboard, and no score."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aqr_bench.data.dataset import DataSet

LEADERBOARD = "leaderboard"  # in a record's extra
NO_SCORE = "no score, since the test split has no annotations; a leaderboard file is written"


def leaderboard_facts(submission: Path, data: DataSet) -> dict[str, Any]:
    """A record's extra about a submission; RuntimeError where the leaderboard would refuse it.

    It needs all samples of the test split, also those of scenes that were left out of the info files.
    """
    from nuscenes.eval.common.config import config_factory

    from aqr_bench.metrics.submission import check_leaderboard_file

    tokens = _split_tokens(data.root, data.version)
    check_leaderboard_file(submission, tokens, config_factory("detection_cvpr_2019").max_boxes_per_sample)
    return {LEADERBOARD: {"file": submission.name, "samples": len(tokens)}}


@functools.cache
def _split_tokens(root: Path, version: str) -> tuple[str, ...]:
    """Tokens of all samples of a data set's test split."""
    from aqr_bench.data.infos import open_nuscenes
    from aqr_bench.metrics.ground_truth import split_samples
    from aqr_bench.metrics.splits import TEST_SPLIT

    samples, _ = split_samples(open_nuscenes(root, version), TEST_SPLIT)
    return tuple(sample["token"] for sample in samples)
