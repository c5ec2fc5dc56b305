"""What a task brings along: attached, kept here from before, or fetched; packed where the coordinator offers that and this site can use it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, final

from aimer2.blobs.folder import FolderStore
from aimer2.blobs.memory import MemoryBlob
from aimer2.core.errors import BadUpdate, NotFound, Tampered
from aimer2.core.protocols import Blob
from aimer2.core.task import BlobRef, Packed, Task
from aimer2.messages.wire import detach
from aimer2.site.connection import Connection
from aimer2.site.threads import to_the_end
from aimer2.study.downlink import unpacked

Result = TypeVar("Result")
Persist = Callable[[Callable[[], Result]], Awaitable[Result]]


@final
@dataclass(frozen=True, slots=True)
class Coming:
    """The ways to one study's inputs."""

    connection: Connection
    persist: Persist[Any]
    store: FolderStore

    async def take(self, task: Task, name: str, attachments: Mapping[str, str]) -> Blob:
        """The input, its digest checked whatever way it came. Raises Tampered, NotFound."""
        ref = task.inputs[name]
        if ref.sha256 in attachments:
            return MemoryBlob(ref, detach(ref.sha256, attachments[ref.sha256]))
        if ref in self.store:
            return self.store.open(ref)
        offered = task.packed.get(name)
        found = None if offered is None else await self._unpacked(offered, ref, attachments)
        return found or await self._fetched(ref)

    async def _unpacked(self, offered: Packed, ref: BlobRef, attachments: Mapping[str, str]) -> Blob | None:
        """None where it is of no use here: the base is gone, or the bytes are not what they are said to be."""
        base = None if offered.base is None else BlobRef(sha256=offered.base, size=ref.size)
        if base is not None and base not in self.store:
            return None
        packed: Blob
        try:
            if offered.blob.sha256 in attachments:
                packed = MemoryBlob(offered.blob, detach(offered.blob.sha256, attachments[offered.blob.sha256]))
            else:
                packed = await self._fetched(offered.blob)
            return await to_the_end(unpacked, packed, None if base is None else self.store.open(base), ref, self.store)
        except (BadUpdate, NotFound, Tampered):
            return None
        finally:
            self.store.delete(offered.blob)

    async def _fetched(self, ref: BlobRef) -> Blob:
        found: Blob = await self.persist(partial(self.connection.fetch, ref, self.store))
        return found
