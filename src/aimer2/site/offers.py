"""Studies that a coordinator offers: fetched, checked against their digest, laid before the hospital's rules and people."""

from __future__ import annotations

import logging
from typing import final

from aimer2.audit.kinds import Kind
from aimer2.core.errors import (
    AimerError,
    BadInput,
    Conflict,
    Frozen,
    NotAuthenticated,
    NotAvailable,
    NotFound,
    NotVerified,
    Tampered,
    Unreachable,
)
from aimer2.messages.package import Package, digest
from aimer2.messages.wire import StudyNotice
from aimer2.site.approval import Approve, Ask, Policy, Refuse, StudyRequest, decide
from aimer2.site.connection import Connection
from aimer2.site.decisions import Decisions
from aimer2.site.freeze import refuse_frozen
from aimer2.site.performing import Performing, lay_out
from aimer2.site.settings import Protection, Settings, read_toml

_LOG = logging.getLogger("aimer2.site")
_OVER = ("finished", "stopped")


@final
class Offers:
    """Blocking; called in a thread, one call at a time."""

    def __init__(self, decisions: Decisions, settings: Settings, connection: Connection, performing: Performing) -> None:
        self._decisions = decisions
        self._settings = settings
        self._connection = connection
        self._performing = performing
        self.enforced: frozenset[Protection] = frozenset()

    def take(self, notice: StudyNotice) -> None:
        """Notes a study; a new one is fetched, and the rules are asked. Raises Unreachable and NotAuthenticated, to be called again then."""
        now = self._decisions.clock.now()
        if self._decisions.store.note_study(notice.digest, notice.state, now):
            self._decisions.audit.append(Kind.STUDY_OFFERED, actor="agent", study=notice.digest)
        known = self._decisions.store.study(notice.digest)
        if known is None or known.package is not None or notice.state in _OVER:
            return
        try:
            package = self._fetch(notice.digest)
        except (Unreachable, NotAuthenticated):
            raise
        except AimerError as error:
            _LOG.error("study %s cannot be taken in: %s %s", notice.digest[:16], error.code, error.sentence)
            return
        self._decisions.store.keep_package(notice.digest, package)
        self._ask_the_rules(notice.digest, package)

    def _fetch(self, wanted: str) -> Package:
        """Raises Tampered where the bytes are not those of the digest, or this site is not among those asked."""
        package = self._connection.package(wanted)
        if digest(package) != wanted or self._decisions.site not in package.roster:
            raise Tampered("The package does not have the announced digest, or does not ask this site.")
        blobs = self._performing.blobs(wanted)
        for ref in package.files.values():
            self._connection.fetch(ref, blobs)
        lay_out(self._decisions.folder.study(wanted), package, blobs)
        return package

    def _ask_the_rules(self, study: str, package: Package) -> None:
        policy = self._policy()
        unverified = self._decisions.address_book.unverified(package.roster)
        request = StudyRequest(study, package, self._settings.coordinator.name, self.enforced, self._decisions.clock.now(), unverified)
        match decide(policy, request, self._decisions.store.decisions(study)):
            case Approve(rule):
                self._approve(study, f"rule '{rule.name}', set by {rule.set_by}")
            case Refuse(rule):
                self._decisions.refuse(study, by=f"rule '{rule.name}', set by {rule.set_by}", reason=f"Rule '{rule.name}' of this hospital.")
            case Ask():
                _LOG.info("study %s waits for a decision: aimer2 site show %s", study[:16], study[:16])

    def _policy(self) -> Policy:
        path = self._decisions.folder.policy
        try:
            return read_toml(path, Policy) if path.is_file() else Policy()
        except BadInput as error:
            _LOG.error("no rule is applied: %s", error.sentence)
            return Policy()

    def _approve(self, study: str, by: str) -> None:
        try:
            # What comes while all is frozen waits for a person.
            refuse_frozen(self._decisions)
            self._decisions.approve(study, by=by)
        except (Conflict, Frozen, NotFound, NotVerified, NotAvailable, BadInput) as error:
            _LOG.warning("study %s fits %s, but: %s", study[:16], by, error.sentence)

    def send_decisions(self) -> None:
        """Raises Unreachable and NotAuthenticated, to be called again then."""
        for number, statement in self._decisions.store.unsent():
            try:
                self._connection.decide(statement)
            except (Unreachable, NotAuthenticated):
                raise
            except AimerError as error:
                # The coordinator will not take it however often it is sent; here it is in force all the same.
                _LOG.error("the coordinator did not take a decision: %s %s", error.code, error.sentence)
            self._decisions.store.mark_sent(number)
