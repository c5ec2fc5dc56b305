"""The agent: the hospital's process that talks to the coordinator, asks its people, and starts workers. It holds no patient records."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any, TypeAlias, final

from aimer2 import __version__
from aimer2.audit.entries import Event, Json
from aimer2.audit.heads import SignedHead
from aimer2.audit.kinds import Kind
from aimer2.core.errors import AimerError, BadInput, Frozen, NotAuthenticated, Unreachable
from aimer2.core.task import Answer, Failure, Refusal, Task
from aimer2.identity.keys import PublicKey
from aimer2.messages.wire import ATTACHED_BYTES, Decision, StudyNotice
from aimer2.site import models
from aimer2.site.approval import Policy
from aimer2.site.backoff import Backoff
from aimer2.site.connection import Connection
from aimer2.site.control import serve_control
from aimer2.site.decisions import Decisions
from aimer2.site.exchanging import Exchanging, Means
from aimer2.site.folder import agent_lock
from aimer2.site.freeze import coordinator_said, freeze, freeze_of, halted, thaw
from aimer2.site.offers import Offers
from aimer2.site.performing import Performing, Ready
from aimer2.site.reports import write_report
from aimer2.site.restored import require_whole
from aimer2.site.sandbox import Capabilities, capabilities
from aimer2.site.settings import Protection, Settings, read_toml
from aimer2.site.telling import Telling
from aimer2.site.threads import Threads
from aimer2.site.witness import exchange_heads, write_down
from aimer2.site.workers import Workers
from aimer2.study.refused import signed

_ACTOR = "agent"
_RECORD_SECONDS = 0.5
"""Each record waits for the disk, which the studies' secrets wait for too."""
_TIDY_SECONDS = 1.0
_HEADS_SECONDS = 3600.0
_TELL_SECONDS = 30.0
_LOG = logging.getLogger("aimer2.site")

_Event: TypeAlias = tuple[Kind, str | None, Mapping[str, Json]]


@final
class Agent:
    """Everything of a running site, on one asyncio loop; blocking requests run in threads, the audit log in a thread of its own."""

    def __init__(self, decisions: Decisions, settings: Settings) -> None:
        self._decisions = decisions
        self._settings = settings
        self._threads = Threads("http")
        self._auditing = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._rng = random.SystemRandom()
        self._workers = Workers(settings.worker)
        self._connection = Connection(settings.coordinator, settings.site, decisions.key, decisions.clock)
        self._performing = Performing(decisions, settings, self._connection, self._workers, self._persist)
        self._offers = Offers(decisions, settings, self._connection, self._performing)
        means = Means(
            exchange=self._connection.exchange,
            blocking=self._threads.run,
            coordinator=PublicKey.from_text(settings.coordinator.key),
            site=settings.site,
            wait_seconds=settings.coordinator.wait_seconds,
            backoff=lambda: Backoff(self._rng),
        )
        self._exchanging = Exchanging(means, self)
        self._notices: asyncio.Queue[Sequence[StudyNotice]] = asyncio.Queue()
        self._broken: asyncio.Future[None] | None = None
        self._heads_due = asyncio.Event()
        self._telling = Telling(decisions, settings, self._connection)
        self._tell_due = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._delivered: list[tuple[str, Answer]] = []
        self._events: list[_Event] = []

    async def run(self) -> None:
        """Until SIGTERM or SIGINT.

        Raises Conflict where another agent runs in this folder or its state was put back from a backup, BadInput where the policy has faults, and
        what stops the audit log.
        """
        loop = asyncio.get_running_loop()
        stop = self._broken = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: stop.done() or stop.set_result(None))  # type: ignore[func-returns-value]
        if self._decisions.folder.policy.is_file():
            read_toml(self._decisions.folder.policy, Policy)
        with agent_lock(self._decisions.folder):
            require_whole(self._decisions)
            self._record(Kind.AGENT_STARTED, None, {"version": __version__})
            self._halt()
            found: Capabilities = await self._threads.run(capabilities)
            self._offers.enforced = protections(found)
            self._workers.prepare()
            async with serve_control(self._decisions.folder, self.command):
                running = [loop.create_task(part) for part in (self._exchanging.run(), self._attend(), self._resume(), self._witness(), self._tell())]
                try:
                    await self._first_end(stop, running)
                finally:
                    await self._close(running)

    async def _first_end(self, stop: asyncio.Future[None], running: list[asyncio.Task[None]]) -> None:
        """Waits for the end: what runs forever ends only by a fault, which is raised here."""
        waiting: set[asyncio.Future[None]] = {stop, *running}
        while not stop.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()

    async def _close(self, running: list[asyncio.Task[None]]) -> None:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._exchanging.close()
        await self._workers.close()
        self._tidy()
        self._record(Kind.AGENT_STOPPED, None, {})
        self._flush()
        self._auditing.shutdown()
        self._performing.secret_sums.end_in_order()
        self._connection.close()

    # what `Exchanging` asks for

    async def perform(self, task: Task, attachments: Mapping[str, str]) -> Ready:
        started = time.perf_counter()
        try:
            ready = await self._performing.reply(task, attachments)
        except Exception as error:  # noqa: BLE001 - the process's edge, per task
            _LOG.error("a task ended by %s", type(error).__name__)
            failure = Failure(task=task.id, attempt=task.attempt, site=task.site, code=AimerError.code, reason="The site's agent has a fault.")
            ready = Ready(task.study, failure, {})
        spoken = task.phase != "update" and isinstance(ready.reply, Answer)
        self._record(Kind.PHASE_ANSWERED if spoken else _KIND_OF[ready.reply.kind], task.study, _details(task, ready, time.perf_counter() - started))
        return ready

    def delivered(self, ready: Sequence[Ready]) -> None:
        for one in ready:
            if isinstance(one.reply, Answer):
                if not self._delivered:
                    asyncio.get_running_loop().call_later(_TIDY_SECONDS, self._tidy)
                self._delivered.append((one.study, one.reply))
                if one.reply.sums:
                    sums: Json = {name: ref.sha256 for name, ref in one.reply.sums.items()}
                    self._record(Kind.UPDATE_SENT, one.study, {"task": one.reply.task, "attempt": one.reply.attempt, "sums": sums})
                if any(ref.size > ATTACHED_BYTES for ref in one.reply.sums.values()):
                    # Of rounds before, and now: the next task brings as much, and room that has just become free is quick to write to.
                    self._performing.erase_old(one.study)

    def _tidy(self) -> None:
        """Notes what was taken, once its sending is recorded; erases what is no longer needed. Were the agent killed before, it would only send
        once more."""
        delivered, self._delivered = self._delivered, []
        self._flush()
        answers, now = [answer for _, answer in delivered], self._decisions.clock.now()
        self._auditing.submit(self._decisions.store.mark_delivered, answers, now).add_done_callback(self._recorded)
        self._auditing.submit(self._performing.secret_sums.settle).add_done_callback(self._recorded)
        for study in {study for study, _ in delivered}:
            self._performing.erase_old(study)
            self._auditing.submit(self._performing.settle, study).add_done_callback(self._recorded)

    def noticed(self, studies: Sequence[StudyNotice], frozen: str) -> None:
        if coordinator_said(self._decisions, frozen):
            self._halt()
            self._heads_due.set()
        self._notices.put_nowait(studies)

    async def again(self, ready: Ready) -> Ready:
        if isinstance(ready.reply, Answer):
            return await self._performing.ready(ready.study, ready.reply)
        return ready

    def status(self) -> Mapping[str, Any]:
        free = shutil.disk_usage(self._decisions.folder.path).free
        said = {
            "version": __version__,
            "time": self._decisions.clock.now(),
            "free_disk_gib": round(free / 2**30),
            "protections": sorted(self._offers.enforced),
        }
        return said | {"frozen": True} if freeze_of(self._decisions) else said

    # studies

    async def _attend(self) -> None:
        """Takes notices in, one list after the other, and sends decisions."""
        self._notices.put_nowait(())
        while True:
            notices = await self._notices.get()
            for notice in notices:
                await self._persist(partial(self._offers.take, notice))
                if notice.state in ("finished", "stopped"):
                    await self._finish(notice.digest)
            await self._persist(self._offers.send_decisions)

    async def _finish(self, digest: str) -> None:
        if self._decisions.store.fact(f"reported {digest}") is not None:
            return
        self._exchanging.cancel(digest)
        if self._decisions.store.decision(digest) is not None:
            models.keep(self._decisions, digest, self._performing.blobs(digest))
        await self._performing.forget(digest)
        if self._decisions.store.decision(digest) is not None:
            write_report(self._decisions, digest)
            self._record(Kind.REPORT_WRITTEN, digest, {})
            self._heads_due.set()
            self._tell_due.set()
        self._decisions.store.note(f"reported {digest}", "yes")

    async def _resume(self) -> None:
        """Answers that were computed before a restart and have not been taken yet."""
        for stored in self._decisions.store.undelivered():
            try:
                ready = await self._performing.stored(stored)
            except AimerError as error:
                _LOG.error("a stored answer cannot be sent: %s", error.code)
                continue
            if ready is not None:
                self._exchanging.resume(ready)

    async def _witness(self) -> None:
        """Exchanges heads of audit logs at the start, at each study's end, at a freeze, and every hour."""
        while True:
            self._heads_due.clear()
            theirs = await self._persist(self._exchange_heads)
            if theirs is not None:
                self._auditing.submit(write_down, self._decisions, theirs, self._settings.coordinator).add_done_callback(self._recorded)
            with suppress(TimeoutError):
                async with asyncio.timeout(_HEADS_SECONDS):
                    await self._heads_due.wait()

    async def _tell(self) -> None:
        """What it has to tell of itself: at the start, at each study's end, and from time to time."""
        while True:
            self._tell_due.clear()
            await self._persist(self._telling.tell)
            with suppress(TimeoutError):
                async with asyncio.timeout(_TELL_SECONDS):
                    await self._tell_due.wait()

    def _exchange_heads(self) -> SignedHead | None:
        try:
            return exchange_heads(self._decisions, self._connection, self._settings.coordinator)
        except (Unreachable, NotAuthenticated):
            raise
        except AimerError as error:
            _LOG.error("the heads of the audit logs were not exchanged: %s %s", error.code, error.sentence)
            return None

    # an incident

    def _halt(self) -> dict[str, str]:
        """Where somebody has frozen everything, all of it ends at once; the keys of what was under way, with the study of each."""
        self._performing.halted = halted(self._decisions)
        if not self._performing.halted:
            self._workers.prepare()
            return {}
        self._ending = asyncio.get_running_loop().create_task(self._workers.end_all())
        return self._exchanging.cancel_all()

    def _freeze(self, *, by: str, reason: str) -> dict[str, Any]:
        try:
            return asdict(freeze(self._decisions, by=by, reason=reason))
        finally:
            called_off = self._halt()
            self._exchanging.say([_refused(key, study, self._decisions) for key, study in called_off.items()])
            self._heads_due.set()

    def _thaw(self, *, by: str, reason: str) -> dict[str, Any]:
        thaw(self._decisions, by=by, reason=reason)
        self._halt()
        self._exchanging.say([])
        return {"by": by}

    # commands of the site's people

    async def command(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Raises BadInput for an unknown command, and what the command raises."""
        kind = asked.pop("command", None)
        if kind == "status":
            told = {"connected": self._exchanging.connected, "problem": self._exchanging.problem, "halted": self._performing.halted}
            return {**told, "processes": {"agent": os.getpid(), **self._workers.processes()}}
        if kind == "tell":
            self._tell_due.set()
            return {}
        if kind in ("freeze", "thaw"):
            try:
                return (self._freeze if kind == "freeze" else self._thaw)(**asked)
            except TypeError:
                raise BadInput("The command has other parameters.") from None
        known: dict[str, Callable[..., Decision]] = {
            "approve": self._decisions.approve,
            "refuse": self._decisions.refuse,
            "withdraw": self._decisions.withdraw,
        }
        if kind not in known:
            raise BadInput("The agent does not know this command.")
        try:
            decision = known[kind](asked.pop("study"), **asked)
        except (TypeError, KeyError):
            raise BadInput("The command has other parameters.") from None
        if decision.decision == "approve":
            self._performing.resume(decision.study)
        else:
            # At once: before the coordinator or anybody else is told.
            self._exchanging.cancel(decision.study)
            await self._performing.forget(decision.study)
        self._notices.put_nowait(())
        done: dict[str, Any] = decision.model_dump(mode="json")
        return done

    # means

    async def _persist(self, function: Callable[[], Any]) -> Any:
        """Again and again, with growing pauses, while the coordinator cannot be reached or does not know this site (a clock that is off)."""
        backoff = Backoff(self._rng)
        while True:
            try:
                return await self._threads.run(function)
            except (Unreachable, NotAuthenticated):
                await asyncio.sleep(backoff.failed())

    def _record(self, kind: Kind, study: str | None, details: Mapping[str, Json]) -> None:
        """Into the audit log, in order, a moment later and together. A kill in between loses no sending: what is not noted as delivered
        is sent, and recorded, again."""
        if not self._events:
            asyncio.get_running_loop().call_later(_RECORD_SECONDS, self._flush)
        self._events.append((kind, study, details))

    def _flush(self) -> None:
        """An agent that cannot record does not go on."""
        events, self._events = self._events, []
        if events:
            self._auditing.submit(self._append, events).add_done_callback(self._recorded)

    def _append(self, events: list[_Event]) -> None:
        self._decisions.audit.extend([Event(str(kind), _ACTOR, study, details) for kind, study, details in events])

    def _recorded(self, recorded: Any) -> None:
        error = recorded.exception()
        if error is not None and self._broken is not None:
            self._broken.get_loop().call_soon_threadsafe(_break, self._broken, error)


def protections(found: Capabilities) -> frozenset[Protection]:
    """What this machine puts into force on a worker."""
    known: dict[Protection, bool] = {
        "network": found.seccomp,
        "files": found.landlock > 0,
        "namespace": found.namespaces,
        "capabilities": True,
    }
    return frozenset(name for name, there in known.items() if there)


_KIND_OF = {"answer": Kind.TASK_FINISHED, "refusal": Kind.TASK_REFUSED, "failure": Kind.TASK_FAILED}


def _details(task: Task, ready: Ready, seconds: float) -> dict[str, Json]:
    details: dict[str, Json] = {
        "task": task.id,
        "attempt": task.attempt,
        "stage": task.stage,
        "round": task.round_number,
        "seconds": round(seconds, 4),
    }
    if task.phase != "update":
        details["phase"] = task.phase
    if not isinstance(ready.reply, Answer):
        details["code"] = ready.reply.code
    return details


def _refused(key: str, study: str, decisions: Decisions) -> Ready:
    """The coordinator need not wait for what was called off."""
    task, _, attempt = key.rpartition("/")
    reason = "This site has been frozen by its hospital."
    refusal = Refusal(task=task, attempt=int(attempt), site=decisions.site, code=Frozen.code, reason=reason)
    return Ready(study, signed(refusal, study, decisions.key, decisions.clock.now()), {})


def _break(stop: asyncio.Future[None], error: BaseException) -> None:
    if not stop.done():
        stop.set_exception(error)
