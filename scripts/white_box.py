"""Projected gradient descent on the margin, to estimate how many images attacks without gradients can break at most.

    python -m scripts.white_box --task cifar10 --network robust --eps 8/255 --split test --restarts 4

prints how many of a split's correctly classified images fall. Source: Madry et al. (2018), with their step size of
2.5 eps / steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.keyed import generator
from zoracle.tasks import AttackTask, task

#: Step size times the number of steps, in radii.
_PATH = 2.5


def correct(attack: AttackTask, ids: Sequence[int]) -> tuple[int, ...]:
    """Those of some images that the classifier gets right."""
    broken = attack.objective(tuple(ids)).evaluate(torch.zeros(len(ids), attack.dim), torch.arange(len(ids))).success
    assert broken is not None  # an attack always reports success
    return tuple(i for i, gone in zip(ids, broken.tolist(), strict=True) if not gone)


def broken_by_gradients(attack: AttackTask, ids: tuple[int, ...], *, restarts: int, steps: int) -> Tensor:
    """Whether projected gradient descent breaks each image (P,), at any step of any restart.

    Args:
        attack: within a ball.
        ids: of images.
        restarts: random starting points, uniform in the box around the ball and projected.
        steps: of each.

    Raises:
        InputError: the task has no ball, or its model no gradient.
    """
    norm, eps = attack.threat.norm, attack.threat.eps
    if eps is None:
        raise InputError(f"task {attack.name} has no eps; expected the radius of a ball")
    objective, rows = attack.objective(ids), torch.arange(len(ids))
    broken = torch.zeros(len(ids), dtype=torch.bool)
    for restart in range(restarts):
        x = eps * (2 * torch.rand((len(ids), attack.dim), generator=generator(restart)) - 1)
        for _ in range(steps):
            x = objective.project(x, rows)
            _, gradient = objective.gradient(x, rows)
            length = gradient.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
            x = x - _PATH * eps / steps * (gradient.sign() if norm == "linf" else gradient / length)
            success = objective.evaluate(objective.project(x, rows), rows).success
            assert success is not None
            broken |= success
    return broken


def main(words: Sequence[str] | None = None) -> None:
    """Print the count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--task", required=True)
    parser.add_argument("--network", help="of the task, where it has several")
    parser.add_argument("--norm", choices=("linf", "l2"), default="linf")
    parser.add_argument("--eps", type=lambda told: float(Fraction(told)), required=True, help="such as 8/255")
    parser.add_argument("--split", choices=("valid", "test"), default="valid")
    parser.add_argument("--problems", type=int, help="first images that are classified correctly; all by default")
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60)
    asked = parser.parse_args(words)
    settings: dict[str, Any] = {"network": asked.network} if asked.network else {}
    try:
        attack = task(asked.task, norm=asked.norm, eps=asked.eps, **settings)
        if not isinstance(attack, AttackTask):
            raise InputError(f"task {asked.task} is not an attack on images")
        ids = correct(attack, attack.ids(asked.split))[: asked.problems]
        broken = broken_by_gradients(attack, ids, restarts=asked.restarts, steps=asked.steps)
    except InputError as error:
        parser.error(str(error))
    print(f"{int(broken.sum())} of {len(ids)} images are broken")


if __name__ == "__main__":
    main()
