"""Stochastic binary classification, the paper's second family of problems."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from zoracle.errors import InputError
from zoracle.objectives.linear_model import LinearModel
from zoracle.objectives.rowwise import sigmoid


class BinaryClassification(LinearModel):
    r"""P problems of fitting a logistic model by least squares, each with its own data.

    .. math:: f(w) = \frac1n \sum_i \big(y_i - \sigma(w^T x_i)\big)^2

    Args:
        features: x, (P, n, d).
        labels: y, (P, n), each 0 or 1.
        settings: ``ids``, ``batch_size`` and ``seed`` of :class:`LinearModel`.

    Raises:
        InputError: labels other than 0 and 1, or what :class:`LinearModel` refuses.

    References:
        Ruan et al., "Learning to Learn by Zeroth-Order Oracle", ICLR 2020.
    """

    def __init__(self, features: Tensor, labels: Tensor, **settings: Any) -> None:
        super().__init__(features, labels, **settings)
        if not bool(((labels == 0) | (labels == 1)).all()):
            raise InputError("labels contain values other than 0 and 1; expected only these two")

    def _losses(self, combined: Tensor, labels: Tensor) -> Tensor:
        return (labels - sigmoid(combined)).square()

    def _slopes(self, combined: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        p = sigmoid(combined)
        error = p - labels
        return error.square(), 2 * error * p * (1 - p)
