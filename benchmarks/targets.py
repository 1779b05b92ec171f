"""The networks under attack, and the least time in which they answer a query."""

from __future__ import annotations

import atexit
import io
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.measure import seconds
from zoracle.blackboxes.torch_module import TorchModule
from zoracle.errors import InputError
from zoracle.keyed import generator
from zoracle.tasks import Task, task
from zoracle.tasks.image_attack import ImageAttackTask, ImageData, write_splits
from zoracle.tasks.networks import MNISTNet, ResNet20, build, load_network
from zoracle.tasks.training import initialise, save_target

_IMAGES = 128
#: Seconds of a call beyond which no larger batch is tried: its activations have left the cache long before.
_LONGEST = 0.5


class _RandomTask(ImageAttackTask):
    """The attack of a task on random images by a network of the same architecture with random weights."""

    network: type[nn.Module]
    normalisation: tuple[Any, Any]
    class_names = tuple("0123456789")

    @cached_property
    def _folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="zoracle-benchmark-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _split_file(self) -> Path:
        path = self._folder / "split.json"
        write_splits(path, {"train": tuple(range(8)), "valid": (8, 9), "test": tuple(range(10, _IMAGES))}, "random")
        return path

    def _load(self) -> ImageData:
        images = torch.randint(0, 256, (_IMAGES, *self.shape), dtype=torch.uint8, generator=generator(1))
        labels = torch.randint(0, len(self.class_names), (_IMAGES,), generator=generator(2))
        return ImageData(images, labels, range(_IMAGES))

    def _black_box(self, dtype: torch.dtype, device: torch.device | str) -> TorchModule:
        path = self._folder / "weights.safetensors"
        if not path.is_file():
            module = build(self.network)
            initialise(module, 0)
            save_target(module, path, {"network": self.network.__name__})
        # Loaded as the weights of the tasks are, so that the same kernels answer.
        return TorchModule(load_network(self.network, path, dtype=dtype, device=device), preprocess=self.normalisation)


class RandomMNIST(_RandomTask):
    """In place of the task mnist."""

    name = "mnist, random weights and images"
    shape = (1, 28, 28)
    outputs = "log-probabilities"
    network = MNISTNet
    normalisation = (0.1307, 0.3081)


class RandomCIFAR10(_RandomTask):
    """In place of the task cifar10."""

    name = "cifar10, random weights and images"
    shape = (3, 32, 32)
    network = ResNet20
    normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Target(NamedTuple):
    """What is attacked."""

    task: Task
    ids: tuple[int, ...]
    """Of the test split."""
    network: nn.Module
    """As the task calls it: float32, eval mode."""
    shape: tuple[int, int, int]
    weights: str
    """Where weights and images come from."""
    trained_for: str
    """The name that optimizers are looked up by."""


def target(name: str) -> Target:
    """The task by name, or its random stand-in where its data are not there.

    Args:
        name: "mnist" or "cifar10".
    """
    stand_in = {"mnist": RandomMNIST, "cifar10": RandomCIFAR10}[name]
    weights = "those of the task"
    try:
        made: Task = task(name)
        made.objective(made.ids("test")[:1])
    except InputError:
        made, weights = stand_in(), "random: the task's data are not there"
    ids = made.ids("test")
    box = made.objective(ids[:1]).black_box  # type: ignore[attr-defined]
    return Target(made, ids, box.module, stand_in.shape, weights, name)


class Candidate(NamedTuple):
    """A way to have the network answer a batch."""

    name: str
    batch: int
    call: Callable[[], object]

    def seconds_a_query(self, at_least: float) -> float:
        """Mean over as many calls as take this many seconds."""
        return seconds(self.call, at_least) / self.batch


def fastest(found: Target, *, quick: bool) -> tuple[Candidate, list[str]]:
    """The fastest way for a network to answer on this machine: torch or ONNX Runtime, at any batch size.

    Returns:
        The candidate, and notes: what could not be tried.
    """
    sizes = (21, 84) if quick else (21, 42, 63, 84, 126, 168, 252, 336, 525, 1050, 2100)
    notes: list[str] = []
    session = _onnx_session(found, notes) if not quick else None
    candidates = []
    for size in sizes:
        x = torch.rand((size, *found.shape), generator=generator(size))
        last = x.to(memory_format=torch.channels_last)
        here = [Candidate("torch channels-last", size, partial(_forward, found.network, last))]
        if session is not None:
            here.append(Candidate("onnxruntime", size, partial(session.run, None, {"x": x.numpy()})))
        candidates += here
        if max(seconds(candidate.call) for candidate in here) > _LONGEST:
            break
    least = 0.0 if quick else 0.1
    # Round after round, the best of all: a pause of the machine must not choose.
    times = {c: min(c.seconds_a_query(least) for _ in range(1 if quick else 3)) for c in candidates}
    return min(times, key=lambda candidate: times[candidate]), notes


def _forward(network: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        out: Tensor = network(x)
        return out


def _onnx_session(found: Target, notes: list[str]) -> Any:
    try:
        import onnxruntime
    except ImportError:
        notes.append("onnxruntime is not installed: the floor is torch's alone")
        return None
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                found.network,
                (torch.rand((2, *found.shape), generator=generator(0)),),
                buffer,  # type: ignore[arg-type]
                input_names=["x"],
                output_names=["y"],
                dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
                dynamo=False,
            )
    except Exception as error:
        notes.append(
            f"the network could not be exported for onnxruntime ({type(error).__name__}): the floor is torch's"
        )
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
