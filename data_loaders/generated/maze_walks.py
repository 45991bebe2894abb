"""Floor plans of two rooms with a passage between them, and walks through them.

Plans come from `labmaze.RandomMaze`. A walker heads for a few random places in a room, then for the
other room. It turns and walks with limited speeds and accelerations, and slides along walls.

T is a walk's length; Y and X are the cells of a floor plan.
"""

import collections
import math
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np

PLAN_SIZES = (7, 9, 11)  # Cells along an edge of a floor plan, walls included.
LONGEST_PASSAGE = 5  # Cells. In longer passages a clip would show little but walls.
STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))

# Cells or radians, per frame or per frame squared.
TOP_SPEED = (0.06, 0.09)
SPEED_CHANGE = 0.008
TURN_SPEED = 0.12
TURN_CHANGE = 0.02
TURN_GAIN = 0.15  # Turn speed per angle left to turn: slow enough to brake within TURN_CHANGE.
CLEARANCE = 0.25  # From any wall.
ARRIVAL = 0.3  # Nearer than this, a place has been reached.


class Maze(NamedTuple):
    """A floor plan.

    solid: bool [Y, X].
    room: int64 [Y, X]: 0 or 1 in the two rooms, -1 elsewhere.
    zone: int64 [Y, X]: the nearer room, by walking distance; 0 in walls.
    passage: Cells (row, column) from room 0 to room 1; the first and last lie in the rooms.
    """

    solid: np.ndarray
    room: np.ndarray
    zone: np.ndarray
    passage: list[tuple[int, int]]


def random_maze(labmaze: ModuleType, rng: np.random.Generator, parity: int) -> Maze:
    """Returns a floor plan made by `labmaze`. Plans of parity 0 and 1 use different seeds."""
    while True:
        height, width = rng.choice(PLAN_SIZES, 2)
        plan = labmaze.RandomMaze(
            height=int(height),
            width=int(width),
            max_rooms=2,
            max_variations=2,
            # Odd for one parity, even for the other.
            random_seed=2 * int(rng.integers(2**30)) + parity,
        )
        solid = np.asarray(plan.entity_layer) == "*"
        letters = np.asarray(plan.variations_layer)
        room = np.where(letters == "A", 0, np.where(letters == "B", 1, -1))
        if not np.any(room == 1):
            continue  # There was no space for a second room.
        distances = [_distances(solid, room == k) for k in range(2)]
        zone = np.where(distances[1] < distances[0], 1, 0)
        passage = _passage(room, distances[1])
        if len(passage) - 2 <= LONGEST_PASSAGE:
            return Maze(solid, room, zone, passage)


def _distances(solid: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Returns the steps to the nearest start cell, int64 [Y, X]; larger than any in walls."""
    distances = np.where(start, 0, solid.size)
    queue = collections.deque(map(tuple, np.argwhere(start)))
    while queue:
        row, column = queue.popleft()
        for step in STEPS:
            cell = (row + step[0], column + step[1])
            if not solid[cell] and distances[cell] == solid.size:
                distances[cell] = distances[row, column] + 1
                queue.append(cell)
    return distances


def _passage(room: np.ndarray, distances: np.ndarray) -> list[tuple[int, int]]:
    """Returns the shortest way from room 0 to cells with distance zero, both ends included."""
    cells = np.argwhere(room == 0)
    cell = tuple(int(k) for k in cells[np.argmin(distances[room == 0])])
    way = [cell]
    while distances[cell]:
        cell = min(((cell[0] + dy, cell[1] + dx) for dy, dx in STEPS), key=lambda c: distances[c])
        way.append(cell)
    return way


def _places(maze: Maze, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
    """Yields the walker's goals (x, y), each on a straight way from the one before."""
    here = int(rng.integers(2))
    place = (math.inf, math.inf)
    while True:
        rows, columns = np.nonzero(maze.room == here)
        low = np.array([columns.min(), rows.min()]) + 2 * CLEARANCE
        high = np.array([columns.max(), rows.max()]) + 1 - 2 * CLEARANCE
        for _ in range(rng.integers(2, 5)):
            last = place
            while True:
                place = tuple(rng.uniform(low, high).tolist())
                if math.dist(place, last) > 1:
                    break
            yield place
        way = maze.passage if here == 0 else maze.passage[::-1]
        for row, column in way:
            place = (column + 0.5, row + 0.5)
            yield place
        here = 1 - here


def walk(maze: Maze, rng: np.random.Generator, length: int) -> np.ndarray:
    """Returns the poses of a random walk.

    Args:
      maze: The floor plan.
      rng: The source of randomness.
      length: T.

    Returns:
      float64 [T, 3]: x, y and heading, as in `ProceduralMazes.attributes`. A shorter walk is the
      beginning of a longer one.
    """
    places = _places(maze, rng)
    x, y = next(places)
    goal = next(places)
    heading = rng.uniform(-math.pi, math.pi)
    top_speed = rng.uniform(*TOP_SPEED)
    speed = turn = 0.0
    poses = np.empty((length, 3))
    for t in range(length):
        poses[t] = x, y, heading
        while math.dist((x, y), goal) < ARRIVAL:
            goal = next(places)
        error = math.remainder(math.atan2(goal[1] - y, goal[0] - x) - heading, 2 * math.pi)
        turn += _limit(_limit(TURN_GAIN * error, TURN_SPEED) - turn, TURN_CHANGE)
        # Facing away from the goal, the walker turns on the spot, so it never circles the goal.
        speed += _limit(top_speed * max(0.0, math.cos(error)) ** 2 - speed, SPEED_CHANGE)
        heading += turn
        x += speed * math.cos(heading)
        y += speed * math.sin(heading)
        # A step is shorter than the clearance, so it ends in an open cell.
        x, y = clear_of_walls(maze.solid, x, y)
    return poses


def _limit(value: float, bound: float) -> float:
    return max(-bound, min(bound, value))


def clear_of_walls(solid: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """Returns the nearest place in the cell of (x, y) at a distance of CLEARANCE from walls."""
    column, row = math.floor(x), math.floor(y)
    near_x = -1 if x - column < CLEARANCE else 1 if x - column > 1 - CLEARANCE else 0
    near_y = -1 if y - row < CLEARANCE else 1 if y - row > 1 - CLEARANCE else 0
    corner_x, corner_y = column + max(near_x, 0), row + max(near_y, 0)
    if near_x and solid[row, column + near_x]:
        x = corner_x - near_x * CLEARANCE
        near_x = 0
    if near_y and solid[row + near_y, column]:
        y = corner_y - near_y * CLEARANCE
        near_y = 0
    if near_x and near_y and solid[row + near_y, column + near_x]:
        distance = math.dist((x, y), (corner_x, corner_y))
        if 0 < distance < CLEARANCE:  # A convex corner of a wall.
            scale = CLEARANCE / distance
            x, y = corner_x + (x - corner_x) * scale, corner_y + (y - corner_y) * scale
    return x, y
