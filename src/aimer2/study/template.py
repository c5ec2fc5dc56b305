"""A whole study with comments, to be changed: what somebody begins to write from."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

from aimer2.core.clock import Clock
from aimer2.core.errors import BadInput
from aimer2.core.study import NAME

_YEAR = datetime.timedelta(days=365)


def new_study(name: str, clock: Clock) -> str:
    """The text of `study.toml`. Raises BadInput where no study may bear the name."""
    if not re.fullmatch(NAME, name):
        raise BadInput("A study's name has lower-case letters, digits and '-', at most 63 characters.")
    text = Path(__file__).with_name("new_study.toml").read_text(encoding="utf-8")
    expires = datetime.datetime.fromtimestamp(clock.now(), datetime.UTC).date() + _YEAR
    return text.replace('"NAME"', f'"{name}"', 1).replace("2000-01-01", expires.isoformat(), 1)
