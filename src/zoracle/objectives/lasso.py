"""The penalties of a weighted Lasso, chosen by cross-validation: a problem with few directions that matter."""

from __future__ import annotations

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.objectives.base import Bounds, Objective
from zoracle.objectives.rowwise import groups
from zoracle.types import Evaluation


class LassoPenalties(Objective):
    r"""P regressions whose d penalties are searched for, by the error on the samples that a fit did not see.

    A point t in [-1, 1]^d stands for the penalties

    .. math:: \lambda_j = \lambda_{max}\, 10^{s (t_j - 1) / 2},

    where the largest is the one at which an unweighted Lasso has no coefficient left, and s is how many decades they
    span. For each of K folds the coefficients

    .. math:: \hat w = \arg\min_w \frac1{2n} \|y - X w\|^2 + \sum_j \lambda_j |w_j|

    are fitted to the other folds by a fixed number of steps from zero, which come close to the minimum where penalties
    are not tiny and stop early where they are. f is the mean squared error of their predictions over that of the mean
    of y, averaged over folds. Points outside [-1, 1] count as the nearest inside.

    Args:
        features: X, (P, n, d).
        responses: y, (P, n).
        folds: K, between 2 and n; sample i is in fold i mod K.
        decades: s.
        iterations: of the accelerated proximal gradient method (FISTA) that fits.

    Raises:
        InputError: shapes that disagree, or a number out of range.

    Source: Sehic, Gramfort, Salmon and Nardi, "LassoBench", 2022; Beck and Teboulle (2009) for the method.
    """

    bounds = Bounds(-1.0, 1.0)

    def __init__(
        self, features: Tensor, responses: Tensor, *, folds: int = 5, decades: float = 4.0, iterations: int = 100
    ) -> None:
        if features.ndim != 3 or responses.shape != features.shape[:2] or features.numel() == 0:
            raise InputError(
                f"features have shape {tuple(features.shape)} and responses {tuple(responses.shape)}; "
                "expected (P, n, d) and (P, n)"
            )
        self.num_problems, n, self.dim = features.shape
        if not 2 <= folds <= n:
            raise InputError(f"folds is {folds}; expected 2 .. {n}, the number of samples")
        if iterations < 1:
            raise InputError(f"iterations is {iterations}; expected at least 1")
        self.decades, self.iterations, self.folds = decades, iterations, folds
        fold = torch.arange(n, device=features.device) % folds
        seen = (fold != torch.arange(folds, device=features.device).unsqueeze(1)).to(features)
        # Rows of zeros in the place of samples that are left out keep folds of unequal sizes in one tensor.
        self._x = features.unsqueeze(1) * seen[None, :, :, None]
        self._y = responses.unsqueeze(1) * seen
        self._out = 1 - seen
        self.features, self.responses = features, responses
        self._count = seen.sum(1)
        self._rate = 0.99 * self._count / torch.linalg.matrix_norm(self._x, ord=2).square()
        self._largest = torch.einsum("pnd,pn->pd", features, responses).abs().amax(1) / n

    @property
    def width(self) -> int:
        """Numbers that a point becomes: coefficients and residuals of each fold."""
        return self.folds * (self.dim + self.features.shape[1])

    def penalties(self, points: Tensor, problem: Tensor) -> Tensor:
        """The penalties (N, d) that points stand for."""
        return self._largest[problem].to(points).unsqueeze(1) * 10 ** (self.decades * (points.clamp(-1, 1) - 1) / 2)

    def coefficients(self, points: Tensor, problem: int) -> Tensor:
        """The coefficients (K, N, d) of each fold for points (N, d) of one problem."""
        x, y = self._x[problem].to(points), self._y[problem].to(points).unsqueeze(1)
        rate = self._rate[problem].to(points)[:, None, None]
        scale = rate / self._count.to(points)[:, None, None]
        threshold = rate * self.penalties(points, torch.full((len(points),), problem))
        w = points.new_zeros(self.folds, len(points), self.dim)
        ahead, momentum = w, 1.0
        for _ in range(self.iterations):
            residual = ahead @ x.mT - y
            stepped = ahead - scale * (residual @ x)
            new = stepped.sign() * (stepped.abs() - threshold).clamp(min=0)
            larger = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = new + (momentum - 1) / larger * (new - w)
            w, momentum = new, larger
        return w

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        losses = [points.new_empty(0)]
        for rows, p, _ in groups(problem, None):
            some = points[rows]
            alone = len(some) == 1  # a product of one row may round differently
            w = self.coefficients(some.repeat(2, 1) if alone else some, p)[:, : len(some)]
            y, out = self.responses[p].to(points), self._out.to(points)
            mean = (self._y[p].to(points).sum(1) / self._count.to(points)).unsqueeze(1)
            usual = ((y - mean).square() * out).sum(1)
            error = (w @ self.features[p].to(points).T - y).square() * out.unsqueeze(1)
            losses.append((error.sum(2) / usual.unsqueeze(1)).mean(0))
        return Evaluation(torch.cat(losses))
