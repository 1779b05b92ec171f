"""The steps that find out whether slopes nearby say anything of what lies farther off."""

from __future__ import annotations

import math

import pytest
import torch

from problems import Bowls
from zoracle.errors import InputError
from zoracle.keyed import normal
from zoracle.objectives.base import Objective
from zoracle.optimizers import scouting
from zoracle.optimizers.guided_lstm import GuidedLSTM
from zoracle.oracle import Oracle
from zoracle.rollout import rollout, take_step
from zoracle.state import concatenate
from zoracle.types import Evaluation, Key, Purpose

D = 40


class Shapes(Objective):
    """One function of points for each problem, times a factor, plus a constant."""

    def __init__(self, *functions, factor: float = 1.0, offset: float = 0.0) -> None:
        self.functions, self.factor, self.offset = functions, factor, offset
        self.dim, self.num_problems = D, len(functions)

    def _evaluate(self, points, problem, step):
        values = torch.stack([self.functions[int(p)](x) for p, x in zip(problem, points, strict=True)])
        return Evaluation(self.factor * values + self.offset)


def bowl(x):
    return 0.5 * (x - 1).square().sum()


def rippled(x):
    return bowl(x) + 3 * (1 - (2 * math.pi * x / 0.02).cos()).sum()


def stairs(x):
    """Flat wherever one is, and a bowl from afar."""
    return bowl((20 * x).round() / 20)


def kinked(x):
    return (x - 1).abs().sum()


def valley(x):
    """The bottom of a bowl far steeper than the ripples in it, as wide as the reach."""
    return 1e4 * (x - 2).square().sum() + rippled(x)


SHAPES = (bowl, rippled, stairs, kinked, valley)
FAR = [False, True, True, False, False]


def scout(**settings) -> GuidedLSTM:
    return GuidedLSTM(**{"num_directions": 20, "mu": 1e-6, "reach": 0.3, "reach_until": 1.0, "scouting": 3, **settings})


def start(problems: int, seed: int = 0) -> torch.Tensor:
    return 2 + 1e-3 * normal(Key.start(seed, torch.arange(problems)), (D,), 1, torch.float64)


@pytest.mark.parametrize("q", [20, 21])
@pytest.mark.parametrize("seed", range(4))
def test_far_slopes_are_taken_where_near_ones_are_no_guide(seed, q) -> None:
    optimizer, x = scout(num_directions=q), start(len(SHAPES), seed)
    # Ripples and stairs have another phase in each coordinate, so that the start is no special point of theirs.
    x = x + torch.linspace(0, 0.05, D, dtype=torch.float64) * torch.tensor([[1.0]] * 4 + [[0.0]])
    counted = Oracle(Shapes(*SHAPES))
    state, _ = rollout(optimizer, counted, optimizer.init(x, horizon=200, seed=seed), 3, final=None)
    assert torch.equal(state.x, x), "it stays where it is"
    assert counted.counts[Purpose.OPTIMISE].tolist() == [3 * (q + 1)] * len(SHAPES)
    torch.testing.assert_close(state.reach, torch.where(torch.tensor(FAR), 0.3, 0.1).double())
    torch.testing.assert_close(state.until, torch.where(torch.tensor(FAR), 1.0, 0.05).double())
    # The search begins at that distance, and one that stays near is at mu after 5 % of what is left of the run.
    for step, near in ((3, 0.1), (3 + 10, 1e-6)):
        now = state._replace(key=state.key._replace(step=torch.full((len(SHAPES),), step)))
        points = optimizer.ask(now).points
        size = (points[:, 1:] - points[:, :1]).square().mean(2).sqrt()
        afar = 0.3 * (1 - (step - 3) / 197)
        expected = torch.where(torch.tensor(FAR), afar, near).double().unsqueeze(1)
        torch.testing.assert_close(size, expected.expand(-1, q), rtol=1e-5, atol=1e-9)


def test_what_is_found_does_not_depend_on_units_of_the_loss() -> None:
    reaches = []
    for factor, offset in ((1.0, 0.0), (1e4, 0.0), (1e-4, -3.0)):
        optimizer = scout(mu=1e-4)
        oracle = Oracle(Shapes(*SHAPES, factor=factor, offset=offset))
        state, _ = rollout(optimizer, oracle, optimizer.init(start(len(SHAPES)), horizon=200), 3, final=None)
        reaches.append(state.reach)
    assert torch.equal(reaches[0], reaches[1])
    assert torch.equal(reaches[0], reaches[2])


def test_each_direction_is_probed_near_and_far() -> None:
    x, drawn = start(2), normal(Key.start(1, torch.arange(2)), (3, D), 2, torch.float64)
    near, far = torch.tensor([0.1, 0.2]).double(), torch.tensor([5.0, 6.0]).double()
    for q in (6, 7):
        points, u = scouting.points(x, drawn, q, near, far)
        assert points.shape == (2, q + 1, D)
        assert torch.equal(points[:, 0], x)
        assert torch.equal(u[:, :3], u[:, 3:6])
        distance = ((points[:, 1:] - x.unsqueeze(1)) / u).mean(2)
        for row in range(2):
            wanted = [near[row]] * 3 + [far[row]] * 3 + [near[row]] * (q - 6)
            torch.testing.assert_close(distance[row], torch.stack(wanted))


def test_the_tally_is_a_correlation_and_leaves_out_what_is_not_finite() -> None:
    slopes = normal(Key.start(2, torch.arange(2)), (2, 9), 3, torch.float64)  # near and far, of nine directions
    near, far = torch.tensor([0.1, 0.1]).double(), torch.tensor([2.0, 2.0]).double()
    values = torch.cat((torch.zeros(2, 1), 0.1 * slopes[:, 0], 2.0 * slopes[:, 1]), dim=1)
    values[1, 4] = math.nan
    values[1, 9 + 7] = math.inf
    tally = scouting.counted(scouting.start(slopes[:, 0]), values, near, far)
    rho = tally.both / (tally.near * tally.far).sqrt()
    torch.testing.assert_close(rho[0], torch.corrcoef(slopes[0])[0, 1])
    kept = [0, 1, 2, 4, 5, 7, 8]
    torch.testing.assert_close(rho[1], torch.corrcoef(slopes[1][:, kept])[0, 1])
    torch.testing.assert_close(tally.shared, torch.stack((slopes[0, 1].sum(), slopes[1, 1, kept].sum())))
    twice = scouting.counted(tally, values, near, far)
    torch.testing.assert_close(twice.both, 2 * tally.both)
    assert twice.pairs.tolist() == [18, 14]
    nothing = scouting.counted(scouting.start(slopes[:, 0]), torch.full_like(values, math.nan), near, far)
    assert not scouting.far_is_better(nothing).any()


def test_it_takes_a_fiftieth_of_a_run_at_most_and_four_directions_at_least() -> None:
    for horizon, q, steps in ((200, 20, 3), (100, 20, 2), (49, 20, 0), (200, 4, 3), (200, 3, 0)):
        state = scout(num_directions=q, guesses=2).init(start(1), horizon=horizon)
        assert state.scouting.tolist() == [steps]
        assert state.horizon.tolist() == [horizon - steps]
    assert scout(reach=0.0).init(start(1), horizon=200).tally == ()
    with pytest.raises(InputError, match="scouting"):
        scout(scouting=-1)


def test_a_run_too_short_to_scout_searches_at_once_and_stays_near() -> None:
    optimizer = scout()
    state = optimizer.init(start(1), horizon=20, scale=2.0)
    torch.testing.assert_close(state.reach, torch.tensor([0.2]).double())
    assert state.until.tolist() == [0.05]
    before = state.x
    _, _, state = take_step(optimizer, Oracle(Shapes(bowl)), state, torch.tensor([0]))
    assert not torch.equal(state.x, before)


def test_rows_that_scout_beside_others_that_search_do_as_they_would_alone() -> None:
    optimizer, oracle = scout(), Oracle(Bowls(2, D))
    first, second = (
        optimizer.init(start(2)[row : row + 1], problem=torch.tensor([row]), horizon=200) for row in range(2)
    )
    for _ in range(2):
        _, _, first = take_step(optimizer, oracle, first, torch.tensor([0]))
    both = concatenate(first, second)
    for _ in range(4):
        _, _, both = take_step(optimizer, oracle, both, torch.arange(2))
        _, _, first = take_step(optimizer, oracle, first, torch.tensor([0]))
        _, _, second = take_step(optimizer, oracle, second, torch.tensor([1]))
    assert both.scouting.tolist() == [3, 3]
    assert both.key.step.tolist() == [6, 4]
    for got, alone in zip(both, concatenate(first, second), strict=True):
        for one, other in zip(got, alone, strict=True) if isinstance(got, tuple) else [(got, alone)]:
            for a, b in zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]:
                torch.testing.assert_close(a, b)
