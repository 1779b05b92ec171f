"""Directions under several covariances at the same points of one run, against the true gradient and its frequencies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoracle.optimizers import GuidedLSTM, spectrum, with_settings
from zoracle.rollout import Oracle, Step, rollout
from zoracle.tasks import Task
from zoracle.types import Purpose

#: Bands of frequencies by their radius in cycles per pixel: the low quarter, the next, and the half above (a diagonal
#: reaches 0.71).
BANDS = (0.125, 0.25)
BAND_NAMES = ("low", "middle", "high")
#: Parts of a run, as shares of its steps.
PHASES = (0.1, 0.5)
PHASE_NAMES = ("early", "middle", "late")


class Alignment(NamedTuple):
    """Covariances at the iterates of one run each of P problems."""

    cosine: dict[str, Tensor]
    """By covariance, (4, P, T) cosine of the gradient to its estimate: of all frequencies, and of each band."""
    energy: Tensor
    """(3, P, T) share of the gradient's energy in each band."""
    spectra: dict[str, Tensor]
    """By covariance that has a spectrum, and "gradient": (phases, C, H, W), the root mean square of each frequency,
    with a mean square of one."""
    points: int
    """Points and true gradients evaluated, of all problems."""


def measured(optimizer: GuidedLSTM) -> tuple[spectrum.Covariance, ...]:
    """The covariances that an optimizer's weights allow, and that differ from each other."""
    if optimizer.architecture.spectral:
        return spectrum.COVARIANCES
    return tuple(one for one in spectrum.COVARIANCES if one not in spectrum.LEARNED and one != "pixel")


def alignment(
    optimizer: GuidedLSTM,
    made: Task,
    ids: Sequence[int],
    *,
    seed: int,
    steps: int,
    on_step: Callable[[int, int], None] | None = None,
) -> Alignment:
    r"""Run an optimizer, and draw directions under each covariance at every iterate, beside the same guesses.

    With orthonormal directions u_i and the true gradient g, the estimate is \sum_i <g, u_i> u_i: slopes are exact, so
    that only the directions differ. Directions that are not orthogonal are made so first. In a band of frequencies the
    cosine is that of the two vectors' parts in the band.

    Args:
        optimizer: it runs as it is; its other covariances are only drawn from.
        made: a task of images whose objective is differentiable.
        ids: P problems.
        seed: keys starts and directions.
        steps: T.
        on_step: called with the number of steps done and the total.
    """
    objective = made.objective(tuple(ids))
    oracle = Oracle(objective)
    x0 = made.start(tuple(ids), seed=seed)
    rows = torch.arange(len(ids))
    space = objective.space(rows, x0)
    shape = tuple(space.shape[0].tolist()) if space is not None else (1, 1, x0.shape[1])
    looking = _Looking(oracle, optimizer, shape, len(ids), steps)

    def look(step: Step) -> None:
        done = looking.look(step)
        if on_step is not None:
            on_step(done, steps)

    # A state that keeps the shape of the image, which weights without a spectrum have no use for themselves.
    looking.before = with_settings(optimizer, covariance="fixed").init(
        x0, seed=seed, problem=torch.tensor(tuple(ids)), horizon=steps, scale=objective.scale, space=space
    )
    rollout(optimizer, oracle, looking.before, steps, final=None, on_step=look)
    return looking.result()


def bands(shape: tuple[int, int, int]) -> Tensor:
    """The band of each frequency, (d,) int64."""
    _, h, w = shape
    rows, columns = torch.arange(h) / (2 * h), torch.arange(w) / (2 * w)
    radius = (rows.square().unsqueeze(1) + columns.square()).sqrt()
    return torch.bucketize(radius, torch.tensor(BANDS), right=True).expand(shape).flatten()


def phases(steps: int) -> Tensor:
    """The part of the run that each step belongs to, (T,) int64."""
    return torch.bucketize((torch.arange(steps) + 0.5) / steps, torch.tensor(PHASES), right=True)


class _Looking:
    """Measurements along a run, step by step."""

    def __init__(
        self, oracle: Oracle, optimizer: GuidedLSTM, shape: tuple[int, ...], problems: int, steps: int
    ) -> None:
        self.oracle = oracle
        self.shape = (shape[0], shape[1], shape[2])
        assert spectrum.is_image(self.shape), "the experiments measure images"
        self.variants = {name: with_settings(optimizer, covariance=name) for name in measured(optimizer)}
        self.before: Any = None
        band = bands(self.shape)
        every = torch.ones_like(band, dtype=torch.bool)
        self.masks = torch.stack([every, *(band == i for i in range(len(BAND_NAMES)))])
        self.phase = phases(steps)
        self.cosine: dict[str, Tensor] = {
            name: torch.full((len(self.masks), problems, steps), torch.nan) for name in self.variants
        }
        self.energy = torch.full((len(BAND_NAMES), problems, steps), torch.nan)
        spectral = [name for name in self.variants if name in spectrum.SPECTRAL]
        parts = (len(PHASE_NAMES), math.prod(self.shape))
        self.power = {name: torch.zeros(parts, dtype=torch.float64) for name in (*spectral, "gradient")}

    def look(self, step: Step) -> int:
        """Measure one step, and return the number of steps done."""
        before, live = self.before, step.live
        if live.numel() < self.energy.shape[1]:
            raise AssertionError("a problem of the experiment has values that are not finite")
        t = int(before.key.step[0])
        _, gradient = self.oracle.gradient(before.x, live, purpose=Purpose.MONITOR)
        true = spectrum.transform(gradient.unsqueeze(1), self.shape)[:, 0].double()
        share = true.square() / true.square().sum(1, keepdim=True)
        self.energy[:, :, t] = torch.stack([(share * mask).sum(1) for mask in self.masks[1:]]).float()
        self.power["gradient"][self.phase[t]] += share.mean(0)
        for name, variant in self.variants.items():
            rows = torch.linalg.qr(variant.ask(before).directions.transpose(1, 2).double()).Q
            found = torch.bmm(rows, torch.bmm(rows.transpose(1, 2), gradient.double().unsqueeze(2))).transpose(1, 2)
            guess = spectrum.transform(found, self.shape)[:, 0]
            cosines = [_cosine(guess * mask, true * mask) for mask in self.masks]
            self.cosine[name][:, :, t] = torch.stack(cosines).float()
            waves = variant.waves(before)
            if waves is not None and name in self.power:
                power = waves.std.double().square()
                self.power[name][self.phase[t]] += (power / power.sum(1, keepdim=True)).mean(0)
        self.before = step.state
        return t + 1

    def result(self) -> Alignment:
        """What was measured in all."""
        spectra = {
            name: (power / power.mean(1, keepdim=True).clamp(min=1e-30)).sqrt().float().view(-1, *self.shape)
            for name, power in self.power.items()
            if power.sum() > 0
        }
        points = sum(int(counts.sum()) for counts in self.oracle.counts.values())
        return Alignment(self.cosine, self.energy, spectra, points)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    found: Tensor = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-30)
    return found
