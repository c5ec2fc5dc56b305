"""One task at the site: allowed or refused, computed in the study's worker, checked, stored; only then may it leave."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from aimer2.blobs.folder import FolderStore
from aimer2.core.errors import (
    AimerError,
    BudgetExceeded,
    Conflict,
    Frozen,
    NotAllowed,
    NotApproved,
    NotFound,
    OutOfResources,
    Tampered,
    VersionMismatch,
)
from aimer2.core.protocols import Blob
from aimer2.core.study import Study
from aimer2.core.task import Answer, BlobRef, Failure, Refusal, Reply, Task
from aimer2.messages.package import Package
from aimer2.messages.wire import ATTACHED_BYTES, Decision, attach, task_key
from aimer2.site import approved, check, snapshots
from aimer2.site.approval import stands
from aimer2.site.connection import Connection
from aimer2.site.decisions import Decisions
from aimer2.site.incoming import Coming, Persist
from aimer2.site.ledger import Ledger, Ledgers
from aimer2.site.memory_files import close, open_blob
from aimer2.site.outgoing import Handed, Protected, Work, handed_over, protect, short
from aimer2.site.questioning import Questioning
from aimer2.site.secret_sums import SecretSums
from aimer2.site.settings import Settings
from aimer2.site.store import Finished, Standing, Stored
from aimer2.site.threads import to_the_end
from aimer2.site.workers import Opening, Worker, WorkerDied, Workers, of_death
from aimer2.study.compressing import MEMORY
from aimer2.study.evaluation import released
from aimer2.study.private_questions import question_terms
from aimer2.study.refused import signed
from aimer2.study.secure_update import SecureUpdate
from aimer2.study.spending import spending

if TYPE_CHECKING:
    from aimer2.privacy.accounting import Spent

_INLINE_BYTES = 1 << 20
_HOUR = 3600
_REFUSALS = (NotApproved, VersionMismatch, NotFound, Conflict, NotAllowed, Tampered)


@final
@dataclass(frozen=True, slots=True)
class Ready:
    """A reply that may leave, with the small blobs that ride along."""

    study: str
    reply: Reply
    attachments: Mapping[str, str]

    @property
    def key(self) -> str:
        return task_key(self.reply.task, self.reply.attempt)


@final
class Performing:
    """All studies of the site; the tasks of one study one after the other."""

    def __init__(self, decisions: Decisions, settings: Settings, connection: Connection, workers: Workers, persist: Persist[Any]) -> None:
        self._decisions = decisions
        self._settings = settings
        self._connection = connection
        self._workers = workers
        self._persist = persist
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._packages: dict[str, Package] = {}
        self._blobs: dict[str, FolderStore] = {}
        self._ledgers = Ledgers(decisions.folder, decisions.key, decisions.audit, decisions.clock)
        self.secret_sums = SecretSums(decisions, settings)
        self._questioning = Questioning(decisions, settings.disclosure)
        self._stopped: set[str] = set()
        self.halted = ""
        """Why nothing of any study may run or leave, while somebody has frozen everything."""

    def blobs(self, study: str) -> FolderStore:
        if study not in self._blobs:
            self._blobs[study] = FolderStore(self._decisions.folder.blobs(study))
        return self._blobs[study]

    async def reply(self, task: Task, attachments: Mapping[str, str]) -> Ready:
        """Refusal and failure are replies too; raises nothing but cancellation and what is a fault of the agent itself."""
        async with self._locks[task.study]:
            try:
                return await self._answer(task, attachments)
            except _REFUSALS as error:
                return self._no(Refusal, task, error)
            except AimerError as error:
                return self._no(Failure, task, error)

    def _no(self, kind: type[Refusal] | type[Failure], task: Task, error: AimerError) -> Ready:
        reason = error.sentence if kind is Refusal else _class_sentence(error)
        reply = kind(task=task.id, attempt=task.attempt, site=task.site, code=error.code, reason=reason)
        if isinstance(reply, Refusal):
            reply = signed(reply, task.study, self._decisions.key, self._decisions.clock.now())
        return Ready(task.study, reply, {})

    async def _answer(self, task: Task, attachments: Mapping[str, str]) -> Ready:
        standing = self._decisions.store.standing(task)
        package, decision = self._approved(task, standing.decision)
        secure = self.secret_sums.member(task, package)
        if task.phase != "update":
            return await self._say(task, secure)
        stored = standing.stored
        if stored is not None:
            if stored.study != task.study or stored.erased:
                raise Conflict("This task was answered before, and its sums are no longer kept here.")
            await self._settle(package, decision, stored.answer)
            return await self.ready(task.study, stored.answer)
        opening = self._opening(task, decision, standing)
        left_out = {name: ref for name, ref in standing.memory.items() if name.startswith(MEMORY)}
        memory = {name: ref for name, ref in standing.memory.items() if name not in left_out}
        return await self._compute(Work(task, package, decision.dataset, secure, left_out), opening, memory, attachments)

    async def _say(self, task: Task, secure: SecureUpdate | None) -> Ready:
        """A phase without data: signed and kept, no worker is woken. In a thread where there are many keys to deal out."""
        assert secure is not None
        if task.phase == "agree":
            self.secret_sums.watch(task, secure)
        message = await to_the_end(secure.say, task) if task.phase in ("keys", "shares") else secure.say(task)
        return Ready(task.study, Answer(task=task.id, attempt=task.attempt, site=task.site, message=message), {})

    def _approved(self, task: Task, decision: Decision | None) -> tuple[Package, Decision]:
        """Before anything of the study is read. Raises NotApproved, VersionMismatch, Frozen."""
        if self.halted:
            raise Frozen(self.halted)
        package = self._package(task.study)
        why = "This study is not known here." if package is None else stands(decision, package, self._decisions.clock.now())
        if why is not None or package is None or decision is None:
            raise NotApproved(why or "")
        # A data contract may also be looked at outside the rounds.
        lowest = 0 if task.stage == "preflight" else 1
        if not lowest <= task.round_number <= approved.rounds(package.study, task.stage):
            raise NotApproved("The approved study has no such round.")
        if self._decisions.store.fact(f"reported {task.study}") is not None:
            raise NotApproved("The study has ended at this site.")
        approved.require_methods(package)
        return package, decision

    def _package(self, study: str) -> Package | None:
        if study not in self._packages:
            known = self._decisions.store.study(study)
            if known is None or known.package is None:
                return None
            self._packages[study] = known.package
        return self._packages[study]

    async def ready(self, study: str, answer: Answer, here: Mapping[str, bytes] | None = None) -> Ready:
        """A stored answer on its way out: large sums are uploaded first, small ones ride along; ``here``: bytes that are still in memory."""
        attachments = {}
        known = here or {}
        for ref in dict.fromkeys(answer.sums.values()):
            if ref.sha256 in known:
                attachments[ref.sha256] = attach(known[ref.sha256])
                continue
            blob = self.blobs(study).open(ref)
            if ref.size <= ATTACHED_BYTES:
                attachments[ref.sha256] = attach(blob.view())
            else:
                await self._persist(partial(self._connection.put, blob, lambda: bool(self.halted) or study in self._stopped))
        return Ready(study, answer, attachments)

    async def stored(self, stored: Stored) -> Ready | None:
        """An answer from before a restart; None where it may not leave any more."""
        known, decision = self._package(stored.study), self._decisions.store.decision(stored.study)
        if self.halted or known is None or decision is None or stands(decision, known, self._decisions.clock.now()) is not None:
            return None
        await self._settle(known, decision, stored.answer)
        ready = await self.ready(stored.study, stored.answer)
        # A person may have called it off meanwhile.
        return None if self.halted or stored.study in self._stopped else ready

    async def _compute(self, work: Work, opening: Opening, memory: Mapping[str, BlobRef], attachments: Mapping[str, str]) -> Ready:
        task, secure = work.task, work.secure
        if secure is not None:
            await to_the_end(secure.begin, task) if secure.has_shares(task) else secure.begin(task)
        if task.stage == "preflight":
            # A process that has run the study's code has no word on what the data are.
            await self._workers.end(task.study)
        coming = Coming(self._connection, self._persist, self.blobs(task.study))
        received = {name: await coming.take(task, name, attachments) for name in task.inputs}
        ledger = await self._reserve(work)
        handed, files, cpu_seconds = await self._ask(task, opening, received, memory)
        try:
            look = self._questioning.look
            said = await to_the_end(look, work, opening, handed) if handed.cohorts else look(work, opening, handed)
        except BaseException:
            close(files)
            # It says but once whose values its sums are made of: the next attempt is looked at as this one was.
            await self._workers.end(task.study)
            raise
        protected = await self._protect(work, received, handed, files)
        telling = released(work.package.study, task.stage, handed.figures, self._settings.disclosure.minimum_cell)
        if telling and not self._decisions.store.releases(task):
            telling = ()
        answer = Answer(
            task=task.id,
            attempt=task.attempt,
            site=task.site,
            sums={name: one.ref for name, one in protected.sums.items()},
            checks=short((*handed.checks, *said)),
            message=protected.message,
            released=telling,
        )
        changed = {name: one.ref for name, one in protected.memory.items()}
        kept = {name: ref for name, ref in memory.items() if name in handed.kept} | changed
        figures = [figure.model_dump() for figure in handed.figures]
        self._decisions.store.commit(Finished(task, answer, kept, figures, cpu_seconds, self._decisions.clock.now()))
        if ledger is not None:
            await asyncio.to_thread(ledger.commit, task.study, task.id, task.attempt)
        stored = (*protected.sums.values(), *protected.memory.values())
        return await self.ready(task.study, answer, {one.ref.sha256: one.data for one in stored if one.data is not None})

    async def _reserve(self, work: Work) -> Ledger | None:
        """What the task costs its patients' privacy is spent before anything is computed. None where it costs nothing.

        Raises BudgetExceeded.
        """
        if work.package.study.privacy.differential_privacy is None:
            return None
        if work.task.stage == "preflight":
            return None
        spent = await asyncio.to_thread(spending, work.package.study, work.task.stage, work.task.round_number)
        if spent is None:
            raise NotApproved("The approved study tells nothing in this stage that its privacy does not pay for.")
        ledger = await asyncio.to_thread(self._ledgers.of, work.dataset)
        await asyncio.to_thread(_reserve_in, ledger, work, spent)
        return ledger

    async def _settle(self, package: Package, decision: Decision, answer: Answer) -> None:
        """Before a stored update is sent again: a crash may have left its cost reserved only."""
        if package.study.privacy.differential_privacy is not None:
            await asyncio.to_thread(self._ledgers.settle, decision.dataset, decision.study, answer.task, answer.attempt)

    def _opening(self, task: Task, decision: Decision, standing: Standing) -> Opening:
        """Raises NotFound where the data set has no snapshot, OutOfResources where the study has used up its hours or disk."""
        folder, worker = self._decisions.folder, self._settings.worker
        left = int(worker.cpu_hours * _HOUR - standing.cpu_seconds)
        if left < 1:
            raise OutOfResources("The study has used up its processor hours at this site.")
        # What comes in, and about as much to go out.
        coming = 2 * sum(ref.size for ref in task.inputs.values())
        if standing.bytes_kept + coming > worker.disk_mib << 20:
            raise OutOfResources("The study has used up its disk at this site.")
        snapshot = snapshots.current(folder, decision.dataset, self._settings.retention, self._decisions.clock.now())
        limits = self._settings.disclosure
        return Opening(task.site, folder.study(task.study), snapshot.path, snapshot.sha256, left, worker, limits)

    async def _ask(
        self, task: Task, opening: Opening, received: Mapping[str, Blob], memory: Mapping[str, BlobRef]
    ) -> tuple[Handed, list[int], float]:
        """A worker that was killed before it answered is started once more: nothing of its work has left or is kept."""
        document = {"task": task.model_dump(mode="json"), "received": list(received), "memory": list(memory)}
        stored = [self.blobs(task.study).open(ref) for ref in memory.values()]
        for attempt in (1, 2):
            begun = self._decisions.clock.monotonic()
            try:
                async with asyncio.timeout(opening.settings.task_hours * _HOUR):
                    worker = await self._workers.take(task.study, opening)
                    reply, files = await worker.ask(document, [open_blob(blob) for blob in (*received.values(), *stored)])
                self._workers.rest(task.study)
                return handed_over(reply, files), files, worker.cpu_seconds_since()
            except WorkerDied as death:
                await self._workers.end(task.study)
                # What a process that is gone has used nobody can say; it was at most this, as it has one thread by default.
                self._decisions.store.spend(task.study, self._decisions.clock.monotonic() - begun)
                error = of_death(death)
                if attempt == 2 or not death.killed:
                    raise error from None
            except TimeoutError:
                await self._stop(task.study)
                raise OutOfResources("The task took longer than this site allows.") from None
            except AimerError:
                self._charge(task.study)
                self._workers.rest(task.study)
                raise
            except asyncio.CancelledError:
                # Half-way through a task: its late answer must not be taken for that of the next one.
                await self._stop(task.study)
                raise
        raise AssertionError

    async def _stop(self, study: str) -> None:
        self._charge(study)
        await self._workers.end(study)

    def _charge(self, study: str) -> None:
        worker: Worker | None = self._workers.warm(study)
        if worker is not None:
            self._decisions.store.spend(study, worker.cpu_seconds_since())

    async def _protect(self, work: Work, received: Mapping[str, Blob], handed: Handed, files: list[int]) -> Protected:
        """Checks, masks and stores sums, then memory; closes the files."""
        try:
            wanted = self._wanted(work.task, work.package, received, handed)
            large = sum(os.fstat(file).st_size for file in files) > _INLINE_BYTES
        except BaseException:
            close(files)
            raise
        given = (work, received, handed, files, wanted, self.blobs(work.task.study))
        # The thread closes them itself: it may outlive a cancelled task, and a number that was closed may soon mean another file.
        return await to_the_end(protect, *given) if large else protect(*given)

    def _wanted(self, task: Task, package: Package, received: Mapping[str, Blob], handed: Handed) -> list[check.Wanted]:
        expectation = check.expect(package.study, task.stage, received, task.round_number)
        check.check_names(handed.sums, expectation)
        room = self._settings.worker.disk_mib << 20
        sums = [check.Wanted(name, expectation.layouts.get(name), expectation.room(name, room), expectation.words) for name in handed.sums]
        return sums + [check.Wanted(name, None, room) for name in handed.memory]

    def erase_old(self, study: str) -> None:
        """What was delivered, but for the last two rounds."""
        if study not in self._stopped:
            self.blobs(study).delete(*self._decisions.store.tidy(study))

    def settle(self, study: str) -> None:
        """What was erased leaves nothing in the store's log either. In any thread."""
        store = self._blobs.get(study)
        if store is not None:
            # The study may be forgotten meanwhile, and its folder be gone.
            with suppress(sqlite3.OperationalError):
                store.settle()

    async def forget(self, study: str) -> None:
        """The study is over here, or withdrawn: its worker ends at once, and nothing of its data, updates and memory is kept."""
        self._stopped.add(study)
        await self._workers.end(study)
        # A thread may still be at work on a task that was called off: what it writes must not come after this.
        async with self._locks[study]:
            self._blobs.pop(study, None)
            self.secret_sums.forget(study)
            self._decisions.erase(study)

    def resume(self, study: str) -> None:
        """Approved, perhaps anew."""
        self._stopped.discard(study)


def lay_out(folder: Path, package: Package, blobs: FolderStore) -> None:
    """What a worker reads of a study: `study.json`, and the approved code."""
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True, mode=0o700)
    texts = {"study.json": package.study.model_dump_json().encode()}
    texts |= {name: bytes(blobs.open(ref).view()) for name, ref in package.files.items()}
    for name, text in texts.items():
        draft = folder / f"{name}.draft"
        draft.write_bytes(text)
        os.replace(draft, files / name)


def _reserve_in(ledger: Ledger, work: Work, spent: Spent) -> None:
    """A study that is asked for again and again takes no more than twice what was approved. Raises BudgetExceeded."""
    task, charges = work.task, ledger.balance().charges
    own = [key for key in charges if key[0] == task.study]
    if (task.study, task.id, task.attempt) not in charges and len(own) >= 2 * _charged(work.package.study):
        raise BudgetExceeded("This study has taken as much of the privacy budget as two runs of it would.")
    ledger.reserve(task.study, task.id, task.attempt, spent)


def _charged(study: Study) -> int:
    """How many tasks of one run cost something."""
    return max(question_terms(study).releases) if study.analyses else study.rounds + 1


def _class_sentence(error: AimerError) -> str:
    return (type(error).__doc__ or error.code).strip().splitlines()[0]
