"""Which sites are there, and what they said of themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

from aimer2.core.clock import Clock

ONLINE_SECONDS = 90
"""A site that was silent for longer is shown as offline."""


@final
class Presence:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, float] = {}
        self._status: dict[str, Mapping[str, Any]] = {}
        self._unsaved: set[str] = set()
        self._waiting: dict[str, int] = {}
        self._turned: list[tuple[str, bool]] = []
        self._skew: dict[str, float] = {}
        self.uploading: Counter[str] = Counter()
        """Sites whose blobs come in just now, with how many."""

    def arrived(self, site: str, status: Mapping[str, Any]) -> None:
        self._seen[site] = self._clock.now()
        if status:
            if bool(status.get("frozen")) != self.frozen(site):
                self._turned.append((site, bool(status.get("frozen"))))
            self._status[site] = status
            if isinstance(told := status.get("time"), int | float):
                self._skew[site] = round(told - self._seen[site], 1)
        self._unsaved.add(site)
        self._waiting[site] = self._waiting.get(site, 0) + 1

    def left(self, site: str) -> None:
        self._seen[site] = self._clock.now()
        self._waiting[site] -= 1

    def online(self, site: str) -> bool:
        return self._waiting.get(site, 0) > 0 or self._clock.now() - self._seen.get(site, 0) < ONLINE_SECONDS

    def last_contact(self, site: str) -> float | None:
        return self._seen.get(site)

    def clock_skew(self, site: str) -> float | None:
        """Seconds by which the site's clock was ahead when it last spoke, with the time that its words took; None where it does not tell."""
        return self._skew.get(site)

    @contextmanager
    def upload(self, site: str) -> Iterator[None]:
        """While a blob of this site comes in."""
        self.uploading[site] += 1
        try:
            yield
        finally:
            self.uploading[site] -= 1
            self.uploading += Counter()

    def status(self, site: str) -> Mapping[str, Any] | None:
        return self._status.get(site)

    def frozen(self, site: str) -> bool:
        """Whether its hospital has frozen it."""
        return bool(self._status.get(site, {}).get("frozen"))

    def take_turned(self) -> list[tuple[str, bool]]:
        """Sites that said since the last call that they are frozen (true), or no longer."""
        taken, self._turned = self._turned, []
        return taken

    def take_unsaved(self) -> dict[str, tuple[float, str]]:
        """What has changed since the last call: moment and status (JSON) of each site."""
        taken = {site: (self._seen[site], json.dumps(self._status.get(site, {}))) for site in self._unsaved}
        self._unsaved.clear()
        return taken
