"""Sums in secret over real processes: killed in the middle, the bits of the simulator; and what the coordinator's disk never holds."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2 import ask, simulate
from aimer2.cli.federation import Federation, Hospital
from aimer2.client.questions import Terms
from aimer2.client.run import Run
from aimer2.connectors.table import Table, load_table
from aimer2.core.clock import SystemClock
from aimer2.core.study import Study
from aimer2.core.task import Task
from aimer2.site import snapshots
from aimer2.site.folder import SiteFolder
from aimer2.site.settings import Retention
from aimer2.study.events import Event, ReplyReceived, RoundFinished, StudyFinished
from aimer2.study.perform import open_performer

SITES = ("east", "north", "south", "west")
FEATURES = ("age", "dose", "pressure")
POLICY = '[[rule]]\nname = "tests"\nset_by = "Test Person"\ndecision = "approve"\n'
MAPPING = 'patient = "patient"\n' + "".join(f"[columns.{name}]\n" for name in (*FEATURES, "event"))
CANARY = ("3.731058578630005", "-1.6180339887498949", "2.7182818284590451")
"""One patient of north."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("secure")
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
    if name == "north":
        rows[7] = [*CANARY, "1"]
    lines = [",".join(("patient", *FEATURES, "event")), *(",".join((f"{name}-{row}", *values)) for row, values in enumerate(rows))]
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")
    return Hospital(name, path, MAPPING, POLICY)


def study_of(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "secure",
        "question": "Is the sum that nobody can look into the right one?",
        "purpose": "test",
        "ethics": "none needed: drawn numbers",
        "principal_investigator": "Test Person",
        "expires": datetime.date(2100, 1, 1),
        "cohort": {
            "dataset": "registry",
            "features": [{"name": name} for name in FEATURES],
            "target": {"name": "event"},
            "standardise": "none",
        },
        "model": {"framework": "numpy", "name": "logistic"},
        "training": {"learning_rate": 0.2, "batch_size": 16, "local_epochs": 1},
        "method": {"name": "scaffold", "rounds": 8},
        "sites": {"names": list(SITES), "minimum": 4, "quorum": 3, "deadline_seconds": 60},
        "evaluation": {"held_out": 0.25},
    }
    return Study(**(fields | changes))


def table_of(federation: Federation, name: str) -> Table:
    record = snapshots.current(SiteFolder(federation.site(name)), "registry", Retention(), SystemClock().now())
    return load_table(record.path, verify=True)


def is_reply(event: Event, number: int) -> bool:
    return isinstance(event, ReplyReceived) and event.stage == "train" and event.round_number == number


def test_killed_in_the_middle_of_its_phases_it_has_the_bits_of_the_simulator(federation: Federation) -> None:
    study = study_of()
    assert study.privacy.secure_aggregation, "on by default"
    run = federation.researcher().submit(study, federation.folder)
    events: list[Event] = []
    victims = {1: "north", 3: "coordinator", 5: "south", 6: "coordinator"}
    for event in run.events():
        events.append(event)
        number = next((number for number in victims if is_reply(event, number)), None)
        if number is not None:
            victim = victims.pop(number)
            federation.kill(victim)
            federation.run_coordinator() if victim == "coordinator" else federation.run_site(victim)
    assert not victims
    assert isinstance(events[-1], StudyFinished), events[-1]
    finished = [event for event in events if isinstance(event, RoundFinished) and event.stage == "train"]
    assert [(event.round_number, event.took_part) for event in finished] == [(number, SITES) for number in range(1, 9)]
    assert all(event.secrecy is not None and event.attempt == 1 for event in finished)
    simulated = simulate(study, {name: table_of(federation, name) for name in SITES})
    model = federation.researcher().model(run.digest)
    assert model.keys() == simulated.model.keys()
    for name, leaf in simulated.model.items():
        np.testing.assert_array_equal(model[name], leaf, strict=True)
    result = run.result()
    assert result["figures"] == [figure.model_dump() for figure in simulated.figures]


def test_a_statistical_question_of_hospitals_is_answered_at_once_where_their_rules_approve(federation: Federation) -> None:
    terms = Terms(ethics="none needed", principal_investigator="Test Person")
    found = ask("glm", "dose ~ age + pressure", federation.researcher(), dataset="registry", terms=terms)
    tables = [table_of(federation, name).columns for name in SITES]
    age, dose, pressure = (np.concatenate([table[name].values for table in tables]) for name in ("age", "dose", "pressure"))
    design = np.column_stack([np.ones(len(age)), age, pressure])
    expected, *_ = np.linalg.lstsq(design, dose)
    np.testing.assert_allclose(found.frame("Coefficients")["estimate"], expected, rtol=1e-10, atol=1e-12)
    run = Run(federation.researcher(), federation.researcher().study("question-glm").digest)
    result = run.result()
    assert result["tables"] == [table.model_dump(mode="json") for table in found]
    assert result["privacy"]["secure_aggregation"]["sites"] == 4 and result["analyses"][0]["formula"] == "dose ~ age + pressure"


def needles(federation: Federation, study: Study) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What to look for on the coordinator's disk: north's first update before it was masked, and the canary's values."""
    performer = open_performer(study, table_of(federation, "north"), site="north", files={})
    task = Task(id="t", study="5e" * 32, site="north", stage="train", round_number=1)
    model: Mapping[str, Any] = {"coefficients": np.zeros(3), "intercept": np.zeros(1)}
    sums = performer.perform(task, {"model": model}, {}).sums
    update = {leaf: np.asarray(array).tobytes() for leaf, array in sums["difference"].items()} | {
        "loss": np.asarray(sums["metrics"]["loss"]).tobytes()
    }
    values = {f"{text} as {kind}": np.array(float(text), kind).tobytes() for text in CANARY for kind in ("float64", "float32")}
    values |= {f"{text} as text": text[:12].encode() for text in CANARY}
    return update, values


def found(folder: Path, wanted: Mapping[str, bytes]) -> set[str]:
    """Which of it lies in a file of the folder: as bytes, or within base64."""
    hits = set()
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        for name, data in wanted.items():
            coded = [base64.b64encode(bytes(shift) + data)[(4 * shift + 2) // 3 + 1 : -4] for shift in range(3)]
            if data in content or any(len(part) >= 8 and part in content for part in coded):
                hits.add(name)
    return hits


# In the clear comes last: a database keeps what was deleted until its pages are used again.
@pytest.mark.parametrize("secure", [True, False], ids=["in secret", "power check: in the clear"])
def test_the_coordinators_disk_never_holds_an_update_or_a_patient(federation: Federation, secure: bool) -> None:
    """Looked for while north has answered and another site has not: in the clear the update lies there then, so it would be found."""
    privacy = {} if secure else {"privacy": {"secure_aggregation": False, "why_not_secure": "a test"}}
    sites = {"names": list(SITES), "minimum": 4, "quorum": 3, "deadline_seconds": 2}
    study = study_of(name="in-secret" if secure else "in-the-clear", method={"name": "fedavg", "rounds": 2}, sites=sites, **privacy)
    update, values = needles(federation, study)
    assert all(len(data) >= 8 for data in update.values())
    run = federation.researcher().submit(study, federation.folder)
    hits: set[str] = set()
    replies = 0
    for event in run.events():
        if isinstance(event, RoundFinished) and event.stage == "preflight":
            federation.kill("west")
        replies += is_reply(event, 1)
        if is_reply(event, 1):
            hits |= found(federation.folder / "coordinator", update | values)
    federation.run_site("west")
    assert replies >= 3
    hits |= found(federation.folder / "coordinator", update | values)
    assert hits == (set() if secure else set(update))
    assert not found(federation.folder / "coordinator", values)
    assert run.result()["figures"]
