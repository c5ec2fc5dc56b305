"""A coordinator: its parts put together, and what it does by itself while it runs."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import final

from sqlalchemy.exc import SQLAlchemyError

from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.coordinator.audit import Audit
from aimer2.coordinator.consortium import Consortium
from aimer2.coordinator.drafts import Drafts
from aimer2.coordinator.enrolment import Enrolment, EnrolmentParts
from aimer2.coordinator.freezing import Freezing
from aimer2.coordinator.metrics import Metrics
from aimer2.coordinator.models import Models
from aimer2.coordinator.openid import OpenId
from aimer2.coordinator.people import People
from aimer2.coordinator.presence import Presence
from aimer2.coordinator.queue import Queue, QueueParts, StudyQueue
from aimer2.coordinator.records import LOG, Records
from aimer2.coordinator.registry import Offer, Registry
from aimer2.coordinator.sessions import Sessions
from aimer2.coordinator.settings import Folder, Settings
from aimer2.coordinator.setup import inviter
from aimer2.coordinator.signal import Signal
from aimer2.coordinator.storage import Storage
from aimer2.coordinator.store import members
from aimer2.coordinator.store.database import Database, read_changes
from aimer2.coordinator.store.migrate import migrate
from aimer2.coordinator.studies import Conduct, Studies, StudyParts
from aimer2.coordinator.told import SitesTold
from aimer2.core.clock import Clock, SystemClock
from aimer2.core.errors import AimerError, Conflict
from aimer2.core.protocols import BlobStore
from aimer2.core.said import say
from aimer2.engines.native import Native
from aimer2.identity.keys import SigningKey
from aimer2.identity.secret_files import read_secret
from aimer2.messages.package import Package
from aimer2.study.checkpoint import Checkpoints
from aimer2.study.conduct import conduct
from aimer2.study.events import Event

_LOOK_SECONDS = 0.5
"""How long the change of another process (the command line, a second coordinator) may go unseen."""


def conduct_natively(package: Package, digest: str, queue: StudyQueue, blobs: BlobStore, checkpoints: Checkpoints) -> AsyncIterator[Event]:
    return conduct(package, digest, Native(queue), blobs, checkpoints, clock=SystemClock())


@final
@dataclass(slots=True)
class _Seen:
    """The change of the registry that was last acted on: any request may read the registry anew, and acts on nothing."""

    number: int = -1
    frozen: bool = False


@final
@dataclass(frozen=True, slots=True)
class Coordinator:
    """All parts of a running coordinator. Make it inside the event loop; `start`, then `keep` until `close`."""

    settings: Settings
    key: SigningKey
    database: Database
    storage: Storage
    registry: Registry
    presence: Presence
    queue: Queue
    records: Records
    metrics: Metrics
    enrolment: Enrolment
    people: People
    sessions: Sessions
    studies: Studies
    openid: OpenId
    models: Models
    drafts: Drafts
    told: SitesTold
    freezing: Freezing
    audit: Audit
    consortium: Consortium
    clock: Clock
    closing: Signal
    lock: int
    seen: _Seen = field(default_factory=_Seen)

    @classmethod
    def open(cls, folder: Folder, clock: Clock | None = None, conduct: Conduct = conduct_natively) -> Coordinator:
        """Raises NotFound where nothing was initialised, Conflict where another process runs this folder, VersionMismatch."""
        clock = clock or SystemClock()
        settings = folder.read_settings()
        key = SigningKey.load(folder.signing_key)
        lock = _lock(folder)
        database = Database(folder.database_url(settings))
        migrate(database)
        registry, presence, storage = Registry(database), Presence(clock), Storage(folder.resolve(settings.blobs))
        records = Records(AuditLog(folder.audit_log, key, clock))
        queue = Queue(QueueParts(database, registry, storage, presence, key, clock))
        metrics = Metrics(registry, presence, lambda: queue.open_count)
        secret = read_secret(folder.token_secret)
        enrolment = Enrolment(EnrolmentParts(database, registry, records, settings, key, secret, clock))
        # A process of the same folder is dead once the folder's lock is free: its studies are taken over without waiting for their leases.
        holder = f"{socket.gethostname()}:{folder.path.resolve()}/{secrets.token_hex(8)}"
        parts = StudyParts(database, registry, storage, queue, records, metrics, key, clock, conduct, holder, settings.lease_seconds)
        studies = Studies(parts)
        return cls(
            settings=settings,
            key=key,
            database=database,
            storage=storage,
            registry=registry,
            presence=presence,
            queue=queue,
            records=records,
            metrics=metrics,
            enrolment=enrolment,
            people=People(database, records, clock),
            sessions=Sessions(database, settings, clock),
            studies=studies,
            openid=OpenId(folder, settings, database, records, clock),
            models=Models(database, registry, records, key, clock),
            drafts=Drafts(database, registry, records, clock),
            told=SitesTold(database, registry, records, clock),
            freezing=Freezing(database, registry, records, queue, studies, clock),
            audit=Audit(folder.audit_log, settings.name, key, records, registry, clock),
            consortium=Consortium(database, registry, records, queue, studies, inviter(folder, settings, clock)),
            clock=clock,
            closing=Signal(),
            lock=lock,
        )

    async def submit(self, package: Package, by: str) -> Offer:
        """As `Studies.submit`; a study that measures a model of this coordinator brings that very model. Raises BadStudy with all faults, Frozen."""
        await self.models.refuse_misfits(package)
        return await self.studies.submit(package, by)

    async def start(self) -> None:
        """Reads what is stored, and goes on with every study that was running."""
        await self.registry.load()
        self.consortium.begin()
        self.seen.number, self.seen.frozen = self.registry.number, self.registry.frozen.frozen
        await self.queue.load()
        await self.studies.take_over()

    async def keep(self) -> None:
        """Sees what other processes change, renews leases, notes which sites are there; until cancelled."""
        renewed = self.clock.monotonic()
        while not self.queue.closing:
            await self.closing.wait(self.closing.count, _LOOK_SECONDS)
            try:
                await self._look()
                if self.clock.monotonic() - renewed >= self.settings.lease_seconds / 3:
                    renewed = self.clock.monotonic()
                    await self.studies.keep()
                    await self._note_contacts()
            except (AimerError, SQLAlchemyError) as error:
                # A database that is away for a while must not end the process.
                LOG.error("%s while looking after leases", type(error).__name__)

    def stop_waiting(self) -> None:
        """Lets go every request that waits, so that the server can end."""
        self.queue.close()
        self.closing.set()

    async def close(self) -> None:
        await self.studies.close()
        await self._note_contacts()
        await self.records.close()
        self.database.close()
        os.close(self.lock)

    async def _look(self) -> None:
        for turned, frozen in self.presence.take_turned():
            await self.records.add(Kind.SITE_FROZEN if frozen else Kind.SITE_THAWED, actor=turned)
        changes = await self.database.read(read_changes)
        if changes["registry"] != self.seen.number:
            await self.registry.load()
            number, frozen = self.registry.number, self.registry.frozen.frozen
            await self.consortium.tell_of_others()
            await self.studies.check_running()
            self.queue.wake()
            if self.seen.frozen and not frozen:
                await self.studies.start_ready()
            self.seen.number, self.seen.frozen = number, frozen
        if changes["tasks"] != self.queue.number:
            await self.queue.load()

    async def _note_contacts(self) -> None:
        contacts = self.presence.take_unsaved()
        if contacts:
            await self.database.write(members.note_contacts, contacts)


def _lock(folder: Folder) -> int:
    file = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise Conflict(say("Another process runs the coordinator in {path}.", path=folder.path), remedy="Stop it first.") from None
    return file
