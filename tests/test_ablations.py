"""What the ablations of RouterXBench rest on: the probe with a hidden layer, layers left out, samples of the training set, wrong labels, means over seeds."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from routercompanion.core import CompanionError
from routercompanion.evaluate.pair import column_evaluation, fit_router, pair_evaluation
from routercompanion.evaluate.results import Evaluation, average_rows
from routercompanion.features.of_bank import Signals, with_kinds
from routercompanion.report.tables import load_published
from routercompanion.studies.bank_study import (
    BankStudy,
    first_resamples,
    floor_differences,
    pair_differences,
    seed_groups,
)
from routercompanion.studies.xbench import (
    flip_labels,
    nested_sample,
    noise_ceiling,
    noise_ceilings,
    noisy_auroc,
    published_columns,
    rank_correlation,
    training_table,
)
from routercompanion.metrics.ability import auroc, within_task_auroc
from routercompanion.routers.difficulty.probes import (
    DirichletProbe,
    FinalLayerProbe,
    MLPProbe,
    MeanProbe,
    loss_gap,
)
from routercompanion.routers.training import split_rows
from routercompanion.core import MisalignedError
from routercompanion.routers.check import check_router
from routercompanion.routers.registry import load_router, save_router


def planted(n=240, L=5, D=8, seed=0):
    "Features (n, L, D) fp16 in which layers 2 and 3 carry the difficulty, and outcomes (n, 2)."
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=n)
    X = rng.normal(0, 0.5, (n, L, D)).astype(np.float16)
    X[:, 2:4] += hard[:, None, None].astype(np.float16)
    return X, np.stack([hard + rng.normal(0, 0.4, n) < 0, rng.random(n) < 0.8], 1).astype(
        np.float32
    )


# ---------- the probe with a hidden layer ----------


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(width=8, dropout=0.3),
        dict(width=0),
        dict(width=None, standardize=True),
        dict(width=4, layers=[1, -1], drop_embedding=True),
    ],
)
def test_the_hidden_layer_probe_keeps_the_contract(options):
    check_router(MLPProbe(epochs=2, **options))


@pytest.mark.parametrize("width", [0, None])
def test_width_zero_is_the_mean_probe_byte_for_byte(width, tmp_path):
    X, outcomes = planted()
    mlp, mean = (
        cls(epochs=4, **options).fit(X[:160], outcomes[:160])
        for cls, options in ((MLPProbe, dict(width=width)), (MeanProbe, {}))
    )
    assert (
        mlp.decision_function(X[160:]).tobytes() == mean.decision_function(X[160:]).tobytes()
        and mlp.history_ == mean.history_
    )
    again = load_router(save_router(mlp, tmp_path / "probe"))
    assert (
        again.get_params()["width"] == width
        and again.decision_function(X[160:]).tobytes() == mean.decision_function(X[160:]).tobytes()
    )


def test_the_hidden_layer_is_what_the_formula_says():
    X, outcomes = planted()
    probe = MLPProbe(width=6, epochs=3, layers=[1, 3]).fit(X, outcomes)
    z = X[:, [1, 3]].astype(np.float32).mean(1)
    W, c, v, b = (
        probe.state_[k].astype(np.float64) for k in ("0.weight", "0.bias", "3.weight", "3.bias")
    )
    by_hand = [
        sum(v[0, j] * max(0.0, sum(W[j, d] * z[i, d] for d in range(8)) + c[j]) for j in range(6))
        + b[0]
        for i in range(len(z))
    ]
    assert np.allclose(probe.decision_function(X), by_hand, atol=1e-5) and W.shape == (6, 8)


def test_dropout_acts_in_training_only():
    X, outcomes = planted()
    a, b = (MLPProbe(width=32, dropout=d, epochs=5, lr=1e-2).fit(X, outcomes) for d in (0.0, 0.8))
    assert (
        b.decision_function(X).tobytes() == b.decision_function(X).tobytes()
        and a.history_ != b.history_
    )
    assert b.history_["train_loss"][-1] > a.history_["train_loss"][-1]


def test_a_wide_probe_learns_few_queries_by_heart():
    X, outcomes = planted(60, D=40, seed=3)
    noise = np.random.default_rng(0).permutation(outcomes)
    options = dict(lr=3e-3, epochs=40, batch_size=8)
    wide, linear = (MLPProbe(width=w, **options).fit(X, noise) for w in (1024, 0))
    assert (
        loss_gap(wide)["last"] > loss_gap(linear)["last"] + 0.2
        and wide.history_["train_loss"][-1] < 0.3
    )


def test_the_loss_gap_is_read_at_the_kept_and_at_the_last_epoch():
    probe = MLPProbe()
    probe.history_, probe.best_epoch_ = (
        dict(train_loss=[0.7, 0.5, 0.2], val_loss=[0.8, 0.55, 0.9]),
        2,
    )
    assert np.isclose(loss_gap(probe)["best"], 0.05) and np.isclose(loss_gap(probe)["last"], 0.7)


@pytest.mark.parametrize(
    "options,text",
    [
        (dict(width=-1), "width = -1"),
        (dict(width=2.5), "width = 2.5"),
        (dict(dropout=1.0), "dropout = 1"),
        (dict(dropout=-0.1), "dropout = -0.1"),
    ],
)
def test_bad_widths_and_dropouts_are_named(options, text):
    with pytest.raises(CompanionError, match=text):
        MLPProbe(epochs=1, **options).fit(*planted(64))


def test_bytes_of_the_hidden_layer_probe_do_not_depend_on_threads_nor_on_the_global_seed():
    X, outcomes = planted()
    state, found = torch.random.get_rng_state(), []
    try:
        for threads, seed in ((1, 0), (2, 9)):
            torch.set_num_threads(threads)
            torch.manual_seed(seed)
            found.append(
                MLPProbe(width=32, epochs=2).fit(X, outcomes).decision_function(X).tobytes()
            )
    finally:
        torch.set_num_threads(1)
        torch.random.set_rng_state(state)
    assert found[0] == found[1]


# ---------- layers left out ----------


@pytest.mark.parametrize("cls", [MeanProbe, DirichletProbe, FinalLayerProbe])
def test_a_dropped_embedding_layer_is_not_read(cls):
    X, outcomes = planted()
    changed = X.copy()
    changed[:, 0] = 50
    probe = cls(epochs=2, drop_embedding=True).fit(X, outcomes)
    assert (
        probe.decision_function(X).tobytes()
        == probe.decision_function(changed).tobytes()
        == cls(epochs=2, drop_embedding=True).fit(changed, outcomes).decision_function(X).tobytes()
    )
    assert (
        probe.decision_function(X).tobytes()
        == cls(epochs=2, layers=[1, 2, 3, 4]).fit(X, outcomes).decision_function(X).tobytes()
    )
    assert len(probe.layer_weights_) == (1 if cls is FinalLayerProbe else 4)


def test_the_embedding_layer_alone_and_no_layer_at_all():
    X, outcomes = planted()
    changed = X.copy()
    changed[:, 1:] = 50
    probe = MeanProbe(epochs=2, layers=[0]).fit(X, outcomes)
    assert probe.decision_function(X).tobytes() == probe.decision_function(changed).tobytes()
    for layers in ([0], [-5, 0], []):
        with pytest.raises(CompanionError, match="No layer is left"):
            MeanProbe(layers=layers, drop_embedding=True).fit(X, outcomes)


def test_the_concentration_at_the_start_is_the_given_one():
    X, outcomes = planted(64)
    for total in (0.1, math.e, 100):
        assert np.isclose(
            DirichletProbe(initial_concentration=total, lr=1e-12, epochs=1, drop_embedding=True)
            .fit(X, outcomes)
            .concentration_.sum(),
            total,
            rtol=1e-4,
        )


# ---------- samples of the training set ----------


def toy(n=400, seed=0):
    rng = np.random.default_rng(seed)
    column, task = (
        np.array(["a", "b"])[np.arange(n) % 2],
        np.array(["s", "t", "u", "v"])[np.arange(n) % 4],
    )
    y = np.stack([rng.random(n) < 0.4, rng.random(n) < 0.8], 1).astype(np.float32)
    return Signals(
        dict(task=task, outcomes=y, none=np.arange(n)),
        y,
        task,
        column,
        np.where(np.arange(n) < 300, "train", "test"),
        np.arange(n).astype(str),
    )


def test_larger_samples_hold_smaller_ones_and_columns_have_equal_parts():
    signals = toy()
    train = signals.rows(split="train")
    samples = [nested_sample(signals, train, k, 7) for k in (1, 10, 60, 150)]
    for small, large in zip(samples, samples[1:]):
        assert set(small) < set(large) <= set(train)
    for k, rows in zip((1, 10, 60, 150), samples):
        assert (
            len(rows) == len(set(rows)) == 2 * k
            and (signals.column[rows] == "a").sum() == k
            and (np.diff(rows) > 0).all()
        )
    assert (
        nested_sample(signals, train, 10, 7).tolist()
        == samples[1].tolist()
        != nested_sample(signals, train, 10, 8).tolist()
    )
    with pytest.raises(CompanionError, match="'a' has 150 training queries, not 151"):
        nested_sample(signals, train, 151)


def test_kinds_are_added_and_replaced_in_a_copy():
    signals = toy()
    other = with_kinds(signals, none=np.zeros(400), answers={"p": np.ones(400)})
    assert (
        "answers" not in signals.kinds
        and signals.kinds["none"][3] == 3
        and other.kinds["none"][3] == 0
        and other.kinds["answers"]["p"].sum() == 400
        and other.outcomes is signals.outcomes
    )
    with pytest.raises(MisalignedError, match="'answers' has 399 rows for 400"):
        with_kinds(signals, answers={"p": np.ones(399)})


# ---------- wrong labels ----------


@pytest.mark.parametrize("share", [0, 0.1, 0.33, 1])
def test_flipped_labels_are_of_the_share_and_of_the_rows(share):
    signals = toy()
    train = signals.rows(split="train")
    noisy = flip_labels(signals, train, share, 3)
    changed = np.flatnonzero(noisy.outcomes[:, 0] != signals.outcomes[:, 0])
    assert (
        len(changed) == round(share * 300)
        and set(changed) <= set(train)
        and np.isin(noisy.outcomes[:, 0], (0, 1)).all()
    )
    assert (
        np.array_equal(noisy.outcomes[:, 1], signals.outcomes[:, 1])
        and noisy.kinds["outcomes"] is noisy.outcomes
        and signals.kinds["outcomes"] is signals.outcomes
    )
    more = flip_labels(signals, train, min(1, share + 0.2), 3)
    assert set(changed) <= set(np.flatnonzero(more.outcomes[:, 0] != signals.outcomes[:, 0]))


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_flips_fall_on_training_and_validation_queries_alike(seed):
    "A probe with the same seed sets a fifth aside by a permutation of its own: the flipped labels must not be just that fifth."
    signals = toy(2000)
    rows = np.arange(2000)
    flipped = flip_labels(signals, rows, 0.2, seed).outcomes[:, 0] != signals.outcomes[:, 0]
    inside, outside = (flipped[part].mean() for part in split_rows(2000, seed=seed)[::-1])
    assert abs(inside - 0.2) < 0.06 and abs(outside - 0.2) < 0.03  # three standard errors and more


def test_a_share_outside_zero_and_one_is_named():
    for share in (-0.1, 1.1):
        with pytest.raises(CompanionError, match="share"):
            flip_labels(toy(), np.arange(5), share)
        with pytest.raises(CompanionError, match="share"):
            noisy_auroc(0.7, share, 0.5)
    with pytest.raises(CompanionError, match="prevalence"):
        noisy_auroc(0.7, 0.1, 0.0)


@pytest.mark.parametrize(
    "share,prevalence,true",
    [
        (0.1, 0.15, 1.0),
        (0.1, 0.85, 0.7),
        (0.25, 0.5, 0.8),
        (0.4, 0.3, 0.6),
        (0, 0.2, 0.9),
        (0.5, 0.4, 0.9),
        (1.0, 0.4, 0.9),
    ],
)
def test_noise_in_test_labels_against_every_possible_flip(share, prevalence, true):
    """Brute force over the four true kinds of a (called failure, called success) pair, by Bayes' rule, nothing else taken from the code."""
    joint = {}
    for i_fails in (0, 1):
        for j_fails in (0, 1):
            p_i, p_j = (prevalence if f else 1 - prevalence for f in (i_fails, j_fails))
            called_i = 1 - share if i_fails else share  # i is called a failure
            called_j = share if j_fails else 1 - share  # j is called a success
            joint[i_fails, j_fails] = p_i * called_i * p_j * called_j
    won = joint[1, 0] * true + joint[0, 1] * (1 - true) + 0.5 * (joint[0, 0] + joint[1, 1])
    assert np.isclose(noisy_auroc(true, share, prevalence), won / sum(joint.values()))


def test_the_closed_form_agrees_with_simulation():
    rng = np.random.default_rng(0)
    n, p, share = 1500, 0.25, 0.15
    fails = np.arange(n) < p * n
    score = rng.normal(size=n) + 1.2 * fails
    true = auroc(score, 1.0 - fails)
    found = [
        auroc(score, np.where(rng.random(n) < share, fails, ~fails).astype(float))
        for _ in range(200)
    ]
    assert (
        abs(np.mean(found) - noisy_auroc(true, share, p))
        < 5 * np.std(found) / math.sqrt(200) + 1e-3
    )
    assert abs(true - noisy_auroc(true, share, p)) > 0.05


def test_the_ceiling_within_tasks_weighs_tasks_by_their_pairs():
    rng = np.random.default_rng(1)
    task = np.repeat(["easy", "hard", "sure"], [500, 300, 100])
    small = np.r_[rng.random(500) < 0.8, rng.random(300) < 0.3, np.ones(100)].astype(float)
    found = [
        within_task_auroc(
            1 - small[:800],
            np.where(rng.random(800) < 0.1, 1 - small[:800], small[:800]),
            task[:800],
        )
        for _ in range(200)
    ]
    assert (
        abs(np.mean(found) - noise_ceiling(small, task, 0.1))
        < 5 * np.std(found) / math.sqrt(200) + 1e-3
    )  # the task without failures has no pair before the flips
    assert (
        noise_ceiling(small, task, 0) == 1
        and np.isclose(noise_ceiling(small, task, 0.5), 0.5)
        and np.isclose(noise_ceiling(small, task, 0, 0.7), 0.7)
    )


# ---------- means over seeds ----------


def test_a_mean_over_seeds_is_taken_resample_by_resample():
    signals = toy()
    test = signals.rows(split="test")
    rng = np.random.default_rng(0)
    scores = {
        "x / 1": rng.normal(size=len(test)),
        "x / 2": rng.normal(size=len(test)),
        "y": np.zeros(len(test)),
    }
    options = dict(measures=("within-task AUROC", "pooled AUROC"), n_resamples=40, rng=42)
    both = column_evaluation(scores, signals, test, ["a", "b"], **options)
    for c in "ab":
        rows = test[signals.column[test] == c]
        own = {k: v[signals.column[test] == c] for k, v in scores.items()}
        alone = pair_evaluation(
            own, signals.outcomes[rows], signals.task[rows], column=c, **options
        )
        for key, values in alone.draws.items():
            assert (
                np.array_equal(values, both.draws[key], equal_nan=True)
                and alone.estimate[key] == both.estimate[key]
            )
    mean = average_rows(both, {"x": ["x / 1", "x / 2"], "y": ["y"]})
    assert seed_groups(["x"], (1, 2), alone=("y",)) == {"y": ["y"], "x": ["x / 1", "x / 2"]}
    for m in options["measures"]:
        assert (
            np.isclose(
                mean.value("x", m, "a"),
                (both.value("x / 1", m, "a") + both.value("x / 2", m, "a")) / 2,
            )
            and mean.value("y", m, "a") == 0.5
        )
        for kind in ("draws", "left_out"):
            x1, x2 = (getattr(both, kind)[f"x / {i}", "a", m] for i in (1, 2))
            assert np.allclose(getattr(mean, kind)["x", "a", m], (x1 + x2) / 2, equal_nan=True)
    assert isinstance(mean, Evaluation) and mean.n == both.n and set(mean.table.row) == {"x", "y"}


def test_a_mean_over_seeds_in_a_column_of_one_task():
    "One task cannot be left out: the mean has no interval over tasks, and all else."
    signals = toy()
    test = signals.rows(split="test")
    rows = test[signals.task[test] == "s"]
    scores = {f"x / {i}": np.random.default_rng(i).normal(size=len(rows)) for i in (1, 2)}
    e = pair_evaluation(
        scores, signals.outcomes[rows], signals.task[rows], column="s", n_resamples=20
    )
    mean = average_rows(e, seed_groups(["x"], (1, 2), alone=()))
    assert not mean.left_out and mean.table.task_low.isna().all() and mean.table.low.notna().all()


def test_left_out_queries_are_left_out():
    signals = toy()
    test = signals.rows(split="test")
    keep = np.arange(len(test)) % 3 > 0
    score = np.random.default_rng(2).normal(size=len(test))
    options = dict(measures=("pooled AUROC",), n_resamples=10)
    kept = column_evaluation({"s": score}, signals, test, ["a"], keep=keep, **options)
    mask = keep & (signals.column[test] == "a")
    assert kept.n["a"] == mask.sum() and kept.value("s", "pooled AUROC", "a") == auroc(
        score[mask], signals.outcomes[test[mask], 0]
    )


# ---------- the columns of a study, and the families of its tables ----------


def study(n_resamples=2000):
    "The toy's columns as a study (column b is out-of-domain), and scores of three routers and the task rule."
    signals = toy(1200)
    split = np.where(signals.column == "b", "ood", signals.split)
    s = BankStudy(replace(signals, split=split), ["a", "none"], ["b"], n_resamples)
    rng, wrong = np.random.default_rng(4), 1 - s.signals.outcomes[s.rows, 0]
    noise = rng.normal(size=(3, len(s.rows)))
    scores = {
        "Random": np.zeros(len(s.rows)),
        "good": wrong + noise[0],
        "middling": 0.4 * wrong + noise[1],
        "poor": noise[2],
    }
    return s, scores


def test_a_column_without_a_query_is_left_out_of_the_averages():
    s, scores = study(20)
    assert s.in_domain == ["a"] and s.averages() == {
        "AVG in-domain": ["a"],
        "AVG out-of-domain": ["b"],
    }
    assert s.averages(["b"]) == {"AVG out-of-domain": ["b"]} and s.columns == ["a", "b"]
    e = s.evaluate(scores, ["b"])
    assert e.columns == ["b"] and e.n == {"b": (s.signals.column[s.rows] == "b").sum()}
    assert set(s.signals.split[s.rows]) == {"test", "ood"} and not set(s.train) & set(s.rows)


def test_a_difference_keeps_its_own_interval_and_its_family_has_a_wider_one():
    s, scores = study()
    e = s.evaluate(scores)
    others = ["Random", "middling", "poor"]
    table = pair_differences(e, [("good", o) for o in others], ["a"], ["pooled AUROC"])
    family = e.family("pooled AUROC", "a", reference="good", rows=others).set_index("row")
    for d in table.to_dict("records"):
        one = e.compare("good", d["second"], "pooled AUROC", "a")
        assert all(
            d[k] == one[k] or (d[k] != d[k] and one[k] != one[k])
            for k in ("difference", "low", "high", "p_value", "task_low", "n")
        )
        other = family.loc[d["second"]]  # the same family, taken the other way round
        assert np.isclose(d["simultaneous_low"], -other.simultaneous_high) and np.isclose(
            d["p_holm"], other.p_holm
        )
        assert d["simultaneous_high"] - d["simultaneous_low"] > d["high"] - d["low"]
    assert (table.comparisons == 3).all() and (table.n_resamples == 2000).all()
    assert table.verdict.tolist() == [
        "higher" if low > 0 else "lower" if high < 0 else "cannot tell"
        for low, high in zip(table.simultaneous_low, table.simultaneous_high)
    ] and "higher" in set(table.verdict)


@pytest.mark.parametrize("n_resamples,known", [(1199, False), (1200, True)])
def test_too_few_resamples_for_a_family_leave_it_open(n_resamples, known):
    s, scores = study(n_resamples)
    table = pair_differences(
        s.evaluate(scores),
        [("good", o) for o in ("Random", "middling", "poor")],
        ["a"],
        ["pooled AUROC"],
    )
    assert table.simultaneous_low.notna().all() == known and table.low.notna().all()
    assert (set(table.verdict) == {"cannot tell"}) != known


def test_the_first_resamples_are_those_of_a_shorter_run():
    s, scores = study(900)
    e = s.evaluate(scores)
    less = first_resamples(e, 250)
    short = s.evaluate(scores, n_resamples=250)
    for key, values in short.draws.items():
        assert np.array_equal(values, less.draws[key])
    assert less.table.equals(short.table) and len(e.draws["good", "a", "pooled AUROC"]) == 900


def test_the_floor_is_the_better_of_random_and_the_task_rule():
    s, scores = study(1200)
    scores["TaskMean"] = (s.signals.task[s.rows] == "s") * 1.0
    e = s.evaluate(scores)
    table = floor_differences(e, ["a", "b"], ["pooled AUROC"])
    for c in "ab":
        best = max(("Random", "TaskMean"), key=lambda r: e.value(r, "pooled AUROC", c))
        here = table[table["columns"] == c]
        assert set(here.second) == {best} and set(here["first"]) == {"good", "middling", "poor"}


def test_nothing_to_compare_is_named():
    s, scores = study(20)
    e = s.evaluate(scores)
    for pairs, columns in (([], ["a"]), ([("good", "poor")], [])):
        with pytest.raises(CompanionError, match="nothing to compare"):
            pair_differences(e, pairs, columns)
    with pytest.raises(CompanionError, match="No column 'c'"):
        pair_differences(e, [("good", "poor")], ["c"])


# ---------- small tables ----------


def test_published_columns_are_found_by_their_names():
    table = load_published("xbench", "Table 1")
    found = published_columns(["science", "missing referents"], table, "within-task AUROC")
    assert found == {
        ("MMLU", "AUROC"): ("science", "within-task AUROC"),
        ("Social Sciences", "AUROC"): ("missing referents", "within-task AUROC"),
    }
    assert not published_columns(
        ["language"], load_published("xbench", "Table 4"), "x"
    )  # "Others" is not in that table


def test_noise_ceilings_stand_column_by_column():
    signals = toy(2000)
    table = noise_ceilings(signals, np.arange(2000), {"a": 0.8, "b": 0.7}, (0, 0.2))
    assert len(table) == 4 and (table.simulated - table.ceiling).abs().max() < 0.03
    for r in table.to_dict("records"):
        here = signals.column == r["column"]
        assert r["ceiling"] == noise_ceiling(
            signals.outcomes[here, 0], signals.task[here], r["share"]
        )
    assert table[table.share == 0].clean_probe.round(9).tolist() == [0.8, 0.7]


def test_training_tables_and_rank_correlations():
    X, outcomes = planted(120)
    probes = {
        "mean": MeanProbe(epochs=2).fit(X, outcomes),
        "Dirichlet": DirichletProbe(epochs=2).fit(X, outcomes),
    }
    table = training_table(probes, weights=True).set_index("row")
    assert (
        table.loc["mean", "layers_mixed_at_start"] == 5
        and 1 < table.loc["Dirichlet", "layers_mixed_at_start"] < 5
    )
    for name, p in probes.items():
        assert (
            table.loc[name, "validation_loss"] == min(p.history_["val_loss"])
            and table.loc[name, "largest_weight"] == p.layer_weights_.max()
        )
    signals = toy(100)
    a = np.arange(100.0)
    assert np.isclose(
        rank_correlation(
            a, np.where(signals.column == "a", a, -a), signals, np.arange(100), ["a", "b"]
        ),
        0,
    )
