"""RayS against the algorithm as published, written down plainly; labels of a model are all that it sees."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import zoracle
from variants import begin
from zoracle.blackboxes import PythonFunction, TorchModule
from zoracle.errors import BlackBoxError, InputError
from zoracle.objectives.decision import DecisionAttack
from zoracle.objectives.threat import ThreatModel
from zoracle.optimizers.registry import make
from zoracle.rollout import rollout
from zoracle.rollout.oracle import Oracle

D, CLASSES = 24, 4


class Labels:
    """The labels of a small network of two layers, and every point that it was queried."""

    def __init__(self):
        rng = np.random.default_rng(5)
        self.first, self.second = rng.normal(size=(D, 16)), rng.normal(size=(16, CLASSES))
        self.seen = []

    def __call__(self, x):
        flat = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
        self.seen.extend(flat)
        return self.scores(flat).argmax(1)

    def scores(self, flat):
        return np.tanh((flat - 0.5) @ self.first) @ self.second


def images(number=3):
    x = np.random.default_rng(8).uniform(0.2, 0.8, (number, 2, 3, 4))
    return x, Labels().scores(x.reshape(number, -1)).argmax(1)


def published(model, x, label, queries, tolerance=1e-3):
    """Algorithms 2 and 3 of Chen and Gu (2020), as in their public code, in float64; the points queried."""
    asked = []

    def crosses(ray, length):
        if len(asked) == queries:
            raise StopIteration
        point = np.clip(x + ray / np.linalg.norm(ray) * length, 0, 1)
        asked.append(point)
        return model.scores(point[None]).argmax(1)[0] != label

    best, signs = math.inf, np.ones(D)
    level = block = 0
    reach = np.maximum(x, 1 - x).max()  # where their code begins at 1, which clips to the same image
    try:
        while True:
            size = math.ceil(D / 2**level)
            first, last = block * size, min(D, (block + 1) * size)
            ray = signs.copy()
            ray[first:last] *= -1
            low, high = 0.0, min(best, reach * math.sqrt(D))
            if crosses(ray, high):
                while high - low > tolerance:
                    middle = (low + high) / 2
                    if crosses(ray, middle):
                        high = middle
                    else:
                        low = middle
                if high < best:
                    best, signs = high, ray
            block += 1
            if last == D:
                level, block = level + 1, 0
            if level > math.ceil(math.log2(D)):
                level = 0
    except StopIteration:
        return np.array(asked), best


@pytest.mark.parametrize("queries", [1, 30, 700])
def test_it_asks_what_the_published_algorithm_asks(queries):
    x, labels = images()
    model = Labels()
    box = PythonFunction(model, framework="numpy", outputs="labels")
    objective = DecisionAttack(box, torch.tensor(x), torch.tensor(labels), ThreatModel(norm="linf", eps=1e-4))
    rays, oracle = make("rays"), Oracle(objective)
    state, _ = rollout(rays, oracle, begin(rays, objective, torch.zeros(3, D).double()), queries + 1)
    asked = np.array(model.seen).reshape(-1, 3, D)
    for row in range(3):
        expected, best = published(model, x[row].ravel(), labels[row], queries)
        assert np.array_equal(asked[0, row], x[row].ravel()), "the start first"
        assert np.allclose(asked[1 : queries + 1, row], expected, atol=1e-12)
        if math.isfinite(best) and queries == 700:
            assert float(state.radius[row]) * math.sqrt(D) == pytest.approx(best, rel=1e-9)
    assert (oracle.counts["optimise"] == queries + 1).all()


def test_what_lies_beyond_the_boundary_is_lower_than_all_before_it():
    x, labels = images()
    for norm, eps in (("linf", 0.2), ("l2", 0.5), ("l1", None)):
        box = PythonFunction(Labels(), framework="numpy", outputs="labels")
        threat = ThreatModel(norm=norm, eps=eps)
        objective = DecisionAttack(box, torch.tensor(x), torch.tensor(labels), threat)
        points = 2 * torch.rand(200, D, generator=torch.Generator().manual_seed(1)).double() - 1
        rows = torch.arange(200) % 3
        found = objective.evaluate(points, rows)
        beyond = torch.tensor(Labels()(objective.adversarial(points, rows))) != torch.tensor(labels)[rows]
        distance = objective.distances(points, rows)[norm]
        assert 0 < beyond.sum() < 200
        assert torch.allclose(found.loss[beyond], distance[beyond])
        assert float(found.loss[beyond].max()) <= objective.farthest
        assert float(found.loss[~beyond].min()) >= 2 * objective.farthest
        assert torch.equal(found.success, beyond & (distance <= (eps or math.inf) + 1e-6))
        assert torch.equal(objective.predict(points, rows) != torch.tensor(labels)[rows], beyond)


@pytest.mark.parametrize("kind", ["labels", "column", "names", "scores", "module", "targeted"])
def test_attacks_by_labels_alone_from_python(kind):
    x, labels = images()
    model = Labels()
    answers = {
        "column": lambda x: model(x)[:, None],
        "scores": lambda x: model.scores(np.asarray(x).reshape(len(x), -1)),
        "names": lambda x: np.array(["ant", "bee", "cat", "dog"])[model(x)],
    }
    target = answers.get(kind, model)
    if kind == "names":
        target = PythonFunction(target, framework="numpy", outputs="labels", class_names=["ant", "bee", "cat", "dog"])
    if kind == "module":

        class Net(torch.nn.Module):
            def forward(self, x):
                return torch.tensor(model(x.numpy()))

        target = TorchModule(Net(), outputs="labels")
    targets = (labels + 1) % CLASSES if kind == "targeted" else None
    found = zoracle.attack(
        target, x, labels, targets=targets, norm="linf", eps=0.25, budget=600, optimizer="rays", outputs="labels"
    )
    assert found.success.any()
    adversarial = np.asarray(found.adversarial)
    read = Labels()(adversarial)
    wanted = read == targets if kind == "targeted" else read != labels
    assert wanted[np.asarray(found.success)].all()
    assert (np.abs(adversarial - x).reshape(3, -1).max(1)[np.asarray(found.success)] <= 0.25 + 1e-6).all()


def test_what_labels_cannot_tell_is_refused():
    x, labels = images()
    with pytest.raises(BlackBoxError, match=r'labels only are not enough.*outputs="labels" \(--labels-only\)'):
        zoracle.attack(Labels(), x, labels, norm="linf", eps=0.1, budget=100, optimizer="square")
    with pytest.raises(InputError, match="confidence is 1, but labels have no confidence"):
        zoracle.attack(
            Labels(), x, labels, norm="linf", eps=0.1, budget=100, optimizer="rays", outputs="labels", confidence=1.0
        )
