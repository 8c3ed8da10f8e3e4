"""Evaluation: shared resamples, averages, paired differences, leaving a task out. Every number is stated a second way."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from routercompanion.core import UnknownNameError
from routercompanion.data.pool import PoolInputError
from routercompanion.evaluate.pair import (
    column_evaluation,
    fit_router,
    pair_evaluation,
    router_scores,
)
from routercompanion.evaluate.results import Evaluation, EvaluationError, average_rows, join
from routercompanion.features.of_bank import Signals, bank_signals
from routercompanion.metrics.bootstrap import limits
from routercompanion.metrics.comparisons import FamilyError
from routercompanion.metrics.measures import GAP_MEASURES, PAIR_MEASURES
from routercompanion.parallel import fan_out
from routercompanion.metrics.ability import weighted_auroc, within_task_auroc
from routercompanion.metrics.call_rate import weighted_hcr, weighted_lpm
from routercompanion.routers.baselines import LabelOracle, RandomRouter, TaskMean
from routercompanion.routers.base import BinaryRouter
from routercompanion.metrics.bootstrap import bootstrap_ci, paired_bootstrap
from routercompanion.studies.unseen_tasks import leave_one_task_out

N = 160


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("ROUTERCOMPANION_QUIET", "1")


@pytest.fixture(scope="module")
def column():
    rng = np.random.default_rng(3)
    task = np.array(["easy", "hard", "odd", "even"])[rng.integers(0, 4, N)]
    hard = rng.normal(size=N) + (task == "hard")
    y = np.stack([hard + rng.normal(size=N) < 0.2, hard + rng.normal(size=N) < 1.5], 1).astype(
        np.float32
    )
    return (
        {
            "good": hard + 0.5 * rng.normal(size=N),
            "poor": hard + 3 * rng.normal(size=N),
            "coarse": np.round(hard),
        },
        y,
        task,
    )


def signals_of(column, split=None):
    scores, y, task = column
    return Signals(
        dict(
            task=task,
            none=np.arange(N),
            outcomes=y,
            embedding=np.stack(list(scores.values()), 1).astype(np.float32),
        ),
        y,
        task,
        np.repeat("c", N),
        np.where(np.arange(N) % 2, "train", "test") if split is None else split,
        np.arange(N).astype(str),
    )


# ---------- resamples ----------

STATEMENTS = {
    "pooled AUROC": lambda s, y, t, weights: weighted_auroc(s, y[:, 0], weights),
    "within-task AUROC": lambda s, y, t, weights: within_task_auroc(s, y[:, 0], t, weights=weights),
    "HCR": lambda s, y, t, weights: weighted_hcr(s, y[:, 0], y[:, 1], weights),
    "LPM": lambda s, y, t, weights: weighted_lpm(s, y[:, 0], y[:, 1], weights, d0=0.25),
}


@pytest.mark.parametrize("metric", STATEMENTS)
def test_intervals_are_those_of_the_bootstrap(column, metric):
    scores, y, task = column
    e = pair_evaluation(
        scores, y, task, measures=(metric,), n_resamples=300, rng=np.random.default_rng(5)
    )
    table = e.table.set_index("row")
    for name, s in scores.items():
        plain = bootstrap_ci(
            STATEMENTS[metric], s, y, task, n_resamples=300, rng=np.random.default_rng(5)
        )
        found = table.loc[name, ["value", "low", "high"]].to_numpy(float)
        assert np.allclose(found, [plain.estimate, plain.low, plain.high], atol=1e-12)
    ours = e.compare("good", "poor", metric)
    paired = paired_bootstrap(
        STATEMENTS[metric],
        scores["good"],
        scores["poor"],
        y,
        task,
        n_resamples=300,
        rng=np.random.default_rng(5),
    )
    assert np.allclose(
        [ours["difference"], ours["low"], ours["high"], ours["p_value"]],
        [paired.difference, paired.low, paired.high, paired.p_value],
        atol=1e-12,
    )


def many_tasks(column, k=10):
    "The column's queries dealt to k tasks."
    scores, y, _ = column
    return scores, y, np.array([f"t{i % k}" for i in range(N)])


def test_intervals_over_tasks_leave_each_task_out_and_take_students_t(column):
    scores, y, task = many_tasks(column)
    e = pair_evaluation(scores, y, task, measures=("pooled AUROC",), n_resamples=20)
    row = e.table.set_index("row").loc["good"]
    names = np.unique(task)
    left = [roc_auc_score(1 - y[task != t, 0], scores["good"][task != t]) for t in names]
    error = np.sqrt(9 / 10 * np.sum((left - np.mean(left)) ** 2))
    reach = stats.t.ppf(0.975, 9) * error
    assert np.allclose(
        [row.task_low, row.task_high], [row.value - reach, row.value + reach], atol=1e-12
    )
    assert row.tasks == 10
    d = e.compare("good", "poor", "pooled AUROC")
    other = [roc_auc_score(1 - y[task != t, 0], scores["poor"][task != t]) for t in names]
    apart = np.subtract(left, other)
    reach = stats.t.ppf(0.975, 9) * np.sqrt(9 / 10 * np.sum((apart - apart.mean()) ** 2))
    assert np.allclose(
        [d["task_low"], d["task_high"]],
        [d["difference"] - reach, d["difference"] + reach],
        atol=1e-12,
    )


def test_below_eight_tasks_nothing_is_said_about_tasks(column):
    for k, said in ((7, False), (8, True)):
        scores, y, task = many_tasks(column, k)
        e = pair_evaluation(scores, y, task, n_resamples=20)
        assert e.table[["task_low", "task_high"]].notna().all(axis=None) == said
        assert np.isfinite(e.compare("good", "poor", "pooled AUROC")["task_p"]) == said


def test_estimates_agree_with_scikit_learn_and_every_measure_has_a_value(column):
    scores, y, task = column
    e = pair_evaluation(scores, y, task, measures=PAIR_MEASURES, n_resamples=20)
    for name, s in scores.items():
        assert np.isclose(e.value(name, "pooled AUROC"), roc_auc_score(1 - y[:, 0], s))
    values = list(e.estimate.values())
    assert all(np.isfinite(v) and -1 <= v <= 2 for v in values) and len(values) == 3 * len(
        PAIR_MEASURES
    )
    assert e.n == {"all": N} and len(GAP_MEASURES) == 7 and (e.table.why == "").all()


def test_a_router_s_resamples_do_not_depend_on_its_neighbours(column):
    scores, y, task = many_tasks(column)
    alone, together = (
        pair_evaluation({k: scores[k] for k in keys}, y, task, n_resamples=50)
        for keys in (["poor"], ["coarse", "poor", "good"])
    )
    for key in alone.estimate:
        assert np.array_equal(alone.draws[key], together.draws[key])
        assert np.array_equal(alone.left_out[key], together.left_out[key])
    again, other = (
        pair_evaluation({"poor": scores["poor"]}, y, task, n_resamples=50, rng=r) for r in (42, 43)
    )
    found = [e.resampled("poor", "pooled AUROC") for e in (again, other, alone)]
    assert np.array_equal(found[0], found[2]) and not np.array_equal(found[1], found[2])


def test_two_columns_do_not_draw_the_same_queries(column):
    scores, y, task = column
    e = join(
        {
            c: pair_evaluation(
                {"good": scores["good"]},
                y,
                np.char.add(c, task),
                measures=("pooled AUROC",),
                n_resamples=600,
            )
            for c in "ab"
        },
        {"AVG": ["a", "b"]},
    )
    a, b, mean = (e.resampled("good", "pooled AUROC", c) for c in ("a", "b", "AVG"))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.2  # 600 independent pairs: five standard errors
    assert np.var(mean) < 0.65 * np.var(
        np.r_[a, b]
    )  # one half when they are independent, 1 when they are the same


# ---------- averages and differences ----------


def halves(column, **options):
    scores, y, task = many_tasks(column)
    parts = dict(first=np.arange(0, 60), second=np.arange(60, N))
    found = {
        c: pair_evaluation(
            {k: s[rows] for k, s in scores.items()},
            y[rows],
            task[rows],
            **{"n_resamples": 80, **options},
        )
        for c, rows in parts.items()
    }
    return found, join(found, {"AVG": ["first", "second"], "ONE": ["second"]})


def test_an_average_is_the_plain_mean_of_the_columns(column):
    found, e = halves(column)
    table = e.table.set_index(["column", "row", "metric"])
    for row, _, measure in found["first"].estimate:
        mean = np.mean([found[c].value(row, measure) for c in found])
        drawn = (
            found["first"].resampled(row, measure) + found["second"].resampled(row, measure)
        ) / 2
        ours = table.loc[("AVG", row, measure), ["value", "low", "high"]].to_numpy(float)
        assert np.allclose(ours, [mean, *np.quantile(drawn, [0.025, 0.975])])
        assert table.loc[("ONE", row, measure), "value"] == found["second"].value(row, measure)
        assert e.value(row, measure, ["first", "second"]) == e.value(row, measure, "AVG")
    assert set(table.loc["AVG"].n) == {N} and len(table) == 4 * 3 * 2


def test_an_average_over_columns_leaves_out_one_task_of_one_column_at_a_time(column):
    found, e = halves(column, measures=("pooled AUROC",))
    row = e.table.set_index(["column", "row"]).loc[("AVG", "good")]
    parts = []
    for c in found:
        left = found[c].left_out["good", "all", "pooled AUROC"] / 2
        parts.append((len(left) - 1) / len(left) * np.sum((left - left.mean()) ** 2))
    degrees = sum(parts) ** 2 / sum(v**2 / 9 for v in parts)  # Satterthwaite
    reach = stats.t.ppf(0.975, degrees) * np.sqrt(sum(parts))
    assert row.tasks == 20 and np.allclose(
        [row.task_low, row.task_high], [row.value - reach, row.value + reach], atol=1e-12
    )


def test_rows_that_are_averaged_keep_their_pairs(column):
    scores, y, task = many_tasks(column)
    e = pair_evaluation(scores, y, task, n_resamples=50)
    mean = average_rows(e, {"both": ["good", "poor"]})
    for m in e.measures:
        assert np.array_equal(
            mean.resampled("both", m), (e.resampled("good", m) + e.resampled("poor", m)) / 2
        )
        assert mean.value("both", m) == (e.value("good", m) + e.value("poor", m)) / 2


def test_a_difference_changes_its_sign_with_the_order(column):
    scores, y, task = many_tasks(column)
    e = pair_evaluation(scores, y, task, n_resamples=200)
    for metric in ("within-task AUROC", "pooled AUROC"):
        a, b = e.compare("good", "poor", metric), e.compare("poor", "good", metric)
        assert (
            a["difference"] == -b["difference"]
            and a["p_value"] == b["p_value"] <= 1
            and a["n"] == N
        )
        assert np.allclose(
            [a["low"], a["high"], a["task_low"], a["task_high"]],
            [-b["high"], -b["low"], -b["task_high"], -b["task_low"]],
        )
        same = e.compare("good", "good", metric)
        assert same["difference"] == same["low"] == same["high"] == 0 and same["p_value"] == 1


def test_a_clear_difference_has_the_smallest_p_value_and_a_wider_level_a_wider_interval(column):
    _, y, task = column
    e = pair_evaluation(
        {"oracle": -y[:, 0], "worst": y[:, 0]}, y, task, measures=("pooled AUROC",), n_resamples=99
    )
    found = e.compare("oracle", "worst", "pooled AUROC")
    assert found["difference"] == 1 and np.isclose(found["p_value"], 2 / 100)
    wide, narrow = (
        pair_evaluation(column[0], y, task, n_resamples=200, level=v).compare(
            "good", "poor", "pooled AUROC"
        )
        for v in (0.99, 0.5)
    )
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


def test_a_family_is_against_the_better_floor_and_holds_together(column):
    scores, y, task = many_tasks(column)
    rows = {**scores, "Random": np.zeros(N), "TaskMean": (task == "t3").astype(float)}
    e = pair_evaluation(rows, y, task, measures=("pooled AUROC", "CPT(50%)"), n_resamples=2000)
    better = max(("Random", "TaskMean"), key=lambda r: e.value(r, "pooled AUROC"))
    cheaper = min(("Random", "TaskMean"), key=lambda r: e.value(r, "CPT(50%)"))
    assert e.reference("pooled AUROC") == better and e.reference("CPT(50%)") == cheaper
    family = e.family("pooled AUROC").set_index("row")
    assert set(family.index) == set(scores) and (family.reference == better).all()
    draws = np.stack(
        [
            e.resampled(r, "pooled AUROC") - e.resampled(better, "pooled AUROC")
            for r in family.index
        ],
        1,
    )
    worst = np.abs((draws - family.difference.to_numpy()) / draws.std(0, ddof=1)).max(1)
    reach = np.quantile(worst, 0.95) * draws.std(0, ddof=1)
    assert np.allclose(family.simultaneous_high - family.difference, reach, rtol=0.02)
    assert (family.simultaneous_low < family.low).all() and (family.p_holm >= family.p_value).all()
    for name in family.index:
        assert np.isclose(
            family.difference[name], e.compare(name, better, "pooled AUROC")["difference"]
        )
    with pytest.raises(FamilyError):
        e.family("pooled AUROC", rows=["good"])
    with pytest.raises(EvaluationError, match="There is no floor"):
        pair_evaluation(scores, y, task, n_resamples=20).family("pooled AUROC")


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            lambda e, f: e.value("best", "pooled AUROC", "AVG"),
            "No 'pooled AUROC' of 'best' here. Rows: good",
        ),
        (
            lambda e, f: e.value("good", "pooled AUROC"),
            "several columns; name one: first, second, AVG",
        ),
        (lambda e, f: e.value("good", "pooled AUROC", "third"), "No column 'third' here"),
        (lambda e, f: join({}), "no column to join"),
        (lambda e, f: join(f, {"AVG": ["third"]}), "'third', which is not there"),
        (
            lambda e, f: join({**f, "wide": Evaluation({}, {}, {}, {"all": 1}, level=0.99)}),
            "Use one level",
        ),
    ],
)
def test_an_address_that_is_not_there_is_named(column, wrong, message):
    found, e = halves(column)
    with pytest.raises(EvaluationError, match=message):
        wrong(e, found)


# ---------- what is undefined ----------


def test_gap_measures_are_undefined_with_a_reason_when_the_large_model_is_no_better(column):
    scores, y, task = many_tasks(column)
    level = np.stack([y[:, 0], y[:, 0]], 1)
    asked = dict(measures=("pooled AUROC", "HCR", "MPM"), n_resamples=50)
    e = join(
        {
            "level": pair_evaluation(scores, level, task, **asked),
            "gap": pair_evaluation(scores, y, task, **asked),
        },
        {"AVG": ["level", "gap"]},
    )
    table = e.table.set_index(["column", "metric", "row"])
    for metric in ("HCR", "MPM"):
        for c in ("level", "AVG"):
            assert (
                table.loc[(c, metric, "good"), ["value", "low", "high", "task_low", "task_high"]]
                .isna()
                .all()
            )
            assert (
                table.loc[(c, metric, "good"), "why"]
                == "the large model is no better than the small one"
            )
        assert np.isfinite(
            table.loc[("gap", metric, "good"), ["value", "low", "high"]].to_numpy(float)
        ).all()
        found = e.compare("good", "poor", metric, "AVG")
        assert all(
            np.isnan(found[k])
            for k in ("difference", "low", "high", "task_low", "task_high", "p_value")
        )
    assert table.loc[("AVG", "pooled AUROC", "good"), "value"] > 0.5
    one_class = pair_evaluation(
        {"good": scores["good"]}, np.ones((N, 2)), task, n_resamples=5
    ).table
    assert one_class.value.isna().all() and one_class.why.str.contains("right").all()


def test_undefined_resamples_are_left_out_of_a_p_value():
    values = np.array([0.2, np.nan, 0.1, np.nan, 0.3])
    estimate = {("a", "c", "m"): 0.2, ("b", "c", "m"): 0.0}
    e = Evaluation(estimate, {("a", "c", "m"): values, ("b", "c", "m"): np.zeros(5)}, {}, {"c": 9})
    found = e.compare("a", "b", "m")
    assert found["p_value"] == 2 * 1 / (3 + 1) and np.isclose(
        found["low"], np.quantile([0.1, 0.2, 0.3], 0.025)
    )
    assert found["undefined"] == 2
    assert np.isnan(limits(np.full(3, np.nan))).all() and limits(np.array([np.nan, 2.0])) == (2, 2)


def test_columns_of_a_bank_are_measured_apart(column):
    signals = signals_of(column)
    rows = signals.rows(split="test")
    scores = {k: s[rows] for k, s in column[0].items()}
    keep = np.arange(len(rows)) % 3 > 0
    e = column_evaluation(
        scores, signals, rows, ["c"], keep=keep, averages={"AVG": ["c"]}, n_resamples=30
    )
    alone = pair_evaluation(
        {k: s[keep] for k, s in scores.items()},
        signals.outcomes[rows[keep]],
        signals.task[rows[keep]],
        n_resamples=30,
    )
    assert e.n["c"] == keep.sum() and e.value("good", "pooled AUROC", "AVG") == alone.value(
        "good", "pooled AUROC"
    )
    with pytest.raises(PoolInputError, match="Column 'd' has no query"):
        column_evaluation(scores, signals, rows, ["d"])


def test_four_worlds_are_one():
    "The names of the old results and curves are nowhere, and the floor stays small."
    root = Path(__file__).resolve().parent.parent
    gone = [
        "column_" + "draws",
        r"\bDra" + r"ws\b",
        "Pool" + "Evaluation",
        "sweep" + "_pool",
        "agent_" + "draws",
        "measure_" + "draws",
        "Variant" + "Study",
        "CallRate" + "Curve",
        "Deferral" + "Curve",
        "Cost" + "Curve",
    ]
    files = [
        *root.glob("nbs/**/*.ipynb"),
        *root.glob("routercompanion/**/*.py"),
        *root.glob("tests/**/*.py"),
    ]
    found = [
        (f.name, name)
        for f in files
        for name in gone
        if re.search(name, f.read_text(encoding="utf-8"))
    ]
    assert not found
    lines = sum(
        len(f.read_text(encoding="utf-8").splitlines())
        for f in (root / "routercompanion/evaluate").glob("*.py")
    )
    assert lines <= 600


# ---------- routers ----------


class Spy(BinaryRouter):
    "Remembers (in a list given from outside) the tasks it was fitted on and asked about; its score is a number of the training set."

    feature_kind, log = "task", []

    def _fit(self, X, y, validation):
        self.seen_ = np.unique(X)
        Spy.log.append(set(self.seen_))

    def _score(self, X):
        return np.array([float(len(self.seen_)) if x not in self.seen_ else -1.0 for x in X])


def test_the_left_out_task_is_really_left_out(column, monkeypatch):
    monkeypatch.setenv("ROUTERCOMPANION_JOBS", "1")  # in this process, so that the spy is seen
    signals = signals_of(column)
    train, test = signals.rows(split="train"), signals.rows(split="test")
    Spy.log.clear()
    scores = leave_one_task_out(Spy(), signals, train, test)
    everything = set(np.unique(signals.task))
    assert [everything - seen for seen in Spy.log] == [{t} for t in sorted(everything)]
    assert (scores == len(everything) - 1).all() and scores.shape == (
        len(test),
    )  # no query was scored by a router that had seen its task


def test_left_out_scores_stand_in_the_order_of_the_rows(column):
    signals = signals_of(column)
    train, rows = (
        signals.rows(split="train"),
        np.random.default_rng(0).permutation(signals.rows(split="test")),
    )
    found = leave_one_task_out(TaskMean(), signals, train, rows)
    for t in np.unique(signals.task):
        expected = fit_router(
            TaskMean(), signals, train[signals.task[train] != t]
        ).decision_function(np.array([t]))
        assert np.allclose(found[signals.task[rows] == t], expected)


def test_fitting_leaves_the_given_router_alone_and_uses_the_given_rows(column):
    signals, router = signals_of(column), TaskMean()
    train, test = signals.rows(split="train"), signals.rows(split="test")
    scores, fitted = router_scores(
        {"mean": router, "oracle": LabelOracle(), "random": RandomRouter()}, signals, train, test
    )
    assert not [a for a in vars(router) if a.endswith("_")] and fitted["mean"] is not router
    rate = {
        t: 1 - signals.outcomes[train][signals.task[train] == t, 0].mean()
        for t in np.unique(signals.task)
    }
    order = lambda v: np.argsort(np.argsort([v[t] for t in sorted(rate)])).tolist()
    assert order(rate) == order({t: scores["mean"][signals.task[test] == t][0] for t in rate})
    assert roc_auc_score(1 - signals.outcomes[test, 0], scores["oracle"]) == 1 and all(
        s.shape == (len(test),) for s in scores.values()
    )


def test_signals_hand_out_rows_and_name_an_unknown_kind(column):
    signals = signals_of(column)
    assert (
        np.array_equal(signals.of(TaskMean(), [5, 2]), signals.task[[5, 2]]) and len(signals) == N
    )
    both = signals.rows(split="test", task=["easy", "odd"])
    assert both.tolist() == [
        i for i in range(N) if i % 2 == 0 and signals.task[i] in ("easy", "odd")
    ]

    class Other(TaskMean):
        feature_kind = "hidden_mean"

    with pytest.raises(UnknownNameError, match="hidden_mean.*embedding, none, outcomes, task"):
        signals.of(Other(), [0])


def test_bank_signals_are_aligned_by_query_id():
    from routercompanion.data.bank import make_bank
    from routercompanion.data.outcomes import OutcomeTable

    bank = make_bank(
        [
            dict(
                prompt=f"q{i}",
                references=["x"],
                task="ab"[i % 2],
                domain="d",
                source="s",
                split="test",
            )
            for i in range(6)
        ]
    )
    order = np.array([3, 0, 5, 1, 4, 2])

    class Store:
        query_ids = bank.query_ids[order]
        mean, last = (
            order[:, None, None] + np.zeros((6, 2, 3)),
            -order[:, None, None] + np.zeros((6, 2, 3)),
        )
        logits = dict(entropy=order / 10, top_logits=np.zeros((6, 20)))

        def rows(self, ids):
            return np.array([list(self.query_ids).index(q) for q in ids])

    score = np.stack([order % 2, order % 3 > 0], 1).astype(np.float32)
    outcomes = OutcomeTable(score, {}, bank.query_ids[order], ["s", "l"])
    signals = bank_signals(bank, Store(), np.eye(6), outcomes, ("s", "l"))
    assert (
        signals.kinds["hidden_mean"][:, 0, 0].tolist()
        == [0, 1, 2, 3, 4, 5]
        == (-signals.kinds["hidden_last"][:, 1, 2]).tolist()
    )
    assert np.allclose(signals.kinds["logits"]["entropy"], np.arange(6) / 10) and set(
        signals.kinds["logits"]
    ) == {"entropy", "logit_margin"}
    assert signals.outcomes.tolist() == [[i % 2, int(i % 3 > 0)] for i in range(6)] and list(
        signals.query_ids
    ) == list(bank.query_ids)
    turned = bank_signals(bank, Store(), np.eye(6), outcomes, ("l", "s"))
    assert np.array_equal(turned.outcomes, signals.outcomes[:, ::-1])


# ---------- further kinds, and records ----------


def small_bank():
    from routercompanion.data.bank import make_bank

    rows = [
        dict(
            prompt=f"q{i}",
            references=["x"],
            task="ab"[i % 2],
            domain="d",
            source="s",
            split=("train", "train", "test", "ood")[i % 4],
        )
        for i in range(80)
    ]
    return make_bank(rows, name="little")


def table_of(bank, models=("first", "second", "third")):
    from routercompanion.data.outcomes import OutcomeTable

    rng = np.random.default_rng(5)
    return OutcomeTable(
        (rng.random((len(bank), len(models))) < 0.5).astype(np.float32),
        {},
        bank.query_ids,
        list(models),
    )


def store_of(bank, shift=0.0):
    rng = np.random.default_rng(6)

    class Store:
        query_ids, manifest = bank.query_ids, {"model_hash": "f" * 8}
        mean, last = rng.normal(size=(len(bank), 3, 4)) + shift, rng.normal(size=(len(bank), 3, 4))
        logits = dict(
            entropy=rng.random(len(bank)),
            margin=rng.random(len(bank)),
            max_logit=rng.random(len(bank)),
            top_logits=-np.sort(-rng.random((len(bank), 3))),
        )

        def rows(self, ids):
            return np.array([list(self.query_ids).index(q) for q in ids])

    return Store()


def test_further_kinds_join_the_signals_of_a_bank_and_replace_none():
    from routercompanion.core import CompanionError

    bank = small_bank()
    args = bank, store_of(bank), np.eye(80), table_of(bank), ("first", "second")
    plain, more = (
        bank_signals(*args),
        bank_signals(*args, extra={"answers": {"p_true": np.arange(80)}}),
    )
    assert (
        set(more.kinds) - set(plain.kinds) == {"answers"}
        and more.kinds["answers"]["p_true"][7] == 7
        and set(bank_signals(*args, {}).kinds) == set(plain.kinds)
    )
    with pytest.raises(CompanionError, match=r"\['embedding'\] are the bank's own"):
        bank_signals(*args, extra={"embedding": np.eye(80)})
    with pytest.raises(CompanionError, match="'answers' has 79 rows for 80"):
        bank_signals(*args, extra={"answers": np.arange(79)})


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "nbs").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setenv("ROUTERCOMPANION_ROOT", str(tmp_path))
    monkeypatch.setenv("ROUTERCOMPANION_JOBS", "1")


def test_scores_of_other_small_models_are_those_of_routers_trained_on_them(project, monkeypatch):
    from routercompanion.studies import xbench
    from routercompanion.routers.difficulty.probes import MeanProbe
    from routercompanion.data.records import recorded_signals
    from routercompanion.routers.uncertainty.logits import Entropy

    bank, asked = small_bank(), []
    outcomes, stores = table_of(bank), {"second": store_of(bank, 1.0), "third": store_of(bank, 2.0)}
    monkeypatch.setattr(
        xbench,
        "bank_features",
        lambda b, model, **options: (asked.append((model, options)), stores[model])[1],
    )
    monkeypatch.setattr(xbench, "bank_embeddings", lambda b: np.eye(len(b), dtype=np.float32))
    routers = {"ProbeMean": MeanProbe(epochs=2), "Entropy": Entropy()}
    xbench.record_scores(bank, outcomes, ["second", "third"], routers, "others", dtype="BF16")
    rest = np.flatnonzero(bank.table.split != "train")
    found, about = recorded_signals("others", bank.take(rest), with_about=True)
    assert asked == [("second", dict(dtype="BF16")), ("third", dict(dtype="BF16"))] and list(
        found
    ) == [f"{m}: {r}" for m in ("second", "third") for r in routers]
    train = np.flatnonzero(bank.table.split == "train")
    for i, model in ((1, "second"), (2, "third")):
        y = outcomes.score[train][:, [i, 0]]
        by_hand = (
            MeanProbe(epochs=2)
            .fit(stores[model].mean[train], y)
            .decision_function(stores[model].mean[rest])
        )
        assert np.allclose(found[f"{model}: ProbeMean"], by_hand, atol=1e-6) and np.allclose(
            found[f"{model}: Entropy"], stores[model].logits["entropy"][rest]
        )
    assert (
        about["training_queries"] == 40
        and about["weights_sha256"] == {"second": "f" * 8, "third": "f" * 8}
        and "MeanProbe(epochs=2)" in about["routers"]["ProbeMean"]
    )


def test_answers_are_recorded_for_every_query(project, monkeypatch):
    from routercompanion.features import answers
    from routercompanion.features.answers import record_answers
    from routercompanion.data.records import recorded_signals

    bank, asked = small_bank(), {}

    class Model:
        name, hash, dtype = "first", "e" * 8, "float32"

    def stand_in(lm, bank, *, judges, samples, **options):
        asked.update(judges=judges, samples=samples, **options)
        return dict(
            self_ask=np.arange(len(bank)) / 80,
            tokens=np.where(np.arange(len(bank)) == 3, np.nan, 2.0),
        )

    monkeypatch.setattr(answers, "answer_signals", stand_in, raising=False)
    record_answers(bank, Model(), judges=("exact",), samples=3, rng=1)
    found, about = recorded_signals("answers", bank, with_about=True)
    assert (
        asked
        == dict(
            judges=("exact",),
            samples=3,
            rng=1,
            answers=None,
            max_new_tokens=16,
            include=("self_ask", "semantic_entropy"),
        )
        and about["judges"] == ["exact"]
        and about["weights_sha256"] == "e" * 8
        and about["samples"] == 3
    )
    assert (
        np.allclose(found["self_ask"], np.arange(80) / 80)
        and np.isnan(found["tokens"][3])
        and np.isfinite(found["tokens"][4:]).all()
    )


def noisy(k):
    warnings.warn(f"job {k}", RuntimeWarning)
    return k


def test_warning_filters_hold_in_the_workers(monkeypatch):
    monkeypatch.setenv("ROUTERCOMPANION_JOBS", "2")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "job 1", RuntimeWarning)
        warnings.filterwarnings("ignore", "job 2", RuntimeWarning)
        assert fan_out(noisy, [(2,), (2,)], "jobs") == [2, 2]
        with pytest.raises(RuntimeWarning, match="job 1"):
            fan_out(noisy, [(2,), (1,)], "jobs")
