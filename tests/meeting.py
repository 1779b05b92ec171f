"""Processes of a group, played by threads of this one: tests of what they share need no torchrun."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import torch

from zoracle.group import Group

T = TypeVar("T")


class Member(Group):
    """One of several that add up by handing each other tensors, in the order of their ranks."""

    def __init__(self, rank: int, table: list[torch.Tensor], barrier: threading.Barrier) -> None:
        super().__init__()
        self.rank, self.size = rank, len(table)
        self.table, self.barrier = table, barrier

    def sum(self, numbers):
        return sum(self._all(numbers)[1:], start=self._seen[0])

    def first(self, numbers):
        return self._all(numbers)[0]

    def _all(self, numbers):
        self.exchanged += numbers.numel() * numbers.element_size()
        self.table[self.rank] = numbers.clone()
        self.barrier.wait(60)
        self._seen = [one.clone() for one in self.table]
        self.barrier.wait(60)
        return self._seen


def together(number: int, work: Callable[[Group], T]) -> list[T]:
    """What each member of a group of so many gives."""
    table, barrier = [torch.zeros(0)] * number, threading.Barrier(number)
    found: list[T] = [None] * number
    errors: list[BaseException] = []

    def one(rank: int) -> None:
        try:
            found[rank] = work(Member(rank, table, barrier))
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    return found
