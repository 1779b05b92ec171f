"""A target by one string: what is made of it, and what cannot be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import zoracle
from zoracle.blackboxes import OnnxModel, OpenInference, PythonFunction, TorchModule, open_target
from zoracle.errors import InputError
from zoracle.tasks import task

MODULE = '''
import numpy as np
import torch
from torch import nn

WEIGHT = np.arange(12.0).reshape(4, 3)


def classify(x):
    return np.asarray(x) @ WEIGHT


def with_torch(x):
    return torch.as_tensor(x) @ torch.from_numpy(WEIGHT).to(x)


class Net(nn.Module):
    """In training mode it would drop everything."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(WEIGHT).float())

    def forward(self, x):
        assert not self.training
        return x.flatten(1) @ self.weight


def make():
    return Net()


made = Net()


def needs(width):
    return Net()


def broken():
    raise OSError("no\\nweights")


number = 3
'''


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    import sys

    (tmp_path / "zoracle_a_target.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield tmp_path
    sys.modules.pop("zoracle_a_target", None)


X = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))
EXPECTED = X @ torch.arange(12.0).view(4, 3)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("zoracle_a_target:classify", PythonFunction),
        ("zoracle_a_target:with_torch", PythonFunction),
        ("torch:zoracle_a_target:make", TorchModule),
        ("torch:zoracle_a_target:Net", TorchModule),
        ("torch:zoracle_a_target:made", TorchModule),
    ],
)
def test_python_targets(spec, kind):
    with open_target(spec, outputs="logits", chunk=None) as box:
        assert type(box) is kind
        assert box.outputs == "logits"
        torch.testing.assert_close(box(X), EXPECTED)
        assert box.report() == {}


def test_options_reach_the_target():
    assert open_target("zoracle_a_target:classify", framework="torch").framework == "torch"
    box = open_target("torch:zoracle_a_target:make", dtype="float64", device="cpu", preprocess=(0.5, 2.0))
    assert box.dtype is torch.float64
    torch.testing.assert_close(box(X.double()), ((X.double() - 0.5) / 2) @ torch.arange(12.0).double().view(4, 3))
    x = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    box = open_target("zoracle_a_target:classify", layout="flat", pixel_max=255)
    torch.testing.assert_close(box(x), 255 * x.flatten(1) @ torch.arange(12.0).view(4, 3))


def test_an_onnx_file(folder):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    models = pytest.importorskip("onnx_models", reason="onnx is not installed")
    models.linear(folder / "m.onnx", np.arange(12.0, dtype=np.float32).reshape(4, 3))
    box = open_target("m.onnx", chunk=1)
    assert type(box) is OnnxModel
    torch.testing.assert_close(box(X), EXPECTED)


def test_a_server(tmp_path):
    pytest.importorskip("httpx", reason="httpx is not installed")
    pytest.importorskip("tenacity", reason="tenacity is not installed")
    from oip_server import Server

    told = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}
    with Server(lambda a: a @ np.arange(12.0).reshape(4, 3), **told) as server:
        for spec, options in ((server.url, {}), (server.base, {"model": "m"})):
            with open_target(spec, log=tmp_path / "log", **options) as box:
                assert type(box) is OpenInference
                torch.testing.assert_close(box(X), EXPECTED)
                assert box.report()["attempts"]["images_answered"] % 2 == 0


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (
            "",
            {},
            "target is ''; expected module:function, my_file.py:function, torch:module",
        ),
        (3, {}, "target is 3"),
        ("model", {}, "target 'model' is not a callable model; expected module:function"),
        ("weights.safetensors", {}, "is not a callable model"),
        ("model.py", {}, "is not a callable model"),
        ("net.pt", {}, "would have to be unpickled, which can run any program; .* torch:module:factory"),
        ("folder/net.PKL", {}, "would have to be unpickled"),
        ("grpc://a:1", {}, "is not an http address"),
        ("missing.onnx", {}, "missing.onnx does not exist; expected an ONNX file"),
        ("http://127.0.0.1:9", {}, "names no model"),
        ("zoracle_no_such:f", {}, "there is no module zoracle_no_such"),
        ("zoracle_a_target:number", {}, "is a int; expected a function"),
        ("zoracle_a_target:nothing", {}, "has no nothing"),
        ("zoracle_a_target:Net", {}, "is a torch module; name a function that makes it: torch:module:factory"),
        ("zoracle_a_target:made", {}, "is a torch module"),
        ("torch:zoracle_a_target", {}, "expected module:function"),
        ("torch:zoracle_a_target:needs", {}, "the factory raised TypeError: .*; it is called without arguments"),
        ("torch:zoracle_a_target:broken", {}, "the factory raised OSError: no; it is called without arguments"),
        ("torch:zoracle_a_target:classify", {}, "the factory raised TypeError"),
        ("torch:zoracle_a_target:make", {"device": "tpu9"}, "device is 'tpu9'; expected cpu, cuda"),
        ("torch:zoracle_a_target:make", {"dtype": "int64"}, "dtype is 'int64'; expected float32"),
        ("torch:zoracle_a_target:make", {"outputs": "scores"}, "outputs is 'scores'; expected one of auto"),
        (
            "zoracle_a_target:classify",
            {"timeout": 3},
            r"option timeout goes with OpenInference, and 'zoracle_a_target:classify' is a PythonFunction; it takes "
            "framework, preprocess",
        ),
        ("m.onnx", {"device": "cpu"}, "option device goes with TorchModule, and 'm.onnx' is a OnnxModel"),
        ("m.onnx", {"clock": 1}, "option clock is unknown"),
        ("zoracle_a_target:classify", {"lr": 1}, "option lr is unknown"),
    ],
)
def test_what_cannot_be_used_is_one_line(spec, options, message):
    with pytest.raises(InputError, match=message) as caught:
        open_target(spec, **options)
    assert "\n" not in str(caught.value)


def test_channels_that_do_not_fit_are_told_before_the_first_query():
    calls = []
    box = PythonFunction(calls.append, preprocess=((0.1, 0.2, 0.3), 1.0))
    with pytest.raises(InputError, match=r"preprocess has 3 channels, and the inputs have shape \(N, 1, 2, 2\)"):
        zoracle.attack(box, torch.zeros(1, 1, 2, 2), torch.tensor([0]), budget=100)
    with pytest.raises(InputError, match=r"layout NHWC needs inputs \(N, C, H, W\); these have 2 dimensions"):
        zoracle.attack(PythonFunction(calls.append, layout="NHWC"), torch.zeros(1, 4), torch.tensor([0]), budget=100)
    assert not calls


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there():
    with pytest.raises(InputError, match=r"the module cannot be moved to cuda \(") as caught:
        open_target("torch:zoracle_a_target:make", device="cuda")
    assert "\n" not in str(caught.value)


def test_torch_onnx_and_http_give_the_same_adversarial_images(folder):
    """One network, three ways to call it, the same images, budget and seed."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("httpx", reason="httpx is not installed")
    pytest.importorskip("tenacity", reason="tenacity is not installed")
    models = pytest.importorskip("onnx_models", reason="onnx is not installed")
    from oip_server import Server

    digits = task("digits")
    pictures = digits.pictures(digits.ids("test")[:6])
    network = digits.objective(digits.ids("test")[:6]).black_box.module
    models.digits(folder / "digits.onnx", network)
    told = {"inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 8, 8]}], "binary": True}
    run = {"budget": 21 * 20, "optimizer": "zo-adam", "lr": 0.02, "mu": 1e-2, "seed": 4}
    with Server(lambda a: network(torch.from_numpy(a.copy())).numpy(), **told) as server:
        boxes = [TorchModule(network), open_target("digits.onnx"), open_target(server.url)]
        first, *others = [zoracle.attack(box, pictures.images, pictures.labels, **run) for box in boxes]
        boxes[2].close()
    assert first.success.sum() >= 3
    for other in others:
        assert other.success.tolist() == first.success.tolist()
        assert other.queries_to_success.tolist() == first.queries_to_success.tolist()
        torch.testing.assert_close(other.trajectory.loss[0], first.trajectory.loss[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(other.trajectory.loss, first.trajectory.loss, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(other.adversarial, first.adversarial, rtol=0, atol=1e-3)
