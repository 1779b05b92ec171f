"""What models answer, beside a plain array of scores: the k best classes, or labels only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoracle.blackboxes.base import SUPPORTED
from zoracle.calling import frameworks
from zoracle.errors import BlackBoxError, InputError


class TopK(NamedTuple):
    """The answer of a model that tells its k best classes only; a dict with these two keys is read as one."""

    labels: Any
    """(N, k) integers from 0, or names of classes."""
    scores: Any
    """(N, k) their scores, in any order."""


class Classes:
    """What the labels of a top-k answer mean.

    Args:
        number: number of classes.
        names: their names in the order of their numbers, where the model answers with names.

    Raises:
        InputError: fewer than two classes, a name that comes twice, or two numbers that disagree.
    """

    def __init__(self, number: int | None = None, names: Sequence[str] | None = None) -> None:
        if names is not None and (isinstance(names, str) or len(set(names)) != len(names)):
            raise InputError(
                "class_names are not a list of distinct names; expected one name per class, in the model's order"
            )
        if number is None and names is not None:
            number = len(names)
        if number is not None and (not isinstance(number, int) or number < 2):
            raise InputError(f"classes is {number!r}; expected the number of classes, at least 2")
        if names is not None and number != len(names):
            raise InputError(f"classes is {number}, but there are {len(names)} class_names; expected the same number")
        self.number = number
        self._rows = None if names is None else {str(name): row for row, name in enumerate(names)}

    def numbers(self, labels: Any, what: str) -> np.ndarray[Any, Any]:
        """Labels as numbers of classes, int64.

        Raises:
            BlackBoxError: a name that is unknown, or a number out of range.
        """
        found = np.asarray(labels)
        if found.dtype.kind in "USO":
            found = self.named(found, what)
        if found.dtype.kind not in "iu":
            raise BlackBoxError(f"{what} returned labels of type {found.dtype}; expected integers or names")
        if self.number is None:
            raise InputError(
                "the model returns only its k best classes; pass the number of classes, such as classes=1000"
            )
        found = found.astype(np.int64)
        if found.size and not 0 <= found.min() <= found.max() < self.number:
            worst = int(found.min()) if found.min() < 0 else int(found.max())
            raise BlackBoxError(f"{what} returned label {worst}; expected 0 .. {self.number - 1}")
        return found

    def named(self, found: np.ndarray[Any, Any], what: str) -> np.ndarray[Any, Any]:
        """Names of classes as their numbers, int64, in the same shape.

        Raises:
            InputError: names are not known; BlackBoxError where one of them is unknown.
        """
        if self._rows is None:
            raise InputError("the model returns class names; pass them in order: class_names=[...]")
        rows = []
        for label in found.ravel().tolist():
            name = label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)
            if name not in self._rows:
                raise BlackBoxError(f"{what} returned the class {name[:40]!r}, which is not in class_names")
            rows.append(self._rows[name])
        return np.array(rows, dtype=np.int64).reshape(found.shape)


def dense(answer: TopK, n: int, classes: Classes, what: str = "the model") -> Tensor:
    """The scores (N, classes), float64, of a top-k answer: minus infinity for classes that are not among the k.

    Raises:
        BlackBoxError: labels and scores that do not belong together, or a label that comes twice.
        InputError: the number of classes or their names are not known.
    """
    labels, scores = (np.asarray(_plain(part)) for part in answer)
    if labels.ndim != 2 or labels.shape != scores.shape or labels.shape[0] != n or labels.shape[1] < 1:
        raise BlackBoxError(
            f"{what} returned labels {labels.shape} and scores {scores.shape} for {n} inputs; "
            f"expected ({n}, k) both, the k best classes of each"
        )
    if scores.dtype.kind not in "iuf":
        raise BlackBoxError(f"{what} returned scores of type {scores.dtype}; expected numbers")
    rows = torch.from_numpy(classes.numbers(labels, what))
    ordered = rows.sort(1).values
    if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
        raise BlackBoxError(f"{what} returned a label twice among the k best of an input; expected different ones")
    assert classes.number is not None  # or `numbers` would have refused
    out = torch.full((n, classes.number), -torch.inf, dtype=torch.float64)
    values = torch.from_numpy(scores.astype(np.float64))
    # A score that is none leaves nothing to know of its row.
    values = torch.where(values.isnan().any(1, keepdim=True), torch.nan, values)
    return out.scatter(1, rows, values)


def read(result: Any, inputs: Tensor, classes: Classes, what: str = "the model", *, labels: bool = False) -> Tensor:
    """What a function returned for inputs (N, ...) as outputs (N, classes) like them, or where labels will do (N, 1).

    Raises:
        BlackBoxError: labels only, or no numbers.
        InputError: a top-k answer, and the classes are not known.
    """
    n = inputs.shape[0]
    if isinstance(result, dict):
        if set(result) != {"labels", "scores"}:
            raise BlackBoxError(f"{what} returned a dict of {_keys(result)}; expected labels and scores, or an array")
        result = TopK(**result)
    if isinstance(result, TopK):
        return dense(result, n, classes, what).to(inputs)
    if told := labels_only(result, n):
        if not labels:
            raise BlackBoxError(
                f"{what} returned {told}; labels only are not enough, it takes {SUPPORTED}; "
                'attack labels with outputs="labels" (--labels-only)'
            )
        names = told.endswith("names")
        numbers = classes.named(np.asarray(result), what) if names else np.asarray(_plain(result))
        return torch.from_numpy(numbers.reshape(n, 1).astype(np.float64)).to(inputs)
    return frameworks.as_tensor(result, inputs, what)


def labels_only(result: Any, n: int) -> str:
    """What a result is in words where it is labels: names, or an integer for each of n inputs; else ""."""
    if isinstance(result, Tensor):
        whole, shape = not (result.is_floating_point() or result.is_complex()), tuple(result.shape)
    else:
        try:
            array = np.asarray(result)
        except (TypeError, ValueError):
            return ""
        if array.dtype.kind in "US" and array.size:
            return f"a {type(result).__name__}; expected numbers and these are names"
        whole, shape = array.dtype.kind in "iu", array.shape
    return f"integers of shape {shape}" if whole and shape in ((n,), (n, 1)) else ""


def _plain(part: Any) -> Any:
    return part.detach().cpu().numpy() if isinstance(part, Tensor) else part


def _keys(result: dict[Any, Any]) -> str:
    return ", ".join(sorted(str(key) for key in result)[:5]) or "nothing"
