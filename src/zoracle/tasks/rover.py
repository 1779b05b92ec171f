"""Paths of a rover through fields of obstacles."""

from __future__ import annotations

import torch
from torch import Tensor

from zoracle.keyed import START_STREAM, integers
from zoracle.objectives.rover import Rover
from zoracle.tasks.synthetic import DrawnTask, check_at_least
from zoracle.types import Key

_PARTS = 2**31
_START, _GOAL = (0.05, 0.05), (0.95, 0.95)


class RoverTask(DrawnTask):
    """Finding a cheap path from one corner of a field to the other, past obstacles drawn at random.

    Obstacles are squares with centres from the uniform distribution; those that would cover the start or the goal are
    left out. Points start at control points from the uniform distribution, keyed by seed and id. Coordinates lie in
    [0, 1].

    Args:
        waypoints: control points of the path, d = 2 waypoints.
        obstacles: squares of a field.
        side: of a square.

    Raises:
        InputError: a setting out of its range.
    """

    name = "rover"

    def __init__(self, *, waypoints: int = 30, obstacles: int = 15, side: float = 0.15) -> None:
        check_at_least("waypoints", waypoints, 4)
        check_at_least("obstacles", obstacles, 0)
        check_at_least("side", side, 0)
        super().__init__(dim=2 * waypoints)
        self.waypoints = waypoints
        self.obstacles = obstacles
        self.side = side

    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Rover:
        """The problems with these ids, in this order.

        Raises:
            InputError: an id below 0.
        """
        centres = _uniform(self._key(ids), 2 * self.obstacles, 0).view(len(ids), self.obstacles, 2)
        boxes = torch.cat((centres - self.side / 2, centres + self.side / 2), dim=2)
        ends = torch.tensor((_START, _GOAL), dtype=torch.float64).repeat(len(ids), 1, 1)
        for end in ends.unbind(1):
            at = end.unsqueeze(1)
            covers = ((boxes[..., :2] <= at) & (at <= boxes[..., 2:])).all(2, keepdim=True)
            boxes = torch.where(covers, -1.0, boxes)  # a box without an inside, where no path leads
        return Rover(boxes.to(device, dtype), ends.to(device, dtype), waypoints=self.waypoints)

    def start(
        self,
        ids: tuple[int, ...],
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Starting points (P, d), keyed by seed and id."""
        return _uniform(Key.start(seed, self._checked(ids)), self.dim, START_STREAM).to(device, dtype)


def _uniform(key: Key, n: int, stream: int) -> Tensor:
    """Draws (P, n) float64 from (0, 1)."""
    return (integers(key, _PARTS, n, stream).double() + 0.5) / _PARTS
