"""Optimizers as a comparison runs them: with the settings that it found for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from zoracle.comparison.tune import Criterion, tunable, tune, untouched
from zoracle.evaluation.pool import Pool
from zoracle.evaluation.spec import RunSpec
from zoracle.optimizers.base import Optimizer, directions_of, with_directions, with_settings
from zoracle.results.tuned import Tuned, tuned
from zoracle.tasks.base import Task
from zoracle.tasks.config import task_config

#: What is done about the step sizes of hand-designed optimizers whose settings are left at their defaults:
#: "stored" takes those tuned on the task's validation problems where some are shipped, "fresh" tunes them in this
#: run, "never" keeps the defaults.
Tuning = Literal["stored", "fresh", "never"]

#: Told the optimizer's label, steps done and steps in all.
OnProgress = Callable[[str, int, int], None]

#: Where settings came from that are nobody's choice.
UNTUNED = "defaults, none tuned"


class Entry(NamedTuple):
    """One optimizer as it will run."""

    label: str
    optimizer: Optimizer[Any, Any]
    steps: int
    source: str


def make_entry(
    task: Task,
    label: str,
    optimizer: Optimizer[Any, Any],
    spec: RunSpec,
    tuning: Tuning,
    notes: list[str],
    records: Sequence[Tuned] = (),
) -> Entry:
    """An optimizer with the q asked for and, where its own are defaults, the settings tuned for it.

    Args:
        task: what it runs on.
        label: its name.
        optimizer: as it was given.
        spec: how it runs.
        tuning: what is done about defaults.
        notes: told where settings come from.
        records: settings that the user gave; those for this optimizer are taken, whatever they were tuned on.
    """
    optimizer = with_directions(optimizer, spec.num_directions)
    steps = spec.steps_of(optimizer, task)
    name = tunable(optimizer)
    if name is None or not untouched(optimizer):
        return Entry(label, optimizer, steps, "given")
    own = next((record for record in records if record.optimizer == name), None)
    if own is not None:
        notes.append(sentence(label, own, f"given, for {own.steps} steps"))
        return Entry(label, with_settings(optimizer, **own.chosen), steps, "tuned")
    if tuning != "stored":
        return Entry(label, optimizer, steps, "tuned in this run" if tuning == "fresh" else "defaults")
    q = directions_of(optimizer)
    others_default = optimizer.config == with_directions(type(optimizer)(), q).config
    record = tuned(task_config(task), name, steps, q) if others_default else None
    if record is None:
        return Entry(label, optimizer, steps, UNTUNED)
    notes.append(sentence(label, record, "stored"))
    return Entry(label, with_settings(optimizer, **record.chosen), steps, "tuned")


class FreshTuning(NamedTuple):
    """The search for step sizes within a run."""

    task: Task
    spec: RunSpec
    """Of the run."""
    criterion: Criterion
    pieces: Path | None
    """Where the run keeps what is done."""
    workers: Pool | None
    on_progress: OnProgress

    def tune(self, entries: Sequence[Entry], notes: list[str]) -> tuple[list[Entry], list[Tuned]]:
        """Tune the optimizers that are to be tuned in this run."""
        ready: list[Entry] = []
        records: list[Tuned] = []
        spec = self.spec
        for i, entry in enumerate(entries):
            if entry.source != "tuned in this run":
                ready.append(entry)
                continue
            record = tune(
                self.task,
                entry.optimizer,
                RunSpec(
                    split="valid", seeds=spec.seed_list[:1], steps=entry.steps, dtype=spec.dtype, device=spec.device
                ),
                criterion=self.criterion,
                resume_dir=None if self.pieces is None else self.pieces / "tuning" / folder(i, entry.label),
                on_progress=labelled(self.on_progress, f"tuning {entry.label}"),
                workers=self.workers,
            )
            records.append(record)
            notes.append(sentence(entry.label, record, "found in this run"))
            ready.append(entry._replace(optimizer=with_settings(entry.optimizer, **record.chosen)))
        return ready, records


def sentence(label: str, record: Tuned, how: str) -> str:
    """The note for the reader about tuned settings."""
    settings = ", ".join(f"{name} = {value:.4g}" for name, value in record.chosen.items())
    edge = f"; {', '.join(record.on_edge)} on the edge of the grid" if record.on_edge else ""
    return (
        f"{label}: {settings}, tuned on {record.problems} problems of {record.task}'s {record.split} split "
        f"by {record.criterion} ({how}{edge})"
    )


def folder(index: int, label: str) -> str:
    """The name of the folder that an optimizer's shards lie in."""
    return f"{index:02d}-" + re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip(".-")[:60]


def labelled(told: OnProgress, label: str) -> Callable[[int, int], None]:
    """Progress of one optimizer, told with its label."""
    return lambda done, total: told(label, done, total)
