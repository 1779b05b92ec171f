"""An image is converted once and checked once on its way from `zoracle attack` to the black box."""

from __future__ import annotations

import sys
from collections import Counter
from types import FrameType
from typing import Any

import numpy as np
import pytest

from zoracle.cli.main import main

MODEL = """
SEEN = []


def classify(x):
    SEEN.append((x.dtype, x.min(), x.max(), len(x)))
    return x.reshape(len(x), -1)[:, :3] * 9 - 4
"""


class Spy:
    """Counts what is done to images as they are given: read, converted, looked at."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name.strip("_")
        if event == "call" and module.startswith("zoracle."):
            about = name in ("as_images", "read_archive") or (name.startswith("check") and "x" in self.given(frame))
            self.calls[name] += about

    @staticmethod
    def given(frame: FrameType) -> str:
        """ "x" where an argument is all of the images."""
        parts = frame.f_code.co_varnames[: frame.f_code.co_argcount]
        return "x" if any(getattr(frame.f_locals.get(part), "shape", ()) == (5, 1, 4, 4) for part in parts) else ""


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_one_conversion_and_one_check(tmp_path, monkeypatch, kind) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "walked", raising=False)
    (tmp_path / "walked.py").write_text(MODEL)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 4, 4), dtype=np.uint8)
    images = pixels if kind == "uint8" else (pixels / np.float32(255)).astype(np.float32)
    labels = pixels.reshape(5, -1)[:, :3].argmax(1)
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    spy = Spy()
    argv = ["attack", "--target", "walked:classify", "--data", "own.npz", "--optimizers", "zo-sgd", "--steps", "2"]
    sys.setprofile(spy)
    try:
        code = main([*argv, "--out", "run"])
    finally:
        sys.setprofile(None)
    assert code == 0
    looked = {name: count for name, count in spy.calls.items() if count}
    assert looked.pop("as_images") == 1, "converted once"
    assert looked.pop("read_archive") == 1
    assert sum(looked.values()) == (0 if kind == "uint8" else 1), f"looked at by {looked}"
    seen = sys.modules["walked"].SEEN
    assert all(str(dtype).endswith("float32") and low >= 0 and high <= 1 for dtype, low, high, _ in seen)
    assert sum(count for *_, count in seen) > 0
