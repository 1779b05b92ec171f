"""Pieces of an evaluation shared between processes: each is independent and keyed, so who runs it changes nothing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from zoracle.evaluation.jobs import check_jobs, job
from zoracle.evaluation.workers import Workers
from zoracle.optimizers.base import Optimizer
from zoracle.storage.files import read_tensors
from zoracle.tasks.base import Task


class Piece(Protocol):
    """What is run and kept as one: a seed on some problems."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Of the problems."""

    @property
    def seed(self) -> int:
        """Of the repeat."""

    @property
    def steps(self) -> int:
        """T."""

    @property
    def batch(self) -> int | None:
        """Problems at once."""

    @property
    def stop_on_success(self) -> bool:
        """Whether a problem stops at its first success."""

    @property
    def check_start(self) -> bool:
        """Whether each problem's start is evaluated first."""

    @property
    def stem(self) -> Path | None:
        """Where it is kept, without a suffix."""


def batch_size(problems: int, seeds: int, batch: int | None, workers: int) -> int:
    """Problems in one piece: all, or as many as were asked for, or fewer so that every worker has as much to do."""
    whole = problems if batch is None else min(batch, problems)
    if workers == 1:
        return whole
    parts = min(problems, workers // math.gcd(seeds, workers))
    return min(whole, math.ceil(problems / parts))


def kept_size(folder: Path | None, ids: Sequence[int], seeds: Sequence[int]) -> int | None:
    """Problems in a piece of an interrupted run, as the first piece of a seed tells; None where there is none."""
    if folder is None:
        return None
    for path in (folder / f"seed-{seed}-batch-0{suffix}" for seed in seeds for suffix in (".safetensors", ".part")):
        if path.is_file():
            fingerprint = read_tensors(path)[1].get("fingerprint")
            wanted = fingerprint.get("ids_sha256") if isinstance(fingerprint, dict) else None
            digest = hashlib.sha256()  # as describe.ids_hash, of ever more ids
            for size, one in enumerate(ids, 1):
                digest.update(f" {one}".encode() if size > 1 else str(one).encode())
                if digest.hexdigest() == wanted:
                    return size
    return None


def share(
    workers: Workers,
    optimizer: Optimizer[Any, Any],
    task: Task,
    pieces: Iterable[Piece],
    *,
    budget: int | None,
    dtype: torch.dtype,
    device: torch.device | str,
    on_counts: Callable[[Sequence[int]], object],
) -> None:
    """Have workers run pieces; each leaves its result in its file.

    Args:
        workers: the processes.
        optimizer: a copy of it runs in each.
        task: what the problems are of.
        pieces: each has a stem.
        budget: points that each problem may cost at most.
        dtype: floating-point type of the points.
        device: where the points live.
        on_counts: told a few times a second how far all these pieces are together.

    Raises:
        InputError: task or optimizer cannot be made again in another process, or a piece failed.
        WorkerError: a worker died.
    """
    jobs = [
        job(
            optimizer,
            task,
            ids=piece.ids,
            seed=piece.seed,
            steps=piece.steps,
            budget=budget,
            batch=piece.batch,
            stop_on_success=piece.stop_on_success,
            check_start=piece.check_start,
            dtype=dtype,
            device=device,
            stem=str(piece.stem),
        )
        for piece in pieces
    ]
    if not jobs:
        return
    check_jobs(jobs[0], optimizer, task)
    every = tuple(dict.fromkeys(i for made in jobs for i in made.ids))
    task.objective(every, dtype=dtype, device=device)  # refuses unknown ids before a worker queries others
    workers.run(jobs, on_counts)
