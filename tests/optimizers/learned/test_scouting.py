"""The steps that find out whether slopes nearby say anything of what lies farther off."""

from __future__ import annotations

import math

import pytest
import torch

from problems import Bowls
from zoracle.errors import InputError
from zoracle.keyed import normal
from zoracle.objectives.base import Objective
from zoracle.optimizers.learned import scouting
from zoracle.optimizers.learned.guided_lstm import GuidedLSTM
from zoracle.rollout import rollout, take_step
from zoracle.rollout.oracle import Oracle
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


def waves(x):
    """Ripples of which the start, close to 2, is a minimum, in a bowl: afar all ways lead up by as much."""
    return bowl(x / 2) + 3 * (1 - (2 * math.pi * x / 0.02).cos()).sum()


def kinked(x):
    return (x - 1).abs().sum()


def pit(x):
    """The bottom of a bowl far steeper than the ripples in it and narrower than the reach: afar all ways lead up."""
    return 1e4 * (x - 2).square().sum() + rippled(x)


SHAPES = (bowl, rippled, stairs, kinked, pit, waves)
REACH = torch.tensor([0.1, 0.3, 0.3, 0.1, 0.0, 0.3], dtype=torch.float64)
FAR = REACH == 0.3


def scout(**settings) -> GuidedLSTM:
    return GuidedLSTM(**{"num_directions": 20, "mu": 1e-6, "reach": 0.3, "reach_until": 1.0, "scouting": 3, **settings})


def start(problems: int, seed: int = 0) -> torch.Tensor:
    return 2 + 1e-3 * normal(Key.start(seed, torch.arange(problems)), (D,), 1, torch.float64)


@pytest.mark.parametrize("q", [20, 21])
@pytest.mark.parametrize("seed", range(4))
def test_far_slopes_are_taken_where_near_ones_are_no_guide(seed, q) -> None:
    optimizer, x = scout(num_directions=q), start(len(SHAPES), seed)
    # Ripples and stairs have another phase in each coordinate, so that the start is not a special point of theirs.
    x = x + torch.linspace(0, 0.05, D, dtype=torch.float64) * torch.tensor([[1.0]] * 4 + [[0.0]] * 2)
    counted = Oracle(Shapes(*SHAPES))
    state, _ = rollout(optimizer, counted, optimizer.init(x, horizon=200, seed=seed), 3, final=None)
    assert torch.equal(state.x, x), "it stays where it is"
    assert counted.counts[Purpose.OPTIMISE].tolist() == [3 * (q + 1)] * len(SHAPES)
    torch.testing.assert_close(state.radius.reach, REACH)
    torch.testing.assert_close(state.radius.until[REACH > 0], torch.where(FAR, 1.0, 0.05).double()[REACH > 0])
    # The search begins at that distance, and one that stays near is at mu after 5 % of what is left of the run.
    for step, near in ((3, REACH.clamp(min=1e-6)), (3 + 10, 1e-6)):
        now = state._replace(key=state.key._replace(step=torch.full((len(SHAPES),), step)))
        points = optimizer.ask(now).points
        size = (points[:, 1:] - points[:, :1]).square().mean(2).sqrt()
        afar = 0.3 * (1 - (step - 3) / 197)
        expected = torch.where(FAR, afar, near).double().unsqueeze(1)
        torch.testing.assert_close(size, expected.expand(-1, q), rtol=1e-5, atol=1e-9)


def test_what_is_found_does_not_depend_on_units_of_the_loss() -> None:
    reaches = []
    for factor, offset in ((1.0, 0.0), (1e4, 0.0), (1e-4, -3.0)):
        optimizer = scout(mu=1e-4)
        oracle = Oracle(Shapes(*SHAPES, factor=factor, offset=offset))
        state, _ = rollout(optimizer, oracle, optimizer.init(start(len(SHAPES)), horizon=200), 3, final=None)
        reaches.append(state.radius.reach)
    assert torch.equal(reaches[0], reaches[1])
    assert torch.equal(reaches[0], reaches[2])


@pytest.mark.parametrize(("q", "pairs", "wide", "left"), [(20, 8, 4, 0), (21, 8, 4, 1), (5, 2, 1, 0), (9, 4, 1, 0)])
def test_each_direction_is_probed_near_and_far_and_some_at_the_whole_reach(q, pairs, wide, left) -> None:
    assert scouting.pairs(q) == pairs
    x, drawn = start(2), normal(Key.start(1, torch.arange(2)), (pairs, D), 2, torch.float64)
    mu, reach = torch.tensor([0.1, 0.2]).double(), torch.tensor([6.0, 9.0]).double()
    points, u = scouting.points(x, drawn, q, mu, reach)
    assert points.shape == (2, q + 1, D)
    assert torch.equal(points[:, 0], x)
    drawn = drawn * (D**0.5 / drawn.norm(dim=2, keepdim=True))
    torch.testing.assert_close(u, torch.cat((drawn, drawn, drawn[:, :wide], drawn[:, :left]), dim=1))
    distance = ((points[:, 1:] - x.unsqueeze(1)) / u).mean(2)
    for row in range(2):
        wanted = [mu[row]] * pairs + [reach[row] / 3] * pairs + [reach[row]] * wide + [mu[row]] * left
        torch.testing.assert_close(distance[row], torch.stack(wanted))


def test_the_tally_is_a_correlation_and_leaves_out_what_is_not_finite() -> None:
    q, n, wide = 21, 8, 4
    slopes = normal(Key.start(2, torch.arange(2)), (q,), 3, torch.float64)  # near, far, at the reach, and one more
    mu, reach = torch.tensor([0.1, 0.1]).double(), torch.tensor([6.0, 6.0]).double()
    distance = torch.tensor([0.1] * n + [2.0] * n + [6.0] * wide + [0.1])
    values = torch.cat((torch.zeros(2, 1), distance * slopes), dim=1)
    values[1, 1 + 3] = values[1, 1 + 2 * n + 1] = math.nan
    values[1, 1 + n + 6] = math.inf
    near, far, reached, _ = slopes.split((n, n, wide, 1), dim=1)
    tally = scouting.counted(scouting.start(slopes), values, mu, reach)
    rho = tally.both / (tally.near * tally.far).sqrt()
    torch.testing.assert_close(rho[0], torch.corrcoef(torch.stack((near[0], far[0])))[0, 1])
    kept = [0, 1, 2, 4, 5, 7]
    torch.testing.assert_close(rho[1], torch.corrcoef(torch.stack((near[1, kept], far[1, kept])))[0, 1])
    torch.testing.assert_close(tally.wide, torch.stack((reached[0].sum(), reached[1, [0, 2, 3]].sum())))
    torch.testing.assert_close(
        tally.squares, torch.stack((reached[0].square().sum(), reached[1, [0, 2, 3]].square().sum()))
    )
    torch.testing.assert_close(tally.rise, torch.stack((far[0].sum(), far[1, kept].sum())))
    assert (tally.pairs.tolist(), tally.probed.tolist()) == ([8, 6], [4, 3])
    twice = scouting.counted(tally, values, mu, reach)
    for two, one in zip(twice, tally, strict=True):
        torch.testing.assert_close(two, 2 * one)


def told(dim: int, **fields: float) -> tuple[float, float]:
    """What a tally says to a run with reach 0.3 that falls over all of it."""
    nothing = dict.fromkeys(scouting.Tally._fields, 0.0)
    tally = scouting.Tally(**{name: torch.tensor([value]) for name, value in (nothing | fields).items()})
    found = scouting.told(tally, torch.tensor([0.3]), torch.tensor([1.0]), dim)
    return round(found.reach.item(), 6), round(found.until.item(), 6)


def test_what_a_tally_says() -> None:
    assert told(10) == (0.1, 0.05), "nothing is known"
    assert told(10, near=4.0, far=1.0, both=0.72) == (0.1, 0.05), "correlation .36"
    assert told(10, near=4.0, far=1.0, both=0.68) == (0.3, 1.0), "correlation .34"
    assert told(10, near=4.0, far=1.0, both=-1.8) == (0.3, 1.0)
    # Four slopes at the whole reach, with a standard deviation of 1 and means on both sides of the threshold.
    for dim, limit in ((10, 8.0), (1000, 8.0), (4000, 16.0)):
        for sign in (-1, 1):
            for mean, alike in ((limit - 0.1, False), (limit + 0.1, True)):
                wide = {"wide": sign * 4 * mean, "squares": 4 * (mean**2 + 1), "probed": 4}
                for both, otherwise in ((0.9, 0.1), (0.1, 0.3)):
                    pairs = {"near": 1.0, "far": 1.0, "both": both, "pairs": 8}
                    assert told(dim, **pairs, **wide)[0] == (0.0 if alike else otherwise)
                    assert told(dim, **pairs, rise=8 * mean / 0.61, **wide)[0] == (0.0 if alike else otherwise)
                    assert told(dim, **pairs, rise=8 * mean / 0.59, **wide)[0] == otherwise, "soon over"


@pytest.mark.parametrize(("probed", "reach"), [(1, 0.1), (3, 0.1), (4, 0.0)])
def test_a_few_slopes_do_not_say_that_all_are_alike(probed, reach) -> None:
    same = {"wide": 2.0 * probed, "squares": 4.0 * probed, "probed": probed}
    assert told(10, near=1.0, far=1.0, both=0.9, pairs=8, rise=16.0, **same)[0] == reach


def test_it_takes_a_fiftieth_of_a_run_at_most_and_five_directions_at_least() -> None:
    for horizon, q, steps in ((200, 20, 3), (100, 20, 2), (49, 20, 0), (200, 5, 3), (200, 4, 0)):
        state = scout(num_directions=q, guesses=2).init(start(1), horizon=horizon)
        assert state.scouting.tolist() == [steps]
        assert state.radius.horizon.tolist() == [horizon - steps]
    assert scout(reach=0.0).init(start(1), horizon=200).tally == ()
    with pytest.raises(InputError, match="scouting"):
        scout(scouting=-1)


def test_a_run_too_short_to_scout_searches_at_once_and_stays_near() -> None:
    optimizer = scout()
    state = optimizer.init(start(1), horizon=20, scale=2.0)
    torch.testing.assert_close(state.radius.reach, torch.tensor([0.2]).double())
    assert state.radius.until.tolist() == [0.05]
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
