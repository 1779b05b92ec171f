"""`zoracle optimizers`: list the optimizers."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from zoracle.optimizers.pretrained import CARD, load_optimizer, shipped
from zoracle.optimizers.registry import REGISTRY


@click.command("optimizers")
def command() -> None:
    """List the optimizers: hand-designed ones, shipped trained ones, and kinds to train."""
    ready = Table(title="Ready to use", show_edge=False)
    ready.add_column("name")
    ready.add_column("description")
    ready.add_column("queries per step", justify="right")
    for name, entry in REGISTRY.items():
        if not entry.learned:
            ready.add_row(name, entry.summary, str(entry.make().queries_per_step))
    for name, folder in shipped().items():
        loaded = load_optimizer(folder)
        kind = loaded.metadata["name"]
        about = f"{REGISTRY[kind].summary}; trained on {' and '.join(loaded.trained_on())}"
        ready.add_row(name, about, str(loaded.optimizer.queries_per_step))
    kinds = Table(title="Kinds to train (zoracle train)", show_edge=False)
    kinds.add_column("name")
    kinds.add_column("description")
    for name, entry in REGISTRY.items():
        if entry.learned:
            kinds.add_row(name, entry.summary)
    console = Console()
    console.print(ready)
    console.print()
    console.print(kinds)
    console.print(
        f"\nThe plain name zo-lstm stands for the optimizer trained on the given task, or else for the universal one. "
        f"The {CARD} of each says what it was trained on and how it performs.",
        highlight=False,
    )
