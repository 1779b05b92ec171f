"""`zoracle reproduce ball-attacks`: what its rows attack, and what its tables say of the curves beside them."""

from __future__ import annotations

import json
from importlib.resources import files

import msgspec
import numpy as np
import pytest
import torch

from zoracle.comparison.progress import Display
from zoracle.errors import InputError
from zoracle.experiments import registry
from zoracle.experiments.ball_attacks import RIVALS, Settings
from zoracle.experiments.ball_rows import FULL, ROWS, BallRow, attacked, rows_named
from zoracle.experiments.context import Context
from zoracle.experiments.defences import Defended, blurred, compressed
from zoracle.experiments.reproduce import reproduce
from zoracle.metatrain.spectral_training import parse
from zoracle.metatrain.zoo import Member, trained
from zoracle.objectives.attack import Attack
from zoracle.storage.runfolder import open_run
from zoracle.tasks import task, task_config

LINF = "digits-linf-0.2"


@pytest.fixture(autouse=True)
def no_data(monkeypatch, tmp_path):
    monkeypatch.delenv("ZORACLE_DATA", raising=False)
    monkeypatch.setenv("ZORACLE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def context(tmp_path):
    return Context(open_run(tmp_path / "run", {}, None), Settings(), True, None, None, Display(None, None))


def run(out, **settings):
    return reproduce(registry.experiment("ball-attacks"), out, quick=True, settings=Settings(**settings))


def test_rows_are_named():
    assert [row.name for row in rows_named(" mnist-linf-0.3, digits-l2-1,")] == ["mnist-linf-0.3", "digits-l2-1"]
    assert tuple(row.name for row in rows_named("")) == FULL
    assert ROWS["resnet44-linf-4"].eps == pytest.approx(4 / 255)
    assert not any(row.task == "digits" for row in rows_named(""))
    with pytest.raises(InputError, match="there is no row mnist; expected of mnist-linf"):
        rows_named("mnist")


def test_images_that_are_misread_are_left_out(context, monkeypatch):
    row = ROWS[LINF]
    before = task("digits").ids("test")
    found = attacked(context, row, 5, 3, "no")
    assert (found.ids, found.accuracy) == (before[:5], 1.0)
    right = Attack.evaluate

    def misread(self, points, problem, *args, **settings):
        """The second image is a success wherever it is looked at."""
        result = right(self, points, problem, *args, **settings)
        return result._replace(success=result.success | (self.labels[problem] == self.labels[1]))

    monkeypatch.setattr(Attack, "evaluate", misread)
    labels = task("digits").pictures(before).labels
    other = attacked(context, row._replace(name="other"), 5, 3, "no")
    expected = tuple(i for i, label in zip(before, labels, strict=True) if label != labels[1])
    assert other.ids == expected[:5]
    assert other.accuracy == pytest.approx(len(expected) / len(before))


@pytest.mark.parametrize("defence", ["blur", "jpeg"])
def test_a_defended_network_sees_what_its_filter_leaves(context, defence):
    if defence == "jpeg":
        pytest.importorskip("PIL", reason="pillow is not installed (extra images)")
    row = ROWS[LINF]._replace(name="defended", defence=defence)
    found, plain = attacked(context, row, 5, 3, "no"), task("digits", norm="linf", eps=0.2)
    zero, rows = torch.zeros(5, 64), torch.arange(5)
    objective = found.task.objective(found.ids)
    images = {"blur": blurred, "jpeg": compressed}[defence](plain.pictures(found.ids).images)
    network = plain.objective(found.ids[:1]).black_box
    labels = plain.pictures(found.ids).labels
    log_p = network(images).log_softmax(1)
    own = log_p.gather(1, labels.unsqueeze(1))[:, 0]
    others = log_p.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
    torch.testing.assert_close(objective.evaluate(zero, rows).loss, (own - others).clamp(min=0))
    assert not objective.evaluate(zero, rows).success.any()
    assert attacked(context, ROWS[LINF], 5, 3, "no").accuracy > found.accuracy - 0.5
    with pytest.raises(InputError, match="defence is 'fog'"):
        Defended(network, "fog")


def test_filters():
    flat = torch.full((2, 3, 6, 5), 0.4)
    torch.testing.assert_close(blurred(flat), flat)
    board = ((torch.arange(8).unsqueeze(1) + torch.arange(8)) % 2).float().expand(1, 3, 8, 8)
    assert float((blurred(board)[..., 1:-1, 1:-1] - 0.5).abs().max()) < 1e-6, "a checkerboard is gone"


def test_jpeg_keeps_what_is_smooth():
    pytest.importorskip("PIL", reason="pillow is not installed (extra images)")
    ramp = (torch.linspace(0, 1, 32).unsqueeze(1) * torch.linspace(0.2, 1, 32)).expand(2, 3, 32, 32)
    for images in (ramp, ramp[:, :1]):
        kept = compressed(images)
        assert kept.shape == images.shape
        assert float((kept - images).abs().max()) < 0.03
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert float((compressed(noise) - noise).abs().mean()) > 0.03


@pytest.mark.parametrize("kind", ["random", "runner-up"])
def test_targets(context, kind):
    found = attacked(context, ROWS[LINF], 6, 2, kind)
    objective = found.task.objective(found.ids)
    assert objective.targets is not None
    assert (objective.targets != objective.labels).all()
    plain = task("digits", norm="linf", eps=0.2).objective(found.ids)
    zero, rows = torch.zeros(6, 64), torch.arange(6)
    # The runner-up is as far from the label as any class is near it; a target has to win over all the others.
    gap, told = plain.evaluate(zero, rows).loss, objective.evaluate(zero, rows).loss
    if kind == "runner-up":
        torch.testing.assert_close(gap, told)
    else:
        assert (told >= gap - 1e-6).all()
        assert len(set(objective.targets.tolist())) > 1
    again = attacked(context, ROWS[LINF], 6, 2, kind).task.objective(found.ids)
    assert torch.equal(again.targets, objective.targets)


def test_tables_say_what_the_curves_say(tmp_path):
    run(tmp_path, rows=LINF, problems=6, seeds=2, budget=40, valid=3, rivals="sign-hunter,square")
    tables = json.loads((tmp_path / "table.json").read_text())
    methods = {record["optimizer"]: record for record in tables[LINF]}
    assert list(methods) == ["zo-lstm", "sign-hunter", "square"]
    with np.load(tmp_path / "curves.npz") as curves:
        for name, record in methods.items():
            first = curves[f"{LINF}/{name}.first_success"]
            assert first.shape == (2, 6)
            assert record["success"] == pytest.approx((first > 0).mean())
            assert record["mean"] == pytest.approx(np.where(first > 0, first, 40).mean())
            assert record["median"] == pytest.approx(np.median(np.where(first > 0, first, 40)))
    assert methods["square"]["settings"].startswith("p_init = ")
    assert methods["sign-hunter"]["difference"] == pytest.approx(
        methods["sign-hunter"]["mean"] - methods["zo-lstm"]["mean"]
    )
    (summary,) = tables["summary"]
    best = min(("sign-hunter", "square"), key=lambda name: methods[name]["mean"])
    assert summary["best"] == best
    assert summary["times"] == pytest.approx(methods["zo-lstm"]["mean"] / methods[best]["mean"])
    assert summary["difference"] == pytest.approx(-methods[best]["difference"])
    assert json.loads((tmp_path / "tuned.json").read_text())


def test_others_are_done_first_and_stay_done(tmp_path, monkeypatch):
    small = {"rows": LINF, "problems": 2, "seeds": 1, "budget": 10, "valid": 2, "rivals": "sign-hunter"}
    asked = []
    right = Context.compared

    def told(self, key, *args, **kwargs):
        asked.append(key)
        if key.endswith("-own"):
            raise KeyboardInterrupt
        return right(self, key, *args, **kwargs)

    monkeypatch.setattr(Context, "compared", told)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, **small)
    assert asked == [LINF, f"{LINF}-own"]
    monkeypatch.setattr(Context, "compared", right)
    run(tmp_path, **small)
    assert json.loads((tmp_path / "table.json").read_text())["summary"]


def test_rows_without_data_are_left_out_unless_named(tmp_path):
    with pytest.raises(InputError, match="no row of ball-attacks can run without data"):
        run(tmp_path / "all")
    with pytest.raises(InputError, match="task imagenet has no"):
        run(tmp_path / "named", rows="imagenet-linf-4")
    with pytest.raises(InputError, match="expected others to compare with"):
        run(tmp_path / "alone", rows=LINF, rivals="zo-lstm")


def test_every_norm_has_rivals():
    assert {row.norm for row in ROWS.values()} == set(RIVALS)
    assert isinstance(next(iter(ROWS.values())), BallRow)


def test_a_row_of_a_network_of_its_own_is_trained_once(context):
    member = Member(name="fresh", task="digits", side=8, kind="mlp", epochs=3)
    row = ROWS[LINF]._replace(name="fresh", member=member)
    found = attacked(context, row, 5, 3, "no")
    images = task("digits").pictures(found.ids)
    network, _ = trained(member, context.run.pieces / "networks")
    assert (network(images.images).argmax(1) == images.labels).all(), "those that it reads correctly"
    zero, rows = torch.zeros(5, 64), torch.arange(5)
    shipped = task("digits", norm="linf", eps=0.2).objective(found.ids).evaluate(zero, rows).loss
    assert not torch.allclose(found.task.objective(found.ids).evaluate(zero, rows).loss, shipped)
    file = context.run.pieces / "networks" / "fresh.safetensors"
    written = file.stat().st_mtime_ns
    assert task_config(attacked(context, row, 5, 3, "no").task) == task_config(found.task)
    assert file.stat().st_mtime_ns == written


def test_small_networks_are_none_of_those_that_the_attacker_learned_from():
    text = (files("zoracle") / "recipes" / "spectral-search.toml").read_text(encoding="utf-8")
    learned_from = parse(text).networks
    names = {one.name for one in learned_from}
    plain = [msgspec.structs.replace(one, name="", epochs=1) for one in learned_from]
    members = {row.member.name: row.member for row in ROWS.values() if row.member is not None}
    assert len(members) == 5
    for member in members.values():
        assert member.name not in names, "the name keys the weights"
        same = msgspec.structs.replace(member, name="", epochs=1) in plain
        assert member.kind == "mlp" or not same
    assert len({member.kind for member in members.values()}) == 5


def test_variants_of_the_learned_attacker_stand_beside_it(tmp_path):
    settings = Settings(rows=LINF, problems=3, seeds=1, budget=30, valid=2, rivals="sign-hunter")
    reproduce(
        registry.experiment("ball-attacks"), tmp_path, quick=True, settings=settings,
        optimizers="zo-lstm,spectral-search:patterns=0,windows=0",
    )  # fmt: skip
    tables = json.loads((tmp_path / "table.json").read_text())
    assert [record["optimizer"] for record in tables[LINF]] == [
        "zo-lstm",
        "spectral-search:patterns=0,windows=0",
        "sign-hunter",
    ]
    assert tables["summary"][0]["best"] == "sign-hunter", "a variant is none of the others"
