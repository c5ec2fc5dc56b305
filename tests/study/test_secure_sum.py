"""Sums in secret through the loop: who falls silent, lies, or comes back, and what the sum then is."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from secure_world import MANY, PHASES, STUDY, Act, Growing, Power, World, failing, own_answer, repeated, rounds, saying, silent

from aimer2.core.task import Answer, Task
from aimer2.messages.tensors import read_tree
from aimer2.study.checkpoint import store
from aimer2.study.events import Event, ReplyReceived, RoundStalled, StudyPaused
from aimer2.study.secure_update import MaskedUpdate


def test_the_sum_is_the_sum_and_nothing_that_travelled_is_an_update() -> None:
    world = World(4)
    events = world.run()
    assert world.total == 3333
    assert [(event.took_part, event.absent) for event in rounds(events)] == [(tuple("abcd"), ())] * 3
    assert [event.secrecy.saturated for event in rounds(events) if event.secrecy] == [0] * 3
    asked = [(task.phase, task.round_number) for task in world.engine.asked if task.site == "a"]
    assert asked == [("keys", 1), ("shares", 1), *[(phase, number) for number in (1, 2, 3) for phase in ("update", "agree", "reveal")]]


@pytest.mark.parametrize("n", [4, 5])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("act", [silent, failing], ids=["silent", "failing"])
def test_sites_may_drop_out_down_to_the_threshold_in_any_phase(n: int, phase: str, act: Act) -> None:
    world = World(n)
    gone = "".join(world.names[world.roster.threshold :])
    assert gone
    stay, everybody = "".join(world.names[: world.roster.threshold]), "".join(world.names)
    world.tell(gone, phase, act)
    events = world.run()
    assert not repeated(events)
    expected = {"keys": [stay] * 3, "shares": [stay] * 3, "update": [everybody, stay, everybody]}.get(phase, [everybody] * 3)
    assert ["".join(event.took_part) for event in rounds(events)] == expected
    assert world.total == world.count(*expected)
    told = {absence.site: absence for absence in rounds(events)[1].absent}
    assert set(told) == set(everybody) - set(expected[1])
    for absence in told.values():
        assert (absence.outcome, absence.reason) == (("late", "no answer by the deadline") if act is silent else ("failed", "The disk is full."))


@pytest.mark.parametrize("phase", ["keys", "shares", "agree", "reveal"])
def test_below_the_threshold_the_round_is_lost_nothing_is_learnt_and_it_is_tried_again_with_fresh_keys(phase: str) -> None:
    world = World(4)
    world.tell("cd", phase, failing)
    events = world.run()
    (lost,) = repeated(events)
    assert lost.round_number == (1 if phase in ("keys", "shares") else 2)
    assert lost.attempt == 2
    assert "Not enough sites: 2" in lost.reason
    assert "c: The disk is full.; d: The disk is full." in lost.reason
    assert world.total == 3333, "every round counts once"
    keys = [task for task in world.engine.asked if task.phase == "keys" and task.site == "a"]
    assert [(task.round_number, task.attempt) for task in keys] == [(1, 1), (lost.round_number, 2)]
    assert len({json.loads(task.message)["epoch"]["attempt"] for task in keys}) == 2
    masks = [world.vaults["a"].documents[f"{STUDY}/current"].decode()]
    assert masks == [f"train-2-{lost.round_number}"]


def test_after_three_attempts_the_study_pauses_with_the_reason_and_goes_on_when_asked() -> None:
    world = World(4)
    for attempt in (1, 2, 3):
        world.tell("cd", "agree", failing, attempt=attempt)
    events = world.run()
    assert len(repeated(events)) == 2
    assert isinstance(events[-1], StudyPaused)
    assert events[-1].reason.startswith("Round 2 could not be added up in 3 attempts: Not enough sites: 2 agreed to the set of updates")
    assert "c: The disk is full." in events[-1].reason
    again = world.run()
    assert [event.round_number for event in rounds(again)] == [2, 3]
    assert world.total == 3333


def test_too_few_updates_pause_the_study_as_in_the_clear() -> None:
    world = World(4)
    world.tell("cd", "update", failing)
    events = world.run()
    assert isinstance(events[-1], StudyPaused)
    assert events[-1].reason == "2 sites answered, 3 are needed. c: The disk is full.; d: The disk is full."
    assert not [task for task in world.engine.asked if task.phase == "agree" and task.round_number == 2]
    world.run()
    assert world.total == 3333


@pytest.mark.parametrize("phase", PHASES)
def test_too_many_silent_ones_are_waited_for(phase: str) -> None:
    """They may be back in an hour: the phase stays open, says for whom it waits, and is finished when they answer."""
    world = World(4)
    world.tell("cd", phase, silent)
    events: list[Event] = []

    def stop(event: Event) -> None:
        events.append(event)
        if isinstance(event, RoundStalled):
            world.engine.acts.clear()
            raise Power

    world.run(on_event=stop)
    assert isinstance(events[-1], RoundStalled)
    assert (events[-1].answered, events[-1].waiting_for, events[-1].needed) == (("a", "b"), ("c", "d"), 3)
    world.run()
    assert world.total == 3333


def test_a_site_that_comes_later_joins_with_a_set_up_of_its_own() -> None:
    world = World(4)
    world.engine.names.remove("d")

    def appear(event: Event) -> None:
        if rounds([event]) and event.round_number == 1:  # type: ignore[union-attr]
            world.engine.names.append("d")

    events = world.run(on_event=appear)
    assert ["".join(event.took_part) for event in rounds(events)] == ["abc", "abcd", "abcd"]
    assert world.total == world.count("abc", "abcd", "abcd")
    assert [task.round_number for task in world.engine.asked if task.phase == "keys" and task.site == "a"] == [1, 2]


def test_a_site_that_was_away_from_the_set_up_joins_at_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimer2.study.secure_group.MOST_ROUNDS", 2)
    world = World(4, rounds=4)
    world.tell("d", "keys", silent)
    events = world.run()
    assert ["".join(event.took_part) for event in rounds(events)] == ["abc", "abc", "abcd", "abcd"]
    assert [task.round_number for task in world.engine.asked if task.phase == "keys" and task.site == "d"] == [1, 3]


def test_a_site_that_missed_the_set_up_of_a_long_study_gets_another_soon() -> None:
    world = World(4, rounds=20)
    world.tell("d", "keys", silent)
    events = world.run()
    assert ["".join(event.took_part) for event in rounds(events)] == ["abc"] * 8 + ["abcd"] * 12
    assert [task.round_number for task in world.engine.asked if task.phase == "keys" and task.site == "a"] == [1, 9]


def test_a_site_that_never_heard_of_the_first_round_gets_its_shares_with_the_second() -> None:
    world = World(4)
    world.tell("d", "update", silent, round_number=1)
    events = world.run()
    assert ["".join(event.took_part) for event in rounds(events)] == ["abc", "abcd", "abcd"]
    assert world.total == world.count("abc", "abcd", "abcd")


def test_a_site_that_is_gone_since_the_set_up_is_not_waited_for_with_another() -> None:
    world = World(4, rounds=20)
    world.tell("d", "keys", silent)

    def leave(event: Event) -> None:
        if rounds([event]) and event.round_number == 1:  # type: ignore[union-attr]
            world.engine.names.remove("d")

    events = world.run(on_event=leave)
    assert ["".join(event.took_part) for event in rounds(events)] == ["abc"] * 20
    assert [task.round_number for task in world.engine.asked if task.phase == "keys" and task.site == "a"] == [1]


def test_a_site_that_comes_while_the_coordinator_is_down_waits_for_the_round_that_is_under_way() -> None:
    """The others have masked that round's updates already, with keys that do not know it."""
    world = World(4)
    world.engine.names.remove("d")
    world.tell("c", "update", silent)
    replies = 0

    def die(event: Event) -> None:
        nonlocal replies
        replies += isinstance(event, ReplyReceived) and event.round_number == 2
        if replies == 2:
            raise Power

    world.run(on_event=die)
    world.engine.acts.clear()
    world.engine.names.append("d")
    events = world.run()
    assert not repeated(events)
    assert ["".join(event.took_part) for event in rounds(events)] == ["abc", "abcd"]
    assert [absence.site for absence in rounds(events)[0].absent] == ["d"]
    assert world.total == world.count("abc", "abc", "abcd")


# -- what a site may answer


def unmasked(world: World, answer: Answer) -> Answer:
    return answer.model_copy(update={"message": "", "sums": {"tally": store({"n": np.array([1000])}, world.blobs)}})


def naked(world: World, answer: Answer) -> Answer:
    return answer.model_copy(update={"message": ""})


def rubbish(world: World, answer: Answer) -> Answer:
    return answer.model_copy(update={"message": '{"signed": "a.b.c", "layout": "{}"}'})


def another_upload(world: World, answer: Answer) -> Answer:
    words = {leaf: np.asarray(array) for leaf, array in read_tree(world.blobs.open(answer.sums["tally"])).items()}
    other = store({leaf: array + array.dtype.type(1) for leaf, array in words.items()}, world.blobs)
    return answer.model_copy(update={"sums": {**answer.sums, "tally": other}})


def another_layout(world: World, answer: Answer) -> Answer:
    said = MaskedUpdate.model_validate_json(answer.message)
    layout = json.loads(said.layout)
    layout["leaves"][0][1] = "m"
    return answer.model_copy(update={"message": said.model_copy(update={"layout": json.dumps(layout)}).model_dump_json()})


def another_sites(world: World, answer: Answer) -> Answer:
    task = next(task for task in reversed(world.engine.asked) if task.site == "a" and task.phase == "update")
    other = own_answer(world, task)
    return answer.model_copy(update={"message": other.message, "sums": other.sums})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (unmasked, "other names or shapes"),
        (naked, "not what the protocol calls MaskedUpdate"),
        (rubbish, "layout"),
        (another_upload, "uploaded something else than it signed"),
        (another_layout, "other names, shapes or ranges"),
        (another_sites, "signed with another key"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_site_that_hands_in_something_else_is_dropped_and_the_others_go_on(change: Callable[[World, Answer], Answer], reason: str) -> None:
    world = World(4)
    world.tell("d", "update", lambda task: change(world, own_answer(world, task)))
    events = world.run()
    (absence,) = rounds(events)[1].absent
    assert (absence.site, absence.outcome) == ("d", "failed")
    assert reason in absence.reason
    assert ["".join(event.took_part) for event in rounds(events)] == ["abcd", "abc", "abcd"]
    assert world.total == world.count("abcd", "abc", "abcd")


@pytest.mark.parametrize("change", [naked, another_layout], ids=["no masked update", "found out once all have answered"])
def test_a_study_that_wants_more_sites_than_the_threshold_opens_no_sum_of_fewer(change: Callable[[World, Answer], Answer]) -> None:
    world = World(4, needed=4)
    world.tell("d", "update", lambda task: change(world, own_answer(world, task)))
    events = world.run()
    assert isinstance(events[-1], StudyPaused)
    assert events[-1].reason.startswith("3 sites answered, 4 are needed. d: ")
    assert not [task for task in world.engine.asked if task.phase != "update" and task.round_number == 2]
    world.run()
    assert world.total == 3333, "had three opened their sum, they would now refuse that of four"


@pytest.mark.parametrize("phase", ["keys", "shares", "agree", "reveal"])
def test_rubbish_in_a_phase_without_data_leaves_the_site_out_of_what_is_left_of_it(phase: str) -> None:
    world = World(4)
    world.tell("d", phase, saying("rubbish"))
    events = world.run()
    assert not repeated(events)
    in_set_up = phase in ("keys", "shares")
    expected = ["abc" if in_set_up else "abcd"] * 3
    assert ["".join(event.took_part) for event in rounds(events)] == expected
    assert world.total == world.count(*expected)
    if in_set_up:
        said = {"keys": "This is not a signed document.", "shares": "This is not what the protocol calls Dealt."}
        assert [absence.reason for absence in rounds(events)[0].absent] == [said[phase]]


def test_shares_are_waited_for_until_they_open_the_sum_and_no_longer() -> None:
    world = World(5)
    world.tell("a", "reveal", saying("rubbish"))
    world.tell("b", "reveal", lambda task: own_answer(world, task))
    world.tell("e", "reveal", silent, round_number=3)
    events = world.run()
    assert not repeated(events)
    assert ["".join(event.took_part) for event in rounds(events)] == ["abcde"] * 3
    assert world.total == 33333
    # In round 2 the fourth answer was of no use, and the fifth was waited for.
    assert [(task.round_number, task.site, task.phase) for task in world.engine.withdrawn] == [(1, "e", "reveal"), (3, "e", "reveal")]
    assert world.clock.passed == 0


def test_a_late_update_is_left_out_stays_hidden_and_the_site_is_in_the_next_round() -> None:
    world = World(4)
    late: list[Answer] = []

    def after_all(task: Task) -> None:
        late.append(own_answer(world, task))

    world.tell("d", "update", after_all)
    events = world.run()
    assert ["".join(event.took_part) for event in rounds(events)] == ["abcd", "abc", "abcd"]
    assert world.total == world.count("abcd", "abc", "abcd")
    assert [task.site for task in world.engine.withdrawn if task.phase == "update"] == ["d"]
    # d is in no set that was opened, so the secret of its own mask was not asked for: had it come later, nobody could read it.
    for task in world.engine.asked:
        if task.round_number == 2 and task.phase in ("agree", "reveal"):
            assert json.loads(json.loads(task.message)["content"])["signed"].keys() == set("abc")


def test_a_site_that_signed_for_another_upload_in_a_round_that_is_lost_is_not_asked_again() -> None:
    world = World(4)
    world.tell("cd", "update", lambda task: another_upload(world, own_answer(world, task)))
    events = world.run()
    (lost,) = repeated(events)
    assert "c: The site has uploaded something else than it signed." in lost.reason
    assert isinstance(events[-1], StudyPaused)
    assert "c: it has not kept to the protocol of secure aggregation" in events[-1].reason


# -- precision


def test_reals_have_a_range_from_the_second_round_on_and_the_stated_error_holds() -> None:
    world = World(5, rounds=6, reals=MANY)
    events = world.run()
    found = float(np.asarray(read_tree(world.blobs.open(world.loop.model))["w"])[0])  # type: ignore[arg-type]
    secrecy = [event.secrecy for event in rounds(events) if event.secrecy]
    assert 0 < secrecy[0].error < 1e-9, "nothing is known of the size of the first round's values: they are summed in 64 bits"
    assert all(1e-9 < one.error < 1e-7 for one in secrecy[1:])
    digits = sum(site.digit for site in world.sites.values())
    expected = [0.1 * digits * number for number in range(1, 7)]
    bound = sum(one.error * value for one, value in zip(secrecy, expected, strict=True)) + 6 * float(np.spacing(np.float32(sum(expected))))
    assert abs(found - sum(expected)) <= bound


def test_a_few_reals_are_summed_with_all_their_bits() -> None:
    events = World(5, rounds=3, reals=1).run()
    assert [event.secrecy.error for event in rounds(events) if event.secrecy] == [0, 0, 0]


def test_values_above_their_range_are_clipped_and_counted() -> None:
    """In round 2 a value may be four times the sum of all in round 1: d's is above that, and c's is not."""
    world = World(4, reals=MANY)
    world.sites["d"] = Growing(world.sites["d"].digit)
    world.engine.inner = world.inner()
    events = world.run()
    assert [event.secrecy.saturated for event in rounds(events) if event.secrecy] == [0, MANY, 0]
    found = float(np.asarray(read_tree(world.blobs.open(world.loop.model))["w"])[0])  # type: ignore[arg-type]
    assert found == pytest.approx(111.1 + (0.2 + 2 + 20 + 4 * 111.1) + 3 * 111.1, rel=1e-5)
