"""What every request needs to know, in memory: sites and their keys, users, studies and who has approved them.

Read again whenever the database says that something of it has changed, in this process or in another one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from sqlalchemy import Connection, Row

from aimer2.coordinator.store.accounts import Account, read_accounts, read_parts
from aimer2.coordinator.store.database import Database, read_changes
from aimer2.coordinator.store.freezes import read_freeze
from aimer2.coordinator.store.members import read_sites
from aimer2.coordinator.store.studies import latest_decisions, read_packages, read_studies
from aimer2.core.errors import NotFound
from aimer2.core.task import BlobRef
from aimer2.identity.keys import PublicKey
from aimer2.messages.package import Package
from aimer2.messages.wire import FreezeState, SiteDecision, StudyNotice, StudyState, StudySummary

_ENDED: tuple[StudyState, ...] = ("finished", "stopped")


@final
@dataclass(frozen=True, slots=True)
class Site:
    site: str
    key: PublicKey
    enrolled: float
    revoked: bool
    last_contact: float | None
    status: Mapping[str, Any]
    revision: int
    first_decision: int


@final
@dataclass(frozen=True, slots=True)
class Offer:
    """A study as the coordinator knows it.

    ``decisions``: each site's last one that counts; of a study that has ended its last one, also under a key that was revoked since.
    """

    digest: str
    package: Package
    state: StudyState
    reason: str
    submitted_by: str
    submitted: float
    decisions: Mapping[str, Row[Any]]
    archived: bool = False

    def approved(self, now: float) -> list[str]:
        """The sites whose approval holds, in order."""
        return sorted(site for site, row in self.decisions.items() if row.decision == "approve" and (row.until is None or row.until > now))

    @property
    def undecided(self) -> list[str]:
        return sorted(self.package.roster.keys() - self.decisions.keys())

    @property
    def blobs(self) -> Sequence[BlobRef]:
        return self.package.blobs

    def rounds_done(self, stored: int) -> int:
        """Of the method's rounds; a study that measures a model has one, which is the last of every study and is not counted elsewhere."""
        return 1 if self.package.study.evaluates is not None and self.state == "finished" else stored

    def summary(self, round_number: int = 0, result: str | None = None) -> StudySummary:
        study = self.package.study
        return StudySummary(
            digest=self.digest,
            name=study.name,
            question=study.question,
            state=self.state,
            reason=self.reason,
            submitted_by=self.submitted_by,
            submitted=self.submitted,
            round_number=self.rounds_done(round_number),
            rounds=study.rounds,
            sites=tuple(self._decision(site) for site in sorted(self.package.roster)),
            result=result,
            ethics=study.ethics,
            expires=study.expires_at,
            supersedes=self.package.supersedes,
            archived=self.archived,
        )

    def _decision(self, site: str) -> SiteDecision:
        row = self.decisions.get(site)
        if row is None:
            return SiteDecision(site=site, decision="waiting")
        return SiteDecision(site=site, decision=row.decision, by=row.by, reason=row.reason, statement=row.statement)


@final
@dataclass(frozen=True, slots=True)
class _Rows:
    changes: Mapping[str, int]
    sites: list[Row[Any]]
    users: dict[str, Account]
    parts: dict[str, dict[str, str]]
    studies: list[Row[Any]]
    decisions: list[Row[Any]]
    packages: dict[str, str]
    freeze: Row[Any] | None


@final
class Registry:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._packages: dict[str, Package] = {}
        self.number = -1
        self.sites: dict[str, Site] = {}
        self.users: dict[str, Account] = {}
        self.parts: dict[str, dict[str, str]] = {}
        self.studies: dict[str, Offer] = {}
        self.frozen = FreezeState()
        self._notices: dict[str, tuple[StudyNotice, ...]] = {}
        self._successors: dict[str, str] = {}

    async def load(self) -> None:
        rows = await self._database.read(self._read)
        if rows.changes["registry"] < self.number:
            return
        self._packages.update({digest: Package.model_validate_json(text) for digest, text in rows.packages.items()})
        sites = {row.site: _site(row) for row in rows.sites}
        ended = {row.digest for row in rows.studies if row.state in _ENDED}
        decided: dict[str, dict[str, Row[Any]]] = {}
        for row in rows.decisions:
            if row.study in ended or row.number >= sites[row.site].first_decision:
                decided.setdefault(row.study, {})[row.site] = row
        self.number = rows.changes["registry"]
        self.sites = sites
        self.users = rows.users
        self.parts = rows.parts
        self.studies = {
            row.digest: Offer(
                row.digest,
                self._packages[row.digest],
                row.state,
                row.reason,
                row.submitted_by,
                row.submitted,
                decided.get(row.digest, {}),
                row.archived is not None,
            )
            for row in rows.studies
        }
        self.frozen = _freeze(rows.freeze)
        self._notices.clear()
        self._successors = {offer.package.supersedes: digest for digest, offer in self.studies.items() if offer.package.supersedes is not None}

    def successor(self, digest: str) -> str | None:
        """The version that has taken the place of this one."""
        return self._successors.get(digest)

    def versions(self, digest: str) -> list[str]:
        """From the first version to this one. Raises NotFound."""
        found = [digest]
        while (before := self.study(found[0]).package.supersedes) is not None:
            found.insert(0, before)
        return found

    def summary(self, digest: str, round_number: int, result: str | None) -> StudySummary:
        """Raises NotFound."""
        named = {"version": len(self.versions(digest)), "superseded_by": self.successor(digest)}
        return self.study(digest).summary(round_number, result).model_copy(update=named)

    def study(self, digest: str) -> Offer:
        """Raises NotFound."""
        found = self.studies.get(digest)
        if found is None:
            raise NotFound("There is no study with this digest.")
        return found

    def approved(self, digest: str, now: float) -> list[str]:
        """The sites that take part in a study now: approved, and not revoked."""
        return [site for site in self.study(digest).approved(now) if not self.sites[site].revoked]

    def notices(self, site: str) -> tuple[StudyNotice, ...]:
        """The studies that concern a site."""
        found = self._notices.get(site)
        if found is None:
            concerned = (offer for offer in self.studies.values() if site in offer.package.roster)
            found = self._notices[site] = tuple(StudyNotice(digest=offer.digest, state=offer.state) for offer in concerned)
        return found

    def _read(self, connection: Connection) -> _Rows:
        studies = list(read_studies(connection))
        unknown = [row.digest for row in studies if row.digest not in self._packages]
        return _Rows(
            read_changes(connection),
            read_sites(connection),
            read_accounts(connection),
            read_parts(connection),
            studies,
            list(latest_decisions(connection)),
            read_packages(connection, unknown) if unknown else {},
            read_freeze(connection),
        )


def _freeze(row: Row[Any] | None) -> FreezeState:
    return FreezeState() if row is None else FreezeState(frozen=True, by=row.by, reason=row.reason, since=row.time)


def _site(row: Row[Any]) -> Site:
    return Site(
        row.site,
        PublicKey.from_text(row.key),
        row.enrolled,
        row.revoked is not None,
        row.last_contact,
        json.loads(row.status),
        row.revision,
        row.first_decision,
    )
