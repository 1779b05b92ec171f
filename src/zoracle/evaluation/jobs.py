"""A shard as plain data, with its task and optimizer, so that another process can run it."""

from __future__ import annotations

from inspect import signature
from typing import Any

import msgspec
from safetensors.torch import load, save
from torch import nn

from zoracle.errors import InputError
from zoracle.evaluation.shards import Shard
from zoracle.objectives.threat import ThreatModel
from zoracle.optimizers.base import Optimizer
from zoracle.storage.code import load_named, place_of
from zoracle.storage.fingerprint import optimizer_config
from zoracle.tasks.base import Task
from zoracle.tasks.config import task_config


class Blueprint(msgspec.Struct, frozen=True):
    """A task or an optimizer as plain data: the class and its settings."""

    place: str
    """MODULE:CLASS, or FILE.py:CLASS."""
    settings: dict[str, Any]
    weights: bytes | None = None
    """Safetensors, of an optimizer that has some."""

    @classmethod
    def of(cls, what: str, thing: object, settings: dict[str, Any], weights: bytes | None = None) -> Blueprint:
        """The blueprint of an object whose class another process can import.

        Raises:
            InputError: the class cannot be imported.
        """
        try:
            return cls(place_of(type(thing)), settings, weights)
        except InputError as error:
            raise InputError(f"the {what} is of a class of its own: {error}, or run it without workers") from error

    def make(self) -> Any:
        """The object, created from its class and settings."""
        settings = dict(self.settings)
        if settings.get("threat") is not None:
            settings["threat"] = msgspec.convert(settings["threat"], ThreatModel)
        return load_named(self.place)(**settings)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The message to a worker: plain data only."""

    task: Blueprint
    optimizer: Blueprint
    shard: Shard

    def make_task(self) -> Task:
        """The task."""
        made: Task = self.task.make()
        return made

    def make_optimizer(self) -> Optimizer[Any, Any]:
        """The optimizer, with its weights."""
        made: Optimizer[Any, Any] = self.optimizer.make()
        if self.optimizer.weights is not None and isinstance(made, nn.Module):
            made.load_state_dict(load(self.optimizer.weights), assign=True)
            made.requires_grad_(False)
        return made


def job(optimizer: Optimizer[Any, Any], task: Task, shard: Shard) -> Job:
    """A shard as plain data.

    Raises:
        InputError: the task or the optimizer cannot be recreated from its class and settings.
    """
    settings = {name: getattr(task, name, None) for name in signature(type(task)).parameters}
    weights = None
    if isinstance(optimizer, nn.Module):
        weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in optimizer.state_dict().items()})
    if getattr(optimizer, "source", None) is not None:
        raise InputError(f"{type(optimizer).__name__} draws from a custom source; run it without workers")
    return Job(
        task=Blueprint.of("task", task, settings),
        optimizer=Blueprint.of("optimizer", optimizer, optimizer.settings(), weights),
        shard=shard,
    )


def check_job(made: Job, optimizer: Optimizer[Any, Any], task: Task) -> None:
    """Recreate task and optimizer as a worker will, and compare.

    Raises:
        InputError: they differ.
    """
    try:
        same = task_config(made.make_task()) == task_config(task)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise InputError(
            f"task {task.name} cannot be made again in a worker ({error}); run it without workers"
        ) from error
    if not same:
        raise InputError(
            f"task {task.name} comes out different when it is made again from its settings "
            f"({', '.join(made.task.settings) or 'it has none'}); run it without workers"
        )
    if optimizer_config(made.make_optimizer()) != optimizer_config(optimizer):
        raise InputError(
            f"{type(optimizer).__name__} comes out different when it is made again from its settings and weights; "
            "run it without workers"
        )
