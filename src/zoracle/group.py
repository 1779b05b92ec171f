"""Processes of ``torch.distributed`` that do one thing together: sums, and what the first of them has."""

from __future__ import annotations

import secrets
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

#: Seconds that the first process waits for the others, and they for it.
_MEET_SECONDS = 600.0
_LOOK_SECONDS = 0.02


def join(backend: str = "gloo") -> None:
    """Initialise ``torch.distributed`` in a process that torchrun started, or started anew after one had died.

    ``init_process_group`` alone meets what the processes of before left in torchrun's store: addresses where nobody
    listens any more (pytorch/pytorch issue 135712). Here the processes agree on a part of the store that is new.

    Args:
        backend: "gloo" or "nccl".
    """
    store, rank, size = meet()
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


def meet() -> tuple[Any, int, int]:
    """A store that all processes of torchrun share and no earlier ones did; the rank of this one, and their number.

    Raises:
        RuntimeError: the others do not come.
    """
    store, rank, size = next(rendezvous("env://"))
    own = secrets.token_hex(8)
    deadline = time.monotonic() + _MEET_SECONDS
    store.set(f"zoracle/hello/{rank}", own)
    session = own
    if rank == 0:
        # Each is told the session together with its own word, so that none takes an earlier one for it.
        while store.add(f"zoracle/{session}/here", 0) < size - 1:
            for other in range(1, size):
                if store.check([f"zoracle/hello/{other}"]):
                    word = store.get(f"zoracle/hello/{other}").decode()
                    store.set(f"zoracle/welcome/{other}", f"{word} {session}")
            _wait(deadline)
    else:
        told = ["", ""]
        while told[0] != own:
            _wait(deadline)
            if store.check([f"zoracle/welcome/{rank}"]):
                told = store.get(f"zoracle/welcome/{rank}").decode().split()
        session = told[1]
        store.add(f"zoracle/{session}/here", 1)
    return dist.PrefixStore(f"zoracle/{session}", store), rank, size  # type: ignore[attr-defined]


def _wait(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise RuntimeError(f"not all processes of torchrun came together within {_MEET_SECONDS:.0f} seconds")
    time.sleep(_LOOK_SECONDS)


class Group:
    """The processes of a group of ``torch.distributed``, or this one alone where none was initialised.

    Args:
        group: of ``torch.distributed``; None takes the default one.

    Attributes:
        rank: which process this is, from 0.
        size: how many there are.
        exchanged: bytes that this process gave to the others so far, or got from them.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        there = dist.is_available() and dist.is_initialized()
        self.size = dist.get_world_size(group) if there else 1
        self.rank = dist.get_rank(group) if there else 0
        self.exchanged = 0

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which writes files."""
        return self.rank == 0

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over all processes, on the CPU; the same bits in each of them."""
        if self.size == 1:
            return numbers
        moved = self._moved(numbers)
        dist.all_reduce(moved, group=self.group)
        return moved.cpu()

    def first(self, numbers: Tensor) -> Tensor:
        """What the first process has, on the CPU; of the others only type and shape count."""
        if self.size == 1:
            return numbers
        moved = self._moved(numbers)
        source = 0 if self.group is None else dist.get_global_rank(self.group, 0)
        dist.broadcast(moved, source, group=self.group)
        return moved.cpu()

    def _moved(self, numbers: Tensor) -> Tensor:
        """A copy where the backend wants its tensors; counted."""
        self.exchanged += numbers.numel() * numbers.element_size()
        nccl = dist.get_backend(self.group) == "nccl"
        device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
        return numbers.to(device, copy=True)
