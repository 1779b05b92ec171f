"""An evaluation divided into shards: one seed on some of the problems each. Any process can run any shard."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec

from zoracle.errors import CheckpointError
from zoracle.evaluation.spec import RunSpec
from zoracle.optimizers.base import Optimizer
from zoracle.results.result import Result
from zoracle.storage.files import read_json, read_tensors, write_json, write_tensors
from zoracle.storage.fingerprint import optimizer_config, release_series
from zoracle.tasks.base import Task
from zoracle.tasks.config import task_config

RESULT_FORMAT = "zoracle-result-4"
SHARDS_FORMAT = "zoracle-shards-1"

#: The file of a run folder with the number of problems per shard.
SHARDS = "shards.json"

#: Files of a running shard.
_AT_WORK = (".part", ".part.calls", ".seconds")


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """The unit that is run and stored: one seed on some problems.

    Attributes:
        spec: settled, of these problems and this one seed.
        stem: path of its file, without a suffix; None keeps nothing.
        cell: number of problems whose points share calls (:class:`~zoracle.rollout.oracle.Oracle`).
    """

    spec: RunSpec
    stem: str | None = None
    cell: int | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Of the problems."""
        assert self.spec.ids is not None
        return self.spec.ids

    @property
    def seed(self) -> int:
        """Of the repeat."""
        return self.spec.seed_list[0]

    @property
    def steps(self) -> int:
        """T."""
        assert self.spec.steps is not None
        return self.spec.steps

    @property
    def label(self) -> str:
        """The name used in errors."""
        return f"seed {self.seed}, {len(self.ids)} problems from id {self.ids[0]}"

    def file(self, suffix: str) -> Path | None:
        """A file of this shard."""
        return None if self.stem is None else Path(self.stem + suffix)

    def fingerprint(self, optimizer: Optimizer[Any, Any], task: Task) -> dict[str, Any]:
        """Everything that its numbers depend on."""
        told = {name: value for name, value in self.spec.identity().items() if name != "ids"}
        whole = {
            "zoracle": release_series(),
            "optimizer": optimizer_config(optimizer),
            "task": task_config(task),
            **told,
        }
        plain: dict[str, Any] = json.loads(json.dumps(whole))  # in the form in which it is read back
        return plain

    def forget(self) -> None:
        """Remove its files from while it was running."""
        for suffix in _AT_WORK:
            path = self.file(suffix)
            if path is not None:
                path.unlink(missing_ok=True)


#: Cells of the problems of one seed, at most, as long as a cell has no more than so many problems and no fewer.
_CELLS, _MOST_IN_CELL, _LEAST_IN_CELL = 8, 32, 3
#: Problems in a shard of a run whose problems take turns: at most, unless more run at once; and at least, so that there
#: are some that wait for theirs.
_MOST_IN_SHARD, _LEAST_IN_SHARD = 256, 8


def cell_size(spec: RunSpec, *, remote: bool) -> int | None:
    """Problems whose points go into calls of their own, so that shards made of whole cells give the same bits.

    It follows the number of problems alone, and neither the number of processes nor that of shards. Each cell costs a
    call a step: a fraction of a millisecond for a small network, much over a network. None where calls are not divided:
    there, or where a batch was asked for, as calls then depend on whose turn it is.

    Args:
        spec: the run, settled.
        remote: values come over a network.
    """
    assert spec.ids is not None
    number = len(spec.ids)
    if remote or spec.batch is not None:
        return None
    parts = min(_CELLS, math.ceil(number / _LEAST_IN_CELL))
    return min(_MOST_IN_CELL, math.ceil(number / parts))


def cut(spec: RunSpec, folder: Path | None, workers: int, cell: int | None = None) -> list[list[Shard]]:
    """The shards of a settled run: those of the first seed, of the second, and so on.

    A shard consists of whole cells, enough of them to give every worker as much to do. Where problems take turns it
    consists of whole batches, whatever the number of workers. Either way, results are the same bits for any number of
    workers. The number of problems in a shard is noted in the folder: a run that continues there has the same shards.

    Args:
        spec: the run, settled.
        folder: where shards are kept; None keeps none.
        workers: processes that share them.
        cell: of :func:`cell_size`.

    Raises:
        CheckpointError: the folder holds files that this version did not write.
    """
    assert spec.ids is not None
    ids, seeds = spec.ids, spec.seed_list
    size = _size(folder, _planned(spec, shard_size(len(ids), len(seeds), workers), cell))
    groups = [ids[start : start + size] for start in range(0, len(ids), size)]
    return [
        [
            Shard(
                spec=msgspec.structs.replace(spec, ids=some, seeds=(seed,)),
                stem=None if folder is None else str(folder / f"seed-{seed}-shard-{j}"),
                cell=cell,
            )
            for j, some in enumerate(groups)
        ]
        for seed in seeds
    ]


def shard_size(problems: int, seeds: int, workers: int) -> int:
    """Number of problems per shard: all, or fewer to give every worker an equal share."""
    if workers == 1:
        return problems
    parts = min(problems, workers // math.gcd(seeds, workers))
    return math.ceil(problems / parts)


def _planned(spec: RunSpec, size: int, cell: int | None) -> int:
    """The size of shards, a multiple of a cell, or where problems take turns of a batch."""
    assert spec.ids is not None
    if cell is not None:
        return min(len(spec.ids), math.ceil(size / cell) * cell)
    if spec.batch is None:
        return size
    least = max(_LEAST_IN_SHARD, min(_MOST_IN_SHARD, math.ceil(len(spec.ids) / _CELLS)))
    return math.ceil(least / spec.batch) * spec.batch


def _size(folder: Path | None, size: int) -> int:
    """The size recorded in a folder, or this one for a new folder."""
    if folder is None:
        return size
    path = folder / SHARDS
    if path.is_file():
        noted = read_json(path)
        if not isinstance(noted, dict) or noted.get("format") != SHARDS_FORMAT:
            raise CheckpointError(f"{path} was written by another version of zoracle; choose another folder")
        return int(noted["problems"])
    if folder.is_dir() and any(folder.glob("seed-*")):
        raise CheckpointError(f"{folder} contains a run of an earlier version of zoracle; choose another folder")
    write_json(path, {"format": SHARDS_FORMAT, "problems": size})
    return size


def keep(shard: Shard, fingerprint: dict[str, Any], result: Result) -> None:
    """Write the result of a shard, if it is kept."""
    path = shard.file(".safetensors")
    if path is not None:
        tensors = {name: leaf.contiguous() for name, leaf in result._asdict().items()}
        write_tensors(path, tensors, {"format": RESULT_FORMAT, "fingerprint": fingerprint})


def kept(shard: Shard, fingerprint: dict[str, Any]) -> Result | None:
    """The result of an earlier call, if this is the same shard of the same run.

    Raises:
        CheckpointError: it is truncated, foreign or of another run.
    """
    path = shard.file(".safetensors")
    if path is None or not path.is_file():
        return None
    tensors, metadata = read_tensors(path, sealed=True)
    if metadata.get("format") != RESULT_FORMAT or set(tensors) != set(Result._fields):
        raise CheckpointError(f"{path} is not a result of this version of zoracle; choose another folder")
    theirs = metadata.get("fingerprint")
    if theirs != fingerprint:
        changed = [
            key for key, value in fingerprint.items() if not isinstance(theirs, dict) or theirs.get(key) != value
        ]
        raise CheckpointError(
            f"{path} belongs to another run ({', '.join(changed)} differ); choose another folder, or the same settings"
        )
    shard.forget()  # in case of a kill between writing the result and this
    return Result(**tensors)
