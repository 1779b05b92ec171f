"""The protocol as bytes: what is written is read again, and nothing that a server may send gets through as a crash."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from zoracle.blackboxes import v2_protocol as protocol
from zoracle.blackboxes.secrets import Secrets
from zoracle.blackboxes.v2_protocol import Address, MalformedError, Tensor
from zoracle.errors import BlackBoxError, InputError

BATCH = np.random.default_rng(0).uniform(size=(2, 1, 3, 3))


@pytest.mark.parametrize("datatype", protocol.INPUT_TYPES)
@pytest.mark.parametrize("outputs", [(), ("a",), ("a", "b")])
def test_requests(datatype, outputs):
    """Against the specification: sizes, order, row-major little-endian bytes."""
    batch = BATCH if datatype[:2] == "FP" else np.rint(BATCH * 255)
    body, headers = protocol.encode(batch, "x", datatype, outputs, binary=False)
    request = json.loads(body)
    (tensor,) = request["inputs"]
    assert (tensor["name"], tensor["shape"], tensor["datatype"]) == ("x", [2, 1, 3, 3], datatype)
    exact = np.asarray(batch, dtype=protocol.NUMBERS[datatype])
    assert np.array_equal(np.asarray(tensor["data"]).astype(exact.dtype), exact.ravel()), "to the bit"
    assert request.get("outputs", []) == [{"name": name} for name in outputs]
    assert headers == {"Content-Type": "application/json"}

    body, headers = protocol.encode(batch, "x", datatype, outputs, binary=True)
    length = int(headers["Inference-Header-Content-Length"])
    request, data = json.loads(body[:length]), body[length:]
    (tensor,) = request["inputs"]
    assert "data" not in tensor
    assert tensor["parameters"] == {"binary_data_size": exact.nbytes} == {"binary_data_size": len(data)}
    assert data == exact.astype(exact.dtype.newbyteorder("<")).tobytes()
    if outputs:
        assert [one["parameters"] for one in request["outputs"]] == [{"binary_data": True}] * len(outputs)
    else:
        assert request["parameters"] == {"binary_data_output": True}


def answer(outputs, data=b""):
    head = json.dumps({"model_name": "m", "outputs": outputs}).encode()
    return head + data, (str(len(head)) if data else None)


@pytest.mark.parametrize("datatype", list(protocol.NUMBERS))
def test_answers_of_every_type(datatype):
    values = np.array([[0, 1, 2], [3, 100, 7]]).astype(protocol.NUMBERS[datatype])
    told = {"name": "y", "shape": [2, 3], "datatype": datatype}
    for data in (values.ravel().tolist(), values.tolist()):
        found = protocol.decode(*answer([{**told, "data": data}]))
        assert np.array_equal(found["y"], values)
    size = {"parameters": {"binary_data_size": values.nbytes}}
    text = {"name": "t", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 11}}
    packed = b"\x02\0\0\0ab\x01\0\0\0c"
    plain = {"name": "z", "shape": [1], "datatype": "INT64", "data": [4]}
    found = protocol.decode(*answer([{**told, **size}, plain, text], values.tobytes() + packed))
    assert np.array_equal(found["y"], values)
    assert found["y"].dtype.itemsize == values.dtype.itemsize
    assert (found["z"].tolist(), found["t"].tolist()) == ([4], ["ab", "c"])


def test_numbers_that_are_none():
    told = {"name": "y", "shape": [4], "datatype": "FP32"}
    found = protocol.decode(*answer([{**told, "data": [None, 1, float("nan"), float("inf")]}]))["y"]
    assert np.array_equal(found, np.array([np.nan, 1, np.nan, np.inf], dtype=np.float32), equal_nan=True)
    found = protocol.decode(*answer([{**told, "data": [1e300, 0, 0, -1e300]}]))["y"]
    assert found.tolist() == [np.inf, 0, 0, -np.inf]


GOOD = {"name": "y", "shape": [2], "datatype": "FP32", "data": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("body", "length", "message"),
    [
        (b"", None, "an answer that is not JSON"),
        (b"\xff\xfe{}", None, "an answer that is not JSON"),
        (b"[" * 100_000, None, "an answer that is not JSON"),
        (b"[1]", None, "a JSON list; expected an object"),
        (b'{"outputs": {}}', None, "without a list of outputs"),
        (b'{"error": "no\\nmore"}', None, "an answer that is an error: no more"),
        (b'{"outputs": []}', "99", "Inference-Header-Content-Length is '99' of 15 bytes"),
        (b'{"outputs": []}', "-1", "Inference-Header-Content-Length is '-1'"),
        (b'{"outputs": []}', "\u0665", "Inference-Header-Content-Length"),
        (b'{"outputs": []}', "1" * 5000, "Inference-Header-Content-Length"),
        *(
            (*answer([{**GOOD, **change}]), message)
            for change, message in (
                ({"name": None}, "outputs have no names"),
                ({"shape": None}, "with the shape None"),
                ({"shape": [-1]}, "with the shape"),
                ({"shape": [True]}, "with the shape"),
                ({"shape": [3]}, r"of 2 values, and its shape is \[3\]"),
                ({"shape": [10**30, 10**30]}, "with the shape"),
                ({"shape": [0, 2**62]}, "with the shape"),
                ({"shape": [0, 10**9]}, "of 2 values"),
                ({"shape": [10**9]}, r"of shape \[1000000000\]; expected no more than 262,144 values"),
                ({"data": ["x" * 10**6, *["y"] * 1000]}, "data that are not an array of numbers"),
                ({"datatype": "FP8"}, "of type 'FP8'; expected numbers or BYTES"),
                ({"datatype": ["FP32"]}, "of type"),
                ({"data": None}, "without data"),
                ({"data": ["1", "2"]}, "data that are not an array of numbers"),
                ({"data": [[1], [2, 3]]}, "data that are not an array of numbers"),
                ({"data": [{}, 1]}, "data that are not an array of numbers"),
                ({"data": [True, False]}, "data that are not an array of numbers"),
                ({"datatype": "BYTES"}, "data that are not an array of strings"),
                ({"parameters": {"binary_data_size": 4}}, "of 4 bytes, and 0 are left"),
                ({"parameters": {"binary_data_size": "4"}}, "bytes, and 0 are left"),
                ({"parameters": {"binary_data_size": -4}}, "bytes, and 0 are left"),
            )
        ),
        (*answer([{**GOOD, "parameters": {"binary_data_size": 7}}], b"1234567"), "of 7 bytes, not a multiple of FP32"),
        (
            *answer([{**GOOD, "datatype": "BYTES", "parameters": {"binary_data_size": 6}}], b"\xff\xff\xff\xffab"),
            "strings longer than its bytes",
        ),
    ],
)
def test_malformed_answers(body, length, message):
    with pytest.raises(MalformedError, match=message) as caught:
        protocol.decode(body, length)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_metadata():
    told = {"inputs": [{"name": "x", "datatype": "TYPE_FP32", "shape": [-1, 3]}, {"name": "y"}]}
    assert protocol.tensors(told, "inputs") == (Tensor("x", "FP32", (-1, 3)), Tensor("y", "", ()))
    assert protocol.tensors(told, "outputs") == protocol.tensors({"outputs": None}, "outputs") == ()
    for bad in ({"inputs": 3}, {"inputs": [3]}, {"inputs": [{}]}, {"inputs": [{"name": "x", "shape": [-1, "N"]}]}):
        with pytest.raises(MalformedError):
            protocol.tensors(bad, "inputs")


@pytest.mark.parametrize(
    ("url", "model", "version", "expected"),
    [
        ("http://h:8000/v2/models/m", None, None, Address("http://h:8000", "m", None)),
        ("http://h:8000/v2/models/m/infer", None, None, Address("http://h:8000", "m", None)),
        ("https://h/v2/models/m/versions/3/", None, None, Address("https://h", "m", "3")),
        ("https://h/gate/way/v2/models/a%20b", "a b", "2", Address("https://h/gate/way", "a b", "2")),
        ("http://h", "m", None, Address("http://h", "m", None)),
        ("http://h/gate/", "m", "1", Address("http://h/gate", "m", "1")),
        ("http://h/v2", "m", None, Address("http://h", "m", None)),
        ("http://h/v2/models/", "m", None, Address("http://h", "m", None)),
    ],
)
def test_addresses(url, model, version, expected):
    found = protocol.address(url, model, version)
    assert found == expected
    assert protocol.address(found.path) == found, "written and read again"


def check_line(error: Exception) -> None:
    assert str(error).isprintable(), "one line, and nothing that would move a terminal's cursor"
    assert 0 < len(str(error)) < 1500


WORDS = ["", "y", "scores", "FP32", "BYTES", "INT64", "nan", "a\nb", "\u2028", "\0", "é" * 300]


def anything(rng: random.Random, depth: int = 0):
    """A random JSON value."""
    kind = rng.randrange(9 if depth < 4 else 7)
    if kind == 7:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 8:
        keys = ["name", "shape", "datatype", "data", "parameters", "binary_data_size", "outputs", "error", "detail"]
        return {rng.choice(keys): anything(rng, depth + 1) for _ in range(rng.randrange(5))}
    plain = [None, rng.random() < 0.5, rng.randrange(-3, 5), rng.choice([10**25, -(10**25), 1e308, float("nan"), -0.0])]
    return rng.choice([*plain, rng.choice(WORDS), rng.choice([[2, 3], [6], [1.0] * 6, [[0.5] * 3] * 2]), rng.random()])


def broken(rng: random.Random) -> tuple[bytes, str | None]:
    """A whole answer with something done to it: a value changed, bytes cut, turned or added, a wrong length."""
    values = np.arange(6, dtype=np.float32)
    output = {"name": "scores", "shape": [2, 3], "datatype": "FP32", "data": values.tolist()}
    data = b""
    if rng.random() < 0.5:
        del output["data"]
        output["parameters"] = {"binary_data_size": 24}
        data = values.tobytes()
    told = {"outputs": [output]}
    how = rng.randrange(6)
    if how == 0:
        output[rng.choice(list(output))] = anything(rng)
    elif how == 1:
        told = anything(rng)
    elif how == 2:
        told["outputs"] = anything(rng)
    body = json.dumps(told).encode()
    length = str(len(body)) if data or rng.random() < 0.2 else None
    body += data
    if how == 3:
        body = body[: rng.randrange(len(body) + 1)]
    elif how == 4:
        at = rng.randrange(len(body))
        body = body[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9))) + body[at + rng.randrange(9) :]
    elif how == 5:
        length = rng.choice(["", "0", "-1", "7", "1e2", "99999999999999999999", " 5", "x"])
    return body, length


def test_whatever_a_server_sends_is_an_answer_or_malformed():
    rng = random.Random(0)
    answers = 0
    for _ in range(6000):
        body, length = broken(rng)
        try:
            found = protocol.decode(body, length)
            answers += 1
            assert all(isinstance(array, np.ndarray) for array in found.values())
        except MalformedError as error:
            check_line(error)
        for text in (Secrets().shown(protocol.error_text(body)), protocol.clip(body.decode("latin-1"))):
            assert text.isprintable() or not text
            assert len(text) <= 400
        told = anything(rng)
        for which in ("outputs", "inputs"):
            try:
                protocol.tensors({which: told}, which)
            except MalformedError as error:
                check_line(error)
    assert 100 < answers < 5900, "some get through"


def test_whatever_an_address_is():
    rng = random.Random(1)
    pieces = ["http://", "https:", "//", "h", ":80", ":x", "/v2", "/models", "/m", "/versions/1", *"?#@[% \n"]
    for _ in range(3000):
        url = "".join(rng.choice(pieces) for _ in range(rng.randrange(8)))
        try:
            protocol.address(url, rng.choice([None, "m"]), rng.choice([None, "1"]))
        except InputError as error:
            check_line(error)


def test_whatever_a_server_does_is_one_line(monkeypatch):
    pytest.importorskip("httpx", reason="httpx is not installed")
    pytest.importorskip("tenacity", reason="tenacity is not installed")
    from oip_server import HEADER, Server
    from zoracle.blackboxes import OpenInference

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    rng = random.Random(2)

    def respond(handler, body):
        body, length = broken(rng)
        status = rng.choice([200] * 6 + [201, 204, 301, 400, 401, 404, 418, 429, 500, 503, 599])
        headers = {} if length is None or not length.strip() else {HEADER: length}
        if rng.random() < 0.1:
            headers["Content-Encoding"] = rng.choice(["gzip", "deflate", "br", "zstd"])
        if rng.random() < 0.1:
            headers["Retry-After"] = rng.choice(["0", "x", "-5", "nan", "Wed, 21 Oct 2015 07:28:00 GMT"])
        return handler.send(body if status != 204 else b"", status=status, headers=headers)

    x = torch.zeros(2, 4)
    settings = {"attempts": 2, "backoff": 0.0, "timeout": 5.0, "retry_non_finite": False}
    outcomes = {"answer": 0, "error": 0}
    told = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}
    with Server(respond=respond, **told) as server:
        for names in ({}, {"output": "scores"}, {"top_k": ("scores", "labels"), "classes": 3}):
            with OpenInference(server.url, **settings, **names) as box:
                for _ in range(120):
                    try:
                        assert box(x).shape[0] == 2
                        outcomes["answer"] += 1
                    except BlackBoxError as error:
                        check_line(error)
                        outcomes["error"] += 1
                counts = box.report()["attempts"]
                assert counts["images_sent"] == counts["images_answered"] + counts["images_in_failed_attempts"]
        assert min(outcomes.values()) > 0


def test_whatever_metadata_are_is_one_line(monkeypatch):
    pytest.importorskip("httpx", reason="httpx is not installed")
    pytest.importorskip("tenacity", reason="tenacity is not installed")
    from oip_server import Server
    from zoracle.blackboxes import OpenInference

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    rng = random.Random(3)
    good = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
    with Server(lambda a: a[:, :3]) as server:
        for _ in range(60):
            bad = dict(good)
            bad[rng.choice(list(good))] = anything(rng)
            server.inputs = rng.choice([[bad], [good, bad], anything(rng), [good]])
            server.outputs = rng.choice([[bad], [], anything(rng)])
            try:
                with OpenInference(server.url, attempts=1, timeout=5.0) as box:
                    box(torch.zeros(2, 4))
            except InputError as error:
                check_line(error)
