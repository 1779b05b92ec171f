"""The families that exist to be trained on: robust regression, attacks on random networks, ripples, teachers."""

from __future__ import annotations

import math

import pytest
import torch

from zoracle.tasks import task

IDS = (2000, 1000, 7)


@pytest.mark.parametrize("dim", [20, 300])
def test_robust_regression_has_its_rule_its_outliers_and_its_plateau(dim):
    family = task("robust-regression", dim=dim, samples=400, batch_size=None, signal=3.0, outliers=0.2)
    objective = family.objective(IDS, dtype=torch.float64)
    assert objective.labels.std().item() == pytest.approx(3 * math.sqrt(0.8 + 0.2 * 4), rel=0.1)
    if dim < 100:
        rule = torch.linalg.lstsq(objective.features, objective.labels.unsqueeze(2)).solution.squeeze(2)
        # Outliers spoil least squares; what is left after them is nearly the rule, which the loss is low at.
        near = rule
        for _ in range(60):
            left = (objective.labels - (objective.features @ near.unsqueeze(2)).squeeze(2)).square()
            weight = (1 / (1 + left)).unsqueeze(2)
            near = torch.linalg.lstsq(
                objective.features * weight, objective.labels.unsqueeze(2) * weight
            ).solution.squeeze(2)
        loss = objective.evaluate(near, torch.arange(3)).loss
        assert (loss > 0.12).all()
        assert (loss < 0.2).all()  # the outliers' share
    far = objective.evaluate(family.start(IDS, dtype=torch.float64) + 1e6, torch.arange(3)).loss
    assert (far > 0.99).all()
    assert (far <= 1).all()


@pytest.mark.parametrize("settings", [{}, {"side": 8, "depth": 3}, {"side": 30, "depth": 2, "gain": 20.0}], ids=str)
def test_a_random_network_reads_its_images_and_its_logits_have_the_size_asked_for(settings):
    family = task("random-network", **settings)
    ids = family.ids("train")[:400]
    picked = family.pick(ids)
    objective = family.objective(ids, dtype=torch.float64)
    rows, none = torch.arange(400), torch.zeros(400, family.dim, dtype=torch.float64)
    found = objective.evaluate(none, rows)
    assert not found.success.any()
    assert (found.loss > 0).all()
    assert objective.black_box(picked.images).std().item() == pytest.approx(settings.get("gain", 6.0), rel=0.45)
    assert len(set(picked.labels.tolist())) > 3
    # One image differs from the next in how hard it is.
    assert found.loss.std() > 0.3 * found.loss.mean()


def test_a_random_network_is_keyed_by_its_seed_and_an_image_by_its_id():
    one, same, other = (task("random-network", side=8, seed=seed) for seed in (0, 0, 1))
    x = one.pick(IDS).images
    assert torch.equal(x, same.pick(IDS).images)
    answers = [family.objective(IDS, dtype=torch.float64).black_box(x) for family in (one, same, other)]
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
    assert torch.equal(one.pick((7,)).images[0], x[2])


def test_true_gradients_break_a_random_network_at_a_small_distance():
    family = task("random-network", side=16, depth=3)
    ids = family.ids("valid")[:20]
    objective = family.objective(ids, dtype=torch.float64)
    rows, x = torch.arange(20), family.start(ids, dtype=torch.float64)
    first, _ = objective.gradient(x, rows)
    for t in range(100):
        _, gradient = objective.gradient(x, rows)
        x = x - 0.02 * (1 - t / 100) * gradient / gradient.norm(dim=1, keepdim=True) * 4
    found = objective.evaluate(x, rows)
    assert (found.loss < 0.35 * first).double().mean() > 0.8


def test_ripples_are_a_bowl_with_hollows_of_the_height_and_length_asked_for():
    family = task("ripples", dim=40, shortest=0.2, longest=0.3, height=0.5)
    ids = family.ids("valid")[:60]
    objective = family.objective(ids, dtype=torch.float64)
    rows = torch.arange(60)
    assert not objective.evaluate(objective.optimum, rows).loss.any()
    assert not objective.gradient(objective.optimum, rows)[1].any()
    away = torch.randn(60, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (objective.evaluate(objective.optimum + away, rows).loss > 0).all()
    assert (objective.height >= 0.01).all()
    assert (objective.height <= 0.5).all()
    assert objective.height.max() / objective.height.min() > 10
    frequencies = objective.frequencies.norm(dim=2)
    assert (2 * math.pi / frequencies).log().mean().exp().item() == pytest.approx(0.245, rel=0.1)
    both = (objective.frequencies.abs() > 1e-9).all(2).double().mean().item()
    assert both == pytest.approx(0.5, abs=0.05)  # half of the ripples run along two coordinates
    assert (objective.pairs[..., 0] != objective.pairs[..., 1]).all()
    # A short way along a coordinate, slopes change their sign more often than those of a bowl can.
    line = objective.optimum[:1] + torch.linspace(-1, 1, 400, dtype=torch.float64).unsqueeze(1) * torch.eye(40)[0]
    values = objective.evaluate(line, rows[objective.height.argmax()].expand(400)).loss
    assert (values.diff().sign().diff() != 0).sum() > 4


def test_the_bowl_under_ripples_is_a_parabola_near_by_and_may_be_a_cone_far_away():
    family = task("ripples", dim=30, height=0.01)
    ids = family.ids("train")[:40]
    objective = family.objective(ids, dtype=torch.float64)
    rows, unit = torch.arange(40), torch.ones(40, 30, dtype=torch.float64)
    near, far = (
        objective.evaluate(objective.optimum + 2 * r * unit, rows).loss.div(
            objective.evaluate(objective.optimum + r * unit, rows).loss
        )
        for r in (1e-4, 1e3)
    )
    torch.testing.assert_close(near, torch.full_like(near, 4.0), rtol=1e-3, atol=0)
    cones = (objective.taper > 1) & (far < 2.1)
    assert 10 < cones.sum() < 30
    assert ((objective.taper > 1) == cones).all()


@pytest.mark.parametrize("settings", [{}, {"inputs": 8, "hidden": 3, "classes": 3, "batch_size": None}], ids=str)
def test_a_students_loss_can_be_made_small_and_no_class_has_it_all(settings):
    family = task("teacher", **settings)
    ids = family.ids("valid")[:5]
    objective = family.objective(ids, dtype=torch.float64)
    rows, x = torch.arange(5), family.start(ids, dtype=torch.float64)
    assert objective.dim == family.dim == x.shape[1]
    labels = objective.labels[objective.chosen]
    for one in labels:
        assert one.bincount().max() < 0.8 * one.numel()
    assert not torch.equal(labels[0], labels[1])
    begun = objective.evaluate(x, rows).loss
    moment, square = torch.zeros_like(x), torch.zeros_like(x)
    for t in range(1, 301):
        _, gradient = objective.gradient(x, rows)
        moment, square = torch.lerp(gradient, moment, 0.9), torch.lerp(gradient.square(), square, 0.99)
        x = x - 0.05 * (moment / (1 - 0.9**t)) / ((square / (1 - 0.99**t)).sqrt() + 1e-9)
    assert (objective.evaluate(x, rows).loss < 0.5 * begun).all()
    one = family.objective(ids[1:2], dtype=torch.float64)
    torch.testing.assert_close(one.evaluate(x[1:2], rows[:1]).loss, objective.evaluate(x, rows).loss[1:2])
