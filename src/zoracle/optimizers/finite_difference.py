"""Optimizers that follow a gradient estimated from finite differences."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from zoracle import directions, estimators
from zoracle.optimizers.base import Optimizer, S, SamplingConfig
from zoracle.types import Key, Queries

#: Where standard directions come from: a key of B problems, q, and a tensor (B, d) whose type and device they take.
DirectionSource = Callable[[Key, int, Tensor], Tensor]

SC = TypeVar("SC", bound=SamplingConfig)


class FiniteDifferenceOptimizer(Optimizer[S, SC]):
    """An optimizer that follows a gradient estimated from finite differences along random directions.

    Args:
        config: settings.
        source: where directions come from instead of ``config.directions``: recorded ones, or your own.
        settings: settings by name.
    """

    def __init__(self, config: SC | None = None, *, source: DirectionSource | None = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.source = source

    @property
    def queries_per_step(self) -> int:
        """Q + 1 points with forward differences, 2q with central ones."""
        q = self.config.num_directions
        return 2 * q if self.config.difference == "central" else q + 1

    @property
    def evaluates_iterate(self) -> bool:
        """Whether the first point of each step is the iterate itself."""
        return self.config.difference == "forward"

    def draw(self, key: Key, like: Tensor, q: int | None = None) -> Tensor:
        """Directions (B, q, d) with E[u u^T] = I for this key."""
        q = self.config.num_directions if q is None else q
        if self.source is not None:
            return self.source(key, q, like)
        return directions.draw(self.config.directions, key, q, like)

    def distance(self, state: S) -> Tensor:
        """The distance (B,) that directions are probed at in this step."""
        mu: Tensor = state.mu  # type: ignore[attr-defined]
        if not self.config.reach:
            return mu
        (radius,) = state.radius  # type: ignore[attr-defined]
        at: Tensor = radius.at(state.key.step.to(mu.device), mu)  # type: ignore[attr-defined]
        return at

    def queries(self, x: Tensor, u: Tensor, mu: Tensor, aux: Any = ()) -> Queries:
        """The points that the estimate along u needs: (B, m, d)."""
        along = estimators.central_points if self.config.difference == "central" else estimators.forward_points
        return Queries(along(x.detach(), u.detach(), mu), u, aux)

    def estimate(self, queries: Queries, values: Tensor, mu: Tensor, far: Tensor | None = None) -> Tensor:
        """The gradient estimate (B, d) from the values of these queries.

        Args:
            queries: what was asked for.
            values: (B, m).
            mu: (B,) the distance of their directions.
            far: (B,) bool, rows in which that is more than the smoothing radius: what all differences share is
                taken off there, since over a distance it comes from curvature and ripples.
        """
        if self.config.difference == "central":
            return estimators.central_difference(values, queries.directions, mu)
        control: bool | Tensor = self.config.control_variate or (False if far is None else far)
        return estimators.forward_difference(values, queries.directions, mu, control)

    def estimated(self, state: S, queries: Queries, values: Tensor) -> Tensor:
        """The estimate (B, d) from the values of what was asked for in this state."""
        distance = self.distance(state)
        far = distance > state.mu if self.config.reach else None  # type: ignore[attr-defined]
        return self.estimate(queries, values, distance, far)


class DescentOptimizer(FiniteDifferenceOptimizer[S, SC]):
    """A hand-designed optimizer whose step is a function of the gradient estimate and its state."""

    def _ask(self, state: S) -> Queries:
        x, key = state.x, state.key  # type: ignore[attr-defined]
        return self.queries(x, self.draw(key, x), self.distance(state))

    def _tell(self, state: S, queries: Queries, values: Tensor, gradients: Tensor | None) -> S:
        return self._step(state, self.estimated(state, queries, values))

    @abstractmethod
    def _step(self, state: S, gradient: Tensor) -> S: ...
