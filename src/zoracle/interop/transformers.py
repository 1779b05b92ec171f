"""``transformers.Trainer`` without gradients: PEFT adapters, micro-batches, schedulers and resuming as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoracle.errors import InputError, require
from zoracle.finetune import Ranks, ZerothOrder

for _needed in ("transformers", "accelerate"):
    require(_needed, "transformers")
import transformers  # noqa: E402

_LEAST_FACTOR = 0.01  # of the learned method's steps; rates for gradients are below it


class ZerothOrderTrainer(transformers.Trainer):
    """A ``transformers.Trainer`` whose steps call the loss only; everything else is the Trainer's.

    A step takes the ``gradient_accumulation_steps`` micro-batches that a step with gradients would, and evaluates all
    of them at each probe, with the model in ``eval()`` mode: all calls of a step have to see the same dropout masks.
    ``learning_rate``, ``weight_decay`` and the scheduler of the arguments hold. To ``learned`` the learning rate is a
    factor of its own steps, so that it wants ``learning_rate=1``; its horizon is the number of steps of the training.
    What is trained is what requires gradients, so that a PEFT model trains its adapters. For a loss without a gradient,
    overwrite ``compute_loss``. Checkpoints resume bit for bit. Under ``torchrun`` each process evaluates its own part
    of a batch, and only losses are exchanged.

    Args:
        method: a name in :data:`zoracle.finetune.METHODS`.
        method_settings: its settings (``{"mu": 1e-3, "num_directions": 2}``).
        given: as of ``transformers.Trainer``.

    Raises:
        InputError: an optimizer is given as well, an argument that needs gradients, or to ``learned`` a learning rate
            that would all but stop it.
    """

    optimizer: torch.optim.Optimizer | None

    def __init__(
        self, *given: Any, method: str = "mezo", method_settings: dict[str, Any] | None = None, **named: Any
    ) -> None:
        asked = inspect.signature(transformers.Trainer.__init__).bind(self, *given, **named).arguments
        if (asked.get("optimizers") or (None,))[0] is not None or asked.get("optimizer_cls_and_kwargs") is not None:
            raise InputError("an optimizer was given; expected none: the method is the optimizer (method=)")
        super().__init__(*given, **named)
        self._method, self._settings = method, dict(method_settings or {})
        self._refuse()
        self._micro: list[tuple[dict[str, Any], Any]] = []

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """As the Trainer does; in versions where it calls this, the state does not have the number of steps yet."""
        self.state.max_steps = num_training_steps
        super().create_optimizer_and_scheduler(num_training_steps)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The method, with weight decay where the Trainer has it."""
        if self.optimizer is None:
            model = self.model if model is None else model
            if self._method == "learned" and self.state.max_steps > 0:
                self._settings.setdefault("horizon", self.state.max_steps)
            decayed = set(self.get_decay_parameter_names(model))
            named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
            groups = [
                {"params": [p for name, p in named if (name in decayed) is kind], "weight_decay": amount}
                for kind, amount in ((True, self.args.weight_decay), (False, 0.0))
            ]
            self.optimizer = _Deferred(
                [group for group in groups if group["params"]],
                self._method,
                seed=self.args.seed,
                ranks=Ranks("data"),
                lr=self.args.learning_rate,
                **self._settings,
            )
        return self.optimizer

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Keep a micro-batch; at the last one of a step, take it.

        Returns:
            The loss of the step at its last micro-batch, and 0 before.
        """
        self._micro.append((self._prepare_inputs(inputs), num_items_in_batch))
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        batch, self._micro = self._micro, []
        model.eval()
        method: Any = getattr(self.optimizer, "optimizer", self.optimizer)  # what accelerate wraps
        loss: Tensor = method.step(lambda: sum(self._loss(model, *one, len(batch)) for one in batch))
        return loss.to(self.args.device, torch.float32)

    def _loss(self, model: nn.Module, inputs: dict[str, Any], items: Any, parts: int) -> float:
        """The share of a micro-batch in the loss of its step."""
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, dict(inputs), num_items_in_batch=items)
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is None:
            scaled = (self.model_accepts_loss_kwargs and items is not None) or self.compute_loss_func is not None
        return float(loss) / (1 if scaled else parts)

    def _refuse(self) -> None:
        """Raise an InputError for arguments that need gradients."""
        wrong = {
            "fp16": "load the model in half precision, or take bf16",
            "deepspeed": "leave it out: there are no gradients or moments to divide",
            "fsdp": "leave it out: there are no gradients or moments to divide",
        }
        for name, mend in wrong.items():
            if getattr(self.args, name, None):
                raise InputError(
                    f"TrainingArguments({name}=...) scales or divides gradients, and there are none; {mend}"
                )
        if self._method == "learned" and self.args.learning_rate < _LEAST_FACTOR:
            raise InputError(
                f"learning_rate is {self.args.learning_rate:g}, which learned multiplies its own steps by; expected "
                f"TrainingArguments(learning_rate=1), or {_LEAST_FACTOR:g} at least"
            )


class _Deferred(ZerothOrder):
    """Its step without a closure is none: the Trainer has taken it when it calls that."""

    def step(self, closure: Callable[[], Tensor | float] | None = None) -> Tensor:  # type: ignore[override]
        """The step, where there is a closure."""
        return torch.zeros((), dtype=torch.float64) if closure is None else super().step(closure)
