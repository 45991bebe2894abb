"""Tests of the procedural mazes: frames, the walker's motion, and determinism."""

import sys

import numpy as np
import pytest

from cwvae.errors import UserError
from data_loaders.generated import procedural_mazes
from data_loaders.generated.maze_walks import (
    CLEARANCE,
    LONGEST_PASSAGE,
    SPEED_CHANGE,
    TOP_SPEED,
    TURN_CHANGE,
    TURN_SPEED,
    clear_of_walls,
)
from data_loaders.generated.procedural_mazes import ProceduralMazes
from data_loaders.generated.raycaster import cast
from data_loaders.store import preparation
from data_loaders.store.store import Store

SMALL = {"frame_size": 16, "train_videos": 5, "test_videos": 3}


@pytest.fixture(scope="module")
def mazes() -> ProceduralMazes:
    """Full-sized clips, for tests of attributes without drawing."""
    pytest.importorskip("labmaze", reason="labmaze, which makes the mazes, is not installed")
    return ProceduralMazes()


@pytest.fixture(scope="module")
def walks(mazes):
    """The attributes and the maze of 60 clips."""
    return [
        (mazes.attributes("train", str(i)), mazes._clip("train", str(i)).maze) for i in range(60)
    ]


def video(source: ProceduralMazes, split: str, item: str) -> np.ndarray:
    return np.concatenate(list(source.read(split, item)))


def test_items_and_description():
    source = ProceduralMazes(
        train_videos=12, test_videos=3, train_length=40, test_length=70, seed=6
    )
    assert source.items("train") == [f"{i:06d}" for i in range(12)]
    assert source.items("test") == ["000000", "000001", "000002"]
    assert source.expected_frames() == 12 * 40 + 3 * 70
    assert source.name == "procedural_mazes"
    assert source.frame_shape == (64, 64, 3)
    assert source.describe() == {
        "version": procedural_mazes.VERSION,
        "frame_size": 64,
        "channels": 3,
        "seed": 6,
        "train_videos": 12,
        "test_videos": 3,
        "train_length": 40,
        "test_length": 70,
    }
    with pytest.raises(UserError, match="unknown split 'validation'"):
        source.items("validation")


@pytest.mark.usefixtures("mazes")
def test_blocks_and_attributes_have_the_documented_shapes():
    source = ProceduralMazes(**SMALL, train_length=230, test_length=30)
    source.fetch()
    for split, sizes in (("train", [100, 100, 30]), ("test", [30])):
        item = source.items(split)[-1]
        blocks = list(source.read(split, item))
        assert [block.shape for block in blocks] == [(n, 16, 16, 3) for n in sizes]
        assert {block.dtype for block in blocks} == {np.dtype(np.uint8)}
        known = source.attributes(split, item)
        shapes = {name: (value.dtype, value.shape) for name, value in known.items()}
        assert shapes == {
            "pose": (np.float32, (sum(sizes), 3)),
            "room": (np.int64, (sum(sizes),)),
            "wall_distance": (np.float32, (sum(sizes),)),
            "wall_textures": (np.int64, (2,)),
            "floor_textures": (np.int64, (2,)),
            "sky": (np.int64, ()),
        }


@pytest.mark.usefixtures("mazes")
def test_clips_depend_on_seed_split_and_number_only():
    reference = video(ProceduralMazes(**SMALL), "train", "000004")
    source = ProceduralMazes(**{**SMALL, "train_videos": 9, "test_videos": 1, "test_length": 7})
    video(source, "train", "000002")
    np.testing.assert_array_equal(video(source, "train", "000004"), reference)
    np.testing.assert_array_equal(video(source, "train", "000004"), reference)
    for seed, split, item in (
        (1, "train", "4"),
        (0, "train", "3"),
        (0, "test", "4"),
        (2**32, "train", "4"),
    ):
        other = ProceduralMazes(**SMALL, seed=seed)
        assert np.any(video(other, split, item)[0] != reference[0]), (seed, split, item)
    # The length changes neither the beginning nor the starts of blocks.
    short = ProceduralMazes(**SMALL, train_length=130)
    np.testing.assert_array_equal(video(short, "train", "000004"), reference[:130])


def test_splits_never_share_a_maze(mazes, monkeypatch):
    labmaze = procedural_mazes._labmaze()
    seeds = []

    def remember(**options):
        seeds.append(options["random_seed"])
        return original(**options)

    original = labmaze.RandomMaze
    monkeypatch.setattr(labmaze, "RandomMaze", remember)
    for split, remainder in (("train", 0), ("test", 1)):
        seeds.clear()
        for i in range(20):
            mazes._clip(split, str(i))
        assert {seed % 2 for seed in seeds} == {remainder}
        assert len(set(seeds)) == len(seeds) >= 20
        assert 0 <= min(seeds) <= max(seeds) < 2**31


def test_mazes_are_two_rooms_and_a_passage(walks):
    for _, maze in walks:
        edge = maze.solid.copy()
        edge[1:-1, 1:-1] = True
        assert edge.all(), "open to the outside"
        for number in (0, 1):
            rows, columns = np.nonzero(maze.room == number)
            box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
            assert min(maze.room[box].shape) >= 3
            assert (maze.room[box] == number).all(), "a room is a rectangle"
            assert not maze.solid[box].any()
            assert (maze.zone[box] == number).all()
        rooms = [maze.room[cell] for cell in maze.passage]
        assert rooms == [0, *[-1] * (len(rooms) - 2), 1]
        assert 3 <= len(rooms) <= LONGEST_PASSAGE + 2
        assert not any(maze.solid[cell] for cell in maze.passage)
        assert (np.abs(np.diff(maze.passage, axis=0)).sum(axis=1) == 1).all()
        # The passage changes its textures once, half-way.
        zones = [maze.zone[cell] for cell in maze.passage]
        assert zones == sorted(zones)


def test_walker_keeps_clear_of_walls(walks):
    for known, maze in walks:
        place = known["pose"][:, None, :2].astype(float)
        corner = np.argwhere(maze.solid)[:, ::-1]
        outside = np.maximum(np.maximum(corner - place, place - corner - 1), 0)
        assert np.linalg.norm(outside, axis=-1).min() > CLEARANCE - 1e-5


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ((1.5, 1.5), (1.5, 1.5)),
        ((1.1, 1.6), (1.25, 1.6)),
        ((1.1, 1.2), (1.25, 1.25)),
        ((2.9, 2.95), (2.75, 2.75)),
        # If cell (2, 2) is a pillar, its corner is 0.2 away before, and 0.25 after.
        ((1.88, 1.84), (1.85, 1.8)),
        ((1.7, 1.9), (1.7, 1.9)),
    ],
)
def test_walls_push_back_by_hand(place, expected):
    solid = np.ones((4, 4), bool)
    solid[1:3, 1:3] = False
    if expected[0] < 2:
        solid[2, 2] = True
    found = clear_of_walls(solid, *place)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_speeds_and_turns_are_limited_and_smooth(walks):
    turns, speeds = [], []
    for known, _ in walks:
        step = np.diff(known["pose"].astype(float), axis=0)
        speeds.append(np.linalg.norm(step[:, :2], axis=1))
        turns.append(step[:, 2])
    speeds, turns = np.array(speeds), np.array(turns)
    assert speeds.max() < TOP_SPEED[1] + 1e-5
    assert np.abs(turns).max() < TURN_SPEED + 1e-5
    assert np.abs(np.diff(turns)).max() < TURN_CHANGE + 1e-5
    # The speed changes abruptly only at walls.
    sudden = np.abs(np.diff(speeds)) > SPEED_CHANGE + 1e-5
    assert sudden.mean() < 0.002
    # The walker never stands still for long.
    assert speeds.sum(axis=1).min() > 8
    pauses = np.lib.stride_tricks.sliding_window_view(speeds, 40, axis=1).max(axis=-1)
    assert pauses.min() > 0.01


def test_walker_sees_both_rooms_and_looks_around(walks):
    visited = [set(known["room"].tolist()) for known, _ in walks]
    assert np.mean([{0, 1} <= rooms for rooms in visited]) > 0.95
    assert {known["room"][0] for known, _ in walks} == {0, 1}
    octants = [np.unique(np.floor(known["pose"][:, 2] / (np.pi / 4)) % 8) for known, _ in walks]
    assert np.mean([len(seen) >= 6 for seen in octants]) > 0.9


def test_room_is_where_the_pose_is(walks):
    for known, maze in walks:
        for t in range(0, 300, 7):
            x, y, _ = known["pose"][t]
            assert known["room"][t] == maze.room[int(y), int(x)]
            assert not maze.solid[int(y), int(x)]


def test_wall_distance_is_how_far_the_walker_could_go_straight_on(walks):
    for known, maze in walks[::6]:
        for t in range(0, 300, 13):
            x, y, heading = known["pose"][t].astype(float)
            distance = known["wall_distance"][t]
            # Steps of 1/1000 of the way; the last one ends at the wall.
            along = distance * np.arange(0, 1, 0.001)
            way = np.stack([y + along * np.sin(heading), x + along * np.cos(heading)])
            assert not maze.solid[tuple(way.astype(int))].any()
            beyond = distance + 1e-3
            end = int(y + beyond * np.sin(heading)), int(x + beyond * np.cos(heading))
            assert maze.solid[end]
    every = np.concatenate([known["wall_distance"] for known, _ in walks])
    assert every.min() > CLEARANCE - 1e-5
    assert every.max() < 11 * np.sqrt(2)
    assert every.std() > 1


def test_long_walks_never_stop(mazes):
    del mazes
    room = ProceduralMazes(test_length=3000).attributes("test", "1")["room"]
    changes = np.flatnonzero(np.diff((room == 1).astype(int)))
    assert len(changes) > 8


def test_textures_differ_between_the_rooms_and_among_clips(mazes, walks):
    for known, _ in walks:
        for kind in ("wall", "floor"):
            first, second = known[f"{kind}_textures"]
            assert first != second
            assert (
                0
                <= min(first, second)
                <= max(first, second)
                < len(procedural_mazes.texture_paths(kind))
            )
    assert len({known["wall_textures"][0] for known, _ in walks}) > 15
    assert len({known["floor_textures"][1] for known, _ in walks}) > 15
    assert {known["sky"].item() for known, _ in walks} == {0, 1, 2}
    same = [
        np.array_equal(known["wall_textures"], mazes.attributes("test", str(i))["wall_textures"])
        for i, (known, _) in enumerate(walks)
    ]
    assert np.mean(same) < 0.1, "the splits share their random numbers"


@pytest.mark.usefixtures("mazes")
def test_near_walls_show_the_mean_color_of_their_texture():
    source = ProceduralMazes(**SMALL)
    checked = set()
    for item in map(str, range(60)):
        clip = source._clip("train", item)
        heading = clip.pose[:, 2, None]
        right = np.linspace(-0.7, 0.7, 16, dtype=np.float32)
        direction = np.stack(
            [np.cos(heading) - right * np.sin(heading), np.sin(heading) + right * np.cos(heading)],
            axis=-1,
        )
        hits = cast(clip.maze.solid, clip.pose[:, :2], direction)
        zones = clip.maze.zone[hits.row, hits.column]
        # The whole frame shows only walls of one zone.
        full = (hits.depth.max(axis=1) < 0.7) & (zones.min(axis=1) == zones.max(axis=1))
        if not full.any():
            continue
        frames = video(source, "train", item)
        for t in np.flatnonzero(full)[::10]:
            zone = zones[t, 0]
            path = procedural_mazes.texture_paths("wall")[clip.walls[zone]]
            expected = procedural_mazes._image(path).mean(axis=(0, 1))
            seen = frames[t].mean(axis=(0, 1))
            # Shading makes a color darker, and the visible part of a texture varies.
            light = seen.sum() / expected.sum()
            assert 0.65 < light < 1.15
            np.testing.assert_allclose(seen, light * expected, atol=12)
            checked.add((item, zone))
    assert len(checked) > 5


@pytest.mark.usefixtures("mazes")
def test_one_channel_is_the_luma_of_three():
    color = video(ProceduralMazes(**SMALL), "test", "1")
    gray = video(ProceduralMazes(**SMALL, channels=1), "test", "1")
    assert gray.shape == (300, 16, 16, 1)
    luma = color @ np.array([0.299, 0.587, 0.114])
    assert np.abs(gray[..., 0] - luma).max() <= 0.51


@pytest.mark.parametrize(
    ("version", "told"), [((3, 12, 1), False), ((3, 13, 0), True)], ids=["3.12", "3.13"]
)
def test_missing_labmaze_is_named(monkeypatch, version, told):
    monkeypatch.setitem(sys.modules, "labmaze", None)
    monkeypatch.setattr(procedural_mazes.sys, "version_info", version)
    source = ProceduralMazes(**SMALL)
    assert len(source.items("train")) == 5
    for use in (source.fetch, lambda: source.attributes("train", "0")):
        with pytest.raises(
            UserError, match=r"procedural_mazes needs labmaze.*: pip install labmaze==1\.0\.6"
        ) as error:
            use()
        assert ("use Python 3.12, the last that it has wheels for" in str(error.value)) == told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_size": 1}, "model.frame_size is 1"),
        ({"frame_size": 31.5}, "model.frame_size is 31.5"),
        ({"channels": 2}, "model.channels is 2"),
        ({"seed": -1}, "data.seed is -1"),
        ({"train_videos": 0}, "data.train_videos is 0"),
        ({"test_videos": "all"}, "data.test_videos is 'all'"),
        ({"train_length": 0}, "data.train_length is 0"),
        ({"test_length": 2.0}, "data.test_length is 2.0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        ProceduralMazes(**options)


@pytest.mark.usefixtures("mazes")
def test_another_version_of_labmaze_is_refused(monkeypatch):
    monkeypatch.setattr(procedural_mazes, "_version", lambda: "1.0.5")
    source = ProceduralMazes(**SMALL)
    uses = (source.fetch, lambda: source.attributes("train", "0"))
    for use in uses:
        with pytest.raises(UserError, match=r"needs labmaze==1\.0\.6, but labmaze 1\.0\.5 is"):
            use()


@pytest.mark.usefixtures("mazes")
def test_textures_of_two_rooms_are_not_cut_in_a_video_of_two_frames(tmp_path):
    source = ProceduralMazes(**SMALL, train_length=2, test_length=2)
    data = Store(preparation.prepare(source, tmp_path), "train", source)
    whole, part = data.attributes(3), data.attributes(3, 1, 1)
    for name in ("wall_textures", "floor_textures"):
        assert part[name].shape == (2,)
        np.testing.assert_array_equal(part[name], whole[name])
    for name in ("pose", "room"):
        np.testing.assert_array_equal(part[name], whole[name][1:])
    readings = data.readings(3, 1, 1)
    assert readings["wall_texture"].item() == whole["wall_textures"][whole["room"][1]]
