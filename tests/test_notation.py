"Notation and glossary: the lists hold what the notebooks use, and nothing else."

import json
import re
from collections import defaultdict

import pytest

from routercompanion.core import project_root
from routercompanion.metrics.measures import CURVE_MEASURES
from routercompanion.metrics.curve import Curve

NBS = project_root() / "nbs"
GREEK = ("alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi pi "
         "rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma "
         "Upsilon Phi Psi Omega").split()
# commands that set a formula and stand for nothing
SETTING = set("Bigl Bigr bigl bigr frac tfrac sqrt sum int hat cdot ge le in pm iff qquad".split())
WORDS = r"\\(?:text|mathrm|operatorname|mathbb)\*?\{[^{}]*\}"
PAGES = {"notation.ipynb", "glossary.ipynb"}


def markdown(path):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(c["source"]) for c in found if c["cell_type"] == "markdown")
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)


def formulas(text):
    "The formulas of a Markdown text, displayed ones and those in a line."
    inline = re.sub(r"\$\$.+?\$\$", "", text, flags=re.S)
    return [*re.findall(r"\$\$(.+?)\$\$", text, re.S),
            *re.findall(r"(?<![\\$\w])\$([^$\n]+?)\$(?![\w$])", inline)]


def symbols(formula):
    "The letters and Greek letters of a formula; words and commands left out."
    found = re.findall(r"\\[A-Za-z]+|[A-Za-z]", re.sub(WORDS, " ", formula))
    return {f.removeprefix("\\") for f in found} - SETTING


def shown_notebooks():
    inner = [p.relative_to(NBS) for p in NBS.rglob("*.ipynb")]
    return [p for p in inner if not any(part[0] in "._" for part in p.parts)]


def rows(heading):
    "The rows of the table under a heading of the page of notation: lists of cells."
    text = markdown(NBS / "notation.ipynb").split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


# In the text of the page itself `|` occurs in one formula only, outside the tables.
LESSONS = {p.name[0]: p for p in sorted(NBS.glob("course/[0-9]_*.ipynb"))}
USED = {number: set().union(*map(symbols, formulas(markdown(path))))
        for number, path in LESSONS.items()}


def course_table():
    "symbol -> the lessons that the page names for it."
    found = {}
    for cell, _, lessons in rows("In the course"):
        for name in (s for formula in formulas(cell) for s in symbols(formula)):
            assert name not in found, f"{name} has two rows"
            found[name] = re.findall(r"\d", lessons)
    return found


def test_every_symbol_of_a_lesson_has_its_one_row():
    table = course_table()
    missing = {(s, n) for n, used in USED.items() for s in used if s not in table}
    assert not missing, f"not on the page of notation: {sorted(missing)}"


def test_a_row_names_the_lessons_that_use_its_symbol():
    named = {name: set(lessons) for name, lessons in course_table().items()}
    used = {name: {n for n in USED if name in USED[n]} for name in named}
    shared = [[s for f in formulas(r[0]) for s in symbols(f)] for r in rows("In the course")]
    for group in shared:   # a row may explain two symbols: together they occur where it says
        together = set().union(*(used[name] for name in group))
        assert all(used[name] for name in group), f"{group}: in no formula"
        assert named[group[0]] == together, (group, sorted(together))


def greek_of(path):
    text = markdown(NBS / path)
    return {g for g in GREEK if re.search(rf"\\{g}(?![A-Za-z])", text)}


def greek_table():
    "letter -> list of (meaning, places)."
    found = defaultdict(list)
    for cell, meaning, places in rows("In the reference notebooks"):
        found[cell.strip("$\\")].append((meaning, places.split(", ")))
    return found


def covers(place, path):
    name = path.with_suffix("").as_posix()
    return f"{name}/".startswith(f"{place}/")


def test_every_greek_letter_of_a_reference_notebook_has_one_meaning_there():
    table, wrong = greek_table(), []
    indices = {"index"}   # a folder's map shows formulas of several notebooks
    for path in shown_notebooks():
        if path.parts[0] == "course" or path.name in PAGES:
            continue
        for letter in greek_of(path):
            places = [places for _, places in table[letter]]
            hits = [p for p in places if any(covers(place, path) for place in p)]
            inner = [p for p in places if any(place.startswith(path.parent.as_posix() + "/")
                                              for place in p)] if path.stem in indices else []
            if not (len(hits) == 1 or not hits and inner):
                wrong.append(f"{letter} in {path}: {len(hits)} entries")
    assert not wrong, wrong


def test_every_entry_is_used():
    used = {path: greek_of(path) for path in shown_notebooks() if path.name not in PAGES}
    for letter, entries in greek_table().items():
        for meaning, places in entries:
            for place in places:
                hits = [p for p, letters in used.items() if letter in letters and covers(place, p)]
                assert hits, f"{letter} ({meaning}): nowhere in {place}"


def test_the_two_lpms_have_two_names():
    line = Curve([0, 1], [0, 1], "call_rate")
    assert CURVE_MEASURES["LPM"](line) == pytest.approx(.275)
    assert CURVE_MEASURES["LPM (0-30%)"](line) == pytest.approx(.15)
    text = markdown(NBS / "notation.ipynb")
    assert "| **LPM** |" in text and "| **LPM (0–30%)** |" in text


# ---------------------------------------------------------------- the glossary


def entries():
    lines = markdown(NBS / "glossary.ipynb").splitlines()
    found = [re.match(r"\| (.+?) \| (.+) \|$", line) for line in lines if line.startswith("| ")]
    return {m[1]: m[2] for m in found if m[1] != "word"}


def test_the_glossary_is_in_order_and_says_something():
    words = list(entries())
    assert words == sorted(words, key=str.casefold) and len(words) > 50
    assert all(text.endswith(".") and len(text) > 20 for text in entries().values())


def test_a_bold_word_has_an_entry_of_its_own():
    known = {w.casefold() for w in entries()} | {"ood", "out of domain"}
    for word, text in entries().items():
        for bold in re.findall(r"\*\*(.+?)\*\*", text):
            assert {bold.casefold(), bold.casefold().removesuffix("s")} & known, (word, bold)


def test_every_word_is_used_in_a_notebook():
    text = " ".join(markdown(NBS / p) for p in shown_notebooks() if p.name not in PAGES)
    text = re.sub(r"[\s*-]+", " ", text).casefold()
    forms = {word: word.split(" (")[0].replace("-", " ") for word in entries()}
    assert not [w for w, form in forms.items() if form.casefold() not in text]


PRIVATE = ["evidence rule", "public sample beside", "at hand", "speak for a model", "dearest",
           "turned over", "does not come out", "holds it back", "the notebook on"]


@pytest.mark.parametrize("path", sorted(NBS.glob("course/*.ipynb")), ids=lambda p: p.stem)
def test_a_lesson_speaks_plain_english(path):
    text = markdown(path).casefold()
    assert not [phrase for phrase in PRIVATE if phrase in text]
    assert not re.search(r"\bdear\b", text)
