"""Damaged files of recordings and publications.

Every reader of them refuses them by name, or reads what it read before.
`READERS` is a table; a reader is added with a function that makes a small valid file and one that
reads it. A few mutations of each run by default; `ROUTERCOMPANION_FUZZ=500` tries 500 per reader.
"""

import codecs
import json
import os
import random
import re
import warnings
from collections import Counter
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from routercompanion.core import CompanionError

SEED = 20_26
TRIES = int(os.environ.get("ROUTERCOMPANION_FUZZ") or 24)


@dataclass(frozen=True)
class Reader:
    """`make(folder)` writes a valid file and returns its path; `read(path)` reads it.

    `wants`: for a key or column that is read, what may stand there: "text" (not blank), "string"
    (may be empty), "number", "share" (0 to 1), "cost" (0 or above), "whole", "flag", "list",
    "object"; with "?" also nothing (null, or an empty cell). A change to anything else
    must be refused. `whole`: a file that lacks its end must be refused. `unique`: so must one
    in which a row stands twice. `empty`: a table without rows is right.
    `open_end`: so is a file whose last line was cut off.
    """

    name: str
    make: object
    read: object
    wants: dict = field(default_factory=dict)
    whole: bool = False
    unique: bool = False
    empty: bool = False
    open_end: bool = False


# ------------------------------------------------------------------ what a value may be


def fits(value, kind):
    "Whether `value`, read from JSON or a CSV cell, is of the `kind` that a reader wants."
    if kind.endswith("?"):
        if value is None or value != value or value == "" and kind[:-1] not in ("text", "string"):
            return True
        kind = kind[:-1]
    if kind == "string":
        return isinstance(value, str)
    if kind == "text":
        return isinstance(value, str) and bool(value.strip())
    if kind in ("list", "object"):
        return isinstance(value, {"list": list, "object": dict}[kind])
    if kind == "flag":
        return isinstance(value, bool)
    number = isinstance(value, (int, float)) and not (isinstance(value, bool) and kind == "whole")
    if not number or value != value or abs(value) == float("inf"):
        return False
    if abs(value) > 1e300:
        return kind == "number" and abs(value) < 1.7e308
    bounds = dict(share=(0, 1), cost=(0, 1e38), number=(-1e308, 1e308), whole=(0, 2**53))[kind]
    return bounds[0] <= value <= bounds[1] and (kind != "whole" or value == int(value))


ODD = (
    None,
    True,
    7,
    -3,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
    10**400,
    "",
    " ",
    "text",
    "-1",
    [],
    {},
    ["a"],
    {"a": 1},
    [[1]],
    [None],
    2**63,
)


def places(value, path=()):
    "Every place in a JSON value: (path of keys and indices)."
    yield path
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, part in inside:
        yield from places(part, (*path, key))


def replaced(value, path, new):
    "A copy of `value` with `new` at `path`; without a path, `new` itself."
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


def at(value, path):
    for key in path:
        value = value[key]
    return value


# ------------------------------------------- mutations: (what was done, bytes, must it be refused?)


def damaged_bytes(data, rng, reader):
    "Mutations of any file."
    where = rng.randrange(max(len(data), 1))
    yield "cut", data[:where], reader.whole and where < len(data.rstrip()) - 1
    yield "empty", b"", not reader.open_end
    flipped = bytearray(data)
    flipped[where] ^= 1 << rng.randrange(8)
    yield "flipped bit", bytes(flipped), False
    yield "bytes lost", data[:where] + data[where + rng.randrange(1, 40) :], False
    yield "zeros", data[:where] + bytes(8) + data[where + 8 :], False
    yield "noise", rng.randbytes(rng.randrange(1, 200)), not reader.open_end


def damaged_text(data, rng, reader):
    "Mutations of any text."
    lines = data.splitlines(keepends=True)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    where = rng.randrange(len(data))
    yield "NUL", data[:where] + b"\0" + data[where:], True
    yield "byte-order mark", codecs.BOM_UTF8 + data, False
    yield "CRLF", data.replace(b"\n", b"\r\n"), False
    yield "UTF-16", data.decode().encode("utf-16"), True
    yield "Latin-1", data[:where] + b"\xe4\xf6" + data[where:], True
    yield "long line", data + b"x" * 10_000_000, reader.whole
    yield "control sign", data[:where] + b"\x1b" + data[where:], False
    yield "line lost", b"".join(lines[:i] + lines[i + 1 :]), False
    yield "line twice", b"".join(lines[: i + 1] + lines[i:]), reader.unique and i > 0
    lines[i], lines[j] = lines[j], lines[i]
    yield "lines changed round", b"".join(lines), False


def damaged_json(data, rng, reader, row=None):
    "Mutations of one JSON value: wrong types, lost and renamed keys, keys twice, depth."
    value = json.loads(data)
    path = rng.choice([*places(value)])
    key = next((k for k in reversed(path) if isinstance(k, str)), None)
    own = bool(path) and path[-1] == key
    kind = reader.wants.get(key)
    write = lambda v: json.dumps(v, ensure_ascii=False).encode()
    for new in rng.sample(ODD, 5):
        refuse = (own and kind is not None and not fits(new, kind)) or (not path and reader.whole)
        refuse |= not path and not isinstance(new, type(value)) and bool(reader.wants)
        yield (
            f"{'/'.join(map(str, path))} = {str(new)[:20]!r}",
            write(replaced(value, path, new)),
            refuse,
        )
    inside = [p for p in places(value) if p and isinstance(p[-1], str)]
    if inside:
        path = rng.choice(inside)
        kind, parent = reader.wants.get(path[-1]), at(value, path[:-1])
        rest = {k: v for k, v in parent.items() if k != path[-1]}
        needed = kind is not None and not kind.endswith("?")
        yield f"{path[-1]} lost", write(replaced(value, path[:-1], rest)), needed
        yield f"{path[-1]} renamed", write(replaced(value, path[:-1], rest | {"zzz": 1})), False
        twice = write(replaced(value, path[:-1], {"\0": 0, **parent}))
        again = json.dumps(path[-1]).encode() + b": 0"
        yield f"{path[-1]} twice", twice.replace(rb'"\u0000": 0', again, 1), kind is not None
    yield "deep", b"[" * 100_000 + b"]" * 100_000, True
    yield "stray comma", data.rstrip()[:-1] + b"," + data.rstrip()[-1:], reader.whole


def damaged_json_lines(data, rng, reader):
    "Mutations of a file of JSON lines: one of its lines, or what stands between them."
    lines = data.splitlines()
    i = rng.randrange(len(lines))
    for what, new, refuse in damaged_json(lines[i], rng, reader):
        yield f"row {i + 1}: {what}", b"\n".join([*lines[:i], new, *lines[i + 1 :]]) + b"\n", refuse


def damaged_csv(data, rng, reader):
    "Mutations of a CSV: cells, columns, numbers of fields."
    import csv
    import io

    rows = list(csv.reader(io.StringIO(data.decode(), newline="")))

    def write(rows):
        out = io.StringIO(newline="")
        csv.writer(out, lineterminator="\n").writerows(rows)
        return out.getvalue().encode()

    i, j = rng.randrange(1, len(rows)), rng.randrange(len(rows[0]))
    kind = reader.wants.get(rows[0][j])
    for new in rng.sample(
        ["", "abc", "nan", "inf", "-inf", "-1", "1e308", "9" * 400, "1,5", "3%", "True", "[1]"], 5
    ):
        cells = [*rows[i][:j], new, *rows[i][j + 1 :]]
        yield (
            f"{rows[0][j]} = {new[:20]!r}",
            write([*rows[:i], cells, *rows[i + 1 :]]),
            kind is not None and not fits_cell(new, kind),
        )
    yield (
        f"{rows[0][j]} lost",
        write([r[:j] + r[j + 1 :] for r in rows]),
        kind is not None and not kind.endswith("?"),
    )
    yield f"{rows[0][j]} twice", write([[*r, r[j]] for r in rows]), kind is not None
    yield "a field more", write([*rows[:i], [*rows[i], "x"], *rows[i + 1 :]]), True
    yield "a field less", write([*rows[:i], rows[i][:-1], *rows[i + 1 :]]), True
    yield "columns changed round", write([r[::-1] for r in rows]), False
    yield "no rows", write(rows[:1]), True
    yield "open quote", data.rstrip(b"\n") + b'\n"', True


def fits_cell(text, kind):
    "`fits` for the text of a CSV cell."
    bare = kind.removesuffix("?")
    if bare in ("text", "string"):
        return fits(text, kind)
    if text.lower() in ("", "nan"):
        return kind.endswith("?")
    if bare in ("flag", "share") and text in ("True", "False", "0", "1"):
        return True
    try:
        return bare != "flag" and fits(float(text), kind)
    except ValueError:
        return False


def damaged_parquet(data, rng, reader):
    "Mutations of a Parquet file: types, gaps, rows and columns, with the metadata as they were."
    table = pq.read_table(pa.BufferReader(data))

    def write(t):
        out = pa.BufferOutputStream()
        pq.write_table(t.replace_schema_metadata(table.schema.metadata), out)
        return out.getvalue().to_pybytes()

    name = rng.choice(table.column_names)
    j, n = table.column_names.index(name), len(table)
    kind = reader.wants.get(name) or next(
        (k for p, k in reader.wants.items() if p.endswith("*") and name.startswith(p[:-1])), None
    )
    for new, value in rng.sample(
        [
            (pa.nulls(n), None),
            (pa.array(["text"] * n), "text"),
            (pa.array([7.0] * n), 7.0),
            (pa.array([-3] * n), -3),
            (pa.array([["a"]] * n), ["a"]),
            (pa.array([float("inf")] * n), float("inf")),
            (pa.array([b"\xff"] * n), []),
            (pa.array([{"a": 1}] * n), {}),
            (pa.array([True] * n), True),
            (pa.array([""] * n), ""),
            (pa.array([0] * n, pa.timestamp("s")), []),
        ],
        5,
    ):
        yield (
            f"{name} of {new.type}",
            write(table.set_column(j, name, new)),
            kind is not None and not fits(value, kind),
        )
    yield (
        f"{name} lost",
        write(table.drop_columns([name])),
        kind is not None and not kind.endswith("?"),
    )
    yield f"{name} twice", write(table.append_column(name, table[name])), kind is not None
    yield "rows twice", write(pa.concat_tables([table, table])), reader.unique
    yield "no rows", write(table.slice(0, 0)), bool(reader.wants) and not reader.empty
    yield "other metadata", write_plain(table), False


def write_plain(table):
    out = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(None), out)
    return out.getvalue().to_pybytes()


KINDS = {
    ".json": [damaged_json, damaged_text],
    ".jsonl": [damaged_json_lines, damaged_text],
    ".csv": [damaged_csv, damaged_text],
    ".parquet": [damaged_parquet],
    ".txt": [damaged_text],
}


def mutations(path, reader, rng):
    "Endless (what was done, bytes, must it be refused?) of a valid file."
    data = path.read_bytes()
    makers = [damaged_bytes, *KINDS.get(path.suffix, [])]
    while True:
        for maker in makers:
            yield from maker(data, rng, reader)


# ------------------------------------------------------------------ what a reader made of it


def shown(value):
    "A reader's result as text, without the file's own hash."
    if is_dataclass(value):
        return {
            f.name: shown(getattr(value, f.name))
            for f in fields(value)
            if f.name not in ("provenance", "folder", "path")
        }
    if isinstance(value, pd.DataFrame):
        return shown(value.to_dict("list"))
    if isinstance(value, np.ndarray):
        return shown(value.tolist())
    if isinstance(value, dict):
        return {str(k): shown(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(v) for v in value]
    return repr(value)


def outcome(reader, path, expected, refuse):
    """same, changed, named, unplaced, raw or wrong, with the words.

    wrong: accepted, though it had to be refused.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = reader.read(path)
        except CompanionError as e:
            words = str(e)
            placed = path.name in words or path.stem in words or path.parent.name in words
            return ("named" if placed and "\n" not in words else "unplaced"), words
        except Exception as e:
            return "raw", f"{type(e).__name__}: {e}"
    if shown(found) == expected:
        return "same", ""
    return ("wrong" if refuse else "changed"), ""


def fuzz(reader, folder, tries, seed=SEED):
    "Counts of the outcomes of `tries` mutations, and the first words of each bad one."
    rng = random.Random(f"{seed} {reader.name}")
    path = Path(reader.make(folder))
    data, expected = path.read_bytes(), shown(reader.read(path))
    counts, bad = Counter(), {}
    for (what, new, refuse), _ in zip(mutations(path, reader, rng), range(tries)):
        path.write_bytes(new)
        kind, words = outcome(reader, path, expected, refuse)
        counts[kind] += 1
        if kind in ("raw", "wrong", "unplaced"):
            bad.setdefault(
                f"{kind}: {re.sub(r'[0-9]+', '#', words)[:60]}" if words else f"wrong: {what}",
                f"{what}: {kind} {words}"[:300],
            )
        path.write_bytes(data)
    return counts, bad


# ------------------------------------------------------------------ small valid files

PROMPTS = ["One?", 'Two,\nor "2"?', "Three?", "Vier äöü?"]
MODELS = ["small-7b", "large-70b"]
SCORE = [[0, 1], [1, 0], [1, 1], [0, 0]]
IDS = ["a1", "a2", "b1", "b2"]


def as_json(name, value):
    def make(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        return path

    return make


def as_lines(name, rows):
    def make(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8"
        )
        return path

    return make


def as_csv(name, header, rows):
    def make(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows, columns=header).to_csv(path, index=False)
        return path

    return make


def as_parquet(name, columns):
    def make(folder):
        pq.write_table(pa.table(columns), folder / name)
        return folder / name

    return make


def beside(make, *others):
    "`make`'s file among other files."

    def together(folder):
        for other in others:
            other(folder)
        return make(folder)

    return together


# sets
DC = [
    {"question": p, "scores": dict(zip(MODELS, map(float, s))), "cluster_id": 0}
    for p, s in zip(PROMPTS, SCORE)
]
MIX = [
    {
        "id": f"alpaca/{i}",
        "instruction": p,
        "input": "",
        "candidates": [
            {"model": m, "text": "...", "scores": {"bleu": 1.0, "bartscore": -1.0 - x}}
            for m, x in zip(MODELS, s)
        ],
    }
    for i, (p, s) in enumerate(zip(PROMPTS, SCORE))
]
ARENA = [
    {
        "global index": f"Star_{i}",
        "prompt": p,
        "prediction": MODELS[i % 2],
        "cost": 2e-5,
        "accuracy": float(i % 2),
        "generated_result": {
            "generated_answer": "x",
            "success": True,
            "token_usage": {"input_tokens": 30, "output_tokens": 4, "total_tokens": 34},
        },
    }
    for i, p in enumerate(PROMPTS)
]
RESULT = {
    "performance": 0.5,
    "dataset_name": "alpha",
    "split": "test",
    "model_name": "small-7b",
    "demo": False,
    "records": [
        {
            "index": i,
            "origin_query": p,
            "prompt": f"Q: {p}",
            "prediction": "x",
            "ground_truth": "y",
            "score": float(s[0]),
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "cost": 0.001,
        }
        for i, (p, s) in enumerate(zip(PROMPTS, SCORE))
    ],
}
CARROT = {t: {"Qs": PROMPTS[:2], "Ps": []} for t in ("bbh_a", "math_b")}
QUESTIONS = [
    {"question_id": 81 + i, "category": "writing", "turns": [p, "And then?"]}
    for i, p in enumerate(PROMPTS)
]
JUDGED = [
    {"question_id": 81 + i, "model": m, "turn": t, "score": 3 + i, "user_prompt": ""}
    for i in range(4)
    for m in MODELS
    for t in (1, 2)
]
BENCH = [
    [i, f"t.{i}", p, "farm", *s, "x", "y", 0.001, 0.02]
    for i, (p, s) in enumerate(zip(PROMPTS, SCORE))
]
BENCH_HEAD = [
    "",
    "sample_id",
    "prompt",
    "eval_name",
    *MODELS,
    *(f"{m}|model_response" for m in MODELS),
    *(f"{m}|total_cost" for m in MODELS),
]
EMBED = [
    [i, j, m, 7, "cat", s[j], p]
    for i, (p, s) in enumerate(zip(PROMPTS, SCORE))
    for j, m in enumerate(MODELS)
]
EMBED_HEAD = ["prompt_id", "model_id", "model_name", "category_id", "category", "label", "prompt"]
MMLU = [[f"{p}\nA. x\nB. y", *(bool(x) for x in s), "A", "B"] for p, s in zip(PROMPTS, SCORE)]
BIGBENCH = {
    "name": "t",
    "examples": [{"input": p, "target": ["yes", "no"]} for p in [*PROMPTS, "Five?", "Six?"]],
    "task_prefix": "Answer.",
    "example_input_prefix": "\nQ: ",
    "example_output_prefix": "\nA: ",
}
HOTPOT = [
    {
        "_id": i,
        "question": p,
        "answer": "yes",
        "type": "bridge",
        "context": [["Title", ["One.", "Two."]]],
        "supporting_facts": [["Title", 0]],
    }
    for i, p in zip(IDS, PROMPTS)
]
XBENCH = [{"instruction": p, "response": "yes"} for p in PROMPTS]


def original_pickle(folder):
    import pickle

    frame = pd.DataFrame(BENCH, columns=["i", *BENCH_HEAD[1:]]).astype(object)
    frame[list(BENCH_HEAD[4:6])] = frame[list(BENCH_HEAD[4:6])].astype(float)
    frame.columns = pd.Index(frame.columns, dtype=object)
    path = folder / "routerbench_0shot.pkl"
    path.write_bytes(pickle.dumps(frame, 4))
    return path


def todays_pickle(folder):
    path = folder / "routerbench_0shot.pkl"
    pd.DataFrame(BENCH, columns=["i", *BENCH_HEAD[1:]]).to_pickle(path)
    return path


def carrot_pickle(folder):
    import pickle

    judged = {
        t: {
            "models": [f"open-llm-leaderboard/{m}-details" for m in MODELS],
            "correctness": np.array(SCORE[:2], float).T,
        }
        for t in CARROT
    }
    path = folder / "new_leaderboard_processed_2024.pickle"
    path.write_bytes(pickle.dumps(judged, 4))
    return path


def sprout_file(folder):
    cell = lambda x: {
        "num_input_tokens": 10,
        "num_output_tokens": 5,
        "response": "...",
        "score": float(x),
    }
    return as_parquet(
        "test-00000-of-00001.parquet",
        {
            "key": range(4),
            "prompt": PROMPTS,
            "dataset": ["farm"] * 4,
            **{m: [cell(s[j]) for s in SCORE] for j, m in enumerate(MODELS)},
        },
    )(folder)


def result_file(folder):
    as_json("alpha/test/large-70b/20250101_000000.json", RESULT | {"model_name": "large-70b"})(
        folder
    )
    return as_json("alpha/test/small-7b/20250101_000000.json", RESULT)(folder)


# our own files
def outcomes_table():
    from routercompanion.data.outcomes import OutcomeTable

    return OutcomeTable(
        np.array(SCORE, float),
        {"usd": [0.1, 0.2], "params_b": [7, 70]},
        IDS,
        MODELS,
        task=["t"] * 4,
        domain=["d"] * 4,
        split=["test"] * 4,
        prompts=PROMPTS,
    )


def outcomes_file(folder):
    return outcomes_table().to_parquet(folder / "mine.parquet", with_prompts=True)


def small_bank():
    from routercompanion.data.bank import make_bank

    return make_bank(
        [
            dict(
                prompt=p,
                references=["yes"],
                choices=["yes", "no"],
                task="t",
                domain="d",
                source="s",
                split="test",
            )
            for p in PROMPTS
        ],
        {"t": "Q: a\nA: b\n"},
        "mine",
    )


def bank_file(folder):
    from routercompanion.data.bank import save_bank

    save_bank(small_bank(), folder / "mine.jsonl")
    return folder / "mine.jsonl"


def preferences_file(folder):
    from routercompanion.data.preferences import preference_records, write_preferences

    records = preference_records(IDS, PROMPTS, [1, 0.5, 0, 1], (["a"] * 4, ["b"] * 4), MODELS)
    return write_preferences(records, folder / "votes.jsonl")


def in_root(module, folder):
    "A patch that makes a module look for its files below `folder`."
    from unittest.mock import patch

    return patch(f"{module}.project_root", lambda *a: folder)


def signals_file(folder):
    from routercompanion.data import records

    with in_root("routercompanion.data.records", folder):
        return records.save_signals(
            "mine",
            small_bank().query_ids,
            {"entropy": [0.1, 0.2, np.nan, 0.4], "certainty": [1.0, 2.0, 3.0, 4.0]},
            {"made": "here"},
        )


def traces_file(folder):
    from routercompanion.studies import agentic
    from routercompanion.agents.agent import Trace

    traces = [Trace(key=i) for i in IDS]
    for t in traces:
        t.add("search", "one", "one?", ["Title"])
        t.finish("yes", "yes")
    with in_root("routercompanion.data.records", folder):
        return agentic.save_traces("mine", small_bank().query_ids, ["yes"] * 4, traces)


def read_traces(path):
    from routercompanion.studies import agentic

    with in_root("routercompanion.data.records", path.parents[2]):
        return agentic.recorded_traces(small_bank(), "mine")


def read_signals(path):
    from routercompanion.data import records

    with in_root("routercompanion.data.records", path.parents[2]):
        return records.recorded_signals("mine", small_bank(), with_about=True)


PUBLISHED = [
    ["xbench", "Table 1", r, c, "AUROC", 49.5, "percent", "small", "large", "test", "Table 1"]
    for r in ("SelfAsk", "Probe")
    for c in ("Alpaca", "MMLU")
]
PUBLISHED_HEAD = [
    "paper",
    "item",
    "row",
    "column",
    "metric",
    "value",
    "unit",
    "model_small",
    "model_large",
    "data",
    "source",
]
ITEMS = [
    ["xbench", "Table 1", "Ability", "analogue", "papers/xbench", ""],
    ["cscr", "Figure 2", "Pools", "analogue", "papers/cscr", "a note"],
]


def read_published(path):
    from routercompanion.report.tables import load_published

    with in_root("routercompanion.report.tables", path.parents[2]):
        return load_published("xbench", "Table 1")


def read_items(path):
    from routercompanion.report.tables import load_items

    with in_root("routercompanion.report.tables", path.parents[2]):
        return load_items()


def specialist(name):
    def make(folder):
        from routercompanion.core import file_hash, project_root
        import shutil

        shutil.copytree(project_root() / "data" / "adapters" / "smollm2-rules", folder / "mine")
        log = json.loads((folder / "mine" / "log.json").read_text())[:3]
        (folder / "mine" / "log.json").write_text(json.dumps(log))
        assert file_hash(folder / "mine" / "adapter_model.safetensors")
        return folder / "mine" / name

    return make


def read_specialist(path):
    from routercompanion.models.adapters import read_specialist

    return read_specialist(path.parent)


def answers_file(folder):
    read_answers(folder / "x")
    return next((folder / "answers").rglob("*.jsonl"))


class FakeModel:
    "Stands in for a `CausalLM`: what `answer_bank` asks of it."

    name, hash, dtype = "fake", "0" * 64, "float32"

    def generate(self, bank, *, max_new_tokens):
        from types import SimpleNamespace

        return SimpleNamespace(
            text=["yes"] * len(bank),
            tokens_in=[5] * len(bank),
            tokens_out=[2] * len(bank),
            seconds=[0.1] * len(bank),
        )

    def sample(self, bank, **options):
        from routercompanion.models.causal_lm import Samples

        n, k = len(bank), options["samples"]
        grid = np.ones((n, k))
        return Samples(**{f: [["yes"] * k] * n if f == "text" else grid for f in Samples._fields})


def cached(path):
    from unittest.mock import patch

    root = (
        next(p for p in (path, *path.parents) if (p / "answers").is_dir() or p == path).parent
        if path.name == "x"
        else next(p for p in path.parents if (p / "answers").is_dir())
    )
    return patch.dict(
        os.environ, {"ROUTERCOMPANION_CACHE": str(root), "ROUTERCOMPANION_QUIET": "1"}
    )


def read_answers(path):
    from routercompanion.judging.recording import answer_bank

    with cached(path):
        return answer_bank(FakeModel(), small_bank())


def run_log(folder):
    from routercompanion.agents.agent import RunLog, Trace

    traces = [Trace(key=i) for i in IDS]
    for t in traces:
        t.finish("yes", "yes")
    RunLog(folder / "run.jsonl", {"run": "agent"}).add(traces)
    return folder / "run.jsonl"


def read_run_log(path):
    from routercompanion.agents.agent import RunLog

    return RunLog(path, {"run": "agent"}).read()


def fingerprints_file(folder):
    from routercompanion.features.fingerprints import FingerprintRecord, TokenTable, save_record

    grid = np.ones((2, 4), np.float32)
    table = TokenTable(["a", "b", "c", "d"], np.ones(4), np.ones(4), 4)
    return save_record(
        FingerprintRecord(MODELS, table, grid, grid, grid, grid, grid, IDS, {"made": "here"}),
        folder / "prints.safetensors",
    )


def flips(path):
    from routercompanion.data.evidence import label_flip_rate
    from routercompanion.data.outcomes import OutcomeTable

    return label_flip_rate(outcomes_table(), OutcomeTable.from_parquet(path), model="small-7b")


def lazy(module, name, *, folder=False, **options):
    "A reader that is imported when it is called; with `folder` it is given the file's folder."

    def read(path):
        from importlib import import_module

        return getattr(import_module(f"routercompanion.{module}"), name)(
            path.parent if folder else path, **options
        )

    return read


def results_of(path):
    from routercompanion.data.sets.exchange import from_llmrouterbench

    return from_llmrouterbench(path.parents[3])


def task_of(path):
    from routercompanion.data.banks.embedded import bigbench_task

    return bigbench_task("t", domain="d", split="test", folder=path.parents[1])


def prompts_of(path):
    from routercompanion.data.banks.routerxbench import load_routerxbench

    return load_routerxbench("alpaca_test", folder=path.parents[2])


def recorded_prompts(path):
    from routercompanion.data.banks.routellm import load_routellm_prompts

    return load_routellm_prompts("mmlu", folder=path.parents[4], answers=[])


def blocks_of(path):
    from routercompanion.data.blocks import iter_outcomes

    return [*iter_outcomes(path, block=1), *iter_outcomes(path, block=2, by="queries")]


OUTCOMES = {
    "query_id": "text",
    "score:*": "share",
    "usd:*": "cost",
    "params_b:*": "cost",
    "task": "string?",
    "prompts": "string?",
}
PAIR = ["gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1"]
READERS = [
    Reader(
        "routerdc",
        as_json("alpha_test.json", DC),
        lazy("data.sets.routerdc", "load_routerdc"),
        {"question": "text", "scores": "object", **dict.fromkeys(MODELS, "share?")},
        whole=True,
    ),
    Reader(
        "mixinstruct",
        as_lines("test_data_prepared.jsonl", MIX),
        lazy("data.sets.mixinstruct", "load_mixinstruct"),
        {
            "id": "text",
            "instruction": "text",
            "input": "string?",
            "candidates": "list",
            "model": "text",
            "scores": "object",
        },
    ),
    Reader(
        "routerarena",
        as_json("mine.json", ARENA),
        lazy("data.sets.exchange", "from_routerarena"),
        {
            "prompt": "text",
            "prediction": "text",
            "cost": "cost?",
            "accuracy": "share?",
            "generated_result": "object?",
            "token_usage": "object?",
            "input_tokens": "cost?",
            "output_tokens": "cost?",
            "total_tokens": "cost?",
        },
        whole=True,
    ),
    Reader(
        "routerarena lines",
        as_lines("mine.jsonl", ARENA),
        lazy("data.sets.exchange", "from_routerarena"),
        {
            "prompt": "text",
            "prediction": "text",
            "cost": "cost?",
            "accuracy": "share?",
            "generated_result": "object?",
            "token_usage": "object?",
        },
        unique=True,
    ),
    Reader(
        "llmrouterbench",
        result_file,
        results_of,
        {
            "records": "list",
            "index": "whole",
            "score": "share?",
            "cost": "cost?",
            "prompt_tokens": "cost?",
            "completion_tokens": "cost?",
            "origin_query": "text",
            "demo": "flag?",
        },
        whole=True,
    ),
    Reader(
        "carrot json",
        beside(as_json("data_QA.json", CARROT), carrot_pickle),
        lazy("data.sets.carrot", "load_open_llm_leaderboard", folder=True),
        {"Qs": "list"},
        whole=True,
    ),
    Reader(
        "carrot pickle",
        beside(carrot_pickle, as_json("data_QA.json", CARROT)),
        lazy("data.sets.carrot", "load_open_llm_leaderboard", folder=True),
        whole=True,
    ),
    Reader(
        "leaderboard",
        as_parquet(
            "board.parquet",
            {
                "prompt": PROMPTS,
                "scenario": ["math"] * 4,
                **{m: [float(s[j]) for s in SCORE] for j, m in enumerate(MODELS)},
            },
        ),
        lazy("data.sets.carrot", "load_open_llm_leaderboard"),
        {"prompt": "text", "scenario": "text"},
        whole=True,
    ),
    Reader(
        "sprout",
        sprout_file,
        lazy("data.sets.carrot", "load_sprout"),
        {"prompt": "text", "dataset": "text"},
        whole=True,
    ),
    Reader(
        "routerbench csv",
        as_csv("farm_test.csv", BENCH_HEAD, BENCH),
        lazy("data.sets.routerbench", "load_routerbench"),
        {
            "prompt": "text",
            "eval_name": "text",
            **dict.fromkeys(MODELS, "share?"),
            **{f"{m}|total_cost": "cost?" for m in MODELS},
        },
    ),
    Reader(
        "routerbench pickle",
        original_pickle,
        lazy("data.sets.routerbench", "load_routerbench"),
        whole=True,
    ),
    Reader(
        "routerbench pickle of today",
        todays_pickle,
        lazy("data.sets.routerbench", "load_routerbench"),
        whole=True,
    ),
    Reader(
        "embedllm",
        as_csv("train.csv", EMBED_HEAD, EMBED),
        lazy("data.sets.embedllm", "load_embedllm"),
        {
            "prompt_id": "whole",
            "model_name": "text",
            "category": "text",
            "label": "share?",
            "prompt": "text",
        },
        unique=True,
    ),
    Reader(
        "routellm mmlu",
        as_csv("mmlu_alpha.csv", ["prompt", *MODELS, *(f"{m}_response" for m in MODELS)], MMLU),
        lazy("data.sets.routellm", "load_routellm", folder=True),
        {"prompt": "text", **dict.fromkeys(MODELS, "flag?")},
    ),
    Reader(
        "mt-bench judgements",
        beside(as_lines("judgements.jsonl", JUDGED), as_lines("question.jsonl", QUESTIONS)),
        lazy("data.sets.routellm", "load_routellm", folder=True, benchmark="mt_bench"),
        {"question_id": "whole", "model": "text", "turn": "whole"},
        unique=True,
    ),
    Reader(
        "mt-bench questions",
        beside(as_lines("question.jsonl", QUESTIONS), as_lines("judgements.jsonl", JUDGED)),
        lazy("data.sets.routellm", "load_routellm", folder=True, benchmark="mt_bench"),
        {"category": "text", "turns": "list"},
        unique=True,
    ),
    Reader(
        "bigbench task",
        as_json("t/task.json", BIGBENCH),
        task_of,
        {
            "examples": "list",
            "input": "string",
            "task_prefix": "string?",
            "example_input_prefix": "string?",
            "example_output_prefix": "string?",
        },
        whole=True,
    ),
    Reader(
        "hotpotqa json",
        as_json("hotpot.json", HOTPOT),
        lazy("data.banks.hotpotqa", "load_hotpotqa"),
        {"question": "text", "answer": "text"},
        whole=True,
    ),
    Reader(
        "hotpotqa lines",
        as_lines("hotpot.jsonl", HOTPOT),
        lazy("data.banks.hotpotqa", "load_hotpotqa"),
        {"question": "text", "answer": "text"},
        unique=True,
    ),
    Reader(
        "hotpotqa parquet",
        as_parquet(
            "hotpot.parquet",
            {
                "id": IDS,
                "question": PROMPTS,
                "answer": ["yes"] * 4,
                "type": ["bridge"] * 4,
                "context": [{"title": ["T"], "sentences": [["One."]]}] * 4,
                "supporting_facts": [{"title": ["T"], "sent_id": [0]}] * 4,
            },
        ),
        lazy("data.banks.hotpotqa", "load_hotpotqa"),
        {"question": "text", "answer": "text"},
        whole=True,
        unique=True,
    ),
    Reader(
        "routerxbench prompts",
        as_lines("src/data/alpaca_5k_test.jsonl", XBENCH),
        prompts_of,
        {"instruction": "text", "response": "text"},
    ),
    Reader(
        "routellm records",
        as_csv(
            "routellm/evals/mmlu/responses/mmlu_alpha.csv", ["prompt", *PAIR], [r[:3] for r in MMLU]
        ),
        recorded_prompts,
        {"prompt": "text", **dict.fromkeys(PAIR, "flag")},
    ),
    Reader(
        "bank",
        bank_file,
        lazy("data.bank", "load_bank"),
        {
            "prompt": "text",
            "references": "list",
            "task": "text",
            "domain": "string",
            "source": "string",
            "split": "text",
            "query_id": "text",
            "shots": "object",
            "name": "string",
        },
        unique=True,
    ),
    Reader(
        "preferences",
        preferences_file,
        lazy("data.preferences", "read_preferences"),
        {
            # an id may be a text or a whole number
            "model_a": "text",
            "model_b": "text",
            "prompt": "text",
            "response_a": "text",
            "response_b": "text",
        },
        unique=True,
    ),
    Reader(
        "outcomes",
        outcomes_file,
        lambda path: outcomes_table().from_parquet(path),
        OUTCOMES,
        whole=True,
        unique=True,
        empty=True,
    ),
    Reader("outcomes in blocks", outcomes_file, blocks_of, OUTCOMES, whole=True, empty=True),
    Reader("flip rate", outcomes_file, flips, whole=True),
    Reader(
        "signals",
        signals_file,
        read_signals,
        {"query_id": "text", "entropy": "number?", "certainty": "number?"},
        whole=True,
        unique=True,
    ),
    Reader(
        "traces",
        traces_file,
        read_traces,
        {
            "query_id": "text",
            "steps": "text",
            "answer": "string",
            "stop": "string",
            "direct": "string",
        },
        whole=True,
        unique=True,
    ),
    Reader(
        "run log",
        run_log,
        read_run_log,
        {"key": "text", "steps": "list", "answer": "string", "stop": "string"},
        unique=True,
        open_end=True,
    ),
    Reader(
        "fingerprints",
        fingerprints_file,
        lazy("features.fingerprints", "recorded_fingerprints"),
        whole=True,
    ),
    Reader(
        "published",
        as_csv("data/paper/xbench_table1.csv", PUBLISHED_HEAD, PUBLISHED),
        read_published,
        {"row": "text", "column": "text", "metric": "text", "value": "number?", "unit": "text"},
        unique=True,
    ),
    Reader(
        "items",
        as_csv(
            "data/paper/items.csv", ["paper", "item", "title", "status", "notebook", "note"], ITEMS
        ),
        read_items,
        {"paper": "text", "item": "text", "title": "text", "status": "text"},
        unique=True,
    ),
    Reader(
        "paper setup",
        as_json(
            "setup.json",
            {
                "small": "a/b",
                "others": ["c/d"],
                "max_new_tokens": 64,
                "timeout": 5.5,
                "options": {"temperature": 0},
            },
        ),
        lazy("studies.xbench", "paper_setup"),
        {
            "small": "text?",
            "others": "list?",
            "max_new_tokens": "whole?",
            "timeout": "cost?",
            "options": "object?",
        },
        whole=True,
    ),
    Reader(
        "specialist provenance",
        specialist("provenance.json"),
        read_specialist,
        {
            "name": "text",
            "base": "text",
            "column": "text",
            "base_sha256": "text",
            "adapter_sha256": "text",
        },
        whole=True,
    ),
    Reader(
        "specialist log",
        specialist("log.json"),
        read_specialist,
        {"epoch": "whole", "step": "whole", "task": "text", "loss": "number"},
        whole=True,
    ),
    Reader(
        "answers",
        answers_file,
        read_answers,
        {
            "query_id": "text",
            "text": "string",
            "tokens_in": "whole",
            "tokens_out": "whole",
            "seconds": "cost",
        },
        unique=True,
    ),
]


@pytest.mark.parametrize("reader", READERS, ids=lambda r: r.name)
def test_a_damaged_file_is_refused_by_name_or_read_as_before(reader, tmp_path):
    counts, bad = fuzz(reader, tmp_path, TRIES)
    assert not bad, f"{reader.name}: {dict(counts)}\n" + "\n".join(bad.values())
