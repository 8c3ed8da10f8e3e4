"""Query banks: ids, files, formats, splits by hash, judges, leakage. The tests marked `model` build the full bank from the BIG-bench archive."""

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import unicodedata
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from routercompanion.data import texts as texts_module
from routercompanion.data.banks import embedded as embedded_module
from routercompanion.curation.leakage import data_card, leakage_audit
from routercompanion.data.bank import (
    BankError,
    COLUMNS,
    QueryBank,
    fair_quotas,
    first_by_hash,
    load_bank,
    make_bank,
    ordered,
    query_id,
    save_bank,
)
from routercompanion.data.banks.embedded import (
    IN_DOMAIN,
    OUT_OF_DOMAIN,
    PILOT_SIZE,
    STANDS_FOR,
    TASKS,
    bigbench_task,
    embedded_bank,
    format_example,
    pilot_and_rest,
    pilot_bank,
    reasoning_gym_task,
    side,
    split_key,
    split_relations,
    task_rows,
)
from routercompanion.data.texts import clean_answer
from routercompanion.judging.exact import judge, judge_one
from routercompanion.core import CompanionError, PROFILES, project_root

texts = st.text(max_size=40)
spaces = st.text(" \t\n\r\u00a0\u2003", min_size=1, max_size=4)


def row(prompt, **other):
    return dict(
        dict(prompt=prompt, references=["x"], task="t", domain="d", source="s", split="test"),
        **other,
    )


def toy(n=6):
    return make_bank(
        [
            row(
                f"\nQ: {i}?\nA:",
                references=[str(i)],
                task="ab"[i % 2],
                split=("train", "test")[i // 3],
            )
            for i in range(n)
        ],
        {"a": "SHOT A", "b": "SHOT B"},
        "toy",
    )


# ---------- ids ----------


@given(st.lists(st.text("abcXYZ019?+", min_size=1, max_size=8), min_size=1, max_size=6), st.data())
def test_query_id_ignores_spacing_and_case(words, data):
    plain = " ".join(words)
    other = data.draw(st.just("") | spaces)
    for w in words:
        other += "".join(
            c.upper() if data.draw(st.booleans()) else c.lower() for c in w
        ) + data.draw(spaces)
    assert query_id("t", plain) == query_id("t", other)


@given(st.tuples(texts, texts), st.tuples(texts, texts))
def test_query_id_separates_what_differs(a, b):
    composed = lambda text: unicodedata.normalize("NFC", text)
    fold = lambda pair: (pair[0], " ".join(composed(pair[1]).split()).lower().strip())
    assert (query_id(*a) == query_id(*b)) == (fold(a) == fold(b))


@given(texts, texts)
def test_query_id_is_the_stated_hash(task, prompt):
    composed = unicodedata.normalize("NFC", prompt)
    text = json.dumps([task, " ".join(composed.split()).lower()], separators=(",", ":"))
    assert query_id(task, prompt) == hashlib.sha256(text.encode()).hexdigest()[
        :16
    ] and re.fullmatch("[0-9a-f]{16}", query_id(task, prompt))


def test_task_and_prompt_do_not_run_together():
    assert query_id("ab", "c") != query_id("a", "bc")


# ---------- the bank ----------


def test_a_query_that_stands_twice_is_named():
    with pytest.raises(BankError, match=r"bank, row 2: query_id .* stands twice"):
        make_bank([row("one"), row("two"), row(" ONE  ")])


def test_a_missing_column_is_named():
    with pytest.raises(BankError, match="column.s. domain, split are missing"):
        QueryBank(toy().table.drop(columns=["domain", "split"]))


def test_select_and_take_keep_order_and_the_shots_of_their_tasks():
    bank = toy()
    assert list(bank.select(task="a").table.prompt) == [
        "\nQ: 0?\nA:",
        "\nQ: 2?\nA:",
        "\nQ: 4?\nA:",
    ] and bank.select(task="a").shots == {"a": "SHOT A"}
    assert list(bank.select(split="train", task=["a", "b"]).query_ids) == list(bank.query_ids[:3])
    assert list(bank.take([4, 0, 3]).query_ids) == list(bank.query_ids[[4, 0, 3]])
    mask = np.array([True, False, False, True, False, False])
    assert (
        list(bank.take(mask).query_ids)
        == list(bank.query_ids[mask])
        == list(bank.take(list(mask)).query_ids)
    )
    assert len(bank.select(split="ood")) == 0 and len(bank.take([])) == 0
    assert bank.take([5]).table.index.tolist() == [0] and bank.query_ids.dtype.kind == "U"


@given(
    st.lists(
        texts.filter(lambda t: t.strip()),
        min_size=1,
        max_size=8,
        unique_by=lambda t: " ".join(t.split()).lower(),
    ),
    st.lists(texts, min_size=1, max_size=3),
)
@settings(max_examples=25, deadline=None)
def test_a_saved_bank_is_the_same_bank(tmp_path_factory, prompts, references):
    path = tmp_path_factory.mktemp("bank") / "b.jsonl"
    bank = make_bank(
        [
            row(p, references=references, choices=references if i % 2 else None)
            for i, p in enumerate(prompts)
        ],
        {"t": "".join(prompts)},
        "mine",
    )
    save_bank(bank, path)
    again = load_bank(path)
    assert again.table.to_dict("records") == bank.table.to_dict("records") and (
        again.shots,
        again.name,
    ) == (bank.shots, "mine")


def test_a_line_cut_in_half_is_named_by_file_and_row(tmp_path):
    path = tmp_path / "half.jsonl"
    save_bank(toy(), path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][: len(lines[4]) // 2])
    with pytest.raises(CompanionError, match=r"half\.jsonl, row 5: it ends in the middle"):
        load_bank(path)
    lines[2] = lines[2].replace('"prompt"', '"promt"')
    path.write_text("".join(lines))
    with pytest.raises(BankError, match=r"half\.jsonl, row 3: prompt missing"):
        load_bank(path)
    for foreign in ("", '{"a": 1}\n', "".join(lines[1:])):
        path.write_text(foreign)
        with pytest.raises(BankError, match=r"half\.jsonl, row 1: not a bank file"):
            load_bank(path)


# ---------- formats ----------


@given(
    st.text(max_size=20),
    st.none() | st.text("\nQ: ", max_size=6),
    st.none() | st.text("\nA: ", max_size=6),
)
def test_trailing_spaces_of_a_prompt_belong_to_the_answer(text, before, after):
    prompt, space = format_example(
        text, {"example_input_prefix": before, "example_output_prefix": after}
    )
    before = "\n" if before is None else before if before[:1] == "\n" else "\n" + before
    whole = before + text + ("\n" if after is None else after)
    assert not prompt.endswith(" ") and prompt.startswith("\n") and space in ("", " ")
    assert (
        whole.startswith(prompt)
        and set(whole[len(prompt) :]) <= {" "}
        and (space == " ") == whole.endswith(" ")
    )


CAPITALS = dict(
    Peru="Lima",
    Chile="Santiago",
    Cuba="Havana",
    Mali="Bamako",
    Iran="Tehran",
    Laos="Vientiane",
    Oman="Muscat",
    Togo="Lome",
)


def write_task(folder, examples, name="capitals", **other):
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "task.json").write_text(
        json.dumps(
            {
                "example_input_prefix": "\nQ: ",
                "example_output_prefix": "\nA: ",
                "examples": examples,
                **other,
            }
        )
    )


def test_bigbench_rows_and_shots_follow_the_format(tmp_path):
    write_task(
        tmp_path,
        [
            {"input": f"capital of {c}? ", "target": t if c < "L" else [t, t + " City"]}
            for c, t in CAPITALS.items()
        ],
        task_prefix="Name it. ",
    )
    rows, shots = bigbench_task("capitals", domain="knowledge", split="ood", folder=tmp_path)
    assert (
        list(shots) == ["capitals"]
        and shots["capitals"].startswith("Name it.\nQ: capital of ")
        and len(rows) == 5
    )
    solved = re.findall(r"\nQ: capital of (\w+)\?\nA: ([\w ]+)", shots["capitals"])
    assert len(solved) == 3 and all(CAPITALS[c] == t for c, t in solved)
    asked = {
        re.fullmatch(r"\nQ: capital of (\w+)\?\nA:", r["prompt"])[1]: r["references"] for r in rows
    }
    assert set(asked) | {c for c, _ in solved} == set(CAPITALS) and not set(asked) & {
        c for c, _ in solved
    }
    assert all(
        v == ([CAPITALS[c]] if c < "L" else [CAPITALS[c], CAPITALS[c] + " City"])
        for c, v in asked.items()
    )
    assert {(r["task"], r["domain"], r["split"]) for r in rows} == {
        ("capitals", "knowledge", "ood")
    }


def test_long_and_unanswered_examples_are_left_out(tmp_path):
    good = [{"input": f"capital of {c}?", "target": [t]} for c, t in CAPITALS.items()]
    write_task(
        tmp_path,
        good
        + [
            {"input": "x" * 451, "target": "y"},
            {"input": "no answer", "target": []},
            {"input": "no target"},
        ],
    )
    rows, shots = bigbench_task("capitals", domain="knowledge", split="ood", folder=tmp_path)
    assert (
        len(rows) == 5
        and "xxx" not in shots["capitals"]
        and not any("no " in r["prompt"] for r in rows)
    )
    with pytest.raises(BankError, match="no such BIG-bench task"):
        bigbench_task("rivers", domain="d", split="ood", folder=tmp_path)


@given(st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_shots_and_queries_do_not_depend_on_the_order_of_the_file(tmp_path_factory, rng):
    examples = [{"input": f"capital of {c}?", "target": [t]} for c, t in CAPITALS.items()]
    results = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("bb")
        write_task(folder, examples)
        rows, shots = bigbench_task("capitals", domain="d", split="train", folder=folder)
        results.append(
            (
                shots,
                [(r["prompt"], r["references"]) for r in ordered(rows)],
                [side(r) for r in ordered(rows)],
            )
        )
        rng.shuffle(examples)
    assert results[0] == results[1]


@given(
    st.lists(st.tuples(st.text(max_size=5), st.none()), unique=True, max_size=12),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_first_by_hash_is_a_choice_that_ordering_cannot_change(items, count, rng):
    shuffled = items[:]
    rng.shuffle(shuffled)
    chosen = first_by_hash(items, count, "salt")
    assert (
        chosen == first_by_hash(shuffled, count, "salt")
        and len(chosen) == min(count, len(items))
        and set(chosen) <= set(items)
    )
    rest = [x for x in items if x not in chosen]
    assert (
        first_by_hash(rest, len(rest), "salt") == first_by_hash(items, len(items), "salt")[count:]
    )


def test_relations_take_the_longest_fit():
    groups = split_relations(
        [
            ("The country of citizenship of Ada is", 1),
            ("The country of Ayers Rock is", 2),
            ("Lima is located in", 3),
            ("other", 4),
        ],
        ["The country of", "The country of citizenship of", "... is located in"],
    )
    assert [[n for _, n in groups[r]] for r in groups] == [[2], [1], [3]]


# ---------- reasoning-gym ----------


def digest(rows, shots):
    return hashlib.sha256(json.dumps([rows, shots], sort_keys=True).encode()).hexdigest()


GENERATED = """
import hashlib, json, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "pycosat": raise ModuleNotFoundError("No module named 'pycosat'", name="pycosat")
{block}
from routercompanion.data.banks.embedded import generated_item, reasoning_gym_task
from routercompanion.judging.exact import judge_one
if {late}: generated_item('reasoning-gym==0.1.25|lcm|{{"max_value": 12}}|31')
rows, shots = reasoning_gym_task("lcm", domain="arithmetic", split="train", size=40, settings=({{"max_value": 12}}, {{"max_value": 30}}))
stand_in = sys.modules["pycosat"]
print(hashlib.sha256(json.dumps([rows, shots], sort_keys=True).encode()).hexdigest(), getattr(stand_in, "__file__", None) is None,
      judge_one(rows[3]["references"][0], rows[3]["references"], rows[3]["source"]))
"""


@pytest.mark.parametrize("absent", [True, False])
def test_generated_problems_are_the_same_in_every_process_with_or_without_the_sat_solver(absent):
    block = "sys.meta_path.insert(0, Missing())" if absent else ""
    out = subprocess.run(
        [sys.executable, "-c", GENERATED.format(block=block, late=absent)],
        capture_output=True,
        text=True,
        cwd=project_root(),
        env={**os.environ, "PYTHONHASHSEED": "7" if absent else "8"},
    )
    assert out.returncode == 0, out.stderr
    found, bare, right = out.stdout.split()
    here = reasoning_gym_task(
        "lcm",
        domain="arithmetic",
        split="train",
        size=40,
        settings=({"max_value": 12}, {"max_value": 30}),
    )
    assert found == digest(*here) and right == "True"
    assert bare == "True" or not absent


def test_an_item_does_not_depend_on_the_size_of_its_data_set():
    import reasoning_gym

    few = reasoning_gym.create_dataset("lcm", seed=42, size=5, max_value=12)
    many = embedded_module.generator("lcm", '{"max_value": 12}')
    assert [few[i]["question"] for i in range(5)] == [
        many[i]["question"] for i in range(5)
    ] and len(many) == 4000


def test_generated_shots_come_from_every_setting_and_are_never_queries():
    rows, shots = reasoning_gym_task(
        "lcm",
        domain="arithmetic",
        split="test",
        size=30,
        settings=({"max_value": 12}, {"max_value": 300}),
    )
    text = shots["reasoning_gym/lcm"]
    problems = [list(map(int, re.findall(r"\d+", q))) for q in re.findall(r"Q: (.*?)\nA:", text)]
    assert len(problems) == 4 and sum(max(p) > 12 for p in problems) == 2
    assert not any(r["prompt"] in text for r in rows) and len(
        {texts_module.normalise(r["prompt"]) for r in rows}
    ) == len(rows)
    answers = re.findall(r"\nA: (-?\d+)", text)
    assert [math.lcm(*p) for p in problems] == list(map(int, answers))
    for r in rows:
        assert math.lcm(*map(int, re.findall(r"\d+", r["prompt"]))) == int(r["references"][0])


# ---------- the judge ----------

NASTY = [
    "",
    " ",
    "\n\n",
    "None",
    "nan",
    "inf",
    "-inf",
    "NaN",
    "1e999",
    "9" * 5000,
    "\x00",
    "<|im_end|>",
    "7/0",
    "0/0",
    "½",
    "{}",
    "[",
    "\\frac{1}{0}",
    "()",
    "import os",
    "٣",
    "-",
    "''",
    '"',
]


@pytest.fixture(scope="module")
def smoke():
    return embedded_bank("smoke")


@pytest.mark.parametrize("reference", ["7", "7/2", "0.5", "Lima"])
def test_a_sentinel_or_empty_answer_is_wrong_and_no_error(reference):
    for answer in NASTY:
        assert judge_one(answer, [reference], "bigbench==1.0.0") is False, answer


def test_a_sentinel_is_wrong_for_every_verifier(smoke):
    for r in smoke.table.groupby("task").head(2).itertuples():
        for answer in NASTY:
            assert not judge_one(answer, r.references, r.source), (r.task, answer)


def test_every_reference_is_right_and_another_number_is_wrong(smoke):
    assert judge(smoke, [r[0] for r in smoke.table.references]).tolist() == [1] * len(smoke)
    assert judge(smoke, [str(int(r[0]) + 1) for r in smoke.table.references]).sum() == 0
    found = judge(smoke.take([0, 1]), [smoke.table.references[0][0], "no"])
    assert found.dtype == np.float32 and found.tolist() == [1, 0]


@pytest.mark.parametrize(
    "answer, references, right",
    [
        ("Lima.", ["Lima"], True),
        (' "LIMA"\nQ: next', ["lima"], True),
        ("Lima, Peru", ["Lima"], False),
        ("\n\nLima", ["Lima"], True),
        ("Li ma", ["Lima"], False),
        ("0.5", ["1/2"], True),
        ("2/4", ["1/2"], True),
        ("1.50", ["1.5"], True),
        ("-3", ["3"], False),
        ("007", ["7"], True),
        ("0.3333", ["1/3"], False),
        ("7", ["8", "seven"], False),
        ("8", ["6", "8.0"], True),
        ("12 apples", ["12"], False),
        ("second", ["first", "Second"], True),
        ("", ["''"], False),
        ("''", ["''"], True),
        ("?", ["?"], True),
        ("", ["?"], False),
        ("a", ["''"], False),
    ],
)
def test_exact_and_mathematical_answers(answer, references, right):
    assert judge_one(answer, references, "bigbench==1.0.0") is right


def test_the_number_of_answers_must_fit(smoke):
    with pytest.raises(BankError, match="3 answers for 144 queries"):
        judge(smoke, ["1"] * 3)


@given(st.text("aB .!?,;:\"'`\n", max_size=12))
def test_cleaning_twice_changes_nothing_and_never_empties_a_text(text):
    cleaned = clean_answer(text)
    assert clean_answer(cleaned) == cleaned and (cleaned == "") == (text.strip() == "")


# ---------- splits ----------


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_calculation_is_known_by_its_numbers_in_any_order(numbers, rng):
    other = numbers[:]
    rng.shuffle(other)
    ask = lambda words, ns: words + " and ".join(map(str, ns)) + "?"
    assert split_key(ask("LCM of ", numbers), "arithmetic") == split_key(
        ask("What is the lcm of ", other), "arithmetic"
    )
    assert split_key(ask("", numbers), "arithmetic") != split_key(
        ask("", numbers + [100]), "arithmetic"
    )
    assert (split_key(ask("", numbers), "science") == split_key(ask("", other), "science")) == (
        numbers == other
    )


@given(st.lists(st.integers(0, 30), min_size=1, max_size=7), st.integers(0, 120))
def test_quotas_are_fair(available, total):
    if sum(available) < total:
        with pytest.raises(BankError, match=f"{sum(available)} queries for a column of {total}"):
            fair_quotas(available, total)
        return
    quotas = fair_quotas(available, total)
    assert sum(quotas) == total and all(0 <= q <= a for q, a in zip(quotas, available))
    # who gets clearly less than another has given everything (a remainder of less than one each is handed out once per emptied task)
    for q, a in zip(quotas, available):
        assert q == a or q >= max(quotas) - 1 - sum(x == y for x, y in zip(quotas, available))


def check_sides(bank, sizes):
    "What must hold for every bank: sizes, pilot, shots, sides. `sizes` = (train, test, ood)."
    t = bank.table
    for domain, part in t.groupby("domain"):
        expected = (
            dict(zip(("train", "test"), sizes)) if domain in IN_DOMAIN else dict(ood=sizes[2])
        )
        assert part.split.value_counts().to_dict() == expected, domain
    for domain, part in t[t.split != "ood"].groupby("domain"):
        body = lambda p: (
            tuple(sorted(Counter(re.findall(r"\d+", p)).items()))
            if domain == "arithmetic"
            else p.strip().lower()
        )
        assert not set(map(body, part[part.split == "train"].prompt)) & set(
            map(body, part[part.split == "test"].prompt)
        )
        keys = part.groupby(part.prompt.map(lambda p: split_key(p, domain))).split.nunique()
        assert keys.max() == 1
    for task, part in t.groupby("task"):
        shots = (bank.shots[task] + "\n").lower()
        assert len(shots) > 10 and not [
            p
            for p in part.prompt
            if p.lower() + " " in shots or p.lower() in shots and p.endswith((":", "="))
        ], task


def test_the_smoke_bank(smoke):
    p = PROFILES["smoke"]
    check_sides(smoke, (p.train_per_column, p.test_per_column, p.ood_per_column))
    pilots = [
        query_id(r["task"], r["prompt"])
        for t in TASKS
        if t.name in set(smoke.table.task)
        for r in pilot_and_rest(t)[0]
    ]
    assert 100 < len(pilots) == len(
        set(pilots)
    ) <= PILOT_SIZE * smoke.table.task.nunique() and not set(pilots) & set(smoke.query_ids)


def test_a_column_that_cannot_be_filled_is_an_error():
    from dataclasses import replace

    with pytest.raises(BankError, match="queries for a column of 100000"):
        embedded_bank(replace(PROFILES["smoke"], train_per_column=100_000))


def family(task):
    "The source that a task shares with others: BIG-bench file, data set behind an instruction, or generator."
    if task.startswith("natural_instructions/"):
        return re.match(r".*subtask\d+_([a-z]+)_", task)[1]
    return task if task.startswith("reasoning_gym/") else task.split("/")[0]


def test_families_stand_on_one_side_and_columns_have_names_of_their_own():
    chosen = [t for t in TASKS if not t.left_out]
    inside, outside = (
        {family(t.name) for t in chosen if t.in_domain is side} for side in (True, False)
    )
    assert (
        not inside & outside
        and {"qasc", "unnatural_in_context_learning"} <= inside
        and {"qa_wikidata", "mult_data_wrangling", "linguistic_mappings"} <= outside
    )
    assert {t.domain for t in chosen if t.in_domain} == set(IN_DOMAIN) and {
        t.domain for t in chosen if not t.in_domain
    } == set(OUT_OF_DOMAIN)
    assert (
        len(STANDS_FOR) == 9
        and not {v.lower() for v in STANDS_FOR.values()} & {k.lower() for k in STANDS_FOR}
        and len({t.name for t in TASKS}) == len(TASKS)
    )


@pytest.fixture(scope="module")
def embedded():
    return embedded_bank("embedded")


@pytest.mark.model
def test_the_embedded_bank(embedded, smoke):
    assert len(embedded) == 3 * 2200 + 6 * 500
    check_sides(embedded, (1200, 1000, 500))
    assert set(smoke.query_ids) <= set(embedded.query_ids)
    both = embedded.table.merge(smoke.table, on="query_id")
    assert (
        (both.prompt_x == both.prompt_y).all()
        and (both.split_x == both.split_y).all()
        and all(embedded.shots[t] == smoke.shots[t] for t in smoke.shots)
    )
    assert set(embedded.table.task) == {t.name for t in TASKS if not t.left_out} and set(
        embedded.table.domain
    ) == set(STANDS_FOR)
    sides = embedded.table.groupby(embedded.table.task.map(family)).split.agg(
        lambda s: {"ood"} & set(s) and set(s) != {"ood"}
    )
    assert not sides.any()
    train = set(embedded.table[embedded.table.split == "train"].prompt.str.strip().str.lower())
    assert not train & set(
        embedded.table[embedded.table.split == "ood"].prompt.str.strip().str.lower()
    )


@pytest.mark.model
def test_no_pilot_query_is_in_the_embedded_bank(embedded):
    pilot = pilot_bank()
    assert not set(pilot.query_ids) & set(embedded.query_ids) and set(pilot.table.split) == {
        "pilot"
    }
    assert (
        set(pilot.table.task) == {t.name for t in TASKS}
        and pilot.table.task.value_counts().max() == PILOT_SIZE
    )
    assert not set(zip(pilot.table.task, pilot.table.prompt.str.lower())) & set(
        zip(embedded.table.task, embedded.table.prompt.str.lower())
    )


@pytest.mark.model
def test_every_embedded_reference_is_judged_right_and_an_empty_answer_never(embedded):
    part = embedded.take(np.arange(0, len(embedded), 7))
    assert judge(part, [r[-1] for r in part.table.references]).all()
    assert not judge(embedded, [""] * len(embedded)).any()


# ---------- leakage ----------


def by_hand(train, prompt):
    "Cosine of `prompt` to its nearest training prompt: character 3- to 6-grams, (1 + log count) * (log((1 + n) / (1 + df)) + 1), written with dictionaries."
    grams = lambda text: Counter(
        text[i : i + k] for k in (3, 4, 5, 6) for i in range(len(text) - k + 1)
    )
    clean = lambda text: re.sub(r"\s\s+", " ", text.lower())
    counts = [grams(clean(t)) for t in train]
    df = Counter(g for c in counts for g in c)
    idf = {g: math.log((1 + len(train)) / (1 + d)) + 1 for g, d in df.items()}
    vector = lambda c: {g: (1 + math.log(n)) * idf[g] for g, n in c.items() if g in idf}
    norm = lambda v: math.sqrt(sum(x * x for x in v.values())) or 1.0
    mine = vector(grams(clean(prompt)))
    return max(
        sum(x * v.get(g, 0) for g, x in mine.items()) / norm(mine) / norm(v)
        for v in map(vector, counts)
    )


def test_the_audit_agrees_with_a_statement_by_hand():
    train = [
        "\nQ: Which river flows through Paris?\nA:",
        "\nQ: Name a noble  gas.\nA:",
        "\nQ: lcm of 6 and 8?\nA:",
        "\nJohn thinks the cat sleeps, but",
    ]
    rest = [
        ("\nQ: Which river flows through  PARIS ?\nA:", "science"),
        ("\nQ: Which sea is the saltiest of all?\nA:", "science"),
        ("\nQ: lcm of 6 and 9?\nA:", "arithmetic"),
        ("\nQ: lcm of 8 and 6?\nA:", "arithmetic"),
        ("\nThe cat  sleeps", "science"),
        ("zzzz", "science"),
        ("\nQ: Name a noble gas!\nA:", "other"),
    ]
    bank = make_bank(
        [row(p, split="train", domain="arithmetic" if "lcm" in p else "science") for p in train]
        + [row(p, task="u", domain=d, split="ood" if d == "other" else "test") for p, d in rest]
    )
    audit = leakage_audit(bank, threshold=0.9, block=2)
    assert list(audit.query_id) == list(bank.query_ids[4:]) and list(audit.split) == [
        "test"
    ] * 6 + ["ood"]
    near = np.array([by_hand(train, p) for p, _ in rest])
    assert (
        np.allclose(audit.similarity, near, atol=1e-9)
        and near[0] > 0.9 > near[1]
        and near[2] > 0.5
        and near[5] == 0
    )
    assert audit.same_key.tolist() == [False, False, False, True, True, False, False]
    assert audit.leaked.tolist() == [True, False, False, True, True, False, bool(near[6] >= 0.9)]
    assert np.array_equal(leakage_audit(bank, block=1000).similarity, audit.similarity)


def test_an_audit_needs_both_sides():
    with pytest.raises(BankError, match="0 training and 6 other"):
        leakage_audit(make_bank([row(str(i)) for i in range(6)]))


def test_the_data_card_counts_every_task(smoke):
    audit = leakage_audit(smoke)
    card = data_card(
        smoke, audit, pd.DataFrame({"small model": 0.25}, index=smoke.table.task.unique())
    )
    lines = {
        cells[2]: cells
        for line in card.splitlines()
        if line.startswith("|") and len(cells := [c.strip() for c in line.split("|")]) > 4
    }
    for task, part in smoke.table.groupby("task"):
        head = dict(zip(lines["task"], lines[task]))
        for split in smoke.table.split.unique():
            assert int(head[split]) == (part.split == split).sum()
        assert (
            int(head["leaked"]) == audit.leaked[audit.task == task].sum()
            and float(head["small model"]) == 0.25
            and head["domain"] == part.domain.iloc[0]
        )
    assert (
        f"{len(smoke)} queries" in card
        and "Apache-2.0" in card
        and not any(p.strip() in card for p in smoke.table.prompt)
    )
