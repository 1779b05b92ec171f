"""What a portfolio learns from the first candidates of its strategy, against the quantities that it estimates."""

from __future__ import annotations

import math

import pytest
import torch

import zoracle
from zoracle.optimizers.portfolio import Portfolio
from zoracle.optimizers.portfolio_look import agreed, limited, mirrored, pace, summed, widening
from zoracle.optimizers.portfolio_state import STRATEGY, PortfolioState

D = 30


def draws(pairs: int, seed: int = 0) -> torch.Tensor:
    """Displacements (pairs, D)."""
    return torch.randn((pairs, D), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_slopes_of_a_quadratic_agree_whatever_its_conditioning() -> None:
    turn = torch.linalg.qr(draws(D))[0]
    hessian = turn @ torch.diag(10 ** torch.linspace(-3, 3, D, dtype=torch.float64)) @ turn.T
    x, v = draws(1, 1)[0], draws(7, 2)

    def f(points: torch.Tensor) -> torch.Tensor:
        return ((points @ hessian) * points).sum(1) / 2

    evidence = summed((v @ hessian @ x).unsqueeze(0), f(x + v).unsqueeze(0), f(x - v).unsqueeze(0))
    assert agreed(evidence).item() == pytest.approx(1)


@pytest.mark.parametrize(("times", "expected"), [(3.0, 0.6), (1 / 3, 0.6), (-1.0, -1.0), (0.0, 0.0)])
def test_slopes_that_are_too_steep_or_too_flat_agree_less(times: float, expected: float) -> None:
    slope = draws(1)
    assert agreed(summed(slope, 7 + times * slope, 7 - times * slope)).item() == pytest.approx(expected)


def test_a_pair_with_an_unknown_value_tells_nothing_and_steps_add_up() -> None:
    slope, up, down = (draws(1, k) for k in range(3))
    lost = up.clone()
    lost[0, 4], lost[0, 9] = torch.nan, torch.inf
    kept = [k for k in range(D) if k not in (4, 9)]
    torch.testing.assert_close(summed(slope, lost, down), summed(slope[:, kept], up[:, kept], down[:, kept]))
    parts = summed(slope[:, :10], up[:, :10], down[:, :10]) + summed(slope[:, 10:], up[:, 10:], down[:, 10:])
    torch.testing.assert_close(parts, summed(slope, up, down))


def test_slopes_of_ripples_do_not_agree() -> None:
    x, v = draws(1, 1)[0], 0.5 * draws(200, 2)

    def f(points: torch.Tensor) -> torch.Tensor:
        return (0.2 * points**2 + 1 - torch.cos(2 * math.pi * points)).sum(1)

    slope = v @ (0.4 * x + 2 * math.pi * torch.sin(2 * math.pi * x))
    assert abs(agreed(summed(slope.unsqueeze(0), f(x + v).unsqueeze(0), f(x - v).unsqueeze(0))).item()) < 0.3


def test_the_width_is_corrected_to_the_best_one_for_a_quadratic() -> None:
    curvatures = torch.linspace(1, 5, D, dtype=torch.float64)
    slope, sigma, mass = 2 * torch.ones(D, dtype=torch.float64), 0.3, 4.0
    v = sigma * draws(20_000)
    bent = (curvatures * v**2).sum(1) / 2
    evidence = summed(
        (v @ slope).unsqueeze(0), (3 + bent + v @ slope).unsqueeze(0), (3 + bent - v @ slope).unsqueeze(0)
    )
    centre = torch.tensor([3.0], dtype=torch.float64)
    factor = widening(evidence, centre, torch.tensor([mass], dtype=torch.float64))
    best = mass * float(slope.norm()) / float(curvatures.sum())
    assert sigma * factor.item() == pytest.approx(best, rel=0.03)


def test_a_function_that_does_not_rise_is_searched_more_widely_and_an_unknown_one_as_before() -> None:
    rise = torch.tensor([-1.0, 0.0, torch.nan, 1e9]).unsqueeze(1)
    factor = widening(summed(torch.ones(4, 1), rise + 1, rise - 1), torch.zeros(4), torch.full((4,), 4.0))
    assert factor.tolist() == [4.0, 4.0, 1.0, 1 / 16]


def started(horizon: int) -> PortfolioState:
    """A portfolio of ten points a step in D dimensions that is about to begin."""
    return Portfolio(num_directions=9).init(torch.zeros((1, D), dtype=torch.float64), horizon=horizon)


@pytest.mark.parametrize(("per_dim", "expected"), [(10, 1.0), (40, 1.0), (100, 0.4), (10_000, 0.2)])
def test_a_run_of_the_strategy_takes_what_is_left(per_dim: int, expected: float) -> None:
    rate = pace(started(per_dim * D // 10), 10)
    assert rate.item() == pytest.approx(expected)


def test_noise_is_at_most_the_spread_of_a_population_without_its_outliers() -> None:
    values = 5 + 0.1 * torch.randn((1, 10_001), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[:, :500] = torch.tensor([1e9, -1e9], dtype=torch.float64).repeat(250)
    values[:, 500] = torch.nan
    noise = torch.tensor([1.0, 0.02], dtype=torch.float64)
    large, small = limited(noise, values.repeat(2, 1)).tolist()
    assert large == pytest.approx(0.1, rel=0.1)
    assert small == 0.02
    # Values that rounding makes equal tell nothing.
    assert limited(noise, torch.ones_like(values).repeat(2, 1)).tolist() == noise.tolist()


def test_the_first_candidates_are_pairs_and_later_ones_are_not() -> None:
    made = Portfolio(num_directions=10)
    state = made.init(torch.zeros((1, D), dtype=torch.float64), horizon=100)
    state = state._replace(active=torch.full_like(state.active, STRATEGY))
    points = made.ask(state).points[0]
    assert torch.equal(points[:5], -points[5:10])
    assert points[:5].abs().min() > 0
    again = made.ask(state._replace(spent=state.spent + 1)).points[0]
    assert torch.equal(again[:5], -again[5:10])
    later = state._replace(spent=state.spent + 2)
    assert not torch.equal(made.ask(later).points[0, :5], -made.ask(later).points[0, 5:10])


@pytest.mark.parametrize("m", [4, 7])
def test_mirrored_draws_keep_an_odd_one(m: int) -> None:
    z = draws(m).unsqueeze(0)
    paired = mirrored(z)
    half = m // 2
    assert torch.equal(paired[:, half : 2 * half], -z[:, :half])
    assert torch.equal(paired[:, 2 * half :], z[:, 2 * half :])


def test_ripples_wider_than_the_scale_are_searched_widely() -> None:
    """A start four units away, in a function whose nearest minima lie at every integer."""
    start = 4 * torch.sin(7 * torch.arange(1, 41, dtype=torch.float64) ** 2)

    def f(x: torch.Tensor) -> torch.Tensor:
        return (0.2 * x**2 + 1 - torch.cos(2 * math.pi * x)).sum(1)

    found = zoracle.minimize(f, start, budget=2000)
    assert found.account["ma-es"] > 0.8 * found.queries
    assert found.value < 0.5 * zoracle.minimize(f, start, budget=2000, optimizer="zo-lbfgs").value
    assert found.value < zoracle.minimize(f, start, budget=2000, optimizer="ma-es").value


def test_few_queries_are_spent_in_many_steps() -> None:
    made = Portfolio()
    assert [made.planned(600, budget).queries_per_step for budget in (300, 500, 1100)] == [13, 16, 21]
    assert made.planned(600, 3000).queries_per_step > 21
