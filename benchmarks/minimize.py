"""Default runs of ``zoracle.minimize`` on random problems: none may end above its start by more than its noise.

    python -m benchmarks.minimize --runs 1000 --compare 100

Dimensions 1 to 300, conditioning 1 to 1e6, rotated or not, quadratic or with ripples or a curved valley; noise of 0 to
a tenth of what there is to win; with and without bounds that bind; budgets of 10 d to 1,000 d (``--most`` caps them).
For the first ``--compare`` of them, the share within twice the best final value (in excess of the optimum, without
noise) of SNES, pycma's CMA (sep-CMA above 100 dimensions) and ZO-ADAM, all untuned, is printed.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

import zoracle


class Problem(NamedTuple):
    """A random function: numbers that make it, all keyed by its seed."""

    dim: int
    budget: int
    noise: float
    bounds: tuple[float, float] | None
    kind: str
    optimum: np.ndarray[Any, Any]
    weights: np.ndarray[Any, Any]
    mirror: np.ndarray[Any, Any] | None
    unit: float

    def true(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Without noise, 1 at the start."""
        value: np.ndarray[Any, Any] = self._raw(x) / self.unit
        return value

    def _raw(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        away = x - self.optimum
        if self.mirror is not None:  # a reflection is a rotation as good as any, and costs d
            away = away - 2 * (away @ self.mirror)[..., None] * self.mirror
        value = (self.weights * away**2).sum(-1)
        if self.kind == "ripples":
            value = value + 0.05 * (self.weights * np.sin(8 * away) ** 2).sum(-1)
        elif self.kind == "valley":
            bent = away[..., 1:] - away[..., :-1] ** 2
            value = 0.1 * value + (self.weights[1:] * bent**2).sum(-1)
        total: np.ndarray[Any, Any] = value
        return total


def problem(seed: int, most: int) -> Problem:
    """The problem of this seed."""
    rng = np.random.default_rng(seed)
    dim = int(np.exp(rng.uniform(0, np.log(300.99))))
    budget = max(10, min(most, int(dim * 10 ** rng.uniform(1, 3))))
    condition = 10 ** rng.uniform(0, 6)
    weights = condition ** rng.uniform(-0.5, 0.5, dim)
    mirror = None
    if rng.random() < 0.5:
        mirror = rng.standard_normal(dim)
        mirror /= np.linalg.norm(mirror)
    bounds = (-0.5, 0.5) if rng.random() < 0.5 else None
    kind = str(rng.choice(["bowl", "ripples", "valley"]))
    noise = 0.0 if rng.random() < 0.4 else 10 ** rng.uniform(-6, -1)
    made = Problem(dim, budget, noise, bounds, kind, rng.normal(0, 0.5, dim), weights, mirror, 1.0)
    unit = float(made._raw(np.zeros(dim)))
    return made._replace(unit=unit if unit > 0 else 1.0)


def noisy(made: Problem, seed: int) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """The problem as an optimizer sees it."""
    rng = np.random.default_rng([seed, 1])

    def f(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return made.true(x) + made.noise * rng.standard_normal(len(x))

    return f


def cma(made: Problem, seed: int) -> np.ndarray[Any, Any]:
    """Pycma's recommendation."""
    pycma = import_module("cma")

    options: dict[str, Any] = {
        "verbose": -9,
        "maxfevals": made.budget,
        "seed": seed + 1,
        "CMA_diagonal": made.dim > 100,
    }
    if made.bounds is not None:
        options["bounds"] = list(made.bounds)
    strategy = pycma.CMAEvolutionStrategy(np.zeros(max(2, made.dim)), 0.3, options)
    f = noisy(made, seed)
    while not strategy.stop():
        asked = strategy.ask()
        strategy.tell(asked, f(np.array(asked)[:, : made.dim]).tolist())
    best = strategy.result.xfavorite if made.noise else strategy.result.xbest
    return np.asarray(best)[: made.dim]


def optimum(made: Problem) -> float:
    """The lowest value within the bounds, as a long descent without noise finds it."""
    from scipy.optimize import minimize

    assert made.bounds is not None
    start = np.clip(made.optimum, *made.bounds)
    found: Any = minimize(made.true, start, bounds=[made.bounds] * made.dim, options={"maxfun": 10**6, "maxiter": 1000})
    return float(found.fun)


def run(made: Problem, seed: int, optimizer: str) -> np.ndarray[Any, Any]:
    """What an optimizer of ours is left with: without settings the default, others untuned."""
    given: dict[str, Any] = {"default": {}, "snes": {"sigma": 0.3}, "zo-adam": {"lr": 0.02}}[optimizer]
    named: dict[str, Any] = {} if optimizer == "default" else {"optimizer": optimizer}
    f, start = noisy(made, seed), np.zeros(made.dim)
    found: Any = zoracle.minimize(f, start, budget=made.budget, bounds=made.bounds, **named, **given)
    point: np.ndarray[Any, Any] = found.x if optimizer == "default" or not made.noise else found.last
    return point


def main() -> None:
    """Print what the module says."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--compare", type=int, default=100)
    parser.add_argument("--most", type=int, default=30_000, help="largest budget")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    above: list[int] = []
    within, wins, began = 0, dict[str, int](), time.time()
    for seed in range(args.first, args.first + args.runs):
        made = problem(seed, args.most)
        start = float(made.true(np.zeros(made.dim)))
        end = float(made.true(run(made, seed, "default")))
        if not end <= start + 3 * made.noise:
            above.append(seed)
            print(f"seed {seed}: ends at {end:.4g} from {start:.4g}, noise {made.noise:.2g}, d {made.dim}", flush=True)
        if seed < args.first + args.compare:
            others = {"cma": float(made.true(cma(made, seed)))}
            if made.budget >= 21:
                others |= {name: float(made.true(run(made, seed, name))) for name in ("snes", "zo-adam")}
            floor = min(optimum(made), end, *others.values()) if made.bounds else 0.0
            best = min(others, key=others.__getitem__)
            close = end - floor <= 2 * (others[best] - floor) + 1e-9
            within += close
            if not close:
                wins[best] = wins.get(best, 0) + 1
                print(
                    f"seed {seed}: {end:.3g}, {best} {others[best]:.3g} ({made.kind}, d {made.dim}, budget "
                    f"{made.budget}, noise {made.noise:.1g}, {'box' if made.bounds else 'free'}, condition "
                    f"{made.weights.max() / made.weights.min():.0e}"
                    f"{', rotated' if made.mirror is not None else ''})",
                    flush=True,
                )
    print(f"{args.runs} runs, {len(above)} end above their start by more than 3 sigma; {time.time() - began:.0f} s")
    compared = min(args.compare, args.runs)
    print(f"within twice the best of SNES, CMA and ZO-ADAM: {within} of {compared}; beaten by {wins}")


if __name__ == "__main__":
    main()
