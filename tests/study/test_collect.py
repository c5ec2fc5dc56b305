"""One round's replies under every order, delay and lie."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from aimer2.blobs.memory import MemoryStore
from aimer2.core.clock import SystemClock
from aimer2.core.task import Answer, BlobRef, Failure, Refusal, Reply, SiteId, Task
from aimer2.study.checkpoint import store
from aimer2.study.collect import Collected, collect, drop_odd_ones, possible
from aimer2.study.events import Event, RoundStalled
from aimer2.study.quorum import Patience

SITES = ("a", "b", "c", "d")


class Script:
    """Replies with their delays in seconds; then silence."""

    def __init__(self, *replies: tuple[float, Reply], ends: bool = False) -> None:
        self._replies = replies
        self._ends = ends
        self.closed = False

    async def sites(self) -> Sequence[SiteId]:
        return SITES

    async def ask(self, tasks: Mapping[SiteId, Task]) -> AsyncIterator[Reply]:
        try:
            for delay, reply in self._replies:
                await asyncio.sleep(delay)
                yield reply
            if not self._ends:
                await asyncio.Event().wait()
        finally:
            self.closed = True

    async def withdraw(self, tasks: Sequence[Task]) -> None: ...


@pytest.fixture
def blobs() -> MemoryStore:
    return MemoryStore()


def answer(site: str, blobs: MemoryStore, **sums: Any) -> Answer:
    refs = {name: store(leaves, blobs) for name, leaves in (sums or {"s": {"x": np.ones(2)}}).items()}
    return Answer(task=f"t-{site}", attempt=1, site=site, sums=refs)


def refusal(site: str) -> Refusal:
    return Refusal(task=f"t-{site}", attempt=1, site=site, code="not-approved", reason="No.")


def failure(site: str) -> Failure:
    return Failure(task=f"t-{site}", attempt=1, site=site, code="bad-data", reason="No column.")


def listen(script: Script, blobs: MemoryStore, *, needed: int, deadline: float = 60.0, sites: Sequence[str] = SITES) -> tuple[Collected, list[Event]]:
    async def run() -> tuple[Collected, list[Event]]:
        collected = Collected(tuple(sites))
        tasks = {site: Task(id=f"t-{site}", study="s", site=site, stage="train", round_number=4) for site in sites}
        events = [event async for event in collect(script, tasks, collected, Patience(needed, deadline), blobs, SystemClock())]
        assert script.closed, "the engine still waits for replies that nobody wants"
        return collected, events

    return asyncio.run(asyncio.wait_for(run(), 10))


def test_it_ends_with_the_last_reply_whatever_the_order(blobs: MemoryStore) -> None:
    script = Script((0, answer("c", blobs)), (0, refusal("a")), (0, answer("b", blobs)), (0, failure("d")))
    collected, events = listen(script, blobs, needed=2)
    assert set(collected.answers) == set(collected.updates) == {"b", "c"}
    assert [(a.site, a.outcome, a.code, a.reason) for a in collected.absences()] == [
        ("a", "refused", "not-approved", "No."),
        ("d", "failed", "bad-data", "No column."),
    ]
    assert [(event.kind, event.site, event.round_number) for event in events] == [("reply-received", site, 4) for site in "cabd"]  # type: ignore[union-attr]
    assert collected.silent == ()


def test_updates_are_in_the_order_of_the_sites(blobs: MemoryStore) -> None:
    script = Script(*((0, answer(site, blobs, s={"x": np.full(1, float(ord(site)))})) for site in "dbca"))
    collected, _ = listen(script, blobs, needed=4)
    assert [float(np.asarray(update.sums["s"]["x"])[0]) for update in collected.in_order] == [97, 98, 99, 100]


def test_the_late_are_left_behind_when_enough_have_answered(blobs: MemoryStore) -> None:
    began = time.monotonic()
    collected, events = listen(Script((0, answer("a", blobs)), (0, answer("c", blobs))), blobs, needed=2, deadline=0.15)
    assert 0.14 < time.monotonic() - began < 3
    assert collected.silent == ("b", "d")
    assert [(a.site, a.outcome) for a in collected.absences()] == [("b", "late"), ("d", "late")]
    assert not [event for event in events if isinstance(event, RoundStalled)]


def test_before_the_deadline_a_quorum_is_not_enough(blobs: MemoryStore) -> None:
    script = Script(*((0, answer(site, blobs)) for site in "abc"), (0.1, answer("d", blobs)))
    assert set(listen(script, blobs, needed=1, deadline=30)[0].answers) == set(SITES)


def test_too_few_at_the_deadline_is_said_once_and_what_comes_later_counts(blobs: MemoryStore) -> None:
    script = Script((0, answer("a", blobs)), (0.15, refusal("b")), (0.1, answer("d", blobs)), (0.2, answer("c", blobs)))
    collected, events = listen(script, blobs, needed=2, deadline=0.05)
    (stalled,) = [event for event in events if isinstance(event, RoundStalled)]
    assert (stalled.answered, stalled.waiting_for, stalled.needed) == (("a",), ("b", "c", "d"), 2)
    assert (stalled.stage, stalled.round_number) == ("train", 4)
    assert set(collected.answers) == {"a", "d"}, "with the second answer the round goes on"
    assert collected.silent == ("c",)


def test_a_deadline_that_passes_while_somebody_listens_is_noticed(blobs: MemoryStore) -> None:
    async def run() -> list[Event]:
        script, events = Script((0, answer("a", blobs)), (0.1, answer("b", blobs))), []
        tasks = {site: Task(id=f"t-{site}", study="s", site=site, stage="train", round_number=4) for site in "ab"}
        async for event in collect(script, tasks, Collected(("a", "b")), Patience(2, 0.02), blobs, SystemClock()):
            events.append(event)
            if len(events) == 1:
                await asyncio.sleep(0.04)  # the listener writes the event to a slow disk
        return events

    assert [event.kind for event in asyncio.run(asyncio.wait_for(run(), 10))] == ["reply-received", "round-stalled", "reply-received"]


def test_an_answer_that_is_there_at_the_deadline_counts(blobs: MemoryStore) -> None:
    async def run() -> Collected:
        script, collected = Script((0, answer("a", blobs)), (0, answer("b", blobs))), Collected(("a", "b"))
        tasks = {site: Task(id=f"t-{site}", study="s", site=site, stage="train", round_number=4) for site in "ab"}
        async for _ in collect(script, tasks, collected, Patience(1, 0.02), blobs, SystemClock()):
            await asyncio.sleep(0.05)
        return collected

    assert set(asyncio.run(asyncio.wait_for(run(), 10)).answers) == {"a", "b"}


def test_a_round_that_cannot_succeed_any_more_ends_at_once(blobs: MemoryStore) -> None:
    began = time.monotonic()
    collected, events = listen(Script((0, refusal("a")), (0, failure("b"))), blobs, needed=3)
    assert time.monotonic() - began < 3
    assert not possible(collected, Patience(3, 60))
    assert [(a.site, a.outcome) for a in collected.absences()] == [("a", "refused"), ("b", "failed"), ("c", "late"), ("d", "late")]
    assert len(events) == 2


def test_an_engine_without_more_replies_ends_the_round(blobs: MemoryStore) -> None:
    collected, _ = listen(Script((0, answer("a", blobs)), ends=True), blobs, needed=1)
    assert collected.silent == ("b", "c", "d")


def test_an_answer_whose_blob_is_not_there_or_no_tree_counts_as_failed(blobs: MemoryStore) -> None:
    writer = blobs.create()
    writer.write(b"\xff" * 100)
    rubbish = Answer(task="t-b", attempt=1, site="b", sums={"s": writer.commit()})
    missing = Answer(task="t-c", attempt=1, site="c", sums={"s": BlobRef(sha256="0" * 64, size=10)})
    collected, events = listen(Script((0, rubbish), (0, missing), (0, answer("a", blobs)), (0, answer("d", blobs))), blobs, needed=2)
    assert set(collected.updates) == set(collected.answers) == {"a", "d"}
    assert [(a.site, a.outcome, a.code) for a in collected.absences()] == [("b", "failed", "bad-update"), ("c", "failed", "not-found")]
    assert [event.outcome for event in events] == ["failure", "failure", "answer", "answer"]  # type: ignore[union-attr]


def test_all_blobs_that_came_are_known(blobs: MemoryStore) -> None:
    answers = [answer("a", blobs), answer("b", blobs, s={"x": np.ones(3)}), answer("c", blobs), answer("d", blobs, s={"x": np.zeros(2)})]
    collected, _ = listen(Script(*((0, one) for one in answers)), blobs, needed=2)
    assert collected.blobs == {ref for one in answers for ref in one.sums.values()}


ODD = {
    "shape": {"s": {"x": np.ones(3)}},
    "name of a sum": {"t": {"x": np.ones(2)}},
    "name of a leaf": {"s": {"y": np.ones(2)}},
    "type": {"s": {"x": np.ones(2, np.float32)}},
    "one more": {"s": {"x": np.ones(2)}, "t": {"x": np.ones(2)}},
    "one less": {"s": {}},
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("site", ["a", "d"])
def test_an_update_of_another_form_is_dropped_and_named(blobs: MemoryStore, odd: str, site: str) -> None:
    answers = {other: answer(other, blobs) for other in SITES} | {site: answer(site, blobs, **ODD[odd])}
    collected, _ = listen(Script(*((0, one) for one in answers.values())), blobs, needed=2)
    assert set(collected.updates) == set(collected.answers) == set(SITES) - {site}
    (absence,) = collected.absences()
    assert (absence.site, absence.outcome, absence.code) == (site, "failed", "bad-update")


def test_alike_updates_all_stay(blobs: MemoryStore) -> None:
    collected, _ = listen(Script(*((0, answer(site, blobs)) for site in SITES)), blobs, needed=2)
    drop_odd_ones(collected)
    assert len(collected.updates) == 4
