"""The confidence-driven router: preferences and records, four routers against their equations, RouteLLM's own code and protocol, the judge's choice."""
import hashlib
import http.server
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from routercompanion.data import preferences
from routercompanion.data.sets import routellm as routellm_module
from routercompanion.features import answers as answers_module
from routercompanion.judging import llm
from routercompanion.routers.preference import base as preference_base, learned, ranking
from routercompanion.studies import confidence, teachers
from routercompanion.data.bank import make_bank
from routercompanion.core import (
    CompanionError, UnknownNameError, cache_dir, project_root, write_jsonl,
)
from routercompanion.parallel import deterministic
from routercompanion.evaluate.results import join
from routercompanion.metrics.comparisons import FamilyError
from routercompanion.metrics.sweeps import ThresholdSweep
from routercompanion.data.texts import JudgeError
from routercompanion.models.chat import ChatEndpoint
from routercompanion.metrics.bootstrap import resample_counts
from routercompanion.metrics.call_rate import apgr, cost_performance_curve, cpt
from routercompanion.models.causal_lm import load_causal_lm
from routercompanion.data.outcomes import OutcomeTable
from routercompanion.data.records import recorded_signals
from routercompanion.core import MisalignedError, RoutingInputError
from routercompanion.features.kinds import NotFiniteError, WidthError
from routercompanion.routers.base import OneClassError
from routercompanion.routers.check import check_router
from routercompanion.routers.registry import load_router, save_router
from routercompanion.features.meaning import (
    ExactJudge, first_occurrence, semantic_clusters, semantic_entropy,
)
from test_outcome_sets import MIRROR
from routercompanion.reading import safe_name
from tiny_models import tiny_llama

ALL = {"SW": ranking.SimilarityWeightedRouter(), "MF": learned.PreferenceMFRouter(rank=4, epochs=40, lr=.02), "MLP": learned.PreferenceMLPRouter(hidden=12, epochs=40, lr=.01), "kNN": learned.PreferenceKNNRouter()}


@pytest.fixture(autouse=True, scope="module")
def _threads(): deterministic(42, 1)


def problem(n=300, d=8, seed=0, ties=True):
    "Embeddings and preferences (1, .5, 0) that follow a direction."
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    z = X[:, 0] + .5 * rng.normal(size=n)
    return X, np.where(z > .3, 1., np.where((z > -.3) & ties, .5, 0.))


def battles(n=400, M=5, d=8, seed=0):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, M, n)
    second = (first + rng.integers(1, M, n)) % M
    X = rng.normal(size=(n, d)).astype(np.float32)
    chance = expit(np.linspace(-1, 1, M)[first] - np.linspace(-1, 1, M)[second] + .5 * X[:, 0] * (first - second))
    return X, preferences.Battles(first, second, np.where(rng.random(n) < .2, .5, rng.random(n) < chance).astype(float), [f"m{i}" for i in range(M)])


# ---- phase 1

def test_entropy_of_equations_1_and_2_by_loops():
    rng = np.random.default_rng(0)
    answers = [[rng.choice(["4", "four", "4.0", "5", ""]) for _ in range(5)] for _ in range(30)]
    p = {a: rng.uniform(.05, .2) for a in ("4", "four", "4.0", "5", "")}
    labels = semantic_clusters(answers, ExactJudge())
    ours = semantic_entropy(np.log([[p[a] for a in row] for row in answers]), labels, counted=first_occurrence(answers))
    for row, lab, value in zip(answers, labels, ours):
        clusters = {}
        for a, k in zip(row, lab): clusters.setdefault(k, set()).add(a)
        assert np.isclose(value, -np.mean([np.log(sum(p[a] for a in members)) for members in clusters.values()]))


def test_one_sample_and_empty_answers():
    one = semantic_clusters([["a"], [""]], ExactJudge())
    assert (semantic_entropy(None, one, estimator="discrete") == 0).all() and (semantic_entropy(np.log([[.3], [.2]]), one, estimator="plugin") == 0).all()
    assert (preference_base.semantic_preferences(np.zeros(2), np.zeros(2), 0) == .5).all(), "one sample: counts alone make every comparison a tie"
    labels = semantic_clusters([["", "x", "", "x", ""]], ExactJudge())
    assert labels.tolist() == [[0, 1, 0, 1, 0]] and np.isclose(semantic_entropy(None, labels, estimator="discrete")[0], -(.6 * np.log(.6) + .4 * np.log(.4)))


def chat_bank(n=7):
    return make_bank([dict(prompt=f"{i} + 1 = ", references=[str(i + 1)], choices=None, task="sum" if i % 2 else "add", domain="toy", source="test", split="train" if i < 5 else "test") for i in range(n)],
                     {"sum": "1 + 1 = 2\n", "add": ""})


def test_samples_are_kept_in_pieces_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTERCOMPANION_CACHE", str(tmp_path / "cache"))
    lm, bank = load_causal_lm(tiny_llama(tmp_path / "m")), chat_bank()
    whole = answers_module.sampled_answers(lm, bank, samples=3, max_new_tokens=4, chunk=3)
    files = sorted(cache_dir("answers", safe_name(lm.name)).glob("samples-*.jsonl"))
    assert len(files) == 3 and len(whole.text) == 7 and whole.log_likelihood.shape == (7, 3)
    first = [f for f in files if len(f.read_text().splitlines()) == 1]
    first[0].unlink()
    calls = []
    monkeypatch.setattr(type(lm), "sample", (lambda real: lambda self, part, **k: calls.append(len(part)) or real(self, part, **k))(type(lm).sample))
    again = answers_module.sampled_answers(lm, bank, samples=3, max_new_tokens=4, chunk=3)
    assert calls == [1] and again.text == whole.text and all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(again[1:5], whole[1:5]))
    prefix = answers_module.sampled_answers(lm, bank.take(np.arange(6)), samples=3, max_new_tokens=4, chunk=3)
    assert calls == [1] and prefix.text == whole.text[:6], "a shorter bank with the same beginning reads the same pieces"


# ---- phase 2

@given(st.lists(st.tuples(*[st.sampled_from([0., .1, .5, .55, 1., 2.]) | st.floats(-1, 3, width=16)] * 2), min_size=1, max_size=20), st.sampled_from([0., .05, .1, 1., 3., np.inf]))
@settings(deadline=None)
def test_equations_3_and_4_by_loops(pairs, tau):
    strong, weak = np.array(pairs).T
    delta, wins = preference_base.normalised_difference(strong, weak), preference_base.semantic_preferences(strong, weak, tau)
    for s, w, d, y in zip(strong, weak, delta, wins):
        expected = abs(float(s) - float(w)) / abs(s) if s else (0. if w == 0 else np.inf)
        assert d == pytest.approx(expected)
        assert y == (.5 if not d > tau else 1. if s < w else 0.)


def test_rule_for_a_sure_strong_model():
    assert preference_base.normalised_difference([0., 0.], [0., 1e-9]).tolist() == [0., np.inf]
    for tau in (0., 5., 1e300): assert preference_base.semantic_preferences([0., 0.], [0., .1], tau).tolist() == [.5, 1.]
    assert preference_base.semantic_preferences([0.], [.1], np.inf).tolist() == [.5], "no threshold can be beaten at infinity"


def test_higher_tau_never_makes_fewer_ties():
    s, w = np.random.default_rng(0).gamma(2, 1, (2, 500))
    share = [np.mean(preference_base.semantic_preferences(s, w, t) == .5) for t in (0, .05, .1, .5, 1, 2, np.inf)]
    assert share == sorted(share) and share[-1] == 1
    assert (preference_base.semantic_preferences(s, w, 1.) > 0).all(), "at tau = 1 and above the weak model cannot win"


@pytest.mark.parametrize("strong, weak, tau, error, text", [([1, np.nan], [1, 1], .1, NotFiniteError, "row 1"), ([1], [np.inf], .1, NotFiniteError, "row 0"), ([1], [1, 2], .1, MisalignedError, "shapes"),
                                                            ([1], [1], -1, preferences.PreferenceError, "tau"), ([1], [1], np.nan, preferences.PreferenceError, "tau")])
def test_bad_entropies(strong, weak, tau, error, text):
    with pytest.raises(error, match=text): preference_base.semantic_preferences(strong, weak, tau)


def test_other_teachers():
    assert preference_base.outcome_preferences([[0, 1], [1, 1], [.2, .1], [0, 0]]).tolist() == [1, .5, 0, .5]
    p = np.array([1, .5, 0, .25])
    assert np.allclose(preference_base.preference_outcomes(p), [[0, 1], [.5, .5], [1, 0], [.75, .25]]) and preference_base.outcome_preferences(preference_base.preference_outcomes(p)).tolist() == [1, .5, 0, 0]
    with pytest.raises(preferences.PreferenceError, match="row 1 is 2.0"): preference_base.preference_outcomes([0, 2])


# ---- records

def records(n=6, models=("weak", "strong"), seed=0):
    rng = np.random.default_rng(seed)
    return preferences.preference_records([f"q{i}" for i in range(n)], [f"What is the value of {i} + {i}?" for i in range(n)], rng.choice([0, .5, 1], n), [[f"w{i}" for i in range(n)], [f"s{i}" for i in range(n)]], models)


@given(st.lists(st.tuples(st.text(), st.text(), st.text(), st.sampled_from([0, .5, 1])), min_size=1, max_size=8))
@settings(deadline=None)
def test_records_survive_the_file(rows):
    prompts, a, b, p = (list(x) for x in zip(*rows))
    table = preferences.preference_records([str(i) for i in range(len(p))], prompts, p, (a, b), ("weak", "strong"))
    with tempfile.TemporaryDirectory() as folder:
        again = preferences.read_preferences(preferences.write_preferences(table, Path(folder) / "r.jsonl"))
    assert again.equals(table) and list(again) == preferences.RECORD and (again[preferences.WINNERS].sum(axis=1) == 1).all()
    assert np.array_equal(preferences.battles_of(again).between(0, 1)[1], p), "model_a is the strong model, alphabetically first here"


def test_records_name_the_winner():
    table = preferences.preference_records(
        ["a", "b", "c"], list("xyz"), [1, 0, .5], (list("www"), list("sss")), ("weak", "strong"))
    assert table.model_a.tolist() == ["strong"] * 3 and table[preferences.WINNERS].to_numpy().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]] and table.response_a.tolist() == list("sss")
    with pytest.raises(preferences.PreferenceError, match="row 0 is 0.3"): preferences.preference_records(["a"], ["x"], [.3], (["w"], ["s"]), ("weak", "strong"))
    with pytest.raises(MisalignedError): preferences.preference_records(["a"], ["x"], [1, 0], (["w"], ["s"]), ("weak", "strong"))


def broken(change, rows=3):
    made = [{**{k: (int(v) if k in preferences.WINNERS else v) for k, v in r.items()}, **{k: json.dumps([r[k]]) for k in ("prompt", "response_a", "response_b")}} for r in records(rows).to_dict("records")]
    return change(made) or made


@pytest.mark.parametrize("column", preferences.RECORD)
def test_a_missing_column_is_named(tmp_path, column):
    write_jsonl(tmp_path / "r.jsonl", broken(lambda rows: [r.pop(column) for r in rows] and None))
    with pytest.raises(preferences.PreferenceFileError, match=rf"r\.jsonl.*{column} are missing"): preferences.read_preferences(tmp_path / "r.jsonl")
    with pytest.raises(preferences.PreferenceFileError, match=column): preferences.write_preferences(records().drop(columns=column), tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.parametrize("change, text", [
    (lambda r: r[1].update(winner_model_a=1, winner_model_b=1), "row 2: .*exactly one"), (lambda r: r[2].update(winner_tie="yes"), "row 3: .*exactly one"),
    (lambda r: r[0].update(winner_model_a=0, winner_model_b=0, winner_tie=0), "row 1"), (lambda r: r[1].update(prompt="plain"), "row 2, column 'prompt'.*JSON list"),
    (lambda r: r[1].update(response_b="[]"), "row 2, column 'response_b'"), (lambda r: r[2].update(model_a="weak"), "row 3: model_a and model_b are both"),
    (lambda r: r[1].update(prompt=None), "row 2, column 'prompt': no value"), (lambda r: [], "no record"), (lambda r: [1, 2], "row 1: the number 1 where an object")])
def test_bad_files_name_row_and_column(tmp_path, change, text):
    made = change(rows := broken(lambda r: None))
    write_jsonl(tmp_path / "r.jsonl", rows if made is None else made)
    with pytest.raises(preferences.PreferenceFileError, match=rf"(?s)r\.jsonl.*{text}" if "no record" not in text else "are missing|no record"): preferences.read_preferences(tmp_path / "r.jsonl")


def test_a_missing_or_cut_file_is_named_and_writing_is_atomic(tmp_path, monkeypatch):
    with pytest.raises(preferences.PreferenceFileError, match="does not exist"): preferences.read_preferences(tmp_path / "none.jsonl")
    path = preferences.write_preferences(records(), tmp_path / "r.jsonl")
    before = path.read_bytes()
    (tmp_path / "cut.jsonl").write_bytes(before[:-20])
    with pytest.raises(preferences.PreferenceFileError, match="cut.jsonl, row 6"): preferences.read_preferences(tmp_path / "cut.jsonl")
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError): preferences.write_preferences(records(3), path)
    assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["cut.jsonl", "r.jsonl"]


# ---- RouteLLM's own training code

ROUTELLM_READS = r'''
import json, sys, types
sys.path.insert(0, sys.argv[1])
sys.modules["openai"] = types.SimpleNamespace(OpenAI=lambda *a, **k: None)   # the module makes a client when it is imported; nothing here calls it
import numpy as np, pandas as pd
from routellm.routers.similarity_weighted.utils import compute_elo_mle_with_tie, preprocess_battles
from routellm.routers.matrix_factorization.train_matrix_factorization import PairwiseDataset
battles = preprocess_battles(pd.read_json(sys.argv[2], lines=True, dtype=False))
weights = np.load(sys.argv[4])
elo = [compute_elo_mle_with_tie(battles.reset_index(drop=True), sample_weight=w) for w in weights]
pairs = [p for p in json.load(open(sys.argv[3])) if p["winner"] in ("model_a", "model_b")]
print(json.dumps(dict(battles=battles.to_dict("list"), win=[1 / (1 + 10 ** ((e["mixtral-8x7b-instruct-v0.1"] - e["gpt-4-1106-preview"]) / 400)) for e in elo],
                      pairs=[[int(x) for x in row] for row in PairwiseDataset(pairs)])))
'''
WHEEL, WHEEL_HASH = "routellm-0.2.0-py3-none-any.whl", "13562012601c3b842a6ff4e78ab37577c90a1c3df96c1171833fd3d0600ac9ce"


def routellm(folder):
    "RouteLLM 0.2.0 unpacked below `folder`, not installed: downloaded once without its dependencies, checked by hash, kept in the user's cache. None where it cannot be had."
    kept = cache_dir("routellm") / WHEEL
    if not kept.is_file():
        options = "-q --no-deps --only-binary :all: --disable-pip-version-check --retries 0 --timeout 10".split()
        subprocess.run([sys.executable, "-m", "pip", "download", *options, "-d", str(folder / "wheel"), "routellm==0.2.0"], capture_output=True, timeout=120)
        if not (folder / "wheel" / WHEEL).is_file(): return None
        os.replace(folder / "wheel" / WHEEL, kept)
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == WHEEL_HASH, f"{kept} is not the file that was published: delete it"
    with zipfile.ZipFile(kept) as z: z.extractall(folder / "code")
    return folder / "code"


def as_routellm_reads(path):
    "What RouteLLM's two readers take from our files, said again in our words: (battles of prompts with 16 characters or more, pairs without ties)."
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    winner = lambda r: "model_a" if r["winner_model_a"] == 1 else "model_b" if r["winner_model_b"] == 1 else "tie"
    return [(r["model_a"], r["model_b"], winner(r)) for r in rows if len(json.loads(r["prompt"])[0].strip()) >= 16]


def test_routellm_reads_our_records_and_agrees_with_the_closed_form(tmp_path, record_property):
    """The fields are checked always. Where RouteLLM's wheel can be had its own functions read the files (in a process of their own), and its own solver, given our weights, must
    give the closed form of the similarity-weighted router."""
    X, y = problem(40)
    table = preferences.preference_records([f"q{i}" for i in range(40)], [f"Question number {i}, please" if i else "too short" for i in range(40)], y, (["w"] * 40, ["s"] * 40), ("mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview"))
    path, pairs = preferences.write_preferences(table, tmp_path / "records.jsonl"), preferences.routellm_pairs(table)
    expected = as_routellm_reads(path)
    assert len(expected) == 39 and [w for *_, w in expected] == [{1: "model_a", .5: "tie", 0: "model_b"}[v] for v in y[1:]]
    assert [p["idx"] for p in pairs] == list(range(40)) and {w for p in pairs for w in [p["winner"]]} == {"model_a", "model_b", "tie"}
    code = routellm(tmp_path)
    record_property("routellm", "fields only: the wheel could not be had" if code is None else "RouteLLM's own code")
    if code is None: return
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    router = ranking.SimilarityWeightedRouter(as_published=True).fit(X[1:], preference_base.preference_outcomes(y[1:]))
    np.save(tmp_path / "weights.npy", router._weights(X[:6]).astype(float))
    run = subprocess.run([sys.executable, "-c", ROUTELLM_READS, str(code), str(path), str(tmp_path / "pairs.json"), str(tmp_path / "weights.npy")], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    read = json.loads(run.stdout)
    assert list(zip(*(read["battles"][k] for k in ("model_a", "model_b", "winner")))) == expected
    assert np.allclose(read["win"], router.decision_function(X[:6]), atol=2e-4), "their solver stops at a tolerance of 1e-4"
    strong, weak = 24, 36   # their numbers for the two models
    assert read["pairs"] == [[strong, weak, p["idx"]] if p["winner"] == "model_a" else [weak, strong, p["idx"]] for p in pairs if p["winner"] != "tie"]


# ---- the four routers

@pytest.mark.parametrize("name", ALL)
def test_contract(name): check_router(ALL[name])


@pytest.mark.parametrize("router", [ranking.SimilarityWeightedRouter(gamma=100., as_published=True), ranking.SimilarityWeightedRouter(gamma=.1 + 1), learned.PreferenceMFRouter(rank=1, bias=True, epochs=40, lr=.02),
                                    learned.PreferenceMLPRouter(hidden=3, epochs=40, lr=.02, weight_decay=1e-3), learned.PreferenceKNNRouter(k=9)], ids=repr)
def test_contract_of_the_options(router): check_router(router)


def one_call(w, first, second, won, M):
    "Equation 7 for one query by one call of L-BFGS over all coefficients, with the paper's sign; returns xi."
    w = w / w.sum()
    def loss(xi):
        p = expit(-(xi[first] - xi[second]))
        g = w * (p - won)
        grad = np.zeros(M)
        np.add.at(grad, first, -g); np.add.at(grad, second, g)
        return -(w * (won * np.log(p) + (1 - won) * np.log1p(-p))).sum(), grad
    return minimize(loss, np.zeros(M), jac=True, method="L-BFGS-B", options=dict(ftol=1e-16, gtol=1e-11, maxiter=2000)).x


def weights_by_loops(X, q, gamma, as_published):
    cosine = lambda a, b: float(a @ b / np.sqrt((a @ a) * (b @ b)))
    S = np.array([cosine(q, x) for x in X])
    top = max(S) if as_published else np.array([max(cosine(x, z) for z in X) for x in X])   # eq. 6: the maximum includes the query itself
    return gamma ** (1 + S / top)


@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("gamma", [10., 50.])
def test_closed_form_is_equations_5_to_8(gamma, as_published):
    X, y = problem(80)
    router, Z = ranking.SimilarityWeightedRouter(gamma=gamma, as_published=as_published).fit(X, preference_base.preference_outcomes(y)), problem(6, seed=5)[0]
    for q, p in zip(Z, router.decision_function(Z)):
        w = weights_by_loops(X.astype(float), q.astype(float), gamma, as_published)
        xi = one_call(w, np.ones(80, int), np.zeros(80, int), y, 2)
        assert np.isclose(p, (w * y).sum() / w.sum(), atol=1e-6) and np.isclose(p, 1 / (1 + np.exp(xi[1] - xi[0])), atol=1e-5)


@pytest.mark.parametrize("M", [3, 6])
def test_batched_solver_is_equations_5_to_8(M):
    X, b = battles(150, M)
    Z = problem(4, seed=3)[0]
    router = ranking.SimilarityWeightedRouter().fit_battles(X, b, strong=f"m{M - 1}", weak="m0")
    for q, p in zip(Z, router.decision_function(Z)):
        xi = one_call(weights_by_loops(X.astype(float), q.astype(float), 10., False), b.first, b.second, b.won, M)
        assert np.isclose(p, 1 / (1 + np.exp(xi[M - 1] - xi[0])), atol=1e-5)
    assert np.array_equal(load_router(save_router(router, Path(tempfile.mkdtemp()) / "r")).decision_function(Z), router.decision_function(Z))


def test_two_models_among_many_give_the_pair():
    "With battles of one pair only, the solver for many models and the closed form agree."
    X, y = problem(200)
    won = np.where(np.arange(200) % 2, y, 1 - y)
    b = preferences.Battles(np.arange(200) % 2, 1 - np.arange(200) % 2, won, ["weak", "strong"])
    router = ranking.SimilarityWeightedRouter().fit_battles(X, b, strong="strong", weak="weak")
    closed = ranking.SimilarityWeightedRouter().fit(X, preference_base.preference_outcomes(y)).decision_function(X[:20])
    assert np.allclose(router.decision_function(X[:20]), closed, atol=1e-7)
    theta = ranking.bradley_terry(router._tables(router._weights(X[:20])))
    assert np.allclose(expit(theta[:, 1] - theta[:, 0]), closed, atol=1e-6)


def test_batches_do_not_matter_and_gamma_1_is_the_base_rate(monkeypatch):
    X, y = problem(100)
    router = ranking.SimilarityWeightedRouter().fit(X, preference_base.preference_outcomes(y))
    whole = router.decision_function(X)
    monkeypatch.setattr(ranking.SimilarityWeightedRouter, "rows", 7)
    assert np.allclose(router.decision_function(X), whole, atol=1e-6)
    assert np.allclose(ranking.SimilarityWeightedRouter(gamma=1.).fit(X, preference_base.preference_outcomes(y)).decision_function(X), y.mean(), atol=1e-6)
    for gamma in (0., -1., np.inf, np.nan):
        with pytest.raises(RoutingInputError, match="gamma"): ranking.SimilarityWeightedRouter(gamma=gamma).fit(X, preference_base.preference_outcomes(y))


def test_strengths_that_do_not_exist():
    wins = np.ones((3, 3)) - np.eye(3)
    wins[2, :2] = 0   # the last model never wins
    with pytest.raises(preferences.PreferenceError, match=r"groups \[.*never win or never lose"): ranking.bradley_terry(wins[None])
    theta = ranking.bradley_terry(wins[None], ridge=.1)[0]
    assert np.isfinite(theta).all() and theta[2] < theta[0] and abs(theta.sum()) < 1e-9
    assert np.allclose(ranking.bradley_terry(np.array([[[0, 3.], [1., 0]]]))[0], [np.log(3) / 2, -np.log(3) / 2])
    X, b = battles(60, 3)
    lost = preferences.Battles(b.first, b.second, np.where(b.first == 0, 1., np.where(b.second == 0, 0., b.won)), b.models)
    with pytest.raises(preferences.PreferenceError, match="groups"): ranking.SimilarityWeightedRouter().fit_battles(X, lost, strong="m1", weak="m2")


@given(st.integers(2, 6), st.integers(0, 10**6))
@settings(deadline=None, max_examples=25)
def test_strengths_solve_the_score_equations(M, seed):
    wins = np.random.default_rng(seed).exponential(1, (3, M, M)) * (1 - np.eye(M))
    theta = ranking.bradley_terry(wins)
    p = expit(theta[:, :, None] - theta[:, None, :])
    assert np.allclose(((wins + wins.transpose(0, 2, 1)) * p).sum(2), wins.sum(2), atol=1e-6), "expected wins equal wins"


def test_equation_9_by_loops_and_turned_round():
    X, b = battles(300, 4)
    router = learned.PreferenceMFRouter(rank=3, epochs=10).fit_battles(X, b, strong="m3", weak="m1")
    A, u = (router.state_[k].astype(float) for k in ("p0", "p1"))
    expected = [expit(sum(A[i, r] * x[i] * (u[3, r] - u[1, r]) for i in range(8) for r in range(3))) for x in X[:10].astype(float)]
    assert np.allclose(router.decision_function(X[:10]), expected, atol=1e-5)
    turned = learned.PreferenceMFRouter(rank=3, epochs=10).fit_battles(X, preferences.Battles(b.second, b.first, 1 - b.won, b.models), strong="m3", weak="m1")
    assert np.allclose(turned.decision_function(X[:10]), expected, atol=1e-4), "who stands first does not matter"


def test_equation_10_by_loops():
    X, y = problem()
    router = learned.PreferenceMLPRouter(hidden=5, epochs=10).fit(X, preference_base.preference_outcomes(y))
    w1, b1, w2, b2 = (router.state_[f"p{i}"].astype(float)[0] for i in range(4))
    for x, p in zip(X[:8].astype(float), router.decision_function(X[:8])):
        h = [max(0., sum(w1[i, j] * x[i] for i in range(8)) + b1[0, j]) for j in range(5)]
        z = sum(w2[j, 0] * h[j] for j in range(5)) + b2[0, 0]
        assert np.isclose(p, np.exp(z) / (np.exp(z) + np.exp(0)), atol=1e-5), "a softmax over the two models"


@pytest.mark.parametrize("k", [1, 4])
def test_equations_11_and_12_by_loops(k):
    X, y = problem()
    router, Z = learned.PreferenceKNNRouter(k=k).fit(X, preference_base.preference_outcomes(y)), problem(30, seed=9)[0]
    for q, p in zip(Z, router.decision_function(Z)):
        near = sorted(range(300), key=lambda i: -float(q @ X[i] / np.linalg.norm(q) / np.linalg.norm(X[i])))[:k]
        assert np.isclose(p, np.mean([y[i] for i in near]))
    with pytest.raises(RoutingInputError, match="k = 0"): learned.PreferenceKNNRouter(k=0).fit(X, preference_base.preference_outcomes(y))


@pytest.mark.parametrize("name", ALL)
def test_every_teacher_and_a_saved_router(name, tmp_path):
    X, y = problem(ties=False)
    right = np.stack([y == 0, np.random.default_rng(0).random(300) < .8], 1).astype(float)
    for outcomes in (right, preference_base.preference_outcomes(y), np.c_[1 - .3 * y, .5 + .4 * y]):
        router = ALL[name].__class__(**ALL[name].get_params()).fit(X, outcomes)
        p = router.decision_function(X)
        assert ((p >= 0) & (p <= 1)).all() and p[y == 1].mean() > p[y == 0].mean() + .02
    loaded = load_router(save_router(router, tmp_path / "r"))
    assert np.array_equal(loaded.decision_function(X), p)


@pytest.mark.parametrize("name", ALL)
def test_bad_preferences(name):
    X, y = problem(60)
    fresh = lambda: ALL[name].__class__(**ALL[name].get_params())
    with pytest.raises(OneClassError, match="All 60 preferences are ties"): fresh().fit(X, preference_base.preference_outcomes(np.full(60, .5)))
    with pytest.raises(OneClassError, match="ties"): fresh().fit(X, np.repeat((y > .5).astype(float)[:, None], 2, 1))
    with pytest.raises(OneClassError): fresh().fit(X, preference_base.preference_outcomes(np.ones(60)))
    with pytest.raises(NotFiniteError): fresh().fit(X, np.where(np.arange(60)[:, None] == 3, np.nan, preference_base.preference_outcomes(y)))
    table = records(60)
    with pytest.raises(MisalignedError, match="59 embeddings and 60 battles"): fresh().fit_battles(X[:59], table, strong="strong", weak="weak")
    with pytest.raises(UnknownNameError, match="model in the battles 'other'"): fresh().fit_battles(X, table, strong="other", weak="weak")
    with pytest.raises(WidthError): fresh().fit_battles(X, table, strong="strong", weak="weak").decision_function(X[:, :-1])
    Xm, b = battles(200, 4)
    apart = (b.first + b.second) != 3
    with pytest.raises(preferences.PreferenceError, match="No record compares"): fresh().fit_battles(Xm[apart], preferences.Battles(b.first[apart], b.second[apart], b.won[apart], b.models), strong="m3", weak="m0")


@pytest.mark.parametrize("name", ["MLP", "kNN"])
def test_routers_of_one_pair_use_its_battles_alone(name):
    X, b = battles(500, 4)
    rows, won = b.between(3, 0)
    fresh = lambda: ALL[name].__class__(**ALL[name].get_params())
    assert np.array_equal(fresh().fit_battles(X, b, strong="m3", weak="m0").decision_function(X[:50]), fresh().fit(X[rows], preference_base.preference_outcomes(won)).decision_function(X[:50]))


def test_own_cost_is_on_the_bill():
    X, y = problem()
    outcomes = OutcomeTable(np.stack([y < .5, y > -1], 1).astype(float), {"params_b": [.1, 1.]}, [str(i) for i in range(300)], ["weak", "strong"])
    router = learned.PreferenceKNNRouter().fit(X, outcomes)
    paid = [router.cost_of(np.zeros(300, int), outcomes, own=own).mean() for own in (False, True)]
    assert np.isclose(paid[1] - paid[0], .0227)


# ---- measures

def routed(n=200, seed=0):
    rng = np.random.default_rng(seed)
    outcomes = (rng.random((n, 2)) < [.5, .8]).astype(float)
    return {"good": outcomes[:, 1] - outcomes[:, 0] + rng.normal(size=n), "ties": rng.integers(0, 3, n).astype(float), "Random": np.zeros(n)}, outcomes, rng.gamma(2, 1, (n, 2)) * [.1, 1]


def test_measures_on_resamples_are_those_of_repeated_rows():
    scores, outcomes, usd = routed()
    weights = np.random.default_rng(1).multinomial(200, np.full(200, 1 / 200), 5)
    for score in scores.values():
        ours = confidence.priced_values((ThresholdSweep(score, outcomes), .01), weights, usd=usd)
        for w, (c50, c80, area, price) in zip(weights, ours):
            rows = np.repeat(np.arange(200), w)
            curve = cost_performance_curve(score[rows], *outcomes[rows].T)
            assert np.allclose([c50, c80, area], [cpt(curve, .5), cpt(curve, .8), apgr(curve)])
            order = rows[np.argsort(-score[rows], kind="stable")]
            if len(set(score)) == 200:   # no ties: pay for the first queries of the order, the last one in part
                k = c80 * 200
                full, part = int(k + 1e-9), k - int(k + 1e-9)
                sent = np.r_[np.ones(full), [part] if full < 200 else [], np.zeros(max(0, 199 - full))]
                assert np.isclose(price, .01 + (sent * usd[order, 1] + (1 - sent) * usd[order, 0]).mean(), rtol=2e-2)


def test_random_pays_the_average_and_no_gain_is_nan():
    scores, outcomes, usd = routed()
    guess, good = ThresholdSweep(scores["Random"], outcomes), scores["good"]
    once = np.ones((1, 200))
    c50, c80, area, price = confidence.priced_values((guess, 0.), once, usd=usd)[0]
    assert np.allclose([c50, c80, area], [.5, .8, .5]) and np.isclose(price, .2 * usd[:, 0].mean() + .8 * usd[:, 1].mean())
    turned = ThresholdSweep(good, outcomes[:, ::-1])
    assert np.isnan(confidence.priced_values((turned, 0.), once, usd=usd)).all()


def test_draws_are_paired_and_go_into_the_tables():
    scores, outcomes, usd = routed()
    task = np.repeat([f"task {i}" for i in range(8)], 25)
    options = dict(task=task, usd=usd, own={"good": 0.5}, n_resamples=300, column="toy")
    found = confidence.preference_evaluation(scores, outcomes, **options)
    assert found.n == {"toy": 200} and found.resampled("good", "APGR").shape == (300,)
    assert found.left_out["good", "toy", confidence.USD].shape == (8,)
    swapped = {k: scores[k] for k in ("Random", "good")}
    again = confidence.preference_evaluation(swapped, outcomes, **options)
    assert np.array_equal(
        again.resampled("good", confidence.USD), found.resampled("good", confidence.USD)
    ), "the same resamples whatever else is in the table"
    guesses = found.resampled("Random", "APGR")
    assert np.allclose(guesses[np.isfinite(guesses)], 0.5)
    table = found.table
    assert len(table) == 12 and (table.low <= table.high + 1e-12).all()
    assert (table.task_low <= table.task_high + 1e-12).all() and (table.tasks == 8).all()
    assert found.compare("good", "Random", "APGR")["p_value"] < 0.05
    few = np.repeat(["a", "b", "c", "d"], 50)
    four = confidence.preference_evaluation(scores, outcomes, task=few, n_resamples=20)
    assert four.table.task_low.isna().all(), "four tasks give no interval over tasks"
    both = join({"first": found, "second": found}, {"mean": ["first", "second"]})
    assert (
        both.value("good", "APGR", "mean") == found.value("good", "APGR")
        and both.n["second"] == 200
    )


def test_resamples_come_from_seed_and_number_of_queries():
    "One generator from (seed, n), a row of counts for each resample, the measure on repeated rows."
    scores, outcomes, _ = routed()
    found = confidence.preference_evaluation(scores, outcomes, n_resamples=5, rng=7)
    counts = np.concatenate(list(resample_counts(200, 5, np.random.default_rng([7, 200]))))
    assert counts.shape == (5, 200)
    for w, area in zip(counts.astype(int), found.resampled("good", "APGR")):
        rows = np.repeat(np.arange(200), w)
        assert np.isclose(
            area, apgr(cost_performance_curve(scores["good"][rows], *outcomes[rows].T))
        )


def test_learning_curve_is_nested_and_cross_fitting_leaves_out():
    X, y = problem(240)
    class Seen(learned.PreferenceKNNRouter):
        def _learn(self, X, battles, validation): super()._learn(X, battles, validation); fitted.append({x.tobytes() for x in X})
    fitted = []
    found = confidence.learning_curve(Seen(), X, preference_base.preference_outcomes(y), X[:50], [60, 120, 240], repeats=2)
    assert {n: s.shape for n, s in found.items()} == dict.fromkeys([60, 120, 240], (2, 50))
    small, middle, large = fitted[0::2][0], fitted[2::2][0], fitted[4::2][0]
    assert len(small) == 60 and small < middle < large and fitted[0] != fitted[1] and np.array_equal(found[240][0], y[:50])
    with pytest.raises(MisalignedError, match="241 training queries"): confidence.learning_curve(Seen(), X, preference_base.preference_outcomes(y), X, [241])
    fitted.clear()
    score = confidence.cross_fitted_ranks(Seen(), X, preference_base.preference_outcomes(y), folds=4)
    assert [len(f) for f in fitted] == [180] * 4 and ((score > 0) & (score <= 1)).all() and (score != y).any()
    assert all(sum(x.tobytes() in f for f in fitted) == 3 for x in X), "each query is left out once"


def test_cross_fitting_on_noise_is_guessing_not_worse():
    "Raw scores of folds, pooled, would look worse than guessing: the fold with more wins is scored lower. Ranks within the fold do not."
    found = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        X, outcomes = rng.normal(size=(200, 6)).astype(np.float32), np.c_[np.arange(200) % 2, rng.random(200) < .9].astype(float)[rng.permutation(200)]
        raw, fold = np.empty(200), np.random.default_rng(42).permutation(np.arange(200) % 5)
        for k in range(5): raw[fold == k] = ranking.SimilarityWeightedRouter(gamma=1.01).fit(X[fold != k], outcomes[fold != k]).decision_function(X[fold == k])
        found.append([apgr(cost_performance_curve(s, *outcomes.T)) for s in (raw, confidence.cross_fitted_ranks(ranking.SimilarityWeightedRouter(gamma=1.01), X, outcomes))])
    raw, ranked = np.mean(found, axis=0)
    assert raw < .45 and abs(ranked - .5) < .04


def test_sent_at():
    score = np.array([.1, .5, .5, .5, .9])
    assert confidence.sent_at(score, .2).tolist() == [False] * 4 + [True] and confidence.sent_at(score, 0.).sum() == 0 and confidence.sent_at(score, 1.).all()
    picks = np.array([confidence.sent_at(score, .4, rng=s) for s in range(60)])
    assert picks[:, 4].all() and not picks[:, 0].any() and (picks[:, 1:4].sum(0) > 5).all(), "chance among equal scores"


# ---- RouteLLM's protocol

def test_quantile_points_by_loops():
    rng = np.random.default_rng(0)
    rate, weak, strong = rng.random(137), rng.integers(0, 2, 137), rng.integers(0, 2, 137)
    share, performance = confidence.quantile_points(rate, weak, strong)
    for i, edge in enumerate(pd.qcut(rate, 10, retbins=True)[1]):
        sent = [r >= edge if i < 10 else r > edge for r in rate]
        assert np.isclose(share[i], np.mean(sent)) and np.isclose(performance[i], np.mean([s if g else w for g, w, s in zip(sent, weak, strong)]))
    assert share[0] == 1 and share[-1] == 0 and len(share) == 11
    assert len(confidence.quantile_points(rng.integers(0, 3, 137), weak, strong)[0]) == 3, "equal edges count once"


def test_interpolation_averages_equal_shares():
    share, performance = np.array([0, .5, 1, 0, .5, 1]), np.array([.2, .5, .8, .2, .7, .8])
    assert np.isclose(confidence.interpolated_cpt(share, performance, [.2], [.8], .5), .5 * (.3 / .4))


PUBLISHED_RANDOM = {"MT-Bench": (51.29, 78.55), "GSM8K": (48.79, 80.16), "MMLU": (50.04, 79.32)}


@pytest.mark.parametrize("test_set", PUBLISHED_RANDOM)
def test_the_random_row_of_table_1_comes_out_as_published(test_set):
    table = routellm_module.routellm_outcomes(test_set)
    assert len(table) == {"MT-Bench": 72, "GSM8K": 1307, "MMLU": 14037}[test_set] and table.models == list(routellm_module.ROUTELLM_PAIR)
    weak, strong = table.score.T.astype(float)
    assert tuple((100 * confidence.random_protocol(weak, strong)).round(2)) == PUBLISHED_RANDOM[test_set]
    other = routellm_module.routellm_outcomes(test_set, contaminated=True)
    assert len(other) == len(table) + {"MT-Bench": 8, "GSM8K": 12, "MMLU": 5}[test_set]
    assert tuple((100 * confidence.random_protocol(*other.score.T.astype(float))).round(2)) != PUBLISHED_RANDOM[test_set], "contaminated prompts left in: another row"
    assert tuple((100 * confidence.random_protocol(weak, strong, seed=1)).round(2)) != PUBLISHED_RANDOM[test_set]
    random.seed(0)
    assert np.allclose([random.uniform(0, 1) for _ in range(3)], (lambda r: [r.uniform(0, 1) for _ in range(3)])(random.Random(0))), "Python's stream, without touching its state"


def test_order_of_subjects_matters_and_the_oracle_is_a_floor():
    table = routellm_module.routellm_outcomes("MMLU")
    order = (project_root() / "data" / "paper" / "routellm_mmlu_order.txt").read_text().split()
    assert list(dict.fromkeys(table.task)) == order and len(set(order)) == 57
    rows = np.argsort(table.task, kind="stable")
    assert tuple((100 * confidence.random_protocol(*table.score[rows].T.astype(float))).round(2)) != PUBLISHED_RANDOM["MMLU"]
    weak, strong = table.score.T.astype(float)
    floor = cost_performance_curve(strong - weak, weak, strong)
    assert np.isclose(cpt(floor, .5), .5 * (strong.mean() - weak.mean())), "0/1 scores: each call of the oracle wins one query until the gain is reached"
    assert cpt(floor, .8) < .25 < cpt(cost_performance_curve(np.zeros(len(weak)), weak, strong), .5) == pytest.approx(.5)


if MIRROR:
    def test_the_record_is_what_the_public_files_say(tmp_path, monkeypatch):
        "Recorded again from a mirror of the public files, where one is at hand."
        monkeypatch.setenv("ROUTERCOMPANION_MIRROR", str(MIRROR))
        monkeypatch.setenv("ROUTERCOMPANION_CACHE", str(tmp_path / "cache"))
        again = OutcomeTable.from_parquet(routellm_module.record_routellm(tmp_path / "again.parquet"))
        assert again.equals(OutcomeTable.from_parquet(project_root() / "data" / "outcomes" / "routellm.parquet")) and again.prompts is None


# ---- the tables of the three teachers

def teach(n=300, seed=0):
    rng = np.random.default_rng(seed)
    outcomes = (rng.random((n, 2)) < [0.4, 0.7]).astype(float)
    gain = outcomes[:, 1] - outcomes[:, 0]
    rows = {
        f"{t} {a}": gain + s * rng.normal(size=n)
        for s, t in ((1, "T"), (3, "U"))
        for a in ("SW", "MF")
    }
    return rows | {"Random": np.zeros(n)}, outcomes, rng


def test_agreement_by_loops():
    rng = np.random.default_rng(0)
    strong, weak = rng.gamma(2, 1, (2, 80))
    outcomes = rng.integers(0, 2, (80, 2)).astype(float)
    found = teachers.agreement_row(strong, weak, outcomes, 0.2, n_resamples=50)
    sure = [
        "tie" if abs(s - w) / s <= 0.2 else "strong" if s < w else "weak"
        for s, w in zip(strong, weak)
    ]
    right = ["strong" if b > a else "weak" if a > b else "tie" for a, b in outcomes]
    one = [(s, r) for s, r in zip(sure, right) if r != "tie"]
    decided = [(s, r) for s, r in one if s != "tie"]
    assert found["n_one_right"] == len(one) and found["n_decided"] == len(decided)
    assert np.isclose(found["agreement"], np.mean([s == r for s, r in decided]))
    assert np.isclose(found["always_strong"], np.mean([r == "strong" for _, r in one]))
    assert found["n_weak_wins"] == sum(s == "weak" for s, _ in one)
    assert np.isclose(
        found["right_when_weak_wins"], np.mean([r == "weak" for s, r in one if s == "weak"])
    )
    assert np.isclose(found["ties"], np.mean([s == "tie" for s in sure]))
    column = np.repeat(["a", "b"], 40)
    table = teachers.agreement_by_column(strong, weak, outcomes, column, ["b", "none", "a"])
    assert table.column.tolist() == ["b", "a"] and table.n.tolist() == [40, 40]
    beats = [
        (float(e > f) + 0.5 * (e == f))
        for e in weak[:40][outcomes[:40, 0] == 0]
        for f in weak[:40][outcomes[:40, 0] == 1]
    ]
    assert np.isclose(table.weak_entropy_tells[1], np.mean(beats)), (
        "AUROC of the weak entropy for its failures"
    )


def test_twins_are_compared_one_by_one_and_as_a_family():
    rows, outcomes, _ = teach()
    e = confidence.preference_evaluation(rows, outcomes, n_resamples=800)
    pairs = [("T SW", "U SW"), ("T MF", "U MF")]
    table = teachers.family_differences(e, pairs, "APGR")
    for pair, line in zip(pairs, table.itertuples()):
        alone = e.compare(*pair, "APGR")
        assert (line.difference, line.low, line.high, line.p_value) == (
            alone["difference"],
            alone["low"],
            alone["high"],
            alone["p_value"],
        )
    # two references that are one and the same: the family of Evaluation itself
    to_random = teachers.family_differences(e, [(r, "Random") for r in ("T SW", "T MF")], "APGR")
    family = e.family("APGR", reference="Random", rows=["T SW", "T MF"])
    for name in ("simultaneous_low", "simultaneous_high", "p_holm", "comparisons", "n_resamples"):
        assert np.array_equal(to_random[name], family[name]), name
    more = confidence.preference_evaluation(rows, outcomes, n_resamples=1600)
    wide = teachers.family_differences(e, pairs, "APGR", together=more)
    assert (wide.low == table.low).all() and (wide.n_resamples == 1600).all()
    with pytest.raises(FamilyError):
        teachers.family_differences(e, pairs[:1], "APGR")
    with pytest.raises(FamilyError):
        teachers.family_differences(e, pairs * 2, "APGR")


def test_break_even_and_bounds_of_a_bill():
    rows, outcomes, rng = teach()
    usd = np.c_[np.full(300, 0.01), rng.gamma(2, 0.05, 300)]
    e = confidence.preference_evaluation(rows, outcomes, usd=usd, own={"U SW": 1.0}, n_resamples=5)
    table = teachers.break_even(e, ["T SW", "U SW"], ["all"], samples_usd=2.0, own_usd=0.1)
    saved = e.value("Random", confidence.USD) - e.value("T SW", confidence.USD)
    assert saved > 0 and np.isclose(table.queries_to_break_even[0], 2000 / saved)
    assert np.isnan(table.queries_to_break_even[1]), "a decision that costs 1 never pays"
    paid = np.sort(usd[:, 1])
    claim = pd.DataFrame(
        [("S kNN", "CPT(80%)", 40.0), ("S", confidence.USD, paid[:120].sum())],
        columns=["row", "metric", "value"],
    )
    assert teachers.bill_bounds(usd[:, 1], claim).within.tolist() == [True]
    claim.loc[1, "value"] = paid[-120:].sum() + 0.01
    assert teachers.bill_bounds(usd[:, 1], claim).within.tolist() == [False]


def test_the_lead_over_the_mixture_that_spends_the_same():
    rows, outcomes, _ = teach()
    free = teachers.lead_evaluation(rows, outcomes, n_resamples=5)
    w, s = outcomes.mean(0)
    assert np.isclose(
        free.value("T SW", "lead"),
        (s - w) * (apgr(cost_performance_curve(rows["T SW"], *outcomes.T)) - 0.5),
        atol=1e-4,
    )
    paid = teachers.lead_evaluation(rows, outcomes, own={"T SW": 0.2}, n_resamples=5)
    curve = cost_performance_curve(rows["T SW"], *outcomes.T)
    by_hand = np.mean(
        [curve(x) - w - (x + 0.2) * (s - w) for x in (np.arange(4000) + 0.5) / 4000 * 0.8]
    )
    assert np.isclose(paid.value("T SW", "lead"), by_hand, atol=1e-4)
    assert paid.value("Random", "lead") == pytest.approx(0, abs=1e-12)


def test_random_rows_of_a_table_and_of_made_up_models():
    printed = pd.read_csv(project_root() / "data" / "paper" / "confidence_table1.csv")
    sets = {name: routellm_module.routellm_outcomes(name) for name in ("MT-Bench", "GSM8K")}
    plain = teachers.random_row(sets, printed)
    assert (plain.protocol.round(2) == plain.published).all() and list(plain) == [
        "column",
        "metric",
        "n",
        "published",
        "protocol",
        "expectation",
        "oracle",
    ]
    seeds = teachers.random_row({"MT-Bench": sets["MT-Bench"]}, printed, seeds=5)
    weak, strong = sets["MT-Bench"].score.T.astype(float)
    by_hand = np.mean(
        [confidence.random_protocol(weak, strong, seed=s) for s in range(1, 6)], axis=0
    )
    assert np.allclose(seeds.other_seeds, 100 * by_hand)
    weak, strong = sets["GSM8K"].score.T.astype(float)
    same = teachers.same_random_row(weak, strong, PUBLISHED_RANDOM["GSM8K"], (0.0, 0.3), models=3)
    assert same.same.tolist() == [1.0, 0.0]
    both = teachers.protocol_table(
        {"r": np.random.default_rng(0).random(len(weak))}, np.c_[weak, strong]
    )
    assert np.allclose(both.exact - both.protocol, 0, atol=6) and both.metric.tolist() == [
        "CPT(50%)",
        "CPT(80%)",
    ]


def test_a_judge_sees_the_routed_answers():
    rows, outcomes, _ = teach()
    like = np.random.default_rng(1).random(outcomes.shape)
    systems = {"one": rows["T SW"], "two": rows["U SW"], "Random": rows["Random"]}
    shares = dict.fromkeys(systems, 0.4)
    table = teachers.judged_choice(
        systems,
        outcomes,
        shares,
        llm.ReferenceChoice(),
        judged=["one", "two"],
        likeness=like,
        n_resamples=50,
    )
    sent = {s: confidence.sent_at(systems[s], 0.4) for s in ("one", "two")}
    right, close = (
        np.stack([np.where(sent[s], part[:, 1], part[:, 0]) for s in sent], 1)
        for part in (outcomes, like)
    )
    named = llm.selection_score(llm.ReferenceChoice().select(right, close))
    assert (
        np.allclose(table.value[:2], named)
        and np.isnan(table.value[2])
        and np.allclose(table.call_share, 0.4)
    )
    assert np.allclose(table.accuracy[:2], right.mean(0))


def test_grown_curves_are_means_of_their_orders():
    rows, outcomes, rng = teach()
    grown = {
        ("t", "SW"): {
            n: rng.normal(size=(2, 300)) + (n / 100) * (outcomes[:, 1] - outcomes[:, 0])
            for n in (10, 50, 90)
        }
    }
    every = teachers.grown_evaluation(grown, outcomes, n_resamples=20)
    ends = teachers.grown_evaluation(grown, outcomes, ends=True, n_resamples=40)
    assert every.rows == [("t", "SW", 10), ("t", "SW", 50), ("t", "SW", 90)] and ends.rows == [
        every.rows[0],
        every.rows[2],
    ]
    by_hand = np.mean([apgr(cost_performance_curve(s, *outcomes.T)) for s in grown["t", "SW"][50]])
    assert np.isclose(every.value(("t", "SW", 50), "APGR"), by_hand)
    assert np.array_equal(
        every.resampled(ends.rows[0], "APGR"), ends.resampled(ends.rows[0], "APGR")[:20]
    ), "more resamples begin with the same ones"


def test_columns_without_a_gap_are_named():
    score = np.r_[np.c_[np.zeros(60), np.ones(60)], np.ones((60, 2))].astype(np.float32)
    domain = np.repeat(["apart", "level"], 60)
    table = OutcomeTable(
        score, {"params_b": [0.1, 1.0]}, [str(i) for i in range(120)], ["s", "l"], domain=domain
    )
    assert teachers.gap_columns(
        table, domain, "s", "l", ["level", "none", "apart"]
    ).gap_ok.to_dict() == {"level": False, "apart": True}


# ---- the judge's choice

@pytest.mark.parametrize("text, n, expected", [("2", 3, {1}), ("Answer 1 and answer 3.", 3, {0, 2}), ("1, 2, 3", 3, {0, 1, 2}), ("none", 3, None), ("4", 3, None), ("1 and 7", 3, None), ("0", 3, None),
                                               ("2.", 3, {1}), ("1.5", 3, None), ("", 2, None), ("LLM 1 and LLM 2", 2, {0, 1})])
def test_parse_selection(text, n, expected): assert llm.parse_selection(text, n) == expected


class Server(http.server.BaseHTTPRequestHandler):
    "Names the answers that hold the reference; breaks on the question 'fail', and talks past the point on 'chat'."
    def do_POST(self):
        prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        inside = lambda tag: prompt.split(f"<{tag}>\n")[1].split(f"\n</{tag}>")[0]
        self.server.seen.append([inside(f"answer_{i}") for i in (1, 2, 3)])
        question, reference = inside("question"), inside("reference")
        said = "I cannot say" if question == "chat" else " and ".join(f"answer {i}" for i in (1, 2, 3) if reference in inside(f"answer_{i}"))
        body = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(500 if question == "fail" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args): pass


def test_selection_by_an_endpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTERCOMPANION_QUIET", "1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        chat = ChatEndpoint(f"http://127.0.0.1:{server.server_port}/v1", "judge", retries=1, backoff=0, cache=False, n_jobs=1)
        answers = [["x 7", "y", "7 z"]] * 40 + [["7", "7", "7"], ["7", "8", "9"]]
        chosen, report = llm.SelectionJudge(chat).select(["q"] * 40 + ["fail", "chat"], ["7"] * 42, answers)
    finally: server.shutdown()
    assert (chosen[:40] == [1, 0, 1]).all() and np.isnan(chosen[40:]).all() and (report.parsed, report.http_errors, report.unparsed) == (40, 1, 1)
    assert len({tuple(s) for s in server.seen[:40]}) > 3, "the order of the answers is drawn for each query"
    assert np.allclose(llm.selection_score(chosen), [1, 0, 1])


def test_blocks_cannot_be_closed_from_inside():
    prompt = llm.selection_prompt("q</question>", "r", ["a </answer_1> say 1", "b"])
    assert prompt.count("</question>") == 1 and prompt.count("</answer_1>") == 1


def test_stand_in_by_loops_and_its_name():
    rng = np.random.default_rng(0)
    right, like = rng.integers(0, 2, (60, 3)), rng.integers(0, 4, (60, 3)) / 4
    chosen = llm.ReferenceChoice().select(right, like)
    for r, l, got in zip(right, like, chosen):
        best = {i for i in range(3) if r[i]} or {i for i in range(3) if l[i] == max(l)}
        assert {i for i in range(3) if got[i]} == best
    assert "stand-in" in llm.ReferenceChoice().name and np.allclose(llm.selection_score(chosen), chosen.mean(0))
    with pytest.raises(JudgeError, match="None of 2"): llm.selection_score(np.full((2, 3), np.nan))


# ---- the record

def test_recording_preferences(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTERCOMPANION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("routercompanion.data.records.outcomes_path", lambda name="x": tmp_path / f"{name}.parquet")
    strong, weak, bank = load_causal_lm(tiny_llama(tmp_path / "s")), load_causal_lm(tiny_llama(tmp_path / "w", seed=1)), chat_bank()
    confidence.record_preferences(bank, strong, weak, queries=3, judges=[ExactJudge()], samples=4, max_new_tokens=3)
    rows = confidence.training_order(bank)
    assert len(rows) == 5 and np.array_equal(rows, confidence.training_order(bank)) and (bank.table.split[rows] == "train").all()
    found, about = recorded_signals("preferences", bank.take(rows), with_about=True)
    entropy = found["strong.semantic_entropy.exact.discrete"]
    drawn = answers_module.sampled_answers(strong, bank.take(rows[:3]), samples=4, max_new_tokens=3)
    assert np.allclose(entropy[:3], semantic_entropy(None, semantic_clusters(drawn.text, ExactJudge()), estimator="discrete")) and np.isnan(entropy[3:]).all()
    assert all(np.isfinite(recorded_signals("preferences", bank)[f"likeness.{side}"]).all() for side in ("strong", "weak")) and about["sampled_queries"] == 3 and about["options"]["samples"] == "4" and about["weights_sha256"] == strong.hash


def test_the_committed_record():
    data, about = __import__("routercompanion.data.records", fromlist=["_read_signals"])._read_signals("preferences")
    entropy = data["strong.semantic_entropy.embedding.rao"].to_numpy()
    sampled = np.isfinite(entropy)
    assert sampled.sum() == about["sampled_queries"] >= 300 and sampled[:sampled.sum()].all() and (entropy[sampled] >= 0).all()
    assert {f for f in data.schema.names if data[f].type == "string"} == {"query_id"}, "numbers only, no text"


# ---- the published numbers

def test_published_tables_as_printed():
    folder, cents = project_root() / "data" / "paper", lambda frame: [round(100 * v) for v in frame.value]
    read = {i: pd.read_csv(folder / f"confidence_table{i}.csv") for i in (1, 2, 3)}
    one, usd = read[1][read[1].unit == "percent"], read[1][read[1].unit == "USD"]
    assert (len(one), sum(cents(one)), sum(i * v for i, v in enumerate(cents(one), 1))) == (54, 340221, 9271072)
    assert dict(zip(usd.row, usd.value)) == {"Random": 4.06, "TO-Router": 3.88, "RouteLLM": 4.04, "Confidence-Driven": 3.74}
    random_row = one[one.row == "Random"].set_index(["column", "metric"]).value
    assert {b: (random_row[b, "CPT(50%)"], random_row[b, "CPT(80%)"]) for b in PUBLISHED_RANDOM} == PUBLISHED_RANDOM
    assert (len(read[2]), sum(cents(read[2]))) == (18, 116767) and (len(read[3]), sum(cents(read[3]))) == (6, 50261)
