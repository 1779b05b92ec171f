"""Directional derivatives against queries in meta-training: equal to O(mu), in size too."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from zoracle.experiments.agreement import (
    Answers,
    Case,
    Places,
    meta_gradients,
    order,
    places,
    relative,
    segment_at,
    values,
)
from zoracle.keyed import normal
from zoracle.metatrain.config import Stage
from zoracle.metatrain.loss import MetaLoss
from zoracle.metatrain.oracle import TrainingOracle
from zoracle.optimizers.registry import make
from zoracle.tasks import task
from zoracle.types import Key

MUS = (1e-2, 1e-3, 1e-4, 1e-5)
NOTHING = (0.0,) * len(MUS)
FLOAT64 = torch.float64
STAGE = Stage(steps=8, truncation=4, loss=MetaLoss(form="log", weights="uniform", penalty=0.1))


def somewhere(made, ids, q=6) -> Places:
    x = made.start(ids, seed=2, dtype=FLOAT64)
    u = normal(Key.start(5, torch.tensor(ids)), (q, made.dim), dtype=FLOAT64)
    return Places(x.unsqueeze(0), u.unsqueeze(0))


@pytest.mark.parametrize("rotated", [False, True])
def test_on_a_quadratic_they_differ_by_half_mu_times_the_curvature(rotated: bool) -> None:
    made = task("quadratic", dim=12, rotated=rotated)
    ids = made.ids("train")[:3]
    at = somewhere(made, ids)
    found, spent = values(made, ids, at, FLOAT64, MUS)
    objective = made.objective(ids, dtype=FLOAT64)
    for p in range(3):
        axes = torch.eye(12, dtype=FLOAT64) if objective.rotation is None else objective.rotation[p]
        hessian = axes.T @ torch.diag(objective.curvatures[p]) @ axes
        u = at.directions[0, p]
        slope = u @ hessian @ (at.x[0, p] - objective.optimum[p])
        torch.testing.assert_close(found["directional"][0, p], slope, rtol=1e-6, atol=1e-6)
        for m, mu in enumerate(MUS):
            expected = 0.5 * mu * ((u @ hessian) * u).sum(1)
            # Rounding of values, over mu, is all that is left.
            floor = 100 * torch.finfo(FLOAT64).eps * float(found["loss"].max()) / mu
            torch.testing.assert_close(found["queries"][0, m, p] - slope, expected, rtol=1e-9, atol=floor)
    # q + 1 points for each mu, and one gradient, of each problem.
    assert spent == 3 * (len(MUS) * 7 + 1)


@pytest.mark.parametrize("name", ["quadratic", "binary-classification"])
def test_on_smooth_problems_slopes_agree_to_first_order(name: str) -> None:
    made = task(name, dim=20, **({"batch_size": None} if name == "binary-classification" else {}))
    ids = made.ids("train")[:3]
    at, cost = places(make("zo-lstm"), made, ids, 6)
    assert cost == 3 * 6 * 21
    assert at.x.shape == (3, 3, 20)
    assert bool((at.x[0] != at.x[1]).any(1).all())
    assert bool((at.x[1] != at.x[2]).any(1).all())
    found, _ = values(made, ids, at, FLOAT64, MUS)
    mean = relative(found["queries"], found["directional"]).mean((0, 2, 3)).tolist()
    assert mean[0] < 0.5
    for larger, smaller in pairwise(mean):
        assert 9 < larger / smaller < 11, "a tenth of mu, a tenth of the difference"
    assert 0.9 < order(MUS, mean, NOTHING) < 1.1


def test_in_float32_rounding_takes_over() -> None:
    made = task("binary-classification", dim=20, batch_size=None)
    ids = made.ids("train")[:3]
    mus = (1e-2, 1e-4, 1e-6)
    found, _ = values(made, ids, somewhere(made, ids), torch.float32, mus)
    mean = relative(found["queries"], found["directional"]).mean((0, 2, 3))
    assert mean[1] < 0.1 * mean[0]
    assert mean[2] > 3 * mean[1]


@pytest.mark.parametrize("name", ["zo-lstm", "zo-lstm-paper"])
def test_meta_gradients_agree_to_first_order_where_the_graph_is_the_same(name: str) -> None:
    made = task("binary-classification", dim=10, batch_size=None)
    ids = made.ids("train")[:2]
    case = Case(name, make(name, num_directions=5), STAGE)
    found, spent = meta_gradients(case, made, ids, segment_at(case, made, ids, 4), FLOAT64, MUS)
    for pair in ("without", "with"):
        cosine, difference, quotient = found[pair].unbind(1)
        assert 0.9 < order(MUS, difference.tolist(), NOTHING) < 1.1
        assert cosine[-1] > 1 - 1e-6
        assert abs(float(quotient[-1]) - 1) < 1e-3
    loss = (found["meta_loss"][:-1] - found["meta_loss"][-1]).abs()
    assert 0 < loss[-1] < 1e-2 * loss[0]
    different = found["as trained"][-1, 1]
    if name == "zo-lstm":
        assert different > 1e-2, "its directional derivatives have a graph, which queries cannot have"
    else:
        # The paper's form detaches the points: there is no such graph.
        assert torch.equal(found["with"], found["without"])
        assert torch.equal(found["as trained"], found["without"])
    # Segments of 4 steps and a gradient more than steps each; 2 per mu by queries of 6 points, 2 by gradients alone.
    assert spent == 2 * (2 * 5 + 2 * len(MUS) * (5 + 4 * 6))


def test_a_graph_changes_no_value() -> None:
    made = task("digits")
    ids = made.ids("train")[:2]
    objective = made.objective(ids)
    optimizer = make("zo-lstm").requires_grad_(True)
    rows = torch.arange(2)
    state = optimizer.init(made.start(ids), problem=torch.tensor(ids))
    state = state._replace(guesses=state.guesses.requires_grad_(True))
    points = optimizer.ask(state).points
    for kind in ("queries", "directional"):
        plain = TrainingOracle(objective, values=kind).evaluate(points, rows).loss
        linked = Answers(objective, values=kind, graph=True).evaluate(points, rows).loss
        cut = Answers(objective, values=kind, graph=False).evaluate(points, rows).loss
        assert torch.equal(plain, linked)
        assert torch.equal(plain, cut)
        assert linked.requires_grad
        assert not cut.requires_grad
    by_queries, by_gradient = (
        torch.autograd.grad(
            Answers(objective, values=kind, graph=True).evaluate(points, rows).loss[:, 1].sum(),
            state.guesses,
            retain_graph=True,
        )[0]
        for kind in ("queries", "directional")
    )
    torch.testing.assert_close(by_queries, by_gradient, rtol=1e-4, atol=1e-12)
    assert float(by_queries.norm()) > 0


def test_the_order_is_read_off_where_there_is_one() -> None:
    mus = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]
    squares = [min(0.7, 20 * mu**2) + 1e-9 / mu for mu in mus]
    assert order(mus, squares, [0.0] * 5) < 1.9, "rounding is taken for differences"
    assert order(mus, squares, [1e-9 / mu for mu in mus]) == pytest.approx(2, abs=0.05)
    assert order(mus, [0.6, 0.6, 0.6, 0.4, 0.04], [0.0] * 5) is None, "two numbers say nothing"
