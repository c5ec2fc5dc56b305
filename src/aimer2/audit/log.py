"""The audit log of a site or coordinator: one file to which entries are only ever added.

Several processes of one machine may append at once. An entry is on the disk before ``append`` returns (about 0.5 ms on an SSD).
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import final

from aimer2.audit.entries import LONGEST_LINE, NO_ENTRY, Entry, Event, Head, Json, Signer, digest, sign_line
from aimer2.audit.kinds import Kind
from aimer2.core.clock import Clock, rfc3339
from aimer2.core.errors import Conflict, OutOfResources, Tampered
from aimer2.core.said import say

EMPTY = Head(0, NO_ENTRY)
"""The head of a log without entries."""

_TAIL = 4 * LONGEST_LINE
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@final
@dataclass(frozen=True, slots=True)
class _Seen:
    """The file as this process last left it."""

    inode: int
    size: int
    head: Head


@final
class AuditLog:
    """A hash-chained, signed, append-only log in one file of JSON lines, mode 0600.

    Nothing in it leaves the site by itself. Raises when appending: Tampered if the file was replaced or shortened or its last line is not
    genuine, Conflict if it is signed with another key.
    """

    def __init__(self, path: Path, key: Signer, clock: Clock) -> None:
        self._path = path
        self._key = key
        self._clock = clock
        self._seen: _Seen | None = None

    def append(self, kind: Kind, *, actor: str, study: str | None = None, details: Mapping[str, Json] | None = None) -> Entry:
        """Record what ``actor`` did; the entry is on the disk when this returns.

        Raises BadInput (details are not JSON), TooLarge, OutOfResources (the disk is full; nothing was recorded).
        """
        return Entry.parse(self.extend([Event(str(kind), actor, study, details or {})])[0])

    def extend(self, events: Sequence[Event]) -> list[bytes]:
        """Record several events in their order, all of them or none; their lines are on the disk when this returns.

        Raises what `append` raises.
        """
        with _locked(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, fcntl.LOCK_EX) as file:
            return self._write(file, events, self._find_head(file))[0]

    def rotate(self, key: Signer, *, actor: str) -> Entry:
        """Hand the log over to a new key: the old one signs the handing over, everything after it is signed with ``key``."""
        entry = self.append(Kind.KEY_ROTATED, actor=actor, details={"key": key.public.text})
        self._key = key
        return entry

    def read(
        self,
        *,
        kinds: Collection[str] | None = None,
        study: str | None = None,
        actor: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Iterator[Entry]:
        """The entries of these kinds, this study, this actor, from ``since`` until before ``until`` (seconds since 1970), oldest first.

        Not verified: see `aimer2.audit.verify`. Raises Tampered at a line that is no entry.
        """
        for line in snapshot_lines(self._path):
            if is_torn(line):
                return
            entry = Entry.parse(line.removesuffix(b"\n"))
            moment = datetime.fromisoformat(entry.time).timestamp()
            if (
                (kinds is None or entry.kind in kinds)
                and (study is None or entry.study == study)
                and (actor is None or entry.actor == actor)
                and (since is None or moment >= since)
                and (until is None or moment < until)
            ):
                yield entry

    def head(self) -> Head:
        """How far the log goes: to be recorded elsewhere as an anchor."""
        try:
            with _locked(self._path, os.O_RDONLY, fcntl.LOCK_SH) as file:
                line = _last_lines(file)[0]
        except FileNotFoundError:
            return EMPTY
        return EMPTY if line is None else Head(Entry.parse(line).sequence, digest(line))

    def export(self, path: Path) -> Head:
        """Copy the log as it stands to a new file, byte by byte, and say how far it goes.

        Raises Conflict if the file exists, Tampered (the copy is made) if the last line is no entry.
        """
        last: bytes | None = None
        try:
            with open(path, "xb") as copy:
                for line in snapshot_lines(self._path):
                    if not is_torn(line):
                        copy.write(line)
                        last = line.removesuffix(b"\n")
        except FileExistsError as error:
            raise Conflict(say("{path} exists and is not overwritten.", path=path), remedy="Name a file that does not exist.") from error
        return EMPTY if last is None else Head(Entry.parse(last).sequence, digest(last))

    def _find_head(self, file: int) -> Head:
        status = os.fstat(file)
        seen = self._seen
        if seen and (seen.inode != status.st_ino or seen.size > status.st_size):
            raise Tampered("The audit log was replaced or shortened while it was in use.", remedy="Verify the log before going on.")
        if seen and seen.size == status.st_size:
            return seen.head
        if status.st_size == 0:
            _sync_folder(self._path.parent)
        line, torn = _last_lines(file)
        head = EMPTY if line is None else self._check_last(line)
        if torn:
            head = self._set_aside(file, torn, head)
        return head

    def _check_last(self, line: bytes) -> Head:
        """The head that ``line`` makes, if this log may go on from there."""
        entry = Entry.parse(line)
        ours = self._key.public
        if entry.kind == Kind.KEY_ROTATED:
            follows = entry.details.get("key") == ours.text
        else:
            follows = entry.key == ours.key_id
        if not follows:
            raise Conflict("The audit log is signed with another key.", remedy="Start the process again, so that it loads the key of today.")
        if entry.key == ours.key_id:
            entry.check(ours)
        return Head(entry.sequence, digest(line))

    def _set_aside(self, file: int, torn: bytes, head: Head) -> Head:
        """Move what a crash left of an entry to a file of its own and record that."""
        for number in itertools.count(1):
            aside = self._path.with_name(f"{self._path.name}.torn-{number}")
            try:
                descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue
            break
        with open(descriptor, "wb") as kept:
            kept.write(torn)
            kept.flush()
            os.fsync(kept.fileno())
        _sync_folder(self._path.parent)
        os.ftruncate(file, os.fstat(file).st_size - len(torn))
        details: dict[str, Json] = {"file": aside.name, "bytes": len(torn), "sha256": digest(torn)}
        return self._write(file, [Event(str(Kind.TORN_ENTRY), "aimer2", None, details)], head)[1]

    def _write(self, file: int, events: Sequence[Event], head: Head) -> tuple[list[bytes], Head]:
        lines = []
        for event in events:
            lines.append(sign_line(event, after=head, time=rfc3339(self._clock.now()), key=self._key))
            head = Head(head.sequence + 1, digest(lines[-1]))
        text = b"".join(line + b"\n" for line in lines)
        before = os.fstat(file)
        try:
            if os.write(file, text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(file)
        except OSError as error:
            self._seen = None
            os.ftruncate(file, before.st_size)
            if error.errno in _FULL:
                raise OutOfResources("The disk of the audit log is full; the entry was not recorded.") from error
            raise
        self._seen = _Seen(before.st_ino, before.st_size + len(text), head)
        return lines, head


def snapshot_lines(path: Path) -> Iterator[bytes]:
    """The lines of a log as it stood at the start, newlines kept; the last may be torn. Nothing if there is no file."""
    try:
        with _locked(path, os.O_RDONLY, fcntl.LOCK_SH) as file:
            left = os.fstat(file).st_size
    except FileNotFoundError:
        return
    with open(path, "rb") as lines:
        while left > 0 and (line := lines.readline(min(left, LONGEST_LINE + 1))):
            left -= len(line)
            yield line


def is_torn(line: bytes) -> bool:
    """Whether it is what a crash left of an entry (a line over the limit is none: it was never written by this log)."""
    return not line.endswith(b"\n") and len(line) <= LONGEST_LINE


def _last_lines(file: int) -> tuple[bytes | None, bytes]:
    """The last whole line without its newline (None if there is none), and what a crash left behind it.

    A line with a zero byte is such a remainder too: after a power failure a file system may keep the length and lose the content.
    """
    size = os.fstat(file).st_size
    tail = os.pread(file, _TAIL, max(0, size - _TAIL))
    end = tail.rfind(b"\n") + 1
    start = tail.rfind(b"\n", 0, max(0, end - 1)) + 1
    if b"\0" in tail[start:end]:
        end, start = start, tail.rfind(b"\n", 0, max(0, start - 1)) + 1
    if start == 0 and size > len(tail):
        raise Tampered("The end of the audit log is no entry.", remedy="Verify the log before going on.")
    return tail[start : end - 1] if end else None, tail[end:]


@contextmanager
def _locked(path: Path, flags: int, lock: int) -> Iterator[int]:
    """An open, locked file. Opened anew each time (3 µs): the lock then also keeps the threads of one process apart."""
    file = os.open(path, flags, 0o600)
    try:
        fcntl.flock(file, lock)
        yield file
    finally:
        os.close(file)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
