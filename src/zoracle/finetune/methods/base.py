"""The interface of methods for forward-only training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import msgspec
import torch
from torch import Tensor

from zoracle.finetune.noise import Draw
from zoracle.finetune.signs import Layout, Signs
from zoracle.finetune.sums import MOST, Sums
from zoracle.finetune.tensors import Slot, fine, nearest_power_of_two
from zoracle.optimizers.base import Config, Positive

Directions = Annotated[int, msgspec.Meta(ge=1)]

Block = Callable[[int, int], Tensor]
"""From the start and length of a block of a tensor to numbers (length,)."""

_FEW = 3  # directions that are added faster than looked up
#: The smallest smoothing radius of a type: below it, float16 numbers are rounded more coarsely.
_LEAST = {torch.float16: 2.0**-14}


class Move(NamedTuple):
    """A change of the weights: numbers, block by block, times a scale."""

    block: Block
    """What it returns is only to be read."""
    scale: float


class Probe(NamedTuple):
    """Where a step evaluates the loss."""

    direction: int
    """Which of the step's directions; -1 for none."""
    side: int
    """1 or -1; 0 at the iterate."""


ITERATE = Probe(-1, 0)


class ProbeLosses(NamedTuple):
    """The losses of a step's probes, and the key of its directions."""

    seed: int
    step: int
    losses: tuple[float, ...]
    """One per probe, in their order; NaN or infinite where the loss was."""


class MethodConfig(Config, frozen=True, kw_only=True):
    """Settings common to all methods.

    Attributes:
        lr: step size.
        mu: smoothing radius, the distance by which a probe moves each weight; rounded to a power of two.
    """

    lr: Positive = 1e-6
    mu: Positive = 1e-3


class Method(ABC):
    """Determines where the loss is probed, and how the weights are updated from the losses.

    A subclass sets ``Config`` and writes :attr:`probes`, :meth:`usable`, and :meth:`scales` or :meth:`mover`.
    Directions are signs, 1 or -1 with equal chance for each weight (Spall, 1992; their estimate has less variance than
    a Gaussian one), unless it overrides this.

    Args:
        config: settings; None uses the defaults.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    extra_memory: ClassVar[str] = "none"
    """What is held besides the weights, for the table in the docs."""
    summary: ClassVar[str] = ""
    signs: ClassVar[bool] = True
    """Whether directions are signs."""

    def __init__(self, config: Any = None) -> None:
        self.config: Any = config or self.Config()
        self._signs = Signs()
        self._sums = Sums(self._signs)
        self.memory: dict[str, float] = {}
        """Numbers that are kept from step to step, apart from those of each tensor."""

    @property
    @abstractmethod
    def probes(self) -> Sequence[Probe]:
        """Where a step evaluates the loss, in order."""

    def mu(self, slot: Slot) -> float:
        """The smoothing radius of a tensor, a power of two."""
        return max(nearest_power_of_two(self.config.mu), self.least(slot))

    @staticmethod
    def least(slot: Slot) -> float:
        """The smallest smoothing radius of a tensor's type."""
        return _LEAST.get(slot.parameter.dtype, 0.0)

    def reach(self, slot: Slot) -> float:
        """The largest change of an element of a tensor by a probe: a power of two, attained exactly for signs."""
        return self.mu(slot)

    def begin(self, slots: Sequence[Slot]) -> None:  # noqa: B027 - does nothing where a method keeps nothing
        """Prepare from all tensors before the first step."""

    def reserve(self, slots: Sequence[Slot]) -> None:
        """Allocate what directions need before the first forward pass."""
        layouts = [self.layout(slot) for slot in slots]
        self._signs.reserve(layouts)
        if getattr(self.config, "num_directions", 1) > _FEW:
            self._sums.reserve(layouts)

    def before(self, probed: ProbeLosses) -> None:  # noqa: B027 - does nothing where a method keeps nothing
        """Process the losses of a step before the tensors move."""

    def next_reach(self, slot: Slot, probed: ProbeLosses) -> float:
        """The reach of the step after this one."""
        return self.reach(slot)

    def prepare(self, slot: Slot, seed: int, step: int) -> None:
        """Prepare from the weights at the iterate, before the first probe of a step."""
        slot.fine = fine(slot.flat(), slot.reach)

    def perturbation(self, slot: Slot, draw: Draw) -> Move:
        """The change of a tensor by a probe: exact on the grid of :func:`~zoracle.finetune.tensors.snap`."""
        block, scale = self.direction(slot, draw)
        return Move(block, scale * slot.reach)

    def moves(self, slot: Slot, legs: Sequence[tuple[Draw, int]]) -> list[Move]:
        """Changes of a tensor, one after the other and each exact, that go along directions by numbers of probes.

        From one probe to another is one sum where each weight moves by exactly the reach. Where some do not move, as
        their spacing is larger, twice the reach might move them: the way is back to the iterate and on.
        """
        if not slot.fine:
            legs = [(draw, sides // abs(sides)) for draw, sides in legs for _ in range(abs(sides))]
        if not slot.fine or len(legs) != 2:
            return self.apart(slot, legs)
        about, mask = self.layout(slot), self.mask(slot)
        (leave, back), (enter, side) = ((draw.key(slot.index), sides) for draw, sides in legs)

        def block(first: int, count: int) -> Tensor:
            words = mask(first, count) if mask else None
            return self._signs.change((leave, -back), (enter, side), first, count, about, words)

        return [Move(block, slot.reach)]

    def apart(self, slot: Slot, legs: Sequence[tuple[Draw, int]]) -> list[Move]:
        """One change for each direction."""
        perturbations = [(self.perturbation(slot, draw), sides) for draw, sides in legs]
        return [Move(block, sides * scale) for (block, scale), sides in perturbations]

    def row(self, slot: Slot) -> int:
        """Length of the rows of a tensor in which the signs of a direction balance; 0 for independent signs."""
        return 0

    def mask(self, slot: Slot) -> Block | None:
        """Words with a bit for each element that moves, as :meth:`~zoracle.finetune.noise.Signs.twice` orders them."""
        return None

    def layout(self, slot: Slot) -> Layout:
        """The layout of a tensor's signs."""
        return Layout(slot.size, slot.parameter.dtype, slot.parameter.device, self.row(slot))

    def direction(self, slot: Slot, draw: Draw) -> Move:
        """A direction, in the type of the tensor or a wider one."""
        key, about, mask = draw.key(slot.index), self.layout(slot), self.mask(slot)

        def block(first: int, count: int) -> Tensor:
            return self._signs.twice(key, first, count, about, mask(first, count) if mask else None)

        return Move(block, 0.5)

    def along(self, slot: Slot, probed: ProbeLosses, scales: Sequence[float]) -> Move:
        """The sum of the step's directions, each times a scale, in the type given by :func:`working`."""
        # The weights are at the last one: its signs are cached.
        parts = [(Draw(probed.seed, probed.step, j), scale) for j, scale in reversed(list(enumerate(scales))) if scale]
        if len(parts) == 1:
            draw, scale = parts[0]
            block, unit = self.direction(slot, draw)
            return Move(lambda first, count: block(first, count).to(working(slot)), unit * scale)
        begin, rest = self._begun(slot, parts)
        added = [(self.direction(slot, draw), scale) for draw, scale in rest]

        def total(first: int, count: int) -> Tensor:
            made = begin(first, count)
            for (block, unit), scale in added:
                made.add_(block(first, count), alpha=unit * scale)
            return made

        return Move(total, 1.0)

    def _begun(self, slot: Slot, parts: Sequence[tuple[Draw, float]]) -> tuple[Block, Sequence[tuple[Draw, float]]]:
        """A sum of the first parts, and the rest: of signs as many as are looked up together, else nothing."""
        dtype, about = working(slot), self.layout(slot)
        if not self.signs or self.mask(slot) or len(parts) <= _FEW:
            return lambda _, count: torch.zeros(count, dtype=dtype, device=about.device), parts
        keys = tuple(draw.key(slot.index) for draw, _ in parts[:MOST])
        table = self._sums.table([scale for _, scale in parts[:MOST]], dtype, about.device)
        return lambda first, count: self._sums.block(keys, table, first, count, about), parts[MOST:]

    @abstractmethod
    def usable(self, probed: ProbeLosses) -> int:
        """The number of directions with usable losses; with 0, nothing moves."""

    def scales(self, slot: Slot, probed: ProbeLosses) -> Sequence[float] | None:
        """Numbers of the step's directions, whose products are subtracted; None where a step is no such sum."""
        return None

    def mover(self, slot: Slot, probed: ProbeLosses) -> Move:
        """The change subtracted from a tensor at the end of a step, in the type given by :func:`working`."""
        return self.along(slot, probed, self.scales(slot, probed) or ())

    def after(self, probed: ProbeLosses) -> None:  # noqa: B027 - does nothing where a method keeps nothing
        """Update the method's state after all tensors have moved."""

    def loss(self, probed: ProbeLosses) -> float:
        """The loss of the iterate, or its approximation by the mean of the finite losses."""
        finite = [value for value in probed.losses if math.isfinite(value)]
        return sum(finite) / len(finite) if finite else math.nan


class Pairs(Method):
    """A method with central differences along q directions."""

    @property
    def probes(self) -> Sequence[Probe]:
        """Each direction up and down."""
        return [Probe(j, side) for j in range(self.config.num_directions) for side in (1, -1)]

    def slopes(self, probed: ProbeLosses, mu: float) -> list[float]:
        """(f(x + mu z) - f(x - mu z)) / (2 mu) for each direction; 0 where one of the two is not finite."""
        ups, downs = probed.losses[0::2], probed.losses[1::2]
        return [finite((up - down) / (2 * mu)) for up, down in zip(ups, downs, strict=True)]

    def usable(self, probed: ProbeLosses) -> int:
        """The number of pairs with two finite losses."""
        return counted(probed.losses[0::2], probed.losses[1::2])

    def estimate(self, slot: Slot, probed: ProbeLosses, scale: float = 1.0) -> Move:
        """The gradient estimate of a tensor times a scale: the mean of slope times direction over the usable pairs."""
        return self.along(slot, probed, self.shares(slot, probed, scale))

    def shares(self, slot: Slot, probed: ProbeLosses, scale: float = 1.0) -> list[float]:
        """The numbers of the directions in :meth:`estimate`."""
        usable = self.usable(probed)
        return [scale * slope / usable for slope in self.slopes(probed, self.mu(slot))]


def working(slot: Slot) -> torch.dtype:
    """The type in which steps are computed: float32 for half precision, else that of the tensor."""
    return slot.parameter.dtype if slot.parameter.dtype.itemsize >= 4 else torch.float32


def rate(slot: Slot) -> float:
    """The step size of a tensor's group, as a scheduler may have set it."""
    return float(slot.group["lr"])


def finite(value: float) -> float:
    """The value, or 0 where it is NaN or infinite."""
    return value if math.isfinite(value) else 0.0


def counted(*columns: Sequence[float]) -> int:
    """The number of rows that are finite in all columns."""
    return sum(all(map(math.isfinite, row)) for row in zip(*columns, strict=True))
