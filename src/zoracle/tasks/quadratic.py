"""Random quadratics."""

from __future__ import annotations

import torch

from zoracle.keyed import mix
from zoracle.objectives.quadratic import Quadratic
from zoracle.tasks.synthetic import SyntheticTask, check_at_least


class QuadraticTask(SyntheticTask):
    """Quadratics with curvatures spread evenly in their logarithm over [1 / condition, 1], in a random order.

    The optimum is drawn from N(0, I), its value is 0, and points start at N(0, I).

    Args:
        dim: dimension d.
        condition: the largest curvature over the smallest, at least 1.
        rotated: whether eigenvectors are drawn too (d x d numbers per problem) or are the axes.
        start_std: standard deviation of the starting points.
        noise: by how much each step sees the optimum displaced, in each coordinate; see :class:`Quadratic`.
        seed: keys that noise.

    Raises:
        InputError: a setting out of its range.
    """

    name = "quadratic"

    def __init__(
        self,
        *,
        dim: int = 100,
        condition: float = 100.0,
        rotated: bool = False,
        start_std: float = 1.0,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(dim=dim, start_std=start_std)
        check_at_least("condition", condition, 1)
        check_at_least("noise", noise, 0)
        self.condition = condition
        self.rotated = rotated
        self.noise = noise
        self.seed = seed

    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Quadratic:
        """The quadratics with these ids, in this order.

        Raises:
            InputError: an id below 0.
        """
        order = self._draw(ids, 0, self.dim).argsort(1)
        curvatures = self.condition ** -torch.linspace(0, 1, self.dim, dtype=torch.float64)
        rotation = torch.linalg.qr(self._draw(ids, 2, self.dim, self.dim)).Q if self.rotated else None
        return Quadratic(
            curvatures[order].to(device, dtype),
            self._draw(ids, 1, self.dim).to(device, dtype),
            rotation=None if rotation is None else rotation.to(device, dtype),
            noise=self.noise,
            ids=torch.tensor(ids),
            seed=mix(self.seed),
        )
