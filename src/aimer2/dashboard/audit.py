"""The coordinator's audit log: read, filtered, verified from its first line on, taken away."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from starlette.responses import RedirectResponse, Response

from aimer2.audit.entries import Entry
from aimer2.audit.verify import Verification, verify
from aimer2.core.errors import Tampered
from aimer2.dashboard.visit import Visit
from aimer2.identity.keys import PublicKey
from aimer2.web.answers import read_form

SHOWN = 200

# A long log takes seconds, in which the loop must answer others; of several who look, one after the other.
_READER = ThreadPoolExecutor(1, "audit")


async def audit(visit: Visit) -> Response:
    """``kind``, ``study`` and ``words`` of the query choose; the whole log is verified before anything of it is shown."""
    kind, study, words = visit.asked("kind"), visit.asked("study").strip(), visit.asked("words").strip().lower()
    key, log = PublicKey.from_text((await visit.get("/v1/coordinator"))["key"]), await _log(visit)

    def fits(entry: Entry) -> bool:
        return kind in ("", entry.kind) and (not study or (entry.study or "").startswith(study)) and _holds(entry, words)

    chosen, kinds, verified = await asyncio.get_running_loop().run_in_executor(_READER, _read, log, key, fits)
    return visit.page(
        "audit.html",
        current="/audit",
        entries=[asdict(entry) for entry in chosen],
        kinds=kinds,
        kind=kind,
        study=study,
        words=words,
        verified=verified,
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


def _read(log: bytes, key: PublicKey, fits: Callable[[Entry], bool]) -> tuple[list[Entry], list[str], Verification]:
    """The newest entries that fit, every kind there is, and whether the log holds."""
    lines = log.splitlines()
    entries = list(filter(None, map(_entry, lines)))
    chosen = list(islice(filter(fits, reversed(entries)), SHOWN))
    return chosen, sorted({entry.kind for entry in entries}), _verify(b"\n".join([*lines, b""]), key)


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
