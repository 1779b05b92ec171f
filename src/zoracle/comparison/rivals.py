"""Minimisers of other libraries that run their own loop, one point at a time; counted and kept like all others."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoracle.errors import InputError, RivalWarning, one_line
from zoracle.evaluation.spec import RunSpec
from zoracle.objectives.base import Objective
from zoracle.results.result import Result, join
from zoracle.rollout.once import once
from zoracle.rollout.oracle import Oracle
from zoracle.tasks.base import Task
from zoracle.types import StopReason

Array = np.ndarray[Any, np.dtype[np.float64]]

_FORMAT = "zoracle-rival-1"


class Call(NamedTuple):
    """The problem given to a minimiser."""

    ask: Callable[[Array], float]
    """The value of a point (d,). It raises :class:`Spent` once the budget is: let it pass."""
    start: Array
    """(d,)."""
    low: Array
    """(d,), minus infinity where there is no bound."""
    high: Array
    budget: int
    seed: int


#: A minimiser: it asks for points until it is content, or :class:`Spent` is raised.
Minimiser = Callable[[Call], None]


class Spent(Exception):  # noqa: N818  # no error: the budget is spent, and the loop of another library has to end
    """The budget is spent."""


def run_rivals(
    rivals: Mapping[str, Minimiser], task: Task, spec: RunSpec, pieces: Path | None, about: Mapping[str, Any]
) -> dict[str, Result]:
    """Run minimisers on each problem and seed, with the budget of the comparison.

    Args:
        rivals: by label.
        task: what the problems are of.
        spec: with ids, seeds and a budget.
        pieces: where what was answered is kept, so that an interrupted run continues; None keeps nothing.
        about: JSON values, what the run is.
    """
    assert spec.budget is not None  # or `compare` would have refused
    objective, ids = spec.objective(task), spec.problem_ids(task)
    results = {}
    for label, rival in rivals.items():
        rows = []
        for seed in spec.seed_list:
            starts = task.start(ids, seed=seed, dtype=torch.float64)
            parts = []
            for row in range(len(ids)):
                keep = None if pieces is None else pieces / f"rival-{label}-seed-{seed}-{row}.safetensors"
                told = {**about, "rival": label, "seed": seed, "row": row}
                parts.append(_run(rival, objective, starts[row], row, ids[row], seed, spec.budget, keep, told))
            rows.append(join(parts, 1))
        results[label] = join(rows, 0)
    return results


def _run(
    rival: Minimiser,
    objective: Objective,
    start: Tensor,
    row: int,
    identity: int,
    seed: int,
    budget: int,
    keep: Path | None,
    about: Mapping[str, Any],
) -> Result:
    """One problem under one seed (S = P = 1)."""
    oracle, rows = Oracle(objective, budget=budget), torch.tensor([row])
    space = objective.space(rows, start.unsqueeze(0))
    began = time.perf_counter()

    def evaluate() -> dict[str, Tensor]:
        values: list[float] = []
        points: list[Tensor] = []

        def ask(point: Array) -> float:
            if len(values) == budget:
                raise Spent
            given = torch.from_numpy(np.array(point, dtype=np.float64)).reshape(1, 1, -1)
            value = float(oracle.evaluate(given, rows).loss)
            values.append(value)
            if not points or value < min(values[:-1]):
                points[:] = [given[0, 0]]
            return value if np.isfinite(value) else 1e300

        call = Call(ask, start.numpy().copy(), space.low[0].numpy(), space.high[0].numpy(), budget, seed)
        try:
            rival(call)
        except Spent:
            pass
        except InputError:  # the function failed
            raise
        except Exception as error:
            told = f"{about['rival']} ended after {len(values)} of {budget} queries: {one_line(error)}"
            warnings.warn(told, RivalWarning, stacklevel=2)
        best = points[0] if points else start
        return {"values": torch.tensor(values, dtype=torch.float64), "best": best, "seconds": _since(began)}

    found, lost = once(oracle, evaluate, keep, _FORMAT, dict(about))
    return _result(found, start, identity, seed, budget, lost)


def _since(began: float) -> Tensor:
    return torch.tensor(time.perf_counter() - began, dtype=torch.float64)


def _result(found: Mapping[str, Tensor], start: Tensor, identity: int, seed: int, budget: int, lost: int) -> Result:
    values = found["values"]
    n = values.numel()
    lowest = torch.cat((values.new_full((1,), torch.inf), values.nan_to_num(nan=torch.inf))).cummin(0).values
    lowest = torch.cat((lowest, lowest[-1:].expand(budget - n)))
    lowest[0] = values[0] if n else torch.nan
    losses = torch.full((budget + 1,), torch.nan, dtype=torch.float64)
    losses[0], losses[-1] = lowest[0], lowest[-1]
    at = torch.arange(budget + 1).clamp(max=n)

    def one(value: int | bool | float) -> Tensor:
        return torch.tensor([[value]], dtype=torch.float64 if isinstance(value, float) else None)

    point = found["best"].reshape(1, 1, -1)
    return Result(
        seed=one(seed), ids=one(identity), losses=losses.view(1, 1, -1), best=lowest.view(1, 1, -1),
        queries=at.view(1, 1, -1), steps=one(n),
        reason=one(int(StopReason.BUDGET if n == budget else StopReason.STEPS)), allowance=one(budget),
        monitored=one(0), lost=one(lost), success_known=one(False), first_known=one(False),
        misclassified=one(False), final_success=one(False), success_ever=one(False), first_success=one(-1),
        non_finite=one(int((~values.isfinite()).sum())), final_point=point, best_point=point.clone(),
        success_point=start.reshape(1, 1, -1).clone(), l1=one(float("nan")), l2=one(float("nan")),
        linf=one(float("nan")), seconds=found["seconds"].reshape(1, 1),
    )  # fmt: skip
