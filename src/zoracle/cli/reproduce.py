"""`zoracle reproduce`: the paper's experiments."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from zoracle.cli.options import processes, workers_option
from zoracle.errors import InputError, MissingExtraError
from zoracle.experiments import registry
from zoracle.experiments.reproduce import changed, reproduce, spoken


@click.command("reproduce", epilog="NAME is one of " + ", ".join(registry.names()) + ".")
@click.argument("name", metavar="NAME|all")
@click.option("--quick", is_flag=True, help="Check in a minute that it runs, with tiny sizes and meaningless numbers.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/reproduce"),
    show_default=True,
    help="Output folder, with one folder per experiment; use the same folder to resume.",
)
@click.option("--optimizers", help="Learned optimizers, as names or folders separated by commas.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a setting of the experiment, such as problems=30; may be repeated. The page lists the changes.",
)
@workers_option
def command(name: str, quick: bool, out: Path, optimizers: str | None, changes: tuple[str, ...], workers: int) -> None:
    """Run one of the paper's experiments, or all; write tables, raw curves, figures and a page for each."""
    every = name == "all"
    chosen = [registry.experiment(one) for one in (registry.names() if every else (name,))]
    settings = changed(chosen, quick, changes)
    # Batches of two or three problems cost several times as much a query as whole ones.
    estimated = "upper bound from tiny batches" if quick else "estimate"
    console = Console()
    failed: list[str] = []
    seconds = 0.0
    for experiment in chosen:
        folder = out / (f"{experiment.name}-quick" if quick else experiment.name)
        console.print(f"{experiment.name}: {experiment.summary}", markup=False, highlight=False)
        try:
            done = reproduce(
                experiment,
                folder,
                quick=quick,
                settings=settings[experiment.name],
                optimizers=optimizers,
                workers=processes(workers),
                console=console,
            )
        except MissingExtraError as error:
            if not (every and quick):
                raise
            console.print(f"  skipped: {error}", markup=False, highlight=False)  # a quick look at what is there
            continue
        except InputError as error:
            if not every:
                raise
            failed.append(f"{experiment.name}: {error}")  # the others need not wait for its data
            console.print(f"  did not run: {error}", markup=False, highlight=False)
            continue
        seconds += done.full_seconds or 0.0
        for note in done.notes:
            console.print(f"  {note}", style="dim", markup=False, highlight=False)
        for finding in done.outcome.findings:
            console.print(f"  {finding}", markup=False, highlight=False)
        page = done.paths.get("page", done.paths["table.md"])
        console.print(f"  {page}", markup=False, highlight=False, soft_wrap=True)
        if done.full_seconds is not None:
            told = spoken(done.full_seconds)
            console.print(f"  full form, {estimated}: {told} with one process", markup=False, highlight=False)
    if every and seconds:
        told = f"all full forms, {estimated}: {spoken(seconds)} with one process; --workers 2 shares evaluations"
        console.print(told, markup=False, highlight=False)
    if failed:
        raise InputError(f"{len(failed)} of {len(chosen)} experiments did not run; {'; '.join(failed)}")
