"""An optimizer's steps taken apart into single points, for libraries that ask for one point and tell one value."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoracle.api.loading import chosen_optimizer
from zoracle.errors import InputError
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.pretrained import Use
from zoracle.types import Queries, Space

_STEPS = 1000  # a horizon where no budget is known
_REPEATS = 3  # of an iterate whose value is lost


class PointByPoint:
    """Asks for one point at a time; values may come late, in any order, or never.

    A step of the optimizer ends as soon as all of its values have arrived. Requests for more points before that get
    points beside the iterate, whose values are not used; after as many of these as a step has points, missing values
    count as lost (NaN) and the step continues without them. A value that comes after that is ignored. The iterate
    itself is requested again where its value is lost.

    Args:
        optimizer: a name, a folder, or an optimizer.
        start: (d,) float64.
        scale: by how much a coordinate typically has to change.
        low: lowest value of each coordinate, (d,), or None.
        high: highest value.
        seed: keys the random directions.
        budget: how many points will be asked for, as far as it is known.
        settings: settings of the optimizer.

    Raises:
        InputError: the optimizer cannot be used.
    """

    def __init__(
        self,
        optimizer: str | Path | Optimizer[Any, Any],
        start: np.ndarray,
        *,
        scale: float = 1.0,
        low: np.ndarray | None = None,
        high: np.ndarray | None = None,
        seed: int = 0,
        budget: int | None = None,
        **settings: Any,
    ) -> None:
        d = len(start)
        made = chosen_optimizer(optimizer, settings, Use(dim=d))
        if made.order:
            raise InputError(f"optimizer {type(made).__name__} needs true gradients; expected one that does not")
        if budget is not None and not isinstance(optimizer, Optimizer) and "num_directions" not in settings:
            made = made.planned(d, budget)
        self.optimizer = made
        self.scale = scale
        x0 = torch.from_numpy(np.array(start, dtype=np.float64)).unsqueeze(0) / scale
        ends = [
            x0.new_full((1, d), infinite) if end is None else torch.from_numpy(np.array(end)).to(x0).view(1, d) / scale
            for end, infinite in ((low, -math.inf), (high, math.inf))
        ]
        self.space = Space(ends[0], ends[1], x0.new_full((1,), math.inf), torch.tensor([[1, 1, d]]))
        steps = _STEPS if budget is None else max(1, budget // made.queries_per_step)
        self.state = made.init(x0, seed=seed, horizon=steps, space=self.space)
        self.step = -1
        self._again = False
        self._beside = np.random.default_rng(seed)
        self._begin()

    def ask(self) -> tuple[tuple[int, int], np.ndarray]:
        """A token to tell the value by, and a point (d,)."""
        if self._again:
            self._again = False
            return (self.step, 0), self._out(self._points[0])
        if self._asked < self._points.shape[0]:
            index = self._asked
            self._asked += 1
            return (self.step, index), self._out(self._points[index])
        self._extra += 1
        if self._extra > self._points.shape[0]:
            if not self._repeats_iterate():
                self._finish()
            return self.ask()
        noise = torch.from_numpy(self._beside.standard_normal(self._points.shape[1]))
        spread = (self._points - self._points[0]).norm(dim=1).max() / math.sqrt(self._points.shape[1])
        return (self.step, -1), self._out(self.state.x[0] + spread * noise)

    def tell(self, token: tuple[int, int], value: float) -> None:
        """The value of a point; NaN where it was lost. One told twice, or after its step has ended, is ignored."""
        step, index = token
        if step != self.step or index < 0 or not self._missing[index]:
            return
        if index == 0 and not math.isfinite(value) and self._repeats_iterate():
            return
        self._values[index] = value if math.isfinite(value) else math.nan
        self._missing[index] = False
        if not bool(self._missing.any()):
            self._finish()

    def _repeats_iterate(self) -> bool:
        """Whether the iterate's value is lost and will be requested again: a step's differences all need it."""
        if not (self.optimizer.evaluates_iterate and self._missing[0] and self._repeats < _REPEATS):
            return False
        self._repeats += 1
        self._extra = 0
        self._again = True
        return True

    def _out(self, y: Tensor) -> np.ndarray:
        point: np.ndarray = (y.clamp(self.space.low[0], self.space.high[0]) * self.scale).numpy()
        return point

    def _begin(self) -> None:
        self._queries: Queries = self.optimizer.ask(self.state)
        self._points = self._queries.points[0]
        self._values = self._points.new_full((self._points.shape[0],), math.nan)
        self._missing = torch.ones(self._points.shape[0], dtype=torch.bool)
        self._asked = self._extra = self._repeats = 0
        self._again = False
        self.step += 1

    def _finish(self) -> None:
        if bool(self._values.isfinite().any()):  # a step that is lost whole is requested again
            state = self.optimizer.tell(self.state, self._queries, self._values.unsqueeze(0))
            self.state = state._replace(x=state.x.clamp(self.space.low, self.space.high))
        self._begin()
