"""A piece of an evaluation as plain data, so that another process can run it."""

from __future__ import annotations

from inspect import signature
from typing import Any

import msgspec
import torch
from safetensors.torch import load, save
from torch import nn

from zoracle.errors import InputError
from zoracle.objectives.threat import ThreatModel
from zoracle.optimizers.base import Optimizer
from zoracle.storage.code import load_named, place_of
from zoracle.storage.fingerprint import optimizer_config
from zoracle.tasks.base import Task
from zoracle.tasks.config import task_config


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One piece as it is sent to a worker: plain data only."""

    task: tuple[str, str]
    """Module and class."""
    task_settings: dict[str, Any]
    optimizer: tuple[str, str]
    optimizer_settings: dict[str, Any]
    weights: bytes | None
    """Safetensors."""
    ids: tuple[int, ...]
    seed: int
    steps: int
    budget: int | None
    batch: int | None
    """Problems at once."""
    stop_on_success: bool
    check_start: bool
    dtype: str
    device: str
    stem: str
    """Where the piece is kept, without a suffix."""

    @property
    def label(self) -> str:
        """What an error calls it."""
        return f"seed {self.seed}, {len(self.ids)} problems from id {self.ids[0]}"


def job(
    optimizer: Optimizer[Any, Any],
    task: Task,
    *,
    ids: tuple[int, ...],
    seed: int,
    steps: int,
    budget: int | None,
    batch: int | None,
    stop_on_success: bool,
    check_start: bool,
    dtype: torch.dtype,
    device: torch.device | str,
    stem: str,
) -> Job:
    """A piece as plain data.

    Raises:
        InputError: the task or the optimizer cannot be made again from its class and settings.
    """
    settings = {name: getattr(task, name, None) for name in signature(type(task)).parameters}
    weights = None
    if isinstance(optimizer, nn.Module):
        weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in optimizer.state_dict().items()})
    made = Job(
        task=_place("task", task),
        task_settings=settings,
        optimizer=_place("optimizer", optimizer),
        optimizer_settings=optimizer.config.plain(),
        weights=weights,
        ids=ids,
        seed=seed,
        steps=steps,
        budget=budget,
        batch=batch,
        stop_on_success=stop_on_success,
        check_start=check_start,
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        stem=stem,
    )
    if getattr(optimizer, "source", None) is not None:
        raise InputError(f"{type(optimizer).__name__} draws from a source of your own; run it without workers")
    return made


def check_jobs(made: Job, optimizer: Optimizer[Any, Any], task: Task) -> None:
    """Make task and optimizer again as a worker will, and compare.

    Raises:
        InputError: they come out different.
    """
    try:
        same = task_config(task_of(made)) == task_config(task)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise InputError(
            f"task {task.name} cannot be made again in a worker ({error}); run it without workers"
        ) from error
    if not same:
        raise InputError(
            f"task {task.name} comes out different when it is made again from its settings "
            f"({', '.join(made.task_settings) or 'it has none'}); run it without workers"
        )
    if optimizer_config(optimizer_of(made)) != optimizer_config(optimizer):
        raise InputError(
            f"{type(optimizer).__name__} comes out different when it is made again from its settings and weights; "
            "run it without workers"
        )


def task_of(made: Job) -> Task:
    """The task that a job names."""
    settings = dict(made.task_settings)
    if settings.get("threat") is not None:
        settings["threat"] = msgspec.convert(settings["threat"], ThreatModel)
    found: Task = _class(made.task)(**settings)
    return found


def optimizer_of(made: Job) -> Optimizer[Any, Any]:
    """The optimizer that a job names, with its weights."""
    optimizer: Optimizer[Any, Any] = _class(made.optimizer)(**made.optimizer_settings)
    if made.weights is not None and isinstance(optimizer, nn.Module):
        optimizer.load_state_dict(load(made.weights), assign=True)
        optimizer.requires_grad_(False)
    return optimizer


def _place(what: str, thing: object) -> tuple[str, str]:
    """Module or file, and name, of a thing's class, where another process can import it from there."""
    try:
        where, _, name = place_of(type(thing)).rpartition(":")
    except InputError as error:
        raise InputError(f"the {what} is of a class of its own: {error}, or run it without workers") from error
    return where, name


def _class(place: tuple[str, str]) -> Any:
    return load_named(":".join(place))
