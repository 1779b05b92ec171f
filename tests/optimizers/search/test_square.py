"""Square Attack against the published algorithm, written again in plain Python and fed the same draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from problems import Bowls, Fenced
from zoracle import keyed
from zoracle.blackboxes.base import BlackBox
from zoracle.errors import InputError
from zoracle.objectives import Attack, ThreatModel
from zoracle.optimizers.search import square
from zoracle.optimizers.search.square import SquareAttack
from zoracle.rollout import rollout, take_step
from zoracle.rollout.oracle import Oracle
from zoracle.types import Key

CLASSES = 4


class Wavy(BlackBox):
    """A classifier whose logits are waves of the pixels; it counts the images it sees."""

    def __init__(self, dim: int) -> None:
        g = torch.Generator().manual_seed(8)
        self.weight = torch.randn(dim, CLASSES, generator=g, dtype=torch.float64)
        self.seen = 0

    def _call(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return torch.sin(images.flatten(1).double() @ self.weight)

    def margin(self, image: np.ndarray, label: int) -> float:
        log_p = torch.sin(torch.from_numpy(image).flatten() @ self.weight).log_softmax(0)
        return float(log_p[label] - log_p[[k for k in range(CLASSES) if k != label]].max())


def images(problems: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """Half of the pixels are black, as on a digit, and some are white: there one sign changes nothing."""
    g = torch.Generator().manual_seed(2)
    x = torch.rand((problems, *shape), generator=g, dtype=torch.float64)
    return torch.where(x < 0.5, 0.0, torch.where(x > 0.9, 1.0, x))


def attack(shape: tuple[int, int, int], norm: str, eps: float, problems: int = 3) -> tuple[Attack, Wavy]:
    model = Wavy(math.prod(shape))
    x = images(problems, shape)
    labels = model(x).argmax(1)
    model.seen = 0
    return Attack(model, x, labels, ThreatModel(norm=norm, eps=eps, confidence=1.0)), model


def start(objective: Attack, horizon: int, **settings):
    rows = torch.arange(objective.num_problems)
    x0 = torch.zeros(len(rows), objective.dim, dtype=torch.float64)
    optimizer = SquareAttack(**settings)
    space = objective.space(rows, x0)
    return optimizer, optimizer.init(x0, seed=11, problem=rows + 70, horizon=horizon, space=space)


def key(row: int, step: int) -> Key:
    k = Key.start(11, torch.tensor([row + 70]))
    return k._replace(step=k.step + step)


def draws(row: int, step: int, below: list[int], stream: int) -> list[int]:
    return keyed.integers(key(row, step), torch.tensor([below]), len(below), stream)[0].tolist()


def schedule(p_init: float, iteration: int, queries: int) -> float:
    """The published piecewise schedule, by its limits out of 10,000."""
    reached = iteration * 10_000 // queries
    for limit, divisor in ((8000, 512), (6000, 256), (4000, 128), (2000, 64), (1000, 32), (500, 16), (200, 8)):
        if reached > limit:
            return p_init / divisor
    return p_init / (4 if reached > 50 else 2 if reached > 10 else 1)


def published_linf(x: np.ndarray, eps: float, loss, row: int, p_init: float, queries: int):
    """One image (c, h, w), as in the paper: yields each image that is evaluated and the best one after it."""
    c, h, w = x.shape
    sign = np.array(draws(row, 0, [2] * (c * w), square.SIGNS)).reshape(c, w)
    best = np.empty_like(x)
    for i in range(h):
        best[:, i, :] = np.clip(x[:, i, :] + eps * (1 - 2 * sign), 0, 1)
    lowest = loss(best)
    yield best.copy(), best.copy()
    for t in range(queries - 1):
        side = round(math.sqrt(schedule(p_init, t, queries) * h * w))
        side = min(max(side, 1), h - 1)
        top, left = draws(row, t + 1, [h - side + 1, w - side + 1], square.PLACES)
        new, attempt = best.copy(), 0
        while np.array_equal(new, best):
            sign = draws(row, t + 1, [2] * c, square.SIGNS + attempt)
            for k in range(c):
                for i in range(top, top + side):
                    for j in range(left, left + side):
                        new[k, i, j] = min(max(x[k, i, j] + eps * (1 - 2 * sign[k]), 0), 1)
            attempt += 1
        value = loss(new)
        if value < lowest:
            best, lowest = new, value
        yield new, best.copy()


def hill(rows: int, columns: int) -> np.ndarray:
    """Weight of a cell: the sum of 1 / k^2 over the rectangles around the middle that hold it."""
    out = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            ring = max(abs(i - rows // 2), abs(j - columns // 2))
            out[i, j] = sum(1 / (k + 1) ** 2 for k in range(ring, max(rows // 2, columns // 2) + 1))
    return out / np.linalg.norm(out)


def two_hills(side: int, turned: bool) -> np.ndarray:
    half = side // 2
    parts = [] if half == 0 else [hill(half, side)]
    both = np.concatenate([*parts, -hill(side - half, side)])
    both = both / np.linalg.norm(both)
    return both.T if turned else both


def published_l2(x: np.ndarray, eps: float, loss, row: int, p_init: float, queries: int):
    """One image (c, h, h), as in the public code, windows anywhere in the image."""
    c, h, w = x.shape
    side = h // 5
    first = (h - 5 * side) // 2
    coins = draws(row, 0, [2] * 25, square.COIN)
    sign = 1 - 2 * np.array(draws(row, 0, [2] * (25 * c), square.SIGNS)).reshape(c, 25)
    delta = np.zeros_like(x)
    for number in range(25):
        i, j = first + number // 5 * side, first + number % 5 * side
        bump = two_hills(side, turned=coins[number] == 1)
        for k in range(c):
            delta[k, i : i + side, j : j + side] = bump * sign[k, number]
    best = np.clip(x + delta / np.linalg.norm(delta) * eps, 0, 1)
    lowest = loss(best)
    yield best.copy(), best.copy()
    for t in range(queries - 1):
        side = max(round(math.sqrt(schedule(p_init, t, queries) * h * w)), 3)
        side += side % 2 == 0
        top, left, top2, left2 = draws(row, t + 1, [h - side + 1] * 4, square.PLACES)
        (coin,) = draws(row, t + 1, [2], square.COIN)
        sign = 1 - 2 * np.array(draws(row, t + 1, [2] * c, square.SIGNS))
        one, two = np.zeros((h, w), bool), np.zeros((h, w), bool)
        one[top : top + side, left : left + side] = True
        two[top2 : top2 + side, left2 : left2 + side] = True
        delta = best - x
        left_over = max(eps**2 - (delta**2).sum(), 0)
        new = delta.copy()
        new[:, two] = 0
        for k in range(c):
            inside = delta[k][one].reshape(side, side)
            bump = sign[k] * two_hills(side, turned=coin == 1) + inside / (1e-10 + np.linalg.norm(inside))
            size = math.sqrt(left_over / c + (delta[k][one | two] ** 2).sum())
            new[k, top : top + side, left : left + side] = bump / np.linalg.norm(bump) * size
        candidate = np.clip(x + new / np.linalg.norm(new) * eps, 0, 1)
        value = loss(candidate)
        if value < lowest:
            best, lowest = candidate, value
        yield candidate, best.copy()


@pytest.mark.parametrize(
    ("norm", "eps", "shape", "queries"),
    [
        ("linf", 0.3, (1, 8, 8), 60),
        ("linf", 0.1, (3, 6, 6), 60),
        ("l2", 1.0, (1, 12, 12), 40),
        ("l2", 0.7, (3, 11, 11), 40),
    ],
)
def test_it_is_the_published_algorithm(norm: str, eps: float, shape: tuple[int, int, int], queries: int) -> None:
    objective, model = attack(shape, norm, eps)
    oracle, rows = Oracle(objective), torch.arange(3)
    optimizer, state = start(objective, queries, p_init=0.4)
    x = images(3, shape).numpy()
    published = published_linf if norm == "linf" else published_l2
    runs = []
    for row in range(3):
        label = int(objective.labels[row])

        def loss(image: np.ndarray, label: int = label) -> float:
            return max(model.margin(image, label) + 1.0, 0)

        runs.append(published(x[row], eps, loss, row, 0.4, queries))
    improved = 0
    for _ in range(queries):
        before = state.x
        queried, _, state = take_step(optimizer, oracle, state, rows)
        improved += int((state.x != before).any(1).sum())
        for row, run in enumerate(runs):
            asked, best = next(run)
            np.testing.assert_allclose(x[row] + queried.points[row, 0].view(shape).numpy(), asked, atol=1e-9)
            np.testing.assert_allclose(x[row] + state.x[row].view(shape).numpy(), best, atol=1e-9)
    assert improved > 6  # the first points, and more
    assert model.seen == 3 * queries


def test_every_candidate_of_linf_changes_the_image() -> None:
    # All black: a sign that goes down changes nothing at the start, and is drawn again.
    model = Wavy(36)
    black = torch.zeros(4, 1, 6, 6, dtype=torch.float64)
    objective = Attack(model, black, model(black).argmax(1), ThreatModel(norm="linf", eps=0.2))
    optimizer, state = start(objective, 200)
    oracle, rows = Oracle(objective), torch.arange(4)
    _, _, state = take_step(optimizer, oracle, state, rows)
    for _ in range(100):
        before = state.x
        queried, evaluation, state = take_step(optimizer, oracle, state, rows)
        assert (queried.points[:, 0] != before).any(1).all()
        assert ((queried.points == 0) | (queried.points == 0.2)).all()
        assert evaluation.loss.isfinite().all()


def test_windows_reach_every_pixel_and_have_their_sides() -> None:
    sides = torch.tensor([2, 2]), torch.tensor([3, 3])
    covered = torch.zeros(2, 1, 5, 7, dtype=torch.int64)
    for step in range(300):
        k = Key.start(0, torch.tensor([3, 4]))
        _, masks = square.windows(k._replace(step=k.step + step), (1, 5, 7), sides, 2)
        assert masks.shape == (2, 2, 1, 5, 7)
        assert (masks.flatten(2).sum(2) == 6).all()
        covered += masks.sum(0)
    assert covered.min() > 0


def test_the_schedule_is_stretched_to_the_run() -> None:
    at = torch.tensor([0, 10, 11, 50, 51, 4000, 4001, 9999])
    expected = [1, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 64, 1 / 128, 1 / 512]
    assert square.halvings(at, torch.full_like(at, 10_000)).tolist() == expected
    # 4,200 queries: iteration 4 is 9 of 10,000, iteration 5 is 11.
    assert square.halvings(torch.tensor([4, 5]), torch.tensor([4200, 4200])).tolist() == [1, 0.5]
    objective, _ = attack((1, 6, 6), "linf", 0.1)
    optimizer = SquareAttack()
    open_ended = optimizer.init(
        torch.zeros(3, 36, dtype=torch.float64), space=objective.space(torch.arange(3), torch.zeros(3, 36))
    )
    assert open_ended.horizon.tolist() == [10_000] * 3


def test_sides_of_windows() -> None:
    def sides(share: float, shape: tuple[int, int, int], odd: bool = False) -> tuple[int, int]:
        tall, wide = square.window_sides(torch.tensor([share], dtype=torch.float64), shape, odd=odd)
        return int(tall), int(wide)

    assert sides(0.8, (1, 28, 28)) == (25, 25)
    assert sides(1.0, (1, 28, 28)) == (27, 27)
    assert sides(0.0001, (3, 32, 32)) == (1, 1)
    assert sides(0.1, (1, 28, 28), odd=True) == (9, 9)
    assert sides(0.0001, (1, 28, 28), odd=True) == (3, 3)
    assert sides(1.0, (1, 5, 5), odd=True) == (3, 3)
    assert sides(0.25, (1, 1, 20)) == (1, 5)  # no image: a run of coordinates


def test_bumps_have_norm_one_and_two_sides() -> None:
    for tall, wide in ((5, 5), (6, 6), (1, 8), (8, 1), (1, 1), (3, 7)):
        above, beside = square.bump_pair(tall, wide)
        for bump in (above, beside):
            assert bump.shape == (tall, wide)
            assert math.isclose(float(bump.norm()), 1, abs_tol=1e-12)
            assert (bump > 0).any() or tall * wide == 1
            assert (bump < 0).any()
    above, beside = square.bump_pair(4, 4)
    assert torch.equal(above.T, beside)


def test_l2_points_are_at_the_ball_where_the_box_lets_them() -> None:
    objective = Fenced(2, 50, ball=True, shape=(2, 5, 5))
    free = objective.space(torch.arange(2), torch.zeros(2, 50, dtype=torch.float64))
    space = free._replace(low=free.low * 100, high=free.high * 100)
    optimizer = SquareAttack()
    state = optimizer.init(torch.zeros(2, 50, dtype=torch.float64), space=space)
    for _ in range(20):
        queried, _, state = take_step(optimizer, Oracle(objective), state, torch.arange(2))
        torch.testing.assert_close(queried.points[:, 0].norm(dim=1), space.radius)


def test_what_is_not_a_number_is_never_accepted() -> None:
    for ball in (False, True):
        objective = Fenced(3, 16, ball=ball, shape=(1, 4, 4))
        optimizer = SquareAttack()
        x0 = torch.zeros(3, 16, dtype=torch.float64)
        state = optimizer.init(x0, space=objective.space(torch.arange(3), x0))
        first = optimizer.ask(state)
        # The first of problem 1 could not be had: it begins again, the others continue.
        state = optimizer.tell(state, first, torch.tensor([[1.0], [torch.nan], [1.0]], dtype=torch.float64))
        assert torch.equal(state.x[1], x0[1])
        assert torch.equal(state.x[0], first.points[0, 0])
        again = optimizer.ask(state)
        if not ball:
            assert (again.points[1].abs() == 1).all()
        state = optimizer.tell(state, again, torch.full((3, 1), torch.nan, dtype=torch.float64))
        assert torch.equal(state.x[0], first.points[0, 0])
        assert state.best.tolist() == [1.0, math.inf, 1.0]


def test_a_coordinate_without_room_is_no_endless_loop() -> None:
    x0 = torch.zeros(1, 9, dtype=torch.float64)
    space = Fenced(1, 9).space(torch.tensor([0]), x0)
    pinned = space._replace(low=x0, high=x0)
    optimizer = SquareAttack()
    state = optimizer.init(x0, space=pinned)
    _, trajectory = rollout(optimizer, Oracle(Bowls(1, 9), budget=5), state, 9, final=None)
    assert trajectory.total_queries.tolist() == [5]


def test_what_cannot_be_searched_is_told_in_one_line() -> None:
    x0 = torch.zeros(2, 9)
    with pytest.raises(InputError, match="--threat linf --eps") as error:
        SquareAttack().init(x0)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="points are unbounded"):
        SquareAttack().init(x0, space=Bowls(2, 9).space(torch.arange(2), x0))
    space = Fenced(2, 9).space(torch.arange(2), x0)
    with pytest.raises(InputError, match="several shapes or kinds"):
        SquareAttack().init(x0, space=space._replace(radius=torch.tensor([1.0, torch.inf])))
    with pytest.raises(InputError, match=r"images of \(1, 2, 3\), and points have 9"):
        SquareAttack().init(x0, space=space._replace(shape=torch.tensor([[1, 2, 3]] * 2)))
    for p_init in (0.0, 1.5):
        with pytest.raises(InputError, match="p_init"):
            SquareAttack(p_init=p_init)


def test_iterates_of_a_box_need_no_projection() -> None:
    def begun(norm: str):
        objective, _ = attack((3, 8, 8), norm, 0.1)
        rows = torch.arange(objective.num_problems)
        outside = torch.full((len(rows), objective.dim), 0.4, dtype=torch.float64)
        return objective, rows, optimizer.init(outside, space=objective.space(rows, outside))

    optimizer = SquareAttack()
    assert not optimizer.keeps_inside(begun("l2")[2])
    objective, rows, state = begun("linf")
    assert optimizer.keeps_inside(state)
    for _ in range(5):
        assert torch.equal(state.x, objective.project(state.x, rows))
        _, _, state = take_step(optimizer, Oracle(objective), state, rows)
