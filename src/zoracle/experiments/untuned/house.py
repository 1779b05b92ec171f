"""This package's optimizers, untuned, as :func:`zoracle.minimize` runs them."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from zoracle.api import minimize
from zoracle.errors import one_line
from zoracle.experiments.untuned.asking import Answer, Method, Question
from zoracle.rollout import Step


def house(optimizer: str | None) -> Method:
    """A method that calls :func:`zoracle.minimize`.

    Args:
        optimizer: its name; None lets :func:`zoracle.minimize` choose.
    """
    named: dict[str, Any] = {} if optimizer is None else {"optimizer": optimizer}

    def answer(question: Question) -> Answer:
        spent = 0

        def counted(step: Step) -> None:
            nonlocal spent
            spent = int(step.trajectory.total_queries[0])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings are meant for users; here the results are examined
            try:
                found = minimize(
                    question.objective,
                    torch.from_numpy(question.x0).unsqueeze(0),
                    budget=question.budget,
                    bounds=question.bounds,
                    seed=question.seed,
                    on_step=counted,
                    **named,
                )
            except Exception as error:
                return Answer(float("inf"), spent, [], one_line(error))
        record = found.trajectory
        queries = int(record.total_queries[0])
        steps = zip(record.queries[:, 0].tolist(), record.best[:, 0].tolist(), strict=True)
        curve: list[tuple[int, float]] = []
        # The final evaluation of the iterate may be lower than those of all steps.
        for at, value in (*steps, (queries, float(record.best_loss[0]))):
            if value < (curve[-1][1] if curve else float("inf")):
                curve.append((int(at), value))
        return Answer(float(record.best_loss[0]), queries, curve)

    return answer
