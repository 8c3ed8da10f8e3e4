"The generators: one command, one notebook, and it is found everywhere; all in temporary copies."

import csv
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from routercompanion.core import project_root
from routercompanion.reproduce import generate, graph, notebooks

ROOT = project_root(Path(__file__).parent)
ONE_PROCESS = {"ROUTERCOMPANION_JOBS": "1", "ROUTERCOMPANION_QUIET": "1", "MPLBACKEND": "agg"}


def contents(folder):
    "Every file below a folder with its bytes; caches left out."
    paths = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def changes(before, after):
    "(new files, changed files), each sorted; nothing may disappear."
    assert set(before) <= set(after)
    changed = [name for name in before if before[name] != after[name]]
    return sorted(set(after) - set(before)), sorted(changed)


def python(copy, *arguments, good=0):
    "Run Python in a copy, with its library; what it printed."
    env = os.environ | ONE_PROCESS | {"PYTHONPATH": str(copy), "ROUTERCOMPANION_ROOT": str(copy)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode == good, done.stdout + done.stderr
    return done.stdout + done.stderr


def execute(copy, notebook, monkeypatch, parameters=None):
    "Run a notebook of a copy in a fresh kernel with the copy's library; the executed notebook."
    monkeypatch.setenv("PYTHONPATH", str(copy))
    output = copy / "executed.ipynb"
    given = parameters or {}
    return notebooks.execute(copy / notebook, output, given, root=copy, state=copy / "state")


def longest_line(nb):
    "Columns of the longest line of code."
    code = "\n".join(c.source for c in nb.cells if c.cell_type == "code")
    return max(map(len, code.splitlines()))


@pytest.fixture
def copy(tmp_path):
    return generate.copy_checkout(tmp_path / "copy", ROOT)


USE_ROUTER = """
import matplotlib.pyplot as plt
import numpy as np
from routercompanion.core import make_rng
from routercompanion.evaluate import pool_evaluation
from routercompanion.report.figures import plot_pool_evaluation
from routercompanion.report.styling import FAMILY_COLOUR, OKABE_ITO, looks, save_figure
from routercompanion.report.tables import write_table
from routercompanion.reproduce.cli import main
from routercompanion.routers import MyRouter, get_router, list_routers, router_checks
from routercompanion.routers import toy_routing_data

assert MyRouter.__module__ == "routercompanion.routers.difficulty.my_router"
assert get_router("MyRouter") is MyRouter
names = [name for name, check in router_checks(MyRouter()) if check() is None]
assert len(names) > 10, names

table = list_routers()
row = table[table.name == "MyRouter"]
assert len(row) == 1 and row.family.item() == "difficulty" and row.when.item() == "before"

X, outcomes = toy_routing_data("embedding", n=300, n_models=3)
rows = np.arange(300)
found = pool_evaluation(outcomes, X, {"MyRouter": MyRouter()}, train=rows < 200, test=rows >= 200,
                        n_resamples=50)
write_table(found.table, "mine", "out", caption="A table")
assert "MyRouter" in open("out/mine.md").read()

kin = [n for n in table.name[table.family == "difficulty"] if n != "MyRouter"]
look = looks(["MyRouter"])["MyRouter"]
assert look == looks([*kin, "MyRouter"])["MyRouter"], "one look in every figure"
assert look["color"] == OKABE_ITO[FAMILY_COLOUR["difficulty"]], look
save_figure(plot_pool_evaluation(found).figure, "mine", "out", title="Mine rises",
            subtitle="accuracy (%)", caption="Look at the left.", alt="Rising lines.",
            holds=len(found.table) > 3)
main(["routers", "--csv"])
"""


def test_a_new_router_is_one_notebook_and_is_found_everywhere(copy):
    before = contents(copy)
    said = python(
        copy,
        "-m",
        "routercompanion.reproduce.generate",
        "router",
        "MyRouter",
        "--family",
        "difficulty",
    )
    assert "Wrote nbs/6_routers/difficulty/my_router.ipynb." in said and "Next:" in said
    new, changed = changes(before, contents(copy))
    assert new == [
        "nbs/6_routers/difficulty/my_router.ipynb",
        "routercompanion/routers/difficulty/my_router.py",
    ]
    assert changed == ["routercompanion/_modidx.py"], "nbdev's index, and no other file"
    said = python(copy, "-c", USE_ROUTER)
    row = next(r for r in csv.reader(said.splitlines()) if r and r[0] == "MyRouter")
    assert "difficulty" in row
    assert (copy / "out/mine.png").stat().st_size > 5000


def test_the_notebook_of_a_new_router_runs(copy, monkeypatch):
    path = generate.new_router("LinUCBLikeRouter", "clustering", copy)
    assert path == copy / "nbs/6_routers/clustering/lin_ucb_like_router.ipynb"
    nb = execute(copy, path.relative_to(copy), monkeypatch)
    sources = [c.source for c in nb.cells]
    assert sources[0].startswith("# Lin UCB like router\n\n> ")
    assert any(s == "#| default_exp routers.clustering.lin_ucb_like_router" for s in sources)
    assert not any(word in s for s in sources for word in ("MyRouter", "my_router", "My router"))
    assert "## Exercises" in sources[-1] and "<details><summary>Solutions</summary>" in sources[-1]
    assert len(nb.cells) <= 45 and len({c.id for c in nb.cells}) == len(nb.cells)
    assert longest_line(nb) <= 100
    said = "".join(o.get("text", "") for c in nb.cells if c.cell_type == "code" for o in c.outputs)
    assert said.count("kept: ") > 10


@pytest.mark.parametrize(
    "name, family, message",
    [
        ("my_router", "difficulty", "'my_router' is no name for a router"),
        ("MyRouter!", "difficulty", "is no name for a router"),
        ("../MyRouter", "difficulty", "is no name for a router"),
        ("Import", "difficulty", "'Import' is no name for a router"),
        (
            "KNNRouter",
            "difficulty",
            "KNNRouter exists already, in routercompanion.routers.clustering",
        ),
        ("PoolRouter", "difficulty", "PoolRouter exists already, in routercompanion.routers.base"),
        ("Probes", "difficulty", r"probes.ipynb exists. Choose another name"),
        ("LogisticRegression", "difficulty", "is used inside the new notebook"),
        ("MyRouter", "magic", "Unknown family 'magic'. Known: bandits, .*uncertainty. A new one"),
    ],
)
def test_a_router_that_cannot_be_is_refused_and_nothing_is_written(name, family, message, tmp_path):
    copy = small_copy(tmp_path)
    before = contents(copy)
    with pytest.raises(generate.GenerateError, match=message):
        generate.new_router(name, family, copy)
    assert contents(copy) == before


def small_copy(folder):
    "The routers, the data sets and the templates of the repository, enough to refuse a name."
    for part in (
        "nbs/6_routers",
        "nbs/2_data/sets",
        "nbs/9_reproduce/_templates",
        "nbs/papers",
        "routercompanion/routers",
        "routercompanion/data",
    ):
        shutil.copytree(ROOT / part, folder / part)
    for part in ("pyproject.toml", "settings.ini", "routercompanion/__init__.py"):
        shutil.copy(ROOT / part, folder / part)
    return folder


@pytest.mark.parametrize("error", [generate.GenerateError("broken"), KeyboardInterrupt()])
def test_an_export_that_fails_leaves_nothing_behind(error, tmp_path, monkeypatch):
    copy = small_copy(tmp_path)
    before = contents(copy)

    def half(path, root):
        (copy / "routercompanion/routers/difficulty/my_router.py").write_text("half")
        raise error

    monkeypatch.setattr(generate, "export_notebook", half)
    with pytest.raises(type(error)):
        generate.new_router("MyRouter", "difficulty", copy)
    assert contents(copy) == before


def test_an_export_that_nbdev_refuses_is_named(tmp_path):
    copy = small_copy(tmp_path)
    (copy / "pyproject.toml").write_text("[tool.nbdev\n")
    before = contents(copy)
    with pytest.raises(generate.GenerateError, match="my_router.ipynb cannot be exported"):
        generate.new_router("MyRouter", "difficulty", copy)
    assert contents(copy) == before


def test_the_command_refuses_with_status_2_and_a_remedy(capsys):
    assert generate.main(["router", "KNNRouter"]) == 2
    assert "Error: KNNRouter exists already" in capsys.readouterr().err
    assert generate.main(["paper", "My Paper"]) == 2
    assert "'My Paper' is no name for a paper. Write it as in" in capsys.readouterr().err


def test_a_new_data_set_is_one_notebook_with_a_loader(copy, monkeypatch):
    before = contents(copy)
    path = generate.new_data_set("weekend_arena", copy)
    new, changed = changes(before, contents(copy))
    assert new == [
        "nbs/2_data/sets/weekend_arena.ipynb",
        "routercompanion/data/sets/weekend_arena.py",
    ]
    assert changed == ["routercompanion/_modidx.py"]
    assert longest_line(execute(copy, path.relative_to(copy), monkeypatch)) <= 100
    line = '{"prompt": "2 + 2", "task": "sums", "scores": {"tiny-1b": 1, "large-70b": 0.5}}\n'
    (copy / "set.jsonl").write_text(line)
    (copy / "bad.jsonl").write_text(line + line.replace("0.5", '"yes"'))
    said = python(
        copy,
        "-c",
        """
from routercompanion.data import load_weekend_arena
table = load_weekend_arena("set.jsonl")
assert table.score.tolist() == [[1, .5]] and table.models == ["tiny-1b", "large-70b"]
load_weekend_arena("bad.jsonl")""",
        good=1,
    )
    assert (
        "SchemaError: bad.jsonl, row 2, column 'large-70b': "
        "the text 'yes' where a number is expected" in said
    )


@pytest.mark.parametrize(
    "name, message",
    [
        ("WeekendArena", "is no name for a data set"),
        ("a-b", "is no name for a data set"),
        ("import", "is no name for a data set"),
        ("csv", "load_csv exists already"),
        ("embedllm", "load_embedllm exists already"),
        ("pickles", "pickles.ipynb exists"),
    ],
)
def test_a_data_set_that_cannot_be_is_refused(name, message, tmp_path):
    copy = small_copy(tmp_path)
    before = contents(copy)
    with pytest.raises(generate.GenerateError, match=message):
        generate.new_data_set(name, copy)
    assert contents(copy) == before


def test_a_new_paper_is_one_notebook_and_one_step_and_runs_small(copy, monkeypatch, capsys):
    before = contents(copy)
    monkeypatch.setenv("ROUTERCOMPANION_ROOT", str(copy))
    assert generate.main(["paper", "small_talk"]) == 0
    said = capsys.readouterr().out
    assert "data/paper/small_talk_table1.csv" in said and "data/paper/items.csv" in said
    assert "routercompanion reproduce --only papers/small_talk" in said
    new, changed = changes(before, contents(copy))
    assert new == ["nbs/papers/small_talk/results.ipynb"] and changed == ["nbs/papers/steps.toml"]
    text = (copy / "nbs/papers/steps.toml").read_bytes()
    assert text.startswith(before["nbs/papers/steps.toml"].rstrip())
    assert tomllib.loads(text.decode())["step"][-1]["name"] == "papers/small_talk"

    step = next(s for s in graph.project_steps(copy, "smoke") if s.name == "papers/small_talk")
    notebooks.preflight(step, copy, step.parameters)
    given = {"profile": "smoke", "out": str(copy / "out")}
    assert longest_line(notebooks.read_notebook(copy / step.notebook)) <= 100
    execute(copy, step.notebook, monkeypatch, given)
    assert {
        "small_talk_table1.csv",
        "small_talk_table1.md",
        "small_talk_figure1.png",
        "small_talk_figure1.svg",
        "small_talk_figure1.caption.json",
        "provenance.json",
    } <= set(os.listdir(copy / "out"))
    rows = list(csv.DictReader(open(copy / "out/small_talk_table1.csv", encoding="utf-8")))
    names = [c.removesuffix("_published") for c in rows[0] if c.endswith("_published")]
    names.remove("models")
    assert names and not any(r[f"{n}_published"] for r in rows for n in names), "nothing invented"
    ours = next(r for r in rows if r["row"] == "SemanticEntropy")
    low, value, high = (float(ours[f"pooled AUROC_ours{end}"]) for end in ("_low", "", "_high"))
    assert low < value < high


@pytest.mark.parametrize(
    "name, message",
    [("SmallTalk", "is no name for a paper"), ("xbench", "a step papers/xbench already")],
)
def test_a_paper_that_cannot_be_is_refused(name, message, tmp_path):
    copy = small_copy(tmp_path)
    before = contents(copy)
    with pytest.raises(generate.GenerateError, match=message):
        generate.new_paper(name, copy)
    assert contents(copy) == before


def test_a_paper_whose_step_cannot_be_written_leaves_no_notebook(tmp_path, monkeypatch):
    copy = small_copy(tmp_path)
    before = contents(copy)

    def full(path, text):
        raise OSError("the disk is full")

    monkeypatch.setattr(generate, "write_text", full)
    with pytest.raises(OSError, match="the disk is full"):
        generate.new_paper("small_talk", copy)
    assert contents(copy) == before
