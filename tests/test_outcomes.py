"Contracts of routercompanion.outcomes: validation, alignment, Parquet, CSV, paired statistics."
import csv
import hashlib
import itertools
import json
import re
import unicodedata
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest

from routercompanion.data import own_csv
from routercompanion.data.bank import query_id
from routercompanion.core import CompanionError, UnknownNameError
from routercompanion.data.evidence import (
    accuracy_gap, evidence_check, label_flip_rate, paired_counts,
)
from routercompanion.data.outcomes import (
    AlignmentError, COSTS, CostError, DuplicateIdError, MissingOutcomeError, OutcomeError,
    OutcomeFileError, OutcomeTable, ScoreRangeError, ShapeError, correct_by_rule,
)
from routercompanion.data.own_csv import CsvError, load_csv, load_outcomes
from routercompanion.metrics.tests import PairedCounts, newcombe_interval, wilson_interval

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


def table(score, **kw):
    score = np.asarray(score, float)
    models = kw.pop("models", ["small", "large", "third"][:score.shape[1]])
    return OutcomeTable(score, kw.pop("cost", {}), kw.pop("query_ids", [f"q{i}" for i in range(len(score))]), models, **kw)


@st.composite
def tables(draw):
    n, m = draw(st.integers(0, 6)), draw(st.integers(1, 3))
    ids, models = draw(st.lists(names, min_size=n, max_size=n, unique=True)), draw(st.lists(names, min_size=m, max_size=m, unique=True))
    cell = st.floats(0, 1, width=32) | st.just(np.nan)
    price = st.floats(2.0**-20, 1e6, width=32) | st.just(np.nan)
    column = st.none() | st.lists(st.sampled_from(["a", "b", "ü", ""]), min_size=n, max_size=n)
    return OutcomeTable(draw(arrays(np.float32, (n, m), elements=cell)),
                        {c: draw(arrays(np.float32, (n, m), elements=price)) for c in draw(st.sets(st.sampled_from(sorted(COSTS))))},
                        ids, models, {models[0]: draw(st.dictionaries(names, st.integers() | names | st.lists(st.booleans()), max_size=2))},
                        draw(st.sampled_from(["score == 1", "score > 0: why not", "score >= 0.5"])),
                        draw(st.sampled_from(["computed", "recorded: by hand"])), draw(column), draw(column), draw(column))


# ------------------------------------------------------------------ validation

@pytest.mark.parametrize("value", [-1, 1.5, 85, np.inf, -np.inf, 1e39])
def test_score_outside_unit_interval_names_cell(value):
    with pytest.raises(ScoreRangeError, match=r"row 2, column 'score:large'.*'q2'.*outside \[0, 1\]") as caught:
        table([[0, 1], [1, 1], [1, value]])
    assert (caught.value.row, caught.value.column) == (2, "score:large")
    assert isinstance(caught.value, CompanionError)


@pytest.mark.parametrize("name,value,bad", [("params_b", 0, True), ("params_b", -1, True), ("tokens", -1, True), ("usd", np.inf, True),
                                            ("latency_s", -.1, True), ("tokens", 0, False), ("usd", 0, False), ("params_b", np.nan, False)])
def test_costs(name, value, bad):
    make = lambda: table([[0, 1], [1, 1]], cost={name: [[1, 1], [1, value]]})
    if not bad:
        assert np.array_equal(make().cost[name][1, 1], np.float32(value), equal_nan=True)
        return
    with pytest.raises(CostError, match=f"row 1, column '{name}:large'"): make()


def test_shapes_ids_and_names():
    with pytest.raises(ShapeError, match=r"\(2, 2\); 3 query ids"): table([[0, 1], [1, 1]], query_ids=list("abc"))
    with pytest.raises(ShapeError, match="tokens has shape"): table([[0, 1], [1, 1]], cost={"tokens": [[1, 2, 3]]})
    with pytest.raises(ShapeError, match="not a matrix of numbers"): OutcomeTable([["yes"]], {}, ["a"], ["m"])
    with pytest.raises(ShapeError, match="column 'task'"): table([[0, 1]], task=["a", "b"])
    with pytest.raises(DuplicateIdError, match=r"row 2, column 'query_id': 'a' occurs twice \(see row 0\)"):
        table([[0], [1], [1]], query_ids=list("aba"))
    with pytest.raises(DuplicateIdError, match="'m' occurs twice"): table([[0, 1]], models=["m", "m"])
    for empty in (None, np.nan, ""):
        with pytest.raises(OutcomeError, match="row 1, column 'query_id': the name is empty"): table([[0], [1]], query_ids=["a", empty])
    with pytest.raises(UnknownNameError, match="cost 'euro'"): table([[0]], cost={"euro": [[1]]})
    with pytest.raises(UnknownNameError, match="model in metadata 'mall'"): table([[0]], metadata={"mall": {}})
    with pytest.raises(OutcomeError, match="unknown rule"): table([[0]], correct_rule="score != 1")
    with pytest.raises(OutcomeError, match="neither computed nor recorded"): table([[0]], provenance="computedly")


def test_table_owns_its_arrays_and_repeats_costs():
    score = np.array([[0., 1.]])
    t = table(score, cost={"params_b": [.1, 7], "tokens": 3})
    score[0, 0] = .5
    assert t.score[0, 0] == 0 and t.score.dtype == t.cost["params_b"].dtype == np.float32
    assert t.cost["params_b"].tolist() == [[np.float32(.1), 7]] and t.cost["tokens"].tolist() == [[3, 3]]


def test_correct_and_missing():
    t = table([[1, .5], [np.nan, 0]], correct_rule="score >= 0.5: half is enough")
    with pytest.raises(MissingOutcomeError, match="row 1, column 'score:small'"): t.correct()
    assert t.correct(missing=False).tolist() == [[True, True], [False, False]]
    assert t.correct(missing=True).tolist() == [[True, True], [True, False]]
    assert t.complete().query_ids.tolist() == ["q0"] and t.complete().correct().dtype == bool
    assert correct_by_rule([0, 1e-9, np.nan], "score > 0").tolist() == [False, True, False]
    assert correct_by_rule([.3], "score >= 0.3").all(), "the threshold is compared in the score's own precision"


# ------------------------------------------------------------------ selecting, aligning, merging

@quick
@given(tables(), st.randoms(use_true_random=False))
def test_align_follows_any_permutation(t, random):
    order = list(range(len(t)))
    random.shuffle(order)
    shuffled = t.subset(order)
    assert shuffled.align(t.query_ids).equals(t)
    np.testing.assert_array_equal(t.align(shuffled.query_ids).score, t.score[order])


def test_align_names_missing_and_extra():
    t = table([[0], [1], [1]])
    with pytest.raises(AlignmentError, match=r"row 1.*1 wanted ids are not in the table \(first: x\) and 2 ids .* \(first: q1, q2\)"):
        t.align(["q0", "x"])
    with pytest.raises(AlignmentError, match="allow_extra=True"): t.align(["q0"])
    assert t.align(["q2", "q0"], allow_extra=True).score.tolist() == [[1], [0]]
    with pytest.raises(DuplicateIdError): t.align(["q0", "q0"], allow_extra=True)


def test_select_subset():
    t = table([[0, .5, 1], [1, 1, 0]], cost={"usd": [1, 2, 3]}, metadata={"third": {"licence": "MIT"}}, task=["a", "b"])
    s = t.select(["third", "small"])
    assert s.score.tolist() == [[1, 0], [0, 1]] and s.cost["usd"][0].tolist() == [3, 1] and s.metadata == {"third": {"licence": "MIT"}, "small": {}}
    assert t.select("large").models == ["large"]
    assert t.subset([False, True]).task.tolist() == ["b"] and len(t.subset([False, False])) == 0
    with pytest.raises(ShapeError, match="mask"): t.subset(np.array([True]))
    with pytest.raises(UnknownNameError, match="Known: large, small, third"): t.select(["smal"])


@quick
@given(tables().filter(lambda t: len(t.models) > 1 and len(t)))
def test_merge_undoes_select(t):
    parts = [t.select(m) for m in t.models]
    parts[1] = parts[1].subset(np.arange(len(t))[::-1])
    assert parts[0].merge(*parts[1:]).equals(t)


def test_merge_refuses():
    a, b = table([[0], [1]], models=["a"], cost={"usd": 1.}, task=["x", "y"]), table([[1], [1]], models=["b"], provenance="recorded: earlier")
    both = a.merge(b)
    assert both.provenance.startswith("recorded: merged") and both.task.tolist() == ["x", "y"]
    assert both.cost["usd"][:, 0].tolist() == [1, 1] and np.isnan(both.cost["usd"][:, 1]).all()
    with pytest.raises(AlignmentError): a.merge(b.subset([0]))
    with pytest.raises(DuplicateIdError): a.merge(a)
    with pytest.raises(OutcomeError, match="different rules"): a.merge(replace(b, correct_rule="score > 0"))
    with pytest.raises(AlignmentError, match="row 1, column 'task'"): a.merge(replace(b, task=["x", "z"]))


# ------------------------------------------------------------------ Parquet

@quick
@given(t=tables())
def test_parquet_round_trip_and_equal_bytes(t, tmp_path):
    one = t.to_parquet(tmp_path / "one.parquet")
    back = OutcomeTable.from_parquet(one)
    assert back.equals(t) and t.equals(back)
    assert one.read_bytes() == back.to_parquet(tmp_path / "two.parquet").read_bytes()
    assert not t.equals(replace(t, provenance="computed: otherwise"))


def test_parquet_leaves_prompts_out(tmp_path):
    t = table([[0], [1]], prompts=["a secret prompt", "another"])
    path = t.to_parquet(tmp_path / "t.parquet")
    assert b"secret" not in path.read_bytes() and OutcomeTable.from_parquet(path).prompts is None
    assert OutcomeTable.from_parquet(t.to_parquet(path, with_prompts=True)).equals(t)


def test_parquet_cut_anywhere_or_damaged_is_named(tmp_path):
    t = table(np.random.default_rng(0).integers(0, 2, (50, 2)), cost={"tokens": [3, 4]}, metadata={"small": {"licence": "Apache-2.0"}})
    whole, path = t.to_parquet(tmp_path / "t.parquet").read_bytes(), tmp_path / "t.parquet"
    for cut in [*range(0, 16), *range(16, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(OutcomeFileError, match="t.parquet: not a whole Parquet file.*Restore"): OutcomeTable.from_parquet(path)
    path.write_bytes(whole.replace(b"Apache-2.0", b"Apache-2.1"))
    assert path.read_bytes() != whole
    with pytest.raises(OutcomeFileError, match="metadata is damaged"): OutcomeTable.from_parquet(path)
    place = pq.ParquetFile(t.to_parquet(path)).metadata.row_group(0).column(1)
    page = place.dictionary_page_offset if place.has_dictionary_page else place.data_page_offset
    broken = bytearray(whole)
    broken[page + place.total_compressed_size - 1] ^= 1
    path.write_bytes(broken)
    with pytest.raises(OutcomeFileError, match="(?i)not a whole Parquet file.*(crc|checksum)"): OutcomeTable.from_parquet(path)


def test_parquet_of_another_kind_or_a_newer_layout(tmp_path):
    path = tmp_path / "t.parquet"
    with pytest.raises(OutcomeFileError, match="no such file"): OutcomeTable.from_parquet(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(OutcomeFileError, match="not one of outcomes"): OutcomeTable.from_parquet(path)
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({"routercompanion.outcomes": '{"schema": 99}'}), path)
    with pytest.raises(OutcomeFileError, match="layout 99 is newer"): OutcomeTable.from_parquet(path)


def test_failed_write_keeps_the_old_file(tmp_path):
    path = table([[1]]).to_parquet(tmp_path / "t.parquet")
    before = path.read_bytes()
    with pytest.raises(OutcomeError, match="not JSON"): table([[0]], metadata={"small": {"x": object()}}).to_parquet(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


# ------------------------------------------------------------------ CSV

GOOD = "prompt,task,small,large,tokens:small,params_b:small\nOne?,t,1,0,5,.1\nTwo?,t,0,1,6,.1\nThree?,u,,true,,.1\n"


@pytest.fixture
def read(tmp_path):
    def go(text, **kw):
        path = tmp_path / "mine.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_csv(path, **kw)
    return go


def test_csv_good(read):
    t = read(GOOD, metadata={"small": {"licence": "MIT"}})
    np.testing.assert_array_equal(t.score, [[1, 0], [0, 1], [np.nan, 1]])
    assert t.models == ["small", "large"] and t.prompts.tolist() == ["One?", "Two?", "Three?"] and t.task.tolist() == ["t", "t", "u"]
    assert t.query_ids[0] == query_id("t", "One?") and t.metadata["small"] == {"licence": "MIT"}
    np.testing.assert_array_equal(t.cost["tokens"], [[5, np.nan], [6, np.nan], [np.nan, np.nan]])
    assert re.fullmatch(r"recorded: mine.csv, sha256 [0-9a-f]{16}", t.provenance)


@pytest.mark.parametrize("change", [lambda s: "\ufeff" + s, lambda s: s.replace("\n", "\r\n"), lambda s: s.replace("\n", "\n\n"), lambda s: s[:-1],
                                    lambda s: s.replace("small,large", "score:small,score:large"), lambda s: s.replace("One?", '"One?"'),
                                    lambda s: s.replace("\nThree", "\n,,,,,\nThree")])
def test_csv_harmless_variants(read, change):
    a, b = read(GOOD), read(change(GOOD))
    assert replace(a, provenance="computed").equals(replace(b, provenance="computed"))


@pytest.mark.parametrize("text,kind,message", [
    (GOOD.replace("Two?", "Two, or 2?"), CsvError, r"row 3: 7 fields where the header has 6.*double quotes"),
    (GOOD.replace("0,1,6,", "0,6,"), CsvError, r"row 3, column 'params_b:small': 5 fields.*keep its comma"),
    (GOOD.replace("t,0,1,6", "0,1,6,t"), CsvError, r"row 3, column 'tokens:small': 't' is not a number.*shifted"),
    (GOOD.replace("Two?,t,0", "t,Two?,yes"), CsvError, r"row 3, column 'small': 'yes' is not a number"),
    (GOOD.replace("t,0,1,6,.1", "t,0,6,.1,1"), ScoreRangeError, r"row 3, column 'large': score 6 "),
    (GOOD.replace("t,0,1", "t,-1,1"), ScoreRangeError, r"row 3, column 'small': score -1 .*NaN"),
    (GOOD.replace("t,0,1", "t,inf,1"), CsvError, r"row 3, column 'small': 'inf' is not a number"),
    (GOOD.replace("t,0,1", 't,"0,5",1'), CsvError, r"row 3, column 'small': '0,5' is not a number.*decimal comma"),
    (GOOD.replace("6,.1", "6,0"), CostError, r"row 3, column 'params_b:small': params_b 0 "),
    (GOOD.replace("6,.1", "-6,.1"), CostError, r"row 3, column 'tokens:small': tokens -6 "),
    (GOOD.replace("\nTwo?", "\n\n One? "), DuplicateIdError,
     r"row 4, column 'prompt': this prompt stands in the file twice \(see row 2\).*query_id column"),
    (GOOD.split("\n", 1)[1], CsvError, r"row 1: no column 'prompt' or 'query_id'"),
    (GOOD.split("\n")[0], CsvError, "a header, but no rows"),
    ("", CsvError, "the file is empty"), (" \n\n", CsvError, "the file is empty"), ("\ufeff", CsvError, "the file is empty"),
    (GOOD[:-12], CsvError, r"row 4, column .*cut off"),
    (GOOD[:-3], CsvError, r"row 4, column 'params_b:small': the file ends before the last value.*cut off"),
    (GOOD.replace("Two?", '"Two?'), CsvError, r"row 3: broken quotes"),
    (GOOD.replace("Two?", '"Two" ?'), CsvError, r"row 3: broken quotes"),
    (GOOD.replace(",", ";"), CsvError, r"row 1: the header has a single column.*delimiter=';'"),
    (GOOD.encode("utf-16"), CsvError, "UTF-16"),
    (GOOD.replace("Two", "Zw\u00f6lf").encode("latin-1"), CsvError, "row 3: byte 0xf6 is not UTF-8"),
    (GOOD.replace("large", "small"), CsvError, r"row 1, column 'small': .* occurs twice"),
    (GOOD.replace("small,large", "small,"), CsvError, r"row 1, column '': a column name is empty"),
    (GOOD.replace("tokens:small", "tokens:tiny"), CsvError,
     r"column 'tokens:tiny': a cost of 'tiny', which has no scores.*Known models: small, large"),
    (GOOD.replace("tokens:small", "toekns:small").replace("small,large", "score:small,score:large"), CsvError,
     "column 'toekns:small': an unknown kind"),
    ("prompt,task\na,b\n", CsvError, "no column holds the scores"),
])
def test_csv_bad(read, text, kind, message):
    with pytest.raises(kind, match=r"mine\.csv.*" + message) as caught: read(text)
    assert type(caught.value) is kind and str(caught.value.source).endswith("mine.csv")


@pytest.mark.parametrize("header, column, message", [
    ("prompt,small,large,small_usd", "small_usd", "Rename it to 'usd:small'"),
    ("prompt,small,large,cost_small", "cost_small", "Rename it to 'usd:small'"),
    ("prompt,small,large,Large Price", "Large Price", "Rename it to 'usd:large'"),
    ("prompt,small,large,small.tokens", "small.tokens", "Rename it to 'tokens:small'"),
    ("prompt,small,large,latency_s_large", "latency_s_large", "Rename it to 'latency_s:large'"),
    ("prompt,score:small,score:large,small_usd", "small_usd", "Rename it to 'usd:small'"),
    ("prompt,gpt-4,gpt-4-v,gpt-4-v_usd", "gpt-4-v_usd", "Rename it to 'usd:gpt-4-v'"),
    ("prompt,small,large,is_math", "is_math", "Mark the models with score:, or name them"),
    ("prompt,small,large,difficulty", "difficulty", "no model, by its name"),
    ("Unnamed: 0,prompt,small,large", "Unnamed: 0", "no model, by its name"),
    ("prompt,small,large,total_cost", "total_cost", "no model, by its name"),
    ("prompt,small,score", "score", "no model, by its name"),
    ("prompt,model,score,cost", "model", "a long .* Pivot .*columns='model', values='score'"),
    ("query_id,LLM,correct", "LLM", "values='correct'"),
])
def test_a_column_that_is_no_model_is_named_with_its_right_name(read, header, column, message):
    text = header + "\n" + ",".join(["0"] * (header.count(",") + 1)) + "\n"
    with pytest.raises(CsvError, match=message) as caught:
        read(text)
    assert caught.value.column == column and caught.value.row == 1


def test_who_names_the_models_has_the_say(read):
    text = "prompt,is_math,difficulty,small,large\nx,1,3,0,1\n"
    assert read(text, models=["small", "large"]).models == ["small", "large"]
    assert read(text, models=["is_math"]).models == ["is_math"]
    assert read("prompt,score:is_math\nx,1\n").models == ["is_math"]
    with pytest.raises(CsvError, match="a long table"):
        read("prompt,model,score\nx,tiny,1\n", models=["tiny", "big"])


def test_a_model_beside_marked_ones_is_not_dropped_in_silence(read):
    with pytest.warns(UserWarning, match="'large' is not read.*score:large"):
        assert read("prompt,score:small,large\nx,1,0\ny,0,1\n").models == ["small"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read("prompt,score:small,large\nx,1,0\n", models=["small"])
        read("prompt,score:small,notes,is_math,size\nx,1,fine,1,70\n")


@pytest.mark.parametrize("cell, column, message", [
    ("$0.10", "usd:a", "it has a dollar or other"), ("2 USD", "usd:a", "currency sign"),
    ("95%", "a", "it is a percentage.*fraction: 0.85"), ('"0,5"', "a", "it has a decimal comma"),
    ('"1,000"', "usd:a", "it has commas between thousands"), ("1 000", "usd:a", "blanks or marks"),
    ('"1.000,5"', "usd:a", "it has a decimal comma"), ("-inf", "usd:a", "it is infinite"),
    ("yes", "a", "shifted column"), ("true", "usd:a", "is not a number"),
])
def test_a_number_written_otherwise_is_named_for_what_it_is(read, cell, column, message):
    other = "1" if column == "usd:a" else ".1"
    cells = f"{other},{cell}" if column == "usd:a" else f"{cell},{other}"
    with pytest.raises(CsvError, match=message) as caught:
        read(f"prompt,a,usd:a\nx,1,2\ny,{cells}\n")
    assert (caught.value.row, caught.value.column) == (3, column)


@pytest.mark.parametrize("a, b", [
    ("print(X)", "print(x)"), ('"if a:\n  b"', '"if a:\n    b"'), ("S\u00e3o", "Sa\u0303o")])
def test_prompts_that_differ_in_form_only_are_told_so(read, a, b):
    text = f"prompt,a\n{a},1\n{b},0\n"
    with pytest.raises(DuplicateIdError, match=r"row 3.*only in letter case.*see row 2.*query_id"):
        read(text)
    ids = text.replace("prompt", "query_id,prompt").replace(f"\n{a}", f"\n1,{a}")
    assert len(read(ids.replace(f"\n{b}", f"\n2,{b}"))) == 2


def test_an_empty_prompt_is_refused_unless_the_query_has_an_id(read):
    with pytest.raises(CsvError, match="row 3, column 'prompt': the prompt is empty"):
        read("prompt,a\nx,1\n ,1\n")
    assert len(read("query_id,prompt,a\n1,x,1\n2,,1\n")) == 2


def test_errors_come_without_the_tracebacks_of_libraries(read):
    bad = [GOOD.replace("0,1,6", "0,x,6"), GOOD.encode("utf-16"), 'prompt,a\n"x', "prompt,a\nx,2\n"]
    for text in bad:
        with pytest.raises(OutcomeError) as caught:
            read(text)
        assert caught.value.__cause__ is None and caught.value.__suppress_context__ \
            or caught.value.__context__ is None


FORMS = {"csv": lambda d, p: d.to_csv(p, index=False),
         "json": lambda d, p: d.to_json(p, orient="records"),
         "jsonl": lambda d, p: d.to_json(p, orient="records", lines=True),
         "parquet": lambda d, p: d.to_parquet(p), "feather": lambda d, p: d.to_feather(p)}


@pytest.mark.parametrize("suffix", FORMS)
def test_outcomes_are_read_alike_from_every_format(tmp_path, suffix):
    d = pd.DataFrame({"prompt": ["One?", "Two?"], "task": ["t", "u"], "small": [True, False],
                      "large": [.5, np.nan], "usd:small": [.1, 1.]})
    FORMS[suffix](d, tmp_path / f"mine.{suffix}")
    found, wanted = load_outcomes(tmp_path / f"mine.{suffix}"), table_of(tmp_path, d)
    assert replace(found, provenance="computed").equals(replace(wanted, provenance="computed"))
    for change, message in ((d.assign(large="x"), "row [12], column 'large': 'x' is not a number"),
                            (d.assign(small_usd=1), "column 'small_usd': a cost"),
                            (d.assign(large=[.5, 7.]), "column 'large': score 7"),
                            (d.assign(prompt="same", task="t"), "stands in the file twice"),
                            (d.assign(prompt=["", "b"]), "the prompt is empty"),
                            (d.drop(columns="prompt"), "no column 'prompt'")):
        FORMS[suffix](change, tmp_path / f"mine.{suffix}")
        with pytest.raises(OutcomeError, match=message) as caught:
            load_outcomes(tmp_path / f"mine.{suffix}")
        assert str(caught.value).startswith(str(tmp_path))


def table_of(folder, d):
    d.to_csv(folder / "wanted.csv", index=False)
    return load_csv(folder / "wanted.csv")


def test_outcomes_in_objects_and_our_own_parquet(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"query_id": 7, "score": {"a": 1, "b": null}, "usd": {"a": 0.5}}\n'
                    '{"query_id": 8, "score": {"b": 0}}')
    t = load_outcomes(path, correct_rule="score >= 0.5")
    np.testing.assert_array_equal(t.score, [[1, np.nan], [np.nan, 0]])
    assert t.query_ids.tolist() == ["7", "8"] and t.cost["usd"][0, 0] == .5
    t.to_parquet(tmp_path / "t.parquet")
    assert load_outcomes(tmp_path / "t.parquet").equals(t)
    assert load_outcomes(tmp_path / "t.parquet", models=["b"]).models == ["b"]
    (tmp_path / "t.txt").write_text("What?")
    with pytest.raises(CsvError, match="holds no outcomes"):
        load_outcomes(tmp_path / "t.txt")


def test_csv_layouts(read):
    with pytest.raises(CsvError, match="no such file"): load_csv("/nowhere/mine.csv")
    t = read("query_id,notes,a,b\n1,fine,1,0\n2,odd,0,1\n", models=["b", "a"])
    assert t.models == ["b", "a"] and t.query_ids.tolist() == ["1", "2"] and t.prompts is None and t.score[:, 0].tolist() == [0, 1]
    assert read("prompt,llama3:8b\nx,1\n").models == ["llama3:8b"], "a colon in a model's name"
    assert read("prompt,notes,score:a\nx,hm,1\n").models == ["a"]
    assert read("prompt;a\nx;1\n", delimiter=";").models == ["a"]
    assert len(read('prompt,a\n"two\nlines",1\n"' + "long " * 40_000 + '",0\n')) == 2
    with pytest.raises(UnknownNameError, match="Unknown model column"): read(GOOD, models=["smal"])
    with pytest.raises(CsvError, match="row 3, column 'a'"): read('prompt,a\n"two\nlines",1\nx,?\n')


prompts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@quick
@given(st.lists(st.tuples(prompts, st.sampled_from([0., .25, 1.]), st.booleans()), min_size=1, max_size=6), st.integers(0, 5), st.data())
def test_csv_survives_any_quoted_prompt_and_names_any_shifted_row(tmp_path, rows, where, data):
    path = tmp_path / "mine.csv"
    lines = ["query_id,prompt,a,b", *(f'q{i},"{p.replace(chr(34), chr(34) * 2)}",{a},{b}' for i, (p, a, b) in enumerate(rows))]
    path.write_bytes(("\n".join(lines) + "\n").encode())
    t = load_csv(path)
    assert t.prompts.tolist() == [r[0] for r in rows]
    np.testing.assert_array_equal(t.score, [[float(a), float(b)] for _, a, b in rows])
    row = where % len(rows)
    lines[1 + row] = data.draw(st.sampled_from([
        lines[1 + row] + ",1", f"q{row},a,,b,c,1,0", f"q{row},1,0", f'q{row},0,"a prompt",1', f'extra,q{row},"a",1']))
    path.write_bytes(("\n".join(lines) + "\n").encode())
    with pytest.raises(CsvError, match=rf"mine\.csv, row {row + 2}[,:]"): load_csv(path)


SPELLINGS = ["1", ".5", "1e-3", "", "NA", "NaN", "nan", "null", "None", "true", "False", '"1"', '""',
             "0.30000000000000004"]
ODD = ["0", "1.", "+1", "-0", "none", "TRUE", " 1", " ", "inf", "-nan", "1_0", "0x1", "1e999", "1e-999",
       "4.9e-324", "\u0661", "1,0"]
TEXTS = ["x", "a b", "", " ", "NA", '"a, b"', '"a ""q"" b"', '"two\nlines"', '"two\r\nlines"', 'say "hi"',
         '"x" y', '"', "\u2028", '""']
spellings, texts = st.sampled_from(SPELLINGS + ODD), st.sampled_from(TEXTS)


def read_by(function, text, delimiter=","):
    "What a reader of CSVs makes of `text`, with numbers as bytes; None if it leaves the text to the other."
    try:
        found = function(text, "mine.csv", delimiter, None)
    except (CompanionError, csv.Error, pa.ArrowException):
        return None
    if found is None:
        return None
    layout, columns, header, _ = found
    plain = {j: c.tobytes() if isinstance(c, np.ndarray) else c for j, c in columns.items()}
    return layout, header, plain


@settings(quick, max_examples=300)
@given(st.lists(st.tuples(texts, texts, spellings, spellings, spellings), min_size=1, max_size=5),
       st.sampled_from(["\n", "\r\n", "\n\n", "\r"]), st.sampled_from(",;\t|"), st.booleans(), st.integers(0, 99))
def test_csv_by_columns_is_csv_by_cell(rows, end, delimiter, ended, cut):
    lines = [delimiter.join(r) for r in [("prompt", "task", "score:a", "score:b", "tokens:a"), *rows]]
    text = end.join(lines) + end * ended
    text = text[:len(text) - (cut if cut < 20 else 0)]
    bulk = read_by(own_csv._csv_bulk, text, delimiter)
    assert bulk is None or bulk == read_by(own_csv._csv_by_cell, text, delimiter)


@pytest.mark.parametrize("value", SPELLINGS)
@pytest.mark.parametrize("prompt", ["plain", '"quoted, ""twice"""', '"two\nlines"'])
def test_common_spellings_are_read_by_columns(value, prompt):
    text = f"prompt,a\n{prompt},{value}\nlast,{value}\n"
    bulk = read_by(own_csv._csv_bulk, text)
    assert bulk is not None and bulk == read_by(own_csv._csv_by_cell, text)


@given(st.text())
def test_hashes_are_those_of_canonical_json(text):
    plain = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip().lower()
    canonical = json.dumps(["t", plain], sort_keys=True, separators=(",", ":"), default=str)
    assert query_id("t", text) == hashlib.sha256(canonical.encode()).hexdigest()[:16]


# ------------------------------------------------------------------ statistics

@pytest.mark.parametrize("k,n", [(0, 10), (3, 10), (10, 10), (170, 1000), (1, 1)])
@pytest.mark.parametrize("level", [.9, .95])
def test_wilson_agrees_with_scipy(k, n, level):
    other = binomtest(k, n).proportion_ci(level, method="wilson")
    np.testing.assert_allclose(wilson_interval(k, n, level=level), (other.low, other.high), atol=1e-9)


def test_wilson_of_nothing_is_nan(): assert np.isnan(wilson_interval(0, 0)).all() and np.isnan(wilson_interval([0], [0])).all()


def test_summary_counts_only_what_was_judged():
    t = table([[1, np.nan], [0, np.nan], [np.nan, np.nan], [.5, np.nan]], cost={"tokens": [[10, 1], [20, 1], [np.nan, 1], [30, 1]]},
              task=list("aabb"))
    s = t.summary()
    assert s.loc["small", ["n", "missing", "accuracy", "mean_score", "mean_tokens"]].tolist() == [3, 1, 1 / 3, .5, 20]
    assert s.loc["large", "n"] == 0 and s.loc["large", ["accuracy", "accuracy_low", "mean_score"]].isna().all()
    assert t.accuracy_by("task")["small"].tolist() == [.5, 0] and t.accuracy_by("task")["large"].isna().all()
    with pytest.raises(OutcomeError, match="no column 'domain'"): t.accuracy_by("domain")
    with pytest.raises(UnknownNameError): t.accuracy_by("prompts")


@quick
@given(arrays(np.float32, st.tuples(st.integers(1, 30), st.just(2)), elements=st.sampled_from([0., 1., np.nan])))
def test_gap_is_the_difference_of_paired_accuracies(score):
    t, kept = table(score), score[~np.isnan(score).any(1)]
    c, g = paired_counts(t, "small", "large"), accuracy_gap(t, "small", "large")
    assert c.n == g.n == len(kept)
    if not len(kept):
        assert np.isnan([g.gap, g.low, g.high]).all()
        return
    small, large = kept.astype(float).mean(0)
    np.testing.assert_allclose((g.gap, g.small_accuracy, g.large_accuracy), (large - small, small, large), atol=1e-12)
    assert -1 <= g.low <= g.gap <= g.high <= 1
    back = accuracy_gap(t, "large", "small")
    np.testing.assert_allclose((back.low, back.high), (-g.high, -g.low), atol=1e-12, err_msg="swapping the models mirrors the interval")


def test_newcombe_published_example_and_coverage():
    np.testing.assert_allclose(newcombe_interval(PairedCounts(36, 12, 2, 0)), (.0569, .3404), atol=5e-5)
    rng, p = np.random.default_rng(1), np.array([.25, .3, .1, .35])
    inside = [(low <= .2 <= high) for c in rng.multinomial(40, p, 2000) for low, high in [newcombe_interval(PairedCounts(*map(int, c)))]]
    assert .93 <= np.mean(inside) <= .98
    a, b, c, d = 20, 12, 3, 15                                    # positive correlation: the product term is corrected by n / 2
    small, large = np.repeat([1, 0, 1, 0], (a, b, c, d)), np.repeat([1, 1, 0, 0], (a, b, c, d))
    phi = np.corrcoef(small, large)[0, 1] * (a * d - b * c - 25) / (a * d - b * c)
    (l1, u1), (l2, u2) = (binomtest(int(x.sum()), 50).proportion_ci(.95, method="wilson") for x in (large, small))
    v, w = np.array([.64 - l1, u2 - .46]), np.array([u1 - .64, .46 - l2])
    corr = np.array([[1, -phi], [-phi, 1]])
    np.testing.assert_allclose(newcombe_interval(PairedCounts(a, b, c, d)), (.18 - (v @ corr @ v)**.5, .18 + (w @ corr @ w)**.5), atol=1e-9)
    low, high = newcombe_interval(PairedCounts(20, 0, 0, 0))
    assert low < 0 < high, "no discordant pair is not certainty"


def test_bootstrap_over_four_counts_is_the_bootstrap_over_queries():
    score = np.random.default_rng(3).random((60, 2)) < [.4, .6]
    fast = accuracy_gap(table(score), "small", "large", n_resamples=20_000, rng=0)
    d = score[:, 1].astype(float) - score[:, 0]
    slow = np.quantile(d[np.random.default_rng(9).integers(0, 60, (20_000, 60))].mean(1), (.025, .975))
    np.testing.assert_allclose((fast.low, fast.high), slow, atol=.018)
    assert fast.method == "bootstrap over 60 queries"


def test_clustered_bootstrap_matches_all_resamples_of_three_clusters():
    score = np.array([[0, 1], [0, 1], [1, 1], [0, 0], [1, 0], [0, 1]])
    clusters = np.array(["a", "a", "b", "b", "b", "c"])
    d = score[:, 1] - score[:, 0]
    gaps = [np.concatenate([d[clusters == c] for c in draw]).mean() for draw in itertools.product("abc", repeat=3)]
    got = accuracy_gap(table(score), "small", "large", clusters=clusters, n_resamples=20_000)
    np.testing.assert_allclose((got.low, got.high), np.quantile(gaps, (.025, .975), method="inverted_cdf"), atol=1e-12)
    assert got == accuracy_gap(table(score), "small", "large", clusters=clusters, n_resamples=20_000)
    with pytest.raises(OutcomeError, match="one cluster"): accuracy_gap(table(score), "small", "large", clusters=["a"] * 6)
    with pytest.raises(ShapeError, match="clusters"): accuracy_gap(table(score), "small", "large", clusters=["a"])


def cells(small, large, n):
    "A task on which the small model gets `small` and the large one `large` of `n` right, as much overlap as possible."
    return np.column_stack([np.arange(n) < small, np.arange(n) < large])


@pytest.mark.parametrize("small,large,n,auroc_ok,gap_ok,words", [
    (30, 60, 100, True, True, "ok"), (15, 60, 100, True, True, "ok"),
    (14, 60, 100, False, True, "outside 0.15-0.85"), (85, 97, 100, True, True, "ok"),
    (86, 99, 100, False, True, "outside"), (40, 50, 100, True, True, "ok"), (40, 49, 100, True, False, "gap 0.090 under 0.1"),
    (3, 5, 20, True, False, "touches zero"), (60, 30, 100, True, False, "gap -0.300 under 0.1")])
def test_evidence_rule_at_its_borders(small, large, n, auroc_ok, gap_ok, words):
    row = evidence_check(table(cells(small, large, n), task=["t"] * n), "small", "large").loc["t"]
    assert (row.auroc_ok, row.gap_ok) == (auroc_ok, gap_ok) and words in row.reason and row.n == n


def test_evidence_by_domain_clusters_by_task_and_ignores_gaps():
    score = np.vstack([cells(10, 40, 50), cells(20, 22, 50), cells(20, 18, 50), [[np.nan, 1]], [[1, np.nan]]]).astype(float)
    t = table(score, task=["a"] * 50 + ["b"] * 50 + ["c"] * 50 + ["a", "z"], domain=["d"] * 151 + ["e"])
    by_domain = evidence_check(t, "small", "large", by="domain")
    assert by_domain.columns.tolist() == ["n", "small_accuracy", "gap", "gap_low", "gap_high", "auroc_ok", "gap_ok", "reason"]
    assert by_domain.auroc_ok.dtype == by_domain.gap_ok.dtype == bool
    assert by_domain.n.tolist() == [150, 0] and by_domain.loc["e", "reason"] == "no query that both models answered"
    plain = evidence_check(replace(t, task=None), "small", "large", by="domain")
    assert plain.loc["d", "gap_ok"] and not by_domain.loc["d", "gap_ok"], "one task alone makes the gap: the clustered interval says so"
    with pytest.raises(OutcomeError, match="no column 'task'"): evidence_check(replace(t, task=None), "small", "large")
    with pytest.raises(UnknownNameError): evidence_check(t, "small", "huge")


def test_label_flip_rate():
    f = label_flip_rate([1, 1, 0, 0], [1, 0, 1, 1])
    assert (f.rate, f.n, f.gained, f.lost) == (.75, 4, 2, 1) and f.low < .75 < f.high
    assert np.isnan(label_flip_rate([], []).rate)
    whole = table([[0, 1], [1, 1], [0, 0]])
    sample = whole.subset([2, 1]).select("large")
    assert label_flip_rate(whole, sample).rate == 0, "aligned by id, not by place"
    assert label_flip_rate(whole, replace(sample, score=1 - sample.score), model="large").rate == 1
    with pytest.raises(OutcomeError, match="share 2 models"): label_flip_rate(whole, whole)
    with pytest.raises(AlignmentError, match="not in the table"): label_flip_rate(sample, whole, model="large")
    with pytest.raises(OutcomeError, match="different rules"): label_flip_rate(whole, replace(sample, correct_rule="score > 0"))
    with pytest.raises(MissingOutcomeError): label_flip_rate(table([[np.nan]]), table([[1]]))
    with pytest.raises(ShapeError): label_flip_rate([1, 0], [1])
    with pytest.raises(OutcomeError, match="row 1, column 'recomputed': 0.5"): label_flip_rate([1, 0], [1, .5])
