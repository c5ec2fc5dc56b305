"""A rehearsal from the agent's side: the study's worker, confined as for the study itself, asked for findings; the report, and the audit log."""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import final

from pydantic import Field, ValidationError

from aimer2.audit.entries import Json
from aimer2.audit.kinds import Kind
from aimer2.core.errors import BadInput, BadUpdate, NotApproved, NotFound, OutOfResources
from aimer2.core.said import say
from aimer2.core.task import Digest, Document
from aimer2.site import snapshots
from aimer2.site.decisions import Decisions
from aimer2.site.folder import SiteFolder
from aimer2.site.leak.findings import Findings, Tell, unheard
from aimer2.site.leak.report import Subject, page
from aimer2.site.settings import Settings
from aimer2.site.snapshots import SnapshotRecord
from aimer2.site.store import KnownStudy
from aimer2.site.workers import Opening, Worker, WorkerDied, of_death
from aimer2.study.kinds import require_training

CPU_SECONDS = 600
LEAST_RECORDS, MOST_RECORDS = 4, 256
_KEPT = "findings.json"


class Going(Document):
    """How far a worker says that it is."""

    done: int = Field(ge=0, le=100)
    of: int = Field(ge=1, le=100)


class Kept(Document):
    """The findings as they are kept in the site's folder, beside the page; ``time``: seconds since 1970."""

    findings: Findings
    dataset: str
    snapshot: Digest
    by: str
    time: float


@final
@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What was found, and the page that shows it."""

    findings: Findings
    subject: Subject
    report: Path


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How a person wants it: on which data set (None: the study's), where the page goes (None: into the site's folder), and whether code that
    the study brings may run, which nobody has approved yet."""

    by: str
    dataset: str | None = None
    records: int = 32
    report: Path | None = None
    with_code: bool = False

    def __post_init__(self) -> None:
        if not LEAST_RECORDS <= self.records <= MOST_RECORDS:
            raise BadInput(
                say("From {least_records} to {most_records} records can be attacked.", least_records=LEAST_RECORDS, most_records=MOST_RECORDS)
            )


def rehearse(decisions: Decisions, settings: Settings, prefix: str, asked: Asked, tell: Tell = unheard) -> Rehearsed:
    """Attacks this hospital's own snapshot under the study's terms, here and in confinement; nothing leaves. Recorded in the audit log. ``tell``
    hears how many parts of it are done, and of how many.

    Raises NotFound where the study was not fetched or the data set is not known, NotApproved where it brings code and that was not allowed,
    NotAvailable where it trains no model or the machine does not confine, and what the worker reports.
    """
    known = decisions.find(prefix)
    if known.package is None:
        raise NotFound("The study has not been fetched yet.", remedy="Let the agent run: `aimer2 site run`.")
    require_training(known.package.study, "A rehearsal")
    if known.package.files and not asked.with_code:
        raise NotApproved(
            "The study brings code of its own, which would run here, confined, on patients' data.",
            remedy=say("Read it: `aimer2 site show {digest}`. If it may run in a rehearsal, add --with-code.", digest=known.digest[:12]),
        )
    name = asked.dataset or known.package.study.cohort.dataset
    if name not in snapshots.names(decisions.folder):
        raise NotFound(
            say("There is no data set '{name}' here.", name=name), remedy="Add it with `aimer2 site dataset add`, or name one with --dataset."
        )
    snapshot = snapshots.current(decisions.folder, name, settings.retention, decisions.clock.now())
    place = decisions.folder.path / "rehearsals" / known.digest
    findings = asyncio.run(_ask(_opening(decisions, settings, known, snapshot, place), asked.records, tell))
    subject = Subject(known.package.study, known.digest, decisions.site, name, snapshot.sha256, asked.by, decisions.clock.now())
    path = asked.report or place / "report.html"
    view = findings.under_the_terms
    details: dict[str, Json] = {"dataset": name, "snapshot": snapshot.sha256, "records": asked.records, "view": view, "report": str(path.absolute())}
    # First the log: patients' data have been read, whatever becomes of the page.
    decisions.audit.append(Kind.STUDY_REHEARSED, actor=asked.by, study=known.digest, details=details)
    _write(path, page(findings, subject))
    _write(place / _KEPT, Kept(findings=findings, dataset=name, snapshot=snapshot.sha256, by=asked.by, time=subject.time).model_dump_json())
    return Rehearsed(findings, subject, path)


def _opening(decisions: Decisions, settings: Settings, known: KnownStudy, snapshot: SnapshotRecord, place: Path) -> Opening:
    """A folder of its own: the study may be running at this moment."""
    for folder in (place.parent, place):
        folder.mkdir(exist_ok=True, mode=0o700)
    shutil.rmtree(place / "files", ignore_errors=True)
    shutil.copytree(decisions.folder.study(known.digest) / "files", place / "files")
    return Opening(decisions.site, place, snapshot.path, snapshot.sha256, CPU_SECONDS, settings.worker, serves="leak.serving")


def read_rehearsal(folder: SiteFolder, digest: str) -> Kept | None:
    """What the last rehearsal of a study found; it holds patients' values."""
    path = folder.path / "rehearsals" / digest / _KEPT
    return Kept.model_validate_json(path.read_bytes()) if path.is_file() else None


async def _ask(opening: Opening, records: int, tell: Tell) -> Findings:
    try:
        async with asyncio.timeout(CPU_SECONDS):
            worker = await Worker.start(opening)
            try:
                found = await _listen(worker, records, tell)
            finally:
                await worker.end()
    except WorkerDied as death:
        raise of_death(death) from None
    except TimeoutError:
        raise OutOfResources("The rehearsal took longer than this site allows.") from None
    except ValidationError:
        raise BadUpdate("The worker's findings are not of the agreed form.") from None
    return found


async def _listen(worker: Worker, records: int, tell: Tell) -> Findings:
    """The study's own code ran in that process: what it says is checked like anything from outside."""
    reply, _ = await worker.ask({"records": records})
    while "done" in reply:
        going = Going.model_validate(reply)
        tell(going.done, going.of)
        reply, _ = await worker.ask({"on": True})
    return Findings.model_validate(reply.get("findings"))


def _write(path: Path, text: str) -> None:
    """For its owner's eyes alone, from the first byte."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(file, "w", encoding="utf-8") as page_file:
        page_file.write(text)
    os.replace(draft, path)
