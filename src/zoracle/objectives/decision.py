"""The attack on a classifier that tells labels only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoracle.blackboxes.base import BlackBox
from zoracle.errors import InputError
from zoracle.objectives.attack import Attack
from zoracle.objectives.threat import ThreatModel
from zoracle.types import Evaluation, Space

#: By how much a norm may exceed the radius: rounding in float32.
_SLACK = 1e-6


class DecisionAttack(Attack):
    r"""Find the nearest image that a classifier gives another label, by its labels alone.

    With x' = clip(x + delta, 0, 1) and D the norm of the longest change that there is,

    .. math:: f(\delta) = \|x' - x\| + 2 D \; [x' \text{ keeps its label}]

    (or is not of its target class, where one is given), so that every image beyond the decision boundary has a lower
    value, at most D, than every image before it, at least 2 D. Points may lie outside the ball of the threat model,
    since boundaries are approached from there: a point succeeds where the label is another one and the norm is at most
    eps.

    Args:
        black_box: images (N, \*shape) to labels (N, 1), or to scores, of which the highest counts.
        images, labels, threat, targets, checked: as of :class:`Attack`.

    Raises:
        InputError: as :class:`Attack`, or a confidence is asked for, which needs scores.
    """

    def __init__(
        self,
        black_box: BlackBox,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        *,
        targets: Tensor | None = None,
        checked: bool = False,
    ) -> None:
        if threat.confidence:
            raise InputError(f"confidence is {threat.confidence:g}, but labels have no confidence; expected 0")
        super().__init__(black_box, images, labels, threat, targets=targets, outputs="labels", checked=checked)
        self.differentiable = self.constrained = False
        self.farthest = {"l1": float(self.dim), "l2": math.sqrt(self.dim), "linf": 1.0}[threat.norm]
        self.rounding = ThreatModel(bits=threat.bits)  # points may lie outside the ball, and so may their pictures

    def project(self, points: Tensor, problem: Tensor) -> Tensor:
        """The points themselves."""
        return points

    def own_part(self, points: Tensor, problem: Tensor) -> None:
        """None: what is left of the loss without the distance is a step."""
        return

    def space(self, problem: Tensor, like: Tensor) -> Space:
        """The pixel range of each coordinate, (B, d); no ball."""
        whole = super().space(problem, like)
        x = self._x[problem.to(self._x.device)].to(like)
        return whole._replace(low=-x, high=1 - x, radius=torch.full_like(whole.radius, torch.inf))

    @torch.no_grad()
    def predict(self, points: Tensor, problem: Tensor) -> Tensor:
        """Labels (N,) of the clipped images; one query per point, for the caller to count."""
        self.check(points, problem)
        _, adversarial = self._pair(points, problem)
        return self._labels(adversarial, (points.shape[0],)).long()

    def _evaluate_cells(self, points: Tensor, problem: Tensor, step: Tensor | None, cells: Sequence[int]) -> Evaluation:
        x, adversarial = self._pair(points, problem)
        told = self._labels(adversarial, cells)
        wanted = (self.labels if self.targets is None else self.targets).to(told.device)[problem.to(told.device)]
        beyond = told != wanted if self.targets is None else told == wanted
        order = {"l1": 1.0, "l2": 2.0, "linf": math.inf}[self.threat.norm]
        distance = torch.linalg.vector_norm(adversarial - x, order, dim=1)
        loss = torch.where(beyond, distance, distance + 2 * self.farthest)
        near = distance <= (math.inf if self.threat.eps is None else self.threat.eps + _SLACK)
        return Evaluation(torch.where(told.isnan(), torch.nan, loss), beyond & near & ~told.isnan())

    def _labels(self, adversarial: Tensor, cells: Sequence[int]) -> Tensor:
        """The class (N,) of each image, as a floating-point number; NaN where the answer is."""
        told = self._outputs(adversarial, cells)
        if told.shape[1] == 1:
            return told[:, 0]
        return told.argmax(1).to(told).masked_fill(told.isnan().any(1), torch.nan)

    def _within(self, x: Tensor, points: Tensor, *, clipped: bool = False) -> Tensor:
        return points
