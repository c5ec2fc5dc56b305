"""The coordinator's audit log as others see it: its lines, and its head in exchange for a site's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import final

from aimer2.audit.entries import Entry
from aimer2.audit.heads import SignedHead, sign_head
from aimer2.audit.kinds import Kind
from aimer2.audit.log import is_torn, snapshot_lines
from aimer2.coordinator.records import Records
from aimer2.coordinator.registry import Registry
from aimer2.core.clock import Clock, rfc3339
from aimer2.core.errors import NotAllowed
from aimer2.identity.keys import SigningKey
from aimer2.messages.wire import AuditHead

_PIECE = 1 << 18


@final
class Audit:
    def __init__(self, path: Path, name: str, key: SigningKey, records: Records, registry: Registry, clock: Clock) -> None:
        """``name``: the coordinator's, under which sites know this log."""
        self._path = path
        self._name = name
        self._key = key
        self._records = records
        self._registry = registry
        self._clock = clock

    async def exchange(self, site: str, given: AuditHead) -> AuditHead:
        """Writes a site's signed head into this log, and hands out this log's head, which covers it.

        Raises Tampered unless the site's present key has signed it, NotAllowed for another site's.
        """
        head = SignedHead(**given.model_dump())
        head.check(self._registry.sites[site].key)
        if head.log != site:
            raise NotAllowed("A site hands in the head of its own log only.")
        await self._records.add(Kind.HEAD_RECEIVED, actor=site, study=None, **head.details())
        ours = sign_head(self._name, await self._records.head(), time=rfc3339(self._clock.now()), key=self._key)
        return AuditHead(**asdict(ours))

    async def lines(self, by: str, *, after: int, study: str | None, kind: str | None) -> Iterator[bytes]:
        """The log's lines as they are written, in pieces: all of them can be verified offline, a selection entry by entry.

        ``after``: only entries with a higher number. That somebody took them is in the log before the first one goes.
        """
        await self._records.add(Kind.LOG_EXPORTED, actor=by, after=after, of_study=study or "", of_kind=kind or "")
        return _pieces(_chosen(self._path, after, study, kind))


def _chosen(path: Path, after: int, study: str | None, kind: str | None) -> Iterator[bytes]:
    everything = not after and study is None and kind is None
    for line in snapshot_lines(path):
        if is_torn(line):
            return
        if not everything:
            entry = Entry.parse(line.removesuffix(b"\n"))
            if entry.sequence <= after or study not in (None, entry.study) or kind not in (None, entry.kind):
                continue
        yield line


def _pieces(lines: Iterator[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _PIECE:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)
