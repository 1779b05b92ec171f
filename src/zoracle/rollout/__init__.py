"""The one optimization loop, the oracle that counts its queries, and what survives an interruption."""

from __future__ import annotations

from zoracle.rollout.loop import Queue, Snapshot, Step, rollout, take_step
from zoracle.rollout.oracle import Oracle
from zoracle.rollout.record import blank

__all__ = ["Oracle", "Queue", "Snapshot", "Step", "blank", "rollout", "take_step"]
