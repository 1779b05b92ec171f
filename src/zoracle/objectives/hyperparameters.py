"""How a small network is trained, judged by its loss on samples that the training did not see."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.objectives.base import Bounds, Objective
from zoracle.objectives.rowwise import groups
from zoracle.types import Evaluation

#: What is searched for in each layer: its name, and the decades at -1 and 1.
_PER_LAYER = (("rate", -2.5, 0.5), ("1 - momentum", -2.0, 0.0), ("decay", -6.0, -1.0), ("scale", -1.0, 1.0))
_SMOOTHING = 0.2


class TrainingSettings(Objective):
    r"""P problems of choosing how a network is trained by gradient descent with momentum.

    Every layer has a learning rate, a momentum, a weight decay and a factor of its first weights, each on a
    logarithmic scale, and there is one label smoothing: d = 4 layers + 1 numbers in [-1, 1]; points outside count as
    the nearest inside. f is the cross-entropy on the validation samples after so many steps on all training samples,
    NaN where the training diverged.

    Args:
        features: (M, k), the samples that all problems choose from.
        labels: (M,) integers 0 .. classes - 1.
        training: (P, n) int64, the samples that a problem trains on.
        validation: (P, v) int64, those that it is judged by.
        weights: first weights of each layer, (P, out, in) each, before their factor; biases begin at 0.
        steps: of gradient descent.

    Raises:
        InputError: shapes that disagree, or a number out of range.
    """

    bounds = Bounds(-1.0, 1.0)

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        training: Tensor,
        validation: Tensor,
        *,
        weights: list[Tensor],
        steps: int = 60,
    ) -> None:
        if features.ndim != 2 or labels.shape != features.shape[:1] or features.numel() == 0:
            raise InputError(
                f"features have shape {tuple(features.shape)} and labels {tuple(labels.shape)}; "
                "expected (M, k) and (M,)"
            )
        if training.ndim != 2 or validation.ndim != 2 or training.shape[0] != validation.shape[0]:
            raise InputError(
                f"training has shape {tuple(training.shape)} and validation {tuple(validation.shape)}; "
                "expected (P, n) and (P, v)"
            )
        chain = [features.shape[1], *(weight.shape[1] for weight in weights)]
        wanted = [(len(training), after, before) for before, after in pairwise(chain)]
        if not weights or [tuple(weight.shape) for weight in weights] != wanted:
            raise InputError(
                f"weights have shapes {[tuple(weight.shape) for weight in weights]}; expected (P, out, in) in a chain"
            )
        if steps < 1:
            raise InputError(f"steps is {steps}; expected at least 1")
        self.features, self.labels = features, labels
        self.training, self.validation = training, validation
        self.weights, self.steps = weights, steps
        self.num_problems = training.shape[0]
        self.dim = len(_PER_LAYER) * len(weights) + 1

    @property
    def width(self) -> int:
        """Numbers that a point becomes: weights, and activations on all samples."""
        units = sum(weight.shape[1] for weight in self.weights)
        weights = sum(weight[0].numel() for weight in self.weights)
        return 3 * weights + 2 * units * max(self.training.shape[1], self.validation.shape[1])

    def settings(self, points: Tensor) -> tuple[list[dict[str, Tensor]], Tensor]:
        """What points (N, d) stand for: of each layer, by name, (N, 1, 1) each; and the label smoothing (N,)."""
        unit = (points.clamp(-1, 1) + 1) / 2
        layers = []
        for i in range(len(self.weights)):
            own = unit[:, len(_PER_LAYER) * i : len(_PER_LAYER) * (i + 1)].unbind(1)
            found = {
                name: (10 ** (low + (high - low) * value)).view(-1, 1, 1)
                for (name, low, high), value in zip(_PER_LAYER, own, strict=True)
            }
            layers.append(found)
        return layers, _SMOOTHING * unit[:, -1]

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        losses = [points.new_empty(0)]
        for rows, p, _ in groups(problem, None):
            some = points[rows].detach()
            count = len(some)
            some = some.repeat(2, 1) if count == 1 else some  # one alone goes to a product that may round differently
            weights = self._trained(some, p)
            x, y = self._samples(self.validation[p], some)
            logs = _forward(weights, x)[-1].log_softmax(2)
            losses.append(-logs.gather(2, y.view(1, -1, 1).expand(len(some), -1, 1)).mean((1, 2))[:count])
        return Evaluation(torch.cat(losses))

    def _samples(self, chosen: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features[chosen].to(like)
        return x.expand(len(like), *x.shape), self.labels[chosen].to(like.device)

    def _trained(self, points: Tensor, p: int) -> list[Tensor]:
        """The weights (N, out, in + 1) of each layer after training; the last column is the bias."""
        layers, smoothing = self.settings(points)
        weights = []
        for given, layer in zip(self.weights, layers, strict=True):
            first = given[p].to(points) * layer["scale"]
            weights.append(torch.cat((first, first.new_zeros(*first.shape[:2], 1)), 2))
        velocity = [torch.zeros_like(weight) for weight in weights]
        x, y = self._samples(self.training[p], points)
        classes = self.weights[-1].shape[1]
        hot = torch.nn.functional.one_hot(y, classes).to(points)
        wanted = hot + smoothing.view(-1, 1, 1) * (1 / classes - hot)
        for _ in range(self.steps):
            gradients = _gradients(weights, x, wanted)
            for i, (gradient, layer) in enumerate(zip(gradients, layers, strict=True)):
                slope = gradient + layer["decay"] * weights[i]
                velocity[i] = (1 - layer["1 - momentum"]) * velocity[i] - layer["rate"] * slope
                weights[i] = weights[i] + velocity[i]
        return weights


def _forward(weights: list[Tensor], x: Tensor) -> list[Tensor]:
    """What each layer is given, (N, n, in) each, and the logits (N, n, classes)."""
    found = [x]
    for i, weight in enumerate(weights):
        out = torch.bmm(found[-1], weight[..., :-1].mT) + weight[..., -1].unsqueeze(1)
        found.append(out.tanh() if i < len(weights) - 1 else out)
    return found


def _gradients(weights: list[Tensor], x: Tensor, wanted: Tensor) -> list[Tensor]:
    """Derivatives of the mean cross-entropy by the weights."""
    found = _forward(weights, x)
    back = (found[-1].softmax(2) - wanted) / x.shape[1]
    gradients: list[Tensor] = []
    for i in reversed(range(len(weights))):
        gradients.insert(0, torch.cat((torch.bmm(back.mT, found[i]), back.sum(1).unsqueeze(2)), 2))
        if i:
            back = torch.bmm(back, weights[i][..., :-1]) * (1 - found[i].square())
    return gradients
