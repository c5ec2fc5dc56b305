"""Reading bodies: JSON within a limit, and the rest of what is refused."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from aimer2.core.errors import BadInput, TooLarge
from aimer2.core.said import say
from aimer2.core.task import Document

_PATIENCE_BYTES = 64 << 20
"""So much of a refused body is still taken in."""

SMALL_BODY = 1 << 16
OPEN_SECONDS = 20.0
"""So much, and so long, for the body of a request that anybody can send."""

_D = TypeVar("_D", bound=Document)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises TooLarge before more than the limit is held."""
    return await read_whole(request.receive, limit)


async def read_whole(receive: Receive, limit: int) -> bytes:
    """The same from the server itself. Raises ClientDisconnect where the other side has gone."""
    pieces, size = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        size += len(piece)
        if size <= limit:
            pieces.append(piece)
        if not message.get("more_body", False) or size > limit + _PATIENCE_BYTES:
            break
    if size > limit:
        raise TooLarge(say("The body of a request has at most {limit} bytes.", limit=limit))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def read_open_body(request: Request, limit: int = SMALL_BODY, seconds: float = OPEN_SECONDS) -> bytes:
    """The same on a route that is open to anyone: nobody holds a connection by sending slowly. Raises TooLarge, BadInput."""
    try:
        async with asyncio.timeout(seconds):
            return await read_body(request, limit)
    except TimeoutError:
        raise BadInput(
            say("The body of this request is sent within {seconds} seconds.", seconds=f"{seconds:.0f}"), remedy="Try again over a better connection."
        ) from None


async def drain(request: Request) -> None:
    """Takes in the rest of a body that is refused: an answer on a line that is being sent on would be lost with the line."""
    left = _PATIENCE_BYTES
    # The framework's word for a body that was read to its end is a RuntimeError.
    with suppress(RuntimeError, ClientDisconnect):
        async for piece in request.stream():
            left -= len(piece)
            if left < 0:
                return


async def read_document(request: Request, kind: type[_D], limit: int) -> _D:
    """The body as a document; pydantic's error, which becomes a problem document, if it is none."""
    return kind.model_validate_json(await read_body(request, limit))


async def read_open_document(request: Request, kind: type[_D]) -> _D:
    """The same on a route that is open to anyone."""
    return kind.model_validate_json(await read_open_body(request))


def described(kind: type[Document]) -> dict[str, object]:
    """How OpenAPI shows a body that the route reads itself."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
