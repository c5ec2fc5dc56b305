"""Sums in secret by groups, through the loop: what the coordinator can open, which groups count, who falls silent, lies, or is killed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from secure_world import MANY, PHASES, Act, Power, World, bits, failing, own_answer, repeated, rounds, saying, silent

from aimer2.core.task import Answer, Task
from aimer2.core.update import Update
from aimer2.messages.tensors import read_tree
from aimer2.study.checkpoint import store
from aimer2.study.events import Event, RoundFinished, StudyPaused

GROUPS = ("abc", "def", "ghi")


def nine(**options: Any) -> World:
    return World(9, groups=GROUPS, groups_needed=2, **options)


def test_what_the_aggregator_gets_is_one_sum_per_group() -> None:
    seen: list[list[int]] = []

    class Watching:
        additive = False

        def __call__(self, updates: Any) -> Update:
            given = list(updates)
            seen.append([int(np.asarray(update.sums["tally"]["n"])[0]) for update in given])
            return given[0] + given[1] + given[2]

    world = nine(rounds=2)
    object.__setattr__(world.plan, "aggregator", Watching())
    world.run()
    assert seen == [[111, 111_000, 111_000_000]] * 2
    assert world.total == 2 * world.count("abcdefghi")


def test_no_site_is_ever_asked_about_another_set_than_its_own_group() -> None:
    world = nine()
    world.run()
    of = {site: set(group) for group in GROUPS for site in group}
    named = [(task.site, json.loads(json.loads(task.message)["content"] or "{}")) for task in world.engine.asked]
    told = [(site, set(content.get("signed") or content.get("dealt") or ())) for site, content in named]
    assert all(sites in (set(), of[site]) for site, sites in told)
    assert {site for site, sites in told if sites} == set("abcdefghi")


def test_a_site_refuses_the_keys_of_another_group() -> None:
    """A coordinator that puts g in the place of c, to have a and b in two sums."""
    world = nine(rounds=1)
    given = {}

    def keys(task: Task) -> Answer:
        given[task.site] = own_answer(world, task)
        return given[task.site]

    world.tell("abcdefghi", "keys", keys)
    refused: dict[str, Any] = {}

    def mixed(task: Task) -> Any:
        message = json.loads(task.message)
        signed = {site: given[site].message for site in "abg"}
        refused[task.site] = world.engine.inner.perform(
            task.model_copy(update={"message": json.dumps({**message, "content": json.dumps({"signed": signed})})})
        )
        return refused[task.site]

    world.tell("abc", "shares", mixed)
    events = world.run()
    assert all(reply.kind == "failure" for reply in refused.values())
    assert ["".join(event.took_part) for event in rounds(events)] == ["defghi"]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("act", [silent, failing], ids=["silent", "failing"])
def test_a_group_below_its_threshold_is_lost_and_the_others_go_on(phase: str, act: Act) -> None:
    world = nine()
    world.tell("e", phase, act)
    events = world.run()
    assert not repeated(events)
    without = 1 if phase in ("keys", "shares") else 2
    took = ["abcghi" if event.round_number == without else "abcdefghi" for event in rounds(events)]
    assert ["".join(event.took_part) for event in rounds(events)] == took
    assert world.total == world.count(*took)
    absent = {absence.site: absence for absence in rounds(events)[without - 1].absent}
    assert set(absent) == set("def")
    assert absent["d"].outcome == "failed" and absent["d"].code == "not-available"
    assert absent["d"].reason.startswith("the sum of its group could not be made: ")


def test_a_group_that_was_lost_begins_with_fresh_keys_in_the_next_round() -> None:
    world = nine()
    world.tell("e", "reveal", failing)
    world.run()
    asked = {site: [task.round_number for task in world.engine.asked if task.phase == "keys" and task.site == site] for site in "abcdefghi"}
    assert asked == {site: [1, 3] if site in "def" else [1] for site in "abcdefghi"}


@pytest.mark.parametrize("phase", ["agree", "reveal"])
def test_with_too_few_groups_the_round_is_lost_and_repeated_with_the_same_sums(phase: str) -> None:
    world = World(9, groups=GROUPS, groups_needed=3)
    world.tell("e", phase, failing)
    events = world.run()
    (lost,) = repeated(events)
    assert lost.round_number == 2
    assert "d, e, f: Not enough sites: 2" in lost.reason and "e: The disk is full." in lost.reason
    assert world.total == world.count(*["abcdefghi"] * 3)


def test_with_too_few_groups_complete_nothing_is_opened_and_the_study_pauses() -> None:
    world = World(9, groups=GROUPS, groups_needed=3)
    world.tell("e", "update", failing)
    events = world.run()
    assert isinstance(events[-1], StudyPaused)
    assert events[-1].reason.startswith("8 sites answered, enough for 2 of 3 groups; 9 sites and 3 groups are needed. e: The disk is full.")
    assert not [task for task in world.engine.asked if task.phase == "agree" and task.round_number == 2]
    world.run()
    assert world.total == world.count(*["abcdefghi"] * 3)


def test_sites_of_a_lost_group_do_not_count_for_the_quorum() -> None:
    world = nine(needed=7)
    world.tell("e", "update", failing)
    events = world.run()
    assert isinstance(events[-1], StudyPaused)
    assert events[-1].reason.startswith("8 sites answered, enough for 2 of 3 groups; 7 sites and 2 groups are needed.")


@pytest.mark.parametrize("phase", ["agree", "reveal"])
def test_where_a_lost_group_leaves_fewer_sites_than_the_study_wants_the_round_is_lost(phase: str) -> None:
    world = nine(needed=9)
    world.tell("e", phase, failing)
    events = world.run()
    (lost,) = repeated(events)
    assert "6 sites have a part in a sum that can be opened" in lost.reason
    asked = {task.attempt for task in world.engine.asked if (task.round_number, task.phase) == (2, "reveal")}
    assert asked == ({2} if phase == "agree" else {1, 2}), "nothing is opened once it is known to be too little"
    assert ["".join(event.took_part) for event in rounds(events)] == ["abcdefghi"] * 3


def test_a_liar_costs_its_group_and_is_not_asked_again() -> None:
    """It signs for another upload than it hands in: with a threshold of three its group is lost, in the next round it is left out for good."""
    world = World(11, groups=("abc", "defg", "hijk"), groups_needed=2)

    def lying(task: Task) -> Answer:
        answer = own_answer(world, task)
        words = {leaf: np.asarray(array) for leaf, array in read_tree(world.blobs.open(answer.sums["tally"])).items()}
        other = store({leaf: array + array.dtype.type(1) for leaf, array in words.items()}, world.blobs)
        return answer.model_copy(update={"sums": {**answer.sums, "tally": other}})

    world.tell("de", "update", lying)
    events = world.run()
    assert ["".join(event.took_part) for event in rounds(events)] == ["abcdefghijk", "abchijk", "abchijk"]
    assert not repeated(events)
    assert {task.site for task in world.engine.asked if task.round_number == 3} == set("abcfghijk")


def test_a_group_whose_sums_have_another_form_is_left_out() -> None:
    world = nine(rounds=1)
    for site in "def":
        world.sites[site].reals = 1
    events = world.run()
    assert ["".join(event.took_part) for event in rounds(events)] == ["abcghi"]
    assert "other names or shapes than those of most groups" in rounds(events)[0].absent[0].reason


def test_rubbish_in_a_larger_group_costs_only_the_one_that_said_it() -> None:
    world = World(8, groups=("abcd", "efgh"), groups_needed=2)
    world.tell("b", "update", saying("rubbish"))
    events = world.run()
    assert ["".join(event.took_part) for event in rounds(events)] == ["abcdefgh", "acdefgh", "abcdefgh"]


@pytest.mark.parametrize("kept", [False, True], ids=["before it is kept", "after it is kept"])
def test_killed_at_any_save_the_study_ends_with_the_same_bits(kept: bool) -> None:
    def small() -> World:
        world = World(6, groups=("abc", "def"), groups_needed=2, rounds=1)
        world.engine.inner._order = list("fbdaec")
        return world

    undisturbed = small()
    undisturbed.run()
    for count in range(1, undisturbed.checkpoints.saves + 1):
        world = small()
        world.checkpoints.fails = (count, kept)
        world.run()
        world.engine.inner = world.inner()
        events = world.run()
        assert not repeated(events), count
        assert bits(world) == bits(undisturbed), count


def test_killed_while_one_group_is_lost_it_stays_lost_in_that_round() -> None:
    """The others' sums were fixed without it, and kept."""
    world = nine()
    world.tell("e", "update", failing)

    def die(task: Task) -> None:
        raise Power

    world.tell("a", "agree", die)
    world.run()
    world.engine.acts.clear()
    events = world.run()
    assert ["".join(event.took_part) for event in rounds(events)] == ["abcghi", "abcdefghi"]
    assert world.total == world.count("abcdefghi", "abcghi", "abcdefghi")


def test_a_group_keeps_the_ranges_of_its_own_sums() -> None:
    """A group of sites with large numbers costs the others no precision."""
    world = nine(reals=MANY)
    kept: list[dict[str, Any]] = []

    def look(event: Event) -> None:
        if isinstance(event, RoundFinished):
            kept.append(json.loads(world.checkpoints.text or "")["summing"])

    events = world.run(on_event=look)
    # four times the sum of the sites' largest: 0.1 · 111 for the first group in the first round, a thousand times that for the second
    ranges = [[told[f"{number}.ranges"]["tally"]["w"] for number in range(3)] for told in kept]
    assert ranges[0] == pytest.approx([44.4, 44.4e3, 44.4e6], rel=1e-5)
    secrecy = [event.secrecy for event in rounds(events) if event.secrecy]
    assert [one.saturated for one in secrecy] == [0, 0, 0]
    assert all(0 < one.error < 1e-7 for one in secrecy[1:])
