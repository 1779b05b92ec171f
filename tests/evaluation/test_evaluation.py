"""Evaluations: what is counted, what is kept, and that an interruption changes nothing."""

from __future__ import annotations

import pytest
import torch

from valleys import FakeTask, M, sgd
from zoracle.errors import BudgetError, CheckpointError, InputError
from zoracle.evaluation import running as module
from zoracle.evaluation.evaluate import evaluate
from zoracle.evaluation.spec import RunSpec
from zoracle.types import StopReason


@pytest.mark.parametrize(("difference", "monitored"), [("forward", 1), ("central", 2)])
def test_what_the_objective_sees_is_what_is_reported(difference, monitored):
    task = FakeTask()
    optimizer = sgd(difference=difference)
    result = evaluate(optimizer, task, RunSpec(ids=(20, 21), seeds=(0, 3, 5), steps=4))
    assert task.seen == int((result.spent + result.monitored).sum())
    assert (result.spent == 4 * optimizer.queries_per_step).all()
    assert (result.monitored == monitored).all()


def test_shapes_and_ends():
    task = FakeTask()
    result = evaluate(sgd(), task, RunSpec(ids=(20, 21, 22), seeds=(0, 1), steps=4, dtype="float64"))
    assert result.losses.shape == result.queries.shape == result.best.shape == (2, 3, 5)
    assert result.queries[0, 0].tolist() == [0, 5, 10, 15, 20]
    x0 = task.start((20, 21, 22), seed=1, dtype=torch.float64)
    torch.testing.assert_close(result.losses[1, :, 0], 0.5 * x0.square().sum(1) + 0.01)
    torch.testing.assert_close(result.losses[..., -1], 0.5 * result.final_point.square().sum(2) + 0.01)
    torch.testing.assert_close(result.best[..., -1], 0.5 * result.best_point.square().sum(2) + 0.01)
    assert (result.best.diff(dim=2) <= 0).all()
    assert result.ids.tolist() == [[20, 21, 22]] * 2
    assert result.seed[:, 0].tolist() == [0, 1]
    assert result.l1.isnan().all()


def test_central_differences_know_both_ends_only():
    result = evaluate(sgd(difference="central"), FakeTask(), RunSpec(ids=(20,), steps=4))
    assert result.losses[0, 0].isfinite().tolist() == [True, False, False, False, True]


def test_first_success_in_the_middle_of_a_step():
    task = FakeTask(succeeds={20: 2 * M + 3, 21: 1, 23: 4 * M + 1})
    result = evaluate(sgd(), task, RunSpec(ids=(20, 21, 22, 23), steps=4))
    assert result.first_success[0].tolist() == [2 * M + 3, 1, -1, -1]
    assert result.success_ever[0].tolist() == [True, True, False, True]  # the last one at its monitored last iterate
    assert result.final_success[0].tolist() == [False, False, False, True]
    assert result.allowance[0].tolist() == [4 * M] * 4


def test_a_stochastic_objective_is_reported_without_its_noise():
    task = FakeTask(stochastic=True)
    result = evaluate(sgd(), task, RunSpec(ids=(20,), steps=3, dtype="float64"))
    x0 = task.start((20,), dtype=torch.float64)
    torch.testing.assert_close(result.losses[0, :, 0], 0.5 * x0.square().sum(1) + 0.01)
    torch.testing.assert_close(result.best[0, :, -1], 0.5 * result.best_point[0].square().sum(1) + 0.01)
    assert result.monitored.item() == 3
    assert task.seen == 3 * M + 3


def test_the_budget_is_never_passed_and_sets_the_steps():
    task = FakeTask()
    result = evaluate(sgd(), task, RunSpec(ids=(20, 21), budget=3 * M + 4))
    assert result.losses.shape[2] == 4
    assert (result.spent == 3 * M).all()
    assert (result.allowance == 3 * M + 4).all()
    result = evaluate(sgd(), task, RunSpec(ids=(20, 21), steps=9, budget=3 * M + 4))
    assert (result.spent == 3 * M).all()
    assert (result.reason == StopReason.BUDGET).all()
    assert (result.losses[..., 3:] == result.losses[..., 3:4]).all()


def test_batches_change_nothing():
    whole = evaluate(sgd(), FakeTask(), RunSpec(ids=(20, 21, 22), seeds=(0, 1), steps=3))
    parts = evaluate(sgd(), FakeTask(), RunSpec(ids=(20, 21, 22), seeds=(0, 1), steps=3, batch=2))
    for name, one, other in zip(whole._fields, whole, parts, strict=True):
        if name != "seconds":
            assert torch.equal(one.nan_to_num(), other.nan_to_num()), name


@pytest.mark.parametrize("checkpoints", [False, True])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch, checkpoints):
    if checkpoints:
        monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0.0)
    whole = FakeTask()
    expected = evaluate(sgd(), whole, RunSpec(ids=(20, 21), seeds=(0, 1), steps=4))
    task = FakeTask()
    task.raise_at = 8  # five calls per seed: the third step of the second seed
    with pytest.raises(KeyboardInterrupt):
        evaluate(sgd(), task, RunSpec(ids=(20, 21), seeds=(0, 1), steps=4), resume_dir=tmp_path)
    task.raise_at = -1
    before = task.seen
    result = evaluate(sgd(), task, RunSpec(ids=(20, 21), seeds=(0, 1), steps=4), resume_dir=tmp_path)
    again = task.seen - before
    assert again == 2 * (4 * M + 1) - 2 * 2 * M, "what was answered is not asked again"
    assert result.lost.tolist() == [[0, 0], [M, M]], "the call in flight may have been seen"
    for name, one, other in zip(result._fields, result, expected, strict=True):
        if name not in ("seconds", "lost"):
            assert torch.equal(one.nan_to_num(), other.nan_to_num()), name
    before = task.seen
    evaluate(sgd(), task, RunSpec(ids=(20, 21), seeds=(0, 1), steps=4), resume_dir=tmp_path)
    assert task.seen == before, "a finished run queries nothing"
    assert sorted(p.name for p in tmp_path.glob("seed-*")) == [f"seed-{s}-shard-0.safetensors" for s in (0, 1)]


def test_kept_shards_of_another_run_are_refused(tmp_path):
    evaluate(sgd(), FakeTask(), RunSpec(ids=(20,), steps=2), resume_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"another run \(optimizer differ\)"):
        evaluate(sgd(lr=0.2), FakeTask(), RunSpec(ids=(20,), steps=2), resume_dir=tmp_path)
    shard = tmp_path / "seed-0-shard-0.safetensors"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="truncated"):
        evaluate(sgd(), FakeTask(), RunSpec(ids=(20,), steps=2), resume_dir=tmp_path)


def test_progress_reaches_the_total():
    told = []
    evaluate(
        sgd(), FakeTask(), RunSpec(ids=(20, 21), seeds=(0, 1), steps=2, batch=1), on_progress=lambda *x: told.append(x)
    )
    assert told[0] == (1, 8)
    assert told[-1] == (8, 8)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize(
    ("settings", "ids", "error", "message"),
    [
        ({"budget": 4}, (20,), BudgetError, "budget is 4 .* costs 5"),
        ({"steps": 0}, (20,), InputError, "steps is 0"),
        ({}, (), InputError, "ids is empty"),
        ({}, (20, 20), InputError, "names 20 more than once"),
        ({"seeds": ()}, (20,), InputError, "seeds is empty"),
        ({"batch": 0}, (20,), InputError, "batch is 0"),
        ({}, (99,), InputError, "no problem 99"),
    ],
)
def test_bad_input_is_told_before_anything_is_queried(settings, ids, error, message):
    task = FakeTask()
    with pytest.raises(error, match=message):
        evaluate(sgd(), task, RunSpec(ids=ids, **settings))
    assert task.seen == 0
