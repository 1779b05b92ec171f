"""Training of the controllers of Square Attack on the gains of many candidates, on many small networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoracle import keyed
from zoracle.metatrain.spectral import margin
from zoracle.optimizers.learned.square_controllers import Colour, SquareControllers, SquareControllersState
from zoracle.state import select
from zoracle.types import Queries, Space

#: How far the size of a training candidate is from the controller's, standard deviation of its logit.
SPREAD = 0.7
_SMALL = 1e-6
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


def fit(
    optimizer: SquareControllers,
    prey: Sequence[Prey],
    *,
    updates: int,
    horizons: Sequence[int],
    batch: int,
    candidates: int,
    lr: float = 0.01,
    seed: int = 0,
    told: Callable[[int, float], None] | None = None,
) -> float:
    r"""Train both controllers by policy gradients; the optimizer is changed in place.

    At each step of a run every image is asked with several candidates, whose sizes and colours are drawn from the
    controllers. With a_i the share of its margin that candidate i would win and \bar a_{-i} the mean of the others, the
    gradient is that of \sum_i (a_i - \bar a_{-i}) \log \pi(i): a leave-one-out baseline, which many candidates of the
    same state allow and one run a query does not. The first candidate is the run's own.

    Args:
        optimizer: the search to train.
        prey: white-box networks; each run attacks images of one.
        updates: of Adam, one a run.
        horizons: lengths of runs, one of which is drawn for each run.
        batch: images per run.
        candidates: per image and step.
        lr: initial step size; decays linearly to zero.
        seed: keys everything.
        told: called with the update and the mean share of steps that a run of it took.

    Returns:
        The mean share of steps over the last tenth of the updates.
    """
    optimizer.requires_grad_(True)
    adam = torch.optim.Adam(optimizer.parameters(), lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda update: 1 - update / updates)
    shares: list[float] = []
    try:
        for update in range(updates):
            which = [keyed.mix(seed, update, i) for i in range(3)]
            one = prey[which[0] % len(prey)]
            adam.zero_grad(set_to_none=True)
            horizon, reach = horizons[which[1] % len(horizons)], one.reaches[which[2] % len(one.reaches)]
            shares.append(_run(optimizer, one, reach, horizon, batch, candidates, keyed.mix(seed, 3, update)))
            nn.utils.clip_grad_norm_(optimizer.parameters(), 1.0)
            adam.step()
            schedule.step()
            if told is not None:
                told(update, shares[-1])
    finally:
        optimizer.requires_grad_(False)
    last = shares[-max(1, updates // 10) :]
    return sum(last) / len(last)


def _run(
    optimizer: SquareControllers, prey: Prey, reach: float, horizon: int, batch: int, candidates: int, seed: int
) -> float:
    """Add one run's gradient to the weights; the mean share of its steps until each success."""
    rows = torch.from_numpy(keyed.permutation(len(prey.images), seed)[:batch])
    images, labels = prey.images[rows], prey.labels[rows]
    state = _begin(optimizer, images, reach, horizon, seed)
    done = torch.zeros(len(rows), dtype=torch.int64)
    alive = torch.arange(len(rows))
    for step in range(horizon):
        x, y = images[alive], labels[alive]
        if step:
            values, queries = _weigh(optimizer, prey, state, x, y, candidates, seed + step, horizon)
        else:
            queries = optimizer.ask(state)
            values = _margins(prey, x, queries.points, y)
        state = optimizer.tell(state, queries, values[:, :1])
        done[alive] += 1
        going = (state.best > 0).nonzero().squeeze(1)
        if not len(going):
            break
        alive, state = alive[going], select(state, going)
    return float(done.double().mean() / horizon)


def _weigh(
    optimizer: SquareControllers,
    prey: Prey,
    state: SquareControllersState,
    x: Tensor,
    y: Tensor,
    candidates: int,
    seed: int,
    horizon: int,
) -> tuple[Tensor, Queries]:
    """Margins (B, N) of candidates, and the queries of the first; the gradient is added to the weights."""
    b = len(x)
    size, colours = optimizer.size_logit(state), optimizer.colour_logits(state)
    noise = torch.randn((b, candidates), generator=keyed.generator(seed, _NOISE), dtype=torch.float64)
    asked = size.detach().unsqueeze(1) + SPREAD * noise
    points, numbers, chosen = [], [], []
    for n in range(candidates):
        key = state.key._replace(seed=state.key.seed + 7919 * n)
        made, number, log = optimizer.propose(state._replace(key=key), asked[:, n], colours)
        points.append(made)
        numbers.append(number)
        chosen.append(log)
    values = _margins(prey, x, torch.stack(points, 1), y)
    # As a share of what is left: late in a run small gains count as much as large ones early. A success wins all of it.
    best = state.best.unsqueeze(1)
    gains = ((best - values).clamp(min=0) / best.clamp(min=_SMALL)).double()
    others = (gains.sum(1, keepdim=True) - gains) / (candidates - 1)
    advantage = gains - others
    log_size = -0.5 * ((asked - size.unsqueeze(1)) / SPREAD).square()
    loss = -(advantage * (log_size + torch.stack(chosen, 1))).sum(1).mean() / (horizon**0.5)
    loss.backward()
    return values, Queries(points[0].unsqueeze(1), points[0].new_zeros((b, 0, points[0].shape[1])), Colour(numbers[0]))


def _begin(
    optimizer: SquareControllers, images: Tensor, reach: float, horizon: int, seed: int
) -> SquareControllersState:
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
def _margins(prey: Prey, images: Tensor, points: Tensor, labels: Tensor) -> Tensor:
    """How far candidates (B, N, d) are from a success, (B, N), zero where they are one."""
    b, n, _ = points.shape
    asked = (images.flatten(1).unsqueeze(1) + points).clamp(0, 1).view(b * n, *images.shape[1:])
    return margin(prey.model(asked), labels.repeat_interleave(n)).clamp(min=0).view(b, n)
