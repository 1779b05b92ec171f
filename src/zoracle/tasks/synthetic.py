"""What the tasks share whose problems are drawn, not read from a file."""

from __future__ import annotations

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.keyed import START_STREAM, normal
from zoracle.tasks.base import Task
from zoracle.types import Key

#: The ids of each split.
SPLIT_IDS = {"train": tuple(range(1000)), "valid": tuple(range(1000, 1100)), "test": tuple(range(2000, 2100))}

#: Keys what problems are made of. It is not a seed of a run: an id names the same problem in every run.
PROBLEM_SEED = 2020


class DrawnTask(Task):
    """Problems made of draws that are keyed by id: train 0 .. 999, valid 1000 .. 1099, test 2000 .. 2099.

    Any other id of at least 0 names a problem too.

    Args:
        dim: dimension of every problem.

    Raises:
        InputError: the dimension is below 1.
    """

    def __init__(self, *, dim: int) -> None:
        check_at_least("dim", dim, 1)
        self.dim = dim

    def ids(self, split: str) -> tuple[int, ...]:
        """The ids of a split, in a fixed order.

        Raises:
            InputError: the split is unknown.
        """
        self.check_split(split)
        return SPLIT_IDS[split]

    def _key(self, ids: tuple[int, ...]) -> Key:
        """What the problems are keyed by."""
        return Key.start(PROBLEM_SEED, self._checked(ids))

    def _draw(self, ids: tuple[int, ...], stream: int, *shape: int) -> Tensor:
        r"""Standard normal draws (P, \*shape) float64 that the problems are made of."""
        return normal(self._key(ids), shape, stream, torch.float64)

    def _checked(self, ids: tuple[int, ...]) -> Tensor:
        if not ids or min(ids) < 0:
            raise InputError(f"task {self.name} has no problems {list(ids)[:3]}; expected non-negative ids")
        return torch.tensor(ids, dtype=torch.int64)


class SyntheticTask(DrawnTask):
    """Problems drawn from a distribution. Points start at start_std * N(0, I), keyed by seed and id.

    Args:
        dim: dimension of every problem.
        start_std: standard deviation of the starting points.

    Raises:
        InputError: a setting out of its range.
    """

    def __init__(self, *, dim: int, start_std: float) -> None:
        super().__init__(dim=dim)
        check_at_least("start_std", start_std, 0)
        self.start_std = start_std

    def start(
        self,
        ids: tuple[int, ...],
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Starting points (P, d), keyed by seed and id."""
        key = Key.start(seed, self._checked(ids))
        return (self.start_std * normal(key, (self.dim,), START_STREAM, dtype)).to(device)


def check_at_least(name: str, value: float, low: float) -> None:
    """Raise an InputError where a setting is below its range, or NaN."""
    if not low <= value < float("inf"):
        raise InputError(f"{name} is {value}; expected a number of at least {low}")
