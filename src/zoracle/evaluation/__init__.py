"""One optimizer on the problems of a task under several seeds, shared between processes."""

from __future__ import annotations

from zoracle.evaluation.evaluate import evaluate
from zoracle.evaluation.pool import Pool
from zoracle.evaluation.spec import RunSpec
from zoracle.evaluation.status import OnProgress, OnStatus, Status
from zoracle.evaluation.workers import Workers, check_workers, started

__all__ = ["OnProgress", "OnStatus", "Pool", "RunSpec", "Status", "Workers", "check_workers", "evaluate", "started"]
