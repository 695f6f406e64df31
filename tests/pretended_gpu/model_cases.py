"""The heads and models that run on the pretended GPU, as data; run_models.py builds and runs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CROSS = {"site": "cross", "bev_window": 5, "camera_window": 5, "router": "learned"}
LOCAL_ROUTER = {**CROSS, "router_bev_window": 5, "router_camera_window": 15}
BACKENDS = ("window", "masked", "literal")


@dataclass(frozen=True)
class HeadCase:
    """A small head of two layers.

    Args:
        name: of the test.
        aqr: arguments of AQR; None for plain CMT.
        backend: attention backend.
        kind: fusion, lidar or cameras.
        precision: dtype of an enclosing autocast, or float32 for none.
        locality: with CMT-AQR's locality prior and image points.
        queries: number of queries, without the 28 of denoising.
    """

    name: str
    aqr: dict[str, Any] | None = None
    backend: str = "auto"
    kind: str = "fusion"
    precision: str = "float32"
    locality: bool = True
    queries: int = 36


# Denoising adds 28 queries: self-attention has a mask with rows of 65 and 66 numbers.
ALIGNMENT = [
    HeadCase(f"self-attention rows of {queries + 28}, {backend}", {**CROSS, "site": "both"}, backend,
             locality=False, queries=queries)
    for queries, backend in ((37, "window"), (38, "window"), (37, "masked"))
]  # fmt: skip
HEADS = [
    *(HeadCase(f"{kind}, plain", kind=kind) for kind in ("fusion", "lidar", "cameras")),
    HeadCase("fusion, cross, auto", CROSS),
    HeadCase("fusion, cross, window", CROSS, "window"),
    HeadCase("fusion, cross, masked", CROSS, "masked"),
    HeadCase("lidar, cross, masked", CROSS, "masked", "lidar"),
    HeadCase("cameras, cross, window", CROSS, "window", "cameras"),
    HeadCase("fusion, self, auto", {**CROSS, "site": "self"}),
    HeadCase("fusion, both, auto", {**CROSS, "site": "both"}),
    *(HeadCase(f"fusion, both, {backend}", {**CROSS, "site": "both"}, backend) for backend in BACKENDS),
    HeadCase("fusion, no locality, cross, auto", CROSS, locality=False),
    HeadCase("fusion, hard windows", {**CROSS, "profile": "hard"}),
    HeadCase("fusion, hard windows, masked", {**CROSS, "profile": "hard"}, "masked"),
    HeadCase("fusion, gaussian, oracle router", {**CROSS, "profile": "gaussian", "router": "oracle"}, "window"),
    HeadCase("fusion, supervised router", {**CROSS, "supervision": "modality"}),
    HeadCase("fusion, local router", LOCAL_ROUTER, "window"),
    HeadCase("fusion, routing mask, learned", {"site": "cross", "routing": "mask", "supervision": "modality"}),
    HeadCase("fusion, routing mask, oracle", {"site": "cross", "routing": "mask", "router": "oracle"}),
    HeadCase("fusion, plain, autocast float16", precision="float16"),
    *(HeadCase(f"fusion, cross, autocast {dtype}", CROSS, precision=dtype) for dtype in ("float16", "bfloat16")),
    *ALIGNMENT,
]


@dataclass(frozen=True)
class DetectorCase:
    """The quick tier's whole detector on random points and images. ``changes``: dotted keys of its config."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)


AQR = "model.pts_bbox_head.aqr"
DETECTORS = [DetectorCase("detector, cross", {AQR: CROSS})]


@dataclass(frozen=True)
class WaitCase:
    """A model whose host waits are counted, in one training step and in one inference.

    The head is that of the published r50 config: six layers, two samples, small maps (waits do not depend on sizes).
    """

    name: str
    aqr: dict[str, Any] | None = None
    backend: str = "auto"
    detector: bool = False


WAITS = [
    WaitCase("head, plain"),
    WaitCase("head, cross, masked", {"site": "cross"}, "masked"),
    WaitCase("head, cross, window", {"site": "cross"}, "window"),
    WaitCase("head, constant router, masked", {"site": "cross", "router": "constant"}, "masked"),
    WaitCase("head, pooled router, routing mask", {"routing": "mask", "supervision": "modality", "router_pool": 2}),
    WaitCase("quick detector, plain", detector=True),
]
