"""On a CUDA device everything is what it is on the CPU, to rounding; run by ``make test-gpu``."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import zoracle
from problems import Bowls
from variants import VARIANTS, begin, build, fenced
from zoracle.blackboxes.targets import open_target
from zoracle.blackboxes.torch_module import TorchModule
from zoracle.errors import InputError
from zoracle.evaluation.evaluate import evaluate
from zoracle.evaluation.spec import RunSpec
from zoracle.interop.torch_optim import ZerothOrder
from zoracle.optimizers.base import with_settings
from zoracle.optimizers.pretrained import resolve, shipped
from zoracle.rollout import rollout
from zoracle.rollout.oracle import Oracle
from zoracle.state import flatten, unflatten
from zoracle.storage.files import read_tensors, write_tensors
from zoracle.tasks import names, task
from zoracle.types import Purpose

pytestmark = pytest.mark.gpu
ROWS = torch.arange(3)
STEPS = 6
# Its weights are not random ones: torch's initialisation would use the global random state.
_TARGET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3))

    def forward(self, x):
        return x @ self.weight

make = Net
"""


def close(got: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-7) -> None:
    torch.testing.assert_close(got.cpu(), expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


def run(name: str, device: str, steps: int = STEPS, state=None):
    optimizer, objective = build(name), fenced(name, 3, 8)
    if hasattr(optimizer.config, "mu"):  # the default one makes 1e8 of a last digit
        optimizer = with_settings(optimizer, mu=1e-3)
    if isinstance(optimizer, nn.Module):
        optimizer.to(device)
    x0 = torch.linspace(-0.5, 0.5, 24, dtype=torch.float64).view(3, 8).to(device)
    oracle = Oracle(objective)
    if state is None:
        state = begin(optimizer, objective, x0, seed=4, horizon=STEPS)
    state, trajectory = rollout(optimizer, oracle, state, steps)
    return state, trajectory, oracle.counts[Purpose.OPTIMISE]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_optimizer_takes_the_same_steps(name: str) -> None:
    here, curve, paid = run(name, "cpu")
    there, other, cost = run(name, "cuda")
    assert there.x.is_cuda
    close(there.x, here.x)
    close(other.final_loss, curve.final_loss)
    close(other.best, curve.best)
    assert torch.equal(cost, paid)
    assert other.best_point.device.type == "cpu", "what is kept is kept on the CPU"


@pytest.mark.parametrize("name", ["zo-lstm", "zo-adam", "snes", "square"])
def test_a_run_is_saved_and_goes_on(name: str, tmp_path) -> None:
    whole, _, _ = run(name, "cuda")
    half, _, _ = run(name, "cuda", 2)
    write_tensors(tmp_path / "state.safetensors", flatten(half), {})
    restored = unflatten(half, read_tensors(tmp_path / "state.safetensors")[0])
    rest, _, _ = run(name, "cuda", STEPS - 2, restored)
    close(rest.x, whole.x.cpu())


def test_scouting_with_a_belief_takes_the_same_steps() -> None:
    found = []
    for device in ("cpu", "cuda"):
        optimizer = copy.deepcopy(resolve("zo-lstm-universal").optimizer).to(device)
        x0 = torch.linspace(-0.5, 0.5, 90, dtype=torch.float64).view(3, 30).to(device)
        state = optimizer.init(x0, seed=1, horizon=200)
        found.append(rollout(optimizer, Oracle(Bowls(3, 30)), state, 12)[0])
    assert found[1].x.is_cuda
    close(found[1].x, found[0].x, rtol=1e-4)


@pytest.mark.parametrize("name", names())
def test_every_task_has_the_same_values(name: str) -> None:
    try:
        made = task(name)
        ids = made.ids("valid")[:3]
    except InputError as error:
        pytest.skip(f"needs data: {error}")
    x = made.start(ids, seed=2, dtype=torch.float64)
    step = torch.zeros(3, dtype=torch.int64)
    values = []
    for device in ("cpu", "cuda"):
        objective = made.objective(ids, dtype=torch.float64, device=device)
        values.append(objective.evaluate(x.to(device), ROWS, step if objective.stochastic else None))
    assert values[1].loss.is_cuda
    close(values[1].loss, values[0].loss, rtol=1e-5)
    if values[0].success is not None:
        assert torch.equal(values[1].success.cpu(), values[0].success)


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("zo-lstm")])
def test_shipped_optimizers_are_moved_to_where_the_points_are(name: str) -> None:
    centre = torch.linspace(-1, 1, 20, device="cuda")
    counted = []

    def f(x: torch.Tensor) -> torch.Tensor:
        assert x.is_cuda
        counted.append(x.shape[0])
        return (x - centre).square().sum(1)

    found = zoracle.minimize(f, torch.zeros(20, device="cuda"), budget=2100, optimizer=name)
    assert sum(counted) == found.queries <= 2100
    assert float(found.value) < 0.8 * float(centre.square().sum())
    digits = task("digits")
    here, there = (
        evaluate(resolve(name).optimizer, digits, RunSpec(ids=digits.ids("valid")[:4], steps=4, device=device))
        for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(there.losses, here.losses, rtol=0.05, atol=0.05)


def test_a_learned_optimizer_trains_parameters() -> None:
    x = nn.Parameter(torch.ones(30, device="cuda"))
    optimizer = ZerothOrder([x], "zo-lstm", horizon=50)
    losses = [float(optimizer.step(lambda: x.square().sum())) for _ in range(50)]
    assert losses[-1] < losses[0] / 2


def test_an_attack_asks_as_often_and_finds_the_same_images() -> None:
    digits = task("digits")
    ids = digits.ids("test")[:6]
    images, network = digits.pictures(ids).images.double(), digits.objective(ids).black_box.module
    labels = digits.pictures(ids).labels
    results = []
    for device in ("cpu", "cuda"):
        moved = copy.deepcopy(network).double().to(device)
        options = {"budget": 420, "optimizer": "zo-adam", "lr": 0.02, "mu": 1e-3, "seed": 4}
        results.append(zoracle.attack(TorchModule(moved), images.to(device), labels.to(device), **options))
    here, there = results
    assert torch.equal(there.success.cpu(), here.success)
    assert torch.equal(there.queries.cpu(), here.queries)
    close(torch.as_tensor(there.adversarial), torch.as_tensor(here.adversarial), rtol=1e-6)


def test_a_target_is_moved_to_the_device_it_is_opened_on(tmp_path, monkeypatch) -> None:
    (tmp_path / "a_cuda_target.py").write_text(_TARGET)
    monkeypatch.syspath_prepend(tmp_path)
    box = open_target("torch:a_cuda_target:make", device="cuda")
    assert next(box.module.parameters()).is_cuda
    assert box(torch.zeros(2, 4)).device.type == "cpu", "answers lie where the questions did"
