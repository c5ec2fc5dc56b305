"""The open request between site and coordinator: hands in what is done, waits for what is to do, and is always there.

While only short tasks run, one request carries the answer to a round and waits for the next one. A task that takes longer does not keep the
line: a request goes out that says what is held, so that withdrawals and other studies' tasks come through, and the answer follows in a
request of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, final

from pydantic import ValidationError

from aimer2.core.errors import AimerError, BadInput, Conflict, NotAllowed, NotFound, TooLarge
from aimer2.core.task import Answer, Task
from aimer2.identity.documents import open_document
from aimer2.identity.keys import PublicKey
from aimer2.messages.wire import Exchange, Exchanged, StudyNotice, task_key
from aimer2.site.backoff import Backoff
from aimer2.site.performing import Ready

PATIENCE_SECONDS = 0.2
"""How long an answer may take to come along with the next request."""

_NOT_TAKEN = (BadInput, Conflict, NotAllowed, NotFound, TooLarge)
_LOG = logging.getLogger("aimer2.site")

Result = TypeVar("Result")


class Duties(Protocol):
    """What the agent does with what comes in."""

    async def perform(self, task: Task, attachments: Mapping[str, str]) -> Ready: ...
    def delivered(self, ready: Sequence[Ready]) -> None: ...
    def noticed(self, studies: Sequence[StudyNotice], frozen: str) -> None: ...
    async def again(self, ready: Ready) -> Ready:
        """Makes a reply ready once more that the coordinator did not take."""
        ...

    def status(self) -> Mapping[str, Any]: ...


@final
@dataclass(frozen=True, slots=True)
class Means:
    """How requests are made: ``blocking`` runs a call in a thread."""

    exchange: Callable[[Exchange], Exchanged]
    blocking: Callable[..., Awaitable[Any]]
    coordinator: PublicKey
    site: str
    wait_seconds: float
    backoff: Callable[[], Backoff]


@final
class Exchanging:
    """Tasks in, replies out. One asyncio loop; nothing here blocks it."""

    def __init__(self, means: Means, duties: Duties) -> None:
        self._means = means
        self._duties = duties
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._outbox: dict[str, Ready] = {}
        self._flying: dict[str, Ready] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self._revision = 0
        self._told = False
        self._waiting = False
        self.connected = False
        self.problem = ""

    async def run(self) -> None:
        """For as long as the agent lives: reconnects with growing pauses, forever."""
        backoff = self._means.backoff()
        while True:
            await self._settle()
            self._waiting = True
            try:
                exchanged = await self._send(self._means.wait_seconds)
            except AimerError as error:
                await self._pause(error, backoff.failed())
                continue
            finally:
                self._waiting = False
            backoff.succeeded()
            self._take(exchanged)

    async def _settle(self) -> None:
        """Lets a short task finish, so that its answer goes along."""
        if self._running and not self._outbox:
            self._ready.clear()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._ready.wait()
            except TimeoutError:
                return

    async def _pause(self, error: AimerError, seconds: float) -> None:
        self._told = False
        self.connected = False
        if error.sentence != self.problem:
            _LOG.warning("%s: %s %s", error.code, error.sentence, error.advice)
        self.problem = error.sentence
        await asyncio.sleep(seconds)

    async def _send(self, wait_seconds: float) -> Exchanged:
        """One request with all that is ready; what was not taken is there for the next one."""
        going, self._outbox = self._outbox, {}
        self._flying |= going
        status = {} if self._told else self._duties.status()
        try:
            exchanged: Exchanged = await self._means.blocking(self._means.exchange, self._form(going, status, wait_seconds))
        except _NOT_TAKEN:
            if not going:
                raise
            for key, ready in self._still(going).items():
                self._running[key] = (ready.study, self._spawn(self._mend(ready)))
            return Exchanged(revision=self._revision, time=0)
        except AimerError:
            self._outbox = self._still(going) | self._outbox
            raise
        finally:
            for key in self._still(going):
                del self._flying[key]
        if not self.connected:
            _LOG.info("connected to the coordinator")
        self._told, self.connected, self.problem = True, True, ""
        if going:
            self._duties.delivered(list(going.values()))
        return exchanged

    def _still(self, going: Mapping[str, Ready]) -> dict[str, Ready]:
        """Without what was called off while it was on its way."""
        return {key: ready for key, ready in going.items() if self._flying.get(key) is ready}

    def _form(self, going: Mapping[str, Ready], status: Mapping[str, Any], wait_seconds: float) -> Exchange:
        return Exchange(
            replies=tuple(ready.reply for ready in going.values()),
            attachments={sha256: text for ready in going.values() for sha256, text in ready.attachments.items()},
            holding=tuple(key for key in (*self._running, *self._flying) if key not in going),
            revision=self._revision,
            wait_seconds=wait_seconds,
            status=status,
        )

    async def _mend(self, ready: Ready) -> None:
        """The coordinator did not take it, most often because an upload is gone there: uploads again, a little later each time."""
        try:
            await asyncio.sleep(self._means.backoff().failed())
            self._offer(await self._duties.again(ready))
        except AimerError as error:
            _LOG.error("a reply could not be delivered: %s", error.code)
        finally:
            self._ended(ready.key)

    def _take(self, exchanged: Exchanged) -> None:
        for key in exchanged.withdrawn:
            self._drop(key)
        for token in exchanged.tasks:
            self._accept(token, exchanged.attachments)
        if exchanged.studies or exchanged.revision != self._revision:
            self._revision = exchanged.revision
            self._duties.noticed(exchanged.studies, exchanged.frozen)

    def _accept(self, token: str, attachments: Mapping[str, str]) -> None:
        """A task is genuine by the coordinator's signature, whoever carried it; any other is not even answered."""
        try:
            task = Task.model_validate_json(open_document(token, self._means.coordinator, kind="task"))
        except (AimerError, ValidationError):
            _LOG.error("a task was not signed by the coordinator that this site enrolled at, or has another form; it is ignored")
            return
        key = task_key(task.id, task.attempt)
        if task.site != self._means.site or key in self._running or key in self._outbox or key in self._flying:
            return
        wanted = {ref.sha256: attachments[ref.sha256] for ref in task.blobs if ref.sha256 in attachments}
        self._running[key] = (task.study, self._spawn(self._perform(key, task, wanted)))

    async def _perform(self, key: str, task: Task, attachments: Mapping[str, str]) -> None:
        try:
            ready = await self._duties.perform(task, attachments)
        finally:
            self._ended(key)
        self._offer(ready)

    def _ended(self, key: str) -> None:
        """Of the task that says so: once it was called off, another one may run under the same key."""
        if key in self._running and self._running[key][1] is asyncio.current_task():
            del self._running[key]

    def _offer(self, ready: Ready) -> None:
        self._outbox[ready.key] = ready
        self._ready.set()
        if self._waiting:
            self._spawn(self._hurry())

    async def _hurry(self) -> None:
        """The line waits already: the reply goes in a request of its own."""
        backoff = self._means.backoff()
        while self._outbox and self._waiting:
            try:
                self._take(await self._send(0))
            except AimerError:
                await asyncio.sleep(backoff.failed())

    def resume(self, ready: Ready) -> None:
        """An answer from before a restart."""
        self._outbox[ready.key] = ready

    def cancel(self, study: str) -> None:
        """Nothing of this study leaves any more, nor goes on."""
        for key, (owner, running) in list(self._running.items()):
            if owner == study:
                running.cancel()
                self._running.pop(key, None)
        for replies in (self._outbox, self._flying):
            for key in [key for key, ready in replies.items() if ready.study == study and isinstance(ready.reply, Answer)]:
                del replies[key]

    def cancel_all(self) -> dict[str, str]:
        """Nothing leaves any more, nor goes on: the keys of what was under way, with the study of each."""
        called_off = {key: study for key, (study, _) in self._running.items()}
        called_off |= {key: ready.study for key, ready in self._outbox.items() if isinstance(ready.reply, Answer)}
        for study in {*called_off.values(), *(ready.study for ready in self._flying.values())}:
            self.cancel(study)
        return called_off

    def say(self, replies: Sequence[Ready]) -> None:
        """Sends these at once, and with them what this site says of itself."""
        self._told = False
        for ready in replies:
            self._outbox[ready.key] = ready
        if self._waiting:
            self._spawn(self._tell())

    async def _tell(self) -> None:
        try:
            self._take(await self._send(0))
        except AimerError:
            # The line itself sends it as soon as it is there again.
            return

    def _drop(self, key: str) -> None:
        """Nobody waits for it."""
        self._outbox.pop(key, None)
        if key in self._running:
            self._running.pop(key)[1].cancel()

    def _spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Never the text of what was raised.
            _LOG.error("a task of the agent ended by %s", type(error).__name__)

    async def close(self) -> None:
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
