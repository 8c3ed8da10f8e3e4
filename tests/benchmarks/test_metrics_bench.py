"""Speed of the exact curve and of weighted resampling, each beside a plain loop in the same run. The two bounds are printed and recorded."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from timing import best_of, report

from routercompanion import metrics as m
from routercompanion.significance import paired_bootstrap, resample_counts


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


if __name__ == "__main__": pytest.main([__file__, "--benchmark-only", "-s"])
