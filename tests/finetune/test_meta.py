"""The training of the controller in two parts, and the file of its two sets of weights."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import nn

from zoracle import keyed
from zoracle.errors import CheckpointError, InputError
from zoracle.finetune import ZerothOrder, shipped_controller
from zoracle.finetune.controller import SIZE, convolutional
from zoracle.finetune.controller_file import FORMAT, WEIGHTS, load
from zoracle.finetune.meta import Recipe, recipe, train
from zoracle.finetune.nets import problem
from zoracle.storage.files import read_tensors, write_tensors

FIRST = Recipe(updates=1, pairs=1, steps=(2, 2), num_directions=2, validate_every=1, kinds=(6,))
THEN = msgspec.structs.replace(FIRST, seed=1, kinds=(1, 6), smoothing=0.5, before=FIRST, kernels=True)


@pytest.fixture(autouse=True)
def few_validation_problems(monkeypatch):
    monkeypatch.setattr("zoracle.finetune.meta.VALIDATED", 2)


def saved(path, **sets):
    write_tensors(path, sets, {"format": FORMAT})
    return path


def test_a_training_continues_from_the_one_before_it_and_keeps_its_weights_for_other_networks(tmp_path):
    trained = train(THEN, tmp_path / "one")
    first, both = load(tmp_path / "one" / "before" / WEIGHTS), load(tmp_path / "one" / WEIGHTS)
    assert torch.equal(first.kernels, first.general)  # the file of a first training has one set
    assert torch.equal(both.general, first.general)
    assert torch.equal(both.kernels, trained.weights)
    assert (tmp_path / "one" / "MODEL_CARD.md").is_file()
    # The first training is not repeated where the folder holds its result.
    _, told = read_tensors(tmp_path / "one" / "before" / WEIGHTS)
    changed = {"weights": torch.full((SIZE,), 0.25, dtype=torch.float64)}
    write_tensors(tmp_path / "other" / "before" / WEIGHTS, changed, told)
    train(THEN, tmp_path / "other")
    assert load(tmp_path / "other" / WEIGHTS).general.eq(0.25).all()


def test_a_training_resumes_to_the_same_bits_with_another_limit_of_time(tmp_path):
    longer = msgspec.structs.replace(THEN, updates=2)
    train(msgspec.structs.replace(longer, minutes=1e-9), tmp_path / "one")  # stops after an update
    for folder in ("one", "other"):
        train(longer, tmp_path / folder)
    assert all(map(torch.equal, load(tmp_path / "one" / WEIGHTS), load(tmp_path / "other" / WEIGHTS)))
    with pytest.raises(CheckpointError, match="another recipe"):
        train(msgspec.structs.replace(longer, sigma=0.1), tmp_path / "one")


def test_a_recipe_names_only_kinds_that_exist(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("kinds = [1, 7]\n", encoding="utf-8")
    with pytest.raises(InputError, match="kinds"):
        recipe(path)
    path.write_text("kinds = [1, 6]\nkernels = true\n", encoding="utf-8")
    with pytest.raises(InputError, match="before"):
        recipe(path)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ([(8, 1, 3, 3), (8,), (16, 8, 3, 3), (16,), (10, 64), (10,)], True),
        ([(6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (120, 400), (84, 120), (10, 84)], True),
        ([(32, 3, 4, 4), (32,), (96, 32), (32, 32), (64, 32), (32, 64)], False),  # a transformer on images
        ([(8, 64), (8,)], False),
        ([(8,)], False),
        ([], False),
    ],
)
def test_networks_of_convolutions_are_known_by_their_shapes(shapes, said):
    assert convolutional(shapes) is said


def test_networks_of_convolutions_have_weights_of_their_own(tmp_path):
    own = load(shipped_controller())
    path = str(saved(tmp_path / "c.safetensors", weights=torch.zeros(SIZE, dtype=torch.float64), kernels=own.kernels))
    for kind, same in ((6, True), (0, False)):
        ends = []
        for settings in ({}, {"weights": path}):
            net = problem("valid", 0, 0, kind)
            x, y = net.batch(keyed.generator(0))
            optimizer = ZerothOrder(net.module.parameters(), "learned", horizon=3, **settings)
            for _ in range(3):
                optimizer.step(lambda net=net, x=x, y=y: nn.functional.cross_entropy(net.module(x), y))
            ends.append(torch.cat([p.detach().flatten() for p in net.module.parameters()]))
        assert torch.equal(*ends) is same


def test_a_set_of_the_wrong_size_is_refused(tmp_path):
    right, wrong = torch.zeros(SIZE, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    with pytest.raises(CheckpointError, match="weights of a controller"):
        load(saved(tmp_path / "c.safetensors", weights=right, kernels=wrong))
