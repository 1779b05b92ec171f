"""Results of evaluations, and the definitions of their metrics."""

from __future__ import annotations

from zoracle.results.intervals import clustered
from zoracle.results.metrics import Summary, paired, queries_to_success, ratio, summarise
from zoracle.results.result import Result
from zoracle.results.tuned import Tuned, read_tuned, tuned, write_tuned

__all__ = [
    "Result",
    "Summary",
    "Tuned",
    "clustered",
    "paired",
    "queries_to_success",
    "ratio",
    "read_tuned",
    "summarise",
    "tuned",
    "write_tuned",
]
