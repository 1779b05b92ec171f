"""An ONNX file gives what the same model gives in torch, and what cannot be used is told in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
onnx_models = pytest.importorskip("onnx_models", reason="onnx is not installed")
from onnx import TensorProto, helper  # noqa: E402
from onnxruntime import InferenceSession  # noqa: E402

import zoracle  # noqa: E402
from zoracle.blackboxes import OnnxModel, TorchModule  # noqa: E402
from zoracle.errors import BlackBoxError, InputError, MissingExtraError  # noqa: E402
from zoracle.tasks import task  # noqa: E402
from zoracle.tasks.digits import ASSETS  # noqa: E402
from zoracle.tasks.networks import DigitsNet, load_network  # noqa: E402

WEIGHT = np.random.default_rng(0).normal(size=(4, 3))
DTYPES = [
    (TensorProto.FLOAT, np.float32, 1e-6),
    (TensorProto.DOUBLE, np.float64, 1e-14),
    (TensorProto.FLOAT16, np.float16, 2e-3),
]


def images(n=5, dtype=torch.float32, shape=(4,)):
    g = torch.Generator().manual_seed(1)
    return torch.rand(n, *shape, generator=g, dtype=torch.float64).to(dtype)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(("element", "dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("given", [torch.float32, torch.float64])
def test_scores_in_every_type(path, element, dtype, tolerance, given):
    onnx_models.linear(path, WEIGHT.astype(dtype), dtype=element)
    x = images(dtype=given)
    out = OnnxModel(path)(x)
    assert out.dtype is given
    assert not OnnxModel(path).differentiable
    expected = x.numpy().astype(dtype).astype(float) @ WEIGHT.astype(dtype).astype(float)
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=max(tolerance, 1e-6 * (given is torch.float32)))


def test_bytes_are_rounded_pixels(path):
    onnx_models.linear(path, WEIGHT.astype(np.float32), dtype=TensorProto.UINT8, cast=True)
    x = torch.tensor([[0.0, 1.0, 0.5, 0.2], [-0.1, 1.1, 0.002, 0.0019]])
    expected = np.array([[0, 255, 128, 51], [0, 255, 1, 0]]) @ WEIGHT
    np.testing.assert_allclose(OnnxModel(path, pixel_max=255)(x).numpy(), expected, rtol=1e-5)
    with pytest.raises(InputError, match="takes bytes; say that a pixel of 1 is the byte 255: pixel_max=255"):
        OnnxModel(path)


@pytest.mark.parametrize("fixed", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_a_fixed_batch_size_is_filled_up(path, fixed, n):
    onnx_models.linear(path, WEIGHT.astype(np.float32), shape=(fixed, 4))
    box = OnnxModel(path)
    np.testing.assert_allclose(box(images(n)).numpy(), images(n).numpy() @ WEIGHT, rtol=1e-5)
    with pytest.raises(InputError, match=f"chunk is 5, and .* takes batches of {fixed} only"):
        OnnxModel(path, chunk=5)


def test_chunks_are_no_larger_than_said(path, monkeypatch):
    onnx_models.linear(path, WEIGHT.astype(np.float32))
    box = OnnxModel(path, chunk=2)
    seen = []
    inner = InferenceSession.run

    def run(session, outputs, feed):
        seen.append(len(feed["x"]))
        return inner(session, outputs, feed)

    monkeypatch.setattr(InferenceSession, "run", run)
    np.testing.assert_allclose(box(images(5)).numpy(), images(5).numpy() @ WEIGHT, rtol=1e-5)
    assert seen == [2, 2, 1]


def test_preprocessing_and_layout(path):
    weight = np.random.default_rng(2).normal(size=(12, 3)).astype(np.float32)
    x = images(3, shape=(3, 2, 2))
    mean, std = (10.0, 20.0, 30.0), (2.0, 3.0, 4.0)
    normalised = (x * 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    onnx_models.linear(path, weight, shape=("N", 2, 2, 3))
    box = OnnxModel(path, preprocess=(mean, std), layout="NHWC", pixel_max=255)
    expected = normalised.permute(0, 2, 3, 1).reshape(3, 12).numpy() @ weight
    np.testing.assert_allclose(box(x).numpy(), expected, rtol=1e-4)
    onnx_models.linear(path, weight, shape=("N", 12))
    np.testing.assert_allclose(OnnxModel(path, layout="flat")(x).numpy(), x.flatten(1).numpy() @ weight, rtol=1e-5)


def test_the_output_is_found_or_named(path):
    label = helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0)
    twice = helper.make_node("Add", ["scores", "scores"], ["twice"])
    scores, labels = ("scores", TensorProto.FLOAT, ["N", 3]), ("label", TensorProto.INT64, ["N"])
    other = ("twice", TensorProto.FLOAT, ["N", 3])
    weight = WEIGHT.astype(np.float32)
    expected = images().numpy() @ WEIGHT

    onnx_models.linear(path, weight, outputs=[labels, scores], extra=[label])
    np.testing.assert_allclose(OnnxModel(path)(images()).numpy(), expected, rtol=1e-5)
    with pytest.raises(BlackBoxError, match=r"output label .* has shape \(5,\) and type int64 .* scores of the top k"):
        OnnxModel(path, output="label")(images())

    onnx_models.linear(path, weight, outputs=[scores, other], extra=[twice])
    np.testing.assert_allclose(OnnxModel(path, output="twice")(images()).numpy(), 2 * expected, rtol=1e-5)
    with pytest.raises(InputError, match=r"has 2 outputs of scores .* name one: output="):
        OnnxModel(path)
    with pytest.raises(InputError, match=r"has no output 'no'; it has scores tensor\(float\) \('N', 3\)"):
        OnnxModel(path, output="no")

    onnx_models.linear(path, weight, outputs=[labels, scores], extra=[label])
    by_labels = OnnxModel(path, outputs="labels")
    assert by_labels.wanted == ("label",)
    onnx_models.linear(path, weight, outputs=[labels], extra=[label])
    only = OnnxModel(path)
    assert only.outputs == "labels", "there are no scores, and no query is needed to know"
    for box in (by_labels, only):
        assert box(images()).flatten().tolist() == expected.argmax(1).tolist()
    with pytest.raises(InputError, match=r"has 0 outputs of scores .* it takes logits, probabilities"):
        OnnxModel(path, outputs="logits")


def test_the_k_best_only(path):
    top = helper.make_node("TopK", ["scores", "k"], ["best", "which"], axis=1)
    outputs = [("best", TensorProto.FLOAT, ["N", 2]), ("which", TensorProto.INT64, ["N", 2])]
    onnx_models.save(
        path,
        [helper.make_node("MatMul", ["x", "w"], ["scores"]), top],
        [("x", TensorProto.FLOAT, ["N", 4])],
        outputs,
        {"w": WEIGHT.astype(np.float32), "k": np.array([2])},
    )
    out = OnnxModel(path, top_k=("which", "best"), classes=3)(images())
    expected = torch.from_numpy(images().numpy() @ WEIGHT).float()
    least = expected.argmin(1, keepdim=True)
    torch.testing.assert_close(out, expected.scatter(1, least, -torch.inf))
    with pytest.raises(InputError, match="pass the number of classes, such as classes=1000"):
        OnnxModel(path, top_k=("which", "best"))(images())
    with pytest.raises(InputError, match="has no output 'labels'"):
        OnnxModel(path, top_k=("labels", "best"), classes=3)


@pytest.mark.parametrize("shape", [("N", 1, 8, 8), ("N", 5), (None, 4, 1)])
def test_a_wrong_shape_is_told_before_the_first_query(path, shape):
    onnx_models.linear(path, np.zeros((int(np.prod(shape[1:])), 3), dtype=np.float32), shape=shape)
    with pytest.raises(InputError, match=r"input x of model.onnx has shape \(N, .*arrive as \(N, 4\)") as caught:
        zoracle.attack(OnnxModel(path), images(), torch.zeros(5, dtype=torch.int64), budget=100)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_used(path, tmp_path):
    with pytest.raises(InputError, match=r"does not exist; expected an ONNX file"):
        OnnxModel(path)
    with pytest.raises(InputError, match="is a folder"):
        OnnxModel(tmp_path)
    for content in (b"", b"no model", bytes(range(256)) * 9):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"is not an ONNX model that onnxruntime can run \(") as caught:
            OnnxModel(path)
        assert "\n" not in str(caught.value)
    whole = onnx_models.linear(path, WEIGHT.astype(np.float32)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is not an ONNX model"):
        OnnxModel(path)


def test_inputs_that_cannot_be_used(path):
    add = helper.make_node("Add", ["a", "b"], ["sum"])
    two = [("a", TensorProto.FLOAT, ["N", 4]), ("b", TensorProto.FLOAT, ["N", 4])]
    onnx_models.save(path, [add], two, [("sum", TensorProto.FLOAT, ["N", 4])])
    with pytest.raises(InputError, match=r"has 2 inputs \(a, b\); expected one, the images"):
        OnnxModel(path)
    same = helper.make_node("Identity", ["a"], ["b"])
    onnx_models.save(path, [same], [("a", TensorProto.STRING, ["N", 4])], [("b", TensorProto.STRING, ["N", 4])])
    with pytest.raises(InputError, match="outputs of scores"):
        OnnxModel(path)
    with pytest.raises(InputError, match=r"input a of .* is tensor\(string\); expected images"):
        OnnxModel(path, output="b")
    onnx_models.linear(path, WEIGHT.astype(np.float32))
    with pytest.raises(InputError, match="has no input 'y'; its input is x"):
        OnnxModel(path, input="y")
    for settings, message in (
        ({"providers": ["NoSuchProvider"]}, "has no provider 'NoSuchProvider'; it has "),
        ({"chunk": 0}, "chunk is 0"),
        ({"chunk": "3"}, "chunk is '3'"),
        ({"top_k": 3}, "top_k names two outputs"),
        ({"threads": 0}, "threads is 0"),
        ({"layout": "HWC"}, "layout is 'HWC'; expected one of NCHW, NHWC, flat"),
        ({"pixel_max": 0}, "pixel_max is 0"),
        ({"preprocess": (0.5, 0.0)}, "preprocess is"),
        ({"preprocess": ("a", 1.0)}, "preprocess is"),
        ({"preprocess": 3}, "preprocess is"),
    ):
        with pytest.raises(InputError, match=message):
            OnnxModel(path, **settings)


def test_a_model_that_fails_is_one_line(path):
    reshape = helper.make_node("Reshape", ["x", "to"], ["y"])
    shape = {"to": np.array([7, 3])}
    onnx_models.save(path, [reshape], [("x", 1, ["N", 4])], [("y", 1, ["A", "B"])], shape)
    with pytest.raises(BlackBoxError, match=r"model.onnx failed on inputs \(5, 4\): ") as caught:
        OnnxModel(path)(images())
    assert "\n" not in str(caught.value)


def test_the_extra_is_named(path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'zoracle\[onnx\]'"):
        OnnxModel(path)


@pytest.mark.parametrize("batch", ["N", 16])
def test_the_same_adversarial_images_as_through_torch(path, batch):
    digits = task("digits")
    pictures = digits.pictures(digits.ids("test")[:6])
    module = load_network(DigitsNet, ASSETS / "digits_target.safetensors")
    onnx_models.digits(path, module, batch=batch)
    box = OnnxModel(path)
    torch.testing.assert_close(box(pictures.images), TorchModule(module)(pictures.images), rtol=1e-5, atol=1e-5)
    settings = {"budget": 11 * 20, "optimizer": "zo-sgd", "num_directions": 10, "lr": 0.05, "mu": 1e-2, "seed": 3}
    one, other = (zoracle.attack(b, pictures.images, pictures.labels, **settings) for b in (box, TorchModule(module)))
    assert one.queries.tolist() == other.queries.tolist() == [220] * 6
    assert one.success.tolist() == other.success.tolist()
    assert one.queries_to_success.tolist() == other.queries_to_success.tolist()
    torch.testing.assert_close(one.adversarial, other.adversarial, rtol=0, atol=1e-3)
    torch.testing.assert_close(one.trajectory.loss, other.trajectory.loss, rtol=1e-3, atol=1e-3)
    assert box.report()["file"] == "model.onnx"
