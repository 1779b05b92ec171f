"""Validation of a trained spectral search within balls, on validation images: the table of its card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch

from zoracle import keyed
from zoracle.errors import InputError
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.registry import make
from zoracle.rollout import rollout
from zoracle.rollout.oracle import Oracle
from zoracle.settings import Number
from zoracle.tasks import task
from zoracle.tasks.base import Task
from zoracle.types import Purpose

#: The baseline of the comparison, at its default settings.
RIVAL = "square"


class Ball(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of the table.

    Attributes:
        task: whose validation images are attacked.
        settings: of the task; its ball among them.
        images: at most so many.
        budget: queries for each.
    """

    task: str
    settings: dict[str, Any] = {}
    images: Number = 50
    budget: Number = 1000


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """Result of an optimizer in a ball: queries, with the whole budget for a failure, and the success rate."""

    mean: float
    median: float
    success: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table: the images that the network reads correctly, attacked by either optimizer."""

    ball: str
    images: int
    budget: int
    own: Reached
    rival: Reached


def validate(
    optimizer: Optimizer[Any, Any], balls: Sequence[Ball], seed: int, told: Callable[[str], None]
) -> list[Row]:
    """The rows of the balls whose data are available; for the others a line is reported.

    Args:
        optimizer: the search.
        balls: what is attacked.
        seed: keys the runs.
        told: is called with a line about each row.
    """
    rows = []
    for number, ball in enumerate(balls):
        try:
            row = _row(optimizer, ball, keyed.mix(seed, 7, number))
        except InputError as error:
            told(f"no validation on {ball.task}: {error}")
            continue
        told(f"{row.ball}: {row.own.mean:.1f} queries, {row.own.success:.0%}; {RIVAL} {row.rival.mean:.1f}")
        rows.append(row)
    return rows


def describe(ball: Ball) -> str:
    """A ball in words: task and network, norm and radius."""
    settings = ball.settings
    network = f", {settings['network']}" if "network" in settings else ""
    return f"{ball.task}{network}: {settings.get('norm', 'linf')} {settings.get('eps', 0):.3g}"


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| ball | images | budget | queries, mean | median | success | Square's mean | median | success |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [f"{r.mean:.1f} | {r.median:.0f} | {r.success:.0%}" for r in (row.own, row.rival)]
        lines.append(f"| {row.ball} | {row.images} | {row.budget:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _row(optimizer: Optimizer[Any, Any], ball: Ball, seed: int) -> Row:
    made = task(ball.task, **ball.settings)
    ids = made.ids("valid")[: ball.images]
    oracle = Oracle(made.objective(ids))
    at_image = torch.zeros((len(ids), 1, oracle.objective.dim))
    wrong = oracle.evaluate(at_image, torch.arange(len(ids)), purpose=Purpose.MONITOR).success
    if wrong is None:
        raise InputError(f"{describe(ball)} is no attack; expected a task whose answers can succeed")
    right = tuple(i for i, failed in zip(ids, wrong[:, 0].tolist(), strict=True) if not failed)
    own, rival = (_attack(chosen, made, right, ball.budget, seed) for chosen in (optimizer, make(RIVAL)))
    return Row(ball=describe(ball), images=len(right), budget=ball.budget, own=own, rival=rival)


def _attack(chosen: Optimizer[Any, Any], made: Task, ids: tuple[int, ...], budget: int, seed: int) -> Reached:
    objective = made.objective(ids)
    x0 = torch.zeros((len(ids), objective.dim))
    space = objective.space(torch.arange(len(ids)), x0)
    state = chosen.init(x0, seed=seed, problem=torch.tensor(ids), horizon=budget, space=space)
    _, trajectory = rollout(chosen, Oracle(objective), state, budget, stop_on_success=True)
    first = trajectory.first_success
    queries = torch.where(first > 0, first, budget).double()
    mean, median, share = float(queries.mean()), float(queries.median()), float((first > 0).double().mean())
    return Reached(mean=mean, median=median, success=share)
