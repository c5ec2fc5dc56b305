"""The open request to the coordinator, where the line breaks, or an answer is not taken, while a person calls a study off."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from aimer2.core.errors import AimerError, NotFound, Unreachable
from aimer2.core.task import Answer, Task
from aimer2.identity.documents import sign_document
from aimer2.identity.keys import SigningKey
from aimer2.messages.wire import Exchange, Exchanged, StudyNotice
from aimer2.site.backoff import Backoff
from aimer2.site.exchanging import Exchanging, Means
from aimer2.site.performing import Ready

WITHDRAWN, OTHER = "a" * 64, "b" * 64


def answer(study: str) -> Ready:
    return Ready(study, Answer(task=f"task-{study[0]}", attempt=1, site="north", sums={}), {})


class Line:
    """Requests wait here until the test says what becomes of them."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[tuple[Exchange, asyncio.Future[Exchanged]]] = asyncio.Queue()

    async def ask(self, exchange: Callable[[Exchange], Exchanged], form: Exchange) -> Exchanged:
        outcome: asyncio.Future[Exchanged] = asyncio.get_running_loop().create_future()
        self.requests.put_nowait((form, outcome))
        return await outcome

    async def next(self) -> tuple[list[str], asyncio.Future[Exchanged]]:
        """The tasks whose answers are in the next request."""
        form, outcome = await self.requests.get()
        return [reply.task for reply in form.replies], outcome


class Duties:
    """Of an agent without tasks."""

    async def perform(self, task: Task, attachments: Mapping[str, str]) -> Ready:
        raise AssertionError

    async def again(self, ready: Ready) -> Ready:
        return ready

    def delivered(self, ready: Sequence[Ready]) -> None: ...
    def noticed(self, studies: Sequence[StudyNotice], frozen: str) -> None: ...
    def status(self) -> Mapping[str, Any]:
        return {}


def exchange(form: Exchange) -> Exchanged:
    raise AssertionError


async def sent_after(fault: AimerError, call_off: Callable[[Exchanging], object], *, then: bool) -> list[str]:
    """The answers of both studies are on their way when the study is called off, or just after, as ``then`` says; and the line reports a fault. Which
    of them leave afterwards."""
    line = Line()
    key = SigningKey.generate().public
    exchanging = Exchanging(Means(exchange, line.ask, key, "north", 30, lambda: Backoff(random.Random(0))), Duties())
    for study in (WITHDRAWN, OTHER):
        exchanging.resume(answer(study))
    running = asyncio.get_running_loop().create_task(exchanging.run())
    going, outcome = await line.next()
    assert len(going) == 2
    if not then:
        call_off(exchanging)
    outcome.set_exception(fault)
    if then:
        for _ in range(5):
            await asyncio.sleep(0)
        call_off(exchanging)
    later: list[str] = []
    try:
        async with asyncio.timeout(0.7):
            while True:
                going, outcome = await line.next()
                later += going
                if going:
                    outcome.set_result(Exchanged(revision=0, time=0))
    except TimeoutError:
        return later
    finally:
        running.cancel()
        await exchanging.close()


@pytest.mark.parametrize("then", [False, True])
@pytest.mark.parametrize("fault", [Unreachable("The line broke."), NotFound("An upload is gone.")])
@pytest.mark.parametrize(("freeze", "left"), [(False, ["task-b"]), (True, [])])
def test_what_was_on_its_way_when_it_was_called_off_does_not_leave_afterwards(fault: AimerError, freeze: bool, left: list[str], then: bool) -> None:
    def call_off(exchanging: Exchanging) -> None:
        if freeze:
            exchanging.cancel_all()
        else:
            exchanging.cancel(WITHDRAWN)

    assert asyncio.run(sent_after(fault, call_off, then=then)) == left


def task_token(key: SigningKey) -> str:
    task = Task.model_validate({"id": "task", "attempt": 1, "study": OTHER, "site": "north", "stage": "train", "round_number": 1})
    return sign_document(task.model_dump_json().encode(), key, kind="task")


async def held_after_a_slow_end() -> list[tuple[str, ...]]:
    """A task is called off and ends slowly; meanwhile the same one comes once more. What the site says that it holds, after the first one's end."""
    line, key, at_work, may_end = Line(), SigningKey.generate(), asyncio.Event(), asyncio.Event()

    class Slow(Duties):
        async def perform(self, task: Task, attachments: Mapping[str, str]) -> Ready:
            at_work.set()
            try:
                await asyncio.Event().wait()
            finally:
                await may_end.wait()
            raise AssertionError

    exchanging = Exchanging(Means(exchange, line.ask, key.public, "north", 30, lambda: Backoff(random.Random(0))), Slow())
    running = asyncio.get_running_loop().create_task(exchanging.run())
    held = []
    try:
        for calls_off in (True, False):
            _, outcome = await line.next()
            at_work.clear()
            outcome.set_result(Exchanged(revision=0, time=0, tasks=(task_token(key),)))
            await at_work.wait()
            if calls_off:
                exchanging.cancel(OTHER)
        may_end.set()
        for _ in range(2):
            form, outcome = await line.requests.get()
            held.append(form.holding)
            outcome.set_result(Exchanged(revision=0, time=0))
        return held
    finally:
        running.cancel()
        await exchanging.close()


def test_a_task_that_was_called_off_does_not_take_its_successor_with_it_when_it_ends() -> None:
    assert asyncio.run(asyncio.wait_for(held_after_a_slow_end(), 10)) == [("task/1",)] * 2
