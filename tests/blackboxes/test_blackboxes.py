from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from zoracle.blackboxes import BlackBox, PythonFunction, TorchModule, as_black_box, load_callable
from zoracle.calling.frameworks import choose
from zoracle.errors import BlackBoxError, InputError

WEIGHT = np.arange(12.0).reshape(4, 3)
TENSOR = torch.from_numpy(WEIGHT)


class Net(nn.Module):
    """Dropout, which would touch the global generator in training mode, and a linear layer."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.frozen = nn.Dropout(0.5)
        self.linear = nn.Linear(4, 3, dtype=dtype, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            self.linear.weight.copy_(TENSOR.T)
            self.linear.bias.zero_()
        self.calls = 0

    def forward(self, x):
        assert not self.training
        assert not self.frozen.training
        self.calls += 1
        return self.linear(self.frozen(x))


def inputs(n: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.arange(4.0 * n, dtype=dtype).view(n, 4) / 10


def test_a_module_is_called_in_eval_mode_and_left_as_it_was():
    net = Net()
    net.frozen.eval()
    outputs = TorchModule(net)(inputs())
    torch.testing.assert_close(outputs, inputs() @ TENSOR.float())
    assert (net.training, net.frozen.training, net.linear.training) == (True, False, True)


def test_training_flags_are_restored_after_an_error():
    net = Net()
    with pytest.raises(BlackBoxError, match="mat1"):
        TorchModule(net)(torch.zeros(2, 5))
    assert net.training
    assert all(p.requires_grad for p in net.parameters())


def test_gradients_reach_inputs_and_no_parameter():
    net = Net()
    x = inputs().requires_grad_(True)
    TorchModule(net)(x).sum().backward()
    torch.testing.assert_close(x.grad, TENSOR.float().sum(1).expand(2, 4))
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    with torch.no_grad():
        assert not TorchModule(net)(x).requires_grad


@pytest.mark.parametrize("own", [torch.float32, torch.float64])
@pytest.mark.parametrize("given", [torch.float32, torch.float64])
def test_outputs_come_back_in_the_type_of_the_inputs(own, given):
    assert TorchModule(Net(own))(inputs(dtype=given)).dtype is given


def test_another_dtype_is_computed_in_a_copy():
    net = Net()
    box = TorchModule(net, dtype=torch.float64)
    assert box.module is not net
    assert net.linear.weight.dtype is torch.float32
    out = box(inputs(dtype=torch.float64))
    assert out.dtype is torch.float64
    torch.testing.assert_close(out, inputs(dtype=torch.float64) @ TENSOR, rtol=1e-14, atol=0)  # kernels may differ


def test_inputs_are_normalised_by_channel():
    class Flat(nn.Module):
        def forward(self, x):
            return x.flatten(1)

    x = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(TorchModule(Flat(), preprocess=(mean, std))(x), expected.flatten(1))
    torch.testing.assert_close(TorchModule(Flat(), preprocess=(0.5, 2.0))(x), ((x - 0.5) / 2).flatten(1))
    with pytest.raises(BlackBoxError, match="3 channels"):
        TorchModule(Flat(), preprocess=(mean, std))(torch.zeros(2, 1, 4))


@pytest.mark.parametrize("preprocess", [(0.1, 0.0), (0.1,), (0.1, 0.2, 0.3)])
def test_unusable_normalisation(preprocess):
    with pytest.raises(InputError, match="preprocess"):
        TorchModule(Net(), preprocess=preprocess)


def test_what_a_model_does_wrong_is_one_line():
    class Raising(nn.Module):
        def forward(self, x):
            raise ValueError("first line\nsecond line")

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    for module, message in (
        (Raising(), "the model raised ValueError: first line"),
        (Pair(), "the model returned a tuple; expected a tensor (N, classes)"),
        (nn.Flatten(0), "the model returned shape (8,) for 2 inputs; expected (2, number of classes)"),
    ):
        with pytest.raises(BlackBoxError) as caught:
            TorchModule(module)(inputs())
        assert str(caught.value) == message


def test_numpy_and_torch_functions_give_the_same():
    expected = inputs() @ TENSOR.float()
    assert torch.equal(PythonFunction(lambda x: x @ TENSOR.float())(inputs()), expected)
    torch.testing.assert_close(PythonFunction(lambda x: x @ WEIGHT)(inputs()), expected)
    torch.testing.assert_close(PythonFunction(lambda x: (x @ WEIGHT).tolist())(inputs()), expected)
    assert not PythonFunction(lambda x: x).differentiable


def test_a_function_is_called_once_and_cannot_change_the_inputs():
    calls = []

    def model(x):
        calls.append(x.shape)
        x *= 0
        return x

    x = inputs()
    for framework in ("numpy", "torch"):
        assert torch.equal(PythonFunction(model, framework=framework)(x), torch.zeros_like(x))
    assert torch.equal(x, inputs())
    assert calls == [(2, 4), (2, 4)]


def imports_inside(x):
    import numpy

    return numpy.exp(x)


class Model:
    def __call__(self, x):
        return np.exp(x)

    def method(self, x):
        return x @ WEIGHT


@pytest.mark.parametrize(
    ("fn", "framework"),
    [
        (lambda x: x @ WEIGHT, "numpy"),
        (lambda x: np.exp(x), "numpy"),
        (np.exp, "numpy"),
        (imports_inside, "numpy"),
        (Model(), "numpy"),
        (Model().method, "numpy"),
        (functools.partial(lambda a, x: np.exp(x) + a, 1), "numpy"),
        (lambda x: torch.exp(x), "torch"),
        (lambda x: torch.from_numpy(np.exp(x.numpy())), "torch"),
        (lambda x: (x**2).sum(1), "torch"),
        (torch.exp, "torch"),
    ],
)
def test_the_framework_is_read_from_the_code(fn, framework):
    assert choose(fn, "auto") == framework


def test_the_framework_of_a_closure():
    weight = WEIGHT.copy()
    assert choose(lambda x: x @ weight, "auto") == "numpy"


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: 1 / 0, "the model raised ZeroDivisionError: division by zero when given a torch.float32 tensor"),
        (lambda x: ["a", "b"], "the model returned a list; expected numbers"),
        (lambda x: None, "the model returned a NoneType; expected numbers"),
        (lambda x: [[1], [1, 2]], "the model returned a list; expected numbers"),
        (lambda x: x * 1j, "the model returned complex numbers"),
        (lambda x: x[:1], r"the model returned shape \(1, 4\) for 2 inputs"),
    ],
)
def test_what_a_function_does_wrong_is_one_line(fn, message):
    with pytest.raises(BlackBoxError, match=message) as caught:
        PythonFunction(fn)(inputs())
    assert "\n" not in str(caught.value)


def test_as_black_box():
    box = PythonFunction(lambda x: x)
    assert as_black_box(box) is box
    assert isinstance(as_black_box(Net()), TorchModule)
    assert isinstance(as_black_box(lambda x: x), PythonFunction)
    with pytest.raises(InputError, match="model is a int; expected a torch module, a callable, or a BlackBox"):
        as_black_box(3)
    with pytest.raises(InputError, match="module is a function"):
        TorchModule(lambda x: x)
    with pytest.raises(InputError, match="framework is 'jax'"):
        PythonFunction(lambda x: x, framework="jax")
    with pytest.raises(TypeError):
        BlackBox()


def test_load_callable(tmp_path, monkeypatch):
    (tmp_path / "zoracle_users_model.py").write_text(
        "def classify(x):\n    return x\nclass A:\n    f = len\nnumber = 3\n"
    )
    (tmp_path / "zoracle_users_broken.py").write_text("raise RuntimeError('no\\nway')\n")
    monkeypatch.chdir(tmp_path)
    assert load_callable("zoracle_users_model:classify")(5) == 5
    assert load_callable("zoracle_users_model:A.f") is len
    for name, message in (
        ("zoracle_users_model", "expected module:function"),
        (":f", "expected module:function"),
        ("zoracle_no_such:f", "there is no module zoracle_no_such"),
        ("zoracle_users_broken:f", "importing zoracle_users_broken raised RuntimeError: no"),
        ("zoracle_users_model:missing", "zoracle_users_model has no missing"),
        ("zoracle_users_model:number", "is a int; expected a function"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_callable(name)
        assert "\n" not in str(caught.value)
    import sys

    assert str(tmp_path) not in sys.path
