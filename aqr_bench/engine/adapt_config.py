"""Any mmdet3d config for nuScenes becomes one of ours: conditions in its test pipeline, hooks that leave a record."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aqr_bench.errors import UserError
from aqr_bench.foreign_files import old_config
from aqr_bench.study.model_files import shipped_models

IMPORTS = ("aqr_bench.data.transforms", "aqr_bench.data.conditions", "aqr_bench.engine.hooks")
PREPROCESSOR = "aqr_bench.cmt.preprocessor"
SWEEPS, CORRECTED_SWEEPS = "LoadPointsFromMultiSweeps", "LoadPoseCorrectedSweeps"
IMAGES = "LoadMultiViewImageFromFiles"
EQUAL_SIZES = {"type": "EqualizeViews"}
META_KEYS = ("token", "sample_idx", "box_type_3d", "box_mode_3d", "lidar2img", "sensor_state", "cameras", "input_proof")
POINT_COLUMNS = 5  # x, y, z, intensity, ring: conditions need the ring


def adapt(config: Any, where: str) -> None:
    """Change a config in place so that it can be trained, evaluated and measured here; ours are left as they are.

    - Both pipelines begin with CheckFrame, which names a damaged file, and a value that is not finite.
    - Test pipeline: SensorCondition behind the loaders, InputFingerprint before packing; the samples say who they are.
    - Sweeps are merged by LoadPoseCorrectedSweeps, in training too: conditions work on separate sweeps, and mmdet3d's
      motion of a sweep is not exact. Frames with too few sweeps are not padded.
    - Images are read as BGR, whatever their files hold. Views of different size are scaled to one, each by itself.
    - Training: a curve, seeds that survive a restart. Validation while training goes: evaluation is a separate job.
    - Where mmcv has no compiled operators, hard voxelisation is spconv's.

    Args:
        where: the config, for messages.
    Raises:
        UserError: what cannot be evaluated under conditions, and what to change.
    """
    config.setdefault("default_scope", "mmdet3d")
    train, test = _dataset(config, "train_dataloader", where), _dataset(config, "test_dataloader", where)
    ours = any(step["type"] == "SensorCondition" for step in test["pipeline"])
    if ours:
        return
    train["pipeline"] = _checked(_with_equal_sizes([_exact(step) for step in train["pipeline"]]))
    test["pipeline"] = with_condition(test["pipeline"], where)
    train["ann_file"], test["ann_file"] = "infos_train.pkl", "infos_val.pkl"
    if config.get("test_evaluator"):
        config.test_evaluator.ann_file = "infos_val.pkl"
    for dataset in (train, test):
        if dataset.get("load_type", "frame_based") != "frame_based" or dataset.get("box_type_3d", "LiDAR") != "LiDAR":
            raise UserError(f"{where}: one sample has to be all sensors of a frame, and boxes those of the LiDAR frame")
        dataset.setdefault("metainfo", {})
        dataset.setdefault("modality", {"use_lidar": True, "use_camera": False})
    for key in ("model", "train_cfg"):
        _part(config, key, where)
    config.update({key: None for key in ("val_cfg", "val_dataloader", "val_evaluator")})
    config.setdefault("test_cfg", {"type": "TestLoop"})
    _add_hooks(config)
    add_imports(config, {"imports": [*IMPORTS, *_without_compiled(config.model, test["pipeline"])]})


def add_imports(config: Any, *further: Mapping[str, Any] | None) -> None:
    """Add those of ``further`` to the ``custom_imports`` of a config, in place, behind its own."""
    entries = [config.get("custom_imports") or {"imports": []}, *(entry for entry in further if entry)]
    lists = [[entry["imports"]] if isinstance(entry["imports"], str) else list(entry["imports"]) for entry in entries]
    names = list(dict.fromkeys(name for names in lists for name in names))
    config.custom_imports = {"imports": names, "allow_failed_imports": False}


def inner_dataset(dataset: Any) -> Any:
    """The config of the data set itself: class-balanced and other wrappers hold it under ``dataset``."""
    while "ann_file" not in dataset and "dataset" in dataset:
        dataset = dataset["dataset"]
    return dataset


def _dataset(config: Any, loader: str, where: str) -> Any:
    if (kind := old_config(config)) is not None and not config.get(loader):
        name = Path(where).stem
        shipped = f"Its counterpart for mmdet3d 1.x ships here: {name}." if name in shipped_models() else kind.remedy
        raise UserError(f"{where} is {kind.name}", shipped)
    if not config.get(loader):
        raise UserError(f"{where}: no {loader}; a config that can be evaluated here has a train and a test loader")
    dataset = inner_dataset(_part(config[loader], "dataset", f"{where}: {loader}"))
    if dataset.get("type") != "NuScenesDataset":
        raise UserError(f"{where}: {loader} reads {dataset.get('type')}; only mmdet3d's NuScenesDataset is scored here")
    for step in _part(dataset, "pipeline", f"{where}: the data set of {loader}"):
        _part(step, "type", f"{where}: {loader}: a step of the pipeline")
    return dataset


def _part(node: Any, key: str, where: str) -> Any:
    if not hasattr(node, "get") or not node.get(key):
        raise UserError(f"{where} has no '{key}'")
    return node[key]


# ---------------------------------------------------------------- the test pipeline


def with_condition(steps: Sequence[dict], where: str) -> list[dict]:
    """A test pipeline of mmdet3d with CheckFrame, SensorCondition and InputFingerprint where they have to stand.

    Raises:
        UserError: something changes points or images before a condition could, or there is test-time augmentation.
    """
    steps = [_exact(inner, test=True) for step in steps for inner in _without_augmentation(step, where)]
    loaders = [i for i, step in enumerate(steps) if _is_loader(step)]
    if not loaders:
        raise UserError(f"{where}: the test pipeline loads neither points nor images")
    head, tail = steps[: loaders[-1] + 1], steps[loaders[-1] + 1 :]
    sweeps = [step for step in head if step["type"] == CORRECTED_SWEEPS]
    head = [step for step in head if step["type"] != CORRECTED_SWEEPS]
    for step in head:
        _check_raw(step, where)
    merged = [step for step in steps if step["type"] == CORRECTED_SWEEPS]
    condition = {"type": "SensorCondition", "name": "clean", "seed": 0}
    condition["sweeps_num"] = merged[0].get("sweeps_num", 10) if merged else 0
    projections = [] if "AddProjections" in [s["type"] for s in steps] or not _has_images(head) else ["AddProjections"]
    packing = [i for i, step in enumerate(tail) if step["type"] == "Pack3DDetInputs"]
    if len(packing) != 1:
        raise UserError(f"{where}: the test pipeline needs exactly one Pack3DDetInputs, it has {len(packing)}")
    at = packing[0]
    return [
        *_checked(head),
        condition,
        *sweeps,
        *([EQUAL_SIZES] if _pads(head) else []),
        *({"type": name} for name in projections),
        *tail[:at],
        {"type": "InputFingerprint"},
        _packed(tail[at]),
        *tail[at + 1 :],
    ]


def _without_augmentation(step: dict, where: str) -> list[dict]:
    """The steps inside mmdet3d's MultiScaleFlipAug3D, which its configs have also where they augment nothing."""
    if step["type"] != "MultiScaleFlipAug3D":
        return [dict(step)]
    ratios, scales = step.get("pts_scale_ratio", 1), step.get("img_scale")
    if step.get("flip") or isinstance(scales, list) or ratios not in (1, 1.0, [1], [1.0]):
        raise UserError(f"{where}: test-time augmentation (MultiScaleFlipAug3D) is not supported; set flip=False")
    # Without a flip, RandomFlip3D does nothing.
    return [dict(inner) for inner in step["transforms"] if inner["type"] != "RandomFlip3D"]


def _exact(step: dict, test: bool = False) -> dict:
    if step["type"] == IMAGES:  # grey and RGBA files become BGR, as conditions and preprocessors expect
        return {"color_type": "color_ignore_orientation", **step}
    if step["type"] != SWEEPS:
        return dict(step)
    changed = {**step, "type": CORRECTED_SWEEPS}
    return {**changed, "test_mode": True} if test else changed


def _checked(steps: Sequence[dict]) -> list[dict]:
    """The steps behind CheckFrame for the sensors that they load; as they are where they have one."""
    if any(step["type"] == "CheckFrame" for step in steps):
        return list(steps)
    points = [step for step in steps if step["type"] == "LoadPointsFromFile"]
    check = {"type": "CheckFrame", "lidar": bool(points), "cameras": _has_images(steps)}
    if points:
        check["load_dim"] = points[0].get("load_dim", 6)  # mmdet3d's default
    return [check, *steps]


def _is_loader(step: dict) -> bool:
    return step["type"] == "LoadPointsFromFile" or ("Load" in step["type"] and "Image" in step["type"])


def _has_images(steps: Sequence[dict]) -> bool:
    return any("Load" in step["type"] and "Image" in step["type"] for step in steps)


def _pads(steps: Sequence[dict]) -> bool:
    """Whether the images are loaded by another loader than ours, as those of mmdet3d that pad them to one size."""
    return _has_images(steps) and all(step["type"] != "LoadViewImages" for step in steps)


def _with_equal_sizes(steps: Sequence[dict]) -> list[dict]:
    """A training pipeline with the views scaled to one size directly behind their loader."""
    loaders = [i for i, step in enumerate(steps) if _has_images([step])]
    if not loaders or not _pads(steps):
        return list(steps)
    return [*steps[: loaders[-1] + 1], EQUAL_SIZES, *steps[loaders[-1] + 1 :]]


def _check_raw(step: dict, where: str) -> None:
    if not _is_loader(step) and step["type"] != "CheckFrame":
        raise UserError(f"{where}: {step['type']} stands before a loader of the test pipeline; put the loaders first")
    if step["type"] != "LoadPointsFromFile":
        return
    dims = step.get("use_dim", [0, 1, 2])
    columns = dims if isinstance(dims, int) else len(dims)
    if columns != POINT_COLUMNS or step.get("norm_intensity") or step.get("shift_height"):
        raise UserError(
            f"{where}: LoadPointsFromFile has to load the five columns as they are (load_dim=5, use_dim=5, no "
            "norm_intensity): conditions need intensity and ring. Drop columns in a later step"
        )


def _packed(step: dict) -> dict:
    keys = step.get("meta_keys")
    if keys is None:
        import inspect

        from mmdet3d.datasets.transforms import Pack3DDetInputs

        keys = inspect.signature(Pack3DDetInputs).parameters["meta_keys"].default
    return {**step, "meta_keys": tuple(dict.fromkeys([*keys, *META_KEYS]))}


# ---------------------------------------------------------------- training and model


def _add_hooks(config: Any) -> None:
    """LossCurve, which the record holds; Progress; and seeds, that a restart and any number of workers leave alone."""
    loop = config.train_cfg
    by_epoch = loop.get("by_epoch", loop.get("type") == "EpochBasedTrainLoop")
    hooks = list(config.get("custom_hooks") or [])
    present = {hook["type"] for hook in hooks}
    if not present & {"SeedIterations", "SeedEpochs"}:
        hooks.append({"type": "SeedEpochs" if by_epoch else "SeedIterations", "seed": 0})
    hooks += [{"type": name} for name in ("LossCurve", "Progress") if name not in present]
    config.custom_hooks = hooks


def _without_compiled(model: Any, steps: Sequence[dict]) -> tuple[str, ...]:
    """Put spconv's voxelisation in the place of mmcv's, where that is not compiled; returns what is to be imported."""
    from aqr_bench.compat import has_compiled_mmcv

    part = model.get("data_preprocessor") or {}
    hard = part.get("voxel") and part.get("voxel_type", "hard") == "hard"
    if part.get("type") != "Det3DDataPreprocessor" or not hard or has_compiled_mmcv():
        return ()
    text = "mmcv has no compiled operators here: points are voxelised by spconv (SpconvDataPreprocessor)"
    print(text, file=sys.stderr)
    merged = [step for step in steps if step["type"] == CORRECTED_SWEEPS]
    columns = len(merged[-1].get("use_dim", (0, 1, 2, 4))) if merged else POINT_COLUMNS
    rest = {key: value for key, value in part.items() if key not in ("voxel", "voxel_type", "voxel_layer")}
    layer = {**part["voxel_layer"], "num_point_features": columns}
    model["data_preprocessor"] = {**rest, "type": "SpconvDataPreprocessor", "voxel_layer": layer}
    return (PREPROCESSOR,)
