"""Meta-gradients by truncated back-propagation through an unroll."""

from __future__ import annotations

import math
from collections.abc import Generator

import torch

from zoracle.errors import InputError
from zoracle.metatrain.gradients import GradientEstimator, Summary, Update, add_over
from zoracle.metatrain.loss import Segment
from zoracle.metatrain.unroll import FamilyRun, Unroll, clipped
from zoracle.state import detach

#: The result of a run in another process.
_NOTHING = (0.0, 0.0, 0.0)


class Backpropagation(GradientEstimator):
    """Differentiates segments of K steps; one update a segment.

    Args:
        unroll: what is differentiated.

    Raises:
        InputError: the stage trains what its settings do not use.
    """

    def __init__(self, unroll: Unroll) -> None:
        self.unroll = unroll

    def updates(self) -> Generator[Update, None, Summary]:
        """See :class:`Estimator`."""
        unroll, stage = self.unroll, self.unroll.stage
        runs = [unroll.own(number, family) for number, family in unroll.families]
        for run in runs:
            if run is not None:
                run.note_first()
        total = 0.0
        segments = math.ceil(stage.steps / stage.truncation)
        for index in range(segments):
            for run, share in zip(runs, unroll.shares(), strict=True):
                most = None if stage.clip_family is None else stage.clip_family * share
                # Family by family, so that one graph is held at a time; gradients add up.
                with clipped(unroll.module, most, unroll.group):
                    if run is not None:
                        total += self._differentiate(run, index * stage.truncation, share * run.part)
            if stage.clip_family is None:
                add_over(unroll.group, [p for p in unroll.module.parameters() if p.requires_grad])
            yield Update(index, segments)
        ended = [_NOTHING if run is None else self._ended(run) for run in runs]
        sums = torch.tensor([(total, 0.0, 0.0), *ended], dtype=torch.float64)
        (total, *_), *ended = unroll.group.sum(sums).tolist()
        ratios, gradients, points = zip(*ended, strict=True)
        unroll.spend("gradients", round(sum(gradients)))
        unroll.spend("points", round(sum(points)))
        return Summary(total / segments, unroll.mean_ratio(ratios))

    def _differentiate(self, run: FamilyRun, first: int, share: float) -> float:
        """Add a segment's gradient and continue after it; returns its share of the meta-loss."""
        segment = self._segment(run, first)
        (segment.value * share if share != 1 else segment.value).backward()  # type: ignore[no-untyped-call]
        run.state = detach(segment.state)
        run.previous = segment.losses[-1].detach()
        return share * float(segment.value.detach())

    def _segment(self, run: FamilyRun, first: int) -> Segment:
        stage = self.unroll.stage
        segment = run.loss.segment(
            run.optimizer,
            run.oracle,
            run.state,
            min(stage.truncation, stage.steps - first),
            problem=run.rows,
            first=first,
            previous=run.previous,
            horizon=stage.steps,
            origin=run.start.x0,
            unit=run.start.unit,
        )
        if not segment.value.requires_grad:
            number = self.unroll.words[1] + 1
            raise InputError(f"stage {number} trains {', '.join(stage.train)}, which its settings do not use")
        return segment

    def _ended(self, run: FamilyRun) -> tuple[float, float, float]:
        """A run's part of the mean final / initial loss; its cost in true gradients and points."""
        gradients = int(run.oracle.gradients.sum())
        points = sum(int(counts.sum()) for counts in run.oracle.counts.values()) - gradients
        assert run.previous is not None
        assert run.first is not None
        return run.part * float((run.previous / run.first).mean()), gradients, points
