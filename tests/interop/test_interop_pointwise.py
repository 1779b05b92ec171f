"""One point at a time: what comes late, never, twice or in another order; Nevergrad and Optuna themselves."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import zoracle
from zoracle.errors import InputError
from zoracle.interop.pointwise import PointByPoint
from zoracle.optimizers.registry import make

SETTINGS = {"lr": 0.05, "num_directions": 4}


def bowl(x):
    return float(((np.asarray(x) - 0.3) ** 2).sum())


def test_it_is_what_minimize_does():
    seen = []

    def f(x):
        seen.append(x.copy())
        return bowl(x)

    zoracle.minimize(f, np.ones(3), budget=100, optimizer="zo-adam", vectorized=False, **SETTINGS)
    points = PointByPoint("zo-adam", np.ones(3), budget=100, **SETTINGS)
    for expected in seen:
        token, x = points.ask()
        assert np.allclose(x, expected, rtol=1e-12)
        points.tell(token, bowl(x))


def test_the_order_of_values_does_not_matter_and_late_ones_are_ignored():
    rng = np.random.default_rng(0)
    straight, shuffled = (PointByPoint("zo-adam", np.ones(3), **SETTINGS) for _ in range(2))
    for _ in range(20):
        asked = [straight.ask() for _ in range(5)]
        for token, x in asked:
            straight.tell(token, bowl(x))
        mixed = [shuffled.ask() for _ in range(5)]
        for i in rng.permutation(5):
            shuffled.tell(mixed[i][0], bowl(mixed[i][1]))
        shuffled.tell(mixed[0][0], -1e9)  # again, after its step
    assert torch.equal(straight.state.x, shuffled.state.x)


def test_lost_values_hold_nobody_up():
    points = PointByPoint("zo-adam", np.ones(3), low=np.full(3, 0.5), high=np.full(3, 2.0), **SETTINGS)
    lost = 0
    for i in range(600):
        token, x = points.ask()
        assert x.min() >= 0.5
        if i % 7 == 3:
            lost += 1
        else:
            points.tell(token, math.nan if i % 11 == 0 else bowl(x))
    assert points.step > 40
    assert np.allclose(points.state.x, 0.5, atol=0.02)


def test_true_gradients_cannot_be_told():
    with pytest.raises(InputError, match="needs true gradients"):
        PointByPoint(make("l2l"), np.ones(3))


def test_an_iterate_whose_value_is_lost_is_asked_for_again():
    points = PointByPoint("zo-adam", np.ones(3), **SETTINGS)
    for _ in range(30):
        base = points.ask()
        points.tell(base[0], math.nan)
        again = points.ask()
        assert again[1].tolist() == base[1].tolist()
        points.tell(again[0], bowl(again[1]))
        for token, x in [points.ask() for _ in range(4)]:
            points.tell(token, bowl(x))
    assert points.step == 30
    assert bowl(points.state.x[0]) < 0.3 * bowl(np.ones(3))


# --- Nevergrad ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ng():
    found = pytest.importorskip("nevergrad", reason="Nevergrad is not installed (extra nevergrad)")
    import zoracle.interop.nevergrad  # noqa: F401  # registers

    return found


def test_nevergrad_finds_it_by_name_and_minimises(ng):
    made = ng.optimizers.registry["Zoracle"](parametrization=ng.p.Array(init=np.ones(4)), budget=600)
    made.parametrization.random_state.seed(3)
    found = made.minimize(bowl)
    assert made.num_tell == 600
    assert bowl(found.value) < 0.01


def test_nevergrad_with_bounds_names_and_workers(ng):
    from zoracle.interop.nevergrad import ConfiguredZoracle

    seen = []

    def f(x, y):
        seen.append(x.min())
        return bowl(x) + (y - 1) ** 2

    space = ng.p.Instrumentation(
        ng.p.Array(init=np.ones(3)).set_mutation(sigma=0.3).set_bounds(0.5, 2.0), y=ng.p.Scalar(init=0.0)
    )
    made = ConfiguredZoracle(optimizer="zo-adam")(space, budget=400, num_workers=30)
    with ThreadPoolExecutor(4) as pool:
        found = made.minimize(f, executor=pool, batch_mode=False)
    assert min(seen) >= 0.5
    assert f(*found.args, **found.kwargs) < f(np.ones(3), 0.0)


def test_nevergrad_tells_late_and_in_another_order(ng):
    def run(shuffle):
        made = ng.optimizers.registry["Zoracle"](parametrization=4, budget=210, num_workers=5)
        made.parametrization.random_state.seed(1)
        for _ in range(40):
            asked = [made.ask() for _ in range(5)]
            for one in asked[::-1] if shuffle else asked:
                made.tell(one, bowl(one.value))
        return made.provide_recommendation().value

    assert np.isfinite(run(True)).all()
    made = ng.optimizers.registry["Zoracle"](parametrization=4, budget=210)
    with pytest.raises(ng.errors.TellNotAskedNotSupportedError):
        made.tell(made.parametrization.spawn_child(np.ones(4)), 1.0)


# --- Optuna -------------------------------------------------------------------------------------------------------


@pytest.fixture
def optuna():
    found = pytest.importorskip("optuna", reason="Optuna is not installed (extra optuna)")
    found.logging.set_verbosity(found.logging.ERROR)
    return found


def objective(trial):
    x = [trial.suggest_float(f"x{i}", -1.0, 1.0) for i in range(3)]
    rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    return bowl(x) + (math.log10(rate) + 2) ** 2 + (kind == "b")


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_optuna_samples_continuous_parameters(optuna, direction):
    from zoracle.interop.optuna import ZoracleSampler

    sign = 1 if direction == "minimize" else -1
    study = optuna.create_study(sampler=ZoracleSampler(budget=300, seed=2), direction=direction)
    study.optimize(lambda trial: sign * objective(trial), n_trials=300)
    assert sign * study.best_value < 0.1
    assert {trial.params["kind"] for trial in study.trials} == {"a", "b"}
    rates = [trial.params["rate"] for trial in study.trials]
    assert min(rates) >= 1e-4
    assert max(rates) <= 1.0
    at_random = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    at_random.optimize(objective, n_trials=300)
    assert sign * study.best_value < at_random.best_value


def test_optuna_goes_on_where_trials_fail_are_pruned_or_run_in_threads(optuna):
    from zoracle.interop.optuna import ZoracleSampler

    def uneven(trial):
        value = objective(trial)
        trial.report(value, 0)
        if trial.number % 5 == 4 or trial.should_prune():
            raise optuna.TrialPruned
        if trial.number % 9 == 8:
            raise ValueError("failed")
        return value

    sampler = ZoracleSampler("zo-adam", lr=0.1, mu=0.3, num_directions=4)
    study = optuna.create_study(sampler=sampler, pruner=optuna.pruners.NopPruner())
    study.optimize(uneven, n_trials=200, catch=(ValueError,), n_jobs=2)
    states = [trial.state.name for trial in study.trials]
    assert states.count("PRUNED") == 40
    assert states.count("FAIL") > 10
    first = next(trial.value for trial in study.trials if trial.value is not None)
    assert study.best_value < 0.5 * first


def test_optuna_with_two_objectives_is_refused(optuna):
    from zoracle.interop.optuna import ZoracleSampler

    study = optuna.create_study(sampler=ZoracleSampler(), directions=["minimize", "minimize"])
    with pytest.raises(InputError, match="the study has 2 objectives; expected one"):
        study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 1.0), n_trials=3)
