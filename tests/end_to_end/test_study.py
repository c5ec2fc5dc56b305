"""A study over real processes: the same bits as in the simulator, whatever is killed on the way."""

from __future__ import annotations

import datetime
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2 import simulate
from aimer2.cli.federation import Federation
from aimer2.client.run import Run
from aimer2.connectors.table import Table, load_table
from aimer2.core.clock import SystemClock
from aimer2.core.study import Study
from aimer2.identity.keys import SigningKey
from aimer2.site import snapshots
from aimer2.site.folder import SiteFolder
from aimer2.site.reports import read_report
from aimer2.site.settings import Retention
from aimer2.study.events import Event, RoundFinished, StudyFinished

Model = Mapping[str, Any]

FEATURES = ("mean_radius", "mean_texture", "mean_smoothness", "mean_concavity")
SITES = ("east", "north", "west")


def study_of(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "end-to-end",
        "question": "Do real processes give what the simulator gives?",
        "purpose": "test",
        "ethics": "none needed",
        "principal_investigator": "Test Person",
        "expires": datetime.date(2100, 1, 1),
        "cohort": {"dataset": "registry", "features": [{"name": name} for name in FEATURES], "target": {"name": "malignant"}},
        "model": {"framework": "numpy", "name": "logistic"},
        "training": {"learning_rate": 0.2, "batch_size": 16, "local_epochs": 1},
        "method": {"name": "fedavgm", "rounds": 8, "parameters": {"momentum": 0.5}},
        "sites": {"names": list(SITES), "minimum": 3, "quorum": 2, "deadline_seconds": 60},
        "evaluation": {"held_out": 0.25, "release_per_site": True},
        "privacy": {"secure_aggregation": False, "why_not_secure": "a test"},
    }
    return Study(**(fields | changes))


def tables_of(federation: Federation) -> dict[str, Table]:
    """The snapshots that the sites computed on."""
    found = {}
    for name in SITES:
        record = snapshots.current(SiteFolder(federation.site(name)), "registry", Retention(), SystemClock().now())
        found[name] = load_table(record.path, verify=True)
    return found


def assert_same_bits(one: Model, other: Model) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], strict=True)


def undisturbed(federation: Federation, study: Study) -> Model:
    return simulate(study, tables_of(federation)).model


def finish(run: Run, disturb: Mapping[int, Callable[[], None]]) -> list[Event]:
    """All events; after a training round with a disturbance it happens at once, while the next round runs."""
    waiting, events = dict(disturb), []
    for event in run.events():
        events.append(event)
        if isinstance(event, RoundFinished) and event.stage == "train" and event.round_number in waiting:
            waiting.pop(event.round_number)()
    assert not waiting
    return events


def training_rounds(events: list[Event]) -> Iterator[RoundFinished]:
    return (event for event in events if isinstance(event, RoundFinished) and event.stage == "train")


def test_native_and_simulated_studies_have_the_same_bits_and_a_truthful_record(federation: Federation) -> None:
    study = study_of()
    run = federation.researcher().submit(study, federation.folder)
    events = finish(run, {})
    assert isinstance(events[-1], StudyFinished)
    simulated = simulate(study, tables_of(federation))
    assert_same_bits(run_model(federation, run), simulated.model)
    result = run.result()
    assert result["figures"] == [figure.model_dump() for figure in simulated.figures]
    assert {site: part["rounds"] for site, part in result["sites"].items()} == dict.fromkeys(SITES, 8)
    # What a site released is what its own signed report says, to two digits, where it rests on ten patients or more.
    for name in SITES:
        folder = SiteFolder(federation.site(name))
        report = wait_for(lambda folder=folder: read_report(folder, run.digest, SigningKey.load(folder.key).public))
        final = next(task for task in report["tasks"] if task["stage"] == "final")
        mine = {figure["name"]: float(f"{figure['value']:.2g}") for figure in final["figures"] if figure["n"] >= 10}
        released = {figure["name"]: figure["value"] for figure in result["released"][name]}
        assert mine.items() <= released.items()


@pytest.mark.parametrize("victim", ["coordinator", "site", "worker"])
def test_a_study_survives_a_kill(federation: Federation, victim: str) -> None:
    rounds = {"name": "fedavgm", "rounds": 16, "parameters": {"momentum": 0.5}}
    study = study_of(name=f"killed-{victim}", method=rounds)
    run = federation.researcher().submit(study, federation.folder)

    def kill() -> None:
        if victim == "worker":
            for worker in children(federation.processes["north"].pid):
                os.kill(worker, signal.SIGKILL)
        elif victim == "site":
            federation.kill("north")
            federation.run_site("north")
        else:
            federation.kill("coordinator")
            federation.run_coordinator()

    events = finish(run, {3: kill, 11: kill})
    assert isinstance(events[-1], StudyFinished), events[-1]
    assert [event.round_number for event in training_rounds(events)] == list(range(1, 17))
    assert all(event.took_part == SITES for event in training_rounds(events))
    assert_same_bits(run_model(federation, run), undisturbed(federation, study))


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(10))
def test_a_study_survives_any_kills(federation: Federation, seed: int) -> None:
    """Twelve kills of drawn victims after drawn rounds, often several in one round: every round is told once, the bits are the same."""
    rng = np.random.default_rng(seed)
    rounds = {"name": "fedavgm", "rounds": 60, "parameters": {"momentum": 0.5}}
    study = study_of(name=f"killed-{seed}", method=rounds)
    run = federation.researcher().submit(study, federation.folder)
    victims = rng.choice(["coordinator", *SITES], 12)

    def kill(victim: str) -> None:
        federation.kill(victim)
        federation.run_coordinator() if victim == "coordinator" else federation.run_site(victim)

    planned: dict[int, list[str]] = {}
    for victim, after in zip(victims, rng.integers(1, 55, 12), strict=True):
        planned.setdefault(int(after), []).append(str(victim))
    events = finish(run, {after: lambda those=those: [kill(victim) for victim in those] and None for after, those in planned.items()})
    assert [event.round_number for event in training_rounds(events)] == list(range(1, 61))
    assert all(event.took_part == SITES for event in training_rounds(events))
    assert_same_bits(run_model(federation, run), undisturbed(federation, study))


def test_a_lost_site_is_named_and_the_others_go_on(federation: Federation) -> None:
    sites = {"names": list(SITES), "minimum": 3, "quorum": 2, "deadline_seconds": 2}
    run = federation.researcher().submit(study_of(sites=sites, method={"name": "fedavg", "rounds": 6}), federation.folder)
    events = finish(run, {1: lambda: federation.kill("west")})
    assert isinstance(events[-1], StudyFinished)
    late = [absence for event in training_rounds(events) for absence in event.absent if absence.site == "west"]
    assert late and {absence.outcome for absence in late} == {"late"}
    assert run.result()["sites"]["west"]["rounds"] < 6
    assert any(absence["outcome"] == "late" for absence in run.result()["sites"]["west"]["absences"])


def test_nothing_runs_before_approval(federation: Federation) -> None:
    """A site without a rule waits for a person; nothing of the study is computed there, and its approval starts the study."""
    run = federation.researcher().submit(study_of(method={"name": "fedprox", "rounds": 2}), federation.folder)
    waiting = wait_for(lambda: decided(run, {"north": "approve", "west": "approve"}))
    assert waiting["east"] == "waiting" and run.summary().state == "offered"
    assert not (SiteFolder(federation.site("east")).study(run.digest) / "worker.log").exists()
    shown = federation.command("site", "show", run.digest[:12], "--folder", str(federation.site("east")))
    assert "Do real processes give" in shown and "difference" in shown
    federation.command("site", "approve", run.digest[:12], "--by", "Dr Test Person", "--folder", str(federation.site("east")))
    assert isinstance(finish(run, {})[-1], StudyFinished)
    verified = federation.command("site", "audit", "verify", "--folder", str(federation.site("east")))
    assert "unbroken" in verified


def test_withdrawal_takes_effect_at_once_and_is_named(federation: Federation) -> None:
    run = federation.researcher().submit(study_of(method={"name": "fedavg", "rounds": 120}), federation.folder)
    withdraw = ("site", "withdraw", run.digest, "--by", "Dr Test Person", "--folder", str(federation.site("west")))
    events = finish(run, {2: lambda: federation.command(*withdraw)})
    assert isinstance(events[-1], StudyFinished), events[-1]
    took = [len(event.took_part) for event in training_rounds(events)]
    assert took[0] == 3 and took[-1] == 2
    assert run.result()["sites"]["west"]["absences"]


def test_stop_and_resume_change_no_bit(federation: Federation) -> None:
    researcher = federation.researcher()
    study = study_of(method={"name": "fedavg", "rounds": 40})
    run = researcher.submit(study, federation.folder)
    finish(run, {5: lambda: researcher.stop(run.digest, final=False) and None})
    assert run.summary().state == "paused"
    researcher.resume(run.digest)
    wait_for(lambda: run.summary().state == "finished")
    assert_same_bits(run_model(federation, run), undisturbed(federation, study))


def run_model(federation: Federation, run: Run) -> Model:
    return federation.researcher().model(run.digest)


def decided(run: Run, wanted: Mapping[str, str]) -> dict[str, str] | None:
    found: dict[str, str] = {site.site: site.decision for site in run.summary().sites}
    return found if wanted.items() <= found.items() else None


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = condition()
        except (FileNotFoundError, json.JSONDecodeError):
            found = None
        if found:
            return found
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (thread / "children").read_text().split())
    return found
