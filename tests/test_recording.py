"""Recording: answers are kept task by task, records hold no text, a recheck finds planted flips. A small deterministic stand-in answers; no weights are needed."""
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from routercompanion.data import records
from routercompanion.judging import recording
from routercompanion.data.bank import make_bank
from routercompanion.core import CompanionError
from routercompanion.models.causal_lm import Generations
from routercompanion.data.outcomes import OutcomeTable
from routercompanion.data.records import (
    SignalFileError, recorded_outcomes, recorded_signals, save_signals,
)
from routercompanion.features.of_bank import bank_features
from routercompanion.judging.recording import answer_bank, outcomes_of, recheck, record_models
from routercompanion.models.causal_lm import LARGE, MODELS, SMALL
from routercompanion.studies.xbench import pilot_table

SECRET = "xylophone"   # a word of the prompts and answers that no record may hold


class StandIn:
    "Answers with `right` references for part of the queries; counts what it is asked and can break down at a task."
    def __init__(self, name=SMALL, hash="a" * 64, break_at=None, stride=3):
        self.name, self.hash, self.dtype, self.parameters_b, self.asked, self.break_at, self.stride = name, hash, torch.float32, .135, [], break_at, stride

    def generate(self, bank, *, max_new_tokens):
        task, = bank.table.task.unique()
        if task == self.break_at: raise KeyboardInterrupt
        self.asked.append((task, len(bank), max_new_tokens))
        numbers = [int(q, 16) for q in bank.query_ids]
        text = [r[0] if n % self.stride else f"{SECRET} {n}" for n, r in zip(numbers, bank.table.references)]
        return Generations(text, *(np.array([n % k + 1 for n in numbers], t) for n_, k, t in ((0, 90, np.int32), (0, 9, np.int32), (0, 7, np.float32))))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTERCOMPANION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ROUTERCOMPANION_QUIET", "1")


def a_bank(n=60, shots="shots of "):
    rows = [dict(prompt=f"\n{SECRET} number {i}?", references=[f"the {i}th"], task="cab"[i % 3], domain="dom" + "xy"[i % 2], source="made here", split=("train", "test")[i % 2])
            for i in range(n)]
    return make_bank(rows, {t: shots + t for t in "abc"}, "mine")


def truth(bank, stride=3): return np.array([int(q, 16) % stride > 0 for q in bank.query_ids], np.float32)


def test_answers_come_in_the_order_of_the_bank_and_are_judged():
    bank, lm = a_bank(), StandIn()
    answers = answer_bank(lm, bank, max_new_tokens=5)
    assert list(answers.query_id) == list(bank.query_ids) and np.array_equal(answers.score, truth(bank)) and 0 < truth(bank).mean() < 1
    assert lm.asked == [("a", 20, 5), ("b", 20, 5), ("c", 20, 5)]
    assert list(answers.tokens_in) == [int(q, 16) % 90 + 1 for q in bank.query_ids] and np.allclose(answers.seconds, [int(q, 16) % 7 + 1 for q in bank.query_ids])


def test_an_interrupted_run_goes_on_with_the_next_task():
    bank, whole = a_bank(), answer_bank(StandIn(), a_bank(), cache=False)
    first = StandIn(hash="b" * 64, break_at="b")
    with pytest.raises(KeyboardInterrupt): answer_bank(first, bank)
    second, third = StandIn(hash="b" * 64), StandIn(hash="b" * 64)
    assert answer_bank(second, bank).equals(whole) and answer_bank(third, bank).equals(whole)
    assert [t for t, *_ in first.asked] == ["a"] and [t for t, *_ in second.asked] == ["b", "c"] and third.asked == []


@pytest.mark.parametrize("change", ["weights", "number type", "tokens", "shots", "queries", "no cache"])
def test_what_changes_an_answer_changes_its_address(change):
    answer_bank(StandIn(), a_bank())
    lm = StandIn(hash="c" * 64 if change == "weights" else "a" * 64)
    if change == "number type": lm.dtype = torch.bfloat16
    bank = a_bank(shots="other shots of " if change == "shots" else "shots of ").take(np.arange(57 if change == "queries" else 60))
    answer_bank(lm, bank, max_new_tokens=3 if change == "tokens" else 16, cache=change != "no cache")
    assert [t for t, *_ in lm.asked] == ["a", "b", "c"]


def test_a_task_keeps_its_answers_when_another_one_grows():
    bank = a_bank()
    answer_bank(StandIn(), bank)
    lm = StandIn()
    answer_bank(lm, bank.take(np.flatnonzero((bank.table.task != "b") | (np.arange(60) < 30))))
    assert [t for t, *_ in lm.asked] == ["b"]


def test_a_broken_cache_file_is_named(tmp_path):
    answer_bank(StandIn(), a_bank())
    path = sorted((tmp_path / "cache" / "answers").rglob("*.jsonl"))[0]
    path.write_text(path.read_text()[:-20])
    with pytest.raises(CompanionError, match=f"{path.name}, row 20: it ends in the middle"): answer_bank(StandIn(), a_bank())


def everything_in(path):
    "All that a parquet file says, as one text: names, metadata and values."
    table = pq.read_table(path)
    return json.dumps([str(table.schema), {str(k): str(v) for k, v in (table.schema.metadata or {}).items()}, table.to_pydict()], default=str)


def test_a_record_holds_no_text(tmp_path):
    bank, lm = a_bank(), StandIn()
    answers = answer_bank(lm, bank)
    assert answers.text.str.contains(SECRET).any()
    outcomes = outcomes_of(lm, bank, answers)
    outcomes.to_parquet(tmp_path / "o.parquet")
    found = everything_in(tmp_path / "o.parquet")
    assert SECRET not in found and "shots of" not in found and not any(r[0] in found for r in bank.table.references) and bank.query_ids[7] in found
    assert outcomes.prompts is None and SECRET.encode() not in (tmp_path / "o.parquet").read_bytes()


def test_a_record_says_scores_costs_and_model():
    bank, lm = a_bank(), StandIn()
    answers = answer_bank(lm, bank)
    o = outcomes_of(lm, bank, answers)
    assert np.array_equal(o.score[:, 0], truth(bank)) and o.models == [SMALL] and list(o.query_ids) == list(bank.query_ids)
    assert np.array_equal(o.cost["tokens"][:, 0], answers.tokens_in + answers.tokens_out) and np.allclose(o.cost["latency_s"][:, 0], answers.seconds)
    assert np.allclose(o.cost["params_b"], .135) and o.metadata[SMALL]["weights_sha256"] == "a" * 64 and o.metadata[SMALL]["dtype"] == "float32"
    assert o.metadata[SMALL]["licence"] == "Apache-2.0" and list(o.task) == list(bank.table.task) and list(o.split) == list(bank.table.split) and list(o.domain) == list(bank.table.domain)


@pytest.mark.parametrize("planted", [0, 1, 7, 60])
def test_a_recheck_finds_the_planted_flips(planted):
    bank, lm = a_bank(), StandIn()
    o = outcomes_of(lm, bank, answer_bank(lm, bank))
    rows = np.random.default_rng(1).permutation(60)[:planted]
    o.score[rows] = 1 - o.score[rows]
    before = len(lm.asked)
    found = recheck(lm, bank, o, fraction=1.)
    assert found.rate == planted / 60 and found.gained == int((truth(bank)[rows] == 1).sum()) and found.lost == planted - found.gained and found.low <= found.rate <= found.high
    assert len(lm.asked) == before + 3   # it answered again, and did not read the cache


def test_a_recheck_asks_a_random_part_only_and_the_seed_chooses_it():
    bank, lm = a_bank(), StandIn()
    o = outcomes_of(lm, bank, answer_bank(lm, bank))
    o.score[:20] = 1 - o.score[:20]
    asked, parts = [], []
    lm.generate = lambda part, generate=lm.generate, **k: (asked.extend(part.query_ids), generate(part, **k))[1]
    for seed in (1, 1, 2):
        asked.clear()
        found = recheck(lm, bank, o, fraction=.25, rng=seed)
        parts.append(sorted(asked))
        planted = set(bank.query_ids[:20])
        assert found.n == len(asked) == 15 and found.rate == len(planted & set(asked)) / 15
    assert parts[0] == parts[1] != parts[2]


def test_recorded_outcomes_are_read_from_the_project_in_the_order_of_the_bank(tmp_path, monkeypatch):
    (tmp_path / "nbs").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setenv("ROUTERCOMPANION_ROOT", str(tmp_path))
    bank = a_bank()
    monkeypatch.setattr(recording, "load_causal_lm", lambda name: StandIn(name, hash=name[0] * 64, stride=3 if name == SMALL else 5))
    merged = record_models(bank, (SMALL, LARGE), records.outcomes_path())
    assert (tmp_path / "data" / "outcomes" / "embedded.parquet").is_file() and merged.models == [SMALL, LARGE]
    everything = recorded_outcomes()
    assert list(everything.query_ids) == list(bank.query_ids) and np.array_equal(everything.score, merged.score) and everything.provenance.startswith("recorded")
    rows = np.random.default_rng(0).permutation(60)[:25]
    part = recorded_outcomes(bank.take(rows))
    assert list(part.query_ids) == list(bank.query_ids[rows]) and np.array_equal(part.score, np.stack([truth(bank)[rows], truth(bank, 5)[rows]], 1))
    assert all(np.array_equal(part.cost[k], merged.cost[k][rows]) for k in merged.cost) and part.metadata == merged.metadata
    stranger = make_bank([dict(prompt="who?", references=["I"], task="z", domain="d", source="s", split="test")])
    with pytest.raises(CompanionError): recorded_outcomes(stranger)


def test_the_pilot_table_says_accuracy_and_reason():
    from routercompanion.data.banks.embedded import TASKS
    some = [TASKS[0].name, next(t.name for t in TASKS if t.left_out)]
    n = 50
    score = np.zeros((2 * n, 3), np.float32)
    score[:n // 2, 0] = score[:45, 2] = score[n:n + 2, 2] = 1
    o = OutcomeTable(score, {}, np.array([f"q{i}" for i in range(2 * n)]), list(MODELS), task=np.repeat(some, n))
    table = pilot_table(o).set_index("task")
    assert set(table.index) == set(some) and table.loc[some[0], SMALL] == .5 and table.loc[some[0], LARGE] == .9 and table.loc[some[1], LARGE] == .04
    assert table.loc[some[0], "left_out"] == "" and table.loc[some[1], "left_out"] != ""


# ---------- recorded signals ----------

@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "nbs").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setenv("ROUTERCOMPANION_ROOT", str(tmp_path))
    return tmp_path / "data" / "outcomes"


def some_signals(bank): return dict(self_ask=np.linspace(0, 1, len(bank)), entropy=np.where(np.arange(len(bank)) % 7 == 2, np.nan, np.arange(len(bank))))


def test_signals_come_back_in_the_order_of_the_bank_with_their_provenance(project):
    bank = a_bank()
    columns, about = some_signals(bank), dict(made="by hand", model=SMALL, samples=5)
    path = save_signals("answers", bank.query_ids, columns, about)
    assert path == project / "answers.parquet"
    order = np.random.default_rng(0).permutation(60)[:25]
    found, told = recorded_signals("answers", bank.take(order), with_about=True)
    assert list(found) == ["self_ask", "entropy"] and told == about | {"columns": ["self_ask", "entropy"]}
    for name, values in columns.items(): assert found[name].dtype == np.float32 and np.array_equal(found[name], values[order].astype(np.float32), equal_nan=True)
    assert recorded_signals("answers", bank.take(order)).keys() == found.keys()


def test_equal_signals_give_equal_bytes_and_hold_no_text(project):
    bank = a_bank()
    first = save_signals("answers", bank.query_ids, some_signals(bank), dict(b=1, a=(2, 3))).read_bytes()
    assert save_signals("answers", bank.query_ids, some_signals(bank), dict(a=[2, 3], b=1)).read_bytes() == first and SECRET.encode() not in first
    assert SECRET not in everything_in(project / "answers.parquet")
    assert save_signals("answers", bank.query_ids, some_signals(bank), dict(a=[2, 4], b=1)).read_bytes() != first
    assert [p.name for p in project.iterdir()] == ["answers.parquet"]


@pytest.mark.parametrize("what,text", [("missing file", "absent.parquet does not exist"), ("another bank", "answers.parquet is of another bank: none of the 1 queries of 'strangers'"),
                                       ("missing queries", "answers.parquet lacks 2 of the 60 queries of 'mine', the first in row 7"), ("cut short", "not a whole Parquet file"),
                                       ("outcomes", "outcomes.parquet holds no signals")])
def test_what_is_wrong_with_a_record_is_named(what, text, project):
    bank = a_bank()
    keep = np.setdiff1d(np.arange(60), [7, 30] if what == "missing queries" else [])
    path = save_signals("answers", bank.query_ids[keep], {k: v[keep] for k, v in some_signals(bank).items()}, {})
    if what == "cut short": path.write_bytes(path.read_bytes()[:-40])
    if what == "outcomes": outcomes_of(StandIn(), bank, answer_bank(StandIn(), bank)).to_parquet(project / "outcomes.parquet")
    asked = make_bank([dict(prompt="who?", references=["I"], task="z", domain="d", source="s", split="test")], name="strangers") if what == "another bank" else bank
    with pytest.raises(SignalFileError, match=text): recorded_signals({"missing file": "absent", "outcomes": "outcomes"}.get(what, "answers"), asked)


def test_altered_metadata_is_noticed(project):
    bank = a_bank()
    path = save_signals("answers", bank.query_ids, some_signals(bank), dict(model="the small one"))
    table = pq.read_table(path)
    meta = {k: v.replace(b"the small one", b"the large one") for k, v in table.schema.metadata.items()}
    for altered in (table.replace_schema_metadata(meta), table.rename_columns(["query_id", "entropy", "self_ask"]).replace_schema_metadata(table.schema.metadata)):
        pq.write_table(altered, path)
        with pytest.raises(SignalFileError, match="metadata is damaged"): recorded_signals("answers", bank)


@pytest.mark.parametrize("change,text", [(lambda c: c | {"entropy": c["entropy"][:-1]}, r"'entropy' has shape \(59,\) for 60"), (lambda c: c | {"self_ask": np.r_[c["self_ask"][:-1], np.inf]}, "'self_ask', row 59"),
                                         (lambda c: c | {"self_ask": np.r_[1e39, c["self_ask"][1:]]}, "row 0: 1e.39 is not finite"), (lambda c: {}, "at least one column"),
                                         (lambda c: c | {"query_id": c["self_ask"]}, "none called 'query_id'")])
def test_bad_columns_are_named_and_nothing_is_written(change, text, project):
    bank = a_bank()
    with pytest.raises(SignalFileError, match=text): save_signals("answers", bank.query_ids, change(some_signals(bank)), {})
    with pytest.raises(SignalFileError, match=f"query {bank.query_ids[0]} occurs twice"): save_signals("answers", [bank.query_ids[0], *bank.query_ids[:-1]], some_signals(bank), {})
    assert not project.exists() or not list(project.iterdir())


def test_a_record_of_outcomes_is_never_overwritten(project):
    bank = a_bank()
    outcomes_of(StandIn(), bank, answer_bank(StandIn(), bank)).to_parquet(project / "embedded.parquet")
    before = (project / "embedded.parquet").read_bytes()
    with pytest.raises(SignalFileError, match="holds something else"): save_signals("embedded", bank.query_ids, some_signals(bank), {})
    assert (project / "embedded.parquet").read_bytes() == before


def test_feature_options_reach_the_model_and_get_a_folder_of_their_own():
    bank, calls = a_bank(), []

    class Model:
        name = SMALL
        def features(self, bank, folder, **options): calls.append((folder.name, options))
    for options in ({}, dict(chat=True), dict(chat=True, poolings=("mean", "max")), dict(chat=True, poolings=["mean", "max"]), {}): bank_features(bank, Model(), **options)
    names = [name for name, _ in calls]
    assert [o for _, o in calls][:3] == [{}, dict(chat=True), dict(chat=True, poolings=("mean", "max"))]
    assert names[0] == names[4] and names[2] == names[3] and len(set(names)) == 3 and all(n.startswith(names[0]) for n in names) and names[0].startswith("mine-")
