"""ZO-LSTM: UpdateRNN proposes the steps, QueryRNN the covariance of the query directions (Ruan et al., 2020)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoracle import directions
from zoracle.errors import InputError
from zoracle.keyed import mix, uniform
from zoracle.optimizers.base import Config, Positive, SamplingConfig, Share, Start
from zoracle.optimizers.finite_difference import DirectionSource, FiniteDifferenceOptimizer
from zoracle.optimizers.learned.recurrent import CoordinatewiseLSTM, Hidden
from zoracle.optimizers.radius import Radius
from zoracle.settings import Size
from zoracle.types import Key, Queries

_COIN = 7  # stream of the coin, apart from the directions' streams


class PaperLSTMArchitecture(Config, frozen=True, kw_only=True):
    """Settings that determine the shape of the weights.

    Attributes:
        hidden: hidden size of both LSTMs.
        head_scale: scale of the heads' initial weights.
        weight_seed: keys the initial weights.
    """

    hidden: Size = 10
    head_scale: float = 0.1
    weight_seed: int = 0


class PaperLSTMConfig(SamplingConfig, frozen=True, kw_only=True):
    """Settings of a run of ZO-LSTM; the defaults are the published form.

    Attributes:
        query: what shapes the query directions: "learned" by QueryRNN; "gaussian", the ablation no-query;
            "guided-es", the ablation with the subspace of the last estimate and the last step.
        update: what makes the step: "learned" by UpdateRNN; "sgd", the ablation no-update.
        gradient: "estimate", or "true" for the gradient-fed optimizer of Andrychowicz et al., which needs a
            first-order oracle and has no queries to shape.
        sampling_probability: share of the steps that draw from the learned covariance; the others draw from N(0, I),
            by one coin per step.
        lr: step size where ``update`` is "sgd"; None uses 4 / d.
        guided_alpha: share of Guided-ES that stays isotropic.
        guided_scaling: "published" or "balanced", see :func:`zoracle.directions.guided`.
    """

    query: Literal["learned", "gaussian", "guided-es"] = "learned"
    update: Literal["learned", "sgd"] = "learned"
    gradient: Literal["estimate", "true"] = "estimate"
    sampling_probability: Share = 0.5
    lr: Positive | None = None
    guided_alpha: Share = 0.5
    guided_scaling: Literal["published", "balanced"] = "balanced"


class PaperLSTMState(NamedTuple):
    """State of ZO-LSTM. Everything starts from zero for every problem."""

    x: Tensor
    key: Key
    mu: Tensor
    gradient: Tensor
    """(B, d) the last estimate."""
    step: Tensor
    """(B, d) the last step, x_t - x_{t-1}."""
    update: Hidden
    """State of UpdateRNN."""
    query: Hidden
    """State of QueryRNN."""
    radius: tuple[Radius, ...] = ()
    """How far directions are probed over the run."""


class PaperLSTMAux(NamedTuple):
    """Output of QueryRNN for one step."""

    output: Tensor
    """(B, d) o, QueryRNN's output; the meta-loss penalises its square."""
    std: Tensor
    """(B, d) sigma before its absolute value, of norm sqrt(d)."""
    query: Hidden
    """QueryRNN's new state."""


class PaperLSTM(FiniteDifferenceOptimizer[PaperLSTMState, PaperLSTMConfig], nn.Module):
    r"""x_t = x_{t-1} + UpdateRNN(\hat\nabla f), \Sigma_t = QueryRNN([\hat\nabla f_{t-1}, x_{t-1} - x_{t-2}]).

    With o QueryRNN's output, \sigma = |(1 + o) \sqrt{d} / \|1 + o\||, u = \sigma z with z ~ N(0, I), so the norm of
    sigma stays that of the standard Gaussian. The estimate has the mean \sigma^2 \nabla f + O(\mu): it is
    preconditioned, not unbiased. Gradients of the meta-loss reach QueryRNN through the u outside the difference
    only; values and the inputs of QueryRNN are detached.

    Args:
        config: settings.
        source: source of standard normal draws z, used instead of the key: recorded draws, or your own.
        settings: settings by name.

    Source: Ruan et al. (2020), "Learning to Learn by Zeroth-Order Oracle", section 3.
    """

    Config = PaperLSTMConfig
    Architecture = PaperLSTMArchitecture
    architecture: PaperLSTMArchitecture

    @classmethod
    def checked(cls, config: PaperLSTMConfig | None, settings: dict[str, Any]) -> PaperLSTMConfig:
        """The config, checked for consistency."""
        made = super().checked(config, settings)
        if made.query == "guided-es" and made.directions != "gaussian":
            raise InputError(f"directions is {made.directions!r}; Guided-ES draws its own, expected 'gaussian'")
        return made

    def __init__(
        self, config: PaperLSTMConfig | None = None, *, source: DirectionSource | None = None, **settings: Any
    ) -> None:
        nn.Module.__init__(self)
        FiniteDifferenceOptimizer.__init__(self, config, source=source, **settings)
        hidden, scale, seed = self.architecture.hidden, self.architecture.head_scale, self.architecture.weight_seed
        self.update_rnn = CoordinatewiseLSTM(1, hidden, head_scale=scale, seed=mix(seed, 1))
        self.query_rnn = CoordinatewiseLSTM(2, hidden, head_scale=scale, seed=mix(seed, 2))
        self.requires_grad_(False)  # training asks for gradients; using the optimizer never should

    @property
    def order(self) -> int:  # type: ignore[override]
        """1 if the true gradient is used."""
        return int(self.config.gradient == "true")

    @property
    def queries_per_step(self) -> int:
        """Points per step; one, with its gradient, if the true gradient is used."""
        return 1 if self.order else super().queries_per_step

    @property
    def evaluates_iterate(self) -> bool:
        """Whether the first point of each step is the iterate itself."""
        return bool(self.order) or super().evaluates_iterate

    def auxiliary(self, queries: Queries, gradient: Tensor) -> Tensor | None:
        """The sum of o^2 over coordinates, (B,)."""
        return queries.aux.output.square().sum(1) if isinstance(queries.aux, PaperLSTMAux) else None

    def _init(self, start: Start) -> PaperLSTMState:
        zero = torch.zeros_like(start.x)
        return PaperLSTMState(
            x=start.x,
            key=start.key,
            mu=start.mu,
            gradient=zero,
            step=zero.clone(),
            update=self.update_rnn.start(zero),
            query=self.query_rnn.start(zero),
            radius=start.radius,
        )

    def _ask(self, state: PaperLSTMState) -> Queries:
        if self.order:
            return Queries(state.x.detach().unsqueeze(1), state.x.new_zeros((state.x.shape[0], 0, state.x.shape[1])))
        if self.config.query == "guided-es":
            u = directions.guided(
                state.key,
                self.config.num_directions,
                torch.stack((state.gradient, state.step), dim=1).detach(),
                self.config.guided_alpha,
                self.config.guided_scaling,
            )
            return self.queries(state.x, u, self.distance(state))
        z = self.draw(state.key, state.x)
        if self.config.query == "gaussian":
            return self.queries(state.x, z, self.distance(state))
        features = torch.stack((state.gradient, state.step), dim=1).detach()
        output, hidden = self.query_rnn(features, state.query)
        output = output.squeeze(1)
        raw = 1 + output
        std = raw * (raw.shape[1] ** 0.5 / raw.norm(dim=1, keepdim=True))
        used = std.abs()
        if self.config.sampling_probability < 1:
            learned = (uniform(state.key, _COIN) < self.config.sampling_probability).to(used.device)
            used = torch.where(learned.unsqueeze(1), used, 1.0)
        u = directions.reparameterise(z, used)
        return self.queries(state.x, u, self.distance(state), PaperLSTMAux(output, std, hidden))

    def _tell(
        self, state: PaperLSTMState, queries: Queries, values: Tensor, gradients: Tensor | None
    ) -> PaperLSTMState:
        if gradients is not None:
            gradient = torch.nan_to_num(gradients[:, 0], nan=0.0, posinf=0.0, neginf=0.0)
        else:
            gradient = self.estimated(state, queries, values)
        update = state.update
        if self.config.update == "learned":
            step, update = self.update_rnn(gradient.unsqueeze(1), update)
            step = step.squeeze(1)
        else:
            step = -(4 / state.x.shape[1] if self.config.lr is None else self.config.lr) * gradient
        return PaperLSTMState(
            x=state.x + step,
            key=state.key.next(),
            mu=state.mu,
            gradient=gradient,
            step=step,
            update=update,
            query=queries.aux.query if isinstance(queries.aux, PaperLSTMAux) else state.query,
            radius=state.radius,
        )
