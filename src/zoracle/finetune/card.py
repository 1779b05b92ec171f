"""The model card of a controller, from the metadata of its file and of the one that its training continued from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoracle.finetune.controller import HEAD, SIZE

_NETWORKS = (
    "MLPs of 8 to 192 units with one hidden layer",
    "CNNs with pooling, of 4 to 24 channels",
    "MLPs of 8 to 192 units with two hidden layers",
    "transformers of one or two blocks, 8 to 32 wide, on sequences drawn at random",
    "language models of one or two blocks, 12 to 48 wide, pretrained on drawn Markov chains and fine-tuned to "
    "tell\n  them apart, by the next token or by a new head",
    "adapters of rank 1 to 8 on such language models",
    "CNNs of three convolutions, two of them strided, of 4 to 32 channels",
)


def card(told: Mapping[str, Any], validated: int, before: Mapping[str, Any] | None) -> str:
    """The card in Markdown.

    Args:
        told: metadata of the file.
        validated: number of validation problems.
        before: metadata of the file of the training before; None if there was none.
    """
    kernels = bool(told["recipe"].get("kernels"))
    sets = f"{SIZE} weights, "
    if kernels:
        sets = f"Two sets of {SIZE} weights, one for networks of convolutions and one for all others,\n"
    text = f"""# The controller of `ZerothOrder(params, "learned")`

{sets}shared by all tensors of a network: from each tensor's size, kind and spread, and from slope, curvature
and noise of the losses, it gives the radius of the tensor's probe and the length of its step.

Images are half of the 8x8 digits that ship with the package; validation networks have the other half, other sequences
and other chains. Two of three networks were trained with gradients first; those on images and on sequences drawn at
random then have three classes renamed. What chose the weights on validation networks flatters them.
"""
    if before is not None:
        text += _part("Training", before, validated, "for the same rule with a controller that says nothing")
    name = "Training for networks of convolutions" if kernels else "Training"
    start = "for the same rule with a controller that says nothing" if before is None else "for the weights before it"
    return text + _part(name, told, validated, start)


def _part(name: str, told: Mapping[str, Any], validated: int, start: str) -> str:
    recipe = told["recipe"]
    kinds = recipe.get("kinds", range(6))  # files of before had all of these
    networks = ";\n  ".join(_NETWORKS[kind] for kind in sorted(set(kinds)))
    restarts = recipe.get("restarts")
    rises = f", risen again after {' and '.join(map(str, restarts))} updates" if restarts else ""
    head = f" of the {HEAD} weights of the last layer" if recipe.get("head") else ""
    mean = f"; a running mean of the weights, {recipe['smoothing']:g}" if recipe.get("smoothing") else ""
    return f"""
## {name}

- Networks: {networks}.
- Evolution by ranks{head}, {recipe["pairs"]} pairs, sigma {recipe["sigma"]:g}; one network an update.
- {told["updates"]} updates; Adam, step size {recipe["lr"]:g}{rises}{mean}.
- Runs of {recipe["steps"][0]} to {recipe["steps"][1]} steps of {recipe["num_directions"]} directions of \
{"balanced" if recipe.get("balanced", True) else "independent"} signs.
- Took {told["seconds"] / 60:.0f} minutes of one core. Seed {recipe["seed"]}.
- Mean log of final / initial loss on {validated} validation networks: {told["validated"]:.3f}; {told["untrained"]:.3f}
  {start}.
"""
