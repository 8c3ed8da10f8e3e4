"""Routers saved by version 0.1.0, before the library moved house, predict what they predicted then.

The folders in `saved_routers/0.1.0` were written by that version from
`toy_routing_data(kind, n=24)`; `quality.json` holds what `predict_quality` said there of the first
six queries.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from routercompanion.core import CompanionError, file_hash
from routercompanion.features.kinds import ForeignFeatureError
from routercompanion.models.features import with_origin
from routercompanion.routers.check import toy_routing_data
from routercompanion.routers.registry import SavedRouterError, load_router, save_router

FOLDER = Path(__file__).parent / "saved_routers/0.1.0"
QUALITY = json.loads((FOLDER / "quality.json").read_text())


@pytest.mark.parametrize("name", QUALITY)
def test_a_router_saved_before_the_move_predicts_what_it_predicted(name):
    router = load_router(FOLDER / name)
    X, _ = toy_routing_data(router.feature_kind, n=24, n_models=router.n_models or 3)
    assert type(router).__name__ == name
    assert np.allclose(router.predict_quality(X)[:6], QUALITY[name], rtol=1e-6, atol=1e-9)


# --------------------------------------------- what a saved router needs, and what saving may touch


def toy_mlp():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 4)).astype(np.float32)
    return X, np.c_[rng.random(40) < 0.5, np.ones(40)].astype(float)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    from routercompanion.routers.difficulty.embeddings import EmbeddingMLP

    X, scores = toy_mlp()
    return save_router(
        EmbeddingMLP(epochs=1).fit(X, scores), tmp_path_factory.mktemp("saved") / "router"
    )


def rewritten(saved, folder, change, *, hashed=True):
    """A copy of a saved router whose router.json was changed.

    `hashed`: as another version would have written it, its hash included.
    """
    shutil.copytree(saved, folder)
    said = json.loads((folder / "router.json").read_text())
    change(said)
    if hashed and {"router", "params", "fitted"} <= set(said):
        with safe_open(folder / "arrays.safetensors", "np") as f:
            arrays = {k: f.get_tensor(k) for k in f.keys()}
        save_file(
            arrays, folder / "arrays.safetensors"
        )  # without a hash of router.json, as version 0.1.0 did
        if "arrays_sha256" in said:
            said["arrays_sha256"] = file_hash(folder / "arrays.safetensors")
    (folder / "router.json").write_text(json.dumps(said))
    return folder


CHANGES = {
    "a parameter that is no more": lambda j: j["params"].update(momentum=0.9),
    "a parameter that is new": lambda j: j["params"].pop("lr"),
    "another width": lambda j: j["params"].update(hidden={"tuple": [128, 64]}),
    "no params": lambda j: j.pop("params"),
    "no hash": lambda j: j.pop("arrays_sha256"),
    "no fitted": lambda j: j.pop("fitted"),
    "no router": lambda j: j.pop("router"),
    "params is a list": lambda j: j.update(params=[1]),
    "a fitted value that is a method": lambda j: j["fitted"].update(predict_quality=3),
    "router is a number": lambda j: j.update(router=3),
    "a value nested wrongly": lambda j: j["params"].update(lr={"dict": [1]}),
}


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_router_of_another_version_is_named(saved, tmp_path, change, hashed):
    with pytest.raises(SavedRouterError, match="of another version"):
        load_router(rewritten(saved, tmp_path / "r", CHANGES[change], hashed=hashed))


def test_no_changed_byte_of_a_saved_router_goes_unnoticed(saved, tmp_path):
    """Every twelfth byte of router.json and 40 of the arrays turned.

    A named error, or the very same router (white space).
    """
    X, _ = toy_mlp()
    expected = load_router(saved).predict_quality(X)
    places = [("router.json", i) for i in range(0, (saved / "router.json").stat().st_size, 12)]
    places += [
        ("arrays.safetensors", i)
        for i in np.linspace(0, (saved / "arrays.safetensors").stat().st_size - 1, 40).astype(int)
    ]
    for number, (name, place) in enumerate(places):
        folder = tmp_path / str(number)
        shutil.copytree(saved, folder)
        data = bytearray((folder / name).read_bytes())
        data[place] ^= 0x15
        (folder / name).write_bytes(data)
        try:
            found = load_router(folder)
        except CompanionError as e:
            assert "router" in str(e)
        else:
            assert np.array_equal(found.predict_quality(X), expected)


def test_saving_never_deletes_what_is_no_saved_router(saved, tmp_path):
    router = load_router(saved)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "note.txt").write_text("x")
    for name in ("mine", "note.txt"):
        with pytest.raises(SavedRouterError, match="nothing is deleted"):
            save_router(router, tmp_path / name, overwrite=True)
    again = save_router(router, tmp_path / "router")
    (again / "remarks.txt").write_text("fitted in May")
    with pytest.raises(SavedRouterError, match="remarks.txt"):
        save_router(router, again, overwrite=True)
    (again / "remarks.txt").unlink()
    save_router(router, again, overwrite=True)
    assert (
        sorted(p.name for p in tmp_path.iterdir()) == ["mine", "note.txt", "router"]
        and (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    )


def test_the_origin_of_the_features_is_saved_and_compared(tmp_path):
    from routercompanion.routers.clustering.neighbours import KNNRouter
    from routercompanion.routers.difficulty.embeddings import EmbeddingMLP

    X, scores = toy_mlp()
    mine, other = (
        {"encoder": name, "weights_sha256": name[0] * 64} for name in ("minilm", "e5-small")
    )
    for router in (EmbeddingMLP(epochs=1), KNNRouter(k=3)):
        again = load_router(
            save_router(router.fit(with_origin(X, mine), scores), tmp_path / type(router).__name__)
        )
        assert again.origin_ == mine
        again.predict_quality(with_origin(X, mine)), again.predict_quality(X)
        with pytest.raises(
            ForeignFeatureError,
            match="fitted on: encoder minilm.*these features are: encoder e5-small",
        ):
            again.predict_quality(with_origin(X, other)[:3])
    plain = EmbeddingMLP(epochs=1).fit(X, scores)
    assert load_router(save_router(plain, tmp_path / "told", origin=mine)).origin_ == mine
    with pytest.raises(SavedRouterError, match="Leave origin out"):
        save_router(
            EmbeddingMLP(epochs=1).fit(with_origin(X, mine), scores), tmp_path / "two", origin=other
        )
    assert not hasattr(
        router.fit(X, scores), "origin_"
    )  # a second fit, on features that say nothing


def test_two_processes_save_one_router(saved, tmp_path):
    code = (
        "import sys; from routercompanion.routers.registry import load_router, save_router\n"
        "r = load_router(sys.argv[1])\n"
        "for _ in range(15): save_router(r, sys.argv[2], overwrite=True)"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(saved), str(tmp_path / "shared")],
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [p.wait(timeout=200) for p in running] == [0, 0], [p.stderr.read() for p in running]
    assert [p.name for p in tmp_path.iterdir()] == ["shared"]
    load_router(tmp_path / "shared")
