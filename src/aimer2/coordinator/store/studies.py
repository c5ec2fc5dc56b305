"""Transactions on studies: their state, lease, decisions, events, checkpoint and result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from sqlalchemy import Connection, Row, and_, func, insert, or_, select, update

from aimer2.coordinator.store.database import Prepared, note_change
from aimer2.coordinator.store.members import has_uploaded
from aimer2.coordinator.store.schema import decisions, events, freezes, sites, studies
from aimer2.core.errors import Conflict
from aimer2.core.task import BlobRef
from aimer2.messages.wire import Decision, StudyState


@final
@dataclass(frozen=True, slots=True)
class NewStudy:
    digest: str
    package: str
    roster: Sequence[str]
    submitted_by: str
    submitted: float
    supersedes: str | None = None


@final
@dataclass(frozen=True, slots=True)
class EventRow:
    """An event as JSON, and the model that it names."""

    document: str
    model: str | None = None
    round_number: int | None = None


def add_study(connection: Connection, new: NewStudy) -> None:
    """Raises Conflict where another version has taken the place of the same study meanwhile, or that study runs by now."""
    if new.supersedes is not None:
        if _has_successor(connection, new.supersedes):
            raise Conflict("Another new version of this study was submitted meanwhile.", remedy="`aimer2 study versions` shows it.")
        if connection.execute(select(studies.c.state).where(studies.c.digest == new.supersedes)).scalar_one_or_none() == "running":
            raise Conflict("The study that this one supersedes is running.", remedy="Stop it first, or let it finish.")
    values = {"package": new.package, "submitted_by": new.submitted_by, "submitted": new.submitted, "supersedes": new.supersedes}
    connection.execute(insert(studies).values(digest=new.digest, state="offered", **values))
    _tell_sites(connection, new.roster)


def _has_successor(connection: Connection, digest: str) -> bool:
    return connection.execute(select(studies.c.digest).where(studies.c.supersedes == digest)).first() is not None


def read_study(connection: Connection, digest: str) -> Row[Any] | None:
    return connection.execute(select(studies).where(studies.c.digest == digest)).one_or_none()


def read_studies(connection: Connection) -> Sequence[Row[Any]]:
    """Every study without its bulky columns, oldest first."""
    columns = (c for c in studies.c if c.name not in ("package", "checkpoint", "result"))
    return connection.execute(select(*columns).order_by(studies.c.submitted, studies.c.digest)).all()


def read_rounds(connection: Connection) -> dict[str, int]:
    """Of each study the last training round that has ended."""
    return {row.digest: row.round_number for row in connection.execute(select(studies.c.digest, studies.c.round_number))}


def read_packages(connection: Connection, digests: Sequence[str]) -> dict[str, str]:
    found = connection.execute(select(studies.c.digest, studies.c.package).where(studies.c.digest.in_(digests)))
    return {row.digest: row.package for row in found}


def add_decision(connection: Connection, decision: Decision, key: str, statement: str) -> bool:
    """Records the decision verbatim; False where this very statement is the last one already. Raises Conflict for one older than the last."""
    last = connection.execute(
        select(decisions.c.time, decisions.c.statement)
        .join(sites, sites.c.site == decisions.c.site)
        .where(decisions.c.study == decision.study, decisions.c.site == decision.site, decisions.c.number >= sites.c.first_decision)
        .order_by(decisions.c.number.desc())
        .limit(1)
    ).one_or_none()
    if last is not None and last.statement == statement:
        return False
    if last is not None and decision.time <= last.time:
        raise Conflict("The site has decided again since: an older decision is not recorded.")
    values = decision.model_dump(include={"study", "site", "decision", "by", "reason", "until", "time"})
    connection.execute(insert(decisions).values(key=key, statement=statement, **values))
    note_change(connection, "registry")
    return True


def latest_decisions(connection: Connection) -> Sequence[Row[Any]]:
    """The last decision of each site about each study."""
    last = select(func.max(decisions.c.number)).group_by(decisions.c.study, decisions.c.site)
    return connection.execute(select(decisions).where(decisions.c.number.in_(last))).all()


@final
@dataclass(frozen=True, slots=True)
class Transition:
    """From one of these states to another; told to these sites."""

    digest: str
    before: tuple[StudyState, ...]
    after: StudyState
    roster: Sequence[str]
    reason: str = ""
    holder: str | None = None
    """Only if this process holds the study's lease; None: whoever holds it."""


def change_state(connection: Connection, change: Transition, rows: Sequence[EventRow] = (), result: str | None = None) -> bool:
    """Moves a study on, with its last events and its result; False where it is in another state or held by another process.

    Nothing starts while all is frozen, nor a study that has a newer version: False as well.
    """
    if change.after == "running":
        frozen = connection.execute(select(freezes.c.frozen).order_by(freezes.c.number.desc()).limit(1)).scalar_one_or_none()
        if frozen or _has_successor(connection, change.digest):
            return False
    statement = update(studies).where(studies.c.digest == change.digest, studies.c.state.in_(change.before))
    if change.holder is not None:
        statement = statement.where(studies.c.holder == change.holder)
    values: dict[str, Any] = {"state": change.after, "reason": change.reason, "holder": None, "lease_until": None}
    if result is not None:
        values["result"] = result
    if (number := _round_of(rows)) is not None:
        values["round_number"] = number
    if connection.execute(statement.values(**values)).rowcount != 1:
        return False
    _append(connection, change.digest, rows)
    _tell_sites(connection, change.roster)
    return True


def pause_running(connection: Connection, reason: str, event: EventRow) -> list[str]:
    """Every running study is paused, whoever conducts it: what he then writes under his lease is not stored."""
    statement = update(studies).where(studies.c.state == "running").values(state="paused", reason=reason, holder=None, lease_until=None)
    paused = sorted(connection.execute(statement.returning(studies.c.digest)).scalars())
    for digest in paused:
        _append(connection, digest, [event])
    return paused


def set_archived(connection: Connection, digest: str, moment: float | None) -> bool:
    """False where the study has not ended."""
    ended = (studies.c.digest == digest, studies.c.state.in_(("finished", "stopped")))
    changed = connection.execute(update(studies).where(*ended).values(archived=moment)).rowcount == 1
    note_change(connection, "registry")
    return changed


def acquire_leases(connection: Connection, holder: str, earlier: str, now: float, until: float) -> list[str]:
    """The running studies that are nobody's, whose holder is silent, or whose holder was an earlier process (a prefix) of this folder."""
    ours_before = and_(studies.c.holder.startswith(earlier, autoescape=True), studies.c.holder != holder)
    free = or_(studies.c.holder.is_(None), studies.c.lease_until < now, ours_before)
    taken = connection.execute(
        update(studies).where(studies.c.state == "running", free).values(holder=holder, lease_until=until).returning(studies.c.digest)
    )
    return sorted(taken.scalars())


def renew_leases(connection: Connection, holder: str, until: float) -> set[str]:
    """The studies that are still this process's."""
    kept = connection.execute(
        update(studies).where(studies.c.state == "running", studies.c.holder == holder).values(lease_until=until).returning(studies.c.digest)
    )
    return set(kept.scalars())


def release_leases(connection: Connection, holder: str) -> None:
    connection.execute(update(studies).where(studies.c.holder == holder).values(holder=None, lease_until=None))


_SAVE = Prepared("""
    UPDATE studies SET checkpoint = :document, round_number = coalesce(:number, round_number) WHERE digest = :study AND holder = :holder
""")


def save_checkpoint(connection: Connection, digest: str, holder: str, document: str, rows: Sequence[EventRow]) -> None:
    """The checkpoint and the events up to it. Raises Conflict, and stores nothing, where another process has taken the study over."""
    values = {"study": digest, "holder": holder, "document": document, "number": _round_of(rows)}
    if _SAVE.run(connection, values).rowcount != 1:
        raise Conflict("Another process conducts this study now.")
    _append(connection, digest, rows)


def load_checkpoint(connection: Connection, digest: str) -> str | None:
    found: str | None = connection.execute(select(studies.c.checkpoint).where(studies.c.digest == digest)).scalar_one()
    return found


def append_events(connection: Connection, digest: str, holder: str, rows: Sequence[EventRow]) -> bool:
    """False, and nothing stored, where another process has taken the study over."""
    if _REACH.run(connection, {"study": digest, "holder": holder, "number": _round_of(rows)}).rowcount != 1:
        return False
    _append(connection, digest, rows)
    return True


def read_events(connection: Connection, digest: str, after: int, limit: int = 200) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = _EVENTS.run(connection, {"study": digest, "after": after, "most": limit}).fetchall()
    return found


def last_event(connection: Connection, digest: str) -> int:
    """Its number; 0 where there is none."""
    found: int = _LAST.run(connection, {"study": digest}).fetchone()[0]
    return found


def last_model(connection: Connection, digest: str) -> str | None:
    """The newest model that an event names."""
    named = select(events.c.model).where(events.c.study == digest, events.c.model.is_not(None)).order_by(events.c.sequence.desc()).limit(1)
    found: str | None = connection.execute(named).scalar_one_or_none()
    return found


def studies_of_model(connection: Connection, sha256: str) -> set[str]:
    return set(connection.execute(select(events.c.study).where(events.c.model == sha256)).scalars())


_REACH = Prepared("UPDATE studies SET round_number = coalesce(:number, round_number) WHERE digest = :study AND holder = :holder")
_EVENTS = Prepared("SELECT sequence, document FROM events WHERE study = :study AND sequence > :after ORDER BY sequence LIMIT :most")
_LAST = Prepared("SELECT coalesce(max(sequence), 0) FROM events WHERE study = :study")
_ADD = Prepared("INSERT INTO events (study, sequence, document, model) VALUES (:study, :sequence, :document, :model)")


def _append(connection: Connection, digest: str, rows: Sequence[EventRow]) -> None:
    if not rows:
        return
    last = last_event(connection, digest)
    numbered = [{"study": digest, "sequence": last + 1 + i, "document": row.document, "model": row.model} for i, row in enumerate(rows)]
    _ADD.run_many(connection, numbered)


def _round_of(rows: Sequence[EventRow]) -> int | None:
    return next((row.round_number for row in reversed(rows) if row.round_number is not None), None)


def _tell_sites(connection: Connection, roster: Sequence[str]) -> None:
    connection.execute(update(sites).where(sites.c.site.in_(roster)).values(revision=sites.c.revision + 1))
    note_change(connection, "registry")


def missing_uploads(connection: Connection, refs: Sequence[BlobRef], owner: str) -> list[str]:
    """SHA-256 of those blobs that this owner has not uploaded."""
    return [ref.sha256 for ref in refs if not has_uploaded(connection, ref.sha256, owner)]


def read_result(connection: Connection, digest: str) -> tuple[int, str | None]:
    """The last training round that has ended, and the signed result."""
    found = connection.execute(select(studies.c.round_number, studies.c.result).where(studies.c.digest == digest)).one()
    return found.round_number, found.result
