"""What a site remembers of a study's sums, beyond its secrets and the study's end: which it has signed, and which it has helped to open."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import final

import cbor2

from aimer2.core.errors import Conflict
from aimer2.core.task import Digest, SiteId
from aimer2.secure_aggregation.vault import Vault

MARKS = "marks"
"""Of a study's names in the vault those that hold no secret and outlive it."""


@final
@dataclass(frozen=True, slots=True)
class Sums:
    """The sums of one round, given by ``stage`` and ``number``, whatever its attempt, and what was before them."""

    vault: Vault
    study: Digest
    stage: str
    number: int

    def changed(self, sites: Collection[SiteId]) -> tuple[SiteId, ...]:
        """By which sites these differ from those of the last sum that may lie open.

        A sum that this site has signed counts as open once another round is asked for: enough others may have opened it without this site's
        share. In a further attempt of the same round it does not: that sum was lost, or those who opened it open no other of this round.
        """
        before = self._before()
        return () if before is None else tuple(sorted(set(sites) ^ set(cbor2.loads(before))))

    def signed(self, sites: Collection[SiteId]) -> dict[str, bytes]:
        """What to keep once this sum is signed."""
        before, names = self._before(), cbor2.dumps(sorted(sites))
        return {self._name("last-signed"): cbor2.dumps([self._round, names])} | ({} if before is None else {self._name("last-opened"): before})

    def opened(self, sites: Collection[SiteId]) -> dict[str, bytes]:
        """What to keep once this site has helped to open it."""
        names = cbor2.dumps(sorted(sites))
        return {self._name(f"opened/{self._round}"): names, self._name("last-opened"): names}

    def check(self, sites: Collection[SiteId]) -> None:
        """Raises Conflict where this site has opened this round's sum, and of other sites."""
        before = self.vault.load(self._name(f"opened/{self._round}"))
        if before is not None and cbor2.loads(before) != sorted(sites):
            raise Conflict("This site has opened the sum of this round in an earlier attempt, and of other sites.")

    def _before(self) -> bytes | None:
        signed, last_opened = self.vault.load_all(self._name("last-signed"), self._name("last-opened"))
        if signed is None:
            return last_opened
        of, names = cbor2.loads(signed)
        return last_opened if of == self._round else bytes(names)

    @property
    def _round(self) -> str:
        return f"{self.stage}-{self.number}"

    def _name(self, mark: str) -> str:
        return f"{self.study}/{MARKS}/{mark}"
