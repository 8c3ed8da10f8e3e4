"Printed numbers recomputed: transcriptions read twice, and what follows from what."

import csv

import numpy as np
import pandas as pd
import pytest

from routercompanion.core import project_root
from routercompanion.studies import arithmetic

FOLDER = project_root() / "data/paper/published"

# A second reading of each table: how many numbers, their sum, their position-weighted sum.
SECOND_READING = {
    "arch_router_table1": (32, 2509.95, 44920.3),
    "arch_router_table2": (32, 2682.57, 47238.3),
    "automix_results": (45, 400.23, 10527.7),
    "automix_v1_main": (80, 2434.3, 106271),
    "avengers_pro_baseline": (63, 3065.76, 107645),
    "avengers_pro_readme": (111, 5281.35, 318290),
    "cascade_routing_table1": (90, 6921.84, 320718),
    "cascade_routing_table2": (45, 2632.17, 64867.1),
    "cascade_routing_table4": (270, 1188.63, 248313),
    "cascade_routing_table6": (129, 432.17, 38928.6),
    "cp_router_table1": (504, 18357.9, 4.84755e06),
    "cp_router_table3": (20, 904, 8833.4),
    "cp_router_table4": (6, 4.01586e06, 2.12231e07),
    "graphrouter_table4": (72, 22.3131, 811.057),
    "graphrouter_table5": (20, 1165.65, 12409.2),
    "greenserv_x1": (104, 18497.5, 1.00846e06),
    "greenserv_x3": (352, 24483, 3.84193e06),
    "llmrouterbench_table10": (142, 4543.71, 299072),
    "llmrouterbench_table6": (300, 14496.8, 2.14552e06),
    "llmrouterbench_table7": (32, 565.243, 9228.95),
    "model_spider_baseline_scores": (720, -3.21225e06, -1.43374e09),
    "model_spider_finetuning": (200, 3367.61, -169594),
    "model_spider_table": (90, 38.931, 1557.34),
    "paretobandit_results": (91, 7844.7, 53304.3),
    "paretobandit_table": (68, 1748.12, 53849.6),
    "scope_table1": (64, 1954.35, 66693.6),
    "zooter_table1": (160, 1091.72, 95939),
    "zooter_table2": (40, 98.83, 2086.43),
}
FIELDS = "paper,item,row,column,metric,value,unit,data,source".split(",")


@pytest.fixture(scope="module")
def papers():
    return arithmetic.arithmetic_table(arithmetic.PAPERS)


@pytest.fixture(scope="module")
def systems():
    return arithmetic.arithmetic_table(arithmetic.SYSTEMS)


def test_every_table_is_read_twice():
    names = {path.stem for path in FOLDER.glob("*.csv")}
    assert names == {*SECOND_READING, "carrot_right_answers", "carrot_prices"}


@pytest.mark.parametrize("name", SECOND_READING)
def test_agrees_with_the_second_reading(name):
    with open(FOLDER / f"{name}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == FIELDS and all(row["source"] for row in rows)
    values = np.array([float(row["value"]) for row in rows])
    found = (len(values), values.sum(), (values * np.arange(1, len(values) + 1)).sum())
    assert np.allclose(found, SECOND_READING[name], rtol=1e-4)


def test_carrot_counts_are_whole_and_possible():
    table = arithmetic.published_numbers("carrot_right_answers")
    models, accuracy, queries, prices = arithmetic.carrot_accuracy()
    assert len(table) == 38 and len(models) == 19 and queries.sum() == 21065
    assert np.isnan(accuracy).sum() == 1, "SOLAR is absent from one task"
    known = accuracy[~np.isnan(accuracy)]
    assert (known >= 0).all() and (known <= 1).all() and (prices > 0).all()
    for column in models:
        given = table[column][table[column] != ""].astype(int)
        assert (given <= table["queries"].astype(int)[given.index]).all()


def test_a_row_says_what_it_is(papers, systems):
    for table in (papers, systems):
        assert list(table) == list(arithmetic.COLUMNS)
        assert set(table.follows) == {"yes", "no"}
        assert set(table.basis) <= {arithmetic.PUBLIC, arithmetic.OWN}
        assert (table[["group", "paper", "item", "what", "why", "source"]] != "").all().all()
        assert not table.duplicated(["group", "item", "what"]).any()


@pytest.mark.parametrize(
    "printed, value, digits, slack, follows",
    [
        (68.70, 68.695, 2, 0, "yes"),
        (68.70, 68.6949, 2, 0, "no"),
        (68.70, 68.6933, 2, 0.002, "yes"),
        (3, 2.833, 0, 0, "yes"),
        (1.0, float("nan"), 1, 0, "no"),
    ],
)
def test_following(printed, value, digits, slack, follows):
    row = arithmetic.Printed("p", "s").number("g", "T", "w", printed, value, digits, slack=slack)
    assert row["follows"] == follows


def test_figures_4_and_5_of_who_routes_are_reproduced(papers):
    bands = papers[papers.group == "who-routes-figure4"]
    assert bands.recomputed.tolist() == [28, 3, 7] and (bands.follows == "yes").all()
    ranks = papers[papers.group == "who-routes-figure5"]
    assert ranks.recomputed.round(2).tolist() == [2.97, 3.80, 4.93, 5.70, 6.09]
    assert (ranks.basis == arithmetic.PUBLIC).all()


def test_what_does_not_follow_in_the_five_papers(papers):
    wrong = papers[papers.follows == "no"].group.value_counts().to_dict()
    assert wrong == {
        "xbench-averages": 8,
        "xbench-abstract-16.68": 1,
        "xbench-alpaca-71.96": 1,
        "xbench-one-probe-two-values": 1,
        "who-routes-table3": 1,
        "who-routes-mf-most-robust": 1,
        "confidence-training-12247": 1,
        "confidence-random-row-second-pair": 1,
        "cscr-table15": 1,
        "cscr-table16-difference": 1,
        "cscr-qnc-lower": 1,
        "cscr-text-461": 2,
        "cscr-default-setting": 6,
        "cscr-sign-of-equation-8": 1,
        "survey-routerbench-405k": 1,
        "survey-greenserv-31": 1,
    }


def test_what_does_not_follow_in_the_systems(systems):
    "The cells that a reader of these tables found by other means."
    wrong = systems[systems.follows == "no"].groupby("group").what.agg(list).to_dict()
    assert {name: len(rows) for name, rows in wrong.items()} == {
        "cp-router-utility": 2,
        "avengers-pro-averages": 1,
        "llmrouterbench-table6": 2,
        "llmrouterbench-table10": 1,
        "graphrouter-table4": 2,
        "scope-pgr": 1,
        "model-spider-taus": 3,
        "arch-router-table1": 3,
        "zooter-mtr": 1,
    }
    assert {row.split(" on ")[1] for row in wrong["model-spider-taus"]} == {"Aircraft"}
    assert wrong["llmrouterbench-table10"] == ["total cost of GLM-4.6"]


def test_a_changed_number_is_noticed(monkeypatch):
    "A printed average that is one unit off does not follow any more."
    real = arithmetic.published_numbers

    def changed(name, root=None):
        table = real(name, root)
        if name == "arch_router_table2":
            place = (table["row"] == "GPT-4o") & (table["column"] == "Turn Overall")
            table.loc[place, "number"] += 0.02
        return table

    monkeypatch.setattr(arithmetic, "published_numbers", changed)
    rows = pd.DataFrame(arithmetic.arch_router())
    wrong = rows[(rows.group == "arch-router-table2") & (rows.follows == "no")]
    assert len(wrong) == 2 and wrong.what.str.contains("GPT-4o").all()


def test_summary(papers):
    summary = arithmetic.arithmetic_summary(papers).set_index("group")
    assert summary.loc["xbench-averages", ["numbers", "follow"]].tolist() == [75, 67]
    assert summary.loc["who-routes-figure5", "first that does not"] == ""
