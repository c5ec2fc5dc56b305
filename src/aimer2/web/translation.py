"""The languages of the pages. A message is its English text; `languages/zh.json` of each room says it in Chinese, and a test holds it complete."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, final

Texts: TypeAlias = Mapping[str, str]


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

    def counted(self, one: str, many: str, count: int) -> str:
        """The message for this number; Chinese has one form for all."""
        if one in self.texts:
            return self.texts[one]
        return one if count == 1 else many


ENGLISH = Language("en", "English")


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
