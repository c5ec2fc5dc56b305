"""One TCP port of a server process: nobody else has it, and it is open."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from aimer2.core.errors import Conflict
from aimer2.core.said import say

_KNOCK_SECONDS: Final = 0.005


async def wait_for_port(host: str, port: int) -> None:
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


def check_port(host: str, port: int) -> None:
    """The server shares its port with other processes, so a second one would go unnoticed. Raises Conflict."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Conflict(
                say("{host}:{port} cannot be listened on: {strerror}.", host=host, port=port, strerror=error.strerror),
                remedy="Stop what uses it, or set another port.",
            ) from None
