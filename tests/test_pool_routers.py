"Routers for pools against plain loops: neighbours, clusters, one network per model, masks, files, and the evaluation that compares them."

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.neighbors import NearestNeighbors

from routercompanion.routers import base, baselines, training
from routercompanion.routers.clustering import kmeans, neighbours
from routercompanion.routers.difficulty import embeddings
from routercompanion.core import CompanionError
from routercompanion.parallel import deterministic
from routercompanion.metrics.call_rate import cost_performance_curve
from routercompanion.metrics.deferral import audc
from routercompanion.metrics.sweeps import budget_sweep
from routercompanion.data.pool import PoolInputError, decision_costs, pool_rows, pool_subset
from routercompanion.evaluate.pair import routing_rate_evaluation
from routercompanion.evaluate.pool import pool_evaluation
from routercompanion.routers.sweeping import fit_pool, floor_sweeps, router_sweep, sweep_of_runs
from routercompanion.core import RoutingInputError
from routercompanion.features.kinds import NotFiniteError
from routercompanion.routers.check import check_router, toy_routing_data
from routercompanion.routers.registry import ROUTERS, load_router, save_router

FAST = {
    "KNNRouter": dict(k=7),
    "KMeansRouter": dict(n_clusters=5),
    "MLPRouter": dict(hidden=(8,), epochs=4),
    "MatrixFactorisationRouter": dict(rank=3, epochs=4),
    "SVMRouter": {},
    "HeuristicRouter": {},
    "RandomPoolRouter": {},
    "PoolOracle": {},
}
EMBEDDING = ["KNNRouter", "KMeansRouter", "MLPRouter", "MatrixFactorisationRouter", "SVMRouter"]


@pytest.fixture(autouse=True, scope="module")
def _threads():
    deterministic(42, 1)


def make(name, **options):
    return ROUTERS[name](**{**FAST[name], **options})


def topics(n=300, m=4, gaps=0.0, seed=0, d=8):
    "Embeddings of three topics, outcomes (n, m) whose best model depends on the topic, with a share `gaps` missing."
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 3, n)
    X = (2 * np.eye(d)[topic] + rng.normal(0, 0.5, (n, d))).astype(np.float32)
    chance = np.random.default_rng(7).random((3, m))
    S = (rng.random((n, m)) < chance[topic]).astype(float)
    return X, np.where(rng.random((n, m)) < gaps, np.nan, S)


def feature(router, X, S):
    return {"embedding": X, "none": np.arange(len(X)), "outcomes": S}[router.feature_kind]


# ---- the contract


@pytest.mark.parametrize("missing", ["mask", "raise"])
@pytest.mark.parametrize("name", FAST)
def test_contract(name, missing):
    check_router(make(name, missing=missing))


@pytest.mark.parametrize(
    "name, options",
    [
        ("RandomPoolRouter", dict(random_state=3)),
        ("KNNRouter", dict(metric="l2", weights="distance")),
        ("KNNRouter", dict(metric="ip")),
        ("SVMRouter", dict(kernel="rbf", n_components=16)),
        ("MLPRouter", dict(hidden=(6, 5))),
    ],
)
def test_contract_of_the_options(name, options):
    check_router(make(name, missing="raise", **options))


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("m", [1, 2, 6])
def test_any_number_of_models(name, m):
    X, S = topics(m=m)
    q = make(name).fit(feature(make(name), X, S), S).predict_quality(feature(make(name), X, S))
    assert q.shape == (300, m) and np.isfinite(q).all() and (q >= 0).all() and (q <= 1).all()


# ---- missing outcomes


@pytest.mark.parametrize("name", FAST)
def test_missing_outcomes_are_masked_and_survive_a_file(name, tmp_path):
    X, S = topics(gaps=0.3)
    router = make(name).fit(feature(make(name), X, S), S)
    q = router.predict_quality(feature(router, X, S))
    assert np.isfinite(q).all() and np.allclose(router.mean_, np.nanmean(S, 0))
    again = load_router(save_router(router, tmp_path / "router"))
    assert np.array_equal(again.predict_quality(feature(router, X, S)), q)
    with pytest.raises(NotFiniteError):
        make(name, missing="raise").fit(feature(router, X, np.nan_to_num(S)), S)
    with pytest.raises(base.MissingOutcomesError, match="column 2"):
        make(name).fit(feature(router, X, np.nan_to_num(S)), np.where(np.arange(4) == 2, np.nan, S))


@pytest.mark.parametrize(
    "name", ["KNNRouter", "KMeansRouter", "SVMRouter", "HeuristicRouter", "MLPRouter"]
)
def test_a_mask_is_the_same_as_leaving_the_rows_out(name):
    "Model 1 is recorded on the first 200 rows only; the prediction for it must not depend on what stands in the rows that are not its own."
    X, S = topics()
    hole = S.copy()
    hole[200:, 1] = np.nan
    with_hole = make(name).fit(feature(make(name), X, S), hole)
    seen = hole[:200, 1]
    q = with_hole.predict_quality(feature(with_hole, X, S))[:, 1]
    if name == "SVMRouter":
        assert np.allclose(q, make(name).fit(X[:200], S[:200]).predict_quality(X)[:, 1])
    if name == "HeuristicRouter":
        assert np.allclose(q, seen.mean())
    if name == "KNNRouter":
        index = training.nearest(X, X, 7)[1]
        assert np.allclose(
            q, [np.mean(S[i[i < 200], 1]) if (i < 200).any() else seen.mean() for i in index]
        )
    if name == "KMeansRouter":
        cluster = ((X[:, None].astype(float) - with_hole.centroids_) ** 2).sum(2).argmin(1)
        assert np.allclose(q, [S[:200, 1][cluster[:200] == c].mean() for c in cluster])
    if name == "MLPRouter":
        other = hole.copy()
        other[:, 0] = 1 - other[:, 0]
        assert np.allclose(q, make(name).fit(X, other).predict_quality(X)[:, 1], atol=1e-6), (
            "one model's network learns nothing from another model's outcomes"
        )


def test_masked_means_by_hand():
    S = np.array([[1, np.nan], [0, np.nan], [1, 0.5]])
    assert np.allclose(
        neighbours.masked_means(np.array([[1.0, 1, 0], [0, 1, 3]]), S, [0.7, 0.2]),
        [[0.5, 0.2], [0.75, 0.5]],
    )


# ---- neighbours and clusters


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(1, 30),
    st.integers(1, 12),
    st.sampled_from(["cosine", "ip", "l2"]),
    st.integers(0, 99),
)
def test_nearest_against_all_pairs(n, k, metric, seed):
    rng = np.random.default_rng(seed)
    train, queries = rng.normal(size=(n, 5)), rng.normal(size=(6, 5))
    near, index = training.nearest(queries, train, k, metric)
    assert index.shape == (6, min(k, n))
    for q, values, found in zip(queries, near, index):
        if metric == "l2":
            all_values = [-np.linalg.norm(q - t) for t in train]
        else:
            all_values = [
                q @ t / (np.linalg.norm(q) * np.linalg.norm(t) if metric == "cosine" else 1)
                for t in train
            ]
        assert found.tolist() == sorted(range(n), key=lambda j: -all_values[j])[:k]
        assert np.allclose(
            values,
            [abs(all_values[j]) if metric == "l2" else all_values[j] for j in found],
            atol=1e-4,
        )


def test_knn_against_scikit_learn_and_a_loop():
    X, S = topics()
    Z = topics(seed=5)[0][:40]
    for metric, other in (("cosine", "cosine"), ("l2", "euclidean")):
        distance, index = NearestNeighbors(n_neighbors=9, metric=other).fit(X).kneighbors(Z)
        assert np.allclose(
            neighbours.KNNRouter(k=9, metric=metric).fit(X, S).predict_quality(Z), S[index].mean(1)
        )
        distance = np.sqrt(2 * distance) if metric == "cosine" else distance
        weighted = [np.average(S[i], axis=0, weights=1 / d) for i, d in zip(index, distance)]
        assert np.allclose(
            neighbours.KNNRouter(k=9, metric=metric, weights="distance")
            .fit(X, S)
            .predict_quality(Z),
            weighted,
            atol=1e-4,
        )
    assert np.allclose(neighbours.KNNRouter(k=10**6).fit(X, S).predict_quality(Z), S.mean(0)), (
        "all neighbours: the heuristic"
    )
    with pytest.raises(RoutingInputError, match="no distance"):
        neighbours.KNNRouter(metric="ip", weights="distance").fit(X, S)
    with pytest.raises(RoutingInputError, match="at least one"):
        neighbours.KNNRouter(k=0).fit(X, S)


def test_threads_are_given_back_and_do_not_change_the_neighbours(monkeypatch):
    from threadpoolctl import threadpool_info

    X, S = topics(n=2000)
    count, results = (
        lambda: sorted((i["filepath"], i["num_threads"]) for i in threadpool_info()),
        [],
    )
    before = count()
    for threads in ("1", "2"):
        monkeypatch.setenv("ROUTERCOMPANION_THREADS", threads)
        results.append(training.nearest(X, X, 20)[1])
    assert np.array_equal(*results) and count() == before


def test_clusters_find_the_topics():
    X, S = topics(n=600)
    router = kmeans.KMeansRouter(n_clusters=3).fit(X, S)
    assert (
        np.allclose(np.sort(router.sizes_ / 600), 1 / 3, atol=0.07) and router.sizes_.sum() == 600
    )
    label = ((X[:, None].astype(float) - router.centroids_) ** 2).sum(2).argmin(1)
    for c in range(3):
        assert np.allclose(router.quality_[c], S[label == c].mean(0)) and np.allclose(
            router.centroids_[c], X[label == c].mean(0), atol=1e-4
        )
    assert (
        len(
            kmeans.KMeansRouter(n_clusters=500)
            .fit(np.repeat(X[:4], 5, 0), np.repeat(S[:4], 5, 0))
            .centroids_
        )
        == 4
    ), "no more clusters than different queries"


# ---- trained routers


def test_batched_networks_are_the_loop_over_single_networks():
    X, S = topics(gaps=0.2)
    together = embeddings.MLPRouter(hidden=(8, 6), epochs=6, lr=5e-3).fit(X, S)
    tensors = [torch.tensor(a, dtype=torch.float32) for a in (X, S)]
    train, val = training.split_rows(len(S), seed=42)
    start = training.pool_mlp_start(X.shape[1], (8, 6), S.shape[1], 42)
    for j in range(S.shape[1]):
        net = torch.nn.Sequential(
            torch.nn.Linear(8, 8),
            torch.nn.ReLU(),
            torch.nn.Linear(8, 6),
            torch.nn.ReLU(),
            torch.nn.Linear(6, 1),
        )
        with torch.no_grad():
            for k, layer in enumerate(net[::2]):
                layer.weight.copy_(start[2 * k][j].T)
                layer.bias.copy_(start[2 * k + 1][j, 0])
        optimizer, best, kept = torch.optim.Adam(net.parameters(), lr=5e-3), np.inf, None
        y = tensors[1][:, j]
        loss = lambda rows: torch.nn.functional.binary_cross_entropy_with_logits(
            net(tensors[0][rows])[:, 0][~torch.isnan(y[rows])], y[rows][~torch.isnan(y[rows])]
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(42)
            for _ in range(6):
                for rows in torch.randperm(len(train)).split(256):
                    optimizer.zero_grad()
                    loss(train[rows.numpy()]).backward()
                    optimizer.step()
                with torch.no_grad():
                    value = float(loss(val))
                if value < best:
                    best, kept = value, torch.sigmoid(net(tensors[0])[:, 0]).detach().numpy()
        assert np.allclose(together.predict_quality(X)[:, j], kept, atol=2e-4)


def test_a_model_starts_alike_in_every_pool():
    for a, b in zip(
        training.pool_mlp_start(5, (4,), 3, 42), training.pool_mlp_start(5, (4,), 7, 42)
    ):
        assert torch.equal(a, b[:3])
    assert not torch.equal(
        training.pool_mlp_start(5, (4,), 2, 1)[0][0], training.pool_mlp_start(5, (4,), 2, 1)[0][1]
    )


def test_each_model_stops_on_its_own():
    "A model of pure noise overfits at once, one with signal does not: their kept epochs differ, and patience ends the run."
    X, S = topics(n=200, m=2)
    S[:, 0] = np.random.default_rng(3).random(200) < 0.5
    train, val = slice(0, 100), slice(100, 200)
    tensors = [
        torch.tensor(np.asarray(a), dtype=torch.float32)
        for a in (X[train], S[train], X[val], S[val])
    ]
    kept, history = training.train_pool(
        training.pool_mlp_start(8, (32,), 2, 0),
        training.pool_mlp,
        *tensors,
        lr=0.02,
        batch_size=20,
        epochs=200,
        patience=5,
    )
    assert len(history) < 200
    with torch.no_grad():
        losses = training.masked_losses(training.pool_mlp(kept, tensors[2]), tensors[3])
    assert losses.mean() < min(history) - 1e-4, "each at its own best epoch beats any common epoch"


def test_matrix_factorisation_formula_and_rank():
    X, S = topics(m=5)
    router = embeddings.MatrixFactorisationRouter(rank=3, epochs=30, lr=0.02).fit(X, S)
    A, a, u, b = (router.state_[f"p{i}"] for i in range(4))
    expected = [
        [1 / (1 + np.exp(-(np.dot(u[j], A.T @ x + a) + b[j]))) for j in range(5)]
        for x in X[:20].astype(np.float64)
    ]
    assert np.allclose(router.predict_quality(X[:20]), expected, atol=1e-5) and u.shape == (5, 3)
    q = router.predict_quality(X)
    logits = np.log(q / (1 - q)) - b
    assert np.linalg.matrix_rank(logits, tol=1e-2) <= 3


@pytest.mark.parametrize(
    "name", ["KNNRouter", "KMeansRouter", "MLPRouter", "MatrixFactorisationRouter", "SVMRouter"]
)
def test_routers_learn_who_is_best_for_which_topic(name):
    X, S = topics(n=1500, gaps=0.1)
    Z, T = topics(n=600, seed=9)
    options = (
        dict(epochs=40, lr=0.01)
        if name in ("MLPRouter", "MatrixFactorisationRouter")
        else dict(k=40)
        if name == "KNNRouter"
        else {}
    )
    q, single = make(name, **options).fit(X, S).predict_quality(Z), T.mean(0).max()
    assert T[np.arange(600), q.argmax(1)].mean() > single + 0.05
    assert abs(q.mean(0) - T.mean(0)).max() < 0.06, "predictions are qualities, not mere scores"


def test_graded_and_constant_outcomes_in_the_svm():
    X, S = topics()
    S = np.c_[S[:, 0] * 0.6 + 0.2, np.ones(300), np.full(300, 0.4), S[:, 1]]
    q = embeddings.SVMRouter().fit(X, S).predict_quality(X)
    assert (
        np.corrcoef(q[:, 0], S[:, 0])[0, 1] > 0.1
        and (q[:, 1] > 0.98).all()
        and np.allclose(q[:, 2], 0.4)
    )


def test_own_validation_is_used():
    X, S = topics()
    for name in ("MLPRouter", "MatrixFactorisationRouter", "SVMRouter"):
        a, b = (
            make(name).fit(X[:200], S[:200]),
            make(name).fit(X[:200], S[:200], validation=(X[200:], S[200:])),
        )
        assert not np.allclose(a.predict_quality(X), b.predict_quality(X))


# ---- reference rows


def test_random_is_the_exact_expectation_of_its_draws():
    X, S = topics(m=5)
    costs, budgets = np.array([1.0, 2, 2, 5, 9]), [1, 2, 4, 9]
    ids = np.arange(300)
    exact = baselines.RandomPoolRouter().fit(ids, S)
    curve = budget_sweep(exact.predict_quality(ids), S, costs, budgets, ties=exact.ties).curve()
    assert np.allclose(curve.quality, [S[:, costs <= b].mean() for b in budgets])
    drawn = np.mean(
        [
            budget_sweep(
                baselines.RandomPoolRouter(random_state=s).fit(ids, S).predict_quality(ids),
                S,
                costs,
                budgets,
            )
            .curve()
            .quality
            for s in range(40)
        ],
        0,
    )
    assert np.allclose(drawn, curve.quality, atol=0.02)
    other = baselines.RandomPoolRouter(random_state=1).fit(ids, S)
    assert np.array_equal(other.predict_quality(ids[::-1]), other.predict_quality(ids)[::-1]), (
        "a number belongs to its query"
    )


def test_heuristic_is_the_best_training_mean_within_the_budget():
    X, S = topics(m=5)
    costs = np.array([1.0, 2, 2, 5, 9])
    router = baselines.HeuristicRouter().fit(X, S)
    s = budget_sweep(router.predict_quality(X), S, costs, [1, 2, 4, 9])
    for k, b in enumerate([1, 2, 4, 9]):
        within = np.flatnonzero(costs <= b)
        assert (s.choice[:, k] == within[S.mean(0)[within].argmax()]).all()


def test_oracle_never_prefers_a_missing_outcome():
    S = np.array([[0, np.nan], [1, np.nan], [np.nan, 1]])
    q = baselines.PoolOracle().fit(S, S).predict_quality(S)
    assert q.argmax(1).tolist() == [0, 0, 1]


# ---- the evaluation


def table(n=400, seed=0, gaps=0.05, constant=True):
    X, S = topics(n, gaps=gaps, seed=seed)
    size = np.array([1.0, 2.0, 4.0, 3.0])
    tokens = np.random.default_rng(1).gamma(4, 10 * size, (n, 4))
    return X, SimpleNamespace(
        score=S,
        models=list("abcd"),
        split=np.where(np.arange(n) < 250, "train", "test"),
        cost={"params_b": np.tile(size, (n, 1)), "tokens": tokens},
        query_ids=np.array([f"q{i}" for i in range(n)]),
    )


FLOORS = ("Random", "Heuristic", "Oracle", "Best single", "Hull")
ROUTERS_HERE = {"K-NN": neighbours.KNNRouter(k=15), "KMeans": kmeans.KMeansRouter(n_clusters=3)}


@pytest.mark.parametrize(
    "axis, cost",
    [
        ("budget", "params_b"),
        ("budget", "tokens"),
        ("realised", "params_b"),
        ("realised", "tokens"),
    ],
)
def test_estimates_and_intervals_against_repeated_rows(axis, cost):
    X, t = table()
    e = pool_evaluation(t, X, ROUTERS_HERE, axis=axis, cost=cost, n_resamples=60, rng=3)
    test = pool_rows(t, "test")
    part, costs = pool_subset(t, test), decision_costs(t, "train", cost)
    assert np.allclose(costs, t.cost[cost][:250].mean(0)) and set(e.curves) == {
        "K-NN",
        "KMeans",
        *FLOORS,
    }
    from routercompanion.metrics.bootstrap import resample_counts

    W = np.concatenate(list(resample_counts(len(test), 60, 3)))
    plain = []
    for w in W:
        rows = np.repeat(np.arange(len(test)), w)
        sub = SimpleNamespace(**{**vars(part), "score": part.score[rows]})
        s = router_sweep(
            e.fitted["K-NN"], X[test][rows], sub, costs, axis=axis, paid=part.cost[cost][rows]
        )
        c, booked = s.curve(), part.cost[cost][rows].mean(0)
        low, high = (
            (s.setting.min(), s.setting.max())
            if axis == "budget"
            else (booked[costs.argmin()], booked[costs.argmax()])
        )
        plain.append(audc(c, low=low, high=high))
    assert np.allclose(e.draws["K-NN", cost, "AUDC"], plain)
    row = e.table[(e.table.row == "K-NN") & (e.table.metric == "AUDC")].iloc[0]
    assert (
        np.allclose([row.low, row.high], np.quantile(plain, [0.025, 0.975]))
        and row.n == 150
        and row.column == cost
        and 0 < row.missing < 0.2
    )
    d = e.compare("K-NN", "Random", "AUDC")
    assert np.isclose(d["difference"], e.value("K-NN", "AUDC") - e.value("Random", "AUDC"))
    assert np.allclose(
        [d["low"], d["high"]],
        np.quantile(e.resampled("K-NN", "AUDC") - e.resampled("Random", "AUDC"), [0.025, 0.975]),
    )
    at, low, high = e.bands["K-NN"]
    inside = np.isfinite(low)
    height = e.curves["K-NN"](at)
    assert (
        inside.sum() > 50
        and ((low <= height + 0.02) & (height <= high + 0.02))[inside & np.isfinite(height)].all()
    )
    assert e.value("Oracle", "AUDC") >= e.table[e.table.metric == "AUDC"].value.max() - 1e-12


def test_paired_difference_is_narrower_than_the_rows_suggest_and_zero_for_one_router():
    X, t = table(800, gaps=0)
    e = pool_evaluation(
        t,
        X,
        {
            "a": neighbours.KNNRouter(k=15),
            "same": neighbours.KNNRouter(k=15),
            "near": neighbours.KNNRouter(k=14),
        },
        n_resamples=200,
    )
    d, same = e.compare("a", "near", "AUDC"), e.compare("a", "same", "AUDC")
    row = e.table[(e.table.row == "a") & (e.table.metric == "AUDC")].iloc[0]
    assert (
        d["high"] - d["low"] < (row.high - row.low)
        and same["difference"] == 0 == same["low"] == same["high"]
        and same["p_value"] == 1
        and not same["significant"]
    )
    assert (e.table[e.table.row != "Best single"].missing == 0).all()


def test_whole_clusters_are_drawn():
    X, t = table(600)
    task = (np.arange(600) % 3)[250:]
    plain, whole = (
        pool_evaluation(t, X, {}, n_resamples=100, clusters=c).resampled("Heuristic", "AUDC")
        for c in (None, task)
    )
    assert len(np.unique(whole.round(9))) <= 10 < len(np.unique(plain.round(9))), (
        "three clusters have ten different resamples"
    )


def test_reference_model_of_qnc_is_fixed_and_unreached_is_missing():
    X, t = table()
    e = pool_evaluation(t, X, ROUTERS_HERE, n_resamples=50)
    best = np.nanmean(t.score[250:], 0).argmax()
    curve = e.curves["K-NN"]
    reached = curve.cost[curve.quality >= np.nanmean(t.score[250:, best]) - 1e-12]
    assert (
        np.isclose(e.value("K-NN", "QNC"), reached.min() / e.costs[best])
        if len(reached)
        else np.isnan(e.value("K-NN", "QNC"))
    )
    e = pool_evaluation(t, X, {}, settings=[0.5, 1.0], n_resamples=20)
    never = e.table[(e.table.row == "Random") & (e.table.metric == "QNC")].iloc[0]
    assert np.isnan(never.value) == np.isnan(never.low)


def test_routing_rate_evaluation_against_the_curves():
    X, t = table(gaps=0.1)
    predicted = {
        "K-NN": neighbours.KNNRouter(k=15).fit(X[:250], t.score[:250]).predict_quality(X[250:])
    }
    S = t.score[250:]
    e = routing_rate_evaluation(predicted, S, 0, 2, n_resamples=50, rates=11)
    keep = ~np.isnan(S[:, [0, 2]]).any(1)
    curve = cost_performance_curve(-predicted["K-NN"][keep, 0], S[keep, 0], S[keep, 2])
    assert (
        np.isclose(e.value("K-NN", "rate area"), np.trapezoid(curve.performance, curve.call_rate))
        and e.table.n.iloc[0] == keep.sum()
    )
    assert np.isclose(e.value("Random", "rate area"), S[keep][:, [0, 2]].mean()) and e.value(
        "Oracle", "rate area"
    ) >= e.value("K-NN", "rate area")
    at, low, high = e.bands["K-NN"]
    assert (
        at.tolist() == np.linspace(0, 1, 11).tolist()
        and (low <= curve(at) + 1e-9).all()
        and (curve(at) <= high + 1e-9).all()
    )
    with pytest.raises(PoolInputError, match="columns 0 and 1"):
        routing_rate_evaluation({}, np.array([[np.nan, 1.0], [1, np.nan]]), 0, 1)


@pytest.mark.parametrize("axis", ["budget", "realised"])
def test_edges_of_an_evaluation(axis):
    "One model: every row is that model. Equal costs, zero ones included: the area is the accuracy without a budget. Ties: what the routers prefer, then the first."
    X, t = table(gaps=0)
    train, test = t.score[:250], t.score[250:]
    few = dict(axis=axis, cost="params_b", measures=("AUDC", "peak"), n_resamples=20)
    alone = SimpleNamespace(
        **{
            **vars(t),
            "score": t.score[:, :1],
            "models": ["a"],
            "cost": {"params_b": t.cost["params_b"][:, :1]},
        }
    )
    e = pool_evaluation(alone, X, ROUTERS_HERE, **few)
    assert np.allclose(e.table.value, test[:, 0].mean()) and set(e.table.row) == {
        "K-NN",
        "KMeans",
        *FLOORS,
    }
    for price in (0.0, 2.0):
        t.cost["params_b"] = np.full((400, 4), price)
        e = pool_evaluation(t, X, ROUTERS_HERE, **few)
        chosen = e.fitted["K-NN"].predict_quality(X[250:]).argmax(1)
        expected = {
            "Oracle": test.max(1).mean(),
            "Heuristic": test[:, train.mean(0).argmax()].mean(),
            "Random": test.mean(),
            "K-NN": test[np.arange(150), chosen].mean(),
        }
        for name, value in expected.items():
            assert np.isclose(e.value(name, "AUDC"), value) and np.isclose(
                e.value(name, "peak"), value
            ), (name, price)
    twins = SimpleNamespace(
        **{
            **vars(t),
            "score": t.score[:, [1, 1]],
            "models": ["b", "twin"],
            "cost": {"params_b": np.ones((400, 2))},
        }
    )
    assert np.allclose(
        pool_evaluation(twins, X, ROUTERS_HERE, **few).table.value, test[:, 1].mean()
    )


def test_an_evaluation_leaves_missing_outcomes_out_and_says_how_many():
    X, t = table(gaps=0.2)
    e = pool_evaluation(t, X, {}, measures=("AUDC",), n_resamples=20, settings=[1.0])
    seen = t.score[250:, 0][~np.isnan(t.score[250:, 0])]
    row = e.table[e.table.row == "Heuristic"].iloc[0]
    assert (
        np.isclose(row.value, seen.mean())
        and np.isclose(row.missing, 1 - len(seen) / 150)
        and row.n == 150
    )


@pytest.mark.parametrize(
    "broken, match",
    [
        (lambda t, X: pool_evaluation(t, X, {}, test="dev"), "No query in the selection"),
        (lambda t, X: pool_evaluation(t, X[:-1], {}), "399 rows of embedding and 400"),
        (lambda t, X: pool_evaluation(t, X, {}, cost="usd"), "Unknown cost"),
        (
            lambda t, X: pool_evaluation(t, X, {}, train=range(300), test=range(250, 400)),
            "both in train and in test",
        ),
        (lambda t, X: pool_evaluation(t, X, {}, axis="spent"), "Unknown cost axis"),
        (lambda t, X: pool_evaluation(t, X, {}, measures=["AUC"]), "Unknown pool metric"),
        (
            lambda t, X: fit_pool({"EmbeddingMLP": baselines.TaskMean()}, t, X, "train"),
            "Unknown feature kind",
        ),
        (
            lambda t, X: pool_evaluation(t, X, {}, n_resamples=5).value("K-NN", "AUDC"),
            "Rows: Random",
        ),
        (
            lambda t, X: pool_evaluation(t, X, ROUTERS_HERE, axis="knob", n_resamples=5),
            "KNNRouter has no knob",
        ),
        (lambda t, X: pool_evaluation(t, X, {}, prices=[1.0]), "prices has shape"),
        (
            lambda t, X: pool_evaluation(
                t,
                X,
                {},
                sweeps={
                    "given": floor_sweeps(
                        [0.5, 0.6, 0.7, 0.8], pool_subset(t, np.arange(9)), np.arange(4.0)
                    )["Hull"]
                },
            ),
            "The sweep of given has 9 queries",
        ),
        (lambda t, X: sweep_of_runs([], [], "usd"), "There is no run"),
    ],
)
def test_bad_input_is_named(broken, match):
    X, t = table()
    with pytest.raises(CompanionError, match=match):
        broken(t, X)


def test_unusable_costs_are_named():
    X, t = table()
    t.cost["usd"] = np.where(np.arange(4) == 1, np.nan, 1.0) * np.ones((400, 1))
    with pytest.raises(PoolInputError, match="Model b has no usd cost"):
        decision_costs(t, "train", "usd")
    t.cost["usd"] = np.where(np.arange(4) == 1, -1.0, 1.0) * np.ones((400, 1))
    with pytest.raises(PoolInputError, match="negative"):
        decision_costs(t, "train", "usd")
