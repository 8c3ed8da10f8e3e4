"""Models: batches, pooled states, logit statistics, resumption, answers, hub folders. Those marked `model` read SmolLM2-135M from the cache of assets.

Numbers are compared with plain one-query passes: tightly in float32, and within a stated tolerance in bfloat16 (8 bits of mantissa, 30 layers).
"""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.numpy import load_file

from routercompanion import models
from routercompanion.banks import make_bank
from routercompanion.core import CompanionError, file_hash, project_root
from routercompanion.models import (FeatureFileError, FeatureStore, PromptTooLongError, create_tensor, load_causal_lm, load_encoder, open_tensor, plan_batches,
                                    resolve_model, token_statistics, write_batch)

SMALL = "smollm2-135m-instruct"


@pytest.fixture(autouse=True)
def quiet(monkeypatch): monkeypatch.setenv("ROUTERCOMPANION_QUIET", "1")


# ---------- batches ----------

rows_of = st.lists(st.tuples(st.integers(1, 60), st.sampled_from("abc")), min_size=1, max_size=40)


@given(rows_of, st.integers(20, 300), st.integers(1, 12))
def test_a_plan_covers_every_row_once_within_its_budgets(rows, budget, largest):
    lengths, tasks, ids = [n for n, _ in rows], [t for _, t in rows], [f"{i:03d}" for i in range(len(rows))]
    plan = plan_batches(lengths, tasks, ids, batch_tokens=budget, largest=largest)
    assert sorted(i for b in plan for i in b) == list(range(len(rows))) and all(plan)
    for b in plan:
        assert len({tasks[i] for i in b}) == 1 and len(b) <= largest
        assert len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget
        assert [lengths[i] for i in b] == sorted(lengths[i] for i in b)
    for a, b in zip(plan, plan[1:]):   # a batch ends only when the next row does not fit
        if tasks[a[0]] == tasks[b[0]]: assert len(a) == largest or (len(a) + 1) * lengths[b[0]] > budget


@given(rows_of, st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_the_order_of_the_rows(rows, rng):
    ids = [f"{i:03d}" for i in range(len(rows))]
    order = list(range(len(rows)))
    rng.shuffle(order)
    plan = lambda o: [[ids[o[i]] for i in b] for b in plan_batches([rows[j][0] for j in o], [rows[j][1] for j in o], [ids[j] for j in o], batch_tokens=100, largest=5)]
    assert plan(list(range(len(rows)))) == plan(order)


# ---------- statistics of the logits ----------

@given(st.integers(0, 10_000), st.integers(3, 60), st.sampled_from([.1, 3., 40.]))
def test_logit_statistics_agree_with_float64(seed, vocabulary, scale):
    logits = (scale * np.random.default_rng(seed).normal(size=(4, vocabulary))).astype(np.float32)
    x = logits.astype(np.float64)
    normaliser = x.max(1) + np.log(np.exp(x - x.max(1, keepdims=True)).sum(1))
    p = np.exp(x - normaliser[:, None])
    ranked, best = np.sort(p, 1)[:, ::-1], np.argsort(-x, 1)
    found = token_statistics(logits, top=5)
    expected = dict(entropy=-(p * np.where(p > 0, x - normaliser[:, None], 0)).sum(1), margin=ranked[:, 0] - ranked[:, 1], max_logit=x.max(1), max_prob=ranked[:, 0], log_normaliser=normaliser)
    for name, value in expected.items(): assert np.allclose(found[name], value, rtol=2e-5, atol=2e-5) and found[name].shape == (4,), name
    k = min(5, vocabulary)
    assert np.array_equal(found["top_tokens"], best[:, :k]) and np.allclose(found["top_logits"], np.take_along_axis(x, best[:, :k], 1))


# ---------- files ----------

@pytest.mark.parametrize("cut", [1, 5, 40, 70, 120])
def test_a_truncated_tensor_file_is_named(tmp_path, cut):
    path = tmp_path / "mean.safetensors"
    array = create_tensor(path, "mean", (4, 3, 2))
    array[:] = np.arange(24).reshape(4, 3, 2)
    array.flush()
    assert np.array_equal(load_file(path)["mean"], np.arange(24).reshape(4, 3, 2)) and np.array_equal(open_tensor(path, "mean"), np.arange(24).reshape(4, 3, 2))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(FeatureFileError, match="mean.safetensors.*delete its folder"): open_tensor(path, "mean")
    with pytest.raises(FeatureFileError, match="missing"): open_tensor(tmp_path / "none.safetensors", "mean")


class Pool:
    def __init__(self, states): self.mean = self.last = torch.as_tensor(states, dtype=torch.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5, -7e4])
def test_a_state_that_float16_cannot_hold_is_refused_and_its_row_named(tmp_path, value):
    arrays, _ = models.open_partial(tmp_path, ("mean", "last"), (9, 3, 2))
    states = np.ones((3, 3, 2))
    write_batch(arrays, [4, 7, 2], Pool(states), torch.zeros(3, 30), [1, 1, 1])
    states[1, 2, 0] = value
    with pytest.raises(FeatureFileError, match="row 7: a hidden state is not finite in float16"): write_batch(arrays, [4, 7, 2], Pool(states), torch.zeros(3, 30), [1, 1, 1])
    assert np.isfinite(arrays["mean"]).all()


# ---------- the model ----------

def mixed_bank(rows=14):
    "Two tasks with shots and one without; prompts and answers of different lengths."
    colours = [("grass", "green"), ("snow", "white"), ("blood", "red"), ("the sky on a clear summer day", "blue"), ("coal", "black"), ("a ripe banana", "yellow"), ("an orange", "orange")]
    things = [dict(prompt=f"\nQ: What colour is {t}?\nA:", references=[c], task="colours") for t, c in colours]
    counts = [dict(prompt=f"\nQ: Count from {i} to {i + k}.\nA:", references=["x"], task="counting") for i, k in ((1, 1), (2, 6), (3, 2), (4, 9), (5, 3))]
    plain = [dict(prompt=p, references=["Paris"], task="free") for p in ("The capital of France is", "Once upon a time there was")]
    found = [dict(r, domain="d", source="made here", split="test") for group in zip(things, counts + things[5:], plain + things[2:]) for r in group]
    found = list({r["prompt"]: r for r in found + things + counts + plain}.values())[:rows]
    shots = {"colours": "Q: What colour is a lemon?\nA: yellow\nQ: What colour is a crow?\nA: black", "counting": "Q: Count from 1 to 3.\nA: 1, 2, 3\nQ: Count from 6 to 7.\nA: 6, 7"}
    return make_bank(found, shots, "mixed")


@pytest.fixture(scope="module")
def lm(): return load_causal_lm(SMALL, dtype=torch.float32)


@pytest.fixture(scope="module")
def lm16(): return load_causal_lm(SMALL, dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def store(lm, tmp_path_factory): return lm.features(mixed_bank(), tmp_path_factory.mktemp("store") / "features", batch_tokens=64)


def one_by_one(lm, bank, row):
    "(own states (L, T, D), next-token logits (V,)) of one query in a plain pass over shots + prompt."
    prompt, shots = bank.table.prompt[row], bank.shots.get(bank.table.task[row], "")
    before, own = (lm.tokenizer(t, add_special_tokens=False).input_ids if t else [] for t in (shots, prompt))
    with torch.no_grad(): out = lm.model(torch.tensor([before + own]), output_hidden_states=True, use_cache=False)
    return torch.stack(out.hidden_states)[:, 0, len(before):].float().numpy(), out.logits[0, -1].float().numpy()


@pytest.mark.model
def test_features_are_those_of_plain_passes_in_float32(lm, store):
    bank = mixed_bank()
    assert store.mean.shape == store.last.shape == (len(bank), 31, 576) and store.mean.dtype == np.float16 and list(store.query_ids) == list(bank.query_ids)
    for row in (0, 1, 2, 7, 12):
        states, logits = one_by_one(lm, bank, row)
        assert store.lengths[row] == states.shape[1]
        for found, expected in ((store.mean[row], states.mean(1)), (store.last[row], states[:, -1])):
            assert np.allclose(found.astype(np.float32), expected, rtol=2e-3, atol=2e-3)   # float16 keeps 11 bits
        p = np.exp(logits.astype(np.float64) - logits.max())
        p /= p.sum()
        assert np.isclose(store.logits["entropy"][row], -(p * np.log(p)).sum(), atol=2e-3) and np.isclose(store.logits["max_logit"][row], logits.max(), atol=2e-3)
        assert np.isclose(store.logits["margin"][row], np.sort(p)[-1] - np.sort(p)[-2], atol=1e-3) and np.isclose(store.logits["max_prob"][row], p.max(), atol=1e-3)
        assert store.logits["top_tokens"][row, 0] == logits.argmax() and store.logits["top_logits"].shape == (len(bank), 20)


@pytest.mark.model
def test_features_in_bfloat16_agree_with_a_plain_pass_within_its_rounding(lm16, tmp_path):
    bank = mixed_bank(8)
    found = lm16.features(bank, tmp_path / "f")
    for row in (0, 4, 5):
        states, _ = one_by_one(lm16, bank, row)
        for ours, plain in ((found.mean[row], states.mean(1)), (found.last[row], states[:, -1])):
            ours = ours.astype(np.float32)
            assert np.corrcoef(ours.ravel(), plain.ravel())[0, 1] > .999
            relative = np.linalg.norm(ours - plain, axis=1) / np.linalg.norm(plain, axis=1)
            assert relative.max() < .06 and np.median(relative) < .03   # per layer; bfloat16 rounds to 1/256


@pytest.mark.model
def test_shots_change_a_query_s_states_and_neighbours_do_not(lm, store, tmp_path):
    bank = mixed_bank()
    alone = lm.features(bank.take([3]), tmp_path / "alone")
    assert np.allclose(alone.mean[0].astype(np.float32), store.mean[3].astype(np.float32), rtol=2e-3, atol=2e-3)
    bare = lm.features(make_bank(bank.take([0]).table.drop(columns="query_id").to_dict("records")), tmp_path / "bare", poolings=("mean",))
    assert np.allclose(bare.mean[0, 0], store.mean[0, 0], atol=1e-3) and np.abs(bare.mean[0, 15] - store.mean[0, 15]).max() > .1   # layer 0 does not see the shots
    with pytest.raises(FeatureFileError, match="last.safetensors"): bare.last


class Interrupted(Exception): pass


def files(folder): return {p.name: file_hash(p) for p in folder.iterdir()}


@pytest.mark.model
def test_an_interrupted_run_resumes_and_gives_the_same_bytes(lm, store, tmp_path, monkeypatch):
    bank, folder, calls = mixed_bank(), tmp_path / "features", []
    plan = plan_batches([len(x) for x in lm.tokens(bank.table.prompt)], list(bank.table.task), list(bank.query_ids), batch_tokens=64)
    assert len(plan) >= 5
    forward = models.CausalLM.forward_batch

    def failing(limit):
        def run(self, *args, **kwargs):
            if len(calls) == limit: raise Interrupted
            calls.append(1)
            return forward(self, *args, **kwargs)
        return run
    for limit in (2, 4):   # stopped after two batches, resumed, stopped again after two more
        monkeypatch.setattr(models.CausalLM, "forward_batch", failing(limit))
        with pytest.raises(Interrupted): lm.features(bank, folder, batch_tokens=64)
        partial, = tmp_path.glob("features.*.partial")
        assert not folder.exists() and len(json.loads((partial / "done.json").read_text())) == limit
        with pytest.raises(FeatureFileError, match="manifest.json is missing"): FeatureStore(folder)
    monkeypatch.setattr(models.CausalLM, "forward_batch", failing(10**6))
    lm.features(bank, folder, batch_tokens=64)
    assert len(calls) == len(plan)   # nothing was computed twice
    assert files(folder) == files(store.folder) and set(files(folder)) == {"mean.safetensors", "last.safetensors", "logits.safetensors", "manifest.json"}
    assert [p.name for p in tmp_path.iterdir()] == ["features"]
    lm.features(bank, folder, batch_tokens=64)
    assert len(calls) == len(plan)   # a finished store is only opened
    lm.features(bank.take([0, 1]), folder, batch_tokens=64)
    assert len(calls) > len(plan) and len(FeatureStore(folder).query_ids) == 2   # other queries: computed anew


@pytest.mark.model
def test_a_kill_during_a_batch_leaves_that_batch_to_be_done_again(lm, store, tmp_path, monkeypatch):
    write = models.write_batch

    def torn(arrays, batch, pool, *rest):
        pool.mean = pool.mean * 3
        write(arrays, batch, pool, *rest)
        raise Interrupted
    monkeypatch.setattr(models, "write_batch", torn)
    with pytest.raises(Interrupted): lm.features(mixed_bank(), tmp_path / "f", batch_tokens=64)
    monkeypatch.setattr(models, "write_batch", write)
    assert files(lm.features(mixed_bank(), tmp_path / "f", batch_tokens=64).folder) == files(store.folder)


@pytest.mark.model
def test_a_damaged_store_is_an_error_that_names_the_file(lm, tmp_path):
    bank = mixed_bank(2)
    for name, read in {"mean.safetensors": lambda s: s.mean, "last.safetensors": lambda s: s.last, "logits.safetensors": lambda s: s.logits, "manifest.json": lambda s: s.query_ids}.items():
        folder = lm.features(bank, tmp_path / name.split(".")[0]).folder
        path = folder / name
        path.write_bytes(path.read_bytes()[:-7])
        with pytest.raises(FeatureFileError, match=f"{name}.*delete its folder"): read(FeatureStore(folder))
        path.unlink()
        with pytest.raises(FeatureFileError, match=name): read(FeatureStore(folder))


@pytest.mark.model
def test_states_out_of_range_stop_the_run(lm, tmp_path, monkeypatch):
    pool = models.PooledStates._pool
    monkeypatch.setattr(models.PooledStates, "_pool", lambda self, layer, out: pool(self, layer, (out[0] if isinstance(out, tuple) else out) * (1e6 if layer == 29 else 1)))
    with pytest.raises(FeatureFileError, match=r"row \d: a hidden state is not finite in float16 .largest [1-9]"): lm.features(mixed_bank(3), tmp_path / "f")
    assert not (tmp_path / "f").exists()


@pytest.mark.model
def test_store_rows_follow_the_query_ids(store):
    ids = store.query_ids[[5, 0, 3]]
    assert store.rows(ids).tolist() == [5, 0, 3]
    with pytest.raises(CompanionError, match="1 of 2 query ids have no features, the first is nowhere"): store.rows([ids[0], "nowhere"])


# ---------- answers ----------

def greedy(lm, bank, row, new_tokens):
    "The first line of a plain greedy answer to one query, by the library's own generator."
    ids = lm.tokenizer(bank.shots.get(bank.table.task[row], ""), add_special_tokens=False).input_ids + lm.tokenizer(bank.table.prompt[row], add_special_tokens=False).input_ids
    x = torch.tensor([ids])
    out = lm.model.generate(x, attention_mask=torch.ones_like(x), do_sample=False, max_new_tokens=new_tokens, pad_token_id=0)[0, len(ids):].tolist()
    kept = []
    for token in out:
        if "\n" in lm.tokenizer.decode([token]) or token == lm.tokenizer.eos_token_id: break
        kept.append(token)
    return lm.tokenizer.decode(kept), len(kept), len(ids)


@pytest.mark.model
def test_answers_with_dropped_rows_equal_one_by_one_answers_in_float32(lm):
    bank = mixed_bank()
    found = lm.generate(bank, max_new_tokens=10)
    plain = [greedy(lm, bank, row, 10) for row in range(len(bank))]
    assert found.text == [t for t, _, _ in plain] and found.tokens_out.tolist() == [n for _, n, _ in plain] and found.tokens_in.tolist() == [n for _, _, n in plain]
    assert len(set(found.tokens_out)) > 2 and (found.tokens_out == 10).any() and (found.tokens_out < 4).any()   # rows did leave at different times
    assert (found.seconds > 0).all() and found.seconds.dtype == np.float32 and not any("\n" in t for t in found.text)
    one = lm.generate(bank, max_new_tokens=10, batch_tokens=1)   # batches of one row
    assert one.text == found.text


@pytest.mark.model
def test_answers_in_bfloat16_differ_on_a_small_share_only(lm16):
    bank = mixed_bank(10)
    found = lm16.generate(bank, max_new_tokens=6)
    same = np.mean([found.text[row] == greedy(lm16, bank, row, 6)[0] for row in range(len(bank))])
    assert same >= .8   # rounding may turn one or two near ties of ten


@pytest.mark.model
def test_empty_shots_work_and_their_cache_is_empty(lm):
    bank = mixed_bank()
    free = bank.select(task="free")
    cache, n = lm.encode_shots("")
    assert n == 0 and cache.get_seq_length() == 0
    assert lm.generate(free, max_new_tokens=2).tokens_in.tolist() == [len(lm.tokenizer(p).input_ids) for p in free.table.prompt]
    assert lm.generate(free, max_new_tokens=2).text[0].strip().startswith("Paris")


@pytest.mark.model
def test_a_prompt_that_does_not_fit_is_named_with_its_length(lm, tmp_path, monkeypatch):
    bank = mixed_bank(4)
    ids = [lm.tokenizer(bank.shots.get(t, "")).input_ids + lm.tokenizer(p).input_ids for t, p in zip(bank.table.task, bank.table.prompt)]
    longest = max(map(len, ids))
    row = [len(x) for x in ids].index(longest)
    monkeypatch.setattr(lm, "window", longest)
    assert [len(x) for x in lm.check_window(bank)] == [len(lm.tokenizer(p).input_ids) for p in bank.table.prompt]
    with pytest.raises(PromptTooLongError, match=f"mixed, row {row} .query {bank.query_ids[row]}.: {longest + 1} tokens with its shots, and the window of .* is {longest}"):
        lm.generate(bank, max_new_tokens=1)
    monkeypatch.setattr(lm, "window", longest - 1)
    with pytest.raises(PromptTooLongError, match=f"row {row} "): lm.features(bank, tmp_path / "f")
    assert not list(tmp_path.iterdir())
    with pytest.raises(PromptTooLongError, match="row 0: the prompt is empty"): lm.generate(make_bank([dict(prompt="", references=["x"], task="t", domain="d", source="s", split="test")]))


# ---------- names ----------

HUB = """
import json, socket, sys
def refuse(*a, **k): raise AssertionError("the network was touched")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
from routercompanion.core import CompanionError
from routercompanion.models import load_causal_lm, resolve_model
lm = load_causal_lm("our-org/tiny-model")
print(json.dumps([lm.name, round(lm.parameters_b, 3), lm.width, str(resolve_model("our-org/tiny-model"))]))
try: load_causal_lm("our-org/unknown")
except CompanionError as e: print(json.dumps(str(e)))
"""


@pytest.mark.model
def test_a_hub_id_is_read_from_the_local_hub_cache_without_network(tmp_path):
    from routercompanion.assets import get_asset
    source, base, commit = get_asset(SMALL), tmp_path / "hub" / "models--our-org--tiny-model", "f" * 40
    (base / "snapshots" / commit).mkdir(parents=True)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(commit)
    for path in source.iterdir():
        if path.is_file(): (base / "snapshots" / commit / path.name).symlink_to(path)
    env = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    out = subprocess.run([sys.executable, "-c", HUB], capture_output=True, text=True, cwd=project_root(), env={**env, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")})
    assert out.returncode == 0, out.stderr[-2000:]
    loaded, refused = map(json.loads, out.stdout.splitlines())
    assert loaded == ["our-org/tiny-model", .135, 576, str(base / "snapshots" / commit)]
    assert "'our-org/unknown'" in refused and "huggingface-cli download our-org/unknown" in refused


def test_a_folder_is_taken_as_it_is(tmp_path): assert resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.model
def test_an_encoder_gives_vectors_of_length_one_that_do_not_depend_on_the_batch():
    encoder = load_encoder("minilm-l6-v2")
    texts = ["What is the capital of France?", "Name France's capital city.", "17 * 23 =", ""]
    found = encoder.encode(texts)
    assert found.shape == (4, 384) and found.dtype == np.float32 and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.allclose(found, np.concatenate([encoder.encode([t]) for t in texts]), atol=1e-5) and found[0] @ found[1] > .8 > found[0] @ found[2]
