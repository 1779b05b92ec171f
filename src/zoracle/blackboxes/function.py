"""A Python callable as a black box."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from zoracle import frameworks
from zoracle.blackboxes.base import BlackBox
from zoracle.errors import InputError
from zoracle.frameworks import Framework


class PythonFunction(BlackBox):
    """Any callable that takes a batch of inputs and returns a row of outputs for each. It has no gradient.

    Args:
        fn: inputs (N, ...) to outputs (N, classes); called once a batch, with a copy that it may overwrite.
        framework: what the inputs are given as, "numpy" or "torch"; "auto" reads it from the function's code
            (:func:`zoracle.frameworks.choose`) and makes no call to find out.

    Raises:
        InputError: not a callable, or no such framework.
    """

    def __init__(self, fn: Callable[..., Any], *, framework: Framework = "auto") -> None:
        self.framework = frameworks.choose(fn, framework)
        self.fn = fn

    def _call(self, inputs: Tensor) -> Tensor:
        return frameworks.call(self.fn, inputs, self.framework, "the model")


def load_callable(name: str) -> Callable[..., Any]:
    """Import a callable by "module:function"; the working directory is searched first, as by ``python -m``.

    Raises:
        InputError: the name has another form, the module cannot be imported, or it has no such callable.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise InputError(f"callable is named {name!r}; expected module:function, as in mypackage.models:classify")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"{name!r}: there is no module {error.name}; looked in {folder} and Python's path") from error
    except Exception as error:
        raise InputError(f"{name!r}: importing {module_name} raised {frameworks.one_line(error)}") from error
    finally:
        sys.path.remove(folder)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InputError(f"{name!r}: {module_name} has no {attribute}; expected the name of a function in it")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{name!r} is a {type(found).__name__}; expected a function or a module that can be called")
    checked: Callable[..., Any] = found
    return checked
