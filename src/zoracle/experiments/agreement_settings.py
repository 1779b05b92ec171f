"""Settings of the measurement of how far directional derivatives and queries agree."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

from zoracle.optimizers import Positive

#: Optimizers whose meta-gradients are compared, and whether their weights are trained.
_Label = Literal["zo-lstm, first weights", "zo-lstm, trained", "zo-lstm-paper, first weights"]
CASES: tuple[_Label, ...] = get_args(_Label)
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Grid = Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)]
#: How pairs of meta-gradients are compared: without the graph through the values, with it, and as trainings have it.
PAIRS = ("without", "with", "as trained")


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of this part of the experiment.

    Attributes:
        problems: first training problems of each task.
        mus: smoothing parameters in float64.
        mus_float32: likewise in float32; larger ones give what float64 gives.
        dim: d of the smooth problem.
        mnist: whether MNIST is measured too, if its data are available.
        cases: optimizers whose meta-gradients are compared; trained weights on the attack only.
        middle: whether the segment in the middle of an unroll is measured too, in addition to the first.
        repeats: segments of each kind that are timed.
    """

    problems: _Count = 10
    mus: _Grid = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
    mus_float32: _Grid = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
    dim: _Count = 100
    mnist: bool = True
    cases: Annotated[tuple[_Label, ...], msgspec.Meta(min_length=1)] = CASES
    middle: bool = True
    repeats: _Count = 7

    def grid(self, precision: str) -> tuple[float, ...]:
        """Smoothing radii of a precision."""
        return self.mus if precision == "float64" else self.mus_float32
