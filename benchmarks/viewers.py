"""What 200 open live views take of a study that runs: coordinator, sites, workers and viewers are real processes over TLS.

One study of many rounds. Its rounds are timed while nobody looks, while 200 browsers hold the live view open, and while 200 command lines follow
the events; the viewers are one process of their own on the same machine, so what they read and count is in the figures too.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
import ssl
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from aimer2.cli.federation import RESEARCHER, Federation
from aimer2.study.events import RoundFinished
from benchmarks.rounds import begin, study_of
from benchmarks.rows import Row

NOBODY, LIVE, STREAMS = "nobody", "live views", "event streams"
VIEWERS, SITES, ROUNDS = 200, 3, 100_000
SECONDS = 8.0
"""Of each phase; the first three of them are not counted."""
_SETTLING = 3.0
_TOGETHER = 20
"""So many viewers come at a time."""
_ROUND = re.compile(rb'Round (\d+) finished|"round-finished".*?"round_number":(\d+)')
"""As a live view and a stream of events tell that a round has ended."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where viewers look, and as whom."""

    port: int
    certificate: str
    user: str
    password: str
    study: str


def run() -> Iterator[Row]:
    for seconds, called in ((0.0, "rounds without a pause"), (0.5, "rounds of half a second")):
        with tempfile.TemporaryDirectory(prefix="aimer2-bench-") as folder, Federation(Path(folder)) as federation:
            yield from _phases(federation, seconds, called)


def _phases(federation: Federation, seconds: float, called: str) -> Iterator[Row]:
    study = study_of(begin(federation, SITES), 1_000, ROUNDS)
    study = study.model_copy(update={"model": study.model.model_copy(update={"options": {"size": 1_000, "seconds": seconds}})})
    researcher = federation.researcher()
    submitted = researcher.submit(study, federation.folder)
    certificate = str(federation.folder / "coordinator" / "tls" / "certificate.pem")
    place = Place(federation.port, certificate, RESEARCHER, federation.password, submitted.digest)
    time.sleep(2 * _SETTLING)
    spans: dict[str, tuple[float, float]] = {}
    seen: dict[str, list[list[tuple[float, int]]]] = {}
    for kind in (NOBODY, LIVE, STREAMS):
        with _looked_at(place, kind) as seen[kind]:
            time.sleep(_SETTLING)
            began = time.time()
            time.sleep(SECONDS - _SETTLING)
            spans[kind] = began, time.time()
            # Whatever has happened up to now is to be told before they leave.
            time.sleep(_SETTLING)
    researcher.stop(submitted.digest, reason="measured")
    rounds = [event for event in submitted.events() if isinstance(event, RoundFinished) and event.stage == "train"]
    floor = 0.0
    for kind, (began, ended) in spans.items():
        within = [event for event in rounds if began < event.time < ended]
        middle = statistics.median(event.seconds for event in within) * 1000
        if kind == NOBODY:
            floor = middle
            yield Row("viewers", f"{called}, nobody looks: a round", middle, "ms")
            continue
        yield Row("viewers", f"{called}, {VIEWERS} {kind}: a round", middle, "ms", floor)
        taken = [1000 * delay for delay in delays({event.round_number: event.time for event in within}, seen[kind])]
        yield Row("viewers", f"{called}, {VIEWERS} {kind}: an event on its way, median", statistics.median(taken), "ms")
        yield Row("viewers", f"{called}, {VIEWERS} {kind}: an event on its way, 95 %", statistics.quantiles(taken, n=20)[-1], "ms")


def delays(told: Mapping[int, float], seen: Sequence[Sequence[tuple[float, int]]]) -> list[float]:
    """From the end of each round to the first message that told each viewer of it, or of a later one.

    Raises RuntimeError where somebody was never told of the last of them: who is told nothing has no delay that would show.
    """
    found = []
    for mine in seen:
        messages = iter(mine)
        at = next(messages, None)
        for number, moment in sorted(told.items()):
            while at is not None and at[1] < number:
                at = next(messages, None)
            if at is None:
                raise RuntimeError(f"A viewer was never told that round {number} has ended.")
            found.append(at[0] - moment)
    return found


@contextmanager
def _looked_at(place: Place, kind: str) -> Iterator[list[list[tuple[float, int]]]]:
    """While 200 viewers look, in a process of their own; afterwards it holds when each of them was sent something."""
    seen: list[list[tuple[float, int]]] = []
    if kind == NOBODY:
        yield seen
        return
    near, far = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_look_on, args=(place, kind, far))
    process.start()
    near.recv()
    yield seen
    near.send("enough")
    seen += near.recv()
    process.join()


def _look_on(place: Place, kind: str, far: Connection) -> None:
    asyncio.run(_look(place, kind, far))


async def _look(place: Place, kind: str, far: Connection) -> None:
    context = ssl.create_default_context(cafile=place.certificate)
    live = kind == LIVE
    said = json.dumps({"user": place.user, "password": place.password}).encode()
    head, body = await _ask(place, context, f"POST /v1/{'session' if live else 'sessions'}", "Content-Type: application/json\r\n", said)
    if live:
        header = "Cookie: " + next(line.split(": ", 1)[1].split(";")[0] for line in head.splitlines() if line.lower().startswith("set-cookie"))
    else:
        header = f"Authorization: Bearer {json.loads(body)['access_token']}"
        # A command line that follows has read what was before.
        _, past = await _ask(place, context, f"GET /v1/studies/{place.study}/events?follow=false", f"{header}\r\n")
        header += "\r\nLast-Event-ID: " + past.rpartition(b"id: ")[2].partition(b"\n")[0].decode()
    path = f"/studies/{place.study}/live/stream" if live else f"/v1/studies/{place.study}/events"
    seen: list[list[tuple[float, int]]] = [[] for _ in range(VIEWERS)]
    watching = []
    for first in range(0, VIEWERS, _TOGETHER):
        looking = [asyncio.Event() for _ in range(_TOGETHER)]
        for mine, there in zip(seen[first:], looking, strict=False):
            watching.append(asyncio.create_task(_watch(place, context, f"GET {path}", header, (mine, there))))
        await asyncio.gather(*(there.wait() for there in looking))
    far.send("all look")
    await asyncio.to_thread(far.recv)
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    far.send(seen)


async def _watch(place: Place, context: ssl.SSLContext, request: str, header: str, mine: tuple[list[tuple[float, int]], asyncio.Event]) -> None:
    seen, there = mine
    reader, writer = await _send(place, context, request, f"{header}\r\n")
    try:
        while piece := await reader.read(1 << 16):
            there.set()
            if rounds := _ROUND.findall(piece):
                seen.append((time.time(), max(int(number) for number in rounds[0] + rounds[-1] if number)))
    finally:
        writer.close()


async def _ask(place: Place, context: ssl.SSLContext, request: str, header: str, body: bytes = b"") -> tuple[str, bytes]:
    reader, writer = await _send(place, context, request, f"{header}Connection: close\r\n", body)
    answer = await reader.read()
    writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    return head.decode(), rest


async def _send(
    place: Place, context: ssl.SSLContext, request: str, header: str, body: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port, ssl=context)
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    writer.write(f"{request} HTTP/1.1\r\nHost: 127.0.0.1:{place.port}\r\n{length}{header}\r\n".encode() + body)
    await writer.drain()
    return reader, writer
