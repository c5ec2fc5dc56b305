"""The coordinator's way to a sum that has its noise before anybody can read it: secure aggregation of whole numbers, made numbers again here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, final

import numpy as np

from aimer2.core.protocols import BlobStore
from aimer2.core.update import Update
from aimer2.study.checkpoint import store
from aimer2.study.collect import Collected
from aimer2.study.events import Event
from aimer2.study.quorum import Groups
from aimer2.study.secure_sum import SecureSum
from aimer2.study.site_level import CLIP_NORM, CLIPPING, SiteLevel
from aimer2.study.summing import Asked, Total


@final
class NoisySum:
    """A sum in secret with site-level differential privacy; keeps the clip norm of the next round."""

    def __init__(self, inner: SecureSum, private: SiteLevel, blobs: BlobStore) -> None:
        self._inner = inner
        self._private = private
        self._blobs = blobs
        self._clip_norm = private.terms.clip_norm

    @property
    def needed(self) -> int:
        return self._inner.needed

    @property
    def groups(self) -> Groups | None:
        return self._inner.groups

    @property
    def kept(self) -> Mapping[str, Any]:
        return {**self._inner.kept, CLIPPING: self._clip_norm}

    def resume(self, kept: Mapping[str, Any]) -> None:
        self._clip_norm = float(kept.get(CLIPPING, self._clip_norm))
        self._inner.resume({name: value for name, value in kept.items() if name != CLIPPING})

    def lose(self) -> None:
        self._inner.lose()

    def close(self) -> None:
        self._inner.close()

    def mend(self, collected: Collected) -> bool:
        return self._inner.mend(collected)

    async def collect(self, asked: Asked, collected: Collected) -> AsyncIterator[Event]:
        """Every site is told the round's clip norm."""
        if self._private.follows and all(task.stage == "train" for task in asked.tasks.values()):
            ref = store({CLIP_NORM: np.array([self._clip_norm])}, self._blobs)
            collected.blobs.add(ref)
            tasks = {site: task.model_copy(update={"inputs": {**task.inputs, CLIPPING: ref}}) for site, task in asked.tasks.items()}
            asked = replace(asked, tasks=tasks)
        async for event in self._inner.collect(asked, collected):
            yield event

    def total(self, collected: Collected) -> Total:
        words = self._inner.total(collected)
        sums, after = self._private.at_coordinator(words.update.sums, self._clip_norm)
        self._clip_norm = after
        return Total(Update(sums), words.secrecy)
