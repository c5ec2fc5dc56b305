"""The process: one HTTPS port, one event loop, ended by SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
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
from aimer2.core.errors import Conflict

_WAITING_REQUESTS = 16_384
"""Each waiting site is one open request."""

_END_SECONDS = 5
_KNOCK_SECONDS = 0.005


Around: TypeAlias = Callable[[ASGIApp], ASGIApp]
"""What stands in front of the API on the same port: pages."""


def run(folder: Folder, ready: Callable[[Coordinator], None], around: Around) -> None:
    """Serves until the process is told to end; ``ready`` is called once the port is open.

    Raises NotFound, Conflict (the port or the folder is in use) or BadInput before anything is served.
    """
    uvloop.run(serve(folder, ready, around))


async def serve(folder: Folder, ready: Callable[[Coordinator], None], around: Around) -> None:
    settings = folder.read_settings()
    _check_port(settings.host, settings.port)
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
    opened = asyncio.create_task(_wait_for_port(settings.host, settings.port))
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


async def _wait_for_port(host: str, port: int) -> None:
    """The server does not say when its port is open: so we knock."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    while True:
        try:
            _, line = await asyncio.open_connection(address, port)
        except ConnectionError:
            await asyncio.sleep(_KNOCK_SECONDS)
        else:
            line.close()
            return


def _check_port(host: str, port: int) -> None:
    """The server shares its port with other processes, so a second coordinator would go unnoticed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Conflict(f"{host}:{port} cannot be listened on: {error.strerror}.", remedy="Stop what uses it, or set another port.") from None


def log_to_stderr(level: int = logging.INFO) -> None:
    """One line per event; nothing per request."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
