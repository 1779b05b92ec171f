"""Tuned settings as records: those that ship, and files of them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from zoracle.errors import InputError, one_line
from zoracle.settings import beyond
from zoracle.storage.files import read_json, write_json


class Score(NamedTuple):
    """One setting tried."""

    settings: dict[str, float]
    ratio: float | None
    queries: float | None
    """Mean queries to first success; None where the task knows no success."""
    final_loss: float | None
    points: int
    """Points evaluated for it, monitoring included."""
    lost: int = 0
    """Points that were asked for again after interruptions; they are not among ``points``."""


class Tuned(NamedTuple):
    """Settings chosen for one optimizer, and everything that the choice was made from."""

    task: str
    task_config: dict[str, Any]
    optimizer: str
    steps: int
    num_directions: int | None
    """None where the optimizer has no such setting."""
    split: str
    problems: int
    ids_sha256: str
    seeds: list[int]
    criterion: str
    dtype: str
    grid: dict[str, list[float]]
    """Values tried, by setting."""
    chosen: dict[str, float]
    on_edge: list[str]
    """Settings whose winner is the last value tried on its side: a better one may lie beyond."""
    scores: list[Score]
    queries: int
    """Points that the tuning evaluated in all, monitoring included."""
    version: str
    """zoracle's."""
    interrupted: int = 0
    """Points that were asked for again after interruptions; they are not among ``queries``."""


T = TypeVar("T", Score, Tuned)


def tuned(task: dict[str, Any], optimizer: str, steps: int, num_directions: int | None) -> Tuned | None:
    """The settings shipped for this task, optimizer, steps and q, or None: settings for another run are no use.

    Args:
        task: what :func:`task_config` says of it.
        optimizer: its registered name.
        steps: of the run.
        num_directions: q; None where the optimizer has none.
    """
    asset = files("zoracle") / "assets" / "tuned" / f"{task['name']}.json"
    if not asset.is_file():
        return None
    for record in _records(msgspec.json.decode(asset.read_bytes()), asset.name):
        if _slot(record) == (_plain(task), optimizer, steps, num_directions):
            return record
    return None


def write_tuned(path: Path, records: Sequence[Tuned]) -> None:
    """Write tuned settings as JSON; those of the file for other task settings, optimizers, steps or q are kept.

    Raises:
        InputError: the file is there and cannot be read, or cannot be written.
    """
    kept = read_tuned(path) if path.is_file() else []
    for record in records:
        places = [i for i, other in enumerate(kept) if _slot(other) == _slot(record)]
        if places:
            kept[places[0]] = record
        else:
            kept.append(record)
    content = [msgspec.to_builtins({**r._asdict(), "scores": [s._asdict() for s in r.scores]}) for r in kept]
    write_json(path, {"tuned settings": content})


def read_tuned(path: Path) -> list[Tuned]:
    """Read what :func:`write_tuned` wrote.

    Raises:
        InputError: it is something else.
    """
    return _records(read_json(path), str(path))


def _records(content: Any, name: str) -> list[Tuned]:
    try:
        if wrong := beyond(content, depth=10):
            raise ValueError(wrong)
        return [
            _read(Tuned, {**record, "scores": [_read(Score, score) for score in record["scores"]]})
            for record in content["tuned settings"]
        ]
    except (TypeError, KeyError, ValueError) as error:  # msgspec's are ValueErrors
        raise InputError(
            f"{name} does not hold tuned settings of this version ({one_line(error)}); tune again"
        ) from error


def _read(kind: type[T], record: dict[str, Any]) -> T:
    """A record with a value of the right type for each field, and no others."""
    fields, defaults = kind._fields, kind._field_defaults
    if unknown := set(record) - set(fields):
        raise KeyError(min(unknown))
    found: T = msgspec.convert([record[name] if name in record else defaults[name] for name in fields], kind)
    return found


def _slot(record: Tuned) -> tuple[dict[str, Any], str, int, int | None]:
    """What a record is for."""
    return _plain(record.task_config), record.optimizer, record.steps, record.num_directions


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a task. Its files, such as a retrained target, may differ; None is the same as no setting."""
    return {name: value for name, value in config.items() if not name.endswith("_sha256") and value is not None}
