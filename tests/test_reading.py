"The reader of foreign files: every fault is one line with its place."
import io
import json
import os
import sys
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from routercompanion.core import (
    CompanionError, RoutingInputError, content_hash, project_root,
)
from routercompanion.curation.tasks import shared_prefix
from routercompanion.data.bank import BankError, QueryBank, make_bank, query_id
from routercompanion.data.outcomes import OutcomeTable, ShapeError
from routercompanion.data.own_csv import load_csv
from routercompanion.data.preferences import PreferenceError, preference_records
from routercompanion.data.prompts import PromptError, read_embeddings, read_prompts
from routercompanion.features.meaning import JudgeError, first_occurrence
from routercompanion.reading import (
    FileError, LocatedError, as_texts, below, checked, decode, describe, lines, parse_json,
    read_json, read_json_lines, read_text, refuse, safe_name,
)


def fault(call, *args, error=FileError, **options):
    "The one line of the named error that a call must end in."
    with pytest.raises(error) as caught:
        call(*args, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ---------------------------------------------------------------- errors

def test_a_message_is_one_line_whatever_the_file_holds():
    e = LocatedError("'a\nb\u2028\0\ud800'", "Stop.", source="x\ny.csv", row=3, column="c", other=2)
    assert str(e) == "x\\ny.csv, row 3, column 'c': 'a\\nb\\u2028\\x00\\ud800' (see row 2). Stop."
    assert (e.source, e.row, e.column, e.other, e.remedy) == ("x\ny.csv", 3, "c", 2, "Stop.")


@pytest.mark.parametrize("error", [FileError, CompanionError, RoutingInputError])
def test_any_error_of_the_library_can_be_asked_for(error):
    e = refuse(error, "no rows", "Add one.", source="a.csv", row=2)
    assert type(e) is error and str(e) == "a.csv, row 2: no rows. Add one."


def test_a_value_is_described_without_being_printed():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert describe(deep) == "a list of 1"
    assert describe("x" * 1000) == f"the text {'x' * 40!r}..." and len(describe(10**5000)) < 50


# ---------------------------------------------------------------- text

@pytest.mark.parametrize("raw, text", [
    (b"a\n", "a\n"), (b"\xef\xbb\xbfa", "a"), ("é\u2028".encode(), "é\u2028"), (b"", ""),
])
def test_utf8_is_read_with_or_without_a_byte_order_mark(tmp_path, raw, text):
    (tmp_path / "a.txt").write_bytes(raw)
    assert read_text(tmp_path / "a.txt") == text


@pytest.mark.parametrize("raw, message", [
    ("prompt\n".encode("utf-16"), "a.txt: the file is in UTF-16"),
    ("prompt\n".encode("utf-32"), "a.txt: the file is in UTF-32"),
    ("prompt\n".encode("utf-16-le"), "a.txt, row 1: a NUL byte (byte 2 of the file)"),
    ("a\r\nb\r\ncafé".encode("latin-1"), "row 3: byte 0xe9 is not UTF-8 (byte 10 of the file)"),
    ("a\rcafé".encode("latin-1"), "row 2: byte 0xe9"),
    (b"a\nb\xff", "row 2: byte 0xff"),
    (b"PAR1xx", "a Parquet file, where text was expected"),
    (b"PK\x03\x04xx", "a zip archive or Excel workbook"),
    (b"\x80\x04\x95xx", "a pickle"),
])
def test_other_encodings_and_kinds_are_named(tmp_path, raw, message):
    (tmp_path / "a.txt").write_bytes(raw)
    assert message in fault(read_text, tmp_path / "a.txt")


def test_a_path_that_cannot_be_read_is_named(tmp_path):
    assert "there is no such manifest. " in fault(read_text, tmp_path / "no", what="manifest")
    assert "a folder, not a file" in fault(read_text, tmp_path)
    assert "cannot be read" in fault(read_text, "a\0b")
    assert "cannot be read" in fault(read_text, tmp_path / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_must_not_be_read_is_named(tmp_path):
    (tmp_path / "a").touch(mode=0)
    assert "no permission" in fault(read_text, tmp_path / "a")


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_text_or_a_named_error(raw):
    try:
        text = decode(raw, "a.txt")
    except FileError as e:
        assert str(e).startswith("a.txt")
    else:
        assert text == raw.decode("utf-8-sig")


def test_lines_end_where_an_editor_ends_them():
    assert lines("a\u2028b\x85c\fd\x0be\r\nf\rg\n") == ["a\u2028b\x85c\fd\x0be", "f", "g"]
    assert lines("") == [] and lines("\n\na") == ["", "", "a"]


# ---------------------------------------------------------------- JSON

@pytest.mark.parametrize("text, row, message", [
    ('{"a": [1, 2,]}', 1, "a comma too many, before ']', at character 13"),
    ('{"a": 1,\n}', 2, "a comma too many, before '}'"),
    ('{"a": 1},', 1, "a comma too many, after the value"),
    ('{"a": 1\n"b": 2}', 2, "no comma before"),
    ('{"a": 1}\n{"a": 2}', 2, "after the end of the value"),
    ("{'a': 1}", 1, "the quotation mark '"),
    ('{"a": True}', 1, "the word True"),
    ('{"a": "x\ny"}', 1, "a line break or control character in a text"),
    ('{"a": "b', 1, "cut short"), ('{"a": [1, 2', 1, "cut short"), ('{"a":', 1, "cut short"),
    ('{"a": 1,\n "b": {"a": 2},\n "\\u0061": 3}', 3, "the key 'a' stands twice"),
    ("[" * 100_000, None, "too deep"), ('{"a": ' * 50_000, None, "too deep"),
    ("9" * 5000, None, "thousands of digits"),
    ("", 1, "nothing in it"), ("\n\n", 3, "nothing in it"),
    ("{a: 1}", 1, "not JSON at 'a: 1}'"),
])
def test_what_is_wrong_with_json_is_said(tmp_path, text, row, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FileError) as caught:
        read_json(tmp_path / "a.json")
    assert message in str(caught.value) and caught.value.row == row
    assert "download" not in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_good_json_is_read(tmp_path):
    value = {"a": [1, None, "\u2028"], "b": {"a": True}}
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(value), encoding="utf-8")
    assert read_json(tmp_path / "a.json") == value
    assert np.isnan(parse_json("NaN", "a.json"))


@pytest.mark.parametrize("text", [
    '{"q": "a"}\n{"q": "b"}',
    '\ufeff{"q": "a"}\r\n\r\n{"q": "b"}\r\n', '[{"q": "a"},\n {"q": "b"}]',
    '{"q": "a"}\r{"q": "b"}\r',
])
def test_json_lines_and_an_array_are_read(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8", newline="")
    assert [value["q"] for _, value in read_json_lines(tmp_path / "a.jsonl")] == ["a", "b"]


@pytest.mark.parametrize("text, row, message", [
    ('{"q": 1}\n{"q": 2},\n', 2, "a comma too many, after the value"),
    ('{"q": 1}\n{"q": 2', 2, "cut short"),
    ('{\n "q": 1\n}\n', 1, "one value over several lines"),
    ('{"q": 1}\n[2]\n', 2, "a list of 1 where an object is expected"),
    ('[{"q": 1},\n{"q": 2},\n]', 3, "a comma too many, before ']'"),
    ('[{"q": 1}, 2]', 2, "the number 2 where an object is expected"),
    ('{"q": 1, "q": 2}', 1, "the key 'q' stands twice"),
])
def test_what_is_wrong_with_json_lines_is_said(tmp_path, text, row, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(FileError) as caught:
        read_json_lines(tmp_path / "a.jsonl")
    assert message in str(caught.value) and caught.value.row == row


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=3), inner, max_size=3))


@settings(max_examples=100, deadline=None)
@given(json_values, st.integers(0, 200), st.text(max_size=2))
def test_mutated_json_is_read_or_named(value, at, new):
    text = json.dumps(value, ensure_ascii=False)
    assert parse_json(text, "a.json") == value
    for other in (text[:at], text[:at] + new + text[at:], text[:at] + new + text[at + 1:]):
        try:
            parse_json(other, "a.json")
        except FileError as e:
            assert str(e).startswith("a.json") and len(str(e).splitlines()) == 1


# ---------------------------------------------------------------- values

RIGHT = {"text": ["", "é"], "number": [0, -1.5, np.float64(2)], "whole": [3, 3.0, np.int64(3)],
         "flag": [True], "list": [[], [1]],
         "object": [{}], "texts": [[], ["a"]], "numbers": [[1, .5]]}
WRONG = {"text": [None, 1, ["a"], {}, float("nan"), "\ud800"],
         "number": [None, "1", True, float("nan"), float("inf"), 10**400, [1]],
         "whole": [1.5, "3", False, float("nan"), float("inf")], "flag": [0, "true", None],
         "list": ["abc", {}, None], "object": [[], "a", None],
         "texts": ["Paris", ["a", None], [["a"]], None], "numbers": [1, [1, "2"], [None], [True]]}


@pytest.mark.parametrize("kind", RIGHT)
def test_values_are_checked(kind):
    for value in RIGHT[kind]:
        assert checked(value, kind, path="a.json") == value
    for value in WRONG[kind]:
        message = fault(checked, value, kind, path="a.json", row=7, column="c")
        assert message.startswith("a.json, row 7, column 'c': ") and " is expected. " in message


def test_what_is_missing_is_what_the_caller_says():
    for value in (None, float("nan")):
        assert checked(value, "number", path="a.json", missing=-1) == -1
    message = fault(checked, "x", "number", path="a.json", missing=None)
    assert "leave what is missing null" in message


@pytest.mark.parametrize("value", [
    "Paris", ["Paris"], ("Paris",), np.array(["Paris"]),
    np.array(["Paris"], object), np.str_("Paris"),
    pd.Series(["Paris"]), pd.Index(["Paris"])])
def test_one_text_is_a_list_of_one(value):
    found = as_texts(value, "references")
    assert found == ["Paris"] and type(found[0]) is str


@pytest.mark.parametrize("value, message", [
    (None, "references, row 4: null where"), (3, "the number 3 where"), (b"Paris", "type bytes"),
    ({"Paris": 1}, "an object where"), ({"Paris"}, "type set"), (["a", None], "item 1 is null"),
    (["a", 2.5], "item 1 is the number 2.5"), ([["a"]], "item 0 is a list of 1"),
    (["\udc00"], "half a surrogate pair"), (np.array([1, 2]), "item 0 is the number 1"),
    (pd.Series(["a", None], dtype="string"), "item 1 is"),
])
def test_what_is_no_list_of_texts_is_refused_with_its_row(value, message):
    assert message in fault(as_texts, value, "references", row=4, error=RoutingInputError)


# ---------------------------------------------------------------- names and paths

@settings(max_examples=300, deadline=None)
@given(st.text(min_size=1, max_size=12), st.text(min_size=1, max_size=12))
def test_two_names_never_give_one_file(a, b):
    names = {a, b, f"{a}/{b}", f"{a}__{b}", f"{a}%2F{b}", a * 40, b * 40} - {".", ".."}
    parts = {safe_name(n) for n in names}
    assert len(parts) == len(names)
    for part in parts:
        assert part.isascii() and len(part) <= 150 and part[0] != "." and part[-1] not in ". "
        assert not set(part) & set('/\\:*?"<>|\0\n')


@pytest.mark.parametrize("name", ["", ".", "..", None, 3])
def test_what_is_no_name_is_refused(name):
    assert "cannot be the name of a file" in fault(safe_name, name)


@pytest.mark.parametrize("path", [
    "../a", "a/../../b", "a/..", "/etc/passwd", "//host/x", "C:\\x", "C:x", "\\x", "a\\..\\..\\b",
    "link/x", "link", "", ".", "./", "a\0b", None, 3, ["a"]])
def test_a_path_from_a_file_stays_below_its_root(tmp_path, path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path)
    assert fault(below, tmp_path / "root", path, source="m.json").startswith("m.json: the path ")


def test_a_path_below_is_joined(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "within").symlink_to(tmp_path / "a")
    for path in ("a", "a/b.csv", "..a", "a/..b", "within/c"):
        assert below(tmp_path, path) == tmp_path / path


def test_reading_needs_no_heavy_library():
    import subprocess
    code = ("import sys, routercompanion.reading\n"
            "print({'numpy', 'pandas', 'pyarrow', 'torch'} & set(sys.modules))")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


# ---------------------------------------------------------------- tables and prompts

def frame():
    texts = ["a, \u2028b", "long " * 40_000]
    return pd.DataFrame({"prompt": texts, "score": [.5, 1.], "decision": ["x", "y"]})


WRITERS = {
    "p.csv": lambda d, p: d.to_csv(p, index=False),
    "p.tsv": lambda d, p: d.to_csv(p, index=False, sep="\t"),
    "semicolon.csv": lambda d, p: d.to_csv(p, index=False, sep=";"),
    "p.json": lambda d, p: d.to_json(p, orient="records"),
    "p.jsonl": lambda d, p: d.to_json(p, orient="records", lines=True, force_ascii=False),
    "p.parquet": lambda d, p: d.to_parquet(p), "p.feather": lambda d, p: d.to_feather(p),
    "no_suffix": lambda d, p: d.to_parquet(p),
}


@pytest.mark.parametrize("name", WRITERS)
def test_prompts_are_read_from_every_kind_of_file_with_the_users_columns(tmp_path, name):
    WRITERS[name](frame(), tmp_path / name)
    found = read_prompts(tmp_path / name)
    assert found.prompts == [*frame().prompt] and list(found.columns) == ["score", "decision"]
    assert [float(v) for v in found.columns["score"]] == [.5, 1.]
    assert found.rows == ([2, 3] if found.kind == "csv" else [1, 2])


@pytest.mark.parametrize("text, prompts, rows", [
    ("a\u2028b\fc\nd\x85e\r\n\n  \nf", ["a\u2028b\fc", "d\x85e", "f"], [1, 2, 5]),
    ("prompt, please: list hens\nand, so\n", ["prompt, please: list hens", "and, so"], [1, 2]),
    ("long " * 40_000 + "\nshort", ["long " * 40_000, "short"], [1, 2]),
    ("\ufeffcaf\u00e9", ["caf\u00e9"], [1]),
    ("[INST] do it\n{not json", ["[INST] do it", "{not json"], [1, 2]),
])
def test_a_text_has_a_prompt_a_line(tmp_path, text, prompts, rows):
    (tmp_path / "p.txt").write_text(text, encoding="utf-8", newline="")
    for found in (read_prompts(tmp_path / "p.txt"), read_prompts(io.StringIO(text, newline=""))):
        assert (found.prompts, found.rows, found.kind) == (prompts, rows, "text")


def test_a_text_file_that_begins_like_a_csv_keeps_its_first_line(tmp_path):
    (tmp_path / "notes.txt").write_text("prompt,please\nsecond\n")
    assert read_prompts(tmp_path / "notes.txt").prompts == ["prompt,please", "second"]


@pytest.mark.parametrize("text, kind", [
    ("prompt\na\n", "csv"), ('"prompt","task"\na,b\n', "csv"), ("prompt;task\na;b\n", "csv"),
    ("task,prompt text,prompt\nt,x,a\n", "csv"), ('{"prompt": "a"}\n{"prompt": "b"}\n', "json"),
    ('[{"prompt": "a"}]', "json"), ('["a"]', "text"), ("a prompt, and more\n", "text"),
])
def test_what_standard_input_holds_is_found_out(monkeypatch, text, kind):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    found = read_prompts("-")
    assert found.kind == kind and found.source == "standard input"


def test_standard_input_in_another_encoding_is_named(monkeypatch):
    raw = io.BytesIO("ok\ncaf\u00e9\n".encode("latin-1"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw))
    message = fault(read_prompts, "-", error=PromptError)
    assert message.startswith("standard input, row 2: byte 0xe9 is not UTF-8")


@pytest.mark.parametrize("name, content, message", [
    ("p.csv", "prompt,a,prompt\nx,1,y\n", "row 1, column 'prompt': a column name is"),
    ("p.csv", "question,a\nx,1\n", "row 1: no column 'prompt' among 'question', 'a'. Rename"),
    ("p.csv", "Prompt\nx\n", "Rename 'Prompt' to 'prompt'"),
    ("p.csv", "prompt,a\nx, y,1\n", "row 2: 3 fields where the header has 2"),
    ("p.csv", "prompt,a\nx,1\n  ,1\n", "row 3, column 'prompt': the prompt is empty"),
    ("p.csv", "prompt\ncaf\u00e9\n".encode("latin-1"), "row 2: byte 0xe9 is not UTF-8"),
    ("p.csv", "prompt,a\n", "no rows"), ("p.csv", "", "the file is empty"),
    ("p.txt", " \n\n", "the file is empty"),
    ("p.json", '[{"prompt": "a"},]', "row 1: a comma too many"),
    ("p.json", '[{"prompt": "a"}, {"prompt": 3}]', "row 2, column 'prompt': the number 3 where"),
    ("p.json", '[{"prompt": "a"}, {"q": "b"}]', "row 2, column 'prompt': null where a text"),
    ("p.json", "3", "the number 3 where an object"), ("p.json", "[]", "no rows"),
    ("p.json", "{}", "no column"),
    ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b"', "row 2: it ends in the middle"),
    ("p.parquet", b"PAR1 and nothing PAR1", "not a whole Parquet or Arrow file"),
    ("p.arrow", b"ARROW1 and nothing", "not a whole Parquet or Arrow file"),
    ("p.parquet", b"nothing", "not a whole Parquet or Arrow file"),
    ("p.safetensors", b"nothing", "not a safetensors file"),
    ("p.csv", b"\x80\x04\x95", "a pickle, where text was expected"),
])
def test_what_holds_no_prompts_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = fault(read_prompts, path, error=PromptError)
    assert found.startswith(str(path)) and message in found


def test_arrays_are_read_by_name_and_are_no_prompts(tmp_path):
    path = tmp_path / "v.safetensors"
    save_file({"a": np.eye(2, dtype=np.float16), "b": np.array([[1., np.nan], [0, 0]])}, path)
    assert read_embeddings(path, name="a").dtype == np.float32
    faults = {None: "'a', 'b'", "c": "'a', 'b'", "b": "row 1: a value that is not finite"}
    for name, message in faults.items():
        assert message in fault(read_embeddings, path, name=name, error=PromptError)
    assert "read_embeddings" in fault(read_prompts, path, error=PromptError)
    save_file({"a": np.zeros(3), "b": np.zeros((2, 2))}, path)
    assert "3 (a), 2 (b) rows" in fault(read_embeddings, path, error=PromptError)


def test_columns_of_arrow_that_share_a_name_are_refused(tmp_path):
    import pyarrow as pa
    from pyarrow import feather
    table = pa.Table.from_arrays([["a"], ["b"]], names=["prompt", "prompt"])
    feather.write_feather(table, tmp_path / "p.arrow")
    assert "occurs twice" in fault(read_prompts, tmp_path / "p.arrow", error=PromptError)


@settings(max_examples=150, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*WRITERS]), st.integers(0, 10**6), st.binary(max_size=3), st.integers(0, 3))
def test_mutated_files_of_prompts_are_read_or_named(tmp_path, name, at, new, drop):
    path = tmp_path / name
    small = pd.DataFrame({"prompt": ["a, b", "c"], "score": [.5, 1.]})
    WRITERS[name](small, path)
    raw = path.read_bytes()
    at %= len(raw)
    path.write_bytes(raw[:at] + new + raw[at + drop:])
    try:
        found = read_prompts(path)
    except PromptError as e:
        assert str(e).startswith(str(path)) and len(str(e).splitlines()) == 1
    else:
        assert all(isinstance(p, str) and p.strip() for p in found.prompts)


# ---------------------------------------------------------------- one text is one

ROW = {"prompt": "Capital of France?", "references": ["Paris"], "task": "t", "domain": "d",
       "source": "s", "split": "test"}


def test_a_bank_reads_one_reference_as_one():
    for references in ("Paris", ["Paris"], ("Paris",), np.array(["Paris"])):
        assert make_bank([{**ROW, "references": references}]).table.references[0] == ["Paris"]
    assert make_bank([{**ROW, "choices": "Paris"}]).table.choices[0] == ["Paris"]
    assert make_bank([ROW]).table.choices[0] is None


@pytest.mark.parametrize("change, message", [
    ({"references": None}, "references, row 1: null"), ({"references": 3}, "row 1: the number 3"),
    ({"references": ["Paris", None]}, "row 1: item 1 is null"),
    ({"choices": ["a", 1]}, "choices, row 1"),
    ({"prompt": None}, "row 1: null where a prompt"), ({"prompt": ["a"]}, "row 1: a list of 1"),
    ({"prompt": float("nan")}, "row 1: NaN where a prompt"),
])
def test_a_bank_refuses_what_is_no_text_with_its_row(change, message):
    other = {**ROW, "prompt": "Other?"}
    assert message in fault(make_bank, [ROW, {**other, **change}], error=BankError)
    table = make_bank([ROW, other]).table.astype(object)
    for column, value in change.items():
        table.at[1, column] = value
    assert message in fault(QueryBank, table, error=BankError)


def test_a_bank_names_the_columns_that_a_row_lacks():
    row = {"prompt": "x", "task": "t"}
    assert "row 0: references missing" in fault(make_bank, [row], error=BankError)
    assert "null where a prompt" in fault(query_id, "t", None, error=BankError)


def test_names_of_one_model_and_one_query_are_not_letters(tmp_path):
    table = OutcomeTable([[1]], {}, "q1", "small", task="math", prompts="What?")
    assert table.models == ["small"] and table.query_ids.tolist() == ["q1"]
    assert table.task.tolist() == ["math"] and table.prompts.tolist() == ["What?"]
    assert len(table.align("q1")) == 1
    message = fault(OutcomeTable, [[1], [0]], {}, ["a", "b"], "m", prompts="ab", error=ShapeError)
    assert "1 values for 2 queries" in message
    (tmp_path / "mine.csv").write_text("prompt,ab,a,b\nx,1,0,0\n")
    assert load_csv(tmp_path / "mine.csv", models="ab").models == ["ab"]


def test_other_doors_take_texts_whole():
    found = preference_records("q", "Why?", [1.], ("no", "yes"), ("weak", "strong"))
    assert found.loc[0, ["prompt", "response_a", "response_b"]].tolist() == ["Why?", "yes", "no"]
    for prompts in (["Why?", None], None):
        fault(preference_records, "q", prompts, [1.], "ab", "ws", error=PreferenceError)
    assert shared_prefix("a\nb", ["t"]) == {"t": ""}
    assert first_occurrence([["yes", "yes"]]).tolist() == [[True, False]]
    assert first_occurrence(["no"]).shape == (1, 1)
    assert "n lists of texts" in fault(first_occurrence, "no", error=JudgeError)
    assert "row 1: item 0 is null" in fault(first_occurrence, [["a"], [None]], error=JudgeError)


# ---------------------------------------------------------------- ids by Unicode form

@pytest.mark.parametrize("text", [
    "S\u00e3o Paulo", "\u1e69", "\uac00", "\u0130stanbul", "\u212b", "x\u0323\u0307"])
def test_a_prompt_has_one_id_in_every_unicode_form(text):
    forms = {unicodedata.normalize(form, text) for form in ("NFC", "NFD")}
    assert len({query_id("t", form) for form in forms}) == 1


def test_ids_do_not_mistake_compatible_letters_for_equal_ones():
    assert query_id("t", "x\u00b2") != query_id("t", "x2")
    assert query_id("t", "\uff21") != query_id("t", "A")


def written_before(bank):
    "Ids of a bank's queries as they were hashed before their Unicode form was looked at."
    return [content_hash([task, " ".join(prompt.split()).lower()])[:16]
            for task, prompt in zip(bank.table.task, bank.table.prompt)]


def committed(name):
    import pyarrow.parquet as pq
    path = project_root() / "data" / "outcomes" / f"{name}.parquet"
    return set(pq.read_table(path, columns=["query_id"])["query_id"].to_pylist())


@pytest.mark.model
def test_no_committed_id_of_our_own_queries_changes():
    "Those of public prompts are held by test_bench and test_confidence, where a mirror is at hand."
    from routercompanion.data.banks.embedded import embedded_bank, pilot_bank
    from routercompanion.data.banks.multihop import (
        multihop_questions, pilot_questions, question_bank,
    )
    banks = {"embedded answers specialists preferences small_models": embedded_bank("embedded"),
             "pilot": pilot_bank(), "agentic_pilot": question_bank(pilot_questions()),
             "agentic agentic_answers agentic_signals agentic_traces agentic_policies "
             "agentic_policies_code agentic_policies_free agentic_policies_tool":
             question_bank(multihop_questions())}
    for names, bank in banks.items():
        ids = bank.query_ids.tolist()
        assert ids == written_before(bank) == [*map(query_id, bank.table.task, bank.table.prompt)]
        for name in names.split():
            assert committed(name) <= set(ids), name
