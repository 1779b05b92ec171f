"""What is special about SimBA: orthonormal directions without replacement, both ways, no query without need."""

from __future__ import annotations

import math

import pytest
import torch

from problems import Fenced, Linear
from zoracle.errors import InputError
from zoracle.optimizers.search.simba import SimBA, frequencies
from zoracle.rollout import rollout, take_step
from zoracle.rollout.oracle import Oracle

ZERO = torch.tensor([0])


def walk(optimizer: SimBA, objective, steps: int, space=None, start: torch.Tensor | None = None):
    """The points asked for, and the states they left."""
    x0 = torch.zeros(1, objective.dim, dtype=torch.float64) if start is None else start
    state = optimizer.init(x0, seed=3, space=space)
    oracle = Oracle(objective)
    asked, states = [], [state]
    for _ in range(steps):
        queries, _, state = take_step(optimizer, oracle, state, ZERO)
        asked.append(queries.points[0, 0])
        states.append(state)
    return asked, states


def slope(d: int) -> torch.Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)


@pytest.mark.parametrize("basis", ["pixel", "dct"])
def test_a_pass_over_a_linear_function_costs_what_it_must(basis: str) -> None:
    d = 12
    g = slope(d)
    objective = Linear(g)
    optimizer = SimBA(basis=basis, step=0.1)
    along = torch.eye(d, dtype=torch.float64) @ g if basis == "pixel" else frequencies(torch.arange(d), (1, 1, d)) @ g
    # The start; one query where the first sign, minus, goes down, and two where it does not.
    needed = 1 + int((along > 0).sum()) + 2 * int((along < 0).sum())
    asked, states = walk(optimizer, objective, needed)
    assert torch.equal(asked[0], torch.zeros(d, dtype=torch.float64))
    assert states[-1].rounds.tolist() == [1]
    assert states[-2].rounds.tolist() == [0]
    # Every direction helped one way: d orthonormal steps of 0.1.
    x = states[-1].x[0]
    assert math.isclose(float(x.norm()), 0.1 * math.sqrt(d), rel_tol=1e-9)
    assert math.isclose(float(x @ g), -0.1 * float(along.abs().sum()), rel_tol=1e-9)


def test_energy_grows_by_one_step_for_each_that_helped() -> None:
    objective = Fenced(1, 50, shape=(2, 5, 5))
    objective.bounds = None  # as if there were none: the energy is not the bounds'
    asked, states = walk(SimBA(step=0.05, basis="dct"), objective, 60)
    helped = 0
    for point, before, after in zip(asked[1:], states[1:], states[2:], strict=False):
        helped += int(torch.equal(after.x[0], point))
        assert math.isclose(float((point - before.x[0]).norm()), 0.05, rel_tol=1e-9)
        assert math.isclose(float(after.x[0].norm()), 0.05 * math.sqrt(helped), rel_tol=1e-9)
    assert helped > 10


def test_directions_come_without_replacement_and_in_another_order_next_time() -> None:
    optimizer = SimBA(step=1e-3)
    state = optimizer.init(torch.zeros(2, 30), seed=1, problem=torch.tensor([5, 6]))
    assert state.order.sort(1).values.tolist() == [list(range(30))] * 2
    assert not torch.equal(state.order[0], state.order[1])
    _, states = walk(optimizer, Linear(slope(6)), 20)
    orders = {tuple(s.order[0].tolist()) for s in states}
    assert len(orders) == int(states[-1].rounds[0]) + 1 > 1


def test_frequencies_are_orthonormal_and_low_ones_come_first() -> None:
    basis = frequencies(torch.arange(2 * 4 * 6), (2, 4, 6))
    torch.testing.assert_close(basis @ basis.T, torch.eye(48, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(basis[0], torch.tensor([24**-0.5] * 24 + [0.0] * 24, dtype=torch.float64))
    objective = Fenced(1, 2 * 16 * 16, shape=(2, 16, 16))
    x0 = torch.zeros(1, 512)
    state = SimBA(basis="dct", freq_dims=4, stride=2).init(x0, space=objective.space(ZERO, x0))
    order = state.order[0]
    assert order.sort().values.tolist() == list(range(512))
    row, column = order // 16 % 16, order % 16
    block = torch.maximum(row, column)
    assert (block[:32] < 4).all()  # two channels of 4 x 4
    assert ((block[32:72] >= 4) & (block[32:72] < 6)).all()  # grown to 6 x 6
    assert not torch.equal(order[:32], order[:32].sort().values)
    default = SimBA(basis="dct").init(x0, space=objective.space(ZERO, x0)).order[0]
    assert set(default[:8].tolist()) == {0, 1, 16, 17, 256, 257, 272, 273}  # an eighth of 16


def test_no_point_is_asked_that_the_bounds_make_the_iterate() -> None:
    # At the lower bound everywhere, as black pixels are: only plus can change anything, so it is all that is asked.
    d = 10
    objective = Fenced(1, d)
    low = -torch.ones(1, d, dtype=torch.float64)
    optimizer = SimBA(step=0.5)
    state = optimizer.init(low, space=objective.space(ZERO, low))
    oracle = Oracle(objective)
    _, _, state = take_step(optimizer, oracle, state, ZERO)
    for _ in range(200):
        before = state.x
        queries, _, state = take_step(optimizer, oracle, state, ZERO)
        assert not torch.equal(queries.points[0, 0], before[0])
    assert objective.points_seen().tolist() == [201]
    first = torch.cat(objective.asked[1 : d + 1]) - low
    assert (first.amax(1) == 0.5).all()  # the first pass went up only, one query per coordinate


def test_nowhere_to_go_is_no_endless_loop() -> None:
    x0 = torch.zeros(1, 4, dtype=torch.float64)
    space = Fenced(1, 4).space(ZERO, x0)._replace(low=x0, high=x0)
    optimizer = SimBA()
    state = optimizer.init(x0, space=space)
    state, _ = rollout(optimizer, Oracle(Fenced(1, 4)), state, 5)
    assert torch.equal(state.x, x0)


def test_what_is_not_a_number_is_never_accepted() -> None:
    optimizer = SimBA()
    state = optimizer.init(torch.zeros(1, 4))
    state = optimizer.tell(state, optimizer.ask(state), torch.tensor([[1.0]]))
    after = optimizer.tell(state, optimizer.ask(state), torch.tensor([[torch.nan]]))
    assert torch.equal(after.x, state.x)
    assert after.best.tolist() == [1.0]
    assert after.sign.tolist() == [1]  # the other sign may be had


def test_settings_are_told_in_one_line() -> None:
    for settings in ({"step": 0.0}, {"basis": "haar"}, {"freq_dims": 0}, {"stride": -1}):
        with pytest.raises(InputError, match=next(iter(settings))):
            SimBA(**settings)
