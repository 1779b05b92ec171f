"""ONNX files for tests, made by ``onnx.helper``."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FLOAT = TensorProto.FLOAT


def save(path, nodes, inputs, outputs, weights=()):
    """A file of a graph; inputs and outputs are (name, element type, shape)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(weights).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def linear(path, weight, *, shape=("N", 4), dtype=FLOAT, cast=False, outputs=None, extra=()):
    """Scores = flatten(x) @ weight; the input is cast to float where it is of another type."""
    nodes = [helper.make_node("Flatten", ["x"], ["flat"], axis=1)]
    if cast:
        nodes.append(helper.make_node("Cast", ["flat"], ["cast"], to=FLOAT))
    nodes.append(helper.make_node("MatMul", ["cast" if cast else "flat", "w"], ["scores"]))
    kind = FLOAT if cast else dtype
    outputs = outputs or [("scores", kind, [shape[0], weight.shape[1]])]
    return save(path, [*nodes, *extra], [("x", dtype, list(shape))], outputs, {"w": weight})


def digits(path, module, *, batch="N"):
    """The target network of the digits task, with a free or a fixed batch size."""
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    nodes = []
    last = "images"
    for name in ("conv1", "conv2"):
        names = [last, f"{name}.weight", f"{name}.bias"]
        nodes += [
            helper.make_node("Conv", names, [f"{name}.out"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"{name}.out"], [f"{name}.relu"]),
            helper.make_node("MaxPool", [f"{name}.relu"], [f"{name}.pool"], kernel_shape=[2, 2], strides=[2, 2]),
        ]
        last = f"{name}.pool"
    nodes += [
        helper.make_node("Flatten", [last], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], transB=1),
    ]
    return save(path, nodes, [("images", FLOAT, [batch, 1, 8, 8])], [("logits", FLOAT, [batch, 10])], weights)
