"""The coordinator's audit log: read, filtered, verified from its first line on, taken away."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from starlette.responses import RedirectResponse, Response

from aimer2.audit.entries import Entry
from aimer2.audit.verify import Verification, verify
from aimer2.core.errors import Tampered
from aimer2.dashboard.visit import Visit
from aimer2.identity.keys import PublicKey
from aimer2.web.answers import read_form

SHOWN = 200


async def audit(visit: Visit) -> Response:
    """``kind``, ``study`` and ``words`` of the query choose; the whole log is verified before anything of it is shown."""
    kind, study, words = visit.asked("kind"), visit.asked("study").strip(), visit.asked("words").strip().lower()
    lines = (await _log(visit)).splitlines()
    key = PublicKey.from_text((await visit.get("/v1/coordinator"))["key"])
    entries = list(filter(None, map(_entry, lines)))
    chosen = [
        entry
        for entry in reversed(entries)
        if kind in ("", entry.kind) and (not study or (entry.study or "").startswith(study)) and _holds(entry, words)
    ]
    return visit.page(
        "audit.html",
        current="/audit",
        entries=[asdict(entry) for entry in chosen[:SHOWN]],
        kinds=sorted({entry.kind for entry in entries}),
        kind=kind,
        study=study,
        words=words,
        verified=_verify(b"\n".join([*lines, b""]), key),
        key=key.text,
    )


async def audit_file(visit: Visit) -> Response:
    """The log as it was written, line by line."""
    headers = {"Content-Disposition": 'attachment; filename="coordinator-audit.jsonl"', "Cache-Control": "no-store"}
    return Response(await _log(visit), 200, headers, "application/jsonl")


async def freeze(visit: Visit) -> Response:
    return await _incident(visit, "/v1/freeze")


async def thaw(visit: Visit) -> Response:
    return await _incident(visit, "/v1/thaw")


async def _incident(visit: Visit, path: str) -> Response:
    await visit.do("POST", path, {"reason": (await read_form(visit.request)).get("reason", "")})
    return RedirectResponse("/", 303)


async def _log(visit: Visit) -> bytes:
    return (await visit.api.ask(visit.request, "GET", "/v1/audit")).body


def _entry(line: bytes) -> Entry | None:
    """None: no entry, which the verification tells of."""
    try:
        return Entry.parse(line)
    except Tampered:
        return None


def _holds(entry: Entry, words: str) -> bool:
    return not words or words in entry.actor.lower() or words in str(entry.details).lower()


def _verify(log: bytes, key: PublicKey) -> Verification:
    with tempfile.TemporaryDirectory(prefix="aimer2-") as folder:
        path = Path(folder) / "audit.jsonl"
        path.write_bytes(log)
        return verify(path, key)
