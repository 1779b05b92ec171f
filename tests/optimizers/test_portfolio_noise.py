"""Which member of a portfolio gets the queries under noise of several kinds."""

from __future__ import annotations

import numpy as np

import zoracle

D = 20
START = 4 * np.sin(7 * np.arange(1, D + 1) ** 2)


def bowl(x: np.ndarray) -> np.ndarray:
    """Curvatures from 1 to 10, 0 at best."""
    return (10 ** np.linspace(0, 1, D) * (x - 0.3) ** 2).sum(-1)


def waves(x: np.ndarray) -> np.ndarray:
    """A bowl with a local minimum at every integer."""
    return (0.2 * x**2 + 1 - np.cos(2 * np.pi * x)).sum(-1)


def test_noise_that_is_a_share_of_f_falls_with_f() -> None:
    rng = np.random.default_rng(0)
    found = zoracle.minimize(lambda x: bowl(x) * np.exp(0.01 * rng.standard_normal(len(x))), START, budget=2000)
    assert found.account["zo-lbfgs"] > 0.9 * found.queries
    assert bowl(found.x) < 1e-6 * bowl(START)  # at a noise of the start's size it would be 1e-3 of it


def test_slopes_of_noisy_ripples_are_not_followed() -> None:
    rng = np.random.default_rng(0)
    found = zoracle.minimize(lambda x: waves(x) + 0.1 * rng.standard_normal(len(x)), START, budget=2000)
    alone = zoracle.minimize(
        lambda x: waves(x) + 0.1 * rng.standard_normal(len(x)), START, budget=2000, optimizer="zo-lbfgs"
    )
    assert found.noise > 0
    assert found.account["ma-es"] > 0.6 * found.queries
    assert waves(found.x) < 0.5 * waves(alone.x)


def test_outliers_hand_the_run_to_the_strategy() -> None:
    rng = np.random.default_rng(0)

    def f(x: np.ndarray) -> np.ndarray:
        spikes = np.where(rng.random(len(x)) < 0.2, rng.standard_cauchy(len(x)), 0.0)
        return bowl(x) + 0.01 * rng.standard_normal(len(x)) + spikes

    found = zoracle.minimize(f, START, budget=4000)
    assert found.account["ma-es"] > 0.5 * found.queries
    assert bowl(found.x) < 1e-3 * bowl(START)
