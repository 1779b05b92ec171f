"""Memory and time of forward-only fine-tuning: ``python benchmarks/finetune.py``.

Peak memory is that of a process of its own (its largest resident set), with random weights: of inference, of a
training by :class:`zoracle.finetune.ZerothOrder`, and of one step with gradients (AdamW) on the same model and batch.
Time is that of a step against that of as many forward passes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoracle.finetune import METHODS, ZerothOrder

VOCABULARY = 8192


class Transformer(nn.Module):
    """A causal transformer with tied embeddings.

    Args:
        width: of the residual stream; heads are 64 wide.
        layers: how many.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        layer = nn.TransformerEncoderLayer(
            width, width // 64, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (N, T, V) of tokens (N, T)."""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        hidden: Tensor = self.blocks(self.embedding(tokens), mask=mask, is_causal=True)
        return hidden @ self.embedding.weight.T


def problem(width: int, layers: int, batch: int, length: int) -> tuple[Transformer, Callable[[], Tensor]]:
    """A model with random weights and its loss on one batch."""
    torch.manual_seed(0)
    model = Transformer(width, layers).eval()
    tokens = torch.randint(VOCABULARY, (batch, length + 1))

    def loss() -> Tensor:
        logits = model(tokens[:, :-1]).view(-1, VOCABULARY)
        return nn.functional.cross_entropy(logits, tokens[:, 1:].reshape(-1))

    return model, loss


def measured(kind: str, width: int, layers: int, batch: int, length: int, repeats: int) -> dict[str, float]:
    """One measurement, in this process: of "inference", "gradients" or a method."""
    model, loss = problem(width, layers, batch, length)
    run: Callable[[], object]
    if kind == "inference":

        def run() -> object:
            with torch.no_grad():
                return loss()
    elif kind == "gradients":
        adam = torch.optim.AdamW(model.parameters(), 1e-6)

        def run() -> object:
            adam.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            return adam.step()
    else:
        optimizer = ZerothOrder(model.parameters(), kind, lr=1e-9)

        def run() -> object:
            return optimizer.step(loss)

    run()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    forwards = len(optimizer.method.probes) if kind not in ("inference", "gradients") else 1
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": min(times),
        "forwards": forwards,
    }


def main() -> None:
    """Print a table, each row measured in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", default="inference,gradients," + ",".join(METHODS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = (options.width, options.layers, options.batch, options.length, options.repeats)
    if options.one:
        print(json.dumps(measured(options.one, *size)))
        return
    print(
        "| what | peak, MiB | of inference's | seconds a step | of its forwards |\n| --- | ---: | ---: | ---: | ---: |"
    )
    base: dict[str, float] = {}
    for kind in dict.fromkeys(["inference", *options.kinds.split(",")]):
        done = subprocess.run(
            [sys.executable, __file__, "--one", kind, *(f"--{n}={v}" for n, v in zip(
                ("width", "layers", "batch", "length", "repeats"), size, strict=True))],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        found = json.loads(done.stdout)
        base = base or found
        memory, spent = found["peak_mib"] / base["peak_mib"], found["seconds"] / (base["seconds"] * found["forwards"])
        print(
            f"| {kind} | {found['peak_mib']:,.0f} | {memory:.3f} | {found['seconds']:.2f} | "
            f"{'-' if kind == 'gradients' else format(spent, '.2f')} |",
            flush=True,
        )
    print(f"\n{base['parameters']:,.0f} weights, batch {options.batch}, {options.length} tokens each")


if __name__ == "__main__":
    main()
