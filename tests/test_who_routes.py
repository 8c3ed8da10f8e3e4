"""What the notebooks on Who Routes the Router rest on, against plain statements.

And both notebooks, cell by cell, on a small made pool.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from routercompanion.reproduce import notebooks
from routercompanion.data.banks.embedded import IN_DOMAIN
from routercompanion.core import UnknownNameError, hash_fraction, project_root
from routercompanion.curation.pool import agreement_with
from routercompanion.metrics.sweeps import budget_sweep
from routercompanion.data.outcomes import OutcomeTable
from routercompanion.data.pool import PoolInputError
from routercompanion.evaluate.pool import pool_evaluation
from routercompanion.models.causal_lm import LARGE, SMALL
from routercompanion.routers.clustering.neighbours import KNNRouter
from routercompanion.routers.sweeping import fit_pool
from routercompanion.studies.pool_diagnostics import against
from routercompanion.studies.pool_diagnostics import at_prices, by_rank, left_out_table, steps
from routercompanion.studies.pool_diagnostics import task_ranks
from routercompanion.studies.who_routes import training_change


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    topic, n = rng.integers(0, 3, 240), 240
    X = (3 * np.eye(6)[topic] + rng.normal(0, 0.3, (n, 6))).astype(np.float32)
    score = (
        rng.random((n, 3)) < np.array([[0.2, 0.5, 0.9], [0.8, 0.5, 0.3], [0.3, 0.6, 0.6]])[topic]
    ).astype(float)
    return (
        SimpleNamespace(
            score=score,
            models=["a", "b", "c"],
            split=np.where(np.arange(n) < 140, "train", "test"),
            cost={"params_b": np.tile([1.0, 2, 3], (n, 1))},
            query_ids=np.arange(n).astype(str),
        ),
        X,
        topic,
    )


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
    train, test = (
        np.flatnonzero(t.split == "train"),
        np.flatnonzero((t.split == "test") & (topic == 1)),
    )
    without = train[topic[train] != 1]
    got = training_change(
        t, X, {"K-NN": KNNRouter(k=7)}, train, without, test, n_resamples=200
    ).iloc[0]
    a, b = (nearest(t, X, rows, test, 7) for rows in (train, without))
    assert (
        np.isclose(got.full, a.mean())
        and np.isclose(got.reduced, b.mean())
        and np.isclose(got.value, (b - a).mean())
    )
    assert got.low <= got.value <= got.high and got.n == len(test) and got.group == "all"


def test_training_change_by_groups_and_with_fitted_routers(pool):
    t, X, topic = pool
    train, test = (np.flatnonzero(t.split == s) for s in ("train", "test"))
    without, router = train[topic[train] != 1], {"K-NN": KNNRouter(k=7)}
    got = training_change(t, X, router, train, without, test, by=topic, n_resamples=4000)
    again = training_change(
        t,
        X,
        router,
        train,
        without,
        test,
        by=topic,
        fitted=fit_pool(router, t, X, train),
        n_resamples=4000,
    )
    assert got.equals(again) and got.group.tolist() == ["0", "1", "2"] and got.n.sum() == len(test)
    for row in got.itertuples():
        there = test[topic[test] == int(row.group)]
        gain = np.subtract(*(nearest(t, X, rows, there, 7) for rows in (without, train)))
        assert np.isclose(row.value, gain.mean()) and np.isclose(row.value, row.reduced - row.full)
        half = (
            norm.ppf(0.975) * gain.std() / len(gain) ** 0.5
        )  # what a bootstrap of a mean comes to
        assert (
            abs(row.low - (row.value - half)) < 0.3 * half + 0.01
            and abs(row.high - (row.value + half)) < 0.3 * half + 0.01
        )
    with pytest.raises(UnknownNameError, match="K-NN"):
        training_change(t, X, router, train, without, test, fitted={"other": None})


def test_training_change_leaves_out_what_was_never_recorded(pool):
    t, X, topic = pool
    holes = SimpleNamespace(**{**vars(t), "score": t.score.copy()})
    train, test = (np.flatnonzero(t.split == s) for s in ("train", "test"))
    without, router = train[topic[train] != 1], {"K-NN": KNNRouter(k=7)}
    holes.score[test[:30]] = np.nan
    a, b = (
        training_change(holes, X, router, train, without, test, n_resamples=50),
        training_change(t, X, router, train, without, test[30:], n_resamples=50),
    )
    assert a.n[0] == b.n[0] == len(test) - 30 and np.isclose(a.value[0], b.value[0])
    none = training_change(holes, X, router, train, without, test[:30], n_resamples=50)
    assert none.n[0] == 0 and none[["full", "reduced", "value", "low", "high"]].isna().all(
        axis=None
    )


def test_an_evaluation_with_fitted_routers_is_the_same(pool):
    t, X, _ = pool
    few = dict(measures=("AUDC", "peak"), n_resamples=50)
    first = pool_evaluation(t, X, {"K-NN": KNNRouter(k=7)}, **few)
    again = pool_evaluation(t, X, {"K-NN": KNNRouter(k=7)}, fitted=first.fitted, **few)
    assert first.table.equals(again.table) and again.fitted["K-NN"] is first.fitted["K-NN"]
    with pytest.raises(UnknownNameError, match="Random"):
        pool_evaluation(
            t, X, {"K-NN": KNNRouter(k=7)}, fitted={"K-NN": first.fitted["K-NN"]}, **few
        )


def test_agreement_is_by_name_and_mean_over_budgets():
    wins, small_first = np.array([[0, 1.0], [1, 0], [1, 0]]), np.tile([0.4, 0.6], (3, 1))
    run = SimpleNamespace(
        models=["small", "large"],
        sweeps={
            "Heuristic": budget_sweep(small_first, wins, [1, 2.0], [0.5, 1, 2.0]),
            "Learned": budget_sweep(wins, wins, [1, 2.0], [0.5, 1, 2.0]),
        },
    )
    found = agreement_with(run, ["a", "a", "b"])
    assert found.Learned.to_dict() == {"Overall": 4 / 6, "a": 0.75, "b": 0.5}


def test_one_price_list(pool):
    t, X, _ = pool
    few = dict(measures=("AUDC",), n_resamples=20)
    a, b = (
        pool_evaluation(t, X, {"K-NN": KNNRouter(k=7)}, **few),
        pool_evaluation(t, X, {"K-NN": KNNRouter(k=7)}, prices=[1, 2, 3], **few),
    )
    assert a.table.equals(b.table)
    with pytest.raises(PoolInputError, match="one cost for each of 3 models"):
        pool_evaluation(t, X, {}, prices=[1, 2], **few)


# ---------- one table for each diagnostic ----------


def test_ranks_are_those_of_a_plain_statement(pool):
    t, _, topic = pool
    table = OutcomeTable(t.score, t.cost, t.query_ids, t.models, task=topic.astype(str))
    got = task_ranks(table, np.arange(240), "all").set_index("row")
    ranks = np.array(
        [
            [1 + (t.score[topic == k].mean(0) > a).sum() for a in t.score[topic == k].mean(0)]
            for k in range(3)
        ]
    )
    assert (
        np.allclose(got.value[t.models], ranks.mean(0))
        and (got.n == 3).all()
        and got.value.is_monotonic_increasing
    )
    placed = by_rank(got.reset_index(), 2)
    assert (
        placed.row.tolist() == ["rank 1", "rank 2"]
        and placed.model.tolist() == got.index[:2].tolist()
    )


def test_what_is_left_out_is_in_points_and_for_each_label(pool):
    t, X, topic = pool
    train, test = (np.flatnonzero(t.split == s) for s in ("train", "test"))
    router = {"K-NN": KNNRouter(k=7)}
    got = left_out_table(t, X, router, train, test, topic.astype(str), by=topic, n_resamples=100)
    for k, row in enumerate(got.itertuples()):
        alone = training_change(
            t,
            X,
            router,
            train,
            train[topic[train] != k],
            test[topic[test] == k],
            by=topic,
            n_resamples=100,
        ).iloc[0]
        assert (
            row.left_out == row.row == str(k)
            and row.column == "K-NN"
            and row.unit == "percentage points"
        )
        assert np.allclose(
            [row.value, row.low, row.high], [100 * alone.value, 100 * alone.low, 100 * alone.high]
        )


def test_a_family_against_a_reference(pool):
    t, X, topic = pool
    few = dict(measures=("AUDC",), n_resamples=900, tasks=topic)
    e = pool_evaluation(t, X, {"K-NN": KNNRouter(k=7), "one": KNNRouter(k=1)}, **few)
    got = against({"made": e}, "Heuristic", ["K-NN", "one"])
    for row in got.itertuples():
        plain = e.compare(row.first, "Heuristic", "AUDC")
        assert np.allclose(
            [row.difference, row.low, row.high], [plain[c] for c in ("difference", "low", "high")]
        )
        sides = {"above": row.simultaneous_low > 0, "below": row.simultaneous_high < 0}
        assert row.significant == plain["significant"] and row.verdict == next(
            (s for s, yes in sides.items() if yes), "cannot tell"
        )
    assert (got.comparisons == 2).all() and (got.second == "Heuristic").all()


def test_quality_at_each_price_is_what_a_query_gets_there(pool):
    t, X, topic = pool
    e = pool_evaluation(t, X, {"K-NN": KNNRouter(k=7)}, n_resamples=50)
    got, test = at_prices(e).set_index(["row", "column"]), t.split == "test"
    assert np.isclose(got.value["K-NN", "up to 1 B"], t.score[test, 0].mean()), (
        "one model is affordable"
    )
    best = t.score[t.split == "train"].mean(0).argmax()
    assert np.isclose(got.value["Best single", "up to 3 B"], t.score[test, best].mean())
    assert np.isclose(got.value["Oracle", "up to 2 B"], t.score[test, :2].max(1).mean())
    assert ((got.low <= got.value + 1e-9) & (got.value <= got.high + 1e-9)).all() and (
        got.n == test.sum()
    ).all()
    x, y = steps([1, 2, 4], [0.1, 0.2, 0.3], right=5)
    assert x.tolist() == [1, 2, 2, 4, 4, 5] and y.tolist() == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]


# ---------- the notebooks on a made pool ----------

NOTEBOOKS = project_root() / "nbs" / "papers"


def run_cells(name, given, display=lambda *shown: None):
    "Run the code cells of a papers notebook with the parameters `given`; returns the namespace."
    nb = notebooks.read_notebook(NOTEBOOKS / f"{name}.ipynb")
    at, space = notebooks.tagged(nb, "parameters"), {"display": display}
    for i, cell in enumerate(nb.cells):
        if cell.cell_type != "code":
            continue
        exec(compile(cell.source, f"{name}, cell {i}", "exec"), space)
        if i == at:
            assert set(given) <= set(space), "parameters that the notebook has"
            space.update(given)
    plt.close("all")
    return space


def made_pool(rng, specialists=True):
    "An embedded bank in small: 3 base models, 3 specialists, 5 columns; tasks are clouds in X."
    columns, names = (
        [*IN_DOMAIN, "language", "facts"],
        [SMALL, "gemma-3-270m", LARGE, "smollm2-rules", "smollm2-arithmetic", "smollm2-science"],
    )
    level = np.array(
        [
            [0.4, 0.3, 0.6, 0.8, 0.4, 0.4],
            [0.2, 0.4, 0.7, 0.2, 0.6, 0.2],
            [0.2, 0.5, 0.4, 0.2, 0.2, 0.6],
            [0.6, 0.4, 0.5, 0.5, 0.5, 0.5],
            [0.3, 0.6, 0.5, 0.3, 0.3, 0.3],
        ]
    )
    where = [
        (c, f"{c.split()[-1]}/{t}", s)
        for k, c in enumerate(columns)
        for t in (1, 2)
        for s in (("train", "test") if k < 3 else ("ood",))
        for _ in range(30)
    ]
    column, task, split = map(np.array, zip(*where))
    code = np.array([columns.index(c) for c in column])
    score = (rng.random((len(code), 6)) < level[code]).astype(np.float32)
    tasks = np.unique(task, return_inverse=True)[1]
    X = (np.eye(16)[tasks] + rng.normal(0, 0.2, (len(code), 16))).astype(np.float32)
    X[1::40] = X[::40][: len(X[1::40])]  # near-duplicates
    tokens = rng.integers(20, 60, score.shape)
    t = OutcomeTable(
        score,
        dict(
            params_b=[0.135, 0.268, 0.494, 0.135, 0.135, 0.135],
            tokens=tokens,
            latency_s=tokens / 100.0,
        ),
        [f"q{i}" for i in range(len(code))],
        names,
        {n: dict(base=SMALL, column=c) for n, c in zip(names[3:], IN_DOMAIN)},
        provenance="recorded: made for a test",
        task=task,
        domain=column,
        split=split,
    )
    return (t if specialists else t.select(names[:3])), X / np.linalg.norm(X, axis=1, keepdims=True)


@pytest.fixture()
def quick(monkeypatch):
    "Smoke-size training, one process, no windows."
    monkeypatch.setenv("ROUTERCOMPANION_JOBS", "1")
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    monkeypatch.setattr("routercompanion.report.styling.DPI", 40)
    backend = matplotlib.get_backend()
    plt.switch_backend("agg")
    with matplotlib.rc_context():
        yield monkeypatch
    plt.switch_backend(backend)


def patch(monkeypatch, **values):
    "Replace names of library modules, `module__name=value`."
    for name, value in values.items():
        monkeypatch.setattr(f"routercompanion.{name.replace('__', '.')}", value)


def tables(folder):
    "The written tables as frames, and what has a picture."
    return {p.stem: pd.read_csv(p) for p in folder.glob("*.csv")}, {
        p.stem for p in folder.glob("*.png")
    }


@pytest.mark.parametrize("specialists", [True, False])
def test_the_notebook_on_a_made_pool(specialists, quick, tmp_path):
    pool, X = made_pool(np.random.default_rng(0), specialists)
    patch(
        quick,
        data__banks__embedded__embedded_bank=lambda profile: SimpleNamespace(name=profile),
        studies__who_routes__pool_outcomes=lambda bank: pool,
        features__of_bank__bank_embeddings=lambda bank: X,
        models__features__load_encoder=lambda name: SimpleNamespace(
            encode=lambda texts: (
                np.random.default_rng(0).normal(size=(len(texts), 16)).astype(np.float32)
            )
        ),
    )
    given = dict(profile="smoke", out=str(tmp_path / "figures"))
    if specialists:
        given["mixinstruct"] = str(tmp_path / "mix")
        (tmp_path / "mix").mkdir()
        rng = np.random.default_rng(1)
        for part, n in (("train", 60), ("test", 40)):
            rows = [
                dict(
                    id=f"set/{part}{i}",
                    instruction=f"Do {i}",
                    input="",
                    candidates=[
                        dict(model=m, text="", scores=dict(bartscore=float(-3 * rng.random())))
                        for m in ("a-7b", "b-13b")
                    ],
                )
                for i in range(n)
            ]
            (tmp_path / "mix" / f"{part}_data_prepared.jsonl").write_text(
                "".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8"
            )
    space = run_cells("who_routes/results", given)
    found, pictures = tables(tmp_path / "figures")
    items = [f"who_routes_table{i}" for i in range(1, 8)] + [
        f"who_routes_figure{i}" for i in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
    ]
    assert set(items) <= set(found) and {f"who_routes_figure{i}" for i in range(1, 14)} <= pictures
    for item in (
        *(f"who_routes_table{i}" for i in range(1, 8)),
        "who_routes_figure5",
        "who_routes_figure7",
        "who_routes_figure4_beside",
    ):
        table = found[item]
        sides = [
            table[[c for c in table if c.endswith(side)]].notna().any(axis=None)
            for side in ("_published", "_ours")
        ]
        assert (
            all(sides)
            and table.row.is_unique
            and table.models_ours.notna().all()
            and table.models_published.notna().all()
        ), item
    ours, n_test = found["who_routes_table1_intervals"], (pool.split == "test").sum()
    floors = {"Random", "Heuristic", "Best single", "Hull", "TaskMean", "Oracle"}
    assert floors | {"K-NN", "KMeans", "MLP", "MF"} == set(ours.row) and (ours.n == n_test).all()
    known = ours[ours.value.notna()]
    assert (known.low <= known.value).all() and ours[ours.value.isna()].why.notna().all()
    shown = found["who_routes_table1"].set_index("row")
    assert shown.index.tolist()[:4] == [
        "K-NN",
        "Universal (KMeans)",
        "MLP",
        "Matrix Factorization",
    ] and floors <= set(shown.index)
    of_knn = ours[(ours.row == "K-NN") & (ours.column == "Original")].set_index("metric")
    assert np.isclose(
        shown["Original average accuracy_ours"]["K-NN"], 100 * of_knn.value["average accuracy"]
    )
    assert shown.status["K-NN"] == "analogue" and shown.status["Hull"] == "analogue"
    for item, label, size in (
        ("who_routes_costs_differences", "cost", 4),
        ("who_routes_floor", "cost", 4),
        ("who_routes_ood_differences", "pool", 5),
    ):
        family = found[item]
        assert (family.comparisons == size).all() and (
            family.groupby(label)["first"].nunique() == size
        ).all(), item
        assert (family.simultaneous_low <= family.low + 0.01).all() and (
            family.p_holm >= family.p_value - 1e-12
        ).all(), item
    assert (found["who_routes_pool"].base == SMALL).sum() == 3 * specialists and (
        "who_routes_pool_specialists" in found
    ) == ("who_routes_figure14" in found) == specialists
    groups = found["who_routes_duplicates"].query("threshold == .999").iloc[0]
    assert groups["queries"] == 2 * groups["groups"] == 2 * len(X[1::40]), (
        "the made copies and no others"
    )
    held = found["who_routes_table7_intervals"]
    assert (
        len(held) == 6 * 4
        and found["who_routes_table7"]["K-NN_verdict"].isin(["not tested", "cannot tell"]).sum()
        == 6
    )
    if specialists:
        own = (
            found["who_routes_pool_specialists"].query("queries == 'own column'").set_index("model")
        )
        test = pool.split == "test"
        for m, c in zip(pool.models[3:], IN_DOMAIN):
            rows = test & (pool.domain == c)
            assert (
                np.isclose(
                    own.gain[m],
                    pool.score[rows, pool.models.index(m)].mean() - pool.score[rows, 0].mean(),
                )
                and own.gain_low[m] <= own.gain[m] <= own.gain_high[m]
            )
        assert space["joined"].column.nunique() == 2


class WordEncoder:
    "Unit vectors from the first `window` words: stands in for an encoder with a short window."

    def __init__(self, window=12, width=16):
        self.model = SimpleNamespace(
            max_seq_length=window, tokenizer=lambda text, truncation: dict(input_ids=text.split())
        )
        self.width = width

    def encode(self, texts):
        def word(w):
            seed = int(hash_fraction("word", w) * 2**52)
            return np.random.default_rng(seed).normal(size=self.width)

        X = np.array(
            [
                np.sum([word(w) for w in str(t).split()[: self.model.max_seq_length]], 0)
                for t in texts
            ],
            np.float32,
        )
        return X / np.linalg.norm(X, axis=1, keepdims=True)


def made_outcomes(rng, tasks, models, splits, per_task, prefix="", **cost):
    "Outcomes on `tasks` (name -> accuracy by model); prompts of a task begin alike."
    name, split = map(
        np.array, zip(*[(t, s) for t in tasks for s in splits(t) for _ in range(per_task)])
    )
    score = (rng.random((len(name), len(models))) < np.array([tasks[t] for t in name])).astype(
        np.float32
    )
    text = [
        f"{prefix.format(t)}{t} number {rng.integers(10**6)} of {rng.integers(10**6)}" for t in name
    ]
    return OutcomeTable(
        score,
        cost,
        [f"{t}-{i}" for i, t in enumerate(name)],
        models,
        provenance="recorded: made for a test",
        task=name,
        split=split,
        prompts=text,
    )


def test_the_bench_notebook_on_made_outcomes(quick, tmp_path):
    rng = np.random.default_rng(0)
    models = [
        "mistralai/mistral-7b-chat",
        "mistralai/mixtral-8x7b-chat",
        "gpt-4-1106-preview",
        *(f"vendor/model-{i}" for i in range(8)),
    ]
    tasks = {
        t: np.clip(base + rng.normal(0, 0.1, 11), 0.05, 0.95)
        for t, base in (("arc-challenge", 0.6), ("mbpp", 0.4), ("winogrande", 0.5))
    }
    bench = made_outcomes(
        rng,
        tasks,
        models,
        lambda t: ("train", "test"),
        40,
        "{} example one line two line three line four line five line six seven eight\n",
        usd=np.geomspace(1e-4, 1e-2, 11),
    )
    bench.score[:3] = np.nan
    seven = {
        t: np.clip(0.5 + rng.normal(0, 0.2, 7), 0.05, 0.95)
        for t in ("gsm8k", "mmlu", "arc_easy", "mbpp")
    }
    dc = made_outcomes(
        rng,
        seven,
        [f"lab/seven-{i}" for i in range(7)],
        lambda t: ("ood",) if t == "mbpp" else ("train", "test"),
        25,
        params_b=np.full(7, 7.0),
    )
    dc.score *= 0.5  # right answers carry a probability
    dc = replace(dc, correct_rule="score > 0")
    patch(
        quick,
        data__sets__routerbench__load_routerbench=lambda: bench,
        data__sets__routerdc__load_routerdc=lambda: dc,
        models__features__load_encoder=lambda name: WordEncoder(),
        core__get_profile=lambda name: SimpleNamespace(n_resamples=50, paper_seed=42),
    )
    quick.setenv("ROUTERCOMPANION_CACHE", str(tmp_path / "cache"))
    space = run_cells(
        "who_routes/bench", dict(out=str(tmp_path / "figures"), per_task=20, findings="described")
    )
    found, pictures = tables(tmp_path / "figures")
    made = {f"who_routes_table{i}" for i in range(1, 8)} | {
        f"who_routes_figure{i}" for i in (2, 3, 6, 7, 8, 9, 10, 11, 12, 13)
    }
    assert (
        made <= set(found)
        and {f"who_routes_figure{i}" for i in (2, 3, 7, 8, 9, 10, 11, 12, 13)} <= pictures
    )
    seen = found["who_routes_encoder"].set_index("encoded")
    assert (
        found["who_routes_shared_prefix"].hidden.all()
        and seen.distinct["whole prompts"]
        == 3
        < seen.distinct["questions"]
        == seen.queries["questions"]
    )
    assert len(space["part"]) == 3 * 2 * 20 + 20 and set(np.unique(space["part"].score)) == {0, 1}
    assert found["who_routes_sets"].set_index("set").missing.tolist() == [33, 0]
    held = found["who_routes_table5_intervals"]
    shown = found["who_routes_table5"].set_index("row")
    assert shown["K-NN_published"]["gsm8k"] == -14.28 and np.isclose(
        shown["K-NN_ours"]["gsm8k"],
        held.set_index(["row", "column"]).value["gsm8k (RouterDC)", "K-NN"],
    )
    assert found["who_routes_table6"].set_index("row").status["RouterBench"] == "same data"
    assert {"Best single", "Hull", "TaskMean", "SVM"} <= set(found["who_routes_table1"].row) and (
        found["who_routes_table1_differences"].comparisons == 6
    ).all()
    assert set(held.row) == {f"{t} (RouterBench)" for t in tasks} | {
        f"{t} (RouterDC)" for t in seven if t != "mbpp"
    } and set(held.column) == {"K-NN", "KMeans", "MLP", "MF", "SVM"}
    assert (held.low <= held.value + 1e-9).all() and (held.value <= held.high + 1e-9).all()
    alone = found["who_routes_routerdc"].set_index(["row", "column"]).value
    test = space["part"].split == "test"
    assert np.isclose(alone["always seven-0", "test"], space["part"].score[test, 0].mean())
    best = space["part"].score[space["part"].split == "train"].mean(0).argmax()
    assert np.isclose(
        alone["Heuristic", "test"], space["part"].score[test, best].mean()
    ) and np.isclose(alone["Oracle", "test"], space["part"].score[test].max(1).mean())
