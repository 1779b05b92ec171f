"""Meta-training: the same gradient whichever way it is had, truncation, schedules, and resuming to the same bits."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch

from problems import Bowls
from trainings import DIM, ROWS, START, BowlTask, Sealed, config, families, meta_gradient
from zoracle.errors import CheckpointError, InputError
from zoracle.metatrain import config as configs
from zoracle.metatrain import recipe, validation
from zoracle.metatrain.card import card
from zoracle.metatrain.checkpoint import CHECKPOINT
from zoracle.metatrain.config import Family, Stage, Validation
from zoracle.metatrain.families import Problems
from zoracle.metatrain.loss import MetaLoss
from zoracle.metatrain.oracle import TrainingOracle
from zoracle.metatrain.trainer import Trainer
from zoracle.objectives.transform import Rescaled
from zoracle.optimizers.pretrained import CARD, load_optimizer
from zoracle.optimizers.registry import make
from zoracle.rollout import take_step
from zoracle.rollout.oracle import Oracle
from zoracle.state import detach
from zoracle.types import Purpose


def trainable(name: str = "zo-lstm-paper", **settings):
    settings = {"num_directions": 4, **settings}
    if name == "zo-lstm-paper":
        settings = {"sampling_probability": 1.0, **settings}
    optimizer = make(name, **settings).double()
    optimizer.requires_grad_(True)
    return optimizer


def gradients(optimizer) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in optimizer.named_parameters() if p.grad is not None}


def unroll(optimizer, oracle, loss: MetaLoss, steps: int, k: int):
    """Backward through an unroll cut into segments of k steps; gradients add up."""
    optimizer.zero_grad()
    state = optimizer.init(START, seed=1, horizon=steps)
    previous = None
    values = []
    for first in range(0, steps, k):
        segment = loss.segment(
            optimizer, oracle, state, k, problem=ROWS, first=first, previous=previous, horizon=steps, origin=START
        )
        segment.value.backward()
        values.append(segment.losses.detach())
        state, previous = detach(segment.state), segment.losses[-1].detach()
    return torch.cat(values), gradients(optimizer)


@pytest.mark.parametrize("form", ["difference", "sum", "log"])
def test_one_segment_is_full_back_propagation(form) -> None:
    # Written out by hand: T steps of ask and tell, losses by autograd through the objective.
    optimizer, loss = trainable(), MetaLoss(form=form, weights="linear", penalty=0.01)
    objective = Bowls(3, DIM)
    losses, found = unroll(optimizer, TrainingOracle(objective), loss, 5, 5)

    optimizer.zero_grad()
    state = optimizer.init(START, seed=1, horizon=5)
    total, before = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    expected_losses = []
    for t in range(5):
        queries = optimizer.ask(state)
        with torch.no_grad():
            values = objective.evaluate(queries.points.flatten(0, 1), ROWS.repeat_interleave(5)).loss.view(3, 5)
        state = optimizer.tell(state, queries, values)
        after = objective.evaluate(state.x, ROWS).loss
        expected_losses.append(after.detach())
        o = queries.aux.output.square().sum(1)
        if form == "difference":
            total = total + t * (after - before.detach()) + 0.01 * o
        elif form == "sum":
            total = total + t * after + 0.01 * o
        else:
            total = total + t * torch.log(after + 1e-6) / (0.5 * 5 * 5) + 0.01 * o / 5
        before = after
    total.mean().backward()
    torch.testing.assert_close(losses, torch.stack(expected_losses))
    expected = gradients(optimizer)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)
        assert float(gradient.norm()) > 0


def test_shaped_weights_and_the_displacement_are_what_they_say() -> None:
    optimizer, oracle = trainable(), TrainingOracle(Bowls(3, DIM))
    loss = MetaLoss(
        form="log", weights="shaped", base=0.5, late=3.0, early=2.0, early_steps=2, last=7.0, eps=0.1, penalty=0.0,
        displacement=0.2,
    )  # fmt: skip
    xs = []
    state = optimizer.init(START, seed=1, horizon=6)
    for first in (0, 3):  # the second segment's weights continue where the first one's ended
        segment = loss.segment(optimizer, oracle, state, 3, problem=ROWS, first=first, horizon=6, origin=START)
        t = torch.arange(first, first + 3, dtype=torch.float64)
        w = 0.5 + 3.0 * ((t + 1) / 6) ** 2 + 2.0 * (t < 2) + 7.0 * (t == 5)
        expected = (w.unsqueeze(1) * torch.log(segment.losses.detach() + 0.1)).sum(0).mean() / 3
        by_hand, one = [], state
        for _ in range(3):
            _, _, one = take_step(optimizer, Oracle(Bowls(3, DIM)), one, ROWS)
            by_hand.append((one.x - START).abs().sum(1))
        expected = expected + 0.2 * torch.stack(by_hand).mean()
        torch.testing.assert_close(segment.value.detach(), expected.detach(), rtol=1e-9, atol=1e-12)
        state = detach(segment.state)
        xs.append(state.x)
    assert not torch.equal(xs[0], xs[1])


def test_truncation_is_detaching_the_state() -> None:
    optimizer, loss = trainable(), MetaLoss(form="sum", weights="uniform")
    whole_losses, whole = unroll(optimizer, TrainingOracle(Bowls(3, DIM)), loss, 6, 6)
    cut_losses, cut = unroll(optimizer, TrainingOracle(Bowls(3, DIM)), loss, 6, 2)
    assert torch.equal(whole_losses, cut_losses)
    assert any(not torch.allclose(whole[name], cut[name]) for name in whole)


def test_the_coordinatewise_gradient_trains_like_the_true_one_without_autograd() -> None:
    optimizer, loss = trainable(), MetaLoss()
    _, true = unroll(optimizer, TrainingOracle(Bowls(3, DIM)), loss, 4, 2)
    sealed = TrainingOracle(Sealed(), gradient="coordinatewise", mu=1e-4)
    _, estimated = unroll(optimizer, sealed, loss, 4, 2)
    for name, gradient in true.items():
        torch.testing.assert_close(estimated[name], gradient, rtol=1e-5, atol=1e-7)
    # 2d + 1 points for the gradient at the start and after each of 4 steps, q + 1 for each step, and nothing else.
    assert sealed.counts[Purpose.META_GRADIENT].tolist() == [5 * (2 * DIM + 1)] * 3
    assert sealed.counts[Purpose.OPTIMISE].tolist() == [4 * 5] * 3
    assert torch.equal(sealed.objective.inner.points_seen(), sum(sealed.counts.values()))


@pytest.mark.parametrize("name", ["zo-lstm-paper", "zo-lstm"])
def test_directional_derivatives_agree_with_queries_to_order_mu(name: str) -> None:
    loss = MetaLoss(form="sum", weights="uniform")
    difference = []
    for mu in (1e-3, 1e-4):
        optimizer = trainable(name, mu=mu)
        queried, _ = unroll(optimizer, TrainingOracle(Bowls(3, DIM)), loss, 4, 4)
        directional, _ = unroll(optimizer, TrainingOracle(Bowls(3, DIM), values="directional"), loss, 4, 4)
        difference.append(float((queried - directional).abs().max()))
    assert difference[1] < 0.2 * difference[0] < 0.01
    assert difference[1] > 0


def test_directional_training_takes_one_gradient_a_step() -> None:
    oracle = TrainingOracle(Bowls(3, DIM), values="directional")
    unroll(trainable(), oracle, MetaLoss(), 4, 2)
    # At the start, and after each of the 4 steps; the one after a step is the next step's own.
    assert oracle.gradients.tolist() == [5] * 3
    assert oracle.counts[Purpose.OPTIMISE].tolist() == [0] * 3


def test_a_frozen_part_stays_as_it_is_and_the_trained_one_moves() -> None:
    trainer = Trainer(config(stages=config().stages[:1]), BowlTask())
    before = trainer.weights()
    trainer.run()
    after = trainer.weights()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("update_rnn") for name in moved)
    assert not any(p.requires_grad for p in trainer.module.parameters())


def test_training_lowers_the_validation_ratio() -> None:
    stage = Stage(
        train=("update_rnn",),
        settings={"query": "gaussian"},
        unrolls=60,
        steps=20,
        truncation=10,
        meta_batch=3,
        lr=1e-2,
        clip_norm=1.0,
        loss=MetaLoss(form="log", weights="uniform"),
    )
    validation = Validation(problems=2, every=20, steps=20)
    reports = []
    Trainer(config(stages=(stage,), validation=validation), BowlTask()).run(reports.append)
    ratios = [report.valid for report in reports if report.valid is not None]
    assert ratios[-1] < 0.5
    assert reports[-1].best == min(ratios)


def test_a_killed_training_resumes_to_the_same_bits(tmp_path) -> None:
    whole = Trainer(config(), BowlTask(), tmp_path / "whole").run().state_dict()

    class KilledError(Exception):
        pass

    done = 0
    for attempt in range(20):
        budget = 1 + attempt % 2

        def report(told, budget=budget):
            nonlocal done
            done += 1
            if done >= budget:
                done = 0
                raise KilledError

        try:
            trainer = Trainer(config(), BowlTask(), tmp_path / "cut")
            pieces = trainer.run(report).state_dict()
            break
        except KilledError:
            continue
    assert attempt > 3
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


def test_several_families_are_trained_at_once_and_resume_to_the_same_bits(tmp_path) -> None:
    stage = Stage(unrolls=4, steps=6, truncation=3, meta_batch=2, lr=1e-2, loss=MetaLoss(form="log", penalty=0.1))
    chosen, tasks = families(stages=(stage,)), (BowlTask(), BowlTask())
    reports = []
    whole = Trainer(chosen, tasks, tmp_path / "whole").run(reports.append).state_dict()
    assert [r.unroll for r in reports] == [1, 2, 3, 4]

    def stop(told):
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            Trainer(chosen, tasks, tmp_path / "cut").run(stop)
    pieces = Trainer(chosen, tasks, tmp_path / "cut").run().state_dict()
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)
    loaded = load_optimizer(tmp_path / "whole")
    assert loaded.trained_on() == ("bowls",)
    assert loaded.metadata["training"]["problems"] == 5 + 3
    card = (tmp_path / "whole" / CARD).read_text()
    assert "5 problems of the `train` split of the task `bowls`" in card
    assert "3 problems of the `train` split of the task `bowls`, units of x by factors of 1 / 50 .. 50" in card
    with pytest.raises(InputError, match="1 tasks are given for 2 families"):
        Trainer(chosen, BowlTask())


def test_a_family_may_have_a_meta_batch_of_its_own(tmp_path) -> None:
    stage = Stage(unrolls=1, steps=3, truncation=3, meta_batch=2, loss=MetaLoss(form="log", penalty=0.1))
    two = (Family(task="bowls"), Family(task="bowls", meta_batch=5))
    trainer = Trainer(msgspec.structs.replace(families(stages=(stage,)), families=two), (BowlTask(),) * 2, tmp_path)
    trainer.run()
    told = (tmp_path / CARD).read_text()
    assert "weight 1; 5 in a meta-batch." in told
    assert "on 2 problems each unless said above" in told
    # One gradient per step and problem, and one more where a run begins.
    assert trainer.progress.spent["gradients"] == (2 + 5) * (3 + 1)


def test_families_take_turns_and_may_be_answered_in_their_own_way(tmp_path) -> None:
    stage = Stage(unrolls=4, steps=3, truncation=3, meta_batch=2, loss=MetaLoss(form="log", penalty=0.1))
    three = (
        Family(task="bowls"),
        Family(task="bowls", every=2, values="directional"),
        Family(task="bowls", every=2, values="queries"),
    )
    chosen = msgspec.structs.replace(families(stages=(stage,)), families=three)
    trainer, begun = Trainer(chosen, (BowlTask(),) * 3, tmp_path), []
    own = trainer.own

    def noted(stage, number, family):
        run = own(stage, number, family)
        begun.append((trainer.progress.unroll, number, run.oracle.values))
        return run

    trainer.own = noted
    trainer.run()
    first, second, third = chosen.values, "directional", "queries"
    assert begun == [
        (0, 0, first), (0, 2, third), (1, 0, first), (1, 1, second),
        (2, 0, first), (2, 2, third), (3, 0, first), (3, 1, second),
    ]  # fmt: skip
    told = (tmp_path / CARD).read_text()
    assert "in one of 2 unrolls; queries answered by directional derivatives of that gradient." in told
    assert "answered its queries in training: directional derivatives of that gradient unless said above." in told
    with pytest.raises(
        ValueError, match="every family has every > 1; expected at least one that takes part in each unroll"
    ):
        msgspec.structs.replace(chosen, families=three[1:])
    with pytest.raises(ValueError, match="every is 0; expected at least 1"):
        Family(task="bowls", every=0)


def test_weights_of_new_inputs_begin_at_zero(tmp_path) -> None:
    stage = Stage(unrolls=1, steps=4, truncation=4, meta_batch=2, lr=1e-3, loss=MetaLoss(form="log", penalty=0.1))
    before = {"num_directions": 10, "adaptive": True}
    first = config(optimizer="zo-lstm", settings=before, stages=(stage,))
    trained = Trainer(first, BowlTask(), tmp_path / "first").run().state_dict()
    wider = msgspec.structs.replace(first, initial=str(tmp_path / "first"), settings={**before, "believing": True})
    begun = Trainer(wider, BowlTask()).weights()
    for key, weight in trained.items():
        inputs = weight.shape[-1]
        assert torch.equal(begun[key][..., :inputs], weight)
        assert not begun[key][..., inputs:].any()
    assert {key for key, weight in trained.items() if begun[key].shape != weight.shape} == {
        "skip", "rnn.weight_ih", "rnn.weight_shared", "gates.inner", "pacing.inner", "pacing.straight",
    }  # fmt: skip
    narrower = msgspec.structs.replace(first, initial=str(tmp_path / "wider"))
    Trainer(wider, BowlTask(), tmp_path / "wider").run()
    with pytest.raises(InputError, match="does not fit"):
        Trainer(narrower, BowlTask())


@pytest.mark.parametrize(("scores", "keeps"), [((0.5, 0.7), True), ((0.5, 0.4), False)])
def test_what_training_goes_on_from_is_kept_where_nothing_better_comes(tmp_path, monkeypatch, scores, keeps) -> None:
    stage = Stage(unrolls=1, steps=4, truncation=4, meta_batch=2, lr=1e-2, loss=MetaLoss(form="log", penalty=0.1))
    first = config(optimizer="zo-lstm", settings={"num_directions": 4}, stages=(stage,))
    trained = Trainer(first, BowlTask(), tmp_path / "first").run().state_dict()
    told = iter(scores)  # of the weights that it begins with, and of those after its one unroll
    monkeypatch.setattr(validation, "score", lambda *_: validation.Score(next(told), 1))
    after = Trainer(msgspec.structs.replace(first, initial=str(tmp_path / "first")), BowlTask())
    kept = after.run().state_dict()
    assert all(torch.equal(trained[key], weight) for key, weight in kept.items()) == keeps
    assert after.progress.validated == min(scores)


def test_training_goes_on_from_trained_weights(tmp_path) -> None:
    stage = Stage(unrolls=1, steps=4, truncation=4, meta_batch=2, lr=1e-3, loss=MetaLoss(form="log", penalty=0.1))
    first = config(optimizer="zo-lstm", settings={"num_directions": 4}, stages=(stage,))
    trained = Trainer(first, BowlTask(), tmp_path / "first").run().state_dict()
    plain = msgspec.structs.replace(first, initial=str(tmp_path / "first"))
    assert all(torch.equal(trained[key], value) for key, value in Trainer(plain, BowlTask()).weights().items())
    more = msgspec.structs.replace(plain, settings={"num_directions": 4, "adaptive": True})
    begun = Trainer(more, BowlTask()).weights()
    assert all(torch.equal(trained[key], begun[key]) for key in trained)
    fresh = make("zo-lstm", **more.settings).state_dict()
    added = set(begun) - set(trained)
    assert added
    assert all(key.startswith("pacing.") and torch.equal(begun[key], fresh[key]) for key in added)
    Trainer(more, BowlTask(), tmp_path / "more").run()
    fewer = Trainer(msgspec.structs.replace(plain, initial=str(tmp_path / "more")), BowlTask()).weights()
    assert set(fewer) == set(trained)  # without pacing
    more_trained = Trainer(more, BowlTask(), tmp_path / "more").weights()
    assert all(torch.equal(more_trained[key], value) for key, value in fewer.items())
    for wrong, message in (
        ({"settings": {"num_directions": 4, "hidden": 5}}, "does not fit: .* is missing or of another shape"),
        ({"optimizer": "zo-lstm-paper", "settings": {}}, "is a zo-lstm; expected a trained zo-lstm-paper"),
        ({"initial": "zo-sgd"}, "is a zo-sgd; expected a trained zo-lstm"),
        ({"initial": "nothing"}, "unknown and not a folder"),
    ):
        with pytest.raises(InputError, match=message):
            Trainer(msgspec.structs.replace(plain, **wrong), BowlTask())


def test_every_kind_of_recipe_is_a_training(tmp_path) -> None:
    short = "steps = 2\n"
    stage = f'task = "quadratic"\n[[stages]]\nunrolls = 2\nmeta_batch = 2\n{short}[validation]\nproblems = 2\n{short}'
    told = []
    training = recipe.training(recipe.parse(stage), tmp_path)
    assert (training.done, training.total) == (0, 2)
    training.run(told.append)
    assert [(each.done, each.figures["unroll"]) for each in told] == [(1, 1), (2, 2)]
    assert recipe.training(recipe.parse(stage), tmp_path).done == 2
    by_likelihood = recipe.parse(
        'optimizer = "spectral-search"\n[[networks]]\nname = "a"\ntask = "digits"\nside = 8\nkind = "conv"\n'
    )
    assert recipe.training(by_likelihood, tmp_path).total == 2
    with pytest.raises(InputError, match="networks"):
        recipe.parse('optimizer = "spectral-search"\nnetworks = []')


def test_the_meta_gradient_of_families_is_the_weighted_mean_of_theirs() -> None:
    stage = Stage(unrolls=1, steps=3, truncation=3, meta_batch=2, loss=MetaLoss(form="log", penalty=0.1))

    def found(*weights: float) -> list[torch.Tensor]:
        two = tuple(Family(task="bowls", weight=weight) for weight in weights)
        trainer = Trainer(
            msgspec.structs.replace(families(stages=(stage,), dtype="float64"), families=two), (BowlTask(),) * 2
        )
        return meta_gradient(trainer, stage)

    # w1 g1 + w2 g2 over w1 + w2 is linear in the share of the first.
    even, first, second = found(1, 1), found(3, 1), found(1, 3)
    assert any(bool((a != b).any()) for a, b in zip(first, second, strict=True))
    for a, b, c in zip(even, first, second, strict=True):
        torch.testing.assert_close(2 * a, b + c, rtol=1e-9, atol=1e-12)


def test_displacement_is_measured_in_the_tasks_own_units() -> None:
    optimizer, loss = trainable("zo-lstm"), MetaLoss(form="log", penalty=0.0, displacement=0.5)
    state = optimizer.init(START, seed=1, horizon=3)

    def segment(**given):
        return loss.segment(optimizer, TrainingOracle(Bowls(3, DIM)), state, 3, problem=ROWS, origin=START, **given)

    unit = torch.tensor([[1.0], [2.0], [10.0]], dtype=torch.float64)
    plain, scaled = segment(), segment(unit=unit)
    assert torch.equal(plain.losses, scaled.losses)
    away = []
    for k in (1, 2, 3):
        short = loss.segment(optimizer, TrainingOracle(Bowls(3, DIM)), state, k, problem=ROWS, origin=START, horizon=3)
        away.append((short.state.x - START).abs().sum(1))
    expected = 0.5 * (torch.stack(away) * (unit.squeeze(1) - 1)).mean()
    torch.testing.assert_close(scaled.value - plain.value, expected)


def test_units_are_keyed_by_seed_and_problem_and_spread_evenly() -> None:
    task = BowlTask()
    ids = tuple(range(400))
    problems = Problems(task.objective(ids), task, ids, 100.0, torch.float64)
    objective, named, x0, unit = problems.begin(torch.tensor([3, 5]), 11)
    plain = task.start((3, 5), seed=11, dtype=torch.float64)
    assert isinstance(objective, Rescaled)
    assert named.tolist() == [3, 5]
    factors = objective.factor[[3, 5]].unsqueeze(1)
    assert torch.equal(unit, factors)
    torch.testing.assert_close(x0 * factors, plain)
    logs = objective.factor.log() / math.log(100)
    assert bool((logs.abs() <= 1).all())
    assert abs(float(logs.mean())) < 4 * 0.577 / 20
    assert abs(float(logs.std()) - 0.577) < 0.06
    alone = problems.begin(torch.tensor([5]), 11).x0
    assert torch.equal(alone[0], x0[1])
    assert not torch.equal(problems.begin(torch.tensor([5]), 12).objective.factor, objective.factor)


def test_a_foreign_or_broken_checkpoint_is_refused(tmp_path) -> None:
    Trainer(config(stages=config().stages[:1]), BowlTask(), tmp_path).run()
    with pytest.raises(CheckpointError, match="another config"):
        Trainer(config(seed=4), BowlTask(), tmp_path)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="truncated"):
        Trainer(config(), BowlTask(), tmp_path)


def test_configs_are_checked_in_one_line() -> None:
    good = 'task = "digits"\n[[stages]]\nunrolls = 2\n'
    assert configs.parse(good).stages[0].unrolls == 2
    for text, expected in (
        (good + "unrols = 3\n", "unrols"),
        ('task = "digits"\nstages = []\n', "no stages"),
        (good.replace("= 2", "= 0"), "unrolls is 0"),
        (good + "lr = -1.0\n", "lr is -1"),
        ("task = ", "Invalid value"),
        (good + 'steps = "many"\n', "Expected `int`"),
        (good.replace('task = "digits"\n', ""), "both or neither of task and"),
        (good + '[[families]]\ntask = "mnist"\n', "both or neither of task and"),
        (good.replace('task = "digits"', "problems = 3") + '[[families]]\ntask = "digits"\n', "belong to one task"),
        (good.replace('task = "digits"\n', "") + '[[families]]\ntask = "digits"\nrescale = 0.5\n', "rescale is 0.5"),
        (good.replace('task = "digits"\n', "") + '[[families]]\ntask = "digits"\nweight = 0.0\n', "weight is 0"),
        (good.replace('task = "digits"\n', "") + '[[families]]\ntask = "digits"\nmeta_batch = 0\n', "meta_batch is 0"),
    ):
        with pytest.raises(InputError, match=expected) as error:
            configs.parse(text, "here")
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="has update_rnn, query_rnn"):
        Trainer(config(stages=(Stage(train=("update",)),)), BowlTask())
    with pytest.raises(InputError, match="nothing to train"):
        Trainer(config(optimizer="zo-sgd", settings={}), BowlTask())
    with pytest.raises(InputError, match="coordinatewise"):
        TrainingOracle(Sealed())


def test_validation_does_not_touch_the_test_split() -> None:
    asked = []

    class Watched(BowlTask):
        def ids(self, split):
            asked.append(split)
            return super().ids(split)

    Trainer(config(), Watched()).run()
    assert set(asked) == {"train", "valid"}


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "less than a minute"), (29, "less than a minute"), (60, "1 minute"), (95, "2 minutes")]
)
def test_a_card_says_how_long_in_words(seconds: float, told: str) -> None:
    provenance = {**Trainer(config(), BowlTask()).provenance(), "seconds": seconds, "validation_ratio": 0.5}
    text = card(config(), provenance, 10)
    assert f"- Took {told} on " in text
    assert "1 minutes" not in text
