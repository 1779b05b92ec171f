"""A smoothing radius that falls over the run, for every optimizer that follows finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from problems import Bowls, Linear
from zoracle.errors import InputError
from zoracle.optimizers.finite_difference import FiniteDifferenceOptimizer
from zoracle.optimizers.radius import Radius, centred, schedule
from zoracle.optimizers.registry import REGISTRY, make
from zoracle.rollout import rollout
from zoracle.rollout.oracle import Oracle
from zoracle.state import flatten

D = 12
NAMES = [name for name in REGISTRY if isinstance(found := make(name), FiniteDifferenceOptimizer) and not found.order]


class Rippled(Bowls):
    """A bowl with ripples far shorter than the way to its centre."""

    def _evaluate(self, points, problem, step):
        found = super()._evaluate(points, problem, step)
        return found._replace(loss=found.loss + 5 * (1 - (2 * math.pi * points / 0.1).cos()).mean(1))


def test_the_distance_falls_linearly_to_mu() -> None:
    mu = torch.full((4,), 1e-3, dtype=torch.float64)
    radius = Radius(torch.full_like(mu, 0.4), torch.tensor([0.5, 0.5, 1.0, 0.0]).double(), torch.full((4,), 20))
    for taken, expected in ((0, (0.4, 0.4, 0.4, 0.4)), (5, (0.2, 0.2, 0.3, 1e-3)), (10, (1e-3, 1e-3, 0.2, 1e-3))):
        at = radius.at(torch.full((4,), taken), mu)
        torch.testing.assert_close(at, torch.tensor(expected, dtype=torch.float64))
    assert schedule(0.0, 0.5, torch.zeros(4), 1.0, mu) == ()
    ((reach, until, horizon),) = schedule(0.3, 0.5, torch.tensor([0, 7, 7, 7]), 2.0, mu)
    assert (reach.tolist(), until.tolist(), horizon.tolist()) == ([0.6] * 4, [0.5] * 4, [200, 7, 7, 7])


def test_what_slopes_share_goes_where_they_are_far() -> None:
    slopes = torch.tensor([[1.0, 3.0, 0.0], [1.0, 3.0, 0.0]])
    known = torch.tensor([[True, True, False]] * 2)
    assert centred(slopes, known, torch.tensor([True, False])).tolist() == [[-1.0, 1.0, 0.0], [1.0, 3.0, 0.0]]


@pytest.mark.parametrize("name", NAMES)
def test_every_finite_difference_optimizer_takes_a_reach(name: str) -> None:
    optimizer = make(name, mu=1e-4, reach=0.25, directions="orthogonal" if name != "zo-lstm-guided-es" else "gaussian")
    state = optimizer.init(torch.ones(2, D, dtype=torch.float64), horizon=10, scale=2.0)
    for step, distance in ((0, 0.5), (1, 0.4), (5, 1e-4), (9, 1e-4)):
        at = state._replace(key=state.key._replace(step=torch.full((2,), step)))
        queries = optimizer.ask(at)
        torch.testing.assert_close(optimizer.distance(at), torch.full((2,), distance, dtype=torch.float64))
        away = (queries.points - state.x.unsqueeze(1)).norm(dim=2).amax(1)
        torch.testing.assert_close(away, distance * queries.directions.norm(dim=2).amax(1), rtol=1e-6, atol=1e-9)
    assert all(leaf.shape[0] == 2 for leaf in flatten(state).values())


@pytest.mark.parametrize("name", NAMES)
def test_without_a_reach_nothing_changes(name: str) -> None:
    optimizer = make(name)
    state = optimizer.init(torch.ones(2, D, dtype=torch.float64), horizon=10)
    assert optimizer.distance(state) is state.mu


def test_estimates_over_a_distance_keep_the_size_of_the_gradient() -> None:
    """Of a linear function the estimate is the gradient on average, afar as well as near."""
    gradient = torch.linspace(-1, 1, D, dtype=torch.float64)
    optimizer = make("zo-sgd", reach=0.5, num_directions=6, directions="gaussian", lr=1.0)
    start = torch.zeros(4000, D, dtype=torch.float64)
    objective = Linear(gradient)
    rows = torch.zeros(4000, dtype=torch.int64)
    state, _ = rollout(optimizer, Oracle(objective), optimizer.init(start, horizon=9), 1, problem=rows)
    mean = -state.x.mean(0)
    assert float((mean - gradient).norm() / gradient.norm()) < 0.05


def test_zo_adam_sees_past_ripples_with_it() -> None:
    x, ends = torch.full((3, D), 3.0, dtype=torch.float64), []
    for reach in (0.0, 0.3):
        optimizer = make("zo-adam", reach=reach, reach_until=1.0, lr=0.1)
        _, trajectory = rollout(optimizer, Oracle(Rippled(3, D)), optimizer.init(x, horizon=150), 150)
        ends.append(float(trajectory.final_loss.mean()))
    assert ends[1] < 0.5 * ends[0]


def test_what_cannot_take_one_says_so() -> None:
    with pytest.raises(InputError, match="reach"):
        make("zo-sgd", reach=-1.0)
