"""Reading JSON bodies within a limit."""

from __future__ import annotations

from typing import TypeVar

from fastapi import Request

from aimer2.core.errors import TooLarge
from aimer2.core.task import Document

_D = TypeVar("_D", bound=Document)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises TooLarge before more than the limit is held."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise TooLarge(f"The body of a request has at most {limit} bytes.")
    return bytes(body)


async def read_document(request: Request, kind: type[_D], limit: int) -> _D:
    """The body as a document; pydantic's error, which becomes a problem document, if it is none."""
    return kind.model_validate_json(await read_body(request, limit))


def described(kind: type[Document]) -> dict[str, object]:
    """How OpenAPI shows a body that the route reads itself."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
