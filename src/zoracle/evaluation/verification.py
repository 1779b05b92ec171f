"""Verification of successes at the end, one query per image, since a target may not answer the same twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoracle.objectives.attack import ImageAttack
from zoracle.results.result import Result
from zoracle.rollout.once import once
from zoracle.rollout.oracle import Oracle
from zoracle.types import Purpose

_FORMAT = "zoracle-verified-1"


class Verified(NamedTuple):
    """Result of a verification."""

    asked: Tensor
    """(S, P) bool, images that were broken, and queried again."""
    holds: Tensor
    """(S, P) bool, those that succeeded again."""
    lost: int
    """Points requested again because an interruption lost their answers; in no other count."""

    @property
    def queries(self) -> int:
        """Points evaluated, one per image."""
        return int(self.asked.sum())

    @property
    def failed(self) -> int:
        """Images that were broken, but not at the second query."""
        return int((self.asked & ~self.holds).sum())


def verify(objective: ImageAttack, result: Result, keep: Path | None, fingerprint: Mapping[str, Any]) -> Verified:
    """Query the adversarial image of each broken image once more, as it is saved.

    Args:
        objective: the attack on all images of the result.
        result: of (S, P).
        keep: a file for the answers, so that a repetition costs no query; None keeps nothing.
        fingerprint: JSON values that identify the run of the file.

    Raises:
        CheckpointError: the file belongs to another run.
    """
    asked = result.attacked & result.success_ever
    oracle = Oracle(objective)

    def ask() -> dict[str, Tensor]:
        holds = torch.zeros_like(asked)
        for seed in range(asked.shape[0]):
            rows = asked[seed].nonzero().flatten()
            if len(rows):
                points = result.success_point[seed, rows].unsqueeze(1)
                success = oracle.evaluate(points, rows, purpose=Purpose.MONITOR).success
                assert success is not None  # there was a success
                holds[seed, rows] = success[:, 0].cpu()
        return {"holds": holds}

    tensors, lost = once(oracle, ask, keep, _FORMAT, fingerprint)
    return Verified(asked, tensors["holds"], lost)
