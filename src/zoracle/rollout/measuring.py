"""Noise of an objective at the start of a run, from a few counted queries, and the choice at a noisy run's end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.estimators.noise import Verdict, clear_distance, ecnoise
from zoracle.keyed import normal
from zoracle.rollout.oracle import Oracle
from zoracle.types import Key, Purpose

_STREAM = 31  # keys the lines, separate from the draws of optimizers
_LINE = 7  # number of values of a line
_DISTANCES = 8
_CLOSER = 100.0  # factor by which a second line is closer or wider
_WIDEST = 0.3  # largest distance evaluated, as a share of the scale
_CLEAR = 10.0  # minimum size of a difference, as a multiple of the noise
_ROUNDING = 64  # changes of f by this many units of the last place are not noise
_CANCELLED = 2  # error of a difference of two parts of a loss, in units of the last place
_STEEP = 30.0  # change of f over a scale, as a multiple of its value
_MOST = 0.25  # largest share of the budget for the measurement


class Measured(NamedTuple):
    """The measurement at B starts."""

    start: Tensor
    """(B,) f there; under noise that is not rounding the mean of the values nearby."""
    noise: Tensor
    """(B,) standard deviation of f; 0 where there is none but rounding, or the budget was too small to tell."""
    mu: Tensor
    """(B,) the shortest distance, a coordinate, from which on differences are ten times the noise; 0 without noise."""
    signal: Tensor
    """(B,) differences at that distance over the noise; infinite without noise."""


def answered(oracle: Oracle, points: Tensor, values: Tensor, problem: Tensor) -> Tensor:
    """Values (K, m) less what follows from points (K, m, d) alone; what then is the first but for rounding is it."""
    own = oracle.objective.own_part(points.flatten(0, 1), problem.repeat_interleave(points.shape[1]))
    if own is None:
        return values
    rest = values - own.to(values).view_as(values)
    same = (rest - rest[:, :1]).abs() <= _CANCELLED * torch.finfo(values.dtype).eps * values.abs()
    return torch.where(same, rest[:, :1], rest)


def is_flat(oracle: Oracle, points: Tensor, values: Tensor, problem: Tensor) -> Tensor:
    """Whether the black box answers half of the points (K, m, d) of a step as it answers the first, (K,).

    Answers of zero, the minimum of many losses, do not count.
    """
    rest = answered(oracle, points, values, problem)
    least = _CANCELLED * torch.finfo(values.dtype).eps * values[:, 0].abs()
    return ((rest[:, 1:] == rest[:, :1]).float().mean(1) >= 0.5) & (rest[:, 0].abs() > least)


def is_steep(points: Tensor, values: Tensor, scale: float) -> Tensor:
    """Whether differences of a step's points (K, m, d) are too large for a function of this size, (K,).

    Over a whole scale such slopes would change f by many times its value, as noise does and few functions do.
    """
    away = (points[:, 1:] - points[:, :1]).square().mean(2).sqrt()
    slopes = (values[:, 1:] - values[:, :1]).abs() / away.clamp(min=torch.finfo(points.dtype).tiny)
    return scale * slopes.nanmedian(1).values > _STEEP * values.abs().nanmedian(1).values


#: Called with each evaluated part: the rows (K,) of the B starts, values (K, m), points (K, m, d).
Pay = Callable[[Tensor, Tensor, Tensor], None]


class _Start:
    """The starts of B problems, and the queries around them. Each spends what it needs, independently of the others."""

    def __init__(self, oracle: Oracle, x: Tensor, key: Key, problem: Tensor, scale: float, pay: Pay) -> None:
        self.oracle, self.x, self.key, self.problem, self.pay = oracle, x, key, problem, pay
        self.eps = torch.finfo(x.dtype).eps
        self.spent = torch.zeros(x.shape[0], dtype=torch.int64)
        #: Spacing of the closest line, still resolved by the floating-point numbers of x.
        self.closest = torch.maximum(
            x.new_full((x.shape[0],), 10 * math.sqrt(self.eps) * scale), 64 * self.eps * x.abs().amax(1)
        )
        self.widest = _WIDEST * scale

    def affords(self, rows: Tensor, points: int) -> Tensor:
        """The rows whose budget suffices."""
        able = self.oracle.affords(self.problem[rows], points)
        if self.oracle.budget is not None:
            able &= self.spent[rows] + points <= _MOST * self.oracle.budget
        return rows[able]

    def query(self, rows: Tensor, away: Tensor) -> Tensor:
        """Values (K, m) at displacements (K, m, d) from some rows."""
        points = self.x[rows].unsqueeze(1) + away
        if self.oracle.objective.constrained:
            whose = self.problem[rows].repeat_interleave(points.shape[1])
            points = self.oracle.objective.project(points.flatten(0, 1), whose).view_as(points)
        values = self.oracle.evaluate(points, self.problem[rows]).loss
        self.spent[rows] += points.shape[1]
        self.pay(rows, values, points)
        return answered(self.oracle, points, values, self.problem[rows])

    def directions(self, rows: Tensor, n: int, stream: int) -> Tensor:
        """Random directions (K, n, d) in which coordinates move by 1 on average."""
        d = self.x.shape[1]
        z = normal(Key(*(part[rows] for part in self.key)), (n, d), stream, self.x.dtype).to(self.x.device)
        unit: Tensor = z / (torch.linalg.vector_norm(z, dim=2, keepdim=True) / math.sqrt(d))
        return unit

    def line(self, rows: Tensor, spacing: Tensor) -> Tensor:
        """Values (K, 7) at equal distances (K,)."""
        steps = spacing.unsqueeze(1) * torch.arange(_LINE, device=self.x.device, dtype=self.x.dtype)
        return self.query(rows, steps.unsqueeze(2) * self.directions(rows, 1, _STREAM))


def measure(oracle: Oracle, x: Tensor, key: Key, problem: Tensor, scale: float, pay: Pay) -> Measured:
    """Evaluate lines of points near x, and, if f is noisy, points at growing distances.

    The noise follows from a line's seven values by :func:`zoracle.estimators.noise.ecnoise`. If most are equal,
    f is rounded, and the line is widened a hundredfold, up to the scale. Noise that shrinks with the line is ignored.

    Args:
        oracle: the oracle; the points are counted for optimisation, and take at most a quarter of the budget.
        x: (B, d).
        key: of B problems.
        problem: (B,) the objective's rows.
        scale: typical size of a coordinate.
        pay: called with each evaluated part.
    """
    at = _Start(oracle, x, key, problem, scale, pay)
    b = x.shape[0]
    zero = x.new_zeros(b)
    found = Measured(zero + torch.nan, zero.clone(), zero.clone(), zero + torch.inf)
    lined = at.affords(torch.arange(b), _LINE)
    few = torch.arange(b)[~torch.isin(torch.arange(b), lined)]
    few = few[at.oracle.affords(problem[few], 2 + 4)]
    if few.numel():
        pair = at.query(few, x.new_zeros((few.numel(), 2, x.shape[1])))
        noise = (pair[:, 0] - pair[:, 1]).abs().nan_to_num(nan=0.0)
        found.start[few], found.noise[few] = pair.nanmean(1), noise
    if lined.numel():
        found.start[lined], found.noise[lined] = _noise(at, lined)
    noisy = (found.noise > 0).nonzero().squeeze(1).cpu()
    found.mu[noisy], found.signal[noisy] = at.widest / 3, torch.nan
    noisy = at.affords(noisy, _DISTANCES)
    if noisy.numel():
        growth = torch.arange(1, _DISTANCES + 1, dtype=x.dtype, device=x.device) / _DISTANCES
        near = at.closest[noisy].unsqueeze(1)
        distances = near * (at.widest / near).clamp(min=1) ** growth
        around = at.query(noisy, distances.unsqueeze(2) * at.directions(noisy, _DISTANCES, _STREAM + 1))
        differences = around - found.start[noisy].unsqueeze(1)
        found.mu[noisy], found.signal[noisy] = clear_distance(distances, differences, found.noise[noisy], _CLEAR)
    return found


def _noise(at: _Start, rows: Tensor) -> tuple[Tensor, Tensor]:
    """F at the starts (K,), and its noise (K,)."""
    spacing = at.closest[rows]
    values = at.line(rows, spacing)
    level, verdict = ecnoise(values)
    level = level.to(values.dtype)
    # A difference of this size is rounding, for which differences already allow.
    least = _ROUNDING * at.eps * values.abs().nan_to_num(nan=0.0).amax(1)
    rounded = verdict == Verdict.TOO_CLOSE
    coarse = rounded.nonzero().squeeze(1).cpu()
    while coarse.numel():
        spacing[coarse] *= _CLOSER
        coarse = coarse[(spacing[coarse] <= at.widest).cpu()]
        coarse = coarse[torch.isin(rows[coarse], at.affords(rows[coarse], _LINE))]
        if coarse.numel():
            wider = ecnoise(at.line(rows[coarse], spacing[coarse]))
            level[coarse] = wider.level.to(level)
            coarse = coarse[(wider.verdict == Verdict.TOO_CLOSE).cpu()]
    noise = torch.where(level > least, level, 0.0).nan_to_num(nan=0.0)
    random = ((noise > 0) & ~rounded).nonzero().squeeze(1).cpu()
    random = random[torch.isin(rows[random], at.affords(rows[random], _LINE))]
    if random.numel():
        # A kink looks like noise, but shrinks as one comes closer.
        closer = ecnoise(at.line(rows[random], spacing[random] / _CLOSER))
        now, before = closer.level.to(noise).nan_to_num(nan=0.0), noise[random]
        told = closer.verdict != Verdict.TOO_CLOSE
        kink = told & (now < before / 10)
        # So does f's own curvature, which a level may still contain; the noise does not.
        bent = (closer.verdict == Verdict.FOUND) & (now < before / 2)
        noise[random] = torch.where(kink | bent, torch.where(now > least[random], now, 0.0), before)
    return torch.where((noise > 0) & ~rounded, values.nanmean(1), values[:, 0]), noise


def repeats(budget: int) -> int:
    """The number of evaluations of each of three candidates at the end of a noisy run."""
    return max(1, min(20, budget // 150))


def compared(oracle: Oracle, candidates: Tensor, problem: Tensor, times: int) -> Tensor:
    """Means (B, C) of f at candidates (B, C, d), each evaluated this many times."""
    b, c, _ = candidates.shape
    points = candidates.repeat_interleave(times, 1)
    values = oracle.evaluate(points, problem, purpose=Purpose.OPTIMISE).loss
    return values.view(b, c, times).nanmean(2).nan_to_num(nan=torch.inf)
