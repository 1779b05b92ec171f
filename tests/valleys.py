"""Problems that count what they are asked for, and succeed or fail when a test wants it."""

from __future__ import annotations

import torch

from zoracle.errors import InputError
from zoracle.keyed import normal
from zoracle.objectives.base import Objective
from zoracle.optimizers.registry import make
from zoracle.tasks.base import Task, TaskDefaults
from zoracle.types import Evaluation, Key

M = 5  # points per step of the optimizers below: q = 4 and the iterate


def sgd(**settings):
    return make("zo-sgd", **{"num_directions": 4, "lr": 0.1, **settings})


class Valley(Objective):
    """f_i(x) = a |x|^2 / 2 + offset_i, every point counted; the n-th point of a problem may succeed, or be NaN."""

    def __init__(self, task: FakeTask, ids: tuple[int, ...]):
        self.dim, self.num_problems, self.task, self.ids = task.dim, len(ids), task, ids
        self.stochastic = task.stochastic
        self.points = [0] * len(ids)

    def _evaluate(self, points, problem, step):
        task = self.task
        task.calls += 1
        if task.calls == task.raise_at:
            raise KeyboardInterrupt
        task.seen += len(points)
        loss = 0.5 * task.curvature * points.square().sum(1) + 0.01
        if self.stochastic and step is not None:
            loss = loss + 0.5
        success = torch.zeros(len(points), dtype=torch.bool)
        for row, p in enumerate(problem.tolist()):
            self.points[p] += 1
            i = self.ids[p]
            success[row] = self.points[p] == task.succeeds.get(i)
            if self.points[p] > task.nan_after.get(i, 10**9):
                loss[row] = torch.nan
        return Evaluation(loss, success if task.knows else None)


class FakeTask(Task):
    """Valleys with ids 0 .. 9 (train), 10 .. 19 (valid), 20 .. 29 (test)."""

    def __init__(self, dim=6, curvature=1.0, knows=True, succeeds=None, nan_after=None, stochastic=False):
        self.name, self.dim, self.curvature = "valley", dim, curvature
        self.defaults = TaskDefaults(steps=4, num_directions=4, problems=3)
        self.knows, self.stochastic = knows, stochastic
        self.succeeds, self.nan_after = succeeds or {}, nan_after or {}
        self._seen = self._calls = 0
        self._raise_at = -1

    seen = property(lambda self: self._seen, lambda self, value: setattr(self, "_seen", value))
    calls = property(lambda self: self._calls, lambda self, value: setattr(self, "_calls", value))
    raise_at = property(lambda self: self._raise_at, lambda self, value: setattr(self, "_raise_at", value))

    def ids(self, split):
        self.check_split(split)
        first = {"train": 0, "valid": 10, "test": 20}[split]
        return tuple(range(first, first + 10))

    def objective(self, ids, *, dtype=torch.float32, device="cpu"):
        if max(ids) > 29:
            raise InputError(f"task valley has no problem {max(ids)}; expected 0 .. 29")
        return Valley(self, tuple(ids))

    def start(self, ids, *, seed=0, dtype=torch.float32, device="cpu"):
        return normal(Key.start(seed, torch.tensor(ids)), (self.dim,), 9, dtype)
