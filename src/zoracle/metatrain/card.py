"""The model card that lies beside trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoracle.metatrain.config import Family, Stage, TrainConfig

_VALUES = {
    "queries": "queries, as in use",
    "directional": "directional derivatives of that gradient",
}


def card(config: TrainConfig, provenance: dict[str, Any], parameters: int) -> str:
    """A model card in Markdown: what was trained on what, by which settings, for how long, chosen by which score.

    Args:
        config: what the training was told.
        provenance: of the trainer.
        parameters: number of weights.
    """
    validation = config.validation
    families = config.drawn_from()
    unless = " unless said above"
    each = unless if any(family.meta_batch for family in families) else ""
    stages = "\n".join(
        f"{number}. {stage.unrolls} unrolls of {stage.steps} steps on {stage.meta_batch} problems each{each}, "
        f"{_updates(stage)}; Adam, step size {stage.lr:g}"
        + ("" if stage.final_lr is None else f" down to {stage.final_lr:g}")
        + f"; meta-loss `{stage.loss.form}` with `{stage.loss.weights}` weights"
        + (f"; trains {', '.join(stage.train)}" if stage.train else "")
        + "."
        for number, stage in enumerate(config.stages, 1)
    )
    data = "\n".join(map(_data, families, provenance["problems_each"], [len(families)] * len(families)))
    words = {"ratio": "mean final / initial loss", "queries": "mean queries to first success, failures at the budget"}
    started = "" if config.initial is None else f" Training started from the weights of `{Path(config.initial).name}`."
    if config.before:
        started = " Training started from the weights of the training before it in its recipe."
    several = len(families) > 1
    of_each = " of each family" if several else ""
    mean = (
        f"geometric mean over families of the {words[validation.criterion]}" if several else words[validation.criterion]
    )
    those = f"{'these tasks' if several else 'this task'} {'last' if started else 'only'}"
    unit = (
        "The unit of its steps is\nlearned as a run goes; `scale=` of `zoracle.minimize` is where it starts."
        if config.settings.get("adaptive")
        else "It steps in units of x; where\ncoordinates have to change by much more or less than in training, give "
        "`scale=` to `zoracle.minimize`."
        if config.task_settings.get("eps") is None
        else "Its steps are in\nunits of the ball."
    )
    score = provenance[f"validation_{validation.criterion}"]
    before = provenance.get(f"initial_validation_{validation.criterion}")
    told = f"{score:.4g}" + ("" if before is None else f" ({before:.4g} with the weights that training started from)")
    gradient = "the objective's own" if config.gradient == "true" else "coordinatewise finite differences"
    values = _VALUES[config.values] + (unless if any(family.values for family in families) else "")
    return f"""# {config.optimizer}, trained on {config.trained_on()}

A learned zeroth-order optimizer of {parameters:,} weights, shared by all coordinates of a problem.
Weights: `optimizer.safetensors`, settings and the whole training config in its metadata.

## Training

{data}
- Optimizee's gradient: {gradient}. Values that answered its queries in training: {values}.
- Precision {config.dtype}, seed {config.seed}.{started}
- Took {spoken(provenance["seconds"])} on {provenance["threads"]} thread(s), validation included
  (zoracle {provenance["zoracle"]}, torch {provenance["torch"]}).

{stages}

The weights are those that did best on {validation.problems} problems of the `valid` split{of_each}, by real queries
({validation.steps} steps, validated every {validation.every} unrolls): {mean},
{told}. That number chose them, so it flatters them; the test score is the one to quote.

## Use

It was trained for {config.stages[-1].steps} steps of {config.settings.get("num_directions", 20)} directions, and on
{those}: compare it with tuned baselines before relying on it elsewhere. {unit}
"""


def spoken(seconds: float) -> str:
    """How long a training took, in words and whole minutes."""
    minutes = round(seconds / 60)
    return "1 minute" if minutes == 1 else "less than a minute" if minutes < 1 else f"{minutes} minutes"


def _updates(stage: Stage) -> str:
    if stage.estimator == "backprop":
        return f"updated every {stage.truncation} steps"
    return f"each an update by evolution ({stage.pairs} pairs, sigma {stage.sigma:g}), by queries alone"


def _data(family: Family, problems: int, families: int) -> str:
    """A line on one family."""
    settings = {key: value for key, value in family.settings.items() if key not in ("eps", "norm")}
    told = f" ({', '.join(f'{key} {value}' for key, value in settings.items())})" if settings else ""
    units = f", units of x by factors of 1 / {family.rescale:g} .. {family.rescale:g}" if family.rescale != 1 else ""
    weight = f"; weight {family.weight:g}" if families > 1 else ""
    batch = "" if family.meta_batch is None else f"; {family.meta_batch} in a meta-batch"
    threat = _threat(family.settings)
    what = f"{problems} problems of the `train` split of the task `{family.task}`{told}{threat}"
    turn = "" if family.every == 1 else f"; in one of {family.every} unrolls"
    values = "" if family.values is None else f"; queries answered by {_VALUES[family.values]}"
    return f"- Data: {what}{units}{weight}{batch}{turn}{values}."


def _threat(settings: dict[str, Any]) -> str:
    """What an attack was allowed to do, where the config says more than the task's own."""
    if settings.get("eps") is not None:
        return f", perturbations within {settings['eps']:g} in {settings.get('norm', 'l1')}"
    return f", distance in {settings['norm']}" if "norm" in settings else ""
