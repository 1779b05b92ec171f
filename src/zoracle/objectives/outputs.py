"""What a classifier returned, as scores whose differences are those of log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from zoracle.blackboxes.base import Outputs
from zoracle.errors import BlackBoxError

__all__ = ["PROBABILITY_FLOOR", "Outputs", "check", "log_scores", "told_apart"]

#: Probabilities below this are read as this: a model that rounds one to zero would otherwise give an infinite loss.
PROBABILITY_FLOOR = 1e-30

#: How far a sum of probabilities may be from one: half precision rounds by up to here.
SLACK = 1e-3

#: By how many units of rounding a sum of probabilities may be off.
ROUNDING = 8


def told_apart(outputs: Tensor) -> Outputs:
    """What outputs (N, classes) are, by their rows.

    Numbers in [0, 1] with a sum of one are probabilities, numbers not above zero whose exponentials sum to one are
    log-probabilities, and others are logits. Of a top-k answer, numbers in [0, 1] with a sum of one at most are
    probabilities, and others are read as logits. Rows that are not finite tell nothing; where there are no others the
    answer is "auto".

    Raises:
        BlackBoxError: numbers in [0, 1] with another sum, which could be either.
    """
    values = outputs.detach().double()
    missing = values.isneginf()
    known = (values.isfinite() | missing).all(1) & ~missing.all(1)
    if not bool(known.any()):
        return "auto"
    values, missing = values[known], missing[known]
    partial = bool(missing.any())
    zero = values.masked_fill(missing, 0.0)
    total = zero.sum(1)
    if bool(((zero >= 0) & (zero <= 1 + SLACK)).all()):
        if bool((total <= 1 + SLACK).all()) and (partial or bool((total >= 1 - SLACK).all())):
            return "probabilities"
        raise BlackBoxError(
            f"the model's outputs lie in [0, 1] and sum to {float(total[0]):.3g} in the first row: logits or "
            'probabilities; pass outputs="logits" or outputs="probabilities"'
        )
    if not partial and bool((values <= SLACK).all()) and bool((values.logsumexp(1).abs() <= SLACK).all()):
        return "log-probabilities"
    return "logits"


def check(outputs: Tensor, kind: Outputs) -> None:
    """Raise where outputs (N, classes) cannot be what they are said to be.

    Raises:
        BlackBoxError: probabilities outside [0, 1], or log-probabilities above 0.
    """
    values = outputs.detach()
    listed = ~values.isneginf()
    if kind == "probabilities" and bool((((values < -SLACK) | (values > 1 + SLACK)) & listed).any()):
        raise BlackBoxError('the model returned values outside [0, 1], not probabilities; use outputs="logits"')
    if kind == "log-probabilities" and bool((values > SLACK).any()):
        raise BlackBoxError('the model returned values above 0, not log-probabilities; use outputs="logits"')


def log_scores(outputs: Tensor, kind: Outputs) -> Tensor:
    r"""Scores (N, classes) such that differences between classes are those of log-probabilities.

    Classes that a top-k answer leaves out are minus infinity in the outputs. Of their scores no more is known than a
    bound, and they get it: the lowest score among the k, and where probabilities are told, no more than what is left,

    .. math:: \log p_j \le \min\big(\min_{i \in K} \log p_i,\; \log (1 - \sum_{i \in K} p_i)\big), \quad j \notin K,

    less one unit of rounding, so that a class that is left out never ties with one that is listed.
    """
    missing = outputs.detach().isneginf()
    if kind == "probabilities":
        scores = outputs.clamp(min=PROBABILITY_FLOOR).log()
    elif kind == "log-probabilities":
        scores = outputs
    else:
        scores = outputs.log_softmax(1)
    if not bool(missing.any()):
        return scores
    told = scores.detach()
    bound = told.masked_fill(missing, torch.inf).amin(1, keepdim=True)
    if kind in ("probabilities", "log-probabilities"):
        listed = told.masked_fill(missing, -torch.inf).exp().sum(1, keepdim=True)
        # What rounding may have taken is given back, so that it stays a bound.
        left = ((1 - listed).clamp(min=0) + ROUNDING * torch.finfo(told.dtype).eps).log()
        bound = torch.minimum(bound, left)
    below = torch.nextafter(bound, torch.full_like(bound, -torch.inf))
    # A row of nothing but minus infinity says nothing at all.
    below = torch.where(bound == torch.inf, torch.nan, below)
    return torch.where(missing, below, scores)
