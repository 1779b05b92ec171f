"""Forward-only training: zoracle's optimizers as a ``torch.optim.Optimizer`` with a closure."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoracle.errors import CheckpointError, InputError
from zoracle.estimators import default_mu
from zoracle.interop import guard as guards
from zoracle.interop.closure import ClosureLoss
from zoracle.keyed import mix
from zoracle.objectives.transform import Rescaled
from zoracle.optimizers.base import Optimizer, SamplingConfig, with_settings
from zoracle.optimizers.devices import on_device
from zoracle.optimizers.pretrained import resolve
from zoracle.rollout import take_step
from zoracle.rollout.oracle import Oracle
from zoracle.state import flatten, unflatten
from zoracle.types import Purpose

#: Step size where neither the caller nor the optimizer's own settings name one: that of torch.optim.
DEFAULT_LR = 1e-3
_MOST_HALVINGS = 20

_STATE = "zoracle"  # key of the state that belongs to all parameters together


class ZerothOrder(torch.optim.Optimizer):
    """Trains by calling the loss only: no backward pass, no graph, no activations kept.

    All parameters together are one point of d coordinates. A step writes each candidate point into the parameters,
    calls the closure once for each, and leaves the parameters at the new iterate::

        optimizer = ZerothOrder(model.parameters(), "zo-adam", lr=1e-3)
        for inputs, labels in loader:
            optimizer.step(lambda: loss_function(model(inputs), labels))

    All calls of a step should see the same mini-batch, so fetch it outside the closure; dropout and the like are
    noise between the calls, and a batch norm in training mode updates its averages at each. A step holds the points
    and their directions in memory, about 2 q + 1 copies of the parameters and for a moment 4 q; where that is too
    much, take fewer directions (``num_directions``).

    Parameters of any floating-point type and on any devices may be mixed. The iterate is kept in float64 where one of
    them is, and in float32 otherwise, so that steps too small for half precision still add up; the default smoothing
    parameter is that of the coarsest type, so that every parameter sees it. Parameters that were
    changed between two steps, by a checkpoint or by clamping, are where the next one begins.

    ``param_groups[i]["lr"]`` is honoured for optimizers that have a step size, so learning-rate schedulers work; it
    has to be the same in all groups. Those that adapt it themselves, as NES does, have none there, and learned ones
    follow the schedule of ``horizon`` instead.

    Learned optimizers have no step size to make smaller where a training goes wrong. They are guarded: where the mean
    loss of 20 steps has risen above the lowest one so far, by more than its noise, the parameters go back to those of
    that one, and the optimizer begins there anew in units half as large. With ``horizon`` the last step is such a
    moment too. A :class:`DivergenceWarning` says so once.

    Args:
        params: parameters, named parameters or groups of them, as in torch.optim; all of them are trained.
        optimizer: a name, a folder, or an optimizer; "zo-lstm" means "zo-lstm-universal" here.
        lr: step size; None uses that of the optimizer's settings, and ``DEFAULT_LR`` where they have none.
        scale: by how much a parameter typically has to change, the unit of ``lr``, ``mu`` and learned steps.
        horizon: steps that the training will take, for optimizers that follow a schedule; None uses that of their
            settings.
        seed: keys the random directions.
        guard: whether a learned optimizer is guarded; False leaves it alone, where losses may rise because the data
            change, say.
        settings: settings of the optimizer (``num_directions=50``).

    Raises:
        InputError: what was given cannot be used.

    Examples:
        >>> x = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = ZerothOrder([x], "zo-sgd", lr=0.05, num_directions=4)
        >>> for _ in range(100):
        ...     loss = optimizer.step(lambda: (x**2).sum())
        >>> optimizer.queries, bool(loss < 0.01)
        (500, True)
    """

    def __init__(
        self,
        params: Any,
        optimizer: str | Path | Optimizer[Any, Any] = "zo-adam",
        *,
        lr: float | None = None,
        scale: float = 1.0,
        horizon: int | None = None,
        seed: int = 0,
        guard: bool = True,
        **settings: Any,
    ) -> None:
        self._optimizer = _chosen(optimizer, lr, settings)
        self._oracle: Oracle | None = None  # a group may be added as long as there is none
        super().__init__(params, {})
        if not 0 < scale < float("inf"):
            raise InputError(f"scale is {scale}; expected a positive number")
        self._loss = ClosureLoss([p for group in self.param_groups for p in group["params"]])
        x0 = self._loss.read()
        if isinstance(self._optimizer.config, SamplingConfig) and self._optimizer.config.mu is None:
            # The iterate's type is the finest of the parameters'; a step must be seen in the coarsest.
            self._optimizer = with_settings(self._optimizer, mu=default_mu(self._loss.coarsest, self._loss.scale))
        self._optimizer = on_device(self._optimizer, x0.device)
        self._plan = _Plan(scale, horizon, seed)
        self._guard = guards.begin(x0) if guard and isinstance(self._optimizer, nn.Module) else None
        self._measure(scale)
        self._run = self._begin(x0)
        self._offer_lr()
        self._watch = guards.Watch()
        # One point per call: there is one model.
        self._oracle = Oracle(self._rescaled, chunk=1)
        self._publish()

    @property
    def queries(self) -> int:
        """Calls of the closure so far, those that failed included."""
        assert self._oracle is not None
        return int(self._oracle.counts[Purpose.OPTIMISE])

    @property
    def queries_per_step(self) -> int:
        """Calls of the closure that a step makes."""
        return self._optimizer.queries_per_step

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor | float]) -> Tensor:  # type: ignore[override]
        """One step: the closure is called ``queries_per_step`` times, with other parameters each time.

        Args:
            closure: returns the loss of the parameters as they are, one number. It is called under ``no_grad``. A
                loss that is NaN or infinite is survived. Where it raises, the parameters are put back, and the step
                can be made again: it asks for the same points.

        Returns:
            The loss, (): that of the iterate at which the step began, or the mean of the finite losses of the step
            where the optimizer does not evaluate its iterate (central differences).

        Raises:
            InputError: the closure is missing or does not return one number.
        """
        if not callable(closure):
            raise InputError(f"step was given a {type(closure).__name__}; expected a closure that returns the loss")
        assert self._oracle is not None
        optimizer = self._at_lr()
        before = self._loss.read()
        state = self._moved(before)
        self._loss.closure = closure
        try:
            _, evaluation, self._run = take_step(optimizer, self._oracle, state, torch.zeros(1, dtype=torch.int64))
        except BaseException:
            self._loss.write(before)
            self._publish()  # what the failed calls cost
            raise
        finally:
            self._loss.closure = None
        self._loss.write(self._rescaled.original(self._run.x)[0])
        self._publish()
        values = evaluation.loss[0]
        loss = values[0] if optimizer.evaluates_iterate else values.nanmean()
        if self._guard is None:
            self._watch.see(float(loss))
        else:
            self._guarded(before, float(loss))
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, which only the constructor can: the state is one of all parameters together.

        Raises:
            InputError: it is called later.
        """
        if self._oracle is not None:
            raise InputError("parameters cannot be added to an existing ZerothOrder; create a new one with all of them")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the state dict of such an optimizer was taken. Parameters are not in it, as in torch.optim.

        Raises:
            CheckpointError: it is of another optimizer, or of other parameters.
        """
        assert self._oracle is not None
        kept = state_dict.get("state", {}).get(_STATE)
        name = type(self._optimizer).__name__
        if not isinstance(kept, dict) or kept.get("optimizer") != name:
            found = kept.get("optimizer") if isinstance(kept, dict) else "none of zoracle's"
            raise CheckpointError(f"the state dict is of optimizer {found}; expected one of {name}")
        run = unflatten(self._run, kept)
        queries = unflatten(self._oracle.counts[Purpose.OPTIMISE], kept, "queries")
        guard = self._guard
        if guard is not None and "guard.best" in kept:  # not in those of optimizers without a guard
            guard = unflatten(guard, kept, "guard")
        super().load_state_dict(state_dict)
        self._run, self._guard = run, guard
        if guard is not None:
            self._measure(self._plan.scale_after(int(guard.returns)))
        self._oracle.counts[Purpose.OPTIMISE] = queries.clone()
        self._publish()

    def __getstate__(self) -> dict[str, Any]:
        """Everything, so that a copy of a model with its optimizer works; the base class knows its own fields only."""
        names = ("_optimizer", "_oracle", "_loss", "_rescaled", "_run", "_watch", "_plan", "_guard")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in names}}

    def _measure(self, scale: float) -> None:
        """Take this for the unit of the parameters."""
        self._rescaled = Rescaled(self._loss, scale=scale)
        if self._oracle is not None:
            self._oracle.objective = self._rescaled

    def _begin(self, x: Tensor) -> Any:
        """A run from parameters (d,), under the plan for what is left."""
        done, again = (0, 0) if self._guard is None else (int(self._guard.steps), int(self._guard.returns))
        return self._optimizer.init(
            (x / self._rescaled.factor).unsqueeze(0),
            seed=mix(self._plan.seed, again) if again else self._plan.seed,
            horizon=None if self._plan.horizon is None else max(1, self._plan.horizon - done),
            scale=self._rescaled.scale,
        )

    def _guarded(self, x: Tensor, loss: float) -> None:
        """Show the guard the loss at parameters (d,); where it has risen, go back."""
        assert self._guard is not None
        last = int(self._guard.steps) + 1 == self._plan.horizon
        self._guard, risen = guards.see(self._guard, x, loss, last=last)
        if risen is not None:
            self._guard = guards.returned(self._guard)
            scale = self._plan.scale_after(int(self._guard.returns))
            self._measure(scale)
            self._run = self._begin(self._guard.best)
            self._loss.write(self._guard.best)
            self._watch.say(
                f"the loss has risen from {risen[0]:.4g} to {risen[1]:.4g} in the mean: the parameters are back where "
                f"it was lowest, and scale is {scale:.4g} from here on; give a smaller scale, larger mini-batches, or "
                "guard=False to let it rise"
            )
        self._publish()

    def _publish(self) -> None:
        """Keep the state where torch.optim's ``state_dict`` finds it."""
        assert self._oracle is not None
        queries = self._oracle.counts[Purpose.OPTIMISE].clone()
        name = type(self._optimizer).__name__
        guard = {} if self._guard is None else flatten(self._guard, "guard")
        kept = {"optimizer": name, "queries": queries, **guard, **flatten(self._run)}
        self.state[_STATE] = kept  # type: ignore[index]

    def _moved(self, now: Tensor) -> Any:
        """The state with its iterate at the parameters (d,), where somebody else changed them since the last step."""
        x = self._run.x
        left = self._loss.rounded(self._rescaled.original(x)[0])
        if torch.equal(now, left):
            return self._run
        if self._guard is not None:  # others' parameters are no worse for having a higher loss
            guard = guards.begin(now)
            self._guard = guard._replace(steps=self._guard.steps, returns=self._guard.returns)
        return self._run._replace(x=torch.where(now == left, x, now / self._rescaled.factor))

    def _offer_lr(self) -> None:
        """Put the step size into the groups, where it can be set from outside."""
        # One that is in the state is adapted by the optimizer itself.
        if hasattr(self._optimizer.config, "lr") and not hasattr(self._run, "lr"):
            lr = self._optimizer.config.lr
            self.defaults["lr"] = DEFAULT_LR if lr is None else float(lr)
        for group in self.param_groups:
            if "lr" in group and "lr" not in self.defaults:
                raise InputError(
                    f"a group has an lr, which {type(self._optimizer).__name__} does not use; leave it out"
                )
            group.update({**self.defaults, **group})

    def _at_lr(self) -> Optimizer[Any, Any]:
        """The optimizer with the step size that the groups have now."""
        if "lr" not in self.defaults:
            return self._optimizer
        rates = {float(group["lr"]) for group in self.param_groups}
        if len(rates) > 1:
            raise InputError(f"the groups have several step sizes ({sorted(rates)}); expected the same lr in all")
        (lr,) = rates
        if lr == self._optimizer.config.lr:
            return self._optimizer
        # A schedule may end at zero, which the settings refuse; the smallest number moves nothing either.
        return with_settings(self._optimizer, lr=lr or sys.float_info.min)


class _Plan(NamedTuple):
    """Settings of a training, given at its start."""

    scale: float
    horizon: int | None
    seed: int

    def scale_after(self, returns: int) -> float:
        """The unit of the parameters after they went back so often."""
        return self.scale * 0.5 ** min(returns, _MOST_HALVINGS)


def _chosen(optimizer: Any, lr: float | None, settings: dict[str, Any]) -> Optimizer[Any, Any]:
    rate: dict[str, Any] = {} if lr is None else {"lr": lr}
    if isinstance(optimizer, Optimizer):
        if settings:
            raise InputError(
                f"settings {', '.join(settings)} were given with an optimizer object; expected them with a name only"
            )
        chosen = with_settings(optimizer, **rate) if rate else optimizer
    elif isinstance(optimizer, str | Path):
        chosen = resolve(str(optimizer), **settings, **rate).optimizer
    else:
        raise InputError(f"optimizer is a {type(optimizer).__name__}; expected a name, a folder, or an optimizer")
    if chosen.order:
        raise InputError(
            f"optimizer {type(chosen).__name__} needs true gradients, but a closure has only values; expected one "
            "such as zo-adam"
        )
    return chosen
