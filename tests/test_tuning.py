"Settings chosen by validation: stack against single fits, brute force, edges, failures, file."
import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from routercompanion.core import make_rng, project_root
from routercompanion.parallel import deterministic
from routercompanion.routers import (
    DirichletProbe, EmbeddingMLP, FinalLayerProbe, MLPProbe, MeanProbe, SoftmaxProbe,
)
from routercompanion.routers import tuning as t
from routercompanion.routers.training import split_rows, train_stack

KEPT = project_root() / "data" / "settings.csv"


@pytest.fixture(autouse=True, scope="module")
def _threads():
    deterministic(42, 1)


@pytest.fixture(scope="module")
def data():
    "150 queries with three layers of six numbers, and outcomes of two models."
    rng = make_rng(1)
    X = rng.normal(size=(150, 3, 6)).astype(np.float16)
    hard = 1.5 * X[:, :, 0].mean(1) + X[:, 1, 1] * X[:, 2, 2]
    wrong = rng.random(150) < 1 / (1 + np.exp(-2 * hard))
    return X, np.stack([~wrong, rng.random(150) < .9], 1).astype(float)


# ---- side by side = one by one

ROUTERS = {
    "mean": (MeanProbe, {}),
    "last, scaled": (FinalLayerProbe, {"standardize": True}),
    "network": (MLPProbe, {"width": (12, 5), "standardize": True}),
    "network with dropout": (MLPProbe, {"width": 9, "dropout": .3}),
    "encoder": (EmbeddingMLP, {"hidden": (12, 5)}),
    "encoder, linear": (EmbeddingMLP, {"hidden": (), "standardize": True}),
}


@pytest.mark.parametrize("name", ROUTERS)
def test_a_stack_gives_the_losses_of_single_fits(data, name):
    cls, fixed = ROUTERS[name]
    X = data[0][:, 1].astype(np.float32) if cls is EmbeddingMLP else data[0]
    # rates far apart, so that some stop early, some halve their rate and some run to the cap
    made = [cls(lr=lr, epochs=40, random_state=seed, **fixed)
            for lr, seed in itertools.product((1e-3, 3e-2, .3), (3, 4))]
    losses = t.fit_all(made, X, data[1])
    lengths = set()
    for router, (run, failure) in zip(made, losses):
        alone = router.fit(X, data[1]).history_["val_loss"]
        lengths.add(len(run))
        assert failure == "" and len(run) == len(alone)
        assert np.allclose(run, alone, atol=2e-3) and np.allclose(run[:5], alone[:5], atol=1e-5)
        assert abs(min(run) - min(alone)) < 1e-4
    assert len(lengths) > 1, "early stops differ, so that the stack has shrunk"


def test_a_stack_of_one_is_the_same_as_in_company(data):
    X, y = data[0][:, 0].astype(np.float32), 1 - data[1][:, 0]
    splits = [split_rows(150, seed=s) for s in (1, 2)]
    options = dict(hidden=(7,), dropout=.2, epochs=25)
    both = train_stack([X, 2 * X], y, splits, rates=[.1, 1e-3], seeds=[1, 2], **options)
    one = train_stack([2 * X], y, splits[1:], rates=[1e-3], seeds=[2], **options)
    assert np.allclose(both[1, 1], one[0, 0], atol=1e-5, equal_nan=True)


def test_the_global_random_state_is_left_alone(data):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train_stack([data[0][:, 0]], data[1][:, 0], [split_rows(150)], rates=[.1], seeds=[1], epochs=2)
    assert torch.equal(before, torch.get_rng_state())


def test_a_diverging_network_does_not_touch_its_neighbours(data):
    made = [MLPProbe(width=8, lr=lr, epochs=6) for lr in (1e-2, np.inf)]
    (good, fine), (bad, failure) = t.fit_all(made, *data)
    assert fine == "" and "NotFiniteError" in failure and not np.isfinite(bad).any()
    assert np.allclose(good, made[0].fit(*data).history_["val_loss"], atol=1e-5)


# ---- the choice

GRID = {"lr": [1e-3, 1e-2, .1], "standardize": [False, True], "epochs": [3, 20]}


@pytest.mark.parametrize("cls", [MeanProbe, SoftmaxProbe])
def test_tuning_against_brute_force(data, cls):
    "Every cell fitted anew with its own cap, by a plain loop; means and choice by hand."
    tuning = t.tune(cls, GRID, *data, seeds=[1, 2])
    best, chosen = np.inf, None
    for setting in t.settings_of(GRID):
        lowest = []
        for seed in (1, 2):
            history = cls(random_state=seed, **setting).fit(*data).history_["val_loss"]
            lowest.append(min(history))
            row = tuning.table[(tuning.table[list(setting)] == list(setting.values())).all(axis=1)
                               & (tuning.table.seed == seed)].iloc[0]
            assert np.isclose(row.validation_loss, min(history), atol=1e-5)
            assert row.epochs_run == len(history) and row.failure == ""
            assert row.at_cap == (len(history) == setting["epochs"])
            assert row.best_epoch == np.argmin(history) + 1
        if np.mean(lowest) < best - 1e-7:
            best, chosen = np.mean(lowest), setting
    assert tuning.choice == chosen and np.isclose(tuning.loss_of(chosen), best, atol=1e-5)


def table_of(losses, grid, seeds=2, **columns):
    "A `Tuning` of made-up losses, one row of `losses` a setting."
    rows = [setting | dict(seed=s, validation_loss=value, best_epoch=2, epochs_run=3, at_cap=False,
                           failure="" if np.isfinite(value) else f"NotFiniteError: {s}")
            for setting, values in zip(t.settings_of(grid), losses)
            for s, value in zip(range(seeds), values)]
    return t.Tuning(grid, pd.DataFrame(rows).assign(**columns))


@given(st.lists(st.tuples(*[st.floats(.1, 2) | st.just(np.nan)] * 2), min_size=3, max_size=3))
@settings(max_examples=40, deadline=None)
def test_a_setting_with_a_failed_seed_is_named_and_never_chosen(losses):
    tuning = table_of(losses, {"lr": [1., 2., 3.]})
    whole = [i for i, pair in enumerate(losses) if np.isfinite(pair).all()]
    status = tuning.means().status
    assert [s != "ok" for s in status] == [i not in whole for i in range(3)]
    for i, pair in enumerate(losses):
        for seed, value in enumerate(pair):
            assert (f"seed {seed}: NotFiniteError" in status[i]) == np.isnan(value)
    if not whole:
        with pytest.raises(t.TuningError, match="seed .*smaller learning rates"):
            print(tuning.choice)
        return
    best = min(whole, key=lambda i: (np.mean(losses[i]), i))
    assert np.isclose(tuning.loss_of(tuning.choice), np.mean(losses[best]))


def test_edges_and_caps_are_named():
    grid = {"lr": [.1, .2, .4], "standardize": [False, True], "epochs": [5, 9]}
    inner = [(9., 9.)] * 4 + [(1., 1.), (1., 1.)] + [(9., 9.)] * 6
    assert table_of(inner, grid).choice == {"lr": .2, "standardize": False, "epochs": 5}
    assert table_of(inner, grid).edge == []
    assert table_of(inner, grid, at_cap=True).edge == ["epochs"]
    outer = [(9., 9.)] * 9 + [(1., 2.)] + [(9., 9.)] * 2
    assert table_of(outer, grid).edge == ["lr"]
    assert table_of(outer, grid).choice == {"lr": .4, "standardize": False, "epochs": 9}
    flat = table_of(outer, grid, best_epoch=1)
    assert set(flat.means().status) == {"never below its first epoch"}
    row = flat.settings_row("p", "r", "x", grid_first(grid), router="MeanProbe")
    assert row["note"].count("never below") == 12 and row["edge"] == "lr"


def grid_first(grid):
    return {name: values[0] for name, values in grid.items()}


def test_programming_faults_are_raised_and_not_noted(data):
    def broken(router):
        raise KeyError("a fault of the program")
    with pytest.raises(KeyError, match="a fault of the program"):
        t.tune(MeanProbe, {"lr": [.1], "epochs": [2]}, *data, seeds=[1], losses_of=broken)


def test_a_published_setting_outside_the_grid_is_refused(data):
    tuning = t.tune(DirichletProbe, {"lr": [.1], "epochs": [2]}, *data, seeds=[1])
    with pytest.raises(t.TuningError, match="lr=0.5, epochs=2 is no setting"):
        tuning.loss_of({"lr": .5, "epochs": 2})


# ---- the file

def rows_of(names):
    tuning = table_of([(1., 2.), (3., 4.)], {"hidden": [(), (256, 64)]})
    published = {"hidden": (256, 64)}
    return [tuning.settings_row("pool", name, "states", published, router="EmbeddingMLP")
            for name in names]


@given(st.permutations(["a", "b", "c"]))
@settings(max_examples=6, deadline=None)
def test_the_order_of_writing_does_not_matter(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("settings") / "settings.csv"
    for row in rows_of(names):
        t.write_settings([row], path)
    again = path.with_name("again.csv")
    t.write_settings(rows_of("cba"), again)
    assert path.read_bytes() == again.read_bytes()
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []
    assert t.chosen_settings("pool", "b", path=path) == {"hidden": ()}
    assert t.chosen_settings("pool", "b", which="published", path=path) == {"hidden": (256, 64)}


DAMAGE = {
    "there is no such file": lambda p: p.unlink(),
    "no table of settings": lambda p: p.write_text(""),
    "without the column 'edge'": lambda p: p.write_text(p.read_text().replace(",edge,", ",rim,")),
    "No setting is kept for 'a'": lambda p: p.write_text(p.read_text().replace(",a,", ",z,")),
    "is no JSON": lambda p: p.write_text(p.read_text().replace("[]}", "[")),
    "chosen from another grid": lambda p: p.write_text(p.read_text().replace("256", "255")),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_damaged_or_stale_file_is_named_with_a_remedy(tmp_path, message):
    path = tmp_path / "settings.csv"
    t.write_settings(rows_of("ab"), path)
    grid = {"hidden": [(), (256, 64)]}
    assert t.chosen_settings("pool", "a", grid=grid, path=path) == {"hidden": ()}
    DAMAGE[message](path)
    with pytest.raises(t.SettingsError, match=message) as error:
        t.chosen_settings("pool", "a", grid=None if message == "is no JSON" else grid, path=path)
    assert "--from-scratch" in str(error.value)


@pytest.mark.skipif(not KEPT.exists(), reason="no setting has been chosen yet")
def test_the_committed_settings_are_settings_of_their_grids():
    table = t.read_settings(KEPT)
    assert len(table) and not table.duplicated(["pool", "row"]).any()
    for row in table.itertuples():
        grid = json.loads(row.grid)
        for setting in (json.loads(row.chosen), json.loads(row.published)):
            assert set(setting) == set(grid)
            assert all(setting[name] in values for name, values in grid.items())
        assert row.validation_loss <= row.published_validation_loss
        # held-out areas of whole pools are means of three trainings, for the time they take
        assert row.seeds >= (3 if row.pool.startswith("cscr") else 5)
        tried = t.tried_settings(row.pool, row.row, KEPT)
        assert len(tried) == row.settings
        assert np.isclose(tried.validation_loss.min(), row.validation_loss, atol=1e-6)


# ---- learned weights without sampling

def test_softmax_probe_is_a_mixture_trained_by_adam(data):
    "Against automatic differentiation of the mixture itself."
    X, outcomes = data
    probe = SoftmaxProbe(lr=.05, epochs=4, random_state=7).fit(X, outcomes)
    rows, val = split_rows(150, seed=7)
    Z, y = torch.tensor(X.astype(np.float32)), torch.tensor(1 - outcomes[:, 0]).float()
    theta, v, b = (torch.zeros(k, requires_grad=True) for k in (3, 6, 1))
    optimizer = torch.optim.Adam([theta, v, b], lr=.05)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    torch.manual_seed(7)
    found = []
    for _ in range(4):
        for part in torch.tensor(rows)[torch.randperm(len(rows))].split(32):
            optimizer.zero_grad()
            mixed = torch.einsum("nld,l->nd", Z[part], torch.softmax(theta, 0))
            loss(mixed @ v + b, y[part]).backward()
            optimizer.step()
        with torch.no_grad():
            mixed = torch.einsum("nld,l->nd", Z[val], torch.softmax(theta, 0))
            found.append(float(loss(mixed @ v + b, y[val])))
    assert np.allclose(found, probe.history_["val_loss"], atol=1e-5)
    assert np.allclose(probe.layer_weights_, torch.softmax(theta, 0).detach(), atol=1e-5) \
        or probe.best_epoch_ < 4
    assert probe.layer_weights_.std() > 1e-3 and np.isclose(probe.layer_weights_.sum(), 1)
