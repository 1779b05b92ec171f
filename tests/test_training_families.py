"""The families that exist to be trained on: robust regression, and attacks on networks of random weights."""

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
