"What a change is held to before a test runs: the checks on made-up trees, then on this repository."
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from routercompanion.core import CompanionError, project_root
from routercompanion.reproduce import lint

ROOT = project_root(Path(__file__).parent)
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def write_notebook(path, *sources, kind="code", **metadata):
    path.parent.mkdir(parents=True, exist_ok=True)
    code = dict(outputs=[], execution_count=None) if kind == "code" else {}
    cells = [dict(cell_type=kind, id=f"c{i}", metadata={}, source=s.splitlines(True), **code)
             for i, s in enumerate(sources)]
    path.write_text(json.dumps(dict(cells=cells, metadata=metadata, nbformat=4, nbformat_minor=5)))


@pytest.fixture
def tree(tmp_path):
    "A project with this repository's settings and two notebooks in their places."
    for name in ("pyproject.toml", "settings.ini"):
        shutil.copy(ROOT / name, tmp_path / name)
    write_notebook(tmp_path / "nbs/0_core.ipynb", "#| default_exp core", "#| export\nx = 1")
    write_notebook(tmp_path / "nbs/papers/cscr/results.ipynb", "print(1)")
    return tmp_path


# ---------------------------------------------------------------- places

def test_floors_are_those_of_the_design():
    floors = lint.read_floors(ROOT)
    by_number = [{name for name in floors if floors[name] == n} for n in range(10)]
    assert by_number == [
        {"core", "reading", "parallel", "assets"}, {"metrics"}, {"data"}, {"models"}, {"judging"},
        {"features", "curation", "agents"}, {"routers"}, {"evaluate"},
        {"report", "studies", "course"}, {"reproduce"}]
    assert sum(map(len, by_number)) == len(floors)


@pytest.mark.parametrize("text", ["", "[tool.importlinter]\nroot_package = 'x'\n"])
def test_a_project_without_the_floors_is_told_so(tmp_path, text):
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(CompanionError, match="no import contract with the id 'floors'"):
        lint.read_floors(tmp_path)


@pytest.mark.parametrize("name, source", [
    ("1_metrics/tests.ipynb", "#| default_exp metrics.tests"),
    ("1_metrics/index.ipynb", "#| default_exp metrics.__init__"),
    ("6_routers/bandits/index.ipynb", "#|default_exp routers.bandits.__init__"),
    ("0_parallel.ipynb", "#| default_exp parallel\n#| export\nx = 1"),
    ("index.ipynb", "print(1)"),
    ("how_to/add_a_router.ipynb", "print('#| export')"),
    ("course/1_first.ipynb", "#| hide\nx = 1"),
])
def test_a_notebook_in_its_place(tree, name, source):
    write_notebook(tree / "nbs" / name, source)
    assert lint.misplaced_notebooks(tree) == []


TESTS = "#| default_exp metrics.tests"
MISPLACED = [
    ("metrics/tests.ipynb", TESTS, "floor is missing. Move it to nbs/1_metrics/tests.ipynb"),
    ("metrics/tests.ipynb", "x = 1", "floor is missing. Move it to nbs/1_metrics/tests.ipynb"),
    ("core.ipynb", "#| default_exp core", "floor is missing. Move it to nbs/0_core.ipynb"),
    ("6_metrics/tests.ipynb", TESTS, "on floor 1, not 6. Move it to nbs/1_metrics/tests.ipynb"),
    ("5_routers/bandits/x.ipynb", "#| default_exp routers.bandits.x", "to nbs/6_routers/bandits/x"),
    ("4_cooking/soup.ipynb", "#| default_exp cooking.soup", "knows no floor for 'cooking'"),
    ("1_metrics/tests.ipynb", TESTS + "t", "exports to metrics.testst, but its path says"),
    ("6_routers/index.ipynb", "#| default_exp routers", "but its path says routers.__init__"),
    ("1_metrics/tests.ipynb", "x = 1", "no cell says `#| default_exp metrics.tests`"),
    ("1_metrics/tests.ipynb", TESTS + "\n#| export core\nx = 1", "exports to core, but its path"),
    ("papers/cscr/bench.ipynb", "#| export\nx = 1", "a page outside the floors exports nothing"),
    ("papers/cscr/bench.ipynb", "#| default_exp studies.bench", "the floors exports nothing"),
    ("course/first.ipynb", "#| exporti\nx = 1", "a page outside the floors exports nothing"),
    ("course/first.ipynb", "#| default_exp course.first", "outside the floors exports nothing"),
    ("cooking/soup.ipynb", "#|exports\nx = 1", "a page outside the floors exports nothing"),
]


@pytest.mark.parametrize("name, source, said", MISPLACED)
def test_a_misplaced_notebook_is_named(tree, name, source, said):
    write_notebook(tree / "nbs" / name, source)
    (problem,) = lint.misplaced_notebooks(tree)
    assert problem.startswith(f"nbs/{name}: ") and said in problem


def test_hidden_notebooks_are_not_looked_at(tree):
    write_notebook(tree / "nbs/metrics/.ipynb_checkpoints/x.ipynb", "#| default_exp nowhere")
    write_notebook(tree / "nbs/_draft.ipynb", "#| default_exp nowhere")
    assert lint.misplaced_notebooks(tree) == []


def test_every_notebook_of_the_repository_is_in_its_place():
    assert lint.misplaced_notebooks(ROOT) == []


# ---------------------------------------------------------------- imports

@pytest.fixture
def library(tree):
    "A copy of the library whose modules may be spoiled."
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "routercompanion", tree / "routercompanion", ignore=hidden)
    return tree


def test_the_contracts_hold(): assert lint.broken_contracts(ROOT) == []


ARROWS = [
    ("metrics.checks", "from ..routers.base import Run", "routers.base"),
    ("core", "def f():\n    from . import parallel", "parallel"),
    ("parallel", "import routercompanion.assets.lock", "assets.lock"),
    ("curation.tasks", "from ..features import kinds", "features.kinds"),
    ("report.styling", "from ..studies import cscr", "studies.cscr"),
    ("metrics.checks", "from ..data import load_csv", "data"),
    ("routers.bandits.thompson", "from ..clustering.kmeans import f", "routers.clustering.kmeans"),
    ("routers.bandits.thompson", "from .. import contrastive", "routers.contrastive"),
    ("routers.base", "def f():\n    from .bandits import thompson", "routers.bandits.thompson"),
    ("routers.training", "from .clustering import kmeans", "routers.clustering.kmeans"),
    ("routers.newest.idea", "from ..bandits.thompson import f", "routers.bandits.thompson"),
    ("routers.bandits.thompson", "from routercompanion.routers import KMeansRouter", "routers"),
]


@pytest.mark.parametrize("module, line, target", ARROWS)
def test_an_arrow_that_points_up_or_across_is_named(library, module, line, target):
    path = library / f"routercompanion/{module.replace('.', '/')}.py"
    if not path.exists():
        path.parent.mkdir()
        (path.parent / "__init__.py").write_text("")
        path.write_text("")
    path.write_text(path.read_text() + f"\n{line}\n")
    (report,) = lint.broken_contracts(library)
    chain = f"- routercompanion.{module} -> routercompanion.{target} (l."
    assert chain in " ".join(report.split())


def test_a_package_without_a_floor_is_named(library):
    (library / "routercompanion/cooking").mkdir()
    (library / "routercompanion/cooking/__init__.py").write_text("")
    (report,) = lint.broken_contracts(library)
    assert "cooking" in report


def test_a_tool_that_is_missing_is_named(tmp_path):
    with pytest.raises(CompanionError, match="no_such_tool is not installed. Say `make env`"):
        lint._run_tool(tmp_path, "-m", "no_such_tool")


# ---------------------------------------------------------------- style

def test_findings_say_cell_line_and_text(tree):
    long = "y = " + " + ".join(["1"] * 40)
    write_notebook(tree / "nbs/a.ipynb", "x = 1", f"#| hide\nz = 2\n{long}")
    write_notebook(tree / "nbs/b.ipynb", "# a title", kind="markdown")
    (tree / "tests").mkdir()
    (tree / "tests/test_a.py").write_text("if 1: x = 2\n")
    found = [(f.file, f.cell, f.line, f.rule, f.text) for f in lint.ruff_findings(tree)]
    assert found == [("nbs/a.ipynb", 2, 3, "E501", long),
                     ("tests/test_a.py", None, 1, "E701", "if 1: x = 2")]


def test_cells_are_counted_with_those_of_text(tree):
    path = tree / "nbs/a.ipynb"
    write_notebook(path, "title", "if 1: x = 2")
    nb = json.loads(path.read_text())
    nb["cells"][0] = dict(cell_type="markdown", id="c0", metadata={}, source=["title"])
    path.write_text(json.dumps(nb))
    assert [(f.cell, f.line) for f in lint.ruff_findings(tree, ["nbs"])] == [(2, 1)]


def test_a_named_lambda_is_refused_in_exported_cells_only(tree):
    write_notebook(tree / "nbs/1_metrics/a.ipynb", "f = lambda x: x", "#| export\ng = lambda x: x",
                   "#| exporti\nh = lambda x: x")
    assert [f.cell for f in lint.ruff_findings(tree, ["nbs"])] == [2, 3]


def test_broken_python_is_a_finding(tree):
    write_notebook(tree / "nbs/a.ipynb", "x = (1,")
    assert {f.rule for f in lint.ruff_findings(tree, ["nbs"])} == {"invalid-syntax"}


@pytest.mark.parametrize("text", ["<<<<<<< HEAD", "[]", '{"cells": []}', '{"cells": 1}'])
def test_a_file_that_is_no_notebook_is_named(tree, text):
    (tree / "nbs/1_metrics").mkdir()
    (tree / "nbs/1_metrics/a.ipynb").write_text(text)
    for check in (lint.misplaced_notebooks, lint.broken_links, lint.check_notebooks):
        with pytest.raises(CompanionError, match="a.ipynb: not a notebook"):
            check(tree)


def test_a_new_file_has_no_allowance_and_an_old_one_its_own(tree):
    write_notebook(tree / "nbs/old.ipynb", "if 1: x = 2", "if 2: x = 3")
    write_notebook(tree / "nbs/new.ipynb", "if 1: x = 2")
    lint.write_allowed(tree, {"nbs/old.ipynb": {"E701": 2}})
    (problem,) = lint.check_style(tree, ["nbs"])
    assert problem.splitlines()[0] == "nbs/new.ipynb: E701 1 times, allowed 0"
    assert "cell 1, line 1" in problem and "if 1: x = 2" in problem

    lint.write_allowed(tree, {"nbs/old.ipynb": {"E701": 1}, "nbs/new.ipynb": {"E501": 7}})
    assert [p.split(",")[0] for p in lint.check_style(tree, ["nbs"])] == [
        "nbs/new.ipynb: E701 1 times", "nbs/old.ipynb: E701 2 times"]


def test_only_the_new_offence_is_shown(tree):
    "The last commit says which offences are old; a line written twice counts twice."
    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", *who, *words], cwd=tree, check=True, capture_output=True)

    write_notebook(tree / "nbs/a.ipynb", "if 1: x = 2", "if 2: x = 3")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    write_notebook(tree / "nbs/a.ipynb", "if 0: x = 9", "if 1: x = 2", "if 2: x = 3", "if 2: x = 3")
    allowed = {"nbs/a.ipynb": {"E701": 2}}
    (problem,) = lint.new_offences(lint.ruff_findings(tree, ["nbs"]), allowed, tree)
    head, *places = problem.splitlines()
    assert head == "nbs/a.ipynb: E701 4 times, allowed 2"
    assert [re.match(r"cell \d+", p.strip()).group() for p in places] == ["cell 1", "cell 4"]


def test_update_lowers_and_never_raises(tree):
    write_notebook(tree / "nbs/a.ipynb", "if 1: x = 2")
    write_notebook(tree / "nbs/b.ipynb", "if 1: x = 2", "if 2: x = 3")
    allowed = {"nbs/a.ipynb": {"E701": 5, "E501": 1}, "nbs/b.ipynb": {"E701": 1}}
    lint.write_allowed(tree, allowed | {"nbs/gone.ipynb": {"E501": 2}})
    (tree / "tests").mkdir()
    (problem,) = lint.check_style(tree, update=True)
    assert problem.startswith("nbs/b.ipynb: E701 2 times, allowed 1")
    assert lint.read_allowed(tree) == {"nbs/a.ipynb": {"E701": 1}, "nbs/b.ipynb": {"E701": 1}}


def test_the_first_update_writes_what_is_there(tree):
    write_notebook(tree / "nbs/a.ipynb", "if 1: x = 2")
    (tree / "tests").mkdir()
    assert lint.check_style(tree, update=True) == []
    assert lint.read_allowed(tree) == {"nbs/a.ipynb": {"E701": 1}}


tables = st.dictionaries(
    st.sampled_from("abc"),
    st.dictionaries(st.sampled_from("xyz"), st.integers(1, 4), min_size=1))


@given(tables, tables)
def test_lowered_counts_are_the_smaller_ones(now, allowed):
    least = lint.lowered(now, allowed)
    for file in "abc":
        for rule in "xyz":
            a, b, c = (t.get(file, {}).get(rule, 0) for t in (now, allowed, least))
            assert c == min(a, b)
    assert all(n for rules in least.values() for n in rules.values()) and all(least.values())
    assert lint.lowered(now, least) == least


def test_broken_counts_say_where(tree):
    (tree / "data").mkdir()
    (tree / "data/lint.json").write_text('{\n "a": 1,\n}')
    with pytest.raises(CompanionError, match=r"lint\.json, line \d+: not valid JSON"):
        lint.read_allowed(tree)


def test_style_of_the_repository_is_no_worse_than_committed(): assert lint.check_style(ROOT) == []


def test_committed_counts_are_sorted_and_name_files_that_exist():
    text = (ROOT / "data/lint.json").read_text()
    allowed = json.loads(text)
    assert list(allowed) == sorted(allowed)
    assert [f for f in allowed if not (ROOT / f).is_file()] == []
    assert len(text.splitlines()) == len(allowed) + 2
    assert "tests/test_lint.py" not in allowed and "nbs/9_reproduce/lint.ipynb" not in allowed


# ---------------------------------------------------------------- links

@pytest.mark.parametrize("text, found", [
    ("[a](b.md) and ![c](d.png)", ["b.md", "d.png"]),
    ("[![c](d.png)](e.md)", ["e.md", "d.png"]),
    ("`[a](b.md)`\n\n```\n[a](b.md)\n```\n", []),
    ("<img src='a.png' alt=''> <a href=\"b.md\">b</a>", ["a.png", "b.md"]),
    ("[a][1]\n\n[1]: b.md", ["b.md"]),
    ("| a |\n|---|\n| [b](c.md) |", ["c.md"]),
])
def test_links_are_read(text, found): assert sorted(lint.link_targets(text)) == sorted(found)


@pytest.mark.parametrize("target, broken", [
    ("0_core.ipynb", False), ("0_core.ipynb#a-part", False), ("#a-part", False),
    ("papers/", False), ("https://example.org/none", False), ("mailto:a@example.org", False),
    ("../two%20words.md", False),
    ("1_core.ipynb", True), ("../0_core.ipynb", True), ("papers/none.ipynb#top", True),
])
def test_a_link_that_leads_nowhere_is_named(tree, target, broken):
    (tree / "two words.md").write_text("")
    write_notebook(tree / "nbs/page.ipynb", f"[a]({target})", kind="markdown")
    said = [f"nbs/page.ipynb: the link {target} leads to no file"]
    assert lint.broken_links(tree) == (said if broken else [])


def test_links_of_the_front_page_start_at_the_root(tree):
    text = "[a](nbs/0_core.ipynb) [b](0_core.ipynb)"
    write_notebook(tree / "nbs/index.ipynb", text, kind="markdown")
    (tree / "data").mkdir()
    (tree / "data/notes.md").write_text("[a](../nbs/0_core.ipynb) [b](nbs/0_core.ipynb)")
    assert lint.broken_links(tree) == ["data/notes.md: the link nbs/0_core.ipynb leads to no file",
                                       "nbs/index.ipynb: the link 0_core.ipynb leads to no file"]


def test_every_link_of_the_repository_leads_to_a_file():
    assert lint.broken_links(ROOT) == []
    assert sum(len(lint.link_targets(text)) for _, _, text in lint.linked_texts(ROOT)) > 100


# ---------------------------------------------------------------- generated files, tidy notebooks

def test_a_module_that_was_edited_or_left_behind_is_named(tree):
    package = tree / "routercompanion"
    package.mkdir()
    (package / "__init__.py").write_text('__version__ = "0.1.0"\n')
    assert "routercompanion/core.py is not what nbs/ exports" in lint.stale_modules(tree)[-1]
    lint._run_tool(tree, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()")
    assert lint.stale_modules(tree) == []
    (package / "core.py").write_text((package / "core.py").read_text() + "y = 2\n")
    (package / "left.py").write_text("")
    stale = [p.split()[0] for p in lint.stale_modules(tree)]
    assert stale == ["routercompanion/core.py", "routercompanion/left.py"]


def first_cell(nb):
    return nb["cells"][0]


@pytest.mark.parametrize("change, said", [
    (lambda nb: nb["metadata"].update(language_info={}), "metadata language_info"),
    (lambda nb: first_cell(nb)["metadata"].update(scrolled=True), "cell 1: metadata scrolled"),
    (lambda nb: first_cell(nb)["metadata"].update(tags=["injected-parameters"]), "of one run"),
    (lambda nb: first_cell(nb)["outputs"].append({"output_type": "error"}), "output is an error"),
])
def test_what_does_not_belong_in_a_notebook_is_named(tmp_path, change, said):
    path = tmp_path / "nbs/a.ipynb"
    write_notebook(path, "1 / 0", kernelspec={})
    nb = json.loads(path.read_text())
    assert lint.untidy_notebook("a.ipynb", json.dumps(nb)) == []
    nb["cells"][0]["outputs"].append({"output_type": "stream", "name": "stdout", "text": "kept"})
    assert lint.untidy_notebook("a.ipynb", json.dumps(nb)) == []
    change(nb)
    (problem,) = lint.untidy_notebook("a.ipynb", json.dumps(nb))
    assert said in problem
    path.write_text(json.dumps(nb))
    assert lint.check_notebooks(tmp_path) == lint.check_notebooks(tmp_path, ["nbs/a.ipynb"]) != []


# ---------------------------------------------------------------- the commands

def test_the_command_counts_complaints_and_its_status_says_so(tree, monkeypatch, capsys):
    monkeypatch.setenv("ROUTERCOMPANION_ROOT", str(tree))
    assert lint.run_checks(["--only", "places", "--only", "links"]) == 0
    assert capsys.readouterr().out == "places: 0 complaints\nlinks: 0 complaints\n"
    write_notebook(tree / "nbs/metrics/a.ipynb", "#| default_exp metrics.a")
    words = ("-m", "routercompanion.reproduce.lint", "--only", "places")
    done = lint._run_tool(tree, *words, good=(1,))
    said = done.stdout.splitlines()
    assert said[0] == "places: 1 complaints"
    assert said[1].startswith("nbs/metrics/a.ipynb: the number of its floor is missing")
    with pytest.raises(CompanionError, match="Unknown check 'taste'"):
        lint.run_checks(["--only", "taste"])


def test_hooks_are_local_and_ask_for_checks_that_exist():
    settings = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in settings["repos"]] == ["local"]
    for hook in settings["repos"][0]["hooks"]:
        asked = re.findall(r"--only (\w+)", hook["entry"])
        assert asked and set(asked) <= set(lint.CHECKS) and hook["language"] == "system"
        takes_files = set(asked) <= {"style", "notebooks"}
        assert hook.get("pass_filenames", True) == takes_files
    lint._run_tool(ROOT, "-m", "pre_commit", "validate-config")


def test_lint_runs_before_the_tests_and_every_target_has_a_line_of_help():
    script = (ROOT / ".ci/run").read_text()
    assert 0 < script.index("make lint") < script.index("make test")
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)", makefile, re.M).group(1).split())
    assert targets == set(re.findall(r'^\t@echo "make (\S+)', makefile, re.M)) | {"help", "readme"}
    assert {"lint", "fix", "check", "hooks"} <= targets


def test_the_changelog_has_headings_and_names_every_module_that_moved():
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.*)", text, re.M)
    assert headings[0] == "Unreleased" and PYPROJECT["project"]["version"] in headings
    modules = "outcomes significance probes contrastive routing plots pipeline cli".split()
    for module in modules:
        assert re.search(rf"^\| .*`(routercompanion\.)?{module}`", text, re.M), module
