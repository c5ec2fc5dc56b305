"""Decisions of the hospital about a study: by a named person, signed with the site's key, in the audit log before they take effect."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final

from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.core.clock import Clock
from aimer2.core.errors import BadInput, Conflict, NotFound, NotVerified
from aimer2.core.said import say
from aimer2.core.task import Digest, SiteId
from aimer2.identity.documents import sign_document
from aimer2.identity.keys import PublicKey, SigningKey
from aimer2.messages.package import Package
from aimer2.messages.wire import Decision
from aimer2.secure_aggregation.roster import Roster
from aimer2.secure_aggregation.site import forget
from aimer2.site import snapshots
from aimer2.site.address_book import AddressBook, how_to_verify
from aimer2.site.control import ask_agent
from aimer2.site.folder import SiteFolder
from aimer2.site.settings import read_settings
from aimer2.site.store import KnownStudy, Store
from aimer2.site.vault import FileVault

Word: TypeAlias = Literal["approve", "refuse", "withdraw"]

_KINDS: Mapping[Word, Kind] = {"approve": Kind.STUDY_APPROVED, "refuse": Kind.STUDY_REFUSED, "withdraw": Kind.STUDY_WITHDRAWN}


@final
@dataclass(frozen=True, slots=True)
class Decisions:
    """Taken by the command line or the running agent alike; sent to the coordinator by the agent."""

    site: str
    folder: SiteFolder
    key: SigningKey
    store: Store
    audit: AuditLog
    clock: Clock

    def find(self, prefix: str) -> KnownStudy:
        """The study whose digest begins so. Raises NotFound, BadInput where several do."""
        found = [study for study in self.store.studies() if study.digest.startswith(prefix)] if prefix else []
        if not found:
            raise NotFound(say("No study here has a digest that begins with '{prefix}'.", prefix=prefix), remedy="`aimer2 site requests` lists them.")
        if len(found) > 1:
            raise BadInput(say("{count} studies begin with '{prefix}'; give more of the digest.", count=len(found), prefix=prefix))
        return found[0]

    def approve(self, prefix: str, *, by: str, until: float | None = None, dataset: str | None = None) -> Decision:
        """Raises Conflict where the study or the approval has expired, NotFound where the data set is not known here, NotVerified where its
        secure aggregation rests on keys that nobody here has verified."""
        study = self.find(prefix)
        package = self._package(study)
        name = dataset or package.study.cohort.dataset
        if name not in snapshots.names(self.folder):
            raise NotFound(
                say("There is no data set '{name}' here.", name=name), remedy="Add it with `aimer2 site dataset add`, or name one with --dataset."
            )
        end = min(package.study.expires_at, package.study.expires_at if until is None else until)
        if end <= self.clock.now():
            raise Conflict("The study, or the approval as you date it, has expired.")
        roster = self._verified_roster(study.digest, package, by) if package.study.privacy.secure_aggregation else None
        return self._take(study.digest, "approve", by=by, dataset=name, until=until, roster=roster)

    def refuse(self, prefix: str, *, by: str, reason: str) -> Decision:
        return self._take(self.find(prefix).digest, "refuse", by=by, reason=reason)

    def withdraw(self, prefix: str, *, by: str, reason: str = "") -> Decision:
        return self._take(self.find(prefix).digest, "withdraw", by=by, reason=reason)

    def erase(self, digest: str) -> None:
        """What is kept of a study's updates, memory and models is gone after this; its decisions and records stay."""
        self.store.erase(digest)
        if self.folder.vault.exists():
            with closing(FileVault(self.folder.vault)) as vault:
                forget(vault, digest)
                vault.settle()
        for part in ("blobs", "scratch"):
            shutil.rmtree(self.folder.study(digest) / part, ignore_errors=True)

    @property
    def address_book(self) -> AddressBook:
        """The keys of other sites that were verified here; ask it each time, for a person may have changed it."""
        return AddressBook(self.site, self.key, self.folder.state, self.audit, self.clock)

    def keys_given(self, site: SiteId) -> list[PublicKey]:
        """What coordinators have said is this site's key, in the studies that are known here."""
        texts = {known.package.roster[site] for known in self.store.studies() if known.package is not None and site in known.package.roster}
        found = []
        for text in sorted(texts):
            with suppress(BadInput):
                found.append(PublicKey.from_text(text))
        return found

    def _verified_roster(self, digest: str, package: Package, by: str) -> Digest:
        """What this site countersigns with its approval."""
        missing = self.address_book.unverified(package.roster)
        if missing:
            raise NotVerified(
                say(
                    "{count} of {members} keys of this study's roster are not verified here (`aimer2 site roster show {digest}`): {missing}.",
                    count=len(missing),
                    members=len(package.roster),
                    digest=digest[:12],
                    missing=", ".join(missing),
                ),
                remedy=how_to_verify(self.site, missing, by),
            )
        return Roster.of(digest, package.roster).hash()

    def _package(self, study: KnownStudy) -> Package:
        if study.package is None:
            raise NotFound("The study has not been fetched from the coordinator yet.", remedy="Let the agent run: `aimer2 site run`.")
        return study.package

    def _take(
        self,
        digest: str,
        decision: Word,
        *,
        by: str,
        dataset: str = "",
        until: float | None = None,
        reason: str = "",
        roster: Digest | None = None,
    ) -> Decision:
        if len(by.strip()) < 2:
            raise BadInput("A decision names the person who takes it.", remedy="Give the name with --by.")
        if len(by) > 200 or len(reason) > 2000:
            raise BadInput("A decision's name has at most 200 characters, its reason at most 2000.")
        given: dict[str, Any] = {"dataset": dataset, "until": until, "reason": reason, "roster": roster}
        taken = Decision(study=digest, site=self.site, decision=decision, by=by, time=self.clock.now(), **given)
        self.audit.append(_KINDS[decision], actor=by, study=digest, details=given | {"reason": reason[:1000]})
        self.store.decide(taken, sign_document(taken.model_dump_json().encode(), self.key, kind="decision"))
        return taken


def open_decisions(folder: SiteFolder, clock: Clock) -> Decisions:
    key = SigningKey.load(folder.key)
    return Decisions(read_settings(folder.settings).site, folder, key, Store(folder.state), AuditLog(folder.audit, key, clock), clock)


@final
@dataclass(frozen=True, slots=True)
class Taken:
    """A decision that is in force; ``told``: the running agent has taken it, and tells the coordinator at once."""

    decision: Decision
    told: bool


def decide(decisions: Decisions, word: Word, prefix: str, *, by: str, **given: Any) -> Taken:
    """By the running agent, which acts on it at once; where none runs, here, and the agent tells it when it starts.

    ``given``: as the methods of these names take it. Raises what they raise.
    """
    done = ask_agent(decisions.folder, {"command": word, "study": prefix, "by": by, **given})
    if done is not None:
        return Taken(Decision.model_validate(done), told=True)
    known: Mapping[Word, Callable[..., Decision]] = {"approve": decisions.approve, "refuse": decisions.refuse, "withdraw": decisions.withdraw}
    decision = known[word](prefix, by=by, **given)
    if word != "approve":
        decisions.erase(decision.study)
    return Taken(decision, told=False)
