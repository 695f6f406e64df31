"""nuScenes' names of categories and attributes, and what a data set with other names calls them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aqr_bench.study.schema import schema_for

IGNORE = "ignore"  # in place of a nuScenes name: objects of that category are background, the attribute is none


@functools.cache
def nuscenes_names(kind: str) -> tuple[str, ...]:
    """nuScenes' names of ``categories`` or ``attributes``: those that the schema of tiers has."""
    names = schema_for("tier").schema["properties"]["data"]["properties"][kind]["additionalProperties"]["enum"]
    return tuple(name for name in names if name != IGNORE)


@dataclass(frozen=True)
class Vocabulary:
    """A data set's names of categories and attributes to nuScenes' (or ``ignore``), as far as they differ."""

    categories: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    def unknown_categories(self, names: Iterable[str]) -> list[str]:
        """Those that are neither nuScenes' nor mapped, sorted."""
        return sorted(set(names).difference(nuscenes_names("categories"), self.categories, [IGNORE]))

    def unknown_attributes(self, names: Iterable[str]) -> list[str]:
        """Those that are neither nuScenes' nor mapped, sorted."""
        return sorted(set(names).difference(nuscenes_names("attributes"), self.attributes, [IGNORE]))

    def as_dict(self) -> dict[str, dict[str, str]]:
        """For JSON and pickle; empty without any mapping."""
        named = {"categories": dict(self.categories), "attributes": dict(self.attributes)}
        return {key: names for key, names in named.items() if names}
