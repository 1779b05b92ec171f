"""One run on a problem of COCO, recorded by COCO's own observer (extra ``coco``)."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoracle.errors import require
from zoracle.experiments.untuned import METHODS
from zoracle.experiments.untuned.asking import Answer, Point, Question
from zoracle.experiments.untuned.shards import Shard
from zoracle.keyed import mix
from zoracle.objectives import CallableObjective

#: The suites, and the number of their functions.
SUITES = {"bbob-largescale": 24, "bbob-noisy": 30}
#: COCO's groups of them: first and last number within the suite.
GROUPS = {
    "bbob-largescale": {
        "separable": (1, 5), "moderate": (6, 9), "ill-conditioned": (10, 14), "multimodal": (15, 19),
        "weak structure": (20, 24),
    },
    "bbob-noisy": {"moderate noise": (1, 6), "severe noise": (7, 21), "multimodal, severe noise": (22, 30)},
}  # fmt: skip
#: Starts are drawn in [-REACH, REACH]^d; coordinates are meant to lie in [-5, 5].
REACH, WIDTH = 4.0, 10.0
#: The target precisions of COCO's run length distributions.
TARGETS = 10.0 ** np.linspace(2, -8, 51)
_DRAW, _SEED = 1, 0


def coco_run(shard: Shard) -> Answer:
    """Run a method on a function of a suite.

    ``about`` of the shard names suite, function (1, 2, ...), instance, dim, budget (points) and method.

    Returns:
        The lowest f - f_opt without noise, as recorded by COCO's logger, and after how many evaluations it improved.
    """
    about = shard.about
    cocoex = require("cocoex", "coco")
    folder = coco_folder(shard)
    shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted run
    folder.parent.mkdir(parents=True, exist_ok=True)
    level = cocoex.log_level("warning")
    try:
        # A suite of only this problem, since the noise in a suite depends on all earlier evaluations.
        chosen = f"dimensions:{about['dim']} function_indices:{about['function']} instance_indices:{about['instance']}"
        suite = cocoex.Suite(about["suite"], "", chosen)
        where = f'outer_folder:"{folder.parent}" result_folder:"{folder.name}" algorithm_name:"{about["method"]}"'
        problem = suite.get_problem(suite.ids()[0], cocoex.Observer("bbob", where))
        try:
            answer = METHODS[about["method"]].answer(_question(about, problem))
            spent = problem.evaluations
        finally:
            problem.free()
    finally:
        cocoex.log_level(level)
    failure = answer.failure
    if spent > about["budget"]:
        failure = f"it evaluated {spent} points of {about['budget']}"
    curve = logged(folder)
    return Answer(curve[-1][1] if curve else math.inf, spent, curve, failure)


def coco_folder(shard: Shard) -> Path:
    """The folder for COCO's files of a run: one per suite, method and budget, as cocopp expects."""
    about: Mapping[str, Any] = shard.about
    times = about["budget"] // about["dim"]
    place = f"f{about['function']:03d}-i{about['instance']:02d}-d{about['dim']:04d}"
    return shard.path.parents[3] / "coco" / str(about["suite"]) / f"{about['method']}-{times}d" / place


def _question(about: Mapping[str, Any], problem: Any) -> Question:
    d = int(about["dim"])
    words = (_SEED, list(SUITES).index(about["suite"]), about["function"], about["instance"], d)

    def start(restart: int) -> Point:
        draw = np.random.Generator(np.random.PCG64(mix(*words, restart, _DRAW)))
        return draw.uniform(-REACH, REACH, d)

    return Question(
        objective=CallableObjective(problem, d, vectorized=False, framework="numpy"),
        x0=start(0),
        budget=about["budget"],
        seed=mix(*words),
        sigma=WIDTH / 5,
        bounds=None,  # the functions are defined everywhere, and some optima of large suites lie near the bounds
        again=start,
    )


def logged(folder: Path) -> list[tuple[int, float]]:
    """Points evaluated and the lowest f - f_opt without noise, from the lines that COCO's logger wrote.

    It writes one wherever a precision 10^(k / 100) is passed, and at the end.
    """
    curve: list[tuple[int, float]] = []
    for file in sorted(folder.glob("data_f*/*.dat")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if not line.strip() or line.startswith("%"):
                continue
            queries, _, gap, *_ = line.split()
            if not curve or float(gap) < curve[-1][1]:
                curve.append((int(queries), float(gap)))
    return curve


def reached(curve: list[tuple[int, float]]) -> Point:
    """Points evaluated until each of TARGETS was reached; infinite if it was not."""
    found = np.full(len(TARGETS), np.inf)
    for queries, gap in curve:
        found[(gap <= TARGETS) & np.isinf(found)] = queries
    return found


def area(found: Point, budget: int) -> Point:
    """The area under the run length distribution up to a budget, a number in [0, 1] for each run and target.

    The share of 0 .. log(budget) that is left once a target was reached: their mean is the area under the share of
    targets reached against the logarithm of the evaluations.
    """
    with np.errstate(divide="ignore"):
        return np.clip(1 - np.log(found) / math.log(max(budget, 2)), 0, 1)
