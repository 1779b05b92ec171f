"""Configuration of a training: a TOML file in which every name is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from zoracle.errors import InputError
from zoracle.metatrain.loss import MetaLoss
from zoracle.settings import Count, Decay, NonNegative, Number, Positive, convert, read_toml


class _Checked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Stage(_Checked, frozen=True, kw_only=True):
    """One stage of a schedule; "UpdateRNN, then QueryRNN" has two stages, "jointly" has one.

    Attributes:
        train: names of the parts whose weights are trained ("update_rnn", or "pacing.bias"); empty for all.
        settings: settings of the optimizer that hold in this stage only ({query = "gaussian"}).
        estimator: where meta-gradients come from: "backprop" differentiates segments of an unroll; "evolution"
            compares whole unrolls with weights moved up and down at random, by real queries and without any gradient,
            so that it captures effects longer than a segment and tolerates chaos; for few weights at a time.
        pairs: of weights, one up and one down, for each family in an update by evolution.
        sigma: standard deviation by which it moves each weight.
        unrolls: number of unrolls, each from new starting points.
        steps: T, steps of one unroll.
        truncation: K, steps between two updates of the weights.
        meta_batch: problems in one unroll.
        lr: step size of Adam.
        final_lr: step size at the end of a cosine decay; None keeps ``lr``.
        warmup: updates over which the step size rises to ``lr``.
        beta2: decay of Adam's second moment.
        clip_norm: largest norm of the meta-gradient.
        clip_family: largest norm of each family's own, before they are added up, so that none dominates the others.
        clip_value: largest size of any entry of it, as the public code of the paper clamps it.
        ema: decay of the running mean of the weights that is validated and kept; 0 takes the weights themselves.
        loss: the meta-loss.
    """

    train: tuple[str, ...] = ()
    settings: dict[str, Any] = {}
    estimator: Literal["backprop", "evolution"] = "backprop"
    pairs: int = 4
    sigma: float = 0.03
    unrolls: int = 100
    steps: int = 200
    truncation: int = 20
    meta_batch: int = 10
    lr: float = 1e-3
    final_lr: NonNegative | None = None
    clip_norm: Positive | None = None
    clip_family: Positive | None = None
    clip_value: Positive | None = None
    warmup: Count = 0
    beta2: Decay = 0.999
    ema: float = 0.0
    loss: MetaLoss = MetaLoss()

    def __post_init__(self) -> None:
        for name in ("unrolls", "steps", "truncation", "meta_batch", "pairs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not self.sigma > 0:
            raise ValueError(f"sigma is {self.sigma}; expected a positive number")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; expected a positive number")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; expected 0 .. 1")


class Validation(_Checked, frozen=True, kw_only=True):
    """Selection of the best weights, on problems of the validation split by real queries.

    Attributes:
        problems: number of problems of the split.
        every: unrolls between two validations; the end of a stage is always validated.
        steps: steps of a validation run.
        seeds: runs of each problem.
        criterion: quantity to minimise: "ratio", the mean final / initial loss; "queries", the mean queries to first
            success, with a problem that has none counted at the whole budget.
        settings: settings of the optimizer that hold in validation, on top of the stage's
            ({sampling_probability = 0.5}, say, where the stage has 1).
    """

    problems: Number = 20
    every: Number = 25
    steps: Number = 200
    seeds: Number = 1
    criterion: Literal["ratio", "queries"] = "ratio"
    settings: dict[str, Any] = {}


class Family(_Checked, frozen=True, kw_only=True):
    """One of several families of problems that a training draws from.

    Attributes:
        task: name of the task.
        settings: settings of the task.
        problems: how many problems of its training split; all where None.
        meta_batch: problems in one unroll, if different from the stage's.
        weight: of its meta-loss in the mean over families, and of its score in theirs.
        rescale: R: each run measures x in units multiplied by a factor drawn from [1 / R, R], evenly in its logarithm,
            so that the optimizer cannot rely on a scale (Lv et al., 2017).
        displacement: weight of the l1 displacement, in the task's own units, if it differs from the stage's.
        every: N, take part in one of N unrolls; families with this setting alternate.
        values: how queries are answered in training, if different from the training's own setting.
    """

    task: str
    settings: dict[str, Any] = {}
    problems: Number | None = None
    meta_batch: int | None = None
    weight: float = 1.0
    rescale: float = 1.0
    displacement: float | None = None
    every: int = 1
    values: Literal["queries", "directional"] | None = None

    def __post_init__(self) -> None:
        if self.meta_batch is not None and self.meta_batch < 1:
            raise ValueError(f"meta_batch is {self.meta_batch}; expected at least 1")
        if self.every < 1:
            raise ValueError(f"every is {self.every}; expected at least 1")
        if not self.weight > 0:
            raise ValueError(f"weight is {self.weight}; expected a positive number")
        if not 1 <= self.rescale < float("inf"):
            raise ValueError(f"rescale is {self.rescale}; expected a number of at least 1")


class TrainConfig(_Checked, frozen=True, kw_only=True):
    """A whole training, on one task, or on several families of problems at once.

    With several, a meta-batch holds ``meta_batch`` problems of each, or as many as the family says; the meta-loss is
    the weighted mean of theirs, and validation takes ``problems`` of each family's validation split; its score is the
    weighted geometric mean of theirs.

    Attributes:
        task: name of the task, if there is one.
        task_settings: settings of the task.
        families: the families, if there is more than one task.
        optimizer: name of the optimizer in the registry.
        settings: settings of the optimizer.
        initial: a trained optimizer of this kind that training starts from: a shipped one's name, or a folder. Parts
            that it lacks (``adaptive`` adds one) restart, and those that this training lacks are left out.
        before: trainings that come first, in order: each continues from the weights of the one before it, and this one
            from those of the last. They have families and settings of their own.
        stages: the stages, in order.
        validation: selection of the best weights.
        gradient: the optimizee's gradient: "true", or "coordinatewise", which never touches autograd of the black box.
        gradient_mu: smoothing radius of the coordinatewise gradient.
        values: source of the values in training: "queries", or "directional", one gradient and inner products.
        problems: number of problems of the training split if there is one task; None uses all.
        dtype: "float32" or "float64".
        seed: keys everything.
    """

    task: str | None = None
    optimizer: str = "zo-lstm"
    stages: tuple[Stage, ...]
    task_settings: dict[str, Any] = {}
    families: tuple[Family, ...] = ()
    initial: str | None = None
    before: tuple[TrainConfig, ...] = ()
    settings: dict[str, Any] = {}
    validation: Validation = Validation()
    gradient: Literal["true", "coordinatewise"] = "true"
    gradient_mu: Positive = 1e-3
    values: Literal["queries", "directional"] = "queries"
    problems: Number | None = None
    dtype: Literal["float32", "float64"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("there are no stages; expected at least one [[stages]]")
        if (self.task is None) == (not self.families):
            raise ValueError("both or neither of task and [[families]] were given; expected one of them")
        if self.families and all(family.every > 1 for family in self.families):
            raise ValueError("every family has every > 1; expected at least one that takes part in each unroll")
        if self.families and (self.task_settings or self.problems is not None):
            raise ValueError("task_settings and problems belong to one task; give them in [[families]]")
        if any(one.before for one in self.before):
            raise ValueError("a training in [[before]] has a [[before]] of its own; expected them in one list")
        if any(one.initial is not None for one in (*self.before[1:], *((self,) if self.before else ()))):
            raise ValueError("initial is given twice; expected it only in the first of the trainings in [[before]]")

    def drawn_from(self) -> tuple[Family, ...]:
        """The families; a single task is one family."""
        if self.task is None:
            return self.families
        return (Family(task=self.task, settings=self.task_settings, problems=self.problems),)

    def trained_on(self) -> str:
        """The names of the tasks, in words."""
        names = list(dict.fromkeys(family.task for family in self.drawn_from()))
        return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def parse(text: str, where: str = "config") -> TrainConfig:
    """A config from TOML text.

    Raises:
        InputError: not TOML, an unknown name, a wrong type, or a value out of range.
    """
    try:
        return convert(read_toml(text), TrainConfig)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def load(path: Path) -> TrainConfig:
    """A config from a TOML file.

    Raises:
        InputError: the file is missing or :func:`parse` refuses it.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return parse(text, str(path))
