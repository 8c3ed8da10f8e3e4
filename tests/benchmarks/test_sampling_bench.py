"""Five sampled answers to each query of a bank in batch beside one answer at a time, and the clustering of 1,000 queries' samples. Ratios within one run.

One at a time: `model.generate` (the library's own sampler, with its cache) on shots + prompt, one call per answer, stopped at a line break as ours is, on a random part
of the bank that is named in the figures. The shared prefix, the batch and the rows that leave it are what makes the difference.
ROUTERCOMPANION_BENCH_QUERIES sets another size of the bank (default 500), for a quick look.
"""
import os
import time

import numpy as np
import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from routercompanion.data.bank import make_bank
from routercompanion.data.banks.embedded import reasoning_gym_task
from routercompanion.core import make_rng
from routercompanion.parallel import deterministic
from routercompanion.models.causal_lm import load_causal_lm
from routercompanion.models.features import load_encoder
from routercompanion.features.meaning import EmbeddingJudge, ExactJudge, semantic_clusters

SMALL, SAMPLES, TOKENS = "smollm2-135m-instruct", 5, 24


def report(benchmark, **figures):
    benchmark.extra_info.update(figures)
    print("\n" + ", ".join(f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in figures.items()))


class Ended(StoppingCriteria):
    "Stops at a line break or the end of text, as `CausalLM.sample` does."
    def __init__(self, stop_tokens): self.stop_tokens = set(stop_tokens.tolist())
    def __call__(self, ids, scores, **k): return torch.tensor([int(row[-1]) in self.stop_tokens for row in ids])


@pytest.mark.model
@pytest.mark.parametrize("endings", [True, False], ids=["with endings", "all 24 tokens"])
def test_sampling_in_batch_is_four_times_as_fast_as_one_by_one(benchmark, monkeypatch, endings):
    monkeypatch.setenv("ROUTERCOMPANION_QUIET", "1")
    threads = deterministic(42)
    lm = load_causal_lm(SMALL, dtype=torch.bfloat16)
    if not endings: lm.stop_tokens = torch.tensor([], dtype=torch.long)   # every answer then has 24 tokens
    n = int(os.environ.get("ROUTERCOMPANION_BENCH_QUERIES", 500))
    rows, shots = reasoning_gym_task("lcm", domain="arithmetic", split="test", size=2 * n, settings=({"max_value": 60},))   # some are drawn twice and kept once
    bank = make_bank(rows[:n], shots, "multiples")
    part = np.sort(make_rng(0).choice(len(bank), min(12, len(bank)), replace=False))

    @torch.inference_mode()
    def one_by_one(chosen):
        tokens = 0
        for i in chosen:
            ids = torch.tensor([lm.prefix_ids(bank.shots[bank.table.task[i]]) + lm.tokens([bank.table.prompt[i]])[0]])
            for _ in range(SAMPLES):
                out = lm.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=.7, top_k=0, top_p=1., max_new_tokens=TOKENS, pad_token_id=0, eos_token_id=None,
                                        stopping_criteria=StoppingCriteriaList([Ended(lm.stop_tokens)]))
                tokens += out.shape[1] - ids.shape[1]
        return tokens
    lm.sample(bank.take(part[:4]), samples=SAMPLES, max_new_tokens=4), one_by_one(part[:1])   # warm up
    start = time.perf_counter()
    plain_tokens = one_by_one(part)
    plain = time.perf_counter() - start
    start = time.perf_counter()
    drawn = benchmark.pedantic(lm.sample, (bank,), dict(samples=SAMPLES, max_new_tokens=TOKENS), rounds=1)
    ours, our_tokens = time.perf_counter() - start, int(drawn.tokens_scored.sum())
    by_tokens, by_queries = (our_tokens / ours) / (plain_tokens / plain), (len(bank) / ours) / (len(part) / plain)
    report(benchmark, threads=threads, queries=len(bank), one_by_one_queries=len(part), seconds=ours, tokens_per_second=our_tokens / ours, one_by_one_tokens_per_second=plain_tokens / plain,
           times_faster_by_tokens=by_tokens, times_faster_by_queries=by_queries, mean_tokens=our_tokens / len(bank) / SAMPLES, required_times=4.)
    assert min(by_tokens, by_queries) >= 4


def spoken_samples(n, seed=0):
    "n x 5 short answers with paraphrases and numbers, about as varied as a small model's."
    rng = make_rng(seed)
    names, forms = ["Paris", "London", "Rome", "Berlin", "Madrid", "Lisbon", "Vienna", "Oslo"], ["{}", "{}.", "It is {}", "The answer is {}", "the city of {}", "{} I think"]
    say = lambda i: str(rng.integers(i, i + 40)) if i % 2 else forms[rng.integers(6)].format(f"{names[rng.integers(8)]} {i}")
    return [[say(i) for _ in range(5)] for i in range(n)]


@pytest.mark.model
@pytest.mark.parametrize("judge", ["exact", "embedding"])
def test_clustering_a_thousand_queries_takes_less_than_a_minute(benchmark, judge):
    threads, answers = deterministic(42), spoken_samples(int(os.environ.get("ROUTERCOMPANION_BENCH_QUERIES", 1000)))
    used = ExactJudge() if judge == "exact" else EmbeddingJudge(load_encoder("minilm-l6-v2"))
    semantic_clusters(answers[:4], used)   # warm up: imports
    start = time.perf_counter()
    labels = benchmark.pedantic(semantic_clusters, (answers, used), rounds=1)
    seconds = time.perf_counter() - start
    report(benchmark, threads=threads, judge=judge, queries=len(answers), distinct_texts=len({t for row in answers for t in row}), meanings=float((labels.max(1) + 1).mean()), seconds=seconds, allowed_seconds=60.)
    assert seconds <= 60
