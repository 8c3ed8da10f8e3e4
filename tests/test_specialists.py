import json

import numpy as np
import pytest
import torch
from tiny_models import tiny_llama

from routercompanion import core
from routercompanion.models import adapters
from routercompanion.data.bank import make_bank
from routercompanion.data.banks.embedded import IN_DOMAIN, embedded_bank
from routercompanion.core import content_hash
from routercompanion.models.causal_lm import load_causal_lm
from routercompanion.data.outcomes import OutcomeTable
from routercompanion.data.records import outcomes_path
from routercompanion.models.causal_lm import SMALL
from routercompanion.models.adapters import (
    SpecialistError, answer_start, common_ending, completion_loss, completions, epoch_batches,
    fresh_adapter, load_specialist, rate, read_specialist, train_specialist, training_rows,
    with_adapter,
)

SETTINGS = dict(rank=4, rows=None, epochs=4, lr=2e-2, batch_size=8, first_layer=0)


@pytest.fixture(scope="module")
def bank():
    rows = [dict(prompt=f"\nQ: {a} + {b}\nA:", references=[str(a + b)], task=f"sum{a % 2}", domain="sums", source="made up", split="train" if b < 7 else "test") for a in range(1, 7) for b in range(9)]
    rows += [dict(prompt=f"\nSay {w}\n", references=[w], task="echo", domain="words", source="made up", split="train") for w in ("ab", "cd", "ef")]
    return make_bank(rows, {"sum0": "\nQ: 9 + 1\nA: 10", "sum1": "\nQ: 9 + 2\nA: 11", "echo": "\nSay yz\nyz"}, "toy")


@pytest.fixture(scope="module")
def base(tmp_path_factory): return tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(bank, base, tmp_path_factory): return train_specialist(bank, "sums", base=base, name="adder", folder=tmp_path_factory.mktemp("adapters") / "adder", **SETTINGS)


def test_answers_start_as_in_the_shots(bank, base):
    assert common_ending(["ab:", "cb:"]) == "b:" and common_ending(["a", "b"]) == ""
    assert answer_start("\nQ: 9 + 1\nA: 10", ["\nQ: 1 + 1\nA:"] * 2) == " " and answer_start("\nSay yz\nyz", ["\nSay ab\n", "\nSay cd\n"]) == ""
    lm, part = load_causal_lm(base, dtype=torch.float32), bank.select(split="train")
    assert [lm.tokenizer.decode(x) for x in completions(lm, part)] == [(" " if d == "sums" else "") + r[0] + "\n" for d, r in zip(part.table.domain, part.table.references)]


def test_only_training_rows_of_the_column(bank):
    part = training_rows(bank, "sums")
    assert len(part) == 42 and set(part.table.split) == {"train"} and set(part.table.domain) == {"sums"}
    few = training_rows(bank, "sums", rows=5, rng=1)
    assert len(few) == 5 and set(few.query_ids) < set(part.query_ids) and list(few.query_ids) == list(training_rows(bank, "sums", rows=5, rng=1).query_ids)
    with pytest.raises(SpecialistError, match="Columns with training rows: sums, words"): training_rows(bank, "poems")


def test_training_reads_nothing_else(bank, base, tmp_path, monkeypatch):
    seen, inner = [], adapters.completion_loss
    monkeypatch.setattr(adapters, "completion_loss", lambda lm, ids, answers, shots: seen.extend(map(lm.tokenizer.decode, ids)) or inner(lm, ids, answers, shots))
    train_specialist(bank, "sums", base=base, folder=tmp_path / "a", **{**SETTINGS, "epochs": 1})
    assert sorted(seen) == sorted(bank.select(split="train", domain="sums").table.prompt)


def test_loss_is_that_of_score(bank, base):
    lm, part = load_causal_lm(base, dtype=torch.float32), training_rows(bank, "words")
    answers = completions(lm, part)
    loss = completion_loss(lm, lm.tokens(part.table.prompt), answers, part.shots["echo"])
    scored = lm.score(part, [lm.tokenizer.decode(a) for a in answers])
    assert np.isclose(float(loss.detach()), -scored.log_likelihood.sum() / scored.tokens.sum(), rtol=1e-4)


def test_gradients_flow_through_the_shots(bank, base):
    lm, part = load_causal_lm(base, dtype=torch.float32), training_rows(bank, "words")
    ids, answers, shots = lm.tokens(part.table.prompt), completions(lm, part), part.shots["echo"]
    whole = lm.tokens([shots])[0]
    loss = completion_loss(lm, ids, answers, shots)
    loss.backward()
    got = lm.model.model.layers[0].self_attn.k_proj.weight.grad.clone()
    lm.model.zero_grad()
    terms = []   # plain statement: one unpadded row at a time, shots written out, no cache
    for x, a in zip(ids, answers):
        logits = lm.model(torch.tensor([whole + x + a])).logits[0, len(whole) + len(x) - 1:-1]
        terms.append(torch.nn.functional.cross_entropy(logits, torch.tensor(a), reduction="sum"))
    plain = sum(terms) / sum(map(len, answers))
    plain.backward()
    assert torch.allclose(loss, plain, atol=1e-5) and torch.allclose(got, lm.model.model.layers[0].self_attn.k_proj.weight.grad, atol=1e-5)


def test_training_lowers_the_loss_and_is_deterministic(bank, base, trained, tmp_path):
    stored = read_specialist(trained)
    first, last = (np.mean([x["loss"] for x in stored.log if x["epoch"] == e]) for e in (0, SETTINGS["epochs"] - 1))
    assert last < first
    again = read_specialist(train_specialist(bank, "sums", base=base, name="adder", folder=tmp_path / "again", **SETTINGS))
    other = read_specialist(train_specialist(bank, "sums", base=base, name="adder", folder=tmp_path / "other", **SETTINGS, random_state=1))
    assert again.about["adapter_sha256"] == stored.about["adapter_sha256"] != other.about["adapter_sha256"] and again.log == stored.log
    assert {"base_sha256", "rows_sha256", "random_state", "versions", "threads"} <= set(stored.about)


def test_merged_is_unmerged(bank, base, trained):
    beside, merged = load_causal_lm(base, dtype=torch.float32), load_specialist(trained, dtype=torch.float32)
    plain = load_causal_lm(base, dtype=torch.float32)
    tokens, before = torch.tensor([beside.tokens(["\nQ: 3 + 4\nA:"])[0]]), plain.hash
    with torch.no_grad():
        a, b, c = with_adapter(beside, trained)(tokens).logits, merged.model(tokens).logits, plain.model(tokens).logits
    assert torch.allclose(a, b, atol=1e-4) and not torch.allclose(b, c, atol=1e-2)
    assert merged.name == "adder" and merged.column == "sums" and merged.hash != before and merged.parameters_b == plain.parameters_b
    assert len(merged.generate(bank.take(range(3)), max_new_tokens=4).text) == 3


def test_an_adapter_starts_as_its_base_and_keeps_above_the_first_layer(base):
    lm, plain = load_causal_lm(base, dtype=torch.float32), load_causal_lm(base, dtype=torch.float32)
    model, tokens = fresh_adapter(lm, rank=2, first_layer=1), torch.tensor([[5, 6, 7]])
    with torch.no_grad(): assert torch.equal(model(tokens).logits, plain.model(tokens).logits)
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trainable and all("layers.1." in n and "lora" in n for n in trainable)


def test_damage_and_other_weights_are_refused(base, trained, tmp_path):
    import shutil
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    (copy / "adapter_model.safetensors").write_bytes((copy / "adapter_model.safetensors").read_bytes()[:-4])
    with pytest.raises(SpecialistError, match="adapter_model.safetensors is missing or not the file"): load_specialist(copy)
    with pytest.raises(SpecialistError, match="no whole adapter"): load_specialist("nobody")
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    about = json.loads((other / "provenance.json").read_text())
    core.write_json(other / "provenance.json", about | {"base": tiny_llama(tmp_path / "b2", seed=1)})
    with pytest.raises(SpecialistError, match="was trained on other weights"): load_specialist(other)


def test_batches_and_rate():
    batches = epoch_batches(list("aaabbbbb"), 2, np.random.default_rng(0))
    assert sorted(np.concatenate(batches)) == list(range(8)) and all(len(b) <= 2 and len({i < 3 for i in b}) == 1 for b in batches)
    r = [rate(s, 20) for s in range(20)]
    assert r[0] == .5 and r[1] == 1 == max(r) and r[1:] == sorted(r[1:], reverse=True) and 0 < r[-1] < .02


def test_committed_adapters_are_whole_and_small():
    assert {read_specialist(name).about["column"] for name in adapters.specialist_names()} == set(IN_DOMAIN), "one for each column that has training rows"
    for name in adapters.specialist_names():
        stored = read_specialist(name)
        assert (stored.folder / "adapter_model.safetensors").stat().st_size <= 2 << 20 and stored.about["name"] == name and stored.about["base"] == SMALL
        assert [step["step"] for step in stored.log] == list(range(len(stored.log))) and sum(stored.about["tasks"].values()) == stored.about["rows"] <= 1200
        first, last = (np.mean([step["loss"] for step in part]) for part in (stored.log[:4], stored.log[-4:]))
        assert last < first, "training lowered the loss"


@pytest.mark.model
def test_committed_adapters_were_trained_on_training_rows_of_their_column():
    bank = embedded_bank("embedded")
    for about in (read_specialist(name).about for name in adapters.specialist_names()):
        rows = training_rows(bank, about["column"], rows=about["rows"], rng=about["random_state"])
        assert set(rows.table.split) == {"train"} and content_hash(list(rows.query_ids)) == about["rows_sha256"]


def test_the_record_of_the_specialists_is_theirs_and_covers_the_bank():
    special, base = (OutcomeTable.from_parquet(outcomes_path(name)) for name in ("specialists", "embedded"))
    whole = base.merge(special)   # the same queries, tasks, columns and splits, or this raises
    assert set(special.models) == set(adapters.specialist_names()) and len(whole.models) == 6 and len(whole) == 9600 and not np.isnan(special.score).any() and special.prompts is None
    assert special.provenance.startswith("recorded") and (special.cost["params_b"] == base.select([SMALL]).cost["params_b"]).all()
    for name in special.models:
        about, kept = special.metadata[name], read_specialist(name).about
        assert all(about[k] == kept[k] for k in ("base", "column", "adapter_sha256", "base_sha256")) and about["weights_sha256"] != kept["base_sha256"]
