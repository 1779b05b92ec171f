"""Training a small neural network by the values of its loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.keyed import permutation
from zoracle.objectives.base import Objective
from zoracle.objectives.rowwise import groups
from zoracle.types import Evaluation


class _Layers(NamedTuple):
    """The weights of N networks."""

    w1: Tensor
    """(N, k, hidden)."""
    b1: Tensor
    """(N, 1, hidden)."""
    w2: Tensor
    """(N, hidden, classes)."""
    b2: Tensor
    """(N, 1, classes)."""


class _Part(NamedTuple):
    """Rows that share their data, and the samples (b, k) and labels (b,) that they see."""

    rows: slice
    x: Tensor
    y: Tensor


class NetworkTraining(Objective):
    r"""P problems of fitting a network with one hidden layer to samples of its own, by the mean cross-entropy.

    .. math:: f(\theta) = -\frac1n \sum_i \log \operatorname{softmax}
        \big(W_2^T \tanh(W_1^T x_i + b_1) + b_2\big)_{y_i}

    A point is :math:`W_1, b_1, W_2, b_2` in this order, each matrix row by row. With a batch size the sum runs over a
    sample of that many i, drawn without replacement and keyed by (seed, id, step): all points of one step see the same
    sample, alone or in a batch. Without a step it is the full data.

    Args:
        features: x, (M, k), the samples that all problems choose from.
        labels: y, (M,) integers 0 .. classes - 1.
        chosen: (P, n) int64, the samples of each problem.
        hidden: units of the hidden layer.
        classes: number of classes.
        ids: (P,) integers, the stable ids that mini-batches are keyed by; None uses the rows.
        batch_size: size of a mini-batch; None for the full data always.
        seed: keys the mini-batches.

    Raises:
        InputError: shapes that disagree, values that cannot be, or a batch size out of range.
    """

    differentiable = True

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        chosen: Tensor,
        *,
        hidden: int,
        classes: int,
        ids: Tensor | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        if features.ndim != 2 or labels.shape != features.shape[:1] or features.numel() == 0:
            raise InputError(
                f"features have shape {tuple(features.shape)} and labels {tuple(labels.shape)}; "
                "expected (M, k) and (M,)"
            )
        if not bool(features.isfinite().all()):
            raise InputError("features hold NaN or infinite values; expected numbers")
        if chosen.ndim != 2 or chosen.numel() == 0:
            raise InputError(f"chosen has shape {tuple(chosen.shape)}; expected (P, n)")
        for name, values, below in (("labels", labels, classes), ("chosen", chosen, features.shape[0])):
            if int(values.min()) < 0 or int(values.max()) >= below:
                raise InputError(
                    f"{name} range over {int(values.min())} .. {int(values.max())}; expected 0 .. {below - 1}"
                )
        if hidden < 1:
            raise InputError(f"hidden is {hidden}; expected at least 1")
        self.num_problems, self.samples = chosen.shape
        if batch_size is not None and not 1 <= batch_size <= self.samples:
            raise InputError(f"batch_size is {batch_size}; expected 1 .. {self.samples}, the number of samples")
        if ids is not None and ids.shape != (self.num_problems,):
            raise InputError(f"ids have shape {tuple(ids.shape)}; expected ({self.num_problems},)")
        self.features = features
        self.labels = labels.to(features.device, torch.int64)
        self.chosen = chosen.to(features.device)
        self.hidden = hidden
        self.classes = classes
        self.ids = list(range(self.num_problems)) if ids is None else ids.tolist()
        self.batch_size = batch_size
        self.seed = seed
        self.stochastic = batch_size is not None and batch_size < self.samples
        self.dim = network_dim(features.shape[1], hidden, classes)

    @property
    def width(self) -> int:
        """Numbers that a point becomes: its activations on the samples of one step."""
        seen = self.samples if self.batch_size is None else self.batch_size
        return max(self.dim, seen * (self.hidden + self.classes))

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        losses = [points.new_empty(0)]
        for rows, x, y in self._parts(points, problem, step):
            some, count = _two_at_least(points[rows])
            _, logits = self._forward(self._layers(some), x)
            losses.append(_cross_entropy(logits.log_softmax(2), y)[:count])
        return Evaluation(torch.cat(losses))

    def _gradient(self, points: Tensor, problem: Tensor, step: Tensor | None) -> tuple[Tensor, Tensor]:
        losses, gradients = [points.new_empty(0)], [points.new_empty(0, self.dim)]
        for rows, x, y in self._parts(points, problem, step):
            some, count = _two_at_least(points[rows].detach())
            layers = self._layers(some)
            activations, logits = self._forward(layers, x)
            logs = logits.log_softmax(2)
            losses.append(_cross_entropy(logs, y)[:count])
            # Each line is the derivative by what the forward pass computed last.
            d_logits = (logs.exp() - torch.nn.functional.one_hot(y, self.classes)) / x.shape[0]
            d_hidden = torch.bmm(d_logits, layers.w2.mT) * (1 - activations.square())
            parts = _Layers(
                torch.bmm(x.T.expand(len(some), *x.T.shape), d_hidden),
                d_hidden.sum(1),
                torch.bmm(activations.mT, d_logits),
                d_logits.sum(1),
            )
            gradients.append(torch.cat([part.flatten(1) for part in parts], dim=1)[:count])
        return torch.cat(losses), torch.cat(gradients)

    def _forward(self, layers: _Layers, x: Tensor) -> tuple[Tensor, Tensor]:
        """Activations (N, b, hidden) and logits (N, b, classes), each network's by products of its own."""
        activations = (torch.bmm(x.expand(len(layers.w1), *x.shape), layers.w1) + layers.b1).tanh()
        return activations, torch.bmm(activations, layers.w2) + layers.b2

    def _layers(self, points: Tensor) -> _Layers:
        k, h, c = self.features.shape[1], self.hidden, self.classes
        w1, b1, w2, b2 = torch.split(points, [k * h, h, h * c, c], dim=1)
        return _Layers(w1.reshape(-1, k, h), b1.unsqueeze(1), w2.reshape(-1, h, c), b2.unsqueeze(1))

    def _parts(self, points: Tensor, problem: Tensor, step: Tensor | None) -> list[_Part]:
        parts = []
        for rows, p, s in groups(problem, step if self.stochastic else None):
            seen = self.chosen[p]
            if s is not None:
                sample = torch.from_numpy(permutation(self.samples, self.seed, self.ids[p], s)[: self.batch_size])
                seen = seen[sample.to(seen.device)]
            parts.append(_Part(rows, self.features[seen].to(points), self.labels[seen].to(points.device)))
        return parts


def network_dim(inputs: int, hidden: int, classes: int) -> int:
    """How many weights a network with one hidden layer has, biases included."""
    return (inputs + 1) * hidden + (hidden + 1) * classes


def _cross_entropy(logs: Tensor, labels: Tensor) -> Tensor:
    """The mean over samples of the negative log-probabilities (N, b, classes) of their labels (b,), (N,)."""
    own = labels.view(1, -1, 1).expand(logs.shape[0], -1, 1)
    return -logs.gather(2, own).squeeze(2).mean(1)


def _two_at_least(points: Tensor) -> tuple[Tensor, int]:
    """Points, one alone twice, and how many of them count.

    A batched product computes each network's by itself, with the same sums in the same order however many there are.
    One alone would go to another routine, which may round differently.
    """
    count = points.shape[0]
    return (points.repeat(2, 1) if count == 1 else points), count
