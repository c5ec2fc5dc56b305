"""The life of a study: offered → running → finished, with paused and stopped beside it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

from sqlalchemy import Connection

from aimer2.audit.entries import Json
from aimer2.audit.kinds import Kind
from aimer2.coordinator.metrics import Metrics
from aimer2.coordinator.queue import Queue, StudyQueue
from aimer2.coordinator.recorder import Recorder, event_row
from aimer2.coordinator.records import LOG, Records
from aimer2.coordinator.registry import Offer, Registry
from aimer2.coordinator.signal import Signal
from aimer2.coordinator.storage import Storage
from aimer2.coordinator.store import studies as rows
from aimer2.coordinator.store.database import Database
from aimer2.coordinator.store.members import drop_upload
from aimer2.coordinator.store.studies import NewStudy, Transition
from aimer2.coordinator.store.tasks import erase_tasks
from aimer2.coordinator.submission import check_package
from aimer2.core.clock import Clock
from aimer2.core.errors import AimerError, Conflict, Frozen, NotAllowed, NotFound
from aimer2.core.protocols import BlobStore
from aimer2.core.said import say
from aimer2.identity.documents import open_document, sign_document
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package
from aimer2.messages.package import digest as digest_of
from aimer2.messages.wire import Decision
from aimer2.secure_aggregation.roster import Roster
from aimer2.study.checkpoint import Checkpoints
from aimer2.study.events import Event, RoundFinished, StudyFinished, StudyPaused, StudyStarted, StudyStopped
from aimer2.study.secure_update import quorum_of

Conduct: TypeAlias = Callable[[Package, str, StudyQueue, BlobStore, Checkpoints], AsyncIterator[Event]]
"""Conducts a study from its checkpoint to its end: `study.conduct` on the native engine."""

_ERASED_AT_ONCE = 1000
_NAMED = 50


@final
@dataclass(frozen=True, slots=True)
class StudyParts:
    """What the life of a study stands on."""

    database: Database
    registry: Registry
    storage: Storage
    queue: Queue
    records: Records
    metrics: Metrics
    key: SigningKey
    clock: Clock
    conduct: Conduct
    holder: str
    """Names this process in leases."""
    lease_seconds: float


@final
class Studies:
    def __init__(self, parts: StudyParts) -> None:
        self._parts = parts
        self._running: dict[str, asyncio.Task[None]] = {}
        self._news: dict[str, Signal] = {}
        self._erased: set[str] = set()
        self._turning = asyncio.Lock()
        """A study is resumed only once all has ended that its pause ends."""

    def news(self, digest: str) -> Signal:
        """Set whenever an event of this study was stored or its state has changed."""
        return self._news.setdefault(digest, Signal())

    # -- what people and sites do

    async def submit(self, package: Package, by: str) -> Offer:
        """Records a study and offers it to its sites; the same package again is the same study. Raises BadStudy with all faults, Frozen."""
        parts = self._parts
        self.refuse_frozen()
        key = digest_of(package)
        known = parts.registry.studies.get(key)
        if known is None:
            faults_of_blobs = await parts.database.read(rows.missing_uploads, package.blobs, f"user:{by}")
            await asyncio.to_thread(check_package, package, by, parts.registry, faults_of_blobs, parts.clock.now())
            new = NewStudy(key, package.model_dump_json(), sorted(package.roster), by, parts.clock.now(), package.supersedes)
            replaced = await parts.database.write(self._add, new, package, self._supersession(new))
            await self._changed(key)
            await parts.records.add(Kind.STUDY_SUBMITTED, actor=by, study=key, name=package.study.name, sites=len(package.roster))
            if replaced is not None:
                await self._changed(replaced)
                await parts.records.add(Kind.STUDY_SUPERSEDED, actor=by, study=replaced, state="stopped")
        elif known.submitted_by != by:
            raise Conflict("Somebody else has submitted exactly this study.")
        return parts.registry.study(key)

    def _supersession(self, new: NewStudy) -> Transition | None:
        """A version that has not ended ends with the next one: what was approved of it is no approval of that one."""
        if new.supersedes is None:
            return None
        reason = f"Version {len(self._parts.registry.versions(new.supersedes)) + 1} takes its place: {new.digest[:16]}"
        return Transition(new.supersedes, ("offered", "paused"), "stopped", self._roster(new.supersedes), reason)

    async def archive(self, digest: str, by: str, *, archived: bool) -> None:
        """Out of the lists, or back; its records stay. Raises Conflict where the study has not ended."""
        if not await self._parts.database.write(rows.set_archived, digest, self._parts.clock.now() if archived else None):
            raise Conflict("Only a study that has ended is archived.", remedy="Stop it for good first: `aimer2 study stop --final`.")
        await self._parts.registry.load()
        await self._parts.records.add(Kind.STUDY_ARCHIVED if archived else Kind.STUDY_UNARCHIVED, actor=by, study=digest)

    def _add(self, connection: Connection, new: NewStudy, package: Package, ended: Transition | None) -> str | None:
        """The version that has ended with it. Raises Conflict."""
        refs = package.blobs
        self._parts.storage.claim(new.digest, refs)
        rows.add_study(connection, new)
        for ref in refs:
            if drop_upload(connection, ref.sha256, f"user:{new.submitted_by}"):
                self._parts.storage.staging.delete(ref)
        if ended is None:
            return None
        event = event_row(StudyStopped(time=new.submitted, reason=ended.reason))
        return ended.digest if rows.change_state(connection, ended, [event]) else None

    async def decide(self, site: str, statement: str) -> Decision:
        """Records what a site has signed. Raises Tampered, NotAuthenticated, NotAllowed, NotFound or Conflict."""
        parts = self._parts
        key = parts.registry.sites[site].key
        decision = Decision.model_validate_json(open_document(statement, key, kind="decision"))
        if decision.site != site:
            raise NotAllowed("A site decides for itself only.")
        offer = parts.registry.study(decision.study)
        if site not in offer.package.roster:
            raise NotFound("There is no study with this digest.")
        secret = offer.package.study.privacy.secure_aggregation
        roster = Roster.of(decision.study, offer.package.roster).hash() if secret else None
        if decision.decision == "approve" and decision.roster != roster:
            raise Conflict("The approval does not name the keys of this study's sites.", remedy="Verify the keys at the site and approve again.")
        if await parts.database.write(rows.add_decision, decision, key.text, statement):
            await self._changed(decision.study)
            kind = {"approve": Kind.STUDY_APPROVED, "refuse": Kind.STUDY_REFUSED, "withdraw": Kind.STUDY_WITHDRAWN}[decision.decision]
            await parts.records.add(kind, actor=site, study=decision.study, by=decision.by)
        if decision.decision != "approve":
            await parts.queue.refuse(site, decision.study)
        await self._start_if_ready(decision.study)
        return decision

    async def start(self, digest: str, by: str) -> None:
        """Starts a study that enough sites have approved, though others have not decided. Raises Conflict, Frozen."""
        self.refuse_frozen()
        offer = self._parts.registry.study(digest)
        ready, quorum = self._parts.registry.approved(digest, self._parts.clock.now()), quorum_of(offer.package)
        if not quorum.enough(ready):
            raise Conflict(
                say("{ready}.", ready=quorum.lacking(ready, say("have approved the study"))), remedy="Wait for the sites that have not decided."
            )
        await self._move(Transition(digest, ("offered",), "running", self._roster(digest)), Kind.STUDY_STARTED, by)
        await self.take_over()

    async def resume(self, digest: str, by: str) -> None:
        """A paused study goes on from its checkpoint. Raises Conflict, Frozen."""
        self.refuse_frozen()
        async with self._turning:
            await self._move(Transition(digest, ("paused",), "running", self._roster(digest)), Kind.STUDY_RESUMED, by)
        await self.take_over()

    def refuse_frozen(self) -> None:
        """Raises Frozen while everything here is stopped."""
        frozen = self._parts.registry.frozen
        if frozen.frozen:
            raise Frozen(say("Everything here was stopped by {by}: {reason}", by=frozen.by, reason=frozen.reason))

    async def start_ready(self) -> None:
        """After a thaw, or when a site has left: the studies that wait for no decision any more."""
        for digest in list(self._parts.registry.studies):
            await self._start_if_ready(digest)

    async def stop(self, digest: str, by: str, *, final: bool, reason: str) -> None:
        """Stops a study for good, or for now. Raises Conflict where it has ended already."""
        now = self._parts.clock.now()
        event: Event = StudyStopped(time=now, reason=reason) if final else StudyPaused(time=now, reason=reason)
        before = ("offered", "running", "paused") if final else ("running",)
        change = Transition(digest, before, "stopped" if final else "paused", self._roster(digest), reason)  # type: ignore[arg-type]  # literals
        async with self._turning:
            await self._move(change, Kind.STUDY_STOPPED, by, event)
            # Only now: had the write failed, the study would be left running with nobody who conducts it.
            await self._halt(digest)
            if final:
                await self._clear(digest)

    # -- leases

    async def take_over(self) -> None:
        """Conducts every running study that nobody conducts."""
        parts = self._parts
        now = parts.clock.now()
        folder = parts.holder.rpartition("/")[0] + "/"
        for digest in await parts.database.write(rows.acquire_leases, parts.holder, folder, now, now + parts.lease_seconds):
            self._running[digest] = asyncio.create_task(self._conduct(digest))

    async def keep(self) -> None:
        """Renews this process's leases, stops what is no longer its own, ends what has expired, takes over what is free."""
        parts = self._parts
        now = parts.clock.now()
        kept = await parts.database.write(rows.renew_leases, parts.holder, now + parts.lease_seconds)
        if lost := self._running.keys() - kept:
            await parts.registry.load()
        for digest in lost:
            # Another process goes on with the tasks of a study that runs; those of one that was ended are nobody's.
            await self._halt(digest, withdraw=parts.registry.study(digest).state != "running")
        for offer in list(parts.registry.studies.values()):
            if offer.state in ("offered", "running", "paused") and offer.package.study.expires_at < now:
                await self.stop(offer.digest, "coordinator", final=True, reason="The study has expired.")
        await self.take_over()
        await self._erase_ended()
        await asyncio.to_thread(parts.storage.staging.sweep, now)

    async def _erase_ended(self) -> None:
        """A little at a time: what studies that have ended for good have left, of which another process may have been writing at their end."""
        for offer in list(self._parts.registry.studies.values()):
            if offer.state in ("finished", "stopped") and offer.digest not in self._erased:
                if await self._parts.database.write(erase_tasks, offer.digest, _ERASED_AT_ONCE) < _ERASED_AT_ONCE:
                    if offer.state == "stopped":
                        await self._clear(offer.digest)
                    self._erased.add(offer.digest)
                return

    async def _clear(self, digest: str) -> None:
        """Of a study that was stopped for good nothing stays but what came with it and its newest model: above all no site's update."""
        parts = self._parts
        model = await parts.database.read(rows.last_model, digest)
        kept = {ref.sha256 for ref in parts.registry.study(digest).blobs} | ({model} if model else set())
        await asyncio.to_thread(parts.storage.retain, digest, kept)

    async def check_running(self) -> None:
        """Another process may have stopped a study that this one conducts."""
        for digest in list(self._running):
            if self._parts.registry.study(digest).state != "running":
                await self._halt(digest)
        for signal in self._news.values():
            signal.set()

    async def close(self) -> None:
        """Leaves every study as it stands, for the next process."""
        for digest in list(self._running):
            await self._halt(digest, withdraw=False)
        await self._parts.database.write(rows.release_leases, self._parts.holder)
        for signal in self._news.values():
            signal.set()

    # -- conducting

    async def _conduct(self, digest: str) -> None:
        parts = self._parts
        recorder = Recorder(parts.database, digest, parts.holder, self.news(digest).set)
        queue = parts.queue.of(digest)
        last: Event | None = None
        try:
            package = parts.registry.study(digest).package
            async for event in parts.conduct(package, digest, queue, parts.storage.of(digest), recorder):
                self._note(digest, event)
                if isinstance(event, StudyFinished | StudyPaused | StudyStopped):
                    last = event
                else:
                    recorder.add(event)
            await recorder.settle()
        except asyncio.CancelledError:
            await recorder.flush()
            raise
        except AimerError as error:
            last = StudyPaused(time=parts.clock.now(), reason=error.sentence)
        except Exception as error:  # noqa: BLE001 - the edge of a study: whatever it is, the other studies go on
            LOG.error("study=%s ended by %s", digest[:16], type(error).__name__, exc_info=error)
            last = StudyPaused(time=parts.clock.now(), reason="Something went wrong in the coordinator; its log says what.")
        await asyncio.shield(self._end(digest, last, recorder))

    async def _end(self, digest: str, last: Event | None, recorder: Recorder) -> None:
        parts = self._parts
        self._running.pop(digest, None)
        event = last or StudyPaused(time=parts.clock.now(), reason="The study ended without a result.")
        result = sign_document(_canonical(event.result), parts.key, kind="result") if isinstance(event, StudyFinished) else None
        state = "finished" if result else "stopped" if isinstance(event, StudyStopped) else "paused"
        reason = "" if isinstance(event, StudyFinished) else getattr(event, "reason", "")
        change = Transition(digest, ("running",), state, self._roster(digest), reason, parts.holder)  # type: ignore[arg-type]  # literals
        # Where another process has taken the study over, its tasks are that one's.
        if await parts.database.write(rows.change_state, change, [*recorder.take(), event_row(event)], result):
            await parts.queue.withdraw_study(digest)
            await self._changed(digest)
            kind = Kind.STUDY_FINISHED if result else Kind.STUDY_FAILED
            await parts.records.add(kind, actor="coordinator", study=digest, state=state, reason=reason[:2000])
        parts.queue.leave(digest)
        await asyncio.to_thread(parts.storage.settle, digest)

    async def _halt(self, digest: str, *, withdraw: bool = True) -> None:
        """Ends this process's conducting of the study, at once; ``withdraw`` unless another process goes on with its tasks."""
        task = self._running.pop(digest, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._parts.queue.leave(digest)
        if withdraw:
            await self._parts.queue.withdraw_study(digest)

    def _note(self, digest: str, event: Event) -> None:
        if isinstance(event, RoundFinished):
            self._parts.metrics.rounds.inc()
            self._parts.metrics.round_seconds.observe(event.seconds)
            LOG.info("study=%s %s round %d of %d: %.3f s", digest[:16], event.stage, event.round_number, event.rounds, event.seconds)
            self._parts.records.later(Kind.ROUND_CLOSED, actor="coordinator", study=digest, **_closed(event))
        elif isinstance(event, StudyStarted):
            LOG.info("study=%s conducted here with %d sites%s", digest[:16], len(event.sites), ", resumed" if event.resumed else "")

    # -- changes of state

    async def _start_if_ready(self, digest: str) -> None:
        offer = self._parts.registry.study(digest)
        enough = quorum_of(offer.package).enough(self._parts.registry.approved(digest, self._parts.clock.now()))
        awaited = [site for site in offer.undecided if not self._parts.registry.sites[site].revoked]
        if offer.state == "offered" and not awaited and enough:
            change = Transition(digest, ("offered",), "running", self._roster(digest))
            # Two last decisions at the same moment: one of them starts it.
            if await self._try(change, Kind.STUDY_STARTED, "coordinator"):
                await self.take_over()

    async def _move(self, change: Transition, kind: Kind, by: str, event: Event | None = None) -> None:
        if not await self._try(change, kind, by, event):
            raise Conflict(say("The study is {state}: this cannot be done with it now.", state=self._parts.registry.study(change.digest).state))

    async def _try(self, change: Transition, kind: Kind, by: str, event: Event | None = None) -> bool:
        """False where the study is in another state by now."""
        moved = await self._parts.database.write(rows.change_state, change, [] if event is None else [event_row(event)])
        await self._changed(change.digest)
        if moved:
            await self._parts.records.add(kind, actor=by, study=change.digest, state=change.after)
        return moved

    async def _changed(self, digest: str) -> None:
        await self._parts.registry.load()
        self._parts.queue.wake(self._roster(digest))
        self.news(digest).set()

    def _roster(self, digest: str) -> list[str]:
        return sorted(self._parts.registry.study(digest).package.roster)


def _closed(event: RoundFinished) -> dict[str, Json]:
    """Who took part is in the study's record by name; an entry of the audit log has room for so many."""
    absent: Json = [{"site": one.site, "outcome": one.outcome, "code": one.code} for one in event.absent[:_NAMED]]
    numbers: dict[str, Json] = {"stage": event.stage, "round": event.round_number, "attempt": event.attempt, "took_part": len(event.took_part)}
    return numbers | {"absent": len(event.absent), "absent_sites": absent}


def _canonical(result: Mapping[str, Any]) -> bytes:
    return json.dumps(result, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
