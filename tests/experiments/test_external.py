"""Evolution strategies of other packages: what they cost, what their state is, and that they are what they wrap."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from zoracle.errors import InputError, MissingExtraError
from zoracle.experiments import registry
from zoracle.experiments.external import count, external
from zoracle.experiments.external.evosax import Evosax
from zoracle.experiments.external.pycma import PyCMA
from zoracle.keyed import mix
from zoracle.objectives.callable import CallableObjective
from zoracle.rollout import rollout
from zoracle.rollout.oracle import Oracle
from zoracle.state import concatenate, flatten, select, unflatten
from zoracle.types import Purpose

needs_cma = pytest.mark.skipif(find_spec("cma") is None, reason="the extra baselines installs cma")
needs_evosax = pytest.mark.skipif(find_spec("evosax") is None, reason="the extra evosax installs evosax")
strategies = pytest.mark.parametrize("strategy", ["snes", "les", "cma-anchored-les"])


def distance(x):
    return (x - 0.5).square().sum(1)


def seen(optimizer, b=2, steps=6, budget=None):
    calls = []

    def f(x):
        calls.append(len(x))
        return distance(x)

    oracle = Oracle(CallableObjective(f, dim=5, num_problems=b, framework="torch"), budget=budget)
    state = optimizer.init(torch.zeros(b, 5), seed=1, horizon=steps)
    state, trajectory = rollout(optimizer, oracle, state, steps, final=None)
    spent = oracle.counts[Purpose.OPTIMISE]
    assert sum(calls) == int(spent.sum()), "the box itself saw as many"
    return state, trajectory, spent


def go_on(optimizer, state, steps):
    oracle = Oracle(CallableObjective(distance, dim=5, num_problems=len(state.x), framework="torch"))
    return rollout(optimizer, oracle, state, steps, final=None)[0]


class TestRows:
    def test_each_package_has_rows_or_one_note(self, monkeypatch):
        made, notes = external(False)
        assert len(made) == count()
        assert len({label for label, _ in made}) == len(made)
        assert all(optimizer.queries_per_step == 21 for _, optimizer in made), "equal populations"
        assert [note.split()[0] for note in notes] == [
            "rows" if find_spec(module) is not None else "no" for module in ("cma", "evosax")
        ]

        def missing(module, extra):
            raise MissingExtraError(f"{module} is not installed; install it with: pip install 'zoracle[{extra}]'")

        monkeypatch.setattr("zoracle.experiments.external.pycma.require", missing)
        others, notes = external(False)
        assert notes[0] == "no rows of pycma: cma is not installed; install it with: pip install 'zoracle[baselines]'"
        assert [label for label, _ in others] == [label for label, _ in made if label.startswith("evosax")]

    def test_the_quick_form_leaves_out_one_row_of_each(self):
        full, quick = ([label for label, _ in external(form)[0]] for form in (False, True))
        slow = {"pycma", "evosax-cma-anchored-les"} & set(full)
        assert quick == [label for label in full if label not in slow]

    def test_the_estimate_counts_the_rows_that_are_installed(self, monkeypatch):
        experiment = registry.experiment("mnist-attack")
        queries = []
        for rows in (0, 2, 5):
            monkeypatch.setattr("zoracle.experiments.attack.count", lambda rows=rows: rows)
            queries.append(experiment.work(experiment.full).queries)
        one = experiment.full.external * experiment.full.budget
        assert queries[1] - queries[0] == 4 * one, "ours, SNES and two rows"
        assert queries[2] - queries[1] == 3 * one


@needs_evosax
class TestEvosax:
    def make(self, strategy="snes", **settings):
        return Evosax(**{"strategy": strategy, "sigma": 0.3, "population": 8, **settings})

    @strategies
    def test_it_descends_and_pays_for_its_population(self, strategy):
        state, trajectory, spent = seen(self.make(strategy), steps=40)
        assert spent.tolist() == [320, 320]
        assert bool((trajectory.best_loss < 0.02).all())
        assert bool(((state.x - 0.5).norm(dim=1) < 0.2).all())

    @strategies
    def test_it_is_what_evosax_does_by_itself(self, strategy):
        import evosax.algorithms
        import jax

        made = {"snes": "SNES", "les": "LearnedES", "cma-anchored-les": "CMAAnchoredLES"}[strategy]
        zero = np.zeros(5, np.float32)
        theirs = getattr(evosax.algorithms, made)(population_size=8, solution=zero)
        params = theirs.default_params.replace(std_init=np.float32(0.3))
        state = theirs.init(jax.random.key(0), zero, params)
        for step in range(6):
            words = np.array([mix(1, 0, step, stream) for stream in range(2)], np.uint32)
            key = jax.random.wrap_key_data(words, impl="threefry2x32")
            points, state = theirs.ask(key, state, params)
            values = distance(torch.from_numpy(np.array(points))).numpy()
            state, _ = theirs.tell(key, points, values, state, params)
        ours, _, _ = seen(self.make(strategy), b=1)
        assert np.allclose(ours.x[0].numpy(), theirs.get_mean(state), rtol=1e-5, atol=1e-6)

    @strategies
    def test_it_goes_on_from_its_saved_state(self, strategy):
        whole, _, _ = seen(self.make(strategy), steps=10)
        half, _, _ = seen(self.make(strategy), steps=10, budget=40)
        fresh = self.make(strategy)
        template = fresh.init(torch.zeros(2, 5))
        loaded = unflatten(template, {name: leaf.clone() for name, leaf in flatten(half).items()})
        assert torch.equal(fresh.ask(loaded).points, fresh.ask(loaded).points)
        again = go_on(fresh, loaded, 5)
        assert all(torch.equal(leaf, flatten(whole)[name]) for name, leaf in flatten(again).items())

    @strategies
    def test_one_problem_alone_is_the_same_problem(self, strategy):
        optimizer = self.make(strategy)
        together, _, _ = seen(optimizer)
        alone, _, _ = seen(optimizer, b=1)
        assert torch.equal(together.x[:1], alone.x)
        assert not torch.equal(together.x[0], together.x[1]), "problems have random numbers of their own"
        joined = concatenate(select(together, torch.tensor([1])), alone)
        assert torch.equal(go_on(optimizer, joined, 1).x[1:], go_on(optimizer, alone, 1).x)

    def test_no_problem_is_none(self):
        optimizer = self.make()
        state = optimizer.init(torch.zeros(0, 5))
        queries = optimizer.ask(state)
        assert queries.points.shape == (0, 8, 5)
        assert optimizer.tell(state, queries, torch.zeros(0, 8)).x.shape == (0, 5)

    @strategies
    def test_a_first_candidate_lies_sigma_away(self, strategy):
        optimizer = self.make(strategy, sigma=0.03, population=200)
        points = optimizer.ask(optimizer.init(torch.ones(3, 5, dtype=torch.float64))).points
        assert points.dtype is torch.float64
        assert float((points - 1).square().mean().sqrt()) == pytest.approx(0.03, rel=0.05)

    @strategies
    def test_an_iterate_that_was_brought_back_is_the_mean(self, strategy):
        optimizer = self.make(strategy)
        state, _, _ = seen(optimizer)
        moved = state._replace(x=state.x + 1)
        assert torch.allclose(optimizer.ask(moved).points, optimizer.ask(state).points + 1, atol=1e-6)

    @strategies
    def test_missing_values_rank_last(self, strategy):
        optimizer = self.make(strategy)
        state = optimizer.init(torch.zeros(1, 5))
        queries = optimizer.ask(state)
        values = distance(queries.points[0])[None]
        worst = int(values.argmax())
        known = optimizer.tell(state, queries, values)
        values[0, worst] = values[0].sort().values[-2].nextafter(torch.tensor(torch.inf))
        just_above = optimizer.tell(state, queries, values)
        for lost in (torch.nan, torch.inf):
            values[0, worst] = lost
            told = optimizer.tell(state, queries, values)
            assert torch.equal(told.x, just_above.x)
            assert bool(go_on(optimizer, told, 2).x.isfinite().all())
        if strategy != "les":  # which looks at more than ranks
            assert torch.equal(just_above.x, known.x)
        none = optimizer.tell(state, queries, torch.full((1, 8), torch.nan))
        assert torch.equal(none.x, state.x)
        assert none.key.step.tolist() == [1], "the next draw is another one"
        assert not torch.equal(optimizer.ask(none).points, queries.points)

    def test_numpy_is_left_alone(self):
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        seen(self.make())
        assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002

    @pytest.mark.parametrize("wrong", [{"strategy": "nes"}, {"sigma": 0.0}, {"population": 1}])
    def test_wrong_settings_are_refused(self, wrong):
        with pytest.raises(InputError, match=f"Evosax: .*{next(iter(wrong))}"):
            Evosax(**wrong)

    def test_it_runs_on_the_cpu_and_prints_nothing(self):
        program = """
import torch
from zoracle.experiments.external.evosax import Evosax
optimizer = Evosax(population=4)
state = optimizer.init(torch.zeros(1, 3))
optimizer.tell(state, optimizer.ask(state), torch.zeros(1, 4))
import jax
print(jax.config.jax_platforms)
"""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
        )
        assert (done.stdout, done.stderr) == ("cpu\n", "")


@needs_cma
@pytest.mark.filterwarnings("ignore::UserWarning:cma")
class TestPyCMA:
    def make(self, **settings):
        return PyCMA(**{"sigma": 0.3, "population": 8, "diagonal": True, **settings})

    @pytest.mark.parametrize("diagonal", [True, False])
    def test_it_descends_and_pays_for_its_population(self, diagonal):
        state, trajectory, spent = seen(self.make(diagonal=diagonal), steps=40)
        assert spent.tolist() == [320, 320]
        assert bool((trajectory.best_loss < 0.02).all())
        assert bool(((state.x - 0.5).norm(dim=1) < 0.2).all())

    def test_it_is_made_again_from_its_state(self):
        optimizer = self.make()
        state, _, _ = seen(optimizer, steps=10)
        half, _, _ = seen(self.make(), steps=10, budget=40)
        fresh = self.make()
        assert torch.equal(fresh.ask(half).points, fresh.ask(half).points)
        assert torch.equal(go_on(fresh, half, 5).x, state.x)

    def test_one_problem_alone_is_the_same_problem(self):
        together, _, _ = seen(self.make())
        alone, _, _ = seen(self.make(), b=1)
        assert torch.equal(together.x[:1], alone.x)

    def test_numpy_is_left_alone(self):
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        seen(self.make())
        assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002

    def test_missing_values_rank_last(self):
        optimizer = self.make()
        state = optimizer.init(torch.zeros(1, 5), horizon=3)
        queries = optimizer.ask(state)
        values = queries.points.square().sum(2)
        values[0, 3:] = torch.nan
        state = optimizer.tell(state, queries, values)
        assert bool(state.x.isfinite().all())
        state = optimizer.tell(state, optimizer.ask(state), torch.full((1, 8), torch.nan))
        assert bool(state.x.isfinite().all())
