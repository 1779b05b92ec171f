"""Starting points, bounds and scales of any shape, as tensors (B, d) and (d,)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, prod
from operator import index
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoracle.api.inputs import as_tensor, check_dtype, is_whole, real
from zoracle.errors import InputError, one_line
from zoracle.objectives.base import Bounds, Box


class Points(NamedTuple):
    """Starting points, and how to convert results to the type and shape of x0."""

    start: Tensor
    """(B, d)."""
    single: bool
    """Whether one point was given, without a B."""
    shape: tuple[int, ...]
    """Of a point."""
    to_user: Callable[[Tensor], Any]
    """Turns a tensor on the CPU into the kind that x0 was."""

    def shaped(self, points: Tensor) -> Any:
        """Points (B, d) as the caller's x0 was: its kind, its shape, one point where it was one."""
        return self.to_user(points.reshape(self.shape if self.single else (-1, *self.shape)))

    def per_problem(self, values: Tensor) -> Any:
        """Values (B,), or a plain number where one point was given."""
        return values[0].item() if self.single else self.to_user(values)


def as_points(x0: Any, shape: Any = None, *, vectorized: bool = True) -> Points:
    """Starting points of the shape that f takes.

    Args:
        x0: one point, or B of them.
        shape: of a point; None: x0 with two axes holds B points (d,), and any other is one point.
        vectorized: whether f takes a batch. Where it does not, x0 with two axes needs a ``shape``.
    """
    device = x0.device if isinstance(x0, Tensor) else None
    x = as_tensor("x0", x0)
    if is_whole(x):
        x = x.to(torch.float64 if device is None else torch.float32)
    check_dtype("values of x0", x)
    point = _point_shape(x, shape, vectorized)
    if x.numel() == 0:
        raise InputError(f"x0 has shape {tuple(x.shape)}; expected at least one number")
    if not bool(x.isfinite().all()):
        raise InputError("x0 has values that are NaN or infinite; expected finite numbers")

    def to_user(value: Tensor) -> Any:
        return value.numpy() if device is None else value.to(device)

    return Points(x.reshape(-1, prod(point)), x.ndim == len(point), point, to_user)


def _point_shape(x: Tensor, shape: Any, vectorized: bool) -> tuple[int, ...]:
    given = tuple(x.shape)
    if shape is None:
        if x.ndim != 2:
            return given
        if not vectorized:
            raise InputError(
                f"x0 has shape {given}; give shape={given} if that is one point, or shape=({given[1]},) if it is "
                f"{given[0]} starting points"
            )
        return given[1:]
    try:
        point = tuple(index(side) for side in (shape if isinstance(shape, Sequence) else (shape,)))
    except TypeError:
        raise InputError(f"shape is {shape!r}; expected integers, the shape of one point") from None
    if given not in (point, (*given[:1], *point)):
        raise InputError(f"x0 has shape {given}; expected {point}, or (B, {', '.join(map(str, point))}) for B runs")
    return point


def as_limits(bounds: Any, points: Points) -> Bounds | Box | None:
    """The bounds, which must contain the starting points: numbers, or a tensor (d,) each."""
    if bounds is None:
        return None
    low, high = (_limit(limit, infinite, points) for limit, infinite in zip(_ends(bounds), (-inf, inf), strict=True))
    for end in (low, high):
        if bool(end.isnan().any()):
            raise InputError("bounds contain NaN; expected numbers, or infinity or None for no bound")
    if not bool((low < high).all()):
        at = int((low >= high).int().argmax())
        of = "" if bool((low == low[0]).all() and (high == high[0]).all()) else f" of coordinate {at}"
        raise InputError(f"bounds{of} are ({low[at]:g}, {high[at]:g}); expected (low, high) with low < high")
    outside = (points.start < low) | (points.start > high)
    if bool(outside.any()):
        row, at = (int(one) for one in outside.nonzero()[0])
        raise InputError(
            f"x0 is {points.start[row, at]:g} at coordinate {at}, outside the bounds ({low[at]:g}, {high[at]:g}); "
            "choose x0 within them"
        )
    if bool((low == low[0]).all() and (high == high[0]).all()):
        return Bounds(float(low[0]), float(high[0]))
    return Box(low, high)


def _ends(bounds: Any) -> tuple[Any, Any]:
    """The lower and upper bounds from (low, high), SciPy's Bounds, or a pair per coordinate."""
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        return bounds.lb, bounds.ub
    expected = "expected (low, high), numbers or arrays of x0's shape, or a pair for each coordinate"
    try:
        parts = list(bounds)
    except TypeError:
        raise InputError(f"bounds are {bounds!r}; {expected}") from None
    pairs = all(isinstance(part, tuple | list) and len(part) == 2 for part in parts)
    if not pairs and isinstance(bounds, np.ndarray | Tensor) and bounds.ndim == 2 and bounds.shape[1] == 2:
        pairs = True
    if pairs and parts:
        return [pair[0] for pair in parts], [pair[1] for pair in parts]
    if len(parts) != 2:
        raise InputError(f"bounds are {bounds!r}; {expected}"[:400])
    return parts[0], parts[1]


def _limit(limit: Any, infinite: float, points: Points) -> Tensor:
    """One end for each coordinate, (d,)."""
    if isinstance(limit, list | tuple):
        limit = [infinite if one is None else one for one in limit]
    elif limit is None:
        limit = infinite
    return _per_coordinate("bounds", limit, points)


def as_scale(scale: Any, points: Points) -> float | Tensor:
    """A positive number, or one for each coordinate, (1, d)."""
    if not isinstance(scale, np.ndarray | Tensor | list | tuple):
        number = real("scale", scale)
        if not 0 < number < inf:
            raise InputError(f"scale is {number}; expected a positive number")
        return number
    each = _per_coordinate("scale", scale, points)
    if not bool(((each > 0) & (each < inf)).all()):
        raise InputError("scale has values that are not positive and finite; expected positive numbers")
    return float(each[0]) if bool((each == each[0]).all()) else each.unsqueeze(0)


def _per_coordinate(name: str, values: Any, points: Points) -> Tensor:
    """Numbers for all coordinates as (d,), from what NumPy broadcasts to the shape of a point."""
    try:
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} cannot be read as numbers ({one_line(error)}); expected an array") from None
    try:
        each = np.array(np.broadcast_to(array, points.shape))
    except ValueError:
        raise InputError(
            f"{name} of shape {array.shape} given for points of shape {points.shape}; expected one number, or one a "
            "coordinate"
        ) from None
    return torch.from_numpy(each).reshape(-1).to(points.start)
