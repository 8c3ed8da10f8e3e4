"For every rule of `router_checks` a class that breaks that rule and no other: a rule that cannot fail alone says nothing."
import copy
from types import SimpleNamespace

import numpy as np
import pytest

from routercompanion.routers.base import BinaryRouter, PoolRouter
from routercompanion.routers.check import _RULES, check_router, router_checks


class Good(BinaryRouter):
    feature_kind, training_free = "embedding", True
    def _score(self, X): return -X[:, 0].astype(float)


class ReturnsNothing(Good):
    def fit(self, X, outcomes, **options): super().fit(X, outcomes, **options)


class ChangesItsParameter(Good):
    def __init__(self, *, power=1): self.power = power
    def _fit(self, X, y, validation): self.power = 2


class WritesIntoItsInput(Good):
    def _fit(self, X, y, validation): X[0, 0] += 1


class CopiesItsParameter(Good):
    def __init__(self, *, layers=(1, 2)): self.layers = list(layers)


class FittedAtBirth(Good):
    def __init__(self): self.seen_ = 0


class Dice(Good):
    def _fit(self, X, y, validation): self.noise_ = np.random.default_rng().normal()
    def _score(self, X): return getattr(self, "noise_", 0) - X[:, 0].astype(float)


class Squeezed(Good):
    def decision_function(self, X): return super().decision_function(X).squeeze()


class WholeNumbers(Good):
    def decision_function(self, X): return (100 * super().decision_function(X)).round().astype(int)


class HolesInTheQuality(Good):
    def predict_quality(self, X):
        quality = super().predict_quality(X)
        quality[X[:, 0] > 1, 0] = np.nan
        return quality


class Place(Good):
    def _score(self, X): return .01 * np.arange(len(X)) - X[:, 0].astype(float)


class LargestOfTheBatch(Good):
    "Shrinks all queries by the longest of them, once it is longer than any seen in training."
    def _fit(self, X, y, validation): self.longest_ = float(np.abs(X).max())
    def _score(self, X): return -X[:, 0].astype(float) / max(1, np.abs(X).max() / getattr(self, "longest_", 1e9))


class SizeOfTheBatch(Good):
    def _score(self, X): return np.log(len(X)) - X[:, 0].astype(float)


class RoutesInColumns(Good):
    def route(self, X, trade_off=0.): return super().route(X, trade_off)[:, None]


class PaysAnything(Good):
    def route(self, X, trade_off=0.):
        super().route(X, trade_off)
        return super().route(X)


class ForgetsWhenSaved(Good):
    def _fit(self, X, y, validation): self.hidden = 3.
    def _score(self, X): return -X[:, 0] * getattr(self, "hidden", 1.)


class ParameterLikeNoOther(Good):
    "NaN is not equal to itself, so that a loaded router is another router."
    def __init__(self, *, power=float("nan")): self.power = power


class Reversed(Good):
    def _score(self, X): return X[:, 0].astype(float)


class ProbabilitiesBelowOne(Good):
    def predict_proba(self, X): return .9 * super().predict_proba(X)


class ProbabilityFalls(Good):
    def predict_proba(self, X): return super().predict_proba(X)[:, ::-1]


class ThresholdReturnsNothing(Good):
    def choose_threshold(self, *data, **options): super().choose_threshold(*data, **options)


class AlwaysLarge(Good):
    def decide(self, X): return super().decide(X) | True


class KeepsOneBack(Good):
    def decide(self, X):
        score = self.decision_function(X)
        return super().decide(X) & (score > score.min())


class FillsGaps(Good):
    def fit(self, X, outcomes, **options):
        known = copy.copy(outcomes) if hasattr(outcomes, "score") else SimpleNamespace(score=outcomes)
        known.score = np.nan_to_num(known.score)
        return super().fit(X, known, **options)


class GapsInTheMean(PoolRouter):
    feature_kind = "embedding"
    def _fit(self, X, scores, validation): self.table_ = scores.mean(0)
    def _predict(self, X): return np.tile(self.table_, (len(X), 1))


class CutsToLength(Good):
    def fit(self, X, outcomes, **options): return super().fit(X[:len(getattr(outcomes, "score", outcomes))], outcomes, **options)


class NoLookAtIds(Good):
    def fit(self, X, outcomes, *, query_ids=None, **options): return super().fit(X, outcomes, **options)


class ContentWithNothing(Good):
    def fit(self, X, outcomes, **options): return super().fit(X, outcomes, **options) if len(X) else self


class GuessesBeforeFit(Good):
    def predict_quality(self, X): return super().predict_quality(X) if hasattr(self, "platt_") else np.full((len(X), 2), .5)


class TakesAnyPrice(Good):
    def route(self, X, trade_off=0.): return super().route(X, max(trade_off, 0.))


class OneClassWillDo(Good):
    def fit(self, X, outcomes, **options): return super().fit(X, outcomes, **options) if not len(X) or np.ptp(np.nan_to_num(getattr(outcomes, "score", outcomes), nan=2)) else self


class FirstTwoModels(Good):
    def fit(self, X, outcomes, **options): return super().fit(X, outcomes if hasattr(outcomes, "score") else np.asarray(outcomes)[:, :2], **options)


class DecidesAnyway(Good):
    def decide(self, X): return self.decision_function(X) >= getattr(self, "threshold_", 0.)


class NanInFit(Good):
    def fit(self, X, outcomes, **options): return super().fit(np.nan_to_num(X), outcomes, **options)


class NanInUse(Good):
    def decision_function(self, X): return super().decision_function(np.nan_to_num(X))


class AnyWidth(Good):
    def decision_function(self, X): return super().decision_function(np.pad(X, [(0, 0), (0, 8 - X.shape[1])]))


WRONG = {
    "fit_returns_itself": ReturnsNothing, "fit_keeps_parameters": ChangesItsParameter, "input_is_kept": WritesIntoItsInput, "clones": CopiesItsParameter,
    "starts_unfitted": FittedAtBirth, "is_deterministic": Dice, "one_score_per_query": Squeezed, "scores_are_finite": WholeNumbers,
    "quality_is_finite": HolesInTheQuality, "row_order_does_not_matter": Place, "other_queries_do_not_matter": LargestOfTheBatch,
    "batch_does_not_matter": SizeOfTheBatch, "route_gives_indices": RoutesInColumns, "cost_falls_with_the_trade_off": PaysAnything,
    "saving_keeps_scores": ForgetsWhenSaved, "saving_keeps_parameters": ParameterLikeNoOther, "high_means_large": Reversed,
    "probabilities_sum_to_one": ProbabilitiesBelowOne, "probability_rises_with_the_score": ProbabilityFalls,
    "choose_threshold_returns_itself": ThresholdReturnsNothing, "call_rate_is_kept": AlwaysLarge, "call_rate_of_one_sends_all": KeepsOneBack,
    "missing_score_is_refused": FillsGaps, "missing_score_is_masked": GapsInTheMean, "lengths_must_agree": CutsToLength, "query_ids_must_agree": NoLookAtIds,
    "no_query_is_refused": ContentWithNothing, "prediction_needs_fit": GuessesBeforeFit, "negative_trade_off_is_refused": TakesAnyPrice,
    "one_class_is_refused": OneClassWillDo, "third_model_is_refused": FirstTwoModels, "decision_needs_a_threshold": DecidesAnyway,
    "nan_feature_is_refused_in_fit": NanInFit, "nan_feature_is_refused_in_use": NanInUse, "other_width_is_refused": AnyWidth}


def broken(router):
    found = []
    for name, check in router_checks(router):
        try: check()
        except AssertionError: found.append(name)
    return found


def test_a_right_router_breaks_no_rule(): assert broken(Good()) == []


def test_every_rule_has_its_wrong_class(): assert [holds.__name__ for _, _, holds in _RULES] == list(WRONG)


@pytest.mark.parametrize("rule", WRONG)
def test_a_wrong_class_is_caught_by_its_rule_and_by_no_other(rule): assert broken(WRONG[rule]()) == [rule]


@pytest.mark.parametrize("rule", ["fit_keeps_parameters", "row_order_does_not_matter", "other_width_is_refused"])
def test_the_message_names_class_and_rule(rule):
    words = {holds.__name__: text for text, _, holds in _RULES}[rule]
    with pytest.raises(AssertionError) as caught: check_router(WRONG[rule]())
    assert f"{WRONG[rule].__name__} breaks the rule: {words}" in str(caught.value)


def test_two_mistakes_are_two_findings():
    class Both(Reversed, DecidesAnyway): pass
    assert broken(Both()) == ["high_means_large", "decision_needs_a_threshold"]


def test_an_unexpected_error_is_told_with_the_rule():
    class Crashes(Good):
        def _fit(self, X, y, validation): raise ZeroDivisionError("no reason")
    with pytest.raises(AssertionError, match="Crashes breaks the rule: fit returns the router itself; ZeroDivisionError: no reason"): check_router(Crashes())


def test_making_the_checks_fits_nothing():
    class Counts(Good):
        fits = 0
        def _fit(self, X, y, validation): type(self).fits += 1
    checks = list(router_checks(Counts()))
    assert Counts.fits == 0
    for _, check in checks: check()
    assert Counts.fits <= 4, "the rules share one fit; only determinism and gaps need another"


def test_a_router_with_a_knob_of_its_own_is_not_priced():
    class Knob(Good):
        knob = "threshold"
    assert {name for name, _ in router_checks(Good())} - {name for name, _ in router_checks(Knob())} == {"cost_falls_with_the_trade_off", "negative_trade_off_is_refused"}
