"""A real MLServer on the loopback interface: the digits network behind it, attacked as any other target."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import zoracle
from server_processes import free_ports, running
from zoracle.blackboxes import OpenInference, TorchModule
from zoracle.errors import BlackBoxError, InputError
from zoracle.tasks import task
from zoracle.tasks.digits import ASSETS
from zoracle.tasks.networks import DigitsNet, load_network

#: Looked for and not imported: it takes a second, and this process does not need it.
WANTED = ("mlserver", "httpx", "tenacity")
MISSING = [name for name in WANTED if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

#: The digits network in NumPy: a server that imported torch would take seconds more to start.
RUNTIME = """
import os
import numpy as np
from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse, ResponseOutput
from safetensors.numpy import load_file


def layer(x, weight, bias):
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
    y = np.maximum(np.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, None, None], 0)
    n, c, h, w = y.shape
    return y.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))


class Digits(MLModel):
    async def load(self):
        self.weights = load_file(os.environ["DIGITS_WEIGHTS"])
        return True

    async def predict(self, payload):
        images = payload.inputs[0]
        if images.name != "images":
            raise InferenceError(f"no input {images.name}")
        x = np.asarray(list(images.data), dtype=np.float32).reshape(images.shape)
        w = self.weights
        for name in ("conv1", "conv2"):
            x = layer(x, w[name + ".weight"], w[name + ".bias"])
        scores = x.reshape(len(x), -1) @ w["fc.weight"].T + w["fc.bias"]
        output = ResponseOutput(name="scores", shape=list(scores.shape), datatype="FP32", data=scores.ravel().tolist())
        return InferenceResponse(model_name=self.name, outputs=[output])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server with the models ``digits``, which has metadata, and ``bare``, which has none."""
    folder: Path = tmp_path_factory.mktemp("mlserver")
    (folder / "served_digits.py").write_text(RUNTIME)
    http, grpc = free_ports(2)
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "parallel_workers": 0, "debug": False}
    (folder / "settings.json").write_text(json.dumps({**settings, "metrics_endpoint": None}))
    metadata = {
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
    }
    for name, told in (("digits", metadata), ("bare", {})):
        (folder / name).mkdir()
        model = {"name": name, "implementation": "served_digits.Digits", **told}
        (folder / name / "model-settings.json").write_text(json.dumps(model))
    weights = str(ASSETS / "digits_target.safetensors")
    environment = {**os.environ, "PYTHONPATH": str(folder), "DIGITS_WEIGHTS": weights, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from mlserver.cli import main; main()", "start", str(folder)]
    with running(command, http, folder, environment, seconds=60) as url:
        yield url


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    digits = task("digits")
    return digits.pictures(digits.ids("test")[:5])


def test_the_same_scores_and_adversarial_images_as_through_torch(server, pictures):
    direct = TorchModule(load_network(DigitsNet, ASSETS / "digits_target.safetensors"))
    run = {"budget": 11 * 10, "optimizer": "zo-sgd", "num_directions": 10, "lr": 0.05, "mu": 1e-2, "seed": 2}
    with OpenInference(f"{server}/v2/models/digits", chunk=8, backoff=0.01) as box:
        assert (box.input, box.datatype, box.wanted, box.binary) == ("images", "FP32", ("scores",), False)
        torch.testing.assert_close(box(pictures.images), direct(pictures.images), rtol=1e-5, atol=1e-5)
        one = zoracle.attack(box, pictures.images, pictures.labels, **run)
        counts = box.report()["attempts"]
    other = zoracle.attack(direct, pictures.images, pictures.labels, **run)
    assert one.success.tolist() == other.success.tolist()
    torch.testing.assert_close(one.adversarial, other.adversarial, rtol=0, atol=1e-3)
    torch.testing.assert_close(one.trajectory.loss, other.trajectory.loss, rtol=1e-3, atol=1e-3)
    assert counts["images_answered"] == counts["images_billed"] == int(one.queries.sum()) + 5
    assert counts["images_sent"] == counts["images_answered"] + counts["images_in_failed_attempts"]


def test_a_model_without_metadata(server, pictures):
    with pytest.raises(InputError, match="does not describe the input of bare; pass input="):
        OpenInference(server, model="bare")
    with OpenInference(server, model="bare", input="images") as box:
        assert box(pictures.images).argmax(1).tolist() == pictures.labels.tolist()


def test_what_it_says_is_told(server, pictures):
    with pytest.raises(BlackBoxError, match=r"status 404 \(Model other not found\)"):
        OpenInference(server, model="other")
    with OpenInference(server, model="bare", input="pixels", attempts=1) as box:
        with pytest.raises(BlackBoxError, match="no input pixels") as caught:
            box(pictures.images)
        assert "\n" not in str(caught.value)
    with (
        OpenInference(f"{server}/v2/models/digits") as box,
        pytest.raises(InputError, match=r"input images of digits has shape \(N, 1, 8, 8\), and the images arrive"),
    ):
        box(pictures.images.repeat(1, 3, 1, 1))
