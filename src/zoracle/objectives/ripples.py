"""Bowls with ripples of random directions and lengths: many local minima, and one place that all of them lead to."""

from __future__ import annotations

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.objectives.base import Objective
from zoracle.objectives.rowwise import groups
from zoracle.types import Evaluation


class Ripples(Objective):
    r"""P rippled bowls whose minimum, 0, is known.

    .. math:: f(x) = b(\tfrac1d \sum_j a_j y_j^2) + \frac{h}{K} \sum_k \big(1 - \cos(\omega_k y_{j_k} + \nu_k y_{l_k})
        \big), \qquad y = x - x^*, \quad b(s) = (\sqrt{1 + 2 t s} - 1) / t

    Each ripple runs along two coordinates; the bowl b is a parabola where t s is small and a cone where it is large.

    Args:
        curvatures: a, (P, d), at least 0.
        optimum: x*, (P, d).
        height: h, (P,), at least 0.
        pairs: j and l, (P, K, 2) int64.
        frequencies: omega and nu, (P, K, 2), radians per unit of x.
        taper: t, (P,), positive.

    Raises:
        InputError: shapes that disagree, or numbers out of range.

    References:
        Rastrigin (1974), and Ackley (1987), are the case of one frequency along each coordinate.
    """

    differentiable = True

    def __init__(
        self, curvatures: Tensor, optimum: Tensor, height: Tensor, pairs: Tensor, frequencies: Tensor, taper: Tensor
    ) -> None:
        if curvatures.ndim != 2 or curvatures.numel() == 0 or optimum.shape != curvatures.shape:
            raise InputError(
                f"curvatures have shape {tuple(curvatures.shape)} and the optimum {tuple(optimum.shape)}; "
                "expected (P, d) for both"
            )
        self.num_problems, self.dim = curvatures.shape
        p = self.num_problems
        if height.shape != (p,) or taper.shape != (p,):
            raise InputError(
                f"height and taper have shapes {tuple(height.shape)}, {tuple(taper.shape)}; expected ({p},)"
            )
        if pairs.ndim != 3 or pairs.shape != frequencies.shape or pairs.shape[0] != p or pairs.shape[2] != 2:
            raise InputError(
                f"pairs and frequencies have shapes {tuple(pairs.shape)}, {tuple(frequencies.shape)}; expected "
                f"({p}, K, 2) for both"
            )
        if pairs.numel() and not 0 <= int(pairs.min()) <= int(pairs.max()) < self.dim:
            raise InputError(f"pairs range over {int(pairs.min())} .. {int(pairs.max())}; expected coordinates")
        if not bool((curvatures >= 0).all() & (height >= 0).all() & (taper > 0).all()):
            raise InputError("expected curvatures and heights of at least 0, and a positive taper")
        self.curvatures = curvatures
        self.optimum = optimum
        self.optimum_value = curvatures.new_zeros(p)
        self.height = height
        self.pairs = pairs
        self.frequencies = frequencies
        self.taper = taper

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        row = problem.to(self.curvatures.device)
        y = points - self.optimum[row].to(points)
        square = (self.curvatures[row].to(points) * y.square()).mean(1)
        taper = self.taper[row].to(points)
        # The root less one, written without a difference: or nothing but rounding would be left near the optimum.
        bowl = 2 * square / ((1 + 2 * taper * square).sqrt() + 1)
        waves = [points.new_empty(0)]
        for rows, p, _ in groups(problem, None):
            phases = (y[rows][:, self.pairs[p]] * self.frequencies[p].to(points)).sum(2)
            waves.append(self.height[p].to(points) * 2 * (0.5 * phases).sin().square().mean(1))
        return Evaluation(bowl + torch.cat(waves))
