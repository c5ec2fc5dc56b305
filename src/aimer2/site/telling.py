"""What the site tells of itself beside its updates, signed: what its ledgers have charged to a study, and the descriptions that people published."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, final

from aimer2.core.errors import AimerError, NotAuthenticated, Unreachable
from aimer2.core.task import Document
from aimer2.identity.documents import sign_document
from aimer2.messages.told import DESCRIPTION, SPENDING, DataPublished, Spending
from aimer2.site.balance import Composition, finite
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
        """Raises Unreachable and NotAuthenticated, to be called again then. What cannot be told keeps nothing else from it."""
        if halted(self._decisions):
            return
        for study in self._decisions.store.studies():
            self._attempt(partial(self._tell_spending, study))
        for path in sorted((self._decisions.folder.path / "datasets").glob("*/published.json")):
            self._attempt(partial(self._tell_description, path))

    def _attempt(self, function: Callable[[], None]) -> None:
        """Each problem is logged once."""
        try:
            function()
        except (Unreachable, NotAuthenticated):
            raise
        except (AimerError, OSError, ValueError) as error:
            told = f"{error.code} {error.sentence}" if isinstance(error, AimerError) else type(error).__name__
            if told not in self._problems:
                self._problems.add(told)
                _LOG.error("what was to be told of this site was not: %s", told)

    def _tell_spending(self, study: KnownStudy) -> None:
        """**Leaves the site**: of a study with differential privacy how many of its tasks were charged, and the ε and δ of those together."""
        decision, package = self._decisions.store.decision(study.digest), study.package
        asked = None if package is None else package.study.privacy.differential_privacy
        if decision is None or asked is None or asked.delta is None or not self._settings.tell_spending:
            return
        if study.digest in self._over or not self._decisions.folder.ledger(decision.dataset).is_file():
            return
        charged = self._ledgers.of(decision.dataset).charged(study.digest)
        tasks = len(charged.charges)
        if tasks and self._told.get((SPENDING, study.digest)) != tasks:
            epsilon = finite(Composition().epsilon(charged.totals, asked.delta))
            now = self._decisions.clock.now()
            said = Spending(study=study.digest, site=self._decisions.site, epsilon=epsilon, delta=asked.delta, tasks=tasks, time=now)
            self._tell(SPENDING, study.digest, said, tasks)
        if study.state in ("finished", "stopped"):
            self._over.add(study.digest)

    def _tell_description(self, path: Path) -> None:
        """**Leaves the site**: what a named person published of a data set, or that it was taken back."""
        published = DataPublished.model_validate_json(path.read_text(encoding="utf-8"))
        self._tell(DESCRIPTION, published.dataset, published, published)

    def _tell(self, kind: str, subject: str, said: Document, mark: object) -> None:
        if self._told.get((kind, subject)) == mark:
            return
        self._connection.tell(PATHS[kind], sign_document(said.model_dump_json().encode(), self._decisions.key, kind=kind))
        self._told[kind, subject] = mark
