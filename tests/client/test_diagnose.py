"""Where the best method is known, a diagnosis names it: the recommended study is run beside the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import aimer2
from aimer2.cli.main import main
from aimer2.core.study import Study
from aimer2.study.check import method_faults
from aimer2.study.diagnosis import trial
from aimer2.study.recommendation import changed, recommend

COLUMNS = [f"x{number}" for number in range(6)]
EFFECTS = np.array([1.5, -1, 0.8, 0, 0.5, -0.3])
LOGISTIC = {"framework": "numpy", "name": "logistic"}
OTHERS = ("fedavg", "scaffold", "fednova", "ditto")


def study(model: dict[str, Any] = LOGISTIC, **changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "case",
        "question": "Which method is best here?",
        "purpose": "testing",
        "ethics": "none needed: drawn numbers",
        "principal_investigator": "Test Person",
        "expires": "2090-01-01",
        "cohort": {"dataset": "d", "features": [{"name": name} for name in COLUMNS], "target": {"name": "y"}},
        "model": model,
        "training": {"learning_rate": 0.1, "batch_size": 16, "local_steps": 20},
        "method": {"rounds": 10},
        "sites": {"minimum": 2},
        "privacy": {"secure_aggregation": False, "why_not_secure": "a test"},
    }
    return Study(**(fields | changes))


def hospital(seed: int, rows: int = 200, *, effects: Any = EFFECTS, events: float | None = None, shift: Any = 0.0, gain: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(10 * rows, len(COLUMNS)))
    target = (features @ effects + 0.7 * rng.logistic(size=len(features)) > 0).astype(int)
    chosen = np.arange(rows)
    if events is not None:
        count = round(events * rows)
        chosen = np.concatenate([np.flatnonzero(target == 1)[:count], np.flatnonzero(target == 0)[: rows - count]])
    return pd.DataFrame(features[chosen] * gain + shift, columns=COLUMNS).assign(y=target[chosen])


def alike() -> dict[str, pd.DataFrame]:
    return {f"site-{number}": hospital(number) for number in range(4)}


def skewed() -> dict[str, pd.DataFrame]:
    return {f"site-{number}": hospital(number, events=events) for number, events in enumerate((0.02, 0.5, 0.9))}


def unequal() -> dict[str, pd.DataFrame]:
    """Eight small hospitals with many events, which take 4 steps an epoch where a large one with few takes 25."""
    return {f"site-{number}": hospital(number, 50, events=0.9) for number in range(8)} | {"site-8": hospital(99, 400, events=0.1)}


def scanners() -> dict[str, pd.DataFrame]:
    shifts = ([3, -3, 3, -3, 3, -3], [-3, 3, 0, 3, -3, 3], [0, 3, -3, 0, 0, 3], [0, -3, 0, 0, 0, -3])
    gains = (0.5, 2, 1, 3)
    return {f"site-{n}": hospital(n, shift=np.array(shift), gain=gain) for n, (shift, gain) in enumerate(zip(shifts, gains, strict=True))}


def opposed() -> dict[str, pd.DataFrame]:
    return {f"site-{number}": hospital(number, effects=sign * EFFECTS) for number, sign in enumerate((1, -1, 1, -1))}


def loss(asked: Study, frames: dict[str, pd.DataFrame]) -> float:
    """Of the model that a hospital ends with: its kept one under a personal method, else the common one."""
    told = {figure.name: figure.value for figure in aimer2.simulate(asked, frames).figures}
    value = told.get("kept loss", told["loss"])
    assert value is not None
    return float(value)


BATCH_NORM = {"framework": "torch", "name": "mlp", "options": {"hidden": [16], "batch_norm": True}}
LONG = {"training": {"learning_rate": 1.0, "batch_size": None, "local_steps": 100}, "method": {"rounds": 10}}
EPOCHS = {"training": {"learning_rate": 0.1, "batch_size": 16, "local_epochs": 5}}
CASES = {
    "alike": (study(), alike, {"method.name": "fedavg"}),
    "label skew and many steps": (study(**LONG), skewed, {"method.name": "scaffold"}),
    "label skew and unequal steps": (study(**EPOCHS), unequal, {"method.name": "scaffold"}),
    "scanners, batch normalisation": (study(BATCH_NORM), scanners, {"method.name": "fedbn"}),
    "scanners, a linear model": (study(), scanners, {"method.name": "fedavg", "cohort.standardise": "site"}),
    "questions that differ": (study(), opposed, {"method.name": "ditto"}),
}


SLOW = ("label skew and unequal steps", "scanners, batch normalisation", "scanners, a linear model")


@pytest.mark.parametrize("case", SLOW)
def test_the_recommendation(case: str) -> None:
    asked, data, expected = CASES[case]
    found = aimer2.diagnose(asked, data())
    assert found.changes == expected, (found.measured, found.reasons)


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.campaign] if case in SLOW else []) for case in CASES])
def test_the_recommended_method_is_among_the_best(case: str) -> None:
    asked, data, expected = CASES[case]
    frames = data()
    found = aimer2.diagnose(asked, frames)
    assert found.changes == expected, (found.measured, found.reasons)
    tried = {name: changed(asked, {"method.name": name}) for name in OTHERS}
    if expected["method.name"] != "ditto":  # which gives each hospital a model of its own; the others are compared by the common one
        tried.pop("ditto")
    losses = {name: loss(one, frames) for name, one in tried.items() if not method_faults(one)}
    mine = loss(found.recommended, frames)
    assert mine <= 1.03 * min(losses.values()), (mine, losses)
    if case != "alike":
        assert mine < losses["fedavg"], (mine, losses)


def test_added_in_secret_the_figures_are_those_of_the_clear() -> None:
    clear = aimer2.diagnose(study(), alike()).measured
    secret = aimer2.diagnose(study(privacy={}), alike()).measured
    assert clear.keys() == secret.keys()
    for name, value in clear.items():
        assert secret[name] == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_the_trial_is_the_studys_own_question_and_releases_nothing() -> None:
    asked = study(
        method={"rounds": 50, "largest_change": 1.0},
        evaluation={"release_per_site": True, "held_out": 0},
    )
    made = trial(asked, 2)
    for part in ("cohort", "model", "training", "sites", "privacy", "seed", "question"):
        assert getattr(made, part) == getattr(asked, part)
    assert (made.method.name, made.method.rounds, made.evaluation.release_per_site, made.evaluation.held_out) == ("diagnosis", 2, False, 0.2)
    assert made.name == "case-diagnosis"


def test_a_method_that_does_not_fit_the_model_is_not_recommended() -> None:
    """scikit-learn takes its steps out of sight, so SCAFFOLD, FedDyn and FedProx cannot correct them."""
    told = {"label shift": 0.5, "disagreement": 0.6, "loss": 0.5}
    assert recommend(study(), told).method == "scaffold"
    unseen = study({"framework": "sklearn", "name": "linear"}, training={"learning_rate": 0.1})
    assert recommend(unseen, told).method == "fedavgm"
    assert recommend(unseen, told | {"spread of steps": 1.0}).method == "fednova"


def test_private_models_cannot_be_diagnosed_by_gradients_without_noise() -> None:
    terms = {"epsilon": 3.0, "delta": 1e-5, "clip_norm": 1.0, "sampling_rate": 0.1}
    faults = method_faults(trial(study(privacy={"differential_privacy": terms}, training={"learning_rate": 0.1, "local_steps": 5})))
    assert any("diagnosis" in fault.problem for fault in faults)


def test_the_command_tells_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = ", ".join(f'{{ name = "{name}" }}' for name in COLUMNS)
    (tmp_path / "study.toml").write_text(
        f"""
name = "opposed"
question = "Which method is best here?"
purpose = "testing"
ethics = "none needed: drawn numbers"
principal_investigator = "Test Person"
expires = 2090-01-01
[cohort]
dataset = "d"
features = [{columns}]
target = {{ name = "y" }}
[model]
framework = "numpy"
name = "logistic"
[training]
local_steps = 20
[privacy]
secure_aggregation = false
why_not_secure = "a test"
"""
    )
    for site, frame in opposed().items():
        frame.to_csv(tmp_path / f"{site}.csv", index=False)
    files = [f"{site}={tmp_path / site}.csv" for site in opposed()]
    command = ["study", "diagnose", str(tmp_path / "study.toml"), "--rounds", "2", "--sites", *files]
    with pytest.raises(SystemExit, match=r"^0$"):
        main([*command, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["recommendation"]["changes"] == {"method.name": "ditto"}
    with pytest.raises(SystemExit, match=r"^0$"):
        main(command)
    shown = capsys.readouterr().out
    assert 'Recommended: method.name = "ditto"' in shown and "disagreement" in shown
