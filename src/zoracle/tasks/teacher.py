"""Training a small network on random data, to agree with another or to tell clusters apart: a family to train on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.keyed import START_STREAM, mix, normal
from zoracle.objectives.network import NetworkTraining, network_dim
from zoracle.tasks.synthetic import DrawnTask, check_at_least
from zoracle.types import Key


class TeacherTask(DrawnTask):
    """Training a network with one hidden layer of tanh units on classes that a random network of this kind gave.

    Inputs are N(m_j, s_j^2), with means and spreads that differ from one input to the next and from problem to
    problem, so that problems differ in how well they are conditioned. Points start at weights from
    N(0, 1 / inputs of the unit) and biases of 0, keyed by seed and id.

    With ``separation`` there is no teacher: each class is a cluster, and inputs are like pixels, correlated, between
    0 and 1, and some of them hardly ever other than 0 or 1. A sample is a linear image of r = max(2, k / 4) hidden
    numbers from N(c, I), where c is the centre of its class, from N(0, separation^2 I); noise of a tenth of its size
    and an offset from N(0, 1) for each input are added, 1 too, and the half of that is cut off at 0 and at 1. Such
    problems can be learned to a small loss.

    Args:
        inputs: k, numbers a sample.
        hidden: units of the hidden layer; d is (k + 1) hidden + (hidden + 1) classes.
        classes: at least 2.
        separation: standard deviation of the clusters' centres, where classes are clusters, each of standard
            deviation 1; None lets a teacher say them.
        samples: n, the samples of a problem.
        batch_size: samples that the points of one step see; None for all.
        seed: keys the mini-batches.

    Raises:
        InputError: a setting out of its range.
    """

    name = "teacher"

    def __init__(
        self,
        *,
        inputs: int = 30,
        hidden: int = 6,
        classes: int = 5,
        separation: float | None = None,
        samples: int = 300,
        batch_size: int | None = 64,
        seed: int = 0,
    ) -> None:
        for name, value, low in (
            ("inputs", inputs, 1),
            ("hidden", hidden, 1),
            ("classes", classes, 2),
            ("samples", samples, 1),
        ):
            check_at_least(name, value, low)
        if separation is not None and not separation > 0:
            raise InputError(f"separation is {separation}; expected a positive number, or None")
        super().__init__(dim=network_dim(inputs, hidden, classes))
        self.inputs = inputs
        self.hidden = hidden
        self.classes = classes
        self.separation = separation
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed

    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> NetworkTraining:
        """The problems with these ids, in this order.

        Raises:
            InputError: an id below 0, or a mini-batch of more than all samples.
        """
        p, n, k = len(ids), self.samples, self.inputs
        features, labels = self._taught(ids) if self.separation is None else self._clusters(ids, self.separation)
        return NetworkTraining(
            features.reshape(p * n, k).to(device, dtype),
            labels.reshape(p * n).to(device),
            torch.arange(p * n).view(p, n),
            hidden=self.hidden,
            classes=self.classes,
            ids=self._checked(ids),
            batch_size=self.batch_size,
            seed=mix(self.seed),
        )

    def _taught(self, ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Samples (P, n, k), and what the teacher says of them, (P, n)."""
        samples = self._draw(ids, 0, self.samples, self.inputs)
        mean, spread = 0.5 * self._draw(ids, 1, 1, self.inputs), torch.exp(0.7 * self._draw(ids, 2, 1, self.inputs))
        first = self._draw(ids, 3, self.inputs, self.hidden) * (2 / math.sqrt(self.inputs))
        second = self._draw(ids, 4, self.hidden, self.classes)
        # What the teacher reads is standardised, so that no class gets nearly all samples; the student's is not.
        labels = ((samples @ first).tanh() @ second).argmax(2)
        return (mean + samples) * (spread / spread.square().mean(2, keepdim=True).sqrt()), labels

    def _clusters(self, ids: tuple[int, ...], separation: float) -> tuple[Tensor, Tensor]:
        """Samples (P, n, k), and the clusters (P, n) that they are of."""
        own, rank = self._draw(ids, 0, self.samples, self.inputs), max(2, self.inputs // 4)
        labels = self._draw(ids, 3, self.samples, self.classes).argmax(2)
        centres = separation * self._draw(ids, 4, self.classes, rank)
        hidden = centres.gather(1, labels.unsqueeze(2).expand(-1, -1, rank)) + self._draw(ids, 5, self.samples, rank)
        image = hidden @ self._draw(ids, 6, rank, self.inputs) / math.sqrt(rank * (1 + separation**2))
        return (0.5 * (1 + self._draw(ids, 1, 1, self.inputs) + image + 0.1 * own)).clamp(0, 1), labels

    def start(
        self,
        ids: tuple[int, ...],
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Starting points (P, d), keyed by seed and id."""
        return start_of_network(self._checked(ids), self.inputs, self.hidden, self.classes, seed).to(device, dtype)


def start_of_network(ids: Tensor, inputs: int, hidden: int, classes: int, seed: int) -> Tensor:
    """Weights (P, d) float64 from N(0, 1 / inputs of the unit) and biases of 0."""
    first, second = inputs * hidden, hidden * classes
    draws = normal(Key.start(seed, ids), (first + second,), START_STREAM, torch.float64)
    zeros = draws.new_zeros(len(ids), hidden + classes)
    parts = (
        draws[:, :first] / math.sqrt(inputs),
        zeros[:, :hidden],
        draws[:, first:] / math.sqrt(hidden),
        zeros[:, hidden:],
    )
    return torch.cat(parts, dim=1)
