"""Peak memory in ``reproduce finetune``."""

from __future__ import annotations

import pytest

from zoracle.experiments.finetuning.memory import peak
from zoracle.experiments.finetuning.tasks import Sizes


@pytest.mark.slow
def test_a_method_takes_the_memory_of_inference_and_backpropagation_more():
    sizes = Sizes(128, 4, 0, 0, 0, 0)
    inference, mezo, gradients = (peak("encoder", sizes, method) for method in ("zero-shot", "mezo", "adam, gradients"))
    weights = 0.8e6 * 4 / 2**20
    assert weights < inference < 6 * weights
    assert mezo < inference + 0.5 * weights
    assert gradients > 2 * inference
