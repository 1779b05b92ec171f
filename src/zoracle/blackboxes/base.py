"""What a black box is: a batch in, outputs out; nothing else is known."""

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
    """A model that can only be called. Retries, timeouts and rate limits live here, below the meter.

    A class that an answer leaves out (a model that tells the k best only) is minus infinity in the outputs. Of a black
    box that is declared to return "labels" these are (N, 1), the numbers of classes.

    Attributes:
        differentiable: whether autograd passes through (white box, used in meta-training only).
        outputs: what the model returns, where whoever made the black box declared it; "auto" otherwise.
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
        """Say before the first query where inputs of this shape (without N) cannot be given; it costs none.

        Raises:
            InputError: they cannot.
        """
        del shape  # most take what they are given, and the model says what it thinks of it

    def report(self) -> dict[str, Any]:
        """What there is to report beside the outputs, as JSON values: where it is, and network attempts, say."""
        return {}

    def close(self) -> None:
        """Let go of connections and files. A black box without any needs none."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def _call(self, inputs: Tensor) -> Tensor:
        """Outputs of a batch; any exception of the model is raised as a BlackBoxError."""
