"""Time as an argument: the one place where the machine's clock is read."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol, final


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...


@final
class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def rfc3339(moment: float) -> str:
    """Seconds since 1970 as ``2026-11-21T09:30:00Z``, to the millisecond where there are any."""
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z").replace(".000Z", "Z")


def minute(moment: float) -> str:
    """Seconds since 1970 as ``2026-11-21 09:30``, UTC: for the narrow columns of a table."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")
