"""What a text may say in other encodings than its own: escapes, bases, codes, packed or not, in whatever order."""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import string
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from urllib.parse import unquote

#: Encodings on top of each other that are looked through, and texts looked at in all.
_DEPTH, _FORMS = 3, 1000
#: Layers of one encoding that are taken off one after another.
_LAYERS = 8

#: Letters of other alphabets that look like ours.
_ALIKE = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u04bb\u0455\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421"
    "\u0422\u0423\u0425\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf",
    "aeopcyxijhsABEKMHOPCTYXABEZHIKMNOPTYXo",
)


def letters(text: str) -> str:
    """Letters and digits only, of one case, width and script, without accents."""
    plain = unicodedata.normalize("NFKD", text.translate(_ALIKE)).casefold()
    return "".join(c for c in plain if c.isalnum() and c.isascii())


def visible(text: str) -> str:
    """Printable ASCII only."""
    return "".join(c for c in text if "!" <= c <= "~")


def forms(text: str) -> Iterator[str]:
    """The text and what it may be decoded to, also several times."""
    peeled = _peeled(text)
    yield from peeled
    seen, layer = {*peeled}, [*peeled]
    for _ in range(_DEPTH):
        following: list[str] = []
        for one in layer:
            for decode in _DECODERS:
                for form in decode(one):
                    if form and form not in seen and len(seen) < _FORMS:
                        seen.add(form)
                        yield form
                        following += [form] if form[:1] in _PACKED else []
                        following += [readable] if (readable := _readable(form)) else []
        layer = following


#: How bytes that were packed begin.
_PACKED = ("\x1f", "\x78")


def _peeled(text: str) -> list[str]:
    """The text, and what is left of it where one encoding is taken off as often as it goes."""
    found = [text]
    for peel in (unquote, html.unescape, lambda one: re.sub(r"<[^<>]*>|\]\]>", "", one), _base64_once):
        one = text
        for _ in range(_LAYERS):
            before, one = one, peel(one)
            if one == before:
                break
        if one != text:
            found.append(one)
    return found


def _base64_once(text: str) -> str:
    """The text with what decodes from base 64 to readable text decoded."""

    def decoded(run: re.Match[str]) -> str:
        told = _decoded(lambda part: base64.b64decode(part + "=" * (-len(part) % 4)), run[0].rstrip("="), 4)
        return told if told.isprintable() and told.isascii() and told else run[0]

    return re.sub(r"[A-Za-z0-9+/]{8,}={0,2}", decoded, text)


def _readable(form: str) -> str:
    """What of a text may be one, and is not garbage of decoding what was no code."""
    return " ".join(re.findall(r"[ -~]{8,}", form.replace("\0", "")))


_ESCAPE = re.compile(
    r"\\u\{([0-9a-fA-F]{1,6})\}|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})|\\x\{?([0-9a-fA-F]{2})\}?|%u([0-9a-fA-F]{4})"
    r"|U\+([0-9a-fA-F]{4,6})|=([0-9a-fA-F]{2})|\\([0-7]{3})(?![0-9a-fA-F])"
)
_CSS = re.compile(r"\\([0-9a-fA-F]{2,6}) ?")


def _escapes(text: str) -> Iterator[str]:
    def char(found: re.Match[str]) -> str:
        if found[8] is not None:
            return chr(int(found[8], 8))
        code = int(next(group for group in found.groups() if group is not None), 16)
        return chr(code) if code < 0x110000 else ""

    yield re.sub(r"\\(.)", r"\1", _ESCAPE.sub(char, text))
    yield _CSS.sub(lambda found: chr(min(int(found[1], 16), 0x10FFFF)), text)
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
    for run in re.findall(r"\d{9,}", text):
        yield "".join(chr(int(run[i : i + 3])) for i in range(0, len(run) - 2, 3))
    sevens = re.findall(r"(?<![01])[01]{7}(?![01])", text)
    if len(sevens) >= 3:
        yield "".join(chr(int(one, 2)) for one in sevens)
    for part in (text, re.sub(r"[\s:,;_-]|0x", "", text)):
        for run in re.findall(r"[0-9a-fA-F]{6,}", part):
            for digits in (run, run[1:]):
                data = bytes.fromhex(digits[: len(digits) // 2 * 2])
                yield data.decode("latin-1")
                yield data.decode("cp500")
    bits = re.sub(r"[^01]", "", text)
    if len(bits) >= 24:
        for start in range(8):
            whole = bits[start : start + (len(bits) - start) // 8 * 8]
            yield "".join(chr(int(whole[i : i + 8], 2)) for i in range(0, len(whole), 8))


def _bases(text: str) -> Iterator[str]:
    """Runs of base 64, 32 and 85, wherever they begin."""
    unspaced = re.sub(r"\s", "", text).translate(str.maketrans("-_", "+/"))
    # uuencode has the same numbers by other letters, after one that is the length.
    runs = dict.fromkeys((*re.findall(r"[A-Za-z0-9+/]{6,}", unspaced), *re.findall(r"[A-Za-z0-9+/]{8,}", text)))
    for run in (*runs, *_other_letters(text)):
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


#: Alphabets of numbers in other bases: 32 of the other kind, 45, and 85 of the other kind, by letters of the usual.
_HEX32 = str.maketrans(string.digits + string.ascii_uppercase[:22], string.ascii_uppercase + "234567")
_45 = string.digits + string.ascii_uppercase + " $%*+-./:"
_85 = string.digits + string.ascii_uppercase + string.ascii_lowercase + "!#$%&()*+-;<=>?@^_`{|}~"
_Z85 = str.maketrans(string.digits + string.ascii_lowercase + string.ascii_uppercase + ".-:+=^!/*?&<>()[]{}@%$#", _85)
_58 = "".join(c for c in string.digits + string.ascii_uppercase + string.ascii_lowercase if c not in "0OIl")
_62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_NUMBERS = (_58, _62, string.digits + string.ascii_lowercase, string.digits, string.digits + _62[36:] + _62[10:36])


def _numbers(text: str) -> Iterator[str]:
    """What is written as one number, or by other letters of the usual bases, or packed."""
    for run in re.findall(r"[0-9A-Za-z]{8,}", text):
        for digits in _NUMBERS:
            if set(run) <= set(digits):
                number = 0
                for c in run:
                    number = number * len(digits) + digits.index(c)
                yield number.to_bytes((number.bit_length() + 7) // 8, "big").decode("latin-1")
        if set(run.upper()) <= set(_62[:32]):
            yield _decoded(
                lambda part: base64.b32decode(part + "=" * (-len(part) % 8)), run.upper().translate(_HEX32), 8
            )
    for run in re.findall(r"\S{10,}", text):
        yield _decoded(base64.b85decode, run.translate(_Z85), 5)
    for run in re.findall(r"[0-9A-Z$%*+./:-][0-9A-Z $%*+./:-]{8,}", text):
        for part in (run, run[1:], *run.split()):
            found = bytearray()
            for i in range(0, len(part) - 1, 3):
                value = sum(_45.index(c) * 45**n for n, c in enumerate(part[i : i + 3]))
                found += value.to_bytes(3, "big")[-len(part[i : i + 3]) + 1 :]
            yield found.decode("latin-1")
    narrow = text.encode("latin-1", "ignore")
    yield narrow.decode("cp500")
    if text[:1] in ("\x1f", "\x78"):
        try:
            yield zlib.decompressobj(32 + zlib.MAX_WBITS).decompress(narrow, 4096).decode("latin-1")
        except zlib.error:
            return


_BASE64 = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
_UU = str.maketrans({chr(32 + i): letter for i, letter in enumerate(_BASE64)} | {"`": _BASE64[0]})


def _other_letters(text: str) -> Iterator[str]:
    for run in re.findall(r"[!-`]{8,}", text):
        yield run.translate(_UU)


def _decoded(decode: Callable[[str], bytes], run: str, block: int) -> str:
    """What a run decodes to, its unfinished last block left out where it cannot be; "" where it is not a such thing."""
    for part in (run, run[: len(run) // block * block]):
        try:
            return decode(part).decode("latin-1")
        except (ValueError, binascii.Error):
            continue
    return ""


_DECODERS = (_escapes, _turned, _codes, _bases, _numbers)
