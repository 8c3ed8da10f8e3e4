"Claims: every rule is read, every verdict follows from it, and what is wrong is named."

import shutil

import numpy as np
import pandas as pd
import pytest

from routercompanion.core import project_root
from routercompanion.reading import FileError
from routercompanion.report import claims
from routercompanion.report.tables import VERDICTS, item_claim, load_items

ROOT = project_root()


@pytest.fixture(scope="module")
def judged():
    return claims.judge_claims(ROOT)


@pytest.fixture
def copy(tmp_path):
    "The parts of the project that the page of claims is made of."
    for name in ("data/paper", "figures"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "nbs/papers").mkdir(parents=True)
    shutil.copy(ROOT / "nbs/papers/steps.toml", tmp_path / "nbs/papers/steps.toml")
    return tmp_path


def rewrite(root, name, old, new):
    path = root / name
    text = path.read_text(encoding="utf-8")
    assert text.count(old) >= 1, f"{name} does not hold {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


# ---------------------------------------------------------------- the list


def test_every_item_has_its_claim():
    items, known = load_items(), set(claims.load_claims(ROOT).claim_id)
    missing = [item_claim(p, i) for p, i in zip(items.paper, items["item"])]
    assert [name for name in missing if name not in known] == []


def test_there_are_claims_of_every_paper_and_kind():
    table = claims.load_claims(ROOT)
    assert len(table) >= 80
    assert set(table.paper) == {"xbench", "who-routes", "confidence", "cscr", "survey"}
    assert set(table.kind) == set(claims.CLAIM_KINDS)
    numbers = {"xbench-abstract-16.68", "xbench-abstract-18.86", "who-routes-abstract-33337"}
    assert numbers | {"cscr-abstract-25"} <= set(table.claim_id), "numbers of the abstracts"


def test_every_rule_is_read():
    for text in claims.load_claims(ROOT).rule:
        rule = claims.parse_rule(text)
        assert rule.reason if rule.verb == "not tested" else rule.table.count("/") == 1


# ---------------------------------------------------------------- verdicts


def test_every_verdict_again(judged):
    "The committed page is what the rules give, row by row."
    committed = pd.read_csv(ROOT / "figures/claims.csv")
    assert list(committed) == list(claims.RESULT_COLUMNS)
    assert committed.claim_id.tolist() == judged.claim_id.tolist()
    for row in committed.to_dict("records"):
        found = claims.judge_claim(claims.parse_rule(row["rule"]), ROOT / "figures")
        assert found["verdict"] == row["verdict"], row["claim_id"]
        for name in ("ours", "low", "high", "n"):
            assert np.isclose(found[name], row[name], atol=1e-6, equal_nan=True), row["claim_id"]


def test_verdicts_follow_from_the_numbers_that_are_shown(judged):
    "Read another way: from the shown interval alone, without the table."
    assert set(judged.verdict) <= set(VERDICTS)
    shown = judged[judged.low.notna()]
    assert len(shown) > 60 and (shown.low <= shown.high).all()
    for row in shown.to_dict("records"):
        verb, margin = row["rule"].split(":")[0], claims.parse_rule(row["rule"]).options
        low, high, margin = row["low"], row["high"], margin.get("margin", 0.0)
        holds, fails = {
            "above zero": (low > 0, high < 0),
            "some above zero": (low > 0, high < 0),
            "below zero": (high < 0, low > 0),
            "at most": (high <= margin, low > margin),
            "level": (max(abs(low), abs(high)) <= margin, low > margin or high < -margin),
        }[verb]
        want = "agrees" if holds else "disagrees" if fails else "cannot tell"
        assert row["verdict"] == want, row["claim_id"]


def test_what_public_data_decide(judged):
    verdict = judged.set_index("claim_id").verdict
    for name in ("who-routes-figure4", "who-routes-figure5", "confidence-random-row"):
        assert verdict[name] == "reproduced"
    for name in ("xbench-abstract-16.68", "cscr-table15", "confidence-training-12247"):
        assert verdict[name] == "does not follow"
    assert verdict["xbench-abstract-18.86"] == "agrees", "by the paper's own numbers"


def test_simultaneous_intervals_go_first():
    table = claims.read_result("embedded/xbench_table1_differences", ROOT / "figures")
    rule = claims.load_claims(ROOT).set_index("claim_id").rule["xbench-hidden-over-encoder-id"]
    row = claims.claim_evidence(rule, ROOT / "figures").iloc[0]
    same = table[(table.second == "EmbeddingMLP") & (table["columns"] == "in-domain")]
    same = same[same.metric == "within-task AUROC"].iloc[0]
    assert np.isclose(row["low"], 100 * float(same["simultaneous_low"]))
    assert not np.isclose(row["low"], 100 * float(same["low"]))


# ---------------------------------------------------------------- bad input


def test_the_project_has_nothing_to_complain_about():
    assert claims.claim_problems(ROOT) == []


def test_a_row_edited_by_hand_is_named(copy):
    assert claims.claim_problems(copy) == []
    path = copy / "figures/claims.csv"
    lines = path.read_text(encoding="utf-8").split("\n")
    place = next(i for i, line in enumerate(lines) if ",disagrees," in line)
    lines[place] = lines[place].replace(",disagrees,", ",agrees,")
    path.write_text("\n".join(lines), encoding="utf-8")
    (problem,) = claims.claim_problems(copy)
    assert (
        f"figures/claims.csv, line {place + 1}" in problem and "routercompanion claims" in problem
    )
    claims.write_claims(copy)
    assert claims.claim_problems(copy) == []


def test_two_writings_are_byte_equal(copy):
    first = [path.read_bytes() for path in claims.write_claims(copy)]
    assert [path.read_bytes() for path in claims.write_claims(copy)] == first
    assert first == [(ROOT / f"figures/claims.{end}").read_bytes() for end in ("csv", "md")]


def test_a_rule_that_names_a_missing_row(copy):
    rewrite(copy, "data/paper/claims.csv", "first=ProbeDirichlet; metric", "first=ProbeX; metric")
    problems = claims.claim_problems(copy)
    assert "claim xbench-table1" in problems[0] and "no row with first = 'ProbeX'" in problems[0]
    assert "'ProbeDirichlet'" in problems[0], "the names that are there"
    with pytest.raises(claims.RuleError, match="Claim xbench-table1: .*ProbeX"):
        claims.write_claims(copy)


def test_a_claim_without_a_rule(copy):
    path = copy / "data/paper/claims.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[3, "rule"] = ""
    table.to_csv(path, index=False)
    (problem,) = claims.claim_problems(copy)
    assert table.claim_id[3] in problem and "has no rule" in problem and "row 5" in problem


def test_a_claim_twice(copy):
    path = copy / "data/paper/claims.csv"
    table = pd.read_csv(path, dtype=str)
    pd.concat([table, table.head(1)]).to_csv(path, index=False)
    with pytest.raises(FileError, match="the claim of row 2 again"):
        claims.load_claims(copy)


def test_a_status_that_an_item_does_not_earn(copy):
    path = copy / "data/paper/items.csv"
    items = pd.read_csv(path, dtype=str)
    items.loc[0, "status"] = "reproduced"
    items.to_csv(path, index=False)
    problems = claims.claim_problems(copy)
    assert any(
        "xbench Table 1 is called reproduced, but claim xbench-table1" in p for p in problems
    )


def test_a_status_that_a_row_does_not_earn(copy):
    path = copy / "figures/bench/confidence_table1_random.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[1, "verdict"] = "disagrees"
    table.to_csv(path, index=False)
    problems = claims.claim_problems(copy)
    assert any("confidence_table1_random.csv, row 3: called reproduced" in p for p in problems)


@pytest.mark.parametrize(
    "text", ["", "perhaps: a/b", "above zero", "level: a/b; row=x", "value: a/b; of=x"]
)
def test_a_rule_that_cannot_be_read(text):
    with pytest.raises(claims.RuleError):
        claims.parse_rule(text)


def test_lint_holds_the_page():
    from routercompanion.reproduce import lint

    assert "claims" in lint._LINT and lint.CHECKS["claims"](ROOT) == []


def test_the_summary_of_the_front_page(copy):
    text = claims.claims_summary(copy)
    assert (
        "| all |" in text and "reproduced" in text and text.count("\n- ") == len(claims.HEADLINES)
    )
    (copy / "figures/claims.csv").unlink()
    assert "first run" in claims.claims_summary(copy)
