"""Trainings whose loss rises: the guard of learned optimizers, and a warning for the others."""

from __future__ import annotations

import math
import statistics
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.errors import DivergenceWarning

#: Steps whose losses are averaged and compared with the lowest average so far.
WINDOW = 20
#: Steps that are enough to see a rise that is plain; the first level is the average of so many.
_FEW = 5
#: A mean has risen where it is higher by so many standard errors, and by this share of the loss.
_ERRORS, _SHARE = 3.0, 0.02
#: A rise is plain where even the lowest loss is higher by so many standard deviations, and by this share.
_FAR = 0.2


class Guard(NamedTuple):
    """State of the guard of a training, tensors only."""

    best: Tensor
    """(d,) the parameters with the lowest mean loss so far."""
    level: Tensor
    """() that mean; NaN before there is one."""
    noise: Tensor
    """() the standard deviation of a loss there."""
    window: Tensor
    """(WINDOW,) losses since the last comparison."""
    seen: Tensor
    """() int64, how many of them there are."""
    returns: Tensor
    """() int64, how often the parameters went back."""
    steps: Tensor
    """() int64, steps of the training so far."""


class Seen(NamedTuple):
    """The effect of a step's loss."""

    guard: Guard
    risen: tuple[float, float] | None
    """From what to what the loss has risen, so that the parameters have to go back; None where it has not."""


def begin(x: Tensor) -> Guard:
    """The guard of a training that begins at parameters (d,)."""
    nothing, zero = torch.tensor(math.nan, dtype=torch.float64), torch.tensor(0)
    return Guard(x, nothing, nothing, torch.full((WINDOW,), math.nan, dtype=torch.float64), zero, zero, zero)


def see(guard: Guard, x: Tensor, loss: float, *, last: bool = False) -> Seen:
    """Take in the loss of one step.

    The mean of the first few losses is the first level, unless all of them are far above the very first. The mean of
    each window after them is compared with the lowest level. By how much it may differ follows from the noise of the
    losses at that level, told by successive differences: where a training diverges, losses get noisier too, and that
    must not hide it.

    Args:
        guard: before the step.
        x: (d,) parameters that the loss is of.
        loss: may be NaN.
        last: whether the training ends with this step, so that there is no waiting for more losses.
    """
    window = guard.window.clone()
    window[int(guard.seen)] = loss
    guard = guard._replace(window=window, seen=guard.seen + 1, steps=guard.steps + 1)
    number = int(guard.seen)
    losses = window[:number].nan_to_num(nan=math.inf)
    emptied = guard._replace(seen=torch.zeros_like(guard.seen))
    if bool(guard.level.isnan()):
        return _first(guard, emptied, losses, last)
    level, noise, lowest = float(guard.level), float(guard.noise), float(losses.min())
    if (number >= _FEW or last) and lowest > level + _ERRORS * noise + _FAR * abs(level):
        return Seen(emptied, (level, lowest))
    if number < (_FEW if last else WINDOW):
        return Seen(guard, None)
    finite = losses[losses.isfinite()]
    mean = float(finite.mean()) if 2 * len(finite) > number else math.inf
    if mean > level + _ERRORS * noise * math.sqrt(1 / number + 1 / _FEW) + _SHARE * abs(level):
        return Seen(emptied, (level, mean))
    if mean < level:
        emptied = emptied._replace(best=x, level=finite.mean(), noise=_noise(finite))
    return Seen(emptied, None)


def _first(guard: Guard, emptied: Guard, losses: Tensor, last: bool) -> Seen:
    """The same before there is a level."""
    if len(losses) < 2 or not (last or len(losses) >= _FEW):
        return Seen(guard, None)
    began, later = float(losses[0]), float(losses[1:].min())
    if later > began + _FAR * abs(began):
        return Seen(emptied, (began, later))
    finite = losses[losses.isfinite()]
    if 2 * len(finite) <= len(losses) or len(finite) < 3:
        return Seen(emptied, None)
    return Seen(emptied._replace(level=finite.mean(), noise=_noise(finite)), None)


def _noise(losses: Tensor) -> Tensor:
    """The standard deviation of a loss, from the differences of successive ones."""
    return losses.diff().std() / math.sqrt(2)


def returned(guard: Guard) -> Guard:
    """The guard of a training whose parameters went back to the best ones."""
    return guard._replace(returns=guard.returns + 1)


class Watch:
    """Warns once if the loss has risen above that of the first steps, so that divergence does not go unnoticed."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.recent: float | None = None
        self.told = False

    def see(self, loss: float) -> None:
        """The loss of one step; the mean of recent ones is compared with the first, by more than these differ."""
        if not math.isfinite(loss):
            return
        if len(self.first) < WINDOW:
            self.first.append(loss)
            return
        self.recent = loss if self.recent is None else self.recent + (loss - self.recent) / WINDOW
        start, spread = statistics.fmean(self.first), statistics.stdev(self.first)
        if self.recent > start + max(2 * spread, 0.05 * abs(start)):
            self.say(
                f"the loss has risen from {start:.4g} in the first {WINDOW} steps to {self.recent:.4g}: the "
                "optimizer diverges; take a smaller lr or scale, larger mini-batches, or zo-adam"
            )

    def say(self, message: str) -> None:
        """Warn, once."""
        if not self.told:
            self.told = True
            warnings.warn(message, DivergenceWarning, stacklevel=4)
