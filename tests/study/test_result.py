"""The record that a study ends with says what happened, and no more."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from aimer2.core.clock import rfc3339
from aimer2.core.said import Said, say
from aimer2.core.task import BlobRef, FigureDocument, restored
from aimer2.study.events import Absence, RoundFinished, StudyFinished, StudyStarted
from aimer2.study.result import build_result

World = Callable[..., Any]
MODEL = BlobRef(sha256="e" * 64, size=5)
AUC = FigureDocument(name="auc", value=0.8, low=0.7, high=0.9, n=40)


def finished(stage: Any, number: int, took_part: tuple[str, ...], **more: Any) -> RoundFinished:
    return RoundFinished(time=100.0 + number, stage=stage, round_number=number, rounds=3, seconds=1.23456, took_part=took_part, **more)


def test_counts_absences_and_lineage(world: World) -> None:
    made = world(roster=("north", "south", "west"))
    late = Absence(site="west", outcome="late", reason="no answer by the deadline")
    models = [BlobRef(sha256=letter * 64, size=5) for letter in "abc"]
    events = [
        StudyStarted(time=90.5, sites=("north", "south")),
        StudyStarted(time=95.0, sites=("north", "south"), resumed=True),
        finished("preflight", 1, ("north", "south", "west")),
        finished("train", 1, ("north", "south", "west"), model=models[0]),
        finished("train", 2, ("north", "south"), absent=(late,), model=models[1], figures=(AUC.model_copy(update={"value": 0.6}),)),
        finished("train", 3, ("north", "west"), absent=(Absence(site="south", outcome="failed", code="bad-data", reason="No."),), model=models[2]),
        finished("final", 4, ("north",), absent=(late,), figures=(AUC,), released={"north": (AUC,)}),
    ]
    result = build_result(made.package, made.digest, MODEL, events)
    assert result["study"] == made.digest
    assert {site: part["rounds"] for site, part in result["sites"].items()} == {"north": 3, "south": 2, "west": 2}
    assert result["sites"]["north"]["absences"] == []
    assert [(a["stage"], a["round"], a["outcome"]) for a in result["sites"]["west"]["absences"]] == [("train", 2, "late"), ("final", 4, "late")]
    assert result["sites"]["south"]["absences"] == [{"stage": "train", "round": 3, "outcome": "failed", "code": "bad-data", "reason": "No."}]
    assert result["lineage"]["models"] == [ref.sha256 for ref in models]
    assert result["lineage"]["initial"] == made.package.initial.sha256
    assert result["figures"] == [AUC.model_dump()]
    assert result["released"] == {"north": [AUC.model_dump()]}
    assert (result["started"], result["finished"]) == (rfc3339(90.5), rfc3339(104.0))
    assert result["model"] == MODEL.model_dump()
    assert [r["seconds"] for r in result["rounds"]] == [1.2346] * 5


def test_the_reason_of_an_absence_can_be_told_in_any_language(world: World) -> None:
    made = world(roster=("north", "south", "west"))
    reason = say("about {count} patients", count=5)
    absent = (Absence(site="south", outcome="refused", code="few", reason=reason), Absence(site="west", outcome="late", reason="late"))
    result = build_result(made.package, made.digest, MODEL, [finished("train", 1, ("north",), absent=absent)])
    read = json.loads(json.dumps(result), object_hook=restored)
    (south,), (west,) = (read["sites"][site]["absences"] for site in ("south", "west"))
    assert isinstance(south["reason"], Said)
    assert (south["reason"].message, south["reason"].values) == (reason.message, {"count": "5"})
    assert west == {"stage": "train", "round": 1, "outcome": "late", "code": "", "reason": "late"}


def test_a_real_study_is_told_as_it_was(world: World) -> None:
    made = world()
    made.tell("west", "train", 2, lambda task: None)
    made = world(sites={"names": ("north", "south", "west"), "minimum": 2, "deadline_seconds": 0.3})
    made.tell("west", "train", 2, lambda task: None)
    events = made.run()
    result = events[-1].result
    json.dumps(result, allow_nan=False)
    named = {"aggregator": "weighted_mean", "aggregator_parameters": {}}
    assert result["method"] == {"name": "fedavg", "rounds": 3, "parameters": {}, "version": 1} | named
    assert [(r["stage"], r["round"], r["took_part"]) for r in result["rounds"]] == [
        ("preflight", 1, ["north", "south", "west"]),
        ("moments", 1, ["north", "south", "west"]),
        ("moments", 2, ["north", "south", "west"]),
        ("train", 1, ["north", "south", "west"]),
        ("train", 2, ["north", "south"]),
        ("train", 3, ["north", "south", "west"]),
        ("final", 1, ["north", "south", "west"]),
    ]
    west, traffic = result["sites"]["west"], ("bytes_received", "bytes_sent")
    assert [west[name] < result["sites"]["north"][name] for name in traffic] == [True, False]
    assert {name: told for name, told in west.items() if name not in traffic} == {
        "rounds": 2,
        "absences": [{"stage": "train", "round": 2, "outcome": "late", "code": "", "reason": "no answer by the deadline"}],
    }
    assert [task.site for task in made.engine.withdrawn] == ["west"]
    assert result["released"] == {}
    assert "No formal privacy guarantee" in result["privacy"]["statement"]


@pytest.mark.parametrize("release", [False, True])
def test_a_sites_own_figures_are_there_only_where_the_study_says_so(world: World, release: bool) -> None:
    events = world(evaluation={"held_out": 0.3, "metrics": ["auc"], "release_per_site": release}, method={"rounds": 1}).run()
    result = events[-1].result
    assert sorted(result["released"]) == (["north", "south", "west"] if release else [])
    if release:
        counts = [next(f["n"] for f in figures if f["name"] == "auc") for figures in result["released"].values()]
        assert abs(sum(counts) - next(f["n"] for f in result["figures"] if f["name"] == "auc")) <= 2.5 * len(counts)
        assert all(count % 5 == 0 for count in counts)
    in_events = [event.released for event in events if isinstance(event, RoundFinished) and event.stage != "final"]
    assert not any(in_events)


def test_a_figure_is_told_once(world: World) -> None:
    events = world(evaluation={"held_out": 0.3, "metrics": ["loss", "auc"]}, method={"rounds": 1}).run()
    assert isinstance(events[-1], StudyFinished)
    assert [figure["name"] for figure in events[-1].result["figures"]] == ["loss", "auc"]
