from __future__ import annotations

import numpy as np
import pytest
import torch

import zoracle
from zoracle.errors import BlackBoxError, InputError, NonFiniteWarning
from zoracle.types import StopReason

optimize = pytest.importorskip("scipy.optimize", reason="SciPy is not installed (extra scipy)")

from zoracle.interop.scipy import zeroth_order  # noqa: E402

OPTIONS = {"budget": 500, "optimizer": "zo-adam", "lr": 0.05}


class Bowl:
    """The squared distance to a point; takes one point and counts its calls."""

    def __init__(self, answers=None):
        self.calls = 0
        self.answers = answers or {}
        self.seen: list[np.ndarray] = []

    def __call__(self, x, center=0.3, power=2):
        assert x.shape == (8,)
        assert x.dtype == np.float64
        self.calls += 1
        self.seen.append(x.copy())
        x -= center  # the point is the function's own
        return self.answers.get(self.calls, (np.abs(x) ** power).sum())


@pytest.mark.parametrize("x0", [np.zeros(8), [0] * 8, np.zeros(8, dtype=np.float32)])
def test_it_is_minimize_one_point_at_a_time(x0):
    fun = Bowl()
    found = optimize.minimize(fun, x0, args=(0.2,), method=zeroth_order, options={**OPTIONS, "seed": 5})
    same = zoracle.minimize(
        lambda x: ((x - 0.2) ** 2).sum(1), torch.zeros(8).double(), budget=500, seed=5, optimizer="zo-adam", lr=0.05
    )
    np.testing.assert_allclose(found.x, same.x.numpy(), rtol=1e-6)
    assert found.fun == Bowl()(found.x.copy(), 0.2) < 0.02
    assert found.nfev == fun.calls == same.queries == 484  # 23 steps of 21, the last iterate
    assert found.nit == 23
    assert (found.success, found.status, found.message) == (True, StopReason.BUDGET, "the budget is spent")


def test_a_target():
    fun = Bowl()
    found = optimize.minimize(fun, np.zeros(8), method=zeroth_order, options={**OPTIONS, "target": 0.1})
    assert (found.success, found.status) == (True, StopReason.TARGET)
    assert found.fun <= 0.1
    assert found.nfev == fun.calls < 500
    missed = optimize.minimize(Bowl(), np.zeros(8), method=zeroth_order, options={**OPTIONS, "target": -1.0})
    assert (missed.success, missed.status) == (False, StopReason.BUDGET)


@pytest.mark.parametrize("bounds", [optimize.Bounds(-0.1, 0.2), [(-0.1, 0.2)] * 8, optimize.Bounds([-0.1] * 8, 0.2)])
def test_bounds(bounds):
    fun = Bowl()
    shown = []
    found = optimize.minimize(
        fun, np.zeros(8), method=zeroth_order, bounds=bounds, callback=shown.append, options=OPTIONS | {"scale": 0.5}
    )
    seen = np.array(fun.seen)
    assert seen.min() >= -0.1
    assert seen.max() == 0.2
    np.testing.assert_allclose(found.x, 0.2, atol=1e-3)
    assert max(x.max() for x in shown) <= 0.2


def test_bounds_that_differ_between_coordinates():
    bounds = [(0, 1)] * 7 + [(-1, 0.1)]
    found = optimize.minimize(Bowl(), np.zeros(8), method=zeroth_order, bounds=bounds, options=OPTIONS)
    np.testing.assert_allclose(found.x, [0.3] * 7 + [0.1], atol=0.05)


@pytest.mark.parametrize("bounds", [[(None, None)] * 8, optimize.Bounds(), [(0, None)] * 8, [(None, 1.0)] * 8])
def test_bounds_on_one_side_or_none(bounds):
    fun = Bowl()
    found = optimize.minimize(fun, np.full(8, 0.5), method=zeroth_order, bounds=bounds, options=OPTIONS)
    assert found.fun < 0.01


def test_the_callback_sees_every_step_and_may_end_the_run():
    fun, shown = Bowl(), []

    def callback(*, intermediate_result):
        shown.append(intermediate_result)
        if len(shown) == 3:
            raise StopIteration

    found = optimize.minimize(fun, np.zeros(8), method=zeroth_order, callback=callback, options=OPTIONS)
    assert (found.success, found.status, found.nit) == (False, 99, 3)
    assert found.nfev == fun.calls == 63
    assert [part.nfev for part in shown] == [21, 42, 63]
    assert found.fun == shown[-1].fun == Bowl()(found.x.copy())
    assert shown[0].fun >= shown[1].fun >= shown[2].fun


def test_a_callback_of_the_old_form_is_given_the_point():
    shown = []
    found = optimize.minimize(Bowl(), np.zeros(8), method=zeroth_order, callback=shown.append, options=OPTIONS)
    assert len(shown) == found.nit
    assert Bowl()(shown[-1].copy()) >= found.fun
    assert shown[-1].shape == (8,)


def test_values_that_are_not_finite_are_survived():
    found = optimize.minimize(Bowl({1: np.nan, 5: np.inf}), np.zeros(8), method=zeroth_order, options=OPTIONS)
    assert found.fun < 0.01
    with pytest.warns(NonFiniteWarning, match="50%"):
        always = optimize.minimize(
            Bowl(dict.fromkeys(range(22, 43), np.nan)), np.zeros(8), method=zeroth_order, options=OPTIONS
        )
    assert (always.success, always.status, always.nfev) == (False, StopReason.NON_FINITE, 42)


def test_derivatives_are_not_used():
    with pytest.warns(RuntimeWarning, match=r"does not use derivatives \(jac\)"):
        found = optimize.minimize(Bowl(), np.zeros(8), jac=lambda x: 2 * x, method=zeroth_order, options=OPTIONS)
    assert found.fun < 0.01


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"options": {}}, r"the option budget is missing"),
        ({"tol": 1e-3}, r"tol is 0.001; expected None"),
        ({"constraints": {"type": "eq", "fun": sum}}, r"constraints were given"),
        ({"constraints": [{"type": "eq", "fun": sum}]}, r"constraints were given"),
        ({"constraints": optimize.LinearConstraint(np.eye(8))}, r"constraints were given"),
        ({"bounds": [(0, 1)] * 7 + [(1, 0)]}, r"bounds of coordinate 7 are \(1, 0\)"),
        ({"bounds": [(0, 1)] * 3}, r"bounds of shape \(3,\) given for points of shape \(8,\)"),
        ({"bounds": optimize.Bounds([0, 0], 1)}, r"bounds of shape \(2,\) given"),
        ({"bounds": "none"}, r"or a pair for each coordinate"),
        ({"bounds": [(1, 2)] * 8}, r"outside the bounds \(1, 2\)"),
        ({"options": {**OPTIONS, "maxiter": 5}}, r"maxiter"),
        ({"x0": np.zeros(8, dtype=complex)}, r"x0 is complex128"),
    ],
)
def test_what_cannot_be_used_is_told_before_the_first_call(given, told):
    fun = Bowl()
    given = {"x0": np.zeros(8), "options": OPTIONS, **given}
    with pytest.raises(InputError, match=told):
        optimize.minimize(fun, method=zeroth_order, **given)
    assert fun.calls == 0


@pytest.mark.parametrize("answer", [np.zeros(2), "low", None, 1j])
def test_values_that_are_no_numbers(answer):
    with pytest.raises(BlackBoxError, match=r"expected one number"):
        optimize.minimize(Bowl({1: answer}), np.zeros(8), method=zeroth_order, options=OPTIONS)


def test_values_that_are_arrays_of_one_number():
    found = optimize.minimize(lambda x: np.array([[(x**2).sum()]]), np.ones(8), method=zeroth_order, options=OPTIONS)
    assert isinstance(found.fun, float)
    assert found.fun < 1
