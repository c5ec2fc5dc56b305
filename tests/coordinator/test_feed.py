"""The feed of a study's events: who follows it is sent every event once, in order, while he may; and many cost hardly more than one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import SimpleNamespace

import pytest
from one_loop import STUDY
from starlette.requests import Request

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import is_still_let_in
from aimer2.coordinator.http.feed import Feeds
from aimer2.coordinator.store import accounts, studies
from aimer2.coordinator.store.accounts import Account
from aimer2.study.events import StudyPaused


async def always() -> bool:
    return True


def tell(coordinator: Coordinator, count: int = 1, reason: str = "so that there is news", after: studies.StudyState = "running") -> None:
    """So many events, told as one who conducts the study tells them."""
    event = studies.EventRow(StudyPaused(time=4.0, reason=reason).model_dump_json())
    change = studies.Transition(STUDY, ("running",), after, ["a"])
    coordinator.database.write_now(studies.change_state, change, [event] * count)
    coordinator.studies.news(STUDY).set()


async def pages(stream: AsyncIterator[bytes], last: int) -> list[bytes]:
    """What is sent up to this event, without what says nothing."""
    found: list[bytes] = []
    async for page in stream:
        if not page.startswith(b":"):
            found.append(page)
            if numbers([page])[-1] >= last:
                return found
    return found


def numbers(found: list[bytes]) -> list[int]:
    return [int(line[4:]) for line in b"".join(found).splitlines() if line.startswith(b"id: ")]


def test_all_who_follow_are_handed_the_very_same_bytes(run: Callable[..., None]) -> None:
    async def test(coordinator: Coordinator) -> None:
        feeds = Feeds(coordinator, 5.0)
        streams = [feeds.follow(STUDY, 0, always) for _ in range(50)]
        for stream in streams:
            await anext(stream)
        following = [asyncio.create_task(pages(stream, 3)) for stream in streams]
        await asyncio.sleep(0)
        tell(coordinator, 3)
        first, *others = [await one for one in following]
        assert numbers(first) == [1, 2, 3]
        assert all(mine is theirs for other in others for mine, theirs in zip(first, other, strict=True)), "each was read and written for itself"

    run(test, "a")


def test_one_who_stops_reading_is_kept_nothing_for_and_misses_nothing(run: Callable[..., None]) -> None:
    async def test(coordinator: Coordinator) -> None:
        feeds = Feeds(coordinator, 5.0)
        slow, quick = feeds.follow(STUDY, 0, always), feeds.follow(STUDY, 0, always)
        await anext(slow)
        found: list[bytes] = []
        for number in range(1, 13):
            # Pages of a tenth of a megabyte.
            tell(coordinator, 50, "x" * 2000)
            found += await pages(quick, 50 * number)
        assert numbers(found) == list(range(1, 601))
        [feed] = feeds._feeds.values()
        assert sum(len(text) for _, text in feed._kept.values()) <= 1 << 18
        assert numbers(await pages(slow, 600)) == list(range(1, 601))
        # Now he keeps up again.
        tell(coordinator)
        [mine], [his] = await pages(slow, 601), await pages(quick, 601)
        assert mine is his

    run(test, "a")


def test_a_stream_ends_with_the_study_after_its_last_event_and_follows_again_what_was_resumed(run: Callable[..., None]) -> None:
    async def test(coordinator: Coordinator) -> None:
        feeds = Feeds(coordinator, 5.0)
        tell(coordinator, 2)
        stream = feeds.follow(STUDY, 1, always)
        assert numbers(await pages(stream, 2)) == [2]
        tell(coordinator, 1, after="paused")
        await coordinator.registry.load()
        coordinator.studies.news(STUDY).set()
        assert numbers([page async for page in stream]) == [3]
        # Whoever comes afterwards is told all that was, and no more.
        assert numbers([page async for page in feeds.follow(STUDY, 0, always)]) == [1, 2, 3]
        coordinator.database.write_now(studies.change_state, studies.Transition(STUDY, ("paused",), "running", ["a"]))
        await coordinator.registry.load()
        again = feeds.follow(STUDY, 3, always)
        await anext(again)
        tell(coordinator)
        assert numbers(await pages(again, 4)) == [4]

    run(test, "a")


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("how", ["log-out", "role", "part"])
def test_a_stream_of_events_ends_with_what_let_its_reader_in(run: Callable[..., None], how: str, busy: bool) -> None:
    async def test(coordinator: Coordinator) -> None:
        database = coordinator.database
        database.write_now(accounts.add_account, Account("ada", "researcher"), 3.0)
        database.write_now(accounts.give_part, STUDY, "ada", "auditor", {"given_by": "anna", "given": 3.0})
        await coordinator.registry.load()
        secret, session = await coordinator.sessions.open("ada", "login")
        scope = {"type": "http", "method": "GET", "headers": [(b"authorization", f"Bearer {secret}".encode())]}
        scope["route"] = SimpleNamespace(path="/v1/studies/{digest}/events")
        let_in = partial(is_still_let_in, coordinator, Request(scope), STUDY)
        assert await let_in()
        stream = Feeds(coordinator, 0.05).follow(STUDY, 0, let_in)
        assert await anext(stream)
        assert b"still here" in await anext(stream)
        if how == "log-out":
            await coordinator.sessions.end(session.id)
        elif how == "role":
            database.write_now(accounts.change_role, "ada", "site-administrator", "elsewhere")
        else:
            database.write_now(accounts.take_part, STUDY, "ada")
        await coordinator.registry.load()

        async def rest() -> None:
            number = 0
            if busy:
                tell(coordinator)
            async for _ in stream:
                number += 1
                assert number < 100_000
                if busy:
                    tell(coordinator)

        await asyncio.wait_for(rest(), 10)

    run(test, "a")
