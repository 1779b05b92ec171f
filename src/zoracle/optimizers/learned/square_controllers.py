"""Square Attack with learned controllers of the squares' size and colour (Yatsura, Metzen and Hein, 2021)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoracle import keyed
from zoracle.errors import InputError
from zoracle.optimizers.base import Config, Share, Start
from zoracle.optimizers.search.feasible import OneCandidate, bounded_space, image_shape, is_round
from zoracle.optimizers.search.square import PLANNED, stripes, window_sides, windows
from zoracle.settings import Size
from zoracle.types import Key, Queries, Space

#: Colours are counted by the signs of the channels, 2 to their number.
MOST_CHANNELS = 8

_COLOUR = 7  # stream of draws; those of Square Attack are 0 to 2


class SquareControllersArchitecture(Config, frozen=True, kw_only=True):
    """Settings that determine the shape of the weights.

    Attributes:
        hidden: units of each of the two hidden layers of either network.
        weight_seed: keys the initial weights.
    """

    hidden: Size = 10
    weight_seed: int = 0


class SquareControllersConfig(Config, frozen=True, kw_only=True):
    """Settings of a run.

    Attributes:
        decay: share of a running mean that each step keeps.
    """

    decay: Share = 0.9


class SquareControllersState(NamedTuple):
    """State of the search."""

    x: Tensor
    """(B, d) the best point so far; the starting point until a value is known."""
    key: Key
    space: Space
    best: Tensor
    """(B,) loss at x, infinite until one is known."""
    accepted: Tensor
    """(B,) float64 running mean of whether squares were kept."""
    colours: Tensor
    """(B, 2^C) float64 the same of each colour, at the steps that asked for it."""


class Colour(NamedTuple):
    """The query of a step."""

    number: Tensor
    """(B,) int64 the colour: bit c is 1 where channel c goes to its upper bound."""


class SquareControllers(OneCandidate[SquareControllersState, SquareControllersConfig], nn.Module):
    r"""Random search with squares at the bounds of an linf ball, whose size and colour two small networks choose.

    One query per step, accepted if it lowers the loss; the first query is vertical stripes. With the running mean r
    of acceptance, a square holds the share

    .. math:: p = \sigma(\mathrm{MLP}_s(\log(1 + t), \sqrt r))

    of the pixels, lies anywhere, and has the colour c, a sign for each channel, with the probability

    .. math:: \pi(c) \propto \exp \mathrm{MLP}_c(\log(1 + t), \sqrt r, \sqrt{r_c})

    among the colours that change the point; r_c is the acceptance of that colour so far. Each input is scaled to
    [-1, 1]. Unlike Square Attack's schedule, none depends on the number of queries that the run is planned for.

    Args:
        config: settings.
        settings: settings by name.

    Source: Yatsura, Metzen and Hein (2021), "Meta-learning the search distribution of black-box random search based
    adversarial attacks". The rule is theirs, reimplemented; the weights, input scales and training are this
    project's.
    """

    Config = SquareControllersConfig
    Architecture = SquareControllersArchitecture
    architecture: SquareControllersArchitecture

    def __init__(self, config: SquareControllersConfig | None = None, **settings: Any) -> None:
        nn.Module.__init__(self)
        OneCandidate.__init__(self, config, **settings)
        hidden, seed = self.architecture.hidden, self.architecture.weight_seed
        self.size = Perceptron(2, hidden, keyed.mix(seed, 1), bias=-2.0)
        self.colour = Perceptron(3, hidden, keyed.mix(seed, 2))
        self.requires_grad_(False)

    def _init(self, start: Start) -> SquareControllersState:
        space = bounded_space(start, "square-controllers")
        channels = image_shape(space)[0] if len(start.x) else 1
        if is_round(space):
            raise InputError("square-controllers searches linf balls and boxes; use square in an l2 ball")
        if channels > MOST_CHANNELS:
            raise InputError(
                f"images have {channels} channels; expected at most {MOST_CHANNELS} for square-controllers"
            )
        b = start.x.shape[0]
        return SquareControllersState(
            x=start.x,
            key=start.key,
            space=space,
            best=start.x.new_full((b,), torch.inf),
            accepted=torch.full((b,), 0.5, dtype=torch.float64),
            colours=torch.full((b, 2**channels), 0.5, dtype=torch.float64),
        )

    def _ask(self, state: SquareControllersState) -> Queries:
        points, colour, _ = self.propose(state, self.size_logit(state), self.colour_logits(state))
        known = state.best.isfinite().unsqueeze(1)
        if not bool(known.all()):  # the first step, or its value could not be had
            points = torch.where(known, points, stripes(state.key, state.space).to(points))
        return Queries(points.unsqueeze(1), points.new_zeros((points.shape[0], 0, points.shape[1])), Colour(colour))

    def _tell(
        self, state: SquareControllersState, queries: Queries, values: Tensor, gradients: Tensor | None
    ) -> SquareControllersState:
        better = values[:, 0] < state.best
        told = state._replace(
            x=torch.where(better.unsqueeze(1), queries.points[:, 0], state.x),
            key=state.key.next(),
            best=torch.where(better, values[:, 0], state.best),
        )
        # The stripes are not a square, so their gain carries no information about sizes.
        asked = state.best.isfinite().cpu()
        kept, decay = better.cpu().double(), self.config.decay
        index = queries.aux.number.unsqueeze(1)
        old = state.colours.gather(1, index)[:, 0]
        accepted = torch.where(asked, decay * state.accepted + (1 - decay) * kept, state.accepted)
        own = torch.where(asked, decay * old + (1 - decay) * kept, old)
        return told._replace(accepted=accepted, colours=state.colours.scatter(1, index, own.unsqueeze(1)))

    def size_logit(self, state: SquareControllersState) -> Tensor:
        """The logit of the share of pixels that a square holds, (B,) float64."""
        logit: Tensor = self.size(self._shared(state))
        return logit

    def colour_logits(self, state: SquareControllersState) -> Tensor:
        """Of each colour, (B, 2^C) float64."""
        shared = self._shared(state).unsqueeze(1).expand(-1, state.colours.shape[1], -1)
        logits: Tensor = self.colour(torch.cat((shared, _centred(state.colours).unsqueeze(2)), 2))
        return logits

    def propose(self, state: SquareControllersState, size: Tensor, colours: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best point with one square at other bounds (B, d), the square's colour (B,) int64, and its log chance.

        Args:
            state: its key draws place and colour.
            size: (B,) logit of its share.
            colours: (B, 2^C) logits.
        """
        x, shape = state.x, image_shape(state.space) if len(state.x) else (1, 1, 1)
        sides = window_sides(torch.sigmoid(size.detach()), shape, odd=False)
        _, masks = windows(state.key, shape, sides, 1)
        window = masks[0].to(x.device)
        high, low, old = (part.view(-1, *shape) for part in (state.space.high, state.space.low, x))
        rises, falls = (((bound != old) & window).flatten(2).any(2).cpu() for bound in (high, low))
        chances = self.chances(colours, rises, falls)
        drawn = keyed.uniform(state.key, _COLOUR).unsqueeze(1)
        reached = chances.detach().cumsum(1)
        index = (reached <= drawn * reached[:, -1:]).sum(1).clamp(max=chances.shape[1] - 1)
        up = _bits(index, shape[0]).to(x.device)
        bound = torch.where(up[:, :, None, None], high, low)
        points = torch.where(window, bound, old).reshape(x.shape)
        return points, index, chances.gather(1, index.unsqueeze(1))[:, 0].log()

    @staticmethod
    def chances(colours: Tensor, rises: Tensor, falls: Tensor) -> Tensor:
        """Probability (B, 2^C) of each colour, among those that change the point where some do.

        Args:
            colours: (B, 2^C) logits.
            rises: (B, C) whether the upper bound would change a channel.
            falls: (B, C) likewise the lower one.
        """
        up = _bits(torch.arange(colours.shape[1]), rises.shape[1])
        changes = torch.where(up, rises.unsqueeze(1), falls.unsqueeze(1)).any(2)
        changes = changes | ~changes.any(1, keepdim=True)
        return colours.masked_fill(~changes, -torch.inf).softmax(1)

    @staticmethod
    def _shared(state: SquareControllersState) -> Tensor:
        """Time and acceptance, (B, 2) float64."""
        return torch.stack((times(state.key.step), _centred(state.accepted)), 1)


def times(step: Tensor) -> Tensor:
    """The logarithm of the step (B,), from -1 at the first to 1 at the published number of queries, float64."""
    return 2 * step.double().log1p() / math.log1p(PLANNED) - 1


class Perceptron(nn.Module):
    """Two hidden layers and one output, (..., inputs) to (...); small enough to be summed the same way in any batch."""

    def __init__(self, inputs: int, hidden: int, seed: int, bias: float = 0.0) -> None:
        super().__init__()
        g = keyed.generator(seed)
        sizes = (inputs, hidden, hidden, 1)
        for number, (before, after) in enumerate(pairwise(sizes)):
            # The output of an untrained controller is constant in time.
            scale = 1 / math.sqrt(before) if number < 2 else 0.0
            self.register_parameter(f"weight{number}", nn.Parameter(scale * torch.randn(after, before, generator=g)))
            self.register_parameter(f"bias{number}", nn.Parameter(torch.full((after,), bias * (number == 2))))

    def forward(self, x: Tensor) -> Tensor:
        """Output in float64."""
        for number in range(3):
            weight, bias = (getattr(self, f"{name}{number}").double() for name in ("weight", "bias"))
            x = (x.unsqueeze(-2) * weight).sum(-1) + bias
            x = x.tanh() if number < 2 else x
        return x[..., 0]


def _bits(index: Tensor, channels: int) -> Tensor:
    """Signs of colours (N,): (N, C) bool, true for up."""
    return (index.unsqueeze(1) >> torch.arange(channels)) & 1 == 1


def _centred(rate: Tensor) -> Tensor:
    """Acceptance rates from -1 to 1: most are low, and a square root tells low ones apart."""
    return 2 * rate.sqrt() - 1
