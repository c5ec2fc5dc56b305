"""What a task brings along, with a real store; only the network is not there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.blobs.folder import FolderStore
from aimer2.core.errors import NotFound
from aimer2.core.task import BlobRef, Packed, Task
from aimer2.messages.wire import ATTACHED_BYTES, attach
from aimer2.site.incoming import Coming
from aimer2.study.downlink import Sent, offers


@dataclass
class Line:
    """Fetches from another store, and remembers what."""

    source: FolderStore
    fetched: list[str] = field(default_factory=list)

    def fetch(self, ref: BlobRef, store: FolderStore) -> Any:
        data = self.source.open(ref).view()
        self.fetched.append(ref.sha256)
        return store.open(store.put(bytes(data))[0])


async def persist(work: Any) -> Any:
    return work()


RNG = np.random.default_rng(1)
OLD = RNG.bytes(3 * ATTACHED_BYTES)
NEW = OLD[:-5000] + RNG.bytes(5000)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.line = Line(FolderStore(folder / "coordinator"))
        self.here = FolderStore(folder / "site")
        self.old, self.new = self.line.source.put(OLD, NEW)

    def task(self, kind: str, sites: frozenset[str] = frozenset({"north"})) -> Task:
        packed = offers(kind, {"model": self.new}, ("north",), Sent({"model": self.old}, sites), self.line.source)["north"]
        return Task(id="t", study="s", site="north", stage="train", round_number=2, inputs={"model": self.new}, packed=packed)

    def take(self, task: Task, attachments: dict[str, str] | None = None) -> bytes:
        coming = Coming(self.line, persist, self.here)  # type: ignore[arg-type] - a connection that is no network
        return bytes(asyncio.run(coming.take(task, "model", attachments or {})).view())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_site_with_the_last_model_fetches_the_change_alone(bench: Bench) -> None:
    bench.here.put(OLD)
    task = bench.task("changes")
    packed = task.packed["model"].blob
    assert bench.take(task) == NEW
    assert bench.line.fetched == [packed.sha256] and packed.size < 6000
    assert bench.new in bench.here and packed not in bench.here
    assert bench.take(task) == NEW
    assert len(bench.line.fetched) == 1, "it is here already"


def test_a_small_change_rides_along(bench: Bench) -> None:
    bench.here.put(OLD)
    task = bench.task("changes")
    packed = task.packed["model"].blob
    assert bench.take(task, {packed.sha256: attach(bench.line.source.open(packed).view())}) == NEW
    assert bench.line.fetched == []


def test_a_site_that_has_lost_the_last_model_fetches_the_whole(bench: Bench) -> None:
    assert bench.take(bench.task("changes")) == NEW
    assert bench.line.fetched == [bench.new.sha256]


@pytest.mark.parametrize("base", [True, False])
def test_what_does_not_unpack_to_the_model_is_not_used(bench: Bench, base: bool) -> None:
    bench.here.put(OLD)
    for data in (b"nonsense" * 1000, bytes(bench.line.source.open(bench.task("changes").packed["model"].blob).view())[:-1]):
        (wrong,) = bench.line.source.put(data)
        packed = {"model": Packed(blob=wrong, base=bench.old.sha256 if base else None)}
        bench.line.fetched.clear()
        assert bench.take(bench.task("changes").model_copy(update={"packed": packed})) == NEW
        assert bench.line.fetched == [wrong.sha256, bench.new.sha256]
        assert wrong not in bench.here
        bench.here.delete(bench.new)


def test_what_is_gone_at_the_coordinator_is_fetched_whole_or_told(bench: Bench) -> None:
    bench.here.put(OLD)
    task = bench.task("changes")
    bench.line.source.delete(task.packed["model"].blob)
    assert bench.take(task) == NEW
    bench.here.delete(bench.new)
    bench.line.source.delete(bench.new)
    with pytest.raises(NotFound):
        bench.take(task)
