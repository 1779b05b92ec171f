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
    """Add up what the processes of a group have in the ``grad`` of their weights; it is the sum in each of them then.

    Args:
        group: who shares the training.
        parameters: those that are trained; where no process has a gradient, none has one afterwards.
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
    """A gradient has added up in the ``grad`` of the weights, and a step along it is due."""

    number: int
    """Of this update, from 0."""
    of: int
    """Updates that are to come in all."""


class Summary(NamedTuple):
    """Summary of the computation of the gradients."""

    loss: float
    """Mean over the updates."""
    ratio: float = math.nan
    """Mean final / initial loss of the problems, where there are any."""


class GradientEstimator(ABC):
    """An estimator of gradients of a training's objective."""

    @abstractmethod
    def updates(self) -> Generator[Update, None, Summary]:
        """Gradients one after another; the weights may change, and their ``grad`` is cleared, between two of them.

        Yields:
            For each gradient once it is in the ``grad`` of the weights.

        Returns:
            What was seen on the way.
        """


class Differentiated(GradientEstimator):
    """Gradients of a loss that autograd differentiates: maximum likelihood on a step's examples, say.

    Args:
        loss: of the step with this number.
        steps: how many there are.
        last: the share of the steps, from the end, that the summary is the mean of.
    """

    def __init__(self, loss: Callable[[int], Tensor], steps: int, last: float = 0.1) -> None:
        self.loss = loss
        self.steps = steps
        self.last = last

    def updates(self) -> Generator[Update, None, Summary]:
        """As of every estimator."""
        seen = []
        for step in range(self.steps):
            value = self.loss(step)
            value.backward()  # type: ignore[no-untyped-call]
            yield Update(step, self.steps)
            if step >= min((1 - self.last) * self.steps, self.steps - 1):
                seen.append(value.item())
        return Summary(sum(seen) / len(seen))


class Descent:
    """Adam along gradients that have added up, clipped; one that is not finite changes nothing.

    Args:
        parameters: what is moved.
        lr: step size where no schedule sets another.
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
        """Forget the gradients."""
        self.adam.zero_grad(set_to_none=True)

    def clip(self) -> bool:
        """Clip the gradients; whether all of them are finite."""
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
        """Take the gradients of an estimator one after another.

        Args:
            estimator: where they come from.
            step: what is done with each.

        Returns:
            What the estimator saw.
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
