"""Helpers of several experiments: hand-designed optimizers, queries of a comparison, curves as arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zoracle.comparison import GRIDS
from zoracle.experiments.context import Named
from zoracle.optimizers import make
from zoracle.reporting import Array, curve_arrays
from zoracle.results import Result

#: The hand-designed optimizers of the paper.
BASELINES = ("zo-sgd", "zo-signsgd", "zo-adam")


def baselines(names: Sequence[str] = BASELINES) -> Named:
    """Hand-designed optimizers with default settings, to be tuned in a comparison."""
    return [(name, make(name)) for name in names]


def comparison_queries(problems: int, seeds: int, budget: int, learned: int, tuned: Sequence[str], valid: int) -> float:
    """Approximate number of points evaluated in a comparison, including the search for settings.

    Args:
        problems: test problems.
        seeds: repeats.
        budget: points per problem.
        learned: optimizers that are not tuned.
        tuned: optimizers that are tuned.
        valid: validation problems; 0 if settings are stored.
    """
    searched = sum(2 + sum(len(axis.values) for axis in GRIDS[name]) for name in tuned)
    return budget * (problems * seeds * (learned + len(tuned)) + valid * searched)


def arrays(results: Mapping[str, Result], prefix: str = "") -> dict[str, Array]:
    """The curves of results, named PREFIX/LABEL.losses etc."""
    named = curve_arrays(dict(results))
    return {f"{prefix}/{name}" if prefix else name: array for name, array in named.items()}


def queries_to(result: Result, target: Tensor) -> Tensor:
    """(S, P) float64 points evaluated until the best loss is at most the target; the whole budget if it never is.

    Args:
        result: of an objective without noise.
        target: (S, P), or a number.
    """
    reached = result.best <= target.unsqueeze(-1)
    # Step t of the curve is the best loss when iterate t was reached.
    first = torch.where(reached.any(2), reached.int().argmax(2), result.best.shape[2] - 1)
    spent = result.queries.gather(2, first.unsqueeze(2)).squeeze(2)
    return torch.where(reached.any(2), spent, result.allowance).double()


def verdict(low: float | None, high: float | None) -> str:
    """Outcome of a difference, one minus other, lower is better: "win" or "loss" if the interval excludes zero."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "undecided"
    return "win" if high < 0 else "loss" if low > 0 else "undecided"
