"""Bandits-TD against a transcription of its published steps, and what it does with what it is told of the space."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from problems import Bowls, Linear
from zoracle.directions import gaussian
from zoracle.errors import InputError
from zoracle.optimizers.search.bandits import Bandits
from zoracle.rollout import rollout, take_step
from zoracle.rollout.oracle import Oracle
from zoracle.types import Space

SHAPE = (2, 5, 4)
DIM = math.prod(SHAPE)


def space(low: float, high: float, radius: float = math.inf, problems: int = 1, shape=SHAPE) -> Space:
    ends = (torch.full((problems, DIM), end, dtype=torch.float64) for end in (low, high))
    return Space(*ends, torch.full((problems,), radius, dtype=torch.float64), torch.tensor([shape]).repeat(problems, 1))


def up(prior: np.ndarray) -> np.ndarray:
    """Nearest neighbours, (2, 3, 2) to (2, 5, 4): row i is row floor(3 i / 5)."""
    return prior.reshape(2, 3, 2)[:, [0, 0, 1, 1, 2]][:, :, [0, 0, 1, 1]].ravel()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_the_published_algorithm(norm: str) -> None:
    """The public code's steps for one image, written again in NumPy. It maximises a loss L, which is -f."""
    objective = Bowls(1, DIM)
    where = space(-0.3, 0.3) if norm == "linf" else space(-1.0, 1.0, 3.0)
    exploration, probe, lr, online_lr = (1.0, 0.1, 0.06, 0.7) if norm == "linf" else (0.01, 0.01, 0.3, 0.1)
    optimizer = Bandits(tile=2, online_lr=online_lr)
    oracle = Oracle(objective)
    state = optimizer.init(torch.zeros(1, DIM, dtype=torch.float64), seed=5, space=where)

    def loss(x: np.ndarray) -> float:
        return -float(objective.evaluate(torch.from_numpy(x)[None], torch.tensor([0])).loss)

    x, prior = np.zeros(DIM), np.zeros(12)
    for _ in range(12):
        noise = exploration * gaussian(state.key, 1, state.dual)[0, 0].numpy() / math.sqrt(12)
        q1, q2 = up(prior + noise), up(prior - noise)
        l1 = loss(x + probe * q1 / np.linalg.norm(q1))
        l2 = loss(x + probe * q2 / np.linalg.norm(q2))
        estimate = (l1 - l2) / (probe * exploration) * noise
        if norm == "linf":
            share = (prior + 1) / 2
            above, below = share * np.exp(online_lr * estimate), (1 - share) * np.exp(-online_lr * estimate)
            prior = 2 * above / (above + below) - 1
            x = x + lr * np.sign(up(prior))
        else:
            prior = prior + online_lr * estimate
            x = x + lr * up(prior) / np.linalg.norm(up(prior))
        seen = len(objective.seen)
        _, _, state = take_step(optimizer, oracle, state, torch.tensor([0]))
        assert sum(len(part) for part in objective.seen[seen:]) == 2
        kept = state.dual.tanh() if norm == "linf" else state.dual
        np.testing.assert_allclose(kept[0].numpy(), prior, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(state.x[0].numpy(), x, rtol=1e-9, atol=1e-12)
    assert np.abs(prior).max() > 0.01


def test_a_prior_that_is_certain_can_change_its_mind() -> None:
    optimizer = Bandits(online_lr=1e4)
    state = optimizer.init(torch.zeros(1, 3, dtype=torch.float32))
    queries = optimizer.ask(state)
    there = optimizer.tell(state, queries, torch.tensor([[0.0, 5.0]]))
    assert there.dual.tanh().abs().min() == 1
    back = optimizer.tell(there, queries, torch.tensor([[9.0, 0.0]]))
    assert torch.equal(back.dual.sign(), -there.dual.sign())


def test_the_prior_has_the_size_of_its_cells() -> None:
    x0 = torch.zeros(3, DIM, dtype=torch.float64)
    assert Bandits().init(x0, space=space(-1, 1, problems=3)).dual.shape == (3, DIM)
    for side, cells in ((8, 4), (28, 14), (299, 50)):
        image = torch.zeros(1, 3 * side * side)
        box = Space(image - 1, image + 1, torch.tensor([torch.inf]), torch.tensor([[3, side, side]]))
        assert Bandits().init(image, space=box).dual.shape == (1, 3 * cells * cells)
    assert Bandits(tile=1).init(x0, space=space(-1, 1, problems=3)).dual.shape == (3, DIM)
    assert Bandits(tile=2).init(x0, space=space(-1, 1, problems=3)).dual.shape == (3, 2 * 3 * 2)
    assert Bandits(tile=9).init(x0, space=space(-1, 1, problems=3)).dual.shape == (3, 2)
    # Where a point is not an image there are no neighbours to share a cell with.
    assert Bandits(tile=2).init(x0).dual.shape == (3, DIM)
    queries = Bandits(tile=2).ask(Bandits(tile=2).init(x0, space=space(-1, 1, problems=3)))
    image = queries.points[0, 0].view(SHAPE)
    assert torch.equal(image[:, 0], image[:, 1])
    assert torch.equal(image[:, :, 2], image[:, :, 3])
    torch.testing.assert_close((queries.points - 0).norm(dim=2), torch.full((3, 2), 0.1, dtype=torch.float64))


def test_settings_and_images_of_two_shapes() -> None:
    with pytest.raises(InputError, match="tile"):
        Bandits(tile=0)
    mixed = space(-1, 1, problems=2)._replace(shape=torch.tensor([[2, 5, 4], [1, 5, 8]]))
    with pytest.raises(InputError, match="different shapes"):
        Bandits().init(torch.zeros(2, DIM, dtype=torch.float64), space=mixed)


def test_it_finds_the_best_corner_of_a_box() -> None:
    class Boxed(Linear):
        constrained = True

        def project(self, points, problem):
            return points.clamp(-0.3, 0.3)

    gradient = torch.linspace(-1, 1, DIM, dtype=torch.float64)
    objective = Boxed(gradient)
    optimizer = Bandits(online_lr=0.3)
    state = optimizer.init(torch.zeros(1, DIM, dtype=torch.float64), space=space(-0.3, 0.3))
    _, trajectory = rollout(optimizer, Oracle(objective), state, 400)
    assert trajectory.total_queries.tolist() == [800]
    best = -0.3 * float(gradient.abs().sum())
    assert float(trajectory.final_loss) < 0.95 * best
