"""SNES and NES: against plain transcriptions of the algorithms fed the same draws, and what their steps promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from problems import Bowls, Linear
from zoracle.directions import gaussian
from zoracle.errors import InputError
from zoracle.optimizers.descent.nes import NES
from zoracle.optimizers.search.snes import SNES, utilities
from zoracle.rollout import rollout, take_step
from zoracle.rollout.oracle import Oracle
from zoracle.types import Space

DIM = 11


def start(value: float = 0.0, problems: int = 1, dim: int = DIM) -> torch.Tensor:
    return torch.full((problems, dim), value, dtype=torch.float64)


def bowl(points: np.ndarray, objective: Bowls, row: int) -> np.ndarray:
    away = points - objective.center[row].numpy()
    return 0.1 + 0.5 * float(objective.factor[row]) * (objective.weight.numpy() * away**2).sum(1)


def test_snes_is_the_published_algorithm() -> None:
    """Wierstra et al. (2014), algorithm 6, written again for one problem in NumPy and fed the same draws."""
    optimizer = SNES(population=9, sigma=0.4)
    objective = Bowls(1, DIM)
    oracle = Oracle(objective)
    state = optimizer.init(start(0.5), seed=2, problem=torch.tensor([7]))
    mean, std = np.full(DIM, 0.5), np.full(DIM, 0.4)
    shaped = np.maximum(0, math.log(9 / 2 + 1) - np.log(np.arange(1, 10)))
    utility = shaped / shaped.sum() - 1 / 9
    rate = (3 + math.log(DIM)) / (5 * math.sqrt(DIM))
    for _ in range(30):
        draws = gaussian(state.key, 9, state.x)[0].numpy()
        order = np.argsort(bowl(mean + std * draws, objective, 0))
        ranked = draws[order]
        mean = mean + std * (utility @ ranked)
        std = std * np.exp(rate / 2 * (utility @ (ranked**2 - 1)))
        _, _, state = take_step(optimizer, oracle, state, torch.tensor([0]))
        np.testing.assert_allclose(state.x[0].numpy(), mean, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(state.std[0].numpy(), std, rtol=1e-10)
    assert bowl(mean[None], objective, 0) < 0.5 * bowl(start(0.5).numpy(), objective, 0)
    assert objective.points_seen().tolist() == [30 * 9]


def test_utilities_by_rank() -> None:
    values = torch.tensor([[3.0, 1.0, 2.0, 9.0], [1.0, 1.0, 0.0, math.nan]], dtype=torch.float64)
    shaped = [math.log(3) - math.log(k) for k in (1, 2)] + [math.log(3) - math.log(3), 0.0]
    expected = torch.tensor(shaped, dtype=torch.float64) / sum(shaped) - 1 / 4
    got = utilities(values)
    torch.testing.assert_close(got[0], expected[torch.tensor([2, 0, 1, 3])])
    shared = (expected[1] + expected[2]) / 2
    torch.testing.assert_close(got[1], torch.stack((shared, shared, expected[0], expected[3])))


def test_snes_stays_where_the_function_is_flat() -> None:
    optimizer = SNES()
    state = optimizer.init(start(1.0))
    queries = optimizer.ask(state)
    for value in (0.0, math.nan):
        after = optimizer.tell(state, queries, torch.full((1, 21), value, dtype=torch.float64))
        torch.testing.assert_close(after.x, state.x, rtol=0, atol=1e-15)
        torch.testing.assert_close(after.std, state.std, rtol=1e-14, atol=0)


def test_snes_depends_on_the_order_of_values_only() -> None:
    optimizer = SNES(num_directions=8)
    state = optimizer.init(start(1.0))
    queries = optimizer.ask(state)
    values = torch.linspace(-2, 3, 9, dtype=torch.float64).unsqueeze(0)
    assert torch.equal(
        optimizer.tell(state, queries, values).x, optimizer.tell(state, queries, 100 + values.exp() * 7).x
    )


def test_snes_follows_the_scale_and_says_what_a_step_costs() -> None:
    one, ten = (SNES(sigma=0.2).init(start(), scale=scale) for scale in (1.0, 10.0))
    torch.testing.assert_close(10 * one.std, ten.std)
    assert SNES().queries_per_step == 21
    assert SNES(num_directions=4).queries_per_step == 5
    assert SNES(population=7).queries_per_step == 7
    with pytest.raises(InputError, match="population"):
        SNES(population=1)


def test_the_nes_estimate_is_the_gradient_on_average() -> None:
    gradient = torch.linspace(-1, 2, DIM, dtype=torch.float64)
    optimizer = NES(num_directions=4000, momentum=0.0)
    oracle = Oracle(Linear(gradient))
    state = optimizer.init(start())
    queries, _, after = take_step(optimizer, oracle, state, torch.tensor([0]))
    assert queries.points.shape == (1, 8000, DIM)
    # The points are x + mu u and x - mu u with the published standard deviation.
    torch.testing.assert_close(queries.points[:, 0::2], 1e-3 * queries.directions)
    torch.testing.assert_close(queries.points[:, 1::2], -1e-3 * queries.directions)
    spread = float(gradient.norm()) / math.sqrt(4000)
    assert float((after.mean[0] - gradient).abs().max()) < 6 * spread
    assert float(after.mean[0] @ gradient / gradient.square().sum()) == pytest.approx(1, abs=0.1)


def test_nes_steps_are_signs_with_momentum() -> None:
    optimizer = NES(lr=0.05)
    oracle = Oracle(Bowls(2, DIM))
    rows = torch.arange(2)
    state = optimizer.init(start(0.3, 2))
    mean = torch.zeros_like(state.x)
    for _ in range(4):
        queries, evaluation, after = take_step(optimizer, oracle, state, rows)
        pairs = evaluation.loss.view(2, -1, 2)
        slopes = (pairs[..., 0] - pairs[..., 1]) / (2 * 1e-3)
        mean = 0.9 * mean + 0.1 * (slopes.unsqueeze(2) * queries.directions).mean(1)
        torch.testing.assert_close(after.mean, mean)
        torch.testing.assert_close(after.x, state.x - 0.05 * mean.sign())
        state = after


def space(low: float, high: float, radius: float = math.inf) -> Space:
    ends = (torch.full((1, DIM), end, dtype=torch.float64) for end in (low, high))
    return Space(*ends, torch.tensor([radius], dtype=torch.float64), torch.tensor([[1, 1, DIM]]))


@pytest.mark.parametrize(
    ("where", "lr", "length"),
    [
        (None, 0.01, None),  # no ball: the published step
        (space(-1, 1), 0.01, None),  # pixel bounds are none either
        (space(0, 0.3), 0.06, None),
        (space(-1, 1, 2.0), 0.2, 0.2),
    ],
)
def test_the_default_nes_step_follows_the_ball(where: Space | None, lr: float, length: float | None) -> None:
    optimizer = NES()
    state = optimizer.init(start(), space=where)
    assert state.lr.item() == pytest.approx(lr)
    _, _, after = take_step(optimizer, Oracle(Bowls(1, DIM)), state, torch.tensor([0]))
    if length is None:
        torch.testing.assert_close(after.x.abs(), start(lr))
    else:
        assert float(after.x.norm()) == pytest.approx(length)


def test_nes_halves_its_step_on_a_plateau() -> None:
    optimizer = NES(num_directions=1, plateau_length=3, lr=0.08, lr_floor=0.25)
    state = optimizer.init(start())
    seen = []
    for value in (5.0, 4.0, 6.0, 7.0, 6.5, 7.5, 7.0, 8.0, 9.0, 1.0, 2.0, 3.0):
        state = optimizer.tell(state, optimizer.ask(state), torch.full((1, 2), value, dtype=torch.float64))
        seen.append(round(state.lr.item(), 6))
    # 5 4 6 rose; then 7 6.5 7.5 rose, to the floor; after each the window restarts.
    assert seen == [0.08, 0.08, 0.04, 0.04, 0.04, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02]
    falling = optimizer.init(start())
    for value in (5.0, 6.0, 4.0, 3.0, math.nan, 2.0):
        falling = optimizer.tell(falling, optimizer.ask(falling), torch.full((1, 2), value, dtype=torch.float64))
    assert falling.lr.item() == pytest.approx(0.08)


@pytest.mark.parametrize("optimizer", [SNES(sigma=0.1), NES(lr=0.1)])
def test_they_descend_and_cost_what_they_say(optimizer: SNES | NES) -> None:
    objective = Bowls(3, DIM)
    x0 = start(1.0, 3)
    before = objective.evaluate(x0, torch.arange(3)).loss
    objective.seen.clear()
    _, trajectory = rollout(optimizer, Oracle(objective), optimizer.init(x0), 60, final=None)
    assert objective.points_seen().tolist() == [60 * optimizer.queries_per_step] * 3
    assert (trajectory.best_loss < 0.1 + 0.05 * (before - 0.1)).all()
