"""Meta-gradients without differentiating: whole runs are compared with weights moved up and down at random."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoracle import keyed
from zoracle.errors import InputError
from zoracle.group import Group
from zoracle.metatrain.families import TrainingFamily
from zoracle.metatrain.gradients import GradientEstimator, Summary, Update
from zoracle.metatrain.unroll import FamilyRun, Unroll
from zoracle.rollout import rollout
from zoracle.rollout.oracle import Oracle

#: Largest contribution of a pair: one diverging run must not outweigh all others.
_MOST = 1.0
#: A diverged run counts as this many times its initial loss.
_BLOWN_UP = 100.0
_STREAM = 3  # of the seed


class Whole(NamedTuple):
    """Results of whole runs."""

    value: float
    """The meta-loss."""
    ratio: float
    """Mean final / initial loss."""
    points: int
    """Evaluated."""


def whole(run: FamilyRun, steps: int) -> Whole:
    """Runs of T steps by real queries; no gradient is taken.

    Raises:
        InputError: the optimizer does not evaluate its iterates, so that their losses are not known.
    """
    if not run.optimizer.evaluates_iterate:
        raise InputError(
            "training by evolution reads the loss of each iterate, and this optimizer does not evaluate it; "
            'expected difference = "forward"'
        )
    oracle = Oracle(run.oracle.objective)
    with torch.no_grad():
        _, trajectory = rollout(run.optimizer, oracle, run.state, steps, problem=run.rows)
    initial = trajectory.loss[0]
    losses = torch.cat((trajectory.loss[1:], trajectory.final_loss.to(trajectory.loss).unsqueeze(0)))
    losses = torch.where(losses.isfinite(), losses, torch.inf).minimum(_BLOWN_UP * initial)
    points = sum(int(counts.sum()) for counts in oracle.counts.values())
    return Whole(float(run.loss.of(losses)), float((losses[-1] / initial).mean()), points)


class Ascent(NamedTuple):
    """Results of the pairs of one family."""

    gradient: list[Tensor | None]
    """Of each parameter; None where it is not trained."""
    value: float
    """Mean meta-loss over all runs."""
    ratio: float
    """Mean final / initial loss over all runs."""
    points: int
    """Evaluated by all processes."""


def ascent(
    module: nn.Module, measure: Callable[[], Whole], *, pairs: int, sigma: float, key: int, group: Group | None = None
) -> Ascent:
    r"""The gradient of the meta-loss F, smoothed by N(0, \sigma^2 I), from antithetic pairs.

    .. math:: g = \frac1n \sum_i \frac{F(\theta + \sigma e_i) - F(\theta - \sigma e_i)}{2 \sigma}\, e_i,
        \qquad e_i \sim N(0, I)

    Both runs of a pair have the same problems, starting points and directions.

    Args:
        module: whose parameters that require gradients are moved, and put back.
        measure: whole runs with the weights as they are.
        pairs: n.
        sigma: standard deviation of the perturbations.
        key: keys the draws.
        group: the processes that share the pairs; they exchange what each pair gave. None is this one alone.

    Source: Salimans et al., "Evolution Strategies as a Scalable Alternative to Reinforcement Learning", 2017; for
    learned optimizers Metz et al., "Understanding and correcting pathologies in the training of learned optimizers",
    ICML 2019.
    """
    parameters = list(module.parameters())
    trained = [p.detach() for p in parameters if p.requires_grad]
    kept = [p.clone() for p in trained]
    slopes = [torch.zeros_like(p) for p in trained]
    group = group or Group()
    table = torch.zeros((pairs, 2, 3), dtype=torch.float64)
    for pair, moves in enumerate(_moves(trained, pairs, key)):
        if pair % group.size != group.rank:
            continue
        for end, side in enumerate((1.0, -1.0)):
            for p, centre, move in zip(trained, kept, moves, strict=True):
                p.copy_(centre + side * sigma * move)
            table[pair, end] = torch.tensor(measure(), dtype=torch.float64)
    for p, centre in zip(trained, kept, strict=True):
        p.copy_(centre)
    table = group.sum(table)
    # Drawn again rather than kept: every process adds up all pairs, in one order, to the same bits.
    for ends, moves in zip(table[:, :, 0].tolist(), _moves(trained, pairs, key), strict=True):
        change = min(max(ends[0] - ends[1], -_MOST), _MOST)
        for slope, move in zip(slopes, moves, strict=True):
            slope.add_(move, alpha=change / (2 * sigma * pairs))
    each = iter(slopes)
    gradient = [next(each) if p.requires_grad else None for p in parameters]
    value, ratio, points = (sum(column.tolist()) for column in table.flatten(0, 1).unbind(1))
    return Ascent(gradient, value / (2 * pairs), ratio / (2 * pairs), round(points))


def _moves(trained: Sequence[Tensor], pairs: int, key: int) -> Iterator[list[Tensor]]:
    """The perturbation of the weights by each pair."""
    # One stream for all pairs of one key: the trained weights are few, and differ in shape from optimizer to optimizer.
    generator = torch.Generator().manual_seed(key % 2**63)
    for _ in range(pairs):
        yield [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in trained]


class Evolution(GradientEstimator):
    """Compares whole unrolls with weights moved up and down at random, by real queries; one update an unroll.

    Args:
        unroll: what is compared.
    """

    def __init__(self, unroll: Unroll) -> None:
        self.unroll = unroll

    def updates(self) -> Generator[Update, None, Summary]:
        """See :class:`Estimator`."""
        unroll, stage = self.unroll, self.unroll.stage
        seed, number_of_stage, number_of_unroll = unroll.words
        total, ratios = 0.0, []
        for (number, family), share in zip(unroll.families, unroll.shares(), strict=True):
            with torch.no_grad():
                found = ascent(
                    unroll.module,
                    partial(self._whole, number, family),
                    group=unroll.group,
                    pairs=stage.pairs,
                    sigma=stage.sigma,
                    key=keyed.mix(seed, _STREAM, number_of_stage, number_of_unroll, number),
                )
            for p, slope in zip(unroll.module.parameters(), found.gradient, strict=True):
                if slope is not None:
                    p.grad = share * slope if p.grad is None else p.grad + share * slope
            unroll.spend("points", found.points)
            total += share * found.value
            ratios.append(found.ratio)
        yield Update(0, 1)
        return Summary(total, unroll.mean_ratio(ratios))

    def _whole(self, number: int, family: TrainingFamily) -> Whole:
        """Whole runs of one family."""
        return whole(self.unroll.begin(number, family), self.unroll.stage.steps)
