"""Targets from strings, as on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zoracle.blackboxes.base import BlackBox, check_outputs
from zoracle.blackboxes.function import PythonFunction, load_callable
from zoracle.blackboxes.onnx import OnnxModel
from zoracle.blackboxes.open_inference import OpenInference
from zoracle.blackboxes.torch_module import TorchModule
from zoracle.errors import InputError, failure

#: Files that may hold any program: they would have to be unpickled.
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
FORMS = (
    "module:function, my_file.py:function, torch:module:factory, a file model.onnx, or http://host:port/v2/models/NAME"
)


def open_target(spec: str, **options: Any) -> BlackBox:
    """Open the black box named by a string.

    Args:
        spec: ``module:function`` or ``my_file.py:function``, a Python function of a batch of images, or a subclass of
            :class:`BlackBox` in its place, made with the options; ``torch:module:factory``, a function without
            arguments (or a class) that makes a torch module; a path that ends in ``.onnx``; or ``http(s)://...``, a
            server that speaks the Open Inference Protocol (v2).
        options: keyword-only arguments of that class, or of :class:`PythonFunction`, :class:`TorchModule`,
            :class:`OnnxModel` or :class:`OpenInference`, by the form of ``spec``; ``dtype`` may be a name. None leaves
            one out.

    Raises:
        InputError: the string is not understood, or an option does not apply to it.
    """
    kind, make = _kind_of(spec)
    options = {name: value for name, value in options.items() if value is not None}
    known = options_of(kind)
    for name in options:
        if name not in known:
            kinds = [other.__name__ for other in _KINDS if name in options_of(other)]
            who = f"goes with {' and '.join(kinds)}" if kinds else "is unknown"
            raise InputError(f"option {name} {who}, and {spec!r} is a {kind.__name__}; it takes {', '.join(known)}")
    if "outputs" in options:
        check_outputs(options["outputs"])
    if isinstance(options.get("dtype"), str):
        options["dtype"] = _dtype(options["dtype"])
    return make(options)


def options_of(kind: type[BlackBox]) -> tuple[str, ...]:
    """Names of the options that a kind of target takes."""
    parameters = inspect.signature(kind).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "clock")


_KINDS: tuple[type[BlackBox], ...] = (PythonFunction, TorchModule, OnnxModel, OpenInference)


def _kind_of(spec: str) -> tuple[type[BlackBox], Callable[[dict[str, Any]], BlackBox]]:
    if not isinstance(spec, str) or not spec.strip():
        raise InputError(f"target is {spec!r}; expected {FORMS}")
    lower = spec.lower()
    if lower.startswith(("http://", "https://")):
        return OpenInference, lambda options: OpenInference(spec, **options)
    if "://" in spec:
        raise InputError(f"target {spec!r} is not an http address; expected {FORMS}")
    if lower.endswith(".onnx"):
        return OnnxModel, lambda options: OnnxModel(spec, **options)
    if spec.startswith("torch:"):
        return TorchModule, lambda options: TorchModule(_module(spec.removeprefix("torch:")), **options)
    if lower.endswith(_PICKLES):
        raise InputError(
            f"target {spec!r} would have to be unpickled, which can run any program; write a function that makes the "
            "module and loads its weights, and name it: torch:module:factory"
        )
    if lower.endswith((".safetensors", ".py")) or ":" not in spec:
        raise InputError(f"target {spec!r} is not a callable model; expected {FORMS}")
    found = load_callable(spec)
    if isinstance(found, type) and issubclass(found, BlackBox):
        return found, lambda options: found(**options)
    return PythonFunction, lambda options: PythonFunction(_function(spec, found), **options)


def _function(spec: str, found: Callable[..., Any]) -> Callable[..., Any]:
    if isinstance(found, nn.Module) or (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"target {spec!r} is a torch module; name a function that makes it: torch:module:factory")
    return found


def _module(name: str) -> nn.Module:
    factory = load_callable(name)
    if isinstance(factory, nn.Module):
        return factory
    try:
        made = factory()
    except BaseException as error:
        raise InputError(
            f"torch:{name}: the factory raised {failure(error)}; it is called without arguments"
        ) from error
    if not isinstance(made, nn.Module):
        raise InputError(f"torch:{name} made a {type(made).__name__}; expected a torch.nn.Module")
    return made


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise InputError(f"dtype is {name!r}; expected float32, float64, float16 or bfloat16")
    return found
