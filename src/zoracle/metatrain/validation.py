"""How good an optimizer in training is: on problems of the validation split, by real queries."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoracle import keyed
from zoracle.metatrain.config import Validation
from zoracle.metatrain.families import Problems, TrainingFamily
from zoracle.optimizers.base import Optimizer
from zoracle.rollout import rollout
from zoracle.rollout.oracle import Oracle
from zoracle.types import Purpose


class Score(NamedTuple):
    """What a validation gave."""

    value: float
    """The criterion, mean over problems and repeats; less is better."""
    points: int
    """Evaluated."""


def score(optimizer: Optimizer[Any, Any], family: TrainingFamily, config: Validation, *words: int) -> Score:
    """The criterion over one family's validation problems.

    Args:
        optimizer: as it is to be validated.
        family: whose problems.
        config: which criterion, of how many problems, steps and repeats.
        words: key the starting points and directions.
    """
    valid, dtype = family.task.ids("valid")[: config.problems], family.dtype
    problems = Problems(family.task.objective(valid, dtype=dtype), family.task, valid, family.rescale, dtype)
    rows = torch.arange(len(valid))
    by_queries = config.criterion == "queries"
    scores, points = [], 0
    for repeat in range(config.seeds):
        seed = keyed.mix(*words, repeat)
        objective, ids, x0, _ = problems.begin(rows, seed)
        space = objective.space(rows, x0)
        state = optimizer.init(x0, seed=seed, problem=ids, horizon=config.steps, scale=objective.scale, space=space)
        oracle = Oracle(objective)
        _, trajectory = rollout(optimizer, oracle, state, config.steps, stop_on_success=by_queries)
        if by_queries:
            first = trajectory.first_success
            scores.append(torch.where(first > 0, first, config.steps * optimizer.queries_per_step).to(dtype))
        else:
            begun = trajectory.loss[0] if optimizer.evaluates_iterate else _losses(oracle, x0)
            # A run that ended in NaN has not improved anything.
            scores.append((trajectory.final_loss / begun).nan_to_num(nan=1.0, posinf=1.0))
        points += sum(int(counts.sum()) for counts in oracle.counts.values())
    return Score(float(torch.cat(scores).mean()), points)


def _losses(oracle: Oracle, x: Tensor) -> Tensor:
    """Losses (B,) at x (B, d), counted as monitoring."""
    return oracle.evaluate(x.unsqueeze(1), torch.arange(x.shape[0]), purpose=Purpose.MONITOR).loss[:, 0]
