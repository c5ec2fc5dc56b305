"""AIMER2's own coordinator and agents as an engine: tasks are queued, sites fetch them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import final

from aimer2.core.protocols import TaskQueue
from aimer2.core.task import Reply, SiteId, Task


@final
class Native:
    """Carries tasks by a queue that survives the process, so asking again after a restart finds the replies that came meanwhile."""

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue

    async def sites(self) -> Sequence[SiteId]:
        return await self._queue.sites()

    async def ask(self, tasks: Mapping[SiteId, Task]) -> AsyncIterator[Reply]:
        given = list(tasks.values())
        await self._queue.put(given)
        async for reply in self._queue.replies(given):
            yield reply

    async def withdraw(self, tasks: Sequence[Task]) -> None:
        await self._queue.withdraw(tasks)
