"""A noisy quadratic without settings: how low ``zoracle.minimize`` ends, over many seeds.

    python -m benchmarks.noise --dims 10,100,1000 --noise 0,.01,.001 --seeds 20

f is 0.9 at the start and 0 near 0.1 in each coordinate; noise is drawn anew for each point. With ``--grows`` its
standard deviation is so many times f. ``--high`` bounds every coordinate from above, by .08 say, which binds most of
them. Printed is f without its noise at ``x`` and at ``last``, less the lowest value within the bounds: median and
worst.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np

import zoracle


class Quadratic:
    """A sum of squares whose curvatures lie between 1 and ``condition``, up to a factor."""

    def __init__(self, dim: int, noise: float, condition: float, grows: bool) -> None:
        self.rng = np.random.default_rng(dim)
        self.least = 0.1 * (1 + 0.3 * self.rng.standard_normal(dim))
        weights = condition ** self.rng.random(dim)
        self.weights = 0.9 * weights / (weights * self.least**2).sum()
        self.noise, self.grows = noise, grows

    def least_within(self, high: float | None) -> float:
        """The lowest value where no coordinate is above ``high``."""
        return 0.0 if high is None else float(self.true(np.minimum(self.least, high)))

    def true(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Without noise."""
        value: np.ndarray[Any, Any] = (self.weights * (x - self.least) ** 2).sum(-1)
        return value

    def __call__(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """As an optimizer sees it."""
        f = self.true(x)
        return f + self.noise * (f if self.grows else 1.0) * self.rng.standard_normal(len(x))


def main() -> None:
    """Print what the module says."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--dims", default="100", help="dimensions")
    parser.add_argument("--noise", default="0,.01,.001", help="standard deviations")
    parser.add_argument("--condition", type=float, default=1.0, help="largest curvature over the smallest")
    parser.add_argument("--budget", type=int, default=21_000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--grows", action="store_true", help="noise is so many times f")
    parser.add_argument("--high", type=float, help="upper bound of every coordinate")
    args = parser.parse_args()
    bounds = None if args.high is None else (-1.0, args.high)
    warnings.simplefilter("ignore")
    print("    d   noise      x: median, worst      last: median, worst")
    for dim in map(int, args.dims.split(",")):
        for noise in map(float, args.noise.split(",")):
            began, f = time.time(), Quadratic(dim, noise, args.condition, args.grows)
            found: Any = zoracle.minimize(f, np.zeros((args.seeds, dim)), budget=args.budget, bounds=bounds)
            ends = [f.true(np.asarray(point)) - f.least_within(args.high) for point in (found.x, found.last)]
            told = "   ".join(f"{np.median(end):9.2g} {end.max():9.2g}" for end in ends)
            print(f"{dim:5} {noise:7g}   {told}   {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
