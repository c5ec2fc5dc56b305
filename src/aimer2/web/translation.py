"""The languages of the pages. A message is its English text; `languages/zh.json` of each room says it in Chinese, and a test holds it complete."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, final

from aimer2.core.said import Said, filled

Texts: TypeAlias = Mapping[str, str]
ENGLISH_TAG = "en"

_PLACE = re.compile(r"\{\w+\}")
_LETTER = re.compile(r"[^\W\d_]")


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

    def told(self, sentence: str) -> tuple[str, bool]:
        """The sentence in this language, and whether all of it is in it: what somebody else says is told as it was written."""
        message = sentence.message if isinstance(sentence, Said) else sentence
        known = self.tag == ENGLISH_TAG or message in self.texts or not _LETTER.search(_PLACE.sub("", message))
        values = {}
        for name, value in sentence.values.items() if isinstance(sentence, Said) else ():
            values[name], here = self.told(value) if isinstance(value, Said) else (str(value), True)
            known = known and here
        text = self.text(message)
        return filled(text, values) if values else text, known

    def counted(self, one: str, many: str, count: int) -> str:
        """The message for this number; Chinese has one form for all."""
        if one in self.texts:
            return self.texts[one]
        return one if count == 1 else many


ENGLISH = Language(ENGLISH_TAG, "English")


def read_languages(rooms: Sequence[Path]) -> tuple[Language, ...]:
    """English, and Chinese from these rooms' folders; a later room's text stands over an earlier one's."""
    texts: dict[str, str] = {}
    for room in rooms:
        for file in sorted((room / "languages").glob("zh*.json")):
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
