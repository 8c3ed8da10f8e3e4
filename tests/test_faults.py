"""Faults as users meet them.

Replaced estimates, manifests that lead outside, own files, keys, sandboxes, signals, shared files.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from routercompanion import core
from routercompanion.assets.lock import Lock, LockFileError
from routercompanion.core import CompanionError, atomic_path, write_text
from routercompanion.models.chat import ChatEndpoint, EndpointError, read_key, shown_address
from routercompanion.reading import FileError
from routercompanion.report.tables import plain_markdown, table_markdown
from routercompanion.reproduce import book, checks, graph, notebooks, run as run_module, store
from test_pipeline import PAPER, gone, make_project, make_steps, write_notebook
from test_pipeline import run as run_steps

HEAD = "row,column,metric,value,low,high,n"
ROWS = [
    "probe,maths,AUROC,66.1,64,68,1000",
    "probe,law,AUROC,66.2,64.1,68.2,1000",
    "random,maths,AUROC,50,48,52,1000",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "The folder of an undisturbed run."
    root = tmp_path_factory.mktemp("finished")
    assert run_steps(root, make_project(root)) == ["ran"] * 3
    return root


@pytest.fixture
def project(finished, tmp_path):
    "A private copy of the finished project."
    return Path(shutil.copytree(finished, tmp_path / "project"))


# ------------------------------------------------------------------ verify looks at estimates


def compared(folder, rows, header=HEAD):
    write_text(folder / "old.csv", "\n".join([HEAD, *ROWS]) + "\n")
    write_text(folder / "new.csv", "\n".join([header, *rows]) + "\n")
    return checks.compare_tables(folder / "old.csv", folder / "new.csv")


@pytest.mark.parametrize("value", ["1e308", "inf", "-inf", "", "nan", "70", "63.9", "-66.1"])
def test_a_replaced_estimate_is_never_in_agreement(tmp_path, value):
    found = compared(tmp_path, [ROWS[0].replace("66.1", value, 1), *ROWS[1:]])
    assert found["verdict"] in ("apart", "changed") and "row 2, value" in found["finding"]


@pytest.mark.parametrize(
    "rows, finding",
    [
        ([ROWS[1], ROWS[0], ROWS[2]], "rows 2 and 3 are exchanged"),
        (ROWS[:2], r"row 4 \(random, maths, AUROC\) is missing"),
        ([*ROWS, ROWS[0]], "row 5 repeats row 2"),
        ([ROWS[0], ROWS[0], ROWS[2]], "row 3 repeats row 2"),
        ([ROWS[0].replace("66.1", "many"), *ROWS[1:]], "row 2, value: 'many' is no number"),
        (
            [
                ROWS[0].replace("66.1,64,68", "66.2,64.1,68.2"),
                ROWS[1].replace("66.2,64.1,68.2", "66.1,64,68"),
                ROWS[2],
            ],
            "the numbers of rows 2 and 3 are exchanged",
        ),
        ([ROWS[0].replace("66.1,64,68", "66.1,-1e9,1e9"), *ROWS[1:]], "row 2, value"),
        ([ROWS[0].replace("66.1,64,68", "69.5,67.5,71"), *ROWS[1:]], "row 2, value"),
    ],
)
def test_verify_names_the_row(tmp_path, rows, finding):
    found = compared(tmp_path, rows)
    assert found["verdict"] in ("other shape", "apart") and re.search(finding, found["finding"])


def test_a_table_that_cannot_be_read_does_not_hide_the_others(tmp_path):
    for side in ("old", "new"):
        write_text(tmp_path / side / "a.csv", "x\n1\n")
        write_text(tmp_path / side / "b.csv", f"x,y\n1,2\n3{',4' * (side == 'old')}\n")
    found = checks.compare_figures(tmp_path / "old", tmp_path / "new")
    assert found.verdict.tolist() == ["identical", "unreadable"] and "row 3" in found.finding[1]


# --------------------------------------------------------------- nothing outside, nothing of others


@pytest.mark.parametrize("name", ["../../thesis.txt", "{outside}", "link/thesis.txt"])
def test_a_manifest_deletes_nothing_outside_its_folder(project, tmp_path, name, capsys):
    thesis = tmp_path / "outside/thesis.txt"
    for path in (thesis, project / "thesis.txt"):
        write_text(path, "years of work")
    figures = project / "figures/smoke"
    (figures / "link").symlink_to(thesis.parent)
    entries = json.loads((figures / "manifest.json").read_text())["steps"]
    stolen = {name.format(outside=thesis): "0" * 64}
    entries["gone"] = {"notebook": "nbs/gone.ipynb", "key": "0" * 64, "files": stolen, "inputs": {}}
    write_text(figures / "manifest.json", store.build_manifest(entries, "smoke"))
    with pytest.raises(FileError, match="leads out"):
        store.Workspace(project, "smoke").manifest()
    run_module.run_pipeline(make_steps(), project, profile="smoke")
    assert thesis.exists() and (project / "thesis.txt").exists()
    said = capsys.readouterr().out
    assert "leads out" in said and "written anew" in said
    assert "gone" not in store.Workspace(project, "smoke").manifest()["steps"]


def test_the_users_hidden_files_stay_and_stop_nothing(project):
    figures = project / "figures/smoke"
    own = [
        figures / ".ipynb_checkpoints/count-checkpoint.csv",
        figures / ".DS_Store",
        figures / ".count.csv.swp",
        figures / "mine.txt",
    ]
    for path in own:
        write_text(path, "mine")
    left = figures / ".count.csv.0123abcd.csv"  # what a killed publication of ours leaves
    write_text(left, "half")
    assert run_steps(project) == ["cached"] * 3
    assert all(path.exists() for path in own) and not left.exists()


def test_a_folder_in_the_place_of_a_file_is_named(project):
    (project / "figures/smoke/count.csv").unlink()
    write_text(project / "figures/smoke/count.csv/mine.txt", "mine")
    with pytest.raises(notebooks.StepError, match="count.csv is a folder"):
        run_steps(project)
    assert (project / "figures/smoke/count.csv/mine.txt").exists()


def test_another_profiles_folder_is_refused(project):
    (project / "figures/embedded").symlink_to(project / "figures/smoke")
    with pytest.raises(CompanionError, match="are one folder"):
        run_module.run_pipeline(make_steps(), project, profile="embedded", quiet=True)


@pytest.mark.parametrize(
    "note, message",
    [
        ({"kept": ["../x"]}, "not the whole path"),
        ({"kept": "x"}, "kept"),
        ({"inputs": {"a": "guessed"}}, "'guessed'"),
        ({"inputs": []}, "inputs"),
        ({"input": {}}, "unknown field 'input'"),
        ([], "a list of 0"),
    ],
)
def test_provenance_is_checked(tmp_path, note, message):
    core.write_json(tmp_path / "provenance.json", note)
    with pytest.raises(notebooks.StepError, match=message):
        store.read_provenance(tmp_path / "provenance.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e["files"][0].update(filename="../../x.whl"),
        lambda e: e["files"][0].update(filename="/tmp/x.whl"),
        lambda e: e["gguf"].update(filename="../x.gguf"),
        lambda e: e.update(contents={"../x": "0" * 64}),
    ],
)
def test_an_assets_lock_leads_nowhere_else(tmp_path, change):
    lock = json.loads((core.project_root() / "data/assets.lock.json").read_text())
    change(lock["assets"]["gemma-3-270m"])
    core.write_json(tmp_path / "assets.lock.json", lock)
    with pytest.raises(LockFileError, match="leads out"):
        Lock.load(tmp_path / "assets.lock.json")


def test_an_asset_cannot_be_named_as_another_folder(tmp_path):
    lock = json.loads((core.project_root() / "data/assets.lock.json").read_text())
    core.write_json(
        tmp_path / "assets.lock.json",
        {"version": 1, "assets": {"../../x": lock["assets"]["bigbench"]}},
    )
    with pytest.raises(LockFileError, match="leads out"):
        Lock.load(tmp_path / "assets.lock.json")


# ------------------------------------------------------------------ keys

KEY = "sk-live-0123456789abcdef"


def test_line_ends_around_a_key_are_no_part_of_it(monkeypatch):
    monkeypatch.setenv("SOME_KEY", f" {KEY}\r\n")
    assert read_key("SOME_KEY") == KEY and read_key("NOT_SET") == ""


@pytest.mark.parametrize("bad", [f"{KEY}\r\n{KEY}", f"{KEY} {KEY}", f"{KEY}\u00e9x", f"{KEY}\x7fx"])
def test_a_broken_key_is_refused_and_never_shown(monkeypatch, bad, tmp_path):
    from routercompanion.agents.smolagents import EndpointAgentModel

    monkeypatch.setenv("ROUTERCOMPANION_API_KEY", bad)
    url = "http://me:secret-word@127.0.0.1:9/v1"
    with pytest.raises(EndpointError) as one:
        ChatEndpoint(url, "m", retries=0, cache=False).ask(["x"])
    with pytest.raises(EndpointError) as two:
        EndpointAgentModel(url, "m").generate(
            [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
        )
    for error in (one.value, two.value):
        while error:
            assert "0123456789" not in repr(error) and "secret-word" not in repr(error)
            error = error.__cause__
    assert (
        "ROUTERCOMPANION_API_KEY" in str(one.value)
        and shown_address(url) == "http://127.0.0.1:9/v1"
    )


def test_keys_stand_in_no_notebook_and_no_message(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", KEY)
    write_notebook(
        tmp_path / "nbs/one.ipynb",
        "import os\nprint(os.environ['SOME_API_KEY'])",
        "raise ValueError(dict(os.environ))",
    )
    write_notebook(
        tmp_path / "nbs/two.ipynb",
        "import os\nprint(os.environ['SOME_API_KEY'])\nos.environ['SOME_API_KEY']",
    )
    with pytest.raises(notebooks.StepError) as error:
        run_steps(tmp_path, [graph.Step("one", "nbs/one.ipynb", parameters=PAPER)])
    assert (
        KEY not in str(error.value)
        and "(SOME_API_KEY)" in str(error.value)
        and error.value.__cause__ is None
    )
    assert run_steps(tmp_path, [graph.Step("two", "nbs/two.ipynb", parameters=PAPER)]) == ["ran"]
    kept = [p for p in (tmp_path / ".routercompanion").rglob("*.ipynb")]
    assert len(kept) == 2 and not any(KEY in p.read_text() for p in kept)


# ------------------------------------------------------------------ the sandbox

ESCAPES = [
    "'{0.__globals__[inspect].os.environ}'.format(search)",
    "'{0.__globals__}'.format(search)",
    "'{0.__wrapped__.__globals__}'.format(search)",
    "'%s' % search.__class__",
    "'{x.__globals__[inspect].os.environ}'.format_map({'x': search})",
    "f'{search}'",
]


@pytest.mark.parametrize("code", ESCAPES)
def test_model_written_code_finds_no_key(monkeypatch, code):
    from smolagents.local_python_executor import InterpreterError
    from routercompanion.agents.sandbox import CleanExecutor

    monkeypatch.setenv("SOME_API_KEY", KEY)
    box = CleanExecutor(seconds=60)
    box.send_tools({"search": lambda query: f"passages about {query}"})
    try:
        assert KEY not in str(box(code))
    except InterpreterError as error:
        assert KEY not in str(error)
    assert box("search('Cuba')").output == "passages about Cuba"
    child = box._child.pid
    assert KEY.encode() not in Path(f"/proc/{child}/environ").read_bytes()
    box.cleanup()
    assert gone(child)


def test_code_that_thinks_too_long_is_stopped_and_the_next_runs():
    from smolagents.local_python_executor import InterpreterError
    from routercompanion.agents.sandbox import CleanExecutor

    box = CleanExecutor(seconds=60)
    assert box("1 + 1").output == "2"
    box.seconds = 0.5
    with pytest.raises(InterpreterError, match="took more than 0.5 s"):
        box("sum([i * j for i in range(10**4) for j in range(10**4)])")
    box.seconds = 60
    assert box("1 + 2").output == "3"
    box.cleanup()


# ------------------------------------------------------------------ signals, links, umask

ENDED = textwrap.dedent("""
    import sys
    sys.path.insert(0, {tests!r})
    import test_pipeline as t
    t.run(t.Path(sys.argv[1]), [t.graph.Step("a", "nbs/a.ipynb")])
""")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_and_its_kernel(tmp_path, number):
    write_notebook(
        tmp_path / "nbs/a.ipynb",
        "import os, time\nopen('a.tmp', 'w').write(str(os.getpid()))\n"
        "os.replace('a.tmp', 'a.pid')\ntime.sleep(600)",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", ENDED.format(tests=str(Path(__file__).parent)), str(tmp_path)],
        stderr=subprocess.DEVNULL,
        # under nohup these tests, and what they start, would ignore SIGHUP
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    end = time.monotonic() + 120
    while not (tmp_path / "a.pid").exists() and time.monotonic() < end:
        time.sleep(0.1)
    kernel = int((tmp_path / "a.pid").read_text())
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    end = time.monotonic() + 10
    while not gone(kernel) and time.monotonic() < end:
        time.sleep(0.1)
    assert gone(kernel)


def test_files_follow_links_and_umask(tmp_path):
    write_text(tmp_path / "disk/real.txt", "old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "disk/real.txt")
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "link.txt", "new")
        write_text(tmp_path / "own.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "link.txt").is_symlink() and (
        tmp_path / "disk/real.txt"
    ).read_text() == "new"
    assert (tmp_path / "own.txt").stat().st_mode & 0o777 == 0o600
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "link.txt") as tmp:
        assert tmp.parent == tmp_path / "disk"
        raise RuntimeError
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["real.txt"]


@pytest.mark.skipif(
    not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat("/tmp").st_dev,
    reason="needs a second disk",
)
def test_a_step_moves_to_another_disk(tmp_path):
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        (tmp_path / "done/inner").mkdir(parents=True)
        write_text(tmp_path / "done/inner/a.txt", "x")
        (tmp_path / "steps").symlink_to(other)
        for _ in range(2):
            (tmp_path / "again/inner").mkdir(parents=True)
            write_text(tmp_path / "again/inner/a.txt", "y")
            store.move_folder(tmp_path / "again", tmp_path / "steps/one")
        assert [p.name for p in Path(other).iterdir()] == ["one"] and (
            Path(other) / "one/inner/a.txt"
        ).read_text() == "y"


# ------------------------------------------------------------------ shared files


def test_two_processes_append_whole_lines(tmp_path):
    code = (
        "import sys\nfrom routercompanion.reproduce.run import append_line\n"
        "for i in range(200): append_line(sys.argv[1], sys.argv[2] * 300)"
    )
    (tmp_path / "run.jsonl").write_text('{"cut')
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run.jsonl"), letter])
        for letter in "ab"
    ]
    assert [w.wait() for w in writers] == [0, 0]
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    assert lines[0] == '{"cut' and sorted(lines[1:]) == ["a" * 300] * 200 + ["b" * 300] * 200


def test_two_profiles_build_the_book_one_after_the_other(project, monkeypatch):
    inside, most = [], []

    def pretend(source, ws):
        inside.append(ws.profile)
        most.append(len(inside))
        time.sleep(0.3)
        html = source.parent / "build/_build/html"
        write_text(html / "index.html", ws.profile)
        inside.remove(ws.profile)
        return html

    monkeypatch.setattr(book, "run_jupyter_book", pretend)
    places = [store.Workspace(project, name) for name in ("smoke", "embedded")]
    run_module.run_pipeline(make_steps(), project, profile="embedded", quiet=True)
    threads = [
        threading.Thread(target=book.build_book, args=(ws, make_steps()), kwargs=dict(quiet=True))
        for ws in places
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1] and (project / "_book/index.html").read_text() in ("smoke", "embedded")


# -------------------------------------------------------- HTML in data, formulas, links of the book


def test_html_and_links_in_data_are_shown_not_obeyed():
    import pandas as pd

    bad = [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        "a | b\r\nc",
        "p < .05 & more",
    ]
    text = table_markdown(
        pd.DataFrame({"prompt": bad, "x": [1.0] * 5}), caption="<b onclick=x>All</b>"
    )
    assert (
        not re.search(r"<[a-zA-Z/!]", text)
        and "](javascript" not in text
        and "p < .05 & more" in text
        and "a \\| b c" in text
    )
    assert (
        plain_markdown("see [a](figures/a.md), [b](https://example.org)")
        == "see [a](figures/a.md), [b](https://example.org)"
    )


def test_results_page_obeys_no_data(project):
    write_text(project / "figures/smoke/report.md", "<script>alert(1)</script> [x](javascript:1)\n")
    page = book.results_page(book.shelf_of(store.Workspace(project, "smoke")))
    assert "<script" not in page and "](javascript" not in page


@pytest.mark.parametrize(
    "path",
    sorted(core.project_root().glob("figures/*/*.md")),
    ids=lambda p: f"{p.parent.name}/{p.stem}",
)
def test_committed_tables_are_what_they_were(path):
    assert plain_markdown(path.read_text()) == path.read_text()


def texts(root):
    for path in sorted(root.glob("nbs/**/*.ipynb")):
        if ".ipynb_checkpoints" not in path.parts:
            for number, cell in enumerate(notebooks.read_notebook(path).cells):
                if cell.cell_type == "markdown":
                    yield path.relative_to(root), number, cell.source


def test_no_formula_has_doubled_backslashes():
    """Two backslashes before a letter break the line and print the word.

    Only rows of cases, aligned or a matrix end so.
    """
    rows = re.compile(
        r"\\begin\{(cases|aligned|align\*?|[bp]?matrix|array|split|gathered)\}.*?\\end\{\1\}", re.S
    )
    found = [
        (str(path), number)
        for path, number, text in texts(core.project_root())
        if re.search(r"\\\\[a-zA-Z]", rows.sub("", text))
    ]
    assert found == []


def test_links_of_the_books_sources_lead_somewhere(tmp_path):
    import posixpath

    root = core.project_root()
    steps = graph.project_steps(root)
    pages, dead, seen = {book.page_of(s.notebook) for s in steps}, [], 0
    for step in steps:
        here = posixpath.dirname(book.page_of(step.notebook))
        for cell in notebooks.read_notebook(root / step.notebook).cells:
            if cell.cell_type != "markdown":
                continue
            text = book._outside_code(
                lambda t: t, book.book_links(cell.source, step.notebook, pages, root, tmp_path)
            )
            for address in re.findall(
                r"\]\(([^()\s]+)\)|href=\"([^\"]+)\"",
                re.sub(r"```.*?```|`[^`\n]*`|\$[^$]*\$", "", text, flags=re.S),
            ):
                path = re.split("[#?]", "".join(address))[0]
                if not path or re.match("[a-z]+:", path):
                    continue
                seen += 1
                target = posixpath.normpath(posixpath.join(here, path))
                known = target.removesuffix(".ipynb") in pages or any(
                    (tmp_path / part / target).exists() for part in ("", "extra")
                )
                if not known:
                    dead.append((step.notebook, path))
    assert dead == [] and seen > 100


def test_the_book_has_no_dates_no_launcher_and_its_own_style():
    config = book.book_config("x")["sphinx"]["config"]
    assert config["html_last_updated_fmt"] is None and config["html_show_copyright"] is False
    assert "overflow-x: auto" in book.STYLE and "text-align: center" in book.STYLE
