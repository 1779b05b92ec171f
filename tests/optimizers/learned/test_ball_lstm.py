from __future__ import annotations

import math

import pytest
import torch

import zoracle
from problems import Linear
from zoracle.errors import InputError
from zoracle.objectives import Bounds, Objective
from zoracle.optimizers.learned.ball_lstm import BallLSTM
from zoracle.rollout import rollout, take_step
from zoracle.rollout.oracle import Oracle
from zoracle.types import Evaluation, Space

SHAPE = (1, 12, 8)
D = math.prod(SHAPE)


def space(b: int = 1, reach: float = 0.3, radius: float = math.inf, shape: tuple[int, ...] = SHAPE) -> Space:
    d = math.prod(shape)
    return Space(
        low=torch.full((b, d), -reach, dtype=torch.float64),
        high=torch.full((b, d), reach, dtype=torch.float64),
        radius=torch.full((b,), radius, dtype=torch.float64),
        shape=torch.tensor([shape]).repeat(b, 1),
    )


def begin(optimizer: BallLSTM, b: int = 1, **where):
    where = space(b, **where)
    return optimizer.init(torch.zeros(b, where.low.shape[1], dtype=torch.float64), seed=3, space=where, horizon=20)


class Hinge(Objective):
    """max(a_p - <w, x>, 0) within a box: zero, and a success, once x has gone far enough along w; a_p = 3 + p apart."""

    dim, num_problems, constrained, bounds, differentiable = D, 3, True, Bounds(-0.3, 0.3), True

    def __init__(self, apart: float = 1.0):
        self.apart = apart
        image = torch.sin(torch.arange(12.0) / 3).unsqueeze(1) * torch.cos(torch.arange(8.0) / 4)
        self.w = image.flatten().double()

    def project(self, points, problem):
        return points.clamp(-0.3, 0.3)

    def space(self, problem, like):
        return space(problem.shape[0])

    def _evaluate(self, points, problem, step):
        reached = (self.w * points.clamp(-0.3, 0.3)).sum(1)
        gap = 3.0 + self.apart * problem - reached
        return Evaluation(gap.clamp(min=0), gap < 0)


def test_directions_are_orthonormal_and_constant_on_tiles():
    optimizer = BallLSTM(num_directions=6, cells=(3,))
    state = begin(optimizer, 2)
    u = optimizer.ask(state).directions
    torch.testing.assert_close(u @ u.transpose(1, 2) / D, torch.eye(6, dtype=torch.float64).expand(2, 6, 6))
    images = u.view(2, 6, 12, 8)
    for problem in images:
        # Where one row differs from the next, a tile ends: with tiles of 12 / 3 pixels that happens every 4 rows,
        # at the same places for all directions of a step.
        ends = (problem.diff(dim=1).abs().amax((0, 2)) > 1e-12).nonzero().squeeze(1)
        assert len(ends) in (2, 3)
        assert (ends.diff() == 4).all()
        ends = (problem.diff(dim=2).abs().amax((0, 1)) > 1e-12).nonzero().squeeze(1)
        assert len(ends) in (1, 2)
    assert not torch.equal(images[0], images[1])


def test_offsets_and_grids_change_from_step_to_step():
    optimizer = BallLSTM(num_directions=4, cells=(2, 6))
    state = begin(optimizer)
    ends = set()
    for _ in range(20):
        tiles = optimizer._tiles(state)[0]
        ends.add(tuple((tiles.view(4, 12, 8).diff(dim=1).abs().amax((0, 2)) > 0).tolist()))
        _, _, state = take_step(optimizer, Oracle(Linear(torch.ones(D).double())), state, torch.arange(1))
    assert len(ends) > 5
    assert {sum(e) for e in ends} & {5, 6}
    assert {sum(e) for e in ends} & {1, 2}


def test_the_estimate_is_the_projection_of_the_gradient():
    g = torch.linspace(-1, 2, D, dtype=torch.float64)
    optimizer = BallLSTM(num_directions=5)
    state = begin(optimizer)
    queries, evaluation, after = take_step(optimizer, Oracle(Linear(g)), state, torch.arange(1))
    basis = queries.directions[0] / math.sqrt(D)
    projected = basis.t() @ (basis @ g)
    own = projected / projected.square().mean().sqrt()
    torch.testing.assert_close(after.memories[0, 0], own, rtol=1e-6, atol=1e-6)
    assert evaluation.loss.shape == (1, 6)


def test_an_untrained_one_succeeds_and_stays_in_the_ball():
    objective = Hinge()
    optimizer = BallLSTM(num_directions=5)
    x0 = torch.zeros(3, D, dtype=torch.float64)
    state = optimizer.init(x0, horizon=30, space=objective.space(torch.arange(3), x0))
    shown = []
    state, found = rollout(
        optimizer, Oracle(objective), state, 30, stop_on_success=True, on_step=lambda s: shown.append(s.state.x)
    )
    assert (found.first_success > 0).all()
    assert all(bool((x.abs() <= 0.3).all()) for x in shown)


def test_meta_gradients_are_finite_after_a_success():
    from zoracle.metatrain.loss import MetaLoss
    from zoracle.metatrain.oracle import TrainingOracle

    objective = Hinge(apart=20.0)
    optimizer = BallLSTM(num_directions=5).double().requires_grad_(True)
    x0 = torch.zeros(3, D, dtype=torch.float64)
    state = optimizer.init(x0, horizon=30, space=objective.space(torch.arange(3), x0))
    loss = MetaLoss(form="survival", weights="uniform", penalty=0.0, eps=1.0)
    oracle = TrainingOracle(objective, values="directional")
    segment = loss.segment(optimizer, oracle, state, 30, horizon=30)
    assert (segment.losses[-1] == 0).tolist() == [True, False, False], "or the test would show nothing"
    segment.value.backward()
    gradients = [p.grad for p in optimizer.parameters()]
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)
    assert any(bool((g != 0).any()) for g in gradients if g is not None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guesses": 3}, "guesses is 3"),
        ({"guesses": 2, "num_directions": 2}, "fewer than q"),
        ({"cells": ()}, "cells is"),
        ({"cells": (0,)}, "cells is"),
        ({"difference": "central"}, "directions and an estimate of its own"),
    ],
)
def test_unusable_settings(settings, message):
    with pytest.raises(InputError, match=message):
        BallLSTM(**settings)


def test_a_problem_without_bounds_is_refused():
    optimizer = BallLSTM()
    with pytest.raises(InputError, match="searches a ball or a box"):
        optimizer.init(torch.zeros(1, 5))
    with pytest.raises(InputError, match="searches a ball or a box"):
        optimizer.init(torch.zeros(1, D).double(), space=space(reach=math.inf))


def test_losses_below_zero_leave_everything_finite():
    optimizer = BallLSTM(num_directions=5)
    found = zoracle.minimize(lambda x: x.sum(1) - 50, torch.zeros(30), budget=600, bounds=(-1, 1), optimizer=optimizer)
    assert found.value < -70
    assert found.trajectory.non_finite.tolist() == [0]


def test_an_l2_ball_gives_the_unit():
    state = begin(BallLSTM(), reach=1.0, radius=0.5)
    assert state.unit.tolist() == [pytest.approx(3 * 0.5 / math.sqrt(D))]
    assert begin(BallLSTM(), reach=0.2).unit.tolist() == [0.2]
