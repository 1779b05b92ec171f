"""What a server's metadata and the caller's settings say together: names, types, and headers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from zoracle.blackboxes.base import SUPPORTED
from zoracle.blackboxes.secrets import Secrets
from zoracle.blackboxes.v2_protocol import INPUT_TYPES, Tensor, clip
from zoracle.errors import InputError

_SHORTEST_SECRET = 6


class Metadata(NamedTuple):
    """What a server says of itself and of a model."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    binary: bool
    """Whether it has the binary tensor data extension."""


def choose_input(
    told: Sequence[Tensor], name: str | None, datatype: str | None, model: str
) -> tuple[str, str, tuple[int, ...]]:
    """Name, type and shape (empty where unknown) of the input that takes the images.

    Raises:
        InputError: the server and the settings do not tell it, or it takes no images.
    """
    names = ", ".join(clip(one.name) for one in told)
    if len(told) > 1:
        raise InputError(f"{model} has {len(told)} inputs ({names}); expected one, the images")
    if not told and name is None:
        raise InputError(
            f"the server does not describe the input of {model}; pass input=..., and datatype=..., such as FP32"
        )
    if told and name not in (None, told[0].name):
        raise InputError(f"{model} has no input {name!r}; its input is {names}")
    found = told[0] if told else Tensor(str(name), "", ())
    wanted = datatype.upper() if datatype else found.datatype or "FP32"
    if wanted not in INPUT_TYPES:
        raise InputError(
            f"input {clip(found.name)} of {model} is {clip(wanted)}; expected images, one of {', '.join(INPUT_TYPES)}"
        )
    return found.name, wanted, found.shape


def choose_outputs(
    told: Sequence[Tensor], name: str | None, top_k: tuple[str, str] | None, model: str
) -> tuple[str, ...]:
    """Names of the outputs to ask for; none where the server does not tell them, and all are to come.

    Raises:
        InputError: no output, or several, may be the scores, or one that was named is none.
    """
    names = ", ".join(f"{clip(one.name)} {clip(one.datatype)} {list(one.shape)}" for one in told)
    if top_k is not None and (name is not None or not isinstance(top_k, tuple | list) or len(top_k) != 2):
        raise InputError("top_k names two outputs, labels and scores, and stands instead of output")
    asked = tuple(top_k) if top_k is not None else () if name is None else (name,)
    if asked:
        if told and (missing := [one for one in asked if one not in {each.name for each in told}]):
            raise InputError(f"{model} has no output {missing[0]!r}; it has {names}")
        return asked
    if not told:
        return ()
    fitting = [one.name for one in told if one.datatype in ("", "FP16", "FP32", "FP64") and len(one.shape) != 1]
    # A shape of one number is a row of classes where the server leaves the batch out.
    fitting = fitting or [one.name for one in told if one.datatype in ("FP16", "FP32", "FP64")]
    if len(fitting) == 1:
        return (fitting[0],)
    if len(told) == 1 and told[0].datatype not in ("BYTES", "STRING", "BOOL"):
        return (told[0].name,)
    mend = "name one: output=..." if fitting else f"labels only are not enough, it takes {SUPPORTED}"
    raise InputError(f"{model} has {len(fitting)} outputs of scores among {names}; {mend}")


def number_of_classes(told: Sequence[Tensor], wanted: Sequence[str]) -> int | None:
    """How many classes the server's metadata promise for an output (N, classes), where they do."""
    shapes = [one.shape for one in told if list(wanted) == [one.name]]
    return shapes[0][1] if shapes and len(shapes[0]) == 2 and shapes[0][1] > 1 else None


def headers_with_key(
    headers: dict[str, str] | None, key_env: str | None, key_header: str
) -> tuple[dict[str, str], Secrets]:
    """Headers for every request, and what of them nothing that is shown may repeat.

    Raises:
        InputError: the environment variable is not set, or a header cannot be sent.
    """
    if headers is not None and not isinstance(headers, dict):
        raise InputError(f"headers are a {type(headers).__name__}; expected a dict of names and values")
    sent = dict(headers or {})
    # A short one, such as a number, is no secret, and hiding it would spoil every error that holds it.
    secrets = [value for value in sent.values() if isinstance(value, str) and len(value) >= _SHORTEST_SECRET]
    if key_env is not None:
        key = os.environ.get(key_env, "").strip()
        if not key:
            raise InputError(
                f"the environment variable {key_env} is not set; set it to the key, or leave out api_key_env"
            )
        sent[key_header] = f"Bearer {key}" if key_header.lower() == "authorization" else key
        secrets.append(key)
    for name, value in sent.items():
        plain = isinstance(name, str) and isinstance(value, str) and name.isascii() and value.isascii()
        if not (plain and name and value.isprintable() and name.isprintable() and not set(name) & set(" :")):
            raise InputError(f"header {clip(str(name))!r} cannot be sent: names and values are printable ASCII")
    return sent, Secrets(secrets)
