"""Blobs by their name: fetched whole or in ranges, put in resumable uploads."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated, Protocol, final
from weakref import WeakValueDictionary

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from aimer2.blobs.folder import FolderStore
from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import Asker, asker_of, may
from aimer2.coordinator.http.bodies import drain
from aimer2.coordinator.http.files import DOCUMENTED, PIECE, send_blob
from aimer2.coordinator.http.problems import response_of
from aimer2.coordinator.permissions import SITE, Action
from aimer2.coordinator.store.members import has_uploaded, note_upload
from aimer2.coordinator.store.studies import studies_of_model
from aimer2.core.errors import AimerError, Conflict, NotFound, Tampered, TooLarge
from aimer2.core.task import BlobRef
from aimer2.messages.wire import problem_of

BYTES_BODY = {"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}


class _Receiver(Protocol):
    @property
    def offset(self) -> int: ...
    def write(self, *pieces: bytes | memoryview) -> None: ...
    def finish(self) -> BlobRef: ...
    def close(self) -> None: ...


@final
class _Proof:
    """Takes bytes that are here already, from somebody who has yet to show that he has them too."""

    def __init__(self, ref: BlobRef) -> None:
        self.offset = 0
        self._ref = ref
        self._hash = hashlib.sha256()

    def write(self, *pieces: bytes | memoryview) -> None:
        for piece in pieces:
            self._hash.update(piece)
            self.offset += len(piece)

    def finish(self) -> BlobRef:
        if self._hash.hexdigest() != self._ref.sha256:
            raise Tampered("The bytes that came do not have the announced SHA-256.")
        return self._ref

    def close(self) -> None: ...


@final
class Uploads:
    """Receives blobs into the staging area; of one blob one upload at a time."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._store = coordinator.storage.staging
        self._busy: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def offset(self, sha256: str, owner: str) -> int:
        """How many bytes of an unfinished upload are here."""
        if await self.exists(sha256):
            return 0
        return await asyncio.to_thread(self._partial_size, sha256)

    async def exists(self, sha256: str) -> bool:
        return await asyncio.to_thread(self._store.__contains__, BlobRef(sha256=sha256, size=0))

    async def receive(self, request: Request, ref: BlobRef, offset: int, owner: str) -> int:
        """Takes the body in; the offset afterwards. Raises Conflict at a wrong offset, Tampered, OutOfResources."""
        lock = self._busy.setdefault(ref.sha256, asyncio.Lock())
        async with lock:
            receiver = await asyncio.to_thread(self._receiver, ref)
            try:
                if offset != receiver.offset:
                    raise WrongOffset(receiver.offset)
                await self._pump(request, receiver, ref.size)
                if receiver.offset == ref.size:
                    await asyncio.to_thread(receiver.finish)
                    await self._coordinator.database.write(note_upload, ref.sha256, owner)
                return receiver.offset
            finally:
                receiver.close()

    def _receiver(self, ref: BlobRef) -> _Receiver:
        return _Proof(ref) if ref in self._store else self._store.partial(ref)

    async def _pump(self, request: Request, receiver: _Receiver, size: int) -> None:
        """Body to receiver, about 1 MiB at a time: while that is hashed and written in a thread, the next pieces come."""
        loop = asyncio.get_running_loop()
        writing: asyncio.Future[None] | None = None
        came, gathered, length = receiver.offset, list[bytes](), 0
        try:
            async for data in request.stream():
                came, length = came + len(data), length + len(data)
                if came > size:
                    raise Conflict("More bytes came than were announced.")
                gathered.append(data)
                if length >= PIECE:
                    if writing is not None:
                        await writing
                    writing = loop.run_in_executor(None, receiver.write, *gathered)
                    self._coordinator.metrics.bytes_received.inc(length)
                    gathered, length = [], 0
        finally:
            if writing is not None:
                await writing
            if gathered:
                # Also where the connection broke off: what came is kept.
                self._coordinator.metrics.bytes_received.inc(length)
                await asyncio.shield(loop.run_in_executor(None, receiver.write, *gathered))

    def _partial_size(self, sha256: str) -> int:
        path = self._store.folder / "incoming" / f"{sha256}.partial"
        return path.stat().st_size if path.exists() else 0


@final
class WrongOffset(Conflict):
    """The upload goes on from another byte than the one named."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"The upload goes on from byte {offset}.", remedy="Send from there: `Upload-Offset` of this answer.")
        self.offset = offset


def blob_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["blobs"])
    uploads = Uploads(coordinator)
    largest = coordinator.settings.max_blob_bytes

    @routes.get("/v1/blobs/{sha256}", response_class=Response, responses=DOCUMENTED)
    async def get(request: Request, sha256: str) -> Response:
        """A blob of a study of the caller's; whole, or one byte range (206)."""
        store = await store_for(coordinator, asker_of(request), sha256)
        return await send_blob(coordinator, request, store, sha256)

    @routes.head("/v1/blobs/{sha256}", response_class=Response, responses={404: {"description": "`Upload-Offset` says how much of it is here"}})
    async def head(request: Request, sha256: str) -> Response:
        """Whether the caller can fetch it or has uploaded it; if not, `Upload-Offset` says from which byte an upload goes on."""
        asker = asker_of(request)
        try:
            store = await store_for(coordinator, asker, sha256)
            blob = await asyncio.to_thread(store.find, sha256)
        except NotFound:
            offset = await uploads.offset(sha256, owner_of(asker))
            return Response(status_code=404, headers={"Upload-Offset": str(offset)})
        return Response(status_code=200, headers={"Content-Length": str(blob.ref.size), "ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})

    @routes.put(
        "/v1/blobs/{sha256}",
        status_code=201,
        response_class=Response,
        responses={201: {"description": "It is complete"}, 202: {"description": "`Upload-Offset` says how far it has come"}},
        openapi_extra=BYTES_BODY,
    )
    async def put(
        request: Request,
        sha256: str,
        upload_offset: Annotated[int, Header(ge=0, description="first byte of this body within the blob")],
        upload_length: Annotated[int, Header(ge=0, description="size of the whole blob")],
    ) -> Response:
        """Uploads a blob, or the rest of it. 201: complete and its SHA-256 is right. 202: `Upload-Offset` says how far it has come."""
        try:
            asker = asker_of(request)
            if upload_length > largest:
                raise TooLarge(f"A blob has at most {largest} bytes here.")
            with coordinator.presence.upload(asker.subject):
                offset = await uploads.receive(request, BlobRef(sha256=sha256, size=upload_length), upload_offset, owner_of(asker))
        except AimerError as error:
            await drain(request)
            if isinstance(error, WrongOffset):
                return response_of(problem_of(error), {"Upload-Offset": str(error.offset)})
            raise
        return Response(status_code=201 if offset == upload_length else 202, headers={"Upload-Offset": str(offset)})

    return routes


def owner_of(asker: Asker) -> str:
    return f"{'site' if asker.role == SITE else 'user'}:{asker.subject}"


async def store_for(coordinator: Coordinator, asker: Asker, sha256: str) -> FolderStore:
    """Where a blob lies that this caller may read: of his tasks, of a study that concerns him, or uploaded by himself. Raises NotFound."""
    registry = coordinator.registry
    if asker.role == SITE:
        found = coordinator.queue.inputs_of(asker.subject).get(sha256)
        concerned = (offer for offer in registry.studies.values() if asker.subject in offer.package.roster)
    else:
        concerned = (offer for offer in registry.studies.values() if may(coordinator, asker, Action.SEE_STUDY, offer))
        models = await coordinator.database.read(studies_of_model, sha256)
        mine = [digest for digest in models if may(coordinator, asker, Action.FOLLOW_STUDY, registry.study(digest))]
        found = mine[0] if mine else None
    if found is None:
        found = next((offer.digest for offer in concerned if any(ref.sha256 == sha256 for ref in offer.blobs)), None)
    if found is not None:
        return coordinator.storage.of(found)
    if await coordinator.database.read(has_uploaded, sha256, owner_of(asker)):
        return coordinator.storage.staging
    raise NotFound("There is no such blob for you.")
