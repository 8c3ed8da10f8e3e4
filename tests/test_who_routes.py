from types import SimpleNamespace

import numpy as np
import pytest

from routercompanion.curation import agreement_with
from routercompanion.metrics import budget_sweep
from routercompanion.pool_evaluation import PoolInputError, pool_evaluation, training_change
from routercompanion.routers import KNNRouter


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    topic, n = rng.integers(0, 3, 240), 240
    X = (3 * np.eye(6)[topic] + rng.normal(0, .3, (n, 6))).astype(np.float32)
    score = (rng.random((n, 3)) < np.array([[.2, .5, .9], [.8, .5, .3], [.3, .6, .6]])[topic]).astype(float)
    return SimpleNamespace(score=score, models=["a", "b", "c"], split=np.where(np.arange(n) < 140, "train", "test"), cost={"params_b": np.tile([1., 2, 3], (n, 1))}, query_ids=np.arange(n).astype(str)), X, topic


def nearest(pool, X, train, test, k):
    "Plain statement of K-NN without a budget."
    out = []
    for q in test:
        cosine = [X[q] @ X[t] / np.linalg.norm(X[q]) / np.linalg.norm(X[t]) for t in train]
        near = [train[i] for i in np.argsort(cosine)[::-1][:k]]
        out.append(pool.score[q, int(np.argmax(pool.score[near].mean(0)))])
    return np.array(out)


def test_training_change_is_that_of_a_plain_statement(pool):
    t, X, topic = pool
    train, test = np.flatnonzero(t.split == "train"), np.flatnonzero((t.split == "test") & (topic == 1))
    without = train[topic[train] != 1]
    got = training_change(t, X, {"K-NN": KNNRouter(k=7)}, train, without, test, n_resamples=200).iloc[0]
    a, b = (nearest(t, X, rows, test, 7) for rows in (train, without))
    assert np.isclose(got.full, a.mean()) and np.isclose(got.reduced, b.mean()) and np.isclose(got.value, (b - a).mean())
    assert got.low <= got.value <= got.high and got.n == len(test)


def test_agreement_is_by_name_and_mean_over_budgets():
    wins, small_first = np.array([[0, 1.], [1, 0], [1, 0]]), np.tile([.4, .6], (3, 1))
    run = SimpleNamespace(models=["small", "large"], sweeps={"Heuristic": budget_sweep(small_first, wins, [1, 2.], [.5, 1, 2.]), "Learned": budget_sweep(wins, wins, [1, 2.], [.5, 1, 2.])})
    found = agreement_with(run, ["a", "a", "b"])
    assert found.Learned.to_dict() == {"Overall": 4 / 6, "a": .75, "b": .5}


def test_one_price_list(pool):
    t, X, _ = pool
    few = dict(metrics=("AUDC",), n_resamples=20)
    a, b = pool_evaluation(t, X, {"K-NN": KNNRouter(k=7)}, **few), pool_evaluation(t, X, {"K-NN": KNNRouter(k=7)}, prices=[1, 2, 3], **few)
    assert a.table.equals(b.table)
    with pytest.raises(PoolInputError, match="one cost for each of 3 models"): pool_evaluation(t, X, {}, prices=[1, 2], **few)
