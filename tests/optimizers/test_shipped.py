"""The trained optimizers that come with the package."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

import zoracle
from problems import Bowls
from zoracle.comparison.named import named_optimizers, use_of
from zoracle.errors import CheckpointError, InputError
from zoracle.evaluation.evaluate import evaluate
from zoracle.evaluation.spec import RunSpec
from zoracle.metatrain import config as configs
from zoracle.metatrain import controllers_training, spectral_training
from zoracle.objectives.transform import Rescaled
from zoracle.optimizers.base import with_settings
from zoracle.optimizers.learned.guided_lstm import GuidedLSTM
from zoracle.optimizers.learned.paper import PaperLSTM
from zoracle.optimizers.learned.spectral.search import SpectralSearch
from zoracle.optimizers.learned.square_controllers import SquareControllers
from zoracle.optimizers.pretrained import (
    CARD,
    FORMAT,
    VERSION,
    WEIGHTS,
    Use,
    default_for,
    load_optimizer,
    resolve,
    shipped,
)
from zoracle.optimizers.registry import make
from zoracle.results.metrics import paired
from zoracle.rollout import rollout
from zoracle.rollout.oracle import Oracle
from zoracle.storage.files import write_tensors
from zoracle.tasks import task


def test_they_are_there_with_their_cards_and_recipes() -> None:
    plain = {f"zo-lstm-{task}" for task in ("digits", "mnist", "cifar10", "quadratic", "universal")}
    assert set(shipped()) == plain | {"zo-lstm-paper-mnist", "spectral-search", "square-controllers"}
    for name, folder in shipped().items():
        if not name.startswith("zo-lstm"):
            continue
        loaded = load_optimizer(folder)
        kind = PaperLSTM if name == "zo-lstm-paper-mnist" else GuidedLSTM
        assert isinstance(loaded.optimizer, kind)
        training = loaded.metadata["training"]
        # The weights were trained by the recipe that is committed beside them.
        recipe = (folder.parents[1].parent / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        recorded, committed = msgspec.convert(training["config"], configs.TrainConfig), configs.parse(recipe)
        if committed.before:
            # When its weights were trained, the trainings before it were recipes of their own, and `initial` a folder.
            assert recorded.initial is not None
            recorded = msgspec.structs.replace(recorded, initial=None, before=committed.before)
        assert recorded == committed
        card = (folder / CARD).read_text(encoding="utf-8")
        assert f"{training['validation_ratio']:.4g}" in card


def test_the_learned_search_ships_with_its_card_and_recipe() -> None:
    folder = shipped()["spectral-search"]
    loaded = load_optimizer(folder)
    assert isinstance(loaded.optimizer, SpectralSearch)
    training = loaded.metadata["training"]
    text = (folder.parents[1].parent / "recipes" / "spectral-search.toml").read_text(encoding="utf-8")
    recipe = spectral_training.parse(text)
    assert msgspec.convert(training["config"], spectral_training.SpectralRecipe) == recipe
    parameters = sum(p.numel() for p in loaded.optimizer.parameters())
    assert (folder / CARD).read_text(encoding="utf-8") == spectral_training.card(recipe, training, parameters)


def test_the_learned_controllers_ship_with_their_card_and_recipe() -> None:
    folder = shipped()["square-controllers"]
    loaded = load_optimizer(folder)
    assert isinstance(loaded.optimizer, SquareControllers)
    training = loaded.metadata["training"]
    text = (folder.parents[1].parent / "recipes" / "square-controllers.toml").read_text(encoding="utf-8")
    recipe = controllers_training.parse(text)
    assert msgspec.convert(training["config"], controllers_training.ControllersRecipe) == recipe
    parameters = sum(p.numel() for p in loaded.optimizer.parameters())
    assert (folder / CARD).read_text(encoding="utf-8") == controllers_training.card(recipe, training, parameters)
    # Without settings or a folder, where balls are attacked.
    ((label, optimizer),) = named_optimizers("square-controllers", Use("digits", ball="linf"))
    assert label == "square-controllers"
    assert isinstance(optimizer, SquareControllers)


def test_the_plain_name_means_the_task_at_hand() -> None:
    assert resolve("zo-lstm", Use("digits")).metadata["shipped"] == "zo-lstm-digits"
    assert resolve("zo-lstm", Use("another")).metadata["shipped"] == "zo-lstm-universal"
    assert resolve("zo-lstm", Use("network")).metadata["shipped"] == "zo-lstm-universal"
    assert resolve("zo-lstm").metadata["shipped"] == "zo-lstm-universal"
    assert resolve("zo-lstm-paper").metadata["shipped"] == "zo-lstm-paper-mnist"
    assert not any(p.requires_grad for p in zoracle.load("zo-lstm").parameters())  # type: ignore[attr-defined]
    assert zoracle.load("zo-lstm-digits", num_directions=7).queries_per_step == 8


@pytest.mark.parametrize("name", ["zo-lstm-linf", "zo-lstm-l2-mnist", "zo-lstm-ball"])
def test_names_of_before_are_told_in_a_line(name: str, tmp_path: Path) -> None:
    told = 'was removed from zoracle: use "zo-lstm"'
    with pytest.raises(InputError, match=told):
        resolve(name, Use("mnist", ball="linf"))
    with pytest.raises(InputError, match=told):
        make(name)
    metadata = {"format": FORMAT, "version": VERSION, "name": "zo-lstm-ball", "config": {}}
    write_tensors(tmp_path / WEIGHTS, {"rate": torch.zeros(1)}, metadata)
    with pytest.raises(CheckpointError, match=told):
        load_optimizer(tmp_path)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_plain_name_means_the_ball_at_hand(norm: str) -> None:
    """Within a ball "zo-lstm" is never the one that was trained to make a loss small, whatever the task."""
    for name in ("digits", "mnist", "images"):
        assert default_for(Use(name, ball=norm)) == "spectral-search"
    made = task("digits", norm=norm, eps=0.2)
    assert use_of(made) == Use("digits", norm, 64)
    ((label, optimizer),) = named_optimizers("zo-lstm", use_of(made))
    assert label == "zo-lstm"
    assert isinstance(optimizer, SpectralSearch)
    assert use_of(task("digits", norm="l2" if norm == "l2" else "l1")).ball is None


def test_it_beats_tuned_zo_sgd_on_validation_digits() -> None:
    digits = task("digits")
    ids = digits.ids("valid")[:20]
    learned = evaluate(resolve("zo-lstm", Use("digits")).optimizer, digits, RunSpec(ids=ids))
    baseline = evaluate(with_settings(make("zo-sgd"), lr=0.0078125), digits, RunSpec(ids=ids))
    assert paired(baseline, learned)["ratio"].low > 0


@pytest.mark.parametrize("unit", [1e-2, 1.0, 1e2])
def test_the_universal_one_finds_the_unit_of_a_problem(unit: float) -> None:
    """The same bowl in other units, with nobody telling; one that steps in units of x cannot do that."""
    bowl, start = Rescaled(Bowls(1, 60), scale=1 / unit), unit * torch.linspace(-1, 1, 60).double().unsqueeze(0)
    ratios = []
    for name in ("zo-lstm-universal", "zo-lstm-quadratic"):
        optimizer = zoracle.load(name, mu=1e-5 * unit)
        begun = optimizer.init(start, horizon=200)
        _, trajectory = rollout(optimizer, Oracle(bowl), begun, 200)
        ratios.append(float(trajectory.final_loss / trajectory.loss[0]))
    assert ratios[0] < 0.02
    assert unit == 1 or ratios[1] > 4 * ratios[0]


@pytest.mark.parametrize("factor", [1.0, 1e4])
def test_it_minimises_what_it_was_not_trained_on(factor: float) -> None:
    found = zoracle.minimize(lambda x: factor * ((x - 0.1) ** 2).sum(1), torch.zeros(50), budget=4200)
    assert found.value < 0.02 * factor * 0.5
    assert found.queries <= 4200
