"""The benchmarks run, count what they time, and write what they say that they write. Speed is not tested here."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch

from benchmarks import attack, overhead, package
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.measure import Options, StepClock, interleaved, peak_memory, seconds
from benchmarks.public_pattern import Pattern
from benchmarks.report import Report, figure, number, ratio, table
from benchmarks.targets import target
from benchmarks.training import PLANS, recipe, shortened
from zoracle.metatrain.config import Validation
from zoracle.optimizers.registry import REGISTRY

ROOT = Path(__file__).parents[2]


def test_all_benchmarks_quickly(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ZORACLE_DATA", raising=False)
    monkeypatch.setenv("ZORACLE_CACHE", str(tmp_path / "none"))
    threads = torch.get_num_threads()
    assert main(["all", "--quick", "--out", str(tmp_path / "out")]) == 0
    assert torch.get_num_threads() == threads
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.json" for name in BENCHMARKS} | {
        "table.md"
    }
    written = (tmp_path / "out" / "table.md").read_text()
    assert capsys.readouterr().out == written
    for name in BENCHMARKS:
        text = (tmp_path / "out" / f"{name}.json").read_text()
        for private in (str(tmp_path), str(ROOT), str(Path.home())):
            assert private not in text, "no path of this machine"
        found = json.loads(text)
        assert (found["benchmark"], found["quick"]) == (name, True)
        assert set(found["machine"]) >= {"cpu", "cores", "threads", "torch", "python", "zoracle"}
        assert found["about"]
        assert bool(found["figures"]) == (found["skipped"] is None)
        for one in found["figures"]:
            assert one["low"] <= one["value"] <= one["high"]
            assert all(math.isfinite(one[key]) for key in ("low", "value", "high"))
            assert one["repeats"] >= 1
            assert one["met"] is None, "a quick run says nothing of speed"
            assert f"| {name} | {one['name']} |" in written
    weights = json.loads((tmp_path / "out" / "attack.json").read_text())["settings"]["mnist"]["weights"]
    assert weights.startswith("random"), "without the data it says so"
    if not torch.cuda.is_available():
        assert json.loads((tmp_path / "out" / "gpu.json").read_text())["skipped"] == "no CUDA device"
        assert "| gpu | skipped: no CUDA device |" in written


@pytest.mark.parametrize("argv", [["nothing"], ["attack", "--steps", "1"], ["attack", "--repeats", "0"]])
def test_bad_arguments(argv, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*argv, "--out", str(tmp_path)])
    assert "error:" in capsys.readouterr().err


def test_an_unusable_folder_is_told_before_anything_runs(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        main(["gpu", "--out", str(tmp_path / "file")])
    assert "cannot write" in capsys.readouterr().err


def test_figures_are_medians_and_ratios_are_of_pairs():
    one = figure("a", "s", [3.0, 1.0, 2.0], at_most=2.0)
    assert (one.value, one.low, one.high, one.repeats, one.met) == (2.0, 1.0, 3.0, 3, True)
    # The machine was ten times slower in the second round: of pairs, the ratio does not see it.
    assert ratio("r", [2.0, 20.0, 2.2], [1.0, 10.0, 1.0], at_least=2.1)[2:5] == (2.0, 2.0, 2.2)
    assert ratio("r", [2.0], [1.0], at_least=2.1).met is False
    with pytest.raises(ValueError, match="no measurements"):
        figure("a", "s", [math.nan])
    report = Report("b", "about", [one], {}, ["a note"])
    assert "| b | a | 2.00 | 1.00 .. 3.00 | s | <= 2.00, met |" in table([report])
    assert "- b: a note" in table([report])
    assert [number(value) for value in (0.0, 1234.5, 12.34, 0.01234)] == ["0.0", "1234", "12.3", "0.0123"]


def test_measurements_are_taken_in_turn():
    order = []
    found = interleaved({name: lambda name=name: order.append(name) or len(order) for name in "ab"}, 3)
    assert order == list("ababab")
    assert found == {"a": [1, 3, 5], "b": [2, 4, 6]}


def test_clocks(monkeypatch):
    now = iter((0.0, 0.4, 0.8, 1.2, 1.2))
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.measure.time.perf_counter", lambda: next(now))
        assert seconds(lambda: None, 1.0) == pytest.approx(0.4), "three calls in 1.2 s"
    clock = StepClock()
    clock.moments = [5.0, 6.0, 8.0, 100.0]  # what follows the last step is not counted
    assert clock.seconds(3) == pytest.approx(1.5)


def test_the_attack_that_is_timed_makes_the_queries_it_is_divided_by():
    found = target("mnist")
    made = attack.optimizer("zo-sgd", "mnist", 4)
    calls = []
    network = found.network

    class Counting(torch.nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return network(x)

    box = found.task.objective(found.ids[:3]).black_box
    box.module = Counting()
    objective = found.task.objective
    found.task.objective = lambda *a, **k: _with_box(objective(*a, **k), box)
    assert attack.step_seconds(made, found.task, found.ids[:3], 4) > 0
    assert sum(calls) == 3 * (4 * made.queries_per_step + 1), "the queries, and the last iterate"


def _with_box(made, box):
    made.black_box = box
    return made


def test_the_pattern_makes_41_forward_passes_of_one_image_in_float64():
    pattern = Pattern(target("mnist"))
    seen = []
    pattern.network.register_forward_pre_hook(
        lambda module, inputs: seen.append((tuple(inputs[0].shape), inputs[0].dtype))
    )
    before = pattern.delta.clone()
    pattern.attack_step()
    assert seen == [((1, 1, 28, 28), torch.float64)] * 41
    assert not torch.equal(pattern.delta, before)
    for query in (False, True):
        seen.clear()
        pattern.train(3, query=query)
        assert len(seen) == 3 * 41


def test_training_is_the_recipe_but_shorter():
    for plan in PLANS:
        whole = recipe(plan.recipe)
        config, stage = shortened(plan, 7, Validation(problems=1))
        own = whole.stages[plan.stage]
        assert (stage.truncation, stage.lr, stage.loss, stage.settings) == (
            own.truncation,
            own.lr,
            own.loss,
            own.settings,
        )
        assert (stage.unrolls, stage.steps, stage.meta_batch) == (7, 2 * own.truncation, plan.meta_batch)
        assert (config.values, config.gradient, config.optimizer) == (whole.values, "true", whole.optimizer)


def test_every_optimizer_with_directions_is_measured():
    assert set(overhead.names()) >= set(REGISTRY) - {"l2l"} - {n for n in REGISTRY if not _samples(n)}
    assert "l2l" not in overhead.names()
    assert {"zo-sgd", "zo-lstm", "zo-lstm-paper"} <= set(overhead.names())


@pytest.mark.parametrize("name", overhead.names())
def test_each_of_them_runs(name):
    assert overhead.step_seconds(name, 1, 64, 3) > 0


def _samples(name):
    return hasattr(REGISTRY[name].make().config, "num_directions")


def test_memory_is_that_of_the_call_whatever_this_process_holds():
    ballast = torch.ones(100 * 2**18)  # 100 MiB, which a child's ru_maxrss may show
    peak = peak_memory("worker_tasks:hold", mib=64)
    assert 60 < peak.above < 80
    assert peak.above < peak.whole
    del ballast
    with pytest.raises(RuntimeError, match="no_such_module"):
        peak_memory("no_such_module:hold")


def test_sizes_are_of_what_is_needed_and_not_of_torch():
    names = {of.metadata["Name"].lower() for of in package.needed()}
    assert {"numpy", "safetensors", "msgspec", "click", "rich"} <= names
    assert not names & {"torch", "sympy", "pytest", "matplotlib", "zoracle"}
    assert 0.1 < package.own_size() < 5
    assert re.match(r"\d", str(package.size_of(package.needed()[0])))
    assert Options().repeats >= 5, "medians are of five at least"
