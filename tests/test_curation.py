"Curation against plain loops: every diagnostic restated one query, task and model at a time; properties; bad input."
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routercompanion import curation as c
from routercompanion.core import UnknownNameError
from routercompanion.data.outcomes import DuplicateIdError, OutcomeTable

settings.register_profile("curation", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("curation")
nan = float("nan")


def accuracies(seed, tasks=6, models=5, missing=.15, levels=10):
    "Coarse accuracies (ties occur), some missing, no task without any."
    rng = np.random.default_rng(seed)
    a = rng.integers(0, levels + 1, (tasks, models)) / levels
    a[rng.random(a.shape) < missing] = nan
    a[np.isnan(a).all(1), 0] = .5
    return a


def labels(seed, n=60, m=6, missing=0., density=.5):
    rng = np.random.default_rng(seed)
    x = (rng.random((n, m)) < density).astype(float)
    x[rng.random(x.shape) < missing] = nan
    return x


def outcomes(seed=0, n=240, m=4, missing=0., split=None):
    rng = np.random.default_rng(seed)
    return OutcomeTable(labels(seed, n, m, missing), {"params_b": [1, 2, 4, 8][:m], "usd": rng.random((n, m))}, [f"q{i}" for i in range(n)],
                        [f"m{j}" for j in range(m)], task=np.array([f"t{i % 6}" for i in range(n)]), split=split)


# ---- ranks

def rank_by_loop(a):
    out = []
    for j in range(a.shape[1]):
        ranks = []
        for row in a:
            if np.isnan(row[j]): continue
            better, equal = sum(x > row[j] for x in row), sum(x == row[j] for x in row)
            ranks.append(better + (1 + equal) / 2)
        out.append(sum(ranks) / len(ranks) if ranks else nan)
    return out


@given(st.integers(0, 10**6))
def test_average_rank_is_the_loop(seed):
    a = accuracies(seed)
    assert np.allclose(c.average_rank(a), rank_by_loop(a), equal_nan=True)


@given(st.integers(0, 10**6))
def test_average_rank_follows_models_and_ignores_the_order_of_tasks_and_the_unit(seed):
    a, rng = accuracies(seed), np.random.default_rng(seed)
    models, tasks = rng.permutation(5), rng.permutation(6)
    assert np.allclose(c.average_rank(100 * a[tasks][:, models] - 3), c.average_rank(a)[models], equal_nan=True)


def test_average_rank_by_hand():
    assert c.average_rank([[.9, .5, .5], [.2, .7, nan]]).tolist() == [1.5, 1.75, 2.5]
    assert np.isnan(c.average_rank([[.5, nan]])[1]), "a model without outcomes has no rank"
    assert c.average_rank([[.1, .2, .3]] * 4).tolist() == [3, 2, 1], "dominance is rank 1"


# ---- specialist score

def specialist_by_loop(a, costs, generalist, budgets):
    n, m = a.shape
    costs = [0.] * m if costs is None else list(costs)
    budgets = sorted(set(costs)) if budgets is None else budgets
    means = [np.mean([x for x in a[:, j] if x == x]) if (a[:, j] == a[:, j]).any() else -np.inf for j in range(m)]
    out = []
    for t in range(n):
        gaps = []
        for b in budgets:
            inside = [j for j in range(m) if costs[j] <= b]
            if not inside: continue
            g = max(inside, key=lambda j: means[j]) if generalist is None else generalist
            others = [a[t, j] for j in inside if j != g and a[t, j] == a[t, j]]
            if others and a[t, g] == a[t, g]: gaps.append(max(others) - a[t, g])
        out.append(np.mean(gaps) if gaps else nan)
    return out


@given(st.integers(0, 10**6), st.sampled_from([None, 0, 3]), st.booleans(), st.booleans())
def test_specialist_score_is_the_loop(seed, generalist, with_costs, with_budgets):
    a, rng = accuracies(seed), np.random.default_rng(seed + 1)
    costs = rng.integers(1, 5, 5).astype(float) if with_costs else None
    budgets = sorted(rng.uniform(0, 6, 3).tolist()) if with_costs and with_budgets else None
    got = c.specialist_score(a, costs=costs, generalist=generalist, budgets=budgets)
    assert np.allclose(got, specialist_by_loop(a, costs, generalist, budgets), equal_nan=True)


@given(st.integers(0, 10**6))
def test_specialist_score_ignores_the_order_of_models(seed):
    a, order = np.random.default_rng(seed).random((6, 5)), np.random.default_rng(seed).permutation(5)
    costs = np.array([1, 2, 2, 4, 8.])
    assert np.allclose(c.specialist_score(a[:, order], costs=costs[order]), c.specialist_score(a, costs=costs), equal_nan=True)


@given(st.integers(0, 10**6), st.integers(0, 5))
def test_a_specialist_raises_the_score_of_its_task(seed, task):
    "Against a fixed generalist no score falls; on the specialist's own task it becomes the largest possible."
    a = np.random.default_rng(seed).uniform(.2, .8, (6, 5))
    new = np.column_stack([a, np.where(np.arange(6) == task, 1., a.mean(1))])
    before, after = c.specialist_score(a, generalist=1), c.specialist_score(new, generalist=1)
    assert (after >= before - 1e-12).all() and after[task] > before[task] and np.isclose(after[task], 1 - a[task, 1])


def test_specialist_score_edges():
    a = [[.5, .9], [.6, .2]]
    assert np.allclose(c.specialist_score(a), [.5 - .9 if np.mean([.5, .6]) < np.mean([.9, .2]) else .4, -.4]), "one budget, best mean"
    assert np.isnan(c.specialist_score([[.5], [.6]])).all(), "nobody beside the generalist"
    assert np.isnan(c.specialist_score(a, costs=[5, 6], budgets=[1])).all(), "nothing within the budget"
    assert np.allclose(c.specialist_score(a, costs=[1, 9], generalist=1, budgets=[1]), [-.4, .4]), "a fixed generalist keeps its accuracy where it is too dear"
    assert c.specialist_bands([-.1, 0, .049, .05, nan]) == {"negative": 1, "marginal": 2, "clear": 1, "undefined": 1}


def test_model_costs_are_means_of_what_is_known():
    t = outcomes(n=6)
    t.cost["usd"][:3, 0], t.cost["usd"][:, 1] = nan, nan
    got = c.model_costs(t, "usd")
    assert np.isclose(got[0], np.mean([float(x) for x in t.cost["usd"][3:, 0]])) and np.isnan(got[1]) and c.model_costs(t, "params_b").tolist() == [1, 2, 4, 8]
    with pytest.raises(UnknownNameError, match="tokens"): c.model_costs(t, "tokens")


@pytest.mark.parametrize("call, message", [
    (lambda: c.specialist_score([[.5, 1.5]]), r"row 0, column 1, is 1.5"), (lambda: c.specialist_score([.5, .5]), "shape"),
    (lambda: c.average_rank(np.zeros((0, 3))), "shape"), (lambda: c.average_rank([[np.inf, 1]]), "row 0, column 0"),
    (lambda: c.specialist_score([[.5, .5]], costs=[1]), "2 models"), (lambda: c.specialist_score([[.5, .5]], costs=[1, -2]), "row 1, is -2"),
    (lambda: c.specialist_score([[.5, .5]], costs=[1, nan]), "row 1"), (lambda: c.specialist_score([[.5, .5]], budgets=[1]), "without costs"),
    (lambda: c.specialist_score([[.5, .5]], costs=[1, 2], budgets=[]), "budgets"), (lambda: c.specialist_score([[.5, .5]], generalist=2), "generalist is 2"),
])
def test_bad_accuracies_are_named(call, message):
    with pytest.raises(c.CurationError, match=message): call()


@pytest.mark.parametrize("function", [c.average_rank, c.specialist_score])
def test_a_task_without_outcomes_is_an_empty_category(function):
    with pytest.raises(c.EmptyCategoryError, match="row 1"): function([[.5, .5], [nan, nan]])


# ---- categories

def test_category_similarity_is_the_loop():
    rng = np.random.default_rng(0)
    e, cat = rng.normal(size=(40, 7)) * rng.uniform(.1, 9, (40, 1)), rng.choice(list("abcd"), 40)
    got = c.category_similarity(e, cat)
    for x in "abcd":
        for y in "abcd":
            means = []
            for z in (x, y):
                rows = [v / sum(v * v) ** .5 for v, k in zip(e, cat) if k == z]
                means.append(sum(rows) / len(rows))
            assert np.isclose(got.loc[x, y], means[0] @ means[1] / (np.linalg.norm(means[0]) * np.linalg.norm(means[1])))
    order = rng.permutation(40)
    assert np.allclose(c.category_similarity(e[order], cat[order]), got)


def test_category_similarity_edges():
    cancelled = c.category_similarity([[1, 0], [-1, 0], [0, 1]], list("aab"))
    assert np.isnan(cancelled.loc["a", "b"]) and cancelled.loc["b", "b"] == 1
    with pytest.raises(c.EmptyCategoryError, match="'z'"): c.category_similarity(np.eye(2), list("ab"), names=["a", "z"])
    with pytest.raises(c.CurationError, match="categories has shape"): c.category_similarity(np.eye(2), list("abc"))
    with pytest.raises(c.CurationError, match="row 1"): c.category_similarity([[1, 0], [nan, 1]], list("ab"))


def test_similar_categories_stand_side_by_side_and_one_stands_for_them():
    e = np.repeat(np.eye(4), 5, axis=0) + .01 * np.random.default_rng(0).normal(size=(20, 4))
    cat = np.array(["a1", "b", "a2", "c"])[np.arange(20) // 5]
    e[cat == "a2"] = e[cat == "a1"]
    similarity = c.category_similarity(e, cat)
    names = list(c.ordered_by_similarity(similarity))
    assert set(names) == set(cat) and abs(names.index("a1") - names.index("a2")) == 1
    assert c.redundant_categories(similarity, .99) == {"a2": "a1"}
    assert c.redundant_categories(similarity, .99, sizes={"a1": 2, "a2": 5, "b": 5, "c": 5}) == {"a1": "a2"}, "the largest stays"
    assert c.redundant_categories(similarity, 1.1) == {}


# ---- shared beginnings

@given(st.lists(st.tuples(st.sampled_from("xy"), st.text("ab\n", max_size=8)), min_size=1, max_size=8))
def test_shared_prefix_is_the_loop(rows):
    categories, prompts = zip(*rows)
    got, rest = c.shared_prefix(prompts, categories), c.without_shared_prefix(prompts, categories)
    for k in set(categories):
        part, best = [p for p, x in zip(prompts, categories) if x == k], ""
        for i in range(len(part[0]) + 1):
            text = part[0][:i]
            if (text == "" or text.endswith("\n")) and all(p.startswith(text) for p in part): best = text
        usable = len(part) > 1 and all(p[len(best):].strip() for p in part)
        assert got[k] == (best if usable else "")
    assert all(got[k] + r == p for k, p, r in zip(categories, prompts, rest))


def test_shared_prefix_is_whole_lines_and_leaves_a_query():
    shots = "Q: 1+1\nA: 2\n"
    assert c.shared_prefix([shots + "Q: 2+2", shots + "Q: 2+3", "other"], ["a", "a", "b"]) == {"a": shots, "b": ""}
    assert c.shared_prefix(["same\n", "same\n"], ["a", "a"]) == {"a": ""}, "nothing would be left"
    with pytest.raises(c.CurationError, match="categories has shape"): c.shared_prefix(["x"], ["a", "b"])


# ---- near duplicates

def copies(seed, n=120, d=20, extra=40, noise=.01):
    "Vectors of which some are noisy copies of others, so that chains occur near the threshold."
    rng = np.random.default_rng(seed)
    e = rng.normal(size=(n, d))
    return np.vstack([e, e[rng.integers(0, 12, extra)] + noise * rng.uniform(0, 6, (extra, 1)) * rng.normal(size=(extra, d))])


def groups_by_loop(e, threshold):
    unit = [v / sum(v * v) ** .5 for v in e]
    pairs = {(i, j) for i, j in combinations(range(len(e)), 2) if sum(unit[i] * unit[j]) >= threshold - 1e-9}
    parent = list(range(len(e)))
    def root(i):
        while parent[i] != i: i = parent[i]
        return i
    for i, j in pairs: parent[max(root(i), root(j))] = min(root(i), root(j))
    members = {}
    for i in range(len(e)): members.setdefault(root(i), []).append(i)
    return pairs, [g for _, g in sorted(members.items()) if len(g) > 1]


@pytest.mark.parametrize("threshold", [.999, .99, .9, .3, 1.])
@pytest.mark.parametrize("width", [4, 64])
def test_pairs_and_groups_are_the_loop(threshold, width):
    e = copies(int(1000 * threshold))
    e[5] = 3 * e[3]                                                     # length does not matter
    pairs, groups = groups_by_loop(e, threshold)
    found = [(int(i), int(j)) for a, b, _ in c.similar_pairs(e, threshold, width=width, rows=32, columns=48) for i, j in zip(a, b)]
    assert len(found) == len(set(found)) and set(found) == pairs and (3, 5) in pairs
    got = c.near_duplicates(e, threshold)
    assert [g.tolist() for g in got] == groups and got.n_pairs == len(pairs) and len(got) == len(groups)
    assert got.n_queries == sum(map(len, groups)) and all(got.label[i] == g[0] for g in groups for i in g)


def test_cosines_are_right_and_float32_input_is_enough():
    e = copies(1).astype(np.float32)
    unit = e.astype(float) / np.linalg.norm(e.astype(float), axis=1, keepdims=True)
    for i, j, cosine in c.similar_pairs(e, .9): assert np.allclose(cosine, (unit[i] * unit[j]).sum(1), atol=1e-12)


@given(st.integers(0, 10**6))
def test_groups_do_not_depend_on_order_or_rotation(seed):
    e, rng = copies(seed % 7, n=30, extra=15), np.random.default_rng(seed)
    order, rotation = rng.permutation(len(e)), np.linalg.qr(rng.normal(size=(20, 20)))[0]
    sets = lambda groups, names: {frozenset(names[g].tolist()) for g in groups}
    plain = sets(c.near_duplicates(e, .99), np.arange(len(e)))
    assert plain and sets(c.near_duplicates(e[order], .99), order) == plain == sets(c.near_duplicates(e @ rotation, .99), np.arange(len(e)))


def test_near_duplicate_edges():
    assert len(c.near_duplicates(np.eye(5), .999)) == 0 and str(c.near_duplicates(np.eye(5), .999)).startswith("0 groups")
    same = c.near_duplicates(np.ones((700, 3)), .999)
    assert len(same) == 1 and same.n_queries == 700 and same.n_pairs == 700 * 699 // 2
    assert c.near_duplicates([[1., 2.]], .5).groups == []
    for bad, message in (([[1, 0], [0, 0]], "row 1"), ([[nan, 1]], "row 0"), ([1., 2.], "shape"), (np.zeros((0, 3)), "shape")):
        with pytest.raises(c.CurationError, match=message): c.near_duplicates(bad, .9)
    for threshold in (1.1, -1, nan):
        with pytest.raises(c.CurationError, match="threshold"): c.near_duplicates(np.eye(2), threshold)


# ---- label disagreement and deduplication

def grouped(sizes):
    "DuplicateGroups with the given sizes, alone queries included, rows interleaved."
    order = np.random.default_rng(0).permutation(sum(sizes))
    label, at = np.empty(sum(sizes), int), 0
    for s in sizes: label[order[at:at + s]] = min(order[at:at + s]); at += s
    return c.DuplicateGroups(label, 0, .999)


@given(st.integers(0, 10**6), st.sampled_from([0., .3]))
def test_disagreement_is_the_loop(seed, missing):
    groups, x = grouped([3, 1, 2, 1, 5, 2, 1]), labels(seed, 15, 4, missing)
    got = c.label_disagreement(groups, x)
    known = lambda v: [a for a in v if a == a]
    for g, row in zip(groups, got.contradicts):
        for j in range(4):
            v = known(x[g, j])
            assert np.isnan(row[j]) if len(v) < 2 else row[j] == (len(set(v)) == 2)
    judged = [g for g in groups if any(len(known(x[g, j])) > 1 for j in range(4))]
    share = lambda hits: np.mean(hits) if len(hits) else nan
    assert np.isclose(got.within, share([any(len(set(known(x[g, j]))) == 2 for j in range(4)) for g in judged]), equal_nan=True)
    several = lambda parts: share([len(set(p)) == 2 for p in parts if len(p) > 1])
    assert np.isclose(got.across, several([known(x[g].ravel()) for g in groups]), equal_nan=True)
    assert np.isclose(got.across_single, several([known(row) for row in x]), equal_nan=True)
    for j in range(4):
        pairs = [(a, b) for g in groups for a, b in combinations(known(x[g, j]), 2)]
        assert np.isclose(got.mismatch[j], share([a != b for a, b in pairs]), equal_nan=True)
        assert np.isclose(got.base_mismatch[j], share([a != b for a, b in combinations(known(x[:, j]), 2)]), equal_nan=True)


def test_disagreement_edges():
    none = c.label_disagreement(grouped([1, 1, 1]), [[1, 0], [1, 1], [0, 0]])
    assert np.isnan(none.within) and np.isnan(none.across) and none.contradicts.shape == (0, 2) and np.isnan(none.mismatch).all()
    assert np.isclose(none.across_single, 1 / 3)
    with pytest.raises(c.CurationError, match="2 rows, the groups were made of 3"): c.label_disagreement(grouped([2, 1]), [[1], [0]])
    with pytest.raises(c.CurationError, match="row 1, column 0, is 0.5"): c.label_disagreement(grouped([2]), [[1], [.5]])


def test_one_of_each_group_stays_whatever_the_order():
    groups = grouped([3, 1, 2, 4, 1])
    ids = [f"id{i}" for i in range(11)]
    keep = c.deduplicate(groups, ids)
    assert keep.sum() == 5 and all(keep[g].sum() == 1 for g in groups)
    order = np.random.default_rng(1).permutation(11)
    first = {r: order[r] for r in range(11)}
    label = np.array([min(k for k in range(11) if groups.label[first[k]] == groups.label[first[r]]) for r in range(11)])
    moved = c.deduplicate(c.DuplicateGroups(label, 0, .999), [ids[i] for i in order])
    assert {ids[order[r]] for r in np.flatnonzero(moved)} == {ids[r] for r in np.flatnonzero(keep)}, "the id decides, not the row"
    among = np.arange(11) % 2 == 0
    part = c.deduplicate(groups, ids, among=among)
    assert part[~among].all() and all(part[g[among[g]]].sum() == min(1, among[g].sum()) for g in groups)


def test_duplicate_ids_are_named():
    with pytest.raises(c.DuplicateQueryError, match="'a' stands in rows 0 and 2"): c.deduplicate(grouped([2, 1]), list("aba"))
    with pytest.raises(c.CurationError, match="2 query ids"): c.deduplicate(grouped([2, 1]), list("ab"))
    with pytest.raises(DuplicateIdError): OutcomeTable([[1.], [0.]], {}, ["a", "a"], ["m"])


# ---- agreement

@given(st.integers(0, 10**6))
def test_agreement_is_the_loop(seed):
    rng = np.random.default_rng(seed)
    a, b, g = rng.integers(0, 3, 50), rng.integers(0, 3, 50), rng.choice(list("xyz"), 50)
    assert np.isclose(c.agreement(a, b), sum(x == y for x, y in zip(a, b)) / 50) and c.agreement(a, b) == c.agreement(b, a) and c.agreement(a, a) == 1
    by = c.agreement_by(a, b, g)
    for k in set(g): assert np.isclose(by[k], np.mean([x == y for x, y, z in zip(a, b, g) if z == k]))
    assert np.isclose(by["Overall"], sum(by[k] * (g == k).sum() for k in set(g)) / 50)
    rows = rng.integers(0, 3, (2, 4, 50))
    assert np.isclose(c.agreement(*rows), np.mean([c.agreement(x, y) for x, y in zip(*rows)])), "every budget counts the same"


@pytest.mark.parametrize("a, b, message", [([1, 2], [1], "shape"), ([], [], "shape"), ([1., nan], [1., 2.], "route_a, query 1"), ([["x"]], ["x"], "route the same")])
def test_bad_routes_are_named(a, b, message):
    with pytest.raises(c.CurationError, match=message): c.agreement(a, b)


# ---- pseudo-specialists

def test_pseudo_specialist_draws_as_stated():
    t = outcomes(n=12_000)
    new = c.pseudo_specialist(t, "t2", .9, rng=0)
    x = new.score[:, -1]
    assert set(np.unique(x)) == {0, 1} and new.models[:-1] == t.models and np.array_equal(new.score[:, :-1], t.score)
    for k in np.unique(t.task):
        p = .9 if k == "t2" else np.mean([np.mean([s for s, task in zip(t.score[:, j], t.task) if task == k]) for j in range(4)])
        assert abs(x[t.task == k].mean() - p) < 4 * (p * (1 - p) / 2000) ** .5
    assert np.allclose(new.cost["usd"][:, -1], t.cost["usd"].mean(1)) and (new.cost["params_b"][:, -1] == 3.75).all()
    assert new.metadata[new.models[-1]] == {"simulated": True, "task": "t2", "accuracy": .9} and "simulated" in new.provenance


def test_pseudo_specialist_is_seeded_and_looks_at_real_models_only():
    t = outcomes()
    one, again, other = (c.pseudo_specialist(t, "t0", .8, rng=s) for s in (3, 3, 4))
    assert one.equals(again) and not one.equals(other)
    two = c.pseudo_specialist(one, "t1", 1., rng=5)
    alone = c.pseudo_specialist(t, "t1", 1., rng=5)
    assert np.array_equal(two.score[:, -1], alone.score[:, -1]) and len(two.models) == 6 and np.allclose(two.cost["usd"][:, -1], alone.cost["usd"][:, -1])
    assert two.score[t.task == "t1", -1].all() and not c.pseudo_specialist(t, "t1", 0., rng=5).score[t.task == "t1", -1].any()
    rng = np.random.default_rng(9)
    assert not np.array_equal(c.pseudo_specialist(t, "t1", .5, rng).score[:, -1], c.pseudo_specialist(t, "t1", .5, rng).score[:, -1]), "a generator moves on"
    assert two.provenance.count("simulated") == 1 and two.provenance == "computed (with simulated pseudo-specialist t0, pseudo-specialist t1)"


def test_pseudo_specialist_bad_input():
    t = outcomes()
    with pytest.raises(UnknownNameError, match="t9"): c.pseudo_specialist(t, "t9", .9, 0)
    for a in (1.2, -.1, nan):
        with pytest.raises(c.CurationError, match="fraction"): c.pseudo_specialist(t, "t0", a, 0)
    t.score[t.task == "t3"] = nan
    with pytest.raises(c.EmptyCategoryError, match="t3"): c.pseudo_specialist(t, "t0", .9, 0)
    with pytest.raises(DuplicateIdError): c.pseudo_specialist(outcomes(), "t0", .9, 0, name="m1")


def test_missing_outcomes_and_costs_are_left_out_of_the_averages():
    t = outcomes(n=6000, missing=.3)
    t.cost["usd"][:10, :3], t.cost["usd"][10] = nan, nan
    new = c.pseudo_specialist(t, "t0", .9, 1)
    assert np.allclose(new.cost["usd"][:10, -1], t.cost["usd"][:10, 3]) and np.isnan(new.cost["usd"][10, -1]) and not np.isnan(new.score[:, -1]).any()


def test_targets_are_hard_tasks():
    t = outcomes(n=600)
    t.score[t.task == "t4"] = 0
    got = c.specialist_targets(t, min_share=.1)
    assert got.index[0] == "t4" and got.loc["t4"].tolist() == [1 / 6, 0, 0, 0, .25] and len(got) == 6
    for k, row in got.iterrows():
        means = [t.score[t.task == k, j].mean() for j in range(4)]
        assert np.allclose(row[["mean", "best", "gap", "pseudo"]], [np.mean(means), max(means), max(means) - np.mean(means), min(1, max(means) + .25)], atol=1e-6)
    assert len(c.specialist_targets(t, min_share=.2)) == 0


# ---- Jaccard and pruning

def jaccard_by_loop(x):
    m = x.shape[1]
    out = np.empty((m, m))
    for i in range(m):
        for j in range(m):
            rows = [(a, b) for a, b in zip(x[:, i], x[:, j]) if a == a and b == b]
            both, either = sum(a == 1 and b == 1 for a, b in rows), sum(a == 1 or b == 1 for a, b in rows)
            out[i, j] = both / either if either else nan
    return out


@given(st.integers(0, 10**6), st.sampled_from([0., .3]), st.sampled_from([.05, .5]))
def test_jaccard_is_the_loop(seed, missing, density):
    x = labels(seed, 25, 5, missing, density)
    assert np.allclose(c.jaccard_similarity(x), jaccard_by_loop(x), equal_nan=True)


@given(st.integers(0, 10**6))
def test_jaccard_properties(seed):
    x, rng = labels(seed, 40, 5).astype(bool), np.random.default_rng(seed)
    x[0] = True
    S, queries, models = c.jaccard_similarity(x), rng.permutation(40), rng.permutation(5)
    assert np.allclose(c.jaccard_similarity(x[queries][:, models]), S[models][:, models]) and np.array_equal(S, S.T)
    assert np.allclose(np.diag(S), 1) and (S >= 0).all() and (S <= 1).all()
    twin = c.jaccard_similarity(np.column_stack([x, x[:, 0]]))
    assert twin[0, -1] == 1 and np.allclose(twin[0, :-1], twin[-1, :-1])
    assert np.array_equal(c.jaccard_similarity(x.astype(float)), S)


def test_jaccard_of_a_model_that_is_never_right():
    S = c.jaccard_similarity([[0, 0, 1], [0, 0, 1]])
    assert np.isnan(S[:2, :2]).all() and (S[2] == [0, 0, 1]).all()


def prune_by_loop(x, keep, lam):
    S, left, gone = jaccard_by_loop(x), list(range(x.shape[1])), []
    while len(left) > keep:
        scores = []
        for i in left:
            sims = [S[i, j] for j in left if j != i and S[i, j] == S[i, j]]
            scores.append(lam * np.nanmean(x[:, i]) - (1 - lam) * (np.mean(sims) if sims else 0))
        k = next(k for k, s in enumerate(scores) if s <= min(scores) + 1e-9)
        gone.append(left.pop(k))
    return left, gone


@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([0., .3, .5, 1.]), st.sampled_from([0., .3]))
def test_pruning_is_the_loop(seed, keep, lam, missing):
    x = labels(seed, 40, 6, missing)
    got = c.pruning_path(x, keep, lam)
    assert (got.kept.tolist(), got.removed.tolist()) == prune_by_loop(x, keep, lam) and got.kept.tolist() == c.prune_models(x, keep, lam).tolist()


@given(st.integers(0, 10**6))
def test_pruning_follows_models(seed):
    x, order = labels(seed, 200, 6), np.random.default_rng(seed).permutation(6)
    assert set(order[c.prune_models(x[:, order], 3, .4)]) == set(c.prune_models(x, 3, .4))
    assert set(c.prune_models(x, 2, .4)) <= set(c.prune_models(x, 4, .4)), "greedy: smaller pools are nested"


def test_a_twin_goes_before_a_model_that_is_different():
    lead = labels(0, 100, 1, density=.7)
    x = np.column_stack([lead, lead, labels(1, 100, 1, density=.4)])
    assert c.prune_models(x, 2, .4).tolist() == [1, 2] and c.prune_models(x, 2, 1).tolist() == [0, 1]


def test_pruning_to_models_that_are_never_right():
    assert c.prune_models(np.zeros((3, 3)), 1, .5).tolist() == [2], "all equal, undefined similarity: the first go"


@pytest.mark.parametrize("x, keep, lam, message", [([[1, 0]], 0, .5, "keep is 0"), ([[1, 0]], 3, .5, "from 1 to 2"), ([[1, 0]], 1.5, .5, "keep"), ([[1, 0]], 1, 2, "lam"),
                                                   ([[1, .5]], 1, .5, "row 0, column 1, is 0.5"), ([1, 0], 1, .5, "shape"), ([[1, nan]], 1, .5, "column 1")])
def test_bad_pruning_input_is_named(x, keep, lam, message):
    with pytest.raises(c.CurationError, match=message): c.prune_models(x, keep, lam)


# ---- hold-outs and remaster

def test_hold_out():
    cat = ["mmlu_law", "mmlu_math", "gsm8k", "asdiv"]
    assert c.hold_out(cat, "gsm8k").tolist() == [False, False, True, False]
    assert c.hold_out(cat, ["mmlu_*", "asdiv"]).tolist() == [True, True, False, True]
    assert c.hold_out(["a[1]", "a1"], "a[1]").tolist() == [True, False], "a name is a name before it is a pattern"
    with pytest.raises(c.EmptyCategoryError, match="'piqa'"): c.hold_out(cat, ["gsm8k", "piqa"])
    with pytest.raises(c.CurationError, match="nothing is left"): c.hold_out(cat, "*")
    with pytest.raises(c.CurationError, match="held is empty"): c.hold_out(cat, [])


@pytest.fixture
def everything():
    t = outcomes(n=240, missing=.05)
    e = np.random.default_rng(0).normal(size=(240, 16))
    e[1::12] = 2 * e[::12]
    return t, e, c.remaster(t, e, tasks=4, cost="params_b", keep_models=3, lam=.4, specialists={"t0": .9}, held_out=["t2"], rng=7)


def test_remaster_composes_the_steps(everything):
    t, e, new = everything
    keep = c.deduplicate(c.near_duplicates(e, .999), t.query_ids)
    assert keep.sum() == 220
    a = t.subset(keep)
    table = a.accuracy_by("task")
    best = table.index[np.argsort(-c.specialist_score(table, costs=[1, 2, 4, 8]), kind="stable")[:4]]
    assert {"t0", "t2"} <= set(best), "the tasks used below are among them"
    a = a.subset(np.isin(a.task, best))
    a = a.select([a.models[j] for j in c.prune_models(a.score, 3, .4)])
    a = c.pseudo_specialist(a, "t0", .9, np.random.default_rng(7))
    assert np.array_equal(new.outcomes.score, a.score, equal_nan=True) and new.outcomes.models == a.models and np.array_equal(new.outcomes.query_ids, a.query_ids)
    assert np.array_equal(t.query_ids[new.rows], a.query_ids) and np.array_equal(new.embeddings, e[new.rows])
    assert ((new.outcomes.split == "ood") == (a.task == "t2")).all() and set(new.outcomes.split) == {"train", "test", "ood"}


def test_the_card_says_what_happened(everything):
    t, _, new = everything
    card, text = new.card, new.card.to_markdown()
    assert [s.action.split()[0] for s in card.steps] == ["remove", "keep", "prune", "add", "hold"]
    assert card.steps[0].queries == (240, 220) and len(card.steps[1].removed) == 2 and card.steps[2].models == (4, 3) and card.steps[3].added == ["pseudo-specialist t0"]
    for a, b in zip(card.steps, card.steps[1:]): assert (a.queries[1], a.models[1], a.tasks[1]) == (b.queries[0], b.models[0], b.tasks[0])
    assert card.missing == np.isnan(new.outcomes.score).sum() > 0 and sum(card.splits.values()) == len(new.outcomes)
    assert all(w in text for w in ("240 → 220", "`pseudo-specialist t0`", "computed", "20 groups", "all rows", *card.steps[1].removed, *card.steps[2].removed))
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_remaster_is_repeatable_and_does_nothing_unasked(everything):
    t, e, new = everything
    again = c.remaster(t, e, tasks=4, cost="params_b", keep_models=3, lam=.4, specialists={"t0": .9}, held_out=["t2"], rng=7)
    assert again.outcomes.equals(new.outcomes) and again.card == new.card
    assert np.array_equal(c.remaster(t, held_out="t2").outcomes.split == "ood", t.task == "t2"), "one name need not be a list"
    plain = c.remaster(t)
    assert np.array_equal(plain.outcomes.score, t.score, equal_nan=True) and plain.embeddings is None and "not checked" in plain.card.to_markdown()
    assert len(plain.card.steps) == 1 and set(plain.outcomes.split) == {"train", "test"}
    assert t.split is None and t.models == [f"m{j}" for j in range(4)], "the old table is as it was"


def test_choices_are_made_on_the_training_rows():
    split = np.where(np.arange(240) < 120, "train", "test")
    t = outcomes(split=split)
    other = outcomes(split=split)
    other.score[120:] = 1 - other.score[120:]
    one, two = (c.remaster(x, tasks=3, keep_models=2, lam=.5) for x in (t, other))
    assert one.outcomes.models == two.outcomes.models and np.array_equal(one.rows, two.rows) and one.card.chosen_on == "the training rows"
    assert np.array_equal(one.outcomes.split, split[one.rows]), "the split stays"


def test_a_task_can_disappear_with_its_duplicates():
    t = OutcomeTable([[1., 0], [0, 1], [1, 1]], {}, list("abc"), ["m", "n"], task=np.array(["x", "y", "z"]))
    new = c.remaster(t, [[1., 0], [1, 0], [0, 1]])
    assert len(new.outcomes) == 2 and len(new.card.steps[0].removed) == 1 and new.card.steps[0].removed[0] in {"x", "y"}
    with pytest.raises(c.EmptyCategoryError): c.remaster(t, [[1., 0], [1, 0], [0, 1]], held_out=new.card.steps[0].removed)


@pytest.mark.parametrize("kwargs, message", [({"by": "domain"}, "no column 'domain'"), ({"embeddings": np.eye(3)}, "3 embeddings for 240"), ({"tasks": 9}, "from 1 to 6"),
                                             ({"keep_models": 5}, "from 1 to 4"), ({"held_out": ["zz"]}, "'zz'"), ({"cost": "tokens", "tasks": 2}, "Unknown cost"),
                                             ({"specialists": {"zz": .5}}, "Unknown task")])
def test_remaster_bad_input(kwargs, message):
    with pytest.raises((c.CurationError, UnknownNameError), match=message): c.remaster(outcomes(), **kwargs)
