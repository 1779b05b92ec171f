"""One unroll of a training: the runs of the families in turn, and the common parts of gradient estimators."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoracle.group import Group
from zoracle.metatrain.config import Stage
from zoracle.metatrain.families import Beginning, TrainingFamily
from zoracle.metatrain.gradients import add_over
from zoracle.metatrain.loss import MetaLoss
from zoracle.metatrain.oracle import TrainingOracle
from zoracle.optimizers.base import Optimizer

_SMALLEST = 1e-12  # a ratio below it counts as it


class FamilyRun:
    """The state of one family's unroll, over all its problems or this process's part."""

    def __init__(
        self,
        optimizer: Optimizer[Any, Any],
        oracle: TrainingOracle,
        loss: MetaLoss,
        state: Any,
        rows: Tensor,
        start: Beginning,
        part: float = 1.0,
    ) -> None:
        self.optimizer = optimizer
        self.oracle = oracle
        self.loss = loss
        self.state = state
        self.rows = rows
        self.start = start
        self.part = part
        self.previous: Tensor | None = None
        self.first: Tensor | None = None

    def note_first(self) -> None:
        """Record the losses at the starting points, which the first step of an unroll evaluates anyway."""
        step = self.state.key.step if self.oracle.objective.stochastic else None
        with torch.no_grad():
            self.first = self.oracle.linearise(self.start.x0, self.rows, step)[0]


class Unroll(NamedTuple):
    """One unroll, as an estimator of its meta-gradient sees it."""

    module: nn.Module
    """Whose weights are trained."""
    stage: Stage
    families: tuple[tuple[int, TrainingFamily], ...]
    """Those whose turn it is, with their numbers."""
    begin: Callable[[int, TrainingFamily], FamilyRun]
    """Starts a run of a family; the same one however often it is asked for."""
    own: Callable[[int, TrainingFamily], FamilyRun | None]
    """Starts a run of this process's part of a family's problems; None where it has none."""
    spend: Callable[[str, int], None]
    """Is told what was evaluated, and how often."""
    words: tuple[int, int, int]
    """Seed, stage and unroll, which key what is drawn."""
    group: Group
    """The processes that share it."""

    def shares(self) -> list[float]:
        """The weight of each family in the mean over them."""
        weights = sum(family.weight for _, family in self.families)
        return [family.weight / weights for _, family in self.families]

    def mean_ratio(self, ratios: Sequence[float]) -> float:
        """The weighted geometric mean of the families' ratios."""
        return geometric_mean(ratios, [family.weight for _, family in self.families])


def begin(
    optimizer: Optimizer[Any, Any],
    oracle: TrainingOracle,
    loss: MetaLoss,
    rows: Tensor,
    start: Beginning,
    seed: int,
    steps: int,
    part: float = 1.0,
) -> FamilyRun:
    """The start of one unroll of one family, or of a part of its problems of the given size."""
    objective, x0 = start.objective, start.x0
    state = optimizer.init(
        x0,
        seed=seed,
        problem=start.ids,
        horizon=steps,
        scale=objective.scale,
        space=objective.space(rows, x0),
    )
    return FamilyRun(optimizer, oracle, loss, state, rows, start, part)


@contextmanager
def clipped(module: nn.Module, most: float | None, group: Group) -> Iterator[None]:
    """Clip the gradients added to a module within the context separately; if not finite, add nothing.

    Args:
        module: whose gradients.
        most: largest norm of what is added; None clips nothing, and leaves adding up over processes to the caller.
        group: the processes whose gradients add up before that.
    """
    if most is None:
        yield
        return
    parameters = [p for p in module.parameters() if p.requires_grad]
    before = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    yield
    add_over(group, parameters)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    factor = (most / norm.clamp(min=_SMALLEST)).clamp(max=1)
    for p, kept in zip(parameters, before, strict=True):
        own = p.grad * factor if p.grad is not None and bool(norm.isfinite()) else None
        p.grad = own if kept is None else kept if own is None else kept + own


def geometric_mean(numbers: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted geometric mean of positive numbers; for one number, exactly that number."""
    if len(numbers) == 1:
        return numbers[0]
    logs = (weight * math.log(max(number, _SMALLEST)) for number, weight in zip(numbers, weights, strict=True))
    return math.exp(sum(logs) / sum(weights))
