"""Stochastic binary classification on random data, the paper's second experiment."""

from __future__ import annotations

import torch

from zoracle.keyed import mix
from zoracle.objectives.binary_classification import BinaryClassification
from zoracle.tasks.synthetic import SyntheticTask, check_at_least


class BinaryClassificationTask(SyntheticTask):
    """Random data with a linear rule behind it: x ~ N(0, I), y = [w*^T x > 0] with w* ~ N(0, I), some labels flipped.

    Args:
        dim: dimension d.
        samples: n, the samples of a problem.
        batch_size: samples that the points of one step see; None for all.
        flipped: the share of labels that contradict the rule, in [0, 0.5].
        start_std: standard deviation of the starting points.
        seed: keys the samples of the mini-batches.

    Raises:
        InputError: a setting out of its range.
    """

    name = "binary-classification"

    def __init__(
        self,
        *,
        dim: int = 100,
        samples: int = 500,
        batch_size: int | None = 64,
        flipped: float = 0.05,
        start_std: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(dim=dim, start_std=start_std)
        check_at_least("samples", samples, 1)
        check_at_least("flipped", flipped, 0)
        check_at_least("0.5 - flipped", 0.5 - flipped, 0)
        self.samples = samples
        self.batch_size = batch_size
        self.flipped = flipped
        self.seed = seed

    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> BinaryClassification:
        """The problems with these ids, in this order.

        Raises:
            InputError: an id below 0.
        """
        x = self._draw(ids, 0, self.samples, self.dim)
        rule = self._draw(ids, 1, self.dim, 1)
        labels = (x @ rule).squeeze(2) > 0
        labels ^= self._flips(ids)
        return BinaryClassification(
            x.to(device, dtype),
            labels.to(device, dtype),
            ids=torch.tensor(ids),
            batch_size=self.batch_size,
            seed=mix(self.seed),
        )

    def _flips(self, ids: tuple[int, ...]) -> torch.Tensor:
        """Which labels (P, n) are flipped: the same number in every problem, at keyed places."""
        order = self._draw(ids, 2, self.samples).argsort(1)
        return order < round(self.flipped * self.samples)
