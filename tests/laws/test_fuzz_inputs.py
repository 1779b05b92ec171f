"""Whatever is given works or is refused in one line: images, labels, settings, archives, folders, tables, options."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import zoracle
from zoracle.cli.main import main
from zoracle.errors import InputError
from zoracle.images import read_labelled

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as st  # noqa: E402

#: ZORACLE_FUZZ sets how many examples each test draws; they are the same in every run.
EXAMPLES = int(os.environ.get("ZORACLE_FUZZ", "40"))
fuzzed = hypothesis.settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


def refused_in_one_line(call, *args, **kwargs):
    """What a call gives, or None where it is refused by one line."""
    said = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return call(*args, **kwargs)
    except InputError as error:
        said = str(error)
    assert said, "an error says something"
    assert "\n" not in said
    return None


# --- zoracle.attack -----------------------------------------------------------------------------------------------

PIXELS = np.linspace(0.0, 1.0, 24)
SHAPES = [(2, 1, 3, 4), (2, 3, 4), (2, 12), (24,), (1, 24), (2, 0, 3), (0, 3), (), (2, 2, 2, 3, 1)]
DTYPES = ["float32", "float64", "float16", "uint8", "int64", "bool", "complex64", "U3", "object", ">f4", "longdouble"]
ODD = [None, "", "a", b"a", [], {}, [[]], [[0.5], [0.5, 0.5]], object(), 0, 0.5, np.nan, torch.zeros(2, 3).to_sparse()]


@st.composite
def arrays(draw, shapes=SHAPES):
    """Arrays, tensors and lists of all kinds, of pixels and of what is none."""
    shape = draw(st.sampled_from(shapes))
    values = np.resize(PIXELS, shape)
    factor = draw(st.sampled_from([1, 1, 1, 255, -1, np.nan, np.inf, 1e300]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of casts that make no sense
        values = np.asarray(values * factor)
        values = values.astype(draw(st.sampled_from(DTYPES)))
    form = draw(st.sampled_from(["array", "tensor", "list", "reversed"]))
    if form == "reversed" and values.ndim:
        return values[::-1]
    if form == "list":
        return values.tolist()
    if form == "tensor" and values.dtype.kind in "fuibc" and values.dtype.isnative and values.dtype.itemsize <= 8:
        return torch.from_numpy(values.copy())
    return values


images = st.one_of(arrays(), st.sampled_from(ODD), st.just(PIXELS.reshape(2, 1, 3, 4)))
labels = st.one_of(
    st.lists(st.integers(-2, 5), max_size=3),
    st.sampled_from([[0, 1], [1, 0], np.array([0, 1], np.uint8), np.array([0, 1], ">i4"), torch.tensor([1, 0])]),
    st.sampled_from([[0.0, 1.0], [True, False], ["0", "1"], [[0], [1]], 0, [2**63, 0], [0, 2**70], *ODD]),
    arrays(),
)
numbers = st.sampled_from([0, 1, -1, 0.5, np.nan, np.inf, -0.1, "a", None, [], "1", True, 10**30, np.float32(0.5)])
SETTINGS = {
    "c": numbers,
    "confidence": numbers,
    "eps": numbers,
    "start_std": numbers,
    "seed": numbers,
    "chunk": numbers,
    "budget": numbers,
    "norm": st.sampled_from(["l1", "l2", "linf", "l3", None, 2, []]),
    "outputs": st.sampled_from(["logits", "probabilities", "log-probabilities", "labels", None, 1, []]),
    "reduce": st.sampled_from(
        ["tile:2", "tile:1x2", "tile:0", "tile:", "tile:9", "bilinear:2", "bilinear:x", "", 2, None]
    ),
    "framework": st.sampled_from(["auto", "numpy", "torch", "jax", None, 1]),
    "targets": labels,
    "ids": labels,
    "optimizer": st.sampled_from(["zo-sgd", "", "zo", None, 1, Path("none"), "\0"]),
    "lr": numbers,
    "mu": numbers,
    "num_directions": numbers,
}


def classify(x):
    return torch.stack([x.flatten(1).mean(1), 1 - x.flatten(1).mean(1), x.flatten(1).amax(1)], 1)


@fuzzed
@hypothesis.given(images, labels, st.sets(st.sampled_from(sorted(SETTINGS)), max_size=2), st.data())
def test_attack_works_or_says_in_one_line_what_is_wrong(given, true, names, data):
    settings = {"optimizer": "zo-sgd", "budget": 4, "num_directions": 2, "framework": "torch"}
    settings |= {name: data.draw(SETTINGS[name], name) for name in sorted(names)}
    found = refused_in_one_line(zoracle.attack, classify, given, true, **settings)
    if found is not None:
        assert found.adversarial.isfinite().all()
        assert (found.queries <= settings["budget"]).all()


@pytest.mark.parametrize("name", sorted(SETTINGS))
@fuzzed
@hypothesis.given(data=st.data())
def test_each_setting_of_attack(name, data):
    settings = {"optimizer": "zo-sgd", "budget": 4, "num_directions": 2, "framework": "torch"}
    settings[name] = data.draw(SETTINGS[name], name)
    given = torch.from_numpy(PIXELS.reshape(2, 1, 3, 4))
    refused_in_one_line(zoracle.attack, classify, given, [0, 1], **settings)


ANSWERS = st.one_of(
    arrays([(4, 3), (4, 3), (4, 2), (4, 1), (4, 0), (4,), (4, 3, 1), (3, 4), (1, 4, 3), ()]),
    st.sampled_from([*ODD, torch.zeros(4, 3).to_sparse(), torch.zeros(4, 3, device="meta"), [[1, 2, 3]] * 4]),
)


@fuzzed
@hypothesis.given(ANSWERS, st.sampled_from(["logits", "probabilities", "log-probabilities"]))
def test_whatever_the_model_answers(answer, outputs):
    given = torch.from_numpy(PIXELS.reshape(2, 1, 3, 4))  # two images, two points each: four inputs
    settings = {"optimizer": "zo-sgd", "budget": 2, "num_directions": 1, "outputs": outputs, "framework": "torch"}
    refused_in_one_line(zoracle.attack, lambda _: answer, given, [0, 1], **settings)


# --- files --------------------------------------------------------------------------------------------------------


def archive(**contents):
    buffer = io.BytesIO()
    np.savez(buffer, **contents)
    return buffer.getvalue()


WHOLE = archive(images=(255 * PIXELS).astype(np.uint8).reshape(2, 3, 4), labels=np.array([0, 1]))


@st.composite
def damaged(draw, whole):
    """Bytes with some of them changed, cut off, put in or doubled."""
    content = bytearray(draw(whole) if isinstance(whole, st.SearchStrategy) else whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "drop", "double"]))
        if kind == "flip" and content:
            content[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[at:]
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=8))
        elif kind == "drop":
            del content[at : at + draw(st.integers(1, 16))]
        else:
            content[at:at] = content[at : at + 64]
    return bytes(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def usable(found):
    """Whatever is read is whole: images of one shape in range, a label and a target for each."""
    if found is None:
        return
    number = len(found.images)
    assert found.images.ndim == 4
    assert found.images.dtype is torch.uint8 or (found.images.isfinite().all() and found.images.max() <= 1)
    for classes in (found.labels, found.targets):
        assert classes is None or (classes.shape == (number,) and bool((classes >= 0).all()))
        assert classes is None or not found.class_names or int(classes.max()) < len(found.class_names)


@fuzzed
@hypothesis.given(content=st.one_of(damaged(WHOLE), st.binary(max_size=200)))
def test_damaged_archives(folder, content):
    (folder / "a.npz").write_bytes(content)
    usable(refused_in_one_line(read_labelled, folder / "a.npz"))


@fuzzed
@hypothesis.given(images, labels, st.one_of(st.none(), labels), st.sampled_from([None, "NCHW", "NHWC"]))
def test_archives_of_all_kinds_of_arrays(folder, given, true, targets, layout):
    contents = {"images": given, "labels": true, "targets": targets}
    try:
        content = archive(**{name: value for name, value in contents.items() if value is not None})
    except (TypeError, ValueError, AttributeError):  # NumPy itself writes no such thing
        hypothesis.reject()
    (folder / "a.npz").write_bytes(content)
    usable(refused_in_one_line(read_labelled, folder / "a.npz", layout=layout))


PICTURES = {
    "grey.png": ("L", "PNG"),
    "colour.png": ("RGB", "PNG"),
    "photo.jpg": ("RGB", "JPEG"),
    "old.bmp": ("RGB", "BMP"),
    "palette.gif": ("P", "GIF"),
    "scan.tif": ("L", "TIFF"),
}


@pytest.fixture(scope="module")
def pictures(folder):
    pillow = pytest.importorskip("PIL.Image")
    there = folder / "pictures"
    there.mkdir()
    for name, (mode, kind) in PICTURES.items():
        pixels = np.resize(255 * PIXELS, (5, 4, 3)).astype(np.uint8)
        pillow.fromarray(pixels).convert(mode).save(there / name, kind)
    return there


@fuzzed
@hypothesis.given(name=st.sampled_from(sorted(PICTURES)), data=st.data())
def test_damaged_pictures(pictures, name, data):
    content = data.draw(damaged((pictures / name).read_bytes()))
    (pictures / "damaged.png").write_bytes(content)
    (pictures / "labels.csv").write_text("damaged.png,0\n")
    size, channels = data.draw(st.sampled_from([(None, None), ((3, 3), 1), (None, 3)]))
    usable(refused_in_one_line(read_labelled, pictures, size=size, channels=channels))
    (pictures / "damaged.png").unlink()


CELLS = st.one_of(
    st.sampled_from([*PICTURES, "file", "label", "target", "class", "0", "1", "-1", "cat", "", " ", '"', "..", "/"]),
    st.text(max_size=6),
)
TABLES = st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=5).map("\n".join)


@fuzzed
@hypothesis.given(
    table=st.one_of(TABLES.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=60)),
    classes=st.one_of(st.none(), st.lists(CELLS, max_size=4).map("\n".join)),
)
def test_tables_of_all_kinds(pictures, table, classes):
    (pictures / "labels.csv").write_bytes(table)
    file = None
    if classes is not None:
        file = pictures / "classes.txt"
        file.write_bytes(classes.encode("utf-8", "surrogatepass"))
    usable(refused_in_one_line(read_labelled, pictures, classes=file, channels=3))


# --- the command line ---------------------------------------------------------------------------------------------

WORDS = st.one_of(
    st.sampled_from(
        ["digits", "quadratic", ".", "a.npz", "none", "fuzzed:classify", "fuzzed:", ":", "json:dumps", "fuzzed:NUMBER"]
    ),
    st.sampled_from(
        ["http://", "https://[", "http://u:p@host", "model.onnx", "torch:json:dumps", "0", "-1", "1e9", ""]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8),
)
_OPTIONS = """
    target data labels classes images-key labels-key targets-key data-layout resize channels targets outputs mean std
    input-layout pixel-max input-name output-name top-k num-classes device timeout attempts concurrency threat eps split
    ids problems steps budget reduce
"""
OPTIONS = st.sampled_from([f"--{name}" for name in _OPTIONS.split()])


@fuzzed
@hypothesis.given(base=st.booleans(), options=st.dictionaries(OPTIONS, WORDS, max_size=4))
def test_options_of_all_kinds(folder, base, options):
    where = folder / "house"
    where.mkdir(exist_ok=True)
    (where / "fuzzed.py").write_text("NUMBER = 3\n\n\ndef classify(x):\n    return x.reshape(len(x), -1)[:, :3]\n")
    (where / "a.npz").write_bytes(WHOLE)
    asked = {"--target": "fuzzed:classify", "--data": "a.npz"} if base else {}
    argv = [part for option in (asked | options).items() for part in option]
    short = ["--optimizers", "zo-sgd", "--num-directions", "1", "--seeds", "1"]
    if "--steps" not in options and "--budget" not in options:
        short += ["--steps", "2"]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.chdir(where)
        said = []
        patch.setattr("zoracle.cli.main.say", lambda kind, message: said.append((kind, " ".join(message.split()))))
        code = main(["compare", *short, *argv])
    assert code in (0, 2)
    assert [kind for kind, _ in said if kind == "error"] == ["error"] * (code == 2), (argv, said)
    assert all(message for _, message in said)
