from __future__ import annotations

import pytest
import torch

from problems import Bowls
from zoracle.blackboxes import PythonFunction
from zoracle.errors import BudgetError, InputError
from zoracle.objectives import Attack
from zoracle.objectives.base import Objective
from zoracle.rollout.oracle import Oracle
from zoracle.types import Evaluation, Purpose


class Broken(Objective):
    dim = 2
    num_problems = 2

    def _evaluate(self, points, problem, step):
        loss = points.sum(1)
        loss = torch.where(points[:, 0] > 1, torch.inf, loss)
        loss = torch.where(points[:, 0] < -1, torch.nan, loss)
        return Evaluation(loss, torch.ones_like(loss, dtype=torch.bool))


def points(b: int, m: int, d: int = 5) -> torch.Tensor:
    return torch.linspace(-1, 1, b * m * d, dtype=torch.float64).view(b, m, d)


def test_counts_each_problem_and_purpose() -> None:
    objective = Bowls(4, 5)
    oracle = Oracle(objective)
    oracle.evaluate(points(2, 3), torch.tensor([1, 3]))
    oracle.evaluate(points(1, 2), torch.tensor([3]), purpose=Purpose.MONITOR)
    oracle.gradient(points(2, 1)[:, 0], torch.tensor([0, 1]))
    assert oracle.counts[Purpose.OPTIMISE].tolist() == [0, 3, 0, 3]
    assert oracle.counts[Purpose.MONITOR].tolist() == [0, 0, 0, 2]
    assert oracle.counts[Purpose.META_GRADIENT].tolist() == [1, 1, 0, 0]
    total = sum(oracle.counts.values())
    assert torch.equal(total, objective.points_seen())


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_chunks_change_nothing(chunk: int) -> None:
    objective = Bowls(3, 5)
    expected = Oracle(Bowls(3, 5)).evaluate(points(3, 4), torch.arange(3)).loss
    oracle = Oracle(objective, chunk=chunk)
    assert torch.equal(oracle.evaluate(points(3, 4), torch.arange(3)).loss, expected)
    assert objective.calls == -(-12 // chunk)
    assert oracle.counts[Purpose.OPTIMISE].tolist() == [4, 4, 4]


def test_the_budget_is_never_passed_and_a_refused_call_costs_nothing() -> None:
    objective = Bowls(2, 5)
    oracle = Oracle(objective, budget=5)
    oracle.evaluate(points(2, 3), torch.arange(2))
    assert oracle.affords(torch.arange(2), 2).tolist() == [True, True]
    assert oracle.affords(torch.arange(2), 3).tolist() == [False, False]
    with pytest.raises(BudgetError, match="budget of 5"):
        oracle.evaluate(points(2, 3), torch.arange(2))
    assert objective.points_seen().tolist() == [3, 3]
    oracle.evaluate(points(2, 9), torch.arange(2), purpose=Purpose.MONITOR)


def test_non_finite_values_are_marked_and_no_success() -> None:
    x = torch.tensor([[[0.5, 0.0], [2.0, 0.0], [-2.0, 0.0]]])
    evaluation = Oracle(Broken()).evaluate(x, torch.tensor([1]))
    assert evaluation.loss.isnan().tolist() == [[False, True, True]]
    assert evaluation.success is not None
    assert evaluation.success.tolist() == [[True, False, False]]


def test_values_are_detached_and_of_the_points_type() -> None:
    x = points(1, 2).float().requires_grad_(True)
    loss = Oracle(Bowls(1, 5)).evaluate(x, torch.tensor([0])).loss
    assert not loss.requires_grad
    assert loss.dtype is torch.float32


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="budget is 0"):
        Oracle(Bowls(1, 5), budget=0)
    with pytest.raises(InputError, match="chunk is -1"):
        Oracle(Bowls(1, 5), chunk=-1)
    with pytest.raises(InputError, match=r"expected \(N, 5\)"):
        Oracle(Bowls(1, 5)).evaluate(points(1, 2, 4), torch.tensor([0]))
    with pytest.raises(InputError, match="out of range"):
        Oracle(Bowls(1, 5)).evaluate(points(1, 2), torch.tensor([1]))
    with pytest.raises(InputError, match="has no gradient"):
        Oracle(Broken()).gradient(torch.zeros(1, 2), torch.tensor([0]))


@pytest.mark.parametrize(
    ("d", "calls"), [(2**14, [7]), (150_528, [3, 3, 1]), (2**19, [2, 2, 2, 1]), (2**20, [1] * 7), (2**21, [1] * 7)]
)
def test_large_points_are_given_a_few_at_a_time(d: int, calls: list[int]) -> None:
    seen = []

    class Watched(Bowls):
        def _evaluate(self, points, problem, step):
            seen.append(len(points))
            return super()._evaluate(points, problem, step)

    Oracle(Watched(1, d)).evaluate(torch.zeros(1, 7, d), torch.tensor([0]))
    assert seen == calls


def test_predictions_are_counted_and_chunked_and_only_attacks_have_them():
    images, rows = torch.linspace(0, 1, 12).view(3, 1, 2, 2), torch.tensor([0, 2])
    seen = []

    def classify(x):
        seen.append(len(x))
        mean = x.flatten(1).mean(1)
        return torch.stack((0.5 - mean, mean - 0.5), 1)

    attack = Attack(PythonFunction(classify), images, torch.tensor([0, 0, 1]))
    oracle = Oracle(attack, chunk=1)
    assert oracle.predict(torch.zeros(2, 4), rows).tolist() == [0, 1]
    assert seen == [1, 1]
    assert oracle.counts[Purpose.MONITOR].tolist() == [1, 0, 1]
    assert oracle.counts[Purpose.OPTIMISE].tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="Bowls is not an attack on images"):
        Oracle(Bowls(3, 5)).predict(torch.zeros(2, 5), rows)
