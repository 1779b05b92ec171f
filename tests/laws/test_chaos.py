"""Chaos: a run is driven through failures of its target, its disk, its process and its files, and ends as if none were.

Each case is a run of three problems that Hypothesis interrupts in every way it can think of, then lets end. What is
checked: the same bits as an uninterrupted run, every point that the target saw in exactly one count, the budget,
errors of one line, no file left behind, no descriptor and no memory kept. ``make chaos`` runs 1,800 cases, and 200 of
``test_chaos_runs.py``; ``make test`` runs a few.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from problems import Bowls
from zoracle.errors import BlackBoxError, CheckpointError, InputError
from zoracle.optimizers.registry import make
from zoracle.rollout.checkpoint import journal_path
from zoracle.rollout.oracle import Oracle
from zoracle.rollout.resume import Interrupted, resumable_rollout
from zoracle.types import Purpose

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9, no fork and no limit there")

#: One in ten cases is a run of the command line: test_chaos_runs.py.
CASES = int(os.environ.get("ZORACLE_CHAOS", "13")) * 9 // 10
PROBLEMS, DIM, STEPS, DIRECTIONS = 3, 5, 5, 4

#: How often each thing happened, over all cases.
SURVIVED: Counter[str] = Counter()


class StopError(Exception):
    """What a caller interrupts a run with."""


class Target(Bowls):
    """Notes each point before it answers, in a file that outlives the process; does at one call what it is told."""

    def __init__(self, seen: Path, how: str = "", at: int = 0) -> None:
        super().__init__(PROBLEMS, DIM)
        self.log, self.how, self.at = seen, how, at

    def _evaluate(self, points, problem, step):
        with self.log.open("ab") as file:
            file.write(bytes(problem.tolist()))
        result = super()._evaluate(points, problem, step)
        if self.calls == self.at:
            if self.how == "kill":
                os._exit(9)
            if self.how == "signal":
                signal.raise_signal(signal.SIGINT)
            if self.how == "fail":
                raise BlackBoxError("the target is gone")
            if self.how == "slow":
                JUMP[0] += 1000.0
        return result


JUMP = [0.0]
_monotonic = time.monotonic


class Run(RuleBasedStateMachine):
    """One run; its rules are what happens to it."""

    @initialize(
        name=st.sampled_from(["zo-sgd", "zo-adam"]),
        budget=st.sampled_from([None, None, 26, 31]),
        chunk=st.sampled_from([1, 4, 7, None]),
        batch=st.sampled_from([1, 2, None]),
    )
    def begin(self, name, budget, chunk, batch):
        self.folder = Path(tempfile.mkdtemp(prefix="zoracle-chaos-"))
        self.path, self.seen = self.folder / "kept" / "run", self.folder / "seen"
        self.name, self.budget, self.chunk, self.batch = name, budget, chunk, batch
        self.exact = True  # whether every call is known by the journal, or a kill came between note and call
        self.forgotten = False  # whether the end of the journal was taken away, and calls with it
        self.descriptors = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0

    def go(self, path, target, every=1e9, on_step=None, batch=None, chunk=None):
        optimizer = make(self.name, num_directions=DIRECTIONS)
        oracle = Oracle(target, budget=self.budget, chunk=chunk or self.chunk)
        x0 = torch.linspace(-1, 1, PROBLEMS * DIM, dtype=torch.float64).view(PROBLEMS, DIM)
        found = resumable_rollout(
            optimizer,
            oracle,
            x0,
            STEPS,
            path=path,
            fingerprint={"chaos": self.name},
            seed=7,
            every=every,
            batch=batch or self.batch,
            check_start=True,
            final=Purpose.OPTIMISE,
            on_step=on_step,
        )
        return found, oracle

    def tried(self, what, target=None, **options):
        """A run that may end in any way that a user can be told of; warnings are allowed."""
        SURVIVED[what] += 1
        told = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.go(self.path, target or Target(self.seen), **options)
        except (InputError, StopError, Interrupted) as error:
            told = str(error)
        assert "\n" not in told, f"{what}: {told}"

    @rule(at=st.integers(1, 25), every=st.sampled_from([0.0, 1e9]), chunk=st.sampled_from([None, 1, 3]))
    def the_target_fails(self, at, every, chunk):
        self.tried("failures of the target", Target(self.seen, "fail", at), every=every, chunk=chunk)

    @rule(at=st.integers(1, 25), every=st.sampled_from([0.0, 1e9]))
    def a_signal(self, at, every):
        self.tried("signals", Target(self.seen, "signal", at), every=every)

    @rule(at=st.integers(1, STEPS), batch=st.sampled_from([None, 1, 2]))
    def the_caller_stops(self, at, batch):
        def stop(step):
            if int(step.trajectory.steps.max()) == at:
                raise StopError

        self.tried("callers that stop, resumes with another batch", on_step=stop, batch=batch)

    @rule(at=st.integers(1, 25), every=st.sampled_from([0.0, 1e9]))
    def a_kill(self, at, every):
        SURVIVED["kills"] += 1
        self.exact = False
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self.go(self.path, Target(self.seen, "kill", at), every=every)
                code = 0
            except InputError:
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) in (0, 9)

    @rule(size=st.integers(0, 9000), every=st.sampled_from([0.0, 1e9]))
    def the_disk_is_full(self, size, every):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        log = Target(self.seen)
        size = max(size, self.seen.stat().st_size + 1000 if self.seen.exists() else 1000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            self.tried("full disks", log, every=every)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    @rule(seconds=st.sampled_from([-1e6, 1e6]), at=st.integers(1, 9))
    def the_clock_jumps(self, seconds, at):
        JUMP[0] += seconds
        time.monotonic = lambda: _monotonic() + JUMP[0]
        try:
            self.tried("jumps of the clock", Target(self.seen, "slow", at), every=1.0)
        finally:
            time.monotonic = _monotonic

    @rule(number=st.integers(1, 9000))
    def power_fails_and_zeros_are_left(self, number):
        journal = journal_path(self.path)
        if journal.exists():
            SURVIVED["zeros behind a journal"] += 1
            with journal.open("ab") as file:
                file.write(bytes(number))

    @rule(number=st.integers(1, 200))
    def the_end_of_the_journal_is_gone(self, number):
        journal = journal_path(self.path)
        if journal.exists() and (size := journal.stat().st_size) > 16:
            SURVIVED["cut journals"] += 1
            self.forgotten = True
            os.truncate(journal, max(16, size - number))

    @rule(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), journal=st.booleans())
    def a_bit_is_flipped(self, where, bit, journal):
        """It is refused, or cut off where it was the last record; then the file is put back."""
        path = journal_path(self.path) if journal else self.path
        if not path.exists():
            return
        kept = {file: file.read_bytes() for file in (self.path, journal_path(self.path)) if file.exists()}
        seen = self.seen.read_bytes() if self.seen.exists() else b""
        data = bytearray(kept[path])
        data[int(where * len(data))] ^= 1 << bit
        path.write_bytes(data)
        SURVIVED["flipped bits"] += 1
        told = ""
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                self.go(self.path, Target(self.seen, "fail", 1))
            whole = self.path.exists()
        except (CheckpointError, BlackBoxError) as error:
            told = str(error)
            whole = isinstance(error, BlackBoxError)
        assert "\n" not in told
        assert said or not whole or not journal, "a damaged journal was used in silence"
        if not journal:
            assert not whole, "a damaged checkpoint was used"
        for file in (self.path, journal_path(self.path)):
            file.unlink(missing_ok=True)
        for file, content in kept.items():
            file.write_bytes(content)
        self.seen.write_bytes(seen)

    @rule(name=st.sampled_from([".run.0123abcd.tmp", ".run.calls.89abcdef.tmp"]))
    def a_killed_write_leaves_a_file(self, name):
        self.path.parent.mkdir(exist_ok=True)
        (self.path.parent / name).write_bytes(b"half")
        SURVIVED["unfinished files"] += 1

    def teardown(self):
        if not hasattr(self, "folder"):
            return
        try:
            self.ends_as_if_nothing_had_been()
        finally:
            time.monotonic = _monotonic
            shutil.rmtree(self.folder)

    def ends_as_if_nothing_had_been(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, oracle = self.go(self.path, Target(self.seen))
        whole, _ = self.go(None, Target(self.folder / "reference"))
        same = found.steps == whole.steps
        if self.budget is None:
            assert bool(same.all())
        for field in ("final_point", "start_loss", "loss"):
            rows = getattr(found, field), getattr(whole, field)
            at = (..., same) if field == "loss" else (same,)
            assert torch.equal(rows[0][at].nan_to_num(), rows[1][at].nan_to_num()), field
        ended = same & (found.final_known == whole.final_known)  # a failed call may have left nothing to pay for it
        for field in ("final_loss", "best_loss", "best_point"):
            assert torch.equal(getattr(found, field)[ended].nan_to_num(), getattr(whole, field)[ended].nan_to_num()), (
                field
            )
        seen = (
            torch.frombuffer(bytearray(self.seen.read_bytes()), dtype=torch.uint8).long().bincount(minlength=PROBLEMS)
        )
        counted = oracle.counts[Purpose.OPTIMISE]
        assert torch.equal(found.total_queries, counted)
        assert bool((counted <= seen).all()), "a point is counted that nobody saw"
        if not self.forgotten:
            assert bool((seen <= counted + oracle.lost).all()), "a point that was seen is in no count"
        if self.exact and not self.forgotten:
            assert torch.equal(seen, counted + oracle.lost)
        assert self.budget is None or int(counted.max()) <= self.budget
        assert [file.name for file in self.path.parent.iterdir()] == ["run"], "files are left behind"
        if self.descriptors:
            assert len(os.listdir("/proc/self/fd")) <= self.descriptors, "descriptors are kept"


def test_chaos(capsys):
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)

    SURVIVED.clear()
    before, began = peak(), time.perf_counter()
    run_state_machine_as_test(
        Run,
        settings=settings(
            max_examples=CASES,
            stateful_step_count=8,
            deadline=None,
            derandomize=True,
            report_multiple_bugs=False,
            phases=[Phase.generate],
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    grown = peak() - before
    assert grown < 300
    if "ZORACLE_CHAOS" in os.environ:
        with capsys.disabled():
            print(
                f"\n{CASES:,} cases in {time.perf_counter() - began:.0f} s, peak memory {grown:.0f} MB above the start"
            )
            for what, times in sorted(SURVIVED.items()):
                print(f"  {what}: {times:,}")
