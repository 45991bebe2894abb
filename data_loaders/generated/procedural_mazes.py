"""First-person walks through random mazes of two rooms: a substitute for GQN Mazes.

Floor plans and textures come from the package `labmaze`, a part of DeepMind Lab, with which the
mazes of GQN (Eslami et al., 2018) were made. Each room has its own wall and floor texture. The
passage between them has the textures of the nearer room.

A clip is a pure function of (seed, split, number), and its beginning does not depend on its length.
T is a video's length; H, W and C are as in `sources.py`.
"""

import functools
import importlib.metadata
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np
from PIL import Image

from cwvae.errors import UserError
from data_loaders.attributes import CLASSES, NOT_READABLE, NUMBERS, Attributes, Readable
from data_loaders.generated.maze_walks import Maze, random_maze, walk
from data_loaders.generated.raycaster import TEXTURE_SIZE, Raycaster, depth_ahead, texture_pyramid
from data_loaders.sources import (
    SPLITS,
    Note,
    Source,
    check_choice,
    check_whole_numbers,
    ignore_note,
    require,
)
from data_loaders.video.frames import FrameFormat

# Bump when the same options would give different frames.
VERSION = 1

# Another version may make other mazes, which a store would not show.
_LABMAZE = "1.0.6"

BLOCK = 100  # Frames per block that `read` yields.


class _Clip(NamedTuple):
    """The parameters of a clip, as in `ProceduralMazes.attributes`."""

    maze: Maze
    walls: np.ndarray
    floors: np.ndarray
    sky: int
    pose: np.ndarray


class ProceduralMazes(Source):
    """Walks through mazes; video i is a pure function of (seed, split, i) and the options."""

    def __init__(
        self,
        *,
        frame_size: int = 64,
        channels: int = 3,
        seed: int = 0,
        train_videos: int = 1000,
        test_videos: int = 100,
        train_length: int = 300,
        test_length: int = 300,
    ):
        """Checks the options.

        Args:
          frame_size: H and W, in pixels.
          channels: C: 3, or 1 for the luma of the same pictures.
          seed: The seed of the videos, not negative.
          train_videos: Videos of the train split.
          test_videos: Videos of the test split, in other mazes.
          train_length: Frames per video of the train split.
          test_length: Frames per video of the test split.

        Raises:
          UserError: An option out of range.
        """
        super().__init__("procedural_mazes", frame_size, channels)
        check_whole_numbers(0, seed=seed)
        check_whole_numbers(1, train_videos=train_videos, test_videos=test_videos)
        check_whole_numbers(1, train_length=train_length, test_length=test_length)
        self._format = FrameFormat(frame_size, channels)
        self._seed = int(seed)
        self._videos = dict(zip(SPLITS, (int(train_videos), int(test_videos)), strict=True))
        self._lengths = dict(zip(SPLITS, (int(train_length), int(test_length)), strict=True))

    def describe(self) -> dict[str, object]:
        """As in `Source`."""
        return {
            "version": VERSION,
            "frame_size": self.frame_shape[0],
            "channels": self.frame_shape[2],
            "seed": self._seed,
            **{f"{split}_videos": number for split, number in self._videos.items()},
            **{f"{split}_length": length for split, length in self._lengths.items()},
        }

    def fetch(self) -> None:
        """Checks that the package `labmaze` is installed; raises a UserError if it is not."""
        _labmaze()

    def items(self, split: str) -> list[str]:
        """Returns the videos' numbers, from 000000."""
        check_choice("split", split, SPLITS)
        return [f"{i:06d}" for i in range(self._videos[split])]

    def expected_frames(self) -> int:
        """Returns the exact number of frames of both splits."""
        return sum(self._videos[split] * self._lengths[split] for split in SPLITS)

    def read(self, split: str, item: str, note: Note = ignore_note) -> Iterator[np.ndarray]:
        """As in `Source`; raises a UserError if the package `labmaze` is missing."""
        clip = self._clip(split, item)
        raycaster = Raycaster(
            clip.maze.solid,
            clip.maze.zone,
            [_texture("wall", number) for number in clip.walls],
            [_texture("floor", number) for number in clip.floors],
            _sky(clip.sky),
            self.frame_shape[0],
        )
        for start in range(0, len(clip.pose), BLOCK):
            frames = raycaster.render(clip.pose[start : start + BLOCK])
            yield self._format.convert(frames)

    def attributes(
        self, split: str, item: str, start: int = 0, stop: int | None = None
    ) -> Attributes:
        """Returns the attributes of T frames of a video without drawing it.

        Args:
          split: 'train' or 'test'.
          item: The number of the video, one of `items(split)`.
          start: The first frame.
          stop: The frame after the last; None for all to the end.

        Returns:
          pose: float32 [T, 3]: x and y in cells of the floor plan, to the right and down, and the
            heading in radians, 0 along x, growing clockwise, without jumps at full turns.
          room: int64 [T]: 0 or 1, or -1 in the passage between the rooms.
          wall_distance: float32 [T]: the distance to the wall straight ahead, in cells.
          wall_textures: int64 [2], an index into `texture_paths('wall')` per room.
          floor_textures: int64 [2], an index into `texture_paths('floor')` per room.
          sky: int64 [], an index into `labmaze.assets.SKY_STYLES`.

        Raises:
          UserError: The package `labmaze` is missing.
        """
        clip = self._clip(split, item)
        pose = clip.pose[start:stop]
        column, row = pose[:, :2].astype(int).T
        return {
            "pose": pose,
            "room": clip.maze.room[row, column],
            "wall_distance": depth_ahead(clip.maze.solid, pose),
            "wall_textures": clip.walls,
            "floor_textures": clip.floors,
            "sky": np.array(clip.sky),
        }

    def readable(self) -> tuple[Readable, ...]:
        """Returns the textures of the camera's room, and the distance to the wall ahead.

        The textures of walls and floor cannot be read in the passage between the rooms. The sky is
        not among them, since many frames do not show it.

        Raises:
          UserError: The package `labmaze` is missing.
        """
        textures = [
            Readable(
                f"{kind}_texture",
                f"{kind} texture right",
                CLASSES,
                1,
                functools.partial(_of_the_room, f"{kind}_textures"),
                len(texture_paths(kind)),
            )
            for kind in ("wall", "floor")
        ]
        distance = Readable(
            "wall_distance", "wall distance error", NUMBERS, 1, _wall_distance, unit="cells"
        )
        return (*textures, distance)

    def _clip(self, split: str, item: str) -> _Clip:
        # With a spawn key, no (split, i) collides with another seed.
        key = (SPLITS.index(split), int(item))
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=key))
        maze = random_maze(_labmaze(), rng, SPLITS.index(split))
        walls = rng.choice(len(texture_paths("wall")), 2, replace=False)
        floors = rng.choice(len(texture_paths("floor")), 2, replace=False)
        sky = int(rng.integers(len(_labmaze().assets.SKY_STYLES)))
        pose = walk(maze, rng, self._lengths[split])
        return _Clip(maze, walls, floors, sky, pose.astype(np.float32))


def _of_the_room(name: str, known: Attributes) -> np.ndarray:
    """Returns the current room's value of an attribute that has one per room, int64 [T, 1]."""
    room = known["room"][:, None]
    return np.where(room < 0, NOT_READABLE, known[name][room])


def _wall_distance(known: Attributes) -> np.ndarray:
    """Returns the distance to the wall straight ahead, float32 [T, 1]."""
    return known["wall_distance"][:, None]


def _labmaze() -> ModuleType:
    """Returns the package `labmaze` with its module `assets`.

    Raises:
      UserError: It is missing, or has another version.
    """
    advice = (
        "use Python 3.12, the last that it has wheels for" if sys.version_info >= (3, 13) else ""
    )
    purpose, package = "data.name=procedural_mazes", f"labmaze=={_LABMAZE}"
    labmaze = require("labmaze.assets", purpose, package, advice)
    if (found := _version()) != _LABMAZE:
        raise UserError(
            f"{purpose} needs {package}, but labmaze {found} is installed, which may make other"
            f" mazes. Replace it: pip install {package}."
        )
    return labmaze


@functools.cache
def _version() -> str:
    return importlib.metadata.version("labmaze")


@functools.cache
def texture_paths(kind: str) -> list[str]:
    """Returns the image files of all textures of a kind, 'wall' or 'floor', by their numbers.

    Raises:
      UserError: The package `labmaze` is missing.
    """
    assets = _labmaze().assets
    of_style = assets.get_wall_texture_paths if kind == "wall" else assets.get_floor_texture_paths
    return [path for style in assets.MAZE_STYLES for path in of_style(style).values()]


def _image(path: str) -> np.ndarray:
    with Image.open(path) as image:
        # Through RGBA: otherwise Pillow warns about palettes with transparency.
        image = image.convert("RGBA").convert("RGB")
        return np.asarray(image.resize((TEXTURE_SIZE, TEXTURE_SIZE), Image.Resampling.BOX))


@functools.cache
def _texture(kind: str, number: int) -> np.ndarray:
    return texture_pyramid(_image(texture_paths(kind)[number]))


@functools.cache
def _sky(number: int) -> list[np.ndarray]:
    assets = _labmaze().assets
    sides = assets.get_sky_texture_paths(assets.SKY_STYLES[number])
    return [_image(path) for path in (sides.front, sides.right, sides.back, sides.left)]
