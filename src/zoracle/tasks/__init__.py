"""Families of problems, by name."""

from __future__ import annotations

import difflib
from importlib import import_module
from inspect import signature
from typing import Any

from zoracle.errors import InputError
from zoracle.objectives.threat import ThreatModel
from zoracle.storage.code import is_named, load_subclass
from zoracle.tasks.base import SPLITS, Pictures, Task, TaskDefaults
from zoracle.tasks.config import task_config
from zoracle.tasks.given import GivenImages, ImageSet, image_set
from zoracle.tasks.image_attack import AttackTask, ImageAttackTask, ImageData

__all__ = [
    "SPLITS",
    "AttackTask",
    "GivenImages",
    "ImageAttackTask",
    "ImageData",
    "ImageSet",
    "Pictures",
    "Task",
    "TaskDefaults",
    "available",
    "image_set",
    "names",
    "task",
    "task_config",
]

# Read only when asked for, so that a data set's module costs nothing to the others.
_TASKS = {
    "digits": "digits:DigitsAttack",
    "mnist": "mnist:MNISTAttack",
    "cifar10": "cifar10:CIFAR10Attack",
    "imagenet": "imagenet:ImageNetAttack",
    "binary-classification": "binary_classification:BinaryClassificationTask",
    "quadratic": "quadratic:QuadraticTask",
    "functions": "functions:FunctionsTask",
    "network": "network:NetworkTask",
    "robust-regression": "robust_regression:RobustRegressionTask",
    "random-network": "random_network:RandomNetworkAttack",
    "ripples": "ripples:RipplesTask",
    "teacher": "teacher:TeacherTask",
    "rover": "rover:RoverTask",
    "lasso": "lasso:LassoTask",
    "hyperparameters": "hyperparameters:HyperparametersTask",
    "policy": "policy:PolicyTask",
}


def names() -> tuple[str, ...]:
    """The names of all tasks."""
    return tuple(_TASKS)


def available(name: str) -> bool:
    """Whether the files that a task needs are here, apart from those that it downloads. Nothing is downloaded.

    Args:
        name: one of :func:`names`.
    """
    has_target = getattr(_built_in(name), "has_target", None)
    return has_target is None or bool(has_target())


def _built_in(name: str) -> type[Task]:
    module, _, attribute = _TASKS[name].partition(":")
    cls: type[Task] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return cls


def task(name: str, **settings: Any) -> Task:
    """A task by name.

    Args:
        name: one of :func:`names`, or a class of your own: ``my_file.py:MyTask`` or ``package.module:MyTask``.
        settings: the settings of the task's class; those of a :class:`ThreatModel` may be given by themselves
            (``norm="linf", eps=0.3``).

    Raises:
        InputError: no such task, no such setting, or what the task needs is missing.
    """
    if name not in _TASKS and not is_named(name):
        close = difflib.get_close_matches(name, _TASKS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"task {name!r} is unknown; expected one of {', '.join(_TASKS)}, or my_file.py:MyTask{hint}")
    cls = _built_in(name) if name in _TASKS else load_subclass(name, Task)
    known = list(signature(cls).parameters)
    parts = ThreatModel.__struct_fields__ if "threat" in known else ()
    if unknown := [key for key in settings if key not in (*known, *parts)]:
        raise InputError(f"task {name} has no setting {unknown[0]!r}; expected one of {', '.join((*known, *parts))}")
    threat = {key: settings.pop(key) for key in parts if key in settings}
    if threat and settings.get("threat") is not None:
        raise InputError(f"task {name} was given a threat and its {next(iter(threat))}; expected one of them")
    if threat:
        settings["threat"] = ThreatModel(**threat)
    return cls(**settings)
