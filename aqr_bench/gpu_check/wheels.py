"""The wheels that the parts with the head need besides torch and numpy, and how to fetch them for another machine."""

from __future__ import annotations

import importlib.util

# Package -> (version, the module it brings). All that the head imports, found by starting from nothing; fetched with
# --no-deps, since what mmdet3d and mmdet declare (open3d among them) is many times as large.
WHEELS = {
    "mmengine": ("0.10.7", "mmengine"),
    "mmcv-lite": ("2.1.0", "mmcv"),
    "mmdet": ("3.3.0", "mmdet"),
    "mmdet3d": ("1.4.0", "mmdet3d"),
    "addict": ("2.4.0", "addict"),
    "attrs": ("26.1.0", "attrs"),
    "cycler": ("0.12.1", "cycler"),
    "jsonschema": ("4.26.0", "jsonschema"),
    "jsonschema-specifications": ("2025.9.1", "jsonschema_specifications"),
    "packaging": ("25.0", "packaging"),
    "platformdirs": ("4.14.7", "platformdirs"),
    "pyparsing": ("3.3.3", "pyparsing"),
    "python-dateutil": ("4.0.0", "dateutil"),
    "referencing": ("0.37.0", "referencing"),
    "rich": ("15.0.0", "rich"),
    "six": ("1.17.0", "six"),
    "termcolor": ("3.3.0", "termcolor"),
    "terminaltables": ("3.1.10", "terminaltables"),
    "tqdm": ("4.70.1", "tqdm"),
    "yapf": ("0.43.0", "yapf"),
    # With compiled code: of the other machine's Python and system. Many machines with torch have them already.
    "fonttools": ("4.68.0", "fontTools"),
    "kiwisolver": ("1.5.1", "kiwisolver"),
    "llvmlite": ("0.50.0", "llvmlite"),
    "matplotlib": ("3.11.2", "matplotlib"),
    "numba": ("0.68.1", "numba"),
    "opencv-python-headless": ("4.11.0.86", "cv2"),
    "pillow": ("13.0.0", "PIL"),
    "pycocotools": ("2.0.11", "pycocotools"),
    "pyyaml": ("6.0.3", "yaml"),
    "rpds-py": ("2026.9.1", "rpds"),
    "scipy": ("1.17.1", "scipy"),
    "shapely": ("2.0.7", "shapely"),
}
GUIDE = "docs/gpu.md"


def missing() -> list[str]:
    """Packages of which there is no module here. A compiled mmcv stands for mmcv-lite."""
    return [name for name, (_, module) in WHEELS.items() if importlib.util.find_spec(module) is None]


def download_command(names: list[str]) -> str:
    """What fetches these packages where there is a network."""
    return "python -m pip download --no-deps -d wheels " + " ".join(f"{name}=={WHEELS[name][0]}" for name in names)
