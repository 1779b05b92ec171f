"""The command line, as a user sees it: what is printed, what is written, one line for what cannot work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from zoracle.cli.main import cli, main
from zoracle.cli.options import read_ids
from zoracle.comparison.named import named_optimizers
from zoracle.errors import InputError
from zoracle.optimizers.pretrained import Use, save_optimizer
from zoracle.optimizers.registry import REGISTRY, make
from zoracle.reporting.output import file_names
from zoracle.tasks import task

SMALL = ["--problems", "3", "--steps", "4", "--seeds", "2"]


@pytest.fixture(autouse=True)
def narrow(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("ZORACLE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def lstm(tmp_path):
    return str(save_optimizer(tmp_path / "trained" / "mine", "zo-lstm", make("zo-lstm"), {}).parent)


def run(*argv, code=0):
    assert main([str(part) for part in argv]) == code


def without_seconds(path):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in json.loads(path.read_text())]


def test_no_command_lists_the_commands_in_80_columns(capsys):
    for argv in ([], ["--help"]):
        run(*argv)
        told = capsys.readouterr().out
        for name in ("attack", "compare", "demo", "optimizers", "train", "train-target", "tune"):
            assert f"\n  {name} " in told
        assert max(map(len, told.splitlines())) <= 80
        assert "..." not in told.split("Commands:")[1], "no summary is cut"
    run("--version")
    assert capsys.readouterr().out.startswith("zoracle, version ")


@pytest.mark.parametrize(
    "command", ["attack", "compare", "demo", "minimize", "optimizers", "reproduce", "train", "train-target", "tune"]
)
def test_every_option_is_explained(capsys, command):
    run(command, "--help")
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 80
    assert "\\b" not in told
    options = [p for p in cli.get_command(None, command).params if p.param_type_name == "option"]
    assert all(option.help for option in options)


def test_what_there_is(capsys):
    run("optimizers")
    told = capsys.readouterr().out
    assert all(name in told for name in REGISTRY)
    assert all(author in told for author in ("Andriushchenko", "Guo et al.", "Al-Dujaili"))  # whose papers they are
    assert max(map(len, told.splitlines())) <= 80


def test_compare_prints_a_table_of_80_columns_and_writes_a_folder(capsys, tmp_path, lstm):
    argv = ["compare", "--optimizers", f"zo-sgd,{lstm}", *SMALL, "--out", tmp_path / "run"]
    run(*argv)
    told = capsys.readouterr()
    assert told.err == ""
    table = told.out.split("report:")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "zo-sgd" in table
    assert "mine" in table
    rows = json.loads((tmp_path / "run" / "table.json").read_text())
    assert {row["optimizer"] for row in rows} == {"zo-sgd", "mine"}
    assert all((row["problems"], row["seeds"], row["queries_per_problem"]) == (3, 2, 84) for row in rows)
    written = {entry.name for entry in (tmp_path / "run").iterdir()}
    assert written >= {"config.json", "versions.json", "table.json", "table.md", "curves.npz", "report.html"}
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["ids"] == list(task("digits").ids("test")[:3])
    assert str(tmp_path) not in (tmp_path / "run" / "config.json").read_text()
    run(*argv)
    assert without_seconds(tmp_path / "run" / "table.json") == [
        {key: value for key, value in row.items() if key != "seconds"} for row in rows
    ]
    run("compare", "--optimizers", "zo-sgd", *SMALL, "--out", tmp_path / "run", code=2)
    one_line(capsys.readouterr().err, "another config")


def test_options_reach_the_run(capsys, tmp_path):
    (tmp_path / "ids").write_text("\ufeff" + "\n".join(map(str, task("digits").ids("valid")[2:4])) + "\n\n")
    argv = ["--ids", "ids", "--num-directions", "3", "--budget", "11", "--dtype", "float64", "--seeds", "1"]
    run("compare", "--optimizers", "zo-sgd", *argv, "--out", "run")
    (row,) = json.loads(Path("run/table.json").read_text())
    assert (row["problems"], row["queries_per_problem"], row["steps"]) == (2, 8, 2)
    config = json.loads(Path("run/config.json").read_text())
    assert config["ids"] == list(task("digits").ids("valid")[2:4])
    assert (config["dtype"], config["budget"], config["num_directions"]) == ("float64", 11, 3)
    run("compare", "--optimizers", "zo-sgd", "--split", "valid", "--task", "quadratic", *SMALL, "--out", "valid")
    assert json.loads(Path("valid/config.json").read_text())["ids"] == list(task("quadratic").ids("valid")[:3])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_attack_writes_images_that_the_model_gets_wrong(capsys, tmp_path, dtype):
    run("attack", "--optimizers", "zo-sgd", "--problems", 3, "--steps", 20, "--dtype", dtype, "--out", "run")
    told = capsys.readouterr()
    assert told.err == ""
    with np.load("run/adversarial-zo-sgd.npz", allow_pickle=False) as arrays:
        found = dict(arrays)
    broken = int(found["success"].sum())
    assert f"zo-sgd, seed 0: {broken} of 3 images broken" in told.out
    assert broken
    assert found["adversarial"].shape == (1, 3, 1, 8, 8)
    assert found["adversarial"].dtype == dtype
    assert found["queries"].tolist() == [[421] * 3], "twenty steps, and one look at the image itself"
    assert not found["misclassified"].any()
    assert set(found["reason"].ravel()) == {"steps"}
    import torch

    made = task("digits")
    box = made.objective(tuple(found["ids"].tolist()), dtype=getattr(torch, dtype)).black_box
    predicted = box(torch.from_numpy(found["adversarial"][0])).argmax(1).numpy()
    assert ((predicted != found["labels"]) == found["success"][0]).all()
    l1 = np.abs(found["adversarial"][0] - found["images"]).sum((1, 2, 3))
    assert np.allclose(found["l1"][0], l1, atol=1e-5)


def test_demo_runs_with_what_there_is(capsys):
    run("demo", "--problems", 2, "--seeds", 1, "--optimizers", "zo-sgd", "--out", "demo")
    assert "Breaking a digit classifier" in capsys.readouterr().out
    assert Path("demo/report.html").is_file()
    figure = Path("demo/figures/demo.svg").read_text()
    assert "attack by zo-sgd" in figure
    assert len(re.findall(r"not as \d,", figure)) == 2


def test_tune_writes_what_it_chose(capsys):
    run("tune", "--optimizers", "zo-sgd", "--problems", 2, "--steps", 3, "--out", "tuned.json")
    (record,) = json.loads(Path("tuned.json").read_text())["tuned settings"]
    assert (record["optimizer"], record["split"], record["problems"]) == ("zo-sgd", "valid", 2)
    assert capsys.readouterr().out.startswith("zo-sgd: lr = ")
    assert record["criterion"] == "ratio"
    small = ["--threat", "linf", "--eps", 0.3, "--reduce", "tile:2", "--optimizers", "snes", "--problems", 2]
    run("tune", *small, "--steps", 3, "--out", "ball.json")
    (record,) = json.loads(Path("ball.json").read_text())["tuned settings"]
    assert (record["criterion"], record["task_config"]["reduce"]) == ("queries", "tile:2")
    assert set(record["chosen"]) == {"sigma"}


TRAINING = """
task = "quadratic"
problems = 4
settings = { num_directions = 4 }
validation = { problems = 2, steps = 3 }
[[stages]]
unrolls = 1
steps = 4
truncation = 2
meta_batch = 2
"""


def test_train_writes_an_optimizer_that_runs(capsys, tmp_path):
    Path("config.toml").write_text(TRAINING)
    run("train", "config.toml", "--out", "mine")
    run("train", "config.toml", "--out", "mine")
    run("compare", "--task", "quadratic", "--optimizers", "mine", *SMALL)
    assert "mine" in capsys.readouterr().out
    Path("config.toml").write_text(TRAINING + "lr = 0.5\n")
    run("train", "config.toml", "--out", "mine", code=2)
    one_line(capsys.readouterr().err, "another config")


def one_line(err, message):
    assert err.startswith("zoracle: error: "), err
    assert err.count("\n") == 1, err
    assert message in err, err


FILES = {
    "empty": b"\n\n",
    "garbage": b"12\nabc\n",
    "float": b"1.5\n",
    "binary": b"\xff\xfe\x00",
    "outside": b"999999\n",
    "huge": b"9" * 30,
    "twice": b"5\n5\n",
    "notes.txt": b"mine",
    "unknown-key.toml": TRAINING.encode() + b"stepz = 3\n",
    "wrong-type.toml": TRAINING.replace("unrolls = 1", 'unrolls = "many"').encode(),
    "unknown-setting.toml": TRAINING.replace("num_directions", "number").encode(),
    "unknown-task.toml": TRAINING.replace("quadratic", "quadratik").encode(),
    "no.toml": b"stages",
    "truncated": b"\x20\x00\x00\x00\x00\x00\x00\x00{",
}


@pytest.mark.parametrize(
    ("message", "argv"),
    [
        ("command 'compar' is unknown; did you mean compare?", "compar"),
        ("No such option '--sedes'", "compare --sedes 3"),
        ("0 is not in the range", "compare --seeds 0"),
        ("0 is not in the range", "compare --budget 0"),
        ("'many' is not a valid integer", "compare --seeds many"),
        ("'train' is not one of", "compare --split train"),
        ("task 'digit' is unknown", "compare --task digit"),
        ("use --threat, --eps or --reduce instead", "compare --task digits:eps=.1 --optimizers zo-sgd"),
        ("has no setting 'dims'", "compare --task quadratic:dims=3 --optimizers zo-sgd"),
        ("no network 'resnet99'", "compare --task cifar10:network=resnet99 --optimizers zo-sgd"),
        ("optimizer 'zo-sdg' is unknown and not a folder; did you mean zo-sgd?", "compare --optimizers zo-sdg"),
        ("--optimizers is empty", "compare --optimizers ,"),
        ("more than once", "compare --optimizers zo-sgd,zo-sgd"),
        ("contains no optimizer.safetensors", "compare --optimizers ."),
        ("truncated cannot be read as safetensors", "compare --optimizers truncated"),
        ("notes.txt cannot be read as safetensors", "compare --optimizers notes.txt"),
        ("no trained zo-lstm-no-query is shipped", "compare --optimizers zo-lstm-no-query"),
        ("one step of ZOSGD costs 21; give at least 21", "compare --optimizers zo-sgd --budget 20"),
        ("--problems is 9999; the test split", "compare --optimizers zo-sgd --problems 9999"),
        ("--ids and --problems", "compare --optimizers zo-sgd --problems 2 --ids twice"),
        ("--ids empty contains no ids", "compare --optimizers zo-sgd --ids empty"),
        ("--ids garbage, line 2: 'abc' is not an id", "compare --optimizers zo-sgd --ids garbage"),
        ("--ids float, line 1: '1.5' is not an id", "compare --optimizers zo-sgd --ids float"),
        ("--ids binary is not text", "compare --optimizers zo-sgd --ids binary"),
        ("--ids none cannot be read: No such file", "compare --optimizers zo-sgd --ids none"),
        ("has no image 999999", "compare --optimizers zo-sgd --ids outside"),
        ("999999' is not an id", "compare --optimizers zo-sgd --ids huge"),
        ("names 5 more than once", "compare --optimizers zo-sgd --ids twice"),
        ("cannot write into notes.txt", "compare --optimizers zo-sgd --out notes.txt"),
        ("cannot write into notes.txt/x", "compare --optimizers zo-sgd --out notes.txt/x"),
        ("is not empty and contains no config.json", "compare --optimizers zo-sgd --out ."),
        ("no target network", "compare --optimizers zo-sgd --task mnist"),
        ("quadratic is not an attack on images", "attack --optimizers zo-sgd --task quadratic --out new"),
        ("Missing option '--out'", "attack --optimizers zo-sgd"),
        ("config 'nothing' is unknown", "train nothing --out new"),
        ("Missing argument 'CONFIG'", "train --out new"),
        ("unknown field `stepz`", "train unknown-key.toml --out new"),
        ("Expected `int`, got `str`", "train wrong-type.toml --out new"),
        ("has no setting 'number'", "train unknown-setting.toml --out new"),
        ("task 'quadratik' is unknown", "train unknown-task.toml --out new"),
        ("no.toml: Expected '='", "train no.toml --out new"),
        ("cannot write notes.txt/", "train unknown-task.toml --out notes.txt"),
        ("task 'x' has no target to train", "train-target --task x"),
        ("zo-lstm-no-query is shipped", "tune --optimizers zo-lstm-no-query --out new"),
        ("notes.txt cannot be read as JSON", "tune --out notes.txt"),
        ("it is a folder", "tune --out ."),
        ("cannot write notes.txt/x", "tune --out notes.txt/x"),
    ],
)
def test_what_cannot_work_is_one_line_and_code_2(capsys, tmp_path, monkeypatch, message, argv):
    def asked(*_, **__):
        raise AssertionError("a model was asked")

    monkeypatch.setattr("zoracle.objectives.base.Objective.evaluate", asked)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    run(*argv.split(), code=2)
    told = capsys.readouterr()
    one_line(told.err, message)
    assert told.out == ""
    assert not (tmp_path / "new").exists() or not any((tmp_path / "new").iterdir())


def test_a_learned_optimizer_is_not_tuned(capsys, lstm):
    run("tune", "--optimizers", f"zo-sgd,{lstm}", "--out", "new", code=2)
    one_line(capsys.readouterr().err, "mine has no step size to tune")


def test_warnings_are_one_line_and_nobodys_handler_is_kept(capsys, monkeypatch):
    before = warnings.showwarning

    def warned(*_, **__):
        warnings.warn("careful,\nplease", UserWarning, stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr("zoracle.cli.options.compare", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        run("compare", "--optimizers", "zo-sgd", code=130)
    # click ends the line that the terminal wrote ^C on.
    assert [line for line in capsys.readouterr().err.splitlines() if line] == [
        "zoracle: warning: careful, please",
        "zoracle: interrupted: finished work is saved in --out; run the same command to continue",
    ]
    assert warnings.showwarning is before


def test_labels_are_names_and_last_parts_of_folders(tmp_path):
    for parent in ("a", "b"):
        save_optimizer(tmp_path / parent / "lstm", "zo-lstm", make("zo-lstm"), {})
    asked = "zo-sgd, a/lstm/,b/lstm/optimizer.safetensors"
    assert [label for label, _ in named_optimizers(asked, Use("digits"))] == ["zo-sgd", "lstm", "lstm-2"]
    assert file_names(["my lstm/2"]) == {"my lstm/2": "my-lstm-2"}
    with pytest.raises(InputError):
        read_ids(tmp_path)


def test_help_needs_no_torch():
    code = "import sys; from zoracle.cli.main import main; main(['--help']); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_a_task_takes_settings_behind_its_name(tmp_path):
    run("compare", "--task", "quadratic:dim=7,condition=10", "--optimizers", "zo-sgd", *SMALL, "--out", "own")
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    assert (config["task"]["dim"], config["task"]["condition"]) == (7, 10)
