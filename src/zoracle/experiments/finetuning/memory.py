"""Peak memory of a method in ``reproduce finetune``, in a process of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from zoracle import keyed
from zoracle.experiments.finetuning.networks import ByteTransformer
from zoracle.experiments.finetuning.tasks import Sizes, problem
from zoracle.experiments.finetuning.text import BYTES_OF_PROMPT, LENGTH
from zoracle.experiments.finetuning.training import START, stepper
from zoracle.experiments.peaks import peak_memory

_STEPS = 3
#: glibc then returns freed tensors to the system at once, so that the peak is what is alive and not what it keeps.
_RETURN = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}


def peak(name: str, sizes: Sizes, method: str) -> float:
    """MiB of network, batch and three steps, or three forward passes without training.

    Python, torch and its libraries are not counted: they are loaded before. The network is not pretrained.

    Args:
        name: one of TASKS.
        sizes: of networks; there is one batch of data.
        method: as in :func:`~zoracle.experiments.finetuning.training.fine_tuned`.
    """
    arguments = {"name": name, "width": sizes.width, "layers": sizes.layers, "method": method}
    return peak_memory(f"{__name__}:probe", arguments, environment=_RETURN).above


def probe(name: str, width: int, layers: int, method: str, small: bool) -> None:
    """The work whose memory is measured; ``small``: with a network of one narrow layer."""
    sizes = Sizes(32, 1, 16, 8, 8, 0) if small else Sizes(width, layers, 16, 8, 8, 0)
    made = problem(name, sizes, 0, {} if name == "digits" else _weights(sizes))
    step, _ = stepper(made, method, 0, {}, 100)
    for number in range(_STEPS):
        batch = made.drawn(keyed.generator(number))
        with torch.set_grad_enabled(method != START):
            step(*batch)


def _weights(sizes: Sizes) -> dict[str, Tensor]:
    """Weights of a transformer that take no memory, all equal: they are copied into the network."""
    with torch.device("meta"):
        shapes = ByteTransformer(sizes.width, sizes.layers, LENGTH + BYTES_OF_PROMPT, True).state_dict()
    return {name: torch.tensor(0.01).expand(value.shape) for name, value in shapes.items()}
