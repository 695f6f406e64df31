"""Look at a sample: what a trained model gets and detects, in 3D, and what its attention does.

aqr-bench view RECORD [--sample N] [--condition NAME ...] [--against RECORD] --out sample.html

The suffix of --out says what is written. .html: a page without further files. .rrd: a recording for the Rerun viewer
(extra `viewer`) with all samples of the scene on a time line and the queries of the router. .png, with --attention: the
cross-attention of a query with and without the bias, layer by layer. The page and the recording have the attention of a
few queries as well. The model is run on the sample, so its checkpoint has to be there.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aqr_bench.cli.sample_views import ChosenSample, chosen_samples, observe_sample
from aqr_bench.cli.viewed_model import ViewedModel, load_model, with_distinct_names
from aqr_bench.console import non_negative_int, unit_fraction
from aqr_bench.engine.loader import build_loader
from aqr_bench.errors import UserError, run_main
from aqr_bench.report.viewer.html import write_viewer
from aqr_bench.report.viewer.sample_view import SampleView
from aqr_bench.study.load import resolve_condition
from aqr_bench.study.spec import Condition

SUFFIXES = (".html", ".rrd", ".png")


def main(argv: list[str] | None = None) -> int:
    """Write the page, the recording or the figure that the suffix of ``--out`` asks for."""
    args = _arguments(argv)
    with tempfile.TemporaryDirectory(prefix="aqr-bench-view-") as folder:
        paths = [path for path in (args.record, args.against) if path]
        models = with_distinct_names([load_model(path, args.infos, Path(folder)) for path in paths], paths)
        first = models[0]
        conditions = viewed_conditions(first, args.condition)
        datasets = _datasets(models, conditions)
        dataset = datasets[0][0]
        sample, threshold = viewed_sample(first, dataset, conditions[0], args.sample, args.threshold)
        threshold_of = partial(threshold_beside, dataset, conditions[0], args.threshold, threshold)
        thresholds = [threshold, *map(threshold_of, models[1:])]
        if args.out.suffix == ".png":
            caption = write_attention(first, dataset, sample.index, conditions[0], args.attention, args.out)
            print(f"{caption}\n-> {args.out}")
            return 0
        scores = " and ".join(f"{threshold:g}" for threshold in dict.fromkeys(thresholds))
        reason = f"{sample.reason}; " if sample.reason else ""
        caption = f"{reason}detections with a score of at least {scores}"
        query, scene = None if args.attention == "best" else args.attention, ""
        views_of = partial(_views, models, datasets, conditions, thresholds, query)
        if args.out.suffix == ".rrd":
            from aqr_bench.report.viewer.rrd import write_recording

            indices = scene_of(dataset, sample.index)
            scene = f", {len(indices)} samples of its scene"
            write_recording(args.out, map(views_of, indices))  # one sample after the other in memory
        else:
            columns = len(conditions) if len(conditions) > 1 else len(models)
            write_viewer(args.out, views_of(sample.index), caption, columns)
    print(f"sample {sample.index}{scene}: {caption} -> {args.out}")
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="aqr-bench view", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "record", type=Path, metavar="RECORD", help="train or evaluate record file of the model (.jsonl)"
    )
    parser.add_argument("--against", type=Path, metavar="RECORD", help="of another model, to be seen beside the first")
    parser.add_argument(
        "--sample", default="worst", metavar="N", help="index in the val split, or best or worst by F1 (default: worst)"
    )
    parser.add_argument(
        "--condition",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="conditions beside each other (default: the suite's first)",
    )
    parser.add_argument("--threshold", type=unit_fraction, help="minimum score of detections (default: best F1)")
    parser.add_argument(
        "--attention", nargs="?", const="best", metavar="QUERY",
        help="attention of this query (default: the one with the highest score), drawn in a .png, or in the others "
        "beside that of a few queries which they always have",
    )  # fmt: skip
    parser.add_argument("--infos", help="folder that `aqr-bench data` wrote, if it is no longer where the record says")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write: .html, .rrd or .png")
    args = parser.parse_args(argv)
    if args.out.suffix not in SUFFIXES:
        raise UserError(f"--out {args.out}: its suffix says what to write", f"Give one of {', '.join(SUFFIXES)}.")
    if args.out.suffix == ".png" and args.attention is None:
        raise UserError(f"--out {args.out}: .png is for --attention", "Add --attention, or give .html or .rrd.")
    if args.out.suffix == ".png" and args.against:
        raise UserError(f"--out {args.out}: the figure is of one model", "Leave --against out, or give .html or .rrd.")
    if args.sample not in ("best", "worst"):
        args.sample = _index("--sample", args.sample, "best or worst")
    if args.attention not in (None, "best"):
        args.attention = _index("--attention", args.attention, "no value at all")
    if args.out.suffix == ".rrd":
        from aqr_bench.report.viewer.rrd import require_rerun

        require_rerun()  # before the model is loaded
    return args


def _index(option: str, text: str, instead: str) -> int:
    try:
        return non_negative_int(text)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{option} {text}: {error}", f"Give an index, from 0, or {instead}.") from error


# ---------------------------------------------------------------- which sample


def viewed_conditions(model: ViewedModel, names: Sequence[str] | None) -> list[Condition]:
    """The conditions of these names, of the record's suite or else of the registry."""
    if not names:
        return [next(iter(model.conditions.values()), None) or resolve_condition("clean")]
    return [model.conditions.get(name) or resolve_condition(name) for name in names]


def viewed_sample(
    model: ViewedModel, dataset: Any, condition: Condition, asked: int | str, threshold: float | None
) -> tuple[ChosenSample, float]:
    """The sample and the score threshold to look at it with, see :func:`chosen_samples`."""
    if isinstance(asked, int) and asked >= len(dataset):
        raise UserError(f"--sample {asked}: the split has {len(dataset)} samples", f"Give 0 to {len(dataset) - 1}.")
    if isinstance(asked, int) and threshold is not None:
        return ChosenSample(str(asked), asked, ""), threshold
    ranges = model.evaluator.tier.scoring.class_range()
    samples, threshold = chosen_samples(dataset, model.detections_under(condition), 1, threshold, ranges)
    if isinstance(asked, int):
        return ChosenSample(str(asked), asked, ""), threshold
    if not samples:
        raise UserError(f"--sample {asked}: no sample of the split has an object that counts", "Give --sample N.")
    return next((sample for sample in samples if sample.name == asked), samples[0]), threshold


def threshold_beside(
    dataset: Any, condition: Condition, asked: float | None, first: float, model: ViewedModel
) -> float:
    """The score threshold of a model beside the ``first``: that of the user, else that suits it, else the first's."""
    known = model.detections_under(condition) is not None
    return viewed_sample(model, dataset, condition, 0, asked)[1] if asked is None and known else first


# ---------------------------------------------------------------- what is seen


def _datasets(models: Sequence[ViewedModel], conditions: Sequence[Condition]) -> list[list[Any]]:
    """The data set of each model under each condition. UserError: the models are not of the same samples."""
    datasets = []
    for model in models:
        row = [build_loader(model.evaluator.config, conditions[0], 1).dataset]
        row += [build_loader(model.evaluator.config, condition, 1, row[0]).dataset for condition in conditions[1:]]
        datasets.append(row)
    sizes = {len(row[0]) for row in datasets}
    if len(sizes) > 1 or len({row[0].get_data_info(0)["token"] for row in datasets}) > 1:
        raise UserError("--against: its model was evaluated on other samples", "Give a record of the same data set.")
    return datasets


def _views(
    models: Sequence[ViewedModel],
    datasets: Sequence[Sequence[Any]],
    conditions: Sequence[Condition],
    thresholds: Sequence[float],
    query: int | None,
    index: int,
) -> list[SampleView]:
    """Of one sample: each model, with the score threshold of that model, under each condition; model by model."""
    return [
        observe_sample(model.evaluator, dataset, index, condition, threshold, model.name, query)[0]
        for model, row, threshold in zip(models, datasets, thresholds, strict=True)
        for condition, dataset in zip(conditions, row, strict=True)
    ]


def scene_of(dataset: Any, index: int) -> list[int]:
    """Indices of the samples in the scene of a sample, by time; that sample alone where info files name no scenes."""
    scene = dataset.get_data_info(index).get("scene_token")
    infos = [dataset.get_data_info(i) for i in range(len(dataset))] if scene else []
    members = [i for i, info in enumerate(infos) if info.get("scene_token") == scene]
    return sorted(members, key=lambda i: infos[i].get("timestamp", i)) or [index]


def write_attention(
    model: ViewedModel, dataset: Any, index: int, condition: Condition, query: int | str, out: Path
) -> str:
    """Draw the cross-attention of a query on a sample; returns the caption of the figure."""
    from mmengine.dataset import pseudo_collate

    from aqr_bench.data.dataset import reading_samples
    from aqr_bench.engine.attention_maps import query_attention
    from aqr_bench.report.figures.attention import draw_attention

    with reading_samples(dataset.ann_file):
        packed = dataset[index]
    attention = query_attention(model.evaluator, pseudo_collate([packed]), None if query == "best" else int(query))
    images = packed["inputs"]["img"].numpy() if "img" in packed["inputs"] else None
    points = packed["inputs"]["points"].numpy() if "points" in packed["inputs"] else None
    title = f"{model.name}, {condition.name}, sample {index}"
    return draw_attention(out, attention, images, points, title, packed["data_samples"].metainfo.get("cameras", ()))


if __name__ == "__main__":
    run_main(main)
