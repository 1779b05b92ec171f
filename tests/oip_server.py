"""A server that speaks the Open Inference Protocol (v2), from the standard library, with faults by a seed."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

TYPES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "UINT8": "<u1", "INT64": "<i8"}
HEADER = "Inference-Header-Content-Length"

#: Everything that may go wrong with a request; each ends with no usable answer.
FAULTS = ("slow", "500", "503", "429", "reset", "truncated", "not-json", "shape", "nan", "empty", "short-tensor")


class Server(ThreadingHTTPServer):
    """Answers with ``model(array) -> array`` at ``url``; use it in a with statement.

    Args:
        model: images (n, ...) in their type to scores (n, classes).
        faults: share of the requests that fail.
        kinds: how they fail.
        seed: of the faults.
        binary: whether it has the binary tensor data extension.
        inputs, outputs: its metadata; None leaves them empty.
        slow: seconds that a slow answer takes.
        respond: takes the handler and the request instead of a model.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, model=None, *, faults=0.0, kinds=FAULTS, seed=0, binary=False, inputs=(), outputs=(), slow=0.5,
        respond=None, name="m", headers=None,
    ):  # fmt: skip
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.faults, self.kinds, self.binary, self.slow = model, faults, kinds, binary, slow
        self.inputs, self.outputs, self.respond, self.name = list(inputs), list(outputs), respond, name
        self.required = headers or {}
        self.random = random.Random(seed)
        self.deck: list[str] = []
        self.lock = threading.Lock()
        self.received: list[int] = []  # images of each inference request
        self.injected: Counter[str] = Counter()
        self.seen_headers: list[dict[str, str]] = []
        self.in_flight = self.most_in_flight = 0
        self.going = threading.Event()

    @property
    def base(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def url(self):
        return f"{self.base}/v2/models/{self.name}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.going.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that went away is no news."""

    def draw(self):
        with self.lock:
            if self.random.random() >= self.faults:
                return ""
            if not self.deck:  # each kind once before one comes again
                self.deck = self.random.sample(self.kinds, len(self.kinds))
            kind = self.deck.pop()
            self.injected[kind] += 1
            return kind


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits for 40 ms

    def log_message(self, *args):
        """Quiet."""

    def do_GET(self):
        server = self.server
        if any(self.headers.get(name) != value for name, value in server.required.items()):
            return self.send_json({"error": f"no entry with {dict(self.headers)}"}, status=401)
        if self.path.endswith("/v2/health/ready"):
            return self.send_json({})
        if self.path.endswith("/v2"):
            extensions = ["binary_tensor_data"] if server.binary else []
            return self.send_json({"name": "test", "version": "1", "extensions": extensions})
        if self.path.split("/v2/models/")[-1].split("/")[0] == server.name:
            return self.send_json({"name": server.name, "inputs": server.inputs, "outputs": server.outputs})
        return self.send_json({"error": f"Model {self.path.rsplit('/', 1)[-1]} not found"}, status=404)

    def do_POST(self):
        server = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with server.lock:
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
            server.seen_headers.append(dict(self.headers))
        try:
            if server.respond is not None:
                return server.respond(self, body)
            return self.infer(body)
        finally:
            with server.lock:
                server.in_flight -= 1

    def infer(self, body):
        server = self.server
        request, array = parse(body, self.headers.get(HEADER))
        with server.lock:
            server.received.append(len(array))
        fault = server.draw()
        if fault == "slow":
            server.going.wait(server.slow)
        if fault in ("500", "503", "429"):
            headers = {"Retry-After": "0"} if fault == "429" else {}
            return self.send_json({"error": f"injected {fault}"}, status=int(fault), headers=headers)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return None
        scores = np.asarray(server.model(array), dtype=np.float32)
        if fault == "nan":
            scores = scores.copy()
            scores[len(scores) // 2, 0] = np.nan
        if fault == "shape":
            scores = scores[:, :-1]
        wanted = request.get("outputs") or [{"name": "scores"}]
        as_bytes = wanted[0].get("parameters", {}).get("binary_data", False) or request.get("parameters", {}).get(
            "binary_data_output", False
        )
        output = {"name": wanted[0]["name"], "shape": list(scores.shape), "datatype": "FP32"}
        if as_bytes and server.binary:
            output["parameters"] = {"binary_data_size": scores.nbytes}
            data = scores.tobytes()
        else:
            output["data"] = scores.ravel().tolist()
            data = b""
        head = json.dumps({"model_name": server.name, "outputs": [output]}).encode()
        if fault == "not-json":
            head = b"<html>" + head
        if fault == "empty":
            head, data = b"", b""
        if fault == "short-tensor":
            if data:
                data = data[:-4]
            else:
                output["data"] = output["data"][:-1]
                head = json.dumps({"outputs": [output]}).encode()
        answer = head + data
        headers = {HEADER: str(len(head))} if output.get("parameters") else {}
        if fault == "truncated":
            self.send(answer[: len(answer) // 2], length=len(answer), headers=headers)
            self.close_connection = True
            return None
        return self.send(answer, headers=headers)

    def send_json(self, value, *, status=200, headers=None):
        return self.send(json.dumps(value).encode(), status=status, headers=headers)

    def send(self, body, *, status=200, headers=None, length=None):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def parse(body, header_length):
    """The request, and the array of its one input."""
    length = len(body) if header_length is None else int(header_length)
    request = json.loads(body[:length])
    (tensor,) = request["inputs"]
    dtype = TYPES[tensor["datatype"]]
    if size := tensor.get("parameters", {}).get("binary_data_size"):
        array = np.frombuffer(body[length : length + size], dtype)
        assert length + size == len(body)
    else:
        array = np.asarray(tensor["data"]).astype(dtype)
    return request, array.reshape(tensor["shape"])


class FakeClock:
    """Time that passes only where somebody waits for it."""

    def __init__(self):
        self.time = 100.0
        self.slept = []

    def now(self):
        return self.time

    async def sleep(self, seconds):
        self.slept.append(seconds)
        until = self.time + seconds
        self.time = max(self.time, until)
