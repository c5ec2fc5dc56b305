"""The console's process: one port, ended by SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.server.embed import Server

from aimer2.site.console.app import build_app
from aimer2.site.console.console import Console
from aimer2.web.listening import check_port, wait_for_port

_END_SECONDS: Final = 2


async def serve(console: Console, ready: Callable[[], None]) -> None:
    """Until the process is told to end; ``ready`` is called once the port is open. Raises Conflict where another process has the port."""
    place = console.place
    check_port(place.host, place.port)
    server = Server(
        build_app(console),
        address=place.host,
        port=place.port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        log_enabled=False,
        ssl_cert=place.certificate,
        ssl_key=place.private_key,
        ssl_protocol_min=SSLProtocols.tls12,
    )
    server.workers_kill_timeout = _END_SECONDS
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    serving = asyncio.create_task(server.serve())
    ended = asyncio.create_task(told.wait())
    opened = asyncio.create_task(wait_for_port(place.host, place.port))
    await asyncio.wait({opened, ended, serving}, return_when=asyncio.FIRST_COMPLETED)
    if opened.done():
        ready()
    await asyncio.wait({ended, serving}, return_when=asyncio.FIRST_COMPLETED)
    opened.cancel()
    server.stop()  # type: ignore[no-untyped-call]
    with suppress(TimeoutError):
        await asyncio.wait_for(serving, _END_SECONDS)
    ended.cancel()
    console.work.close()
