"""The one connection between agent and worker: JSON documents, and open files with them, over a pair of Unix sockets.

A document is its length in four bytes (big endian) and its UTF-8; its files ride on the first byte.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import Any, final

from aimer2.core.errors import BadUpdate

LONGEST_DOCUMENT = 16 << 20
MOST_FILES = 250
"""The kernel hands over at most 253 files at once."""

_PIECE = 1 << 16


def encode(document: dict[str, Any]) -> bytes:
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    return len(text).to_bytes(4, "big") + text


@final
class _Incoming:
    """A document that is arriving."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.files: list[int] = []

    @property
    def complete(self) -> bool:
        if len(self.data) < 4:
            return False
        length = int.from_bytes(self.data[:4], "big")
        if length > LONGEST_DOCUMENT or len(self.data) > 4 + length:
            raise BadUpdate("The other process does not keep to the protocol.")
        return len(self.data) == 4 + length

    def read(self, channel: socket.socket) -> None:
        """Raises EOFError where the other side has gone."""
        data, files, _, _ = socket.recv_fds(channel, _PIECE, MOST_FILES, socket.MSG_CMSG_CLOEXEC)
        self.files += files
        if not data:
            raise EOFError
        self.data += data
        if len(self.files) > MOST_FILES:
            raise BadUpdate("The other process hands over too many files.")

    def document(self) -> dict[str, Any]:
        try:
            document = json.loads(self.data[4:])
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise BadUpdate("The other process does not keep to the protocol.")
        return document

    def close(self) -> None:
        for file in self.files:
            os.close(file)


@final
class Line:
    """The worker's end: it does one thing at a time."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        incoming = _Incoming()
        while not incoming.complete:
            incoming.read(self._channel)
        return incoming.document(), incoming.files

    def send(self, document: dict[str, Any], files: list[int] | None = None) -> None:
        data = encode(document)
        sent = socket.send_fds(self._channel, [data], files or [])
        self._channel.sendall(data[sent:])
        for file in files or []:
            os.close(file)


@final
class AsyncLine:
    """The agent's end."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel

    async def ask(self, document: dict[str, Any], files: list[int] | None = None) -> tuple[dict[str, Any], list[int]]:
        """Sends, closes the files here, waits for the answer. Raises EOFError where the worker ends before it has answered."""
        data = encode(document)
        try:
            sent = socket.send_fds(self._channel, [data], files or [])
        except (BrokenPipeError, ConnectionResetError):
            raise EOFError from None
        finally:
            for file in files or []:
                os.close(file)
        if sent < len(data):
            await asyncio.get_running_loop().sock_sendall(self._channel, data[sent:])
        return await self._receive()

    async def _receive(self) -> tuple[dict[str, Any], list[int]]:
        incoming = _Incoming()
        try:
            while not incoming.complete:
                await self._readable()
                incoming.read(self._channel)
            return incoming.document(), incoming.files
        except ConnectionResetError:
            incoming.close()
            raise EOFError from None
        except BaseException:
            incoming.close()
            raise

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        loop.add_reader(self._channel, _set, ready)
        try:
            await ready
        finally:
            loop.remove_reader(self._channel)

    def close(self) -> None:
        self._channel.close()


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
