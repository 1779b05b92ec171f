"""What a server said, as it may be shown: one short printable line that repeats no key, in no usual encoding."""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import string
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import unquote

from zoracle.blackboxes.v2_protocol import clip
from zoracle.errors import InputError

#: Shown instead of a text that repeats a key in another form than its own.
LEFT_OUT = "(left out: it repeats a key)"

#: So many characters of a key in a row are a part of it that must not be shown.
_PART = 6
#: Encodings on top of each other that are looked through, and texts looked at in all.
_DEPTH, _FORMS = 3, 400


class Secrets:
    """Keys, and the one place where a text from a server is made fit to be shown.

    Its own form of a key is replaced by ``***``. Then the text is decoded in every usual way, also several times:
    escapes of JSON, C, URLs, HTML and quoted-printable, base 64, 32, 85, 16, 8 and 2, lists of character codes, rot13,
    read backwards, letters of other widths, cases or with anything between them. Where that gives six characters of a
    key in a row, the whole text is left out. It is cut to size last.

    Args:
        values: the keys. One of fewer than six characters is looked for in its own form only.
    """

    def __init__(self, values: Sequence[str] = ()) -> None:
        self._values = sorted({value for value in values if value}, key=len, reverse=True)
        parts: set[str] = set()
        for value in self._values:
            for squash in (_letters, _visible):
                found = squash(value)
                parts |= {found[i : i + _PART] for i in range(len(found) - _PART + 1)}
        self._parts = parts

    def shown(self, text: str, length: int = 200) -> str:
        """A text from elsewhere in one line of printable characters, without keys, and not longer than this."""
        for value in self._values:
            text = text.replace(value, "***")
        # What is not shown cannot tell a key, and what is just behind the end shows that a part of one stands there.
        line = clip(text, length + 200)
        if any(self._repeats(form) for form in _forms(line, bool(self._parts))):
            return LEFT_OUT
        return clip(line, length)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Errors that are raised meanwhile hold no keys: names that a server tells are in them."""
        try:
            yield
        except InputError as error:
            shown = self.shown(str(error), 1000)
            if shown == str(error):
                raise
            raise type(error)(shown) from None

    def _repeats(self, form: str) -> bool:
        return any(part in squashed for squashed in (_letters(form), _visible(form)) for part in self._parts)


def _letters(text: str) -> str:
    """Letters and digits only, of one case and width."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum() and c.isascii())


def _visible(text: str) -> str:
    return "".join(c for c in text if "!" <= c <= "~")


def _forms(text: str, wanted: bool) -> Iterator[str]:
    """The text and what it may be decoded to."""
    if not wanted:
        return
    seen, layer = {text}, [text]
    yield text
    for _ in range(_DEPTH):
        following: list[str] = []
        for one in layer:
            for decode in _DECODERS:
                for form in decode(one):
                    if form and form not in seen and len(seen) < _FORMS:
                        seen.add(form)
                        yield form
                        if readable := _readable(form):
                            following.append(readable)
        layer = following


def _readable(form: str) -> str:
    """What of a text may be one, and is no garbage of decoding what was no code."""
    return " ".join(re.findall(r"[ -~]{8,}", form.replace("\0", "")))


_ESCAPE = re.compile(
    r"\\u\{([0-9a-fA-F]{1,6})\}|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})|\\x\{?([0-9a-fA-F]{2})\}?|%u([0-9a-fA-F]{4})"
    r"|U\+([0-9a-fA-F]{4,6})|=([0-9a-fA-F]{2})|\\([0-7]{3})"
)


def _escapes(text: str) -> Iterator[str]:
    def char(found: re.Match[str]) -> str:
        if found[8] is not None:
            return chr(int(found[8], 8))
        code = int(next(group for group in found.groups() if group is not None), 16)
        return chr(code) if code < 0x110000 else ""

    yield re.sub(r"\\(.)", r"\1", _ESCAPE.sub(char, text))
    yield unquote(text, errors="replace")
    yield html.unescape(text)


def _turned(text: str) -> Iterator[str]:
    yield text[::-1]
    yield codecs.encode(text, "rot13")
    # rot47, and letters counted from the other end of the alphabet
    yield "".join(chr(33 + (ord(c) + 14) % 94) if "!" <= c <= "~" else c for c in text)
    yield "".join(chr(219 - ord(c)) if "a" <= c <= "z" else chr(155 - ord(c)) if "A" <= c <= "Z" else c for c in text)


def _codes(text: str) -> Iterator[str]:
    """Codes of characters: decimal or octal numbers, pairs of hexadecimal digits, eight bits."""
    for base, pattern in ((10, r"\d{2,3}"), (8, r"[0-7]{2,3}"), (16, r"[0-9a-fA-F]{2}"), (2, r"[01]{8}")):
        found = [int(number, base) for number in re.findall(rf"(?<![0-9a-fA-F]){pattern}(?![0-9a-fA-F])", text)]
        if len(found) >= 3:
            yield "".join(map(chr, found))
    for run in re.findall(r"[0-9a-fA-F]{6,}", re.sub(r"[\s:,;_-]|0x", "", text)):
        for digits in (run, run[1:]):
            yield bytes.fromhex(digits[: len(digits) // 2 * 2]).decode("latin-1")
    bits = re.sub(r"[^01]", "", text)
    if len(bits) >= 24:
        for start in range(8):
            whole = bits[start : start + (len(bits) - start) // 8 * 8]
            yield "".join(chr(int(whole[i : i + 8], 2)) for i in range(0, len(whole), 8))


def _bases(text: str) -> Iterator[str]:
    """Runs of base 64, 32 and 85, wherever they begin."""
    unspaced = re.sub(r"\s", "", text).translate(str.maketrans("-_", "+/"))
    # uuencode has the same numbers by other letters, after one that is the length.
    for run in (*re.findall(r"[A-Za-z0-9+/]{6,}", unspaced), *_other_letters(text)):
        for start in range(4):
            yield _decoded(lambda part: base64.b64decode(part + "=" * (-len(part) % 4)), run[start:], 4)
    for run in re.findall(r"[A-Za-z2-7]{8,}", unspaced):
        for start in range(8):
            yield _decoded(lambda part: base64.b32decode(part.upper() + "=" * (-len(part) % 8)), run[start:], 8)
    for run in re.findall(r"[0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]{8,}", text):
        for start in range(5):
            yield _decoded(base64.b85decode, run[start:], 5)
    for run in re.findall(r"\S{8,}", text):
        for start in range(5):
            yield _decoded(base64.a85decode, run[start:], 5)


_BASE64 = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
_UU = str.maketrans({chr(32 + i): letter for i, letter in enumerate(_BASE64)} | {"`": _BASE64[0]})


def _other_letters(text: str) -> Iterator[str]:
    for run in re.findall(r"[!-`]{8,}", text):
        yield run.translate(_UU)


def _decoded(decode: Callable[[str], bytes], run: str, block: int) -> str:
    """What a run decodes to, its unfinished last block left out where it cannot be; "" where it is no such thing."""
    for part in (run, run[: len(run) // block * block]):
        try:
            return decode(part).decode("latin-1")
        except (ValueError, binascii.Error):
            continue
    return ""


_DECODERS = (_escapes, _turned, _codes, _bases)
