"""One fine-tuning, and the search for a step size on the validation data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoracle import keyed
from zoracle.experiments.finetuning.tasks import Problem, score
from zoracle.finetune import ZerothOrder

GRADIENTS = "adam, gradients"
START = "zero-shot"
#: Step sizes of the coarse search, a factor of ten apart; the fine one tries a third and three times the best of them.
GRIDS: dict[str, tuple[float, ...]] = {
    GRADIENTS: (1e-4, 1e-3, 1e-2),
    "mezo": (1e-5, 1e-4, 1e-3, 1e-2),
    "lozo": (1e-5, 1e-4, 1e-3, 1e-2),
    "hizoo": (1e-5, 1e-4, 1e-3, 1e-2),
    "fzoo": (1e-4, 1e-3, 1e-2, 1e-1),
}
FINE = (1 / 3, 1.0, 3.0)
FURTHER = 4  # largest number of step sizes beyond the edge of a grid
PARTS = 4  # parts of a run; the network is scored after each


class Outcome(NamedTuple):
    """Result of a run."""

    curve: Tensor
    """Accuracy on the test data at the start and after each part, (PARTS + 1,)."""
    forwards: Tensor
    """Evaluations of the loss so far, (PARTS + 1,); a step with gradients counts as three."""
    validated: Tensor
    """Accuracy and loss on the validation data at the end, (2,)."""
    seconds: float
    """Processor time of the steps."""
    wall: float = math.nan
    """Time on the clock of the whole run, scoring included; NaN before it is over."""


def fine_tuned(
    problem: Problem,
    method: str,
    forwards: int,
    seed: int,
    settings: dict[str, Any],
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Fine-tune a network in place.

    Args:
        problem: the task to fine-tune on.
        method: a name of :data:`zoracle.finetune.METHODS`, GRADIENTS, or START for none.
        forwards: the budget of evaluations of the loss.
        seed: keys batches and directions.
        settings: of the method.
        tell: called with the number of steps done and the total.
    """
    curve, spent, seconds, done = [problem.accuracy(problem.test)], [0.0], 0.0, 0
    step, cost = stepper(problem, method, seed, settings, forwards)
    total = 0 if method == START else forwards // cost
    for part in range(PARTS):
        begun = time.process_time()
        while done < total * (part + 1) // PARTS:
            inputs, labels = problem.drawn(keyed.generator(seed, 26, done))
            step(inputs, labels)
            done += 1
        seconds += time.process_time() - begun
        tell(done, total)
        curve.append(problem.accuracy(problem.test) if total else curve[0])
        spent.append(float(done * cost))
    validated = torch.tensor(score(problem.module, problem.valid), dtype=torch.float64)
    return Outcome(_tensor(curve), _tensor(spent), validated, seconds)


def stepper(
    problem: Problem, method: str, seed: int, settings: dict[str, Any], forwards: int
) -> tuple[Callable[[Tensor, Tensor], object], int]:
    """A step on a batch, and its cost in evaluations."""
    module = problem.module

    def loss(inputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(module(inputs), labels)

    moving = [p for p in module.parameters() if p.requires_grad]
    if method == START:
        return loss, 1
    if method == GRADIENTS:
        adam = torch.optim.Adam(moving, **settings)

        def descend(inputs: Tensor, labels: Tensor) -> None:
            adam.zero_grad()
            loss(inputs, labels).backward()  # type: ignore[no-untyped-call]
            adam.step()

        return descend, 3
    optimizer = ZerothOrder(moving, method, seed=seed, **settings)
    cost = optimizer.forwards_per_step
    if method == "learned":
        optimizer = ZerothOrder(moving, method, seed=seed, horizon=max(1, forwards // cost), **settings)
    return lambda inputs, labels: optimizer.step(lambda: loss(inputs, labels)), cost


class Search(NamedTuple):
    """A search for a step size."""

    lr: float
    tried: dict[float, tuple[float, float]]
    """Accuracy and loss on the validation data, by step size, of the runs at full length."""
    forwards: float
    """Evaluations of the loss in the search."""


def searched(run: Callable[[float, int], Outcome], method: str, forwards: int, fine: bool = True) -> Search:
    """The step size with the best accuracy on the validation data; ties are broken by the loss.

    The grid is tried with a quarter of the evaluations, then the best step size and those three times larger and
    smaller with all of them. If the best is the smallest or the largest tried, a round goes on in that direction, up to
    FURTHER times: the best step size for a quarter of a run can diverge in a full run.

    Args:
        run: fine-tunes with a step size and a number of evaluations.
        method: whose grid.
        forwards: evaluations of a whole run.
        fine: whether there is a second round.
    """
    spent = 0.0

    def best(rates: tuple[float, ...], factor: float, budget: int) -> tuple[float, dict[float, tuple[float, float]]]:
        nonlocal spent
        found: dict[float, tuple[float, float]] = {}
        todo = list(rates)
        while todo:
            lr = todo.pop(0)
            outcome = run(lr, budget)
            right, loss = outcome.validated.tolist()
            found[lr] = (right, loss if math.isfinite(loss) else math.inf)
            spent += float(outcome.forwards[-1])
            leader = max(found, key=lambda lr: (found[lr][0], -found[lr][1]))
            if not todo and len(found) < len(rates) + FURTHER:
                todo = [beyond for edge, beyond in ((min, leader / factor), (max, leader * factor))
                        if leader == edge(found)]  # fmt: skip
        return leader, found

    lr, tried = best(GRIDS[method], 10.0, max(forwards // PARTS, 12))
    if fine:
        lr, tried = best(tuple(lr * factor for factor in FINE), 3.0, forwards)
    return Search(lr, tried, spent)


def _tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
