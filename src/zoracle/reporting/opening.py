"""The figure of the demo: the progress of each optimizer, and the effect of the learned one on some images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoracle.objectives.attack import ImageAttack
from zoracle.reporting.curves import curves
from zoracle.reporting.figures import Figure, styles
from zoracle.reporting.gallery import best_points
from zoracle.results.result import Result

#: Images that are shown.
_SHOWN = 4


def opening_figure(objective: ImageAttack, results: Mapping[str, Result]) -> Figure:
    """Best loss against queries of all optimizers, and images before and after the attack of the first one.

    No query is made: which images the attack broke, and after how many queries, is in the results.

    Args:
        objective: the attack on the problems of the results, grey images.
        results: of each optimizer, by label.
    """
    label, result = next(iter(results.items()))
    (best,) = (figure for figure in curves(results) if figure.name == "best")
    rows = result.success_ever[0].nonzero().squeeze(1)[:_SHOWN]
    points = best_points(result)[0, rows]
    before = objective.adversarial(torch.zeros_like(points), rows).cpu().float()
    after = objective.adversarial(points, rows).cpu().float()
    queries = result.first_success[0, rows].tolist()
    classes = objective.labels[rows].tolist()

    def draw(figure: Any) -> None:
        left, right = figure.subfigures(1, 2, width_ratios=[1.0, 1.05])
        best.draw(left)
        left.axes[0].set_title("best loss so far, mean over images")
        for name, style in styles(list(results)).items():
            left.axes[0].plot([], [], color=style.colour, dashes=style.dash or (None, None), label=name)
        left.axes[0].legend(frameon=False)
        if not classes:
            return
        right.suptitle(f"before and after the attack by {label}", fontsize="medium")
        grid = right.subplots(2, len(classes), squeeze=False)
        for column, (label_, asked) in enumerate(zip(classes, queries, strict=True)):
            _show(grid[0, column], before[column], f"read as {label_}")
            _show(grid[1, column], after[column], f"not as {label_},\n{asked} queries")

    names = ", ".join(results)
    caption = f"Left: {names} on the same images. Right: images, and the adversarial images with the lowest loss."
    return Figure("demo", "Breaking a classifier by calling it only", caption, draw, (10.0, 3.6))


def _show(axes: Any, image: Tensor, title: str) -> None:
    """A grey image."""
    axes.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize="small", loc="center")
    axes.set_axis_off()
