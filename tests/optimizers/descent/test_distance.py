"""What a noisy line search tells: the noise where the run is now, and whether slopes can be trusted."""

from __future__ import annotations

import pytest
import torch

from zoracle.optimizers.descent.distance import heard, searched
from zoracle.optimizers.descent.sweep import ZOLBFGSState
from zoracle.optimizers.descent.zo_lbfgs import ZOLBFGS


def state(noise: float) -> ZOLBFGSState:
    """A run in two dimensions whose slopes promise to gain 1."""
    made = ZOLBFGS().init(torch.zeros((1, 2), dtype=torch.float64))
    row = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    return made._replace(noise=torch.full_like(made.noise, noise), direction=row, gradient=-row)


def test_noise_is_heard_over_the_shape_of_f() -> None:
    t = torch.linspace(0, 2, 20, dtype=torch.float64)
    draws = torch.randn((200, 20), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = 3 - 5 * t + 4 * t**2 + 0.1 * t.sin() + 1e-3 * draws
    now = state(1e-3)
    found = torch.cat([heard(now, row.unsqueeze(0)) for row in values])
    assert found.log().mean().exp().item() == pytest.approx(1e-3, rel=0.1)


def test_noise_may_fall_and_rise_by_half_of_the_logarithm_and_none_stays_none() -> None:
    # Third differences: -1, 1, -3, 3, -1, 1.
    values = torch.tensor([[1.0, 0, 0, 0, 1, 0, 0, 0, 1]], dtype=torch.float64)
    level = 1 / (0.6745 * 20**0.5)
    for noise in (100.0, 1e-6):
        assert heard(state(noise), values).item() == pytest.approx((noise * level) ** 0.5)
    assert heard(state(0.0), values).item() == 0
    assert heard(state(0.5), torch.ones_like(values)).item() == 0.5
    assert heard(state(0.5), values[:, :3]).item() == 0.5
    assert heard(state(0.5), values.fill_(torch.nan)).item() == 0.5


def test_an_outlier_is_hardly_heard() -> None:
    draws = 1e-3 * torch.randn((1, 20), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = heard(state(1e-3), draws).item()
    draws[0, 7] = 1e6
    assert heard(state(1e-3), draws).item() < 1.6 * plain


def test_trust_falls_with_line_searches_that_gain_nothing_and_returns() -> None:
    now, yes = state(1e-3), torch.ones(1, dtype=torch.bool)
    for expected in (0.75, 0.5625, 0.421875):
        now = searched(now, torch.zeros(1, dtype=torch.float64), yes)
        assert now.trust.item() == expected
    now = searched(now, torch.ones(1, dtype=torch.float64), yes)
    assert now.trust.item() > 0.5
    # Without a line search, or where noise would hide the gain, nothing was promised.
    assert searched(now, torch.zeros(1, dtype=torch.float64), ~yes).trust.item() == now.trust.item()
    assert searched(state(1.0), torch.zeros(1, dtype=torch.float64), yes).trust.item() == 1
