"""What of a Chinese page is still English."""

from __future__ import annotations

import re

_ASIDE = re.compile(r"<(script|style|code|pre|textarea|option|datalist)\b.*?</\1>|<(\w+)[^>]* lang=\"en\".*?</\2>", re.S)
_SENTENCE = re.compile(r"[A-Za-z]{2,}[,;:]?(?: [A-Za-z]{2,}[,;:]?){2,}")


def english(page: str) -> list[str]:
    """Three and more English words in a row, but for code, what a person types, and what is marked as English because somebody else has said it."""
    shown = re.sub(r"<[^>]+>", "\n", _ASIDE.sub("\n", page))
    return _SENTENCE.findall(shown)
