"""Local methods of SciPy and Py-BOBYQA, restarted until the budget is spent, and nevergrad's NGOpt."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from zoracle.errors import require
from zoracle.experiments.untuned.asking import Asked, Method, Point, Question, foreign, restarted


def scipy_method(name: str) -> Method:
    """A method of :func:`scipy.optimize.minimize`; gradients are forward differences, which are counted.

    Args:
        name: "L-BFGS-B" or "Powell".
    """

    def run(question: Question, asked: Asked) -> None:
        optimize = require("scipy.optimize", "scipy")
        limits = None if question.bounds is None else [question.bounds] * question.x0.size

        def once(start: Point) -> None:
            # Raise the methods' own limits, so that only the budget ends a run.
            options = {"maxiter": question.budget}
            options["maxfun" if name == "L-BFGS-B" else "maxfev"] = question.budget
            optimize.minimize(asked, start, method=name, bounds=limits, options=options)

        restarted(question, asked, once)

    return foreign(run)


def _py_bobyqa(question: Question, asked: Asked) -> None:
    solve = require("pybobyqa", "coco").solve
    d = question.x0.size
    given: dict[str, Any] = {}
    if question.bounds is not None:
        low, high = question.bounds
        given = {"bounds": (np.full(d, low), np.full(d, high)), "rhobeg": min(question.sigma, 0.45 * (high - low))}

    def once(start: Point) -> None:
        # It requests at least d + 1 points whatever its limit is; the oracle stops it.
        solve(asked, start, maxfun=max(asked.left, d + 2), do_logging=False, **given)

    restarted(question, asked, once)


def _ngopt(question: Question, asked: Asked) -> None:
    nevergrad = require("nevergrad", "nevergrad")
    space = nevergrad.p.Array(init=question.x0)
    if question.bounds is not None:
        space = space.set_bounds(*question.bounds)
    space.random_state = np.random.RandomState(question.seed % 2**32)
    optimizer = nevergrad.optimizers.NGOpt(space, budget=question.budget)
    others = set(threading.enumerate())
    try:
        while asked.left > 0:
            candidate = optimizer.ask()
            optimizer.tell(candidate, asked(candidate.value))
    finally:
        # Methods without ask and tell run in threads; a thread waiting for a value would keep the process alive.
        for thread in set(threading.enumerate()) - others:
            if hasattr(thread, "messages_tell"):
                thread.messages_tell.put(None)
                thread.join()


#: Powell's quadratic models (Cartis, Fiala, Marteau and Roberts, 2019), with default settings.
PY_BOBYQA = foreign(_py_bobyqa)
#: The optimizer that nevergrad chooses by dimension and budget.
NGOPT = foreign(_ngopt)
