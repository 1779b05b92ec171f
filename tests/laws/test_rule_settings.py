"""Rule of settings: names, types and ranges are checked before anything is made of them, and told in one line."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import zoracle
from zoracle.cli.main import main
from zoracle.errors import BlackBoxError, CheckpointError, InputError
from zoracle.evaluation.spec import RunSpec
from zoracle.metatrain.recipe import parse
from zoracle.optimizers.pretrained import load_optimizer, resolve, shipped
from zoracle.optimizers.registry import REGISTRY, make
from zoracle.results.tuned import Score, Tuned, read_tuned
from zoracle.settings import beyond
from zoracle.storage.files import read_tensors, write_tensors

RECIPE = """
task = "quadratic"
optimizer = "zo-lstm-paper"
{top}
[settings]
{settings}
[[stages]]
{stage}
"""

HUGE = "9" * 10_000


def recipe(top="", settings="", stage=""):
    return RECIPE.format(top=top, settings=settings, stage=stage)


@pytest.mark.parametrize(
    "text",
    [
        *(recipe(stage=f"beta2 = {value}") for value in ("1.0", "-0.1", "nan", "inf", '"x"')),
        *(recipe(stage=f"{name} = 0") for name in ("lr", "sigma", "unrolls", "steps", "truncation", "meta_batch")),
        *(recipe(stage=f"{name} = -1") for name in ("clip_norm", "clip_value", "warmup", "ema", "final_lr")),
        *(recipe(stage=f"lr = {value}") for value in ("inf", "1e308", HUGE, "1" + "0" * 40)),
        recipe(stage="loss = {early_steps = -1}"),
        recipe(top="problems = 0"),
        recipe(top=f"seed = {2**63}"),
        recipe(top="x = " + "[" * 3000 + "]" * 3000),
        "[" + ".".join("a" * 5000) + "]",
        "\0",
    ],
    ids=lambda text: text[-60:].strip().replace("\n", " ") if len(text) < 500 else f"{len(text)} characters",
)
def test_recipes(text):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in REGISTRY if "hidden" in make(name).config.plain()])
@pytest.mark.parametrize("value", [0, -1, 1025, 10**9, 10**30])
def test_units_of_networks(name, value):
    with pytest.raises(InputError, match=r"hidden|bits"):
        make(name, hidden=value)


@pytest.mark.parametrize("key", ["hidden", "cap", "horizon", "guesses", "step_size", "num_directions", "mu"])
@pytest.mark.parametrize("value", [-1, 10**30, 1e308, "x", [[]], {"a": 1}], ids=str)
def test_files_of_optimizers(tmp_path, key, value):
    tensors, metadata = read_tensors(shipped()["zo-lstm-digits"] / "optimizer.safetensors")
    metadata["config"][key] = value
    write_tensors(tmp_path / "optimizer.safetensors", tensors, metadata)
    with pytest.raises(CheckpointError) as caught:
        load_optimizer(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("training", [None, [1], {"config": [1]}, {"config": {"families": [1], "task": 3}}])
def test_what_a_file_says_of_its_training(tmp_path, training):
    tensors, metadata = read_tensors(shipped()["zo-lstm-digits"] / "optimizer.safetensors")
    write_tensors(tmp_path / "optimizer.safetensors", tensors, {**metadata, "training": training})
    assert load_optimizer(tmp_path).trained_on() == ()


def test_metadata_that_are_nested_deeply(tmp_path):
    told = {"format": '"zoracle-optimizer"', "version": "1", "name": '"zo-lstm"', "config": "[" * 10**5 + "]" * 10**5}
    save_file({"x": torch.ones(1)}, tmp_path / "deep.safetensors", metadata=told)
    with pytest.raises(CheckpointError, match="contains no settings"):
        load_optimizer(tmp_path / "deep.safetensors")


@pytest.mark.parametrize(
    ("name", "value"),
    [("budget", 10**20), ("steps", 2**63), ("seeds", 10**9), ("num_directions", 10**5000), ("batch", -1)],
    ids=["budget", "steps", "seeds", "num_directions", "batch"],
)
def test_runs(name, value):
    with pytest.raises(InputError, match=r"expected") as caught:
        RunSpec(**{name: value})
    assert len(str(caught.value)) < 200


def test_numbers_at_any_depth():
    assert beyond({"a": [1, {"b": (2.5, float("nan"))}]}) == "b is nan; expected a number below 1e+30 in size"
    assert beyond({"a": -(2**63), "b": 2**63 - 1, "c": True, "d": None, "e": "x"}) is None
    assert "nested too deeply" in beyond({"a": [[[]]] * 3 + [eval("[" * 40 + "]" * 40)]})


@pytest.mark.parametrize("long", ["n" * 300, "n" * 300 + ".py:X", "n/" * 1900, "n/" * 3000])
def test_names_that_no_file_can_have(long, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("f.py").write_text("def f(x):\n    return float((x**2).sum())\n")
    run = ["minimize", "f.py:f", "--dim", "2", "--budget", "50"]
    for argv in (
        [*run, "--optimizer", long],
        [*run, "--out", long],
        [*run, "--checkpoint", long],
        ["minimize", f"{long}:f", "--dim", "2", "--budget", "50"],
        ["train", long, "--out", "t"],
        ["attack", "--resume", "--out", long],
        ["attack", "--problems", "1", "--out", "o", "--target", long, "--data", "digits"],
        ["attack", "--out", "o", "--ids", long],
    ):
        assert main(argv) == 2, argv
        told = capsys.readouterr().err
        assert told.startswith("zoracle: error: ")
        assert told.count("\n") == 1
    with pytest.raises(InputError, match=r"unknown|cannot be read"):
        resolve(long.replace("n", "\0"))


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_names_of_folders_that_are_no_names_of_files(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("f.py").write_text("def f(x):\n    raise AssertionError\n")
    for option in ("--checkpoint", "--out"):
        assert main(["minimize", "f.py:f", "--dim", "2", "--budget", "50", option, name]) == 2
        told = capsys.readouterr().err
        assert "it is a folder" in told
        assert told.count("\n") == 1


def _npz():
    buffer = io.BytesIO()
    np.savez(buffer, x=np.ones(2))
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x93NUMPY", b"\x80\4]", _npz(), b"0" * 99], ids=len)
def test_files_of_points(content, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("f.py").write_text("def f(x):\n    raise AssertionError\n")
    Path("x.npy").write_bytes(content)
    assert main(["minimize", "f.py:f", "--start", "x.npy", "--budget", "50"]) == 2
    told = capsys.readouterr().err
    assert "--start x.npy cannot be read (" in told
    assert told.count("\n") == 1


def test_what_was_given_by_the_thousand_characters_is_not_repeated_whole(capsys):
    assert main(["minimize", "f:f", "--dim", "9" * 5000, "--budget", "50"]) == 2
    assert len(capsys.readouterr().err) < 2100


class UnspeakableError(Exception):
    def __str__(self):
        raise ValueError


@pytest.mark.parametrize(
    "error", [SystemExit(0), GeneratorExit(), BaseException("x"), UnspeakableError(), RuntimeError("a\nb")]
)
def test_whatever_a_function_raises_is_one_line(error):
    def f(x):
        raise error

    for settings in ({}, {"vectorized": False}, {"workers": ThreadPoolExecutor(1)}):
        with pytest.raises(BlackBoxError) as caught:
            zoracle.minimize(f, torch.ones(3), budget=30, **settings)
        assert "\n" not in str(caught.value)
    with pytest.raises(BlackBoxError):
        zoracle.attack(f, torch.full((1, 4), 0.5), torch.tensor([0]), budget=30)
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        zoracle.minimize(f, torch.ones(3), budget=30)


@pytest.mark.parametrize("field", [*Tuned._fields[:-1], *Score._fields])
@pytest.mark.parametrize("value", [-(10**30), "x", [[]], {"a": [1]}, float("nan")], ids=str)
def test_files_of_tuned_settings(tmp_path, field, value):
    """A value of another type is told, whichever it is; what a field may hold reads as it is."""
    text = (files("zoracle") / "assets" / "tuned" / "digits.json").read_text()
    content = json.loads(text)
    record = content["tuned settings"][0]
    (record["scores"][0] if field in Score._fields and field not in Tuned._fields else record)[field] = value
    (tmp_path / "tuned.json").write_text(json.dumps(content))
    told = ""
    try:
        read_tuned(tmp_path / "tuned.json")
    except InputError as error:
        told = str(error)
    assert "\n" not in told
    assert told or isinstance(value, str | dict)


@pytest.mark.parametrize(
    "argv",
    [
        ["--dim", "9" * 20, "--budget", "50"],
        ["--dim", "2", "--budget", "9" * 20],
        ["--dim", "2", "--budget", "9" * 5000],
        ["--dim", "2", "--budget", "50", "--workers", "9" * 9],
        ["--dim", "2", "--budget", "50", "--optimizer", "zo-sgd:num_directions=" + "9" * 9],
        ["--dim", "2", "--budget", "50", "--optimizer", "zo-sgd:lr=1e308"],
        ["--dim", "2", "--budget", "50", "--seed", "9" * 30],
        ["--dim", "2000000000", "--budget", "50", "--optimizer", "zo-lbfgs:memory=1025"],
    ],
    ids=lambda argv: " ".join(argv)[:60],
)
def test_numbers_on_the_command_line(argv, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(np, "full", lambda *_: np.zeros(2))  # sixteen gigabytes
    Path("f.py").write_text("def f(x):\n    return float((x**2).sum())\n")
    assert main(["minimize", "f.py:f", *argv]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_memory_that_there_is_not(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("f.py").write_text("def f(x):\n    raise AssertionError\n")

    def full(*_):
        raise MemoryError("Unable to allocate 15.9 TiB")

    monkeypatch.setattr(np, "full", full)
    assert main(["minimize", "f.py:f", "--dim", "2000000000", "--budget", "50"]) == 2
    assert "not enough memory (Unable to allocate 15.9 TiB)" in capsys.readouterr().err


def test_a_disk_that_fails_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def fails(*_, **__):
        raise OSError(28, "No space left on device", "somewhere/solution.json")

    monkeypatch.setattr("zoracle.cli.minimize.load_callable", fails)
    assert main(["minimize", "f.py:f", "--dim", "2", "--budget", "50"]) == 2
    assert capsys.readouterr().err.startswith("zoracle: error: somewhere/solution.json: No space left on device; ")


def test_nothing_that_a_terminal_obeys_is_printed(tmp_path, capsys):
    folder = tmp_path / "\x1b[31mred"
    folder.mkdir()
    for file in shipped()["zo-lstm-digits"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    run = ["attack", "--problems", "1", "--budget", "42", "--out", str(tmp_path / "run")]
    assert main([*run, "--optimizers", str(folder)]) == 0
    assert main([*run, "--optimizers", "\x1b[2Jnone"]) == 2
    told = capsys.readouterr()
    assert "[31mred" in told.out
    assert "\x1b" not in told.out.replace("\x1b[0m", "") + told.err
    assert "\x1b" not in (tmp_path / "run" / "table.md").read_text()


def test_a_view_with_negative_strides_is_an_answer():
    images = torch.full((2, 1, 2, 2), 0.5)

    def model(x):
        flat = np.asarray(x).reshape(len(x), -1)
        return np.stack([flat.mean(1), flat.mean(1) + 1], 1)[:, ::-1]

    found = zoracle.attack(model, images, torch.tensor([0, 0]), norm="linf", eps=0.1, budget=30, optimizer="square")
    assert found.misclassified.tolist() == [False, False]
