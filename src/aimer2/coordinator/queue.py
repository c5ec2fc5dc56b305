"""Tasks for sites and their replies: rows in the database, and a signal per site and study so that nobody polls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from pydantic import TypeAdapter
from pydantic_core import to_json
from sqlalchemy import Connection

from aimer2.coordinator.presence import Presence
from aimer2.coordinator.registry import Registry
from aimer2.coordinator.signal import Signal
from aimer2.coordinator.storage import Storage
from aimer2.coordinator.store.database import Database, read_changes
from aimer2.coordinator.store.members import drop_upload, has_uploaded
from aimer2.coordinator.store.tasks import Key, NewTask, Put, find_tasks, open_tasks, put_tasks, record_replies, withdraw_tasks
from aimer2.core.clock import Clock
from aimer2.core.errors import Conflict, NotAllowed, NotApproved, NotFound
from aimer2.core.task import Answer, BlobRef, Refusal, Reply, Task
from aimer2.identity.documents import sign_document
from aimer2.identity.keys import PublicKey, SigningKey
from aimer2.messages.wire import ATTACHED_BYTES, Exchange, attach, detach, task_key
from aimer2.study.refused import vouched

_REPLY: TypeAdapter[Reply] = TypeAdapter(Reply)


@final
@dataclass(slots=True)
class _Entry:
    """A task that somebody waits for."""

    task: Task
    signed: str
    attachments: Mapping[str, str]
    reply: Reply | None = None
    is_fetched: bool = False


@final
@dataclass(frozen=True, slots=True)
class QueueParts:
    """What the queue stands on."""

    database: Database
    registry: Registry
    storage: Storage
    presence: Presence
    key: SigningKey
    clock: Clock


@final
class Queue:
    """All tasks of all studies. Sites talk to it by ``exchange``, a study's conductor through a `StudyQueue`."""

    def __init__(self, parts: QueueParts) -> None:
        self._parts = parts
        self._entries: dict[Key, _Entry] = {}
        self._open: dict[str, dict[str, _Entry]] = {}
        self._work: dict[str, Signal] = {}
        self._arrivals: dict[str, Signal] = {}
        self._conducted: set[str] = set()
        self._settled: set[Key] | None = None
        """While ``load`` reads: what was closed or forgotten meanwhile, of which it reads what is old."""
        self.number = -1
        self.closing = False

    @property
    def open_count(self) -> int:
        return sum(len(entries) for entries in self._open.values())

    # -- the conductor's side

    def of(self, study: str) -> StudyQueue:
        """The queue of a study that this process conducts."""
        self._conducted.add(study)
        return self.view(study)

    def leave(self, study: str) -> None:
        """This process conducts the study no longer: replies to its tasks are told to other processes."""
        self._conducted.discard(study)

    def view(self, study: str) -> StudyQueue:
        return StudyQueue(self, study)

    def approved(self, study: str) -> list[str]:
        """The sites that take part now: approved, and not revoked."""
        return self._parts.registry.approved(study, self._parts.clock.now())

    async def put(self, tasks: Sequence[Task]) -> None:
        now = self._parts.clock.now()
        approved = {study: self.approved(study) for study in {task.study for task in tasks}}
        put, entries = await self._parts.database.write(self._put, tasks, approved, now)
        self._note(put.number)
        for key, entry in entries.items():
            known = self._entries.setdefault(key, entry)
            known.reply = known.reply or entry.reply
            if known.reply is None:
                self._open.setdefault(entry.task.site, {})[task_key(*key)] = known
        self.wake({task.site for task in tasks})

    def _put(self, connection: Connection, tasks: Sequence[Task], approved: Mapping[str, Sequence[str]], now: float) -> tuple[Put, dict[Key, _Entry]]:
        refusals = {_key(task): _refusal(task) for task in tasks if task.site not in approved[task.study]}
        known = {key: refusal.model_dump_json() for key, refusal in refusals.items()}
        new = [NewTask(*_key(task), task.study, task.site, task.model_dump_json(), known.get(_key(task))) for task in tasks]
        put = put_tasks(connection, new, now)
        inlined: dict[str, str | None] = {}
        entries = {_key(task): self._entry(task, row.document, inlined) for task, row in zip(tasks, new, strict=True)}
        for key, text in put.replies.items():
            entries[key].reply = _REPLY.validate_json(text)
        for key, refusal in refusals.items():
            entries[key].reply = entries[key].reply or refusal
        return put, entries

    async def replies(self, tasks: Sequence[Task]) -> AsyncIterator[Reply]:
        """Each task's reply once, those that are there first."""
        pending = {_key(task): task for task in tasks}
        if not pending:
            return
        arrivals = self._arrivals.setdefault(tasks[0].study, Signal())
        if any(key not in self._entries for key in pending):
            await self.put(tasks)
        while pending:
            seen = arrivals.count
            for key in list(pending):
                entry = self._entries.get(key)
                if entry is not None and entry.reply is not None:
                    del self._entries[key], pending[key]
                    # The caller may take its time: replies that come meanwhile have counted.
                    yield entry.reply
            if pending:
                await arrivals.wait(seen)

    async def withdraw(self, tasks: Sequence[Task]) -> None:
        keys = [_key(task) for task in tasks]
        if not keys:
            return
        self._note(await self._parts.database.write(withdraw_tasks, keys))
        self._forget(keys)

    async def withdraw_study(self, study: str) -> None:
        await self.withdraw([entry.task for entry in self._entries.values() if entry.task.study == study and entry.reply is None])

    async def refuse(self, site: str, study: str | None = None) -> None:
        """A site that has withdrawn or was revoked: its open tasks are answered for it, so that no round waits."""
        entries = [entry for entry in self._open.get(site, {}).values() if study in (None, entry.task.study)]
        await self._store(site, {_key(entry.task): _refusal(entry.task) for entry in entries})

    # -- the sites' side

    async def exchange(self, site: str, exchange: Exchange) -> bytes:
        """Takes replies in, and answers as soon as there is something for the site: see `messages.wire.Exchange`."""
        parts = self._parts
        parts.presence.arrived(site, exchange.status)
        try:
            if exchange.replies:
                await self._take(site, exchange)
            work = self._work.setdefault(site, Signal())
            end = parts.clock.monotonic() + exchange.wait_seconds
            while True:
                seen = work.count
                answer = self._answer(site, exchange)
                left = end - parts.clock.monotonic()
                if len(answer) > 2 or left <= 0 or self.closing:
                    return to_json(answer)
                await work.wait(seen, left)
        finally:
            parts.presence.left(site)

    def _answer(self, site: str, exchange: Exchange) -> dict[str, Any]:
        """The body; one with more than ``revision`` and ``time`` is worth sending."""
        registry = self._parts.registry
        revision = registry.sites[site].revision
        answer: dict[str, Any] = {"revision": revision, "time": self._parts.clock.now()}
        entries = self._open.get(site, {})
        frozen = registry.frozen
        fresh = [entry for key, entry in entries.items() if key not in exchange.holding and self._goes_on(entry.task)]
        for key, entry in entries.items():
            entry.is_fetched = entry.is_fetched or key in exchange.holding or self._goes_on(entry.task)
        if fresh:
            answer["tasks"] = [entry.signed for entry in fresh]
            answer["attachments"] = {sha256: text for entry in fresh for sha256, text in entry.attachments.items()}
        withdrawn = [key for key in exchange.holding if key not in entries]
        if withdrawn:
            answer["withdrawn"] = withdrawn
        if revision != exchange.revision:
            answer["studies"] = [notice.model_dump() for notice in registry.notices(site)]
            if frozen.frozen:
                answer["frozen"] = f"{frozen.by}: {frozen.reason}"
        return answer

    def _goes_on(self, task: Task) -> bool:
        """Whether sites may begin with it: nothing is frozen, and its study runs. A rehearsal computes nothing: it may come before."""
        registry = self._parts.registry
        study = registry.studies.get(task.study)
        return not registry.frozen.frozen and (task.stage == "preflight" or (study is not None and study.state == "running"))

    async def _take(self, site: str, exchange: Exchange) -> None:
        """Replies to tasks that are not open any more change nothing: they were sent twice, or came too late."""
        open_here = self._open.get(site, {})
        wanted: dict[Key, Reply] = {}
        for reply in exchange.replies:
            if reply.site != site:
                raise NotAllowed("A site answers for itself only.")
            if task_key(reply.task, reply.attempt) in open_here:
                wanted[reply.task, reply.attempt] = self._vouched(site, reply)
        await self._store(site, wanted, exchange.attachments)

    def _vouched(self, site: str, reply: Reply) -> Reply:
        if not isinstance(reply, Refusal) or not reply.signed:
            return reply
        study = self._entries[reply.task, reply.attempt].task.study
        # The key that the study knows of the site: with that one its record will be checked, and a newer one says nothing there.
        return vouched(reply, study, PublicKey.from_text(self._parts.registry.study(study).package.roster[site]))

    async def _store(self, site: str, replies: Mapping[Key, Reply], attachments: Mapping[str, str] | None = None) -> None:
        if not replies:
            return
        studies = {key: self._entries[key].task.study for key in replies}
        number = await self._parts.database.write(self._record, site, replies, studies, attachments or {})
        self._note(number)
        for key, reply in replies.items():
            self._close(key, reply)
        for study in set(studies.values()):
            if study in self._arrivals:
                self._arrivals[study].set()

    def _record(
        self, connection: Connection, site: str, replies: Mapping[Key, Reply], studies: Mapping[Key, str], attachments: Mapping[str, str]
    ) -> int | None:
        for key, reply in replies.items():
            if isinstance(reply, Answer) and reply.sums:
                self._keep(connection, site, studies[key], reply, attachments)
        tell = not self._conducted.issuperset(studies.values())
        texts = ((key, reply.model_dump_json()) for key, reply in replies.items())
        return record_replies(connection, texts, self._parts.clock.now(), tell=tell)

    def _keep(self, connection: Connection, site: str, study: str, answer: Answer, attachments: Mapping[str, str]) -> None:
        """The answer's blobs come into the study's store: attached, or uploaded before by this very site."""
        refs = set(answer.sums.values())
        here = {ref.sha256: detach(ref.sha256, attachments[ref.sha256]) for ref in refs if ref.sha256 in attachments}
        if here:
            self._parts.storage.of(study).put(*here.values(), names=tuple(here))
        for ref in refs:
            if ref.sha256 in here:
                continue
            if not has_uploaded(connection, ref.sha256, f"site:{site}"):
                raise Conflict("The answer names a blob that this site has not uploaded.", remedy="Upload it, then answer again.")
            try:
                self._parts.storage.claim(study, [ref])
            except NotFound as error:
                raise Conflict(error.sentence, remedy="Upload it, then answer again.") from None
            if drop_upload(connection, ref.sha256, f"site:{site}"):
                self._parts.storage.staging.delete(ref)

    # -- both

    def wake(self, sites: Collection[str] | None = None) -> None:
        """Every waiting exchange of these sites (None: of all) looks again."""
        for site in self._work if sites is None else sites:
            if site in self._work:
                self._work[site].set()

    def close(self) -> None:
        """Lets every waiting site go."""
        self.closing = True
        self.wake()

    def open_tasks(self, study: str) -> list[tuple[Task, bool]]:
        """A study's tasks that wait for a reply, in the order of sites, and whether the site has fetched them."""
        found = [entry for entries in self._open.values() for entry in entries.values() if entry.task.study == study]
        return [(entry.task, entry.is_fetched) for entry in sorted(found, key=lambda entry: (entry.task.site, entry.task.id))]

    def inputs_of(self, site: str) -> dict[str, str]:
        """Blobs of the site's open tasks, with the study that each belongs to."""
        entries = self._open.get(site, {}).values()
        return {ref.sha256: entry.task.study for entry in entries for ref in entry.task.blobs}

    async def load(self) -> None:
        """What the database holds: after a start, and when another process has changed something."""
        waiting = [key for key, entry in self._entries.items() if entry.reply is None]
        settled = self._settled = set()
        number, rows, answered = await self._parts.database.read(self._read, waiting)
        self._settled = None
        self.number = max(self.number, number)
        inlined: dict[str, str | None] = {}
        found = {(row.id, row.attempt): row.document for row in rows}
        for key, document in found.items():
            if key not in self._entries and key not in settled:
                entry = self._entries[key] = self._entry(Task.model_validate_json(document), document, inlined)
                self._open.setdefault(entry.task.site, {})[task_key(*key)] = entry
        for key in set(waiting) - settled:
            if key in answered and key in self._entries:
                self._close(key, _REPLY.validate_json(answered[key]))
            elif key not in found:
                self._forget([key])
        self.wake()
        for signal in self._arrivals.values():
            signal.set()

    def _read(self, connection: Connection, waiting: Sequence[Key]) -> tuple[int, Sequence[Any], dict[Key, str]]:
        number = read_changes(connection)["tasks"]
        answered = {(row.id, row.attempt): row.reply for row in find_tasks(connection, waiting) if row.reply is not None} if waiting else {}
        return number, open_tasks(connection), answered

    def _entry(self, task: Task, document: str, inlined: dict[str, str | None]) -> _Entry:
        signed = sign_document(document.encode(), self._parts.key, kind="task")
        for ref in task.blobs:
            if ref.sha256 not in inlined:
                inlined[ref.sha256] = self._inline(task.study, ref)
        return _Entry(task, signed, {ref.sha256: text for ref in task.blobs if (text := inlined[ref.sha256]) is not None})

    def _inline(self, study: str, ref: BlobRef) -> str | None:
        """None: the site fetches it; a blob that has gone then fails this task, and not the coordinator."""
        if ref.size > ATTACHED_BYTES:
            return None
        try:
            return attach(self._parts.storage.of(study).open(ref).view())
        except NotFound:
            return None

    def _close(self, key: Key, reply: Reply) -> None:
        self._settle(key)
        entry = self._entries.get(key)
        if entry is not None:
            self._open.get(entry.task.site, {}).pop(task_key(*key), None)
            entry.reply = entry.reply or reply

    def _forget(self, keys: Collection[Key]) -> None:
        for key in keys:
            self._settle(key)
            entry = self._entries.pop(key, None)
            if entry is not None:
                self._open.get(entry.task.site, {}).pop(task_key(*key), None)
                self.wake([entry.task.site])

    def _settle(self, key: Key) -> None:
        if self._settled is not None:
            self._settled.add(key)

    def _note(self, number: int | None) -> None:
        # A gap means that another process has changed something too; then the old number stays, and the keeper reads again.
        if number is not None and number == self.number + 1:
            self.number = number


@final
@dataclass(frozen=True, slots=True)
class StudyQueue:
    """One study's view of the queue: the `TaskQueue` that its engine works on."""

    queue: Queue
    study: str

    async def sites(self) -> Sequence[str]:
        """Those whose approval holds now."""
        return self.queue.approved(self.study)

    async def put(self, tasks: Sequence[Task]) -> None:
        await self.queue.put(tasks)

    def replies(self, tasks: Sequence[Task]) -> AsyncIterator[Reply]:
        return self.queue.replies(tasks)

    async def withdraw(self, tasks: Sequence[Task]) -> None:
        await self.queue.withdraw(tasks)


def _key(task: Task) -> Key:
    return task.id, task.attempt


def _refusal(task: Task) -> Refusal:
    reason = "The site has withdrawn, or its approval has ended."
    return Refusal(task=task.id, attempt=task.attempt, site=task.site, code=NotApproved.code, reason=reason)
