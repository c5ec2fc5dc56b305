"""What sites tell of themselves: checked against their keys, kept as signed, handed to whom it concerns."""

from __future__ import annotations

import json
from typing import Any, TypeVar, final

from pydantic import ValidationError

from aimer2.audit.kinds import Kind
from aimer2.coordinator.records import Records
from aimer2.coordinator.registry import Registry
from aimer2.coordinator.store import told as rows
from aimer2.coordinator.store.database import Database
from aimer2.core.clock import Clock
from aimer2.core.errors import BadInput, ClockSkew, NotAllowed, NotFound
from aimer2.identity.assertions import CLOCK_TOLERANCE
from aimer2.identity.base64url import decode
from aimer2.identity.documents import open_document
from aimer2.messages.told import DESCRIPTION, SPENDING, DataPublished, Spending

_D = TypeVar("_D", Spending, DataPublished)


@final
class SitesTold:
    def __init__(self, database: Database, registry: Registry, records: Records, clock: Clock) -> None:
        self._database = database
        self._registry = registry
        self._records = records
        self._clock = clock

    async def take_spending(self, site: str, statement: str) -> None:
        """Raises Tampered, NotAuthenticated where the site's present key has not signed it, ClockSkew where it is dated ahead, BadInput, NotAllowed,
        NotFound, Conflict where the site has told something later."""
        said = self._opened(Spending, site, statement, SPENDING)
        if said.site != site:
            raise NotAllowed("A site speaks for itself only.")
        offer = self._registry.study(said.study)
        if site not in offer.package.roster or offer.package.study.privacy.differential_privacy is None:
            raise NotFound("There is no study with this digest that spends privacy at this site.")
        await self._database.write(rows.keep, SPENDING, site, said.study, said.time, statement)

    async def take_description(self, site: str, statement: str) -> None:
        """Raises as `take_spending`."""
        said = self._opened(DataPublished, site, statement, DESCRIPTION)
        if said.site != site:
            raise NotAllowed("A site speaks for itself only.")
        if await self._database.write(rows.keep, DESCRIPTION, site, said.dataset, said.time, statement):
            await self._records.add(Kind.DATASET_PUBLISHED, actor=site, dataset=said.dataset, by=said.by, published=said.published)

    def _opened(self, form: type[_D], site: str, statement: str, kind: str) -> _D:
        try:
            said = form.model_validate_json(open_document(statement, self._registry.sites[site].key, kind=kind))
        except ValidationError:
            raise BadInput("The statement is not of the form that this version knows.") from None
        # The latest counts: one that is dated ahead would keep every later one out. Written so that what is no number is refused too.
        if not said.time <= self._clock.now() + CLOCK_TOLERANCE:
            raise ClockSkew("The statement is dated ahead of now.")
        return said

    async def spending(self) -> list[Spending]:
        """By study, then site."""
        return [Spending.model_validate(_payload(row.statement)) for row in await self._database.read(rows.read, SPENDING)]

    async def descriptions(self, site: str) -> list[DataPublished]:
        """Those that are not taken back."""
        kept = [
            DataPublished.model_validate(_payload(row.statement)) for row in await self._database.read(rows.read, DESCRIPTION) if row.site == site
        ]
        return [one for one in kept if one.published]


def _payload(statement: str) -> Any:
    """Of what was verified when it came; the site may have another key since."""
    return json.loads(decode(statement.split(".")[1]))
