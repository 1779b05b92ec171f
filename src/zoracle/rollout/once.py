"""A few points evaluated once, to report: kept in a file, so that doing it again costs no query."""

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
    """What is asked of an oracle, or what it was answered in an earlier call; each call is noted as it is made.

    Args:
        oracle: fresh; it gets a journal.
        ask: asks it, and returns tensors on the CPU.
        keep: a file for them; None keeps nothing.
        form: names the form of the file.
        fingerprint: JSON values; what it belongs to.

    Returns:
        The tensors, and how many points were lost to interruptions.

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
