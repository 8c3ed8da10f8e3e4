"""Every router keeps one contract (check_router); the probes' arithmetic, thresholds, files and errors are checked on their own."""
import functools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.metrics import roc_auc_score

from routercompanion.features import of_bank
from routercompanion.routers import registry
from routercompanion.routers.difficulty import probes
from routercompanion.core import CompanionError
from routercompanion.parallel import deterministic
from routercompanion.routers.difficulty.probes import DirichletProbe, FinalLayerProbe, MeanProbe
from routercompanion.routers.baselines import (
    GainOracle, LabelOracle, PromptLength, RandomRouter, TaskMean,
)
from routercompanion.routers.difficulty.embeddings import EmbeddingMLP
from routercompanion.core import MisalignedError
from routercompanion.features.kinds import NotFiniteError, WidthError
from routercompanion.routers.base import (
    BinaryRouter, NoGainError, OneClassError, Router, platt, threshold_for,
)
from routercompanion.routers.check import check_router, router_checks, toy_routing_data
from routercompanion.routers.registry import (
    SavedRouterError, get_router, list_routers, load_router, register_router, save_router,
)
from routercompanion.routers.uncertainty.logits import ConfidenceMargin, Entropy, MaxLogits

FAST = {"DirichletProbe": dict(epochs=3), "MeanProbe": dict(epochs=3), "FinalLayerProbe": dict(epochs=3), "EmbeddingMLP": dict(epochs=3, hidden=(16, 8)),
        "MLPRouter": dict(epochs=3, hidden=(8,)), "MatrixFactorisationRouter": dict(epochs=3, rank=4), "KMeansRouter": dict(n_clusters=5)}
NAMES = ["DirichletProbe", "MeanProbe", "FinalLayerProbe", "ConfidenceMargin", "Entropy", "MaxLogits", "EmbeddingMLP", "TaskMean", "PromptLength",
         "RandomRouter", "LabelOracle", "GainOracle"]


@pytest.fixture(autouse=True, scope="module")
def _threads(): deterministic(42, 1)


def make(name):
    "A small router; those that can mask missing outcomes are told to refuse them, which is what the contract's rule about NaN scores is about."
    cls = get_router(name)
    return cls(**FAST.get(name, getattr(cls, "quick", {})), **({"missing": "raise"} if hasattr(cls, "missing") else {}))


def planted(n=400, L=6, D=12, seed=0):
    "Hidden states whose layers 2 and 3 carry the difficulty, and outcomes (n, 2)."
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=n)
    X = rng.normal(size=(n, L, D)).astype(np.float16)
    X[:, 2:4] += (hard[:, None, None] * np.linspace(-1, 1, D)).astype(np.float16)
    return X, np.stack([rng.random(n) > 1 / (1 + np.exp(-2 * hard)), rng.random(n) < .8], 1).astype(np.float32)


# ---- one contract for all

def test_all_routers_of_the_spine_are_registered(): assert set(NAMES) <= set(registry.ROUTERS)


@functools.cache
def checks_of(name):
    "The checks of one router; made once a process, so that they share one fit."
    return dict(router_checks(make(name)))


OURS = [name for name, module in list_routers()[["name", "module"]].to_numpy() if module.startswith("routercompanion.")]


@pytest.mark.parametrize("name,rule", [(name, rule) for name in OURS for rule in checks_of(name)])
def test_contract(name, rule): checks_of(name)[rule]()


class _Good(BinaryRouter):
    feature_kind, training_free = "embedding", True
    def _score(self, X): return -X[:, 0].astype(float)


def _breaking(rule):
    class Broken(_Good):
        if rule == "high score means":
            def _score(self, X): return X[:, 0].astype(float)
        if rule == "that query alone":
            def _score(self, X): return np.argsort(np.argsort(-X[:, 0])).astype(float)
        if rule == "same seed and data":
            def _fit(self, X, y, validation): self.noise_ = np.random.default_rng().normal()
            def _score(self, X): return -X[:, 0] + self.noise_
            training_free = False
        if rule == "saved and loaded":
            def _fit(self, X, y, validation): self.hidden = 3.
            def _score(self, X): return -X[:, 0] * getattr(self, "hidden", 1.)
        if rule == "change no input":
            def _fit(self, X, y, validation): X[0, 0] += 1
        if rule == "a NaN feature in use":
            def decision_function(self, X): return -np.nan_to_num(np.asarray(X)[:, 0].astype(float))
        if rule == "decide stays within":
            def decide(self, X): return np.ones(len(X), bool)
        if rule == "finite floating":
            def _score(self, X): return np.where(X[:, 0] > 1, np.inf, -X[:, 0].astype(float))
            def _finish(self, X, scores): self.platt_, self.quality_given_label_ = np.array([1., 0]), np.eye(2)
    return Broken()


@pytest.mark.parametrize("rule", ["high score means", "that query alone", "same seed and data", "saved and loaded", "change no input",
                                  "a NaN feature in use", "decide stays within", "finite floating"])
def test_check_router_names_the_broken_rule(rule):
    with pytest.raises(AssertionError, match=rule): check_router(_breaking(rule))


def test_check_router_leaves_the_registry_as_it_was():
    before = dict(registry.ROUTERS)
    check_router(_Good())
    assert registry.ROUTERS == before
    with pytest.raises(AssertionError, match="instance of a Router"): check_router(_Good)


# ---- direction, shortcuts, oracles

@pytest.mark.parametrize("name", [n for n in NAMES if n != "RandomRouter"])
def test_high_score_means_large(name):
    router = make(name)
    X, outcomes = toy_routing_data(router.feature_kind, n=200, seed=3)
    assert roc_auc_score(1 - outcomes.score[:, 0], router.fit(X, outcomes).decision_function(X)) > .7


def test_task_mean_is_constant_within_and_outside_its_tasks():
    X, outcomes = toy_routing_data("task", n=80)
    router = TaskMean().fit(X, outcomes)
    for t in np.unique(X): assert np.isclose(router.decision_function(X[X == t]), 1 - outcomes.score[X == t, 0].mean()).all()
    assert np.isclose(router.decision_function(["never seen"]), 1 - outcomes.score[:, 0].mean()).all()


def test_oracles_and_random():
    scores = np.array([[0, 0], [0, 1], [1, 0], [1, 1.]])
    assert LabelOracle().decision_function(scores).tolist() == [1, 1, 0, 0]
    assert GainOracle().decision_function(scores).tolist() == [0, 1, -1, 0]
    assert LabelOracle().decision_function(np.array([[.4, .9], [.9, .9]])).tolist() == [1, 0]
    assert set(RandomRouter().decision_function(list("abc"))) == {0.}
    seeded = RandomRouter(random_state=1)
    assert seeded.decision_function(["a", "b"]).tolist() == seeded.decision_function(["b", "a"])[::-1].tolist()


def test_length_takes_texts_or_numbers():
    assert PromptLength().decision_function(["a", "abc"]).tolist() == [1, 3] and PromptLength().decision_function(np.array([5, 2])).tolist() == [5, 2]


# ---- logits

@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(2, 40), st.floats(-50, 50), st.integers(0, 9))
def test_logit_summaries_against_softmax(n, vocabulary, shift, seed):
    x = np.random.default_rng(seed).normal(0, 4, (n, vocabulary)) + shift
    p = torch.softmax(torch.tensor(x.astype(np.float32).astype(np.float64)), -1).numpy()
    s, top = of_bank.logit_summaries(x, rows=2), np.sort(p, 1)[:, ::-1]
    assert np.allclose(s["entropy"], -(p * np.log(p)).sum(1)) and np.allclose(s["margin"], top[:, 0] - top[:, 1]) and np.allclose(s["max_prob"], top[:, 0])
    assert np.allclose(s["max_logit"], x.max(1), atol=1e-4) and np.allclose(s["log_normaliser"], np.log(np.exp(x).sum(1)), atol=1e-4)
    assert (s["entropy"] >= 0).all() and (s["entropy"] <= math.log(vocabulary) + 1e-9).all() and (s["margin"] >= 0).all()


def test_logit_router_signs_and_published_slip():
    X = of_bank.logit_summaries(np.array([[9., 0, 0], [1., 0, 0]]))
    for cls in (Entropy, ConfidenceMargin, MaxLogits):
        sure, unsure = cls().decision_function(X)
        assert unsure > sure
    hidden = np.random.default_rng(0).normal(size=(3, 2, 5))
    assert np.array_equal(of_bank.embedding_summaries(hidden)["entropy"], of_bank.logit_summaries(hidden[:, 0])["entropy"])


def test_names_and_values_are_those_of_the_feature_store():
    from routercompanion.models import features
    x = np.random.default_rng(0).normal(0, 3, (6, 50)).astype(np.float32)
    ours, stored = of_bank.logit_summaries(x), features.token_statistics(torch.tensor(x))
    for k, v in ours.items(): assert np.allclose(stored[k], v, atol=1e-4), k


def test_structured_arrays_are_accepted():
    X = np.array([(1., .5), (2., .1)], dtype=[("entropy", float), ("margin", float)])
    assert Entropy().decision_function(X).tolist() == [1, 2] and ConfidenceMargin().decision_function(X).tolist() == [-.5, -.1]


# ---- probes

def test_hand_written_gradients_agree_with_autograd():
    torch.manual_seed(1)
    Z, y = torch.randn(7, 4, 5, dtype=torch.float64), torch.tensor([0., 1, 1, 0, 1, 0, 0], dtype=torch.float64)
    v, b, w = torch.randn(5, dtype=torch.float64, requires_grad=True), torch.randn((), dtype=torch.float64, requires_grad=True), torch.rand(7, 4, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.binary_cross_entropy_with_logits(torch.einsum("bld,bl,d->b", Z, w, v) + b, y).backward()
    logits, projections = probes.mixed_logits(Z, v.detach(), b.detach(), w.detach())
    for ours, theirs in zip(probes.logit_gradients(Z, y, logits, projections, w.detach()), (v.grad, b.grad, w.grad)): assert torch.allclose(ours, theirs)


def test_mean_probe_is_logistic_regression_trained_by_adam():
    "An independent loop (nn.Linear, autograd, torch.optim.Adam) over the same batches reaches the same weights."
    X, outcomes = planted(160)
    Z, y = torch.tensor(X.astype(np.float32).mean(1)), torch.tensor(1 - outcomes[:, 0])
    probe = MeanProbe(epochs=4).fit(X, outcomes, validation=(X, outcomes))
    torch.manual_seed(42)
    head = torch.nn.Linear(X.shape[2], 1)
    with torch.no_grad(): head.weight.zero_(), head.bias.zero_()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-4)
    torch.manual_seed(42)
    for _ in range(4):
        for batch in torch.randperm(160).split(32):
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(head(Z[batch])[:, 0], y[batch]).backward()
            optimizer.step()
    assert probe.n_epochs_ == probe.best_epoch_ == 4
    assert np.allclose(probe.coef_, head.weight.detach().numpy()[0], atol=1e-6) and np.allclose(probe.intercept_, head.bias.item(), atol=1e-6)


def test_dirichlet_finds_the_informative_layers_and_is_deterministic():
    X, outcomes = planted()
    global_state = torch.random.get_rng_state()
    a, b = (DirichletProbe(lr=3e-3, epochs=20).fit(X, outcomes) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), global_state), "the global random state is left alone"
    assert a.coef_.tobytes() == b.coef_.tobytes() and a.concentration_.tobytes() == b.concentration_.tobytes() and a.history_ == b.history_
    assert set(np.argsort(a.layer_weights_)[-2:]) == {2, 3}
    assert np.isclose(a.layer_weights_.sum(), 1) and np.allclose(a.layer_weights_, a.concentration_ / a.concentration_.sum(), atol=1e-6)
    assert DirichletProbe(lr=3e-3, epochs=20, random_state=1).fit(X, outcomes).coef_.tobytes() != a.coef_.tobytes()


@pytest.mark.parametrize("cls,options", [(DirichletProbe, dict(epochs=3)), (EmbeddingMLP, dict(epochs=3))])
def test_bytes_do_not_depend_on_the_number_of_threads(cls, options):
    X, outcomes = planted(200, D=64)
    X = X if cls is DirichletProbe else X[:, 2].astype(np.float32)
    try: scores = [(torch.set_num_threads(t), cls(**options).fit(X, outcomes).decision_function(X).tobytes(), torch.get_num_threads())[1:] for t in (1, 2)]
    finally: torch.set_num_threads(1)
    assert scores[0][0] == scores[1][0] and [s[1] for s in scores] == [1, 2]


def test_initial_concentration_is_the_published_one():
    "With no training step to speak of, sum alpha = e and all layers are equal."
    X, outcomes = planted(64)
    probe = DirichletProbe(lr=1e-12, epochs=1).fit(X, outcomes)
    assert np.isclose(probe.concentration_.sum(), math.e, rtol=1e-5) and np.allclose(probe.concentration_, math.e / 6, rtol=1e-5)
    with pytest.raises(CompanionError, match="positive"): DirichletProbe(initial_concentration=0).fit(X, outcomes)


def test_large_concentration_is_mean_pooling():
    X, outcomes = planted(200)
    mean, dirichlet = MeanProbe(epochs=6).fit(X, outcomes), DirichletProbe(epochs=6, initial_concentration=1e6).fit(X, outcomes)
    assert np.corrcoef(mean.decision_function(X), dirichlet.decision_function(X))[0, 1] > .999


def test_layers_and_pooling():
    X, outcomes = planted(120)
    last = FinalLayerProbe(epochs=2).fit(X, outcomes)
    changed = X.copy(); changed[:, :-1] = 7
    assert np.array_equal(last.decision_function(X), last.decision_function(changed)), "only the last layer is read"
    two = MeanProbe(epochs=2, layers=[2, 3]).fit(X, outcomes)
    assert np.allclose(two.decision_function(X), X[:, 2:4].astype(np.float32).mean(1) @ two.coef_ + two.intercept_, atol=1e-5)
    assert two.decision_function(X).tobytes() == two.decision_function(torch.tensor(X)).tobytes(), "torch tensors are accepted"


@pytest.mark.parametrize("cls", [FinalLayerProbe, MeanProbe, DirichletProbe])
def test_standardize_uses_training_statistics_in_use(cls):
    X, outcomes = planted(200)
    probe = cls(epochs=3, standardize=True).fit(X[:150], outcomes[:150])
    one_by_one = np.concatenate([probe.decision_function(X[i:i + 1]) for i in range(150, 160)])
    assert np.allclose(one_by_one, probe.decision_function(X[150:160]), atol=1e-5), "no statistic of the test batch is used"
    scaled = cls(epochs=3, standardize=True).fit(4 * X[:150].astype(np.float32) + 1, outcomes[:150])
    assert np.allclose(scaled.decision_function(4 * X[150:].astype(np.float32) + 1), probe.decision_function(X[150:]), atol=1e-3)


def test_early_stop_and_plateau():
    X, outcomes = planted(120, seed=5)
    noise = np.random.default_rng(0).permutation(outcomes)
    probe = MeanProbe(lr=.05, epochs=200).fit(X, noise)
    assert 19 <= probe.n_epochs_ < 200 and probe.n_epochs_ >= probe.best_epoch_ + 8
    assert probe.history_["lr"][0] == .05 and min(probe.history_["lr"]) < .05
    assert np.argmin(probe.history_["val_loss"]) + 1 == probe.best_epoch_ and len(probe.history_["train_loss"]) == probe.n_epochs_


def test_best_epoch_is_kept():
    X, outcomes = planted(200)
    probe = MeanProbe(lr=.05, epochs=40).fit(X[:100], outcomes[:100], validation=(X[100:], outcomes[100:]))
    s, y = probe.decision_function(X[100:]), 1 - outcomes[100:, 0]
    loss = float(np.mean(np.logaddexp(0, s) - y * s))
    assert np.isclose(loss, min(probe.history_["val_loss"]), atol=1e-5)


def test_uncertainty_is_constant_across_inputs():
    values = probes.dirichlet_uncertainty(np.array([.2, 1., 3.]), n=5)
    reference = torch.distributions.Dirichlet(torch.tensor([.2, 1., 3.], dtype=torch.float64)).entropy().item()
    assert all((v == v[0]).all() and v.shape == (5,) for v in values.values())
    assert np.isclose(values["dirichlet_entropy"][0], reference) and np.isclose(values["log_total"][0], math.log(4.2))


# ---- features of a store, ids, errors

def test_feature_objects_hand_out_the_right_feature():
    X, outcomes = planted(60)
    ids = np.array([f"q{i}" for i in range(60)])
    store = SimpleNamespace(query_ids=ids, mean=X, last=X + 1, logits={"entropy": np.ones(60), "top_logits": np.ones((60, 20))})
    table = SimpleNamespace(score=outcomes, query_ids=ids, cost={"params_b": np.tile([.135, .494], (60, 1))}, models=["small", "large"])
    probe = MeanProbe(epochs=2).fit(store, table)
    assert probe.model_names_ == ["small", "large"] and np.allclose(probe.model_costs_, [.135 / .494, 1])
    assert np.array_equal(probe.decision_function(store), probe.decision_function(X))
    assert (Entropy().decision_function(store) == 1).all()
    shuffled = SimpleNamespace(**{**vars(table), "query_ids": ids[::-1]})
    with pytest.raises(MisalignedError, match="Row 0: features are of query q0, outcomes of q59"): MeanProbe(epochs=2).fit(store, shuffled)


def test_infinite_half_precision_state_is_named():
    X, outcomes = planted(60)
    X[37, 1, 2] = np.inf
    for cls in (FinalLayerProbe, MeanProbe, DirichletProbe):
        if cls is FinalLayerProbe: X[37, -1, 0] = np.inf
        with pytest.raises(NotFiniteError, match="row 37"): cls(epochs=1).fit(X, outcomes)


def test_diverging_training_is_named():
    X, outcomes = planted(60)
    with np.errstate(all="ignore"), pytest.raises(NotFiniteError, match="standardize=True"):
        MeanProbe(lr=1e38, epochs=3).fit(X.astype(np.float32) * 1e30, outcomes)


def test_one_class_error_is_also_the_metrics_one():
    from routercompanion import metrics
    with pytest.raises(metrics.OneClassError, match="15-85%"): RandomRouter().fit(list("ab"), np.ones((2, 2)))


# ---- probabilities, thresholds, costs

@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=12), st.floats(0, 1))
def test_threshold_against_brute_force(rows, asked):
    score, scores = np.array([float(r[0]) for r in rows]), np.array([r[1:] for r in rows], float)
    options = [(np.mean(score >= t), np.where(score >= t, scores[:, 1], scores[:, 0]).mean()) for t in (np.inf, *np.unique(score))]
    threshold, rate, performance = threshold_for(score, scores, call_rate=asked)
    assert rate == (score >= threshold).mean() == max(r for r, _ in options if r * len(rows) <= asked * len(rows) + 1e-9)
    small, large = scores.mean(0)
    if large <= small:
        with pytest.raises(NoGainError): threshold_for(score, scores, target=asked)
    else:
        threshold, rate, performance = threshold_for(score, scores, target=asked)
        assert np.isclose(rate, min(r for r, p in options if p >= small + asked * (large - small) - 1e-12)) and np.isclose((score >= threshold).mean(), rate)
        assert np.isclose(np.where(score >= threshold, scores[:, 1], scores[:, 0]).mean(), performance)


def test_platt_direction_and_calibration():
    rng = np.random.default_rng(0)
    s = rng.normal(size=6000)
    y = rng.random(6000) < 1 / (1 + np.exp(-(1.5 * s + .5)))
    assert np.allclose(platt(s, y), [1.5, .5], atol=.15)
    assert platt(-s, y)[0] == 0, "a reversed score gets the base rate, never a reversed probability"
    assert np.isfinite(platt(np.r_[0., 1], np.r_[0, 1])).all(), "separated scores give finite slopes"


def test_quality_is_total_expectation_and_cost_includes_the_router():
    X, outcomes = toy_routing_data("embedding", n=200)
    router = EmbeddingMLP(**FAST["EmbeddingMLP"]).fit(X, outcomes)
    assert np.allclose(router.predict_quality(X)[:, 0], router.predict_proba(X)[:, 0])
    choice = np.array([0, 1] * 100)
    plain, own = (router.cost_of(choice, outcomes, own=o) for o in (False, True))
    assert np.allclose(own - plain, .0227) and plain[:2].tolist() == [1, 2]
    probe_cost = MeanProbe().cost_of(choice, outcomes, own=True)
    assert probe_cost[:2].tolist() == [1, 3], "the probe's own pass of the small model counts where the large one answers"


# ---- files, registry

def _saved(tmp_path):
    X, outcomes = planted(80)
    router = DirichletProbe(epochs=2, standardize=True, layers=(1, -1)).fit(X, outcomes).choose_threshold(X, outcomes, call_rate=0)
    return X, router, save_router(router, tmp_path / "probe")


def test_round_trip_keeps_everything(tmp_path):
    X, router, folder = _saved(tmp_path)
    again = load_router(folder)
    assert again.get_params() == router.get_params() and isinstance(again.layers, tuple)
    assert again.decision_function(X).tobytes() == router.decision_function(X).tobytes()
    assert again.threshold_ == math.inf and again.history_ == router.history_ and not again.decide(X).any()
    assert sorted(p.name for p in folder.iterdir()) == ["arrays.safetensors", "router.json"]


@pytest.mark.parametrize("name,damage,message", [
    ("arrays.safetensors", lambda b: b[:-5], "cut short or altered"), ("arrays.safetensors", lambda b: b[:3], "cut short or altered"),
    ("arrays.safetensors", lambda b: None, "arrays.safetensors is missing"), ("router.json", lambda b: None, "router.json is missing"),
    ("router.json", lambda b: b[:len(b) // 2], "router.json: not valid JSON"), ("router.json", lambda b: b"[]", "not a router of format"),
    ("router.json", lambda b: b.replace(b'"format": 1', b'"format": 9'), "not a router of format"),
    ("router.json", lambda b: b.replace(b'"DirichletProbe"', b'"os.system"'), "Unknown router 'os.system'")])
def test_damaged_files_are_named(tmp_path, name, damage, message):
    _, _, folder = _saved(tmp_path)
    data = damage((folder / name).read_bytes())
    (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
    with pytest.raises(CompanionError, match=message): load_router(folder)


def test_saving_is_atomic_and_never_overwrites_unasked(tmp_path, monkeypatch):
    X, router, folder = _saved(tmp_path)
    before = (folder / "router.json").read_bytes()
    with pytest.raises(SavedRouterError, match="exists"): save_router(router, folder)
    def fails(*args): raise OSError("no space left on device")
    monkeypatch.setattr(registry, "write_json", fails)
    with pytest.raises(OSError): save_router(router, tmp_path / "other")
    with pytest.raises(OSError): save_router(router, folder, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["probe"] and (folder / "router.json").read_bytes() == before
    monkeypatch.undo()
    save_router(router.choose_threshold(*planted(80), call_rate=1), folder, overwrite=True)
    assert load_router(folder).threshold_ == -math.inf and [p.name for p in tmp_path.iterdir()] == ["probe"]


def test_what_cannot_be_saved_is_named(tmp_path):
    X, outcomes = toy_routing_data("embedding")
    router = _Good().fit(X, outcomes)
    router.helper_ = object()
    with pytest.raises(SavedRouterError, match="object cannot be saved"): save_router(router, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_saved_files_hold_no_pickle(tmp_path):
    _, _, folder = _saved(tmp_path)
    saved = json.loads((folder / "router.json").read_text())
    assert saved["router"] == "DirichletProbe" and set(saved) == {"format", "router", "arrays_sha256", "params", "fitted"}
    assert not (folder / "arrays.safetensors").read_bytes().startswith((b"\x80", b"PK"))


def test_entry_points_register_and_a_broken_one_is_left_out(monkeypatch):
    class Plugin(_Good): pass
    good = SimpleNamespace(name="PluginRouter", value="plugin:PluginRouter", load=lambda: Plugin)
    def fails(): raise ImportError("no such module")
    broken = SimpleNamespace(name="BrokenRouter", value="broken:BrokenRouter", load=fails)
    monkeypatch.setattr(registry, "ROUTERS", dict(registry.ROUTERS))
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [broken, good] if group == "routercompanion.routers" else [])
    with pytest.warns(UserWarning, match="BrokenRouter .*no such module"): assert get_router("PluginRouter") is Plugin
    with pytest.warns(UserWarning), pytest.raises(CompanionError, match="Known: .*PluginRouter"): get_router("Nothing")


def test_two_classes_of_one_name_collide(monkeypatch):
    monkeypatch.setattr(registry, "ROUTERS", dict(registry.ROUTERS))
    other = type("MeanProbe", (_Good,), {})
    with pytest.raises(CompanionError, match="exists already in routercompanion.routers.difficulty.probes"): register_router(other)


class _Pool(Router):
    feature_kind = "embedding"
    def _fit(self, X, scores, validation): self.coef_ = np.linalg.lstsq(np.c_[X, np.ones(len(X))], scores, rcond=None)[0]
    def _predict(self, X): return np.c_[X, np.ones(len(X))] @ self.coef_


def test_pool_routers_share_the_contract():
    check_router(_Pool())
    X, outcomes = toy_routing_data("embedding", n_models=3)
    router = _Pool().fit(X, outcomes)
    assert set(router.route(X, 1e6)) == {0} and len(set(router.route(X, 0))) > 1
    plain = _Pool().fit(X, outcomes.score)
    with pytest.raises(NotFiniteError, match="costs are unknown"): plain.route(X, .1)
    assert plain.route(X).tolist() == np.argmax(plain.predict_quality(X), 1).tolist()
