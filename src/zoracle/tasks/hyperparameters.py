"""Choosing how a small network is trained on the digits that ship with the package."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.keyed import permutation
from zoracle.objectives.hyperparameters import TrainingSettings
from zoracle.tasks.base import SPLITS
from zoracle.tasks.digits import DigitsAttack, read_digits
from zoracle.tasks.synthetic import PROBLEM_SEED, SyntheticTask, check_at_least

_PIXELS = math.prod(DigitsAttack.shape)
_CLASSES = len(DigitsAttack.class_names)


class HyperparametersTask(SyntheticTask):
    """Learning rates, momenta, weight decays and first scales of each layer, by the validation loss.

    The network reads 8x8 digits. A keyed permutation cuts the 1,797 images into three parts of 599, one for each split;
    a problem draws its training and validation images and its first weights from its own, keyed by its id. Points start
    around the middle of every range, which is [-1, 1].

    Args:
        layers: layers of weights, at least 1; d = 4 layers + 1.
        hidden: units of each hidden layer.
        samples: training images of a problem.
        validation: validation images of a problem.
        steps: of gradient descent.
        start_std: standard deviation of the starting points.

    Raises:
        InputError: a setting out of its range.
    """

    name = "hyperparameters"

    def __init__(
        self,
        *,
        layers: int = 3,
        hidden: int = 16,
        samples: int = 100,
        validation: int = 200,
        steps: int = 60,
        start_std: float = 0.3,
    ) -> None:
        for name, value in (("layers", layers), ("hidden", hidden), ("samples", samples), ("validation", validation)):
            check_at_least(name, value, 1)
        check_at_least("steps", steps, 1)
        super().__init__(dim=4 * layers + 1, start_std=start_std)
        images, labels = read_digits()
        self._features = images.flatten(1).double() / DigitsAttack.white
        self._labels = labels
        self._part = len(labels) // len(SPLITS)
        if samples + validation > self._part:
            raise InputError(
                f"samples and validation are {samples} and {validation}; expected at most {self._part} together, "
                "the images of a split"
            )
        self.layers = layers
        self.hidden = hidden
        self.samples = samples
        self.validation = validation
        self.steps = steps

    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> TrainingSettings:
        """The problems with these ids, in this order.

        Raises:
            InputError: an id below 0.
        """
        self._checked(ids)
        chosen = torch.stack([self._chosen(i) for i in ids]).to(device)
        sizes = [_PIXELS, *[self.hidden] * (self.layers - 1), _CLASSES]
        weights = [
            (self._draw(ids, i, after, before) / math.sqrt(before)).to(device, dtype)
            for i, (before, after) in enumerate(pairwise(sizes))
        ]
        return TrainingSettings(
            self._features.to(device, dtype),
            self._labels.to(device),
            chosen[:, : self.samples],
            chosen[:, self.samples :],
            weights=weights,
            steps=self.steps,
        )

    def _chosen(self, problem: int) -> Tensor:
        """The images of a problem, (n + v,) indices into all of them."""
        split = min(problem // 1000, 2)
        images = permutation(len(self._labels), PROBLEM_SEED)[split * self._part : (split + 1) * self._part]
        drawn = permutation(self._part, PROBLEM_SEED, problem, 1)[: self.samples + self.validation]
        return torch.from_numpy(images[drawn])
