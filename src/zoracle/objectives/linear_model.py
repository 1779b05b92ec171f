"""Fitting a model of one linear combination to data, by the values of its loss."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.keyed import permutation
from zoracle.objectives.base import Objective
from zoracle.objectives.rowwise import groups, matvec
from zoracle.types import Evaluation


class LinearModel(Objective):
    r"""P problems of fitting w, each with its own data: f(w) = (1 / n) \sum_i loss(w^T x_i, y_i).

    With a batch size the sum runs over a sample of that many i, drawn without replacement and keyed by (seed, id,
    step): all points of one step see the same sample, alone or in a batch. Without a step it is the full data.

    Args:
        features: x, (P, n, d).
        labels: y, (P, n).
        ids: (P,) integers, the stable ids that samples are keyed by; None uses the rows.
        batch_size: size of the sample; None for the full data always.
        seed: keys the samples.

    Raises:
        InputError: shapes that disagree, numbers that are not finite, or a batch size out of range.
    """

    differentiable = True

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        ids: Tensor | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        if features.ndim != 3 or labels.shape != features.shape[:2] or features.numel() == 0:
            raise InputError(
                f"features have shape {tuple(features.shape)} and labels {tuple(labels.shape)}; "
                "expected (P, n, d) and (P, n)"
            )
        for name, numbers in (("features", features), ("labels", labels)):
            if not bool(numbers.isfinite().all()):
                raise InputError(f"{name} hold NaN or infinite values; expected numbers")
        self.num_problems, self.samples, self.dim = features.shape
        if batch_size is not None and not 1 <= batch_size <= self.samples:
            raise InputError(f"batch_size is {batch_size}; expected 1 .. {self.samples}, the number of samples")
        if ids is not None and ids.shape != (self.num_problems,):
            raise InputError(f"ids have shape {tuple(ids.shape)}; expected ({self.num_problems},)")
        self.features = features
        self.labels = labels.to(features)
        self.ids = list(range(self.num_problems)) if ids is None else ids.tolist()
        self.batch_size = batch_size
        self.seed = seed
        self.stochastic = batch_size is not None and batch_size < self.samples

    @abstractmethod
    def _losses(self, combined: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample (N, n), for w^T x (N, n) and labels (n,)."""

    @abstractmethod
    def _slopes(self, combined: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each sample (N, n), and its derivative by w^T x."""

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        losses = [self._losses(matvec(x, points[rows]), y).mean(1) for rows, x, y in self._parts(points, problem, step)]
        return Evaluation(torch.cat(losses) if losses else points.new_empty(0))

    def _gradient(self, points: Tensor, problem: Tensor, step: Tensor | None) -> tuple[Tensor, Tensor]:
        losses, gradients = [points.new_empty(0)], [points.new_empty(0, self.dim)]
        for rows, x, y in self._parts(points, problem, step):
            loss, slope = self._slopes(matvec(x, points[rows].detach()), y)
            losses.append(loss.mean(1))
            gradients.append(matvec(x.T, slope) / x.shape[0])
        return torch.cat(losses), torch.cat(gradients)

    def _parts(self, points: Tensor, problem: Tensor, step: Tensor | None) -> list[tuple[slice, Tensor, Tensor]]:
        """Rows that share their data, with the features (b, d) and labels (b,) that they see."""
        parts = []
        for rows, p, s in groups(problem, step if self.stochastic else None):
            x, y = self.features[p], self.labels[p]
            if s is not None:
                sample = torch.from_numpy(permutation(self.samples, self.seed, self.ids[p], s)[: self.batch_size])
                x, y = x[sample.to(x.device)], y[sample.to(y.device)]
            parts.append((rows, x.to(points), y.to(points)))
        return parts
