"""Uncertainty of the answers: judges of equivalence (one contract), clustering and semantic entropy against brute force, parsing, routers, and all signals of a bank."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from routercompanion.features import answers as answers_module
from routercompanion.data.bank import make_bank
from routercompanion.core import CompanionError
from routercompanion.models.causal_lm import Samples
from routercompanion.core import RoutingInputError
from routercompanion.features.kinds import (
    EmptyInputError, MissingFeatureError, NotFiniteError, WidthError,
)
from routercompanion.routers.check import check_router
from routercompanion.routers.registry import get_router
from routercompanion.features.answers import parse_confidence
from routercompanion.features.meaning import (
    ESTIMATORS, EmbeddingJudge, EntailmentJudge, EquivalenceJudge, ExactJudge, JudgeError,
    SimilarityJudge, first_occurrence, sampled_entropies, semantic_clusters, semantic_entropy,
)
from routercompanion.features.of_bank import add_logit_margin
from routercompanion.routers.uncertainty.answers import PTrue, Perplexity, SelfAsk, SemanticEntropy
from routercompanion.routers.uncertainty.logits import LogitMargin


# ---------- judges: one contract ----------

class Letters:
    "An encoder of its own kind: counts of letters as a unit vector."
    calls = 0

    def encode(self, texts):
        Letters.calls += 1
        counts = np.array([[1e-3, *(t.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz0123456789")] for t in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def classifier(folder, labels=("CONTRADICTION", "NEUTRAL", "ENTAILMENT"), seed=3):
    "A tiny random sequence classifier on characters, saved in `folder`."
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast
    letters = [chr(i) for i in range(33, 127)]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters)]))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=5 + 2 * len(letters), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=64,
                        initializer_range=1., num_labels=len(labels), id2label=dict(enumerate(labels)), label2id={l: i for i, l in enumerate(labels)})
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    return {"exact": ExactJudge(), "similarity": SimilarityJudge(), "embedding": EmbeddingJudge(Letters(), .9), "entailment": EntailmentJudge(classifier(tmp_path_factory.mktemp("nli")))}


PAIRS = [("4", "four"), ("4", " 4."), ("Paris", "paris"), ("a b c", "c b a"), ("the answer is yes", "no"), ("", "x"), ("", ""), ("3/4", "0.75"), ("a long text " * 9, "short"), ("Zoë", "zoe")]


@pytest.mark.parametrize("name", ["exact", "similarity", "embedding", "entailment"])
def test_every_judge_keeps_the_contract(judges, name):
    judge = judges[name]
    found = judge.entails(PAIRS)
    assert isinstance(judge, EquivalenceJudge) and judge.name == name and isinstance(judge.symmetric, bool) and isinstance(judge.with_question, bool)
    assert found.shape == (len(PAIRS),) and found.dtype == bool and judge.entails([]).shape == (0,) and judge.entails([]).dtype == bool
    assert np.array_equal(found, judge.entails(PAIRS)) and found.any() and not found.all()
    assert np.array_equal(found, [judge.entails([p])[0] for p in PAIRS])                     # a verdict depends on its pair alone
    assert np.array_equal(found[::-1], judge.entails(PAIRS[::-1]))
    if judge.symmetric: assert np.array_equal(found, judge.entails([(b, a) for a, b in PAIRS]))
    labels = semantic_clusters([["4", "four", "4"], ["a", "b", "a"]], judge, ["What is 2 + 2?", "Which letter?"])
    assert labels.shape == (2, 3) and (labels[:, 0] == 0).all() and np.array_equal(labels[:, 2], labels[:, 0])


def test_what_the_exact_and_the_similarity_judge_say():
    assert ExactJudge().entails([("4", "4.0"), (" Yes.", "yes"), ("1/2", "0.5"), ("14", "144"), ("4", "four"), ("4 apples", "4")]).tolist() == [True] * 3 + [False] * 3
    assert SimilarityJudge().entails([("abcdefg", "abcdefg"), ("14", "144"), ("abc", "xyz"), ("abcdefghij", "abcdefgxyz")]).tolist() == [True, True, False, False]   # ratio .7 is not above .7
    assert SimilarityJudge(.6).entails([("abcdefghij", "abcdefgxyz")])[0]


@pytest.mark.parametrize("labels", [("entailment", "neutral", "contradiction"), ("not_entailment", "entailment"), ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")])
def test_the_entailment_label_is_found_by_its_name(tmp_path, labels):
    judge = EntailmentJudge(classifier(tmp_path, labels), batch=3)
    assert labels[judge.label].lower() == "entailment"
    for (a, b), verdict in zip(PAIRS, judge.entails(PAIRS)):
        with torch.no_grad(): logits = judge.model(**judge.tokenizer([a], [b], return_tensors="pt", truncation=True, max_length=64)).logits[0]
        assert verdict == (int(logits.argmax()) == judge.label)


def test_a_model_without_an_entailment_label_and_an_unknown_model_are_named(tmp_path):
    with pytest.raises(JudgeError, match=r"\['negative', 'not_entailment'\], none is 'entailment'"): EntailmentJudge(classifier(tmp_path, ("negative", "not_entailment")))
    with pytest.raises(CompanionError, match="our-org/no-such-nli"): EntailmentJudge("our-org/no-such-nli")


# ---------- clustering ----------

class Relation(EquivalenceJudge):
    "Any directed relation on texts; counts its calls and keeps the pairs that it was asked about."
    def __init__(self, yes, symmetric=False, with_question=False): self.yes, self.symmetric, self.with_question, self.asked, self.calls = yes, symmetric, with_question, [], 0

    def entails(self, pairs):
        self.calls += 1
        self.asked += pairs
        return np.array([p in self.yes or (self.symmetric and p[::-1] in self.yes) for p in pairs], bool)


def by_hand(row, entails):
    "Algorithm 1 of Kuhn et al. 2023, one pair at a time."
    clusters = []
    for text in row:
        for cluster in clusters:
            first = cluster[0]
            if first == text or (entails(first, text) and entails(text, first)):
                cluster.append(text)
                break
        else: clusters.append([text])
    return [next(i for i, cluster in enumerate(clusters) if text in cluster) for text in row]   # equal texts always join the same cluster


@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=5, max_size=5), min_size=1, max_size=6), st.sets(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef"))), st.booleans())
def test_clusters_are_those_of_the_published_algorithm(answers, yes, symmetric):
    judge = Relation(yes, symmetric)
    entails = lambda a, b: (a, b) in yes or (symmetric and (b, a) in yes)
    assert semantic_clusters(answers, judge).tolist() == [by_hand(row, entails) for row in answers]
    assert judge.calls <= 1 and len(set(judge.asked)) == len(judge.asked) and all(a != b for a, b in judge.asked)   # one batch, each pair once, no text with itself


def test_questions_go_in_front_where_a_judge_reads_them_and_pairs_are_shared_between_queries():
    judge = Relation(set(), with_question=True)
    semantic_clusters([["x", "y"], ["x", "y"]], judge, ["Why? ", "Who?"])
    assert sorted(judge.asked) == sorted([("Why? x", "Why? y"), ("Why? y", "Why? x"), ("Who? x", "Who? y"), ("Who? y", "Who? x")])
    judge = Relation(set(), symmetric=True)
    semantic_clusters([["x", "y", "x"]] * 50, judge, ["q"] * 50)
    assert judge.asked == [("x", "y")]
    with pytest.raises(JudgeError, match="give `questions`"): semantic_clusters([["x", "y"]], Relation(set(), with_question=True))
    with pytest.raises(EmptyInputError, match="same number"): semantic_clusters([["x", "y"], ["x"]], judge)
    with pytest.raises(EmptyInputError, match="same number"): semantic_clusters([], judge)


def test_a_judge_that_answers_too_few_pairs_is_named():
    class Short(EquivalenceJudge):
        name = "short"
        def entails(self, pairs): return np.ones(len(pairs) - 1, bool)
    with pytest.raises(JudgeError, match="'short' gave shape .2,. for 3 pairs"): semantic_clusters([["a", "b", "c"]], Short())


def test_texts_are_embedded_once():
    Letters.calls = 0
    semantic_clusters([["a", "b", "c"], ["a", "b", "d"]], EmbeddingJudge(Letters()))
    assert Letters.calls == 1


# ---------- semantic entropy ----------

def entropy_by_hand(log_p, labels, estimator, lengths=None, counted=None):
    k, p = len(labels), {}
    for j in range(k):
        if estimator == "discrete": p[labels[j]] = p.get(labels[j], 0) + 1 / k
        elif counted is None or counted[j]: p[labels[j]] = p.get(labels[j], 0) + math.exp(log_p[j] / (lengths[j] if lengths is not None else 1))
    if estimator == "rao": return -sum(math.log(v) for v in p.values()) / len(p)
    total = sum(p.values())
    return -sum(v / total * math.log(v / total) for v in p.values())


samples_of = st.integers(1, 6).flatmap(lambda k: st.lists(st.tuples(st.lists(st.floats(-40, -1e-3), min_size=k, max_size=k), st.lists(st.integers(0, 4), min_size=k, max_size=k),
                                                                    st.lists(st.integers(1, 30), min_size=k, max_size=k), st.lists(st.booleans(), min_size=k, max_size=k)), min_size=1, max_size=5))


@given(samples_of, st.sampled_from(ESTIMATORS), st.booleans(), st.booleans())
@settings(deadline=None)
def test_semantic_entropy_is_the_sum_by_hand(rows, estimator, by_length, some):
    log_p, labels, lengths, counted = (np.array(x) for x in zip(*rows))
    counted[:, 0] = True
    options = dict(lengths=lengths if by_length else None, counted=counted if some else None)
    found = semantic_entropy(log_p, labels, estimator=estimator, **options)
    expected = [entropy_by_hand(log_p[i], labels[i], estimator, *(None if o is None else o[i] for o in options.values())) for i in range(len(rows))]
    assert found.shape == (len(rows),) and found.dtype == np.float64 and np.allclose(found, expected, atol=1e-8)
    if estimator != "rao": assert (found >= 0).all() and (found <= np.log(labels.shape[1]) + 1e-9).all()
    order = np.random.default_rng(0).permutation(labels.shape[1])
    if not some: assert np.allclose(found, semantic_entropy(log_p[:, order], labels[:, order], estimator=estimator, lengths=lengths[:, order] if by_length else None))
    assert np.allclose(found, semantic_entropy(log_p, 7 - labels, estimator=estimator, **options))   # the clusters' numbers mean nothing
    merged = np.where(labels == labels.max(), labels.min(), labels)
    if estimator != "rao": assert (semantic_entropy(log_p, merged, estimator=estimator, **options) <= found + 1e-9).all()   # fewer meanings, less entropy


def test_published_and_proper_entropy_differ_where_they_should():
    one = np.zeros((1, 5), int)
    assert semantic_entropy(np.full((1, 5), -30.), one)[0] > 25 and semantic_entropy(np.full((1, 5), -30.), one, estimator="plugin")[0] == 0
    each = np.arange(5)[None]
    assert np.isclose(semantic_entropy(None, each, estimator="discrete")[0], np.log(5)) and np.isclose(semantic_entropy(np.full((1, 5), -2.), each, estimator="plugin")[0], np.log(5))
    assert semantic_entropy(np.full((1, 5), -.1), one)[0] < 0   # the same likely answer counted five times passes probability 1 ...
    assert semantic_entropy(np.full((1, 5), -.1), one, counted=first_occurrence([["x"] * 5]))[0] == .1   # ... and once it does not
    assert first_occurrence([["a", "b", "a"], ["c", "c", "c"]]).tolist() == [[True, True, False], [True, False, False]]


def test_bad_likelihoods_are_named():
    labels = np.zeros((3, 2), int)
    with pytest.raises(NotFiniteError, match="row 1"): semantic_entropy([[-1, -1], [np.nan, -1], [-1, -1]], labels)
    with pytest.raises(WidthError, match=r"shape \(3, 3\), labels \(3, 2\)"): semantic_entropy(np.zeros((3, 3)), labels)
    with pytest.raises(WidthError, match="one row per query"): semantic_entropy([-1., -2.], [0, 1])
    with pytest.raises(EmptyInputError, match="Row 2"): semantic_entropy(np.zeros((3, 2)), labels, counted=[[1, 1], [1, 0], [0, 0]])
    with pytest.raises(CompanionError, match="Unknown estimator 'median'"): semantic_entropy(np.zeros((3, 2)), labels, estimator="median")


def test_entropies_of_samples_carry_judge_and_estimator_in_their_names():
    drawn = Samples([["4", "4", "5"], ["x", "y", "z"]], np.log([[.5, .5, .25], [.1, .2, .3]]).astype(np.float32), *[np.ones((2, 3), np.int32)] * 2, np.ones(2, np.int32), np.ones(2))
    found = sampled_entropies(drawn, {"exact": ExactJudge()}, ["?", "?"])
    assert set(found) == {"meanings.exact", *(f"semantic_entropy.exact.{e}" for e in ESTIMATORS)} and found["meanings.exact"].tolist() == [2, 3]
    assert np.isclose(found["semantic_entropy.exact.rao"][0], -(np.log(.5) + np.log(.25)) / 2) and np.isclose(found["semantic_entropy.exact.discrete"][1], np.log(3))


# ---------- what the model says of itself ----------

@pytest.mark.parametrize("text, value", [("85", 85), (" 85%", 85), ("I am 85 % sure", 85), ("8/10", 80), ("8 / 10.", 80), ("0", 0), ("100", 100), ("99.5", 99.5), ("101 or 99", 99),
                                         ("-5, no, 5", 5), ("12/10 or 7/10", 70), ("1,000; 50", 50), ("3/0 then 40", 40), ("Number: 42\nbecause 7", 42)])
def test_confidences_are_parsed(text, value): assert parse_confidence(text) == value


@pytest.mark.parametrize("text", ["", "sure", "one hundred", "1000", "-3", "101%", "12/10", None])
def test_a_reply_without_a_confidence_is_masked(text): assert math.isnan(parse_confidence(text))


@given(st.text(max_size=40))
def test_parsing_never_fails_and_stays_in_range(text):
    value = parse_confidence(text)
    assert math.isnan(value) or 0 <= value <= 100


# ---------- routers ----------

@pytest.mark.parametrize("router", [SelfAsk(), SelfAsk(as_published=True), SemanticEntropy(), Perplexity(), PTrue(), LogitMargin()], ids=repr)
def test_routers_on_answers_keep_the_contract(router):
    check_router(router)
    assert get_router(type(router).__name__) is type(router)


def test_an_unparsed_confidence_gets_the_mean_of_the_parsed_ones_and_is_counted():
    X, outcomes = {"self_ask": np.array([90, 70, np.nan, 20, np.nan, 0])}, np.array([[1, 1], [1, 1], [0, 1], [0, 1], [1, 1], [0, 1]])
    assert np.allclose(SelfAsk().decision_function(X), [.1, .3, .5, .8, .5, 1])
    fitted = SelfAsk().fit(X, outcomes)
    assert np.allclose(fitted.decision_function(X), [.1, .3, .55, .8, .55, 1]) and fitted.unparsed_ == 2 / 6 and fitted.fill_ == .45
    assert np.allclose(SelfAsk(as_published=True).fit(X, outcomes).decision_function(X), [.1, .3, .5, .8, .5, 1])
    none = {"self_ask": np.full(6, np.nan)}
    assert SelfAsk().fit(none, outcomes).decision_function(none).tolist() == [.5] * 6
    with pytest.raises(RoutingInputError, match="row 1: 120 is outside 0 to 100"): SelfAsk().decision_function({"self_ask": [5., 120.]})


@pytest.mark.parametrize("router", [SemanticEntropy(), Perplexity(), PTrue()], ids=repr)
def test_a_missing_signal_is_named(router):
    key, = router.needs
    with pytest.raises(NotFiniteError, match=f"{key}.*row 1: NaN"): router.decision_function({key: [1., np.nan]})
    with pytest.raises(NotFiniteError, match=f"{key}.*row 0: inf"): router.decision_function({key: [np.inf, 1.]})
    with pytest.raises(MissingFeatureError, match=f"{key}.*answer_signals"): router.decision_function({"other": [1.]})


def test_routers_say_what_they_cost():
    table = SimpleNamespace(cost={"params_b": np.array([[.1, .5], [.1, .5]]), "tokens": np.array([[30., 40.], [20., 25.]])})
    for router, small, large in ((SelfAsk(), .2, .6), (SemanticEntropy(), .6, 1.), (SemanticEntropy(samples=3), .4, .8), (Perplexity(), .1, .6), (PTrue(), .2, .7), (LogitMargin(), .1, .6)):
        assert np.allclose(router.cost_of(np.array([0, 1]), table, own=True), [small, large]) and np.allclose(router.cost_of(np.array([0, 1]), table), [.1, .5])
    assert np.allclose(SemanticEntropy().cost_of(np.array([0, 1]), table, axis="tokens", own=True), [30 + 5 * 30, 25 + 5 * 20])


def test_semantic_entropy_reads_the_form_that_it_is_asked_for():
    X = {"semantic_entropy": [1.], "semantic_entropy.exact.rao": [2.], "semantic_entropy.similarity.discrete": [3.]}
    for router, value in ((SemanticEntropy(), 1), (SemanticEntropy("exact"), 2), (SemanticEntropy("similarity", "discrete"), 3)): assert router.decision_function(X).tolist() == [value]


@given(st.integers(0, 1000))
def test_the_logit_margin_is_the_log_odds_of_the_two_largest(seed):
    logits = np.random.default_rng(seed).normal(size=(4, 9)) * 5
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ranked = np.sort(p, 1)
    found = add_logit_margin({"top_logits": -np.sort(-logits, 1)[:, :5], "entropy": np.zeros(4)})
    assert set(found) == {"entropy", "logit_margin"} and np.allclose(found["logit_margin"], np.log(ranked[:, -1] / ranked[:, -2]))
    assert np.array_equal(LogitMargin().decision_function(found), -found["logit_margin"])


def test_a_store_without_its_largest_logits_is_named():
    with pytest.raises(MissingFeatureError, match="top_logits is missing"): add_logit_margin({"entropy": np.zeros(3)})


# ---------- all signals of a bank ----------

@pytest.fixture(scope="module")
def lm():
    from routercompanion.models.causal_lm import load_causal_lm
    return load_causal_lm("smollm2-135m-instruct", dtype=torch.float32)


def small_bank():
    rows = [dict(prompt=f"\nQ: What is {a} plus {b}?\nA:", references=[str(a + b)], task="sums", domain="d", source="made here", split="test") for a, b in ((1, 2), (3, 4), (17, 26), (5, 5))]
    rows += [dict(prompt=p, references=["Paris"], task="free", domain="d", source="made here", split="test") for p in ("The capital of France is", "The capital of Mongolia is")]
    return make_bank(rows, {"sums": "Q: What is 2 plus 2?\nA: 4\nQ: What is 6 plus 3?\nA: 9"}, "small")


@pytest.mark.model
def test_all_signals_of_a_bank(lm, monkeypatch):
    monkeypatch.setenv("ROUTERCOMPANION_QUIET", "1")
    bank = small_bank()
    found = answers_module.answer_signals(lm, bank, samples=3, max_new_tokens=6)
    again = answers_module.answer_signals(lm, bank, samples=3, max_new_tokens=6)
    assert all(np.array_equal(found[k], again[k], equal_nan=True) for k in found)
    assert all(v.shape == (6,) and v.dtype == np.float32 for v in found.values())
    names = {f"semantic_entropy.{j}.{e}" for j in ("exact", "similarity") for e in ESTIMATORS} | {"meanings.exact", "meanings.similarity"}
    asked = {"self_ask", "semantic_entropy", "perplexity", "p_true"}
    assert set(found) == names | asked | {f"tokens.{s}" for s in asked} and np.array_equal(found["semantic_entropy"], found["semantic_entropy.exact.rao"])
    assert all((found[f"tokens.{s}"] > 0).all() for s in asked)
    answers, row = lm.generate(bank, max_new_tokens=6), 2
    ids = lambda text: lm.tokenizer(text, add_special_tokens=False).input_ids
    with torch.no_grad(): plain = lambda x: lm.model(torch.tensor([x])).logits[0].double().log_softmax(-1)
    with torch.no_grad():
        before, said = ids(bank.shots["sums"]) + ids(bank.table.prompt[row]), ids(answers.text[row])
        log_p = plain(before + said)
        total = sum(float(log_p[len(before) - 1 + j, t]) for j, t in enumerate(said)) + float(log_p[-1, lm.stop_tokens.unique()].logsumexp(0))
        assert np.isclose(found["perplexity"][row], np.exp(-total / (len(said) + 1)), rtol=1e-3)
        p = plain(ids(bank.shots["sums"]) + ids(bank.table.prompt[row] + answers.text[row] + answers_module.P_TRUE_END))[-1].exp()
        yes, no = (sum(float(p[t]) for t in {ids(w)[0] for w in words}) for words in answers_module.YES_NO)
        assert np.isclose(found["p_true"][row], yes / (yes + no), rtol=1e-3) and answers.text[row].startswith(" ")
    given = answers_module.answer_signals(lm, bank, samples=3, max_new_tokens=6, answers=answers.text)
    assert np.allclose(given["perplexity"], found["perplexity"]) and np.allclose(given["p_true"], found["p_true"])
    for router in (SelfAsk(), SemanticEntropy("similarity", "plugin"), Perplexity(), PTrue()): assert router.decision_function(found).shape == (6,)


@pytest.mark.model
def test_a_reply_that_cannot_be_parsed_is_masked_in_the_signal(lm, monkeypatch):
    replies = iter([["90%", "no idea", "7/10", "", "55", "x"]])
    real = type(lm).generate
    monkeypatch.setattr(type(lm), "generate", lambda self, bank, **k: real(self, bank, **k)._replace(text=next(replies)))
    confidence, tokens = answers_module.self_ask(lm, small_bank())
    assert np.array_equal(confidence, np.array([90, np.nan, 70, np.nan, 55, np.nan], np.float32), equal_nan=True) and (tokens > 20).all()
