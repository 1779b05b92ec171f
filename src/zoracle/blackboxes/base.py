"""The base of black boxes: a batch in, outputs out; nothing else is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, Self, get_args

from torch import Tensor

from zoracle.errors import BlackBoxError, InputError

Outputs = Literal["auto", "logits", "probabilities", "log-probabilities", "labels"]

#: What an answer has to be, for errors about one that is not.
SUPPORTED = "logits, probabilities or log-probabilities of all classes, or scores of the top k"


def check_outputs(outputs: str) -> None:
    """Raise an InputError where this is not a kind of outputs."""
    if outputs not in get_args(Outputs):
        raise InputError(f"outputs is {outputs!r}; expected one of {', '.join(get_args(Outputs))}")


class BlackBox(ABC):
    """A model that can only be called. Retries, timeouts and rate limits happen here and are not counted as queries.

    A class missing from a top-k answer has the output minus infinity. If a black box is declared to return "labels",
    its outputs are (N, 1), class numbers.

    Attributes:
        differentiable: whether autograd passes through (white box, used in meta-training only).
        outputs: what the model returns, if declared; "auto" otherwise.
        remote: whether it is asked over a network: calls are kept large then, and one process makes them.
    """

    differentiable: bool = False
    outputs: Outputs = "auto"
    remote: bool = False

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs (N, classes) of inputs (N, ...).

        Raises:
            BlackBoxError: the call failed, or the outputs are not one row an input.
        """
        outputs = self._call(inputs)
        if self.outputs == "labels" and outputs.ndim == 1:
            outputs = outputs.unsqueeze(1)
        if outputs.ndim != 2 or outputs.shape[0] != inputs.shape[0]:
            n = inputs.shape[0]
            labels = f"; labels only are not enough, it takes {SUPPORTED}" if tuple(outputs.shape) == (n,) else ""
            raise BlackBoxError(
                f"the model returned shape {tuple(outputs.shape)} for {n} inputs; "
                f"expected ({n}, number of classes){labels}"
            )
        return outputs

    def check(self, shape: tuple[int, ...]) -> None:
        """Check, before the first query and without one, that inputs of this shape (without N) fit.

        Raises:
            InputError: they cannot.
        """
        del shape  # most take what they are given, and the model says what it thinks of it

    def report(self) -> dict[str, Any]:
        """A description as JSON values, for example the address and the network attempts."""
        return {}

    def close(self) -> None:
        """Release connections and files, if any."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def _call(self, inputs: Tensor) -> Tensor:
        """Outputs of a batch; any exception of the model is raised as a BlackBoxError."""
