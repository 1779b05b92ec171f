"""The learned controller: maps statistics of a run to the probe and the step of each tensor.

Its weights are shared by all tensors, as those of ZO-LSTM are by coordinates: a QueryRNN and UpdateRNN per block. P
runs are controlled at once, so that training and use share the same code; use has P = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FEATURES = 14
HIDDEN = 16
#: Number of weights of the controller's last layer.
HEAD = 2 * HIDDEN + 2
#: Number of all its weights; those of the last layer come last.
SIZE = FEATURES * HIDDEN + HIDDEN + HEAD

_FAST = 0.1  # rate of running means
_PROBE = 2.0**-4  # default probe, relative to a tensor's size
_LARGEST = 1e5  # larger tensors are described as this large: the controller has seen none
_LONGEST = 4.0  # longest step, in probes
_KERNELS = 0.25  # least share of kernels among the maps of a network of convolutions


class Signals(NamedTuple):
    """Statistics of P runs, (P,) float64 each."""

    seen: Tensor
    """Steps."""
    spread: Tensor
    """Running mean square of the differences around their mean: the slope."""
    bend: Tensor
    """Running mean of the differences: the curvature."""
    level: Tensor
    """Running mean of the loss."""
    noise: Tensor
    """Running mean square of the loss around it: batches differ."""
    lowest: Tensor
    """Lowest running mean so far."""
    fall: Tensor
    """Running mean of how much the loss fell in a step."""
    hoped: Tensor
    """Running mean of how much it would have by slope and curvature."""
    damping: Tensor
    """Factor of the steps, below 1 after the loss has risen."""


def begin(runs: int) -> Signals:
    """Statistics before the first step."""
    zero = torch.zeros(runs, dtype=torch.float64)
    return Signals(zero, zero, zero, zero, zero, torch.full_like(zero, math.inf), zero, zero, torch.ones_like(zero))


def observe(signals: Signals, here: Tensor, differences: Tensor) -> Signals:
    """Update the statistics after a step.

    Args:
        signals: statistics before the step.
        here: losses (P,) at the iterate.
        differences: (P, q), f(w + p_j) - f(w); finite.
    """
    q = differences.shape[1]
    seen = signals.seen + 1
    weight = torch.clamp(1 / seen, min=_FAST)

    def mean(old: Tensor, new: Tensor) -> Tensor:
        return old + weight * (new - old)

    centre = differences.mean(1)
    around = (differences - centre.unsqueeze(1)).square().sum(1) / max(q - 1, 1)
    off = here - signals.level
    level = mean(signals.level, here)
    noise = torch.where(seen > 1, mean(signals.noise, off.square()), torch.zeros_like(off))
    fall = torch.where(seen > 1, mean(signals.fall, -off), torch.zeros_like(off))
    spread, bend = mean(signals.spread, around), mean(signals.bend, centre)
    known = Signals(seen, spread, bend, level, noise, signals.lowest, fall, signals.hoped, signals.damping)
    ready = seen >= 1 / _FAST
    lowest = torch.where(ready, torch.minimum(signals.lowest, level), signals.lowest)
    # The running mean of ten losses deviates by about a quarter of one loss's standard deviation.
    risen = ready & (level > lowest + 3 * math.sqrt(_FAST / (2 - _FAST)) * noise.sqrt() + 1e-12)
    damping = torch.where(risen, signals.damping * 0.8, torch.clamp(signals.damping * 1.02, max=1.0))
    hoped = mean(signals.hoped, gain(known, q) * q * spread.sqrt() / 2)
    return known._replace(lowest=lowest, damping=damping.clamp(min=1e-3), hoped=hoped)


def gain(signals: Signals, q: int) -> Tensor:
    r"""The step along \sum_j c_j z_j, where c_j are the differences over their spread S, in units of the probe, (P,).

    With p = s z the probe and B = s^2 tr(H) / 2 the bend, the loss along it falls by a q S - a^2 q B, which is largest
    at a = S / (2 B). B is bounded below by half of its own standard error, and the step is limited to four
    probes.
    """
    spread = signals.spread.sqrt()
    error = spread * torch.sqrt(_FAST / ((2 - _FAST) * q) + 1 / (q * (signals.seen + 1).square()))
    bend = signals.bend.clamp(min=0) + 0.5 * error
    return torch.where(bend > 0, (spread / (2 * bend)), torch.zeros_like(bend)).clamp(max=_LONGEST * q**-0.5)


def described(shapes: Sequence[Sequence[int]]) -> Tensor:
    """Features of L tensors before the run, (L, 5) float64: size, kind, place."""
    rows = []
    for place, shape in enumerate(shapes):
        n = math.prod(shape)
        kind = [float(len(shape) < 2), float(len(shape) == 2), float(len(shape) > 2)]
        rows.append([math.log10(min(n, _LARGEST)) / 3 - 1, *kind, place / len(shapes)])
    return torch.tensor(rows, dtype=torch.float64)


def convolutional(shapes: Sequence[Sequence[int]]) -> bool:
    """Whether tensors are those of a network of convolutions: a quarter of its matrices and kernels are kernels.

    A transformer on images has one kernel, before all its matrices, so it is none.
    """
    maps = [len(shape) > 2 for shape in shapes if len(shape) > 1]
    return sum(maps) >= max(_KERNELS * len(maps), 1)


def decide(
    weights: Tensor, signals: Signals, tensors: Tensor, sizes: Tensor, numbers: Tensor, fans: Tensor, share: float
) -> tuple[Tensor, Tensor]:
    """The probe and the step of each tensor.

    Args:
        weights: weights of the controller, (P, SIZE).
        signals: statistics of the runs.
        tensors: result of :func:`described`, (L, 5).
        sizes: root mean square of each tensor's weights, (P, L).
        numbers: number of weights of each tensor, (L,).
        fans: number of inputs per unit, (L,).
        share: spent share of the budget.

    Returns:
        Radii (P, L), powers of two, and factors of the steps (P, L).
    """
    runs, count = sizes.shape
    whole = ((sizes.square() * numbers).sum(1, keepdim=True) / numbers.sum()).sqrt().clamp(min=1e-8)
    unit = torch.where(sizes > 1e-3 * whole, sizes, whole)
    spread, error = signals.spread.sqrt(), 1e-30
    noisy = torch.log10((signals.noise.sqrt() + error) / (spread + error)).clamp(-3, 3) / 2
    curved = signals.bend / (signals.bend.abs() + spread + error)
    trust = torch.tanh(signals.fall / (signals.hoped + error))
    common = torch.stack((torch.full_like(spread, share), curved, noisy, trust, signals.damping.log10()), 1)
    own = torch.stack(
        ((unit * fans.sqrt()).log2().clamp(-8, 8) / 4, (unit / whole).log2().clamp(-8, 8) / 4, (sizes > 0).double()), 2
    )
    features = torch.cat((tensors.expand(runs, -1, -1), own, common.unsqueeze(1).expand(-1, count, -1)), 2)
    ones = torch.ones((runs, count, 1), dtype=features.dtype)
    first, bias, second, last = torch.split(weights.double(), [FEATURES * HIDDEN, HIDDEN, 2 * HIDDEN, 2], 1)
    features = torch.cat((features, ones), 2)
    hidden = torch.tanh(features @ first.view(runs, FEATURES, HIDDEN) + bias.unsqueeze(1))
    out = hidden @ second.view(runs, HIDDEN, 2) + last.unsqueeze(1)
    # Rounded, so that the last bits of a norm or a loss do not change the result.
    radius = torch.exp2(((unit * _PROBE).log2() + 2 * out[..., 0]).round().clamp(-20, 4))
    factor = torch.exp2(torch.round(16 * (2 * out[..., 1]).clamp(-6, 4)) / 16)
    return radius, factor * signals.damping.unsqueeze(1)
