"""How detections are scored: as nuScenes does, or with ranges of the user's own, and over the classes that there are.

Scores by other rules than nuScenes' are no official numbers: records say which rules they are by, and nothing compares
records of different rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aqr_bench.errors import UserError, nearest

OFFICIAL_CONFIG = "detection_cvpr_2019"  # of nuscenes-devkit
ALL, PRESENT = "all", "present"


@dataclass(frozen=True)
class ScoringRules:
    """What differs from nuScenes' rules.

    ranges   metres around the vehicle within which objects and detections of a class count, for some classes
    classes  the mean is over: ``all`` ten, a class without objects counts as 0; ``present``: those that the split has
             an object of, within the ranges
    """

    ranges: Mapping[str, float] = field(default_factory=dict)
    classes: str = ALL

    @property
    def official(self) -> bool:
        """Whether these are nuScenes' rules."""
        return not self.ranges and self.classes == ALL

    def entry(self) -> dict[str, Any]:
        """``scoring`` of records and of settings; nothing for nuScenes' rules, as in records of before."""
        rules = {"ranges": dict(sorted(self.ranges.items())), "classes": self.classes}
        return {} if self.official else {"scoring": rules}

    @property
    def text(self) -> str:
        """In words, for messages and notes."""
        parts = [f"{name} within {metres:g} m" for name, metres in sorted(self.ranges.items())]
        return ", ".join([*parts, *(["mean over the classes with objects"] if self.classes == PRESENT else [])])

    def class_range(self) -> dict[str, float]:
        """Metres by class, for all ten. UserError: a class that nuScenes does not have, or no range above 0."""
        from nuscenes.eval.common.config import config_factory  # late: the import takes a second or two

        official = config_factory(OFFICIAL_CONFIG).class_range
        for name, metres in self.ranges.items():
            if name not in official:
                raise UserError(f"range of '{name}': no detection class of that name{nearest(name, official)}")
            if not metres > 0:
                raise UserError(f"range of '{name}': {metres:g} m is not above 0")
        return {**official, **self.ranges}

    def config(self, present: Iterable[str]) -> Any:
        """The devkit's DetectionConfig; ``present``: classes that the split has objects of."""
        from nuscenes.eval.common.config import config_factory

        config, with_objects = config_factory(OFFICIAL_CONFIG), set(present)
        config.class_range = self.class_range()
        config.class_names = [name for name in config.class_range if self.classes == ALL or name in with_objects]
        return config


OFFICIAL_RULES = ScoringRules()


def rules_of(extra: Mapping[str, Any]) -> ScoringRules:
    """The rules of a record, from its ``extra``; nuScenes' where it names none."""
    entry = extra.get("scoring")
    if not isinstance(entry, Mapping):
        return OFFICIAL_RULES
    return ScoringRules(dict(entry.get("ranges") or {}), str(entry.get("classes", ALL)))


def parse_ranges(texts: Iterable[str]) -> dict[str, float]:
    """``CLASS=METRES`` of a command line; UserError for anything else."""
    ranges = {}
    for text in texts:
        name, equals, metres = text.partition("=")
        try:
            ranges[name] = float(metres)
        except ValueError:
            equals = ""
        if not equals:
            raise UserError(f"--ranges: '{text}' is not CLASS=METRES", "Give for example car=40 pedestrian=30.")
    return ranges
