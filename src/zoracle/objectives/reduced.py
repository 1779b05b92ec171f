"""An attack in a smaller space: perturbations that are upsampled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoracle.objectives.attack import ImageAttack
from zoracle.types import Evaluation, Space
from zoracle.upsampling import Upsampling, parse


class Reduced(ImageAttack):
    r"""An attack whose points z are low-resolution perturbations: f(U z), with U constant on tiles, or bilinear.

    Pixel bounds and the ball apply to U z, pixel by pixel, inside the attack. For z itself, a coordinate may take every
    value that some pixel of its own may take: beyond that nothing changes. An l2 ball of radius r is one of radius
    r / \|U\| in z, where \|U\| is the root of a cell's size if all cells are alike; every z in it is feasible.

    Args:
        inner: the attack f.
        reduce: what U is, such as "tile:2" (cells of 2 by 2 pixels), "tile:14x14" (14 by 14 cells) or "bilinear:14".

    Raises:
        InputError: the setting is none of these, or does not fit the images.

    Source: Ilyas, Engstrom and Madry (2019) for tiles, their data prior; Tu et al. (2019), "AutoZOOM", for bilinear
    upsampling.
    """

    def __init__(self, inner: ImageAttack, reduce: str) -> None:
        self.inner = inner
        self.upsampling: Upsampling = parse(reduce, inner.shape)
        self.shape = inner.shape
        self.labels = inner.labels
        self.targets = inner.targets
        self.threat = inner.threat
        self.dim = self.upsampling.dim
        self.num_problems = inner.num_problems
        self.differentiable = inner.differentiable
        self.stochastic = inner.stochastic
        self.scale = inner.scale
        self.constrained = inner.constrained
        self.ends_at_success = inner.ends_at_success
        self.remote = inner.remote

    @property
    def width(self) -> int:
        """Numbers that a point becomes: the pixels of an image."""
        return self.inner.width

    def origin(self, problem: Tensor, like: Tensor) -> Tensor:
        """No perturbation: zeros (B, d)."""
        return like.new_zeros((problem.shape[0], self.dim))

    def adversarial(self, points: Tensor, problem: Tensor) -> Tensor:
        """The clipped images (N, C, H, W) of points (N, d)."""
        self.check(points, problem)
        return self.inner.adversarial(self.upsampling.up(points), problem)

    def own_part(self, points: Tensor, problem: Tensor) -> Tensor | None:
        """The distance of the attack itself."""
        return self.inner.own_part(self.upsampling.up(points), problem)

    def distances(self, points: Tensor, problem: Tensor) -> dict[str, Tensor]:
        """Norms of the clipped image minus the original, as of the attack itself."""
        self.check(points, problem)
        return self.inner.distances(self.upsampling.up(points), problem)

    def predict(self, points: Tensor, problem: Tensor) -> Tensor:
        """Predicted classes (N,) of the clipped images; one query per point, for the caller to count."""
        self.check(points, problem)
        return self.inner.predict(self.upsampling.up(points), problem)

    def project(self, points: Tensor, problem: Tensor) -> Tensor:
        """Points (N, d) in the box of :meth:`space`, shrunk until the perturbation's length is that of the ball."""
        if not self.constrained:
            return points
        pixels = self.inner.space(problem, points)
        low, high = self._hull(pixels)
        inside = torch.minimum(torch.maximum(points, low), high)
        moved = torch.minimum(torch.maximum(self.upsampling.up(inside), pixels.low), pixels.high)
        length = torch.linalg.vector_norm(moved, dim=1).clamp(min=torch.finfo(points.dtype).tiny)
        share: Tensor = (pixels.radius / length).clamp(max=1)
        return inside * share.unsqueeze(1)

    def space(self, problem: Tensor, like: Tensor) -> Space:
        """Where z may lie: (B, d) and (B,); a point is an image of the small size."""
        pixels = self.inner.space(problem, like)
        low, high = self._hull(pixels)
        shape = torch.tensor([self.upsampling.low_shape]).repeat(problem.shape[0], 1)
        return Space(low, high, pixels.radius / self.upsampling.norm, shape)

    def _hull(self, pixels: Space) -> tuple[Tensor, Tensor]:
        return self.upsampling.lowest(pixels.low), -self.upsampling.lowest(-pixels.high)

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        return self.inner.evaluate(self.upsampling.up(points), problem, step, checked=True)

    def _evaluate_cells(self, points: Tensor, problem: Tensor, step: Tensor | None, cells: Sequence[int]) -> Evaluation:
        return self.inner.evaluate(self.upsampling.up(points), problem, step, checked=True, cells=cells)

    def _gradient(self, points: Tensor, problem: Tensor, step: Tensor | None) -> tuple[Tensor, Tensor]:
        loss, gradient = self.inner.gradient(self.upsampling.up(points), problem, step, checked=True)
        return loss, self.upsampling.transpose(gradient)
