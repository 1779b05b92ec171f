"""The call with no settings: noise, rounding, bounds, missing values, and no run that ends above its start."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import zoracle
from zoracle.errors import NonFiniteWarning, NoSignalWarning
from zoracle.types import Choice


class Quadratic:
    """0.9 at 0, 0 near 0.1 in each coordinate; with noise drawn anew for each point."""

    def __init__(self, dim: int, noise: float, seed: int = 0, grows: bool = False, condition: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.least = 0.1 * (1 + 0.3 * rng.standard_normal(dim))
        weight = condition ** np.linspace(0, 1, dim)
        self.weight = 0.9 * weight / (weight * self.least**2).sum()
        self.noise, self.grows, self.rng, self.count = noise, grows, rng, 0

    def true(self, x: np.ndarray) -> np.ndarray:
        return (self.weight * (x - self.least) ** 2).sum(-1)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.count += len(x)
        f = self.true(x)
        return f + self.noise * (f if self.grows else 1.0) * self.rng.standard_normal(len(x))


@pytest.mark.parametrize(("noise", "limit"), [(0.01, 0.02), (0.001, 0.002)])
@pytest.mark.parametrize("grows", [False, True])
def test_a_noisy_quadratic_is_minimised_without_settings(noise: float, limit: float, grows: bool) -> None:
    f = Quadratic(100, noise, grows=grows)
    found = zoracle.minimize(f, np.zeros(100), budget=21000)
    assert f.true(found.x) < limit
    assert f.true(found.last) < limit
    assert f.count == found.queries <= 21000
    assert 0.4 < found.noise / (noise * (0.9 if grows else 1.0)) < 2.5
    assert found.chosen is not Choice.LOWEST  # the luckiest value is no answer
    assert found.signal_to_noise > 3
    assert abs(found.value - f.true(found.x)) < 3 * noise


def test_curvatures_are_learned_under_noise() -> None:
    f = Quadratic(60, 0.01, condition=100.0)
    found = zoracle.minimize(f, np.zeros(60), budget=9000)
    assert f.true(found.last) < 0.008


def test_a_hopeless_member_does_not_take_the_budget() -> None:
    f = Quadratic(400, 0.001)
    found = zoracle.minimize(f, np.zeros(400), budget=8400)
    assert f.true(found.last) < 0.0005
    assert found.account["ma-es"] < 0.3 * found.queries


def test_without_noise_nothing_is_spent_on_it_but_a_line() -> None:
    f = Quadratic(100, 0.0)
    found = zoracle.minimize(f, np.zeros(100), budget=3000)
    assert f.true(found.x) < 3e-5
    assert f.true(found.last) < 3e-5
    assert (found.noise, found.mu, found.chosen) == (0.0, 0.0, Choice.LOWEST)


@pytest.mark.parametrize("name", ["zo-sgd", "zo-signsgd", "zo-adam", "zo-adamm", "zo-lstm-universal"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_named_optimizer_sees_the_noise_and_does_not_end_above_its_start(name: str, dtype: type) -> None:
    f = Quadratic(30, 0.01)
    found = zoracle.minimize(f, np.zeros(30, dtype), budget=4200, optimizer=name)
    assert f.count == found.queries <= 4200
    assert 0.003 < found.noise < 0.03
    assert found.mu > 1e-3  # where a step at the default of 1e-5 would be noise alone
    assert f.true(found.x) < 0.9 + 0.03
    assert f.true(found.last) < 0.9 + 0.03


def test_what_the_caller_set_stays_under_noise() -> None:
    f = Quadratic(30, 0.01)
    found = zoracle.minimize(f, np.zeros(30), budget=2100, optimizer="zo-sgd", mu=0.05, lr=0.02)
    assert np.isnan(found.noise)
    assert f.true(found.last) < 0.5


def test_noise_is_not_overestimated_in_float32() -> None:
    # At the spacing that float32 begins with, f bends along the line by more than its noise.
    f = Quadratic(100, 0.001)
    found = zoracle.minimize(f, np.zeros(100, np.float32), budget=2000)
    assert 0.0004 < found.noise < 0.0025


@pytest.mark.parametrize("name", ["zo-sgd", "zo-signsgd", "zo-adam"])
def test_a_step_too_large_does_not_leave_a_run_above_its_start(name: str) -> None:
    f = Quadratic(30, 0.0)
    found = zoracle.minimize(f, np.zeros(30), budget=2100, optimizer=name, lr=50.0)
    assert np.isnan(found.noise)  # a smooth function costs nothing to be distinguished
    assert f.count == found.queries == 2100
    assert f.true(found.last) <= 0.9 + 1e-9


def test_a_rounded_function_is_minimised() -> None:
    f = Quadratic(20, 0.0)
    found = zoracle.minimize(lambda x: (f(x) * 50).round() / 50, np.zeros(20), budget=4000)
    assert f.true(found.x) < 0.03
    assert 0.02 / 12**0.5 / 3 < found.noise < 0.02


def test_binding_bounds_are_reached() -> None:
    # Half of the optima lie outside; the best of the rest is at 0.2, inside.
    least = np.where(np.arange(30) % 2, 1.7, 0.2)
    scales = 10 ** np.linspace(0, 2, 30)
    best = (scales * (np.clip(least, -1, 1) - least) ** 2).sum()
    f = lambda x: (scales * (x - least) ** 2).sum(-1)  # noqa: E731
    found = zoracle.minimize(f, np.zeros(30), budget=6000, bounds=(-1, 1))
    assert np.abs(found.x).max() <= 1
    assert found.value / best - 1 < 1e-6


def test_a_function_that_is_all_noise_is_said_to_be() -> None:
    rng = np.random.default_rng(0)
    with pytest.warns(NoSignalWarning, match="differ by more than its noise"):
        found = zoracle.minimize(lambda x: rng.standard_normal(len(x)), np.zeros(5), budget=2000)
    assert 0.4 < found.noise < 2.5


def test_missing_values_are_said() -> None:
    rng = np.random.default_rng(0)

    def some(x: np.ndarray) -> np.ndarray:
        return np.where(rng.random(len(x)) < 0.3, np.nan, (x**2).sum(-1))

    with pytest.warns(NonFiniteWarning, match="3[0-9]%|2[0-9]%"):
        found = zoracle.minimize(some, np.ones(10), budget=2000)
    assert 0.25 < found.non_finite < 0.35
    assert found.value < 5


@pytest.mark.parametrize("dim", [1, 2, 7, 40])
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("bounds", [None, (-1.0, 1.0)])
def test_no_run_ends_above_its_start_by_more_than_its_noise(dim: int, noise: float, bounds) -> None:
    rng = np.random.default_rng(dim)
    for budget in (10 * dim, 60 * dim):
        weights = 10 ** rng.uniform(-3, 3, dim)
        f = lambda x, w=weights: 0.5 * (w * (x - 0.05) ** 2).sum(-1) / w.sum()  # noqa: E731
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoSignalWarning)
            found = zoracle.minimize(
                lambda x, f=f: f(x) + noise * rng.standard_normal(len(x)), np.zeros(dim), budget=budget, bounds=bounds
            )
        assert found.queries <= budget
        for x in (found.x, found.last):
            assert f(x) <= f(np.zeros(dim)) + 3 * noise


def test_a_run_alone_is_the_same_run_among_others() -> None:
    start = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6)
    f = lambda x: ((x - 0.3) ** 2).sum(1) + 0.1 * torch.sin(40 * x).sum(1)  # noqa: E731
    many = zoracle.minimize(f, start, budget=400)
    one = zoracle.minimize(f, start[2], budget=400, ids=[2])
    assert torch.equal(many.x[2], one.x)
    assert int(many.queries[2]) == one.queries


class Bytes(torch.nn.Module):
    """A linear model that sees pixels in 256 steps, or as they are."""

    def __init__(self, steps: int | None = 255) -> None:
        super().__init__()
        self.steps = steps
        g = torch.Generator().manual_seed(0)
        self.weight = torch.randn(2, 48, generator=g) / 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = images if self.steps is None else (images * self.steps).round() / self.steps
        return seen.flatten(1) @ self.weight.T


@pytest.mark.parametrize(("name", "reduce"), [("zo-adam", None), ("zo-lstm", "tile:2")])
def test_a_target_that_rounds_its_input_is_attacked(name: str, reduce: str | None) -> None:
    images = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = Bytes()(images).argmax(1)
    settings = {"lr": 0.02} if name == "zo-adam" else {"reach": 0.0}
    given = {"budget": 2100, "optimizer": name, "reduce": reduce, **settings}
    found = zoracle.attack(Bytes(), images, labels, **given)
    assert found.success.sum() >= 5
    assert (found.trajectory.mu > 1e-3).all()
    assert (found.queries <= 2100).all()
    # A mu that the caller chose is left alone, and so is a target that does not round.
    blind = zoracle.attack(Bytes(), images, labels, mu=1e-5, **given)
    assert blind.success.sum() < found.success.sum()
    assert blind.trajectory.mu.isnan().all()
    plain = zoracle.attack(Bytes(None), images, labels, **given)
    assert plain.trajectory.noise.isnan().all()


def test_an_integer_valued_function_is_minimised_by_name() -> None:
    found = zoracle.minimize(
        lambda x: (200 * (x - 0.3) ** 2).sum(-1).round(), np.zeros(10), budget=4200, optimizer="zo-adam", lr=0.02
    )
    assert 200 * ((found.x - 0.3) ** 2).sum() < 20
    assert found.mu > 1e-4


@pytest.mark.parametrize("budget", range(300, 330))
def test_whatever_the_budget_the_end_of_a_noisy_run_is_evaluated_again(budget: int) -> None:
    f = Quadratic(5, 0.1)
    found = zoracle.minimize(f, np.zeros(5), budget=budget)
    assert f.count == found.queries <= budget
    assert found.noise > 0
    assert found.chosen is not Choice.LOWEST
