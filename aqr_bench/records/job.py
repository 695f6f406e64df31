"""What the result of a step depends on: config, settings, data, code and the files it starts from, each as a hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from aqr_bench.records.code_dependencies import code_hash_for
from aqr_bench.study.hashes import config_hash
from aqr_bench.study.spec import Condition


@dataclass(frozen=True)
class Job:
    """One training, evaluation or measurement, by all that decides its result.

    Args:
        step: train, evaluate, measure or score.
        config: the mmengine config as ``engine.config.hashable`` has it; None: of a job that was not started.
        settings: what the config does not say, such as the conditions of a suite.
        data_sha256, infos_sha256: of the tables and of the info files, see ``data.dataset.DataSet``; None: not used.
        inputs: SHA-256 of the files that it starts from, such as checkpoints.
        model: name or file of the model's config; None: not known, so all code of the step counts.
    """

    step: str
    config: Mapping[str, Any] | None
    data_sha256: str
    infos_sha256: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    model: str | None = None

    @cached_property
    def config_sha256(self) -> str | None:
        return None if self.config is None else config_hash(self.config)

    @cached_property
    def code_sha256(self) -> str:
        settings = None if self.config is None else {**self.settings, "config": self.config}
        return code_hash_for(self.step, self.model, settings)

    def under(self, condition: Condition) -> Job:
        """The same evaluation under one condition alone, whatever else is in its suite."""
        return replace(self, settings={**self.settings, "conditions": [condition.settings]})

    @property
    def identity(self) -> list[str]:
        """Jobs of the same identity give identical results, bit for bit."""
        data = [self.data_sha256, self.infos_sha256]
        return [self.config_sha256, config_hash(self.settings), self.code_sha256, *data, *self.inputs]
