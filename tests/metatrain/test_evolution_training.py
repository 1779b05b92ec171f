"""Meta-gradients by evolution: those of the smoothed meta-loss, by queries alone; and clipping family by family."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch
from torch import nn

from trainings import BowlTask, Sealed, config, families, meta_gradient
from zoracle.errors import InputError
from zoracle.group import Group
from zoracle.metatrain.config import Family, Stage
from zoracle.metatrain.evolution import Whole, ascent
from zoracle.metatrain.loss import MetaLoss
from zoracle.metatrain.trainer import Trainer
from zoracle.metatrain.unroll import clipped


def linear(inputs: int, **settings) -> nn.Linear:
    """Without a draw from the global generator."""
    module = nn.utils.skip_init(nn.Linear, inputs, 1, **settings)
    for parameter in module.parameters():
        nn.init.constant_(parameter, 0.1)
    return module


LOSS = MetaLoss(form="log", weights="shaped", last=10.0, eps=0.01)
STAGE = Stage(estimator="evolution", unrolls=4, steps=6, meta_batch=2, pairs=2, lr=1e-2, loss=LOSS)


def test_pairs_find_the_gradient_of_the_smoothed_meta_loss() -> None:
    module = linear(5, dtype=torch.float64)
    module.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    target = torch.linspace(-1, 1, 5, dtype=torch.float64)

    def measure() -> Whole:
        away = module.weight.detach()[0] - target
        return Whole(float(0.05 * away.square().sum()), 0.5, 0)

    found = ascent(module, measure, pairs=2000, sigma=0.1, key=3)
    assert found.gradient[1] is None
    # Of a quadratic, smoothing changes no gradient; 2,000 pairs leave about 1 / sqrt(2000 / 5) of it as noise.
    true = 0.1 * (before["weight"][0] - target)
    assert float((found.gradient[0][0] - true).norm() / true.norm()) < 0.1
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert found.ratio == 0.5
    again, other = (ascent(module, measure, pairs=2, sigma=0.1, key=key).gradient[0] for key in (3, 4))
    assert not torch.equal(again, other)
    assert torch.equal(again, ascent(module, measure, pairs=2, sigma=0.1, key=3).gradient[0])


def test_a_pair_that_blows_up_does_not_outweigh_the_others() -> None:
    module = linear(1, bias=False)
    found = ascent(
        module, lambda: Whole(math.exp(40 * float(module.weight.detach())), 1.0, 0), pairs=1, sigma=0.5, key=0
    )
    assert 0 < float(found.gradient[0].abs()) < 10


def test_evolution_trains_by_queries_alone_resumes_to_the_same_bits_and_counts(tmp_path) -> None:
    class SealedTask(BowlTask):
        def objective(self, ids, *, dtype=torch.float32, device="cpu"):
            sealed = Sealed()
            sealed.num_problems = len(ids)
            sealed.inner = super().objective(ids, dtype=dtype)
            return sealed

    chosen = config(
        optimizer="zo-lstm",
        settings={"num_directions": 4},
        stages=(STAGE,),
        gradient="coordinatewise",
        values="queries",
    )
    trainer = Trainer(chosen, SealedTask(), tmp_path / "whole")
    begun = trainer.weights()
    whole = trainer.run().state_dict()
    assert any(not torch.equal(begun[name], tensor) for name, tensor in whole.items())
    # 4 unrolls of 2 pairs, of 2 problems and 6 steps of 5 points; the last loss is one more.
    assert trainer.progress.spent["points"] == 4 * 4 * 2 * (6 * 5 + 1)
    assert not trainer.progress.spent.get("gradients")

    def stop(told):
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            Trainer(chosen, SealedTask(), tmp_path / "cut").run(stop)
    pieces = Trainer(chosen, SealedTask(), tmp_path / "cut").run().state_dict()
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


def test_a_stage_may_train_single_weights_and_nothing_else() -> None:
    stage = msgspec.structs.replace(STAGE, train=("pacing.bias", "gates"))
    chosen = config(optimizer="zo-lstm", settings={"num_directions": 4, "adaptive": True}, stages=(stage,))
    trainer = Trainer(chosen, BowlTask())
    begun = trainer.weights()
    trainer.run()
    moved = {name for name, tensor in trainer.weights().items() if not torch.equal(begun[name], tensor)}
    assert moved == {"pacing.bias", *(name for name in begun if name.startswith("gates."))}
    wrong = msgspec.structs.replace(STAGE, train=("pacing.bia",))
    with pytest.raises(InputError, match=r"stage trains pacing.bia; the optimizer has .*rnn, gates, pacing"):
        Trainer(msgspec.structs.replace(chosen, stages=(wrong,)), BowlTask())


def test_each_familys_gradient_is_clipped_by_itself() -> None:
    stage = Stage(unrolls=1, steps=3, truncation=3, meta_batch=2, loss=MetaLoss(form="log", penalty=0.1))

    def found(clip: float | None, *weights: float) -> torch.Tensor:
        two = tuple(Family(task="bowls", weight=weight, displacement=10.0**n) for n, weight in enumerate(weights))
        chosen = families(stages=(msgspec.structs.replace(stage, clip_family=clip),), dtype="float64")
        trainer = Trainer(msgspec.structs.replace(chosen, families=two), (BowlTask(),) * 2)
        return torch.cat([slope.flatten() for slope in meta_gradient(trainer, trainer.config.stages[0])])

    torch.testing.assert_close(found(1e9, 1, 1), found(None, 1, 1), rtol=1e-12, atol=1e-15)
    first, second = found(1e-6, 1, 1e-12), found(1e-6, 1e-12, 1)
    torch.testing.assert_close(torch.stack((first.norm(), second.norm())), torch.full((2,), 1e-6, dtype=torch.float64))
    torch.testing.assert_close(found(1e-6, 1, 1), (first + second) / 2, rtol=1e-5, atol=1e-15)


def test_a_gradient_that_is_not_finite_adds_nothing() -> None:
    module = linear(2)
    with clipped(module, 1.0, Group()):
        module(torch.ones(2)).sum().backward()
    kept = module.weight.grad.clone()
    assert float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters()])) == pytest.approx(1.0)
    with clipped(module, 1.0, Group()):
        (module(torch.ones(2)) * math.inf).sum().backward()
    assert torch.equal(module.weight.grad, kept)


def test_evolution_needs_the_losses_of_iterates() -> None:
    chosen = config(settings={"num_directions": 4, "difference": "central"}, stages=(STAGE,))
    with pytest.raises(InputError, match='does not evaluate it; expected difference = "forward"'):
        Trainer(chosen, BowlTask()).run()


def test_settings_of_evolution_are_checked() -> None:
    with pytest.raises(ValueError, match="pairs is 0; expected at least 1"):
        Stage(pairs=0)
    with pytest.raises(ValueError, match="sigma is 0; expected a positive number"):
        Stage(sigma=0)
