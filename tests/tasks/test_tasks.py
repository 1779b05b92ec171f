from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from zoracle.errors import CheckpointError, InputError
from zoracle.keyed import generator
from zoracle.objectives import Attack, ThreatModel
from zoracle.tasks import SPLITS, Task, names, task
from zoracle.tasks.cifar10 import train_robust_target
from zoracle.tasks.datasets import find_data
from zoracle.tasks.digits import train_digits_target
from zoracle.tasks.image_attack import ASSETS, read_splits
from zoracle.tasks.mnist import MNISTAttack, read_mnist, train_mnist_target
from zoracle.tasks.networks import DigitsNet, MNISTNet, ResNet20, build, load_network
from zoracle.tasks.synthetic import DrawnTask
from zoracle.tasks.training import initialise, margins, signed_step, train_target

NEEDS = {
    "mnist": "mnist/paper_target_cnn.safetensors",
    "cifar10": "cifar10/resnet20.safetensors",
    "imagenet": "imagenet/efficientnet_lite0.onnx",
}
FIRST_IDS = {
    "digits": {"train": (472, 509, 79), "valid": (86, 1160, 503), "test": (432, 1116, 1473)},
    "mnist": {"train": (463, 6222, 232), "valid": None, "test": (8022, 2056, 3630)},
    "cifar10": {"train": (13296, 11924, 13154), "valid": (664, 469, 214), "test": (726, 251, 593)},
    "imagenet": {"train": None, "valid": (10_000, 10_001, 10_002), "test": (0, 1, 2)},
    "binary-classification": {"train": (0, 1, 2), "valid": (1000, 1001, 1002), "test": (2000, 2001, 2002)},
    "quadratic": {"train": (0, 1, 2), "valid": (1000, 1001, 1002), "test": (2000, 2001, 2002)},
    "functions": {"train": (0, 1, 2), "valid": (1000, 1001, 1002), "test": (2000, 2001, 2002)},
    "network": {"train": (0, 1, 2), "valid": (1000, 1001, 1002), "test": (2000, 2001, 2002)},
    "robust-regression": {"train": (0, 1, 2), "valid": (1000, 1001, 1002), "test": (2000, 2001, 2002)},
    "random-network": {"train": (0, 1, 2), "valid": (1000, 1001, 1002), "test": (2000, 2001, 2002)},
    "ripples": {"train": (0, 1, 2), "valid": (1000, 1001, 1002), "test": (2000, 2001, 2002)},
    "teacher": {"train": (0, 1, 2), "valid": (1000, 1001, 1002), "test": (2000, 2001, 2002)},
    "rover": {"train": (0, 1, 2), "valid": (1000, 1001, 1002), "test": (2000, 2001, 2002)},
    "lasso": {"train": (0, 1, 2), "valid": (1000, 1001, 1002), "test": (2000, 2001, 2002)},
    "hyperparameters": {"train": (0, 1, 2), "valid": (1000, 1001, 1002), "test": (2000, 2001, 2002)},
    "policy": {"train": (0, 1, 2), "valid": (1000, 1001, 1002), "test": (2000, 2001, 2002)},
}
SIZES = {
    "digits": (550, 100, 200),
    "mnist": (100, 200, 100),
    "cifar10": (500, 200, 200),
    "imagenet": (0, 40, 50),
    "binary-classification": (1000, 100, 100),
    "quadratic": (1000, 100, 100),
    "functions": (1000, 100, 100),
    "network": (1000, 100, 100),
    "robust-regression": (1000, 100, 100),
    "random-network": (1000, 100, 100),
    "ripples": (1000, 100, 100),
    "teacher": (1000, 100, 100),
    "rover": (1000, 100, 100),
    "lasso": (1000, 100, 100),
    "hyperparameters": (1000, 100, 100),
    "policy": (1000, 100, 100),
}


def made(name: str, **settings) -> Task:
    if name == "policy" and find_spec("gymnasium") is None:
        pytest.skip("the extra gymnasium has the environments")
    if name in NEEDS and find_data(NEEDS[name]) is None:
        pytest.skip(f"ZORACLE_DATA names no folder with {NEEDS[name]}")
    return task(name, **settings)


each = pytest.mark.parametrize("name", names())


@each
def test_splits_are_disjoint_and_stable(name):
    family = made(name)
    # A task whose images are for testing alone refuses to be trained on.
    there = [split for split, size in zip(SPLITS, SIZES[name], strict=True) if size]
    splits = {split: family.ids(split) for split in there}
    assert tuple(len(splits.get(split, ())) for split in SPLITS) == SIZES[name]
    every = [i for ids in splits.values() for i in ids]
    assert len(set(every)) == len(every)
    for split, first in FIRST_IDS[name].items():
        assert first is None or splits[split][:3] == first
    assert splits["test"] == made(name).ids("test")
    with pytest.raises(InputError, match="split 'tests' is unknown; expected one of train, valid, test"):
        family.ids("tests")


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_problems_are_keyed_by_id(name, dtype):
    family = made(name)
    ids = family.ids("valid")[:3]
    start = family.start(ids, seed=1, dtype=dtype)
    assert start.shape == (3, family.dim)
    assert start.dtype is dtype
    assert torch.equal(family.start(ids[2:], seed=1, dtype=dtype), start[2:])
    assert not torch.equal(family.start(ids, seed=2, dtype=dtype), start)
    losses = family.objective(ids, dtype=dtype).evaluate(start, torch.arange(3)).loss
    assert losses.dtype is dtype
    assert losses.isfinite().all()
    assert len(set(losses.tolist())) == 3
    alone = family.objective(ids[::-1], dtype=dtype).evaluate(start[1:2], torch.tensor([1])).loss
    torch.testing.assert_close(alone, losses[1:2], rtol=1e-5, atol=1e-5)


@each
def test_unknown_ids_are_refused(name):
    family = made(name)
    for ids in ((), (-1,)) + (() if isinstance(family, DrawnTask) else ((10**9,),)):
        with pytest.raises(InputError, match=f"task {name}"):
            family.objective(ids)


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
def test_attacked_images_are_read_correctly(name):
    family = made(name)
    for split in SPLITS:
        ids = family.ids(split)[:100]
        attack = family.objective(ids)
        assert isinstance(attack, Attack)
        problem = torch.arange(len(ids))
        start = family.start(ids)
        result = attack.evaluate(start, problem)
        assert not result.success.any()
        assert torch.equal(attack.predict(start, problem), attack.labels)
        assert (attack.distances(start, problem)["linf"] < 1e-3).all()
        if name != "mnist":  # the paper's split takes whatever is read correctly
            assert (result.loss > 0.9).all()


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
def test_pictures_are_the_images_of_the_objective(name):
    family = made(name)
    ids = family.ids("test")[:4]
    pictures, attack = family.pictures(ids), family.objective(ids)
    zero = torch.zeros(4, family.dim)
    torch.testing.assert_close(pictures.images, attack.adversarial(zero, torch.arange(4)))
    assert torch.equal(pictures.labels, attack.labels)
    assert len(pictures.class_names) == 10
    assert float(pictures.images.max()) <= 1


def test_synthetic_tasks_have_no_pictures():
    assert made("quadratic").pictures((0,)) is None


def test_settings_reach_the_objective():
    attack = task("digits", c=0.7, norm="l2", confidence=0.5).objective((432,))
    assert attack.threat == ThreatModel(c=0.7, norm="l2", confidence=0.5)
    assert task("digits").objective((432,)).threat.c == 0.2
    assert task("quadratic", dim=7).dim == 7
    assert not task("binary-classification", batch_size=None).objective((0,)).stochastic
    assert float(task("digits", start_std=0.0).start((432,)).abs().max()) == 0


@pytest.mark.parametrize("rotated", [False, True])
def test_the_condition_of_a_quadratic(rotated):
    family = task("quadratic", dim=6, condition=10.0, rotated=rotated)
    problem = family.objective((3, 4), dtype=torch.float64)
    assert float(problem.curvatures.max() / problem.curvatures.min()) == pytest.approx(10)
    assert not torch.equal(problem.curvatures[0], problem.curvatures[1])
    if rotated:
        identity = torch.eye(6, dtype=torch.float64).expand(2, 6, 6)
        torch.testing.assert_close(problem.rotation @ problem.rotation.mT, identity)


def test_classification_problems_can_be_learned_but_not_perfectly():
    family = task("binary-classification", dim=20, samples=400)
    problem = family.objective((0,), dtype=torch.float64)
    w, row = family.start((0,), dtype=torch.float64), torch.tensor([0])
    first = problem.evaluate(w, row).loss
    for _ in range(300):
        _, gradient = problem.gradient(w, row)
        w = w - 5 * gradient
    last = problem.evaluate(w, row).loss
    assert last < 0.5 * first
    assert last > 0.02


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: task("digit"), "task 'digit' is unknown; expected one of digits, mnist, cifar10"),
        (lambda: task("digit"), "did you mean digits?"),
        (lambda: task("zzz"), "task 'zzz' is unknown"),
        (lambda: task("digits", colour=1), "task digits has no setting 'colour'; expected one of threat, start_std"),
        (lambda: task("quadratic", dim=0), "dim is 0; expected a number of at least 1"),
        (lambda: task("quadratic", condition=0.5), "condition is 0.5"),
        (lambda: task("binary-classification", flipped=0.6), "0.5 - flipped"),
        (lambda: task("binary-classification", batch_size=501).objective((0,)), "batch_size is 501; expected 1 .. 500"),
        (lambda: task("functions", function="rosenbrok"), "function 'rosenbrok' is unknown; did you mean rosenbrock?"),
        (lambda: task("functions", function="zzz"), "function 'zzz' is unknown; expected all, sphere, rosenbrock"),
        (lambda: task("functions", dim=1), "dim is 1; expected at least 2 for rosenbrock"),
        (lambda: task("functions", shift=1.5), "shift is 1.5; expected a number in [0, 1]"),
        (lambda: task("functions", start_range=-1), "start_range is -1; expected a number in [0, 1]"),
        (lambda: task("network", hidden=0), "hidden is 0; expected a number of at least 1"),
        (lambda: task("robust-regression", signal=0), "signal is 0; expected a positive number"),
        (lambda: task("robust-regression", outliers=0.6), "outliers is 0.6; expected a share in [0, 0.5]"),
        (lambda: task("random-network", side=0), "side is 0; expected a number of at least 1"),
        (lambda: task("random-network", gain=0), "gain is 0; expected a positive number"),
        (lambda: task("random-network", depth=0), "depth is 0; expected a number of at least 1"),
        (lambda: task("ripples", dim=1), "dim is 1; expected at least 2"),
        (lambda: task("ripples", shortest=3), "wavelengths are 3 .. 2.0; expected positive numbers, the shorter first"),
        (lambda: task("ripples", height=0), "height is 0; expected a number of at least 0.01"),
        (lambda: task("ripples", condition=0.5), "condition is 0.5; expected a number of at least 1"),
        (lambda: task("teacher", classes=1), "classes is 1; expected a number of at least 2"),
        (lambda: task("teacher", batch_size=301).objective((0,)), "batch_size is 301; expected 1 .. 300"),
        (lambda: task("network", samples=600), "samples is 600; expected 1 .. 599, the images of a split"),
        (lambda: task("network", batch_size=301).objective((0,)), "batch_size is 301; expected 1 .. 300"),
        (lambda: task("digits", norm="l7").objective((432,)), "norm is 'l7'"),
    ],
)
def test_bad_input_is_one_line(make, message):
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    with np.load(ASSETS / "digits.npz") as shipped:
        np.testing.assert_array_equal(shipped["images"], digits.images)
        np.testing.assert_array_equal(shipped["labels"], digits.target)
        assert shipped["images"].dtype == np.uint8


def test_the_command_makes_the_digits_target_that_ships(tmp_path):
    epochs = []
    report = train_digits_target(tmp_path, report=lambda epoch, loss: epochs.append((epoch, loss)))
    assert report.accuracy > 0.97
    assert report.images == 897
    assert [e for e, _ in epochs] == list(range(60))
    assert epochs[-1][1] < 0.05
    shipped = load_file(ASSETS / "digits_target.safetensors")
    # Another processor sums in another order, and training magnifies that.
    for key, value in load_file(report.weights).items():
        torch.testing.assert_close(value, shipped[key], rtol=0.05, atol=0.05)
    ours, theirs = read_splits(report.split), read_splits(ASSETS / "digits_split.json")
    with safe_open(ASSETS / "digits_target.safetensors", "pt") as file:
        assert json.loads(file.metadata()["zoracle"])["accuracy"] == "876 of 897 images that it was not trained on"
    assert len(set(ours["test"]) & set(theirs["test"])) > 150


def test_training_is_repeatable_and_keyed_by_the_seed():
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 10
    first, again, other = (train_target(DigitsNet, images, labels, seed=s, epochs=2) for s in (0, 0, 1))
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.fc.weight, other.fc.weight)
    assert not first.training
    assert not any(p.requires_grad for p in first.parameters())


def test_first_weights_are_spread_as_by_default():
    net = build(ResNet20)
    initialise(net, 0)
    weight = net.layer3[0].conv1.weight.detach()
    bound = 1 / (32 * 9) ** 0.5
    assert 0.95 * bound < float(weight.abs().max()) <= bound
    assert torch.equal(net.bn1.running_var, torch.ones(16))
    assert torch.equal(net.bn1.weight, torch.ones(16))


def test_margins_are_positive_where_the_model_is_right():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 5.0]])
    torch.testing.assert_close(margins(lambda x: x, logits, torch.tensor([0, 1])), torch.tensor([2.0, -3.0]))


def test_weights_that_do_not_fit(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_network(DigitsNet, path)
    whole = (ASSETS / "digits_target.safetensors").read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_network(DigitsNet, path)
    shutil.copy(ASSETS / "digits_target.safetensors", path)
    with pytest.raises(CheckpointError, match=r"is not a MNISTNet: .*; expected"):
        load_network(MNISTNet, path)
    save_file({**load_file(path), "more": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"more is \(1,\); expected no such tensor"):
        load_network(DigitsNet, path)


def test_splits_that_overlap_are_refused(tmp_path):
    path = tmp_path / "split.json"
    for content, message in (
        ({"train": [1], "valid": [1], "test": [2]}, "names an image twice"),
        ({"train": [1]}, "expected lists train, valid and test"),
        ({"train": 1, "valid": [], "test": []}, "expected lists"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=message):
            read_splits(path)


def test_the_papers_target_reads_9915_images():
    family = made("mnist")
    images, labels = read_mnist("t10k")
    network = family.objective((0,)).black_box
    assert int((margins(network, images.float() / 255, labels) > 0).sum()) == 9915


def test_the_papers_split():
    given = json.loads(Path(find_data("mnist/paper_split.json") or "").read_text()) if made("mnist") else {}
    for split in SPLITS:
        assert list(made("mnist").ids(split)) == given[split]


def test_the_residual_network_on_its_test_images():
    family = made("cifar10")
    data = family.pick()
    images, labels = data.images[:846], data.labels[:846]
    network = family.objective((0,)).black_box
    right = margins(network, images.float() / 255, labels) > 0
    assert float(right.double().mean()) == pytest.approx(0.917, abs=0.002)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("ZORACLE_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("ZORACLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_missing_data_says_what_to_do(empty):
    with pytest.raises(InputError, match="or train one with: zoracle train-target --task mnist"):
        task("mnist")
    with pytest.raises(InputError, match=r"task cifar10 has no cifar10/test_846\.npz; set ZORACLE_DATA"):
        task("cifar10")
    with pytest.raises(InputError, match=r"task imagenet has no imagenet/efficientnet_lite0\.onnx; set ZORACLE_DATA"):
        task("imagenet")


def test_networks_of_cifar10_by_name():
    made("cifar10")
    deep = task("cifar10", network="resnet44")
    assert deep.ids("test") == task("cifar10").ids("test")
    images, labels = deep.pictures(deep.ids("test")[:20]).images, deep.pictures(deep.ids("test")[:20]).labels
    network = deep.objective(deep.ids("test")[:1]).black_box
    assert float((margins(network, images, labels) > 0).double().mean()) > 0.8
    with pytest.raises(InputError, match="has no network 'resnet99'; expected one of resnet20"):
        task("cifar10", network="resnet99")


def test_a_signed_step_raises_the_loss_within_its_ball():
    module = build(DigitsNet)
    initialise(module.requires_grad_(False), 3)
    g = generator(1)
    x = torch.rand(20, 1, 8, 8, generator=g)
    y = torch.arange(20) % 10
    attacked = signed_step(module, x, y, 0.05, g)
    assert float((attacked - x).abs().max()) <= 0.05 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    loss = torch.nn.functional.cross_entropy
    assert float(loss(module(attacked), y)) > float(loss(module(x), y))
    assert torch.equal(attacked, signed_step(module, x, y, 0.05, _after(g, x)))


def _after(used, x):
    """A generator as it was once the images had been drawn."""
    g = generator(1)
    torch.rand(x.shape, generator=g)
    return g


def test_a_robust_network_of_ones_own(empty):
    # A few hundred images of ten patterns stand for the data: what is tested is the way from files to task.
    rng = np.random.default_rng(0)
    folder = empty / "cifar10"
    folder.mkdir(parents=True)
    patterns = rng.integers(0, 256, (10, 3, 32, 32))
    for name, many in (("train_4660", 200), ("test_846", 40)):
        labels = np.arange(many) % 10
        images = (patterns[labels] * 0.9 + rng.integers(0, 25, (many, 3, 32, 32))).astype(np.uint8)
        np.savez(folder / f"{name}.npz", images=images, labels=labels.astype(np.uint8))
    with pytest.raises(InputError, match="train one with: zoracle train-target --task cifar10"):
        task("cifar10", network="robust")
    lines = []
    report = train_robust_target(epochs=2, report=lambda epoch, loss: lines.append((epoch, loss)))
    assert report.images == 40
    assert [epoch for epoch, _ in lines] == [0, 1]
    assert lines[1][1] < lines[0][1]
    robust = task("cifar10", network="robust")
    assert robust.objective((0, 3)).evaluate(torch.zeros(2, 3072), torch.arange(2)).loss.isfinite().all()
    first = report.weights.read_bytes()
    train_robust_target(epochs=2)
    assert report.weights.read_bytes() == first, "the same seed gives the same weights"
    with safe_open(report.weights, "pt") as file:
        assert json.loads(file.metadata()["zoracle"])["network"] == "ResNet8"


def test_a_target_of_ones_own(empty):
    # A few thousand images of ten patterns instead of the official files: what is tested is the way from files to task.
    rng = np.random.default_rng(0)
    folder = empty / "mnist"
    folder.mkdir(parents=True)
    patterns = rng.integers(0, 256, (10, 28, 28), dtype=np.uint8)
    for part, count in (("train", 600), ("t10k", 5200)):
        labels = rng.integers(10, size=count).astype(np.uint8)
        header = bytes([0, 0, 8, 3]) + np.array([count, 28, 28], ">u4").tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(header + patterns[labels].tobytes())
        header = bytes([0, 0, 8, 1]) + np.array([count], ">u4").tobytes()
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(header + labels.tobytes())
    report = train_mnist_target(epochs=4)
    assert report.accuracy == 1
    family = task("mnist")
    assert isinstance(family, MNISTAttack)
    assert family.target[0] == report.weights == folder / "target_cnn.safetensors"
    assert tuple(len(family.ids(split)) for split in SPLITS) == (100, 200, 100)
    ids = family.ids("test")[:5]
    assert not family.objective(ids).evaluate(family.start(ids), torch.arange(5)).success.any()


def test_networks_hold_no_randomness():
    for network in (MNISTNet, DigitsNet, ResNet20):
        assert isinstance(build(network), nn.Module)
