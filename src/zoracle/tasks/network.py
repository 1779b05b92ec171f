"""Training a small network on the digits that ship with the package."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.keyed import mix, permutation
from zoracle.objectives.network import NetworkTraining, network_dim
from zoracle.tasks.base import SPLITS
from zoracle.tasks.digits import DigitsAttack, read_digits
from zoracle.tasks.synthetic import PROBLEM_SEED, DrawnTask, check_at_least
from zoracle.tasks.teacher import start_of_network

_PIXELS = math.prod(DigitsAttack.shape)
_CLASSES = len(DigitsAttack.class_names)


class NetworkTask(DrawnTask):
    """Training a network with one hidden layer of tanh units to read 8x8 digits, by the values of its loss.

    The weights are what is searched for. A keyed permutation cuts the 1,797 images into three parts of 599, one for
    each split: no image is in problems of two splits. Ids below 1000 are of train, from 2000 on of test, those between
    of valid. Each problem has samples of its own, drawn from the images of its split; two of one split share about
    half of theirs.

    Points start at weights from N(0, 1 / inputs of the unit) and biases of 0, keyed by seed and id. Coordinates are
    the weights themselves, with pixels in [0, 1], so that a weight is of the order of 1.

    Args:
        hidden: units of the hidden layer; d is 75 hidden + 10.
        samples: images of a problem, up to 599.
        batch_size: images that the points of one step see; None for all.
        seed: keys the mini-batches.

    Raises:
        InputError: a setting out of its range.
    """

    name = "network"

    def __init__(self, *, hidden: int = 8, samples: int = 300, batch_size: int | None = 64, seed: int = 0) -> None:
        check_at_least("hidden", hidden, 1)
        super().__init__(dim=network_dim(_PIXELS, hidden, _CLASSES))
        images, labels = read_digits()
        self._features = images.flatten(1).double() / DigitsAttack.white
        self._labels = labels
        self._part = len(labels) // len(SPLITS)
        if not 1 <= samples <= self._part:
            raise InputError(f"samples is {samples}; expected 1 .. {self._part}, the images of a split")
        self.hidden = hidden
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed

    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> NetworkTraining:
        """The problems with these ids, in this order.

        Raises:
            InputError: an id below 0.
        """
        checked = self._checked(ids)
        return NetworkTraining(
            self._features.to(device, dtype),
            self._labels.to(device),
            torch.stack([self._chosen(i) for i in ids]),
            hidden=self.hidden,
            classes=_CLASSES,
            ids=checked,
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
        return start_of_network(self._checked(ids), _PIXELS, self.hidden, _CLASSES, seed).to(device, dtype)

    def _chosen(self, problem: int) -> Tensor:
        """The images of a problem, (n,) indices into all of them."""
        split = min(problem // 1000, 2)
        images = permutation(len(self._labels), PROBLEM_SEED)[split * self._part : (split + 1) * self._part]
        return torch.from_numpy(images[permutation(self._part, PROBLEM_SEED, problem)[: self.samples]])
