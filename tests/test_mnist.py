"""The paper's task with real data: slow, and only where ZORACLE_DATA is set."""

from __future__ import annotations

import os

import pytest
import torch

from zoracle.checkpoint import resolve
from zoracle.evaluation.evaluate import evaluate
from zoracle.evaluation.metrics import summarise
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.registry import make
from zoracle.tasks import task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("ZORACLE_DATA" not in os.environ, reason="needs the paper's target network: set ZORACLE_DATA"),
]


def optimizer(name: str) -> Optimizer:
    return make("zo-sgd", lr=8 / 784) if name == "zo-sgd" else resolve(name, "mnist").optimizer


@pytest.mark.parametrize("name", ["zo-sgd", "zo-lstm"])
def test_float32_with_its_default_mu_ends_where_float64_does(name: str) -> None:
    mnist = task("mnist")
    ids = mnist.ids("valid")[:20]
    final = {
        dtype: summarise(evaluate(optimizer(name), mnist, ids, steps=200, dtype=dtype)).final_loss.mean
        for dtype in (torch.float32, torch.float64)
    }
    assert final[torch.float32] == pytest.approx(final[torch.float64], rel=0.01)


def test_the_shipped_optimizer_beats_the_published_one_on_validation_images() -> None:
    mnist = task("mnist")
    found = summarise(evaluate(optimizer("zo-lstm"), mnist, mnist.ids("valid")[:20], steps=200))
    assert found.ratio.mean < 0.139
    assert found.success_ever == 1.0
