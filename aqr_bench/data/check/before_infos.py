"""What ``aqr-bench data`` checks before it makes info files: values of the tables, and the points of a few clouds.

It is the first job of every tier, so that a unit or a name that nuScenes does not have is reported before a training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aqr_bench.data.check.clouds import REMEDIES as CLOUD_REMEDIES
from aqr_bench.data.check.clouds import SCAN, WARNINGS, points_fault
from aqr_bench.data.check.finding import Finding
from aqr_bench.data.check.values import REMEDIES, check_values, devkit_values
from aqr_bench.data.complete_scenes import LIDAR
from aqr_bench.data.manifest import MANIFEST
from aqr_bench.data.raw_frames import BadFrameError, read_cloud
from aqr_bench.errors import UserError
from aqr_bench.study.vocabulary import Vocabulary

CLOUDS = 5  # opened, spread over the samples


def validate_root(nusc: Any) -> list[str]:
    """Warnings about the data set of a devkit's NuScenes that was opened with its vocabulary.

    Files that are missing or damaged are no matter of values, and are passed over.

    Raises:
        UserError: values that are not what nuScenes' are; of several the first.
    """
    findings = check_values(devkit_values(nusc), Vocabulary()) + _cloud_findings(nusc)
    where = f"{nusc.dataroot} ({nusc.version})"
    remedies = REMEDIES | CLOUD_REMEDIES
    for finding in findings:
        if not finding.warning:
            names = f": {', '.join(finding.names)}" if finding.names else ""
            raise UserError(f"{where}: {finding.what}{names}", remedies[finding.cause])
    return [f"{where}: {finding.what}. {remedies[finding.cause]}" for finding in findings]


def _cloud_findings(nusc: Any) -> list[Finding]:
    if (Path(nusc.dataroot) / MANIFEST).is_file():
        return []  # a written condition may leave what no LiDAR gives, such as zeros
    step = max(1, len(nusc.sample) // CLOUDS)
    findings: dict[str, Finding] = {}
    for sample in nusc.sample[::step][:CLOUDS]:
        token = sample["data"].get(LIDAR)
        name = nusc.get("sample_data", token)["filename"] if token else ""
        try:
            fault, cause = points_fault(read_cloud(Path(nusc.dataroot) / name)) if name else ("", "")
        except BadFrameError:
            continue
        if fault and cause != SCAN:
            findings.setdefault(
                cause, Finding("contents", f"{name} is a cloud {fault}", cause, (), 1, cause in WARNINGS)
            )
    return list(findings.values())
