"""The papers' prompt files: each row checked, each error named; banks that depend on hashes only; leakage; and the paper profile's whole path in small.

The loaders are tested on generated files of the same format. Where a mirror of the public files is at hand
(ROUTERCOMPANION_MIRROR, or ../shared/mirror beside the checkout), the audit's figures are recomputed from them.
"""
import http.server
import json
import os
import re
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from sklearn.metrics import roc_auc_score

from routercompanion.assets.lock import Lock
from routercompanion.data.bank import BankError, make_bank
from routercompanion.data.texts import normalise
from routercompanion.core import CompanionError, PROFILES, UnknownNameError, project_root
from routercompanion.judging.llm import LLMJudge, Verifier
from routercompanion.judging.reference import ReferenceScore
from routercompanion.models.chat import Reply
from routercompanion.curation.leakage import leakage_report, leaked_rows
from routercompanion.data.banks.routellm import (
    LARGE_RECORDED, SECOND_RECORDED, load_routellm_prompts,
)
from routercompanion.data.banks.routerxbench import (
    FILES, GROUPS, KINDS, PublishedFileError, bank_row, group_means, load_report,
    load_routerxbench, question_prompt, read_prompt_file,
)
from routercompanion.data.texts import stem
from routercompanion.studies.xbench import (
    BENCH_COLUMNS, CPU_BENCH, PaperSetup, bench_bank, bench_scores, load_placed, paper_models,
    paper_outcomes, paper_setup, question_of, recorded_large,
)
from tiny_models import tiny_llama

PUBLIC = ("zhuchichi56/RouterXBench", "lm-sys/RouteLLM")
MIRROR = next((p for p in (Path(os.environ.get("ROUTERCOMPANION_MIRROR") or "/nowhere"), project_root().parent / "shared" / "mirror") if all((p / q).is_dir() for q in PUBLIC)), None)
TINY = replace(PROFILES["smoke"], train_per_column=12, test_per_column=6, ood_per_column=8)


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("ROUTERCOMPANION_QUIET", "1")
    monkeypatch.setenv("ROUTERCOMPANION_CACHE", str(tmp_path / "cache"))
    for name in ("ROUTERCOMPANION_API_KEY", "ROUTERCOMPANION_ENDPOINT"): monkeypatch.delenv(name, raising=False)


# ---------- generated files of the same format ----------

def choice_row(i, n=4, about="", salt=""):
    options = [f"{salt}option {i} {k}" for k in range(n)]
    letters = "ABCDEFGHIJ"[:n]
    return {"instruction": f"The following is a multiple choice question{about}. Please select the correct answer.\n\nQuestion: In which of the many old houses did number {i} live?\n\nOptions:\n"
            + "\n".join(f"{x}. {o}" for x, o in zip(letters, options)) + f"\n\nPlease choose the correct answer from {', '.join(letters)}.", "response": f"{letters[i % n]}. {options[i % n]}"}


def write_file(folder, name, rows):
    path = folder / FILES[name].path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode()) + b"\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    for name, count in (("alpaca_train", 40), ("alpaca_test", 12), ("magpie_test", 12)):
        write_file(folder, name, [{"instruction": f"Describe item {i} of {name}.", "response": f"Item {i}\u2028\u2029\x85is fine." if i % 2 else f"Item {i}."} for i in range(count)])
    write_file(folder, "big_math_train", [{"instruction": f"What is {i} times 3?", "response": str(3 * i), "source": "ab"[i % 2], "domain": ["x"], "solve_rate": .5} for i in range(40)])
    write_file(folder, "big_math_test", [{"instruction": f"What is {i} times 3?", "response": str(3 * i), "source": "ab"[i % 2]} for i in range(37, 50)])
    write_file(folder, "mmlu_train", [choice_row(i, about=(" about Formal Logic", " about High School U.S. History")[i % 2]) for i in range(60)])
    write_file(folder, "math", [{"instruction": f"Evaluate ${i}+1$.", "response": str(i + 1), "domain": "Counting & Probability"} for i in range(20)])
    for name, count in (("hotpotqa_500", 5), ("hotpotqa_4k", 6)):
        write_file(folder, name, [{"id": str(i), "instruction": f"Answer the following question. You may need to search.\n\nQuestion: Who was number {i} of {name}?", "response": "yes", "metadata": {}} for i in range(count)])
    for k, s in enumerate(s for g in GROUPS.values() for s in g): write_file(folder, f"mmlu_pro/{s}", [choice_row(i, n=3 + k % 8, salt="pro ") for i in range(10 * k, 10 * k + 10)])
    return folder


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    (folder / "routellm/evals/mmlu/responses").mkdir(parents=True)
    (folder / "routellm/evals/gsm8k").mkdir()
    ask = lambda i: re.sub(r"\n\nOptions:", "", choice_row(i)["instruction"].split("Question: ")[1].split("\n\nPlease")[0]) + "\nAnswer:"
    frame = lambda ids: pd.DataFrame({"prompt": [ask(i) for i in ids], SECOND_RECORDED: [i % 3 == 0 for i in ids], LARGE_RECORDED: [i % 5 != 0 for i in ids]})
    frame(range(0, 30, 2)).to_csv(folder / "routellm/evals/mmlu/responses/mmlu_formal_logic.csv", index=False)
    history = frame([1, 3, 3, 5, 5, 200])
    history.loc[4, LARGE_RECORDED] = not history.loc[3, LARGE_RECORDED]
    history.to_csv(folder / "routellm/evals/mmlu/responses/mmlu_high_school_us_history.csv", index=False)
    pd.DataFrame({"prompt": ["How many, please, are one and one?", "And two, \"plus\" two?", "Nobody knows.", "Only the large one does."], SECOND_RECORDED: [True, True, False, False],
                  LARGE_RECORDED: [True, False, False, True], f"{SECOND_RECORDED}_response": ["1+1\n#### 2", "so $1,204.50 it is", "#### 7", "#### 1"],
                  f"{LARGE_RECORDED}_response": ["It is 2.", "", "", "We get 3 * 3 = 9 apples."]}).to_csv(folder / "routellm/evals/gsm8k/gsm8k_responses.csv", index=False)
    return folder


# ---------- rows ----------

def test_every_file_loads_with_one_schema(files):
    for name, file in FILES.items():
        rows, report = read_prompt_file(name, folder=files)
        assert report.rows == report.kept == len(rows) > 0 and report.duplicates == report.conflicting == 0
        for r in rows:
            assert r["domain"] == file.column and r["split"] == file.split and len(r["references"]) == 1 and r["source"].startswith("zhuchichi56/RouterXBench|src/data/")
            assert (r["choices"] is None) == (file.kind != "choice") and r["prompt"].endswith(("Answer:", "Response:")) and r["prompt"].startswith("\n\n")


def test_unicode_line_separators_do_not_cut_a_row(files):
    (row,) = [r for r in read_prompt_file("alpaca_test", folder=files)[0] if "item 1 " in r["prompt"]]
    assert row["references"] == ["Item 1\u2028\u2029\x85is fine."] and row["prompt"] == "\n\nInstruction: Describe item 1 of alpaca_test.\nResponse:"


def test_a_choice_row_keeps_letter_and_options():
    row = bank_row(choice_row(5, 3), FILES["mmlu_pro/law"], "x/law_converted.jsonl", 1)
    assert row["references"] == ["C"] and row["choices"] == ["option 5 0", "option 5 1", "option 5 2"] and row["task"] == "mmlu_pro:law" and row["domain"] == "Social"
    assert row["prompt"] == "\n\nQuestion: In which of the many old houses did number 5 live?\nA. option 5 0\nB. option 5 1\nC. option 5 2\nAnswer:"
    raw = bank_row(choice_row(5, 3), FILES["mmlu_pro/law"], "x/law_converted.jsonl", 1, "raw")
    assert raw["prompt"] == choice_row(5, 3)["instruction"] and raw["choices"] == row["choices"]


@pytest.mark.parametrize("bad, what", [
    (b'{"instruction": "cut sh', r"row 2: it ends in the middle"), (b'[1, 2]', "row 2: a list of 2 where an object"), ({"instruction": "x"}, "line 2.*'response' is missing"), ({"response": "x"}, "line 2.*'instruction'"),
    ({"instruction": "x", "response": 3}, "line 2.*'response'"), ({"instruction": " ", "response": "A. x"}, "line 2.*'instruction'"), ({**choice_row(1), "response": "option 1 1"}, "line 2.*does not begin"),
    ({**choice_row(1), "response": "Because"}, "line 2.*does not begin"), ({**choice_row(1), "response": "E. other"}, "line 2.*ABCD"), ({"instruction": "Question: no options", "response": "A. x"}, "line 2.*No options"),
    (b"\xff\xfe", "routerxbench-prompts")])
def test_a_bad_row_is_named_with_file_and_line(tmp_path, bad, what):
    path = write_file(tmp_path, "mmlu_train", [choice_row(0, about=" about Anatomy"), bad])
    with pytest.raises(PublishedFileError, match=what) as e: load_routerxbench("mmlu_train", folder=tmp_path)
    assert "mmlu_train.jsonl" in str(e.value) and isinstance(e.value, BankError)
    path.unlink()
    with pytest.raises(PublishedFileError, match="no such file"): load_routerxbench("mmlu_train", folder=tmp_path)


def test_a_missing_subject_and_an_unknown_name_are_errors(tmp_path):
    write_file(tmp_path, "mmlu_train", [choice_row(0)])
    with pytest.raises(PublishedFileError, match="line 1.*subject"): load_routerxbench("mmlu_train", folder=tmp_path)
    with pytest.raises(UnknownNameError, match="alpaca_train"): load_routerxbench("alpaca", folder=tmp_path)
    with pytest.raises(UnknownNameError, match="raw"): load_routerxbench("alpaca_test", folder=tmp_path, style="chat")


# ---------- banks ----------

def test_duplicates_and_conflicts_are_counted(tmp_path):
    rows = [{"instruction": q, "response": a} for q, a in (("One?", "1"), ("one? ", "1"), ("Two?", "2"), ("TWO?", "3"), ("Three?", "3"))]
    write_file(tmp_path, "math", rows)
    report = load_report(["math"], folder=tmp_path).iloc[0].to_dict()
    assert report == dict(name="math", rows=5, kept=2, duplicates=2, conflicting=1)
    assert sorted(r[0] for r in load_routerxbench("math", folder=tmp_path).table.references) == ["1", "3"]


def test_a_training_copy_of_a_tested_prompt_goes(files):
    bank = load_routerxbench(["big_math_train", "big_math_test"], folder=files)
    assert len(bank) == 50 and (bank.table.split == "test").sum() == 13
    assert len(load_routerxbench("big_math_train", folder=files)) == 40


def test_a_choice_by_hash_does_not_see_the_order_of_the_file(files, tmp_path):
    rows = (files / FILES["math"].path).read_bytes().split(b"\n")[:-1]
    write_file(tmp_path, "math", rows[::-1])
    one, other = (load_routerxbench("math", size=7, folder=f) for f in (files, tmp_path))
    assert list(one.query_ids) == list(other.query_ids) and set(one.query_ids) < set(load_routerxbench("math", size=8, folder=files).query_ids)


def test_bench_bank(files):
    bank = bench_bank(TINY, folder=files, n_shots=2)
    count = bank.table.groupby(["domain", "split"]).size().to_dict()
    assert count == {**{(c, s): n for c in ("Alpaca", "Big-Math", "MMLU") for s, n in (("train", 12), ("test", 6))}, **{(c, "ood"): 8 for c in BENCH_COLUMNS[3:]}}
    assert tuple(bank.table.domain.unique()) == BENCH_COLUMNS == ("Alpaca", "Big-Math", "MMLU", "Magpie", "MATH", "STEM", "Humanities", "Social", "Others")
    for group, subjects in GROUPS.items():
        sizes = bank.select(domain=group).table.task.value_counts()
        assert set(sizes.index) == {f"mmlu_pro:{s}" for s in subjects} and sizes.max() - sizes.min() <= 1
    again = bench_bank(TINY, folder=files, n_shots=2)
    assert again.table.equals(bank.table) and again.shots == bank.shots
    small = bench_bank(replace(TINY, train_per_column=5), folder=files, n_shots=2)
    assert set(small.query_ids) < set(bank.query_ids)


def test_shots_are_training_rows_and_never_queries(files):
    bank = bench_bank(TINY, folder=files, n_shots=3)
    for task, text in bank.shots.items():
        solved = [normalise(p.rsplit(":", 1)[0]) for p in text.split("\n\n") if p]
        kind = KINDS[bank.select(task=task).table.domain[0]]
        train = {normalise(r["prompt"])[:-len("answer:") if kind != "open" else -len("response:")].strip(): r for r in read_prompt_file({"open": "alpaca_train", "math": "big_math_train", "choice": "mmlu_train"}[kind], folder=files)[0]}
        assert len(solved) == 3
        for s in solved: assert s.rsplit(" ", 1)[0] in train
        queries = {normalise(p) for p in bank.table.prompt}
        assert not any(q.startswith(s.rsplit(" ", 1)[0] + " ") for s in solved for q in queries)
    assert set(bench_bank(TINY, folder=files, style="raw").shots.values()) == {""}


def test_long_prompts_can_be_left_out(files):
    lengths = bench_bank(TINY, folder=files, n_shots=2, longest=150).table.prompt.str.len()
    assert lengths.max() <= 150 < bench_bank(TINY, folder=files, n_shots=2, longest=None).table.prompt.str.len().max()
    with pytest.raises(BankError, match="Only 40 training rows"): bench_bank(TINY, folder=files, n_shots=41)
    with pytest.raises(UnknownNameError): bench_bank(TINY, columns=("GSM9K",), folder=files, style="raw")


# ---------- group means ----------

@given(st.lists(st.tuples(st.sampled_from([s for g in GROUPS.values() for s in g]), st.one_of(st.floats(0, 1), st.just(np.nan))), min_size=1, max_size=60))
def test_group_means_are_unweighted_over_subjects(pairs):
    subjects, values = zip(*pairs)
    found = group_means(values, [f"mmlu_pro:{s}" for s in subjects], partial=True)
    for group, names in GROUPS.items():
        means = []
        for name in names:
            own = [v for s, v in pairs if s == name and v == v]
            if own: means.append(sum(own) / len(own))
        if means: assert found[group] == pytest.approx(sum(means) / len(means))
        else: assert group not in found or np.isnan(found[group])


def test_group_means_want_whole_groups():
    with pytest.raises(BankError, match="Others lacks business, other"): group_means([1.], ["health"])
    with pytest.raises(UnknownNameError, match="astrology"): group_means([1.], ["astrology"])


# ---------- leakage ----------

def test_leakage_by_brute_force(files):
    train, other = load_routerxbench("mmlu_train", folder=files), load_routerxbench("mmlu_pro", folder=files)
    question = lambda r: " ".join(re.findall(r"\w+", r["instruction"].split("Question:")[1].split("\n\nOptions:")[0].lower()))
    read = lambda name: [json.loads(x) for x in (files / FILES[name].path).read_text().split("\n") if x]
    known = [question(r) for r in read("mmlu_train")]
    report = leakage_report(train, other).set_index("column")
    for group, subjects in GROUPS.items():
        rows = [question(r) for s in subjects for r in read(f"mmlu_pro/{s}")]
        assert report.loc[group, ["n", "leaked"]].tolist() == [len(rows), sum(q in known for q in rows)]
    assert report.loc["all", "leaked"] == 60 and report.loc["all", "share"] == 60 / 140
    raw = [load_routerxbench(n, folder=files, style="raw") for n in ("mmlu_train", "mmlu_pro")]
    assert sorted(other.table.prompt[leaked_rows(train, other)].str.slice(0, 60)) == sorted("\n\n" + p.split("\n\n")[1][:58] for p in raw[1].table.prompt[leaked_rows(*raw)])


def test_short_stems_say_nothing():
    bank = lambda split, *prompts: make_bank([dict(prompt=question_prompt(p), references=["1"], task=split, domain="d", source="s", split=split) for p in prompts])
    long = "Which of these many statements about the river is true?"
    train, test = bank("train", "Which is true?", long), bank("test", "which  is true", long.upper(), "Another question of sufficient length, is it not?")
    assert leaked_rows(train, test).tolist() == [False, True, False] and leaked_rows(train, test, shortest=0).tolist() == [True, True, False]
    assert stem("\n\nQuestion: What?\nA. x\nA. y\nB. z\nAnswer:", ["x\nA. y", "z"]) == "what"


# ---------- recorded outcomes ----------

def test_routellm_mmlu(files, records):
    found = load_routellm_prompts("mmlu", folder=records, answers=load_routerxbench("mmlu_train", folder=files))
    assert (found.records, len(found.bank), found.duplicates, found.conflicting) == (21, 19, 2, 1) and found.outcomes.models[0] == LARGE_RECORDED
    by = dict(zip(found.bank.table.prompt.str.extract(r"number (\d+)")[0].astype(int), zip(found.bank.table.references, found.outcomes.score)))
    for i, (references, (large, second)) in by.items():
        known = i != 200 and not i % 2   # the header says "U.S. History": another slug than the file's name
        assert references == (["ABCD"[i % 4]] if known else []) and second == (i % 3 == 0)
        assert np.isnan(large) if i == 5 else large == (i % 5 != 0)
    assert found.without_reference == sum(not r for r, _ in by.values()) and found.outcomes.provenance.startswith("recorded")


def test_routellm_gsm8k(records):
    found = load_routellm_prompts("gsm8k", folder=records)
    assert list(found.bank.table.references) == [["2"], ["1204.50"], [], ["9"]] and found.without_reference == 1
    assert found.outcomes.score.tolist() == [[1, 1], [0, 1], [0, 0], [1, 0]] and set(found.bank.table.domain) == {"GSM8K"}
    with pytest.raises(UnknownNameError, match="gsm8k"): load_routellm_prompts("arc", folder=records)


@pytest.mark.parametrize("text, what", [("prompt,a\nx,True\n", "column.*gpt-4"), (f"prompt,{SECOND_RECORDED},{LARGE_RECORDED}\nx,True,yes\n", "record 1.*'yes'"),
                                        (f"prompt,{SECOND_RECORDED},{LARGE_RECORDED}\n ,True,True\n", "record 1: the prompt is empty"),
                                        (f"prompt,{SECOND_RECORDED},{LARGE_RECORDED}\nno options,True,True\n", "record 1: No options"), (None, "no file")])
def test_bad_records_are_named(tmp_path, text, what):
    folder = tmp_path / "routellm/evals/mmlu/responses"
    folder.mkdir(parents=True)
    if text: (folder / "mmlu_anatomy.csv").write_text(text)
    with pytest.raises(PublishedFileError, match=what): load_routellm_prompts("mmlu", folder=tmp_path, answers=[])


def test_the_recorded_large_model_of_a_bench_bank(files, records):
    bank = bench_bank(TINY, folder=files, records=records, n_shots=2, columns=("MMLU", "Magpie", "GSM8K"))
    table = recorded_large(bank, records=records)
    known = load_routellm_prompts("mmlu", folder=records, answers=[])
    here = np.isin(bank.query_ids, known.bank.query_ids) | (bank.table.domain == "GSM8K").to_numpy()
    assert here.sum() > 4 and np.array_equal(~np.isnan(table.score[:, 1]), here) and list(table.query_ids) == list(bank.query_ids)
    common = [q for q in bank.query_ids if q in set(known.bank.query_ids)]
    assert np.array_equal(table.align(common, allow_extra=True).score, known.outcomes.align(common, allow_extra=True).score, equal_nan=True)


# ---------- marking ----------

class Echo:
    "Somebody to ask: says what a function of the prompt says."
    def __init__(self, say): self.say, self.seen = say, []

    def ask(self, prompts, *, repeat=0):
        self.seen += prompts
        return [Reply(*[self.say(p)]) if self.say(p) is not None else Reply(None, "timeout") for p in prompts]


def test_marks_by_column(files, records):
    bank = bench_bank(TINY, folder=files, records=records, n_shots=2, columns=(*BENCH_COLUMNS, "GSM8K"))
    right = [r[0] if r else "7" for r in bank.table.references]
    score, table = bench_scores(bank, right, open_ended=ReferenceScore())
    unknown = np.array([not r for r in bank.table.references])
    assert unknown.sum() == 1 and np.isnan(score[unknown]).all() and (score[~unknown] == 1).all() and score.dtype == np.float32
    wrong = [{"choice": "J" if r != ["J"] else "A", "math": "-17", "open": "no"}[KINDS[d]] for r, d in zip(bank.table.references, bank.table.domain)]
    score, table = bench_scores(bank, wrong)
    opened = bank.table.domain.isin(["Alpaca", "Magpie"]).to_numpy()
    assert np.isnan(score[opened]).all() and (score[~opened & ~unknown] == 0).all()
    assert table.set_index("column").masked.to_dict() == {c: {"Alpaca": 18, "Magpie": 8, "GSM8K": 1}.get(c, 0) for c in table.column}
    none, table = bench_scores(bank, [None] * len(bank), open_ended=ReferenceScore())
    assert np.isnan(none).all() and (table.no_answer == table.n).all()
    with pytest.raises(BankError, match="2 answers"): bench_scores(bank, ["a", "b"])


def test_judge_and_verifier_are_asked_blindly_about_the_question(files):
    bank = bench_bank(TINY, folder=files, n_shots=2, columns=("Alpaca", "Big-Math"))
    judge, verifier = Echo(lambda p: "Score: 4" if "item 1" in p else None), Echo(lambda p: "Correct" if "<answer>\nmine\n" in p else "?")
    score, table = bench_scores(bank, ["mine"] * len(bank), open_ended=LLMJudge(judge), verifier=Verifier(verifier))
    for p, d, s in zip(bank.table.prompt, bank.table.domain, score): assert s == 1 if d == "Big-Math" else s == np.float32(.4) if "item 1" in p else np.isnan(s)
    assert table.set_index("column").loc["Alpaca", "timed_out"] == np.isnan(score).sum() > 0
    assert all("Response:" not in p and "<request>\nDescribe item" in p for p in judge.seen) and all("Answer:" not in p and "<question>\nWhat is" in p for p in verifier.seen)
    assert question_of("\n\nQuestion: Who?\nAnswer:") == "Who?"


# ---------- the paper profile ----------

def test_the_papers_models_are_names_in_a_configuration(tmp_path, monkeypatch):
    table = paper_models()
    text = " ".join(table.model)
    for name in ("Llama-3.1-8B-Instruct", "Qwen2.5-0.5B-Instruct", "Qwen2.5-3B-Instruct", "Qwen2.5-7B-Instruct", "longformer", "gpt-5", "xVerify"): assert name in text
    (tmp_path / "setup.json").write_text(json.dumps({"small": "me/model", "others": ["a", "b"], "verifier": ""}))
    setup = paper_setup(tmp_path / "setup.json")
    assert setup.small == "me/model" and setup.others == ("a", "b") and setup.large == PaperSetup().large and "math-verify" in " ".join(paper_models(setup).model)
    with pytest.raises(UnknownNameError, match="big_model.*verifier"): paper_setup({"big_model": "x"})
    monkeypatch.setenv("ROUTERCOMPANION_ENDPOINT", "http://127.0.0.1:1/v1")
    assert paper_setup().endpoint == "http://127.0.0.1:1/v1" and paper_setup({"endpoint": "http://x"}).endpoint == "http://x"


class Model(http.server.BaseHTTPRequestHandler):
    "The large model and the judge: knows every answer; grades by the first letter; fails now and then."
    def do_POST(self):
        prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        self.server.calls[prompt] += 1
        status = 500 if self.server.calls[prompt] == 1 and hash_of(prompt) % 9 == 0 else 200
        if "<request>" in prompt: said = "Who can tell?" if hash_of(prompt) % 7 == 0 else f"Score: {hash_of(prompt.rsplit('<answer>', 1)[1]) % 11}"
        else: said = self.server.known[prompt]
        data = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *a): pass


def hash_of(text): return sum(map(ord, text)) + 31 * len(text)


def test_the_whole_path_with_tiny_models_standing_in(files, tmp_path):
    "Prompts -> answers -> judge -> outcomes -> features -> router -> AUROC, with a random Llama as the small model and the verifier, and a server as the large model."
    from routercompanion.routers.difficulty.probes import MeanProbe
    bank = bench_bank(replace(TINY, train_per_column=24, test_per_column=12), folder=files, n_shots=1, style="raw", columns=("Alpaca", "MMLU", "Magpie", "MATH"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
    server.daemon_threads, server.calls, server.known = True, Counter(), {p: r[0] for p, r in zip(bank.table.prompt, bank.table.references)}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    loaded = []

    def load(name, device_map):
        loaded.append((name, device_map))
        return load_placed(name, device_map)
    setup = paper_setup(dict(small=tiny_llama(tmp_path / "small"), verifier=tiny_llama(tmp_path / "verifier", seed=1), large="stand-in", judge="stand-in", max_new_tokens=8,
                             endpoint=f"http://127.0.0.1:{server.server_port}/v1", device_map={"": "cpu"}, retries=1, timeout=20))
    try: outcomes, marks = paper_outcomes(setup, bank, load=load)
    finally: server.shutdown(); server.server_close()
    assert outcomes.models == [setup.small, "stand-in"] and [d for _, d in loaded] == [{"": "cpu"}] * 2
    column = bank.table.domain.to_numpy(str)
    assert (outcomes.score[column == "MMLU", 1] == 1).all() and np.isnan(outcomes.score[column == "MATH"]).all()   # a random verifier says nothing readable
    judged = outcomes.score[np.isin(column, ("Alpaca", "Magpie"))]
    assert 0 < np.isnan(judged).sum() < judged.size and marks["stand-in"].set_index("column").unparsed["Alpaca"] > 0
    lm = load_placed(setup.small, setup.device_map)
    store = lm.features(bank, tmp_path / "features")
    whole = ~np.isnan(outcomes.score).any(1)
    train, test = (np.flatnonzero(whole & np.isin(bank.table.split, s)) for s in (("train",), ("test", "ood")))
    router = MeanProbe(epochs=3).fit(np.asarray(store.mean[train], np.float32), outcomes.subset(train))
    score = router.decision_function(np.asarray(store.mean[test], np.float32))
    y = outcomes.score[test, 0] < outcomes.score[test, 1]
    assert len(test) > 15 and np.isfinite(score).all() and 0 <= roc_auc_score(y, score) <= 1


def test_placement_by_accelerate_changes_no_answer(tmp_path):
    import torch
    folder = tiny_llama(tmp_path / "m")
    plain, placed = load_placed(folder), load_placed(folder, {"": "cpu"})
    ids = torch.tensor([plain.tokens(["hello"])[0]])
    assert torch.equal(plain.model(ids).logits, placed.model(ids).logits) and placed.device.type == "cpu" and hasattr(placed.model, "hf_device_map")
    with pytest.raises(CompanionError, match="no folder"): load_placed("nobody/nothing")


# ---------- the public files themselves, where a mirror holds them ----------

if MIRROR:
    COMMITS = [Lock.load().assets[name]["commit"] for name in ("routerxbench-prompts", "routellm-responses")]
    PROMPTS_AND_RECORDS = tuple(MIRROR / p / commit for p, commit in zip(PUBLIC, COMMITS))

    def test_the_audits_figures():
        prompts, _ = PROMPTS_AND_RECORDS
        train = load_routerxbench("mmlu_train", folder=prompts)
        leak = leakage_report(train, load_routerxbench("mmlu_pro", folder=prompts)).set_index("column")
        assert leak.loc["all", ["n", "leaked"]].tolist() == [12032, 1810]
        assert {g: round(100 * leak.share[g], 1) for g in GROUPS} == {"STEM": 9.2, "Humanities": 26.6, "Social": 19.0, "Others": 20.4}
        report = load_report(["alpaca_train", "alpaca_test", "big_math_train", "big_math_test", "magpie_test", "math", "mmlu_train", "hotpotqa_500", "hotpotqa_4k"], folder=prompts).set_index("name")
        assert report.rows.tolist() == [4000, 999, 4000, 1000, 1000, 5000, 4000, 500, 4000]
        assert report.loc["big_math_train", ["duplicates", "conflicting"]].tolist() == [12, 1]
        big = [load_routerxbench(n, folder=prompts) for n in ("big_math_train", "big_math_test")]
        assert leaked_rows(*big, shortest=0).sum() == 5

    def test_the_bench_bank_of_the_public_files():
        prompts, records = PROMPTS_AND_RECORDS
        bank = bench_bank(CPU_BENCH, folder=prompts)
        count = bank.table.groupby(["domain", "split"]).size()
        assert len(bank) >= 4000 and count["MMLU", "test"] == count["Big-Math", "test"] == 1000 and count["Alpaca", "test"] == 999 and (count.xs("ood", level=1) == 500).all()
        mmlu = bank.select(domain="MMLU")
        table = recorded_large(mmlu, records=records)
        assert np.isfinite(table.score[:, 0]).mean() > .99 and .7 < np.nanmean(table.score[:, 0]) < .9
        assert all(len(c) == 4 and r[0] in "ABCD" for c, r in zip(mmlu.table.choices, mmlu.table.references))

    def test_the_records_of_routellm():
        prompts, records = PROMPTS_AND_RECORDS
        mmlu = load_routellm_prompts("mmlu", folder=records, answers=load_routerxbench("mmlu_train", folder=prompts))
        assert (mmlu.records, len(mmlu.bank), mmlu.duplicates, mmlu.conflicting) == (14042, 14015, 27, 0) and mmlu.without_reference == 14015 - 3987
        gsm8k = load_routellm_prompts("gsm8k", folder=records)
        assert (gsm8k.records, gsm8k.without_reference) == (1319, 94) and np.allclose(gsm8k.outcomes.score.mean(0), [1130 / 1319, 842 / 1319])
