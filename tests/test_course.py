"The course: its lessons' form, and that every exercise tells right from wrong and never raises."

import functools
import json
import re

import numpy as np
import pytest

from routercompanion.core import CompanionError, project_root
from routercompanion.course import exercises
from routercompanion.course.exercises import (
    LESSONS, Exercise, Mistake, check, judge_answer, judge_exercise, list_exercises, load_exercises,
)
from routercompanion.course.queries import arithmetic_queries, lesson_pair, ten_queries
from routercompanion.metrics.call_rate import cost_performance_curve
from routercompanion.reproduce import book, graph, notebooks, store

ROOT = project_root()
FILES = {lesson: next(ROOT.glob(f"nbs/course/?_{lesson}.ipynb")) for lesson in LESSONS}
ALL = [exercise for lesson in LESSONS for exercise in load_exercises(lesson).values()]
MISTAKES = [(exercise, mistake) for exercise in ALL for mistake in exercise.mistakes]


def cells(path, kind):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def name_of(found):
    exercise, mistake = found if isinstance(found, tuple) else (found, None)
    return exercise.name + (f": {mistake.name}" if mistake else "")


# ---------------------------------------------------------------- every exercise


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_instructors_solutions_are_right(lesson, monkeypatch):
    found = {}
    monkeypatch.setattr(exercises, "check", lambda name, answer: found.update({name: answer}))
    namespace = {}
    for source in cells(ROOT / f"nbs/course/_solutions/{FILES[lesson].name}", "code"):
        exec(source, namespace)
    assert list(found) == list_exercises(lesson)
    for name, answer in found.items():
        assert judge_answer(name, answer).status == "right", (name, judge_answer(name, answer))


@pytest.mark.parametrize("found", MISTAKES, ids=name_of)
def test_a_misconception_is_wrong_and_gets_its_own_hint(found):
    exercise, mistake = found
    answer = mistake.answer if exercise.kind == "function" else mistake.answer()
    verdict = judge_exercise(exercise, answer)
    assert (verdict.status, verdict.mistake) == ("wrong", mistake.name)
    assert mistake.hint in verdict.text and verdict.text.startswith("not yet.")


@pytest.mark.parametrize("exercise", ALL, ids=name_of)
def test_there_are_three_misconceptions_and_no_message_gives_the_answer(exercise):
    assert len({m.name for m in exercise.mistakes}) == len(exercise.mistakes) >= 3
    said = [exercise.hint, *(m.hint for m in exercise.mistakes)]
    assert all(text.endswith((".", "?")) and len(text) > 25 for text in said)
    if exercise.kind == "value":
        numbers = np.atleast_1d(exercise.right())
        texts = {f"{v:.{d}f}".lstrip("0") for v in numbers for d in (2, 3)} - {""}
        assert not [(t, text) for t in texts for text in said if t in text]
    if exercise.kind == "choice":
        assert not [text for text in said if f"({exercise.right()})" in text]


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_starter_cells_run_and_are_unfinished(lesson, capsys):
    starters = [s for s in cells(FILES[lesson], "code") if "\ncheck(" in s]
    assert len(starters) == 3
    for name, source in zip(list_exercises(lesson), starters):
        exec(source, {"check": check, "np": np})
        line = capsys.readouterr().out
        assert line.startswith(f"{name}: unfinished. Replace the dots") and line.count("\n") == 1


ODD = ["a text", "", 7, -1e9, None, {}, {"a": 1}, [], [1, "b"], object(), np.zeros((3, 2)), int,
       lambda: 1, lambda *given: given, lambda *given: {}, lambda *given: "large", [...], True,
       lambda *given: missing_name, lambda *given: [][0], float("nan"), range(3)]  # noqa: F821


@pytest.mark.parametrize("exercise", ALL, ids=name_of)
def test_an_answer_of_any_kind_gets_a_friendly_line(exercise, capsys):
    for answer in ODD:
        verdict = judge_answer(exercise.name, answer)
        assert verdict.status in ("wrong", "unfinished", "unclear"), answer
        assert verdict.text.startswith(("not yet.", "unfinished."))
        check(exercise.name, answer)
    said = capsys.readouterr().out
    assert said.count("\n") == len(ODD) and "Traceback" not in said


@pytest.mark.parametrize("exercise", ALL, ids=name_of)
def test_judging_a_function_leaves_the_cases_as_they_are(exercise):
    if exercise.kind != "function":
        pytest.skip("the answer is a value")

    def spoils_its_arguments(*given):
        found = exercise.right(*given)
        for each in given:
            if isinstance(each, np.ndarray):
                each[:] = 0
        return found

    assert judge_exercise(exercise, spoils_its_arguments).status == "right"
    assert judge_exercise(exercise, exercise.right).status == "right"


# ---------------------------------------------------------------- the checks themselves


def test_names_are_helped_with(capsys):
    check("curve.call_rates", 1)
    check("kurve.call_rate", 1)
    check(np.mean, "curve.call_rate")
    check("curve.call_rate")
    check(None)
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("The nearest name is 'curve.call_rate'.")
    assert said[1].endswith("The nearest name is 'curve.call_rate'.")
    assert said[2].startswith("check: first the name of the exercise")
    assert said[3] == ("curve.call_rate: unfinished. Give an answer too: "
                       "check('curve.call_rate', answer).")
    assert said[4].startswith("check: first the name of the exercise") and len(said) == 5


def test_an_exercise_that_builds_on_another_says_so_until_that_is_solved(capsys, monkeypatch):
    monkeypatch.setattr(exercises, "_solved", set())
    name, before = "curve.performance", "curve.call_rate"
    right = {each: load_exercises("curve")[each].right for each in (name, before)}
    check(name, right[name])
    told = f"(This one builds on {before}; solve that one first.)\n"
    assert capsys.readouterr().out.endswith(told)
    check(before, right[before])
    check(name, right[name])
    assert "builds on" not in capsys.readouterr().out


def test_an_error_in_a_readers_function_is_told_with_its_arguments():
    def divides(score, threshold):
        return 1 / (threshold - threshold)

    text = judge_answer("curve.call_rate", divides).text
    assert "ZeroDivisionError: " in text and "[13. 5." in text and "35" in text

    def forgets(score, threshold):
        return not_defined_yet  # noqa: F821

    assert judge_answer("curve.call_rate", forgets).text.endswith("Run the cells above first.")


def test_three_decimals_are_enough_and_two_are_not():
    half = Mistake("half", lambda: .5, "No.")
    third = Exercise("toy.third", "value", lambda: 1 / 3, [half], "No.")
    assert judge_exercise(third, .333).status == "right"
    assert judge_exercise(third, .33).status == "wrong"
    assert judge_exercise(third, [1 / 3]).mistake == "shape"


def test_a_missing_record_is_no_traceback(monkeypatch):
    def fails(*given):
        raise CompanionError("The record is not there. Restore it.")

    monkeypatch.setattr(exercises, "judge_exercise", fails)
    verdict = judge_answer("curve.call_rate", np.mean)
    assert verdict.status == "unclear" and "Restore it." in verdict.text


# ---------------------------------------------------------------- the queries


def test_every_recorded_problem_of_arithmetic_has_its_text_and_outcome():
    table, pair = arithmetic_queries(), lesson_pair()
    recorded = np.char.startswith(pair.task, "reasoning_gym/")
    assert len(table) == recorded.sum() == 2543 and not table["query"].duplicated().any()
    assert np.allclose(table[["small", "large"]].mean(), pair.score[recorded].mean(0))
    assert table.split.value_counts().to_dict() == {"train": 1200, "test": 1000, "ood": 343}


def test_a_reader_cannot_spoil_the_table():
    table = arithmetic_queries()
    table["small"] = 5
    assert arithmetic_queries().small.max() == 1


def test_the_ten_queries_are_what_lesson_1_says():
    ten = ten_queries()
    curve = cost_performance_curve(ten.largest, ten.small, ten.large)
    assert np.allclose(curve.performance * 10, [6, 7, 8, 8, 7, 8, 8, 8, 8, 8, 8])


# ---------------------------------------------------------------- the lessons


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_can_be_read_and_projected(lesson):
    code, text = cells(FILES[lesson], "code"), cells(FILES[lesson], "markdown")
    assert len(code) + len(text) <= 40
    for source in code:
        lines = source.splitlines()
        assert len(lines) <= 25 and max(map(len, lines)) <= 100, source
    assert max(len(s.splitlines()) for s in text) <= 25


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_has_its_parts(lesson):
    text = cells(FILES[lesson], "markdown")
    number, title = LESSONS[lesson].split("  ", 1)
    assert text[0].startswith(f"# {number}  {title}\n\n> ")
    for part in ("**After this lesson you can**", "**You need**", "**Time:**"):
        assert part in text[0]
    assert any(s.startswith("## The idea") for s in text) and "$$" in "\n".join(text)
    assert re.search(r"## Summary\n\n(\d\. .+\n){5}\n\*\*Next:\*\*", text[-1])
    assert [int(n) for n in re.findall(r"(?m)^(\d)\. ", text[-1])] == [1, 2, 3, 4, 5]
    asked = [s for s in text if s.startswith("**Exercise ")]
    assert len(asked) + sum("\n**Exercise " in s for s in text) == 3
    kinds = [exercise.kind for exercise in load_exercises(lesson).values()]
    assert len(kinds) == 3 and kinds.count("choice") <= 1


def test_lessons_are_steps_and_solutions_are_not():
    names = {step.name for step in graph.project_steps(ROOT)}
    assert {f"course/{path.stem}" for path in FILES.values()} | {"course/index"} <= names
    assert not [name for name in names if "_solutions" in name]
    toc = json.dumps(book.book_toc(graph.project_steps(ROOT)))
    assert "course/1_curve" in toc and "solutions" not in toc


@functools.cache
def to_run():
    return frozenset(store.lessons_to_run(ROOT))


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_runs(lesson, tmp_path):
    if f"course/{FILES[lesson].stem}" not in to_run():
        pytest.skip("ran with this very code: its key is in figures/embedded/manifest.json")
    options = {"root": ROOT, "state": tmp_path / "state", "threads": 1}
    notebooks.execute(FILES[lesson], tmp_path / "out.ipynb", {}, **options)
