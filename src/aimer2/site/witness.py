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


def exchange_heads(decisions: Decisions, connection: Connection, coordinator: CoordinatorAddress) -> SignedHead | None:
    """The coordinator's head, to be written down; None while there is nothing to tell.

    **Leaves the site**: how many entries its audit log has, and the SHA-256 of the last one; no entry.

    Raises Unreachable, NotAuthenticated; Tampered where the answer is not signed by the coordinator that this site enrolled at.
    """
    head = decisions.audit.head()
    if not head.sequence:
        return None
    ours = sign_head(decisions.site, head, time=rfc3339(decisions.clock.now()), key=decisions.key)
    theirs = SignedHead(**connection.exchange_heads(AuditHead(**asdict(ours))).model_dump())
    theirs.check(PublicKey.from_text(coordinator.key))
    return theirs


def write_down(decisions: Decisions, theirs: SignedHead, coordinator: CoordinatorAddress) -> None:
    """Into this site's audit log."""
    decisions.audit.append(Kind.HEAD_RECEIVED, actor=coordinator.name, details=theirs.details())
