"""Learned search within balls: patterns first, then a Bayesian model of the gradient's spectrum."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from zoracle.optimizers.base import Start
from zoracle.optimizers.learned.spectral.basis import Shape, basis_of
from zoracle.optimizers.learned.spectral.nets import Prior, SpectralNets
from zoracle.optimizers.learned.spectral.odds import Odds
from zoracle.optimizers.learned.spectral.problem import Problem
from zoracle.optimizers.learned.spectral.state import (
    Choice,
    Learned,
    SpectralSearchArchitecture,
    SpectralSearchConfig,
    SpectralSearchState,
)
from zoracle.optimizers.search.feasible import OneCandidate, bounded_space, image_shape, in_ball, is_round, within
from zoracle.types import Queries

# What a probe, a window and a run are taken to win at first; from attacks on validation networks and images.
_GAINS = (0.02, 0.004, 0.002)
# Side of windows at first, as a share of the image's.
_SIDE = 0.3


class SpectralSearch(OneCandidate[SpectralSearchState, SpectralSearchConfig], nn.Module):
    r"""Random search within a ball, guided by a learned model of the gradients of classifiers.

    One query per step, accepted unless it raises the loss: where many points have the same loss, as with trees or
    rounded outputs, the search drifts on.

    *Patterns*: periodic patterns of signs at the bounds, and their opposites. Their losses are modelled by a mixture of
    Gaussians over families of networks, learned on many networks. The answers so far change the weights of the
    families and the losses expected within each; the pattern with the best chance of success is queried next, while
    that chance is at least ``chance``.

    *Spectrum*: the gradient at the centre of the ball has coefficients c_j in an orthonormal basis of cosines and
    colours, a priori independent with variances :math:`s^2 S_j(z)`. The spectrum S is the output of a network of
    the frequency and has R traits z, which differ from one attacked network to the next. The answer for a move
    :math:`\delta` from the best point corrects c by a Kalman step whose covariance is kept diagonal,

    .. math:: c \leftarrow c + \frac{P \delta}{\delta^T P \delta + r}\,(\Delta f - \delta^T c),

    whether the move was accepted or not, and z and s by a step of their likelihood. The next candidate is the point of
    the ball that minimises the linear model, combined with a probe of the least certain coefficient.

    *Windows*: some queries set a square window to the bounds of a box or linf ball, with the signs of one of the best
    patterns, one sign per channel, or the opposite bounds. In an l2 ball they move the norm of a second window into
    the first. The window with the lowest predicted loss of a few random ones is queried. Windows grow where one lowers
    the loss and shrink where one does not, so that about a fifth of them do.

    *Runs*: in a box or linf ball, others set a contiguous run of the flattened image to its opposite bounds, or all its
    upper or lower ones, whichever the model prefers. Every part of the image is asked once before runs are halved.

    Probes, windows and runs are drawn in proportion to the squares of their running gains.

    Args:
        config: settings.
        settings: settings by name.

    Source: this project; SimBA (Guo et al., 2019) asks for cosines one by one, Square Attack (Andriushchenko et al.,
    2020) for windows, SignHunter (Al-Dujaili and O'Reilly, 2020) for runs.
    """

    Config = SpectralSearchConfig
    Architecture = SpectralSearchArchitecture
    architecture: SpectralSearchArchitecture

    def __init__(self, config: SpectralSearchConfig | None = None, **settings: Any) -> None:
        nn.Module.__init__(self)
        OneCandidate.__init__(self, config, **settings)
        self.nets = _nets(self.architecture)

    def _init(self, start: Start) -> SpectralSearchState:
        space = bounded_space(start, "spectral-search")
        x = within(space, start.x)
        (b, _), traits = x.shape, self.architecture.traits
        size = basis_of(image_shape(space)).size if b else 0
        most = max(1, self.config.patterns)
        return SpectralSearchState(
            x=x,
            key=start.key,
            space=space,
            middle=x.clone(),
            best=x.new_full((b,), torch.inf),
            level=x.new_full((b,), torch.nan),
            asked=torch.zeros((b, most), dtype=torch.int64),
            answers=torch.full((b, most), torch.nan, dtype=torch.float64),
            coefficients=torch.zeros((b, size)),
            open=torch.ones((b, size)),
            traits=torch.zeros((b, traits)),
            precision=torch.eye(traits).repeat(b, 1, 1),
            power=torch.ones((b, 2), dtype=torch.float64),
            gains=torch.tensor([_GAINS], dtype=torch.float64).repeat(b, 1),
            side=torch.full((b,), _SIDE, dtype=torch.float64),
            runs=torch.zeros(b, dtype=torch.int64),
        )

    def keeps_inside(self, state: SpectralSearchState) -> bool:
        """In a box: the iterate is the start, clipped, or a point that was asked."""
        return not is_round(state.space)

    def _ask(self, state: SpectralSearchState) -> Queries:
        x, kinds, chosen = state.x, [], []
        made = torch.empty_like(x)
        for row, problem in enumerate(self._problems(state)):
            kind, pattern, point = problem.candidate()
            given = torch.from_numpy(point).unsqueeze(0)
            own = slice(row, row + 1)
            if problem.round:  # it lies in the box, and rounding may have left the ball
                given = in_ball(state.space.radius[own], given.to(x))
            made[own] = given
            kinds.append(kind)
            chosen.append(pattern)
        choice = Choice(torch.tensor(kinds, dtype=torch.int64), torch.tensor(chosen, dtype=torch.int64))
        return Queries(made.unsqueeze(1), made.new_zeros((made.shape[0], 0, made.shape[1])), choice)

    def _tell(
        self, state: SpectralSearchState, queries: Queries, values: Tensor, gradients: Tensor | None
    ) -> SpectralSearchState:
        better = values[:, 0] <= state.best  # an equal one too: on a plateau, elsewhere is where a step may be found
        points, moves = queries.points[:, 0], bool(better.any())
        x = torch.empty_like(state.x) if moves else state.x
        learned: list[Learned] = []
        numbers = (part.tolist() for part in (*queries.aux, values[:, 0], better))
        for row, (problem, kind, pattern, value, won) in enumerate(zip(self._problems(state), *numbers, strict=True)):
            learned.append(problem.learn(kind, pattern, points[row].cpu().numpy(), value))
            if moves:  # at once, while both are in the processor's cache
                x[row] = points[row] if won else state.x[row]
        told = state._replace(x=x, key=state.key.next(), best=torch.where(better, values[:, 0], state.best))
        return Learned.put(told, learned) if learned else told

    def _problems(self, state: SpectralSearchState) -> list[Problem]:
        shape = image_shape(state.space) if len(state.x) else (1, 1, 1)
        common = (self.config, shape, self._prior(shape), partial(self.odds, shape), is_round(state.space))
        rows = zip(
            *(part.cpu().numpy() for part in (state.x, state.space.low, state.space.high, state.middle)),
            state.space.radius.tolist(),
            state.best.tolist(),
            zip(*(part.tolist() for part in state.key), strict=True),
            Learned.of(state),
            strict=True,
        )
        return [Problem(*common, *row) for row in rows]

    def _prior(self, shape: Shape) -> Prior:
        version = tuple(p._version for p in self.nets.spectrum.parameters())
        prior = _prior(self.nets, shape, version)
        return prior if self.config.spectrum == "learned" else Prior(0 * prior.mean, 0 * prior.loadings)

    def odds(self, shape: Shape, reach: float) -> Odds:
        """The model of the losses of a shape's patterns, for a given mean change per pixel."""
        version = tuple(p._version for p in self.nets.patterns.parameters())
        return _odds(self.nets, shape, reach, version)


def _nets(built: SpectralSearchArchitecture) -> SpectralNets:
    return SpectralNets(built.hidden, built.wide, built.traits, built.families, built.factors, built.weight_seed)


@lru_cache(maxsize=32)
def _prior(nets: SpectralNets, shape: Shape, version: tuple[int, ...]) -> Prior:
    return nets.prior(shape)


@lru_cache(maxsize=512)
def _odds(nets: SpectralNets, shape: Shape, reach: float, version: tuple[int, ...]) -> Odds:
    return nets.odds(shape, reach)
