from __future__ import annotations

import gzip
import hashlib
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from zoracle.errors import InputError
from zoracle.tasks.datasets import cache_dir, download, find_data, read_idx, read_images

BODY = bytes(range(256)) * 1000
MD5 = hashlib.md5(BODY).hexdigest()
SHA256 = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """/good serves the file, /short promises more than it sends, /unsized does not say, /other serves another file."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/silent":
            self.server.wait.wait(5)
            return
        body = {"/short": BODY[:-1], "/other": BODY[::-1]}.get(self.path, BODY)
        self.send_response(200)
        if self.path != "/unsized":
            self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.asked, http.wait = [], threading.Event()
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield http
        http.wait.set()
        http.shutdown()
        thread.join()


@pytest.fixture
def url(server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return lambda name: f"http://127.0.0.1:{server.server_port}/{name}"


def test_download(url, server, tmp_path):
    path = tmp_path / "a" / "b" / "file"
    seen = []
    assert download(url("good"), path, sha256=SHA256, md5=MD5.upper(), progress=lambda *p: seen.append(p)) == path
    assert path.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert [received for received, _ in seen] == sorted(received for received, _ in seen)
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    download(url("good"), path, sha256=SHA256)
    assert server.asked == ["/good"], "a file that is there was downloaded again"


def test_a_damaged_file_is_replaced(url, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(BODY[:100])
    download(url("good"), path, md5=MD5)
    assert path.read_bytes() == BODY


def test_a_server_that_does_not_say_the_size(url, tmp_path):
    seen = []
    download(url("unsized"), tmp_path / "file", md5=MD5, progress=lambda *p: seen.append(p))
    assert seen[-1] == (len(BODY), None)


def test_mirrors_are_tried_in_order(url, server, tmp_path):
    names = ["missing", "short", "other", "good", "unsized"]
    download([url(n) for n in names], tmp_path / "file", md5=MD5)
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.asked == ["/missing", "/short", "/other", "/good"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "HTTP Error 404"), ("short", "bytes arrived; expected 256000"), ("other", "md5 is"), ("silent", "")],
)
def test_a_failed_download_leaves_nothing(url, tmp_path, name, message):
    with pytest.raises(InputError) as caught:
        download(url(name), tmp_path / "file", md5=MD5, timeout=0.3)
    assert message in str(caught.value)
    assert f"file could not be downloaded ({url(name)}: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_no_server_at_all(url, server, tmp_path):
    with pytest.raises(InputError, match="refused"):
        download("http://127.0.0.1:1/file", tmp_path / "file", md5=MD5)


def test_an_interrupted_download_leaves_nothing(url, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(url("good"), tmp_path / "file", md5=MD5, progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_a_download_must_be_verified(tmp_path):
    with pytest.raises(InputError, match="no hash is given for file"):
        download("http://127.0.0.1:1/file", tmp_path / "file")


def test_an_unwritable_folder(url, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        download(url("good"), tmp_path / "taken" / "file", md5=MD5)


def test_find_data(tmp_path, monkeypatch):
    own, cache = tmp_path / "own", tmp_path / "cache"
    for folder in (own, cache):
        folder.mkdir()
    monkeypatch.delenv("ZORACLE_DATA", raising=False)
    monkeypatch.setenv("ZORACLE_CACHE", str(cache))
    assert find_data("a") is None
    (cache / "a").write_text("")
    assert find_data("a") == cache / "a"
    monkeypatch.setenv("ZORACLE_DATA", str(own))
    assert find_data("a") == cache / "a"
    (own / "a").write_text("")
    assert find_data("a") == own / "a"


def test_cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("ZORACLE_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("ZORACLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "zoracle"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir().parts[-2:] == (".cache", "zoracle")


def idx(array: np.ndarray, code: int) -> bytes:
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize(("code", "dtype"), [(0x08, "u1"), (0x09, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4")])
@pytest.mark.parametrize("compress", [gzip.compress, bytes])
def test_read_idx(tmp_path, code, dtype, compress):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / "file"
    path.write_bytes(compress(idx(array, code)))
    read = read_idx(path)
    np.testing.assert_array_equal(read, array)
    assert read.dtype.isnative
    assert read.flags.writeable


CONTENT = idx(np.arange(6, dtype=np.uint8), 0x08)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file: its first bytes are missing"),
        (b"\x01\x02\x03\x04", "is not an IDX file: its first bytes are 01020304"),
        (CONTENT[:6], "is truncated: 6 bytes, and the header alone has 8"),
        (CONTENT[:-1], "has 13 bytes; expected 14 for shape (6,)"),
        (CONTENT + b"\0", "has 15 bytes; expected 14"),
        (gzip.compress(CONTENT, mtime=0)[:-9], "cannot be read"),
        (gzip.compress(CONTENT, mtime=0)[:12] + b"\xff" * 20, "cannot be read"),
    ],
)
def test_a_damaged_idx_file(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_idx(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_read_images(tmp_path):
    images, labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.array([3, 1], dtype=np.uint8)
    path = tmp_path / "file.npz"
    np.savez(path, images=images, labels=labels)
    for read, written in zip(read_images(path), (images, labels), strict=True):
        np.testing.assert_array_equal(read, written)
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(path.read_bytes()[:-30])
    np.savez(tmp_path / "float.npz", images=images / 255, labels=labels)
    np.savez(tmp_path / "foreign.npz", a=images)
    np.savez(tmp_path / "object.npz", images=np.array([None]), labels=labels)
    for name in ("damaged", "float", "foreign", "object", "missing"):
        with pytest.raises(InputError, match=f"{name}.npz") as caught:
            read_images(tmp_path / f"{name}.npz")
        assert "\n" not in str(caught.value)
