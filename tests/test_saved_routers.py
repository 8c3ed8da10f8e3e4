"""Routers saved by version 0.1.0, before the library moved house, load and predict what they predicted then.

The folders in `saved_routers/0.1.0` were written by that version from `toy_routing_data(kind, n=24)`; `quality.json` holds what
`predict_quality` said there of the first six queries.
"""
import json
from pathlib import Path

import numpy as np
import pytest

from routercompanion.routers.check import toy_routing_data
from routercompanion.routers.registry import load_router

FOLDER = Path(__file__).parent / "saved_routers/0.1.0"
QUALITY = json.loads((FOLDER / "quality.json").read_text())


@pytest.mark.parametrize("name", QUALITY)
def test_a_router_saved_before_the_move_predicts_what_it_predicted(name):
    router = load_router(FOLDER / name)
    X, _ = toy_routing_data(router.feature_kind, n=24, n_models=router.n_models or 3)
    assert type(router).__name__ == name
    assert np.allclose(router.predict_quality(X)[:6], QUALITY[name], rtol=1e-6, atol=1e-9)
