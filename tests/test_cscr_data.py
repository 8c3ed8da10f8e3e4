"The transcribed numbers of Cost-Aware Contrastive Routing: complete, as printed, and what does not fit together in the paper is named, not repaired."
import csv
from fractions import Fraction

import pytest
from scipy.stats import binomtest

from routercompanion.core import project_root
from routercompanion.report.tables import load_published

FOLDER = project_root() / "data" / "paper"
FIELDS = "paper,item,row,column,metric,value,unit,model_small,model_large,data,source".split(",")
# A second reading of the paper's text by other means (its table lines, read by program): how many numbers, their sum and their position-weighted sum, in hundred-thousandths.
SECOND_READING = {
    1: (72, 43095890, 1451065410), 2: (21, 26397630, 303464730), 3: (21, 27550090, 303672220), 4: (9, 2190610, 10895800), 7: (4, 197450, 506670), 8: (15, 17436190, 101886650), 9: (10, 4188940, 25061720),
    10: (15, 17236350, 117304860), 11: (15, 23607270, 183648880), 12: (12, 19053260, 135374590), 13: (2, 105730, 159570), 14: (5, 300000000, 805300000), 15: (4, 165700000, 397800000), 16: (8, 93223920, 595273480)}


def rows(table):
    with open(FOLDER / f"cscr_table{table}.csv", newline="") as f: return list(csv.DictReader(f))


def cells(table): return {(r["row"], r["metric"], r["column"]): Fraction(r["value"]) for r in rows(table)}


@pytest.mark.parametrize("table", SECOND_READING)
def test_agrees_with_the_second_reading(table):
    values = [int(Fraction(r["value"]) * 10**5) for r in rows(table)]
    assert (len(values), sum(values), sum(i * v for i, v in enumerate(values, 1))) == SECOND_READING[table]


@pytest.mark.parametrize("table", range(1, 17))
def test_schema(table):
    got = rows(table)
    assert list(got[0]) == FIELDS and len({(r["row"], r["metric"], r["column"]) for r in got}) == len(got)
    assert all(r["paper"] == "cscr" and r["item"] == f"Table {table}" and f"Table {table}, " in r["source"] and all(r[c] for c in FIELDS) for r in got)
    assert len(load_published("cscr", f"Table {table}")) == len(got)


def test_the_stem_split_is_a_partition():
    sides = {side: {r["row"] for r in rows(6) if r["column"] == side} for side in ("Train (STEM)", "Test (Non-STEM)")}
    train, test = sides.values()
    assert len(train) == 41 and len(test) == 35 and not train & test
    assert "mmlu_abstract_algebra" in test and "mmlu_college_mathematics" in train, "algebra stands with the humanities in the printed split"


def test_numbers_that_fit_together():
    sixteen = {r["column"]: Fraction(r["value"]) for r in rows(16)}
    won, lost = int(sixteen["only CSCR right"]), int(sixteen["only UMR right"])
    assert f"{binomtest(won, won + lost, alternative='greater').pvalue:.2e}" == "9.76e-11" and abs(sixteen["p (McNemar, one-sided)"] - Fraction("9.76e-11")) == 0
    assert sum(Fraction(r["value"]) for r in rows(14)) == 3000, "the 3,000 test prompts of section D.6"
    assert sixteen["low"] < sixteen["difference"] < sixteen["high"]
    best = cells(8)
    assert max((v, r) for (r, m, _), v in best.items() if m == "AUDC")[1] == "5"


def test_what_does_not_fit():
    "The default setting (5 bands, k = 4, gamma .2, alpha .25, tau_min .05) has another area in every ablation; Table 15 has other prompts than Table 14; Table 16's difference is twice Table 1's."
    default = {1: cells(1)["CSCR", "AUDC", "EmbedLLM"], 7: cells(7)["With bands", "AUDC", "EmbedLLM"], 8: cells(8)["5", "AUDC", "bands"], 9: cells(9)["4", "AUDC", "neighbours"],
               10: cells(10)["0.2", "AUDC", "gamma"], 11: cells(11)["0.25", "AUDC", "alpha"], 12: cells(12)["0.05", "AUDC", "tau_min"]}
    assert len(set(default.values())) == 7 and max(default.values()) - min(default.values()) == Fraction("0.075")
    assert sum(Fraction(r["value"]) for r in rows(15)) == 1657 != 3000
    one = cells(1)
    assert one["CSCR", "AUDC", "EmbedLLM"] - one["UMR", "AUDC", "EmbedLLM"] == Fraction("0.026") and Fraction("0.053") == {r["column"]: Fraction(r["value"]) for r in rows(16)}["difference"]
    four = cells(4)
    assert four["Logit", "AUDC", "MixInstruct"] == Fraction("0.0461"), "section 4.3.1 says 0.461"
    assert one["Soft-MoE", "QNC", "EmbedLLM"] == 70 and one["Random", "QNC", "EmbedLLM"] < 20, "the printed QNC is the cost at the router's own peak"
    gamma = [cells(10)[g, "cost at peak", "gamma"] for g in ("0", "0.1", "0.2", "0.3", "0.5")]
    assert gamma == sorted(gamma, reverse=True), "the cost falls with gamma, as the text's sign does and the printed one does not"


def text(metric, column=None):
    with open(FOLDER / "cscr_text.csv", newline="") as f:
        got = [r for r in csv.DictReader(f) if r["metric"] == metric]
    return [Fraction(r["value"]) for r in got if column in (None, r["column"])]


def test_numbers_of_the_text():
    with open(FOLDER / "cscr_text.csv", newline="") as f:
        got = list(csv.DictReader(f))
    assert list(got[0]) == FIELDS and all(r[c] for r in got for c in FIELDS)
    assert len({(r["row"], r["metric"], r["column"]) for r in got}) == len(got)
    assert len(load_published("cscr", "Text")) == len(got)
    one = cells(1)
    areas = {r: v for (r, m, c), v in one.items() if (m, c) == ("AUDC", "RouterBench")}
    gains = {r: round(100 * (areas["CSCR"] / v - 1)) for r, v in areas.items()}
    assert text("improvement of the accuracy-cost tradeoff, up to") == [gains["UMR"]] == [25]
    assert gains["Thompson"] == 14 and gains["Parametric"] == 3
    asked = text("training questions")[0], text("training questions of all kinds")[0]
    assert asked == (18193, 36054) and text("test prompts") == [1060]
    assert sum(text("times selected")) == 616


def test_what_does_not_fit_in_the_text():
    "Named, not repaired: two strengths of one penalty, and a baseline below a single model."
    penalty = {c: text("negative cost penalty", c)[0] for c in ("section 4.1", "section D.1")}
    assert penalty == {"section 4.1": Fraction("0.2"), "section D.1": Fraction("0.1")}
    peaks = {r: v for (r, m, c), v in cells(1).items() if (m, c) == ("peak", "RouterBench")}
    single = Fraction("0.794")   # what CSCR, Soft-MoE and Parametric reach by asking one model
    assert peaks["CSCR"] == peaks["Soft-MoE"] == peaks["Parametric"] == single
    assert peaks["UMR"] == Fraction("0.615") < single
    readme = (project_root() / "data" / "README.md").read_text()
    for printed in (".2 in section 4.1", ".711 / .568", ".615", ".794"):
        assert printed in readme, "each is listed in data/README.md"
