"""Points evaluated once for a report, and kept in a file so that a repetition costs no query."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoracle.errors import CheckpointError
from zoracle.rollout.checkpoint import journal_path
from zoracle.rollout.journal import Journal
from zoracle.rollout.oracle import Oracle
from zoracle.storage.files import read_tensors, write_tensors


def once(
    oracle: Oracle,
    ask: Callable[[], Mapping[str, Tensor]],
    keep: Path | None,
    form: str,
    fingerprint: Mapping[str, Any],
) -> tuple[dict[str, Tensor], int]:
    """Query an oracle, or return the answers of an earlier call; each call is recorded as it is made.

    Args:
        oracle: a fresh oracle; it gets a journal.
        ask: queries it and returns tensors on the CPU.
        keep: a file for the tensors; None keeps nothing.
        form: name of the file's format.
        fingerprint: JSON values that identify the run of the file.

    Returns:
        The tensors, and the number of points lost to interruptions.

    Raises:
        CheckpointError: the file belongs to another run.
    """
    if keep is None:
        return dict(ask()), 0
    if keep.is_file():
        tensors, metadata = read_tensors(keep, sealed=True)
        if metadata.get("format") != form or metadata.get("fingerprint") != fingerprint:
            raise CheckpointError(f"{keep} belongs to another run; choose another folder")
        return tensors, int(tensors.pop("lost"))
    with Journal(journal_path(keep)) as journal:
        journal.resume(0, torch.zeros(oracle.objective.num_problems, dtype=torch.int64))
        oracle.journal = journal
        tensors = dict(ask())
        lost = journal.lost.sum()
        write_tensors(keep, {**tensors, "lost": lost}, {"format": form, "fingerprint": fingerprint})
        journal.forget(0)
    return tensors, int(lost)
