"""The trained tensors, each once, as flat blocks, and the grid on which perturbing them is exact."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.finetune.noise import BLOCK, DTYPES


@dataclass
class Slot:
    """A trained tensor."""

    index: int
    """Its place among them; keys its noise."""
    parameter: Tensor
    group: dict[str, Any]
    """Its group of ``torch.optim``, where ``lr`` is."""
    state: dict[str, Tensor]
    """What the method keeps of it, flat tensors."""
    reach: float = 0.0
    """Of the grid that its weights were last put on; 0 for none."""
    quantum: float = 0.0
    """What steps along directions that are not signs are multiples of, at the current iterate."""
    fine: bool = False
    """Whether a probe moves each weight by exactly the reach, see :func:`fine`."""
    version: int = -1
    """Of the parameter when they were: torch counts what is written into a tensor."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.parameter.numel()

    def flat(self) -> Tensor:
        """Its elements (n,) in memory order; writing into them writes into the parameter."""
        p = self.parameter.detach()
        return p.view(-1) if p.is_contiguous() else p.as_strided((p.numel(),), (1,), p.storage_offset())

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Start and length of each block."""
        size = self.size
        for first in range(0, size, BLOCK):
            yield first, min(BLOCK, size - first)


def slots(groups: Iterable[dict[str, Any]], state: Any) -> list[Slot]:
    """The tensors of parameter groups that require gradients, each once, however many names or views it has.

    Args:
        groups: parameter groups as in ``torch.optim``.
        state: state as in ``torch.optim``: a dict for each parameter.

    Raises:
        InputError: a tensor has an unsupported type or does not fill its memory, or there is no tensor.
    """
    found: list[Slot] = []
    seen: set[tuple[int, int]] = set()
    for group in groups:
        for parameter in group["params"]:
            if not parameter.requires_grad or parameter.numel() == 0:
                continue
            place = (parameter.data_ptr(), parameter.numel())
            if place in seen and place[0]:
                continue  # two parameters that share their memory are tied
            seen.add(place)
            shape = tuple(parameter.shape)
            if parameter.dtype not in DTYPES:
                names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
                raise InputError(
                    f"a parameter {shape} is {parameter.dtype}; expected one of {names}, or requires_grad=False"
                )
            if not _dense(parameter):
                raise InputError(
                    f"a parameter {shape} is a view with gaps or repeats; expected one that owns its memory"
                )
            found.append(Slot(len(found), parameter, group, state[parameter]))
    if not found:
        raise InputError("no parameter requires gradients; expected at least one with requires_grad=True")
    return found


def _dense(tensor: Tensor) -> bool:
    """Whether the elements fill a contiguous range of memory, in any order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def snap(weights: Tensor, reach: float | Tensor, room: Tensor | None = None) -> None:
    r"""Round weights, in place, to the grid on which moving them by up to the reach and back is exact.

    A sum is rounded to the spacing of floating-point numbers at its size, and the lost part cannot be recovered.
    With r the reach, w is replaced by

    sign(w) ((|w| + r) - r),

    each operation rounded: a multiple of the spacing at |w| + r. Then w + p is exact for any p that is a multiple of
    this spacing with |p| <= r, and so is (w + p) - p = w. Where r is less than the spacing, w + r is rounded to w, and
    (w + r) - r = w as well. Weights on the grid do not change; others move by at most half a spacing, which is
    2^-24 (r + |w|) in float32.

    Args:
        weights: of one floating-point type.
        reach: a power of two, or several that broadcast with the weights.
        room: scratch memory of the same size and type, overwritten; None allocates it.
    """
    toward = torch.sign(weights, out=room) if room is not None else weights.sign()
    if isinstance(reach, Tensor):
        toward, reach = toward.mul_(reach), 1.0
    weights.add_(toward, alpha=reach).sub_(toward, alpha=reach)


def quantum(weights: Tensor, reach: float) -> float:
    """A power of two whose multiples up to the reach move all weights exactly: the spacing at the largest one."""
    largest = float(weights.abs().max()) + reach
    if not largest < float("inf"):
        raise InputError("a parameter holds NaN or infinite numbers; expected finite ones")
    return power_of_two(torch.finfo(weights.dtype).eps * largest)


def fine(weights: Tensor, reach: float) -> bool:
    """Whether the reach is a multiple of the spacing at each weight moved by it; where it is not, some do not move."""
    low, high = torch.aminmax(weights)
    largest = max(-float(low), float(high)) + reach
    # Weights that are NaN or infinite make this false.
    return torch.finfo(weights.dtype).eps * largest <= reach


def power_of_two(value: float) -> float:
    """The smallest power of two that is not smaller."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent)


@lru_cache(maxsize=64)
def nearest_power_of_two(value: float) -> float:
    """The power of two with the nearest ratio."""
    return math.ldexp(1.0, round(math.log2(value)))


def fingerprint(tensors: Iterable[Slot]) -> str:
    """A hash of all weights, in hexadecimal, which identifies the start of a log."""
    digest = hashlib.blake2b(digest_size=16)
    for slot in tensors:
        flat = slot.flat()
        for first, count in slot.blocks():
            block = flat[first : first + count].cpu()
            digest.update(block.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
