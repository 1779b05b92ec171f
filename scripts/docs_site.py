"""What the documentation site is made of, beside the pages in docs: a hook of MkDocs (mkdocs.yml).

It takes the README, the results and other pages at the top of the repository onto the site, writes the pages of the API
reference, turns links between files of the repository into links between pages, and renders formulas as MathML. The
build fails where a public name has no docstring and where a link leads nowhere.
"""

from __future__ import annotations

import ast
import inspect
import posixpath
import re
from collections.abc import Callable, Iterator
from html import unescape
from importlib import import_module
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from zoracle.optimizers.registry import REGISTRY

ROOT = Path(__file__).parents[1]

#: Pages of the site that are files elsewhere in the repository.
TAKEN = {
    "index.md": "README.md",
    "results.md": "results/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}

#: Files that pages link to, taken as they are.
PLAIN = ("CITATION.cff", "LICENSE", "NOTICE")

#: The modules whose ``__all__`` is public, each a page of the reference.
PUBLIC = (
    "zoracle",
    "zoracle.optimizers",
    "zoracle.objectives",
    "zoracle.tasks",
    "zoracle.blackboxes",
    "zoracle.rollout",
    "zoracle.images",
    "zoracle.finetune",
    "zoracle.testing",
    "zoracle.types",
    "zoracle.errors",
)

_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.DOTALL)


def public_names(module: str) -> tuple[str, ...]:
    """The names in a module's ``__all__``: functions first, then classes, then what is left."""
    there = import_module(module)

    def kind(name: str) -> int:
        thing = getattr(there, name)
        return 0 if inspect.isroutine(thing) else 1 if inspect.isclass(thing) else 2

    return tuple(sorted(getattr(there, "__all__", ()), key=kind))


def undocumented(module: str) -> Iterator[str]:
    """Public functions and classes of a module, and public methods of these classes, that have no docstring."""
    for name in public_names(module):
        thing = getattr(import_module(module), name)
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        if not own_docstring(thing):
            yield f"{module}.{name}"
        if isinstance(thing, type):
            for method, value in vars(thing).items():
                plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
                is_method = callable(plain) or isinstance(plain, property)
                described = any(getattr(getattr(base, method, None), "__doc__", None) for base in thing.__mro__)
                if not method.startswith("_") and is_method and not described:
                    yield f"{module}.{name}.{method}"


def own_docstring(thing: Any) -> str | None:
    """The docstring of a function or a class, not that of a base class or one that Python makes up."""
    text: str | None = vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__
    made_up = isinstance(thing, type) and text is not None and text.startswith(f"{thing.__name__}(")
    return None if made_up else text


def reference_page(module: str) -> str:
    """The page of the reference about a module, in Markdown that mkdocstrings fills."""
    doc = ast.get_docstring(ast.parse(Path(str(import_module(module).__file__)).read_text(encoding="utf-8"))) or ""
    parts = [f"# {module}", doc, *(f"::: {module}.{name}" for name in public_names(module))]
    return "\n\n".join(parts) + "\n"


def optimizers_page() -> str:
    """Every optimizer that has a name, with its settings, in Markdown that mkdocstrings fills."""
    names: dict[type[Any], list[str]] = {}
    for name, entry in REGISTRY.items():
        names.setdefault(type(entry.make()), []).append(name)
    parts = [
        "# Optimizers by name",
        "`zoracle.load(NAME, **settings)` makes each of these, and so does `optimizer=NAME` of `minimize` and "
        "`attack`. `zoracle optimizers` lists them with the trained ones.",
    ]
    for cls, of_class in names.items():
        parts.append(f"## {', '.join(f'`{name}`' for name in of_class)}")
        parts += [f"- `{name}`: {REGISTRY[name].summary}" for name in of_class]
        for thing in (cls, cls.Config):
            parts.append(f"::: {thing.__module__}.{thing.__qualname__}\n    options:\n" + _BRIEF)
    return "\n\n".join(parts) + "\n"


_BRIEF = "      members: false\n      heading_level: 3\n      show_bases: true\n"


def examples_page() -> str:
    """The examples with their code, in Markdown."""
    parts = ["# Examples", "Each of them runs as it stands, from a clone of the repository, and in the tests."]
    for path in sorted((ROOT / "examples").rglob("*.py")):
        code = path.read_text(encoding="utf-8")
        title = (ast.get_docstring(ast.parse(code)) or path.stem).split("\n")[0].removesuffix(".")
        name = path.relative_to(ROOT).as_posix()
        parts.append(f"## {title}\n\n`{name}`\n\n```python\n{code.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def generated() -> dict[str, Callable[[], str]]:
    """The pages that are in no folder: their place on the site, and what makes them."""
    pages: dict[str, Callable[[], str]] = {
        page: lambda file=file: (ROOT / file).read_text(encoding="utf-8")  # type: ignore[misc]
        for page, file in TAKEN.items()
    }
    pages["examples.md"] = examples_page
    pages["reference/optimizers.md"] = optimizers_page
    for module in PUBLIC:
        pages[f"reference/{module}.md"] = lambda module=module: reference_page(module)  # type: ignore[misc]
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the reference into the navigation."""
    entries: list[Any] = []
    for entry in config.nav or []:
        if entry == {"API reference": "reference/"}:
            entry = {
                "API reference": [
                    *({module: f"reference/{module}.md"} for module in PUBLIC),
                    {"Optimizers by name": "reference/optimizers.md"},
                ]
            }
        entries.append(entry)
    config.nav = entries
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the pictures that they show."""
    if bare := sorted(name for module in PUBLIC for name in undocumented(module)):
        raise PluginError(f"public names without a docstring: {', '.join(bare)}")
    for name in PLAIN:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for place, make in generated().items():
        text = make()
        files.append(File.generated(config, place, content=text))
        source = posixpath.dirname(TAKEN.get(place, ""))
        for link in _LINK.findall(_FENCE.sub("", text)):
            path = posixpath.normpath(posixpath.join(source, link))
            if path.endswith((".svg", ".png")) and not path.startswith("docs/") and (ROOT / path).is_file():
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to pages of the site."""
    del config
    place = page.file.src_uri
    source = TAKEN.get(place, f"docs/{place}")

    def moved(match: re.Match[str]) -> str:
        link = match[1]
        if re.match(r"[a-z]+:", link) or link.startswith("#"):
            return link
        path, hash_sign, anchor = link.partition("#")
        there = site_place(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)), files)
        if there is None:
            raise PluginError(f"{source} links to {link}, which is not on the site")
        return posixpath.relpath(there, posixpath.dirname(place) or ".") + hash_sign + anchor

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(moved, part) for part in parts)


def site_place(path: str, files: Files) -> str | None:
    """The place on the site of a file of the repository; None where it is not on it."""
    for place, file in TAKEN.items():
        if file == path:
            return place
    if path == "examples" or path.startswith("examples/"):
        return "examples.md"
    place = path.removeprefix("docs/")
    return place if files.get_file_from_path(place) is not None else None


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Render formulas as MathML, which browsers show without any script."""
    del page, config, files
    return _FORMULA.sub(mathml, html)


def mathml(match: re.Match[str]) -> str:
    """A formula that arithmatex has marked, as MathML."""
    inline, block = match[2], match[3]
    return convert(unescape(inline or block), display="inline" if inline else "block")
