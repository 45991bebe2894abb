"""Tests of the attributes that a single frame shows."""

import numpy as np
import pytest
from helpers.numbered import Numbers

from data_loaders.attributes import CLASSES, NUMBERS, POINTS, Readable
from data_loaders.generated.digits import load_digits
from data_loaders.generated.moving_digits import MovingDigits
from data_loaders.generated.procedural_mazes import ProceduralMazes, texture_paths
from data_loaders.store import preparation
from data_loaders.store.store import Store


def about(readables):
    return [(r.name, r.kind, r.count, r.size, r.places) for r in readables]


def test_digits_are_read_at_their_positions():
    data = MovingDigits("train", num_digits=3, frame_size=31, digit_size=12)
    assert about(data.readable()) == [
        ("digits", CLASSES, 3, 10, "positions"),
        ("positions", POINTS, 3, None, None),
    ]
    found, known = data.readings(5, 7, 11), data.attributes(5, 7, 11)
    assert {name: (v.dtype, v.shape) for name, v in found.items()} == {
        "digits": (np.int64, (11, 3)),
        "positions": (np.float32, (11, 3, 2)),
    }
    assert (found["digits"] == known["digits"]).all()
    np.testing.assert_array_equal(found["positions"], np.rint(known["positions"]) + 6)


@pytest.mark.parametrize("size", [12, 13])
def test_a_position_is_the_center_of_the_drawn_digit(size):
    data = MovingDigits("test", num_digits=1, frame_size=31, digit_size=size)
    images, labels, _ = load_digits("test", size)
    found, image = data.readings(2, 0, 9), images[data.attributes(2)["indices"][0]]
    assert found["digits"][0, 0] == labels[data.attributes(2)["indices"][0]]
    for frame, center in zip(data.clip(2, 0, 9), found["positions"][:, 0], strict=True):
        # The image starts half its size before its center, at a whole pixel.
        row, column = (center - size / 2).astype(int)
        assert (center - size / 2 == (row, column)).all()
        np.testing.assert_array_equal(frame[row : row + size, column : column + size, 0], image)


def test_a_selection_has_the_readings_of_its_data_set():
    data = MovingDigits("train", frame_size=31, digit_size=12)
    chosen = data.select([4, 9])
    assert about(chosen.readable()) == about(data.readable())
    for name, values in chosen.readings(1, 3, 5).items():
        np.testing.assert_array_equal(values, data.readings(9, 3, 5)[name])


def test_by_default_nothing_is_readable(tmp_path):
    class Moments(Numbers):
        def readable(self):
            return (Readable("moment", "moment right", CLASSES, 1, self.moment, 200),)

        @staticmethod
        def moment(known):
            return known["moment"][:, None]

    folder = preparation.prepare(Numbers(), tmp_path)
    for data in (Store(folder, "train"), Store(folder, "train", Numbers())):
        assert data.readable() == ()
        assert data.readings(1, 20, 3) == {}
    data = Store(folder, "train", Moments())
    assert about(data.readable()) == [("moment", CLASSES, 1, 200, None)]
    assert data.readings(1, 20, 3)["moment"].tolist() == [[20], [21], [22]]


def test_mazes_show_the_textures_of_the_room_around_the_camera(tmp_path):
    pytest.importorskip("labmaze", reason="labmaze, which makes the mazes, is not installed")
    source = ProceduralMazes(frame_size=16, train_videos=2, test_videos=1, test_length=9)
    data = Store(preparation.prepare(source, tmp_path), "train", source)
    assert about(data.readable()) == [
        ("wall_texture", CLASSES, 1, len(texture_paths("wall")), None),
        ("floor_texture", CLASSES, 1, len(texture_paths("floor")), None),
        ("wall_distance", NUMBERS, 1, None, None),
    ]
    assert [readable.unit for readable in data.readable()] == [None, None, "cells"]
    rooms = set()
    for i in range(2):
        known, found = data.attributes(i, 30, 250), data.readings(i, 30, 250)
        rooms |= set(known["room"].tolist())
        for kind in ("wall", "floor"):
            values = found[f"{kind}_texture"]
            assert values.shape == (250, 1)
            for room, value in zip(known["room"], values[:, 0], strict=True):
                assert value == (-1 if room < 0 else known[f"{kind}_textures"][room])
        distance = found["wall_distance"]
        assert (distance.dtype, distance.shape) == (np.float32, (250, 1))
        np.testing.assert_array_equal(distance[:, 0], known["wall_distance"])
    assert rooms == {-1, 0, 1}
