"""A coordinator in the test's own event loop, with a study that runs and whose tasks the test puts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from serving import package_of

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.queue import StudyQueue
from aimer2.coordinator.settings import Folder, Settings
from aimer2.coordinator.setup import initialise
from aimer2.coordinator.store import members, studies
from aimer2.core.clock import SystemClock
from aimer2.core.protocols import BlobStore
from aimer2.core.task import BlobRef
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package
from aimer2.messages.wire import Decision
from aimer2.study.checkpoint import Checkpoints
from aimer2.study.events import Event

STUDY = "d" * 64


async def wait_forever(package: Package, digest: str, queue: StudyQueue, blobs: BlobStore, checkpoints: Checkpoints) -> AsyncIterator[Event]:
    """A conductor that is told to do nothing, so that the test alone puts tasks."""
    await asyncio.Event().wait()
    return
    yield


def open_coordinator(folder: Path, *, database: str | None = None) -> Coordinator:
    place = Folder(folder)
    if not place.settings_file.exists():
        given = {} if database is None else {"database": database}
        initialise(place, Settings(name="x", url="https://127.0.0.1:1", lease_seconds=1.5, **given), SystemClock())
    return Coordinator.open(place, conduct=wait_forever)


def offer(coordinator: Coordinator, sites: list[str]) -> None:
    """A running study that these sites have approved."""
    package, _ = package_of([], BlobRef(sha256="0" * 64, size=0))
    package = package.model_copy(update={"roster": {site: SigningKey.generate().public.text for site in sites}})
    database = coordinator.database
    for site in sites:
        database.write_now(members.add_invitation, site, site, 0.0, 100.0)
        database.write_now(members.enrol, members.Enrolment(site, site, SigningKey.generate().public.text, 1.0))
    database.write_now(studies.add_study, studies.NewStudy(STUDY, package.model_dump_json(), sites, "anna", 2.0))
    for site in sites:
        decision = Decision(study=STUDY, site=site, decision="approve", by="Dr A", dataset="d", time=1.0)
        database.write_now(studies.add_decision, decision, "key", f"statement of {site}")
    database.write_now(studies.change_state, studies.Transition(STUDY, ("offered",), "running", sites))
