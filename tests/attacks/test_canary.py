"""A hospital with one single patient, whose values are searched in everything that a coordinator is handed.

In the clear the search finds them, so it can. Under secure aggregation it finds nothing: neither the values nor what was computed of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aimer2.blobs.memory import MemoryStore
from aimer2.connectors.table import Column, Table, pseudonyms, save_table
from aimer2.core import tree
from aimer2.core.clock import SystemClock
from aimer2.core.protocols import Blob, BlobWriter
from aimer2.core.study import Study
from aimer2.core.task import BlobRef, Reply, SiteId, Task
from aimer2.engines.in_process import InProcess
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import digest as digest_of
from aimer2.messages.tensors import write_tree
from aimer2.secure_aggregation.layout import Leaf
from aimer2.secure_aggregation.quantisation import encode
from aimer2.secure_aggregation.vault import MemoryVault
from aimer2.study.checkpoint import Remembered
from aimer2.study.conduct import conduct
from aimer2.study.events import StudyFinished
from aimer2.study.pack import pack
from aimer2.study.perform import open_performer
from aimer2.study.performed import Performed
from aimer2.study.secure_update import SecureUpdate

CANARY = {"age": 61.8033988749, "chol": 314.15926535}
SITES = ("canary", "east", "north", "west")


class Wiretap:
    """All bytes that a coordinator was handed, the deleted ones too."""

    def __init__(self) -> None:
        self.blobs = MemoryStore()
        self.heard: list[bytes] = []

    def create(self) -> BlobWriter:
        return _TappedWriter(self.blobs.create(), self.heard)

    def open(self, ref: BlobRef) -> Blob:
        return self.blobs.open(ref)

    def __contains__(self, ref: BlobRef) -> bool:
        return ref in self.blobs

    def delete(self, *refs: BlobRef) -> None:
        self.blobs.delete(*refs)


class _TappedWriter:
    def __init__(self, inner: BlobWriter, heard: list[bytes]) -> None:
        self._inner, self._heard, self._parts = inner, heard, []  # type: ignore[var-annotated]

    def write(self, data: bytes | memoryview) -> None:
        self._parts.append(bytes(data))
        self._inner.write(data)

    def commit(self) -> BlobRef:
        self._heard.append(b"".join(self._parts))
        return self._inner.commit()

    def abandon(self) -> None:
        self._inner.abandon()


class Tapped:
    """The engine, with what the sites reply overheard."""

    def __init__(self, inner: InProcess, heard: list[bytes]) -> None:
        self._inner, self._heard = inner, heard

    async def sites(self) -> Sequence[SiteId]:
        return await self._inner.sites()

    async def ask(self, tasks: Mapping[SiteId, Task]) -> AsyncIterator[Reply]:
        async for reply in self._inner.ask(tasks):
            self._heard.append(reply.model_dump_json().encode())
            yield reply

    async def withdraw(self, tasks: Sequence[Task]) -> None:
        await self._inner.withdraw(tasks)


class Noting:
    """A site that notes what it computed, for the search."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.sums = inner, []  # type: ignore[var-annotated]

    def perform(self, task: Task, received: Any, memory: Any) -> Performed:
        performed: Performed = self.inner.perform(task, received, memory)
        self.sums.append({name: {leaf: np.array(tree.load(array)) for leaf, array in one.items()} for name, one in performed.sums.items()})
        return performed


def a_study(secure: bool) -> Study:
    return Study(
        name="canary",
        question="Does this patient have a heart disease?",
        purpose="test of what a coordinator sees",
        ethics="none needed, synthetic",
        principal_investigator="Dr Ada Test",
        expires="2099-01-01",
        cohort={
            "dataset": "heart",
            "features": [{"name": "age"}, {"name": "chol"}],
            "target": {"name": "pressure", "kind": "regression"},
            "minimum_patients": 1,
        },
        model={"framework": "numpy", "name": "linear"},
        training={"local_steps": 2, "batch_size": None, "learning_rate": 0.01},
        method={"name": "fedavg", "rounds": 2},
        sites={"names": SITES, "minimum": 4},
        evaluation={"held_out": 0.0},
        privacy={"secure_aggregation": secure} | ({} if secure else {"why_not_secure": "to see that the search finds what is there"}),
    )


def a_table(site: str) -> Table:
    rng = np.random.default_rng(SITES.index(site))
    rows = 1 if site == "canary" else 40
    columns = {"age": rng.normal(60, 8, rows), "chol": rng.normal(240, 40, rows), "pressure": rng.normal(130, 15, rows)}
    if site == "canary":
        columns |= {name: np.array([value]) for name, value in CANARY.items()}
    return Table({name: Column("number", values) for name, values in columns.items()}, pseudonyms([f"{site}-{n}" for n in range(rows)], bytes(16)))


def conducted(secure: bool) -> tuple[list[bytes], Noting]:
    """Everything the coordinator was handed in a whole study, and what the canary's hospital had computed."""
    study, tap = a_study(secure), Wiretap()
    keys = {site: SigningKey.generate() for site in SITES}
    package = pack(study, Path(), {site: key.public.text for site, key in keys.items()}, tap)
    digest = digest_of(package)
    sites = {site: Noting(open_performer(study, a_table(site), site=site, files={})) for site in SITES}
    members = {site: SecureUpdate.of(package, digest, site, key, MemoryVault()) for site, key in keys.items()} if secure else {}
    engine, past = Tapped(InProcess(sites, tap, secure=members), tap.heard), Remembered()

    async def run() -> None:
        async for event in conduct(package, digest, engine, tap, past, clock=SystemClock()):
            past.past.append(event)
            tap.heard.append(event.model_dump_json().encode())

    asyncio.run(run())
    assert isinstance(past.past[-1], StudyFinished), past.past[-1]
    tap.heard.append(repr(asyncio.run(past.load())).encode())
    return tap.heard, sites["canary"]


def spelled(value: float) -> Iterable[bytes]:
    """How a value could lie somewhere: as a number of each width, in the fixed point of a secure sum, in a text."""
    yield np.float64(value).tobytes()
    yield np.float32(value).tobytes()
    yield encode(np.array([value]), Leaf("a", "b", (1,), "float64"), 4).words.tobytes()
    yield repr(value).encode()
    yield f"{value:.7g}".encode()


def found(content: Iterable[bytes], values: Iterable[float]) -> set[bytes]:
    wanted = {spelling for value in values for spelling in spelled(value)}
    return {spelling for part in content for spelling in wanted if spelling in part}


def computed(noting: Noting) -> list[float]:
    """Every number of the hospital's own sums that is not round, as counts are."""
    numbers = [float(value) for sums in noting.sums for one in sums.values() for leaf in one.values() for value in leaf.reshape(-1)]
    return [value for value in numbers if value != round(value, 3)]


def test_the_search_finds_the_patient_where_the_patient_is(tmp_path: Path) -> None:
    snapshot = save_table(a_table("canary"), tmp_path / "snapshot", clock=SystemClock())
    files = [path.read_bytes() for path in snapshot.path.rglob("*") if path.is_file()]
    assert found(files, CANARY.values()) == {np.float64(value).tobytes() for value in CANARY.values()}
    written = Wiretap()
    writer = written.create()
    write_tree({"row": np.array(list(CANARY.values()), np.float32)}, writer)
    writer.commit()
    assert len(found(written.heard, CANARY.values())) == 2


def test_in_the_clear_the_coordinator_is_handed_the_patient() -> None:
    heard, canary = conducted(secure=False)
    assert {np.float64(value).tobytes() for value in CANARY.values()} <= found(heard, CANARY.values())
    assert len(found(heard, computed(canary))) >= 8


def test_under_secure_aggregation_nothing_of_the_patient_reaches_the_coordinator() -> None:
    heard, canary = conducted(secure=True)
    assert sum(map(len, heard)) > 10_000
    assert len(computed(canary)) >= 8
    assert found(heard, CANARY.values()) == set()
    assert found(heard, computed(canary)) == set()
