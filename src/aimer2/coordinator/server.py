"""The process: one HTTPS port, one event loop, ended by SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import uvloop
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.server.embed import Server
from starlette.types import ASGIApp

from aimer2.coordinator.app import build_app
from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.exchange_first import ExchangeFirst
from aimer2.coordinator.records import LOG
from aimer2.coordinator.settings import Folder
from aimer2.web.listening import check_port, wait_for_port

_WAITING_REQUESTS = 16_384
"""Each waiting site is one open request."""

_END_SECONDS = 5


Around: TypeAlias = Callable[[ASGIApp], ASGIApp]
"""What stands in front of the API on the same port: pages."""


def run(folder: Folder, ready: Callable[[Coordinator], None], around: Around) -> None:
    """Serves until the process is told to end; ``ready`` is called once the port is open.

    Raises NotFound, Conflict (the port or the folder is in use) or BadInput before anything is served.
    """
    uvloop.run(serve(folder, ready, around))


async def serve(folder: Folder, ready: Callable[[Coordinator], None], around: Around) -> None:
    settings = folder.read_settings()
    check_port(settings.host, settings.port)
    coordinator = Coordinator.open(folder)
    server = Server(
        ExchangeFirst(around(build_app(coordinator)), coordinator),
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        backlog=1024,
        backpressure=_WAITING_REQUESTS,
        log_enabled=False,
        ssl_cert=folder.resolve(settings.certificate),
        ssl_key=folder.resolve(settings.private_key),
        # Proxies that inspect TLS in hospitals speak 1.2 as well.
        ssl_protocol_min=SSLProtocols.tls12,
    )
    server.workers_kill_timeout = _END_SECONDS
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await coordinator.start()
    keeping = asyncio.create_task(coordinator.keep())
    serving = asyncio.create_task(server.serve())
    ended = asyncio.create_task(told.wait())
    opened = asyncio.create_task(wait_for_port(settings.host, settings.port))
    await asyncio.wait({opened, ended, serving}, return_when=asyncio.FIRST_COMPLETED)
    if opened.done():
        ready(coordinator)
    await asyncio.wait({ended, serving}, return_when=asyncio.FIRST_COMPLETED)
    opened.cancel()
    LOG.info("ending")
    coordinator.stop_waiting()
    server.stop()  # type: ignore[no-untyped-call]
    keeping.cancel()
    with suppress(TimeoutError):
        await asyncio.wait_for(serving, _END_SECONDS)
    ended.cancel()
    await asyncio.gather(keeping, ended, return_exceptions=True)
    await coordinator.close()


def log_to_stderr(level: int = logging.INFO) -> None:
    """One line per event; nothing per request."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
