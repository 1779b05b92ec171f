"""Recipes of every kind and their trainings, as the command line uses them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from zoracle.errors import InputError
from zoracle.group import Group
from zoracle.metatrain import config, controllers_training, spectral_training
from zoracle.metatrain.config import TrainConfig
from zoracle.metatrain.controllers_training import ControllersRecipe
from zoracle.metatrain.spectral_training import SpectralRecipe
from zoracle.metatrain.trainer import Trainer, UnrollReport
from zoracle.optimizers.pretrained import WEIGHTS
from zoracle.settings import read_toml
from zoracle.tasks import task

Recipe = TrainConfig | SpectralRecipe | ControllersRecipe


class TrainingReport(NamedTuple):
    """Progress report of a training of any kind."""

    done: int
    total: int
    """Units of work, such as unrolls."""
    figures: dict[str, Any]
    """Numbers of this piece of work; a history holds them."""
    brief: str = ""
    """How it goes, in some words."""
    lines: tuple[str, ...] = ()
    """What a reader wants to know."""


class Training(ABC):
    """A training: started in a folder, stopped at any moment, and resumed there."""

    @property
    @abstractmethod
    def total(self) -> int:
        """Pieces of work."""

    @property
    @abstractmethod
    def done(self) -> int:
        """Those that are behind it."""

    @abstractmethod
    def run(self, on_report: Callable[[TrainingReport], None]) -> None:
        """Run the rest of the training; the result is then in the folder."""


class ByUnrolls(Training):
    """A training by unrolls of the optimizer."""

    def __init__(
        self, recipe: TrainConfig, folder: Path, group: Group | None = None, before: Path | None = None
    ) -> None:
        self.recipe = recipe
        tasks = [task(one.task, **one.settings) for one in recipe.drawn_from()]
        self.trainer = Trainer(recipe, tasks, folder, group, before)

    @property
    def total(self) -> int:
        """Unrolls of all stages."""
        return unrolls(self.recipe)

    @property
    def done(self) -> int:
        """Completed unrolls."""
        at = self.trainer.progress
        return self._before(at.stage) + at.unroll

    def run(self, on_report: Callable[[TrainingReport], None]) -> None:
        """As of every training; a report an unroll."""

        def told(unroll: UnrollReport) -> None:
            done = self._before(unroll.stage) + unroll.unroll
            lines = []
            if unroll.skipped:
                lines.append(f"{unroll.skipped} meta-gradients were not finite and changed nothing")
            criterion, initial = self.recipe.validation.criterion, self.trainer.progress.initial
            if done == 1 and initial < math.inf:
                lines.append(f"validation {criterion} {initial:.4f} with the weights that training starts from")
            if unroll.valid is not None:
                lines.append(f"validation {criterion} {unroll.valid:.4f}, best of the stage {unroll.best:.4f}")
            brief = f"stage {unroll.stage + 1}, ratio {unroll.ratio:.4f}"
            on_report(TrainingReport(done, self.total, unroll._asdict(), brief, tuple(lines)))

        self.trainer.run(told)

    def _before(self, stage: int) -> int:
        return sum(each.unrolls for each in self.recipe.stages[:stage])


class InTurn(Training):
    """Trainings by unrolls of which each continues from the weights of the one before it.

    Those of ``before`` are in folders ``before-1``, ``before-2``, ... in the folder of the last.
    """

    def __init__(self, recipe: TrainConfig, folder: Path, group: Group | None = None) -> None:
        self.recipes = [*recipe.before, recipe]
        self.folders = [*(folder / f"before-{number}" for number in range(1, len(self.recipes))), folder]
        self.group = group
        self.at = 0
        self.current = self._made()
        while self.current.done == self.current.total and self.at < len(self.recipes) - 1:
            self._next()

    @property
    def total(self) -> int:
        """Unrolls of all."""
        return sum(map(unrolls, self.recipes))

    @property
    def done(self) -> int:
        """Completed unrolls."""
        return sum(map(unrolls, self.recipes[: self.at])) + self.current.done

    def run(self, on_report: Callable[[TrainingReport], None]) -> None:
        """As of every training; a report an unroll."""
        while True:
            earlier = self.done - self.current.done

            def told(report: TrainingReport, earlier: int = earlier) -> None:
                brief = f"training {self.at + 1} of {len(self.recipes)}, {report.brief}"
                on_report(report._replace(done=earlier + report.done, total=self.total, brief=brief))

            self.current.run(told)
            if self.at == len(self.recipes) - 1:
                return
            self._next()

    def _next(self) -> None:
        if not (self.folders[self.at] / WEIGHTS).is_file():  # it ended, and was stopped before it wrote the weights
            self.current.trainer.run()
        self.at += 1
        self.current = self._made()

    def _made(self) -> ByUnrolls:
        before = self.folders[self.at - 1] if self.at else None
        return ByUnrolls(self.recipes[self.at], self.folders[self.at], self.group, before)


def unrolls(recipe: TrainConfig) -> int:
    """Unrolls of all stages of a training, without those before it."""
    return sum(stage.unrolls for stage in recipe.stages)


class ByLikelihood(Training):
    """A training by maximum likelihood on observations of many networks."""

    def __init__(self, recipe: SpectralRecipe, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder
        self.count = 0

    @property
    def total(self) -> int:
        """Networks, the fit, and the balls of the validation."""
        return len(self.recipe.networks) + len(self.recipe.targets) + 1 + len(self.recipe.validation)

    @property
    def done(self) -> int:
        """Networks observed in this process; networks in the folder are not trained again."""
        return self.count

    def run(self, on_report: Callable[[TrainingReport], None]) -> None:
        """As of every training; a report a line."""

        def told(line: str) -> None:
            self.count = min(self.count + 1, self.total)
            on_report(TrainingReport(self.count, self.total, {}, line.split(":")[0], (line,)))

        spectral_training.train(self.recipe, self.folder, told)


class ByCandidates(Training):
    """A training on the gains of several candidates of the same state."""

    def __init__(self, recipe: ControllersRecipe, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder
        self.count = 0

    @property
    def total(self) -> int:
        """Runs."""
        return self.recipe.updates

    @property
    def done(self) -> int:
        """Runs so far; those of a checkpoint are counted with the first run of this process."""
        return self.count

    def run(self, on_report: Callable[[TrainingReport], None]) -> None:
        """As of every training; a report a run, and one per network."""

        def told(line: str) -> None:
            on_report(TrainingReport(self.count, self.total, {}, line, (line,)))

        def ran(update: int, share: float) -> None:
            self.count = update + 1
            on_report(TrainingReport(self.count, self.total, {"share": share}, f"{share:.1%} of a run's steps"))

        controllers_training.train(self.recipe, self.folder, told, ran)


def parse(text: str, where: str = "config") -> Recipe:
    """A recipe from TOML text; one with networks learns from them, by likelihood or candidates, any other by unrolls.

    Raises:
        InputError: not TOML, an unknown name, a wrong type, or a value out of range.
    """
    try:
        said = read_toml(text)
    except InputError:
        said = {}
    if said.get("optimizer") == controllers_training.NAME:
        return controllers_training.parse(text, where)
    return spectral_training.parse(text, where) if "networks" in said else config.parse(text, where)


def training(recipe: Recipe, folder: Path, group: Group | None = None) -> Training:
    """The training that follows a recipe.

    Args:
        recipe: settings of the training.
        folder: folder for the result.
        group: processes that share it; None is this one alone.

    Raises:
        InputError: the recipe does not fit the task or the optimizer, or cannot be shared.
        CheckpointError: the folder holds a training with another recipe.
    """
    if isinstance(recipe, TrainConfig):
        return (InTurn if recipe.before else ByUnrolls)(recipe, folder, group)
    if group is not None and group.size > 1:
        raise InputError(f"{recipe.optimizer} is trained by one process; run the same command without torchrun")
    return ByCandidates(recipe, folder) if isinstance(recipe, ControllersRecipe) else ByLikelihood(recipe, folder)
