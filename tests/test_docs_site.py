"""The hooks that make the documentation site: what they translate, and what they refuse. `make docs` builds it."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from scripts import docs_docstrings, docs_site


def site(*places: str) -> tuple[Files, MkDocsConfig]:
    config = MkDocsConfig()
    config.load_dict({"site_name": "zoracle"})
    config.validate()
    return Files([File(place, "docs", "site", use_directory_urls=False) for place in places]), config


def moved(place: str, markdown: str, *places: str) -> str:
    files, config = site(place, *places)
    page = Page(None, files.get_file_from_path(place), config)
    return docs_site.on_page_markdown(markdown, page, config, files)


def test_links_between_files_become_links_between_pages() -> None:
    to = ("results.md", "choosing.md", "index.md", "examples.md", "results/a/best.svg")
    assert moved("index.md", "[a](docs/choosing.md#x)", *to) == "[a](choosing.md#x)"
    assert moved("choosing.md", "[a](../results/README.md)", *to) == "[a](results.md)"
    assert moved("notebooks/n.md", "[a](../../README.md#data)", *to) == "[a](../index.md#data)"
    assert moved("results.md", "![a](a/best.svg)", *to) == "![a](results/a/best.svg)"
    assert moved("choosing.md", "[a](../examples/x.py)", *to) == "[a](examples.md)"
    kept = "[a](https://example.org/x.md) [b](#there)\n\n```md\n[c](nowhere.md)\n```\n"
    assert moved("choosing.md", kept, *to) == kept
    with pytest.raises(PluginError, match=r"docs/choosing.md links to ../src, which is not on the site"):
        moved("choosing.md", "[a](../src)", *to)


SOURCE = '''
"""A module."""

__all__ = ["NUMBER", "Bare", "Fine", "function"]
NUMBER = 3


class Bare:
    def method(self):
        pass

    @classmethod
    def make(cls):
        """Described."""

    @property
    def size(self):
        pass

    def _hidden(self):
        pass


class Fine(Bare):
    """Described."""

    def method(self):
        """Described."""


def function():
    pass
'''


def test_what_has_no_docstring_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("a_module")
    exec(SOURCE, module.__dict__)
    monkeypatch.setitem(sys.modules, "a_module", module)
    assert docs_site.public_names("a_module") == ("function", "Bare", "Fine", "NUMBER")
    found = ["a_module.Bare", "a_module.Bare.method", "a_module.Bare.size", "a_module.function"]
    assert sorted(docs_site.undocumented("a_module")) == found
    monkeypatch.setattr(docs_site, "PUBLIC", ("a_module",))
    with pytest.raises(PluginError, match=r"public names without a docstring: a_module.Bare, a_module.Bare.method"):
        docs_site.on_files(*site())


def test_every_public_name_has_a_docstring_and_a_place() -> None:
    for module in docs_site.PUBLIC:
        assert not list(docs_site.undocumented(module))
        page = docs_site.reference_page(module)
        for name in docs_site.public_names(module):
            assert f"::: {module}.{name}\n" in page


def test_every_optimizer_with_a_name_has_a_place() -> None:
    page = docs_site.optimizers_page()
    for name, entry in docs_site.REGISTRY.items():
        cls = type(entry.make())
        assert f"`{name}`" in page
        assert f"::: {cls.__module__}.{cls.__name__}\n" in page
        assert f"::: {cls.Config.__module__}.{cls.Config.__name__}\n" in page


def test_every_example_has_a_place() -> None:
    page = docs_site.examples_page()
    for path in docs_site.ROOT.glob("examples/**/*.py"):
        assert f"`{path.relative_to(docs_site.ROOT).as_posix()}`" in page


def test_docstrings_become_markdown() -> None:
    text = "A line.\n\nWith :math:`x_i`,\n\n.. math:: f(x) = x\n\nand\n\n.. math::\n\n   g = \\\\\n     h\n\n"
    text += "See :class:`~a.b.C`."
    assert docs_docstrings.as_markdown(text) == (
        "A line.\n\nWith $x_i$,\n\n$$f(x) = x$$\n\nand\n\n$$g = \\\\ h$$\n\n"
        'See <autoref identifier="a.b.C" optional><code>C</code></autoref>.'
    )


def test_names_in_docstrings_are_resolved_where_they_stand(tmp_path: Path) -> None:
    griffe = pytest.importorskip("griffe")
    (tmp_path / "shelf.py").write_text(
        'from os import path as p\n\n\nclass Book:\n    """See :meth:`read` and :func:`lend`."""\n\n'
        '    def read(self):\n        """Of :class:`Book`, unlike :func:`nothing`."""\n\n\n'
        'def lend():\n    """Lend."""\n'
    )
    extensions = griffe.load_extensions(docs_docstrings.Docstrings)
    module = griffe.load("shelf", search_paths=[tmp_path], extensions=extensions)
    assert 'identifier="shelf.Book.read"' in module["Book"].docstring.value
    assert 'identifier="shelf.lend"' in module["Book"].docstring.value
    assert 'identifier="shelf.Book"' in module["Book.read"].docstring.value
    assert 'identifier="nothing"' in module["Book.read"].docstring.value


def test_formulas_become_mathml() -> None:
    html = '<p><span class="arithmatex">\\(a &lt; b\\)</span></p><div class="arithmatex">\\[x^2\\]</div>'
    files, config = site("a.md")
    page = Page(None, files.get_file_from_path("a.md"), config)
    rendered = docs_site.on_page_content(html, page, config, files)
    assert rendered.count("<math") == 2
    assert 'display="block"' in rendered
    assert "&lt;" in rendered or "&#x0003C;" in rendered
    assert "arithmatex" not in rendered
