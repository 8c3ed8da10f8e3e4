"""The metrics against independent statements: rational arithmetic, all orders of tied queries, scikit-learn, repeated rows."""

from fractions import Fraction as F
from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from routercompanion import metrics as m
from routercompanion.core import CompanionError, UnknownNameError

quick = settings(max_examples=60, deadline=None, derandomize=True)
ALL = ("auroc", "lpm", "mpm", "hcr", "cpt", "apgr")


@st.composite
def pairs(draw, most=30, least=2, levels=(0, 1)):
    "A score with many ties, and two models' scores, of 2 to `most` queries."
    n = draw(st.integers(least, most))
    column = lambda values: st.lists(st.sampled_from(values), min_size=n, max_size=n)
    return (
        np.array(draw(column(range(8))), float),
        np.array(draw(column(levels)), float),
        np.array(draw(column(levels)), float),
    )


def values(score, small, large):
    c = m.cost_performance_curve(score, small, large)
    a = m.weighted_auroc(score, small, np.ones(len(score))) if set(small) <= {0, 1} else np.nan
    return np.array([a, m.lpm(c), m.mpm(c), m.hcr(c), m.cpt(c), m.apgr(c), m.lpm(c, 0.3, d0=0.25)])


# ---- an independent statement: expectation over all orders, then integrals in rational arithmetic, one segment at a time


def expected_points(score, small, large):
    "Phi at k / n, k = 0..n, averaged over every order that sorts the scores from high to low."
    n, sums, count = len(score), None, 0
    for order in permutations(range(n)):
        if any(score[a] < score[b] for a, b in zip(order, order[1:])):
            continue
        total, path = sum(F(float(s)) for s in small), []
        path.append(total / n)
        for i in order:
            total += F(float(large[i])) - F(float(small[i]))
            path.append(total / n)
        sums, count = path if sums is None else [a + b for a, b in zip(sums, path)], count + 1
    return [s / count for s in sums]


def pieces(points, low, high):
    "The parts (a, b) of [0, 1] on which the polyline through `points` lies within [low, high]."
    n = len(points) - 1
    for k in range(n):
        y0, slope, x0 = points[k], (points[k + 1] - points[k]) * n, F(k, n)
        if slope == 0:
            if low <= y0 <= high:
                yield x0, x0 + F(1, n)
            continue
        a, b = sorted((x0 + (low - y0) / slope, x0 + (high - y0) / slope))
        a, b = max(a, x0), min(b, x0 + F(1, n))
        if a < b:
            yield a, b


def area(points, a, b):
    n, total = len(points) - 1, F(0)
    at = lambda x, k: points[k] + (points[k + 1] - points[k]) * (x * n - k)
    for k in range(n):
        lo, hi = max(a, F(k, n)), min(b, F(k + 1, n))
        if lo < hi:
            total += (hi - lo) * (at(lo, k) + at(hi, k)) / 2
    return total


def first(points, level):
    n = len(points) - 1
    for k, y in enumerate(points):
        if y >= level:
            return (
                F(0) if k == 0 else F(k - 1, n) + (level - points[k - 1]) / (y - points[k - 1]) / n
            )
    return None


def brute(score, small, large):
    p = expected_points(score, small, large)
    S, L = p[0], p[-1]
    tau = lambda r: S + r * (L - S)
    out = {"lpm": area(p, F(0), F(3, 10)) / F(3, 10), "band": area(p, F(1, 4), F(3, 10)) * 20}
    if L > S:
        D = list(pieces(p, tau(F(85, 100)), tau(F(95, 100))))
        out["hcr"] = 1 - sum((b * b - a * a) / 2 for a, b in D) / sum(b - a for a, b in D)
        out["cpt"] = first(p, tau(F(1, 2)))
        out["apgr"] = (area(p, F(0), F(1)) - S) / (L - S)
        d2 = first(p, tau(F(85, 100)))
        if d2 > F(3, 10):
            out["mpm"] = area(p, F(3, 10), d2) / (d2 - F(3, 10))
    pos, neg = (
        [i for i in range(len(score)) if small[i] == 0],
        [i for i in range(len(score)) if small[i] == 1],
    )
    if pos and neg:
        out["auroc"] = F(
            sum(
                2 * (score[i] > score[j]) + (score[i] == score[j]) for i in pos for j in neg
            ).item(),
            2 * len(pos) * len(neg),
        )
    return p, out


@settings(max_examples=120, deadline=None, derandomize=True)
@given(pairs(most=6, least=1), st.booleans())
def test_brute_force_over_all_orders(data, judged):
    score, small, large = data
    if judged:
        small, large = small * 0.75, np.maximum(large, 0.25)
    points, expect = brute(score, small, large)
    curve = m.cost_performance_curve(score, small, large)
    n = len(score)
    assert np.allclose(curve(np.arange(n + 1) / n), [float(y) for y in points], atol=1e-12)
    got = {
        "lpm": m.lpm(curve),
        "band": m.lpm(curve, 0.3, d0=0.25),
        "mpm": m.mpm(curve),
        "hcr": m.hcr(curve),
        "cpt": m.cpt(curve),
        "apgr": m.apgr(curve),
    }
    for name, value in got.items():
        if name in expect:
            assert value == pytest.approx(float(expect[name]), abs=1e-9), name
        else:
            assert isinstance(value, m.Undefined) and value.reason, name
    if not judged:
        if "auroc" in expect:
            assert m.auroc(score, small) == pytest.approx(float(expect["auroc"]), abs=1e-12)
        else:
            pytest.raises(m.OneClassError, m.auroc, score, small)


# ---- properties


@quick
@given(pairs(levels=(0, 0.25, 0.5, 1)), st.randoms(use_true_random=False))
def test_any_order_of_the_queries_gives_the_same_numbers(data, random):
    order = list(range(len(data[0])))
    random.shuffle(order)
    assert np.allclose(values(*data), values(*(a[order] for a in data)), atol=1e-9, equal_nan=True)


@quick
@given(
    pairs(),
    st.sampled_from(
        [lambda s: 3 * s - 40, np.exp, lambda s: -1 / (1 + s), lambda s: np.where(s > 6, np.inf, s)]
    ),
)
def test_monotone_transforms_change_nothing(data, f):
    assert np.array_equal(values(*data), values(f(data[0]), *data[1:]), equal_nan=True)


@quick
@given(pairs(), st.floats(-5, 5))
def test_constant_score_is_the_random_row(data, c):
    _, small, large = data
    curve, line = (
        m.cost_performance_curve(np.full(len(small), c), small, large),
        m.random_curve(small, large),
    )
    assert np.array_equal(curve.call_rate, [0, 1]) and np.array_equal(
        curve.performance, line.performance
    )
    assert np.allclose(curve.performance, [small.mean(), large.mean()], atol=1e-15)
    if large.mean() > small.mean():
        assert (
            m.hcr(curve) == pytest.approx(0.1)
            and m.cpt(curve, 0.3) == pytest.approx(0.3)
            and m.apgr(curve) == pytest.approx(0.5)
        )
    if 0 < small.mean() < 1:
        assert m.auroc(np.full(len(small), c), small) == 0.5


@quick
@given(pairs(), pairs(levels=(0, 0.3, 0.8, 1)))
def test_oracles_bound_what_they_bound(binary, judged):
    for kind, (score, small, large) in (("binary", binary), ("judged", judged)):
        curve, best = (
            m.cost_performance_curve(score, small, large),
            m.cost_performance_curve(m.gain_oracle(small, large), small, large),
        )
        x = np.union1d(curve.call_rate, best.call_rate)
        assert (best(x) >= curve(x) - 1e-12).all()
        assert m.lpm(best) >= m.lpm(curve) - 1e-12
        if large.mean() > small.mean() + 1e-9:
            assert m.apgr(best) >= m.apgr(curve) - 1e-9 and m.cpt(best) <= m.cpt(curve) + 1e-9
            if kind == "binary":
                assert m.hcr(best) >= m.hcr(curve) - 1e-9
    score, small, _ = binary
    if 0 < small.mean() < 1:
        assert m.auroc(m.label_oracle(small), small) == 1 >= m.auroc(score, small)


def test_gain_oracle_bounds_hcr_on_binary_scores():
    rng, seen = np.random.default_rng(0), 0
    for _ in range(300):
        n = rng.integers(3, 40)
        small, large, score = (rng.random((3, n)) < np.array([[0.4], [0.6], [0.5]])).astype(float)
        score += rng.integers(0, 4, n)
        if large.mean() <= small.mean():
            continue
        best, curve = (
            m.hcr(m.cost_performance_curve(s, small, large))
            for s in (m.gain_oracle(small, large), score)
        )
        seen += 1
        assert best >= curve - 1e-9
    assert seen > 150


@quick
@given(pairs(most=60))
def test_auroc_is_scikit_learns(data):
    score, small, _ = data
    assume(0 < small.mean() < 1)
    assert m.auroc(score, small) == pytest.approx(roc_auc_score(1 - small, score), abs=1e-12)


@quick
@given(pairs(levels=(0, 1)), st.data())
def test_integer_weights_are_repeated_rows(data, draw):
    score, small, large = data
    w = np.array(
        draw.draw(
            st.lists(
                st.lists(st.integers(0, 3), min_size=len(score), max_size=len(score)),
                min_size=1,
                max_size=4,
            )
        )
    )
    assume((w.sum(1) > 0).all())
    for dtype in (np.uint8, np.int64, np.float32):
        batch = m.weighted_summary(score, small, large, w.astype(dtype), metrics=ALL)
        for counts, row in zip(w, batch):
            again = [np.repeat(a, counts) for a in data]
            assert np.allclose(row, values(*again)[:6], atol=1e-9, equal_nan=True)
    for name in ("mpm", "hcr", "cpt", "apgr"):
        assert np.array_equal(
            getattr(m, f"weighted_{name}")(score, small, large, w),
            m.weighted_summary(score, small, large, w, metrics=(name,))[:, 0],
            equal_nan=True,
        )
    batch = m.cost_performance_curve(score, small, large, weights=w)
    x = np.linspace(0, 1, 7)
    assert np.allclose(
        batch(x),
        [m.cost_performance_curve(*(np.repeat(a, c) for a in data))(x) for c in w],
        atol=1e-12,
    )


@quick
@given(pairs(most=40), st.data())
def test_within_task_auroc_is_the_pair_weighted_mean(data, draw):
    score, small, _ = data
    task = np.array(
        draw.draw(
            st.lists(st.sampled_from(["a", "b", "c"]), min_size=len(score), max_size=len(score))
        )
    )
    w = np.array(draw.draw(st.lists(st.integers(0, 2), min_size=len(score), max_size=len(score))))

    def loop(score, small, task):
        won = total = 0.0
        for t in set(task):
            s, y = score[task == t], 1 - small[task == t]
            k = y.sum() * (1 - y).sum()
            if k:
                won, total = won + k * roc_auc_score(y, s), total + k
        return won / total if total else np.nan

    expect = loop(score, small, task)
    if np.isnan(expect):
        pytest.raises(m.OneClassError, m.within_task_auroc, score, small, task)
    else:
        assert m.within_task_auroc(score, small, task) == pytest.approx(expect, abs=1e-12)
    got = m.within_task_auroc(score, small, task, weights=np.stack([w, np.ones_like(w)]))
    assert np.allclose(
        got,
        [loop(*(np.repeat(a, w) for a in (score, small, task))), expect],
        atol=1e-12,
        equal_nan=True,
    )
    times = np.array(
        [{"a": 2, "b": 0, "c": 3}[t] for t in task]
    )  # task a drawn twice, c three times: separate copies
    copy = np.concatenate([np.arange(k) for k in times]) if times.sum() else np.array([])
    again = [np.repeat(a, times) for a in (score, small, task)]
    renamed = np.array([f"{t}{c}" for t, c in zip(again[2], copy)])
    assert m.within_task_auroc(score, small, task, weights=times, copies="tasks") == pytest.approx(
        loop(*again[:2], renamed), abs=1e-12, nan_ok=True
    )


# ---- as published, by loops written from the audit


def published(score, small, large):
    n, order = len(score), np.argsort(-score)
    rate, phi = [i * 0.01 for i in range(101)], []
    for i in range(101):
        k = int(np.linspace(0, 1, 101)[i] * n)
        phi.append((large[order[:k]].sum() + small[order[k:]].sum()) / n)
    S, L = small.mean(), large.mean()
    lo, hi = S + 0.85 * (L - S), S + 0.95 * (L - S)
    lpm = sum(phi[25:31]) / 6
    mid = [y for y in phi if phi[30] < y < lo]
    inside = [x for x, y in zip(rate, phi) if lo <= y <= hi]
    return (
        lpm,
        sum(mid) / len(mid) if mid else 0.0,
        1 - sum(inside) / len(inside) if inside else 0.0,
    )


def test_as_published_grid():
    rng, differs = np.random.default_rng(1), 0
    for n in (7, 37, 53, 211):  # no call rate of the grid lies on a threshold by accident
        small, large = (rng.random((2, n)) * [[0.6], [1]]).round(3)
        score = rng.normal(size=n)
        c = m.cost_performance_curve(score, small, large)
        got = [f(c, definition="as_published") for f in (m.lpm, m.mpm, m.hcr)]
        assert np.allclose(got, published(score, small, large), atol=1e-12)
        differs += not np.allclose(
            got, [m.lpm(c, 0.3, d0=0.25), m.mpm(c), m.hcr(c)], atol=1e-3, equal_nan=True
        )
        decile = [c(np.floor(x * n) / n) for x in np.linspace(0, 1, 11)]
        assert m.apgr(c, definition="as_published") == pytest.approx(
            (np.trapezoid(decile, dx=0.1) - c.P_S) / (c.P_L - c.P_S)
        )
        assert m.cpt(c, 0.5, definition="as_published") == pytest.approx(
            np.interp((c.P_S + c.P_L) / 2, decile, np.linspace(0, 1, 11))
        )
    assert differs >= 3
    assert m.auroc([0.1, 0.2], [1, 1], definition="as_published") == 0.5


# ---- edges and errors


def test_no_gap_is_nan_with_a_reason_and_never_zero():
    for small, large in (([1, 0, 1], [0, 1, 1]), ([1, 1, 1], [0, 0, 1])):
        c = m.cost_performance_curve([0.3, 0.2, 0.1], small, large)
        for f in (m.hcr, m.cpt, m.apgr, m.mpm):
            for definition in m.DEFINITIONS:
                assert (
                    np.isnan(f(c, definition=definition))
                    and "no better" in f(c, definition=definition).reason
                )
        assert np.isfinite(m.lpm(c))
    batch = m.cost_performance_curve(
        [0.3, 0.2, 0.1], [0, 1, 0], [1, 1, 1], weights=[[1, 1, 1], [0, 3, 0]]
    )
    assert np.isnan(m.hcr(batch)).tolist() == [False, True]


def test_hcr_of_a_curve_that_leaves_the_band_and_returns():
    c = m.Curve(
        [0, 0.2, 0.4, 0.6, 1], [0, 0.9, 0.9, 0.5, 1], "call_rate"
    )  # in: .85 to .9, level, down to .85, up to .95
    a, b, up = 0.85 / 4.5, 0.4 + 0.05 / 2, [0.6 + 0.35 / 1.25, 0.6 + 0.45 / 1.25]
    expect = 1 - ((b**2 - a**2) / 2 + (up[1] ** 2 - up[0] ** 2) / 2) / (b - a + up[1] - up[0])
    assert m.hcr(c) == pytest.approx(expect, abs=1e-9)
    level = m.Curve(
        [0, 0.5, 0.7, 1], [0, 0.85, 0.85, 1], "call_rate"
    )  # a level stretch exactly on the edge belongs to the band
    assert m.hcr(level) == pytest.approx(
        1 - ((0.49 - 0.25) / 2 + (0.9**2 - 0.7**2) / 2) / 0.4, abs=1e-9
    )
    assert m.hcr(m.random_curve([0, 0], [1, 1]), 0, 1) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: m.auroc([], []), "empty"),
        (lambda: m.auroc([0.1, np.nan], [0, 1]), "score, row 1, is NaN"),
        (lambda: m.auroc([0.1, 0.2], [0, 0.5]), "row 1, is 0.5"),
        (lambda: m.auroc([0.1, 0.2], [0, 0]), "wrong"),
        (lambda: m.auroc([0.1, 0.2, 0.3], [0, 1]), "small_score has 2 rows and score has 3"),
        (lambda: m.cost_performance_curve([0.1, 0.2], [0, 1], [1, np.nan]), "large, row 1, is NaN"),
        (
            lambda: m.cost_performance_curve([0.1, 0.2], [0, 85], [1, 1]),
            "small, row 1, is 85, outside",
        ),
        (lambda: m.cost_performance_curve([[0.1, 0.2]], [0, 1], [1, 1]), "one dimension"),
        (
            lambda: m.cost_performance_curve([0.1, 0.2], [0, 1], [1, 1], weights=[1, -1]),
            "non-negative",
        ),
        (
            lambda: m.cost_performance_curve([0.1, 0.2], [0, 1], [1, 1], weights=[[1, 1], [0, 0]]),
            "row 1: all weights are 0",
        ),
        (lambda: m.within_task_auroc([0.1, 0.2], [0, 1], ["a", None]), "task, row 1, is missing"),
        (lambda: m.within_task_auroc([0.1, 0.2], [0, 1], ["a"]), "align"),
        (lambda: m.lpm(m.random_curve([0], [1]), 1.5), "d0 < d1 <= 1"),
        (lambda: m.hcr(m.random_curve([0], [1]), 0.9, 0.9), "rho1 < rho2"),
        (
            lambda: m.hcr(m.Curve([0, 1], [0, 1], "call_rate"), definition="as_published"),
            "number of queries",
        ),
        (lambda: m.Curve([0], [1], "call_rate"), "k >= 2"),
        (lambda: m.reliability_curve([0.2, 1.2], [0, 1]), "probability, row 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(CompanionError, match=message):
        call()


def test_unknown_definition_lists_the_known_ones():
    for f in (m.lpm, m.mpm, m.hcr, m.cpt, m.apgr):
        with pytest.raises(UnknownNameError, match="as_published, paper"):
            f(m.random_curve([0], [1]), definition="papre")


def test_reliability_bins_and_error_by_loop():
    rng = np.random.default_rng(0)
    p, y = np.r_[0, 1, 0.1, rng.random(200) * 0.6], (rng.random(203) < 0.5).astype(float)
    c, ece = m.reliability_curve(p, y, 5), 0.0
    for b in range(5):
        inside = [i for i in range(203) if min(int(p[i] * 5), 4) == b]
        assert c.count[b] == len(inside)
        if not inside:
            assert np.isnan(c.frequency[b])
            continue
        assert c.frequency[b] == pytest.approx(y[inside].mean()) and c.probability[
            b
        ] == pytest.approx(p[inside].mean())
        ece += len(inside) / 203 * abs(y[inside].mean() - p[inside].mean())
    assert c.count[3] == 0 and m.expected_calibration_error(p, y, 5) == pytest.approx(ece)


# ---- pools: deferral curves against loops


@st.composite
def pools(draw, most=12, models=5, gaps=False):
    "predicted (n, m) with ties, outcomes (n, m), costs (m,) with ties."
    n, k = draw(st.integers(1, most)), draw(st.integers(1, models))
    grid = lambda values: np.array(
        draw(
            st.lists(
                st.lists(st.sampled_from(values), min_size=k, max_size=k), min_size=n, max_size=n
            )
        ),
        float,
    )
    costs = np.array(draw(st.lists(st.sampled_from([0.5, 1.0, 2.0, 7.0]), min_size=k, max_size=k)))
    return grid([0, 0.25, 0.5, 1]), grid([0.0, 1.0, 0.5] + [np.nan] * gaps), costs


def choose(predicted, costs, budget):
    "The best predicted model within the budget; ties go to the cheapest, then the first. None if there is none."
    best = None
    for j in range(len(costs)):
        if costs[j] > budget:
            continue
        if (
            best is None
            or predicted[j] > predicted[best]
            or (predicted[j] == predicted[best] and costs[j] < costs[best])
        ):
            best = j
    return best


def brute_budget(predicted, outcomes, costs, budgets):
    "Per budget: mean outcome of the chosen models, missing ones left out; NaN without any."
    curve = []
    for b in budgets:
        picked = [(row, choose(p, costs, b)) for p, row in zip(predicted, outcomes)]
        got = [row[j] for row, j in picked if j is not None and not np.isnan(row[j])]
        curve.append(sum(got) / len(got) if got else np.nan)
    return np.array(curve)


@quick
@given(pools(gaps=True))
def test_budget_sweep_against_a_loop(pool):
    predicted, outcomes, costs = pool
    budgets = [0, 0.5, 0.7, 1, 2, 6.9, 7, 100]
    s = m.budget_sweep(predicted, outcomes, costs, budgets)
    expected = brute_budget(predicted, outcomes, costs, budgets)
    assert np.allclose(
        m.weighted_quality(s.quality, np.ones((1, len(outcomes))))[0], expected, equal_nan=True
    )
    per_query = m.budget_sweep(predicted, outcomes, np.tile(costs, (len(outcomes), 1)), budgets)
    assert (
        np.allclose(per_query.quality, s.quality, equal_nan=True)
        and (per_query.choice == s.choice).all()
        and np.allclose(per_query.cost, s.cost, equal_nan=True)
    )
    for (i, k), j in np.ndenumerate(s.choice):
        assert j == (
            -1
            if choose(predicted[i], costs, budgets[k]) is None
            else choose(predicted[i], costs, budgets[k])
        )
        assert np.isnan(s.cost[i, k]) if j < 0 else s.cost[i, k] == costs[j] <= budgets[k]


@quick
@given(pools(gaps=True))
def test_average_over_ties_is_the_mean_over_all_tied_models(pool):
    predicted, outcomes, costs = pool
    budgets = np.array([0.5, 1, 2, 7])
    s = m.budget_sweep(predicted, outcomes, costs, budgets, ties="average")
    for (i, k), value in np.ndenumerate(s.quality):
        within = [j for j in range(len(costs)) if costs[j] <= budgets[k]]
        tied = [
            outcomes[i, j]
            for j in within
            if predicted[i, j] == max(predicted[i, j] for j in within)
        ]
        tied = [t for t in tied if not np.isnan(t)]
        assert np.isclose(value, np.mean(tied) if tied else np.nan, equal_nan=True)
    per_query = m.budget_sweep(
        predicted, outcomes, np.tile(costs, (len(outcomes), 1)), budgets, ties="average"
    )
    assert np.allclose(per_query.quality, s.quality, equal_nan=True) and np.allclose(
        per_query.cost, s.cost, equal_nan=True
    )


def test_caps_that_differ_by_query():
    costs = np.array([[1.0, 5.0], [5.0, 1.0], [9.0, 9.0]])
    s = m.budget_sweep(
        [[0, 1.0], [0, 1], [0, 1]], [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], costs, [1, 5, 9]
    )
    assert s.choice.T.tolist() == [[0, 1, -1], [1, 1, -1], [1, 1, 1]] and s.cost[0].tolist() == [
        1,
        5,
        5,
    ]
    assert (
        np.allclose(s.quality[:2], [[0.1, 0.2, 0.2], [0.4, 0.4, 0.4]])
        and np.isnan(s.quality[2, :2]).all()
        and s.missing.tolist() == [1 / 3, 1 / 3, 0]
    )


@quick
@given(pools(), st.randoms(use_true_random=False))
def test_order_of_queries_and_models_and_the_unit_of_cost_do_not_matter(pool, random):
    predicted, outcomes, costs = pool
    predicted = (
        predicted + np.arange(len(costs)) * 1e-3
    )  # no ties among models of one cost, whose order would matter
    budgets = m.budget_grid(costs, 17)
    area = lambda p, o, c, b: m.audc(m.budget_sweep(p, o, c, b).curve())
    value, rows, columns = (
        area(predicted, outcomes, costs, budgets),
        random.sample(range(len(outcomes)), len(outcomes)),
        random.sample(range(len(costs)), len(costs)),
    )
    assert np.isclose(value, area(predicted[rows], outcomes[rows], costs, budgets))
    assert np.isclose(
        value, area(predicted[:, columns], outcomes[:, columns], costs[columns], budgets)
    )
    assert np.isclose(value, area(predicted, outcomes, 8 * costs, 8 * budgets))
    price = lambda p, o, c: m.audc(m.lambda_sweep(p, o, c).curve())
    assert np.isclose(price(predicted, outcomes, costs), price(predicted, outcomes, 8 * costs))
    assert np.isclose(
        price(predicted, outcomes, costs),
        price(predicted[rows][:, columns], outcomes[rows][:, columns], costs[columns]),
    )


@quick
@given(pools())
def test_the_oracle_bounds_every_router_and_one_model_is_constant(pool):
    predicted, outcomes, costs = pool
    budgets = m.budget_grid(costs, 9)
    ours, best = (
        m.budget_sweep(predicted, outcomes, costs, budgets),
        m.budget_sweep(outcomes, outcomes, costs, budgets),
    )
    assert (best.quality >= ours.quality - 1e-12).all()
    assert m.audc(ours.curve()) <= m.audc(best.curve()) + 1e-12
    if len(set(costs)) > 1:
        assert m.aiq(ours.curve()) <= m.aiq(best.curve()) + 1e-12
    else:
        assert np.isnan(
            [m.aiq(ours.curve()), m.aiq(best.curve())]
        ).all()  # one cost: no range to mix over
    alone = m.budget_sweep(
        predicted[:, :1], outcomes[:, :1], costs[:1], np.linspace(costs[0], costs[0] + 3, 7)
    ).curve()
    assert np.allclose(alone.quality, outcomes[:, 0].mean()) and np.isclose(
        m.audc(alone), outcomes[:, 0].mean()
    )
    point = m.lambda_sweep(predicted[:, :1], outcomes[:, :1], costs[:1]).curve()
    assert (
        point.cost.tolist() == [costs[0]]
        and np.isclose(m.audc(point), outcomes[:, 0].mean())
        and np.isclose(m.peak(point), outcomes[:, 0].mean())
    )


@quick
@given(pools(gaps=True), st.integers(0, 99))
def test_lambda_sweep_against_a_loop(pool, seed):
    predicted, outcomes, costs = pool
    paid = np.random.default_rng(seed).random(outcomes.shape)
    prices = [0, 0.1, 0.5, 3, np.inf]
    s = m.lambda_sweep(predicted, outcomes, costs, prices, paid=paid)
    for k, lam in enumerate(prices):
        for i in range(len(outcomes)):
            value = lambda j: (
                (-costs[j], predicted[i, j])
                if np.isinf(lam)
                else predicted[i, j] - lam * costs[j] / costs.max()
            )
            j = max(range(len(costs)), key=lambda j: (value(j), -costs[j], -j))
            assert (
                s.choice[i, k] == j
                and s.cost[i, k] == paid[i, j]
                and np.isclose(s.quality[i, k], outcomes[i, j], equal_nan=True)
            )


def direct_choices(P, C, prices):
    "Choices (n, k) of the largest P - price * C / dearest mean cost: of equals the cheapest, then the first."
    C = np.broadcast_to(C, P.shape)
    top, order = C.mean(0).max(), np.argsort(C, axis=1, kind="stable")
    P, C = (
        np.take_along_axis(P, order, 1),
        np.take_along_axis(C, order, 1) / (top if top > 0 else 1),
    )
    cheapest = np.where(C == C[:, :1], P, -np.inf)
    places = [(P - x * C if np.isfinite(x) else cheapest).argmax(1) for x in prices]
    return np.stack([np.take_along_axis(order, p[:, None], 1)[:, 0] for p in places], 1)


@st.composite
def crowded_pools(draw):
    "Predictions and costs with ties, equal and zero costs, collinear points, and tiny differences."
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, m = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    steps = draw(st.sampled_from([2, 3, 10, 10**6]))
    shape = (n, m) if draw(st.booleans()) else m
    C = rng.integers(0, steps + 1, shape) * draw(st.sampled_from([0.0, 0.1, 1.0, 1e-9, 1e9]))
    kind = draw(st.sampled_from(["grid", "random", "line", "concave"]))
    P = {
        "grid": rng.integers(-1, 4, (n, m)) / 3,
        "random": rng.normal(size=(n, m)),
        "line": C / max(C.max(), 1e-300) * rng.random((n, 1)) + 0.3,
        "concave": np.sqrt(C / max(C.max(), 1e-300)) + np.zeros((n, 1)),
    }[kind]
    shaken = draw(st.sampled_from([0.0, 1e-16, 1e-15, 1e-12, 1e-3]))
    return (P + shaken * rng.integers(-2, 3, (n, m))) * draw(st.sampled_from([1.0, 1e-6, 1e6])), C


@settings(quick, max_examples=300)
@given(crowded_pools())
def test_lambda_sweep_is_the_direct_rule_to_the_last_tie(pool):
    P, C = pool
    c = np.broadcast_to(C, P.shape)
    c = c / (c.mean(0).max() or 1)
    i, j = np.triu_indices(P.shape[1], 1)
    dp, dc = P[:, j] - P[:, i], c[:, j] - c[:, i]
    crossings = dp[dc != 0] / dc[dc != 0]
    crossings = crossings[(crossings >= 0) & np.isfinite(crossings)][:60]
    near = [np.nextafter(crossings, 0), crossings, np.nextafter(crossings, np.inf)]
    prices = np.concatenate([*near, m.TRADE_OFFS[::12], [0, 1e9, np.inf]])
    outcomes = np.random.default_rng(0).random(P.shape)
    sweep = m.lambda_sweep(P, outcomes, C, prices)
    expected = direct_choices(P, C, prices)
    assert np.array_equal(sweep.choice, expected)
    assert np.array_equal(sweep.quality, np.take_along_axis(outcomes, expected, 1))


def test_lambda_sweep_of_extreme_numbers_is_the_direct_rule():
    P = np.array(
        [
            [0.0, 5e-324, 1e-323, 1e-320],
            [-1e300, 1e300, 0.0, 1e300],
            [0.1, 0.1 + 1e-17, np.nextafter(0.1, 1), 0.1],
        ]
    )
    for C in ([0.0, 0, 0, 0], [5e-324, 1e-323, 1e-310, 1.0], [1.0, 1, 2, 1e300], [3.0, 2, 1, 0]):
        prices = [0.0, 1e-320, 1.0, 1e3, 1e300, np.inf]
        with np.errstate(over="ignore"):
            for rows in (
                [0],
                [2],
                [0, 2],
                [0, 1, 2],
            ):  # the largest number decides what rounding can do
                sweep = m.lambda_sweep(P[rows], np.zeros((len(rows), 4)), C, prices)
                assert np.array_equal(sweep.choice, direct_choices(P[rows], np.array(C), prices))


@quick
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 10)), min_size=1, max_size=9),
    st.integers(0, 6),
    st.integers(1, 9),
)
def test_area_peak_qnc_aiq_against_rational_arithmetic(points, start, width):
    merged = {}
    for x, y in points:
        merged.setdefault(x, []).append(F(y, 10))
    xs = sorted(merged)
    ys = [sum(merged[x], F(0)) / len(merged[x]) for x in xs]
    at = lambda x: (
        None
        if x < xs[0]
        else ys[-1]
        if x >= xs[-1]
        else next(
            a + (b - a) * F(x - p) / F(q - p)
            for p, q, a, b in zip(xs, xs[1:], ys, ys[1:])
            if p <= x <= q
        )
    )
    for axis in m.COST_AXES:
        c = m.deferral_curve([p[0] for p in points], [p[1] / 10 for p in points], axis=axis)
        assert c.cost.tolist() == xs and np.allclose(c.quality, [float(y) for y in ys])
        knots = sorted(
            {F(start), F(start + width), *(F(x) for x in xs if start < x < start + width)}
        )
        if start < xs[0]:
            assert (
                np.isnan(m.audc(c, low=start, high=start + width))
                and "begins" in m.audc(c, low=start, high=start + width).reason
            )
        else:
            area = sum((q - p) * (at(p) + at(q)) / 2 for p, q in zip(knots, knots[1:]))
            assert np.isclose(m.audc(c, low=start, high=start + width), float(area / width))
            stairs = sum(
                (q - p) * max((x, y) for x, y in zip(xs, ys) if x <= p)[1]
                for p, q in zip(knots, knots[1:])
            )
            assert np.isclose(
                m.audc(c, low=start, high=start + width, interpolation="step"),
                float(stairs / width),
            )
        assert np.isclose(m.peak(c), float(max(ys))) and m.peak_cost(c) == xs[ys.index(max(ys))]
        for target in (F(1, 4), F(1, 2), max(ys)):
            found = next((k for k, y in enumerate(ys) if y >= target), None)
            if found is None:
                assert (
                    np.isnan(m.qnc(c, float(target)))
                    and "never reaches" in m.qnc(c, float(target)).reason
                )
            elif found == 0 or axis == "budget":
                assert np.isclose(m.qnc(c, float(target)), xs[found])
            else:
                p, q, a, b = xs[found - 1], xs[found], ys[found - 1], ys[found]
                assert np.isclose(
                    m.qnc(c, float(target)), float(p + (q - p) * (target - a) / (b - a))
                )
        hull = [max(float(ys[k]) for k in range(len(xs)) if xs[k] <= x) for x in xs]
        tops = [
            max(
                [hull[k]]
                + [
                    hull[i] + (hull[j] - hull[i]) * (xs[k] - xs[i]) / (xs[j] - xs[i])
                    for i in range(k)
                    for j in range(k + 1, len(xs))
                ]
            )
            for k in range(len(xs))
        ]
        assert np.allclose(m.convex_hull(c).quality, tops)
        top = xs[-1] + 2
        assert np.isclose(
            m.aiq(c, largest_cost=top),
            (
                sum((q - p) * (a + b) / 2 for p, q, a, b in zip(xs, xs[1:], tops, tops[1:]))
                + 2 * tops[-1]
            )
            / top,
        )


@quick
@given(pools(gaps=True), st.integers(0, 99))
def test_a_batch_of_curves_is_each_curve_and_resampling_is_repeating_rows(pool, seed):
    predicted, outcomes, costs = pool
    rng, n = np.random.default_rng(seed), len(outcomes)
    W = rng.multinomial(n, np.full(n, 1 / n), 4)
    paid = rng.random(outcomes.shape)
    for s in (
        m.budget_sweep(predicted, outcomes, costs, m.budget_grid(costs, 6)),
        m.lambda_sweep(predicted, outcomes, costs, paid=paid),
    ):
        if np.isnan(s.quality).all():
            continue
        batch = s.curve(W)
        for b, w in enumerate(W):
            rows = np.repeat(np.arange(n), w)
            if np.isnan(s.quality[rows]).all(0).any():
                continue
            one = m.Sweep(
                s.setting,
                s.quality[rows],
                s.choice[rows],
                s.booked if s.booked.ndim == 1 else s.booked[rows],
                s.axis,
            ).curve()
            low, high = one.cost[0], one.cost[-1]
            assert np.isclose(
                m.audc(batch, low=low, high=high)[b], m.audc(one), atol=1e-9
            ) and np.isclose(m.peak(batch)[b], m.peak(one))
            assert np.isclose(m.qnc(batch, 0.4)[b], m.qnc(one, 0.4), equal_nan=True)
            assert np.isclose(
                m.aiq(batch, largest_cost=9)[b], m.aiq(one, largest_cost=9)
            ) and np.allclose(m.convex_hull(batch)(one.cost)[b], m.convex_hull(one).quality)
            if s.axis == "budget":
                assert np.isclose(m.weighted_audc(s.quality, s.setting, w)[0], m.audc(one))


def test_area_is_a_mean_of_per_query_areas():
    rng = np.random.default_rng(0)
    s = m.budget_sweep(
        rng.random((40, 6)), rng.random((40, 6)), rng.random(6), np.linspace(0, 1, 30)
    )
    b = s.setting[~np.isnan(s.quality[0])]
    areas = s.quality[:, ~np.isnan(s.quality[0])] @ m.area_weights(b)
    assert np.isclose(areas.mean(), m.audc(s.curve())) and np.isclose(
        m.weighted_audc(s.quality, s.setting, np.ones(40))[0], areas.mean()
    )
    assert (
        np.isclose(m.area_weights(b, interpolation="step").sum(), 1)
        and m.area_weights(b, interpolation="step")[-1] == 0
    )


def test_edges_of_a_deferral_curve():
    below = m.budget_sweep([[0.5, 0.6]], [[1, 0]], [2, 3], [1, 2, 3])
    assert (
        below.choice.tolist() == [[-1, 0, 1]]
        and np.isnan(below.quality[0, 0])
        and below.curve().cost.tolist() == [2, 3]
    )
    with pytest.raises(m.MetricInputError, match="below the cheapest"):
        m.budget_sweep([[0.5, 0.6]], [[1, 0]], [2, 3], [1]).curve()
    equal = m.budget_sweep([[0.5, 0.6], [0.7, 0.6]], [[1, 0], [1, 0]], [2, 2])
    assert (
        equal.setting.tolist() == [2]
        and equal.choice[:, 0].tolist() == [1, 0]
        and m.audc(equal.curve()) == 0.5
    )
    tie = m.budget_sweep([[0.5, 0.5, 0.5]], [[0, 1, 0]], [3, 1, 1], [9])
    assert tie.choice.tolist() == [[1]], "the cheapest, then the first"
    free = m.lambda_sweep([[0.2, 0.9]], [[0, 1]], [0, 0])
    assert (
        (free.choice[:, :-1] == 1).all()
        and m.peak(free.curve()) == 1
        and np.isnan(m.aiq(free.curve()))
    )
    hole = m.budget_sweep([[0.1, 0.9], [0.1, 0.9]], [[1, np.nan], [0, 1]], [1, 2], [1, 2])
    assert hole.curve().quality.tolist() == [0.5, 1] and hole.missing.tolist() == [0, 0.5]
    lost = m.budget_sweep([[0.1, 0.9]], [[1, np.nan]], [1, 2], [1, 2])
    assert lost.curve().cost.tolist() == [1], "a point without any outcome is left out"
    assert m.deferral_curve([3, 1, 3], [0.2, 0.1, 0.4]).quality.tolist() == pytest.approx(
        [0.1, 0.3]
    )
    assert m.budget_grid([1, 4, np.nan, 2], spacing="distinct").tolist() == [
        1,
        2,
        4,
    ] and np.allclose(m.budget_grid([1, 4], 3, spacing="log"), [1, 2, 4])
    falling = m.deferral_curve([0, 1, 2], [0.4, 0.2, 0.2])
    assert np.isclose(m.audc(m.non_decreasing(falling)), 0.4) and np.isclose(
        m.audc(falling), 0.25
    ), "only AIQ makes a curve non-decreasing"


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: m.deferral_curve([1, 2], [0.5], axis="budget"), "does not fit"),
        (lambda: m.deferral_curve([1], [0.5], axis="spent"), "Unknown cost axis"),
        (lambda: m.deferral_curve([np.inf], [0.5]), "finite cost"),
        (lambda: m.deferral_curve([1], [np.nan]), "No point"),
        (lambda: m.deferral_curve([1], [0.5], weights=[[1]]), "per-query"),
        (lambda: m.deferral_curve([1], [[0.5]], weights=[[0]]), "only zeros"),
        (lambda: m.Curve([2, 1], [0.1, 0.2]), "finite and rise"),
        (lambda: m.audc(m.deferral_curve([1, 2], [0.1, 0.2]), low=3, high=2), "low <= high"),
        (lambda: m.qnc(m.deferral_curve([1], [0.5]), 0.4, relative=True), "reference_cost"),
        (lambda: m.aiq(m.deferral_curve([1, 5], [0.5, 0.6]), largest_cost=3), "inside the curve"),
        (lambda: m.budget_sweep([[0.5]], [[2.0]], [1]), r"outcomes, position \(0, 0\)"),
        (lambda: m.budget_sweep([[0.5]], [[1.0]], [-1]), "costs, position"),
        (lambda: m.budget_sweep([[np.nan]], [[1.0]], [1]), "predicted, position"),
        (lambda: m.budget_sweep([[0.5, 0.5]], [[1.0]], [1]), "predicted must be"),
        (lambda: m.budget_sweep([[0.5]], [[1.0]], [1], []), "budgets"),
        (lambda: m.budget_sweep([[0.5]], [[1.0]], [1], ties="first"), "Unknown rule for ties"),
        (lambda: m.lambda_sweep([[0.5]], [[1.0]], [1], [-1]), "trade_offs"),
        (lambda: m.arena_score(40, 1), "divide per cent"),
        (lambda: m.budget_grid([np.nan]), "No finite cost"),
    ],
)
def test_pool_errors_are_named(call, match):
    with pytest.raises(CompanionError, match=match):
        call()


def test_arena_score_by_hand():
    c = np.log2(200 / 1) / np.log2(200 / 0.0044)
    assert (
        np.isclose(m.arena_score(0.6, 1), 1.1 * 0.6 * c / (0.06 + c))
        and m.arena_score(1, 0.001) == 1
        and m.arena_score(0.5, 1000) == 0
    )
    assert (
        np.isnan(m.arena_score(0, 200))
        and m.arena_score([0.5, 0.5], [0.01, 1]).shape == (2,)
        and (np.diff(m.arena_score([0.5, 0.5], [0.01, 1])) < 0).all()
    )


def test_published_qnc_is_the_cost_of_the_own_peak():
    c = m.deferral_curve([1, 2, 3], [0.3, 0.5, 0.4], axis="realised")
    assert (
        m.qnc(c, 0.9, definition="as_published") == 2
        and m.qnc(c, 0.4) == 1.5
        and m.qnc(c, 0.5, relative=True, reference_cost=4) == 0.5
    )


@quick
@given(pairs())
def test_area_under_the_routing_rate(pair):
    score, small, large = pair
    c = m.cost_performance_curve(score, small, large)
    assert np.isclose(m.routing_rate_area(c), np.trapezoid(c.performance, c.call_rate))
    assert np.isclose(
        m.weighted_rate_area(score, small, large, np.ones(len(score))), m.routing_rate_area(c)
    )
    assert np.allclose(
        m.weighted_phi(score, small, large, np.ones((2, len(score))), rates=[0, 0.37, 1]),
        np.tile(c(np.array([0, 0.37, 1])), (2, 1)),
    )
    P = np.c_[1 - score, score]
    assert np.array_equal(m.pair_score(P, 0, 1), score - 1) and np.array_equal(
        m.pair_score(P, 0, 1, by="gain"), 2 * score - 1
    )


def test_a_range_without_width_is_the_quality_there_in_each_row_of_a_batch():
    batch = m.Curve([1.0, 2, 3], [[0.1, 0.2, 0.3], [0.4, 0.6, 0.8]])
    assert np.allclose(
        m.audc(batch, low=np.array([1.0, 2]), high=np.array([3.0, 2])), [0.2, 0.6]
    ) and np.allclose(m.audc(batch, low=1, high=1), [0.1, 0.4])


def test_a_free_reference_model_has_no_relative_cost():
    c = m.deferral_curve([0, 1], [0.5, 0.6])
    assert (
        np.isnan(m.qnc(c, 0.5, relative=True, reference_cost=0))
        and "free" in m.qnc(c, 0.5, relative=True, reference_cost=0).reason
    )
