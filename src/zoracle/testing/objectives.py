"""What every objective and every task has to do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.objectives.base import Objective
from zoracle.tasks.base import SPLITS, Task
from zoracle.testing.require import global_state_left_alone, require


def check_objective(objective: Objective, points: Tensor, problem: Tensor, *, rtol: float = 0.0) -> None:
    """Run the battery that every objective has to pass.

    Args:
        objective: P problems.
        points: (N, d) points where it is smooth, of float64 where gradients are to be compared with differences.
        problem: (N,) the problem of each.
        rtol: by how much, in parts of it, a loss may differ alone and in a batch: products of matrices round
            differently.

    Raises:
        AssertionError: a check failed, in a sentence.
    """
    step = torch.full_like(problem, 3)
    with global_state_left_alone():
        before = points.clone()
        together = objective.evaluate(points, problem, step).loss
        require(torch.equal(points, before), "evaluate changed the points that it was given")
        shape = tuple(together.shape)
        require(shape == (len(points),), f"losses have shape {shape}; expected ({len(points)},)")
        require(together.dtype == points.dtype, f"losses of points of {points.dtype} are {together.dtype}")
        again = objective.evaluate(points, problem, step).loss
        require(torch.equal(again, together), "evaluated twice, losses differ; key draws by problem and step")
        _alone(objective, points, problem, step, together, rtol)
        nothing = objective.evaluate(points[:0], problem[:0], step[:0]).loss
        require(nothing.shape == (0,), "no points give losses")
        _refuses(objective, points, problem)
        if objective.differentiable and points.dtype == torch.float64:
            _gradient(objective, points, problem, step)


def _alone(objective: Objective, points: Tensor, problem: Tensor, step: Tensor, together: Tensor, rtol: float) -> None:
    last = len(points) - 1
    for i in sorted({0, last // 2, last}):
        row = slice(i, i + 1)
        alone = objective.evaluate(points[row], problem[row], step[row]).loss
        same = torch.allclose(alone, together[row], rtol=rtol, atol=rtol)
        require(same, f"point {i} has loss {alone.item()} alone and {together[i].item()} in a batch")
    order = torch.arange(last, -1, -1)
    turned = objective.evaluate(points[order], problem[order], step[order]).loss
    require(torch.allclose(turned, together[order], rtol=rtol, atol=rtol), "losses depend on the order of the points")


def _refuses(objective: Objective, points: Tensor, problem: Tensor) -> None:
    wrong: tuple[tuple[str, Tensor, Tensor], ...] = (
        ("points of another dimension", points[:, :-1], problem),
        ("a problem that it does not have", points, torch.full_like(problem, objective.num_problems)),
    )
    for what, some, rows in wrong:
        try:
            objective.evaluate(some, rows)
        except InputError:
            continue
        raise AssertionError(f"{what} were evaluated; expected an InputError")


def _gradient(objective: Objective, points: Tensor, problem: Tensor, step: Tensor) -> None:
    loss, gradient = objective.gradient(points, problem, step)
    require(not gradient.requires_grad, "the gradient keeps a graph")
    require(torch.allclose(loss, objective.evaluate(points, problem, step).loss), "gradient returns other losses")
    h = 1e-6
    for j in range(points.shape[1]):
        move = torch.zeros_like(points)
        move[:, j] = h
        up, down = (objective.evaluate(points + side * move, problem, step).loss for side in (1, -1))
        slope = (up - down) / (2 * h)
        near = torch.allclose(gradient[:, j], slope, rtol=1e-5, atol=1e-5)
        require(near, f"gradient[:, {j}] is {gradient[:, j].tolist()}, differences say {slope.tolist()}")


def check_task(task: Task) -> None:
    """Run the battery that every task has to pass.

    Raises:
        AssertionError: a check failed, in a sentence.
    """
    with global_state_left_alone():
        splits = {split: task.ids(split) for split in SPLITS}
        every = [i for ids in splits.values() for i in ids]
        require(len(set(every)) == len(every), "an id is in two splits, or in one of them twice")
        require(all(task.ids(split) == ids for split, ids in splits.items()), "ids differ when requested again")
        _raises(lambda: task.ids("tests"), "ids of a split 'tests' were given")
        _raises(lambda: task.objective(()), "an objective of no problems was made")
        ids = (splits["valid"] or splits["test"])[:3]
        for dtype in (torch.float32, torch.float64):
            _keyed(task, ids, dtype)


def _keyed(task: Task, ids: tuple[int, ...], dtype: torch.dtype) -> None:
    n = len(ids)
    start = task.start(ids, seed=1, dtype=dtype)
    shape = tuple(start.shape)
    require(shape == (n, task.dim), f"starting points have shape {shape}; expected ({n}, {task.dim})")
    require(start.dtype == dtype, f"starting points are {start.dtype}; expected {dtype}")
    require(torch.equal(task.start(ids[-1:], seed=1, dtype=dtype), start[-1:]), "a start depends on the other problems")
    objective = task.objective(ids, dtype=dtype)
    size = (objective.num_problems, objective.dim)
    require(size == (n, task.dim), f"the objective has {size[0]} problems in {size[1]} dimensions")
    losses = objective.evaluate(start, torch.arange(n)).loss
    require(losses.dtype == dtype, f"losses are {losses.dtype}; expected {dtype}")
    require(losses.isfinite().all(), f"losses at the start are {losses.tolist()}; expected finite numbers")
    turned = task.objective(ids[::-1], dtype=dtype).evaluate(start.flip(0), torch.arange(n)).loss.flip(0)
    require(torch.allclose(turned, losses, rtol=1e-5, atol=1e-5), "a problem depends on the others that are asked for")


def _raises(call: Any, sentence: str) -> None:
    try:
        call()
    except InputError as error:
        require("\n" not in str(error), f"an error has more than one line: {error}")
        return
    raise AssertionError(f"{sentence}; expected an InputError")
