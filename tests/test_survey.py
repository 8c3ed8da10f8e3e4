"The survey's two tables: rows as printed, classes as registered, ticks as the classes say."

import pandas as pd
import pytest

from routercompanion.core import CompanionError
from routercompanion.routers.registry import list_routers
from routercompanion.studies import survey

PRINTED = (
    "BEST-Route, vLLM Router, RouteLMT, EmbedLLM, ICL-Router, GraphRouter, IRT-Router, RouteLLM, "
    "Hybrid LLM, Arch-Router, P2L, Eagle, Zooter, UniRoute, Avengers-Pro, Router-R1, R2-Reasoner, "
    "SCOPE, MetaLLM, MixLLM, PILOT, GreenServ, Dueling Feedback, TI-UCB, CP-Router, "
    "Probe-based UQ, FrugalGPT, Cascade Routing, AutoMix, Self-REF, LM-Blender"
).split(", ")


@pytest.fixture(scope="module")
def routers():
    return list_routers()


def test_rows_as_printed(routers):
    one, two = survey.survey_table(1, routers), survey.survey_table(2, routers)
    assert one.system[one.place == "Table 1"].tolist() == PRINTED and len(PRINTED) == 31
    assert one.system[31:].tolist() == ["Model-Spider", "ReLope", "MMR-Bench"]
    assert len(two) == 30 and two.system.is_unique
    assert two.set_index("system").paradigm["Hybrid LLM"] == "Preference"
    printed = two[["paradigm", "mechanism", "training_data", "section", "source"]]
    assert (printed != "").all().all()


@pytest.mark.parametrize("number", [1, 2])
def test_router_and_status(number, routers):
    table = survey.survey_table(number, routers)
    assert set(table.router) <= {*routers.name, ""} and set(table.status) <= set(survey.STATUS)
    assert ((table.router != "") == (table.status == "embodied")).all()
    assert ((table.takes != "") == (table.router == "")).all(), "what is missing is said"


def test_ticks_are_those_of_the_class(routers):
    table = survey.survey_table(1, routers).set_index("system")
    about = routers.set_index("name")
    for system, row in table[table.router != ""].iterrows():
        assert row["Pre-gen."] == ("✓" if about.loc[row["router"], "when"] == "before" else "")
        assert row["Supervised"] == ("✓" if "supervised" in about.loc[row["router"], "how"] else "")
    empty = table[table.router == ""]
    assert (empty[list(survey.TICKS)] == "").all().all()


def test_a_row_fills_when_a_router_of_its_name_lands(routers):
    new = {"name": "ZooterRouter", "when": "before", "signals": "query", "how": "supervised"}
    table = survey.survey_table(1, pd.concat([routers, pd.DataFrame([new])])).set_index("system")
    assert table.loc["Zooter", "router"] == "ZooterRouter" and table.loc["Zooter", "Query"] == "✓"


def test_a_class_that_is_not_there_is_named(routers):
    with pytest.raises(CompanionError, match="KMeansRouter for UniRoute"):
        survey.survey_table(1, routers[routers.name != "KMeansRouter"])
