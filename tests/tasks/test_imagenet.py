"""The task imagenet, on a small ONNX file of our own; test_tasks.py runs it on the real one where that is there."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from onnx_models import linear
from zoracle.cli.main import main
from zoracle.errors import InputError, MissingExtraError
from zoracle.evaluation.jobs import check_job, job
from zoracle.evaluation.shards import cut
from zoracle.evaluation.spec import RunSpec
from zoracle.optimizers.registry import make
from zoracle.tasks import task
from zoracle.tasks.config import task_config
from zoracle.tasks.source import built_in

SHAPE = (3, 6, 5)
CLASSES = 4


@pytest.fixture
def files(tmp_path):
    """A linear model and images with the labels that it gives them, under the names of the data folder."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "data" / "imagenet"
    folder.mkdir(parents=True)
    weight = rng.normal(size=(90, CLASSES)).astype(np.float32)
    linear(folder / "efficientnet_lite0.onnx", weight, shape=("N", *SHAPE))
    for name, many in (("test_50", 5), ("valid_40", 3)):
        images = rng.integers(0, 256, (many, *SHAPE), dtype=np.uint8)
        labels = (images.reshape(many, -1).astype(np.float32) / 255 @ weight).argmax(1)
        np.savez(folder / f"{name}.npz", images=images, labels=labels)
    # As in ImageNet, one name stands for two classes.
    (folder / "classes.txt").write_text("crane\nplover\ncrane\nheron\n")
    return folder


@pytest.fixture
def data(files, monkeypatch):
    monkeypatch.setenv("ZORACLE_DATA", str(files.parent))
    return files


def test_it_reads_the_data_folder(data):
    made = task("imagenet")
    assert (made.shape, made.dim, made.radii) == (SHAPE, 90, {"linf": 4 / 255, "l2": 5.0})
    assert (made.ids("test"), made.ids("valid")) == ((0, 1, 2, 3, 4), (10_000, 10_001, 10_002))
    assert made.class_names == ("crane", "plover", "crane", "heron")
    with pytest.raises(InputError, match="task imagenet has no train images"):
        made.ids("train")
    with np.load(data / "valid_40.npz") as archive:
        pictures = made.pictures((10_002,))
        assert torch.equal(pictures.images[0], torch.from_numpy(archive["images"][2]).float() / 255)
        assert int(pictures.labels[0]) == archive["labels"][2]
    source = built_in("imagenet")
    assert list(source.splits["test"]) == [0, 1, 2, 3, 4]
    assert source.data.images.shape == (8, *SHAPE)


def test_losses_are_the_models(data):
    made = task("imagenet", norm="linf", eps=0.1)
    objective = made.objective((4, 10_001), dtype=torch.float64)
    point = torch.linspace(-0.1, 0.1, 90, dtype=torch.float64).repeat(2, 1)
    found = objective.evaluate(point, torch.arange(2))
    pictures = made.pictures((4, 10_001))
    x = (pictures.images.double() + point.view(2, *SHAPE)).clamp(0, 1)
    scores = objective.black_box(x).log_softmax(1)
    for row, label in enumerate(pictures.labels.tolist()):
        others = scores[row].clone()
        others[label] = -torch.inf
        assert float(found.loss[row]) == pytest.approx(max(float(scores[row, label] - others.max()), 0), abs=1e-5)
    assert not objective.evaluate(torch.zeros_like(point), torch.arange(2)).success.any()


def test_files_of_ones_own(files, monkeypatch, tmp_path):
    monkeypatch.setenv("ZORACLE_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("ZORACLE_CACHE", str(tmp_path / "cache"))
    own = {"model": str(files / "efficientnet_lite0.onnx"), "images": str(files / "test_50.npz")}
    made = task("imagenet", **own)
    assert made.class_names == ()
    assert len(made.ids("test")) == 5
    with pytest.raises(InputError, match="has no valid images; name a file of some by the setting valid"):
        made.ids("valid")
    assert len(task("imagenet", **own, valid=str(files / "valid_40.npz")).ids("valid")) == 3
    with pytest.raises(InputError, match=r"has no imagenet/efficientnet_lite0\.onnx; set ZORACLE_DATA"):
        task("imagenet", images=own["images"])
    with pytest.raises(InputError, match=r"model 'no\.onnx' of task imagenet is not a file"):
        task("imagenet", model="no.onnx")
    np.savez(tmp_path / "small.npz", images=np.zeros((2, 3, 4, 4), np.uint8), labels=np.array([0, 1]))
    with pytest.raises(InputError, match=r"expected torch\.uint8 \(3, 6, 5\)"):
        task("imagenet", **own, valid=str(tmp_path / "small.npz"))
    with pytest.raises(InputError, match="4, 4"):
        task("imagenet", model=own["model"], images=str(tmp_path / "small.npz")).objective((0,))


def test_another_file_is_another_run(data):
    before = task_config(task("imagenet"))
    assert not [value for value in before.values() if "imagenet/" in str(value)], "no paths are in a config"
    with np.load(data / "test_50.npz") as archive:
        images, labels = archive["images"], archive["labels"]
    np.savez(data / "test_50.npz", images=images[::-1], labels=labels[::-1])
    after = task_config(task("imagenet"))
    assert {name for name in before if before[name] != after[name]} == {"images_file_sha256"}


def test_a_worker_makes_it_again(data):
    made = task("imagenet", norm="linf", eps=0.1)
    optimizer = make("square")
    spec = RunSpec(ids=(0, 1), seeds=1, budget=5)
    shard = cut(spec.settled(made, optimizer, made.objective((0, 1))), None, 1)[0][0]
    check_job(job(optimizer, made, shard), optimizer, made)


def test_without_onnxruntime(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match="onnx"):
        task("imagenet").objective((0,))


def test_the_command_line_names_its_files(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ZORACLE_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("ZORACLE_CACHE", str(tmp_path / "cache"))
    spelt = f"imagenet:model={files / 'efficientnet_lite0.onnx'},images={files / 'test_50.npz'}"
    argv = ["attack", "--task", spelt, "--threat", "linf", "--eps", "0.2", "--optimizers", "square", "--problems", "4"]
    assert main([*argv, "--budget", "40", "--out", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["task"]["name"] == "imagenet"
    assert str(tmp_path) not in json.dumps(config)
    assert "square, seed 0: 4 of 4 images broken" in capsys.readouterr().out
