"""A release: what has to agree before it is published, and its notes.

    python -m scripts.release check v0.1.0
    python -m scripts.release notes v0.1.0

"check" ends with one line and exit code 1 where the tag, the version and the changelog do not agree; "notes" prints the
section of the changelog.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
_SECTION = re.compile(r"^## \[(?P<version>[^\]]+)\] - (?P<date>.+)\n(?P<text>(?:(?!## ).*\n?)*)", re.MULTILINE)


def version(root: Path = ROOT) -> str:
    """The version that the package says it has."""
    text = (root / "src" / "zoracle" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    assert found is not None
    return found[1]


def sections(root: Path = ROOT) -> dict[str, tuple[str, str]]:
    """The sections of the changelog: a version, its date and its text."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    return {part["version"]: (part["date"].strip(), part["text"].strip()) for part in _SECTION.finditer(text)}


def problems(tag: str, root: Path = ROOT) -> list[str]:
    """What keeps a tag from being released, one line each."""
    here = version(root)
    found = []
    if tag != f"v{here}":
        found.append(f"the tag is {tag} and the version {here}; expected v{here}, or another __version__")
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", here):
        found.append(f"the version is {here}; expected MAJOR.MINOR.PATCH, a pre-release with a1, b1 or rc1 behind it")
    date, text = sections(root).get(here, ("", ""))
    if not text:
        found.append(f"CHANGELOG.md has no section [{here}] with notes")
    elif not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        found.append(f"CHANGELOG.md dates [{here}] {date!r}; expected the day of the release, YYYY-MM-DD")
    return found


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands."""
    if len(arguments) != 2 or arguments[0] not in ("check", "notes"):
        print("expected: check TAG, or notes TAG", file=sys.stderr)
        return 2
    command, tag = arguments
    if command == "notes":
        print(sections()[tag.removeprefix("v")][1])
        return 0
    found = problems(tag)
    print("\n".join(found) or f"{tag} can be released", file=sys.stderr if found else sys.stdout)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
