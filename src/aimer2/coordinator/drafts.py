"""Studies that are still being written: saved, checked, changed and discarded by their author; nothing of them reaches a site."""

from __future__ import annotations

import asyncio
import secrets
import tomllib
from collections.abc import Sequence
from typing import Any, final

from sqlalchemy import Row

from aimer2.audit.kinds import Kind
from aimer2.coordinator.records import Records
from aimer2.coordinator.registry import Registry
from aimer2.coordinator.store import drafts as rows
from aimer2.coordinator.store.database import Database
from aimer2.coordinator.submission import faults_of_predecessor
from aimer2.core.clock import Clock
from aimer2.core.errors import BadStudy, Fault, TooLarge
from aimer2.core.said import say
from aimer2.core.study import Study
from aimer2.messages.drafts import Draft, DraftChange, DraftEntry, DraftText
from aimer2.study.check import faults_without_files

MOST_FILES = 50
MOST_BYTES = 1 << 20
"""Of the text, and of the files together."""


@final
class Drafts:
    def __init__(self, database: Database, registry: Registry, records: Records, clock: Clock) -> None:
        self._database = database
        self._registry = registry
        self._records = records
        self._clock = clock

    async def save(self, text: DraftText, owner: str) -> Draft:
        """Raises Conflict where the owner has too many, TooLarge."""
        _check_size(text)
        identifier = secrets.token_hex(8)
        await self._database.write(rows.add_draft, identifier, owner, text.model_dump_json(), self._clock.now())
        await self._records.add(Kind.DRAFT_SAVED, actor=owner, draft=identifier, revision=1)
        return await self.read(identifier, owner)

    async def change(self, identifier: str, change: DraftChange, owner: str) -> Draft:
        """Raises NotFound, TooLarge; Conflict where it was changed since the revision that the change rests on."""
        _check_size(change)
        document = DraftText(**change.model_dump(exclude={"revision"})).model_dump_json()
        await self._database.write(rows.change_draft, identifier, owner, document, change.revision, self._clock.now())
        await self._records.add(Kind.DRAFT_SAVED, actor=owner, draft=identifier, revision=change.revision + 1)
        return await self.read(identifier, owner)

    async def all(self, owner: str) -> list[DraftEntry]:
        shown = set(DraftEntry.model_fields)
        return [DraftEntry(**_draft(row).model_dump(include=shown)) for row in await self._database.read(rows.read_drafts, owner)]

    async def read(self, identifier: str, owner: str) -> Draft:
        """Raises NotFound, for another's draft too."""
        return _draft(await self._database.read(rows.read_draft, identifier, owner))

    async def discard(self, identifier: str, owner: str, revision: int | None = None) -> None:
        """Raises NotFound; Conflict where it was changed since the revision that is named."""
        await self._database.write(rows.discard_draft, identifier, owner, revision)
        await self._records.add(Kind.DRAFT_DISCARDED, actor=owner, draft=identifier)

    async def faults(self, identifier: str, owner: str) -> Sequence[Fault]:
        """All of them, but for what only the building of the model shows. Raises NotFound."""
        draft = await self.read(identifier, owner)
        # A megabyte of text takes seconds, in which the coordinator serves everybody else.
        study, found = await asyncio.to_thread(_read, draft.text, self._clock)
        if study is None:
            return found
        found += faults_of_predecessor(draft.supersedes, owner, self._registry)
        enrolled = [name for name, site in self._registry.sites.items() if not site.revoked]
        if unknown := sorted(set(study.sites.names) - set(enrolled)):
            known = ", ".join(sorted(enrolled)) or say("none")
            found.append(
                Fault("sites.names", say("not enrolled: {unknown}", unknown=", ".join(unknown)), say("the enrolled sites are: {known}", known=known))
            )
        if study.model is not None and study.model.code is not None and study.model.code not in draft.files:
            found.append(Fault("model.code", say("{code} is not among the draft's files", code=study.model.code), "save the draft with its code"))
        return found


def _read(text: str, clock: Clock) -> tuple[Study | None, list[Fault]]:
    """The study, where its form is right, and all faults that the text alone shows."""
    try:
        fields = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Besides tomllib's own error: a number of too many digits, brackets within brackets without end.
        return None, [Fault("text", f"not TOML: {error}"[:500], "correct the line; https://toml.io has the syntax")]
    try:
        study = Study(**fields)
    except BadStudy as error:
        return None, list(error.faults)
    return study, faults_without_files(study, clock)


def _check_size(text: DraftText) -> None:
    if _bytes(text.text) > MOST_BYTES:
        raise TooLarge(
            say("The text of a draft has at most {most_bytes} MiB.", most_bytes=MOST_BYTES >> 20), remedy="Leave out what the study does not need."
        )
    if len(text.files) > MOST_FILES or sum(len(name) + _bytes(words) for name, words in text.files.items()) > MOST_BYTES:
        raise TooLarge(
            say("A draft has at most {most_files} files, of {most_bytes} MiB together.", most_files=MOST_FILES, most_bytes=MOST_BYTES >> 20),
            remedy="Leave out what the study does not need.",
        )


def _bytes(words: str) -> int:
    return len(words.encode("utf-8", "surrogatepass"))


def _draft(row: Row[Any]) -> Draft:
    text = DraftText.model_validate_json(row.document)
    return Draft(**text.model_dump(), id=row.id, revision=row.revision, made=row.made, changed=row.changed)
