"""Results that are committed: each has a command, a commit and versions, and pages quote what the tables say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import results_manifest

ROOT = Path(__file__).parents[1]
MANIFEST = json.loads(results_manifest.MANIFEST.read_text(encoding="utf-8"))
HOW = "; run python -m scripts.results_manifest"


def test_every_folder_is_in_the_manifest_with_the_command_of_the_page() -> None:
    folders = {path.name for path in (ROOT / "results").iterdir() if path.is_dir()}
    assert set(MANIFEST["results"]) == folders == set(results_manifest.commands()), f"folders differ{HOW}"
    for folder, one in MANIFEST["results"].items():
        assert one["command"] == results_manifest.commands()[folder], f"{folder}: another command{HOW}"
        assert one["command"].startswith(("zoracle ", "python -m benchmarks "))
        assert len(one["commit"]) == 40
        assert folder.startswith(one["date"])
        versions = ROOT / "results" / folder / "versions.json"
        expected = json.loads(versions.read_text(encoding="utf-8")) if versions.is_file() else None
        assert one["versions"] == expected, f"{folder}: other versions{HOW}"


@pytest.mark.parametrize("quote", MANIFEST["quotes"], ids=lambda quote: f"{quote['results']} {quote['optimizer']}")
def test_pages_quote_what_the_tables_say(quote) -> None:
    found = json.loads((ROOT / "results" / quote["results"] / "table.json").read_text(encoding="utf-8"))
    rows = found if quote["table"] is None else found[quote["table"]]
    (row,) = (row for row in rows if row["optimizer"] == quote["optimizer"])
    expected = [format(row[column], form) for column, form in quote["cells"].items()]
    page = (ROOT / quote["page"]).read_text(encoding="utf-8").splitlines()
    lines = [line for line in page if line.startswith(quote["line"])]
    assert any(all(number in line for number in expected) for line in lines), f"{expected} in none of {lines}"


def test_the_manifest_keeps_quotes_and_commits() -> None:
    assert results_manifest.manifest(MANIFEST) == MANIFEST
