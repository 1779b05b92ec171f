"""Text from Python's standard library: pieces of its docstrings and of its code."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle import keyed

#: Packages whose files are read, and the class of each in the task of telling packages apart.
PACKAGES = ("email", "asyncio", "logging", "http", "urllib", "xml", "concurrent", "importlib", "multiprocessing")
TOPICS = ("email", "asyncio", "logging")
LENGTH = 40  # bytes per piece
PROMPT = b"  # this is "
BYTES_OF_PROMPT = len(PROMPT)
_SHARES = {"test": (0,), "valid": (1,), "train": (2, 3, 4, 5)}


class Pieces(NamedTuple):
    """Pieces of text."""

    tokens: Tensor
    """(N, LENGTH) int64, one a byte."""
    labels: Tensor
    """(N,) int64."""


def files(split: str) -> Iterator[tuple[str, str]]:
    """Package and text of each file of a split, in order; each file is in only one split."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for package in PACKAGES:
        for number, path in enumerate(sorted((root / package).rglob("*.py"))):
            if number % 6 in _SHARES[split]:
                yield package, path.read_text(encoding="utf-8", errors="replace")


def parts(source: str) -> tuple[str, str]:
    """The docstrings of a file, and its other lines; runs of white space become one space."""
    prose: list[str] = []
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                if isinstance(first.value.value, str):
                    prose.append(first.value.value)
                for number in range(first.lineno - 1, first.end_lineno or first.lineno):
                    lines[number] = ""
    code = [line for line in lines if not line.lstrip().startswith("#")]
    return " ".join(" ".join(prose).split()), " ".join(" ".join(code).split())


@cache
def corpus() -> Tensor:
    """All text of the training files as bytes, (n,) uint8."""
    whole = "\n".join(" ".join(source.split()) for _, source in files("train"))
    return torch.frombuffer(bytearray(whole.encode()), dtype=torch.uint8)


def prose_or_code(split: str, number: int, seed: int) -> Pieces:
    """Pieces of docstrings (class 1) and of code (class 0), in equal numbers."""
    return _cut(_code_and_prose(split), number, seed)


def topics(split: str, number: int, seed: int) -> Pieces:
    """Pieces of the files of three packages; the class is the package."""
    return _cut(_topics(split), number, seed)


@cache
def _code_and_prose(split: str) -> tuple[str, ...]:
    found = [parts(source) for _, source in files(split)]
    return " ".join(code for _, code in found), " ".join(prose for prose, _ in found)


@cache
def _topics(split: str) -> tuple[str, ...]:
    texts = dict.fromkeys(TOPICS, "")
    for package, source in files(split):
        if package in texts:
            texts[package] += " " + " ".join(source.split())
    return tuple(texts.values())


def _cut(texts: tuple[str, ...], number: int, seed: int) -> Pieces:
    """Pieces at positions drawn by a key; the classes alternate."""
    g = keyed.generator(seed, 21)
    rows, labels = [], torch.arange(number) % len(texts)
    encoded = [text.encode() for text in texts]
    for label in labels.tolist():
        data = encoded[label]
        start = int(torch.randint(len(data) - LENGTH, (), generator=g))
        rows.append(list(data[start : start + LENGTH]))
    return Pieces(torch.tensor(rows), labels)
