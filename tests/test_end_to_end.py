"What a newcomer does: the README's example on a CSV of one's own, and the evidence rules on what is committed."
import re

import numpy as np
import pandas as pd
import pytest

from routercompanion.data.banks.embedded import TASKS
from routercompanion.core import project_root
from routercompanion.data.evidence import evidence_check
from routercompanion.data.outcomes import OutcomeTable
from routercompanion.data.records import outcomes_path
from routercompanion.models.causal_lm import LARGE, MODELS, SMALL

ROOT = project_root()


@pytest.mark.model
def test_the_five_lines_of_the_readme_route_ones_own_csv(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)[1]
    rng = np.random.default_rng(0)
    a, b = rng.integers(2, 99, 160), rng.integers(2, 9, 160)
    hard = rng.random(160) < .25
    prompts = [f"What is {x} * {y}?" if h else f"Which letter follows {chr(97 + y)} in {x}?" for x, y, h in zip(a, b, hard)]
    frame = pd.DataFrame(dict(prompt=[f"{p} ({i})" for i, p in enumerate(prompts)], task=np.where(hard, "sums", "letters"),
                              small=(rng.random(160) < np.where(hard, .1, .9)).astype(int), large=(rng.random(160) < .9).astype(int)))
    frame.to_csv(tmp_path / "mine.csv", index=False)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.strip() == "[ True]", "a product is sent to the large model"


@pytest.fixture(scope="module")
def recorded(): return OutcomeTable.from_parquet(outcomes_path("embedded"))


def test_the_record_is_whole_and_holds_no_text(recorded):
    assert recorded.models == list(MODELS) and len(recorded) == 9600 and recorded.prompts is None and not np.isnan(recorded.score).any()
    assert recorded.provenance.startswith("recorded") and {"tokens", "latency_s", "params_b"} <= set(recorded.cost)
    sizes = pd.Series(recorded.domain).groupby([recorded.split, recorded.domain]).size()
    assert (sizes["train"] == 1200).all() and (sizes["test"] == 1000).all() and (sizes["ood"] == 500).all() and len(sizes) == 12


def test_columns_obey_the_evidence_rule(recorded):
    test = evidence_check(recorded.subset(np.flatnonzero(recorded.split != "train")), SMALL, LARGE, by="domain", n_resamples=500)
    assert test.auroc_ok.all(), test[~test.auroc_ok]
    in_domain = np.unique(recorded.domain[recorded.split == "test"])
    assert test.loc[in_domain].gap_ok.all(), test.loc[in_domain]


def test_the_pilot_covers_every_candidate_and_no_query_of_the_bank(recorded):
    pilot = OutcomeTable.from_parquet(outcomes_path("pilot"))
    assert set(np.unique(pilot.task)) == {t.name for t in TASKS}
    assert not set(pilot.query_ids) & set(recorded.query_ids)
