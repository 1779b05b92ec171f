"""Square Attack: random search with squares at the bounds of a ball (Andriushchenko et al., 2020)."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, NamedTuple

import msgspec
import torch
from torch import Tensor

from zoracle import keyed
from zoracle.optimizers.base import Config, Start
from zoracle.optimizers.search.feasible import OneCandidate, bounded_space, image_shape, is_round, within
from zoracle.types import Key, Queries, Space

#: The published schedule: p is halved after each of these iterations of PLANNED.
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
PLANNED = 10_000

#: The p to begin with. The authors' commands have 0.3 for MNIST networks (0.8 for adversarially trained ones) and 0.05
#: for ImageNet in linf, and they call 0.1 the standard in l2.
P_LINF = 0.3
P_L2 = 0.1

# Streams of draws: where windows lie, which way the bump lies, and signs, a stream for each time they are drawn again.
PLACES, COIN, SIGNS = 0, 1, 2
# A window whose coordinates have no room at all never changes; all others have done so long before.
_REDRAWS = 64


class SquareAttackConfig(Config, frozen=True, kw_only=True):
    """Settings of Square Attack.

    Attributes:
        p_init: share of the coordinates that the first squares change; None uses 0.3 in a box or linf ball and 0.1
            in an l2 ball.
    """

    p_init: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None


class SquareAttackState(NamedTuple):
    """State of Square Attack."""

    x: Tensor
    """(B, d) the best point so far; the starting point until a value is known."""
    key: Key
    space: Space
    horizon: Tensor
    """(B,) int64 queries that the schedule spans."""
    best: Tensor
    """(B,) loss at x, infinite until one is known."""


class SquareAttack(OneCandidate[SquareAttackState, SquareAttackConfig]):
    r"""Random search: x <- x' where f(x') < f(x), with x' as x but for one or two square windows.

    One query per step. The first asks for vertical stripes (linf) or a grid of bumps (l2) at the bounds of the ball;
    the starting point is not used. Squares have sides :math:`\sqrt{p h w}`, and p falls from ``p_init`` along the
    published schedule, which is stretched to the horizon of the run (10,000 queries where that is open).

    In a box or linf ball a candidate sets a window to its upper or lower bound, one sign per channel, drawn again until
    the point changes. In an l2 ball it takes the norm that a second window holds, and what is left of the ball, for a
    bump in the first. A point that is not an image has runs of coordinates for squares.

    Source: Andriushchenko, Croce, Flammarion and Hein (2020), "Square Attack: a query-efficient black-box adversarial
    attack via random search". Windows lie anywhere in the image, as in the paper; the public code never places one in
    the last row or column.
    """

    Config = SquareAttackConfig

    def _init(self, start: Start) -> SquareAttackState:
        space = bounded_space(start, "Square Attack")
        horizon = torch.where(start.horizon > 0, start.horizon, PLANNED)
        x = start.x if is_round(space) else within(space, start.x)
        return SquareAttackState(x, start.key, space, horizon, start.x.new_full(start.x.shape[:1], torch.inf))

    def keeps_inside(self, state: SquareAttackState) -> bool:
        """In a box: the iterate is the start, clipped, or a point that was asked."""
        return not is_round(state.space)

    def _ask(self, state: SquareAttackState) -> Queries:
        known = state.best.isfinite()
        round_ = is_round(state.space)
        if not bool(known.any()):
            points = _grid(state) if round_ else stripes(state.key, state.space)
        else:
            sides = window_sides(self._share(state, round_), image_shape(state.space), odd=round_)
            points = _moved_bump(state, sides) if round_ else _square(state, sides)
            if not bool(known.all()):  # the first value could not be had: begin again
                first = _grid(state) if round_ else stripes(state.key, state.space)
                points = torch.where(known.unsqueeze(1), points, first)
        return Queries(points.unsqueeze(1), points.new_zeros((points.shape[0], 0, points.shape[1])))

    def _tell(
        self, state: SquareAttackState, queries: Queries, values: Tensor, gradients: Tensor | None
    ) -> SquareAttackState:
        better = values[:, 0] < state.best
        return state._replace(
            x=torch.where(better.unsqueeze(1), queries.points[:, 0], state.x),
            key=state.key.next(),
            best=torch.where(better, values[:, 0], state.best),
        )

    def _share(self, state: SquareAttackState, round_: bool) -> Tensor:
        """P of each problem's next square, (B,) float64."""
        p_init = self.config.p_init
        if p_init is None:
            p_init = P_L2 if round_ else P_LINF
        # The first query is not an iteration of the schedule.
        return p_init * halvings(state.key.step - 1, state.horizon)


def halvings(iteration: Tensor, horizon: Tensor) -> Tensor:
    """By what p_init is multiplied at an iteration (B,) of a run of so many queries (B,): (B,) float64."""
    reached = (iteration * PLANNED).div(horizon, rounding_mode="floor")
    passed = (reached.unsqueeze(1) > torch.tensor(HALVED_AFTER)).sum(1)
    return torch.pow(0.5, passed.double())


def window_sides(share: Tensor, shape: tuple[int, int, int], *, odd: bool) -> tuple[Tensor, Tensor]:
    """Height and width (B,) int64 of windows that hold a share of the pixels, one row or column less than the image.

    Args:
        share: (B,) p.
        shape: channels, height, width.
        odd: the windows of l2: sides of at least 3, and odd.
    """
    _, height, width = shape
    pixels = share * height * width
    # Where there is but one row, a square has a length and no side.
    side = (pixels if 1 in (height, width) else pixels.sqrt()).round().long()
    if odd:
        side = side.clamp(min=3)
        side = side + (side + 1) % 2
    tall, wide = (side.clamp(min=1, max=max(1, room - 1)) for room in (height, width))
    if odd:
        tall, wide = tall - (tall + 1) % 2, wide - (wide + 1) % 2
    return tall, wide


def windows(key: Key, shape: tuple[int, int, int], sides: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Upper left corners (B, 2 count) of windows at random places, and where each window lies (count, B, 1, h, w)."""
    _, height, width = shape
    rooms = torch.stack((height - sides[0] + 1, width - sides[1] + 1), dim=1).repeat(1, count)
    corners = keyed.integers(key, rooms, 2 * count, PLACES)
    masks = []
    for i in range(count):
        inside = []
        for axis, room in enumerate((height, width)):
            first = corners[:, 2 * i + axis].unsqueeze(1)
            at = torch.arange(room)
            inside.append((at >= first) & (at < first + sides[axis].unsqueeze(1)))
        masks.append((inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).unsqueeze(1))
    return corners, torch.stack(masks)


def stripes(key: Key, space: Space) -> Tensor:
    """Vertical stripes at the bounds, a sign for each channel and column, (B, d)."""
    channels, height, width = image_shape(space)
    sign = keyed.signs(key, channels * width, SIGNS).view(-1, channels, 1, width)
    up = (sign > 0).expand(-1, channels, height, width).reshape(space.low.shape).to(space.low.device)
    return torch.where(up, space.high, space.low)


def _square(state: SquareAttackState, sides: tuple[Tensor, Tensor]) -> Tensor:
    """The iterate with one window at its bounds, a sign for each channel; it differs from the iterate."""
    x, shape = state.x, image_shape(state.space)
    _, masks = windows(state.key, shape, sides, 1)
    window = masks[0].to(x.device)
    high, low, old = (part.view(-1, *shape) for part in (state.space.high, state.space.low, x))
    # Whether a sign changes anything, by channel (B, c): signs can then be drawn again without the points.
    rises, falls = (((bound != old) & window).flatten(2).any(2).cpu() for bound in (high, low))
    up = keyed.signs(state.key, shape[0], SIGNS) > 0
    for attempt in range(1, _REDRAWS):
        idle = ~torch.where(up, rises, falls).any(1)
        if not bool(idle.any()):
            break
        again = keyed.signs(state.key, shape[0], SIGNS + attempt) > 0
        up = torch.where(idle.unsqueeze(1), again, up)
    bound = torch.where(up.to(x.device)[:, :, None, None], high, low)
    return torch.where(window, bound, old).reshape(x.shape)


def _grid(state: SquareAttackState) -> Tensor:
    """Bumps in a grid of 5 x 5 tiles, a sign for each bump and channel, scaled to the ball."""
    x = state.x
    channels, height, width = image_shape(state.space)
    tall, wide = max(1, height // 5), max(1, width // 5)
    rows, columns = min(5, height), min(5, width)
    count = rows * columns
    coin = keyed.integers(state.key, 2, count, COIN)
    sign = keyed.signs(state.key, channels * count, SIGNS, x.dtype).view(-1, channels, count, 1, 1).to(x.device)
    bumps = bump_pair(tall, wide)[coin].to(x).unsqueeze(1) * sign
    grid = bumps.view(-1, channels, rows, columns, tall, wide).transpose(3, 4)
    top, left = (height - rows * tall) // 2, (width - columns * wide) // 2
    delta = x.new_zeros((x.shape[0], channels, height, width))
    delta[:, :, top : top + rows * tall, left : left + columns * wide] = grid.reshape(
        -1, channels, rows * tall, columns * wide
    )
    return _on_sphere(delta, state.space)


def _moved_bump(state: SquareAttackState, sides: tuple[Tensor, Tensor]) -> Tensor:
    """The iterate with the norm of one window moved to a bump in another."""
    x, shape = state.x, image_shape(state.space)
    corners, masks = windows(state.key, shape, sides, 2)
    one, two = masks.to(x.device)
    old = x.view(-1, *shape)
    coin = keyed.integers(state.key, 2, 1, COIN)[:, 0]
    bump = placed_bumps(shape, sides, corners, coin).to(x).unsqueeze(1)
    sign = keyed.signs(state.key, shape[0], SIGNS, x.dtype).to(x.device)[:, :, None, None]
    there = old * one
    new = bump * sign + there / (1e-10 + _norm(there, (2, 3)))
    left = (state.space.radius[:, None, None, None].square() - _norm(old, (1, 2, 3)).square()).clamp(min=0)
    room = (left / shape[0] + _norm(old * (one | two), (2, 3)).square()).sqrt()
    new = new / _norm(new, (2, 3)).clamp(min=torch.finfo(x.dtype).tiny) * room
    return _on_sphere(torch.where(one, new, torch.where(two, torch.zeros_like(old), old)), state.space)


def _on_sphere(delta: Tensor, space: Space) -> Tensor:
    """Perturbations (B, C, H, W) scaled to the ball's radius and clipped to the box, flat."""
    length = _norm(delta, (1, 2, 3)).clamp(min=torch.finfo(delta.dtype).tiny)
    flat = (delta / length * space.radius[:, None, None, None]).flatten(1)
    return torch.minimum(torch.maximum(flat, space.low), space.high)


def _norm(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    return values.square().sum(dims, keepdim=True).sqrt()


def placed_bumps(shape: tuple[int, int, int], sides: tuple[Tensor, Tensor], corners: Tensor, coin: Tensor) -> Tensor:
    """Bumps (B, H, W) of these sides at the first two of ``corners``, lying as the coin (B,) says; zero elsewhere."""
    _, height, width = shape
    out = torch.zeros((coin.shape[0], height, width), dtype=torch.float64)
    # Problems at one step share their sides.
    for tall, wide in sorted(set(zip(sides[0].tolist(), sides[1].tolist(), strict=True))):
        mine = ((sides[0] == tall) & (sides[1] == wide)).nonzero().squeeze(1)
        rows = (corners[mine, 0].unsqueeze(1) + torch.arange(tall)).unsqueeze(2)
        columns = (corners[mine, 1].unsqueeze(1) + torch.arange(wide)).unsqueeze(1)
        out[mine[:, None, None], rows, columns] = bump_pair(tall, wide)[coin[mine]]
    return out


@lru_cache(maxsize=256)
def bump_pair(tall: int, wide: int) -> Tensor:
    """Hill and hollow in a window, above each other and beside each other: (2, tall, wide) float64, of norm one."""
    beside = _hill_and_hollow(wide, tall)
    above = beside if tall == wide else beside.T if tall == 1 else _hill_and_hollow(tall, wide)
    return torch.stack((above, above if wide == 1 else beside.T))


def _hill_and_hollow(tall: int, wide: int) -> Tensor:
    half = tall // 2
    both = torch.cat((_hill(half, wide), -_hill(tall - half, wide)))
    length: Tensor = torch.linalg.vector_norm(both)
    return both / length


def _hill(tall: int, wide: int) -> Tensor:
    """Concentric rectangles, the k-th of weight 1 / k^2 from the middle outwards; norm one."""
    middle = tall // 2, wide // 2
    weights = [1 / (k + 1) ** 2 for k in range(max(middle) + 1)]
    # By the number of the innermost rectangle that holds it.
    tails = torch.tensor(weights, dtype=torch.float64).expand(len(weights), -1).triu().cumsum(1)[:, -1]
    away = [(torch.arange(n) - m).abs() for n, m in zip((tall, wide), middle, strict=True)]
    hill = tails[torch.maximum(away[0].unsqueeze(1), away[1])]
    length: Tensor = torch.linalg.vector_norm(hill)
    return hill / length if tall else hill
