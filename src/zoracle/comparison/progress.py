"""Progress as a terminal shows it: how far, what came of it so far, how fast, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from zoracle.comparison.entries import OnProgress, labelled
from zoracle.evaluation.evaluate import OnStatus, Status


class Display:
    """Passes progress on, and draws a line for each optimizer where there are bars.

    Args:
        bars: where to draw; None draws nothing.
        on_progress: told of every step as well.
    """

    def __init__(self, bars: Progress | None, on_progress: OnProgress | None) -> None:
        self.bars = bars
        self.on_progress = on_progress
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}

    def progress(self, label: str, done: int, total: int) -> None:
        """Steps done and in all."""
        if self.bars is not None:
            self.bars.update(self._task(label), completed=done, total=total)
        if self.on_progress is not None:
            self.on_progress(label, done, total)

    def steps_of(self, label: str) -> Callable[[int, int], None]:
        """Reports the steps of one optimizer."""
        return labelled(self.progress, label)

    def status_of(self, label: str) -> OnStatus | None:
        """Reports the results so far of one optimizer; None if they are not used."""
        bars = self.bars
        if bars is None:
            return None

        def tell(status: Status) -> None:
            began, before = self._began.setdefault(label, (time.monotonic(), status.queries))
            bars.update(self._task(label), told=describe(status, status.queries - before, time.monotonic() - began))

        return tell

    def _task(self, label: str) -> TaskID:
        if self.bars is not None and label not in self._tasks:
            self._tasks[label] = self.bars.add_task(label, total=None, told="")
        return self._tasks[label]


def describe(status: Status, queries: int, seconds: float) -> str:
    """A status in a few words.

    Args:
        status: so far.
        queries: points evaluated in these seconds; a run that continues counts from there.
        seconds: time that this took.
    """
    pace = f", {queries / seconds:,.0f}/s" if seconds > 0 and queries else ""
    attacked = status.problems - status.misclassified
    broken = status.successes - status.misclassified
    return f"{broken} of {attacked} succeeded, {status.queries:,} queries{pace}"


@contextmanager
def shown(console: Console | None, on_progress: OnProgress | None) -> Iterator[Display]:
    """Shows progress on a terminal for as long as a run lasts; elsewhere it is only passed on."""
    if console is None or not console.is_terminal:
        yield Display(None, on_progress)
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=None),
        TextColumn("{task.fields[told]}", markup=False), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bars:
        yield Display(bars, on_progress)
