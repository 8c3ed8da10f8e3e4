"""Bootstrap and paired tests against loops that copy rows, and against closed forms."""
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from routercompanion import metrics as m
from routercompanion.metrics import bootstrap, tests
from routercompanion.core import CompanionError


def data(n=120, seed=0):
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=n)
    small, large = (hard + rng.normal(size=n) < 0).astype(float), (hard + rng.normal(size=n) < 1).astype(float)
    return (hard + rng.normal(size=n)).round(1), (hard + 2 * rng.normal(size=n)).round(1), small, large


def test_counts_are_drawn_with_replacement_and_do_not_depend_on_blocks():
    all_at_once = np.concatenate(list(bootstrap.resample_counts(50, 400, 1)))
    assert all_at_once.shape == (400, 50) and (all_at_once.sum(1) == 50).all() and all_at_once.max() > 3
    assert abs(all_at_once.var() - (1 - 1 / 50)) < .05, "multinomial variance n p (1 - p)"
    for block in (50, 130, 5000): assert np.array_equal(all_at_once, np.concatenate(list(bootstrap.resample_counts(50, 400, 1, block=block))))
    assert max(len(b) for b in bootstrap.resample_counts(1000, 5000)) <= bootstrap.BLOCK // 1000, "memory is bounded by the block"


def test_whole_clusters_are_drawn():
    label = np.array(["x", "y", "x", "z", "z", "z"])
    w = np.concatenate(list(bootstrap.resample_counts(6, 500, 3, clusters=label)))
    assert (w[:, 0] == w[:, 2]).all() and (w[:, 3:5] == w[:, 5:]).all()
    assert (w[:, 0] + w[:, 1] + w[:, 3] == 3).all() and len(np.unique(w.sum(1))) > 1


@pytest.mark.parametrize("clusters", [None, np.repeat(np.arange(12), 10)])
def test_paired_bootstrap_is_the_loop_that_copies_rows(clusters):
    a, b, small, large = data()
    got = bootstrap.paired_bootstrap(m.weighted_summary, a, b, small, large, n_resamples=150, rng=5, clusters=clusters)
    rows = []
    for w in np.concatenate(list(bootstrap.resample_counts(120, 150, 5, clusters=clusters))):
        i = np.repeat(np.arange(120), w)
        c = [m.cost_performance_curve(x[i], small[i], large[i]) for x in (a, b)]
        rows.append([m.auroc(a[i], small[i]) - m.auroc(b[i], small[i]), m.lpm(c[0]) - m.lpm(c[1]), m.hcr(c[0]) - m.hcr(c[1])])
    rows = np.array(rows)
    assert np.allclose(got.low, np.nanquantile(rows, .025, axis=0), atol=1e-9) and np.allclose(got.high, np.nanquantile(rows, .975, axis=0), atol=1e-9)
    for k in range(3):
        d = rows[~np.isnan(rows[:, k]), k]
        p = min(1, 2 * min(1 + (d <= 0).sum(), 1 + (d >= 0).sum()) / (len(d) + 1))
        assert got.p_value[k] == pytest.approx(p) and got.undefined[k] == 150 - len(d)
    assert got.difference[0] == pytest.approx(m.auroc(a, small) - m.auroc(b, small))


def test_one_seed_one_answer_and_a_generator_is_threaded():
    a, _, small, _ = data()
    one, two = (bootstrap.bootstrap_ci(m.weighted_auroc, a, small, n_resamples=300, rng=9) for _ in range(2))
    assert (one.low, one.high) == (two.low, two.high)
    rng = np.random.default_rng(9)
    first, second = (bootstrap.bootstrap_ci(m.weighted_auroc, a, small, n_resamples=300, rng=rng) for _ in range(2))
    assert (first.low, first.high) == (one.low, one.high) != (second.low, second.high)


def test_equal_routers_have_p_one_and_swapping_changes_the_sign():
    a, b, small, large = data()
    same = bootstrap.paired_bootstrap(m.weighted_lpm, a, a * 2, small, large, n_resamples=200)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    ab, ba = (bootstrap.paired_bootstrap(m.weighted_auroc, *x, small, n_resamples=200) for x in ((a, b), (b, a)))
    assert ab.difference == -ba.difference and ab.p_value == ba.p_value and ab.low == pytest.approx(-ba.high)


def test_null_p_values_are_not_too_small():
    small_p = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        hard = rng.normal(size=150)
        y = (hard + rng.normal(size=150) < 0).astype(float)
        p = bootstrap.paired_bootstrap(m.weighted_auroc, hard + rng.normal(size=150), hard + rng.normal(size=150), y, n_resamples=200, rng=seed).p_value
        small_p += p < .05
    assert small_p <= 14, "about 6 of 120 expected"


def test_degenerate_resamples_are_counted_and_an_undefined_estimate_is_nan():
    rare = bootstrap.bootstrap_ci(m.weighted_auroc, [.9, .1, .2, .3], [0, 1, 1, 1], n_resamples=3000)
    assert rare.estimate == 1 and abs(rare.undefined / 3000 - (.75**4 + .25**4)) < .04
    never = bootstrap.bootstrap_ci(m.weighted_auroc, [.9, .1, .2], [1, 1, 1], n_resamples=20)
    assert np.isnan([never.estimate, never.low, never.high]).all() and never.undefined == 20
    pair = bootstrap.paired_bootstrap(m.weighted_hcr, [.1, .2, .3], [.3, .2, .1], [1, 1, 0], [0, 0, 1], n_resamples=50)
    assert np.isnan([pair.difference, pair.low, pair.high, pair.p_value]).all(), "the large model is worse"


def test_clustered_interval_of_task_effects_is_wider():
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(10), 60)
    y = (rng.random(600) < .5).astype(float)
    score = np.repeat(rng.normal(1, 1, 10), 60) * (1 - y) + rng.normal(size=600)
    f = partial(m.within_task_auroc, copies="tasks")
    plain, clustered = (bootstrap.bootstrap_ci(f, score, y, task, n_resamples=400, clusters=c) for c in (None, task))
    assert clustered.high - clustered.low > 1.5 * (plain.high - plain.low) and clustered.clusters == 10 and plain.clusters is None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar(rows):
    a, b = np.array(rows).T
    only_a, only_b = sum(x and not y for x, y in rows), sum(y and not x for x, y in rows)
    got, mid = tests.mcnemar(a, b), tests.mcnemar(a, b, method="mid-p")
    assert (got.only_a, got.only_b) == (only_a, only_b) and tests.mcnemar(b, a).p_value == got.p_value
    if only_a + only_b:
        assert got.p_value == pytest.approx(binomtest(only_a, only_a + only_b).pvalue) and 0 < mid.p_value <= got.p_value + 1e-12
        assert got.statistic == pytest.approx((only_a - only_b)**2 / (only_a + only_b))
    else: assert got.p_value == 1 and np.isnan(got.statistic)


def test_mcnemar_mid_p_by_summing_all_outcomes():
    from math import comb
    a, b = [1] * 9 + [0] * 3, [0] * 9 + [1] * 3
    assert tests.mcnemar(a, b, method="mid-p").p_value == pytest.approx((2 * sum(comb(12, k) for k in range(3)) + comb(12, 3)) / 2**12)
    assert tests.mcnemar(a, b).p_value == pytest.approx(2 * sum(comb(12, k) for k in range(4)) / 2**12)


@pytest.mark.parametrize("call, message", [
    (lambda: bootstrap.bootstrap_ci(bootstrap.weighted_mean, []), "empty"),
    (lambda: bootstrap.bootstrap_ci(bootstrap.weighted_mean), "at least one array"),
    (lambda: bootstrap.bootstrap_ci(m.weighted_auroc, [.1, .2], [1, 0, 1]), r"\[2, 3\] rows"),
    (lambda: bootstrap.bootstrap_ci(m.weighted_auroc, [.1, np.nan], [1, 0]), "score, row 1, is NaN"),
    (lambda: bootstrap.bootstrap_ci(bootstrap.weighted_mean, [1, 0], clusters=["a"]), "one label per row"),
    (lambda: bootstrap.bootstrap_ci(bootstrap.weighted_mean, [1, 0], clusters=["a", "a"]), "one cluster only"),
    (lambda: bootstrap.bootstrap_ci(bootstrap.weighted_mean, [1, 0], clusters=["a", None]), "clusters, row 1"),
    (lambda: bootstrap.bootstrap_ci(bootstrap.weighted_mean, [1, 0], n_resamples=0), "n_resamples"),
    (lambda: bootstrap.bootstrap_ci(bootstrap.weighted_mean, [1, 0], level=95), "level"),
    (lambda: tests.mcnemar([1, 0], [1]), r"\[2, 1\] rows"),
    (lambda: tests.mcnemar([1, np.nan], [1, 0]), "a, row 1"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(CompanionError, match=message): call()
