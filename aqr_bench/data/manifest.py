"""The manifest of a written condition: what was written, under which condition, and the input of every sample."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aqr_bench.atomic import write_text
from aqr_bench.errors import UserError, reading
from aqr_bench.study.hashes import sha256_file

MANIFEST = "manifest.json"
FORMAT = 1
WRITE_AGAIN = "Write the condition again: aqr-bench corruptions write."


@dataclass(frozen=True)
class Manifest:
    """A condition of a suite, written as a nuScenes root.

    Args:
        condition: its name in the suite. ``settings``: corruption, severity and options, as in the suite file.
        version, split: of the tables. ``sweeps``: LiDAR sweeps before each keyframe.
        source_sha256: of the tables that it was written from. ``data_sha256``: of its own tables.
        samples: fingerprint of each sample's input under the condition, by token, as ``InputFingerprint`` gives it
            behind all sweeps and projections, with neither points nor pixels cropped or scaled.
        files: SHA-256 of each sensor file, by its path in the root; files that did not change are links.
    """

    condition: str
    suite: str
    settings: Mapping[str, Any]
    version: str
    split: str
    seed: int
    sweeps: int
    source_sha256: str
    data_sha256: str
    samples: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, str]

    def write(self, root: Path) -> Path:
        """Write it to the folder of the condition."""
        return write_text(root / MANIFEST, json.dumps({"format": FORMAT, **asdict(self)}, indent=1))


def read_manifest(root: Path) -> tuple[Manifest, str]:
    """The manifest of a written condition, and its SHA-256; UserError where there is none or it is damaged."""
    path = root / MANIFEST
    if not path.is_file():
        raise UserError(f"no {MANIFEST} in {root}: not a written condition, or not finished", WRITE_AGAIN)
    with reading(path, "manifest of a written condition", WRITE_AGAIN):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT or not all(isinstance(content[key], dict) for key in ("samples", "files")):
            raise ValueError("unknown format")
        return Manifest(**content), sha256_file(path)
