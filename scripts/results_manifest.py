"""Writes results/manifest.json: of each folder of results its command, commit, date, versions, and who quotes it.

``python -m scripts.results_manifest`` reads the commands from results/README.md and keeps the quotes, which are
written by hand: how a line of a page begins, the row of ``table.json`` that it is of, and columns with formats.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
MANIFEST = RESULTS / "manifest.json"
_ROW = re.compile(r"^\| `(\d{4}-\d\d-\d\d-[\w.-]+)` \| `([^`]+)`", re.MULTILINE)


def commands() -> dict[str, str]:
    """The command of each folder, as results/README.md says."""
    return dict(_ROW.findall((RESULTS / "README.md").read_text(encoding="utf-8")))


def commit(folder: str) -> str:
    """The commit of the code that made a folder, as far as history knows: the one before the folder was added."""
    added = _git("log", "--diff-filter=A", "--format=%H", "--reverse", "--", f"results/{folder}").split()
    return _git("rev-parse", f"{added[0]}^" if added else "HEAD").strip()


def manifest(before: dict[str, Any]) -> dict[str, Any]:
    """What the file should hold.

    Args:
        before: what it holds: quotes, and commits of folders that were there already, are kept.
    """
    made = {}
    for folder, command in sorted(commands().items()):
        known = before.get("results", {}).get(folder, {})
        versions = RESULTS / folder / "versions.json"
        made[folder] = {
            "command": command,
            "commit": known.get("commit") or commit(folder),
            "date": folder[:10],
            "versions": json.loads(versions.read_text(encoding="utf-8")) if versions.is_file() else None,
        }
    return {"results": made, "quotes": before.get("quotes", [])}


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Write the file."""
    before = json.loads(MANIFEST.read_text(encoding="utf-8")) if MANIFEST.is_file() else {}
    MANIFEST.write_text(json.dumps(manifest(before), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
