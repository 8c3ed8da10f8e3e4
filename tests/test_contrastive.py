"""Contrastive routing against plain statements: equations 2 to 9 in loops, gradients against autograd of the loops, fingerprints against one-probe passes,
the router against its contract, and everything that must be refused. Those marked `model` read the three small models from the cache of assets."""
import json
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.numpy import load_file, save_file
from tiny_models import tiny_llama

from routercompanion.features import fingerprints
from routercompanion.routers import contrastive
from routercompanion.evaluate import variants
from routercompanion.routers import baselines
from routercompanion.routers.bandits import thompson
from routercompanion.routers.clustering import kmeans as kmeans_module
from routercompanion.routers.difficulty import embeddings
from routercompanion.studies import choices, cscr, cscr_published, cscr_tuning
from routercompanion.studies.seeds import mean_rows, seed_rows, seeded_study, spread_table
from routercompanion.data.bank import make_bank
from routercompanion.core import CompanionError, file_hash
from routercompanion.parallel import deterministic
from routercompanion.metrics.sweeps import TRADE_OFFS, lambda_sweep
from routercompanion.models.causal_lm import load_causal_lm
from routercompanion.data.pool import PoolInputError, pool_subset
from routercompanion.evaluate.pool import pool_evaluation
from routercompanion.routers.baselines import PoolOracle
from routercompanion.routers.clustering.kmeans import KMeansRouter
from routercompanion.routers.check import check_router
from routercompanion.routers.sweeping import changed as changed_router
from routercompanion.routers.registry import ROUTERS, load_router, save_router


@pytest.fixture(autouse=True, scope="module")
def _threads(): deterministic(42, 1)


def unit_rows(rng, n, d): return (v := rng.normal(size=(n, d))) / np.linalg.norm(v, axis=1, keepdims=True)


# ---- eq. 6 to 8 in loops, over scalars

def literal_bands(costs, n_bands):
    "Band of each model by the half-open intervals of section 3.4, the last one closed."
    edges = [0.] + [float(np.quantile(costs, k / n_bands)) for k in range(1, n_bands)] + [1.]
    band = []
    for x in costs:
        inside = [k for k in range(n_bands) if edges[k] <= x < edges[k + 1]]
        band.append(inside[0] if inside else n_bands - 1)
    return band


def literal_loss(q, e, positives, costs, *, n_bands, tau_min, alpha, gamma, sign, penalty, known, mean="query"):
    "Equation 8 for each query, as it stands on the page, over Python lists of tensors (so that autograd can differentiate it)."
    band, terms, by_band = literal_bands(costs, n_bands), [], {}
    for i in range(len(q)):
        per_band = []
        for k in range(n_bands):
            members = [m for m in range(len(e)) if band[m] == k]
            P_ik = [m for m in members if positives[i][m] and known[i][m]]
            if not P_ik: continue
            tau = tau_min + alpha * sum(costs[m] for m in members) / len(members)
            s = {"paper": -1, "text": 1}[sign] * gamma
            top = sum(torch.exp(torch.dot(q[i], e[m]) / tau) for m in P_ik)
            if penalty == "inside": below = sum(torch.exp((torch.dot(q[i], e[m]) + s * costs[m]) / tau) for m in range(len(e)) if known[i][m])
            else: below = sum(torch.exp(torch.dot(q[i], e[m]) / tau + s * costs[m]) for m in range(len(e)) if known[i][m])
            per_band.append(-torch.log(top / below))
            by_band.setdefault(k, []).append(per_band[-1])
        if per_band: terms.append(sum(per_band) / len(per_band))
    if mean == "band":
        means = [sum(found) / len(found) for found in by_band.values()]
        return sum(means) / len(means)
    return sum(terms) / len(terms)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), B=st.integers(1, 5), M=st.integers(2, 9), n_bands=st.integers(1, 6), gamma=st.sampled_from([0., .1, .2, .5]), alpha=st.sampled_from([0., .25]),
       sign=st.sampled_from(["text", "paper"]), penalty=st.sampled_from(["inside", "outside"]), mean=st.sampled_from(["query", "band"]), equal=st.booleans(), gaps=st.booleans())
def test_cost_spectrum_loss_and_gradient_are_those_of_the_loops(seed, B, M, n_bands, gamma, alpha, sign, penalty, mean, equal, gaps):
    rng = np.random.default_rng(seed)
    q, e = unit_rows(rng, B, 4), unit_rows(rng, M, 4)
    costs = np.round(rng.random(M), 1) if equal else rng.random(M)   # rounded: many ties, empty bands
    costs[rng.integers(M)] = 1.
    right, known = rng.random((B, M)) < .4, rng.random((B, M)) < (.7 if gaps else 2)
    right[0, 0] = known[0, 0] = True
    options = dict(n_bands=n_bands, tau_min=.05, alpha=alpha, gamma=gamma, sign=sign, penalty=penalty, mean=mean)
    values, grads = [], []
    for loss in (lambda q: literal_loss(q, torch.tensor(e), right, costs, known=known, **options),
                 lambda q: contrastive.cost_spectrum_infonce(q, torch.tensor(e), right, costs, known=known, bands=contrastive.cost_bands(costs, n_bands, warn=False), **options)):
        x = torch.tensor(q, requires_grad=True)
        value = loss(x)
        value.backward()
        values.append(float(value.detach())); grads.append(x.grad.numpy())
    assert np.isclose(*values, rtol=1e-9, atol=1e-9) and np.allclose(*grads, rtol=1e-7, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), M=st.integers(2, 12), tau=st.sampled_from([.02, .1, 1.]))
def test_infonce_is_equation_6_and_both_collapses_hold(seed, M, tau):
    rng = np.random.default_rng(seed)
    q, e, costs = (torch.tensor(unit_rows(rng, n, 6)) for n in (7, M, 1)); costs = rng.random(M)
    right = rng.random((7, M)) < .5
    right[0, 0] = True
    plain = [-math.log(sum(math.exp(float(q[i] @ e[m]) / tau) for m in range(M) if right[i, m]) / sum(math.exp(float(q[i] @ e[m]) / tau) for m in range(M))) for i in range(7) if right[i].any()]
    assert np.isclose(float(contrastive.infonce(q, e, right, tau)), np.mean(plain)) and float(contrastive.infonce(q, e, right, tau)) >= -1e-12
    for sign in contrastive.SIGNS:   # K = 1 and gamma = 0, at tau_min + alpha times the mean cost
        collapsed = contrastive.cost_spectrum_infonce(q, e, right, costs, n_bands=1, gamma=0, tau_min=.05, alpha=.25, sign=sign)
        assert torch.isclose(collapsed, contrastive.infonce(q, e, right, .05 + .25 * costs.mean()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", contrastive.BandsCollapsedWarning)
        same = contrastive.cost_spectrum_infonce(q, e, right, np.full(M, .4), n_bands=5, gamma=0)
    assert torch.isclose(same, contrastive.infonce(q, e, right, .05 + .25 * .4)), "equal costs are one band"


def test_the_sign_decides_what_a_dear_wrong_model_feels():
    e, costs = torch.eye(3, dtype=torch.float64), np.array([.1, .1, 1.])
    push = {}
    for sign in contrastive.SIGNS:
        q = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
        contrastive.cost_spectrum_infonce(q, e, [[True, False, False]], costs, n_bands=1, gamma=.2, sign=sign).backward()
        push[sign] = q.grad[0]
    assert push["text"][2] > push["text"][1] and push["paper"][2] < push["paper"][1]
    q = torch.nn.functional.normalize(torch.tensor([[1., .2, .1]], dtype=torch.float64), dim=1)
    assert contrastive.cost_spectrum_infonce(q, e, [[True, True, True]], costs, n_bands=1, sign="paper") < 0 <= contrastive.infonce(q, e, [[True, True, True]]), "the printed sign can go below zero"


@settings(max_examples=60, deadline=None)
@given(costs=st.lists(st.integers(0, 10), min_size=2, max_size=15), n_bands=st.integers(1, 8))
def test_bands_are_a_partition(costs, n_bands):
    x = np.array(costs) / max(1, max(costs))
    bands = contrastive.cost_bands(x, n_bands, warn=False)
    assert bands.index.tolist() == literal_bands(list(x), n_bands) and bands.edges[0] == 0 and bands.edges[-1] == 1
    assert bands.index[x.argmax()] == bands.index.max() and bands.used == len(set(bands.index.tolist()))
    for k in range(n_bands):
        assert np.isclose(bands.mean[k], x[bands.index == k].mean()) if (bands.index == k).any() else np.isnan(bands.mean[k])
    assert (np.diff(bands.index[np.argsort(x)]) >= 0).all(), "dearer models are never in a lower band"


def test_the_dearest_model_is_in_the_last_band(): assert contrastive.cost_bands([.1, .2, .3, .4, 1.], 5).index.tolist() == [0, 1, 2, 3, 4]


def test_errors_and_warnings_of_the_loss():
    q, e = torch.eye(2), torch.eye(2)
    with pytest.raises(contrastive.NoPositiveError): contrastive.cost_spectrum_infonce(q, e, torch.zeros(2, 2), [.1, 1])
    with pytest.raises(contrastive.NoPositiveError): contrastive.infonce(q, e, torch.ones(2, 2), known=torch.zeros(2, 2))
    with pytest.raises(contrastive.PoolOfOneError): contrastive.infonce(q, e[:1], torch.ones(2, 1))
    with pytest.raises(fingerprints.FingerprintWidthError): contrastive.infonce(q, torch.eye(3), torch.ones(2, 3))
    with pytest.raises(fingerprints.FingerprintWidthError): contrastive.infonce(q, e, torch.ones(2, 3))
    with pytest.raises(CompanionError, match="sign"): contrastive.cost_spectrum_infonce(q, e, torch.ones(2, 2), [.1, 1], sign="plus")
    with pytest.raises(CompanionError, match="kind of mean"): contrastive.cost_spectrum_infonce(q, e, torch.ones(2, 2), [.1, 1], mean="model")
    with pytest.raises(CompanionError, match="place of the penalty"): contrastive.cost_spectrum_infonce(q, e, torch.ones(2, 2), [.1, 1], penalty="before")
    for bad in ([-.1, 1], [.5, 2]):
        with pytest.raises(fingerprints.ContrastiveError, match=r"outside \[0, 1\]"): contrastive.cost_bands(bad)
    with pytest.raises(fingerprints.ContrastiveError, match="n_bands"): contrastive.cost_bands([.1, 1], 0)
    with pytest.warns(contrastive.BandsCollapsedWarning, match="All costs are equal"): contrastive.cost_spectrum_infonce(q, e, torch.ones(2, 2), [1., 1.])
    with pytest.warns(contrastive.BandsCollapsedWarning, match="unknown"): assert contrastive.cost_bands([np.nan, .5]).used == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        contrastive.cost_bands([1., 1.], 1)   # one band was asked for: nothing collapses


# ---- fingerprints: eq. 2 to 5

@pytest.fixture(scope="module")
def bank():
    rows = [dict(prompt=f"\nQ: {a} + {k}\nA:", references=[str(a + k)], task=f"sum{a % 2}", domain="sums", source="made up", split="train") for a in range(1, 4) for k in range(3)]
    rows += [dict(prompt=f"\nSay {w}\n", references=[w], task="echo", domain="words", source="made up", split="train") for w in ("ab", "cdefgh")]
    return make_bank(rows, {"sum0": "\nQ: 9 + 1\nA: 10", "sum1": "\nQ: 9 + 2\nA: 11"}, "toy")


@pytest.fixture(scope="module")
def lms(tmp_path_factory): return [load_causal_lm(tiny_llama(tmp_path_factory.mktemp(f"m{s}"), seed=s), dtype=torch.float32) for s in (0, 1)]


def next_p(lm, ids):
    with torch.inference_mode(): return lm.model(input_ids=torch.tensor([ids])).logits[0, -1].float().softmax(-1)


def test_token_probabilities_are_those_of_plain_passes(bank, lms):
    lm, texts, T = lms[0], ["1", "Q", " ", "never one token"], 4
    found = fingerprints.token_probabilities(lm, bank, texts, horizon=T, batch_tokens=200)
    for i in range(len(bank)):
        ids = lm.tokens([bank.shots.get(bank.table.task[i], "") + bank.table.prompt[i]])[0]
        p, log_p = np.zeros(4), np.zeros(4)
        for _ in range(T):   # on and on, whatever is written
            now = next_p(lm, ids)
            here = np.array([float(now[lm.tokens([t])[0][0]]) if len(lm.tokens([t])[0]) == 1 else 0. for t in texts])
            p, log_p = p + here / T, log_p + np.maximum(np.log(np.maximum(here, 1e-300)), fingerprints.LOG_FLOOR) / T
            ids = ids + [int(now.argmax())]
        assert np.allclose(found["p"][i], p, atol=1e-5) and np.allclose(found["log_p"][i], log_p, atol=1e-3)
    assert (found["p"][:, 3] == 0).all() and np.allclose(found["log_p"][:, 3], fingerprints.LOG_FLOOR), "a text that the vocabulary lacks"
    assert fingerprints.spellings(lm.tokenizer, texts)[3] == []


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), N=st.integers(1, 4), T=st.integers(1, 4), K=st.integers(1, 6))
def test_logit_footprint_is_equation_2(seed, N, T, K):
    p = np.random.default_rng(seed).dirichlet(np.ones(K + 1), (N, T))[..., :K]
    d = np.array([sum(p[i, t, k] for i in range(N) for t in range(T)) / (N * T) for k in range(K)])
    got = fingerprints.logit_footprint(p)
    assert np.allclose(got, d / math.sqrt(sum(d**2)), atol=1e-6) and np.isclose(np.linalg.norm(got), 1, atol=1e-6) and np.allclose(got, fingerprints.logit_footprint(p.mean(1)), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-50, 50), min_size=3, max_size=20).filter(lambda v: np.std(v) > .01), a=st.floats(.1, 9), shift=st.floats(-5, 5))
def test_perplexity_fingerprint_is_equation_4(values, a, shift):
    x = np.array(values)
    z = (x - x.mean()) / x.std()
    got = fingerprints.perplexity_fingerprint(x)
    assert np.allclose(got, z / np.linalg.norm(z), atol=1e-5) and np.allclose(got, fingerprints.perplexity_fingerprint(a * x + shift), atol=1e-3) and abs(got.sum()) < 1e-3


def test_a_probe_without_an_answer_is_at_the_model_s_own_mean():
    assert np.allclose(fingerprints.perplexity_fingerprint([1., np.nan, 3.]), [-1 / 2**.5, 0, 1 / 2**.5])
    for nothing in ([np.nan] * 3, [2.] * 3, [np.inf] * 3):
        with pytest.raises(fingerprints.ZeroFingerprintError, match="my model"): fingerprints.perplexity_fingerprint(nothing, "my model")
    with pytest.raises(fingerprints.ZeroFingerprintError): fingerprints.correctness_fingerprint([np.nan, np.nan])
    with pytest.raises(fingerprints.ZeroFingerprintError): fingerprints.logit_footprint(np.zeros((2, 3)))
    for bad in ([[.5, 1.2]], [[-.1, .2]], np.zeros((0, 3))):
        with pytest.raises(fingerprints.ContrastiveError, match="probabilities"): fingerprints.logit_footprint(bad)


@pytest.mark.parametrize("with_prompts", [False, True])
def test_response_nll_is_equation_5(lms, with_prompts):
    lm, said, asked = lms[0], ["42", "", "a longer answer, really", "x"], ["Q: 6 * 7", "nothing", "why?", "y"]
    got = fingerprints.response_nll(lm, said, prompts=asked if with_prompts else None, batch_size=2)
    for i, y in enumerate(said):
        if not y: assert np.isnan(got[i]); continue
        ids, total = [lm.tokenizer.eos_token_id] + (lm.tokens([asked[i]])[0] if with_prompts else []), 0.
        for t in lm.tokens([y])[0]:
            total -= math.log(float(next_p(lm, ids)[t]))
            ids = ids + [t]
        assert np.isclose(got[i], total / len(lm.tokens([y])[0]), atol=1e-4)
    short = fingerprints.response_nll(lm, said, max_tokens=2)
    assert np.isclose(short[2], fingerprints.response_nll(lm, ["a "])[0], atol=1e-4), "cut after two tokens"
    with pytest.raises(fingerprints.ContrastiveError, match="one for each"): fingerprints.response_nll(lm, said, prompts=asked[:2])


def test_target_nll_is_equation_3(bank, lms):
    lm = lms[1]
    got = fingerprints.target_nll(lm, bank)
    for i in (0, len(bank) - 1):
        ids, total, target = lm.tokens([bank.shots.get(bank.table.task[i], "") + bank.table.prompt[i]])[0], 0., lm.tokens([bank.table.references[i][0]])[0]
        for t in target:
            total -= math.log(float(next_p(lm, ids)[t]))
            ids = ids + [t]
        assert np.isclose(got[i], total / len(target), atol=1e-4)
    assert np.isnan(fingerprints.target_nll(lm, bank, [""] * len(bank))).all()


# ---- tokens of several vocabularies

class Words:
    "A tokenizer of given pieces, longest first; `strip`: decode drops the first blank, as some do."
    def __init__(self, pieces, strip=False): self.pieces, self.strip, self.all_special_ids = ["<s>", *pieces], strip, [0]
    def __len__(self): return len(self.pieces)
    def __call__(self, text, add_special_tokens=False):
        ids = []
        while text:
            i = max((i for i, p in enumerate(self.pieces) if p and text.startswith(p)), key=lambda i: len(self.pieces[i]))
            ids.append(i); text = text[len(self.pieces[i]):]
        return SimpleNamespace(input_ids=ids)
    def decode(self, ids, **kw): return self.batch_decode([ids])[0]
    def batch_decode(self, rows, **kw): return [t[1:] if self.strip and t[:1] == " " else t for r in rows for t in ["".join(self.pieces[i] for i in r)]]


def test_tokens_are_matched_by_the_text_they_write():
    one = Words(["a", "b", " ", " the", "the", " a", "�"])
    two = Words([" a", "the", " the", "b", "a", " ", "ab", "the"], strip=True)   # another order, one text twice, decode drops a leading blank
    assert fingerprints.token_texts(one) == ["", "a", "b", " ", " the", "the", " a", ""] and " the" in fingerprints.token_texts(two), "blanks count, halves of characters do not"
    assert fingerprints.spellings(two, ["the", " the", "ab", "zzz"]) == [[2, 8], [3], [7], []]
    table = fingerprints.shared_tokens([one, two], ["the ab the", "b"])
    # one: the| a|b| the / b;  two: the| a|b| the / b, so "ab" is never shared
    assert set(table.texts) == {"the", " a", "b", " the"} and table.texts[0] == "b" and np.isclose(table.frequency[0], 2 / 5) and np.isclose(table.documents[0], 1)
    twice = fingerprints.shared_tokens([one, two, one, one], ["the ab the", "b"])
    assert twice.texts == table.texts and np.array_equal(twice.frequency, table.frequency), "models that share a vocabulary count once"
    with pytest.raises(fingerprints.TokenBasisError, match="in common"): fingerprints.shared_tokens([Words(["a", " x"]), Words(["a", " ", "x"])], [" x"])


def test_the_three_choices_of_tokens():
    table = fingerprints.TokenTable(["every", "rare", "odd"], np.array([.5, .3, .2]), np.array([1., .1, .5]), 10)
    idf = [math.log(11 / 11) + 1, math.log(11 / 2) + 1, math.log(11 / 6) + 1]
    log_p = np.array([[-1, -2, -9.], [-1, -2.5, -3]])
    assert fingerprints.choose_tokens(table, 3).tolist() == [0, 1, 2]
    assert fingerprints.choose_tokens(table, 3, "tfidf").tolist() == np.argsort([-f * i for f, i in zip(table.frequency, idf)]).tolist() == [1, 0, 2]
    assert fingerprints.choose_tokens(table, 2, "variance", log_p).tolist() == [2, 1]
    for K in (0, 4):
        with pytest.raises(fingerprints.TokenBasisError): fingerprints.choose_tokens(table, K)
    for bad in (None, log_p[:1], log_p[:, :2]):
        with pytest.raises(fingerprints.TokenBasisError, match="variance"): fingerprints.choose_tokens(table, 2, "variance", bad)
    with pytest.raises(CompanionError, match="choice of tokens"): fingerprints.choose_tokens(table, 2, "luck")


POOL = ("smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-0.5b-instruct")


@pytest.mark.model
def test_one_basis_for_the_three_real_vocabularies():
    from transformers import AutoTokenizer
    from routercompanion.assets.store import resolve_model
    tokenizers = [AutoTokenizer.from_pretrained(resolve_model(m)) for m in POOL]
    probes = ["Q: What is 12 + 30? The answer is 42.", "The capital of the country is the city, and the river is there.", "naïve café: 1 = 1"]
    table = fingerprints.shared_tokens(tokenizers, probes)
    assert {" the", " is", "The", ".", ","} <= set(table.texts) and table.texts[0] in (" ", " the", " is")
    for tokenizer in tokenizers:
        for text, ids in zip(table.texts[:40], fingerprints.spellings(tokenizer, table.texts[:40])):
            assert ids and all(("x " + "a" + text).endswith(tokenizer.decode(tokenizer("x a", add_special_tokens=False).input_ids + [i])[3:]) for i in ids)
        assert all(t not in table.texts for t in (tokenizer.bos_token, tokenizer.eos_token))
    assert len({tuple(s[0] for s in fingerprints.spellings(t, table.texts[:10])) for t in tokenizers}) == 3, "the ids differ, the texts do not"


@pytest.mark.model
def test_a_real_footprint_reads_the_same_words():
    lm = load_causal_lm(POOL[0], dtype=torch.float32)
    rows = [dict(prompt=p, references=["x"], task="free", domain="d", source="made here", split="train") for p in ("The capital of France is", "Once upon a time there was")]
    p = fingerprints.token_probabilities(lm, make_bank(rows, {}, "two"), [" Paris", " a", " the"], horizon=1)["p"]
    assert p[0].argmax() == 0 and p[0, 0] > .1 and p[1].argmax() == 1


# ---- records, cache, mixed pools

def reading(lm, bank, scorer, **options): return fingerprints.model_readings(lm, bank, ["1", "Q", "A", "s"], scorer, **{"horizon": 2, "max_new_tokens": 3, **options})


def test_readings_are_kept_with_a_manifest(bank, lms, tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTERCOMPANION_CACHE", str(tmp_path))
    first, manifest = reading(lms[0], bank, lms[1])
    files = lambda: sorted(tmp_path.rglob("*.safetensors"))
    assert len(files()) == 1 and manifest["probes"] == list(bank.query_ids) and manifest["model_hash"] == lms[0].hash and manifest["scorer"] == lms[1].name
    monkeypatch.setattr(fingerprints, "token_probabilities", None)   # a second reading runs nothing
    again, _ = reading(lms[0], bank, lms[1])
    assert all(np.array_equal(first[k], again[k]) for k in first)
    monkeypatch.undo(); monkeypatch.setenv("ROUTERCOMPANION_CACHE", str(tmp_path))
    for changed in (dict(horizon=3), dict(max_new_tokens=2)): reading(lms[0], bank, lms[1], **changed)
    reading(lms[1], bank, lms[1]); reading(lms[0], bank, lms[0]); reading(lms[0], bank.take([0, 1, 2]), lms[1])
    assert len(files()) == 6, "another model, scorer, bank or setting is another file"
    files()[0].write_bytes(b"cut")
    with pytest.raises(fingerprints.FingerprintFileError, match="Delete it"):
        for changed in ({}, dict(horizon=3), dict(max_new_tokens=2)): reading(lms[0], bank, lms[1], **changed)
        reading(lms[1], bank, lms[1]); reading(lms[0], bank, lms[0]); reading(lms[0], bank.take([0, 1, 2]), lms[1])


@pytest.fixture(scope="module")
def record(bank, lms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    with pytest.MonkeyPatch.context() as m:
        m.setenv("ROUTERCOMPANION_CACHE", str(folder))
        return fingerprints.record_fingerprints([str(lm.folder) for lm in lms], bank, scorer=str(lms[0].folder), horizon=3, max_new_tokens=3, path=folder / "two.safetensors",
                                     load=lambda name: load_causal_lm(name, dtype=torch.float32))


def test_a_record_goes_to_a_file_and_back(record, tmp_path):
    path = fingerprints.save_record(record, tmp_path / "r.safetensors")
    again = fingerprints.recorded_fingerprints(path)
    assert again.models == record.models and again.table.texts == record.table.texts and again.probes == record.probes and again.about == record.about
    assert all(np.array_equal(getattr(again, k), getattr(record, k)) for k in fingerprints.READINGS) and path.read_bytes() == fingerprints.save_record(again, tmp_path / "s.safetensors").read_bytes()
    for kind in ("logit", "perplexity"): assert again.fingerprints(kind, K=8) == record.fingerprints(kind, K=8)
    whole = path.read_bytes()
    for broken in (b"", whole[:40], whole[:-8], whole.replace(b'fingerprints', b'fingerprintz', 1)):
        path.write_bytes(broken)
        with pytest.raises(fingerprints.FingerprintFileError): fingerprints.recorded_fingerprints(path)
    with pytest.raises(fingerprints.FingerprintFileError, match="missing"): fingerprints.recorded_fingerprints(tmp_path / "missing.safetensors")


def test_one_sphere_for_both_kinds_and_a_mixed_pool(record):
    N, (one, two) = len(record.probes), record.models
    logit, perplexity = record.fingerprints("logit", K=N), record.fingerprints("perplexity")
    mixed = record.fingerprints({one: "logit", two: "perplexity"}, K=N)
    assert mixed == {one: logit[one], two: perplexity[two]}
    for v in (*logit.values(), *perplexity.values()): assert len(v) == N and np.isclose(np.linalg.norm(v), 1, atol=1e-6)
    with pytest.raises(fingerprints.FingerprintWidthError, match="N = K"): record.fingerprints({one: "logit", two: "perplexity"}, K=N - 1)
    assert list(record.select([two]).fingerprints("perplexity")) == [two] and record.select([two]).fingerprints("perplexity")[two] == perplexity[two]
    assert record.fingerprints("perplexity", nll="nll_target") != perplexity
    assert len(set(map(tuple, (record.fingerprints("logit", K=6, by=by)[one] for by in fingerprints.TOKEN_CHOICES)))) >= 2
    with pytest.raises(CompanionError, match="kind of fingerprint"): record.fingerprints("aura")


def test_models_that_show_only_answers(lms, tmp_path):
    said = {"api": ["42", "no", "x y"], "api 2": ["41", "", "z"]}
    record = fingerprints.record_responses(said, ["a", "b", "c"], scorer=lms[0], prompts=["p", "q", "r"], path=tmp_path / "r.safetensors", about={"set": "made up"})
    again = fingerprints.recorded_fingerprints(tmp_path / "r.safetensors")
    assert np.allclose(again.nll[0], fingerprints.response_nll(lms[0], said["api"])) and np.isnan(again.nll[1, 1]) and again.about["set"] == "made up" and not len(again.table)
    assert np.allclose(again.nll_given[1, 2], fingerprints.response_nll(lms[0], ["z"], prompts=["r"])[0], atol=1e-5)
    assert list(again.fingerprints("perplexity")) == ["api", "api 2"] and again.fingerprints("perplexity")["api 2"][1] == 0
    with pytest.raises(fingerprints.TokenBasisError): again.fingerprints("logit")


def test_routerbench_responses_are_read_row_by_row(tmp_path):
    for name, rows in (("b_test", 2), ("a_train", 3)):
        lines = ["id,m|model_response,k|model_response,m"] + [f'{i},"{name} {i}, m",{"" if i else "NA"},1' for i in range(rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    class Table(SimpleNamespace):
        def __len__(self): return self.n
    found = fingerprints.routerbench_responses(Table(models=["m", "k"], n=5), tmp_path)
    assert found == {"m": ["a_train 0, m", "a_train 1, m", "a_train 2, m", "b_test 0, m", "b_test 1, m"], "k": ["NA", "", "", "NA", ""]}
    with pytest.raises(fingerprints.ContrastiveError, match="same source"): fingerprints.routerbench_responses(Table(models=["m"], n=6), tmp_path)


# ---- the router

def topics(n=400, m=6, seed=0, gaps=0., d=10):
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 4, n)
    X = (np.eye(d)[topic] + rng.normal(0, .25, (n, d))).astype(np.float32)
    chance = np.random.default_rng(7).random((4, m))
    S = (rng.random((n, m)) < chance[topic]).astype(float)
    S = np.where(rng.random((n, m)) < gaps, np.nan, S)
    return X, SimpleNamespace(score=S, cost={"usd": np.tile(np.arange(1., m + 1), (n, 1))}, models=[f"m{j}" for j in range(m)], query_ids=np.array([f"q{i}" for i in range(n)]))


def quick(**options): return contrastive.CSCRRouter(**{**dict(hidden=16, epochs=3, batch_size=64, n_probes=40), **options})


@pytest.mark.filterwarnings("ignore::routercompanion.routers.contrastive.BandsCollapsedWarning")
@pytest.mark.parametrize("options", [{}, dict(missing="raise"), dict(sign="text", penalty="outside"), contrastive.AS_PUBLISHED | dict(hidden=8), dict(n_bands=None, positives="cheapest"), dict(n_bands=1, alpha=0., gamma=0.), dict(positives="best"), dict(k=1)])
def test_contract(options):
    X, t = topics(120, 3, gaps=0.)
    if options != dict(k=1): check_router(quick(**options))   # with k = 1 a huge price cannot reach the cheapest model of three within eq. 9; OUTSIDE takes care of it below
    r = quick(**options).fit(X, t)
    assert (r.route(X, 1e9) == 0).all() and set(np.unique(r.predict_quality(X) == contrastive.OUTSIDE)) <= {True, False}
    assert r.__class__ in ROUTERS.values() and (r.predict_quality(X)[r.predict_quality(X) != contrastive.OUTSIDE] <= 1 + 1e-5).all()


@pytest.mark.parametrize("k", [1, 2, 4, 6, 50])
@pytest.mark.parametrize("lam", [0., .05, .3, 2., 90.])
def test_routing_is_equation_9(k, lam):
    X, t = topics()
    r = quick(k=k).fit(X, t)
    q, E, costs = r.project(X[:60]).astype(np.float64), r.experts_.astype(np.float64), r.model_costs_
    assert np.allclose(np.linalg.norm(q, axis=1), 1, atol=1e-5) and np.isclose(costs.max(), 1)
    expected = []
    for x in q:
        cos = [float(x @ e) for e in E]
        top = sorted(range(len(E)), key=lambda j: -cos[j])[:k]
        expected.append(max(top, key=lambda j: cos[j] - lam * costs[j]))
    assert (r.route(X[:60], lam) == expected).mean() > .97 and (r.choose(r.project(X[:60]), lam) == expected).mean() > .97, "equal but for rounding"
    sweep = lambda_sweep(r.predict_quality(X), t.score, t.cost["usd"][0], [lam])
    assert (sweep.choice[:60, 0] == expected).mean() > .97, "the curves of the metrics notebook see the same choices"
    assert max(TRADE_OFFS[np.isfinite(TRADE_OFFS)]) < -contrastive.OUTSIDE - 1


def test_it_learns_and_the_sign_matters():
    X, t = topics(1500)
    Z, new = topics(500, seed=1)
    paid, right = {}, {}
    for sign in contrastive.SIGNS:
        r = quick(sign=sign, epochs=40, gamma=.5, n_probes=100).fit(X, t)
        choice = r.route(Z)
        paid[sign], right[sign] = r.model_costs_[choice].mean(), new.score[np.arange(500), choice].mean()
        assert r.history_[-1] < r.history_[0]
    assert right["text"] > new.score.mean() + .05 and paid["text"] < paid["paper"]


def test_missing_outcomes_are_neither_right_nor_wrong():
    X, t = topics(300, gaps=.3)
    r = quick(fingerprints={m: np.eye(6)[j].tolist() for j, m in enumerate(t.models)}).fit(X, t)
    hidden = SimpleNamespace(**{**vars(t), "score": np.where(np.isnan(t.score), np.nan, t.score)})
    assert np.isfinite(r.predict_quality(X)).all() and np.array_equal(r.predict_quality(X), quick(fingerprints=r.fingerprints).fit(X, hidden).predict_quality(X))
    filled = SimpleNamespace(**{**vars(t), "score": np.nan_to_num(t.score)})
    assert not np.array_equal(r.predict_quality(X), quick(fingerprints=r.fingerprints).fit(X, filled).predict_quality(X))


def test_own_probes_are_not_trained_on():
    X, t = topics(100)
    r = quick(n_probes=30).fit(X, t)
    changed = X.copy()
    changed[r.probes_] = 9.
    assert len(r.probes_) == 30 and np.array_equal(quick(n_probes=30).fit(changed, t).state_["p0"], r.state_["p0"])
    assert np.allclose(r.experts_, [fingerprints.correctness_fingerprint(s) for s in t.score[r.probes_].T]) and len(quick(n_probes=10**6).fit(X, t).probes_) == 50
    given_ = quick(fingerprints={m: np.eye(6)[j].tolist() for j, m in enumerate(t.models)}).fit(X, t)
    assert len(given_.probes_) == 0 and np.array_equal(given_.experts_, np.eye(6, dtype=np.float32))


def test_experts_come_and_go_without_training(tmp_path):
    X, t = topics()
    r = quick(fingerprints={m: np.eye(8)[j].tolist() for j, m in enumerate(t.models)}, k=6).fit(X, t)
    head, before, q = r.state_["p0"].copy(), r.route(X, .2), r.project(X)
    again = load_router(save_router(r, tmp_path / "r"))
    assert np.array_equal(again.choose(again.project(X), .2), r.choose(q, .2)) and again.model_names_ == r.model_names_
    r.add_experts({"twin": np.eye(8)[int(np.bincount(before).argmax())]}, {"twin": 0.})
    assert np.array_equal(r.state_["p0"], head) and r.predict_quality(X).shape == (400, 7) and r.model_names_[-1] == "twin"
    after = r.route(X, .2)
    assert (after == 6).sum() >= (before == np.bincount(before).argmax()).sum(), "a cheaper twin takes all that its original had"
    bigger = load_router(save_router(r, tmp_path / "s"))
    assert np.array_equal(bigger.route(X, .2), after)
    assert np.array_equal(r.remove_experts(["twin"]).route(X, .2), before)
    r.remove_experts(["m0", "m5"])
    assert r.model_names_ == ["m1", "m2", "m3", "m4"] and r.route(X).max() <= 3 and np.allclose(r.model_costs_, np.array([2, 3, 4, 5]) / 6)
    with pytest.raises(fingerprints.ContrastiveError, match="already"): r.add_experts({"m1": np.eye(8)[0]}, {"m1": .1})
    with pytest.raises(fingerprints.FingerprintWidthError, match="width 5"): r.add_experts({"new": np.ones(5)}, {"new": .1})
    with pytest.raises(fingerprints.ZeroFingerprintError): r.add_experts({"new": np.zeros(8)}, {"new": .1})
    with pytest.raises(CompanionError, match="costs"): r.add_experts({"new": np.eye(8)[6]}, {})
    for price in (-1, np.nan):
        with pytest.raises(fingerprints.ContrastiveError, match="cost"): r.add_experts({"new": np.eye(8)[6]}, {"new": price})
    with pytest.raises(CompanionError, match="model of this router"): r.remove_experts(["m9"])
    with pytest.raises(fingerprints.ContrastiveError, match="No model would be left"): r.remove_experts(r.model_names_)
    with pytest.raises(CompanionError, match="fit first"): quick().add_experts({}, {})


def test_bad_input_is_named():
    X, t = topics()
    with pytest.raises(contrastive.PoolOfOneError, match="nothing to route"): quick().fit(X, t.score[:, :1])
    with pytest.raises(contrastive.NoPositiveError, match="No model answers"): quick(fingerprints={str(j): np.eye(6)[j].tolist() for j in range(6)}).fit(X, np.zeros_like(t.score))
    vectors = {m: np.eye(6)[j].tolist() for j, m in enumerate(t.models)}
    with pytest.raises(fingerprints.FingerprintWidthError, match="m2"): quick(fingerprints={**vectors, "m2": [1., 0.]}).fit(X, t)
    with pytest.raises(fingerprints.FingerprintWidthError, match="m5"): quick(fingerprints={k: v for k, v in vectors.items() if k != "m5"}).fit(X, t)
    with pytest.raises(fingerprints.ZeroFingerprintError, match="m4"): quick(fingerprints={**vectors, "m4": [0.] * 6}).fit(X, t)
    with pytest.raises(fingerprints.ContrastiveError, match="m1, position 3"): quick(fingerprints={**vectors, "m1": [1, 0, 0, np.nan, 0, 0]}).fit(X, t)
    with pytest.raises(fingerprints.ContrastiveError, match="k = 0"): quick(k=0).fit(X, t)
    with pytest.raises(CompanionError, match="rule for positives"): quick(positives="some").fit(X, t)
    with pytest.warns(contrastive.BandsCollapsedWarning): quick().fit(X, SimpleNamespace(**{**vars(t), "cost": {"usd": np.ones_like(t.score)}}))
    one = np.zeros_like(t.score); one[:, 0] = 1
    assert set(quick(fingerprints=vectors, epochs=60, lr=.01).fit(X, SimpleNamespace(**{**vars(t), "score": one})).route(X)) == {0}, "one model answers everything: all go there"


def test_graded_outcomes_have_their_best_as_positives():
    X, t = topics()
    graded = SimpleNamespace(**{**vars(t), "score": .04 * t.score + .01})   # nothing reaches .5
    vectors = {m: np.eye(6)[j].tolist() for j, m in enumerate(t.models)}
    with pytest.raises(contrastive.NoPositiveError): quick(fingerprints=vectors).fit(X, graded)
    assert np.isfinite(quick(fingerprints=vectors, positives="best").fit(X, graded).history_).all()


# ---- the baselines

@pytest.mark.parametrize("router", [thompson.ThompsonRouter(), thompson.ThompsonRouter(missing="raise", random_state=3, prior=(2., 5.)), embeddings.SoftmaxRouter(epochs=2, hidden=8), embeddings.SoftMoERouter(epochs=2, hidden=8),
                                    embeddings.SoftMoERouter(epochs=2, hidden=8, missing="raise"), baselines.ParetoRandomRouter()], ids=str)
def test_baselines_keep_the_contract(router): check_router(router)


@pytest.mark.parametrize("name", ["ThompsonRouter", "SoftmaxRouter", "SoftMoERouter", "ParetoRandomRouter"])
def test_baselines_learn_around_missing_outcomes(name):
    X, t = topics(gaps=.3)
    r = ROUTERS[name](**({} if name in ("ThompsonRouter", "ParetoRandomRouter") else dict(epochs=2, hidden=8)))
    Q = r.fit(X if r.feature_kind == "embedding" else t.query_ids, t).predict_quality(X if r.feature_kind == "embedding" else t.query_ids)
    assert Q.shape == t.score.shape and np.isfinite(Q).all() and (Q >= 0).all() and (Q <= 1).all()


def test_thompson_learns_from_the_asked_model_alone():
    X, t = topics(600)
    r = thompson.ThompsonRouter().fit(t.query_ids, t)
    rng, a, bb = np.random.default_rng(42), np.ones(6), np.ones(6)
    for i in rng.permutation(600):
        j = rng.beta(a, bb).argmax()
        a[j] += t.score[i, j]; bb[j] += 1 - t.score[i, j]
    assert np.array_equal(r.a_, a) and np.array_equal(r.b_, bb) and r.asked_.sum() == 600 and r.asked_.argmax() == t.score.mean(0).argmax()
    assert np.array_equal(r.predict_quality(["x", "y"])[0], r.predict_quality(["x"])[0])


def test_the_gates_losses_in_loops():
    X, t = topics(20, gaps=.2)
    S, known = np.nan_to_num(t.score), ~np.isnan(t.score)
    out = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    soft, moe = 0., 0.
    for i in range(20):
        seen = [m for m in range(6) if known[i, m]]
        g = {m: math.exp(out[i, m]) / sum(math.exp(out[i, j]) for j in seen) for m in seen}
        best = [m for m in seen if S[i, m] == S[i].max() and S[i, m] > 0]
        soft -= sum(math.log(g[m]) / len(best) for m in best) / 20
        moe -= sum(g[m] * S[i, m] for m in seen) / 20
    log_g = torch.where(torch.from_numpy(known), out, torch.tensor(-1e4)).log_softmax(1)
    S, known = torch.from_numpy(S).float(), torch.from_numpy(known)
    assert np.isclose(float(embeddings.SoftmaxRouter()._loss(log_g, S, known)), soft, atol=1e-5) and np.isclose(float(embeddings.SoftMoERouter()._loss(log_g, S, known)), moe, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8))
def test_pareto_front(values):
    q, price = np.array(values, float).T
    front = baselines.pareto_front(q, price)
    for j in range(len(q)):
        beaten = any(q[i] >= q[j] and price[i] <= price[j] and (q[i] > q[j] or price[i] < price[j]) for i in range(len(q)))
        assert front[j] != beaten
    assert front.any()


# ---- analysis

def test_given_predictions_are_measured_as_fitted_ones():
    X, t = topics(500)
    split = np.where(np.arange(500) < 300, "train", "test")
    t.split, rows = split, np.flatnonzero(split == "train")
    options = dict(cost="usd", axis="realised", n_resamples=50)
    routers = {"K": KMeansRouter(n_clusters=4), "C": quick(), "P": baselines.ParetoRandomRouter()}
    fitted = pool_evaluation(t, X, routers, **options)
    feature = {"K": X, "C": X, "P": t.query_ids}
    again = variants.evaluate_predictions(t, {n: routers[n].fit(feature[n][rows], pool_subset(t, rows)).predict_quality(feature[n]) for n in routers}, ties={"P": "average"}, **options)
    for name in routers:
        for metric in ("AUDC", "peak"): assert np.allclose(fitted.draws[name, "usd", metric], again.draws[name, "usd", metric])
    made = variants.fit_predictions({"K": routers["K"], "P": routers["P"], "half": (routers["K"], X[:, :3])}, t, X, "train")
    assert np.array_equal(made["K"], KMeansRouter(n_clusters=4).fit(X[rows], t.score[rows]).predict_quality(X)) and not np.array_equal(made["half"], made["K"]) and made["P"].shape == (500, 6)
    with pytest.raises(PoolInputError, match="shape"): variants.evaluate_predictions(t, {"K": np.zeros((500, 5))}, **options)
    found = choices.matched_budget(fitted, "C", "K")
    means = {n: fitted.sweeps[n].cost.mean(0) for n in ("C", "K")}
    assert found.budget == np.median(np.concatenate([np.unique(np.round(m, 12)) for m in means.values()])) and max(found.cost_first, found.cost_second) <= found.budget + 1e-9
    at = {n: fitted.sweeps[n].quality[:, [i for i in range(len(m)) if m[i] <= found.budget + 1e-9][np.argmax([m[i] for i in range(len(m)) if m[i] <= found.budget + 1e-9])]] for n, m in means.items()}
    assert (found.only_first, found.only_second) == (int((at["C"] > at["K"]).sum()), int((at["C"] < at["K"]).sum()))
    with pytest.raises(PoolInputError, match="expectation"): choices.matched_budget(fitted, "C", "Random")
    with pytest.raises(CompanionError, match="row of this evaluation"): choices.matched_budget(fitted, "C", "nobody")
    with pytest.raises(PoolInputError, match="budget"): choices.matched_budget(fitted, "C", "K", budget=.5)


class Pool(SimpleNamespace):
    def select(self, models):
        at = [self.models.index(m) for m in models]
        return Pool(**{**vars(self), "score": self.score[:, at], "cost": {k: v[:, at] for k, v in self.cost.items()}, "models": list(models)})


def test_new_models_come_with_their_fingerprint_price_and_probes_alone(monkeypatch):
    X, t = topics(400)
    t = Pool(**vars(t)); t.cost = {"tokens": np.ones((400, 6)), "params_b": t.cost["usd"]}   # decisions are made in parameters, whatever cost stands first
    prints, seen, unseen, rows, probes = {m: np.eye(6)[j] for j, m in enumerate(t.models)}, [0, 2, 3, 5], [1, 4], np.arange(50, 400), np.arange(50)
    given_, inner = {}, contrastive.CSCRRouter.add_experts
    monkeypatch.setattr(contrastive.CSCRRouter, "add_experts", lambda self, f, costs: given_.update(costs) or inner(self, f, costs))
    options = dict(train=rows, probes=probes, cscr=quick(epochs=2), kmeans=KMeansRouter(n_clusters=4), probe_routers={"P": baselines.ParetoRandomRouter(), "G": embeddings.SoftmaxRouter(epochs=2, hidden=8)})
    found = cscr.new_model_predictions(t, X, prints, seen, unseen, **options)
    assert given_ == {"m1": pytest.approx(2 / 6), "m4": pytest.approx(5 / 6)} and all(p.shape == (400, 2) and np.isfinite(p).all() for p in found.values())
    kmeans = KMeansRouter(n_clusters=4).fit(X[rows], t.score[rows][:, seen])
    assert np.allclose(found["UMR"], kmeans_module.cluster_accuracy(kmeans, X[:50], t.score[:50][:, unseen])[((kmeans.centroids_**2).sum(1) - 2 * X.astype(float) @ kmeans.centroids_.T).argmin(1)])
    changed = Pool(**{**vars(t), "score": t.score.copy()})
    changed.score[50:, 1] = changed.score[50:, 4] = 0   # what new models did on training and test queries is not looked at
    again = cscr.new_model_predictions(changed, X, prints, seen, unseen, **options)
    assert all(np.array_equal(found[k], again[k]) for k in found)


def test_a_cross_fitted_signal_is_out_of_fold_on_the_training_rows():
    from routercompanion.routers.difficulty.embeddings import EmbeddingMLP
    X, t = topics(300, 2)
    rows, probe = np.arange(200), EmbeddingMLP(hidden=(8,), epochs=2)
    s = cscr.cross_fitted(probe, X, t.score, rows, random_state=1)
    assert s.shape == (300,) and np.isclose(s[:200].mean(), 0, atol=1e-9) and np.isclose(s[:200].std(), 1)
    one, two = np.array_split(np.random.default_rng(1).permutation(rows), 2)
    raw = EmbeddingMLP(hidden=(8,), epochs=2).fit(X[one], t.score[one]).decision_function(X[two])
    whole = EmbeddingMLP(hidden=(8,), epochs=2).fit(X[:200], t.score[:200]).decision_function(X[200:])
    assert np.isclose(np.corrcoef(raw, s[two])[0, 1], 1) and np.isclose(np.corrcoef(whole, s[200:])[0, 1], 1)
    labels = t.score.copy(); labels[two[0], 0] = 1 - labels[two[0], 0]
    assert np.allclose(np.argsort(cscr.cross_fitted(probe, X, labels, rows, random_state=1)[two]), np.argsort(s[two])), "a row's own label does not reach its own score"


def test_routing_outcomes_in_loops():
    rng = np.random.default_rng(0)
    S, price, choice = (rng.random((200, 5)) < .4).astype(float), np.array([1., 2, 2, 4, 8]), rng.integers(0, 5, 200)
    S[rng.random(S.shape) < .1] = np.nan
    got = choices.routing_outcomes(choice, S, price)
    for i, j in enumerate(choice):
        right = [m for m in range(5) if S[i, m] == 1]
        if not right: expected = "no correct"
        elif j in right: expected = "optimal" if price[j] == min(price[m] for m in right) else "too expensive"
        else: expected = "too cheap" if price[j] < min(price[m] for m in right) else "wrong and no cheaper"
        assert got[i] == expected
    oracle = lambda_sweep(np.nan_to_num(S), S, price, [1e-6]).choice[:, 0]
    assert set(choices.routing_outcomes(oracle, S, price)) <= {"optimal", "no correct"}
    table = choices.outcome_table({"r": choice, "o": oracle}, S, price, n_resamples=200)
    assert np.allclose(table.groupby("row").value.sum(), 1) and (table.low <= table.value + 1e-9).all() and (table.high >= table.value - 1e-9).all()
    profile = choices.selection_profile(choice, list("abcde"), price, 3)
    assert profile["queries"].sum() == 200 and profile["share"].sum() == 1 and (np.diff(profile.band) >= 0).all()


@pytest.mark.parametrize("m", [4, 5, 7, 11, 12, 112])
def test_two_thirds_of_the_models(m):
    costs = np.random.default_rng(m).random(m)
    seen, unseen = cscr.split_models(costs)
    assert sorted([*seen, *unseen]) == list(range(m)) and len(unseen) >= 2 and len(seen) >= 2 and abs(len(unseen) - m / 3) <= 1
    if m > 4: assert costs[unseen].min() > costs.min() and costs[unseen].max() < costs.max(), "both ends of the price list are trained on"


def test_a_pool_of_three_has_no_two_parts():
    with pytest.raises(PoolInputError, match="Four"): cscr.split_models([1, 2, 3])


def test_cluster_accuracy_of_the_training_models_is_that_of_training():
    X, t = topics(gaps=.2)
    k = KMeansRouter(n_clusters=6).fit(X, t)
    assert np.allclose(kmeans_module.cluster_accuracy(k, X, t.score), k.quality_)
    few = kmeans_module.cluster_accuracy(k, X[:1], np.nan_to_num(t.score[:1]))
    assert np.isfinite(few).all()


# ---- five seeds, the authors' code, chosen settings


def split_topics(n=400, share=0.6):
    X, t = topics(n)
    t = Pool(**vars(t))
    t.split = np.where(np.arange(n) < share * n, "train", "test")
    return X, t


def test_a_row_of_seeds_is_their_mean_draw_by_draw():
    X, t = split_topics()
    routers = {"C": quick(epochs=1), "P": baselines.ParetoRandomRouter()}
    rows, groups = seed_rows(routers, seeds=(1, 2))
    assert list(rows) == ["C, seed 1", "C, seed 2", "P"] and groups["P"] == ["P"]
    assert seed_rows({"C": (quick(), X)}, (7,))[0]["C, seed 7"][1] is X
    options = dict(cost="usd", axis="realised", n_resamples=30, tasks=np.arange(400) % 9)
    apart = pool_evaluation(t, X, rows, **options)
    e = mean_rows(apart, groups)
    for measure in e.measures:
        both = [apart.resampled(row, measure) for row in groups["C"]]
        assert np.allclose(e.resampled("C", measure), np.mean(both, axis=0), equal_nan=True)
        assert np.array_equal(e.resampled("P", measure), apart.resampled("P", measure), True)
    one = e.compare("C", "Random", "AUDC")
    two = [apart.compare(row, "Random", "AUDC") for row in groups["C"]]
    assert np.isclose(one["difference"], np.mean([c["difference"] for c in two]))
    assert one["tasks"] == 9 and e.sweeps["C"] is apart.sweeps["C, seed 1"]
    spread = spread_table(apart, groups)
    values = [apart.value(row, "AUDC") for row in groups["C"]]
    assert spread["row"].tolist() == ["C"] and np.isclose(spread.sd[0], np.std(values, ddof=1))


def test_a_study_of_seeds_keeps_items_apart_and_equal_routers_one():
    X, t = split_topics()
    r = quick(epochs=1)
    items = {"A": {"it": r, "more": changed_router(r, epochs=2)}, "B": {"again": r}}
    options = dict(cost="usd", axis="realised", n_resamples=20)
    study, made, spread = seeded_study(items, t, X, seeds=(3, 4), **options)
    assert study.value("it", "AUDC", "A") == study.value("again", "AUDC", "B")
    assert made["A", "it"] is made["B", "again"]
    assert set(zip(spread["item"], spread["row"])) == {("A", "it"), ("A", "more"), ("B", "again")}
    alone = pool_evaluation(t, X, {str(s): changed_router(r, random_state=s) for s in (3, 4)},
                            **options)
    assert np.isclose(study.value("it", "AUDC", "A"),
                      np.mean([alone.value(s, "AUDC") for s in ("3", "4")]))


def test_an_online_bandit_learns_from_the_asked_model_alone():
    rng = np.random.default_rng(0)
    S = (rng.random((300, 4)) < [0.2, 0.4, 0.6, 0.8]).astype(float)
    costs = np.array([1.0, 2, 3, 10])
    for price in (0.0, 0.3):
        sweep = cscr_published.online_thompson(S, costs, trade_offs=[price])
        asked = np.zeros(S.shape, bool)
        asked[np.arange(300), sweep.choice[:, 0]] = True
        other = cscr_published.online_thompson(np.where(asked, S, 1 - S), costs, trade_offs=[price])
        assert np.array_equal(sweep.choice, other.choice)
        assert np.array_equal(sweep.quality[:, 0], S[asked])
    free, dear = (cscr_published.online_thompson(S, costs, trade_offs=[p]).cost.mean()
                  for p in (0.0, 2.0))
    assert dear < free
    gaps = np.where(rng.random(S.shape) < 0.3, np.nan, S)
    assert np.isnan(cscr_published.online_thompson(gaps, costs, trade_offs=[0.0]).quality).any()


def test_the_codes_umr_has_seen_the_probes_alone_and_says_one_half_elsewhere():
    X, t = split_topics()
    train, probes = np.arange(40, 240), np.arange(3)
    prints = dict(zip(t.models, np.eye(6).tolist()))
    options = dict(train=train, probes=probes, cscr=quick(), n_clusters=8, seeds=(5,))
    made, groups = cscr_published.code_baselines(t, X, prints, **options)
    umr = made["UMR, as in the code, seed 5"]
    centres = KMeansRouter(n_clusters=8, random_state=5).fit(X[train], t.score[train]).centroids_
    near = ((X[:, None].astype(float) - centres) ** 2).sum(2).argmin(1)
    for i in (0, 100, 399):
        inside = [p for p in probes if near[p] == near[i]]
        expected = t.score[inside].mean(0) if inside else np.full(6, 0.5)
        assert np.allclose(umr[i], expected)
    assert (umr == 0.5).all(1).any(), "some cluster has no probe"
    blind = made["Parametric, as in the code"]
    assert np.allclose(blind, t.score[train].mean(0), atol=1e-3) and np.ptp(blind, axis=0).max() == 0
    gate = made["Soft-MoE, as in the code, seed 5"]
    assert (np.abs(gate) <= 1 + 1e-6).all() and groups["UMR, as in the code"] == [
        "UMR, as in the code, seed 5"]


def test_every_pair_of_models_is_new_once():
    X, t = split_topics()
    t = t.select(["m0", "m1", "m2", "m3"])
    prints = dict(zip(t.models, np.eye(4).tolist()))
    pairs = cscr_published.every_pair(
        t, X, prints, train=np.arange(40, 240), probes=np.arange(40), test="test", seeds=(1,),
        cscr=quick(epochs=1), kmeans=KMeansRouter(n_clusters=3), cost="usd", axis="realised",
        n_resamples=20)
    assert len(set(pairs.columns)) == 6 and pairs.averages == {"all pairs": pairs.columns}
    found = cscr_published.pair_table(pairs, "CSCR", "UMR")
    assert np.isclose(found.difference.mean(),
                      pairs.compare("CSCR", "UMR", "AUDC", "all pairs")["difference"])


def test_settings_are_chosen_without_test_queries_and_kept_by_pool(tmp_path):
    X, t = split_topics()
    r = quick(epochs=10, fingerprints=dict(zip(t.models, np.eye(6).tolist())))
    train, path = np.arange(40, 240), tmp_path / "settings.csv"
    grids = cscr_tuning.cscr_grids(r, n_clusters=10, epochs=(1, 10))
    assert set(grids) == {*cscr_tuning.TRAINED, "UMR"}
    grids = {row: grids[row] for row in ("UMR", "plain InfoNCE")}
    for pool, scores in (("a", t.score), ("b", np.where(np.arange(400)[:, None] < 240, t.score, 1))):
        t.score = scores
        cscr_tuning.tune_rows(grids, t, X, pool=pool, train=train, cost="usd", seeds=(1,), path=path)
    chosen = cscr_tuning.tuned_settings(grids, "a", path)
    assert chosen == cscr_tuning.tuned_settings(grids, "b", path), "the test queries' outcomes differ"
    with pytest.raises(CompanionError, match="another grid"):
        cscr_tuning.tuned_settings({"UMR": (grids["UMR"][0], dict(n_clusters=[3]))}, "a", path)
    with pytest.raises(CompanionError, match="No setting is kept"):
        cscr_tuning.tuned_settings(grids, "c", path)


# ---- the committed readings

def test_the_committed_readings_of_the_embedded_pool():
    r = fingerprints.recorded_fingerprints()
    assert set(POOL) <= set(r.models) and len(set(r.probes)) == 192 and r.nll.shape == (len(r.models), 192) and len(r.table) >= 256 and r.about["horizon"] == 10
    assert (np.diff(r.table.frequency) <= 1e-9).all() and (r.p >= 0).all() and (r.p.sum(1) <= 1.001).all() and (r.log_p <= np.log(np.maximum(r.p, 1e-20)) + 1e-3).all()
    for kind in ("logit", "perplexity"):
        V = np.array(list(r.fingerprints(kind, K=192).values()))
        cosines = (V @ V.T)[~np.eye(len(V), dtype=bool)]
        assert V.shape[1] == 192 and cosines.max() < 1 - 1e-6, "no two models have one place"
    from routercompanion.data.records import recorded_outcomes
    split = dict(zip(*(lambda t: (t.query_ids, t.split))(recorded_outcomes())))
    assert {split[q] for q in r.probes} == {"train"} and fingerprints.fingerprint_path().stat().st_size < 100_000


def test_the_committed_readings_of_routerbench():
    r = fingerprints.recorded_fingerprints(fingerprints.fingerprint_path("fingerprints_routerbench"))
    assert len(r.models) == 11 and len(set(r.probes)) == 192 and r.nll.shape == (11, 192) and (r.nll > 0).all() and not len(r.table)
    assert r.about["scorer"] == POOL[0] and r.about["source"].startswith("cscr eq. 5") and "RouterBench" in r.about["outcomes"]
    V = np.array(list(r.fingerprints("perplexity").values()))
    cosines = (V @ V.T)[~np.eye(11, dtype=bool)]
    assert np.allclose(np.linalg.norm(V, axis=1), 1, atol=1e-5) and .8 < cosines.min() < cosines.max() < 1, "all lie in one cone: the tasks, not the models, make most of a fingerprint"
    assert fingerprints.fingerprint_path("fingerprints_routerbench").stat().st_size < 100_000


# ---- the tables of the paper

def test_the_line_up_and_the_variants_are_changes_of_one_router():
    r = quick(epochs=7)
    chosen = {"CSCR": dict(epochs=2, sign="text"), "UMR": dict(n_clusters=9)}
    rows = cscr.cscr_routers(r, epochs=3, n_clusters=5, settings=chosen)
    items = cscr.cscr_variants(r, tau_min=(.01, .02))

    def options(other):
        return {k for k, v in other.get_params().items() if v != r.get_params()[k]}

    assert rows["CSCR"] is r and options(rows["CSCR, sign of the text"]) == {"sign"}
    assert options(rows["CSCR, tuned"]) == {"epochs", "sign"}
    assert rows["UMR, tuned"].n_clusters == 9 and rows["UMR"].n_clusters == 5
    assert options(rows["plain InfoNCE"]) == {"n_bands", "alpha", "gamma"}
    assert options(rows["cheapest right model"]) == {"n_bands", "alpha", "gamma", "positives"}
    plain = rows["plain InfoNCE"]
    assert (plain.n_bands, plain.alpha, plain.gamma) == (1, 0, 0)
    assert {rows[g].epochs for g in ("Soft-MoE", "Parametric")} == {3}
    named = {"Table 8": "n_bands", "Table 9": "k", "Table 11": "alpha", "Table 12": "tau_min"}
    for item, option in named.items():
        for row, other in items[item].items():
            assert float(row) == other.get_params()[option] and options(other) <= {option}
    for row, other in items["Table 10"].items():
        assert other.gamma == float(row.split(",")[0])
        assert (other.sign == "text") == ("text" in row)
        assert (other.penalty == "outside") == ("outside" in row)
    assert list(items["Table 12"]) == ["0.01", "0.02"]
    assert items["Table 13"]["MLP-x4"].hidden == 4 * r.hidden
    with pytest.raises(ValueError):
        changed_router(r, no_such_option=1)


def test_the_parts_of_the_loss_differ_by_one_step_each():
    parts = list(cscr.loss_parts(quick()).values())
    found = {(p.n_bands > 1, p.alpha > 0, p.sign if p.gamma else "none") for p in parts}
    assert found == {(False, False, "none"), (False, True, "none"), (True, False, "none"),
                     (True, True, "none"), (False, False, "paper"), (False, False, "text"),
                     (True, True, "paper"), (True, True, "text")}
    assert contrastive.CSCRRouter().sign == "paper" and contrastive.CSCRRouter().epochs == 10


def test_the_cheapest_right_model_is_the_only_positive():
    X, t = topics(200, gaps=.2)
    t.cost["usd"] = np.tile([3.0, 1, 2, 1, 5, 4], (200, 1))
    r = quick(positives="cheapest", fingerprints=dict(zip(t.models, np.eye(6).tolist())))
    right = r.fit(X, t)._right(t.score)
    price = t.cost["usd"][0]
    for marked, scores in zip(right, t.score):
        able = [j for j in range(6) if scores[j] == 1]
        expected = min(able, key=lambda j: (price[j], j)) if able else None
        assert np.flatnonzero(marked).tolist() == ([] if expected is None else [expected])


def test_costs_from_zero_to_one_and_the_root_of_the_pool_as_bands():
    X, t = topics(200)
    r = quick(cost_scale="range", n_bands=None).fit(X, t)
    assert np.allclose(r._loss_costs(), np.arange(6) / 5) and len(set(r.bands_)) == 2
    assert np.allclose(quick().fit(X, t)._loss_costs(), np.arange(1, 7) / 6)
    with pytest.raises(CompanionError, match="scale of the costs"):
        quick(cost_scale="log").fit(X, t)


def test_a_router_saved_before_the_defaults_changed_decides_as_it_did(tmp_path):
    "Its file names the old sign and lacks the new options."
    X, t = topics(200)
    r = quick(sign="text").fit(X, t)
    folder = save_router(r, tmp_path / "r")
    said = json.loads((folder / "router.json").read_text())
    for option in ("mean", "cost_scale"):
        del said["params"][option]
    arrays = load_file(folder / "arrays.safetensors")
    save_file(arrays, folder / "arrays.safetensors")   # without a hash of router.json, as then
    said["arrays_sha256"] = file_hash(folder / "arrays.safetensors")
    (folder / "router.json").write_text(json.dumps(said))
    again = load_router(folder)
    assert (again.sign, again.mean, again.cost_scale) == ("text", "query", "dearest")
    assert np.array_equal(again.route(X, .2), r.route(X, .2))


def test_a_study_fits_each_different_variant_once_and_measures_it_as_alone(monkeypatch):
    X, t = topics(400)
    t.split = np.where(np.arange(400) < 250, "train", "test")
    options = dict(cost="usd", axis="realised", n_resamples=40, measures=("AUDC", "peak", "cost at peak"))
    r, fitted, inner = quick(epochs=3), [], variants.fit_predictions
    monkeypatch.setattr(variants, "fit_predictions", lambda routers, *a: fitted.extend(routers) or inner(routers, *a))
    items = {
        "A": {"as it is": r, "no cost": changed_router(r, gamma=0., alpha=0.)},
        "B": {"again": changed_router(r), "two near": changed_router(r, k=2)},
    }
    study, predictions = variants.variant_study(items, t, X, **options)
    assert len(fitted) == 3 and predictions["A", "as it is"] is predictions["B", "again"]
    assert study.draws["as it is", "A", "AUDC"] is study.draws["again", "B", "AUDC"]
    assert study.draws["as it is", "A", "AUDC"] is not study.draws["no cost", "A", "AUDC"]
    alone = pool_evaluation(t, X, {"R": changed_router(r, k=2), "S": r}, **options)
    assert np.isclose(study.value("two near", "AUDC", "B"), alone.value("R", "AUDC"))
    assert study.curves["two near", "B"].cost.shape == alone.curves["R"].cost.shape
    gap, direct = study.compare("again", "two near", "AUDC", "B"), alone.compare("S", "R", "AUDC")
    assert np.isclose(gap["difference"], direct["difference"]) and np.isclose(gap["low"], direct["low"]) and (gap["first"], gap["second"]) == ("again", "two near")
    rows = np.flatnonzero(t.split == "test")
    Q, price = predictions["B", "two near"], t.cost["usd"][t.split == "train"].mean(0)
    assert np.isclose(cscr.nearest_cost(Q[rows], study.costs), sum(price[max(range(6), key=lambda j: Q[i, j])] for i in rows) / len(rows))
    part = study.table[study.table.column == "B"]
    floors = ["Random", "Heuristic", "Oracle", "Best single", "Hull"]
    assert part.row.unique().tolist() == ["again", "two near", *floors] and len(part) == 3 * (2 + len(floors))
    with pytest.raises(CompanionError, match="two near"):
        study.value("two near", "AUDC", "A")


def test_differences_and_rows_are_those_of_the_evaluation():
    X, t = topics(300)
    t.split = np.where(np.arange(300) < 200, "train", "test")
    e = pool_evaluation(t, X, {"K": KMeansRouter(n_clusters=4)}, cost="usd", axis="realised", n_resamples=30)
    gaps = variants.paired_differences(e, "K", ["Oracle", "Random"], "peak")
    assert gaps["second"].tolist() == ["Oracle", "Random"] and gaps.difference.tolist() == [e.value("K", "peak") - e.value(o, "peak") for o in ("Oracle", "Random")]
    assert gaps.difference[0] <= 0 and {"first", "second", "difference", "low", "high", "p_value", "significant"} <= set(gaps)
    rows = cscr.table_rows(e.table, "toy", measures=("peak", "cost at peak"), cost_unit="USD")
    assert set(zip(rows.metric, rows.unit)) == {("peak", "fraction"), ("cost at peak", "USD")} and set(rows.column) == {"toy"} and "toy" not in set(e.table.column)


def test_a_difference_table_is_the_evaluations_own_differences_and_one_family():
    X, t = topics(400)
    t.split = np.where(np.arange(400) < 250, "train", "test")
    options = dict(cost="usd", axis="realised", measures=("AUDC", "peak"))
    routers = {"K": KMeansRouter(n_clusters=4), "P": baselines.ParetoRandomRouter()}
    e = pool_evaluation(t, X, routers, n_resamples=1300, **options)
    others = ["P", "Random", "Oracle"]
    found = cscr.difference_table(e, [("K", o) for o in others])
    for row, other in zip(found.to_dict("records"), others):
        alone = e.compare("K", other, "AUDC")
        assert all(row[k] == alone[k] or row[k] != row[k] and alone[k] != alone[k] for k in alone)
    draws = np.stack([e.resampled("K", "AUDC") - e.resampled(o, "AUDC") for o in others], 1)
    largest = (np.abs(draws - found.difference.to_numpy()) / draws.std(0, ddof=1)).max(1)
    half = np.quantile(largest, .95) * draws.std(0, ddof=1)
    assert np.allclose(found.simultaneous_high - found.difference, half)
    inside = (found.simultaneous_low <= 0) & (found.simultaneous_high >= 0)
    assert ((found.verdict == "cannot tell") == inside).all() and found.verdict[2] == "below"
    assert (found.p_holm >= found.p_value).all() and set(found.comparisons) == {3}
    few = pool_evaluation(t, X, routers, n_resamples=50, fitted=e.fitted, **options)
    with pytest.raises(CompanionError, match="1200 or more"):
        cscr.difference_table(few, [("K", o) for o in others])
    lent = cscr.difference_table(few, [("K", o) for o in others], drawn=e)
    assert np.array_equal(lent.simultaneous_low, found.simultaneous_low)
    assert not np.array_equal(lent.low, found.low)
    assert cscr.one_sided_p(e, "K", "Oracle") == 1 and cscr.strongest(e, others) == "Oracle"


def test_what_is_said_beside_published_values():
    from routercompanion.report.tables import beside, load_published

    X, t = topics(300)
    t.split = np.where(np.arange(300) < 200, "train", "test")
    items = {"Table 10": cscr.cscr_variants(quick(epochs=1))["Table 10"]}
    options = dict(cost="usd", axis="realised", n_resamples=30)
    study, _ = variants.variant_study(items, t, X, **options)
    published = cscr.row_names(load_published("cscr", "Table 10"))
    ours = cscr.table_rows(study.table, "toy", measures=("AUDC", "peak", "cost at peak"))
    options = cscr.beside_options(ours, published, "toy")
    assert options["rows"] == {g: g for g in ("0", "0.1", "0.2", "0.3", "0.5")}
    named = dict(rule="none", models_ours="toy", models_published="other models")
    table = beside(ours, published, **named, **options).set_index("row")
    assert table.peak_ours["0.2"] == study.value("0.2", "peak") and table.peak_published["0.5"] == .5147
    assert table["cost at peak_ours"]["0.2"] == study.value("0.2", "cost at peak")
    assert table.status["0.1"] == "analogue" and np.isnan(table.AUDC_published["0.2, outside"])


def test_curves_that_are_one_router_are_drawn_once():
    X, t = topics(300)
    t.split = np.where(np.arange(300) < 200, "train", "test")
    r = quick(epochs=1)
    bands = {str(n): changed_router(r, n_bands=n) for n in (20, 30)}
    items, options = {"B": {**bands, "k": changed_router(r, k=1)}}, dict(axis="realised", n_resamples=10)
    study, _ = variants.variant_study(items, t, X, cost="usd", **options)
    merged = cscr.merged_curves({row: study.curves[row, "B"] for row in items["B"]})
    assert list(merged) == ["20, 30", "k"] and merged["k"] is study.curves["k", "B"]


def test_choices_under_the_papers_names_and_single_decisions():
    rng = np.random.default_rng(0)
    S, price = (rng.random((60, 3)) < .5).astype(float), np.array([1., 2., 4.])
    chosen = {"a": rng.integers(0, 3, 60), "b": rng.integers(0, 3, 60)}
    shares = choices.outcome_table(chosen, S, price, n_resamples=10)
    named = choices.published_outcomes(shares).set_index(["column", "row"]).value
    for router, choice in chosen.items():
        kinds = choices.routing_outcomes(choice, S, price)
        assert named[router, "Too cheap"] == np.isin(kinds, ["too cheap", "wrong and no cheaper"]).sum()
        assert named[router, "Optimal"] == (kinds == "optimal").sum()
    differ = choices.disagreements(chosen)
    assert np.array_equal(differ, np.flatnonzero(chosen["a"] != chosen["b"]))
    score = np.vstack([np.zeros((5, 3)), S])
    t = SimpleNamespace(score=score, task=np.repeat("t", 65), models=list("xyz"))
    found = choices.decision_table(chosen, differ[:3], t, np.arange(5, 65), price)
    assert found["query"].tolist() == np.repeat(differ[:3] + 5, 2).tolist() and len(found) == 6
    assert found.right.tolist() == [bool(S[i, chosen[r][i]]) for i in differ[:3] for r in "ab"]
