"""Meta-training by truncated back-propagation through time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from zoracle import __version__, keyed
from zoracle.errors import CheckpointError, InputError
from zoracle.metatrain import evolution, validation
from zoracle.metatrain.card import card
from zoracle.metatrain.config import Stage, TrainConfig
from zoracle.metatrain.families import TrainingFamily
from zoracle.metatrain.initial import start_from
from zoracle.metatrain.oracle import TrainingOracle
from zoracle.metatrain.unroll import Run, begin, clipped, geometric_mean
from zoracle.optimizers.base import Optimizer, with_settings
from zoracle.optimizers.pretrained import CARD, save_optimizer
from zoracle.optimizers.registry import make
from zoracle.state import detach
from zoracle.storage.files import read_tensors, write_tensors, write_text
from zoracle.tasks.base import Task

CHECKPOINT = "training.safetensors"
_UNROLL, _VALIDATION, _EVOLUTION = 1, 2, 3  # streams of the seed


class Report(NamedTuple):
    """What is told after each unroll."""

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
    """Segments of this unroll whose meta-gradient was not finite: they changed nothing."""


class Trainer:
    """Trains a learned optimizer from a config; can be killed at any moment and resumed to the same bits.

    Args:
        config: what to do.
        tasks: one for each family of problems that the config names, in its order; a task alone where it is one.
        folder: where checkpoints and the result go; None keeps everything in memory.

    Raises:
        InputError: the config does not fit the task or the optimizer.
        CheckpointError: the folder holds a training with another config.
    """

    def __init__(self, config: TrainConfig, tasks: Task | Sequence[Task], folder: Path | None = None) -> None:
        self.config = config
        self.tasks = (tasks,) if isinstance(tasks, Task) else tuple(tasks)
        self.folder = folder
        self.dtype = torch.float64 if config.dtype == "float64" else torch.float32
        optimizer = make(config.optimizer, **config.settings)
        if not isinstance(optimizer, nn.Module):
            raise InputError(f"optimizer {config.optimizer!r} has nothing to train; expected a learned optimizer")
        self.module: nn.Module = optimizer.to(self.dtype)
        if config.initial is not None:
            start_from(config.initial, config.optimizer, self.module)
        self.optimizer: Optimizer[Any, Any] = optimizer
        self.stage = 0
        self.unroll = 0
        self.updates = 0
        self.skipped = 0
        self.seconds = 0.0
        #: Points that were evaluated, and true gradients ("gradients"), counted one each, validation by itself.
        self.spent: dict[str, int] = {}
        self.best = math.inf
        self.best_weights = self._weights()
        self.ema = self._weights()
        self.adam = self._start_stage()
        families = config.drawn_from()
        if len(families) != len(self.tasks):
            raise InputError(f"{len(self.tasks)} tasks are given for {len(families)} families; expected one for each")
        # One task alone is drawn in the order that it always was.
        self.families = [
            TrainingFamily(family, task, self.dtype, config.seed, *(() if len(families) == 1 else (number,)))
            for number, (family, task) in enumerate(zip(families, self.tasks, strict=True))
        ]
        self.validated = math.inf
        self._resume()

    def run(self, on_report: Callable[[Report], None] | None = None) -> Optimizer[Any, Any]:
        """Do what is left of the training.

        Args:
            on_report: is called after each unroll; may raise to stop: what is done is in the checkpoint.

        Returns:
            The optimizer with the best validated weights of the last stage.
        """
        while self.stage < len(self.config.stages):
            stage = self.config.stages[self.stage]
            if self.config.initial is not None and self.stage == self.unroll == 0:
                self._validate(stage)  # what training goes on from is kept where it makes nothing better
            while self.unroll < stage.unrolls:
                begun = time.monotonic()
                meta_loss, ratio = self._unroll(stage)
                self.unroll += 1
                last = self.unroll == stage.unrolls
                valid = None
                if last or self.unroll % self.config.validation.every == 0:
                    valid = self._validate(stage)
                self.seconds += time.monotonic() - begun
                if not last:
                    self._save()
                if on_report is not None:
                    told = Report(
                        self.stage, self.unroll, stage.unrolls, meta_loss, ratio, valid, self.best, self.skipped
                    )
                    on_report(told)
            self.module.load_state_dict(self.best_weights)
            self.validated = self.best
            self.stage, self.unroll, self.updates, self.best = self.stage + 1, 0, 0, math.inf
            self.ema = self._weights()
            if self.stage < len(self.config.stages):
                self.adam = self._start_stage()
            self._save()
        self.module.requires_grad_(False)
        if self.folder is not None:
            save_optimizer(self.folder, self.config.optimizer, self.optimizer, self.provenance())
            write_text(self.folder / CARD, card(self.config, self.provenance(), self._parameters()))
        return self.optimizer

    def provenance(self) -> dict[str, Any]:
        """What the weights were made from, for their metadata."""
        return {
            "config": _as_json(self.config),
            "problems": sum(len(family.ids) for family in self.families),
            "problems_each": [len(family.ids) for family in self.families],
            f"validation_{self.config.validation.criterion}": self.validated,
            "seconds": round(self.seconds),
            "threads": torch.get_num_threads(),
            "zoracle": __version__,
            "torch": torch.__version__,
        }

    def _parameters(self) -> int:
        return sum(p.numel() for p in self.module.parameters())

    def _unroll(self, stage: Stage) -> tuple[float, float]:
        """One unroll of every family whose turn it is, from fresh starting points, with one update or more."""
        self.skipped = 0
        drawn = [
            (number, family)
            for number, family in enumerate(self.families)
            # The number shifts their turns, so that families of one rhythm do not all come at once.
            if (self.unroll + number) % family.every == 0
        ]
        if stage.estimator == "evolution":
            return self._evolve(stage, drawn)
        families = [family for _, family in drawn]
        runs = [self._begin(stage, number, family) for number, family in drawn]
        for run in runs:
            run.note_first()
        weights = sum(family.weight for family in families)
        total = 0.0
        segments = math.ceil(stage.steps / stage.truncation)
        for index in range(segments):
            first = index * stage.truncation
            k = min(stage.truncation, stage.steps - first)
            self.adam.zero_grad(set_to_none=True)
            for run, family in zip(runs, families, strict=True):
                segment = run.loss.segment(
                    run.optimizer,
                    run.oracle,
                    run.state,
                    k,
                    problem=run.rows,
                    first=first,
                    previous=run.previous,
                    horizon=stage.steps,
                    origin=run.start.x0,
                    unit=run.start.unit,
                )
                if not segment.value.requires_grad:
                    raise InputError(
                        f"stage {self.stage + 1} trains {', '.join(stage.train)}, which its settings do not use"
                    )
                # Family by family, so that one graph is held at a time; gradients add up.
                share = family.weight / weights
                with clipped(self.module, None if stage.clip_family is None else stage.clip_family * share):
                    (segment.value * share if share != 1 else segment.value).backward()  # type: ignore[no-untyped-call]
                run.state = detach(segment.state)
                run.previous = segment.losses[-1].detach()
                total += share * float(segment.value.detach())
            self._update(stage, (self.unroll * segments + index) / (stage.unrolls * segments))
        ratios = []
        for run in runs:
            gradients = int(run.oracle.gradients.sum())
            self._count("gradients", gradients)
            self._count("points", sum(int(counts.sum()) for counts in run.oracle.counts.values()) - gradients)
            assert run.previous is not None
            assert run.first is not None
            ratios.append(float((run.previous / run.first).mean()))
        return total / segments, geometric_mean(ratios, [family.weight for family in families])

    def _evolve(self, stage: Stage, drawn: list[tuple[int, TrainingFamily]]) -> tuple[float, float]:
        """One update by evolution."""
        weights = sum(family.weight for _, family in drawn)
        self.adam.zero_grad(set_to_none=True)
        total, ratios = 0.0, []
        for number, family in drawn:
            share = family.weight / weights
            words = (self.config.seed, _EVOLUTION, self.stage, self.unroll, number)
            with torch.no_grad():
                found = evolution.ascent(
                    self.module,
                    partial(self._whole, stage, number, family),
                    pairs=stage.pairs,
                    sigma=stage.sigma,
                    key=keyed.mix(*words),
                )
            for p, slope in zip(self.module.parameters(), found.gradient, strict=True):
                if slope is not None:
                    p.grad = share * slope if p.grad is None else p.grad + share * slope
            total += share * found.value
            ratios.append(found.ratio)
        self._update(stage, self.unroll / stage.unrolls)
        return total, geometric_mean(ratios, [family.weight for _, family in drawn])

    def _whole(self, stage: Stage, number: int, family: TrainingFamily) -> evolution.Whole:
        """Whole runs of one family by real queries."""
        run = self._begin(stage, number, family)
        whole = evolution.whole(run, stage.steps)
        self._count("points", whole.points)
        return whole

    def _begin(self, stage: Stage, number: int, family: TrainingFamily) -> Run:
        """The start of one unroll of one family."""
        words = (self.config.seed, _UNROLL, self.stage, self.unroll)
        seed = keyed.mix(*words, *(() if len(self.families) == 1 else (number,)))
        rows = family.draw(self.stage, self.unroll, family.meta_batch or stage.meta_batch)
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
        return begin(with_settings(self.optimizer, **stage.settings), oracle, loss, rows, start, seed, stage.steps)

    def _update(self, stage: Stage, progress: float) -> None:
        """One step of Adam along the gradients that have added up."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        if stage.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, stage.clip_value)
        if stage.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, stage.clip_norm)
        if not all(bool(p.grad.isfinite().all()) for p in parameters if p.grad is not None):
            self.skipped += 1
            return  # one exploded segment must not destroy the weights; its unroll simply goes on
        self.updates += 1
        final = stage.lr if stage.final_lr is None else stage.final_lr
        lr = final + (stage.lr - final) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in self.adam.param_groups:
            group["lr"] = lr * min(1.0, self.updates / stage.warmup if stage.warmup else 1.0)
        self.adam.step()
        decay = min(stage.ema, self.updates / (self.updates + 20))
        for name, weight in self._weights().items():
            self.ema[name].lerp_(weight, 1 - decay)

    def _validate(self, stage: Stage) -> float:
        """The criterion over validation problems, by real queries; keeps the best weights."""
        config = self.config.validation
        trained = self._weights()
        self.module.load_state_dict(self.ema)
        optimizer = with_settings(self.optimizer, **{**stage.settings, **config.settings})
        found = [validation.score(optimizer, f, config, self.config.seed, _VALIDATION) for f in self.families]
        self._count("validation", sum(each.points for each in found))
        score = geometric_mean([each.value for each in found], [family.weight for family in self.families])
        if score < self.best:
            self.best = score
            self.best_weights = self._weights()
        self.module.load_state_dict(trained)
        return score

    def _count(self, what: str, number: int) -> None:
        self.spent[what] = self.spent.get(what, 0) + number

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}

    def _start_stage(self) -> torch.optim.Adam:
        """Adam over the weights that the stage trains; the others are frozen."""
        stage = self.config.stages[min(self.stage, len(self.config.stages) - 1)]
        names = [name for name, _ in self.module.named_parameters()]

        def belongs(name: str, part: str) -> bool:
            return name == part or name.startswith(f"{part}.")

        if unknown := [part for part in stage.train if not any(belongs(name, part) for name in names)]:
            parts = dict.fromkeys(name.split(".")[0] for name in names)
            raise InputError(f"stage trains {', '.join(sorted(unknown))}; the optimizer has {', '.join(parts)}")
        chosen = []
        for name, parameter in self.module.named_parameters():
            wanted = not stage.train or any(belongs(name, part) for part in stage.train)
            parameter.requires_grad_(wanted)
            if wanted:
                chosen.append(parameter)
        return torch.optim.Adam(chosen, lr=stage.lr, betas=(0.9, stage.beta2))

    def _save(self) -> None:
        if self.folder is None:
            return
        tensors: dict[str, Tensor] = {}
        for group, weights in (("weights", self._weights()), ("best", self.best_weights), ("ema", self.ema)):
            tensors.update({f"{group}.{name}": tensor for name, tensor in weights.items()})
        for index, slots in self.adam.state_dict()["state"].items():
            tensors.update({f"adam.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items()})
        metadata = {
            "format": "zoracle-training",
            "config": _as_json(self.config),
            "stage": self.stage,
            "unroll": self.unroll,
            "updates": self.updates,
            "seconds": self.seconds,
            "spent": self.spent,
            "validated": None if math.isinf(self.validated) else self.validated,
            "best": None if math.isinf(self.best) else self.best,
        }
        write_tensors(self.folder / CHECKPOINT, tensors, metadata)

    def _resume(self) -> None:
        if self.folder is None or not (self.folder / CHECKPOINT).is_file():
            return
        tensors, metadata = read_tensors(self.folder / CHECKPOINT)
        if metadata.get("format") != "zoracle-training":
            raise CheckpointError(f"{self.folder / CHECKPOINT} is not a training checkpoint")
        if metadata["config"] != _as_json(self.config):
            raise CheckpointError(f"{self.folder} holds a training with another config; choose another folder")

        def group(name: str) -> dict[str, Tensor]:
            prefix = f"{name}."
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        self.module.load_state_dict(group("weights"))
        self.best_weights, self.ema = group("best"), group("ema")
        self.stage, self.unroll = metadata["stage"], metadata["unroll"]
        self.updates = metadata["updates"]
        self.seconds = metadata["seconds"]
        self.spent = metadata.get("spent", {})  # not in trainings that version 0.1.0 began
        self.validated = math.inf if metadata["validated"] is None else metadata["validated"]
        self.best = math.inf if metadata["best"] is None else metadata["best"]
        self.adam = self._start_stage()
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in group("adam").items():
            index, slot = key.split(".")
            state.setdefault(int(index), {})[slot] = value
        self.adam.load_state_dict({**self.adam.state_dict(), "state": state})


def _as_json(config: TrainConfig) -> Any:
    """The config as it reads back from a file: lists where it has tuples."""
    return msgspec.json.decode(msgspec.json.encode(config))
