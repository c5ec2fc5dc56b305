"""Several logs against each other: each holds heads that the others have signed, and must still be the log of which they are heads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from aimer2.audit.entries import Entry, Verifier, digest
from aimer2.audit.heads import SignedHead
from aimer2.audit.kinds import Kind
from aimer2.audit.log import is_torn, snapshot_lines
from aimer2.core.errors import Tampered


@final
@dataclass(frozen=True, slots=True)
class Disagreement:
    """Line ``line`` of ``log`` (0: the log ends before it) is not what line ``witness_line`` of ``witness`` says it was."""

    log: Path
    line: int
    witness: Path
    witness_line: int
    sentence: str


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """``heads``: so many heads of one log were found in another and compared."""

    heads: int
    disagreements: tuple[Disagreement, ...]


@final
@dataclass(frozen=True, slots=True)
class _Seen:
    """A head of a log, where somebody else has written it down."""

    head: SignedHead
    witness: Path
    line: int


def compare(logs: Mapping[Path, Sequence[Verifier]]) -> Comparison:
    """``logs``: every log with the keys that have signed it. Each log is named once, by the first line known to have been changed."""
    owners = {key.text: (path, key) for path, keys in logs.items() for key in keys}
    seen: defaultdict[Path, list[_Seen]] = defaultdict(list)
    found: list[Disagreement] = []
    heads = 0
    for witness in logs:
        for line, head in _heads(witness):
            path, key = owners.get(head.key, (witness, None))
            if key is None or path == witness:
                continue
            heads += 1
            try:
                head.check(key)
            except Tampered:
                said = f"line {line} of {witness} holds a head of {path} that its key has not signed"
                found.append(Disagreement(witness, line, path, 0, said))
                continue
            seen[path].append(_Seen(head, witness, line))
    for path, given in seen.items():
        first = _first_disagreement(path, sorted(given, key=lambda one: one.head.sequence))
        if first is not None:
            found.append(first)
    return Comparison(heads, tuple(found))


def _first_disagreement(path: Path, seen: Sequence[_Seen]) -> Disagreement | None:
    """``seen``: in the order of the log."""
    held = _digests(path, {one.head.sequence for one in seen})
    agreed = 0
    for one in seen:
        line, held_digest = held.get(one.head.sequence, (0, ""))
        if held_digest == one.head.digest:
            agreed = one.head.sequence
            continue
        since = f"; up to entry {agreed} they agree" if agreed else ""
        where = f"line {one.line} of {one.witness} has its head"
        if not line:
            said = f"{path} has no entry {one.head.sequence}, but {where}{since}"
        else:
            said = f"line {line} of {path} (entry {one.head.sequence}) is not the one that was there: {where}{since}"
        return Disagreement(path, line, one.witness, one.line, said)
    return None


def _heads(path: Path) -> Iterator[tuple[int, SignedHead]]:
    """The heads of other logs in this one. A line that is no entry, or an entry that holds no head, is for `verify` to report."""
    for line, entry, _ in _entries(path):
        if entry.kind == Kind.HEAD_RECEIVED:
            try:
                yield line, SignedHead.read(entry.details)
            except Tampered:
                continue


def _digests(path: Path, wanted: set[int]) -> dict[int, tuple[int, str]]:
    """Line and digest of the entries of these numbers."""
    return {entry.sequence: (line, digest(text)) for line, entry, text in _entries(path) if entry.sequence in wanted}


def _entries(path: Path) -> Iterator[tuple[int, Entry, bytes]]:
    for number, raw in enumerate(snapshot_lines(path), 1):
        if is_torn(raw):
            return
        text = raw.removesuffix(b"\n")
        try:
            yield number, Entry.parse(text), text
        except Tampered:
            continue


def signers(path: Path, keys: Sequence[Verifier]) -> list[Verifier]:
    """Those of the keys under whose name entries of the log stand, in the order given."""
    names = {entry.key for _, entry, _ in _entries(path)}
    return [key for key in keys if key.key_id in names]
