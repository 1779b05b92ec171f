"""Validation of trained controllers beside Square Attack with its best setting: the table of their card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from zoracle import keyed
from zoracle.errors import InputError
from zoracle.metatrain.controllers import Prey, begin, margins
from zoracle.metatrain.zoo import Member, trained
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.search.square import SquareAttack
from zoracle.results import clustered
from zoracle.settings import Number, Positive, Size
from zoracle.state import select
from zoracle.tasks import task
from zoracle.tasks.cifar10 import classifier
from zoracle.tasks.image_attack import ImageAttackTask

#: The p_init that Square Attack is tuned over, as in ``reproduce ball-attacks``.
P_INITS = (0.05, 0.1, 0.2, 0.4, 0.8)

#: Keys the networks of the validation apart from those of the training.
_APART = 5


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network and ball to validate on.

    Attributes:
        reach: radius of the linf ball, in units of 1 / 255.
        target: name of a network of the task cifar10; or
        network: one to train, whose images have the side of its task's.
        images: at most so many of the validation split, which the network reads correctly.
        tuned: as many of them as p_init of Square Attack is chosen on.
        budget: queries for each.
        seeds: repeats.
    """

    reach: Positive
    target: str | None = None
    network: Member | None = None
    images: Number = 100
    tuned: Size = 30
    budget: Size = 1000
    seeds: Size = 1


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    network: str
    reach: float
    images: int
    budget: int
    mean: float
    success: float
    p_init: float
    rival_mean: float
    rival_success: float
    difference: float
    low: float
    high: float


def validate(
    optimizer: Optimizer[Any, Any], checks: Sequence[Check], folder: Path, seed: int, told: Callable[[str], None]
) -> list[Found]:
    """The rows of the networks whose data are available; for the others a line is reported.

    Args:
        optimizer: the controllers.
        checks: what is attacked.
        folder: for ``validation/``, the networks that are trained for it.
        seed: keys the networks and the runs.
        told: called with a line about each row.
    """
    rows = []
    for check in checks:
        try:
            prey = _prey(check, folder, seed)
        except InputError as error:
            told(f"no validation on {check.target or check.network}: {error}")
            continue
        row = _row(optimizer, prey, check, keyed.mix(seed, 11))
        told(
            f"{row.network}, {row.reach:g} / 255: {row.mean:.1f} queries, Square with p_init = {row.p_init:g} "
            f"{row.rival_mean:.1f}, difference {row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}]"
        )
        rows.append(row)
    return rows


def table(rows: Sequence[Found]) -> str:
    """The rows in Markdown."""
    lines = [
        "| network | radius | images | budget | mean | success | Square's p_init | mean | success | difference |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in rows:
        apart = f"{r.difference:+.1f} [{r.low:+.1f}, {r.high:+.1f}]"
        lines.append(
            f"| {r.network} | {r.reach:g} / 255 | {r.images} | {r.budget:,} | {r.mean:.1f} | {r.success:.0%} "
            f"| {r.p_init:g} | {r.rival_mean:.1f} | {r.rival_success:.0%} | {apart} |"
        )
    return "\n".join(lines)


def queries(optimizer: Optimizer[Any, Any], prey: Prey, reach: float, budget: int, seed: int) -> Tensor:
    """Queries to the first success of each image, (n,) int64; the budget, and one more, where there is none."""
    images, labels = prey.images, prey.labels
    state = begin(optimizer, images, reach, budget, seed)
    alive = torch.arange(len(images))
    first = torch.full((len(images),), budget + 1)
    for step in range(budget):
        asked = optimizer.ask(state)
        values = margins(prey, images[alive], asked.points, labels[alive])
        state = optimizer.tell(state, asked, values)
        won = values[:, 0] <= 0
        first[alive[won]] = step + 1
        going = (~won).nonzero().squeeze(1)
        if not len(going):
            break
        alive, state = alive[going], select(state, going)
    return first


def _row(optimizer: Optimizer[Any, Any], prey: Prey, check: Check, seed: int) -> Found:
    reach, budget = check.reach / 255, check.budget
    few = prey._replace(images=prey.images[: check.tuned], labels=prey.labels[: check.tuned])
    tried = {p: queries(SquareAttack(p_init=p), few, reach, budget, seed).clamp(max=budget) for p in P_INITS}
    p_init = min(P_INITS, key=lambda p: float(tried[p].double().mean()))
    own, rival = (
        torch.stack([queries(chosen, prey, reach, budget, seed + n) for n in range(check.seeds)])
        for chosen in (optimizer, SquareAttack(p_init=p_init))
    )
    spent, rival_spent = (first.clamp(max=budget).double() for first in (own, rival))
    apart = clustered(spent - rival_spent)
    return Found(
        network=prey.name,
        reach=check.reach,
        images=len(prey.images),
        budget=budget,
        mean=float(spent.mean()),
        success=float((own <= budget).double().mean()),
        p_init=p_init,
        rival_mean=float(rival_spent.mean()),
        rival_success=float((rival <= budget).double().mean()),
        difference=apart.mean,
        low=apart.low,
        high=apart.high,
    )


def _prey(check: Check, folder: Path, seed: int) -> Prey:
    """The network of a check, and the validation images of its task that it reads correctly."""
    if (check.target is None) == (check.network is None):
        raise InputError("a row of the validation has a target or a network; expected one of the two")
    if check.network is not None:
        name, source = check.network.name, check.network.task
        network: Callable[[Tensor], Tensor] = trained(check.network, folder / "validation", seed=seed + _APART)[0]
    else:
        name, source = str(check.target), "cifar10"
        network = classifier(name)
    made = task(source)
    assert isinstance(made, ImageAttackTask)  # the networks of a zoo read no others
    data = made.pick(made.ids("valid"))
    x = data.images.float() / made.white
    with torch.no_grad():
        right = (network(x).argmax(1) == data.labels).nonzero().squeeze(1)[: check.images]
    return Prey(name, network, x[right], data.labels[right], (check.reach / 255,))
