"""Interrupted runs: the same bits, exact counts, and nothing that was paid for is forgotten."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from problems import Bowls
from zoracle.errors import BlackBoxError, CheckpointError, InputError
from zoracle.objectives.callable import CallableObjective
from zoracle.optimizers.registry import make
from zoracle.rollout.oracle import Oracle
from zoracle.rollout.resume import Interrupted, resumable_rollout
from zoracle.storage.files import read_tensors
from zoracle.types import Purpose, StopReason

STEPS, M, B, D = 12, 5, 3, 6
OPTIMIZERS = ["zo-sgd", "zo-adam", "zo-lstm", "zo-lstm-guided-es"]


class CutError(Exception):
    """What a test interrupts a run with."""


class Failing(Bowls):
    """Bowls whose call number ``fails`` raises, after it was made."""

    def __init__(self, fails: int = 0, **settings):
        super().__init__(B, D, **settings)
        self.fails = fails

    def _evaluate(self, points, problem, step):
        result = super()._evaluate(points, problem, step)
        if self.calls == self.fails:
            raise BlackBoxError("the model raised ConnectionError: gone")
        return result


def go(path, name="zo-sgd", objective=None, oracle=None, **options):
    objective = objective or Failing()
    optimizer = make(name, num_directions=M - 1)
    x0 = torch.full((B, D), 0.5, dtype=torch.float64)
    settings = {"fingerprint": {"f": 1}, "seed": 3, "every": 0.0, **options}
    return resumable_rollout(optimizer, oracle or Oracle(objective), x0, STEPS, path=path, **settings)


def same(one, other):
    for name, a, b in zip(one._fields, one, other, strict=True):
        assert torch.equal(a.nan_to_num(nan=-1), b.nan_to_num(nan=-1)), name


def cut_at(step):
    def on_step(shown):
        if int(shown.trajectory.steps.max()) == step:
            raise CutError

    return on_step


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("every", [0.0, 1e9])
def test_interrupted_again_and_again_it_gives_the_same_bits_and_asks_nothing_twice(tmp_path, name, every):
    whole = go(None, name)
    objective = Failing()
    for step in (1, 4, 5, 11):
        with pytest.raises(CutError):
            go(tmp_path / "run", name, objective, every=every, on_step=cut_at(step))
    oracle = Oracle(objective)
    same(go(tmp_path / "run", name, oracle=oracle), whole)
    assert objective.points_seen().tolist() == [STEPS * M + 1] * B
    assert oracle.counts[Purpose.OPTIMISE].tolist() == [STEPS * M] * B
    assert oracle.counts[Purpose.MONITOR].tolist() == [1] * B
    same(go(tmp_path / "run", name, objective), whole)
    assert objective.points_seen().tolist() == [STEPS * M + 1] * B, "a finished run asks nothing"


def test_problems_that_finished_before_the_cut_stay_finished(tmp_path):
    options = {"stop_on_success": True, "final": None}
    whole = go(None, objective=Failing(success_at=2.0), **options)
    assert len(set(whole.steps.tolist())) > 1, "or the test would show nothing"
    objective = Failing(success_at=2.0)
    with pytest.raises(CutError):
        go(tmp_path / "run", objective=objective, on_step=cut_at(int(whole.steps.min()) + 1), **options)
    same(go(tmp_path / "run", objective=objective, **options), whole)
    assert objective.points_seen().tolist() == whole.total_queries.tolist()


@pytest.mark.parametrize("fails", [1, 2, 7, STEPS + 1])
def test_a_failed_call_is_paid_for(tmp_path, fails):
    whole = go(None, final=Purpose.OPTIMISE)
    objective = Failing(fails=fails)
    with pytest.raises(BlackBoxError, match="ConnectionError"):
        go(tmp_path / "run", objective=objective, every=1e9, final=Purpose.OPTIMISE)
    found = go(tmp_path / "run", objective=objective, final=Purpose.OPTIMISE)
    assert torch.equal(found.final_point, whole.final_point), "nothing but the counts differs"
    assert found.total_queries.tolist() == objective.points_seen().tolist()
    lost = 1 if fails > STEPS else M
    assert found.total_queries.tolist() == [STEPS * M + 1 + lost] * B
    assert torch.equal(found.queries.diff(dim=0) >= 0, torch.ones(STEPS - 1, B, dtype=torch.bool))


def test_failed_calls_never_let_a_budget_be_passed(tmp_path):
    budget = STEPS * M
    objective = Failing(fails=4)
    for _ in range(2):
        try:
            found = go(tmp_path / "run", oracle=Oracle(objective, budget=budget), final=Purpose.OPTIMISE)
        except BlackBoxError:
            continue
    assert found.reason.tolist() == [StopReason.BUDGET] * B
    assert found.steps.tolist() == [STEPS - 1] * B
    assert found.total_queries.tolist() == objective.points_seen().tolist() == [budget] * B


def test_a_success_after_a_failed_call_is_counted_with_it(tmp_path):
    whole = go(None, objective=Failing(success_at=2.0), final=None).first_success
    objective = Failing(fails=1, success_at=2.0)
    with pytest.raises(BlackBoxError):
        go(tmp_path / "run", objective=objective, final=None)
    found = go(tmp_path / "run", objective=objective, final=None)
    assert found.first_success.tolist() == torch.where(whole > 0, whole + M, -1).tolist()


class NotANumber(Bowls):
    """NaN everywhere until it is mended."""

    mended = False

    def _evaluate(self, points, problem, step):
        result = super()._evaluate(points, problem, step)
        return result if self.mended else result._replace(loss=result.loss * torch.nan)


def test_a_first_step_without_a_number_is_an_error_where_asked_and_paid_for(tmp_path):
    objective = NotANumber(B, D)
    with pytest.raises(BlackBoxError, match=f"all {B * M} values of the first step are NaN") as error:
        go(tmp_path / "run", objective=objective, finite_start=True)
    assert "\n" not in str(error.value)
    objective.mended = True
    found = go(tmp_path / "run", objective=objective, finite_start=True)
    assert torch.equal(found.final_point, go(None).final_point), "once mended, the same call starts again"
    assert found.total_queries.tolist() == [STEPS * M + M] * B
    assert go(None, objective=NotANumber(B, D)).reason.tolist() == [StopReason.NON_FINITE] * B


def test_another_run_is_refused_by_name_and_its_checkpoint_left(tmp_path):
    go(tmp_path / "run", fingerprint={"seed": 1, "optimizer": {"lr": 0.1}})
    before = (tmp_path / "run").read_bytes()
    objective = Failing()
    with pytest.raises(CheckpointError, match=r"\(optimizer.lr: 0.1 there, 0.2 asked\)") as error:
        go(tmp_path / "run", objective=objective, fingerprint={"seed": 1, "optimizer": {"lr": 0.2}})
    assert "\n" not in str(error.value)
    assert objective.calls == 0
    assert (tmp_path / "run").read_bytes() == before


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_truncated_checkpoint_is_refused(tmp_path, cut):
    go(tmp_path / "run")
    (tmp_path / "run").write_bytes((tmp_path / "run").read_bytes()[:cut])
    objective = Failing()
    with pytest.raises(CheckpointError, match="truncated"):
        go(tmp_path / "run", objective=objective)
    assert objective.calls == 0


def test_an_unwritable_folder_is_told_before_the_first_query(tmp_path):
    (tmp_path / "file").touch()
    objective = Failing()
    with pytest.raises(InputError, match="cannot write"):
        go(tmp_path / "file" / "run", objective=objective)
    assert objective.calls == 0


def test_ctrl_c_ends_after_the_step_in_flight(tmp_path):
    class Pressed(Failing):
        def _evaluate(self, points, problem, step):
            if self.calls == 4:
                signal.raise_signal(signal.SIGINT)
            return super()._evaluate(points, problem, step)

    before = signal.getsignal(signal.SIGINT)
    objective = Pressed()
    with pytest.raises(Interrupted):
        go(tmp_path / "run", objective=objective, every=1e9)
    assert signal.getsignal(signal.SIGINT) is before
    tensors, _ = read_tensors(tmp_path / "run")
    assert tensors["trajectory.steps"].tolist() == [5] * B, "the step in flight is kept"
    same(go(tmp_path / "run", objective=objective), go(None))
    assert objective.points_seen().tolist() == [STEPS * M + 1] * B


def test_ctrl_c_in_the_last_evaluation_is_not_swallowed(tmp_path):
    class Pressed(Failing):
        def _evaluate(self, points, problem, step):
            if self.calls == STEPS:
                signal.raise_signal(signal.SIGINT)
            return super()._evaluate(points, problem, step)

    with pytest.raises(Interrupted):
        go(tmp_path / "run", objective=Pressed())
    objective = Failing()
    same(go(tmp_path / "run", objective=objective), go(None))
    assert objective.calls == 0


def slow_run(path: Path, pause: float):
    """A run that notes each call of its function, in this process or in one that is about to be killed."""
    with Path(f"{path}.log").open("a") as log:

        def f(x):
            log.write(f"{len(x)}\n")
            log.flush()
            time.sleep(pause)
            return ((x - 0.3) ** 2).sum(1)

        oracle = Oracle(CallableObjective(f, 8, 2, framework="torch"))
        optimizer = make("zo-lstm", num_directions=4)
        return resumable_rollout(optimizer, oracle, torch.ones(2, 8), 60, path=path, fingerprint={}, every=0.0)


def interrupted_after(calls: int, path: Path, how: signal.Signals) -> subprocess.Popen[bytes]:
    """The same run in a process of its own, interrupted when it has called its function so many times more."""
    calls += lines(path)
    here = Path(__file__).parent
    code = f"import sys; sys.path[:0] = {[str(here), str(here.parent)]!r}; import test_resumable as t; "
    command = [sys.executable, "-c", code + f"t.torch.set_num_threads(1); t.slow_run(t.Path({str(path)!r}), 0.01)"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while lines(path) < calls and time.monotonic() < deadline:
            time.sleep(0.003)
        process.send_signal(how)
    return process


def lines(path: Path) -> int:
    log = Path(f"{path}.log")
    return log.read_text().count("\n") if log.exists() else 0


def killed_again_and_again(folder: Path, kills: int) -> None:
    # A little further each time, so that kills land in calls, in writes, and between them.
    for kill in range(kills):
        assert interrupted_after(3 + kill % 5, folder / "run", signal.SIGKILL).returncode == -signal.SIGKILL
    assert 0 < lines(folder / "run") < 61
    same(slow_run(folder / "run", 0.0), slow_run(folder / "plain", 0.0))
    assert lines(folder / "plain") == 61
    assert 61 <= lines(folder / "run") <= 61 + kills, "a kill costs the step in flight at most"


def test_killed(tmp_path):
    killed_again_and_again(tmp_path, 1)


@pytest.mark.slow
def test_killed_ten_times(tmp_path):
    killed_again_and_again(tmp_path, 10)


def test_sigint_to_a_process_keeps_the_step_in_flight(tmp_path):
    path = tmp_path / "run"
    assert interrupted_after(3, path, signal.SIGINT).returncode != 0
    done = lines(path)
    assert 3 <= done < 61
    tensors, _ = read_tensors(path)
    assert tensors["trajectory.steps"].tolist() == [done, done]
    same(slow_run(path, 0.0), slow_run(tmp_path / "plain", 0.0))
    assert lines(path) == 61, "nothing is asked twice"


def test_the_other_calls_of_a_step_that_failed_are_not_made_again(tmp_path):
    """With chunks of 4 points per step of 15 takes 4 calls; the third of the second step fails."""
    whole = go(None, final=Purpose.OPTIMISE)
    objective = Failing(fails=7)
    with pytest.raises(BlackBoxError, match="ConnectionError"):
        go(tmp_path / "run", oracle=Oracle(objective, chunk=4), final=Purpose.OPTIMISE)
    for _ in range(2):  # resumed and failing again at once, then mended
        objective.fails = objective.calls + 1
        with pytest.raises(BlackBoxError):
            go(tmp_path / "run", oracle=Oracle(objective, chunk=4), final=Purpose.OPTIMISE)
    oracle = Oracle(objective, chunk=4)
    found = go(tmp_path / "run", oracle=oracle, final=Purpose.OPTIMISE)
    assert torch.equal(found.final_point, whole.final_point)
    assert found.total_queries.tolist() == objective.points_seen().tolist()
    assert int(found.total_queries.sum()) == B * (STEPS * M + 1) + 3 * 4, "three failed calls of four points each"
    assert int(oracle.counts[Purpose.OPTIMISE].sum()) == int(found.total_queries.sum())


def test_two_processes_cannot_have_the_same_run(tmp_path):
    def again(shown):
        go(tmp_path / "run")

    with pytest.raises(InputError, match="is in use by another process"):
        go(tmp_path / "run", on_step=again)
    same(go(tmp_path / "run"), go(None))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"], "the journal of a finished run is gone"


@pytest.mark.parametrize("batch", [1, 2, None])
def test_problems_that_take_turns_resume_in_the_same_order(tmp_path, batch):
    options = {"stop_on_success": True, "check_start": True, "final": None, "batch": batch}
    whole = go(None, objective=Failing(success_at=2.0), **{**options, "batch": None})
    objective = Failing(success_at=2.0)
    for cut in (1, 3, 8):
        with pytest.raises(CutError):
            go(tmp_path / "run", objective=objective, every=1e9, on_step=cut_after(cut), **options)
    found = go(tmp_path / "run", objective=objective, **options)
    same(found, whole)
    assert objective.points_seen().tolist() == found.total_queries.tolist()


def cut_after(steps):
    left = steps

    def on_step(shown):
        nonlocal left
        left -= 1
        if left == 0:
            raise CutError

    return on_step
