"""Runs of one method on one problem, each stored in its own file, so that an experiment can resume."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from zoracle import __version__
from zoracle.errors import CheckpointError
from zoracle.evaluation import Workers
from zoracle.experiments.context import Context
from zoracle.experiments.untuned.asking import Answer
from zoracle.storage import read_tensors, write_tensors

_FORMAT = "zoracle-untuned-1"


class Shard(NamedTuple):
    """A run to make."""

    path: Path
    """The file that stores it."""
    about: Mapping[str, Any]
    """JSON values; everything that the run depends on."""


class Ran(NamedTuple):
    """A completed run."""

    answer: Answer
    seconds: float


def ran(context: Context, label: str, shards: Sequence[Shard], answer: Callable[[Shard], Answer]) -> dict[Path, Ran]:
    """Runs by file; missing ones are made first.

    Args:
        context: of the experiment; counts the points, and shares the runs among its workers.
        label: for progress.
        shards: what is to be run.
        answer: makes one; a function of a module, so that a worker can import it.

    Raises:
        CheckpointError: a file holds another run.
    """
    found = {shard.path: kept for shard in shards if (kept := read(shard)) is not None}
    tell = context.display.steps_of(label)
    missing = [shard for shard in shards if shard.path not in found]
    own = isinstance(context.workers, Workers)  # other processes wait for shards of evaluations, which these are not
    workers = min(context.workers.number, len(missing)) if context.workers is not None and own else 1
    with _pool(workers) if workers > 1 else nullcontext() as pool:
        made: Iterator[Ran]
        if pool is None:
            made = (_make(shard, answer) for shard in missing)
        else:
            made = pool.map(_make, missing, [answer] * len(missing))
        for shard, one in zip(missing, made, strict=True):
            found[shard.path] = one
            tell(len(found), len(shards))
    for one in found.values():
        context.meter.add("optimise", one.answer.queries)
        context.meter.time(one.seconds, one.answer.queries)
    return found


def read(shard: Shard) -> Ran | None:
    """The run stored in a file; None if there is no file.

    Raises:
        CheckpointError: it is of another run, or damaged.
    """
    if not shard.path.is_file():
        return None
    tensors, metadata = read_tensors(shard.path, sealed=True)
    if metadata.get("format") != _FORMAT or metadata.get("about") != _about(shard):
        raise CheckpointError(f"{shard.path} belongs to another run; choose another folder, or the same settings")
    curve = [(int(queries), value) for queries, value in tensors["curve"].tolist()]
    value, queries, seconds = tensors["value"].tolist()
    return Ran(Answer(value, int(queries), curve, str(metadata["failure"])), seconds)


def _make(shard: Shard, answer: Callable[[Shard], Answer]) -> Ran:
    began = time.perf_counter()
    made = answer(shard)
    seconds = time.perf_counter() - began
    tensors = {
        "curve": torch.tensor(made.curve, dtype=torch.float64).view(-1, 2),
        "value": torch.tensor([made.value, made.queries, seconds], dtype=torch.float64),
    }
    metadata = {"format": _FORMAT, "about": _about(shard), "failure": made.failure}
    write_tensors(shard.path, tensors, metadata)
    return Ran(made, seconds)


def _about(shard: Shard) -> dict[str, Any]:
    """As it is read back."""
    asked: dict[str, Any] = json.loads(json.dumps({"zoracle": __version__, **shard.about}))
    return asked


def _pool(workers: int) -> Executor:
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
