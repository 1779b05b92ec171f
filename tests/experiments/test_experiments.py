"""`zoracle reproduce`: every experiment in its quick form, what it writes, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from zoracle.cli.main import main
from zoracle.errors import InputError, MissingExtraError
from zoracle.evaluation.evaluate import evaluate
from zoracle.evaluation.spec import RunSpec
from zoracle.experiments import registry
from zoracle.experiments.agreement_settings import CASES, Agreement
from zoracle.experiments.common import queries_to, verdict
from zoracle.experiments.reproduce import changed, reproduce
from zoracle.experiments.shadow import measures_of, shadow_estimates
from zoracle.experiments.weights import paper_config
from zoracle.experiments.work import Meter, Work
from zoracle.optimizers.pretrained import Use, resolve, save_optimizer, shipped
from zoracle.optimizers.registry import make
from zoracle.reporting.lines import line
from zoracle.rollout import rollout
from zoracle.rollout.oracle import Oracle
from zoracle.tasks import task

NAMES = registry.names()
#: Those whose packages are installed.
RUNNABLE = [
    name for name in NAMES if all(find_spec(module) is not None for module, _ in registry.experiment(name).needs)
]
drawn = pytest.mark.skipif(not (find_spec("matplotlib") and find_spec("jinja2")), reason="the extra report draws")

#: Smaller still than the quick forms, so that all of them together take seconds.
TINY = {
    "mnist-attack": {"problems": 2, "budget": 105, "panels": 2, "seeds": 1, "panel_seeds": 2, "valid": 2},
    "cifar10-attack": {"problems": 2, "budget": 105, "panels": 1, "seeds": 1, "panel_seeds": 2, "valid": 2},
    "ball-attacks": {"problems": 2, "budget": 50, "valid": 2},
    "binary-classification": {"dimensions": (5,), "budget": 105, "problems": 2},
    "ablation": {"problems": 2, "budget": 105, "dim": 5},
    "gradient-quality": {"problems": 2, "steps": 4},
    "dimension": {"dimensions": (4, 8), "problems": 2, "budget": 105},
    "num-directions": {"directions": (1, 5), "problems": 2, "budget": 42},
    "sampling-frequency": {"probabilities": (0.0, 1.0), "problems": 2, "budget": 105},
    "training-oracle": {
        "problems": 2,
        "budget": 105,
        "agreement": Agreement(
            problems=2, mus=(1e-5,), mus_float32=(1e-5,), dim=5, mnist=False, cases=CASES[2:], middle=False, repeats=1
        ),
    },
    "transfer": {"problems": 2, "budget": 105},
    "black-boxes": {
        "kinds": ("rover", "attack"),
        "budget": 20,
        "methods": ("minimize", "scipy-powell", "ars"),
        "problems": 2,
    },
    "finetune": {
        "tasks": ("digits", "lora"),
        "methods": ("zero-shot", "mezo", "learned"),
        "forwards": 12,
        "pieces": 16,
    },
    "bbob": {"budgets": (3,), "functions": (1,), "methods": ("minimize", "scipy-powell"), "noisy_dimensions": ()},
}


@pytest.fixture(autouse=True)
def no_data(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("ZORACLE_DATA", raising=False)
    monkeypatch.setenv("ZORACLE_CACHE", str(tmp_path / "cache"))


def tiny(name):
    return msgspec.structs.replace(registry.experiment(name).quick, **TINY[name])


def run(name, out, **options):
    return reproduce(registry.experiment(name), out, quick=True, settings=tiny(name), **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Each experiment run once, and its folder, however many tests look at it."""
    known = {}

    def get(name):
        if name not in known:
            folder = tmp_path_factory.mktemp("done") / name
            known[name] = (run(name, folder), folder)
        return known[name]

    return get


@drawn
@pytest.mark.parametrize("name", RUNNABLE)
def test_every_experiment_writes_its_folder(name, finished):
    done, out = finished(name)
    config = json.loads((out / "config.json").read_text())
    assert (config["experiment"], config["quick"]) == (name, True)
    tables = json.loads((out / "table.json").read_text())
    assert tables
    assert all(tables.values()), "no table is empty"
    assert all(f"## {table.title}" in (out / "table.md").read_text() for table in done.outcome.tables)
    with np.load(out / "curves.npz") as curves:
        assert len(curves.files) > 0
        assert all(curves[key].size for key in curves.files)
    for figure in done.outcome.figures:
        assert (out / "figures" / f"{figure.name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (out / "figures" / f"{figure.name}.svg").read_text()
        assert f'src="figures/{figure.name}.svg"' in (out / "index.html").read_text()
    assert done.outcome.figures
    ledger = json.loads((out / "queries.json").read_text())
    assert ledger["queries"] == done.queries
    assert sum(done.queries.values()) > 0
    assert ledger["full_form"]["estimated_seconds"] > 0
    page = (out / "index.html").read_text()
    assert "Its numbers say nothing" in page
    assert "An estimate of the full form" in page
    if name in ("mnist-attack", "cifar10-attack"):
        assert any("uses the digits attack instead" in note for note in done.notes)


def test_without_the_extras_everything_else_is_written(tmp_path, monkeypatch):
    def missing(module, extra):
        raise MissingExtraError(f"{module} is not installed; install it with: pip install 'zoracle[{extra}]'")

    monkeypatch.setattr("zoracle.reporting.page.require", missing)
    monkeypatch.setattr("zoracle.experiments.external.pycma.require", missing)
    monkeypatch.setattr("zoracle.experiments.external.evosax.require", missing)
    done = run("mnist-attack", tmp_path / "out")
    told = " ".join(done.notes)
    assert "no figures and no page were written: jinja2 is not installed" in told
    assert "no rows of pycma: cma is not installed" in told
    assert "no rows of evosax: evosax is not installed" in told
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"table.json", "table.md", "curves.npz", "queries.json", "tuned.json"} <= there
    assert not {"index.html", "figures"} & there
    assert "external" not in json.loads((tmp_path / "out" / "table.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_says_what_it_measures(name):
    found = registry.experiment(name)
    assert found.name == name
    assert "test" in found.about or "validation" in found.about
    assert "seed" in found.about.lower()
    assert found.work(found.full).queries > found.work(found.quick).queries > 0


def test_a_wrong_name_is_one_line(capsys, tmp_path):
    assert main(["reproduce", "mnist-atack", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "did you mean mnist-attack?" in told
    assert not list(tmp_path.iterdir())


def test_a_wrong_optimizer_is_told_before_there_is_a_folder(capsys, tmp_path):
    assert main(["reproduce", "transfer", "--quick", "--optimizers", "zo-lstn", "--out", str(tmp_path)]) == 2
    assert "'zo-lstn' is unknown" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_full_form_needs_its_data(tmp_path):
    with pytest.raises(InputError, match="target"):
        reproduce(registry.experiment("mnist-attack"), tmp_path / "out")


def test_a_folder_of_another_form_is_refused(tmp_path):
    run("num-directions", tmp_path / "out")
    with pytest.raises(InputError, match="another config"):
        reproduce(registry.experiment("num-directions"), tmp_path / "out", quick=True)


class _StopError(Exception):
    pass


@pytest.mark.parametrize("name", ["num-directions", "gradient-quality", "training-oracle", "finetune"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(name, tmp_path, finished):
    whole, folder = finished(name)
    calls = 0

    def stop(*_):
        nonlocal calls
        calls += 1
        if calls == 9:
            raise _StopError

    with pytest.raises(_StopError):
        run(name, tmp_path / "again", on_progress=stop)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "again").rglob("pieces/**/*.safetensors")}
    again = run(name, tmp_path / "again")
    assert without_seconds(tmp_path / "again") == without_seconds(folder)
    for key, curve in whole.outcome.curves.items():
        np.testing.assert_array_equal(again.outcome.curves[key], curve)
    assert again.queries == whole.queries
    if name == "finetune":
        assert kept
        assert all(path.stat().st_mtime_ns == before for path, before in kept.items()), "done again"


def without_seconds(out):
    tables = json.loads((out / "table.json").read_text())
    return {
        name: [{k: v for k, v in record.items() if not k.startswith("seconds")} for record in records]
        for name, records in tables.items()
    }


@pytest.mark.slow
def test_a_killed_process_goes_on(tmp_path):
    command = [sys.executable, "-m", "zoracle.cli.main", "reproduce", "num-directions", "--quick", "--out", tmp_path]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    pieces = tmp_path / "num-directions-quick" / "pieces"
    while not list(pieces.rglob("*.safetensors")) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in pieces.rglob("*.safetensors")}
    assert kept
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items()), "what was done is not done again"
    assert (tmp_path / "num-directions-quick" / "table.json").is_file()


@pytest.mark.slow
def test_all_quick_forms_run(tmp_path, capsys):
    assert main(["reproduce", "all", "--quick", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir() if path.name != "cache"} == {f"{name}-quick" for name in RUNNABLE}


def test_whoever_never_gets_there_counts_at_the_whole_budget():
    made = task("quadratic", dim=6)
    result = evaluate(make("zo-sgd", lr=0.05, num_directions=4), made, RunSpec(ids=made.ids("test")[:5], steps=10))
    initial = result.losses[..., 0]
    assert torch.equal(queries_to(result, torch.zeros_like(initial)), torch.full((1, 5), 50.0, dtype=torch.float64))
    assert torch.equal(queries_to(result, initial), torch.zeros(1, 5, dtype=torch.float64))
    half = queries_to(result, 0.9 * initial)
    for p in range(5):
        reached = (result.best[0, p] <= 0.9 * initial[0, p]).nonzero()
        assert half[0, p] == (result.queries[0, p, int(reached[0])] if len(reached) else 50)


def test_the_estimate_is_queries_times_pace():
    meter = Meter()
    assert meter.estimate(Work(100)) is None, "nothing was timed"
    meter.time(2.0, 50)
    meter.time(9.0, 1, pace=False)
    assert (meter.estimate(Work(100)), meter.seconds) == (4.0, 11.0)
    assert meter.estimate(Work(100, training=10)) is None
    meter.trained, meter.training_seconds = 5, 1.0
    assert meter.estimate(Work(100, training=10)) == 6.0


def test_verdicts_go_by_the_interval():
    assert [verdict(-2, -1), verdict(1, 2), verdict(-1, 1), verdict(None, 1.0)] == [
        "win", "loss", "undecided", "undecided",
    ]  # fmt: skip


def test_transfer_leaves_out_the_task_that_an_optimizer_was_trained_on(finished):
    done, _ = finished("transfer")
    verdicts = {table.name: table.records for table in done.outcome.tables}["verdicts"]
    pairs = {(record["task"], record["optimizer"]) for record in verdicts}
    assert ("digits", "zo-lstm-digits") not in pairs
    assert ("quadratic", "zo-lstm-quadratic") not in pairs
    assert {("digits", "zo-lstm-mnist"), ("binary-classification", "zo-lstm-digits")} <= pairs
    assert any(note.startswith("mnist cannot run") for note in done.notes), "a task without data is named"
    counts = {table.name: table.records for table in done.outcome.tables}["summary"]
    for count in counts:
        own = [r["verdict"] for r in verdicts if r["optimizer"] == count["optimizer"]]
        assert count["wins"] + count["losses"] + count["undecided"] == len(own)


def test_measures_against_what_is_known():
    gradient = torch.tensor([[3.0, 4.0]])
    exact = measures_of(torch.stack((2 * gradient, 2 * gradient)), gradient)[:, 0]
    assert torch.allclose(exact, torch.tensor([1.0, 0.0, 0.0]), atol=1e-6)
    # One draw along each axis: cosines .6 and .8; a = 3.5 leaves 1 - 3.5^2 / 25, and each is as far as it is long.
    apart = measures_of(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), gradient)[:, 0]
    assert torch.allclose(apart, torch.tensor([0.7, 1 - 3.5**2 / 25, 1.0]), atol=1e-6)


def test_the_reference_is_left_alone_and_every_point_is_counted():
    made = task("digits")
    ids = made.ids("valid")[:2]
    optimizer = resolve("zo-lstm", Use("digits")).optimizer
    shadows = [("gaussian", make("zo-sgd")), ("guided", make("zo-lstm-guided-es"))]
    quality = shadow_estimates(optimizer, shadows, made, ids, label="own", seed=3, steps=5)
    oracle = Oracle(made.objective(ids))
    state = optimizer.init(
        made.start(ids, seed=3), seed=3, problem=torch.tensor(ids), horizon=5, scale=oracle.objective.scale
    )
    _, alone = rollout(optimizer, oracle, state, 5)
    assert torch.equal(quality.loss, alone.loss)
    # A step: the reference's 21, its second draw, two draws of two shadows, and one true gradient.
    assert quality.points == 2 * 5 * (21 + 21 + 2 * 2 * 21 + 1)
    assert all(bool(values.isfinite().all()) for values in quality.measured.values())


def test_a_rider_that_is_the_reference_measures_the_same():
    made = task("digits")
    ids = made.ids("valid")[:2]
    paper = make("zo-lstm-paper")
    quality = shadow_estimates(paper, [("shadow", paper)], made, ids, label="own", seed=0, steps=6)
    assert torch.equal(quality.measured["own"], quality.measured["shadow"])


def test_the_gaussian_cosine_is_what_theory_says():
    made = task("quadratic", dim=400)
    ids = made.ids("valid")[:6]
    quality = shadow_estimates(make("zo-sgd", lr=1e-3), [], made, ids, label="gaussian", seed=0, steps=10)
    cosine = quality.measured["gaussian"][0].mean()
    # q of d dimensions: the squared cosine is close to q / (q + d + 1).
    assert abs(float(cosine) - (20 / 421) ** 0.5) < 0.02


def test_weights_given_by_the_user_are_not_trained_again(tmp_path):
    given = [
        str(save_optimizer(tmp_path / kind, kind, make(kind), {}).parent)
        for kind in ("zo-lstm-paper", "zo-lstm-no-update")
    ]
    done = run("ablation", tmp_path / "out", optimizers=",".join(given))
    assert not any("trained in this run" in note for note in done.notes)
    assert not any(purpose.startswith("training") for purpose in done.queries)
    labels = {record["optimizer"] for record in done.outcome.tables[0].records}
    assert {"zo-lstm", "zo-lstm-paper", "no-query", "no-update", "guided-es-published", "guided-es-balanced"} <= labels


def test_the_paper_is_trained_on_the_task_at_hand():
    made = task("binary-classification", dim=7)
    for kind, stages in (("zo-lstm-paper", 2), ("zo-lstm-no-update", 1)):
        config = paper_config(made, False, kind=kind)
        assert (config.task, config.optimizer, len(config.stages)) == (made.name, kind, stages)
        assert config.task_settings == {"dim": 7, "samples": 500, "batch_size": 64}
    assert task(config.task, **config.task_settings).dim == 7


def test_coordinatewise_training_never_takes_a_gradient(finished):
    done, _ = finished("training-oracle")
    costs = {record["training"]: record for record in done.outcome.tables[0].records}
    first, queried, blind = costs.values()
    assert (blind["gradients"], first["points"]) == (0, 0)
    assert blind["points"] > queried["points"] > 0
    assert first["gradients"] == queried["gradients"] > 0
    assert max(queried["apart"], blind["apart"]) < 0.02, "they agree before the weights are apart"


def test_a_line_is_a_mean_over_repeats_with_an_interval_over_problems():
    values = torch.tensor([[[1.0], [3.0]], [[3.0], [5.0]]])  # problems' means are 2 and 4
    found = line([0], values)
    assert found.mean[0] == 3
    assert found.high[0] - 3 == pytest.approx(12.7062, abs=1e-3)  # t with one degree of freedom, times 1


def test_shipped_optimizers_say_what_they_were_trained_on():
    assert {resolve(name).trained_on() for name in shipped()} >= {("digits",), ("mnist",), ("quadratic",)}


def test_settings_changed_are_told_on_the_page(tmp_path, capsys):
    wanted = ["--set", "problems=2", "--set", "directions=[1,3]", "--set", "budget=42", "--set", "seeds=1"]
    assert main(["reproduce", "num-directions", "--quick", "--out", str(tmp_path), *wanted]) == 0
    folder = tmp_path / "num-directions-quick"
    settings = json.loads((folder / "config.json").read_text())["settings"]
    assert (settings["problems"], settings["directions"], settings["budget"]) == (2, [1, 3], 42)
    told = " ".join(capsys.readouterr().out.split())
    assert "directions (1, 3) instead of" in told
    assert "full form, upper bound from tiny batches:" in told
    if (folder / "index.html").is_file():
        assert "--set directions=[1,3]" in (folder / "index.html").read_text().replace("&#34;", '"')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("problems", "expected NAME=VALUE"),
        ("problem=3", "setting 'problem' is unknown; expected one of"),
        ("problems=many", "setting 'problems=many' of dimension: Expected `int`"),
        ("problems=0", "expected at least 1"),
        ("dimensions=10", "Expected `array`"),
    ],
)
def test_settings_that_cannot_be_changed_are_told(tmp_path, capsys, change, message):
    assert main(["reproduce", "dimension", "--quick", "--out", str(tmp_path), "--set", change]) == 2
    told = capsys.readouterr().err
    assert message in " ".join(told.split())
    assert not list(tmp_path.iterdir())


def test_all_changes_the_settings_that_each_has():
    every = [registry.experiment(name) for name in NAMES]
    made = changed(every, True, ["panels=0", "problems=5"])
    assert made["mnist-attack"].panels == 0
    assert {name for name, form in made.items() if not hasattr(form, "problems")} == {"bbob", "finetune"}
    assert all(form.problems == 5 for form in made.values() if hasattr(form, "problems"))
    assert made["dimension"].dimensions == registry.experiment("dimension").quick.dimensions
    assert changed([registry.experiment("finetune")], False, ["fine=false"])["finetune"].fine is False


def test_docs_name_every_experiment():
    page = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    assert all(f"`{name}`" in page for name in NAMES)
