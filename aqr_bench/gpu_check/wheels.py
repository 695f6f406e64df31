"""The wheels that the parts with the head need besides torch and numpy, and how to fetch them for another machine."""

from __future__ import annotations

import importlib.util

# Package -> the module that it brings. What `import aqr_bench.cmt` and a config need, found by starting from nothing;
# fetched with --no-deps, since their declared dependencies (open3d among them) are many times as large.
WHEELS = {
    "mmengine==0.10.7": "mmengine",
    "mmcv-lite==2.1.0": "mmcv",
    "mmdet==3.3.0": "mmdet",
    "mmdet3d==1.4.0": "mmdet3d",
}
