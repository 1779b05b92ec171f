"""The notebooks of the documentation: executed, and kept with what they printed.

    python -m scripts.notebooks

executes each notebook in docs/notebooks in a folder of its own and writes its outputs into it.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))

_NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?")


def executed(path: Path) -> Any:
    """A notebook as it comes out of a fresh kernel; a cell that raises raises here."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=300, resources=resources, record_timing=False).execute()
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def printed(notebook: Any) -> list[list[str]]:
    """What each code cell shows: text without its numbers, and of pictures that there is one."""
    shown = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            texts = ["".join(out["text"]) if "text" in out else ", ".join(sorted(out["data"])) for out in cell.outputs]
            shown.append([_NUMBER.sub("#", text) for text in texts])
    return shown


def main() -> int:
    """Execute the notebooks in place."""
    for path in NOTEBOOKS:
        nbformat.write(executed(path), path)
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
