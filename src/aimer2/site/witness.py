"""This site's audit log and the coordinator's bear witness to each other: each writes down the other's signed head."""

from __future__ import annotations

from dataclasses import asdict

from aimer2.audit.heads import SignedHead, sign_head
from aimer2.audit.kinds import Kind
from aimer2.core.clock import rfc3339
from aimer2.identity.keys import PublicKey
from aimer2.messages.wire import AuditHead
from aimer2.site.connection import Connection
from aimer2.site.decisions import Decisions
from aimer2.site.settings import CoordinatorAddress


def exchange_heads(decisions: Decisions, connection: Connection, coordinator: CoordinatorAddress) -> None:
    """**Leaves the site**: how many entries its audit log has, and the SHA-256 of the last one; no entry.

    Raises Unreachable, NotAuthenticated; Tampered where the answer is not signed by the coordinator that this site enrolled at.
    """
    head = decisions.audit.head()
    if not head.sequence:
        return
    ours = sign_head(decisions.site, head, time=rfc3339(decisions.clock.now()), key=decisions.key)
    theirs = SignedHead(**connection.exchange_heads(AuditHead(**asdict(ours))).model_dump())
    theirs.check(PublicKey.from_text(coordinator.key))
    decisions.audit.append(Kind.HEAD_RECEIVED, actor=coordinator.name, details=theirs.details())
