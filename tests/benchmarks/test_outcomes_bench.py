"""Loading 36,000 x 112 long rows (EmbedLLM's size), reading a wide CSV and summarising a large pool in blocks, each beside the plain way in the same run.

Time and peak memory are those of fresh processes, so that neither run profits from the other's warm caches or freed memory.
"""
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from timing import least, report

from routercompanion.data.blocks import summarise_blocks, write_outcomes
from routercompanion.data.outcomes import OutcomeTable
from routercompanion.data.own_csv import load_csv
from routercompanion.data.sets.embedllm import load_embedllm

QUERIES, MODELS = 36_000, 112
MEASURE = r"""
import json, re, sys, time
import numpy as np, pandas as pd
from routercompanion.data.blocks import summarise_blocks
from routercompanion.data.outcomes import OutcomeTable
from routercompanion.data.sets.embedllm import load_embedllm
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024   # of this process alone, unlike getrusage
path, before, start = sys.argv[1], peak(), time.perf_counter()
{work}
print(json.dumps(dict(seconds=time.perf_counter() - start, megabytes=peak() - before, check=float(check))))
"""
OURS = "check = np.nansum(load_embedllm(path).score, dtype=float)"
PIVOT = "frame = pd.read_csv(path)\ncheck = np.nansum(frame.pivot(index='prompt_id', columns='model_name', values='label').to_numpy(np.float32), dtype=float)"
BLOCKS = "check = summarise_blocks(path, block=100).models.accuracy.sum()"
WHOLE = "t = OutcomeTable.from_parquet(path)\ncheck = t.correct(missing=False).mean(0).sum()"


def measure(work, path):
    done = subprocess.run([sys.executable, "-c", MEASURE.replace("{work}", work), str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def long_csv(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("long") / "train.csv", np.random.default_rng(0)
    right, names = rng.integers(0, 2, (QUERIES, MODELS)), [f"family-{m % 9}/model-{m}-{1 + m % 70}b" for m in range(MODELS)]
    with open(path, "w") as f:
        f.write("prompt_id,model_id,model_name,category_id,category,label,prompt\n")
        for q, row in enumerate(right.tolist()):
            tail = f"Question {q}: which of these is not like the others?\n"
            f.write("".join([f"{q},{m},{names[m]},{q % 80},task {q % 80},{y},{tail}" for m, y in enumerate(row)]))
    return path


def test_36_000_by_112_long_rows(benchmark, long_csv):
    table = benchmark.pedantic(load_embedllm, (long_csv,), rounds=1)
    assert table.score.shape == (QUERIES, MODELS) and not np.isnan(table.score).any()
    ours, plain = measure(OURS, long_csv), measure(PIVOT, long_csv)
    assert ours["check"] == plain["check"]
    report(benchmark, seconds=ours["seconds"], bound_seconds=15., pandas_pivot_seconds=plain["seconds"], megabytes=ours["megabytes"],
           pandas_pivot_megabytes=plain["megabytes"], times_less_memory=plain["megabytes"] / ours["megabytes"], times_faster=plain["seconds"] / ours["seconds"])
    assert plain["megabytes"] / ours["megabytes"] > 2 and ours["seconds"] < 3 * plain["seconds"], "ours also hashes the file and each query, and checks"


@pytest.mark.parametrize("kind", ["right_or_wrong", "decimals", "gaps_and_quotes"])
def test_a_csv_of_10_000_by_100(benchmark, tmp_path, kind):
    n, m, rng = 10_000, 100, np.random.default_rng(0)
    value = rng.integers(0, 2, (n, m)) if kind == "right_or_wrong" else rng.random((n, m)).round(4)
    frame = pd.DataFrame(value, columns=[f"score:model-{j}" for j in range(m)])
    if kind == "gaps_and_quotes":
        frame = frame.mask(rng.random((n, m)) < .05)
    mark = ', "this" or that' if kind == "gaps_and_quotes" else ""
    frame.insert(0, "prompt", [f"Question {q}: which is not like the others{mark}?" for q in range(n)])
    frame.insert(1, "task", [f"task {q % 80}" for q in range(n)])
    path = tmp_path / "wide.csv"
    frame.to_csv(path, index=False)
    table = benchmark.pedantic(load_csv, (path,), rounds=1)
    assert np.array_equal(table.score, frame.iloc[:, 2:].to_numpy(np.float32), equal_nan=True)
    ours, plain = least(lambda: load_csv(path), 7), least(lambda: pd.read_csv(path), 7)
    report(benchmark, processor_seconds=ours[0], pandas_processor_seconds=plain[0], times_pandas=ours[0] / plain[0],
           wall_times_pandas=ours[1] / plain[1], bound=4.)
    assert ours[0] < 4 * plain[0], "ours also hashes the file and each query, and checks"


def test_a_large_pool_is_summarised_in_blocks(benchmark, tmp_path):
    n, m, rows = 6000, 2500, 1000
    names, rng = [f"model-{j}" for j in range(m)], np.random.default_rng(0)
    pool = (OutcomeTable(rng.random((rows, m)) < .5, {}, [f"q{k}-{i}" for i in range(rows)], names, task=[f"t{i % 12}" for i in range(rows)]) for k in range(n // rows))
    path = write_outcomes(tmp_path / "pool.parquet", pool)
    summary = benchmark.pedantic(summarise_blocks, (path,), {"block": 100}, rounds=1)
    blocks, whole = measure(BLOCKS, path), measure(WHOLE, path)
    assert summary.queries == n and np.isclose(blocks["check"], whole["check"])
    report(benchmark, seconds=blocks["seconds"], megabytes=blocks["megabytes"], whole_matrix_megabytes=whole["megabytes"], scores_megabytes=n * m * 4 / 2**20,
           times_less_memory=whole["megabytes"] / blocks["megabytes"])
    assert whole["megabytes"] / blocks["megabytes"] > 2


if __name__ == "__main__": pytest.main([__file__, "--benchmark-only", "-s"])
