"""Rules for servers: nothing is read past what the expected shape implies, and no text is shown as it came."""

from __future__ import annotations

import base64
import binascii
import codecs
import functools
import gzip
import html
import json
import quopri
import subprocess
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
import torch

pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("tenacity", reason="tenacity is not installed")

from oip_server import Server, parse
from zoracle.blackboxes import OpenInference
from zoracle.blackboxes.secrets import LEFT_OUT, Secrets
from zoracle.errors import BlackBoxError, InputError

QUICK = {"timeout": 5.0, "backoff": 0.0, "attempts": 2}
GOOD = {
    "/v2/health/ready": {},
    "/v2": {"name": "t", "extensions": []},
    "/v2/models/m": {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
    },
    "/v2/models/m/infer": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [0.5] * 3}]},
}


def output(**change):
    return {"outputs": [{**GOOD["/v2/models/m/infer"]["outputs"][0], **change}]}


def metadata(shape, which="inputs"):
    told = GOOD["/v2/models/m"]
    return {**told, which: [{**told[which][0], "shape": shape}]}


#: What a server may send where; each is sent in place of a good answer.
HOSTILE = {
    "endless": lambda send: send.endless(),
    "endless error": lambda send: send.endless(status=400),
    "bomb": lambda send: send.bomb("gzip"),
    "bomb of zlib": lambda send: send.bomb("deflate"),
    "bomb of an error": lambda send: send.bomb("gzip", status=503),
    "a length it does not have": lambda send: send.plain(b"{}", length=10**12),
    "objects": lambda send: send.plain(b'{"outputs": [' + b"{}," * 2_000_000 + b"{}]}"),
    "numbers": lambda send: send.plain(b'{"outputs": [' + b"1.5," * 2_000_000 + b"1]}"),
    "lists": lambda send: send.plain(b'{"inputs": ' + b"[" * 3_000_000),
    "digits": lambda send: send.plain(b'{"inputs": ' + b"1" * 3_000_000 + b"}"),
}
SHAPES = ([10**9, 4], [2**62, 4], [10**9], [2**62, 2**62], [-(10**30)], [4096, 4], [-1, 2**62])


@functools.cache
def block():
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(b" " * 2**24) + packer.flush(zlib.Z_FULL_FLUSH)


class Hostile(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Quiet."""

    def do_GET(self):
        where, what = self.server.hostile
        if self.path != where.strip():
            return self.plain(json.dumps(GOOD[self.path]).encode())
        return HOSTILE[what](self) if isinstance(what, str) else self.plain(json.dumps(what).encode())

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def plain(self, body, length=None, status=200):
        self.head(status, **{"Content-Length": str(length or len(body))})
        self.write(body)

    def endless(self, status=200):
        self.head(status, **{"Transfer-Encoding": "chunked"})
        while self.write(b"100000\r\n" + b" " * 2**20 + b"\r\n"):
            pass

    def bomb(self, encoding, status=200):
        """5 MiB that unpack to 5 GiB of spaces: a block that may be repeated, since it begins with no history."""
        body = {"gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\xff", "deflate": b"\x78\x9c"}[encoding] + block() * 320
        self.head(status, **{"Content-Encoding": encoding, "Content-Length": str(len(body))})
        self.write(body)

    def head(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def write(self, data):
        try:
            self.wfile.write(data)
        except OSError:
            self.close_connection = True
            return False
        return True


class HostileServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that went away is no news."""


@pytest.fixture
def hostile(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HostileServer(("127.0.0.1", 0), Hostile) as server:
        server.hostile = ("", "")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def url_of(server):
    return f"http://127.0.0.1:{server.server_address[1]}/v2/models/m"


CHILD = """
import resource, sys, torch
from zoracle.blackboxes import OpenInference
from zoracle.errors import InputError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform != "darwin" else 2**20)

resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
started = None
for line in sys.stdin:
    asked = {} if line.strip() else {"metadata": False, "input": "x"}  # how many classes there are is then not known
    try:
        with OpenInference(sys.argv[1], timeout=20.0, backoff=0.0, attempts=1, chunk=1, **asked) as box:
            box(torch.zeros(2, 4))
        told = "an answer"
    except InputError as error:
        told = str(error)
    started = peak() if started is None else started  # of a good run
    print(peak() - started, told.replace("\\n", "NEWLINE"), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="memory is measured by getrusage")
def test_no_server_takes_more_than_100_mb(hostile):
    cases = [("", ""), *((where, what) for where in GOOD for what in HOSTILE)]
    cases += [("/v2/models/m", metadata(shape, which)) for shape in SHAPES for which in ("inputs", "outputs")]
    cases += [("/v2/models/m/infer", output(shape=shape)) for shape in SHAPES]
    cases += [("/v2/models/m/infer", output(shape=[0, 2**62], data=[]))]
    cases += [("/v2/models/m/infer", output(data=["x" * 10**6, *["y"] * 3000], shape=[3001]))]
    unknown = [("/v2/models/m/infer ", what) for what in HOSTILE]
    cases += unknown
    command = [sys.executable, "-c", CHILD, url_of(hostile)]
    worst = 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        for case in cases:
            hostile.hostile = case
            child.stdin.write("\n" if case in unknown else "ask\n")
            child.stdin.flush()
            line = child.stdout.readline()
            assert line, f"{case}: a traceback instead of a line"
            taken, told = line.rstrip("\n").split(" ", 1)
            assert "NEWLINE" not in told
            assert len(told) < 1500
            worst = max(worst, int(taken))
            assert worst < 100, f"{case} took {taken} MB: {told}"
        child.stdin.close()
    assert child.returncode == 0


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("/v2/models/m/infer", "a long length of the header"),
        ("/v2/models/m", {**GOOD["/v2/models/m"], "inputs": [{**GOOD["/v2/models/m"]["inputs"][0], "name": "\ud800"}]}),
        ("/v2/models/m", {**GOOD["/v2/models/m"], "outputs": [{"name": "\udfff", "shape": [-1, 3]}]}),
        ("/v2/models/m/infer", output(name="\ud800")),
    ],
    ids=["header", "input", "output", "answer"],
)
def test_what_python_itself_refuses_is_malformed(hostile, monkeypatch, where, what):
    """Numbers of more digits than Python reads, and halves of characters, which cannot be sent again."""
    body = json.dumps(GOOD["/v2/models/m/infer"]).encode()
    monkeypatch.setitem(
        HOSTILE,
        "a long length of the header",
        lambda send: (
            send.head(200, **{"Inference-Header-Content-Length": "0" * 5000, "Content-Length": str(len(body))}),
            send.write(body),
        ),
    )
    hostile.hostile = (where, what)
    with pytest.raises(BlackBoxError, match=r"Content-Length is '0|have no names") as caught:  # noqa: SIM117
        with OpenInference(url_of(hostile), **QUICK) as box:
            box(torch.zeros(1, 4))
    assert "\n" not in str(caught.value)


def test_an_answer_may_be_packed_and_nothing_past_its_end_is_read(hostile):
    body = json.dumps(GOOD["/v2/models/m/infer"]).encode()
    raw = zlib.compressobj(wbits=-15)
    for encoding, packed in (
        ("gzip", (lambda c: c.compress(body) + c.flush())(zlib.compressobj(wbits=31))),
        ("deflate", zlib.compress(body)),
        ("deflate", raw.compress(body) + raw.flush()),
    ):
        HOSTILE["packed"] = lambda send, encoding=encoding, packed=packed: (
            send.head(200, **{"Content-Encoding": encoding, "Content-Length": str(len(packed))}),
            send.write(packed),
        )
        hostile.hostile = ("/v2/models/m/infer", "packed")
        with OpenInference(url_of(hostile), **QUICK) as box:
            assert box(torch.zeros(1, 4)).tolist() == [[0.5] * 3]
    HOSTILE["packed"] = lambda send: (
        send.head(200, **{"Content-Encoding": "br", "Content-Length": "3"}),
        send.write(b"abc"),
    )
    with (
        OpenInference(url_of(hostile), **QUICK) as box,
        pytest.raises(BlackBoxError, match="packed by 'br', which was"),
    ):
        box(torch.zeros(2, 4))
    del HOSTILE["packed"]


def test_many_classes_have_to_be_said(hostile):
    number = 200_000
    many = output(shape=[2, number], data=[0] * 2 * number)
    hostile.hostile = ("/v2/models/m/infer", many)
    settings = {"input": "x", "metadata": False, **QUICK}
    with OpenInference(url_of(hostile), **settings) as box, pytest.raises(BlackBoxError, match="more values than the"):
        box(torch.zeros(2, 4))
    with OpenInference(url_of(hostile), classes=number, **settings) as box:
        assert box(torch.zeros(2, 4)).shape == (2, number)


def test_a_batch_that_metadata_fix_is_filled_up_in_bounds(hostile):
    hostile.hostile = ("/v2/models/m", metadata([10**6, 4]))
    with (
        OpenInference(url_of(hostile), **QUICK) as box,
        pytest.raises(InputError, match=r"batches of 1,000,000 images only; where that is right, say chunk=1000000"),
    ):
        box.check((4,))
    hostile.hostile = ("/v2/models/m", metadata([64, 4]))
    with OpenInference(url_of(hostile), **QUICK) as box:
        box.check((4,))


KEY = "Zq7+hunter/2_Secret=Ab9&xY"


def utf7(text):
    return text.encode("utf-7").decode()


ENCODINGS = {
    "itself": lambda key: key,
    "JSON, slashes escaped": lambda key: key.replace("/", "\\/"),
    "JSON, all escaped": lambda key: "".join(f"\\u{ord(c):04x}" for c in key),
    "JSON twice": lambda key: json.dumps(json.dumps(key.replace("+", "\\u002b"))),
    "C, hexadecimal": lambda key: "".join(f"\\x{ord(c):02x}" for c in key),
    "C, octal": lambda key: "".join(f"\\{ord(c):03o}" for c in key),
    "JavaScript": lambda key: "".join(f"\\u{{{ord(c):x}}}" for c in key),
    "code points": lambda key: "".join(f"U+{ord(c):04X}" for c in key),
    "URL": lambda key: quote(key, safe=""),
    "URL, all escaped": lambda key: "".join(f"%{ord(c):02X}" for c in key),
    "URL twice": lambda key: quote(quote(key, safe=""), safe=""),
    "URL, old": lambda key: "".join(f"%u{ord(c):04x}" for c in key),
    "HTML": lambda key: html.escape(key),
    "HTML, decimal": lambda key: "".join(f"&#{ord(c)};" for c in key),
    "HTML, hexadecimal": lambda key: "".join(f"&#x{ord(c):x};" for c in key),
    "quoted-printable": lambda key: quopri.encodestring(key.encode(), quotetabs=True).decode(),
    "quoted-printable, all": lambda key: "".join(f"={ord(c):02X}" for c in key),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 of a URL": lambda key: base64.urlsafe_b64encode(b"k=" + key.encode()).decode().rstrip("="),
    "base64 twice": lambda key: base64.b64encode(base64.b64encode(key.encode())).decode(),
    "base64 of UTF-16": lambda key: base64.b64encode(key.encode("utf-16")).decode(),
    "base32": lambda key: base64.b32encode(key.encode()).decode(),
    "base85": lambda key: base64.b85encode(key.encode()).decode(),
    "ascii85": lambda key: base64.a85encode(key.encode()).decode(),
    "uuencode": lambda key: binascii.b2a_uu(key.encode()).decode(),
    "hexadecimal": lambda key: key.encode().hex(),
    "hexadecimal with colons": lambda key: key.encode().hex(":"),
    "bits": lambda key: " ".join(f"{ord(c):08b}" for c in key),
    "decimal codes": lambda key: json.dumps([ord(c) for c in key]),
    "NULs between": lambda key: "\0".join(key),
    "zero widths between": lambda key: "\u200b".join(key),
    "lines between": lambda key: "\n".join(key),
    "backwards": lambda key: key[::-1],
    "rot13": lambda key: codecs.encode(key, "rot13"),
    "rot47": lambda key: "".join(chr(33 + (ord(c) + 14) % 94) for c in key),
    "another case": lambda key: key.swapcase(),
    "wide letters": lambda key: "".join(chr(ord(c) + 0xFEE0) for c in key),
    "UTF-7": utf7,
    "a URL three times": lambda key: quote(quote("".join(f"%{ord(c):02x}" for c in key), safe=""), safe=""),
    "HTML twice": lambda key: "".join(f"&amp;#x{ord(c):x};" for c in key),
    "tags between": lambda key: "<b></b>".join(key),
    "CSS": lambda key: "".join(f"\\{ord(c):06x}" for c in key),
    "every other escaped": lambda key: "".join(f"\\u{ord(c):04x}" if i % 2 else c for i, c in enumerate(key)),
    "base64 four times": lambda key: functools.reduce(
        lambda k, _: base64.b64encode(k), range(4), key.encode()
    ).decode(),
    "base64 of gzip": lambda key: base64.b64encode(gzip.compress(key.encode())).decode(),
    "base32 of hexadecimals": lambda key: base64.b32hexencode(key.encode()).decode(),
    "one number": lambda key: str(int.from_bytes(key.encode(), "big")),
    "EBCDIC": lambda key: key.encode("cp500").hex(),
    "seven bits": lambda key: " ".join(f"{ord(c):07b}" for c in key),
    "Cyrillic": lambda key: key.translate(str.maketrans("aceopxy", "\u0430\u0441\u0435\u043e\u0440\u0445\u0443")),
    "accents": lambda key: "".join(c + "\u0301" for c in key),
    "moved by one": lambda key: "".join(chr(ord(c) + 1) for c in key),
    "pairs turned": lambda key: "".join(key[i : i + 2][::-1] for i in range(0, len(key), 2)),
    "chunks backwards": lambda key: " ".join(key[i : i + 4] for i in range(0, len(key), 4)[::-1]),
    "words between": lambda key: " and ".join(key[i : i + 3] for i in range(0, len(key), 3)),
    "several fields": lambda key: json.dumps({f"part{i}": key[i : i + 5] for i in range(0, len(key), 5)}),
    "the second half": lambda key: key[len(key) // 2 :],
    "the first half in base64": lambda key: base64.b64encode(key[: len(key) // 2].encode()).decode(),
}


def parts(text, size=6):
    return {text[i : i + size] for i in range(len(text) - size + 1)}


def nothing_of(text, told):
    assert not parts(KEY) & parts(told)
    assert not parts(text) & parts(told), told


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_key_is_shown_in_no_encoding(encoding):
    said = ENCODINGS[encoding](KEY)
    secrets = Secrets([KEY])
    for text in (
        said,
        f"unauthorised: {said} is not a key",
        "x" * 190 + " " + said,
        said + " " + "y" * 300,
        f"{said} " * 20,
    ):
        told = secrets.shown(text)
        nothing_of(said, told)
        assert told.isprintable()
        assert len(told) <= 200


def test_other_texts_are_shown_as_they_are():
    secrets = Secrets([KEY])
    for text in ("Model m not found", "shape (1, 3) is not [-1, 4]; 0x1f 255 17", "b64 aGVsbG8gd29ybGQ= {'a': 1}"):
        assert secrets.shown(text) == text
    assert secrets.shown(f"no {KEY} here") == "no *** here"
    assert Secrets(["abc"]).shown("abc or YWJj") == "*** or YWJj", "a short one in its own form only"
    assert Secrets().shown("a\x1b[31m\nb\u202e") == "a [31m b"


@pytest.fixture
def keyed(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("ZORACLE_TEST_KEY", KEY)
    return {"api_key_env": "ZORACLE_TEST_KEY", "api_key_header": "X-Key", **QUICK}


INPUT = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}


@pytest.mark.parametrize("encoding", list(ENCODINGS)[:34])
def test_no_error_and_no_report_holds_the_key(keyed, encoding):
    said = ENCODINGS[encoding](KEY)

    def refuse(handler, body):
        kind = handler.server.kind
        if kind == "body":
            return handler.send(b"no: " + said.encode(), status=400)
        if kind == "location":
            return handler.send(b"", status=302, headers={"Location": quote(said, safe="%/:+&;=\\")})
        name = said if kind == "name" else "y"
        shape = [said] if kind == "shape" else [len(parse(body, None)[1]), 3]
        data = [0.0] * 3
        one = {"name": name, "datatype": said if kind == "datatype" else "FP32", "shape": shape, "data": data}
        return handler.send_json({"error": said} if kind == "error" else {"outputs": [one]})

    with Server(respond=refuse, inputs=[INPUT]) as server:
        for kind in ("body", "location", "error", "name", "shape", "datatype"):
            server.kind = kind
            with OpenInference(server.url, **keyed) as box, pytest.raises(InputError) as caught:
                box(torch.zeros(2, 4))
            nothing_of(said, str(caught.value))
        server.inputs = [{**INPUT, "name": said, "shape": [-1, 5]}]
        with OpenInference(server.url, **keyed) as box:
            nothing_of(said, json.dumps(box.report(), ensure_ascii=False))
            with pytest.raises(InputError) as caught:
                box(torch.zeros(2, 4))
            nothing_of(said, str(caught.value))
        server.inputs = [{**INPUT, "datatype": said}]
        with pytest.raises(InputError) as caught:
            OpenInference(server.url, **keyed)
        nothing_of(said, str(caught.value))


@pytest.mark.parametrize("key", ["y", "0.5", "FP32", "scores", "outputs", "125000"])
def test_a_key_that_stands_in_answers_rewrites_none(monkeypatch, key):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("ZORACLE_TEST_KEY", key)

    def model(array):
        return array[:, :3] * 0 + 0.125

    told = {"inputs": [INPUT], "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}]}
    settings = {"api_key_env": "ZORACLE_TEST_KEY", **QUICK}
    with Server(model, **told) as server, OpenInference(server.url, **settings) as box:
        assert box(torch.zeros(2, 4)).tolist() == [[0.125] * 3] * 2


def test_escape_sequences_of_a_server_do_not_reach_a_terminal(keyed):
    told = {"inputs": [{**INPUT, "name": "\x1b]0;x\x07\u202eimages"}]}
    with Server(lambda a: a[:, :3], **told) as server, OpenInference(server.url, **QUICK) as box:
        assert box.report()["input"].isprintable()
        with pytest.raises(InputError) as caught:
            box(torch.zeros(2, 5))
        assert str(caught.value).isprintable()


def test_left_out_is_said():
    assert Secrets([KEY]).shown(base64.b64encode(KEY.encode()).decode()) == LEFT_OUT


def test_nothing_shows_a_servers_text_but_one_place():
    """Whoever shows something of a server asks Secrets: error_text is decoded, and not fit to be shown."""
    folder = Path(sys.modules["zoracle.blackboxes"].__file__).parent
    connection = (folder / "connection.py").read_text()
    users = [path.name for path in folder.glob("*.py") if "error_text(" in path.read_text()]
    assert sorted(users) == ["connection.py", "v2_protocol.py"]
    assert connection.count("error_text(body)") == 2
