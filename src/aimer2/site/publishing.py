"""What the consortium may see of the site's data sets: the words that lie at the site, and that the agent tells the coordinator."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from aimer2.audit.entries import Json
from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.core.clock import Clock
from aimer2.core.errors import Conflict
from aimer2.core.said import say
from aimer2.messages.told import DataPublished
from aimer2.site.control import ask_agent
from aimer2.site.folder import SiteFolder
from aimer2.site.settings import read_settings


def published(folder: SiteFolder, name: str) -> DataPublished | None:
    """What the consortium may see of this data set; None: nothing."""
    path = folder.published(name)
    said = DataPublished.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None
    return said if said is not None and said.published else None


def by_now(folder: SiteFolder, clock: Clock, name: str, by: str) -> dict[str, Any]:
    """Whose words these are, about what and when."""
    return {"site": read_settings(folder.settings).site, "dataset": name, "by": by, "time": clock.now()}


def let_know(folder: SiteFolder, audit: AuditLog, said: DataPublished) -> bool:
    """Keeps the words, first in the audit log, and lets an agent know that runs; whether one does."""
    details: dict[str, Json] = {"dataset": said.dataset, "columns": len(said.columns), "published": said.published, "sha256": sha256_of(said)}
    audit.append(Kind.DATASET_PUBLISHED, actor=said.by, details=details)
    path = folder.published(said.dataset)
    draft = path.with_suffix(".draft")
    draft.write_text(said.model_dump_json(), encoding="utf-8")
    os.replace(draft, path)
    return ask_agent(folder, {"command": "tell"}) is not None


def take_back(folder: SiteFolder, audit: AuditLog, clock: Clock, name: str, by: str) -> bool:
    """The consortium sees the description no longer once the agent has told so; whether one runs. Raises Conflict where nothing is published."""
    if published(folder, name) is None:
        raise Conflict(say("The description of '{name}' is not published.", name=name))
    return let_know(folder, audit, DataPublished.model_validate(by_now(folder, clock, name, by) | {"published": False}))


def sha256_of(said: DataPublished) -> str:
    """By which the audit log knows what was published."""
    return hashlib.sha256(said.model_dump_json().encode()).hexdigest()
