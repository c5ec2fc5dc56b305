"""The site's own report of a study: its own figures, who approved, what was sent. Signed; it stays at the site."""

from __future__ import annotations

import json
import os
from typing import Any

from aimer2.core.clock import rfc3339
from aimer2.identity.documents import open_document, sign_document
from aimer2.identity.keys import PublicKey, SigningKey
from aimer2.site.decisions import Decisions
from aimer2.site.folder import SiteFolder


def write_report(decisions: Decisions, digest: str) -> dict[str, Any]:
    """Writes and returns the report of a study as it stands."""
    study = decisions.find(digest)
    report = {
        "format": 1,
        "site": decisions.site,
        "study": digest,
        "name": study.package.study.name if study.package else None,
        "question": study.package.study.question if study.package else None,
        "state": study.state,
        "written": rfc3339(decisions.clock.now()),
        "decisions": [decision.model_dump(mode="json") for decision in decisions.store.decisions(digest)],
        "cpu_seconds": decisions.store.spent(digest),
        "tasks": decisions.store.rounds(digest),
    }
    _write(decisions.folder, digest, report, decisions.key)
    return report


def _write(folder: SiteFolder, digest: str, report: dict[str, Any], key: SigningKey) -> None:
    statement = sign_document(json.dumps(report, sort_keys=True).encode(), key, kind="site-report")
    path = folder.report(digest)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"report": report, "statement": statement}, indent=1), encoding="utf-8")
    os.replace(draft, path)


def read_report(folder: SiteFolder, digest: str, key: PublicKey) -> dict[str, Any]:
    """What was signed. Raises Tampered, NotAuthenticated."""
    statement = json.loads(folder.report(digest).read_text(encoding="utf-8"))["statement"]
    report: dict[str, Any] = json.loads(open_document(statement, key, kind="site-report"))
    return report
