"The reader of foreign files: every fault is one line with its place."
import json
import os
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routercompanion.core import CompanionError, RoutingInputError
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
