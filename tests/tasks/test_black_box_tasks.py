"""Problems that are not test functions: a rover's path, penalties of a Lasso, how a network is trained, policies."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
import torch

from zoracle.errors import InputError, MissingExtraError
from zoracle.keyed import mix
from zoracle.objectives import LassoPenalties, PolicySearch, Rover, TrainingSettings
from zoracle.tasks import task
from zoracle.testing import check_objective, check_task

gym = pytest.mark.skipif(find_spec("gymnasium") is None, reason="the extra gymnasium has the environments")
IDS = (2000, 2001)
F64 = torch.float64
ROWS = torch.arange(2)


@pytest.mark.parametrize(
    ("name", "settings", "rtol"),
    [
        ("rover", {"waypoints": 5, "obstacles": 4}, 0.0),
        ("lasso", {"dim": 12}, 1e-12),
        ("hyperparameters", {"layers": 2, "samples": 20, "validation": 30, "steps": 5}, 1e-12),
        pytest.param("policy", {"horizon": 5}, 0.0, marks=gym),
    ],
)
def test_the_batteries(name, settings, rtol):
    family = task(name, **settings)
    points = torch.cat([family.start(IDS, seed=seed, dtype=F64) for seed in range(3)])
    check_objective(family.objective(IDS, dtype=F64), points, ROWS.repeat(3), rtol=rtol)
    check_task(family)


def path_of(control: torch.Tensor, t: float) -> np.ndarray:
    """A clamped cubic B-spline by SciPy."""
    interpolate = pytest.importorskip("scipy.interpolate")
    k = len(control)
    knots = np.concatenate((np.zeros(3), np.linspace(0, 1, k - 2), np.ones(3)))
    return interpolate.BSpline(knots, control.numpy(), 3)(t)


def test_the_path_is_a_clamped_cubic_spline():
    family = task("rover", waypoints=7)
    objective = family.objective(IDS, dtype=F64)
    control = family.start(IDS, seed=5, dtype=F64)
    path = objective.path(control)
    for row in range(2):
        for i, t in ((0, 0.0), (123, 123 / 499), (499, 1.0)):
            np.testing.assert_allclose(path[row, i], path_of(control[row].view(-1, 2), t), atol=1e-12)
    assert torch.equal(path[:, 0], control[:, :2])
    assert torch.equal(path[:, -1], control[:, -2:])


def test_the_cost_of_a_straight_path_past_and_through_an_obstacle():
    ends = torch.tensor([[[0.0, 0.5], [1.0, 0.5]]], dtype=F64)
    x = torch.linspace(0, 1, 6, dtype=F64)
    straight = torch.stack((x, torch.full_like(x, 0.5)), 1).flatten().unsqueeze(0)
    row = torch.zeros(1, dtype=torch.int64)

    def cost(box, point=straight):
        return float(Rover(torch.tensor([[box]], dtype=F64), ends, waypoints=6).evaluate(point, row).loss)

    assert cost([0.2, 0.6, 0.4, 0.8]) == pytest.approx(0.05)
    assert cost([0.2, 0.4, 0.4, 0.6]) == pytest.approx(0.05 + 20 * 0.2, rel=0.01)
    moved = straight.clone()
    moved[0, 1] = 0.4  # begins 0.1 beside the start
    assert cost([0.2, 0.6, 0.4, 0.8], moved) == pytest.approx(10 * 0.1 + 0.05, rel=0.05)
    outside = straight * 3 - 1
    assert cost([2, 2, 3, 3], outside) == cost([2, 2, 3, 3], outside.clamp(0, 1))


def test_no_obstacle_covers_start_or_goal():
    objective = task("rover", obstacles=200, side=0.3).objective(IDS, dtype=F64)
    for end in objective.ends.unbind(1):
        boxes = objective.obstacles
        inside = ((boxes[..., :2] <= end[:, None]) & (end[:, None] <= boxes[..., 2:])).all(2)
        assert not inside.any()
    assert (objective.obstacles > 0).any()


def test_coefficients_are_those_of_scikit_learns_lasso():
    linear = pytest.importorskip("sklearn.linear_model")
    family = task("lasso", dim=8, samples=40)
    made = family.objective(IDS, dtype=F64)
    x, y = (torch.as_tensor(part) for part in (made.features, made.responses))
    objective = LassoPenalties(x, y, folds=4, decades=3.0, iterations=3000)
    t = torch.linspace(-0.6, 0.9, 8, dtype=F64).unsqueeze(0)
    penalties = objective.penalties(t, ROWS[:1])[0]
    largest = (x[0].T @ y[0]).abs().max() / 40
    torch.testing.assert_close(penalties, largest * 10 ** (1.5 * (t[0] - 1)))
    errors = []
    for fold in range(4):
        out = torch.arange(40) % 4 == fold
        # Penalties of their own, by dividing the features by them.
        fitted = linear.Lasso(alpha=1.0, fit_intercept=False, tol=1e-12, max_iter=100000)
        fitted.fit((x[0, ~out] / penalties).numpy(), y[0, ~out].numpy())
        w = torch.from_numpy(fitted.coef_) / penalties
        torch.testing.assert_close(objective.coefficients(t, 0)[fold, 0], w, rtol=1e-6, atol=1e-8)
        usual = (y[0, out] - y[0, ~out].mean()).square().mean()
        errors.append((y[0, out] - x[0, out] @ w).square().mean() / usual)
    loss = objective.evaluate(t, ROWS[:1]).loss[0]
    torch.testing.assert_close(loss, torch.stack(errors).mean(), rtol=1e-6, atol=0)


def test_penalties_that_know_the_support_beat_equal_ones():
    family = task("lasso", dim=60)
    objective = family.objective(IDS, dtype=F64)
    equal = torch.stack([torch.full((60,), value, dtype=F64) for value in torch.linspace(-1, 1, 9).tolist()])
    best = min(float(one) for one in objective.evaluate(equal, torch.zeros(9, dtype=torch.int64)).loss)
    w = objective.coefficients(torch.zeros(1, 60, dtype=F64), 0).mean(0)[0]
    known = torch.where(w.abs() >= w.abs().topk(family.active).values[-1], -0.5, 1.0).unsqueeze(0)
    assert float(objective.evaluate(known, ROWS[:1]).loss) < best


def test_training_is_that_of_torch():
    family = task("hyperparameters", layers=2, hidden=5, samples=30, validation=40, steps=7)
    objective = family.objective(IDS, dtype=F64)
    point = family.start(IDS, seed=4, dtype=F64)
    layers, smoothing = objective.settings(point)
    row = 1
    pairs = []
    for given, layer in zip(objective.weights, layers, strict=True):
        linear = torch.nn.utils.skip_init(torch.nn.Linear, given.shape[2], given.shape[1], dtype=F64)
        with torch.no_grad():
            linear.weight.copy_(given[row] * layer["scale"][row])
            linear.bias.zero_()
        pairs.append((linear, {name: float(value[row]) for name, value in layer.items()}))
    net = torch.nn.Sequential(pairs[0][0], torch.nn.Tanh(), pairs[1][0])
    optimizer = torch.optim.SGD(
        [
            {"params": linear.parameters(), "lr": s["rate"], "momentum": 0.0, "weight_decay": s["decay"]}
            for linear, s in pairs
        ]
    )
    for group, (_, s) in zip(optimizer.param_groups, pairs, strict=True):
        group["momentum"] = 1 - s["1 - momentum"]
    x, y = objective.features[objective.training[row]], objective.labels[objective.training[row]]
    for _ in range(7):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y, label_smoothing=float(smoothing[row])).backward()
        optimizer.step()
    seen = objective.validation[row]
    wanted = torch.nn.functional.cross_entropy(net(objective.features[seen]), objective.labels[seen])
    found = objective.evaluate(point[row : row + 1], torch.tensor([row])).loss[0]
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-10, atol=0)


def test_training_and_validation_images_are_disjoint_and_of_the_split():
    family = task("hyperparameters")
    parts = {}
    for split in ("train", "valid", "test"):
        objective = family.objective(family.ids(split)[:5])
        for one, other in zip(objective.training, objective.validation, strict=True):
            assert not set(one.tolist()) & set(other.tolist())
        parts[split] = set(torch.cat((objective.training, objective.validation), 1).flatten().tolist())
    assert all(not parts[a] & parts[b] for a, b in pairwise(("train", "valid", "test", "train")))


@gym
def test_a_return_is_that_of_a_loop_by_hand():
    gymnasium = pytest.importorskip("gymnasium")
    objective = PolicySearch("Pendulum-v1", (3, 4), hidden=2, episodes=2, horizon=20)
    assert objective.dim == 3 * 2 + 2 + 2 * 1 + 1
    point = torch.linspace(-1, 1, objective.dim, dtype=F64)
    w1, b1, w2, b2 = point[:6].view(2, 3), point[6:8], point[8:10].view(1, 2), point[10:]
    env = gymnasium.make("Pendulum-v1", max_episode_steps=20)
    total = 0.0
    for episode in range(2):
        seen, _ = env.reset(seed=mix(4, episode))
        for _ in range(20):
            action = (w2 @ (w1 @ torch.from_numpy(seen).double() + b1).tanh() + b2).clamp(-2, 2)
            seen, reward, *_ = env.step(action.float().numpy())
            total += float(reward)
    loss = objective.evaluate(point.unsqueeze(0), torch.tensor([1])).loss
    assert float(loss) == pytest.approx(-total / 2, rel=1e-5)
    assert float(objective.evaluate(point.unsqueeze(0), torch.tensor([0])).loss) != float(loss)


@gym
@pytest.mark.skipif(find_spec("mujoco") is None, reason="the extra gymnasium has mujoco")
def test_policies_of_mujoco_answer_the_same_again():
    family = task("policy", environment="Swimmer-v5", horizon=30)
    assert family.dim == 2 * 8
    objective, points = family.objective(IDS, dtype=F64), family.start(IDS, dtype=F64)
    first = objective.evaluate(points, ROWS).loss
    objective.evaluate(points.flip(0), ROWS)
    assert torch.equal(objective.evaluate(points, ROWS).loss, first)


def test_without_gymnasium_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'zoracle\[gymnasium\]'"):
        task("policy")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: task("rover", waypoints=3), "waypoints is 3; expected a number of at least 4"),
        (lambda: task("lasso", active=0), "active is 0; expected 1 .. 100"),
        (lambda: task("lasso", correlation=1), "correlation is 1; expected a number in [0, 1)"),
        (lambda: task("lasso", signal=0), "signal is 0; expected a positive number"),
        (lambda: task("hyperparameters", samples=500), "samples and validation are 500 and 200; expected at most 599"),
        (lambda: task("hyperparameters", steps=0), "steps is 0; expected a number of at least 1"),
        (lambda: Rover(torch.zeros(1, 2, 3), torch.zeros(1, 2, 2)), "expected (P, O, 4) and (P, 2, 2)"),
        (lambda: LassoPenalties(torch.zeros(1, 4, 2), torch.zeros(1, 3)), "expected (P, n, d) and (P, n)"),
        (lambda: LassoPenalties(torch.ones(1, 4, 2), torch.ones(1, 4), folds=5), "folds is 5; expected 2 .. 4"),
        (
            lambda: TrainingSettings(
                torch.zeros(4, 2), torch.zeros(4), ROWS.view(1, 2), ROWS.view(1, 2), weights=[torch.zeros(1, 3, 3)]
            ),
            "expected (P, out, in) in a chain",
        ),
        pytest.param(lambda: task("policy", environment="Pendulam-v1"), "'Pendulam-v1' cannot be made", marks=gym),
        pytest.param(lambda: task("policy", environment="CartPole-v1"), "has actions of Discrete(2)", marks=gym),
    ],
)
def test_bad_input_is_one_line(make, message):
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
