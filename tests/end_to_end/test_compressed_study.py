"""Compressed updates over real processes: killed in the middle, the bits of the simulator."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2 import simulate
from aimer2.cli.federation import Federation, Hospital
from aimer2.connectors.table import load_table
from aimer2.core.clock import SystemClock
from aimer2.core.study import Study
from aimer2.site import snapshots
from aimer2.site.folder import SiteFolder
from aimer2.site.settings import Retention
from aimer2.study.events import Event, ReplyReceived, RoundFinished, StudyFinished

SITES = ("east", "north", "west")
FEATURES = ("age", "dose", "pressure")
POLICY = '[[rule]]\nname = "tests"\nset_by = "Test Person"\ndecision = "approve"\nallow_code = true\n'
MAPPING = 'patient = "patient"\n' + "".join(f"[columns.{name}]\n" for name in (*FEATURES, "event"))
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


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("compressed")
    (folder / "model.py").write_text(MODEL)
    with Federation(folder) as made:
        made.make_coordinator()
        made.run_coordinator()
        made.make_sites([hospital(folder, number, name) for number, name in enumerate(SITES)])
        for name in SITES:
            made.run_site(name)
        yield made


def hospital(folder: Path, number: int, name: str) -> Hospital:
    rng = np.random.default_rng(number)
    rows = [[*map(repr, map(float, rng.normal(size=3))), str(rng.integers(2))] for _ in range(60 + 10 * number)]
    lines = [",".join(("patient", *FEATURES, "event")), *(",".join((f"{name}-{row}", *values)) for row, values in enumerate(rows))]
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")
    return Hospital(name, path, MAPPING, POLICY)


def study_of(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "compressed",
        "question": "Do real processes compress as the simulator does?",
        "purpose": "test",
        "ethics": "none needed: drawn numbers",
        "principal_investigator": "Test Person",
        "expires": datetime.date(2100, 1, 1),
        "cohort": {"dataset": "registry", "features": [{"name": name} for name in FEATURES], "target": {"name": "event"}, "standardise": "none"},
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
def test_killed_in_the_middle_it_has_the_bits_of_the_simulator(federation: Federation, name: str, privacy: Any) -> None:
    study = study_of(method={"rounds": 6, "compression": {"name": name}, "downlink": "changes"}, privacy=privacy)
    run = federation.researcher().submit(study, federation.folder)
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
    simulated = simulate(study, {site: table_of(federation, site) for site in SITES}, folder=federation.folder)
    model = federation.researcher().model(run.digest)
    for leaf, array in simulated.model.items():
        np.testing.assert_array_equal(model[leaf], array, strict=True)
    assert run.result()["figures"] == [figure.model_dump() for figure in simulated.figures]
    same = [event for event in simulated.events if isinstance(event, RoundFinished) and event.stage == "train"]
    assert [event.traffic for event in rounds] == [event.traffic for event in same]


def table_of(federation: Federation, name: str) -> Any:
    record = snapshots.current(SiteFolder(federation.site(name)), "registry", Retention(), SystemClock().now())
    return load_table(record.path, verify=True)
