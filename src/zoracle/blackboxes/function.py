"""A Python callable as a black box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from zoracle.blackboxes import topk
from zoracle.blackboxes.base import BlackBox, Outputs
from zoracle.blackboxes.preprocessing import Channels, Layout, Preprocessing
from zoracle.calling import frameworks
from zoracle.calling.frameworks import Framework
from zoracle.errors import InputError
from zoracle.storage.code import is_named, load_named


class PythonFunction(BlackBox):
    """A callable that maps a batch of inputs to one row of outputs each. It has no gradient.

    Args:
        fn: inputs (N, ...) to outputs (N, classes), or to a :class:`~zoracle.blackboxes.TopK`; called once a batch,
            with a copy that it may overwrite.
        framework: type of the inputs, "numpy" or "torch"; "auto" infers it from the function's code
            (:func:`zoracle.calling.frameworks.choose`) without calling it.
        preprocess: mean and std that inputs are normalised by, a number or one per channel (inputs (N, C, ...)).
        layout: what the function takes: "NCHW", "NHWC" or "flat".
        pixel_max: the function's value for a pixel of 1: 1 or 255.
        outputs: what it returns.
        classes: number of classes, for top-k answers.
        class_names: class names in order, for top-k answers that name them.

    Raises:
        InputError: not a callable, no such framework, or a setting is unusable.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        framework: Framework = "auto",
        preprocess: tuple[Channels, Channels] | None = None,
        layout: Layout = "NCHW",
        pixel_max: float = 1.0,
        outputs: Outputs = "auto",
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.framework = frameworks.choose(fn, framework)
        self.fn = fn
        self.outputs = outputs
        self.preprocessing = Preprocessing(preprocess, layout, pixel_max)
        self.classes = topk.Classes(classes, class_names)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise an error if the settings do not fit inputs of this shape (without N)."""
        self.preprocessing.shape(shape)

    def _call(self, inputs: Tensor) -> Tensor:
        result = frameworks.run(self.fn, self.preprocessing(inputs), self.framework, "the model")
        return topk.read(result, inputs, self.classes, labels=self.outputs == "labels")


def load_callable(name: str) -> Callable[..., Any]:
    """Import a callable by "module:function" or "my_file.py:function"; the working directory is searched first.

    Raises:
        InputError: the name has another form, the module cannot be imported, or it has no such callable.
    """
    if not is_named(name):
        raise InputError(
            f"callable is named {name!r}; expected module:function, as in mypackage.models:classify, or "
            "my_file.py:function"
        )
    found: Callable[..., Any] = load_named(name)
    if not callable(found):
        raise InputError(f"{name!r} is a {type(found).__name__}; expected a function or a module that can be called")
    return found
