"""What the default of ``minimize`` does with its budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import zoracle
from zoracle.optimizers.base import with_settings
from zoracle.optimizers.devices import on_device
from zoracle.optimizers.portfolio import Portfolio
from zoracle.tasks import Task
from zoracle.tasks.network import NetworkTask
from zoracle.tasks.random_network import RandomNetworkAttack
from zoracle.types import Space


def waves(x: torch.Tensor) -> torch.Tensor:
    """A bowl with a local minimum at every integer, 2^d of them around the best one."""
    return (0.2 * x**2 + 1 - torch.cos(2 * torch.pi * x)).sum(1)


def test_a_long_run_leaves_the_minimum_that_is_nearest() -> None:
    start = torch.tensor([-4.0, 3.0, 2.0, -3.0, 4.0, -2.0, 3.0, -4.0], dtype=torch.float64).repeat(4, 1)
    nearest = 0.2 * start[0].square().sum()
    found = zoracle.minimize(waves, start, budget=4000)
    assert (found.value < 0.02 * nearest).all()
    assert (found.account["ma-es"] > 0.5 * found.queries).all()
    spent = found.account["zo-lbfgs"] + found.account["ma-es"]
    assert (found.queries - spent <= 10).all()  # the others measured the noise, and evaluated the last iterate


def test_a_budget_for_several_runs_of_the_strategy_has_restarts() -> None:
    found = zoracle.minimize(waves, scattered(2), budget=4000)
    assert found.account["restarts"] > 0
    assert found.value < 1e-6


def test_what_is_smooth_goes_to_the_quasi_newton_method() -> None:
    weights = 10 ** np.linspace(0, 2, 40)
    found = zoracle.minimize(lambda x: (weights * (x - 0.2) ** 2).sum(-1), np.zeros(40), budget=2000)
    assert found.account["zo-lbfgs"] > 0.8 * found.queries
    assert f"zo-lbfgs {found.account['zo-lbfgs']:,}, ma-es {found.account['ma-es']:,}" in repr(found)
    assert found.value < 1e-6


def bowl(x: torch.Tensor) -> torch.Tensor:
    """Curvatures from 1 to 100."""
    return (10 ** torch.linspace(0, 2, x.shape[1], dtype=x.dtype) * (x - 0.3) ** 2).sum(1)


def scattered(d: int) -> torch.Tensor:
    """A point between -4 and 4, in no order."""
    return 4 * torch.sin(7 * torch.arange(1, d + 1, dtype=torch.float64) ** 2)


def test_where_slopes_tell_what_is_farther_off_the_strategy_only_looks() -> None:
    found = zoracle.minimize(bowl, torch.zeros(40, dtype=torch.float64), budget=400)
    assert found.account["ma-es"] == 28  # the points of two steps
    assert found.account["zo-lbfgs"] > 0.85 * found.queries


def test_where_slopes_tell_nothing_a_brief_run_is_the_strategys_until_its_last_sweeps() -> None:
    start = scattered(40)
    found = zoracle.minimize(waves, start, budget=800)
    assert found.account["ma-es"] > 0.5 * found.queries
    assert found.account["zo-lbfgs"] > 3 * 40  # the first sweep, and the last ones
    alone = zoracle.minimize(waves, start, budget=800, optimizer="zo-lbfgs")
    assert found.value < alone.value


def test_the_last_sweeps_take_at_most_a_third_of_a_run_that_has_time_for_two_members() -> None:
    found = zoracle.minimize(waves, scattered(60), budget=300)
    assert found.account["ma-es"] >= 0.4 * found.queries
    assert found.account["zo-lbfgs"] > 2 * 60  # the first sweep and the last one
    brief = zoracle.minimize(waves, scattered(60), budget=180)  # a third of it is no sweep
    assert brief.account["ma-es"] == 30  # the points of two steps
    assert brief.account["zo-lbfgs"] > 0.7 * brief.queries


def network(task: Task, i: int) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    """The loss of all samples of a problem of a task, and its start."""
    problem = task.ids("valid")[i]
    objective = task.objective((problem,))

    def loss(points: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros(len(points), dtype=torch.int64)
        return objective.evaluate(points, zero, zero).loss

    return loss, task.start((problem,), seed=0)[0]


def alone(f: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, budget: int) -> float:
    """The lower one of what the members that search without weights reach by themselves."""
    return min(float(zoracle.minimize(f, start, budget=budget, optimizer=name).value) for name in ("zo-lbfgs", "ma-es"))


def test_where_slopes_likely_agree_members_take_turns_from_the_lowest_point() -> None:
    f, start = network(NetworkTask(hidden=5, batch_size=300), 0)
    found = zoracle.minimize(f, start, budget=1925)
    assert found.account["ma-es"] == 42  # it only looked
    assert found.account["zo-lstm-universal"] > 0.3 * found.queries
    assert found.account["zo-lbfgs"] > 0.2 * found.queries
    assert found.value < 0.8 * alone(f, start, 1925)


def test_where_slopes_tell_the_way_only_the_strategy_and_the_recurrent_optimizer_share() -> None:
    f, start = network(RandomNetworkAttack(), 0)
    found = zoracle.minimize(f, start, budget=1280)
    assert found.account["ma-es"] > 40  # it had turns after its look
    assert found.account["zo-lstm-universal"] > 0.3 * found.queries
    assert found.value < 0.8 * alone(f, start, 1280)
    longer = zoracle.minimize(f, start, budget=12800)
    assert longer.account["zo-lstm-universal"] == 0


def test_a_run_that_takes_turns_continues_from_its_checkpoint(tmp_path: Path) -> None:
    f, start = network(NetworkTask(hidden=5, batch_size=300), 1)
    whole = zoracle.minimize(f, start, budget=1925)
    calls = 0

    def interrupted(points: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += len(points)
        if calls > 900:
            raise KeyboardInterrupt
        return f(points)

    at = tmp_path / "run.safetensors"
    zoracle.minimize(interrupted, start, budget=1925, checkpoint=at)
    again = zoracle.minimize(f, start, budget=1925, checkpoint=at)
    assert again.queries == whole.queries
    assert again.account == whole.account
    assert torch.equal(again.x, whole.x)


def test_a_budget_below_two_sweeps_is_for_the_recurrent_optimizer() -> None:
    start = torch.zeros(300, dtype=torch.float64)
    found = zoracle.minimize(bowl, start, budget=300)
    assert found.account["zo-lstm-universal"] > 0.9 * found.queries
    assert found.value < zoracle.minimize(bowl, start, budget=300, optimizer="ma-es").value


def test_the_recurrent_iterate_may_leave_the_box_and_the_recommended_point_may_not() -> None:
    made, x0 = Portfolio(num_directions=9), torch.zeros(1, 100, dtype=torch.float64)
    box = Space(x0, x0 + 1, torch.full((1,), torch.inf, dtype=torch.float64), torch.tensor([[1, 1, 100]]))
    goal = torch.tensor([-0.5, 0.5], dtype=torch.float64).repeat(50)
    state = made.init(x0, horizon=12, space=box)
    for _ in range(12):
        queries = made.ask(state)
        state = made.tell(state, queries, (queries.points.clamp(0, 1) - goal).square().sum(2))
    assert state.recurrent.x.min() < 0
    assert state.x.min() >= 0
    assert (state.x - goal).square().sum() < 0.9 * goal.square().sum()


def test_a_run_alone_gives_what_it_gives_beside_one_of_another_member() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, 0] > 10, bowl(x - 20), waves(x))

    start = torch.stack((torch.full((20,), 20.0, dtype=torch.float64), scattered(20)))
    both = zoracle.minimize(f, start, budget=300)
    assert both.account["ma-es"][0] < both.account["ma-es"][1]
    for k in (0, 1):
        alone = zoracle.minimize(f, start[k], budget=300, ids=[k])
        assert alone.value == both.value[k]
        assert torch.equal(alone.x, both.x[k])


def test_members_follow_the_settings_and_the_device() -> None:
    made = Portfolio(num_directions=9)
    changed = with_settings(made, num_directions=5)
    members = (changed.quasi_newton, changed.evolution, changed.recurrent)
    assert {changed.queries_per_step, *(member.queries_per_step for member in members)} == {6}
    assert made.recurrent.queries_per_step == 10
    there = on_device(made, torch.device("meta"))
    assert {weights.device.type for weights in there.recurrent.parameters()} == {"meta"}
    assert {weights.device.type for weights in made.recurrent.parameters()} == {"cpu"}
    assert on_device(made, torch.device("cpu")) is made


def test_other_optimizers_have_no_account() -> None:
    found = zoracle.minimize(lambda x: (x**2).sum(-1), np.ones(4), budget=200, optimizer="zo-sgd")
    assert found.account == {}
    assert "given to" not in repr(found)
