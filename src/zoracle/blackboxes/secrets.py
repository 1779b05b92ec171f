"""What a server said, as it may be shown: one short printable line that repeats no key, in no usual encoding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from zoracle.blackboxes.decodings import forms, letters, visible
from zoracle.blackboxes.v2_protocol import clip
from zoracle.errors import InputError

#: Shown instead of a text that repeats a key in another form than its own.
LEFT_OUT = "(left out: it repeats a key)"

#: So many characters of a key in a row are a part of it that must not be shown.
_PART = 6
#: A key of so many characters, so many of them no small letters, is known by its letters in whatever order.
_LONG, _MIXED = 16, 6


class Secrets:
    """Keys, and the one place where a text from a server is made fit to be shown.

    Its own form of a key is replaced by ``***``. Then the text is decoded in every usual way, also several times:
    escapes of JSON, C, CSS, URLs, HTML and quoted-printable, bases from 2 to 85 and integers, packed or not, lists
    of character codes, EBCDIC, letters of other widths, scripts, cases or with anything between them. Where that gives
    six characters of a key in a row, forwards or backwards, or moved along the alphabet, the whole text is left out; so
    it is where nearly all characters of a long key are there in another order. It is cut to size last.

    Args:
        values: the keys. One of fewer than six characters is looked for in its own form only.
    """

    def __init__(self, values: Sequence[str] = ()) -> None:
        self._values = sorted({value for value in values if value}, key=len, reverse=True)
        self._parts = {
            part for value in self._values for squash in (letters, visible) for part in _windows(squash(value), _PART)
        }
        # Differences of neighbours stay the same where all characters move along; backwards, they turn round.
        steps = {part for value in self._values for step in _steps(value) for part in _windows(step, _PART)}
        steps = {step for step in steps if len(set(step)) > 2}
        self._steps = steps | {_turned_round(step) for step in steps}
        self._mixed = [
            Counter(value)
            for value in map(visible, self._values)
            if len(value) >= _LONG and sum(not c.islower() for c in value) >= _MIXED
        ]

    def shown(self, text: str, length: int = 200) -> str:
        """A text from elsewhere in one line of printable characters, without keys, and not longer than this."""
        for value in self._values:
            text = text.replace(value, "***")
        # What is not shown cannot tell a key, and what is just behind the end shows that a part of one stands there.
        line = clip(text, length + 200)
        if (self._parts and any(map(self._repeats, forms(line)))) or self._moved(line):
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
        return any(part in squashed for squashed in (letters(form), visible(form)) for part in self._parts)

    def _moved(self, line: str) -> bool:
        """Whether a key is there with its characters moved along the alphabet, or in another order."""
        if any(step in steps for steps in _steps(line) for step in self._steps):
            return True
        there = Counter(line)
        return any(sum((mixed & there).values()) > 0.9 * mixed.total() for mixed in self._mixed)


def _windows(text: str, size: int) -> set[str]:
    return {text[i : i + size] for i in range(len(text) - size + 1)}


def _steps(text: str) -> tuple[str, ...]:
    """Differences of neighbours as characters: of codes, and of letters alone in the circle of the alphabet."""
    codes = [ord(c) for c in visible(text)]
    places = [ord(c) - 97 for c in visible(text).lower() if c.isalpha()]
    return (
        "".join(chr(1000 + b - a) for a, b in pairwise(codes)),
        "".join(chr(2000 + (b - a + 13) % 26) for a, b in pairwise(places)),
    )


def _turned_round(steps: str) -> str:
    middle = 1000 if ord(steps[0]) < 1500 else 2013
    return "".join(chr(2 * middle - ord(c)) for c in reversed(steps))
