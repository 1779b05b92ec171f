"""Training by forward passes only, with the memory of inference."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoracle.errors import CheckpointError, InputError
from zoracle.finetune.engine import Engine
from zoracle.finetune.ledger import Entry, Ledger, checked, read
from zoracle.finetune.methods import make
from zoracle.finetune.methods.base import Probe, ProbeLosses
from zoracle.finetune.ranks import Ranks
from zoracle.finetune.tensors import fingerprint, slots

_STATE = "zoracle"  # key of the state shared by all parameters


class ZerothOrder(torch.optim.Optimizer):
    r"""Train by forward passes only, in place: no backward pass, no copy of the weights, no stored direction.

    A step moves the weights along a random direction, calls the closure, moves them back or to the other side, and
    finally updates them from the losses. Each direction is regenerated when needed, block by block, from (seed,
    step, direction, tensor)::

        optimizer = ZerothOrder(model.parameters(), "mezo", lr=1e-6)
        for inputs, labels in loader:
            optimizer.step(lambda: loss_function(model(inputs), labels))

    Only tensors that require gradients move. Moving there and back is exact in all types, bit for bit; for this the
    weights are put on a grid when the optimizer is made, by at most half a spacing of floating-point numbers
    (:func:`~zoracle.finetune.tensors.snap`). In half precision, steps smaller than the spacing are rounded at random.

    All calls of a step should see the same batch and the same dropout masks: fetch the batch outside the closure, and
    put the model into ``eval()`` mode. A closure may sum over micro-batches, and may return a value without gradient,
    such as an accuracy.

    ``param_groups[i]["lr"]`` and ``["weight_decay"]`` are honoured, so that learning-rate schedulers work.

    Args:
        params: parameters or groups of them, as in ``torch.optim``.
        method: a name in :data:`zoracle.finetune.methods.METHODS`.
        seed: keys the directions.
        weight_decay: share of the weights, times ``lr``, that a step takes off them.
        ledger: a file for the log of the training. If it exists, the logged training is replayed from its losses,
            without calls of the closure, and continues from there.
        ranks: how the processes of ``torch.distributed`` share a step; by default each has its own part of the batch.
        settings: settings of the method (``mu=1e-3, num_directions=2``).

    Raises:
        InputError: an argument is invalid.
        CheckpointError: the ledger belongs to another training.

    Examples:
        >>> x = torch.nn.Parameter(torch.ones(4))
        >>> optimizer = ZerothOrder([x], "mezo", lr=0.05)
        >>> for _ in range(200):
        ...     loss = optimizer.step(lambda: (x**2).sum())
        >>> optimizer.forwards, bool(loss < 0.01)
        (400, True)
    """

    def __init__(
        self,
        params: Any,
        method: str = "mezo",
        *,
        seed: int = 0,
        weight_decay: float = 0.0,
        ledger: Path | str | None = None,
        ranks: Ranks | None = None,
        **settings: Any,
    ) -> None:
        self._engine: Engine | None = None  # groups may be added while it is None
        self.method = make(method, **settings)
        if not 0 <= weight_decay < float("inf"):
            raise InputError(f"weight_decay is {weight_decay}; expected 0 or more")
        super().__init__(params, {"lr": self.method.config.lr, "weight_decay": weight_decay})
        self.seed = int(seed)
        self.steps = 0
        """Steps done, those of a ledger included."""
        self.forwards = 0
        """Calls of the closure by this process."""
        self.skipped = 0
        """Steps that moved nothing because no loss was usable."""
        self._slots = slots(self.param_groups, self.state)
        self._ranks = ranks or Ranks()
        self._ledger: Ledger | None = None
        self._engine = Engine(self._slots, self.method)
        self.method.begin(self._slots)
        if ledger is not None or self._ranks.size > 1:
            start = fingerprint(self._slots)
            self._ranks.check_same(start)
            self._open(method, ledger, start)
        self._engine.settle()
        self._publish()

    @property
    def forwards_per_step(self) -> int:
        """Calls of the closure per step, over all processes."""
        return len(self.method.probes)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor | float]) -> Tensor:  # type: ignore[override]
        """One step.

        Args:
            closure: returns the loss of the model as it is, one number. It is called under ``no_grad``. One that is NaN
                or infinite is ignored along with its direction; if no direction is left, nothing moves. If it
                raises, the weights are put back.

        Returns:
            The loss, () float64: of the iterate where the method evaluates it, else the mean over the probes.

        Raises:
            InputError: the closure is missing or does not return one number.
        """
        if not callable(closure):
            raise InputError(f"step was given a {type(closure).__name__}; expected a closure that returns the loss")
        engine = self._engine
        assert engine is not None
        engine.prepare(self.seed, self.steps)

        def evaluate(probe: Probe) -> float:
            engine.go(probe, self.seed, self.steps)
            if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
                torch.clear_autocast_cache()  # it holds casts of the weights before this move
            self.forwards += 1
            return number(closure())

        try:
            losses = self._ranks.measure(self.method.probes, evaluate)
            if self._ledger is not None and self._ranks.rank == 0:
                self._ledger.append(Entry(losses, self._groups()))
        except BaseException:
            engine.go(None, self.seed, self.steps)
            raise
        return torch.tensor(self._take(losses), dtype=torch.float64)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters; permitted only within the constructor, since a direction spans all parameters.

        Raises:
            InputError: it is called after construction.
        """
        if self._engine is not None:
            raise InputError("parameters cannot be added to an existing ZerothOrder; create a new one with all of them")
        # Bypasses the wrapper, whose first call loads a compiler that is not used here: tens of MiB.
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state dict of such an optimizer. It does not hold the parameters, as in ``torch.optim``.

        Raises:
            CheckpointError: it belongs to another method or seed.
        """
        kept = state_dict.get("state", {}).get(_STATE)
        name = type(self.method).__name__
        if not isinstance(kept, dict) or kept.get("method") != name or kept.get("seed") != self.seed:
            found = f"{kept.get('method')}, seed {kept.get('seed')}" if isinstance(kept, dict) else "no ZerothOrder"
            raise CheckpointError(f"the state dict is of {found}; expected {name}, seed {self.seed}")
        super().load_state_dict(state_dict)
        everything = [p for group in self.param_groups for p in group["params"]]
        for index, parameter in enumerate(everything):
            # The base class would cast to the parameter's type, which destroys masks and float32 means.
            own = state_dict["state"].get(index, {})
            self.state[parameter] = {key: value.to(parameter.device).clone() for key, value in own.items()}
        for slot in self._slots:
            slot.state = self.state[slot.parameter]
        for slot, group in zip(self._slots, self._groups_of_slots(), strict=True):
            slot.group = group
        self.steps, self.skipped = int(kept["steps"]), int(kept["skipped"])
        self.method.memory = {key: float(value) for key, value in kept["memory"].items()}
        self._publish()

    def _take(self, losses: tuple[float, ...]) -> float:
        """Update the weights from the losses, wherever the weights currently are."""
        assert self._engine is not None
        probed = ProbeLosses(self.seed, self.steps, losses)
        if self.method.usable(probed):
            self.method.before(probed)
            self._engine.finish(probed)
            self.method.after(probed)
        else:
            self._engine.go(None, self.seed, self.steps)
            self.skipped += 1
        self.steps += 1
        self._publish()
        return self.method.loss(probed)

    def _open(self, method: str, path: Path | str | None, start: str) -> None:
        """Begin a ledger, or replay an existing one."""
        entries: list[Entry] = []
        if path is not None and self._ranks.rank == 0:
            header = {
                "method": method,
                "settings": self.method.config.plain(),
                "seed": self.seed,
                "shapes": [list(slot.parameter.shape) for slot in self._slots],
                "dtypes": [str(slot.parameter.dtype).removeprefix("torch.") for slot in self._slots],
                "start": start,
            }
            self._ledger = Ledger(path, header)
            entries = self._ledger.entries
            checked(entries, len(self.method.probes), len(self.param_groups), path)
        rows = [(*entry.losses, *(number for pair in entry.groups for number in pair)) for entry in entries]
        probes = len(self.method.probes)
        for row in self._ranks.agree(rows):
            pairs = row[probes:]
            self._replay(Entry(row[:probes], tuple(zip(pairs[0::2], pairs[1::2], strict=True))))

    @torch.no_grad()
    def _replay(self, entry: Entry) -> None:
        """One step from known losses."""
        assert self._engine is not None
        for group, (lr, decay) in zip(self.param_groups, entry.groups, strict=True):
            group["lr"], group["weight_decay"] = lr, decay
        self._engine.prepare(self.seed, self.steps)
        self._take(entry.losses)

    def _groups(self) -> tuple[tuple[float, float], ...]:
        return tuple((float(group["lr"]), float(group.get("weight_decay", 0.0))) for group in self.param_groups)

    def _groups_of_slots(self) -> list[dict[str, Any]]:
        """The current group of each slot."""
        owner = {id(p): group for group in self.param_groups for p in group["params"]}
        return [owner[id(slot.parameter)] for slot in self._slots]

    def _publish(self) -> None:
        """Store the shared state where torch.optim's ``state_dict`` finds it."""
        self.state[_STATE] = {  # type: ignore[index]
            "method": type(self.method).__name__,
            "seed": self.seed,
            "steps": self.steps,
            "skipped": self.skipped,
            "memory": dict(self.method.memory),
        }


def replay(ledger: Path | str, params: Any) -> ZerothOrder:
    """Replay a training from its log alone: no closure is called, and the weights are identical bit for bit.

    Args:
        ledger: the file.
        params: parameters with the initial weights of the training, in the same groups.

    Returns:
        The optimizer after the last step; it writes no log.

    Raises:
        CheckpointError: the file is not a log of zoracle, or the parameters are not those at its start.
    """
    header = read(ledger)[0]
    optimizer = ZerothOrder(params, header["method"], seed=header["seed"], ledger=ledger, **header["settings"])
    optimizer._ledger = None
    return optimizer


def number(loss: Any) -> float:
    """The return value of a closure, as a number.

    Raises:
        InputError: it is not a number.
    """
    if isinstance(loss, Tensor) and (loss.numel() != 1 or loss.is_complex()):
        raise InputError(
            f"the closure returned a tensor of shape {tuple(loss.shape)}; expected one number, such as the mean"
        )
    try:
        return float(loss)
    except (TypeError, ValueError):
        raise InputError(f"the closure returned a {type(loss).__name__}; expected one number, the loss") from None
