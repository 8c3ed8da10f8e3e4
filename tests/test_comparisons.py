"Intervals over tasks and families of comparisons, each against a statement of its own in loops."

import itertools
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from routercompanion import metrics
from routercompanion.core import CompanionError
from routercompanion.metrics import comparisons as c
from routercompanion.metrics.bootstrap import paired_bootstrap, resample_counts, weighted_mean
from routercompanion.metrics.checks import MetricInputError

TASK_VALUES = st.lists(st.integers(-1000, 1000), min_size=8, max_size=30)
P_VALUES = st.lists(st.floats(0, 1) | st.just(math.nan), max_size=7)


def average_of_columns(columns):
    return sum(sum(values) / len(values) for values in columns) / len(columns)


def left_out(columns, statistic=average_of_columns):
    "The statistic without each task in turn, and the task's column: lists that are copied."
    values, names = [], []
    for g, column in enumerate(columns):
        for i in range(len(column)):
            rest = [list(other) for other in columns]
            del rest[g][i]
            values.append(statistic(rest))
            names.append(f"column {g}")
    return values, names


def family(seed=0, k=5, n_resamples=4000, effect=0.0):
    "Estimates (k,) and paired draws (B, k) of correlated comparisons."
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(k, k)) + 1
    estimates = rng.normal(size=k) @ mixed / 3 + effect
    return estimates, estimates + rng.normal(size=(n_resamples, k)) @ mixed


def test_the_errors_are_those_of_the_library():
    assert issubclass(c.FamilyError, CompanionError)
    for name in c.__all__:
        assert getattr(metrics, name) is getattr(c, name), "no other module has the name"
    assert set(c.__all__) == {
        "LEAST_TASKS",
        "FamilyError",
        "TaskInterval",
        "task_interval",
        "SignFlip",
        "sign_flip_test",
        "holm",
        "simultaneous_intervals",
        "bootstrap_p_value",
        "enough_resamples",
        "family_table",
    }


# ---------------------------------------------------------------- intervals over tasks


@given(TASK_VALUES, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@settings(deadline=None)
def test_for_a_mean_it_is_the_t_interval(values, level):
    values = np.array(values) / 1000
    got = c.task_interval(values.mean(), (values.sum() - values) / (len(values) - 1), level=level)
    assert (got.tasks, got.degrees, got.why) == (len(values), len(values) - 1, "")
    if values.std() == 0:
        assert got.low == pytest.approx(values[0]) == got.high
        assert got.p_value == float(values[0] == 0)
    else:
        test = stats.ttest_1samp(values, 0)
        np.testing.assert_allclose([got.low, got.high], test.confidence_interval(level), atol=1e-9)
        assert got.p_value == pytest.approx(test.pvalue, rel=1e-6)
        assert got.standard_error == pytest.approx(stats.sem(values), rel=1e-6)


@pytest.mark.parametrize("sizes", [(9,), (4, 4), (2, 3, 7), (8, 2, 2, 5)])
def test_the_average_of_columns_is_the_loop_over_tasks(sizes):
    rng = np.random.default_rng(sum(sizes))
    columns = [rng.normal(g, 1 + g, size).tolist() for g, size in enumerate(sizes)]
    values, names = left_out(columns)
    estimate = average_of_columns(columns)
    variance, squares = 0, 0
    for g, column in enumerate(columns):
        mine = [v for v, name in zip(values, names) if name == f"column {g}"]
        centre = sum(mine) / len(mine)
        part = (len(column) - 1) / len(column) * sum((v - centre) ** 2 for v in mine)
        variance += part
        squares += part**2 / (len(column) - 1)
    degrees = variance**2 / squares
    assert degrees <= sum(sizes) - len(sizes) + 1e-9
    half = stats.t.ppf(0.975, degrees) * variance**0.5
    got = c.task_interval(estimate, values, names)
    np.testing.assert_allclose(
        [got.low, got.high, got.standard_error, got.degrees, got.tasks],
        [estimate - half, estimate + half, variance**0.5, degrees, sum(sizes)],
        rtol=1e-10,
    )
    tail = 1 - stats.t.cdf(abs(estimate) / variance**0.5, degrees)
    assert got.p_value == pytest.approx(2 * tail, rel=1e-9)
    # textbook: an average of independent means has the sum of their variances over the square
    by_means = sum(np.var(v, ddof=1) / len(v) for v in columns) / len(columns) ** 2
    assert got.standard_error**2 == pytest.approx(by_means, rel=1e-9)
    if len(sizes) == 1:
        assert got == c.task_interval(estimate, values), "one column is none"
    shuffled = rng.permutation(sum(sizes))
    again = c.task_interval(estimate, np.array(values)[shuffled], np.array(names)[shuffled])
    assert again.standard_error == pytest.approx(got.standard_error, rel=1e-12)


def test_a_statistic_that_is_no_mean_has_the_jackknife_error():
    rng = np.random.default_rng(4)
    right, asked = rng.integers(1, 50, 12), rng.integers(50, 90, 12)
    estimate = right.sum() / asked.sum()
    without = (right.sum() - right) / (asked.sum() - asked)
    got = c.task_interval(estimate, without)
    squares = sum((value - sum(without) / 12) ** 2 for value in without)
    assert got.standard_error == pytest.approx((11 / 12 * squares) ** 0.5, rel=1e-12)


def test_tasks_are_compared_within_their_column():
    "Leaving a task out of a ratio shifts its column's values, and columns of other sizes less."

    def average_ratio(columns):
        return sum(sum(column[1:]) / column[0] ** 2 for column in columns) / len(columns)

    columns = [[2.0, 3.0, 5.0, 4.0], [3.0, 9.0, 9.0, 8.0, 7.0, 8.0, 9.0]]
    values, names = left_out(columns, average_ratio)
    means = {name: np.mean([v for v, n in zip(values, names) if n == name]) for name in names}
    sizes = {name: names.count(name) for name in names}
    variance = sum((sizes[n] - 1) / sizes[n] * (v - means[n]) ** 2 for v, n in zip(values, names))
    got = c.task_interval(average_ratio(columns), values, names)
    assert got.standard_error == pytest.approx(variance**0.5, rel=1e-12)
    assert abs(means["column 0"] - means["column 1"]) > 0.01, "one mean for all would show"


def test_units_and_sign_do_not_matter():
    values = np.random.default_rng(1).normal(0.3, 1, 11)
    without = (values.sum() - values) / 10
    plain = c.task_interval(values.mean(), without)
    scaled = c.task_interval(-100 * values.mean(), -100 * without)
    assert (scaled.low, scaled.high) == pytest.approx((-100 * plain.high, -100 * plain.low))
    assert scaled.p_value == pytest.approx(plain.p_value)
    assert plain.p_value < 0.05 or plain.low < 0 < plain.high
    wide = c.task_interval(values.mean(), without, level=0.99)
    assert wide.low < plain.low < plain.high < wide.high


def test_p_value_and_interval_agree():
    rng = np.random.default_rng(9)
    outside = 0
    for _ in range(200):
        values = rng.normal(0.5, 1, 9)
        got = c.task_interval(values.mean(), (values.sum() - values) / 8)
        assert (got.p_value < 0.05) == (got.low > 0 or got.high < 0)
        outside += got.p_value < 0.05
    assert 20 < outside < 180, "both cases were seen"


@pytest.mark.parametrize(
    "estimate, without, groups, why",
    [
        (0.1, [], None, "0 tasks; an interval over tasks needs at least 8"),
        (0.1, [0.1, 0.2, 0.3], None, "3 tasks; an interval over tasks needs at least 8"),
        (0.1, np.arange(7.0), list("aaabbbb"), "7 tasks; an interval over tasks needs at least 8"),
        (0.1, np.arange(9.0), list("aaaaaaaab"), "stratum 'b' has one task only"),
        (np.nan, np.arange(8.0), None, "the estimate is nan"),
        (np.inf, np.arange(8.0), None, "the estimate is inf"),
        (0.1, [0, 1, np.nan, 3, 4, 5, 6, 7], None, "without task 2 the estimate is nan"),
    ],
)
def test_where_nothing_can_be_said_the_reason_is(estimate, without, groups, why):
    got = c.task_interval(estimate, without, groups)
    assert got.why == why and got.tasks == len(without)
    assert np.isnan([got.low, got.high, got.standard_error, got.p_value]).all()


def test_eight_tasks_are_enough():
    assert c.LEAST_TASKS == 8
    assert c.task_interval(0.1, np.arange(8.0)).why == ""
    assert c.task_interval(0.1, np.arange(8.0), list("aabbccdd")).degrees == pytest.approx(4)


def test_tasks_that_all_agree_leave_no_doubt_but_equal_routers_none():
    sure, none = c.task_interval(0.1, np.full(8, 0.1)), c.task_interval(0, np.zeros(8))
    assert (sure.low, sure.high, sure.p_value) == pytest.approx((0.1, 0.1, 0))
    assert (none.low, none.high, none.p_value) == (0, 0, 1)
    noise = np.array([1, -1, 2, 0, 0, -2, 1, 1]) * 1e-17
    assert c.task_interval(noise.mean(), noise).p_value == 1, "a sum of rounding errors is zero"


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((0.1, [[0.1, 0.2]]), r"left_out must have one dimension; its shape is \(1, 2\)"),
        ((0.1, np.ones(8), ["a"] * 7), r"groups has shape \(7,\), left_out has 8 values: give one"),
        ((0.1, np.ones(8), ["a"] * 7 + [None]), "groups, row 7, is missing"),
        ((0.1, np.ones(8), [1.0] * 5 + [np.nan] * 3), "groups, row 5, is missing"),
    ],
)
def test_bad_input_of_an_interval_over_tasks_is_named(arguments, said):
    with pytest.raises(MetricInputError, match=said):
        c.task_interval(*arguments)


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, math.nan])
def test_a_level_lies_between_0_and_1(level):
    estimates, draws = family()
    for call in (
        lambda: c.task_interval(0, np.arange(8.0), level=level),
        lambda: c.simultaneous_intervals(estimates, draws, level=level),
        lambda: c.enough_resamples(3, level=level),
        lambda: c.family_table(estimates, draws, "abcde", level=level),
    ):
        with pytest.raises(MetricInputError, match="level must lie between 0 and 1"):
            call()


def test_over_eight_tasks_it_covers_and_the_percentile_interval_does_not():
    "2,000 experiments: an error of .005 at .95, so that the bounds are four of them away."
    values = np.random.default_rng(8).normal(0.3, 1, (2000, 8))
    without = (values.sum(1, keepdims=True) - values) / 7
    over_tasks = [c.task_interval(v.mean(), w) for v, w in zip(values, without)]
    counts = np.concatenate(list(resample_counts(8, 1000)))
    low, high = np.quantile(values @ counts.T / 8, [0.025, 0.975], axis=1)
    covered = np.mean([i.low <= 0.3 <= i.high for i in over_tasks])
    assert 0.93 < covered < 0.97
    assert np.mean((low <= 0.3) & (0.3 <= high)) < 0.92, "about .89"


def test_over_three_tasks_the_percentile_interval_covers_three_quarters():
    values = np.random.default_rng(3).normal(0.3, 1, (4000, 3))
    counts = np.concatenate(list(resample_counts(3, 1000)))
    low, high = np.quantile(values @ counts.T / 3, [0.025, 0.975], axis=1)
    assert np.mean((low <= 0.3) & (0.3 <= high)) == pytest.approx(1 - 2 / 2**3, abs=0.03)


# ---------------------------------------------------------------- flipping signs


@given(st.lists(st.integers(-6, 6), min_size=8, max_size=9))
@settings(deadline=None, max_examples=40)
def test_flips_are_all_flips(differences):
    "Whole tenths have many equal sums, which rounding must not part."
    extreme = 0
    for signs in itertools.product([1, -1], repeat=len(differences)):
        extreme += abs(sum(s * d for s, d in zip(signs, differences))) >= abs(sum(differences))
    got = c.sign_flip_test(np.array(differences) / 10)
    assert got == c.SignFlip(
        extreme / 2 ** len(differences), len(differences), 2 ** len(differences)
    )
    mirrored = c.sign_flip_test(-np.array(differences[::-1]) / 10)
    assert mirrored == got


def test_flips_are_scipys():
    rng = np.random.default_rng(2)
    for tasks in (8, 11):
        values = rng.normal(0.4, 1, tasks)
        test = stats.permutation_test(
            (values,), np.mean, permutation_type="samples", n_resamples=2**tasks
        )
        assert c.sign_flip_test(values).p_value == pytest.approx(test.pvalue, rel=1e-12)


def test_many_tasks_are_drawn_with_one_seed():
    values = np.random.default_rng(6).normal(0.35, 1, 21)
    drawn, exact = c.sign_flip_test(values), c.sign_flip_test(values[:20])
    assert (drawn.flips, exact.flips) == (100_000, 2**20)
    assert drawn == c.sign_flip_test(values) == c.sign_flip_test(values, rng=42)
    assert drawn.p_value != c.sign_flip_test(values, rng=1).p_value
    generator = np.random.default_rng(42)
    assert c.sign_flip_test(values, rng=generator) == drawn
    assert c.sign_flip_test(values, rng=generator) != drawn, "the generator moves on"
    sums = c._all_flips(values)  # two million: what is drawn above
    truth = np.mean(abs(sums) >= abs(values.sum()) - 1e-9)
    assert 0.001 < truth < 0.1
    assert drawn.p_value == pytest.approx(truth, abs=4 * (truth * (1 - truth) / 1e5) ** 0.5)
    assert c.sign_flip_test(np.ones(40)).p_value == 1 / 100_001, "never 0"


def test_the_smallest_p_value_is_two_flips():
    for tasks in (8, 12, 20):
        assert c.sign_flip_test(np.arange(1.0, tasks + 1)).p_value == 2 / 2**tasks
    assert min(tasks for tasks in range(1, 20) if 2 / 2**tasks < 0.05) == 6
    assert c.sign_flip_test(np.zeros(8)).p_value == 1


@pytest.mark.parametrize(
    "differences, why",
    [
        ([], "0 tasks; a sign-flip test needs 8"),
        (np.ones(7), "7 tasks; a sign-flip test needs 8"),
        ([1, 2, 3, np.nan, 5, 6, 7, 8], "the difference of task 3 is nan"),
    ],
)
def test_a_sign_flip_test_that_says_nothing(differences, why):
    got = c.sign_flip_test(differences)
    assert math.isnan(got.p_value) and (got.tasks, got.flips, got.why) == (len(differences), 0, why)
    with pytest.raises(MetricInputError, match="differences must have one dimension"):
        c.sign_flip_test([differences])


def test_equal_routers_are_rarely_told_apart_by_flips():
    rng = np.random.default_rng(5)
    skewed = rng.exponential(size=(600, 8)) * rng.choice([-1, 1], (600, 8))
    small = sum(c.sign_flip_test(values).p_value <= 0.05 for values in skewed)
    assert 8 <= small <= 52, "30 of 600 expected at most"


# ---------------------------------------------------------------- Holm


def holm_by_closed_testing(p_values):
    "The greatest Bonferroni p-value of all sets of hypotheses that hold the one asked about."
    counted = [i for i, p in enumerate(p_values) if p == p]
    adjusted = [math.nan] * len(p_values)
    for i in counted:
        adjusted[i] = 0.0
        for size in range(1, len(counted) + 1):
            for members in itertools.combinations(counted, size):
                if i in members:
                    bonferroni = min(1.0, size * min(p_values[j] for j in members))
                    adjusted[i] = max(adjusted[i], bonferroni)
    return adjusted


@given(P_VALUES, st.randoms())
@settings(deadline=None)
def test_holm_is_closed_testing(p_values, random):
    got = c.holm(p_values)
    np.testing.assert_allclose(got, holm_by_closed_testing(p_values), rtol=1e-12)
    order = random.sample(range(len(p_values)), len(p_values))
    assert np.array_equal(c.holm([p_values[i] for i in order]), got[order], equal_nan=True)


@given(P_VALUES)
def test_holm_is_monotone_and_never_below_p(p_values):
    p, got = np.array(p_values), c.holm(p_values)
    assert np.array_equal(np.isnan(got), np.isnan(p))
    p, got = p[~np.isnan(p)], got[~np.isnan(p)]
    assert (got >= p).all() and (got <= 1).all() and (got <= np.minimum(1, len(p) * p)).all()
    assert (np.diff(got[np.argsort(p)]) >= 0).all()


def test_holm_by_hand():
    np.testing.assert_allclose(c.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert c.holm([0.2]).tolist() == [0.2] and c.holm([]).shape == (0,)
    np.testing.assert_allclose(c.holm([0.02, np.nan]), [0.02, np.nan])
    given_, kept = np.array([0.5, 0.1]), np.array([0.5, 0.1])
    c.holm(given_)
    assert np.array_equal(given_, kept), "the input stays"


@pytest.mark.parametrize(
    "p_values, said",
    [
        ([0.1, -0.1], "p_values, row 1, is -0.1: give values in"),
        ([1.2], "p_values, row 0, is 1.2"),
        ([[0.1]], "p_values must have one dimension"),
    ],
)
def test_what_is_no_p_value_is_named(p_values, said):
    with pytest.raises(MetricInputError, match=said):
        c.holm(p_values)


# ---------------------------------------------------------------- p-values and resamples


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0, math.nan, math.inf]), max_size=30))
def test_a_p_value_is_counted(draws):
    finite = [d for d in draws if math.isfinite(d)]
    low, high = sum(d <= 0 for d in finite), sum(d >= 0 for d in finite)
    expected = min(1, 2 * min(1 + low, 1 + high) / (len(finite) + 1)) if finite else math.nan
    got = c.bootstrap_p_value(np.array(draws))
    assert isinstance(got, float) and (got == expected or math.isnan(got) and math.isnan(expected))
    columns = c.bootstrap_p_value(np.c_[draws, draws]) if draws else np.array([got, got])
    np.testing.assert_array_equal(columns, [got, got])
    flipped = c.bootstrap_p_value(-np.array(draws))
    assert flipped == got or math.isnan(got)


def test_it_is_the_p_value_of_a_paired_bootstrap():
    rng = np.random.default_rng(0)
    a, b = (rng.random((2, 200)) < [[0.7], [0.62]]).astype(float)
    paired = paired_bootstrap(weighted_mean, a, b, n_resamples=500, rng=3)
    counts = np.concatenate(list(resample_counts(200, 500, 3)))
    draws = weighted_mean(a, counts) - weighted_mean(b, counts)
    assert c.bootstrap_p_value(draws) == paired.p_value < 1


@given(
    st.integers(1, 300), st.sampled_from([0.8, 0.9, 0.95, 0.975, 0.99, 0.999]), st.integers(1, 20)
)
def test_enough_resamples_is_the_least_number(k, level, tail):
    one_side = (1 - Fraction(str(level))) / (2 * k)
    need = c.enough_resamples(k, level=level, tail=tail)
    assert need * one_side >= tail > (need - 1) * one_side
    assert isinstance(need, int)


def test_enough_resamples_needs_a_family():
    assert [c.enough_resamples(k) for k in (1, 2, 112)] == [400, 800, 44_800]
    for k, tail in ((0, 10), (3, 0), (-1, 10)):
        with pytest.raises(c.FamilyError, match="k and tail must be positive"):
            c.enough_resamples(k, tail=tail)


# ---------------------------------------------------------------- simultaneous intervals


def simultaneous_by_loops(estimates, draws, level=0.95):
    "No arrays: the greatest standardised error of each resample, and its quantile."
    columns = list(zip(*draws))
    spread = []
    for column in columns:
        values = [d for d in column if math.isfinite(d)]
        mean = sum(values) / len(values) if values else math.nan
        squares = sum((d - mean) ** 2 for d in values)
        spread.append((squares / (len(values) - 1)) ** 0.5 if len(values) > 1 else math.nan)
    largest = []
    for row in draws:
        errors = [
            abs(d - e) / s
            for d, e, s in zip(row, estimates, spread)
            if math.isfinite(d) and e == e and s == s and s > 1e-12
        ]
        if errors:
            largest.append(max(errors))
    critical = np.quantile(largest, level) if largest else math.nan
    half = [critical * s if s > 1e-12 else 0 * s for s in spread]
    return (
        [e - h for e, h in zip(estimates, half)],
        [e + h for e, h in zip(estimates, half)],
        critical,
    )


def spoiled(estimates, draws):
    "A constant column, a missing estimate, a column without draws, draws that are missing."
    estimates, draws = np.r_[estimates, 0.3, np.nan, 0.1], np.c_[draws, draws[:, :3]]
    draws[:, -3], draws[:, -1] = 0.3, np.nan
    draws[::7, 0] = np.nan
    draws[5, 1] = np.inf
    draws[11, :] = np.nan
    return estimates, draws


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("change", [lambda e, d: (e, d), spoiled])
def test_simultaneous_intervals_are_the_loop(change, level):
    estimates, draws = change(*family(n_resamples=800))
    expected = simultaneous_by_loops(estimates.tolist(), draws.tolist(), level)
    got = c.simultaneous_intervals(estimates, draws, level=level)
    for mine, other in zip(got, expected):
        np.testing.assert_allclose(mine, other, rtol=1e-9)


def test_what_does_not_vary_and_what_is_missing_do_not_count():
    estimates, draws = family()
    plain, more = c.simultaneous_intervals(estimates, draws), spoiled(estimates, draws.copy())
    more[1][:, :5] = draws
    low, high, critical = c.simultaneous_intervals(*more)
    assert critical == plain[2] and np.array_equal(low[:5], plain[0])
    assert low[5] == high[5] == 0.3 and np.isnan([low[6:], high[6:]]).all()
    low, high, critical = c.simultaneous_intervals([0.1, np.nan], np.full((50, 2), 0.1))
    assert (low[0], high[0]) == (0.1, 0.1) and math.isnan(low[1]) and math.isnan(critical)


@given(st.integers(0, 100), st.permutations(range(5)), st.floats(0.01, 100))
@settings(deadline=None, max_examples=25)
def test_order_and_units_do_not_matter(seed, order, unit):
    estimates, draws = family(seed, n_resamples=300)
    low, high, critical = c.simultaneous_intervals(estimates, draws)
    moved_low, moved_high, same = c.simultaneous_intervals(estimates[order], draws[:, order])
    np.testing.assert_allclose([moved_low, moved_high], [low[order], high[order]], rtol=1e-12)
    units = np.r_[unit, 1, 1, 1, 1]
    low_in_units, _, unmoved = c.simultaneous_intervals(estimates * units, draws * units)
    assert same == critical == pytest.approx(unmoved, rel=1e-9)
    np.testing.assert_allclose(low_in_units, low * units, rtol=1e-9)
    mirrored_low, _, _ = c.simultaneous_intervals(-estimates, -draws)
    np.testing.assert_allclose(mirrored_low, -high, rtol=1e-12)
    assert critical >= c.simultaneous_intervals(estimates[:2], draws[:, :2])[2] - 1e-12


def test_critical_values_are_those_of_the_normal_distribution():
    draws = np.random.default_rng(0).normal(size=(40_000, 6))
    for k in (1, 2, 6):
        critical = c.simultaneous_intervals(np.zeros(k), draws[:, :k])[2]
        assert critical == pytest.approx(stats.norm.ppf((1 + 0.95 ** (1 / k)) / 2), abs=0.04)
    copies = c.simultaneous_intervals(np.zeros(6), draws[:, [0] * 6])[2]
    assert copies == c.simultaneous_intervals([0.0], draws[:, :1])[2], "six copies are one question"


def test_a_strong_member_widens_nobody():
    estimates, draws = family()
    strong = np.r_[50.0, 0, 0, 0, 0]
    low, high, critical = c.simultaneous_intervals(estimates, draws)
    moved = c.simultaneous_intervals(estimates + strong, draws + strong)
    assert moved[2] == pytest.approx(critical) and moved[1] - moved[0] == pytest.approx(high - low)


def test_the_family_as_a_whole_errs_in_one_of_twenty():
    "400 families of eight equal, correlated comparisons: an error of .011 at .05."
    rng = np.random.default_rng(1)
    counts = np.concatenate(list(resample_counts(120, c.enough_resamples(8)))).astype(float)
    alone, together, adjusted = 0, 0, 0
    for _ in range(400):
        gain = rng.normal(size=(120, 8)) + rng.normal(size=(120, 1))
        table = c.family_table(gain.mean(0), counts @ gain / 120, range(8))
        alone += ((table.low > 0) | (table.high < 0)).any()
        together += ((table.simultaneous_low > 0) | (table.simultaneous_high < 0)).any()
        adjusted += (table.p_holm <= 0.05).any()
    assert alone > 0.14 * 400
    assert 0.01 * 400 < together < 0.1 * 400 and 0.005 * 400 < adjusted < 0.1 * 400


@pytest.mark.parametrize(
    "estimates, draws, said",
    [
        (
            [0.1, 0.2],
            np.ones((9, 3)),
            r"draws has shape \(9, 3\), estimates has 2 values: give one row",
        ),
        ([0.1, 0.2], np.ones(9), r"draws has shape \(9,\)"),
    ],
)
def test_a_misaligned_family_is_named(estimates, draws, said):
    with pytest.raises(c.FamilyError, match=said):
        c.simultaneous_intervals(estimates, draws)
    with pytest.raises(c.FamilyError, match=said):
        c.family_table(estimates, draws, ["a", "b"])


# ---------------------------------------------------------------- the table of a family


def test_a_table_is_its_parts():
    estimates, draws = spoiled(*family())
    names = [f"router {j}" for j in range(8)]
    table = c.family_table(estimates, draws, names)
    assert list(table) == [
        "row",
        "difference",
        "low",
        "high",
        "simultaneous_low",
        "simultaneous_high",
        "p_value",
        "p_holm",
        "comparisons",
        "n_resamples",
    ]
    assert table.row.tolist() == names and (table.comparisons == 6).all()
    low, high, _ = simultaneous_by_loops(estimates.tolist(), draws.tolist())
    np.testing.assert_allclose(table.simultaneous_low, low, rtol=1e-9)
    np.testing.assert_allclose(table.simultaneous_high, high, rtol=1e-9)
    p_values = []
    for j, row in table.iterrows():
        values = [d for d in draws[:, j].tolist() if math.isfinite(d)]
        assert row.n_resamples == len(values)
        p_values.append(math.nan)
        if j in (6, 7):
            assert row[["low", "high", "p_value", "p_holm"]].isna().all()
            continue
        assert row.difference == estimates[j]
        limits = np.quantile(values, [0.025, 0.975])
        np.testing.assert_allclose([row.low, row.high], limits, rtol=1e-12)
        p_values[-1] = c.bootstrap_p_value(np.array(values))
    np.testing.assert_array_equal(table.p_value, p_values)
    np.testing.assert_allclose(table.p_holm, holm_by_closed_testing(p_values), rtol=1e-12)
    assert table.difference[7] == 0.1, "an estimate without draws is still shown"


def test_one_draw_is_none():
    estimates, draws = family()
    draws[1:, 2] = np.nan
    table = c.family_table(estimates, draws, list("abcde"))
    assert (table.comparisons == 4).all() and table.n_resamples.min() == 1
    assert table.loc[2, "low":"p_holm"].isna().all() and table.difference[2] == estimates[2]


def test_rows_come_in_the_order_given_and_the_input_stays():
    estimates, draws = family()
    kept = estimates.copy(), draws.copy()
    order = [3, 1, 4, 0, 2]
    table = c.family_table(estimates, draws, list("abcde"))
    moved = c.family_table(estimates[order], draws[:, order], [list("abcde")[i] for i in order])
    pd.testing.assert_frame_equal(moved, table.iloc[order].reset_index(drop=True))
    assert np.array_equal(kept[0], estimates) and np.array_equal(kept[1], draws)
    short = c.family_table(estimates, draws, list("abcde"), level=0.9)
    assert (short.low > table.low).all() and (short.simultaneous_low > table.simultaneous_low).all()
    assert np.array_equal(short.p_holm, table.p_holm)


@pytest.mark.parametrize(
    "k, missing, said",
    [
        (
            1,
            0,
            "1 of 1 comparisons have a value; a family needs two. State a single comparison with",
        ),
        (3, 2, "1 of 3 comparisons have a value"),
        (2, 2, "0 of 2 comparisons have a value"),
        (0, 0, "0 of 0 comparisons have a value"),
    ],
)
def test_a_family_of_one_is_refused(k, missing, said):
    estimates, draws = np.arange(float(k)), np.random.default_rng(0).normal(size=(2000, k))
    estimates[:missing] = np.nan
    with pytest.raises(c.FamilyError, match=said):
        c.family_table(estimates, draws, [f"r{j}" for j in range(k)])


def test_too_few_resamples_for_the_family_are_refused():
    estimates, draws = family(n_resamples=2000)
    c.family_table(estimates, draws, list("abcde"))
    said = r"1999 resamples are too few for 5 comparisons: draw enough_resamples\(5\) = 2000 or"
    with pytest.raises(c.FamilyError, match=said):
        c.family_table(estimates, draws[1:], list("abcde"))
    said = r"draw enough_resamples\(5, level=0.99\) = 10000 or more"
    with pytest.raises(c.FamilyError, match=said):
        c.family_table(estimates, draws, list("abcde"), level=0.99)
    estimates[0] = np.nan
    assert (c.family_table(estimates, draws[400:], list("abcde")).comparisons == 4).all()


def test_names_are_one_for_each():
    with pytest.raises(c.FamilyError, match="2 names for 5 estimates: give one for each"):
        c.family_table(*family(), ["a", "b"])
