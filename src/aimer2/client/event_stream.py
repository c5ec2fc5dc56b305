"""A study's events as the coordinator tells them: server-sent events (WHATWG HTML, section 9.2), each with its number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from aimer2.core.errors import VersionMismatch
from aimer2.study.events import EVENT, Event


def numbered(pieces: Iterable[bytes], after: int) -> Iterator[tuple[int, Event]]:
    """Event by event with its number, from bytes that are cut anywhere; ``after``: the number of the last one before. Raises VersionMismatch."""
    number = after
    for line in _lines(pieces):
        field, _, value = line.partition(": ")
        if field == "id":
            number = int(value)
        elif field == "data":
            yield number, _event(value)


def _event(text: str) -> Event:
    try:
        return EVENT.validate_json(text)
    except ValidationError:
        raise VersionMismatch("The coordinator tells an event that this version does not know.") from None


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in lines)
