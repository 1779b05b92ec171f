"""What other processes of tests import: tasks that are slow, fail, warn or end their process; and memory held."""

from __future__ import annotations

import os
import signal
import time
import warnings
from pathlib import Path

import torch

from zoracle.errors import BlackBoxError, MuTooSmallWarning
from zoracle.keyed import normal
from zoracle.objectives.base import Objective
from zoracle.tasks.base import Task, TaskDefaults
from zoracle.types import Evaluation, Key


class Bowl(Objective):
    """f(x) = |x|^2 / 2, with a pause and a mishap."""

    def __init__(self, task: MishapTask, ids: tuple[int, ...]):
        self.dim, self.num_problems, self.task, self.ids = task.dim, len(ids), task, ids
        self.calls = 0

    def _evaluate(self, points, problem, step):
        self.calls += 1
        time.sleep(self.task.pause)
        trouble = Path(self.task.trouble)
        if self.calls in (1, 3) and trouble.is_file():
            kind = trouble.read_text()
            if kind != "warns":
                wait_for_parts(trouble.parent / "run", 2)  # neither is done before the other has begun
            if self.calls == 3 and self.task.at in self.ids:
                mishap(kind)
        return Evaluation(0.5 * points.square().sum(1))


def wait_for_parts(folder: Path, number: int) -> None:
    """Until so many shards are at work."""
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.part"))) < number and time.monotonic() < deadline:
        time.sleep(0.01)


def mishap(kind: str) -> None:
    if kind == "fails":
        raise BlackBoxError("the model raised ConnectionError: gone")
    if kind == "breaks":
        raise ZeroDivisionError("a bug")
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "warns":
        warnings.warn("mu is small", MuTooSmallWarning, stacklevel=1)


class MishapTask(Task):
    """Bowls with ids 0 .. 9 in each split; in the third call about one of them happens what a file says, if any."""

    name = "mishap"

    def __init__(self, *, pause: float = 0.0, trouble: str = "", at: int = -1):
        self.dim = 6
        self.defaults = TaskDefaults(steps=5, num_directions=4, problems=4)
        self.pause, self.trouble, self.at = pause, trouble, at

    def ids(self, split):
        return tuple(range(10))

    def objective(self, ids, *, dtype=torch.float32, device="cpu"):
        return Bowl(self, tuple(ids))

    def start(self, ids, *, seed=0, dtype=torch.float32, device="cpu"):
        return normal(Key.start(seed, torch.tensor(ids)), (self.dim,), 9, dtype)


class ForgetfulTask(MishapTask):
    """Keeps another value than it was given."""

    def __init__(self, *, pause: float = 0.0):
        super().__init__(pause=pause)
        self.pause = pause + 1.0


def hold(mib: int, small: bool) -> None:
    """Fill some memory and let go of it."""
    torch.ones(1 if small else mib * 2**18)
