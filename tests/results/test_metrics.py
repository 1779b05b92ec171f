"""The definitions, by hand; and that the intervals cover what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from valleys import FakeTask, M, sgd
from zoracle.errors import InputError
from zoracle.evaluation.evaluate import evaluate
from zoracle.evaluation.spec import RunSpec
from zoracle.results import metrics
from zoracle.results.intervals import clustered, t_quantile, wilson
from zoracle.results.result import Result

NAN, INF = math.nan, math.inf


def result(losses, best=None, first=None, allowance=100, final_success=None, misclassified=None) -> Result:
    """A result from (S, P, T + 1) losses; everything else follows unless given."""
    losses = torch.tensor(losses, dtype=torch.float64)
    s, p, t = losses.shape
    one = torch.ones(s, p, dtype=torch.int64)
    first = -one if first is None else torch.tensor(first)
    final_success = torch.zeros(s, p, dtype=torch.bool) if final_success is None else torch.tensor(final_success)
    best = losses.nan_to_num(nan=INF).amin(2) if best is None else torch.tensor(best, dtype=torch.float64)
    point = torch.zeros(s, p, 1)
    return Result(
        seed=torch.arange(s).unsqueeze(1).expand(s, p),
        ids=torch.arange(p).expand(s, p),
        losses=losses,
        best=torch.cat((losses[..., :1], best.unsqueeze(2).expand(s, p, t - 1)), 2),
        queries=10 * torch.arange(t).expand(s, p, t),
        steps=(t - 1) * one,
        reason=one,
        allowance=allowance * one,
        monitored=one,
        lost=0 * one,
        misclassified=~one.bool() if misclassified is None else torch.tensor(misclassified),
        success_known=one.bool(),
        first_known=one.bool(),
        final_success=final_success,
        success_ever=final_success | (first > 0),
        first_success=first,
        non_finite=losses.isnan().sum(2),
        final_point=point,
        best_point=point,
        success_point=point,
        l1=2.0 * one.double(),
        l2=one.double(),
        linf=NAN * one.double(),
        seconds=0.5 * one.double(),
    )


def test_values_by_hand():
    r = result(
        [[[4.0, 3.0, 1.0], [2.0, 1.0, 1.0]]],
        best=[[0.5, 1.0]],
        first=[[17, -1]],
        final_success=[[False, False]],
    )
    s = metrics.summarise(r)
    assert s.ratio.mean == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert s.best_ratio == pytest.approx((0.5 / 4 + 1 / 2) / 2)
    assert s.final_loss.mean == 1.0
    assert (s.queries_to_success_mean, s.queries_to_success_median) == ((17 + 100) / 2, (17 + 100) / 2)
    assert (s.success_final, s.success_ever) == (0.0, 0.5)
    assert (s.queries_per_problem, s.monitor_queries_per_problem) == (20.0, 1.0)
    assert (s.l1, s.l2, s.linf) == (2.0, 1.0, None)
    assert s.seconds == 1.0


def test_what_was_misclassified_already_is_in_no_rate():
    r = result(
        [[[4.0, 1.0], [0.0, 0.0], [2.0, 1.0]]],
        first=[[17, 1, -1]],
        final_success=[[True, True, False]],
        misclassified=[[False, True, False]],
    )
    s = metrics.summarise(r)
    assert (s.misclassified, s.ratio_undefined) == (1, 0)
    assert (s.success_final, s.success_ever) == (0.5, 0.5)
    assert (s.queries_to_success_mean, s.queries_to_success_median) == ((17 + 100) / 2, (17 + 100) / 2)
    nothing = metrics.summarise(r._replace(misclassified=torch.ones(1, 3, dtype=torch.bool)))
    assert nothing.success_ever is nothing.queries_to_success_mean is nothing.queries_to_success_median is None
    assert nothing.l1 is None


def test_the_ratio_is_the_mean_of_ratios_not_the_ratio_of_means():
    s = metrics.summarise(result([[[100.0, 50.0], [1.0, 1.0]]]))
    assert s.ratio.mean == pytest.approx(0.75)


def test_blowing_up_never_pays():
    r = result([[[2.0, 1.0, NAN], [2.0, 30.0, NAN], [2.0, 1.0, 1.0]]])
    assert metrics.final_loss(r).tolist() == [[2.0, 30.0, 1.0]]
    s = metrics.summarise(r)
    assert s.ratio.mean == pytest.approx((1 + 15 + 0.5) / 3)
    assert (s.non_finite_finals, s.non_finite_values) == (2, 2)


def test_best_is_the_start_where_nothing_else_was_finite():
    r = result([[[2.0, NAN]]], best=[[INF]])
    assert metrics.best_ratio(r).item() == 1.0


def test_a_ratio_needs_a_positive_start():
    r = result([[[0.0, 1.0], [-1.0, -2.0], [2.0, 1.0], [NAN, 1.0]]])
    s = metrics.summarise(r)
    assert s.ratio.mean == 0.5
    assert s.ratio_undefined == 3
    assert s.final_loss.mean == pytest.approx(0.25)


def test_failures_count_at_the_budget_and_monitoring_is_no_success_in_time():
    task = FakeTask(succeeds={20: 2 * M + 3, 23: 4 * M + 1})
    found = evaluate(sgd(), task, RunSpec(ids=(20, 21, 23), steps=4))
    assert metrics.queries_to_success(found).tolist() == [[2 * M + 3, 4 * M, 4 * M]]
    found = evaluate(sgd(), task, RunSpec(ids=(20, 21, 23), steps=4, budget=1000))
    assert metrics.queries_to_success(found).tolist() == [[2 * M + 3, 1000, 1000]]


def test_a_task_without_successes_has_none_to_report():
    s = metrics.summarise(evaluate(sgd(), FakeTask(knows=False), RunSpec(ids=(20, 21), steps=2)))
    assert s.success_final is None
    assert s.success_ever is None
    assert s.queries_to_success_mean is None
    assert s.queries_to_success_median is None


def test_a_gradient_oracle_tells_of_no_success_on_the_way():
    found = result([[[2.0, 1.0]]], final_success=[[True]])
    found = found._replace(first_known=torch.zeros_like(found.first_known))
    s = metrics.summarise(found)
    assert (s.success_final, s.success_ever, s.queries_to_success_mean) == (1.0, None, None)


def test_nan_from_the_black_box_stays_in_the_mean():
    found = evaluate(sgd(lr=1e-3), FakeTask(nan_after={20: 2 * M}), RunSpec(ids=(20, 21), steps=4))
    ratio = metrics.ratio(found)
    assert ratio[0, 0] == pytest.approx(1.0)
    assert ratio[0, 1] < 1
    assert found.non_finite.tolist() == [[M, 0]], "it stops after a step without any number"


@pytest.mark.parametrize(
    ("dof", "expected"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (9, 2.26216), (30, 2.04227), (99, 1.98422)]
)
def test_t_quantiles_are_those_of_the_tables(dof, expected):
    assert t_quantile(0.975, dof) == pytest.approx(expected, rel=1e-5)


def test_interval_by_hand():
    values = torch.tensor([[1.0, 2.0, 6.0], [3.0, 2.0, 4.0]])  # means 2, 2, 5: mean 3, s = sqrt(3), half = 4.30265
    interval = clustered(values)
    assert interval.mean == pytest.approx(3.0)
    assert interval.high - 3 == pytest.approx(4.30265, rel=1e-5)
    assert interval.low == pytest.approx(3 - 4.30265, rel=1e-5)


def test_small_samples_have_no_interval_or_one_over_repeats():
    assert math.isnan(clustered(torch.tensor([[1.0]])).low)
    assert math.isnan(clustered(torch.tensor([[NAN, NAN]])).mean)
    over_repeats = clustered(torch.tensor([[1.0], [3.0]]))
    assert (over_repeats.mean, over_repeats.low < 1) == (2.0, True)


def test_intervals_cover_problems_and_repeats():
    rng = np.random.Generator(np.random.PCG64(2024))
    runs, s, p = 1000, 3, 12
    problem = rng.normal(0, 1, (runs, 1, p))
    values = torch.from_numpy(5 + problem + rng.normal(0, 0.7, (runs, s, p)))
    intervals = [clustered(v) for v in values]
    covered = np.mean([i.low <= 5 <= i.high for i in intervals])
    pretending = np.mean([i.low <= 5 <= i.high for i in (clustered(v.reshape(1, -1)) for v in values)])
    assert 0.93 < covered < 0.97
    assert pretending < 0.85, "repeats taken for independent problems would be too sure of themselves"


def test_paired_differences_remove_what_problems_share():
    rng = np.random.Generator(np.random.PCG64(5))
    start = rng.uniform(1, 9, (2, 20, 1))
    end = start * rng.uniform(0.1, 0.9, (1, 20, 1))
    one = result(np.concatenate((start, end), 2).tolist())
    other = result(np.concatenate((start, end + 0.02 * start), 2).tolist())
    difference = metrics.paired(one, other)["ratio"]
    assert difference.mean == pytest.approx(-0.02)
    assert (
        difference.high - difference.low < 1e-9 < metrics.summarise(one).ratio.high - metrics.summarise(one).ratio.low
    )
    with pytest.raises(InputError, match="different problems or seeds"):
        metrics.paired(one, one._replace(ids=one.ids + 1))


def test_intervals_of_shares_are_wilsons():
    """The values of Newcombe (1998), Table I: two-sided 95 %."""
    for count, number, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        found = wilson(count, number)
        assert found.mean == count / number
        assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert wilson(29, 29).high == 1.0
    assert wilson(29, 29).low == pytest.approx(0.8830, abs=5e-5)
    assert math.isnan(wilson(0, 0).mean)


def test_accuracies_by_hand():
    wrong = [[False, True, False, False]] * 2
    r = result([[[4.0, 1.0]] * 4] * 2, first=[[17, 1, -1, -1], [-1, 1, -1, 4]], misclassified=wrong)
    s = metrics.summarise(r)
    assert (s.attacked, s.broken, s.clean) == (6, 2, 0.75)
    assert s.robust.mean == 0.25, "only the third is right and broken in no repeat"
    assert metrics.standing(r).tolist() == [False, False, True, False]
