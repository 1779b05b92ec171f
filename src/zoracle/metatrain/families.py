"""The families of problems of a training."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle import keyed
from zoracle.metatrain.config import Family
from zoracle.objectives.base import Objective
from zoracle.objectives.transform import Rescaled
from zoracle.tasks.base import Task
from zoracle.types import Key

_SCALE_STREAM = 5


class Beginning(NamedTuple):
    """The start of a run."""

    objective: Objective
    """In the run's units."""
    ids: Tensor
    """(B,)."""
    x0: Tensor
    """(B, d) starting points, in those units."""
    unit: Tensor
    """(B, 1) what x is multiplied by to be in the task's own units."""


class Problems:
    """Problems of one family, with the starting points and units of their runs.

    Args:
        objective: its row p is problem ``ids[p]``.
        task: where starting points come from.
        ids: the problems.
        rescale: R; each run's coordinates are measured in units that are multiplied by a factor drawn evenly in its
            logarithm from [1 / R, R].
        dtype: of the points.
    """

    def __init__(
        self, objective: Objective, task: Task, ids: tuple[int, ...], rescale: float, dtype: torch.dtype
    ) -> None:
        self.objective = objective
        self.task = task
        self.ids = ids
        self.rescale = rescale
        self.dtype = dtype

    def begin(self, rows: Tensor, seed: int) -> Beginning:
        """The start of a run under this seed.

        Args:
            rows: (B,) which problems.
            seed: keys starting points and units, with the problems' ids.
        """
        ids = tuple(self.ids[row] for row in rows.tolist())
        x0 = self.task.start(ids, seed=seed, dtype=self.dtype)
        if self.rescale == 1:
            return Beginning(self.objective, torch.tensor(ids), x0, x0.new_ones((len(ids), 1)))
        drawn = keyed.uniform(Key.start(seed, torch.tensor(self.ids)), _SCALE_STREAM)
        factors = torch.exp((2 * drawn - 1) * math.log(self.rescale)).to(self.dtype)
        unit = factors[rows].unsqueeze(1)
        return Beginning(Rescaled(self.objective, scale=factors), torch.tensor(ids), x0 / unit, unit)


class TrainingFamily(Problems):
    """One family's problems of the training split, drawn so that each comes once in every pass.

    Args:
        family: what the config says of it.
        task: the task that it names.
        dtype: of the points.
        seed: keys the order.
    """

    def __init__(self, family: Family, task: Task, dtype: torch.dtype, *words: int) -> None:
        ids = task.ids("train")
        ids = ids[: family.problems or len(ids)]
        super().__init__(task.objective(ids, dtype=dtype), task, ids, family.rescale, dtype)
        self.weight = family.weight
        self.meta_batch = family.meta_batch
        self.displacement = family.displacement
        self.values = family.values
        self.every = family.every
        self.words = words

    def draw(self, stage: int, unroll: int, count: int) -> Tensor:
        """Rows of a meta-batch: every problem once in each pass, in a fresh order."""
        n = len(self.ids)
        rows = []
        for position in range(unroll * count, (unroll + 1) * count):
            order = keyed.permutation(n, *self.words, stage, position // n)
            rows.append(int(order[position % n]))
        # A problem comes once in a batch; where a pass ends within one, the next pass may repeat it.
        return torch.tensor(list(dict.fromkeys(rows)), dtype=torch.int64)
