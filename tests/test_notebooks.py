"""The notebooks of the documentation run in a fresh kernel, and print what is stored in them, numbers aside."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

import nbformat

from scripts import notebooks


@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)
# The kernel, another process, warns of the sockets that it makes and of files that it leaves open.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_notebook_runs_and_shows_what_is_stored(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stored = nbformat.read(path, as_version=4)
    for need in ("onnx", "onnxruntime", "matplotlib"):
        pytest.importorskip(need)
    shown = notebooks.printed(stored)
    assert any(shown), "it is stored without outputs; run python -m scripts.notebooks"
    assert notebooks.printed(notebooks.executed(path)) == shown


def test_numbers_are_left_out_of_the_comparison() -> None:
    cells = [
        nbformat.v4.new_markdown_cell("# 3"),
        nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text="a -1.5e-3, b 4,200\n")]),
        nbformat.v4.new_code_cell("2", outputs=[nbformat.v4.new_output("display_data", data={"image/png": "x"})]),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    assert notebooks.printed(notebook) == [["a #, b #\n"], ["image/png"]]
