"""The public surface: what is listed is there, is described, and is on the page of public names."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

import zoracle

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
SURFACE = ["zoracle", "zoracle.optimizers", "zoracle.objectives", "zoracle.tasks", "zoracle.testing"]
PACKAGES = sorted(path.parent for path in (ROOT / "src" / "zoracle").glob("*/__init__.py"))
LISTED = [
    f"zoracle.{path.name}" for path in PACKAGES if "__all__" in (path / "__init__.py").read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", [*SURFACE, *LISTED, "zoracle.types", "zoracle.errors"])
def test_what_is_listed_is_there_and_described(name: str) -> None:
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for each in module.__all__:
        found = getattr(module, each)
        assert not each.startswith("_")
        if inspect.isclass(found) or inspect.isfunction(found):
            assert found.__module__.startswith("zoracle."), f"{name}.{each} is another package's"
            assert inspect.getdoc(found), f"{name}.{each} has no docstring"


@pytest.mark.parametrize("name", SURFACE)
def test_the_page_lists_exactly_what_is_public(name: str) -> None:
    (row,) = re.findall(rf"^\| `{re.escape(name)}` \| (.*) \|$", PAGE, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", row)) == sorted(importlib.import_module(name).__all__)


@pytest.mark.parametrize("name", LISTED)
def test_the_page_names_every_public_package(name: str) -> None:
    # What `minimize` and its like are made of is reached from zoracle itself.
    assert f"`{name}`" in PAGE or name == "zoracle.api"


def test_the_package_itself_offers_what_it_lists() -> None:
    assert set(dir(zoracle)) == {*zoracle.__all__, "__version__"}
