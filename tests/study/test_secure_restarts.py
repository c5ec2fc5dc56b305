"""Sums in secret with coordinator and sites killed at any moment: the same bits at the end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from secure_world import MANY, PHASES, Power, World, bits, own_answer, repeated, rounds

from aimer2.core.task import BlobRef, Reply, Task
from aimer2.study.events import Event


def small() -> World:
    return World(3, rounds=2, reals=MANY)


@pytest.fixture(scope="module")
def undisturbed() -> tuple[list[Event], int, dict[str, bytes]]:
    """What the tests below must end with: the events, the number of saves, the bits."""
    world = small()
    events = world.run()
    return events, world.checkpoints.saves, bits(world)


def test_the_order_of_arrival_changes_no_bit(undisturbed: Any) -> None:
    for order in ("cba", "bca"):
        world = small()
        world.engine.inner._order = list(order)
        world.run()
        assert bits(world) == undisturbed[2]


@pytest.mark.parametrize("sites_too", [False, True], ids=["coordinator", "and all sites"])
def test_killed_after_any_event_the_study_ends_with_the_same_bits(undisturbed: Any, sites_too: bool) -> None:
    for count in range(1, len(undisturbed[0])):
        world = small()
        world.run(stop_after=count)
        if sites_too:
            world.engine.inner = world.inner()
        events = world.run()
        assert not repeated(events), count
        assert bits(world) == undisturbed[2], count


@pytest.mark.parametrize("kept", [False, True], ids=["before it is kept", "after it is kept"])
def test_killed_at_any_save_the_study_ends_with_the_same_bits(undisturbed: Any, kept: bool) -> None:
    """Between the phases there is no event to be killed after, but what was decided in them is saved."""
    assert undisturbed[1] > 2 * 2
    for count in range(1, undisturbed[1] + 1):
        world = small()
        world.checkpoints.fails = (count, kept)
        world.run()
        world.engine.inner = world.inner()
        events = world.run()
        assert not repeated(events), count
        assert bits(world) == undisturbed[2], count
        assert [event.round_number for event in rounds(asyncio.run(world.checkpoints.events()))] == [1, 2], count


@pytest.mark.parametrize("decided", [2, 3], ids=["the set-up", "the survivors"])
def test_what_an_earlier_version_has_begun_is_begun_anew_with_fresh_keys(undisturbed: Any, decided: int) -> None:
    world = small()
    world.checkpoints.fails = (decided, True)
    world.run()
    document = json.loads(world.checkpoints.text or "")
    kept = document["summing"]
    epoch = json.loads(bytes(world.blobs.open(BlobRef(**kept["0.epoch"])).view()))
    writer = world.blobs.create()
    writer.write(json.dumps(epoch | {"protocol": "AIMER2/SA1"}).encode())
    kept["0.epoch"] = writer.commit().model_dump()
    world.checkpoints.text = json.dumps(document)
    events = world.run()
    assert ["another version" in event.reason for event in repeated(events)] == [True]
    assert bits(world) == undisturbed[2]


@pytest.mark.parametrize("phase", PHASES)
def test_killed_between_what_a_site_says_and_what_the_coordinator_hears(undisturbed: Any, phase: str) -> None:
    """All sites have spoken, nobody has heard it: asked again they say the same."""
    world = small()

    def unheard(task: Task) -> None:
        own_answer(world, task)
        if task.site == "c":
            raise Power

    world.tell("abc", phase, unheard)
    world.run()
    assert world.loop.model is None
    world.engine.acts.clear()
    world.engine.inner = world.inner()
    events = world.run()
    assert not repeated(events)
    assert bits(world) == undisturbed[2]


@pytest.mark.parametrize("phase", ["shares", "update", "agree", "reveal"])
def test_a_site_that_loses_its_vault_sits_out_until_the_next_set_up(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimer2.study.secure_group.MOST_ROUNDS", 3)
    world = World(4, rounds=5)

    def lose(task: Task) -> Reply:
        world.vaults["a"].documents.clear()
        world.engine.inner = world.inner()
        return world.engine.inner.perform(task)

    world.tell("a", phase, lose)
    world.tell("bcd", phase, lambda task: own_answer(world, task))  # after it: three would be enough to open the sum
    events = world.run()
    assert not repeated(events)
    expected = {"shares": ["bcd"] * 3, "update": ["abcd", "bcd", "bcd"]}.get(phase, ["abcd", "abcd", "bcd"])
    assert ["".join(event.took_part) for event in rounds(events)] == [*expected, "abcd", "abcd"]
    assert world.total == world.count(*expected, "abcd", "abcd")
    if phase != "shares":
        assert world.sites["a"].done == [1, *([2] if phase != "update" else []), 4, 5], "it computes nothing that it could not mask"


def test_only_so_many_checkpoints_are_written_as_decisions_are_made(undisturbed: Any) -> None:
    """Two for the set-up, two for each round (its survivors, its sum), one at the end of the stage."""
    assert undisturbed[1] == 2 + 2 * 2 + 1
