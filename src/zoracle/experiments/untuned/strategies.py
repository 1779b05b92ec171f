"""Evolution strategies of the package ``cma``, restarted with doubled populations until the budget is spent."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoracle.errors import require
from zoracle.experiments.untuned.asking import Asked, Method, Question, foreign


def pycma(covariance: str) -> Method:
    """A strategy of pycma with its default settings and the initial width given by the question.

    Args:
        covariance: "full" (CMA-ES), "diagonal" (sep-CMA, Ros and Hansen 2008) or "vkd" (VkD-CMA, Akimoto and Hansen
            2016).

    Source: Hansen, Akimoto and Baudis, "CMA-ES/pycma", 2019; Auger and Hansen (2005) for the restarts.
    """

    def run(question: Question, asked: Asked) -> None:
        cma = require("cma", "baselines")
        start, times = question.x0, 0
        while asked.left > 0:
            options = _options(covariance, question, 2**times)
            strategy = cma.CMAEvolutionStrategy(start, question.sigma, options)
            while not strategy.stop():
                points = strategy.ask()
                strategy.tell(points, [asked(point) for point in points])
            times += 1
            start = question.again(times)

    return foreign(run)


def _options(covariance: str, question: Question, factor: int) -> dict[str, Any]:
    options: dict[str, Any] = {"verbose": -9, "verb_log": 0, "verb_disp": 0, "seed": np.nan}
    options["popsize_factor"] = factor
    if question.bounds is not None:
        options["bounds"] = list(question.bounds)
    if covariance == "diagonal":
        options["CMA_diagonal"] = True
    elif covariance == "vkd":
        sampler = require("cma.restricted_gaussian_sampler", "baselines").GaussVkDSampler
        options = sampler.extend_cma_options(options)
    return options
