"""Classes by number or by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from zoracle.errors import InputError

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_SHOWN = 10


class Numbering(NamedTuple):
    """How what stands for a class in a file becomes its number."""

    names: tuple[str, ...]
    """Names in the order of their numbers; none where classes are told by number alone."""
    notes: tuple[str, ...] = ()
    """What the reader of the data should be told."""

    @classmethod
    def of(cls, texts: Iterable[str], classes: tuple[str, ...] | None) -> Numbering:
        """The numbering of texts that stand for classes.

        Args:
            texts: every one of them; all numbers, or all names. With ``classes`` both may be there.
            classes: names in the model's order; None sorts the names that there are.

        Raises:
            InputError: some are numbers and some are names.
        """
        if classes is not None:
            return cls(classes)
        every = sorted(set(texts))
        words = [text for text in every if not _WHOLE.fullmatch(text)]
        if not words:
            return cls(())
        if len(words) < len(every):
            number = next(text for text in every if _WHOLE.fullmatch(text))
            raise InputError(
                f"classes are given by name ({words[0]!r}) and by number ({number}); expected one kind, "
                "or a file with the names of the classes"
            )
        told = ", ".join(f"{i} {name}" for i, name in enumerate(words[:_SHOWN]))
        more = ", ..." if len(words) > _SHOWN else ""
        return cls(tuple(words), (f"classes are numbered as their names sort: {told}{more}",))

    def number(self, text: str, where: str) -> int:
        """The number of a class.

        Args:
            text: its name or its number.
            where: the place in the data, for errors.

        Raises:
            InputError: there is no such class.
        """
        if text in self.names:
            return self.names.index(text)
        if _WHOLE.fullmatch(text):
            number = int(text)
            if number < 0 or (self.names and number >= len(self.names)):
                limit = f"0 .. {len(self.names) - 1}" if self.names else "0 or more"
                raise InputError(f"{where}: class {number} is out of range; expected {limit}")
            return number
        if not self.names:
            raise InputError(f"{where}: {text[:40]!r} is not a class; expected an integer")
        close = get_close_matches(text, self.names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"{where}: {text[:40]!r} is not one of the {len(self.names)} classes{hint}")


def read_classes(path: Path) -> tuple[str, ...]:
    """Names of classes in their order, one per line of a text file; a name that comes twice gets its number behind it.

    ImageNet has two cranes: "crane (134)" and "crane (517)".

    Raises:
        InputError: it cannot be read, holds fewer than two names, or an empty line.
    """
    names = tuple(line.strip() for line in read_text(path, "the names of classes").rstrip("\n").split("\n"))
    for number, name in enumerate(names, 1):
        if not name:
            raise InputError(f"{path}, line {number} is empty; expected the name of a class")
    if len(names) < 2:
        raise InputError(f"{path} names {len(names)} class; expected at least 2, one per line")
    times = Counter(names)
    return tuple(name if times[name] == 1 else f"{name} ({number})" for number, name in enumerate(names))


def read_text(path: Path, what: str) -> str:
    """A text file, UTF-8 with or without a mark, with lines that end as they do here.

    Raises:
        InputError: it cannot be read, or is not text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise InputError(f"{path} is not UTF-8 text; expected {what}") from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{path} cannot be read ({reason}); expected {what}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
