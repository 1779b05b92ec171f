"""Images and labels from files: what is read, and one line for what cannot be."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from zoracle.errors import InputError, MissingExtraError
from zoracle.images import as_images, as_labels, read_classes, read_labelled
from zoracle.images.classes import Numbering

pillow = pytest.importorskip("PIL.Image")

rng = np.random.default_rng(0)
BYTES = rng.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
GREY = rng.integers(0, 256, (5, 4, 6), dtype=np.uint8)
LABELS = np.array([0, 2, 1, 1, 0])


def refused(message, call, *args, **kwargs):
    with pytest.raises(InputError, match=message) as told:
        call(*args, **kwargs)
    assert "\n" not in str(told.value)


# --- arrays -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert", [np.asarray, torch.from_numpy, lambda x: x.tolist()], ids=["numpy", "torch", "list"]
)
def test_layouts_and_types(convert):
    first = np.moveaxis(BYTES, 3, 1)
    floats = (first / 255).astype(np.float64)
    assert torch.equal(as_images(convert(floats)), torch.from_numpy(floats))
    assert torch.equal(as_images(convert(np.moveaxis(floats, 1, 3).copy())), torch.from_numpy(floats))
    assert as_images(BYTES).dtype is torch.uint8
    assert torch.equal(as_images(BYTES), as_images(first.copy()))
    assert as_images(GREY).shape == (5, 1, 4, 6)
    assert torch.equal(as_images(GREY)[:, 0], torch.from_numpy(GREY))


def test_floating_point_types_become_those_of_torch():
    half = np.linspace(0, 1, 24, dtype=np.float16).reshape(1, 1, 4, 6)
    assert as_images(half).dtype is torch.float32
    assert as_images(torch.from_numpy(half).bfloat16()).dtype is torch.float32
    big = half.astype(">f8")
    assert torch.equal(as_images(big), torch.from_numpy(half.astype(np.float64)))
    assert as_images(half.astype(np.longdouble)).dtype is torch.float64


def test_what_is_given_may_change_afterwards():
    given = np.zeros((1, 1, 2, 2))
    read = as_images(given)
    given += 1
    assert not read.any()


def test_an_ambiguous_layout_has_to_be_said():
    both = np.zeros((2, 3, 5, 3), np.uint8)
    refused(r"shape \(2, 3, 5, 3\) and could be both NCHW and NHWC; pass the layout", as_images, both)
    assert as_images(both, "NCHW").shape == (2, 3, 5, 3)
    assert as_images(both, "NHWC").shape == (2, 3, 3, 5)
    four = np.zeros((2, 4, 5, 6), np.uint8)
    refused("have neither 1 nor 3 channels; pass the layout", as_images, four)
    assert as_images(four, "NHWC").shape == (2, 6, 4, 5)
    refused("layout is 'CHWN'", as_images, four, "CHWN")


@pytest.mark.parametrize(
    ("message", "values"),
    [
        ("images are int64; expected uint8, or floating", np.zeros((1, 2, 2), int)),
        ("images are bool", np.zeros((1, 2, 2), bool)),
        ("images are complex128", np.zeros((1, 2, 2), complex)),
        ("images are text", np.full((1, 2, 2), "a")),
        ("images hold Python objects", np.full((1, 2, 2), None)),
        ("images hold Python objects", None),
        ("images cannot be read as an array", [[[0.0]], [[0.0, 1.0]]]),
        (r"images have shape \(2, 2\); .*of one image, give it as images\[None\]", np.zeros((2, 2))),
        (r"images have shape \(0, 1, 2, 2\)", np.zeros((0, 1, 2, 2))),
        (r"images have shape \(\)", 0.5),
        ("image 1 holds NaN", np.array([[[0.0]], [[np.nan]]])),
        ("image 0 holds NaN or infinite", np.array([[[np.inf]], [[np.nan]]])),
        (r"range over \[0, 255\]; expected \[0, 1\]; divide them by 255", np.array([[[0.0, 255.0]]])),
        (r"range over \[-1, 1\]; expected \[0, 1\]$", np.array([[[-1.0, 1.0]]])),
    ],
)
def test_what_are_no_images(message, values):
    refused(message, as_images, values)


@pytest.mark.parametrize(
    ("message", "values"),
    [
        (r"labels have shape \(3,\); expected \(2,\)", [1, 2, 3]),
        (r"labels have shape \(2, 1\)", [[1], [2]]),
        ("labels are float64; expected integers", [1.0, 2.0]),
        ("labels are bool", [True, False]),
        ("labels are text", ["1", "2"]),
        ("label -3 of image 1 is out of range", [0, -3]),
        ("label 18446744073709551615 of image 0 is out of range", np.array([2**64 - 1, 0], np.uint64)),
    ],
)
def test_what_are_no_labels(message, values):
    refused(message, as_labels, values, 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, ">i8", np.uint64])
def test_labels_of_any_whole_type(dtype):
    assert as_labels(np.array([3, 0], dtype), 2).tolist() == [3, 0]


# --- archives ---------------------------------------------------------------------------------------------------


def test_an_archive(tmp_path):
    np.savez(tmp_path / "a.npz", images=BYTES, labels=LABELS, targets=(LABELS + 1) % 3)
    found = read_labelled(tmp_path / "a.npz")
    assert torch.equal(found.images, torch.from_numpy(np.moveaxis(BYTES, 3, 1).copy()))
    assert found.labels.tolist() == LABELS.tolist()
    assert found.targets.tolist() == ((LABELS + 1) % 3).tolist()
    assert found.class_names == ()
    np.savez_compressed(tmp_path / "b.npz", x_test=GREY / 255, y_test=LABELS.astype(np.uint8))
    found = read_labelled(tmp_path / "b.npz", images_key="x_test", labels_key="y_test")
    assert found.images.dtype is torch.float64
    assert found.targets is None


def test_an_archive_with_names_of_classes(tmp_path):
    names = np.array(["cat", "dog", "cat", "cat", "emu"])
    np.savez(tmp_path / "a.npz", images=GREY, labels=names)
    found = read_labelled(tmp_path / "a.npz")
    assert found.labels.tolist() == [0, 1, 0, 0, 2]
    assert found.class_names == ("cat", "dog", "emu")
    assert found.notes == ("classes are numbered as their names sort: 0 cat, 1 dog, 2 emu",)
    (tmp_path / "classes.txt").write_text("emu\ndog\ncat\nfox\n")
    found = read_labelled(tmp_path / "a.npz", classes=tmp_path / "classes.txt")
    assert found.labels.tolist() == [2, 1, 2, 2, 0]
    assert (found.class_names, found.notes) == (("emu", "dog", "cat", "fox"), ())
    (tmp_path / "classes.txt").write_text("emu\ndog\n")
    refused("labels, image 0: 'cat' is not one of the 2 classes", read_labelled, tmp_path / "a.npz",
            classes=tmp_path / "classes.txt")  # fmt: skip
    np.savez(tmp_path / "b.npz", images=GREY, labels=LABELS)
    refused("label 2 of image 1 is out of range; expected 0 .. 1", read_labelled, tmp_path / "b.npz",
            classes=tmp_path / "classes.txt")  # fmt: skip


@pytest.mark.parametrize(
    ("message", "arrays"),
    [
        ("has no array 'images'; it has labels", {"labels": LABELS}),
        ("has no array 'labels'; it has images, y", {"images": GREY, "y": LABELS}),
        ("has no array 'images'; it is empty", {}),
        ("cannot be read .it holds Python objects", {"images": np.full((5, 2, 2), None), "labels": LABELS}),
        ("cannot be read .it holds Python objects", {"images": GREY, "labels": LABELS.astype(object)}),
        ("a.npz: labels have shape", {"images": GREY, "labels": LABELS[1:]}),
        ("a.npz: targets have shape", {"images": GREY, "labels": LABELS, "targets": LABELS[1:]}),
        ("a.npz: image 0 holds NaN", {"images": GREY * np.nan, "labels": LABELS}),
    ],
)
def test_archives_that_cannot_be_used(tmp_path, message, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    refused(message, read_labelled, tmp_path / "a.npz")


def test_files_that_are_no_archives(tmp_path):
    np.savez(tmp_path / "a.npz", images=BYTES, labels=LABELS)
    whole = (tmp_path / "a.npz").read_bytes()
    for content in (b"", b"PK", whole[:40], whole[:-30], b"not at all", b"\x80\x04N."):
        (tmp_path / "a.npz").write_bytes(content)
        refused("a.npz cannot be read", read_labelled, tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", GREY)
    refused("holds one array without a name", read_labelled, tmp_path / "b.npy")
    refused("cannot be read .No such file", read_labelled, tmp_path / "none.npz")
    refused("labels was given, but", read_labelled, tmp_path / "a.npz", labels=tmp_path / "x")
    refused("is not an .npz file", read_labelled, tmp_path, layout="NCHW")


# --- folders ----------------------------------------------------------------------------------------------------


def picture(path, array, **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(array).save(path, **save)


@pytest.fixture
def folder(tmp_path):
    for i, array in enumerate(BYTES):
        picture(tmp_path / f"{i}.png", array)
    return tmp_path


def rows(folder, text, **options):
    (folder / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_labelled(folder, **options)


def test_a_folder_in_the_order_of_its_rows(folder):
    found = rows(folder, "3.png,1\n0.png,0\n")
    assert torch.equal(found.images, torch.from_numpy(BYTES[[3, 0]]).permute(0, 3, 1, 2))
    assert found.images.dtype is torch.uint8
    assert found.labels.tolist() == [1, 0]
    assert found.targets is None
    assert found.notes == (f"pictures in {folder} that no row of the labels names, left out: 3",)


@pytest.mark.parametrize(
    "text",
    [
        "file,label,target\n0.png,cat,dog\n1.png,dog,cat\n",
        "\ufefflabel,id,filename,target\r\ncat,7,0.png,dog\r\n\r\ndog,8,1.png,cat\r\n",
        '"0.png", cat ,dog\n"1.png", dog ,cat',
        "Image,Class,Target\n./0.png,cat,dog\n1.png,dog,cat\n",
    ],
)
def test_forms_of_the_table(folder, text):
    found = rows(folder, text)
    assert torch.equal(found.images, torch.from_numpy(BYTES[:2]).permute(0, 3, 1, 2))
    assert found.labels.tolist() == [0, 1]
    assert found.targets.tolist() == [1, 0]
    assert found.class_names == ("cat", "dog")


def test_names_follow_a_file_of_classes(folder):
    (folder / "classes.txt").write_bytes("\ufeffdog\r\ncat\r\n".encode())
    found = rows(folder, "0.png,cat\n1.png,0\n", classes=folder / "classes.txt")
    assert found.labels.tolist() == [1, 0]
    assert found.class_names == ("dog", "cat")


def test_subfolders_are_classes(tmp_path):
    picture(tmp_path / "dog" / "b.png", BYTES[0])
    picture(tmp_path / "dog" / "a.PNG", BYTES[1])
    picture(tmp_path / "cat" / "c.bmp", BYTES[2])
    (tmp_path / "cat" / "notes.txt").write_text("mine")
    found = read_labelled(tmp_path)
    assert torch.equal(found.images, torch.from_numpy(BYTES[[2, 1, 0]]).permute(0, 3, 1, 2))
    assert found.labels.tolist() == [0, 1, 1]
    assert found.class_names == ("cat", "dog")


def test_kinds_of_pictures(tmp_path):
    opaque = np.concatenate((BYTES[0], np.full((4, 6, 1), 255, np.uint8)), axis=2)
    picture(tmp_path / "rgba.png", opaque)
    picture(tmp_path / "rgb.bmp", BYTES[0])
    palette = pillow.fromarray(BYTES[0]).quantize(24)
    palette.save(tmp_path / "palette.png")
    found = rows(tmp_path, "rgba.png,0\nrgb.bmp,0\npalette.png,0\n")
    assert torch.equal(found.images[0], found.images[1])
    assert torch.equal(found.images[2], torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1))
    picture(tmp_path / "grey.png", GREY[0])
    pillow.fromarray(GREY[0] > 99).save(tmp_path / "bits.png")
    found = rows(tmp_path, "grey.png,0\nbits.png,1\n")
    assert found.images.shape == (2, 1, 4, 6)
    assert torch.equal(found.images[1, 0], torch.from_numpy((GREY[0] > 99) * np.uint8(255)))
    refused("line 2: rgb.bmp is coloured, and the first picture grey; .*channels", rows, tmp_path,
            "grey.png,0\nrgb.bmp,0\n")  # fmt: skip
    assert rows(tmp_path, "grey.png,0\nrgb.bmp,0\n", channels=3).images.shape == (2, 3, 4, 6)
    assert rows(tmp_path, "grey.png,0\nrgb.bmp,0\n", channels=1).images.shape == (2, 1, 4, 6)
    opaque[0, 0, 3] = 254
    picture(tmp_path / "glass.png", opaque)
    refused("glass.png is transparent; expected one opaque picture", rows, tmp_path, "glass.png,0\n")
    pillow.fromarray(GREY[0].astype(np.uint16)).save(tmp_path / "deep.png")
    refused("deep.png has the mode I;16", rows, tmp_path, "deep.png,0\n")
    frames = [pillow.fromarray(frame) for frame in GREY]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    refused("film.gif has 5 frames", rows, tmp_path, "film.gif,0\n")


def test_sizes(folder):
    picture(folder / "other.png", rng.integers(0, 256, (8, 12, 3), dtype=np.uint8))
    refused("line 2: other.png has 8x12 pixels, and the first picture 4x6; .*resize", rows, folder,
            "0.png,0\nother.png,0\n")  # fmt: skip
    found = rows(folder, "0.png,0\nother.png,0\n", size=(4, 6))
    assert torch.equal(found.images[0], torch.from_numpy(BYTES[0]).permute(2, 0, 1)), "one of the size stays as it is"
    assert found.images.shape == (2, 3, 4, 6)


def test_pillow_is_an_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'zoracle\[images\]'"):
        rows(folder, "0.png,0\n")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("labels.csv is empty", ""),
        ("labels.csv is empty", "\n ,\n"),
        ("has a header and no rows", "file,label\n"),
        ("line 1 has 1 cells and is not a header", "0.png\n"),
        ("line 1 has 4 cells and is not a header", "0.png,0,1,2\n"),
        ("line 2 has 3 cells; expected 2", "0.png,0\n1.png,0,1\n"),
        ("line 2 has 1 cells; expected 3", "0.png,0,1\n1.png\n"),
        ("line 3 has no label", "file,label\n0.png,0\n1.png,\n"),
        ("line 1 has no file", ",0\n"),
        ("line 2 has no target", "file,label,target\n0.png,0,\n"),
        ("has no file 'nine.png'", "nine.png,0\n"),
        ("has no file 'subfolder'", "subfolder,0\n"),
        ("line 1: .* has no file", "0\0.png,0\n"),
        ("has no file 'aaa", "a" * 5000 + ",0\n"),
        ("line 3: 0.png is listed twice .*line 1", "0.png,0\n1.png,0\n0.png,0\n"),
        (r"line 2: \./0.png is listed twice", "0.png,0\n./0.png,0\n"),
        ("line 1: class -1 is out of range; expected 0 or more", "0.png,-1\n"),
        (r"by name \('cat'\) and by number \(1\)", "0.png,1\n1.png,cat\n"),
        (r"by name \('1.5'\) and by number \(1\)", "0.png,1\n1.png,1.5\n"),
        ("is not UTF-8 text", b"0.png,caf\xe9\n"),
        ("is not CSV", '0.png,"0\n'),
        ("text.png cannot be read as a picture .of no kind", "text.png,0\n"),
        ("half.png cannot be read as a picture", "half.png,0\n"),
        ("empty.png cannot be read as a picture", "empty.png,0\n"),
    ],
)
def test_tables_and_pictures_that_cannot_be_used(folder, message, text):
    (folder / "subfolder").mkdir()
    (folder / "text.png").write_text("a picture")
    (folder / "empty.png").touch()
    (folder / "half.png").write_bytes((folder / "0.png").read_bytes()[:60])
    refused(message, rows, folder, text)


def test_folders_without_labels(tmp_path):
    refused("has no labels.csv, and no subfolders of pictures", read_labelled, tmp_path)
    refused("none.csv cannot be read .No such file", read_labelled, tmp_path, labels=tmp_path / "none.csv")
    refused("cannot be read", read_labelled, tmp_path, labels=tmp_path)


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ("line 2 is empty", b"cat\n\ndog\n"),
        ("names 1 class", b"cat\n"),
        ("line 1 is empty", b""),
        ("is not UTF-8 text", b"\xff\xfe"),
    ],
)
def test_files_of_classes_that_cannot_be_used(tmp_path, message, content):
    (tmp_path / "classes").write_bytes(content)
    refused(message, read_classes, tmp_path / "classes")


def test_a_name_that_comes_twice_is_told_with_its_number(tmp_path):
    (tmp_path / "classes").write_text("crane\ncat\ncrane\n")
    assert read_classes(tmp_path / "classes") == ("crane (0)", "cat", "crane (2)")
    numbering = Numbering(read_classes(tmp_path / "classes"))
    assert (numbering.number("crane (2)", "here"), numbering.number("1", "here")) == (2, 1)
    refused(r"did you mean crane \(\d\)", numbering.number, "crane", "here")
