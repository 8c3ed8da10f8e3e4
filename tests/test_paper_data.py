"The transcribed numbers of the papers: complete, as printed, consistent within the paper; averages that do not add up are named, not repaired."
import csv
import hashlib
from fractions import Fraction

import pandas as pd
import pytest
import yaml

from routercompanion.core import project_root

ROOT = project_root()
FOLDER = ROOT / "data" / "paper"
FIELDS = "paper,item,row,column,metric,value,unit,model_small,model_large,data,source".split(",")
ID, OOD = ["Alpaca", "Big Math", "MMLU"], ["Magpie", "MATH", "STEM", "Humanities", "Social Sciences", "Others"]
AVERAGES = {"ID AVG": ID, "OOD AVG": OOD, "Average": ID}


def rows(table):
    with open(FOLDER / f"xbench_table{table}.csv", newline="") as f: return list(csv.DictReader(f))


def cents(text): return int(Fraction(text) * 100)


# A second reading of the paper's text by other means: how many numbers, their sum and their position-weighted sum, in hundredths.
SECOND_READING = {1: (77, 417890, 16872102), 2: (231, 1164337, 103529580), 3: (12, 76261, 517254), 4: (12, 73325, 499664), 5: (88, 538777, 24270036), 6: (18, 115058, 1075538)}


@pytest.mark.parametrize("table", SECOND_READING)
def test_agrees_with_the_second_reading(table):
    values = [cents(r["value"]) for r in rows(table)]
    assert (len(values), sum(values), sum(i * v for i, v in enumerate(values, 1))) == SECOND_READING[table]


@pytest.mark.parametrize("table", range(1, 8))
def test_schema(table):
    got = rows(table)
    assert list(got[0]) == FIELDS
    keys = [tuple(r[c] for c in ("model_small", "metric", "row", "column")) for r in got]
    assert len(set(keys)) == len(keys), "one value for each cell"
    for r in got:
        assert r["paper"] == "xbench" and r["item"] == f"Table {table}" and r["source"].startswith(f"arXiv:2602.11877, Table {table}, ")
        assert all(r[c] for c in FIELDS if c != "value") and r["model_large"] == "GPT-5"
        if table < 7: assert r["unit"] == "percent" and 0 <= float(r["value"]) <= 100 and len(r["value"].split(".")[1]) == 2, "two decimals, as printed"


def mismatches():
    "Averages whose printed value is not the rounded mean of the printed columns: (table, model, metric, row, average) -> printed minus mean, in hundredths."
    out = {}
    for table in (1, 2, 3, 5):
        cells = {(r["model_small"], r["metric"], r["row"], r["column"]): cents(r["value"]) for r in rows(table)}
        for (model, metric, row, column), printed in cells.items():
            if column not in AVERAGES: continue
            parts = [cells[model, metric, row, c] for c in AVERAGES[column]]
            off = printed - Fraction(sum(parts), len(parts))
            if abs(off) > Fraction(1, 2): out[table, model, metric, row, column] = off
    return out


LLAMA, QWEN = "Llama-3.1-8B-Instruct", "Qwen2.5-0.5B-Instruct"


def test_printed_averages():
    wrong = mismatches()
    assert set(wrong) == {(1, LLAMA, "AUROC", "ProbeDirichlet", "ID AVG"), (5, LLAMA, "AUROC", "ProbeDirichlet", "ID AVG"), (3, LLAMA, "AUROC", "Dirichlet", "Average"),
                          (2, LLAMA, "LPM", "ProbeDirichlet", "ID AVG"), (2, LLAMA, "MPM", "ConfidenceMargin", "ID AVG"), (3, LLAMA, "AUROC", "Final Layer", "Average"),
                          (5, QWEN, "AUROC", "ProbeDirichlet", "ID AVG"), (5, QWEN, "AUROC", "ProbeDirichlet", "OOD AVG")}
    assert all(abs(off) <= 1 for off in wrong.values()), "no more than rounding of the columns can explain"
    readme = (ROOT / "data" / "README.md").read_text()
    for printed in ("68.70", "77.95", "82.39", "53.91", "64.84", "59.36"): assert printed in readme, "each is listed in data/README.md"


def values(table, **where):
    return {(r["row"], r["column"]): r["value"] for r in rows(table) if all(r[k] == v for k, v in where.items())}


def test_tables_repeat_each_other():
    one, three, six = values(1), values(3), values(6)
    five = values(5, model_small=LLAMA)
    for row in ("EmbeddingMLP", "ProbeDirichlet"):
        for c in [*ID, "ID AVG", *OOD, "OOD AVG"]: assert five[row, c] == one[row, c]
    for c in ID: assert three["Dirichlet", c] == one["ProbeDirichlet", c] == six[c, "trained on all three"]
    assert three["Dirichlet", "Average"] == one["ProbeDirichlet", "ID AVG"]
    for c in ("Magpie", "MATH"): assert six[c, "trained on all three"] == one["ProbeDirichlet", c]
    groups = [float(one["ProbeDirichlet", c]) for c in OOD[2:]]
    assert round(sum(groups) / 4, 2) == float(six["MMLU-Pro", "trained on all three"]), "MMLU-Pro is the unweighted mean of its four groups"


def test_relative_gain_of_the_abstract():
    "HCR: mean of the two averages over the best baseline's is the 18.86% of the abstract; AUROC by the same formula is 16.99%, not the printed 16.68%."
    def gain(v):
        mean = {r: (float(v[r, "ID AVG"]) + float(v[r, "OOD AVG"])) / 2 for r, _ in v}
        best = max(m for r, m in mean.items() if r != "ProbeDirichlet")
        return round(100 * (mean["ProbeDirichlet"] / best - 1), 2)
    assert gain(values(2, metric="HCR")) == 18.86 and gain(values(1)) == 16.99


def test_data_sizes():
    v = values(7)
    assert {r for r, _ in v} == {"Alpaca", "MMLU", "Big Math", "Magpie", "MMLU-Pro", "MATH"}
    assert all(v[r, "Train"] == "3.2" and v[r, "Validation"] == "0.8" for r in ("Alpaca", "MMLU", "Big Math"))
    assert all(v[r, c] == "" for r in ("Magpie", "MMLU-Pro", "MATH") for c in ("Train", "Validation")), "a dash stays empty"
    assert [v[r, "Test"] for r in ("Alpaca", "MMLU", "Big Math", "Magpie", "MMLU-Pro", "MATH")] == ["1", "10", "1", "10", "12", "5"]


# ---- Who Routes the Router. Second reading as above, in thousandths.
WHO = {"Table 1": (16, 943000, 7979340), "Table 2": (20, 326140, 2660340), "Table 3": (12, 405610, 2843970), "Table 4": (16, -117060, -937930),
       "Table 5": (12, -365850, -2591080), "Table 6": (9, 182476000, 1134872000), "Table 7": (24, -495740, -5201230), "Figure 5": (5, 23490, 78610), "Figure 7": (10, 331393, 1934265)}
ROUTERS, POOL = ["K-NN", "KMeans", "MF", "MLP"], ["K-NN", "Universal (KMeans)", "MLP", "Matrix Factorization"]


def who(item):
    with open(FOLDER / f"who_routes_{item.lower().replace(' ', '')}.csv", newline="") as f: return list(csv.DictReader(f))


def cells(item): return {(r["row"], r["metric"], r["column"]): Fraction(r["value"]) for r in who(item)}


@pytest.mark.parametrize("item", WHO)
def test_who_routes_agrees_with_the_second_reading(item):
    values = [int(Fraction(r["value"]) * 1000) for r in who(item)]
    assert (len(values), sum(values), sum(i * v for i, v in enumerate(values, 1))) == WHO[item]


@pytest.mark.parametrize("item", [*WHO, "Figure 4", "Text"])
def test_who_routes_schema(item):
    got = who(item)
    assert list(got[0]) == FIELDS and len({(r["row"], r["metric"], r["column"]) for r in got}) == len(got), "one value for each cell"
    start = "Who Routes the Router (anonymous submission), " + ("" if item == "Text" else f"{item}, ")
    for r in got:
        assert all(r[c] for c in FIELDS) and r["paper"] == "who-routes" and r["item"] == item and r["source"].startswith(start) and len(r["source"]) > len(start)
        assert r["model_small"] == r["model_large"] and r["model_small"].startswith("pool of "), "these are about a whole pool"
        if r["unit"] == "percent": assert 0 <= float(r["value"]) <= 100


def test_who_routes_averages_and_repeats():
    five, seven = cells("Table 5"), cells("Table 7")
    assert five.items() <= seven.items(), "Table 7 repeats Table 5"
    rows = ["mathqa", "asdiv", "gsm8k", "medmcqa", "mmlu_clinical_knowledge"]
    for c in ROUTERS: assert round(sum(seven[r, "accuracy change", c] for r in rows) / 5, 2) == seven["Average", "accuracy change", c]
    one, after = cells("Table 1"), cells("Figure 7")
    assert all(one[r, "average accuracy", c] < one[r, "peak accuracy", c] for r in POOL for c in ("Original", "Reduced"))
    assert all(after[r, "AUDC", "Area"] * 100 < after[r, "peak accuracy", "Peak Acc."] for r in [*POOL, "Heuristic"])
    for item, metric in (("Table 2", "average rank"), ("Figure 5", "average rank")):
        for c in {r["column"] for r in who(item)} if item == "Table 2" else [None]:
            ranks = [Fraction(r["value"]) for r in who(item) if r["metric"] == metric and c in (None, r["column"])]
            assert len(ranks) == 5 and ranks == sorted(ranks) and ranks[0] >= 1


def test_who_routes_numbers_of_the_text_fit_together():
    t = {(r["row"], r["column"]): Fraction(r["value"]) for r in who("Text")}
    carrot = "near-duplicates (CARROT)"
    assert round(100 * t[carrot, "queries in groups"] / t[carrot, "training queries"], 1) == t[carrot, "share of queries in groups"]
    assert round(t[carrot, "queries in groups"] / t[carrot, "groups"], 2) == t[carrot, "average group size"]
    gone = t["pruning", "models before"] - t["pruning", "models after"]
    assert gone == 30 and round(100 * gone / t["pruning", "models before"]) == t["pruning", "reduction"]
    assert t["remastered", "models"] == t["pruning", "models after"] + len({r["row"] for r in who("Table 3")}), "82 real models and 3 simulated"
    assert round(t["remastered", "models"] * t["remastered", "queries"] / 10**6) == t["remastered", "data points"]
    six = cells("Table 6")
    assert six["EmbedLLM", "size", "models"] == t["pruning", "models before"] and six["EmbedLLM", "size", "queries"] > t["remastered", "queries"]
    bands = cells("Figure 4")
    counts = {r: v for (r, _, c), v in bands.items() if c == "tasks"}
    assert sum(counts.values()) == 38 and all(round(100 * v / 38, 1) == bands[r, "tasks by specialist score", "share"] for r, v in counts.items())


def test_what_does_not_fit_in_who_routes():
    "Named, not repaired: the given accuracy is the best model's + 25 to the nearest 5 in two of three rows, and MF is not the most robust router on average."
    three, t = cells("Table 3"), {(r["row"], r["column"]): Fraction(r["value"]) for r in who("Text")}
    off = {r for r in {r["row"] for r in who("Table 3")}
           if 5 * round((three[r, "accuracy", "Best Model Acc."] + t["pseudo-specialists", "accuracy above the best model"]) / 5) != three[r, "accuracy", "Pseudo Model Acc."]}
    assert off == {"Social Reasoning"}, "36.22 + 25 = 61.22, printed 65.00"
    mean = {c: cells("Table 7")["Average", "accuracy change", c] for c in ROUTERS}
    assert max(mean, key=mean.get) == "K-NN" and min(mean, key=mean.get) == "MLP", "appendix I.2 calls MF the more robust; its mean loss is larger than K-NN's"
    one = cells("Table 1")
    change = {r: one[r, "average accuracy", "Reduced"] - one[r, "average accuracy", "Original"] for r in POOL}
    assert [r for r in POOL if change[r] > 0] == ["MLP", "Matrix Factorization"] and change["MLP"] == Fraction("0.06"), "learning-based methods gain: .06 and .42 points"


NOTEBOOKS = {"xbench": "papers/xbench", "who-routes": "papers/who_routes", "confidence": "papers/confidence", "cscr": "papers/cscr", "survey": "papers/survey"}
ELSEWHERE = {("xbench", i): "papers/xbench_ablations" for i in ("Table 4", "Table 5", "Table 6", "Figure 3", "Figure 4", "Figure 6")} | {("xbench", "Figure 5"): "papers/agentic"}   # other notebooks of the same paper
COUNTS = {"xbench": (7, 7), "who-routes": (7, 14), "confidence": (3, 2), "cscr": (16, 7), "survey": (2, 3)}


def test_every_item_of_every_paper_is_listed():
    items = pd.read_csv(FOLDER / "items.csv", keep_default_na=False)
    assert list(items) == ["paper", "item", "title", "status", "notebook", "note"]
    for paper, (tables, figures) in COUNTS.items():
        expected = [f"Table {i}" for i in range(1, tables + 1)] + [f"Figure {i}" for i in range(1, figures + 1)]
        assert items.loc[items["paper"] == paper, "item"].tolist() == expected
    assert set(items["paper"]) == set(COUNTS)
    expected = [ELSEWHERE.get(pair, NOTEBOOKS[pair[0]]) for pair in zip(items["paper"], items["item"])]
    assert items["notebook"].tolist() == expected


def test_every_item_says_what_it_is():
    items = pd.read_csv(FOLDER / "items.csv", keep_default_na=False)
    known = {"reproduced", "same data", "analogue", "not possible here", "planned"}
    assert set(items["status"]) <= known
    assert (items["title"].str.len().between(10, 110)).all() and (items["note"].str.len() > 20).all() and items["title"].groupby(items["paper"]).value_counts().max() == 1
    impossible = items[items["status"] == "not possible here"]
    assert impossible["note"].str.contains("would take").all(), "what it would take is said"
    ours = items[(items["paper"] == "xbench") & (items["item"].isin([f"Table {i}" for i in range(1, 8)] + [f"Figure {i}" for i in range(1, 8)]))]
    assert len(ours) == 14 and not ours["status"].isin(["planned", "not possible here"]).any()


def test_transcribed_tables_are_listed_items():
    items = pd.read_csv(FOLDER / "items.csv", keep_default_na=False)
    listed = {f"{p}_{i}".lower().replace(" ", "").replace("-", "_") for p, i in zip(items["paper"], items["item"])}
    assert {p.stem for p in FOLDER.glob("*.csv")} - {"items", "claims", "who_routes_text", "cscr_text"} <= listed, "the texts' files hold numbers that stand in a paper's text only"


def test_citation_and_licence():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["license"] == "Apache-2.0" and cited["version"] == _version()
    assert [n.split("Short name in this project: ")[1].split(" ")[0].rstrip(".") for n in (r["notes"] for r in cited["references"])] == ["xbench", "who-routes", "confidence", "cscr", "survey"]
    assert all(r["title"] and r["authors"] and r["url"].startswith("https://") for r in cited["references"])
    licence = (ROOT / "LICENSE").read_bytes()
    assert hashlib.sha256(licence).hexdigest() == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30", "the licence text as published by the Apache foundation"


def _version():
    import tomllib
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
