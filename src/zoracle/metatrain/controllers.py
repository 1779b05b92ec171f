"""Training of the controllers of Square Attack on the gains of many candidates, on many small networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoracle import keyed
from zoracle.metatrain.spectral import margin
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.learned.square_controllers import Colour, SquareControllers, SquareControllersState, times
from zoracle.optimizers.search.square import PLANNED, halvings
from zoracle.state import select
from zoracle.types import Queries, Space

#: How far the sizes of training candidates are from the controller's, standard deviation of the logit.
SPREAD = 0.7
#: Gains are measured in units of the mean gain of recent steps, which this keeps so much of and is at least so large.
_KEPT, _LEAST = 0.9, 0.003
#: Largest advantage in these units: one late success must not outweigh a run.
_MOST = 10.0
_SMALL = 1e-6
#: Candidates are compared at each of the first steps, then at every few, which count so much more.
DENSE, EVERY = 40, 4
_NOISE = 31  # stream of its draws


class Prey(NamedTuple):
    """One white-box network to train on."""

    name: str
    model: Callable[[Tensor], Tensor]
    """Images (N, C, H, W) to logits."""
    images: Tensor
    """(n, C, H, W) in [0, 1], read correctly."""
    labels: Tensor
    reaches: tuple[float, ...]
    """Radii of linf balls."""


class Fit:
    r"""Training of both controllers by policy gradients, a run at a time.

    At each step of a run every image is asked with the run's own candidate and with pairs of candidates of the same
    place and colour, whose sizes are antithetic: :math:`\sigma(s \pm \rho z)`, z standard normal. With the gain g of a
    candidate, the share of the image's margin that it would win, the gradient is that of

    .. math:: \sum_j \frac{g_j^+ - g_j^-}{2 \rho \bar g} z_j s
        + \sum_k \frac{g_k - \bar g_{-k}}{\bar g} \log \pi(c_k),

    where k counts the run's own candidate and the pairs, \bar g_{-k} is the mean of the others, and \bar g the mean
    gain of recent steps: a share of the time that is saved counts the same early and late in a run. Squares of the
    same place differ less by chance than others, and many candidates of one state less than whole runs.

    Args:
        optimizer: the search to train, in place.
        prey: white-box networks; each run attacks images of one.
        updates: of Adam, one a run.
        horizons: lengths of runs, one of which is drawn for each run.
        batch: images per run.
        pairs: of candidates per image and step.
        lr: initial step size; falls to zero along a cosine.
        seed: keys everything.
    """

    def __init__(
        self,
        optimizer: SquareControllers,
        prey: Sequence[Prey],
        *,
        updates: int,
        horizons: Sequence[int],
        batch: int,
        pairs: int = 2,
        lr: float = 0.02,
        seed: int = 0,
    ) -> None:
        self.optimizer, self.prey, self.updates, self.horizons = optimizer, prey, updates, horizons
        self.batch, self.pairs, self.lr, self.seed = batch, pairs, lr, seed
        self.update = 0
        self.adam = torch.optim.Adam(optimizer.parameters(), lr)

    def step(self) -> float:
        """One run and update; the mean share of its steps until each success."""
        update = self.update
        which = [keyed.mix(self.seed, update, i) for i in range(2)]
        # Networks by turns, so that each stretch of the training sees all of them.
        order = keyed.permutation(len(self.prey), self.seed, 5, update // len(self.prey))
        one = self.prey[order[update % len(self.prey)]]
        horizon, reach = self.horizons[which[0] % len(self.horizons)], one.reaches[which[1] % len(one.reaches)]
        for group in self.adam.param_groups:
            group["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * update / self.updates))
        self.optimizer.requires_grad_(True)
        try:
            self.adam.zero_grad(set_to_none=True)
            share = self._run(one, reach, horizon, keyed.mix(self.seed, 3, update))
            self.adam.step()
        finally:
            self.optimizer.requires_grad_(False)
        self.update += 1
        return share

    def _run(self, prey: Prey, reach: float, horizon: int, seed: int) -> float:
        rows = torch.from_numpy(keyed.permutation(len(prey.images), seed)[: self.batch])
        images, labels = prey.images[rows], prey.labels[rows]
        state = begin(self.optimizer, images, reach, horizon, seed)
        alive = torch.arange(len(rows))
        steps, usual = 0, 0.0
        for step in range(horizon):
            x, y = images[alive], labels[alive]
            if 0 < step <= DENSE or step % EVERY == 1:
                weight = 1 if step <= DENSE else EVERY
                values, queries, usual = self._weigh(prey, state, x, y, seed + step, usual, weight)
            else:
                queries = self.optimizer.ask(state)
                values = margins(prey, x, queries.points, y)
            state = self.optimizer.tell(state, queries, values[:, :1])
            steps += len(alive)
            going = (state.best > 0).nonzero().squeeze(1)
            if not len(going):
                break
            alive, state = alive[going], select(state, going)
        return steps / (len(rows) * horizon)

    def _weigh(
        self, prey: Prey, state: SquareControllersState, x: Tensor, y: Tensor, seed: int, usual: float, weight: int
    ) -> tuple[Tensor, Queries, float]:
        """Margins (B, 1 + 2 pairs) of candidates, the run's own query, and the usual gain; adds to the gradient."""
        b = len(x)
        size, colours = self.optimizer.size_logit(state), self.optimizer.colour_logits(state)
        noise = torch.randn((b, self.pairs), generator=keyed.generator(seed, _NOISE), dtype=torch.float64)
        own, number, log = self.optimizer.propose(state, size, colours)
        points, logs = [own], [log]
        for n in range(self.pairs):
            there = state._replace(key=state.key._replace(seed=state.key.seed + 7919 * (n + 1)))
            both = [
                self.optimizer.propose(there, size.detach() + sign * SPREAD * noise[:, n], colours) for sign in (1, -1)
            ]
            points += [made[0] for made in both]
            logs.append((both[0][2] + both[1][2]) / 2)
        values = margins(prey, x, torch.stack(points, 1), y)
        # As a share of what is left: a success wins all of it.
        best = state.best.unsqueeze(1)
        gains = ((best - values).clamp(min=0) / best.clamp(min=_SMALL)).double()
        usual = _KEPT * usual + (1 - _KEPT) * float(gains.mean()) if usual else float(gains.mean())
        unit = max(usual, _LEAST)
        plus, minus = gains[:, 1::2], gains[:, 2::2]
        larger = ((plus - minus) / unit).clamp(-_MOST, _MOST) * noise / (2 * SPREAD)
        grouped = torch.cat((gains[:, :1], (plus + minus) / 2), 1)
        others = (grouped.sum(1, keepdim=True) - grouped) / self.pairs
        better = ((grouped - others) / unit).clamp(-_MOST, _MOST)
        won = larger.mean(1) * size + (better * torch.stack(logs, 1)).mean(1)
        (-weight * won.sum() / (self.batch * 100)).backward()  # type: ignore[no-untyped-call]
        queries = Queries(own.unsqueeze(1), own.new_zeros((b, 0, own.shape[1])), Colour(number))
        return values, queries, usual


def imitate(optimizer: SquareControllers, *, p_init: float, horizon: int, steps: int = 600, lr: float = 0.02) -> float:
    """Fit the size to the schedule of Square Attack, whatever is accepted; the root mean square of the logit's error.

    Args:
        optimizer: changed in place.
        p_init: of the schedule.
        horizon: queries that it is stretched to.
        steps: of Adam.
        lr: of Adam, falling to zero along a cosine.
    """
    when, inputs = _grid()
    goal = torch.logit(p_init * halvings(when - 1, torch.full_like(when, horizon))).unsqueeze(1)
    return _fit_size(optimizer, inputs, goal.expand(inputs.shape[:2]), steps, lr)


def shrink(optimizer: SquareControllers, late: float, *, steps: int = 600, lr: float = 0.01) -> float:
    r"""Add :math:`s\,(\log(1 + t) / \log(1 + T))^2` to the logit of the size, T = 10,000, by a new fit; its error.

    The gains of single steps do not tell how soon a run ends: smaller squares late may end it sooner.

    Args:
        optimizer: changed in place.
        late: s.
        steps: of Adam.
        lr: of Adam, falling to zero along a cosine.
    """
    when, inputs = _grid()
    share = (times(when).unsqueeze(1) + 1) / 2
    return _fit_size(optimizer, inputs, optimizer.size(inputs) + late * share.square(), steps, lr)


def _grid() -> tuple[Tensor, Tensor]:
    """Steps (n,) of a run, and the inputs (n, m, 2) of the size there for rates of acceptance from 0 to 1."""
    when = torch.logspace(0, math.log10(PLANNED), 200, dtype=torch.float64).round().long()
    accepted = torch.linspace(-1, 1, 9, dtype=torch.float64)
    return when, torch.stack(torch.meshgrid(times(when), accepted, indexing="ij"), 2)


def _fit_size(optimizer: SquareControllers, inputs: Tensor, goal: Tensor, steps: int, lr: float) -> float:
    adam = torch.optim.Adam(optimizer.size.requires_grad_(True).parameters(), lr)
    error = torch.zeros(())
    for step in range(steps):
        adam.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        error = (optimizer.size(inputs) - goal).square().mean()
        adam.zero_grad(set_to_none=True)
        error.backward()
        adam.step()
    optimizer.requires_grad_(False)
    return math.sqrt(float(error.detach()))


def begin(optimizer: Optimizer[Any, Any], images: Tensor, reach: float, horizon: int, seed: int) -> Any:
    """A search around images (n, C, H, W) in [0, 1], within an linf ball of radius ``reach``."""
    x = images.flatten(1)
    b, (channels, height, width) = len(x), images.shape[1:]
    space = Space(
        low=(-x).clamp(min=-reach),
        high=(1 - x).clamp(max=reach),
        radius=x.new_full((b,), torch.inf),
        shape=torch.tensor([[channels, height, width]]).repeat(b, 1),
    )
    return optimizer.init(torch.zeros_like(x), seed=seed, problem=torch.arange(b), horizon=horizon, space=space)


@torch.no_grad()
def margins(prey: Prey, images: Tensor, points: Tensor, labels: Tensor) -> Tensor:
    """How far candidates (B, N, d) are from a success, (B, N), zero where they are one."""
    b, n, _ = points.shape
    asked = (images.flatten(1).unsqueeze(1) + points).clamp(0, 1).view(b * n, *images.shape[1:])
    return margin(prey.model(asked), labels.repeat_interleave(n)).clamp(min=0).view(b, n)
