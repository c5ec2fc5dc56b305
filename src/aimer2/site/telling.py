"""What the site tells of itself beside its updates, signed: what its ledgers have charged to a study, and the descriptions that people published."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, final

from aimer2.audit.kinds import Kind
from aimer2.core.errors import AimerError, ClockSkew, Conflict, NotAuthenticated, Unreachable
from aimer2.core.task import Document
from aimer2.identity.documents import sign_document
from aimer2.messages.told import DESCRIPTION, SPENDING, DataPublished, Spending
from aimer2.site.balance import Balance, Composition, Mechanism, finite
from aimer2.site.connection import Connection
from aimer2.site.decisions import Decisions
from aimer2.site.freeze import halted
from aimer2.site.ledger import Ledgers
from aimer2.site.publishing import sha256_of
from aimer2.site.settings import Settings

PATHS: Final = {SPENDING: "/v1/spending", DESCRIPTION: "/v1/descriptions"}
_LOG = logging.getLogger("aimer2.site")


@final
class Telling:
    """Blocking; called in a thread, one call at a time. What was told and has not changed is neither read nor told again."""

    def __init__(self, decisions: Decisions, settings: Settings, connection: Connection) -> None:
        self._decisions = decisions
        self._settings = settings
        self._connection = connection
        self._ledgers = Ledgers(decisions.folder, decisions.key, decisions.audit, decisions.clock)
        self._told: dict[tuple[str, str], object] = {}
        self._over: set[str] = set()
        """Studies of which nothing will come, or nothing new."""
        self._deltas: dict[str, float] = {}
        """Of the other studies, each with differential privacy."""
        self._named: dict[str, set[str]] = {}
        self._decided = 0
        """By study the data sets that any decision has named, up to the decision of this number; a withdrawal names none."""
        self._read: dict[object, object] = {}
        """By study or file what it rested on when it was told."""
        self._problems: set[str] = set()

    def tell(self) -> None:
        """Raises Unreachable and NotAuthenticated, to be called again then. What cannot be told keeps nothing else from it: something on the way
        may refuse one statement alone.

        While everything is frozen only that a description was taken back.
        """
        frozen = bool(halted(self._decisions))
        studies = {} if frozen or not self._settings.tell_spending else self._decisions.store.states()
        parts: list[Callable[[], None]] = [self._note_decisions] if studies else []
        parts += [partial(self._tell_spending, *study) for study in studies.items()]
        paths = sorted((self._decisions.folder.path / "datasets").glob("*/published.json"))
        parts += [partial(self._tell_description, path, frozen) for path in paths]
        failures = [self._attempt(part) for part in parts]
        for failure in failures:
            if failure is not None:
                raise failure

    def _attempt(self, function: Callable[[], None]) -> Unreachable | None:
        """Each other problem is logged once."""
        try:
            function()
        except NotAuthenticated:
            raise
        except Unreachable as error:
            return error
        except (AimerError, OSError, ValueError) as error:
            told = f"{error.code} {error.sentence}" if isinstance(error, AimerError) else type(error).__name__
            if told not in self._problems:
                self._problems.add(told)
                _LOG.error("what was to be told of this site was not: %s", told)
        return None

    def _note_decisions(self) -> None:
        for number, decision in self._decisions.store.decisions_after(self._decided):
            self._named.setdefault(decision.study, set()).update({decision.dataset} - {""})
            self._decided = number

    def _tell_spending(self, study: str, state: str) -> None:
        """**Leaves the site**: of a study with differential privacy how many of its tasks were charged, and the ε and δ of those together.

        Of all data sets that it was ever approved for: composed as if they held the same patients, which is the most that one can have spent.
        """
        if study in self._over:
            return
        delta = self._deltas.get(study) or self._delta(study)
        if delta is None:
            self._over.add(study)
            return
        self._deltas[study] = delta
        datasets = [name for name in sorted(self._named.get(study, ())) if self._decisions.folder.ledger(name).is_file()]
        ledgers = dict.fromkeys(self._ledgers.of(dataset) for dataset in datasets)
        # Before the charges: one that comes in between is read again.
        heads = [ledger.head() for ledger in ledgers]
        if self._read.get(study) != heads:
            self._tell_charged(study, delta, [ledger.charged(study) for ledger in ledgers])
            self._read[study] = heads
        if state in ("finished", "stopped"):
            self._over.add(study)

    def _delta(self, study: str) -> float | None:
        """What the study composes its ε at; None without differential privacy."""
        known = self._decisions.store.study(study)
        asked = None if known is None or known.package is None else known.package.study.privacy.differential_privacy
        return None if asked is None else asked.delta

    def _tell_charged(self, study: str, delta: float, charged: Sequence[Balance]) -> None:
        tasks = sum(len(balance.charges) for balance in charged)
        if tasks:
            totals: Counter[Mechanism] = sum((Counter(balance.totals) for balance in charged), Counter())
            epsilon = finite(Composition().epsilon(totals, delta))
            now = self._decisions.clock.now()
            said = Spending(study=study, site=self._decisions.site, epsilon=epsilon, delta=delta, tasks=tasks, time=now)
            self._tell(SPENDING, study, said, (tasks, epsilon))

    def _tell_description(self, path: Path, frozen: bool) -> None:
        """**Leaves the site**: what a named person published of a data set, or that it was taken back."""
        # Each publication is a file of its own, put in the place of the last one.
        file = path.stat()
        version = (file.st_ino, file.st_mtime_ns, file.st_size)
        if self._read.get(path) == version:
            return
        published = DataPublished.model_validate_json(path.read_text(encoding="utf-8"))
        if frozen and published.published:
            return
        try:
            self._tell(DESCRIPTION, published.dataset, published, published)
        except (Conflict, ClockSkew):
            if not self._is_last_word(published):
                raise
            # This machine's clock was ahead, when it was published or before: what the site says now is dated by the clock of now.
            self._tell(DESCRIPTION, published.dataset, published.model_copy(update={"time": self._decisions.clock.now()}), published)
        self._read[path] = version

    def _is_last_word(self, published: DataPublished) -> bool:
        """Whether the audit log holds nothing later of this data set: the file may have been put back from a backup."""
        entries = self._decisions.audit.read(kinds={Kind.DATASET_PUBLISHED})
        last = next((entry for entry in reversed(list(entries)) if entry.details["dataset"] == published.dataset), None)
        if last is None or last.details["published"] != published.published:
            return False
        # Entries of before have no digest.
        return last.details.get("sha256", sha256_of(published)) == sha256_of(published)

    def _tell(self, kind: str, subject: str, said: Document, mark: object) -> None:
        if self._told.get((kind, subject)) == mark:
            return
        self._connection.tell(PATHS[kind], sign_document(said.model_dump_json().encode(), self._decisions.key, kind=kind))
        self._told[kind, subject] = mark
