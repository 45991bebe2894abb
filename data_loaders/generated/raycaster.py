"""First-person pictures of a maze of square cells, by ray casting many frames at once.

A maze is a floor plan of open and solid cells. All walls are one cell high and the eye is half-way
up, so the geometry is symmetric about the horizon. The floor plan's x is its column and y its row,
in cells. A heading of 0 looks along x, and headings grow towards y, clockwise on the printed plan.

A column of the picture is one ray. It ends at the first wall, at depth z: the distance along the
viewing direction, not along the ray, which keeps straight walls straight. A column is a function of
z. With h the tangent of a row's angle above or below the horizon, it shows the wall where
h z < 1/2; beyond that, the sky above and the floor below, at depth 1 / (2 h).

Each pixel is the mean of 2x2 samples. Textures are stored in several sizes, and a sample reads the
one that has about one texel per sample at that depth, so far walls do not flicker.

F is frames, S samples along an edge of the picture (twice its pixels), Y and X cells.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

TEXTURE_SIZE = 256  # Texels along an edge of the finest copy, which covers one cell.

_NUM_LEVELS = TEXTURE_SIZE.bit_length()  # Copies of a texture: 256, 128, ..., 1 texels.
_LEVEL_SIZES = TEXTURE_SIZE >> np.arange(_NUM_LEVELS)
_LEVEL_STARTS = np.cumsum(_LEVEL_SIZES**2) - _LEVEL_SIZES**2
_PYRAMID_SIZE = int(np.sum(_LEVEL_SIZES**2))

# The tangent of half the field of view, 70 degrees. Up to 1 / sqrt(2), no ray above the horizon
# leaves the upper edge of the sky's four sides, whatever the heading.
_HALF_VIEW = 0.7

# Light is counted in 64ths, so the sum of four samples of 255 * 64 fits in 16 bits.
_FULL_LIGHT = 64
_SIDE_LIGHT = 0.82  # The light on walls along y. Without it, corners are invisible.
_FADE = 0.07  # Light falls as 1 / (1 + _FADE * depth).

_FRAMES_AT_ONCE = 8  # So the intermediate arrays fit in a core's cache.


class Hits(NamedTuple):
    """The ends of rays; all arrays [F, S].

    depth: float32, in cells, in units of the ray's direction.
    across_x: bool, whether the wall is a line of constant x.
    u: float32 in [0, 1), the place on the wall, from left to right as seen.
    row, column: int, the open cell in front of the wall.
    """

    depth: np.ndarray
    across_x: np.ndarray
    u: np.ndarray
    row: np.ndarray
    column: np.ndarray


def cast(solid: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> Hits:
    """Follows rays through a floor plan to the first wall.

    Args:
      solid: bool [Y, X], whose border is solid.
      origin: float32 [F, 2], x and y of each frame's eye, in an open cell.
      direction: float32 [F, S, 2], x and y, of any length above zero.
    """
    x, y = origin[:, :1], origin[:, 1:]
    # A ray along a line never crosses it, so it is turned slightly to avoid a division by zero.
    dx, dy = (np.where(np.abs(d) < 1e-6, np.float32(1e-6), d) for d in np.moveaxis(direction, 2, 0))
    depth_x = _first_wall(solid.T, x, y, dx, dy)
    depth_y = _first_wall(solid, y, x, dy, dx)
    across_x = depth_x < depth_y
    depth = np.where(across_x, depth_x, depth_y)
    end_x, end_y = x + depth * dx, y + depth * dy
    along = np.where(across_x, end_y, end_x)
    # From left to right as seen, a wall's coordinate grows or falls.
    mirrored = np.where(across_x, dx < 0, dy > 0)
    u = along - np.floor(along)
    u = np.minimum(np.where(mirrored, 1 - u, u), np.float32(1 - 1e-6))
    # Walls are at whole numbers. Rounding to them cannot end in the cell behind the wall.
    column = np.where(across_x, np.rint(end_x) - (dx > 0), np.floor(end_x)).astype(np.int32)
    row = np.where(across_x, np.floor(end_y), np.rint(end_y) - (dy > 0)).astype(np.int32)
    return Hits(depth, across_x, u, row, column)


def depth_ahead(solid: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Returns the distance to the wall straight ahead, in cells, float32 [F].

    Args:
      solid: As for `cast`.
      pose: As for `Raycaster.render`.
    """
    origin, ahead = _eye(pose)
    return cast(solid, origin, ahead[:, None]).depth[:, 0]


def _eye(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places and the viewing directions, of length 1, of poses: float32 [F, 2] each."""
    ahead = np.stack([np.cos(pose[:, 2]), np.sin(pose[:, 2])], axis=-1)
    return pose[:, :2].astype(np.float32), ahead.astype(np.float32)


def _first_wall(
    solid: np.ndarray, p: np.ndarray, q: np.ndarray, dp: np.ndarray, dq: np.ndarray
) -> np.ndarray:
    """Returns the depth at which rays first enter a solid cell through a line of constant p.

    `solid` is the floor plan as [p, q], (p, q) the origin, [F, 1] each, and (dp, dq) the direction,
    [F, S] each. No dp is zero.
    """
    nearest = np.full(dp.shape, np.inf, np.float32)
    for line in range(1, len(solid)):
        depth = (np.float32(line) - p) / dp
        place = np.clip(q + depth * dq, 0, solid.shape[1] - 1).astype(np.int32)
        # The ray enters the cell behind the line.
        entered = np.where(dp > 0, solid[line][place], solid[line - 1][place])
        np.minimum(nearest, depth, out=nearest, where=entered & (depth > 0))
    return nearest


def texture_pyramid(image: np.ndarray) -> np.ndarray:
    """Returns a texture in all sizes, as uint64 texels for `Raycaster`.

    Args:
      image: uint8 [TEXTURE_SIZE, TEXTURE_SIZE, 3]. It covers one cell and is repeated.
    """
    level = image.astype(np.float32)
    levels = [level]
    while len(level) > 1:
        level = (level[0::2, 0::2] + level[1::2, 0::2] + level[0::2, 1::2] + level[1::2, 1::2]) / 4
        levels.append(level)
    return np.concatenate([_pack(np.rint(level)) for level in levels])


def _pack(image: np.ndarray) -> np.ndarray:
    """Returns an image as uint64 texels, column after column.

    A texel is four 16-bit numbers: red, green, blue and zero. One gather, sum or product works on
    all colors at once, as long as none of them exceeds 16 bits.
    """
    height, width, _ = image.shape
    lanes = np.zeros((width, height, 4), np.uint16)
    lanes[..., :3] = image.swapaxes(0, 1)
    return lanes.view(np.uint64).reshape(-1)


class Raycaster:
    """Draws a maze from any pose in it."""

    def __init__(
        self,
        solid: np.ndarray,
        zone: np.ndarray,
        walls: Sequence[np.ndarray],
        floors: Sequence[np.ndarray],
        sky: Sequence[np.ndarray],
        frame_size: int,
    ):
        """Stores a maze and its textures.

        Args:
          solid: bool [Y, X], the floor plan; its border is solid.
          zone: int [Y, X], the index of each cell's textures; a wall has those of the cell in
            front of it.
          walls: The texture of each zone's walls, from `texture_pyramid`.
          floors: The texture of each zone's floor, as above.
          sky: The sides of a cube around the maze, to the north (y falls), east, south and west:
            uint8 [TEXTURE_SIZE, TEXTURE_SIZE, 3] each. Their upper halves are visible.
          frame_size: H and W, in pixels.
        """
        self._solid = solid
        self._frame_size = frame_size
        self._texels = np.concatenate([*walls, *floors, *(_pack(side) for side in sky)])
        self._wall_start = (zone * _PYRAMID_SIZE).astype(np.int32)
        self._floor_start = (self._wall_start + len(walls) * _PYRAMID_SIZE).ravel()
        self._sky_start = (len(walls) + len(floors)) * _PYRAMID_SIZE

        size = 2 * frame_size
        self._step = np.float32(2 * _HALF_VIEW / size)  # Between samples, at a depth of one cell.
        # Distances to the right of the center, and from the horizon up or down.
        self._right = (np.arange(size, dtype=np.float32) + 0.5) * self._step - _HALF_VIEW
        self._rise = (np.arange(frame_size, dtype=np.float32)[:, None] + 0.5) * self._step

        self._floor_depth = 0.5 / self._rise
        # Along the view, the floor is slanted, so its samples are further apart.
        spacing = self._floor_depth * self._step
        level = _level(spacing, spacing * 2 * self._floor_depth)
        self._floor_size = _LEVEL_SIZES[level].astype(np.int32)
        self._floor_bits = (_NUM_LEVELS - 1 - level).astype(np.int32)
        self._floor_level_start = _LEVEL_STARTS[level].astype(np.int32)
        self._floor_light = _light(self._floor_depth)

    def render(self, pose: np.ndarray) -> np.ndarray:
        """Returns frames uint8 [F, H, W, 3].

        Args:
          pose: [F, 3], x and y in cells, inside an open cell, and the heading in radians.
        """
        frames = np.empty((len(pose), self._frame_size, self._frame_size, 3), np.uint8)
        for start in range(0, len(pose), _FRAMES_AT_ONCE):
            part = slice(start, start + _FRAMES_AT_ONCE)
            frames[part] = self._render(pose[part])
        return frames

    def _render(self, pose: np.ndarray) -> np.ndarray:
        origin, ahead = _eye(pose)
        aside = np.stack([-ahead[:, 1], ahead[:, 0]], axis=-1)
        direction = ahead[:, None] + self._right[:, None] * aside[:, None]  # [F, S, 2]
        hits = cast(self._solid, origin, direction)

        is_wall = self._rise * hits.depth[:, None] < 0.5  # [F, S / 2, S], of both halves
        above, below, wall_light = self._walls(hits, direction)
        above = np.where(is_wall, above, self._sky(direction))
        below = np.where(is_wall, below, self._floor(hits.depth, origin, direction))

        size = 2 * self._frame_size
        samples = np.empty((len(pose), size, size), np.uint64)
        upper, lower = samples[:, : size // 2][:, ::-1], samples[:, size // 2 :]
        full = np.uint64(_FULL_LIGHT)
        np.multiply(self._texels[above], np.where(is_wall, wall_light, full), out=upper)
        np.multiply(
            self._texels[below], np.where(is_wall, wall_light, self._floor_light), out=lower
        )
        pairs = samples[:, 0::2] + samples[:, 1::2]
        pixels = pairs[..., 0::2] + pairs[..., 1::2]
        lanes = pixels.view(np.uint16).reshape(*pixels.shape, 4)
        return lanes[..., :3] // np.uint16(4 * _FULL_LIGHT)

    def _walls(
        self, hits: Hits, direction: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns texels above the horizon and below, and the columns' light, uint64 [F, 1, S].

        Texels are indices int32 [F, S / 2, S], valid only where there is wall.
        """
        spacing = hits.depth * self._step
        # The more slanted a wall is, the further apart are its samples.
        facing = np.abs(np.where(hits.across_x, direction[..., 0], direction[..., 1]))
        level = _level(spacing, spacing / np.maximum(facing, np.float32(1e-6)))
        size = _LEVEL_SIZES[level].astype(np.int32)
        start = self._wall_start[hits.row, hits.column] + _LEVEL_STARTS[level].astype(np.int32)
        start += (hits.u * size).astype(np.int32) * size
        # Above the horizon, counted from the top of the wall; below, from its bottom.
        half = np.float32(0.5) * size[:, None]
        texel = (half - self._rise * (hits.depth * size)[:, None]).astype(np.int32)
        light = np.where(hits.across_x, np.float32(_SIDE_LIGHT), np.float32(1))
        above = start[:, None] + texel
        below = (start + size - 1)[:, None] - texel
        return above, below, _light(hits.depth, light)[:, None]

    def _floor(self, depth: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Returns the floor's texel for each sample below the horizon, int32 [F, S / 2, S]."""
        # Samples behind a wall are moved to the wall, so all of them lie inside the maze.
        depth = np.minimum(self._floor_depth, depth[:, None])
        x, y = (
            ((origin[:, i, None, None] + depth * direction[:, None, :, i]) * self._floor_size)
            for i in range(2)
        )
        x, y = x.astype(np.int32), y.astype(np.int32)
        bits, mask = self._floor_bits, self._floor_size - 1
        cell = (y >> bits) * np.int32(self._solid.shape[1]) + (x >> bits)
        return self._floor_start[cell] + self._floor_level_start + ((x & mask) << bits) + (y & mask)

    def _sky(self, direction: np.ndarray) -> np.ndarray:
        """Returns the sky's texel for each sample above the horizon, int32 [F, S / 2, S]."""
        dx, dy = direction[..., 0], direction[..., 1]
        across_x = np.abs(dx) > np.abs(dy)
        nearest = np.where(across_x, dx, dy)
        u = 0.5 + np.where(across_x, dy, -dx) / (2 * nearest)
        side = np.where(across_x, np.where(dx > 0, 1, 3), np.where(dy > 0, 2, 0))
        column = side * TEXTURE_SIZE + np.minimum(u * TEXTURE_SIZE, TEXTURE_SIZE - 1).astype(int)
        start = (self._sky_start + column * TEXTURE_SIZE).astype(np.int32)
        rise = self._rise * (np.float32(TEXTURE_SIZE / 2) / np.abs(nearest))[:, None]
        return start[:, None] + (np.float32(TEXTURE_SIZE / 2) - rise).astype(np.int32)


def _level(spacing: np.ndarray, other_spacing: np.ndarray) -> np.ndarray:
    """Returns the level of a texture to read, a compromise between flicker and blur."""
    texels = TEXTURE_SIZE * np.sqrt(spacing * other_spacing)
    return np.clip(np.rint(np.log2(texels)), 0, _NUM_LEVELS - 1).astype(np.int32)


def _light(depth: np.ndarray, light: np.ndarray | float = 1.0) -> np.ndarray:
    """Returns the visible share of a texture's light in 64ths, uint64."""
    return np.rint(_FULL_LIGHT * light / (1 + _FADE * depth)).astype(np.uint64)
