"""What the rows of the suite nuscenes_c share: five severities, the places in the source, common deviations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aqr_bench.corruptions.registry import Apply, Corruption

SEVERITIES = range(1, 6)
REPOSITORY = "nuScenes-C (arXiv:2303.11040): thu-ml/3D_Corruptions_AD"
LIDAR_FILE = "LiDAR_corruptions.py"
PIPELINES = "TransFusion/mmdet3d/datasets/pipelines"
CAMERA_FILE = f"{PIPELINES}/Camera_corruptions.py"
BOXES_FILE = f"{PIPELINES}/utils/bbox_util.py"

SEEDING = (
    "drawn by a hash of seed, condition, severity, sample and sensor; the source's global generators make results "
    "depend on the order of samples and on the number of workers"
)
SWEEPS = "acts on each sweep, with separate random numbers, before the merge; the source acts on the merged cloud"
XYZ_ONLY = "moves x, y and z alone; the source adds metres to intensity and time lag, too"
GRAVITY = (
    "boxes have their gravity centre in the middle; the source reads mmdet3d's bottom centre as one, and as shipped "
    "fails on nuScenes' five columns"
)
FIRST_BOX = "a point in several boxes belongs to the first; in the source boxes act one after the other"
WARP = (
    "an affine map that fits all 8 corners, where the source bends the image by thin-plate splines through the 4 or 6 "
    "near ones; boxes partly outside the image are warped too, as far as it goes"
)
SAME_DRAWS = (
    "LiDAR and cameras share the random numbers, box by box, in the box's axes; the source draws anew for the image, "
    "once for all boxes, in the LiDAR's axes"
)
VERSION = "numbers of imagecorruptions 1.1.2; the source does not pin a version, and later ones have other levels"
ROLES = (
    "front and back cameras zoom and those at the sides blur along a line, as the paper says and by the camera's name; "
    "the source's TransFusion pipeline has them the wrong way round"
)

ALL_SWEEPS = {"sweeps": "all"}
DIVISORS = (30, 25, 20, 15, 10)  # impulse: one point in so many


def entries(
    name: str,
    modality: str,
    summary: str,
    apply: Apply,
    source: str,
    deviations: Sequence[str] = (),
    needs: Sequence[str] = (),
    fixed: Mapping[str, Any] | None = None,
    **by_severity: Sequence[Any],
) -> list[Corruption]:
    """Five severities: parameters that change with the severity as sequences of five, the others in ``fixed``."""
    return [
        Corruption(
            name,
            "nuscenes_c",
            severity,
            modality,
            summary,
            {**{key: values[severity - 1] for key, values in by_severity.items()}, **(fixed or {})},
            f"{REPOSITORY}:{source}",
            apply,
            tuple(deviations),
            tuple(needs),
        )
        for severity in SEVERITIES
    ]


def multiples(step: float) -> tuple[float, ...]:
    """step, 2 step, ... 5 step, without the noise of binary fractions."""
    return tuple(round(step * severity, 6) for severity in SEVERITIES)
