"""Options of `zoracle attack`: pictures of 8 bits, seeds, weights, confidence, asking again, workers of one's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from zoracle.cli.main import main

MODEL = """
import numpy as np

WEIGHTS = np.random.default_rng(1).standard_normal((48, 5)).astype("float32")
COUNT = []


def classify(x):
    COUNT.append(len(x))
    return np.asarray(x).reshape(len(x), -1) @ WEIGHTS


def label(x):
    return classify(x).argmax(1)


def nervous(x):
    "What another answer every time: whoever is near a border is on either side."
    scores = classify(x)
    return scores + 2 * np.random.default_rng(len(COUNT)).standard_normal(scores.shape).astype("float32")
"""


@pytest.fixture(autouse=True)
def house(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "jinja2", None)  # no report: drawing takes longer than everything else
    Path("house.py").write_text(MODEL)
    monkeypatch.delitem(sys.modules, "house", raising=False)
    import house

    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 4, 4), dtype=np.uint8)
    labels = house.classify(pixels / np.float32(255)).argmax(1)
    house.COUNT.clear()
    np.savez("bytes.npz", images=pixels, labels=labels)
    np.savez("floats.npz", images=pixels / np.float32(255) * np.float32(0.999), labels=labels)
    yield house
    monkeypatch.delitem(sys.modules, "house", raising=False)


def run(*argv, code=0):
    assert main(["attack", "--target", "house:classify", *map(str, argv)]) == code


def arrays(out, label):
    with np.load(f"{out}/adversarial-{label}.npz", allow_pickle=False) as found:
        return dict(found)


BOTH = ["--data", "bytes.npz"]


@pytest.mark.parametrize(
    ("threat", "radius"), [(("linf", ".06"), ("linf", 0.06)), (("l2", ".4"), ("l2", 0.4)), (("minimise",), None)]
)
def test_what_is_broken_with_8_bits_is_broken_as_the_saved_picture(house, threat, radius):
    ball = ["--threat", threat[0], *(["--eps", threat[1]] if radius else []), "--num-directions", "5"]
    run(
        *BOTH,
        *ball,
        "--bits",
        "8",
        "--budget",
        "120",
        "--optimizers",
        "zo-sgd:mu=.03,lr=.05,num_directions=5",
        "--out",
        "run",
    )
    found = arrays("run", "zo-sgd-mu-.03-lr-.05-num_directions-5")
    assert found["adversarial"].dtype == found["images"].dtype == np.uint8
    read = house.classify(found["adversarial"][0] / np.float32(255)).argmax(1)
    success = found["success"][0]
    assert success.sum() > 0, "or the test would show nothing"
    assert ((read != found["labels"]) == success).all()
    assert (found["verified"][0] == success).all()
    assert (found["images"] == np.load("bytes.npz")["images"]).all()
    change = (found["adversarial"][0].astype(float) - found["images"]).reshape(8, -1) / 255
    if radius:
        size = np.abs(change).max(1) if radius[0] == "linf" else np.linalg.norm(change, axis=1)
        assert (size <= radius[1] + 1e-5).all()
        assert size[success].max() > 0.5 * radius[1]
    assert json.loads(Path("run/config.json").read_text())["task"]["bits"] == 8


def test_bits_that_cannot_be_are_refused_before_the_first_query(house, capsys):
    run("--data", "floats.npz", "--bits", "8", "--out", "run", code=2)
    assert "image 0 is not a picture of 8 bits" in capsys.readouterr().err
    run(*BOTH, "--bits", "8", "--threat", "linf", "--eps", ".003", "--out", "run", code=2)
    assert "a picture of 8 bits changes by 1/255 = 0.003922 at least" in capsys.readouterr().err
    run(*BOTH, "--c", "1", "--threat", "linf", "--eps", ".1", "--out", "run", code=2)
    assert "--c 1 was given with a ball" in capsys.readouterr().err
    assert sum(house.COUNT) == 0


def test_seed_c_and_confidence_reach_the_run():
    short = ["--optimizers", "zo-sgd:lr=.05", "--num-directions", "4", "--steps", "3"]
    run(*BOTH, *short, "--seeds", "2", "--seed", "7", "--c", ".5", "--confidence", "1.5", "--out", "run")
    config = json.loads(Path("run/config.json").read_text())
    assert config["seeds"] == [7, 8]
    assert (config["task"]["c"], config["task"]["confidence"]) == (0.5, 1.5)
    found = arrays("run", "zo-sgd-lr-.05")
    assert found["seeds"].tolist() == [7, 8]
    run(*BOTH, *short, "--seed", "8", "--c", ".5", "--confidence", "1.5", "--out", "one")
    assert (arrays("one", "zo-sgd-lr-.05")["adversarial"][0] == found["adversarial"][1]).all()
    main(["attack", "--resume", "--out", "one"])


def test_successes_are_asked_about_once_more_and_a_nervous_target_is_told(house, capsys):
    argv = [*BOTH, "--threat", "linf", "--eps", ".04", "--budget", "60", "--optimizers", "square"]
    run(*argv, "--out", "calm")
    assert "queried again" not in capsys.readouterr().out
    found, queries = arrays("calm", "square"), json.loads(Path("calm/queries.json").read_text())
    broken = found["success"] & ~found["misclassified"]
    assert (found["verified"] == broken).all()
    assert queries["verify"]["square"] == broken.sum() > 0
    assert sum(house.COUNT) == queries["optimise"]["square"] + queries["monitor"]["square"] + broken.sum()
    before = sum(house.COUNT)
    run("--resume", "--out", "calm")
    assert sum(house.COUNT) == before, "it is kept"
    assert main(["attack", "--target", "house:nervous", *argv, "--out", "nervous"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    again = arrays("nervous", "square")
    failed = int((again["success"] & ~again["misclassified"] & ~again["verified"]).sum())
    assert failed > 0
    assert f"square: {failed} of" in told
    assert "does not give the same answer twice" in told
    house.COUNT.clear()
    run(*argv, "--no-verify", "--out", "without")
    assert "verify" not in json.loads(Path("without/queries.json").read_text())
    assert sum(house.COUNT) == before - broken.sum()


def test_a_target_that_tells_labels_only_is_attacked_by_them(house, capsys):
    argv = [*BOTH, "--threat", "linf", "--eps", ".12", "--budget", "250"]
    assert main(["attack", "--target", "house:label", *argv, "--out", "refused"]) == 2
    assert "(--labels-only)" in capsys.readouterr().err
    house.COUNT.clear()
    assert main(["attack", "--target", "house:label", "--labels-only", *argv, "--bits", "8", "--out", "run"]) == 0
    told = capsys.readouterr().out
    found = arrays("run", "rays")
    success = found["success"][0]
    assert success.sum() > 0
    assert f"{success.sum()} of 8 images broken by rays" in told
    read = house.classify(found["adversarial"][0] / np.float32(255)).argmax(1)
    assert (read != found["labels"])[success].all()
    change = np.abs(found["adversarial"][0].astype(int) - found["images"]).reshape(8, -1).max(1)
    assert (change[success] <= 0.12 * 255).all()
    queries = json.loads(Path("run/queries.json").read_text())
    house.COUNT.pop()
    assert sum(house.COUNT) == sum(queries[part]["rays"] for part in ("optimise", "monitor", "verify"))
    assert json.loads(Path("run/config.json").read_text())["task"]["outputs"] == "labels"
    assert main(["attack", "--target", "house:classify", "--labels-only", *argv, "--bits", "8", "--out", "scores"]) == 0
    assert (arrays("scores", "rays")["adversarial"] == found["adversarial"]).all(), "of scores only the label is used"


@pytest.mark.slow
def test_workers_share_ones_own_target():
    argv = [*BOTH, "--threat", "l2", "--eps", ".4", "--budget", "90"]
    run(*argv, "--out", "alone")
    run(*argv, "--workers", "2", "--out", "shared")
    for name in ("zo-lstm", "square", "simba", "worst-case"):
        alone, shared = arrays("alone", name), arrays("shared", name)
        assert (alone["success"] == shared["success"]).all(), name
        assert (alone["queries"] == shared["queries"]).all(), name
        assert np.allclose(alone["adversarial"], shared["adversarial"], atol=1e-6), name
