"""`zoracle attack --target --data`, as a user sees it: what is written, and one line for what cannot work."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from zoracle.cli.main import main
from zoracle.cli.target_options import without_secrets
from zoracle.tasks import task
from zoracle.tasks.datasets import find_data
from zoracle.tasks.source import built_in

MODEL = """
import numpy as np

WEIGHTS = np.random.default_rng(1).standard_normal((64, 10)).astype("float32")
COUNT = []


def classify(x):
    COUNT.append(len(x))
    return np.asarray(x).reshape(len(x), -1) @ WEIGHTS[: np.asarray(x)[0].size]


def square(x):
    return classify(np.asarray(x) ** 2)


def digits(x):
    from zoracle.tasks import task

    made = task("digits")
    COUNT.append(len(x))
    return made.objective(made.ids("test")[:1]).black_box(x)


def fails(x):
    raise OSError("gone\\nfor good")
"""
TARGET = ["--target", "house:classify"]
SHORT = ["--optimizers", "zo-sgd", "--num-directions", "4", "--steps", "5"]


def images(number, shape=(1, 4, 4)):
    return np.random.default_rng(0).random((number, *shape), dtype=np.float32)


@pytest.fixture(autouse=True)
def house(monkeypatch, tmp_path):
    """A working directory with a model and data; a module of this name is imported anew in each test."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("house.py").write_text(MODEL)
    labels = np.array([0, 1, 2, 3])
    np.savez("own.npz", images=images(4), labels=labels, targets=(labels + 1) % 10)
    np.savez("plain.npz", x=images(4), y=labels)
    monkeypatch.delitem(sys.modules, "house", raising=False)
    yield
    monkeypatch.delitem(sys.modules, "house", raising=False)


@pytest.fixture
def plain(monkeypatch):
    """No report: drawing takes longer than everything else."""
    monkeypatch.setitem(sys.modules, "jinja2", None)


def run(*argv, code=0):
    assert main([str(part) for part in argv]) == code


def config(out="run"):
    return json.loads(Path(out, "config.json").read_text())


def adversarial(out="run"):
    with np.load(Path(out, "adversarial-zo-sgd.npz"), allow_pickle=False) as arrays:
        return dict(arrays)


def one_line(err, message):
    assert err.startswith("zoracle: error: "), err
    assert err.count("\n") == 1, err
    assert message in err, err


def test_an_attack_on_ones_own_images_and_model(capsys):
    model = importlib.import_module("house")
    read = model.classify(images(4)).argmax(1)
    read[3] = (read[3] + 1) % 10  # one image that the model gets wrong as it is
    np.savez("plain.npz", x=images(4), y=read)
    model.COUNT.clear()
    keys = ["--images-key", "x", "--labels-key", "y"]
    argv = [
        "attack",
        *TARGET,
        "--data",
        "plain.npz",
        *keys,
        "--threat",
        "linf",
        "--eps",
        ".2",
        "--optimizers",
        "zo-sgd",
    ]
    run(*argv, "--budget", "300", "--out", "run")
    told = capsys.readouterr()
    assert told.err == ""
    assert "Attack on images" in told.out
    found = adversarial()
    assert found["ids"].tolist() == [0, 1, 2, 3]
    assert found["labels"].tolist() == read.tolist()
    assert "1 already misclassified" in told.out
    assert np.array_equal(found["images"], images(4))
    assert np.abs(found["adversarial"][0] - images(4)).max() <= 0.2 + 1e-6
    assert (found["queries"] <= 300).all()
    count = sum(model.COUNT)
    predicted = model.classify(found["adversarial"][0]).argmax(1)
    assert ((predicted != found["labels"]) == found["success"][0]).all()
    assert found["success"][0, :3].any()
    assert found["queries"][0, 3] == 1
    queries = json.loads(Path("run/queries.json").read_text())
    counts = [queries[part]["zo-sgd"] for part in ("optimise", "monitor", "verify")]
    assert count == sum(counts) + queries["pictures"]
    there = config()["task"]
    assert (there["name"], there["target"], there["norm"], there["eps"]) == ("images", "house:classify", "linf", 0.2)


def test_images_that_are_all_misclassified_already(capsys):
    np.savez(
        "own.npz", images=images(2), labels=(importlib.import_module("house").classify(images(2)).argmax(1) + 1) % 10
    )
    run("attack", *TARGET, "--data", "own.npz", *SHORT, "--out", "run")
    assert "2 already misclassified" in capsys.readouterr().out
    assert Path("run/report.html").is_file()


@pytest.mark.filterwarnings("default:.*misclassified before the attack")
def test_a_folder_of_other_data_is_refused(capsys, plain):
    argv = ["attack", *TARGET, "--data", "own.npz", "--targets", "none", *SHORT, "--out", "run"]
    run(*argv)
    run(*argv)
    changed = images(4)
    changed[0, 0, 0, 0] = 0.25
    np.savez("own.npz", images=changed, labels=np.arange(4))
    capsys.readouterr()
    run(*argv, code=2)
    one_line(capsys.readouterr().err, "run holds a run with another config")


def test_the_same_numbers_through_a_target_as_of_the_task(capsys, plain):
    common = ["--problems", "3", "--optimizers", "zo-sgd", "--threat", "linf", "--steps", "20"]
    run("attack", "--task", "digits", *common, "--out", "built-in")
    run("attack", "--target", "house:digits", "--data", "digits", *common, "--out", "run")
    ours, theirs = adversarial(), adversarial("built-in")
    for name, array in theirs.items():
        assert np.array_equal(ours[name], array), name
    assert config()["task"]["eps"] == task("digits").radii["linf"]


@pytest.mark.filterwarnings("default:.*misclassified before the attack")
def test_targets(capsys, plain):
    argv = ["attack", *TARGET, "--data", "own.npz", *SHORT]
    run(*argv, "--out", "column")
    run(*argv, "--targets", "column", "--out", "column")
    run(*argv, "--targets", "none", "--out", "none")
    capsys.readouterr()
    run(*argv, "--targets", "2", "--out", "two")
    assert "skipped 1 images that are already of class 2" in capsys.readouterr().out
    assert adversarial("two")["ids"].tolist() == [0, 1, 3]
    hashes = [config(out)["task"]["targets_sha256"] for out in ("column", "none", "two")]
    assert hashes[1] is None
    assert len(set(hashes)) == 3


def test_targets_of_a_built_in_data_set_leave_its_splits(capsys, plain):
    argv = ["--target", "house:digits", "--data", "digits", "--targets", "7", *SHORT, "--problems", "2"]
    for split in ("valid", "test"):
        run("compare", *argv, "--split", split, "--seeds", "1", "--out", split)
        ids = config(split)["ids"]
        made = task("digits")
        labels = made.pick(made.ids(split)).labels
        kept = [i for i, label in zip(made.ids(split), labels.tolist(), strict=True) if label != 7]
        assert ids == kept[:2]


def test_a_folder_of_pictures(capsys, plain):
    pillow = pytest.importorskip("PIL.Image")
    Path("shots").mkdir()
    for i, pixels in enumerate(images(3, (9, 5))):
        pillow.fromarray((255 * pixels).astype(np.uint8)).save(f"shots/{i}.png")
    Path("list.csv").write_text("file,label\n2.png,owl\n0.png,bee\n")
    argv = [*TARGET, "--data", "shots", "--labels", "list.csv", "--resize", "4X4", "--channels", "3", *SHORT]
    run("compare", *argv, code=2)
    told = capsys.readouterr()
    assert "classes are numbered as their names sort: 0 bee, 1 owl" in told.out
    assert "pictures in shots that no row of the labels names, left out: 1" in told.out
    one_line(told.err, "the model returned 10 classes; expected 2")
    Path("classes.txt").write_text("\n".join(["owl", *"abcdefgh", "bee"]))
    run("attack", *argv, "--classes", "classes.txt", "--out", "run")
    assert adversarial()["labels"].tolist() == [0, 9]
    assert adversarial()["images"].shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("message", "argv"),
    [
        ("--target was given without --data", "--target house:classify"),
        ("--data was given without --target", "--data own.npz"),
        ("--task digits was given with --target and --data", "--task digits --target house:classify --data own.npz"),
        ("--labels was given without --target and --data", "--labels x.csv"),
        ("--images-key was given without --target and --data", "--images-key x"),
        ("--input-layout was given without --target and --data", "--input-layout NHWC"),
        ("--mean was given without --target", "--mean 0 --std 1"),
        ("one of --mean and --std", "{both} --mean 0"),
        ("--std is '1,a'", "{both} --mean 0 --std 1,a"),
        ("--top-k is 'a'; expected the names of two outputs", "{both} --top-k a"),
        ("there is no module nowhere", "--target nowhere:fn --data own.npz"),
        ("house has no other", "--target house:other --data own.npz"),
        ("--data 'none.npz' does not exist; expected a folder, an .npz file, or", "{target} --data none.npz"),
        ("--data '' does not exist", "{target} --data="),
        ("house.py cannot be read", "{target} --data house.py"),
        ("plain.npz has no array 'images'; it has x, y", "{target} --data plain.npz"),
        ("task quadratic has no images", "{target} --data quadratic"),
        ("--labels was given with --data digits", "{target} --data digits --labels x"),
        ("--threat linf was given without --eps", "{both} --threat linf"),
        ("--eps 0.1 was given without a ball", "{both} --eps .1"),
        ("there are no images for the valid split", "{both} --split valid"),
        ("--tune needs validation images", "{both} --tune"),
        ("expected 1 for a server, use --concurrency", "--target http://x/v2/models/m --data own.npz --workers 2"),
        ("reduce is 'tile'", "{both} --reduce tile"),
        ("option timeout goes with OpenInference", "{both} --timeout 3"),
        ("preprocess has 2 channels", "{both} --mean 0,0 --std 1,1"),
        ("model.onnx does not exist", "--target model.onnx --data own.npz"),
        ("would have to be unpickled", "--target model.pt --data own.npz"),
        ("contains a user or password", "--target http://me:secret@host/v2/models/m --data own.npz"),
        ("labels was given, but own.npz is not a folder", "{both} --labels house.py"),
        ("--resize is '0x4'; expected HxW", "{target} --data . --resize 0x4"),
        ("--resize is '4'; expected HxW", "{target} --data . --resize 4"),
        ("'2' is not one of '1', '3'", "{target} --data . --channels 2"),
        (". has no labels.csv, and no subfolders of pictures", "{target} --data ."),
        ("--targets: class -1 is out of range", "{both} --targets -1"),
        ("--targets: 'cat' is not a class", "{both} --targets cat"),
        (
            "--targets is column, but the data have no target classes",
            "{target} --data plain.npz {keys} --targets column",
        ),
        ("the test split of images has 4", "{both} --problems 5"),
        ("task images has no image 4", "{both} --ids ids"),
    ],
)
def test_what_cannot_work_is_one_line_and_code_2(capsys, monkeypatch, message, argv):
    def asked(*_, **__):
        raise AssertionError("a model was asked")

    monkeypatch.setattr("zoracle.objectives.base.Objective.evaluate", asked)
    Path("ids").write_text("4\n")
    keys = "--images-key x --labels-key y"
    target = " ".join(TARGET)
    given = argv.format(both=f"{target} --data own.npz", target=target, keys=keys).split()
    run("attack", "--optimizers", "zo-sgd", *given, "--out", "new", code=2)
    told = capsys.readouterr()
    one_line(told.err, message)
    assert not Path("new").exists()


def test_a_target_that_fails_is_one_line(capsys):
    run("attack", "--target", "house:fails", "--data", "own.npz", *SHORT, "--out", "run", code=2)
    one_line(capsys.readouterr().err, "the model raised OSError: gone when given")


def test_options_of_a_target_reach_it(capsys, plain):
    Path("scaled.py").write_text(
        "import numpy as np\nimport house\n\n\ndef classify(x):\n"
        "    assert x.shape[1:] == (4, 4, 1)\n"
        "    return house.square(np.moveaxis(x, 3, 1) / 255 * 2 + 0.25)\n"
    )
    model = importlib.import_module("house")
    np.savez("own.npz", images=images(4), labels=model.square(images(4)).argmax(1))
    argv = ["attack", "--data", "own.npz", *SHORT, "--dtype", "float64"]
    given = ["--input-layout", "NHWC", "--pixel-max", "255", "--mean", "63.75", "--std", "2"]
    run(*argv, "--target", "house:square", "--out", "plain")
    run(*argv, "--target", "scaled:classify", *given, "--outputs", "logits", "--out", "run")
    moved = adversarial("plain")["adversarial"] - images(4)
    assert np.allclose(adversarial()["adversarial"] - images(4), moved, atol=1e-3 * np.abs(moved).max())
    there = config()["task"]
    told = '{"layout": "NHWC", "outputs": "logits", "pixel_max": 255.0, "preprocess": [63.75, 2.0]}'
    assert there["target"] == f"scaled:classify {told}"
    assert there["outputs"] == "logits"


def test_labels_that_the_target_does_not_have_are_told_at_its_first_answer(capsys):
    np.savez("own.npz", images=images(2), labels=[0, 10])
    run("attack", *TARGET, "--data", "own.npz", *SHORT, "--out", "run", code=2)
    one_line(capsys.readouterr().err, "label 10 of image 1 is out of range; expected 0 .. 9")


def test_no_secret_of_an_address_is_written_down():
    assert (
        without_secrets("https://me:secret@host:8000/v2/models/m?key=secret#secret") == "https://host:8000/v2/models/m"
    )
    assert without_secrets("house:classify") == "house:classify"
    assert without_secrets("http://[secret") == "http://"


def test_mnist_without_a_target_network_is_its_test_set(monkeypatch):
    read = {"t10k": (torch.arange(3 * 784, dtype=torch.uint8).view(3, 1, 28, 28), torch.tensor([7, 2, 1]))}
    monkeypatch.setattr("zoracle.tasks.source.read_mnist", read.__getitem__)
    monkeypatch.setattr("zoracle.tasks.mnist.find_data", lambda _: None)
    source = built_in("mnist")
    assert torch.equal(source.data.images, read["t10k"][0])
    assert (list(source.splits["test"]), source.problems, source.radii["linf"]) == ([0, 1, 2], 100, 0.3)
    assert len(source.notes) == 1


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
def test_built_in_images_are_those_of_their_task(name):
    needed = {"mnist": "mnist/paper_split.json", "cifar10": "cifar10/resnet20.safetensors"}
    if name in needed and find_data(needed[name]) is None:
        pytest.skip(f"ZORACLE_DATA names no folder with {needed[name]}")
    made, source = task(name), built_in(name)
    for split in ("train", "valid", "test"):
        assert source.splits[split] == made.ids(split)
    ids = made.ids("test")[:2]
    rows = [source.data.ids.index(i) for i in ids]
    assert torch.equal(source.data.images[rows].float() / source.white, made.pictures(ids).images)
    assert (source.class_names, source.problems) == (made.class_names, 100)
