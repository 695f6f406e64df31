"""Facts that stand in several parts of a config: classes, point cloud range, voxels, image size, sweeps, box limit.

A fact is compared wherever a known key has it, in the model and in both pipelines; unknown keys are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqr_bench.console import print_warning
from aqr_bench.data.infos import INFO_CLASSES
from aqr_bench.engine.adapt_config import CORRECTED_SWEEPS, inner_dataset
from aqr_bench.errors import UserError, nearest, quoted

MAX_BOXES_PER_SAMPLE = 500  # of a nuScenes submission
DEFAULT_SWEEPS = 10  # of mmdet3d's LoadPointsFromMultiSweeps and ours
HEADS = ("pts_bbox_head", "bbox_head")
MIDDLE_ENCODERS = ("pts_middle_encoder", "middle_encoder")
CONDITIONS = ("SensorCondition", "RandomCondition")
VOXEL_LAYERS = ("pts_voxel_layer", "voxel_layer", "voxelize_cfg")


@dataclass(frozen=True)
class ConfigValue:
    """A value and the dotted key of the config that has it, as an override names it."""

    key: str
    value: Any


def check_facts(config: Mapping[str, Any], where: str | Path) -> None:
    """Compare what several parts of a config state, and with what nuScenes allows.

    Args:
        config: as a plain mapping, adapted (:func:`aqr_bench.engine.adapt_config.adapt`).
        where: the config, study or tier, for messages.
    Raises:
        UserError: two values differ; names the keys, the values, and all keys that have to change together.
    """
    _check_classes(config, where)
    for name, items in (
        ("point cloud range", range_values(config)),
        ("voxel size", voxel_values(config)),
        ("number of BEV cells (x, y)", grid_values(config)),
        ("image size (height, width)", image_values(config)),
        ("number of LiDAR sweeps", sweep_values(config)),
    ):
        _check_equal(name, items, where)
    _check_box_limit(config, where)


def detection_classes(config: Mapping[str, Any]) -> list[str]:
    """The class names of the test data set: label 0, 1, ... of the detections."""
    return list(_dataset_classes(inner_dataset(config["test_dataloader"]["dataset"])))


# ---------------------------------------------------------------- where facts are


def range_values(config: Mapping[str, Any]) -> list[ConfigValue]:
    """(x0, y0, z0, x1, y1, z1) in metres; some heads have (x0, y0) alone."""
    return _numbers(config, ("point_cloud_range", "pc_range"))


def voxel_values(config: Mapping[str, Any]) -> list[ConfigValue]:
    """(x, y, z) in metres; some heads have (x, y) alone."""
    return _numbers(config, ("voxel_size",))


def grid_values(config: Mapping[str, Any]) -> list[ConfigValue]:
    """Cells of the BEV grid along x and y.

    That of a sparse encoder is not compared with range and voxel size: it may be larger, or smaller on purpose.
    """
    model, items = config["model"], []
    for name in MIDDLE_ENCODERS:
        encoder = model.get(name)
        kind = encoder.get("type") if isinstance(encoder, Mapping) else None
        if kind == "PointPillarsScatter" and _is_numbers(encoder.get("output_shape")):
            items.append(ConfigValue(f"model.{name}.output_shape", list(encoder["output_shape"])[::-1]))
            items += _cells_of_voxels(model)
        elif kind == "SparseEncoder" and _is_numbers(encoder.get("sparse_shape")):
            items.append(ConfigValue(f"model.{name}.sparse_shape", list(encoder["sparse_shape"])[:0:-1]))
    sizes = [p for p in _walk(model, "model") if p.key.endswith(".grid_size") and _is_numbers(p.value)]
    return items + [ConfigValue(p.key, list(p.value)[:2]) for p in sizes]


def _cells_of_voxels(model: Mapping[str, Any]) -> list[ConfigValue]:
    for item in _walk(model, "model"):
        layer = item.value
        if item.key.rpartition(".")[2] in VOXEL_LAYERS and isinstance(layer, Mapping):
            limits, size = layer.get("point_cloud_range"), layer.get("voxel_size")
            if _is_numbers(limits) and _is_numbers(size) and len(limits) == 6 and all(s > 0 for s in size[:2]):
                cells = [round((limits[i + 3] - limits[i]) / size[i]) for i in (0, 1)]
                return [ConfigValue(f"{item.key} (range / voxel_size)", cells)]
    return []


def image_values(config: Mapping[str, Any]) -> list[ConfigValue]:
    """(height, width) in pixels of what enters the network, by steps that give all images one size."""
    items = []
    for key, step in _steps(config):
        option, nested = "size" if step.get("type") == "ResizeViews" else "final_dim", step.get("data_aug_conf")
        options, inner = (nested, "data_aug_conf.") if isinstance(nested, Mapping) else (step, "")
        if _is_numbers(options.get(option)):
            items.append(ConfigValue(f"{key}.{inner}{option}", list(options[option])))
    return items


def sweep_values(config: Mapping[str, Any]) -> list[ConfigValue]:
    """Sweeps beside the keyframe, of each pipeline that loads points, and of the condition in front of them."""
    items = []
    for key, pipeline in _pipelines(config):
        named = list(_named_steps(pipeline, key))
        loads = any(step.get("type") == "LoadPointsFromFile" for _, step in named)
        merged = [ConfigValue(f"{k}.sweeps_num", s.get("sweeps_num", DEFAULT_SWEEPS)) for k, s in named if _merges(s)]
        items += merged or ([ConfigValue(f"{key} (no {CORRECTED_SWEEPS})", 0)] if loads else [])
        conditions = [(k, s) for k, s in named if s.get("type") in CONDITIONS and "sweeps_num" in s]
        items += [ConfigValue(f"{k}.sweeps_num", s["sweeps_num"]) for k, s in conditions if merged]
    return items


def _merges(step: Mapping[str, Any]) -> bool:
    return step.get("type") in (CORRECTED_SWEEPS, "LoadPointsFromMultiSweeps")


# ---------------------------------------------------------------- classes


def _check_classes(config: Mapping[str, Any], where: str | Path) -> None:
    loaders = [(name, inner_dataset(config[name]["dataset"])) for name in ("test_dataloader", "train_dataloader")]
    (_, test), (_, train) = loaders
    reference = ConfigValue(f"{_dataset_key(config, 'test_dataloader')}.metainfo.classes", _dataset_classes(test))
    for name in reference.value:
        if name not in INFO_CLASSES:
            raise UserError(f"{where}: {reference.key}: '{name}' is no class of nuScenes{nearest(name, INFO_CLASSES)}")
    _compare_classes(reference, _class_values(config, train), where)
    for item in _class_counts(config["model"]):
        if item.value != len(reference.value):
            _raise_different("number of classes", item, ConfigValue(reference.key, len(reference.value)), where)
    if absent := [name for name in INFO_CLASSES if name not in reference.value]:
        print_warning(f"{where}: not among the classes, and so AP 0 in the mAP: {', '.join(absent)}")


def _compare_classes(reference: ConfigValue, items: Iterable[ConfigValue], where: str | Path) -> None:
    for item in items:
        same = item.value == reference.value
        if "ObjectNameFilter" in item.key:  # it counts its classes, their order is nothing to it
            same = sorted(item.value) == sorted(reference.value)
        elif "db_sampler" in item.key:  # may leave classes out at the end of the list
            same = item.value == reference.value[: len(item.value)]
        if not same:
            _raise_different("class list", item, reference, where)


def _class_values(config: Mapping[str, Any], train: Mapping[str, Any]) -> Iterator[ConfigValue]:
    key = _dataset_key(config, "train_dataloader")
    yield ConfigValue(f"{key}.metainfo.classes", _dataset_classes(train))
    for item in _walk(train["pipeline"], f"{key}.pipeline"):
        if item.key.endswith(("ObjectNameFilter.classes", "db_sampler.classes")) and _is_names(item.value):
            yield ConfigValue(item.key, list(item.value))
    for name, head in _heads(config["model"]):
        names = [task.get("class_names") for task in _tasks(head)]
        if names and all(map(_is_names, names)):
            yield ConfigValue(f"model.{name}.tasks (class_names)", [name for task in names for name in task])


def _class_counts(model: Mapping[str, Any]) -> Iterator[ConfigValue]:
    auxiliary = model.get("auxiliary")
    if isinstance(auxiliary, Mapping) and isinstance(auxiliary.get("num_classes"), int):
        yield ConfigValue("model.auxiliary.num_classes", auxiliary["num_classes"])
    for name, head in _heads(model):
        coder = head.get("bbox_coder")
        for key, part in ((f"model.{name}", head), (f"model.{name}.bbox_coder", coder)):
            if isinstance(part, Mapping) and isinstance(part.get("num_classes"), int):
                yield ConfigValue(f"{key}.num_classes", part["num_classes"])
        counts = [task.get("num_class") for task in _tasks(head)]
        if counts and None not in counts:
            yield ConfigValue(f"model.{name}.tasks (num_class)", sum(counts))


def _heads(model: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, model[name]) for name in HEADS if isinstance(model.get(name), Mapping))


def _tasks(head: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tasks = head.get("tasks")
    return [t for t in tasks if isinstance(t, Mapping)] if isinstance(tasks, list | tuple) else []


def _dataset_classes(dataset: Mapping[str, Any]) -> list[str]:
    """The names in the order of their labels; mmdet3d's own where the config has none."""
    return list((dataset.get("metainfo") or {}).get("classes") or INFO_CLASSES)


# ---------------------------------------------------------------- limits of a submission


def _check_box_limit(config: Mapping[str, Any], where: str | Path) -> None:
    """The detector cannot give more boxes than a submission may have, as far as the config says how many."""
    model = config["model"]
    test = model.get("test_cfg") or {}
    test_key, test = ("test_cfg.pts", test["pts"]) if isinstance(test.get("pts"), Mapping) else ("test_cfg", test)
    if "post_max_size" in test:  # suppression of overlapping boxes, after which fewer are left
        return
    items = [ConfigValue(f"model.{test_key}.max_num", test.get("max_num"))]
    items += [
        ConfigValue(f"model.{name}.bbox_coder.max_num", head["bbox_coder"].get("max_num"))
        for name, head in _heads(model)
        if isinstance(head.get("bbox_coder"), Mapping)
    ]
    for item in items:
        if isinstance(item.value, int) and item.value > MAX_BOXES_PER_SAMPLE:
            raise UserError(
                f"{where}: {item.key} is {item.value}, but nuScenes allows {MAX_BOXES_PER_SAMPLE} boxes per sample",
                f"Set {item.key} to {MAX_BOXES_PER_SAMPLE} or less.",
            )


# ---------------------------------------------------------------- comparing


def _check_equal(name: str, items: Sequence[ConfigValue], where: str | Path) -> None:
    """UserError where two values differ; of values of different lengths, what both have is compared."""
    for item in items:
        other = next((other for other in items if not _agree(item.value, other.value)), None)
        if other is not None:
            odd, usual = sorted((item, other), key=lambda p: sum(_agree(p.value, q.value) for q in items))
            others = [p.key for p in items if not _agree(p.value, odd.value)]
            _raise_different(name, odd, usual, where, others)


def _raise_different(
    name: str, item: ConfigValue, other: ConfigValue, where: str | Path, others: Sequence[str] = ()
) -> None:
    both = f"{item.key} is {quoted(item.value, 160)}, but {other.key} is {quoted(other.value, 160)}"
    keys = ", ".join(others or [other.key])
    raise UserError(f"{where}: the {name} differs: {both}", f"Change them together: {item.key}, and {keys}.")


def _agree(a: Any, b: Any) -> bool:
    if isinstance(a, Sequence) and isinstance(b, Sequence):
        return all(abs(x - y) <= 1e-6 for x, y in zip(a, b, strict=False))
    return a == b


def _numbers(config: Mapping[str, Any], names: Sequence[str]) -> list[ConfigValue]:
    parts = [(config["model"], "model"), *((pipeline, key) for key, pipeline in _pipelines(config))]
    walked = [item for part, key in parts for item in _walk(part, key)]
    return [p for p in walked if p.key.rpartition(".")[2] in names and _is_numbers(p.value)]


def _pipelines(config: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
    for loader in ("train_dataloader", "test_dataloader"):
        pipeline = inner_dataset(config[loader]["dataset"])["pipeline"]
        yield f"{_dataset_key(config, loader)}.pipeline", pipeline


def _steps(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, pipeline in _pipelines(config):
        yield from _named_steps(pipeline, key)


def _named_steps(pipeline: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The steps of a pipeline, and those inside of others, with their keys."""
    for item in _walk(pipeline, key):
        if isinstance(item.value, Mapping) and "type" in item.value:
            yield item.key, item.value


def _dataset_key(config: Mapping[str, Any], loader: str) -> str:
    key, dataset, inner = f"{loader}.dataset", config[loader]["dataset"], inner_dataset(config[loader]["dataset"])
    while dataset is not inner:
        key, dataset = f"{key}.dataset", dataset["dataset"]
    return key


def _walk(node: Any, key: str) -> Iterator[ConfigValue]:
    """Everything inside a part of a config; an element of a list by its type, or by its index where that is no name."""
    entries: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, Mapping):
        entries = node.items()
    elif isinstance(node, list | tuple):
        types = [element.get("type") if isinstance(element, Mapping) else None for element in node]
        named = (kind if isinstance(kind, str) and types.count(kind) == 1 else i for i, kind in enumerate(types))
        entries = zip(named, node, strict=True)
    for name, value in entries:
        yield ConfigValue(f"{key}.{name}", value)
        if not isinstance(value, str):
            yield from _walk(value, f"{key}.{name}")


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, int | float) for v in value)


def _is_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
