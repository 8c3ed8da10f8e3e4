"""What models say is read as it was meant, or masked.

Letters, numbers, verdicts, grades, confidences; and what is no answer at all.
"""

import logging
import math
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from routercompanion.agents.agent import names_in, parse_action
from routercompanion.data.bank import make_bank
from routercompanion.data.texts import JudgeError, LONGEST, clean_answer, final_answer
from routercompanion.features.answers import parse_confidence
from routercompanion.judging.choices import choice_scores, parse_choice
from routercompanion.judging.exact import judge, judge_one, math_score, math_scores, short_scores
from routercompanion.judging.llm import (
    LLMJudge,
    Verifier,
    parse_score,
    parse_selection,
    parse_verdict,
)
from routercompanion.judging.reference import (
    ReferenceScore,
    answer_f1,
    exact_match,
    rouge_l,
    token_f1,
)
from routercompanion.metrics.deferral import aiq, deferral_curve
from routercompanion.models.chat import ChatEndpoint, EndpointError, EndpointWarning, Reply
from routercompanion.routers.base import CallRateWarning, routing_labels, threshold_for

nan = float("nan")


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("ROUTERCOMPANION_QUIET", "1")
    monkeypatch.setenv("ROUTERCOMPANION_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ROUTERCOMPANION_API_KEY", raising=False)
    logging.getLogger("math_verify").setLevel(logging.ERROR)


def same(a, b):
    return a == b or (a != a and b != b)


# ---------- letters ----------

LETTERS = [
    ("The correct option is “B”.", "B"),
    ("The correct option is ‘B’.", "B"),
    ("Answer：B", "B"),
    ("答案：B", "B"),
    ("答案是B", "B"),
    ("Answer – B", "B"),
    ("Answer: [B]", "B"),
    ("Answer: <B>", "B"),
    ("[[B]]", "B"),
    ("Ｂ", "B"),
    ("（Ｂ）", "B"),
    (r"\boxed{{B}}", "B"),
    (r"\boxed{b}", "B"),
    (r"\boxed{B: the sun}", "B"),
    (r"\boxed{\textbf{(B)}}", "B"),
    (r"\(B\)", "B"),
    ("b. 4", "B"),
    ("the answer is b.", "B"),
    ("Answer: a", "A"),
    ("Answer seems to be C", "C"),
    ("**(B)** the sun", "B"),
    ('```json\n{"answer": "B"}\n```', "B"),
    ("```\nB\n```", "B"),
    ("<answer>B</answer>", "B"),
    ("<think>Is it A? The answer is A.</think>\nB", "B"),
    ("The answer is:\n\nB", "B"),
    ("**Answer:**\n\n**B**", "B"),
    ("It's not (A); it's B.", "B"),
    ("I'm going with option D.", "D"),
    ("It is not (B).", None),
    ("(A) is not right.", None),
    ("The answer is A or C.", None),
    ("Answer: A, C", None),
    ("The answer is A and C.", None),
    (r"\boxed{a dog}", None),
    ("a. first add\nb. then divide\nso it is small", None),
    ("The answer is a good one", None),
    ("The answer is B. Note that A is a usual trap.", "B"),
    ("ANSWER IS D. A is wrong here.", "D"),
    ("The answer is C because I did the sum.", "C"),
    ("I would pick B — a safe guess.", "B"),
    ("Antwort: C", "C"),
    ("The sum is 11.\n\nAnswer seems to be A.\n\nAnswer: A", "A"),
    ("Both A and C are right.", None),
    ("I think so.", None),
    ("A fine riddle!", None),
    ("The answer is E.", None),
    ("B\n\nA is wrong because I said so.", "B"),
    ("A. Moon\nB. Sun\nC. Mars\nD. Vega\n\nThe answer is C.", "C"),
    (None, None),
    (nan, None),
]


@pytest.mark.parametrize("text, letter", LETTERS)
def test_letters(text, letter):
    assert parse_choice(text, 4) == letter


def test_the_text_of_an_option_counts_wherever_the_answer_is_stated():
    options = ["Rome", "Paris", "London"]
    for text in (
        "The answer is:\nParis",
        r"\boxed{\text{Paris}}",
        "<answer>Paris</answer>",
        "```\nParis\n```",
        "“Paris”",
    ):
        assert parse_choice(text, 3, options=options) == "B", text


# ---------- numbers and short answers ----------

NUMBERS = [
    ("The answer is:\n5", "5", 1),
    ("The answer is:\n\n\\[ 5 \\]", "5", 1),
    ("So we get\n\\[\n5\n\\]", "5", 1),
    ("```\n5\n```", "5", 1),
    ("<answer>5</answer>", "5", 1),
    ("Final answer:\n$$\n\\frac{1}{2}\n$$", "1/2", 1),
    ("Final Answer: **73**", "73", 1),
    ("✅ Final Answer: **73**", "73", 1),
    ("**Answer：** ７３", "73", 1),
    (r"\boxed{{5}}", "5", 1),
    ("#### Final answer\n\n5", "5", 1),
    ("#### -15\n(Note: the answer is negative.)", "-15", 1),
    ("−3", "-3", 1),
    ("<think>the answer is 4</think>5", "5", 1),
    ('{"answer": 5}', "5", 1),
    ("The answer is not 5", "7", 0),
    ("x = 10²", "100", 1),
    ("10²", "102", 0),
    ("1½", "11/2", 0),
    (r"$\frac{1}{2^{98}}$", r"$\frac{1}{2^{99}}$", 0),
    (r"$\frac{1}{2^{98}}$", r"$\frac{2}{2^{99}}$", 1),
    ("1/2006!", "1/2004!", 0),
    ("n = 1, 2, 3", "n = 2, 3, 4", 0),
    ("2021", r"\pm 2021", 0),
    ("0.333333", "1/3", 1),
]


@pytest.mark.parametrize("text, reference, score", NUMBERS)
def test_numbers(text, reference, score):
    assert math_score(text, [reference]) == score


def test_a_long_answer_that_equals_its_reference_is_right():
    long = ", ".join(map(str, range(1, 120)))
    assert math_score(long, [long]) == math_score(rf"\boxed{{{long}}}", [rf"\boxed{{{long}}}"]) == 1
    assert math_score(long, [long[:-1] + "8"]) == 0


@pytest.mark.parametrize(
    "text, reference",
    [
        ("The answer is:\nParis", "Paris"),
        ("<answer>Paris</answer>", "Paris"),
        ("```\nParis\n```", "Paris"),
        ("“Paris”", "Paris"),
        ("Paris。", "Paris"),
        ("Ｐａｒｉｓ", "Paris"),
        ("Par\u200bis", "Paris"),
        ("It’s", "It's"),
        (unicodedata.normalize("NFD", "São Paulo"), "São Paulo"),
    ],
)
def test_short_answers_in_other_signs(text, reference):
    assert short_scores([text], [[reference]])[0] == 1
    assert short_scores([text], [["Rome"]])[0] == 0


def test_composed_and_decomposed_are_one_text_for_every_likeness():
    a, b = (unicodedata.normalize(form, "São Paulo") for form in ("NFD", "NFC"))
    assert exact_match(a, [b]) == answer_f1(a, [b]) == rouge_l(a, b) == token_f1(
        a, b
    ) == 1 and clean_answer(a) == clean_answer(b)
    assert exact_match("north–south", ["north-south"]) == 0  # HotpotQA's own rule keeps dashes


# ---------- verdicts ----------

VERDICTS = [
    ("Correct", True),
    ("**Correct.**", True),
    ("Verdict: correct", True),
    ("<answer>Correct</answer>", True),
    ("Correct: yes", True),
    ("This is the correct answer.", True),
    ("Incorrect? No: correct", True),
    ("It may look incorrect, but it is\nCorrect", True),
    ("The final answer is correct, although one step was incorrect.", True),
    ("The answer is correct, but the second step is incorrect.", True),
    ("Let me see whether it is correct. Yes, it is correct.", True),
    ('{"correct": true}', True),
    ("Incorrect.", False),
    ("INCORRECT", False),
    ("in-correct", False),
    ("not correct", False),
    ("This isn't correct", False),
    ("This isn’t correct", False),
    ("It is not quite correct", False),
    ("never correct", False),
    ("Correct: no", False),
    ('{"correct": false}', False),
    ("The answer is wrong", False),
    ("I do not think that it is correct.", False),
    ("It is far from correct", False),
    ("This is not the correct answer.", False),
    ("The answer is wrong; the correct answer is 7.", False),
    ("The working is correct, the answer is wrong.", False),
    ("Partially correct", None),
    ("mostly correct", None),
    ("half correct", None),
    ("80% correct", None),
    ("It is not incorrect", None),
    ("It would be correct if x were 2.", None),
    ("The correct answer is 7.", None),
    ("Is it correct?", None),
    ("Correct or Incorrect?", None),
    ("right", None),
    ("Incorrectly", None),
    ("", None),
    (None, None),
]


@pytest.mark.parametrize("text, verdict", VERDICTS)
def test_verdicts(text, verdict):
    assert parse_verdict(text) is verdict


# ---------- grades ----------

GRADES = [
    ("Score: 8", 8),
    ("**Score:** 7.5/10", 7.5),
    ("[[3]]", 3),
    ("6/10", 6),
    ("9", 9),
    ("8 out of 10", 8),
    ("Score：８", 8),
    ("Score (0-10): 8", 8),
    ("<score>8</score>", 8),
    ('{"score": 8}', 8),
    ("I give it a score of 8.", 8),
    ("Score is 8.", 8),
    ("Score - 8", 8),
    ("Score:\n\n8", 8),
    ("Well done.\n**8**", 8),
    (r"\boxed{8}", 8),
    ("Score: 3\nNo: Score: 6", 6),
    ("Score: 8 points", 8),
    ("<think>Score: 2</think>Score: 9", 9),
    ("Score: 7-8", nan),
    ("Score: 7 to 8", nan),
    ("Score: 80/100", nan),
    ("Score: 4/5", nan),
    ("Score: 80%", nan),
    ("Score: 7,5", nan),
    ("Score: 7.5.2", nan),
    ("Score: 11", nan),
    ("Score: -1", nan),
    ("Score: n/a", nan),
    ("There are 3 errors.", nan),
    ("The maximum score is 10.", nan),
    ("Two things:\n1. good\n2.", nan),
    ("Score 1: 8", nan),
    ("", nan),
    (None, nan),
]


@pytest.mark.parametrize("text, grade", GRADES)
def test_grades(text, grade):
    assert same(parse_score(text), grade)


@pytest.mark.parametrize(
    "text, n, names",
    [
        ("2", 3, {1}),
        ("**1, 3**", 3, {0, 2}),
        ("2 is worse than 1.\n1", 3, {0}),
        ("Answer 2 is better than answer 1", 3, None),
        ("not 2 but 3", 3, None),
        ("<answer>2</answer>", 3, {1}),
        ("9" * 5000, 3, None),
        ("none", 3, None),
        (None, 3, None),
    ],
)
def test_selections(text, n, names):
    assert parse_selection(text, n) == names


# ---------- an agent's actions ----------


@pytest.mark.parametrize(
    "text, action",
    [
        ("Look up: Cuba.", ("look up", "Cuba")),
        ("**Action:** look up Cuba", ("look up", "Cuba")),
        ("Next action: lookup Cuba", ("look up", "Cuba")),
        ("```python\nlook_up(\"Cuba\")\n```", None),
        ("```\nlook_up(\"Cuba\")\n```", ("look up", "Cuba")),
        ("search('the currency of Cuba')", ("search", "the currency of Cuba")),
        ("calculate(3 + 4)", ("calculate", "3 + 4")),
        ("calculate (3 + 4) * 2", ("calculate", "(3 + 4) * 2")),
        ("Answer：哈瓦那", ("answer", "哈瓦那")),
        ("**Answer:** Havana", ("answer", "Havana")),
        ("Final answer: Havana", ("answer", "Havana")),
        ("answering is hard", None),
        ("search_engine Cuba", None),
        ("Action: answer", None),
        ("look up -", None),
        ("", None),
    ],
)
def test_actions(text, action):
    assert parse_action(text) == action


def test_names_to_look_up_are_read_behind_marks_and_fences():
    assert names_in("```\n`Cuba`, “Chile”\n```") == ["Cuba", "Chile"]
    assert names_in("...") == []


# ---------- confidence ----------

SURE = [
    ("85", 85),
    ("85%", 85),
    ("８５％", 85),
    ("8/10", 80),
    ("100% sure", 100),
    ("0.85", 85),
    (".9", 90),
    ("0.9 (90%)", 90),
    ("7 out of 10", 70),
    ("1", 1),
    ("0", 0),
    ("1.0", 100),
    ("99.5", 99.5),
    ("From 0 to 100: 85", 85),
    ("On a scale of 1-10: 8", 80),
    ("not 100%, rather 90", 90),
    ("12/10 or 7/10", 70),
    ("150 and 90", 90),
    ("80-90", nan),
    ("80–90%", nan),
    ("about 70 to 80", nan),
    ("between 70 and 80", nan),
    ("ninety", nan),
    ("", nan),
    ("-5", nan),
    ("101%", nan),
]


@pytest.mark.parametrize("text, value", SURE)
def test_confidences(text, value):
    assert same(parse_confidence(text), value)


# ---------- time: linear, whatever is said ----------

LONG = [
    "9" * 1500,
    "Score: " + "9" * 1500,
    "1." * 50_000,
    "\n" * 100_000,
    " " * 99_990 + "x",
    "answer " * 14_000,
    "answer is " * 10_000,
    "<answer>" * 12_000,
    "\\boxed{" * 14_000,
    "{" * 100_000,
    "not correct " * 8_000,
    "correct, although " * 5_000,
    "score: " * 14_000,
    "[[" * 50_000,
    "1-2 " * 25_000,
    "A or " * 20_000,
    "$$" * 50_000,
    "```\n" * 25_000,
    "\\text{" * 16_000,
    "####" * 25_000,
    "(A) " * 25_000,
    "score (" * 14_000,
    "0 to " * 20_000,
    "partially " * 10_000,
]
PARSERS = [
    lambda t: parse_choice(t, 4),
    lambda t: parse_choice(t, 4, options=["x", "y", "z", "w"]),
    final_answer,
    clean_answer,
    parse_verdict,
    parse_score,
    lambda t: parse_score(t, "score 1"),
    lambda t: parse_selection(t, 3),
    parse_confidence,
    parse_action,
    names_in,
]


@pytest.mark.parametrize("parse", PARSERS)
def test_time_grows_with_the_length_and_no_faster(parse):
    """Against itself on a quarter of the text, in processor time.

    A parser of quadratic time needs 16 times as long, a cubic one 64 times.
    """
    import time

    def cost(text):
        start = time.thread_time()
        parse(text)
        return time.thread_time() - start

    for text in LONG:
        whole, quarter = cost(text), max(cost(text[: len(text) // 4]) for _ in range(2))
        assert whole < 0.1 + 10 * quarter, (
            f"{text[:20]!r}: {whole:.2f} s, a quarter {quarter:.2f} s"
        )


def test_only_the_end_of_an_endless_answer_is_read():
    text = "Score: 3. The answer is B. Correct. " + "x " * LONGEST
    assert parse_choice(text + "The answer is C", 4) == "C" and parse_choice(text, 4) is None
    assert parse_verdict(text) is None and math.isnan(parse_score(text))


# ---------- what is no answer, and no list ----------


def toy_bank(references="15"):
    return make_bank(
        [
            dict(
                prompt="2+13?",
                references=references,
                task="t",
                domain="d",
                source="mine",
                split="test",
            )
        ]
    )


SCORERS = dict(
    judge=lambda a: judge(toy_bank(), [a]),
    math=lambda a: math_scores([a], [["15"]]),
    short=lambda a: short_scores([a], [["15"]]),
    choice=lambda a: choice_scores([a], [["14", "15"]], ["B"]),
    likeness=lambda a: ReferenceScore("token_f1").scores([a], [["15"]]) / 10,
    hotpot=lambda a: np.array([exact_match(a, ["15"])]),
    f1=lambda a: np.array([answer_f1(a, ["15"])]),
)


@pytest.mark.parametrize("name", SCORERS)
def test_a_missing_answer_is_masked_a_number_is_read_and_anything_else_is_named(name):
    score = SCORERS[name]
    assert np.isnan([score(a)[0] for a in (None, nan, np.float32("nan"))]).all()
    assert [score(a)[0] for a in ("15", 15, 15.0, np.int64(15), 14)] == [1, 1, 1, 1, 0]
    for wrong in (["15"], {"a": 1}, True, b"15"):
        with pytest.raises(JudgeError, match="answer|Answer"):
            score(wrong)


def test_errors_name_the_row():
    with pytest.raises(JudgeError, match="Answer, row 1"):
        short_scores(["a", ["b"]], [["a"], ["b"]])
    with pytest.raises(JudgeError, match="row 1"):
        short_scores(["a", "b"], [["a"], [3]])
    with pytest.raises(JudgeError, match="row 1"):
        math_scores(["1", "2"], [["1"], None])
    with pytest.raises(JudgeError, match="Row 1|row 1"):
        choice_scores(["A", "B"], [["x", "y"], ["x", None]], ["A", "B"])
    assert (
        judge_one("15", ["15"], "reasoning-gym, my own") is True
    )  # a source that only begins like a generator's


def test_one_text_is_one_reference_and_not_its_letters():
    assert (
        short_scores(["s", "Paris"], ["Paris"] * 2).tolist()
        == math_scores(["5", "15"], ["15"] * 2).tolist()
        == [0, 1]
    )
    assert (
        [exact_match(a, "Paris") for a in ("s", "Paris")]
        == [answer_f1(a, "Paris") for a in ("s", "Paris")]
        == [0, 1]
    )
    assert ReferenceScore("token_f1").scores(["a cat sat", "t"], ["a cat sat"] * 2).tolist() == [
        10,
        0,
    ]
    assert [judge_one(a, "Paris", "mine") for a in ("s", "Paris")] == [
        False,
        True,
    ] and short_scores("Paris", "Paris").tolist() == [1]


class Script:
    def __init__(self, *replies):
        self.replies, self.asked = list(replies), []

    def ask(self, prompts, *, repeat=0):
        self.asked += prompts
        return [Reply(self.replies.pop(0)) for _ in prompts]


def test_nobody_is_asked_about_a_missing_answer():
    chat = Script("Correct", "Score: 7")
    scores, report = Verifier(chat).scores(["q", "q"], [None, "4"], ["4", "4"])
    assert (
        same(scores[0], nan)
        and scores[1] == 1
        and (report.n, report.parsed, report.unparsed) == (2, 1, 1)
    )
    scores, _ = LLMJudge(chat).scores(["q", "q"], ["4", nan])
    assert (
        scores[0] == 7
        and np.isnan(scores[1])
        and len(chat.asked) == 2
        and not any("None" in p or "nan" in p for p in chat.asked)
    )
    pairs, _ = LLMJudge(chat).pair_scores(["q"], ["a"], [None])
    assert np.isnan(pairs).all() and len(chat.asked) == 2


# ---------- usage errors are errors ----------


@pytest.mark.parametrize("seconds", [0.5, 0, -1, True, "5", nan])
def test_a_bad_time_limit_is_named(seconds):
    with pytest.raises(JudgeError, match="whole seconds"):
        math_score("2.5", ["5/2"], seconds=seconds)
    with pytest.raises(JudgeError, match="whole seconds"):
        math_scores(["2.5"], [["5/2"]], seconds=seconds)


def test_a_thread_gives_the_score_of_the_main_thread():
    with ThreadPoolExecutor(1) as pool:
        assert (
            pool.submit(math_score, r"\frac{10}{4}", ["2.5"]).result(120)
            == math_score(r"\frac{10}{4}", ["2.5"])
            == 1
        )
        assert pool.submit(math_score, r"\frac{10}{4}", ["2.5"], seconds=None).result(60) == 1


def test_an_interrupt_of_the_comparison_is_no_mask(monkeypatch):
    import math_verify

    def stop(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr(math_verify, "parse", stop)
    with pytest.raises(KeyboardInterrupt):
        math_score("2.5", ["5/2"])


# ---------- an endpoint that refuses ----------


class Refusing:
    "Stands for requests.post: refuses prompts with `LONG`, or all while `max_tokens` is sent."

    def __init__(self, body):
        self.body, self.calls = body, 0

    def __call__(self, url, json, **options):
        import json as encode
        import requests

        self.calls += 1
        got = requests.Response()
        refused = "max_tokens" in json or "LONG" in json["messages"][0]["content"]
        got.status_code = 400 if refused else 200
        content = (
            self.body
            if refused
            else {
                "choices": [
                    {
                        "message": {
                            "content": [
                                {"type": "text", "text": "Score: "},
                                {"type": "text", "text": "7"},
                            ]
                        }
                    }
                ]
            }
        )
        got._content = encode.dumps(content).encode()
        return got


def test_the_servers_own_words_are_shown_once(monkeypatch):
    monkeypatch.setenv("ROUTERCOMPANION_API_KEY", "sk-secret\r\n")
    server = Refusing(
        {
            "error": {
                "message": "max_tokens is not supported with key sk-secret,\n"
                "use max_completion_tokens"
            }
        }
    )
    monkeypatch.setattr("requests.post", server)
    with pytest.raises(
        EndpointError,
        match="refuses 2 of 2 requests.*max_tokens is not supported with key .key., use",
    ) as e:
        LLMJudge("http://127.0.0.1:1/v1", "m", retries=3, cache=False).scores(
            ["q1", "q2"], ["a", "b"]
        )
    assert server.calls == 2 and "secret" not in str(e.value) and "\n" not in str(e.value)
    judge = LLMJudge("http://127.0.0.1:1/v1", "m", options={}, cache=False)
    with pytest.warns(EndpointWarning) as shown:
        scores, report = judge.scores(["q"] * 4, ["short", "LONG 1", "LONG 2", "short too"])
    assert (
        len(shown) == 1
        and same(scores[1], nan)
        and scores[0] == scores[3] == 7
        and report.http_errors == 2
    )  # parts are joined


@pytest.mark.parametrize(
    "url", ["localhost:1/v1", "127.0.0.1:8000", "", "ftp://x/v1", "http://", "http://[1/v1"]
)
def test_an_address_without_http_is_refused_at_once(url, monkeypatch):
    monkeypatch.setattr("requests.post", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(EndpointError, match="http://"):
        ChatEndpoint(url, "m", cache=False).ask(["q"])


def test_a_broken_key_is_named_and_not_shown(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-se\ncret")
    with pytest.raises(EndpointError, match="MY_KEY") as e:
        ChatEndpoint(
            "http://127.0.0.1:9/v1", "m", api_key_env="MY_KEY", retries=0, cache=False
        ).ask(["q"])
    assert "cret" not in str(e.value)


# ---------- thresholds, labels, degenerate pools ----------


def test_a_threshold_decides_as_it_reports():
    scores = np.tile([0.0, 1.0], (100, 1))
    for low, high in (
        (0.1, np.nextafter(0.1, 1)),
        (1.6e308, 1.7e308),
        (-np.inf, np.inf),
        (0.3, 0.7 - 0.4),
    ):
        s = np.r_[np.full(50, min(low, high)), np.full(50, max(low, high))]
        threshold, rate, _ = threshold_for(s, scores, call_rate=0.5)
        assert threshold == max(low, high) and rate == (s >= threshold).mean() == 0.5
    with pytest.raises(ValueError, match="row 1 is NaN"):
        threshold_for([1.0, nan], scores[:2], call_rate=0.5)


def test_a_tie_at_the_top_warns():
    score, scores = np.repeat([1.0, 0.0], [90, 10]), np.tile([0.0, 1.0], (100, 1))
    with pytest.warns(
        CallRateWarning, match="0.5 was asked for.* 0 or 0.9 can be reached: 0 was taken"
    ):
        assert threshold_for(score, scores, call_rate=0.5)[:2] == (np.inf, 0)


def test_one_judged_query_relabels_no_other():
    exact, judged = [[1, 1], [0, 1], [0, 0], [1, 0]], [[0.4, 0.9], [0.8, 0.5], [0.7, 0.7], [0, 0]]
    assert routing_labels(exact).tolist() == [0, 1, 1, 0]
    for more in (judged[:1], judged[:3]):
        assert routing_labels(exact + more)[:4].tolist() == [0, 1, 1, 0]
    tasks = ["sums"] * 4 + ["letters"] * 4
    assert routing_labels(exact + judged, tasks).tolist() == [0, 1, 1, 0, 1, 0, 0, 0]
    order = np.random.default_rng(0).permutation(8)
    assert np.array_equal(
        routing_labels(np.array(exact + judged)[order], np.array(tasks)[order]),
        routing_labels(exact + judged, tasks)[order],
    )
    with pytest.raises(ValueError, match="3 columns for 4 queries"):
        routing_labels(exact, tasks[:3])


def test_equal_costs_leave_no_range_for_aiq():
    for value in (
        aiq(deferral_curve([0.2, 0.2, 0.2], [0.3, 0.5, 0.9])),
        aiq(deferral_curve([2.0], [0.5])),
    ):
        assert math.isnan(value) and "all costs are equal" in repr(value)
    assert np.isnan(aiq(deferral_curve([1.0], [[0.3], [0.9]], weights=[[1, 1], [2, 1]]))).all()
    assert aiq(deferral_curve([1.0, 2.0], [0.5, 0.5])) == 0.25
