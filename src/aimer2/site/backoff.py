"""How long to wait before a broken connection is tried again."""

from __future__ import annotations

import random
from typing import Final, final

FIRST_SECONDS: Final = 0.25
LONGEST_SECONDS: Final = 30.0


@final
class Backoff:
    """Doubles with each failure up to half a minute, with jitter, so that a hundred sites do not come back in the same instant."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures = 0

    def failed(self) -> float:
        """Seconds to wait now."""
        longest: float = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)
        return longest * self._rng.uniform(0.5, 1.0)

    def succeeded(self) -> None:
        self._failures = 0
