"""The privacy ledger of a data set: reserve → compute → commit, for all studies together, for good.

One file for each data set, `ledgers/NAME.jsonl`: the same hash-chained, signed lines as the audit log, which holds its head after every entry.
All snapshots of a data set share it; a data set that holds some of the same patients can be put under the budget of the first.

A reservation is on the disk before anything is computed, and counts as spent from then on. The update is stored, then committed, then sent. What
a crash leaves:

    before the update was stored    the same task, asked again, is computed under the same reservation: nothing had left
    before it was committed         the stored update is sent; its reservation counts as it is
    after that                      the stored update is sent; were it lost, the task is refused, for what left cannot be known

One lock for each ledger orders threads and processes: of two studies that reach for the last of a budget, one gets it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from aimer2.audit.entries import Entry, Event, Head, Json, digest
from aimer2.audit.kinds import Kind
from aimer2.audit.log import EMPTY, AuditLog, is_torn, snapshot_lines
from aimer2.audit.verify import Problem, verify
from aimer2.core.clock import Clock
from aimer2.core.errors import BadInput, BudgetExceeded, Conflict, NotFound, Tampered
from aimer2.core.said import say
from aimer2.identity.keys import PublicKey, SigningKey
from aimer2.site.balance import Balance, Budget, Composition, Task, are_different, ceiling, finite, floor, words
from aimer2.site.enrolment import known_keys
from aimer2.site.folder import SiteFolder

if TYPE_CHECKING:
    from aimer2.privacy.accounting import Spent

_AGENT = "agent"


@final
class Ledger:
    """One data set's. Several threads, and several processes (agent and command line), may use it at once.

    Raises Tampered from every method where the file is not what it was: then nothing more is computed under differential privacy.
    """

    def __init__(self, dataset: str, folder: SiteFolder, key: SigningKey, keys: Sequence[PublicKey], audit: AuditLog, clock: Clock) -> None:
        self._dataset = dataset
        self._path = folder.ledger(dataset)
        self._keys = keys
        self._log = AuditLog(self._path, key, clock)
        self._audit = audit
        self._balance = Balance()
        self._composition = Composition()
        self._opened = False
        self._head = EMPTY
        self._read = 0

    # a task

    def reserve(self, study: str, task: str, attempt: int, spent: Spent) -> None:
        """Before anything is computed. Asked again before the update was stored, the same reservation serves.

        Raises BudgetExceeded where it does not fit, or nobody has set a budget; Conflict where the task was committed, or reserved otherwise.
        """
        with self._locked() as balance:
            known = balance.charges.get((study, task, attempt))
            document = spent.document()
            if known is None:
                reached = self._reached(balance, document)
                details: dict[str, Json] = {"task": task, "attempt": attempt, "spent": document, "reached": reached}
                self._append(Kind.PRIVACY_RESERVED, study=study, details=details)
            elif known.committed:
                raise Conflict("The update of this task was stored and is no longer here; to compute it anew would spend privacy twice.")
            elif known.spent != document:
                raise Conflict("Something else was reserved for this task.")

    def commit(self, study: str, task: str, attempt: int) -> None:
        """The update is stored and may leave: before its first byte does. Raises NotFound without a reservation."""
        with self._locked() as balance:
            if not _charged(balance, (study, task, attempt)):
                self._append(Kind.PRIVACY_SPENT, study=study, details={"task": task, "attempt": attempt})

    def release(self, study: str, task: str, attempt: int) -> None:
        """Only where nothing was computed. Raises NotFound without a reservation, Conflict where the update was stored."""
        with self._locked() as balance:
            one = (study, task, attempt)
            if _charged(balance, one):
                raise Conflict("What was stored may have left, and stays charged.")
            left = self._epsilon(balance.without(one), balance.budget)
            self._append(Kind.PRIVACY_RELEASED, study=study, details={"task": task, "attempt": attempt, "reached": left})

    def _reached(self, balance: Balance, spent: Mapping[str, Any]) -> float:
        budget = balance.budget
        if budget is None:
            command = f'aimer2 site budget set {self._dataset} --epsilon 3 --delta 1e-05 --by "NAME"'
            raise BudgetExceeded(
                say(
                    "No privacy budget is set for the data set '{dataset}': two named persons there set one with `{command}`.",
                    dataset=self._dataset,
                    command=command,
                )
            )
        reached = self._composition.epsilon(balance.after(spent), budget.delta)
        # Written so that what is no number is refused too.
        if not reached <= budget.epsilon:
            message = "The privacy budget of this site's data set would reach {reached} of {epsilon} (ε at δ = {delta})."
            raise BudgetExceeded(say(message, reached=ceiling(reached), epsilon=floor(budget.epsilon), delta=f"{budget.delta:g}"))
        return reached

    # the budget

    def propose(self, budget: Budget | None, *, by: str, shared: str | None = None) -> bool:
        """Whether it is in force at once: one named person may set less than before. Whatever allows more waits for a second one.

        The first budget waits too: if one person alone could set any budget first, nobody would ever have to raise one. What was proposed before
        and not confirmed is void. Raises Conflict where the data set is under another's budget, or is to be and has its own.
        """
        _check_name(by)
        with self._locked() as balance:
            self._check_terms(balance, budget, shared)
            if balance.budget is not None and budget is not None and budget.permits_less(balance.budget):
                self._set(balance, budget, None, (by,))
                return True
            self._append(Kind.BUDGET_PROPOSED, actor=by, details=_terms(budget, shared))
            return False

    def confirm(self, budget: Budget | None, *, by: str, shared: str | None = None) -> None:
        """The second person's word, which repeats what is confirmed. Raises Conflict where that was not proposed, or by the same person."""
        _check_name(by)
        with self._locked() as balance:
            proposal = balance.proposal
            if proposal is None or (proposal.budget, proposal.shared) != (budget, shared):
                waits = "{proposed} by {by} waits to be confirmed."
                told = say(waits, proposed=proposal.budget or proposal.shared, by=proposal.by) if proposal else say("Nothing waits to be confirmed.")
                raise Conflict(told, remedy="A first person proposes by the same command without --confirm.")
            if not are_different(proposal.by, by):
                raise Conflict(
                    say("{by} proposed it, and a second person must confirm it.", by=proposal.by), remedy="Another person gives the command."
                )
            self._check_terms(balance, budget, shared)
            self._set(balance, budget, shared, (proposal.by, by))

    def _check_terms(self, balance: Balance, budget: Budget | None, shared: str | None) -> None:
        if (budget is None) == (shared is None):
            raise BadInput("Give either a budget, or the data set whose budget it is.")
        if balance.shared is not None:
            raise Conflict(
                say("The data set is under the budget of '{shared}' for good.", shared=balance.shared),
                remedy=say("Set the budget of '{shared}'.", shared=balance.shared),
            )
        if shared is not None and balance.budget is not None:
            raise Conflict(
                say("'{dataset}' has a budget of its own, and keeps it.", dataset=self._dataset), remedy="Put the other data set under this one's."
            )

    def _set(self, balance: Balance, budget: Budget | None, shared: str | None, by: tuple[str, ...]) -> None:
        reached = self._epsilon(balance.totals, budget)
        self._append(Kind.BUDGET_SET, actor=by[-1], details={**_terms(budget, shared), "by": by, "reached": reached})

    # what is known

    def balance(self) -> Balance:
        """As it stands; a copy."""
        with self._locked() as balance:
            return deepcopy(balance)

    def head(self) -> Head:
        """Changes with every entry."""
        with self._locked():
            return self._head

    def charged(self, study: str) -> Balance:
        """What was charged to this study alone, as if there were no other; no budget."""
        own = Balance()
        with self._locked() as balance:
            for task, charge in balance.charges.items():
                if charge.study == study:
                    own.totals = own.after(charge.spent)
                    own.charges[task] = charge
        return own

    def shared(self) -> str | None:
        """The data set under whose budget this one is."""
        with self._locked() as balance:
            return balance.shared

    def uncommitted(self) -> frozenset[Task]:
        """What is reserved, and no update of it is known to be stored."""
        with self._locked() as balance:
            return frozenset(task for task, charge in balance.charges.items() if not charge.committed)

    def history(self) -> list[Entry]:
        """Every entry, oldest first."""
        with self._locked():
            return list(self._log.read())

    # the file

    def _epsilon(self, totals: Mapping[Any, int], budget: Budget | None) -> float:
        return 0.0 if budget is None else finite(self._composition.epsilon(totals, budget.delta))

    def _append(self, kind: Kind, *, details: Mapping[str, Json], actor: str = _AGENT, study: str | None = None) -> None:
        self._log.extend([Event(str(kind), actor, study, {"ledger": self._dataset, **details})])
        self._catch_up()
        anchor: dict[str, Json] = {"ledger": self._dataset, "sequence": self._head.sequence, "digest": self._head.digest}
        self._audit.append(Kind.LEDGER_ANCHORED, actor=actor, study=study, details=anchor)

    @contextmanager
    def _locked(self) -> Iterator[Balance]:
        """Alone, and up to date."""
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        # Opened anew each time: the lock then also keeps the threads of one process apart, and a killed process leaves none.
        file = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not self._opened:
                self._open()
            self._catch_up()
            yield self._balance
        finally:
            os.close(file)

    def _open(self) -> None:
        """Once in a process: every signature, the chain, and whether it is as long as the audit log says."""
        if self._path.exists():
            # Sets aside what a crash may have left of an entry.
            self._log.extend([])
        if problems := find_problems(self._path, self._keys, find_anchor(self._audit, self._dataset)):
            raise _tampered(problems[0].sentence)
        self._opened = True

    def _catch_up(self) -> None:
        """Applies what was appended since, here or by another process."""
        try:
            with open(self._path, "rb") as file:
                if os.fstat(file.fileno()).st_size < self._read:
                    raise _tampered("It is shorter than it was.")
                file.seek(self._read)
                for line in file:
                    if is_torn(line):
                        return
                    self._follow(line.removesuffix(b"\n"))
                    self._read += len(line)
        except FileNotFoundError:
            if self._read:
                raise _tampered("It is gone.") from None

    def _follow(self, line: bytes) -> None:
        entry = Entry.parse(line)
        if (entry.previous, entry.sequence) != (self._head.digest, self._head.sequence + 1):
            raise _tampered(f"Entry {entry.sequence} does not follow the one before.")
        signer = next((key for key in self._keys if key.key_id == entry.key), None)
        if signer is None:
            raise _tampered(f"Entry {entry.sequence} is signed with a key that is not this site's.")
        entry.check(signer)
        if entry.details.get("ledger", self._dataset) != self._dataset:
            raise _tampered("It is another data set's.")
        self._balance.apply(entry)
        self._head = Head(entry.sequence, digest(line))


@final
class Ledgers:
    """The ledgers of a site; kept open, each one is read once."""

    def __init__(self, folder: SiteFolder, key: SigningKey, audit: AuditLog, clock: Clock) -> None:
        self._folder = folder
        self._key = key
        self._keys = known_keys(folder) if folder.public_keys.is_file() else [key.public]
        self._audit = audit
        self._clock = clock
        self._ledgers: dict[str, Ledger] = {}

    def own(self, dataset: str) -> Ledger:
        """The data set's own, whoever's budget it is under."""
        return self._ledgers.setdefault(dataset, self._open(dataset))

    def _open(self, dataset: str) -> Ledger:
        return Ledger(dataset, self._folder, self._key, self._keys, self._audit, self._clock)

    def of(self, dataset: str) -> Ledger:
        """The one that its tasks are charged to."""
        own = self.own(dataset)
        shared = own.shared()
        return own if shared is None else self.own(shared)

    def settle(self, dataset: str, study: str, task: str, attempt: int) -> None:
        """Before a stored update is sent again: commits what a crash left reserved. Nothing to do where it cost nothing."""
        if self._folder.ledger(dataset).is_file():
            ledger = self.of(dataset)
            if (study, task, attempt) in ledger.uncommitted():
                ledger.commit(study, task, attempt)

    def share(self, dataset: str, other: str, *, by: str, confirmed: bool) -> None:
        """Puts a data set under the budget of another that holds some of its patients; needs two persons, as a budget does.

        Raises Conflict where the other has no budget of its own.
        """
        if self.own(other).balance().budget is None:
            raise Conflict(say("The data set '{other}' has no budget of its own.", other=other), remedy="Set one first.")
        ledger = self.own(dataset)
        (ledger.confirm if confirmed else ledger.propose)(None, by=by, shared=other)

    def names(self) -> list[str]:
        """Data sets with a ledger, also with one that is gone."""
        files = {path.stem for path in self._folder.ledgers()}
        return sorted(files | {str(entry.details["ledger"]) for entry in self._audit.read(kinds={Kind.LEDGER_ANCHORED})})

    def problems(self, dataset: str) -> Sequence[Problem]:
        """What a verification of its file finds, with the head that the audit log holds; nothing: it is whole."""
        found = find_problems(self._folder.ledger(dataset), self._keys, find_anchor(self._audit, dataset))
        try:
            self._open(dataset).balance()
        except Tampered as error:
            return found or (Problem(0, "changed", error.sentence),)
        return found


def find_anchor(audit: AuditLog, dataset: str) -> Head | None:
    """How far the audit log says that the ledger goes."""
    found = None
    for entry in audit.read(kinds={Kind.LEDGER_ANCHORED}):
        if entry.details["ledger"] == dataset:
            found = Head(int(str(entry.details["sequence"])), str(entry.details["digest"]))
    return found


def find_problems(path: Path, keys: Sequence[PublicKey], anchor: Head | None) -> Sequence[Problem]:
    """What a verification finds; ``keys``: all of the site's, of which the ledger may have begun with a later one."""
    try:
        return verify(path, _from_first(path, keys), anchor=anchor).problems
    except NotFound:
        return (
            ()
            if anchor is None
            else (Problem(0, "cut-off", say("There is no ledger, but it once had {sequence} entries.", sequence=anchor.sequence)),)
        )


def _from_first(path: Path, keys: Sequence[PublicKey]) -> Sequence[PublicKey]:
    try:
        first = Entry.parse(next(snapshot_lines(path), b"").removesuffix(b"\n")).key
    except Tampered:
        return keys
    return next((keys[place:] for place, key in enumerate(keys) if key.key_id == first), keys)


def _charged(balance: Balance, task: Task) -> bool:
    """Whether it was committed."""
    if task not in balance.charges:
        raise NotFound("Nothing is reserved for this task.")
    return balance.charges[task].committed


def _check_name(by: str) -> None:
    if len(by.strip()) < 2 or not words(by):
        raise BadInput("A budget names the person who decides it.", remedy="Give the name with --by.")


def _terms(budget: Budget | None, shared: str | None) -> dict[str, Json]:
    return {"shared": shared} if budget is None else {"epsilon": budget.epsilon, "delta": budget.delta}


def _tampered(what: str) -> Tampered:
    return Tampered(
        say("The privacy ledger is not what it was: {what}", what=what),
        remedy="`aimer2 site budget verify` lists what is wrong. Report it; a backup has only what was charged before it was made.",
    )
