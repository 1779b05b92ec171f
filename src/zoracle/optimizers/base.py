"""The base of optimizers: ``init``, ``ask`` and ``tell`` over B problems at once, and a state of tensors only."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from difflib import get_close_matches
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import msgspec
import torch
from torch import Tensor

from zoracle import estimators
from zoracle.errors import InputError, MuTooSmallWarning, UnknownSettingError
from zoracle.optimizers.radius import Radius, schedule
from zoracle.settings import MOST_DIRECTIONS, NonNegative, convert
from zoracle.settings import Positive as Positive
from zoracle.settings import Share as Share
from zoracle.types import Key, Queries, Space


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of an optimizer. Every optimizer has a subclass; unknown names are refused."""

    def plain(self) -> dict[str, Any]:
        """The settings as JSON values, with lists for tuples: equal to what comes back from a file."""
        return dict(msgspec.json.decode(msgspec.json.encode(self)))


class SamplingConfig(Config, frozen=True, kw_only=True):
    """Settings of optimizers that estimate gradients from finite differences.

    Attributes:
        num_directions: q, query directions per step.
        mu: smoothing radius in the units of x; None follows the floating-point type and the scale of x.
        directions: "gaussian" or "orthogonal".
        difference: "forward" spends q + 1 points per step, "central" 2q and does not evaluate the iterate.
        control_variate: subtract the mean of the q forward differences.
        reach: R, distance that directions are probed at in the first step, in units of the scale that the run was
            told; it falls linearly to mu, as :mod:`zoracle.optimizers.radius` says. 0 probes at mu from the start.
        reach_until: share of the run after which it is mu.
    """

    num_directions: int = 20
    mu: float | None = None
    directions: Literal["gaussian", "orthogonal"] = "gaussian"
    difference: Literal["forward", "central"] = "forward"
    control_variate: bool = False
    reach: NonNegative = 0.0
    reach_until: Share = 0.5


class State(Protocol):
    """The fields that every optimizer's state has."""

    @property
    def x(self) -> Tensor:
        """(B, d) the iterate."""

    @property
    def key(self) -> Key:
        """The key of the random numbers of the next step."""


class Start(NamedTuple):
    """The validated start of a run."""

    x: Tensor
    """(B, d)."""
    key: Key
    mu: Tensor
    """(B,) smoothing radius."""
    horizon: Tensor
    """(B,) steps that the run is planned for; 0 where that is open."""
    space: Space | None = None
    """The feasible region; None if not given."""
    scale: float = 1.0
    """Typical size of a coordinate."""
    radius: tuple[Radius, ...] = ()
    """The schedule of the smoothing radius; empty if it is mu throughout."""


S = TypeVar("S")
#: Inside the class, ``Config`` is that of the optimizer.
_AnyConfig = Config

OptimizerT = TypeVar("OptimizerT", bound="Optimizer[Any, Any]")
C = TypeVar("C", bound=Config)


class Optimizer(ABC, Generic[S, C]):
    """Minimises B problems at once: ``ask`` returns points, ``tell`` takes their values.

    Settings are given by name, ``ZOSGD(lr=0.01)``, or as a config, ``ZOSGD(ZOSGDConfig(lr=0.01))``.

    Attributes:
        config: the settings of a run.
        architecture: the settings that weights were made for; a run with these weights cannot change them.
        fewest: smallest ``num_directions``.
        follows_noise: whether ``minimize`` measures the noise of f first, because the optimizer goes by it.
        order: 1 where ``tell`` needs the gradient at the point asked for, 0 where values are enough.

    Raises:
        InputError: a setting is unknown, of the wrong type, or out of range.
    """

    Config: ClassVar[type[Config]]
    Architecture: ClassVar[type[_AnyConfig]] = _AnyConfig
    """Settings that weights are made for; an optimizer without weights has none."""
    fewest: ClassVar[int] = 1
    follows_noise: ClassVar[bool] = False
    order: int = 0
    config: C
    architecture: _AnyConfig

    def __init__(self, config: C | None = None, **settings: Any) -> None:
        fixed = {name: settings.pop(name) for name in self.Architecture.__struct_fields__ if name in settings}
        self.architecture = self._converted(self.Architecture, fixed)
        self.config = self.checked(config, settings)
        self.check_together(self.config)
        self.equip()

    def equip(self) -> None:
        """Make the parts that follow from the settings; called whenever these are set."""
        return

    def check_together(self, config: C) -> None:
        """Raise an InputError where settings of a run do not go with the architecture."""
        return

    def settings(self) -> dict[str, Any]:
        """All settings as JSON values; the class makes the same optimizer of them, apart from its weights."""
        return {**self.config.plain(), **self.architecture.plain()}

    @classmethod
    def checked(cls, config: C | None, settings: dict[str, Any]) -> C:
        """A config from settings by name on top of a config, types and names checked."""
        given = msgspec.structs.asdict(config) if config is not None else {}
        made = cls._converted(cls.Config, {**given, **settings})
        q = getattr(made, "num_directions", cls.fewest)
        if not cls.fewest <= q <= MOST_DIRECTIONS:
            raise InputError(f"{cls.__name__}: num_directions is {q}; expected {cls.fewest} .. {MOST_DIRECTIONS}")
        if (mu := getattr(made, "mu", None)) is not None and not mu > 0:
            raise InputError(f"{cls.__name__}: mu is {mu}; expected a positive number")
        return made  # type: ignore[return-value]

    @classmethod
    def _converted(cls, kind: type[_AnyConfig], settings: dict[str, Any]) -> _AnyConfig:
        try:
            return convert(settings, kind)
        except InputError as error:
            known = (*cls.Config.__struct_fields__, *cls.Architecture.__struct_fields__)
            if unknown := next((name for name in settings if name not in known), None):
                close = get_close_matches(unknown, known, 1)
                hint = f"did you mean {close[0]}? " if close else ""
                told = f"optimizer {cls.__name__} has no setting {unknown!r}; {hint}it has {', '.join(known)}"
                raise UnknownSettingError(told, unknown) from error
            told = f"cannot use its settings: {error}; they are {', '.join(known)}"
            raise InputError(f"optimizer {cls.__name__} {told}") from error

    @property
    @abstractmethod
    def queries_per_step(self) -> int:
        """The number of points per problem and step: m of :class:`Queries`."""

    @property
    def goes_by_mu(self) -> bool:
        """Whether its state has a smoothing radius ``mu`` that the caller did not set."""
        return getattr(self.config, "mu", 0.0) is None

    @property
    def evaluates_iterate(self) -> bool:
        """Whether the first point of each step is the iterate itself."""
        return True

    def init(
        self,
        x0: Tensor,
        *,
        seed: int | Tensor = 0,
        problem: Tensor | None = None,
        horizon: int | None = None,
        scale: float = 1.0,
        space: Space | None = None,
    ) -> S:
        """The state before the first step.

        Args:
            x0: starting points (B, d), float32 or float64.
            seed: what the randomness is keyed by, with the problem's id and the step.
            problem: stable ids (B,) int64; by default 0 .. B - 1.
            horizon: steps that the run is planned for, for optimizers that follow a schedule.
            scale: typical size of a coordinate, which determines the default smoothing radius.
            space: the feasible region, for optimizers that need it (see ``Objective.space``).

        Raises:
            InputError: wrong shape or type, values that are not finite, or the optimizer needs a space that there is
                not.
        """
        if x0.ndim != 2 or not x0.is_floating_point():
            raise InputError(f"x0 is {x0.dtype} {tuple(x0.shape)}; expected floating-point numbers (B, d)")
        if not bool(x0.isfinite().all()):
            raise InputError("x0 has values that are NaN or infinite; expected finite numbers")
        if not scale > 0:
            raise InputError(f"scale is {scale}; expected a positive number")
        if horizon is not None and horizon < 1:
            raise InputError(f"horizon is {horizon}; expected at least 1 step")
        b = x0.shape[0]
        problem = torch.arange(b) if problem is None else problem
        if problem.shape != (b,):
            raise InputError(f"problem has shape {tuple(problem.shape)}; expected ({b},), one id per row of x0")
        if space is not None and (space.low.shape != x0.shape or space.shape.shape != (b, 3)):
            raise InputError(
                f"space has points of shape {tuple(space.low.shape)}; expected {tuple(x0.shape)}, that of x0"
            )
        start = Start(
            x=x0.detach().clone(),
            key=Key.start(seed, problem),
            mu=x0.new_full((b,), self._mu(x0.dtype, scale)),
            horizon=torch.full((b,), horizon or 0, dtype=torch.int64),
            space=space,
            scale=scale,
        )
        if isinstance(self.config, SamplingConfig) and self.config.reach:
            way = schedule(self.config.reach, self.config.reach_until, start.horizon, scale, start.mu)
            start = start._replace(radius=way)
        return self._init(start)

    def planned(self: OptimizerT, dim: int, budget: int) -> OptimizerT:
        """The optimizer for runs of so many queries in so many dimensions; itself, where that is all the same to it."""
        return self

    def informed(self, state: S, noise: Tensor, mu: Tensor, loss: Tensor) -> S:
        """The state of an optimizer that is told how noisy f is, before its first step.

        Args:
            state: of ``init``.
            noise: (B,) standard deviation of f; 0 where there is none but rounding.
            mu: (B,) the shortest distance, a coordinate, whose differences stand out from it.
            loss: (B,) f at the start.
        """
        if not self.goes_by_mu:
            return state
        return state._replace(mu=torch.where(noise > 0, mu, state.mu))  # type: ignore[attr-defined, no-any-return]

    def keeps_inside(self, state: S) -> bool:
        """Whether the iterates lie in their space to the last bit: the loop then leaves out their projection."""
        return False

    def account(self, state: S) -> dict[str, Tensor]:
        """What the steps so far were spent on, numbers (B,) by name, for :class:`~zoracle.api.solutions.Solution`."""
        return {}

    def ask(self, state: S) -> Queries:
        """The points to evaluate at this step. It has no side effects: calling it twice gives the same points."""
        return self._ask(state)

    def tell(self, state: S, queries: Queries, values: Tensor, gradients: Tensor | None = None) -> S:
        """The state after a step.

        Args:
            state: what ``ask`` was given.
            queries: what ``ask`` returned.
            values: (B, m) losses of its points; NaN marks a value that could not be had.
            gradients: (B, m, d), for optimizers of order 1.

        Raises:
            InputError: the shapes do not belong together.
        """
        if values.shape != queries.points.shape[:2]:
            raise InputError(
                f"values have shape {tuple(values.shape)}; expected {tuple(queries.points.shape[:2])}, one per point"
            )
        if self.order == 1 and gradients is None:
            raise InputError(f"{type(self).__name__} needs gradients; pass them, (B, m, d)")
        return self._tell(state, queries, values, gradients)

    def auxiliary(self, queries: Queries, gradient: Tensor) -> Tensor | None:
        """What the meta-loss adds for these queries, (B,), before its weight; None where there is nothing.

        Args:
            queries: of ``ask``, with their graph.
            gradient: (B, d) the optimizee's gradient at the iterate; training has it anyway.
        """
        return None

    @abstractmethod
    def _init(self, start: Start) -> S: ...

    @abstractmethod
    def _ask(self, state: S) -> Queries: ...

    @abstractmethod
    def _tell(self, state: S, queries: Queries, values: Tensor, gradients: Tensor | None) -> S: ...

    def _mu(self, dtype: torch.dtype, scale: float) -> float:
        mu = getattr(self.config, "mu", None)
        if mu is None:
            return estimators.default_mu(dtype, scale)
        smallest = estimators.smallest_mu(dtype, scale)
        if mu < smallest:
            warnings.warn(
                f"mu = {mu:g} is too small for {dtype} at scale {scale:g}: differences will be rounding noise; "
                f"use at least {smallest:.1g}, or float64",
                MuTooSmallWarning,
                stacklevel=3,
            )
        return float(mu)


def check_architecture(architecture: Config, settings: dict[str, Any]) -> None:
    """Raise an InputError where settings would change what weights were made for."""
    for name, value in settings.items():
        if name in architecture.__struct_fields__ and (there := getattr(architecture, name)) != value:
            raise InputError(
                f"{name} is {there!r} in these weights and part of their architecture, so a run cannot have {value!r}; "
                "leave it out, or train weights of that architecture"
            )


def with_settings(optimizer: OptimizerT, **settings: Any) -> OptimizerT:
    """The same optimizer with some settings changed; it shares weights with the given one, which is unchanged.

    Raises:
        InputError: a setting is unknown, of the wrong type, out of range, or part of the architecture.
    """
    check_architecture(optimizer.architecture, settings)
    settings = {name: value for name, value in settings.items() if name not in optimizer.Architecture.__struct_fields__}
    copy = object.__new__(type(optimizer))
    copy.__dict__.update(optimizer.__dict__)
    config = optimizer.checked(optimizer.config, settings)
    optimizer.check_together(config)
    object.__setattr__(copy, "config", config)
    copy.equip()
    return copy


def directions_of(optimizer: Optimizer[Any, Any]) -> int | None:
    """Query directions per step; None where the optimizer has no such setting."""
    return getattr(optimizer.config, "num_directions", None)


def with_directions(optimizer: OptimizerT, q: int | None) -> OptimizerT:
    """The same optimizer with q query directions per step; as it is where q is None or it has no such setting."""
    if q is None or directions_of(optimizer) is None:
        return optimizer
    return with_settings(optimizer, num_directions=q)
