"""Shadow estimators: several gradient estimators on the trajectory of one optimizer, against the true gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoracle.experiments.context import Named
from zoracle.optimizers import FiniteDifferenceOptimizer, Optimizer
from zoracle.rollout import Oracle, Step, rollout
from zoracle.state import select
from zoracle.tasks import Task
from zoracle.types import Purpose, Queries

#: What is measured of an estimator at each iterate.
MEASURES = ("cosine", "error", "variance")
_DRAWS = 2
_OTHER_DRAW = 1_000_003  # added to the seed


class Quality(NamedTuple):
    """Estimators along one trajectory each of P problems."""

    measured: dict[str, Tensor]
    """By estimator, (3, T, P) in the order of MEASURES; NaN where a step was not taken, or the gradient is zero."""
    success: Tensor
    """(T, P) bool, whether some point had succeeded before the step."""
    loss: Tensor
    """(T, P) loss of the iterate."""
    points: int
    """Points and true gradients evaluated, of all problems."""


def shadow_estimates(
    reference: Optimizer[Any, Any],
    shadows: Named,
    made: Task,
    ids: Sequence[int],
    *,
    label: str,
    seed: int,
    steps: int,
    on_step: Callable[[int, int], None] | None = None,
) -> Quality:
    r"""Run an optimizer, and measure its gradient estimate and those of others at each iterate.

    A shadow keeps a state of its own, made of its own estimates, but is put on the reference's iterate after each step.
    Each estimator is measured by two independent draws of its directions from the same state, g_1 and g_2. With g the
    true gradient,

    cosine = mean of <g_i, g> / (|g_i| |g|); error = min_a mean of |a g_i - g|^2 / |g|^2, one scale a for both draws;
    variance = |g_1 - g_2|^2 / 2, divided by the square of the mean estimate's size, mean of |g_i|^2.

    The reference's own queries are what it optimises with; all others, and the true gradients, are monitoring.

    Args:
        reference: an optimizer whose first point of a step is the iterate.
        shadows: labels and estimators.
        made: a task whose objective is differentiable.
        ids: problems.
        label: of the reference's own estimates.
        seed: keys starts and directions.
        steps: T.
        on_step: called with the number of steps done and the total.
    """
    objective = made.objective(tuple(ids))
    oracle = Oracle(objective)
    x0 = made.start(tuple(ids), seed=seed)
    rows = torch.arange(len(ids))

    def begin(optimizer: Optimizer[Any, Any]) -> Any:
        return optimizer.init(
            x0, seed=seed, problem=torch.tensor(tuple(ids)), horizon=steps, scale=objective.scale,
            space=objective.space(rows, x0),
        )  # fmt: skip

    before = begin(reference)
    looking = _Looking(oracle, reference, shadows, label, before, {name: begin(o) for name, o in shadows}, steps)

    def look(step: Step) -> None:
        done = looking.look(step)
        if on_step is not None:
            on_step(done, steps)

    _, trajectory = rollout(reference, oracle, before, steps, final=None, on_step=look)
    points = sum(int(counts.sum()) for counts in oracle.counts.values())
    return Quality(looking.measured, looking.success, trajectory.loss, points)


class _Looking:
    """Measurements along a run of the reference, step by step."""

    def __init__(
        self,
        oracle: Oracle,
        reference: Optimizer[Any, Any],
        shadows: Sequence[tuple[str, Optimizer[Any, Any]]],
        label: str,
        before: Any,
        states: dict[str, Any],
        steps: int,
    ) -> None:
        self.oracle = oracle
        self.reference = reference
        self.shadows = shadows
        self.label = label
        self.before = before
        self.states = states
        self.live = torch.arange(before.x.shape[0])
        shape = (steps, self.live.numel())
        self.measured = {name: torch.full((3, *shape), torch.nan) for name in (label, *states)}
        self.success = torch.zeros(shape, dtype=torch.bool)

    def look(self, step: Step) -> int:
        """Measure one step, and return the number of steps done."""
        if step.live.numel() < self.live.numel():  # a problem without finite values takes no further part
            stay = torch.isin(self.live, step.live)
            self.before = select(self.before, stay)
            self.states = {name: select(state, stay) for name, state in self.states.items()}
            self.live = step.live
        before, live = self.before, self.live
        t = int(before.key.step[0])
        first = step.trajectory.first_success[live]
        # Successes among the points of this step do not count as earlier ones.
        self.success[t, live] = (first > 0) & (first <= (step.trajectory.queries[t - 1, live] if t else 0))
        noise = before.key.step if self.oracle.objective.stochastic else None
        _, gradient = self.oracle.gradient(before.x, live, step=noise, purpose=Purpose.MONITOR)
        own, _ = self._draw(self.reference, before, noise, (step.queries, step.evaluation.loss))
        self.measured[self.label][:, t, live] = measures_of(own, gradient)
        for name, optimizer in self.shadows:
            estimates, after = self._draw(optimizer, self.states[name], noise, None)
            self.measured[name][:, t, live] = measures_of(estimates, gradient)
            moved = {"x": step.state.x}
            if hasattr(after, "step"):
                moved["step"] = step.state.x - before.x
            self.states[name] = after._replace(**moved)
        self.before = step.state
        return t + 1

    def _draw(
        self, optimizer: Optimizer[Any, Any], state: Any, noise: Tensor | None, own: tuple[Queries, Tensor] | None
    ) -> tuple[Tensor, Any]:
        """Estimates (R, B, d) of an optimizer in its state, the first from its own answers if it has any."""
        estimates, after = [], state
        for i in range(_DRAWS):
            other = state._replace(key=state.key._replace(seed=state.key.seed + i * _OTHER_DRAW))
            queries = own[0] if own is not None and not i else optimizer.ask(other)
            values = own[1] if own is not None and not i else self._values(queries, noise)
            told = optimizer.tell(other, queries, values)
            estimates.append(_estimate(optimizer, other, queries, values, told))
            after = after if i else told
        return torch.stack(estimates), after

    def _values(self, queries: Queries, step: Tensor | None) -> Tensor:
        return self.oracle.evaluate(queries.points, self.live, step=step, purpose=Purpose.MONITOR).loss


def _estimate(optimizer: Optimizer[Any, Any], state: Any, queries: Queries, values: Tensor, told: Any) -> Tensor:
    """The gradient estimate (B, d) of an optimizer in a step."""
    if hasattr(told, "gradient"):
        found: Tensor = told.gradient
        return found
    assert isinstance(optimizer, FiniteDifferenceOptimizer)
    return optimizer.estimate(queries, values, state.mu)


def measures_of(estimates: Tensor, gradient: Tensor) -> Tensor:
    """The three measures (3, B) of estimates (R, B, d)."""
    estimates, gradient = estimates.double(), gradient.double()
    size, true = estimates.norm(dim=2), gradient.norm(dim=1)
    along = (estimates * gradient).sum(2)
    power = size.square().mean(0)
    cosine = (along / (size * true)).mean(0)
    error = 1 - along.mean(0).square() / (power * true.square())
    variance = (estimates - estimates.mean(0)).square().sum(2).sum(0) / (estimates.shape[0] - 1) / power
    return torch.stack((cosine, error, variance)).float()
