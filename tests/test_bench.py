"""The bench profile: its notebook runs from end to end on generated files, and what is committed of the real run is whole, aligned and free of text."""
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from routercompanion.reproduce import notebooks
from routercompanion.core import content_hash, file_hash, project_root
from routercompanion.models.causal_lm import load_causal_lm
from routercompanion.data.outcomes import OutcomeTable
from routercompanion.data.banks.routellm import LARGE_RECORDED, SECOND_RECORDED
from routercompanion.data.banks.routerxbench import GROUPS
from routercompanion.studies.xbench import CPU_BENCH, bench_bank, bench_outcomes
from routercompanion.data.records import outcomes_path
from routercompanion.models.causal_lm import SMALL
from test_published import MIRROR, files, records  # noqa: F401  (fixtures)
from routercompanion.models.features import weights_hash
from routercompanion.reading import safe_name
from tiny_models import tiny_llama

ROOT = project_root()
NOTEBOOK, FIGURES = ROOT / "nbs/papers/xbench/bench.ipynb", ROOT / "figures/bench"
COLUMNS = ("Big-Math", "MMLU", "MATH", *GROUPS, "GSM8K")
AS_PRINTED = {"Big-Math": "Big Math", "Social": "Social Sciences"}


def stated(name):
    "The default of a parameter of the committed notebook."
    nb, found = notebooks.read_notebook(NOTEBOOK), {}
    exec(nb.cells[notebooks.tagged(nb, "parameters")].source, found)
    return found[name]


def sampled(sizes): return replace(CPU_BENCH, **dict(zip(("train_per_column", "test_per_column", "ood_per_column"), sizes)))


# ---------- the notebook on generated files ----------

def test_the_notebook_runs_on_generated_files(files, records, tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTERCOMPANION_CACHE", str(tmp_path / "cache"))
    sizes, model = [24, 12, 10], tiny_llama(tmp_path / "model")
    bank = bench_bank(sampled(sizes), columns=COLUMNS, folder=files, records=records, longest=600)
    table = bench_outcomes(bank, [load_causal_lm(model)], records=records)
    table.score[:, 0] = bank.table.groupby("domain").cumcount() % 4 == 0   # a random model has no right answer; these stand in
    table.score[np.isin(table.domain, ["MMLU", "GSM8K"]), 1] = 1   # the generated records are too few for a clear gap
    table.to_parquet(tmp_path / "bench.parquet")
    given = dict(profile="bench", out=str(tmp_path / "figures"), sizes=sizes, n_resamples=50, prompts=str(files), records=str(records), model=model, encoder=str(tmp_path / "stand-in"),
                 recorded=str(tmp_path / "bench.parquet"), findings="described")
    (tmp_path / "figures").mkdir()
    vectors = np.random.default_rng(1).normal(size=(len(bank), 8)).astype(np.float32)
    encoder = tmp_path / "stand-in"   # its weights are there to be hashed; what it would compute is kept already
    encoder.mkdir()
    save_file({"weights": vectors[:1]}, encoder / "model.safetensors")
    place = tmp_path / "cache/embeddings" / safe_name(str(encoder))
    place.mkdir(parents=True)
    named = [str(encoder), weights_hash(encoder)]
    key = content_hash([named, list(bank.query_ids), list(bank.table.prompt)])
    save_file({"embeddings": vectors}, place / f"{key[:24]}.safetensors")
    notebooks.execute(NOTEBOOK, tmp_path / "ran.ipynb", given, root=ROOT, state=tmp_path / "state")
    table7 = pd.read_csv(tmp_path / "figures/xbench_table7.csv").set_index("column")
    assert set(table7.index) == set(COLUMNS) and table7.train.sum() == (bank.table.split == "train").sum()
    assert np.isclose(table7.small_accuracy["MMLU"], table.score[(table.domain == "MMLU") & (table.split == "test"), 0].mean())
    assert table7.reason["MATH"].endswith("no large model recorded") and table7.gap[["MATH", "STEM"]].isna().all()
    long = pd.read_csv(tmp_path / "figures/xbench_table1_intervals.csv").set_index(["row", "column", "metric"])
    assert long.value["LabelOracle", "MMLU", "within-task AUROC"] == 1 and long.value["Random", "MMLU", "within-task AUROC"] == .5
    assert not long.loc[[k for k in long.index if k[1] in table7.index[~table7.auroc_ok]]].evidence.any()
    shown = pd.read_csv(tmp_path / "figures/xbench_table1.csv")
    for c in table7.index[~table7.auroc_ok].drop("GSM8K", errors="ignore"):
        assert shown[f"{AS_PRINTED.get(c, c)}_ours"].isna().all(), c
    differences = pd.read_csv(tmp_path / "figures/xbench_table2_differences.csv")
    assert (differences.comparisons.dropna() <= 9).all() and differences.verdict.notna().any()
    leaks = pd.read_csv(tmp_path / "figures/xbench_leakage.csv").set_index("column")
    assert 0 < leaks.leaked["all"] < leaks.n["all"] == 140


# ---------- what is committed ----------

@pytest.fixture(scope="module")
def recorded(): return OutcomeTable.from_parquet(outcomes_path("bench"))


def test_the_record_holds_no_text(recorded):
    assert recorded.prompts is None and recorded.models[0] == SMALL and {LARGE_RECORDED, SECOND_RECORDED} <= set(recorded.models)
    table = pq.read_table(outcomes_path("bench"))
    words = [v for c in table.column_names if str(table[c].type) in ("string", "large_string") or "dictionary" in str(table[c].type) for v in table[c].to_pylist()]
    assert max(map(len, words)) < 60 and not any(" " in w for w in words), "a query is its hash, a task a name without blanks"
    marked = np.isfinite(recorded.select([SMALL]).score[:, 0])
    assert set(recorded.domain) == set(COLUMNS) and len(recorded) == 6000 and (recorded.domain != "GSM8K").sum() == 5500
    unread = ~marked & (recorded.domain != "GSM8K")
    assert set(recorded.domain[unread]) == {"Big-Math", "MATH"} and unread.sum() == 3, "references that math-verify cannot read (a table, a clock time, a cut formula) are masked"
    unsolved = recorded.subset(~marked & (recorded.domain == "GSM8K"))   # nobody's right answer gives a reference
    assert (unsolved.select([LARGE_RECORDED, SECOND_RECORDED]).score == 0).all()


def test_the_record_has_the_large_model_where_routellm_does(recorded):
    large = recorded.select([LARGE_RECORDED]).score[:, 0]
    known = pd.Series(np.isfinite(large)).groupby(recorded.domain).mean()
    assert (known.drop(["MMLU", "GSM8K"]) == 0).all() and (known[["MMLU", "GSM8K"]] > .95).all()


if MIRROR:
    def test_the_record_is_of_the_stated_bank(recorded, monkeypatch):
        "Recomputed from a mirror of the public files where one is at hand."
        monkeypatch.setenv("ROUTERCOMPANION_MIRROR", str(MIRROR))
        bank = bench_bank(sampled(stated("sizes")), columns=COLUMNS, longest=stated("longest"))
        mine = recorded.align(bank.query_ids, allow_extra=True)
        for c in ("task", "domain", "split"): assert (getattr(mine, c) == bank.table[c].to_numpy(str)).all()
        assert len(recorded) == len(bank) == len(mine)


def test_the_tables_are_those_of_the_manifest():
    manifest = json.loads((FIGURES / "manifest.json").read_text())
    mine = {stem: entry for stem, entry in manifest["items"].items() if stem.startswith("xbench_")}
    for stem, entry in mine.items():
        assert entry["notebook"].endswith("xbench/bench.ipynb") and entry["inputs"] == {"outcomes": "recorded", "features": "computed", "published values": "recorded"}, stem
        for name, digest in entry["files"].items(): assert file_hash(FIGURES / name) == digest, name
    assert {"xbench_table1", "xbench_table2", "xbench_table7", "xbench_leakage", "xbench_mmlu_pro", "xbench_figure1"} <= set(mine)


def test_the_committed_tables_agree_with_the_record(recorded):
    table7 = pd.read_csv(FIGURES / "xbench_table7.csv").set_index("column")
    tested = recorded.split != "train"
    for c, line in table7.iterrows():
        small = recorded.select([SMALL]).score[tested & (recorded.domain == c), 0]
        small = small[np.isfinite(small)]
        assert line.test == len(small) and np.isclose(line.small_accuracy, small.mean(dtype=float)), c
        assert bool(line.auroc_ok) == (.15 <= small.mean() <= .85), c
    leaks = pd.read_csv(FIGURES / "xbench_leakage.csv").set_index("column")
    assert leaks.leaked[list(GROUPS)].sum() == leaks.leaked["all"] == 1810, "the audit's number"


def test_no_empty_column_is_shown_as_a_result():
    table7, shown = pd.read_csv(FIGURES / "xbench_table7.csv").set_index("column"), pd.read_csv(FIGURES / "xbench_table1.csv")
    for c, ok in table7.auroc_ok.drop("GSM8K").items():
        assert shown[f"{AS_PRINTED.get(c, c)}_ours"].notna().any() == ok, c
    assert {"Random", "LabelOracle"} <= set(shown.row)
    assert shown["MMLU_published"].notna().any()
