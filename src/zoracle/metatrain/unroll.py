"""What a training keeps of an unroll while it goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from zoracle.metatrain.families import Beginning
from zoracle.metatrain.loss import MetaLoss
from zoracle.metatrain.oracle import TrainingOracle
from zoracle.optimizers.base import Optimizer

_SMALLEST = 1e-12  # a ratio below it counts as it


class Run:
    """One family's unroll as it goes on."""

    def __init__(
        self,
        optimizer: Optimizer[Any, Any],
        oracle: TrainingOracle,
        loss: MetaLoss,
        state: Any,
        rows: Tensor,
        start: Beginning,
        initial: Tensor,
    ) -> None:
        self.optimizer = optimizer
        self.oracle = oracle
        self.loss = loss
        self.state = state
        self.rows = rows
        self.start = start
        self.initial = initial
        self.previous: Tensor | None = None


def geometric_mean(numbers: Sequence[float], weights: Sequence[float]) -> float:
    """Of positive numbers, weighted; of one, that number to the bit."""
    if len(numbers) == 1:
        return numbers[0]
    logs = (weight * math.log(max(number, _SMALLEST)) for number, weight in zip(numbers, weights, strict=True))
    return math.exp(sum(logs) / sum(weights))
