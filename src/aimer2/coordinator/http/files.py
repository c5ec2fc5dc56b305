"""Sending a blob: whole, or one range of it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from aimer2.blobs.folder import FolderStore
from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http import problems
from aimer2.coordinator.http.problems import response_of
from aimer2.core.errors import BadInput
from aimer2.core.protocols import Blob
from aimer2.core.said import say
from aimer2.messages.wire import problem_of

PIECE = 1 << 20
MEDIA_TYPE = "application/octet-stream"
_BYTES: dict[str, Any] = {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole blob", "content": _BYTES},
    206: {"description": "The byte range that was asked for", "content": _BYTES},
    416: {"description": "No range of this blob", "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}},
}
"""What `send_blob` answers, for the OpenAPI document."""
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


async def send_blob(coordinator: Coordinator, request: Request, store: FolderStore, sha256: str) -> Response:
    """The bytes, or the one range that was asked for. Raises NotFound."""
    blob = await asyncio.to_thread(store.find, sha256)
    headers = {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes", "Cache-Control": "private, immutable, max-age=31536000"}
    asked = request.headers.get("range")
    if asked is None:
        coordinator.metrics.bytes_sent.inc(blob.ref.size)
        return _whole(blob, headers)
    span = parse_range(asked, blob.ref.size)
    if span is None:
        problem = problem_of(BadInput(say("This is not one range of {size} bytes.", size=blob.ref.size)))
        return response_of(problem.model_copy(update={"status": 416}), {"Content-Range": f"bytes */{blob.ref.size}"})
    start, stop = span
    coordinator.metrics.bytes_sent.inc(stop - start)
    headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{blob.ref.size}", "Content-Length": str(stop - start)}
    if blob.path is None:
        return Response(bytes(blob.view()[start:stop]), 206, headers, MEDIA_TYPE)
    return StreamingResponse(_pieces(blob.path, start, stop), 206, headers, MEDIA_TYPE)


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """First byte and the byte after the last (RFC 9110 section 14.1.2); None where it cannot be satisfied or is more than one range."""
    found = _RANGE.fullmatch(text.strip())
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if first == "":
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
    return (start, stop) if start < stop else None


def _whole(blob: Blob, headers: dict[str, str]) -> Response:
    if blob.path is None:
        return Response(bytes(blob.view()), 200, headers, MEDIA_TYPE)
    # Handed to the server by its path: it sends the file without Python.
    return FileResponse(blob.path, 200, headers, MEDIA_TYPE, stat_result=os.stat(blob.path))


async def _pieces(path: Path, start: int, stop: int) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(os.open, path, os.O_RDONLY)
    try:
        while start < stop:
            piece = await asyncio.to_thread(os.pread, file, min(PIECE, stop - start), start)
            start += len(piece)
            yield piece
    finally:
        os.close(file)
