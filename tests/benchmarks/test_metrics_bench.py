"""Speed of the exact curve, of weighted resampling and of the price sweep, each beside a plain loop in the same run. The two bounds are printed and recorded."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from timing import best_of, least, report

from routercompanion import metrics as m
from routercompanion.metrics.bootstrap import paired_bootstrap, resample_counts


def data(n, seed=0):
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=n)
    small, large = (hard + .5 * rng.normal(size=n) < 0).astype(float), (hard + rng.normal(size=n) < 1).astype(float)
    return hard + rng.normal(size=n), hard + 1.5 * rng.normal(size=n), small, large


def test_exact_curve_over_14_000_queries(benchmark):
    score, _, small, large = data(14_000)

    def loop():
        order, total, path = sorted(range(len(score)), key=lambda i: -score[i]), small.sum(), []
        for i in order:
            total += large[i] - small[i]
            path.append(total / len(score))
        return path
    benchmark(m.cost_performance_curve, score, small, large)
    ours, plain = best_of(lambda: m.cost_performance_curve(score, small, large), 20), best_of(loop, 3)
    assert np.allclose(m.cost_performance_curve(score, small, large).performance[1:], loop())
    report(benchmark, milliseconds=1e3 * ours, bound_milliseconds=2., times_faster_than_loop=plain / ours)
    assert plain / ours > 2


def test_10_000_paired_resamples_of_three_metrics_over_3_000_queries(benchmark):
    a, b, small, large = data(3000)

    def loop(resamples):
        for w in np.concatenate(list(resample_counts(3000, resamples))):
            i = np.repeat(np.arange(3000), w)
            for score in (a, b):
                c = m.cost_performance_curve(score[i], small[i], large[i])
                roc_auc_score(1 - small[i], score[i]), m.lpm(c), m.hcr(c)
    result = benchmark.pedantic(paired_bootstrap, (m.weighted_summary, a, b, small, large), {"n_resamples": 10_000}, rounds=2)
    ours = best_of(lambda: paired_bootstrap(m.weighted_summary, a, b, small, large, n_resamples=1000), 3) / 1000
    plain = best_of(lambda: loop(50), 2) / 50
    report(benchmark, seconds=benchmark.stats.stats.min, bound_seconds=6., times_faster_than_loop=plain / ours)
    assert result.n_resamples == 10_000 and plain / ours > 2


@pytest.mark.parametrize("kind", ["unrelated", "dearer_is_better", "costs_per_query"])
def test_price_sweep_of_20_000_by_100(benchmark, kind):
    rng, n, k = np.random.default_rng(0), 20_000, 100
    outcomes, costs = (rng.random((n, k)) < .5).astype(float), rng.lognormal(size=k)
    predicted = rng.random((n, k))
    if kind == "dearer_is_better":
        predicted = .5 * np.sqrt(np.log1p(costs) / np.log1p(costs).max()) + .1 * rng.normal(size=(n, k))
    if kind == "costs_per_query":
        costs = costs * rng.lognormal(size=(n, k))

    def plain():
        C = np.broadcast_to(costs, (n, k))
        top, order = C.mean(0).max(), np.argsort(C, axis=1, kind="stable")
        P, C = np.take_along_axis(predicted, order, 1), np.take_along_axis(C, order, 1) / top
        cheapest = np.where(C == C[:, :1], P, -np.inf)
        place = np.stack([(P - x * C if np.isfinite(x) else cheapest).argmax(1) for x in m.TRADE_OFFS])
        choice = order[np.arange(n), place]
        return choice.T, outcomes[np.arange(n), choice].T

    ours = lambda: m.lambda_sweep(predicted, outcomes, costs)
    sweep, (choice, quality) = benchmark.pedantic(ours, rounds=1), plain()
    assert np.array_equal(sweep.choice, choice) and np.array_equal(sweep.quality, quality)
    fast, slow = least(ours, 3), least(plain, 2)
    report(benchmark, processor_seconds=fast[0], plain_processor_seconds=slow[0], times_faster=slow[0] / fast[0])
    assert slow[0] / fast[0] > (1.2 if kind == "costs_per_query" else 2)


if __name__ == "__main__": pytest.main([__file__, "--benchmark-only", "-s"])
