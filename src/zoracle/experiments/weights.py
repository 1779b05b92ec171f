"""Weights of the paper's optimizer and its ablations, given by the user or trained within the experiment."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import msgspec

from zoracle.comparison import load_named_optimizers, use_of
from zoracle.experiments.context import Context
from zoracle.metatrain import TrainConfig, parse
from zoracle.optimizers import Optimizer
from zoracle.tasks import Task, task_config

PAPER, NO_UPDATE = "zo-lstm-paper", "zo-lstm-no-update"


def recipe(name: str) -> TrainConfig:
    """A recipe shipped with the package."""
    return parse((files("zoracle") / "recipes" / f"{name}.toml").read_text(encoding="utf-8"), name)


def paper_config(made: Task, quick: bool, *, kind: str = PAPER) -> TrainConfig:
    """How the paper's optimizer, or its ablation no-update, is trained on a task.

    Both stages of the public code's schedule; no-update has the second one only, QueryRNN under steps of ZO-SGD. The
    task has its own settings, all else is the recipe's.
    """
    text = files("zoracle.experiments") / "configs" / "zo-lstm-paper.toml"
    config = parse(text.read_text(encoding="utf-8"), "zo-lstm-paper") if quick else recipe("zo-lstm-paper-mnist")
    stages = config.stages if kind == PAPER else config.stages[1:]
    own = task_config(made)
    # Those settings that name other problems; images have none of them.
    settings = {name: own[name] for name in ("dim", "samples", "batch_size") if name in own and "samples" in own}
    return msgspec.structs.replace(config, task=made.name, task_settings=settings, optimizer=kind, stages=stages)


def paper_weights(context: Context, key: str, made: Task, kind: str = PAPER) -> Optimizer[Any, Any]:
    """The paper's optimizer for a task: the user's weights where `--optimizers` names such ones, else trained here."""
    if context.optimizers is not None:
        for label, loaded in context.learned(made):
            if loaded.metadata["name"] == kind:
                context.note(f"{kind} on {made.name}: the weights given as {label}")
                return loaded.optimizer
    config = paper_config(made, context.quick, kind=kind)
    context.note(
        f"{kind} on {made.name}: trained in this run, "
        + ("by the quick form's config" if context.quick else "by the schedule of the recipe zo-lstm-paper-mnist")
    )
    return context.trained(f"{key}-{kind}", config).optimizer


def own_form(context: Context, made: Task) -> tuple[str, Optimizer[Any, Any]]:
    """This project's own form, zo-lstm: the user's where `--optimizers` names one, else the shipped one."""
    given = [] if context.optimizers is None else context.learned(made)
    own = [(label, loaded) for label, loaded in given if loaded.metadata["name"] == "zo-lstm"]
    label, loaded = (own or load_named_optimizers("zo-lstm", use_of(made)))[0]
    return label, loaded.optimizer


def training_steps(kinds: tuple[str, ...]) -> float:
    """Steps per problem in trainings of these kinds."""
    config = recipe("zo-lstm-paper-mnist")
    stages = {PAPER: config.stages, NO_UPDATE: config.stages[1:]}
    return sum(s.unrolls * s.steps * s.meta_batch for kind in kinds for s in stages[kind])
