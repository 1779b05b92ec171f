"""The experiments by name. A new one is one file beside this and one line here."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from zoracle.errors import InputError
from zoracle.experiments.base import Experiment

#: Where each is.
EXPERIMENTS: dict[str, str] = {
    "mnist-attack": "attack:MNIST",
    "cifar10-attack": "attack:CIFAR10",
    "ball-attacks": "ball_attacks:EXPERIMENT",
    "binary-classification": "binary_classification:EXPERIMENT",
    "ablation": "ablation:EXPERIMENT",
    "gradient-quality": "gradient_quality:EXPERIMENT",
    "dimension": "dimension:EXPERIMENT",
    "num-directions": "num_directions:EXPERIMENT",
    "sampling-frequency": "sampling_frequency:EXPERIMENT",
    "training-oracle": "training_oracle:EXPERIMENT",
    "transfer": "transfer:EXPERIMENT",
    "bbob": "bbob:EXPERIMENT",
    "black-boxes": "black_boxes:EXPERIMENT",
    "finetune": "finetune:EXPERIMENT",
}


def names() -> tuple[str, ...]:
    """The names of all experiments, in the order in which ``all`` runs them."""
    return tuple(EXPERIMENTS)


def experiment(name: str) -> Experiment:
    """An experiment by name.

    Raises:
        InputError: the name is unknown.
    """
    if name not in EXPERIMENTS:
        close = get_close_matches(name, EXPERIMENTS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"experiment {name!r} is unknown; {hint}expected one of {', '.join(EXPERIMENTS)} and all")
    module, _, attribute = EXPERIMENTS[name].partition(":")
    found: Experiment = getattr(import_module(f"zoracle.experiments.{module}"), attribute)
    return found
