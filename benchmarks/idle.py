"""200 sites waiting on open requests: what the coordinator spends on them, and how soon all hear of something new.

The sites are real ones to the coordinator (enrolled, authenticated, each on its own TLS connection); here one loop plays them all.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aimer2.cli.federation import Federation
from aimer2.coordinator.settings import Folder
from aimer2.coordinator.setup import inviter
from aimer2.coordinator.store.database import Database
from aimer2.core.clock import SystemClock
from aimer2.identity.assertions import make_assertion
from aimer2.identity.keys import SigningKey
from aimer2.messages.wire import Exchange, Exchanged, Token
from aimer2.site.connection import Connection, make_pool
from aimer2.site.settings import CoordinatorAddress
from benchmarks.rounds import study_of, write_model
from benchmarks.rows import Row

SITES = 200
WATCHED_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Waiting:
    site: str
    token: str
    revision: int


def run() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="aimer2-bench-") as name, Federation(Path(name)) as federation:
        federation.make_coordinator()
        federation.run_coordinator()
        pid = federation.processes["coordinator"].pid
        sites = _enrol(federation)
        spread, used = asyncio.run(_wait_and_wake(federation, sites, pid))
        memory = _memory(pid)
    yield Row("idle", f"{SITES} sites waiting, coordinator's processor time", used * 100, "%")
    yield Row("idle", f"{SITES} sites waiting, coordinator memory", memory, "MiB")
    yield Row("idle", f"{SITES} sites, from the first woken to the last", spread * 1000, "ms")


def _enrol(federation: Federation) -> list[Waiting]:
    folder = Folder(federation.folder / "coordinator")
    settings = folder.read_settings()
    database, clock = Database(folder.database_url(settings)), SystemClock()
    made = []
    for number in range(SITES):
        site, key = f"site-{number:03}", SigningKey.generate()
        invitation = inviter(folder, settings, clock).invite(database, site)
        address = CoordinatorAddress(url=federation.url, name="benchmark", key=invitation.coordinator_key, fingerprint=invitation.fingerprint)
        connection = Connection(address, site, key, clock)
        connection.enrol(invitation.code)
        seen: Exchanged = connection.exchange(Exchange(wait_seconds=0))
        made.append(Waiting(site, _token(address, site, key), seen.revision))
        connection.close()
    database.close()
    return made


def _token(address: CoordinatorAddress, site: str, key: SigningKey) -> str:
    fields = {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": make_assertion(key, subject=site, audience=address.url, now=time.time()),
    }
    response = make_pool(address).request("POST", f"{address.url}/v1/tokens", fields=fields, encode_multipart=False)
    return Token.model_validate_json(response.data).access_token


async def _wait_and_wake(federation: Federation, sites: list[Waiting], pid: int) -> tuple[float, float]:
    """Seconds from the first site woken to the last, and the share of a core spent while all wait."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    waiting = [asyncio.create_task(_exchange(federation.port, context, site)) for site in sites]
    await asyncio.sleep(2)
    began = _cpu(pid)
    await asyncio.sleep(WATCHED_SECONDS)
    used = (_cpu(pid) - began) / WATCHED_SECONDS
    write_model(federation.folder)
    study = study_of([site.site for site in sites], 1000, 1)
    researcher = federation.researcher()
    await asyncio.to_thread(researcher.submit, study, federation.folder)
    moments = await asyncio.gather(*waiting)
    return max(moments) - min(moments), used


async def _exchange(port: int, context: ssl.SSLContext, site: Waiting) -> float:
    """Waits on one open request; the moment at which its answer begins."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    body = Exchange(revision=site.revision, wait_seconds=60).model_dump_json().encode()
    head = f"POST /v1/exchange HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {site.token}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    status = await reader.readline()
    moment = time.perf_counter()
    if b" 200 " not in status:
        raise RuntimeError(f"{site.site}: {status!r}")
    writer.close()
    return moment


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
