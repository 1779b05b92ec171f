"""Attacks on networks that are drawn at random: a family to train on, in any dimension, that needs no data."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from zoracle.blackboxes.torch_module import TorchModule
from zoracle.errors import InputError
from zoracle.keyed import normal
from zoracle.objectives.threat import ThreatModel
from zoracle.tasks.image_attack import AttackTask, ImageData
from zoracle.tasks.synthetic import PROBLEM_SEED, SPLIT_IDS, check_at_least
from zoracle.types import Key

_CLASSES = 10


class RandomNetwork(nn.Module):
    """A network of dense layers with given weights, images (N, 1, side, side) in [0, 1] to logits (N, classes).

    Args:
        layers: weights (out, in) of each layer; leaky rectifiers lie between them.
    """

    def __init__(self, layers: list[Tensor]) -> None:
        super().__init__()
        self.layers = nn.ParameterList(nn.Parameter(layer, requires_grad=False) for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        first, *rest = self.layers
        x = (x.flatten(1) - 0.5) @ first.T
        for layer in rest:
            x = nn.functional.leaky_relu(x, 0.2) @ layer.T
        return x


class RandomNetworkAttack(AttackTask):
    r"""Attacks on images of noise, each by its own contrast, that a network of random weights reads.

    Pixels differ in how much they matter, by factors exp(N(0, 1)), as those of real images do. An image's label is
    what the network says of it, so each begins unbroken; the gap that it begins with, and how far it is to the next
    class, vary from image to image. Ids: train 0 .. 999, valid 1000 .. 1099, test 2000 .. 2099.

    Args:
        side: pixels of a side, d = side^2.
        hidden: units of each hidden layer.
        depth: hidden layers; more make the losses rougher.
        gain: about the standard deviation of the logits, positive.
        seed: keys the network.
        threat: what perturbations are allowed; None asks for small ones in l1.
        start_std: standard deviation of the starting points; None uses 1e-4, and 0 within a ball.
        reduce: search among coarse perturbations only, as in :class:`AttackTask`.

    Raises:
        InputError: a setting out of its range.
    """

    name = "random-network"
    class_names = tuple("0123456789")
    white = 1

    def __init__(
        self,
        *,
        side: int = 16,
        hidden: int = 64,
        depth: int = 1,
        gain: float = 6.0,
        seed: int = 0,
        threat: ThreatModel | None = None,
        start_std: float | None = None,
        reduce: str | None = None,
    ) -> None:
        for name, value in (("side", side), ("hidden", hidden), ("depth", depth)):
            check_at_least(name, value, 1)
        if not 0 < gain < math.inf:
            raise InputError(f"gain is {gain}; expected a positive number")
        self.shape = (1, side, side)
        super().__init__(threat=threat, start_std=start_std, reduce=reduce)
        self.hidden = hidden
        self.depth = depth
        self.gain = gain
        self.seed = seed

    def ids(self, split: str) -> tuple[int, ...]:
        """The ids of a split, in a fixed order.

        Raises:
            InputError: the split is unknown.
        """
        self.check_split(split)
        return SPLIT_IDS[split]

    def _load(self) -> ImageData:
        ids = [i for split in SPLIT_IDS.values() for i in split]
        key = Key.start(PROBLEM_SEED, torch.tensor(ids))
        contrast = 0.2 * torch.exp(0.5 * normal(key, (1,), 1, torch.float64))
        images = (0.5 + contrast * normal(key, (math.prod(self.shape),), 0, torch.float64)).clamp(0, 1)
        images = images.view(-1, *self.shape)
        labels = RandomNetwork(self._weights(torch.float64))(images).argmax(1)
        return ImageData(images, labels, ids)

    def _black_box(self, dtype: torch.dtype, device: torch.device | str) -> TorchModule:
        return TorchModule(RandomNetwork(self._weights(dtype)).to(device))

    def _weights(self, dtype: torch.dtype) -> list[Tensor]:
        """Weights of each layer; the last one's scale makes logits of the size of the gain."""
        d = math.prod(self.shape)
        sizes = [d, *[self.hidden] * self.depth, _CLASSES]
        key = Key.start(self.seed, torch.tensor([0]))
        layers = []
        for stream, (width, out) in enumerate(itertools.pairwise(sizes), start=1):
            layers.append(normal(key, (out, width), stream, torch.float64)[0] / math.sqrt(width))
        matter = torch.exp(normal(key, (d,), 0, torch.float64)[0])
        layers[0] = layers[0] * (matter / matter.square().mean().sqrt())
        # Pixels are 0.2 off the middle, and a leaky rectifier of slope 0.2 keeps (1 + 0.2^2) / 2 of the mean square.
        layers[-1] = layers[-1] * (self.gain / (0.2 * math.sqrt(0.52) ** self.depth))
        return [layer.to(dtype) for layer in layers]
