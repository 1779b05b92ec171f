"""What a black box is: a batch in, outputs out; nothing else is known."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from zoracle.errors import BlackBoxError


class BlackBox(ABC):
    """A model that can only be called. Retries, timeouts and rate limits live here, below the meter.

    Attributes:
        differentiable: whether autograd passes through (white box, used in meta-training only).
    """

    differentiable: bool = False

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs (N, classes) of inputs (N, ...).

        Raises:
            BlackBoxError: the call failed, or the outputs are not one row an input.
        """
        outputs = self._call(inputs)
        if outputs.ndim != 2 or outputs.shape[0] != inputs.shape[0]:
            raise BlackBoxError(
                f"the model returned shape {tuple(outputs.shape)} for {inputs.shape[0]} inputs; "
                f"expected ({inputs.shape[0]}, number of classes)"
            )
        return outputs

    @abstractmethod
    def _call(self, inputs: Tensor) -> Tensor:
        """Outputs of a batch; any exception of the model is raised as a BlackBoxError."""
