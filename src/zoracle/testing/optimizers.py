"""What every optimizer has to do, whatever its method."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoracle.optimizers.base import Optimizer
from zoracle.rollout import rollout, take_step
from zoracle.rollout.oracle import Oracle
from zoracle.state import assign, flatten, select, tree_map, unflatten
from zoracle.storage.files import read_tensors, write_tensors
from zoracle.testing.problems import Fenced
from zoracle.testing.require import equal, global_state_left_alone, require
from zoracle.types import Key, Purpose

#: Makes the optimizer under test; each call makes the same one.
Make = Callable[[], Optimizer[Any, Any]]

STEPS = 7
#: Dimensions that are tried. Points of 8 and 50 are images, and of 13 none.
DIMENSIONS = (8, 13, 50)
_SHAPES = {8: (2, 2, 2), 50: (2, 5, 5)}
_PROBLEMS = 5


def fenced(problems: int, dim: int, dtype: torch.dtype = torch.float64, *, ball: bool = False) -> Fenced:
    """The problems that optimizers are tried on: bowls within a box, or a box and an l2 ball."""
    return Fenced(problems, dim, dtype, ball=ball, shape=_SHAPES.get(dim))


def begin(optimizer: Optimizer[Any, Any], objective: Fenced, x0: Tensor, **options: Any) -> Any:
    """The state of a run on these problems that starts at x0 (B, d)."""
    return optimizer.init(x0, space=objective.space(torch.arange(len(x0)), x0), **options)


def run(
    make: Make,
    rows: list[int],
    dim: int = 8,
    dtype: torch.dtype = torch.float32,
    *,
    ball: bool = False,
    steps: int = STEPS,
    state: Any = None,
) -> tuple[Any, Any]:
    """Some steps on some of five problems, from starting points that depend on the problem alone."""
    optimizer, objective = make(), fenced(_PROBLEMS, dim, dtype, ball=ball)
    x0 = torch.linspace(-0.5, 0.5, _PROBLEMS * dim).view(_PROBLEMS, dim).to(dtype)
    if state is None:
        state = begin(optimizer, objective, x0[rows], seed=4, problem=torch.tensor(rows) + 40, horizon=STEPS)
    return rollout(optimizer, Oracle(objective), state, steps, problem=torch.tensor(rows))


def alone_as_in_a_batch(make: Make, *, ball: bool = False, dim: int = 8, dtype: torch.dtype = torch.float32) -> None:
    """One problem alone gives, to the bit, what it gives among others; points keep their type."""
    together, trajectory = run(make, list(range(_PROBLEMS)), dim, dtype, ball=ball)
    require(together.x.dtype == dtype, f"points of {dtype} became {together.x.dtype}")
    for row in (0, 3):
        alone, single = run(make, [row], dim, dtype, ball=ball)
        require(
            equal(select(together, torch.tensor([row])), alone), f"problem {row} alone differs from itself in a batch"
        )
        require(torch.equal(trajectory.best[:, row], single.best[:, 0]), f"the best losses of problem {row} differ")


def costs_what_it_declares(make: Make, *, ball: bool = False) -> None:
    """A step asks for ``queries_per_step`` points, the iterate first where it says so, and none is evaluated twice."""
    optimizer, objective = make(), fenced(3, 8, ball=ball)
    oracle, m = Oracle(objective), optimizer.queries_per_step
    state = begin(optimizer, objective, torch.zeros(3, 8, dtype=torch.float64))
    for step in range(1, 4):
        before = state.x
        queries, _, state = take_step(optimizer, oracle, state, torch.arange(3))
        shape = tuple(queries.points.shape)
        require(shape == (3, m, 8), f"ask returned points {shape}; expected (3, {m}, 8)")
        seen = objective.points_seen().tolist()
        require(seen == [step * m] * 3, f"{seen} points were evaluated in {step} steps of {m}")
        if optimizer.evaluates_iterate:
            require(torch.equal(queries.points[:, 0], before), "the first point of a step is not the iterate")
    require(oracle.counts[Purpose.OPTIMISE].tolist() == objective.points_seen().tolist(), "the counts differ")


def goes_on_from_a_file(make: Make, *, ball: bool = False) -> None:
    """A run that is saved and loaded on its way ends, to the bit, where an uninterrupted one does."""
    whole, _ = run(make, [0, 1], ball=ball)
    template = begin(make(), fenced(2, 8, ball=ball), torch.zeros(2, 8), horizon=STEPS)
    for done in (0, 3):
        half, _ = run(make, [0, 1], ball=ball, steps=done)
        with tempfile.TemporaryDirectory(prefix="zoracle-") as folder:
            path = Path(folder) / "state.safetensors"
            write_tensors(path, flatten(half), {})
            restored = unflatten(template, read_tensors(path)[0])
        rest, _ = run(make, [0, 1], ball=ball, steps=STEPS - done, state=restored)
        require(equal(whole, rest), f"a run that is loaded after {done} steps ends elsewhere")


def keeps_tensors_only(make: Make, *, ball: bool = False) -> None:
    """The state is tensors whose rows are the problems, so that problems can leave, return and change places."""
    state, _ = run(make, [0, 1, 2], ball=ball)
    for path, leaf in flatten(state).items():
        require(leaf.shape[:1] == (3,), f"state.{path} has shape {tuple(leaf.shape)}; expected a row per problem")
        require(not leaf.requires_grad, f"state.{path} keeps a graph")
    require(isinstance(state.key, Key), "state.key is not a Key")
    require(state.key.step.tolist() == [STEPS] * 3, f"state.key counts {state.key.step.tolist()} of {STEPS} steps")
    swapped = select(state, torch.tensor([2, 0]))
    require(equal(assign(state, torch.tensor([2, 0]), swapped), state), "rows put back in their places differ")


def changes_nothing_it_is_given(make: Make, *, ball: bool = False) -> None:
    """``ask`` answers twice the same, and neither it nor ``tell`` changes the state that it is given."""
    optimizer, objective = make(), fenced(2, 8, ball=ball)
    oracle = Oracle(objective)
    state = begin(optimizer, objective, torch.ones(2, 8, dtype=torch.float64))
    _, _, state = take_step(optimizer, oracle, state, torch.arange(2))
    copy = tree_map(torch.clone, state)
    first, second = optimizer.ask(state), optimizer.ask(state)
    require(torch.equal(first.points, second.points), "ask answers differently when it is asked twice")
    ends = [take_step(optimizer, oracle, state, torch.arange(2))[2] for _ in range(2)]
    require(equal(state, copy), "a step changed the state that it was given")
    require(equal(*ends), "the same step taken twice ends differently: something is remembered outside the state")


def survives_missing_values(make: Make, *, ball: bool = False) -> None:
    """Values that are NaN, all of a step or half of them, leave a finite iterate."""
    optimizer = make()
    state = begin(optimizer, fenced(2, 8, ball=ball), torch.ones(2, 8))
    queries = optimizer.ask(state)
    values = torch.full(queries.points.shape[:2], torch.nan)
    gradients = torch.full(queries.points.shape, torch.nan) if optimizer.order else None
    after = optimizer.tell(state, queries, values, gradients)
    require(after.x.isfinite().all(), "a step without any value leaves an iterate that is not finite")
    values[:, : values.shape[1] // 2] = 1.0
    after = optimizer.tell(state, queries, values, gradients)
    require(after.x.isfinite().all(), "a step with half its values leaves an iterate that is not finite")


def settings_survive_a_file(make: Make, *, ball: bool = False) -> None:
    """Settings written as JSON and read back make the same settings."""
    del ball
    optimizer = make()
    plain = optimizer.settings()
    again = json.loads(json.dumps(plain))
    require(again == plain, f"settings {plain} come back as {again}")
    require(type(optimizer)(**again).settings() == plain, "settings read back make other settings")


def stays_inside(make: Make, *, ball: bool = False, dim: int = 8) -> None:
    """For optimizers that promise it: no point asked for lies outside the space that the run was told."""
    objective = fenced(2, dim, ball=ball)
    state = begin(make(), objective, torch.zeros(2, dim, dtype=torch.float64), horizon=60)
    rollout(make(), Oracle(objective), state, 60, final=None)
    asked = torch.cat(objective.asked)
    away = (objective.project(asked, torch.zeros(len(asked))) - asked).abs().max()
    require(away < 1e-12, f"a point lies {float(away):.2g} outside the space")


#: The checks that every optimizer has to pass.
CHECKS: tuple[Callable[..., None], ...] = (
    alone_as_in_a_batch,
    costs_what_it_declares,
    goes_on_from_a_file,
    keeps_tensors_only,
    changes_nothing_it_is_given,
    survives_missing_values,
    settings_survive_a_file,
)


def check_optimizer(make: Make, *, ball: bool = False) -> None:
    """Run the battery that every optimizer has to pass.

    Args:
        make: makes the optimizer, the same one in each call; a class will do.
        ball: try it in an l2 ball as well as a box.

    Raises:
        AssertionError: a check failed, in a sentence.
    """
    with global_state_left_alone():
        for check in CHECKS:
            check(make, ball=ball)
        for dim in DIMENSIONS:
            for dtype in (torch.float32, torch.float64):
                alone_as_in_a_batch(make, ball=ball, dim=dim, dtype=dtype)
