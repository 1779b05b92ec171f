"""One problem of a search: the choice of the next query, and the update after its answer."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

import numpy as np
import torch

from zoracle.keyed import generator, mix
from zoracle.optimizers.learned.spectral import patterns
from zoracle.optimizers.learned.spectral.arrays import SMALL, clip, either, length, overlap, same, unit
from zoracle.optimizers.learned.spectral.basis import Array, Basis, Shape, basis_of
from zoracle.optimizers.learned.spectral.belief import Belief
from zoracle.optimizers.learned.spectral.nets import Prior
from zoracle.optimizers.learned.spectral.odds import Odds
from zoracle.optimizers.learned.spectral.state import (
    MIDDLE,
    PATTERN,
    PROBE,
    RUN,
    WINDOW,
    Learned,
    SpectralSearchConfig,
)
from zoracle.optimizers.search.square import bump_pair

# Number of times that a probe that moves no pixel is enlarged.
_LARGER = 6
# Number of best patterns whose textures windows use.
_TEXTURES = 4
# Number of parts of the first division of the image into runs; longer runs hardly ever lower the loss after patterns.
_FIRST_RUNS = 8
# Weight of the last move of a kind in the running mean of its gains, and the least share of each kind.
_LAST, _LEAST = 0.2, 0.05
# Windows grow by the factor e^(_PACE (1 - _AIM)) where one lowered the loss, up to a share of the image's sides, and
# shrink by e^(-_PACE _AIM) where one did not, down to two pixels: about one in five then does.
_PACE, _AIM, _LARGEST = 0.2, 0.2, 0.5


class Problem:
    """One problem of a state, in NumPy: chooses queries and processes answers. The given state is not modified."""

    def __init__(
        self,
        config: SpectralSearchConfig,
        shape: Shape,
        prior: Prior,
        odds: Callable[[float], Odds],
        round_: bool,
        x: Array,
        low: Array,
        high: Array,
        middle: Array,
        radius: float,
        best: float,
        words: tuple[int, ...],
        learned: Learned,
    ) -> None:
        self.config, self.shape, self.prior, self.odds, self.round = config, shape, prior, odds, round_
        self.basis: Basis = basis_of(shape)
        self.x, self.low, self.high, self.middle = x, low, high, middle
        self.radius, self.best, self.words, self.learned = radius, best, words, learned
        self.known = math.isfinite(best)
        self.asked = [i for i in learned.asked if i]

    # Choice of the next query.

    def candidate(self) -> tuple[int, int, Array]:
        """The kind of the query, its pattern if it is one, and a point (d,)."""
        if math.isnan(self.learned.level):
            pattern = self._next_pattern()
            if pattern:
                return PATTERN, pattern, self._laid(pattern)
            return MIDDLE, 0, self.middle
        if self.config.start == "stripes" and self.words[2] == 1:
            return PROBE, 0, self._stripes()
        kind = self._kind_of_move()
        window = self._moved_window if self.round else self._window
        return kind, 0, {PROBE: self._probe, WINDOW: window, RUN: self._run}[kind]()

    def _next_pattern(self) -> int:
        """1 + the index of the next pattern, negative for its opposite; 0 if no pattern is worth a query."""
        if len(self.asked) >= self.config.patterns or self.config.start == "stripes":
            return 0
        odds = self.odds(self._reach())
        told = [(i, v) for i, v in zip(self.asked, self.learned.answers, strict=False) if math.isfinite(v)]
        chances = odds.success([i for i, _ in told], [v for _, v in told], self.config.trust)
        for i in self.asked:
            chances[abs(i) - 1, int(i < 0)] = -1
        best, opposite = np.unravel_index(int(chances.argmax()), chances.shape)
        if chances[best, opposite] < self.config.chance and self.asked:
            return 0
        return int(1 + best) * (-1 if opposite else 1)

    def _reach(self) -> float:
        if self.round:
            return self.radius / math.sqrt(self.x.size)
        return round(float(np.maximum(self.high - self.middle, self.middle - self.low).max()), 6)

    def _laid(self, pattern: int) -> Array:
        made = patterns.signs(patterns.bank(self.shape)[abs(pattern) - 1], self.shape)
        if self.round:
            return self._on_sphere((made if pattern > 0 else -made).astype(np.float32))
        return either(made > 0 if pattern > 0 else made < 0, self.high, self.low)

    def _stripes(self) -> Array:
        """Vertical stripes one pixel wide, each channel of each stripe at either bound."""
        channels, _, width = self.shape
        drawn = torch.randint(0, 2, (channels, 1, width), generator=generator(*self.words, 5)).numpy()
        return self._lowest((1 - 2 * np.broadcast_to(drawn, self.shape)).reshape(-1).astype(np.float32))

    def _kind_of_move(self) -> int:
        """A kind drawn in proportion to the squares of the kinds' gains, each with its least share."""
        if not self.config.windows:
            return PROBE
        # A run holds too little of an l2 ball's norm.
        squares = [gain * gain for gain in self.learned.gains[: 3 if self.config.runs and not self.round else 2]]
        whole = list(accumulate(squares))[-1] + SMALL
        shares = list(accumulate(max(square / whole, _LEAST) for square in squares))
        return PROBE + bisect_right(shares, self._draw(1) * shares[-1])

    def _probe(self) -> Array:
        """The point that minimises the model, with the least certain coefficient moved up or down."""
        variance = self._variance()
        index = int(variance.argmax())
        step = self.config.probe * math.sqrt(self._power() * float(variance[index]))
        step *= 1 if self._draw(2) < 0.5 else -1
        known = self.learned.coefficients
        model, point = known.copy(), self.x
        for _ in range(_LARGER):
            model[index] = known[index] + step
            point = self._lowest(self.basis.inverse(model))
            if not same(point, self.x):
                break
            step *= 4
        return point

    def _window(self) -> Array:
        """The best point with one window set to other bounds: of a few, the one with the lowest predicted loss.

        A third each: a good pattern's signs, the opposite of the present values, one sign per channel. Without
        textures, the opposite takes their third too.
        """
        slope = self.basis.inverse(self.learned.coefficients).reshape(self.shape)
        low, high, x = (a.reshape(self.shape) for a in (self.low, self.high, self.x))
        draws, signs = self._drawn(5)
        least, chosen, textures = math.inf, None, self._textures()
        for (size, up, left, kind, which), sign in zip(draws, signs, strict=True):
            place = self._place(size, up, left)
            lower, upper, old = low[place], high[place], x[place]
            if 3 * kind < 1 and textures:
                rises = (textures[int(which * len(textures))][place] > 0) == (sign[0] > 0)
            else:
                rises = (2 * old < lower + upper) if 3 * kind < 2 else sign > 0
            new = either(rises, upper, lower)
            promise = float(np.vdot(slope[place], new - old))
            if promise < least and not np.array_equal(new, old):
                least, chosen = promise, (place, new)
        point = x.copy()
        if chosen is not None:
            point[chosen[0]] = chosen[1]
        return point.reshape(-1)

    def _drawn(self, numbers: int) -> tuple[list[list[float]], Array]:
        """Numbers in [0, 1) for each window, and a bit per channel, (windows, C, 1, 1)."""
        many, channels = self.config.windows, self.shape[0]
        draws = torch.rand((many, numbers), generator=generator(*self.words, 3), dtype=torch.float64)
        bits = torch.randint(0, 2, (many, channels, 1, 1), generator=generator(*self.words, 4))
        return draws.tolist(), bits.numpy()

    def _moved_window(self) -> Array:
        """The best point with the norm of one window, and what the ball leaves over, moved into another window.

        Of a few pairs, the one with the lowest predicted loss. A third each: a good pattern's signs and a hill beside a
        hollow, added with equal norm to the present values as in Square Attack, and the opposite of those.
        """
        slope, x = self.basis.inverse(self.learned.coefficients).reshape(self.shape), self.x.reshape(self.shape)
        draws, bits = self._drawn(7)
        signs = (1 - 2 * bits).astype(x.dtype)
        unused = self.radius**2 - float(np.vdot(x, x))
        least, chosen, textures = math.inf, None, self._textures()
        for (size, up, left, other_up, other_left, kind, which), sign in zip(draws, signs, strict=True):
            place, other = self._place(size, up, left), self._place(size, other_up, other_left)
            old, under, away = (np.ascontiguousarray(part) for part in (x[place], slope[place], x[other]))
            if 3 * kind < 1 and textures:
                content = unit(textures[int(which * len(textures))][place] * sign[0])
                content += unit(old)
            elif 3 * kind < 2:
                content = -old
            else:
                bump = bump_pair(*old.shape[1:])[int(2 * which)].numpy().astype(x.dtype)
                content = unit(bump * sign)
                content += unit(old)
            freed, lost = np.vdot(old, old) + np.vdot(away, away), np.vdot(under, old) + np.vdot(slope[other], away)
            if shared := overlap(place, other):
                freed, lost = (of - np.vdot(part[shared], x[shared]) for of, part in ((freed, x), (lost, slope)))
            new = math.sqrt(max(unused + float(freed), 0.0)) * unit(content)
            promise = float(np.vdot(under, new)) - float(lost)
            if promise < least:
                least, chosen = promise, (place, other, new)
        point = x.copy()
        if chosen is not None:
            place, other, new = chosen
            point[other] = 0
            point[place] = new
        return self._on_sphere(point.reshape(-1))

    def _run(self) -> Array:
        """The best point with the next run of pixels set to other bounds: of three ways, that of the lowest prediction.

        The pixels of all channels, one after the other and row by row, are divided into 8, 16, 32, ... runs, each of
        which is asked once before they are halved, as SignHunter does. A run takes the opposite of its present values,
        or all its upper or all its lower bounds.
        """
        number, d = _FIRST_RUNS + self.learned.runs, self.x.size
        parts = 2 ** min(number.bit_length() - 1, d.bit_length() - 1)
        place = slice(number % parts * d // parts, (number % parts + 1) * d // parts)
        low, high, old = self.low[place], self.high[place], self.x[place]
        ways = [new for new in (either(2 * old < low + high, high, low), high, low) if not np.array_equal(new, old)]
        point = self.x.copy()
        if ways:
            slope = self.basis.inverse(self.learned.coefficients)[place]
            point[place] = min(ways, key=lambda new: float(np.vdot(slope, new - old)))
        return point

    def _textures(self) -> list[Array]:
        """The patterns (C, h, w) with the lowest losses; none without ``textures``."""
        if not self.config.textures:
            return []
        answers = zip(self.learned.answers, self.asked, strict=False)
        known = sorted((value, i) for value, i in answers if math.isfinite(value))
        bank = patterns.bank(self.shape)
        return [patterns.signs(bank[abs(i) - 1], self.shape).reshape(self.shape) for _, i in known[:_TEXTURES]]

    def _place(self, size: float, up: float, left: float) -> tuple[slice, slice, slice]:
        """A window whose sides are the run's present share of the image's, times 1/2 to 2."""
        _, height, width = self.shape
        side = self.learned.side * 2.0 ** (2 * size - 1)
        sides = [min(max(1, round(side * n)), max(1, n - 1)) for n in (height, width)]
        down, across = (int(u * (n - s + 1)) for u, n, s in zip((up, left), (height, width), sides, strict=True))
        return slice(None), slice(down, down + sides[0]), slice(across, across + sides[1])

    def _lowest(self, slope: Array) -> Array:
        """The feasible point (d,) farthest against a slope: a corner of a box, or on the surface of an l2 ball.

        It may overwrite the slope.
        """
        if not self.round:
            return either(slope < 0, self.high, self.low)
        return self._on_sphere(np.negative(slope, out=slope))

    def _on_sphere(self, direction: Array) -> Array:
        """The point (d,) of an l2 ball in a direction, with pixels in their range."""
        point = (self.radius / max(length(direction), SMALL) * direction).astype(self.low.dtype, copy=False)
        clip(point, self.low, self.high)
        # Where pixels reach their bounds, others move further instead.
        point *= self.radius / max(length(point), SMALL)
        clip(point, self.low, self.high)
        share = min(1.0, self.radius / max(length(point), SMALL))
        if share < 1:
            point *= share
        return point.astype(self.x.dtype, copy=False)

    def _draw(self, stream: int) -> float:
        return mix(*self.words, stream) / 2**32

    # Update after an answer.

    def learn(self, kind: int, pattern: int, point: Array, value: float) -> Learned:
        """The problem's part of the state after an answer."""
        known = self.learned
        if kind == RUN:
            known = known._replace(runs=known.runs + 1)
        if kind == PATTERN:
            place = len(self.asked)
            asked, answers = known.asked.copy(), known.answers.copy()
            asked[place], answers[place] = pattern, value
            return known._replace(asked=asked, answers=answers)
        if not math.isfinite(value):
            return known
        belief = Belief(self.config, self.basis, self.prior, known)
        if kind == MIDDLE:
            far = self.radius if self.round else length(np.maximum(self.high - self.middle, self.middle - self.low))
            belief.begin(value, far)
            for index, answer in zip(self.asked, known.answers, strict=False):
                if math.isfinite(answer):
                    belief.correct(self._laid(index) - self.middle, answer - value)
            return belief.told(level=value)
        won = max(self.best - value, 0.0) / (abs(self.best) + SMALL) if self.known else 0.0
        gains = known.gains.copy()
        gains[kind - PROBE] += _LAST * (min(won, 1.0) - gains[kind - PROBE])
        side = known.side * math.exp(_PACE * ((value < self.best) - _AIM)) if kind == WINDOW else known.side
        side = min(max(side, min(2 / max(self.shape[1:]), _LARGEST)), _LARGEST)
        if self.config.rejected or value < self.best:
            belief.correct(point - self.x, value - self.best, window=kind in (WINDOW, RUN))
        return belief.told(gains=gains, side=side)

    def _power(self) -> float:
        total, weight = self.learned.power
        return total / weight

    def _variance(self) -> Array:
        left: Array = self.prior.spectrum(self.learned.traits) * self.learned.open
        return left
