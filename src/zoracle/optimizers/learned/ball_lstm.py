"""A ZO-LSTM for attacks within a ball: few, tiled queries a step, and steps towards a corner of the ball."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoracle.directions import orthonormalise
from zoracle.errors import InputError
from zoracle.estimators import combine, forward_points
from zoracle.keyed import mix, normal, uniform
from zoracle.optimizers.base import FiniteDifferenceOptimizer, SamplingConfig, Start
from zoracle.optimizers.learned.recurrent import CoordinatewiseLSTM, Gates, Hidden
from zoracle.optimizers.search.feasible import bounded_space
from zoracle.types import Key, Queries

#: Initial rates of the memories, running means of the estimates.
RATES = (0.5, 0.12, 0.03)
_FEATURES = len(RATES) + 4
_SCALARS = 7
_TINY = 1e-12
_TILES, _GRID, _ROWS, _COLUMNS = 0, 1, 2, 3  # streams: tiles, how many of them, where they begin


class BallLSTMConfig(SamplingConfig, frozen=True, kw_only=True):
    """Settings.

    Attributes:
        num_directions: q, query directions a step.
        guesses: G, how many of them lie along guesses of the gradient, 1 or 2.
        cells: how many tiles the longer side of an image is cut into; one of them is drawn each step.
        hidden: hidden size of the LSTM.
        weight_seed: keys the initial weights.
    """

    num_directions: int = 10
    guesses: int = 1
    cells: tuple[int, ...] = (7,)
    hidden: int = 10
    weight_seed: int = 0


class BallLSTMState(NamedTuple):
    """State."""

    x: Tensor
    key: Key
    mu: Tensor
    unit: Tensor
    """(B,) the size of a perturbation's coordinate in this ball."""
    middle: Tensor
    """(B, d) middle of each coordinate's range, in these units."""
    shape: Tensor
    """(B, 3) channels, height and width."""
    guesses: Tensor
    """(B, G, d) guesses of the gradient for the next step, of any length."""
    memories: Tensor
    """(B, M, d) running means of the estimates, each divided by its root mean square."""
    step: Tensor
    """(B, d) the last step in units."""
    loss: Tensor
    """(B,) the last iterate's loss."""
    first_loss: Tensor
    """(B,) the first iterate's loss."""
    mean_loss: Tensor
    """(B,) running mean of the iterates' losses."""
    first_norm: Tensor
    """(B,) the first estimate's norm."""
    hidden: Hidden


class BallLSTM(FiniteDifferenceOptimizer[BallLSTMState, BallLSTMConfig], nn.Module):
    r"""ZO-LSTM for problems within a box or a ball, trained for the fewest queries to the first success.

    A step makes few queries. G of the q directions lie along orthonormal guesses of the gradient; the others are
    constant on the tiles of a grid laid over the image at a random offset, Gaussian from tile to tile, and made
    orthonormal: neighbouring pixels have similar gradients, and in the low dimension that is left a few directions
    see much of them. With s_i the slope along u_i the estimate is the projection of the gradient on their span,

    \hat g = \frac{1}{d} \sum_i s_i u_i .

    One coordinatewise LSTM sees the estimate and three gated running means of it, each over its root mean square, the
    position in the ball, the last step and the middle of the coordinate's range, and shared scalars (time, the loss
    in nats and against the first, the last and the mean one, the estimate's norm, what the guesses explained). It
    follows no schedule, since it does not know when it will succeed. It answers with a target
    in units r of the ball and a rate,

    x \leftarrow P(x + a (r \tanh(h) - x)),

    and with the next guesses. The target is what steepest descent in the ball's norm aims at: a corner.

    Args:
        config: settings.
        settings: settings by name.

    Source: this project; tiled directions as in Ilyas et al. (2019), "Prior convictions".
    """

    Config = BallLSTMConfig

    def __init__(self, config: BallLSTMConfig | None = None, **settings: Any) -> None:
        nn.Module.__init__(self)
        FiniteDifferenceOptimizer.__init__(self, config, **settings)
        g, seed = self.config.guesses, self.config.weight_seed
        self.rnn = CoordinatewiseLSTM(
            _FEATURES, self.config.hidden, 2 + g, head_scale=0.1, bias=True, shared=_SCALARS + g, seed=mix(seed, 1)
        )
        # Straight from the features, so that an untrained optimizer already descends: the target against the second
        # running mean, guesses along it and along the estimate.
        skip = torch.zeros(2 + g, _FEATURES)
        skip[0, 2] = -2.0
        for row, column in enumerate((2, 0)[:g]):
            skip[2 + row, column] = 1.0
        self.skip = nn.Parameter(skip)
        self.rate = nn.Parameter(torch.tensor([2.0]))
        self.gates = Gates(_SCALARS + g, RATES, seed=mix(seed, 2))
        self.requires_grad_(False)

    @classmethod
    def checked(cls, config: BallLSTMConfig | None, settings: dict[str, Any]) -> BallLSTMConfig:
        """A config whose numbers go together."""
        made = super().checked(config, settings)
        if not 1 <= made.guesses <= 2 or made.guesses >= made.num_directions:
            raise InputError(
                f"guesses is {made.guesses} of {made.num_directions} directions; expected 1 or 2, and fewer than q"
            )
        if not made.cells or min(made.cells) < 1:
            raise InputError(f"cells is {list(made.cells)}; expected numbers of tiles, each at least 1")
        if made.difference != "forward" or made.control_variate or made.directions != "gaussian" or made.reach:
            raise InputError("this optimizer has directions and an estimate of its own; leave those settings out")
        return made

    def _init(self, start: Start) -> BallLSTMState:
        x, space = start.x, bounded_space(start, "zo-lstm-ball")
        b, d = x.shape
        # A coordinate's share of the ball: all coordinates are moved at once, so in an l2 ball few of them can go far.
        half = 0.5 * (space.high - space.low).amax(1)
        unit = torch.minimum(half, 3 * space.radius / math.sqrt(d)).to(x).clamp(min=_TINY)
        zero = torch.zeros_like(x)
        return BallLSTMState(
            x=x,
            key=start.key,
            mu=start.mu,
            unit=unit,
            middle=(0.5 * (space.high + space.low)).to(x) / unit.unsqueeze(1),
            shape=space.shape.clone(),
            # All coordinates alike: a change of brightness is what classifiers of images are often weakest against.
            guesses=x.new_ones((b, self.config.guesses, d)),
            memories=x.new_zeros((b, len(RATES), d)),
            step=zero,
            loss=x.new_zeros(b),
            first_loss=x.new_zeros(b),
            mean_loss=x.new_zeros(b),
            first_norm=x.new_zeros(b),
            hidden=self.rnn.start(zero),
        )

    def _ask(self, state: BallLSTMState) -> Queries:
        g, d = self.config.guesses, state.x.shape[1]
        z = self._tiles(state)
        # Where a row depends on those before it, itself shifted by a pixel takes its place: it is tiled otherwise.
        rows = torch.cat((state.guesses, z[:, g:]), dim=1)
        u = orthonormalise(rows, lambda: z.roll(1, 2)) * math.sqrt(d)
        # The points keep the graph of u: training by directional derivatives sends gradients through the values.
        return Queries(forward_points(state.x.detach(), u, state.mu), u)

    def _tiles(self, state: BallLSTMState) -> Tensor:
        """Directions (B, q, d) that are constant on the tiles of a grid, Gaussian from tile to tile."""
        x, q = state.x, self.config.num_directions
        c, h, w = state.shape[0].tolist()
        cells = torch.tensor(self.config.cells)
        drawn = cells[(uniform(state.key, _GRID) * len(cells)).long()].double()
        side = max(h, w) / drawn
        n_rows, n_columns = (math.ceil(size * int(cells.max()) / max(h, w)) + 1 for size in (h, w))
        z = normal(state.key, (q, c, n_rows, n_columns), _TILES, x.dtype)
        rows, columns = (
            ((torch.arange(size) / side.unsqueeze(1)) + uniform(state.key, stream).unsqueeze(1)).long()
            for size, stream in ((h, _ROWS), (w, _COLUMNS))
        )
        z = z.gather(3, rows[:, None, None, :, None].expand(-1, q, c, -1, n_columns))
        z = z.gather(4, columns[:, None, None, None, :].expand(-1, q, c, h, -1))
        return z.flatten(2).to(x.device)

    def _tell(self, state: BallLSTMState, queries: Queries, values: Tensor, gradients: Tensor | None) -> BallLSTMState:
        d, dtype = state.x.shape[1], state.x.dtype
        slopes = (values[:, 1:] - values[:, :1]) / state.mu.to(values).unsqueeze(1)
        along = torch.where(slopes.isfinite(), slopes, 0.0).to(dtype) / math.sqrt(d)
        gradient = combine(along / math.sqrt(d), queries.directions)
        started = state.key.step.to(state.x.device) > 0
        loss = torch.where(values[:, 0].isfinite(), values[:, 0], state.loss.to(values)).detach().to(dtype)
        first_loss = torch.where(started, state.first_loss, loss)
        norm = gradient.detach().norm(dim=1)
        first_norm = torch.where(started, state.first_norm, norm)
        explained = along[:, : self.config.guesses] / along.norm(dim=1, keepdim=True).clamp(min=_TINY)
        mean_loss = torch.where(started, 0.9 * state.mean_loss + 0.1 * loss, loss)
        above = loss.clamp(min=0)  # an attack's loss is; of others the part below zero tells it nothing
        time = state.key.step.to(loss)
        columns = (
            0.5 * (1 + time).log() - 1,
            2 * torch.exp(-0.2 * time) - 1,
            0.5 * (above / first_loss.clamp(min=_TINY) + 1e-2).log().clamp(-4, 2) + 1,
            0.3 * (above + 1e-2).log().clamp(-5, 5),
            torch.where(started, 5 * (loss - state.loss) / first_loss.clamp(min=_TINY), 0.0).clamp(-2, 2),
            (2 * (loss - mean_loss) / mean_loss.clamp(min=_TINY)).clamp(-2, 2),
            0.5 * (norm / first_norm.clamp(min=_TINY) + 1e-3).log().clamp(-4, 4),
        )
        scalars = torch.cat((torch.stack(columns, dim=1), explained), dim=1)

        unit = state.unit.unsqueeze(1)
        rates = self.gates(scalars).unsqueeze(2)
        own = _unit(gradient)
        # Each estimate counts the same in the memories, whatever its length: losses flatten towards a success.
        memories = state.memories + rates * (own.unsqueeze(1) - state.memories)
        memories = torch.where(started[:, None, None], memories, own.unsqueeze(1).expand_as(memories))
        position = state.x / unit
        features = torch.stack(
            (
                _soft(own),
                # After a success there is no slope, and memories of estimates of size one fade: a floor for them.
                *(_soft(_unit(memory, 1e-3)) for memory in memories.unbind(1)),
                position,
                state.step,
                state.middle,
            ),
            dim=1,
        )
        output, hidden = self.rnn(features, state.hidden, self.rnn.weights(features, scalars, self.skip))
        target = torch.tanh(output[:, 0])
        rate = 0.5 + 0.5 * torch.tanh(0.5 * (self.rate.to(dtype) + 5 * output[:, 1]))
        step = rate * (target - position)
        return BallLSTMState(
            x=state.x + unit * step,
            key=state.key.next(),
            mu=state.mu,
            unit=state.unit,
            middle=state.middle,
            shape=state.shape,
            guesses=output[:, 2:],
            memories=memories,
            step=step,
            loss=loss,
            first_loss=first_loss,
            mean_loss=mean_loss,
            first_norm=first_norm,
            hidden=hidden,
        )


def _unit(v: Tensor, floor: float = _TINY) -> Tensor:
    """Divided by the root mean square over coordinates, or about the floor where that is larger."""
    return v / (v.square().mean(1, keepdim=True) + floor**2).sqrt()


def _soft(v: Tensor) -> Tensor:
    """Softly limited to ten."""
    return v / (1 + 0.1 * v.abs())
