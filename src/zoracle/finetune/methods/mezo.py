"""MeZO: stochastic gradient descent on central differences, in place (Malladi et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from zoracle.finetune.methods.base import Directions, MethodConfig, Pairs, ProbeLosses, rate
from zoracle.finetune.tensors import Slot


class MeZOConfig(MethodConfig, frozen=True, kw_only=True):
    """Settings of MeZO.

    Attributes:
        num_directions: central pairs per step.
    """

    num_directions: Directions = 1


class MeZO(Pairs):
    r"""w \leftarrow w - \frac{\eta}{q} \sum_j \frac{f(w + \mu z_j) - f(w - \mu z_j)}{2 \mu} z_j.

    Source: Malladi et al. (2023), "Fine-Tuning Language Models with Just Forward Passes", algorithms 1 and 2, with
    signs for Gaussian directions.
    """

    Config = MeZOConfig
    summary = "gradient descent on central differences (Malladi et al., 2023)"

    def scales(self, slot: Slot, probed: ProbeLosses) -> Sequence[float] | None:
        """The step size times the numbers of the estimate."""
        return self.shares(slot, probed, rate(slot))
