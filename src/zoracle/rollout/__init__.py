"""The one optimization loop, the oracle that counts its queries, and what survives an interruption."""

from zoracle.rollout.loop import Queue, Snapshot, Step, blank, rollout, take_step

__all__ = ["Queue", "Snapshot", "Step", "blank", "rollout", "take_step"]
