"""A recipe with trainings before its own: one command does what as many would, and resumes within any of them."""

from __future__ import annotations

import pytest
import torch

from zoracle.errors import InputError
from zoracle.metatrain import recipe
from zoracle.metatrain.config import parse
from zoracle.metatrain.trainer import Trainer
from zoracle.optimizers.pretrained import CARD, load_optimizer
from zoracle.tasks import task

SHORT = "steps = 2\n"
STAGE = f"unrolls = 2\nmeta_batch = 2\ntruncation = 2\n{SHORT}"
FIRST = 'task = "quadratic"\ntask_settings = { dim = 5 }\nseed = 3\n'
LAST = 'task = "quadratic"\ntask_settings = { dim = 7 }\nsettings = { adaptive = true }\n'
VALIDATION = f"problems = 2\nevery = 1\n{SHORT}"
ONE = f"{FIRST}[[stages]]\n{STAGE}[validation]\n{VALIDATION}"
BOTH = (
    f"{LAST}[[stages]]\n{STAGE}[validation]\n{VALIDATION}"
    f"[[before]]\n{FIRST}[[before.stages]]\n{STAGE}[before.validation]\n{VALIDATION}"
)


class StoppedError(Exception):
    """Raised by a report."""


def weights(folder) -> dict[str, torch.Tensor]:
    return dict(load_optimizer(folder).optimizer.state_dict())


def test_trainings_in_turn_give_what_they_give_one_by_one(tmp_path) -> None:
    recipe.training(recipe.parse(ONE), tmp_path / "one").run(lambda _: None)
    by_hand = f'initial = "{tmp_path / "one"}"\n{LAST}[[stages]]\n{STAGE}[validation]\n{VALIDATION}'
    recipe.training(recipe.parse(by_hand), tmp_path / "two").run(lambda _: None)

    told = []
    training = recipe.training(recipe.parse(BOTH), tmp_path / "both")
    assert (training.done, training.total) == (0, 4)
    training.run(told.append)
    assert [(each.done, each.total) for each in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for folder, same in (("one", "both/before-1"), ("two", "both")):
        expected, found = weights(tmp_path / folder), weights(tmp_path / same)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert "weights of the training before it in its recipe" in (tmp_path / "both" / CARD).read_text()
    assert len(load_optimizer(tmp_path / "both").metadata["training"]["config"]["before"]) == 1
    assert recipe.training(recipe.parse(BOTH), tmp_path / "both").done == 4


@pytest.mark.parametrize("last", [1, 2])
def test_they_resume_wherever_they_were_stopped(tmp_path, last: int) -> None:
    def until(report) -> None:
        if report.done == last:
            raise StoppedError

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    recipe.training(recipe.parse(BOTH), whole).run(lambda _: None)
    with pytest.raises(StoppedError):
        recipe.training(recipe.parse(BOTH), parts).run(until)
    recipe.training(recipe.parse(BOTH), parts).run(lambda _: None)
    expected, found = weights(whole), weights(parts)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_what_a_recipe_may_not_say_of_them(tmp_path) -> None:
    with pytest.raises(InputError, match="initial is given twice"):
        parse(f'initial = "zo-lstm-mnist"\n{BOTH}')
    with pytest.raises(InputError, match="has a \\[\\[before\\]\\] of its own"):
        parse(f"{BOTH}[[before.before]]\n{FIRST}[[before.before.stages]]\n{STAGE}")
    with pytest.raises(InputError, match="other trainings first; train it with `zoracle train`"):
        Trainer(parse(BOTH), task("quadratic", dim=7), tmp_path)
