"""A study of three hospitals in numpy, conducted in this process; sites and time that do what a test tells them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.blobs.memory import MemoryStore
from aimer2.connectors.table import Column, Table, pseudonyms
from aimer2.core.clock import SystemClock
from aimer2.core.study import Study
from aimer2.core.task import BlobRef, Failure, Refusal, Reply, SiteId, Task
from aimer2.core.tree import Tree
from aimer2.engines.in_process import InProcess
from aimer2.messages.package import Package, digest
from aimer2.messages.tensors import read_tree
from aimer2.study import preflight
from aimer2.study.compressing import Compression
from aimer2.study.conduct import conduct
from aimer2.study.events import EVENT, Event
from aimer2.study.pack import pack
from aimer2.study.perform import open_performer
from aimer2.study.performed import Performed

sys.path.insert(0, str(Path(__file__).parent))  # tests are imported one by one: what they share is found by its path
ENVIRONMENT = cache(preflight.probe)
NAMES = ("north", "south", "west")


def make_study(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "heart",
        "question": "Does this patient have a heart disease?",
        "purpose": "testing",
        "ethics": "none needed: drawn numbers",
        "principal_investigator": "Test",
        "expires": "2090-01-01",
        "cohort": {"dataset": "heart", "features": [{"name": "age"}, {"name": "chol"}], "target": {"name": "disease"}},
        "model": {"framework": "numpy", "name": "logistic"},
        "training": {"learning_rate": 0.5, "local_steps": 2, "batch_size": 16},
        "method": {"name": "fedavg", "rounds": 3},
        "sites": {"names": NAMES, "minimum": 2},
        "privacy": {"secure_aggregation": False, "why_not_secure": "a test"},
    }
    if "analyses" in changes:
        fields = {name: value for name, value in fields.items() if name not in ("model", "training", "method")} | {"cohort": {"dataset": "heart"}}
    return Study(**(fields | changes))


def make_table(number: int, rows: int = 60) -> Table:
    rng = np.random.default_rng(number)
    age, chol = rng.normal(60 + 5 * number, 10, rows), rng.normal(200, 30, rows)
    disease = (rng.random(rows) < 1 / (1 + np.exp(-(age - 62) / 8))).astype(np.float64)
    columns = {"age": Column("number", age), "chol": Column("number", chol), "disease": Column("number", disease)}
    return Table(columns, pseudonyms([f"{number}-{row}" for row in range(rows)], b"0123456789abcdef"))


Act = Callable[[Task], Reply | None]


@dataclass
class ToldEngine:
    """The in-process engine, except where a test tells a site what to reply; None: it keeps silent for ever."""

    inner: InProcess
    names: list[SiteId]
    acts: dict[tuple[SiteId, str, int], Act] = field(default_factory=dict)
    asked: list[Task] = field(default_factory=list)
    withdrawn: list[Task] = field(default_factory=list)
    open: int = 0

    async def sites(self) -> Sequence[SiteId]:
        return self.names

    async def ask(self, tasks: Mapping[SiteId, Task]) -> AsyncIterator[Reply]:
        self.asked.extend(tasks.values())
        self.open += 1
        try:
            told = {site: self.acts[key] for site, task in tasks.items() if (key := (site, task.stage, task.round_number)) in self.acts}
            async for reply in self.inner.ask({site: task for site, task in tasks.items() if site not in told}):
                yield reply
            for reply in [act(tasks[site]) for site, act in told.items()]:
                if reply is not None:
                    yield reply
            await asyncio.Event().wait()
        finally:
            self.open -= 1

    async def withdraw(self, tasks: Sequence[Task]) -> None:
        self.withdrawn.extend(tasks)


class Written:
    """Checkpoints as they are when they have lain on a disk."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.kept: list[str] = []
        self.saves = 0

    async def load(self) -> dict[str, Any] | None:
        return None if self.text is None else json.loads(self.text)

    async def save(self, document: dict[str, Any]) -> None:
        self.text = json.dumps(document, allow_nan=False)
        self.saves += 1

    async def events(self) -> Sequence[Event]:
        return [EVENT.validate_json(text) for text in self.kept]


@dataclass
class World:
    """A study with its sites, blobs and checkpoints: conducted as often as a test likes."""

    study: Study
    tables: Mapping[SiteId, Table]
    blobs: Any = field(default_factory=MemoryStore)
    checkpoints: Written = field(default_factory=Written)
    roster: Sequence[SiteId] = NAMES

    def __post_init__(self) -> None:
        self.package: Package = pack(self.study, Path(), dict.fromkeys(self.roster, "key"), self.blobs)
        self.digest = digest(self.package)
        performers = {site: open_performer(self.study, table, site=site, files={}) for site, table in self.tables.items()}
        self.performers: dict[SiteId, Any] = dict(performers)
        self.engine = ToldEngine(self.sites(), list(self.tables))

    def sites(self) -> InProcess:
        return InProcess(self.performers, self.blobs, compression=Compression.of(self.study))

    def restart_sites(self) -> None:
        self.engine.inner = self.sites()

    def run(self, *, stop_after: int | None = None, lose_last: bool = False, on_event: Callable[[Event], None] = lambda _: None) -> list[Event]:
        """The events of one conducting, kept as they come. After so many it dies, having kept the last or not."""

        async def listen() -> list[Event]:
            seen: list[Event] = []
            conducting: Any = conduct(self.package, self.digest, self.engine, self.blobs, self.checkpoints, clock=SystemClock())
            async for event in conducting:
                seen.append(event)
                if not (lose_last and len(seen) == stop_after):
                    self.checkpoints.kept.append(event.model_dump_json())
                on_event(event)
                if len(seen) == stop_after:
                    await conducting.aclose()
                    break
            return seen

        return asyncio.run(asyncio.wait_for(listen(), 20))

    def bits(self, ref: Any) -> dict[str, bytes]:
        return {name: np.asarray(leaf).tobytes() for name, leaf in read_tree(self.blobs.open(BlobRef(**dict(ref)))).items()}

    def tell(self, site: SiteId, stage: str, round_number: int, act: Act) -> None:
        self.engine.acts[site, stage, round_number] = act

    def change(self, site: SiteId, stage: str, round_number: int, change: Callable[[dict[str, Tree]], Mapping[str, Tree]]) -> None:
        """Changes the sums that a site sends in that round."""
        self.performers[site] = Replacing(self.performers[site], stage, round_number, change)
        self.restart_sites()


def refusing(task: Task) -> Reply:
    return Refusal(task=task.id, attempt=task.attempt, site=task.site, code="not-approved", reason="Nobody has approved it.")


def failing(task: Task) -> Reply:
    return Failure(task=task.id, attempt=task.attempt, site=task.site, code="out-of-resources", reason="The disk is full.")


def silent(task: Task) -> None:
    return None


class Replacing:
    """A performer whose sums are changed on the way out."""

    def __init__(self, inner: Any, stage: str, round_number: int, change: Callable[[dict[str, Tree]], Mapping[str, Tree]]) -> None:
        self._inner = inner
        self._when = (stage, round_number)
        self._change = change

    def perform(self, task: Task, received: Mapping[str, Tree], memory: MutableMapping[str, Tree]) -> Performed:
        performed: Performed = self._inner.perform(task, received, memory)
        if (task.stage, task.round_number) != self._when:
            return performed
        return Performed(self._change(dict(performed.sums)), performed.checks, performed.figures)


@pytest.fixture(autouse=True)
def probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed here is the same for every site of every test."""
    monkeypatch.setattr(preflight, "probe", ENVIRONMENT)


@pytest.fixture
def world() -> Callable[..., World]:
    def made(tables: Mapping[SiteId, Table] | None = None, *, blobs: Any = None, roster: Sequence[SiteId] = NAMES, **changes: Any) -> World:
        given = {site: make_table(number) for number, site in enumerate(NAMES)} if tables is None else tables
        return World(make_study(**changes), given, roster=roster, **({} if blobs is None else {"blobs": blobs}))

    return made


@pytest.fixture
def table() -> Callable[..., Table]:
    return make_table


@pytest.fixture
def study() -> Callable[..., Study]:
    return make_study


@pytest.fixture
def acts() -> Mapping[str, Act]:
    """What a site may be told to do."""
    return {"refuse": refusing, "fail": failing, "keep silent": silent}
