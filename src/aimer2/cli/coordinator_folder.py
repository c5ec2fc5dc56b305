"""A coordinator's folder, as the commands of its operator use it: its database, and its audit log."""

from __future__ import annotations

import getpass
import os

from aimer2.audit.entries import Json
from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.coordinator.records import Records
from aimer2.coordinator.settings import Folder, Settings
from aimer2.coordinator.store.database import Database
from aimer2.core.clock import SystemClock
from aimer2.identity.keys import SigningKey

CLOCK = SystemClock()


def open_database(folder: Folder) -> tuple[Settings, Database]:
    settings = folder.read_settings()
    return settings, Database(folder.database_url(settings))


def note(folder: Folder, kind: Kind, **details: Json) -> None:
    """An entry of the audit log, in the name of whoever gives the command."""
    Records(AuditLog(folder.audit_log, SigningKey.load(folder.signing_key), CLOCK)).add_now(kind, actor=operator(), details=details)


def operator() -> str:
    try:
        return f"operator:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"operator:{os.getuid()}"
