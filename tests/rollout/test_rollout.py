"""The one loop: why problems stop, that finished ones are asked no more, that every point is counted where it is."""

from __future__ import annotations

import pytest
import torch

from zoracle.errors import InputError
from zoracle.objectives.base import Bounds, Objective
from zoracle.objectives.transform import Rescaled
from zoracle.optimizers.registry import make
from zoracle.rollout import blank, rollout, take_step
from zoracle.rollout.oracle import Oracle
from zoracle.types import Evaluation, Purpose, StopReason

M = 5  # points per step: q = 4 and the iterate


class Scripted(Objective):
    """|x|^2, but chosen points of a problem, counted from 1, are NaN or successes."""

    differentiable = True

    def __init__(self, problems=3, dim=4, nan=(), success=()):
        self.dim, self.num_problems = dim, problems
        self.nan, self.success = set(nan), set(success)
        self.seen = [0] * problems

    def _evaluate(self, points, problem, step):
        loss = points.square().sum(1)
        success = torch.zeros(len(points), dtype=torch.bool)
        scale = torch.ones_like(loss)
        for row, p in enumerate(problem.tolist()):
            self.seen[p] += 1
            success[row] = (p, self.seen[p]) in self.success
            if (p, self.seen[p]) in self.nan:
                scale[row] = torch.nan
        return Evaluation(loss * scale, success if self.success else None)


def begin(objective, lr=0.1, **settings):
    optimizer = make("zo-sgd", **{"num_directions": M - 1, "lr": lr, **settings})
    return optimizer, optimizer.init(torch.ones(objective.num_problems, objective.dim, dtype=torch.float64))


def run(objective, steps=6, budget=None, **options):
    optimizer, state = begin(objective)
    return rollout(optimizer, Oracle(objective, budget=budget), state, steps, **options)


def test_a_success_in_the_middle_of_a_step_is_counted_to_the_point_and_ends_that_problem_only():
    objective = Scripted(success={(1, 2 * M + 3), (1, 2 * M + 5), (2, 1)})
    _, found = run(objective, stop_on_success=True, final=None)
    assert found.first_success.tolist() == [-1, 2 * M + 3, 1]
    assert found.start_success.tolist() == [False, False, True]
    assert found.reason.tolist() == [StopReason.STEPS, StopReason.SUCCESS, StopReason.SUCCESS]
    assert objective.seen == [6 * M, 3 * M, M], "a finished problem is asked no more"
    assert found.total_queries.tolist() == objective.seen
    assert found.queries[:, 1].tolist() == [M, 2 * M, 3 * M, 3 * M, 3 * M, 3 * M]
    assert found.loss[:, 1].isfinite().tolist() == [True] * 3 + [False] * 3
    assert (found.best[3:, 1] == found.best_loss[1]).all()


def test_without_being_asked_to_stop_the_lowest_success_is_kept():
    objective = Scripted(problems=1, success={(1 - 1, 3), (0, 4 * M)})
    _, found = run(objective, final=None)
    assert found.first_success.item() == 3
    assert found.reason.item() == StopReason.STEPS
    assert found.success_loss.item() == found.success_point.square().sum().item()
    assert found.success_loss.item() > found.best_loss.item()
    assert found.success_loss.item() < 4.0 - 0.1, "the later success, which is lower"


def test_a_target_ends_a_problem_at_the_step_that_reaches_it():
    whole = run(Scripted(), final=None)[1]
    target = float(whole.best[2, 0])
    _, found = run(Scripted(), target=target, final=None)
    at = [int((whole.best[:, p] <= target).nonzero()[0]) if (whole.best[:, p] <= target).any() else 5 for p in range(3)]
    assert found.steps.tolist() == [step + 1 for step in at]
    assert found.reason[0] == StopReason.TARGET
    assert found.steps[0] == 3


@pytest.mark.parametrize(("budget", "steps", "spent"), [(M, 1, M), (3 * M - 1, 2, 2 * M + 1), (3 * M, 3, 3 * M)])
def test_a_budget_is_never_passed_and_what_is_left_pays_for_the_last_iterate(budget, steps, spent):
    objective = Scripted()
    _, found = run(objective, budget=budget, final=Purpose.OPTIMISE)
    assert found.reason.tolist() == [StopReason.BUDGET] * 3
    assert found.steps.tolist() == [steps] * 3
    assert found.total_queries.tolist() == [spent] * 3 == objective.seen
    assert found.final_loss.isnan().all() == (spent == steps * M)


def test_a_problem_whose_step_is_all_nan_ends_and_others_go_on():
    objective = Scripted(nan={(0, M + 2), *((1, M + i) for i in range(1, M + 1))})
    _, found = run(objective)
    assert found.reason.tolist() == [StopReason.STEPS, StopReason.NON_FINITE, StopReason.STEPS]
    assert found.non_finite.tolist() == [1, M, 0]
    assert objective.seen == [6 * M + 1, 2 * M, 6 * M + 1]
    assert found.best.isfinite().all()
    assert found.best_loss.isfinite().all(), "best so far is never from NaN"
    assert torch.equal(found.best_loss, found.best_point.square().sum(1))
    assert found.final_loss.isfinite().tolist() == [True, False, True]


def test_best_is_infinite_where_nothing_was_finite():
    _, found = run(Scripted(problems=1, nan={(0, i) for i in range(1, M + 1)}))
    assert found.best_loss.item() == torch.inf
    assert torch.equal(found.best_point, torch.ones(1, 4, dtype=torch.float64))


def test_a_paid_last_iterate_counts_like_any_other_point():
    objective = Scripted(problems=2, success={(0, 2 * M + 1)}, nan={(1, 2 * M + 1)})
    state, found = run(objective, steps=2, final=Purpose.OPTIMISE)
    assert found.first_success.tolist() == [2 * M + 1, -1]
    assert found.final_success.tolist() == [True, False]
    assert found.best_loss[0] == found.final_loss[0] == state.x[0].square().sum()
    assert found.non_finite.tolist() == [0, 1]
    assert found.total_queries.tolist() == [2 * M + 1] * 2 == objective.seen


def test_who_stopped_at_a_success_pays_for_no_last_iterate():
    objective = Scripted(problems=2, success={(0, 2)})
    _, found = run(objective, stop_on_success=True, final=Purpose.OPTIMISE)
    assert objective.seen == [M, 6 * M + 1] == found.total_queries.tolist()


@pytest.mark.parametrize("room", [2, 6])
@pytest.mark.parametrize("final", [None, Purpose.MONITOR, Purpose.OPTIMISE])
def test_a_trajectory_goes_on_where_another_stopped(room, final):
    objective = Scripted()
    optimizer, state = begin(objective)
    once, whole = rollout(optimizer, Oracle(objective), state, 6)
    objective = Scripted()
    oracle = Oracle(objective)
    state, part = rollout(optimizer, oracle, state, 2, trajectory=blank(room, state.x), final=final)
    assert part.reason.tolist() == [StopReason.STEPS] * 3
    state, found = rollout(optimizer, oracle, state, 6, trajectory=part)
    assert torch.equal(state.x, once.x)
    paid = 1 if final is Purpose.OPTIMISE else 0
    for name in whole._fields:
        a, b = getattr(found, name), getattr(whole, name)
        if name == "queries":
            a = a - paid * (torch.arange(6).unsqueeze(1) >= (2 if room > 2 else 1))
        if paid and name == "best":
            continue  # an iterate evaluated twice may be the best one step earlier
        assert torch.equal(a.nan_to_num(nan=-1), b.nan_to_num(nan=-1)), name
    assert found.total_queries.tolist() == [6 * M + paid] * 3
    assert oracle.counts[Purpose.OPTIMISE].tolist() == [6 * M + paid] * 3


def test_keep_graph_keeps_all_and_the_graph():
    objective = Scripted(success={(0, 1)}, nan={(1, i) for i in range(1, M + 1)})
    optimizer = make("zo-lstm", num_directions=M - 1).requires_grad_(True)
    state = optimizer.init(torch.ones(3, 4))
    state, found = rollout(
        optimizer, Oracle(objective), state, 3, keep_graph=True, stop_on_success=True, target=1e9, final=None
    )
    assert found.steps.tolist() == [3, 3, 3]
    assert state.x.shape == (3, 4)
    assert state.x.requires_grad
    state.x.sum().backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in optimizer.parameters())
    assert not found.loss.requires_grad


def test_without_a_graph_nothing_of_one_is_left():
    optimizer = make("zo-lstm", num_directions=M - 1).requires_grad_(True)
    state, _ = rollout(optimizer, Oracle(Scripted()), optimizer.init(torch.ones(3, 4)), 2)
    assert not state.x.requires_grad


def test_iterates_of_a_constrained_objective_are_brought_back():
    shown = []
    optimizer, state = begin(Scripted(), lr=10.0)
    bounded = Rescaled(Scripted(), bounds=Bounds(-2, 2))
    rollout(optimizer, Oracle(bounded), state, 3, on_step=lambda s: shown.append(s.state.x))
    assert all(bool((x.abs() <= 2).all()) for x in shown)
    assert any(bool((x.abs() == 2).any()) for x in shown), "or the test would show nothing"


def test_by_hand_is_the_same_as_the_loop():
    objective = Scripted()
    optimizer, state = begin(objective)
    end, _ = rollout(optimizer, Oracle(objective), state, 4)
    oracle = Oracle(objective)
    for _ in range(2):
        _, _, state = take_step(optimizer, oracle, state, torch.arange(3))
    for _ in range(2):
        queries = optimizer.ask(state)
        values = queries.points.square().sum(2)  # no oracle at all: a robot, a lab, a queue
        state = optimizer.tell(state, queries, values)
    assert torch.equal(state.x, end.x)


def test_wrong_shapes_and_numbers_are_told():
    optimizer, state = begin(Scripted())
    with pytest.raises(InputError, match="steps is -1"):
        rollout(optimizer, Oracle(Scripted()), state, -1)
    with pytest.raises(InputError, match=r"problem has shape \(2,\); expected \(3,\)"):
        rollout(optimizer, Oracle(Scripted()), state, 1, problem=torch.arange(2))
