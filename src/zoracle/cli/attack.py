"""`zoracle attack`: adversarial examples for the images of a task."""

from __future__ import annotations

import warnings
from typing import Any

import click

from zoracle.cli.attack_inputs import attacked, input_options, take_inputs
from zoracle.cli.options import run_comparison, run_options, take_request
from zoracle.cli.resume import resume_option, settled
from zoracle.comparison.compare import Comparison
from zoracle.errors import BlackBoxError, InputError, MisclassifiedWarning
from zoracle.objectives.attack import ImageAttack
from zoracle.reporting.report import accuracies
from zoracle.results.result import Result
from zoracle.storage.runfolder import ATTEMPTS
from zoracle.tasks.given import GivenImages

#: With fewer images a share means little.
_FEW = 4


@click.command("attack")
@run_options(default_seeds=1, one=True, out_required=True, check_start=True)
@input_options()
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="Run every attack of the ensemble on every image; by default later attacks skip images already broken.",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Query each adversarial image once more at the end; not charged to the budget.",
)
@resume_option()
@click.pass_context
def command(ctx: click.Context, /, **_: Any) -> None:
    """Attack images; write the adversarial images, a table, curves and a report.

    The images and the model are those of a task (--task), or your own (--data, --target). Within a ball, an ensemble of
    attacks shares the budget of each image. --optimizers selects other attacks, each with the whole budget.
    """
    options, kept = settled(ctx)
    inputs = take_inputs(options)
    request = take_request(options)
    assert request.out is not None  # click insists on it
    if (inputs.target or "").lower().startswith(("http://", "https://")):
        inputs = inputs._replace(arguments={**inputs.arguments, "log": request.out / ATTEMPTS})
    made = attacked(request, inputs)
    if not isinstance(made.objective(made.ids(request.spec.split)[:1]), ImageAttack):
        raise InputError(f"task {request.task} is not an attack on images; use `zoracle compare`")
    try:
        comparison = run_comparison(request, made, title=f"Attack on {made.name}", attack=True, command=kept)
    except BlackBoxError as error:
        raise BlackBoxError(f"{error}; all answers are saved: continue with --resume --out {request.out}") from error
    finally:
        if isinstance(made, GivenImages):
            made.close()
    _tell(comparison)


def _tell(comparison: Comparison) -> None:
    """What came of the attacks, in lines."""
    _warn_of_classes(next(iter(comparison.results.values())))
    for label, result in comparison.results.items():
        for repeat, seed in enumerate(result.seed[:, 0].tolist()):
            click.echo(f"{label}, seed {seed}: {outcome_line(result, repeat)}")
    click.echo(accuracies(comparison.rows))
    for label in comparison.results:
        click.echo(f"adversarial images: {comparison.paths[f'adversarial {label}']}")
    silent = [label for label, result in comparison.results.items() if _said_nothing(result)]
    if silent:
        raise BlackBoxError(
            f"{', '.join(silent)}: every answer of the target was NaN or infinite, so nothing was found; check the "
            "target's outputs"
        )


def _said_nothing(result: Result) -> bool:
    return bool((result.spent > 0).any()) and bool((result.non_finite >= result.spent).all())


def _warn_of_classes(result: Result) -> None:
    """Say so where the target is wrong on most images before the attack: its classes may have another order."""
    wrong, images = int(result.misclassified[0].sum()), result.ids.shape[1]
    if images >= _FEW and 2 * wrong > images:
        warnings.warn(
            f"{wrong} of {images} images are misclassified before the attack; check the order of the classes "
            "(--classes), the labels, and how the target takes its inputs (--mean, --std, --input-layout, --pixel-max)",
            MisclassifiedWarning,
            stacklevel=2,
        )


def outcome_line(result: Result, repeat: int) -> str:
    """What came of one seed, in a line."""
    wrong = int(result.misclassified[repeat].sum())
    broken = int(result.success_ever[repeat].sum()) - wrong
    attacked = int(result.attacked[repeat].sum())
    text = f"{broken} of {attacked} images broken"
    left_out = result.ids.shape[1] - wrong - attacked
    if left_out:
        text += f", {left_out} skipped"
    if wrong:
        text += f", {wrong} already misclassified"
    text += f", {int(result.spent[repeat].sum()):,} queries"
    if lost := int(result.lost[repeat].sum()):
        text += f", {lost:,} more repeated after interruptions"
    return text
