"""What happened, written twice: one line in the log of the process, one signed entry in the audit log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import final

from aimer2.audit.entries import Json
from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog

LOG = logging.getLogger("aimer2.coordinator")


@final
class Records:
    """Everything worth knowing afterwards goes through here; never a secret, never a value of a patient."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    async def add(self, kind: Kind, *, actor: str, study: str | None = None, **details: Json) -> None:
        await asyncio.to_thread(self.add_now, kind, actor=actor, study=study, details=details)

    def add_now(self, kind: Kind, *, actor: str, study: str | None = None, details: Mapping[str, Json]) -> None:
        self._audit.append(kind, actor=actor, study=study, details=details)
        about = _printable(" ".join(f"{name}={value}" for name, value in details.items()))
        LOG.info("%s by %s%s %s", kind, _printable(actor), f" study={study[:16]}" if study else "", about)


def _printable(text: str) -> str:
    """On one line: what somebody typed must not look like a line of ours."""
    return "".join(character if character.isprintable() else "?" for character in text)
