"""Questions of two hops, HotpotQA's rules and files, the agent's tools, policies, limits and logs, smolagents on the same tools, and the router in front of them."""
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from routercompanion.routers.cascades import two_stage
from routercompanion.routers.uncertainty import answers
from routercompanion.agents import agent, retrieval, tools
from routercompanion.studies import agentic
from routercompanion.studies import stages as stages_module
from routercompanion.data.banks import hotpotqa, multihop
from routercompanion.judging import reference as reference_module
from routercompanion.core import CompanionError, UnknownNameError
from routercompanion.models.causal_lm import Generations, load_causal_lm
from routercompanion.data.evidence import accuracy_gap
from routercompanion.data.records import recorded_outcomes, recorded_signals
from routercompanion.routers.check import check_router, toy_routing_data
from routercompanion.routers.registry import ROUTERS

from tiny_models import tiny_llama


# ---------------------------------------------------------------- the world and its questions

def test_the_world_is_the_same_in_every_process_and_its_facts_support_the_answers():
    corpus, questions = {p.title: p for p in multihop.fact_corpus()}, multihop.multihop_questions()
    assert len(corpus) == len(multihop.fact_corpus()) > 3000 and len({q.question for q in questions}) == len(questions)
    for q in questions:
        facts = [corpus[title].sentences[number] for title, number in q.supporting]       # every supporting fact exists
        assert len(facts) == 2
        if q.kind == "bridge":
            (place, _), (country, _) = q.supporting
            assert place in q.question and country in facts[0] and any(a in facts[1] for a in q.answers)
        else: assert q.answers[0] in {t for t, _ in q.supporting} and all(t in q.question for t, _ in q.supporting)
    code = "from routercompanion.data.banks.multihop import *; from routercompanion.core import content_hash; print(content_hash([q.question for q in multihop_questions()]))"
    fresh = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": s}).stdout for s in ("1", "2")}
    from routercompanion.core import content_hash
    assert fresh == {content_hash([q.question for q in questions]) + "\n"}


def test_no_entity_stands_on_two_sides_of_the_split():
    sides = {}
    for q in multihop.multihop_questions():
        assert q.split == multihop.side_of(q.entity)
        for title, _ in q.supporting:
            if q.kind == "comparison" or title != q.supporting[0][0]: sides.setdefault(title, set()).add(q.split)
    assert all(len(s) == 1 for s in sides.values())
    count = Counter(q.split for q in multihop.multihop_questions())
    assert count["test"] >= 1000 and count["train"] >= 500
    shown = {q.question for q in multihop.solved_questions()}
    assert not shown & {q.question for q in multihop.multihop_questions() if q.split != "pilot"}


def test_comparisons_have_the_larger_one_as_their_answer():
    for c in zip(multihop.countries()[::7], multihop.countries()[3::7]):
        assert multihop.population_question(*c).answers == (max(c, key=lambda x: x.population).name,) == multihop.population_question(*c[::-1]).answers
    a, b = multihop.elements()[25], multihop.elements()[7]
    assert multihop.element_question(a, b).answers == ("Iron",) and multihop.sum_question(a, b).answers == ("34",) and multihop.next_question(b, multihop.elements()[8]).answers == ("Fluorine",)


def test_the_bank_of_the_questions():
    few = multihop.multihop_questions()[:20]
    bank = multihop.question_bank(few)
    assert len(bank) == 20 and list(bank.table.references[0]) == list(few[0].answers) and bank.table.prompt[0].endswith("\nAnswer:")
    assert bank.shots[few[0].relation].count("Question:") == 6


# ---------------------------------------------------------------- HotpotQA's rules, against plain restatements

def plain_normalise(text):
    out = ""
    for c in text.lower():
        if not (33 <= ord(c) <= 47 or 58 <= ord(c) <= 64 or 91 <= ord(c) <= 96 or 123 <= ord(c) <= 126): out += c
    return " ".join(w for w in out.split() if w not in ("a", "an", "the"))


def plain_f1(answer, reference):
    a, r = plain_normalise(answer), plain_normalise(reference)
    for closed in ("yes", "no", "noanswer"):
        if closed in (a, r) and a != r: return 0.
    a, r, common = a.split(), r.split(), 0
    left = list(r)
    for w in a:
        if w in left: left.remove(w); common += 1
    if not common: return 0.
    precision, recall = common / len(a), common / len(r)
    return 2 * precision * recall / (precision + recall)


TEXT = st.text(alphabet="aAnN tThHeE.,'-!yesno01 ", max_size=24)


@settings(max_examples=300, deadline=None)
@given(TEXT, TEXT)
def test_answer_scores_equal_a_plain_restatement(answer, reference):
    assert reference_module.normalise_answer(answer) == plain_normalise(answer)
    assert reference_module.exact_match(answer, [reference]) == (plain_normalise(answer) == plain_normalise(reference))
    f1 = reference_module.answer_f1(answer, [reference])
    assert f1 == pytest.approx(plain_f1(answer, reference)) and 0 <= f1 <= 1
    assert reference_module.answer_f1(reference, [answer]) == pytest.approx(f1) and reference_module.answer_f1(answer, ["zzz", reference]) == pytest.approx(f1)


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, 6)), st.sets(st.integers(0, 6), min_size=1))
def test_support_scores_equal_counting(found, gold):
    s = reference_module.support_scores(found, gold)
    tp, fp, fn = (sum(f(i) for i in range(7)) for f in (lambda i: i in found and i in gold, lambda i: i in found and i not in gold, lambda i: i not in found and i in gold))
    assert s["recall"] == tp / (tp + fn) and s["precision"] == (tp / (tp + fp) if found else 0) and s["em"] == (fp + fn == 0)
    assert s["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))


def test_scores_of_known_answers():
    assert reference_module.answer_f1("Chief of the Protocol", ["Chief of Protocol"]) == 1 and reference_module.exact_match("", ["x"]) == 0 and reference_module.answer_f1("", ["x"]) == 0
    assert reference_module.answer_f1("yes", ["yes it is"]) == 0 and reference_module.answer_f1("no", ["No."]) == 1
    with pytest.raises(hotpotqa.QuestionError, match="2 answers for 1"): reference_module.answer_scores(["a", "b"], multihop.multihop_questions()[:1])


# ---------------------------------------------------------------- HotpotQA's files

ROW = {"_id": "x1", "question": "Who wrote it?", "answer": "Ann", "type": "comparison", "supporting_facts": [["A", 0]], "context": [["A", ["One.", " Two."]], ["B", ["Three."]]]}
HUB = {"id": "x1", "question": "Who wrote it?", "answer": "Ann", "type": "comparison", "supporting_facts": {"title": ["A"], "sent_id": [0]},
       "context": {"title": ["A", "B"], "sentences": [["One.", " Two."], ["Three."]]}}


def test_all_layouts_of_hotpotqa_give_the_same_questions(tmp_path):
    (tmp_path / "dev.json").write_text(json.dumps([ROW]))
    (tmp_path / "dev.jsonl").write_text(json.dumps(HUB) + "\n")
    (tmp_path / "hub" / "distractor").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([HUB]), tmp_path / "hub" / "distractor" / "validation-00000-of-00001.parquet")
    found = [hotpotqa.load_hotpotqa(tmp_path / p) for p in ("dev.json", "dev.jsonl", "hub")]
    assert found[0] == found[1] == found[2] and len(found[0]) == 1
    q = found[0][0]
    assert (q.answers, q.kind, q.supporting, q.passages[0].text, q.key) == (("Ann",), "comparison", (("A", 0),), "A: One. Two.", "x1")
    with pytest.raises(hotpotqa.QuestionError, match="fullwiki/validation"): hotpotqa.load_hotpotqa(tmp_path / "hub", setting="fullwiki")
    with pytest.raises(UnknownNameError, match="distractor"): hotpotqa.load_hotpotqa(tmp_path / "hub", setting="wiki")


@pytest.mark.parametrize("change, message", [
    ({"answer": ""}, "'answer' is missing"), ({"question": 3}, "'question' is missing"), ({"context": [["A", "text"]]}, "no list of sentences"), ({"context": [["A"]]}, "neither a list of pairs"),
    ({"context": {"title": ["A"], "sentences": []}}, "of one length"), ({"supporting_facts": [["A", "0"]]}, "no whole number"), ({"supporting_facts": {"title": ["A"]}}, "'sent_id'")])
def test_a_broken_row_names_file_row_and_remedy(tmp_path, change, message):
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(HUB) + "\n" + json.dumps(HUB | change) + "\n")
    with pytest.raises(hotpotqa.QuestionError, match=message) as e: hotpotqa.load_hotpotqa(path)
    assert "broken.jsonl, row 2" in str(e.value) and "download the file again" in str(e.value)


@pytest.mark.parametrize("name, text", [("x.json", "{"), ("x.json", "{}"), ("x.jsonl", "[1"), ("x.jsonl", "3\n"), ("x.parquet", "no")])
def test_a_file_that_is_no_hotpotqa_is_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(CompanionError, match=name): hotpotqa.load_hotpotqa(tmp_path / name)


SAMPLE = Path(os.environ.get("ROUTERCOMPANION_HOTPOTQA", Path(__file__).parents[2] / "shared" / "data" / "hotpotqa_distractor_100.jsonl"))   # not part of the repository


@pytest.mark.skipif(not SAMPLE.is_file(), reason="HotpotQA's 100 sample questions are not at hand: set ROUTERCOMPANION_HOTPOTQA to their file")
def test_the_public_sample_where_it_is_at_hand():
    questions = hotpotqa.load_hotpotqa(SAMPLE)
    assert len(questions) == 100 and {len(q.passages) for q in questions} <= set(range(2, 11))
    assert all({t for t, _ in q.supporting} <= {p.title for p in q.passages} for q in questions)
    recall = [reference_module.support_scores(ts, {t for t, _ in q.supporting})["recall"] for q, ts in
              ((q, {p.title for p in retrieval.BM25Index(q.passages).search([q.question], 3)[0]}) for q in questions)]
    assert .5 < np.mean(recall) < 1


def test_routerxbench_questions_come_through_the_published_loader(tmp_path):
    folder = tmp_path / "src" / "data"
    folder.mkdir(parents=True)
    for name, number in (("hotpotqa_500", 2), ("hotpotqa_4k", 3)):
        rows = [dict(id=str(i), instruction=f"Answer.\n\nQuestion: Question number {i}?", response=f"answer {i}", metadata={}) for i in range(number)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    questions = hotpotqa.load_routerxbench_questions(("hotpotqa_500", "hotpotqa_4k"), folder=tmp_path)
    assert Counter(q.split for q in questions) == {"test": 2, "train": 1}              # those in both files stay in the test side only
    assert sorted(q.question for q in questions)[0] == "Question number 0?" and not questions[0].passages


# ---------------------------------------------------------------- indexes and tools

def test_bm25_orders_as_the_formula_does():
    passages = [multihop.Passage(f"t{i}", (text,)) for i, text in enumerate(("apple banana", "apple apple cherry", "cherry grape", "banana grape kiwi plum fig"))]
    index = retrieval.BM25Index(passages)
    texts, k1, b = [f"t{i} {' '.join(p.sentences)}".split() for i, p in enumerate(passages)], 1.5, .75
    mean = np.mean([len(t) for t in texts])
    idf = lambda w: np.log(1 + (len(texts) - (df := sum(w in t for t in texts)) + .5) / (df + .5))
    score = lambda q, t: sum(idf(w) * t.count(w) / (t.count(w) + k1 * (1 - b + b * len(t) / mean)) for w in q.split() if w in t)
    for query in ("apple", "cherry apple", "grape kiwi", "banana"):
        assert index.top([query], 1)[0][0] == np.argmax([score(query, t) for t in texts])
    assert len(index.search(["nothing of this"], 9)[0]) == 4                            # never more than there are


def test_the_dense_index_is_exact_search():
    rng = np.random.default_rng(0)
    passages, vectors = [multihop.Passage(f"t{i}", ("x",)) for i in range(50)], rng.normal(size=(50, 8)).astype(np.float32)
    asked = rng.normal(size=(6, 8)).astype(np.float32)
    index = retrieval.DenseIndex(passages, lambda texts: asked, vectors=vectors)
    assert np.array_equal(index.top(["q"] * 6, 3), np.argsort(-asked @ vectors.T, axis=1)[:, :3])
    with pytest.raises(CompanionError, match="one row for each"): retrieval.DenseIndex(passages, None, vectors=vectors[:9])


@pytest.mark.parametrize("make", [lambda: retrieval.BM25Index([]), lambda: retrieval.DenseIndex([], None), lambda: agent.run_agent(multihop.multihop_questions()[:1], Script(" x"))])
def test_nothing_to_search_is_a_named_error(make):
    with pytest.raises(retrieval.EmptyIndexError, match="passage"): make()


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.integers(0, 99).map(str), lambda e: st.tuples(e, st.sampled_from("+-*"), e).map(lambda t: f"({t[0]} {t[1]} {t[2]})"), max_leaves=8))
def test_the_calculator_agrees_with_python_on_arithmetic(expression):
    if len(expression) <= 200: assert tools.calculate(expression) == eval(expression)


@pytest.mark.parametrize("text", ["__import__('os')", "open('x')", "9**9**9", "1/0", "a", "(1).real", "[1]", "1 if 1 else 2", "lambda: 1", "", "1" * 201, "'a' * 9", "True + 1", "(" * 99 + "1"])
def test_the_calculator_reads_nothing_else(text):
    with pytest.raises(tools.CalculatorError, match="Give plain arithmetic"): tools.calculate(text)


# ---------------------------------------------------------------- policies, limits, logs

class Script:
    "Writes given lines in turn (the last one again and again), each in one second of claimed time."
    name = "script"

    def __init__(self, *lines): self.lines, self.prompts = lines, []

    def write(self, prompts, shots, max_new_tokens):
        self.prompts += prompts
        first = len(self.prompts) - len(prompts)
        return Generations([self.lines[min(first + i, len(self.lines) - 1)] for i in range(len(prompts))], np.full(len(prompts), 100), np.full(len(prompts), 4), np.ones(len(prompts)))


@pytest.fixture(scope="module")
def box(): return tools.Toolbox(retrieval.BM25Index(multihop.fact_corpus()))


HAVANA = multihop.bridge_question("Havana", "currency")


def test_the_guided_policy_looks_up_what_the_model_names_and_answers_from_it(box):
    model = Script(" Cuba", " Cuban Peso")
    t, = agent.run_agent([HAVANA], model, toolbox=box)
    assert (t.answer, t.stop, t.tool_calls, t.malformed, t.missed, t.tokens_in, t.tokens_out) == ("Cuban Peso", "answer", 2, 0, 0, 200, 8)
    assert [s["action"] for s in t.steps] == ["search", "look up", "answer"] and t.titles[:1] == ["Havana"] and "Cuba" in t.titles
    assert model.prompts[0].endswith("Look up:") and model.prompts[1].endswith("Answer:") and "Its currency is the Cuban Peso." in model.prompts[1]


def test_a_missed_name_is_asked_for_again_up_to_the_hops(box):
    t, = agent.run_agent([HAVANA], Script(" Atlantis", " Lemuria", " peso"), toolbox=box)
    assert [s["action"] for s in t.steps] == ["search", "look up", "look up", "answer"] and t.missed == 2
    t, = agent.run_agent([HAVANA], Script(" Atlantis", " peso"), toolbox=box, policy=agent.GuidedPolicy(hops=2))
    assert [s["action"] for s in t.steps] == ["search", "look up", "answer"]
    t, = agent.run_agent([HAVANA], Script(" ...", " Cuba", " peso"), toolbox=box)
    assert t.malformed == 1 and t.answer == "peso"
    t, = agent.run_agent([HAVANA], Script(" Cuba, Atlantis", " peso"), toolbox=box)
    assert t.steps[1]["found"] == ["Cuba"] and t.missed == 1                              # one that exists is enough


def test_the_guided_policy_calculates(box):
    model = Script(" calculate 26 + 1", " Cobalt")
    t, = agent.run_agent([multihop.next_question(multihop.elements()[25], multihop.elements()[26])], model, toolbox=box)
    assert t.steps[1]["result"] == "26 + 1 = 27." and "26 + 1 = 27." in model.prompts[1] and t.answer == "Cobalt"
    t, = agent.run_agent([HAVANA], Script(" calculate the peso", " Cuba", " peso"), toolbox=box)
    assert t.malformed == 1 and t.answer == "peso"


def test_the_free_policy_counts_malformed_calls(box):
    t, = agent.run_agent([HAVANA], Script(" it is the peso", " calculate x", " look up", " search Cuba money", " look up Cuba", " calculate 1 + 1", " answer Cuban Peso"), toolbox=box,
                      policy=agent.FreePolicy(), max_steps=9)
    assert t.answer == "Cuban Peso" and t.malformed == 3 and t.tool_calls == 5 and t.steps[-2]["result"] == "2"


@pytest.mark.parametrize("policy", [agent.GuidedPolicy(hops=99), agent.FreePolicy()])
def test_a_run_out_of_steps_or_time_is_wrong_and_counted(box, policy):
    endless = Script(" look up Atlantis")
    steps, = agent.run_agent([HAVANA], endless, toolbox=box, policy=policy, max_steps=5)
    late, = agent.run_agent([HAVANA], Script(" look up Atlantis", " look up Atlantis", " answer peso"), toolbox=box, policy=policy, max_steps=9, max_seconds=2.5)
    assert (steps.stop, steps.answer, len(endless.prompts)) == ("steps", "", 5) and (late.stop, late.answer) == ("time", "")
    columns = agentic.agent_columns([HAVANA] * 2, ["Cuban Peso", ""], [steps, late])
    assert columns["agent"].tolist() == [0, 0] and columns["direct"].tolist() == [1, 0] and columns["stop_steps"].tolist() == [1, 0] and columns["stop_time"].tolist() == [0, 1]


def test_questions_with_their_own_passages_need_no_toolbox(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps(HUB) + "\n")
    q, = hotpotqa.load_hotpotqa(tmp_path / "x.jsonl")
    t, = agent.run_agent([q], Script(" B", " Ann"))
    assert t.key == "x1" and t.answer == "Ann" and set(t.titles) == {"A", "B"}
    with pytest.raises(CompanionError, match="stands twice"): agent.run_agent([q, q], Script(" B"))


def test_a_torn_or_foreign_or_damaged_log_is_told_apart(box, tmp_path):
    log, asked = tmp_path / "run.jsonl", multihop.multihop_questions()[:3]
    first = agent.run_agent(asked, Script(" Cuba"), toolbox=box, log=log, chunk=1)
    data = log.read_bytes()
    log.write_bytes(data[:-20])                                                            # a kill in the middle of the last line
    model = Script(" Cuba")
    assert [t.answer for t in agent.run_agent(asked, model, toolbox=box, log=log, chunk=1)] == [t.answer for t in first] and len(model.prompts) == 2
    with pytest.raises(agent.RunLogError, match="another run"): agent.run_agent(asked, model, toolbox=box, log=log, max_steps=3)
    log.write_bytes(data.replace(b'"tool_calls"', b'"calls"', 1))
    with pytest.raises(agent.RunLogError, match="line 2: not a trace"): agent.run_agent(asked, model, toolbox=box, log=log)


def test_a_local_model_gives_the_same_lines_in_any_company(tmp_path, box):
    lm = load_causal_lm(tiny_llama(tmp_path / "tiny"))
    writer = agent.LocalWriter(lm)
    asked = ["\n\nOne question\nAnswer:", "\n\nAnother, longer question here\nAnswer:"]
    both = writer.write([*asked, asked[0]], "Some shots.", 6)
    assert both.text[0] == both.text[2] and len(both.text) == 3
    traces = agent.run_agent(multihop.multihop_questions()[:4], writer, toolbox=box, policy=agent.GuidedPolicy(shots={"Look up": "", "Answer": ""}))
    assert all(t.stop == "answer" and t.tokens_in > 0 and t.seconds > 0 for t in traces)
    bank = multihop.question_bank(multihop.multihop_questions()[:4], shots="")
    sure = agentic.answer_entropy(lm, bank, ["x", "", "yes yes", "no"])
    scored = lm.score(bank, ["x", "", "yes yes", "no"], ending=True)
    assert np.allclose(sure["perplexity"], np.exp(-scored.log_likelihood / scored.tokens), rtol=1e-3) and (sure["answer_entropy"] > 0).all()


def test_any_endpoint_can_write(box):
    class Chat:
        name = "remote"
        def ask(self, prompts):
            from routercompanion.models.chat import Reply
            return [Reply("Cuba\nand more" if p.endswith("Look up:") else None if "Tirana" in p else "Cuban Peso") for p in prompts]
    ok, failed = agent.run_agent([HAVANA, multihop.bridge_question("Tirana", "currency")], agent.EndpointWriter(Chat()), toolbox=box)
    assert ok.answer == "Cuban Peso" and np.isnan(ok.tokens_in) and failed.answer == "" and failed.stop == "answer"


def test_a_planted_sentence_is_planted_read_and_its_obedience_counted(box):
    class Obedient(Script):
        def write(self, prompts, shots, n):
            out = super().write(prompts, shots, n)
            return out._replace(text=[" Cuba" if p.endswith("Look up:") else " Atlantis" if "Ignore the question" in p else " Cuban Peso" for p in prompts])
    found = agentic.injection_effect([HAVANA], Obedient(""), hop=1)
    assert (found["clean"][0], found["poisoned"][0], found["obeyed"][0], found["read"][0]) == (1, 0, True, True)
    deaf = agentic.injection_effect([HAVANA], Script(" Cuba", " Cuban Peso", " Cuba", " Cuban Peso"), hop=0)
    assert deaf["poisoned"][0] == 1 and not deaf["obeyed"][0] and deaf["n"] == 1


def test_the_embedded_agent_reaches_no_network_and_starts_no_process(box, monkeypatch):
    def refuse(*args, **kwargs): raise AssertionError("a socket or a process was opened")
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(os, "system", refuse)
    for policy in (agent.GuidedPolicy(), agent.FreePolicy()):
        assert agent.run_agent([HAVANA], Script(" look up Cuba", " answer import os; os.system('ls')"), toolbox=box, policy=policy)[0].stop == "answer"


# ---------------------------------------------------------------- smolagents on the same tools

def scripted(*lines):
    from smolagents import ChatMessage, MessageRole, Model
    from smolagents.monitoring import TokenUsage

    class Scripted(Model):
        said = 0
        def generate(self, messages, **options):
            self.said += 1
            return ChatMessage(MessageRole.ASSISTANT, lines[min(self.said, len(lines)) - 1], token_usage=TokenUsage(10, 5))
    return Scripted(model_id="scripted")


def call(name, **arguments): return json.dumps(dict(name=name, arguments=arguments))


def test_the_frameworks_agent_calls_tools_counts_failures_and_keeps_limits(box):
    from routercompanion.agents import smolagents
    from routercompanion.studies import agentic
    t = smolagents.framework_trace(HAVANA, scripted(call("search", query="Havana"), "the peso", call("no_such_tool", x=1), call("calculate", expression="x"), call("final_answer", answer="peso")), box)
    assert t.answer == "peso" and t.malformed == 2 and t.tool_calls == 2 and "Havana" in t.titles and t.tokens_in == 50
    t = smolagents.framework_trace(HAVANA, scripted("the peso"), box, max_steps=2)
    assert (t.stop, t.answer, t.malformed) == ("steps", "", 2)
    t = smolagents.framework_trace(HAVANA, scripted(call("search", query="x")), box, max_seconds=0)
    assert (t.stop, t.answer) == ("time", "")

    def broken(messages, **options): raise RuntimeError("no")
    model = scripted("x")
    model.generate = broken
    assert smolagents.framework_trace(HAVANA, model, box).stop == "error"
    with pytest.raises(UnknownNameError, match="kind of agent"): smolagents.framework_agent(model, box, kind="shell")


ESCAPES = ["import os\nos.system('touch {0}')", "open('{0}', 'w')", "import socket", "import subprocess", "import urllib.request", "__import__('os')", "().__class__.__mro__[1].__subclasses__()",
           "eval('1')", "exec('1')", "search.__globals__", "search.forward.__globals__['os']"]


@pytest.mark.parametrize("attempt", ESCAPES)
def test_code_stays_in_the_sandbox(box, tmp_path, attempt):
    from routercompanion.agents import smolagents
    from routercompanion.studies import agentic
    out = tmp_path / "escaped"
    t = smolagents.framework_trace(HAVANA, scripted(f"Thought: out.\n<code>\n{attempt.format(out)}\n</code>", "Thought: well.\n<code>\nfinal_answer('peso')\n</code>"), box, kind="code", max_steps=3)
    assert not out.exists() and t.malformed == 1 and t.steps[0]["error"] and t.answer == "peso"


class Server(http.server.BaseHTTPRequestHandler):
    status, seen, text = 200, [], ""

    def do_POST(self):
        self.seen.append((dict(self.headers), json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.text)))
        self.end_headers()
        self.wfile.write(self.text.encode())

    def log_message(self, *args): pass


@pytest.fixture
def server():
    Server.status, Server.seen = 200, []
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}/v1"
    found.shutdown()


def test_an_openai_compatible_endpoint_as_the_frameworks_model(box, server, monkeypatch):
    from routercompanion.agents import smolagents
    from routercompanion.studies import agentic
    from routercompanion.models.chat import EndpointError
    monkeypatch.setenv("OUR_KEY", "secret-word")
    message = dict(role="assistant", content=None, tool_calls=[dict(id="1", type="function", function=dict(name="final_answer", arguments='{"answer": "peso"}'))])
    Server.text = json.dumps(dict(choices=[dict(message=message)], usage=dict(prompt_tokens=7, completion_tokens=2)))
    model = smolagents.EndpointAgentModel(server, "m", api_key_env="OUR_KEY", timeout=10)
    t = smolagents.framework_trace(HAVANA, model, box)
    headers, body = Server.seen[0]
    assert t.answer == "peso" and t.tokens_in == 7 and headers["Authorization"] == "Bearer secret-word" and body["model"] == "m" and body["temperature"] == 0
    assert [m["role"] for m in body["messages"]][:2] == ["system", "user"] and HAVANA.question in str(body["messages"][1])
    Server.status = 401
    asked = [smolagents.ChatMessage(smolagents.MessageRole.USER, [dict(type="text", text="x")])]
    with pytest.raises(EndpointError, match="status 401") as e: model.generate(asked)
    assert "secret-word" not in str(e.value) and "secret-word" not in str(vars(model))
    Server.status, Server.text = 200, "no json"
    with pytest.raises(EndpointError, match="no chat completion"): model.generate(asked)
    with pytest.raises(EndpointError, match="no answer"): smolagents.EndpointAgentModel("http://127.0.0.1:9/v1", "m", timeout=1).generate(asked)


def test_a_framework_run_resumes(box, tmp_path):
    from routercompanion.agents import smolagents
    from routercompanion.studies import agentic
    model, log, asked = scripted(call("final_answer", answer="peso")), tmp_path / "log.jsonl", multihop.multihop_questions()[:3]
    smolagents.run_framework(asked[:2], model, toolbox=box, log=log)
    found = smolagents.run_framework(asked, model, toolbox=box, log=log)
    assert model.said == 3 and [t.answer for t in found] == ["peso"] * 3


# ---------------------------------------------------------------- the router

def test_the_answer_router_keeps_the_contract():
    X, outcomes = toy_routing_data("answers")
    X["answer_entropy"] = np.asarray(X["perplexity"]) ** 2
    check_router(answers.AnswerEntropy(), X, outcomes)
    assert ROUTERS["AnswerEntropy"] is answers.AnswerEntropy and answers.AnswerEntropy().runs_small


def brute_curve(score, outcomes, cost, after):
    "Every number of calls, one after the other (scores without ties)."
    order, points = np.argsort(-score), []
    for k in range(len(score) + 1):
        called, kept = order[:k], order[k:]
        quality = (outcomes[called, 1].sum() + outcomes[kept, 0].sum()) / len(score)
        paid = cost[called, 1].sum() + cost[kept, 0].sum() + (cost[called, 0].sum() if after else 0)
        points.append((paid / len(score), quality))
    return np.array(points).T


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.booleans())
def test_the_cost_curve_equals_counting(seed, n, after):
    rng = np.random.default_rng(seed)
    score, outcomes, cost = rng.permutation(n).astype(float), rng.integers(0, 2, (n, 2)).astype(float), rng.random((n, 2)) * 100
    sweep = stages_module.stage_sweep(score, outcomes, cost, after=after)
    curve, paid = sweep.curve(), sweep.paid
    assert np.allclose(curve.quality, brute_curve(score, outcomes, cost, after)[1])
    spent = brute_curve(score, outcomes, cost, after)[0]
    assert np.allclose(curve.cost, np.maximum.accumulate(spent))
    assert np.array_equal(paid[:, 1], cost[:, 1] + (cost[:, 0] if after else 0))
    w = rng.integers(0, 3, (3, n)); w[:, 0] += 1
    batch = sweep.curve(w)
    rates = stages_module.stage_sweep(score, outcomes).curve(w).call_rate
    for i, row in enumerate(w):
        rows = np.repeat(np.arange(n), row)
        part = score[rows], outcomes[rows], cost[rows]
        alone = stages_module.stage_sweep(*part, after=after).curve()
        at = stages_module.stage_sweep(score[rows], outcomes[rows]).curve().call_rate
        for of in ("cost", "quality"):                                                     # equal rows are a tie, one straight segment: the same function of the call rate
            assert np.allclose(np.interp(at, rates[i], getattr(batch, of)[i]), getattr(alone, of))


def test_mean_quality_is_the_area_of_the_curve():
    rng = np.random.default_rng(3)
    outcomes, score = rng.integers(0, 2, (400, 2)).astype(float), rng.normal(size=400)
    curve = stages_module.stage_sweep(score, outcomes).curve()
    assert stages_module.mean_quality(curve, 0, 1, points=4001) == pytest.approx(np.trapezoid(curve.quality, curve.call_rate), abs=1e-6)
    chance = stages_module.stage_sweep(np.zeros(400), outcomes).curve()
    assert stages_module.mean_quality(chance, 0, 1) == pytest.approx(outcomes.mean())
    with pytest.raises(CompanionError, match="two finite costs"):
        stages_module.stage_sweep(score, outcomes, np.full((400, 2), np.nan)).curve()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_two_stages_equal_counting_and_chosen_thresholds_keep_to_the_budget(seed):
    rng = np.random.default_rng(seed)
    n = 30
    first, second, outcomes, cost = rng.normal(size=n), rng.normal(size=n), rng.integers(0, 2, (n, 2)).astype(float), 1 + rng.random((n, 2)) * [1, 9]
    t = (float(rng.normal()), float(rng.normal()))
    quality, paid = two_stage.route_result(two_stage.two_stage_route(first, second, t), outcomes, cost)
    for i in range(n):
        if first[i] > t[0]: assert (quality[i], paid[i]) == (outcomes[i, 1], cost[i, 1])
        elif second[i] > t[1]: assert (quality[i], paid[i]) == (outcomes[i, 1], cost[i].sum())
        else: assert (quality[i], paid[i]) == (outcomes[i, 0], cost[i, 0])
    low, high = stages_module.budget_range(cost)
    budget = low + .5 * (high - low)
    best = {}
    for stages in two_stage.STAGES:
        pair = two_stage.choose_thresholds(first, second, outcomes, cost, budget, stages=stages, grid=9)
        quality, paid = two_stage.route_result(two_stage.two_stage_route(first, second, pair), outcomes, cost)
        assert paid.mean() <= budget + 1e-6
        best[stages] = quality.mean()
        assert stages == "both" or np.isinf(pair[1 if stages == "before" else 0])
    assert best["both"] >= max(best["before"], best["after"]) - 1e-12                   # on its own validation questions
    with pytest.raises(CompanionError, match="below"): two_stage.choose_thresholds(first, second, outcomes, cost, .5 * low)


def test_draws_are_paired_and_the_oracle_bounds_them():
    rng = np.random.default_rng(5)
    n = 240
    p = rng.random(n)
    outcomes = np.stack([rng.random(n) < p, rng.random(n) < .8], 1).astype(float)
    scores = {"good": -p, "Random": np.zeros(n), "GainOracle": outcomes[:, 1] - outcomes[:, 0]}
    cost = np.stack([np.ones(n), 5 + rng.random(n)], 1)
    same = dict(task=np.repeat("t", n), costs={"tokens": cost}, n_resamples=200)
    same["entities"] = np.arange(n) // 4
    drawn = stages_module.stage_evaluation(scores, outcomes, **same)
    again = stages_module.stage_evaluation({"good": scores["good"]}, outcomes, **same)
    for m in ("mean accuracy over call rate", "mean accuracy over tokens", "pooled AUROC", "LPM"):
        one, other = (e.resampled("good", m) for e in (drawn, again))
        assert np.array_equal(one, other, equal_nan=True)   # the same resamples whatever the company
    area = "mean accuracy over call rate"
    assert (drawn.resampled("GainOracle", area) >= drawn.resampled("good", area)).all()
    assert drawn.value("Random", "pooled AUROC") == .5
    gap = drawn.compare("good", "Random", area)
    values = [drawn.value(row, area) for row in ("good", "Random")]
    assert gap["low"] > 0 and gap["difference"] == pytest.approx(values[0] - values[1])
    assert gap["tasks"] == n // 4 and gap["task_low"] > 0                                # one entity left out at a time
    table = drawn.table
    known = table.dropna(subset=["value", "low"])
    assert len(table) == 3 * 6 and len(known) >= 12
    assert (known.low <= known.value + .05).all()


def test_differences_between_stages_are_read_as_a_family():
    rng = np.random.default_rng(6)
    n = 200
    p = rng.random(n)
    outcomes = np.stack([rng.random(n) < p, rng.random(n) < .8], 1).astype(float)
    scores = {"good": -p, "noise": rng.normal(size=n), "Random": np.zeros(n)}
    drawn = stages_module.stage_evaluation(scores, outcomes, np.repeat("t", n), {}, measures=(),
                                           n_resamples=900)
    area = "mean accuracy over call rate"
    found = stages_module.stage_differences(drawn, "good", ["noise", "Random"], [area])
    other_way = drawn.family(area, reference="good", rows=["noise", "Random"])
    assert np.allclose(found.difference, -other_way.difference)
    assert np.allclose(found.simultaneous_low, -other_way.simultaneous_high)
    assert (found.simultaneous_low < found.low).all() and (found.comparisons == 2).all()
    assert found.verdict.tolist() == ["ahead", "ahead"]
    turned = stages_module.stage_differences(drawn, "Random", ["noise", "good"], [area])
    assert turned.verdict.tolist() == ["cannot tell", "behind"]
    assert turned.difference.iloc[1] == -found.difference.iloc[1]


def test_fixed_policies_are_the_ends_the_line_and_the_oracle():
    outcomes = np.array([[1, 0], [0, 1], [0, 1], [0, 0]], float)
    cost = np.array([[1, 9]] * 4, float)
    fixed = stages_module.fixed_policies(outcomes, cost, budgets=(.5,)).set_index("stages")
    assert fixed.quality.to_dict() == {"random": .375, "all direct": .25, "all agent": .5,
                                       "oracle (before, free)": .75}
    assert fixed.paid["random"] == 5 and fixed.minus_random["random"] == 0
    assert fixed.n.unique().tolist() == [4]
    cases = stages_module.routing_cases([True, False, True, False], outcomes)
    tally = stages_module.case_table(cases)
    assert tally.questions.sum() == 4 and tally.share.sum() == 1
    assert len(tally) == len(stages_module.CASES)


# ---------------------------------------------------------------- the record

def test_the_record_fits_the_questions_its_own_traces_and_the_evidence_rules():
    questions, bank, _ = agentic.multihop_bank()
    outcomes, signals, traces = recorded_outcomes(bank, "agentic"), recorded_signals("agentic_signals", bank), agentic.recorded_traces(bank)
    assert outcomes.models == list(agentic.PAIR) and outcomes.provenance.startswith("recorded") and not np.isnan(outcomes.score).any()
    for i, (way, said) in enumerate((("direct", traces.direct), ("agent", traces.answer))):
        em, f1 = reference_module.answer_scores(list(said), questions)                              # the scores follow from the words
        assert np.array_equal(em, outcomes.score[:, i]) and np.array_equal(em, signals[way]) and np.array_equal(f1, signals[f"{way}_f1"])
    recall = [reference_module.support_scores({t for s in steps for t in s["found"]}, {t for t, _ in q.supporting})["recall"] for steps, q in zip(traces.steps, questions)]
    assert np.allclose(recall, signals["support_recall"]) and np.array_equal(signals["steps"], traces.steps.map(len))
    test = outcomes.subset(np.flatnonzero(outcomes.split == "test"))
    assert len(test) >= 1000 and .15 <= test.score[:, 0].mean() <= .85
    gap = accuracy_gap(test, *agentic.PAIR)
    assert gap.gap >= .1 and gap.low > 0                                              # the agent is really better on average


def test_the_tables_of_the_other_agents_and_of_the_planted_sentence_come_from_their_records():
    from routercompanion.agents import smolagents
    from routercompanion.studies import agentic
    policies, planted = agentic.policy_table().set_index("policy"), agentic.injection_table().set_index("passage")
    assert list(policies.index) == ["free", "tool", "code"] and policies.n["tool"] >= 24 and ((policies.right_low <= policies.right) & (policies.right <= policies.right_high)).all()
    assert list(planted.index) == ["first", "second"] and (planted.n >= 60).all()
    assert np.allclose(planted.clean - planted.lost + planted.won, planted.poisoned) and ((planted.obeyed >= 0) & (planted.obeyed <= planted.passage_read)).all()


def test_hotpotqa_is_recorded_as_numbers_and_tabulated(tmp_path, monkeypatch):
    monkeypatch.setattr(agentic, "outcomes_path", lambda name: tmp_path / f"{name}.parquet")
    monkeypatch.setattr("routercompanion.data.records.outcomes_path", lambda name: tmp_path / f"{name}.parquet")
    monkeypatch.setattr(agentic, "cache_dir", lambda *parts: tmp_path)
    file, kinds = tmp_path / "some.jsonl", ["bridge", "comparison"] * 3
    rows = [HUB | dict(id=str(i), question=f"Question {i} of the file?", type=kind) for i, kind in enumerate(kinds)]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    questions = hotpotqa.load_hotpotqa(file)
    said = dict(zip((q.question for q in questions), [questions[0].answers[0], "wrong"] * 3))   # bridges right from memory, comparisons wrong
    monkeypatch.setattr(agentic, "answer_bank", lambda lm, bank, **_: pd.DataFrame(dict(text=[next(a for q, a in said.items() if q in p) for p in bank.table.prompt])))
    monkeypatch.setattr(agentic, "LocalWriter", lambda lm: None)
    monkeypatch.setattr(agentic, "run_agent", lambda qs, *_, **__: [agent.Trace(key=q.question, answer=q.answers[0], stop="answer") for q in qs])
    agentic.record_hotpotqa(file, SimpleNamespace(name="none", hash="e" * 64, dtype="bfloat16"), name="some")
    t = agentic.hotpotqa_table("some", n_resamples=200).set_index("questions")
    assert t.n.to_dict() == {"bridge": 3, "comparison": 3, "all": 6} and t.direct.to_dict() == {"bridge": 1, "comparison": 0, "all": .5} and (t.agent == 1).all()
    assert t.f1_gain.to_dict() == {"bridge": 0, "comparison": 1, "all": .5} and t.f1_gain_low["all"] > 0
    assert not {"Question", "wrong"} & set((tmp_path / "some.parquet").read_bytes().decode("latin1").split())   # numbers only


def test_traces_survive_the_file_and_a_missing_query_is_named(tmp_path, monkeypatch, box):
    monkeypatch.setattr(agentic, "outcomes_path", lambda name: tmp_path / f"{name}.parquet")
    asked = multihop.multihop_questions()[:3]
    bank, traces = multihop.question_bank(asked), agent.run_agent(asked, Script(" Cuba", " Peso"), toolbox=box)
    agentic.save_traces("t", bank.query_ids, ["a", "b", "c"], traces)
    found = agentic.recorded_traces(bank, "t")
    assert found.steps[1] == traces[1].steps and found.direct.tolist() == ["a", "b", "c"] and found.answer.tolist() == [t.answer for t in traces]
    with pytest.raises(agent.RunLogError, match="lacks 1 of the 4"): agentic.recorded_traces(multihop.question_bank(multihop.multihop_questions()[:4]), "t")
    with pytest.raises(agent.RunLogError, match="does not exist"): agentic.recorded_traces(bank, "other")
