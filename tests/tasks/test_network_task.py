from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from zoracle.errors import InputError
from zoracle.objectives import NetworkTraining
from zoracle.rollout.oracle import Oracle
from zoracle.tasks import task

IDS = (2000, 1000, 7)


def points(family, ids=IDS, each=5, dtype=torch.float64):
    """Points around the starts of these problems, their problems, and a step."""
    start = family.start(ids, dtype=dtype).repeat_interleave(each, 0)
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = torch.arange(len(ids)).repeat_interleave(each)
    return start + 0.1 * noise.to(dtype), problem, torch.full_like(problem, 3)


def test_the_loss_is_that_of_a_network_of_torch():
    family = task("network", hidden=3, samples=50, batch_size=None)
    objective = family.objective(IDS, dtype=torch.float64)
    x, problem, _ = points(family)
    loss = objective.evaluate(x, problem).loss
    for theta, p, value in zip(x, problem.tolist(), loss, strict=True):
        images, labels = objective.features[objective.chosen[p]], objective.labels[objective.chosen[p]]
        w1, b1 = theta[:192].view(64, 3), theta[192:195]
        w2, b2 = theta[195:225].view(3, 10), theta[225:]
        logits = F.linear(torch.tanh(F.linear(images, w1.T, b1)), w2.T, b2)
        torch.testing.assert_close(value, F.cross_entropy(logits, labels), rtol=1e-12, atol=0)


@pytest.mark.parametrize("batch_size", [None, 16])
def test_gradient_against_autograd_and_central_differences(batch_size):
    family = task("network", hidden=4, samples=60, batch_size=batch_size)
    objective = family.objective(IDS, dtype=torch.float64)
    x, problem, step = points(family, each=2)
    loss, gradient = objective.gradient(x, problem, step)
    asked = x.clone().requires_grad_(True)
    value = objective.evaluate(asked, problem, step).loss
    (by_autograd,) = torch.autograd.grad(value.sum(), asked)
    torch.testing.assert_close(loss, value.detach(), rtol=0, atol=0)
    torch.testing.assert_close(gradient, by_autograd, rtol=1e-11, atol=1e-13)
    h = 1e-6
    for j in range(0, family.dim, 13):
        move = torch.zeros(family.dim, dtype=torch.float64)
        move[j] = h
        up, down = (objective.evaluate(x + m, problem, step).loss for m in (move, -move))
        torch.testing.assert_close(gradient[:, j], (up - down) / (2 * h), rtol=1e-6, atol=1e-8)


def close(one, other):
    """To rounding: which routine multiplies a batch of thin matrices depends on the processor and on their number."""
    eps = torch.finfo(one.dtype).eps
    torch.testing.assert_close(one, other, rtol=100 * eps, atol=10 * eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", [{}, {"hidden": 1}, {"hidden": 5, "batch_size": None}], ids=str)
def test_a_point_alone_gives_what_it_gives_in_a_batch(dtype, settings):
    family = task("network", **settings)
    x, problem, step = points(family, dtype=dtype)
    together = family.objective(IDS, dtype=dtype)
    loss, gradient = together.gradient(x, problem, step)
    assert torch.equal(together.evaluate(x, problem, step).loss, loss)
    for rows in (slice(0, 1), slice(4, 6), slice(6, 9), slice(14, 15)):
        assert torch.equal(together.evaluate(x[rows], problem[rows], step[rows]).loss, loss[rows])
        close(together.gradient(x[rows], problem[rows], step[rows])[1], gradient[rows])
    for p, i in enumerate(IDS):
        alone, rows = family.objective((i,), dtype=dtype), problem == p
        one, slope = alone.gradient(x[rows], torch.zeros_like(problem[rows]), step[rows])
        assert torch.equal(one, loss[rows])
        close(slope, gradient[rows])


def test_points_of_one_step_see_the_same_sample():
    family = task("network", hidden=2)
    objective = family.objective(IDS)
    assert objective.stochastic
    theta = family.start(IDS[:1]).expand(4, -1)
    problem = torch.zeros(4, dtype=torch.int64)
    step = torch.tensor([0, 0, 1, 2])
    loss = objective.evaluate(theta, problem, step).loss
    assert loss[0] == loss[1]
    assert len(set(loss[1:].tolist())) == 3
    full = objective.evaluate(theta, problem).loss
    assert len(set(full.tolist())) == 1
    everything = task("network", hidden=2, batch_size=None).objective(IDS)
    assert not everything.stochastic
    assert torch.equal(everything.evaluate(theta, problem, step).loss, full)
    other = task("network", hidden=2, seed=1).objective(IDS)
    assert not torch.equal(other.evaluate(theta, problem, step).loss, loss)
    assert torch.equal(other.evaluate(theta, problem).loss, full)


def test_mini_batches_have_the_mean_of_the_full_data():
    family = task("network", hidden=2)
    objective = family.objective(IDS)
    steps = torch.arange(800)
    losses = objective.evaluate(family.start(IDS[:1]).expand(800, -1), torch.zeros_like(steps), steps).loss.double()
    full = objective.evaluate(family.start(IDS[:1]), torch.zeros(1, dtype=torch.int64)).loss.double()
    assert float(losses.std()) > 1e-3
    assert abs(float(losses.mean() - full)) < 4 * float(losses.std()) / math.sqrt(800)


def test_no_image_is_in_two_splits():
    family = task("network", samples=599)
    seen = {split: family.objective(family.ids(split)[:20]).chosen for split in ("train", "valid", "test")}
    images = {split: set(chosen.flatten().tolist()) for split, chosen in seen.items()}
    assert [len(images[split]) for split in seen] == [599, 599, 599]
    assert len(set.union(*images.values())) == 3 * 599
    assert max(set.union(*images.values())) < 1797
    between = family.objective((999, 1100, 1999, 10**9)).chosen
    for chosen, split in zip(between, ("train", "valid", "valid", "test"), strict=True):
        assert set(chosen.tolist()) == images[split]


def test_each_problem_has_samples_of_its_own():
    chosen = task("network").objective(task("network").ids("test")[:30]).chosen
    assert chosen.shape == (30, 300)
    assert all(len(set(row.tolist())) == 300 for row in chosen)
    shared = [len(set(one.tolist()) & set(chosen[0].tolist())) for one in chosen[1:]]
    assert 120 < min(shared) <= max(shared) < 180  # of 300; by chance half


def test_starting_weights_follow_the_inputs_of_a_unit():
    family = task("network", hidden=16)
    start = family.start(family.ids("train")[:50], dtype=torch.float64)
    first, second = 64 * 16, 16 * 10
    w1, b1, w2, b2 = start.split([first, 16, second, 10], dim=1)
    assert not b1.any()
    assert not b2.any()
    assert float(w1.std()) == pytest.approx(1 / 8, rel=0.02)
    assert float(w2.std()) == pytest.approx(1 / 4, rel=0.05)
    assert torch.equal(family.start((7, 3), seed=5), torch.cat([family.start((i,), seed=5) for i in (7, 3)]))


def test_dimensions():
    assert task("network").dim == 610
    assert task("network", hidden=1).dim == 64 + 1 + 10 + 10


def test_a_network_can_be_trained_by_true_gradients():
    family = task("network")
    objective, row = family.objective((0,)), torch.zeros(1, dtype=torch.int64)
    theta = family.start((0,))
    first = objective.evaluate(theta, row).loss
    for _ in range(300):
        _, gradient = objective.gradient(theta, row)
        theta = theta - 0.5 * gradient
    assert float(first) == pytest.approx(math.log(10), abs=0.5)
    assert float(objective.evaluate(theta, row).loss) < 0.15


def test_calls_are_cut_by_what_a_point_becomes():
    large = task("network", hidden=100, samples=599, batch_size=None).objective((0,))
    small = task("network", hidden=100).objective((0,))
    assert large.width == 599 * (100 + 10)
    assert small.width == max(small.dim, 64 * (100 + 10))
    assert Oracle(large).chunk < Oracle(small).chunk


def one(**changed):
    settings = {
        "features": torch.zeros(4, 3),
        "labels": torch.tensor([0, 1, 1, 0]),
        "chosen": torch.tensor([[0, 1], [2, 3]]),
        "hidden": 2,
        "classes": 2,
    }
    return NetworkTraining(**(settings | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"features": torch.zeros(4)}, "features have shape (4,) and labels (4,); expected (M, k) and (M,)"),
        ({"features": torch.full((4, 3), math.nan)}, "features hold NaN or infinite values"),
        ({"chosen": torch.tensor([0, 1])}, "chosen has shape (2,); expected (P, n)"),
        ({"chosen": torch.tensor([[0, 4]])}, "chosen range over 0 .. 4; expected 0 .. 3"),
        ({"labels": torch.tensor([0, 1, 2, 0])}, "labels range over 0 .. 2; expected 0 .. 1"),
        ({"hidden": 0}, "hidden is 0; expected at least 1"),
        ({"batch_size": 3}, "batch_size is 3; expected 1 .. 2"),
        ({"ids": torch.arange(3)}, "ids have shape (3,); expected (2,)"),
    ],
)
def test_bad_input_is_one_line(changed, message):
    assert one().dim == 3 * 2 + 2 + 2 * 2 + 2
    with pytest.raises(InputError) as caught:
        one(**changed)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
