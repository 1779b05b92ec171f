"""Requests and answers of the Open Inference Protocol (v2) over HTTP, as bytes; no network here.

Source: Open Inference Protocol, version 2, REST, and its binary tensor data extension (KServe; the same in Triton,
MLServer and OpenVINO Model Server).
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import msgspec
import numpy as np

from zoracle.errors import InputError, printable

Array = np.ndarray[Any, Any]

#: Says where the JSON of a body with binary tensors ends.
HEADER_LENGTH = "Inference-Header-Content-Length"

NUMBERS = {
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
}
#: Values of an answer at most, where nobody said number of classes: 32 images in 8,192 classes.
VALUES = 2**18
#: Objects of an answer or of metadata at most; each is an input, an output, or the parameters of one.
_OBJECTS = 2**12
#: Sizes of a shape are not larger, and no more than so many.
_LARGEST, _DIMENSIONS = 2**31, 32

#: What images can be sent as.
INPUT_TYPES = ("FP32", "FP64", "FP16", "UINT8", "INT32", "INT64")


class MalformedError(Exception):
    """An answer that is not what the protocol says; one line."""


class Address(NamedTuple):
    """Where a model is."""

    server: str
    """What stands before ``/v2``, without a slash at its end."""
    model: str
    version: str | None

    @property
    def path(self) -> str:
        """Address of the model."""
        version = "" if self.version is None else f"/versions/{quote(self.version, safe='')}"
        return f"{self.server}/v2/models/{quote(self.model, safe='')}{version}"


class Tensor(NamedTuple):
    """What a server's metadata says of an input or an output."""

    name: str
    datatype: str
    shape: tuple[int, ...]


_MODEL = re.compile(r"^(?P<server>.*?)/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?(/infer)?$")


def address(url: str, model: str | None = None, version: str | None = None) -> Address:
    """The parts of ``http(s)://host:port/v2/models/NAME[/versions/V]``, or of a server's address and a model's name.

    Raises:
        InputError: the address has another form, or names no model.
    """
    form = "expected http://host:port/v2/models/NAME"
    if not isinstance(url, str):
        raise InputError(f"the address of the server is a {type(url).__name__}; {form}")
    try:
        split = urlsplit(url)
        host, _ = split.hostname, split.port
    except ValueError:
        raise InputError(f"the address of the server cannot be read; {form}") from None
    if split.username or split.password or "@" in split.netloc:
        # Not repeated: it may hold a password.
        raise InputError("the address of the server contains a user or password; pass a key with api_key_env= instead")
    if split.scheme not in ("http", "https") or not host:
        raise InputError(f"{url!r} is not the address of a server; {form}")
    if split.query or split.fragment:
        raise InputError("the address of the server has a query (?) or a fragment (#); pass keys with api_key_env=")
    path = split.path.rstrip("/")
    server = f"{split.scheme}://{split.netloc}"
    if found := _MODEL.match(path):
        named, own = unquote(found["model"]), found["version"] and unquote(found["version"])
        if (model not in (None, named)) or (version is not None and own not in (None, version)):
            raise InputError(f"{url!r} contradicts model= or version=; pass one of them")
        return Address(server + found["server"], named, own or version)
    if model is None:
        raise InputError(f"{url!r} names no model; {form}, or the server's address with model=NAME")
    return Address(server + path.removesuffix("/models").removesuffix("/v2"), model, version)


def read_json(body: bytes, values: int = VALUES) -> dict[str, Any]:
    """A JSON object with so many values at most.

    Memory is bounded by what is counted before anything is made of it: each value takes 64 bytes at most beside its
    own text, an object more.

    Raises:
        MalformedError: it is none, or larger.
    """
    if body.count(b",") + body.count(b"[") > values + _OBJECTS or body.count(b"{") > _OBJECTS:
        raise MalformedError(f"an answer of more values than the {values:,} that its outputs take")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise MalformedError(f"an answer that is not JSON ({clip(body[:80].decode('utf-8', 'replace'))!r})") from None
    if not isinstance(value, dict):
        raise MalformedError(f"an answer that is a JSON {type(value).__name__}; expected an object")
    return value


def tensors(metadata: dict[str, Any], which: str) -> tuple[Tensor, ...]:
    """Inputs or outputs of a model's metadata; those that are not told whole are left out.

    Raises:
        MalformedError: they are not a list of objects.
    """
    listed = metadata.get(which) or []
    if not isinstance(listed, list):
        raise MalformedError(f"metadata whose {which} are not a list")
    found = []
    for one in listed:
        if not isinstance(one, dict) or not _is_name(one.get("name")):
            raise MalformedError(f"metadata whose {which} have no names")
        shape, datatype = one.get("shape") or [], one.get("datatype")
        if not _is_shape(shape, least=-_LARGEST):
            raise MalformedError(f"metadata with the shape {_told(shape)} of {clip(one['name'])!r}")
        kind = datatype if isinstance(datatype, str) else ""
        # What is not a name of a type stays as it came, or its letters could not be told from a key's any more.
        known = kind.upper().removeprefix("TYPE_")
        found.append(Tensor(one["name"], known if len(known) <= len("STRING") else kind, tuple(shape)))
    return tuple(found)


def encode(
    batch: Array, name: str, datatype: str, outputs: tuple[str, ...], *, binary: bool
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an inference request.

    Args:
        batch: (n, ...), finite.
        name: name of the input.
        datatype: one of :data:`INPUT_TYPES`.
        outputs: names of the outputs wanted; none asks for all.
        binary: whether tensors are sent and asked for as bytes.
    """
    array = np.ascontiguousarray(batch, dtype=NUMBERS[datatype])
    tensor: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype}
    request: dict[str, Any] = {"inputs": [tensor]}
    if outputs:
        request["outputs"] = [{"name": one} for one in outputs]
    if not binary:
        tensor["data"] = array.ravel().tolist()
        return msgspec.json.encode(request), {"Content-Type": "application/json"}
    data = array.tobytes()
    tensor["parameters"] = {"binary_data_size": len(data)}
    if outputs:
        for one in request["outputs"]:
            one["parameters"] = {"binary_data": True}
    else:
        request["parameters"] = {"binary_data_output": True}
    header = msgspec.json.encode(request)
    return header + data, {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}


def decode(body: bytes, header_length: str | None, values: int = VALUES) -> dict[str, Array]:
    """The outputs of an inference answer by name: numbers in their type, NaN for null; names as objects.

    Args:
        body: JSON, and the bytes of binary tensors behind it.
        header_length: what the server says of where the JSON ends; None where all of it is.
        values: of all outputs together at most.

    Raises:
        MalformedError: the body is not what the protocol says, or holds more values.
    """
    length = len(body)
    if header_length is not None:
        digits = header_length.isascii() and header_length.isdigit() and len(header_length) <= 12
        if not (digits and int(header_length) <= len(body)):
            raise MalformedError(f"an answer whose {HEADER_LENGTH} is {clip(header_length)!r} of {len(body)} bytes")
        length = int(header_length)
    answer = read_json(body[:length], values)
    if "error" in answer:
        raise MalformedError(f"an answer that is an error: {_told(answer['error'])}")
    listed = answer.get("outputs")
    if not isinstance(listed, list):
        raise MalformedError("an answer without a list of outputs")
    found: dict[str, Array] = {}
    rest = memoryview(body)[length:]
    for one in listed:
        if not isinstance(one, dict) or not _is_name(one.get("name")):
            raise MalformedError("an answer whose outputs have no names")
        array, rest = _output(one, rest, values)
        found[one["name"]] = array
        values -= array.size
    return found


def _is_name(name: Any) -> bool:
    """Whether it is a text that can be sent again: JSON may escape halves of characters."""
    return isinstance(name, str) and not any("\ud800" <= c <= "\udfff" for c in name)


def _is_shape(shape: Any, least: int = 0) -> bool:
    if not isinstance(shape, list) or len(shape) > _DIMENSIONS:
        return False
    return all(type(n) is int and least <= n <= _LARGEST for n in shape)


def _told(value: Any) -> str:
    """A value of an answer in words; a list of thousands is not written out first."""
    return clip(str(value[:_DIMENSIONS] if isinstance(value, list) else value))


def _output(one: dict[str, Any], rest: memoryview, most: int) -> tuple[Array, memoryview]:
    name, datatype, shape = clip(one["name"]), one.get("datatype"), one.get("shape")
    if not isinstance(shape, list) or not _is_shape(shape):
        raise MalformedError(f"output {name!r} with the shape {_told(shape)}")
    if math.prod(shape) > most:
        raise MalformedError(f"output {name!r} of shape {_told(shape)}; expected no more than {most:,} values")
    if not isinstance(datatype, str) or (datatype != "BYTES" and datatype not in NUMBERS):
        raise MalformedError(f"output {name!r} of type {_told(datatype)!r}; expected numbers or BYTES")
    parameters = one.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        values = _strings(one.get("data"), name) if datatype == "BYTES" else _numbers(one.get("data"), datatype, name)
    else:
        if type(size) is not int or not 0 <= size <= len(rest):
            raise MalformedError(f"output {name!r} of {_told(size)} bytes, and {len(rest)} are left")
        data, rest = rest[:size], rest[size:]
        values = _packed(bytes(data), name, most) if datatype == "BYTES" else _raw(data, datatype, name)
    if values.size != math.prod(shape):
        raise MalformedError(f"output {name!r} of {values.size} values, and its shape is {_told(shape)}")
    return values.reshape(shape), rest


def _numbers(data: Any, datatype: str, name: str) -> Array:
    if not isinstance(data, list):
        raise MalformedError(f"output {name!r} without data")
    try:
        array = np.asarray(_flat(data))
        if array.dtype.kind == "O":
            array = array.astype(np.float64)  # null is how some servers write a NaN
        if array.dtype.kind not in "iuf":
            raise ValueError
        with np.errstate(all="ignore"):
            # Kept as floating-point where it is not whole, so that a NaN is seen and not made a number.
            return array if datatype[:2] != "FP" else array.astype(NUMBERS[datatype])
    except (ValueError, TypeError, OverflowError):
        raise MalformedError(f"output {name!r} with data that are not an array of numbers") from None


def _flat(data: list[Any]) -> list[Any]:
    """The numbers of a list, or of lists of one length in it; looked at before NumPy makes an array of anything.

    Raises:
        ValueError: it holds something else.
    """
    while data and isinstance(data[0], list):
        length = len(data[0])
        if not all(isinstance(part, list) and len(part) == length for part in data):
            raise ValueError
        data = [value for part in data for value in part]
    if not all(value is None or type(value) in (int, float) for value in data):
        raise ValueError
    return data


def _raw(data: memoryview, datatype: str, name: str) -> Array:
    dtype = np.dtype(NUMBERS[datatype])
    if len(data) % dtype.itemsize:
        raise MalformedError(f"output {name!r} of {len(data)} bytes, not a multiple of {datatype}")
    return np.frombuffer(data, dtype)


def _strings(data: Any, name: str) -> Array:
    flat: list[Any] = []
    todo = [data]
    while todo:
        one = todo.pop()
        if isinstance(one, list):
            todo.extend(reversed(one))
        elif isinstance(one, str):
            flat.append(one)
        else:
            raise MalformedError(f"output {name!r} with data that are not an array of strings")
    return np.array(flat, dtype=object)


def _packed(data: bytes, name: str, most: int) -> Array:
    """Each string after its length, four bytes, the lowest first; so many at most."""
    found: list[Any] = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if len(found) == most:
            raise MalformedError(f"output {name!r} of more than {most:,} strings")
        if at + 4 > len(data) or end > len(data):
            raise MalformedError(f"output {name!r} with strings longer than its bytes")
        found.append(data[at + 4 : end].decode("utf-8", "replace"))
        at = end
    return np.array(found, dtype=object)


def error_text(body: bytes) -> str:
    """What a server says of a request that it refused, decoded; "" where it says nothing. Not fit to be shown yet."""
    text = body.decode("utf-8", "replace")
    try:
        told: Any = read_json(body) if body.lstrip()[:1] == b"{" else json.loads(body[:10_000])
    except (ValueError, RecursionError, MalformedError):
        return text
    if isinstance(told, dict):
        told = next((told[key] for key in ("error", "detail", "message") if told.get(key)), told)
    if isinstance(told, list) and told and isinstance(told[0], dict) and isinstance(told[0].get("msg"), str):
        told = told[0]["msg"]  # FastAPI's, which would repeat the whole request
    return told if isinstance(told, str) else text


def clip(text: str, length: int = 400) -> str:
    """A text from elsewhere in one line of printable characters, and not longer than this.

    Texts of a server are cut to a length that is fit to be shown later, where keys in them have been looked for.
    """
    line = " ".join(printable(text[: 50 * length]).split())
    return line if len(line) <= length else line[: length - 3] + "..."
