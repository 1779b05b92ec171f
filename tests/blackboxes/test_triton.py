"""A real Triton Inference Server on the loopback interface: a linear model behind it, attacked as any other target.

The binaries are those in ``nvidia-pytriton``. It needs an older NumPy than this environment has, so that both are put
into an environment of their own, which is gone after the test. The model is run by Triton's Python backend.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import zoracle
from classifiers import CLASSES, IMAGES, LABELS, SHAPE, WEIGHT
from server_processes import free_ports, running
from zoracle.blackboxes import OpenInference, PythonFunction
from zoracle.errors import BlackBoxError, InputError

WANTED = ("httpx", "tenacity")
MISSING = [name for name in WANTED if find_spec(name) is None]
HERE = (sys.platform, platform.machine())
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(HERE != ("linux", "x86_64"), reason=f"Triton's binaries are for x86-64 Linux; this is {HERE}"),
    pytest.mark.skipif(
        sys.version_info >= (3, 13), reason="NumPy 1.26, which goes with Triton's backend, is for Python up to 3.12"
    ),
]
#: Triton 2.51. With NumPy 2.4 its Python backend answers with empty tensors.
PACKAGES = ("nvidia-pytriton==0.7.0", "numpy==1.26.4")
VERSION = "{}.{}".format(*sys.version_info[:2])
LARGEST_BATCH = 8

CONFIG = f"""
backend: "python"
max_batch_size: {LARGEST_BATCH}
input [{{ name: "images" data_type: TYPE_FP32 dims: {list(SHAPE)} }}]
output [{{ name: "scores" data_type: TYPE_FP32 dims: [ {CLASSES} ] }}]
instance_group [{{ kind: KIND_CPU }}]
"""

#: Sums in double precision, so that what is rounded to single precision does not depend on who sums in which order.
MODEL = """
import pathlib
import numpy as np
import triton_python_backend_utils as pb_utils

weight = np.load(pathlib.Path(__file__).with_name("weight.npy")).astype(np.float64)


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            images = pb_utils.get_input_tensor_by_name(request, "images").as_numpy()
            if images.max() > 1:
                raise ValueError("pixels above 1")
            scores = (images.reshape(len(images), -1).astype(np.float64) - 0.5) @ weight
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("scores", scores.astype(np.float32))]))
        return answers
"""


def linear(images):
    """What the server's model is, in this process."""
    flat = images.flatten(1).double() - 0.5
    return (flat @ torch.from_numpy(WEIGHT).double()).float()


def install(folder: Path) -> Path:
    """An environment with Triton's binaries; the test is skipped where there can be none."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--retries", "1", "install"]
    try:
        done = subprocess.run(
            [*pip, "--quiet", "--no-deps", "--only-binary", ":all:", *PACKAGES],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{' and '.join(PACKAGES)} could not be installed within 300 s")
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip does not say why"]
        pytest.skip(f"{' and '.join(PACKAGES)} cannot be installed here: {told[-1][:200]}")
    return folder / "lib" / f"python{VERSION}" / "site-packages"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server with the model ``linear``."""
    with tempfile.TemporaryDirectory(dir=tmp_path_factory.mktemp("triton")) as name:  # 300 MB: not kept
        folder = Path(name)
        packages = install(folder / "venv")
        triton = packages / "pytriton" / "tritonserver"
        libraries = [str(packages / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR") or ""]
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(one for one in libraries if one),
            "PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        backends = Path(shutil.copytree(triton / "backends", folder / "backends"))
        stub = triton / "python_backend_stubs" / VERSION / "triton_python_backend_stub"
        linked = subprocess.run(["ldd", str(stub)], capture_output=True, text=True, check=True, env=environment).stdout
        if lost := [line.split()[0] for line in linked.splitlines() if "not found" in line]:
            pytest.skip(f"Triton's Python backend needs shared libraries that are not here: {', '.join(lost)}")
        shutil.copy2(stub, backends / "python")
        code = folder / "models" / "linear" / "1"
        code.mkdir(parents=True)
        (code / "model.py").write_text(MODEL)
        np.save(code / "weight.npy", WEIGHT)
        code.with_name("config.pbtxt").write_text(CONFIG)
        http = free_ports(1)[0]
        command = [
            str(triton / "bin" / "tritonserver"),
            *("--model-repository", str(folder / "models"), "--backend-directory", str(backends)),
            *("--http-address", "127.0.0.1", "--http-port", str(http)),
            *("--allow-grpc", "false", "--allow-metrics", "false"),
        ]
        with running(command, http, folder, environment, seconds=120) as url:
            yield url


def statistics(url: str) -> dict[str, int]:
    """What the server has counted of the model: images answered, requests answered and failed."""
    import httpx

    (told,) = httpx.get(f"{url}/v2/models/linear/stats", trust_env=False).json()["model_stats"]
    requests = told["inference_stats"]
    return {
        "images": int(told.get("inference_count", 0)),
        "answered": int(requests["success"].get("count", 0)),
        "failed": int(requests["fail"].get("count", 0)),
    }


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.parametrize("binary", [None, False])
def test_the_same_scores_and_adversarial_images_as_in_process_and_as_many_queries_as_the_server_counts(server, binary):
    images, labels = IMAGES[:3], LABELS[:3]
    run = {"norm": "linf", "eps": 0.05, "budget": 60, "optimizer": "square", "seed": 1}
    before = statistics(server)
    with OpenInference(f"{server}/v2/models/linear", chunk=2, binary=binary, outputs="logits") as box:
        assert (box.input, box.datatype, box.wanted) == ("images", "FP32", ("scores",))
        assert box.binary is (binary is None), "the server tells that it has the extension"
        assert torch.equal(box(images), linear(images))
        one = zoracle.attack(box, images, labels, **run)
        counts = box.report()["attempts"]
    after = statistics(server)

    direct = PythonFunction(linear, outputs="logits")
    other = zoracle.attack(direct, images, labels, **run)
    assert one.success.any()
    assert len(set(one.queries.tolist())) > 1, "counts that are not a mere multiple of the budget"
    assert one.success.tolist() == other.success.tolist()
    assert one.queries.tolist() == other.queries.tolist()
    assert torch.equal(one.adversarial, other.adversarial)

    queries = int(one.queries.sum()) + len(images)
    assert after["images"] - before["images"] == queries
    assert counts["images_sent"] == counts["images_answered"] == counts["images_billed"] == queries
    assert after["answered"] - before["answered"] == counts["requests_answered"] == counts["requests_sent"]
    assert after["failed"] == before["failed"]
    assert not counts["requests_failed"]


def test_what_the_server_says_is_told_in_one_line(server):
    with pytest.raises(BlackBoxError, match="unknown model: 'other'") as caught:
        OpenInference(server, model="other")
    assert "\n" not in str(caught.value)
    with OpenInference(f"{server}/v2/models/linear", chunk=LARGEST_BATCH + 1) as box:
        with pytest.raises(BlackBoxError, match=f"batch-size must be <= {LARGEST_BATCH}") as caught:
            box(IMAGES.repeat(2, 1, 1, 1))
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match=r"input images of linear has shape \(N, 3, 4, 5\), and the images arrive"):
            box(IMAGES[:, :1])


def test_an_error_of_the_model_is_told_in_one_line_after_as_many_attempts_as_the_server_counts(server):
    before = statistics(server)
    with OpenInference(f"{server}/v2/models/linear", attempts=2, backoff=0.01) as box:
        with pytest.raises(BlackBoxError, match="ValueError: pixels above 1") as caught:
            box(IMAGES + 1)
        assert "\n" not in str(caught.value)
        counts = box.report()["attempts"]
        assert torch.equal(box(IMAGES), linear(IMAGES)), "the model continues"
    assert counts["requests_failed"] == {"status": 2}
    after = statistics(server)
    assert (after["failed"] - before["failed"], after["images"] - before["images"]) == (2, len(IMAGES))
