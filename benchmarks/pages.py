"""How quick the coordinator's pages are, over a real database of 200 studies and 50 sites: CPU time of each page, an event's way to a viewer,
and what 200 open live views take of a study's rounds.

Requests go to the application in process, so that a busy machine does not count in the CPU times.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import Connection, insert, update
from starlette.types import ASGIApp, Message

from aimer2.coordinator.app import build_app
from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.recorder import event_row
from aimer2.coordinator.settings import Folder, Settings
from aimer2.coordinator.setup import initialise
from aimer2.coordinator.store import accounts, schema
from aimer2.coordinator.store import studies as rows
from aimer2.coordinator.store.accounts import Account
from aimer2.core.clock import SystemClock
from aimer2.core.study import Study
from aimer2.core.task import BlobRef, FigureDocument
from aimer2.dashboard.app import Dashboard
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package, digest
from aimer2.site.description import described
from aimer2.study.events import RoundFinished, StageStarted, StudyStarted
from benchmarks.rows import Row

STUDIES, SITES, VIEWERS, ROUNDS = 200, 50, 200, 1000
TIMES = 20
NAMES = [f"site-{number:02}" for number in range(SITES)]


def study_of(number: int) -> Package:
    study = Study(
        name=f"study-{number}",
        question="How quick are the pages over many studies?",
        purpose="a benchmark",
        ethics="none needed",
        principal_investigator="Nobody",
        expires="2100-01-01",
        cohort={"dataset": "d", "features": [{"name": "age"}], "target": {"name": "death"}},
        model={"framework": "numpy", "name": "logistic"},
        method={"name": "fedavg", "rounds": ROUNDS},
    )
    key = SigningKey.generate().public.text
    return Package(study=study, method_version=1, initial=BlobRef(sha256="0" * 64, size=1), roster=dict.fromkeys(NAMES, key))


def fill(connection: Connection) -> str:
    """Sites, studies, everybody's decision about each study; the last study runs. Its digest."""
    now = time.time()
    key = SigningKey.generate().public.text
    connection.execute(insert(schema.sites), [{"site": name, "key": key, "enrolled": now} for name in NAMES])
    last = ""
    for number in range(STUDIES):
        package = study_of(number)
        last = digest(package)
        rows.add_study(connection, rows.NewStudy(last, package.model_dump_json(), NAMES, "ada", now + number))
        said = [
            {"study": last, "site": name, "decision": "approve", "by": "Dr A", "reason": "", "time": now, "key": key, "statement": "x" * 600}
            for name in NAMES
        ]
        connection.execute(insert(schema.decisions), said)
    connection.execute(update(schema.studies).where(schema.studies.c.digest == last).values(state="running", holder="me", lease_until=now + 9e9))
    return last


async def ask(app: ASGIApp, path: str, cookie: str, took: Callable[[Message], None]) -> None:
    """One request; each of its messages as it comes."""
    headers = [(b"host", b"here"), (b"cookie", cookie.encode())]
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers, "root_path": ""}
    scope |= {"http_version": "1.1", "scheme": "https", "server": ("here", 443), "client": ("127.0.0.1", 1)}
    gone = asyncio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        took(message)

    await app(scope, receive, send)


async def page_times(app: ASGIApp, cookie: str, path: str) -> float:
    """Median CPU milliseconds of a page."""
    found = []
    for _ in range(TIMES):
        status: list[int] = []
        began = time.process_time()
        await ask(app, path, cookie, lambda message, status=status: status.append(message.get("status", 0)))
        found.append(1000 * (time.process_time() - began))
        assert status[0] == 200, (path, status)
    return statistics.median(found)


async def rounds(coordinator: Coordinator, study: str, first: int, count: int, pause: float) -> list[float]:
    """Stores events as a running study does; when each was stored."""
    stored = []
    for number in range(first, first + count):
        figures = tuple(FigureDocument(name=name, value=1 - 1 / (number + 1), n=1000) for name in ("auc", "accuracy", "loss"))
        event = RoundFinished(time=0, stage="train", round_number=number, rounds=ROUNDS, seconds=0.1, took_part=tuple(NAMES), figures=figures)
        await coordinator.database.write(rows.append_events, study, "me", [event_row(event)])
        coordinator.studies.news(study).set()
        stored.append(time.perf_counter())
        await asyncio.sleep(pause)
    return stored


def run() -> Iterator[Row]:
    yield from asyncio.run(_rows())


async def _rows() -> list[Row]:
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Folder(Path(name) / "coordinator")
        initialise(folder, Settings(name="Benchmark", url="https://127.0.0.1:8443"), SystemClock())
        coordinator = Coordinator.open(folder)
        await coordinator.database.write(accounts.add_account, Account("ada", "operator"), time.time())
        study = await coordinator.database.write(fill)
        await coordinator.registry.load()
        secret, _ = await coordinator.sessions.open("ada", "browser")
        app, cookie = Dashboard(build_app(coordinator), described), f"__Host-aimer2={secret}"
        for path in ("/", "/studies", "/sites", f"/studies/{study}"):
            called = "the study" if study in path else path
            found.append(Row("pages", f"{called}, {STUDIES} studies × {SITES} sites, CPU", await page_times(app, cookie, path), "ms"))
        began = [StudyStarted(time=0, sites=tuple(NAMES)), StageStarted(time=0, stage="train", rounds=ROUNDS)]
        await coordinator.database.write(rows.append_events, study, "me", [event_row(event) for event in began])
        await rounds(coordinator, study, 1, ROUNDS // 2, 0)
        await page_times(app, cookie, f"/studies/{study}/live")
        live = await page_times(app, cookie, f"/studies/{study}/live")
        found.append(Row("pages", f"live view of {ROUNDS // 2} rounds, CPU", live, "ms"))
        for viewers in (1, VIEWERS):
            found += await watched(coordinator, app, cookie, study, viewers)
        await coordinator.close()
    return found


async def watched(coordinator: Coordinator, app: ASGIApp, cookie: str, study: str, viewers: int) -> list[Row]:
    """An event every two seconds, seen by all: when it is there, and what the process takes meanwhile."""
    seen: list[list[float]] = [[] for _ in range(viewers)]
    tasks = [
        asyncio.create_task(ask(app, f"/studies/{study}/live/stream", cookie, lambda message, mine=mine: mine.append(time.perf_counter())))
        for mine in seen
    ]
    await asyncio.sleep(3 + viewers / 50)
    first = ROUNDS // 2 + 1 + viewers
    cpu = time.process_time()
    stored = await rounds(coordinator, study, first, 10, 2.0)
    cpu = time.process_time() - cpu
    delays = [min((at for at in mine if at >= moment), default=float("inf")) - moment for moment in stored for mine in seen]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    middle, late = statistics.median(delays), statistics.quantiles(delays, n=20)[-1]
    return [
        Row("pages", f"{viewers} viewers: an event on its way, median", 1000 * middle, "ms"),
        Row("pages", f"{viewers} viewers: an event on its way, 95 %", 1000 * late, "ms"),
        Row("pages", f"{viewers} viewers, a round each 2 s: of one core", 100 * cpu / 20, "%"),
    ]
