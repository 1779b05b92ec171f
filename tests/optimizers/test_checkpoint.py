"""Learned optimizers on disk: what is written comes back, what is not an optimizer is told, nothing unpickles."""

from __future__ import annotations

import json
import os
import pickle
import stat

import pytest
import torch
from safetensors.torch import save_file

from zoracle.errors import CheckpointError, InputError
from zoracle.optimizers.base import with_settings
from zoracle.optimizers.pretrained import WEIGHTS, load_optimizer, resolve, save_optimizer
from zoracle.optimizers.registry import REGISTRY, make
from zoracle.storage.files import check_writable, read_tensors, write_bytes, write_tensors
from zoracle.storage.fingerprint import differences, optimizer_config


@pytest.fixture
def folder(tmp_path):
    save_optimizer(tmp_path / "mine", "zo-lstm", make("zo-lstm", num_directions=7, hidden=3), {"config": {}})
    return tmp_path / "mine"


def rewrite(folder, tensors=None, **changes):
    """The same file with other tensors or metadata; a change of None leaves a key out."""
    old, metadata = read_tensors(folder / WEIGHTS)
    metadata = {key: value for key, value in {**metadata, **changes}.items() if value is not None}
    write_tensors(folder / WEIGHTS, old if tensors is None else tensors(old), metadata)


def test_what_is_saved_comes_back(folder):
    optimizer = make("zo-lstm", num_directions=7, hidden=3)
    for where in (folder, folder / WEIGHTS, str(folder)):
        loaded = load_optimizer(where).optimizer
        assert optimizer_config(loaded) == optimizer_config(optimizer)
        assert not any(p.requires_grad for p in loaded.parameters())
    assert load_optimizer(folder, num_directions=9).optimizer.queries_per_step == 10
    assert resolve(str(folder)).metadata["name"] == "zo-lstm"
    x0 = torch.ones(2, 5)
    asked = [o.ask(o.init(x0)).points for o in (optimizer, load_optimizer(folder).optimizer)]
    assert torch.equal(*asked)


def pickled(folder):
    (folder / WEIGHTS).write_bytes(pickle.dumps({"weights": 1}))


def truncated(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def foreign(folder):
    save_file({"weight": torch.ones(2)}, folder / WEIGHTS, {"format": "pt"})


def first_nan(tensors):
    name = sorted(tensors)[0]
    return {**tensors, name: tensors[name] * torch.nan}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "truncated"),
        (lambda f: (f / WEIGHTS).write_bytes(b""), "cannot be read as safetensors"),
        (pickled, "cannot be read as safetensors"),
        (foreign, "does not contain an optimizer"),
        (lambda f: (f / WEIGHTS).unlink(), f"contains no {WEIGHTS}"),
        (lambda f: rewrite(f, version=2), "format version 2; this zoracle reads 1"),
        (lambda f: rewrite(f, name="zo-gru"), "'zo-gru' unknown to this version"),
        (lambda f: rewrite(f, name="zo-sgd"), "'zo-sgd' unknown to this version"),
        (lambda f: rewrite(f, name=["zo-lstm"]), "unknown to this version"),
        (lambda f: rewrite(f, config=None), "contains no settings"),
        (lambda f: rewrite(f, config={"hidden": 3, "depth": 2}), "settings unknown to this version"),
        (lambda f: rewrite(f, config={"hidden": 4}), "does not fit zo-lstm"),
        (lambda f: rewrite(f, lambda t: dict(list(t.items())[1:])), "does not fit zo-lstm"),
        (lambda f: rewrite(f, first_nan), "NaN or infinite weights"),
    ],
)
def test_what_is_no_optimizer_is_told_in_one_line(folder, spoil, message):
    spoil(folder)
    with pytest.raises(CheckpointError, match=message) as error:
        load_optimizer(folder)
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_optimizer(folder / "nowhere")


def test_an_unknown_setting_is_the_callers_mistake_not_the_files(folder):
    with pytest.raises(InputError, match="depth") as error:
        load_optimizer(folder, depth=2)
    assert not isinstance(error.value, CheckpointError)


def test_only_learned_optimizers_are_saved(tmp_path):
    with pytest.raises(InputError, match="no weights"):
        save_optimizer(tmp_path, "zo-sgd", make("zo-sgd"), {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zo-sdg", "did you mean zo-sgd"),
        ("", "unknown and not a folder"),
        ("zo-lstm-no-update", "no trained zo-lstm-no-update is shipped"),
    ],
)
def test_unknown_names_are_told_with_what_there_is(name, message):
    with pytest.raises(InputError, match=message) as error:
        resolve(name)
    assert "\n" not in str(error.value)


def test_differences_are_named_to_the_leaf():
    there = {"optimizer": {"lr": 0.1, "q": 5}, "seed": 1}
    assert differences(there, there) == []
    assert differences(there, {"optimizer": {"lr": 0.2, "q": 5}, "seed": 1, "new": True}) == [
        "optimizer.lr: 0.1 there, 0.2 asked",
        "new: None there, True asked",
    ]


def test_weights_settings_and_class_are_all_in_the_fingerprint():
    configs = [
        make("zo-sgd"), make("zo-sgd", lr=0.5), make("zo-adam"), make("zo-lstm"), make("zo-lstm", weight_seed=1),
        make("zo-lstm").double(),
    ]  # fmt: skip
    assert len({json.dumps(optimizer_config(one), sort_keys=True) for one in configs}) == len(configs)
    trained = make("zo-lstm")
    with torch.no_grad():
        next(iter(trained.parameters())).add_(1e-7)
    assert optimizer_config(trained) != optimizer_config(make("zo-lstm"))


def test_files_are_whole_or_not_at_all_and_others_may_read_them(tmp_path):
    path = tmp_path / "deep" / "file"
    write_bytes(path, b"old")
    before = os.umask(0o022)
    try:
        write_bytes(path, b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"], "no temporary file is left"


def test_what_cannot_be_written_is_told_beforehand(tmp_path):
    (tmp_path / "file").write_text("mine")
    for bad, message in ((tmp_path / "file" / "x", "cannot write"), (tmp_path, "it is a folder")):
        with pytest.raises(InputError, match=message):
            check_writable(bad)
    check_writable(tmp_path / "new" / "x")
    assert not list((tmp_path / "new").iterdir())
    check_writable(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if entry.learned])
def test_the_architecture_of_weights_is_no_setting_of_a_run(tmp_path, name):
    made = make(name, hidden=3, weight_seed=2)
    save_optimizer(tmp_path, name, made, {})
    plain = made.config.plain()
    setting, value = ("num_directions", 9) if "num_directions" in plain else next(iter(plain.items()))
    loaded = load_optimizer(tmp_path, **{setting: value}, hidden=3).optimizer
    assert loaded.settings() == {**made.settings(), setting: value}
    assert not set(loaded.config.plain()) & set(loaded.architecture.plain())
    refused = "hidden is 3 in these weights and part of their architecture, so a run cannot have 5; leave it out, or"
    with pytest.raises(InputError, match=refused):
        load_optimizer(tmp_path, hidden=5)
    with pytest.raises(InputError, match=refused):
        with_settings(loaded, hidden=5)
    assert getattr(with_settings(loaded, **{"hidden": 3, setting: value}).config, setting) == value
