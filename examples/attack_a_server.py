"""Attack a model that is only a server: it speaks the Open Inference Protocol, and now and then it fails.

Needs the extra ``http``. The server here is a stand-in from the standard library; point ``open_target`` at yours.
"""

import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

import zoracle
from zoracle.blackboxes import open_target
from zoracle.tasks import task

digits = task("digits")
pictures = digits.pictures(digits.ids("test")[:8])
network = digits.objective(digits.ids("test")[:8]).black_box
numbers = itertools.count(1)


class Server(BaseHTTPRequestHandler):
    """What a server has to answer: that it is ready, what the model takes, and the scores of images."""

    def do_GET(self):
        """What the model takes; and that the server is ready."""
        if self.path == "/v2/models/digits":
            self.answer({"inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]})
        else:
            self.answer({})

    def do_POST(self):
        """Scores of images, but every tenth time none."""
        fails = next(numbers) % 10 == 0
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        images = torch.tensor(request["inputs"][0]["data"]).view(request["inputs"][0]["shape"])
        scores = network(images).softmax(1)
        output = {"name": "scores", "datatype": "FP32", "shape": list(scores.shape), "data": scores.flatten().tolist()}
        self.answer({"error": "busy"} if fails else {"outputs": [output]}, 503 if fails else 200)

    def answer(self, value, status=200):
        """Send JSON."""
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Quiet."""


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_address[1]}/v2/models/digits"

with open_target(url, backoff=0.01, log="attempts.jsonl") as target:
    result = zoracle.attack(target, pictures.images, pictures.labels, budget=630, optimizer="zo-adam", lr=0.02, mu=1e-2)
    counts = target.report()["attempts"]
server.shutdown()
server.server_close()

print(f"{int(result.success.sum())} of {len(result.success)} images broken by {int(result.queries.sum())} queries")
print(f"images sent {counts['images_sent']}, of them in failed attempts {counts['images_in_failed_attempts']}")
