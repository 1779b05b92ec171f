"""Gradients for training: one class per estimator, and Adam, which follows any of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoracle.group import Group


def add_over(group: Group, parameters: Sequence[nn.Parameter]) -> None:
    """Sum the ``grad`` of the weights over the processes of a group; each process then has the sum.

    Args:
        group: processes that share the training.
        parameters: the trained ones; one without a gradient in any process still has none afterwards.
    """
    if group.size == 1:
        return
    there = [p.grad is not None for p in parameters]
    flat = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
    total = group.sum(torch.cat([*flat, torch.tensor(there).to(flat[0])]))
    *slopes, counts = total.split([*(p.numel() for p in parameters), len(there)])  # type: ignore[no-untyped-call]
    for p, slope, count in zip(parameters, slopes, counts.tolist(), strict=True):
        p.grad = slope.view_as(p) if count else None


class Update(NamedTuple):
    """A gradient is complete in the ``grad`` of the weights, ready for a step."""

    number: int
    """Of this update, from 0."""
    of: int
    """Total number of updates."""


class Summary(NamedTuple):
    """Summary of the computation of the gradients."""

    loss: float
    """Mean over the updates."""
    ratio: float = math.nan
    """Mean final / initial loss of the problems, if there are any."""


class GradientEstimator(ABC):
    """An estimator of gradients of a training's objective."""

    @abstractmethod
    def updates(self) -> Generator[Update, None, Summary]:
        """Gradients one after another; the weights may change, and their ``grad`` is cleared, between two of them.

        Yields:
            After each gradient is complete in the ``grad`` of the weights.

        Returns:
            The summary.
        """


class Differentiated(GradientEstimator):
    """Gradients of a loss by autograd, for example of maximum likelihood on a step's examples.

    Args:
        loss: returns the loss of the step with a given number.
        steps: number of steps.
        last: share of the steps, from the end, over which the summary is averaged.
    """

    def __init__(self, loss: Callable[[int], Tensor], steps: int, last: float = 0.1) -> None:
        self.loss = loss
        self.steps = steps
        self.last = last

    def updates(self) -> Generator[Update, None, Summary]:
        """See :class:`Estimator`."""
        seen = []
        for step in range(self.steps):
            value = self.loss(step)
            value.backward()  # type: ignore[no-untyped-call]
            yield Update(step, self.steps)
            if step >= min((1 - self.last) * self.steps, self.steps - 1):
                seen.append(value.item())
        return Summary(sum(seen) / len(seen))


class Descent:
    """Adam with clipped accumulated gradients; one that is not finite is skipped.

    Args:
        parameters: the ones to update.
        lr: step size if no schedule sets another.
        beta2: decay of Adam's second moment.
        clip_norm: largest norm of the gradient.
        clip_value: largest size of any entry of it.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        beta2: float = 0.999,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        self.parameters = list(parameters)
        self.adam = torch.optim.Adam(self.parameters, lr=lr, betas=(0.9, beta2))
        self.clip_norm = clip_norm
        self.clip_value = clip_value

    def clear(self) -> None:
        """Clear the gradients."""
        self.adam.zero_grad(set_to_none=True)

    def clip(self) -> bool:
        """Clip the gradients, and return whether all are finite."""
        parameters = [p for p in self.parameters if p.grad is not None]
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, self.clip_value)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        return all(bool(p.grad.isfinite().all()) for p in parameters if p.grad is not None)

    def step(self, lr: float) -> None:
        """One step of this size."""
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()

    def follow(self, estimator: GradientEstimator, step: Callable[[Update], None]) -> Summary:
        """Process the gradients of an estimator one after another.

        Args:
            estimator: of the gradients.
            step: called for each gradient.

        Returns:
            The estimator's summary.
        """
        updates = estimator.updates()
        while True:
            self.clear()
            try:
                update = next(updates)
            except StopIteration as end:
                summary: Summary = end.value
                return summary
            step(update)
