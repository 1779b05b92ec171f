"""`zoracle reproduce transfer` of some of the shipped optimizers."""

from __future__ import annotations

import json

import msgspec

from zoracle.cli.main import main
from zoracle.experiments import transfer


def test_transfer_of_one_shipped_optimizer(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ZORACLE_DATA", raising=False)
    monkeypatch.setenv("ZORACLE_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    chosen = ["reproduce", "transfer", "--quick", "--set", "problems=2", "--set", "budget=105", "--out", str(out)]
    assert main([*chosen, "--set", "only=zo-lstm-digits,zo-lstn"]) == 2
    assert (
        "zo-lstn is not shipped; these are: spectral-search, square-controllers, zo-lstm-cifar10,"
        in capsys.readouterr().err
    )
    assert not list(out.glob("*"))
    assert main([*chosen, "--set", "only=zo-lstm-universal"]) == 0
    records = json.loads((out / "transfer-quick" / "table.json").read_text())["verdicts"]
    assert {record["optimizer"] for record in records} == {"zo-lstm-universal"}
    assert "mnist" not in {record["task"] for record in records}
    full = {only: transfer.work(msgspec.structs.replace(transfer.FULL, only=only)) for only in ("", "zo-lstm-digits")}
    assert full["zo-lstm-digits"].queries < full[""].queries


def test_transfer_is_about_the_tasks_that_it_was_about():
    tasks = set(transfer.carried_to())
    assert {"digits", "cifar10", "binary-classification", "functions", "network", "mnist"} <= tasks
    assert tasks.isdisjoint({"imagenet", "policy", "lasso", "rover", "hyperparameters"})  # of other experiments
