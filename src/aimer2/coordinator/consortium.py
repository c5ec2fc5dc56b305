"""The members of the consortium: who is invited, who leaves, what they agree on."""

from __future__ import annotations

import asyncio
from typing import final

from aimer2.audit.kinds import Kind
from aimer2.coordinator.enrolment import Inviter
from aimer2.coordinator.queue import Queue
from aimer2.coordinator.records import LOG, Records
from aimer2.coordinator.registry import Registry
from aimer2.coordinator.store import consortium as rows
from aimer2.coordinator.store import members
from aimer2.coordinator.store.database import Database
from aimer2.coordinator.studies import Studies
from aimer2.core.clock import Clock, rfc3339
from aimer2.core.errors import NotFound
from aimer2.identity.invitations import hash_code
from aimer2.messages.consortium import Acceptance, Agreement, InvitationStatus, MadeInvitation, Member, NewAgreement, OffBoarded


@final
class Consortium:
    def __init__(self, database: Database, registry: Registry, records: Records, queue: Queue, studies: Studies, inviter: Inviter) -> None:
        self._database = database
        self._registry = registry
        self._records = records
        self._queue = queue
        self._studies = studies
        self._inviter = inviter
        self._clock: Clock = inviter.clock
        self._told: set[str] = set()
        """The sites whose leaving was told to their studies."""

    async def members(self) -> list[Member]:
        return await self._database.read(rows.read_members)

    async def invitations(self) -> list[InvitationStatus]:
        return await self._database.read(rows.read_invitations, self._clock.now())

    async def invite(self, site: str, by: str) -> MadeInvitation:
        """Raises Conflict where the site is enrolled already."""
        made = await asyncio.to_thread(self._inviter.invite, self._database, site, by)
        await self._records.add(Kind.INVITATION_MADE, actor=by, site=site, expires=rfc3339(made.expires))
        identifier = hash_code(made.code)[: rows.ID_LENGTH]
        return MadeInvitation(text=made.to_text(), status=next(each for each in await self.invitations() if each.id == identifier))

    async def revoke_invitation(self, identifier: str, by: str) -> InvitationStatus:
        """Raises NotFound, Conflict."""
        gone = await self._database.write(rows.revoke_invitation, identifier, by, self._clock.now())
        await self._records.add(Kind.INVITATION_REVOKED, actor=by, site=gone.site, invitation=gone.id)
        return gone

    async def off_board(self, site: str, by: str, reason: str) -> OffBoarded:
        """Its key is refused at once, its open tasks are answered for it, open studies go on without it; what it did stays recorded.

        Raises NotFound, Conflict where it has left already.
        """
        await self._database.write(members.revoke_site, site, self._clock.now(), by, reason)
        await self._records.add(Kind.SITE_REVOKED, actor=by, site=site, reason=reason)
        await self._registry.load()
        studies = await self.tell_studies(site)
        return OffBoarded(member=next(member for member in await self.members() if member.site == site), studies=tuple(studies))

    async def tell_studies(self, site: str) -> list[str]:
        """A site has left: no round waits for it, and no study for its decision. The open studies that had it in their rosters."""
        LOG.info("site=%s was revoked", site)
        self._told.add(site)
        await self._queue.refuse(site)
        concerned = [o.digest for o in self._registry.studies.values() if site in o.package.roster and o.state in ("offered", "running", "paused")]
        for digest in concerned:
            await self._records.add(Kind.SITE_LEFT, actor=site, study=digest, state=self._registry.study(digest).state)
        await self._studies.check_running()
        self._queue.wake()
        await self._studies.start_ready()
        return concerned

    def begin(self) -> None:
        """Those who have left before this process began are nobody's news."""
        self._told = self._left()

    async def tell_of_others(self) -> None:
        """Of the sites that another process (the command line, a second coordinator) has revoked."""
        left = self._left()
        # Who has come back can leave again.
        self._told &= left
        for site in sorted(left - self._told):
            await self.tell_studies(site)

    def _left(self) -> set[str]:
        return {name for name, site in self._registry.sites.items() if site.revoked}

    async def agreements(self) -> list[Agreement]:
        return await self._database.read(rows.read_agreements)

    async def agreement(self, digest: str) -> Agreement:
        """Raises NotFound."""
        found = next((each for each in await self.agreements() if each.digest == digest), None)
        if found is None:
            raise NotFound("There is no such agreement.", remedy="`aimer2 consortium agreements` lists them.")
        return found

    async def add_agreement(self, new: NewAgreement, by: str) -> Agreement:
        """Raises Conflict where this document is there already."""
        await self._database.write(rows.add_agreement, new, by, self._clock.now())
        await self._records.add(Kind.AGREEMENT_ADDED, actor=by, agreement=new.digest, title=new.title, dated=new.dated)
        return await self.agreement(new.digest)

    async def accept(self, digest: str, site: str, by: str, recorded_by: str) -> Agreement:
        """Raises NotFound; Conflict where the hospital has accepted it already, or is no member."""
        one = Acceptance(site=site, by=by, recorded_by=recorded_by, accepted=self._clock.now())
        await self._database.write(rows.accept, digest, one)
        await self._records.add(Kind.AGREEMENT_ACCEPTED, actor=recorded_by, agreement=digest, site=site, by=by)
        return await self.agreement(digest)
