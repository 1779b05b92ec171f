"""An ONNX file as a black box."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoracle.blackboxes.base import SUPPORTED, BlackBox, Outputs
from zoracle.blackboxes.batches import agree, filled, parts
from zoracle.blackboxes.preprocessing import Channels, Layout, Preprocessing
from zoracle.blackboxes.topk import Classes, TopK, dense, labels_only
from zoracle.errors import BlackBoxError, InputError, one_line, require

_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(uint8)": np.dtype(np.uint8),
}


class OnnxModel(BlackBox):
    """An ONNX file, run by ONNX Runtime (extra ``onnx``). It has no gradient.

    Name, shape and type of the input come from the file. Inputs are prepared in the type of the model, float32 for one
    in half precision. A model with a fixed batch size gets batches of that size, the last one filled up with copies of
    its last image; those are not queries.

    Args:
        path: the file.
        preprocess: mean and std that inputs are normalised by, a number or one per channel (inputs (N, C, ...)).
        layout: what the model takes: "NCHW", "NHWC" or "flat".
        pixel_max: the model's value for a pixel of 1: 1 or 255; mean and std are in its units.
        outputs: what it returns.
        input: name of its only input, as a check.
        output: name of the output with the scores (N, classes); needed if several outputs have this shape.
        top_k: names of the two outputs with labels and scores, (N, k) each, of a top-k model.
        classes: number of classes, for ``top_k``.
        class_names: class names in order, for labels that are names.
        threads: CPU threads; None uses torch's number.
        providers: ONNX Runtime's execution providers; the CPU by default.
        chunk: maximum number of images in one run; None runs the oracle's whole batch.

    Raises:
        InputError: no such file, not a model that ONNX Runtime can run, several inputs, no output of the form
            (N, classes), or a setting is unusable.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        preprocess: tuple[Channels, Channels] | None = None,
        layout: Layout = "NCHW",
        pixel_max: float = 1.0,
        outputs: Outputs = "auto",
        input: str | None = None,
        output: str | None = None,
        top_k: tuple[str, str] | None = None,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        chunk: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.preprocessing = Preprocessing(preprocess, layout, pixel_max)
        self.outputs = outputs
        self.classes = Classes(classes, class_names)
        for name, number in (("chunk", chunk), ("threads", threads)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise InputError(f"{name} is {number!r}; expected an integer of at least 1")
        self._session = _open(self.path, threads or torch.get_num_threads(), providers)
        self.input = self._find_input(input)
        self.wanted = self._find_outputs(output, top_k)
        self.top_k = top_k is not None
        self.dtype = self._type_of(self.input)
        if self.dtype.kind == "u" and self.preprocessing.pixel_max == 1:
            raise InputError(f"{self.path} takes bytes; say that a pixel of 1 is the byte 255: pixel_max=255")
        size = self.input.shape[0] if self.input.shape else None
        self.fixed = size if isinstance(size, int) and size > 0 else None
        if self.fixed is not None and chunk is not None and chunk != self.fixed:
            raise InputError(f"chunk is {chunk}, and {self.path} takes batches of {self.fixed} only; leave chunk out")
        self.chunk = self.fixed or chunk
        self._takes = tuple(self.input.shape or ())[1:]

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise an error if inputs of this shape (without N) do not fit the model."""
        given = self.preprocessing.shape(shape)
        if given != self._takes:
            agree(f"input {self.input.name} of {self.path.name}", given, self._takes)

    def report(self) -> dict[str, Any]:
        """File, names of input and outputs, and what runs it."""
        return {
            "kind": "onnx",
            "file": self.path.name,
            "input": self.input.name,
            "outputs": list(self.wanted),
            "providers": list(self._session.get_providers()),
        }

    def _call(self, inputs: Tensor) -> Tensor:
        self.check(tuple(inputs.shape[1:]))
        compute = torch.float64 if self.dtype == np.float64 else torch.float32
        prepared = self.preprocessing(inputs.detach().to("cpu", compute)).contiguous().numpy()
        if self.dtype.kind == "u":
            prepared = np.rint(prepared).clip(0, 255)
        prepared = prepared.astype(self.dtype, copy=False)
        rows = [self._run(prepared[part]) for part in parts(len(prepared), self.chunk)]
        return (rows[0] if len(rows) == 1 else torch.cat(rows)).to(inputs)

    def _run(self, batch: np.ndarray[Any, Any]) -> Tensor:
        n = len(batch)
        batch = filled(batch, self.fixed)
        try:
            found = self._session.run(list(self.wanted), {self.input.name: batch})
        except Exception as error:
            raise BlackBoxError(f"{self.path.name} failed on inputs {batch.shape}: {one_line(error)}") from error
        if self.top_k:
            return dense(TopK(*(part[:n] for part in found)), n, self.classes)
        scores = np.asarray(found[0])
        if self.outputs == "labels" and scores.shape in ((len(batch),), (len(batch), 1)) and scores.dtype.kind in "iu":
            return torch.from_numpy(scores[:n].astype(np.float64))
        if scores.ndim != 2 or len(scores) != len(batch) or scores.dtype.kind not in "fiu":
            told = f"; {SUPPORTED}" if labels_only(scores, len(batch)) else ""
            raise BlackBoxError(
                f"output {self.wanted[0]} of {self.path.name} has shape {scores.shape} and type {scores.dtype} for "
                f"{len(batch)} images; expected scores ({len(batch)}, classes){told}"
            )
        return torch.from_numpy(scores[:n] if scores.dtype.kind == "f" else scores[:n].astype(np.float64))

    def _find_input(self, name: str | None) -> Any:
        inputs = self._session.get_inputs()
        names = ", ".join(one.name for one in inputs)
        if len(inputs) != 1:
            raise InputError(f"{self.path} has {len(inputs)} inputs ({names}); expected one, the images")
        if name is not None and name != inputs[0].name:
            raise InputError(f"{self.path} has no input {name!r}; its input is {names}")
        return inputs[0]

    def _type_of(self, found: Any) -> np.dtype[Any]:
        if found.type not in _TYPES:
            raise InputError(
                f"input {found.name} of {self.path} is {found.type}; expected images, one of {', '.join(_TYPES)}"
            )
        return _TYPES[found.type]

    def _find_outputs(self, name: str | None, top_k: tuple[str, str] | None) -> tuple[str, ...]:
        every = {one.name: one for one in self._session.get_outputs()}
        told = ", ".join(f"{one.name} {one.type} {tuple(one.shape or ())}" for one in every.values())
        if top_k is not None:
            if name is not None or not isinstance(top_k, tuple | list) or len(top_k) != 2:
                raise InputError("top_k names two outputs, labels and scores, and stands instead of output")
            if missing := [one for one in top_k if one not in every]:
                raise InputError(f"{self.path} has no output {missing[0]!r}; it has {told}")
            return tuple(top_k)
        if name is not None:
            if name not in every:
                raise InputError(f"{self.path} has no output {name!r}; it has {told}")
            return (name,)
        fitting = [one.name for one in every.values() if _may_be_scores(one)]
        labels = [one.name for one in every.values() if _may_be_labels(one)]
        if len(labels) == 1 and (self.outputs == "labels" or (self.outputs == "auto" and not fitting)):
            self.outputs = "labels"
            return (labels[0],)
        if len(fitting) != 1:
            mend = "name one: output=..." if fitting else f"it takes {SUPPORTED}"
            raise InputError(f"{self.path} has {len(fitting)} outputs of scores (N, classes) among {told}; {mend}")
        return (fitting[0],)


def data_files(path: Path) -> list[Path]:
    """The files beside an ONNX file that it says its weights are in, each once; those that are missing left out.

    They are found by the entry ``location`` that a tensor with external data has in the file (protocol buffers: field
    1 the key, field 2 the value, each with its length).
    """
    data = path.read_bytes()
    found: dict[Path, None] = {}
    for entry in re.finditer(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x7f])", data):
        low, *high = entry[1]
        size = (low & 127) + 128 * sum(high)
        name = data[entry.end() : entry.end() + size].decode("utf-8", "replace")
        if "\0" not in name and (path.parent / name).is_file():
            found[path.parent / name] = None
    return list(found)


def _may_be_scores(output: Any) -> bool:
    rank = None if output.shape is None else len(output.shape)
    return output.type in ("tensor(float)", "tensor(double)", "tensor(float16)") and rank in (None, 0, 2)


def _may_be_labels(output: Any) -> bool:
    rank = None if output.shape is None else len(output.shape)
    return output.type in ("tensor(int64)", "tensor(int32)") and rank in (1, 2)


def _open(path: Path, threads: int, providers: Sequence[str] | None) -> Any:
    runtime = require("onnxruntime", "onnx")
    if not path.is_file():
        raise InputError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; expected an ONNX file")
    wanted = list(providers or ("CPUExecutionProvider",))
    if missing := [one for one in wanted if one not in runtime.get_available_providers()]:
        known = ", ".join(runtime.get_available_providers())
        raise InputError(f"this onnxruntime has no provider {missing[0]!r}; it has {known}")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is told by the exception
    try:
        return runtime.InferenceSession(str(path), sess_options=options, providers=wanted)
    except Exception as error:
        raise InputError(f"{path} is not an ONNX model that onnxruntime can run ({one_line(error)})") from error
