"""The meta-loss of one truncated segment."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
import torch
from torch import Tensor

from zoracle.metatrain.oracle import TrainingOracle
from zoracle.optimizers.base import Optimizer
from zoracle.rollout import Step, rollout
from zoracle.settings import Count, NonNegative, Positive

S = TypeVar("S")


class Segment(NamedTuple):
    """What a segment of K steps gave."""

    value: Tensor
    """Scalar, the meta-loss; its graph reaches the optimizer's weights."""
    losses: Tensor
    """(K, B) losses after each update."""
    state: Any
    """State after the segment, with its graph: detach it before the next."""


class MetaLoss(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    r"""What a learned optimizer is trained to make small, averaged over the B problems of a meta-batch.

    With l_t the loss after update t, and t counted from 0 over the whole unroll:

    - "difference": \sum_t w_t (l_t - stop\_gradient(l_{t-1})), l_{-1} = 0, as in the public code of the paper;
    - "sum": \sum_t w_t l_t, as in the paper;
    - "log": \sum_t w_t \log(l_t + \epsilon), which weighs a halving the same whatever the problem's scale.

    \lambda times the optimizer's own auxiliary loss (the sum of o^2 for QueryRNN) is added in each step.

    Attributes:
        form: see above.
        weights: w_t: "linear" is t, "uniform" is 1 (in the form "log" their mean over the unroll is one); "shaped" is
            base + late * (t / T)^2 + early * [t < early_steps] + last * [t = T - 1].
        penalty: lambda.
        eps: epsilon of the form "log".
        displacement: weight of ||x_t - x_0||_1 in each step. Gradients of a loss with kinks, as an l1 distance has,
            say too little of what noise costs that is still to come; this stands in for it.
        base: see ``weights``; so are late, early, early_steps and last.

    Source: Ruan et al. (2020), equation 6 and public code.
    """

    form: Literal["difference", "sum", "log"] = "difference"
    weights: Literal["linear", "uniform", "shaped"] = "linear"
    penalty: NonNegative = 0.005
    eps: Positive = 1e-6
    displacement: NonNegative = 0.0
    base: float = 1.0
    late: float = 0.0
    early: float = 0.0
    early_steps: Count = 14
    last: float = 0.0

    def segment(
        self,
        optimizer: Optimizer[S, Any],
        oracle: TrainingOracle,
        state: S,
        steps: int,
        *,
        problem: Tensor | None = None,
        first: int = 0,
        previous: Tensor | None = None,
        horizon: int | None = None,
        origin: Tensor | None = None,
        unit: Tensor | None = None,
    ) -> Segment:
        """Unroll K steps with their graph.

        Args:
            optimizer: whose weights are trained.
            oracle: answers the queries and gives the gradient of the optimizee.
            state: where the segment starts, detached.
            steps: K.
            problem: (B,) the objective's row of each problem.
            first: index of the segment's first step in the unroll.
            previous: (B,) loss after the step before; zero by default.
            horizon: T, steps of the whole unroll, which weights are relative to.
            origin: (B, d) x_0, which ``displacement`` is measured from.
            unit: (B, 1) what it is multiplied by.
        """
        rows = torch.arange(state.x.shape[0]) if problem is None else problem  # type: ignore[attr-defined]
        losses: list[Tensor] = []
        penalties: list[Tensor] = []
        displaced: list[Tensor] = []

        def collect(step: Step) -> None:
            key = step.state.key.step if oracle.objective.stochastic else None
            if self.penalty:
                before = None if key is None else key - 1
                gradient = oracle.linearise(step.queries.points[:, 0], rows, before)[1]
                penalty = optimizer.auxiliary(step.queries, gradient)
                if penalty is not None:
                    penalties.append(penalty)
            losses.append(oracle.differentiable(step.state.x, rows, key))
            if self.displacement and origin is not None:
                away = step.state.x - origin
                displaced.append((away if unit is None else away * unit).abs().sum(1))

        state, _ = rollout(optimizer, oracle, state, steps, problem=rows, keep_graph=True, final=None, on_step=collect)
        after = torch.stack(losses)
        value = self._value(after, first, previous, horizon)
        if penalties and self.penalty:
            per_step = torch.stack(penalties)
            value = value + self.penalty * (per_step.mean() if self.form == "log" else per_step.sum(0).mean())
        if displaced:
            value = value + self.displacement * torch.stack(displaced).mean()
        return Segment(value, after, state)

    def of(self, losses: Tensor) -> Tensor:
        """The meta-loss of whole runs from their losses (T, B) after each step, without what is added to it."""
        return self._value(losses, 0, None, losses.shape[0])

    def _value(self, losses: Tensor, first: int, previous: Tensor | None, horizon: int | None) -> Tensor:
        k = losses.shape[0]
        total = horizon or first + k
        t = torch.arange(first, first + k, dtype=losses.dtype, device=losses.device)
        w = self._weights(t, total).unsqueeze(1)
        if self.form == "sum":
            terms = w * losses
        elif self.form == "log":
            scale = 0.5 * k * total if self.weights == "linear" else k
            terms = w * torch.log(losses.clamp(min=0) + self.eps) / scale
        else:
            before = torch.zeros_like(losses[:1]) if previous is None else previous.unsqueeze(0)
            terms = w * (losses - torch.cat((before, losses[:-1])).detach())
        return terms.nan_to_num(nan=0.0).sum(0).mean()

    def _weights(self, t: Tensor, total: int) -> Tensor:
        if self.weights == "linear":
            return t
        if self.weights == "uniform":
            return torch.ones_like(t)
        w = self.base + self.late * ((t + 1) / total).square()
        return w + self.early * (t < self.early_steps) + self.last * (t == total - 1)
