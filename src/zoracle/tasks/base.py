"""What a task is: a family of problems that can be sampled by split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.objectives.base import Objective

SPLITS = ("train", "valid", "test")


class TaskDefaults(NamedTuple):
    """The settings that a task is run with when the caller names none."""

    steps: int = 200
    num_directions: int = 20
    problems: int = 100
    """How many problems of a split a comparison takes."""


class Pictures(NamedTuple):
    """What a report needs to draw the problems of an attack."""

    images: Tensor
    """(P, C, H, W) in [0, 1]."""
    labels: Tensor
    """(P,) int64."""
    class_names: tuple[str, ...]


class Task(ABC):
    """A family of problems with stable, disjoint ids by split.

    Meta-training draws from ``train``, every choice is made on ``valid``, ``test`` is reported once.

    Attributes:
        name: what the command line calls it.
        dim: dimension of every problem.
        defaults: steps, directions and problems of a standard run.
        measures_noise: whether optimizers that follow the noise of f have it measured first, for queries of the budget.
        recheck: whether a run that continues asks for one stored point again: what answers may have changed unnoticed.
    """

    name: str
    dim: int
    defaults: TaskDefaults = TaskDefaults()
    recheck: ClassVar[bool] = False
    measures_noise: ClassVar[bool] = False

    @abstractmethod
    def ids(self, split: str) -> tuple[int, ...]:
        """The ids of a split, in a fixed order.

        Raises:
            InputError: the split is not one of train, valid, test.
        """

    @abstractmethod
    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Objective:
        """The problems with these ids, in this order.

        Raises:
            InputError: an id that the task does not have.
        """

    @abstractmethod
    def start(
        self,
        ids: tuple[int, ...],
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Starting points (P, d), keyed by seed and id."""

    def pictures(self, ids: tuple[int, ...]) -> Pictures | None:
        """Images to draw, where the task is an attack; None otherwise."""
        return None

    def check_split(self, split: str) -> None:
        """Raise an InputError where the split is unknown."""
        if split not in SPLITS:
            raise InputError(f"split {split!r} is unknown; expected one of {', '.join(SPLITS)}")
