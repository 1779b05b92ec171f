"""Common parts of all experiments: comparisons, trainings and measurements that resume after interruptions."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoracle.comparison import (
    GRIDS,
    Axis,
    Criterion,
    Display,
    folder,
    load_named_optimizers,
    sentence,
    tunable,
    tune,
    untouched,
    use_of,
)
from zoracle.errors import CheckpointError, InputError
from zoracle.evaluation import Pool, RunSpec, evaluate
from zoracle.experiments.work import Meter
from zoracle.metatrain import TrainConfig, Trainer, UnrollReport
from zoracle.optimizers import Loaded, Optimizer, Use, directions_of, with_directions, with_settings
from zoracle.reporting import Row, rows_of
from zoracle.results import Result, Tuned, tuned
from zoracle.storage import (
    RunFolder,
    config_hash,
    ids_hash,
    optimizer_config,
    read_tensors,
    release_series,
    write_tensors,
)
from zoracle.tasks import Task, available, names, task, task_config

_FORMAT = "zoracle-measurement-1"
_HISTORY = "history.jsonl"
_HOW = {"tuned": "stored", "tuned in this run": "found in this run"}

Named = Sequence[tuple[str, Optimizer[Any, Any]]]


class Compared(NamedTuple):
    """Optimizers on the same problems and seeds."""

    rows: list[Row]
    """The best first."""
    results: dict[str, Result]
    """In the order given."""


class Trained(NamedTuple):
    """Result of a meta-training."""

    optimizer: Optimizer[Any, Any]
    history: dict[str, Tensor]
    """meta_loss and ratio (unrolls,) of each unroll."""
    validated: float
    """The best validation."""
    seconds: float
    evaluations: dict[str, int]
    """Points and true gradients evaluated in training, by purpose; validation is counted separately."""


class Context:
    """One run of an experiment.

    Args:
        run: its folder.
        settings: of its form.
        quick: whether it is the quick form.
        optimizers: names or folders that the user gave, separated by commas; None uses the experiment's own.
        workers: processes that share evaluations.
        display: where progress is shown.

    Attributes:
        notes: notes on the run for the reader.
        tuned: step sizes from a search or from storage.
        meter: counts the work.
    """

    def __init__(
        self,
        run: RunFolder,
        settings: Any,
        quick: bool,
        optimizers: str | None,
        workers: Pool | None,
        display: Display,
    ) -> None:
        self.run, self.settings, self.quick, self.optimizers = run, settings, quick, optimizers
        self.workers, self.display = workers, display
        self.notes: list[str] = []
        self.tuned: list[Tuned] = []
        self._searched: dict[str, Tuned] = {}
        self.meter = Meter()

    def task(self, name: str, **settings: Any) -> Task:
        """A task; a quick run uses the digits attack in place of an attack whose data are missing.

        Raises:
            InputError: the data are missing in a full run.
        """
        if not self.quick:
            return task(name, **settings)
        try:
            if name in names() and not available(name):
                raise InputError("no target network")  # check first, since missing images alone would be downloaded
            made = task(name, **settings)
            made.ids("test")
        except InputError as error:
            self.note(f"{name} cannot run ({error}); this quick run uses the digits attack instead")
            return task("digits")
        return made

    def learned(self, made: Task | None, default: str = "") -> list[tuple[str, Loaded]]:
        """The user's optimizers for a task or for any task, or the experiment's own."""
        return load_named_optimizers(self.optimizers or default, Use() if made is None else use_of(made))

    def note(self, text: str) -> None:
        """Add a note for the reader, once."""
        if text not in self.notes:
            self.notes.append(text)

    def compared(
        self,
        key: str,
        made: Task,
        optimizers: Named,
        ids: Sequence[int],
        *,
        seeds: int,
        budget: int,
        valid: int,
        num_directions: int | None = None,
        batch: int | None = None,
        pace: bool = True,
        stopping: bool = False,
        tuned_on: Sequence[int] | None = None,
    ) -> Compared:
        """Run optimizers at equal queries; hand-designed ones with default settings are tuned first.

        Settings that are stored for this very task, number of steps and q are taken; others are searched for on
        validation problems, over the grids of :data:`zoracle.comparison.tune.GRIDS`, in quick runs over three step
        sizes.

        Args:
            key: names the comparison within the experiment.
            made: the task.
            optimizers: labels and optimizers.
            ids: test problems.
            seeds: repeats, 0, 1, ...
            budget: points per problem.
            valid: validation problems for tuning.
            num_directions: q; None keeps each one's own.
            batch: problems at once.
            pace: whether its seconds per point are used to estimate the time of more points.
            stopping: problems end at their first success, and settings are tuned by the queries until then.
            tuned_on: validation problems; None uses the first ``valid`` of the task.
        """
        on = tuple(made.ids("valid")[:valid]) if tuned_on is None and valid else tuple(tuned_on or ())
        criterion: Criterion = "queries" if stopping else "ratio"
        results: dict[str, Result] = {}
        sources: dict[str, str] = {}
        settings: dict[str, dict[str, Any]] = {}
        base = self.run.pieces / key
        for index, (label, given) in enumerate(optimizers):
            optimizer, sources[label] = self._tuned(
                label, with_directions(given, num_directions), made, budget, on, criterion
            )
            found = evaluate(
                optimizer,
                made,
                RunSpec(ids=tuple(ids), seeds=seeds, budget=budget, batch=batch, stop_on_success=stopping),
                on_progress=self.display.steps_of(f"{key} {label}"),
                on_status=self.display.status_of(f"{key} {label}"),
                resume_dir=base / folder(index, label),
                workers=self.workers,
            )
            results[label] = found
            self.meter.add("optimise", int(found.spent.sum()))
            self.meter.add("monitor", int(found.monitored.sum()))
            self.meter.time(float(found.seconds.sum()), int((found.spent + found.monitored).sum()), pace=pace)
            settings[label] = optimizer_config(optimizer)["settings"]
        return Compared(rows_of(results, settings, sources, stopping), results)

    def _tuned(
        self,
        label: str,
        optimizer: Optimizer[Any, Any],
        made: Task,
        budget: int,
        valid: tuple[int, ...],
        criterion: Criterion,
    ) -> tuple[Optimizer[Any, Any], str]:
        """An optimizer, with tuned settings if its own are defaults, and the source of its settings."""
        name = tunable(optimizer)
        if name is None or not untouched(optimizer):
            return optimizer, "given"
        steps = max(1, budget // optimizer.queries_per_step)
        q = directions_of(optimizer)
        others_default = optimizer.config == with_directions(type(optimizer)(), q).config
        record = tuned(task_config(made), name, steps, q) if others_default else None
        source = "tuned"
        if record is None:
            source = "tuned in this run"
            record = self._search(label, optimizer, made, steps, valid, criterion)
        elif record not in self.tuned:
            self.tuned.append(record)
        self.note(f"{made.name}, d = {made.dim}, {steps} steps: {sentence(label, record, _HOW[source])}")
        return with_settings(optimizer, **record.chosen), source

    def _search(
        self,
        label: str,
        optimizer: Optimizer[Any, Any],
        made: Task,
        steps: int,
        valid: tuple[int, ...],
        criterion: Criterion,
    ) -> Tuned:
        """Settings for one task, number of steps and q; a search is shared by all comparisons that need it."""
        about = [task_config(made), optimizer_config(optimizer), steps, valid, criterion]
        slot = f"{made.name}-{config_hash(about)[:12]}"
        if slot not in self._searched:
            record = tune(
                made,
                optimizer,
                RunSpec(split="valid", ids=valid, steps=steps),
                criterion=criterion,
                grid=_quick_grid(str(tunable(optimizer))) if self.quick else None,
                resume_dir=self.run.pieces / "tuning" / slot,
                on_progress=self.display.steps_of(f"tuning {label}"),
                workers=self.workers,
            )
            self._searched[slot] = record
            self.tuned.append(record)
            self.meter.add("tuning", record.queries)
        return self._searched[slot]

    def trained(self, key: str, config: TrainConfig) -> Trained:
        """Meta-train an optimizer, or resume its training.

        Args:
            key: names the training within the experiment.
            config: of the training.
        """
        place = self.run.pieces / key
        place.mkdir(parents=True, exist_ok=True)
        trainer = Trainer(config, [task(one.task, **one.settings) for one in config.drawn_from()], place)
        total = sum(stage.unrolls for stage in config.stages)
        tell = self.display.steps_of(f"training {key}")

        def report(told: UnrollReport) -> None:
            done = sum(stage.unrolls for stage in config.stages[: told.stage]) + told.unroll
            with (place / _HISTORY).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"done": done, **told._asdict()}) + "\n")
            tell(done, total)

        optimizer = trainer.run(report)
        lines = (place / _HISTORY).read_text(encoding="utf-8").splitlines()
        # One line per unroll; a kill between a checkpoint and its line leaves a gap only in these curves.
        known = {record["done"]: record for record in map(json.loads, lines)}
        history = {
            name: torch.tensor([float(known.get(i + 1, {}).get(name, math.nan)) for i in range(total)])
            for name in ("meta_loss", "ratio")
        }
        at = trainer.progress
        for purpose, count in at.spent.items():
            self.meter.add(f"training, {purpose}", count)
        self.meter.trained += sum(s.unrolls * s.steps * s.meta_batch for s in config.stages)
        self.meter.training_seconds += at.seconds
        return Trained(optimizer, history, at.validated, at.seconds, dict(at.spent))

    def kept(
        self, key: str, made: Task | None, about: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Tensors computed once and then read from the folder.

        Args:
            key: names them within the experiment.
            made: the task that they are computed on; None if it is not a task of this package.
            about: JSON values; everything else that they depend on.
            compute: makes them.

        Raises:
            CheckpointError: the stored tensors were computed for something else.
        """
        path = self.run.pieces / f"{key}.safetensors"
        asked = {"zoracle": release_series(), "task": None if made is None else task_config(made), **about}
        asked = json.loads(json.dumps(asked))
        if path.is_file():
            tensors, metadata = read_tensors(path)
            if metadata.get("format") != _FORMAT or metadata.get("about") != asked:
                raise CheckpointError(f"{path} belongs to another run; choose another folder, or the same settings")
            return tensors
        began = time.perf_counter()
        tensors = compute()
        tensors["seconds"] = torch.tensor(time.perf_counter() - began, dtype=torch.float64)
        write_tensors(path, tensors, {"format": _FORMAT, "about": asked})
        return tensors


def described(optimizer: Optimizer[Any, Any], ids: Sequence[int]) -> dict[str, Any]:
    """Everything that a measurement of an optimizer on some problems depends on."""
    return {"optimizer": optimizer_config(optimizer), "ids_sha256": ids_hash(ids)}


def _quick_grid(name: str) -> list[Axis]:
    """Three sizes of the first setting, a factor of four apart; no extension."""
    axis = GRIDS[name][0]
    middle = len(axis.values) // 2
    return [axis._replace(values=axis.values[middle - 2 : middle + 3 : 2], factor=None)]
