"""Indexing 100,000 encoded passages, retrieval for 1,000 questions, and an agent's run over 100 questions that is killed and goes on.

Time bounds are checked in processor seconds of all threads together; wall time is reported. Memory is the peak of a process that does nothing else.
"""
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from timing import report

PASSAGES, QUESTIONS, WIDTH = 100_000, 1_000, 384

MEMORY = f"""
import resource, sys
import numpy as np
from routercompanion.agents.retrieval import BM25Index, DenseIndex
from routercompanion.data.banks.multihop import Passage
import time
rng = np.random.default_rng(0)
words = np.array([f"w{{i}}" for i in range(50_000)])
drawn = np.exp(rng.random(({PASSAGES}, 40)) * np.log(50_000)).astype(int)                  # ranks by Zipf's law
passages = [Passage(f"title {{i}}", (" ".join(words[row]),)) for i, row in enumerate(drawn)]
vectors = rng.standard_normal(({PASSAGES}, {WIDTH}), dtype=np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
queries = [" ".join(words[row[:8]]) for row in drawn[:{QUESTIONS}]]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
clock = lambda: np.array([time.process_time(), time.perf_counter()])
start = clock(); sparse = BM25Index(passages); bm25 = clock() - start
start = clock(); dense = DenseIndex(passages, None, vectors=vectors); flat = clock() - start
start = clock(); first = sparse.top(queries, 5); find = clock() - start
start = clock(); second = dense.top_vectors(vectors[:{QUESTIONS}], 5); near = clock() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert (second[:, 0] == np.arange({QUESTIONS})).all() and (first == np.arange({QUESTIONS})[:, None]).any(1).mean() > .95
import json
print(json.dumps(dict(bm25=list(bm25), flat=list(flat), find=list(find), near=list(near), peak_gb=peak / 1e6, input_gb=before / 1e6)))
"""


def test_100_000_passages_are_indexed_and_1_000_questions_answered(benchmark):
    found = benchmark.pedantic(lambda: json.loads(subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout), rounds=1)
    report(benchmark, indexing_cpu_seconds=found["bm25"][0] + found["flat"][0], indexing_wall_seconds=found["bm25"][1] + found["flat"][1], bound_indexing_seconds=60.,
           bm25_search_cpu_seconds=found["find"][0], bm25_search_wall_seconds=found["find"][1], dense_search_cpu_seconds=found["near"][0], dense_search_wall_seconds=found["near"][1],
           bound_search_seconds=2., peak_gigabytes=found["peak_gb"], of_which_input=found["input_gb"], bound_gigabytes=2.)
    assert found["bm25"][0] + found["flat"][0] <= 60 and found["peak_gb"] <= 2
    assert found["find"][0] <= 2 and found["near"][0] <= 2


RUN = """
import sys, time
import numpy as np
from routercompanion.agents.agent import run_agent
from routercompanion.agents.retrieval import BM25Index
from routercompanion.agents.tools import Toolbox
from routercompanion.data.banks.multihop import fact_corpus, multihop_questions
from routercompanion.models.causal_lm import Generations
class Slow:
    name = "slow"
    def write(self, prompts, shots, max_new_tokens):
        with open(sys.argv[2], "a") as f: f.writelines(p[-300:].replace(chr(10), " ") + chr(10) for p in prompts)
        time.sleep(.02)
        return Generations([" Cuba" for p in prompts], *(np.ones(len(prompts)) for _ in range(3)))
box = Toolbox(BM25Index(fact_corpus()))
print("ready", flush=True)
traces = run_agent(multihop_questions()[:100], Slow(), toolbox=box, log=sys.argv[1], chunk=4)
print(len(traces), sum(t.stop == "answer" for t in traces), flush=True)
"""


def test_a_killed_run_of_100_questions_goes_on_without_repeating_one(benchmark, tmp_path):
    log, asked = tmp_path / "run.jsonl", tmp_path / "asked.txt"
    command = [sys.executable, "-c", RUN, str(log), str(asked)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "ready\n"
    while not log.is_file() or log.read_bytes().count(b"\n") < 30: time.sleep(.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    finished = [json.loads(line)["key"] for line in log.read_text().split("\n")[1:-1]]
    before = len(asked.read_text().splitlines())
    done = benchmark.pedantic(lambda: subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[1], rounds=1)
    later = asked.read_text().splitlines()[before:]
    repeated = sum(f"Question: {key} " in line for key in finished for line in later)
    rows = [json.loads(line)["key"] for line in log.read_text().split("\n")[1:-1]]
    report(benchmark, finished_before_the_kill=len(finished), lines_written_before=before, lines_written_after=len(later), finished_questions_asked_again=repeated)
    assert done == "100 100" and 30 <= len(finished) + 1 < 100 and repeated == 0 and len(rows) == len(set(rows)) == 100


if __name__ == "__main__": pytest.main([__file__, "--benchmark-only", "-s"])
