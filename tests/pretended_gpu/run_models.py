"""Runs the cases of model_cases.py on the pretended GPU: RUNNER OUT.json [NAME ...]."""

from __future__ import annotations

import copy
import functools
from typing import Any

import batch
import torch
from cuda_layout import cuda_layout
from model_cases import AQR, DETECTORS, HEADS, WAITS, DetectorCase, HeadCase, WaitCase
from pretended_cuda import counters, cpu_alone
from torch import Tensor, nn

from aqr_bench import compat
from aqr_bench.cost import full_head

OBJECTS, CAMERAS = 7, 3  # per sample; 28 denoising queries
LIMITS = {"losses": 5e-6, "gradients": 1e-5, "scores": 1e-5, "boxes": 1e-4}


# ---------------------------------------------------------------------- heads


def head_case(case: HeadCase) -> dict[str, Any]:
    """Losses with denoising and matching, backward pass and decoding, held against the CPU."""
    config, head = small_head(case)
    reference = copy.deepcopy(head)
    cpu, gpu = (full_head.make_inputs(config, 2, truth=True, device=device) for device in ("cpu", "cuda"))
    for index, sample in enumerate([*cpu.samples, *gpu.samples]):
        sample.set_metainfo({"sensor_state": index % 2})
    head = head.to("cuda").train()
    dtype = getattr(torch, case.precision)
    torch.manual_seed(5)
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        losses = head.loss(gpu.points, gpu.images, gpu.samples)
    sum(losses.values()).backward()
    with torch.no_grad():
        detections = head.eval().predict(gpu.points, gpu.images, gpu.samples)
    with cpu_alone():
        torch.manual_seed(5)
        expected = reference.train().loss(cpu.points, cpu.images, cpu.samples)
        sum(expected.values()).backward()
        with torch.no_grad():
            expected_detections = reference.eval().predict(cpu.points, cpu.images, cpu.samples)
    errors = {"losses": loss_error(losses, expected), "gradients": gradient_error(head, reference)}
    return within(errors | box_errors(detections, expected_detections))


def small_head(case: HeadCase) -> tuple[Any, nn.Module]:
    """The quick config, shrunk, and its head; a new router gives no bias, so it gets random weights."""
    config = full_head.load_model_config("cmt_aqr_quick")
    head = config.model.pts_bbox_head
    config.model.test_cfg.pts.grid_size = config.model.train_cfg.pts.grid_size = [64, 64, 1]
    for step in config.test_dataloader.dataset.pipeline:
        if step["type"] == "ResizeViews":
            step["size"] = (48, 88)
    attentions = head.transformer.decoder.transformerlayers.attn_cfgs
    if case.kind == "lidar":
        head.type = "CmtLidarHead"
        head.pop("image_points")
        head.locality.pop("depth_sigma")
        head.separate_head.final_kernel = 3
        attentions[1].offset_values = True
    if case.kind == "cameras":
        head.type = "CmtImageHead"
    changes: dict[str, Any] = {"aqr": case.aqr or {}, "attention_backend": case.backend, "num_query": case.queries}
    if not case.locality:
        changes |= {"locality": {}, "refine_reference": False, "image_points": {}}
        for attention in attentions:
            attention.pop("offset_values", None)
    built = full_head.build_head(config, changes)
    wake_router(built)
    return config, built


def wake_router(head: Any) -> None:
    """Random weights for the router's output layer, which starts at zero."""
    router = None if head.aqr is None else head.aqr.router
    if getattr(router, "output", None) is not None:
        nn.init.normal_(router.output.weight, std=0.5, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------------- detectors


def detector_case(case: DetectorCase) -> dict[str, Any]:
    """The whole detector: preprocessing, voxels, backbones, losses, gradients and detections as on the CPU."""
    model = quick_detector(case.changes)
    reference = copy.deepcopy(model)
    model = model.to("cuda")
    losses, detections = losses_and_detections(model)
    with cpu_alone(), cuda_layout():
        expected_losses, expected_detections = losses_and_detections(reference)
    errors = {"losses": loss_error(losses, expected_losses), "gradients": gradient_error(model, reference)}
    return within(errors | box_errors(detections, expected_detections))


def quick_detector(changes: dict[str, Any]) -> nn.Module:
    """The quick tier's detector with initial weights."""
    from mmdet3d.registry import MODELS

    config = quick_config()
    config.merge_from_dict(changes)
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    wake_router(model.pts_bbox_head)
    return model


def quick_config() -> Any:
    """The quick tier's config; registers the project's modules."""
    from mmengine.registry import init_default_scope

    import aqr_bench.cmt  # noqa: F401

    init_default_scope("mmdet3d")
    return full_head.load_model_config("cmt_aqr_quick")


def losses_and_detections(model: nn.Module) -> tuple[dict[str, Tensor], list[Any]]:
    """Losses and detections of one batch, with the gradients left in the parameters."""
    torch.manual_seed(5)
    losses = model.train()(**model.data_preprocessor(random_batch(), True), mode="loss")
    sum(losses.values()).backward()
    with torch.no_grad():
        return losses, [sample.pred_instances_3d for sample in model.eval().test_step(random_batch())]


def random_batch(points: int = 600, size: tuple[int, int] = (96, 176)) -> dict[str, Any]:
    """Two collated samples on the CPU, as a data loader gives them: random clouds, images and boxes."""
    from mmdet3d.structures import LiDARInstance3DBoxes
    from mmengine.structures import InstanceData

    config, g = quick_config(), torch.Generator().manual_seed(3)
    samples = full_head.make_inputs(config, 2, truth=True).samples
    for sample in samples:
        sample.set_metainfo({"box_type_3d": LiDARInstance3DBoxes, "img_shape": [size] * CAMERAS})
        truth = sample.gt_instances_3d
        sample.gt_instances_3d = InstanceData(bboxes_3d=truth.bboxes_3d[:OBJECTS], labels_3d=truth.labels_3d[:OBJECTS])
    spread = torch.tensor([60.0, 60.0, 6.0, 255.0, 0.0])
    clouds = [(torch.rand(points, 5, generator=g) - torch.tensor([0.5, 0.5, 0.7, 0, 0])) * spread for _ in samples]
    images = [torch.randint(0, 255, (CAMERAS, 3, *size), generator=g, dtype=torch.uint8) for _ in samples]
    return {"inputs": {"points": clouds, "img": images}, "data_samples": samples}


# ---------------------------------------------------------------------- host waits


def wait_case(case: WaitCase) -> dict[str, Any]:
    """Waits and uploads of a training step and of an inference, by function."""
    train, infer = detector_steps() if case.detector else head_steps(case)
    facts: dict[str, Any] = {}
    for name, step in (("training", train), ("inference", infer)):
        with counters.counted() as events:
            step()
        facts[name] = {kind: events.by_function(kind) for kind in ("waits", "uploads")}
        facts[name]["lines"] = [f"{n} {what} at {place}" for (what, place), n in events.waits.most_common()]
    return facts


def head_steps(case: WaitCase) -> tuple[Any, Any]:
    """A training step (losses and gradients) and an inference of the r50 config's head."""
    config = full_head.load_model_config("cmt_voxel0100_r50_800x320_cbgs")
    config.model.test_cfg.pts.grid_size = config.model.train_cfg.pts.grid_size = [128, 128, 40]
    for step in config.test_dataloader.dataset.pipeline:
        if step["type"] == "ResizeCropFlipImage":
            step["data_aug_conf"]["final_dim"] = (64, 160)
    config.model.pts_bbox_head.update(num_query=60, bev_range=None, scalar=4)
    head = full_head.build_head(config, {"aqr": case.aqr or {}, "attention_backend": case.backend})
    wake_router(head)
    head = head.to("cuda")
    inputs = full_head.make_inputs(config, 2, truth=True, device="cuda")

    def train() -> None:
        torch.manual_seed(5)
        sum(head.train().loss(inputs.points, inputs.images, inputs.samples).values()).backward()

    def infer() -> None:
        with torch.no_grad():
            head.eval().predict(inputs.points, inputs.images, inputs.samples)

    return train, infer


def detector_steps() -> tuple[Any, Any]:
    """A training step with the optimiser and an inference of the quick tier's base model, from a batch on the CPU."""
    from mmengine.optim import build_optim_wrapper

    model = quick_detector({AQR: None}).to("cuda")
    wrapper = build_optim_wrapper(model, dict(quick_config().optim_wrapper))

    def train() -> None:
        torch.manual_seed(5)
        model.train().train_step(random_batch(), wrapper)

    return train, lambda: infer_with(model)


def infer_with(model: nn.Module) -> None:
    """Detections of a random batch."""
    with torch.no_grad():
        model.eval().test_step(random_batch())


# ---------------------------------------------------------------------- comparison


def loss_error(losses: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest relative error of a loss."""
    assert losses.keys() == expected.keys(), sorted(losses.keys() ^ expected.keys())
    return max(
        abs(loss.item() - expected[name].item()) / (abs(expected[name].item()) + 1e-6) for name, loss in losses.items()
    )


def gradient_error(model: nn.Module, reference: nn.Module) -> float:
    """Length of the difference over the length of the reference, all gradients as one vector."""
    difference = length = 0.0
    for (name, parameter), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None), f"{name} has a gradient on one device only"
        if other.grad is not None:
            assert parameter.grad.device.type == "cuda", f"the gradient of {name} is on {parameter.grad.device}"
            difference += (parameter.grad.cpu().double() - other.grad.double()).square().sum().item()
            length += other.grad.double().square().sum().item()
    return (difference / length) ** 0.5


def box_errors(detections: list[Any], expected: list[Any]) -> dict[str, float]:
    """Largest error of scores and of boxes (metres, radians); the order of equal scores may differ."""
    errors = {"scores": 0.0, "boxes": 0.0}
    for own, other in zip(detections, expected, strict=True):
        assert own.bboxes_3d.tensor.device.type == own.scores_3d.device.type == "cuda"
        scores, boxes = own.scores_3d.cpu(), own.bboxes_3d.tensor.cpu()
        assert len(scores) == len(other.scores_3d), f"{len(scores)} detections, {len(other.scores_3d)} on the CPU"
        errors["scores"] = max(errors["scores"], (scores - other.scores_3d).abs().max().item())
        distance = (boxes[:, None] - other.bboxes_3d.tensor).abs().amax(-1).amin(1)
        errors["boxes"] = max(errors["boxes"], distance.max().item())
    return errors


def within(errors: dict[str, float]) -> dict[str, Any]:
    """The errors, if none is over its limit."""
    over = {name: error for name, error in errors.items() if not error <= LIMITS[name]}
    assert not over, f"not what the CPU computes: errors {over}, limits {LIMITS}"
    return errors


if __name__ == "__main__":
    compat.prepare()
    torch.set_num_threads(1)
    full_head.OBJECTS, full_head.CAMERAS = OBJECTS, CAMERAS
    cases = {case.name: functools.partial(head_case, case) for case in HEADS}
    cases |= {case.name: functools.partial(detector_case, case) for case in DETECTORS}
    cases |= {case.name: functools.partial(wait_case, case) for case in WAITS}
    raise SystemExit(batch.main(cases))
