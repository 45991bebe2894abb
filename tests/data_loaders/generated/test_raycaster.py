"""Tests of the ray caster: the ends of rays, and the places of textures in the picture."""

import math

import numpy as np
import pytest

from data_loaders.generated.raycaster import (
    _FADE,
    _HALF_VIEW,
    _SIDE_LIGHT,
    TEXTURE_SIZE,
    Raycaster,
    cast,
    depth_ahead,
    texture_pyramid,
)

EAST, SOUTH, WEST, NORTH = 0.0, math.pi / 2, math.pi, -math.pi / 2
BLACK, WHITE, RED, GREEN, BLUE = (0, 0, 0), (255,) * 3, (250, 0, 0), (0, 250, 0), (0, 0, 250)


def plan(*rows: str) -> np.ndarray:
    """Returns a floor plan, bool [Y, X], from text with '#' for walls."""
    return np.array([list(row) for row in rows]) == "#"


HALL = plan("########", "#      #", "#      #", "########")
NOOKS = plan(
    "#########", "#   #   #", "# # # # #", "# #   # #", "# ##### #", "#       #", "#########"
)


def flat(color) -> np.ndarray:
    return np.full((TEXTURE_SIZE, TEXTURE_SIZE, 3), color, np.uint8)


def ramp() -> np.ndarray:
    """An image whose red grows from left to right, and its green from top to bottom."""
    image = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE, 3), np.uint8)
    image[..., 0] = np.arange(TEXTURE_SIZE)
    image[..., 1] = np.arange(TEXTURE_SIZE)[:, None]
    return image


def raycaster(solid, wall=WHITE, floor=BLACK, sky=(BLACK,) * 4, frame_size=64) -> Raycaster:
    """Returns a ray caster whose textures are colors, or the same image everywhere."""
    wall, floor = (texture if np.ndim(texture) == 3 else flat(texture) for texture in (wall, floor))
    return Raycaster(
        solid,
        np.zeros(solid.shape, int),
        [texture_pyramid(wall)],
        [texture_pyramid(floor)],
        [flat(side) for side in sky],
        frame_size,
    )


def light(depth, side=1.0):
    return side / (1 + _FADE * depth)


def rays(pose, tangents):
    """Returns origins [F, 2] and directions [F, S, 2] of rays to the right of poses by tangents."""
    pose, tangents = np.asarray(pose, np.float32), np.asarray(tangents, np.float32)
    ahead = np.stack([np.cos(pose[:, 2]), np.sin(pose[:, 2])], axis=-1)
    aside = np.stack([-ahead[:, 1], ahead[:, 0]], axis=-1)
    return pose[:, :2], ahead[:, None] + tangents[:, None] * aside[:, None]


@pytest.mark.parametrize(
    ("heading", "depth", "u", "row", "column"),
    # The eye is at (2.25, 1.4). Looking east, south is to the right, and so on.
    [
        (EAST, 4.75, 0.4, 1, 6),
        (SOUTH, 1.6, 0.75, 2, 2),
        (WEST, 1.25, 0.6, 1, 1),
        (NORTH, 0.4, 0.25, 1, 2),
    ],
)
def test_ray_by_hand(heading, depth, u, row, column):
    hits = cast(HALL, *rays([(2.25, 1.4, heading)], [0]))
    np.testing.assert_allclose(hits.depth, [[depth]], rtol=1e-5)
    np.testing.assert_allclose(hits.u, [[u]], atol=1e-5)
    assert (hits.row.item(), hits.column.item()) == (row, column)
    assert hits.across_x.item() == (heading in (EAST, WEST))


def test_depth_is_measured_along_the_view():
    # Rays to a wall straight ahead have the same depth, whatever their lengths.
    hits = cast(HALL, *rays([(4.5, 2, EAST)], np.linspace(-0.3, 0.3, 31)))
    np.testing.assert_allclose(hits.depth, 2.5, rtol=1e-5)
    np.testing.assert_allclose(
        hits.u[0], np.mod(2 + 2.5 * np.linspace(-0.3, 0.3, 31), 1), atol=1e-4
    )


def slow_ray(solid, x, y, dx, dy):
    """Follows one ray from cell to cell in Python; returns depth, axis, row and column."""
    column, row = math.floor(x), math.floor(y)
    while True:
        to_x = ((column + (dx > 0)) - x) / dx
        to_y = ((row + (dy > 0)) - y) / dy
        before = (row, column)
        if to_x < to_y:
            column += 1 if dx > 0 else -1
        else:
            row += 1 if dy > 0 else -1
        if solid[row, column]:
            return min(to_x, to_y), to_x < to_y, *before


@pytest.mark.parametrize("solid", [HALL, NOOKS], ids=["hall", "nooks"])
def test_agrees_with_one_ray_at_a_time(solid):
    rng = np.random.default_rng(0)
    cells = np.argwhere(~solid)
    cells = cells[rng.integers(len(cells), size=60)]
    place = cells[:, ::-1] + rng.uniform(0.05, 0.95, (60, 2))
    pose = np.concatenate([place, rng.uniform(-7, 7, (60, 1))], axis=1)
    origin, direction = rays(pose, np.linspace(-0.7, 0.7, 21))
    hits = cast(solid, origin, direction)
    other_cells = 0
    for f in range(60):
        for s in range(21):
            ray = (*origin[f].tolist(), *direction[f, s].tolist())
            depth, across_x, row, column = slow_ray(solid, *ray)
            np.testing.assert_allclose(hits.depth[f, s], depth, rtol=1e-4, err_msg=str(ray))
            found = (hits.across_x[f, s], hits.row[f, s], hits.column[f, s])
            other_cells += found != (across_x, row, column)
    assert other_cells <= 1, "only a ray into the very corner may end on either side of it"
    assert not solid[hits.row, hits.column].any()


def random_poses(solid, count, seed=0):
    rng = np.random.default_rng(seed)
    cells = np.argwhere(~solid)
    place = cells[rng.integers(len(cells), size=count), ::-1] + rng.uniform(0.05, 0.95, (count, 2))
    return np.concatenate([place, rng.uniform(-7, 7, (count, 1))], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("pose", "depth"),
    # The hall is open from x = 1 to 7 and from y = 1 to 3.
    [
        ((2.25, 1.4, EAST), 4.75),
        ((2.25, 1.4, SOUTH), 1.6),
        ((2.25, 1.4, WEST), 1.25),
        ((2.25, 1.4, NORTH), 0.4),
        ((2.25, 1.4, EAST + 4 * math.pi), 4.75),
        ((2, 2, math.pi / 4), math.sqrt(2)),
        ((2, 2, math.atan2(1, 3)), math.sqrt(10)),
        ((2, 2, math.atan2(-1, 6)), 5 * math.sqrt(37) / 6),
    ],
)
def test_depth_ahead_by_hand(pose, depth):
    found = depth_ahead(HALL, np.array([pose, (4, 2, EAST)]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [depth, 3], rtol=1e-5)


@pytest.mark.parametrize("solid", [HALL, NOOKS], ids=["hall", "nooks"])
def test_depth_ahead_agrees_with_one_ray_at_a_time(solid):
    pose = random_poses(solid, 200)
    directions = zip(np.cos(pose[:, 2]), np.sin(pose[:, 2]), strict=True)
    slow = [
        slow_ray(solid, float(x), float(y), float(dx), float(dy))[0]
        for (x, y, _), (dx, dy) in zip(pose, directions, strict=True)
    ]
    np.testing.assert_allclose(depth_ahead(solid, pose), slow, rtol=1e-4)


@pytest.mark.parametrize("solid", [HALL, NOOKS], ids=["hall", "nooks"])
def test_the_middle_of_the_picture_shows_the_depth_ahead(solid):
    pose = random_poses(solid, 100, seed=3)
    depth = depth_ahead(solid, pose)
    # White walls between black sky and floor: a wall has size / (2 tan(35 deg) depth) pixels.
    middle = raycaster(solid).render(pose)[:, :, 31:33, 0].astype(float)
    heights = np.sort(middle.sum(1) / middle.max(1), axis=1)
    expected = np.minimum(64 / (2 * _HALF_VIEW * depth), 64)
    assert ((heights[:, 0] - 0.7 < expected) & (expected < heights[:, 1] + 0.7)).all()
    # Elsewhere than at corners, both columns show it.
    assert np.mean(np.abs(heights - expected[:, None]).max(1) < 0.7) > 0.8
    assert np.ptp(expected) > 40


@pytest.mark.parametrize("distance", [0.8, 1.0, 2.0, 3.7])
@pytest.mark.parametrize("frame_size", [64, 33])
def test_height_of_a_wall(distance, frame_size):
    frame = raycaster(HALL, frame_size=frame_size).render(np.array([(7 - distance, 2, EAST)]))[0]
    middle = frame[:, frame_size // 2, 0] / (255 * light(distance, _SIDE_LIGHT))
    # A wall has frame_size / (2 tan(35 deg) distance) pixels, symmetric about the horizon.
    np.testing.assert_allclose(middle.sum(), frame_size / (2 * _HALF_VIEW * distance), atol=0.6)
    np.testing.assert_array_equal(middle, middle[::-1])
    # Without fish-eye distortion, the far wall's edges are straight and level.
    half = int(0.9 / distance / _HALF_VIEW * frame_size / 2)
    columns = frame[:, frame_size // 2 - half : frame_size // 2 + half]
    np.testing.assert_array_equal(columns, np.broadcast_to(columns[:, :1], columns.shape))


def test_close_wall_fills_the_frame():
    frame = raycaster(HALL, wall=RED, sky=(BLUE,) * 4).render(np.array([(3.3, 1.3, NORTH)]))[0]
    assert frame[..., 0].min() > 200
    assert frame[..., 1:].max() == 0


def test_floor_texture_at_known_pixels():
    pose = np.array([(2.3, 1.6, 0.4)])
    frame = raycaster(plan(*["#" * 9, *["#       #"] * 5, "#" * 9]), floor=ramp()).render(pose)[0]
    checked = 0
    for row in range(40, 64, 3):
        for column in range(4, 64, 7):
            down = (row + 0.5 - 32) / 32 * _HALF_VIEW
            right = (column + 0.5 - 32) / 32 * _HALF_VIEW
            depth = 0.5 / down
            x = 2.3 + depth * (math.cos(0.4) - right * math.sin(0.4))
            y = 1.6 + depth * (math.sin(0.4) + right * math.cos(0.4))
            inside = 1.05 < x < 7.95 and 1.05 < y < 5.95
            # Where the texture repeats, a pixel is the mean of both ends.
            if inside and 0.15 < x % 1 < 0.85 and 0.15 < y % 1 < 0.85:
                seen = frame[row, column] / (255 * light(depth))
                np.testing.assert_allclose(seen[:2], (x % 1, y % 1), atol=0.04)
                checked += 1
    assert checked > 20


@pytest.mark.parametrize("heading", [EAST, SOUTH, WEST, NORTH])
def test_wall_texture_at_known_pixels(heading):
    # From the middle of a room of 2 x 2 cells, the border of two wall cells is straight ahead.
    room = plan("####", "#  #", "#  #", "####")
    frame = raycaster(room, wall=ramp()).render(np.array([(2, 2, heading)]))[0]
    side = _SIDE_LIGHT if heading in (EAST, WEST) else 1.0
    for row in (12, 24, 30, 33, 40, 50):
        for column in (8, 16, 26, 38, 45, 55):
            up, right = (32 - row - 0.5) / 32 * _HALF_VIEW, (column + 0.5 - 32) / 32 * _HALF_VIEW
            seen = frame[row, column] / (255 * light(1, side))
            np.testing.assert_allclose(seen[:2], (right % 1, 0.5 - up), atol=0.03)


@pytest.mark.parametrize("distance", [0.8, 2.0, 5.0])
def test_wall_ends_with_its_texture(distance):
    # White above the horizon and black below, at all sizes of the texture.
    halves = flat(WHITE)
    halves[TEXTURE_SIZE // 2 :] = 0
    frame = raycaster(HALL, wall=halves).render(np.array([(7 - distance, 2, EAST)]))[0]
    half = int(32 / _HALF_VIEW / distance / 2)
    assert frame[32 - half : 32, 32].min() > 100
    assert frame[32:, 32].max() == 0


def test_sky_has_four_sides_that_do_not_move():
    sides = (RED, GREEN, BLUE, WHITE)
    caster = raycaster(HALL, wall=BLACK, sky=sides)
    for x, y in ((2.5, 2), (5.5, 2)):
        pose = np.array([(x, y, heading) for heading in (NORTH, EAST, SOUTH, WEST)])
        np.testing.assert_array_equal(caster.render(pose)[:, 0, 32], sides)
    # Looking north-east, the edge between the two sides is in the middle of the picture.
    frame = caster.render(np.array([(2.5, 2, -math.pi / 4)]))[0]
    np.testing.assert_array_equal(frame[0, 31], RED)
    np.testing.assert_array_equal(frame[0, 32], GREEN)


def test_sky_texture_at_known_pixels():
    black = texture_pyramid(flat(BLACK))
    zone = np.zeros(HALL.shape, int)
    caster = Raycaster(HALL, zone, [black], [black], [ramp()] * 4, 64)
    frames = caster.render(np.array([(4, 2, heading) for heading in (NORTH, EAST, SOUTH, WEST)]))
    for row, column in ((0, 0), (0, 31), (3, 63), (7, 20), (5, 50)):
        up, right = (32 - row - 0.5) / 32 * _HALF_VIEW, (column + 0.5 - 32) / 32 * _HALF_VIEW
        expected = np.array([0.5 + right / 2, 0.5 - up / 2]) * 255
        np.testing.assert_allclose(frames[:, row, column, :2], [expected] * 4, atol=2)


def test_walls_and_floors_have_the_textures_of_their_zone():
    zone = np.zeros(HALL.shape, int)
    zone[:, 4:] = 1
    walls, floors = (
        [texture_pyramid(flat(color)) for color in colors]
        for colors in ((RED, GREEN), (BLUE, WHITE))
    )
    caster = Raycaster(HALL, zone, walls, floors, [flat(BLACK)] * 4, 64)
    east, west, north = caster.render(np.array([(4, 2, EAST), (4, 2, WEST), (4, 1.9, NORTH)]))
    assert east[32, 32].argmax() == 1
    assert west[32, 32].argmax() == 0
    np.testing.assert_array_equal(east[63] > 0, np.ones((64, 3)))
    np.testing.assert_array_equal(west[63] > 0, np.tile([False, False, True], (64, 1)))
    # To the north the border runs through the middle of the picture.
    np.testing.assert_array_equal(north[32, [31, 32]] > 0, [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(north[63, [31, 32]] > 0, [[0, 0, 1], [1, 1, 1]])


def test_frames_do_not_depend_on_others():
    rng = np.random.default_rng(1)
    pose = np.column_stack(
        [rng.uniform(1.3, 6.7, 21), rng.uniform(1.3, 2.7, 21), rng.normal(size=21)]
    )
    pose = pose.astype(np.float32)
    noise = rng.integers(256, size=(TEXTURE_SIZE, TEXTURE_SIZE, 3)).astype(np.uint8)
    caster = raycaster(HALL, wall=noise, floor=noise, sky=(RED, GREEN, BLUE, WHITE), frame_size=32)
    frames = caster.render(pose)
    assert frames.shape == (21, 32, 32, 3)
    assert frames.dtype == np.uint8
    for start, stop in ((0, 1), (3, 4), (5, 16), (20, 21)):
        np.testing.assert_array_equal(caster.render(pose[start:stop]), frames[start:stop])


def test_far_textures_are_their_mean():
    # Stripes of one texel. Far away they are invisible and do not flicker.
    stripes = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE, 3), np.uint8)
    stripes[:, ::2] = 200
    hall = plan("#" * 12, "#" + " " * 10 + "#", "#" * 12)
    frame = raycaster(hall, wall=stripes).render(np.array([(2, 1.5, EAST)]))[0]
    np.testing.assert_allclose(frame[32, 30:34, 0] / light(9, _SIDE_LIGHT), 100, atol=3)


def test_pyramid_keeps_the_mean():
    rng = np.random.default_rng(2)
    image = rng.integers(256, size=(TEXTURE_SIZE, TEXTURE_SIZE, 3)).astype(np.uint8)
    texels = texture_pyramid(image)
    lanes = texels.view(np.uint16).reshape(-1, 4)
    assert len(texels) == sum(4**n for n in range(9))
    np.testing.assert_allclose(lanes[-1, :3], image.mean(axis=(0, 1)), atol=0.6)
    finest = lanes[: TEXTURE_SIZE**2].reshape(TEXTURE_SIZE, TEXTURE_SIZE, 4)
    np.testing.assert_array_equal(finest[..., :3], image.swapaxes(0, 1))
