"""Where a study stands, so that another process can go on from there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, final

import numpy as np

from aimer2.core import tree
from aimer2.core.errors import BadUpdate
from aimer2.core.protocols import BlobStore
from aimer2.core.task import BlobRef
from aimer2.core.tree import Array, Tree
from aimer2.messages.tensors import read_tree, write_tree
from aimer2.study.events import Event


class Checkpoints(Protocol):
    """Keeps a study's last checkpoint and its events; a save is durable when it returns."""

    async def load(self) -> dict[str, Any] | None: ...
    async def save(self, document: dict[str, Any]) -> None: ...
    async def events(self) -> Sequence[Event]:
        """All events so far, in order, those before a restart too."""
        ...


@final
class StoredTree(dict[str, Array]):
    """A tree that lies in a blob already; writing it again is knowing its name."""

    def __init__(self, ref: BlobRef, blobs: BlobStore) -> None:
        super().__init__(read_tree(blobs.open(ref), lazy=True))
        self.ref = ref


def store(leaves: Tree, blobs: BlobStore) -> BlobRef:
    """The blob that holds this tree; written unless it is there."""
    if isinstance(leaves, StoredTree):
        return leaves.ref
    writer = blobs.create()
    try:
        write_tree(leaves, writer)
        return writer.commit()
    except BaseException:
        writer.abandon()
        raise


def finite(values: Any) -> Any:
    """The values themselves. Raises BadUpdate where one is not finite."""
    if not np.isfinite(values).all():
        raise BadUpdate("There are values that are not finite.")
    return values


def save_state(state: Any, blobs: BlobStore) -> dict[str, Any]:
    """A method's state, a dataclass of trees and numbers, as a small document and blobs.

    Raises BadUpdate where a number of a tree is not finite.
    """
    document: dict[str, Any] = {}
    for field in dataclasses.fields(state):
        value = getattr(state, field.name)
        if isinstance(value, Mapping):
            checked = value if isinstance(value, StoredTree) else tree.map(finite, value)
            value = store(checked, blobs).model_dump()
        document[field.name] = value
    return document


def load_state(kind: type[Any], document: Mapping[str, Any], blobs: BlobStore) -> Any:
    """The state again, its trees left in their blobs."""
    return kind(**{name: StoredTree(BlobRef(**value), blobs) if isinstance(value, Mapping) else value for name, value in document.items()})


def refs_of(document: Mapping[str, Any]) -> set[BlobRef]:
    """The blobs that a document names."""
    return {BlobRef(**value) for value in document.values() if isinstance(value, Mapping) and value.keys() == {"sha256", "size"}}


def blobs_of(document: Mapping[str, Any]) -> set[str]:
    """Their digests."""
    return {ref.sha256 for ref in refs_of(document)}


@final
class Remembered:
    """Checkpoints in memory, for a study that lives as long as this process."""

    def __init__(self) -> None:
        self._document: dict[str, Any] | None = None
        self.past: list[Event] = []

    async def load(self) -> dict[str, Any] | None:
        return self._document

    async def save(self, document: dict[str, Any]) -> None:
        self._document = document

    async def events(self) -> Sequence[Event]:
        return self.past
