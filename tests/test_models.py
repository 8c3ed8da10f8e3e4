"""Models: batches, pooled states, logit statistics, resumption, answers, hub folders. Those marked `model` read SmolLM2-135M from the cache of assets.

Numbers are compared with plain one-query passes: tightly in float32, and within a stated tolerance in bfloat16 (8 bits of mantissa, 30 layers).
Sampling, scoring and the options of `features` are tested on a tiny random Gemma 3 (sliding window, start token, chat template), made here in float32.
"""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.numpy import load_file

from routercompanion.models import causal_lm, features
from routercompanion.data.bank import make_bank
from routercompanion.data.outcomes import OutcomeTable
from routercompanion.data.records import outcomes_path
from routercompanion.core import CompanionError, file_hash, project_root
from routercompanion.features.kinds import float32_rows
from routercompanion.assets.store import resolve_model
from routercompanion.models.causal_lm import (
    PromptTooLongError,
    TokenError,
    load_causal_lm,
    own_uniforms,
    pick,
    plan_batches,
)
from routercompanion.models.features import (
    FeatureFileError,
    FeatureStore,
    ModelError,
    TruncatedTextWarning,
    create_tensor,
    load_encoder,
    open_tensor,
    token_statistics,
    write_batch,
)
from routercompanion.reading import safe_name
from tiny_models import tiny_llama

SMALL = "smollm2-135m-instruct"


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("ROUTERCOMPANION_QUIET", "1")


# ---------- batches ----------

rows_of = st.lists(st.tuples(st.integers(1, 60), st.sampled_from("abc")), min_size=1, max_size=40)


@given(rows_of, st.integers(20, 300), st.integers(1, 12))
def test_a_plan_covers_every_row_once_within_its_budgets(rows, budget, largest):
    lengths, tasks, ids = (
        [n for n, _ in rows],
        [t for _, t in rows],
        [f"{i:03d}" for i in range(len(rows))],
    )
    plan = plan_batches(lengths, tasks, ids, batch_tokens=budget, largest=largest)
    assert sorted(i for b in plan for i in b) == list(range(len(rows))) and all(plan)
    for b in plan:
        assert len({tasks[i] for i in b}) == 1 and len(b) <= largest
        assert len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget
        assert [lengths[i] for i in b] == sorted(lengths[i] for i in b)
    for a, b in zip(plan, plan[1:]):  # a batch ends only when the next row does not fit
        if tasks[a[0]] == tasks[b[0]]:
            assert len(a) == largest or (len(a) + 1) * lengths[b[0]] > budget


@given(rows_of, st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_the_order_of_the_rows(rows, rng):
    ids = [f"{i:03d}" for i in range(len(rows))]
    order = list(range(len(rows)))
    rng.shuffle(order)
    plan = lambda o: [
        [ids[o[i]] for i in b]
        for b in plan_batches(
            [rows[j][0] for j in o],
            [rows[j][1] for j in o],
            [ids[j] for j in o],
            batch_tokens=100,
            largest=5,
        )
    ]
    assert plan(list(range(len(rows)))) == plan(order)


# ---------- statistics of the logits ----------


@given(st.integers(0, 10_000), st.integers(3, 60), st.sampled_from([0.1, 3.0, 40.0]))
def test_logit_statistics_agree_with_float64(seed, vocabulary, scale):
    logits = (scale * np.random.default_rng(seed).normal(size=(4, vocabulary))).astype(np.float32)
    x = logits.astype(np.float64)
    normaliser = x.max(1) + np.log(np.exp(x - x.max(1, keepdims=True)).sum(1))
    p = np.exp(x - normaliser[:, None])
    ranked, best = np.sort(p, 1)[:, ::-1], np.argsort(-x, 1)
    found = token_statistics(logits, top=5)
    expected = dict(
        entropy=-(p * np.where(p > 0, x - normaliser[:, None], 0)).sum(1),
        margin=ranked[:, 0] - ranked[:, 1],
        max_logit=x.max(1),
        max_prob=ranked[:, 0],
        log_normaliser=normaliser,
    )
    for name, value in expected.items():
        assert np.allclose(found[name], value, rtol=2e-5, atol=2e-5) and found[name].shape == (
            4,
        ), name
    k = min(5, vocabulary)
    assert np.array_equal(found["top_tokens"], best[:, :k]) and np.allclose(
        found["top_logits"], np.take_along_axis(x, best[:, :k], 1)
    )


# ---------- files ----------


@pytest.mark.parametrize("cut", [1, 5, 40, 70, 120])
def test_a_truncated_tensor_file_is_named(tmp_path, cut):
    path = tmp_path / "mean.safetensors"
    array = create_tensor(path, "mean", (4, 3, 2))
    array[:] = np.arange(24).reshape(4, 3, 2)
    array.flush()
    assert np.array_equal(
        load_file(path)["mean"], np.arange(24).reshape(4, 3, 2)
    ) and np.array_equal(open_tensor(path, "mean"), np.arange(24).reshape(4, 3, 2))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(FeatureFileError, match="mean.safetensors.*delete its folder"):
        open_tensor(path, "mean")
    with pytest.raises(FeatureFileError, match="missing"):
        open_tensor(tmp_path / "none.safetensors", "mean")


class Pool:
    def __init__(self, states):
        self.mean = self.last = torch.as_tensor(states, dtype=torch.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5, -7e4])
def test_a_state_that_float16_cannot_hold_is_refused_and_its_row_named(tmp_path, value):
    arrays, _ = features.open_partial(tmp_path, ("mean", "last"), (9, 3, 2))
    states = np.ones((3, 3, 2))
    write_batch(arrays, [4, 7, 2], Pool(states), torch.zeros(3, 30), [1, 1, 1])
    states[1, 2, 0] = value
    with pytest.raises(FeatureFileError, match="row 7: a hidden state is not finite in float16"):
        write_batch(arrays, [4, 7, 2], Pool(states), torch.zeros(3, 30), [1, 1, 1])
    assert np.isfinite(arrays["mean"]).all()


@pytest.mark.parametrize("value", [1e5, -7e4, 3e38])
def test_bfloat16_stores_what_float16_cannot_and_reads_it_back(tmp_path, value):
    arrays, _ = features.open_partial(tmp_path, ("mean", "last"), (9, 3, 2), "BF16")
    states = np.ones((3, 3, 2))
    states[1, 2, 0] = value
    write_batch(arrays, [4, 7, 2], Pool(states), torch.zeros(3, 30), [1, 1, 1])
    found = open_tensor(tmp_path / "mean.safetensors", "mean")
    assert (
        found.dtype.name == "bfloat16"
        and found.shape == (9, 3, 2)
        and np.isclose(float(found[7, 2, 0]), value, rtol=2**-8)
        and np.isfinite(found.astype(np.float32)).all()
    )
    pieces = np.concatenate([p for _, p in float32_rows(found, rows=4)])  # what routers read
    assert pieces.dtype == np.float32 and np.array_equal(pieces, found.astype(np.float32))
    states[1, 2, 0] = np.nan
    with pytest.raises(FeatureFileError, match="row 7: a hidden state is not finite in bfloat16"):
        write_batch(arrays, [4, 7, 2], Pool(states), torch.zeros(3, 30), [1, 1, 1])


def test_an_unknown_tensor_type_is_refused(tmp_path):
    with pytest.raises(CompanionError, match="Unknown tensor type 'F8'"):
        create_tensor(tmp_path / "x.safetensors", "x", (2,), "F8")


# ---------- drawing ----------


@given(
    st.integers(0, 10_000),
    st.integers(2, 40),
    st.sampled_from([0.3, 0.7, 1.0, 2.0]),
    st.sampled_from([1.0, 0.9, 0.5]),
)
def test_a_draw_is_the_inverse_of_the_cumulated_probabilities(seed, vocabulary, temperature, top_p):
    rng = np.random.default_rng(seed)
    logits, u = rng.normal(size=(5, vocabulary)) * 2, rng.random(5)
    for row, at, token in zip(
        logits, u, pick(torch.tensor(logits), u, temperature, top_p).tolist()
    ):
        p = np.exp(row / temperature - (row / temperature).max())
        p /= p.sum()
        kept, mass = set(), 0.0
        for v in sorted(range(vocabulary), key=lambda v: -p[v]):
            if mass < top_p:
                kept.add(v)
            mass += p[v]
        edges = np.cumsum([p[v] if v in kept else 0.0 for v in range(vocabulary)])
        edges /= edges[-1]
        if np.abs(edges - at).min() > 1e-5:
            assert token == int((edges <= at).sum()) and token in kept


def test_temperature_zero_takes_the_likeliest_token_and_the_ends_of_u_are_safe():
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, -torch.inf]])
    assert (
        pick(logits, [0.1, 0.9], 0).tolist() == [1, 0]
        and pick(logits, [0.0, 0.0]).tolist() == [0, 0]
        and pick(logits, [1 - 2**-53] * 2).tolist() == [2, 1]
    )


def test_a_query_s_random_numbers_depend_on_its_id_and_the_seed_alone():
    few, many = own_uniforms(3, "q", 2, 4), own_uniforms(3, "q", 5, 24)
    assert (
        np.array_equal(many[:2, :4], few)
        and many.shape == (5, 24)
        and ((many >= 0) & (many < 1)).all()
        and len(np.unique(many)) == 120
    )
    assert not np.array_equal(own_uniforms(4, "q", 2, 4), few) and not np.array_equal(
        own_uniforms(3, "r", 2, 4), few
    )


# ---------- a tiny model of the Gemma 3 kind ----------

TEMPLATE = "{{ bos_token }}{% for m in messages %}<turn>{{ m['role'] }}: {{ m['content'] | trim }}</turn>{% endfor %}{% if add_generation_prompt %}<turn>model: {% endif %}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from tokenizers import Tokenizer, decoders, models as tokenizer_models, pre_tokenizers
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<bos>", "<turn>", "</turn>"]
    vocabulary = {t: i for i, t in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    plain = Tokenizer(tokenizer_models.BPE(vocabulary, []))
    plain.pre_tokenizer, plain.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        decoders.ByteLevel(),
    )
    plain.add_special_tokens(special)
    folder = tmp_path_factory.mktemp("tiny")
    PreTrainedTokenizerFast(
        tokenizer_object=plain,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=600,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        max_position_embeddings=700,
        initializer_range=0.4,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    Gemma3ForCausalLM(config).save_pretrained(folder)
    return load_causal_lm(str(folder), dtype=torch.float32)


def plain_logits(lm, ids):
    with torch.no_grad():
        return lm.model(torch.tensor([ids]), use_cache=False).logits[0].double()


def prompt_ids(lm, bank, row):
    return [2] + lm.tokenizer(
        bank.shots.get(bank.table.task[row], "") + bank.table.prompt[row], add_special_tokens=False
    ).input_ids


def drawn_by_hand(lm, bank, row, number, seed, temperature, steps):
    "One sampled answer by whole forward passes: its text and tokens, the sum of log p at temperature 1, and the number of tokens in that sum."
    ids, u, said, total, scored = (
        prompt_ids(lm, bank, row),
        own_uniforms(seed, bank.query_ids[row], number + 1, steps)[number],
        [],
        0.0,
        0,
    )
    for step in range(steps):
        logits = plain_logits(lm, ids + said)[-1]
        token = int((torch.softmax(logits / temperature, -1).cumsum(-1) <= u[step]).sum())
        total, scored = total + float(logits.log_softmax(-1)[token]), scored + 1
        if "\n" in lm.tokenizer.decode([token]) or token == 1:
            break
        said.append(token)
    return lm.tokenizer.decode(said), len(said), total, scored


def test_sampled_answers_are_those_of_plain_passes(tiny):
    bank = mixed_bank()
    found = tiny.sample(
        bank, samples=3, temperature=0.9, max_new_tokens=12, seed=5, batch_tokens=300
    )
    assert len(found.text) == len(
        bank
    ) and found.log_likelihood.shape == found.tokens_out.shape == (len(bank), 3)
    for row in range(len(bank)):
        for s in range(3):
            text, n, total, scored = drawn_by_hand(tiny, bank, row, s, 5, 0.9, 12)
            assert (
                found.text[row][s] == text
                and found.tokens_out[row, s] == n
                and found.tokens_scored[row, s] == scored
            )
            assert np.isclose(found.log_likelihood[row, s], total, atol=2e-3)
    assert (
        found.tokens_in.tolist() == [len(prompt_ids(tiny, bank, row)) for row in range(len(bank))]
        and (found.seconds > 0).all()
    )
    assert (
        len(set(found.tokens_out.ravel())) > 2
        and (found.tokens_scored > found.tokens_out).any()
        and len({t for r in found.text for t in r}) > len(bank)
    )


def test_sampling_depends_on_neither_the_order_of_the_bank_nor_the_batches(tiny):
    bank = mixed_bank()
    found, order = tiny.sample(bank, samples=4), np.random.default_rng(0).permutation(len(bank))
    assert [found.text[i] for i in order] == tiny.sample(bank.take(order), samples=4).text
    assert (
        found.text[:3] == tiny.sample(bank.take([0, 1, 2]), samples=4).text
        and found.text == tiny.sample(bank, samples=4, rows=1, batch_tokens=1).text
    )
    assert [t[:2] for t in found.text] == tiny.sample(
        bank, samples=2
    ).text  # more samples never change the first ones
    assert found.text != tiny.sample(bank, samples=4, seed=43).text


def test_temperature_zero_is_the_greedy_answer(tiny):
    bank = mixed_bank()
    greedy, sampled = (
        tiny.generate(bank, max_new_tokens=9),
        tiny.sample(bank, samples=2, temperature=0, max_new_tokens=9),
    )
    assert sampled.text == [[t, t] for t in greedy.text] and np.array_equal(
        sampled.tokens_out, np.repeat(greedy.tokens_out[:, None], 2, 1)
    )
    assert np.array_equal(sampled.tokens_in, greedy.tokens_in)


@pytest.mark.parametrize(
    "options", [dict(samples=0), dict(temperature=-1), dict(top_p=0), dict(top_p=1.5)]
)
def test_impossible_sampling_options_are_named(tiny, options):
    with pytest.raises(
        CompanionError, match=f"{next(iter(options))}={next(iter(options.values()))}"
    ):
        tiny.sample(mixed_bank(2), **options)


def test_the_score_of_an_answer_is_that_of_a_plain_pass(tiny):
    bank = mixed_bank()
    answers = [["", " green", " a longer answer, of many tokens"][i % 3] for i in range(len(bank))]
    plain, ended = (
        tiny.score(bank, answers),
        tiny.score(bank, answers, ending=True, batch_tokens=200),
    )
    stops = sorted(
        {1, *(i for i in range(len(tiny.tokenizer)) if "\n" in tiny.tokenizer.decode([i]))}
    )
    for row, answer in enumerate(answers):
        before, said = (
            prompt_ids(tiny, bank, row),
            tiny.tokenizer(answer, add_special_tokens=False).input_ids,
        )
        log_p = plain_logits(tiny, before + said).log_softmax(-1)
        total = sum(float(log_p[len(before) - 1 + j, t]) for j, t in enumerate(said))
        end = float(np.log(sum(np.exp(float(log_p[-1, t])) for t in stops)))
        assert np.isclose(plain.log_likelihood[row], total, atol=1e-3) and plain.tokens[row] == len(
            said
        )
        assert (
            np.isclose(ended.log_likelihood[row], total + end, atol=1e-3)
            and ended.tokens[row] == len(said) + 1
        )
    with pytest.raises(CompanionError, match="3 answers for 14 queries"):
        tiny.score(bank, ["x"] * 3)
    with pytest.raises(PromptTooLongError, match="row 1 "):
        tiny.score(bank, ["x", "y" * 700] + ["x"] * 12)


def test_one_text_is_one_text_and_not_its_letters(tiny):
    from routercompanion.features import answers, fingerprints

    one, two = mixed_bank(1), mixed_bank(2)
    assert tiny.tokens("green") == tiny.tokens(["green"])
    whole, listed = tiny.score(one, "green"), tiny.score(one, ["green"])
    assert whole.tokens[0] == listed.tokens[0]
    assert whole.log_likelihood[0] == listed.log_likelihood[0]
    for call in (tiny.score, partial(answers.p_true, tiny)):
        args = (two, "ab")
        with pytest.raises(CompanionError, match="1 answers for 2 queries"):
            call(*args)
    assert len(fingerprints.response_nll(tiny, "green")) == 1
    assert len(fingerprints.spellings(tiny.tokenizer, "green")) == 1
    for bad in (b"green", ["green", 3], {"green": 1}):
        with pytest.raises(CompanionError, match="text"):
            tiny.tokens(bad)
        with pytest.raises(CompanionError, match="text"):
            fingerprints.response_nll(tiny, bad)


def test_the_probability_of_the_next_word_is_that_of_a_plain_pass(tiny):
    bank = mixed_bank()
    found = tiny.next_token_probability(bank, [("Yes", "yes"), ("No", "n")], batch_tokens=200)
    for row in range(len(bank)):
        p = plain_logits(tiny, prompt_ids(tiny, bank, row))[-1].softmax(-1)
        first = lambda w: tiny.tokenizer(w, add_special_tokens=False).input_ids[0]
        assert np.allclose(
            found[row],
            [float(p[first("Y")] + p[first("y")]), float(p[first("N")] + p[first("n")])],
            atol=1e-5,
        )
    with pytest.raises(TokenError, match="begin with the same token"):
        tiny.next_token_probability(bank, [("Yes",), ("Yonder",)])
    with pytest.raises(TokenError, match="at least one token"):
        tiny.next_token_probability(bank, [("Yes",), ("",)])


DEFAULT_KEYS = {
    "model",
    "model_hash",
    "dtype",
    "threads",
    "batch_tokens",
    "poolings",
    "shots",
    "query_ids",
    "layers",
    "template",
}


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("bos", [None, True, False])
def test_every_way_to_frame_a_query_gives_the_states_of_a_plain_pass(tiny, tmp_path, chat, bos):
    bank = mixed_bank()
    store = tiny.features(
        bank, tmp_path / "f", poolings=("max", "mean", "last"), batch_tokens=200, chat=chat, bos=bos
    )
    assert set(store.manifest) == DEFAULT_KEYS | ({"chat"} if chat else set()) | (
        {"bos"} if bos is not None else set()
    )
    for row in (0, 1, 2, 7, 12):
        text, shots = bank.table.prompt[row], bank.shots.get(bank.table.task[row], "")
        before, after = shots, ""
        if chat:
            before, after = f"<bos><turn>user: {shots.strip()}", "</turn><turn>model: "
        ids = [tiny.tokenizer(t, add_special_tokens=False).input_ids for t in (before, text, after)]
        if not chat and bos is not False:
            ids[0] = [2] + ids[0]
        with torch.no_grad():
            out = tiny.model(
                torch.tensor([sum(ids, [])]), output_hidden_states=True, use_cache=False
            )
        own = torch.stack(out.hidden_states)[:, 0, len(ids[0]) : len(ids[0]) + len(ids[1])].numpy()
        assert store.lengths[row] == len(ids[1])
        for found, expected in (
            (store.mean, own.mean(1)),
            (store.last, own[:, -1]),
            (store.max, own.max(1)),
        ):
            assert np.allclose(found[row].astype(np.float32), expected, rtol=3e-3, atol=3e-3)
        assert np.isclose(store.logits["max_logit"][row], float(out.logits[0, -1].max()), atol=2e-3)


def test_a_manifest_of_default_options_keeps_its_keys_and_values(tiny, tmp_path):
    bank = mixed_bank(5)
    manifest = tiny.features(bank, tmp_path / "f").manifest
    assert (
        set(manifest) == DEFAULT_KEYS
        and manifest["poolings"] == ["mean", "last"]
        and manifest["template"] == "shots + prompt, pooled over the prompt's own tokens"
    )
    assert (
        manifest["batch_tokens"] == 4096
        and manifest["dtype"] == "torch.float32"
        and manifest["layers"] == 4
    )
    assert (
        set(tiny.features(bank, tmp_path / "f").manifest) == DEFAULT_KEYS
        and tiny.features(bank, tmp_path / "f", dtype="BF16").manifest["storage"] == "BF16"
    )


def test_a_chat_frame_is_the_template_s_own_text(tiny):
    before, after = tiny.frame("Shots", chat=True)
    whole = tiny.tokenizer.apply_chat_template(
        [dict(role="user", content="ShotsQuery")],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=False,
    )
    assert (
        tiny.prefix_ids(before) + tiny.tokens(["Query"])[0] + after == whole and whole.count(2) == 1
    )  # one start token, the template's


def test_missing_tokens_and_templates_are_named(tiny, tmp_path):
    bare = load_causal_lm(str(tiny.folder), dtype=torch.float32)
    bare.tokenizer.chat_template = bare.tokenizer.bos_token = None
    with pytest.raises(TokenError, match="no chat template"):
        bare.features(mixed_bank(2), tmp_path / "f", chat=True)
    with pytest.raises(TokenError, match="no start token"):
        bare.features(mixed_bank(2), tmp_path / "f", bos=True)
    with pytest.raises(CompanionError, match="Unknown pooling 'median'"):
        bare.features(mixed_bank(2), tmp_path / "f", poolings=("median",))
    assert not list(tmp_path.iterdir())


def test_shots_longer_than_the_sliding_window_are_read_as_in_a_plain_pass(tiny, monkeypatch):
    bank = make_bank(
        [
            dict(prompt=p, references=["x"], task="t", domain="d", source="s", split="test")
            for p in ("\nQ: one?", "\nQ: two?", "\nQ: six?")
        ],
        {"t": "some shots, " * 4},
    )
    monkeypatch.setattr(tiny.model.config, "sliding_window", 16)
    for layer in tiny.model.model.layers:
        monkeypatch.setattr(
            layer.self_attn, "sliding_window", 16 if layer.self_attn.sliding_window else None
        )
    logits, _ = tiny.forward_batch(
        tiny.tokens(bank.table.prompt), tiny.encode_shots(bank.shots["t"])
    )
    assert torch.allclose(
        logits.double(),
        torch.stack([plain_logits(tiny, prompt_ids(tiny, bank, row))[-1] for row in range(3)]),
        atol=1e-3,
    )


def test_states_beyond_float16_stop_the_run_and_bfloat16_takes_them(tiny, tmp_path, monkeypatch):
    bank, pool = mixed_bank(5), features.PooledStates._pool
    plain = tiny.features(bank, tmp_path / "plain")
    monkeypatch.setattr(
        features.PooledStates,
        "_pool",
        lambda self, layer, out: pool(
            self,
            layer,
            (out[0] if isinstance(out, tuple) else out) * (2.0**20 if layer == 2 else 1),
        ),
    )
    with pytest.raises(
        FeatureFileError, match=r"row \d: a hidden state is not finite in float16 .*dtype='BF16'"
    ):
        tiny.features(bank, tmp_path / "f")
    assert not (tmp_path / "f").exists()
    store = tiny.features(bank, tmp_path / "f", dtype="BF16")
    for found, expected in ((store.mean, plain.mean), (store.last, plain.last)):
        found = found.astype(np.float32)
        found[:, 2] /= 2.0**20
        assert np.allclose(
            found, expected.astype(np.float32), rtol=6e-3, atol=1e-3
        )  # 8 bits of mantissa
    assert np.abs(store.mean.astype(np.float32)).max() > 65504


@pytest.mark.model
def test_gemma_s_features_are_those_of_plain_passes(tmp_path):
    gemma, bank = load_causal_lm("gemma-3-270m", dtype=torch.bfloat16), mixed_bank(6)
    store = gemma.features(bank, tmp_path / "f", dtype="BF16")
    assert (
        store.mean.shape == (6, 19, 640)
        and np.isfinite(store.mean.astype(np.float32)).all()
        and np.isfinite(store.last.astype(np.float32)).all()
    )
    before, own = (
        gemma.tokenizer(t, add_special_tokens=False).input_ids
        for t in (bank.shots[bank.table.task[0]], bank.table.prompt[0])
    )
    with torch.no_grad():
        out = gemma.model(
            torch.tensor([[2] + before + own]), output_hidden_states=True, use_cache=False
        )
    states = torch.stack(out.hidden_states)[:, 0, 1 + len(before) :].float().numpy().mean(1)
    assert np.corrcoef(store.mean[0].astype(np.float32).ravel(), states.ravel())[0, 1] > 0.999


# ---------- the model ----------


def mixed_bank(rows=14):
    "Two tasks with shots and one without; prompts and answers of different lengths."
    colours = [
        ("grass", "green"),
        ("snow", "white"),
        ("blood", "red"),
        ("the sky on a clear summer day", "blue"),
        ("coal", "black"),
        ("a ripe banana", "yellow"),
        ("an orange", "orange"),
    ]
    things = [
        dict(prompt=f"\nQ: What colour is {t}?\nA:", references=[c], task="colours")
        for t, c in colours
    ]
    counts = [
        dict(prompt=f"\nQ: Count from {i} to {i + k}.\nA:", references=["x"], task="counting")
        for i, k in ((1, 1), (2, 6), (3, 2), (4, 9), (5, 3))
    ]
    plain = [
        dict(prompt=p, references=["Paris"], task="free")
        for p in ("The capital of France is", "Once upon a time there was")
    ]
    found = [
        dict(r, domain="d", source="made here", split="test")
        for group in zip(things, counts + things[5:], plain + things[2:])
        for r in group
    ]
    found = list({r["prompt"]: r for r in found + things + counts + plain}.values())[:rows]
    shots = {
        "colours": "Q: What colour is a lemon?\nA: yellow\nQ: What colour is a crow?\nA: black",
        "counting": "Q: Count from 1 to 3.\nA: 1, 2, 3\nQ: Count from 6 to 7.\nA: 6, 7",
    }
    return make_bank(found, shots, "mixed")


@pytest.fixture(scope="module")
def lm():
    return load_causal_lm(SMALL, dtype=torch.float32)


@pytest.fixture(scope="module")
def lm16():
    return load_causal_lm(SMALL, dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def store(lm, tmp_path_factory):
    return lm.features(mixed_bank(), tmp_path_factory.mktemp("store") / "features", batch_tokens=64)


def one_by_one(lm, bank, row):
    "(own states (L, T, D), next-token logits (V,)) of one query in a plain pass over shots + prompt."
    prompt, shots = bank.table.prompt[row], bank.shots.get(bank.table.task[row], "")
    before, own = (
        lm.tokenizer(t, add_special_tokens=False).input_ids if t else [] for t in (shots, prompt)
    )
    with torch.no_grad():
        out = lm.model(torch.tensor([before + own]), output_hidden_states=True, use_cache=False)
    return torch.stack(out.hidden_states)[:, 0, len(before) :].float().numpy(), out.logits[
        0, -1
    ].float().numpy()


@pytest.mark.model
def test_features_are_those_of_plain_passes_in_float32(lm, store):
    bank = mixed_bank()
    assert (
        store.mean.shape == store.last.shape == (len(bank), 31, 576)
        and store.mean.dtype == np.float16
        and list(store.query_ids) == list(bank.query_ids)
    )
    for row in (0, 1, 2, 7, 12):
        states, logits = one_by_one(lm, bank, row)
        assert store.lengths[row] == states.shape[1]
        for found, expected in (
            (store.mean[row], states.mean(1)),
            (store.last[row], states[:, -1]),
        ):
            assert np.allclose(
                found.astype(np.float32), expected, rtol=2e-3, atol=2e-3
            )  # float16 keeps 11 bits
        p = np.exp(logits.astype(np.float64) - logits.max())
        p /= p.sum()
        assert np.isclose(
            store.logits["entropy"][row], -(p * np.log(p)).sum(), atol=2e-3
        ) and np.isclose(store.logits["max_logit"][row], logits.max(), atol=2e-3)
        assert np.isclose(
            store.logits["margin"][row], np.sort(p)[-1] - np.sort(p)[-2], atol=1e-3
        ) and np.isclose(store.logits["max_prob"][row], p.max(), atol=1e-3)
        assert store.logits["top_tokens"][row, 0] == logits.argmax() and store.logits[
            "top_logits"
        ].shape == (len(bank), 20)


@pytest.mark.model
def test_features_in_bfloat16_agree_with_a_plain_pass_within_its_rounding(lm16, tmp_path):
    bank = mixed_bank(8)
    found = lm16.features(bank, tmp_path / "f")
    for row in (0, 4, 5):
        states, _ = one_by_one(lm16, bank, row)
        for ours, plain in ((found.mean[row], states.mean(1)), (found.last[row], states[:, -1])):
            ours = ours.astype(np.float32)
            assert np.corrcoef(ours.ravel(), plain.ravel())[0, 1] > 0.999
            relative = np.linalg.norm(ours - plain, axis=1) / np.linalg.norm(plain, axis=1)
            assert (
                relative.max() < 0.06 and np.median(relative) < 0.03
            )  # per layer; bfloat16 rounds to 1/256


@pytest.mark.model
def test_shots_change_a_query_s_states_and_neighbours_do_not(lm, store, tmp_path):
    bank = mixed_bank()
    alone = lm.features(bank.take([3]), tmp_path / "alone")
    assert np.allclose(
        alone.mean[0].astype(np.float32), store.mean[3].astype(np.float32), rtol=2e-3, atol=2e-3
    )
    bare = lm.features(
        make_bank(bank.take([0]).table.drop(columns="query_id").to_dict("records")),
        tmp_path / "bare",
        poolings=("mean",),
    )
    assert (
        np.allclose(bare.mean[0, 0], store.mean[0, 0], atol=1e-3)
        and np.abs(bare.mean[0, 15] - store.mean[0, 15]).max() > 0.1
    )  # layer 0 does not see the shots
    with pytest.raises(FeatureFileError, match="last.safetensors"):
        bare.last


class Interrupted(Exception):
    pass


def files(folder):
    return {p.name: file_hash(p) for p in folder.iterdir()}


@pytest.mark.model
def test_an_interrupted_run_resumes_and_gives_the_same_bytes(lm, store, tmp_path, monkeypatch):
    bank, folder, calls = mixed_bank(), tmp_path / "features", []
    plan = plan_batches(
        [len(x) for x in lm.tokens(bank.table.prompt)],
        list(bank.table.task),
        list(bank.query_ids),
        batch_tokens=64,
    )
    assert len(plan) >= 5
    forward = causal_lm.CausalLM.forward_batch

    def failing(limit):
        def run(self, *args, **kwargs):
            if len(calls) == limit:
                raise Interrupted
            calls.append(1)
            return forward(self, *args, **kwargs)

        return run

    for limit in (2, 4):  # stopped after two batches, resumed, stopped again after two more
        monkeypatch.setattr(causal_lm.CausalLM, "forward_batch", failing(limit))
        with pytest.raises(Interrupted):
            lm.features(bank, folder, batch_tokens=64)
        (partial,) = tmp_path.glob("features.*.partial")
        assert not folder.exists() and len(json.loads((partial / "done.json").read_text())) == limit
        with pytest.raises(FeatureFileError, match="manifest.json is missing"):
            FeatureStore(folder)
    monkeypatch.setattr(causal_lm.CausalLM, "forward_batch", failing(10**6))
    lm.features(bank, folder, batch_tokens=64)
    assert len(calls) == len(plan)  # nothing was computed twice
    assert files(folder) == files(store.folder) and set(files(folder)) == {
        "mean.safetensors",
        "last.safetensors",
        "logits.safetensors",
        "manifest.json",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["features"]
    lm.features(bank, folder, batch_tokens=64)
    assert len(calls) == len(plan)  # a finished store is only opened
    lm.features(bank.take([0, 1]), folder, batch_tokens=64)
    assert (
        len(calls) > len(plan) and len(FeatureStore(folder).query_ids) == 2
    )  # other queries: computed anew


@pytest.mark.model
def test_a_kill_during_a_batch_leaves_that_batch_to_be_done_again(lm, store, tmp_path, monkeypatch):
    write = features.write_batch

    def torn(arrays, batch, pool, *rest):
        pool.mean = pool.mean * 3
        write(arrays, batch, pool, *rest)
        raise Interrupted

    monkeypatch.setattr(causal_lm, "write_batch", torn)
    with pytest.raises(Interrupted):
        lm.features(mixed_bank(), tmp_path / "f", batch_tokens=64)
    monkeypatch.setattr(causal_lm, "write_batch", write)
    assert files(lm.features(mixed_bank(), tmp_path / "f", batch_tokens=64).folder) == files(
        store.folder
    )


@pytest.mark.model
def test_a_damaged_store_is_an_error_that_names_the_file(lm, tmp_path):
    bank = mixed_bank(2)
    for name, read in {
        "mean.safetensors": lambda s: s.mean,
        "last.safetensors": lambda s: s.last,
        "logits.safetensors": lambda s: s.logits,
        "manifest.json": lambda s: s.query_ids,
    }.items():
        folder = lm.features(bank, tmp_path / name.split(".")[0]).folder
        path = folder / name
        path.write_bytes(path.read_bytes()[:-7])
        with pytest.raises(FeatureFileError, match=f"{name}.*delete its folder"):
            read(FeatureStore(folder))
        path.unlink()
        with pytest.raises(FeatureFileError, match=name):
            read(FeatureStore(folder))


@pytest.mark.model
def test_states_out_of_range_stop_the_run(lm, tmp_path, monkeypatch):
    pool = features.PooledStates._pool
    monkeypatch.setattr(
        features.PooledStates,
        "_pool",
        lambda self, layer, out: pool(
            self, layer, (out[0] if isinstance(out, tuple) else out) * (1e6 if layer == 29 else 1)
        ),
    )
    with pytest.raises(
        FeatureFileError, match=r"row \d: a hidden state is not finite in float16 .largest [1-9]"
    ):
        lm.features(mixed_bank(3), tmp_path / "f")
    assert not (tmp_path / "f").exists()


@pytest.mark.model
def test_store_rows_follow_the_query_ids(store):
    ids = store.query_ids[[5, 0, 3]]
    assert store.rows(ids).tolist() == [5, 0, 3]
    with pytest.raises(
        CompanionError, match="1 of 2 query ids have no features, the first is nowhere"
    ):
        store.rows([ids[0], "nowhere"])


# ---------- answers ----------


def greedy(lm, bank, row, new_tokens):
    "The first line of a plain greedy answer to one query, by the library's own generator."
    ids = (
        lm.tokenizer(bank.shots.get(bank.table.task[row], ""), add_special_tokens=False).input_ids
        + lm.tokenizer(bank.table.prompt[row], add_special_tokens=False).input_ids
    )
    x = torch.tensor([ids])
    out = lm.model.generate(
        x,
        attention_mask=torch.ones_like(x),
        do_sample=False,
        max_new_tokens=new_tokens,
        pad_token_id=0,
    )[0, len(ids) :].tolist()
    kept = []
    for token in out:
        if "\n" in lm.tokenizer.decode([token]) or token == lm.tokenizer.eos_token_id:
            break
        kept.append(token)
    return lm.tokenizer.decode(kept), len(kept), len(ids)


@pytest.mark.model
def test_answers_with_dropped_rows_equal_one_by_one_answers_in_float32(lm):
    bank = mixed_bank()
    found = lm.generate(bank, max_new_tokens=10)
    plain = [greedy(lm, bank, row, 10) for row in range(len(bank))]
    assert (
        found.text == [t for t, _, _ in plain]
        and found.tokens_out.tolist() == [n for _, n, _ in plain]
        and found.tokens_in.tolist() == [n for _, _, n in plain]
    )
    assert (
        len(set(found.tokens_out)) > 2
        and (found.tokens_out == 10).any()
        and (found.tokens_out < 4).any()
    )  # rows did leave at different times
    assert (
        (found.seconds > 0).all()
        and found.seconds.dtype == np.float32
        and not any("\n" in t for t in found.text)
    )
    one = lm.generate(bank, max_new_tokens=10, batch_tokens=1)  # batches of one row
    assert one.text == found.text


@pytest.mark.model
def test_answers_in_bfloat16_differ_on_a_small_share_only(lm16):
    bank = mixed_bank(10)
    found = lm16.generate(bank, max_new_tokens=6)
    same = np.mean([found.text[row] == greedy(lm16, bank, row, 6)[0] for row in range(len(bank))])
    assert same >= 0.8  # rounding may turn one or two near ties of ten


@pytest.mark.model
def test_empty_shots_work_and_their_cache_is_empty(lm):
    bank = mixed_bank()
    free = bank.select(task="free")
    cache, n = lm.encode_shots("")
    assert n == 0 and cache.get_seq_length() == 0
    assert lm.generate(free, max_new_tokens=2).tokens_in.tolist() == [
        len(lm.tokenizer(p).input_ids) for p in free.table.prompt
    ]
    assert lm.generate(free, max_new_tokens=2).text[0].strip().startswith("Paris")


@pytest.mark.model
def test_a_prompt_that_does_not_fit_is_named_with_its_length(lm, tmp_path, monkeypatch):
    bank = mixed_bank(4)
    ids = [
        lm.tokenizer(bank.shots.get(t, "")).input_ids + lm.tokenizer(p).input_ids
        for t, p in zip(bank.table.task, bank.table.prompt)
    ]
    longest = max(map(len, ids))
    row = [len(x) for x in ids].index(longest)
    monkeypatch.setattr(lm, "window", longest)
    assert [len(x) for x in lm.check_window(bank)] == [
        len(lm.tokenizer(p).input_ids) for p in bank.table.prompt
    ]
    with pytest.raises(
        PromptTooLongError,
        match=f"mixed, row {row} .query {bank.query_ids[row]}.: {longest + 1} tokens with its shots, and the window of .* is {longest}",
    ):
        lm.generate(bank, max_new_tokens=1)
    monkeypatch.setattr(lm, "window", longest - 1)
    with pytest.raises(PromptTooLongError, match=f"row {row} "):
        lm.features(bank, tmp_path / "f")
    assert not list(tmp_path.iterdir())
    with pytest.raises(PromptTooLongError, match="row 0: the prompt is empty"):
        lm.generate(
            make_bank(
                [dict(prompt="", references=["x"], task="t", domain="d", source="s", split="test")]
            )
        )


# ---------- names ----------

HUB = """
import json, socket, sys
def refuse(*a, **k): raise AssertionError("the network was touched")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
from routercompanion.core import CompanionError
from routercompanion.assets.store import resolve_model
from routercompanion.models.causal_lm import load_causal_lm
lm = load_causal_lm("our-org/tiny-model")
print(json.dumps([lm.name, round(lm.parameters_b, 3), lm.width, str(resolve_model("our-org/tiny-model"))]))
try: load_causal_lm("our-org/unknown")
except CompanionError as e: print(json.dumps(str(e)))
"""


@pytest.mark.model
def test_a_hub_id_is_read_from_the_local_hub_cache_without_network(tmp_path):
    from routercompanion.assets.store import get_asset

    source, base, commit = (
        get_asset(SMALL),
        tmp_path / "hub" / "models--our-org--tiny-model",
        "f" * 40,
    )
    (base / "snapshots" / commit).mkdir(parents=True)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(commit)
    for path in source.iterdir():
        if path.is_file():
            (base / "snapshots" / commit / path.name).symlink_to(path)
    env = {
        k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    }
    out = subprocess.run(
        [sys.executable, "-c", HUB],
        capture_output=True,
        text=True,
        cwd=project_root(),
        env={**env, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")},
    )
    assert out.returncode == 0, out.stderr[-2000:]
    loaded, refused = map(json.loads, out.stdout.splitlines())
    assert loaded == ["our-org/tiny-model", 0.135, 576, str(base / "snapshots" / commit)]
    assert "'our-org/unknown'" in refused and "huggingface-cli download our-org/unknown" in refused


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.model
def test_an_encoder_gives_vectors_of_length_one_that_do_not_depend_on_the_batch():
    encoder = load_encoder("minilm-l6-v2")
    texts = ["What is the capital of France?", "Name France's capital city.", "17 * 23 =", ""]
    found = encoder.encode(texts)
    assert (
        found.shape == (4, 384)
        and found.dtype == np.float32
        and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    )
    assert (
        np.allclose(found, np.concatenate([encoder.encode([t]) for t in texts]), atol=1e-5)
        and found[0] @ found[1] > 0.8 > found[0] @ found[2]
    )


def test_a_copied_output_head_counts_once_and_a_trained_one_counts(tmp_path):
    lm = load_causal_lm(tiny_llama(tmp_path / "m"))
    embedding = lm.model.get_input_embeddings().weight
    head = lm.model.get_output_embeddings().weight
    total, repeated = sum(p.numel() for p in lm.model.parameters()), head.numel()
    assert head is not embedding and lm.parameters_b == total / 1e9, "a head of its own"
    with torch.no_grad():  # as if rounded on its own
        head.copy_(embedding * (1 + 0.04 * torch.randn(embedding.shape)))
    del lm.parameters_b
    assert lm.parameters_b == (total - repeated) / 1e9
    lm.model.get_output_embeddings().weight = lm.model.get_input_embeddings().weight
    del lm.parameters_b
    assert lm.parameters_b == (total - repeated) / 1e9, "tied weights are one tensor"


def test_the_recorded_sizes_are_those_of_the_models_cards():
    table = OutcomeTable.from_parquet(outcomes_path("embedded"))
    assert table.models == [SMALL, "gemma-3-270m", "qwen2.5-coder-0.5b-instruct"]
    sizes = table.cost["params_b"]
    assert np.round(sizes[0], 3).tolist() == np.float32([0.135, 0.268, 0.494]).tolist()
    assert (sizes == sizes[0]).all()


# ---------- what a store and a cache know of what was computed ----------


def named(prompts, ids=None, shots="", task="t"):
    "A bank whose query ids say nothing of the prompts."
    from routercompanion.data.bank import QueryBank
    import pandas as pd

    table = pd.DataFrame(
        {
            "query_id": ids or [f"row-{i}" for i in range(len(prompts))],
            "prompt": prompts,
            "references": [["1"]] * len(prompts),
            "choices": None,
            "task": task,
            "domain": "d",
            "source": "mine",
            "split": "test",
        }
    )
    return QueryBank(table, {task: shots}, "mine")


def test_another_prompt_under_the_same_id_is_computed_again(tiny, tmp_path, monkeypatch):
    from routercompanion.features.of_bank import bank_features
    from routercompanion.judging.recording import answer_bank

    monkeypatch.setenv("ROUTERCOMPANION_CACHE", str(tmp_path / "cache"))
    a, b = named(["How many hens?", "And foxes?"]), named(["Name a quasar, please.", "And foxes?"])
    fresh = tiny.features(b, tmp_path / "fresh").mean[0]
    for compute in (
        lambda bank: tiny.features(bank, tmp_path / "f"),
        lambda bank: bank_features(bank, tiny),
    ):
        one, two = compute(a).mean[0].copy(), compute(b).mean[0].copy()
        assert not np.array_equal(one, two) and np.array_equal(two, fresh)
    x, y = answer_bank(tiny, a, max_new_tokens=4), answer_bank(tiny, b, max_new_tokens=4)
    assert (
        y.equals(answer_bank(tiny, b, max_new_tokens=4, cache=False).assign(seconds=y.seconds))
        and y.tokens_in[0] == x.tokens_in[0] + 8
    )
    assert answer_bank(tiny, a, max_new_tokens=4).equals(x)  # kept, seconds and all


def test_another_template_or_tokenizer_is_another_store(tiny, tmp_path, monkeypatch):
    bank = named(["How many hens?", "And foxes?"])
    first = tiny.features(bank, tmp_path / "f", chat=True).mean[0].copy()
    monkeypatch.setattr(
        tiny.tokenizer, "chat_template", "{% for m in messages %}Q: {{ m.content }} A:{% endfor %}"
    )
    assert not np.array_equal(tiny.features(bank, tmp_path / "f", chat=True).mean[0], first)


def test_stores_and_answers_of_an_older_version_are_taken_when_ids_are_hashes_of_the_prompts(
    tiny, tmp_path, monkeypatch
):
    from routercompanion.core import cache_dir, content_hash, write_json, write_jsonl
    from routercompanion.judging.recording import answer_bank

    monkeypatch.setenv("ROUTERCOMPANION_CACHE", str(tmp_path / "cache"))
    rows, calls = (
        mixed_bank().table.drop(columns="query_id").assign(source="made here").to_dict("records"),
        [],
    )
    bank, forward = make_bank(rows, mixed_bank().shots, "mixed"), causal_lm.CausalLM.forward_batch
    monkeypatch.setattr(
        causal_lm.CausalLM,
        "forward_batch",
        lambda self, *a, **k: calls.append(1) or forward(self, *a, **k),
    )
    for asked, taken in ((bank, True), (named(list(bank.table.prompt)), False)):
        folder = tmp_path / str(taken)
        store = tiny.features(asked, folder)
        write_json(
            folder / "manifest.json",
            store.manifest
            | {
                "shots": content_hash(asked.shots),
                "template": "shots + prompt, pooled over the prompt's own tokens",
            },
        )
        calls.clear()
        tiny.features(asked, folder)
        assert bool(calls) != taken
        part = asked.select(task=asked.table.task[0])
        answers = answer_bank(tiny, part, max_new_tokens=3, cache=False)
        key = content_hash(
            [tiny.hash, str(tiny.dtype), 3, part.shots[part.table.task[0]], list(part.query_ids)]
        )
        write_jsonl(
            cache_dir("answers", safe_name(tiny.name)) / f"{key[:24]}.jsonl",
            answers.drop(columns="score").to_dict("records"),
        )
        calls.clear()
        assert (
            answer_bank(tiny, part, max_new_tokens=3).text.tolist() == answers.text.tolist()
            and bool(calls) != taken
        )


@pytest.mark.parametrize(
    "damage",
    [
        '{"query_id": 3}',
        "[]",
        '{"text": null}',
        "not json",
        '{"query_id": "q", "text": "x", "tokens_in": "9", "tokens_out": 1, "seconds": 1}',
    ],
)
def test_damaged_kept_answers_are_named(tiny, tmp_path, monkeypatch, damage):
    from routercompanion.judging.recording import answer_bank

    monkeypatch.setenv("ROUTERCOMPANION_CACHE", str(tmp_path / "cache"))
    bank = named(["How many hens?", "And foxes?"])
    answer_bank(tiny, bank, max_new_tokens=2)
    (path,) = (tmp_path / "cache").rglob("*.jsonl")
    path.write_text(path.read_text().splitlines()[0] + "\n" + damage + "\n")
    with pytest.raises(CompanionError, match=f"{path.name}, row 2"):
        answer_bank(tiny, bank, max_new_tokens=2)


TWO = """
import sys, time, pandas as pd, torch
torch.set_num_threads(1)
from routercompanion.models.causal_lm import load_causal_lm
from routercompanion.data.bank import QueryBank
n = 400
bank = QueryBank(pd.DataFrame({"query_id": [f"q{i}" for i in range(n)], "prompt": [f"How many hens make {i} eggs a week?" for i in range(n)], "references": [["1"]] * n,
                               "choices": None, "task": "t", "domain": "d", "source": "m", "split": "test"}), {"t": ""}, "mine")
lm = load_causal_lm(sys.argv[1], dtype=torch.float32)
calls, forward = [], type(lm).forward_batch
type(lm).forward_batch = lambda self, *a, **k: calls.append(1) or forward(self, *a, **k)
while time.time() < float(sys.argv[3]): time.sleep(.01)
store = lm.features(bank, sys.argv[2], batch_tokens=512)
print(len(calls), float(abs(store.mean[:].astype("f4")).sum()))
"""


def test_two_processes_compute_one_feature_store_once(tmp_path):
    model = tiny_llama(tmp_path / "model")
    start = str(time.time() + 8)
    env = os.environ | {
        "ROUTERCOMPANION_CACHE": str(tmp_path / "cache"),
        "ROUTERCOMPANION_QUIET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, model, str(tmp_path / "store"), start],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            cwd=project_root(),
        )
        for _ in range(2)
    ]
    said = [p.communicate(timeout=300) for p in running]
    assert [p.returncode for p in running] == [0, 0], said
    (a, x), (b, y) = (out.split() for out, _ in said)
    assert x == y and min(int(a), int(b)) == 0 < max(
        int(a), int(b)
    )  # one has computed, the other has waited
    assert not list(tmp_path.glob("*.partial"))


def test_a_folder_with_other_files_is_never_replaced(tiny, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(FeatureFileError, match="chapter.txt, which is no part of a feature store"):
        tiny.features(named(["hens?"]), tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_a_full_disk_is_named_before_the_map_is_written(tiny, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        FeatureFileError,
        match="MB are needed and .* MB of this disk are free.*ROUTERCOMPANION_CACHE",
    ):
        tiny.features(named(["hens?"]), tmp_path / "f")
    assert not list(tmp_path.glob("f*"))  # nothing half-made is left

    def cannot(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    assert tiny.features(named(["hens?"]), tmp_path / "f").mean.shape[0] == 1


def test_a_store_s_space_is_reserved(tmp_path):
    create_tensor(tmp_path / "x.safetensors", "x", (1000, 100))
    assert (tmp_path / "x.safetensors").stat().st_blocks * 512 >= 200_000  # not a sparse file


@pytest.mark.parametrize("text", [b"[1]", b"{", b'{"query_ids": 3}', b"\xff\xfe", b'{"a": 1}'])
def test_a_damaged_manifest_of_a_store_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(FeatureFileError, match="manifest.json: not a feature store's manifest"):
        FeatureStore(tmp_path)


@pytest.mark.parametrize("done", ["", "{", "[", '"x"', "[[1]]"])
def test_a_damaged_beginning_is_begun_again(tiny, tmp_path, monkeypatch, done):
    bank = mixed_bank()
    whole = files(tiny.features(bank, tmp_path / "whole", batch_tokens=64).folder)

    def stop(*_):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(causal_lm, "publish_store", stop)
        with pytest.raises(Interrupted):
            tiny.features(bank, tmp_path / "f", batch_tokens=64)
    (partial,) = tmp_path.glob("f.*.partial")
    (partial / "done.json").write_text(done)
    assert files(tiny.features(bank, tmp_path / "f", batch_tokens=64).folder) == whole


# ---------- other architectures, templates and encoders ----------


def other_model(folder, kind):
    import transformers as t

    tiny_llama(folder)
    (Path(folder) / "model.safetensors").unlink()
    configs = {
        "gpt2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(
                vocab_size=300,
                n_embd=32,
                n_layer=2,
                n_head=4,
                n_positions=128,
                bos_token_id=0,
                eos_token_id=0,
            )
        ),
        "neox": lambda: t.GPTNeoXForCausalLM(
            t.GPTNeoXConfig(
                vocab_size=300,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
            )
        ),
        "opt": lambda: t.OPTForCausalLM(
            t.OPTConfig(
                vocab_size=300,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                ffn_dim=48,
                word_embed_proj_dim=32,
            )
        ),
        "bloom": lambda: t.BloomForCausalLM(
            t.BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4)
        ),
        "bert": lambda: t.BertModel(
            t.BertConfig(
                vocab_size=300,
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=4,
                intermediate_size=48,
            )
        ),
        "t5": lambda: t.T5ForConditionalGeneration(
            t.T5Config(
                vocab_size=300,
                d_model=32,
                num_layers=1,
                num_heads=4,
                d_ff=48,
                d_kv=8,
                decoder_start_token_id=0,
            )
        ),
    }
    configs[kind]().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["gpt2", "neox", "opt", "bloom", "t5"])
def test_another_architecture_is_named_with_what_is_needed(tmp_path, kind):
    bank = named(["hens?"])
    with pytest.raises(ModelError, match="model.layers|decoder-only"):
        load_causal_lm(other_model(tmp_path / kind, kind), dtype=torch.float32).features(
            bank, tmp_path / "f"
        )
    if kind == "t5":
        return
    with pytest.raises(ModelError, match="model type .*has no .*Take a model built like Llama"):
        load_causal_lm(tmp_path / kind, dtype=torch.float32).generate(bank, max_new_tokens=2)


BROKEN = {
    "an empty folder": lambda f: [p.unlink() for p in f.iterdir()],
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "cut weights": lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:500]
    ),
    "no config": lambda f: (f / "config.json").unlink(),
    "config is no JSON": lambda f: (f / "config.json").write_text("{"),
    "unknown type": lambda f: (f / "config.json").write_text('{"model_type": "zork"}'),
    "another size": lambda f: (f / "config.json").write_text(
        (f / "config.json").read_text().replace('"hidden_size": 32', '"hidden_size": 64')
    ),
    "more layers": lambda f: (f / "config.json").write_text(
        (f / "config.json").read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    ),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_folder_that_is_no_whole_model_is_named(tmp_path, damage):
    BROKEN[damage](Path(tiny_llama(tmp_path / "m")))
    with pytest.raises(
        ModelError, match=f"{tmp_path / 'm'}: (no causal language model|the weights lack)"
    ):
        load_causal_lm(tmp_path / "m")


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
        "{{ nothing.here.at.all }}",
    ],
)
def test_a_chat_template_that_frames_no_single_turn_is_named(tiny, tmp_path, monkeypatch, template):
    monkeypatch.setattr(tiny.tokenizer, "chat_template", template)
    with pytest.raises(TokenError, match="chat template.*Use chat=False"):
        tiny.features(named(["hens?"]), tmp_path / "f", chat=True)


def test_a_folder_that_is_no_encoder_is_named(tmp_path):
    (tmp_path / "e").mkdir()
    with pytest.raises(ModelError, match="not a sentence encoder"):
        load_encoder(tmp_path / "e")


@pytest.mark.model
def test_the_encoder_says_which_texts_it_cuts():
    import warnings

    encoder = load_encoder("minilm-l6-v2")
    head = "Here is the whole protocol of the meeting. " * 60
    with pytest.warns(
        TruncatedTextWarning,
        match=r"2 of 3 texts are longer than the 256 tokens that minilm-l6-v2 reads.*Rows .from 0.: 0, 2",
    ):
        encoder.encode([head + "What is 2 + 2?", "short", head])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(["short", "a" * 300])  # many letters, few tokens or none to spare
    for bad, words in (
        ("one text", "not one text"),
        (["a", None], "Row 1: a text is wanted"),
        ([3], "Row 0"),
    ):
        with pytest.raises(CompanionError, match=words):
            encoder.encode(bad)
    assert encoder.encode([]).shape == (0, 384) and encoder.encode(["a"]).origin == {
        "encoder": "minilm-l6-v2",
        "weights_sha256": encoder.hash,
    }
