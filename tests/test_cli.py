"The command line: help, errors without tracebacks, exit status, comparison of tables, routing of one's own prompts."
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from routercompanion.reproduce import checks, cli, notebooks
from routercompanion.core import CompanionError, project_root

COMMANDS = ["reproduce", "items", "assets", "verify", "route", "doctor", "notebooks", "readme"]


def call(*args): return CliRunner().invoke(cli.app, list(args), catch_exceptions=False)


def program(*args, stdin=None):
    "Run the installed program; (exit status, standard output, standard error)."
    done = subprocess.run([sys.executable, "-c", "from routercompanion.reproduce.cli import main; main()", *args], capture_output=True, text=True, input=stdin, cwd=project_root())
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command):
    assert command in call("--help").output
    shown = call(command, "--help")
    assert shown.exit_code == 0 and "Usage:" in shown.output


@pytest.mark.parametrize("args, words", [
    (["reproduce", "--profile", "huge"], "Unknown profile 'huge'. Known: bench, embedded, paper, smoke."),
    (["reproduce", "--only", "xbench_table99"], "Unknown item or step 'xbench_table99'"),
    (["reproduce", "--only", "survey_table1"], "has no notebook yet"),
    (["items", "--paper", "nobody"], "Unknown paper 'nobody'"),
    (["assets", "steal"], "Known: fetch, list, verify"),
    (["route", "nowhere.csv", "--router", "/nonexistent"], "No router in /nonexistent"),
    (["verify", "--profile", "paper"], "does not exist. Run `routercompanion reproduce"),
])
def test_repairable_mistakes_are_one_line_and_exit_2(args, words):
    status, out, err = program(*args)
    assert status == 2 and words in err and "Traceback" not in err and len(err.strip().splitlines()) == 1


def test_failed_notebook_exits_1(monkeypatch, capsys):
    def broken(**_): raise notebooks.StepError("nbs/x.ipynb: cell In [3] raised ZeroDivisionError")
    monkeypatch.setattr(cli, "reproduce", broken)
    with pytest.raises(SystemExit) as e: cli.main(["reproduce"])
    assert e.value.code == 1 and "In [3]" in capsys.readouterr().err


def test_items_lists_five_papers():
    table = pd.read_csv(io.StringIO(call("items", "--csv").output))
    assert table["paper"].nunique() == 5 and table["id"].is_unique
    assert set(table["status"]) <= {"reproduced", "analogue", "not possible here", "planned"} and set(table["state"]) <= {"present", "stale", "missing"}
    assert "xbench_table1" in call("items").output


# ---------------------------------------------------------------- verify

def table(path, rows, header="row,column,metric,value,low,high,n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize("row, verdict", [
    ("probe,maths,AUROC,66.1,64,68,1000", "identical"), ("probe,maths,AUROC,66.1000000001,64,68,1000", "equal"),
    ("probe,maths,AUROC,66.9,64.5,68.5,1000", "overlap"), ("probe,maths,AUROC,75,70,80,1000", "apart"),
    ("probe,maths,AUROC,66.1,64,68,999", "changed"), ("mean,maths,AUROC,66.1,64,68,1000", "other shape"),
    ("probe,maths,AUROC,,,,1000", "changed")])
def test_verdicts(tmp_path, row, verdict):
    old = table(tmp_path / "old.csv", ["probe,maths,AUROC,66.1,64,68,1000"])
    assert checks.compare_tables(old, table(tmp_path / "new.csv", [row]))["verdict"] == verdict


def test_more_rows_or_columns_are_another_shape(tmp_path):
    row = "probe,maths,AUROC,66.1,64,68,1000"
    old = table(tmp_path / "old.csv", [row])
    assert checks.compare_tables(old, table(tmp_path / "a.csv", [row, row]))["verdict"] == "other shape"
    assert checks.compare_tables(old, table(tmp_path / "b.csv", [row + ",1"], "row,column,metric,value,low,high,n,x"))["verdict"] == "other shape"


@pytest.fixture
def results(tmp_path, monkeypatch):
    "A project in git with one committed table."
    (tmp_path / "nbs").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    table(tmp_path / "figures/smoke/xbench_table1.csv", ["probe,maths,AUROC,66.1,64,68,1000"])
    git = lambda *a: subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *a], cwd=tmp_path, check=True, capture_output=True)
    git("init", "-q"); git("add", "."); git("commit", "-qm", "x")
    monkeypatch.setenv("ROUTERCOMPANION_ROOT", str(tmp_path))
    return tmp_path


def test_verify_reads_the_committed_tables_from_git(results):
    shown = call("verify", "-p", "smoke")
    assert shown.exit_code == 0 and "All tables agree." in shown.output
    path = table(results / "figures/smoke/xbench_table1.csv", ["probe,maths,AUROC,66.5,64,68,1000"])
    assert call("verify", "-p", "smoke").exit_code == 0 and call("verify", "-p", "smoke", "--strict").exit_code == 1
    table(path, ["probe,maths,AUROC,80,75,85,1000"])
    shown = call("verify", "-p", "smoke")
    assert shown.exit_code == 1 and "xbench_table1.csv" in shown.output and "apart" in shown.output
    path.unlink()
    assert call("verify", "-p", "smoke").exit_code == 1


def test_verify_against_a_folder_and_flip_rate(results):
    table(results / "old/xbench_table1.csv", ["probe,maths,AUROC,66.1,64,68,1000"])
    table(results / "figures/smoke/bank_recheck.csv", ["smollm2,960,6,.00625,.002,.013"], "model,n,flips,rate,rate_low,rate_high")
    shown = call("verify", "-p", "smoke", "--against", str(results / "old"))
    assert shown.exit_code == 0 and "0.62%" in shown.output and "added" in shown.output
    with pytest.raises(CompanionError, match="no such folder"): call("verify", "-p", "smoke", "--against", str(results / "nowhere"))


# ---------------------------------------------------------------- route

class Length:
    feature_kind, threshold_ = "text", 12.
    def decision_function(self, X): return np.array([len(x) for x in X], float)


@pytest.mark.parametrize("name, text, prompts", [
    ("a.csv", 'id,prompt\n1,"short, yes"\n2,a much longer prompt\n', ["short, yes", "a much longer prompt"]),
    ("a.txt", "short\n\na much longer prompt\n", ["short", "a much longer prompt"]),
    ("bom.csv", "\ufeffprompt\nshort\na much longer prompt\n", ["short", "a much longer prompt"])])
def test_prompts_are_read_and_routed(tmp_path, name, text, prompts):
    (tmp_path / name).write_text(text, encoding="utf-8")
    routed = cli.route_prompts(Length(), cli.read_prompts(tmp_path / name))
    assert routed.prompt.tolist() == prompts and routed.decision.tolist() == ["small", "large"] and routed.score.tolist() == [len(p) for p in prompts]


def test_score_at_the_threshold_goes_to_the_large_model():
    assert cli.route_prompts(Length(), pd.DataFrame({"prompt": ["x" * 12]})).decision.tolist() == ["large"]


@pytest.mark.parametrize("text, words", [
    ("prompt,task\nWhat is 2 + 2, please?,sums\n", "row 2: 3 cells, but the header has 2"), ("question\nx\n", "no column 'prompt'"),
    ("prompt,task\nx,a\n,b\n", "data row 2 is empty"), ("prompt\n", "no prompts"), ("", "no column 'prompt'")])
def test_bad_prompt_files(tmp_path, text, words):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(CompanionError, match=words): cli.read_prompts(tmp_path / "bad.csv")


def test_route_without_threshold_task_or_with_an_oracle():
    prompts = pd.DataFrame({"prompt": ["x"]})
    with pytest.raises(CompanionError, match="no threshold"): cli.route_prompts(SimpleNamespace(feature_kind="text", decision_function=len_all), prompts)
    with pytest.raises(CompanionError, match="column 'task'"): cli.route_prompts(SimpleNamespace(feature_kind="task"), prompts)
    with pytest.raises(CompanionError, match="oracle"): cli.route_prompts(SimpleNamespace(feature_kind="outcomes"), prompts)


def len_all(X): return [len(x) for x in X]


def test_route_a_saved_router_from_standard_input(tmp_path):
    from routercompanion.routers.baselines import PromptLength
    from routercompanion.routers.registry import save_router
    texts, rng = np.array(["x" * n for n in range(1, 81)]), np.random.default_rng(0)
    small = (rng.random(80) > np.arange(80) / 80).astype(float)
    outcomes = np.column_stack([small, np.ones(80)])
    fitted = PromptLength().fit(texts, outcomes).choose_threshold(texts, outcomes, call_rate=.5)
    save_router(fitted, tmp_path / "router")
    status, out, err = program("route", "--router", str(tmp_path / "router"), "-", stdin="short\n" + "long " * 40 + "\n")
    assert status == 0, err
    routed = pd.read_csv(io.StringIO(out))
    assert routed.decision.tolist() == ["small", "large"] and list(routed.columns) == ["prompt", "score", "decision"]


# ---------------------------------------------------------------- doctor

def test_doctor_finds_a_wrong_package(tmp_path):
    import importlib.metadata
    lock = tmp_path / "environment.lock"
    lock.write_text(f"# comment\nnumpy=={importlib.metadata.version('numpy')}\n")
    assert checks.check_packages(lock)[0] == "ok"
    lock.write_text("numpy==0.0.1\nno-such-package-here==1\n")
    state, text, remedy = checks.check_packages(lock)
    assert state == "problem" and "lock 0.0.1" in text and "no-such-package-here is missing" in text and "make env" in remedy
    assert checks.check_packages(tmp_path / "none")[0] == "problem"


def test_doctor_table_and_status():
    shown = call("doctor")
    found = checks.examine()
    assert {"python", "packages", "bfloat16", "memory", "disk", "cache", "assets"} <= set(found.check)
    assert shown.exit_code == int((found.state == "problem").any()) and all(c in shown.output for c in found.check)


def test_unwritable_folder_is_a_problem(monkeypatch, tmp_path):
    def refuse(**_): raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refuse)
    state, text, remedy = checks.check_writable(tmp_path / "not/yet")
    assert state == "problem" and "Permission denied" in text and "ROUTERCOMPANION_CACHE" in remedy


# ---------------------------------------------------------------- notebooks and readme, a full disk

def test_notebooks_writes_the_readme_and_readme_checks_it(results, monkeypatch):
    import nbformat
    cells = [nbformat.v4.new_markdown_cell("# Front page"), nbformat.v4.new_code_cell("secret = 1", metadata={"tags": ["hide"]})]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), results / "nbs/index.ipynb")
    monkeypatch.setattr(cli, "commit_notebooks", lambda **_: ["nbs/index.ipynb"])
    assert call("readme", "--check").exit_code == 1 and not (results / "README.md").exists()
    assert call("notebooks").exit_code == 0 and (results / "README.md").read_text() == "# Front page\n"
    assert call("readme", "--check").exit_code == 0


def test_full_disk_is_said_in_one_line(monkeypatch, capsys):
    def full(**_): raise OSError(28, "No space left on device", "/x/y")
    monkeypatch.setattr(cli, "reproduce", full)
    with pytest.raises(SystemExit) as e: cli.main(["reproduce"])
    assert e.value.code == 1 and "disk is full (/x/y)" in capsys.readouterr().err
