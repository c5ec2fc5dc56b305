"""How a command reaches the running agent: a Unix socket in the site's folder, open to its owner alone. One JSON line each way."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from pydantic import ValidationError

from aimer2.core.errors import AimerError, BadInput
from aimer2.messages.wire import Problem, error_of, problem_of
from aimer2.site.folder import SiteFolder

LONGEST_LINE = 1 << 20
_ANSWER_SECONDS = 60

Command = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def serve_control(folder: SiteFolder, command: Command) -> AsyncIterator[None]:
    """While in here, commands are carried out by ``command``, which may raise an AimerError."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(json.dumps(await _carry_out(await reader.readline(), command)).encode() + b"\n")
            await writer.drain()
        except (ValueError, ConnectionError):
            return
        finally:
            writer.close()

    folder.socket.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with _address(folder) as address:
            listening.bind(address)
    finally:
        os.umask(before)
    server = await asyncio.start_unix_server(answer, sock=listening, limit=LONGEST_LINE)
    try:
        yield
    finally:
        server.close()
        folder.socket.unlink(missing_ok=True)


async def _carry_out(line: bytes, command: Command) -> dict[str, Any]:
    try:
        asked = json.loads(line)
        if not isinstance(asked, dict):
            raise BadInput("A command is a JSON object.")
        return {"done": await command(asked)}
    except ValueError:
        return {"problem": problem_of(BadInput("A command is a JSON object.")).model_dump()}
    except AimerError as error:
        return {"problem": problem_of(error).model_dump()}


def ask_agent(folder: SiteFolder, document: dict[str, Any]) -> dict[str, Any] | None:
    """The running agent's answer; None where no agent runs. Raises what the agent reports."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(_ANSWER_SECONDS)
        try:
            with _address(folder) as address:
                channel.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        channel.sendall(json.dumps(document).encode() + b"\n")
        with channel.makefile("rb") as file:
            answer = json.loads(file.readline(LONGEST_LINE) or b"{}")
    try:
        if "problem" in answer:
            raise error_of(Problem.model_validate(answer["problem"]))
    except ValidationError:
        raise AimerError from None
    done: dict[str, Any] = answer.get("done", {})
    return done


@contextmanager
def _address(folder: SiteFolder) -> Iterator[str]:
    """A name of the socket that stays under the kernel's 107 bytes however deep the folder lies."""
    opened = os.open(folder.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{opened}/{folder.socket.name}"
    finally:
        os.close(opened)
