"""Several attacks as one: budgets shared, what is broken left alone, every query in one count, the worst case right."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from classifiers import IMAGES, LABELS, Linear
from zoracle.blackboxes import TorchModule
from zoracle.comparison.compare import Ensemble, Output, compare
from zoracle.comparison.ensemble import WORST
from zoracle.errors import BudgetError, InputError
from zoracle.evaluation.spec import RunSpec
from zoracle.objectives.threat import ThreatModel
from zoracle.optimizers.registry import make
from zoracle.tasks.given import GivenImages, image_set

ATTACKS = [("first", make("zo-sgd", num_directions=3, lr=0.002)), ("square", make("square")), ("last", make("simba"))]


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """No report: drawing takes longer than everything else."""
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)


def attacked(model, eps=0.04, **threat):
    """Five images, of which the model gets the last wrong as it is."""
    labels = LABELS.clone()
    labels[4] = (labels[4] + 1) % 6
    given = image_set(IMAGES, labels)
    return GivenImages(TorchModule(model), given, threat=ThreatModel(norm="linf", eps=eps, **threat))


def run(model, out=None, every=False, budget=61, seeds=1, optimizers=ATTACKS, **settings):
    task = attacked(model)
    spec = RunSpec(budget=budget, seeds=seeds, check_start=True)
    ensemble = Ensemble(every=every)
    return compare(task, optimizers, spec, ensemble=ensemble, out=out and Output(out, attack=True), **settings)


def test_what_one_breaks_the_next_leaves_alone_and_every_query_is_in_one_count(tmp_path):
    model = Linear()
    found = run(model, tmp_path)
    first, square, last, worst = (found.results[label] for label in ("first", "square", "last", WORST))
    assert first.misclassified[0].tolist() == [False, False, False, False, True]
    broken = first.success_ever[0] & ~first.misclassified[0]
    assert 0 < broken.sum() < 4, "or the test would show nothing"
    assert (square.attacked[0] == ~(broken | first.misclassified[0])).all()
    assert (square.spent[0][broken] == 0).all()
    assert (last.attacked[0] == square.attacked[0] & ~square.success_ever[0]).all()
    assert (first.allowance.unique(), square.allowance.unique(), last.allowance.unique()) == (31, 15, 15)
    assert (worst.spent == first.spent + square.spent + last.spent).all()
    assert (worst.spent <= 61).all()
    ledger = json.loads((tmp_path / "queries.json").read_text())
    assert set(ledger["optimise"]) == {"first", "square", "last"}, "the worst case made no query of its own"
    assert model.seen == sum(sum(ledger[part].values()) for part in ("optimise", "monitor", "verify"))
    with np.load(tmp_path / "adversarial-worst-case.npz") as saved:
        images, success = torch.from_numpy(saved["adversarial"][0]), saved["success"][0]
        assert (saved["queries"] == worst.spent.numpy()).all()
        assert set(saved["reason"][0][success]) == {"success"}
    assert (Linear()(images).argmax(1) != torch.from_numpy(saved_labels(found)))[success].all()
    assert success.tolist() == worst.success_ever[0].tolist()
    assert (worst.first_success[0] <= worst.spent[0]).all()


def saved_labels(found):
    with np.load(found.paths[f"adversarial {WORST}"]) as saved:
        return saved["labels"]


def test_the_rows_add_up():
    found = run(Linear(), None)
    assert [row.optimizer for row in found.rows] == ["first", "square", "last"], "no attack on images: no worst case"
    found = compare(
        attacked(Linear()),
        ATTACKS,
        RunSpec(budget=61, check_start=True),
        ensemble=Ensemble(),
        out=Output(None, attack=True),
    )
    rows = {row.optimizer: row for row in found.rows}
    worst = rows[WORST]
    assert list(rows) == ["first", "square", "last", WORST], "in the order that they were made in"
    assert worst.clean_accuracy == 0.8
    assert worst.robust_accuracy == 1 - (worst.broken + 1) / 5 == rows["last"].robust_accuracy
    assert worst.robust_accuracy_low < worst.robust_accuracy < worst.robust_accuracy_high
    assert worst.broken == sum(rows[label].broken for label in ("first", "square", "last"))
    assert rows["square"].attacked == worst.attacked - rows["first"].broken
    assert rows["square"].left_out == rows["first"].broken
    assert worst.queries_per_problem == pytest.approx(
        sum(rows[label].queries_per_problem for label in ("first", "square", "last"))
    )
    assert all(row.versus_first is None for row in found.rows), "other images: nothing to compare"
    assert all(row.non_finite_finals == 0 for row in found.rows), "an image that is left out has not failed"


def test_asked_to_every_attack_is_made_on_every_image():
    found = compare(
        attacked(Linear()),
        ATTACKS,
        RunSpec(budget=61, check_start=True, seeds=2),
        ensemble=Ensemble(every=True),
        out=Output(None, attack=True),
    )
    each = [found.results[label] for label, _ in ATTACKS]
    assert all((one.attacked == ~each[0].misclassified).all() for one in each)
    worst = found.results[WORST]
    assert (worst.success_ever == torch.stack([one.success_ever for one in each]).any(0)).all()
    nearest = torch.stack([one.linf.masked_fill(~one.success_ever, torch.inf) for one in each]).amin(0)
    won = worst.success_ever & ~worst.misclassified
    assert torch.equal(worst.linf[won], nearest[won])
    ends = torch.stack([one.losses[..., -1] for one in each])
    assert torch.isin(worst.losses[..., -1], ends).all(), "it ends where one of them did"
    assert (worst.losses[..., -1][won] == 0).all()
    row = found.rows[-1]
    broken = (won.any(0) | worst.misclassified.any(0)).sum()
    assert row.robust_accuracy == pytest.approx(1 - int(broken) / 5), "broken in any repeat is broken"


def test_an_interrupted_ensemble_goes_on_and_ends_the_same(tmp_path):
    whole = run(Linear(), tmp_path / "whole", seeds=2)

    class Stops(Linear):
        left = 20

        def forward(self, x):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return super().forward(x)

    model = Stops()
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "cut", seeds=2)
    found = run(model, tmp_path / "cut", seeds=2)
    for name in whole.paths:
        if name.startswith("adversarial") or name == "curves":
            assert whole.paths[name].read_bytes() == found.paths[name].read_bytes(), name
    one, other = (json.loads(run.paths["queries"].read_text()) for run in (whole, found))
    assert one["optimise"] == other["optimise"]
    seen = model.seen
    run(model, tmp_path / "cut", seeds=2)
    assert model.seen == seen
    with pytest.raises(InputError, match=r"ensemble.every: False there, True asked"):
        run(model, tmp_path / "cut", seeds=2, every=True)


def test_several_attacks_by_name_have_a_worst_case_too():
    spec = RunSpec(budget=61, check_start=True)
    console = Console(file=io.StringIO(), width=80)
    found = compare(attacked(Linear()), ATTACKS, spec, out=Output(None, attack=True), console=console)
    assert found.rows[-1].optimizer == WORST
    assert all(bool((found.results[label].allowance == 61).all()) for label, _ in ATTACKS), "each has the whole budget"
    assert found.rows[1].versus_first is not None
    assert WORST in console.file.getvalue()


def test_a_budget_that_is_too_small_to_share_is_refused_before_the_first_query():
    model = Linear()
    with pytest.raises(BudgetError, match="which 3 attacks share"):
        run(model, budget=2)
    with pytest.raises(BudgetError, match=r"gives first 4 of each image's queries, and its first step needs 5"):
        run(model, budget=6)
    with pytest.raises(InputError, match="'worst case'"):
        run(model, optimizers=[(WORST, make("square")), ATTACKS[0]])
    assert model.seen == 0
