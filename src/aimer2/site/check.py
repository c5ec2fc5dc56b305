"""What comes out of a worker is checked by the agent before it may leave: exactly the expected names, shapes and types, every number finite.

What is stored is written anew from the checked arrays, so nothing but them leaves: no spare byte, no order of names, no odd header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np

from aimer2.algorithms import catalogue
from aimer2.blobs.folder import SMALL_BYTES, FolderStore
from aimer2.core.errors import BadUpdate, OutOfResources
from aimer2.core.protocols import Blob
from aimer2.core.said import say
from aimer2.core.study import Study
from aimer2.core.task import BlobRef, Stage
from aimer2.core.tree import Array, NumpyArray, Tree, read, size
from aimer2.messages.tensors import read_tree, write_tree
from aimer2.metrics import figures
from aimer2.site.memory_files import OpenFile, require_sealed
from aimer2.study.analysing import expected
from aimer2.study.cohort import design_width
from aimer2.study.personal import sums_at_the_end

Layout: TypeAlias = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name → (type, shape)."""

Words: TypeAlias = Mapping[str, frozenset[tuple[int, ...]]]
"""Name → the shapes that an array of this name may have; none: any of at most ``MOST_AXES`` axes that is not empty."""

MOST_AXES = 3
"""Of an array that nothing foretells: shapes lie open beside masks, and axes of length one say something for free."""

SMALL_SUMS = 1 << 20
"""Bytes that sums other than a model's may have beyond the size of what was received: counts, metrics, moments."""

_MIRRORS = {"difference": "model"}


@final
@dataclass(frozen=True, slots=True)
class Expectation:
    """What the sums of a task must look like. ``names`` None: any; a sum without a layout is held to ``free_bytes``, and its arrays to the names
    and shapes of ``words`` (None: any). Code that a study brings could tell of patients in either, and masks hide numbers alone."""

    names: frozenset[str] | None
    layouts: Mapping[str, Layout]
    free_bytes: int
    words: Words | None

    def room(self, name: str, most: int) -> int:
        """Bytes that a sum may have; ``most``: what the site allows at all."""
        return most if name in self.layouts else min(most, self.free_bytes)


def expect(study: Study, stage: Stage, received: Mapping[str, Blob], round_number: int = 1) -> Expectation:
    """Sums that mirror something received ("difference" the model, "control" the control) must have its names, shapes and types; sums that the
    method foretells, those; those of a statistical question, those of nobody's data. Raises BadUpdate where what was received is not the method's."""
    trees = {name: read_tree(blob) for name, blob in received.items()}
    if stage == "analyse":
        wanted = {name: layout_of(tree) for name, tree in expected(study, trees, round_number).items()}
        return Expectation(frozenset(wanted), wanted, 0, {})
    layouts: dict[str, Layout] = {name: layout_of(tree) for name, tree in trees.items()}
    layouts |= {sum_name: layouts[source] for sum_name, source in _MIRRORS.items() if source in layouts}
    if stage == "train":
        layouts |= catalogue.layouts(study.method.name, trees)
    room = SMALL_SUMS + sum(blob.ref.size for blob in received.values())
    names = _names(study, stage)
    return Expectation(names, layouts, room, None if names is None else _words(study, stage, trees))


def _words(study: Study, stage: Stage, received: Mapping[str, Tree]) -> Words:
    """The received arrays' names with their shapes or for one number each, the metrics' with theirs, and the method's own."""
    target = study.cohort.target
    if stage == "moments":
        return {"columns": frozenset({(design_width(study.cohort),)})}
    shapes = [{name: tuple(leaf.shape) for name, leaf in tree.items()} for tree in received.values()]
    shapes += [dict.fromkeys(tree, (1,)) for tree in received.values()]
    shapes += [figures.shapes(target.kind, target.classes, len(study.evaluation.horizons)), {"rows": (1,)}]
    words = {name: frozenset(one[name] for one in shapes if name in one) for name in frozenset().union(*shapes)}
    return words | dict.fromkeys(catalogue.words(study.method.name), frozenset())


def _names(study: Study, stage: Stage) -> frozenset[str] | None:
    if stage == "preflight":
        return frozenset()
    if stage == "moments":
        return frozenset({"count", "sum", "squares"})
    named = catalogue.sums(study.method.name)
    at_the_end = sums_at_the_end(named)
    if stage == "final":
        return at_the_end | {"metrics"}
    return (named - at_the_end) | {"metrics"} if named else None


def layout_of(tree: Mapping[str, Any]) -> Layout:
    return {name: (leaf.dtype.name, tuple(leaf.shape)) for name, leaf in tree.items()}


@final
@dataclass(frozen=True, slots=True)
class Wanted:
    """One file that a worker hands over: what it is called, the layout it must have (None: any), its largest size in bytes, and how its arrays may
    be called, and be shaped, where they have no layout (None: anyhow)."""

    name: str
    layout: Layout | None
    room: int
    words: Words | None = None


@final
@dataclass(frozen=True, slots=True)
class Admitted:
    """A checked and stored sum; a small one with its bytes, which are about to leave."""

    ref: BlobRef
    data: bytes | None = None


def checked(files: Sequence[int], wanted: Sequence[Wanted]) -> list[dict[str, Array]]:
    """What the worker made, as trees whose numbers are checked when they are read.

    Raises BadUpdate, OutOfResources where one is larger than its room.
    """
    return [_checked(file, one) for file, one in zip(files, wanted, strict=True)]


def keep(trees: Sequence[Tree], store: FolderStore) -> list[Admitted]:
    """Stores each in one pass that checks, hashes and writes; small ones together.

    Raises BadUpdate; then nothing of a small one is stored.
    """
    made: list[BlobRef | bytes] = [_keep(one, store) for one in trees]
    small = iter(store.put(*(data for data in made if isinstance(data, bytes))))
    return [Admitted(next(small), data) if isinstance(data, bytes) else Admitted(data) for data in made]


def _checked(file: int, wanted: Wanted) -> dict[str, Array]:
    require_sealed(file)
    blob = OpenFile(file)
    if len(blob.view()) > wanted.room:
        raise OutOfResources("A sum is larger than the site allows.")
    tree = _read(blob, wanted.name)
    if wanted.layout is not None and layout_of(tree) != wanted.layout:
        raise BadUpdate(say("The sum '{name}' does not have the names, shapes and types of what the site received.", name=wanted.name))
    if wanted.layout is None and wanted.words is not None:
        require_foretold(wanted.name, tree, wanted.words)
    return {name: _Finite(leaf) for name, leaf in tree.items()}


def require_foretold(name: str, tree: Tree, words: Words) -> None:
    """Raises BadUpdate, which tells neither an array's name nor its shape: they may be the leak."""
    if not tree.keys() <= words.keys():
        raise BadUpdate(say("The sum '{name}' has an array whose name is not the model's, a metric's or one of the method's `words`.", name=name))
    for leaf_name, leaf in tree.items():
        shape, allowed = tuple(leaf.shape), words[leaf_name]
        if shape not in allowed if allowed else size(leaf) == 0 or len(shape) > MOST_AXES:
            raise BadUpdate(say("The sum '{name}' has an array that is empty or of another shape than is foretold.", name=name))


def _keep(tree: Tree, store: FolderStore) -> BlobRef | bytes:
    if sum(size(leaf) * leaf.dtype.itemsize for leaf in tree.values()) <= SMALL_BYTES // 2:
        gathered = _Gathered()
        write_tree(tree, gathered)
        return bytes(gathered.data)
    writer = store.create()
    try:
        write_tree(tree, writer)
    except BaseException:
        writer.abandon()
        raise
    return writer.commit()


@final
class _Gathered:
    """Bytes in memory, to be stored together with others."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self.data += data

    def commit(self) -> BlobRef:
        return BlobRef(sha256=hashlib.sha256(self.data).hexdigest(), size=len(self.data))

    def abandon(self) -> None:
        self.data.clear()


def _read(blob: OpenFile, name: str) -> dict[str, Array]:
    try:
        return read_tree(blob)
    # A hostile header may hold depths, lengths and numbers that no reader expects.
    except (BadUpdate, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
        raise BadUpdate(say("The sum '{name}' is not a tensor blob.", name=name)) from None


@final
class _Finite:
    """An array whose numbers are checked while they are read."""

    __slots__ = ("_array", "dtype", "shape")

    def __init__(self, array: Array) -> None:
        self._array = array
        self.dtype: np.dtype[Any] = array.dtype
        self.shape: tuple[int, ...] = array.shape

    def read(self, start: int, stop: int) -> NumpyArray:
        part = read(self._array, start, stop)
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise BadUpdate("An update has a number that is not finite.")
        return part


def check_names(names: Iterable[str], expectation: Expectation) -> None:
    """Raises BadUpdate where a sum was made that the method does not state."""
    extra = set() if expectation.names is None else set(names) - expectation.names
    if extra:
        raise BadUpdate("The worker made a sum that the method does not state.")
