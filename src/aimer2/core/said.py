"""Sentences that can be told in any language: text, which is English, and beside it the message that it was made of, with what was put into it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, final

PLACE = re.compile(r"\{(\w{1,40})\}")


@final
class Said(str):
    """A sentence; as text it is English.

    ``message``: with a place `{name}` for each of ``values``; a sentence among these is told in the same language. ``depth``: it goes on with, or
    belongs to, the sentence before of less depth. A plain ``str`` is a sentence too: its text is its message.
    """

    message: str
    values: Mapping[str, object]
    depth: int

    def __new__(cls, message: str, values: Mapping[str, object] | None = None, depth: int = 0) -> Said:
        made = super().__new__(cls, filled(message, {name: str(value) for name, value in values.items()}) if values else message)
        made.message, made.values, made.depth = message, values or {}, depth
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.message, self.values, self.depth


def say(message: str, depth: int = 0, /, **values: object) -> Said:
    """A sentence of ours: its message is held in every language."""
    return Said(message, values, depth)


def phrase(text: str) -> Said:
    """The text as a sentence, to be put into another: a plain one is its own message."""
    return text if isinstance(text, Said) else Said(text)


def mark(message: str) -> str:
    """The message itself, marked to be translated: for texts that stand in Python and are shown later."""
    return message


def filled(message: str, values: Mapping[str, str]) -> str:
    """The message with the values in their places; a place without a value stays, so that a message from elsewhere can do no harm."""
    return PLACE.sub(lambda place: values.get(place[1], place[0]), message)


def joined(sentences: Sequence[str], between: str = " ") -> str:
    """Several sentences as one, each of which can still be told in another language; ``between``: a blank, or a mark and a blank."""
    if len(sentences) == 1:
        return sentences[0]
    parts = {f"part_{number}": phrase(sentence) for number, sentence in enumerate(sentences)}
    return Said(between.join(f"{{{name}}}" for name in parts), parts)
