"""A meta-training shared by processes: the weights of one process, whatever their number."""

from __future__ import annotations

import json

import msgspec
import pytest
import torch

from meeting import together
from torchrun import torchrun
from trainings import BowlTask, config, families
from zoracle.cli.main import main as cli
from zoracle.errors import InputError
from zoracle.group import Group
from zoracle.metatrain import recipe
from zoracle.metatrain.config import Stage
from zoracle.metatrain.loss import MetaLoss
from zoracle.metatrain.trainer import Trainer
from zoracle.storage.files import read_tensors

UNROLLS = Stage(unrolls=3, steps=4, truncation=2, meta_batch=4, lr=1e-3, clip_norm=1.0)
PAIRS = Stage(
    estimator="evolution",
    unrolls=2,
    steps=4,
    meta_batch=2,
    pairs=3,
    lr=1e-2,
    loss=MetaLoss(form="log", weights="shaped", last=10.0, eps=0.01),
)


def trained(chosen, group, folder=None):
    number = len(chosen.drawn_from())
    trainer = Trainer(chosen, [BowlTask() for _ in range(number)], folder, group)
    reports = []
    weights = trainer.run(reports.append).state_dict()
    return weights, [report._asdict() for report in reports], dict(trainer.progress.spent)


@pytest.mark.parametrize("clip_family", [None, 0.01])
def test_meta_gradients_add_up_to_those_of_one_process(tmp_path, clip_family):
    stage = msgspec.structs.replace(UNROLLS, clip_family=clip_family)
    chosen = families(stages=(stage,), dtype="float64")
    weights, reports, spent = trained(chosen, Group())
    for number in (2, 4):  # of 4 and at the end of a pass fewer problems; a third of them has none
        folder = tmp_path / str(number)
        for other, told, counts in together(number, lambda group: trained(chosen, group, folder)):  # noqa: B023
            assert counts == spent, "whatever was evaluated by any process is counted, and once"
            for one, same in zip(reports, told, strict=True):
                known = {name: value for name, value in one.items() if value is not None}
                assert {name: same[name] for name in known} == pytest.approx(known, rel=1e-6)
            for name, tensor in weights.items():
                torch.testing.assert_close(other[name], tensor, rtol=1e-5, atol=1e-7)
        kept, _ = read_tensors(folder / "optimizer.safetensors")
        assert kept.keys() == weights.keys()


def test_without_a_share_weights_come_out_different():
    """What the test above would see if gradients did not add up, or were of the wrong share."""
    chosen = families(stages=(UNROLLS,), dtype="float64")

    class Deaf(Group):
        def __init__(self, rank):
            super().__init__()
            self.rank, self.size = rank, 2

        def sum(self, numbers):
            return numbers

        first = sum

    weights, *_ = trained(chosen, Group())
    other, *_ = trained(chosen, Deaf(0))
    assert any(not torch.allclose(other[name], tensor, rtol=1e-4, atol=1e-6) for name, tensor in weights.items())


def test_scores_of_pairs_are_all_that_evolution_exchanges():
    chosen = config(
        optimizer="zo-lstm",
        settings={"num_directions": 4},
        stages=(PAIRS,),
        gradient="coordinatewise",
        values="queries",
    )
    one = trained(chosen, Group())
    for number in (2, 4):

        def work(group):
            return *trained(chosen, group), group.exchanged

        for weights, reports, spent, exchanged in together(number, work):
            assert all(torch.equal(weights[name], tensor) for name, tensor in one[0].items()), "to the bit"
            assert (reports, spent) == one[1:]
            # 2 unrolls of 3 pairs of two runs with three numbers each; 1 validation of two numbers.
            assert exchanged == 8 * (2 * 3 * 2 * 3 + 2)


def test_one_that_cannot_be_shared_is_refused(tmp_path):
    text = 'optimizer = "spectral-search"\n[[networks]]\nname = "a"\ntask = "digits"\nside = 8\nkind = "conv"\n'
    group = Group()
    group.size = 2
    with pytest.raises(InputError, match="trained by one process; run the same command without torchrun"):
        recipe.training(recipe.parse(text), tmp_path, group)


RECIPE = """
task = "quadratic"
optimizer = "zo-lstm"
seed = 3
dtype = "float64"
settings = {num_directions = 4}
validation = {problems = 2, every = 2, steps = 6}

[[stages]]
unrolls = 3
steps = 4
truncation = 2
meta_batch = 3
"""


@pytest.mark.slow
def test_the_command_trains_under_torchrun(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    argv = ["train", str(tmp_path / "recipe.toml"), "--out"]
    assert cli([*argv, str(tmp_path / "one")]) == 0
    out = torchrun(["-m", "zoracle", *argv, str(tmp_path / "two")], 2)
    assert out.count("trained optimizer:") == 1
    weights, other = (read_tensors(tmp_path / name / "optimizer.safetensors")[0] for name in ("one", "two"))
    for name, tensor in weights.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-5, atol=1e-7)
    lines = [(tmp_path / name / "history.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert [json.loads(line)["done"] for line in lines[1]] == [1, 2, 3]
    losses = [[json.loads(line)["meta_loss"] for line in some] for some in lines]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
