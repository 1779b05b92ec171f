"""Training a small network to agree with another one on random data: a family to train on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoracle.keyed import START_STREAM, mix, normal
from zoracle.objectives.network import NetworkTraining, network_dim
from zoracle.tasks.synthetic import DrawnTask, check_at_least
from zoracle.types import Key


class TeacherTask(DrawnTask):
    """Training a network with one hidden layer of tanh units on classes that a random network of this kind gave.

    Inputs are N(m_j, s_j^2), with means and spreads that differ from one input to the next and from problem to
    problem, so that problems differ in how well they are conditioned. Points start at weights from
    N(0, 1 / inputs of the unit) and biases of 0, keyed by seed and id.

    Args:
        inputs: k, numbers a sample.
        hidden: units of the hidden layer; d is (k + 1) hidden + (hidden + 1) classes.
        classes: at least 2.
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
        super().__init__(dim=network_dim(inputs, hidden, classes))
        self.inputs = inputs
        self.hidden = hidden
        self.classes = classes
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
        noise = self._draw(ids, 0, n, k)
        mean, spread = 0.5 * self._draw(ids, 1, 1, k), torch.exp(0.7 * self._draw(ids, 2, 1, k))
        first = self._draw(ids, 3, k, self.hidden) * (2 / math.sqrt(k))
        second = self._draw(ids, 4, self.hidden, self.classes)
        # What the teacher reads is standardised, so that no class gets nearly all samples; the student's is not.
        labels = ((noise @ first).tanh() @ second).argmax(2)
        features = (mean + noise) * (spread / spread.square().mean(2, keepdim=True).sqrt())
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
