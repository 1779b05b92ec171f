"""What an attack may do to an image, and what counts as a success: told once, read everywhere."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
import numpy as np
from torch import Tensor

from zoracle.errors import InputError

Norm = Literal["l1", "l2", "linf"]

#: Threat models by the names of the command line, and the norm of each.
NAMES: dict[str, Norm] = {"minimise": "l1", "minimise-l2": "l2", "linf": "linf", "l2": "l2"}


def is_amount(value: Any) -> bool:
    """Whether something is a finite number of at least 0."""
    try:
        return isinstance(value, int | float | np.integer | np.floating) and 0 <= float(value) < math.inf
    except OverflowError:  # an integer of hundreds of digits
        return False


#: A radius above this holds no image back, and is not a float32 number soon after.
_LARGEST = 1e6


class ThreatModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    r"""What an attack may do to an image, and what counts as a success.

    Without a radius the attack makes the perturbation small: its distance is part of the loss, weighed by c. With a
    radius ``eps`` every perturbation of that norm is as good as another.

    Attributes:
        norm: distance, "l1" (sum) or "l2" (Euclidean) over the pixels; of a ball "l2" or "linf" (largest).
        eps: radius of the ball that perturbations stay in; None asks for small ones instead.
        c: weight of the distance, at least 0; None uses what suits the images (0.1 where nothing else is known).
        confidence: gap k by which the wrong class (the target) has to lead, in nats; at least 0.
        bits: every image sent to the model is a picture of so many bits per channel, 1 to 16, rounded
            within the ball; None sends any numbers.

    Raises:
        InputError: a value out of its range, a norm that does not go with the radius, or a ball that holds no other
            picture of so many bits.
    """

    norm: Norm = "l1"
    eps: float | None = None
    c: float | None = None
    confidence: float = 0.0
    bits: int | None = None

    def __post_init__(self) -> None:
        _check_choice("norm", self.norm, ("l1", "l2", "linf") if self.eps is None else ("l2", "linf"))
        if self.eps is None and self.norm == "linf":
            raise InputError("norm is 'linf' without eps; pass the radius of the ball, or norm l1 or l2")
        if self.eps is not None and (not is_amount(self.eps) or self.eps == 0):
            raise InputError(f"eps is {self.eps!r}; expected a positive number")
        if self.eps is not None and self.eps > _LARGEST:
            raise InputError(f"eps is {self.eps:g}; expected a radius that restricts pixels in [0, 1]")
        for name in ("c", "confidence"):
            value = getattr(self, name)
            if not (is_amount(value) or (name == "c" and value is None)):
                raise InputError(f"{name} is {value!r}; expected a number of at least 0")
        for name in ("eps", "c", "confidence"):  # as numbers that JSON knows
            value = getattr(self, name)
            msgspec.structs.force_setattr(self, name, None if value is None else float(value))

        if self.bits is not None:
            self._check_bits(self.bits)

    def _check_bits(self, bits: int) -> None:
        if not 1 <= bits <= 16:
            raise InputError(f"bits is {bits}; expected 1 .. 16 bits per channel")
        if self.eps is not None and self.eps * (2**bits - 1) < 1 - 1e-3:
            raise InputError(
                f"eps is {self.eps:g}, and a picture of {bits} bits changes by 1/{2**bits - 1} = "
                f"{1 / (2**bits - 1):.4g} at least; expected a larger radius, or more bits"
            )

    @classmethod
    def named(cls, name: str, eps: float | None = None, **others: Any) -> ThreatModel:
        """The threat model of a name of :data:`NAMES`; a ball's has a radius.

        Args:
            name: which.
            eps: the radius.
            others: ``c``, ``confidence``, ``bits``.

        Raises:
            InputError: there is none of this name, or something does not go with it.
        """
        _check_choice("threat", name, tuple(NAMES))
        return cls(norm=NAMES[name], eps=eps, **others).within_pixels()

    def within_pixels(self) -> ThreatModel:
        """The same; refused where a ball of linf is larger than the range of pixels, so that its unit must be wrong.

        Raises:
            InputError: it is.
        """
        if self.eps is not None and self.norm == "linf" and self.eps > 1:
            raise InputError(
                f"eps is {self.eps:g}, and pixels lie in [0, 1]; expected at most 1: "
                f"{self.eps:g} of 255 is {self.eps / 255:.4g}"
            )
        return self

    @property
    def ball(self) -> bool:
        """Whether perturbations stay within a ball, where nothing is left to win after a first success."""
        return self.eps is not None

    @property
    def weight(self) -> float:
        """c, with its default."""
        return 0.1 if self.c is None else self.c

    @property
    def start_std(self) -> float:
        """Standard deviation of starting perturbations: 1e-4 as in the paper, off the kink of the distance.

        A ball's attack has no such kink, and starts at the image itself: 0.
        """
        return 0.0 if self.ball else 1e-4

    def weighed(self, c: float) -> ThreatModel:
        """The same with this c, where it has none of its own."""
        return self if self.c is not None else msgspec.structs.replace(self, c=c)

    def success(self, gap: Tensor) -> Tensor:
        """Whether points succeed, by how far they are from another class (N,) in nats; negative where they are there.

        A gap of exactly zero is a tie, and no success even where no confidence is asked for.
        """
        return (gap < 0) & (gap + self.confidence <= 0) if self.confidence else gap < 0

    def sentence(self, targeted: bool) -> str:
        """What perturbations are allowed, and wanted, in words."""
        goal = "a given class for each image" if targeted else "any class other than the label"
        lead = f", by at least {self.confidence:g} nats" if self.confidence else ""
        as_pictures = f"; images are pictures of {self.bits} bits per channel" if self.bits else ""
        if self.eps is None:
            how = f"as small as possible ({self.norm} norm, weight {self.weight:g})"
            return f"{goal}{lead}, by a perturbation {how}{as_pictures}"
        return f"{goal}{lead}, by a perturbation whose {self.norm} norm is at most {self.eps:g}{as_pictures}"


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} is {value!r}; expected one of {', '.join(known)}")
