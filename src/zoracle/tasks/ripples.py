"""Bowls with ripples, drawn at random: a family to train on."""

from __future__ import annotations

import math

import torch

from zoracle.errors import InputError
from zoracle.keyed import integers
from zoracle.objectives.ripples import Ripples
from zoracle.tasks.synthetic import SyntheticTask


class RipplesTask(SyntheticTask):
    """Bowls with ripples of many directions and lengths: a method that only sees slopes ends in the first hollow.

    Ripples run along one coordinate or two, with wavelengths drawn around a length of the problem's own, exp(U) with U
    uniform between the logarithms of ``shortest`` and ``longest``; their height is drawn likewise between a hundredth
    and ``height`` times what the bowl rises in one unit. Curvatures of the bowl differ by factors of up to
    ``condition``. About half of the bowls are cones far from the optimum.

    Args:
        dim: dimension d, at least 2.
        shortest: shortest typical wavelength.
        longest: longest typical wavelength.
        height: greatest height of ripples.
        condition: greatest ratio of two curvatures.
        start_std: standard deviation of the starting points; optima are drawn from N(0, I).

    Raises:
        InputError: a setting out of its range.
    """

    name = "ripples"

    def __init__(
        self,
        *,
        dim: int = 100,
        shortest: float = 0.1,
        longest: float = 2.0,
        height: float = 1.0,
        condition: float = 10.0,
        start_std: float = 0.1,
    ) -> None:
        super().__init__(dim=dim, start_std=start_std)
        if dim < 2:
            raise InputError(f"dim is {dim}; expected at least 2")
        if not 0 < shortest <= longest < math.inf:
            raise InputError(f"wavelengths are {shortest} .. {longest}; expected positive numbers, the shorter first")
        if not 0.01 <= height < math.inf:
            raise InputError(f"height is {height}; expected a number of at least 0.01")
        if not 1 <= condition < math.inf:
            raise InputError(f"condition is {condition}; expected a number of at least 1")
        self.wavelengths = (shortest, longest)
        self.height = height
        self.condition = condition

    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Ripples:
        """The problems with these ids, in this order.

        Raises:
            InputError: an id below 0.
        """
        d, k = self.dim, 2 * self.dim
        share = self._share(ids, 4, 3)
        shortest, longest = self.wavelengths
        length = (math.log(shortest) + share[:, 0] * math.log(longest / shortest)).exp()
        height = (math.log(0.01) + share[:, 1] * math.log(self.height / 0.01)).exp()
        taper = torch.where(share[:, 2] < 0.5, 1e-3, 3.0)
        curvatures = self.condition ** -self._share(ids, 1, d)
        spread = torch.exp(0.3 * self._draw(ids, 2, k, 1))
        angle = torch.where(self._share(ids, 5, k) < 0.5, 0.0, 2 * math.pi * self._share(ids, 6, k))
        along = torch.stack((angle.cos(), angle.sin()), dim=2)
        frequencies = 2 * math.pi / (length[:, None, None] * spread) * along
        first = torch.arange(k).expand(len(ids), k) % d
        second = (first + 1 + integers(self._key(ids), d - 1, k, 7)) % d
        return Ripples(
            curvatures.to(device, dtype),
            self._draw(ids, 0, d).to(device, dtype),
            height.to(device, dtype),
            torch.stack((first, second), dim=2).to(device),
            frequencies.to(device, dtype),
            taper.to(device, dtype),
        )

    def _share(self, ids: tuple[int, ...], stream: int, n: int) -> torch.Tensor:
        """Uniform draws from (0, 1), (P, n) float64."""
        parts = 2**31
        return (integers(self._key(ids), parts, n, stream).double() + 0.5) / parts
