"""Linear regression that bounds what a single sample can cost."""

from __future__ import annotations

from torch import Tensor

from zoracle.objectives.linear_model import LinearModel


class RobustRegression(LinearModel):
    r"""P problems of fitting a linear model by the loss of Geman and McClure, each with its own data.

    .. math:: f(w) = \frac1n \sum_i \frac{r_i^2}{1 + r_i^2}, \qquad r_i = y_i - w^T x_i

    Far from its minimum it is flat, as everything is that saturates; it is not convex.

    Args and errors are those of :class:`LinearModel`.

    References:
        Geman and McClure, "Statistical Methods for Tomographic Image Reconstruction", 1987; a family to train learned
        optimizers on since Li and Malik, "Learning to Optimize", ICLR 2017.
    """

    def _losses(self, combined: Tensor, labels: Tensor) -> Tensor:
        square = (labels - combined).square()
        return square / (1 + square)

    def _slopes(self, combined: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        error = combined - labels
        square = error.square()
        return square / (1 + square), 2 * error / (1 + square).square()
