"""Speed and memory of the curation diagnostics, each beside a plain statement in the same run. Bounds that depend on the machine are printed and recorded."""
import subprocess
import sys
import time

import numpy as np
import pytest

from timing import best_of, least, report

from routercompanion import curation as c

N, D, MODELS = 36_000, 384, 112


def queries(n, seed=0):
    "Embeddings (n, D) in 300 clouds, as sentences of one subject are, with 1 row in 27 a near copy of an earlier one."
    rng = np.random.default_rng(seed)
    e = (rng.normal(size=(n, D)) + 1.5 * rng.normal(size=(300, D))[rng.integers(0, 300, n)]).astype(np.float32)
    copy = rng.choice(n // 2, n // 27, replace=False)
    e[n - len(copy):] = e[copy] + .005 * rng.normal(size=(len(copy), D))
    return e


def plain_duplicates(e, threshold):
    "All cosines of each row with the later rows, one row at a time; union by relabelling."
    unit = e / np.linalg.norm(e, axis=1, keepdims=True)
    label = np.arange(len(e))
    for i in range(len(e)):
        for j in i + 1 + np.flatnonzero(unit[i + 1:] @ unit[i] >= threshold): label[label == label[j]] = label[i]
    return {frozenset(np.flatnonzero(label == k).tolist()) for k in np.unique(label) if (label == k).sum() > 1}


def test_near_duplicates_of_36_000_queries(benchmark):
    "Bound of the project: 10 s and 1 GB on 2 cores. Time is compared with plain NumPy on a ninth of the rows (81 times fewer pairs)."
    e = queries(N)
    few = queries(N // 9)
    found = benchmark.pedantic(c.near_duplicates, (e, .999), rounds=2)
    assert len(found) == N // 27 and found.n_queries == 2 * (N // 27)
    assert {frozenset(g.tolist()) for g in c.near_duplicates(few, .999)} == plain_duplicates(few, .999)
    ours, plain = best_of(lambda: c.near_duplicates(few, .999), 3), best_of(lambda: plain_duplicates(few, .999), 1)
    cpu = least(lambda: c.near_duplicates(e, .999))[0]
    report(benchmark, seconds=benchmark.stats.stats.min, cpu_seconds=cpu, bound_seconds=10., times_faster_than_plain_on_4_000=plain / ours)
    assert plain / ours > 2 and cpu < 2 * 10, "10 s of two cores"


MEMORY = """
import resource, sys
import numpy as np
from routercompanion.curation import near_duplicates
e = np.random.default_rng(0).normal(size=({n}, {d})).astype(np.float32)
e[1::27] = e[::27][:len(e[1::27])]
groups = near_duplicates(e, .999)
print(len(groups), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_near_duplicates_stay_under_a_gigabyte(benchmark):
    "Largest resident size of a process of its own, libraries included; the full matrix of cosines alone would be 4,944 MiB."
    def run(): return subprocess.run([sys.executable, "-c", MEMORY.format(n=N, d=D)], capture_output=True, text=True, check=True, timeout=300).stdout
    groups, mib = map(float, benchmark.pedantic(run, rounds=1).split())
    report(benchmark, mebibytes=mib, bound_mebibytes=1e9 / 2**20)
    assert groups == len(range(1, N, 27)) and mib < 1e9 / 2**20


def plain_jaccard(right):
    m = right.shape[1]
    out = np.ones((m, m))
    for i in range(m):
        for j in range(i):
            out[i, j] = out[j, i] = (right[:, i] & right[:, j]).sum() / (right[:, i] | right[:, j]).sum()
    return out


@pytest.mark.parametrize("kind", [bool, float])
def test_jaccard_of_112_models_on_36_000_queries(benchmark, kind):
    "Bound of the project: 50 ms."
    rng = np.random.default_rng(0)
    right = rng.random((N, MODELS)) < rng.uniform(.2, .8, MODELS)
    given = right.astype(kind)
    got = benchmark(c.jaccard_similarity, given)
    assert np.allclose(got[:20, :20], plain_jaccard(right[:, :20]))
    columns = np.asfortranarray(right)
    ours, plain = best_of(lambda: c.jaccard_similarity(given), 20), best_of(lambda: plain_jaccard(columns), 1)
    cpu = least(lambda: c.jaccard_similarity(given), 20)[0]
    report(benchmark, milliseconds=1e3 * ours, cpu_milliseconds=1e3 * cpu, bound_milliseconds=50., times_faster_than_pairs=plain / ours)
    assert plain / ours > 2 and cpu < 2 * .050, "50 ms of two cores"


def test_pruning_112_models_to_82(benchmark):
    "The paper's own reduction, beside a loop that computes every mean anew from the similarity matrix."
    rng = np.random.default_rng(1)
    right = rng.random((N, MODELS)) < rng.uniform(.2, .8, MODELS)

    def loop():
        S, left = plain_jaccard(np.asfortranarray(right)), list(range(MODELS))
        while len(left) > 82:
            scores = [.5 * right[:, i].mean() - .5 * np.mean([S[i, j] for j in left if j != i]) for i in left]
            left.pop(int(np.argmin(scores)))
        return left
    kept = benchmark.pedantic(c.prune_models, (right, 82, .5), rounds=3)
    start = time.perf_counter()
    assert kept.tolist() == loop()
    plain = time.perf_counter() - start
    report(benchmark, seconds=benchmark.stats.stats.min, times_faster_than_loop=plain / benchmark.stats.stats.min)
    assert plain / benchmark.stats.stats.min > 2


if __name__ == "__main__": pytest.main([__file__, "--benchmark-only", "-s"])
