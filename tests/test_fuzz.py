"""Damaged files of the pipeline, by the rules of test_mutations.

Manifests, records, locks, notebooks and logs.
"""

import json

import nbformat
import pytest

from routercompanion.assets.lock import Lock
from routercompanion.core import project_root, write_text
from routercompanion.reproduce import checks, graph, notebooks, store
from test_mutations import TRIES, Reader, as_csv, as_json, fuzz

HASH = "0123456789abcdef" * 4
STEPS = {
    f"papers/{name}": {
        "notebook": f"nbs/papers/{name}.ipynb",
        "key": HASH,
        "inputs": {"outcomes": "recorded"},
        "files": {f"{name}_table1.csv": HASH, f"{name}_table1.md": HASH},
    }
    for name in ("one", "two")
}
HEAD = ["row", "column", "metric", "value", "low", "high", "n"]
TABLE = [
    ["probe", "maths", "AUROC", 66.1, 64, 68, 1000],
    ["probe", "law", "AUROC", 55.5, 52, 58, 900],
    ["random", "maths", "AUROC", 50.0, 48, 52, 1000],
]
ITEMS = [
    ["xbench", "Table 1", "Ability, by column", "analogue", "papers/xbench", ""],
    ["cscr", "Figure 2", "Pools", "planned", "", "a note"],
]


def manifest_file(folder):
    path = folder / "figures/smoke/manifest.json"
    write_text(path, store.build_manifest(STEPS, "smoke"))
    return path


def read_manifest(path):
    return store.Workspace(path.parents[2], "smoke").manifest()


def read_compared(path):
    "What `verify` says of a table; a table that it does not accept counts as refused by name."
    found = checks.compare_figures(path.parents[1] / "was", path.parents[1] / "is").iloc[0]
    if found.verdict not in ("identical", "equal", "overlap"):
        raise notebooks.StepError(f"{path.name}: {found.verdict}, {found.finding}")
    return "agrees"


def two_folders(folder):
    as_csv("was/table.csv", HEAD, TABLE)(folder)
    return as_csv("is/table.csv", HEAD, TABLE)(folder)


def notebook_file(folder):
    nb = nbformat.v4.new_notebook(
        metadata={
            "kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}
        }
    )
    nb.cells = [
        nbformat.v4.new_code_cell("profile = 'smoke'", metadata={"tags": ["parameters"]}, id="p"),
        nbformat.v4.new_markdown_cell("# One\n\ntext", id="m"),
        nbformat.v4.new_code_cell("1 + 1", id="c", execution_count=2),
    ]
    nb.cells[2].outputs = [
        nbformat.v4.new_output("execute_result", {"text/plain": "2"}, execution_count=2),
        nbformat.v4.new_output("stream", text="said\n"),
    ]
    nbformat.write(nb, folder / "executed.ipynb")
    return (folder / "executed.ipynb").rename(folder / "executed.json")


def read_executed(path):
    nb = notebooks.read_notebook(path)
    notebooks.tagged(nb, "parameters")
    return notebooks.tidy(notebooks.carry_outputs(nb, nb))


def lock_file(folder):
    whole = json.loads((project_root() / "data/assets.lock.json").read_text())
    names = ("bigbench", "minilm-l6-v2", "gemma-3-270m", "hub-minilm-l6-v2")
    small = {n: whole["assets"][n] | {"files": whole["assets"][n]["files"][:2]} for n in names}
    return as_json("assets.lock.json", {"version": 1, "assets": small})(folder)


def pins(folder):
    (folder / "environment.txt").write_text(
        "# made for Python 3.11\naiohttp==3.1.2\nnumpy==2.0.1\ntorch==2.6.0  # large\n"
    )
    return folder / "environment.txt"


def steps_file(folder):
    for name in "xy":
        (folder / f"nbs/papers/{name}.ipynb").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"nbs/papers/{name}.ipynb").write_text("{}")
    part = (
        '[[step]]\nname = "papers/{0}"\nnotebook = "nbs/papers/{0}.ipynb"\n'
        'scale = true\ndata = ["data/paper"]\n'
    )
    (folder / "nbs/papers/steps.txt").write_text("\n".join(part.format(n) for n in "xy"))
    return folder / "nbs/papers/steps.txt"


def read_steps(path):
    path.with_suffix(".toml").write_bytes(path.read_bytes())
    return graph.read_steps(path.parents[2])


def recheck(folder):
    return as_csv(
        "bank_recheck.csv",
        ["model", "n", "flips", "rate", "rate_low", "rate_high"],
        [["small", 960, 6, 0.00625, 0.002, 0.013]],
    )(folder)


def record_file(folder):
    "A finished step's record, with the files that it lists."
    home = folder / ".routercompanion/smoke/steps/one"
    write_text(home / "out/a.csv", "x\n1\n")
    write_text(home / "executed.ipynb", "{}")
    record = {
        "name": "one",
        "notebook": "nbs/one.ipynb",
        "key": HASH,
        "inputs": {},
        "kept": {},
        "files": {"a.csv": store.file_hash(home / "out/a.csv")},
        "executed": store.file_hash(home / "executed.ipynb"),
    }
    return as_json("record.json", record)(home)


def read_record(path):
    "A record that is not whole is none: the step runs again."
    found = store.load_record(
        store.Workspace(path.parents[4], "smoke"), graph.Step("one", "nbs/one.ipynb"), HASH
    )
    if found is None:
        raise notebooks.StepError(f"{path}: no whole record")
    return found


TEXTS = dict.fromkeys(("notebook", "key", "profile", "library_version"), "text")
PIPELINE = [
    Reader(
        "figures manifest",
        manifest_file,
        read_manifest,
        TEXTS | {"files": "object", "inputs": "object", "steps": "object", "items": "object"},
        whole=True,
    ),
    Reader(
        "items.csv",
        as_csv("items.csv", store.ITEM_COLUMNS, ITEMS),
        store.read_items,
        {"paper": "text", "item": "text", "title": "text", "status": "text"},
        unique=True,
    ),
    Reader(
        "verify",
        two_folders,
        read_compared,
        {"value": "number", "low": "number", "high": "number", "n": "whole"},
        unique=True,
    ),
    Reader(
        "flip rate table",
        recheck,
        lambda path: checks.flip_rate(path.parent),
        {"n": "cost", "rate": "share", "rate_low": "share", "rate_high": "share"},
    ),
    Reader(
        "provenance.json",
        as_json(
            "provenance.json",
            {"inputs": {"outcomes": "recorded", "features": "computed"}, "kept": []},
        ),
        store.read_provenance,
        {"inputs": "object?", "kept": "list?"},
    ),
    Reader(
        "record.json",
        record_file,
        read_record,
        {"files": "object", "kept": "object", "key": "text", "executed": "text"},
        whole=True,
    ),
    Reader("environment.lock", pins, checks.read_lock),
    Reader(
        "assets lock",
        lock_file,
        lambda path: Lock.load(path).assets,
        dict.fromkeys(("kind", "licence", "root", "member", "repo_id", "revision"), "text")
        | {"files": "list", "default": "flag?", "size": "cost?", "peak": "cost?"},
        whole=True,
    ),
    Reader(
        "executed notebook",
        notebook_file,
        read_executed,
        {"cells": "list", "outputs": "list", "metadata": "object", "cell_type": "text"},
        whole=True,
    ),
    Reader("steps.toml", steps_file, read_steps),
]


@pytest.mark.parametrize("reader", PIPELINE, ids=lambda r: r.name)
def test_a_damaged_file_of_the_pipeline_is_named_or_reads_as_before(reader, tmp_path):
    counts, bad = fuzz(reader, tmp_path, TRIES)
    assert not bad, f"{reader.name}: {dict(counts)}\n" + "\n".join(bad.values())
