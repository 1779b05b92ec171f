"""Several processes on one training: all know the seed, so only losses are exchanged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.distributed as dist

from zoracle.errors import InputError
from zoracle.finetune.methods.base import Probe
from zoracle.group import Group

Share = Literal["data", "directions"]


class Ranks(Group):
    """The processes of a group of ``torch.distributed``, or this one alone if none was initialised.

    Args:
        share: what is divided. "data": each process evaluates all probes on its own part of the batch, and losses are
            averaged. "directions": each evaluates some of the probes, on the same batch.
        group: a group of ``torch.distributed``; None uses the default group.
    """

    def __init__(self, share: Share = "data", group: dist.ProcessGroup | None = None) -> None:
        if share not in ("data", "directions"):
            raise InputError(f"share is {share!r}; expected 'data' or 'directions'")
        super().__init__(group)
        self.share = share

    def measure(self, probes: Sequence[Probe], evaluate: Callable[[Probe], float]) -> tuple[float, ...]:
        """The loss at each probe, identical in every process; NaN if it is not finite in one of them."""
        own = range(len(probes)) if self.share == "data" else range(self.rank, len(probes), self.size)
        losses = torch.zeros(len(probes), dtype=torch.float64)
        for i in own:
            value = evaluate(probes[i])
            losses[i] = value if math.isfinite(value) else math.nan
        losses = self.sum(losses)
        if self.share == "data":
            losses = losses / self.size
        return tuple(losses.tolist())

    def agree(self, values: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
        """Rows of numbers of the first process; those of the others are ignored."""
        if self.size == 1:
            return [tuple(row) for row in values]
        width = self.first(torch.tensor([len(values), len(values[0]) if values else 0], dtype=torch.int64))
        rows, columns = (int(number) for number in width)
        table = torch.zeros((rows, columns), dtype=torch.float64)
        if self.leads and values:
            table = torch.tensor(values, dtype=torch.float64)
        return [tuple(row) for row in self.first(table).tolist()]

    def check_same(self, digest: str) -> None:
        """Raise an error if processes have different weights.

        Raises:
            InputError: the weights of a process differ.
        """
        if self.size == 1:
            return
        number = int(digest[:15], 16)
        first = int(self.first(torch.tensor([number], dtype=torch.int64))[0])
        differ = self.sum(torch.tensor([float(first != number)], dtype=torch.float64))
        if float(differ):
            raise InputError("the processes start with different weights; load the same weights, or use the same seed")
