"""The simulated scenes: nothing overlaps, the numbers asked for come out, every scene has its random numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from aqr_bench.errors import UserError
from aqr_bench.world.classes import CLASSES, class_shares
from aqr_bench.world.geometry import footprint, overlap
from aqr_bench.world.light import draw_light
from aqr_bench.world.placement import Occupancy
from aqr_bench.world.rig import EGO_CENTER_M, EGO_LENGTH_M, EGO_WIDTH_M, lidar_pose
from aqr_bench.world.scene import in_range, keyframe_times, simulate, stream, sweep_times
from aqr_bench.world.spec import WorldSpec

SPEC = WorldSpec()


@pytest.fixture(scope="module")
def scenes():
    return [simulate(SPEC, split, index) for split in (0, 1) for index in range(20)]


def test_no_two_boxes_ever_overlap(scenes):
    times = sweep_times(SPEC, SPEC.lidar_sweeps).ravel()
    for scene in scenes[:10]:
        ego = scene.ego_pose(times)
        ego[:, :2] += EGO_CENTER_M * np.stack([np.cos(ego[:, 2]), np.sin(ego[:, 2])], -1)
        poses = np.stack([ego, *(actor.poses(times) for actor in scene.actors)])
        sizes = np.stack([[EGO_LENGTH_M, EGO_WIDTH_M], *(actor.size[:2] for actor in scene.actors)])
        first, second = np.triu_indices(len(poses), 1)
        clash = overlap(poses[first], sizes[first][:, None], poses[second], sizes[second][:, None])
        assert not clash.any()


def test_scenery_keeps_off_the_streets_and_off_everybody(scenes):
    times = sweep_times(SPEC, SPEC.lidar_sweeps).ravel()
    solid = {"building": 0, "hedge": 0, "wall": 0, "bush": 0}
    for scene in scenes[:12]:
        for thing in scene.scenery:
            if thing.class_name not in solid:
                continue
            solid[thing.class_name] += 1
            ring = footprint(thing.start, thing.size[0], thing.size[1])
            edge = np.concatenate([ring + share * (np.roll(ring, 1, 0) - ring) for share in (0, 0.25, 0.5, 0.75)])
            assert scene.roads.clear_of_streets(edge, 0.0)
            for actor in scene.actors:
                poses = actor.poses(times)
                pose = np.broadcast_to(thing.start, poses.shape)
                assert not overlap(poses, actor.size[:2], pose, thing.size[:2]).any()
    assert min(solid.values()) > 0


def test_traffic_keeps_to_the_lanes_on_the_right(scenes):
    times, seen = keyframe_times(SPEC), 0
    for scene in scenes:
        for actor in scene.actors:
            if not actor.speed or actor.attribute == "pedestrian.moving":
                continue
            poses = actor.poses(times)
            inside = []
            for street in scene.roads.streets:
                station, lateral = street.frame(poses[:, :2])
                along = street.poses(station, 0.0)[:, 2]
                direction = np.cos(poses[:, 2] - along)
                right = (lateral - street.middle) * direction < 0
                inside.append(
                    (right & (np.abs(direction) > 0.9) & (street.off_middle(poses[:, :2]) < street.half)).all()
                )
            assert any(inside), actor.class_name
            seen += 1
    assert seen > 100


def test_pedestrians_walk_on_pavements_and_zebra_crossings(scenes):
    where = Counter()
    for scene in scenes:
        for actor in scene.actors:
            if actor.attribute != "pedestrian.moving":
                continue
            position = actor.poses(1.0)[:2]
            lateral = min(street.off_middle(position) - street.half for street in scene.roads.streets)
            where["street" if lateral < 0 else "pavement" if lateral < 3.5 else "plot"] += 1
    assert where["pavement"] > where["street"] > 3


def test_levels_do_what_they_say():
    numbers = {}
    for level in ("easy", "normal", "hard"):
        spec = WorldSpec.from_dict({"level": level})
        scenes = [simulate(spec, 0, index) for index in range(20)]
        actors = [actor for scene in scenes for actor in scene.actors]
        vehicles = [actor for actor in actors if actor.class_name in ("car", "truck", "bus", "trailer")]
        numbers[level] = (
            np.mean([len(scene.scenery) for scene in scenes]),
            np.mean([actor.intensity.max() < 9 for actor in vehicles]),
            np.mean([actor.category is None for actor in actors]),
            np.mean([scene.light.name != "day" for scene in scenes]),
            np.mean([scene.dropout for scene in scenes]),
        )
    for easy, normal, hard in zip(*numbers.values(), strict=True):
        assert easy < normal < hard
    assert numbers["easy"][1] == numbers["easy"][3] == 0


def test_the_class_mix_of_nuscenes():
    spec = WorldSpec.from_dict({"class_mix": "nuscenes", "distractor_ratio": 0})
    seen = Counter(actor.class_name for index in range(40) for actor in simulate(spec, 0, index).actors)
    shares = dict(zip((info.name for info in CLASSES), class_shares("nuscenes"), strict=True))
    assert sum(shares.values()) == pytest.approx(1) and shares["car"] == pytest.approx(0.435, abs=0.01)
    for name, share in shares.items():
        assert seen[name] / seen.total() == pytest.approx(share, abs=0.05), name


def test_train_and_val_share_no_seed_layout_or_instance():
    """Both splits of a world, scene by scene: no two have the same streets, objects, colours or random numbers."""
    drawn, positions, textures = set(), Counter(), Counter()
    for split, count in ((0, 30), (1, 10)):
        for index in range(count):
            scene = simulate(SPEC, split, index)
            drawn.add(stream(SPEC, split, index).integers(2**63))
            drawn.update(stream(SPEC, split, index, *purpose).integers(2**63) for purpose in ((1, 0, 0), (2, 0, 0)))
            street = scene.roads.streets[0]
            positions[(*street.start, street.curvature, scene.roads.crossing, scene.roads.zebras)] += 1
            for thing in scene.actors + scene.scenery:
                positions[tuple(thing.start)] += 1
            textures.update(actor.textures.tobytes() for actor in scene.actors)
    assert len(drawn) == 3 * 40
    assert max(positions.values()) == 1
    assert max(textures.values()) == 1


def test_as_many_objects_and_distractors_as_asked(scenes):
    keys = keyframe_times(SPEC)
    counts = {True: [], False: []}
    for scene in scenes:
        lidar = np.stack([lidar_pose(pose) for pose in scene.ego_pose(keys)])
        for labelled, got in counts.items():
            actors = [actor for actor in scene.actors if (actor.category is not None) == labelled]
            got.append(sum(in_range(SPEC, lidar, actor.poses(keys)[:, :2]).mean() for actor in actors))
    assert np.mean(counts[True]) == pytest.approx(SPEC.objects_per_frame, rel=0.1)
    assert np.mean(counts[False]) == pytest.approx(SPEC.objects_per_frame * SPEC.distractor_ratio, rel=0.15)


def test_all_classes_move_and_stand_as_their_table_says(scenes):
    actors = [actor for scene in scenes for actor in scene.actors]
    labelled = [actor for actor in actors if actor.category]
    seen = Counter(actor.class_name for actor in labelled)
    for info in CLASSES:
        actors = [actor for actor in labelled if actor.class_name == info.name]
        assert seen[info.name] > 0.4 * info.frequency * len(labelled)
        moving = [actor.speed for actor in actors if actor.speed]
        assert all(info.speed[0] <= speed <= info.speed[1] for speed in moving)
        assert (len(moving) > 0) == (info.moving_share > 0)
        assert {actor.category for actor in actors} <= {name for name, _ in info.categories}
        length = np.median([actor.size[0] for actor in actors])
        assert length == pytest.approx(info.size_lwh[0], rel=0.12)
        for actor in actors:
            assert (actor.attribute in ("vehicle.moving", "pedestrian.moving")) <= (actor.speed > 0)
            assert (actor.attribute is None) == (info.attributes == "none")
    assert not any(actor.speed or actor.attribute for actor in actors if actor.category is None)


def test_parts_fill_the_box_and_stay_inside(scenes):
    for actor in scenes[0].actors + scenes[1].actors:
        low = (actor.parts[:, :3] - actor.parts[:, 3:]).min(0)
        high = (actor.parts[:, :3] + actor.parts[:, 3:]).max(0)
        half = actor.size / 2
        assert (low >= [-half[0], -half[1], -1e-9]).all() and (high <= [half[0], half[1], actor.size[2]]).all()
        assert (high - low >= 0.8 * actor.size).all()
        assert low[2] == pytest.approx(0)


def test_distractors_are_grey_and_objects_are_not(scenes):
    """Only a camera can tell them apart: shapes and reflectances come from the same tables."""
    colourful = {True: [], False: []}
    for actor in (actor for scene in scenes for actor in scene.actors):
        spread = actor.textures.max(-1) - actor.textures.min(-1)
        colourful[actor.category is not None].append(spread.max())
    assert max(colourful[False]) < 0.2 < min(colourful[True])


def test_a_scene_depends_on_seed_split_and_index_alone():
    def positions(spec, split, index):
        return np.stack([actor.start for actor in simulate(spec, split, index).actors])

    base = positions(SPEC, 0, 3)
    np.testing.assert_array_equal(base, positions(SPEC, 0, 3))
    other_seed = WorldSpec.from_dict({"seed": 2})
    for spec, split, index in ((other_seed, 0, 3), (SPEC, 1, 3), (SPEC, 0, 4)):
        other = positions(spec, split, index)
        assert not np.isin(base, other).any()


def test_the_share_of_nights():
    def nights(share):
        spec = WorldSpec.from_dict({"night_share": share})
        return np.mean([draw_light(spec, np.random.default_rng(seed)).night for seed in range(200)])

    assert (nights(0), nights(1)) == (0, 1)
    assert 0.4 < nights(0.5) < 0.6


def test_sweeps_come_before_their_keyframe():
    spec = WorldSpec.from_dict({"frames_per_scene": 2, "keyframe_interval_s": 0.6})
    np.testing.assert_allclose(sweep_times(spec, 2), [[-0.4, -0.2, 0], [0.2, 0.4, 0.6]])


def test_too_many_objects_are_refused(monkeypatch):
    monkeypatch.setattr(Occupancy, "add_if_free", lambda *_: False)
    with pytest.raises(UserError, match="too full"):
        simulate(WorldSpec.from_dict({"objects_per_frame": 1}), 0, 0)
