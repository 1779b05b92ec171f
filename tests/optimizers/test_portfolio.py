"""What the default of ``minimize`` does with its budget."""

from __future__ import annotations

import numpy as np
import torch

import zoracle


def waves(x: torch.Tensor) -> torch.Tensor:
    """A bowl with a local minimum at every whole number, 2^d of them around the best one."""
    return (0.2 * x**2 + 1 - torch.cos(2 * torch.pi * x)).sum(1)


def test_a_long_run_leaves_the_minimum_that_is_nearest() -> None:
    start = torch.tensor([-4.0, 3.0, 2.0, -3.0, 4.0, -2.0, 3.0, -4.0], dtype=torch.float64).repeat(4, 1)
    nearest = 0.2 * start[0].square().sum()
    found = zoracle.minimize(waves, start, budget=4000)
    assert (found.value < 0.1 * nearest).all()
    assert (found.account["restarts"] > 0).all()
    spent = found.account["zo-lbfgs"] + found.account["ma-es"]
    assert (found.queries - spent <= 10).all()  # the others measured the noise, and evaluated the last iterate


def test_what_is_smooth_goes_to_the_quasi_newton_method() -> None:
    weights = 10 ** np.linspace(0, 2, 40)
    found = zoracle.minimize(lambda x: (weights * (x - 0.2) ** 2).sum(-1), np.zeros(40), budget=2000)
    assert found.account["zo-lbfgs"] > 0.8 * found.queries
    assert f"zo-lbfgs {found.account['zo-lbfgs']:,}, ma-es {found.account['ma-es']:,}" in repr(found)
    assert found.value < 1e-6


def test_other_optimizers_have_no_account() -> None:
    found = zoracle.minimize(lambda x: (x**2).sum(-1), np.ones(4), budget=200, optimizer="zo-sgd")
    assert found.account == {}
    assert "given to" not in repr(found)
