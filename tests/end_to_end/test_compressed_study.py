"""Compressed updates over real processes: killed in the middle, the bits of the simulator."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2 import simulate
from aimer2.cli.federation import Federation
from aimer2.connectors.table import load_table
from aimer2.core.clock import SystemClock
from aimer2.core.study import Study
from aimer2.site import snapshots
from aimer2.site.folder import SiteFolder
from aimer2.site.settings import Retention
from aimer2.study.events import Event, ReplyReceived, RoundFinished, StudyFinished

SITES = ("east", "north", "west")
FEATURES = ("mean_radius", "mean_texture", "mean_smoothness")
MODEL = '''
"""A perceptron with one wide layer, in numpy: 12,001 numbers, 96 kB."""

import numpy as np


class Wide:
    def __init__(self, features):
        self.features = features

    def initial(self, rng):
        return {"hidden": rng.normal(size=(self.features, 3000)), "out": rng.normal(size=(3000, 1)) / 55, "bias": np.zeros(1)}

    def _forward(self, parameters, rows):
        inside = np.tanh(rows.reshape(len(rows), -1) @ parameters["hidden"])
        return inside, 1 / (1 + np.exp(-(inside @ parameters["out"] + parameters["bias"])[:, 0]))

    def gradient(self, parameters, rows, targets):
        inside, chance = self._forward(parameters, rows)
        residual = ((chance - targets) / len(rows))[:, None]
        back = residual @ parameters["out"].T * (1 - inside**2)
        found = {"hidden": rows.reshape(len(rows), -1).T @ back, "out": inside.T @ residual, "bias": residual.sum(axis=0)}
        return float(-np.mean(np.log(np.where(targets > 0, chance, 1 - chance)))), found

    def predict(self, parameters, rows):
        return self._forward(parameters, rows)[1]


def build(features, classes):
    return Wide(features)
'''


def study_of(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "compressed",
        "question": "Do real processes compress as the simulator does?",
        "purpose": "test",
        "ethics": "none needed",
        "principal_investigator": "Test Person",
        "expires": datetime.date(2100, 1, 1),
        "cohort": {"dataset": "registry", "features": [{"name": name} for name in FEATURES], "target": {"name": "malignant"}, "standardise": "none"},
        "model": {"framework": "numpy", "code": "model.py"},
        "training": {"learning_rate": 0.001, "batch_size": 16, "local_epochs": 1},
        "sites": {"names": list(SITES), "minimum": 3, "quorum": 2, "deadline_seconds": 60},
        "evaluation": {"held_out": 0.25},
    }
    return Study(**(fields | changes))


CLEAR = {"secure_aggregation": False, "why_not_secure": "a test"}


@pytest.mark.parametrize(
    ("name", "privacy"),
    [("top_k", CLEAR), ("random_k", {"secure_aggregation": True})],
    ids=["what is left out is remembered", "in secret"],
)
def test_killed_in_the_middle_it_has_the_bits_of_the_simulator(federation: Federation, name: str, privacy: Any, tmp_path: Path) -> None:
    study = study_of(method={"rounds": 6, "compression": {"name": name}, "downlink": "changes"}, privacy=privacy)
    (tmp_path / "model.py").write_text(MODEL)
    run = federation.researcher().submit(study, tmp_path)
    events: list[Event] = []
    victims = {2: "north", 4: "coordinator"} if name == "top_k" else {}
    for event in run.events():
        events.append(event)
        if isinstance(event, ReplyReceived) and event.stage == "train" and event.round_number in victims:
            victim = victims.pop(event.round_number)
            federation.kill(victim)
            federation.run_coordinator() if victim == "coordinator" else federation.run_site(victim)
    assert not victims
    assert isinstance(events[-1], StudyFinished), events[-1]
    rounds = [event for event in events if isinstance(event, RoundFinished) and event.stage == "train"]
    assert not [absence for event in rounds for absence in event.absent]
    assert [(event.round_number, event.took_part) for event in rounds] == [(number, SITES) for number in range(1, 7)]
    simulated = simulate(study, {site: table_of(federation, site) for site in SITES}, folder=tmp_path)
    model = federation.researcher().model(run.digest)
    for leaf, array in simulated.model.items():
        np.testing.assert_array_equal(model[leaf], array, strict=True)
    assert run.result()["figures"] == [figure.model_dump() for figure in simulated.figures]
    same = [event for event in simulated.events if isinstance(event, RoundFinished) and event.stage == "train"]
    assert [event.traffic for event in rounds] == [event.traffic for event in same]


def table_of(federation: Federation, name: str) -> Any:
    record = snapshots.current(SiteFolder(federation.site(name)), "registry", Retention(), SystemClock().now())
    return load_table(record.path, verify=True)
