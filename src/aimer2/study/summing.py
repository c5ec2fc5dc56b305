"""How a round's sum is made of what the sites hand in: the seam between the loop and every way to add in the clear or in secret."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

from aimer2.core.clock import Clock
from aimer2.core.protocols import Aggregator, BlobStore, Engine
from aimer2.core.task import SiteId, Task
from aimer2.core.update import Update
from aimer2.study.collect import Collected, collect, drop_infinite_ones
from aimer2.study.events import Event, Secrecy
from aimer2.study.quorum import Groups, Patience


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """A round's tasks, and what of the stage is still to come."""

    tasks: Mapping[SiteId, Task]
    patience: Patience
    rounds_left: int
    """With this one."""


@final
@dataclass(frozen=True, slots=True)
class Total:
    """The sum of a round's updates, and what making it in secret has cost."""

    update: Update
    secrecy: Secrecy | None = None


class RoundLost(Exception):
    """The sum could not be made and nothing was learnt; another attempt may do it. ``without``: sites that broke the protocol."""

    def __init__(self, reason: str, without: Collection[SiteId] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.without = frozenset(without)


class Summing(Protocol):
    """One study's way to a sum. Masking and homomorphic encryption ask the sites in several phases; adding in the clear asks once."""

    @property
    def needed(self) -> int:
        """So many sites a sum is made of at least."""
        ...

    @property
    def groups(self) -> Groups | None:
        """Whose answers are of use only together."""
        ...

    @property
    def kept(self) -> Mapping[str, Any]:
        """What must outlive this process, as JSON can hold it; blobs are named as BlobRef documents."""
        ...

    def resume(self, kept: Mapping[str, Any]) -> None:
        """Goes on from what was kept."""
        ...

    def collect(self, asked: Asked, collected: Collected) -> AsyncIterator[Event]:
        """Asks the sites and fills ``collected``. Raises RoundLost."""
        ...

    def total(self, collected: Collected) -> Total:
        """Raises BadUpdate where the updates have no usable sum."""
        ...

    def mend(self, collected: Collected) -> bool:
        """After a sum of no use: leaves out whose fault it is. False where nobody can tell."""
        ...

    def lose(self) -> None:
        """The round is lost; the next attempt begins anew."""
        ...

    def close(self) -> None:
        """The stage is over."""
        ...


@final
class InTheClear:
    """The coordinator sees every update. What the plan's aggregator makes of them is the sum."""

    needed = 1
    groups: Groups | None = None

    def __init__(self, aggregator: Aggregator, engine: Engine, blobs: BlobStore, clock: Clock) -> None:
        self._aggregator = aggregator
        self._engine = engine
        self._blobs = blobs
        self._clock = clock
        self.kept: Mapping[str, Any] = {}

    def resume(self, kept: Mapping[str, Any]) -> None:
        """There is nothing to go on from."""

    async def collect(self, asked: Asked, collected: Collected) -> AsyncIterator[Event]:
        async for event in collect(self._engine, asked.tasks, collected, asked.patience, self._blobs, self._clock):
            yield event

    def total(self, collected: Collected) -> Total:
        return Total(self._aggregator(collected.in_order))

    def mend(self, collected: Collected) -> bool:
        return drop_infinite_ones(collected)

    def lose(self) -> None:
        """Nothing is lost in the clear."""

    def close(self) -> None:
        """There is nothing to close."""
