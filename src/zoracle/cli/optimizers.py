"""`zoracle optimizers`: what there is."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from zoracle.optimizers.pretrained import CARD, load_optimizer, shipped
from zoracle.optimizers.registry import REGISTRY


@click.command("optimizers")
def command() -> None:
    """List optimizers: hand-designed ones, trained ones that are shipped, and kinds to train."""
    ready = Table(title="Ready to use", show_edge=False)
    ready.add_column("name")
    ready.add_column("what it is")
    ready.add_column("queries a step", justify="right")
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
    kinds.add_column("what it is")
    for name, entry in REGISTRY.items():
        if entry.learned:
            kinds.add_row(name, entry.summary)
    console = Console()
    console.print(ready)
    console.print()
    console.print(kinds)
    console.print(
        f"\nA trained optimizer's plain name (zo-lstm) is the one trained on the task at hand, or the universal one. "
        f"What each was trained on and scores is in its {CARD}.",
        highlight=False,
    )
