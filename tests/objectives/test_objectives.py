from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from zoracle.errors import BlackBoxError, InputError
from zoracle.objectives import (
    BinaryClassification,
    CallableObjective,
    ClassicalFunction,
    NetworkTraining,
    Quadratic,
    Ripples,
    RobustRegression,
    ShiftedFunctions,
)
from zoracle.objectives.base import Bounds
from zoracle.objectives.rowwise import groups, matvec
from zoracle.objectives.transform import Rescaled
from zoracle.types import Evaluation

P, D, N = 3, 7, 30


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classification(batch_size: int | None = None, **settings) -> BinaryClassification:
    return BinaryClassification(draw(P, N, D), (draw(P, N, seed=1) > 0).double(), batch_size=batch_size, **settings)


def quadratic(rotated: bool) -> Quadratic:
    rotation = torch.linalg.qr(draw(P, D, D, seed=2)).Q if rotated else None
    return Quadratic(draw(P, D).exp(), draw(P, D, seed=1), optimum_value=draw(P, seed=3), rotation=rotation)


def network(batch_size: int | None = None) -> NetworkTraining:
    """Two inputs, one hidden unit and two classes, so that there are 7 weights."""
    chosen = torch.stack([torch.randperm(2 * N, generator=torch.Generator().manual_seed(p))[:N] for p in range(P)])
    labels = (draw(2 * N, seed=1) > 0).long()
    return NetworkTraining(draw(2 * N, 2), labels, chosen, hidden=1, classes=2, batch_size=batch_size)


def ripples(**changes) -> Ripples:
    given = {
        "curvatures": draw(P, D).exp(),
        "optimum": draw(P, D, seed=1),
        "height": draw(P, seed=2).exp(),
        "pairs": torch.arange(2 * P * 5).view(P, 5, 2) % D,
        "frequencies": 3 * draw(P, 5, 2, seed=3),
        "taper": torch.tensor([1e-3, 1.0, 3.0], dtype=torch.float64),
    }
    return Ripples(**{**given, **changes})


OBJECTIVES = {
    "ripples": ripples(),
    "classification": classification(),
    "classification, mini-batches": classification(8),
    "robust regression": RobustRegression(draw(P, N, D), draw(P, N, seed=1)),
    "robust regression, mini-batches": RobustRegression(draw(P, N, D), draw(P, N, seed=1), batch_size=8),
    "quadratic": quadratic(False),
    "quadratic, rotated": quadratic(True),
    "quadratic, noisy": Quadratic(draw(P, D).exp(), draw(P, D, seed=1), noise=0.3),
    "in other units": Rescaled(classification(8), scale=torch.tensor([0.1, 1.0, 30.0])),
    "network": network(),
    "network, mini-batches": network(8),
    "functions, moved": ShiftedFunctions(
        ("levy", "sphere", "styblinski-tang"), draw(P, D, seed=4) / 4, unit=draw(P).exp()
    ),
    **{name: ClassicalFunction(name, D, P) for name in ClassicalFunction.names()},
}

each = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=list(OBJECTIVES))


def batch(rows_each: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    problem = torch.arange(P).repeat_interleave(rows_each)
    return draw(P * rows_each, D, seed=5), problem, torch.full_like(problem, 3)


@each
def test_gradient_against_autograd_and_central_differences(objective):
    points, problem, step = batch()
    loss, gradient = objective.gradient(points, problem, step)
    x = points.clone().requires_grad_(True)
    value = objective.evaluate(x, problem, step).loss
    (by_autograd,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(loss, value.detach(), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(gradient, by_autograd, rtol=1e-12, atol=1e-13)
    assert not gradient.requires_grad
    h = 1e-6
    for j in range(D):
        move = torch.zeros(D, dtype=torch.float64)
        move[j] = h
        up, down = (objective.evaluate(points + m, problem, step).loss for m in (move, -move))
        torch.testing.assert_close(gradient[:, j], (up - down) / (2 * h), rtol=1e-6, atol=1e-6)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_point_alone_gives_what_it_gives_in_a_batch(objective, dtype):
    points, problem, step = batch()
    points = points.to(dtype)
    together = objective.evaluate(points, problem, step).loss
    loss, gradient = objective.gradient(points, problem, step)
    assert together.dtype is dtype
    assert torch.equal(together, loss)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(points)))
    assert torch.equal(objective.evaluate(points[order], problem[order], step[order]).loss, together[order])
    for i in range(len(points)):
        row = slice(i, i + 1)
        assert torch.equal(objective.evaluate(points[row], problem[row], step[row]).loss, together[row])
        assert torch.equal(objective.gradient(points[row], problem[row], step[row])[1], gradient[row])


@each
def test_no_points_give_no_losses(objective):
    assert objective.evaluate(torch.empty(0, D), torch.empty(0, dtype=torch.int64)).loss.shape == (0,)


@pytest.mark.parametrize("name", ClassicalFunction.names())
@pytest.mark.parametrize("dim", [2, 10])
def test_known_optima(name, dim):
    function = ClassicalFunction(name, dim, P)
    problem = torch.arange(P)
    loss, gradient = function.gradient(function.optimum, problem)
    torch.testing.assert_close(loss, function.optimum_value, rtol=1e-14, atol=1e-13)
    torch.testing.assert_close(gradient, torch.zeros(P, dim, dtype=torch.float64), rtol=0, atol=1e-10)
    low, high = function.bounds
    points = low + (high - low) * torch.rand(2000, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    near = function.optimum[:1] + 1e-3 * points
    for others in (points, near):
        losses = function.evaluate(others, torch.zeros(2000, dtype=torch.int64)).loss
        assert (losses > function.optimum_value[0]).all()


@pytest.mark.parametrize(
    ("name", "point", "value"),
    [
        ("sphere", (1.0, 2.0), 5.0),
        ("rosenbrock", (-1.0, 2.0), 104.0),
        ("rastrigin", (0.5, 1.0), 21.25),
        ("ackley", (1.0, 1.0), 20 + math.e - 20 * math.exp(-0.2) - math.e),
        ("styblinski-tang", (1.0, 2.0), 0.5 * (1 - 16 + 5 + 16 - 64 + 10)),
        ("levy", (-3.0, 5.0), 4 + 1 * 1.0 - 4 + 1 + 9.17),
    ],
)
def test_known_values(name, point, value):
    if name == "levy":  # w = (0, 2)
        value = 0.0 + (1 + 10 * math.sin(1) ** 2) + 1.0
    loss = ClassicalFunction(name, 2).evaluate(torch.tensor([point], dtype=torch.float64), torch.tensor([0])).loss
    assert loss.item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("rotated", [False, True])
def test_a_quadratic_is_what_its_formula_says(rotated):
    objective = quadratic(rotated)
    points, problem, _ = batch()
    for x, p, loss in zip(points, problem.tolist(), objective.evaluate(points, problem).loss, strict=True):
        rotation = torch.eye(D, dtype=torch.float64) if objective.rotation is None else objective.rotation[p]
        a = rotation.T @ objective.curvatures[p].diag() @ rotation
        away = x - objective.optimum[p]
        torch.testing.assert_close(loss, 0.5 * away @ a @ away + objective.optimum_value[p], rtol=1e-12, atol=1e-12)
    best, slope = objective.gradient(objective.optimum, torch.arange(P))
    assert torch.equal(best, objective.optimum_value)
    assert not slope.any()


def test_classification_is_what_its_formula_says():
    objective = classification()
    points, problem, _ = batch()
    features, labels = objective.features.numpy(), objective.labels.numpy()
    for w, p, loss in zip(points.numpy(), problem.tolist(), objective.evaluate(points, problem).loss, strict=True):
        wrong = labels[p] - 1 / (1 + np.exp(-features[p] @ w))
        assert loss.item() == pytest.approx(np.mean(wrong**2), rel=1e-13)


def test_points_of_one_step_see_the_same_sample():
    objective = classification(8)
    assert objective.stochastic
    w = draw(1, D).expand(4, D)
    problem = torch.zeros(4, dtype=torch.int64)
    loss = objective.evaluate(w, problem, torch.tensor([0, 0, 1, 2])).loss
    assert loss[0] == loss[1]
    assert len(set(loss[1:].tolist())) == 3
    full = objective.evaluate(w, problem).loss
    assert torch.equal(full, classification().evaluate(w, problem, torch.tensor([0, 0, 1, 2])).loss)


def test_samples_are_keyed_by_seed_and_id():
    w = draw(1, D).expand(P, D)
    step = torch.full((P,), 4)
    one = classification(8, ids=torch.tensor([10, 11, 12])).evaluate(w, torch.arange(P), step).loss
    same = BinaryClassification(
        classification().features[[2, 0]], classification().labels[[2, 0]], ids=torch.tensor([12, 10]), batch_size=8
    )
    assert torch.equal(same.evaluate(w[:2], torch.arange(2), step[:2]).loss, one[[2, 0]])
    for other in (
        classification(8, ids=torch.tensor([20, 21, 22])),
        classification(8, ids=torch.tensor([10, 11, 12]), seed=1),
    ):
        assert not torch.equal(other.evaluate(w, torch.arange(P), step).loss, one)


def test_noise_displaces_the_optimum_for_a_whole_step_and_is_keyed():
    curvatures, optimum = draw(P, D).exp(), draw(P, D, seed=1)
    made = {seed: Quadratic(curvatures, optimum, noise=0.5, ids=torch.tensor([7, 8, 9]), seed=seed) for seed in (0, 1)}
    assert made[0].stochastic
    x, problem = draw(1, D).expand(4, D), torch.zeros(4, dtype=torch.int64)
    loss = made[0].evaluate(x, problem, torch.tensor([0, 0, 1, 2])).loss
    assert loss[0] == loss[1]
    assert len(set(loss[1:].tolist())) == 3
    assert loss[2] != made[1].evaluate(x, problem, torch.tensor([0, 0, 1, 2])).loss[2]
    full = Quadratic(curvatures, optimum).evaluate(x, problem).loss
    assert torch.equal(made[0].evaluate(x, problem).loss, full)
    # Over steps the gradient is the noiseless one, and the loss is more by noise^2 / 2 tr A.
    steps = torch.arange(4000)
    losses, slopes = made[0].gradient(draw(1, D).expand(4000, D), torch.zeros_like(steps), steps)
    _, slope = Quadratic(curvatures, optimum).gradient(x[:1], problem[:1])
    for found, expected in ((losses, full[0] + 0.125 * curvatures[0].sum()), (slopes, slope[0])):
        assert bool(((found.mean(0) - expected).abs() < 4 * found.std(0) / math.sqrt(len(steps))).all())
    moved = Quadratic(curvatures[[2]], optimum[[2]], noise=0.5, ids=torch.tensor([9]))
    alone = moved.evaluate(x[:1], problem[:1], torch.tensor([3])).loss
    assert alone == made[0].evaluate(x[:1], torch.tensor([2]), torch.tensor([3])).loss


def test_units_of_each_problem():
    inner, scale = quadratic(False), torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    made, (points, problem, _) = Rescaled(inner, scale=scale), batch()
    own = scale[problem].unsqueeze(1)
    assert torch.equal(made.evaluate(points / own, problem).loss, inner.evaluate(points / own * own, problem).loss)
    torch.testing.assert_close(made.gradient(points, problem)[1], inner.gradient(points * own, problem)[1] * own)
    bounded = Rescaled(inner, scale=scale, bounds=Bounds(-3, 3))
    assert bool((bounded.project(100 * points, problem).abs() <= 3 / own).all())
    space = bounded.space(torch.arange(P), points[:P])
    assert torch.equal(space.high, (3 / scale).unsqueeze(1).expand(P, D))


def test_samples_cover_the_data_without_bias():
    objective = classification(10)
    steps = torch.arange(1500)
    w = draw(1, D).expand(len(steps), D)
    losses = objective.evaluate(w, torch.zeros_like(steps), steps).loss
    full = objective.evaluate(w[:1], torch.zeros(1, dtype=torch.int64)).loss
    assert abs(float(losses.mean() - full)) < 4 * float(losses.std()) / math.sqrt(len(steps))


def test_a_sample_of_everything_is_not_stochastic():
    assert not classification(N).stochastic
    assert not classification().stochastic


def test_rowwise_products_and_runs():
    matrix, points = draw(5, D), draw(9, D, seed=1)
    torch.testing.assert_close(matvec(matrix, points), points @ matrix.T)
    runs = [
        (rows.start, rows.stop, p, s) for rows, p, s in groups(torch.tensor([1, 1, 0, 0]), torch.tensor([4, 5, 5, 5]))
    ]
    assert runs == [(0, 1, 1, 4), (1, 2, 1, 5), (2, 4, 0, 5)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BinaryClassification(draw(P, N, D), draw(P, N)), "labels contain values other than 0 and 1"),
        (lambda: BinaryClassification(draw(N, D), draw(N)), "expected (P, n, d) and (P, n)"),
        (lambda: BinaryClassification(draw(P, N, D) / 0, torch.zeros(P, N)), "features hold NaN or infinite"),
        (lambda: classification(0), "batch_size is 0; expected 1 .. 30"),
        (lambda: classification(31), "batch_size is 31; expected 1 .. 30"),
        (lambda: classification(ids=torch.arange(2)), "ids have shape (2,); expected (3,)"),
        (lambda: Quadratic(torch.ones(P, D), torch.ones(D)), "expected (P, d) for both"),
        (lambda: Quadratic(-torch.ones(P, D), torch.ones(P, D)), "a curvature is negative or NaN"),
        (lambda: Quadratic(torch.ones(P, D), torch.ones(P, D), rotation=torch.eye(D)), "rotation has shape (7, 7)"),
        (
            lambda: Quadratic(torch.ones(P, D), torch.ones(P, D), optimum_value=torch.ones(2)),
            "optimum_value has shape (2,); expected (3,)",
        ),
        (lambda: ClassicalFunction("rosenbrok", 2), "did you mean rosenbrock?"),
        (lambda: ClassicalFunction("rosenbrock", 1), "dim is 1; expected at least 2 for rosenbrock"),
        (lambda: ClassicalFunction("sphere", 2, 0), "num_problems is 0"),
        (lambda: CallableObjective(lambda x: x, 0), "dim is 0"),
        (lambda: CallableObjective(lambda x: x, 2, scale=0), "scale is 0; expected a positive number"),
        (lambda: CallableObjective(lambda x: x, 2, bounds=(1, 0)), "bounds are (1, 0); expected (low, high)"),
        (lambda: CallableObjective(3, 2), "a int was given; expected a function of a batch"),
        (lambda: CallableObjective(lambda x: x, 2, framework="jax"), "framework is 'jax'"),
    ],
)
def test_bad_input_is_one_line(make, message):
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("framework", ["numpy", "torch", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_users_function(framework, dtype):
    calls = []

    def f(x):
        calls.append(type(x))
        loss = (x**2).sum(1)
        x -= x  # in place: the points must not change
        return loss

    objective = CallableObjective(f, 2, 2, framework=framework, bounds=(-1, 1), scale=0.5)
    points = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype)
    result = objective.evaluate(points, torch.tensor([0, 1]))
    assert isinstance(result, Evaluation)
    assert result.loss.dtype is dtype
    assert result.loss.tolist() == [5.0, 25.0]
    assert points.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert calls == [np.ndarray if framework == "numpy" else torch.Tensor]
    assert objective.bounds == (-1, 1)
    assert not objective.differentiable


def test_a_users_gradient():
    objective = CallableObjective(lambda x: np.square(x).sum(1), 2, gradient=lambda x: 2 * np.asarray(x))
    loss, gradient = objective.gradient(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    assert loss.tolist() == [5.0]
    assert gradient.tolist() == [[2.0, 4.0]]


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: x, "the function returned shape (3, 2) for points (3, 2); expected (3,), one row per point"),
        (lambda x: x.sum(), "the function returned shape () for points (3, 2); expected (3,)"),
        (lambda x: {}["a"], "the function raised KeyError: 'a' when given a torch.float32 tensor of shape (3, 2)"),
        (lambda x: np.linalg.inv(x), "when given a float32 numpy array of shape (3, 2)"),
        (lambda x: "text", "the function returned a str; expected numbers"),
    ],
)
def test_a_users_function_that_fails(f, message):
    with pytest.raises(BlackBoxError) as caught:
        CallableObjective(f, 2).evaluate(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
