"""Fine-tuning a trained optimizer on another task: a short training that starts from its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from zoracle.errors import InputError
from zoracle.metatrain.config import Stage, TrainConfig, Validation
from zoracle.metatrain.loss import MetaLoss
from zoracle.optimizers.pretrained import Loaded
from zoracle.settings import Count, Number, Positive, convert
from zoracle.tasks.base import Task

#: The meta-loss where a file of weights does not say what they were trained by: that of the shipped recipes.
_LOSS = MetaLoss(form="log", weights="shaped", base=0.5, early=4.0, late=4.0, last=40.0, eps=0.05, penalty=0.3)
_VALIDATIONS = 6


class FineTuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of fine-tuning; meta-loss and truncation are those of the original training.

    Attributes:
        unrolls: number of unrolls, each from new starting points.
        steps: T, steps of one unroll and of a validation run; None uses the task's own number.
        meta_batch: problems in one unroll.
        lr: initial step size of Adam, which decays to a tenth.
        problems: number of problems of the training split; None uses all.
        validation: number of problems of the validation split for choosing the weights.
        gradient: where the gradient of the task's objective comes from: "true", by autograd; "coordinatewise", by 2 d
            evaluations; "auto", by autograd where the objective has a gradient.
        seed: keys everything.

    Source: Ruan et al., "Learning to Learn by Zeroth-Order Oracle", ICLR 2020, whose optimizers are fine-tuned on
        other classes of problems.
    """

    unrolls: Number = 30
    steps: Number | None = None
    meta_batch: Number = 8
    lr: Positive = 5e-4
    problems: Number | None = None
    validation: Number = 20
    gradient: Literal["auto", "true", "coordinatewise"] = "auto"
    seed: Count = 0

    def config(self, loaded: Loaded, initial: str, made: Task, task: str, settings: Mapping[str, Any]) -> TrainConfig:
        """The config of the training, for :class:`~zoracle.metatrain.Trainer`.

        Args:
            loaded: the optimizer, as :func:`zoracle.optimizers.pretrained.resolve` gives it.
            initial: name of the shipped one, or its folder.
            made: the task.
            task: its name.
            settings: its settings.

        Raises:
            InputError: the optimizer was not trained by unrolls, or the task has no problems to train or choose on.
        """
        trained = _trained(loaded, initial)
        ids = {split: made.ids(split) for split in ("train", "valid")}
        if empty := next((split for split, those in ids.items() if not those), None):
            raise InputError(f"task {task} has no problems in its split {empty!r}; expected at least one")
        if self.problems is not None and self.problems > len(ids["train"]):
            raise InputError(f"problems is {self.problems}; the train split of {task} has {len(ids['train'])}")
        smooth = self.gradient == "true" or (
            self.gradient == "auto" and made.objective(ids["train"][:1]).differentiable
        )
        steps = made.defaults.steps if self.steps is None else self.steps
        last = trained.stages[-1] if trained else Stage(loss=_LOSS)
        stage = Stage(
            settings=last.settings,
            unrolls=self.unrolls,
            steps=steps,
            truncation=min(last.truncation, steps),
            meta_batch=self.meta_batch,
            lr=self.lr,
            final_lr=self.lr / 10,
            warmup=10,
            beta2=0.99,
            clip_norm=1.0,
            ema=0.98,
            loss=last.loss,
        )
        run: dict[str, Any] = loaded.metadata["config"]
        validation = Validation(
            problems=min(self.validation, len(ids["valid"])),
            every=max(1, self.unrolls // _VALIDATIONS),
            steps=steps,
            # Choose weights with the settings that they will be used with, even if the training changes some.
            settings={name: run[name] for name in last.settings if name in run},
        )
        return TrainConfig(
            task=task,
            task_settings=dict(settings),
            optimizer=loaded.metadata["name"],
            settings=run,
            initial=initial,
            stages=(stage,),
            validation=validation,
            gradient="true" if smooth else "coordinatewise",
            values="directional" if smooth else "queries",
            problems=self.problems,
            seed=self.seed,
        )


def evaluations(config: TrainConfig, dim: int) -> int:
    """Approximate number of points evaluated by a training without gradients, excluding validation."""
    q = int(config.settings.get("num_directions", 20))
    each = [(stage.steps + 1) * (2 * dim + 1) + stage.steps * (q + 1) for stage in config.stages]
    return sum(stage.unrolls * stage.meta_batch * points for stage, points in zip(config.stages, each, strict=True))


def _trained(loaded: Loaded, name: str) -> TrainConfig | None:
    """The config that weights were trained with; None if their file does not contain it.

    Raises:
        InputError: the file does not contain weights, or they were not trained by unrolls.
    """
    training = loaded.metadata.get("training")
    if not isinstance(training, dict):
        raise InputError(f"{name} has no weights to fine-tune; expected a trained optimizer, zo-lstm-universal say")
    config = training.get("config")
    if not isinstance(config, dict):
        return None
    if "stages" not in config:
        raise InputError(
            f"{name} was fitted to networks and not trained on a task's problems; expected an optimizer that was, "
            "zo-lstm-universal say"
        )
    try:
        return convert(config, TrainConfig)
    except InputError:  # written by a version that had other settings
        return None
