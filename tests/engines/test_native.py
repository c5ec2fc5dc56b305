"""The engine over a queue: puts what it is given, hands on what comes, withdraws what nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from aimer2.core.task import Answer, Reply, Task
from aimer2.engines.native import Native


class Queue:
    """A queue that survives: replies that are there already come first."""

    def __init__(self) -> None:
        self.tasks: dict[tuple[str, int], Task] = {}
        self.stored: dict[tuple[str, int], Reply] = {}
        self.withdrawn: list[Task] = []

    async def sites(self) -> Sequence[str]:
        return ["b", "a"]

    async def put(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self.tasks.setdefault((task.id, task.attempt), task)

    async def replies(self, tasks: Sequence[Task]) -> AsyncIterator[Reply]:
        for task in tasks:
            if (reply := self.stored.get((task.id, task.attempt))) is not None:
                yield reply

    async def withdraw(self, tasks: Sequence[Task]) -> None:
        self.withdrawn += tasks


def test_tasks_are_put_before_replies_are_waited_for() -> None:
    queue = Queue()
    tasks = {site: Task(id=f"t-{site}", study="s", site=site, stage="train", round_number=1, attempt=2) for site in "ab"}
    answer = Answer(task="t-b", attempt=2, site="b")
    queue.stored["t-b", 2] = answer

    async def ask() -> list[Reply]:
        engine = Native(queue)
        assert list(await engine.sites()) == ["b", "a"]
        replies = [reply async for reply in engine.ask(tasks)]
        replies += [reply async for reply in engine.ask(tasks)]
        await engine.withdraw([tasks["a"]])
        return replies

    assert asyncio.run(ask()) == [answer, answer]
    assert list(queue.tasks.values()) == list(tasks.values())
    assert queue.withdrawn == [tasks["a"]]
