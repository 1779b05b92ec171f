"""What the documents say is true: snippets run, commands and links exist, every public name is described."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import torch
from torch.distributed.run import get_args_parser

import zoracle
from zoracle.cli.main import cli
from zoracle.cli.train import recipes
from zoracle.metatrain import config as configs
from zoracle.optimizers.pretrained import shipped

ROOT = Path(__file__).parents[1]
_PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "results/README.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
)
PAGES = [page for page in _PAGES if page.is_file()]  # a source archive holds fewer
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
SOURCES = sorted((ROOT / "src" / "zoracle").rglob("*.py"))

#: Stands before a block: it needs a trained optimizer ("trained"), or optional packages, named as they are imported.
_NEEDS = re.compile(r"<!-- needs: ([\w, ]+) -->\s*\Z")
NONE_SHIPPED = "no trained optimizer is shipped yet, and this loads one"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


class Block(NamedTuple):
    language: str
    code: str
    line: int
    needs: frozenset[str]

    def missing(self) -> list[str]:
        there = {"trained": bool(shipped())}
        return sorted(need for need in self.needs if not there.get(need, find_spec(need) is not None))


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        needs = _NEEDS.search(before)
        names = frozenset(needs[1].replace(",", " ").split() if needs else ())
        found.append(Block(match[1], match[2], before.count("\n") + 1, names))
    return [block for block in found if block.language in languages]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own, and the global generator put back: a reader's code may use it, the package may not."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_blocks_run_in_order(page: Path) -> None:
    namespace = {"__name__": "docs"}
    left_out = []
    for block in blocks(page, "python"):
        if missing := block.missing():
            left_out.append(f"line {block.line} needs {', '.join(missing)}")
            continue
        # Padded, so that a traceback names the line of the page.
        exec(compile("\n" * block.line + block.code, str(page), "exec"), namespace)
    if left_out:
        pytest.skip(f"the other blocks run, and these are left out: {'; '.join(left_out)}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_its_language(page: Path) -> None:
    """So that none escapes the tests here; what is "text" is not code."""
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(blocks(page, "python", "sh", "toml", "text"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_that_load_trained_optimizers_are_marked(page: Path) -> None:
    for block in blocks(page, "python"):
        loads = re.search(r'(load\(|optimizer=)"zo-lstm', block.code) is not None
        assert ("trained" in block.needs) == loads, f"{name_of(page)}, line {block.line}"


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_examples_run(example: Path, capsys) -> None:
    if '"zo-lstm' in example.read_text(encoding="utf-8") and not shipped():
        pytest.skip(NONE_SHIPPED)
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out


def shell_commands(page: Path) -> Iterator[list[str]]:
    for block in blocks(page, "sh"):
        for line in block.code.replace("\\\n", " ").splitlines():
            if line.strip():
                yield shlex.split(line, comments=True)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=name_of)
def test_commands_are_accepted(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in shell_commands(page):
        if words[0] == "make":
            assert words[1] in targets, words
        elif words[0] == "zoracle":
            check_command(words[1], words[2:])
        elif words[0] == "torchrun" and "-m" in words:
            module = words.index("-m") + 1
            assert words[module] == "zoracle"
            get_args_parser().parse_args(words[1:])
            check_command(words[module + 1], words[module + 2 :])
        elif words[0] in ("torchrun", "python"):
            assert any((ROOT / word).is_file() for word in words) or words[1] == "-m", words
        else:
            assert words[0] in ("pip", "pip-compile"), f"{words[0]} is not a command that this test knows"


def check_command(name: str, arguments: list[str]) -> None:
    """Parse a command line as it would be, without running it."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    context = command.make_context(name, list(arguments))
    if name == "train":
        assert context.params["config"] in recipes()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "toml")], ids=name_of)
def test_training_configs_are_accepted(page: Path) -> None:
    for block in blocks(page, "toml"):
        configs.parse(block.code, f"{name_of(page)}, line {block.line}")


def test_the_commands_listed_are_all_there_are() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `zoracle ([\w-]+)` \|", page, re.MULTILINE)
    assert sorted(listed) == sorted(cli.list_commands(click.Context(cli)))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)}: {link}"


def anchors(page: Path) -> set[str]:
    """What headings are linked by: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_changelog_knows_this_version() -> None:
    assert f"## [{zoracle.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_every_public_name_is_described(source: Path) -> None:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    bare = [] if ast.get_docstring(tree) else ["the module"]
    bare += [name for name, node in public(tree) if not ast.get_docstring(node)]
    assert not bare, f"no docstring: {', '.join(bare)}"


def public(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    """Classes and functions without a leading underscore, and those inside such classes."""
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}{child.name}.")


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_what_an_install_line_downloads_is_said_beside_it(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    first = text.index("pip install '.[")
    # In the same section: pip on Linux takes PyTorch's CUDA build unless another one is there.
    section = text[text.rfind("\n#", 0, first) + 1 : text.index("\n#", first)]
    assert "CUDA build" in section
    assert "CPU build" in section
    assert "https://pytorch.org/get-started" in section
