"""Loaders of the public outcome sets: one contract over small files in the sets' own formats, bad input, pickles, blocks, two leaderboards,
and (where a local mirror is at hand) the real files against an independent count."""

import csv
import json
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routercompanion import data
from routercompanion.data.bank import query_id
from routercompanion.data.sets import sources
from routercompanion.core import UnknownNameError, project_root
from routercompanion.data.blocks import iter_outcomes, summarise_blocks, write_outcomes
from routercompanion.data.outcomes import (
    AlignmentError,
    CostError,
    DuplicateIdError,
    OutcomeError,
    OutcomeFileError,
    OutcomeTable,
    ScoreRangeError,
    ShapeError,
)
from routercompanion.data.own_csv import CsvError, load_csv
from routercompanion.data.sets.carrot import load_open_llm_leaderboard, load_sprout
from routercompanion.data.sets.embedllm import load_embedllm
from routercompanion.data.sets.exchange import (
    from_llmrouterbench,
    from_routerarena,
    to_llmrouterbench,
    to_routerarena,
)
from routercompanion.data.sets.mixinstruct import load_mixinstruct
from routercompanion.data.sets.pickles import RefusedPickleError, read_pickled_frame
from routercompanion.data.sets.routellm import load_routellm
from routercompanion.data.sets.routerbench import load_routerbench
from routercompanion.data.sets.routerdc import load_routerdc
from routercompanion.data.sets.sources import (
    OUTCOME_SETS,
    SchemaError,
    SourceError,
    params_from_name,
)

quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NAN = float("nan")
MODELS, PROMPTS, TASKS = (
    ["small-7b", "large-70b"],
    ["One?", 'Two,\nor "2"?', "Three?", "Vier äöü?"],
    ["alpha", "alpha", "beta", "beta"],
)
SCORE = [[0, 1], [1, NAN], [1, 1], [0, 0]]
absent = lambda x: x != x
by_task = lambda rows, tasks: {
    t: [r for r, u in zip(rows, tasks) if u == t] for t in dict.fromkeys(tasks)
}


def write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows(rows)
    return path


# ------------------------------------------------------------------ small files in the formats of the sets: (folder, score, prompts, tasks) -> loader


def own_csv(d, score, prompts, tasks):
    path = write_csv(
        d / "mine.csv",
        [
            ["prompt", "task", *MODELS],
            *(
                [p, t, *("" if absent(x) else x for x in row)]
                for row, p, t in zip(score, prompts, tasks)
            ),
        ],
    )
    return lambda **kw: load_csv(path, **kw)


def routellm(d, score, prompts, tasks):
    word = lambda x: "" if absent(x) else {0: "False", 1: "True"}.get(x, x)
    for t, rows in by_task(list(zip(prompts, score)), tasks).items():
        write_csv(
            d / f"mmlu_{t}.csv",
            [
                ["prompt", *MODELS, "small-7b_response"],
                *([p, *map(word, row), "text"] for p, row in rows),
            ],
        )
    return lambda **kw: load_routellm(d, **kw)


def routerdc(d, score, prompts, tasks):
    for t, rows in by_task(list(zip(prompts, score)), tasks).items():
        found = [
            {
                "question": p,
                "scores": {m: x for m, x in zip(MODELS, row) if not absent(x)},
                "cluster_id": 0,
            }
            for p, row in rows
        ]
        (d / f"{t}_test.json").write_text(json.dumps(found))
    return lambda **kw: load_routerdc(d, **kw)


def bench_frame(score, prompts, tasks, usd=((0.001, 0.02),)):
    frame = {
        "sample_id": [f"{t}.dev.{i}" for i, t in enumerate(tasks)],
        "prompt": [repr([p]) for p in prompts],
        "eval_name": list(tasks),
    }
    for j, m in enumerate(MODELS):
        frame[m] = [row[j] for row in score]
    for m in MODELS:
        frame[f"{m}|model_response"] = ["text"] * len(tasks)
    for j, m in enumerate(MODELS):
        frame[f"{m}|total_cost"] = [usd[i % len(usd)][j] for i in range(len(tasks))]
    return pd.DataFrame(frame)


def routerbench_csv(d, score, prompts, tasks, **kw):
    bench_frame(score, prompts, tasks, **kw).to_csv(d / "arc_test.csv")
    return lambda **kw: load_routerbench(d, **kw)


def routerbench_pickle(d, score, prompts, tasks, protocol=4, **kw):
    frame = bench_frame(score, prompts, tasks, **kw)
    frame = frame.astype({c: object for c in frame.columns if frame[c].dtype.kind not in "fi"})
    frame.columns = pd.Index(
        frame.columns, dtype=object
    )  # as the original was written, long before pandas had a type for texts
    path = d / "routerbench_0shot.pkl"
    path.write_bytes(pickle.dumps(frame, protocol).replace(b"cnumpy._core.", b"cnumpy.core."))
    return lambda **kw: load_routerbench(path, **kw)


def embedllm(d, score, prompts, tasks):
    rows = [
        [i, j, m, 7, t, score[i][j], p]
        for i, (p, t) in enumerate(zip(prompts, tasks))
        for j, m in enumerate(MODELS)
        if not absent(score[i][j])
    ]
    write_csv(
        d / "test.csv",
        [
            ["prompt_id", "model_id", "model_name", "category_id", "category", "label", "prompt"],
            *rows,
        ],
    )
    return lambda **kw: load_embedllm(d, **kw)


def mixinstruct(d, score, prompts, tasks):
    candidates = lambda row: [
        {
            "model": m,
            "text": "...",
            "scores": {"bleu": 1.0, "bartscore": float(np.log((1 + x) / 2))},
        }
        for m, x in zip(MODELS, row)
        if not absent(x)
    ]
    rows = [
        {"id": f"{t}/{i}", "instruction": p, "input": "", "candidates": candidates(row)}
        for i, (p, t, row) in enumerate(zip(prompts, tasks, score))
    ]
    (d / "test_data_prepared.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8"
    )
    return lambda **kw: load_mixinstruct(d, **kw)


def sprout(d, score, prompts, tasks):
    cell = lambda x: (
        None
        if absent(x)
        else {"num_input_tokens": 10, "num_output_tokens": 5, "response": "...", "score": float(x)}
    )
    pq.write_table(
        pa.table(
            {
                "key": range(len(tasks)),
                "prompt": prompts,
                "dataset": tasks,
                **{m: [cell(row[j]) for row in score] for j, m in enumerate(MODELS)},
            }
        ),
        d / "test-00000-of-00001.parquet",
    )
    return lambda **kw: load_sprout(d, **kw)


def leaderboard(d, score, prompts, tasks):
    pq.write_table(
        pa.table(
            {
                "index": range(len(tasks)),
                "prompt": prompts,
                "scenario": tasks,
                **{
                    m: [None if absent(row[j]) else float(row[j]) for row in score]
                    for j, m in enumerate(MODELS)
                },
            }
        ),
        d / "board.parquet",
    )
    return lambda **kw: load_open_llm_leaderboard(d, **kw)


def carrot(d, score, prompts, tasks):
    asked = {
        t: {"Qs": [p for p, _ in rows], "Ps": []}
        for t, rows in by_task(list(zip(prompts, score)), tasks).items()
    }
    judged = {
        t: {
            "models": [f"open-llm-leaderboard/{m}-details" for m in MODELS],
            "correctness": np.array([r for _, r in rows], float).T,
        }
        for t, rows in by_task(list(zip(prompts, score)), tasks).items()
    }
    (d / "data_QA.json").write_text(json.dumps(asked))
    (d / "new_leaderboard_processed_2024.pickle").write_bytes(pickle.dumps(judged, 4))
    return lambda **kw: load_open_llm_leaderboard(d, **kw)


def llmrouterbench(d, score, prompts, tasks):
    for t, rows in by_task(list(zip(prompts, score)), tasks).items():
        for j, m in enumerate(MODELS):
            records = [
                {
                    "index": i + 1,
                    "origin_query": p,
                    "prompt": f"Q: {p}",
                    "prediction": "x",
                    "ground_truth": "y",
                    "score": None if absent(r[j]) else r[j],
                    "prompt_tokens": 10,
                    "completion_tokens": 5,
                    "cost": 0.001,
                }
                for i, (p, r) in enumerate(rows)
            ]
            path = d / t / "test" / m / "20250101_000000.json"
            path.parent.mkdir(parents=True)
            path.write_text(
                json.dumps(
                    {
                        "performance": 0.5,
                        "dataset_name": t,
                        "split": "test",
                        "model_name": m,
                        "demo": False,
                        "records": records,
                    }
                )
            )
    return lambda **kw: from_llmrouterbench(d, **kw)


half = lambda s: (1 + np.array(s, float)) / 2
same = lambda s: np.array(s, float)
# name -> (maker, what the loader should show, costs, (error, file, row) when SCORE[2][1] is 2, has tasks inside the file, knows repeats)
SETS = {
    "load_csv": (own_csv, same, set(), (ScoreRangeError, "mine.csv", 4), False, False),
    "routellm": (routellm, same, set(), (CsvError, "mmlu_beta.csv", 2), False, True),
    "routerdc": (routerdc, same, {"params_b"}, (ScoreRangeError, "beta_test.json", 1), False, True),
    "routerbench csv": (
        routerbench_csv,
        same,
        {"usd"},
        (ScoreRangeError, "arc_test.csv", 4),
        True,
        True,
    ),
    "routerbench pickle": (
        routerbench_pickle,
        same,
        {"usd"},
        (ScoreRangeError, "routerbench_0shot.pkl", 2),
        True,
        True,
    ),
    "embedllm": (embedllm, same, {"params_b"}, (ScoreRangeError, "test.csv", 6), True, True),
    "mixinstruct": (
        mixinstruct,
        half,
        {"params_b"},
        (ScoreRangeError, "test_data_prepared.jsonl", 3),
        True,
        True,
    ),
    "sprout": (
        sprout,
        same,
        {"tokens"},
        (ScoreRangeError, "test-00000-of-00001.parquet", 2),
        True,
        True,
    ),
    "open-llm-leaderboard": (
        leaderboard,
        same,
        {"params_b"},
        (ScoreRangeError, "board.parquet", 2),
        True,
        True,
    ),
    "open-llm-leaderboard carrot": (
        carrot,
        same,
        {"params_b"},
        (ScoreRangeError, "data_QA.json: beta", 0),
        False,
        True,
    ),
    "llmrouterbench": (
        llmrouterbench,
        same,
        {"usd", "tokens"},
        (ScoreRangeError, "20250101_000000.json", 1),
        False,
        False,
    ),
}
every = pytest.mark.parametrize("name", SETS)
those = lambda k: pytest.mark.parametrize("name", [n for n, s in SETS.items() if s[k]])


@every
def test_contract(name, tmp_path):
    make, shown, costs, *_ = SETS[name]
    load = make(tmp_path, SCORE, PROMPTS, TASKS)
    t = load()
    assert isinstance(t, OutcomeTable) and sorted(t.models) == sorted(MODELS)
    np.testing.assert_allclose(t.select(MODELS).score, shown(SCORE).astype(np.float32), rtol=1e-6)
    assert (
        t.prompts.tolist() == PROMPTS
        and t.task.tolist() == TASKS
        and t.query_ids.tolist() == list(map(query_id, TASKS, PROMPTS))
    )
    assert set(t.cost) == costs and all(c.shape == (4, 2) for c in t.cost.values())
    assert t.provenance.startswith("recorded: ") and "sha256 " in t.provenance
    assert name == "load_csv" or "1 of 8 outcomes missing" in t.provenance, (
        "a gap is counted, never dropped"
    )
    if name.split()[0] in OUTCOME_SETS:
        assert (
            t.correct_rule == OUTCOME_SETS[name.split()[0]].rule
            and OUTCOME_SETS[name.split()[0]].title in t.provenance
        )
    assert t.equals(load()), "two loads agree"
    assert OutcomeTable.from_parquet(
        t.to_parquet(tmp_path / "t.parquet", with_prompts=True)
    ).equals(t)


@every
def test_score_outside_unit_interval_names_file_row_and_column(name, tmp_path):
    make, *_, (kind, file, row), _, _ = SETS[name]
    load = make(tmp_path, [*SCORE[:2], [1, 2], SCORE[3]], PROMPTS, TASKS)
    with pytest.raises(kind) as caught:
        load()
    assert (
        Path(caught.value.source).name == file and caught.value.row == row and caught.value.column
    ), caught.value


@those(5)
def test_repeated_queries_are_kept_and_counted_or_refused(name, tmp_path):
    make = SETS[name][0]
    load = make(tmp_path, SCORE, ["One?", " one? ", *PROMPTS[2:]], TASKS)
    t = load()
    assert len(t) == 4 and len(set(t.query_ids)) == 4 and "1 repeated queries" in t.provenance
    assert t.query_ids[0] == query_id("alpha", "One?") != t.query_ids[1]
    with pytest.raises(DuplicateIdError, match="stands in the set twice.*see row"):
        load(repeats="error")
    with pytest.raises(UnknownNameError):
        load(repeats="drop")


@those(4)
@pytest.mark.parametrize("empty", ["", "  "])
def test_empty_category(name, empty, tmp_path):
    load = SETS[name][0](tmp_path, SCORE, PROMPTS, ["alpha", empty, "beta", "beta"])
    with pytest.raises(SchemaError, match="category is empty. Name the task") as caught:
        load()
    assert caught.value.row is not None and caught.value.column == "task"


LOADERS = {
    "routellm": load_routellm,
    "routerdc": load_routerdc,
    "routerbench": load_routerbench,
    "embedllm": load_embedllm,
    "mixinstruct": load_mixinstruct,
    "sprout": load_sprout,
    "open-llm-leaderboard": load_open_llm_leaderboard,
}


@pytest.mark.parametrize("name", LOADERS)
def test_source_absent_empty_or_from_the_lock(name, tmp_path, monkeypatch):
    with pytest.raises(SourceError, match="no such file or folder"):
        LOADERS[name](tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no file matches"):
        LOADERS[name](tmp_path / "empty")
    asset, asked = OUTCOME_SETS[name].asset, []
    (tmp_path / "set").mkdir()
    expected = next(make for n, (make, *_) in SETS.items() if n.split()[0] == name)(
        tmp_path / "set", SCORE, PROMPTS, TASKS
    )()

    class OneAsset:
        assets = {asset: {}}

        @classmethod
        def load(cls):
            return cls

    monkeypatch.setattr(sources, "Lock", OneAsset)
    monkeypatch.setattr(sources, "get_asset", lambda a, lock: asked.append(a) or tmp_path / "set")
    assert LOADERS[name]().equals(expected) and asked == [asset]
    OneAsset.assets = {}
    with pytest.raises(
        SourceError, match="not in the asset lock. Download it .*pass source=FOLDER"
    ):
        LOADERS[name]()


def test_lock_holds_what_the_project_says():
    from routercompanion.assets.lock import Lock

    assert {OUTCOME_SETS[n].asset for n in ("routellm", "routerdc", "routerbench")} <= set(
        Lock.load().assets
    )


# ------------------------------------------------------------------ CSV: shifted, cut, wrong

GOOD = "prompt_id,model_name,category,label,prompt\n0,a-7b,x,1,One?\n0,b-8b,x,0,One?\n1,a-7b,y,,Two?\n1,b-8b,y,1,Two?\n"


@pytest.mark.parametrize(
    "old,new,kind,message",
    [
        (
            "0,b-8b,x,0,One?",
            "0,b-8b,x,0,One, two?",
            CsvError,
            "row 3: 6 fields where the header has 5.*double quotes",
        ),
        ("0,b-8b,x,0,One?", "0,b-8b,x,0", CsvError, "row 3: 4 fields where the header has 5"),
        (
            "0,b-8b,x,0,One?",
            "0,b-8b,0,x,One?",
            CsvError,
            "row 3, column 'label': .*invalid value 'x'.*shifted",
        ),
        (
            "0,b-8b,x,0,One?",
            "b-8b,0,x,0,One?",
            CsvError,
            "row 3, column 'prompt_id': .*invalid value 'b-8b'",
        ),
        (
            "0,b-8b,x,0,One?",
            '0,b-8b,x,0,"One?',
            CsvError,
            "row 3: a double quote is opened and never closed",
        ),
        ("1,b-8b,y,1", "1,b-8b,y,85", ScoreRangeError, "row 5, column 'label': label 85 "),
        (
            "1,b-8b,y,1",
            "1,b-8b,y,-1",
            ScoreRangeError,
            "row 5, column 'label': label -1 .*Leave a missing label empty",
        ),
        (
            "1,b-8b,y,1,Two?",
            "1,a-7b,y,1,Two?",
            DuplicateIdError,
            r"row 5, column 'prompt_id'.*see row 4 of train.csv.*repeated_cells='mean'",
        ),
        ("1,b-8b,y,1", ",b-8b,y,1", SchemaError, "row 5, column 'prompt_id': the value is missing"),
        (
            "label,prompt",
            "verdict,prompt",
            SchemaError,
            "row 1, column 'label': 'label' is missing; there are 'prompt_id'",
        ),
        (
            "label,prompt",
            "prompt,prompt",
            CsvError,
            "row 1, column 'prompt': a column name occurs twice",
        ),
        (GOOD, "", CsvError, "the file is empty"),
        (GOOD, GOOD[: GOOD.index("\n") + 1], SchemaError, "there are no rows"),
    ],
)
def test_embedllm_bad_csv(old, new, kind, message, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(kind, match=f"train.csv.*{message}"):
        load_embedllm(path)


def test_embedllm_long_rows_by_brute_force(tmp_path):
    rng, cells = np.random.default_rng(0), {}
    rows = []
    for q, m in rng.permutation([(q, m) for q in range(40) for m in range(7)]).tolist():
        if rng.random() < 0.8:
            cells[q, m] = int(rng.integers(0, 2))
            rows.append([1000 - q, m, f"fam{m}-{m + 1}b", "cat", cells[q, m], f"prompt {q}"])
    cut = len(rows) // 2
    header = ["prompt_id", "model_id", "model_name", "category", "label", "prompt"]
    (
        write_csv(tmp_path / "train.csv", [header, *rows[:cut]]),
        write_csv(tmp_path / "val.csv", [header, *rows[cut:]]),
    )
    t = load_embedllm(tmp_path)
    for i, p in enumerate(t.prompts):
        for j, m in enumerate(t.models):
            expected = cells.get((int(p.split()[1]), int(m[3 : m.index("-")])), NAN)
            assert np.array_equal(t.score[i, j], expected, equal_nan=True)
    assert f"{280 - len(cells)} of 280 outcomes missing" in t.provenance and set(t.split) == {
        "train",
        "val",
    }
    assert [t.cost["params_b"][0, j] for j in range(7)] == [params_from_name(m) for m in t.models]


def test_embedllm_repeated_cells_mean_ignores_gaps(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(GOOD + "1,a-7b,y,1,Two?\n0,a-7b,x,0,One?\n")
    with pytest.raises(DuplicateIdError):
        load_embedllm(path)
    t = load_embedllm(path, repeated_cells="mean")
    assert t.score.tolist() == [[0.5, 0], [1, 1]] and "2 cells averaged" in t.provenance


def test_params():
    names = (
        "x-7b",
        "X-1.5B-chat",
        "mixtral-8x7b",
        "WizardLM-2-8x22B",
        "foo-8x3b",
        "bloom-7b1",
        "llama3-8b",
        "gemma-3-270m",
    )
    assert [params_from_name(n) for n in names] == [7, 1.5, 46.7, 141, 24, 7.1, 8, 0.27]
    assert np.isnan(params_from_name("gpt-3.5-turbo")) and np.isnan(params_from_name("claude-v2"))


def test_given_params_win_and_zero_is_refused(tmp_path):
    load = embedllm(tmp_path, SCORE, PROMPTS, TASKS)
    t = load(params_b={"small-7b": 7.24})
    assert t.cost["params_b"][0].tolist() == [np.float32(7.24), 70] and t.metadata["small-7b"] == {
        "params_b": 7.24,
        "params_from": "given",
    }
    with pytest.raises(CostError, match="params_b 0 .*not above 0"):
        load(params_b={"small-7b": 0})
    with pytest.raises(UnknownNameError, match="model in params_b 'smal'"):
        load(params_b={"smal": 7})


# ------------------------------------------------------------------ RouterBench: prices and the pickle


@pytest.mark.parametrize("make,row", [(routerbench_csv, 5), (routerbench_pickle, 3)])
def test_routerbench_prices(make, row, tmp_path):
    t = make(tmp_path, SCORE, PROMPTS, TASKS, usd=[(0, 0.5), (NAN, 0.5), (0.25, 0.5), (0, 0)])()
    np.testing.assert_array_equal(
        t.cost["usd"], np.float32([[0, 0.5], [NAN, 0.5], [0.25, 0.5], [0, 0]])
    )
    load = make(tmp_path, SCORE, PROMPTS, TASKS, usd=[(0, 0.5), (0, 0.5), (0, 0.5), (-0.25, 0.5)])
    with pytest.raises(CostError, match=rf"row {row}, column 'small-7b\|total_cost': usd -0.25 "):
        load()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_of_every_protocol(protocol, tmp_path):
    t = routerbench_pickle(tmp_path, SCORE, PROMPTS, TASKS, protocol=protocol)()
    np.testing.assert_array_equal(t.score, np.float32(SCORE))


class Runs:
    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize(
    "function,args,named",
    [
        (os.system, ("touch owned",), "posix.system"),
        (eval, ("open('owned', 'w')",), "builtin(s|__).eval"),
        (getattr, (1, "real"), "builtin(s|__).getattr"),
        (open, ("owned", "w"), "io.open"),
        (pd.read_csv, ("x",), r"pandas.*read_csv"),
        (np.load, ("x",), r"numpy.*load"),
        (np.fromfile, ("x",), "numpy.*fromfile"),
        (__import__, ("os",), "builtin(s|__).__import__"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: {"a": [x]},
        lambda x: pd.DataFrame({"sample": pd.Series([x], dtype=object)}),
    ],
)
def test_a_pickle_that_runs_something_is_refused_and_nothing_runs(
    function, args, named, protocol, wrap, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "routerbench_0shot.pkl"
    path.write_bytes(pickle.dumps(wrap(Runs(function, *args)), protocol))
    with pytest.raises(RefusedPickleError, match=named):
        load_routerbench(path)
    assert not Path("owned").exists()


def test_refused_codec_persistent_id_and_dotted_name(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"c_codecs\nencode\n(Vabc\nVzip\ntR.")
    with pytest.raises(RefusedPickleError, match="codec 'zip'"):
        read_pickled_frame(path)
    path.write_bytes(b"\x80\x04\x8c\x06pandas\x8c\x13DataFrame.to_pickle\x93.")
    with pytest.raises(RefusedPickleError, match="pandas.DataFrame.to_pickle"):
        read_pickled_frame(path)
    path.write_bytes(b"Pan id\n.")
    with pytest.raises(SchemaError):
        read_pickled_frame(path)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(SchemaError, match="holds a list, not a data frame"):
        load_routerbench(path)


def test_a_cut_or_flipped_pickle_is_named(tmp_path):
    routerbench_pickle(tmp_path, SCORE, PROMPTS, TASKS)
    path = tmp_path / "routerbench_0shot.pkl"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for cut in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:cut])
        with pytest.raises(SchemaError, match="not a whole pickle"):
            load_routerbench(path)
    for place in rng.integers(0, len(whole), 150):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            read_pickled_frame(path)  # a flipped byte inside a text or a number is still a pickle
        except OutcomeError:
            pass


def test_a_short_pickle_cannot_ask_for_all_memory(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(
        b"\x80\x02Nr\xff\xff\xff\x7f."
    )  # memo slot 2,147,483,647: sixteen gigabytes of pointers
    with pytest.raises(SchemaError, match="object number 2147483647"):
        read_pickled_frame(path)
    path.write_bytes(
        b"\x80\x04cpandas\nDataFrame\n)\x81}V_mgr\ncpandas.core.internals.managers\nBlockManager\n()](cpandas.core.indexes.base\n_new_Index\n"
        b"cpandas\nRangeIndex\n}(Vstart\nK\x00Vstop\nL99999999999L\nVstep\nK\x01u\x86RNe\x86Rsb."
    )
    with pytest.raises(SchemaError, match="not a whole pickle"):
        read_pickled_frame(path)


def test_routerbench_other_layouts(tmp_path):
    bench_frame(SCORE, PROMPTS, TASKS).drop(columns=[f"{m}|total_cost" for m in MODELS]).to_csv(
        tmp_path / "x.csv"
    )
    with pytest.raises(SchemaError, match="total_cost"):
        load_routerbench(tmp_path)
    routerbench_pickle(tmp_path, SCORE, PROMPTS, TASKS)
    with pytest.raises(SourceError, match="2 files, and a pickle among them.*Name one file"):
        load_routerbench(tmp_path)
    bench_frame([["A", 1], *SCORE[1:]], PROMPTS, TASKS).to_pickle(tmp_path / "y.pkl")
    with pytest.raises((SchemaError, RefusedPickleError)):
        load_routerbench(tmp_path / "y.pkl")


# ------------------------------------------------------------------ the other sets


def test_routellm_order_and_contamination(tmp_path):
    load = routellm(tmp_path, SCORE, PROMPTS, TASKS)
    (tmp_path / "order.txt").write_text("beta\nalpha\n")
    (tmp_path / "contaminated_prompts.jsonl").write_text(
        json.dumps({"eval_prompt": "Three?", "train_prompt": "3?"}) + "\n"
    )
    t = load(order=tmp_path / "order.txt")
    assert t.task.tolist() == ["beta", "beta", "alpha", "alpha"] and t.split.tolist() == [
        "contaminated",
        "test",
        "test",
        "test",
    ]
    with pytest.raises(SourceError, match="differ in beta"):
        load(order=["alpha"])
    with pytest.raises(SourceError):
        load(order=["alpha", "beta", "beta"])
    with pytest.raises(UnknownNameError, match="benchmark of RouteLLM 'arc'"):
        load(benchmark="arc")
    write_csv(tmp_path / "mmlu_gamma.csv", [["prompt", "small-7b", "other"], ["x", "True", "True"]])
    with pytest.raises(SchemaError, match="mmlu_gamma.csv, row 1, column 'large-70b'"):
        load()


def mt_bench(folder, grades):
    questions = [
        {"question_id": q, "category": "writing", "turns": [f"First {q}.", "Then?"]}
        for q in (81, 82)
    ]
    (folder / "question.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    (folder / "judgements.jsonl").write_text(
        "".join(
            json.dumps({"question_id": q, "model": m, "turn": k, "score": s, "judge": []}) + "\n"
            for q, m, k, s in grades
        )
    )
    return lambda: load_routellm(folder, benchmark="mt_bench")


def test_mt_bench(tmp_path):
    t = mt_bench(
        tmp_path,
        [
            (81, "a", 1, 10),
            (81, "a", 2, 1),
            (82, "a", 1, 5.5),
            (81, "b", 1, 10),
            (81, "b", 2, 10),
            (82, "b", 1, -1),
            (82, "b", 2, 9),
        ],
    )()
    np.testing.assert_array_equal(t.score, np.float32([[0.5, 1], [NAN, NAN]]))
    assert (
        t.correct(missing=False)[0].tolist() == [True, True]
        and t.prompts[0] == "First 81.\n\nThen?"
    )
    with pytest.raises(ScoreRangeError, match="judgements.jsonl, row 2, column 'score': grade 11"):
        mt_bench(tmp_path, [(81, "a", 1, 10), (81, "a", 2, 11)])()
    with pytest.raises(DuplicateIdError, match="row 2.*turn 1 of question 81 is graded twice"):
        mt_bench(tmp_path, [(81, "a", 1, 10), (81, "a", 1, 9)])()
    (tmp_path / "question.jsonl").unlink()
    with pytest.raises(SourceError, match="question.jsonl"):
        load_routellm(tmp_path, benchmark="mt_bench")


@pytest.mark.parametrize(
    "text,kind,message",
    [
        ("[{", SchemaError, "cut short"),
        ("{}", SchemaError, "an object where a list is expected"),
        ("[1]", SchemaError, "row 1: the number 1 where an object"),
        ('[{"question": "a"}]', SchemaError, "row 1, column 'scores'"),
        ("[]", SchemaError, "no rows"),
        (
            '[{"question": "a", "scores": {"m": "high"}}]',
            SchemaError,
            "row 1, column 'm': the text 'high' where a number",
        ),
        (
            '[{"question": "a", "scores": {"m": 1}}, {"question": "b", "scores": {"m": -0.5}}]',
            ScoreRangeError,
            r"row 2, column 'scores.m': score -0.5",
        ),
    ],
)
def test_routerdc_bad_json(text, kind, message, tmp_path):
    (tmp_path / "gsm8k-test.json").write_text(text)
    with pytest.raises(kind, match=f"gsm8k-test.json.*{message}"):
        load_routerdc(tmp_path)


def test_the_manifest_of_an_asset_is_no_part_of_the_set(tmp_path):
    (tmp_path / "mbpp.json").write_text('[{"question": "q", "scores": {"m-7b": 1}}]')
    (tmp_path / "manifest.json").write_text('{"asset": "x"}')
    assert load_routerdc(tmp_path).task.tolist() == ["mbpp"]


def test_routerdc_names_and_rule(tmp_path):
    for name in ("gsm8k-train", "arc_easy_test", "mbpp"):
        (tmp_path / f"{name}.json").write_text(
            json.dumps([{"question": name, "scores": {"m-7b": 1e-6}}])
        )
    t = load_routerdc(tmp_path)
    assert (
        list(zip(t.task.tolist(), t.split.tolist()))
        == [("arc_easy", "test"), ("gsm8k", "train"), ("mbpp", "ood")]
        and t.correct().all()
    )


def test_mixinstruct_scales_and_errors(tmp_path):
    line = lambda **scores: (
        json.dumps(
            {
                "id": "s/1",
                "instruction": "Do.",
                "input": "x",
                "candidates": [{"model": "m-7b", "scores": scores}],
            }
        )
        + "\n"
    )
    path = tmp_path / "val_data_prepared.jsonl"
    path.write_text(line(bartscore=-2.5, bertscore=0.7, bleurt=-0.4))
    table, raw = load_mixinstruct(path, raw=True)
    assert (
        raw.dtype == np.float32
        and raw.tolist() == [[-2.5]]
        and np.isclose(table.score[0, 0], np.exp(-2.5))
    )
    assert table.split[0] == "val" and table.prompts[0] == "Do.\n\nx"
    assert np.isclose(load_mixinstruct(path, metric="bertscore").score[0, 0], 0.7)
    assert np.isclose(
        load_mixinstruct(path, metric="bleurt", scale=lambda x: 1 / (1 + np.exp(-x))).score[0, 0],
        1 / (1 + np.exp(0.4)),
    )
    with pytest.raises(UnknownNameError, match="bleurt"):
        load_mixinstruct(path, metric="bleurt")
    with pytest.raises(SchemaError, match="no candidate has the metric"):
        load_mixinstruct(path, metric="rouge", scale=np.exp)
    path.write_text(line(bartscore=-1) + line(bartscore="low"))
    with pytest.raises(SchemaError, match="row 2, column 'scores.bartscore': the text 'low'"):
        load_mixinstruct(path)
    path.write_text(
        json.dumps(
            {"id": "s/1", "instruction": "Do.", "candidates": [{"model": "m", "scores": {}}] * 2}
        )
        + "\n"
    )
    with pytest.raises(DuplicateIdError, match="row 1.*m answers twice"):
        load_mixinstruct(path)
    path.write_text(line(bartscore=-1) + "\n" + line(bartscore=-1)[:30])
    with pytest.raises(SchemaError, match="row 3: it ends in the middle of a value"):
        load_mixinstruct(path)


def test_sprout_prices_and_schema(tmp_path):
    load = sprout(tmp_path, SCORE, PROMPTS, TASKS)
    t = load(prices={"small-7b": (1, 2), "large-70b": (10, 20)})
    np.testing.assert_allclose(
        t.cost["usd"][0], [(10 * 1 + 5 * 2) / 1e6, (10 * 10 + 5 * 20) / 1e6], rtol=1e-6
    )
    assert (
        t.cost["tokens"][0].tolist() == [15, 15]
        and np.isnan(t.cost["tokens"][1, 1])
        and t.split[0] == "test"
    )
    with pytest.raises(UnknownNameError, match="price of a model 'large-70b'"):
        load(prices={"small-7b": (1, 2)})
    path = tmp_path / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SchemaError, match="not a whole Parquet"):
        load()
    pq.write_table(pa.table({"prompt": ["a"], "dataset": ["b"]}), path)
    with pytest.raises(SchemaError, match="no model has a struct column"):
        load()
    pq.write_table(
        pa.table(
            {
                "prompt": ["a"],
                "dataset": ["b"],
                "m": [{"score": "good", "num_input_tokens": 1, "num_output_tokens": 1}],
            }
        ),
        path,
    )
    with pytest.raises(SchemaError, match="column 'm.score'"):
        load()


def test_leaderboard_domains_and_mismatch(tmp_path):
    tasks = [
        "leaderboard_bbh_snarks",
        "leaderboard_mmlu_pro",
        "leaderboard_math_geometry_hard",
        "odd",
    ]
    assert leaderboard(tmp_path, SCORE, PROMPTS, tasks)().domain.tolist() == [
        "bbh",
        "mmlu_pro",
        "math",
        "odd",
    ]
    (tmp_path / "board.parquet").unlink()
    load = carrot(tmp_path, SCORE, PROMPTS, TASKS)
    (tmp_path / "data_QA.json").write_text(json.dumps({"alpha": {"Qs": ["only one"]}}))
    with pytest.raises(
        SchemaError,
        match=r"alpha: correctness has shape \(2, 2\); 2 models and 1 questions need \(2, 1\)",
    ):
        load()
    (tmp_path / "new_leaderboard_processed_2024.pickle").unlink()
    with pytest.raises(SourceError, match="neither Parquet nor"):
        load()


def test_carrot_model_that_a_benchmark_lacks_is_nan(tmp_path):
    (tmp_path / "data_QA.json").write_text(json.dumps({"a": {"Qs": ["1"]}, "b": {"Qs": ["2"]}}))
    judged = {
        "a": {"models": ["m", "n"], "correctness": np.array([[1.0], [0.0]])},
        "b": {"models": ["n"], "correctness": np.array([[1.0]])},
    }
    (tmp_path / "x_processed.pickle").write_bytes(pickle.dumps(judged, 4))
    t = load_open_llm_leaderboard(tmp_path)
    np.testing.assert_array_equal(t.score, [[1, 0], [NAN, 1]])


# ------------------------------------------------------------------ blocks


def pool(n=60, m=23, rows=20, **kw):
    rng = np.random.default_rng(1)
    for s in range(0, n, rows):
        score = np.where(rng.random((rows, m)) < 0.1, np.nan, rng.random((rows, m)) < 0.5)
        score[:, 3] = np.nan
        yield OutcomeTable(
            score,
            {"tokens": rng.integers(1, 9, (rows, m))},
            [f"q{s + i}" for i in range(rows)],
            [f"m{j}" for j in range(m)],
            task=[f"t{i % 3}" for i in range(rows)],
            **kw,
        )


def joined(blocks):
    blocks = list(blocks)
    return OutcomeTable(
        np.vstack([b.score for b in blocks]),
        {"tokens": np.vstack([b.cost["tokens"] for b in blocks])},
        np.concatenate([b.query_ids for b in blocks]),
        blocks[0].models,
        task=np.concatenate([b.task for b in blocks]),
    )


@pytest.mark.parametrize("block", [1, 5, 23, 1000])
def test_blocks_are_the_whole(block, tmp_path):
    path, whole = write_outcomes(tmp_path / "pool.parquet", pool()), joined(pool())
    assert OutcomeTable.from_parquet(path).equals(whole)
    parts = list(iter_outcomes(path, block=block))
    assert parts[0].merge(*parts[1:]).equals(whole) and max(len(p.models) for p in parts) <= block
    parts = list(iter_outcomes(path, block=block, by="queries"))
    assert joined(parts).equals(whole) and max(map(len, parts)) <= block


def test_summary_by_loops(tmp_path):
    path, t = write_outcomes(tmp_path / "pool.parquet", pool()), joined(pool())
    s = summarise_blocks(path, block=4)
    for j, m in enumerate(t.models):
        seen = [x for x in t.score[:, j].tolist() if x == x]
        assert s.models.loc[m, "n"] == len(seen) and s.models.loc[m, "missing"] == 60 - len(seen)
        assert np.isclose(
            s.models.loc[m, "accuracy"],
            sum(x == 1 for x in seen) / len(seen) if seen else NAN,
            equal_nan=True,
        )
        for task in ("t0", "t1", "t2"):
            part = [x for x, u in zip(t.score[:, j].tolist(), t.task) if u == task and x == x]
            assert np.isclose(
                s.by_task.loc[task, m], np.mean(part) if part else NAN, equal_nan=True
            )
    assert (
        s.oracle == np.mean([any(x == 1 for x in row) for row in t.score.tolist()])
        and s.queries == 60
    )


def test_blocks_that_do_not_fit_together(tmp_path):
    path = tmp_path / "pool.parquet"
    a, b, c = pool()
    with pytest.raises(
        DuplicateIdError, match="row 0, column 'query_id': 'q0' came in an earlier block"
    ):
        write_outcomes(path, [a, b, a])
    with pytest.raises(AlignmentError, match="block 1 differs from block 0"):
        write_outcomes(path, [a, b.select(b.models[::-1])])
    with pytest.raises(OutcomeError, match="no blocks"):
        write_outcomes(path, [])
    assert list(tmp_path.iterdir()) == [], "nothing half-written is left"
    write_outcomes(path, [a, b, c])
    with pytest.raises(UnknownNameError):
        next(iter_outcomes(path, by="rows"))
    with pytest.raises(OutcomeError, match="block of 0"):
        next(iter_outcomes(path, block=0))
    with pytest.raises(OutcomeFileError, match="no such file"):
        next(iter_outcomes(tmp_path / "none.parquet"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(OutcomeFileError, match="not a whole Parquet"):
        summarise_blocks(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(OutcomeFileError, match="not one of outcomes"):
        next(iter_outcomes(path))


# ------------------------------------------------------------------ RouterArena and LLMRouterBench

text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)


@st.composite
def priced_tables(draw):
    n, m = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    prompts = draw(
        st.lists(
            text.filter(str.strip),
            min_size=n,
            max_size=n,
            unique_by=lambda s: " ".join(s.lower().split()),
        )
    )
    tasks = draw(st.lists(st.sampled_from(["arc", "gsm8k", "mmlu/law"]), min_size=n, max_size=n))
    grid = lambda cell: np.array(
        draw(
            st.lists(st.lists(cell | st.just(NAN), min_size=m, max_size=m), min_size=n, max_size=n)
        ),
        np.float32,
    )
    return OutcomeTable(
        grid(st.floats(0, 1, width=32)),
        {"usd": grid(st.floats(0, 100, width=32)), "tokens": grid(st.integers(0, 9999).map(float))},
        [query_id(t, p) for t, p in zip(tasks, prompts)],
        ["org/a", "b-7b", "c"][:m],
        task=tasks,
        prompts=prompts,
        split=draw(st.lists(st.sampled_from(["test", "dev"]), min_size=n, max_size=n)),
    )


@quick
@given(t=priced_tables())
def test_llmrouterbench_round_trip(t, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    files = to_llmrouterbench(t, folder)
    back = from_llmrouterbench(folder).align(t.query_ids).select(t.models)
    for name in ("score", "task", "split", "prompts"):
        np.testing.assert_array_equal(getattr(back, name), getattr(t, name))
    for name, c in t.cost.items():
        np.testing.assert_array_equal(back.cost.get(name, np.full_like(c, np.nan)), c)
    first = files[0].read_bytes()
    assert to_llmrouterbench(t, folder)[0].read_bytes() == first


@quick
@given(t=priced_tables(), seed=st.integers(0, 9))
def test_routerarena_round_trip(t, seed, tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("arena"), np.random.default_rng(seed)
    route = rng.integers(0, len(t.models), len(t))
    to_routerarena(t, route, folder / "mine.json")
    for j, m in enumerate(t.models):
        to_routerarena(t, [m] * len(t), folder / f"always-{j}.json")
    back = from_routerarena(sorted(folder.glob("*.json")))
    table = back.outcomes.align(t.query_ids)
    assert table.prompts.tolist() == t.prompts.tolist() and [
        back.outcomes.models[j] for j in back.routes["mine"]
    ] == [t.models[j] for j in route]
    np.testing.assert_array_equal(table.select(t.models).score, t.score)
    np.testing.assert_array_equal(
        table.select(t.models).cost.get("usd", np.full_like(t.score, np.nan)), t.cost["usd"]
    )
    alone = from_routerarena(folder / "mine.json").outcomes
    seen = {
        (q, alone.models[j])
        for i, q in enumerate(alone.query_ids.tolist())
        for j in np.flatnonzero(~np.isnan(alone.score[i]))
    }
    assert seen == {
        (q, t.models[j])
        for i, (q, j) in enumerate(zip(t.query_ids.tolist(), route))
        if not np.isnan(t.score[i, j])
    }, "only the chosen cells are known"


def test_routerarena_as_its_pipeline_writes_it(tmp_path):
    entry = lambda q, m, acc=None, cost=None, **kw: {
        "global index": q,
        "prompt": "P",
        "prediction": m,
        "generated_result": None,
        "cost": cost,
        "accuracy": acc,
        **kw,
    }
    usage = {
        "generated_result": {
            "generated_answer": "A",
            "success": True,
            "token_usage": {"input_tokens": 30, "output_tokens": 4},
        }
    }
    (tmp_path / "r.json").write_text(
        json.dumps(
            [
                entry("ArcMMLU_1", "gpt", 1.0, 0.01) | usage,
                entry("ArcMMLU_1", "mini", 0.0, 0.001, for_optimality=True),
                entry("AIME_7", "mini") | usage,
            ]
        )
    )
    run = from_routerarena(tmp_path / "r.json")
    t = run.outcomes
    assert (
        t.models == ["gpt", "mini"]
        and t.query_ids.tolist() == ["ArcMMLU_1", "AIME_7"]
        and t.task.tolist() == ["ArcMMLU", "AIME"]
    )
    np.testing.assert_array_equal(t.score, [[1, 0], [NAN, NAN]])
    np.testing.assert_array_equal(t.cost["tokens"], [[34, NAN], [NAN, 34]])
    assert run.routes["r"].tolist() == [0, 1]
    (tmp_path / "s.jsonl").write_text(json.dumps(entry("ArcMMLU_1", "gpt", 0.0)) + "\n")
    with pytest.raises(AlignmentError, match=r"s.jsonl, row 1.*gpt on ArcMMLU_1"):
        from_routerarena([tmp_path / "r.json", tmp_path / "s.jsonl"])
    (tmp_path / "s.jsonl").write_text(
        json.dumps(entry("X_1", "gpt", 1.0))
        + "\n"
        + json.dumps({**entry("X_2", "gpt"), "accuracy": 1.5})
        + "\n"
    )
    with pytest.raises(ScoreRangeError, match="score 1.5 of query 'X_2'"):
        from_routerarena(tmp_path / "s.jsonl")
    assert from_routerarena(tmp_path / "r.json").outcomes.equals(t)


@pytest.mark.parametrize(
    "text,kind,message",
    [
        ("[{", SchemaError, "cut short"),
        ("[1]", SchemaError, "row 1: the number 1 where an object is expected"),
        ("[]", SchemaError, "no predictions"),
        ('[{"prediction": "m"}]', SchemaError, "row 1, column 'global index'"),
        ('[{"global index": "a_1"}]', SchemaError, "row 1, column 'prediction'"),
        (
            '[{"global index": "a", "prediction": "m"}, {"global index": "a", "prediction": "n"}]',
            DuplicateIdError,
            "row 2.*'a' is routed twice",
        ),
    ],
)
def test_routerarena_bad_files(text, kind, message, tmp_path):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(kind, match=message):
        from_routerarena(tmp_path / "r.json")


def test_exports_need_prompts_and_valid_routes(tmp_path):
    bare = OutcomeTable([[1, 0]], {}, ["q"], ["a", "b"])
    with pytest.raises(OutcomeError, match="no prompts"):
        to_routerarena(bare, [0])
    with pytest.raises(OutcomeError, match="no prompts"):
        to_llmrouterbench(bare, tmp_path)
    full = OutcomeTable([[1, 0]], {}, ["q"], ["a", "b"], prompts=["P"], task=["t"])
    with pytest.raises(ShapeError, match="2 choices for 1 queries"):
        to_routerarena(full, [0, 1])
    with pytest.raises(OutcomeError, match="model index -1"):
        to_routerarena(full, [-1])
    with pytest.raises(UnknownNameError, match="model 'c'"):
        to_routerarena(full, ["c"])


def test_llmrouterbench_newest_demo_and_conflicts(tmp_path):
    record = lambda i, s, q="Q": {
        "index": i,
        "origin_query": q,
        "prompt": q,
        "score": s,
        "cost": 0.1,
        "prompt_tokens": 3,
        "completion_tokens": 4,
    }

    def put(model, stamp, records, **kw):
        path = tmp_path / "aime" / "test" / model / f"{stamp}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"records": records, **kw}))

    put("m", "20250101_000000", [record(1, 0.0)])
    put("m", "20250202_000000", [record(1, 1.0), record(2, None, "R")])
    put(
        "n",
        "20250101_000000",
        [record(1, 0.0)],
        dataset_name="aime",
        split="test",
        model_name="org/n",
    )
    put("n", "20250303_000000", [record(1, 1.0)], demo=True)
    t = from_llmrouterbench(tmp_path)
    assert t.models == ["m", "org/n"] and t.task.tolist() == ["aime", "aime"]
    np.testing.assert_array_equal(t.score, [[1, 0], [NAN, NAN]])
    np.testing.assert_array_equal(t.cost["tokens"], [[7, 7], [7, NAN]])
    assert (
        "1 older result files left out" in t.provenance and "1 demo runs left out" in t.provenance
    )
    put("o", "20250101_000000", [record(1, 1.0, "another text")])
    with pytest.raises(AlignmentError, match="row 1, column 'origin_query': another text than"):
        from_llmrouterbench(tmp_path)
    put("o", "20250101_000000", [record(1, 1.0), record(1, 1.0)])
    with pytest.raises(DuplicateIdError, match="row 2, column 'index': index 1 occurs twice"):
        from_llmrouterbench(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no result file"):
        from_llmrouterbench(tmp_path / "empty")


# ------------------------------------------------------------------ foreign values, one id with two texts, places, names, the newest file


def arena(path, *entries):
    base = {"global index": "Star_1", "prompt": "Name a star.", "prediction": "tiny-1"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps([{k: v for k, v in (base | e).items() if v is not ...} for e in entries])
    )
    return path


usage = lambda success=True, **counts: {
    "generated_result": {"generated_answer": "A", "success": success, "token_usage": counts}
}


@pytest.mark.parametrize(
    "counts,tokens",
    [
        (dict(input_tokens=70, output_tokens=100, total_tokens=700), 700),
        (dict(input_tokens=70, output_tokens=100), 170),
        (dict(total_tokens=700), 700),
        (dict(prompt_tokens=70, completion_tokens=100), 170),
        (dict(input_tokens=None, output_tokens=None, total_tokens=None), None),
        (dict(input_tokens=3), None),
    ],
)
def test_routerarena_counts_hidden_tokens_and_takes_nulls(counts, tokens, tmp_path):
    t = from_routerarena(arena(tmp_path / "r.json", usage(**counts))).outcomes
    assert (t.cost["tokens"].tolist() if "tokens" in t.cost else None) == (
        None if tokens is None else [[tokens]]
    )
    assert ("1 answers with hidden tokens" in t.provenance) == (
        tokens == 700 and "input_tokens" in counts
    )


@pytest.mark.parametrize(
    "entry,kind,place",
    [
        (
            usage(input_tokens="70", output_tokens=1),
            SchemaError,
            "column 'token_usage.input_tokens': the text '70' where a number",
        ),
        (
            usage(input_tokens=70, output_tokens=1, total_tokens=7),
            SchemaError,
            "token_usage.total_tokens.*7 tokens in all",
        ),
        (
            usage(input_tokens=-1, output_tokens=5),
            CostError,
            "column 'token_usage.input_tokens': -1 tokens",
        ),
        (
            {"accuracy": 72.05},
            ScoreRangeError,
            "column 'accuracy': score 72.05.*divide percentages by 100",
        ),
        ({"cost": -1}, CostError, "column 'cost': usd -1"),
        ({"cost": float("inf")}, SchemaError, "column 'cost': the number inf"),
        ({"cost": True}, SchemaError, "column 'cost': true where a number"),
        ({"prediction": None}, SchemaError, "column 'prediction': null"),
        ({"prompt": 3}, SchemaError, "column 'prompt': the number 3"),
        ({"prompt": ...}, SchemaError, "column 'prompt': the text of the query is missing"),
        ({"global index": 1.5}, SchemaError, "column 'global index'"),
        ({"for_optimality": "no"}, SchemaError, "column 'for_optimality'"),
        ({"generated_result": "A"}, SchemaError, "column 'generated_result'"),
    ],
)
def test_routerarena_errors_name_file_row_and_field(entry, kind, place, tmp_path):
    path = arena(tmp_path / "r.json", {"global index": "Star_0"}, entry)
    with pytest.raises(
        kind, match=rf"r\.json, row 2, {place}" if place.startswith("column") else place
    ) as caught:
        from_routerarena(path)
    assert caught.value.row == 2 and Path(caught.value.source) == path


def test_routerarena_takes_formatted_prompts_and_leaves_failed_generations_out(tmp_path):
    t = from_routerarena(
        arena(
            tmp_path / "r.json",
            {"prompt": "", "prompt_formatted": "Star?"},
            {"global index": 7, "accuracy": 0.0, "cost": 0.0, **usage(False, total_tokens=0)},
        )
    ).outcomes
    assert t.prompts.tolist() == ["Star?", "Name a star."] and t.query_ids.tolist() == [
        "Star_1",
        "7",
    ]
    assert (
        np.isnan(t.score[1, 0]) and not t.cost and "1 failed generations left out" in t.provenance
    )


def test_one_id_with_two_texts_is_refused(tmp_path):
    mine, robust = (
        arena(tmp_path / "mine.json", {}),
        arena(tmp_path / "mine-robustness.json", {"prompt": "Say a star's name."}),
    )
    with pytest.raises(
        AlignmentError,
        match=r"mine-robustness.json, row 1, column 'prompt': another text for 'Star_1' than in row 1 of .*mine.json",
    ):
        from_routerarena([mine, robust])
    with pytest.raises(AlignmentError, match="row 2, column 'prompt'"):
        from_routerarena(
            arena(tmp_path / "two.json", {}, {"prompt": "Else?", "for_optimality": True})
        )
    head = "prompt_id,model_name,category,label,prompt\n"
    (tmp_path / "train.csv").write_text(head + "0,a-7b,x,1,One?\n0,b-8b,x,1,One?\n")
    for row, column in (("0,c-9b,x,1,Two?", "prompt"), ("0,c-9b,y,1,One?", "category")):
        (tmp_path / "val.csv").write_text(head + row + "\n")
        with pytest.raises(
            AlignmentError,
            match=f"val.csv, row 2, column '{column}': prompt_id 0 has another {column}",
        ):
            load_embedllm(tmp_path)


def test_routerarena_files_of_one_name_are_two_routers(tmp_path):
    paths = [
        arena(tmp_path / v / "router.json", {"prediction": m})
        for v, m in (("v1", "tiny-1"), ("v2", "big-9"))
    ]
    run = from_routerarena(paths)
    assert {r: run.outcomes.models[c[0]] for r, c in run.routes.items()} == {
        "v1/router": "tiny-1",
        "v2/router": "big-9",
    }
    with pytest.raises(DuplicateIdError, match="given twice"):
        from_routerarena([paths[0], paths[0]])
    with pytest.raises(SchemaError, match="nothing.json: there is no such file"):
        from_routerarena(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    "older", ["result.json", "rerun-aime-test-m-20240101_000000.json", "20241231_235959.json"]
)
def test_llmrouterbench_newest_by_the_stamp_in_the_name(older, tmp_path):
    folder = tmp_path / "aime" / "test" / "m"
    folder.mkdir(parents=True)
    for name, score in (("aime-test-m-20250301_101500.json", 1), (older, 0)):
        (folder / name).write_text(
            json.dumps({"records": [{"index": 0, "origin_query": "Q", "score": score}]})
        )
    t = from_llmrouterbench(tmp_path)
    assert t.score.tolist() == [[1]] and "1 older result files left out" in t.provenance
    (folder / "copy-20250301_101500.json").write_text((folder / older).read_text())
    with pytest.raises(DuplicateIdError, match="as old as"):
        from_llmrouterbench(tmp_path)


def test_llmrouterbench_names_never_share_a_file(tmp_path):
    names = ["lab/one", "lab__one", "lab%2Fone", "..", "a b"]
    t = OutcomeTable(
        np.eye(5),
        {},
        IDS := [f"q{i}" for i in range(5)],
        names[:3] + ["x..", "a b"],
        task=["t/../u"] * 5,
        prompts=list("abcde"),
    )
    files = to_llmrouterbench(t, tmp_path)
    assert len(set(files)) == 5 and all(p.resolve().is_relative_to(tmp_path) for p in files)
    back = from_llmrouterbench(tmp_path)
    assert (
        back.select(t.models).score.tolist() == np.eye(5).tolist()
        and set(back.task) == {"t/../u"}
        and len(IDS) == 5
    )
    with pytest.raises(DuplicateIdError, match="differ in case only"):
        to_llmrouterbench(
            OutcomeTable([[1, 0]], {}, ["q"], ["Lab", "lab"], task=["t"], prompts=["p"]),
            tmp_path / "case",
        )
    with pytest.raises(OutcomeError, match="cannot be the name of a file"):
        to_llmrouterbench(
            OutcomeTable([[1]], {}, ["q"], [".."], task=["t"], prompts=["p"]), tmp_path / "dots"
        )


@pytest.mark.parametrize("index", ["1", 1.0])
def test_llmrouterbench_indices_are_compared_as_text(index, tmp_path):
    for m, i in (("a", 1), ("b", index)):
        (tmp_path / "d" / "test" / m).mkdir(parents=True)
        (tmp_path / "d" / "test" / m / "20250101_000000.json").write_text(
            json.dumps({"records": [{"index": i, "prompt": "P", "score": 1}]})
        )
    assert from_llmrouterbench(tmp_path).score.tolist() == [[1, 1]]


def test_routerbench_saved_again_by_the_pandas_of_today(tmp_path):
    frame = pd.DataFrame(
        {
            "prompt": ["hens?", "foxes?", "['a', 'b']"],
            "eval_name": ["farm"] * 3,
            "tiny": [1.0, 0.0, 1.0],
            "tiny|total_cost": [0.1] * 3,
            "big": [1.0, 1.0, 0.0],
            "big|total_cost": [2.0] * 3,
        }
    )
    frame[frame.tiny >= 0].to_pickle(tmp_path / "a.pkl")
    frame.to_csv(tmp_path / "a.csv", index=False), frame.to_parquet(tmp_path / "a.parquet")
    flags = frame.assign(tiny=frame.tiny.astype(bool))
    (
        flags.to_csv(tmp_path / "b.csv", index=False),
        flags.to_parquet(tmp_path / "b.parquet"),
        flags.to_pickle(tmp_path / "b.pkl"),
    )
    for name in ("a.pkl", "a.csv", "a.parquet", "b.csv", "b.parquet", "b.pkl"):
        t = load_routerbench(tmp_path / name)
        assert t.prompts.tolist() == ["hens?", "foxes?", "a\n\nb"] and t.select(
            ["tiny", "big"]
        ).score.tolist() == [[1, 1], [0, 1], [1, 0]], name
    frame.astype({"eval_name": "category"}).to_pickle(tmp_path / "c.pkl")
    with pytest.raises(RefusedPickleError, match=r"If you saved it yourself, save it as CSV"):
        load_routerbench(tmp_path / "c.pkl")
    with pytest.raises(SourceError, match="CSV and Parquet files"):
        (tmp_path / "both").mkdir()
        (
            frame.to_csv(tmp_path / "both" / "a.csv", index=False),
            frame.to_parquet(tmp_path / "both" / "a.parquet"),
        )
        load_routerbench(tmp_path / "both")


@pytest.mark.parametrize("text", [None, 3, ["a"], "", " ", {"a": 1}, "\ud800"])
def test_a_prompt_that_is_no_text_names_file_row_and_column(text, tmp_path):
    (tmp_path / "mmlu_test.json").write_text(
        json.dumps([{"question": "Q", "scores": {"m": 1}}, {"question": text, "scores": {"m": 1}}])
    )
    with pytest.raises(SchemaError, match="mmlu_test.json, row 2, column 'question'"):
        load_routerdc(tmp_path)
    row = {
        "id": "s/1",
        "instruction": "Do.",
        "candidates": [{"model": "m", "scores": {"bartscore": -1}}],
    }
    (tmp_path / "test.jsonl").write_text(
        json.dumps(row) + "\n" + json.dumps(row | {"instruction": text}) + "\n"
    )
    with pytest.raises(SchemaError, match="test.jsonl, row 2, column 'instruction'"):
        load_mixinstruct(tmp_path / "test.jsonl")


@pytest.mark.parametrize(
    "change,column",
    [
        ({"candidates": None}, "candidates"),
        ({"candidates": [None]}, "candidates"),
        ({"id": 3}, "id"),
        ({"input": ["x"]}, "input"),
        ({"candidates": [{"model": None, "scores": {}}]}, "model"),
        ({"candidates": [{"model": "m", "scores": None}]}, "scores"),
    ],
)
def test_mixinstruct_values_of_other_types(change, column, tmp_path):
    (tmp_path / "t.jsonl").write_text(
        json.dumps({"id": "s/1", "instruction": "Do.", "candidates": []} | change) + "\n"
    )
    with pytest.raises(SchemaError, match=f"t.jsonl, row 1, column '{column}'"):
        load_mixinstruct(tmp_path / "t.jsonl")


def test_sprout_null_prompt(tmp_path):
    cell = {"score": 1.0, "num_input_tokens": 3, "num_output_tokens": 2}
    pq.write_table(
        pa.Table.from_pylist(
            [
                {"prompt": "p", "dataset": "d", "a": cell},
                {"prompt": None, "dataset": "d", "a": cell},
            ]
        ),
        tmp_path / "train.parquet",
    )
    with pytest.raises(SchemaError, match="train.parquet, row 1, column 'prompt': null"):
        load_sprout(tmp_path / "train.parquet")


def test_a_small_pickle_that_asks_for_everything_is_refused_at_once(tmp_path):
    text = "(lp0\n"
    for k in range(1, 12):
        text += f"0(lp{k}\n" + f"g{k - 1}\na" * 10
    tuples = (
        b"\x80\x04)\x940"
        + b"".join(
            b"(" + b"h" + bytes([k]) + (b"h" + bytes([k])) * 9 + b"t\x940" for k in range(12)
        )
        + b"}h\x0cK\x01s."
    )
    late = b"(lp0\n0(lp1\n0g0\n" + b"g1\na" * 10 + b"0g1\nI1\na0g0\n."
    size = b"\x80\x04cnumpy._core.numeric\n_frombuffer\n(J\xff\xff\xff\x7fcnumpy\ndtype\n\x8c\x02f8\x85RJ\xff\xff\xff\x7f\x85\x8c\x01CtR."
    for content in (text.encode() + b".", tuples, late, size, b"(l" * 80 + b"a" * 79 + b"."):
        (tmp_path / "small.pkl").write_bytes(content)
        with pytest.raises(SchemaError, match="small.pkl: not a whole pickle"):
            read_pickled_frame(tmp_path / "small.pkl")


def test_loaders_are_where_the_design_says():
    for name in (
        "load_routerbench",
        "load_embedllm",
        "load_mixinstruct",
        "load_sprout",
        "load_open_llm_leaderboard",
        "load_routellm",
        "load_routerdc",
        "load_csv",
    ):
        assert name in data.__all__ and getattr(data, name).__module__.startswith(
            "routercompanion.data."
        )


# ------------------------------------------------------------------ the real files, where a mirror is at hand

PLACES = (
    Path(os.environ.get("ROUTERCOMPANION_MIRROR") or "/nonexistent"),
    *(p / "shared/mirror" for p in project_root(Path(__file__).parent).parents),
)
MIRROR = next((p for p in PLACES if p.is_dir()), None)

if MIRROR is not None:
    ROUTELLM, ROUTERDC = MIRROR / "lm-sys/RouteLLM", MIRROR / "shuhao02/RouterDC"

    def counted(paths, model):
        right, n = 0, 0
        for path in paths:
            with open(path, newline="", encoding="utf-8") as f:
                for r in csv.DictReader(f):
                    right, n = right + (r[model] == "True"), n + 1
        return right / n

    @pytest.mark.parametrize(
        "part,n,pattern", [("mmlu", 14_042, "mmlu_*.csv"), ("gsm8k", 1319, "gsm8k_responses.csv")]
    )
    def test_real_routellm(part, n, pattern):
        t, files = load_routellm(ROUTELLM, benchmark=part), sorted(ROUTELLM.rglob(pattern))
        assert (
            len(t) == n
            and len(t.models) == 2
            and len(set(t.task)) == len(files)
            and not np.isnan(t.score).any()
        )
        for m in t.models:
            assert np.isclose(t.summary().accuracy[m], counted(files, m), rtol=0, atol=1e-12)

    def test_real_mt_bench():
        t, grades = load_routellm(ROUTELLM, benchmark="mt_bench"), {}
        for line in (
            next(ROUTELLM.rglob("judgements.jsonl")).read_text(encoding="utf-8").splitlines()
        ):
            r = json.loads(line)
            grades.setdefault(r["model"], []).append((r["score"] - 1) / 9)
        assert len(t) == 80 and {m: np.mean(g) for m, g in grades.items()} == pytest.approx(
            dict(zip(t.models, t.score.mean(0, dtype=float))), abs=1e-6
        )

    def test_real_routerdc():
        files = sorted(next(ROUTERDC.rglob("split2_model7")).glob("*.json"))
        t, right = load_routerdc(files[0].parent), Counter()
        rows = [r for f in files for r in json.loads(f.read_text(encoding="utf-8"))]
        for r in rows:
            right.update(m for m, x in r["scores"].items() if x > 0)
        assert len(t) == len(rows) == 20_600 and dict(
            zip(t.models, t.correct().sum(0).tolist())
        ) == dict(right)

    def test_real_routerbench():
        t, files = load_routerbench(ROUTERDC), sorted(ROUTERDC.rglob("routerbench_zs/*.csv"))
        right, usd, n = Counter(), Counter(), 0
        for path in files:
            with open(path, newline="", encoding="utf-8") as f:
                for r in csv.DictReader(f):
                    n += 1
                    for m in t.models:
                        right[m] += r[m] == "1.0"
                        usd[m] += float(r[f"{m}|total_cost"] or "nan")
        assert (
            len(t) == n == 3178
            and len(t.models) == 11
            and set(t.task) == {"arc-challenge", "mbpp", "winogrande"}
        )
        assert dict(zip(t.models, t.correct(missing=False).sum(0).tolist())) == dict(right)
        np.testing.assert_allclose(
            t.cost["usd"].sum(0, dtype=float), [usd[m] for m in t.models], rtol=1e-6
        )
