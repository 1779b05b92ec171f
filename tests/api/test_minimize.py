"""minimize as users of SciPy expect it: shapes, bounds, units by coordinate, single points, workers, ways to stop."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

import zoracle
from plain_functions import one_point, raises, sleeps
from problems import Bowls
from zoracle.errors import BlackBoxError, FailedCallWarning, InputError, NonFiniteWarning
from zoracle.types import StopReason

QUICK = {"budget": 200, "optimizer": "zo-adam", "num_directions": 4, "lr": 0.05}


def many(x):
    return ((x - 0.3) ** 2).reshape(len(x), -1).sum(1)


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 5, 1), ()])
def test_x0_of_any_shape_is_one_point_and_comes_back_in_it(shape):
    seen = []

    def f(x):
        seen.append(x.shape)
        return many(x)

    found = zoracle.minimize(f, np.ones(shape), **QUICK)
    assert {s[1:] for s in seen} == {shape}
    assert found.x.shape == found.last.shape == shape
    assert found.value == pytest.approx(float(many(found.x[None])[0]))
    flat = zoracle.minimize(many, np.ones(max(1, np.ones(shape).size)), **QUICK)
    assert found.x.reshape(-1).tolist() == flat.x.tolist()


def test_a_shape_tells_one_matrix_from_many_vectors():
    matrix = zoracle.minimize(many, torch.ones(3, 4), shape=(3, 4), **QUICK)
    assert matrix.x.shape == (3, 4)
    assert isinstance(matrix.value, float)
    runs = zoracle.minimize(many, torch.ones(3, 4), **QUICK)
    assert runs.value.shape == (3,)
    both = zoracle.minimize(many, torch.ones(2, 3, 4), shape=(3, 4), **QUICK)
    assert both.x.shape == (2, 3, 4)
    assert torch.equal(both.x[0], matrix.x)
    with pytest.raises(InputError, match=r"x0 has shape \(3, 4\); expected \(5,\), or \(B, 5\)"):
        zoracle.minimize(many, torch.ones(3, 4), shape=5, **QUICK)


BOX = [(-1.0, 0.1), (None, 5.0), (0.4, 2.0), (-np.inf, np.inf)]


@pytest.mark.parametrize(
    "bounds",
    [
        BOX,
        np.array([(-1.0, 0.1), (-np.inf, 5.0), (0.4, 2.0), (-np.inf, np.inf)]),
        (np.array([-1.0, -np.inf, 0.4, -np.inf]), [0.1, 5.0, 2.0, None]),
    ],
)
def test_bounds_of_each_coordinate(bounds):
    seen = []

    def f(x):
        seen.append(x)
        return many(x)

    found = zoracle.minimize(f, np.array([0.0, 1.0, 1.0, 1.0]), bounds=bounds, **{**QUICK, "budget": 2000})
    every = np.concatenate(seen)
    assert every[:, 0].max() <= 0.1
    assert every[:, 2].min() >= 0.4
    assert np.allclose(found.x, [0.1, 0.3, 0.4, 0.3], atol=0.02)


def test_bounds_of_scipy():
    optimize = pytest.importorskip("scipy.optimize", reason="SciPy is not installed (extra scipy)")
    found = zoracle.minimize(many, np.zeros(3), bounds=optimize.Bounds([-1, -1, -1], 0.2), **QUICK)
    assert found.x.max() <= 0.2


def test_a_scale_of_each_coordinate_is_a_change_of_units():
    units = np.array([1.0, 1000.0, 1e-3])
    plain = zoracle.minimize(many, np.ones(3), **QUICK)
    scaled = zoracle.minimize(lambda x: many(x / units), units, scale=units, bounds=(-9 * units, 9 * units), **QUICK)
    assert np.allclose(scaled.x / units, plain.x, rtol=1e-6)
    assert scaled.x.std() > 100


@pytest.mark.parametrize(
    ("message", "given"),
    [
        (r"bounds of coordinate 1 are \(2, 1\)", {"bounds": ([0, 2, 0], [3, 1, 3])}),
        (r"x0 is 1 at coordinate 2, outside the bounds \(2, 3\)", {"bounds": ([0, 0, 2], [3, 3, 3])}),
        (r"bounds of shape \(2,\) given for points of shape \(3,\)", {"bounds": ([0, 0], [3, 3, 3])}),
        ("bounds contain NaN", {"bounds": (float("nan"), 3)}),
        ("scale has values that are not positive", {"scale": [1, 0, 1]}),
        (r"scale of shape \(2,\) given", {"scale": [1, 1]}),
        ("workers is 0; expected", {"workers": 0}),
        ("workers is -1; expected", {"workers": -1}),
        ("workers is 'two'; expected", {"workers": "two"}),
        ("on_error is 'ignore'; expected raise or nan", {"on_error": "ignore"}),
        ("retries is -1; expected", {"retries": -1}),
        ("time_limit is 0; expected a positive number of seconds", {"time_limit": 0}),
        ("shape is 'ab'; expected integers", {"shape": "ab"}),
        ("cannot be sent to worker processes .*ThreadPoolExecutor", {"workers": 2, "f": lambda x: many(x)}),
        ("vectorized was given, but f is an Bowls", {"f": Bowls(1, 3), "vectorized": False, "shape": (3,)}),
        ("workers was given, but f is an Bowls", {"f": Bowls(1, 3), "workers": 2}),
    ],
)
def test_what_cannot_be_used_is_one_line(message, given):
    f = given.pop("f", many)
    with pytest.raises(InputError, match=message) as told:
        zoracle.minimize(f, np.ones(3), **{**QUICK, **given})
    assert "\n" not in str(told.value)


def test_one_point_a_call_gives_the_same():
    points = []

    def f(x):
        points.append(x.copy())
        x[:] = 0  # the point is the function's own
        return one_point(points[-1])

    found = zoracle.minimize(f, np.ones(4), vectorized=False, **QUICK)
    same = zoracle.minimize(many, np.ones(4), **QUICK)
    assert found.x.tolist() == same.x.tolist()
    assert len(points) == found.queries == 200
    assert {point.shape for point in points} == {(4,)}
    with pytest.raises(BlackBoxError, match=r"returned shape \(4,\) for a point of shape \(4,\); expected one number"):
        zoracle.minimize(lambda x: x, np.ones(4), vectorized=False, **QUICK)


@pytest.mark.parametrize("vectorized", [True, False])
def test_threads_give_the_same_and_are_left_open(vectorized):
    f = many if vectorized else one_point
    alone = zoracle.minimize(f, np.ones(4), vectorized=vectorized, **QUICK)
    names = set()

    def watched(x):
        names.add(threading.current_thread().name)
        return f(x)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found = zoracle.minimize(watched, np.ones(4), vectorized=vectorized, workers=pool, **QUICK)
        assert pool.submit(int).result() == 0, "still open"
    assert found.x.tolist() == alone.x.tolist()
    assert found.queries == alone.queries
    assert names
    assert threading.main_thread().name not in names


def test_processes_give_the_same_and_leave_none_behind():
    alone = zoracle.minimize(one_point, np.ones(4), vectorized=False, **QUICK)
    found = zoracle.minimize(one_point, np.ones(4), vectorized=False, workers=2, **QUICK)
    assert found.x.tolist() == alone.x.tolist()
    import multiprocessing

    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_an_objective_that_sleeps_is_faster_with_workers():
    """From the end of the first step on: starting processes, which import torch, takes seconds once a run."""
    given = {"budget": 200, "optimizer": "zo-sgd", "num_directions": 19, "vectorized": False}  # 20 s alone

    def seconds(workers):
        ends = []
        zoracle.minimize(sleeps, np.ones(4), workers=workers, callback=lambda _: ends.append(time.monotonic()), **given)
        assert len(ends) == 10
        return ends[-1] - ends[0]

    alone = seconds(1)
    processes = alone / seconds(2)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        threads = alone / seconds(pool)
    print(f"2 processes: {processes:.2f} times as fast, 4 threads: {threads:.2f} times")
    assert processes > 1.9
    assert threads > 3.5


class Fails:
    """Raises in these calls, counted from 1."""

    def __init__(self, *calls):
        self.calls, self.made = calls, 0

    def __call__(self, x):
        self.made += 1
        if self.made in self.calls:
            raise ConnectionError("gone\nfor good")
        return one_point(x)


def test_f_may_raise():
    with pytest.raises(BlackBoxError, match="the function raised ConnectionError: gone when given a float64") as told:
        zoracle.minimize(Fails(30), np.ones(4), vectorized=False, **QUICK)
    assert isinstance(told.value.__cause__, ConnectionError)
    f = Fails(30, 31, 77)
    failed, missing = pytest.warns(FailedCallWarning, match="gone; taken as NaN"), pytest.warns(NonFiniteWarning)
    with failed, missing:
        found = zoracle.minimize(f, np.ones(4), vectorized=False, on_error="nan", **QUICK)
    assert found.trajectory.non_finite.tolist() == [3]
    assert "3 values, 1.5% of all" in repr(found)
    assert f.made == found.queries == 200
    f = Fails(30, 31, 77)
    found = zoracle.minimize(f, np.ones(4), vectorized=False, retries=2, **QUICK)
    assert found.trajectory.non_finite.tolist() == [0]
    assert (f.made, found.queries) == (203, 200)
    assert found.x.tolist() == zoracle.minimize(one_point, np.ones(4), vectorized=False, **QUICK).x.tolist()


def test_errors_of_other_processes_come_back_and_those_load_no_torch():
    with pytest.raises(BlackBoxError, match=r"OddError: False and 1\.0 when given"):
        zoracle.minimize(functools.partial(raises, at=1.0), np.ones(4), vectorized=False, workers=2, **QUICK)


def test_a_callback_sees_every_step_and_ends_the_run():
    shown = []
    found = zoracle.minimize(many, np.ones((2, 2, 2)), callback=shown.append, **QUICK)
    assert len(shown) == 40
    assert shown[-1].x.shape == (2, 2, 2)
    assert shown[-1].queries == 200
    assert shown[-1].steps == 40
    assert shown[-1].value == found.value
    assert [one.value for one in shown] == sorted((one.value for one in shown), reverse=True)
    assert 0 <= shown[0].seconds <= shown[-1].seconds
    ended = zoracle.minimize(many, np.ones((2, 2, 2)), callback=lambda now: now.queries >= 50, **QUICK)
    assert ended.reason is StopReason.CALLBACK
    assert ended.queries == 50
    assert ended.x.tolist() == shown[9].x.tolist()
    assert ended.last.tolist() != np.ones((2, 2, 2)).tolist()

    def stop(now):
        raise StopIteration

    stopped = zoracle.minimize(many, np.ones((3, 4)), callback=stop, **QUICK)
    assert stopped.reason == [StopReason.CALLBACK] * 3
    assert stopped.queries.tolist() == [5] * 3


def test_a_time_limit_ends_the_run_and_the_checkpoint_goes_on(tmp_path):
    slow = functools.partial(sleeps, seconds=0.005)
    given = {"vectorized": False, "checkpoint": tmp_path / "run", **QUICK}
    found = zoracle.minimize(slow, np.ones(4), time_limit=0.2, **given)
    assert found.reason is StopReason.TIME
    assert 0 < found.queries < 150
    whole = zoracle.minimize(one_point, np.ones(4), **given)
    assert whole.reason is StopReason.BUDGET
    assert whole.queries == 200
    assert whole.x.tolist() == zoracle.minimize(one_point, np.ones(4), vectorized=False, **QUICK).x.tolist()


@pytest.fixture
def interruptible():
    """SIGINT as on a terminal: a shell starts what runs in the background with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("kept", [False, True])
def test_ctrl_c_gives_the_best_so_far(tmp_path, kept):
    seen = []

    def f(x):
        seen.append(one_point(x))
        if len(seen) == 52:
            os.kill(os.getpid(), signal.SIGINT)
        return seen[-1]

    checkpoint = tmp_path / "run" if kept else None
    found = zoracle.minimize(f, np.ones(4), vectorized=False, checkpoint=checkpoint, **QUICK)
    assert found.reason is StopReason.INTERRUPTED
    assert len(seen) == (55 if kept else 52), "a checkpoint is of whole steps"
    assert found.queries == 55, "the call in flight was paid for"
    assert found.value == min(seen[: 55 if kept else 50])
    assert found.value == one_point(found.x)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_before_anything_is_known_is_ctrl_c():
    def f(x):
        os.kill(os.getpid(), signal.SIGINT)
        return many(x)

    with pytest.raises(KeyboardInterrupt):
        zoracle.minimize(f, np.ones(4), **QUICK)


def test_what_is_printed_is_a_short_table():
    one = repr(zoracle.minimize(many, torch.ones(500), **QUICK))
    assert len(one.splitlines()) <= 8
    assert max(map(len, one.splitlines())) <= 80
    assert "budget spent" in one
    assert "tensor" not in one
    assert "200 in 40 steps" in one
    runs = repr(zoracle.minimize(many, torch.ones(30, 5), **QUICK)).splitlines()
    assert len(runs) == 13
    assert "20 more" in runs[-1]


def test_a_progress_bar_is_for_terminals(capsys):
    zoracle.minimize(many, np.ones(4), progress=True, **QUICK)
    assert capsys.readouterr() == ("", "")


def test_a_progress_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    zoracle.minimize(many, np.ones(4), progress=True, **QUICK)
    assert "200/200" in capsys.readouterr().err
