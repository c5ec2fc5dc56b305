"""Where blobs lie: a staging area for what is uploaded, and a store per study.

What a study names is moved into its own store, so that what one study no longer needs can be deleted without asking whether another one has
the same bytes; and only who has shown that he has the bytes (uploaded them) can make a study or an answer name them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import final

from aimer2.blobs.folder import FolderStore
from aimer2.core.errors import NotFound
from aimer2.core.said import say
from aimer2.core.task import BlobRef


@final
class Storage:
    """All blobs of a coordinator."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.staging = FolderStore(folder / "uploads")
        self._studies: dict[str, FolderStore] = {}

    def of(self, study: str) -> FolderStore:
        """The store of a study, by its digest."""
        store = self._studies.get(study)
        if store is None:
            store = self._studies[study] = FolderStore(self._folder / "studies" / study)
        return store

    def retain(self, study: str, names: Collection[str]) -> None:
        """Deletes all blobs of a study but these, in the logs of the stores too. It waits for the disk."""
        self.of(study).retain(names)
        self.settle(study)

    def settle(self, study: str) -> None:
        """What was erased of a study's updates is in the logs of the stores no longer. It waits for the disk."""
        for store in (self.of(study), self.staging):
            store.settle()

    def claim(self, study: str, refs: Iterable[BlobRef]) -> None:
        """Makes uploaded blobs the study's as well. Raises NotFound where one was not uploaded whole."""
        store = self.of(study)
        for ref in refs:
            if ref in store:
                continue
            blob = self.staging.open(ref)
            if blob.ref.size != ref.size:
                raise NotFound(say("The blob {sha256}… has {size} bytes, not {asked}.", sha256=ref.sha256[:16], size=blob.ref.size, asked=ref.size))
            if blob.path is None:
                store.put(bytes(blob.view()))
            else:
                link = store.folder / "incoming" / secrets.token_hex(16)
                os.link(blob.path, link)
                store.adopt(link, ref.sha256)
