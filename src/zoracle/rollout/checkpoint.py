"""The checkpoint of a run, with its journal: at any moment the two hold every point paid for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoracle.errors import CheckpointError
from zoracle.rollout.loop import Snapshot
from zoracle.rollout.oracle import Oracle
from zoracle.state import flatten, unflatten
from zoracle.storage.files import read_tensors, write_tensors
from zoracle.storage.fingerprint import differences
from zoracle.types import Purpose, Trajectory

_FORMAT = "zoracle-run-3"
#: Fields of a trajectory with a row for each step.
_BY_STEP = ("loss", "best", "queries")


def journal_path(checkpoint: Path) -> Path:
    """Path of the journal of a checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name}.calls")


def save(path: Path, fingerprint: dict[str, Any], now: Snapshot, oracle: Oracle, failed: bool) -> None:
    """Write the journal, then the checkpoint, then empty the journal, so that every point is always in one of them."""
    journal = oracle.journal
    counts = oracle.counts
    epoch = 0
    if journal is not None and failed:
        again = journal.carry()
        epoch = journal.epoch
        counts = {purpose: count - again[purpose] for purpose, count in counts.items()}
    elif journal is not None:
        epoch = journal.epoch + 1
    tensors = {"running": now.running, **flatten(_shorter(now.trajectory), "trajectory")}
    if now.running.numel():
        tensors.update(flatten(now.state))
    tensors.update({f"counts.{purpose}": count for purpose, count in counts.items()})
    metadata: dict[str, Any] = {"format": _FORMAT, "fingerprint": fingerprint, "knows": dict(oracle.knows)}
    if journal is not None:
        tensors["lost"] = journal.lost
        metadata["epoch"] = epoch
    write_tensors(path, tensors, metadata)
    if journal is not None and not failed:
        journal.forget(epoch)


def load(
    path: Path, fingerprint: dict[str, Any], begin: Callable[[Tensor], Any], trajectory: Trajectory, oracle: Oracle
) -> Snapshot:
    """Load what :func:`save` wrote, and set the oracle's counts and its journal accordingly.

    Args:
        path: the checkpoint.
        fingerprint: fingerprint of the resuming run.
        begin: rows of problems to a state of theirs, which tells shapes and types.
        trajectory: blank trajectory of a run of the same length.
        oracle: a fresh one.

    Raises:
        CheckpointError: the checkpoint is truncated, foreign, or belongs to another run.
    """
    tensors, metadata = read_tensors(path, sealed=True)
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not the checkpoint of a run of this version; choose another file")
    if differ := differences(metadata.get("fingerprint") or {}, fingerprint):
        told = "; ".join(differ[:3]) + ("; ..." if len(differ) > 3 else "")
        raise CheckpointError(f"{path} belongs to another run ({told}); choose another file, or the same settings")
    counts = dict(oracle.counts)
    for purpose, count in counts.items():
        counts[purpose] = unflatten(count, tensors, f"counts.{purpose}")
    taken = tensors["trajectory.loss"].shape[0] if "trajectory.loss" in tensors else 0
    kept = _longer(unflatten(_shorter(trajectory, taken), tensors, "trajectory"), trajectory)
    running = tensors["running"]
    state = unflatten(begin(running), tensors) if running.numel() else None
    lost = unflatten(torch.zeros_like(counts[Purpose.OPTIMISE]), tensors, "lost")
    oracle.counts = counts
    oracle.knows = {Purpose(purpose): bool(known) for purpose, known in metadata["knows"].items()}
    if oracle.journal is not None:
        oracle.journal.resume(int(metadata["epoch"]), lost)
    return Snapshot(running, state, charged(kept, counts[Purpose.OPTIMISE]))


def _shorter(trajectory: Trajectory, rows: int | None = None) -> Trajectory:
    """The trajectory without the rows of steps that nobody took yet, one excepted: it holds what was paid so far."""
    if rows is None:
        rows = int(trajectory.steps.max()) + 1 if trajectory.steps.numel() else 1
    return trajectory._replace(**{name: getattr(trajectory, name)[:rows] for name in _BY_STEP})


def _longer(short: Trajectory, full: Trajectory) -> Trajectory:
    """The inverse: rows of steps not taken repeat the last one, except for the loss."""
    room, have = full.loss.shape[0], short.loss.shape[0]
    if have == room:
        return short
    more = {name: getattr(short, name)[-1:].expand(room - have, -1) for name in _BY_STEP}
    more["loss"] = full.loss[have:]
    return short._replace(**{name: torch.cat((getattr(short, name), rows)) for name, rows in more.items()})


def charged(trajectory: Trajectory, paid: Tensor) -> Trajectory:
    """The trajectory with all points paid for, including those of a failed call."""
    room = trajectory.queries.shape[0]
    lost = paid - trajectory.total_queries
    if room == 0 or not bool(lost.any()):
        return trajectory
    later = torch.arange(room).unsqueeze(1) >= trajectory.steps.clamp(max=room - 1)
    return trajectory._replace(queries=trajectory.queries + torch.where(later, lost, 0))
