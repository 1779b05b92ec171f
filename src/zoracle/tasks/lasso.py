"""Penalties of weighted Lasso regressions on data drawn at random."""

from __future__ import annotations

import torch

from zoracle.errors import InputError
from zoracle.keyed import integers, signs
from zoracle.objectives.lasso import LassoPenalties
from zoracle.tasks.synthetic import SyntheticTask, check_at_least


class LassoTask(SyntheticTask):
    r"""Choosing d penalties of a Lasso by cross-validation, where one coefficient in twenty is not zero.

    Features are normal with correlations rho^|i - j|; y is X w plus normal noise, with w in {-1, 0, 1}. Points start
    around the middle of the range, keyed by seed and id. Coordinates lie in [-1, 1].

    Args:
        dim: features and penalties d.
        samples: n; None uses d / 2, as LassoBench does, at least 10.
        active: coefficients that are not zero; None uses d / 20, at least 3 or d.
        correlation: rho, in [0, 1).
        signal: variance of X w over that of the noise.
        start_std: standard deviation of the starting points.

    Raises:
        InputError: a setting out of its range.

    Source: Sehic, Gramfort, Salmon and Nardi, "LassoBench", 2022, whose synthetic data these follow.
    """

    name = "lasso"

    def __init__(
        self,
        *,
        dim: int = 100,
        samples: int | None = None,
        active: int | None = None,
        correlation: float = 0.6,
        signal: float = 10.0,
        start_std: float = 0.1,
    ) -> None:
        super().__init__(dim=dim, start_std=start_std)
        self.samples = max(10, dim // 2) if samples is None else samples
        self.active = min(dim, max(3, dim // 20)) if active is None else active
        check_at_least("samples", self.samples, 5)
        if not 1 <= self.active <= dim:
            raise InputError(f"active is {active}; expected 1 .. {dim}")
        if not 0 <= correlation < 1:
            raise InputError(f"correlation is {correlation}; expected a number in [0, 1)")
        if not 0 < signal < float("inf"):
            raise InputError(f"signal is {signal}; expected a positive number")
        self.correlation = correlation
        self.signal = signal

    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> LassoPenalties:
        """The problems with these ids, in this order.

        Raises:
            InputError: an id below 0.
        """
        x = self._draw(ids, 0, self.samples, self.dim)
        rho = self.correlation
        for j in range(1, self.dim):
            x[..., j] = rho * x[..., j - 1] + (1 - rho**2) ** 0.5 * x[..., j]
        # The `active` smallest of d draws: as many different features, each set as likely as any other.
        chosen = integers(self._key(ids), 2**31, self.dim, 2).argsort(1)[:, : self.active]
        sign = signs(self._key(ids), self.active, 3, torch.float64)
        w = torch.zeros(len(ids), self.dim, dtype=torch.float64).scatter(1, chosen, sign)
        clean = (x @ w.unsqueeze(2)).squeeze(2)
        noise = self._draw(ids, 1, self.samples)
        spread = clean.var(1, keepdim=True) / noise.var(1, keepdim=True) / self.signal
        return LassoPenalties(x.to(device, dtype), (clean + spread.sqrt() * noise).to(device, dtype))
