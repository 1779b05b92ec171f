"""A scale-free ZO-LSTM whose query directions lie along its own guesses of the gradient."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoracle.directions import complement, orthonormalise
from zoracle.errors import InputError
from zoracle.estimators import combine
from zoracle.keyed import mix, normal
from zoracle.optimizers.base import DirectionSource, FiniteDifferenceOptimizer, Positive, SamplingConfig, Share, Start
from zoracle.optimizers.recurrent import CoordinatewiseLSTM, Hidden, rowwise
from zoracle.types import Key, Queries

#: Initial rates of the memories, running means of the estimates.
RATES = (0.5, 0.12, 0.03)
_FEATURES = len(RATES) + 6
_SCALARS = 7
_TINY = 1e-12
_FIRST = 1  # stream of the guesses before the first estimate


class GuidedLSTMConfig(SamplingConfig, frozen=True, kw_only=True):
    """Settings.

    Attributes:
        guesses: G, how many of the q directions lie along guesses of the gradient, 1 to 4.
        hidden: hidden size of the LSTM.
        step_size: eta at the start, the unit that steps are made in, in units of x.
        last_step: share of it that is left at the end of the run, where it falls to linearly.
        cap: longest step of a coordinate in units of eta.
        horizon: steps that the schedule is stretched over where the run does not say how many it will take.
        weight_seed: keys the initial weights.
    """

    guesses: int = 4
    hidden: int = 12
    step_size: Positive = 0.02
    last_step: Share = 0.03
    cap: Positive = 5.0
    horizon: int = 200
    weight_seed: int = 0


class GuidedLSTMState(NamedTuple):
    """State."""

    x: Tensor
    key: Key
    mu: Tensor
    horizon: Tensor
    """(B,) T."""
    origin: Tensor
    """(B, d) the starting point."""
    guesses: Tensor
    """(B, G, d) guesses of the gradient for the next step, of any length."""
    std: Tensor
    """(B, d) square root of the diagonal covariance of the other directions."""
    memories: Tensor
    """(B, M, d) running means of the estimates."""
    square: Tensor
    """(B, d) running mean of their squares."""
    step: Tensor
    """(B, d) the last step in units of eta."""
    gradient: Tensor
    """(B, d) the last estimate."""
    loss: Tensor
    """(B,) the last iterate's loss."""
    first_loss: Tensor
    """(B,) the first iterate's loss."""
    lowest: Tensor
    """(B,) the lowest loss of an iterate."""
    norm: Tensor
    """(B,) running mean of the estimates' norms."""
    first_norm: Tensor
    """(B,) the first estimate's norm."""
    hidden: Hidden


class GuidedLSTM(FiniteDifferenceOptimizer[GuidedLSTMState, GuidedLSTMConfig], nn.Module):
    r"""ZO-LSTM with a low-rank part in the covariance of its queries, blind to the scale of the problem.

    Of the q directions, G lie along orthonormal guesses of the gradient, and q - G are drawn from N(0, diag(sigma^2)),
    made orthogonal to the guesses and given the length sqrt(d). With s_i the slope along u_i,

    \hat g = \frac{1}{d} \sum_i s_i u_i

    is very nearly the projection of the gradient on the span of all q directions: exact along the guesses, and
    shrunk by about q / d in the rest, where the unbiased estimate would be mostly noise. It is no unbiased estimate
    and not meant to be. Its squared cosine to the gradient is about \rho^2 + (1 - \rho^2) (q - G) / d, where \rho^2
    is the share of the gradient's energy in the guesses; \rho = 0 is what orthogonal directions give.

    One coordinatewise LSTM sees the estimate, three gated running means of it, the displacement from the start and
    the last step, each divided by its root mean square over the coordinates, and scalars that say how it goes (time,
    what the last step won of what was promised and of all won so far, norms against earlier ones, how much each guess
    explained). Its heads
    are UpdateRNN's (direction and length of the step, and how much of the displacement to take back) and QueryRNN's
    (the guesses, sigma). A problem times a constant, or plus one, gives the same steps.

    Args:
        config: settings.
        source: where standard normal draws come from, instead of the key.
        settings: settings by name.

    Source: this project; after Ruan et al. (2020), with the past as directions as in Guided ES (Maheswaranathan et
    al., 2019) and history estimators.
    """

    Config = GuidedLSTMConfig

    def __init__(
        self, config: GuidedLSTMConfig | None = None, *, source: DirectionSource | None = None, **settings: Any
    ) -> None:
        nn.Module.__init__(self)
        FiniteDifferenceOptimizer.__init__(self, config, source=source, **settings)
        g, seed = self.config.guesses, self.config.weight_seed
        self.rnn = CoordinatewiseLSTM(
            _FEATURES,
            self.config.hidden,
            g + 5,
            head_scale=0.1,
            bias=True,
            shared=_SCALARS + g,
            seed=mix(seed, 1),
        )
        # Straight from the features to the step and the guesses, so that an untrained optimizer already descends:
        # the step against the slower mean; guesses along the last estimate, the displacement, and two means.
        skip = torch.zeros(1 + g, _FEATURES)
        skip[0, 2] = -1.0
        for row, column in enumerate((0, 6, 2, 3)[:g]):
            skip[1 + row, column] = 1.0
        self.skip = nn.Parameter(skip)
        self.pace = nn.Parameter(torch.zeros(4))
        self.shrink = nn.Parameter(torch.tensor([-3.0]))
        self.gates = _Gates(_SCALARS + g, seed=mix(seed, 2))
        self.requires_grad_(False)  # training asks for gradients; using the optimizer never should

    @classmethod
    def checked(cls, config: GuidedLSTMConfig | None, settings: dict[str, Any]) -> GuidedLSTMConfig:
        """A config whose numbers go together."""
        made = super().checked(config, settings)
        if not 1 <= made.guesses <= 4 or made.guesses > made.num_directions:
            raise InputError(
                f"guesses is {made.guesses} of {made.num_directions} directions; expected 1 .. 4, and no more than q"
            )
        if made.difference != "forward" or made.control_variate:
            raise InputError(
                f"difference is {made.difference!r}, control_variate {made.control_variate}; this optimizer's estimate "
                "is made of plain forward differences, expected 'forward' and false"
            )
        return made

    def auxiliary(self, queries: Queries, gradient: Tensor) -> Tensor | None:
        """Minus the logarithm of the cosine between the estimate and the gradient, (B,)."""
        d = gradient.shape[1]
        along = torch.bmm(queries.directions, gradient.unsqueeze(2)).squeeze(2) / math.sqrt(d)
        cosine: Tensor = along.norm(dim=1) / gradient.norm(dim=1).clamp(min=_TINY)
        return -cosine.clamp(min=1e-3).log()

    def _init(self, start: Start) -> GuidedLSTMState:
        x = start.x
        b, d = x.shape
        zero = torch.zeros_like(x)
        first = normal(start.key, (self.config.guesses, d), _FIRST, x.dtype).to(x.device)
        return GuidedLSTMState(
            x=x,
            key=start.key,
            mu=start.mu,
            horizon=torch.where(start.horizon > 0, start.horizon, self.config.horizon),
            origin=x.clone(),
            guesses=first,
            std=torch.ones_like(x),
            memories=x.new_zeros((b, len(RATES), d)),
            square=zero,
            step=zero.clone(),
            gradient=zero.clone(),
            loss=x.new_zeros(b),
            first_loss=x.new_zeros(b),
            lowest=x.new_zeros(b),
            norm=x.new_zeros(b),
            first_norm=x.new_zeros(b),
            hidden=self.rnn.start(zero),
        )

    def _ask(self, state: GuidedLSTMState) -> Queries:
        g = self.config.guesses
        z = self.draw(state.key, state.x)
        # Where a guess is zero, or depends on those before it, a random direction takes its place.
        guesses = orthonormalise(state.guesses, z[:, :g])
        rest = z[:, g:] * state.std.unsqueeze(1)
        rest = complement(rest, guesses)
        rest = rest / rest.norm(dim=2, keepdim=True).clamp(min=_TINY)
        u = torch.cat((guesses, rest), dim=1) * math.sqrt(state.x.shape[1])
        x = state.x.detach().unsqueeze(1)
        # The points keep the graph of u: training by directional derivatives sends gradients through the values.
        return Queries(torch.cat((x, x + state.mu[:, None, None] * u), dim=1), u)

    def _tell(
        self, state: GuidedLSTMState, queries: Queries, values: Tensor, gradients: Tensor | None
    ) -> GuidedLSTMState:
        d = state.x.shape[1]
        slopes = (values[:, 1:] - values[:, :1]) / state.mu.to(values).unsqueeze(1)
        along = torch.where(slopes.isfinite(), slopes, 0.0).to(state.x.dtype) / math.sqrt(d)
        gradient = combine(along / math.sqrt(d), queries.directions)
        started = state.key.step.to(state.x.device) > 0
        loss = torch.where(values[:, 0].isfinite(), values[:, 0], state.loss.to(values)).detach().to(state.x.dtype)
        progress = (state.key.step.to(state.x) / state.horizon.to(state.x)).clamp(max=1)
        eta = self.config.step_size * (self.config.last_step + (1 - self.config.last_step) * (1 - progress))
        away = state.x - state.origin

        first_loss = torch.where(started, state.first_loss, loss)
        lowest = torch.where(started, torch.minimum(state.lowest, loss), loss)
        norm = gradient.norm(dim=1)
        first_norm = torch.where(started, state.first_norm, norm.detach())
        mean_norm = torch.where(started, 0.9 * state.norm + 0.1 * norm.detach(), norm.detach())
        scalars = self._scalars(state, loss, first_loss - lowest, norm, mean_norm, first_norm, away, eta, started)
        explained = along[:, : self.config.guesses] / along.norm(dim=1, keepdim=True).clamp(min=_TINY)
        scalars = torch.cat((scalars, explained), dim=1)

        rates = self.gates(scalars)
        memories = state.memories + rates.unsqueeze(2) * (gradient.unsqueeze(1) - state.memories)
        memories = torch.where(started[:, None, None], memories, gradient.unsqueeze(1).expand_as(memories))
        square = 0.95 * state.square + 0.05 * gradient.square()

        features = self._features(gradient, memories, away, eta, state.step, square, started)
        output, hidden = self.rnn(features, state.hidden, scalars)
        straight = rowwise(features, self.skip)
        step = self._step(output, straight[..., 0], away / eta.unsqueeze(1), progress)
        guesses, std = self._next_queries(output, straight[..., 1:])
        return GuidedLSTMState(
            x=state.x + eta.unsqueeze(1) * step,
            key=state.key.next(),
            mu=state.mu,
            horizon=state.horizon,
            origin=state.origin,
            guesses=guesses,
            std=std,
            memories=memories,
            square=square,
            step=step,
            gradient=gradient,
            loss=loss,
            first_loss=first_loss,
            lowest=lowest,
            norm=mean_norm,
            first_norm=first_norm,
            hidden=hidden,
        )

    def _scalars(
        self,
        state: GuidedLSTMState,
        loss: Tensor,
        dropped: Tensor,
        norm: Tensor,
        mean_norm: Tensor,
        first_norm: Tensor,
        away: Tensor,
        eta: Tensor,
        started: Tensor,
    ) -> Tensor:
        """How it goes, (B, 7): time, twice; what the last step won, twice; norms against earlier ones; the way gone."""
        progress = (state.key.step.to(loss) / state.horizon.to(loss)).clamp(max=1)
        change = torch.where(started, loss - state.loss, 0.0)
        # Without its graph: where little was promised, the quotient's gradient would drown every other.
        promised = (state.gradient * state.step).sum(1).abs().detach() * eta
        columns = (
            2 * progress - 1,
            2 * torch.exp(-25 * progress) - 1,
            (change / promised.clamp(min=_TINY)).clamp(-2, 2),
            (50 * change / dropped.clamp(min=_TINY)).clamp(-2, 2),
            0.5 * (norm / first_norm.clamp(min=_TINY) + 1e-4).log().clamp(-4, 4),
            (norm / mean_norm.clamp(min=_TINY) + 1e-3).log().clamp(-2, 2),
            0.5 * (_rms(away).squeeze(1) / eta + 1e-2).log(),
        )
        return torch.stack(columns, dim=1)

    def _features(
        self,
        gradient: Tensor,
        memories: Tensor,
        away: Tensor,
        eta: Tensor,
        step: Tensor,
        square: Tensor,
        started: Tensor,
    ) -> Tensor:
        """What the LSTM sees of each coordinate, (B, d, F)."""
        unit = eta.unsqueeze(1)
        spread = 0.5 * (square.sqrt() / _rms(gradient).detach().clamp(min=_TINY) + 1e-2).log()
        columns = (
            _soft(_unit(gradient)),
            *(_soft(_unit(memory)) for memory in memories.unbind(1)),
            _soft(_unit(away)),
            torch.tanh(away / (4 * unit)),
            torch.tanh(away / (0.5 * unit)),
            step,
            torch.where(started.unsqueeze(1), spread, 0.0),
        )
        return torch.stack(columns, dim=2)

    def _step(self, output: Tensor, straight: Tensor, away: Tensor, progress: Tensor) -> Tensor:
        """The step in units of eta, (B, d)."""
        time = 2 * progress - 1
        powers = torch.stack((torch.ones_like(time), time, time**2, time**3), dim=1)
        gain = (powers * self.pace.to(powers.dtype)).sum(1).exp().unsqueeze(1)
        length = (gain * (3 * output[..., 1]).clamp(-4, 3).exp()).clamp(max=self.config.cap)
        direction = torch.tanh(straight + output[..., 0])
        # Back towards the start, coordinate by coordinate: what noise has moved and the gradient does not miss.
        back = 0.5 + 0.5 * torch.tanh(0.5 * (self.shrink.to(output.dtype) + 5 * output[..., 2]))
        return length * direction - back * away

    def _next_queries(self, output: Tensor, straight: Tensor) -> tuple[Tensor, Tensor]:
        """Guesses (B, G, d) and sigma (B, d) for the next step."""
        guesses = straight + output[..., 5:]
        if guesses.shape[2] > 1:  # which displacements still count
            guesses = torch.cat(
                (
                    guesses[..., :1],
                    guesses[..., 1:2] * (3 * output[..., 4:5]).clamp(-3, 1).exp(),
                    guesses[..., 2:],
                ),
                dim=2,
            )
        return guesses.transpose(1, 2).contiguous(), _unit((3 * output[..., 3]).clamp(-2, 2).exp())


class _Gates(nn.Module):
    """Rates of the memories from the scalars, in (0, 1)."""

    def __init__(self, scalars: int, *, seed: int, width: int = 16) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.inner = nn.Parameter(torch.randn(width, scalars, generator=g) / math.sqrt(scalars))
        self.inner_bias = nn.Parameter(torch.zeros(width))
        self.outer = nn.Parameter(torch.randn(len(RATES), width, generator=g) * 0.1)
        self.outer_bias = nn.Parameter(torch.tensor([math.log(rate / (1 - rate)) for rate in RATES]))

    def forward(self, scalars: Tensor) -> Tensor:
        """Rates (B, M) for scalars (B, S); sums instead of products of matrices, so that no batch changes them."""
        weights = (weight.to(scalars.dtype) for weight in (self.inner, self.inner_bias, self.outer, self.outer_bias))
        inner, inner_bias, outer, outer_bias = weights
        middle = torch.tanh((scalars.unsqueeze(1) * inner).sum(2) + inner_bias)
        return 0.5 + 0.5 * torch.tanh(0.5 * ((middle.unsqueeze(1) * outer).sum(2) + outer_bias))


def _rms(v: Tensor) -> Tensor:
    return v.square().mean(1, keepdim=True).sqrt()


def _unit(v: Tensor) -> Tensor:
    """Divided by the root mean square over coordinates; zero stays zero."""
    return v / (_rms(v) + _TINY)


def _soft(v: Tensor) -> Tensor:
    """Softly limited to ten."""
    return v / (1 + 0.1 * v.abs())
