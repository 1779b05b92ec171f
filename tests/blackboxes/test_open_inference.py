"""The client of the Open Inference Protocol: what it sends, what it counts, and what it says of bad servers."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import threading
import time

import numpy as np
import pytest
import torch

pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("tenacity", reason="tenacity is not installed")

import zoracle
from oip_server import FAULTS, HEADER, FakeClock, Server, parse
from zoracle.blackboxes import OpenInference, TorchModule
from zoracle.errors import BlackBoxError, DamagedWarning, InputError, MissingExtraError
from zoracle.tasks import task

WEIGHT = np.random.default_rng(0).normal(size=(4, 3))
INPUT = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
OUTPUT = {"name": "scores", "datatype": "FP32", "shape": [-1, 3]}
META = {"inputs": [INPUT], "outputs": [OUTPUT]}
#: Nothing here waits for a server longer than it has to.
QUICK = {"timeout": 5.0, "backoff": 0.001, "max_backoff": 0.01}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def linear(array):
    return array.reshape(len(array), -1).astype(np.float64) @ WEIGHT


def images(n=5, dtype=torch.float32):
    return torch.rand(n, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def adds_up(box):
    counts = box.report()["attempts"]
    assert counts["images_sent"] == counts["images_answered"] + counts["images_in_failed_attempts"]
    assert counts["requests_sent"] == counts["requests_answered"] + sum(counts["requests_failed"].values())
    assert counts["images_answered"] <= counts["images_billed"] <= counts["images_sent"]
    return counts


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("datatype", "dtype", "tolerance"), [("FP32", "f4", 1e-6), ("FP64", "f8", 1e-6), ("FP16", "f2", 2e-3)]
)
def test_outputs_in_order_in_every_type(binary, datatype, dtype, tolerance):
    meta = {**META, "inputs": [{**INPUT, "datatype": datatype}]}
    seen = []

    def model(array):
        seen.append(array.dtype.str[1:])
        return linear(array)

    with Server(model, binary=binary, **meta) as server, OpenInference(server.url, chunk=3, **QUICK) as box:
        out = box(images(20, torch.float64))
        assert box.report() == {
            "kind": "open-inference",
            "url": server.url,
            "input": "x",
            "datatype": datatype,
            "outputs": ["scores"],
            "binary": binary,
            "attempts": adds_up(box),
        }
        assert sorted(server.received) == [2, 3, 3, 3, 3, 3, 3]
    assert out.dtype is torch.float64
    np.testing.assert_allclose(out.numpy(), linear(images(20, torch.float64).numpy()), rtol=0, atol=tolerance)
    assert set(seen) == {dtype}


def test_json_and_bytes_give_the_same_bits():
    found = []
    for binary in (False, True):
        with Server(linear, binary=True, **META) as server, OpenInference(server.url, binary=binary, **QUICK) as box:
            found.append(box(images(40)))
            assert all((HEADER in headers) == binary for headers in server.seen_headers)
    assert torch.equal(*found)
    assert torch.equal(found[0], torch.from_numpy(linear(images(40).numpy()).astype(np.float32)))


def test_whole_numbers_are_rounded_pixels():
    for datatype in ("UINT8", "INT64"):
        meta = {**META, "inputs": [{**INPUT, "datatype": datatype}]}
        with Server(linear, **meta) as server:
            with pytest.raises(InputError, match=f"takes integers \\({datatype}\\).*pixel_max=255"):
                OpenInference(server.url, **QUICK)
            with OpenInference(server.url, pixel_max=255, **QUICK) as box:
                out = box(images())
        np.testing.assert_allclose(out.numpy(), np.rint(images().numpy() * 255) @ WEIGHT, rtol=1e-5)


def test_metadata_that_leave_the_batch_out():
    told = {"inputs": [{**INPUT, "shape": [4]}], "outputs": [{**OUTPUT, "shape": [3]}]}
    with Server(linear, **told) as server, OpenInference(server.url, **QUICK) as box:
        np.testing.assert_allclose(box(images(6)).numpy(), linear(images(6).numpy()), rtol=1e-5)
        assert server.received == [6]
        with pytest.raises(InputError, match=r"has shape \(N, 4\), and the images arrive as \(N, 5\)"):
            box.check((5,))


@pytest.mark.parametrize("fixed", [1, 4])
def test_a_fixed_batch_size_of_the_metadata(fixed):
    meta = {**META, "inputs": [{**INPUT, "shape": [fixed, 4]}]}
    with Server(linear, **meta) as server, OpenInference(server.url, **QUICK) as box:
        np.testing.assert_allclose(box(images(6)).numpy(), linear(images(6).numpy()), rtol=1e-5)
        assert set(server.received) == {fixed}
        assert adds_up(box)["images_sent"] == 6


def test_layout_preprocessing_and_versions():
    weight = np.random.default_rng(1).normal(size=(12, 3))
    x = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    normalised = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    meta = {"inputs": [{**INPUT, "shape": [-1, 2, 2, 3]}], "outputs": [OUTPUT]}
    with Server(lambda a: a.reshape(len(a), -1) @ weight, **meta) as server:
        settings = {"preprocess": (mean, std), "layout": "NHWC", **QUICK}
        with OpenInference(server.base, model="m", version="7", **settings) as box:
            assert box.report()["url"] == f"{server.url}/versions/7"
            expected = normalised.permute(0, 2, 3, 1).reshape(3, 12).numpy() @ weight
            np.testing.assert_allclose(box(x).numpy(), expected, rtol=1e-4)


def test_metadata_that_tell_nothing():
    with Server(linear) as server:
        with pytest.raises(InputError, match="does not describe the input of m; pass input="):
            OpenInference(server.url, **QUICK)
        with OpenInference(server.url, input="x", datatype="FP64", **QUICK) as box:
            assert (box.datatype, box.wanted) == ("FP64", ())
            np.testing.assert_allclose(box(images()).numpy(), linear(images().numpy()), rtol=1e-5)
        with OpenInference(server.url, input="x", metadata=False, **QUICK) as box:
            np.testing.assert_allclose(box(images()).numpy(), linear(images().numpy()), rtol=1e-5)


@pytest.mark.parametrize(
    ("meta", "settings", "message"),
    [
        ({"inputs": [INPUT, {**INPUT, "name": "y"}]}, {}, r"m has 2 inputs \(x, y\); expected one"),
        ({"inputs": [INPUT]}, {"input": "z"}, "m has no input 'z'; its input is x"),
        ({"inputs": [{**INPUT, "datatype": "BYTES"}]}, {}, "input x of m is BYTES; expected images, one of FP32"),
        ({"inputs": [INPUT]}, {"datatype": "FP8"}, "input x of m is FP8"),
        ({"outputs": [OUTPUT, {**OUTPUT, "name": "more"}]}, {}, "m has 2 outputs of scores .* name one: output="),
        ({"outputs": [OUTPUT]}, {"output": "logits"}, r"m has no output 'logits'; it has scores FP32 \[-1, 3\]"),
        ({"outputs": [{**OUTPUT, "datatype": "BYTES"}]}, {}, "labels only are not enough, it takes logits"),
        ({}, {"top_k": ("a", "b"), "output": "c"}, "top_k names two outputs"),
        ({}, {"chunk": 0}, "chunk is 0"),
        ({}, {"concurrency": 0}, "concurrency is 0"),
        ({}, {"attempts": 1.5}, "attempts is 1.5"),
        ({}, {"timeout": 0}, "timeout is 0"),
        ({}, {"timeout": "3"}, "timeout is '3'"),
        ({}, {"backoff": None}, "backoff is None"),
        ({}, {"top_k": 3}, "top_k names two outputs"),
        ({}, {"headers": "X: y"}, "headers are a str; expected a dict"),
        ({}, {"backoff": -1}, "backoff is -1"),
        ({}, {"requests_per_second": 0}, "requests_per_second is 0"),
        ({}, {"images_per_second": float("inf")}, "images_per_second is inf"),
        ({}, {"headers": {"X-Bad": "a\nb"}}, "header 'X-Bad' cannot be sent"),
        ({}, {"api_key_env": "ZORACLE_TEST_NO_KEY"}, "variable ZORACLE_TEST_NO_KEY is not set"),
    ],
)
def test_settings_that_cannot_be_used(meta, settings, message):
    with Server(linear, **{**META, **meta}) as server:
        with pytest.raises(InputError, match=message) as caught:
            OpenInference(server.url, **{**QUICK, **settings})
        assert "\n" not in str(caught.value)
        assert not server.received


@pytest.mark.parametrize(
    ("url", "settings", "message"),
    [
        (None, {}, "address of the server is a NoneType; expected http"),
        (
            "http://127.0.0.1:80",
            {},
            "names no model; expected http://host:port/v2/models/NAME, or the server's address with model=NAME",
        ),
        ("ftp://a/v2/models/m", {}, "is not the address of a server"),
        ("http:///v2/models/m", {}, "is not the address of a server"),
        ("http://a:b/v2/models/m", {}, "cannot be read"),
        ("http://[/v2/models/m", {}, "cannot be read"),
        ("http://me:hunter2@a/v2/models/m", {}, "contains a user or password; pass a key with api_key_env"),
        ("http://a/v2/models/m?key=hunter2", {}, r"has a query \(\?\)"),
        ("http://a/v2/models/m", {"model": "n"}, "contradicts model= or version="),
        ("http://a/v2/models/m/versions/1", {"version": "2"}, "contradicts model= or version="),
    ],
)
def test_addresses(url, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        OpenInference(url, **settings)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_shape_is_told_before_the_first_query():
    with Server(linear, **META) as server, OpenInference(server.url, **QUICK) as box:
        with pytest.raises(InputError, match=r"input x of m has shape \(N, 4\), and the images arrive as \(N, 2, 2\)"):
            zoracle.attack(box, torch.zeros(1, 2, 2), torch.tensor([0]), budget=100)
        assert not server.received


def test_what_the_server_says_is_repeated_once_and_without_the_key(monkeypatch):
    monkeypatch.setenv("ZORACLE_TEST_KEY", "hunter2-secret")
    required = {"Authorization": "Bearer hunter2-secret", "X-Team": "red"}
    with Server(linear, headers=required, **META) as server:
        with pytest.raises(BlackBoxError, match=r"answered with status 401 \(no entry with .*api_key_env=NAME"):
            OpenInference(server.url, **QUICK)
        keyed = {"api_key_env": "ZORACLE_TEST_KEY", "headers": {"X-Team": "red"}, **QUICK}
        with OpenInference(server.url, **keyed) as box:
            box(images())
            assert server.seen_headers[-1]["Authorization"] == "Bearer hunter2-secret"
            assert "hunter2" not in json.dumps(box.report())
        with pytest.raises(BlackBoxError) as caught:
            OpenInference(server.url, **{**keyed, "headers": {"X-Team": "blue-secret"}})
        assert "secret" not in str(caught.value)
        assert "***" in str(caught.value)
        monkeypatch.setattr(server, "required", {"X-Api-Key": "hunter2-secret"})
        with OpenInference(server.url, api_key_env="ZORACLE_TEST_KEY", api_key_header="X-Api-Key", **QUICK) as box:
            box(images())


def test_no_part_of_a_key_is_repeated(monkeypatch):
    key = "k3y" * 40
    monkeypatch.setenv("ZORACLE_TEST_KEY", key)

    for size in range(0, 260, 20):

        def echo(handler, body, size=size):
            handler.send_json({"error": "x" * size + handler.headers["X-Key"]}, status=400)

        settings = {"api_key_env": "ZORACLE_TEST_KEY", "api_key_header": "X-Key", **QUICK}
        with Server(respond=echo, **META) as server, OpenInference(server.url, **settings) as box:
            with pytest.raises(BlackBoxError, match="status 400") as caught:
                box(images())
            assert "k3y" not in str(caught.value)


def test_a_wait_that_is_too_long_is_told():
    def tomorrow(handler, body):
        handler.send_json({"error": "quota"}, status=429, headers={"Retry-After": "86400"})

    with Server(respond=tomorrow, **META) as server, OpenInference(server.url, **QUICK) as box:
        with pytest.raises(BlackBoxError, match=r"status 429 \(quota\); it asks to wait for 86400 s, continue then"):
            box(images())
        assert adds_up(box)["requests_failed"] == {"refused": 1}


def test_several_outputs_without_metadata():
    def two(handler, body):
        n = len(parse(body, None)[1])
        one = {"shape": [n, 2], "datatype": "FP32", "data": [0.0, 1.0] * n}
        label = {"name": "label", "shape": [n], "datatype": "INT64", "data": [1] * n}
        handler.send_json({"outputs": [label, {"name": "a", **one}, *([{"name": "b", **one}] * handler.server.more)]})

    with Server(respond=two) as server, OpenInference(server.url, input="x", **QUICK) as box:
        server.more = 0
        assert box(images()).tolist() == [[0.0, 1.0]] * 5
        server.more = 1
        with pytest.raises(BlackBoxError, match=r"several outputs \(label, a, b\); name the one with scores: output="):
            box(images())


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, b'{"error": "batch size must be\\n<= 8"}', r"status 400 \(batch size must be <= 8\)"),
        (422, b'{"detail": [{"msg": "not an object", "input": "[[0.1, 0.2"}]}', r"status 422 \(not an object\)"),
        (404, b"<html>\n nothing   here", r"status 404 \(<html> nothing here\)"),
        (413, b"", r"status 413$"),
        (400, b"\xff\xfe" + b"x" * 5000, r"status 400 \(.{197}\.\.\.\)$"),
    ],
)
def test_a_refusal_is_not_tried_again(status, body, message):
    with Server(respond=lambda handler, _: handler.send(body, status=status), **META) as server:
        with OpenInference(server.url, **QUICK) as box:
            with pytest.raises(BlackBoxError, match=message) as caught:
                box(images())
            assert "\n" not in str(caught.value)
            counts = adds_up(box)
        assert counts["requests_failed"] == {"refused": 1}
        assert (counts["images_sent"], counts["images_billed"]) == (5, 0)


def test_a_redirect_is_not_followed():
    def away(handler, body):
        handler.send(b"", status=307, headers={"Location": "http://elsewhere.invalid/v2"})

    told = pytest.raises(BlackBoxError, match=r"status 307; it is at http://elsewhere\.invalid/v2, give that address")
    with Server(respond=away, **META) as server, OpenInference(server.url, **QUICK) as box, told:
        box(images())


def test_attempts_are_used_up_and_told():
    with Server(linear, faults=1.0, kinds=("500",), **META) as server:
        with OpenInference(server.url, attempts=3, **QUICK) as box:
            with pytest.raises(
                BlackBoxError, match=r"in 3 attempts; the last one: status 500 \(injected 500\)"
            ) as caught:
                box(images())
            assert "\n" not in str(caught.value)
            assert adds_up(box)["requests_failed"] == {"status": 3}
        assert len(server.received) == 3


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BlackBoxError, match=r"in 2 attempts; the last one: it cannot be reached \(") as caught:
        OpenInference(f"http://127.0.0.1:{port}/v2/models/m", attempts=2, **QUICK)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_there():
    told = pytest.raises(BlackBoxError, match=r"status 404 \(Model other not found\)")
    with Server(linear, **META) as server, told:
        OpenInference(server.base, model="other", **QUICK)


def test_outputs_that_stay_nan_are_taken_in_the_end():
    def model(array):
        scores = linear(array)
        scores[1] = np.nan
        return scores

    for retry, sent in ((True, 3), (False, 1)):
        with Server(model, **META) as server:
            with OpenInference(server.url, attempts=3, retry_non_finite=retry, **QUICK) as box:
                out = box(images())
                counts = adds_up(box)
            assert len(server.received) == sent
        assert out.isnan().any(1).tolist() == [False, True, False, False, False]
        assert counts["images_answered"] == 5
        assert counts["requests_failed"] == ({"non-finite": 2} if retry else {})


def test_null_is_a_nan_and_points_that_are_nan_have_no_answer():
    def null(handler, body):
        output = {"name": "scores", "shape": [2, 3], "datatype": "FP32", "data": [None, 1, 2, 3, 4, 5]}
        handler.send_json({"outputs": [output]})

    with Server(respond=null, **META) as server, OpenInference(server.url, retry_non_finite=False, **QUICK) as box:
        assert box(images(2)).isnan().tolist() == [[True, False, False], [False] * 3]
    with Server(linear, **META) as server, OpenInference(server.url, **QUICK) as box:
        x = images(3)
        x[1, 2] = torch.nan
        assert box(x).isnan().all(1).tolist() == [False, True, False]


def test_retry_after_is_kept_by_everybody():
    told = []

    def busy(handler, body):
        if not told:
            told.append(1)
            return handler.send_json({"error": "slow down"}, status=429, headers={"Retry-After": "7"})
        return handler.infer(body)

    clock = FakeClock()
    with Server(linear, respond=busy, **META) as server:
        with OpenInference(server.url, clock=clock, concurrency=1, chunk=1, **QUICK) as box:
            began = clock.now()
            box(images(3))
            assert clock.now() - began >= 7
            counts = adds_up(box)
        assert counts["requests_failed"] == {"status": 1}
        assert (counts["images_sent"], counts["images_billed"]) == (4, 3)


@pytest.mark.parametrize(
    ("settings", "seconds"), [({"requests_per_second": 4}, 9 / 4), ({"images_per_second": 10}, 18 / 10)]
)
def test_the_rate_limit_on_a_clock_of_its_own(settings, seconds):
    clock = FakeClock()
    with Server(linear, **META) as server:
        with OpenInference(server.url, clock=clock, chunk=2, concurrency=3, **settings, **QUICK) as box:
            began = clock.now()
            box(images(20))
            assert clock.now() - began == pytest.approx(seconds)
        assert len(server.received) == 10


def test_failed_attempts_keep_to_the_rate_limit_too():
    clock = FakeClock()
    with Server(linear, faults=0.5, kinds=("500",), seed=1, **META) as server:
        settings = {"clock": clock, "chunk": 1, "attempts": 30, "requests_per_second": 2, **QUICK}
        with OpenInference(server.url, **settings) as box:
            began = clock.now()
            box(images(10))
            sent = adds_up(box)["requests_sent"]
            assert sent == len(server.received) > 10
            assert clock.now() - began >= (sent - 1) / 2


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_requests_in_flight_than_said(concurrency):
    together = threading.Barrier(concurrency)

    def model(array):
        together.wait(5)  # which only so many at once get past
        return linear(array)

    with Server(model, **META) as server:
        with OpenInference(server.url, chunk=1, concurrency=concurrency, **QUICK) as box:
            np.testing.assert_allclose(box(images(6)).numpy(), linear(images(6).numpy()), rtol=1e-5)
        assert server.most_in_flight == concurrency


def test_back_off_grows_and_is_bounded():
    clock = FakeClock()
    with Server(linear, faults=1.0, kinds=("503",), **META) as server:
        settings = {"clock": clock, "attempts": 6, "timeout": 5.0, "backoff": 1.0, "max_backoff": 5.0}
        with OpenInference(server.url, **settings) as box, pytest.raises(BlackBoxError):
            box(images())
    assert len(clock.slept) == 5
    for slept, most in zip(clock.slept, (1, 2, 4, 5, 5), strict=True):
        assert most / 2 <= slept <= most


def test_the_log_of_attempts(tmp_path, monkeypatch):
    monkeypatch.setenv("ZORACLE_TEST_KEY", "hunter2-secret")
    path = tmp_path / "logs" / "attempts.jsonl"
    settings = {"log": path, "attempts": 9, "chunk": 2, "api_key_env": "ZORACLE_TEST_KEY", **QUICK}
    with Server(linear, faults=0.4, kinds=("500", "nan", "not-json"), seed=2, **META) as server:
        with OpenInference(server.url, **settings) as box:
            box(images(8))
            first = adds_up(box)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(lines) == first["requests_sent"] == len(server.received)
        assert sum(line["images"] for line in lines) == first["images_sent"]
        assert sum(line["images"] for line in lines if line["billed"]) == first["images_billed"]
        assert {line["request"] for line in lines} == {1, 2, 3, 4}
        for request in range(1, 5):
            mine = [line for line in lines if line["request"] == request]
            assert [line["attempt"] for line in mine] == list(range(1, len(mine) + 1))
            assert [line["result"] == "answered" for line in mine] == [False] * (len(mine) - 1) + [True]
        assert set(lines[0]) == {
            "time",
            "request",
            "attempt",
            "images",
            "result",
            "billed",
            "seconds",
            "status",
            "check",
        }
        assert "hunter2" not in path.read_text()
        # Killed in the middle of a line: what was whole counts on, and the next line is one of its own.
        path.write_text(path.read_text() + '{"time": "2020-')
        server.faults = 0.0
        with pytest.warns(DamagedWarning, match="they were cut off"):
            box = OpenInference(server.url, **settings)
        with box:
            assert adds_up(box) == first
            box(images(8))
            assert adds_up(box)["requests_sent"] == first["requests_sent"] + 4
        assert {json.loads(line)["request"] for line in path.read_text().splitlines()[-4:]} == {5, 6, 7, 8}
        path.write_text('{"some": "thing"}\n')
        with pytest.raises(InputError, match="is not a log of attempts; choose another file"):
            OpenInference(server.url, **settings)
        with pytest.raises(InputError, match="it is a folder"):
            OpenInference(server.url, **{**settings, "log": tmp_path})


SHORT = {"budget": 11 * 8, "optimizer": "zo-sgd", "num_directions": 10, "lr": 0.05, "mu": 1e-2}
LONG = {"budget": 1050, "optimizer": "zo-lstm-digits"}


@pytest.mark.parametrize(
    ("binary", "images", "run"),
    [(False, 4, SHORT), (True, 4, SHORT), pytest.param(True, 20, LONG, marks=pytest.mark.slow)],
)
def test_a_server_that_fails_gives_the_same_adversarial_images(binary, images, run, tmp_path):
    digits = task("digits")
    ids = digits.ids("test")[:images]
    pictures = digits.pictures(ids)
    network = digits.objective(ids).black_box

    def model(array):
        # One by one: what a row gives must not depend on who is with it.
        return np.concatenate([network(torch.from_numpy(row.copy())[None]).numpy() for row in array])

    meta = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 8, 8]}], "binary": binary}
    meta["outputs"] = [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}]
    found, injected = [], None
    for faults in (0.0, 0.2):
        settings = {"chunk": images, "concurrency": 3, "attempts": 12, **QUICK, "timeout": 0.6}
        with (
            Server(model, faults=faults, seed=5, slow=1.2, **meta) as server,
            OpenInference(server.url, log=tmp_path / f"{faults}.jsonl", **settings) as box,
        ):
            result = zoracle.attack(box, pictures.images, pictures.labels, **run, seed=1)
            counts = adds_up(box)
            assert counts["images_answered"] == int(result.queries.sum()) == images * run["budget"]
            assert counts["requests_sent"] == len(server.received)
            assert counts["images_sent"] == sum(server.received)
            assert sum(counts["requests_failed"].values()) >= sum(server.injected.values())
            injected = server.injected
        found.append(result)
    clean, faulty = found
    assert set(injected) == set(FAULTS), "every kind of fault came up"
    assert torch.equal(clean.adversarial, faulty.adversarial)
    assert torch.equal(clean.trajectory.loss, faulty.trajectory.loss)
    assert clean.queries_to_success.tolist() == faulty.queries_to_success.tolist()
    direct = zoracle.attack(TorchModule(network.module), pictures.images, pictures.labels, **run, seed=1)
    torch.testing.assert_close(clean.trajectory.loss[:1], direct.trajectory.loss[:1], rtol=1e-4, atol=1e-4)


def test_a_run_that_a_dead_server_ended_goes_on_and_its_counts_too(tmp_path):
    alive = {"requests": 20}

    def mortal(handler, body):
        alive["requests"] -= 1
        if alive["requests"] < 0:
            return handler.send_json({"error": "out of memory"}, status=500)
        return handler.infer(body)

    x, y = images(3, torch.float64), torch.from_numpy(linear(images(3).numpy()).argmax(1))
    run = {"budget": 60, "optimizer": "zo-sgd", "num_directions": 4, "lr": 0.01, "mu": 1e-2}
    told = {**META, "inputs": [{**INPUT, "datatype": "FP64"}]}
    settings = {"chunk": 4, "attempts": 2, "log": tmp_path / "attempts.jsonl", **QUICK}
    with Server(linear, **told) as server, OpenInference(server.url, **QUICK) as box:
        whole = zoracle.attack(box, x, y, **run)
    with Server(linear, respond=mortal, **told) as server:
        with OpenInference(server.url, **settings) as box:
            with pytest.raises(BlackBoxError, match="out of memory"):
                zoracle.attack(box, x, y, checkpoint=tmp_path / "run.safetensors", **run)
            first = adds_up(box)
        alive["requests"] = 10**6
        with OpenInference(server.url, **settings) as box:
            result = zoracle.attack(box, x, y, checkpoint=tmp_path / "run.safetensors", **run)
            counts = adds_up(box)
    assert 0 < first["images_answered"] < counts["images_answered"]
    assert result.queries.max() <= 60
    # The step in flight was paid for and answered in part; everything else arrived.
    assert 0 < int(result.queries.sum()) - counts["images_answered"] <= 3 * 5
    steps = result.trajectory.steps.min()
    assert torch.equal(result.trajectory.loss[:steps], whole.trajectory.loss[:steps]), "the same run"


def test_top_k_answers():
    def best(handler, body):
        _, array = parse(body, None)
        scores = linear(array)
        order = (-scores).argsort(1)[:, :2]
        names = np.array(["cat", "dog", "cow"])[order]
        best = np.take_along_axis(scores, order, 1)
        handler.send_json(
            {
                "outputs": [
                    {"name": "labels", "shape": list(names.shape), "datatype": "BYTES", "data": names.tolist()},
                    {"name": "best", "shape": list(best.shape), "datatype": "FP64", "data": best.ravel().tolist()},
                ]
            }
        )

    settings = {"top_k": ("labels", "best"), "input": "x", **QUICK}
    with Server(respond=best) as server:
        with OpenInference(server.url, class_names=["cat", "dog", "cow"], **settings) as box:
            out = box(images(dtype=torch.float64))
        expected = torch.from_numpy(linear(images().numpy()))
        expected = expected.scatter(1, expected.argmin(1, keepdim=True), -torch.inf)
        torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
        with OpenInference(server.url, classes=3, **settings) as box, pytest.raises(InputError, match="class_names="):
            box(images())
        with (
            OpenInference(server.url, class_names=["cat", "dog"], **settings) as box,
            pytest.raises(BlackBoxError, match="returned the class 'cow', which is not in class_names"),
        ):
            box(images())


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"shape": [5], "datatype": "INT64", "data": [0, 1, 2, 0, 1]}, r"labels only \(int64 of shape \(5,\)\)"),
        ({"shape": [5, 1], "datatype": "BYTES", "data": ["a"] * 5}, r"labels only \(names of shape \(5, 1\)\)"),
    ],
)
def test_labels_only(output, message):
    def labels(handler, body):
        handler.send_json({"outputs": [{"name": "label", **output}]})

    with Server(respond=labels) as server, OpenInference(server.url, input="x", **QUICK) as box:
        with pytest.raises(BlackBoxError, match=message + ", and they are not enough; it takes logits"):
            box(images())
        assert adds_up(box)["requests_failed"] == {"unusable": 1}, "asking again would not help"


@pytest.fixture
def interruptible():
    """Ctrl-C raises, also where the tests run as a background job: shells start those with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_request_in_flight():
    held = threading.Event()

    def never(handler, body):
        held.set()
        handler.server.going.wait(30)

    with Server(respond=never, **META) as server, OpenInference(server.url, timeout=30.0) as box:

        def press():
            held.wait(5)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=press).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            box(images())
        assert time.monotonic() - began < 5, "long before the time limit"
        assert adds_up(box)["requests_failed"] == {"cancelled": 1}
        server.going.set()


def test_closed_and_forgotten_boxes():
    with Server(linear, **META) as server:
        box = OpenInference(server.url, **QUICK)
        box.close()
        box.close()
        with pytest.raises(BlackBoxError, match="connection to the server is closed; open the target again"):
            box(images())
        before = {thread.name for thread in threading.enumerate()}
        assert "zoracle-http" not in before
        forgotten = OpenInference(server.url, **QUICK)
        del forgotten
        gc.collect()
        assert "zoracle-http" not in {thread.name for thread in threading.enumerate()}


def test_inside_a_running_event_loop():
    import asyncio

    with Server(linear, **META) as server, OpenInference(server.url, **QUICK) as box:

        async def notebook():
            return box(images())

        assert asyncio.run(notebook()).shape == (5, 3)


@pytest.mark.parametrize("module", ["httpx", "tenacity"])
def test_the_extra_is_named(module, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'zoracle\[http\]'"):
        OpenInference("http://127.0.0.1:1/v2/models/m")
