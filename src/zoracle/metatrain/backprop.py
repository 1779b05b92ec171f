"""Meta-gradients by truncated back-propagation through an unroll."""

from __future__ import annotations

import math
from collections.abc import Generator

from zoracle.errors import InputError
from zoracle.metatrain.gradients import GradientEstimator, Summary, Update
from zoracle.metatrain.loss import Segment
from zoracle.metatrain.unroll import FamilyRun, Unroll, clipped
from zoracle.state import detach


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
        """As of every estimator."""
        unroll, stage = self.unroll, self.unroll.stage
        runs = [unroll.begin(number, family) for number, family in unroll.families]
        for run in runs:
            run.note_first()
        total = 0.0
        segments = math.ceil(stage.steps / stage.truncation)
        for index in range(segments):
            for run, share in zip(runs, unroll.shares(), strict=True):
                segment = self._segment(run, index * stage.truncation)
                # Family by family, so that one graph is held at a time; gradients add up.
                with clipped(unroll.module, None if stage.clip_family is None else stage.clip_family * share):
                    (segment.value * share if share != 1 else segment.value).backward()  # type: ignore[no-untyped-call]
                run.state = detach(segment.state)
                run.previous = segment.losses[-1].detach()
                total += share * float(segment.value.detach())
            yield Update(index, segments)
        return Summary(total / segments, unroll.mean_ratio([self._ended(run) for run in runs]))

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

    def _ended(self, run: FamilyRun) -> float:
        """Count what a run took; its mean final / initial loss."""
        gradients = int(run.oracle.gradients.sum())
        self.unroll.spend("gradients", gradients)
        self.unroll.spend("points", sum(int(counts.sum()) for counts in run.oracle.counts.values()) - gradients)
        assert run.previous is not None
        assert run.first is not None
        return float((run.previous / run.first).mean())
