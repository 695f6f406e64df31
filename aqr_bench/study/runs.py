"""The runs that a selection of studies and seeds asks for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from aqr_bench.errors import UserError
from aqr_bench.study.schedule import variant_schedule
from aqr_bench.study.spec import Run, Study, Tier


def limit_seeds(study: Study, tier: Tier, asked: int | None = None) -> Study:
    """The study with the first ``asked`` of its seeds, or as many as the tier has time for."""
    count = asked or tier.seeds or len(study.seeds)
    if asked and asked > len(study.seeds) and not study.measure_only:
        raise UserError(
            f"{study.path}: {asked} seeds are asked for, the study names {len(study.seeds)}; add some there"
        )
    return replace(study, seeds=study.seeds[:count])


def matrix(tier: Tier, studies: Iterable[Study]) -> list[Run]:
    """Every variant run of the studies, in file order: study, variant, seed."""
    return [Run(tier.name, s.name, v, seed) for s in studies for v in s.variants for seed in s.seeds]


def base_runs(tier: Tier, studies: Iterable[Study]) -> list[Run]:
    """The base trainings the variants start from, one per seed; none where all variants start elsewhere."""
    seeds = {
        seed
        for study in studies
        for variant in study.variants
        if variant_schedule(tier, study, variant).init == "base"
        for seed in study.seeds
    }
    return [Run(tier.name, None, None, seed) for seed in sorted(seeds)]


def pretrain_runs(tier: Tier) -> list[Run]:
    """The pretrainings of a tier, one per branch."""
    return [Run(tier.name, None, None, 0, name) for name in tier.pretrain]
