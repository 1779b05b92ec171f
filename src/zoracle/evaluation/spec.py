"""How optimizers are run on the problems of a task, told once: for a command line, a file, a worker, a fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import torch

from zoracle.errors import BudgetError, InputError
from zoracle.objectives.base import Objective
from zoracle.optimizers.base import Optimizer
from zoracle.settings import beyond
from zoracle.storage.fingerprint import ids_hash
from zoracle.tasks.base import Task

DTypeName = Literal["float32", "float64"]

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}

#: Repeats; each is written out in the run's config.
_MOST_SEEDS = 10_000
#: Parts of a description that change how fast a run is and what memory it takes, and none of its numbers.
_FREE = ("batch", "device")


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How optimizers are run on the problems of a task: everything that the numbers depend on beside those two.

    Attributes:
        split: which problems, where ``ids`` names none.
        ids: problems by id; None uses the first ones of the split.
        problems: how many those are; None uses as many as the task's defaults say.
        seeds: how many repeats (0, 1, ...), or which seeds. Starting points and directions follow the seed.
        steps: T; None uses what the budget pays for, or the task's own number where there is no budget.
        num_directions: q of optimizers that sample directions; None keeps each one's own.
        budget: points that each problem may cost at most, for each optimizer.
        dtype: floating-point type of the points, "float32" or "float64".
        device: where the points live.
        batch: problems at once; another begins as soon as one has finished. None uses all. It changes nothing but
            memory and speed.
        stop_on_success: whether a problem stops at its first success; None does where nothing is left to win then
            (``Objective.ends_at_success``: attacks within a ball).
        check_start: evaluate each problem's start first, for one query that counts as optimisation; one that is a
            success already takes no step. By default nobody looks: the problems of the tasks that ship are known to
            be none.

    Raises:
        InputError: no problems or seeds, or one twice; a number or a name out of range.
    """

    split: str = "test"
    ids: tuple[int, ...] | None = None
    problems: int | None = None
    seeds: int | tuple[int, ...] = 1
    steps: int | None = None
    num_directions: int | None = None
    budget: int | None = None
    dtype: DTypeName = "float32"
    device: str = "cpu"
    batch: int | None = None
    stop_on_success: bool | None = None
    check_start: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"dtype is {self.dtype!r}; expected float32 or float64")
        if wrong := beyond(msgspec.structs.asdict(self)):
            raise InputError(wrong)
        for name, what in (("problems", "problem"), ("batch", "problem"), ("steps", "step")):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise InputError(f"{name} is {number}; expected at least 1 {what}")
        if isinstance(self.seeds, int):
            if not 1 <= self.seeds <= _MOST_SEEDS:
                raise InputError(f"seeds is {self.seeds}; expected 1 .. {_MOST_SEEDS}")
        else:
            msgspec.structs.force_setattr(self, "seeds", _listed("seeds", self.seeds))
        if self.ids is not None:
            if self.problems is not None:
                raise InputError("ids and problems were both given; expected one of them")
            msgspec.structs.force_setattr(self, "ids", _listed("ids", self.ids))

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of the points, as torch names it."""
        return DTYPES[self.dtype]

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds, each a repeat of all problems."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def problem_ids(self, task: Task) -> tuple[int, ...]:
        """The problems.

        Raises:
            InputError: the task has no such split, or fewer problems in it than were asked for.
        """
        if self.ids is not None:
            return self.ids
        known = task.ids(self.split)
        if self.problems is not None and self.problems > len(known):
            raise InputError(f"problems is {self.problems}; the {self.split} split of {task.name} has {len(known)}")
        return tuple(known[: task.defaults.problems if self.problems is None else self.problems])

    def objective(self, task: Task) -> Objective:
        """The problems, ready to be queried; nothing is queried yet.

        Raises:
            InputError: the task has no such problem.
        """
        return task.objective(self.problem_ids(task), dtype=self.torch_dtype, device=self.device)

    def stops(self, objective: Objective) -> bool:
        """Whether a problem stops at its first success."""
        return objective.ends_at_success if self.stop_on_success is None else self.stop_on_success

    def steps_of(self, optimizer: Optimizer[Any, Any], task: Task) -> int:
        """The number of steps of an optimizer: as given, else what the budget pays for, else the task's own.

        Raises:
            BudgetError: the budget is smaller than one step.
        """
        cost, before = optimizer.queries_per_step, int(self.check_start)
        if self.budget is not None and self.budget < cost + before:
            raise BudgetError(
                f"budget is {self.budget} queries per problem, and one step of {type(optimizer).__name__} costs {cost}"
                f"{' and the initial check 1' if before else ''}; give at least {cost + before}, "
                "or fewer directions"
            )
        if self.steps is not None:
            return self.steps
        return task.defaults.steps if self.budget is None else (self.budget - before) // cost

    def settled(self, task: Task, optimizer: Optimizer[Any, Any], objective: Objective) -> RunSpec:
        """The same with nothing left to defaults, for one optimizer with its q."""
        return msgspec.structs.replace(
            self,
            ids=self.problem_ids(task),
            problems=None,
            seeds=self.seed_list,
            steps=self.steps_of(optimizer, task),
            stop_on_success=self.stops(objective),
        )

    def identity(self) -> dict[str, Any]:
        """What the numbers depend on, as JSON values; problems named one by one are told by a hash as well."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        told = {name: value for name, value in plain.items() if name not in _FREE}
        return told if self.ids is None else {**told, "ids_sha256": ids_hash(self.ids)}


def _listed(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """Ids or seeds as a tuple."""
    if not len(values):
        raise InputError(f"{name} is empty; expected at least one")
    if len(set(values)) != len(values):
        twice = next(value for value in values if list(values).count(value) > 1)
        raise InputError(f"{name} names {twice} more than once; expected each once")
    return tuple(values)
