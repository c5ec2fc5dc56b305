"""The seams: what a method, a learner, a transport and a store must offer. Anything of this shape fits, whoever wrote it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, final

import numpy as np
import numpy.typing as npt

from aimer2.core.dataset import Dataset
from aimer2.core.task import BlobRef, Reply, SiteId, Task
from aimer2.core.tree import Tree
from aimer2.core.update import Update

State = TypeVar("State")

Correction: TypeAlias = Callable[[Tree, Tree], Tree]
"""(parameters, gradients) → gradients, in the learner's own kind of array: FedProx, SCAFFOLD and FedDyn are this one seam."""

Selector: TypeAlias = Collection[str]
"""Names of leaves: those that a fit may change."""


class Learner(Protocol):
    """One model with its optimiser, in one framework. Holds no state between two rounds but what ``load`` gives it."""

    def initialise(self, rng: np.random.Generator) -> None:
        """Fresh random weights."""
        ...

    def parameters(self) -> Tree:
        """What travels, as numpy arrays that the learner will not change afterwards: weights, and float buffers (running means) under
        their own names; integer buffers stay."""
        ...

    @property
    def buffers(self) -> frozenset[str]:
        """Which names of ``parameters`` are buffers: averaged, but without gradients."""
        ...

    def load(self, parameters: Tree) -> None:
        """Raises BadModel where names or shapes differ."""
        ...

    def native(self, tree: Tree) -> Tree:
        """The same arrays in the framework's own kind, on its device."""
        ...

    def fit(
        self,
        data: Dataset,
        *,
        steps: int,
        batch_size: int | None,
        round_number: int,
        rng: np.random.Generator,
        correction: Correction | None = None,
        trainable: Selector | None = None,
    ) -> float:
        """Takes ``steps`` optimiser steps over shuffled batches; returns the mean training loss. ``trainable``: only these leaves change,
        weights and buffers; the others keep every bit. Raises BadUpdate at a loss that is not finite."""
        ...

    def predict(self, data: Dataset) -> npt.NDArray[Any]:
        """Binary: ``(n,)`` probability of the event; multiclass: ``(n, classes)``; regression: ``(n,)``. Stays at the site."""
        ...

    def evaluate(self, data: Dataset) -> Tree:
        """Evaluation as additive sums (`aimer2.metrics.figures`)."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Local:
    """All that the site half of a method may touch."""

    data: Dataset
    learner: Learner
    memory: MutableMapping[str, Tree]
    """The site's own store across rounds, committed together with the update; it never leaves."""
    rng: np.random.Generator
    round_number: int
    steps: int
    batch_size: int | None
    counted: int | None = None
    """The last round whose sum holds this site's answer; None: the one before this."""


class Algorithm(Protocol[State]):
    """A federated method, both halves: training, statistics and explanation alike. A frozen dataclass whose fields are its
    hyper-parameters; ``State`` a frozen dataclass of trees and numbers."""

    version: ClassVar[int]
    """Changes whenever its numbers change; a site refuses a version it does not have."""

    def init(self, model: Tree) -> State: ...
    def select(self, state: State, sites: Sequence[SiteId]) -> Sequence[SiteId]: ...
    def broadcast(self, state: State) -> Mapping[str, Tree]:
        """All that sites will know of the state."""
        ...

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        """The site half."""
        ...

    def update(self, state: State, total: Update) -> State:
        """The coordinator half; holds its own denominators."""
        ...

    def model(self, state: State) -> Tree: ...
    def finished(self, state: State) -> bool: ...


class Aggregator(Protocol):
    additive: ClassVar[bool]
    """Whether it needs only the sum: then it is allowed under secure aggregation."""

    def __call__(self, updates: Iterable[Update]) -> Update: ...


class Engine(Protocol):
    """The transport: carries tasks to sites and replies back."""

    async def sites(self) -> Sequence[SiteId]: ...
    def ask(self, tasks: Mapping[SiteId, Task]) -> AsyncIterator[Reply]:
        """Replies as they arrive, one per site, without end for those that stay silent; the caller decides how long it listens. Asking the
        same tasks again gives the replies that are already there, first."""
        ...

    async def withdraw(self, tasks: Sequence[Task]) -> None:
        """Nobody waits for these any more."""
        ...


class TaskQueue(Protocol):
    """Where a coordinator puts tasks for sites to fetch; survives the process."""

    async def sites(self) -> Sequence[SiteId]: ...
    async def put(self, tasks: Sequence[Task]) -> None:
        """Stores tasks; one whose id and attempt is known already stays as it is, with its reply."""
        ...

    def replies(self, tasks: Sequence[Task]) -> AsyncIterator[Reply]: ...
    async def withdraw(self, tasks: Sequence[Task]) -> None: ...


class Blob(Protocol):
    """Stored bytes."""

    @property
    def ref(self) -> BlobRef: ...
    @property
    def path(self) -> Path | None:
        """The file they lie in; None where they lie in memory."""
        ...

    def view(self) -> memoryview:
        """Read-only, memory-mapped where there is a file."""
        ...


class BlobWriter(Protocol):
    """Bytes on their way into a store; nothing is there until ``commit``."""

    def write(self, data: bytes | memoryview) -> None: ...
    def commit(self) -> BlobRef: ...
    def abandon(self) -> None: ...


class BlobStore(Protocol):
    """Content-addressed bytes."""

    def create(self) -> BlobWriter: ...
    def open(self, ref: BlobRef) -> Blob:
        """Raises NotFound."""
        ...

    def __contains__(self, ref: BlobRef) -> bool: ...
    def delete(self, *refs: BlobRef) -> None: ...
