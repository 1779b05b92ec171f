"""Meta-training: stages in order, each an estimator's gradients that Adam follows, validated and checkpointed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from zoracle import __version__, keyed
from zoracle.errors import InputError
from zoracle.group import Group
from zoracle.metatrain import checkpoint, validation
from zoracle.metatrain.backprop import Backpropagation
from zoracle.metatrain.card import card
from zoracle.metatrain.checkpoint import Kept, Progress
from zoracle.metatrain.config import Stage, TrainConfig
from zoracle.metatrain.evolution import Evolution
from zoracle.metatrain.families import TrainingFamily
from zoracle.metatrain.gradients import Descent, GradientEstimator, Update
from zoracle.metatrain.initial import start_from
from zoracle.metatrain.oracle import TrainingOracle
from zoracle.metatrain.unroll import FamilyRun, Unroll, begin, geometric_mean
from zoracle.optimizers.base import Optimizer, with_settings
from zoracle.optimizers.pretrained import CARD, save_optimizer
from zoracle.optimizers.registry import make
from zoracle.storage.files import write_text
from zoracle.tasks.base import Task

_UNROLL, _VALIDATION = 1, 2  # streams of the seed

#: Where meta-gradients come from, by the name that a stage gives.
ESTIMATORS: dict[str, Callable[[Unroll], GradientEstimator]] = {
    "backprop": Backpropagation,
    "evolution": Evolution,
}


class UnrollReport(NamedTuple):
    """The report after each unroll."""

    stage: int
    unroll: int
    """Unrolls done in this stage."""
    unrolls: int
    """Unrolls of this stage."""
    meta_loss: float
    """Mean over the unroll's segments."""
    ratio: float
    """Mean final / initial loss of the unroll's problems."""
    valid: float | None
    """The criterion on validation problems, where this unroll was followed by a validation."""
    best: float
    """The lowest so far in this stage."""
    skipped: int = 0
    """Updates of this unroll whose meta-gradient was not finite: they changed nothing."""


class Trainer:
    """Trains a learned optimizer from a config; can be killed at any moment and resumed to the same bits.

    Args:
        config: of the training.
        tasks: one for each family of problems that the config names, in its order; a task alone where it is one.
        folder: where checkpoints and the result go; None keeps everything in memory.
        group: processes that share the work; each has a Trainer, and all see the folder. They divide the problems of a
            meta-batch, or the pairs of evolution, and add up gradients; the first one validates and writes.
        before: folder of the trained optimizer that training continues from, if the config has trainings before this.

    Raises:
        InputError: the config does not fit the task or the optimizer, or ``before`` is missing.
        CheckpointError: the folder holds a training with another config.
    """

    def __init__(
        self,
        config: TrainConfig,
        tasks: Task | Sequence[Task],
        folder: Path | None = None,
        group: Group | None = None,
        before: Path | None = None,
    ) -> None:
        if config.before and before is None:
            raise InputError(
                "the config has other trainings first; train it with `zoracle train`, or one by one, with the folder "
                "of the last as before="
            )
        self.config = config
        self.group = group or Group()
        self.tasks = (tasks,) if isinstance(tasks, Task) else tuple(tasks)
        self.folder = folder
        self.dtype = torch.float64 if config.dtype == "float64" else torch.float32
        optimizer = make(config.optimizer, **config.settings)
        if not isinstance(optimizer, nn.Module):
            raise InputError(f"optimizer {config.optimizer!r} has nothing to train; expected a learned optimizer")
        self.module: nn.Module = optimizer.to(self.dtype)
        self.initial = config.initial if before is None else str(before)
        if self.initial is not None:
            start_from(self.initial, config.optimizer, self.module)
        self.optimizer: Optimizer[Any, Any] = optimizer
        self.progress = Progress()
        self.skipped = 0
        self.best_weights = self.weights()
        self.ema = self.weights()
        self.descent = self._start_stage()
        families = config.drawn_from()
        if len(families) != len(self.tasks):
            raise InputError(f"{len(self.tasks)} tasks are given for {len(families)} families; expected one for each")
        # One task alone is drawn in the order that it always was.
        self.families = [
            TrainingFamily(family, task, self.dtype, config.seed, *(() if len(families) == 1 else (number,)))
            for number, (family, task) in enumerate(zip(families, self.tasks, strict=True))
        ]
        self._resume()

    def run(self, on_report: Callable[[UnrollReport], None] | None = None) -> Optimizer[Any, Any]:
        """Run the rest of the training.

        Args:
            on_report: is called after each unroll; may raise to stop: what is done is in the checkpoint.

        Returns:
            The optimizer with the best validated weights of the last stage.
        """
        at = self.progress
        while at.stage < len(self.config.stages):
            stage = self.config.stages[at.stage]
            if self.initial is not None and at.stage == at.unroll == 0:
                at.initial = self.validate(stage)  # what training continues from is kept where nothing is better
            while at.unroll < stage.unrolls:
                self._advance(stage, on_report)
            self._end_stage()
        self.module.requires_grad_(False)
        if self.folder is not None and self.group.leads:
            save_optimizer(self.folder, self.config.optimizer, self.optimizer, self.provenance())
            parameters = sum(p.numel() for p in self.module.parameters())
            write_text(self.folder / CARD, card(self.config, self.provenance(), parameters))
        return self.optimizer

    def provenance(self) -> dict[str, Any]:
        """The origin of the weights, for their metadata."""
        criterion, initial = self.config.validation.criterion, self.progress.initial
        return {
            "config": checkpoint.as_json(self.config),
            "problems": sum(len(family.ids) for family in self.families),
            "problems_each": [len(family.ids) for family in self.families],
            f"validation_{criterion}": self.progress.validated,
            **({} if math.isinf(initial) else {f"initial_validation_{criterion}": initial}),
            "seconds": round(self.progress.seconds),
            "threads": torch.get_num_threads(),
            "zoracle": __version__,
            "torch": torch.__version__,
        }

    def weights(self) -> dict[str, Tensor]:
        """A copy of the current weights."""
        return {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}

    def unroll(self, stage: Stage) -> Unroll:
        """The next unroll: every family whose turn it is, from fresh starting points."""
        number_of_unroll = self.progress.unroll
        # The number of a family shifts its turns, so that families of one rhythm do not all come at once.
        drawn = [each for each in enumerate(self.families) if (number_of_unroll + each[0]) % each[1].every == 0]
        return Unroll(
            self.module,
            stage,
            tuple(drawn),
            lambda number, family: self.begin(stage, number, family),
            lambda number, family: self.own(stage, number, family),
            self.progress.count,
            (self.config.seed, self.progress.stage, number_of_unroll),
            self.group,
        )

    def begin(self, stage: Stage, number: int, family: TrainingFamily) -> FamilyRun:
        """The start of the next unroll of one family."""
        return self._start(stage, number, family, self._drawn(stage, family), 1.0)

    def own(self, stage: Stage, number: int, family: TrainingFamily) -> FamilyRun | None:
        """The start of the next unroll of this process's part of one family's problems; None where it has none."""
        whole = self._drawn(stage, family)
        rows = whole[self.group.rank :: self.group.size]
        if not len(rows):
            return None
        return self._start(stage, number, family, rows, len(rows) / len(whole))

    def _drawn(self, stage: Stage, family: TrainingFamily) -> Tensor:
        at = self.progress
        return family.draw(at.stage, at.unroll, family.meta_batch or stage.meta_batch)

    def _start(self, stage: Stage, number: int, family: TrainingFamily, rows: Tensor, part: float) -> FamilyRun:
        at = self.progress
        words = (self.config.seed, _UNROLL, at.stage, at.unroll)
        seed = keyed.mix(*words, *(() if len(self.families) == 1 else (number,)))
        start = family.begin(rows, seed)
        oracle = TrainingOracle(
            start.objective,
            gradient=self.config.gradient,
            values=family.values or self.config.values,
            mu=self.config.gradient_mu,
        )
        loss = stage.loss
        if family.displacement is not None:
            loss = msgspec.structs.replace(loss, displacement=family.displacement)
        optimizer = with_settings(self.optimizer, **stage.settings)
        return begin(optimizer, oracle, loss, rows, start, seed, stage.steps, part)

    def validate(self, stage: Stage) -> float:
        """The criterion over validation problems, by real queries; keeps the best weights."""
        config = self.config.validation
        trained = self.weights()
        self.module.load_state_dict(self.ema)
        optimizer = with_settings(self.optimizer, **{**stage.settings, **config.settings})
        told = torch.zeros(2, dtype=torch.float64)
        if self.group.leads:  # one process decides for all, so that different last bits do not matter
            found = [validation.score(optimizer, f, config, self.config.seed, _VALIDATION) for f in self.families]
            mean = geometric_mean([each.value for each in found], [family.weight for family in self.families])
            told = torch.tensor((mean, sum(each.points for each in found)), dtype=torch.float64)
        told = self.group.first(told)
        score = float(told[0])
        self.progress.count("validation", int(told[1]))
        if score < self.progress.best:
            self.progress.best = score
            self.best_weights = self.weights()
        self.module.load_state_dict(trained)
        return score

    def _advance(self, stage: Stage, on_report: Callable[[UnrollReport], None] | None) -> None:
        """One unroll, its updates, and the validation and checkpoint due after it."""
        begun, at = time.monotonic(), self.progress
        self.skipped = 0
        estimator = ESTIMATORS[stage.estimator](self.unroll(stage))
        found = self.descent.follow(estimator, lambda update: self._step(stage, update))
        at.unroll += 1
        last = at.unroll == stage.unrolls
        valid = self.validate(stage) if last or at.unroll % self.config.validation.every == 0 else None
        at.seconds += time.monotonic() - begun
        if not last:
            self._save()
        if on_report is not None:
            on_report(
                UnrollReport(at.stage, at.unroll, stage.unrolls, found.loss, found.ratio, valid, at.best, self.skipped)
            )

    def _end_stage(self) -> None:
        self.module.load_state_dict(self.best_weights)
        self.progress.next_stage()
        self.ema = self.weights()
        if self.progress.stage < len(self.config.stages):
            self.descent = self._start_stage()
        self._save()

    def _step(self, stage: Stage, update: Update) -> None:
        """One step along a gradient; one exploded segment must not destroy the weights, its unroll simply continues."""
        at = self.progress
        if not self.descent.clip():
            self.skipped += 1
            return
        at.updates += 1
        done = (at.unroll * update.of + update.number) / (stage.unrolls * update.of)
        final = stage.lr if stage.final_lr is None else stage.final_lr
        lr = final + (stage.lr - final) * 0.5 * (1 + math.cos(math.pi * done))
        self.descent.step(lr * min(1.0, at.updates / stage.warmup if stage.warmup else 1.0))
        decay = min(stage.ema, at.updates / (at.updates + 20))
        for name, weight in self.weights().items():
            self.ema[name].lerp_(weight, 1 - decay)

    def _start_stage(self) -> Descent:
        """Adam over the weights that the stage trains; the others are frozen."""
        stage = self.config.stages[min(self.progress.stage, len(self.config.stages) - 1)]
        names = [name for name, _ in self.module.named_parameters()]

        def belongs(name: str, part: str) -> bool:
            return name == part or name.startswith(f"{part}.")

        if unknown := [part for part in stage.train if not any(belongs(name, part) for name in names)]:
            parts = dict.fromkeys(name.split(".")[0] for name in names)
            raise InputError(f"stage trains {', '.join(sorted(unknown))}; the optimizer has {', '.join(parts)}")
        trained = []
        for name, parameter in self.module.named_parameters():
            wanted = not stage.train or any(belongs(name, part) for part in stage.train)
            parameter.requires_grad_(wanted)
            if wanted:
                trained.append(parameter)
        return Descent(trained, stage.lr, beta2=stage.beta2, clip_norm=stage.clip_norm, clip_value=stage.clip_value)

    def _save(self) -> None:
        if self.folder is not None and self.group.leads:
            kept = Kept(self.weights(), self.best_weights, self.ema, self.descent.adam.state_dict()["state"])
            checkpoint.save(self.folder, self.config, self.progress, kept)

    def _resume(self) -> None:
        found = None if self.folder is None else checkpoint.read(self.folder, self.config)
        if found is None:
            return
        self.progress, kept = found
        self.module.load_state_dict(kept.weights)
        self.best_weights, self.ema = kept.best, kept.ema
        self.descent = self._start_stage()
        adam = self.descent.adam
        adam.load_state_dict({**adam.state_dict(), "state": kept.adam})
