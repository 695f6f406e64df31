"""nuScenes' names of categories and attributes, and what a data set with other names calls them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CATEGORIES = (
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.wheelchair",
    "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.construction_worker",
    "animal",
    "vehicle.car",
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.truck",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.trailer",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "movable_object.pushable_pullable",
    "movable_object.debris",
    "static_object.bicycle_rack",
)
ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
IGNORE = "ignore"  # in place of a nuScenes name: objects of that category are background, the attribute is none


@dataclass(frozen=True)
class Vocabulary:
    """A data set's names of categories and attributes to nuScenes' (or ``ignore``), as far as they differ."""

    categories: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    def unknown_categories(self, names: Iterable[str]) -> list[str]:
        """Those that are neither nuScenes' nor mapped, sorted."""
        return sorted(set(names).difference(CATEGORIES, self.categories, [IGNORE]))

    def unknown_attributes(self, names: Iterable[str]) -> list[str]:
        """Those that are neither nuScenes' nor mapped, sorted."""
        return sorted(set(names).difference(ATTRIBUTES, self.attributes, [IGNORE]))

    def as_dict(self) -> dict[str, dict[str, str]]:
        """For JSON and pickle; empty without any mapping."""
        named = {"categories": dict(self.categories), "attributes": dict(self.attributes)}
        return {key: names for key, names in named.items() if names}
