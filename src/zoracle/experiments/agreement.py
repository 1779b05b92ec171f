"""Agreement of directional derivatives and queries in meta-training: values, meta-gradients and time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from zoracle.estimators import default_mu, forward_points, slopes
from zoracle.metatrain import Stage, TrainingOracle, ValueKind
from zoracle.optimizers import Optimizer, with_settings
from zoracle.rollout import Oracle, Step, rollout
from zoracle.state import detach, tree_map
from zoracle.tasks import Task
from zoracle.types import Evaluation, Purpose

PRECISIONS = {"float64": torch.float64, "float32": torch.float32}


class Answers(TrainingOracle):
    """A training oracle whose answers carry the graph of the points or not, however they are computed.

    Training has queries without it, since a black box has no graph, and directional derivatives with it. The other
    two tell what is due to the values from what is due to the graph.

    Args:
        objective: the objective to query.
        values: "queries" or "directional".
        graph: whether answers have the graph of the points, with the slope <g, dx> of the gradient at the first one.
    """

    def __init__(self, objective: Any, *, values: ValueKind, graph: bool) -> None:
        super().__init__(objective, values=values)
        self.graph = graph

    def evaluate(
        self, points: Tensor, problem: Tensor, *, step: Tensor | None = None, purpose: Purpose = Purpose.OPTIMISE
    ) -> Evaluation:
        """Like :meth:`TrainingOracle.evaluate`, with the configured graph."""
        loss = super().evaluate(points, problem, step=step, purpose=purpose).loss
        if not self.graph:
            return Evaluation(loss.detach())
        if self.values == "queries":
            base = points[:, 0].detach()
            _, gradient = self.linearise(base, problem, step)
            change = torch.bmm(points - base.unsqueeze(1), gradient.unsqueeze(2)).squeeze(2)
            loss = loss + (change - change.detach())
        return Evaluation(loss)


class Places(NamedTuple):
    """Points of a trajectory, and the query directions of its optimizer there."""

    x: Tensor
    """(L, B, d) float64."""
    directions: Tensor
    """(L, B, q, d) float64."""


class Case(NamedTuple):
    """A learned optimizer and its training stage."""

    label: str
    optimizer: Optimizer[Any, Any]
    stage: Stage


class Segment(NamedTuple):
    """The state at the beginning of a segment of meta-training, in float64."""

    state: Any
    origin: Tensor
    """(B, d) the starting point of the unroll."""
    previous: Tensor | None
    """(B,) loss of the step before."""
    first: int
    """Index of the segment's first step."""


def begin(optimizer: Optimizer[Any, Any], made: Task, ids: Sequence[int], steps: int) -> tuple[Any, Any]:
    """The float64 objective of some problems, and an optimizer's initial state for seed 0."""
    objective = made.objective(tuple(ids), dtype=torch.float64)
    x0 = made.start(tuple(ids), seed=0, dtype=torch.float64)
    state = optimizer.init(
        x0, seed=0, problem=torch.tensor(tuple(ids)), horizon=steps, scale=objective.scale,
        space=objective.space(torch.arange(len(ids)), x0),
    )  # fmt: skip
    return objective, state


def places(optimizer: Optimizer[Any, Any], made: Task, ids: Sequence[int], steps: int) -> tuple[Places, int]:
    """Start, middle and end of a trajectory of T steps by queries in float64, and its cost in points."""
    optimizer = _cast(optimizer, torch.float64)
    objective, state = begin(optimizer, made, ids, steps)
    oracle = Oracle(objective)
    found = [state]

    def look(step: Step) -> None:
        t = int(step.state.key.step[0])
        if t in (steps // 2, steps - 1):
            found.append(step.state)

    rollout(optimizer, oracle, state, steps, final=None, on_step=look)
    with torch.no_grad():
        u = torch.stack([optimizer.ask(one).directions for one in found])
    return Places(torch.stack([one.x for one in found]), u), int(oracle.counts[Purpose.OPTIMISE].sum())


def values(
    made: Task, ids: Sequence[int], at: Places, dtype: torch.dtype, mus: Sequence[float]
) -> tuple[dict[str, Tensor], int]:
    """Slopes at some places by q queries for each mu, and by one gradient.

    The same points x and directions u are rounded to the type. By one gradient, the slope does not depend on mu but
    for rounding; it is had with the type's default mu.

    Args:
        made: the task.
        ids: its problems.
        at: points and directions.
        dtype: what everything is computed in.
        mus: M smoothing parameters.

    Returns:
        "queries" (L, M, B, q), (f(x + mu u) - f(x)) / mu; "directional" (L, B, q), <g, u>; "loss" (L, B), all
        float64; and how many points and gradients they cost.
    """
    objective = made.objective(tuple(ids), dtype=dtype)
    queried, directional = TrainingOracle(objective), TrainingOracle(objective, values="directional")
    rows = torch.arange(len(ids))

    def slope(oracle: TrainingOracle, x: Tensor, u: Tensor, mu: float) -> tuple[Tensor, Tensor]:
        each = x.new_full((x.shape[0],), mu)
        loss = oracle.evaluate(forward_points(x, u, each), rows).loss.double()
        return slopes(loss, each.double()), loss[:, 0]

    by_queries, by_gradient, losses = [], [], []
    for x64, u64 in zip(at.x, at.directions, strict=True):
        x, u = x64.to(dtype), u64.to(dtype)
        one, loss = slope(directional, x, u, default_mu(dtype, objective.scale))
        by_gradient.append(one)
        losses.append(loss)
        by_queries.append(torch.stack([slope(queried, x, u, mu)[0] for mu in mus]))
    spent = sum(int(counts.sum()) for oracle in (queried, directional) for counts in oracle.counts.values())
    found = {"queries": torch.stack(by_queries), "directional": torch.stack(by_gradient), "loss": torch.stack(losses)}
    return found, spent


def relative(queries: Tensor, directional: Tensor) -> Tensor:
    """|difference| of slopes over the root mean square of the q slopes by one gradient: (L, M, B, q).

    Args:
        queries: (L, M, B, q).
        directional: (L, B, q).
    """
    by_gradient = directional.unsqueeze(1)
    size = by_gradient.square().mean(3, keepdim=True).sqrt()
    return (queries - by_gradient).abs() / torch.where(size > 0, size, torch.nan)


def order(mus: Sequence[float], differences: Sequence[float], rounding: Sequence[float]) -> float | None:
    """The order in mu of the differences, by least squares in logarithms; None for fewer than three numbers.

    Differences above one half say that mu is too large for an order to show, and those below ten times what rounding
    makes say nothing of mu: both are left out.

    Args:
        mus: smoothing parameters.
        differences: relative ones, one a mu.
        rounding: relative size of what rounding makes of a slope, one a mu.
    """
    used = [(m, v) for m, v, floor in zip(mus, differences, rounding, strict=True) if 10 * floor < v <= 0.5]
    if len(used) < 3:
        return None
    x, y = torch.tensor(used, dtype=torch.float64).log().unbind(1)
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


def segment_at(case: Case, made: Task, ids: Sequence[int], first: int) -> Segment:
    """The beginning of the segment that starts with step ``first`` of an unroll, reached by real queries in float64."""
    optimizer = _cast(case.optimizer, torch.float64)
    optimizer = with_settings(optimizer, **case.stage.settings)
    objective, state = begin(optimizer, made, ids, case.stage.steps)
    origin = state.x.clone()
    if not first:
        return Segment(state, origin, None, 0)
    oracle = Oracle(objective)
    state = detach(rollout(optimizer, oracle, state, first, final=None)[0])
    loss = oracle.evaluate(state.x.unsqueeze(1), torch.arange(len(ids)), purpose=Purpose.MONITOR).loss[:, 0]
    return Segment(state, origin, loss, first)


def meta_gradient(
    optimizer: Optimizer[Any, Any], oracle: TrainingOracle, stage: Stage, begun: Segment
) -> tuple[Tensor, Tensor]:
    """Meta-loss of one segment of K steps and its gradient (W,) for all weights, float64.

    Args:
        optimizer: with the stage's settings; its weights need gradients.
        oracle: answers the queries.
        stage: its K, T and meta-loss.
        begun: beginning of the segment, in the optimizer's type.
    """
    weights = list(cast(nn.Module, optimizer).parameters())
    segment = stage.loss.segment(
        optimizer, oracle, begun.state, stage.truncation,
        first=begun.first, previous=begun.previous, horizon=stage.steps, origin=begun.origin,
    )  # fmt: skip
    found = torch.autograd.grad(segment.value, weights, allow_unused=True)
    parts = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
    return segment.value.detach().double(), torch.cat([part.flatten().double() for part in parts])


def meta_gradients(
    case: Case, made: Task, ids: Sequence[int], begun: Segment, dtype: torch.dtype, mus: Sequence[float]
) -> tuple[dict[str, Tensor], int]:
    """One segment from the same state and draws, by queries for each mu and by directional derivatives.

    Returns:
        "meta_loss" (M + 1,), the last one by directional derivatives; for the pairs "without" (neither has the graph
        through the values), "with" (both have it) and "as trained" (queries have not, directional derivatives have):
        (M, 3), cosine, norm of the difference over the norm of the directional one, and quotient of the norms; and
        how many points and gradients that cost.
    """
    objective = made.objective(tuple(ids), dtype=dtype)
    optimizer = ready(case, dtype)
    begun = in_type(begun, dtype)
    spent = 0

    def one(kind: ValueKind, graph: bool, mu: float) -> tuple[Tensor, Tensor]:
        nonlocal spent
        oracle = Answers(objective, values=kind, graph=graph)
        state = begun.state._replace(mu=torch.full_like(begun.state.mu, mu))
        found = meta_gradient(optimizer, oracle, case.stage, begun._replace(state=state))
        spent += sum(int(counts.sum()) for counts in oracle.counts.values())
        return found

    default = default_mu(dtype, objective.scale)
    reference, without = one("directional", True, default), one("directional", False, default)
    losses: list[Tensor] = []
    pairs: dict[str, list[Tensor]] = {"without": [], "with": [], "as trained": []}
    for mu in mus:
        plain, linked = one("queries", False, mu), one("queries", True, mu)
        losses.append(plain[0])
        pairs["without"].append(_apart(plain[1], without[1]))
        pairs["with"].append(_apart(linked[1], reference[1]))
        pairs["as trained"].append(_apart(plain[1], reference[1]))
    found = {name: torch.stack(each) for name, each in pairs.items()}
    return found | {"meta_loss": torch.stack([*losses, reference[0]])}, spent


def timed(case: Case, made: Task, ids: Sequence[int], repeats: int) -> tuple[dict[str, Tensor], int]:
    """Seconds (2, R) of the first segment, forward and backward, by queries and by directional values in turn.

    In float32, as trainings are, with the default mu; one of each before the clock starts.
    """
    objective = made.objective(tuple(ids))
    optimizer = ready(case, torch.float32)
    begun = in_type(segment_at(case, made, ids, 0), torch.float32)
    state = begun.state._replace(mu=torch.full_like(begun.state.mu, default_mu(torch.float32, objective.scale)))
    seconds = torch.zeros(2, repeats, dtype=torch.float64)
    kinds: tuple[ValueKind, ...] = ("queries", "directional")
    spent = 0
    for repeat in range(-1, repeats):
        for row, kind in enumerate(kinds):
            oracle = TrainingOracle(objective, values=kind)
            began = time.perf_counter()
            meta_gradient(optimizer, oracle, case.stage, begun._replace(state=state))
            if repeat >= 0:
                seconds[row, repeat] = time.perf_counter() - began
            spent += sum(int(counts.sum()) for counts in oracle.counts.values())
    return {"segments": seconds}, spent


def ready(case: Case, dtype: torch.dtype) -> Optimizer[Any, Any]:
    """A copy of a case's optimizer in a type, with the stage's settings; all weights require gradients."""
    optimizer = with_settings(_cast(case.optimizer, dtype), **case.stage.settings)
    cast(nn.Module, optimizer).requires_grad_(True)
    return optimizer


def in_type(begun: Segment, dtype: torch.dtype) -> Segment:
    """The same beginning rounded to a type."""

    def rounded(leaf: Tensor) -> Tensor:
        return leaf.to(dtype) if leaf.is_floating_point() else leaf

    previous = None if begun.previous is None else begun.previous.to(dtype)
    return Segment(tree_map(rounded, begun.state), begun.origin.to(dtype), previous, begun.first)


def _cast(optimizer: Optimizer[Any, Any], dtype: torch.dtype) -> Optimizer[Any, Any]:
    return cast(Optimizer[Any, Any], cast(nn.Module, deepcopy(optimizer)).to(dtype))


def _apart(found: Tensor, reference: Tensor) -> Tensor:
    """Cosine, relative norm of the difference, and quotient of the norms: (3,)."""
    size, other = found.norm(), reference.norm()
    return torch.stack((found @ reference / (size * other), (found - reference).norm() / other, size / other))
