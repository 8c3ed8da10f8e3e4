"""DirichletProbe's training (one thread) against a loop that samples one Dirichlet per example and mixes the layers first (one thread, too): a ratio within one run.

Run with `pytest tests/benchmarks/test_probes_bench.py --benchmark-only`. Sizes are the embedded profile's: 3,600 x 31 x 576.
"""
import time

import numpy as np
import pytest
import torch
from torch.distributions import Dirichlet

from routercompanion.parallel import deterministic
from routercompanion.routers.difficulty.probes import DirichletProbe, train_linear_probe

N, L, D = 3600, 31, 576


@pytest.fixture(scope="module")
def data():
    deterministic(42, 1)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, L, D), dtype=np.float32).astype(np.float16)
    X[:, :, 0] += (hard := rng.normal(size=N))[:, None].astype(np.float16)
    return X, np.stack([rng.random(N) > 1 / (1 + np.exp(-2 * hard)), rng.random(N) < .8], 1).astype(np.float32)


def one_sample_at_a_time(X, y, steps, batch=32):
    "Seconds per training step of a plain implementation: nn.Linear on the mixed states, one Dirichlet sample per example in a loop, autograd, Adam."
    Z, y = torch.tensor(X.astype(np.float32)), torch.tensor(y)
    theta, b0, head = torch.nn.Parameter(torch.zeros(L)), torch.nn.Parameter(torch.ones(())), torch.nn.Linear(D, 1)
    optimizer, order = torch.optim.Adam([theta, b0, *head.parameters()], lr=1e-4), torch.randperm(len(y))
    start = time.perf_counter()
    for i in range(steps):
        rows = order[i * batch:(i + 1) * batch]
        alpha = b0.exp() * theta.softmax(0)
        w = torch.stack([Dirichlet(alpha).rsample() for _ in rows])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head((Z[rows] * w[:, :, None]).sum(1))[:, 0], y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - start) / steps


@pytest.mark.benchmark(group="probes")
def test_dirichlet_probe_50_epochs(benchmark, data):
    X, outcomes = data
    probe = benchmark.pedantic(lambda: DirichletProbe(epochs=50).fit(X, outcomes), rounds=1, iterations=1)
    benchmark.extra_info.update(epochs=probe.n_epochs_, seconds_per_50_epochs=50 * benchmark.stats.stats.min / probe.n_epochs_)
    print(f"\n{probe.n_epochs_} epochs; 50 epochs = {50 * benchmark.stats.stats.min / probe.n_epochs_:.1f} s with reading, splitting and validation")
    assert np.isfinite(probe.coef_).all() and probe.n_epochs_ == len(probe.history_["val_loss"])


@pytest.mark.benchmark(group="probes")
def test_training_step_against_one_sample_at_a_time(benchmark, data):
    X, outcomes = data
    Z, y, steps = X.astype(np.float32), 1 - outcomes[:, 0], N // 32
    loop, ours, train = [], [], lambda: train_linear_probe(Z, y, np.arange(steps * 32), Z[:32], y[:32], b0=1., epochs=1)
    for _ in range(5):
        start = time.perf_counter()
        train()
        ours.append((time.perf_counter() - start) / steps)
        loop.append(one_sample_at_a_time(X, y, steps))
    benchmark.pedantic(train, rounds=1, iterations=1)
    ratio = float(np.median(loop) / np.median(ours))
    benchmark.extra_info.update(ratio=ratio)
    print(f"\nours {1e3 * np.median(ours):.2f} ms a step, the loop {1e3 * np.median(loop):.2f} ms: {ratio:.1f} times as long")
    assert ratio >= 4
