"""What the result of a step depends on: config, settings, data, code and the files it starts from, each as a hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from aqr_bench.records.code_dependencies import code_hash_for
from aqr_bench.study.hashes import config_hash


@dataclass(frozen=True)
class Job:
    """One training, evaluation or measurement, by all that decides its result.

    Args:
        step: of ``CODE_DEPENDENCIES``.
        config: the mmengine config as ``engine.config.hashable`` has it; None: of a job that was not started.
        settings: what the config does not say, such as the conditions of a suite.
        data_sha256, infos_sha256: of the tables and of the info files, see ``data.dataset.DataSet``.
        inputs: SHA-256 of the files that it starts from, such as checkpoints.
        sources: Python files of a custom detector.
    """

    step: str
    config: Mapping[str, Any] | None
    data_sha256: str
    infos_sha256: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    sources: tuple[Path, ...] = ()

    @cached_property
    def config_sha256(self) -> str | None:
        return None if self.config is None else config_hash(self.config)

    @cached_property
    def code_sha256(self) -> str:
        return code_hash_for(self.step, self.sources)

    @property
    def identity(self) -> list[str]:
        """Jobs of the same identity give identical results, bit for bit."""
        data = [self.data_sha256, self.infos_sha256]
        return [self.config_sha256, config_hash(self.settings), self.code_sha256, *data, *self.inputs]
