"""Speed of pool curves, their bootstrap and the nearest-neighbour router, each beside a plain statement of the same thing in the same run.

The bounds are checked in processor seconds of all threads together: they don't depend on what else the machine is doing; wall time is reported.
"""
import os

import numpy as np
import pytest

from timing import least, report

from routercompanion import metrics as m
from routercompanion.routers.clustering.neighbours import KNNRouter
from routercompanion.metrics.bootstrap import paired_bootstrap, resample_counts


def pool(n=3000, models=112, seed=0):
    rng = np.random.default_rng(seed)
    outcomes = (rng.random((n, models)) < rng.random(models)).astype(float)
    return [outcomes + s * rng.normal(size=outcomes.shape) for s in (1, 1.5)], outcomes, 70 * rng.random(models)


def test_deferral_curve_of_112_models_3_000_queries_100_budgets(benchmark):
    (predicted, _), outcomes, costs = pool()
    budgets = m.budget_grid(costs, 100)

    def plain():
        curve = []
        for b in budgets:
            within = np.flatnonzero(costs <= b)
            curve.append(outcomes[np.arange(len(outcomes)), within[predicted[:, within].argmax(1)]].mean())
        return curve
    ours = lambda: m.budget_sweep(predicted, outcomes, costs, budgets).curve()
    benchmark(ours)
    (fast, wall), (slow, _) = least(ours, 30), least(plain, 2)
    assert np.allclose(ours().quality, plain())
    report(benchmark, cpu_milliseconds=1e3 * fast, wall_milliseconds=1e3 * wall, bound_milliseconds=10., times_faster_than_numpy_per_budget=slow / fast)
    assert slow / fast > 3 and fast < .010


def test_10_000_paired_resamples_of_audc(benchmark):
    (first, second), outcomes, costs = pool()
    budgets = m.budget_grid(costs, 100)
    a, b = (m.budget_sweep(p, outcomes, costs, budgets).quality for p in (first, second))
    statistic = lambda quality, weights: m.weighted_audc(quality, budgets, weights)

    def plain(resamples):
        values = []
        for w in np.concatenate(list(resample_counts(3000, resamples))):
            rows = np.repeat(np.arange(3000), w)
            values.append(np.subtract(*(np.trapezoid(q[rows].mean(0), budgets) / (budgets[-1] - budgets[0]) for q in (a, b))))
        return values
    result = benchmark.pedantic(paired_bootstrap, (statistic, a, b), {"n_resamples": 10_000}, rounds=2)
    (fast, wall), slow = least(lambda: paired_bootstrap(statistic, a, b, n_resamples=10_000), 3), least(lambda: plain(30), 2)[0] / 30
    w = next(resample_counts(3000, 30))
    assert np.allclose(statistic(a, w) - statistic(b, w), plain(30))
    report(benchmark, cpu_seconds=fast, wall_seconds=wall, bound_seconds=1.5, times_faster_than_numpy_loop=slow / (fast / 10_000))
    assert result.n_resamples == 10_000 and slow / (fast / 10_000) > 10 and fast < 1.5


def test_knn_fitted_on_24_000_routing_6_000_queries(benchmark, monkeypatch):
    monkeypatch.setenv("ROUTERCOMPANION_THREADS", os.environ.get("ROUTERCOMPANION_THREADS", "2"))
    rng = np.random.default_rng(0)
    X, Z = (rng.normal(size=(n, 384)).astype(np.float32) for n in (24_000, 6_000))
    S, costs = (rng.random((24_000, 112)) < .5).astype(np.float32), np.linspace(.1, 1, 112)

    def ours():
        router = KNNRouter(k=50).fit(X, S)
        router.model_costs_ = costs
        return router.route(Z, .1)

    def plain():
        train, choice = X / np.linalg.norm(X, axis=1, keepdims=True), []
        for z in Z[:300]:
            near = np.argpartition(-(train @ (z / np.linalg.norm(z))), 50)[:50]
            choice.append((S[near].mean(0) - .1 * costs).argmax())
        return choice
    result = benchmark.pedantic(ours, rounds=1)
    (fast, wall), slow = least(ours, 2), least(plain, 1)[0] * len(Z) / 300
    assert (result[:300] == plain()).mean() > .99
    report(benchmark, cpu_seconds=fast, wall_seconds=wall, bound_seconds=3., times_faster_than_numpy_per_query=slow / fast)
    assert slow / fast > 2 and fast < 3


if __name__ == "__main__": pytest.main([__file__, "--benchmark-only", "-s"])
