"The command line: help, errors without tracebacks, exit status, comparison of tables, routing of one's own prompts."

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from routercompanion.reproduce import checks, cli, notebooks, run
from routercompanion.core import CompanionError, project_root

COMMANDS = [
    "reproduce",
    "items",
    "assets",
    "verify",
    "route",
    "routers",
    "doctor",
    "notebooks",
    "readme",
]


def call(*args):
    return CliRunner().invoke(cli.app, list(args), catch_exceptions=False)


def program(*args, stdin=None):
    "Run the installed program; (exit status, standard output, standard error)."
    done = subprocess.run(
        [sys.executable, "-c", "from routercompanion.reproduce.cli import main; main()", *args],
        capture_output=True,
        text=True,
        input=stdin,
        cwd=project_root(),
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command):
    assert command in call("--help").output
    shown = call(command, "--help")
    assert shown.exit_code == 0 and "Usage:" in shown.output


@pytest.mark.parametrize(
    "args, words",
    [
        (
            ["reproduce", "--profile", "huge"],
            "Unknown profile 'huge'. Known: bench, embedded, paper, smoke.",
        ),
        (["reproduce", "--only", "xbench_table99"], "Unknown item or step 'xbench_table99'"),
        (["reproduce", "--only", "survey_figure1"], "has no notebook yet"),
        (["items", "--paper", "nobody"], "Unknown paper 'nobody'"),
        (["assets", "steal"], "Known: fetch, list, verify"),
        (["route", "nowhere.csv", "--router", "/nonexistent"], "No router in /nonexistent"),
        (["verify", "--profile", "paper"], "does not exist. Run `routercompanion reproduce"),
    ],
)
def test_repairable_mistakes_are_one_line_and_exit_2(args, words):
    status, out, err = program(*args)
    assert (
        status == 2
        and words in err
        and "Traceback" not in err
        and len(err.strip().splitlines()) == 1
    )


def test_failed_notebook_exits_1(monkeypatch, capsys):
    def broken(**_):
        raise notebooks.StepError("nbs/x.ipynb: cell In [3] raised ZeroDivisionError")

    monkeypatch.setattr(run, "reproduce", broken)
    with pytest.raises(SystemExit) as e:
        cli.main(["reproduce"])
    assert e.value.code == 1 and "In [3]" in capsys.readouterr().err


def test_items_lists_five_papers():
    table = pd.read_csv(io.StringIO(call("items", "--csv").output))
    assert table["paper"].nunique() == 5 and table["id"].is_unique
    assert set(table["status"]) <= {
        "reproduced",
        "same data",
        "analogue",
        "not possible here",
        "planned",
    } and set(table["state"]) <= {"present", "stale", "missing"}
    assert "xbench_table1" in call("items").output


# ---------------------------------------------------------------- verify


def table(path, rows, header="row,column,metric,value,low,high,n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    "row, verdict",
    [
        ("probe,maths,AUROC,66.1,64,68,1000", "identical"),
        ("probe,maths,AUROC,66.1000000001,64,68,1000", "equal"),
        ("probe,maths,AUROC,66.9,64.5,68.5,1000", "overlap"),
        ("probe,maths,AUROC,75,70,80,1000", "apart"),
        ("probe,maths,AUROC,66.1,64,68,999", "changed"),
        ("mean,maths,AUROC,66.1,64,68,1000", "other shape"),
        ("probe,maths,AUROC,,,,1000", "changed"),
    ],
)
def test_verdicts(tmp_path, row, verdict):
    old = table(tmp_path / "old.csv", ["probe,maths,AUROC,66.1,64,68,1000"])
    assert checks.compare_tables(old, table(tmp_path / "new.csv", [row]))["verdict"] == verdict


def test_more_rows_or_columns_are_another_shape(tmp_path):
    row = "probe,maths,AUROC,66.1,64,68,1000"
    old = table(tmp_path / "old.csv", [row])
    assert (
        checks.compare_tables(old, table(tmp_path / "a.csv", [row, row]))["verdict"]
        == "other shape"
    )
    assert (
        checks.compare_tables(
            old, table(tmp_path / "b.csv", [row + ",1"], "row,column,metric,value,low,high,n,x")
        )["verdict"]
        == "other shape"
    )


@pytest.fixture
def results(tmp_path, monkeypatch):
    "A project in git with one committed table."
    (tmp_path / "nbs").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    table(tmp_path / "figures/smoke/xbench_table1.csv", ["probe,maths,AUROC,66.1,64,68,1000"])
    git = lambda *a: subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *a],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "x")
    monkeypatch.setenv("ROUTERCOMPANION_ROOT", str(tmp_path))
    return tmp_path


def test_verify_reads_the_committed_tables_from_git(results):
    shown = call("verify", "-p", "smoke")
    assert shown.exit_code == 0 and "All tables agree." in shown.output
    path = table(results / "figures/smoke/xbench_table1.csv", ["probe,maths,AUROC,66.5,64,68,1000"])
    assert (
        call("verify", "-p", "smoke").exit_code == 0
        and call("verify", "-p", "smoke", "--strict").exit_code == 1
    )
    table(path, ["probe,maths,AUROC,80,75,85,1000"])
    shown = call("verify", "-p", "smoke")
    assert shown.exit_code == 1 and "xbench_table1.csv" in shown.output and "apart" in shown.output
    path.unlink()
    assert call("verify", "-p", "smoke").exit_code == 1


def test_verify_against_a_folder_and_flip_rate(results):
    table(results / "old/xbench_table1.csv", ["probe,maths,AUROC,66.1,64,68,1000"])
    table(
        results / "figures/smoke/bank_recheck.csv",
        ["smollm2,960,6,.00625,.002,.013"],
        "model,n,flips,rate,rate_low,rate_high",
    )
    shown = call("verify", "-p", "smoke", "--against", str(results / "old"))
    assert shown.exit_code == 0 and "0.62%" in shown.output and "added" in shown.output
    with pytest.raises(CompanionError, match="no such folder"):
        call("verify", "-p", "smoke", "--against", str(results / "nowhere"))


# ---------------------------------------------------------------- route


class Length:
    feature_kind, threshold_ = "text", 12.0

    def decision_function(self, X):
        return np.array([len(x) for x in X], float)


@pytest.mark.parametrize(
    "name, text, prompts",
    [
        (
            "a.csv",
            'id,prompt\n1,"short, yes"\n2,a much longer prompt\n',
            ["short, yes", "a much longer prompt"],
        ),
        ("a.txt", "short\n\na much longer prompt\n", ["short", "a much longer prompt"]),
        (
            "bom.csv",
            "\ufeffprompt\nshort\na much longer prompt\n",
            ["short", "a much longer prompt"],
        ),
    ],
)
def test_prompts_are_read_and_routed(tmp_path, name, text, prompts):
    (tmp_path / name).write_text(text, encoding="utf-8")
    routed = cli.route_prompts(Length(), cli.prompt_table(tmp_path / name))
    assert (
        routed.prompt.tolist() == prompts
        and routed.decision.tolist() == ["small", "large"]
        and routed.score.tolist() == [len(p) for p in prompts]
    )


def test_score_at_the_threshold_goes_to_the_large_model():
    assert cli.route_prompts(Length(), pd.DataFrame({"prompt": ["x" * 12]})).decision.tolist() == [
        "large"
    ]


@pytest.mark.parametrize(
    "text, words",
    [
        ("prompt,task\nWhat is 2 + 2, please?,sums\n", "row 2: 3 fields where the header has 2"),
        ("question\nx\n", "no column 'prompt'"),
        ("prompt,task\nx,a\n,b\n", "row 3, column 'prompt': the prompt is empty"),
        ("prompt\n", "no rows"),
        ("", "the file is empty"),
    ],
)
def test_bad_prompt_files(tmp_path, text, words):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(CompanionError, match=words):
        cli.prompt_table(tmp_path / "bad.csv")


def test_route_without_threshold_task_or_with_an_oracle():
    prompts = pd.DataFrame({"prompt": ["x"]})
    with pytest.raises(CompanionError, match="no threshold"):
        cli.route_prompts(SimpleNamespace(feature_kind="text", decision_function=len_all), prompts)
    with pytest.raises(CompanionError, match="column 'task'"):
        cli.route_prompts(SimpleNamespace(feature_kind="task"), prompts)
    with pytest.raises(CompanionError, match="oracle"):
        cli.route_prompts(SimpleNamespace(feature_kind="outcomes"), prompts)


def len_all(X):
    return [len(x) for x in X]


def saved_by_length(folder):
    "The folder of a router by length whose threshold is 41 letters."
    from routercompanion.routers.baselines import PromptLength
    from routercompanion.routers.registry import save_router

    texts, rng = np.array(["x" * n for n in range(1, 81)]), np.random.default_rng(0)
    small = (rng.random(80) > np.arange(80) / 80).astype(float)
    outcomes = np.column_stack([small, np.ones(80)])
    fitted = PromptLength().fit(texts, outcomes).choose_threshold(texts, outcomes, call_rate=0.5)
    return str(save_router(fitted, folder))


def test_route_a_saved_router_from_standard_input(tmp_path):
    router = saved_by_length(tmp_path / "router")
    status, out, err = program(
        "route", "--router", router, "-", stdin="short\n" + "long " * 40 + "\n"
    )
    assert status == 0, err
    routed = pd.read_csv(io.StringIO(out))
    assert routed.decision.tolist() == ["small", "large"] and list(routed.columns) == [
        "prompt",
        "score",
        "decision",
    ]


@pytest.fixture(scope="module")
def by_length(tmp_path_factory):
    return saved_by_length(tmp_path_factory.mktemp("saved") / "router")


def routed_file(router, path, content, *options):
    path.write_text(content, encoding="utf-8", newline="")
    return call("route", "--router", router, str(path), *options).stdout


HUGE = "long " * 40_000


@pytest.mark.parametrize(
    "name, text, prompts",
    [
        ("p.csv", f'prompt\n"{HUGE}"\nshort\n', [HUGE, "short"]),
        ("p.txt", f"{HUGE}\nshort\n", [HUGE, "short"]),
        (
            "p.txt",
            "a half\u2028and\x0cthe rest\x85\nWhat is a hen?\n",
            ["a half\u2028and\x0cthe rest\x85", "What is a hen?"],
        ),
        (
            "p.txt",
            "prompt, please: list the planets\nsecond, line\n",
            ["prompt, please: list the planets", "second, line"],
        ),
        ("p.json", '["one", "two"]', ["one", "two"]),
    ],
)
def test_route_takes_each_prompt_whole(tmp_path, by_length, name, text, prompts):
    out = routed_file(by_length, tmp_path / name, text)
    assert pd.read_csv(io.StringIO(out)).prompt.tolist() == prompts


@pytest.mark.parametrize(
    "name, text, out",
    [
        (
            "p.csv",
            "id,prompt,score,decision\n07,Hi,0.93,human said large\n",
            "id,prompt,input_score,input_decision,score,decision\n07,Hi,0.93,human said large,",
        ),
        (
            "p.jsonl",
            '{"n": 1, "prompt": "Hi", "tags": ["a"]}\n{"prompt": "Ho", "n": null}\n',
            'n,prompt,tags,score,decision\n1,Hi,"[""a""]",',
        ),
    ],
)
def test_route_keeps_the_columns_of_the_file(tmp_path, by_length, name, text, out):
    assert routed_file(by_length, tmp_path / name, text).startswith(out)


def test_route_reads_parquet_and_refuses_a_column_that_stands_twice(tmp_path, by_length):
    pd.DataFrame({"prompt": ["Hi"], "n": [3]}).to_parquet(tmp_path / "p.parquet")
    out = call("route", "--router", by_length, str(tmp_path / "p.parquet")).stdout
    assert out.startswith("prompt,n,score,decision\nHi,3,")
    with pytest.raises(CompanionError, match="row 1, column 'prompt': a column name .* twice"):
        routed_file(by_length, tmp_path / "p.csv", "prompt,prompt\na,b\n")


def test_the_kind_of_standard_input_can_be_given(by_length):
    text = "prompt,task\na,b\n"
    rows = []
    for options in ([], ["--kind", "csv"], ["--kind", "text"]):
        status, out, err = program("route", "--router", by_length, "-", *options, stdin=text)
        assert status == 0, err
        rows.append(len(out.splitlines()) - 1)
    assert rows == [1, 1, 2]
    status, out, err = program("route", "--router", by_length, "-", "--kind", "cvs", stdin=text)
    assert status == 2 and "Unknown kind of file 'cvs'" in err and len(err.splitlines()) == 1


def test_a_router_of_tasks_names_the_row_without_one(tmp_path):
    table = tmp_path / "p.jsonl"
    table.write_text('{"prompt": "a", "task": "sums"}\n{"prompt": "b", "task": null}\n')
    of_tasks = SimpleNamespace(feature_kind="task", threshold_=0.0, decision_function=len_all)
    with pytest.raises(CompanionError, match="p.jsonl, row 2, column 'task': null where a text"):
        cli.route_prompts(of_tasks, cli.prompt_table(table))
    table.write_text('{"prompt": "a", "task": "sums"}\n')
    assert cli.route_prompts(of_tasks, cli.prompt_table(table)).score.tolist() == [4]


@pytest.mark.parametrize(
    "encoding, shown",
    [("latin-1", b"price \\u20ac5 caf\xe9"), ("ascii", "price \u20ac5 caf\u00e9".encode())],
)
def test_a_terminal_that_lacks_a_sign_does_not_end_route(tmp_path, by_length, encoding, shown):
    (tmp_path / "euro.txt").write_text("price \u20ac5 caf\u00e9\n", encoding="utf-8")
    command = "from routercompanion.reproduce.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "route", "--router", by_length, str(tmp_path / "euro.txt")],
        capture_output=True,
        cwd=project_root(),
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0 and done.stdout.splitlines()[1].startswith(shown), done.stderr


ENDED = """import sys, time
from routercompanion.assets import store
from routercompanion.reproduce.cli import main

class Slow:
    def read(self):
        print("ready", flush=True)
        time.sleep(60)

store.fetch = lambda names: Slow().read()
sys.stdin = Slow()
main()"""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs the signals of POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("command", ["assets", "route"])
def test_a_signal_ends_a_command_with_one_line(by_length, command, name):
    number = getattr(signal, name)
    args = ["assets", "fetch"] if command == "assets" else ["route", "--router", by_length, "-"]
    process = subprocess.Popen(
        [sys.executable, "-c", ENDED, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=project_root(),
        preexec_fn=lambda: [signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, number)],
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    said = "Ctrl-C" if name == "SIGINT" else name
    assert (process.returncode, out) == (
        128 + number,
        "",
    ) and err == f"Ended by {said}. Run the command again.\n"


def pool_of_three(n=60):
    "Texts and the outcomes of three models of rising cost, of which the dearest alone answers long prompts."
    texts = np.array(["x" * (1 + i) for i in range(n)])
    score = np.column_stack([np.arange(n) < n / 2, np.arange(n) < n / 2, np.ones(n)]).astype(float)
    return texts, SimpleNamespace(
        score=score,
        models=["tiny", "middle", "huge"],
        cost={"usd": np.tile([1.0, 2, 4], (n, 1))},
        query_ids=texts,
    )


def routed_by(router, folder, stdin, *options):
    from routercompanion.routers.registry import save_router

    status, out, err = program(
        "route", "--router", str(save_router(router, folder)), "-", *options, stdin=stdin
    )
    assert status == 0, err
    return pd.read_csv(io.StringIO(out))


def test_route_a_saved_pool_router_in_a_new_process(tmp_path):
    from routercompanion.routers.baselines import HeuristicRouter

    texts, outcomes = pool_of_three()
    routed = routed_by(
        HeuristicRouter().fit(texts, outcomes), tmp_path / "pool", "prompt,id\nshort,7\nlonger,8\n"
    )
    assert list(routed.columns) == ["prompt", "id", "choice", "model", "quality"]
    assert (
        routed.choice.tolist() == [2, 2]
        and routed.model.tolist() == ["huge"] * 2
        and routed.quality.tolist() == [1, 1]
    )
    cheap = routed_by(
        HeuristicRouter().fit(texts, outcomes), tmp_path / "again", "short\n", "--trade-off", "2"
    )
    assert cheap.model.tolist() == ["tiny"] and cheap.quality.tolist() == [0.5]


@pytest.mark.parametrize("trade_off", [0.0, 0.3, 0.6, 5.0])
def test_pool_columns_are_those_of_route(trade_off):
    from routercompanion.routers.clustering.neighbours import KNNRouter

    texts, outcomes = pool_of_three()
    X = np.column_stack([[len(t) for t in texts], np.ones(len(texts))]).astype(np.float32)
    router = KNNRouter(k=5, metric="l2").fit(X, outcomes)
    router.feature_kind, router.feature_shape_ = "text", []
    router.predict_quality = lambda seen: router._predict(
        np.array([[len(t), 1] for t in seen], np.float32)
    )
    routed = cli.route_prompts(router, pd.DataFrame({"prompt": texts[::7]}), trade_off)
    quality = router.predict_quality(texts[::7])
    best = (quality - trade_off * np.array([1, 2, 4]) / 4).argmax(1)
    assert routed.choice.tolist() == best.tolist() and routed.model.tolist() == [
        outcomes.models[b] for b in best
    ]
    assert np.array_equal(routed.quality, quality[np.arange(len(best)), best])


def test_an_online_router_routes_after_fit(tmp_path):
    from routercompanion.routers.bandits.thompson import ThompsonRouter

    texts, outcomes = pool_of_three()
    fitted = ThompsonRouter().fit(texts, outcomes)
    routed = routed_by(fitted, tmp_path / "bandit", "\n".join(texts[:5]) + "\n")
    assert routed.choice.tolist() == fitted.route(texts[:5]).tolist()


def test_what_cannot_be_routed_is_said():
    prompts = pd.DataFrame({"prompt": ["x"]})

    class Cascade:
        def act(self, X, seen):
            return np.zeros(len(X), int)

    with pytest.raises(
        CompanionError, match="Cascade asks models one after another .* cannot route prompts alone"
    ):
        cli.route_prompts(Cascade(), prompts)
    with pytest.raises(CompanionError, match="reads the small model's own answers"):
        cli.route_prompts(SimpleNamespace(feature_kind="answers"), prompts)
    with pytest.raises(CompanionError, match="--trade-off is for pools"):
        cli.route_prompts(Length(), prompts, 0.5)
    assert program("route", "-", "--trade-off", "-1", stdin="x\n")[0] == 2


@pytest.mark.model
def test_route_by_the_encoder_end_to_end(tmp_path):
    "A saved nearest-neighbour router of MiniLM vectors, and the same choice as in this process."
    from routercompanion.assets.store import asset_status

    status = asset_status().set_index("name").cached
    if not status.get("minilm-l6-v2", False):
        pytest.skip("MiniLM is not in the cache")
    from routercompanion.models.features import load_encoder
    from routercompanion.routers.clustering.neighbours import KNNRouter

    sums, words = (
        [f"What is {i} + {i}?" for i in range(20)],
        [f"Name a town that begins with {c}." for c in "abcdefghijklmnopqrst"],
    )
    outcomes = SimpleNamespace(
        score=np.repeat([[1.0, 0], [0, 1]], 20, axis=0),
        models=["adder", "namer"],
        cost=None,
        query_ids=None,
    )
    router = KNNRouter(k=3).fit(load_encoder("minilm-l6-v2").encode(sums + words), outcomes)
    routed = routed_by(
        router, tmp_path / "neighbours", "What is 7 + 9?\nName a town that begins with z.\n"
    )
    assert routed.model.tolist() == ["adder", "namer"] and (routed.quality == 1).all()


# ---------------------------------------------------------------- routers, and a quick start


def test_routers_lists_all_of_them():
    table = pd.read_csv(io.StringIO(call("routers", "--csv").output))
    assert {"KNNRouter", "DirichletProbe", "ThompsonRouter", "AnswerEntropy"} <= set(
        table.name
    ) and table.name.is_unique
    assert "KNNRouter" in call("routers").output


@pytest.mark.parametrize(
    "code, absent",
    [
        (
            "from routercompanion.reproduce.cli import main; import sys\ntry: main(['--help'])\nexcept SystemExit: pass",
            [
                "pandas",
                "nbformat",
                "papermill",
                "nbconvert",
                "scipy",
                "sklearn",
                "torch",
                "transformers",
                "faiss",
                "matplotlib",
            ],
        ),
        (
            "import routercompanion.routers.bandits.thompson",
            [
                "torch",
                "transformers",
                "faiss",
                "sklearn.linear_model",
                "matplotlib",
                "sentence_transformers",
            ],
        ),
    ],
)
def test_what_an_import_does_not_load(code, absent):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{code}\nimport sys; print('LOADED', *[m for m in {absent!r} if m in sys.modules])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].split() == ["LOADED"]


# ---------------------------------------------------------------- doctor


def test_doctor_finds_a_wrong_package(tmp_path):
    import importlib.metadata

    lock = tmp_path / "environment.lock"
    lock.write_text(f"# comment\nnumpy=={importlib.metadata.version('numpy')}\n")
    assert checks.check_packages(lock)[0] == "ok"
    lock.write_text("numpy==0.0.1\nno-such-package-here==1\n")
    state, text, remedy = checks.check_packages(lock)
    assert (
        state == "problem"
        and "lock 0.0.1" in text
        and "no-such-package-here is missing" in text
        and "make env" in remedy
    )
    assert checks.check_packages(tmp_path / "none")[0] == "problem"


def test_doctor_table_and_status():
    shown = call("doctor")
    found = checks.examine()
    assert {"python", "packages", "bfloat16", "memory", "disk", "cache", "assets"} <= set(
        found.check
    )
    assert shown.exit_code == int((found.state == "problem").any()) and all(
        c in shown.output for c in found.check
    )


def test_unwritable_folder_is_a_problem(monkeypatch, tmp_path):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refuse)
    state, text, remedy = checks.check_writable(tmp_path / "not/yet")
    assert state == "problem" and "Permission denied" in text and "ROUTERCOMPANION_CACHE" in remedy


# ---------------------------------------------------------------- notebooks and readme, a full disk


def test_notebooks_writes_the_readme_and_readme_checks_it(results, monkeypatch):
    import nbformat

    cells = [
        nbformat.v4.new_markdown_cell("# Front page"),
        nbformat.v4.new_code_cell("secret = 1", metadata={"tags": ["hide"]}),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), results / "nbs/index.ipynb")
    monkeypatch.setattr(run, "commit_notebooks", lambda **_: ["nbs/index.ipynb"])
    assert call("readme", "--check").exit_code == 1 and not (results / "README.md").exists()
    assert (
        call("notebooks").exit_code == 0 and (results / "README.md").read_text() == "# Front page\n"
    )
    assert call("readme", "--check").exit_code == 0


def test_full_disk_is_said_in_one_line(monkeypatch, capsys):
    def full(**_):
        raise OSError(28, "No space left on device", "/x/y")

    monkeypatch.setattr(run, "reproduce", full)
    with pytest.raises(SystemExit) as e:
        cli.main(["reproduce"])
    assert e.value.code == 1 and "disk is full (/x/y)" in capsys.readouterr().err


# ---------------------------------------------------------------- route decides by what its router was fitted on


def fitted_on(X, outcomes, **how):
    "A quick embedding router of vectors X (n, D), thresholded on the same rows."
    from routercompanion.routers.difficulty.embeddings import EmbeddingMLP

    return (
        EmbeddingMLP(epochs=1, hidden=(8, 4))
        .fit(X, outcomes)
        .choose_threshold(X, outcomes, **(how or {"call_rate": 0.3}))
    )


def toy_vectors(n=60, width=384, origin=None):
    from routercompanion.models.features import with_origin

    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, width)).astype(np.float32)
    return with_origin(X, origin) if origin else X, np.column_stack(
        [X[:, 0] > 0, np.ones(n)]
    ).astype(float)


def test_a_router_that_does_not_name_its_encoder_is_refused():
    X, outcomes = toy_vectors()
    with pytest.raises(CompanionError, match="does not say which encoder.*--encoder"):
        cli.route_prompts(fitted_on(X, outcomes), pd.DataFrame({"prompt": ["x"]}))


class FakeEncoder:
    name = "made-up"

    def __init__(self, weights):
        self.weights = weights

    def encode(self, texts):
        from routercompanion.models.features import with_origin

        made = (
            np.random.default_rng(len(list(texts)))
            .normal(size=(len(texts), 384))
            .astype(np.float32)
        )
        return with_origin(made, {"encoder": self.name, "weights_sha256": self.weights})


def test_route_takes_the_encoder_that_the_router_names_and_refuses_other_weights(monkeypatch):
    from routercompanion.models import features

    asked = []
    X, outcomes = toy_vectors(origin={"encoder": "made-up", "weights_sha256": "a" * 64})
    router, prompts = fitted_on(X, outcomes), pd.DataFrame({"prompt": ["one", "two"]})
    monkeypatch.setattr(
        features, "load_encoder", lambda name: asked.append(name) or FakeEncoder("a" * 64)
    )
    assert len(cli.route_prompts(router, prompts)) == 2 and asked == ["made-up"]
    monkeypatch.setattr(features, "load_encoder", lambda name: FakeEncoder("b" * 64))
    with pytest.raises(
        CompanionError,
        match="was fitted on: encoder made-up, weights aaaa.*these features are: encoder made-up, weights bbbb",
    ):
        cli.route_prompts(router, prompts)


@pytest.mark.parametrize(
    "origin, words",
    [
        (None, "does not say which one"),
        (
            {"model": "m", "template": "none", "shots": "worked examples", "pooling": "mean"},
            "states read behind worked examples, and `route` reads bare prompts",
        ),
    ],
)
def test_a_router_of_states_behind_worked_examples_is_refused(origin, words):
    router = SimpleNamespace(
        feature_kind="hidden_mean",
        decision_function=len_all,
        **({"origin_": origin} if origin else {}),
    )
    with pytest.raises(CompanionError, match=words):
        cli.route_prompts(router, pd.DataFrame({"prompt": ["x"]}))


@pytest.mark.parametrize("chat", [False, True])
def test_a_router_of_bare_states_decides_as_on_its_own_bank(tmp_path, monkeypatch, chat):
    "Fitted on a feature store of bare prompts (or of the chat template), saved, loaded: route gives the scores of the store."
    import torch
    from tiny_models import tiny_llama
    from routercompanion.data.bank import make_bank
    from routercompanion.models.causal_lm import load_causal_lm
    from routercompanion.routers.difficulty.probes import MeanProbe
    from routercompanion.routers.registry import load_router, save_router

    monkeypatch.setenv("ROUTERCOMPANION_CACHE", str(tmp_path / "cache"))
    lm = load_causal_lm(tiny_llama(tmp_path / "model"), dtype=torch.float32)
    if chat:
        lm.tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    lm.tokenizer.save_pretrained(tmp_path / "model")
    bank = make_bank(
        [
            dict(
                prompt=f"How many hens make {i} eggs?",
                references=["1"],
                task="t",
                domain="d",
                source="s",
                split="train",
            )
            for i in range(40)
        ]
    )
    outcomes = np.column_stack([np.arange(40) % 3 > 0, np.ones(40)]).astype(float)
    store = lm.features(bank, tmp_path / "store", chat=chat)
    router = (
        MeanProbe(epochs=2).fit(store, outcomes).choose_threshold(store, outcomes, call_rate=0.3)
    )
    again = load_router(save_router(router, tmp_path / "router"))
    assert again.origin_["shots"] == "none" and again.origin_["template"] == (
        "chat" if chat else "none"
    )
    monkeypatch.setattr("routercompanion.models.causal_lm.best_dtype", lambda: torch.float32)
    routed = cli.route_prompts(again, bank.table[["prompt"]])
    assert np.allclose(routed.score, router.decision_function(store), atol=2e-3)
    behind = make_bank(
        bank.table.drop(columns="query_id").to_dict("records"), {"t": "Q: How many?\nA: 7\n"}
    )
    with pytest.raises(CompanionError, match="shots none.*shots worked examples"):
        again.decision_function(lm.features(behind, tmp_path / "behind", chat=chat))


def test_the_notes_say_threshold_and_call_rates_and_warn():
    seen = np.linspace(0, 1, 100)
    quiet = cli.pair_notes(np.array([0.2, 0.9]), 0.7, 0.3, seen)
    assert (
        len(quiet) == 1
        and "threshold 0.7" in quiet[0]
        and "expected 0.300 (100 validation queries), here 0.500 (1 of 2 prompts)" in quiet[0]
    )
    loud = cli.pair_notes(np.array([1.98, 5.0, 0.9]), 0.7, 0.3, seen)
    assert (
        "all 3 prompts go to the large model" in loud[1]
        and "2 of 3 scores lie outside those of the validation queries, 0 to 1" in loud[2]
    )
    assert "all 2 prompts go to the small model" in cli.pair_notes(np.array([0.1, 0.2]), 0.7)[1]


@pytest.mark.parametrize("asked", [0.0, 0.05, 0.3, 0.5, 1.0])
def test_another_call_rate_is_met_on_the_validation_scores(asked):
    from routercompanion.routers.baselines import PromptLength

    texts, outcomes = (
        np.array(["x" * n for n in range(1, 201)]),
        np.column_stack([np.arange(200) % 7 > 0, np.ones(200)]).astype(float),
    )
    router = PromptLength().fit(texts, outcomes).choose_threshold(texts, outcomes, call_rate=0.3)
    threshold, promised = cli.threshold_of(router, asked)
    found = (router.decision_function(texts) >= threshold).mean()
    assert (
        found == pytest.approx(promised)
        and promised <= asked + 1e-9
        and promised >= asked - 1 / 200
    )
    del router.validation_scores_
    with pytest.raises(CompanionError, match="does not keep its validation scores"):
        cli.threshold_of(router, asked)


def test_a_pool_has_no_call_rate_and_own_columns_stay():
    texts, outcomes = pool_of_three()
    from routercompanion.routers.baselines import HeuristicRouter

    pool = HeuristicRouter().fit(texts, outcomes)
    with pytest.raises(CompanionError, match="--call-rate is for two models"):
        cli.route_prompts(pool, pd.DataFrame({"prompt": ["x"]}), call_rate=0.3)
    before = pd.DataFrame(
        {
            "prompt": ["x" * 9, "x" * 20],
            "score": [1, 2],
            "decision": ["a", "b"],
            "input_score": [3, 4],
        }
    )
    routed = cli.route_prompts(Length(), before)
    assert routed.columns.tolist() == [
        "prompt",
        "input_input_score",
        "input_input_decision",
        "input_score",
        "score",
        "decision",
    ]
    assert routed.iloc[1].tolist() == ["x" * 20, 2, "b", 4, 20, "large"]


def test_a_missing_shipped_router_names_a_remedy_that_is_a_step(tmp_path, monkeypatch):
    from routercompanion.reproduce.graph import read_steps

    (tmp_path / "nbs").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    step = next(s for s in read_steps(project_root()) if s.name == cli.SHIPPED_STEP)
    assert {f"{cli.SHIPPED}/router.json", f"{cli.SHIPPED}/arrays.safetensors"} <= set(
        step.outputs
    ) and "embedded" in step.profiles
    monkeypatch.setenv("ROUTERCOMPANION_ROOT", str(tmp_path))
    with pytest.raises(
        CompanionError, match=f"reproduce --profile embedded --only {cli.SHIPPED_STEP}"
    ):
        cli.router_folder(profile="embedded")
    with pytest.raises(CompanionError, match="profile bench has no router of its own"):
        cli.router_folder(profile="bench")


@pytest.mark.model
def test_the_shipped_router_meets_the_notebook_s_call_rate_end_to_end(tmp_path):
    """The bank's test prompts through the program, as a file: the call rate is the notebook's on the same queries to within three
    standard errors of drawing the sample of 1,000 (rounding of the encoder on another processor is far smaller), and not 1.00."""
    from routercompanion.assets.store import asset_status

    if not asset_status().set_index("name").cached.get("minilm-l6-v2", False):
        pytest.skip("MiniLM is not in the cache")
    from routercompanion.data.banks.embedded import embedded_bank

    stated = (
        pd.read_csv(project_root() / "figures/embedded/xbench_router.csv")
        .set_index("queries")
        .loc["test"]
    )
    bank = embedded_bank("embedded").select(split="test")
    chosen = np.sort(np.random.default_rng(0).choice(len(bank), 400, replace=False))
    bank.table.loc[chosen, ["prompt"]].to_csv(tmp_path / "test.csv", index=False)
    status, out, err = program("route", str(tmp_path / "test.csv"))
    assert status == 0, err
    rate = (pd.read_csv(io.StringIO(out)).decision == "large").mean()
    error = np.sqrt(stated.call_rate * (1 - stated.call_rate) / 400 * (1 - 400 / stated.n))
    assert (
        abs(rate - stated.call_rate) <= 3 * error
        and f"here {rate:.3f} ({round(400 * rate)} of 400 prompts)" in err
    )
    assert "call rate expected 0.300 (720 validation queries)" in err and "go to the" not in err


# ---------------------------------------------------------------- the environment, and a home that cannot be written


@pytest.mark.parametrize(
    "args, status", [(["doctor"], 1), (["assets", "list"], 2), (["route", "-"], 2)]
)
def test_a_home_that_cannot_be_written_is_reported(tmp_path, args, status):
    (tmp_path / "home").write_text("a file where a home should be")
    env = {k: v for k, v in os.environ.items() if k != "ROUTERCOMPANION_CACHE"} | {
        "HOME": str(tmp_path / "home")
    }
    done = subprocess.run(
        [sys.executable, "-c", "from routercompanion.reproduce.cli import main; main()", *args],
        capture_output=True,
        text=True,
        input="hens?\n",
        cwd=project_root(),
        env=env,
    )
    assert (
        done.returncode == status
        and "Traceback" not in done.stderr
        and "ROUTERCOMPANION_CACHE" in done.stdout + done.stderr
    )
    assert len(done.stderr.strip().splitlines()) == (0 if args == ["doctor"] else 1)
