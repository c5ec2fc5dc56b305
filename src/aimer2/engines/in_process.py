"""All sites in this process: the simulator. Every message is encoded and decoded, so nothing works only here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import final

from aimer2.core import tree
from aimer2.core.errors import AimerError, BadUpdate
from aimer2.core.protocols import Blob, BlobStore
from aimer2.core.study import Method
from aimer2.core.task import Answer, BlobRef, Failure, Reply, SiteId, Task
from aimer2.core.tree import Tree
from aimer2.messages.tensors import read_tree
from aimer2.study.bounding import bounded
from aimer2.study.checkpoint import store
from aimer2.study.compressing import Compression, compressed
from aimer2.study.downlink import unpacked
from aimer2.study.performed import Performs
from aimer2.study.secure_update import SecureUpdate
from aimer2.study.site_level import SiteLevel


@final
class InProcess:
    """Performs each task at once. ``order`` may permute the sites, to show that the order of arrival changes no bit; ``secure``: the sites'
    halves of secure aggregation, where the study has it; ``method``: as the study has it, where it bounds what a site may change;
    ``compression``: of the updates, where the study has one; ``private``: where whole sites are protected, what is done to a site's sums;
    ``abreast``: does many sites' tasks at once, None: one after another."""

    def __init__(  # noqa: PLR0913 - all that is done with a site's sums, by name
        self,
        sites: Mapping[SiteId, Performs],
        blobs: BlobStore,
        *,
        order: Sequence[SiteId] | None = None,
        secure: Mapping[SiteId, SecureUpdate] | None = None,
        method: Method | None = None,
        compression: Compression | None = None,
        private: SiteLevel | None = None,
        abreast: Callable[[Sequence[Callable[[], Reply]]], Iterator[Reply]] | None = None,
    ) -> None:
        self._sites = dict(sites)
        self._blobs = blobs
        self._order = list(order) if order is not None else sorted(sites)
        self._secure = dict(secure or {})
        self._method = method or Method()
        self._compression = compression
        self._left_out: dict[SiteId, Mapping[str, Tree]] = {}
        self._private = private
        self._abreast = abreast
        self._memory: dict[SiteId, dict[str, Tree]] = {site: {} for site in sites}
        self._last: dict[SiteId, Reply] = {}
        self._read: dict[str, tuple[BlobRef, Tree]] = {}

    async def sites(self) -> Sequence[SiteId]:
        return sorted(self._sites)

    async def ask(self, tasks: Mapping[SiteId, Task]) -> AsyncIterator[Reply]:
        for reply in self.performed([Task.model_validate_json(tasks[site].model_dump_json()) for site in self._order if site in tasks]):
            yield reply

    async def withdraw(self, tasks: Sequence[Task]) -> None:
        """Nothing is under way here."""

    async def close(self) -> None:
        """There is nothing to end here."""

    def performed(self, tasks: Sequence[Task]) -> Iterator[Reply]:
        """The tasks, done here as they are asked for, in their order."""
        if self._abreast is None:
            return map(self.perform, tasks)
        return self._abreast([partial(self.perform, task) for task in tasks])

    def perform(self, task: Task) -> Reply:
        """One task, done here."""
        try:
            if task.phase != "update":
                return Answer(task=task.id, attempt=task.attempt, site=task.site, message=self._secure[task.site].say(task))
            return self._updated(task)
        except AimerError as error:
            return Failure(task=task.id, attempt=task.attempt, site=task.site, code=error.code, reason=error.sentence)

    def _updated(self, task: Task) -> Reply:
        """Asked again, it replies what it has replied: doing it twice would move the site's memory twice."""
        last = self._last.get(task.site)
        if last is None or (last.task, last.attempt) != (task.id, task.attempt):
            last = self._last[task.site] = self._reply(task)
        return last

    def _reply(self, task: Task) -> Reply:
        secure = self._secure[task.site] if task.message else None
        if secure is not None:
            secure.begin(task)
        memory = dict(self._memory[task.site])
        received = {name: self._received(task, name) for name in task.inputs}
        performed = self._sites[task.site].perform(task, received, memory)
        small = compressed(self._compression, task, performed.sums, self._left_out.get(task.site, {}))
        leaving = bounded(self._method, task.stage, small.sums)
        if self._private is not None:
            leaving = self._private.at_site(task.stage, leaving, received)
        if secure is None:
            sums, message = {name: self._send(sent) for name, sent in leaving.items()}, ""
        else:
            masked = secure.mask(task, leaving)
            sums = {name: store(sent, self._blobs) for name, sent in masked.trees.items()}
            message = secure.submit(task, masked, sums)
        self._memory[task.site] = memory
        if small.memory:
            self._left_out[task.site] = small.memory
        answer = Answer(
            task=task.id,
            attempt=task.attempt,
            site=task.site,
            sums=sums,
            checks=performed.checks,
            message=message,
            released=performed.released,
        )
        return Answer.model_validate_json(answer.model_dump_json())

    def _received(self, task: Task, name: str) -> Tree:
        """The input as each site reads it, read once for all: its arrays are read-only."""
        ref = task.inputs[name]
        if name in task.packed:
            return read_tree(self._input(task, name))
        if name not in self._read or self._read[name][0] != ref:
            self._read[name] = ref, read_tree(self._blobs.open(ref))
        return dict(self._read[name][1])

    def _input(self, task: Task, name: str) -> Blob:
        ref, offered = task.inputs[name], task.packed.get(name)
        if offered is None:
            return self._blobs.open(ref)
        base = None if offered.base is None else self._blobs.open(BlobRef(sha256=offered.base, size=ref.size))
        return unpacked(self._blobs.open(offered.blob), base, ref, self._blobs)

    def _send(self, sent: Tree) -> BlobRef:
        if not tree.is_finite(sent):
            raise BadUpdate("The update has values that are not finite.")
        return store(sent, self._blobs)
