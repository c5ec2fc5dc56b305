"""What the site tells of itself beside its updates, signed: what its ledgers have charged to a study, and the descriptions that people published."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, final

from aimer2.core.errors import AimerError, ClockSkew, Conflict, NotAuthenticated, Unreachable
from aimer2.core.task import Document
from aimer2.identity.documents import sign_document
from aimer2.messages.told import DESCRIPTION, SPENDING, DataPublished, Spending
from aimer2.site.balance import Balance, Composition, Mechanism, finite
from aimer2.site.connection import Connection
from aimer2.site.decisions import Decisions
from aimer2.site.freeze import halted
from aimer2.site.ledger import Ledgers
from aimer2.site.settings import Settings
from aimer2.site.store import KnownStudy

PATHS: Final = {SPENDING: "/v1/spending", DESCRIPTION: "/v1/descriptions"}
_LOG = logging.getLogger("aimer2.site")


@final
class Telling:
    """Blocking; called in a thread, one call at a time. What was told and has not changed is not told again."""

    def __init__(self, decisions: Decisions, settings: Settings, connection: Connection) -> None:
        self._decisions = decisions
        self._settings = settings
        self._connection = connection
        self._ledgers = Ledgers(decisions.folder, decisions.key, decisions.audit, decisions.clock)
        self._told: dict[tuple[str, str], object] = {}
        self._over: set[str] = set()
        """Studies of which nothing new will come."""
        self._problems: set[str] = set()

    def tell(self) -> None:
        """Raises Unreachable and NotAuthenticated, to be called again then. What cannot be told keeps nothing else from it: something on the way
        may refuse one statement alone.

        While everything is frozen only that a description was taken back.
        """
        frozen = bool(halted(self._decisions))
        parts = [] if frozen else [partial(self._tell_spending, study) for study in self._decisions.store.studies()]
        paths = sorted((self._decisions.folder.path / "datasets").glob("*/published.json"))
        failures = [self._attempt(part) for part in (*parts, *(partial(self._tell_description, path, frozen) for path in paths))]
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

    def _tell_spending(self, study: KnownStudy) -> None:
        """**Leaves the site**: of a study with differential privacy how many of its tasks were charged, and the ε and δ of those together.

        Of all data sets that it was ever approved for: composed as if they held the same patients, which is the most that one can have spent.
        """
        package = study.package
        asked = None if package is None else package.study.privacy.differential_privacy
        if asked is None or asked.delta is None or study.digest in self._over or not self._settings.tell_spending:
            return
        charged = self._charged(study.digest)
        tasks = sum(len(balance.charges) for balance in charged)
        if tasks:
            totals: Counter[Mechanism] = sum((Counter(balance.totals) for balance in charged), Counter())
            epsilon = finite(Composition().epsilon(totals, asked.delta))
            now = self._decisions.clock.now()
            said = Spending(study=study.digest, site=self._decisions.site, epsilon=epsilon, delta=asked.delta, tasks=tasks, time=now)
            self._tell(SPENDING, study.digest, said, (tasks, epsilon))
        if study.state in ("finished", "stopped"):
            self._over.add(study.digest)

    def _charged(self, digest: str) -> list[Balance]:
        """To each ledger of a data set that any decision on the study has named; a withdrawal names none."""
        named = sorted({decision.dataset for decision in self._decisions.store.decisions(digest)} - {""})
        ledgers = [self._ledgers.of(dataset) for dataset in named if self._decisions.folder.ledger(dataset).is_file()]
        return [ledger.charged(digest) for ledger in dict.fromkeys(ledgers)]

    def _tell_description(self, path: Path, frozen: bool) -> None:
        """**Leaves the site**: what a named person published of a data set, or that it was taken back."""
        published = DataPublished.model_validate_json(path.read_text(encoding="utf-8"))
        if frozen and published.published:
            return
        try:
            self._tell(DESCRIPTION, published.dataset, published, published)
        except (Conflict, ClockSkew):
            # This machine's clock was ahead, when it was published or before: what the site says now is dated by the clock of now.
            self._tell(DESCRIPTION, published.dataset, published.model_copy(update={"time": self._decisions.clock.now()}), published)

    def _tell(self, kind: str, subject: str, said: Document, mark: object) -> None:
        if self._told.get((kind, subject)) == mark:
            return
        self._connection.tell(PATHS[kind], sign_document(said.model_dump_json().encode(), self._decisions.key, kind=kind))
        self._told[kind, subject] = mark
