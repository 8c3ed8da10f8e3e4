"The three contracts: one record for all routers, sequential and online routers, and a wrong class for every rule."

import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routercompanion.core import CompanionError, hash_fraction, make_rng
from routercompanion.features.kinds import n_rows
from routercompanion.routers import arms as arm_module
from routercompanion.routers import online, runs, sequential
from routercompanion.routers.bandits.thompson import ThompsonRouter
from routercompanion.routers.base import Router
from routercompanion.routers.cascades import two_stage
from routercompanion.routers.check import toy_routing_data
from routercompanion.routers.check_online import online_checks
from routercompanion.routers.check_sequential import sequential_checks, toy_sequential_data
from routercompanion.routers.online import OnlineRouter, PullError, replay
from routercompanion.routers.policies import env as env_module
from routercompanion.routers.registry import load_router, save_router
from routercompanion.routers.runs import Run
from routercompanion.routers.sequential import REJECT, STOP, SequentialRouter, run_sequential


def broken_rules(checks):
    "Names of the rules whose check raises; a check raises nothing but `AssertionError`."
    broken = []
    for name, check in checks:
        try:
            check()
        except AssertionError:
            broken.append(name)
    return broken


# ---------------------------------------------------------------- sequential: wrong classes


class Good(SequentialRouter):
    "Asks models in order until one is sure enough; `sure_` is learned."
    feature_kind = "embedding"

    def __init__(self, *, level=.5):
        self.level = level

    def _fit(self, X, scores, signals, cost):
        self.sure_ = float(np.quantile(signals[:, 0, 0], self.level))

    def act(self, X, seen):
        sure = seen[:, :, 0]
        n_asked = (~np.isnan(sure)).sum(1)
        stop = (np.nan_to_num(sure) >= self.sure_).any(1) | (n_asked == sure.shape[1])
        return np.where(stop, STOP, n_asked)


def first_step(X, seen, first):
    "One step: ask `first`, then stop."
    return np.where(np.isnan(seen[:, :, 0]).all(1), first, STOP)


class Column(Good):
    def act(self, X, seen): return super().act(X, seen)[:, None]


class OffTheTable(Good):
    def act(self, X, seen): return first_step(X, seen, np.where(X[:, 0] > 0, 0, seen.shape[1]))


class Silent(Good):
    def act(self, X, seen): return first_step(X, seen, np.where(X[:, 0] > 0, 0, STOP))


class Repeats(Good):
    def act(self, X, seen): return np.where(np.isnan(seen[:, 1, 0]), 0, STOP)


class Endless(Good):
    def act(self, X, seen):
        n_asked = (~np.isnan(seen[:, :, 0])).sum(1)
        return np.minimum(n_asked, seen.shape[1] - 1)


class Hasty(Good):
    "Asks the second arm, which requires the first, at once."
    def act(self, X, seen): return first_step(X, seen, 1)


class LooksUp(Good):
    "Keeps the table of outcomes and skips to the last model where it is right there."
    def _fit(self, X, scores, signals, cost): self.X_, self.table_ = X, scores

    def act(self, X, seen):
        row = (X[:, None] == self.X_[None]).all(2).argmax(1)
        return first_step(X, seen, np.where(self.table_[row, -1] == 1, seen.shape[1] - 1, 0))


class LooksUpSignals(LooksUp):
    "Keeps the table of signals and looks up how sure a model will be that it has not asked."
    def _fit(self, X, scores, signals, cost): self.X_, self.table_ = X, signals

    def act(self, X, seen):
        row = (X[:, None] == self.X_[None]).all(2).argmax(1)
        return first_step(X, seen, np.where(self.table_[row, -1, 0] > .5, seen.shape[1] - 1, 0))


class ForgetsTheFirst(Good):
    "Bills the last model alone."
    def run(self, X, outcomes, *, signals=None, **limits):
        run = run_sequential(self, X, signals, outcomes, **limits)
        rows = np.arange(len(run.answer))
        cost = {axis: np.asarray(c)[rows, run.answer] for axis, c in outcomes.cost.items()}
        return Run(run.asked, run.answer, run.quality, cost)


class OthersAnswer(Good):
    def act(self, X, seen): return first_step(X, seen, 0)
    def answer(self, X, asked): return np.ones(len(asked), int)


class Compares(Good):
    def act(self, X, seen): return first_step(X, seen, np.where(X[:, 0] > X[:, 0].mean(), 1, 0))


class CountsRows(Good):
    def act(self, X, seen): return first_step(X, seen, np.arange(len(X)) % 2)


class ByBatch(Good):
    def act(self, X, seen): return first_step(X, seen, int(len(X) > 100))


class Counter(Good):
    calls = 0

    def act(self, X, seen):
        self.calls += 1
        return first_step(X, seen, int(self.calls > 1))


class Forgetful(Good):
    def fit(self, X, outcomes, **options):
        self.level = .4
        return super().fit(X, outcomes, **options)


class Unsaved(Good):
    "What it learned does not end in an underscore, so it is not saved."
    sure = -1.

    def _fit(self, X, scores, signals, cost): self.sure = float(np.median(signals[:, 0, 0]))

    def act(self, X, seen):
        fresh, only_first = np.isnan(seen[:, 0, 0]), np.isnan(seen[:, 1, 0])
        unsure = only_first & (np.nan_to_num(seen[:, 0, 0]) < self.sure)
        return np.select([fresh, unsure], [0, 1], STOP)


SEQUENTIAL = {
    Column: "one action per query", OffTheTable: "one action per query", Silent: "asks before it stops",
    Repeats: "no model twice", Endless: "within m steps", Hasty: "requirements first",
    LooksUp: "reads only what was paid for", LooksUpSignals: "reads only what was paid for",
    ForgetsTheFirst: "pays for what it asked", OthersAnswer: "gives an answer it has",
    Compares: "that query alone", CountsRows: "order of rows", ByBatch: "size of the batch",
    Counter: "the same again", Forgetful: "parameters", Unsaved: "save and load",
}


def arm_data():
    "Toy data whose second column is an arm that requires the first."
    X, signals, outcomes = toy_sequential_data("embedding")
    outcomes.requires = np.array([-1, 0, -1])
    return X, signals, outcomes


@pytest.mark.parametrize("wrong", SEQUENTIAL, ids=lambda c: c.__name__)
def test_a_wrong_cascade_is_caught_by_its_rule_and_no_other(wrong):
    data = arm_data() if wrong is Hasty else ()
    assert broken_rules(sequential_checks(wrong(), *data)) == [SEQUENTIAL[wrong]]


def test_every_sequential_rule_has_a_wrong_class():
    assert {name for name, _ in sequential_checks(Good())} == set(SEQUENTIAL.values())


@pytest.mark.parametrize("router", [Good(), two_stage.TwoStageRouter(), two_stage.TwoStageRouter(thresholds=(0., .5)),
                                    two_stage.TwoStageRouter(stages="before", share=.2)], ids=str)
def test_sequential_routers_keep_the_rules(router):
    assert broken_rules(sequential_checks(router)) == []
    if router.n_models is None:
        assert broken_rules(sequential_checks(router, *arm_data())) == []


def test_a_broken_rule_is_named():
    check = dict(sequential_checks(Repeats()))["no model twice"]
    with pytest.raises(AssertionError, match="Repeats breaks the rule: no model is asked twice"):
        check()


# ---------------------------------------------------------------- online: wrong classes


class Greedy(OnlineRouter):
    "Mostly the model of the best mean so far, one time in five any."
    def __init__(self, *, epsilon=.2, random_state=42):
        self.epsilon, self.random_state = epsilon, random_state

    def _start(self, n_models): self.total_, self.n_ = np.full(n_models, .5), np.ones(n_models)
    def _best(self): return int((self.total_ / self.n_).argmax())
    def pull(self, x, rng): return rng.integers(len(self.n_)) if rng.random() < self.epsilon else self._best()

    def update(self, x, models, reward):
        self.total_[models] += reward
        self.n_[models] += 1

    def propensity(self, x, models):
        return self.epsilon / len(self.n_) + (1 - self.epsilon) * (models[0] == self._best())

    def _predict(self, X): return np.tile(self.total_ / self.n_, (n_rows(X), 1))


class PullsAll(Greedy):
    def pull(self, x, rng): return np.arange(len(self.n_))


class WarmStart(Greedy):
    "Begins with the outcomes of all models on all queries, as published code does."
    def fit(self, X, outcomes, **options):
        super().fit(X, outcomes, **options)
        self.total_ = self.total_ + np.nanmean(outcomes.score, axis=0)
        return self


class GlobalDice(Greedy):
    def pull(self, x, rng): return np.random.randint(len(self.n_))
    def propensity(self, x, models): return 1 / len(self.n_)


class CountsTwice(Greedy):
    def update(self, x, models, reward):
        super().update(x, models, reward)
        self.asked_[models] += 1


class FillsGaps(Greedy):
    def fit(self, X, outcomes, **options):
        filled = SimpleNamespace(**{**vars(outcomes), "score": np.nan_to_num(outcomes.score)})
        return super().fit(X, filled, **options)


class NoProbability(Greedy):
    def propensity(self, x, models): return 1.5


class NoBelief(Greedy):
    def _predict(self, X): return np.full((n_rows(X), len(self.n_)), np.nan)


class Drifts(Greedy):
    def _predict(self, X):
        self.n_ = self.n_ + 1
        return super()._predict(X)


class LooksAround(Greedy):
    def _predict(self, X): return super()._predict(X) / n_rows(X)


class ForgetfulBandit(Greedy):
    def fit(self, X, outcomes, **options):
        super().fit(X, outcomes, **options)
        self.epsilon = .3
        return self


class UnsavedBandit(Greedy):
    bonus = 0.

    def fit(self, X, outcomes, **options):
        super().fit(X, outcomes, **options)
        self.bonus = .1
        return self

    def _predict(self, X): return super()._predict(X) + self.bonus


ONLINE = {
    PullsAll: "pulls one or two models", WarmStart: "reads only pulled cells", GlobalDice: "the seed decides",
    CountsTwice: "counts add up", FillsGaps: "missing outcomes teach nothing", NoProbability: "propensities",
    NoBelief: "one-shot afterwards", Drifts: "predicting teaches nothing", LooksAround: "that query alone",
    ForgetfulBandit: "parameters", UnsavedBandit: "save and load",
}


class Duel(Greedy):
    "Compares the best so far with a model at random."
    def pull(self, x, rng): return np.array([self._best(), rng.integers(len(self.n_))])

    def update(self, x, models, reward):
        np.add.at(self.total_, models, [reward, 1 - reward])
        np.add.at(self.n_, models, 1)

    def propensity(self, x, models): return np.nan


@pytest.mark.parametrize("wrong", ONLINE, ids=lambda c: c.__name__)
def test_a_wrong_bandit_is_caught_by_its_rule_and_no_other(wrong):
    assert broken_rules(online_checks(wrong())) == [ONLINE[wrong]]


def test_every_online_rule_has_a_wrong_class():
    assert {name for name, _ in online_checks(Greedy())} == set(ONLINE.values())


@pytest.mark.parametrize("router", [Greedy(), Duel(), ThompsonRouter(), ThompsonRouter(missing="raise", prior=(2., 5.))], ids=str)
def test_online_routers_keep_the_rules(router): assert broken_rules(online_checks(router)) == []


# ---------------------------------------------------------------- the record


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_what_is_paid_is_the_sum_over_what_was_asked(seed):
    rng = make_rng(seed)
    n, m = rng.integers(1, 8), rng.integers(1, 5)
    asked = np.array([rng.permutation(m) for _ in range(n)])
    asked[np.arange(m) >= rng.integers(0, m + 1, n)[:, None]] = -1
    cost = rng.random((n, m))
    expected = [sum(cost[i, j] for j in row if j >= 0) for i, row in enumerate(asked)]
    assert np.allclose(runs.paid(asked, cost), expected)


def test_a_run_is_read_only_and_does_not_follow_its_arrays():
    quality = np.array([1., 0.])
    run = Run([[0], [0]], [0, 0], quality, {"usd": quality})
    quality[:] = 5
    assert run.quality.tolist() == [1, 0] and run.cost["usd"].tolist() == [1, 0]
    for values in (run.asked, run.answer, run.quality, run.cost["usd"]):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0
    with pytest.raises(AttributeError):
        run.quality = quality


# ---------------------------------------------------------------- the runner against a loop


def loop(router, X, signals, score, cost):
    "One query at a time, in plain Python: (asked, answer, quality, paid) of each."
    for i in range(len(score)):
        seen, asked = np.full((1, *signals.shape[1:]), np.nan), []
        while (action := int(router.act(X[i:i + 1], seen)[0])) >= 0:
            asked.append(action)
            seen[0, action] = signals[i, action]
        answer = -1 if action == REJECT else asked[-1]
        yield asked, answer, score[i, answer] if answer >= 0 else .25, sum(cost[i, j] for j in asked)


class Wild(SequentialRouter):
    "Asks, stops and refuses by a hash of what it knows."
    feature_kind, training_free = "embedding", True

    def act(self, X, seen):
        out = []
        for x, s in zip(X, seen):
            known = ~np.isnan(s[:, 0])
            free = [*np.flatnonzero(~known), REJECT, *([STOP] if known.any() else [])]
            out.append(free[int(hash_fraction(x.tolist(), np.nan_to_num(s).tolist()) * len(free))])
        return np.array(out)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_the_runner_equals_a_loop_over_queries(seed):
    rng = make_rng(seed)
    X, signals, score, cost = rng.random((9, 2)), rng.random((9, 4, 2)), rng.random((9, 4)), rng.random((9, 4))
    run = run_sequential(Wild(), X, signals, SimpleNamespace(score=score, cost={"usd": cost}), reject_value=.25)
    for i, (asked, answer, quality, paid) in enumerate(loop(Wild(), X, signals, score, cost)):
        assert [j for j in run.asked[i] if j >= 0] == asked and run.answer[i] == answer
        assert run.quality[i] == quality and np.isclose(run.cost["usd"][i], paid, rtol=1e-12)


def test_the_two_stages_are_equal_query_by_query():
    rng = make_rng(3)
    for _ in range(60):
        n = 40
        first, second = rng.normal(size=n).round(1), rng.normal(size=n).round(1)
        score, cost = rng.integers(0, 2, (n, 2)).astype(float), 1 + rng.random((n, 2)) * [1, 9]
        drawn = tuple(rng.normal(size=2).round(1).tolist())
        t = [drawn, (np.inf, 0.), (0., np.inf), (-np.inf, np.inf)][rng.integers(4)]
        route = two_stage.two_stage_route(first, second, t)
        quality, paid = two_stage.route_result(route, score, cost)
        signals = np.stack([second, rng.normal(size=n)], 1)
        run = run_sequential(two_stage.TwoStageRouter(thresholds=t), first, signals, SimpleNamespace(score=score, cost={"tokens": cost}))
        assert np.array_equal(run.quality, quality) and np.array_equal(run.cost["tokens"], paid)
        assert np.array_equal(runs.calls(run) == 2, route == two_stage.ESCALATE) and np.array_equal(run.asked[:, 0] == 1, route == two_stage.AT_ONCE)


def test_the_two_stages_choose_the_old_thresholds(tmp_path):
    rng = make_rng(4)
    first, second, score, cost = rng.normal(size=80), rng.normal(size=80), rng.integers(0, 2, (80, 2)).astype(float), 1 + rng.random((80, 2)) * [1, 9]
    table, signals = SimpleNamespace(score=score, cost={"tokens": cost}, models=["d", "a"]), np.stack([second, second], 1)
    for stages in two_stage.STAGES:
        router = two_stage.TwoStageRouter(stages=stages, share=.4).fit(first, table, signals=signals)
        low, high = cost.mean(0)
        assert tuple(router.thresholds_) == two_stage.choose_thresholds(first, second, score, cost, low + .4 * (high - low), stages=stages)
        again = load_router(save_router(router, tmp_path / stages))
        assert np.array_equal(again.thresholds_, router.thresholds_) and again.get_params() == router.get_params()


def test_a_one_shot_router_is_a_cascade_of_one_step():
    class First(Router):
        feature_kind = "embedding"
        def _predict(self, X): return np.c_[X[:, 0], 0 * X[:, 0], -X[:, 0]]
    X, outcomes = toy_routing_data("embedding", n_models=3)
    router = First().fit(X, outcomes)
    for trade_off in (0., .7):
        run = run_sequential(sequential.OneStep(router, trade_off=trade_off), X, None, outcomes)
        choice = router.route(X, trade_off)
        assert np.array_equal(run.asked, choice[:, None]) and np.array_equal(run.answer, choice)
        assert np.allclose(run.cost["params_b"], router.cost_of(choice, outcomes))
    assert np.array_equal(run_sequential(router, X, None, outcomes).answer, router.route(X))


def test_a_knob_of_its_own_is_handed_through():
    class Bar(Router):
        knob = "bar"
        def _predict(self, X): return np.tile([.2, .8], (n_rows(X), 1))
        def _route_by_knob(self, X, value): return np.full(n_rows(X), int(value > .2))
    router = Bar().fit(list("ab"), np.eye(2))
    assert router.route(list("abc"), .1).tolist() == [0] * 3 and router.route(list("abc"), .5).tolist() == [1] * 3
    with pytest.raises(CompanionError, match="give it knob_grid"):
        router.knob_grid(["a"])
    assert Router.knob is None and Router.calibrated is True


# ---------------------------------------------------------------- arms


def test_an_arm_pays_its_own_column_and_shows_its_own_signals():
    rng = make_rng(0)
    table = SimpleNamespace(score=rng.random((20, 2)), cost={"usd": rng.random((20, 2)), "s": rng.random((20, 2))}, models=["a", "b"])
    a, b = arm_module.model_arms(table, rng.random((20, 2, 2)))
    scores, told = rng.random((20, 3)), rng.random((20, 3))
    best = arm_module.best_of_n(a, scores, told)
    check = arm_module.verify(a, told[:, 0], {"usd": np.ones(20), "s": np.zeros(20)})
    better = arm_module.refine(a, scores[:, 0], {"usd": np.ones(20), "s": np.ones(20)})
    arms = arm_module.arm_table([a, b, best, check, better])
    assert arms.requires.tolist() == [-1, -1, -1, 0, 0] and arms.signals.shape == (20, 5, 2)
    assert np.allclose(arms.cost["usd"][:, 2], 3 * table.cost["usd"][:, 0])
    for i in range(20):
        assert arms.score[i, 2] == scores[i, told[i].argmax()] and arms.signals[i, 2, 0] == told[i].max()
    assert np.array_equal(arms.score[:, 3], table.score[:, 0]), "a verified answer is the same answer"


@pytest.mark.parametrize("change,words", [
    (dict(signals=np.zeros((5, 3))), "Signals have shape"), (dict(X=np.zeros((4, 1))), "4 queries and 5 rows"),
    (dict(max_steps=0), "max_steps"), (dict(signals=np.full((5, 2), np.nan)), "signals is NaN"),
    (dict(outcomes=SimpleNamespace(score=np.ones((5, 2)), cost={"usd": np.full((5, 2), np.nan)})), "usd of a model")])
def test_shapes_and_gaps_are_named(change, words):
    class Once(SequentialRouter):
        training_free = True
        def act(self, X, seen): return first_step(X, seen, 0)
    given = dict(X=np.zeros((5, 1)), signals=np.zeros((5, 2)), outcomes=np.ones((5, 2))) | change
    with pytest.raises(CompanionError, match=words):
        run_sequential(Once(), **given)


def test_an_unfitted_cascade_is_told_to_fit():
    X, signals, outcomes = toy_sequential_data()
    with pytest.raises(CompanionError, match="Call fit first"):
        run_sequential(Good(), X, signals, outcomes)


# ---------------------------------------------------------------- bandits against today's loop


def old_thompson(scores, prior, seed):
    "The loop of the router before there was a contract: posteriors and counts."
    rng, m = make_rng(seed), scores.shape[1]
    a, b, asked = np.full(m, float(prior[0])), np.full(m, float(prior[1])), np.zeros(m)
    for s in scores[rng.permutation(len(scores))]:
        j = int(rng.beta(a, b).argmax())
        if np.isnan(s[j]):
            continue
        a[j], b[j], asked[j] = a[j] + s[j], b[j] + 1 - s[j], asked[j] + 1
    return a, b, asked


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0., .3]))
def test_thompson_is_bit_for_bit_the_old_loop(seed, graded, gaps):
    rng = make_rng(seed)
    score = rng.random((70, 4)) if graded else (rng.random((70, 4)) < .6).astype(float)
    score[1:][rng.random((69, 4)) < gaps] = np.nan
    prior = (1., 1.) if seed % 2 else (2., .7)
    router = ThompsonRouter(prior=prior, random_state=seed).fit([f"q{i}" for i in range(70)], score)
    a, b, asked = old_thompson(score, prior, seed)
    assert np.array_equal(router.a_, a) and np.array_equal(router.b_, b) and np.array_equal(router.asked_, asked)
    drawn = [make_rng(int(hash_fraction("thompson", seed, q) * 2**52)).beta(a, b) for q in ("x", "y")]
    assert np.array_equal(router.predict_quality(["x", "y"]), drawn)
    run = replay(router, [f"q{i}" for i in range(70)], score)
    assert np.array_equal(np.bincount(run.answer[~np.isnan(run.quality)], minlength=4), asked)


def test_a_thompson_router_saved_before_the_contract_loads(tmp_path):
    X, outcomes = toy_routing_data("none", n_models=3)
    router = ThompsonRouter().fit(X, outcomes)
    router.mean_ = outcomes.score.mean(0)                # what was saved then, besides today's attributes
    again = load_router(save_router(router, tmp_path / "old"))
    assert type(again) is ThompsonRouter and np.array_equal(again.predict_quality(X), router.predict_quality(X))
    assert np.array_equal(again.asked_, router.asked_) and again.get_params() == router.get_params()


def test_replay_leaves_the_router_alone_and_can_go_on_from_it():
    X, outcomes = toy_routing_data("none", n_models=3)
    router = Greedy().fit(X, outcomes)
    before = router.total_.copy()
    cold, warm = replay(router, X, outcomes), replay(router, X, outcomes, warm=True)
    assert np.array_equal(router.total_, before)
    fresh = Greedy()
    assert np.array_equal(cold.asked, replay(fresh, X, outcomes).asked) and not hasattr(fresh, "total_")
    first = cold.order[0]
    assert cold.propensity[first] != warm.propensity[first] or not np.array_equal(cold.asked, warm.asked)
    assert sorted(cold.order) == list(range(len(X)))


def test_a_duel_shows_a_preference_and_pays_for_two():
    told = []

    class Pair(Duel):
        def pull(self, x, rng): return np.array([0, 1])
        def update(self, x, models, reward): told.append(reward)
    score = np.array([[1, 0, 0], [0, 1, 0], [.5, .5, 0]])
    run = replay(Pair(), list("abc"), SimpleNamespace(score=score, cost={"usd": np.tile([1., 2., 9.], (3, 1))}, models=None))
    assert sorted(told) == [0, .5, 1] and run.cost["usd"].tolist() == [3, 3, 3]
    assert run.answer.tolist() == [0, 1, 0] and run.quality.tolist() == [1, 1, .5]


def test_a_pull_off_the_table_is_named():
    class Off(Greedy):
        def pull(self, x, rng): return 3
    X, outcomes = toy_routing_data("none", n_models=3)
    with pytest.raises(PullError, match="Off.pull gave 3"):
        Off().fit(X, outcomes)
    with pytest.raises(CompanionError, match="Rewards have shape"):
        replay(Greedy(), X, outcomes, reward=np.ones((2, 3)))


# ---------------------------------------------------------------- the environment


def toy_env(**options):
    X, signals, outcomes = toy_sequential_data("embedding", n=12)
    return (X, signals, outcomes), env_module.routing_env(X, signals, outcomes, **options)


def test_the_environment_passes_gymnasiums_own_checker():
    pytest.importorskip("gymnasium")
    from gymnasium.utils.env_checker import check_env
    import warnings
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Box observation space.*")
        check_env(toy_env()[1], skip_render_check=True)


def test_an_episode_earns_what_the_runner_says():
    pytest.importorskip("gymnasium")
    (X, signals, outcomes), env = toy_env(trade_off=.3, reject_value=.25)
    m = outcomes.score.shape[1]
    run = run_sequential(Wild(), X.astype(np.float32), signals, outcomes, reject_value=.25)
    price = outcomes.cost["params_b"] / outcomes.cost["params_b"].mean(0).max()
    for i in range(len(X)):
        seen, info = env.reset(options={"row": i})
        total, over, ended = 0., False, {-1: "refused"}
        known = np.where(seen["asked"][:, None] == 1, seen["seen"], np.nan)
        asked = [j for j in run.asked[i] if j >= 0]
        for action in [*asked, m + 1 if run.answer[i] < 0 else m]:
            assert not over and info["action_mask"][action] == 1 and np.isnan(known).all(1).sum() == m - seen["asked"].sum()
            seen, reward, over, truncated, info = env.step(action)
            known = np.where(seen["asked"][:, None] == 1, seen["seen"], np.nan)
            assert env.observation_space.contains(seen) and not truncated
            total += reward
        paid = sum(price[i, j] for j in asked)
        assert over and info["how"] == ended.get(run.answer[i], "stopped") and np.isclose(total, run.quality[i] - .3 * paid)


def test_without_gymnasium_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(env_module.MissingExtraError, match=r"routercompanion\[rl\]"):
        toy_env()


def test_an_action_against_the_rules_ends_the_episode():
    signals, score, price = np.array([[.3], [.8]]), np.array([0., 1.]), np.array([.1, .5])
    for actions in itertools.product(range(4), repeat=3):
        episode = env_module.Episode(signals, score, price, requires=np.array([-1, 0]), invalid_reward=-2.)
        asked, over = [], False
        for action in actions:
            if over:
                break
            legal = action == 3 or (action == 2 and asked) or (action < 2 and action not in asked and (action == 0 or 0 in asked))
            assert episode.allowed()[action] == bool(legal)
            reward, over, how = episode.act(action)
            assert (how == "invalid") == (not legal) and (reward == -2.) == (not legal)
            asked += [action] if action < 2 and legal else []
