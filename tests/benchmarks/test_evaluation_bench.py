"""Speed of one evaluation: all measures of a pool, 10,000 resamples, beside a loop in one run."""

from functools import partial

import numpy as np
import pytest

from timing import least, report

from routercompanion import metrics as m
from routercompanion.evaluate.results import evaluate
from routercompanion.metrics.bootstrap import resample_counts


def pool(models, n=3000, seed=0):
    rng = np.random.default_rng(seed)
    outcomes = (rng.random((n, models)) < rng.random(models)).astype(float)
    return outcomes + rng.normal(size=outcomes.shape), outcomes, 70 * rng.random(models)


@pytest.mark.parametrize("models", [6, 112])
def test_10_000_resamples_of_every_measure_of_a_pool(benchmark, models):
    predicted, outcomes, costs = pool(models)
    rows = {
        "router": m.budget_sweep(predicted, outcomes, costs),
        "price": m.lambda_sweep(predicted, outcomes, costs),
    }
    measures = list(m.POOL_MEASURES)
    measure = partial(m.pool_values, measures=measures, outcomes=outcomes, costs=costs)

    def ours():
        return evaluate(rows, measure, measures, len(outcomes), n_resamples=10_000)

    def plain(resamples=20):
        values = []
        for w in np.concatenate(list(resample_counts(len(outcomes), resamples))):
            values.append([measure(sweep, w[None])[0][0] for sweep in rows.values()])
        return np.array(values)

    found = benchmark.pedantic(ours, rounds=1)
    (fast, wall), slow = least(ours, 1), least(plain, 1)[0] / 20
    first = np.stack([found.resampled("router", name)[:20] for name in measures], 1)
    assert np.allclose(first, plain()[:, 0], equal_nan=True)
    report(
        benchmark,
        cpu_seconds=fast,
        wall_seconds=wall,
        times_faster_than_one_at_a_time=slow / (fast / 10_000),
    )


if __name__ == "__main__":
    pytest.main([__file__, "--benchmark-only", "-s"])
