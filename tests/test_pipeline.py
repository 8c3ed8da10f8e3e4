"The runner: order, keys, preflight, errors, atomic publication, and resuming after SIGKILL at any moment."
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import pytest

from routercompanion import core
from routercompanion.reproduce import book, graph, notebooks, run as run_module, store
from routercompanion.core import CompanionError

PAPER = {"out": "{out}", "profile": "{profile}", "inputs": "{inputs}"}


def write_notebook(path, *code, parameters='profile = "smoke"\nout = "."\ninputs = {}'):
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    if parameters: nb.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}, id="parameters"))
    nb.cells += [nbformat.v4.new_code_cell(c, id=f"cell-{i}") for i, c in enumerate(code)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)


def make_project(root):
    "Three notebooks; the second needs the first, the third needs both."
    (root / "data").mkdir(parents=True)
    (root / "data/start.txt").write_text("12")
    (root / "pyproject.toml").write_text("")
    write_notebook(root / "nbs/one.ipynb", "from pathlib import Path\nn = int(Path('data/start.txt').read_text())",
                   "for name in ('count.csv', 'count.md', 'wide_count.csv'): Path(out, name).write_text(f'n\\n{n}\\n' * 4000)")
    write_notebook(root / "nbs/two.ipynb", "from pathlib import Path\nn = int(Path(inputs['one'], 'count.csv').read_text().split()[1])",
                   "Path(out, 'square.csv').write_text(f'n2\\n{n * n}\\n')\nPath(out, 'square.svg').write_text('<svg/>')")
    write_notebook(root / "nbs/three.ipynb", "from pathlib import Path\nimport json",
                   "parts = {k: Path(v, f).read_text().split()[1] for (k, v), f in zip(sorted(inputs.items()), ('count.csv', 'square.csv'))}",
                   "Path(out, 'report.md').write_text(json.dumps(parts) + profile + '\\n')\n"
                   "Path(out, 'provenance.json').write_text(json.dumps({'inputs': {'outcomes': 'recorded'}}))")
    return make_steps()


def make_steps():
    return [graph.Step("three", "nbs/three.ipynb", needs=("one", "two"), parameters=PAPER, outputs=("report.md",)),
            graph.Step("one", "nbs/one.ipynb", parameters=PAPER, data=("data",)), graph.Step("two", "nbs/two.ipynb", needs=("one",), parameters=PAPER)]


def run(root, steps=None, **kwargs):
    return [r.status for r in run_module.run_pipeline(steps or make_steps(), root, profile="smoke", quiet=True, **kwargs)]


def published(root): return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted((root / "figures").rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "An undisturbed run: the project folder and every published byte."
    root = tmp_path_factory.mktemp("finished")
    assert run(root, make_project(root)) == ["ran"] * 3
    return root, published(root)


@pytest.fixture
def project(finished, tmp_path):
    "A private copy of the finished project."
    return Path(shutil.copytree(finished[0], tmp_path / "project"))


# ---------------------------------------------------------------- order, keys, promises

def test_results_and_manifest(finished):
    root, files = finished
    assert json.loads(files["figures/smoke/report.md"].decode().replace("smoke\n", "")) == {"one": "12", "two": "144"}
    manifest = json.loads(files["figures/smoke/manifest.json"])
    assert set(manifest["steps"]) == {"one", "two", "three"} and set(manifest["items"]) == {"count", "wide_count", "square", "report"}
    assert set(manifest["items"]["square"]["files"]) == {"square.csv", "square.svg"}
    assert manifest["items"]["report"]["inputs"] == {"outcomes": "recorded"} and manifest["profile"] == "smoke"
    assert "provenance.json" not in {Path(f).name for f in files}, "the note to the runner is not a result"
    text = files["figures/smoke/manifest.json"].decode()
    assert "seconds" not in text and str(root) not in text, "no timings, no folders of this machine"


def test_executed_copies_hold_no_dust(finished):
    for name in ("one", "two", "three"):
        text = (finished[0] / f".routercompanion/smoke/steps/{name}/executed.ipynb").read_text()
        assert "papermill" not in text and str(finished[0]) not in text and "execution_count" in text


def test_second_run_is_cached(project): assert run(project) == ["cached"] * 3


def test_moved_project_is_still_cached(finished, tmp_path):
    assert run(Path(shutil.copytree(finished[0], tmp_path / "elsewhere"))) == ["cached"] * 3


def test_fresh_clone_believes_nothing(project, finished):
    shutil.rmtree(project / ".routercompanion")
    assert run(project) == ["ran"] * 3 and published(project) == finished[1]


def test_only_what_changed_runs(project):
    (project / "data/start.txt").write_text("13")
    assert run(project) == ["ran"] * 3 and b"169" in published(project)["figures/smoke/square.csv"]
    nb = nbformat.read(project / "nbs/two.ipynb", 4)
    nb.cells[1].source += "  # a comment"
    nbformat.write(nb, project / "nbs/two.ipynb")
    assert run(project) == ["cached", "ran", "cached"], "same output: what depends on it stays"


def test_markdown_is_not_code(project):
    nb = nbformat.read(project / "nbs/one.ipynb", 4)
    nb.cells.insert(0, nbformat.v4.new_markdown_cell("a better sentence"))
    nbformat.write(nb, project / "nbs/one.ipynb")
    assert run(project) == ["cached"] * 3


@pytest.mark.parametrize("file", ["count.csv", "report.md", "manifest.json"])
@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(p.read_bytes()[:-1]), lambda p: p.unlink()])
def test_edited_publication_is_put_right(project, finished, file, damage):
    damage(project / "figures/smoke" / file)
    assert "restored" in run(project) and published(project) == finished[1]


@pytest.mark.parametrize("file", ["out/count.csv", "executed.ipynb", "record.json"])
def test_damaged_record_runs_again(project, finished, file):
    path = project / ".routercompanion/smoke/steps/one" / file
    path.write_bytes(path.read_bytes()[:-3])
    assert run(project) == ["ran", "cached", "cached"] and published(project) == finished[1]


def test_kept_file_belongs_to_the_result(tmp_path):
    big = tmp_path / "cache/features.bin"
    write_notebook(tmp_path / "nbs/one.ipynb", "import json\nfrom pathlib import Path",
                   f"big = Path({str(big)!r})\nbig.parent.mkdir(exist_ok=True)\nbig.write_text('features')",
                   "Path(out, 'provenance.json').write_text(json.dumps({'kept': [str(big)]}))")
    steps = [graph.Step("one", "nbs/one.ipynb", parameters=PAPER)]
    assert run(tmp_path, steps) == ["ran"] and run(tmp_path, steps) == ["cached"]
    big.unlink()
    assert run(tmp_path, steps) == ["ran"] and big.exists()


def test_renamed_output_leaves_no_orphan(project):
    nb = nbformat.read(project / "nbs/two.ipynb", 4)
    nb.cells[2].source = nb.cells[2].source.replace("square.svg", "drawing.svg")
    nbformat.write(nb, project / "nbs/two.ipynb")
    run(project)
    files = {Path(f).name for f in published(project)}
    assert "drawing.svg" in files and "square.svg" not in files


def test_two_steps_may_not_write_one_file(project):
    write_notebook(project / "nbs/four.ipynb", "from pathlib import Path\nPath(out, 'square.csv').write_text('mine')")
    with pytest.raises(notebooks.StepError, match="'two' both write square.csv"): run(project, make_steps() + [graph.Step("four", "nbs/four.ipynb", parameters=PAPER)])


def test_again_runs_everything_and_gives_the_same_bytes(project, finished):
    assert run(project, again=True) == ["ran"] * 3 and published(project) == finished[1]
    assert run(project) == ["cached"] * 3


def test_only_runs_the_step_and_what_it_needs(tmp_path):
    steps = make_project(tmp_path)
    assert run(tmp_path, steps, only=["two"]) == ["ran", "ran"] and run(tmp_path, steps) == ["cached", "cached", "ran"]


# ---------------------------------------------------------------- bad input

def test_parameter_that_the_notebook_does_not_declare(project):
    with pytest.raises(notebooks.StepError, match="does not declare the parameter sample"):
        run(project, [graph.Step("one", "nbs/one.ipynb", parameters=PAPER | {"sample": 3})])


def test_notebook_without_parameters_cell(project):
    write_notebook(project / "nbs/bare.ipynb", "profile = 'smoke'", parameters=None)
    with pytest.raises(notebooks.StepError, match="bare.ipynb has no cell tagged 'parameters'"): run(project, [graph.Step("bare", "nbs/bare.ipynb", parameters=PAPER)])


def test_missing_and_broken_notebook(project):
    with pytest.raises(notebooks.StepError, match="no such notebook"): run(project, [graph.Step("x", "nbs/nowhere.ipynb", parameters=PAPER)])
    (project / "nbs/half.ipynb").write_text((project / "nbs/one.ipynb").read_text()[:200])
    with pytest.raises(notebooks.StepError, match="not a readable notebook"): run(project, [graph.Step("x", "nbs/half.ipynb")])


def test_unknown_profile(project):
    with pytest.raises(CompanionError, match="Unknown profile 'huge'. Known: bench"): run_module.run_pipeline(make_steps(), project, profile="huge", quiet=True)


def test_failing_cell_is_named_and_kept_and_nothing_is_published(project, finished):
    nb = nbformat.read(project / "nbs/two.ipynb", 4)
    nb.cells[2].source += "\n1 / 0"
    nbformat.write(nb, project / "nbs/two.ipynb")
    with pytest.raises(notebooks.StepError, match=r"two.ipynb: cell In \[\d+\].* raised ZeroDivisionError: division by zero") as e: run(project)
    kept = project / ".routercompanion/smoke/failed/two.ipynb"
    assert str(kept) in str(e.value) and "ZeroDivisionError" in kept.read_text()
    assert published(project) == finished[1], "the old results stay as they were"


def test_dying_kernel_is_named(project):
    write_notebook(project / "nbs/dies.ipynb", "import os\nos._exit(9)")
    with pytest.raises(notebooks.StepError, match="dies.ipynb: the kernel stopped"): run(project, [graph.Step("dies", "nbs/dies.ipynb", parameters=PAPER)])


def test_second_run_at_the_same_time_is_refused(project):
    with store.Workspace(project, "smoke").lock(), pytest.raises(CompanionError, match="Another run holds"): run(project)


def test_kernel_ignores_the_user(tmp_path, monkeypatch):
    "A start-up file, a registered kernel and a matplotlib setting of the user change nothing; HOME may be empty."
    home = tmp_path / "home"
    (home / ".ipython/profile_default/startup").mkdir(parents=True)
    (home / ".ipython/profile_default/startup/a.py").write_text("intruder = 1")
    kernel = home / ".local/share/jupyter/kernels/python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("HOME", str(home))
    write_notebook(tmp_path / "nbs/one.ipynb", "import os, sys\nassert 'intruder' not in globals()", "assert os.environ['PYTHONHASHSEED'] == '0'\n"
                   f"assert sys.executable == {sys.executable!r} and os.getcwd() == {str(tmp_path)!r}")
    assert run(tmp_path, [graph.Step("one", "nbs/one.ipynb", parameters=PAPER)]) == ["ran"]


# ---------------------------------------------------------------- folders of steps

def test_two_steps_never_share_a_folder():
    parts = ["a", "_", "a_", "_a", "a__a", "a b", "a?", "%5F", ".a", "\u00e9"]
    names = [*parts, *(f"{x}/{y}" for x in parts for y in parts)]
    assert len({store.slug(name) for name in names}) == len(names)
    assert not any("/" in store.slug(name) for name in names)
    real = [step.name for step in graph.read_steps(core.project_root())]
    assert [*map(store.slug, real)] == [name.replace("/", "__") for name in real]


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a//b", "/a"])
def test_a_step_whose_name_is_no_folder_is_refused(name):
    with pytest.raises(CompanionError, match="cannot be the name of a file"):
        store.slug(name)


# ---------------------------------------------------------------- SIGKILL at any moment

def killing_replace(number, when):
    "An os.replace that kills this process, as `kill -9` would, before or after call number `number`."
    real, calls = os.replace, [0]

    def replace(*args, **kwargs):
        calls[0] += 1
        if when == "before" and calls[0] == number: os.kill(os.getpid(), signal.SIGKILL)
        real(*args, **kwargs)
        if when == "after" and calls[0] == number: os.kill(os.getpid(), signal.SIGKILL)
    return replace


def killed_in_child(root, number, when):
    "Run the pipeline in a forked child that kills itself; return whether it was killed (False: it ended first)."
    child = os.fork()
    if child == 0:
        os.replace = killing_replace(number, when)
        try: run(root)
        finally: os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_moment_of_publication(finished, tmp_path, when):
    number, killed = 0, True
    while killed:
        number += 1
        root = Path(shutil.copytree(finished[0], tmp_path / f"at{number}", ignore=shutil.ignore_patterns("figures")))
        killed = killed_in_child(root, number, when)
        assert set(run(root)) <= {"restored", "cached"} and published(root) == finished[1], f"killed {when} move {number}"
    assert number > 8, "there are at least three manifests and six files to move"


SCRIPT = textwrap.dedent("""
    import os, sys
    sys.path.insert(0, {tests!r})
    import test_pipeline as t
    root, number, when = t.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    if number: os.replace = t.killing_replace(number, when)
    t.run(root)
""")


def start(root, number=0, when="never"):
    return subprocess.Popen([sys.executable, "-c", SCRIPT.format(tests=str(Path(__file__).parent)), str(root), str(number), when],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_killed_again_and_again_between_moves(finished, tmp_path):
    "One cold run, killed at its 1st, 3rd, 5th ... move after each resumption, until one gets through."
    make_project(tmp_path)
    kills = [start(tmp_path, n, ("before", "after")[n // 2 % 2]).wait() for n in (1, 3, 5, 7)]
    assert kills[:3] == [-signal.SIGKILL] * 3
    assert start(tmp_path).wait() == 0 and published(tmp_path) == finished[1]


def test_killed_at_random_times(finished, tmp_path):
    for name in ("timed", "killed"): (tmp_path / name).mkdir(); make_project(tmp_path / name)
    begun = time.monotonic()
    assert start(tmp_path / "timed").wait() == 0
    whole = time.monotonic() - begun   # moments are shares of an undisturbed run, so that they fall inside it on any machine
    tmp_path, rng, kills = tmp_path / "killed", random.Random(42), 0
    for _ in range(4):
        process = start(tmp_path)
        time.sleep(rng.uniform(.2, .6) * whole)
        if process.poll() is None: process.kill(); kills += 1
        process.wait()
    assert start(tmp_path).wait() == 0 and published(tmp_path) == finished[1] and kills > 0


# ---------------------------------------------------------------- the book

def test_book_opens_from_disk_and_is_rebuilt_only_when_needed(project):
    ws, steps = store.Workspace(project, "smoke"), make_steps()
    nb = nbformat.read(project / "nbs/one.ipynb", 4)
    nb.cells.insert(0, nbformat.v4.new_markdown_cell("# One\n\nInline $\\rho^2$ and\n\n$$\\operatorname{route}(q) = \\arg\\max_m \\hat Q_m(q) - \\lambda c_m$$"))
    nbformat.write(nb, project / "nbs/one.ipynb")
    shutil.rmtree(project / ".routercompanion/smoke/steps/one")
    run(project)
    index = book.build_book(ws, steps, quiet=True)
    pages = {p.relative_to(project / "_book").as_posix(): p.read_text() for p in (project / "_book").rglob("*.html")}
    assert index == project / "_book/index.html" and {"results.html", "library/one.html"} <= set(pages)
    assert "<msup>" in pages["library/one.html"] and "math-source" not in pages["library/one.html"] and "MathJax" not in pages["library/one.html"]
    for file in ("count.csv", "square.svg"):
        assert f'figures/smoke/{file}"' in pages["results.html"] and (project / "_book/figures/smoke" / file).is_file()
    assert book.external_requests(project / "_book") == []
    stamp = index.stat().st_mtime_ns
    book.build_book(ws, steps, quiet=True)
    assert index.stat().st_mtime_ns == stamp
    assert not (ws.state / "work/book").exists()


@pytest.mark.parametrize("notebook", sorted(Path(__file__).parents[1].glob("nbs/**/*.ipynb")), ids=lambda p: p.stem)
def test_every_formula_can_be_shown(notebook):
    import re
    text = "\n".join(c.source for c in notebooks.read_notebook(notebook).cells if c.cell_type == "markdown")
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    formulas = [(m[0], True) for m in re.finditer(r"(?<=\$\$).+?(?=\$\$)", text, re.S)][::2]
    formulas += [(m[1], False) for m in re.finditer(r"(?<![\\$\w])\$([^$\n]+?)\$(?![\w$])", re.sub(r"\$\$.+?\$\$", "", text, flags=re.S))]
    assert [f for f, block in formulas if "math-source" in book.to_mathml(f, block)] == []


# ---------------------------------------------------------------- this project's own table

def test_project_steps_are_a_graph_with_unique_names():
    steps = graph.project_steps()
    assert [s.name for s in graph.sort_steps(steps, ["papers/xbench"])] == ["papers/outcomes", "papers/features", "papers/xbench"]
    assert {"0_core", "9_reproduce/run", "9_reproduce/cli"} <= {s.name for s in steps}


def test_a_step_says_in_which_profiles_it_exists():
    "The embedded bank's notebooks do not run on the papers' own prompt files, nor the other way round; the library runs everywhere."
    names = {p: [s.name for s in graph.project_steps(profile=p)] for p in ("smoke", "embedded", "bench", "paper")}
    claims = "papers/claims"   # verdicts are those of the full tables
    assert claims in names["embedded"] and claims not in names["smoke"] + names["bench"]
    assert names["smoke"] == [n for n in names["embedded"] if n != claims]
    assert names["bench"] == names["paper"]
    assert "papers/xbench" in names["smoke"] and "papers/xbench_bench" not in names["smoke"]
    own = ["xbench", "who_routes", "confidence", "cscr", "arithmetic"]
    papers = [n for n in names["bench"] if n.startswith("papers/")]
    assert papers == [f"papers/{name}_bench" for name in own]
    assert {"0_core", "9_reproduce/run"} <= set(names["bench"])
    assert {n for part in names.values() for n in part} == {s.name for s in graph.project_steps()}
    for part in names: graph.sort_steps(graph.project_steps(profile=part))   # no step needs one of another profile
    with pytest.raises(CompanionError, match="profile"): graph.project_steps(profile="bnech")


def test_items_of_another_profile():
    "An item comes from the notebook that makes it in this profile; one that is not made there says where it is."
    steps, table = graph.project_steps(profile="bench"), store.list_items(profile="bench")
    assert store.steps_for("xbench_table1", steps, table) == store.steps_for("papers/xbench_bench", steps, table) == ["papers/xbench_bench"]
    assert store.list_items(profile="embedded").set_index("id").notebook["xbench_table1"] == "papers/xbench"
    with pytest.raises(CompanionError, match=r"does not run in this profile. Choose one of smoke, embedded"): store.steps_for("papers/features", steps, table)
    table.loc[table.id == "xbench_table1", "notebook"] = "papers/features"
    with pytest.raises(CompanionError, match=r"not made in this profile: it comes from papers/features \(profiles smoke, embedded\)"): store.steps_for("xbench_table1", steps, table)


def test_items_become_stale_when_edited(project):
    (project / "data/paper").mkdir()
    (project / "data/paper/items.csv").write_text("paper,item,title,status,notebook,note\ncount,md,c,analogue,two,\nsquare,x,s,planned,five,later\nround,x,s,planned,one,later\n")
    manifest = json.loads((project / "figures/smoke/manifest.json").read_text())
    assert store.item_files(manifest, "square") and not store.item_files(manifest, "squ")
    ws = store.Workspace(project, "smoke")
    assert store.item_state(ws, store.item_files(manifest, "square")) == "present" and store.item_state(ws, {}) == "missing"
    (ws.figures / "square.csv").write_text("n2\n145\n")
    assert store.item_state(ws, store.item_files(manifest, "square")) == "stale"
    table = store.list_items(project, "smoke")
    assert store.steps_for("count_md", make_steps(), table) == ["two"]
    with pytest.raises(CompanionError, match="has no notebook yet: planned"): store.steps_for("square_x", make_steps(), table)
    with pytest.raises(CompanionError, match="has no notebook yet: planned"):
        store.steps_for("round_x", make_steps(), table)  # its notebook makes other items
    with pytest.raises(CompanionError, match="Unknown item or step 'table9'"): store.steps_for("table9", make_steps(), table)


def test_key_follows_imports_through_the_library():
    package = core.project_root() / "routercompanion"
    found = graph.library_hashes(["from routercompanion.routers.difficulty.probes import DirichletProbe"], package)
    assert {"routers.difficulty.probes", "routers.base", "core"} <= set(found) and not {"reproduce.run", "reproduce.cli", "report.figures"} & set(found)


# ---------------------------------------------------------------- one command, and the committed notebooks

@pytest.fixture
def small_repository(tmp_path):
    "A project with a front page, a library notebook and a paper notebook."
    (tmp_path / "pyproject.toml").write_text("")
    write_notebook(tmp_path / "nbs/index.ipynb", "1 + 1", parameters=None)
    write_notebook(tmp_path / "nbs/00_a.ipynb", "import os\nprint(os.environ['ROUTERCOMPANION_QUIET'], object())", "2 + 2", parameters=None)
    write_notebook(tmp_path / "nbs/papers/x.ipynb", "from pathlib import Path\nPath(out or '.', 'x_table1.csv').write_text(f'a\\n{profile}\\n')\nprofile",
                   parameters='profile = "smoke"\nout = ""\nfrom_scratch = False')
    (tmp_path / "data/paper").mkdir(parents=True)
    (tmp_path / "data/paper/items.csv").write_text("paper,item,title,status,notebook,note\nx,Table 1,A table,analogue,papers/x,\n")
    (tmp_path / graph.STEPS_FILE).write_text('[[step]]\nname = "papers/x"\nnotebook = "nbs/papers/x.ipynb"\nscale = true\nfrom_scratch = true\n')
    return tmp_path


def test_reproduce_runs_everything_and_builds_the_book(small_repository, capsys):
    results = run_module.reproduce(small_repository, profile="smoke")
    assert [(r.name, r.status) for r in results] == [("00_a", "ran"), ("index", "ran"), ("papers/x", "ran")]
    assert "papers/x" in capsys.readouterr().out and (small_repository / "figures/smoke/x_table1.csv").read_text() == "a\nsmoke\n"
    results = (small_repository / "_book/results.html").read_text()
    assert "A table" in results and "analogue" in results and (small_repository / "_book/papers/x.html").exists()
    assert [r.status for r in run_module.reproduce(small_repository, profile="smoke", only="x_table1", quiet=True)] == ["cached"]
    again = run_module.reproduce(small_repository, profile="smoke", quiet=True, from_scratch=True, book=False)
    assert {r.status for r in again} == {"ran"}
    with pytest.raises(CompanionError, match="Unknown item"): run_module.reproduce(small_repository, profile="smoke", only="y_table1", quiet=True)


def test_committed_notebooks_are_executed_clean_and_stable(small_repository):
    names = run_module.commit_notebooks(small_repository, profile="smoke", quiet=True)
    assert set(names) == {"nbs/index.ipynb", "nbs/00_a.ipynb", "nbs/papers/x.ipynb"}
    first = {n: (small_repository / n).read_bytes() for n in names}
    nb = notebooks.read_notebook(small_repository / "nbs/papers/x.ipynb")
    assert notebooks.tagged(nb, "parameters") == 0 and notebooks.tagged(nb, "injected-parameters") == -1 and [c.execution_count for c in nb.cells] == [1, 2]
    assert nb.cells[1].outputs[0].data["text/plain"] == "'smoke'"
    assert "0x" not in first["nbs/00_a.ipynb"].decode() and "<object object>" in first["nbs/00_a.ipynb"].decode()
    run_module.commit_notebooks(small_repository, profile="smoke", quiet=True)
    assert {n: (small_repository / n).read_bytes() for n in names} == first, "a second run changes no byte"
    assert {r.status for r in run_module.reproduce(small_repository, profile="smoke", quiet=True, book=False)} == {"cached"}


def test_outputs_of_another_profile_than_the_stated_one_are_refused(small_repository):
    with pytest.raises(notebooks.StepError, match="says profile = 'smoke', but its outputs are from 'embedded'"):
        run_module.commit_notebooks(small_repository, profile="embedded", quiet=True)


def test_edited_prose_reaches_notebooks_and_book_without_a_run(small_repository):
    run_module.commit_notebooks(small_repository, profile="smoke", quiet=True)
    steps, ws, path = graph.project_steps(small_repository), store.Workspace(small_repository, "smoke"), small_repository / "nbs/papers/x.ipynb"
    nb = notebooks.read_notebook(path)
    nb.cells.insert(0, nbformat.v4.new_markdown_cell("# A mended sentence"))
    notebooks.save_notebook(nb, path)
    assert {r.status for r in run_module.reproduce(small_repository, profile="smoke", quiet=True, book=False)} == {"cached"}
    book.write_book_sources(ws, steps, small_repository / "book")
    page = notebooks.read_notebook(small_repository / "book/papers/x.ipynb")
    assert page.cells[0].source == "# A mended sentence" and notebooks.tagged(page, "injected-parameters") == 2
    before = path.read_bytes()
    run_module.commit_notebooks(small_repository, profile="smoke", again=False, quiet=True)
    assert path.read_bytes() == before, "the mended sentence stays, and the outputs with it"
    nb.cells[-1].source += "\n1 / 1"
    notebooks.save_notebook(nb, path)   # other code than the record's: the book shows what really ran
    book.write_book_sources(ws, steps, small_repository / "book2")
    assert notebooks.read_notebook(small_repository / "book2/papers/x.ipynb").cells[-1].source.endswith("\nprofile")


def test_interrupted_new_start_resumes(project, finished):
    "`again` forgets once: after a failure in the third step, the first two are not run a third time."
    good = (project / "nbs/three.ipynb").read_text()
    (project / "nbs/three.ipynb").write_text(good.replace("import json", "import json; 1 / 0"))
    with pytest.raises(notebooks.StepError): run(project, again=True)
    (project / "nbs/three.ipynb").write_text(good)
    assert run(project, again=True) == ["cached", "cached", "ran"] and published(project) == finished[1]
    assert run(project, again=True) == ["ran"] * 3


# ---------------------------------------------------------------- two steps at a time

def test_two_steps_run_at_once_on_one_thread_each(tmp_path):
    "Each of two steps waits for the other's file, so they pass only together; both see one thread. The one that is alone sees two."
    wait_for = "import os, time\nfrom pathlib import Path\nPath('{mine}').write_text(os.environ['OMP_NUM_THREADS'])\nend = time.monotonic() + 60\n" \
               "while not Path('{other}').exists() and time.monotonic() < end: time.sleep(.05)\nassert Path('{other}').exists()"
    for mine, other in (("a", "b"), ("b", "a")):
        write_notebook(tmp_path / f"nbs/{mine}.ipynb", wait_for.format(mine=mine, other=other))
    write_notebook(tmp_path / "nbs/m.ipynb", "import os\nopen('m', 'w').write(os.environ['OMP_NUM_THREADS'])")
    steps = [graph.Step("m", "nbs/m.ipynb", alone=True), graph.Step("a", "nbs/a.ipynb"), graph.Step("b", "nbs/b.ipynb")]
    before = dict(os.environ), os.getcwd()
    assert run(tmp_path, steps, jobs=2) == ["ran"] * 3
    assert [(tmp_path / name).read_text() for name in "abm"] == ["1", "1", os.environ.get("ROUTERCOMPANION_THREADS", "2")]
    assert (dict(os.environ), os.getcwd()) == before
    manifest = json.loads((tmp_path / "figures/smoke/manifest.json").read_text())
    assert set(manifest["steps"]) == {"a", "b", "m"}


def spans(steps, jobs, seconds=.05):
    "When each step ran under `run_graph`: {name: (start, end)}, and the order in which they were reported."
    times, order = {}, []

    def work(step):
        start = time.monotonic()
        time.sleep(seconds)
        times[step.name] = start, time.monotonic()
    run_module.run_graph(steps, work, lambda step, result: order.append(step.name), jobs)
    return times, order


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_no_more_than_jobs_at_a_time_and_alone_means_alone(jobs):
    steps = [graph.Step(f"s{i}", "", alone=i % 4 == 0, needs=(f"s{i - 3}",) if i >= 3 else ()) for i in range(12)]
    times, order = spans(steps, jobs)
    together = {n: [m for m, (a, b) in times.items() if m != n and a < times[n][1] and times[n][0] < b] for n in times}
    for step in steps:
        assert len([m for m in together[step.name] if times[m][0] <= times[step.name][0]]) < jobs
        assert not (step.alone and together[step.name])
        assert all(times[need][1] <= times[step.name][0] for need in step.needs)
    assert sorted(order) == sorted(times) and (jobs == 1 or any(together.values()))


def test_a_finished_kernel_has_ended(tmp_path):
    write_notebook(tmp_path / "nbs/one.ipynb", "import os\nopen('pid', 'w').write(str(os.getpid()))")
    notebooks.execute(tmp_path / "nbs/one.ipynb", tmp_path / "out.ipynb", {}, root=tmp_path, state=tmp_path / "state")
    assert gone(int((tmp_path / "pid").read_text()))


def test_one_and_two_at_a_time_give_the_same_bytes(finished, tmp_path):
    for jobs in (1, 3):
        root = tmp_path / f"jobs{jobs}"
        root.mkdir()
        assert run(root, make_project(root), jobs=jobs) == ["ran"] * 3 and published(root) == finished[1]


def test_failure_lets_the_running_step_end_and_starts_nothing(tmp_path):
    write_notebook(tmp_path / "nbs/bad.ipynb", "1 / 0")
    write_notebook(tmp_path / "nbs/slow.ipynb", "import time\ntime.sleep(4)\nfrom pathlib import Path\nPath(out, 'slow.csv').write_text('n\\n1\\n')")
    write_notebook(tmp_path / "nbs/later.ipynb", "from pathlib import Path\nPath('later').write_text('')")
    steps = [graph.Step("slow", "nbs/slow.ipynb", parameters=PAPER), graph.Step("bad", "nbs/bad.ipynb", parameters=PAPER),
             graph.Step("later", "nbs/later.ipynb", needs=("slow",), parameters=PAPER)]
    with pytest.raises(notebooks.StepError, match="ZeroDivisionError"): run(tmp_path, steps, jobs=2)
    assert (tmp_path / "figures/smoke/slow.csv").exists() and not (tmp_path / "later").exists()
    write_notebook(tmp_path / "nbs/bad.ipynb", "1 / 1")
    assert run(tmp_path, steps, jobs=2) == ["cached", "ran", "ran"]


INTERRUPTED = textwrap.dedent("""
    import sys
    sys.path.insert(0, {tests!r})
    import test_pipeline as t
    steps = [t.graph.Step(name, f"nbs/{{name}}.ipynb") for name in ("a", "b")]
    t.run(t.Path(sys.argv[1]), steps, jobs=2)
""")


def gone(pid):
    "Whether no process `pid` runs any more (a zombie does not run)."
    try: return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError): return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_interrupt_leaves_no_kernel_behind(tmp_path):
    for name in "ab":
        write_notebook(tmp_path / f"nbs/{name}.ipynb", f"import os, time\nopen('{name}.tmp', 'w').write(str(os.getpid()))\n"
                       f"os.replace('{name}.tmp', '{name}.pid')\ntime.sleep(600)")
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED.format(tests=str(Path(__file__).parent)), str(tmp_path)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))   # a shell's background jobs ignore it
    end = time.monotonic() + 120
    while not all((tmp_path / f"{n}.pid").exists() for n in "ab") and time.monotonic() < end: time.sleep(.1)
    kernels = [int((tmp_path / f"{n}.pid").read_text()) for n in "ab"]
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1] and process.returncode
    end = time.monotonic() + 20
    while not all(map(gone, kernels)) and time.monotonic() < end: time.sleep(.1)
    assert all(map(gone, kernels))
    for name in "ab": write_notebook(tmp_path / f"nbs/{name}.ipynb", "1 + 1")
    assert run(tmp_path, [graph.Step(n, f"nbs/{n}.ipynb") for n in "ab"]) == ["ran", "ran"], "the lock is free again"


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_senseless_number_of_steps_at_a_time(monkeypatch, text):
    monkeypatch.setenv("ROUTERCOMPANION_STEPS", text)
    with pytest.raises(CompanionError, match=f"ROUTERCOMPANION_STEPS='{text}'"): run_module.default_jobs()


def test_number_of_steps_at_a_time(monkeypatch):
    monkeypatch.delenv("ROUTERCOMPANION_STEPS", raising=False)
    assert run_module.default_jobs() == 2
    monkeypatch.setenv("ROUTERCOMPANION_STEPS", "5")
    assert run_module.default_jobs() == 5


# ---------------------------------------------------------------- the book's contents and links

def book_pages(toc):
    found = [toc["root"]]
    todo = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    while todo:
        entry = todo.pop()
        found.append(entry["file"])
        todo += entry.get("sections", [])
    return found


@pytest.mark.parametrize("profile", ["embedded", "bench"])
def test_every_page_stands_once_in_the_contents(profile):
    steps = graph.project_steps(profile=profile)
    pages = book_pages(book.book_toc(steps))
    assert len(pages) == len(set(pages)) and set(pages) == {book.page_of(s.notebook) for s in steps} | {"results", "index"}


def test_guides_have_a_part_of_their_own_before_the_reference():
    names = ["index", "0_core", "6_routers/index", "6_routers/base", "6_routers/bandits/index", "6_routers/bandits/thompson",
             "how_to/add_a_router", "decisions/floors", "map"]
    steps = [graph.Step(n, f"nbs/{n}.ipynb") for n in names] + [graph.Step("papers/x", "nbs/papers/one_paper/results.ipynb")]
    parts = {part["caption"]: part["chapters"] for part in book.book_toc(steps)["parts"]}
    assert list(parts) == ["Start", "Papers", "How to", "Reference"]
    assert [c["file"] for c in parts["Start"]] == ["results", "library/map"]
    assert [c["file"] for c in parts["How to"]] == ["library/how_to/add_a_router", "library/decisions/floors"]
    assert parts["Reference"] == [{"file": "library/0_core"}, {"file": "library/6_routers/index", "sections": [
        {"file": "library/6_routers/bandits/index", "sections": [{"file": "library/6_routers/bandits/thompson"}]},
        {"file": "library/6_routers/base"}]}]


@pytest.mark.parametrize("profile", ["embedded", "bench"])
def test_links_between_notebooks_lead_to_pages_of_the_book(profile):
    import posixpath
    steps = graph.project_steps(profile=profile)
    pages, seen = {book.page_of(s.notebook) for s in steps}, 0
    for step in steps:
        here = posixpath.dirname(book.page_of(step.notebook))
        for cell in notebooks.read_notebook(core.project_root() / step.notebook).cells:
            if cell.cell_type != "markdown": continue
            text = book.book_links(cell.source, step.notebook, pages)
            for link in book.LINK.finditer(text):
                target = link[3].partition("#")[0]
                if not target.endswith(".ipynb") or ":" in target: continue
                assert posixpath.normpath(posixpath.join(here, target))[:-6] in pages, (step.name, link[0])
                seen += 1
    assert seen > 50


def test_pictures_and_files_that_are_linked_come_along(tmp_path):
    for file in ("figures/a.png", "data/b.md"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text("x")
    said = book.book_links("![a](figures/a.png) [b](data/b.md) [c](data/none.md)", "nbs/index.ipynb", set(), tmp_path, tmp_path / "book")
    assert said == '![a](files/figures/a.png) <a href="files/data/b.md">b</a> [c](data/none.md)'
    assert (tmp_path / "book/files/figures/a.png").exists() and (tmp_path / "book/extra/files/data/b.md").exists()


# ---------------------------------------------------------------- the steps file

STEP_TEXT = '[[step]]\nname = "papers/{0}"\nnotebook = "nbs/papers/{0}.ipynb"\nscale = true\n'


@pytest.fixture
def steps_file(tmp_path):
    "A function that writes nbs/papers/steps.toml below a project with the notebooks x and y, and reads the steps."
    for name in "xy": write_notebook(tmp_path / f"nbs/papers/{name}.ipynb", "1 + 1")

    def read(text):
        (tmp_path / graph.STEPS_FILE).write_text(text)
        return graph.read_steps(tmp_path)
    read.root = tmp_path
    return read


@pytest.mark.parametrize("extra, message", [
    ("colour = 'red'", r"unknown key 'colour'. Known: name, notebook"), ("needs = ['papers/z']", "no step is called 'papers/z'. Known: papers/x"),
    ("instead_of = 'papers/z'", "no step is called 'papers/z'"), ("alone = 1", "alone = 1 must be true or false"),
    ("needs = 'papers/y'", "must be a list of texts"), ("data = [1]", "must be a list of texts"), ("profiles = ['huge']", "Unknown profile 'huge'"),
    ("[[step]]\nname = 'papers/x'\nnotebook = 'nbs/papers/y.ipynb'", "declared twice"), ("[[step]]\nname = 'papers/y'", "step 'papers/y': notebook is missing"),
    ("[[step]]\nnotebook = 'nbs/papers/y.ipynb'", "step 'number 2': name is missing"),
    ("[[step]]\nname = 'papers/y'\nnotebook = 'nbs/papers/gone.ipynb'", "step 'papers/y': there is no notebook nbs/papers/gone.ipynb"),
    ("[other]\nx = 1", "nothing but tables"), ("name = 'papers/x2'", "not readable as TOML"), ("= 3", "not readable as TOML")])
def test_mistakes_in_the_steps_file_are_named(steps_file, extra, message):
    with pytest.raises(CompanionError, match=message) as e: steps_file(STEP_TEXT.format("x") + extra)
    assert str(e.value).startswith("nbs/papers/steps.toml") and ("TOML" in message or "tables" in message or "step '" in str(e.value))


def test_order_in_the_steps_file_changes_no_key(steps_file):
    x, y = (STEP_TEXT.format(n) for n in "xy")
    keys = lambda steps: {s.name: graph.step_key(s, steps_file.root, profile="smoke") for s in steps}
    turned = "".join(part for line in (y, x) for part in ["[[step]]\n", *reversed(line.splitlines(True)[1:])])
    assert keys(steps_file(x + y)) == keys(steps_file(turned)) and [s.name for s in steps_file(turned)] == ["papers/y", "papers/x"]


def test_project_without_a_steps_file_has_no_papers(tmp_path): assert graph.read_steps(tmp_path) == []


def test_every_paper_notebook_is_a_step():
    "A notebook that is forgotten in nbs/papers/steps.toml would never run."
    root = core.project_root()
    there = {p.relative_to(root).as_posix() for p in (root / "nbs/papers").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts}
    assert there == {s.notebook for s in graph.read_steps(root)}


# ---------------------------------------------------------------- keys follow faces and names; lessons

def hashes_of(source): return set(graph.library_hashes([source], core.project_root() / "routercompanion"))


def test_who_asks_for_a_router_by_name_depends_on_every_router():
    routers = {m for m in graph.library_files(core.project_root() / "routercompanion") if m.startswith("routers.")}
    for source in ("from routercompanion.routers.registry import load_router\nload_router('x')", "from routercompanion.routers import get_router\nget_router('KNNRouter')",
                   "import routercompanion.routers as r\nr.list_routers()", "import routercompanion.routers", "from routercompanion import routers"):
        assert routers <= hashes_of(source), source
    assert "reproduce.cli" in hashes_of("from routercompanion.reproduce.cli import main") and routers <= hashes_of("from routercompanion.reproduce.cli import main")
    assert not routers <= hashes_of("from routercompanion.routers import CSCRRouter")


def test_a_face_leads_to_the_module_that_defines_the_name():
    assert "routers.bandits.thompson" not in hashes_of("from routercompanion.routers import DirichletProbe")
    assert "routers.difficulty.probes" in hashes_of("from routercompanion.routers import DirichletProbe")


def test_lessons_whose_key_is_in_the_manifest_are_left_to_reproduce(tmp_path, monkeypatch):
    monkeypatch.delenv("ROUTERCOMPANION_ALL_LESSONS", raising=False)
    (tmp_path / "routercompanion").mkdir()
    (tmp_path / "routercompanion/low.py").write_text("x = 1")
    for i in range(30): write_notebook(tmp_path / f"nbs/{i}.ipynb", f"{i}", parameters=None)
    write_notebook(tmp_path / "nbs/user.ipynb", "from routercompanion.low import x", parameters=None)
    names = sorted(["user", *map(str, range(30))])
    manifest = tmp_path / "figures/smoke/manifest.json"
    manifest.parent.mkdir(parents=True)

    def commit():
        keys = {s.name: {"key": graph.step_key(s, tmp_path, profile="smoke")} for s in graph.project_steps(tmp_path)}
        manifest.write_text(json.dumps({"steps": keys, "items": {}}))
        return {n for n, e in keys.items() if core.hash_fraction(n, e["key"]) < .1}
    assert store.lessons_to_run(tmp_path, "smoke") == names, "nothing is committed yet"
    drawn = commit()
    assert store.lessons_to_run(tmp_path, "smoke") == sorted(drawn) and 0 < len(drawn) < 12
    (tmp_path / "routercompanion/low.py").write_text("x = 22")
    assert store.lessons_to_run(tmp_path, "smoke") == sorted(drawn | {"user"}), "the code that it imports has changed"
    write_notebook(tmp_path / "nbs/3.ipynb", "'changed'", parameters=None)
    assert {"3", "user"} <= set(store.lessons_to_run(tmp_path, "smoke"))
    turns = set()
    for version in range(60):   # every lesson's turn comes as keys change
        (tmp_path / "data/paper").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/paper/items.csv").write_text(f"version {version:03}")
        turns |= commit()
    assert turns == set(names)
    monkeypatch.setenv("ROUTERCOMPANION_ALL_LESSONS", "1")
    assert store.lessons_to_run(tmp_path, "smoke") == names
