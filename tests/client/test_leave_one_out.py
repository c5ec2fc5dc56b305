"""Leave-one-hospital-out: the left-out hospital has no part in training nor in standardisation, and is measured on all its rows."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

import aimer2
from aimer2.client.questions import Asked, Terms
from aimer2.core.errors import BadInput, NotAvailable
from aimer2.core.study import Study
from aimer2.study.diagnosis import trial


def study_of(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "outside",
        "question": "What can a new hospital expect?",
        "purpose": "test",
        "ethics": "none needed",
        "principal_investigator": "Test Person",
        "expires": datetime.date(2100, 1, 1),
        "cohort": {"dataset": "d", "features": [{"name": "u"}, {"name": "v"}], "target": {"name": "y"}},
        "model": {"framework": "numpy", "name": "logistic"},
        "training": {"learning_rate": 0.5, "local_steps": 5, "batch_size": None},
        "method": {"rounds": 3},
        "sites": {"minimum": 3},
        "evaluation": {"metrics": ["auc", "log_loss"], "held_out": 0.3},
    }
    return Study(**(fields | changes))


def hospitals() -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(5)
    made = {}
    for number, name in enumerate(("east", "north", "west")):
        u, v = rng.normal(loc=number, scale=1 + number, size=(2, 60 + 10 * number))
        made[name] = pd.DataFrame({"u": u, "v": v, "y": (u - number + rng.normal(size=len(u)) > 0).astype(int)})
    return made


def test_each_is_measured_by_a_model_that_never_saw_it() -> None:
    """Against the same, done by hand: the others simulated, the last standardised by their training patients' pooled moments."""
    sites, study = hospitals(), study_of()
    found = aimer2.leave_one_out(study, sites)
    assert [(one.site, one.rows) for one in found.sites] == [("east", 60), ("north", 70), ("west", 80)]
    others = {name: frame for name, frame in sites.items() if name != "west"}
    clear = {"secure_aggregation": False, "why_not_secure": "a test"}
    model = aimer2.simulate(study_of(sites={"minimum": 2}, privacy=clear), others).model
    rows, targets = sites["west"][["u", "v"]].to_numpy(), sites["west"]["y"].to_numpy()
    rough = np.concatenate([frame[["u", "v"]].to_numpy() for frame in others.values()])
    scores = 1 / (1 + np.exp(-((rows - rough.mean(axis=0)) / rough.std(axis=0) @ model["coefficients"] + model["intercept"])))
    expected = -np.mean(np.log(np.where(targets == 1, scores, 1 - scores)))
    (loss,) = (figure.value for figure in found.sites[-1].figures if figure.name == "log_loss")
    assert loss == pytest.approx(expected, rel=0.05), "all rows of the other hospitals are nearly their training rows"


def test_what_a_hospital_holds_changes_only_what_it_is_measured_with() -> None:
    """With its outcomes turned round its AUC is, too: nothing of them was in the model. Where it was trained on, the figures change otherwise."""
    sites = hospitals()
    before = aimer2.leave_one_out(study_of(), sites)
    sites["west"] = sites["west"].assign(y=1 - sites["west"]["y"])
    after = aimer2.leave_one_out(study_of(), sites)
    auc = [{one.site: figure.value for one in run.sites for figure in one.figures if figure.name == "auc"} for run in (before, after)]
    assert auc[1]["west"] == pytest.approx(1 - auc[0]["west"], abs=0.01)
    assert auc[1]["east"] != auc[0]["east"], "there the hospital was trained on"


def test_a_personal_method_is_measured_by_its_common_model() -> None:
    method = {"name": "ditto", "rounds": 3}
    found = aimer2.leave_one_out(study_of(method=method), hospitals())
    assert {figure.name for one in found.sites for figure in one.figures} == {"auc", "log_loss"}
    assert set(found.document()["sites"]) == set(hospitals())


def test_under_differential_privacy_the_figures_are_of_the_rows_themselves() -> None:
    """Noise of a thousand patients on counts of eighty would leave nothing; whoever leaves one out has all rows."""
    features = [{"name": name, "minimum": -10, "maximum": 10} for name in ("u", "v")]
    changes = {
        "cohort": {"dataset": "d", "minimum_patients": 40, "standardise": "range", "features": features, "target": {"name": "y"}},
        "model": {"framework": "trees", "name": "boosted", "options": {"trees": 10, "max_depth": 3}},
        "training": {},
        "method": {"name": "random_trees", "rounds": 10},
        "evaluation": {"metrics": ["accuracy"], "held_out": 0.3},
        "privacy": {
            "differential_privacy": {"noise_multiplier": 3.0, "delta": 1e-3, "clip_norm": 1.0, "sampling_rate": 1.0, "evaluation_noise": 1000.0}
        },
    }
    for one in aimer2.leave_one_out(study_of(**changes), hospitals()).sites:
        (accuracy,) = one.figures
        assert accuracy.value is not None and accuracy.low is not None
        assert accuracy.n == one.rows
        assert accuracy.value * one.rows == pytest.approx(round(accuracy.value * one.rows), abs=1e-6)
        assert accuracy.low < accuracy.value < 1


def test_two_hospitals_are_too_few() -> None:
    with pytest.raises(BadInput, match="three sites"):
        aimer2.leave_one_out(study_of(), dict(list(hospitals().items())[:2]))


def test_a_study_that_trains_no_model_leaves_nobody_out() -> None:
    question = Asked(method="describe", formula="~ u", terms=Terms(why_not_secure="a test", minimum_sites=1)).study()
    measuring = Study(**(study_of().model_dump(exclude={"method"}) | {"evaluates": "5e" * 32}))
    for study, does in ((question, "asks statistical questions"), (measuring, "measures a model")):
        with pytest.raises(NotAvailable, match=does):
            aimer2.leave_one_out(study, hospitals())
        with pytest.raises(NotAvailable, match=does):
            trial(study)
