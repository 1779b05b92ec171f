"""The learned method: a controller sets the probe and the step of each tensor, so no step size is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from zoracle.finetune.controller import Signals, begin, convolutional, decide, described, gain, observe
from zoracle.finetune.controller_file import WEIGHTS, load
from zoracle.finetune.methods.base import ITERATE, Directions, Method, MethodConfig, Probe, ProbeLosses, rate
from zoracle.finetune.tensors import Slot
from zoracle.optimizers.base import Positive

_KEPT = ("size", "radius", "factor", "next_radius", "next_factor")  # of each tensor
_EVERY = 10  # steps between two measurements of the sizes of the weights


class LearnedConfig(MethodConfig, frozen=True, kw_only=True):
    """Settings of the learned method.

    Attributes:
        lr: factor of the controller's steps, for schedulers; the controller was trained with 1.
        mu: not used: the controller sets the radius of each tensor.
        horizon: planned number of training steps.
        num_directions: one-sided differences per step.
        weights: file of a controller to use instead of the shipped one.
    """

    lr: Positive = 1.0
    horizon: Directions = 1000
    num_directions: Directions = 8
    weights: str | None = None


class Learned(Method):
    r"""w_l \leftarrow w_l - a_l \frac{s_l}{2 B} \sum_j (d_j - \bar d) z_j with d_j = f(w + s z_j) - f(w).

    Each tensor l has its own radius s_l, a power of two, and its own factor a_l. The controller computes them from the
    tensor's size, kind and spread, of the slope, curvature and noise of the losses, and of the share of the horizon
    spent so far; it has one set of weights for networks of convolutions and one for all others. B is the running mean
    of the d_j, s^2 tr(H) / 2, so that with a_l = 1 the step is the one that minimises the quadratic model along it.
    After the loss has risen by more than its noise, steps are shorter for a while.

    The signs z_j balance in each row of a matrix or kernel, the weights of one unit: their sum is nearly 0. The mean of
    a unit's inputs is often larger than their spread, so that the curvature is largest along equal weights; without
    that direction tr(H) is smaller and the steps can be longer.

    Source: this project; the controller shared by blocks follows ZO Fine-tuner (2026), the use of curvature along the
    directions HiZOO (Zhao et al., 2024), and the rows without a mean gradient centralization (Yong et al., 2020).
    """

    Config = LearnedConfig
    summary = "a learned controller sets the probe and the step of each tensor"

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._loaded = load(Path(self.config.weights) if self.config.weights else shipped())
        self._weights = self._loaded.general.unsqueeze(0)
        self._slots: dict[int, Slot] = {}
        self._common: tuple[float, list[float]] = 0.0, []  # of a step: its length, and the differences centred

    @property
    def probes(self) -> Sequence[Probe]:
        """The iterate, then each direction up."""
        return [ITERATE, *(Probe(j, 1) for j in range(self.config.num_directions))]

    def begin(self, slots: Sequence[Slot]) -> None:
        """The radii of the first step."""
        self._slots = {slot.index: slot for slot in slots}
        kernels = convolutional([slot.parameter.shape for slot in slots])
        self._weights = (self._loaded.kernels if kernels else self._loaded.general).unsqueeze(0)
        for slot in slots:  # allocated once and overwritten: short-lived small tensors fragment the heap
            slot.state.update({name: torch.zeros((), dtype=torch.float64) for name in _KEPT})
        for slot in slots:
            self._measure(slot)
        self._decide(begin(1), 0)
        self._in_force()

    def row(self, slot: Slot) -> int:
        """Signs balance in the weights of one unit, all that act on one output; in vectors they are independent."""
        p = slot.parameter
        inputs = p.numel() // len(p) if p.dim() > 1 else 0
        return inputs if p.dim() > 1 and p.stride(0) == inputs else 0

    def mu(self, slot: Slot) -> float:
        """The radius of a tensor."""
        return max(float(slot.state["radius"]), super().least(slot))

    def next_reach(self, slot: Slot, probed: ProbeLosses) -> float:
        """The reach that the controller has set for the next step."""
        return max(float(slot.state["next_radius"]), super().least(slot))

    def prepare(self, slot: Slot, seed: int, step: int) -> None:
        """Measure the sizes of the weights at intervals."""
        super().prepare(slot, seed, step)
        if step % _EVERY == 0:
            self._measure(slot)

    def usable(self, probed: ProbeLosses) -> int:
        """All losses must be finite and at least two must differ."""
        return len(probed.losses) - 1 if all(map(math.isfinite, probed.losses)) and len(set(probed.losses)) > 1 else 0

    def before(self, probed: ProbeLosses) -> None:
        """Process the losses, and set this step and the next step's probes."""
        here, differences = _columns(probed)
        signals = observe(self._signals(), here, differences)
        self.memory.update({name: float(value) for name, value in signals._asdict().items()})
        length = float(gain(signals, differences.shape[1]) / signals.spread.sqrt().clamp(min=1e-30))
        self._common = length, (differences[0] - differences[0].mean()).tolist()
        self._decide(signals, probed.step + 1)

    def scales(self, slot: Slot, probed: ProbeLosses) -> Sequence[float]:
        """The controller's step."""
        length, centred = self._common
        length *= rate(slot) * float(slot.state["factor"]) * self.mu(slot)
        return [length * difference for difference in centred]

    def after(self, probed: ProbeLosses) -> None:
        """Activate the radii and factors set in this step."""
        self._in_force()

    def loss(self, probed: ProbeLosses) -> float:
        """The loss of the iterate."""
        return probed.losses[0]

    def _signals(self) -> Signals:
        if "seen" not in self.memory:
            return begin(1)
        return Signals(*(torch.tensor([self.memory[name]], dtype=torch.float64) for name in Signals._fields))

    def _decide(self, signals: Signals, step: int) -> None:
        """Radius and factor of each tensor for a step."""
        slots = list(self._slots.values())
        numbers = torch.tensor([slot.size for slot in slots], dtype=torch.float64)
        shapes = [slot.parameter.shape for slot in slots]
        fans = torch.tensor([max(1, math.prod(s[1:])) for s in shapes], dtype=torch.float64)
        sizes = torch.stack([slot.state["size"].cpu() for slot in slots]).unsqueeze(0)
        share = min(step / self.config.horizon, 1.0)
        radius, factor = decide(self._weights, signals, described(shapes), sizes, numbers, fans, share)
        for slot, r, f in zip(slots, radius[0], factor[0], strict=True):
            slot.state["next_radius"].copy_(r)
            slot.state["next_factor"].copy_(f)

    def _in_force(self) -> None:
        for slot in self._slots.values():
            slot.state["radius"].copy_(slot.state["next_radius"])
            slot.state["factor"].copy_(slot.state["next_factor"])

    @staticmethod
    def _measure(slot: Slot) -> None:
        """Root mean square of the weights; in float32, which hides the order of additions."""
        flat, total = slot.flat(), 0.0
        for first, count in slot.blocks():
            total += float(torch.linalg.vector_norm(flat[first : first + count], dtype=torch.float64)) ** 2
        slot.state["size"].copy_(torch.tensor(math.sqrt(total / slot.size), dtype=torch.float32))


def _columns(probed: ProbeLosses) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of the iterate (1,) and the differences (1, q)."""
    losses = torch.tensor([probed.losses], dtype=torch.float64)
    return losses[:, 0], losses[:, 1:] - losses[:, :1]


def shipped() -> Path:
    """The shipped controller."""
    with as_file(files("zoracle") / "assets" / "controller") as folder:
        return Path(folder) / WEIGHTS
