"""Minimise a function that can only be measured, with noise: how large to take the smoothing radius."""

import numpy as np

import zoracle

rng = np.random.default_rng(0)
TARGET = np.linspace(-1, 1, 20)


def measure(x):
    """Values (N,) of points (N, 20), each with an error of standard deviation 0.05."""
    return ((x - TARGET) ** 2).sum(axis=1) + 0.05 * rng.standard_normal(len(x))


for mu in (None, 1e-2, 1e-1):
    solution = zoracle.minimize(measure, np.zeros(20), budget=4200, optimizer="zo-adam", lr=0.02, mu=mu)
    # The best value seen is the luckiest one, so the last iterate is taken.
    error = np.abs(solution.last - TARGET).max()
    name = "default" if mu is None else f"{mu:g}"
    print(f"mu {name:>7}: largest error of a coordinate {error:.3f} after {solution.queries} queries")
