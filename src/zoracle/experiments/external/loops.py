"""Minimisers of SciPy and Nevergrad with default settings, for comparisons on a user's function."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from zoracle.comparison import Call, Minimiser
from zoracle.errors import MissingExtraError, require
from zoracle.experiments.external.pycma import PyCMA
from zoracle.optimizers import Optimizer

#: First standard deviation of CMA-ES, in units of the scale.
_SIGMA = 0.3


def rivals_of(dim: int) -> tuple[list[tuple[str, Optimizer[Any, Any]]], dict[str, Minimiser], list[str]]:
    """The methods of pycma, SciPy and Nevergrad that are installed: optimizers, minimisers, and notes for the reader.

    Args:
        dim: dimension of the function; the population of CMA-ES follows it.
    """
    optimizers: list[tuple[str, Optimizer[Any, Any]]] = []
    minimisers: dict[str, Minimiser] = {}
    missing = []
    try:
        optimizers.append(("pycma", PyCMA(sigma=_SIGMA, population=4 + int(3 * np.log(dim)))))
    except MissingExtraError as error:
        missing.append(f"no rows of pycma: {error}")
    try:
        require("scipy.optimize", "scipy")
        minimisers |= {f"scipy-{name.lower()}": partial(_scipy, method=name) for name in ("Powell", "L-BFGS-B")}
    except MissingExtraError as error:
        missing.append(f"no rows of SciPy: {error}")
    try:
        require("nevergrad", "nevergrad")
        minimisers["nevergrad-de"] = _nevergrad
    except MissingExtraError as error:
        missing.append(f"no rows of Nevergrad: {error}")
    return optimizers, minimisers, missing


def _bounded(call: Call) -> bool:
    return bool(np.isfinite(call.low).any() or np.isfinite(call.high).any())


def _scipy(call: Call, *, method: str) -> None:
    """``scipy.optimize.minimize`` until it terminates or the budget is spent."""
    bounds = list(zip(call.low, call.high, strict=True)) if _bounded(call) else None
    most = "maxfun" if method == "L-BFGS-B" else "maxfev"
    options = {most: call.budget, "maxiter": call.budget}
    scipy = require("scipy.optimize", "scipy")
    scipy.minimize(call.ask, call.start, method=method, bounds=bounds, options=options)


def _nevergrad(call: Call) -> None:
    """Differential evolution with two-point crossover, until the budget is spent."""
    ng = require("nevergrad", "nevergrad")
    array = ng.p.Array(init=call.start)
    if _bounded(call):
        array.set_bounds(*(None if np.isinf(end).any() else end for end in (call.low, call.high)))
    array.random_state = np.random.RandomState(call.seed)
    optimizer = ng.optimizers.TwoPointsDE(parametrization=array, budget=call.budget)
    for _ in range(call.budget):
        candidate = optimizer.ask()
        optimizer.tell(candidate, call.ask(candidate.value))
