"""Step sizes for the hand-designed optimizers, chosen on held-out problems and never on the test split."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from zoracle import __version__
from zoracle.errors import InputError
from zoracle.evaluation.evaluate import OnProgress, evaluate
from zoracle.evaluation.pool import Pool
from zoracle.evaluation.spec import RunSpec
from zoracle.optimizers.base import Optimizer, directions_of, with_directions, with_settings
from zoracle.optimizers.registry import REGISTRY, make
from zoracle.results.metrics import summarise
from zoracle.results.tuned import Score, Tuned
from zoracle.storage.fingerprint import ids_hash
from zoracle.tasks.base import Task
from zoracle.tasks.config import task_config

Criterion = Literal["ratio", "queries"]


class Axis(NamedTuple):
    """One setting that is tuned."""

    setting: str
    values: tuple[float, ...]
    """Ascending."""
    factor: float | None = None
    """What an edge is extended by, while the winner lies on it; None keeps the values given."""
    per_dimension: bool = False
    """The values are k of k / d."""


#: Step sizes k / d, every factor of two, around the 4 / d and 8 / d of the paper's public code.
STEP_SIZES = Axis("lr", (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0), factor=2.0, per_dimension=True)

#: Step sizes in units of x, for optimizers whose steps have a size of their own.
STEPS = Axis("lr", (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08), factor=2.0)

#: What is tuned of each optimizer, in this order, again and again until a whole round changes nothing. An optimizer
#: joins by its line here.
GRIDS: dict[str, tuple[Axis, ...]] = {
    "zo-sgd": (STEP_SIZES,),
    "zo-signsgd": (STEP_SIZES,),
    "zo-adam": (STEP_SIZES, Axis("beta2", (0.9, 0.99, 0.996, 0.999)), Axis("beta1", (0.0, 0.5, 0.9))),
    "zo-adamm": (STEP_SIZES, Axis("beta2", (0.3, 0.9, 0.99))),
    "nes": (STEPS,),
    "bandits": (STEPS, Axis("online_lr", (0.001, 0.01, 0.1, 1.0, 10.0), factor=10.0)),
    "square": (Axis("p_init", (0.05, 0.1, 0.2, 0.4, 0.8)),),
    "simba": (Axis("step", (0.025, 0.05, 0.1, 0.2, 0.4)),),
    "snes": (Axis("sigma", (0.0075, 0.015, 0.03, 0.06, 0.12), factor=2.0),),
}

#: The names of the classes that the registry makes.
_NAMES: dict[object, str] = {REGISTRY[name].make: name for name in GRIDS}
_VALID = RunSpec(split="valid")
_MOST_EXTENSIONS = 24
_MOST_ROUNDS = 4


def tunable(optimizer: Optimizer[Any, Any]) -> str | None:
    """The registered name of an optimizer whose settings can be tuned here, or None."""
    return _NAMES.get(type(optimizer))


def untouched(optimizer: Optimizer[Any, Any]) -> bool:
    """Whether every tunable setting of a tunable optimizer is still its default."""
    default = type(optimizer).Config()
    name = tunable(optimizer)
    return name is not None and all(
        getattr(optimizer.config, axis.setting) == getattr(default, axis.setting) for axis in GRIDS[name]
    )


def tune(
    task: Task,
    optimizer: str | Optimizer[Any, Any],
    spec: RunSpec = _VALID,
    *,
    criterion: Criterion = "ratio",
    grid: Sequence[Axis] | None = None,
    resume_dir: Path | None = None,
    on_progress: OnProgress | None = None,
    workers: Pool | None = None,
) -> Tuned:
    """Choose the settings of a hand-designed optimizer on held-out problems.

    One setting after another is searched along its grid with the others kept, until a whole round changes nothing.
    Step sizes are on a logarithmic grid around k / d, extended for as long as the best one lies on its edge.

    Args:
        task: what it is tuned for.
        optimizer: a name of :data:`GRIDS`, or such an optimizer with other settings to keep.
        spec: which problems, of the split "valid" or "train", and how long each run is; the task's own steps where it
            says none, and its own q where the optimizer is a name.
        criterion: "ratio", the mean final / initial loss; "queries", the mean queries to first success, ties by ratio.
        grid: other settings or values to try than :data:`GRIDS` names.
        resume_dir: where each run is kept, so that an interrupted tuning continues there.
        on_progress: told after each step of the run at work.
        workers: processes that share each run.

    Raises:
        InputError: the optimizer is not tunable, the test split is asked for, or an id is not of the split.
    """
    if isinstance(optimizer, str):
        if optimizer not in GRIDS:
            raise InputError(f"optimizer {optimizer!r} cannot be tuned; expected one of {', '.join(GRIDS)}")
        q = task.defaults.num_directions if spec.num_directions is None else spec.num_directions
        base = with_directions(make(optimizer), q)
    else:
        base = with_directions(optimizer, spec.num_directions)
    name = tunable(base)
    if name is None:
        raise InputError(f"{type(base).__name__} cannot be tuned; expected one of {', '.join(GRIDS)}")
    ids = _problems(task, spec)
    spec = msgspec.structs.replace(spec, ids=ids, problems=None, steps=spec.steps or task.defaults.steps)
    check_criterion(criterion)

    def score(settings: dict[str, float]) -> Score:
        folder = None if resume_dir is None else resume_dir / _folder(settings)
        result = evaluate(
            with_settings(base, **settings),
            task,
            spec,
            on_progress=on_progress,
            resume_dir=folder,
            workers=workers,
        )
        summary = summarise(result)
        ratio, loss = summary.ratio.mean, summary.final_loss.mean
        return Score(
            settings,
            ratio if math.isfinite(ratio) else None,
            summary.queries_to_success_mean,
            loss if math.isfinite(loss) else None,
            int((result.spent + result.monitored).sum()),
            int(result.lost.sum()),
        )

    axes = GRIDS[name] if grid is None else tuple(grid)
    search = _Search(score, criterion, [_scaled(axis, task.dim) for axis in axes], base)
    search.run()
    return Tuned(
        task=task.name,
        task_config=task_config(task),
        optimizer=name,
        steps=spec.steps or task.defaults.steps,
        num_directions=directions_of(base),
        split=spec.split,
        problems=len(ids),
        ids_sha256=ids_hash(ids),
        seeds=list(spec.seed_list),
        criterion=criterion,
        dtype=spec.dtype,
        grid={axis.setting: list(axis.values) for axis in search.axes},
        chosen=search.chosen,
        on_edge=search.on_edge(),
        scores=list(search.scores.values()),
        queries=sum(tried.points for tried in search.scores.values()),
        version=__version__,
        interrupted=sum(tried.lost for tried in search.scores.values()),
    )


def check_criterion(criterion: str) -> None:
    """Raise an InputError where the criterion is unknown."""
    if criterion not in ("ratio", "queries"):
        raise InputError(f"criterion is {criterion!r}; expected ratio or queries")


class _Search:
    """One setting after another along its grid, the others kept, until a whole round changes nothing."""

    def __init__(
        self,
        score: Callable[[dict[str, float]], Score],
        criterion: Criterion,
        axes: list[Axis],
        base: Optimizer[Any, Any],
    ) -> None:
        self.score, self.criterion, self.axes = score, criterion, axes
        self.scores: dict[tuple[float, ...], Score] = {}
        self.chosen = {axis.setting: self._begin(axis, base) for axis in axes}

    def run(self) -> None:
        for _ in range(_MOST_ROUNDS):
            before = dict(self.chosen)
            for i in range(len(self.axes)):
                self._line(i)
            if self.chosen == before or len(self.axes) == 1:
                return

    def on_edge(self) -> list[str]:
        return [a.setting for a in self.axes if a.factor and self.chosen[a.setting] in (a.values[0], a.values[-1])]

    def _line(self, i: int) -> None:
        axis = self.axes[i]
        for _ in range(_MOST_EXTENSIONS):
            best = min(axis.values, key=lambda value: self._key({**self.chosen, axis.setting: value}))
            # Where every step size ends above its start, which of them fails least says nothing: go smaller.
            fails = (self._tried({**self.chosen, axis.setting: best}).ratio or 0.0) > 1
            if axis.factor is None or not (fails or best in (axis.values[0], axis.values[-1])):
                break
            lower = fails or best == axis.values[0]
            beyond = axis.values[0] / axis.factor if lower else axis.values[-1] * axis.factor
            axis = axis._replace(values=(beyond, *axis.values) if lower else (*axis.values, beyond))
        self.axes[i] = axis
        self.chosen[axis.setting] = best

    def _tried(self, settings: dict[str, float]) -> Score:
        index = tuple(settings.values())
        if index not in self.scores:
            self.scores[index] = self.score(dict(settings))
        return self.scores[index]

    def _key(self, settings: dict[str, float]) -> tuple[float, float, float]:
        tried = self._tried(settings)
        ratio, loss = _or_inf(tried.ratio), _or_inf(tried.final_loss)
        if self.criterion == "queries":
            if tried.queries is None:
                raise InputError("this task has no successes to count queries to; use criterion ratio instead")
            return tried.queries, ratio, loss
        return ratio, loss, 0.0

    @staticmethod
    def _begin(axis: Axis, base: Optimizer[Any, Any]) -> float:
        """The optimizer's own value where it has one, else the middle of the grid."""
        own = getattr(base.config, axis.setting)
        return axis.values[len(axis.values) // 2] if own is None else float(own)


def _problems(task: Task, spec: RunSpec) -> tuple[int, ...]:
    task.check_split(spec.split)
    if spec.split == "test":
        raise InputError("split is test, which is never used for tuning; expected valid or train")
    ids = spec.problem_ids(task)
    foreign = set(ids) - set(task.ids(spec.split))
    if foreign:
        raise InputError(
            f"id {min(foreign)} is not of the {spec.split} split of {task.name}; settings are tuned on it only"
        )
    return ids


def _scaled(axis: Axis, dim: int) -> Axis:
    return axis._replace(values=tuple(k / dim for k in axis.values)) if axis.per_dimension else axis


def _folder(settings: dict[str, float]) -> str:
    return "-".join(f"{name}-{value:.6g}" for name, value in settings.items())


def _or_inf(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value
