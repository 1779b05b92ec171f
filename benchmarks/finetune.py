"""Memory and time of forward-only fine-tuning against inference, on a causal transformer with random weights."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measure import Options, interleaved, peak_memory
from benchmarks.report import Figure, Report, figure, ratio
from zoracle.finetune import METHODS, ZerothOrder

ABOUT = "memory and time of fine-tuning by forward passes against inference, a causal transformer, random weights"
FULL: dict[str, int] = {"vocabulary": 8192, "width": 640, "layers": 10, "batch": 8, "length": 128}
SMALL: dict[str, int] = {"vocabulary": 64, "width": 64, "layers": 1, "batch": 2, "length": 8}
INFERENCE, GRADIENTS = "inference", "gradients (AdamW)"


class Transformer(nn.Module):
    """A causal transformer with tied embeddings.

    Args:
        vocabulary: tokens.
        width: of the residual stream; heads are 64 wide.
        layers: how many.
    """

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(
            width, width // 64, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (N, T, V) of tokens (N, T)."""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        hidden: Tensor = self.blocks(self.embedding(tokens), mask=mask, is_causal=True)
        return hidden @ self.embedding.weight.T


def problem(
    vocabulary: int, width: int, layers: int, batch: int, length: int
) -> tuple[Transformer, Callable[[], Tensor]]:
    """A model with random weights and its loss on one batch of random tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Transformer(vocabulary, width, layers).eval()
        tokens = torch.randint(vocabulary, (batch, length + 1))

    def loss() -> Tensor:
        logits = model(tokens[:, :-1]).view(-1, vocabulary)
        return nn.functional.cross_entropy(logits, tokens[:, 1:].reshape(-1))

    return model, loss


def forward(loss: Callable[[], Tensor]) -> Tensor:
    """One forward pass, as inference does it."""
    with torch.no_grad():
        return loss()


def probe(kind: str, size: dict[str, int], small: bool) -> None:
    """Two steps of a method, of AdamW with gradients, or two forward passes."""
    model, loss = problem(**(SMALL if small else size))
    if kind == INFERENCE:
        for _ in range(2):
            forward(loss)
        return
    if kind == GRADIENTS:
        adam = torch.optim.AdamW(model.parameters(), 1e-6)
        for _ in range(2):
            adam.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            adam.step()
        return
    optimizer = ZerothOrder(model.parameters(), kind, lr=1e-9)
    for _ in range(2):
        optimizer.step(loss)


def memory(size: dict[str, int], kinds: tuple[str, ...], repeats: int) -> list[Figure]:
    """Peaks of processes of their own, in turn, and their ratios to inference's."""

    def peak(kind: str) -> Callable[[], float]:
        def measure() -> float:
            return peak_memory("benchmarks.finetune:probe", kind=kind, size=size).whole

        return measure

    peaks = interleaved({kind: peak(kind) for kind in kinds}, repeats)
    figures = [figure(f"{INFERENCE}: peak memory", "MiB", peaks[INFERENCE])]
    for kind in kinds[1:]:
        bar = None if kind == GRADIENTS else 1.05
        figures.append(ratio(f"{kind}: peak memory over inference's", peaks[kind], peaks[INFERENCE], at_most=bar))
    return figures


def duration(size: dict[str, int], kind: str, repeats: int) -> Figure:
    """Seconds of a step over those of as many forward passes, of the processor: others may use the machine."""
    model, loss = problem(**size)
    optimizer = ZerothOrder(model.parameters(), kind, lr=1e-9)

    def timed(call: Callable[[], object]) -> float:
        begun = time.process_time()
        call()
        return time.process_time() - begun

    def passes() -> object:
        return [forward(loss) for _ in range(optimizer.forwards_per_step)]

    passes()
    optimizer.step(loss)
    found = interleaved({"step": lambda: timed(lambda: optimizer.step(loss)), "passes": lambda: timed(passes)}, repeats)
    return ratio(f"{kind}: time a step over its forwards'", found["step"], found["passes"], at_most=1.15)


def run(options: Options) -> Report:
    """All methods, each against inference."""
    size = SMALL if options.quick else FULL
    methods = ("mezo",) if options.quick else tuple(METHODS)
    kinds = (INFERENCE, *methods) if options.quick else (INFERENCE, *methods, GRADIENTS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        figures = memory(size, kinds, options.repeats)
        figures += [duration(size, kind, options.repeats) for kind in methods]
    finally:
        torch.set_num_threads(threads)
    weights = sum(p.numel() for p in problem(**size)[0].parameters())
    return Report(
        "finetune", ABOUT, figures, {**size, "weights": weights}, ["memory: the whole process, torch included"]
    )
