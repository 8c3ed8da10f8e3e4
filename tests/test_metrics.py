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
    return np.array(draw(column(range(8))), float), np.array(draw(column(levels)), float), np.array(draw(column(levels)), float)


def values(score, small, large):
    c = m.cost_performance_curve(score, small, large)
    a = m.weighted_auroc(score, small, np.ones(len(score))) if set(small) <= {0, 1} else np.nan
    return np.array([a, m.lpm(c), m.mpm(c), m.hcr(c), m.cpt(c), m.apgr(c), m.lpm(c, .3, d0=.25)])


# ---- an independent statement: expectation over all orders, then integrals in rational arithmetic, one segment at a time


def expected_points(score, small, large):
    "Phi at k / n, k = 0..n, averaged over every order that sorts the scores from high to low."
    n, sums, count = len(score), None, 0
    for order in permutations(range(n)):
        if any(score[a] < score[b] for a, b in zip(order, order[1:])): continue
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
            if low <= y0 <= high: yield x0, x0 + F(1, n)
            continue
        a, b = sorted((x0 + (low - y0) / slope, x0 + (high - y0) / slope))
        a, b = max(a, x0), min(b, x0 + F(1, n))
        if a < b: yield a, b


def area(points, a, b):
    n, total = len(points) - 1, F(0)
    at = lambda x, k: points[k] + (points[k + 1] - points[k]) * (x * n - k)
    for k in range(n):
        lo, hi = max(a, F(k, n)), min(b, F(k + 1, n))
        if lo < hi: total += (hi - lo) * (at(lo, k) + at(hi, k)) / 2
    return total


def first(points, level):
    n = len(points) - 1
    for k, y in enumerate(points):
        if y >= level: return F(0) if k == 0 else F(k - 1, n) + (level - points[k - 1]) / (y - points[k - 1]) / n
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
        if d2 > F(3, 10): out["mpm"] = area(p, F(3, 10), d2) / (d2 - F(3, 10))
    pos, neg = [i for i in range(len(score)) if small[i] == 0], [i for i in range(len(score)) if small[i] == 1]
    if pos and neg: out["auroc"] = F(sum(2 * (score[i] > score[j]) + (score[i] == score[j]) for i in pos for j in neg).item(), 2 * len(pos) * len(neg))
    return p, out


@settings(max_examples=120, deadline=None, derandomize=True)
@given(pairs(most=6, least=1), st.booleans())
def test_brute_force_over_all_orders(data, judged):
    score, small, large = data
    if judged: small, large = small * .75, np.maximum(large, .25)
    points, expect = brute(score, small, large)
    curve = m.cost_performance_curve(score, small, large)
    n = len(score)
    assert np.allclose(curve(np.arange(n + 1) / n), [float(y) for y in points], atol=1e-12)
    got = {"lpm": m.lpm(curve), "band": m.lpm(curve, .3, d0=.25), "mpm": m.mpm(curve), "hcr": m.hcr(curve), "cpt": m.cpt(curve), "apgr": m.apgr(curve)}
    for name, value in got.items():
        if name in expect: assert value == pytest.approx(float(expect[name]), abs=1e-9), name
        else: assert isinstance(value, m.Undefined) and value.reason, name
    if not judged:
        if "auroc" in expect: assert m.auroc(score, small) == pytest.approx(float(expect["auroc"]), abs=1e-12)
        else: pytest.raises(m.OneClassError, m.auroc, score, small)


# ---- properties


@quick
@given(pairs(levels=(0, .25, .5, 1)), st.randoms(use_true_random=False))
def test_any_order_of_the_queries_gives_the_same_numbers(data, random):
    order = list(range(len(data[0])))
    random.shuffle(order)
    assert np.allclose(values(*data), values(*(a[order] for a in data)), atol=1e-9, equal_nan=True)


@quick
@given(pairs(), st.sampled_from([lambda s: 3 * s - 40, np.exp, lambda s: -1 / (1 + s), lambda s: np.where(s > 6, np.inf, s)]))
def test_monotone_transforms_change_nothing(data, f):
    assert np.array_equal(values(*data), values(f(data[0]), *data[1:]), equal_nan=True)


@quick
@given(pairs(), st.floats(-5, 5))
def test_constant_score_is_the_random_row(data, c):
    _, small, large = data
    curve, line = m.cost_performance_curve(np.full(len(small), c), small, large), m.random_curve(small, large)
    assert np.array_equal(curve.call_rate, [0, 1]) and np.array_equal(curve.performance, line.performance)
    assert np.allclose(curve.performance, [small.mean(), large.mean()], atol=1e-15)
    if large.mean() > small.mean():
        assert m.hcr(curve) == pytest.approx(.1) and m.cpt(curve, .3) == pytest.approx(.3) and m.apgr(curve) == pytest.approx(.5)
    if 0 < small.mean() < 1: assert m.auroc(np.full(len(small), c), small) == .5


@quick
@given(pairs(), pairs(levels=(0, .3, .8, 1)))
def test_oracles_bound_what_they_bound(binary, judged):
    for kind, (score, small, large) in (("binary", binary), ("judged", judged)):
        curve, best = m.cost_performance_curve(score, small, large), m.cost_performance_curve(m.gain_oracle(small, large), small, large)
        x = np.union1d(curve.call_rate, best.call_rate)
        assert (best(x) >= curve(x) - 1e-12).all()
        assert m.lpm(best) >= m.lpm(curve) - 1e-12
        if large.mean() > small.mean() + 1e-9:
            assert m.apgr(best) >= m.apgr(curve) - 1e-9 and m.cpt(best) <= m.cpt(curve) + 1e-9
            if kind == "binary": assert m.hcr(best) >= m.hcr(curve) - 1e-9
    score, small, _ = binary
    if 0 < small.mean() < 1: assert m.auroc(m.label_oracle(small), small) == 1 >= m.auroc(score, small)


def test_gain_oracle_bounds_hcr_on_binary_scores():
    rng, seen = np.random.default_rng(0), 0
    for _ in range(300):
        n = rng.integers(3, 40)
        small, large, score = (rng.random((3, n)) < np.array([[.4], [.6], [.5]])).astype(float)
        score += rng.integers(0, 4, n)
        if large.mean() <= small.mean(): continue
        best, curve = (m.hcr(m.cost_performance_curve(s, small, large)) for s in (m.gain_oracle(small, large), score))
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
    w = np.array(draw.draw(st.lists(st.lists(st.integers(0, 3), min_size=len(score), max_size=len(score)), min_size=1, max_size=4)))
    assume((w.sum(1) > 0).all())
    for dtype in (np.uint8, np.int64, np.float32):
        batch = m.weighted_summary(score, small, large, w.astype(dtype), metrics=ALL)
        for counts, row in zip(w, batch):
            again = [np.repeat(a, counts) for a in data]
            assert np.allclose(row, values(*again)[:6], atol=1e-9, equal_nan=True)
    for name in ("mpm", "hcr", "cpt", "apgr"):
        assert np.array_equal(getattr(m, f"weighted_{name}")(score, small, large, w), m.weighted_summary(score, small, large, w, metrics=(name,))[:, 0], equal_nan=True)
    batch = m.cost_performance_curve(score, small, large, weights=w)
    x = np.linspace(0, 1, 7)
    assert np.allclose(batch(x), [m.cost_performance_curve(*(np.repeat(a, c) for a in data))(x) for c in w], atol=1e-12)


@quick
@given(pairs(most=40), st.data())
def test_within_task_auroc_is_the_pair_weighted_mean(data, draw):
    score, small, _ = data
    task = np.array(draw.draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=len(score), max_size=len(score))))
    w = np.array(draw.draw(st.lists(st.integers(0, 2), min_size=len(score), max_size=len(score))))

    def loop(score, small, task):
        won = total = 0.
        for t in set(task):
            s, y = score[task == t], 1 - small[task == t]
            k = y.sum() * (1 - y).sum()
            if k: won, total = won + k * roc_auc_score(y, s), total + k
        return won / total if total else np.nan
    expect = loop(score, small, task)
    if np.isnan(expect): pytest.raises(m.OneClassError, m.within_task_auroc, score, small, task)
    else: assert m.within_task_auroc(score, small, task) == pytest.approx(expect, abs=1e-12)
    got = m.within_task_auroc(score, small, task, weights=np.stack([w, np.ones_like(w)]))
    assert np.allclose(got, [loop(*(np.repeat(a, w) for a in (score, small, task))), expect], atol=1e-12, equal_nan=True)
    times = np.array([{"a": 2, "b": 0, "c": 3}[t] for t in task])  # task a drawn twice, c three times: separate copies
    copy = np.concatenate([np.arange(k) for k in times]) if times.sum() else np.array([])
    again = [np.repeat(a, times) for a in (score, small, task)]
    renamed = np.array([f"{t}{c}" for t, c in zip(again[2], copy)])
    assert m.within_task_auroc(score, small, task, weights=times, copies="tasks") == pytest.approx(loop(*again[:2], renamed), abs=1e-12, nan_ok=True)


# ---- as published, by loops written from the audit


def published(score, small, large):
    n, order = len(score), np.argsort(-score)
    rate, phi = [i * .01 for i in range(101)], []
    for i in range(101):
        k = int(np.linspace(0, 1, 101)[i] * n)
        phi.append((large[order[:k]].sum() + small[order[k:]].sum()) / n)
    S, L = small.mean(), large.mean()
    lo, hi = S + .85 * (L - S), S + .95 * (L - S)
    lpm = sum(phi[25:31]) / 6
    mid = [y for y in phi if phi[30] < y < lo]
    inside = [x for x, y in zip(rate, phi) if lo <= y <= hi]
    return lpm, sum(mid) / len(mid) if mid else 0., 1 - sum(inside) / len(inside) if inside else 0.


def test_as_published_grid():
    rng, differs = np.random.default_rng(1), 0
    for n in (7, 37, 53, 211):  # no call rate of the grid lies on a threshold by accident
        small, large = (rng.random((2, n)) * [[.6], [1]]).round(3)
        score = rng.normal(size=n)
        c = m.cost_performance_curve(score, small, large)
        got = [f(c, definition="as_published") for f in (m.lpm, m.mpm, m.hcr)]
        assert np.allclose(got, published(score, small, large), atol=1e-12)
        differs += not np.allclose(got, [m.lpm(c, .3, d0=.25), m.mpm(c), m.hcr(c)], atol=1e-3, equal_nan=True)
        decile = [c(np.floor(x * n) / n) for x in np.linspace(0, 1, 11)]
        assert m.apgr(c, definition="as_published") == pytest.approx((np.trapezoid(decile, dx=.1) - c.P_S) / (c.P_L - c.P_S))
        assert m.cpt(c, .5, definition="as_published") == pytest.approx(np.interp((c.P_S + c.P_L) / 2, decile, np.linspace(0, 1, 11)))
    assert differs >= 3
    assert m.auroc([.1, .2], [1, 1], definition="as_published") == .5


# ---- edges and errors


def test_no_gap_is_nan_with_a_reason_and_never_zero():
    for small, large in (([1, 0, 1], [0, 1, 1]), ([1, 1, 1], [0, 0, 1])):
        c = m.cost_performance_curve([.3, .2, .1], small, large)
        for f in (m.hcr, m.cpt, m.apgr, m.mpm):
            for definition in m.DEFINITIONS:
                assert np.isnan(f(c, definition=definition)) and "no better" in f(c, definition=definition).reason
        assert np.isfinite(m.lpm(c))
    batch = m.cost_performance_curve([.3, .2, .1], [0, 1, 0], [1, 1, 1], weights=[[1, 1, 1], [0, 3, 0]])
    assert np.isnan(m.hcr(batch)).tolist() == [False, True]


def test_hcr_of_a_curve_that_leaves_the_band_and_returns():
    c = m.CallRateCurve([0, .2, .4, .6, 1], [0, .9, .9, .5, 1])  # in: .85 to .9, level, down to .85, up to .95
    a, b, up = .85 / 4.5, .4 + .05 / 2, [.6 + .35 / 1.25, .6 + .45 / 1.25]
    expect = 1 - ((b**2 - a**2) / 2 + (up[1]**2 - up[0]**2) / 2) / (b - a + up[1] - up[0])
    assert m.hcr(c) == pytest.approx(expect, abs=1e-9)
    level = m.CallRateCurve([0, .5, .7, 1], [0, .85, .85, 1])  # a level stretch exactly on the edge belongs to the band
    assert m.hcr(level) == pytest.approx(1 - ((.49 - .25) / 2 + (.9**2 - .7**2) / 2) / .4, abs=1e-9)
    assert m.hcr(m.random_curve([0, 0], [1, 1]), 0, 1) == pytest.approx(.5)


@pytest.mark.parametrize("call, message", [
    (lambda: m.auroc([], []), "empty"),
    (lambda: m.auroc([.1, np.nan], [0, 1]), "score, row 1, is NaN"),
    (lambda: m.auroc([.1, .2], [0, .5]), "row 1, is 0.5"),
    (lambda: m.auroc([.1, .2], [0, 0]), "wrong"),
    (lambda: m.auroc([.1, .2, .3], [0, 1]), "small_score has 2 rows and score has 3"),
    (lambda: m.cost_performance_curve([.1, .2], [0, 1], [1, np.nan]), "large, row 1, is NaN"),
    (lambda: m.cost_performance_curve([.1, .2], [0, 85], [1, 1]), "small, row 1, is 85, outside"),
    (lambda: m.cost_performance_curve([[.1, .2]], [0, 1], [1, 1]), "one dimension"),
    (lambda: m.cost_performance_curve([.1, .2], [0, 1], [1, 1], weights=[1, -1]), "non-negative"),
    (lambda: m.cost_performance_curve([.1, .2], [0, 1], [1, 1], weights=[[1, 1], [0, 0]]), "row 1: all weights are 0"),
    (lambda: m.within_task_auroc([.1, .2], [0, 1], ["a", None]), "task, row 1, is missing"),
    (lambda: m.within_task_auroc([.1, .2], [0, 1], ["a"]), "align"),
    (lambda: m.lpm(m.random_curve([0], [1]), 1.5), "d0 < d1 <= 1"),
    (lambda: m.hcr(m.random_curve([0], [1]), .9, .9), "rho1 < rho2"),
    (lambda: m.hcr(m.CallRateCurve([0, 1], [0, 1]), definition="as_published"), "number of queries"),
    (lambda: m.CallRateCurve([0], [1]), "k >= 2"),
    (lambda: m.reliability_curve([.2, 1.2], [0, 1]), "probability, row 1"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(CompanionError, match=message): call()


def test_unknown_definition_lists_the_known_ones():
    for f in (m.lpm, m.mpm, m.hcr, m.cpt, m.apgr):
        with pytest.raises(UnknownNameError, match="as_published, paper"): f(m.random_curve([0], [1]), definition="papre")


def test_reliability_bins_and_error_by_loop():
    rng = np.random.default_rng(0)
    p, y = np.r_[0, 1, .1, rng.random(200) * .6], (rng.random(203) < .5).astype(float)
    c, ece = m.reliability_curve(p, y, 5), 0.
    for b in range(5):
        inside = [i for i in range(203) if min(int(p[i] * 5), 4) == b]
        assert c.count[b] == len(inside)
        if not inside: assert np.isnan(c.frequency[b]); continue
        assert c.frequency[b] == pytest.approx(y[inside].mean()) and c.probability[b] == pytest.approx(p[inside].mean())
        ece += len(inside) / 203 * abs(y[inside].mean() - p[inside].mean())
    assert c.count[3] == 0 and m.expected_calibration_error(p, y, 5) == pytest.approx(ece)
