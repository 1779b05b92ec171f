"""The optimization loop, the oracle that counts its queries, and checkpoints and journals."""

from __future__ import annotations

from zoracle.rollout.loop import Queue, Snapshot, Step, rollout, take_step
from zoracle.rollout.oracle import Oracle
from zoracle.rollout.record import blank

__all__ = ["Oracle", "Queue", "Snapshot", "Step", "blank", "rollout", "take_step"]
