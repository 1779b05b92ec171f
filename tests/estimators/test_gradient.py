"""Every estimator against an analytic gradient, its size included."""

from __future__ import annotations

import math

import pytest
import torch

from problems import Bowls
from zoracle import directions, estimators
from zoracle.errors import InputError
from zoracle.metatrain.oracle import TrainingOracle
from zoracle.types import Key

N, Q, D = 4000, 4, 9
X = torch.linspace(-1, 1, D, dtype=torch.float64)
MU = 1e-4


def bowl(points: torch.Tensor) -> torch.Tensor:
    objective = Bowls(1, D)
    return objective.evaluate(points.flatten(0, -2), torch.zeros(points[..., 0].numel(), dtype=torch.int64)).loss.view(
        points.shape[:-1]
    )


def gradient() -> torch.Tensor:
    return Bowls(1, D).gradient(X.unsqueeze(0), torch.zeros(1, dtype=torch.int64))[1][0]


def check_mean(estimates: torch.Tensor, expected: torch.Tensor) -> None:
    error = estimates.std(0) / math.sqrt(estimates.shape[0])
    assert ((estimates.mean(0) - expected).abs() < 4 * error + 20 * MU).all()
    # The test can fail: an estimate of another size is distinguished.
    assert ((estimates.mean(0) - 1.5 * expected).abs() > 4 * error).any()


def draws(kind: str) -> torch.Tensor:
    key = Key.start(0, torch.arange(N))
    return directions.draw(kind, key, Q, torch.zeros(N, D, dtype=torch.float64))  # type: ignore[arg-type]


def forward_values(u: torch.Tensor) -> torch.Tensor:
    points = torch.cat((X.expand(N, 1, D), X + MU * u), dim=1)
    return bowl(points)


@pytest.mark.parametrize("control_variate", [False, True])
@pytest.mark.parametrize("kind", directions.KINDS)
def test_forward_difference_estimates_the_gradient(kind: str, control_variate: bool) -> None:
    u = draws(kind)
    estimates = estimators.forward_difference(forward_values(u), u, MU, control_variate)
    if kind == "orthogonal" and control_variate:
        # Orthogonal directions are uncorrelated but not independent; the mean is still the gradient.
        assert estimates.shape == (N, D)
    check_mean(estimates, gradient())


@pytest.mark.parametrize("kind", directions.KINDS)
def test_central_difference_estimates_the_gradient(kind: str) -> None:
    u = draws(kind)
    values = bowl(X + MU * directions.antithetic(u))
    check_mean(estimators.central_difference(values, u, MU), gradient())


def test_a_learned_covariance_gives_sigma_squared_times_the_gradient() -> None:
    std = torch.linspace(0.2, 2.0, D, dtype=torch.float64)
    u = directions.reparameterise(draws("gaussian"), std.expand(N, D))
    estimates = estimators.forward_difference(forward_values(u), u, MU)
    check_mean(estimates, std.square() * gradient())


def test_coordinatewise_is_exact_on_a_quadratic() -> None:
    points = estimators.coordinatewise_points(X.unsqueeze(0), 1e-3)
    assert points.shape == (1, 2 * D, D)
    torch.testing.assert_close(estimators.coordinatewise(bowl(points), 1e-3)[0], gradient(), rtol=1e-9, atol=1e-9)
    part = estimators.coordinatewise_points(X.unsqueeze(0), 1e-3, 3, 5)
    assert torch.equal(part, points[:, 6:10])


def test_the_oracle_estimates_the_same_gradient_block_by_block() -> None:
    objective = Bowls(3, D)
    x = X.expand(3, D)
    rows = torch.arange(3)
    oracle = TrainingOracle(objective, gradient="coordinatewise", mu=1e-3, chunk=10)
    loss, estimated = oracle.estimate_gradient(x, rows)
    true_loss, true = objective.gradient(x, rows)
    torch.testing.assert_close(estimated, true, rtol=1e-8, atol=1e-8)
    assert torch.equal(loss, true_loss)
    assert oracle.counts["meta-gradient"].tolist() == [2 * D + 1] * 3  # type: ignore[index]


def test_the_control_variate_removes_what_all_differences_share() -> None:
    u = draws("gaussian")
    values = forward_values(u)
    kinked = torch.cat((values[:, :1], values[:, 1:] + 5 * MU), dim=1)
    plain = estimators.forward_difference(kinked, u, MU)
    mended = estimators.forward_difference(kinked, u, MU, control_variate=True)
    torch.testing.assert_close(mended, estimators.forward_difference(values, u, MU, control_variate=True))
    assert plain.var(0).sum() > 1.5 * mended.var(0).sum()


def test_missing_values_are_left_out() -> None:
    u = torch.eye(3, dtype=torch.float64).unsqueeze(0)
    values = torch.tensor([[1.0, 1.0 + MU, torch.nan, 1.0 - MU]], dtype=torch.float64)
    found = estimators.forward_difference(values, u, MU)[0]
    torch.testing.assert_close(found, torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64))
    none = torch.full((1, 4), torch.nan, dtype=torch.float64)
    assert torch.equal(estimators.forward_difference(none, u, MU), torch.zeros(1, 3, dtype=torch.float64))
    no_base = torch.tensor([[torch.nan, 1.0, 1.0, 1.0]], dtype=torch.float64)
    assert torch.equal(estimators.forward_difference(no_base, u, MU, True), torch.zeros(1, 3, dtype=torch.float64))
    pairs = torch.tensor([[MU, 0.0, torch.nan, 0.0, 0.0, MU]], dtype=torch.float64)
    torch.testing.assert_close(
        estimators.central_difference(pairs, u, MU)[0], torch.tensor([0.25, 0.0, -0.25]).double()
    )


def test_gradients_flow_through_directions_only() -> None:
    u = torch.ones(1, 2, 3, dtype=torch.float64, requires_grad=True)
    values = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
    estimators.forward_difference(values * torch.tensor([1.0, 2.0, 3.0]), u, MU).sum().backward()
    assert values.grad is None
    torch.testing.assert_close(u.grad, torch.tensor([1.0, 2.0]).double().view(1, 2, 1).expand(1, 2, 3) / MU / 2)


def test_shapes_are_checked() -> None:
    with pytest.raises(InputError, match=r"expected values \(2, 4\)"):
        estimators.forward_difference(torch.zeros(2, 3), torch.zeros(2, 3, 5), MU)
    with pytest.raises(InputError, match=r"expected values \(2, 6\)"):
        estimators.central_difference(torch.zeros(2, 3), torch.zeros(2, 3, 5), MU)


def test_default_mu_follows_type_and_scale() -> None:
    assert 1e-5 < estimators.default_mu(torch.float32) < 1.3e-5
    assert estimators.default_mu(torch.float32, 100.0) == pytest.approx(100 * estimators.default_mu(torch.float32))
    assert estimators.default_mu(torch.float64) < 1e-9
    assert 1e-6 < estimators.smallest_mu(torch.float32) < 1e-5
