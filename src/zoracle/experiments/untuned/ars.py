"""Augmented random search (Mania, Guy and Recht, 2018), version V1-t."""

from __future__ import annotations

import numpy as np

from zoracle.experiments.untuned.asking import Asked, Question, foreign

#: The defaults of the authors' code: directions, those of them used, step size, and standard deviation of the noise.
DIRECTIONS, USED, STEP, NOISE = 8, 8, 0.02, 0.03


def _ars(question: Question, asked: Asked) -> None:
    r"""The search itself: with rewards r = -f along N directions,

    .. math:: x \leftarrow x + \frac{\alpha}{b\,\sigma_R} \sum_{k \le b} (r_k^+ - r_k^-)\, \delta_k,

    over the b directions with the largest max(r+, r-), where sigma_R is the standard deviation of their 2 b rewards.
    """  # noqa: D415, the sentence continues after the equation
    random = np.random.Generator(np.random.PCG64(question.seed))
    x = question.x0.copy()
    while asked.left > 0:
        asked(x)  # evaluate the policy that the method returns
        delta = random.standard_normal((DIRECTIONS, x.size))
        rewards = -np.array([[asked(x + NOISE * one), asked(x - NOISE * one)] for one in delta])
        best = np.argsort(-rewards.max(1), kind="stable")[:USED]
        chosen = rewards[best]
        spread = float(chosen.std())
        if np.isfinite(spread) and spread > 0:
            x = x + STEP / (USED * spread) * ((chosen[:, 0] - chosen[:, 1]) @ delta[best])
        if question.bounds is not None:
            x = x.clip(*question.bounds)


ARS = foreign(_ars)
