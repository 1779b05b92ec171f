"""A scale-free ZO-LSTM whose query directions lie along its own guesses of the gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from zoracle.directions import cached, orthogonal_to, orthonormalise
from zoracle.errors import InputError
from zoracle.estimators import combine, forward_points
from zoracle.keyed import mix, normal
from zoracle.optimizers.base import Start
from zoracle.optimizers.finite_difference import DirectionSource, FiniteDifferenceOptimizer
from zoracle.optimizers.learned import belief, scouting, spectrum
from zoracle.optimizers.learned import guided_gauges as gauges
from zoracle.optimizers.learned.guided_gauges import SCALARS, TINY, rms, soft
from zoracle.optimizers.learned.guided_search import Reaching, taken
from zoracle.optimizers.learned.guided_state import (
    GuidedLSTMArchitecture,
    GuidedLSTMConfig,
    GuidedLSTMState,
    Proposal,
    Seen,
    Shared,
)
from zoracle.optimizers.learned.recurrent import CoordinatewiseLSTM, Gates, Hidden, Pacing, blockwise, step
from zoracle.optimizers.radius import Radius
from zoracle.types import Key, Queries

#: Initial rates of the memories, running means of the estimates.
RATES = (0.5, 0.12, 0.03)
_FEATURES = len(RATES) + 6
_SQUARES = 0.05  # rate of the running mean of squared estimates
_MOST_CHANGE, _FARTHEST = 0.7, 20.0  # of the logarithm of an adaptive eta: in a step, and in all
_FIRST, _SPARE = 1, 2  # streams of the guesses before the first estimate, and of what replaces dependent ones


class GuidedLSTM(Reaching, nn.Module):
    r"""ZO-LSTM with a low-rank part in the covariance of its queries, blind to the scale of the problem.

    Of the q directions, G lie along orthonormal guesses of the gradient, and q - G are drawn from N(0, diag(sigma^2)),
    made orthogonal to the guesses and given the length sqrt(d). With s_i the slope along u_i,

    \hat g = \frac{1}{d} \sum_i s_i u_i

    is very nearly the projection of the gradient on the span of all q directions: exact along the guesses, and
    shrunk by about q / d in the rest, where the unbiased estimate would be mostly noise. It is not an unbiased estimate
    and not meant to be. Its squared cosine to the gradient is about \rho^2 + (1 - \rho^2) (q - G) / d, where \rho^2
    is the share of the gradient's energy in the guesses; \rho = 0 is what orthogonal directions give.

    One coordinatewise LSTM sees the estimate, three gated running means of it, the displacement from the start and
    the last step, each divided by its root mean square over the coordinates, and scalars that say how it goes (time,
    what the last step won of what was promised and of all won so far, norms against earlier ones, how much each guess
    explained; with ``believing`` also the scalars of :mod:`zoracle.optimizers.learned.belief`). Its heads are
    UpdateRNN's (direction and length of the step, and how much of the displacement to undo) and QueryRNN's (the
    guesses, sigma). With ``reach`` the first slopes are those of f seen through a blur. A problem times a constant,
    or plus one, gives the same steps.

    Args:
        config: settings.
        source: source of standard normal draws, used instead of the key.
        settings: settings by name.

    Source: this project; after Ruan et al. (2020), with the past as directions as in Guided ES (Maheswaranathan et
    al., 2019) and history estimators.
    """

    Config = GuidedLSTMConfig
    Architecture = GuidedLSTMArchitecture
    architecture: GuidedLSTMArchitecture

    def __init__(
        self, config: GuidedLSTMConfig | None = None, *, source: DirectionSource | None = None, **settings: Any
    ) -> None:
        nn.Module.__init__(self)
        FiniteDifferenceOptimizer.__init__(self, config, source=source, **settings)
        arch = self.architecture
        g, seed = arch.guesses, arch.weight_seed
        features, more = (_FEATURES + belief.FEATURES, belief.SCALARS) if arch.believing else (_FEATURES, 0)
        self.rnn = CoordinatewiseLSTM(
            features,
            arch.hidden,
            g + 5,
            head_scale=0.1,
            bias=True,
            shared=SCALARS + g + more,
            seed=mix(seed, 1),
        )
        # Straight from the features to the step and the guesses, so that an untrained optimizer already descends:
        # the step against the slower mean; guesses along the last estimate, the displacement, and two means.
        skip = torch.zeros(1 + g, features)
        skip[0, 2] = -1.0
        for row, column in enumerate((0, 6, 2, 3)[:g]):
            skip[1 + row, column] = 1.0
        self.skip = nn.Parameter(skip)
        self.pace = nn.Parameter(torch.zeros(4))
        self.shrink = nn.Parameter(torch.tensor([-3.0]))
        self.gates = Gates(SCALARS + g + more, RATES, seed=mix(seed, 2))
        # An untrained one continues to longer steps where a step won most of what its slope promised.
        self.pacing = (
            Pacing(SCALARS + g + 2 + len(RATES) + more, {2: -0.5}, -0.15, most=_MOST_CHANGE, seed=mix(seed, 3))
            if arch.adaptive
            else None
        )
        if arch.believing:
            self.trust = belief.gates(SCALARS + g + more, mix(seed, 5))
        if arch.spectral:
            self.spectrum = spectrum.Spectrum(mix(seed, 6))
        self.requires_grad_(False)  # training asks for gradients; using the optimizer never should

    @classmethod
    def checked(cls, config: GuidedLSTMConfig | None, settings: dict[str, Any]) -> GuidedLSTMConfig:
        """Settings of a run, checked for consistency."""
        made = super().checked(config, settings)
        if made.difference != "forward" or made.control_variate:
            raise InputError(
                f"difference is {made.difference!r}, control_variate {made.control_variate}; this optimizer's estimate "
                "is made of plain forward differences, expected 'forward' and false"
            )
        return made

    def check_together(self, config: GuidedLSTMConfig) -> None:
        """Raise an InputError if there are more guesses than directions, or a belief without an adaptive scale."""
        guesses, q = self.architecture.guesses, config.num_directions
        if not 1 <= guesses <= min(4, q):
            raise InputError(f"guesses is {guesses} of {q} directions; expected 1 .. 4, and no more than q")
        if self.architecture.believing and not self.architecture.adaptive:
            raise InputError("believing is true and adaptive is false; expected both, or believing = false")
        spectrum.check(config.covariance, self.architecture.spectral)

    def auxiliary(self, queries: Queries, gradient: Tensor) -> Tensor | None:
        """Minus the logarithm of the cosine between the estimate and the gradient, (B,)."""
        d = gradient.shape[1]
        along = torch.bmm(queries.directions, gradient.unsqueeze(2)).squeeze(2) / math.sqrt(d)
        cosine: Tensor = along.norm(dim=1) / gradient.norm(dim=1).clamp(min=TINY)
        return -cosine.clamp(min=1e-3).log()

    def _init(self, start: Start) -> GuidedLSTMState:
        x = start.x
        b, d = x.shape
        zero = torch.zeros_like(x)
        first = normal(start.key, (self.architecture.guesses, d), _FIRST, x.dtype).to(x.device)
        horizon = torch.where(start.horizon > 0, start.horizon, self.config.horizon)
        scouts = self.config.scouting if self.config.reach else 0
        scouted = scouting.steps(scouts, self.config.num_directions, horizon).to(x.device)
        reach = start.mu.new_full((b,), self.config.reach * start.scale)
        until = start.mu.new_full((b,), self.config.reach_until)
        if scouts:
            reach, until = scouting.near(reach, until, scouted == 0)
        spectral = self.architecture.spectral or self.config.covariance == "fixed"
        shape = (start.space.shape.clone(),) if spectral and start.space is not None else ()
        return GuidedLSTMState(
            x=x,
            key=start.key,
            mu=start.mu,
            radius=Radius(reach, until, horizon.to(x.device) - scouted),
            scouting=scouted,
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
            pace=x.new_full((b,), math.log(start.scale) if self.architecture.adaptive else 0.0),
            hidden=self.rnn.start(zero),
            belief=(belief.start(x),) if self.architecture.believing else (),
            tally=(scouting.start(x),) if scouts else (),
            shape=shape,
        )

    def _search(self, state: GuidedLSTMState) -> Queries:
        g, q, (b, d) = self.architecture.guesses, self.config.num_directions, state.x.shape
        # A random direction replaces a guess that is zero or linearly dependent on those before it.
        guesses = orthonormalise(
            state.guesses, lambda: normal(state.key, (g, d), _SPARE, state.x.dtype).to(state.x.device)
        )
        x, root, mu = state.x.detach(), math.sqrt(d), self.distance(state)

        def draw(key: Key, x: Tensor) -> Tensor:
            return self.draw(key, x, q - g) if q > g else x.new_empty((x.shape[0], 0, d))

        waves = self.waves(state)
        std = state.std if self.config.covariance in spectrum.PIXEL else torch.ones_like(state.std)
        if torch.is_grad_enabled():
            # The points keep the graph of u: training by directional derivatives sends gradients through the values.
            u = torch.cat((guesses * root, spectrum.others(guesses, draw(state.key, x), std, waves)), dim=1)
            return Queries(forward_points(x, u, mu), u)
        u, points = x.new_empty((b, q, d)), x.new_empty((b, q + 1, d))
        for rows in cached(b, q * d):
            z = draw(Key(*(part[rows] for part in state.key)), x[rows])
            torch.mul(guesses[rows], root, out=u[rows, :g])
            if waves is not None:
                part = spectrum.Waves(waves.std[rows], waves.shape)
                u[rows, g:] = spectrum.others(guesses[rows], z, std[rows], part)
            else:
                for some in cached(q - g, d):
                    u[rows, g:][:, some] = orthogonal_to(guesses[rows], z[:, some], std[rows])
            forward_points(x[rows], u[rows], mu[rows], out=points[rows])
        return Queries(points, u)

    def waves(self, state: GuidedLSTMState) -> spectrum.Waves | None:
        """The spectrum of the directions other than guesses; None if points are not images or d is small."""
        covariance = self.config.covariance
        net = self.spectrum if self.architecture.spectral else None
        if not state.shape or covariance not in spectrum.SPECTRAL or (net is None and covariance != "fixed"):
            return None
        channels, height, width = state.shape[0][0].tolist()
        shape = (channels, height, width)
        if not spectrum.is_image(shape) or 2 * self.config.num_directions > state.x.shape[1]:
            return None
        progress = (taken(state).to(state.x) / state.radius.horizon.to(state.x)).clamp(0, 1)
        return spectrum.Waves(spectrum.deviations(net, covariance, state.memories[:, 1:], progress, shape), shape)

    def _searched(self, state: GuidedLSTMState, queries: Queries, values: Tensor) -> GuidedLSTMState:
        root, u = math.sqrt(state.x.shape[1]), queries.directions
        slopes, known = self._slopes(state, values)
        along = slopes.to(state.x.dtype) / root
        gradient = combine(along / root, u)
        at = gauges.read(state, values[:, 0], gradient)
        unit = self.config.step_size * (self.config.last_step + (1 - self.config.last_step) * (1 - at.progress))
        eta = unit * state.pace.exp() if self.architecture.adaptive else unit
        away = state.x - state.origin
        explained = along[:, : self.architecture.guesses] / along.norm(dim=1, keepdim=True).clamp(min=TINY)
        scalars = torch.cat((gauges.scalars(state, at, away, eta), explained), dim=1)
        more = scalars[:, :0]
        against = gradient.new_empty((gradient.shape[0], 0)) if self.pacing is None else gauges.cosines(state, gradient)
        measured: belief.Measured | None = None
        if state.belief:
            g = self.architecture.guesses
            measured = belief.measured(along, known, u, state.belief[0], g, against, state.memories, at.started)
            more = measured.scalars
        every = torch.cat((scalars, more), dim=1)

        rates = torch.where(at.started.unsqueeze(1), self.gates(every), 1.0)  # a memory begins as the first estimate
        memories = torch.lerp(state.memories, gradient.unsqueeze(1), rates.unsqueeze(2))
        pace = state.pace
        if self.pacing is not None:
            pace = self._pace(self.pacing, state, against, scalars, more, at.started)
            eta = unit * pace.exp()
        square = torch.lerp(state.square, gradient.square(), _SQUARES)
        kept = state.belief
        believed = state.x.new_empty((state.x.shape[0], 0, state.x.shape[1]))
        if measured is not None:
            kept = (
                belief.corrected(self.trust, every, measured, along, u, state.belief[0], self.architecture.guesses),
            )
            steps = taken(state).to(square) + 1
            believed = belief.features(kept[0].mean, memories[:, 1:], square, steps, _SQUARES)
        spread = (square.sqrt() / rms(gradient).detach().clamp(min=TINY) + 1e-2).log()
        seen = Seen(
            gradient, memories, away, state.step, 0.5 * at.started.unsqueeze(1) * spread, believed, *state.hidden
        )
        shared = self._shared(seen, eta, at.progress, every)
        n = len(seen)
        made = Proposal(*blockwise(lambda *parts: self._made(Seen(*parts[:n]), Shared(*parts[n:])), seen, shared))
        return state._replace(
            x=torch.addcmul(state.x, eta.unsqueeze(1), made.step),
            key=state.key.next(),
            guesses=made.guesses,
            std=gauges.unit(made.std),
            memories=memories,
            square=square,
            step=made.step,
            gradient=gradient,
            loss=at.loss,
            first_loss=at.first_loss,
            lowest=at.lowest,
            norm=at.mean_norm,
            first_norm=at.first_norm,
            pace=pace,
            hidden=Hidden(made.h, made.c),
            belief=kept,
        )

    def _pace(
        self,
        pacing: Pacing,
        state: GuidedLSTMState,
        against: Tensor,
        scalars: Tensor,
        more: Tensor,
        started: Tensor,
    ) -> Tensor:
        """The logarithm (B,) of the factor of eta from the next step on."""
        inputs = torch.cat((scalars, 3 * against, 0.3 * state.pace.unsqueeze(1), more), dim=1)
        return torch.where(started, state.pace + pacing(inputs), state.pace).clamp(-_FARTHEST, _FARTHEST)

    def _shared(self, seen: Seen, eta: Tensor, progress: Tensor, scalars: Tensor) -> Shared:
        sides = (seen.gradient.unsqueeze(1), seen.memories, seen.away.unsqueeze(1))
        time = 2 * progress - 1
        powers = torch.stack((torch.ones_like(time), time, time**2, time**3), dim=1)
        # Weights from the features directly to the direction and the guesses. The factors of the outputs, and the
        # constant of the third, are folded into the weights.
        straight = torch.cat((self.skip[:1], self.skip.new_zeros((4, self.skip.shape[1])), self.skip[1:]))
        gates, head = self.rnn.weights(eta, scalars, straight)
        constant = head.new_zeros(head.shape[1:])
        constant[2, -1] = 0.5 * self.shrink
        return Shared(
            size=torch.cat([1 / (rms(side) + TINY) for side in sides], dim=1),
            near=torch.stack((0.25 / eta, 2 / eta), dim=1).unsqueeze(2),
            half=0.5 / eta.unsqueeze(1),
            belief=self._scaled(seen.belief),
            gain=(powers * self.pace.to(powers.dtype)).sum(1).exp().unsqueeze(1),
            gates=gates,
            head=head * head.new_tensor([[1], [3], [2.5], [3], [3], *[[1]] * self.architecture.guesses]) + constant,
        )

    @staticmethod
    def _scaled(believed: Tensor) -> Tensor:
        if not believed.shape[1]:
            return believed[:, :, :1]
        over = believed.new_tensor(belief.SIZES)[None, :, None].expand(believed.shape[0], -1, 1)
        return torch.cat((1 / (rms(believed[:, :1]) + TINY), over), dim=1)

    def _made(self, seen: Seen, shared: Shared) -> Proposal:
        """Outputs of the LSTM for some coordinates of some problems."""
        away = seen.away.unsqueeze(1)
        relative = torch.cat((seen.gradient.unsqueeze(1), seen.memories, away), dim=1) * shared.size
        features = (
            soft(relative),
            torch.tanh(away * shared.near),
            seen.step.unsqueeze(1),
            seen.spread.unsqueeze(1),
            soft(seen.belief * shared.belief),
        )
        output, h, c = step(features, seen.h, seen.c, shared.gates, shared.head)
        length = (shared.gain * output[:, 1].clamp(-4, 3).exp()).clamp(max=self.config.cap)
        direction, back = torch.tanh(output[:, 0:3:2]).unbind(1)
        # Back towards the start, per coordinate: undoes displacement due to noise that the gradient does not support.
        halfway = seen.away * shared.half
        guesses = output[:, 5:]
        if guesses.shape[1] > 1:  # which displacements still count
            displacement = guesses[:, 1:2] * output[:, 4:5].clamp(-3, 1).exp()
            guesses = torch.cat((guesses[:, :1], displacement, guesses[:, 2:]), dim=1)
        return Proposal(
            step=length * direction - torch.addcmul(halfway, back, halfway),
            guesses=guesses,
            std=output[:, 3].clamp(-2, 2).exp(),
            h=h,
            c=c,
        )
