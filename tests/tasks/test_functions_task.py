from __future__ import annotations

import math

import pytest
import torch

from zoracle.errors import InputError
from zoracle.objectives import ClassicalFunction, ShiftedFunctions
from zoracle.tasks import task

NAMES = ClassicalFunction.names()
each = pytest.mark.parametrize("name", NAMES)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@each
def test_a_moved_function_is_the_classical_one_elsewhere(name):
    optimum = torch.linspace(-0.5, 0.7, 6, dtype=torch.float64).view(2, 3)
    moved = ShiftedFunctions((name, name), optimum, unit=torch.tensor([2.0, 1.0], dtype=torch.float64))
    usual = ClassicalFunction(name, 3, 2)
    x = torch.tensor([[0.3, -0.9, 1.0], [0.0, 0.2, -1.0]], dtype=torch.float64)
    problem = torch.arange(2)
    low, high = usual.bounds
    z = usual.optimum + (high - low) / 2 * (x - optimum)
    expected = usual.evaluate(z, problem).loss - usual.optimum_value
    loss = moved.evaluate(x, problem).loss
    torch.testing.assert_close(loss, expected / torch.tensor([2.0, 1.0], dtype=torch.float64), rtol=1e-10, atol=0)
    assert moved.bounds == (-1, 1)
    assert moved.scale == 1


@DTYPES
def test_the_minimum_is_known(dtype):
    objective = task("functions", dim=12).objective(tuple(range(6)), dtype=dtype)
    problem = torch.arange(6)
    loss, gradient = objective.gradient(objective.optimum, problem)
    assert torch.equal(objective.optimum_value, torch.zeros(6, dtype=dtype))
    # Ackley's and Levy's minimum is a sum of numbers that cancel to rounding only.
    torch.testing.assert_close(loss, objective.optimum_value, rtol=0, atol=2 * torch.finfo(dtype).eps)
    assert float(gradient.abs().max()) < 1e-4
    for distance in (0.01, 0.1, 1.0):
        move = distance * torch.randn(6, 12, generator=torch.Generator().manual_seed(0)).to(dtype)
        assert (objective.evaluate(objective.optimum + move, problem).loss > 1e-9).all()


def test_differences_near_the_minimum_are_more_than_rounding():
    near = torch.full((1, 100), 1e-4, dtype=torch.float64)
    rows = torch.zeros(1, dtype=torch.int64)
    for name in ("sphere", "rosenbrock", "rastrigin", "styblinski-tang"):
        moved = ShiftedFunctions((name,), torch.zeros(1, 100, dtype=torch.float64))
        exact = moved.evaluate(near, rows).loss
        torch.testing.assert_close(moved.evaluate(near.float(), rows).loss.double(), exact, rtol=0.01, atol=0)


def test_functions_take_turns():
    family = task("functions", dim=3)
    assert family.objective((0, 1, 2, 3, 4, 5, 6, 2000)).functions == (*NAMES, NAMES[0], NAMES[2000 % 6])
    assert family.ids("test")[:2] == (2000, 2001)
    assert task("functions", dim=3, function="levy").objective((0, 1)).functions == ("levy", "levy")
    assert task("functions", dim=1, function="ackley").dim == 1


def test_starts_and_optima_are_uniform_in_their_boxes():
    family = task("functions", start_range=0.5)
    ids = family.ids("train")[:60]
    optimum, start = family.objective(ids, dtype=torch.float64).optimum, family.start(ids, seed=3, dtype=torch.float64)
    for draws, limit in ((optimum, 0.8), (start, 0.5)):
        assert 0.99 * limit < float(draws.abs().max()) < limit
        assert abs(float(draws.mean())) < 0.02 * limit
        assert float(draws.std()) == pytest.approx(limit / math.sqrt(3), rel=0.02)
        assert len(set(draws[:, 0].tolist())) == 60
    assert torch.equal(family.objective(ids[7:9], dtype=torch.float64).optimum, optimum[7:9])
    assert not task("functions", start_range=0.0).start(ids).any()
    assert not task("functions", shift=0.0).objective(ids).optimum.any()


@each
def test_a_search_begins_at_a_loss_of_about_one(name):
    family = task("functions", function=name)
    ids = family.ids("valid")
    loss = family.objective(ids).evaluate(family.start(ids), torch.arange(len(ids))).loss
    assert float(loss.mean()) == pytest.approx(1, rel=0.1)


def test_values_can_be_left_as_they_are():
    ids = tuple(range(6))
    scaled, plain = task("functions"), task("functions", scaled=False)
    x, rows = scaled.start(ids, dtype=torch.float64), torch.arange(6)
    one, other = (family.objective(ids, dtype=torch.float64).evaluate(x, rows).loss for family in (scaled, plain))
    torch.testing.assert_close(one * scaled.objective(ids, dtype=torch.float64).unit, other, rtol=1e-13, atol=0)
    assert float(other.max() / other.min()) > 1e5
    assert torch.equal(plain.objective(ids).unit, torch.ones(6))


@DTYPES
@pytest.mark.parametrize("dim", [2, 101])
def test_different_functions_side_by_side_give_what_they_give_alone(dtype, dim):
    family = task("functions", dim=dim)
    ids = tuple(range(2000, 2007))
    objective = family.objective(ids, dtype=dtype)
    problem = torch.arange(7).repeat(3)
    points = family.start(ids, dtype=dtype).repeat(3, 1) + torch.arange(21).unsqueeze(1) / 100
    loss, gradient = objective.gradient(points, problem)
    for i in (0, 4, 5, 13, 20):
        alone = family.objective((ids[problem[i]],), dtype=dtype)
        one, slope = alone.gradient(points[i : i + 1], torch.zeros(1, dtype=torch.int64))
        assert torch.equal(one, loss[i : i + 1])
        assert torch.equal(slope, gradient[i : i + 1])
        assert torch.equal(alone.evaluate(points[i : i + 1], torch.zeros(1, dtype=torch.int64)).loss, one)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShiftedFunctions(("sphere",), torch.zeros(2, 3)), "the optimum has shape (2, 3) for 1 functions"),
        (lambda: ShiftedFunctions(("spere",), torch.zeros(1, 3)), "did you mean sphere?"),
        (lambda: ShiftedFunctions(("rosenbrock",), torch.zeros(1, 1)), "expected at least 2 for rosenbrock"),
        (lambda: ShiftedFunctions(("levy",), torch.zeros(1, 1), unit=torch.zeros(1)), "expected 1 positive numbers"),
    ],
)
def test_bad_input_is_one_line(make, message):
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
