"""Speed of contrastive routing: the lookup for one query and for a batch, the encoder's share of a whole call, and training.

The bounds are checked in processor seconds, on one thread: they don't depend on what else the machine is doing; wall time is reported.
"""
import time
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from timing import report

from routercompanion.features.fingerprints import named_fingerprints
from routercompanion.routers.contrastive import CSCRRouter
from routercompanion.routers.training import apply_head
from routercompanion.parallel import deterministic


def unit(rng, n, d):
    v = rng.normal(size=(n, d)).astype(np.float32)
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def router(models, width=256, seed=0, k=4):
    "A router with random experts and a random head, as if it had been fitted."
    rng, r = np.random.default_rng(seed), CSCRRouter(k=k)
    r.experts_, r.model_costs_, r.model_names_, r.feature_shape_ = unit(rng, models, width), rng.random(models), [f"m{j}" for j in range(models)], [384]
    r.state_ = {"p0": rng.normal(size=(512, 384)).astype(np.float32) / 20, "p1": np.zeros(512, np.float32), "p2": rng.normal(size=(width, 512)).astype(np.float32) / 20, "p3": np.zeros(width, np.float32)}
    return r


def per_call(function, calls, rounds):
    "Median over `rounds` of (processor, wall) microseconds of one call, each round timing `calls` of them."
    found = []
    for _ in range(rounds):
        start = time.process_time(), time.perf_counter()
        for _ in range(calls): function()
        found.append((1e6 * (time.process_time() - start[0]) / calls, 1e6 * (time.perf_counter() - start[1]) / calls))
    return np.median(found, axis=0)


def plain(queries, r, lam):
    "Equation 9 in NumPy: all cosines, a partial sort, the price."
    cos = queries @ r.experts_.T
    top = np.argpartition(-cos, r.k - 1, axis=1)[:, :r.k]
    value = np.take_along_axis(cos, top, 1) - lam * r.model_costs_[top]
    return top[np.arange(len(top)), value.argmax(1)]


@pytest.mark.parametrize("models, one, many", [(112, 20., 1.5), (8500, 200., 60.)])
def test_lookup_among_experts(benchmark, models, one, many):
    r, queries = router(models), unit(np.random.default_rng(1), 10_000, 256)
    with threadpool_limits(1):
        first = queries[:1].copy()
        assert (r.choose(queries[:500], .1) == plain(queries[:500], r, .1)).mean() > .995
        benchmark(r.choose, first, .1)
        single, wall_single = per_call(lambda: r.choose(first, .1), 50, 41)
        batch, wall_batch = per_call(lambda: r.choose(queries, .1), 1, 5) / len(queries)
        slow = per_call(lambda: plain(queries[:1000], r, .1), 1, 3)[0] / 1000
    report(benchmark, cpu_microseconds_one=single, bound_one=one, cpu_microseconds_in_a_batch=batch, bound_batch=many, wall_microseconds_one=wall_single,
           wall_microseconds_in_a_batch=wall_batch, numpy_microseconds_in_a_batch=slow)
    assert single <= one and batch <= many


@pytest.mark.model
@pytest.mark.parametrize("models", [112, 8500])
def test_the_encoder_is_nearly_all_of_a_call(benchmark, models):
    from routercompanion.models.features import load_encoder
    encoder, r, text = load_encoder("minilm-l6-v2"), router(models), ["What is the capital of the country in which the river Rhine begins, and how far is it from there to the sea?"]
    deterministic(42, 1)
    with threadpool_limits(1):
        X = encoder.encode(text)
        r.choose(r.project(X), .1)
        encode, wall = per_call(lambda: encoder.encode(text), 5, 9)
        routing, wall_routing = per_call(lambda: r.choose(r.project(X), .1), 50, 9)
        benchmark.pedantic(lambda: r.choose(r.project(encoder.encode(text)), .1), rounds=5)
    share = encode / (encode + routing)
    report(benchmark, encoder_share=share, bound=.95, cpu_milliseconds_encoder=encode / 1e3, cpu_milliseconds_routing=routing / 1e3, wall_milliseconds=(wall + wall_routing) / 1e3)
    assert share >= .95


def test_training_on_20_000_queries_and_112_experts(benchmark):
    rng = np.random.default_rng(0)
    X, S = unit(rng, 20_000, 384), (rng.random((20_000, 112)) < .5).astype(np.float32)
    table = SimpleNamespace(score=S, cost={"params_b": np.tile(np.linspace(.1, 70, 112), (20_000, 1))}, models=[f"m{j}" for j in range(112)], query_ids=None)
    vectors = named_fingerprints(table.models, unit(rng, 112, 256))
    start = time.process_time(), time.perf_counter()
    r = benchmark.pedantic(lambda: CSCRRouter(fingerprints=vectors).fit(X, table), rounds=1)
    cpu, wall = time.process_time() - start[0], time.perf_counter() - start[1]
    report(benchmark, cpu_seconds=cpu, wall_seconds=wall, bound_seconds=60.)
    assert len(r.history_) == 10 and np.isfinite(apply_head(r.state_, X[:10])).all() and cpu <= 60


if __name__ == "__main__": pytest.main([__file__, "--benchmark-only", "-s"])
