"The repository itself: exports, settings, executed notebooks, README, lock, and the library notebooks as tests."

import configparser
import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from routercompanion.reproduce import book, graph, lint, notebooks, store
from routercompanion.reproduce.checks import read_lock
from routercompanion import core
from routercompanion.core import project_root

ROOT = project_root(Path(__file__).parent)
NOTEBOOKS = sorted(
    p
    for p in ROOT.glob("nbs/**/*.ipynb")
    if not any(part.startswith((".", "_")) for part in p.relative_to(ROOT).parts)
)
LIBRARY = [p for p in NOTEBOOKS if p.relative_to(ROOT / "nbs").parts[0] not in ("papers", "course")]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = ROOT / "data/environment.lock"
name_of = lambda p: p.relative_to(ROOT / "nbs").with_suffix("").as_posix()


def test_export_reproduces_the_library_byte_for_byte():
    assert lint.stale_modules(ROOT) == [], (
        "run `make export`, and never edit routercompanion/ by hand"
    )


def test_settings_and_pyproject_agree():
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini")
    settings, project, nbdev = parser["DEFAULT"], PYPROJECT["project"], PYPROJECT["tool"]["nbdev"]
    assert (
        settings["version"] == project["version"]
        and settings["description"] == project["description"]
    )
    assert (
        settings["lib_name"] == project["name"]
        and project["requires-python"] == f">={settings['min_python']}"
    )
    assert (
        sorted(settings["keywords"].split()) == sorted(project["keywords"])
        and settings["author"] == project["authors"][0]["name"]
    )
    assert re.sub(r"\W|20", "", settings["license"]).startswith(
        re.sub(r"\W|20", "", project["license"]).lower()[:6]
    )
    shared = set(settings) & set(nbdev)
    assert {
        "lib_name",
        "lib_path",
        "nbs_path",
        "doc_path",
        "recursive",
        "tst_flags",
        "branch",
        "put_version_in_init",
        "title",
        "copyright",
    } <= shared
    plain = lambda v: str(v).lower() if isinstance(v, bool) else str(v)
    differ = {
        k: (settings[k], nbdev[k]) for k in shared if settings[k].lower() != plain(nbdev[k]).lower()
    }
    assert differ == {}
    from routercompanion import __version__

    assert __version__ == project["version"] and nbdev["allowed_cell_metadata_keys"] == ["tags"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebook_is_committed_executed_and_clean(path):
    nb = notebooks.read_notebook(path)
    code = [c for c in nb.cells if c.cell_type == "code" and c.source.strip()]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1)), (
        "run `make notebooks`: this one was not executed top to bottom"
    )
    assert not [o.ename for c in code for o in c.outputs if o.output_type == "error"]
    assert all(set(c.metadata) <= {"tags"} for c in nb.cells) and set(nb.metadata) <= {"kernelspec"}
    assert not any("injected-parameters" in c.metadata.get("tags", []) for c in nb.cells), (
        "a run's own parameters do not belong in the repository"
    )
    said = "".join(
        str(
            {
                k: v
                for k, v in {**o, **o.get("data", {})}.items()
                if k not in ("data", "image/png", "image/svg+xml")
            }
        )
        for c in code
        for o in c.outputs
    )
    assert not re.search(r"/tmp/|/root/|/home/|/site-packages/|\.routercompanion/", said), (
        "paths of one machine"
    )
    assert not re.search(
        r"\d%\|.*(it/s|s/it)", "".join(o.get("text", "") for c in code for o in c.outputs)
    ), "a progress bar: its speed changes from run to run"


@pytest.mark.parametrize("step", [s for s in graph.project_steps(ROOT)], ids=lambda s: s.name)
def test_every_step_passes_its_preflight(step):
    notebooks.preflight(step, ROOT, step.parameters)


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in LIBRARY
        if p.stem != "index"
        and name_of(p)[0].isdigit()
        and "## Exercises" in p.read_text(encoding="utf-8")
    ],
    ids=name_of,
)
def test_library_notebook_is_a_lesson(path):
    cells = notebooks.read_notebook(path).cells
    first, last = (
        cells[0].source,
        "\n".join(c.source for c in cells[-4:] if c.cell_type == "markdown"),
    )
    assert first.startswith("# ") and re.search(r"^> ", first, re.M), "an H1, then a > subtitle"
    assert "## Exercises" in last and "<details><summary>Solutions</summary>" in last
    assert all(
        len(line) <= 200 for c in cells if c.cell_type == "code" for line in c.source.splitlines()
    )


@functools.cache
def to_run():
    return frozenset(store.lessons_to_run(ROOT))


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_library_notebook_runs(path, tmp_path):
    "The library notebooks are tests: each runs alone, in a fresh kernel, in its own small default profile; those that `make reproduce` ran with this code, a tenth."
    if name_of(path) not in to_run():
        pytest.skip(
            "ran with this very code: its key is in figures/embedded/manifest.json (ROUTERCOMPANION_ALL_LESSONS=1 runs it)"
        )
    notebooks.execute(
        path, tmp_path / "out.ipynb", {}, root=ROOT, state=tmp_path / "state", threads=1
    )


def test_readme_is_the_index_notebook():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == book.make_readme(ROOT), (
        "run `make readme`"
    )


def test_no_relative_imports_and_no_pickle():
    "Notebooks import by full name (nbdev-export makes that relative in the library), and nothing reads or writes a pickle (but for the allow-list reader of public files)."
    for path in NOTEBOOKS:
        code = "\n".join(notebooks.code_sources(path))
        assert not re.search(r"^\s*from \.", code, re.M), path
        assert not re.search(
            r"import pickle\b|^\s*from pickle import (?!Unpickler, UnpicklingError\b)|^\s*(import|from) (cloudpickle|dill)\b|\b(pd\.read_pickle|torch\.load|joblib\.load)\(|allow_pickle=True",
            code,
            re.M,
        ), path


def text_files():
    folders = ("nbs", "routercompanion", "tests", "data", ".ci")
    files = [
        p
        for f in folders
        for p in (ROOT / f).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    ] + [p for p in ROOT.iterdir() if p.is_file()]
    return [
        p
        for p in files
        if p.suffix
        in {".ipynb", ".py", ".md", ".csv", ".toml", ".ini", ".json", ".lock", ".cff", ""}
    ]


def test_no_package_registry_is_named():
    "Whoever installs this has an index of their own: no file names one."
    hosts = [
        ".".join(h)
        for h in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("anaconda", "org"),
            ("npmjs", "com"),
            ("crates", "io"),
        )
    ]
    found = {
        (p.relative_to(ROOT).as_posix(), h)
        for p in text_files()
        for h in hosts
        if h in p.read_text(encoding="utf-8", errors="ignore")
    }
    assert found == set()


# ---------------------------------------------------------------- the environment lock

canonical = lambda name: re.sub(r"[-_.]+", "-", name).lower()
NOT_LOCKED = {
    "pycosat",
    "routercompanion",
}  # pycosat needs a C compiler; the bank module stands in for it


def pins():
    return {canonical(k): v for k, v in read_lock(LOCK).items()}


def test_lock_satisfies_the_ranges_of_pyproject():
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = [
        *PYPROJECT["project"]["dependencies"],
        *(r for name in sorted(extras) for r in extras[name]),
        *PYPROJECT["build-system"]["requires"],
    ]
    locked = pins()
    for r in map(Requirement, wanted):
        assert canonical(r.name) in locked, f"{r.name} is not in the lock"
        assert r.specifier.contains(Version(locked[canonical(r.name)]).public, prereleases=True), (
            f"{r} but {locked[canonical(r.name)]}"
        )


def test_lock_is_closed_under_requirements():
    "Whatever a locked package requires on this platform is locked too, in a version that it accepts."
    locked, problems = pins(), []
    extras = {
        canonical(r.name): r.extras for r in map(Requirement, PYPROJECT["project"]["dependencies"])
    }
    for name in locked:
        for r in map(Requirement, importlib.metadata.requires(name) or []):
            if r.marker and not any(
                r.marker.evaluate({"extra": e}) for e in ("", *extras.get(name, ()))
            ):
                continue
            if canonical(r.name) in NOT_LOCKED:
                continue
            if canonical(r.name) not in locked:
                problems.append(f"{name} needs {r}, which is not locked")
            elif not r.specifier.contains(
                Version(locked[canonical(r.name)]).public, prereleases=True
            ):
                problems.append(f"{name} needs {r}, locked {locked[canonical(r.name)]}")
    assert problems == []


def test_installed_packages_are_those_of_the_lock():
    differ = {
        n: importlib.metadata.version(n)
        for n, v in pins().items()
        if Version(importlib.metadata.version(n)).public != Version(v).public
    }
    assert differ == {}


def test_make_refuses_another_python(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path / "Makefile")
    done = subprocess.run(
        ["make", "env", "PYTHON=false"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (
        done.returncode != 0
        and "is not Python 3.11" in done.stdout
        and not (tmp_path / ".venv").exists()
    )


def test_interrupted_installation_is_done_again(tmp_path):
    "The stamp is written last: with a pip that fails there is no stamp, and the next `make env` starts over."
    shutil.copy(ROOT / "Makefile", tmp_path / "Makefile")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/environment.lock").write_text("no-such-package-of-ours==0\n")
    (tmp_path / "pyproject.toml").write_text("")
    env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for _ in range(2):
        done = subprocess.run(
            ["make", "env", f"PYTHON={sys.executable}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=env,
        )
        assert (
            done.returncode != 0
            and "no-such-package-of-ours" in done.stdout + done.stderr
            and not (tmp_path / ".venv/.stamp").exists()
        )


def test_no_public_name_is_that_of_a_module_beside_it():
    "`from routercompanion.curation import x` must not mean a function once and, after the module x was imported, the module."
    package, clashes = ROOT / "routercompanion", []
    for path in sorted(package.rglob("[!_]*.py")):
        names = core.exported_names(path.parent) if path.parent != package else {}
        beside = {p.stem for p in path.parent.glob("[!_]*") if p.suffix == ".py" or p.is_dir()}
        clashes += [f"{path.parent.relative_to(ROOT)}: {name}" for name in names if name in beside]
    assert sorted(set(clashes)) == []


def test_every_module_that_tests_and_benchmarks_import_exists():
    "Programs that tests start in another process are texts: an import in them is looked at by nobody else."
    said = re.compile(r"from (routercompanion[\w.]*) import")
    asked = {
        (p.name, m)
        for p in (ROOT / "tests").rglob("*.py")
        for m in said.findall(p.read_text(encoding="utf-8"))
    }
    missing = [(name, m) for name, m in sorted(asked) if not _module_exists(m)]
    # what tests write into a copy first
    assert not [
        m
        for m in missing
        if not m[1].startswith(("routercompanion.low", "routercompanion.routers.difficulty.my_"))
    ]


def _module_exists(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_no_stored_output_names_a_file_of_one_machine():
    "A warning that was printed where the notebook was executed says the path of that checkout."
    place = re.compile(r"(?m)^\s*(?:/[\w.-]+)+\.py:\d+")
    found = [
        str(p.relative_to(ROOT))
        for p in sorted((ROOT / "nbs").rglob("*.ipynb"))
        for text in _stored_texts(p)
        if place.search(text)
    ]
    assert not found


def test_outputs_name_files_from_the_checkout():
    warning = f"{ROOT}/routercompanion/core.py:3: Warning: x"
    package = f"{Path(pytest.__file__).parents[1]}/numpy/x.py:1: y"
    output = {"output_type": "stream", "name": "stderr", "text": f"{warning}\n{package}\n"}
    told = notebooks.tidy_output(output)["text"]
    assert told == "routercompanion/core.py:3: Warning: x\nnumpy/x.py:1: y\n"


def _stored_texts(path):
    for cell in notebooks.read_notebook(path)["cells"]:
        for output in cell.get("outputs", []):
            yield "".join(output.get("text", "")) + "".join(
                output.get("data", {}).get("text/plain", "")
            )
