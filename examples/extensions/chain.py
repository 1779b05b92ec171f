"""A task of one's own in one file: ``zoracle compare --task examples/extensions/chain.py:Chains``."""

from __future__ import annotations

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.keyed import normal
from zoracle.objectives import Objective
from zoracle.tasks import Task, TaskDefaults
from zoracle.types import Evaluation, Key


class Chain(Objective):
    """Sum of (x_{j+1} - x_j)^2 + (x_0 - a_p)^2, with an end a_p (P,) for each problem."""

    differentiable = True

    def __init__(self, ends: Tensor, dim: int) -> None:
        self.ends, self.dim, self.num_problems = ends, dim, len(ends)

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        first = (points[:, 0] - self.ends[problem].to(points)).square()
        return Evaluation(first + points.diff(dim=1).square().sum(1))


class Chains(Task):
    """Chains whose ends are drawn by their ids: 0 .. 99 to train on, then 50 to choose on and 50 to report on."""

    name = "chains"
    defaults = TaskDefaults(steps=50, problems=20)

    def __init__(self, *, dim: int = 10) -> None:
        self.dim = dim

    def ids(self, split: str) -> tuple[int, ...]:
        """The ids of a split."""
        self.check_split(split)
        first, last = {"train": (0, 100), "valid": (100, 150), "test": (150, 200)}[split]
        return tuple(range(first, last))

    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Chain:
        """The chains with these ids."""
        if not ids or min(ids) < 0:
            raise InputError(f"task {self.name} has no problems {list(ids)}; expected ids of at least 0")
        ends = 1 + normal(Key.start(0, torch.tensor(ids)), (1,), 1, dtype)[:, 0].abs()
        return Chain(ends.to(device), self.dim)

    def start(
        self,
        ids: tuple[int, ...],
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Starting points (P, d), normally distributed."""
        return (0.1 * normal(Key.start(seed, torch.tensor(ids)), (self.dim,), 2, dtype)).to(device)
