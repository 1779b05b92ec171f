"""What the guided ZO-LSTM promises: exact along its guesses, blind to scale and offset, coordinates alike."""

from __future__ import annotations

import math

import pytest
import torch

from problems import Bowls, Linear
from zoracle.directions import gaussian
from zoracle.errors import InputError
from zoracle.objectives.base import Objective
from zoracle.optimizers.learned.guided_lstm import GuidedLSTM
from zoracle.rollout import rollout, take_step
from zoracle.rollout.oracle import Oracle
from zoracle.types import Evaluation, Purpose

D = 30


def build(**settings) -> GuidedLSTM:
    optimizer = GuidedLSTM(num_directions=8, **settings)
    g = torch.Generator().manual_seed(2)
    for parameter in optimizer.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=g)
    return optimizer


def test_directions_are_orthogonal_guesses_and_their_complement() -> None:
    optimizer, oracle = build(), Oracle(Bowls(3, D))
    state = optimizer.init(torch.zeros(3, D, dtype=torch.float64))
    for _ in range(4):
        u = optimizer.ask(state).directions / math.sqrt(D)
        gram = u @ u.transpose(1, 2)
        torch.testing.assert_close(gram[:, :4, :4], torch.eye(4, dtype=torch.float64).expand(3, 4, 4))
        assert float(gram[:, :4, 4:].abs().max()) < 1e-12
        torch.testing.assert_close(u.norm(dim=2), torch.ones(3, 8, dtype=torch.float64))
        _, _, state = take_step(optimizer, oracle, state, torch.arange(3))


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_in_fewer_dimensions_than_guesses_the_estimate_is_the_gradient(d: int) -> None:
    true = torch.linspace(1, 2, d, dtype=torch.float64)
    optimizer, oracle = build(), Oracle(Linear(true))
    state = optimizer.init(torch.zeros(1, d, dtype=torch.float64))
    for _ in range(30):
        queries, _, state = take_step(optimizer, oracle, state, torch.zeros(1, dtype=torch.int64))
        guesses = queries.directions[0, :4] / math.sqrt(d)
        real = (torch.arange(4) < d).double()  # d of the four are orthonormal, the others zero
        torch.testing.assert_close(guesses @ guesses.T, real.diag())
        torch.testing.assert_close(state.gradient[0], true, rtol=1e-5, atol=1e-6)
    assert state.x.isfinite().all()


def test_the_estimate_is_exact_along_the_guesses() -> None:
    true = torch.linspace(-1, 2, D, dtype=torch.float64)
    optimizer, oracle = build(), Oracle(Linear(true))
    state = optimizer.init(torch.zeros(1, D, dtype=torch.float64))
    for _ in range(3):
        queries, _, state = take_step(optimizer, oracle, state, torch.zeros(1, dtype=torch.int64))
        guesses = queries.directions[0, :4] / math.sqrt(D)
        torch.testing.assert_close(guesses @ state.gradient[0], guesses @ true, rtol=1e-6, atol=1e-7)


def test_on_a_constant_gradient_the_estimate_gets_better_step_by_step() -> None:
    true = torch.linspace(-1, 2, 200, dtype=torch.float64)
    optimizer = GuidedLSTM(num_directions=8)  # untrained: the first guess is the last estimate
    oracle = Oracle(Linear(true))
    state = optimizer.init(torch.zeros(1, 200, dtype=torch.float64))
    cosines = []
    for _ in range(40):
        _, _, state = take_step(optimizer, oracle, state, torch.zeros(1, dtype=torch.int64))
        cosines.append(float(torch.cosine_similarity(state.gradient[0], true, dim=0)))
    # Without memory it would stay at sqrt(q / d) = 0.2.
    assert sum(cosines[-5:]) / 5 > 0.5
    assert optimizer.auxiliary(optimizer.ask(state), true.unsqueeze(0))[0] < -math.log(0.5)


class Scaled(Objective):
    def __init__(self, inner: Objective, factor: float, offset: float):
        self.inner, self.factor, self.offset = inner, factor, offset
        self.dim, self.num_problems = inner.dim, inner.num_problems

    def _evaluate(self, points, problem, step):
        return Evaluation(self.factor * self.inner.evaluate(points, problem).loss + self.offset)


@pytest.mark.parametrize(("factor", "offset"), [(1000.0, 0.0), (1e-3, 0.0), (1.0, -50.0)])
def test_scale_and_offset_of_the_problem_do_not_matter(factor: float, offset: float) -> None:
    optimizer = build(mu=1e-5)
    start = optimizer.init(torch.zeros(2, D, dtype=torch.float64), horizon=10)
    plain, _ = rollout(optimizer, Oracle(Bowls(2, D)), start, 10)
    other, _ = rollout(optimizer, Oracle(Scaled(Bowls(2, D), factor, offset)), start, 10)
    torch.testing.assert_close(other.x, plain.x, rtol=1e-4, atol=1e-6)
    assert float((plain.x - start.x).abs().max()) > 1e-3


class Permuted(Objective):
    def __init__(self, inner: Objective, order: torch.Tensor):
        self.inner, self.order = inner, order
        self.dim, self.num_problems = inner.dim, inner.num_problems

    def _evaluate(self, points, problem, step):
        back = torch.empty_like(points)
        back[:, self.order] = points
        return self.inner.evaluate(back, problem)


def test_all_coordinates_are_treated_alike() -> None:
    order = torch.randperm(D, generator=torch.Generator().manual_seed(0))
    optimizer = build(mu=1e-5)
    shuffled = GuidedLSTM(optimizer.config, source=lambda key, q, like: gaussian(key, q, like)[:, :, order])
    shuffled.load_state_dict(optimizer.state_dict())
    x0 = torch.linspace(-1, 1, D, dtype=torch.float64).unsqueeze(0)
    start = optimizer.init(x0, horizon=8)
    other = shuffled.init(x0[:, order], horizon=8)
    other = other._replace(guesses=start.guesses[:, :, order])
    plain, _ = rollout(optimizer, Oracle(Bowls(1, D)), start, 8)
    mixed, _ = rollout(shuffled, Oracle(Permuted(Bowls(1, D), order)), other, 8)
    torch.testing.assert_close(mixed.x, plain.x[:, order], rtol=1e-5, atol=1e-8)


def test_an_untrained_adaptive_one_goes_farther_on_a_slope_and_less_far_where_it_overshoots() -> None:
    def paces(objective: Objective, scale: float) -> torch.Tensor:
        optimizer = GuidedLSTM(num_directions=D, adaptive=True, mu=1e-5)
        x0 = torch.full((1, D), 0.1, dtype=torch.float64)
        state, shown = optimizer.init(x0, horizon=20, scale=scale), []
        rollout(optimizer, Oracle(objective), state, 20, on_step=lambda s: shown.append(float(s.state.pace)))
        return torch.tensor(shown) - math.log(scale)

    slope = paces(Linear(torch.linspace(-1, 2, D, dtype=torch.float64)), 1.0)
    assert slope[0] == 0, "nothing is known before the second step"
    assert bool((slope.diff() > 0).all())
    assert paces(Bowls(1, D), 1e2).min() < -1


def test_an_adaptive_one_starts_at_the_scale_it_is_told() -> None:
    bowl = Bowls(1, D)
    for scale in (1e-2, 1e2):
        optimizer = GuidedLSTM(num_directions=D, adaptive=True)
        start = optimizer.init(torch.ones(1, D, dtype=torch.float64), horizon=9, scale=scale)
        _, _, state = take_step(optimizer, Oracle(bowl), start, torch.zeros(1, dtype=torch.int64))
        assert 1e-3 * scale < float((state.x - start.x).abs().mean()) < 0.1 * scale


def test_settings_go_together() -> None:
    with pytest.raises(InputError, match=r"guesses is 5 of 8 directions; expected 1 .. 4"):
        GuidedLSTM(num_directions=8, guesses=5)
    with pytest.raises(InputError, match="guesses is 4 of 3 directions"):
        GuidedLSTM(num_directions=3)


class Rippled(Bowls):
    """A bowl with ripples far shorter than the way to its centre."""

    def _evaluate(self, points, problem, step):
        found = super()._evaluate(points, problem, step)
        return found._replace(loss=found.loss + 20 * (1 - (2 * math.pi * points / 0.1).cos()).mean(1))


def reaching(reach: float, **settings) -> GuidedLSTM:
    return GuidedLSTM(num_directions=20, mu=1e-5, reach=reach, **settings)


def test_the_first_steps_see_past_ripples_that_near_slopes_are_lost_in() -> None:
    x = torch.linspace(2.0, 3.0, D, dtype=torch.float64).unsqueeze(0) + 0.03
    true = Bowls(1, D).gradient(x, torch.tensor([0]))[1]
    cosines = []
    for reach in (0.0, 0.3):
        optimizer = reaching(reach)
        state, _ = rollout(optimizer, Oracle(Rippled(1, D)), optimizer.init(x, horizon=200), 1)
        cosines.append(float(torch.cosine_similarity(state.gradient, true)))
    assert cosines[0] < 0.25
    assert cosines[1] > 0.45


def test_the_distance_falls_linearly_from_reach_times_scale_to_mu_row_by_row() -> None:
    optimizer = reaching(0.2, reach_until=0.5)
    state = optimizer.init(torch.ones(3, D, dtype=torch.float64), horizon=40, scale=4.0)
    state = state._replace(key=state.key._replace(step=torch.tensor([0, 15, 39])))
    points = optimizer.ask(state).points
    size = (points[:, 1:] - points[:, :1]).square().mean(2).sqrt()
    for row, distance in enumerate((0.8, 0.2, 1e-5)):
        torch.testing.assert_close(size[row], torch.full((20,), distance, dtype=torch.float64))
    for until in (0.0, 1.0):
        optimizer, counted = reaching(0.2, reach_until=until), Oracle(Bowls(2, D))
        state, trajectory = rollout(optimizer, counted, optimizer.init(torch.ones(2, D), horizon=30), 30)
        assert bool((trajectory.final_loss < trajectory.loss[0]).all())
        assert counted.counts[Purpose.OPTIMISE].tolist() == [30 * 21] * 2


def test_what_differences_over_a_distance_share_is_taken_off() -> None:
    optimizer = reaching(0.5)
    state = optimizer.init(torch.zeros(2, D, dtype=torch.float64), horizon=40)
    state = state._replace(key=state.key._replace(step=torch.tensor([3, 30])))  # probed afar, and near
    queries = optimizer.ask(state)
    values = queries.points.sum(2)
    bent = torch.cat((values[:, :1], values[:, 1:] + 7.0), dim=1)
    plain, other = optimizer.tell(state, queries, values).gradient, optimizer.tell(state, queries, bent).gradient
    torch.testing.assert_close(plain[0], other[0])
    assert not torch.allclose(plain[1], other[1])
    lost = optimizer.tell(state, queries, torch.where(torch.arange(21) > 4, math.nan, values))
    assert bool(lost.gradient.isfinite().all())
    assert not optimizer.tell(state, queries, torch.full_like(values, math.nan)).gradient.any()
