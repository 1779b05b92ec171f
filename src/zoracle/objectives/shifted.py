"""The classical test functions as a family of problems: each moved and scaled, different ones side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.objectives.base import Bounds, Objective
from zoracle.objectives.functions import classical
from zoracle.types import Evaluation


class ShiftedFunctions(Objective):
    r"""P problems, each a classical function with its optimum moved and its usual bounds scaled to [-1, 1].

    .. math:: f_p(x) = \frac1{s_p} \Big(g_p\big(z^*_p + r_p (x - x^*_p)\big) - g_p(z^*_p)\Big)

    with z* the minimiser of the function g as it is usually written, and r half the width of its usual bounds. All
    problems then have one domain and one unit, as in BBOB, and the minimum is 0.

    Args:
        functions: the function of each problem, names of :meth:`ClassicalFunction.names`.
        optimum: x*, (P, d).
        unit: s, (P,), positive; None for 1.

    Raises:
        InputError: shapes that disagree, no such function, a dimension that it does not have, or a unit that is not
            positive.

    References:
        Hansen, Finck, Ros and Auger, "Real-Parameter Black-Box Optimization Benchmarking 2009: Noiseless Functions
        Definitions", INRIA RR-6829, 2009.
    """

    differentiable = True
    bounds = Bounds(-1.0, 1.0)

    def __init__(self, functions: Sequence[str], optimum: Tensor, *, unit: Tensor | None = None) -> None:
        if optimum.ndim != 2 or optimum.numel() == 0 or len(functions) != optimum.shape[0]:
            raise InputError(
                f"the optimum has shape {tuple(optimum.shape)} for {len(functions)} functions; expected (P, d), "
                "one row a function"
            )
        self.num_problems, self.dim = optimum.shape
        self.unit = optimum.new_ones(self.num_problems) if unit is None else unit
        if self.unit.shape != (self.num_problems,) or not bool((self.unit > 0).all()):
            raise InputError(f"unit is {self.unit.tolist()}; expected {self.num_problems} positive numbers")
        self.functions = tuple(functions)
        self.optimum = optimum
        self.optimum_value = optimum.new_zeros(self.num_problems)
        names = sorted(set(functions))
        self._kinds = [classical(name, self.dim) for name in names]
        self._kind = torch.tensor([names.index(name) for name in functions])

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        away = points - self.optimum[problem.to(self.optimum.device)].to(points)
        kind = self._kind[problem.cpu()].to(points.device)
        loss = points.new_zeros(points.shape[0])
        for number, function in enumerate(self._kinds):
            rows = (kind == number).nonzero().squeeze(1)
            if rows.numel():
                half = (function.bounds.high - function.bounds.low) / 2
                loss = loss.index_copy(0, rows, function.excess(function.optimum + half * away[rows]))
        return Evaluation(loss / self.unit[problem.to(self.unit.device)].to(points))
