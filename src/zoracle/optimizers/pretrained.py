"""Learned optimizers on disk: a folder with weights as safetensors, the settings as JSON in its metadata."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from zoracle.errors import CheckpointError, InputError
from zoracle.optimizers.base import Optimizer, check_architecture
from zoracle.optimizers.registry import REGISTRY, RETIRED, check_retired, make
from zoracle.storage.code import is_named, load_subclass
from zoracle.storage.files import exists, read_tensors, write_tensors

FORMAT = "zoracle-optimizer"
VERSION = 1
WEIGHTS = "optimizer.safetensors"
CARD = "MODEL_CARD.md"


class Loaded(NamedTuple):
    """A learned optimizer and what its file says about it."""

    optimizer: Optimizer[Any, Any]
    metadata: dict[str, Any]

    def trained_on(self) -> tuple[str, ...]:
        """The names of the tasks that it was trained on, as its file says; none where it says nothing."""
        training = self.metadata.get("training")
        config = training.get("config") if isinstance(training, dict) else None
        if not isinstance(config, dict):
            return ()
        families = config.get("families")
        families = families if isinstance(families, list) else []
        named = [config.get("task"), *(one.get("task") for one in families if isinstance(one, dict))]
        return tuple(dict.fromkeys(name for name in named if isinstance(name, str)))


def save_optimizer(folder: Path | str, name: str, optimizer: Optimizer[Any, Any], training: dict[str, Any]) -> Path:
    """Write a learned optimizer.

    Args:
        folder: is made if need be.
        name: what the registry calls the kind.
        optimizer: an nn.Module.
        training: what it was trained on and with, JSON values; read back by :func:`load_optimizer`.

    Returns:
        The path of the weights.
    """
    if not isinstance(optimizer, nn.Module):
        raise InputError(f"{name} has no weights to save; expected a learned optimizer")
    path = Path(folder) / WEIGHTS
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "config": optimizer.settings(),
        "training": training,
    }
    write_tensors(path, dict(optimizer.state_dict()), metadata)
    return path


def load_optimizer(path: Path | str, **settings: Any) -> Loaded:
    """Read a learned optimizer.

    Args:
        path: its folder, or the weights in it.
        settings: settings changed on top of the saved ones (``num_directions=50``).

    Raises:
        CheckpointError: the file is missing, truncated, foreign, of a newer format, or its tensors do not fit.
        InputError: a setting is unknown, or part of the architecture of the weights.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / WEIGHTS).is_file():
            raise CheckpointError(f"{path} contains no {WEIGHTS}; expected the folder of a finished `zoracle train`")
        path = path / WEIGHTS
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} does not contain an optimizer; expected a file written by `zoracle train`")
    if metadata.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has format version {metadata.get('version')}; this zoracle reads {VERSION}: upgrade zoracle"
        )
    name, config = metadata.get("name"), metadata.get("config")
    if isinstance(name, str) and name in RETIRED:
        raise CheckpointError(f"{path} contains {name}, which was removed from zoracle: {RETIRED[name]}")
    if not isinstance(name, str) or name not in REGISTRY or not REGISTRY[name].learned:
        raise CheckpointError(f"{path} contains an optimizer {name!r} unknown to this version; upgrade zoracle")
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} contains no settings of {name}; expected a file written by `zoracle train`")
    try:
        made = make(name, **config)
    except InputError as error:
        raise CheckpointError(f"{path} has settings unknown to this version ({error}); upgrade zoracle") from error
    check_architecture(made.architecture, settings)
    optimizer = make(name, **{**config, **settings})
    assert isinstance(optimizer, nn.Module)
    expected = {key: tuple(value.shape) for key, value in optimizer.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if expected != found:
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        told = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
        raise CheckpointError(f"{path} does not fit {name}: tensors {told} are missing or of another shape")
    broken = sorted(key for key, value in tensors.items() if not bool(value.isfinite().all()))
    if broken:
        raise CheckpointError(
            f"{path} contains NaN or infinite weights ({broken[0]}); train again, or choose another one"
        )
    optimizer.load_state_dict(tensors)
    optimizer.requires_grad_(False)
    return Loaded(optimizer, metadata)


def shipped() -> dict[str, Path]:
    """The trained optimizers that come with the package, by name."""
    folder = files("zoracle") / "assets" / "optimizers"
    with as_file(folder) as path:
        if not path.is_dir():
            return {}
        return {entry.name: entry for entry in sorted(path.iterdir()) if (entry / WEIGHTS).is_file()}


class Use(NamedTuple):
    """What an optimizer is wanted for, as far as it is known."""

    task: str | None = None
    """Name of the task."""
    ball: str | None = None
    """Norm of the ball that points stay in, "linf" or "l2"; None where there is none."""
    dim: int | None = None
    """Dimension of the problems."""


#: The plain name whose meaning depends on the use.
PLAIN = "zo-lstm"
#: What it means within a ball.
IN_BALLS = "spectral-search"


def default_for(use: Use) -> str:
    """The shipped optimizer that the plain name "zo-lstm" stands for.

    Within a ball it is the learned search of balls, whatever the images; otherwise the one trained for losses that are
    to be made small, on the task at hand where one ships, else the most general one.
    """
    return _trained(PLAIN if use.ball is None else IN_BALLS, use.task) or PLAIN


def _trained(kind: str, task: str | None) -> str | None:
    """The shipped optimizer of a kind for a task; None where none ships."""
    known = shipped()
    candidates = (*([f"{kind}-{task}"] if task else []), kind, f"{kind}-universal", f"{kind}-mnist")
    return next((candidate for candidate in candidates if candidate in known), None)


def resolve(name: str, use: Use | None = None, **settings: Any) -> Loaded:
    """An optimizer by name, by folder or by the name of a class of your own, trained where it is a learned one.

    "zo-lstm" means what :func:`default_for` says. Other learned optimizers' plain names ("zo-lstm-paper") mean the one
    trained on the task at hand where one ships, otherwise the universal one or that of MNIST. Classes of your own are
    named ``my_file.py:MyOptimizer`` or ``package.module:MyOptimizer``.

    Raises:
        InputError: the name is unknown.
        CheckpointError: the folder's weights cannot be used.
    """
    use = Use() if use is None else use
    found = default_for(use) if name == PLAIN else _trained(name, use.task)
    if found in (known := shipped()):
        loaded = load_optimizer(known[found], **settings)
        loaded.metadata["shipped"] = found
        return loaded
    if name in REGISTRY and not REGISTRY[name].learned:
        return Loaded(make(name, **settings), {"name": name})
    path = Path(name)
    if is_named(name) and not exists(path):
        cls = load_subclass(name, Optimizer)
        return Loaded(cls(**settings), {"name": name, "label": cls.__name__})
    if name and exists(path):
        return load_optimizer(path, **settings)
    check_retired(name)
    if name in REGISTRY:
        raise InputError(f"no trained {name} is shipped; train one with `zoracle train` and pass its folder")
    names = [*(n for n, entry in REGISTRY.items() if not entry.learned), PLAIN, *known]
    close = get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise InputError(
        f"optimizer {name!r} is unknown and not a folder; {hint}expected one of {', '.join(dict.fromkeys(names))}"
    )
