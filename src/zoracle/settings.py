"""Settings: their names, types and ranges are checked here before use, wherever they come from."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from zoracle.errors import InputError

T = TypeVar("T")

#: A number that has to be positive, one that is a share, and one that is the decay of a running mean.
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Decay = Annotated[float, msgspec.Meta(ge=0, lt=1)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]
#: How many there are of something that there has to be one of.
Number = Annotated[int, msgspec.Meta(ge=1)]
#: How many at most are kept, asked or tried at once; 0 for none.
Few = Annotated[int, msgspec.Meta(ge=0, le=1024)]
#: Units of a layer, and whatever else the memory of a network grows with the square of.
Size = Annotated[int, msgspec.Meta(ge=1, le=1024)]

#: What numbers lie below in size, whole ones and others: what a tensor keeps, and float32 can square root and scale.
WHOLE, REAL = 2**63, 1e30
#: Directions of a step; there would be no memory for the points of more.
MOST_DIRECTIONS = 2**20
_DEEPEST = 30


def convert(given: Mapping[str, Any], kind: type[T]) -> T:
    """Settings as a struct: no unknown name, each of its type, in its range, and a number that tensors can hold.

    Args:
        given: values by name.
        kind: the struct.

    Raises:
        InputError: one is not; the message says which, and what was expected.
    """
    if wrong := beyond(given):
        raise InputError(wrong)
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise InputError(str(error)) from error


def beyond(given: Any, name: str = "a setting", depth: int = 0) -> str | None:
    """What is wrong with the first number, at whatever depth, that is NaN, infinite or too large for a tensor."""
    if depth > _DEEPEST:
        return f"{name} is nested too deeply; expected at most {_DEEPEST} levels"
    if isinstance(given, msgspec.Struct):
        given = msgspec.structs.asdict(given)
    parts: Iterable[tuple[str, Any]] = ()
    if isinstance(given, Mapping):
        parts = ((str(key), value) for key, value in given.items())
    elif isinstance(given, list | tuple):
        parts = ((name, value) for value in given)
    elif isinstance(given, int) and not -WHOLE <= given < WHOLE:
        return f"{name} takes {given.bit_length() + 1} bits; expected an integer of 64 bits"
    elif isinstance(given, float) and not abs(given) < REAL:
        return f"{name} is {given}; expected a number below {REAL:g} in size"
    return next((wrong for key, value in parts if (wrong := beyond(value, key, depth + 1))), None)


def read_toml(text: str) -> dict[str, Any]:
    """A TOML text as values by name.

    Raises:
        InputError: it is none, or nested more deeply than Python goes.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError(f"nested too deeply; expected at most {_DEEPEST} levels") from None
    except ValueError as error:  # a number of thousands of digits is one, and so is what is not TOML
        raise InputError(str(error)) from error
