"""`zoracle minimize`, `python -m zoracle`, and what the command line says of options."""

from __future__ import annotations

import json
import runpy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from zoracle.cli.main import main
from zoracle.errors import InputError
from zoracle.optimizers.spelling import named_optimizer, split_list

BOWL = """
import numpy as np

calls = []

def bowl(x):
    calls.append(x.shape)
    return float(((x - 0.3) ** 2).sum())

def many(x):
    return ((x - 0.3) ** 2).sum(1)

def odd(x):
    if x[0] > 0.9995:
        raise RuntimeError("stuck")
    return bowl(x)
"""


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    Path("bowls_of_mine.py").write_text(BOWL)


def run(*argv, code=0):
    assert main([str(part) for part in argv]) == code


ADAM = ["--budget", 400, "--optimizer", "zo-adam:lr=.05,num_directions=4"]


def test_a_function_of_a_file_is_minimised(capsys):
    run("minimize", "bowls_of_mine.py:bowl", "--dim", 5, *ADAM, "--out", "found.json")
    told = capsys.readouterr()
    assert told.err == ""
    assert "budget spent" in told.out
    assert max(map(len, told.out.splitlines())) <= 80
    found = json.loads(Path("found.json").read_text())
    assert found["queries"] == 400
    assert found["reason"] == "budget"
    assert np.allclose(found["x"], 0.3, atol=0.05)
    run("minimize", "bowls_of_mine.py:many", "--vectorized", "--dim", 5, *ADAM, "--out", "many.json")
    assert json.loads(Path("many.json").read_text())["x"] == found["x"]


def test_start_bounds_and_scale_come_from_files(capsys):
    np.save("start.npy", np.array([1.0, 2.0, 1.0]))
    np.save("low.npy", np.array([0.5, -9.0, -9.0]))
    argv = ["--start", "start.npy", "--low", "low.npy", "--high", 2, "--target", 0.06, "--out", "found.json"]
    run("minimize", "bowls_of_mine.py:bowl", *argv, *ADAM)
    found = json.loads(Path("found.json").read_text())
    assert found["reason"] == "target"
    assert found["x"][0] >= 0.5


@pytest.mark.parametrize(
    ("message", "argv"),
    [
        ("--dim is missing", "bowls_of_mine.py:bowl --budget 100"),
        ("--start is 'x'; expected a number", "bowls_of_mine.py:bowl --budget 100 --dim 3 --start x"),
        ("--start no.npy cannot be read", "bowls_of_mine.py:bowl --budget 100 --dim 3 --start no.npy"),
        ("has no bowls", "bowls_of_mine.py:bowls --budget 100 --dim 3"),
        (
            "has no setting 'lrr'; did you mean lr?",
            "bowls_of_mine.py:bowl --budget 50 --dim 3 --optimizer zo-sgd:lrr=1",
        ),
        ("'lr=' in 'zo-sgd:lr=' is not a setting", "bowls_of_mine.py:bowl --budget 100 --dim 3 --optimizer zo-sgd:lr="),
        ("--budget is 3 queries", "bowls_of_mine.py:bowl --budget 3 --dim 3 --optimizer zo-sgd"),
        ("--scale is -1.0; expected", "bowls_of_mine.py:bowl --budget 100 --dim 3 --scale -1"),
        ("RuntimeError: stuck", "bowls_of_mine.py:odd --budget 100 --dim 3 --start 1 --optimizer zo-sgd"),
    ],
)
def test_what_cannot_work_is_one_line(capsys, message, argv):
    run("minimize", *argv.split(), code=2)
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_settings_behind_a_name():
    assert named_optimizer("zo-adam:lr=.02, mu=2e-2,num_directions=5") == (
        "zo-adam",
        {"lr": 0.02, "mu": 0.02, "num_directions": 5},
    )
    assert named_optimizer("mine.py:Mine") == ("mine.py:Mine", {})
    assert named_optimizer("mine.py:Mine:on=true,kind=ball") == ("mine.py:Mine", {"on": True, "kind": "ball"})
    with pytest.raises(InputError, match="sets lr twice"):
        named_optimizer("zo-adam:lr=1,lr=2")


def test_python_dash_m(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["zoracle", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("zoracle", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("zoracle, version ")


def test_a_radius_beyond_the_pixels_is_refused(capsys):
    run("attack", "--threat", "linf", "--eps", 25.5, "--problems", 2, "--out", "run", code=2)
    assert "--eps is 25.5, and pixels lie in [0, 1]; expected at most 1: 25.5 of 255 is 0.1" in capsys.readouterr().err


def test_most_images_misclassified_is_warned_of(capsys):
    np.savez("own.npz", images=np.full((6, 4, 4), 0.5), labels=np.array([1, 1, 1, 1, 1, 0]))
    Path("model_of_mine.py").write_text(
        "import numpy as np\n\ndef one(x):\n    return np.tile([2.0, 1.0], (len(x), 1))\n"
    )
    argv = ["--target", "model_of_mine.py:one", "--data", "own.npz", "--optimizers", "zo-sgd", "--budget", 45]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        run("attack", *argv, "--out", "run")
    assert "warning: 5 of 6 images are misclassified before the attack; check the order" in capsys.readouterr().err


def test_versions_name_the_packages_that_are_loaded():
    from zoracle.storage.fingerprint import versions

    cma = pytest.importorskip("cma", reason="pycma is not installed (extra baselines)")
    assert versions()["cma"] == cma.__version__
    told = versions()
    assert set(told) >= {"zoracle", "torch", "numpy"}
    assert set(told) <= {"zoracle", "python", "torch", "numpy", "platform", *sys.modules}


def test_settings_in_a_list_of_optimizers(capsys):
    assert split_list("zo-sgd, zo-adam:lr=.02,mu=.02,nes") == ["zo-sgd", "zo-adam:lr=.02,mu=.02", "nes"]
    assert split_list("zo-adam:lr=1,zo-adam:lr=2") == ["zo-adam:lr=1", "zo-adam:lr=2"]
    argv = ["--task", "quadratic", "--problems", 2, "--steps", 3, "--seeds", 1, "--out", "run"]
    run("compare", "--optimizers", "zo-adam:lr=.02,mu=.003,zo-sgd", *argv)
    chosen = {one["label"]: one["settings"] for one in json.loads(Path("run/config.json").read_text())["optimizers"]}
    assert set(chosen) == {"zo-adam:lr=.02,mu=.003", "zo-sgd"}
    assert (chosen["zo-adam:lr=.02,mu=.003"]["lr"], chosen["zo-adam:lr=.02,mu=.003"]["mu"]) == (0.02, 0.003)


def test_without_a_name_it_is_what_python_takes_and_says_how_noisy_the_function_is(capsys):
    Path("noisy_of_mine.py").write_text(
        "import numpy as np\n\nrng = np.random.default_rng(0)\n\n\n"
        "def f(x):\n    return ((x - 0.3) ** 2).sum(1) + 0.05 * rng.standard_normal(len(x))\n"
    )
    run("minimize", "noisy_of_mine.py:f", "--dim", 10, "--budget", 1000, "--vectorized", "--out", "found.json")
    capsys.readouterr()
    found = json.loads(Path("found.json").read_text())
    assert 0.02 < found["noise"] < 0.12
    assert found["mu"] > 0.01
    assert found["signal_to_noise"] > 3
    assert found["chosen"] in ("last", "repeated")
    assert np.square(np.asarray(found["x"]) - 0.3).sum() < 0.05


def test_one_point_a_call_is_told_how_a_batch_is_asked_for(capsys):
    run("minimize", "bowls_of_mine.py:many", "--dim", 5, "--budget", 100, "--start", "0.5", code=2)
    assert "Traceback" not in capsys.readouterr().err
    Path("same_of_mine.py").write_text("def f(x):\n    return x\n")
    run("minimize", "same_of_mine.py:f", "--dim", 5, "--budget", 100, code=2)
    assert "--vectorized" in capsys.readouterr().err
