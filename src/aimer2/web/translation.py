"""The languages of the pages. A message is its English text; `languages/zh.json` of each room says it in Chinese, and a test holds it complete."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, final

Texts: TypeAlias = Mapping[str, str]
ENGLISH_TAG = "en"


@final
@dataclass(frozen=True, slots=True)
class Said:
    """A sentence and what is put into it, so that it can be told in any language; as text it is English.

    ``values``: by the message's places, `{name}`; a sentence among them is told in the same language. ``depth``: it goes on with, or belongs to, the
    sentence before of less depth.
    """

    message: str
    values: Mapping[str, object] = field(default_factory=dict)
    depth: int = 0

    def __str__(self) -> str:
        return self.message.format(**{name: str(value) for name, value in self.values.items()}) if self.values else self.message


def say(message: str, depth: int = 0, /, **values: object) -> Said:
    """A sentence of ours: its message is held in every language."""
    return Said(message, values, depth)


Outline: TypeAlias = Sequence[tuple[Said, "Outline"]]


def nested(lines: Iterable[Said]) -> Outline:
    """Each sentence with those that belong to it."""
    whole: list[tuple[Said, Outline]] = []
    open_: list[tuple[int, list[tuple[Said, Outline]]]] = [(-1, whole)]
    for line in lines:
        while open_[-1][0] >= line.depth:
            open_.pop()
        more: list[tuple[Said, Outline]] = []
        open_[-1][1].append((line, more))
        open_.append((line.depth, more))
    return whole


@final
@dataclass(frozen=True, slots=True)
class Language:
    """``tag``: BCP 47, as the pages' ``lang`` has it. ``name``: in the language itself."""

    tag: str
    name: str
    texts: Texts = field(default_factory=dict)

    def text(self, message: str) -> str:
        """The message in this language; English where it has none."""
        return self.texts.get(message, message)

    def told(self, said: Said) -> tuple[str, bool]:
        """The sentence in this language, and whether all of it is in it: what somebody else says is told as it was written."""
        known = self.tag == ENGLISH_TAG or said.message in self.texts
        values = {}
        for name, value in said.values.items():
            if isinstance(value, Said):
                values[name], here = self.told(value)
                known = known and here
            else:
                values[name] = str(value)
        message = self.text(said.message)
        return message.format(**values) if values else message, known

    def counted(self, one: str, many: str, count: int) -> str:
        """The message for this number; Chinese has one form for all."""
        if one in self.texts:
            return self.texts[one]
        return one if count == 1 else many


ENGLISH = Language(ENGLISH_TAG, "English")


def mark(message: str) -> str:
    """The message itself, marked to be translated: for texts that stand in Python and are shown later."""
    return message


def read_languages(rooms: Sequence[Path]) -> tuple[Language, ...]:
    """English, and Chinese from these rooms' folders; a later room's text stands over an earlier one's."""
    texts: dict[str, str] = {}
    for room in rooms:
        file = room / "languages" / "zh.json"
        if file.exists():
            texts |= json.loads(file.read_text("utf-8"))
    return ENGLISH, Language("zh-Hans", "中文", texts)


def choose(languages: Sequence[Language], wanted: str, accepted: str) -> Language:
    """``wanted``: a tag that the person has chosen. ``accepted``: the header `Accept-Language` (RFC 9110, section 12.5.4). Else the first."""
    for tag in (wanted, *_by_preference(accepted)):
        for language in languages:
            if tag and language.tag.lower().partition("-")[0] == tag.lower().partition("-")[0]:
                return language
    return languages[0]


def _by_preference(accepted: str) -> list[str]:
    found = []
    for part in accepted.split(",")[:20]:
        tag, _, quality = part.strip().partition(";q=")
        try:
            weight = float(quality or 1)
        except ValueError:
            continue
        if tag and weight > 0:
            found.append((-weight, tag))
    return [tag for _, tag in sorted(found, key=lambda pair: pair[0])]
