"""What is special about SignHunter: the signs of a linear function's gradient in a number of queries that is proven."""

from __future__ import annotations

import math

import pytest
import torch

from problems import Fenced, Linear
from zoracle.errors import InputError
from zoracle.optimizers.search.sign_hunter import SignHunter
from zoracle.rollout import rollout, take_step
from zoracle.rollout.oracle import Oracle

ZERO = torch.tensor([0])


def begin(d: int, ball: bool, start: float = 0.0):
    x0 = torch.full((1, d), start, dtype=torch.float64)
    optimizer = SignHunter()
    return optimizer, optimizer.init(x0, space=Fenced(1, d, ball=ball).space(ZERO, x0))


def slope(d: int) -> torch.Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)


@pytest.mark.parametrize("ball", [False, True])
@pytest.mark.parametrize("d", [1, 2, 13, 16, 31])
def test_signs_of_a_linear_function_in_the_proven_number_of_queries(d: int, ball: bool) -> None:
    g = slope(d)
    optimizer, state = begin(d, ball)
    proven = 2 ** (math.ceil(math.log2(d)) + 1)
    state, trajectory = rollout(optimizer, Oracle(Linear(g)), state, proven, final=None)
    assert torch.equal(state.x[0].sign(), -g.sign())
    if ball:
        torch.testing.assert_close(state.x.norm(dim=1), state.space.radius)
    else:
        assert (state.x.abs() == 1).all()
    assert trajectory.total_queries.tolist() == [proven]


def test_parts_are_halved_down_to_single_coordinates() -> None:
    # A function that rises with every flip: what is asked differs from all up by exactly the part at hand.
    d = 8
    optimizer, state = begin(d, ball=False)
    oracle = Oracle(Linear(-torch.ones(d, dtype=torch.float64)))
    flipped = []
    for _ in range(16):
        queries, _, state = take_step(optimizer, oracle, state, ZERO)
        flipped.append((queries.points[0, 0] < 0).nonzero().squeeze(1).tolist())
    expected = [
        [],
        list(range(8)),
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
        *([i] for i in range(8)),
    ]
    assert flipped == expected
    assert state.depth.tolist() == [-1]  # and begins again
    assert torch.equal(state.origin, state.x)


def test_it_goes_on_around_the_best_point_and_never_leaves_it() -> None:
    objective = Fenced(3, 13)
    x0 = torch.zeros(3, 13, dtype=torch.float64)
    optimizer = SignHunter()
    state = optimizer.init(x0, space=objective.space(torch.arange(3), x0))
    oracle = Oracle(objective)
    lowest = torch.full((3,), math.inf, dtype=torch.float64)
    for _ in range(100):
        _, evaluation, state = take_step(optimizer, oracle, state, torch.arange(3))
        lowest = torch.minimum(lowest, evaluation.loss[:, 0])
        assert torch.equal(state.best, lowest)
    assert torch.equal(objective.evaluate(state.x, torch.arange(3)).loss, lowest)


def test_the_step_is_the_way_to_the_farthest_bound() -> None:
    _, state = begin(3, ball=False, start=0.5)
    assert state.reach.tolist() == [1.5]
    _, state = begin(4, ball=True)
    assert state.reach.tolist() == [1.6]


def test_what_is_not_a_number_is_never_kept() -> None:
    optimizer, state = begin(4, ball=False)
    state = optimizer.tell(state, optimizer.ask(state), torch.tensor([[1.0]], dtype=torch.float64))
    after = optimizer.tell(state, optimizer.ask(state), torch.tensor([[torch.nan]], dtype=torch.float64))
    assert torch.equal(after.signs, state.signs)
    assert torch.equal(after.x, state.x)
    assert after.level.tolist() == [1.0]


def test_a_tie_keeps_the_flip() -> None:
    # As published: on a plateau the signs move on.
    optimizer, state = begin(4, ball=False)
    same = torch.tensor([[1.0]], dtype=torch.float64)
    state = optimizer.tell(state, optimizer.ask(state), same)
    state = optimizer.tell(state, optimizer.ask(state), same)
    assert (state.signs == -1).all()
    assert (state.x == 1).all()  # the best point is the first of those that tie


def test_without_bounds_there_is_no_step() -> None:
    with pytest.raises(InputError, match="--threat linf --eps"):
        SignHunter().init(torch.zeros(1, 4))
