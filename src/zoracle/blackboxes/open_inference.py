"""A model on a server that speaks the Open Inference Protocol (v2) over HTTP: KServe, Triton, MLServer, OpenVINO."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoracle.blackboxes import v2_protocol as protocol
from zoracle.blackboxes.attempts import Attempts
from zoracle.blackboxes.base import SUPPORTED, BlackBox, Outputs
from zoracle.blackboxes.batches import agree, filled, parts
from zoracle.blackboxes.connection import Answer, Connection, RetryError
from zoracle.blackboxes.pacing import Clock, Policy
from zoracle.blackboxes.preprocessing import Channels, Layout, Preprocessing
from zoracle.blackboxes.reading import FEW
from zoracle.blackboxes.topk import Classes, TopK, dense
from zoracle.blackboxes.v2_protocol import MalformedError
from zoracle.blackboxes.v2_settings import Metadata, choose_input, choose_outputs, headers_with_key, number_of_classes
from zoracle.errors import BlackBoxError, InputError

#: Bytes that a value takes at most, written as text.
BYTES = 32

#: Numbers in a batch that metadata alone may ask to be filled up to; a larger one has to be asked for by ``chunk``.
FILLED = 2**19

#: Values more than are expected, so that an answer of another shape is told by its shape.
_SPARE = 1024

_DTYPES = {"FP16": torch.float32, "FP32": torch.float32, "FP64": torch.float64}


class OpenInference(BlackBox):
    """A classifier behind the Open Inference Protocol (v2) over HTTP (extra ``http``). It has no gradient.

    The constructor asks the server whether it is ready, which extensions it supports, and for the names, types and
    shapes of the model's input and outputs; what the server does not report must be given. Images are sent in requests
    of at most ``chunk``, several at once, and outputs are returned in order. A request is repeated, with growing
    pauses, after a broken connection, a time-out, a status of 408, 425, 429 or at least 500, an answer that violates
    the protocol, and by default one with NaN or infinite numbers; those of the last attempt are returned as they are.
    Other statuses raise an error with the server's message.

    The oracle does not count retries: :meth:`report` counts what was sent, and ``log`` lists it. Close the black box
    when done, or use it in a ``with`` statement.

    Args:
        url: ``http(s)://host:port/v2/models/NAME``, with ``/versions/V`` or not; or the server's, and ``model``.
        model: name of the model, if not in the address.
        version: version of the model; default: the server's choice.
        preprocess: mean and std that inputs are normalised by, a number or one per channel (inputs (N, C, ...)).
        layout: what the model takes: "NCHW", "NHWC" or "flat".
        pixel_max: the model's value for a pixel of 1: 1 or 255; mean and std are in its units.
        outputs: what the model returns.
        input: name of the input, if the server does not report it.
        datatype: type of the input, FP32 where neither is given.
        output: name of the output with the scores (N, classes); needed if several outputs have this shape.
        top_k: names of the two outputs with labels and scores, (N, k) each, of a top-k model.
        classes: number of classes, for ``top_k``; other answers are then malformed.
        class_names: class names in order, for labels that are names.
        metadata: False to skip the request for metadata; ``input`` is then required.
        binary: whether tensors are sent as bytes; None if the server has the extension.
        chunk: maximum number of images in one request.
        concurrency: maximum number of requests in flight.
        timeout: seconds allowed for one attempt.
        attempts: maximum number of attempts of one request.
        backoff: maximum seconds before the second attempt; doubled for each further one.
        max_backoff: maximum seconds between two attempts, unless the server asks for more (Retry-After).
        retry_non_finite: whether to retry NaN and infinite outputs.
        requests_per_second: rate limit, or None.
        images_per_second: rate limit, or None.
        api_key_env: environment variable that holds a key. It is sent with every request and appears nowhere else.
        api_key_header: header for the key; Authorization sends "Bearer KEY", any other the key itself.
        headers: additional headers of every request.
        log: file to which each attempt appends a line of JSON.
        clock: the clock that measures waiting.

    Raises:
        InputError: an address, key or setting cannot be used, the metadata are insufficient, or the model does not take
            images.
        BlackBoxError: the server cannot be reached, is not ready, or refuses.
        MissingExtraError: httpx or tenacity is not installed.

    Source: Open Inference Protocol v2 and its binary tensor data extension (KServe).
    """

    remote = True

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        version: str | None = None,
        preprocess: tuple[Channels, Channels] | None = None,
        layout: Layout = "NCHW",
        pixel_max: float = 1.0,
        outputs: Outputs = "auto",
        input: str | None = None,
        datatype: str | None = None,
        output: str | None = None,
        top_k: tuple[str, str] | None = None,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        metadata: bool = True,
        binary: bool | None = None,
        chunk: int = 32,
        concurrency: int = 4,
        timeout: float = 30.0,
        attempts: int = 6,
        backoff: float = 0.25,
        max_backoff: float = 30.0,
        retry_non_finite: bool = True,
        requests_per_second: float | None = None,
        images_per_second: float | None = None,
        api_key_env: str | None = None,
        api_key_header: str = "Authorization",
        headers: dict[str, str] | None = None,
        log: Path | str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.address = protocol.address(url, model, version)
        self.preprocessing = Preprocessing(preprocess, layout, pixel_max)
        self.outputs = outputs
        self.classes = Classes(classes, class_names)
        self.retry_non_finite = retry_non_finite
        if not isinstance(chunk, int) or chunk < 1:
            raise InputError(f"chunk is {chunk!r}; expected at least 1 image a request")
        sent, self._secrets = headers_with_key(headers, api_key_env, api_key_header)
        self.attempts = Attempts(log)
        try:
            self._connection = Connection(
                Policy(timeout, attempts, backoff, max_backoff, concurrency),
                headers=sent,
                secrets=self._secrets,
                attempts=self.attempts,
                requests_per_second=requests_per_second,
                images_per_second=images_per_second,
                clock=clock,
                secure=self.address.server.startswith("https"),
            )
        except BaseException:
            self.attempts.close()
            raise
        self.chunk = chunk
        try:
            about = self._connection.run(self._ask) if metadata else Metadata((), (), False)
            with self._secrets.kept():
                found = choose_input(about.inputs, input, datatype, self.address.model)
                self.input, self.datatype, self._shape = found
                self.wanted = choose_outputs(about.outputs, output, top_k, self.address.model)
            self.binary = about.binary if binary is None else binary
        except BaseException:
            self.close()
            raise
        self.top_k = top_k is not None
        if self.datatype not in _DTYPES and self.preprocessing.pixel_max == 1:
            self.close()
            raise InputError(f"the model takes integers ({self.datatype}); say what white is: pixel_max=255")
        self._number: int | None = self.classes.number or number_of_classes(about.outputs, self.wanted)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise an error if inputs of this shape (without N) do not fit the model."""
        given = self.preprocessing.shape(shape)
        wanted, fixed = self._fitting(given)
        agree(f"input {self._secrets.shown(self.input, 40)} of {self.address.model}", given, wanted)
        if fixed is not None and fixed > self.chunk and fixed * math.prod(given) > FILLED:
            raise InputError(
                f"the metadata of {self.address.model} say that it takes batches of {fixed:,} images only; "
                f"where that is right, say chunk={fixed} (--request-images)"
            )

    def report(self) -> dict[str, Any]:
        """Address, names and types, and counts of what was sent; no keys."""
        return {
            "kind": "open-inference",
            "url": self.address.path,
            "input": self._secrets.shown(self.input, 40),
            "datatype": self.datatype,
            "outputs": [self._secrets.shown(name, 40) for name in self.wanted],
            "binary": self.binary,
            "attempts": self.attempts.report(),
        }

    def close(self) -> None:
        """Close connections and the log."""
        self._connection.close()
        self.attempts.close()

    def _call(self, inputs: torch.Tensor) -> torch.Tensor:
        self.check(tuple(inputs.shape[1:]))
        given = inputs.detach().to("cpu", _DTYPES.get(self.datatype, torch.float32))
        # What is not a number cannot be sent, and has no answer.
        lost = ~given.flatten(1).isfinite().all(1)
        given = torch.where(lost.view(-1, *[1] * (given.ndim - 1)), 0.0, given)
        prepared = self.preprocessing(given).contiguous().numpy()
        if self.datatype not in _DTYPES:
            limit = (0, 255) if self.datatype == "UINT8" else (None, None)
            prepared = np.rint(prepared) if limit[0] is None else np.rint(prepared).clip(*limit)
        _, fixed = self._fitting(prepared.shape[1:])
        batches = [prepared[part] for part in parts(len(prepared), fixed or self.chunk)]
        with self._secrets.kept():
            rows = self._connection.run(lambda: self._infer(batches, fixed))
        found = torch.cat(rows)
        return torch.where(lost.unsqueeze(1), torch.nan, found).to(inputs)

    def _fitting(self, given: tuple[int, ...]) -> tuple[tuple[int, ...], int | None]:
        """The shape, without N, that the metadata tell for prepared inputs of a shape, and the batch size they fix."""
        shape = self._shape
        if len(shape) == len(given) and shape and shape[0] > 0:
            return shape, None  # some servers leave the batch out
        return shape[1:], shape[0] if shape and shape[0] > 0 else None

    async def _infer(self, batches: list[np.ndarray[Any, Any]], fixed: int | None) -> list[torch.Tensor]:
        tasks = [asyncio.create_task(self._infer_one(batch, fixed)) for batch in batches]
        try:
            return await asyncio.gather(*tasks)
        finally:
            # Where one failed, the others are not worth their price any more.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _infer_one(self, batch: np.ndarray[Any, Any], fixed: int | None) -> torch.Tensor:
        n = len(batch)
        batch = filled(batch, fixed)
        content, headers = protocol.encode(batch, self.input, self.datatype, self.wanted, binary=self.binary)
        values = self._values(len(batch))

        def read(answer: Answer, last: bool) -> torch.Tensor:
            found = protocol.decode(answer.body, answer.headers.get(protocol.HEADER_LENGTH), values)
            rows = self._scores(found, len(batch))[:n]
            bad = int((~(rows.isfinite() | rows.isneginf()).all(1)).sum())
            if self.retry_non_finite and bad and not last:
                raise RetryError("non-finite", f"{bad} of {n} rows of outputs are NaN or infinite", status=200)
            return rows

        path = f"{self.address.path}/infer"
        limit = FEW + BYTES * values
        return await self._connection.send("POST", path, read, images=n, content=content, headers=headers, limit=limit)

    def _values(self, n: int) -> int:
        """Values that an answer for n images may hold: what the caller says of the classes, or the server in bounds."""
        most = n * (2 if self.top_k else 1)
        if self.classes.number is not None:
            return most * self.classes.number + _SPARE
        known = self._number is not None and self.wanted  # a server that tells no outputs sends them all
        return min(most * self._number + _SPARE, protocol.VALUES) if known and self._number else protocol.VALUES

    def _scores(self, found: dict[str, np.ndarray[Any, Any]], n: int) -> torch.Tensor:
        """The outputs of an answer for n images as scores (n, classes), float64."""
        if missing := [name for name in self.wanted if name not in found]:
            raise MalformedError(f"an answer without the output {missing[0]!r}")
        if self.top_k:
            labels, scores = (found[name] for name in self.wanted)
            return self._known(dense(TopK(labels, scores), n, self.classes))
        if self.wanted:
            chosen = found[self.wanted[0]]
        else:
            fitting = [array for array in found.values() if array.ndim == 2 and array.dtype.kind == "f"]
            if len(fitting) != 1 and len(found) != 1:
                names = ", ".join(protocol.clip(name) for name in found) or "none"
                raise BlackBoxError(f"the model has several outputs ({names}); name the one with scores: output=...")
            chosen = fitting[0] if len(fitting) == 1 else next(iter(found.values()))
        if chosen.dtype.kind == "O" or (chosen.dtype.kind in "iu" and chosen.shape in ((n,), (n, 1))):
            raise BlackBoxError(
                f"the model answers with labels only ({'names' if chosen.dtype.kind == 'O' else chosen.dtype} of shape "
                f"{chosen.shape}), and they are not enough; it takes {SUPPORTED}"
            )
        if chosen.ndim != 2 or len(chosen) != n:
            raise MalformedError(f"outputs of shape {chosen.shape} for {n} images; expected ({n}, classes)")
        return self._known(torch.from_numpy(chosen.astype(np.float64)))

    def _known(self, rows: torch.Tensor) -> torch.Tensor:
        if self._number is None:
            self._number = rows.shape[1]
        if rows.shape[1] != self._number:
            raise MalformedError(
                f"outputs of {rows.shape[1]} classes; expected {self._number}, by metadata, classes= or earlier answers"
            )
        return rows

    async def _ask(self) -> Metadata:
        """Whether the server is ready, its extensions, and what it says of the model."""
        send, server = self._connection.send, self.address.server

        def server_metadata(answer: Answer, last: bool) -> bool:
            extensions = protocol.read_json(answer.body).get("extensions")
            return isinstance(extensions, list) and "binary_tensor_data" in extensions

        def model_metadata(answer: Answer, last: bool) -> tuple[Any, Any]:
            told = protocol.read_json(answer.body)
            return protocol.tensors(told, "inputs"), protocol.tensors(told, "outputs")

        # A gateway in between may answer for the model only.
        await send("GET", f"{server}/v2/health/ready", lambda answer, last: None, missing=lambda status: None)
        binary = await send("GET", f"{server}/v2", server_metadata, missing=lambda status: False)
        inputs, outputs = await send("GET", self.address.path, model_metadata)
        return Metadata(inputs, outputs, binary)
