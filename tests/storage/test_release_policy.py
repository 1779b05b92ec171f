"""docs/policy.md: which releases read which files, and the list of formats."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import zoracle
from zoracle.comparison import compare
from zoracle.errors import InputError
from zoracle.evaluation import RunSpec
from zoracle.optimizers import make
from zoracle.storage import fingerprint, release_series
from zoracle.storage.runfolder import FORMAT
from zoracle.tasks import task

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")


def become(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Let the runs that follow be those of another release."""
    monkeypatch.setattr(fingerprint, "__version__", version)


@pytest.mark.parametrize(
    ("version", "series"), [("0.1.0", "0.1.0"), ("0.1.12", "0.1.0"), ("1.4.2", "1.4.0"), ("0.2.0rc1", "0.2.0")]
)
def test_the_series_of_a_release(monkeypatch: pytest.MonkeyPatch, version: str, series: str) -> None:
    become(monkeypatch, version)
    assert release_series() == series


def test_a_patch_release_goes_on_with_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> float:
        optimizers = [("zo-sgd", make("zo-sgd", num_directions=4))]
        found = compare(
            task("quadratic", dim=5), optimizers, RunSpec(problems=2, seeds=1, steps=3), out=tmp_path / "run"
        )
        return float(found.results["zo-sgd"].losses.sum())

    become(monkeypatch, "0.1.0")
    first = run()
    become(monkeypatch, "0.1.7")
    assert run() == first
    become(monkeypatch, "0.2.0")
    with pytest.raises(InputError, match=r"zoracle.*0\.1\.0.*0\.2\.0") as caught:
        run()
    assert "\n" not in str(caught.value)


def test_a_patch_release_goes_on_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def f(x: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += len(x)
        return (x**2).sum(axis=1)

    def run() -> zoracle.Solution:
        path = tmp_path / "run.safetensors"
        return zoracle.minimize(f, np.ones(4), budget=55, optimizer="zo-sgd", num_directions=4, checkpoint=path)

    become(monkeypatch, "0.1.0")
    first, paid = run(), asked
    become(monkeypatch, "0.1.7")
    assert run().value == first.value
    assert asked <= paid + 1, "nothing is evaluated again but the one point that is looked at"
    become(monkeypatch, "0.2.0")
    with pytest.raises(InputError, match="another run") as caught:
        run()
    assert "\n" not in str(caught.value)


def test_the_page_lists_every_format_of_a_file() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
    formats = set(re.findall(r'FORMAT\w* = "(zoracle-[\w-]+)"', source)) | {str(FORMAT)}
    listed = set(re.findall(r"^\|[^|]+\| `([\w-]+)` \|", PAGE, re.MULTILINE))
    assert listed == formats
