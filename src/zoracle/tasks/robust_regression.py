"""Robust linear regression on random data, with mini-batches: a family to train on."""

from __future__ import annotations

import math

import torch

from zoracle.errors import InputError
from zoracle.keyed import mix
from zoracle.objectives.robust_regression import RobustRegression
from zoracle.tasks.synthetic import SyntheticTask, check_at_least


class RobustRegressionTask(SyntheticTask):
    """Random data with a linear rule behind it, y = w*^T x, some of whose y are replaced by noise of twice their size.

    x ~ N(0, signal^2 / d I) and w* ~ N(0, I), so that y is of the size of ``signal`` in any dimension.

    Args:
        dim: dimension d.
        samples: n, the samples of a problem.
        batch_size: samples that the points of one step see; None for all.
        signal: standard deviation of y. Far above 1 a search begins on a plateau.
        outliers: the share of y that are replaced, in [0, 0.5].
        start_std: standard deviation of the starting points.
        seed: keys the samples of the mini-batches.

    Raises:
        InputError: a setting out of its range.
    """

    name = "robust-regression"

    def __init__(
        self,
        *,
        dim: int = 100,
        samples: int = 500,
        batch_size: int | None = 64,
        signal: float = 2.0,
        outliers: float = 0.1,
        start_std: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(dim=dim, start_std=start_std)
        check_at_least("samples", samples, 1)
        if not 0 < signal < float("inf"):
            raise InputError(f"signal is {signal}; expected a positive number")
        if not 0 <= outliers <= 0.5:
            raise InputError(f"outliers is {outliers}; expected a share in [0, 0.5]")
        self.samples = samples
        self.batch_size = batch_size
        self.signal = signal
        self.outliers = outliers
        self.seed = seed

    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> RobustRegression:
        """The problems with these ids, in this order.

        Raises:
            InputError: an id below 0.
        """
        x = self._draw(ids, 0, self.samples, self.dim) * (self.signal / math.sqrt(self.dim))
        y = (x @ self._draw(ids, 1, self.dim, 1)).squeeze(2)
        replaced = self._draw(ids, 2, self.samples).argsort(1) < round(self.outliers * self.samples)
        y = torch.where(replaced, 2 * self.signal * self._draw(ids, 3, self.samples), y)
        return RobustRegression(
            x.to(device, dtype),
            y.to(device, dtype),
            ids=torch.tensor(ids),
            batch_size=self.batch_size,
            seed=mix(self.seed),
        )
