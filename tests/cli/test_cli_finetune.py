"""`zoracle finetune`: from shipped weights, on a task of one's own, with settings; stopped, resumed, and refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoracle
from zoracle.cli import train as cli_train
from zoracle.cli.main import main
from zoracle.metatrain.finetuning import FineTuning
from zoracle.optimizers.pretrained import CARD, load_optimizer, resolve, shipped
from zoracle.tasks import task

MODULE = """
import torch

from zoracle.keyed import normal
from zoracle.objectives import Objective
from zoracle.tasks import Task
from zoracle.types import Evaluation, Key


COUNT = []


class Bowl(Objective):
    num_problems = 1
    differentiable = {smooth}

    def __init__(self, ids, dim, tilt):
        self.dim, self.num_problems = dim, len(ids)
        self.weights = torch.linspace(1, tilt, dim)

    def _evaluate(self, points, problem, step):
        if not self.differentiable:
            points = points.detach()
        COUNT.append(len(points))
        return Evaluation((self.weights.to(points) * (points - 0.3) ** 2).sum(1))


class Bowls(Task):
    name = "my-bowls"

    def __init__(self, *, dim=3, tilt=2.0):
        self.dim, self.tilt = dim, tilt

    def ids(self, split):
        return {{"train": (0, 1, 2, 3), "valid": (4, 5), "test": (6,)}}[split]

    def objective(self, ids, *, dtype=torch.float32, device="cpu"):
        return Bowl(ids, self.dim, self.tilt)

    def start(self, ids, *, seed=0, dtype=torch.float32, device="cpu"):
        return normal(Key.start(seed, torch.tensor(ids)), (self.dim,), stream=9, dtype=dtype)
"""
SMALL = ("--unrolls", 3, "--steps", 4, "--meta-batch", 2, "--validation", 2)


@pytest.fixture(autouse=True)
def own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, smooth in (("smooth.py", True), ("called.py", False)):
        Path(name).write_text(MODULE.format(smooth=smooth))


def run(*argv, code=0):
    assert main([str(part) for part in argv]) == code


def test_it_starts_from_shipped_weights_and_leaves_an_optimizer_with_its_card(capsys) -> None:
    run("finetune", "zo-lstm-universal", "--task", "smooth.py:Bowls:dim=5,tilt=9", *SMALL, "--lr", 0.01, "--out", "ft")
    told = capsys.readouterr().out
    assert "with the weights that training starts from" in told
    assert "before, " in told
    assert len(Path("ft/history.jsonl").read_text().splitlines()) == 3
    loaded = load_optimizer("ft")
    training = loaded.metadata["training"]
    config = training["config"]
    assert config["initial"] == "zo-lstm-universal"
    assert config["task_settings"] == {"dim": 5, "tilt": 9}
    assert loaded.optimizer.settings() == zoracle.load("zo-lstm-universal").settings()
    assert training["validation_ratio"] <= training["initial_validation_ratio"]
    card = Path("ft", CARD).read_text()
    assert "started from the weights of `zo-lstm-universal`" in card
    assert f"({training['initial_validation_ratio']:.4g} with the weights that training started from)" in card
    # The checkpoint holds the weights of the last unroll but one, trained: close to those that ship, and not the same.
    tensors = load_file("ft/training.safetensors")
    before = load_file(shipped()["zo-lstm-universal"] / "optimizer.safetensors")
    away = [float((tensors[f"weights.{name}"] - weight).abs().max()) for name, weight in before.items()]
    assert 0 < max(away) < 0.2
    zoracle.load("ft")


def test_stopped_anywhere_it_goes_on_to_the_same_weights(monkeypatch, capsys) -> None:
    words = ("finetune", "zo-lstm-quadratic", "--task", "smooth.py:Bowls", *SMALL, "--out")
    run(*words, "whole")

    def stopped(self, *_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli_train.Progress, "update", stopped)  # Ctrl-C after the first unroll
        run(*words, "parts", code=130)
    assert not Path("parts/optimizer.safetensors").exists()
    capsys.readouterr()
    run(*words, "parts")
    assert "resuming after 1 of 3 unrolls" in capsys.readouterr().out
    whole, parts = (load_file(f"{name}/optimizer.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    told = [load_optimizer(name).metadata["training"]["initial_validation_ratio"] for name in ("whole", "parts")]
    assert told[0] == told[1]
    # A finished one is not trained again, and continues elsewhere under its folder's name.
    run("finetune", "whole", "--task", "smooth.py:Bowls:dim=2", *SMALL, "--out", "further")
    assert load_optimizer("further").metadata["training"]["config"]["initial"] == "whole"


def test_a_task_without_gradients_is_trained_on_by_evaluations_and_says_how_many(capsys) -> None:
    run("finetune", "zo-lstm-quadratic", "--task", "called.py:Bowls", *SMALL, "--out", "ft")
    # 3 unrolls of 2 problems: in 4 steps q + 1 evaluations each, and 2 d + 1 a gradient, there and at the start.
    assert "about 714 evaluations" in capsys.readouterr().out
    asked = sum(
        sum(module.COUNT)
        for module in sys.modules.values()
        if str(getattr(module, "__file__", "")) == str(Path("called.py").resolve())
    )
    assert asked == 714 + 4 * 2 * (4 * 21 + 1)  # and 4 validations of 2 problems
    config = load_optimizer("ft").metadata["training"]["config"]
    assert (config["gradient"], config["values"]) == ("coordinatewise", "queries")


@pytest.mark.parametrize(
    ("name", "task_name", "told"),
    [
        ("spectral-search", "digits", "spectral-search was fitted to networks and not trained on a task's problems"),
        ("zo-adam", "digits", "zo-adam has no weights to fine-tune; expected a trained optimizer"),
        ("zo-lstm-digit", "digits", "did you mean zo-lstm-digits?"),
        ("zo-lstm-digits", "smooth.py:Bowls:width=3", "has no setting 'width'; expected one of dim, tilt"),
        ("zo-lstm-digits", "smooth.py:Nothing", "Nothing"),
    ],
)
def test_what_cannot_be_fine_tuned_is_one_line(name, task_name, told, capsys) -> None:
    run("finetune", name, "--task", task_name, "--out", "ft", code=2)
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not Path("ft").exists()


def test_other_options_in_the_same_folder_are_refused(capsys) -> None:
    run("finetune", "zo-lstm-quadratic", "--task", "smooth.py:Bowls", *SMALL, "--out", "ft")
    run("finetune", "zo-lstm-quadratic", "--task", "smooth.py:Bowls:dim=4", *SMALL, "--out", "ft", code=2)
    assert "ft holds a training with another config" in capsys.readouterr().err
    run("finetune", "zo-lstm-quadratic", "--task", "smooth.py:Bowls", "--problems", 5, "--out", "new", code=2)
    assert "--problems is 5; the train split of smooth.py:Bowls has 4" in capsys.readouterr().err


def test_weights_are_chosen_as_they_are_used() -> None:
    loaded = resolve("zo-lstm-mnist")
    made = task("quadratic", dim=4)
    config = FineTuning().config(loaded, "zo-lstm-mnist", made, "quadratic", {"dim": 4})
    assert config.stages[0].settings == {"reach": 0.0}
    assert config.validation.settings == {"reach": loaded.optimizer.config.reach}, "as the weights ship"
    assert loaded.optimizer.config.reach > 0
    assert json.dumps(config.settings) == json.dumps(loaded.metadata["config"])
