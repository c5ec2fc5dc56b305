"""Where a site keeps the secrets of the protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, final


class Vault(Protocol):
    """At rest in a place that only the site can read. Names are paths: study/epoch/…"""

    def load(self, name: str) -> bytes | None: ...

    def load_all(self, *names: str) -> tuple[bytes | None, ...]:
        """As `load`, all of one moment."""
        ...

    def change(self, keep: Mapping[str, bytes], erase: Collection[str] = (), *, lasting: bool = False) -> None:
        """Everything whose name begins with one of ``erase`` goes, for good; what is kept stands in the place of what was there.

        All of it or nothing, and there for the next process before it returns, so that nothing leaves the site that a crash could make it
        forget. ``lasting``: after a power cut too, with all changes before. After one without that, the vault's secrets must count as lost.
        """
        ...


@final
class MemoryVault:
    """For a site that lives as long as this process: in a simulation."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}

    def load(self, name: str) -> bytes | None:
        return self.documents.get(name)

    def load_all(self, *names: str) -> tuple[bytes | None, ...]:
        return tuple(map(self.documents.get, names))

    def change(self, keep: Mapping[str, bytes], erase: Collection[str] = (), *, lasting: bool = False) -> None:
        left = {name: document for name, document in self.documents.items() if not name.startswith(tuple(erase))}
        self.documents = left | dict(keep)
