"""Judges: letters, mathematics, verdicts and scores are read as they were meant; a network that misbehaves masks labels and never invents them."""
import http.server
import json
import logging
import os
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from routercompanion.core import CompanionError, UnknownNameError
from routercompanion.data.texts import (
    JudgeError, LETTERS, NoOptionsError, final_answer, last_boxed, parse_options,
)
from routercompanion.judging.choices import choice_scores, parse_choice
from routercompanion.judging.exact import math_score, math_scores, short_scores
from routercompanion.judging.llm import (
    JudgeReport, LLMJudge, Verifier, judge_prompt, pair_prompt, parse_score, parse_verdict,
    sufficiency_labels, verifier_prompt,
)
from routercompanion.judging.reference import ReferenceScore, lcs_length, rouge_l, token_f1
from routercompanion.judging.validate import cohen_kappa, validate_judge
from routercompanion.models.chat import (
    ChatEndpoint, EndpointError, LocalChat, Reply, ReplyCache, backoff_wait,
)
from routercompanion.report.diagrams import plot_judge_prompt


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("ROUTERCOMPANION_QUIET", "1")
    monkeypatch.setenv("ROUTERCOMPANION_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ROUTERCOMPANION_API_KEY", raising=False)
    logging.getLogger("math_verify").setLevel(logging.ERROR)


# ---------- options ----------

option_texts = st.lists(st.text("abcdefg xyz0123=+", min_size=1, max_size=20).map(str.strip).filter(bool), min_size=2, max_size=10)


@given(option_texts, st.sampled_from(["{}. ", "({}) ", "{}) ", "{}: "]), st.booleans(), st.sampled_from(["", "\nAnswer:", "\n\nPlease choose the correct answer from A, B."]))
def test_options_come_back_as_written(options, form, header, end):
    prompt = "Which one of these?" + ("\n\nOptions:\n" if header else "\n") + "\n".join(form.format(LETTERS[i]) + o for i, o in enumerate(options)) + end
    assert parse_options(prompt) == options


def test_options_over_several_lines_and_stems_that_hold_lists():
    assert parse_options("Q\n\nOptions:\nA. one\n  more\nB. two\n\nPlease choose the correct answer.") == ["one\n  more", "two"]
    assert parse_options("Statements:\nA. x\nB. y\nC. z\nWhich?\nA. first\nB. second\nAnswer:") == ["first", "second"]
    assert parse_options("Q\n\nOptions:\nA. the list\nA. again\nB. two") == ["the list\nA. again", "two"]
    assert parse_options("Q\nA. " + "\nB. ") == ["", ""]


@pytest.mark.parametrize("prompt", ["", "Name an animal.", "A. only one", "B. starts\nC. late", "A) x B) y on one line"])
def test_a_question_without_options_has_a_named_error(prompt):
    with pytest.raises(NoOptionsError, match="No options"): parse_options(prompt)
    with pytest.raises(NoOptionsError, match="Row 1.*on_error='mask'"): choice_scores(["A", "A"], [["x", "y"], prompt], ["A", "A"])
    assert np.array_equal(choice_scores(["A", "A"], [["x", "y"], prompt], ["A", "A"], on_error="mask"), [1, np.nan], equal_nan=True)


def test_a_reference_beyond_the_options_is_an_error_and_no_wrong_answer():
    with pytest.raises(NoOptionsError, match="'C' is none of 2"): choice_scores(["A"], [["x", "y"]], ["C"])
    with pytest.raises(UnknownNameError): choice_scores([], [], [], on_error="ignore")
    with pytest.raises(ValueError): choice_scores(["A", "B"], [["x", "y"]], ["A"])


# ---------- letters ----------

FORMS = ["{}", "({})", "{}.", "{})", "{}:", "**{}**", "({}) because of that", "{}. some text", "The answer is {}", "The answer is {}.", "the correct answer is ({})", "Answer: {}",
         "ANSWER: **{}**", "My choice is option {}", "I would pick {}.", "I choose ({})", r"\boxed{{{}}}", r"$\boxed{{\text{{{}}}}}$", r"\boxed{{\text{{({})}}}}", "So the final answer is\n\n{}",
         "{} is correct", "Option {} is the best one", "We can rule it out.\nTherefore, {}."]


@given(st.sampled_from(FORMS), st.integers(2, 10), st.data())
def test_every_form_gives_its_letter(form, n, data):
    letter = LETTERS[data.draw(st.integers(0, n - 1))]
    before = data.draw(st.sampled_from(["", "Let me think about that.\n", "Because dogs bark, and I know it.\n"]))
    assert parse_choice(before + form.format(letter), n) == letter
    if form in ("{}", "({})", "{})"): assert parse_choice(form.format(letter.lower()), n) == letter


@given(st.lists(st.sampled_from("ABCD"), min_size=1, max_size=4), st.sampled_from(["The answer is {}.", "So I choose {}.", "Answer: ({})"]))
def test_the_last_statement_wins(letters, form):
    assert parse_choice(" ".join(form.format(x) for x in letters), 4) == letters[-1]


@given(st.text(max_size=80), st.integers(2, 10))
def test_any_text_gives_an_allowed_letter_or_none(text, n):
    assert parse_choice(text, n) in (None, *LETTERS[:n])


@given(st.lists(st.sampled_from("Because Cats Do Eat Fish And I Being Certain About It".split()), min_size=2, max_size=10))
def test_letters_inside_words_are_no_choice(words):
    assert parse_choice(" ".join(w.lower() for w in words) + " indeed", 10) is None and parse_choice("".join(words) + "xyz", 10) is None


@pytest.mark.parametrize("answer, letter", [
    ("The answer is a good one", None), ("A dog barks", None), ("I think so", None), ("The answer is E", None), ("", None), ("A. x\nB. y\nC. z\nD. w", None), ("Z", None),
    ("The answer is not B. It must be (C).", "C"), ("Option A is wrong, so the answer is D", "D"), ("B, since A is wrong", "B"), ("A because it is first", "A"),
    ("The answer is A because it is first.", "A"), ("First I thought (A)\nbut now (B)", "B"), ("D. the fourth", "D"), ("C\n\nExplanation: A is too small", "C")])
def test_awkward_answers(answer, letter): assert parse_choice(answer, 4) == letter


@pytest.mark.parametrize("answer, letter", [("Paris", "B"), ("paris.", "B"), ("The answer is Paris.", "B"), ("D. Option B", "D"), ("The answer is Rome", "A"), ("Berlin", None), ("C. Rome", "C")])
def test_the_full_text_of_an_option_counts(answer, letter):
    assert parse_choice(answer, 4, options=["Rome", "Paris", "London", "Option B"]) == letter


def test_a_text_that_two_options_share_decides_nothing():
    assert parse_choice("Rome", 2, options=["Rome", "rome."]) is None


# ---------- mathematics and short answers ----------

@pytest.mark.parametrize("text, answer", [(r"x \boxed{a\{b\}} y", r"a\{b\}"), (r"\boxed{1}\boxed{\frac{1}{2}}", r"\frac{1}{2}"), (r"\boxed{open", None), ("none", None)])
def test_last_boxed(text, answer): assert last_boxed(text) == answer


@pytest.mark.parametrize("text, answer", [("a\n#### 12\n", "12"), ("So the answer is $5$.", "5"), ("3 + 4\n7", "7"), ("", ""), (r"\$20.", "20"), ("Answer: 3/4", "3/4"), ("**9**", "9")])
def test_final_answer(text, answer): assert final_answer(text) == answer


@given(st.integers(-50, 50), st.integers(1, 12), st.integers(-50, 50), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_fractions_are_compared_as_numbers(a, b, c, d):
    "Against exact arithmetic: LaTeX fraction as reference, plain fraction as answer."
    assert math_score(f"{c}/{d}", [rf"\frac{{{a}}}{{{b}}}"]) == float(Fraction(a, b) == Fraction(c, d))


@pytest.mark.parametrize("answer, reference, score", [("2.5", r"\frac{5}{2}", 1), ("28690", "28,690", 1), ("18", r"18\text{ hours}", 1), ("(-1.5, 6)", r"(-\frac{3}{2},6)", 1), ("$100", "$100.00", 1),
                                                      ("7", "8", 0), ("", "8", 0), ("I do not know", "8", 0), ("yes", "yes", 1), (r"\sqrt{4}", "2", 1),
                                                      ("She pays for 9 of them, which is $18 every day.", "18", 1), ("It costs 17 dollars in all", "18", 0), (r"Working it out gives $\frac{3}{4}$ of it.", "0.75", 1)])
def test_math_score(answer, reference, score): assert math_score(answer, [reference]) == score


def test_what_cannot_be_read_or_takes_too_long_is_masked():
    start = time.perf_counter()
    assert np.isnan(math_score("9^{9^{9^{9}}}", ["3"], seconds=1)) and np.isnan(math_score("4", [r"x^3+27}. \end{align*"]))
    assert time.perf_counter() - start < 20
    assert math_score(r"x^3+27}. \end{align*", [r"x^3+27}. \end{align*"]) == 1   # the same text needs no reading


def test_the_time_limit_holds_in_threads_too():
    with ThreadPoolExecutor(1) as pool: scores = pool.submit(math_scores, ["0.5", "9^{9^{9^{9}}}", "1"], [[r"\frac12"], ["3"], ["2", "1"]], seconds=1).result(60)
    assert np.array_equal(scores, [1, np.nan, 1], equal_nan=True) and scores.dtype == np.float32


def test_short_answers():
    assert short_scores(["yes", "The answer is Arthur's Magazine.", "No!", "maybe", ""], [["Yes"], ["arthur's magazine"], ["no"], ["no"], ["no"]]).tolist() == [1, 1, 1, 0, 0]


# ---------- scores and verdicts in words ----------

@given(st.integers(0, 100), st.sampled_from(["Score: {}", "**Score:** {}", "Because.\nscore = {}/10", "[[{}]]", "{}/10", "{}", "Rating: {} out of 10", "Score: 3\nNo: Score: {}"]))
def test_a_number_that_was_given_is_read(tenths, form): assert parse_score(form.format(tenths / 10)) == tenths / 10


@given(st.one_of(st.text("abc def.,!?", max_size=40), st.sampled_from(["Score: 11", "Score: -3", "Score: 100", "Score: none", "It has 3 errors and 2 slips", "12", "Score: 7.5.2", "nan", "Score:"])))
def test_anything_else_is_nan(text): assert np.isnan(parse_score(text))


@pytest.mark.parametrize("text, verdict", [("Correct", True), ("correct.", True), ("Incorrect", False), ("INCORRECT!", False), ("It is not correct", False), ("Incorrectly", None), ("", None),
                                           ("Not incorrect... no: Correct", True), ("[Incorrect]", False), ("right", None)])
def test_verdicts(text, verdict): assert parse_verdict(text) is verdict


@given(st.text(max_size=60), st.text(max_size=60))
def test_answers_cannot_close_their_block(question, answer):
    for prompt, tag, last in ((judge_prompt(question, answer + "</answer>"), "answer", "Score:"), (verifier_prompt(question + "</question>", answer, "1"), "question", "Correct"),
                              (pair_prompt(question, answer + "</answer_1>", answer), "answer_1", "Score 2:")):
        assert prompt.count(f"</{tag}>") == 1 and last in prompt.rsplit("</", 1)[1]


def test_the_prompt_shows_no_source_and_describes_its_scale():
    prompt = judge_prompt()
    assert re.findall(r"(?m)^ ?(\d+):", prompt) == ["10", "8", "5", "2", "0"] and "0 to 10" in prompt
    assert not re.search(r"(?i)gpt|llama|small model|large model|sota", prompt + pair_prompt("q", "a", "b"))
    ax = plot_judge_prompt()
    assert "\n".join(t.get_text() for t in ax.texts).split() == prompt.split()
    ax.figure.clf()


# ---------- a server with moods ----------

class Model(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with self.server.guard:
            self.server.calls[prompt] += 1
            self.server.seen.append((time.perf_counter(), self.headers.get("Authorization"), body))
            call = self.server.calls[prompt]
        said = self.server.reply(prompt, call)
        status, text, headers, delay = said + ({}, 0)[len(said) - 2:] if isinstance(said, tuple) else (200, said, {}, 0)
        time.sleep(delay)
        data = text if isinstance(text, bytes) else json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        try:
            self.send_response(status)
            for item in {"Content-Length": str(len(data)), **headers}.items(): self.send_header(*item)
            self.end_headers()
            self.wfile.write(data)
        except OSError: pass

    def log_message(self, *a): pass


@pytest.fixture
def serve():
    servers = []

    def start(reply):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
        server.daemon_threads, server.reply, server.calls, server.seen, server.guard = True, reply, Counter(), [], threading.Lock()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server, f"http://127.0.0.1:{server.server_port}/v1"
    yield start
    for s in servers: s.shutdown(); s.server_close()


def quick(url, **options): return ChatEndpoint(url, "m", **{**dict(timeout=.4, retries=2, backoff=.01), **options})


def moods(prompt, call):
    if "recovers" in prompt: return (500, b"") if call <= 2 else "Score: 6"
    if "busy" in prompt: return (429, b"", {"Retry-After": "0"}) if call == 1 else "Score: 4"
    if "broken" in prompt: return 503, b""
    if "sleepy" in prompt: return 200, "Score: 10", {}, 1.
    if "vague" in prompt: return "Nice."
    if "garbled" in prompt: return 200, b"<html>"
    if "odd" in prompt: return 200, json.dumps({"choices": [{"message": {"content": None}}]}).encode()
    if "refused" in prompt: return 400, b"too long"
    return "Fine.\nScore: 9"


def test_a_judge_through_every_trouble(serve):
    server, url = serve(moods)
    names = ["well", "recovers", "busy", "broken", "sleepy", "vague", "garbled", "odd", "refused"]
    scores, report = LLMJudge(quick(url)).scores(["Say."] * 9, names)
    assert np.array_equal(scores, [9, 6, 4, *[np.nan] * 6], equal_nan=True) and scores.dtype == np.float32
    assert report == JudgeReport(n=9, parsed=3, unparsed=3, timed_out=1, http_errors=2) and report.masked == 6
    calls = {n: server.calls[judge_prompt("Say.", n)] for n in names}
    assert calls == dict(well=1, recovers=3, busy=2, broken=3, sleepy=3, vague=1, garbled=1, odd=1, refused=1)


def test_masked_labels_are_never_sentinels(serve):
    _, url = serve(moods)
    judge = LLMJudge(url, "m", timeout=.3, retries=0)
    small, _ = judge.scores(["Say."] * 3, ["well", "broken", "vague"])
    large, _ = judge.scores(["Say."] * 3, ["well too", "well", "well"])
    assert np.array_equal(sufficiency_labels(small, large), [1, np.nan, np.nan], equal_nan=True)


@given(st.lists(st.tuples(*[st.one_of(st.none(), st.integers(0, 10))] * 2), max_size=20))
def test_labels_are_equation_17(pairs):
    ours = sufficiency_labels([np.nan if s is None else s for s, _ in pairs], [np.nan if t is None else t for _, t in pairs])
    for y, (s, t) in zip(ours, pairs): assert np.isnan(y) if s is None or t is None else y == (1 if s >= t else 0)


def test_an_interrupted_run_asks_only_for_the_rest(serve, tmp_path):
    server, url = serve(moods)
    endpoint = quick(url, retries=0, cache=tmp_path)
    first = endpoint.ask(["one", "two", "broken", "one"])
    assert [r.text is None for r in first] == [False, False, True, False] and first[2].problem == "http" and server.calls["one"] == 1
    (path,) = tmp_path.glob("*.jsonl")
    assert "one" not in path.read_text().replace('"text"', "") and len(path.read_text().splitlines()) == 2   # hashes, no prompts
    with open(path, "a") as f: f.write('{"key": "cut sh')
    again = quick(url, retries=0, cache=tmp_path).ask(["one", "two", "three", "broken"])
    assert [r.text for r in again[:3]] == ["Fine.\nScore: 9"] * 3 and server.calls == Counter(one=1, two=1, three=1, broken=2)
    assert len(ReplyCache(path).read()) == 3
    endpoint.ask(["one"], repeat=1)
    assert server.calls["one"] == 2
    quick(url, retries=0, cache=tmp_path, options={"temperature": 1}).ask(["one"])
    assert server.calls["one"] == 3


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "kept.jsonl"
    path.write_text('{"key": "a", "text": "x"}\nrubbish\n{"key": "b", "text": "y"}\n')
    with pytest.raises(JudgeError, match="kept.jsonl, line 2"): ReplyCache(path).read()


def test_the_key_comes_from_the_environment_and_is_shown_nowhere(serve, monkeypatch, capfd):
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    server, url = serve(lambda prompt, call: (401, b"sk-secret-123") if "wrong" in prompt else "Score: 1")
    endpoint = quick(url, api_key_env="MY_KEY", options={"seed": 3})
    endpoint.ask(["a"])
    assert server.seen[-1][1] == "Bearer sk-secret-123" and server.seen[-1][2] == {"seed": 3, "model": "m", "messages": [{"role": "user", "content": "a"}]}
    with pytest.raises(EndpointError, match="401.*MY_KEY") as e: endpoint.ask(["wrong"])
    assert "secret" not in str(e.value) + repr(vars(endpoint)) + "".join(capfd.readouterr()) and server.calls["wrong"] == 1
    monkeypatch.delenv("MY_KEY")
    endpoint.ask(["b"])
    assert server.seen[-1][1] is None


def test_nobody_listens():
    scores, report = LLMJudge("http://127.0.0.1:9/v1", "m", retries=1, backoff=.01, cache=False).scores(["q"], ["a"])
    assert np.isnan(scores).all() and report == JudgeReport(1, 0, 0, 0, 1)


@given(st.integers(0, 12), st.text(max_size=5), st.floats(.01, 5), st.floats(.1, 60))
def test_waits_double_up_to_a_limit_with_jitter(attempt, key, base, longest):
    full = min(longest, base * 2**attempt)
    assert full / 2 <= backoff_wait(attempt, key, base=base, longest=longest) <= full


def test_a_server_may_ask_for_a_longer_wait(serve):
    server, url = serve(lambda prompt, call: (429, b"", {"Retry-After": "1"}) if call == 1 else "ok")
    assert quick(url, timeout=5).ask(["a"]) == [Reply("ok")]
    (t0, *_), (t1, *_) = server.seen
    assert t1 - t0 >= 1


def test_requests_run_side_by_side(serve):
    _, url = serve(lambda prompt, call: (200, prompt, {}, .3))
    start = time.perf_counter()
    assert [r.text for r in quick(url, timeout=10, n_jobs=8, cache=False).ask([str(i) for i in range(8)])] == [str(i) for i in range(8)]
    assert time.perf_counter() - start < 8 * .3


# ---------- pairs ----------

def by_length(prompt, call):
    "A judge that likes long answers, whatever their place."
    a, b = (re.search(rf"<answer_{k}>\n(.*)\n</answer_{k}>", prompt)[1] for k in (1, 2))
    return f"Score 1: {min(10, len(a))}\nScore 2: {min(10, len(b))}"


def test_pairs_are_shown_in_random_order_and_scored_in_the_given_one(serve):
    server, url = serve(by_length)
    judge = LLMJudge(quick(url, timeout=5))
    questions, first, second = [f"q{i}" for i in range(24)], ["aaa"] * 24, ["bbbbbb"] * 24
    scores, report = judge.pair_scores(questions, first, second, rng=0)
    assert (scores == [3, 6]).all() and report.parsed == 24
    shown_first = ["<answer_1>\naaa" in p for p in server.calls]
    assert 4 < sum(shown_first) < 20
    again, _ = judge.pair_scores(questions, first, second, rng=0)
    assert server.calls.total() == 24 and np.array_equal(again, scores)


def test_a_judge_with_a_favourite_place_is_found_out(serve):
    _, url = serve(lambda prompt, call: "Score 1: 8\nScore 2: 5" if "q0" not in prompt else "Score 1: 8")
    judge, m = LLMJudge(quick(url, timeout=5)), 10
    questions = [f"q{i}" for i in range(m)]
    one, report = judge.pair_scores(questions, ["a"] * m, ["b"] * m, swapped=np.zeros(m, bool))
    two, _ = judge.pair_scores(questions, ["a"] * m, ["b"] * m, swapped=np.ones(m, bool))
    assert np.isnan(one[0]).all() and report.unparsed == 1
    v = validate_judge([8, 2], [1, 0], pairs=one, swapped_pairs=two, n_resamples=50)
    assert v.swap.estimate == 0 and validate_judge([8, 2], [1, 0], pairs=one, swapped_pairs=one, n_resamples=50).swap.estimate == 1


# ---------- verifiers ----------

def test_a_verifier_behind_a_server(serve):
    _, url = serve(lambda prompt, call: "Correct" if "<answer>\n4\n" in prompt else "Incorrect" if "<answer>\n5\n" in prompt else "Hmm")
    scores, report = Verifier(quick(url, timeout=5)).scores(["2+2"] * 3, ["4", "5", "six"], ["4"] * 3)
    assert np.array_equal(scores, [1, 0, np.nan], equal_nan=True) and report == JudgeReport(3, 2, 1, 0, 0)


def test_a_model_of_this_process_answers_as_transformers_does(tmp_path):
    "A random Llama over bytes: batched replies equal one-by-one generation, and as a verifier it gives masked labels, not errors."
    import torch
    from tiny_models import tiny_llama
    from routercompanion.models.causal_lm import load_causal_lm
    lm = load_causal_lm(tiny_llama(tmp_path / "tiny"), dtype=torch.float32)
    prompts = ["a", "a much longer prompt than that", "", "bb"][:2] + ["bb"]
    batched = LocalChat(lm, max_new_tokens=6, batch_size=3).ask(prompts)
    for p, r in zip(prompts, batched):
        ids = torch.tensor([lm.tokenizer(p).input_ids])
        plain = lm.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0)[0, ids.shape[1]:]
        assert r.text == lm.tokenizer.decode(plain, skip_special_tokens=True)
    scores, report = Verifier(LocalChat(lm)).scores(["1+1"], ["2"], ["2"])
    assert np.isnan(scores[0]) and report == JudgeReport(1, 0, 1, 0, 0)
    lm.tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    assert LocalChat(lm)._text("hello") == "[hello]"


# ---------- likeness to a reference ----------

def lcs_by_table(a, b):
    "The textbook table."
    t = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b): t[i + 1][j + 1] = t[i][j] + 1 if x == y else max(t[i][j + 1], t[i + 1][j])
    return t[-1][-1]


@given(st.lists(st.sampled_from("abcd"), max_size=20), st.lists(st.sampled_from("abcd"), max_size=20))
def test_lcs_is_that_of_the_textbook(a, b):
    n = lcs_length(a, b)
    assert n == lcs_by_table(a, b)
    p, r = (n / len(a), n / len(b)) if a and b else (0, 0)
    assert rouge_l(" ".join(a), " ".join(b)) == pytest.approx(2 * p * r / (p + r) if p + r else 0)


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
def test_token_f1_by_counting(a, b):
    rest, common = list(b), 0
    for x in a:
        if x in rest: rest.remove(x); common += 1
    assert token_f1(" ".join(a), " ".join(b)) == pytest.approx(2 * common / (len(a) + len(b)) if a and b else 0)


class Letters:
    "An encoder: the share of each letter, of length one."
    def encode(self, texts):
        v = np.array([[t.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for t in texts], np.float32) + 1e-9
        return v / np.linalg.norm(v, axis=1, keepdims=True)


@pytest.mark.parametrize("score", [ReferenceScore("rouge_l"), ReferenceScore("token_f1"), ReferenceScore("cosine", encoder=Letters())])
def test_reference_scores_share_a_contract(score):
    values = score.scores(["the same words", "other things", "", "x"], [["no", "the same words"], ["the same words"], ["a"], []])
    assert values.dtype == np.float32 and values[0] == pytest.approx(10, abs=1e-4) and 0 <= values[1] < 10 and values[2] == 0 and np.isnan(values[3])
    assert "not quality" in score.name and score.scores([], []).shape == (0,)
    with pytest.raises(ValueError): score.scores(["a"], [])


def test_a_cosine_needs_an_encoder_and_metrics_have_names():
    with pytest.raises(JudgeError, match="encoder="): ReferenceScore("cosine")
    with pytest.raises(UnknownNameError, match="rouge_l"): ReferenceScore("bleu")


# ---------- validation ----------

labels = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=30)


@given(labels)
def test_kappa_is_scikit_learns(pairs):
    a, b = np.array(pairs).T.astype(int)
    ours = cohen_kappa(a, b)
    if len(set(a) | set(b)) == 1: assert np.isnan(ours)
    else: assert ours == pytest.approx(cohen_kappa_score(a, b), abs=1e-9)


@given(labels, st.data())
def test_kappa_under_counts_is_that_of_repeated_rows(pairs, data):
    a, b = np.array(pairs).T.astype(int)
    w = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(a), max_size=len(a)).filter(any)))
    assert np.array_equal(np.round(cohen_kappa(a, b, w[None]), 9), np.round([cohen_kappa(np.repeat(a, w), np.repeat(b, w))], 9), equal_nan=True)


def test_validation_by_hand():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200).astype(float)
    scores = np.clip(4 * truth + rng.normal(3, 2, 200), 0, 10)
    again = scores + rng.normal(0, .5, 200)
    scores[:7] = np.nan
    truth[7:10] = np.nan
    again[20:25] = np.nan
    v = validate_judge(scores, truth, retest=again, n_resamples=300)
    seen = np.isfinite(scores) & np.isfinite(truth)
    good = scores >= 5
    assert (v.n, v.masked) == (190, 10) and v.accuracy.estimate == pytest.approx((good == truth)[seen].mean())
    assert v.kappa.estimate == pytest.approx(cohen_kappa_score(good[seen], truth[seen])) and v.auroc.estimate == pytest.approx(roc_auc_score(truth[seen], scores[seen]))
    both = np.isfinite(scores) & np.isfinite(again)
    assert v.retest.estimate == pytest.approx((good == (again >= 5))[both].mean()) and v.swap is None
    assert v.majority == max(truth[seen].mean(), 1 - truth[seen].mean())
    for i in (v.accuracy, v.kappa, v.auroc): assert i.low < i.estimate < i.high


def test_validation_refuses_what_says_nothing():
    with pytest.raises(JudgeError, match="All 2 queries are masked"): validate_judge([np.nan, np.nan], [1, 0])
    with pytest.raises(JudgeError, match="one of each"): validate_judge([1, 2, 3], [1, 0])
    with pytest.raises(JudgeError, match="second round"): validate_judge([1, 9], [0, 1], retest=[np.nan, np.nan], n_resamples=10)
    assert issubclass(JudgeError, CompanionError)
