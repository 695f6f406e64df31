"""Studies with some config values set on the command line: study files of their own, with results of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aqr_bench.atomic import write_text
from aqr_bench.errors import UserError, short
from aqr_bench.study.hashes import config_hash
from aqr_bench.study.load import read_study, suite_beside
from aqr_bench.study.model_files import is_file_name, named_beside
from aqr_bench.study.overrides import merge_overrides
from aqr_bench.study.schema import parse_value


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` of the command line as dotted keys and values, which are read as in a study file."""
    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UserError(f"--set: '{short(text)}' is not KEY=VALUE, such as optim_wrapper.optimizer.lr=1e-3")
        settings[key] = parse_value(value, f"--set {short(key)}")
    return settings


def write_derived_study(path_or_name: str | Path, settings: Mapping[str, Any], folder: Path) -> Path:
    """Write the study with ``settings`` over the config of each of its variants; returns the file, named by both.

    The base model that variants start from is the study's: it is not trained with them.
    """
    data, path = read_study(path_or_name)
    text = ", ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
    data["name"] = f"{data['name']}-{config_hash(settings)[:6]}"
    data["summary"] = f"{data.get('summary', '')} With {text}.".strip()
    if (beside := suite_beside(data, path)) is not None:
        data["conditions"] = beside.resolve().as_posix()
    for variant in data["variants"].values():
        variant["config"] = merge_overrides(variant["config"], settings)
        model = named_beside(variant.get("model"), path)
        if model is not None:
            variant["model"] = Path(model).resolve().as_posix() if is_file_name(model) else model
    folder.mkdir(parents=True, exist_ok=True)
    return write_text(folder / f"{data['name']}.yaml", json.dumps(data, ensure_ascii=False, indent=1) + "\n")  # is YAML
