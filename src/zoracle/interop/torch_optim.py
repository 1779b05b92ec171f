"""Forward-only training: zoracle's optimizers as a ``torch.optim.Optimizer`` with a closure."""

from __future__ import annotations

import math
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoracle.errors import CheckpointError, DivergenceWarning, InputError
from zoracle.estimators import default_mu
from zoracle.objectives.base import Objective
from zoracle.objectives.transform import Rescaled
from zoracle.optimizers.base import Optimizer, SamplingConfig, on_device, with_settings
from zoracle.optimizers.pretrained import resolve
from zoracle.rollout import take_step
from zoracle.rollout.oracle import Oracle
from zoracle.state import flatten, unflatten
from zoracle.types import Evaluation, Purpose

#: Step size where neither the caller nor the optimizer's own settings name one: that of torch.optim.
_FIRST_STEPS = 20  # steps whose losses later ones are compared with
DEFAULT_LR = 1e-3

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

    Args:
        params: parameters, named parameters or groups of them, as in torch.optim; all of them are trained.
        optimizer: a name, a folder, or an optimizer; "zo-lstm" means "zo-lstm-universal" here.
        lr: step size; None takes that of the optimizer's settings, and ``DEFAULT_LR`` where they have none.
        scale: by how much a parameter typically has to change, the unit of ``lr``, ``mu`` and learned steps.
        horizon: steps that the training will take, for optimizers that follow a schedule; None takes that of their
            settings.
        seed: keys the random directions.
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
        **settings: Any,
    ) -> None:
        self._optimizer = _chosen(optimizer, lr, settings)
        self._oracle: Oracle | None = None  # a group may be added as long as there is none
        super().__init__(params, {})
        if not 0 < scale < float("inf"):
            raise InputError(f"scale is {scale}; expected a positive number")
        self._loss = _ClosureLoss([p for group in self.param_groups for p in group["params"]])
        self._rescaled = Rescaled(self._loss, scale=scale)
        x0 = (self._loss.read() / scale).unsqueeze(0)
        if isinstance(self._optimizer.config, SamplingConfig) and self._optimizer.config.mu is None:
            # The iterate's type is the finest of the parameters'; a step must be seen in the coarsest.
            mu = default_mu(self._loss.coarsest, self._rescaled.scale)
            self._optimizer = with_settings(self._optimizer, mu=mu)
        self._optimizer = on_device(self._optimizer, x0.device)
        self._run = self._optimizer.init(x0, seed=seed, horizon=horizon, scale=self._rescaled.scale)
        self._offer_lr()
        self._watch = _Watch()
        # One point a call: there is one model.
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
        self._watch.see(float(loss))
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, which only the constructor can: the state is one of all parameters together.

        Raises:
            InputError: it is called later.
        """
        if self._oracle is not None:
            raise InputError("parameters cannot be added to a ZerothOrder that exists; make a new one with all of them")
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
        super().load_state_dict(state_dict)
        self._run = run
        self._oracle.counts[Purpose.OPTIMISE] = queries.clone()
        self._publish()

    def __getstate__(self) -> dict[str, Any]:
        """Everything, so that a copy of a model with its optimizer works; the base class knows its own fields only."""
        own = {name: getattr(self, name) for name in ("_optimizer", "_oracle", "_loss", "_rescaled", "_run", "_watch")}
        return {**super().__getstate__(), **own}

    def _publish(self) -> None:
        """Keep the state where torch.optim's ``state_dict`` finds it."""
        assert self._oracle is not None
        queries = self._oracle.counts[Purpose.OPTIMISE].clone()
        name = type(self._optimizer).__name__
        self.state[_STATE] = {"optimizer": name, "queries": queries, **flatten(self._run)}  # type: ignore[index]

    def _moved(self, now: Tensor) -> Any:
        """The state with its iterate at the parameters (d,), where somebody else changed them since the last step."""
        x = self._run.x
        left = self._loss.rounded(self._rescaled.original(x)[0])
        if torch.equal(now, left):
            return self._run
        return self._run._replace(x=torch.where(now == left, x, now / self._rescaled.factor))

    def _offer_lr(self) -> None:
        """Put the step size into the groups, where it can be set from outside."""
        # One that is in the state is adapted by the optimizer itself.
        if hasattr(self._optimizer.config, "lr") and not hasattr(self._run, "lr"):
            lr = self._optimizer.config.lr
            self.defaults["lr"] = DEFAULT_LR if lr is None else float(lr)
        for group in self.param_groups:
            if "lr" in group and "lr" not in self.defaults:
                raise InputError(f"a group has an lr, and {type(self._optimizer).__name__} takes none from there")
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


class _Watch:
    """Says once where the loss has risen above that of the first steps: a run that diverges is not left unsaid."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.recent: float | None = None
        self.told = False

    def see(self, loss: float) -> None:
        """The loss of one step; the mean of recent ones is compared with the first, by more than these differ."""
        if not math.isfinite(loss):
            return
        if len(self.first) < _FIRST_STEPS:
            self.first.append(loss)
            return
        self.recent = loss if self.recent is None else self.recent + (loss - self.recent) / _FIRST_STEPS
        start, spread = statistics.fmean(self.first), statistics.stdev(self.first)
        if not self.told and self.recent > start + max(2 * spread, 0.05 * abs(start)):
            self.told = True
            warnings.warn(
                f"the loss has risen from {start:.4g} in the first {_FIRST_STEPS} steps to {self.recent:.4g}: the "
                "optimizer diverges; take a smaller lr or scale, larger mini-batches, or zo-adam",
                DivergenceWarning,
                stacklevel=3,
            )


class _ClosureLoss(Objective):
    """What a closure says of the points that are written into parameters, one after the other."""

    num_problems = 1

    def __init__(self, params: Sequence[Tensor]) -> None:
        for p in params:
            if not p.is_floating_point():
                raise InputError(f"a parameter is {p.dtype}; expected floating-point ones")
        self.params = params
        self.dim = sum(p.numel() for p in params)
        if self.dim == 0:
            raise InputError("the parameters hold no numbers; expected at least one")
        self.dtype = torch.float64 if any(p.dtype == torch.float64 for p in params) else torch.float32
        self.coarsest = max((p.dtype for p in params), key=lambda dtype: torch.finfo(dtype).eps)
        self.device = params[0].device
        self.closure: Callable[[], Any] | None = None

    def read(self) -> Tensor:
        """The parameters as one point (d,), a copy."""
        parts = [p.detach().reshape(-1).to(self.device, self.dtype) for p in self.params]
        return torch.cat(parts) if len(parts) > 1 else parts[0].clone()

    def write(self, point: Tensor) -> None:
        """Set the parameters to a point (d,)."""
        with torch.no_grad():
            for p, part in zip(self.params, self._parts(point), strict=True):
                p.copy_(part.view(p.shape))

    def rounded(self, point: Tensor) -> Tensor:
        """What :meth:`read` gives after a point (d,) is written."""
        return torch.cat(
            [part.to(p.dtype).to(self.dtype) for p, part in zip(self.params, self._parts(point), strict=True)]
        )

    def _parts(self, point: Tensor) -> Sequence[Tensor]:
        return torch.split(point, [p.numel() for p in self.params])

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        assert self.closure is not None
        losses = []
        for point in points:
            self.write(point)
            losses.append(_number(self.closure()).to(points))
        return Evaluation(torch.stack(losses))


def _number(loss: Any) -> Tensor:
    """What a closure returned, as a tensor ()."""
    if isinstance(loss, Tensor):
        if loss.numel() != 1 or loss.is_complex():
            raise InputError(
                f"the closure returned a {loss.dtype} tensor of shape {tuple(loss.shape)}; expected one number, "
                "the mean loss say"
            )
        return loss.detach().reshape(())
    try:
        return torch.tensor(float(loss), dtype=torch.float64)
    except (TypeError, ValueError):
        raise InputError(f"the closure returned a {type(loss).__name__}; expected one number, the loss") from None


def _chosen(optimizer: Any, lr: float | None, settings: dict[str, Any]) -> Optimizer[Any, Any]:
    rate: dict[str, Any] = {} if lr is None else {"lr": lr}
    if isinstance(optimizer, Optimizer):
        if settings:
            raise InputError(f"settings {', '.join(settings)} go with an optimizer's name; this is a made optimizer")
        chosen = with_settings(optimizer, **rate) if rate else optimizer
    elif isinstance(optimizer, str | Path):
        chosen = resolve(str(optimizer), **settings, **rate).optimizer
    else:
        raise InputError(f"optimizer is a {type(optimizer).__name__}; expected a name, a folder, or an optimizer")
    if chosen.order:
        raise InputError(
            f"optimizer {type(chosen).__name__} is fed true gradients, and a closure has only values; expected one "
            "that needs none, zo-adam say"
        )
    return chosen
