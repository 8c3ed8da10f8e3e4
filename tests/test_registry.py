"Routers by name: no list, no import that is not needed, no second router of a name, and files that load in a new process."
import importlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from routercompanion.core import CompanionError, project_root
from routercompanion.routers import registry
from routercompanion.routers.base import BinaryRouter
from routercompanion.routers.check import toy_routing_data
from routercompanion.routers.registry import get_router, list_routers, router_family, save_router

TABLE = list_routers()
OURS = TABLE[TABLE.module.str.startswith("routercompanion.")]


def python(code, *args):
    "What a new process prints."
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=project_root())
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_decorated_class_is_listed_and_nothing_else():
    "The brute-force statement: the source of routers/, read as text."
    found = set()
    for path in (project_root() / "routercompanion/routers").rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        found |= {b.removeprefix("class ").split("(")[0] for a, b in zip(lines, lines[1:]) if a == "@register_router"}
    assert found == set(OURS.name) and len(found) >= 36


def test_what_a_router_is_stands_on_its_class():
    assert set(OURS.when) <= {"before", "after", "in stages", "online"} and (OURS.source != "").all() and set(OURS.models) == {"two", "many"}
    assert (OURS.how != "").all() and (OURS.signals[OURS.family != "baselines"] != "").all() and OURS.name.is_unique
    row = TABLE.set_index("name").loc["CSCRRouter"]
    assert (row.family, row.when, row.models, row.trained) == ("contrastive", "before", "many", True) and "query" in row.signals
    assert set(OURS.family) >= {"bandits", "baselines", "clustering", "contrastive", "difficulty", "preference", "uncertainty"}


def test_families_are_folders():
    family, members = router_family("KNNRouter")
    assert family == "clustering" and members == ["KMeansRouter", "KNNRouter"] and router_family("Router") is router_family("nobody") is None


@pytest.mark.parametrize("name", ["KNNRouter", "ThompsonRouter", "Entropy"])
def test_asking_for_one_router_imports_no_other_family(name):
    loaded = python(f"import sys; from routercompanion.routers.registry import get_router; get_router({name!r}); print(*[m for m in sys.modules if m.startswith('routercompanion.routers.')])")
    families = {m.split(".")[2] for m in loaded if m.count(".") > 2}
    assert families == {router_family(name)[0]}


SAVED = ["AnswerEntropy", "MLPProbe", "KNNRouter", "TaskMean", "ThompsonRouter", "SimilarityWeightedRouter"]


def test_saved_routers_load_in_a_new_process(tmp_path):
    for name in SAVED:
        cls = get_router(name)
        router = cls(**getattr(cls, "quick", {}))
        save_router(router.fit(*toy_routing_data(router.feature_kind, n_models=router.n_models or 3)), tmp_path / name)
    code = "import sys; from routercompanion.routers.registry import load_router; [print(type(load_router(p)).__name__) for p in sys.argv[1:]]"
    assert python(code, *[str(tmp_path / name) for name in SAVED]) == SAVED


class _Pair(BinaryRouter):
    feature_kind, training_free = "embedding", True
    def _score(self, X): return -X[:, 0].astype(float)


def named(name, module): return type(name, (_Pair,), {"__module__": module})


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch): monkeypatch.setattr(registry, "ROUTERS", dict(registry.ROUTERS))


def test_two_of_one_name_are_refused_with_both_places():
    registry.register_router(named("NewRouter", "one.place"))
    with pytest.raises(CompanionError, match="'NewRouter' exists already in one.place; rename the one in another.place"): registry.register_router(named("NewRouter", "another.place"))


def test_a_class_of_the_session_may_bear_a_name_of_the_library():
    mine, theirs = named("KNNRouter", "__main__"), get_router("KNNRouter")
    assert registry.register_router(mine) is mine and get_router("KNNRouter") is mine
    assert registry.register_router(theirs) is theirs and get_router("KNNRouter") is mine, "importing the library's later does not displace it"


def test_two_modules_of_the_library_with_one_name_are_refused(monkeypatch):
    index = {m: {f"{m}.Twin": ("", "")} for m in ("routercompanion.routers.first", "routercompanion.routers.second")}
    def load(module):
        if module == "routercompanion._modidx": return SimpleNamespace(d={"syms": index})
        return SimpleNamespace(Twin=registry.register_router(named("Twin", module)))
    monkeypatch.setattr(registry.importlib, "import_module", load)
    with pytest.raises(CompanionError, match="exists already in routercompanion.routers.first; rename the one in routercompanion.routers.second"): get_router("Twin")


def test_a_plug_in_with_a_taken_name_is_left_out_and_both_places_are_named(monkeypatch):
    plug_in = SimpleNamespace(name="KNNRouter", value="theirs:KNNRouter", load=lambda: named("KNNRouter", "theirs"))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [plug_in])
    with pytest.warns(UserWarning, match="exists already in routercompanion.routers.clustering.neighbours; rename the one in theirs"): registry.load_entry_points()
    assert get_router("KNNRouter").__module__ == "routercompanion.routers.clustering.neighbours"


def test_no_router_of_ours_is_declared_by_hand():
    assert "entry-points" not in (project_root() / "pyproject.toml").read_text()


def test_a_name_that_is_no_router_is_refused():
    for name in ("Router", "MissingOutcomesError", "os.system", ""):
        with pytest.raises(CompanionError, match="Unknown router .*Known: AnswerEntropy, .*ThompsonRouter"): get_router(name)
