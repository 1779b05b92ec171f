"""Rules of files: nothing of others is opened, written through, emptied or left behind; archives stay in bounds."""

from __future__ import annotations

import io
import json
import os
import resource
import stat
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import zoracle
from zoracle.cli.main import main
from zoracle.errors import CheckpointError, InputError
from zoracle.images import read_labelled
from zoracle.reporting.output import file_names
from zoracle.storage.files import read_tensors, sweep, write_bytes, write_tensors
from zoracle.storage.runfolder import locked, open_run

SMALL = ["--optimizers", "zo-sgd", "--problems", "2", "--threat", "l2", "--eps", "1", "--budget", "64"]


def attack(*argv, code=0):
    assert main(["attack", *argv]) == code


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_leaves_nothing_unfinished_behind(tmp_path):
    out = tmp_path / "run"
    (out / "pieces").mkdir(parents=True)
    for place in (out, out / "pieces"):
        (place / ".config.json.0123abcd.tmp").write_bytes(b"half of something")
        (place / ".mine.tmp").write_text("kept: it is not of ours")
    with locked(out):
        assert names(out) == [".lock", ".mine.tmp", "pieces"]
    assert names(out) == [".mine.tmp", "pieces"]
    assert names(out / "pieces") == [".mine.tmp"]


def test_what_a_process_is_writing_is_not_swept_away(tmp_path, monkeypatch):
    replace = os.replace

    def swept(source, target):
        sweep(tmp_path)
        replace(source, target)

    monkeypatch.setattr(os, "replace", swept)
    write_bytes(tmp_path / ("n" * 250), b"whole")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


def test_the_files_of_others_stay_as_they_are(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").symlink_to(precious)
    with pytest.raises(InputError, match="is a link, and zoracle does not write through links"), locked(out):
        pass
    (out / ".lock").unlink()
    (out / ".lock").write_text("4711\n")  # of another program
    with pytest.raises(InputError, match="is not a lock of this version of zoracle"), locked(out):
        pass
    assert (out / ".lock").read_text() == "4711\n"

    calls = tmp_path / "my.safetensors.calls"
    for content in ("", "unrelated"):
        calls.write_text(content)
        with pytest.raises(CheckpointError, match="is not a file of this version of zoracle, and is left as it is"):
            zoracle.minimize(lambda x: (x**2).sum(1), torch.ones(3), budget=42, checkpoint=tmp_path / "my.safetensors")
        assert calls.read_text() == content
    calls.unlink()
    calls.symlink_to(precious)
    with pytest.raises(InputError, match="is a link"):
        zoracle.minimize(lambda x: (x**2).sum(1), torch.ones(3), budget=42, checkpoint=tmp_path / "my.safetensors")
    assert precious.read_text() == "mine"


def test_a_refused_folder_keeps_no_lock(tmp_path):
    (tmp_path / "theirs.txt").touch()
    with pytest.raises(InputError, match="is not empty"), locked(tmp_path):
        open_run(tmp_path, {})
    assert names(tmp_path) == ["theirs.txt"]


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.95])
def test_a_damaged_checkpoint_is_never_used(tmp_path, at):
    path = tmp_path / "run"
    write_tensors(path, {"x": torch.rand(1000, generator=torch.Generator())}, {"format": "f", "n": 3})
    assert read_tensors(path, sealed=True)[1] == {"format": "f", "n": 3}
    data = bytearray(path.read_bytes())
    start = int(at * len(data))
    for change in ("bit", "half"):
        damaged = bytearray(data)
        if change == "bit":
            damaged[start] ^= 4
        else:
            damaged[start:] = bytes(len(data) - start)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            read_tensors(path, sealed=True)


def test_old_weights_without_a_checksum_load(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, tmp_path / "old")
    assert read_tensors(tmp_path / "old")[0]["x"].tolist() == [1, 1]
    with pytest.raises(CheckpointError, match="has no checksum"):
        read_tensors(tmp_path / "old", sealed=True)


def test_labels_that_clean_to_the_same_name_have_different_files():
    labels = ["a b", "a/b", "A/B", "plain", "x" * 300, "x" * 301]
    found = file_names(labels)
    assert found["plain"] == "plain"
    assert len({name.casefold() for name in found.values()}) == len(labels)
    assert max(map(len, found.values())) < 120
    assert all("/" not in name for name in found.values())


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("PIL", reason="pillow is not installed")
    from PIL import Image

    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8), 90).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text("a.png,0\nb.png,1\n")
    return tmp_path


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_a_picture_runs_no_program(folder, tmp_path_factory, monkeypatch):
    programs, ran = tmp_path_factory.mktemp("programs"), folder / "ran"
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {ran}\nexit 1\n")
    (programs / "gs").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    import PIL.EpsImagePlugin

    monkeypatch.setattr(PIL.EpsImagePlugin, "gs_binary", None)
    (folder / "b.png").write_bytes(EPS)
    with pytest.raises(InputError, match="of no kind that is known, or not the PNG that its name says"):
        read_labelled(folder)
    (folder / "b.eps").write_bytes(EPS)
    (folder / "labels.csv").write_text("a.png,0\nb.eps,1\n")
    with pytest.raises(InputError, match="has no picture file extension"):
        read_labelled(folder)
    assert not ran.exists()


def test_a_picture_is_of_the_kind_that_its_name_says(folder):
    from PIL import Image

    Image.new("L", (8, 8), 90).save(folder / "b.png", format="GIF")
    with pytest.raises(InputError, match="not the PNG that its name says"):
        read_labelled(folder)


def npy(array, shape=None):
    buffer = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + array.tobytes()


def archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    return path


def test_an_archive_unpacks_to_no_more_than_it_may(tmp_path):
    labels = npy(np.arange(2))
    bomb = archive(tmp_path / "bomb.npz", images=npy(np.zeros((2, 6000, 6000), np.uint8)), labels=labels)
    assert bomb.stat().st_size < 200_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"'images' is [\d,]+ bytes that unpack to 72,000,\d+, more than images do"):
        read_labelled(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss == before
    lie = archive(tmp_path / "lie.npz", images=npy(np.zeros((2, 4, 4), np.uint8), (2, 2**20, 2**20)), labels=labels)
    with pytest.raises(InputError, match=r"has the shape \(2, 1048576, 1048576\) of [\d,]+ bytes, but contains 32"):
        read_labelled(lie)
    good = archive(tmp_path / "good.npz", images=npy(np.zeros((2, 400, 400), np.uint8)), labels=labels)
    assert read_labelled(good).images.shape == (2, 1, 400, 400)


def test_tuning_removes_what_is_its_own_only(tmp_path, capsys):
    run = ["tune", "--optimizers", "zo-signsgd", "--problems", "1", "--steps", "1", "--num-directions", "1"]
    theirs = tmp_path / "mine.json.pieces" / "precious"
    theirs.parent.mkdir()
    theirs.touch()
    assert main([*run, "--out", str(tmp_path / "mine.json")]) == 2
    assert "mine.json.pieces is not empty" in capsys.readouterr().err
    assert names(tmp_path) == ["mine.json.pieces"]
    assert names(theirs.parent) == ["precious"]
    assert main([*run, "--out", str(tmp_path / "other.pieces")]) == 0
    assert names(tmp_path) == ["mine.json.pieces", "other.pieces"]


def test_resume_keeps_the_batch_of_the_run(tmp_path):
    out = tmp_path / "run"
    attack(*SMALL, "--batch", "1", "--out", str(out))
    command = json.loads((out / "command.json").read_text())
    assert command["options"]["batch"] == 1
    attack("--resume", "--out", str(out))
    attack("--resume", "--batch", "2", "--out", str(out))


def test_a_strangers_folder_sends_no_key(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("STOLEN", "hunter2-secret")
    out = tmp_path / "run"
    attack(*SMALL, "--out", str(out))
    command = json.loads((out / "command.json").read_text())
    command["options"] |= {"target": "http://127.0.0.1:9/v2/models/m", "target_api_key_env": "STOLEN", "data": "digits"}
    (out / "command.json").write_text(json.dumps(command))
    capsys.readouterr()
    attack("--resume", "--out", str(out), code=2)
    told = capsys.readouterr()
    assert "sends the key in the environment variable STOLEN to http://127.0.0.1:9/v2/models/m; to allow it" in told.err
    assert told.err.count("\n") == 1
    assert "the target of this run is http://127.0.0.1:9" in told.out, "named before the first request"


TARGET = """
import numpy as np

def classify(images):
    images = np.asarray(images).reshape(len(images), -1)
    return np.stack([images[:, ::2].mean(1), images[:, 1::2].mean(1) {change}], 1)

def leave(images):
    raise SystemExit(0)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(TARGET.format(change=""))
    np.savez("data.npz", images=np.full((2, 1, 4, 4), 0.5, np.float32), labels=np.array([0, 0]))
    return ["--data", "data.npz", "--outputs", "logits", "--optimizers", "zo-sgd", "--budget", "64"]


def test_edited_code_is_noticed(own, capsys):
    attack("--target", "mine.py:classify", *own, "--out", "run")
    Path("mine.py").write_text(TARGET.format(change="+ 1"))
    attack("--resume", "--out", "run", code=2)
    assert "holds a run with another config (task" in capsys.readouterr().err


def test_a_run_goes_on_from_another_folder(own, tmp_path, monkeypatch):
    attack("--target", "mine.py:classify", *own, "--out", "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    attack("--resume", "--out", "../run")


def test_a_target_that_ends_the_program_is_a_failed_call(own, capsys):
    attack("--target", "mine.py:leave", *own, "--out", "run", code=2)
    told = capsys.readouterr().err
    assert "raised SystemExit: 0" in told
    assert told.count("\n") == 1


def test_external_data_of_an_onnx_file_are_found(tmp_path):
    from zoracle.blackboxes.onnx import data_files

    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    weight = onnx.numpy_helper.from_array(np.zeros((40, 40), np.float32), "w")
    graph = onnx.helper.make_graph([], "g", [], [], [weight])
    name = "w" * 150 + ".bin"
    onnx.save(
        onnx.helper.make_model(graph), tmp_path / "m.onnx", save_as_external_data=True, location=name, size_threshold=0
    )
    assert data_files(tmp_path / "m.onnx") == [tmp_path / name]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of file sizes there")
def test_a_log_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("httpx", reason="httpx is not installed")
    from oip_server import Server
    from zoracle.blackboxes import OpenInference

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    told = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with Server(lambda a: a[:, :3], **told) as server:
            for size in (0, 50, 500, 700):
                log = tmp_path / f"{size}.jsonl"
                with OpenInference(server.url, chunk=1, concurrency=2, log=log) as box:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
                    with pytest.raises(InputError, match=r"cannot write .*jsonl: File too large; fix this") as caught:
                        box(torch.zeros(9, 4))
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
                assert "\n" not in str(caught.value)
                OpenInference(server.url, log=log).close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--eps", "1e308", "--budget", "64"], "eps is 1e+308; expected a radius that restricts pixels in [0, 1]"),
        (["--eps", "1", "--budget", "9" * 20], "--budget takes 68 bits; expected an integer of 64 bits"),
        (["--eps", "1", "--budget", "9" * 18], "more than there is memory to keep a record of"),
    ],
)
def test_numbers_beyond_all_bounds_are_one_line(tmp_path, capsys, argv, message):
    attack("--optimizers", "zo-sgd", "--problems", "2", "--threat", "l2", *argv, "--out", str(tmp_path / "run"), code=2)
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.filterwarnings("ignore::zoracle.errors.NonFiniteWarning")
def test_a_target_that_answers_no_number_is_told(own, capsys):
    Path("mine.py").write_text("import numpy as np\n\ndef classify(x):\n    return np.full((len(x), 2), np.nan)\n")
    attack("--target", "mine.py:classify", *own, "--out", "run", code=2)
    assert "every answer of the target was NaN or infinite" in capsys.readouterr().err
    assert (Path("run") / "report.html").is_file()


def test_ctrl_c_during_an_import_is_no_missing_extra(monkeypatch):
    def interrupted(module):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError(module) from error

    monkeypatch.setattr("zoracle.errors.import_module", interrupted)
    with pytest.raises(KeyboardInterrupt):
        zoracle.errors.require("httpx", "http")
