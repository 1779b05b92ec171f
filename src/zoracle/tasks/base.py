"""The base of tasks: a task is a family of problems that can be sampled by split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.objectives.base import Objective

SPLITS = ("train", "valid", "test")


class TaskDefaults(NamedTuple):
    """The default settings of runs on a task."""

    steps: int = 200
    num_directions: int = 20
    problems: int = 100
    """Number of problems of a split in a comparison."""


class Pictures(NamedTuple):
    """Images, labels and class names for the report of an attack."""

    images: Tensor
    """(P, C, H, W) in [0, 1]."""
    labels: Tensor
    """(P,) int64."""
    class_names: tuple[str, ...]


class Task(ABC):
    """A family of problems with stable, disjoint ids by split.

    Meta-training draws from ``train``, every choice is made on ``valid``, ``test`` is reported once.

    Attributes:
        name: its name on the command line.
        dim: dimension of every problem.
        defaults: steps, directions and problems of a standard run.
        measures_noise: whether the noise is first measured, within the budget, for optimizers that adapt to it.
        recheck: whether a resumed run evaluates one stored point again, because the target may have changed.
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
            InputError: an id is unknown.
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
        """Images to draw if the task is an attack; None otherwise."""
        return None

    def check_split(self, split: str) -> None:
        """Raise an InputError if the split is unknown."""
        if split not in SPLITS:
            raise InputError(f"split {split!r} is unknown; expected one of {', '.join(SPLITS)}")
