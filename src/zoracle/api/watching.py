"""Observers of a minimisation: callbacks, a time limit, a progress bar."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from torch import Tensor

from zoracle.api.solutions import Progress
from zoracle.errors import MuTooSmallWarning, NonFiniteWarning, NoSignalWarning
from zoracle.optimizers.base import Optimizer
from zoracle.rollout import Step
from zoracle.types import StopReason, Trajectory

#: Share of values that are NaN or infinite from which on there is a warning.
_MANY = 0.01
#: Differences over noise below which nothing is seen.
_BURIED = 3.0

Watch = Callable[[Step], StopReason | None]


def all_of(*watches: Watch | None) -> Watch:
    """One ``on_step`` of several, shown each step in turn; the first reason to stop counts."""

    def watch(step: Step) -> StopReason | None:
        found = [one(step) for one in watches if one is not None]
        return next((why for why in found if why is not None), None)

    return watch


class Account:
    """Keeps what an optimizer says that its steps were spent on, of B problems.

    Attributes:
        found: numbers (B,) by name, as of each problem's last step.
    """

    def __init__(self, optimizer: Optimizer[Any, Any], problems: int) -> None:
        self.optimizer, self.problems = optimizer, problems
        self.found: dict[str, Tensor] = {}

    def __call__(self, step: Step) -> None:
        """See a step."""
        for name, values in self.optimizer.account(step.state).items():
            kept = self.found.setdefault(name, torch.zeros(self.problems, dtype=values.dtype))
            kept[step.live] = values.detach().cpu()


def resolution(dtype: torch.dtype) -> Watch:
    """Warns where a first step's values are all the same: f computes in a coarser type than its points have."""
    first = True

    def watch(step: Step) -> None:
        nonlocal first
        loss = step.evaluation.loss
        # Where a wider mu was measured, that has been seen to.
        if (
            first
            and loss.shape[1] > 2
            and not bool((step.trajectory.mu > 0).any())
            and bool((loss == loss[:, :1]).all())
        ):
            warnings.warn(
                f"all values of the first step are the same: f is flat here, or computes in a coarser type than "
                f"its points, which are {dtype}; give float32 points, or a larger smoothing radius, mu=1e-5 say",
                MuTooSmallWarning,
                stacklevel=2,
            )
        first = False

    return watch


def calls_back(callback: Callable[[Progress], Any], progress: Callable[[Step], Progress]) -> Watch:
    """Stops where the callback returns True or raises StopIteration."""

    def watch(step: Step) -> StopReason | None:
        try:
            answer = callback(progress(step))
        except StopIteration:
            return StopReason.CALLBACK
        return StopReason.CALLBACK if answer is True else None

    return watch


def limited(seconds: float) -> Watch:
    """Stops after the first step that ends so many seconds from now or later."""
    end = time.monotonic() + seconds
    return lambda step: StopReason.TIME if time.monotonic() >= end else None


@contextmanager
def shown(wanted: bool, budget: int) -> Iterator[Watch | None]:
    """A bar of the queries spent and the best value on the terminal; nothing where there is no terminal."""
    console = Console(stderr=True)
    if not (wanted and console.is_terminal):
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.completed:,}/{task.total:,}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Bars(*columns, console=console) as bars:
        bar = bars.add_task("starting", total=budget)

        def watch(step: Step) -> None:
            record = step.trajectory
            told = f"best {float(record.best_loss.min()):.6g}"
            bars.update(bar, completed=int(record.total_queries.max()), description=told)

        yield watch


def doubts(record: Trajectory) -> None:
    """Issue the warnings that qualify a result."""
    lost = float((record.non_finite / record.total_queries.clamp(min=1)).max())
    if lost > _MANY:
        warnings.warn(f"{lost:.0%} of the values were NaN or infinite; they were left out", NonFiniteWarning, 3)
    buried = (record.noise > 0) & (record.signal < _BURIED)
    if bool(buried.any()):
        noise = float(record.noise[buried].max())
        warnings.warn(
            f"nowhere within a third of the scale does f differ by more than its noise ({noise:.2g}): the result means "
            "little; give a larger scale, or values that are less noisy",
            NoSignalWarning,
            3,
        )
