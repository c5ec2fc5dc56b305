"""The loop: what it tells, what it keeps, and that it goes on with the same bits wherever it was killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aimer2.core.task import BlobRef
from aimer2.engines.in_process import InProcess
from aimer2.study.checkpoint import store
from aimer2.study.events import ReplyReceived, RoundFinished, RoundStarted, StageStarted, StudyFinished, StudyPaused, StudyStarted

World = Callable[..., Any]


def rounds(events: list[Any], stage: str = "train") -> list[RoundFinished]:
    return [event for event in events if isinstance(event, RoundFinished) and event.stage == stage]


def short(events: list[Any]) -> list[str]:
    return [f"{event.kind} {getattr(event, 'stage', '')} {getattr(event, 'round_number', '')}".strip() for event in events]


def test_a_study_tells_every_step_in_order(world: World) -> None:
    events = world(method={"name": "fedavg", "rounds": 1}).run()

    def round_of(stage: str, number: int) -> list[str]:
        return [f"round-started {stage} {number}", *[f"reply-received {stage} {number}"] * 3, f"round-finished {stage} {number}"]

    assert short(events) == [
        "study-started",
        *["stage-started preflight", *round_of("preflight", 1)],
        *["stage-started moments", *round_of("moments", 1), *round_of("moments", 2)],
        *["stage-started train", *round_of("train", 1)],
        *["stage-started final", *round_of("final", 1)],
        "study-finished",
    ]
    assert events[0].sites == ("north", "south", "west")
    assert not events[0].resumed
    finished = rounds(events)[0]
    assert (finished.took_part, finished.absent) == (("north", "south", "west"), ())
    assert finished.bytes_received > 0
    assert {figure.name for figure in finished.figures} == {"auc", "sensitivity", "specificity", "accuracy", "loss"}


@pytest.mark.parametrize("left_out", ["moments", "final"])
def test_a_study_has_only_the_stages_it_needs(world: World, left_out: str) -> None:
    cohort = {"dataset": "heart", "features": [{"name": "age"}, {"name": "chol"}], "target": {"name": "disease"}, "standardise": "site"}
    changes: dict[str, Any] = {"moments": {"cohort": cohort}, "final": {"evaluation": {"held_out": 0}}}[left_out]
    events = world(**changes).run()
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert stages == [stage for stage in ("preflight", "moments", "train", "final") if stage != left_out]
    assert isinstance(events[-1], StudyFinished)


def test_training_moves_the_model_and_the_last_evaluation_measures_it(world: World) -> None:
    made = world(method={"name": "fedavg", "rounds": 8}, training={"learning_rate": 1.0, "local_steps": 5, "batch_size": None})
    events = made.run()
    loss = [next(figure.value for figure in event.figures if figure.name == "loss") for event in [*rounds(events), *rounds(events, "final")]]
    assert loss[0] == pytest.approx(np.log(2))  # the untrained logistic model
    assert loss == sorted(loss, reverse=True)
    result = events[-1].result
    assert result["figures"] == [figure.model_dump() for figure in rounds(events, "final")[0].figures]
    assert result["model"]["sha256"] == result["lineage"]["models"][-1] == rounds(events)[-1].model.sha256  # type: ignore[union-attr]


@pytest.mark.parametrize("lose_last", [False, True], ids=["told", "untold"])
def test_killed_after_any_event_it_goes_on_with_the_same_bits(world: World, lose_last: bool) -> None:
    whole = world()
    expected = whole.run()
    final = whole.bits(expected[-1].result["model"])
    for count in range(1, len(expected) + 1):
        made = world()
        made.run(stop_after=count, lose_last=lose_last)
        events = made.run()
        assert events[-1].kind == "study-finished", count
        assert events[-1].result["model"] == expected[-1].result["model"], count
        assert made.bits(events[-1].result["model"]) == final
        kept = events[-1].result
        assert [(r["stage"], r["round"], r["took_part"], r["model"], r["figures"]) for r in kept["rounds"]] == [
            (r["stage"], r["round"], r["took_part"], r["model"], r["figures"]) for r in expected[-1].result["rounds"]
        ], count


def test_killed_again_and_again(world: World) -> None:
    made, final = world(), world().run()[-1].result["model"]
    events: list[Any] = []
    for _ in range(200):
        events = made.run(stop_after=9)
        if isinstance(events[-1], StudyFinished):
            break
    assert events[-1].result["model"] == final
    assert Counter((e["stage"], e["round"]) for e in events[-1].result["rounds"]).most_common(1)[0][1] == 1


def test_a_round_that_was_kept_but_not_told_is_told_once(world: World) -> None:
    expected = world().run()
    place = next(number for number, event in enumerate(expected, 1) if isinstance(event, RoundFinished) and event.stage == "train")
    made = world()
    lost = made.run(stop_after=place, lose_last=True)[-1]
    again = made.run()
    assert again[0] == lost
    assert isinstance(again[1], StudyStarted)
    assert again[1].resumed
    assert Counter(short(again))["round-finished train 1"] == 1
    told = world()
    told.run(stop_after=place)
    assert "round-finished train 1" not in short(told.run())


def test_conducting_a_finished_study_again_only_tells_its_result(world: World) -> None:
    made = world()
    first = made.run()
    again = made.run()
    assert short(again) == ["study-started", "study-finished"]
    assert again[-1].result == first[-1].result


def test_the_store_holds_what_the_study_left_and_nothing_else(world: World) -> None:
    for method in ("fedavg", "fedavgm"):
        made = world(method={"name": method, "rounds": 4})
        events = made.run()
        result = events[-1].result
        kept = {result["model"]["sha256"], result["lineage"]["initial"]}
        moments = {sha for sha in made.blobs._blobs if sha not in kept}  # the store has no list: nobody but a test needs one
        assert len(moments) == 1, method
        assert made.bits(made.package.initial) == {name: np.zeros(size).tobytes() for name, size in (("coefficients", 2), ("intercept", 1))}


@pytest.mark.parametrize("others", ["answer", "fail"])
def test_updates_that_were_not_used_are_deleted_too(world: World, acts: Any, others: str) -> None:
    made = world()
    made.change("west", "train", 2, lambda sums: {**sums, "difference": {"odd": np.arange(7.0)}})
    if others == "fail":
        for site in ("north", "south"):
            made.tell(site, "train", 2, acts["fail"])
    assert isinstance(made.run()[-1], StudyPaused) == (others == "fail")
    assert not [blob for blob in made.blobs._blobs.values() if b'"odd"' in blob.data]


# -- who takes part


def contract(**more: Any) -> dict[str, Any]:
    return {"dataset": "heart", "features": [{"name": "age", **more}, {"name": "chol"}], "target": {"name": "disease"}}


def with_unit(table: Any, unit: str) -> Any:
    column = table.columns["age"]
    return type(table)({**table.columns, "age": type(column)("number", column.values, unit=unit)}, table.patient)


def test_a_site_that_does_not_meet_the_contract_is_named_and_not_asked_again(world: World, table: Any) -> None:
    tables = {site: with_unit(table(number), "mo" if site == "south" else "a") for number, site in enumerate(("north", "south", "west"))}
    made = world(tables, cohort=contract(unit="a"))
    events = made.run()
    assert {task.stage for task in made.engine.asked if task.site == "south"} == {"preflight"}
    (preflight,) = rounds(events, "preflight")
    assert preflight.took_part == ("north", "west")
    (absence,) = preflight.absent
    assert (absence.site, absence.outcome, absence.code) == ("south", "failed", "bad-data")
    assert "'age' is in mo" in absence.reason
    part = events[-1].result["sites"]
    assert [part[site]["rounds"] for site in ("north", "south", "west")] == [3, 0, 3]
    assert part["south"]["absences"] == [{"stage": "preflight", "round": 1, "outcome": "failed", "code": "bad-data", "reason": absence.reason}]


def test_too_few_sites_that_meet_the_contract_pause_the_study_with_their_reasons(world: World, table: Any) -> None:
    tables = {site: with_unit(table(number), "a" if site == "west" else "mo") for number, site in enumerate(("north", "south", "west"))}
    made = world(tables, cohort=contract(unit="a"))
    events = made.run()
    assert isinstance(events[-1], StudyPaused)
    assert events[-1].reason.startswith("1 sites can be asked, 2 are needed. ")
    assert "north: Column 'age' is in mo" in events[-1].reason
    assert "west" not in events[-1].reason

    # the data are as they were: nobody comes in by the back door
    again = made.run()
    assert isinstance(again[-1], StudyPaused)
    assert {task.stage for task in made.engine.asked} == {"preflight"}

    # north has corrected its data
    made.performers |= {"north": world({"north": with_unit(table(0), "a")}, roster=["north"], cohort=contract(unit="a")).performers["north"]}
    made.restart_sites()
    last = made.run()
    assert isinstance(last[-1], StudyFinished)
    assert rounds(last)[0].took_part == ("north", "west")


def test_a_pause_in_the_middle_loses_nothing_and_the_contract_is_checked_again(world: World, acts: Any, table: Any) -> None:
    expected = world().run()[-1].result["model"]
    made = world()
    for site in ("north", "south"):
        made.tell(site, "train", 2, acts["fail"])
    events = made.run()
    assert isinstance(events[-1], StudyPaused)
    assert events[-1].reason == "1 sites answered, 2 are needed. north: The disk is full.; south: The disk is full."
    made.engine.acts.clear()
    asked = len(made.engine.asked)
    resumed = made.run()
    assert isinstance(resumed[-1], StudyFinished)
    assert resumed[-1].result["model"] == expected
    new = [(task.stage, task.round_number, task.attempt) for task in made.engine.asked[asked:] if task.site == "north"]
    assert new == [("preflight", 1, 2), ("train", 2, 2), ("train", 3, 2), ("final", 1, 2)]
    assert len({(task.id, task.attempt) for task in made.engine.asked}) == len(made.engine.asked), "a task asked anew has a new attempt"
    assert [event.round_number for event in rounds(resumed)] == [2, 3]


def test_after_a_pause_a_site_whose_data_no_longer_fit_stays_out(world: World, acts: Any, table: Any) -> None:
    made = world()
    for site in ("north", "south"):
        made.tell(site, "train", 2, acts["fail"])
    made.run()
    made.engine.acts.clear()
    empty = world({"north": table(0, rows=5)}, roster=["north"])
    made.performers |= {"north": empty.performers["north"]}
    made.restart_sites()
    events = made.run()
    assert [event.took_part for event in rounds(events)] == [("south", "west")] * 2
    absences = events[-1].result["sites"]["north"]["absences"]
    assert [(a["stage"], a["outcome"]) for a in absences] == [("preflight", "failed")]


def test_killed_between_a_pause_and_the_round_it_goes_on_with(world: World, acts: Any) -> None:
    expected = world().run()[-1].result["model"]

    def paused() -> Any:
        made = world()
        made.tell("north", "train", 2, acts["fail"])
        made.tell("south", "train", 2, acts["refuse"])
        assert isinstance(made.run()[-1], StudyPaused)
        made.engine.acts.clear()
        return made

    for count in range(1, len(paused().run())):
        made = paused()
        made.run(stop_after=count)
        assert made.run()[-1].result["model"] == expected, count


def test_pausing_twice_asks_each_time_anew(world: World, acts: Any) -> None:
    made = world()
    for number in (1, 3):
        for site in ("north", "south"):
            made.tell(site, "train", number, acts["fail"])
        assert isinstance(made.run()[-1], StudyPaused)
        made.engine.acts.clear()
    made.run()
    asked = [(task.id, task.attempt) for task in made.engine.asked]
    assert len(set(asked)) == len(asked)


def test_a_site_that_appears_later_joins(world: World) -> None:
    made = world()
    made.engine.names.remove("west")

    def appear(event: Any) -> None:
        if isinstance(event, RoundFinished) and (event.stage, event.round_number) == ("train", 2):
            made.engine.names.append("west")

    events = made.run(on_event=appear)
    assert [event.took_part for event in rounds(events)] == [("north", "south"), ("north", "south"), ("north", "south", "west")]
    west = events[-1].result["sites"]["west"]
    assert west["rounds"] == 1
    assert [(a["stage"], a["round"]) for a in west["absences"]] == [("preflight", 1), ("moments", 1), ("moments", 2), ("train", 1), ("train", 2)]
    assert {(a["outcome"], a["code"]) for a in west["absences"]} == {("refused", "not-approved")}


def test_a_site_that_vanishes_is_named_in_every_round_it_misses(world: World) -> None:
    made = world()

    def vanish(event: Any) -> None:
        if isinstance(event, RoundFinished) and (event.stage, event.round_number) == ("train", 1):
            made.engine.names.remove("south")

    events = made.run(on_event=vanish)
    assert [[absence.site for absence in event.absent] for event in rounds(events)] == [[], ["south"], ["south"]]
    assert [(a["stage"], a["round"]) for a in events[-1].result["sites"]["south"]["absences"]] == [("train", 2), ("train", 3), ("final", 1)]


def test_a_site_that_refuses_or_fails_a_round_is_asked_in_the_next(world: World, acts: Any) -> None:
    made = world()
    made.tell("north", "train", 1, acts["refuse"])
    made.tell("west", "train", 2, acts["fail"])
    events = made.run()
    assert [event.took_part for event in rounds(events)] == [("south", "west"), ("north", "south"), ("north", "south", "west")]
    (refusal,), (failure,), () = (event.absent for event in rounds(events))
    assert (refusal.outcome, refusal.code, refusal.reason) == ("refused", "not-approved", "Nobody has approved it.")
    assert (failure.outcome, failure.code, failure.reason) == ("failed", "out-of-resources", "The disk is full.")
    told = [event for event in events if isinstance(event, ReplyReceived) and event.outcome != "answer"]
    assert [(event.site, event.outcome, event.code) for event in told] == [
        ("north", "refusal", "not-approved"),
        ("west", "failure", "out-of-resources"),
    ]


def test_the_mean_is_over_those_who_answered(world: World, acts: Any) -> None:
    # moments are those of three sites in one and of two in the other: compare without standardisation
    tables, cohort = world().tables, contract() | {"standardise": "site"}
    made, two = (
        world(
            {site: table for site, table in tables.items() if site in names},
            roster=names,
            method={"name": "fedavg", "rounds": 1},
            cohort=cohort,
        )
        for names in (("north", "south", "west"), ("north", "south"))
    )
    made.tell("west", "train", 1, acts["fail"])
    assert made.run()[-1].result["model"] == two.run()[-1].result["model"]


# -- sums that cannot be used


@pytest.mark.parametrize("leaf", ["difference", "weight", "metrics"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_site_whose_numbers_are_not_finite_does_not_stop_the_others(world: World, leaf: str, value: float, monkeypatch: Any) -> None:
    monkeypatch.setattr(InProcess, "_send", lambda self, sent: store(sent, self._blobs))  # a site that does not look
    made = world()

    def spoil(sums: Any) -> Any:
        name, array = next((name, array) for name, array in sums[leaf].items() if array.dtype.kind == "f")
        return {**sums, leaf: {**sums[leaf], name: np.full_like(array, value)}}

    made.change("south", "train", 2, spoil)
    events = made.run()
    assert isinstance(events[-1], StudyFinished)
    assert [event.took_part for event in rounds(events)][1] == ("north", "west")
    (absence,) = rounds(events)[1].absent
    assert (absence.site, absence.code) == ("south", "bad-update")
    assert "not finite" in absence.reason


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("no rows", lambda sums: {**sums, "weight": {"rows": np.zeros(1)}}),
        ("too large", lambda sums: {**sums, "difference": {name: np.full_like(leaf, 1.7e308) for name, leaf in sums["difference"].items()}}),
        ("no weight", lambda sums: {name: leaves for name, leaves in sums.items() if name != "weight"}),
        ("an empty weight", lambda sums: {**sums, "weight": {"rows": np.zeros(0)}}),
        ("another weight", lambda sums: {**sums, "weight": {"patients": np.ones(1)}}),
        ("another model", lambda sums: {**sums, "difference": {"w": np.zeros(3)}}),
        ("nothing", lambda sums: {}),
        ("odd metrics", lambda sums: {**sums, "metrics": {"count": np.ones(3)}}),
    ],
)
def test_sums_that_no_step_can_be_made_of_pause_the_study(world: World, what: str, change: Any) -> None:
    made = world()
    for site in ("north", "south", "west"):
        made.change(site, "train", 2, change)
    events = made.run()
    assert isinstance(events[-1], StudyPaused), what
    assert "cannot be used" in events[-1].reason
    assert [event.round_number for event in rounds(events)] == [1]
    paused_at = rounds(events)[0].model
    assert isinstance(paused_at, BlobRef)
    assert paused_at in made.blobs


def test_a_method_that_asks_few_sites_needs_no_more_than_it_asks(world: World, monkeypatch: Any) -> None:
    monkeypatch.setattr("aimer2.algorithms.fedavg.FedAvg.select", lambda self, state, sites: [sites[state.round_number % len(sites)]])
    events = world().run()
    assert isinstance(events[-1], StudyFinished)
    assert [event.took_part for event in rounds(events)] == [("north",), ("south",), ("west",)]
    assert [event.absent for event in rounds(events)] == [(), (), ()], "who was not selected was not absent"
    assert [event.sites for event in events if isinstance(event, RoundStarted) and event.stage == "final"] == [("north", "south", "west")]


DESCRIBE = {"name": "who", "method": "describe", "formula": "~ age", "options": {"quantiles": []}}


def variance(events: list[Any]) -> float:
    [table] = events[-1].result["tables"]
    return float(table["rows"][0][table["columns"].index("variance")])


def test_statistics_are_of_the_same_hospitals_from_the_first_round_to_the_last(world: World, acts: Any, table: Any) -> None:
    """Who misses the first round has no part in the second, where the distances from a mean of the others are added up."""
    made = world(analyses=[DESCRIBE])
    made.tell("west", "analyse", 1, acts["fail"])
    events = made.run()
    assert [event.took_part for event in rounds(events, "analyse")] == [("north", "south")] * 2
    ages = np.concatenate([table(number).columns["age"].values for number in (0, 1)])
    assert variance(events) == pytest.approx(ages.var(ddof=1), rel=1e-12)


def test_a_hospital_that_drops_out_between_the_rounds_pauses_a_statistical_study(world: World, acts: Any, table: Any) -> None:
    made = world(analyses=[DESCRIBE])
    made.tell("west", "analyse", 2, acts["fail"])
    paused = made.run()[-1]
    assert isinstance(paused, StudyPaused) and "2 sites answered, 3 are needed. west: The disk is full." in paused.reason
    made.engine.acts.clear()
    events = made.run()
    ages = np.concatenate([table(number).columns["age"].values for number in range(3)])
    assert variance(events) == pytest.approx(ages.var(ddof=1), rel=1e-12)
