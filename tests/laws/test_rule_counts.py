"""Rule of counts: every point that a target was asked for is in exactly one count, whatever fails after it."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import pytest
import torch

import zoracle
from problems import Bowls
from zoracle.cli.main import main
from zoracle.errors import BlackBoxError, ChangedTargetWarning, InputError
from zoracle.optimizers.registry import make
from zoracle.rollout.oracle import Oracle
from zoracle.rollout.resume import resumable_rollout
from zoracle.types import Choice, Purpose


class Failing(Bowls):
    """Raises once at some calls, after they were made."""

    def __init__(self, fails, problems=3, **settings):
        super().__init__(problems, 4, **settings)
        self.fails = set(fails)

    def _evaluate(self, points, problem, step):
        result = super()._evaluate(points, problem, step)
        if self.calls in self.fails:
            raise BlackBoxError("gone")
        return result


def until_it_ends(path, objective, budget, chunk, cell=None, **options):
    for attempt in range(9):
        oracle = Oracle(objective, budget=budget, chunk=chunk, cell=cell)
        x0 = torch.full((objective.num_problems, 4), 0.5, dtype=torch.float64)
        settings = {"fingerprint": {}, "seed": 3, "every": 1e9, "final": Purpose.OPTIMISE, "check_start": True}
        optimizer = make("zo-sgd", num_directions=4)
        try:
            return resumable_rollout(optimizer, oracle, x0, 4, path=path, **settings, **options), oracle, attempt
        except BlackBoxError:
            continue
    raise AssertionError("it failed more often than it was to")


@pytest.mark.parametrize(
    ("budget", "chunk", "cell"),
    [*((budget, chunk, None) for budget in (12, 13, 17, 22) for chunk in (1, 4, 7)), (13, 20, 1), (22, 20, 2)],
)
def test_a_failure_at_any_call(tmp_path, budget, chunk, cell):
    """One look at the start, steps of five points, as many as the budget pays for, and the last iterate."""
    whole, oracle, _ = until_it_ends(None, Failing(()), budget, chunk, cell)
    calls = oracle.objective.calls
    for fails in range(1, calls + 1):
        objective = Failing({fails, fails + 3})
        found, oracle, failed = until_it_ends(tmp_path / f"run-{fails}", objective, budget, chunk, cell)
        seen = objective.points_seen()
        assert failed >= 1
        assert oracle.lost.tolist() == [0] * 3
        assert oracle.counts[Purpose.OPTIMISE].tolist() == seen.tolist()
        assert found.total_queries.tolist() == seen.tolist()
        assert int(seen.max()) <= budget
        same = found.steps == whole.steps
        assert torch.equal(found.final_point[same], whole.final_point[same]), "what failed changes no point"
        known = same & found.final_known & whole.final_known
        assert torch.equal(found.final_loss[known], whole.final_loss[known]), "and no answer of another is taken"


@pytest.mark.parametrize("images", [1, 2])
def test_the_reported_case(tmp_path, images):
    """An image in one call each; the target fails in the last step that the budget pays for."""
    answered = failed = 0

    def model(x):
        nonlocal answered, failed
        if answered + failed + len(x) >= 40 * images and not failed:
            failed += len(x)
            raise ConnectionError("gone")
        answered += len(x)
        flat = x.flatten(1)
        return torch.stack([flat[:, ::2].mean(1), flat[:, 1::2].mean(1) + 0.5 + 0 * flat.mean(1)], 1)

    pictures = torch.full((images, 3, 8, 8), 0.5)
    labels = torch.ones(images, dtype=torch.int64)
    settings = {"norm": "linf", "eps": 1e-4, "budget": 43, "optimizer": "zo-signsgd", "chunk": 1, "outputs": "logits"}
    run = {**settings, "checkpoint": tmp_path / "run"}
    with pytest.raises(BlackBoxError):
        zoracle.attack(model, pictures, labels, **run)
    before = answered
    found = zoracle.attack(model, pictures, labels, **run)
    again = int(found.interrupted.sum())
    assert again <= 1, "the stored query that is requested again"
    assert int(found.queries.sum()) + again == answered + failed
    assert answered - before <= 21 * (images - 1) + 3, "only what failed is requested again"
    assert int(found.queries.max()) <= 43


def test_a_target_that_changed_is_noticed(tmp_path):
    shift = 0.0

    def f(x):
        return ((x - 0.3 - shift) ** 2).sum(1)

    def stop(step):
        if int(step.trajectory.steps.max()) == 3:
            raise BlackBoxError("stop")

    run = {"budget": 55, "optimizer": "zo-sgd", "num_directions": 10, "checkpoint": tmp_path / "run"}
    with pytest.raises(BlackBoxError):
        zoracle.minimize(f, torch.ones(4), on_step=stop, **run)
    shift = 0.5
    with pytest.warns(ChangedTargetWarning, match="it is another one now, or noisy"):
        found = zoracle.minimize(f, torch.ones(4), **run)
    assert found.interrupted == 1
    assert "1 more repeated after interruptions" in repr(found)
    assert zoracle.minimize(f, torch.ones(4), **run).interrupted == 1, "a finished run asks nothing"


def test_the_command_line_tells_what_interruptions_cost(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("f.py").write_text(
        "def f(x):\n    with open('seen', 'a') as file:\n        file.write('1')\n        seen = file.tell()\n"
        "    if seen == 30:\n        raise OSError('gone')\n    return float((x**2).sum())\n"
    )
    run = ["minimize", "f.py:f", "--dim", "3", "--budget", "60", "--checkpoint", "run", "--out", "found.json"]
    assert main(run) == 2
    assert main(run) == 0
    told = json.loads(Path("found.json").read_text())
    assert told["queries"] + told["interrupted"] == len(Path("seen").read_text())
    assert told["interrupted"] == 1


def test_what_cannot_be_noted_is_not_asked(tmp_path):
    """The journal reaches the largest size of a file; the checkpoint does not."""
    if sys.platform == "win32":
        pytest.skip("no limit of file sizes there")
    whole, _, _ = until_it_ends(None, Failing(()), None, 1)
    objective = Failing(())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    told = set()
    try:
        for size in range(3000, 9000, 250):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            try:
                until_it_ends(tmp_path / "run", objective, None, 1)
                break
            except InputError as error:
                told.add("a traceback" if "\n" in str(error) else str(error).partition("/")[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found, oracle, _ = until_it_ends(tmp_path / "run", objective, None, 1)
    assert told == {"cannot write "}
    assert torch.equal(found.final_point, whole.final_point)
    assert torch.equal(found.queries, whole.queries), "nothing is counted that nobody saw"
    assert (oracle.counts[Purpose.OPTIMISE] + oracle.lost).tolist() == objective.points_seen().tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_checkpoint_grows_with_what_was_used(tmp_path):
    def stop(step):
        if int(step.trajectory.steps.max()) == 3:
            raise BlackBoxError("stop")

    sizes = []
    for budget in (10_000, 1_000_000):
        path = tmp_path / f"{budget}"
        with pytest.raises(BlackBoxError):
            zoracle.minimize(lambda x: (x**2).sum(1), torch.ones(4), budget=budget, checkpoint=path, on_step=stop)
        sizes.append(path.stat().st_size)
    assert sizes[1] < sizes[0] + 100


def rounded(x):
    return ((x - 0.3).square().sum(1) * 200).round() / 200 + 1


def noisy(x):
    return (x - 0.3).square().sum(1) + 1e-3 * torch.sin(1e7 * x.sum(1))


@pytest.mark.parametrize(("optimizer", "f"), [("zo-sgd", rounded), ("zo-sgd", noisy), ("portfolio", noisy)])
def test_a_failure_while_noise_is_measured_or_settled(tmp_path, optimizer, f):
    """What several calls find together is noted when all of them are answered, or the run would continue without it."""
    calls = seen = fails = 0

    def g(x):
        nonlocal calls, seen
        calls, seen = calls + 1, seen + len(x)
        if calls == fails:
            raise ConnectionError("gone")
        return f(x)

    start = torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 6)
    run = {"budget": 200, "optimizer": optimizer, "seed": 1}
    whole = zoracle.minimize(g, start, **run)
    assert (whole.trajectory.noise > 0).all()
    for fails in sorted({*range(1, min(calls, 6) + 1), *range(max(1, calls - 3), calls + 1)}):
        calls = seen = 0
        with pytest.raises(BlackBoxError):
            zoracle.minimize(g, start, checkpoint=tmp_path / f"{fails}", **run)
        found = zoracle.minimize(g, start, checkpoint=tmp_path / f"{fails}", **run)
        assert int((found.queries + found.interrupted).sum()) == seen
        one, other = found.trajectory, whole.trajectory
        for name in ("noise", "mu", "signal"):
            assert torch.equal(getattr(one, name), getattr(other, name)), f"{name}, call {fails} failed"
        taken = int(torch.minimum(one.steps, other.steps).min())
        assert torch.equal(one.loss[:taken].nan_to_num(), other.loss[:taken].nan_to_num()), f"call {fails} failed"
        cannot = found.queries + 3 > run["budget"]
        assert ((one.chosen != Choice.LOWEST) | cannot).all(), f"call {fails} failed"
