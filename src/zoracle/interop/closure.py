"""The loss that a closure returns, as an objective of the parameters that it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.objectives.base import Objective
from zoracle.types import Evaluation


class ClosureLoss(Objective):
    """The loss of a closure at points that are written into the parameters one after another."""

    num_problems = 1

    def __init__(self, params: Sequence[Tensor]) -> None:
        for p in params:
            if not p.is_floating_point():
                raise InputError(f"a parameter is {p.dtype}; expected floating-point ones")
        self.params = params
        self.dim = sum(p.numel() for p in params)
        if self.dim == 0:
            raise InputError("the parameters hold no numbers; expected at least one")
        self.dtype = torch.float64 if any(p.dtype == torch.float64 for p in params) else torch.float32
        self.coarsest = max((p.dtype for p in params), key=lambda dtype: torch.finfo(dtype).eps)
        self.device = params[0].device
        self.closure: Callable[[], Any] | None = None

    def read(self) -> Tensor:
        """The parameters as one point (d,), a copy."""
        parts = [p.detach().reshape(-1).to(self.device, self.dtype) for p in self.params]
        return torch.cat(parts) if len(parts) > 1 else parts[0].clone()

    def write(self, point: Tensor) -> None:
        """Set the parameters to a point (d,)."""
        with torch.no_grad():
            for p, part in zip(self.params, self._parts(point), strict=True):
                p.copy_(part.view(p.shape))

    def rounded(self, point: Tensor) -> Tensor:
        """What :meth:`read` gives after a point (d,) is written."""
        return torch.cat(
            [part.to(p.dtype).to(self.dtype) for p, part in zip(self.params, self._parts(point), strict=True)]
        )

    def _parts(self, point: Tensor) -> Sequence[Tensor]:
        return torch.split(point, [p.numel() for p in self.params])

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        assert self.closure is not None
        losses = []
        for point in points:
            self.write(point)
            losses.append(_number(self.closure()).to(points))
        return Evaluation(torch.stack(losses))


def _number(loss: Any) -> Tensor:
    """What a closure returned, as a tensor ()."""
    if isinstance(loss, Tensor):
        if loss.numel() != 1 or loss.is_complex():
            raise InputError(
                f"the closure returned a {loss.dtype} tensor of shape {tuple(loss.shape)}; expected one number, "
                "the mean loss say"
            )
        return loss.detach().reshape(())
    try:
        return torch.tensor(float(loss), dtype=torch.float64)
    except (TypeError, ValueError):
        raise InputError(f"the closure returned a {type(loss).__name__}; expected one number, the loss") from None
