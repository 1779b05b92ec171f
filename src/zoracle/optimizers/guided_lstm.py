"""A scale-free ZO-LSTM whose QueryRNN guesses gradients: some query directions lie along its guesses."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoracle.directions import orthonormalise
from zoracle.estimators import combine, slopes
from zoracle.keyed import mix
from zoracle.optimizers.base import DirectionSource, FiniteDifferenceOptimizer, SamplingConfig, Start
from zoracle.optimizers.recurrent import CoordinatewiseLSTM, Hidden
from zoracle.types import Key, Queries

DECAYS = (0.5, 0.9, 0.98)
_TINY = 1e-20


class GuidedLSTMConfig(SamplingConfig, frozen=True, kw_only=True):
    """Settings.

    Attributes:
        guesses: G, how many of the q directions lie along QueryRNN's guesses; 0 switches QueryRNN off.
        hidden: hidden size of both LSTMs.
        first_step: root mean square of the first steps, in units of x.
        last_step: the same for the last ones.
        horizon: steps that the schedule is stretched over where the run does not say how many it will take.
        weight_seed: keys the initial weights.
    """

    guesses: int = 4
    hidden: int = 10
    first_step: float = 0.015
    last_step: float = 0.001
    horizon: int = 200
    weight_seed: int = 0


class GuidedLSTMState(NamedTuple):
    """State."""

    x: Tensor
    key: Key
    mu: Tensor
    horizon: Tensor
    origin: Tensor
    """(B, d) the starting point."""
    gradient: Tensor
    """(B, d) the last estimate."""
    moments: Tensor
    """(B, M, d) running means of the estimates, one a decay."""
    step: Tensor
    """(B, d) the last step."""
    loss: Tensor
    """(B,) the last iterate's loss; NaN before the first."""
    size: Tensor
    """(B,) running mean of the logarithm of the estimates' norm."""
    signals: Tensor
    """(B, 3) the last step's scalars, see :meth:`GuidedLSTM._signals`."""
    update: Hidden
    query: Hidden


class GuidedLSTMAux(NamedTuple):
    """What QueryRNN made for one step."""

    guesses: Tensor
    """(B, G, d) orthonormal guesses, with their graph in training."""
    query: Hidden


class GuidedLSTM(FiniteDifferenceOptimizer[GuidedLSTMState, GuidedLSTMConfig], nn.Module):
    r"""ZO-LSTM with a low-rank part in the covariance of its queries, blind to the scale of the problem.

    Of q directions, G lie exactly along orthonormal guesses w_k of the gradient, which QueryRNN makes from what was
    learned so far, and q - G are drawn from the complement of their span. With P the projection on that span,
    r = d - G the rank of the complement and s_i the slope along u_i,

    \hat g = \sum_k \frac{s_k}{\sqrt d} w_k + \frac{1}{r} \sum_i s_i u_i,

    which is what least squares makes of the q slopes: exact in the guesses, and shrunk in the complement by
    about (q - G) / r, where the unbiased estimate would drown the rest in noise. It is neither unbiased nor meant
    to be: its squared cosine to the gradient is about \rho^2 + (1 - \rho^2) (q - G) / d, with \rho^2 the share of
    the gradient's energy in the guesses.

    Features are divided by their root mean square over coordinates, so a problem times a constant gives the same
    steps; steps are in units of x and follow a schedule in t / T.

    Args:
        config: settings.
        source: where standard normal draws come from, instead of the key.
        settings: settings by name.
    """

    Config = GuidedLSTMConfig

    def __init__(
        self, config: GuidedLSTMConfig | None = None, *, source: DirectionSource | None = None, **settings: Any
    ) -> None:
        nn.Module.__init__(self)
        FiniteDifferenceOptimizer.__init__(self, config, source=source, **settings)
        hidden, seed = self.config.hidden, self.config.weight_seed
        features = len(DECAYS) + 4
        self.update_rnn = CoordinatewiseLSTM(features + 4, hidden, 2, head_scale=0.1, bias=True, seed=mix(seed, 1))
        self.query_rnn = CoordinatewiseLSTM(
            features + 4, hidden, max(1, self.config.guesses), head_scale=0.1, bias=True, seed=mix(seed, 2)
        )
        self.schedule = nn.ParameterDict(
            {
                "log_step": nn.Parameter(torch.tensor([self.config.first_step, self.config.last_step]).log()),
                "descent": nn.Parameter(torch.tensor([1.0])),
                # The logit of the share of the displacement that a step keeps.
                "keep": nn.Parameter(torch.tensor([6.0])),
                # How much longer steps are where the gradient is larger than it was.
                "power": nn.Parameter(torch.tensor([0.5])),
                # What the guesses start as: the last estimate, the slower means, and a shrinking displacement.
                "mixture": nn.Parameter(torch.eye(features)[[0, 2, 3, features - 1, 1][: max(1, self.config.guesses)]]),
            }
        )
        self.requires_grad_(False)

    def auxiliary(self, queries: Queries, gradient: Tensor) -> Tensor | None:
        """Minus the share of the gradient's energy that the guesses hold, (B,): what QueryRNN is trained by."""
        if not isinstance(queries.aux, GuidedLSTMAux):
            return None
        along = torch.bmm(queries.aux.guesses, gradient.unsqueeze(2)).squeeze(2)
        return -along.square().sum(1) / gradient.square().sum(1).clamp(min=_TINY)

    def _init(self, start: Start) -> GuidedLSTMState:
        x = start.x
        b = x.shape[0]
        zero = torch.zeros_like(x)
        horizon = torch.where(start.horizon > 0, start.horizon, self.config.horizon)
        return GuidedLSTMState(
            x=x,
            key=start.key,
            mu=start.mu,
            horizon=horizon,
            origin=x.clone(),
            gradient=zero,
            moments=x.new_zeros((b, len(DECAYS), x.shape[1])),
            step=zero.clone(),
            loss=x.new_full((b,), math.nan),
            size=x.new_full((b,), math.nan),
            signals=x.new_zeros((b, 3)),
            update=self.update_rnn.start(zero),
            query=self.query_rnn.start(zero),
        )

    def _ask(self, state: GuidedLSTMState) -> Queries:
        g = self.config.guesses
        if g == 0:
            return self.queries(state.x, self.draw(state.key, state.x), state.mu)
        known = self._features(state.x, state.origin, state.gradient, state.moments, state.step).detach()
        output, hidden = self.query_rnn(self._with(known, state.signals, state), state.query)
        raw = output.transpose(1, 2) + torch.einsum("gf,bdf->bgd", self.schedule["mixture"].to(known.dtype), known)
        z = self.draw(state.key, state.x)
        # Where a guess is zero, or depends on those before it, a random direction takes its place.
        guesses = orthonormalise(raw, z[:, :g])
        fixed = guesses.detach()
        rest = z[:, g:]
        rest = rest - torch.bmm(torch.bmm(rest, fixed.transpose(1, 2)), fixed)
        u = torch.cat((fixed * math.sqrt(state.x.shape[1]), rest), dim=1)
        return self.queries(state.x, u, state.mu, GuidedLSTMAux(guesses, hidden))

    def _tell(
        self, state: GuidedLSTMState, queries: Queries, values: Tensor, gradients: Tensor | None
    ) -> GuidedLSTMState:
        gradient = self._least_squares(queries, values, state.mu)
        base = values[:, 0].to(state.x.dtype)
        signals, size = self._signals(state, gradient, base)
        moments = torch.stack(
            [beta * state.moments[:, i] + (1 - beta) * gradient for i, beta in enumerate(DECAYS)], dim=1
        )
        known = self._features(state.x, state.origin, gradient, moments, state.step).detach()
        output, update = self.update_rnn(self._with(known, signals, state), state.update)
        progress = (state.key.step.to(state.x) / state.horizon.to(state.x)).clamp(max=1).unsqueeze(1)
        log_step = self.schedule["log_step"].to(state.x.dtype)
        power = self.schedule["power"].to(state.x.dtype)
        grown = (gradient.norm(dim=1).clamp(min=_TINY).log() - size).detach().unsqueeze(1)
        length = (log_step[0] * (1 - progress) + log_step[1] * progress + power * grown).exp()
        move = length * (output[..., 0] - self.schedule["descent"].to(state.x.dtype) * known[..., 0])
        # Back towards the start, coordinate by coordinate: what noise has moved and the gradient does not miss.
        keep = 0.5 + 0.5 * torch.tanh(0.5 * (output[..., 1] + self.schedule["keep"].to(state.x.dtype)))
        step = (state.origin + keep * (state.x + move - state.origin)) - state.x
        return GuidedLSTMState(
            x=state.x + step,
            key=state.key.next(),
            mu=state.mu,
            horizon=state.horizon,
            origin=state.origin,
            gradient=gradient,
            moments=moments,
            step=step,
            loss=base,
            size=size,
            signals=signals,
            update=update,
            query=queries.aux.query if isinstance(queries.aux, GuidedLSTMAux) else state.query,
        )

    def _least_squares(self, queries: Queries, values: Tensor, mu: Tensor) -> Tensor:
        s = slopes(values, mu)
        s = torch.where(s.isfinite(), s, 0.0)
        d = queries.directions.shape[2]
        return combine(s / d, queries.directions.detach())

    def _signals(self, state: GuidedLSTMState, gradient: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars (B, 3) that say how it goes, and the running size.

        Whether the last step won what the estimate had promised; how large the estimate is against its running
        mean; and whether the loss is lower than before.
        """
        norm = gradient.norm(dim=1).clamp(min=_TINY).log()
        size = torch.where(state.size.isnan(), norm, state.size)
        promised = (state.gradient * state.step).sum(1)
        change = torch.where(state.loss.isnan(), 0.0, loss - state.loss).nan_to_num()
        won = torch.tanh(change / promised.abs().clamp(min=_TINY))
        signals = torch.stack((won, torch.tanh(norm - size), change.sign()), dim=1)
        return signals.detach(), (0.95 * size + 0.05 * norm).detach()

    def _features(self, x: Tensor, origin: Tensor, gradient: Tensor, moments: Tensor, step: Tensor) -> Tensor:
        """Scale-free features (B, d, F): estimate, its running means, last step, displacement and its soft sign."""
        away = _unit(x - origin)
        columns = [_unit(gradient), *(_unit(m) for m in moments.unbind(1)), _unit(step), away]
        columns.append(away / (away.abs() + 0.1))
        return torch.stack(columns, dim=2)

    def _with(self, features: Tensor, signals: Tensor, state: GuidedLSTMState) -> Tensor:
        progress = (state.key.step.to(features) / state.horizon.to(features)).clamp(max=1)
        scalars = torch.cat((signals, progress.unsqueeze(1)), dim=1)
        return torch.cat((features, scalars.unsqueeze(1).expand(-1, features.shape[1], -1)), dim=2)


def _unit(v: Tensor) -> Tensor:
    """Divided by the root mean square over coordinates; zero stays zero."""
    rms = v.square().mean(1, keepdim=True).sqrt()
    return v / rms.clamp(min=_TINY)
