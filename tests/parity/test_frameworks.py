"""One model in several frameworks: the same study with PyTorch, with TensorFlow, and with sites of either."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aimer2.client.simulate import Simulation, simulate
from aimer2.core.errors import NotAvailable
from aimer2.core.study import Study
from aimer2.learners import catalogue
from aimer2.learners.catalogue import faults, make_learner

SITES = ("east", "north", "south", "west")
MLP = {"framework": "torch", "name": "mlp", "also": ["keras"], "options": {"hidden": [6, 4], "activation": "gelu"}}


def study(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "frameworks",
        "question": "Does the framework of a hospital change the model?",
        "purpose": "testing",
        "ethics": "none needed: drawn numbers",
        "principal_investigator": "Test",
        "expires": "2090-01-01",
        "cohort": {"dataset": "drawn", "features": [{"name": "age"}, {"name": "dose"}], "target": {"name": "event"}},
        "model": MLP,
        "training": {"optimiser": "adam", "learning_rate": 0.02, "local_steps": 4, "batch_size": 16},
        "method": {"name": "scaffold", "rounds": 4},
        "sites": {"minimum": 2},
        "privacy": {"secure_aggregation": False, "why_not_secure": "a test"},
    }
    return Study(**(fields | changes))


def frames() -> dict[str, pd.DataFrame]:
    found = {}
    for number, site in enumerate(SITES):
        rng = np.random.default_rng(number)
        age, dose = rng.normal(60 + number, 10, 50), rng.normal(size=50)
        found[site] = pd.DataFrame({"age": age, "dose": dose, "event": (age / 10 + dose + rng.normal(size=50) > 6).astype(int)})
    return found


Run = Callable[[Mapping[str, str]], Simulation]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tensorflow: None) -> Run:
    """The study with the given framework at each site; PyTorch packs it."""

    def of(installed: Mapping[str, str]) -> Simulation:
        # one call for the package, then one per site in their order
        asked = iter(["torch", *(installed[site] for site in SITES)])
        monkeypatch.setattr(catalogue, "_installed", lambda study: next(asked))
        simulation = simulate(study(), frames())
        assert next(asked, None) is None, "not every site has made its learner"
        return simulation

    return of


def test_sites_with_either_framework_train_one_model(run: Run) -> None:
    expected = run(dict.fromkeys(SITES, "torch"))
    for installed in (dict(zip(SITES, ["keras", "torch", "torch", "keras"], strict=True)), dict.fromkeys(SITES, "keras")):
        found = run(installed)
        assert found.model.keys() == expected.model.keys()
        for name, leaf in expected.model.items():
            np.testing.assert_allclose(found.model[name], leaf, atol=2e-5, err_msg=name)
            assert leaf.dtype == found.model[name].dtype
        for mine, theirs in zip(found.figures, expected.figures, strict=True):
            assert (mine.name, mine.n) == (theirs.name, theirs.n)
            assert mine.value == pytest.approx(theirs.value, abs=1e-4)


def without(*libraries: str) -> Callable[[str], object]:
    return lambda library: None if library in libraries else object()


def test_a_site_takes_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {}
    for lacking in ((), ("torch",), ("tensorflow",)):
        monkeypatch.setattr(catalogue.importlib.util, "find_spec", without(*lacking))
        chosen[lacking] = catalogue._installed(study())
    assert chosen == {(): "torch", ("torch",): "keras", ("tensorflow",): "torch"}
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", without("torch", "keras"))
    with pytest.raises(NotAvailable, match="torch or keras"):
        make_learner(study(), feature_shape=(2,), files={})


@pytest.mark.parametrize(
    ("changes", "places"),
    [
        ({}, []),
        ({"model": {**MLP, "options": {"batch_norm": True}}}, ["model.options.batch_norm"]),
        ({"model": {"framework": "keras", "name": "mlp", "also": ["keras"]}}, ["model.also"]),
        ({"model": {"framework": "torch", "code": "model.py", "also": ["keras"]}}, ["model.also"]),
        ({"training": {"mixed_precision": True}}, ["model.also"]),
        ({"training": {"class_weights": (1.0, 2.0)}}, ["model.also"]),
        (
            {"privacy": {"differential_privacy": {"epsilon": 1.0, "delta": 1e-5, "clip_norm": 1.0, "sampling_rate": 0.1}}},
            ["model.also"],
        ),
    ],
)
def test_what_would_make_two_models_of_one_is_a_fault(changes: dict[str, Any], places: list[str]) -> None:
    assert [fault.place for fault in faults(study(**changes))] == places
