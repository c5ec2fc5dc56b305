"""Verification of an audit log, offline: the file and the public key are all it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from aimer2.audit.entries import NO_ENTRY, Entry, Head, Verifier, digest
from aimer2.audit.kinds import Kind
from aimer2.audit.log import EMPTY, is_torn, snapshot_lines
from aimer2.core.errors import BadInput, NotFound, Tampered
from aimer2.core.said import say

MOST_PROBLEMS = 100
"""Problems that are listed; further ones are counted."""


@final
@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong in which line (from 1; 0: in the log as a whole).

    ``code``: unreadable, changed, wrong-key, order (removed, inserted, swapped or repeated lines), chain (the line before is another one),
    torn, cut-off (the tail is missing), anchor (the log was written anew).
    """

    line: int
    code: str
    sentence: str


@final
@dataclass(frozen=True, slots=True)
class Verification:
    """What a log holds and what is wrong with it; ``found`` counts all problems, ``problems`` lists the first hundred."""

    entries: int
    first: Entry | None
    last: Entry | None
    head: Head
    problems: tuple[Problem, ...]
    found: int

    @property
    def intact(self) -> bool:
        return self.found == 0


def verify(path: Path, keys: Verifier | Sequence[Verifier], *, anchor: Head | None = None) -> Verification:
    """Check every line of a log: its signature, its number and its chain to the line before.

    ``keys``: the public key; if it was rotated, all of them, the oldest first. ``anchor``: a head of this log that was recorded elsewhere.
    Without one, two things cannot be found: that the newest entries are missing, and that the holder of the private key wrote it all anew.

    Raises NotFound if there is no file.
    """
    if not path.is_file():
        raise NotFound(say("There is no audit log {path}.", path=path))
    listed = list(keys) if isinstance(keys, Sequence) else [keys]
    if not listed:
        raise BadInput("The verification of an audit log needs its public key.")
    walk = _Walk(listed, anchor)
    for line in snapshot_lines(path):
        walk.step(line)
    return walk.end()


@final
class _Walk:
    """The state of a verification between two lines."""

    def __init__(self, keys: list[Verifier], anchor: Head | None) -> None:
        self._key, self._later = keys[0], keys[1:]
        self._anchor = anchor
        self._anchored = anchor is None or anchor == EMPTY
        self._line = 0
        self._previous = NO_ENTRY
        self._expected = 1
        self._entries = 0
        self._first: Entry | None = None
        self._last: Entry | None = None
        self._head = EMPTY
        self._problems: list[Problem] = []
        self._found = 0

    def step(self, raw: bytes) -> None:
        self._line += 1
        if is_torn(raw):
            self._report("torn", "The line is cut off, as a crash leaves it; the next entry that is appended sets it aside.")
            return
        line = raw.removesuffix(b"\n")
        try:
            entry = Entry.parse(line)
        except Tampered:
            self._report("unreadable", "The line is no entry, or not written as AIMER2 writes it.")
            self._previous = digest(line)
            self._expected += 1
            return
        self._check_place(entry)
        if self._check_signature(entry) and entry.kind == Kind.KEY_ROTATED:
            self._turn_key(entry)
        self._entries += 1
        self._first, self._last = self._first or entry, entry
        self._previous, self._expected = digest(line), entry.sequence + 1
        self._head = Head(entry.sequence, self._previous)
        self._anchored = self._anchored or self._head == self._anchor

    def end(self) -> Verification:
        if self._anchor and not self._anchored:
            if self._head.sequence < self._anchor.sequence:
                self._report("cut-off", f"The log ends at entry {self._head.sequence}, but it once had {self._anchor.sequence}.", line=0)
            else:
                self._report("anchor", f"Entry {self._anchor.sequence} is not the one that was recorded elsewhere.", line=0)
        return Verification(self._entries, self._first, self._last, self._head, tuple(self._problems), self._found)

    def _check_place(self, entry: Entry) -> None:
        if entry.sequence > self._expected:
            missing = (
                f"Entry {self._expected} is" if entry.sequence == self._expected + 1 else f"Entries {self._expected} to {entry.sequence - 1} are"
            )
            self._report("order", f"{missing} missing.")
        elif entry.sequence < self._expected:
            self._report("order", f"Entry {entry.sequence} stands where entry {self._expected} belongs.")
        elif entry.previous != self._previous:
            self._report("chain", "The line before is not the one that this entry followed when it was written.")

    def _check_signature(self, entry: Entry) -> bool:
        try:
            entry.check(self._key)
        except Tampered:
            if entry.key == self._key.key_id:
                self._report("changed", f"Entry {entry.sequence} was changed after it was signed.")
            else:
                self._report("wrong-key", f"Entry {entry.sequence} is signed with another key ({entry.key}).")
            return False
        return True

    def _turn_key(self, entry: Entry) -> None:
        if self._later and entry.details.get("key") == self._later[0].text:
            self._key = self._later.pop(0)
        else:
            self._report("wrong-key", "The log is handed over to a key that is not the next of those given.")

    def _report(self, code: str, sentence: str, *, line: int | None = None) -> None:
        self._found += 1
        if len(self._problems) < MOST_PROBLEMS:
            self._problems.append(Problem(self._line if line is None else line, code, sentence))
