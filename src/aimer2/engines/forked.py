"""The simulator on all cores: children of this process do the sites' tasks, and what passes between them is bytes.

A child is a copy of this process (``fork``): it has the sites' data, models and memories without a byte being copied or pickled, so it starts in
the time of some page tables. From then on a site's tasks go to one child, which keeps the site's memory. Tasks and answers travel as the
documents and blobs that a hospital would send, over one socket pair per child; the children end when that is closed. Answers are handed on in
the order of the sites and the loop adds them as ever, so no bit depends on the number of workers.

A program's fault in a child is raised here, with the child's traceback.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import time
import traceback
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, final

from pydantic import TypeAdapter

from aimer2.core.protocols import BlobStore
from aimer2.core.task import Answer, BlobRef, Reply, SiteId, Task
from aimer2.engines.in_process import InProcess

WORTH_SECONDS = 0.1
"""A round that takes longer is worth the children's start."""

CHUNK = 1 << 20
"""Bytes of answers that a child collects before it sends them, so that small answers do not cost a wake-up each."""

CHUNK_SECONDS = 0.01

_REPLY: TypeAdapter[Reply] = TypeAdapter(Reply)


@final
class Forked:
    """``whole`` does the tasks itself until a round has taken so long that children are worth their start, or from the beginning with ``at_once``;
    then ``workers`` children do. ``order``: of the sites, in which their answers are handed on."""

    def __init__(self, whole: InProcess, blobs: BlobStore, *, workers: int, at_once: bool, order: Sequence[SiteId]) -> None:
        self._whole = whole
        self._blobs = blobs
        self._workers = workers
        self._due = at_once
        self._order = list(order)
        self._children: list[_Child] = []
        self._owner: dict[SiteId, _Child] = {}

    async def sites(self) -> Sequence[SiteId]:
        return await self._whole.sites()

    async def ask(self, tasks: Mapping[SiteId, Task]) -> AsyncIterator[Reply]:
        if self._due and not self._children:
            self._divide()
        if self._children:
            async for reply in self._ask_children(tasks):
                yield reply
            return
        began = time.monotonic()
        try:
            async for reply in self._whole.ask(tasks):
                yield reply
        finally:
            self._due = len(tasks) > 1 and time.monotonic() - began > WORTH_SECONDS

    async def withdraw(self, tasks: Sequence[Task]) -> None:
        """Nothing is under way here that could be called back."""

    async def close(self) -> None:
        """Ends the children."""
        for child in self._children:
            await child.close()
        self._children.clear()

    def _divide(self) -> None:
        for _ in range(self._workers):
            self._children.append(_Child.born(self._whole, self._blobs, self._children))
        self._owner = {site: self._children[number % self._workers] for number, site in enumerate(sorted(self._order))}

    async def _ask_children(self, tasks: Mapping[SiteId, Task]) -> AsyncIterator[Reply]:
        asked = [site for site in self._order if site in tasks]
        coming: dict[SiteId, asyncio.Future[_Sent]] = {site: asyncio.get_running_loop().create_future() for site in asked}
        for child in self._children:
            mine = [tasks[site] for site in asked if self._owner[site] is child]
            if mine:
                await child.ask(mine, self._blobs, coming)
        try:
            for site in asked:
                sent = await coming[site]
                for data in sent.blobs:
                    _store(data, self._blobs)
                yield sent.reply
        finally:
            for reply in coming.values():
                # nobody waits for them any more, and nobody is to be told of that
                if not reply.cancel() and not reply.cancelled():
                    reply.exception()


@final
class _Sent:
    """A reply with the blobs that came with it."""

    __slots__ = ("blobs", "reply")

    def __init__(self, reply: Reply, blobs: Sequence[bytes]) -> None:
        self.reply = reply
        self.blobs = blobs


@final
class _Child:
    """A worker as the parent sees it: one frame goes out with the tasks of a round, frames with the answers come back."""

    def __init__(self, pid: int, line: socket.socket) -> None:
        self._pid = pid
        self._line = line
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._has: set[BlobRef] = set()

    @classmethod
    def born(cls, whole: InProcess, blobs: BlobStore, siblings: Iterable[_Child]) -> _Child:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                # Ctrl-C is the parent's: it closes the line
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                ours.close()
                for sibling in siblings:
                    sibling._line.close()
                # not to be looked through, and so copied, page by page
                gc.freeze()
                _serve(theirs, whole, blobs)
            finally:
                # at once: what this process was a copy of must not be ended twice
                os._exit(0)
        theirs.close()
        return cls(pid, ours)

    async def ask(self, tasks: Sequence[Task], blobs: BlobStore, coming: Mapping[SiteId, asyncio.Future[_Sent]]) -> None:
        """Sends the tasks with the blobs that the child lacks; the answers resolve ``coming`` as they arrive."""
        if self._stream is None:
            self._stream = await asyncio.open_unix_connection(sock=self._line, limit=1 << 20)
        if self._reading is not None:
            # a round that was given up: its answers are still on their way
            await asyncio.gather(self._reading, return_exceptions=True)
        wanted = {ref for task in tasks for ref in (*task.blobs, *task.bases)}
        new = [ref for ref in wanted - self._has if ref in blobs]
        self._has = wanted
        writer = self._stream[1]
        views = [blobs.open(ref).view() for ref in new]
        writer.writelines(_framed({"tasks": [task.model_dump_json() for task in tasks]}, views))
        self._reading = asyncio.ensure_future(self._read([task.site for task in tasks], coming))
        await writer.drain()

    async def _read(self, sites: Sequence[SiteId], coming: Mapping[SiteId, asyncio.Future[_Sent]]) -> None:
        assert self._stream is not None
        reader, left = self._stream[0], set(sites)
        try:
            while left:
                header = json.loads(await reader.readexactly(int.from_bytes(await reader.readexactly(8), "little")))
                if "raised" in header:
                    raise RuntimeError(f"A worker of the simulator failed.\n{header['raised']}")
                for text, sizes in header["replies"]:
                    reply = _REPLY.validate_json(text)
                    sent = _Sent(reply, [await reader.readexactly(size) for size in sizes])
                    left.discard(reply.site)
                    if not coming[reply.site].done():
                        coming[reply.site].set_result(sent)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._fail(left, coming, RuntimeError("A worker of the simulator has ended: most likely the machine's memory was used up."))
        except Exception as error:  # noqa: BLE001 - whoever waits for these answers must hear of it, whatever it is
            self._fail(left, coming, error)

    def _fail(self, sites: Iterable[SiteId], coming: Mapping[SiteId, asyncio.Future[_Sent]], error: Exception) -> None:
        for site in sites:
            if not coming[site].done():
                coming[site].set_exception(error)

    async def close(self) -> None:
        """Closes the line, at which the child ends once its task is done; one that is in the middle of a round is ended."""
        if self._reading is not None and not self._reading.done():
            os.kill(self._pid, signal.SIGKILL)
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._stream is not None:
            self._stream[1].close()
        self._line.close()
        await asyncio.to_thread(os.waitpid, self._pid, 0)


def _serve(line: socket.socket, whole: InProcess, blobs: BlobStore) -> None:
    """The child's life: a round's tasks in, their answers out, until the line is closed."""
    with line, line.makefile("rb") as incoming:
        outgoing, kept = _Outgoing(line, blobs), set[BlobRef]()
        while head := incoming.read(8):
            document = json.loads(incoming.read(int.from_bytes(head, "little")))
            for size in document["sizes"]:
                _store(incoming.read(size), blobs)
            tasks = [Task.model_validate_json(text) for text in document["tasks"]]
            wanted = {ref for task in tasks for ref in (*task.blobs, *task.bases)}
            blobs.delete(*(kept - wanted))
            kept = wanted
            try:
                for reply in whole.performed(tasks):
                    outgoing.add(reply, wanted)
            except Exception:  # noqa: BLE001 - a process's edge: whatever it is, the parent must hear of it
                outgoing.fail(traceback.format_exc())
                return
            outgoing.flush()


@final
class _Outgoing:
    """The child's answers, some at a time."""

    def __init__(self, line: socket.socket, blobs: BlobStore) -> None:
        self._line = line
        self._blobs = blobs
        self._replies: list[tuple[str, list[int]]] = []
        self._views: list[memoryview] = []
        self._bytes = 0
        self._flushed = time.monotonic()

    def add(self, reply: Reply, kept: set[BlobRef]) -> None:
        refs = list(dict.fromkeys(reply.sums.values())) if isinstance(reply, Answer) else []
        made = [ref for ref in refs if ref in self._blobs]
        self._views += [self._blobs.open(ref).view() for ref in made]
        self._replies.append((reply.model_dump_json(), [ref.size for ref in made]))
        self._bytes += sum(ref.size for ref in made)
        # sent, they are the parent's; a model that came in and goes out unchanged stays
        self._blobs.delete(*(ref for ref in made if ref not in kept))
        if self._bytes > CHUNK or time.monotonic() - self._flushed > CHUNK_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._replies:
            self._send({"replies": self._replies}, self._views)
        self._replies, self._views, self._bytes, self._flushed = [], [], 0, time.monotonic()

    def fail(self, told: str) -> None:
        self.flush()
        self._send({"raised": told}, [])

    def _send(self, document: Mapping[str, Any], views: Sequence[memoryview]) -> None:
        for part in _framed(document, views):
            self._line.sendall(part)


def _framed(document: Mapping[str, Any], views: Sequence[memoryview]) -> list[bytes | memoryview]:
    """Length, a JSON document that also says how long each blob is, the blobs."""
    text = json.dumps({**document, "sizes": [len(view) for view in views]}).encode()
    return [len(text).to_bytes(8, "little") + text, *views]


def _store(data: bytes, blobs: BlobStore) -> None:
    writer = blobs.create()
    writer.write(data)
    writer.commit()
