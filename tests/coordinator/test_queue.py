"""The queue in one event loop: nobody is forgotten, nobody polls."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_loop import STUDY, offer, open_coordinator
from serving import ref_of, tensor
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.preflight import rehearse
from aimer2.coordinator.signal import Signal
from aimer2.coordinator.store import members, studies, tasks
from aimer2.core.task import Answer, Reply, Task
from aimer2.messages.wire import Exchange, Exchanged


def task(site: str, number: int = 1) -> Task:
    return Task(id=f"t-{number}-{site}", study=STUDY, site=site, stage="train", round_number=number)


def answer(task: Task) -> Answer:
    return Answer(task=task.id, attempt=task.attempt, site=task.site)


async def exchange(coordinator: Coordinator, site: str, **fields: Any) -> Exchanged:
    revision = coordinator.registry.sites[site].revision
    return Exchanged.model_validate_json(await coordinator.queue.exchange(site, Exchange(**({"revision": revision} | fields))))


def test_a_signal_between_the_look_and_the_wait_is_not_missed() -> None:
    async def test() -> None:
        signal = Signal()
        seen = signal.count
        signal.set()
        await asyncio.wait_for(signal.wait(seen), 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(signal.wait(signal.count), 0.01)
        began = time.monotonic()
        await signal.wait(signal.count, 0.05)
        assert 0.04 < time.monotonic() - began < 1

    asyncio.run(test())


def test_a_reply_that_comes_while_another_one_is_worked_on_is_not_lost(run: Callable[..., None]) -> None:
    async def test(coordinator: Coordinator) -> None:
        queue = coordinator.queue.view(STUDY)
        asked = [task("a"), task("b")]
        await queue.put(asked)
        replies: list[Reply] = []
        await exchange(coordinator, "b", replies=(answer(asked[1]),), wait_seconds=0)
        async for reply in queue.replies(asked):
            replies.append(reply)
            if reply.site == "b":
                await exchange(coordinator, "a", replies=(answer(asked[0]),), wait_seconds=0)
        assert [reply.site for reply in replies] == ["b", "a"]

    run(test, "a", "b")


def test_asking_again_gives_the_replies_that_are_there(run: Callable[..., None]) -> None:
    async def test(coordinator: Coordinator) -> None:
        queue = coordinator.queue.view(STUDY)
        await queue.put([task("a")])
        await exchange(coordinator, "a", replies=(answer(task("a")),), wait_seconds=0)
        for _ in range(2):
            await queue.put([task("a")])
            assert [reply async for reply in queue.replies([task("a")])] == [answer(task("a"))]
        assert coordinator.queue.open_count == 0

    run(test, "a")


def test_two_hundred_waiting_sites_cost_nothing_and_are_woken_at_once(run: Callable[..., None]) -> None:
    names = [f"s{number}" for number in range(200)]

    async def test(coordinator: Coordinator) -> None:
        waiting = [asyncio.create_task(exchange(coordinator, name, wait_seconds=60)) for name in names]
        await asyncio.sleep(0.2)
        cpu, began = time.process_time(), time.monotonic()
        await asyncio.sleep(0.5)
        assert time.process_time() - cpu < 0.1 * (time.monotonic() - began)
        await coordinator.queue.put([task(name) for name in names])
        put = time.monotonic()
        answers = await asyncio.gather(*waiting)
        assert time.monotonic() - put < 0.5
        assert all(len(found.tasks) == 1 for found in answers)

    run(test, *names)


def test_a_held_task_does_not_come_again_and_is_taken_back_when_withdrawn(run: Callable[..., None]) -> None:
    async def test(coordinator: Coordinator) -> None:
        queue = coordinator.queue.view(STUDY)
        await queue.put([task("a")])
        assert len((await exchange(coordinator, "a")).tasks) == 1
        held = asyncio.create_task(exchange(coordinator, "a", holding=("t-1-a/1",), wait_seconds=60))
        await asyncio.sleep(0.05)
        assert not held.done()
        await queue.withdraw([task("a")])
        assert (await held).withdrawn == ("t-1-a/1",)

    run(test, "a")


def test_what_another_process_puts_is_seen_and_its_reply_is_too(run: Callable[..., None], tmp_path: Path) -> None:
    async def test(coordinator: Coordinator) -> None:
        # A second process on the same database, as it is with PostgreSQL: it serves the sites, the first one conducts.
        second = tmp_path / "second"
        other = open_coordinator(second, database=f"sqlite:///{tmp_path / 'coordinator' / 'coordinator.sqlite'}")
        await other.start()
        keeping = [asyncio.create_task(each.keep()) for each in (coordinator, other)]
        waiting = asyncio.create_task(exchange(other, "a", wait_seconds=60))
        queue = coordinator.queue.of(STUDY)
        await queue.put([task("a")])
        assert len((await waiting).tasks) == 1
        await exchange(other, "a", replies=(answer(task("a")),), wait_seconds=0)
        assert [reply.site async for reply in queue.replies([task("a")])] == ["a"]
        for each in keeping:
            each.cancel()
        await other.close()

    run(test, "a")


def test_a_study_is_taken_over_from_a_process_that_has_died(tmp_path: Path) -> None:
    async def test() -> None:
        first = open_coordinator(tmp_path / "first")
        offer(first, ["a"])
        await first.start()
        second = open_coordinator(tmp_path / "second", database=f"sqlite:///{tmp_path / 'first' / 'coordinator.sqlite'}")
        await second.start()

        def holder() -> str:
            row = second.database.read_now(studies.read_study, STUDY)
            assert row is not None
            return str(row.holder)

        assert "/first/" in holder(), "its lease holds"
        await first.queue.put([task("a")])
        # The first one is silent from now on: nobody calls its `keep`.
        keeping = asyncio.create_task(second.keep())
        async with asyncio.timeout(10):
            while "/second/" not in holder():  # noqa: ASYNC110 - the lease is a row: nothing tells when it changes
                await asyncio.sleep(0.05)
        keeping.cancel()
        await first.studies.keep()
        assert "/second/" in holder(), "who has lost it does not take it back"
        assert [row.id for row in second.database.read_now(tasks.open_tasks)] == ["t-1-a"], "nor the tasks with it"
        await second.close()
        await first.close()

    asyncio.run(test())


def test_the_tasks_of_a_study_go_once_it_has_ended_and_not_before(run: Callable[..., None]) -> None:
    async def test(coordinator: Coordinator) -> None:
        await coordinator.queue.of(STUDY).put([task("a")])
        await exchange(coordinator, "a", replies=(answer(task("a")),), wait_seconds=0)
        await coordinator.studies.keep()
        assert coordinator.database.read_now(tasks.find_tasks, [("t-1-a", 1)])
        await coordinator.studies.stop(STUDY, "anna", final=True, reason="enough")
        await coordinator.studies.keep()
        assert not coordinator.database.read_now(tasks.find_tasks, [("t-1-a", 1)])
        await exchange(coordinator, "a", replies=(answer(task("a")),), wait_seconds=0)
        assert not coordinator.database.read_now(tasks.find_tasks, [("t-1-a", 1)])

    run(test, "a")


def test_a_rehearsal_says_who_is_silent(run: Callable[..., None]) -> None:
    async def test(coordinator: Coordinator) -> None:
        asked = asyncio.create_task(rehearse(coordinator.queue.view(STUDY), 0.2))
        (text,) = (await exchange(coordinator, "a")).tasks
        assert text
        found = (await asked).sites
        assert [(site.site, site.outcome) for site in found] == [("a", "silent"), ("b", "silent")]
        assert coordinator.queue.open_count == 0

    run(test, "a", "b")


def test_attachments_must_have_their_name(run: Callable[..., None]) -> None:
    async def test(coordinator: Coordinator) -> None:
        await coordinator.queue.put([task("a")])
        blob = tensor(w=np.zeros(2, np.float32))
        reply = answer(task("a")).model_copy(update={"sums": {"x": ref_of(blob)}})
        with pytest.raises(Exception, match="does not match its digest"):
            await exchange(coordinator, "a", replies=(reply,), attachments={ref_of(blob).sha256: "AAAA"})
        assert coordinator.queue.open_count == 1

    run(test, "a")


def test_what_another_process_revoked_is_acted_on_though_a_request_saw_it_first(run: Callable[..., None]) -> None:
    async def test(coordinator: Coordinator) -> None:
        await coordinator.queue.of(STUDY).put([task("a"), task("b")])
        coordinator.database.write_now(members.revoke_site, "a", 3.0)
        await coordinator.registry.load()
        keeping = asyncio.create_task(coordinator.keep())
        async with asyncio.timeout(10):
            while len(coordinator.database.read_now(tasks.open_tasks)) > 1:  # noqa: ASYNC110 - a row: nothing tells when it changes
                await asyncio.sleep(0.05)
        keeping.cancel()
        assert [row.id for row in coordinator.database.read_now(tasks.open_tasks)] == ["t-1-b"]

    run(test, "a", "b")


def test_the_tasks_of_a_study_that_another_process_ended_are_handed_out_no_more(run: Callable[..., None]) -> None:
    async def test(coordinator: Coordinator) -> None:
        await coordinator.queue.of(STUDY).put([task("a")])
        coordinator.database.write_now(studies.change_state, studies.Transition(STUDY, ("running",), "paused", ["a"]))
        await coordinator.registry.load()
        assert not (await exchange(coordinator, "a", wait_seconds=0)).tasks
        await coordinator.studies.keep()
        assert not coordinator.database.read_now(tasks.open_tasks)

    run(test, "a")


def test_a_study_whose_stop_is_not_stored_goes_on(run: Callable[..., None]) -> None:
    async def test(coordinator: Coordinator) -> None:
        await coordinator.queue.of(STUDY).put([task("a")])
        full = "CREATE TRIGGER full BEFORE UPDATE OF state ON studies BEGIN SELECT RAISE(ABORT, 'full'); END"
        coordinator.database.write_now(lambda connection: connection.execute(text(full)))
        with pytest.raises(SQLAlchemyError):
            await coordinator.studies.stop(STUDY, "anna", final=True, reason="enough")
        assert len((await exchange(coordinator, "a", wait_seconds=0)).tasks) == 1
        coordinator.database.write_now(lambda connection: connection.execute(text("DROP TRIGGER full")))

    run(test, "a")


def test_a_freeze_of_many_studies_has_room_in_the_log(run: Callable[..., None], tmp_path: Path) -> None:
    async def test(coordinator: Coordinator) -> None:
        package = coordinator.registry.study(STUDY).package.model_dump_json()

        def add(connection: Connection) -> None:
            for number in range(299):
                digest = f"{number:064x}"
                studies.add_study(connection, studies.NewStudy(digest, package, ["a"], "anna", 2.0))
                studies.change_state(connection, studies.Transition(digest, ("offered",), "running", ["a"]))

        coordinator.database.write_now(add)
        await coordinator.freezing.freeze("olga", "an alarm")
        entry = json.loads((tmp_path / "coordinator" / "audit.jsonl").read_text().splitlines()[-1])
        assert (entry["kind"], entry["details"]["studies"], len(entry["details"]["paused"])) == ("frozen", 300, 50)

    run(test, "a")
