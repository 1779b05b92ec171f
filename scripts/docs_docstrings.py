"""An extension of Griffe: docstrings in the dialect of the source, with roles, as Markdown for the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`(~?)([\w.]+)`")
_FORMULA = re.compile(r":math:`([^`]+)`")
_BLOCK = re.compile(
    r"^(?P<indent> *)\.\. math::(?P<first>[^\n]*)\n(?P<rest>(?:(?P=indent) +[^\n]*\n|\s*\n)*)", re.MULTILINE
)


def as_markdown(text: str, scope: griffe.Object | None = None) -> str:
    """A docstring with its roles and formulas in Markdown; names link to the reference where they are on it."""

    def link(match: re.Match[str]) -> str:
        name = match[2].rpartition(".")[2] if match[1] else match[2]
        target = match[2]
        if scope is not None:
            try:
                target = scope.resolve(match[2])
            except griffe.NameResolutionError:
                member = scope.members.get(match[2])
                target = member.path if member is not None else match[2]
        return f'<autoref identifier="{target}" optional><code>{name}</code></autoref>'

    def block(match: re.Match[str]) -> str:
        lines = [match["first"].strip(), *(line.strip() for line in match["rest"].split("\n"))]
        formula = " ".join(line for line in lines if line)
        return f"{match['indent']}$${formula}$$\n\n"

    text = _BLOCK.sub(block, text + "\n").rstrip("\n")
    return _ROLE.sub(link, _FORMULA.sub(lambda match: f"${match[1]}$", text))


class Docstrings(griffe.Extension):
    """Translates each docstring when it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Translate the docstrings of a whole package, once all of its names are known."""
        self._translate(pkg)

    def _translate(self, thing: griffe.Object) -> None:
        if thing.docstring is not None:
            thing.docstring.value = as_markdown(thing.docstring.value, thing)
        for member in thing.members.values():
            if isinstance(member, griffe.Object):
                self._translate(member)
